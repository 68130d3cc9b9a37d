//! The recovery points a target can go back to, and what operators call them.
//!
//! Guarantees: a point is written in the transaction that seals it, with the last batch it covers; the
//! last one is always there; one that lost a part of its history goes with that history. Bounded: all of
//! the last hour, one a minute for a day, one an hour beyond; a point with a mark stays as long as its
//! history, as the newest [`MARKED_MAX`] of them; one that a hold of the source names stays, and its history
//! with it, until the source says that the hold ended ([`CatalogTables::set_holds`]). With each stays which
//! accounts it does not have as at its time.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::recovery_point::RecoveryPoint;
use farshore_proto::message::{Behind, Holds, Message};
use redb::{ReadableTable, ReadableTableMetadata};

use super::{CatalogReader, CatalogTables, Result, Step, damaged};

/// Marks of one point.
pub const MARKS_MAX: usize = 8;
/// Bytes of a mark's label.
pub const LABEL_MAX: usize = 256;
/// Points that stay because they have a mark; older ones are thinned out like the others.
pub const MARKED_MAX: usize = 1_024;
/// Points are thinned out each time so many came.
const THINNED_EVERY: u64 = 64;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// What an operator calls a point, e.g. `db=0/16B3748`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The label.
    pub label: String,
    /// When it was made, in milliseconds since 1970-01-01 UTC by the target's clock.
    pub made_unix_ms: i64,
}

/// A recovery point that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPoint {
    /// The point.
    pub point: RecoveryPoint,
    /// The last batch it covers.
    pub batch: u64,
    /// When it was sealed, in milliseconds since 1970-01-01 UTC by the target's clock.
    pub sealed_unix_ms: i64,
    /// What it is called.
    pub marks: Vec<Mark>,
}

/// Why a mark was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkRefused {
    /// There is no point to mark.
    #[error("there is no such recovery point")]
    NoPoint,
    /// It has as many as it can.
    #[error("the recovery point has {MARKS_MAX} marks already")]
    TooMany,
    /// The label is empty, too long, or has control characters.
    #[error("a label is 1 to {LABEL_MAX} bytes without control characters")]
    Label,
}

impl KeptPoint {
    fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        self.point.encode(&mut e);
        e.put_u64(self.batch);
        e.put_i64(self.sealed_unix_ms);
        e.put_u64(self.marks.len() as u64);
        for mark in &self.marks {
            e.put_bytes(mark.label.as_bytes());
            e.put_i64(mark.made_unix_ms);
        }
        e.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let point = RecoveryPoint::decode(&mut d)?;
        let batch = d.take_u64("point's batch")?;
        let sealed_unix_ms = d.take_i64("point's time")?;
        let count = d.take_len("point's marks", MARKS_MAX)?;
        let mut marks = Vec::new();
        for _ in 0..count {
            let label = d.take_text("mark", LABEL_MAX)?;
            marks.push(Mark { label, made_unix_ms: d.take_i64("mark's time")? });
        }
        d.finish("point")?;
        Ok(Self { point, batch, sealed_unix_ms, marks })
    }
}

/// Whether a point can be called so.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=LABEL_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Which of `points`, oldest first, are one too many at `now`: sequence, when it was sealed, whether it
/// has a mark. The last one never is.
fn surplus(points: &[(u64, i64, bool)], now: i64) -> Vec<u64> {
    let mut out = Vec::new();
    let (mut marked, mut last_bucket) = (0, None);
    for (place, (sequence, sealed, has_mark)) in points.iter().rev().enumerate() {
        marked += usize::from(*has_mark);
        // A clock that was set back makes a point younger than now: it stays.
        let bucket = match now.saturating_sub(*sealed) {
            age if age <= HOUR => None,
            age if age <= DAY => Some((MINUTE, sealed.div_euclid(MINUTE))),
            _ => Some((HOUR, sealed.div_euclid(HOUR))),
        };
        let is_double = bucket.is_some() && bucket == last_bucket;
        last_bucket = bucket;
        if is_double && place > 0 && !(*has_mark && marked <= MARKED_MAX) {
            out.push(*sequence);
        }
    }
    out
}

