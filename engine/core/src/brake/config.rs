//! What a site may set, and what is right for most.

use std::collections::BTreeSet;

use crate::guard::Threshold;
use crate::path::RelPath;

use super::tally::Extension;

/// Slots of a window; with the two that lie in it in part it makes [`super::window::BUCKETS_MAX`].
const SLOTS: u64 = 28;
const DAY_S: i64 = 86_400;

/// A daily time in which deletes are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeWindow {
    /// Seconds after midnight UTC.
    pub at_s: u32,
    /// Seconds it lasts, over midnight too.
    pub for_s: u32,
}

impl PurgeWindow {
    fn contains(self, now_ms: i64) -> bool {
        let since = now_ms.div_euclid(1000).rem_euclid(DAY_S) - i64::from(self.at_s) % DAY_S;
        since.rem_euclid(DAY_S) < i64::from(self.for_s)
    }
}

/// Thresholds of the shapes of ransomware; none of one: it is not looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shapes {
    /// Compressible files that became noise: more than so many, and than so many percent of the rewritten
    /// files looked into.
    pub encrypted: Option<Threshold>,
    /// `name` that became `name.EXT`: more than so many, and than so many percent of the old files that
    /// were deleted or moved.
    pub appended: Option<Threshold>,
    /// Renames to one new extension: more than so many, and than so many percent of the moves.
    pub renamed: Option<Threshold>,
    /// One new text in more than so many directories of one cut.
    pub note_directories: Option<u64>,
}

impl Default for Shapes {
    fn default() -> Self {
        let threshold = Threshold { entries: 20, percent: 50 };
        Self {
            encrypted: Some(threshold),
            appended: Some(threshold),
            renamed: Some(Threshold { entries: 50, percent: 50 }),
            note_directories: Some(20),
        }
    }
}

/// The settings of one share's brake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrakeConfig {
    /// Components of an account's path.
    pub account_depth: usize,
    /// Deletes of the share within the window: more than both holds.
    pub threshold: Threshold,
    /// Percent of an account or the share that may be rewritten; together with the entries of `threshold`.
    pub rewrite_percent: u8,
    /// Deletes of one account within the window: more than both holds.
    pub account: Threshold,
    /// The window in milliseconds.
    pub window_ms: u64,
    /// Known purge windows.
    pub purges: Vec<PurgeWindow>,
    /// Files nobody has reason to touch.
    pub canaries: BTreeSet<RelPath>,
    /// Shapes of ransomware.
    pub shapes: Shapes,
    /// Extensions that are never taken for ransomware's, besides the well-known ones.
    pub familiar: Vec<Extension>,
    /// So many accounts held within a window are the share's trouble: with more it is held as a whole.
    pub spread: u64,
    /// How long an approval lasts at most, in milliseconds.
    pub approval_ms: u64,
}

impl Default for BrakeConfig {
    fn default() -> Self {
        Self {
            account_depth: 1,
            threshold: Threshold::default(),
            rewrite_percent: 50,
            account: Threshold { entries: 20, percent: 50 },
            window_ms: 3_600_000,
            purges: Vec::new(),
            canaries: BTreeSet::new(),
            shapes: Shapes::default(),
            familiar: Vec::new(),
            spread: 16,
            approval_ms: 86_400_000,
        }
    }
}

/// Extensions by which jobs pack, sign, mark and set aside, and of the data they do it to.
const FAMILIAR: [&str; 79] = [
    "gz",
    "tgz",
    "bz2",
    "xz",
    "zst",
    "lz4",
    "z",
    "zip",
    "7z",
    "rar",
    "tar",
    "jar",
    "pgp",
    "gpg",
    "asc",
    "sig",
    "p7m",
    "p7s",
    "cms",
    "done",
    "ok",
    "ack",
    "nack",
    "rdy",
    "ready",
    "trg",
    "trigger",
    "flag",
    "eof",
    "fin",
    "end",
    "tmp",
    "temp",
    "part",
    "filepart",
    "partial",
    "bak",
    "old",
    "orig",
    "save",
    "err",
    "error",
    "failed",
    "sent",
    "processed",
    "arc",
    "archive",
    "md5",
    "sha1",
    "sha256",
    "sha512",
    "crc",
    "txt",
    "csv",
    "tsv",
    "xml",
    "json",
    "edi",
    "x12",
    "idoc",
    "dat",
    "log",
    "pdf",
    "xls",
    "xlsx",
    "doc",
    "docx",
    "ppt",
    "pptx",
    "html",
    "htm",
    "sql",
    "png",
    "jpg",
    "tif",
    "tiff",
    "bmp",
    "inproc",
    "swp",
];

impl BrakeConfig {
    pub(super) fn in_purge(&self, now_ms: i64) -> bool {
        self.purges.iter().any(|p| p.contains(now_ms))
    }

    pub(super) fn is_familiar(&self, extension: Extension) -> bool {
        self.familiar.contains(&extension)
            || FAMILIAR.iter().any(|f| f.as_bytes() == extension.as_bytes())
    }

    pub(super) fn window(&self) -> u64 {
        self.window_ms.clamp(1, i64::MAX as u64)
    }

    /// Milliseconds of one slot.
    pub(super) fn slot_ms(&self) -> u64 {
        self.window().div_ceil(SLOTS)
    }

    pub(super) fn slot_of(&self, now_ms: i64) -> u64 {
        u64::try_from(now_ms).unwrap_or(0) / self.slot_ms()
    }

    /// The oldest slot of which a part lies in the window.
    pub(super) fn oldest_slot(&self, now_ms: i64) -> u64 {
        self.slot_of(now_ms.saturating_sub_unsigned(self.window()))
    }
}
