//! What one site says to the other about a share: all of its role in one message, whole each time, so
//! that a lost one costs nothing and the newest replaces all before it.
//!
//! Guarantees: [`Say::decode`] reads a bounded number of bytes and never panics. Refuses: other
//! versions, trailing bytes. It carries only what is durable at the sender: whoever hears an epoch may
//! rely on it.

use crate::audit::AuditHead;
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::recovery_point::Epoch;

use super::record::{
    Phase, PlanId, Point, SiteId, Stamp, put_option, put_phase, put_point, put_stamp, take_epoch,
    take_flag, take_option, take_phase, take_point, take_stamp,
};

const VERSION: u8 = 1;
/// Longest message: all of its fields are of fixed sizes.
pub const SAY_LEN_MAX: usize = 512;

/// One message of one run of a process, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The run: a random number, drawn at its start.
    pub life: u64,
    /// Which message of it, from 1.
    pub count: u64,
    /// When it was sent, by the sender's own clock that only goes forward.
    pub at_ms: u64,
}

/// The peer's message that was heard last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// It.
    pub beat: Beat,
    /// Whether that run is the one listened to: no message of an earlier one will be acted on any more.
    pub followed: bool,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// Who says it.
    pub site: SiteId,
    /// How far it is.
    pub stamp: Stamp,
    /// Where it stands. `Handed` is a grant of the epoch; a claim of that epoch says it was taken.
    pub phase: Phase,
    /// The last point both had, of an epoch taken without consent.
    pub base: Option<Point>,
    /// The last epoch that was handed to the sender and taken.
    pub took: Epoch,
    /// The receiver's highest epoch that was known when the sender claimed its own.
    pub over: Epoch,
    /// The failback plan applied last.
    pub plan: Option<PlanId>,
    /// The sender's gate is open only under a lease of this peer's.
    pub bound: bool,
    /// The lease the sender is configured with, 0 for none.
    pub lease_ms: u64,
    /// This message.
    pub beat: Beat,
    /// The peer's last.
    pub echo: Option<Echo>,
    /// The highest the sender ever heard of the peer.
    pub heard: Stamp,
    /// The sender's catalog.
    pub catalog: [u8; 16],
    /// The sender's tree.
    pub tree: [u8; 16],
    /// The sender's audit chain.
    pub audit: AuditHead,
    /// The sender's clock on the wall, for showing the skew only.
    pub wall_ms: i64,
}

impl Say {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_u8(VERSION);
        e.put_raw(&self.site.0);
        put_stamp(&mut e, self.stamp);
        put_phase(&mut e, &self.phase);
        put_option(&mut e, self.base.as_ref(), put_point);
        e.put_u64(self.took.0);
        e.put_u64(self.over.0);
        put_option(&mut e, self.plan.as_ref(), |e, p| e.put_raw(&p.0));
        e.put_u8(u8::from(self.bound));
        e.put_u64(self.lease_ms);
        put_beat(&mut e, &self.beat);
        put_option(&mut e, self.echo.as_ref(), |e, echo| {
            put_beat(e, &echo.beat);
            e.put_u8(u8::from(echo.followed));
        });
        put_stamp(&mut e, self.heard);
        e.put_raw(&self.catalog);
        e.put_raw(&self.tree);
        e.put_u64(self.audit.length);
        e.put_raw(&self.audit.digest);
        e.put_i64(self.wall_ms);
        e.finish()
    }

    /// What [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "role message";
        if bytes.len() > SAY_LEN_MAX {
            let (found, limit) = (bytes.len() as u64, SAY_LEN_MAX as u64);
            return Err(DecodeError::LimitExceeded { what, found, limit });
        }
        let mut d = Decoder::new(bytes);
        match d.take_u8(what)? {
            VERSION => {}
            found => return Err(DecodeError::Invalid { what, found: found.into() }),
        }
        let say = Self {
            site: SiteId(d.take_array("site")?),
            stamp: take_stamp(&mut d)?,
            phase: take_phase(&mut d)?,
            base: take_option(&mut d, take_point)?,
            took: take_epoch(&mut d)?,
            over: take_epoch(&mut d)?,
            plan: take_option(&mut d, |d| Ok(PlanId(d.take_array("plan")?)))?,
            bound: take_flag(&mut d, "lease binds")?,
            lease_ms: d.take_u64("lease")?,
            beat: take_beat(&mut d)?,
            echo: take_option(&mut d, |d| {
                Ok(Echo { beat: take_beat(d)?, followed: take_flag(d, "run is followed")? })
            })?,
            heard: take_stamp(&mut d)?,
            catalog: d.take_array("catalog")?,
            tree: d.take_array("tree")?,
            audit: AuditHead {
                length: d.take_u64("audit length")?,
                digest: d.take_array("audit digest")?,
            },
            wall_ms: d.take_i64("wall clock")?,
        };
        d.finish(what)?;
        Ok(say)
    }
}

fn put_beat(e: &mut Encoder, beat: &Beat) {
    e.put_u64(beat.life);
    e.put_u64(beat.count);
    e.put_u64(beat.at_ms);
}

fn take_beat(d: &mut Decoder<'_>) -> Result<Beat, DecodeError> {
    Ok(Beat {
        life: d.take_u64("run")?,
        count: d.take_u64("message count")?,
        at_ms: d.take_u64("time of a message")?,
    })
}
