//! The rules of the system, where the contract suite does not reach: what only the disk can arrange.

use farshore_core::entry::{DeviceNumber, Timestamp};

use super::*;
use crate::io::{FileKind, NewNode, Object, Storage};

pub(super) fn disk(config: SimConfig) -> SimDisk {
    let disk = SimDisk::new(config);
    disk.make_root("t").expect("root");
    disk
}

pub(super) fn seeded(seed: u64, crash_model: CrashModel) -> SimDisk {
    disk(SimConfig { seed, crash_model, ..SimConfig::default() })
}

pub(super) fn put(s: &SimStorage, at: &SimDirectory, name: &[u8], bytes: &[u8]) -> SimFile {
    let file = s.create_file(at, name).expect("create");
    s.write_at(&file, 0, bytes).expect("write");
    file
}

pub(super) fn sub(s: &SimStorage, at: &SimDirectory, name: &[u8]) -> SimDirectory {
    s.make_directory(at, name).expect("make");
    s.open_directory(at, name).expect("open")
}

pub(super) fn errno<T: fmt::Debug>(result: io::Result<T>) -> Errno {
    let error = result.expect_err("an error");
    Errno::from_raw_os_error(error.raw_os_error().expect("of the system"))
}

pub(super) fn names(s: &SimStorage, at: &SimDirectory) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    s.list(at, &mut |listed| names.push(listed.name.to_vec())).expect("list");
    names.sort();
    names
}

#[test]
fn links_and_parents_are_no_way_out() {
    let disk = seeded(1, CrashModel::Ordered);
    let s = disk.mount("t").expect("mount");
    sub(&s, s.root(), b"d");
    s.make_symlink(s.root(), b"l", b"d").expect("link");
    put(&s, s.root(), b"f", b"f");
    assert_eq!(errno(s.open_directory(s.root(), b"l")), Errno::LOOP);
    assert_eq!(errno(s.open_directory(s.root(), b"l/x")), Errno::LOOP);
    assert_eq!(errno(s.open_directory(s.root(), b"f")), Errno::NOTDIR);
    assert_eq!(errno(s.open_directory(s.root(), b"d/..")), Errno::XDEV);
    assert_eq!(errno(s.open_directory(s.root(), b"/d")), Errno::INVAL);
    assert_eq!(errno(s.open_file(s.root(), b"l")), Errno::LOOP);
    assert_eq!(errno(s.create_file(s.root(), b"l")), Errno::EXIST);
    assert_eq!(errno(s.create_file(s.root(), &[b'n'; 256])), Errno::NAMETOOLONG);
    assert_eq!(errno(s.link(s.root(), b"d", s.root(), b"e")), Errno::PERM);
    let other = seeded(1, CrashModel::Ordered).mount("t").expect("mount");
    assert_eq!(errno(s.link(s.root(), b"f", other.root(), b"f")), Errno::XDEV);
    assert_eq!(errno(s.rename(s.root(), b"f", other.root(), b"f")), Errno::XDEV);
}

#[test]
fn roots_of_one_disk_are_one_file_system() {
    let disk = seeded(1, CrashModel::Ordered);
    disk.make_root("u/v").expect("root");
    let (s, u) = (disk.mount("t").expect("mount"), disk.mount("u/v").expect("mount"));
    put(&s, s.root(), b"f", b"f");
    s.rename(s.root(), b"f", u.root(), b"g").expect("rename");
    assert_eq!(
        (names(&s, s.root()).len(), disk.read_file("u/v/g").expect("read")),
        (0, b"f".into())
    );
    assert_eq!(errno(disk.mount("u/w")), Errno::NOENT);
}

