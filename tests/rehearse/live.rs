//! A point is as it was, whatever goes on; and what is done to it reaches nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use farshore_test_support::{Rng, TortureTree, compare, mutate, without_holes};

use crate::bed::{Bed, Disk, facts};
use crate::common::{shown, text};

/// Copies a tree with everything that it is.
fn copy(from: &Path, to: &Path) {
    let args = ["-a", "--sparse=always", "--reflink=never", text(from), text(to)];
    let out = Command::new("cp").args(args).output().unwrap();
    assert!(out.status.success(), "{}", shown(&out));
}

/// About a hundred changes a second, of every kind, also of metadata alone.
fn churn(tree: &Path, over: &AtomicBool) -> usize {
    let mut rng = Rng::new(7);
    let mut count = 0;
    while !over.load(Relaxed) {
        let path = tree.join(format!("churn/{}.dat", rng.below(40)));
        match rng.below(5) {
            0 => drop(fs::remove_file(&path)),
            1 => drop(fs::rename(&path, path.with_extension("moved"))),
            2 => drop(Command::new("chmod").args(["0640", text(&path)]).output()),
            3 => drop(Command::new("touch").arg(&path).output()),
            // Others may have taken the folder.
            _ => drop(fs::write(&path, vec![b'x'; 100 + count % 90_000])),
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(8));
    }
    count
}

fn a_former_point_is_as_it_was(disk: Disk) {
    let Some(bed) = Bed::new(disk, "") else { return };
    let pair = &bed.pair;
    let tree = &pair.production.tree;
    TortureTree::build(tree, 11, &farshore_test_support::Options::small()).unwrap();
    let _daemons = bed.start();
    pair.point();
    for step in 0..6 {
        mutate(tree, 5, step).unwrap();
    }
    for n in 0..40 {
        pair.write(&format!("churn/{n}.dat"), &vec![b'a'; 1_000 * n]);
    }
    // Larger than a chunk, and one with holes.
    pair.write("large/a.bin", &Rng::new(3).bytes(3_000_000));
    let sparse = fs::File::create(tree.join("large/sparse.bin")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 32 << 20).unwrap();
    // Longer than XFS has links.
    fs::remove_file(tree.join("symlinks/longest")).unwrap_or(());
    let (sequence, _) = pair.whole_point();
    let truth = pair.production.tree.with_file_name("truth");
    copy(tree, &truth);

    let before = bed.mounts();
    let seen = bed.beside("seen");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        let churning = scope.spawn(|| churn(tree, &over));
        fs::write(tree.join("large/a.bin"), Rng::new(4).bytes(100_000)).unwrap();
        fs::remove_file(tree.join("large/sparse.bin")).unwrap();
        fs::create_dir_all(tree.join("new/deep")).unwrap();
        let done: Vec<_> = (6..16).map(|step| mutate(tree, 5, step)).collect();
        assert!(done.iter().any(Result::is_ok));
        pair.point();
        let script = format!(
            "cp -a --sparse=always --reflink=never \"$FARSHORE_ROOT\" '{}'; \
             echo new > added.txt; echo more >> large/a.bin; rm -r churn; mv large moved; \
             chmod 700 .",
            text(&seen)
        );
        for round in 0..3 {
            let report = bed.goes_well(sequence, &script);
            assert_eq!(report["shares_blocks"], disk == Disk::Xfs, "{report:#}");
            assert_eq!(report["point"]["sequence"], sequence);
            assert_eq!(report["point"]["root"], report["root"]);
            assert!(report["rpo_ms"].as_i64().unwrap() > 0);
            let found = compare(&truth, &seen, &[b".farshore"]);
            assert!(found.is_empty(), "round {round}: {}: {found:#?}", found.len());
            fs::remove_dir_all(&seen).unwrap();
            let wrote: Vec<(&str, &str)> = report["wrote"]
                .as_array()
                .unwrap()
                .iter()
                .map(|w| (w["path"].as_str().unwrap(), w["change"].as_str().unwrap()))
                .collect();
            for expected in [
                ("added.txt", "added"),
                ("moved/a.bin", "added"),
                ("large", "removed"),
                ("large/a.bin", "removed"),
                ("churn/3.dat", "removed"),
            ] {
                assert!(wrote.contains(&expected), "{expected:?} of {wrote:?}");
            }
            assert!(bed.is_clean());
        }
        over.store(true, Relaxed);
        assert!(churning.join().unwrap() > 20);
    });
    pair.whole_point();
    let found = without_holes(compare(tree, &pair.recovery.tree, &[b".farshore"]));
    assert!(found.is_empty(), "{found:#?}");
    // History is whole: the point is as it was, once more.
    bed.goes_well(sequence, &format!("cp -a . '{}'", text(&seen)));
    assert!(without_holes(compare(&truth, &seen, &[b".farshore"])).is_empty());
    assert_eq!(bed.mounts(), before);
}

/// Ends those who change things when an assertion fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_former_point_is_as_it_was_while_changes_go_on() {
    a_former_point_is_as_it_was(Disk::Tmpfs);
}

#[test]
fn a_former_point_is_as_it_was_where_blocks_are_shared() {
    a_former_point_is_as_it_was(Disk::Xfs);
}

