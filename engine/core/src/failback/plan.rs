//! The plan of a failback: a file to read, to change and to apply.
//!
//! ```text
//! "fsfbpln1"  { length u32 LE, record }*  0u32  count u64 LE  BLAKE3 of all before it
//! first record:  revision, header          further: 1, divergence     last: 2, summary
//! ```
//! The counts stand last, since they are known last; whoever shows or applies a plan reads all of it first
//! ([`PlanReader::check`]), because a plan that was cut short or changed is refused at its end.
//!
//! Guarantees: bounded decoding without panics; divergences in path order; a plan keeps its [`PlanId`], the
//! digest of its header and so of both lists of changes, however often outcomes are changed, and gets a new
//! revision each time. Memory holds one divergence.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};

use super::frames::{FrameReader, FrameWriter};
use super::list::{ListDigest, ListError};
use super::{Class, Divergence, outcome_name};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::digest::RootDigest;
use crate::path::RelPath;
use crate::recovery_point::Epoch;

mod edit;
mod filter;

pub use edit::{Edit, EditError, Edited, Refused, edit};
pub use filter::{Filter, glob_matches};

const MAGIC: &[u8; 8] = b"fsfbpln1";

/// Bytes of one record, at most: three entries with all their attributes, a merge's pieces and literals.
const RECORD_MAX: usize = 8 << 20;

/// Bytes of a share's name, and of a resolver's, at most.
const NAME_MAX: usize = 256;

/// Policies that answer conflicts, at most.
const RESOLVERS_MAX: usize = 64;

/// The last common recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasePoint {
    /// Its number.
    pub sequence: u64,
    /// Its root digest.
    pub root: RootDigest,
    /// The batch that completed it.
    pub batch: u64,
    /// When it was, in milliseconds since 1970-01-01 UTC.
    pub time_unix_ms: i64,
}

/// What a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The pair of sites.
    pub pair: [u8; 16],
    /// The site called production.
    pub production: [u8; 16],
    /// The site called recovery.
    pub recovery: [u8; 16],
    /// The share.
    pub share: String,
    /// Under which it was made.
    pub epoch: Epoch,
    /// What both lists were made against; `None` when it is lost.
    pub base: Option<BasePoint>,
    /// Digests of the policies in force at production and at recovery.
    pub policies: [[u8; 32]; 2],
    /// The policies that answered conflicts, by their place in the chain.
    pub resolvers: Vec<String>,
    /// When it was made, in milliseconds since 1970-01-01 UTC.
    pub made_unix_ms: i64,
    /// The lists of production and of recovery.
    pub lists: [ListDigest; 2],
}

/// Which plan: the digest of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanId(pub [u8; 16]);

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::recipe::hex(&self.0, f)
    }
}

impl PlanId {
    /// Its first eight digits: the name of its folders.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl Header {
    /// Which plan this is the header of.
    #[must_use]
    pub fn id(&self) -> PlanId {
        let mut e = Encoder::new();
        self.encode(&mut e);
        let digest = blake3::hash(e.as_slice());
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
        PlanId(id)
    }

    fn encode(&self, e: &mut Encoder) {
        for id in [&self.pair, &self.production, &self.recovery] {
            e.put_raw(id);
        }
        e.put_bytes(self.share.as_bytes());
        e.put_u64(self.epoch.0);
        e.put_u8(u8::from(self.base.is_some()));
        if let Some(base) = &self.base {
            e.put_u64(base.sequence);
            e.put_raw(&base.root.0);
            e.put_u64(base.batch);
            e.put_i64(base.time_unix_ms);
        }
        for digest in &self.policies {
            e.put_raw(digest);
        }
        e.put_u64(self.resolvers.len() as u64);
        for name in &self.resolvers {
            e.put_bytes(name.as_bytes());
        }
        e.put_i64(self.made_unix_ms);
        for list in &self.lists {
            e.put_raw(&list.0);
        }
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let [pair, production, recovery] =
            [d.take_array("pair")?, d.take_array("production")?, d.take_array("recovery")?];
        let share = d.take_text("share", NAME_MAX)?;
        let epoch = Epoch(d.take_u64("epoch")?);
        let base = match d.take_u8("base")? {
            0 => None,
            1 => Some(BasePoint {
                sequence: d.take_u64("base sequence")?,
                root: RootDigest(d.take_array("base root")?),
                batch: d.take_u64("base batch")?,
                time_unix_ms: d.take_i64("base time")?,
            }),
            other => {
                return Err(DecodeError::Invalid { what: "base", found: u64::from(other) });
            }
        };
        let policies = [d.take_array("policies")?, d.take_array("policies")?];
        let count = d.take_len("resolvers", RESOLVERS_MAX)?;
        let resolvers =
            (0..count).map(|_| d.take_text("resolver", NAME_MAX)).collect::<Result<_, _>>()?;
        let made_unix_ms = d.take_i64("time of the plan")?;
        let lists = [ListDigest(d.take_array("list")?), ListDigest(d.take_array("list")?)];
        Ok(Self {
            pair,
            production,
            recovery,
            share,
            epoch,
            base,
            policies,
            resolvers,
            made_unix_ms,
            lists,
        })
    }
}

/// How many, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Paths.
    pub paths: u64,
    /// Bytes of the largest version of each.
    pub bytes: u64,
}

/// Counts of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// By class and outcome's name.
    pub counts: BTreeMap<(Class, &'static str), Count>,
    /// Bytes to carry from production to recovery.
    pub needs: u64,
}

