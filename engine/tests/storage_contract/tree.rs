//! Names and what they lead to.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use farshore_core::entry::DeviceNumber;
use farshore_engine::io::{FileKind, NewNode, Object, Storage};
use rustix::io::Errno;

use crate::support::{content, directory, is_root, names, put, refused, stat};

/// What a bad name may give: refused as such, or as a way out.
const BAD_NAME: &[Errno] = &[Errno::INVAL, Errno::XDEV];
/// What a link as a component may give.
const LINK: &[Errno] = &[Errno::LOOP, Errno::NOTDIR];

pub(crate) fn root_is_a_directory<S: Storage>(s: &S) {
    let found = s.stat(Object::Directory(s.root())).expect("stat");
    assert_eq!(found.kind, FileKind::Directory);
    assert!(names(s, s.root()).is_empty());
}

pub(crate) fn directories_are_private_and_exclusive<S: Storage>(s: &S) {
    let root = s.root();
    s.make_directory(root, b"d").expect("make");
    let found = stat(s, root, b"d");
    assert_eq!((found.kind, found.mode), (FileKind::Directory, 0o700));
    drop(put(s, root, b"f", b""));
    s.make_symlink(root, b"l", b"missing").expect("link");
    for taken in [b"d", b"f", b"l"] {
        refused(s.make_directory(root, taken), &[Errno::EXIST]);
    }
    assert_eq!(names(s, root).len(), 3);
}

pub(crate) fn files_are_private_and_exclusive<S: Storage>(s: &S) {
    let root = s.root();
    let file = s.create_file(root, b"f").expect("create");
    let found = s.stat(Object::File(&file)).expect("stat");
    assert_eq!((found.kind, found.mode, found.size), (FileKind::Regular, 0o600, 0));
    assert_eq!(found.links, 1);
    s.make_directory(root, b"d").expect("make");
    s.make_symlink(root, b"l", b"missing").expect("link");
    s.make_symlink(root, b"k", b"f").expect("link");
    for taken in [b"f", b"d", b"l", b"k"] {
        refused(s.create_file(root, taken), &[Errno::EXIST]);
        refused(s.make_symlink(root, taken, b"x"), &[Errno::EXIST]);
        refused(s.make_node(root, taken, NewNode::Fifo), &[Errno::EXIST]);
        if taken != b"f" {
            refused(s.link(root, b"f", root, taken), &[Errno::EXIST]);
        }
    }
    refused(s.stat(Object::Named(root, b"missing")), &[Errno::NOENT]);
}

pub(crate) fn names_are_bytes<S: Storage>(s: &S) {
    let root = s.root();
    let longest = [b'n'; 255];
    let odd: [&[u8]; 9] = [
        b"line\nbreak",
        b"\xff\xfe\x80",
        b"-rf",
        b" ",
        b"...",
        b"a\\b",
        b"\x01\x1b[0m",
        "e\u{301}".as_bytes(),
        &longest,
    ];
    for name in odd {
        drop(put(s, root, name, name));
    }
    let mut expected: Vec<_> = odd.iter().map(|n| n.to_vec()).collect();
    expected.sort();
    assert_eq!(names(s, root), expected);
    for name in odd {
        assert_eq!(content(s, root, name), name);
        s.unlink(root, name).expect("unlink");
        s.make_directory(root, name).expect("make");
        s.open_directory(root, name).expect("open");
        s.remove_directory(root, name).expect("remove");
    }
    let too_long = [b'n'; 256];
    refused(s.create_file(root, &too_long), &[Errno::NAMETOOLONG]);
    refused(s.make_directory(root, &too_long), &[Errno::NAMETOOLONG]);
    refused(s.open_directory(root, &too_long), &[Errno::NAMETOOLONG]);
    assert!(names(s, root).is_empty());
}

