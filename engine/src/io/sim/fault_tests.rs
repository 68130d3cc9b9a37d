//! Every operation fails, every operation is the last one.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::system_tests::{disk, errno, names, put, seeded};
use super::*;
use crate::io::{Object, Storage};

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("t");

/// Eleven operations: a file replaced the durable way, a directory made and taken away.
fn workload(s: &SimStorage) -> io::Result<()> {
    let file = s.create_file(s.root(), b"new")?;
    s.write_at(&file, 0, &[7; 10_000])?;
    s.set_mode(Object::File(&file), 0o640)?;
    s.set_xattr(Object::File(&file), b"user.a", b"b")?;
    s.sync_file(&file)?;
    s.rename(s.root(), b"new", s.root(), b"f")?;
    s.sync_directory(s.root())?;
    s.make_directory(s.root(), b"d")?;
    s.remove_directory(s.root(), b"d")?;
    s.unlink(s.root(), b"f")?;
    s.sync_all()
}

const WORKLOAD: u64 = 11;

#[test]
fn every_operation_fails_once() {
    for (fault, expected) in [
        (Fault::Eio, Errno::IO),
        (Fault::Enospc, Errno::NOSPC),
        (Fault::Edquot, Errno::DQUOT),
        (Fault::Erofs, Errno::ROFS),
    ] {
        for n in 1..=WORKLOAD {
            let disk = seeded(n, CrashModel::Hostile);
            let s = disk.mount("t").expect("mount");
            disk.fail_at(n, fault);
            assert_eq!(errno(workload(&s)), expected);
            assert_eq!(disk.operations(), n);
            for name in names(&s, s.root()) {
                match disk.snapshot_tree("t").expect("tree")[&name].kind {
                    crate::io::FileKind::Directory => s.remove_directory(s.root(), &name),
                    _ => s.unlink(s.root(), &name),
                }
                .expect("clean up");
            }
            workload(&s).expect("the second time");
            disk.fail_at(WORKLOAD + 1, fault);
            workload(&s).expect("beyond the end");
        }
    }
}

#[test]
fn the_power_is_cut_at_every_operation() {
    for n in 1..=WORKLOAD {
        let disk = seeded(n, CrashModel::Hostile);
        let s = disk.mount("t").expect("mount");
        disk.cut_power_at(n);
        assert_eq!(errno(workload(&s)), Errno::IO);
        assert!(disk.is_dead());
        assert_eq!(errno(s.stat(Object::Directory(s.root()))), Errno::IO);
        assert_eq!(errno(s.sync_all()), Errno::IO);
        assert_eq!(errno(disk.mount("t")), Errno::IO);
        assert_eq!(disk.operations(), n);
        disk.crash(n);
        assert_eq!(errno(s.stat(Object::Directory(s.root()))), Errno::IO, "a handle came back");
        let s = disk.mount("t").expect("mount");
        if (8..=9).contains(&n) {
            assert_eq!(disk.read_file("t/f").expect("durable"), [7; 10_000]);
        }
        let left = names(&s, s.root());
        assert!(left.iter().all(|name| [&b"new"[..], b"f", b"d"].contains(&&name[..])), "{left:?}");
    }
}

#[test]
fn a_sync_lies() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = seeded(seed, CrashModel::Ordered);
        let s = disk.mount("t").expect("mount");
        let file = put(&s, s.root(), b"f", &[1; 8192]);
        let other = put(&s, s.root(), b"g", &[2; 8192]);
        disk.fail_at(1, Fault::SyncLies);
        s.set_mode(Object::File(&file), 0o644).expect("no sync, no lie");
        assert_eq!(errno(s.sync_file(&file)), Errno::IO);
        s.sync_file(&file).expect("the lie");
        s.sync_file(&other).expect("not concerned");
        s.sync_directory(s.root()).expect("sync");
        assert_eq!(s.read_at(&file, 0, &mut [0; 10]).expect("cached"), 10);
        disk.crash(seed);
        assert_eq!(disk.read_file("t/f").expect("read"), [0; 8192]);
        assert_eq!(disk.read_file("t/g").expect("read"), [2; 8192]);

        let s = disk.mount("t").expect("mount");
        put(&s, s.root(), b"h", b"h");
        disk.fail_at(1, Fault::SyncLies);
        assert_eq!(errno(s.sync_directory(s.root())), Errno::IO);
        s.sync_directory(s.root()).expect("the lie");
        disk.crash(seed);
        assert!(!disk.snapshot_tree("t").expect("tree").contains_key(&b"h"[..]));

        let s = disk.mount("t").expect("mount");
        put(&s, s.root(), b"i", b"i");
        disk.fail_at(1, Fault::SyncLies);
        assert_eq!(errno(s.sync_all()), Errno::IO);
        s.sync_all().expect("the lie");
        disk.crash(seed);
        lost += usize::from(disk.read_file("t/i").expect("its name is durable") == b"\0");
    }
    assert_eq!(lost, 20);
}

