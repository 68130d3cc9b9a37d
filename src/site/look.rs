//! Looking at the whole share, slice by slice, while the rest goes on.
//!
//! Events are hints: they are lost, and on shared storage other hosts' are never heard. So every directory
//! that is known is looked at once in a while, and what is new is found from the directory it is in.
//! Guarantees: a rotation that is complete has looked at every directory known when it began, in slices
//! small enough that cuts of what is known to have changed go between them; what a slice was to look at
//! is looked at again if its cut fails. Memory is one slice. It does not survive a restart: the next
//! rotation begins anew.

use std::time::{Duration, Instant};

use farshore_core::path::RelPath;
use farshore_engine::catalog::{CatalogError, CatalogReader};
use farshore_engine::plan::Part;

/// Records in the first slice.
const SLICE_FIRST: usize = 2_000;
/// Records in a slice, at least and at most.
const SLICE: std::ops::RangeInclusive<usize> = 200..=100_000;
/// How long a slice should take.
const SLICE_TIME: Duration = Duration::from_millis(250);

/// One look at everything.
#[derive(Debug)]
pub struct Rotation {
    /// When it began, in milliseconds since 1970-01-01 UTC.
    pub began_ms: i64,
    began: Instant,
    cursor: Option<RelPath>,
    slice: usize,
    seen: u64,
    total: u64,
}

/// Some directories, and what is behind them.
#[derive(Debug)]
pub struct Slice {
    /// To be looked at, each by itself.
    pub parts: Vec<Part>,
    /// Where the next slice begins; none when this is the last.
    next: Option<RelPath>,
    records: u64,
    began: Instant,
}

impl Slice {
    /// Whether the rotation is complete with it.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.next.is_none()
    }
}

impl Rotation {
    /// Begins one of a share with `total` entries.
    #[must_use]
    pub fn begin(now_ms: i64, total: u64) -> Self {
        let cursor = Some(RelPath::root());
        Self { began_ms: now_ms, began: Instant::now(), cursor, slice: SLICE_FIRST, seen: 0, total }
    }

    /// The slice that is due; `pace` is how long the rotation is to take at least.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn next(
        &self,
        catalog: &CatalogReader,
        pace: Duration,
    ) -> Result<Option<Slice>, CatalogError> {
        let Some(cursor) = self.cursor.as_ref().filter(|_| self.is_due(pace)) else {
            return Ok(None);
        };
        let (directories, next) = catalog.directories_after(cursor, self.slice)?;
        let mut parts: Vec<Part> =
            directories.into_iter().map(|directory| Part { directory, deep: false }).collect();
        if cursor.is_root() {
            parts.insert(0, Part { directory: RelPath::root(), deep: false });
        }
        let records = self.slice as u64;
        Ok(Some(Slice { parts, next, records, began: Instant::now() }))
    }

    fn is_due(&self, pace: Duration) -> bool {
        if pace.is_zero() {
            return true;
        }
        // Half the time it has, so that a slow mount does not make it late.
        self.began.elapsed().as_secs_f64() >= pace.as_secs_f64() * 0.5 * self.done()
    }

    /// The slice was looked at, and its cut is sealed; whether the rotation is complete.
    pub fn advance(&mut self, slice: Slice) -> bool {
        let took = slice.began.elapsed();
        let scale = (SLICE_TIME.as_secs_f64() / took.as_secs_f64().max(1e-3)).clamp(0.25, 4.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let wanted = (self.slice as f64 * scale) as usize;
        self.slice = wanted.clamp(*SLICE.start(), *SLICE.end());
        self.seen = self.seen.saturating_add(slice.records);
        self.cursor = slice.next;
        self.cursor.is_none()
    }

    /// The part that is done, from 0 to 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // a share of a whole
    pub fn done(&self) -> f64 {
        match self.cursor {
            None => 1.0,
            Some(_) => (self.seen as f64 / self.total.max(1) as f64).min(0.99),
        }
    }

    /// How long it has been going on.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }
}