pub(crate) fn what_is_no_name_is_refused<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    drop(put(s, root, b"f", b"f"));
    drop(put(s, &d, b"f", b"inside"));
    for bad in [b"".as_slice(), b".", b"..", b"d/f", b"../f", b"/", b"/etc", b"f\0", b"\0"] {
        let named = || Object::Named(&d, bad);
        refused(s.stat(named()), BAD_NAME);
        refused(s.open_file(&d, bad), BAD_NAME);
        refused(s.open_file_writable(&d, bad), BAD_NAME);
        refused(s.create_file(&d, bad), BAD_NAME);
        refused(s.make_directory(&d, bad), BAD_NAME);
        refused(s.make_symlink(&d, bad, b"x"), BAD_NAME);
        refused(s.make_node(&d, bad, NewNode::Fifo), BAD_NAME);
        refused(s.read_link(&d, bad), BAD_NAME);
        refused(s.link(&d, b"f", &d, bad), BAD_NAME);
        refused(s.link(&d, bad, &d, b"g"), BAD_NAME);
        refused(s.rename(&d, b"f", &d, bad), BAD_NAME);
        refused(s.rename(&d, bad, &d, b"g"), BAD_NAME);
        refused(s.unlink(&d, bad), BAD_NAME);
        refused(s.remove_directory(&d, bad), BAD_NAME);
        refused(s.xattrs(named()), BAD_NAME);
        refused(s.set_xattr(named(), b"user.a", b""), BAD_NAME);
        refused(s.remove_xattr(named(), b"user.a"), BAD_NAME);
        refused(s.set_owner(named(), 1, 1), BAD_NAME);
        refused(s.set_mode(named(), 0o777), BAD_NAME);
        refused(
            s.set_mtime(named(), farshore_core::entry::Timestamp { seconds: 1, nanos: 1 }),
            BAD_NAME,
        );
    }
    assert_eq!(names(s, root), [b"d", b"f"]);
    assert_eq!(names(s, &d), [b"f"]);
    assert_eq!(stat(s, root, b"d").mode, 0o700);
}

pub(crate) fn what_is_missing_is_not_found<S: Storage>(s: &S) {
    let root = s.root();
    let gone = &[Errno::NOENT];
    refused(s.stat(Object::Named(root, b"x")), gone);
    refused(s.open_file(root, b"x"), gone);
    refused(s.open_file_writable(root, b"x"), gone);
    refused(s.open_directory(root, b"x"), gone);
    refused(s.open_directory(root, b"x/y"), gone);
    refused(s.unlink(root, b"x"), gone);
    refused(s.remove_directory(root, b"x"), gone);
    refused(s.rename(root, b"x", root, b"y"), gone);
    refused(s.link(root, b"x", root, b"y"), gone);
    refused(s.read_link(root, b"x"), gone);
    refused(s.xattrs(Object::Named(root, b"x")), gone);
    refused(s.set_mode(Object::Named(root, b"x"), 0), gone);
    let d = directory(s, root, b"d");
    s.remove_directory(root, b"d").expect("remove");
    refused(s.create_file(&d, b"x"), gone);
}

pub(crate) fn links_are_no_components<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    drop(directory(s, &d, b"e"));
    drop(put(s, &d, b"f", b"f"));
    s.make_symlink(root, b"l", b"d").expect("link");
    s.make_symlink(root, b"out", b"/etc").expect("link");
    s.make_symlink(root, b"up", b"..").expect("link");
    s.make_symlink(&d, b"self", b".").expect("link");
    s.make_symlink(&d, b"file", b"f").expect("link");
    s.open_directory(root, b"d/e").expect("no link");
    for path in
        [b"l".as_slice(), b"l/e", b"out", b"out/ssl", b"up", b"up/d", b"d/self", b"d/self/e"]
    {
        refused(s.open_directory(root, path), LINK);
    }
    refused(s.open_directory(root, b"d/f"), &[Errno::NOTDIR]);
    refused(s.open_directory(root, b"d/f/e"), &[Errno::NOTDIR]);
    refused(s.open_file(&d, b"file"), &[Errno::LOOP]);
    refused(s.open_file_writable(&d, b"file"), &[Errno::LOOP]);
    assert_eq!(stat(s, root, b"l").kind, FileKind::Symlink);
}

pub(crate) fn parents_are_no_components<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    drop(directory(s, &d, b"e"));
    for path in [b"..".as_slice(), b"../d", b"e/..", b"e/../e", b"e/../.."] {
        refused(s.open_directory(&d, path), &[Errno::XDEV]);
    }
    refused(s.open_directory(root, b".."), &[Errno::XDEV]);
    for path in [b"/".as_slice(), b"/etc", b"d/", b"d//e", b"./d", b"d/.", b"d\0"] {
        refused(s.open_directory(root, path), BAD_NAME);
    }
}

