//! What only the running system shows: races against links, mounts, what a mount keeps.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use farshore_core::entry::Timestamp;
use farshore_engine::io::batch::{NewSmallFile, SmallFile};
use farshore_engine::io::posix::PosixStorage;
use farshore_engine::io::uring::{IoMode, UringStorage};
use farshore_engine::io::{FileKind, Object, Storage};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::support::{content, directory, is_root, names, put, refused, stat, whole};
use crate::{disk_parent, open_in};

/// Times the racer swaps each of its two pairs at least.
const FLIPS_MIN: usize = 20_000;
/// Times the worker goes through everything at least.
const TURNS_MIN: usize = 3_000;

/// Facts of a file that show any change to it, content and attributes included.
type Facts = (u32, u32, u32, u64, u64, [i64; 4], Vec<u8>);

fn facts(path: &Path) -> Facts {
    let found = fs::symlink_metadata(path).expect("facts");
    let content = if found.is_file() { fs::read(path).expect("content") } else { Vec::new() };
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    (found.mode(), found.uid(), found.gid(), found.nlink(), found.size(), times, content)
}

/// How often the worker got through, and how often it was refused.
#[derive(Debug, Default)]
struct Seen {
    through: usize,
    refused: usize,
}

impl Seen {
    fn note<T>(&mut self, result: std::io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.through += 1;
                Some(value)
            }
            Err(error) => {
                let allowed =
                    [Errno::LOOP, Errno::NOTDIR, Errno::INVAL, Errno::OPNOTSUPP, Errno::PERM];
                assert!(
                    allowed.iter().any(|e| Some(e.raw_os_error()) == error.raw_os_error()),
                    "{error}"
                );
                self.refused += 1;
                None
            }
        }
    }
}

/// Everything an engine does below a directory and to a file that somebody swaps with links to
/// outside. `turn` makes the names differ.
fn work_below<S: Storage>(s: &S, turn: usize, seen: &mut Seen) {
    let root = s.root();
    let name = format!("made-{turn}").into_bytes();
    for path in [b"dir".as_slice(), b"dir/sub"] {
        let Some(d) = seen.note(s.open_directory(root, path)) else { continue };
        assert_eq!(content(s, &d, b"canary"), b"inside", "read outside");
        let file = put(s, &d, &name, b"made inside");
        s.set_mode(Object::Named(&d, &name), 0o640).expect("mode");
        s.set_mode(Object::Directory(&d), 0o711).expect("mode");
        s.sync_directory(&d).expect("sync");
        drop(file);
        let mut listed = 0;
        s.list(&d, &mut |entry| {
            assert_ne!(entry.name, b"outside-only", "listed outside");
            listed += 1;
        })
        .expect("list");
        assert!(listed >= 2);
        s.unlink(&d, &name).expect("unlink");
    }
    // Many by one call: the swapped one among others that stay.
    let names = [b"steady".as_slice(), b"file", b"dir", b"file-link", b"dir-link", b"steady"];
    let asked: Vec<_> = names.iter().map(|name| SmallFile { at: root, name }).collect();
    for (name, read) in names.iter().zip(s.read_small_files(&asked, 1 << 16)) {
        let read = read.map_err(|e| e.source);
        if *name == b"steady" {
            assert_eq!(read.expect("nobody touches it").bytes, b"steady");
        } else if let Some(read) = seen.note(read) {
            assert_eq!(&read.bytes[..6], b"inside", "read outside");
        }
    }
    let new = |name| NewSmallFile { at: root, name, mode: 0o600, bytes: b"made outside" };
    let there = names.map(new);
    for made in s.create_small_files(&there, &mut |_, _| panic!("made through a link")) {
        refused(made.map_err(|e| e.source), &[Errno::EXIST]);
    }
    let new = Timestamp { seconds: 77, nanos: 77 };
    for swapped in [b"dir".as_slice(), b"file"] {
        let object = Object::Named(root, swapped);
        seen.note(s.set_mode(object, 0o777));
        seen.note(s.set_mtime(object, new));
        seen.note(s.set_xattr(object, b"user.racer", b"x"));
        seen.note(s.xattrs(object).inspect(|all| {
            assert!(all.iter().all(|(name, _)| **name != *b"user.outside"), "attribute of outside");
        }));
        if is_root() {
            seen.note(s.set_owner(object, 1, 1));
            seen.note(s.set_xattr(object, b"trusted.racer", b"x"));
        }
        assert!(s.stat(object).expect("stat").size != 4_321, "facts of outside");
    }
    if let Some(file) = seen.note(s.open_file(root, b"file")) {
        assert_eq!(&whole(s, &file)[..6], b"inside", "read outside");
    }
    if let Some(file) = seen.note(s.open_file_writable(root, b"file")) {
        assert_eq!(&whole(s, &file)[..6], b"inside", "read outside");
        s.write_at(&file, 6, b" written").expect("write");
    }
}

