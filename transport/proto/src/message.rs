//! Control messages: what the two ends say to each other beside the batches.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::delta::{SIGNED_LEN_MAX, Signing};
use farshore_core::digest::{BUCKETS, Child, DirectoryDigest, RootDigest};
use farshore_core::entry::{Entry, decode_path};
use farshore_core::limits::FILE_SIZE_MAX;
use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recipe::{ChunkId, FileDigest};
use farshore_core::recovery_point::{Epoch, RecoveryPoint};

/// The version of the protocol this build speaks. 2 adds signatures, bases, runs and patches, batches
/// of several streams, and a source that closes when it has heard that all is sealed; 3 adds the
/// policies in force; 4 adds sessions that stand, targets that dial, marks, and what other hosts saw
/// change. With a peer that speaks less they are left out.
pub const PROTOCOL_VERSION: u16 = 4;

/// The lowest version this build still speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;

/// The version from which on the second level of the delta is spoken.
pub const DELTA_VERSION: u16 = 2;

/// The version from which on a batch may lie on several streams.
pub const STRIPES_VERSION: u16 = 2;

/// The version from which on a source may close the link, with code 0, once it has heard of its seal:
/// it need not say goodbye first.
pub const LEAVE_VERSION: u16 = 2;

/// The version from which on a source says which policies are in force before anything else.
pub const POLICIES_VERSION: u16 = 3;

/// The version from which on a session may go on after its seal, and a target may dial.
pub const STANDING_VERSION: u16 = 4;

/// Longest name of a share in bytes.
pub const SHARE_NAME_MAX: usize = 128;

/// Longest text for people in a message, in bytes.
pub const TEXT_MAX: usize = 1_024;

/// Longest label of a mark in bytes.
pub const LABEL_MAX: usize = 256;

/// Longest name of a host that reports changes, in bytes.
pub const NODE_NAME_MAX: usize = 128;

/// Longest announcement of keys in bytes.
pub const KEYS_LEN_MAX: usize = 4_096;

/// Longest path of a share's folder in bytes.
pub const PATH_MAX: usize = 4_096;

/// Most directories one [`Message::Events`] names.
pub const EVENTS_MAX: usize = 4_096;

/// Most failures one receipt lists; a batch never has more operations.
pub const BATCH_OPS_MAX: usize = 65_536;

/// What one failure takes of a receipt at most beside its path, with one missing chunk and no text.
pub const FAILURE_COST: usize = 40;

/// Most bytes that the paths of a batch have together, each with [`FAILURE_COST`]: one receipt can
/// name them all.
pub const BATCH_NAMES_MAX: usize = 3 << 20;

/// Most missing chunks one receipt lists beyond the first of each failure.
pub const MISSING_CHUNKS_MAX: usize = 8_192;

/// Most kinds of facts not kept that one receipt lists.
const DEGRADED_MAX: usize = 64;

/// What a receipt takes at most beside its failures.
const RECEIPT_REST: usize = DEGRADED_MAX * (TEXT_MAX + 16) + 64;

const _: () = {
    let fixed = BATCH_NAMES_MAX + 32 * MISSING_CHUNKS_MAX + RECEIPT_REST;
    // Room for a word about each of the most failures.
    assert!(fixed + 8 * BATCH_OPS_MAX <= crate::link::CONTROL_MESSAGE_MAX);
    assert!(FAILURE_COST * BATCH_OPS_MAX <= BATCH_NAMES_MAX);
};

/// Most directories one [`Message::Compare`] asks for.
pub const COMPARE_QUERIES_MAX: usize = 1_024;

/// Most children one [`Message::Answer`] carries; further ones follow in the next answer.
pub const ANSWER_CHILDREN_MAX: usize = 4_096;

/// Directories with more children than this are answered by buckets.
pub const WIDE: usize = 4_096;

/// Most children of one bucket: a directory of a hundred million has half of that.
pub const BUCKET_CHILDREN_MAX: usize = 1 << 20;

/// Most ranges one [`Message::Sign`] names.
pub const SIGN_RANGES_MAX: usize = 4_096;

/// Bytes of one answer at most, whatever the lengths of blocks and signatures.
#[allow(clippy::cast_possible_truncation)] // 4 MiB
pub const SIGNATURES_LEN_MAX: usize =
    SIGNED_LEN_MAX as usize / farshore_core::delta::BLOCK_LEN_MIN * 6;

