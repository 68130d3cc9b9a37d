//! What a crash leaves: the promises hold at every seed, and what is not promised is broken at some.

use super::crash::Rng;
use super::system_tests::{disk, errno, names, put, seeded, sub};
use super::*;
use crate::io::{FileKind, NewNode, Object, Storage};

const MODELS: [CrashModel; 2] = [CrashModel::Ordered, CrashModel::Hostile];
const SEEDS: u64 = 150;
const OLD: [u8; 10_000] = [b'o'; 10_000];
const NEW: [u8; 12_000] = [b'n'; 12_000];

/// Runs `work` on a fresh disk per seed and model, crashes it, and counts what `judge` calls it.
fn outcomes(
    model: CrashModel,
    work: impl Fn(&SimStorage),
    judge: impl Fn(&SimDisk) -> &'static str,
) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for seed in 0..SEEDS {
        let disk = seeded(seed, model);
        work(&disk.mount("t").expect("mount"));
        disk.crash(seed);
        *counts.entry(judge(&disk)).or_default() += 1;
    }
    counts
}

/// `t/f` as a word.
fn state_of_f(disk: &SimDisk) -> &'static str {
    match disk.read_file("t/f") {
        Err(_) => "absent",
        Ok(bytes) if bytes == OLD => "old",
        Ok(bytes) if bytes == NEW => "new",
        Ok(_) => "broken",
    }
}

fn exactly(counts: &BTreeMap<&'static str, u64>, expected: &[&'static str]) {
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), expected, "{counts:?}");
}

#[test]
fn what_was_not_synced_may_be_lost() {
    for model in MODELS {
        let work = |s: &SimStorage| drop(put(s, s.root(), b"f", &NEW));
        exactly(&outcomes(model, work, state_of_f), &["absent", "broken", "new"]);
    }
}

#[test]
fn a_synced_file_is_whole_and_its_name_is_not_promised() {
    for model in MODELS {
        let work = |s: &SimStorage| {
            s.sync_file(&put(s, s.root(), b"f", &NEW)).expect("sync");
        };
        exactly(&outcomes(model, work, state_of_f), &["absent", "new"]);
    }
}

#[test]
fn a_synced_name_is_there_and_its_content_is_not_promised() {
    for model in MODELS {
        let work = |s: &SimStorage| {
            drop(put(s, s.root(), b"f", &NEW));
            s.sync_directory(s.root()).expect("sync");
        };
        exactly(&outcomes(model, work, state_of_f), &["broken", "new"]);
    }
}

#[test]
fn both_syncs_or_the_whole_disk_keep_it() {
    for model in MODELS {
        let both = |s: &SimStorage| {
            s.sync_file(&put(s, s.root(), b"f", &NEW)).expect("sync");
            s.sync_directory(s.root()).expect("sync");
        };
        exactly(&outcomes(model, both, state_of_f), &["new"]);
        let all = |s: &SimStorage| {
            put(s, s.root(), b"f", &NEW);
            s.sync_all().expect("sync");
        };
        exactly(&outcomes(model, all, state_of_f), &["new"]);
    }
}

/// Replaces a durable `f`, with the syncs asked for.
fn replace(s: &SimStorage, file: bool, directory: bool) {
    put(s, s.root(), b"f", &OLD);
    s.sync_all().expect("sync");
    let temporary = put(s, s.root(), b"t", &NEW);
    if file {
        s.sync_file(&temporary).expect("sync");
    }
    s.rename(s.root(), b"t", s.root(), b"f").expect("rename");
    if directory {
        s.sync_directory(s.root()).expect("sync");
    }
}

#[test]
fn replacing_is_atomic_only_with_the_file_synced() {
    for model in MODELS {
        let run = |file, directory| outcomes(model, |s| replace(s, file, directory), state_of_f);
        exactly(&run(true, true), &["new"]);
        exactly(&run(true, false), &["new", "old"]);
        exactly(&run(false, true), &["broken", "new"]);
        exactly(&run(false, false), &["broken", "new", "old"]);
    }
}

