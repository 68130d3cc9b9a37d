//! What a cut would change, counted by account while its plan is read once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::account::account_of;
use crate::path::{self, RelPath};

use super::{Brake, LastPoint, Touch};

/// Most hashes of paths a tally keeps of one sort; what is beyond counts as old and as not seen before.
const HASHES_MAX: usize = 1 << 20;
/// Most names a tally remembers with an extension nobody knows, or as somebody's note.
pub(super) const NAMES_MAX: usize = 1 << 16;
/// Paths shown of one account.
const PATHS_MAX: usize = 8;
/// Most extensions one cut can teach.
const LEARNED_MAX: usize = 256;
/// Longest extension that counts as one.
pub(super) const EXTENSION_LEN_MAX: usize = 16;
/// Fewer bytes say nothing: of 4 KiB of noise 7.95 bits a byte are seen, of 256 bytes 7.2.
const SAMPLE_BYTES_MIN: u32 = 4 * 1024;
/// What is above is noise: encrypted or compressed.
const NOISE_BITS: f32 = 7.5;
/// Shorter texts are nobody's note: triggers and acknowledgements.
const NOTE_BYTES_MIN: u64 = 64;
/// What a person can open without being told how.
const NOTE_EXTENSIONS: [&str; 11] =
    ["txt", "html", "htm", "hta", "rtf", "url", "md", "png", "bmp", "jpg", "readme"];
/// Files that say by their name that they are no noise.
const COMPRESSIBLE: [&str; 26] = [
    "txt", "csv", "tsv", "xml", "json", "edi", "x12", "edifact", "log", "sql", "html", "htm", "md",
    "ini", "conf", "yaml", "yml", "ps", "bmp", "wav", "doc", "xls", "ppt", "rtf", "xsd", "idoc",
];

/// The extension of a name: lower case, at most [`EXTENSION_LEN_MAX`] letters and digits, not digits alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Extension(pub(super) [u8; EXTENSION_LEN_MAX]);

impl Extension {
    /// That of `name`. None for a name without, and for times and counters (`.20261126`, `.1`): those
    /// are how names are made unique.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let at = name.iter().rposition(|&b| b == b'.').filter(|&at| at > 0)?;
        Self::new(&name[at + 1..])
    }

    /// `text` as an extension.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let fits = (1..=EXTENSION_LEN_MAX).contains(&text.len())
            && text.iter().all(u8::is_ascii_alphanumeric)
            && text.iter().any(u8::is_ascii_alphabetic);
        if !fits {
            return None;
        }
        let mut bytes = [0; EXTENSION_LEN_MAX];
        bytes[..text.len()].copy_from_slice(text);
        bytes.make_ascii_lowercase();
        Some(Self(bytes))
    }

    fn len(self) -> usize {
        self.0.iter().position(|&b| b == 0).unwrap_or(EXTENSION_LEN_MAX)
    }

    /// Its letters and digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[..self.len()]
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(".")?;
        path::escape(self.as_bytes(), f)
    }
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Old files that came to have one new extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtensionCount {
    /// The extension.
    pub extension: Extension,
    /// `name` that became `name.EXT`, renamed or deleted beside it.
    pub appended: u64,
    /// Renamed within their directory from another extension.
    pub renamed: u64,
}

impl ExtensionCount {
    pub(super) fn total(&self) -> u64 {
        self.appended.saturating_add(self.renamed)
    }
}

/// What was seen of a rewritten file's first bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Bits a byte, as [`entropy`] says.
    pub entropy: f32,
    /// Bytes looked at.
    pub bytes: u32,
    /// Bits a byte of the version before, where known.
    pub former: Option<f32>,
}

/// Shannon entropy of the bytes of `data`, in bits a byte: 0 of none or of equal bytes, 8 of noise.
#[must_use]
#[allow(clippy::cast_precision_loss)] // samples are short
pub fn entropy(data: &[u8]) -> f32 {
    let mut histogram = [0u32; 256];
    data.iter().for_each(|&b| histogram[usize::from(b)] += 1);
    let len = data.len() as f32;
    histogram
        .iter()
        .filter(|&&n| n > 0)
        .map(|&n| n as f32 / len)
        .map(|p| -p * p.log2())
        .sum::<f32>()
        .max(0.0)
}

/// What is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File {
        /// Its length.
        size: u64,
    },
    /// Anything else.
    Other,
}

