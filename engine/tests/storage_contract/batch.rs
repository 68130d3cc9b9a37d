//! Small files, many at a time: each has its own answer, the one it would get alone.

use farshore_core::entry::{DeviceNumber, NameAndValue};
use farshore_engine::io::batch::{NewSmallFile, SmallContent, SmallFile, StepError};
use farshore_engine::io::{NewNode, Object, Storage};
use rustix::io::Errno;

use crate::support::{content, directory, is_root, names, pattern, put, stat};

/// The longest small file here.
const SIZE_MAX: u64 = 10_000;

type Read = Result<SmallContent, StepError>;

fn read<S: Storage>(s: &S, at: &S::Directory, names: &[&[u8]]) -> Vec<Read> {
    let files: Vec<_> = names.iter().map(|name| SmallFile { at, name }).collect();
    s.read_small_files(&files, SIZE_MAX)
}

/// Creates files with content in one directory; the numbers `finish` heard of.
fn create<S: Storage>(
    s: &S,
    at: &S::Directory,
    files: &[(&[u8], &[u8])],
) -> (Vec<Result<(), StepError>>, Vec<usize>) {
    let files: Vec<NewSmallFile<'_, S>> =
        files.iter().map(|&(name, bytes)| NewSmallFile { at, name, mode: 0o640, bytes }).collect();
    let mut finished = Vec::new();
    let made = s.create_small_files(&files, &mut |number, file| {
        let size = s.stat(Object::File(file)).expect("facts of the handle").size;
        assert_eq!(size, files[number].bytes.len() as u64, "its bytes are there");
        finished.push(number);
    });
    assert_eq!(made.len(), files.len());
    (made, finished)
}

#[track_caller]
fn errno<T: std::fmt::Debug>(result: &Result<T, StepError>) -> Errno {
    let error = result.as_ref().expect_err("should be refused");
    Errno::from_io_error(&error.source).expect("an error of the system")
}

pub(crate) fn none_one_and_more_than_a_ring_holds<S: Storage>(s: &S) {
    assert!(read(s, s.root(), &[]).is_empty());
    assert_eq!(create(s, s.root(), &[]).1, [0_usize; 0]);
    for count in [1, 255, 256, 257, 600] {
        let d = directory(s, s.root(), format!("d{count}").as_bytes());
        let made: Vec<(Vec<u8>, Vec<u8>)> =
            (0..count).map(|i| (format!("f{i}").into_bytes(), pattern(i * 16 % 9_000))).collect();
        let given: Vec<(&[u8], &[u8])> = made.iter().map(|(n, b)| (&n[..], &b[..])).collect();
        let (created, finished) = create(s, &d, &given);
        assert!(created.iter().all(Result::is_ok));
        assert_eq!(finished, (0..count).collect::<Vec<_>>());
        let asked: Vec<&[u8]> = made.iter().map(|(n, _)| &n[..]).collect();
        let found = read(s, &d, &asked);
        assert_eq!(found.len(), count);
        for ((name, bytes), found) in made.iter().zip(found) {
            let found = found.expect("read");
            assert_eq!(&found.bytes, bytes);
            assert_eq!((found.before, found.after), (stat(s, &d, name), stat(s, &d, name)));
            assert_eq!(content(s, &d, name), *bytes);
        }
    }
}

pub(crate) fn files_of_several_directories<S: Storage>(s: &S) {
    let dirs = [directory(s, s.root(), b"a"), directory(s, s.root(), b"b")];
    let new: Vec<_> = dirs
        .iter()
        .zip([b"of a", b"of b"])
        .map(|(at, bytes)| NewSmallFile { at, name: b"same", mode: 0o600, bytes })
        .collect();
    assert!(s.create_small_files(&new, &mut |_, _| {}).iter().all(Result::is_ok));
    let asked: Vec<_> = dirs.iter().rev().map(|at| SmallFile { at, name: b"same" }).collect();
    let found = s.read_small_files(&asked, SIZE_MAX);
    let bytes: Vec<_> = found.into_iter().map(|f| f.expect("read").bytes).collect();
    assert_eq!(bytes, [b"of b", b"of a"]);
}