#[test]
fn a_rename_leaves_one_name() {
    for model in MODELS {
        for synced in ["", "from", "to", "new"] {
            let work = |s: &SimStorage| {
                let (from, to) = (sub(s, s.root(), b"from"), sub(s, s.root(), b"to"));
                s.sync_file(&put(s, &from, b"f", &NEW)).expect("sync");
                s.sync_all().expect("sync");
                // To a directory that is there, and on to one that is not durable.
                s.rename(&from, b"f", &to, b"g").expect("rename");
                let new = sub(s, s.root(), b"new");
                s.rename(&to, b"g", &new, b"h").expect("rename");
                match synced {
                    "from" => s.sync_directory(&from).expect("sync"),
                    "to" => s.sync_directory(&to).expect("sync"),
                    "new" => s.sync_directory(&new).expect("sync"),
                    _ => {}
                }
            };
            let judge = |disk: &SimDisk| {
                let tree = disk.snapshot_tree("t").expect("tree");
                let mut places = Vec::new();
                for (path, place) in [("from/f", "from"), ("to/g", "to"), ("new/h", "new")] {
                    if tree.contains_key(path.as_bytes()) {
                        assert_eq!(disk.read_file(format!("t/{path}")).expect("read"), NEW);
                        places.push(place);
                    }
                }
                assert_eq!(places.len(), 1, "{places:?}");
                assert!(synced != "new" || places == ["new"] || !tree.contains_key(&b"new"[..]));
                places[0]
            };
            let counts = outcomes(model, work, judge);
            match synced {
                "from" => assert!(!counts.contains_key("from"), "{counts:?}"),
                "to" => exactly(&counts, &["new"]),
                "new" => exactly(&counts, &["new", "to"]),
                _ => exactly(&counts, &["from", "new", "to"]),
            }
        }
    }
}

#[test]
fn removals_are_durable_with_their_directory() {
    for model in MODELS {
        let work = |sync: bool| {
            move |s: &SimStorage| {
                let d = sub(s, s.root(), b"d");
                put(s, &d, b"a", b"a");
                put(s, &d, b"b", b"b");
                s.sync_all().expect("sync");
                s.unlink(&d, b"a").expect("unlink");
                let e = sub(s, s.root(), b"e");
                s.rename(&d, b"b", &e, b"b").expect("rename");
                s.remove_directory(s.root(), b"d").expect("remove");
                if sync {
                    s.sync_directory(s.root()).expect("sync");
                }
            }
        };
        let judge = |disk: &SimDisk| {
            let tree = disk.snapshot_tree("t").expect("tree");
            let moved = tree.contains_key(&b"e/b"[..]);
            assert!(moved != tree.contains_key(&b"d/b"[..]));
            if tree.contains_key(&b"d"[..]) { "there" } else { "gone" }
        };
        exactly(&outcomes(model, work(true), judge), &["gone"]);
        exactly(&outcomes(model, work(false), judge), &["gone", "there"]);
    }
}

#[test]
fn facts_need_their_sync() {
    for model in MODELS {
        for covers in [false, true] {
            let mut seen = [BTreeMap::new(), BTreeMap::new()];
            for seed in 0..SEEDS {
                let config = SimConfig {
                    seed,
                    crash_model: model,
                    directory_sync_covers_facts: covers,
                    ..SimConfig::default()
                };
                let disk = disk(config);
                let s = disk.mount("t").expect("mount");
                let (f, d) = (put(&s, s.root(), b"f", b"f"), sub(&s, s.root(), b"d"));
                s.sync_all().expect("sync");
                s.set_mode(Object::File(&f), 0o640).expect("mode");
                s.set_mode(Object::Directory(&d), 0o750).expect("mode");
                s.sync_directory(&d).expect("sync");
                if seed % 2 == 0 {
                    s.sync_file(&f).expect("sync");
                }
                disk.crash(seed);
                let tree = disk.snapshot_tree("t").expect("tree");
                let (file, directory) = (tree[&b"f"[..]].mode, tree[&b"d"[..]].mode);
                assert!(seed % 2 == 1 || file == 0o640);
                *seen[0].entry(file).or_insert(0) += 1;
                *seen[1].entry(directory).or_insert(0) += 1;
            }
            assert_eq!(seen[0].len(), 2);
            assert_eq!(seen[1].len(), if covers { 1 } else { 2 }, "{seen:?}");
        }
    }
}

#[test]
fn ordered_keeps_a_prefix_and_hostile_does_not() {
    for model in MODELS {
        let mut gaps = 0;
        for seed in 0..SEEDS {
            let disk = seeded(seed, model);
            let s = disk.mount("t").expect("mount");
            for n in 0..10 {
                put(&s, s.root(), &[b'0' + n], b"");
            }
            disk.crash(seed);
            let left = names(&disk.mount("t").expect("mount"), disk.mount("t").expect("m").root());
            gaps += u64::from(left.iter().zip(0..10).any(|(name, n)| name[..] != [b'0' + n]));
        }
        assert_eq!(gaps > 0, model == CrashModel::Hostile, "{gaps}");
    }
}

