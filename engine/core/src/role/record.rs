//! What a site keeps of its role in one share: the record of the state folder and the marker in the
//! tree's own folder.
//!
//! Guarantees: [`Record::decode`] gives back what was encoded or a [`DecodeError`], never a record of
//! other bytes: a BLAKE3 checksum covers all of it. The turn rises with every change of role and is
//! never set back, so of two records of one site the one with the higher [`Stamp`] is the later.
//! A record that was once found to be an old copy says so ([`Record::forgot`]) until a point is sealed anew.
//! Refuses: other versions, lengths beyond its few fixed ones, trailing bytes.

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::digest::RootDigest;
use crate::recovery_point::Epoch;

const MAGIC: &[u8; 4] = b"FSRL";
const MARKER_MAGIC: &[u8; 4] = b"FSRM";
const VERSION: u8 = 1;
/// Of a record that is [`Record::forgot`]: an earlier build takes it for damaged, and strands.
const VERSION_FORGOT: u8 = 2;
/// Of one that is [`Record::put_back`] as well.
const VERSION_PUT_BACK: u8 = 3;
/// Longest record, all of it fixed fields.
pub const RECORD_LEN_MAX: usize = 512;
const CHECKSUM_LEN: usize = 32;
/// Highest epoch or turn that is read: one more is always a number still.
const COUNT_MAX: u64 = 1 << 62;

/// Which site: the digest of its key, or whatever else both ends know it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SiteId(pub [u8; 32]);

/// Which failback plan: the digest of the plan's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PlanId(pub [u8; 32]);

/// How far a site's record is. Rises with everything the site makes durable about its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// The epoch.
    pub epoch: Epoch,
    /// The turn, counted over all epochs.
    pub turn: u64,
}

/// A recovery point as roles speak of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its number at the share.
    pub sequence: u64,
    /// The batch that sealed it.
    pub batch: u64,
    /// R.
    pub root: RootDigest,
    /// When the scan of it began, in milliseconds since 1970-01-01 UTC by its source's clock.
    pub time_unix_ms: i64,
}

impl Point {
    /// Whether both name the same content; times and batches are each site's own.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.sequence == other.sequence && self.root == other.root
    }
}

/// What is known of the services that write to the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Services {
    /// The start hook said so last.
    Started,
    /// The stop hook said so last.
    Stopped,
    /// A hook was begun and did not report, or reported a failure.
    Unknown,
}

/// Why a site is stranded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strand {
    /// A higher epoch was heard of, which the peer acted in.
    Overtaken,
    /// The marker in the tree is ahead of the record: the record is an old copy.
    MarkerAhead,
    /// There is a marker and no readable record.
    StateLost,
    /// The peer heard more of this site than it knows itself: the record is an old copy.
    PeerAhead,
}

/// Where a site stands. Drawn in [`crate::role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Receives. Gate closed.
    Standby,
    /// Accepts writes and sends.
    Active,
    /// Gate closed, the last cut is on its way. Can be aborted.
    Draining,
    /// Gave the epoch away, whose content is `point`. Gate closed for good.
    Handed {
        /// What the peer must have to take it.
        point: Point,
    },
    /// Took the epoch. Gate open; the start hook is owed.
    Opening {
        /// What was taken.
        point: Point,
    },
    /// Active without the peer's consent; sends nothing until the peer is reconciled.
    Alone,
    /// Gate closed, sends nothing, applies nothing until a plan was applied.
    Stranded {
        /// The last epoch it took part in.
        acted: Epoch,
        /// What happened.
        why: Strand,
    },
    /// A failback plan is being applied.
    Reconciling {
        /// Which.
        plan: PlanId,
        /// Whether this is the site that goes on working meanwhile.
        open: bool,
        /// Whether this site's part is done.
        done: bool,
    },
    /// Both claim one epoch. Gate closed until an operator decides.
    Split,
}

impl Phase {
    /// Whether the site says the epoch is its own.
    #[must_use]
    pub fn claims(&self) -> bool {
        matches!(self, Self::Draining | Self::Split) || self.opens()
    }