/// How a cut found the source's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Root {
    /// As it was.
    #[default]
    Same,
    /// Nothing is left in it.
    Emptied,
    /// Another directory than before.
    Replaced,
}

/// What a cut would do to one account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountTally {
    /// Entries at the target before the cut.
    pub known: u64,
    /// The cut looked at all of the account, so what it does not name has not changed.
    pub whole: bool,
    /// Entries created.
    pub created: u64,
    /// Entries deleted that are older than the window.
    pub deleted: u64,
    /// Entries deleted that were created within the window: consumed.
    pub consumed: u64,
    /// Old files rewritten that were not yet rewritten within the window.
    pub rewritten: u64,
    /// Files rewritten that are young, or counted within the window already.
    pub rewritten_again: u64,
    /// Entries moved that are older than the window.
    pub moved: u64,
    /// Entries moved that are not.
    pub moved_young: u64,
    /// Of the rewritten, looked into.
    pub sampled: u64,
    /// Of these, compressible before (or by name) and noise now.
    pub encrypted: u64,
    /// Files rewritten that nobody looked into: they may be noise.
    pub unsampled: u64,
    /// New extensions of old files.
    pub extensions: Vec<ExtensionCount>,
    /// By how many entries the account grows.
    pub grown: i64,
    /// Some of what is deleted, rewritten and moved.
    pub paths: Vec<RelPath>,
    pub(super) rewrote: Vec<(u64, bool)>,
    pub(super) born: Vec<u64>,
    /// Extensions of what is created, and of what is moved to another name.
    pub(super) learned: BTreeSet<Extension>,
    gone: Vec<u64>,
}

impl AccountTally {
    /// Whether it deletes, rewrites or moves nothing.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        let Self { deleted, consumed, rewritten, rewritten_again, moved, moved_young, .. } = self;
        [deleted, consumed, rewritten, rewritten_again, moved, moved_young].iter().all(|n| **n == 0)
    }

    fn show(&mut self, path: &RelPath) {
        if self.paths.len() < PATHS_MAX {
            self.paths.push(path.clone());
        }
    }

    fn extension(&mut self, extension: Extension) -> &mut ExtensionCount {
        let at = match self.extensions.binary_search_by_key(&extension, |e| e.extension) {
            Ok(at) => at,
            Err(at) => {
                self.extensions.insert(at, ExtensionCount { extension, appended: 0, renamed: 0 });
                at
            }
        };
        &mut self.extensions[at]
    }
}

/// What a cut would do, made by [`Tally`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CutTally {
    /// Entries of the share at the target before the cut.
    pub known: u64,
    /// The last point sealed before the cut.
    pub point: LastPoint,
    /// How the cut found the root.
    pub root: Root,
    /// The cut looked at all of the share.
    pub whole: bool,
    /// Canaries changed, deleted or moved.
    pub canaries: Vec<RelPath>,
    /// A text of one name that turned up in very many directories: its name, and in how many.
    pub note: Option<(Box<[u8]>, u64)>,
    /// By account, those alone of which anything changed or all was looked at.
    pub accounts: BTreeMap<RelPath, AccountTally>,
    /// When it was counted.
    pub(super) now_ms: i64,
    pub(super) stems: BTreeMap<u64, Extension>,
}

struct Note {
    name: Box<[u8]>,
    directories: u64,
    accounts: u64,
    last: RelPath,
}