#[test]
fn mount_points_are_not_entered() {
    let disk = seeded(1, CrashModel::Ordered);
    disk.make_root("t/m").expect("root");
    disk.set_mount_point("t/m", true).expect("mark");
    let s = disk.mount("t").expect("mount");
    assert_eq!(errno(s.open_directory(s.root(), b"m")), Errno::XDEV);
    assert_eq!(errno(s.remove_directory(s.root(), b"m")), Errno::BUSY);
    assert_eq!(errno(s.rename(s.root(), b"m", s.root(), b"n")), Errno::BUSY);
    let device = |object| s.stat(object).expect("stat").device;
    assert_ne!(device(Object::Named(s.root(), b"m")), device(Object::Directory(s.root())));
    disk.set_mount_point("t/m", false).expect("unmark");
    s.open_directory(s.root(), b"m").expect("open");
}

#[test]
fn rename_keeps_the_rules() {
    let s = seeded(1, CrashModel::Ordered).mount("t").expect("mount");
    let r = s.root();
    let (a, b) = (sub(&s, r, b"a"), sub(&s, r, b"b"));
    put(&s, &a, b"f", b"1");
    put(&s, r, b"g", b"2");
    assert_eq!(errno(s.rename(r, b"a", &a, b"x")), Errno::INVAL);
    assert_eq!(errno(s.rename(r, b"b", r, b"a")), Errno::NOTEMPTY);
    assert_eq!(errno(s.rename(&a, b"f", r, b"a")), Errno::NOTEMPTY);
    assert_eq!(errno(s.rename(r, b"g", r, b"a")), Errno::ISDIR);
    assert_eq!(errno(s.rename(r, b"a", r, b"g")), Errno::NOTDIR);
    assert_eq!(errno(s.unlink(r, b"a")), Errno::ISDIR);
    assert_eq!(errno(s.remove_directory(r, b"g")), Errno::NOTDIR);
    assert_eq!(errno(s.remove_directory(r, b"a")), Errno::NOTEMPTY);
    s.rename(r, b"a", r, b"b").expect("over an empty one");
    assert_eq!(s.stat(Object::Directory(&b)).expect("stat").links, 0);
    assert_eq!(errno(s.create_file(&b, b"x")), Errno::NOENT);
    assert_eq!(names(&s, &a), [b"f"]);
    s.link(r, b"g", &a, b"h").expect("link");
    let before = s.stat(Object::Directory(r)).expect("stat");
    s.rename(r, b"g", &a, b"h").expect("one inode");
    assert_eq!(s.stat(Object::Directory(r)).expect("stat"), before);
    s.rename(&a, b"f", &a, b"h").expect("replace");
    assert_eq!(
        (names(&s, &a), names(&s, r)),
        (vec![b"h".to_vec()], vec![b"b".into(), b"g".into()])
    );
    assert_eq!(s.stat(Object::Named(r, b"g")).expect("stat").links, 1);
}

#[test]
fn times_and_bits_change_as_on_linux() {
    let disk = seeded(1, CrashModel::Ordered);
    disk.set_time(Timestamp { seconds: 5, nanos: 999_999_000 });
    let s = disk.mount("t").expect("mount");
    let file = put(&s, s.root(), b"f", b"f");
    let stat = |object| s.stat(object).expect("stat");
    let (first, root) = (stat(Object::File(&file)), stat(Object::Directory(s.root())));
    assert_eq!(root.mtime, Timestamp { seconds: 6, nanos: 0 });
    assert_eq!(first.mtime, Timestamp { seconds: 6, nanos: 1_000 });
    let mtime = Timestamp { seconds: -3, nanos: 7 };
    s.set_mtime(Object::File(&file), mtime).expect("time");
    let second = stat(Object::File(&file));
    assert_eq!((second.mtime, second.ctime > first.ctime), (mtime, true));
    s.link(s.root(), b"f", s.root(), b"g").expect("link");
    assert!(stat(Object::File(&file)).ctime > second.ctime);
    assert!(stat(Object::Directory(s.root())).mtime > root.mtime);

    s.set_xattr(Object::File(&file), b"security.capability", b"cap").expect("attribute");
    s.set_mode(Object::File(&file), 0o6755).expect("mode");
    s.set_owner(Object::Named(s.root(), b"g"), 7, 8).expect("owner");
    let owned = stat(Object::File(&file));
    assert_eq!((owned.mode, owned.uid, owned.gid), (0o755, 7, 8));
    assert!(s.xattrs(Object::File(&file)).expect("attributes").is_empty());
    s.set_mode(Object::File(&file), 0o2640).expect("mode");
    s.set_owner(Object::File(&file), 7, 8).expect("owner");
    assert_eq!(stat(Object::File(&file)).mode, 0o2640);
    let d = sub(&s, s.root(), b"d");
    s.set_owner(Object::Directory(&d), 1, 9).expect("owner");
    s.set_mode(Object::Directory(&d), 0o2775).expect("mode");
    put(&s, &d, b"f", b"");
    sub(&s, &d, b"e");
    assert_eq!(stat(Object::Named(&d, b"f")).gid, 9);
    assert_eq!(
        (stat(Object::Named(&d, b"e")).gid, stat(Object::Named(&d, b"e")).mode),
        (9, 0o2700)
    );
    assert_eq!(
        (stat(Object::Directory(&d)).links, stat(Object::Directory(s.root())).links),
        (3, 3)
    );
}