    /// Whether the phase lets services write.
    #[must_use]
    pub fn opens(&self) -> bool {
        matches!(
            self,
            Self::Active
                | Self::Opening { .. }
                | Self::Alone
                | Self::Reconciling { open: true, .. }
        )
    }

    /// Whether the site is the lost one, which takes nothing before a plan is carried out.
    #[must_use]
    pub fn awaits_a_plan(&self) -> bool {
        matches!(self, Self::Stranded { .. } | Self::Reconciling { open: false, .. })
    }

    /// Whether it was found out that the record was not the last: nothing it said holds.
    pub(super) fn is_an_old_copy(&self) -> bool {
        matches!(self, Self::Stranded { why, .. } if *why != Strand::Overtaken)
    }

    /// As it is shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Handed { .. } => "handed",
            Self::Opening { .. } => "opening",
            Self::Alone => "alone",
            Self::Stranded { .. } => "stranded",
            Self::Reconciling { .. } => "reconciling",
            Self::Split => "split",
        }
    }
}

/// What one site keeps about one share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The epoch this site is in.
    pub epoch: Epoch,
    /// Rises with every change of role.
    pub turn: u64,
    /// Where it stands.
    pub phase: Phase,
    /// The last point both had, frozen when an epoch was taken without the peer.
    pub base: Option<Point>,
    /// The last epoch that was handed to this site and taken.
    pub took: Epoch,
    /// The peer's highest epoch that was known when this site claimed its own.
    pub over: Epoch,
    /// The failback plan applied last.
    pub plan: Option<PlanId>,
    /// Within this epoch the gate is open only under a lease: set once, never taken back.
    pub bound: bool,
    /// Of the services.
    pub services: Services,
    /// Within which start of the machine.
    pub boot: [u8; 16],
    /// What the marker is to hold: the stamp this site's epoch rose with last.
    pub rising: Stamp,
    /// The highest that was heard of the peer.
    pub peer: Stamp,
    /// The record was found to be an old copy, or lost, and no point was sealed with the peer since: what the
    /// catalog beside it says is as old, and nothing of it is what both sites had last.
    pub forgot: bool,
    /// It is [`Self::forgot`], and so was the tree's own marker, as the peer found out: the tree may be as old, and what
    /// it lacks was not deleted.
    pub put_back: bool,
}

impl Record {
    /// What a site knows that was never part of a share.
    #[must_use]
    pub fn new(services: Services) -> Self {
        Self {
            epoch: Epoch(0),
            turn: 0,
            phase: Phase::Standby,
            base: None,
            took: Epoch(0),
            over: Epoch(0),
            plan: None,
            bound: false,
            services,
            boot: [0; 16],
            rising: Stamp::default(),
            peer: Stamp::default(),
            forgot: false,
            put_back: false,
        }
    }

