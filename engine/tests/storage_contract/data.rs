//! Content of files.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use farshore_engine::io::{Object, Storage};
use rustix::io::Errno;

use crate::support::{content, directory, pattern, put, refused, whole};

const TIB: u64 = 1 << 40;

pub(crate) fn read_and_write_at_offsets<S: Storage>(s: &S) {
    let file = s.create_file(s.root(), b"f").expect("create");
    let bytes = pattern(1_000_003);
    s.write_at(&file, 0, &bytes[..10]).expect("write");
    s.write_at(&file, 500_000, &bytes[500_000..]).expect("write");
    s.write_at(&file, 10, &bytes[10..500_000]).expect("write");
    assert!(whole(s, &file) == bytes);
    s.write_at(&file, 3, b"").expect("write nothing");
    let mut buf = vec![0; 4_097];
    assert_eq!(s.read_at(&file, 77_777, &mut buf).expect("read"), buf.len());
    assert!(buf == bytes[77_777..77_777 + 4_097]);
    assert!(content(s, s.root(), b"f") == bytes);
}

pub(crate) fn reading_beyond_the_end<S: Storage>(s: &S) {
    let file = put(s, s.root(), b"f", b"0123456789");
    let mut buf = [b'.'; 8];
    assert_eq!(s.read_at(&file, 6, &mut buf).expect("read"), 4);
    assert_eq!(&buf, b"6789....");
    assert_eq!(s.read_at(&file, 10, &mut buf).expect("read"), 0);
    assert_eq!(s.read_at(&file, 1 << 50, &mut buf).expect("read"), 0);
    assert_eq!(s.read_at(&file, 0, &mut []).expect("read"), 0);
}

pub(crate) fn lengths<S: Storage>(s: &S) {
    let file = put(s, s.root(), b"f", b"0123456789");
    s.set_len(&file, 4).expect("shorten");
    assert_eq!(whole(s, &file), b"0123");
    s.set_len(&file, 8).expect("lengthen");
    assert_eq!(whole(s, &file), b"0123\0\0\0\0");
    s.write_at(&file, 12, b"x").expect("write");
    assert_eq!(whole(s, &file), b"0123\0\0\0\0\0\0\0\0x");
    s.set_len(&file, 0).expect("empty");
    assert_eq!(whole(s, &file), b"");
    s.set_len(&file, 10 << 20).expect("a hole");
    let found = s.stat(Object::File(&file)).expect("stat");
    assert_eq!(found.size, 10 << 20);
    assert!(found.allocated < 1 << 20);
}

pub(crate) fn opened_to_read_is_not_written<S: Storage>(s: &S) {
    drop(put(s, s.root(), b"f", b"f"));
    let file = s.open_file(s.root(), b"f").expect("open");
    refused(s.write_at(&file, 0, b"x"), &[Errno::BADF]);
    refused(s.set_len(&file, 0), &[Errno::BADF, Errno::INVAL]);
    assert_eq!(content(s, s.root(), b"f"), b"f");
}

pub(crate) fn opened_writable<S: Storage>(s: &S) {
    drop(put(s, s.root(), b"f", b"0123"));
    let file = s.open_file_writable(s.root(), b"f").expect("open");
    assert_eq!(whole(s, &file), b"0123");
    s.write_at(&file, 2, b"xyz").expect("write");
    assert_eq!(content(s, s.root(), b"f"), b"01xyz");
}

pub(crate) fn allocation_changes_no_length<S: Storage>(s: &S) {
    let file = put(s, s.root(), b"f", b"0123");
    s.allocate(&file, 0..1 << 20).expect("allocate");
    s.allocate(&file, 5..5).expect("allocate nothing");
    assert_eq!(whole(s, &file), b"0123");
    s.write_at(&file, 0, b"x").expect("write");
    s.start_writeback(&file, 0..4);
    s.start_writeback(&file, 0..0);
    assert_eq!(whole(s, &file), b"x123");
}

/// All data of a file as the storage tells it, checked to be in order and inside the file.
fn all_data<S: Storage>(s: &S, file: &S::File, size: u64) -> Vec<std::ops::Range<u64>> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(data) = s.next_data(file, offset, size).expect("next data") {
        assert!(data.start >= offset && data.end > data.start && data.end <= size, "{data:?}");
        offset = data.end;
        found.push(data);
    }
    found
}

pub(crate) fn holes_are_found<S: Storage>(s: &S) {
    const MIB: u64 = 1 << 20;
    let file = s.create_file(s.root(), b"f").expect("create");
    assert_eq!(s.next_data(&file, 0, 0).expect("empty"), None);
    s.set_len(&file, 16 * MIB).expect("lengthen");
    s.write_at(&file, 2 * MIB, &pattern(65_536)).expect("write");
    s.write_at(&file, 10 * MIB + 5, b"x").expect("write");
    let data = all_data(s, &file, 16 * MIB);
    assert!(data.iter().any(|d| d.start <= 2 * MIB && d.end >= 2 * MIB + 65_536));
    assert!(data.iter().any(|d| d.contains(&(10 * MIB + 5))));
    let tells_holes = data.len() > 1 || data[0].start > 0;
    if tells_holes {
        let total: u64 = data.iter().map(|d| d.end - d.start).sum();
        assert!(total <= 4 * MIB, "{data:?}");
        assert_eq!(s.next_data(&file, 15 * MIB, 16 * MIB).expect("last"), None);
        let middle = s.next_data(&file, 2 * MIB + 100, 16 * MIB).expect("inside").expect("data");
        assert_eq!(middle.start, 2 * MIB + 100);
    }
    assert_eq!(s.next_data(&file, 16 * MIB, 16 * MIB).expect("at the end"), None);
    assert_eq!(s.next_data(&file, 99 * MIB, 16 * MIB).expect("beyond"), None);
    // The caller's size bounds what is told, even if the file is longer.
    let first = s.next_data(&file, 0, 2 * MIB + 7).expect("bounded").expect("data");
    assert_eq!(first.end, 2 * MIB + 7);
}