/// Ends the racer, also when the worker panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A local user swaps a directory and a file with links to outside, over and over, while the engine
/// works there.
fn race<S: Storage>(parent: &str, storage: impl Fn(&Path) -> S) {
    let guard = tempfile::TempDir::new_in(parent).expect("temporary directory");
    let (inside, outside) = (guard.path().join("root"), guard.path().join("outside"));
    for d in [inside.join("dir/sub"), outside.join("sub")] {
        fs::create_dir_all(d).expect("directories");
    }
    for d in ["dir", "dir/sub"] {
        fs::write(inside.join(d).join("canary"), "inside").expect("canary");
    }
    fs::write(inside.join("file"), "inside").expect("file");
    fs::write(inside.join("steady"), "steady").expect("file");
    let secret = "s".repeat(4_321);
    for name in ["canary", "sub/canary", "outside-only", "sub/outside-only"] {
        fs::write(outside.join(name), &secret).expect("canary");
        fs::set_permissions(outside.join(name), fs::Permissions::from_mode(0o640)).expect("mode");
    }
    let canaries = ["", "sub", "canary", "sub/canary", "outside-only", "sub/outside-only"];
    for name in canaries {
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(outside.join(name), "user.outside", b"x", flags) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => panic!("{error}"),
        }
    }
    std::os::unix::fs::symlink("../outside", inside.join("dir-link")).expect("link");
    let canary = outside.join("canary");
    std::os::unix::fs::symlink(canary, inside.join("file-link")).expect("link");
    let before = canaries.map(|name| facts(&outside.join(name)));

    let s = storage(&inside);
    let (flipped, worked) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut flips = 0;
            while flips < FLIPS_MIN || !worked.load(Ordering::Relaxed) {
                flips += 1;
                flipped.store(flips >= FLIPS_MIN, Ordering::Relaxed);
                for pair in [["dir", "dir-link"], ["file", "file-link"]] {
                    let [a, b] = pair.map(|name| inside.join(name));
                    rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).expect("flip");
                }
            }
        });
        // A worker that fails must not leave the racer running.
        let _stop = StopOnDrop(&worked);
        let mut turn = 0;
        while turn < TURNS_MIN || !flipped.load(Ordering::Relaxed) {
            work_below(&s, turn, &mut seen);
            turn += 1;
        }
    });
    assert_eq!(canaries.map(|name| facts(&outside.join(name))), before, "changed outside");
    let mut left: Vec<_> =
        fs::read_dir(&outside).expect("list").map(|e| e.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["canary", "outside-only", "sub"]);
    assert!(seen.through > TURNS_MIN && seen.refused > TURNS_MIN, "no race to speak of: {seen:?}");
}

#[test]
fn links_swapped_in_lead_nowhere_in_memory() {
    race("/dev/shm", |root| PosixStorage::open(root).expect("open"));
}

#[test]
fn links_swapped_in_lead_nowhere_on_disk() {
    race(disk_parent(), |root| PosixStorage::open(root).expect("open"));
}

#[test]
fn links_swapped_in_lead_nowhere_without_recent_calls() {
    race("/dev/shm", |root| PosixStorage::open(root).expect("open").without_recent_calls());
}

#[test]
fn links_swapped_in_lead_nowhere_by_a_ring() {
    race("/dev/shm", |root| UringStorage::open(root, IoMode::Uring).expect("open"));
}