    /// How far it is.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { epoch: self.epoch, turn: self.turn }
    }

    /// The same in another phase.
    #[must_use]
    pub(super) fn with(&self, phase: Phase) -> Self {
        Self { phase, ..self.clone() }
    }

    /// The same in another phase of another epoch, where no lease binds yet and no plan was applied.
    #[must_use]
    pub(super) fn in_epoch(&self, epoch: Epoch, phase: Phase) -> Self {
        let bound = self.bound && epoch == self.epoch;
        let plan = self.plan.filter(|_| epoch == self.epoch);
        Self { epoch, phase, bound, plan, ..self.clone() }
    }

    /// The same, stranded in `epoch`. Where it last acted is kept, and that the peer found it to be an old copy:
    /// a plan that is given up makes no tree any newer.
    #[must_use]
    pub(super) fn stranded(&self, epoch: Epoch, why: Strand) -> Self {
        let acted = match self.phase {
            Phase::Stranded { acted, .. } => acted,
            _ => self.epoch,
        };
        let why = if self.put_back { Strand::PeerAhead } else { why };
        let mut stranded = self.in_epoch(epoch.max(self.epoch), Phase::Stranded { acted, why });
        if stranded.phase.is_an_old_copy() {
            (stranded.forgot, stranded.base) = (true, None);
        }
        stranded.put_back |= why == Strand::PeerAhead;
        stranded
    }

    /// As bytes, for one small file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_raw(MAGIC);
        e.put_u8(match (self.forgot, self.put_back) {
            (true, true) => VERSION_PUT_BACK,
            (true, false) => VERSION_FORGOT,
            (false, _) => VERSION,
        });
        put_stamp(&mut e, self.stamp());
        put_phase(&mut e, &self.phase);
        put_option(&mut e, self.base.as_ref(), put_point);
        e.put_u64(self.took.0);
        e.put_u64(self.over.0);
        put_option(&mut e, self.plan.as_ref(), |e, p| e.put_raw(&p.0));
        e.put_u8(u8::from(self.bound));
        e.put_u8(match self.services {
            Services::Started => 0,
            Services::Stopped => 1,
            Services::Unknown => 2,
        });
        e.put_raw(&self.boot);
        put_stamp(&mut e, self.rising);
        put_stamp(&mut e, self.peer);
        sealed(e)
    }

    /// The record that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are. Say [`super::Kept::Damaged`] then, not nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (version, mut d) = unsealed(bytes, MAGIC, "role record", VERSION_PUT_BACK)?;
        let stamp = take_stamp(&mut d)?;
        let phase = take_phase(&mut d)?;
        let base = take_option(&mut d, take_point)?;
        let took = take_epoch(&mut d)?;
        let over = take_epoch(&mut d)?;
        let plan = take_option(&mut d, |d| Ok(PlanId(d.take_array("plan")?)))?;
        let bound = take_flag(&mut d, "lease binds")?;
        let services = match d.take_u8("services")? {
            0 => Services::Started,
            1 => Services::Stopped,
            2 => Services::Unknown,
            found => return Err(DecodeError::Invalid { what: "services", found: found.into() }),
        };
        let boot = d.take_array("boot id")?;
        let rising = take_stamp(&mut d)?;
        let peer = take_stamp(&mut d)?;
        d.finish("role record")?;
        Ok(Self {
            epoch: stamp.epoch,
            turn: stamp.turn,
            phase,
            base,
            took,
            over,
            plan,
            bound,
            services,
            boot,
            rising,
            peer,
            // An earlier build that found an old copy said so in the phase alone.
            forgot: version != VERSION || phase.is_an_old_copy(),
            put_back: version == VERSION_PUT_BACK
                || matches!(phase, Phase::Stranded { why: Strand::PeerAhead, .. }),
        })
    }
}

impl Stamp {
    /// As the bytes of the marker file.
    #[must_use]
    pub fn encode_marker(self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_raw(MARKER_MAGIC);
        e.put_u8(VERSION);
        put_stamp(&mut e, self);
        sealed(e)
    }

    /// What [`Self::encode_marker`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode_marker(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (_, mut d) = unsealed(bytes, MARKER_MAGIC, "role marker", VERSION)?;
        let stamp = take_stamp(&mut d)?;
        d.finish("role marker")?;
        Ok(stamp)
    }
}

fn sealed(mut e: Encoder) -> Vec<u8> {
    let sum = *blake3::hash(e.as_slice()).as_bytes();
    e.put_raw(&sum);
    e.finish()
}

fn unsealed<'a>(
    bytes: &'a [u8],
    magic: &[u8; 4],
    what: &'static str,
    newest: u8,
) -> Result<(u8, Decoder<'a>), DecodeError> {
    if bytes.len() > RECORD_LEN_MAX {
        let (found, limit) = (bytes.len() as u64, RECORD_LEN_MAX as u64);
        return Err(DecodeError::LimitExceeded { what, found, limit });
    }
    let body = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(DecodeError::Truncated { what })?;
    let (body, sum) = bytes.split_at_checked(body).ok_or(DecodeError::Truncated { what })?;
    if blake3::hash(body).as_bytes() != sum {
        return Err(DecodeError::BadChecksum { what });
    }
    let mut d = Decoder::new(body);
    let found = d.take_array::<4>(what)?;
    if &found != magic {
        return Err(DecodeError::Invalid { what, found: u32::from_le_bytes(found).into() });
    }
    match d.take_u8(what)? {
        version if (VERSION..=newest).contains(&version) => Ok((version, d)),
        found => Err(DecodeError::Invalid { what, found: found.into() }),
    }
}