/// Everything that can be done to a file, a link and a folder.
const ALL_WRITES: &str = r#"
    echo longer and other than it was > a/written
    printf X | dd of=a/in-place conv=notrunc bs=1 seek=5 2>/dev/null
    echo appended >> a/appended
    : > a/emptied
    truncate -s 3 a/cut
    chmod 4711 a/mode
    chown 12:34 a/owner
    touch -d 2001-02-03 a/time
    setfattr -n user.new -v value a/attribute
    setfattr -x user.old a/attribute
    echo by another name > a/group-2
    ln a/linked a/linked-2
    ln -sfn elsewhere a/link
    mv b c
    echo in a moved folder > c/inner/file
    rm a/gone
    mv -T a/one a/two
    chmod 700 a
    rmdir empty
    if command -v python3 > /dev/null; then python3 -c '
import mmap
with open("a/mapped", "r+b") as file:
    m = mmap.mmap(file.fileno(), 0); m[0:6] = b"MAPPED"; m.flush(); m.close()
'; fi
    head -c 6 a/mapped; cat a/group-1
"#;

fn nothing_reaches_the_live_tree(disk: Disk) {
    let Some(bed) = Bed::new(disk, "") else { return };
    let pair = &bed.pair;
    let names = "written in-place appended emptied cut mode owner time attribute linked gone one two \
                 mapped group-1";
    for name in names.split(' ') {
        pair.write(&format!("a/{name}"), format!("what {name} was, ").repeat(2_000).as_bytes());
    }
    let tree = &pair.production.tree;
    pair.write("b/inner/file", b"below");
    fs::create_dir(tree.join("empty")).unwrap();
    fs::hard_link(tree.join("a/group-1"), tree.join("a/group-2")).unwrap();
    std::os::unix::fs::symlink("written", tree.join("a/link")).unwrap();
    let attribute =
        ["-n", "user.old", "-v", "value", text(&tree.join("a/attribute"))].map(str::to_owned);
    assert!(Command::new("setfattr").args(attribute).status().unwrap().success());
    let (daemon, sender) = bed.start();
    pair.point();
    pair.write("a/written", b"another version, the former one is history");
    let (sequence, _) = pair.point();
    // Nobody but the rehearsal does anything.
    assert!(sender.stop().success());
    let live = facts(&pair.recovery.tree);
    let report = bed.goes_well(sequence, ALL_WRITES);
    let after = facts(&pair.recovery.tree);
    for (path, facts) in &live {
        assert_eq!(after.get(path), Some(facts), "{}", path.display());
    }
    assert_eq!(after.len(), live.len());
    let output = report["probe"]["output"].as_str().unwrap();
    assert!(output.contains("by another name"), "{output}");
    let wrote = report["wrote"].as_array().unwrap();
    let says =
        |path: &str, change: &str| wrote.iter().any(|w| w["path"] == path && w["change"] == change);
    for name in "written in-place appended emptied cut mode owner time attribute linked group-1 \
                 group-2"
        .split_whitespace()
    {
        assert!(says(&format!("a/{name}"), "changed"), "{name}: {wrote:?}");
    }
    for (path, change) in [
        ("a", "changed"),
        ("a/gone", "removed"),
        ("a/one", "removed"),
        ("a/two", "changed"),
        ("a/linked-2", "added"),
        ("b", "removed"),
        ("b/inner/file", "removed"),
        ("c", "added"),
        ("c/inner/file", "added"),
        ("empty", "removed"),
    ] {
        assert!(says(path, change), "{path} {change}: {wrote:?}");
    }
    // And the next look of the source's at the standby finds nothing that others did.
    assert!(daemon.stop().success());
    let _daemons = bed.start();
    pair.point();
    let share = &pair.status(&pair.recovery)["shares"][0];
    assert_eq!(share["standby"]["foreign_found"], 0, "{share:#}");
}

#[test]
fn nothing_reaches_the_live_tree_of_what_was_copied() {
    nothing_reaches_the_live_tree(Disk::Tmpfs);
}

#[test]
fn nothing_reaches_the_live_tree_where_blocks_are_shared() {
    nothing_reaches_the_live_tree(Disk::Xfs);
}

/// How long it takes: `FARSHORE_TEST_REHEARSED=n` files of 4 KiB.
#[test]
#[ignore = "takes long; says figures"]
fn how_long_a_view_takes() {
    let count: usize =
        std::env::var("FARSHORE_TEST_REHEARSED").map_or(20_000, |n| n.parse().unwrap());
    for disk in [Disk::Tmpfs, Disk::Xfs] {
        let Some(bed) = Bed::new(disk, "") else { return };
        let pair = &bed.pair;
        for n in 0..count {
            pair.write(
                &format!("acct{}/in/{n}.csv", n % 500),
                &n.to_string().repeat(4_096).as_bytes()[..4_096],
            );
        }
        let (_there, _here) = bed.start();
        let (sequence, _) = pair.point();
        for n in 0..count / 20 {
            pair.write(&format!("acct{}/in/{n}.csv", n % 500), b"another");
        }
        pair.point();
        let began = std::time::Instant::now();
        let report = bed.goes_well(sequence, "true");
        println!(
            "{disk:?}: {count} files: view after {} ms, probe well after {} ms, all of it {:?}",
            report["view_ready_ms"],
            report["probe_ready_ms"],
            began.elapsed()
        );
    }
}