/// A ring is used where it was asked for, none where it was not; a refusal is said and does no harm.
#[test]
fn the_way_is_said() {
    let guard = tempfile::TempDir::new_in("/dev/shm").expect("temporary directory");
    let turn = |s: &UringStorage, name: &[u8]| {
        let file = NewSmallFile { at: s.root(), name, mode: 0o600, bytes: b"x" };
        assert!(s.create_small_files(&[file], &mut |_, _| {})[0].is_ok());
        let read = s.read_small_files(&[SmallFile { at: s.root(), name }], 10);
        assert_eq!(read[0].as_ref().expect("read").bytes, b"x");
        s.usage()
    };
    let asked = UringStorage::open(guard.path(), IoMode::Uring).expect("open");
    let usage = turn(&asked, b"asked");
    let files = |u: &farshore_engine::io::uring::VerbUsage| (u.plain_files, u.ring_files);
    if usage.refused.is_none() {
        assert_eq!((files(&usage.reads), files(&usage.creates)), ((0, 1), (0, 1)));
        assert!(asked.batch_files() > 1);
    }
    let plain = UringStorage::open_where(guard.path(), IoMode::Posix, || panic!("not asked for"));
    let plain = plain.expect("open");
    let usage = turn(&plain, b"plain");
    assert_eq!((files(&usage.reads), files(&usage.creates)), ((1, 0), (1, 0)));
    assert_eq!((usage.refused, plain.batch_files()), (None, 1));
    for mode in [IoMode::Auto, IoMode::Uring] {
        for code in [Errno::PERM, Errno::NOSYS, Errno::NOMEM, Errno::INVAL, Errno::OPNOTSUPP] {
            let refusing = || Err(code.into());
            let s = UringStorage::open_where(guard.path(), mode, refusing).expect("open");
            let usage = turn(&s, format!("{mode:?}-{code:?}").as_bytes());
            assert_eq!((files(&usage.reads), files(&usage.creates)), ((1, 0), (1, 0)));
            assert_eq!(s.batch_files(), 1);
            let said = usage.to_string();
            assert!(said.contains("io_uring not used: "), "{said}");
            assert!(said.contains(&std::io::Error::from(code).to_string()), "{said}");
        }
    }
}

/// A disk that is full fails the files that do not fit, and them alone.
#[test]
fn a_full_disk_fails_what_does_not_fit() {
    if let Some(root) = std::env::var_os(MOUNTED) {
        return fill(Path::new(&root));
    }
    if !is_root() {
        return;
    }
    let guard = tempfile::TempDir::new_in(disk_parent()).expect("temporary directory");
    let script = r#"mount -t tmpfs -o size=256k none "$1" || exit 99
        exec "$2" --exact system::a_full_disk_fails_what_does_not_fit --nocapture"#;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(guard.path())
        .arg(std::env::current_exe().expect("this test"))
        .env(MOUNTED, guard.path())
        .status()
        .expect("unshare");
    // 1 and 99: this container does not let us mount.
    assert!(matches!(status.code(), Some(0 | 1 | 99)), "{status}");
}

fn fill(root: &Path) {
    for mode in [IoMode::Posix, IoMode::Uring] {
        let s = UringStorage::open(root, mode).expect("open");
        let bytes = vec![7; 16 * 1024];
        let names: Vec<_> = (0..40).map(|i| format!("f{i}").into_bytes()).collect();
        let new = |name| NewSmallFile { at: s.root(), name, mode: 0o600, bytes: &bytes };
        let mut files: Vec<_> = names.iter().map(|name| new(&name[..])).collect();
        files.push(NewSmallFile { bytes: b"", ..new(b"empty") });
        let mut finished = 0;
        let made = s.create_small_files(&files, &mut |_, _| finished += 1);
        let (good, failed): (Vec<_>, Vec<_>) = made.iter().partition(|m| m.is_ok());
        assert!(good.len() > 8 && failed.len() > 20, "{mode:?}: {} fit", good.len());
        assert_eq!(finished, good.len());
        assert!(made[40].is_ok(), "what takes no space fits");
        for failed in failed {
            let e = failed.as_ref().expect_err("failed");
            assert_eq!(Errno::from_io_error(&e.source), Some(Errno::NOSPC), "{e}");
        }
        for (name, made) in names.iter().zip(&made) {
            if made.is_ok() {
                assert_eq!(content(&s, s.root(), name), bytes);
            }
        }
        for file in &files {
            s.unlink(s.root(), file.name).expect("unlink");
        }
    }
}

