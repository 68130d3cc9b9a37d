//! Equality of two trees, found without any code of the replicator.
//!
//! Guarantees: compares kind, mode, owner, group, time (ns, also of folders and links), link target,
//! device number, extended attributes (ACLs are among them), which names are one file (hard links),
//! and every byte of every file. Skips only `.farshore` at the top of either. Refuses to guess: what cannot be
//! read is an error, not a difference. Sizes on disk (holes) are not compared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{lgetxattr, llistxattr};

mod fact;

use crate::bench::rng::len_u64;
use crate::bench::{BenchError, Context};
pub(crate) use fact::Claims;
pub use fact::Fact;

/// Threads that compare or digest contents.
const THREADS: usize = 2;
/// Bytes compared at a time.
const BLOCK_BYTES: usize = 256 * 1024;
/// Longest list of attribute names and longest value Linux allows.
const XATTR_BYTES_MAX: usize = 64 * 1024;
/// Differences kept with their name; the rest is only counted.
const LISTED_MAX: usize = 20;
/// The entry at the top of a target that belongs to the replicator.
const OWN_ENTRY: &str = ".farshore";

/// The outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Comparison {
    /// Entries of the first tree.
    pub entries: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// Number of differences.
    pub differences: u64,
    /// The same by kind.
    pub by_fact: BTreeMap<Fact, u64>,
    /// The first of them, as text.
    pub listed: Vec<String>,
}

impl Comparison {
    /// The differences a tool with these claims must not cause.
    pub(crate) fn held_against(&self, claims: &Claims) -> u64 {
        self.by_fact.iter().filter(|(fact, _)| claims.has(**fact)).map(|(_, count)| count).sum()
    }

    fn add(&mut self, path: &Path, fact: Fact, what: &str) {
        self.differences += 1;
        *self.by_fact.entry(fact).or_default() += 1;
        if self.listed.len() < LISTED_MAX {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            // Names are anybody's: none of them is to write to a terminal.
            let name = path.to_string_lossy().escape_debug().to_string();
            self.listed.push(format!("{name}: {what}"));
        }
    }
}

/// All of an entry but its bytes.
#[derive(Debug, Clone)]
struct Entry {
    meta: Metadata,
    link: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name (in order) of the same file, when it has several names in this tree.
    first_name: Option<PathBuf>,
}

type Tree = BTreeMap<PathBuf, Entry>;

/// Compares two trees completely.
pub fn compare_trees(a: &Path, b: &Path) -> Result<Comparison, BenchError> {
    let (left, right) = std::thread::scope(|scope| {
        let right = scope.spawn(|| read_tree(b));
        let left = read_tree(a);
        (left, right.join().unwrap_or(Err(BenchError::Panicked { step: "read a tree" })))
    });
    let (left, right) = (left?, right?);
    let mut found = Comparison { entries: len_u64(left.len()), ..Comparison::default() };
    let mut contents = Vec::new();
    for (name, entry) in &left {
        match right.get(name) {
            None => found.add(name, Fact::Entry, "only in the first tree"),
            Some(other) => {
                for (fact, what) in differing_facts(entry, other) {
                    found.add(name, fact, &what);
                }
                let same_kind = entry.meta.file_type() == other.meta.file_type();
                let first = entry.first_name.as_ref().is_none_or(|first| first == name);
                if entry.meta.is_file() && same_kind && (first || other.first_name.is_none()) {
                    contents.push((name.as_path(), entry.meta.len()));
                }
            }
        }
    }
    for name in right.keys().filter(|name| !left.contains_key(*name)) {
        found.add(name, Fact::Entry, "only in the second tree");
    }
    for (name, bytes) in compare_contents(a, b, &contents)? {
        match bytes {
            Some(bytes) => found.bytes += bytes,
            None => found.add(&name, Fact::Content, "content differs"),
        }
    }
    Ok(found)
}