pub(super) fn put_option<T>(
    e: &mut Encoder,
    value: Option<&T>,
    put: impl FnOnce(&mut Encoder, &T),
) {
    e.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(e, value);
    }
}

pub(super) fn take_option<T>(
    d: &mut Decoder<'_>,
    take: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    take_flag(d, "presence")?.then(|| take(d)).transpose()
}

pub(super) fn take_flag(d: &mut Decoder<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match d.take_u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(DecodeError::Invalid { what, found: found.into() }),
    }
}

pub(super) fn put_stamp(e: &mut Encoder, stamp: Stamp) {
    e.put_u64(stamp.epoch.0);
    e.put_u64(stamp.turn);
}

pub(super) fn take_epoch(d: &mut Decoder<'_>) -> Result<Epoch, DecodeError> {
    Ok(Epoch(d.take_bounded("epoch", COUNT_MAX)?))
}

pub(super) fn take_stamp(d: &mut Decoder<'_>) -> Result<Stamp, DecodeError> {
    Ok(Stamp { epoch: take_epoch(d)?, turn: d.take_bounded("turn", COUNT_MAX)? })
}

pub(super) fn put_point(e: &mut Encoder, point: &Point) {
    e.put_u64(point.sequence);
    e.put_u64(point.batch);
    e.put_raw(&point.root.0);
    e.put_i64(point.time_unix_ms);
}

pub(super) fn take_point(d: &mut Decoder<'_>) -> Result<Point, DecodeError> {
    Ok(Point {
        sequence: d.take_u64("point sequence")?,
        batch: d.take_u64("point batch")?,
        root: RootDigest(d.take_array("root digest")?),
        time_unix_ms: d.take_i64("point time")?,
    })
}

pub(super) fn put_phase(e: &mut Encoder, phase: &Phase) {
    match phase {
        Phase::Standby => e.put_u8(0),
        Phase::Active => e.put_u8(1),
        Phase::Draining => e.put_u8(2),
        Phase::Handed { point } => {
            e.put_u8(3);
            put_point(e, point);
        }
        Phase::Opening { point } => {
            e.put_u8(4);
            put_point(e, point);
        }
        Phase::Alone => e.put_u8(5),
        Phase::Stranded { acted, why } => {
            e.put_u8(6);
            e.put_u64(acted.0);
            e.put_u8(match why {
                Strand::Overtaken => 0,
                Strand::MarkerAhead => 1,
                Strand::StateLost => 2,
                Strand::PeerAhead => 3,
            });
        }
        Phase::Reconciling { plan, open, done } => {
            e.put_u8(7);
            e.put_raw(&plan.0);
            e.put_u8(u8::from(*open));
            e.put_u8(u8::from(*done));
        }
        Phase::Split => e.put_u8(8),
    }
}

pub(super) fn take_phase(d: &mut Decoder<'_>) -> Result<Phase, DecodeError> {
    Ok(match d.take_u8("phase")? {
        0 => Phase::Standby,
        1 => Phase::Active,
        2 => Phase::Draining,
        3 => Phase::Handed { point: take_point(d)? },
        4 => Phase::Opening { point: take_point(d)? },
        5 => Phase::Alone,
        6 => Phase::Stranded {
            acted: Epoch(d.take_u64("epoch acted in")?),
            why: match d.take_u8("reason of a strand")? {
                0 => Strand::Overtaken,
                1 => Strand::MarkerAhead,
                2 => Strand::StateLost,
                3 => Strand::PeerAhead,
                found => {
                    let what = "reason of a strand";
                    return Err(DecodeError::Invalid { what, found: found.into() });
                }
            },
        },
        7 => Phase::Reconciling {
            plan: PlanId(d.take_array("plan")?),
            open: take_flag(d, "site is open")?,
            done: take_flag(d, "part is done")?,
        },
        8 => Phase::Split,
        found => return Err(DecodeError::Invalid { what: "phase", found: found.into() }),
    })
}