const _: () = assert!(SIGNATURES_LEN_MAX < crate::link::CONTROL_MESSAGE_MAX);

/// Identity of one catalog or tree: random, made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

/// What the target tells of itself when it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version spoken from here on.
    pub version: u16,
    /// The target tree's identity, kept beside the tree.
    pub target: StoreId,
    /// The source this tree was last sealed with, or begun by while it was empty.
    pub sealed_with: Option<StoreId>,
    /// The epoch in force at the target.
    pub epoch: Epoch,
    /// Batches up to this number are applied.
    pub applied_batch: u64,
    /// R of what the target holds now.
    pub root: RootDigest,
    /// Entries it holds, the root not counted.
    pub entries: u64,
    /// Entries that changed at the target behind our back, found by its check.
    pub foreign_changes: u64,
    /// The last recovery point.
    pub recovery_point: Option<RecoveryPoint>,
}

/// Which part of a directory a comparison asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The directory.
    pub directory: RelPath,
    /// One bucket of its names; `None` for all, or the buckets' digests if it is wide.
    pub bucket: Option<u8>,
}

/// What the target holds of a queried directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Children in name order.
    Children {
        /// Whether this ends the answer to the query.
        last: bool,
        /// The children.
        children: Vec<Child>,
    },
    /// One digest a bucket: the directory is wide.
    Buckets(Box<[DirectoryDigest; BUCKETS]>),
}

/// Why one operation of a batch was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// The target lacks the basis: these chunks, or all of the content when none is named. To be
    /// sent again without them.
    Basis(Vec<ChunkId>),
    /// The target's system refused; the text says what and why.
    Refused,
    /// There is no room for it; in a session that stands alone.
    NoSpace {
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
}

/// One operation that was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its path.
    pub path: RelPath,
    /// Why.
    pub kind: FailureKind,
    /// The target's words.
    pub text: String,
}

/// Everything of a batch but its failures is durable at the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// The batch.
    pub batch: u64,
    /// What was not applied.
    pub failures: Vec<Failure>,
    /// Facts the target's mount could not keep (an attribute, an owner), by what it was.
    pub degraded: Vec<(String, u64)>,
}

impl Receipt {
    /// The same in no more bytes than a message has. Every failure stays; texts are cut, and of
    /// missing chunks the first ones stay: the source asks again without them and is told the rest.
    /// Holds for what paths a batch within [`BATCH_NAMES_MAX`] has.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let mut spare = MISSING_CHUNKS_MAX;
        let mut taken = RECEIPT_REST;
        for failure in &mut self.failures {
            taken += failure.path.as_bytes().len() + FAILURE_COST;
            if let FailureKind::Basis(chunks) = &mut failure.kind {
                chunks.truncate(spare + 1);
                let further = chunks.len().saturating_sub(1);
                spare -= further;
                taken += 32 * further;
            }
        }
        self.degraded.truncate(DEGRADED_MAX);
        let room = crate::link::CONTROL_MESSAGE_MAX.saturating_sub(taken);
        let each = room / self.failures.len().max(1);
        for failure in &mut self.failures {
            let len = cut(&failure.text, each).len();
            failure.text.truncate(len);
        }
        self
    }
}

/// What blocks are to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// Comes back with the answer; numbers rise.
    pub id: u64,
    /// Content the target holds.
    pub content: FileDigest,
    /// Lengths of blocks and signatures.
    pub signing: Signing,
    /// Stretches of the content, offset and length in bytes; together at most [`SIGNED_LEN_MAX`].
    pub ranges: Vec<(u64, u64)>,
}

impl Sign {
    /// Bytes of the signatures it asks for.
    #[must_use]
    pub fn answer_len(&self) -> u64 {
        self.ranges.iter().map(|&(_, len)| self.signing.signed_len(len)).sum()
    }
}