/// A digest of everything [`compare_trees`] compares; equal trees have equal digests.
pub fn tree_digest(root: &Path) -> Result<blake3::Hash, BenchError> {
    let tree = read_tree(root)?;
    let mut hasher = blake3::Hasher::new();
    for (name, entry) in &tree {
        let meta = &entry.meta;
        hasher.update(name.as_os_str().as_bytes());
        let facts = (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
        let rest = (meta.rdev(), &entry.link, &entry.first_name, &entry.xattrs);
        hasher.update(format!("{facts:?}{rest:?}").as_bytes());
        if meta.is_file() {
            let path = root.join(name);
            hasher.update(&meta.len().to_le_bytes());
            let file = File::open(&path).at("open", &path)?;
            hasher.update_reader(file).at("read", &path)?;
        }
    }
    Ok(hasher.finalize())
}

fn read_tree(root: &Path) -> Result<Tree, BenchError> {
    let mut tree = Tree::new();
    let mut folders = vec![PathBuf::new()];
    let top = std::fs::symlink_metadata(root).at("read", root)?;
    tree.insert(PathBuf::new(), read_entry(root, top)?);
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        for entry in std::fs::read_dir(&path).at("list", &path)? {
            let name: OsString = entry.at("list", &path)?.file_name();
            if folder.as_os_str().is_empty() && name == OWN_ENTRY {
                continue;
            }
            let below = folder.join(&name);
            let full = root.join(&below);
            let meta = std::fs::symlink_metadata(&full).at("read", &full)?;
            if meta.is_dir() {
                folders.push(below.clone());
            }
            tree.insert(below, read_entry(&full, meta)?);
        }
    }
    name_hard_links(&mut tree);
    Ok(tree)
}

fn read_entry(path: &Path, meta: Metadata) -> Result<Entry, BenchError> {
    let link = if meta.is_symlink() {
        Some(std::fs::read_link(path).at("read the link", path)?)
    } else {
        None
    };
    Ok(Entry { xattrs: read_xattrs(path)?, meta, link, first_name: None })
}

fn read_xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, BenchError> {
    // Almost no file has any: a small buffer is asked first.
    let mut names = vec![0u8; 512];
    let mut result = llistxattr(path, names.as_mut_slice());
    if result == Err(rustix::io::Errno::RANGE) {
        names.resize(XATTR_BYTES_MAX, 0);
        result = llistxattr(path, names.as_mut_slice());
    }
    let used = match result {
        Ok(used) => used,
        Err(error) if std::io::Error::from(error).kind() == ErrorKind::Unsupported => 0,
        Err(error) => return Err(error.into()).at("list the attributes", path),
    };
    let mut xattrs = BTreeMap::new();
    for name in names[..used].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; XATTR_BYTES_MAX];
        let length = lgetxattr(path, name, value.as_mut_slice())
            .map_err(std::io::Error::from)
            .at("read an attribute", path)?;
        value.truncate(length);
        xattrs.insert(name.to_owned(), value);
    }
    Ok(xattrs)
}

/// Gives every name of a file with several names in the tree the first of them.
fn name_hard_links(tree: &mut Tree) {
    let key = |entry: &Entry| (entry.meta.dev(), entry.meta.ino());
    let has_others = |entry: &Entry| !entry.meta.is_dir() && entry.meta.nlink() > 1;
    let mut first: BTreeMap<(u64, u64), (PathBuf, u64)> = BTreeMap::new();
    for (name, entry) in tree.iter().filter(|(_, entry)| has_others(entry)) {
        first.entry(key(entry)).or_insert_with(|| (name.clone(), 0)).1 += 1;
    }
    // Names elsewhere are nothing of this tree.
    first.retain(|_, (_, names)| *names > 1);
    for entry in tree.values_mut().filter(|entry| has_others(entry)) {
        entry.first_name = first.get(&key(entry)).map(|(name, _)| name.clone());
    }
}