pub(crate) fn huge_sparse_file<S: Storage>(s: &S) {
    let file = s.create_file(s.root(), b"f").expect("create");
    let too_big = |e: &std::io::Error| e.raw_os_error() == Some(Errno::FBIG.raw_os_error());
    // Ext4 ends just below 16 TiB.
    let size = match s.set_len(&file, 17 * TIB) {
        Err(error) if too_big(&error) => {
            s.set_len(&file, 15 * TIB).expect("lengthen");
            15 * TIB
        }
        other => {
            other.expect("lengthen");
            17 * TIB
        }
    };
    s.write_at(&file, size - 4, b"tail").expect("write");
    s.write_at(&file, 9 * TIB, b"mid").expect("write");
    let begun = Instant::now();
    let data = all_data(s, &file, size);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(data.last().expect("data").end, size);
    let mut buf = [0; 8];
    assert_eq!(s.read_at(&file, size - 4, &mut buf).expect("read"), 4);
    assert_eq!(&buf[..4], b"tail");
    assert_eq!(s.read_at(&file, 9 * TIB - 1, &mut buf).expect("read"), 8);
    assert_eq!(&buf, b"\0mid\0\0\0\0");
    let found = s.stat(Object::File(&file)).expect("stat");
    assert_eq!(found.size, size);
    assert!(found.allocated < 64 << 20);
    let copy = s.create_file(s.root(), b"copy").expect("create");
    s.copy_range(&file, size - 4, &copy, 9 * TIB + 1, 4).expect("copy");
    assert_eq!(s.read_at(&copy, 9 * TIB, &mut buf).expect("read"), 5);
    assert_eq!(&buf[..5], b"\0tail");
}

pub(crate) fn copies_at_any_offset<S: Storage>(s: &S) {
    let bytes = pattern(300_000);
    let from = put(s, s.root(), b"from", &bytes);
    let to = s.create_file(s.root(), b"to").expect("create");
    let mut expected = Vec::new();
    for (from_offset, to_offset, len) in
        [(0, 0, 0), (0, 0, 100), (1, 100, 4_096), (4_096, 8_192, 131_072), (299_999, 200_000, 1)]
    {
        s.copy_range(&from, from_offset as u64, &to, to_offset as u64, len as u64).expect("copy");
        if expected.len() < to_offset + len {
            expected.resize(to_offset + len, 0);
        }
        expected[to_offset..to_offset + len]
            .copy_from_slice(&bytes[from_offset..from_offset + len]);
        assert!(whole(s, &to) == expected);
    }
    assert!(whole(s, &from) == bytes);
}

pub(crate) fn copies_of_many_blocks<S: Storage>(s: &S) {
    let d = directory(s, s.root(), b"d");
    let bytes = pattern((8 << 20) + 12_345);
    drop(put(s, s.root(), b"from", &bytes));
    let from = s.open_file(s.root(), b"from").expect("open");
    let to = s.create_file(&d, b"to").expect("create");
    s.copy_range(&from, 0, &to, 0, bytes.len() as u64).expect("copy");
    assert!(whole(s, &to) == bytes);
    // What one of the two is made of now is not changed by writing to the other.
    s.write_at(&to, 4_096, b"changed").expect("write");
    assert!(whole(s, &from) == bytes);
}

pub(crate) fn copy_beyond_the_end<S: Storage>(s: &S) {
    let from = put(s, s.root(), b"from", &pattern(10_000));
    let to = s.create_file(s.root(), b"to").expect("create");
    for (offset, len) in [(0, 10_001), (9_999, 2), (10_000, 1), (1 << 40, 4_096)] {
        let error = s.copy_range(&from, offset, &to, 0, len).expect_err("too short");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
    s.copy_range(&from, 10_000, &to, 0, 0).expect("nothing");
}

pub(crate) fn copy_inside_one_file<S: Storage>(s: &S) {
    let bytes = pattern(200_000);
    let file = put(s, s.root(), b"f", &bytes);
    let again = s.open_file(s.root(), b"f").expect("open");
    s.copy_range(&again, 0, &file, 200_000, 200_000).expect("beside");
    let mut expected = [bytes.as_slice(), &bytes].concat();
    assert!(whole(s, &file) == expected);
    s.copy_range(&file, 0, &file, 65_536, 65_536).expect("beside");
    expected.copy_within(0..65_536, 65_536);
    assert!(whole(s, &file) == expected);
    for (from_offset, to_offset) in [(0, 1), (1, 0), (0, 4_096), (8_192, 4_096), (7, 7)] {
        refused(s.copy_range(&again, from_offset, &file, to_offset, 10_000), &[Errno::INVAL]);
    }
    assert!(whole(s, &file) == expected);
}

pub(crate) fn syncs<S: Storage>(s: &S) {
    let d = directory(s, s.root(), b"d");
    let file = put(s, &d, b"f", b"f");
    s.sync_file(&file).expect("file");
    s.sync_directory(&d).expect("directory");
    s.sync_directory(s.root()).expect("root");
    s.sync_all().expect("all");
    assert_ne!(s.file_system().expect("magic"), 0);
    assert!(s.free_bytes().expect("free") > 0);
}
