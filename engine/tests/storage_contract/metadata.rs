//! Owner, mode, times, attributes.

use farshore_core::entry::Timestamp;
use farshore_engine::io::{NewNode, Object, Stat, Storage};
use rustix::io::Errno;

use crate::support::{directory, is_root, pattern, put, refused, stat};

/// A name for each kind that has metadata of its own, and a handle where there is one.
struct Objects<S: Storage> {
    file: S::File,
    directory: S::Directory,
}

/// `f`, `d`, `p` (a pipe) and `l`, a link to `target`.
fn objects<S: Storage>(s: &S) -> Objects<S> {
    let root = s.root();
    drop(put(s, root, b"target", b"target"));
    s.make_symlink(root, b"l", b"target").expect("link");
    s.make_node(root, b"p", NewNode::Fifo).expect("pipe");
    Objects { file: put(s, root, b"f", b"content"), directory: directory(s, root, b"d") }
}

impl<S: Storage> Objects<S> {
    /// Every way to say an object, beside its name; links not among them.
    fn each<'a>(&'a self, s: &'a S) -> [(Object<'a, S>, &'static [u8]); 5] {
        let root = s.root();
        [
            (Object::File(&self.file), b"f"),
            (Object::Directory(&self.directory), b"d"),
            (Object::Named(root, b"f"), b"f"),
            (Object::Named(root, b"d"), b"d"),
            (Object::Named(root, b"p"), b"p"),
        ]
    }
}

/// What must not move when a link to it is changed.
fn still(found: &Stat) -> (u32, u32, u32, Timestamp, Timestamp) {
    (found.mode, found.uid, found.gid, found.mtime, found.ctime)
}

pub(crate) fn stat_of_handle_and_name_agree<S: Storage>(s: &S) {
    let all = objects(s);
    for (object, name) in all.each(s) {
        assert_eq!(s.stat(object).expect("stat"), stat(s, s.root(), name));
    }
    let found = stat(s, s.root(), b"f");
    assert_eq!(found.size, 7);
    assert_eq!(found.device, s.stat(Object::Directory(s.root())).expect("stat").device);
}

pub(crate) fn modes<S: Storage>(s: &S) {
    let all = objects(s);
    for mode in [0, 0o600, 0o755, 0o444, 0o1777, 0o4755, 0o2755, 0o6711, 0o7777, 0o700] {
        for (object, name) in all.each(s) {
            s.set_mode(object, mode).expect("set mode");
            assert_eq!(stat(s, s.root(), name).mode, mode, "{object:?}");
        }
    }
}

pub(crate) fn mode_of_a_link_is_refused<S: Storage>(s: &S) {
    drop(objects(s));
    let before = stat(s, s.root(), b"target");
    refused(s.set_mode(Object::Named(s.root(), b"l"), 0o777), &[Errno::OPNOTSUPP]);
    assert_eq!(still(&stat(s, s.root(), b"target")), still(&before));
}

pub(crate) fn owners<S: Storage>(s: &S) {
    let all = objects(s);
    let root = s.root();
    if !is_root() {
        refused(s.set_owner(Object::File(&all.file), 12_345, 12_345), &[Errno::PERM]);
        return;
    }
    let before = stat(s, root, b"target");
    let link = (Object::Named(root, b"l"), b"l".as_slice());
    for (object, name) in all.each(s).into_iter().chain([link]) {
        for (uid, gid) in [(1_000, 2_000), (0, 0), (4_294_967_294, 4_294_967_294), (65_534, 7)] {
            s.set_owner(object, uid, gid).expect("set owner");
            let found = stat(s, root, name);
            assert_eq!((found.uid, found.gid), (uid, gid), "{object:?}");
        }
    }
    assert_eq!(still(&stat(s, root, b"target")), still(&before));
}

pub(crate) fn owner_clears_setuid_and_mode_restores_it<S: Storage>(s: &S) {
    let file = put(s, s.root(), b"f", b"f");
    let this = Object::File(&file);
    let found = s.stat(this).expect("stat");
    s.set_mode(this, 0o6755).expect("set mode");
    s.set_owner(this, found.uid, found.gid).expect("set owner");
    assert_eq!(s.stat(this).expect("stat").mode, 0o755);
    s.set_mode(this, 0o6755).expect("set mode");
    assert_eq!(s.stat(this).expect("stat").mode, 0o6755);
}

pub(crate) fn owner_that_means_none_is_refused<S: Storage>(s: &S) {
    let file = put(s, s.root(), b"f", b"f");
    refused(s.set_owner(Object::File(&file), u32::MAX, 0), &[Errno::INVAL]);
    refused(s.set_owner(Object::File(&file), 0, u32::MAX), &[Errno::INVAL]);
}

pub(crate) fn times_to_the_nanosecond<S: Storage>(s: &S) {
    let all = objects(s);
    let times = [
        (0, 0),
        (0, 1),
        (1_700_000_000, 123_456_789),
        (-1, 999_999_999),
        (-1_000_000_000, 1),
        (2_147_483_648, 999_999_999),
        (4_102_444_801, 5),
        (9_000_000_000, 987_654_321),
    ];
    for (seconds, nanos) in times {
        let mtime = Timestamp { seconds, nanos };
        for (object, name) in all.each(s) {
            s.set_mtime(object, mtime).expect("set time");
            assert_eq!(stat(s, s.root(), name).mtime, mtime, "{object:?}");
        }
    }
    for nanos in [1_000_000_000, 0x3fff_ffff, 0x3fff_fffe, u32::MAX] {
        let mtime = Timestamp { seconds: 0, nanos };
        refused(s.set_mtime(Object::File(&all.file), mtime), &[Errno::INVAL]);
    }
}

