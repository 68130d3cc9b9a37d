//! Entries and conflicts out of one seed, to see whether a policy's answers depend on them alone.
//!
//! Guarantees: the same for the same seed on every machine. They are made of names that occur on file
//! servers, names that are not UTF-8, and the words a policy's own cases and rules use, so that its
//! rules are met.

use farshore_core::conflict::{Class, Conflict, State, Version};
use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;

use super::facts::Facts;

/// Names of files; `*` is replaced by a word.
const NAMES: [&str; 20] = [
    "a.pay",
    "report.csv",
    "1.tmp",
    "a.tmp",
    "~lock",
    "a~",
    ".hidden",
    "*",
    "x.*",
    "*.x",
    ".*",
    "log",
    "app.log",
    "a.part",
    "a.filepart",
    "core",
    "Thumbs.db",
    "data.iso",
    "a b",
    "ä.txt",
];
const FOLDERS: [&str; 9] = ["home", "in", "out", "tmp", ".cache", "archive", "var", "*", ".stfs"];
const SIZES: [u64; 8] = [0, 1, 511, 4_096, 1 << 20, 1 << 30, (4 << 30) + 1, 1 << 40];
/// Seconds before the cut.
const AGES: [i64; 9] = [-3_600, 0, 1, 29, 61, 3_601, 86_401, 91 * 86_400, 20 * 365 * 86_400];
const KINDS: [EntryKind; 8] = [
    EntryKind::File,
    EntryKind::File,
    EntryKind::File,
    EntryKind::File,
    EntryKind::Directory,
    EntryKind::Symlink,
    EntryKind::Fifo,
    EntryKind::Socket,
];

/// A stream of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`, which is above 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = bound.max(1) as u64;
        // Below a usize.
        usize::try_from((z ^ (z >> 31)) % bound).unwrap_or_default()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// Changes the order of `items`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

/// What words stand in `texts`: letters, digits and what names have between them.
#[must_use]
pub fn words(texts: &[String]) -> Vec<String> {
    let parts =
        texts.iter().flat_map(|text| text.split(|c: char| c.is_whitespace() || "*,/'".contains(c)));
    let mut words: Vec<String> = parts.filter(|w| !w.is_empty()).map(str::to_owned).collect();
    words.sort();
    words.dedup();
    words.push("x".into());
    words
}

/// `count` entries as they may stand in a share at a cut at `at`.
#[must_use]
pub fn entries(count: usize, words: &[String], at: Timestamp, seed: u64) -> Vec<Facts> {
    let mut numbers = Numbers::new(seed);
    let mut made = Vec::with_capacity(count);
    while made.len() < count {
        let mut path = Vec::new();
        for _ in 0..numbers.below(5) {
            let word: &String = numbers.of(words);
            path.extend(numbers.of(&FOLDERS).replace('*', word).into_bytes());
            path.push(b'/');
        }
        let word: &String = numbers.of(words);
        path.extend(numbers.of(&NAMES).replace('*', word).into_bytes());
        match numbers.below(16) {
            0 => path.push(0xff),
            1 => path.extend(std::iter::repeat_n(b'n', numbers.below(200))),
            2 => path.extend(numbers.below(1_000_000).to_string().into_bytes()),
            _ => {}
        }
        // A word may be '..'.
        let Ok(path) = RelPath::new(path) else { continue };
        let mut facts = Facts::of(path, *numbers.of(&KINDS));
        if facts.kind == EntryKind::File {
            facts.size = *numbers.of(&SIZES);
        }
        let seconds = at.seconds.saturating_sub(*numbers.of(&AGES));
        facts.mtime = Timestamp { seconds, nanos: *numbers.of(&[0, 1, 999_999_999]) };
        facts.mode = *numbers.of(&[0o644, 0o600, 0o755, 0o4755, 0]);
        facts.uid = *numbers.of(&[0, 1_000, 1_001, u32::MAX]);
        facts.gid = *numbers.of(&[0, 100, 1_000]);
        made.push(facts);
    }
    made
}

/// A conflict and the contents of base, production and recovery.
pub type Generated = (Conflict, [Option<Vec<u8>>; 3]);

/// `count` conflicts over text files.
#[must_use]
pub fn conflicts(count: usize, words: &[String], at: Timestamp, seed: u64) -> Vec<Generated> {
    let mut numbers = Numbers::new(seed);
    let facts = entries(count, words, at, seed);
    let mut made = Vec::with_capacity(count);
    for facts in facts {
        let lines = |numbers: &mut Numbers, from: &str| {
            let mut text = from.to_owned();
            for _ in 0..numbers.below(6) {
                text.push_str(&format!("line {}\n", numbers.below(50)));
            }
            text
        };
        let base = lines(&mut numbers, "");
        let sides = [
            (numbers.below(4) > 0).then(|| base.clone().into_bytes()),
            (numbers.below(6) > 0).then(|| lines(&mut numbers, &base).into_bytes()),
            (numbers.below(6) > 0).then(|| lines(&mut numbers, "").into_bytes()),
        ];
        let gone = if sides[0].is_some() { State::Deleted } else { State::Absent };
        let state = |text: &Option<Vec<u8>>, gone: &State| match text {
            Some(text) => State::Present(version(&facts, text)),
            None => gone.clone(),
        };
        let class = match &sides {
            [None, Some(_), Some(_)] => Class::CreateCreate,
            [_, Some(_), Some(_)] => Class::ModifyModify,
            _ => Class::ModifyDelete,
        };
        let conflict = Conflict {
            path: facts.path.clone(),
            class,
            base: state(&sides[0], &State::Absent),
            production: state(&sides[1], &gone),
            recovery: state(&sides[2], &gone),
        };
        made.push((conflict, sides));
    }
    made
}

fn version(facts: &Facts, text: &[u8]) -> Version {
    Version {
        path: facts.path.clone(),
        kind: EntryKind::File,
        size: text.len() as u64,
        mtime: facts.mtime,
        mode: facts.mode,
        uid: facts.uid,
        gid: facts.gid,
        digest: Some(FileDigest::of_small(text)),
        link_target: None,
        renamed_from: None,
    }
}