/// A control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Source: opens the session.
    Hello {
        /// Versions the source speaks, lowest and highest.
        versions: (u16, u16),
        /// The share.
        share: String,
        /// The source catalog's identity.
        source: StoreId,
        /// The epoch the source acts under.
        epoch: Epoch,
        /// Whether the target may skip checking its tree by stat.
        trust_target: bool,
    },
    /// Target: ready.
    Welcome(Welcome),
    /// Target: still checking; so many entries so far.
    Checking(u64),
    /// Target: will not serve this; the connection ends.
    Refused {
        /// A [`crate::close::CloseCode`] as a number.
        code: u32,
        /// For people.
        text: String,
    },
    /// Source: asks for directories whose digests differ.
    Compare(Vec<Query>),
    /// Target: answers the oldest query not yet answered.
    Answer(Answer),
    /// Target: a batch is applied.
    Receipt(Receipt),
    /// Source: all is sent and acknowledged; this is the point the target shall reach.
    Seal(RecoveryPoint),
    /// Target: reached and recorded.
    Sealed(RecoveryPoint),
    /// Target: its root differs from what the source expects; nothing is recorded.
    SealMismatch(RootDigest),
    /// Either: the session is over.
    Goodbye,
    /// Source, since version 2: asks for signatures of blocks of content the target holds.
    Sign(Sign),
    /// Target, since version 2: answers the oldest [`Message::Sign`] not yet answered.
    Signatures {
        /// The request's number.
        id: u64,
        /// The signatures of each range's whole blocks, range by range; nothing when the content is
        /// not there as it was.
        bytes: Vec<u8>,
    },
    /// Source, since version 3, first after the welcome: the policies that decide about this cut; since
    /// version 4 also between two cuts, when they change.
    Policies(PolicySet),
    /// Source, since version 4, behind the policies: further cuts follow each seal, until one end leaves.
    Standing,
    /// Source, since version 4, behind a seal: the recovery point of that number has this label.
    Mark {
        /// The point's sequence.
        sequence: u64,
        /// For people, and for tools that align the point with something else.
        label: String,
    },
    /// Target that dialed, since version 4, first of all: it stands ready for a source of this share.
    Offer {
        /// Versions the target speaks, lowest and highest.
        versions: (u16, u16),
        /// The share.
        share: String,
    },
    /// Target, since version 4, in a session that stands: so many entries were found to be other than
    /// they were applied, and are no longer held as such. The two ends are to be compared.
    Foreign(u64),
    /// A host that sees the same tree, since version 4, first of all: it reports what it sees change.
    Report {
        /// Versions it speaks, lowest and highest.
        versions: (u16, u16),
        /// The share.
        share: String,
        /// The host's name.
        node: String,
    },
    /// That host: directories in which something changed.
    Events(Events),
    /// Source: asks that host for all that was changed before it hears this; the host's answer, with the
    /// same number, behind those events.
    Sync(u64),
    /// Source: events up to this number are durable at the source.
    Heard(u64),
    /// Either, since version 4, in a session that stands and over the link of a host that reports: what this
    /// end says of its keys, at most [`KEYS_LEN_MAX`] bytes. The source says it, the target answers with its
    /// own.
    Keys(Vec<u8>),
    /// Either, since version 4, in a session that stands: that it is there. The source says it between two
    /// cuts, the target answers each with its own.
    Beat(Beat),
}

/// What an end says of itself again and again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// What its clock shows.
    pub time_unix_ms: i64,
    /// Of the beat that this one answers, its time.
    pub answers_unix_ms: Option<i64>,
    /// Where it has the share, at most [`PATH_MAX`] bytes.
    pub path: Vec<u8>,
    /// Bytes that are free there.
    pub free_bytes: Option<u64>,
    /// What it knows to have changed and not to be sealed.
    pub unsealed: Option<Unsealed>,
}

/// Changes that are known and not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsealed {
    /// How many.
    pub files: u64,
    /// Their content, where it is known.
    pub bytes: Option<u64>,
    /// Whether there are no more; none: nobody knows.
    pub is_all: Option<bool>,
}

/// What a host saw change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Numbers rise, from 1 on.
    pub number: u64,
    /// Why not all of what changed before is known, if so.
    pub lost: Option<String>,
    /// Directories, and whether all below them is meant; at most [`EVENTS_MAX`].
    pub parts: Vec<(RelPath, bool)>,
}