/// Counts a cut: one call for every change of its plan, in any order (directories before what is
/// created in them), then [`Tally::finish`].
///
/// It looks up in the brake what is young and what was counted before, so it is made for the very next
/// [`Brake::judge`] or [`Brake::applied`].
pub struct Tally<'a> {
    brake: &'a Brake,
    cut: CutTally,
    hashes: usize,
    learned: usize,
    /// Directories the cut creates.
    fresh: BTreeSet<u64>,
    notes: BTreeMap<u64, Note>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(brake: &'a Brake, known: u64, point: LastPoint, now_ms: i64) -> Self {
        let cut = CutTally { known, point, now_ms, ..CutTally::default() };
        let (fresh, notes) = (BTreeSet::new(), BTreeMap::new());
        Self { brake, cut, hashes: 0, learned: 0, fresh, notes }
    }

    /// How the root was found.
    pub fn root(&mut self, root: Root) {
        self.cut.root = root;
    }

    /// The cut looks at all of the share.
    pub fn whole(&mut self) {
        self.cut.whole = true;
    }

    /// `account` has `known` entries at the target; `whole`: the cut looked at all of it, and could. To be
    /// said of every account of which anything changes, and of one that is held whenever all of it was
    /// looked at: only that ends its hold. One that is not known of counts as empty, so that more than the
    /// threshold's entries of it hold.
    pub fn account(&mut self, account: RelPath, known: u64, whole: bool) {
        let tally = self.cut.accounts.entry(account).or_default();
        tally.known = known;
        tally.whole = whole;
    }

    /// Which of the accounts of this cut [`Self::account`] was not said of yet.
    pub fn unknown(&self) -> impl Iterator<Item = &RelPath> {
        self.cut.accounts.iter().filter(|(_, t)| t.known == 0).map(|(a, _)| a)
    }

    /// `path` is created.
    pub fn created(&mut self, path: &RelPath, what: Created) {
        let account = self.account_of(path);
        let hash = hash(path.as_bytes());
        self.learn(path);
        if what == Created::Directory && self.fresh.len() < NAMES_MAX {
            self.fresh.insert(hash);
        }
        if let Created::File { size } = what {
            self.note(path, &account, size);
            self.expect(path);
        }
        let room = self.room();
        let tally = self.cut.accounts.entry(account).or_default();
        tally.created += 1;
        tally.grown = tally.grown.saturating_add(1);
        if room {
            tally.born.push(hash);
        }
    }

    /// `path` is deleted.
    pub fn deleted(&mut self, path: &RelPath) {
        let hash = hash(path.as_bytes());
        self.canary(path);
        let young = self.is_young(hash);
        let room = !young && self.room();
        let tally = self.tally(path);
        tally.grown = tally.grown.saturating_sub(1);
        if young {
            tally.consumed += 1;
            return;
        }
        tally.deleted += 1;
        tally.show(path);
        if room {
            tally.gone.push(hash);
        }
    }

    /// The content or kind of `path` changed; `sample` where its content was looked into.
    pub fn rewritten(&mut self, path: &RelPath, sample: Option<Sample>) {
        let hash = hash(path.as_bytes());
        self.canary(path);
        let noise = sample.and_then(|s| turned_to_noise(path, s));
        let before = self.brake.touch(hash, self.cut.now_ms);
        let room = before != Some(Touch::Born) && self.room();
        let tally = self.tally(path);
        tally.unsampled += u64::from(sample.is_none());
        match before {
            Some(Touch::Born) => tally.rewritten_again += 1,
            Some(Touch::Rewritten | Touch::Encrypted) => {
                tally.rewritten_again += 1;
                tally.encrypted +=
                    u64::from(before == Some(Touch::Rewritten) && noise == Some(true));
            }
            None => {
                tally.rewritten += 1;
                tally.sampled += u64::from(noise.is_some());
                tally.encrypted += u64::from(noise == Some(true));
                tally.show(path);
            }
        }
        if room {
            let noise = noise == Some(true) || before == Some(Touch::Encrypted);
            tally.rewrote.push((hash, noise));
        }
    }

    /// `from` is now `to`. It counts for the account of `from`. Between two accounts the caller applies
    /// it when both pass.
    pub fn moved(&mut self, from: &RelPath, to: &RelPath) {
        let (old, new) = (hash(from.as_bytes()), hash(to.as_bytes()));
        self.canary(from);
        self.canary(to);
        self.learn(to);
        let young = self.is_young(old);
        let room = young && self.room();
        let foreign = Extension::of(to.name()).filter(|&e| !young && self.is_foreign(e));
        let (home, there) = (self.account_of(from), self.account_of(to));
        if home != there {
            let tally = self.cut.accounts.entry(there.clone()).or_default();
            tally.grown = tally.grown.saturating_add(1);
            let tally = self.cut.accounts.entry(home.clone()).or_default();
            tally.grown = tally.grown.saturating_sub(1);
        }
        if young {
            let tally = self.cut.accounts.entry(there).or_default();
            tally.moved_young += 1;
            if room {
                tally.born.push(new);
            }
            return;
        }
        let tally = self.cut.accounts.entry(home).or_default();
        tally.moved += 1;
        tally.show(from);
        let renamed = from.parent_bytes() == to.parent_bytes();
        if let Some(e) = foreign.filter(|&e| renamed && Extension::of(from.name()) != Some(e)) {
            tally.extension(e).renamed += 1;
            if stem(to.as_bytes(), e) == from.as_bytes() {
                tally.extension(e).appended += 1;
            }
        }
    }

    /// The tally.
    #[must_use]
    pub fn finish(self) -> CutTally {
        let Self { brake, mut cut, notes, .. } = self;
        let CutTally { accounts, stems, .. } = &mut cut;
        for tally in accounts.values_mut() {
            for i in 0..tally.gone.len() {
                let hash = tally.gone[i];
                let known = brake.stems.get(&hash).map(|&(_, e)| e);
                if let Some(e) = stems.get(&hash).copied().or(known) {
                    tally.extension(e).appended += 1;
                }
            }
        }
        // Broadcasts put a file into a folder of each account; a note lies in every folder there is.
        cut.note = notes
            .into_values()
            .filter(|n| n.directories >= 3 * n.accounts)
            .max_by_key(|n| n.directories)
            .map(|n| (n.name, n.directories));
        cut
    }

    fn account_of(&self, path: &RelPath) -> RelPath {
        account_of(path, self.brake.config.account_depth)
    }

    fn tally(&mut self, path: &RelPath) -> &mut AccountTally {
        self.cut.accounts.entry(self.account_of(path)).or_default()
    }

    fn is_young(&self, hash: u64) -> bool {
        self.brake.touch(hash, self.cut.now_ms) == Some(Touch::Born)
    }

    fn is_foreign(&self, extension: Extension) -> bool {
        self.brake.is_foreign(extension, self.cut.now_ms)
    }

    fn room(&mut self) -> bool {
        self.hashes += 1;
        self.hashes <= HASHES_MAX
    }

    fn canary(&mut self, path: &RelPath) {
        // A directory above a canary is a change of the canary only where it takes it along, and then
        // the plan names the canary too.
        if self.brake.config.canaries.contains(path) && !self.cut.canaries.contains(path) {
            self.cut.canaries.push(path.clone());
        }
    }

    fn learn(&mut self, path: &RelPath) {
        let Some(extension) = Extension::of(path.name()) else { return };
        if self.learned < LEARNED_MAX {
            self.learned += usize::from(self.tally(path).learned.insert(extension));
        }
    }

    /// Remembers what would be deleted if `path` were an encrypted copy.
    fn expect(&mut self, path: &RelPath) {
        if self.cut.stems.len() >= NAMES_MAX {
            return;
        }
        if let Some(e) = Extension::of(path.name()).filter(|&e| self.is_foreign(e)) {
            self.cut.stems.insert(hash(stem(path.as_bytes(), e)), e);
        }
    }

    fn note(&mut self, path: &RelPath, account: &RelPath, size: u64) {
        let name = path.name();
        let readable = match Extension::of(name) {
            Some(e) => NOTE_EXTENSIONS.iter().any(|n| n.as_bytes() == e.as_bytes()),
            None => !name.contains(&b'.'),
        };
        let parent = hash(path.parent_bytes().unwrap_or_default());
        if !readable || size < NOTE_BYTES_MIN || self.fresh.contains(&parent) {
            return;
        }
        let full = self.notes.len() >= NAMES_MAX;
        match self.notes.get_mut(&hash(name)) {
            Some(note) => {
                note.directories += 1;
                note.accounts += u64::from(note.last != *account);
                note.last.clone_from(account);
            }
            None if full => {}
            None => {
                let last = account.clone();
                let note = Note { name: name.into(), directories: 1, accounts: 1, last };
                self.notes.insert(hash(name), note);
            }
        }
    }
}

/// Whether content that was compressible is not any more; none where the sample says nothing.
fn turned_to_noise(path: &RelPath, sample: Sample) -> Option<bool> {
    if sample.bytes < SAMPLE_BYTES_MIN {
        return None;
    }
    let compressible = match sample.former {
        Some(bits) => bits <= NOISE_BITS,
        None => Extension::of(path.name())
            .is_some_and(|e| COMPRESSIBLE.iter().any(|c| c.as_bytes() == e.as_bytes())),
    };
    Some(compressible && sample.entropy > NOISE_BITS)
}

/// `path` without its extension and the dot.
fn stem(path: &[u8], extension: Extension) -> &[u8] {
    &path[..path.len().saturating_sub(extension.len() + 1)]
}

/// Names a path in bounded sets; nobody can find two paths of one hash that matter.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let digest = blake3::hash(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}