#[test]
fn access_time_is_left_by_a_ring() {
    let guard = tempfile::TempDir::new_in(disk_parent()).expect("temporary directory");
    let s = UringStorage::open(guard.path(), IoMode::Uring).expect("open");
    drop(put(&s, s.root(), b"f", b"content"));
    let path = guard.path().join("f");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(500);
    let times = fs::FileTimes::new().set_accessed(time);
    fs::File::open(&path).and_then(|f| f.set_times(times)).expect("set access time");
    let read = s.read_small_files(&[SmallFile { at: s.root(), name: b"f" }], 10);
    assert_eq!(read[0].as_ref().expect("read").bytes, b"content");
    assert_eq!(fs::metadata(&path).expect("facts").atime(), 500);
}

#[test]
fn root_may_be_reached_through_links() {
    let (s, guard) = open_in("/dev/shm");
    drop(put(&s, s.root(), b"f", b"f"));
    std::os::unix::fs::symlink(guard.path(), guard.path().join("self")).expect("link");
    let s = PosixStorage::open(&guard.path().join("self/self")).expect("open");
    assert_eq!(content(&s, s.root(), b"f"), b"f");
    let error = PosixStorage::open(&guard.path().join("f")).expect_err("a file");
    assert_eq!(error.raw_os_error(), Some(Errno::NOTDIR.raw_os_error()));
}

/// Where the inner half of [`mounts_are_not_crossed`] finds its root.
const MOUNTED: &str = "FARSHORE_TEST_MOUNTED";

#[test]
fn mounts_are_not_crossed() {
    if let Some(root) = std::env::var_os(MOUNTED) {
        return look_at_mounts(Path::new(&root));
    }
    if !is_root() {
        return;
    }
    let guard = tempfile::TempDir::new_in(disk_parent()).expect("temporary directory");
    for name in ["root/other/sub", "root/same/sub", "root/plain/sub", "elsewhere/sub"] {
        fs::create_dir_all(guard.path().join(name)).expect("directories");
    }
    let script = r#"cd "$1" && mount --bind root root && cd root &&
        mount -t tmpfs none other && mkdir other/sub &&
        mount --bind ../elsewhere same || exit 99
        exec "$2" --exact system::mounts_are_not_crossed --nocapture"#;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(guard.path())
        .arg(std::env::current_exe().expect("this test"))
        .env(MOUNTED, guard.path().join("root"))
        .status()
        .expect("unshare");
    // 1 and 99: this container does not let us mount.
    assert!(matches!(status.code(), Some(0 | 1 | 99)), "{status}");
}

fn look_at_mounts(root: &Path) {
    let open = || PosixStorage::open(root).expect("open");
    for s in [open(), open().without_recent_calls()] {
        for path in [b"other".as_slice(), b"other/sub", b"same", b"same/sub"] {
            refused(s.open_directory(s.root(), path), &[Errno::XDEV]);
        }
        let plain = s.open_directory(s.root(), b"plain/sub").expect("no mount");
        drop(put(&s, &plain, b"f", b"f"));
        s.unlink(&plain, b"f").expect("unlink");
    }
}

#[test]
fn access_time_is_left() {
    let (s, guard) = open_in(disk_parent());
    let path = guard.path().join("f");
    drop(put(&s, s.root(), b"f", b"content"));
    let long_ago = Timestamp { seconds: 1_000, nanos: 0 };
    fs::File::open(&path)
        .and_then(|f| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(500);
            f.set_times(fs::FileTimes::new().set_accessed(time))
        })
        .expect("set access time");
    assert_eq!(content(&s, s.root(), b"f"), b"content");
    s.set_mtime(Object::Named(s.root(), b"f"), long_ago).expect("set time");
    assert_eq!(fs::metadata(&path).expect("facts").atime(), 500);
}