pub(crate) fn empty_path_is_the_directory_itself<S: Storage>(s: &S) {
    let d = directory(s, s.root(), b"d");
    let same = s.open_directory(&d, b"").expect("open");
    drop(d);
    drop(put(s, &same, b"f", b"f"));
    let d = s.open_directory(s.root(), b"d").expect("open");
    assert_eq!(names(s, &d), [b"f"]);
}

pub(crate) fn paths_beyond_path_max<S: Storage>(s: &S) {
    let level = |n: u8| vec![b'a' + n % 26; 200];
    let mut handles = vec![s.open_directory(s.root(), b"").expect("root")];
    for n in 0..40 {
        handles.push(directory(s, &handles[usize::from(n)], &level(n)));
    }
    let path = (0..40).map(level).collect::<Vec<_>>().join(&b'/');
    assert!(path.len() > 2 * 4096 - 200);
    let deepest = s.open_directory(s.root(), &path).expect("open");
    assert_eq!(
        s.stat(Object::Directory(&deepest)).expect("stat").inode,
        s.stat(Object::Directory(&handles[40])).expect("stat").inode
    );
    drop(put(s, &deepest, b"f", b"deep"));
    assert_eq!(content(s, &handles[40], b"f"), b"deep");
    let at_level = |n: usize| s.open_directory(s.root(), &path[..n * 201 - 1]).expect("open");
    // Ends just below, at and above what the kernel takes at once.
    for n in [20, 21] {
        assert_eq!(names(s, &at_level(n)), [path[n * 201..(n + 1) * 201 - 1].to_vec()]);
    }
    let mut missing = path.clone();
    missing.extend_from_slice(b"/x");
    refused(s.open_directory(s.root(), &missing), &[Errno::NOENT]);
    missing.truncate(path.len());
    missing.extend_from_slice(b"/f");
    refused(s.open_directory(s.root(), &missing), &[Errno::NOTDIR]);
    s.unlink(&handles[40], b"f").expect("unlink");
    for n in (0..40).rev() {
        s.remove_directory(&handles[usize::from(n)], &level(n)).expect("remove");
    }
}

pub(crate) fn paths_of_just_path_max<S: Storage>(s: &S) {
    // Components that end at 4,094, 4,095 and 4,096 bytes: the kernel takes 4,095 at once.
    for last in [126, 127, 128] {
        let lens = [[255; 15].as_slice(), &[127, last, 3]].concat();
        let mut handle = s.open_directory(s.root(), b"").expect("root");
        for &len in &lens {
            handle = directory(s, &handle, &vec![b'n'; len]);
        }
        let path = lens.iter().map(|&len| vec![b'n'; len]).collect::<Vec<_>>().join(&b'/');
        assert_eq!(path.len(), 15 * 256 + 128 + last + 4);
        for len in [path.len(), path.len() - 4] {
            s.open_directory(s.root(), &path[..len]).expect("open");
        }
        let top = vec![b'n'; 255];
        s.rename(s.root(), &top, s.root(), format!("used-{last}").as_bytes()).expect("rename");
    }
}

pub(crate) fn listing_is_complete_and_independent<S: Storage>(s: &S) {
    let d = directory(s, s.root(), b"d");
    let mut expected = BTreeSet::new();
    for n in 0..10_000 {
        let name = format!("a name of some length, so that buffers fill up: {n}").into_bytes();
        drop(s.create_file(&d, &name).expect("create"));
        expected.insert(name);
    }
    s.make_directory(&d, b"dir").expect("make");
    s.make_symlink(&d, b"link", b"x").expect("link");
    expected.extend([b"dir".to_vec(), b"link".to_vec()]);
    let mut seen = BTreeSet::new();
    let mut nested = 0;
    s.list(&d, &mut |entry| {
        assert!(seen.insert(entry.name.to_vec()), "twice");
        let kind = match entry.name {
            b"dir" => FileKind::Directory,
            b"link" => FileKind::Symlink,
            _ => FileKind::Regular,
        };
        assert!(entry.kind.is_none_or(|k| k == kind));
        if seen.len() == 5_000 {
            assert_eq!(entry.inode, stat(s, &d, entry.name).inode);
            s.list(&d, &mut |_| nested += 1).expect("a list inside a list");
        }
    })
    .expect("list");
    assert_eq!(nested, expected.len());
    assert_eq!(seen, expected);
}