impl CatalogReader {
    /// The points that are kept, oldest first.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn points(&self) -> Result<Vec<KeptPoint>> {
        let Some(table) = &self.points else { return Ok(Vec::new()) };
        let rows = table.range::<u64>(..).step("read points")?;
        rows.map(|row| {
            let (_, value) = row.step("read points")?;
            KeptPoint::from_bytes(value.value()).map_err(damaged("points"))
        })
        .collect()
    }

    /// The point of this sequence, if it is kept.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn point(&self, sequence: u64) -> Result<Option<KeptPoint>> {
        let Some(table) = &self.points else { return Ok(None) };
        let value = table.get(sequence).step("read points")?;
        value.map(|v| KeptPoint::from_bytes(v.value()).map_err(damaged("points"))).transpose()
    }
}

/// Where what the source holds is kept: as the message that said it.
const HOLDS: &str = "holds";
/// Likewise, which accounts the last point does not have as at its time.
const BEHIND: &str = "behind";

impl CatalogReader {
    /// What the source said last that it holds.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn holds(&self) -> Result<Holds> {
        self.meta(HOLDS)?.map_or_else(|| Ok(Holds::default()), |bytes| held(&bytes))
    }

    /// Accounts that the last point does not have as at its time, and up to when it has them.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn behind(&self) -> Result<Behind> {
        self.meta(BEHIND)?.map_or_else(|| Ok(Behind::default()), |bytes| behind(&bytes))
    }

    /// The same of a point that is kept; `None` where nobody was behind, or an earlier build sealed it.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn behind_at(&self, sequence: u64) -> Result<Option<Behind>> {
        let Some(table) = &self.points_behind else { return Ok(None) };
        let value = table.get(sequence).step("read points")?;
        value.map(|bytes| behind(bytes.value())).transpose()
    }

    /// The last batch whose set of history may be pruned, as far as points are to be kept for holds.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn pruned_up_to_at_most(&self) -> Result<Option<u64>> {
        let mut least = None;
        for sequence in self.holds()?.points() {
            // One that is not there any more needs nothing.
            if let Some(kept) = self.point(sequence)? {
                least = Some(least.unwrap_or(kept.batch).min(kept.batch));
            }
        }
        Ok(least)
    }
}

fn held_points(bytes: &[u8]) -> Result<Vec<u64>> {
    held(bytes).map(|holds| holds.points())
}

fn held(bytes: &[u8]) -> Result<Holds> {
    match Message::from_bytes(bytes).map_err(damaged("meta"))? {
        Message::Holds(holds) => Ok(holds),
        _ => Err(damaged("meta")(DecodeError::Invalid { what: "holds", found: 0 })),
    }
}

fn behind(bytes: &[u8]) -> Result<Behind> {
    match Message::from_bytes(bytes).map_err(damaged("meta"))? {
        Message::Behind(behind) => Ok(behind),
        _ => Err(damaged("meta")(DecodeError::Invalid { what: "accounts behind", found: 0 })),
    }
}