impl Message {
    /// A short name for errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Welcome(_) => "welcome",
            Self::Checking(_) => "checking",
            Self::Refused { .. } => "refused",
            Self::Compare(_) => "compare",
            Self::Answer(_) => "answer",
            Self::Receipt(_) => "receipt",
            Self::Seal(_) => "seal",
            Self::Sealed(_) => "sealed",
            Self::SealMismatch(_) => "seal mismatch",
            Self::Goodbye => "goodbye",
            Self::Sign(_) => "sign",
            Self::Signatures { .. } => "signatures",
            Self::Policies(_) => "policies",
            Self::Standing => "standing",
            Self::Mark { .. } => "mark",
            Self::Offer { .. } => "offer",
            Self::Foreign(_) => "foreign",
            Self::Report { .. } => "report",
            Self::Events(_) => "events",
            Self::Sync(_) => "sync",
            Self::Heard(_) => "heard",
            Self::Keys(_) => "keys",
            Self::Beat(_) => "beat",
        }
    }

    /// The encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        match self {
            Self::Hello { versions, share, source, epoch, trust_target } => {
                e.put_u8(1);
                put_versions(*versions, &mut e);
                e.put_bytes(share.as_bytes());
                e.put_raw(&source.0);
                e.put_u64(epoch.0);
                e.put_u8(u8::from(*trust_target));
            }
            Self::Welcome(w) => {
                e.put_u8(2);
                encode_welcome(w, &mut e);
            }
            Self::Checking(entries) => {
                e.put_u8(3);
                e.put_u64(*entries);
            }
            Self::Refused { code, text } => {
                e.put_u8(4);
                e.put_u64(u64::from(*code));
                put_text(text, &mut e);
            }
            Self::Compare(queries) => {
                e.put_u8(5);
                e.put_u64(queries.len() as u64);
                for q in queries {
                    e.put_bytes(q.directory.as_bytes());
                    match q.bucket {
                        None => e.put_u8(0),
                        Some(b) => {
                            e.put_u8(1);
                            e.put_u8(b);
                        }
                    }
                }
            }
            Self::Answer(answer) => {
                e.put_u8(6);
                encode_answer(answer, &mut e);
            }
            Self::Receipt(receipt) => {
                e.put_u8(7);
                encode_receipt(receipt, &mut e);
            }
            Self::Seal(point) => {
                e.put_u8(8);
                point.encode(&mut e);
            }
            Self::Sealed(point) => {
                e.put_u8(9);
                point.encode(&mut e);
            }
            Self::SealMismatch(root) => {
                e.put_u8(10);
                e.put_raw(&root.0);
            }
            Self::Goodbye => e.put_u8(11),
            Self::Sign(sign) => {
                e.put_u8(12);
                encode_sign(sign, &mut e);
            }
            Self::Signatures { id, bytes } => {
                e.put_u8(13);
                e.put_u64(*id);
                e.put_bytes(bytes);
            }
            Self::Policies(set) => {
                e.put_u8(14);
                set.encode(&mut e);
            }
            Self::Standing => e.put_u8(15),
            Self::Mark { sequence, label } => {
                e.put_u8(16);
                e.put_u64(*sequence);
                e.put_bytes(label.as_bytes());
            }
            Self::Offer { versions, share } => {
                e.put_u8(17);
                put_versions(*versions, &mut e);
                e.put_bytes(share.as_bytes());
            }
            Self::Foreign(entries) => {
                e.put_u8(18);
                e.put_u64(*entries);
            }
            Self::Report { versions, share, node } => {
                e.put_u8(19);
                put_versions(*versions, &mut e);
                e.put_bytes(share.as_bytes());
                e.put_bytes(node.as_bytes());
            }
            Self::Events(events) => {
                e.put_u8(20);
                encode_events(events, &mut e);
            }
            Self::Sync(number) => {
                e.put_u8(21);
                e.put_u64(*number);
            }
            Self::Heard(number) => {
                e.put_u8(22);
                e.put_u64(*number);
            }
            Self::Keys(said) => {
                e.put_u8(23);
                e.put_bytes(said);
            }
            Self::Beat(beat) => {
                e.put_u8(24);
                encode_beat(beat, &mut e);
            }
        }
        e.finish()
    }

    /// The message that `bytes` are.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let message = match d.take_u8("message")? {
            1 => Self::Hello {
                versions: take_versions(&mut d)?,
                share: d.take_text("share name", SHARE_NAME_MAX)?,
                source: StoreId(d.take_array("source id")?),
                epoch: Epoch(d.take_u64("epoch")?),
                trust_target: take_bool(&mut d)?,
            },
            2 => Self::Welcome(decode_welcome(&mut d)?),
            3 => Self::Checking(d.take_u64("entries checked")?),
            4 => Self::Refused {
                code: d.take_u32("close code")?,
                text: d.take_text("refusal", TEXT_MAX)?,
            },
            5 => Self::Compare(decode_queries(&mut d)?),
            6 => Self::Answer(decode_answer(&mut d)?),
            7 => Self::Receipt(decode_receipt(&mut d)?),
            8 => Self::Seal(RecoveryPoint::decode(&mut d)?),
            9 => Self::Sealed(RecoveryPoint::decode(&mut d)?),
            10 => Self::SealMismatch(RootDigest(d.take_array("root digest")?)),
            11 => Self::Goodbye,
            12 => Self::Sign(decode_sign(&mut d)?),
            13 => Self::Signatures {
                id: d.take_u64("signatures")?,
                bytes: d.take_bytes("signatures", SIGNATURES_LEN_MAX)?.into(),
            },
            14 => Self::Policies(PolicySet::decode(&mut d)?),
            15 => Self::Standing,
            16 => Self::Mark {
                sequence: d.take_u64("marked point")?,
                label: d.take_text("label", LABEL_MAX)?,
            },
            17 => Self::Offer {
                versions: take_versions(&mut d)?,
                share: d.take_text("share name", SHARE_NAME_MAX)?,
            },
            18 => Self::Foreign(d.take_u64("foreign entries")?),
            19 => Self::Report {
                versions: take_versions(&mut d)?,
                share: d.take_text("share name", SHARE_NAME_MAX)?,
                node: d.take_text("host name", NODE_NAME_MAX)?,
            },
            20 => Self::Events(decode_events(&mut d)?),
            21 => Self::Sync(d.take_u64("sync")?),
            22 => Self::Heard(d.take_u64("heard")?),
            23 => Self::Keys(d.take_bytes("keys", KEYS_LEN_MAX)?.into()),
            24 => Self::Beat(decode_beat(&mut d)?),
            other => return Err(DecodeError::Invalid { what: "message", found: u64::from(other) }),
        };
        d.finish("message")?;
        Ok(message)
    }
}