pub(crate) fn listing_without_opening_again_finds_all_every_time<S: Storage>(s: &S) {
    let d = directory(s, s.root(), b"d");
    for n in 0..3_000 {
        drop(s.create_file(&d, format!("name{n:04}").as_bytes()).expect("create"));
    }
    let new_names = |at: &S::Directory| {
        let mut names = Vec::new();
        s.list_new(at, &mut |entry| names.push(entry.name.to_vec())).expect("list");
        names.sort();
        names
    };
    // Opened by name, and copies of a handle: whoever listed before, nothing may be missing.
    let again = s.open_directory(s.root(), b"d").expect("open");
    let copies = [(); 2].map(|()| s.open_directory(&again, b"").expect("open"));
    for at in [&d, &again, &copies[0], &copies[1]] {
        assert_eq!(new_names(at), names(s, &d));
        assert_eq!(new_names(at), names(s, at));
    }
    let roots = [(); 2].map(|()| s.open_directory(s.root(), b"").expect("open"));
    for at in [&roots[0], &roots[1], s.root()] {
        assert_eq!(new_names(at), [b"d"]);
    }
    let mut outer = 0;
    s.list_new(&d, &mut |_| {
        outer += 1;
        if outer == 1_500 {
            assert_eq!(new_names(&again).len(), 3_000, "a list inside a list");
        }
    })
    .expect("list");
    assert_eq!(outer, 3_000);
}

pub(crate) fn unlink_and_remove_directory_keep_to_their_kind<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    drop(put(s, &d, b"f", b"f"));
    s.make_symlink(root, b"l", b"d").expect("link");
    refused(s.unlink(root, b"d"), &[Errno::ISDIR, Errno::PERM]);
    refused(s.remove_directory(root, b"d"), &[Errno::NOTEMPTY]);
    refused(s.remove_directory(&d, b"f"), &[Errno::NOTDIR]);
    refused(s.remove_directory(root, b"l"), &[Errno::NOTDIR]);
    s.unlink(root, b"l").expect("the link");
    assert_eq!(names(s, &d), [b"f"]);
    s.unlink(&d, b"f").expect("unlink");
    s.remove_directory(root, b"d").expect("remove");
    assert!(names(s, root).is_empty());
}

pub(crate) fn rename_replaces<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    drop(put(s, root, b"new", b"new"));
    let old = put(s, &d, b"old", b"old");
    s.rename(root, b"new", &d, b"old").expect("rename");
    assert_eq!(content(s, &d, b"old"), b"new");
    assert_eq!(s.stat(Object::File(&old)).expect("stat").links, 0);
    assert_eq!(names(s, root), [b"d"]);
    // Over a link: the link goes, what it leads to stays.
    drop(put(s, root, b"target", b"target"));
    s.make_symlink(root, b"l", b"target").expect("link");
    s.rename(&d, b"old", root, b"l").expect("rename");
    assert_eq!(content(s, root, b"l"), b"new");
    assert_eq!(content(s, root, b"target"), b"target");
}

pub(crate) fn rename_of_one_inode_does_nothing<S: Storage>(s: &S) {
    let root = s.root();
    drop(put(s, root, b"a", b"a"));
    s.link(root, b"a", root, b"b").expect("link");
    s.rename(root, b"a", root, b"b").expect("rename");
    assert_eq!(names(s, root), [b"a", b"b"]);
    s.rename(root, b"a", root, b"a").expect("rename to itself");
    assert_eq!(content(s, root, b"a"), b"a");
    assert_eq!(stat(s, root, b"a").links, 2);
}