#[test]
fn pages_are_torn_one_by_one() {
    for (model, zero) in
        [(CrashModel::Ordered, false), (CrashModel::Hostile, false), (CrashModel::Hostile, true)]
    {
        let (mut mixed, mut torn, mut zeroed) = (0, 0, 0);
        for seed in 0..SEEDS {
            let config = SimConfig {
                seed,
                crash_model: model,
                zero_overwritten_pages: zero,
                ..SimConfig::default()
            };
            let disk = disk(config);
            let s = disk.mount("t").expect("mount");
            let file = put(&s, s.root(), b"f", &[b'o'; 16 * 4096]);
            s.sync_all().expect("sync");
            s.write_at(&file, 0, &[b'n'; 16 * 4096]).expect("write");
            disk.crash(seed);
            let bytes = disk.read_file("t/f").expect("read");
            assert!(
                bytes.len() == 16 * 4096 && bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0]))
            );
            let whole = |byte| bytes.chunks(4096).filter(|p| p.iter().all(|b| *b == byte)).count();
            mixed += u64::from(whole(b'n') > 0 && whole(b'o') > 0);
            zeroed += whole(0);
            torn += 16 - whole(b'n') - whole(b'o') - whole(0);
        }
        assert!(mixed > 0);
        assert_eq!(torn > 0, model == CrashModel::Hostile);
        assert_eq!(zeroed > 0, zero);
    }
}

#[test]
fn numbers_stay_unique() {
    for seed in 0..SEEDS {
        let disk = disk(SimConfig { seed, reuse_inodes: true, ..SimConfig::default() });
        let s = disk.mount("t").expect("mount");
        put(&s, s.root(), b"a", b"");
        s.sync_all().expect("sync");
        for name in [b"a", b"b", b"c"] {
            s.unlink(s.root(), name).ok();
            put(&s, s.root(), &[name[0] + 1], b"");
        }
        if seed % 3 == 0 {
            s.sync_directory(s.root()).expect("sync");
        }
        disk.crash(seed);
        let s = disk.mount("t").expect("mount");
        put(&s, s.root(), b"z", b"");
        let mut numbers = Vec::new();
        s.list(s.root(), &mut |listed| numbers.push(listed.inode)).expect("list");
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{numbers:?}");
        assert!(seed % 3 != 0 || numbers.len() == 2);
    }
}

/// Some hundred operations on a few names in a few directories.
fn random_work(s: &SimStorage, rng: &mut Rng, operations: u64, sync: bool) {
    for _ in 0..operations {
        let mut at = Vec::new();
        for _ in 0..2 {
            let path = *rng.pick(&[&b""[..], b"a", b"b", b"a/b"]);
            at.push(
                s.open_directory(s.root(), path)
                    .unwrap_or_else(|_| s.open_directory(s.root(), b"").expect("root")),
            );
        }
        let (x, y) = ([*rng.pick(b"abcde")], [*rng.pick(b"abcde")]);
        let open = || s.open_file_writable(&at[0], &x);
        let named = Object::Named(&at[0], &x[..]);
        let size = rng.below(20_000);
        // Most of these fail, as they should.
        let done = match rng.below(if sync { 17 } else { 15 }) {
            0 => s.create_file(&at[0], &x).map(drop),
            1 | 2 => s.make_directory(&at[0], &x),
            3 => s.make_symlink(&at[0], &x, b"target"),
            4 => s.make_node(&at[0], &x, NewNode::Fifo),
            5 => s.link(&at[0], &x, &at[1], &y),
            6 | 7 => s.rename(&at[0], &x, &at[1], &y),
            8 => s.unlink(&at[0], &x),
            9 => s.remove_directory(&at[0], &x),
            10 => open().and_then(|f| s.write_at(&f, size, &[x[0]; 9_000])),
            11 => open().and_then(|f| s.set_len(&f, size)),
            12 => s.set_owner(named, x[0].into(), 1).and_then(|()| s.set_mode(named, 0o4711)),
            13 => s.set_xattr(named, b"trusted.a", &y),
            14 => s.set_mtime(named, Timestamp { seconds: -i64::from(x[0]), nanos: 0 }),
            15 => s.sync_directory(&at[0]),
            _ => open().and_then(|f| s.sync_file(&f)),
        };
        if let Err(error) = done {
            assert_ne!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
        }
    }
}