/// Offsets count from the end of the range before.
#[allow(clippy::cast_possible_wrap)] // offsets of files are below 2^63
fn encode_sign(sign: &Sign, e: &mut Encoder) {
    e.put_u64(sign.id);
    e.put_raw(&sign.content.0);
    e.put_u64(sign.signing.block_len() as u64);
    e.put_u64(sign.signing.signature_len() as u64);
    e.put_u64(sign.ranges.len() as u64);
    let mut cursor = 0u64;
    for &(offset, len) in &sign.ranges {
        e.put_i64((offset as i64).wrapping_sub(cursor as i64));
        e.put_u64(len);
        cursor = offset.saturating_add(len);
    }
}

fn decode_sign(d: &mut Decoder<'_>) -> Result<Sign, DecodeError> {
    let id = d.take_u64("sign")?;
    let content = FileDigest(d.take_array("signed content")?);
    let block_len = d.take_u64("block length")?;
    let signature_len = d.take_len("signature length", 8)?;
    let signing = usize::try_from(block_len).ok().and_then(|b| Signing::new(b, signature_len));
    let signing = signing
        .ok_or(DecodeError::Invalid { what: "block or signature length", found: block_len })?;
    let count = d.take_len("signed ranges", SIGN_RANGES_MAX)?;
    let mut ranges = Vec::new();
    let (mut cursor, mut left) = (0u64, SIGNED_LEN_MAX);
    for _ in 0..count {
        let moved = d.take_i64("signed range")?;
        let offset = cursor.checked_add_signed(moved).filter(|&o| o <= FILE_SIZE_MAX);
        let offset = offset.ok_or(DecodeError::Invalid { what: "signed range", found: cursor })?;
        let len = d.take_bounded("signed bytes", left)?;
        left -= len;
        cursor = offset + len;
        ranges.push((offset, len));
    }
    Ok(Sign { id, content, signing, ranges })
}