pub(crate) fn rename_keeps_to_its_kind<S: Storage>(s: &S) {
    let root = s.root();
    let full = directory(s, root, b"full");
    drop(put(s, &full, b"f", b"f"));
    drop(directory(s, root, b"empty"));
    drop(directory(s, root, b"d"));
    drop(put(s, root, b"f", b"f"));
    refused(s.rename(root, b"f", root, b"d"), &[Errno::ISDIR]);
    refused(s.rename(root, b"d", root, b"f"), &[Errno::NOTDIR]);
    refused(s.rename(root, b"d", root, b"full"), &[Errno::NOTEMPTY, Errno::EXIST]);
    refused(s.rename(root, b"full", &full, b"inside"), &[Errno::INVAL]);
    s.rename(root, b"full", root, b"empty").expect("over an empty one");
    assert_eq!(names(s, root), [b"d".to_vec(), b"empty".to_vec(), b"f".to_vec()]);
    let moved = s.open_directory(root, b"empty").expect("open");
    assert_eq!(content(s, &moved, b"f"), b"f");
}

pub(crate) fn rename_moves_links_and_directories<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    s.make_symlink(root, b"l", b"d").expect("link");
    s.rename(root, b"l", &d, b"k").expect("rename");
    assert_eq!(s.read_link(&d, b"k").expect("read"), b"d");
    let e = directory(s, root, b"e");
    s.rename(root, b"d", &e, b"d").expect("rename");
    // The handle goes with the directory.
    drop(put(s, &d, b"f", b"moved"));
    let moved = s.open_directory(root, b"e/d").expect("open");
    assert_eq!(content(s, &moved, b"f"), b"moved");
}

pub(crate) fn exchange_swaps_or_says_it_cannot<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    drop(put(s, root, b"a", b"one"));
    drop(put(s, &d, b"b", b"other"));
    let inodes = (stat(s, root, b"a").inode, stat(s, &d, b"b").inode);
    let is_done = s.exchange(root, b"a", &d, b"b").expect("exchange");
    assert!(s.may_exchange() || !is_done);
    let (a, b): (&[u8], &[u8]) = if is_done { (b"other", b"one") } else { (b"one", b"other") };
    assert_eq!((content(s, root, b"a"), content(s, &d, b"b")), (a.to_vec(), b.to_vec()));
    let now = (stat(s, root, b"a").inode, stat(s, &d, b"b").inode);
    assert_eq!(now, if is_done { (inodes.1, inodes.0) } else { inodes });
    if is_done {
        refused(s.exchange(root, b"a", root, b"none").map(drop), &[Errno::NOENT]);
    }
}

pub(crate) fn rename_to_where_nothing_is<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    drop(put(s, root, b"a", b"one"));
    drop(put(s, &d, b"taken", b"other"));
    drop(directory(s, root, b"e"));
    if !s.rename_new(root, b"a", &d, b"b").expect("moved") {
        assert_eq!(content(s, root, b"a"), b"one");
        return;
    }
    assert_eq!((content(s, &d, b"b"), stat(s, &d, b"b").links), (b"one".to_vec(), 1));
    refused(s.stat(Object::Named(root, b"a")).map(drop), &[Errno::NOENT]);
    for (name, taken) in [(b"b", &b"taken"[..]), (b"b", b"b")] {
        refused(s.rename_new(&d, name, &d, taken).map(drop), &[Errno::EXIST]);
    }
    assert_eq!(content(s, &d, b"taken"), b"other");
    // Not over an empty directory either, as a plain rename would.
    drop(directory(s, root, b"f"));
    refused(s.rename_new(root, b"e", root, b"f").map(drop), &[Errno::EXIST]);
    assert!(s.rename_new(root, b"e", &d, b"e").expect("a directory moves"));
    refused(s.rename_new(root, b"none", &d, b"n").map(drop), &[Errno::NOENT]);
}

pub(crate) fn further_names<S: Storage>(s: &S) {
    let root = s.root();
    let d = directory(s, root, b"d");
    let file = put(s, root, b"a", b"one");
    s.link(root, b"a", &d, b"b").expect("link");
    let (a, b) = (stat(s, root, b"a"), stat(s, &d, b"b"));
    assert_eq!((a.inode, a.links, b.links), (b.inode, 2, 2));
    s.write_at(&file, 0, b"two").expect("write");
    assert_eq!(content(s, &d, b"b"), b"two");
    refused(s.link(root, b"a", &d, b"b"), &[Errno::EXIST]);
    refused(s.link(root, b"d", root, b"e"), &[Errno::PERM]);
    s.make_symlink(root, b"l", b"a").expect("link");
    s.link(root, b"l", root, b"k").expect("a further name of the link itself");
    assert_eq!(stat(s, root, b"k").kind, FileKind::Symlink);
    assert_eq!(stat(s, root, b"a").links, 2);
    s.unlink(root, b"a").expect("unlink");
    assert_eq!(stat(s, &d, b"b").links, 1);
}

