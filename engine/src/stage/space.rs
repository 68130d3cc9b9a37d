//! A file too large for what is free, in a session that stands.
//!
//! Guarantees: such a file fails alone, with how much it takes and how much there is, before it took what
//! others need: a part of what is free when the session begins is left to what is small. What was staged of
//! it is removed at once. Two files that are reserved at the same time never both count on the same room.
//! Refuses nothing that may fit: a file that can share its blocks with content held here, or has holes,
//! is tried, and fails when it does come to the end. What comes ahead of its cut leaves more than a cut has to:
//! until that is there, it takes room beside it.

use std::io;
use std::sync::PoisonError;

use farshore_core::path::RelPath;
use farshore_proto::message::FailureKind;

use super::{OpError, SMALL_FILE_MAX, Stager, is_full};
use crate::ahead::ROOM_KEPT;
use crate::io::Storage;

/// The most that is left to what is small: bytes, and a part of what is free.
const LEFT_MAX: u64 = 64 << 20;
const LEFT_PART: u64 = 16;

/// Of `free` bytes at the begin, what large files leave.
pub(crate) fn left_to_small(free: u64) -> u64 {
    (free / LEFT_PART).min(LEFT_MAX)
}

impl<S: Storage> Stager<'_, S> {
    /// What is left to others.
    fn left(&self) -> u64 {
        if self.carries { ROOM_KEPT } else { self.own.left_to_small }
    }

    fn passes_over(&self) -> bool {
        self.config.passes_over_too_large || self.carries
    }

    /// Whether there is room for `needed` bytes more of a file, beside what is left to others; then `take`
    /// takes it, before anybody else looks.
    pub(super) fn with_room(
        &self,
        needed: u64,
        take: impl FnOnce() -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        if !self.passes_over() || needed <= SMALL_FILE_MAX {
            return take();
        }
        let _turn = self.own.room.lock().unwrap_or_else(PoisonError::into_inner);
        match self.storage.free_bytes() {
            Ok(free) if free < needed.saturating_add(self.left()) => Err(no_space(needed, free)),
            // Where it cannot be told, trying tells.
            _ => take(),
        }
    }

    /// Whether a file of which it is not known how much it takes may go on.
    pub(super) fn may_go_on(&self, size: u64) -> Result<(), OpError> {
        match self.storage.free_bytes() {
            Ok(free) if self.passes_over() && free < self.left() => Err(no_space(size, free)),
            _ => Ok(()),
        }
    }

    /// What a failed call comes to that was to take room for a file of `size` bytes.
    pub(super) fn no_room(
        &self,
        path: &RelPath,
        step: &'static str,
        size: u64,
        e: io::Error,
    ) -> OpError {
        match is_full(&e) && self.passes_over() && size > SMALL_FILE_MAX {
            true => no_space(size, self.storage.free_bytes().unwrap_or(0)),
            false => Self::failed(path, step)(e),
        }
    }
}

fn no_space(needed: u64, free: u64) -> OpError {
    let text = format!("no space ({needed} bytes needed, {free} free)");
    OpError::Failure(FailureKind::NoSpace { needed, free }, text)
}