pub(crate) fn what_is_no_name_is_refused_alone<S: Storage>(s: &S) {
    drop(directory(s, s.root(), b"d"));
    drop(put(s, s.root(), b"good", b"good"));
    let wrong: [&[u8]; 8] = [b"", b".", b"..", b"/", b"d/f", b"/good", b"../good", b"g\0d"];
    let mut asked: Vec<&[u8]> = wrong.to_vec();
    asked.insert(4, b"good");
    let found = read(s, s.root(), &asked);
    let mut given: Vec<(&[u8], &[u8])> = wrong.iter().map(|name| (*name, &b"x"[..])).collect();
    given.insert(4, (b"new", b"new"));
    let (made, finished) = create(s, s.root(), &given);
    for i in (0..asked.len()).filter(|i| *i != 4) {
        assert_eq!(errno(&found[i]), Errno::INVAL, "{:?}", asked[i]);
        assert_eq!(errno(&made[i]), Errno::INVAL, "{:?}", asked[i]);
    }
    assert_eq!(found[4].as_ref().expect("read").bytes, b"good");
    assert!(made[4].is_ok());
    assert_eq!(finished, [4]);
    assert_eq!(content(s, s.root(), b"new"), b"new");
    assert_eq!(names(s, s.root()), [&b"d"[..], b"good", b"new"]);
}

pub(crate) fn only_regular_files_are_read<S: Storage>(s: &S) {
    drop(put(s, s.root(), b"first", b"first"));
    drop(put(s, s.root(), b"last", b"last"));
    drop(directory(s, s.root(), b"d"));
    s.make_symlink(s.root(), b"link", b"first").expect("link");
    s.make_symlink(s.root(), b"out", b"/etc/passwd").expect("link");
    s.make_node(s.root(), b"fifo", NewNode::Fifo).expect("pipe");
    s.make_node(s.root(), b"socket", NewNode::Socket).expect("socket");
    let mut refused: Vec<(&[u8], Errno)> = vec![
        (b"d", Errno::INVAL),
        (b"link", Errno::LOOP),
        (b"out", Errno::LOOP),
        (b"fifo", Errno::INVAL),
        (b"socket", Errno::INVAL),
        (b"gone", Errno::NOENT),
    ];
    if is_root() {
        let null = NewNode::CharDevice(DeviceNumber { major: 1, minor: 3 });
        s.make_node(s.root(), b"null", null).expect("device");
        refused.push((b"null", Errno::INVAL));
    }
    let mut asked: Vec<&[u8]> = vec![b"first"];
    asked.extend(refused.iter().map(|(name, _)| *name));
    asked.push(b"last");
    let found = read(s, s.root(), &asked);
    for ((name, expected), found) in refused.iter().zip(&found[1..]) {
        assert_eq!(errno(found), *expected, "{}", name.escape_ascii());
    }
    for i in [0, found.len() - 1] {
        assert_eq!(found[i].as_ref().expect("read").bytes, asked[i]);
    }
}

pub(crate) fn what_is_there_stays<S: Storage>(s: &S) {
    drop(put(s, s.root(), b"file", b"before"));
    drop(directory(s, s.root(), b"d"));
    s.make_symlink(s.root(), b"link", b"file").expect("link");
    s.make_symlink(s.root(), b"dangling", b"made-through-it").expect("link");
    let (made, finished) = create(
        s,
        s.root(),
        &[
            (b"new", b"new"),
            (b"file", b"after"),
            (b"d", b"after"),
            (b"link", b"after"),
            (b"dangling", b"after"),
            (b"new", b"twice"),
            (b"other", b""),
        ],
    );
    for i in [1, 2, 3, 4] {
        assert_eq!(errno(&made[i]), Errno::EXIST, "{i}");
    }
    // Of two of one name one is made; which, nobody promises.
    assert_eq!(made.iter().filter(|m| m.is_ok()).count(), 2);
    assert_eq!((finished.len(), finished.last()), (2, Some(&6)));
    assert!([&b"new"[..], b"twice"].contains(&&content(s, s.root(), b"new")[..]));
    assert_eq!(content(s, s.root(), b"file"), b"before");
    assert_eq!(content(s, s.root(), b"other"), b"");
    assert!(names(s, s.root()).iter().all(|name| name != b"made-through-it"));
}