#[test]
fn what_is_open_outlives_its_name() {
    let disk = disk(SimConfig { capacity_bytes: 8192, ..SimConfig::default() });
    let s = disk.mount("t").expect("mount");
    let file = put(&s, s.root(), b"f", &[1; 8192]);
    s.unlink(s.root(), b"f").expect("unlink");
    assert_eq!(
        (s.free_bytes().expect("free"), s.stat(Object::File(&file)).expect("s").links),
        (0, 0)
    );
    assert_eq!(s.read_at(&file, 8000, &mut [0; 500]).expect("read"), 192);
    drop(file);
    assert_eq!(s.free_bytes().expect("free"), 8192);
}

#[test]
fn numbers_are_reused_only_on_request() {
    for reuse_inodes in [false, true] {
        let disk = disk(SimConfig { reuse_inodes, ..SimConfig::default() });
        let s = disk.mount("t").expect("mount");
        let first = s.stat(Object::File(&put(&s, s.root(), b"f", b""))).expect("stat").inode;
        s.unlink(s.root(), b"f").expect("unlink");
        let second = s.stat(Object::File(&put(&s, s.root(), b"g", b""))).expect("stat").inode;
        assert_eq!(first == second, reuse_inodes);
    }
}

#[test]
fn listing_has_its_own_order_and_may_be_called_into() {
    let s = seeded(3, CrashModel::Ordered).mount("t").expect("mount");
    for n in 0..50 {
        put(&s, s.root(), format!("{n:02}").as_bytes(), b"");
    }
    let mut seen = Vec::new();
    s.list(s.root(), &mut |listed| {
        let found = s.stat(Object::Named(s.root(), listed.name)).expect("stat");
        assert_eq!((found.inode, Some(FileKind::Regular)), (listed.inode, listed.kind));
        seen.push(listed.name.to_vec());
    })
    .expect("list");
    assert!(!seen.is_sorted());
    seen.sort();
    assert_eq!((seen.len(), seen), (50, names(&s, s.root())));
}

