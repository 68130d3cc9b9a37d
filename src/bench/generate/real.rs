//! Two versions of a real tree out of what a machine that builds Rust has anyway.
//!
//! Guarantees: reads only the toolchains of rustup and the unpacked sources of cargo's registry, and
//! changes nothing there; the older and the newer version of one thing get one name in the tree, so
//! that the change is one of content. Refuses (by saying so) when too little is there or too little of
//! it changes. Not a function of the seed: the figures say what the tree was made of.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Version;
use crate::bench::rng::to_f64;

/// Folders of a toolchain that make the tree: libraries, and pages of text.
const TOOLCHAIN_PARTS: [(&str, &str); 5] = [
    ("rustlib", "lib/rustlib"),
    ("doc-std", "share/doc/rust/html/std"),
    ("doc-alloc", "share/doc/rust/html/alloc"),
    ("doc-src", "share/doc/rust/html/src"),
    ("doc-book", "share/doc/rust/html/book"),
];
/// Without at least so much that has two versions there is no workload.
const CHANGING_BYTES_MIN: u64 = 20 << 20;

/// A tree in two versions.
#[derive(Debug)]
pub(crate) struct RealTree {
    /// The older version.
    pub(crate) old: Version,
    /// The newer version.
    pub(crate) new: Version,
    /// What it is made of.
    pub(crate) description: String,
}

/// Looks for two versions; the error says what is missing. A scale below 1 takes fewer of the parts.
pub(crate) fn find(scale: f64) -> Result<RealTree, String> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let place = |variable: &str, default: &str| {
        std::env::var_os(variable).map_or_else(|| home.join(default), PathBuf::from)
    };
    let toolchains = place("RUSTUP_HOME", ".rustup").join("toolchains");
    let sources = place("CARGO_HOME", ".cargo").join("registry/src");
    find_in(&toolchains, &sources, scale)
}

fn find_in(toolchains: &Path, sources: &Path, scale: f64) -> Result<RealTree, String> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut description = Vec::new();
    if let Some((old, new)) = two_toolchains(toolchains) {
        description.push(format!("Rust {} to {}", old.0, new.0));
        for (name, below) in TOOLCHAIN_PARTS {
            let (a, b) = (old.1.join(below), new.1.join(below));
            if a.is_dir() && b.is_dir() {
                pairs.push((name.into(), a, b));
            }
        }
    }
    let crates = crates(sources);
    let several = crates.values().filter(|versions| versions.len() > 1).count();
    description.push(format!("{} crates, {several} of them in two versions", crates.len()));
    for (name, versions) in crates {
        if let (Some(first), Some(last)) = (versions.first(), versions.last()) {
            pairs.push((format!("crate-{name}").into(), first.1.clone(), last.1.clone()));
        }
    }
    let changing: u64 = pairs.iter().filter(|(_, a, b)| a != b).map(|(_, _, b)| bytes_in(b)).sum();
    if changing < CHANGING_BYTES_MIN {
        return Err(format!(
            "needs --w7-old and --w7-new: {} and {} hold only {} MB in two versions (two toolchains of \
             rustup would do)",
            toolchains.display(),
            sources.display(),
            changing / 1_000_000
        ));
    }
    if scale < 1.0 {
        pairs = some_of(pairs, scale);
        description.push(format!("{} parts of these", pairs.len()));
    }
    let side = |newer: bool| -> BTreeMap<OsString, PathBuf> {
        let chosen = pairs.iter().map(|(name, a, b)| (name.clone(), if newer { b } else { a }));
        chosen.map(|(name, path)| (name, path.clone())).collect()
    };
    let (old, new) = (Version::Parts(side(false)), Version::Parts(side(true)));
    Ok(RealTree { old, new, description: description.join("; ") })
}

/// A name in the tree, and its folder in the older and the newer version.
type Pair = (OsString, PathBuf, PathBuf);

/// A share of the parts by bytes: those that change first, the small ones before the large.
fn some_of(pairs: Vec<Pair>, share: f64) -> Vec<Pair> {
    let mut sized: Vec<(bool, u64, Pair)> =
        pairs.into_iter().map(|pair| (pair.1 == pair.2, bytes_in(&pair.2), pair)).collect();
    sized.sort();
    let all: u64 = sized.iter().map(|(_, bytes, _)| bytes).sum();
    let (mut left, mut chosen) = (to_f64(all) * share, Vec::new());
    for (_, bytes, pair) in sized {
        if left < 0.0 {
            break;
        }
        left -= to_f64(bytes);
        chosen.push(pair);
    }
    chosen
}

type Versioned = (String, PathBuf);

/// The oldest and the newest toolchain, when they are not of one version.
fn two_toolchains(folder: &Path) -> Option<(Versioned, Versioned)> {
    let mut found: Vec<Versioned> = folders(folder)
        .into_iter()
        .filter_map(|path| Some((toolchain_version(&path)?, path)))
        .collect();
    found.sort_by_key(|(version, path)| (numbers(version), path.clone()));
    let (first, last) = (found.first()?.clone(), found.last()?.clone());
    (first.0 != last.0).then_some((first, last))
}

fn toolchain_version(path: &Path) -> Option<String> {
    let rustc = path.join("bin/rustc");
    let output = std::process::Command::new(rustc).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.split_whitespace().nth(1)?.to_owned())
}

/// The unpacked crates: name, and versions with their folders from old to new.
fn crates(sources: &Path) -> BTreeMap<String, Vec<Versioned>> {
    let mut found: BTreeMap<String, Vec<Versioned>> = BTreeMap::new();
    for path in folders(sources).iter().flat_map(|registry| folders(registry)) {
        let Some(full) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let versioned = full.match_indices('-').find_map(|(at, _)| {
            let version = &full[at + 1..];
            version.starts_with(|c: char| c.is_ascii_digit()).then(|| (&full[..at], version))
        });
        if let Some((name, version)) = versioned {
            found.entry(name.to_owned()).or_default().push((version.to_owned(), path.clone()));
        }
    }
    for versions in found.values_mut() {
        versions.sort_by_key(|(version, path)| (numbers(version), path.clone()));
    }
    found
}

/// The numbers of a version, for order.
fn numbers(version: &str) -> Vec<u64> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    core.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

/// Bytes of the files below a folder; what cannot be read counts nothing.
fn bytes_in(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
            Ok(meta) if meta.is_file() => meta.len(),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_crate_get_one_name() {
        let folder = tempfile::tempdir().expect("temp folder");
        let registry = folder.path().join("src/index");
        for name in ["serde-1.0.9", "serde-1.0.10", "a-b2-0.1.0+x"] {
            std::fs::create_dir_all(registry.join(name)).expect("made");
        }
        let big = vec![1u8; usize::try_from(CHANGING_BYTES_MIN).expect("fits")];
        let none = folder.path().join("none");
        let missing = find_in(&none, &folder.path().join("src"), 1.0).expect_err("too little");
        assert!(missing.contains("--w7-old"), "{missing}");
        std::fs::write(registry.join("serde-1.0.10/lib.rs"), big).expect("written");
        let tree = find_in(&none, &folder.path().join("src"), 1.0).expect("found");
        let (Version::Parts(old), Version::Parts(new)) = (&tree.old, &tree.new) else {
            panic!("not in parts")
        };
        let key = OsString::from("crate-serde");
        assert!(old[&key].ends_with("serde-1.0.9") && new[&key].ends_with("serde-1.0.10"));
        assert!(old.contains_key(&OsString::from("crate-a-b2")), "{old:?}");
    }
}