impl CatalogTables<'_> {
    /// Keeps which accounts a point that is being sealed does not have as at its time.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn set_behind(&mut self, accounts: &Behind) -> Result<()> {
        let stored = self.stored_bytes(BEHIND)?;
        let bytes = Message::Behind(accounts.clone()).to_bytes();
        // With most points it is as with the one before: nobody is.
        let is_as_before = match stored {
            Some(stored) => stored == bytes,
            None => accounts.total == 0,
        };
        if is_as_before { Ok(()) } else { self.set_meta(BEHIND, &bytes) }
    }

    /// Keeps what the source says that it holds, and from now on the points that names.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn set_holds(&mut self, holds: &Holds) -> Result<()> {
        self.set_meta(HOLDS, &Message::Holds(holds.clone()).to_bytes())
    }

    /// Keeps a point that is being sealed: it covers what is applied, but for who is behind by then
    /// ([`Self::set_behind`]).
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn put_point(&mut self, point: &RecoveryPoint, sealed_unix_ms: i64) -> Result<()> {
        let (point, batch) = (*point, self.stored("applied_batch")?);
        // A source that lost count: what it counts anew takes the place of what it counted before.
        loop {
            let last = self.points.last().step("read points")?.map(|(k, _)| k.value());
            let Some(last) = last.filter(|last| *last > point.sequence) else { break };
            self.remove_point(last)?;
        }
        let marks = Vec::new();
        let kept = KeptPoint { point, batch, sealed_unix_ms, marks };
        self.points.insert(point.sequence, kept.to_bytes().as_slice()).step("write a point")?;
        let said = self.stored_bytes(BEHIND)?;
        match said.filter(|said| behind(said).is_ok_and(|behind| behind.total > 0)) {
            Some(said) => self.points_behind.insert(point.sequence, said.as_slice()),
            None => self.points_behind.remove(point.sequence),
        }
        .step("write a point")?;
        self.undo_from_now(batch)?;
        if self.points.len().step("count points")? % THINNED_EVERY == 0 {
            self.thin_points(sealed_unix_ms)?;
        }
        Ok(())
    }

    fn thin_points(&mut self, now: i64) -> Result<()> {
        let held = self.stored_bytes(HOLDS)?;
        let held = held.map(|bytes| held_points(&bytes)).transpose()?.unwrap_or_default();
        let mut all = Vec::new();
        for row in self.points.range::<u64>(..).step("read points")? {
            let (sequence, value) = row.step("read points")?;
            let kept = KeptPoint::from_bytes(value.value()).map_err(damaged("points"))?;
            all.push((sequence.value(), kept.sealed_unix_ms, !kept.marks.is_empty()));
        }
        for sequence in surplus(&all, now).into_iter().filter(|point| !held.contains(point)) {
            self.remove_point(sequence)?;
        }
        Ok(())
    }

    fn remove_point(&mut self, sequence: u64) -> Result<()> {
        self.points.remove(sequence).step("remove a point")?;
        self.points_behind.remove(sequence).step("remove a point")?;
        Ok(())
    }

    /// Drops the points that need history up to the set `floor`, which is gone; the last one stays.
    pub(super) fn forget_points(&mut self, floor: u64) -> Result<()> {
        loop {
            let Some((sequence, batch)) = self.oldest_point()? else { return Ok(()) };
            let last = self.points.last().step("read points")?.map(|(k, _)| k.value());
            if batch >= floor || last == Some(sequence) {
                return Ok(());
            }
            self.remove_point(sequence)?;
        }
    }

    fn oldest_point(&self) -> Result<Option<(u64, u64)>> {
        let Some((sequence, value)) = self.points.first().step("read points")? else {
            return Ok(None);
        };
        let kept = KeptPoint::from_bytes(value.value()).map_err(damaged("points"))?;
        Ok(Some((sequence.value(), kept.batch)))
    }

    /// Gives the point of `sequence`, or the last one, a mark; answers which. The same label again
    /// changes nothing.
    ///
    /// # Errors
    /// [`super::CatalogError`].
    pub fn put_mark(
        &mut self,
        sequence: Option<u64>,
        label: &str,
        made_unix_ms: i64,
    ) -> Result<Result<KeptPoint, MarkRefused>> {
        if !is_label(label) {
            return Ok(Err(MarkRefused::Label));
        }
        let found = match sequence {
            Some(sequence) => {
                self.points.get(sequence).step("read points")?.map(|v| v.value().to_vec())
            }
            None => self.points.last().step("read points")?.map(|(_, v)| v.value().to_vec()),
        };
        let Some(found) = found else { return Ok(Err(MarkRefused::NoPoint)) };
        let mut kept = KeptPoint::from_bytes(&found).map_err(damaged("points"))?;
        if kept.marks.iter().all(|m| m.label != label) {
            if kept.marks.len() >= MARKS_MAX {
                return Ok(Err(MarkRefused::TooMany));
            }
            kept.marks.push(Mark { label: label.to_owned(), made_unix_ms });
            let sequence = kept.point.sequence;
            self.points.insert(sequence, kept.to_bytes().as_slice()).step("write a point")?;
        }
        Ok(Ok(kept))
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::digest::RootDigest;
    use farshore_core::path::RelPath;
    use farshore_proto::message::StoreId;

    use super::*;
    use crate::catalog::{Catalog, CatalogConfig, CatalogRole, Durability};

    fn kept(sequence: u64) -> KeptPoint {
        let (time_unix_ms, root) = (-5, RootDigest([7; 32]));
        let point =
            RecoveryPoint { sequence, time_unix_ms, root, entries: 4, bytes: 5, exceptions: 6 };
        KeptPoint { point, batch: 9, sealed_unix_ms: 11, marks: Vec::new() }
    }

    #[test]
    fn points_read_back_and_damage_is_an_error() {
        let mut one = kept(3);
        one.marks.push(Mark { label: "db=0/16B3748".into(), made_unix_ms: 12 });
        let bytes = one.to_bytes();
        assert_eq!(KeptPoint::from_bytes(&bytes), Ok(one));
        for len in 0..bytes.len() {
            assert!(KeptPoint::from_bytes(&bytes[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn accounts_that_are_behind_are_those_said_last() {
        let config = CatalogConfig {
            role: CatalogRole::Target,
            cache_bytes: 1 << 20,
            fresh_id: StoreId([1; 16]),
        };
        let backend = redb::backends::InMemoryBackend::new();
        let catalog = Catalog::open_on(backend, &config).expect("in memory");
        let kept = || catalog.reader().and_then(|reader| reader.behind()).expect("read");
        let one = Behind::of([(RelPath::new(*b"acct1").expect("valid"), 7)]);
        for behind in [Behind::default(), one, Behind::default()] {
            catalog.update(Durability::Immediate, |t| t.set_behind(&behind)).expect("kept");
            assert_eq!(kept(), behind);
        }
    }

    #[test]
    fn of_each_point_stays_who_was_behind() {
        let config = CatalogConfig {
            role: CatalogRole::Target,
            cache_bytes: 1 << 20,
            fresh_id: StoreId([1; 16]),
        };
        let backend = redb::backends::InMemoryBackend::new();
        let catalog = Catalog::open_on(backend, &config).expect("in memory");
        let of = |name: &str| Behind::of([(RelPath::new(name.as_bytes()).expect("valid"), 7)]);
        let seal = |sequence, behind: &Behind| {
            let point = kept(sequence).point;
            let update = catalog.update(Durability::Immediate, |t| {
                t.set_behind(behind)?;
                t.put_point(&point, 0)
            });
            update.expect("kept");
        };
        let all = [of("a"), of("b"), Behind::default(), of("b"), of("b")];
        (1..).zip(&all).for_each(|(sequence, behind)| seal(sequence, behind));
        let said = |sequence| {
            catalog.reader().and_then(|reader| reader.behind_at(sequence)).expect("read")
        };
        for (sequence, behind) in (1..).zip(all) {
            assert_eq!(said(sequence), Some(behind).filter(|behind| behind.total > 0));
        }
        // What is counted anew is another point; and with a point that goes, all of it does.
        seal(2, &Behind::default());
        assert_eq!((1..6).map(said).collect::<Vec<_>>(), [Some(of("a")), None, None, None, None]);
        catalog.update(Durability::Immediate, |t| t.forget_points(10)).expect("forgotten");
        assert_eq!(said(1), None);
    }

    #[test]
    fn points_are_thinned_out_by_age_and_marked_ones_stay() {
        let now = 1_000 * DAY;
        // One a second for two days, every thousandth with a mark.
        let seconds: u64 = 2 * 86_400;
        let all: Vec<_> = (0..seconds)
            .map(|s| (s, now - (seconds - s).cast_signed() * 1_000, s % 1_000 == 0))
            .collect();
        let gone: std::collections::HashSet<u64> = surplus(&all, now).into_iter().collect();
        let left: Vec<_> = all.iter().filter(|(s, ..)| !gone.contains(s)).collect();
        let in_age = |from: i64, to: i64| {
            left.iter().filter(|(_, at, _)| now - at > from && now - at <= to).count()
        };
        assert_eq!(in_age(0, HOUR), 3_600);
        assert!((23 * 60..=23 * 60 + 90).contains(&in_age(HOUR, DAY)), "{}", in_age(HOUR, DAY));
        assert!((24..=25 + 87).contains(&in_age(DAY, 2 * DAY)), "{}", in_age(DAY, 2 * DAY));
        assert!(all.iter().all(|(s, _, marked)| !marked || !gone.contains(s)));
        // However old all of them are, the last one stays.
        let old: Vec<_> = (0..100).map(|s| (s, 0, false)).collect();
        assert_eq!(surplus(&old, now), (0..99).rev().collect::<Vec<_>>());
        let marked: Vec<_> = (0..5_000).map(|s| (s, 0, true)).collect();
        assert_eq!(surplus(&marked, now).len(), 5_000 - MARKED_MAX);
    }
}