pub(crate) fn time_of_a_link_is_its_own<S: Storage>(s: &S) {
    drop(objects(s));
    let before = stat(s, s.root(), b"target");
    let mtime = Timestamp { seconds: 1_234_567_890, nanos: 42 };
    s.set_mtime(Object::Named(s.root(), b"l"), mtime).expect("set time");
    assert_eq!(stat(s, s.root(), b"l").mtime, mtime);
    assert_eq!(still(&stat(s, s.root(), b"target")), still(&before));
}

/// Attributes of an object, sorted, the site's own aside.
fn attributes<S: Storage>(s: &S, object: Object<'_, S>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all: Vec<_> = s
        .xattrs(object)
        .expect("attributes")
        .into_iter()
        .map(|(name, value)| (name.into_vec(), value.into_vec()))
        .collect();
    all.sort();
    all
}

/// Whether a file can have `user.*` here; a tmpfs before Linux 6.6 cannot.
fn has_user_attributes<S: Storage>(s: &S, object: Object<'_, S>) -> bool {
    match s.set_xattr(object, b"user.try", b"") {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => false,
        other => {
            other.expect("set attribute");
            s.remove_xattr(object, b"user.try").expect("remove attribute");
            true
        }
    }
}

pub(crate) fn user_attributes<S: Storage>(s: &S) {
    let all = objects(s);
    if !has_user_attributes(s, Object::File(&all.file)) {
        return;
    }
    for (object, name) in all.each(s) {
        assert!(attributes(s, object).is_empty());
        if name == b"p" {
            refused(s.set_xattr(object, b"user.a", b"x"), &[Errno::PERM, Errno::OPNOTSUPP]);
            continue;
        }
        s.set_xattr(object, b"user.b", b"first").expect("set");
        s.set_xattr(object, b"user.b", b"\0\xffsecond").expect("replace");
        s.set_xattr(object, b"user.empty", b"").expect("set");
        s.set_xattr(object, b"user.\xff\n", b"x").expect("set");
        let expected = [
            (b"user.b".to_vec(), b"\0\xffsecond".to_vec()),
            (b"user.empty".to_vec(), Vec::new()),
            (b"user.\xff\n".to_vec(), b"x".to_vec()),
        ];
        assert_eq!(attributes(s, object), expected);
        assert_eq!(attributes(s, Object::Named(s.root(), name)), expected);
        for (name, _) in expected {
            s.remove_xattr(object, &name).expect("remove");
        }
        assert!(attributes(s, object).is_empty());
    }
}

pub(crate) fn attributes_of_many_lengths<S: Storage>(s: &S) {
    let all = objects(s);
    let this = Object::File(&all.file);
    if !has_user_attributes(s, this) {
        return;
    }
    // Below, at and above the lengths a reader may guess.
    let mut expected = Vec::new();
    for len in [1, 255, 511, 512, 513, 900] {
        let name = format!("user.{len:0>150}").into_bytes();
        let value = pattern(len);
        s.set_xattr(this, &name, &value).expect("set");
        expected.push((name, value));
    }
    expected.sort();
    assert_eq!(attributes(s, this), expected);
    assert_eq!(attributes(s, Object::Named(s.root(), b"f")), expected);
    for (name, _) in &expected {
        s.remove_xattr(this, name).expect("remove");
    }
    // The system's own limit; ext4 has no room for it.
    let value = pattern(65_536);
    match s.set_xattr(this, b"user.big", &value) {
        Ok(()) => {
            assert_eq!(attributes(s, this), [(b"user.big".to_vec(), value)]);
        }
        Err(error) => refused::<()>(Err(error), &[Errno::NOSPC, Errno::TOOBIG, Errno::RANGE]),
    }
    refused(s.set_xattr(this, b"user.over", &pattern(65_537)), &[Errno::TOOBIG]);
    refused(s.set_xattr(this, &[b"user.".as_slice(), &[b'n'; 251]].concat(), b""), &[Errno::RANGE]);
}

pub(crate) fn attribute_that_is_not_there<S: Storage>(s: &S) {
    let all = objects(s);
    if !has_user_attributes(s, Object::File(&all.file)) {
        return;
    }
    refused(s.remove_xattr(Object::File(&all.file), b"user.none"), &[Errno::NODATA]);
    refused(s.remove_xattr(Object::Named(s.root(), b"d"), b"user.none"), &[Errno::NODATA]);
    refused(s.set_xattr(Object::File(&all.file), b"nonsense", b""), &[Errno::OPNOTSUPP]);
}

pub(crate) fn trusted_attributes_of_anything<S: Storage>(s: &S) {
    if !is_root() {
        return;
    }
    let all = objects(s);
    let link = (Object::Named(s.root(), b"l"), b"l".as_slice());
    for (object, name) in all.each(s).into_iter().chain([link]) {
        match s.set_xattr(object, b"trusted.a", b"of it") {
            // Root of a container, or a file system without.
            Err(error) if error.raw_os_error() != Some(Errno::INVAL.raw_os_error()) => {
                refused::<()>(Err(error), &[Errno::PERM, Errno::OPNOTSUPP]);
                return;
            }
            other => other.expect("set"),
        }
        let expected = [(b"trusted.a".to_vec(), b"of it".to_vec())];
        assert_eq!(attributes(s, object), expected);
        assert_eq!(attributes(s, Object::Named(s.root(), name)), expected);
        assert!(attributes(s, Object::Named(s.root(), b"target")).is_empty());
        s.remove_xattr(object, b"trusted.a").expect("remove");
        assert!(attributes(s, object).is_empty());
    }
}