#[test]
fn the_same_calls_are_the_same_disk() {
    let run = |seed| {
        let disk = disk(SimConfig { seed, trace_max: 1000, ..SimConfig::default() });
        for n in 1..=WORKLOAD {
            let s = disk.mount("t").expect("mount");
            disk.fail_at(1 + n / 2, Fault::Enospc);
            workload(&s).ok();
            disk.cut_power_at(n);
            workload(&s).ok();
            disk.crash(seed + n);
        }
        (disk.trace(), disk.snapshot_tree("").expect("tree"))
    };
    let (trace, tree) = run(1);
    assert_eq!((trace.clone(), tree), run(1));
    assert_ne!(trace, run(2).0);
    assert!(trace[0].starts_with("1 create file t/new: "), "{trace:#?}");
    let bounded = disk(SimConfig { trace_max: 3, ..SimConfig::default() });
    workload(&bounded.mount("t").expect("mount")).expect("run");
    assert_eq!(bounded.trace()[2], "11 sync all: ok");
    assert_eq!(bounded.trace().len(), 3);
}

#[test]
fn space_ends() {
    let config = SimConfig { capacity_bytes: 5 * 4096, capacity_inodes: 4, ..SimConfig::default() };
    let disk = disk(config);
    let s = disk.mount("t").expect("mount");
    let file = put(&s, s.root(), b"f", &[1; 3 * 4096]);
    let other = s.create_file(s.root(), b"g").expect("create");
    assert_eq!(errno(s.make_directory(s.root(), b"d")), Errno::NOSPC);
    assert_eq!(errno(s.write_at(&other, 100, &[2; 3 * 4096])), Errno::NOSPC);
    assert_eq!(s.stat(Object::File(&other)).expect("stat").size, 2 * 4096);
    assert_eq!(errno(s.allocate(&other, 0..3 * 4096)), Errno::NOSPC);
    assert_eq!(errno(s.copy_range(&file, 0, &other, 8192, 1)), Errno::NOSPC);
    s.write_at(&file, 4096, &[3; 8192]).expect("no new page");
    s.set_len(&file, 1).expect("shorten");
    assert_eq!(s.free_bytes().expect("free"), 2 * 4096);
    s.allocate(&other, 0..4 * 4096).expect("reserve");
    assert_eq!(s.free_bytes().expect("free"), 0);
    s.write_at(&other, 100, &[2; 3 * 4096]).expect("reserved");
    disk.set_capacity_bytes(10 * 4096);
    s.write_at(&file, 0, &[1; 3 * 4096]).expect("more space");
    assert_eq!(s.free_bytes().expect("free"), 3 * 4096);
    s.sync_all().expect("sync");
    disk.crash(0);
    let s = disk.mount("t").expect("mount");
    assert_eq!(s.free_bytes().expect("free"), 3 * 4096);
    disk.set_read_only(true);
    assert_eq!(errno(s.unlink(s.root(), b"f")), Errno::ROFS);
    s.sync_all().expect("sync");
}

