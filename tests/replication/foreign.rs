//! Changes made at the target behind Farshore's back.

use std::collections::BTreeSet;
use std::fs;

use farshore_test_support::{
    Aspect, MutationKind, Options, Rng, TortureTree, Tree, compare, mutate_one,
};

use crate::sites::{Sites, contents, noise, put, seeds};

/// A thousand random edits of every kind at the target: the next run counts them, sends about what
/// differs, makes the target equal again, and loses none of what strangers wrote.
#[test]
fn a_thousand_edits_at_the_target_are_found_and_put_right() {
    for seed in 0..seeds() {
        let sites = Sites::in_memory();
        fs::remove_dir(&sites.a).expect("removed");
        TortureTree::build(&sites.a, 30 + seed, &Options::small()).expect("a tree");
        sites.run();
        let mut rng = Rng::of_step(seed, 31);
        let mut edits = 0;
        while edits < 1_000 {
            let Some(&kind) = rng.pick(&MutationKind::ALL) else { continue };
            edits += u32::from(mutate_one(&sites.b, kind, &mut rng).expect("a change").is_some());
        }
        put_right(&sites);
    }
}

/// Each kind of edit alone, so that none hides behind another.
#[test]
fn each_kind_of_edit_at_the_target_is_found_and_put_right() {
    let sites = Sites::in_memory();
    fs::remove_dir(&sites.a).expect("removed");
    TortureTree::build(&sites.a, 32, &Options::small()).expect("a tree");
    sites.run();
    for (step, kind) in (0..).zip(MutationKind::ALL) {
        let mut rng = Rng::of_step(32, step);
        let Some(done) = mutate_one(&sites.b, kind, &mut rng).expect("a change") else { continue };
        let found = put_right(&sites);
        assert!(found > 0, "{done}: not counted");
    }
}

/// The next run puts everything right; changes it counted.
fn put_right(sites: &Sites) -> u64 {
    let differences = compare(&sites.a, &sites.b, &[b".farshore"]);
    let source = Tree::open(&sites.a).expect("the source");
    let target = Tree::open(&sites.b).expect("the target");
    // Names of one inode are one entry; what is gone is its path.
    let differing: BTreeSet<Vec<u8>> = differences
        .iter()
        .filter(|d| !matches!(d.aspect, Aspect::Holes | Aspect::HardLinks))
        .map(|d| match target.facts(&d.path) {
            Ok(facts) => facts.inode.1.to_be_bytes().to_vec(),
            Err(_) => [b"gone ", &d.path[..]].concat(),
        })
        .collect();
    let unequal_bytes: u64 = differences
        .iter()
        .filter(|d| {
            use Aspect::{Content, Kind, OnlyInA, Size};
            matches!(d.aspect, Content | Kind | OnlyInA | Size)
        })
        .map(|d| d.path.clone())
        .collect::<BTreeSet<_>>()
        .iter()
        .filter_map(|path| source.facts(path).ok())
        .filter(|f| f.kind == farshore_test_support::Kind::File)
        .map(|f| f.allocated.max(f.size.min(1 << 20)))
        .sum();
    // Below a folder that is only at the source nothing is listed.
    let below: u64 = differences
        .iter()
        .filter(|d| matches!(d.aspect, Aspect::OnlyInA | Aspect::Kind))
        .map(|d| {
            let prefix = [&d.path[..], b"/"].concat();
            let walk = source.walk().expect("a walk");
            walk.iter()
                .filter(|(p, _)| p.starts_with(&prefix))
                .map(|(_, f)| f.allocated)
                .sum::<u64>()
        })
        .sum();
    let before = contents(&sites.b);
    let run = sites.run_approved();
    let counted = run.result.source.foreign_changes;
    assert!(counted >= differing.len() as u64, "{counted} of {} counted", differing.len());
    let limit = unequal_bytes + below + (64 << 10);
    assert!(run.literal() <= limit, "{} of {limit} bytes sent", run.literal());
    let after = contents(&sites.b);
    let lost: Vec<_> = before.iter().filter(|(hash, _)| !after.contains_key(*hash)).collect();
    assert!(lost.is_empty(), "{} contents of {} are lost: {lost:?}", lost.len(), before.len());
    sites.converged("put right");
    counted
}

/// A stranger's files end in history whole, whatever stands in their way.
#[test]
fn alien_files_end_in_history() {
    let sites = Sites::new();
    put(&sites.a.join("home/file"), b"ours");
    put(&sites.a.join("home/dir/below"), b"ours too");
    sites.run();
    put(&sites.b.join("home/file"), b"overwritten by a stranger");
    put(&sites.b.join("home/alien"), noise(1, 200_000));
    put(&sites.b.join("home/alien-dir/deep/er"), b"in an alien folder");
    fs::remove_dir_all(sites.b.join("home/dir")).expect("removed");
    put(&sites.b.join("home/dir"), b"a file where a folder was");
    let run = sites.run_approved();
    assert_eq!(
        run.result.source.foreign_changes, 8,
        "home, file, alien, alien-dir and 2, dir, below"
    );
    sites.converged("aliens removed");
    let kept = contents(&sites.b.join(".farshore/history"));
    for content in [
        &b"overwritten by a stranger"[..],
        &noise(1, 200_000),
        b"in an alien folder",
        b"a file where a folder was",
    ] {
        assert!(kept.contains_key(&blake3::hash(content)), "a content of {} bytes", content.len());
    }
}

/// Facts of the target's root alone, changed by a stranger.
#[test]
fn the_targets_root_itself_is_put_right() {
    let sites = Sites::new();
    put(&sites.a.join("home/file"), b"ours");
    sites.run();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    fs::set_permissions(&sites.b, mode).expect("its mode");
    let run = sites.run();
    assert_eq!(run.result.source.foreign_changes, 1);
    sites.converged("its mode");
    Tree::open(&sites.b)
        .and_then(|t| t.set_xattr(b"", b"user.stranger", b"was here"))
        .expect("an attribute");
    sites.run();
    sites.converged("its attributes");
}