/// The beginning of `text`, at most so many bytes.
fn cut(text: &str, len_max: usize) -> &str {
    let mut end = text.len().min(len_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn put_text(text: &str, e: &mut Encoder) {
    e.put_bytes(cut(text, TEXT_MAX).as_bytes());
}

fn put_versions(versions: (u16, u16), e: &mut Encoder) {
    e.put_u64(u64::from(versions.0));
    e.put_u64(u64::from(versions.1));
}

fn take_versions(d: &mut Decoder<'_>) -> Result<(u16, u16), DecodeError> {
    Ok((take_u16(d)?, take_u16(d)?))
}

fn encode_beat(beat: &Beat, e: &mut Encoder) {
    let put_u64 = |value: Option<u64>, e: &mut Encoder| {
        e.put_u8(u8::from(value.is_some()));
        value.into_iter().for_each(|value| e.put_u64(value));
    };
    e.put_i64(beat.time_unix_ms);
    e.put_u8(u8::from(beat.answers_unix_ms.is_some()));
    beat.answers_unix_ms.into_iter().for_each(|time| e.put_i64(time));
    e.put_bytes(&beat.path);
    put_u64(beat.free_bytes, e);
    e.put_u8(u8::from(beat.unsealed.is_some()));
    if let Some(Unsealed { files, bytes, is_all }) = beat.unsealed {
        e.put_u64(files);
        put_u64(bytes, e);
        e.put_u8(is_all.map_or(2, u8::from));
    }
}

fn decode_beat(d: &mut Decoder<'_>) -> Result<Beat, DecodeError> {
    let take_u64 = |d: &mut Decoder<'_>| match take_bool(d)? {
        true => Ok::<_, DecodeError>(Some(d.take_u64("bytes")?)),
        false => Ok(None),
    };
    let time_unix_ms = d.take_i64("time of a beat")?;
    let answers = take_bool(d)?;
    let answers_unix_ms = answers.then(|| d.take_i64("time answered")).transpose()?;
    let path = d.take_bytes("path of the share", PATH_MAX)?.into();
    let free_bytes = take_u64(d)?;
    let unsealed = match take_bool(d)? {
        true => Some(Unsealed {
            files: d.take_u64("changes")?,
            bytes: take_u64(d)?,
            is_all: match d.take_u8("bound")? {
                0 => Some(false),
                1 => Some(true),
                2 => None,
                found => {
                    let found = u64::from(found);
                    return Err(DecodeError::Invalid { what: "bound", found });
                }
            },
        }),
        false => None,
    };
    Ok(Beat { time_unix_ms, answers_unix_ms, path, free_bytes, unsealed })
}

fn encode_events(events: &Events, e: &mut Encoder) {
    e.put_u64(events.number);
    e.put_u8(u8::from(events.lost.is_some()));
    if let Some(why) = &events.lost {
        put_text(why, e);
    }
    e.put_u64(events.parts.len() as u64);
    for (directory, deep) in &events.parts {
        e.put_bytes(directory.as_bytes());
        e.put_u8(u8::from(*deep));
    }
}

fn decode_events(d: &mut Decoder<'_>) -> Result<Events, DecodeError> {
    let number = d.take_u64("events")?;
    let lost = take_bool(d)?.then(|| d.take_text("why events are lost", TEXT_MAX)).transpose()?;
    let count = d.take_len("changed directories", EVENTS_MAX)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push((decode_path(d, "changed directory")?, take_bool(d)?));
    }
    Ok(Events { number, lost, parts })
}

fn take_u16(d: &mut Decoder<'_>) -> Result<u16, DecodeError> {
    let found = d.take_u64("version")?;
    u16::try_from(found).map_err(|_| DecodeError::Invalid { what: "version", found })
}

fn take_bool(d: &mut Decoder<'_>) -> Result<bool, DecodeError> {
    match d.take_u8("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Invalid { what: "flag", found: u64::from(other) }),
    }
}

fn encode_welcome(w: &Welcome, e: &mut Encoder) {
    e.put_u64(u64::from(w.version));
    e.put_raw(&w.target.0);
    e.put_u8(u8::from(w.sealed_with.is_some()));
    if let Some(id) = w.sealed_with {
        e.put_raw(&id.0);
    }
    e.put_u64(w.epoch.0);
    e.put_u64(w.applied_batch);
    e.put_raw(&w.root.0);
    e.put_u64(w.entries);
    e.put_u64(w.foreign_changes);
    e.put_u8(u8::from(w.recovery_point.is_some()));
    if let Some(point) = w.recovery_point {
        point.encode(e);
    }
}

fn decode_welcome(d: &mut Decoder<'_>) -> Result<Welcome, DecodeError> {
    Ok(Welcome {
        version: take_u16(d)?,
        target: StoreId(d.take_array("target id")?),
        sealed_with: take_bool(d)?.then(|| d.take_array("source id").map(StoreId)).transpose()?,
        epoch: Epoch(d.take_u64("epoch")?),
        applied_batch: d.take_u64("applied batch")?,
        root: RootDigest(d.take_array("root digest")?),
        entries: d.take_u64("entries")?,
        foreign_changes: d.take_u64("foreign changes")?,
        recovery_point: take_bool(d)?.then(|| RecoveryPoint::decode(d)).transpose()?,
    })
}