fn check_consistent(disk: &SimDisk) {
    let s = disk.mount("").expect("mount");
    let mut found: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (path, entry) in disk.snapshot_tree("").expect("tree") {
        let Some(slash) = path.iter().rposition(|b| *b == b'/').map(|at| at + 1).or(Some(0)) else {
            continue;
        };
        if entry.kind == FileKind::Directory || path.is_empty() {
            continue;
        }
        let at = s.open_directory(s.root(), &path[..slash.saturating_sub(1)]).expect("open");
        let stat = s.stat(Object::Named(&at, &path[slash..])).expect("stat");
        let seen = found.entry(stat.inode).or_insert((stat.links, 0));
        seen.1 += 1;
    }
    assert!(found.values().all(|(links, names)| links == names), "{found:?}");
}

#[test]
fn the_whole_disk_synced_is_what_was_seen() {
    for seed in 0..60 {
        for model in MODELS {
            let disk = seeded(seed, model);
            let mut rng = Rng::new(seed, 1);
            for round in 0..4 {
                let s = disk.mount("t").expect("mount");
                random_work(&s, &mut rng, 300, true);
                check_consistent(&disk);
                s.sync_all().expect("sync");
                let (seen, free) =
                    (disk.snapshot_tree("").expect("tree"), s.free_bytes().expect("f"));
                disk.crash(round);
                assert_eq!(disk.snapshot_tree("").expect("tree"), seen, "seed {seed} {model:?}");
                assert_eq!(disk.mount("").expect("mount").free_bytes().expect("free"), free);
            }
        }
    }
}

#[test]
fn whatever_is_lost_it_is_a_file_system_and_the_durable_part_stays() {
    for seed in 0..300 {
        for model in MODELS {
            let disk = seeded(seed, model);
            disk.make_root("still").expect("root");
            let still = disk.mount("still").expect("mount");
            put(&still, still.root(), b"f", &OLD);
            still.sync_all().expect("sync");
            let before = disk.snapshot_tree("still").expect("tree");
            let mut rng = Rng::new(seed, 2);
            for round in 0..3 {
                random_work(&disk.mount("t").expect("mount"), &mut rng, 200, true);
                disk.crash(round);
                check_consistent(&disk);
                assert_eq!(disk.snapshot_tree("still").expect("tree"), before);
            }
        }
    }
}

/// What a directory's sync covers is there: names as seen, and files that were synced, whole.
#[test]
fn a_synced_directory_lists_what_was_seen() {
    for seed in 0..300 {
        for model in MODELS {
            let disk = seeded(seed, model);
            let s = disk.mount("t").expect("mount");
            let mut rng = Rng::new(seed, 3);
            random_work(&s, &mut rng, 150, true);
            s.sync_directory(s.root()).expect("sync");
            let seen = names(&s, s.root());
            let mut whole = BTreeMap::new();
            for name in &seen {
                if let Ok(file) = s.open_file(s.root(), name) {
                    s.sync_file(&file).expect("sync");
                    whole.insert(
                        name.clone(),
                        disk.read_file([b"t/", &name[..]].concat()).expect("r"),
                    );
                }
            }
            disk.crash(seed);
            let s = disk.mount("t").expect("mount");
            assert_eq!(names(&s, s.root()), seen, "seed {seed} {model:?} {:#?}", disk.trace());
            for (name, bytes) in whole {
                assert!(disk.read_file([b"t/", &name[..]].concat()).expect("read") == bytes);
            }
        }
    }
}

#[test]
fn a_crash_ends_every_handle_of_its_time() {
    let disk = seeded(1, CrashModel::Ordered);
    let s = disk.mount("t").expect("mount");
    let file = put(&s, s.root(), b"f", b"f");
    s.sync_all().expect("sync");
    disk.crash(0);
    assert_eq!(errno(s.read_at(&file, 0, &mut [0])), Errno::IO);
    assert_eq!(errno(s.sync_file(&file)), Errno::IO);
    assert_eq!(errno(s.open_file(s.root(), b"f")), Errno::IO);
    drop((file, s));
    assert_eq!(disk.read_file("t/f").expect("read"), b"f");
}