#[test]
fn acls_and_labels() {
    let (s, _guard) = open_in(disk_parent());
    let file = put(&s, s.root(), b"f", b"f");
    let d = directory(&s, s.root(), b"d");
    // Version 2; owner rw, user 1 r, group none, mask r, others none.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, rights, id) in
        [(1, 6, u32::MAX), (2, 4, 1), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        acl.extend_from_slice(&[tag, 0, rights, 0]);
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let access: &[u8] = b"system.posix_acl_access";
    let default: &[u8] = b"system.posix_acl_default";
    match s.set_xattr(Object::File(&file), access, &acl) {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => return,
        other => other.expect("set ACL"),
    }
    s.set_xattr(Object::Directory(&d), default, &acl).expect("set default ACL");
    let of = |object| s.xattrs(object).expect("attributes");
    assert_eq!(of(Object::Named(s.root(), b"f")), [(access.into(), acl.clone().into())]);
    assert_eq!(of(Object::Named(s.root(), b"d")), [(default.into(), acl.into())]);
    // Made below a default ACL, a file stays private.
    drop(put(&s, &d, b"g", b"g"));
    assert_eq!(stat(&s, &d, b"g").mode, 0o600);
    s.remove_xattr(Object::File(&file), access).expect("remove");
    if is_root() {
        // Capabilities are data; the site's own labels are not.
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        s.set_xattr(Object::File(&file), b"security.capability", capability).expect("capability");
        for label in [b"security.selinux".as_slice(), b"security.ima", b"security.evm"] {
            // Some kernels refuse some of them; none may be listed.
            drop(s.set_xattr(Object::File(&file), label, b"\x01local"));
        }
        let expected = [(b"security.capability"[..].into(), capability[..].into())];
        assert_eq!(of(Object::File(&file)), expected);
        assert_eq!(of(Object::Named(s.root(), b"f")), expected);
        s.set_owner(Object::File(&file), 1, 1).expect("set owner");
        assert!(of(Object::File(&file)).is_empty(), "an owner's change drops capabilities");
    }
}

#[test]
fn directories_that_cannot_be_read() {
    let (s, _guard) = open_in("/dev/shm");
    let d = directory(&s, s.root(), b"d");
    drop(put(&s, &d, b"f", b"f"));
    s.set_mode(Object::Directory(&d), 0o300).expect("mode");
    let d = s.open_directory(s.root(), b"d").expect("open");
    assert_eq!(content(&s, &d, b"f"), b"f");
    let mtime = Timestamp { seconds: 5, nanos: 6 };
    s.set_mtime(Object::Directory(&d), mtime).expect("time");
    let found = s.stat(Object::Directory(&d)).expect("stat");
    assert_eq!((found.mtime, found.kind), (mtime, FileKind::Directory));
    s.set_owner(Object::Directory(&d), found.uid, found.gid).expect("owner");
    s.xattrs(Object::Directory(&d)).expect("attributes");
    if !is_root() {
        refused(s.list(&d, &mut |_| {}), &[Errno::ACCESS]);
        refused(s.sync_directory(&d), &[Errno::ACCESS]);
    }
    s.set_mode(Object::Directory(&d), 0o700).expect("mode");
    assert_eq!(names(&s, &d), [b"f"]);
}

#[test]
fn a_lock_has_one_holder_until_its_file_is_closed() {
    for parent in ["/dev/shm", disk_parent()] {
        let (s, _guard) = open_in(parent);
        let first = s.create_file(s.root(), b"lock").expect("create");
        assert!(s.try_lock(&first).expect("lock"));
        let second = s.open_file_writable(s.root(), b"lock").expect("open");
        assert!(!s.try_lock(&second).expect("asked"), "locked by two");
        drop(first);
        assert!(s.try_lock(&second).expect("lock"));
    }
}

#[test]
fn probing_leaves_nothing() {
    for parent in ["/dev/shm", disk_parent()] {
        let (s, _guard) = open_in(parent);
        let scratch = directory(&s, s.root(), b"scratch");
        let found = s.probe(&scratch).expect("probe");
        assert!(names(&s, &scratch).is_empty());
        assert!(found.timestamp_grain_ns == 1 && found.case_sensitive && found.names_verbatim);
        assert!(found.hard_links && found.symlinks && found.fifos && found.sockets);
        assert!(found.holes, "{found:?}");
        assert_eq!(found.owners, is_root());
    }
}

#[test]
fn handles_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<PosixStorage>();
    shared::<<PosixStorage as Storage>::Directory>();
    shared::<<PosixStorage as Storage>::File>();
}