#[test]
fn reads_fail() {
    let disk = seeded(1, CrashModel::Ordered);
    let s = disk.mount("t").expect("mount");
    let file = put(&s, s.root(), b"f", b"f");
    disk.fail_read_at(2, Fault::Eio);
    s.read_at(&file, 0, &mut [0]).expect("first");
    assert_eq!(errno(s.list(s.root(), &mut |_| panic!("listed"))), Errno::IO);
    assert_eq!(names(&s, s.root()), [b"f"]);
    assert_eq!(disk.reads(), 3);
}

/// Commits transactions until the disk dies; how many were acknowledged.
fn transactions(disk: &SimDisk) -> Option<u64> {
    let file = disk.database_file("t/db").ok()?;
    let db = Database::builder().create_with_backend(file).ok()?;
    for n in 0..6u64 {
        let commit = || -> Result<(), redb::Error> {
            let transaction = db.begin_write()?;
            {
                let mut table = transaction.open_table(TABLE)?;
                table.insert(n, &[n.to_le_bytes()[0]; 3000][..])?;
                table.insert(1000 + n, &n.to_le_bytes()[..])?;
                if n == 4 {
                    table.remove(0)?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        if commit().is_err() {
            return Some(n);
        }
    }
    Some(6)
}

/// What the transactions left, checked to be whole ones; `None` where it is no database.
fn committed(disk: &SimDisk) -> Option<u64> {
    let file = disk.database_file("t/db").expect("open file");
    let db = match Database::builder().create_with_backend(file) {
        Err(redb::DatabaseError::Storage(redb::StorageError::Io(error)))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            return None;
        }
        opened => opened.expect("open database"),
    };
    let read = db.begin_read().expect("read");
    let Ok(table) = read.open_table(TABLE) else { return Some(0) };
    let keys: Vec<u64> =
        table.iter().expect("iterate").map(|row| row.expect("row").0.value()).collect();
    let count = keys.iter().filter(|key| **key >= 1000).count() as u64;
    let mut expected: Vec<u64> = (u64::from(count > 4)..count).chain(1000..1000 + count).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    for n in u64::from(count > 4)..count {
        assert_eq!(table.get(n).expect("get").expect("there").value(), [n.to_le_bytes()[0]; 3000]);
    }
    Some(count)
}

#[test]
fn a_database_survives_the_cut_at_every_operation() {
    let whole = seeded(0, CrashModel::Hostile);
    assert_eq!(transactions(&whole), Some(6));
    let operations = whole.operations();
    assert!(operations > 20);
    let (mut behind, mut ahead, mut unmade) = (0, 0, 0);
    for n in 1..=operations {
        for (seed, model) in [
            (1, CrashModel::Ordered),
            (2, CrashModel::Hostile),
            (3, CrashModel::Hostile),
            (4, CrashModel::Hostile),
        ] {
            let disk = seeded(seed, model);
            disk.cut_power_at(n);
            let acknowledged = transactions(&disk);
            assert!(disk.is_dead());
            disk.crash(seed * 1000 + n);
            // Making a database is not atomic: until it was opened once, its file may be anything.
            // Whoever makes one makes it under another name and renames it.
            let Some(found) = committed(&disk) else {
                assert_eq!(acknowledged, None, "cut at {n}, seed {seed}: no database");
                unmade += 1;
                continue;
            };
            let acknowledged = acknowledged.unwrap_or(0);
            assert!((acknowledged..=acknowledged + 1).contains(&found), "cut at {n}, seed {seed}");
            behind += u64::from(found == acknowledged);
            ahead += u64::from(found > acknowledged);
        }
    }
    assert!(behind > 0 && ahead > 0 && unmade > 0, "{behind} {ahead} {unmade}");
}

#[test]
fn a_database_that_is_lied_to_does_not_acknowledge() {
    let disk = seeded(5, CrashModel::Hostile);
    disk.database_file("t/db").expect("create");
    let file = disk.database_file("t/db").expect("open");
    let db = Database::builder().create_with_backend(file).expect("open");
    disk.fail_at(1, Fault::SyncLies);
    let transaction = db.begin_write().expect("begin");
    transaction.open_table(TABLE).expect("table").insert(1, &b"x"[..]).expect("insert");
    transaction.commit().expect_err("the sync failed");
}