#[test]
fn snapshots_of_equal_trees_are_equal() {
    let disk = seeded(4, CrashModel::Ordered);
    disk.make_root("u").expect("root");
    for root in ["t", "u"] {
        let s = disk.mount(root).expect("mount");
        let file = put(&s, s.root(), b"f", b"f");
        // Zeros written and zeros of a hole are the same bytes.
        if root == "t" {
            s.write_at(&file, 4096, &[0; 4096]).expect("write");
        } else {
            s.set_len(&file, 8192).expect("lengthen");
        }
        let d = sub(&s, s.root(), b"d");
        s.link(s.root(), b"f", &d, b"g").expect("link");
        s.make_symlink(&d, b"l", b"x").expect("link");
        let number = DeviceNumber { major: 1, minor: 3 };
        s.make_node(&d, b"n", NewNode::CharDevice(number)).expect("node");
        for (at, name) in [(s.root(), &b"f"[..]), (&d, b"l"), (&d, b"n")] {
            s.set_mtime(Object::Named(at, name), Timestamp { seconds: 1, nanos: 1 }).expect("time");
        }
        for directory in [&d, s.root()] {
            let time = Timestamp { seconds: 2, nanos: 1 };
            s.set_mtime(Object::Directory(directory), time).expect("time");
        }
    }
    let (t, u) = (disk.snapshot_tree("t").expect("t"), disk.snapshot_tree("u").expect("u"));
    assert_eq!(t, u);
    assert_eq!(t[&b"f"[..]].hard_link_of, Some(b"d/g".into()));
    let s = disk.mount("u").expect("mount");
    let file = s.open_file_writable(s.root(), b"f").expect("open");
    s.write_at(&file, 8000, b"x").expect("write");
    s.set_mtime(Object::File(&file), Timestamp { seconds: 1, nanos: 1 }).expect("time");
    assert_ne!(t, disk.snapshot_tree("u").expect("u"));
}

#[test]
fn attributes_keep_the_rules() {
    let config = SimConfig { xattr_bytes_max: 100, ..SimConfig::default() };
    let s = disk(config).mount("t").expect("mount");
    put(&s, s.root(), b"f", b"");
    s.make_symlink(s.root(), b"l", b"f").expect("link");
    let (f, l) = (Object::Named(s.root(), b"f"), Object::Named(s.root(), b"l"));
    s.set_xattr(f, b"user.a", b"").expect("empty");
    s.set_xattr(l, b"trusted.a", b"b").expect("of a link");
    assert_eq!(errno(s.set_xattr(l, b"user.a", b"b")), Errno::PERM);
    assert_eq!(errno(s.set_xattr(f, b"other.a", b"b")), Errno::OPNOTSUPP);
    assert_eq!(errno(s.set_xattr(f, b"user.b", &[0; 90])), Errno::NOSPC);
    assert_eq!(errno(s.set_xattr(f, &[b'u'; 256], b"")), Errno::RANGE);
    assert_eq!(errno(s.remove_xattr(f, b"user.b")), Errno::NODATA);
    s.remove_xattr(f, b"user.a").expect("remove");
    let bare = disk(SimConfig { xattrs: false, ..SimConfig::default() }).mount("t").expect("mount");
    assert_eq!(
        errno(bare.set_xattr(Object::Directory(bare.root()), b"user.a", b"")),
        Errno::OPNOTSUPP
    );
    assert!(bare.xattrs(Object::Directory(bare.root())).expect("none").is_empty());
}

#[test]
fn sparse_copies_stay_sparse() {
    const SIZE: u64 = 17 << 40;
    let s = seeded(1, CrashModel::Ordered).mount("t").expect("mount");
    let from = s.create_file(s.root(), b"from").expect("create");
    s.set_len(&from, SIZE).expect("lengthen");
    s.write_at(&from, 9 << 40, b"middle").expect("write");
    let to = put(&s, s.root(), b"to", b"to be overwritten by a hole");
    s.copy_range(&from, 0, &to, 0, SIZE).expect("copy");
    let found = s.stat(Object::File(&to)).expect("stat");
    assert_eq!((found.size, found.allocated), (SIZE, 8192));
    let mut buf = [1; 8];
    s.read_at(&to, 0, &mut buf).expect("read");
    assert_eq!(buf, [0; 8]);
    s.read_at(&to, (9 << 40) - 1, &mut buf).expect("read");
    assert_eq!(&buf, b"\0middle\0");
    s.sync_all().expect("sync");
    s.disk().crash(1);
    let s = s.disk().mount("t").expect("mount");
    let to = s.open_file(s.root(), b"to").expect("open");
    assert_eq!(s.next_data(&to, 4096, SIZE).expect("data"), Some(9 << 40..(9 << 40) + 4096));
}
