//! The traits a policy is made of.
//!
//! A policy is a pure function of what [`Policy::configure`] was told and of the one entry or
//! conflict it is asked about: no clock, no state between calls, no knowledge of the batch. Both
//! sites then decide alike, and a decision can be replayed years later.

use crate::settings::Settings;
use crate::types::{Conflict, Decision, Entry, Manifest, ReadError, Source, Timestamp, Verdict};

/// Every policy: made from its settings.
pub trait Policy: Sized {
    /// The policy for `settings`, and what it says of itself. `at` is the time of the cut or plan,
    /// the only time there is; ages are counted from it.
    ///
    /// A setting that this does not read is refused by its caller, with the names of those it reads:
    /// so read all of them, on every path.
    ///
    /// # Errors
    /// A text for the operator; it refuses the session.
    fn configure(settings: &mut Settings, at: Timestamp) -> Result<(Self, Manifest), String>;
}

/// A policy that decides what is replicated.
pub trait Exclude: Policy {
    /// The verdict on one entry. Must depend on the entry and on what
    /// [`configure`](Policy::configure) was told alone.
    fn exclude(&self, entry: &Entry) -> Verdict;
}

/// A policy that decides what failback does with a path that both sites changed.
pub trait Resolve: Policy {
    /// The decision on one conflict. Must depend on the arguments and on what
    /// [`configure`](Policy::configure) was told alone.
    fn resolve(&self, conflict: &Conflict, contents: &dyn Contents) -> Decision;
}

/// The contents of the versions in conflict, as far as the budget goes.
pub trait Contents {
    /// `length` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`ReadError`]; nothing was read.
    fn read(&self, source: Source, offset: u64, length: u32) -> Result<Vec<u8>, ReadError>;

    /// The bytes from `offset` on to `end`, read in parts; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`ReadError`]; what was read is dropped, and counts against the budget.
    fn read_range(&self, source: Source, offset: u64, end: u64) -> Result<Vec<u8>, ReadError> {
        const PART: u32 = 1 << 16;
        let mut bytes = Vec::new();
        let mut from = offset;
        while from < end {
            let wanted = u32::try_from(end - from).map_or(PART, |left| left.min(PART));
            let part = self.read(source, from, wanted)?;
            let short = part.len() < wanted as usize;
            from += part.len() as u64;
            bytes.extend_from_slice(&part);
            if short {
                break;
            }
        }
        Ok(bytes)
    }
}