pub(crate) fn symlinks_are_verbatim<S: Storage>(s: &S) {
    let root = s.root();
    let longest = [b't'; 4095];
    let targets: [&[u8]; 6] =
        [b"a", b"/absolute/./..//x", b"../../..", b"\xff\n\x01", b"d/", &longest];
    for target in targets {
        s.make_symlink(root, b"l", target).expect("link");
        assert_eq!(s.read_link(root, b"l").expect("read"), target);
        let found = stat(s, root, b"l");
        assert_eq!((found.kind, found.size), (FileKind::Symlink, target.len() as u64));
        s.unlink(root, b"l").expect("unlink");
    }
    drop(put(s, root, b"f", b"f"));
    refused(s.read_link(root, b"f"), &[Errno::INVAL]);
    drop(directory(s, root, b"d"));
    refused(s.read_link(root, b"d"), &[Errno::INVAL]);
    assert_eq!(names(s, root), [b"d", b"f"]);
}

pub(crate) fn nodes_are_made_and_never_opened<S: Storage>(s: &S) {
    let root = s.root();
    let number = DeviceNumber { major: 1, minor: 300 };
    let nodes = [
        (NewNode::Fifo, FileKind::Fifo),
        (NewNode::Socket, FileKind::Socket),
        (NewNode::CharDevice(number), FileKind::CharDevice),
        (NewNode::BlockDevice(number), FileKind::BlockDevice),
    ];
    for (node, kind) in nodes {
        let is_device = matches!(node, NewNode::CharDevice(_) | NewNode::BlockDevice(_));
        if is_device && !is_root() {
            refused(s.make_node(root, b"n", node), &[Errno::PERM]);
            continue;
        }
        s.make_node(root, b"n", node).expect("make");
        let found = stat(s, root, b"n");
        assert_eq!((found.kind, found.mode, found.size), (kind, 0o600, 0));
        if is_device {
            assert_eq!(found.number, number);
        }
        let begun = Instant::now();
        if found.kind != FileKind::CharDevice && found.kind != FileKind::BlockDevice {
            refused(s.open_file(root, b"n"), &[Errno::INVAL]);
            refused(s.open_file_writable(root, b"n"), &[Errno::INVAL]);
        } else {
            // A mount without devices says EACCES.
            refused(s.open_file(root, b"n"), &[Errno::INVAL, Errno::ACCESS]);
            refused(s.open_file_writable(root, b"n"), &[Errno::INVAL, Errno::ACCESS]);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "waited");
        refused(s.open_directory(root, b"n"), &[Errno::NOTDIR]);
        s.unlink(root, b"n").expect("unlink");
    }
}

pub(crate) fn only_regular_files_are_opened<S: Storage>(s: &S) {
    let root = s.root();
    drop(directory(s, root, b"d"));
    s.make_symlink(root, b"dangling", b"nowhere").expect("link");
    refused(s.open_file(root, b"d"), &[Errno::INVAL]);
    refused(s.open_file_writable(root, b"d"), &[Errno::INVAL]);
    refused(s.open_file(root, b"dangling"), &[Errno::LOOP]);
    refused(s.open_file_writable(root, b"dangling"), &[Errno::LOOP]);
    assert_eq!(names(s, root), [b"d".to_vec(), b"dangling".to_vec()]);
}

pub(crate) fn handles_outlive_names<S: Storage>(s: &S) {
    let root = s.root();
    let file = put(s, root, b"f", b"kept");
    s.unlink(root, b"f").expect("unlink");
    let mut buf = [0; 4];
    assert_eq!(s.read_at(&file, 0, &mut buf).expect("read"), 4);
    assert_eq!(&buf, b"kept");
    assert_eq!(s.stat(Object::File(&file)).expect("stat").links, 0);
}