fn differing_facts(a: &Entry, b: &Entry) -> Vec<(Fact, String)> {
    let mut found = Vec::new();
    let mut check = |fact: Fact, what: &str, left: String, right: String| {
        if left != right {
            found.push((fact, format!("{what} differs ({left} and {right})")));
        }
    };
    let (m, n) = (&a.meta, &b.meta);
    let kind = |m: &Metadata| format!("{:o}", m.mode() & 0o170_000);
    check(Fact::Kind, "kind", kind(m), kind(n));
    let mode = |m: &Metadata| format!("{:o}", m.mode() & 0o7777);
    check(Fact::Mode, "mode", mode(m), mode(n));
    check(Fact::Owner, "owner", m.uid().to_string(), n.uid().to_string());
    check(Fact::Owner, "group", m.gid().to_string(), n.gid().to_string());
    let time = |m: &Metadata| format!("{}.{:09}", m.mtime(), m.mtime_nsec());
    let fact_of_time = match () {
        () if m.is_dir() => Fact::FolderTimes,
        () if m.is_symlink() => Fact::LinkTimes,
        () if m.mtime() == n.mtime() => Fact::Times,
        () => Fact::Seconds,
    };
    check(fact_of_time, "mtime", time(m), time(n));
    check(Fact::LinkTarget, "link target", format!("{:?}", a.link), format!("{:?}", b.link));
    check(Fact::Devices, "device", m.rdev().to_string(), n.rdev().to_string());
    let first = |entry: &Entry| format!("{:?}", entry.first_name);
    check(Fact::HardLinks, "hard link", first(a), first(b));
    let names = |entry: &Entry| -> Vec<String> {
        entry.xattrs.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    };
    if a.xattrs != b.xattrs {
        let what = format!("attributes differ ({:?} and {:?})", names(a), names(b));
        found.push((Fact::Xattrs, what));
    }
    found
}

/// For each file: its length when the bytes are equal, none when they differ.
fn compare_contents(
    a: &Path,
    b: &Path,
    files: &[(&Path, u64)],
) -> Result<Vec<(PathBuf, Option<u64>)>, BenchError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut left, mut right) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        let mut found = Vec::new();
        while let Some((name, bytes)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (x, y) = (a.join(name), b.join(name));
            let equal = same_bytes(&x, &y, &mut left, &mut right)?;
            found.push((name.to_path_buf(), equal.then_some(*bytes)));
        }
        Ok(found)
    };
    let results: Vec<Result<Vec<_>, BenchError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let failed = || Err(BenchError::Panicked { step: "compare contents" });
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| failed())).collect()
    });
    let mut all = Vec::with_capacity(files.len());
    for result in results {
        all.append(&mut result?);
    }
    all.sort();
    Ok(all)
}