impl Summary {
    /// Counts one more.
    pub fn add(&mut self, divergence: &Divergence) {
        let count =
            self.counts.entry((divergence.class, outcome_name(&divergence.outcome))).or_default();
        count.paths += 1;
        count.bytes = count.bytes.saturating_add(divergence.size());
        self.needs = self.needs.saturating_add(divergence.needs);
    }

    /// Paths in all.
    #[must_use]
    pub fn paths(&self) -> u64 {
        self.counts.values().map(|count| count.paths).sum()
    }

    /// Paths with an outcome of that name.
    #[must_use]
    pub fn with_outcome(&self, name: &str) -> u64 {
        self.counts.iter().filter(|((_, n), _)| *n == name).map(|(_, count)| count.paths).sum()
    }

    /// Paths that wait for a person.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.with_outcome("hold")
    }

    /// Paths that both sites changed and do not agree on.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.counts.iter().filter(|((c, _), _)| c.is_conflict()).map(|(_, count)| count.paths).sum()
    }

    fn encode(&self, e: &mut Encoder) {
        e.put_u64(self.needs);
        e.put_u64(self.counts.len() as u64);
        for ((class, outcome), count) in &self.counts {
            e.put_u8(*class as u8);
            e.put_bytes(outcome.as_bytes());
            e.put_u64(count.paths);
            e.put_u64(count.bytes);
        }
    }
}

/// Writes a plan.
#[derive(Debug)]
pub struct PlanWriter<W> {
    frames: FrameWriter<W>,
    summary: Summary,
}

impl<W: Write> PlanWriter<W> {
    /// Begins a plan.
    ///
    /// # Errors
    /// The writer's own; [`std::io::ErrorKind::InvalidInput`] for names that no plan can hold.
    pub fn new(out: W, header: &Header, revision: u32) -> std::io::Result<Self> {
        let is_long = |name: &String| name.len() > NAME_MAX;
        if is_long(&header.share)
            || header.resolvers.len() > RESOLVERS_MAX
            || header.resolvers.iter().any(is_long)
        {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let mut frames = FrameWriter::new(out, MAGIC)?;
        let mut e = Encoder::new();
        e.put_u64(u64::from(revision));
        header.encode(&mut e);
        frames.push(e.as_slice())?;
        Ok(Self { frames, summary: Summary::default() })
    }

    /// Appends a divergence; they come in path order.
    ///
    /// # Errors
    /// The writer's own.
    pub fn push(&mut self, divergence: &Divergence) -> std::io::Result<()> {
        self.summary.add(divergence);
        let mut e = Encoder::new();
        e.put_u8(1);
        divergence.encode(&mut e);
        self.frames.push(e.as_slice())
    }

    /// Ends the plan. The bytes are written, not synced.
    ///
    /// # Errors
    /// The writer's own.
    pub fn finish(mut self) -> std::io::Result<(W, Summary)> {
        let mut e = Encoder::new();
        e.put_u8(2);
        self.summary.encode(&mut e);
        self.frames.push(e.as_slice())?;
        let (out, _) = self.frames.finish()?;
        Ok((out, self.summary))
    }
}

/// Reads a plan; after an error nothing more comes.
#[derive(Debug)]
pub struct PlanReader<R> {
    frames: FrameReader<R>,
    header: Header,
    revision: u32,
    last: Option<RelPath>,
    /// What was read so far; the whole behind the last divergence.
    summary: Summary,
    is_over: bool,
}

impl<R: Read> PlanReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn new(source: R) -> Result<Self, ListError> {
        let mut frames = FrameReader::new(source, MAGIC, "failback plan", RECORD_MAX)?;
        let first = frames.next_frame()?.ok_or(DecodeError::Truncated { what: "header" })?;
        let mut d = Decoder::new(first);
        let revision = d.take_u32("revision")?;
        let header = Header::decode(&mut d)?;
        d.finish("header")?;
        let summary = Summary::default();
        Ok(Self { frames, header, revision, last: None, summary, is_over: false })
    }

    /// What it was made from.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How often outcomes were changed.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// The counts of what was read so far: of the whole behind the last divergence.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Reads to the end: the header, the revision and the counts of a plan that is whole.
    ///
    /// # Errors
    /// [`ListError`]: nothing may be done by such a plan.
    pub fn check(mut self) -> Result<(Header, u32, Summary), ListError> {
        while self.next_divergence()?.is_some() {}
        Ok((self.header, self.revision, self.summary))
    }

    fn next_divergence(&mut self) -> Result<Option<Divergence>, ListError> {
        let frame = self.frames.next_frame()?.ok_or(DecodeError::Truncated { what: "summary" })?;
        let mut d = Decoder::new(frame);
        match d.take_u8("record")? {
            1 => {}
            2 => {
                let mut e = Encoder::new();
                self.summary.encode(&mut e);
                if frame.get(1..) != Some(e.as_slice()) {
                    return Err(DecodeError::BadChecksum { what: "summary" }.into());
                }
                self.is_over = true;
                return match self.frames.next_frame()? {
                    None => Ok(None),
                    Some(_) => Err(DecodeError::TrailingBytes { what: "plan", found: 1 }.into()),
                };
            }
            other => {
                return Err(DecodeError::Invalid { what: "record", found: u64::from(other) }.into());
            }
        }
        let divergence = Divergence::decode(&mut d)?;
        d.finish("divergence")?;
        if self.last.as_ref().is_some_and(|last| *last >= divergence.path) {
            return Err(ListError::Order(divergence.path));
        }
        self.last = Some(divergence.path.clone());
        self.summary.add(&divergence);
        Ok(Some(divergence))
    }
}

impl<R: Read> Iterator for PlanReader<R> {
    type Item = Result<Divergence, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.next_divergence().transpose();
        self.is_over |= !matches!(next, Some(Ok(_)));
        next
    }
}