fn decode_queries(d: &mut Decoder<'_>) -> Result<Vec<Query>, DecodeError> {
    let count = d.take_len("queries", COMPARE_QUERIES_MAX)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        let directory = decode_path(d, "queried directory")?;
        let bucket = take_bool(d)?.then(|| d.take_u8("bucket")).transpose()?;
        queries.push(Query { directory, bucket });
    }
    Ok(queries)
}

fn encode_answer(answer: &Answer, e: &mut Encoder) {
    match answer {
        Answer::Children { last, children } => {
            e.put_u8(0);
            e.put_u8(u8::from(*last));
            e.put_u64(children.len() as u64);
            for child in children {
                e.put_bytes(child.path.as_bytes());
                child.entry.encode(e);
                e.put_u8(u8::from(child.below.is_some()));
                if let Some(below) = child.below {
                    e.put_raw(&below.0);
                }
            }
        }
        Answer::Buckets(buckets) => {
            e.put_u8(1);
            buckets.iter().for_each(|b| e.put_raw(&b.0));
        }
    }
}

fn decode_answer(d: &mut Decoder<'_>) -> Result<Answer, DecodeError> {
    if take_bool(d)? {
        let mut buckets = Box::new([DirectoryDigest([0; 32]); BUCKETS]);
        for bucket in buckets.iter_mut() {
            *bucket = DirectoryDigest(d.take_array("bucket digest")?);
        }
        return Ok(Answer::Buckets(buckets));
    }
    let last = take_bool(d)?;
    let count = d.take_len("children", ANSWER_CHILDREN_MAX)?;
    let mut children = Vec::new();
    for _ in 0..count {
        children.push(Child {
            path: decode_path(d, "child")?,
            entry: Entry::decode(d)?,
            below: take_bool(d)?
                .then(|| d.take_array("directory digest").map(DirectoryDigest))
                .transpose()?,
        });
    }
    Ok(Answer::Children { last, children })
}

fn encode_receipt(receipt: &Receipt, e: &mut Encoder) {
    e.put_u64(receipt.batch);
    e.put_u64(receipt.failures.len() as u64);
    for failure in &receipt.failures {
        e.put_bytes(failure.path.as_bytes());
        match &failure.kind {
            FailureKind::Refused => e.put_u8(0),
            FailureKind::Basis(chunks) => {
                e.put_u8(1);
                e.put_u64(chunks.len() as u64);
                chunks.iter().for_each(|c| e.put_raw(&c.0));
            }
            FailureKind::NoSpace { needed, free } => {
                e.put_u8(2);
                e.put_u64(*needed);
                e.put_u64(*free);
            }
        }
        put_text(&failure.text, e);
    }
    e.put_u64(receipt.degraded.len() as u64);
    for (what, count) in &receipt.degraded {
        put_text(what, e);
        e.put_u64(*count);
    }
}

fn decode_receipt(d: &mut Decoder<'_>) -> Result<Receipt, DecodeError> {
    let batch = d.take_u64("receipt batch")?;
    let count = d.take_len("failures", BATCH_OPS_MAX)?;
    let mut failures = Vec::new();
    for _ in 0..count {
        let path = decode_path(d, "failed path")?;
        let kind = match d.take_u8("failure kind")? {
            0 => FailureKind::Refused,
            1 => {
                let chunks = d.take_len("missing chunks", BATCH_OPS_MAX)?;
                let mut missing = Vec::new();
                for _ in 0..chunks {
                    missing.push(ChunkId(d.take_array("chunk id")?));
                }
                FailureKind::Basis(missing)
            }
            2 => FailureKind::NoSpace {
                needed: d.take_u64("bytes needed")?,
                free: d.take_u64("bytes free")?,
            },
            found => {
                let found = u64::from(found);
                return Err(DecodeError::Invalid { what: "failure kind", found });
            }
        };
        failures.push(Failure { path, kind, text: d.take_text("failure", TEXT_MAX)? });
    }
    let count = d.take_len("degraded kinds", DEGRADED_MAX)?;
    let mut degraded = Vec::new();
    for _ in 0..count {
        degraded.push((d.take_text("degraded", TEXT_MAX)?, d.take_u64("degraded count")?));
    }
    Ok(Receipt { batch, failures, degraded })
}

#[cfg(test)]
mod tests;