fn same_bytes(x: &Path, y: &Path, left: &mut [u8], right: &mut [u8]) -> Result<bool, BenchError> {
    let mut a = File::open(x).at("open", x)?;
    let mut b = File::open(y).at("open", y)?;
    loop {
        let m = read_full(&mut a, left).at("read", x)?;
        let n = read_full(&mut b, right).at("read", y)?;
        if left[..m] != right[..n] {
            return Ok(false);
        }
        if m == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::bench::generate::set_times;

    fn fill(root: &Path) {
        fs::create_dir_all(root.join("d")).expect("folder");
        for name in ["f", "d/g", "h"] {
            fs::write(root.join(name), vec![7u8; 300_000]).expect("file");
            let mode = fs::Permissions::from_mode(0o640);
            fs::set_permissions(root.join(name), mode).expect("mode");
        }
        fs::hard_link(root.join("h"), root.join("h2")).expect("hard link");
        symlink("f", root.join("l")).expect("link");
        still(root);
    }

    /// Sets all times to one, so that only a wanted difference shows.
    fn still(root: &Path) {
        for name in ["f", "d/g", "h", "h2", "l", "d", ""] {
            let path = if name.is_empty() { root.to_owned() } else { root.join(name) };
            if path.symlink_metadata().is_ok() {
                set_times(&path, UNIX_EPOCH + Duration::new(1_000, 5)).expect("times");
            }
        }
    }

    fn found_after(change: impl Fn(&Path)) -> Vec<String> {
        let folder = tempfile::tempdir().expect("temp folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fill(&a);
        fill(&b);
        change(&b);
        compare_trees(&a, &b).expect("compare").listed
    }

    #[test]
    fn equal_trees_are_equal_and_own_entry_is_skipped() {
        let none = found_after(|b| {
            fs::create_dir(b.join(".farshore")).expect("folder");
            fs::write(b.join(".farshore/x"), b"x").expect("file");
            still(b);
        });
        assert_eq!(none, Vec::<String>::new());
    }

    #[test]
    fn a_name_elsewhere_is_nothing_of_the_tree_and_a_name_writes_nothing_to_a_terminal() {
        let none = found_after(|b| {
            fs::hard_link(b.join("f"), b.with_extension("elsewhere")).expect("a name outside");
        });
        assert_eq!(none, Vec::<String>::new());
        let odd = found_after(|b| {
            fs::write(b.join("\u{1b}[31m\n"), b"").expect("write");
            still(b);
        });
        assert_eq!(odd, ["\\u{1b}[31m\\n: only in the second tree"]);
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        type Change = fn(&Path);
        let cases: [(&str, Change); 9] = [
            ("f: only in the first tree", |b| fs::remove_file(b.join("f")).expect("remove")),
            ("x: only in the second tree", |b| fs::write(b.join("x"), b"").expect("write")),
            ("f: content differs", |b| {
                let mut bytes = vec![7u8; 300_000];
                bytes[299_999] = 8;
                fs::write(b.join("f"), bytes).expect("write");
            }),
            ("f: mode differs (640 and 600)", |b| {
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(b.join("f"), mode).expect("mode");
            }),
            ("l: link target differs (Some(\"f\") and Some(\"g\"))", |b| {
                fs::remove_file(b.join("l")).expect("remove");
                symlink("g", b.join("l")).expect("link");
            }),
            ("f: kind differs (100000 and 40000)", |b| {
                fs::remove_file(b.join("f")).expect("remove");
                fs::create_dir(b.join("f")).expect("folder");
            }),
            ("h2: hard link differs (Some(\"h\") and None)", |b| {
                fs::remove_file(b.join("h2")).expect("remove");
                fs::copy(b.join("h"), b.join("h2")).expect("copy");
            }),
            ("f: attributes differ ([] and [\"user.k\"])", |b| {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(b.join("f"), "user.k", b"v", flags).expect("attribute");
            }),
            ("d/g: content differs", |b| fs::write(b.join("d/g"), b"short").expect("write")),
        ];
        for (wanted, change) in cases {
            let listed = found_after(|b| {
                change(b);
                still(b);
            });
            assert!(
                listed.iter().any(|line| line == wanted),
                "wanted {wanted:?}, found {listed:?}"
            );
        }
    }

    #[test]
    fn times_are_compared_to_the_nanosecond() {
        for name in ["f", "d", "l"] {
            let listed = found_after(|b| {
                set_times(&b.join(name), UNIX_EPOCH + Duration::new(1_000, 6)).expect("times");
            });
            let wanted = format!("{name}: mtime differs (1000.000000005 and 1000.000000006)");
            assert_eq!(listed, [wanted]);
        }
    }

    #[test]
    fn owners_are_compared() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let listed = found_after(|b| {
            std::os::unix::fs::lchown(b.join("f"), Some(3), Some(4)).expect("owner");
        });
        assert_eq!(listed, ["f: owner differs (0 and 3)", "f: group differs (0 and 4)"]);
    }
}