pub(crate) fn facts_and_attributes_come_along<S: Storage>(s: &S) {
    let plain = put(s, s.root(), b"plain", b"plain");
    let marked = put(s, s.root(), b"marked", b"marked");
    drop(plain);
    let attribute: NameAndValue = (b"user.mark"[..].into(), b"\0value"[..].into());
    let kept = s.set_xattr(Object::File(&marked), &attribute.0, &attribute.1).is_ok();
    let found = read(s, s.root(), &[b"marked", b"plain"]);
    let [marked, plain] = &found[..] else { panic!("two results") };
    let (marked, plain) = (marked.as_ref().expect("read"), plain.as_ref().expect("read"));
    assert_eq!(marked.xattrs, if kept { vec![attribute] } else { Vec::new() });
    assert!(plain.xattrs.is_empty());
    assert_eq!(plain.before, stat(s, s.root(), b"plain"));
    assert_eq!(plain.after, plain.before);
}

pub(crate) fn modes_are_given_and_handles_are_of_the_file<S: Storage>(s: &S) {
    let new = |name, mode| NewSmallFile { at: s.root(), name, mode, bytes: b"x" };
    let files = [new(b"given".as_slice(), 0o600), new(b"set", 0o600)];
    let made = s.create_small_files(&files, &mut |number, file| {
        if number == 1 {
            s.set_mode(Object::File(file), 0o4711).expect("mode");
        }
    });
    assert!(made.iter().all(Result::is_ok));
    assert_eq!(stat(s, s.root(), b"given").mode, 0o600);
    assert_eq!(stat(s, s.root(), b"set").mode, 0o4711);
}

pub(crate) fn of_longer_files_nothing_is_read<S: Storage>(s: &S) {
    let len = usize::try_from(SIZE_MAX).expect("small");
    drop(put(s, s.root(), b"longest", &pattern(len)));
    drop(put(s, s.root(), b"longer", &pattern(len + 1)));
    let huge = put(s, s.root(), b"huge", b"");
    s.set_len(&huge, 1 << 40).expect("length");
    let found = read(s, s.root(), &[b"huge", b"longest", b"longer"]);
    let found: Vec<_> = found.into_iter().map(|f| f.expect("looked at")).collect();
    assert_eq!(found[1].bytes, pattern(len));
    for (i, size) in [(0, 1 << 40), (2, SIZE_MAX + 1)] {
        assert_eq!((found[i].before.size, found[i].bytes.len()), (size, 0));
    }
}

pub(crate) fn directories_that_vanished<S: Storage>(s: &S) {
    let d = directory(s, s.root(), b"d");
    s.remove_directory(s.root(), b"d").expect("removed");
    let asked = [SmallFile { at: &d, name: b"f" }, SmallFile { at: s.root(), name: b"f" }];
    drop(put(s, s.root(), b"f", b"f"));
    let found = s.read_small_files(&asked, SIZE_MAX);
    assert_eq!(errno(&found[0]), Errno::NOENT);
    assert!(found[1].is_ok());
    let new = |at, name| NewSmallFile { at, name, mode: 0o600, bytes: b"x" };
    let files = [new(&d, b"g"), new(s.root(), b"g")];
    let made = s.create_small_files(&files, &mut |_, _| {});
    assert_eq!(errno(&made[0]), Errno::NOENT);
    assert!(made[1].is_ok());
}
