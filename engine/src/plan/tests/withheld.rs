//! What is withheld is planned and not sent, whatever moved, was linked, or took its place.

use farshore_core::policy::ReplicateAll;
use farshore_core::turns::{Class, Turns};

use super::*;

fn tree() -> (Tree, Catalog) {
    let (tree, catalog) = (Tree::new(7), new_catalog());
    for directory in ["a", "b", "g", "g/x", "g/y"] {
        tree.directory(&path(directory));
    }
    for file in ["a/1", "a/2", "b/1", "b/2", "g/x/1", "g/y/1"] {
        tree.write(&path(file), file.as_bytes());
    }
    tree.carry_out(&catalog, &ReplicateAll, tree.whole(&catalog, &ReplicateAll));
    (tree, catalog)
}

fn withheld(accounts: &[&str], depth: usize) -> Withheld {
    Withheld::new(accounts.iter().map(path).collect(), depth)
}

fn seen(plan: &mut Plan) -> Vec<Change> {
    let mut all = Vec::new();
    plan.for_each(&mut |change| {
        all.push(change.clone());
        Ok(())
    })
    .expect("read");
    all
}

#[test]
fn what_is_withheld_is_seen_and_not_sent() {
    let (tree, catalog) = tree();
    tree.remove(&path("a"));
    tree.write(&path("b/3"), b"new");
    let mut plan = tree.whole(&catalog, &ReplicateAll);
    plan.withhold(&withheld(&["a"], 1)).expect("kept");
    assert!(plan.could_see(&path("a")));
    let gone = seen(&mut plan).iter().filter(|c| matches!(c, Change::Remove { .. })).count();
    assert_eq!(gone, 3);
    let sent = tree.carry_out(&catalog, &ReplicateAll, plan);
    assert!(sent.iter().all(|change| !change.path().starts_with(&path("a"))), "{sent:?}");
    assert!(sent.iter().any(|change| *change.path() == path("b/3")));
    // And is there to be done when it is let go.
    let sent = tree.carry_out(&catalog, &ReplicateAll, tree.whole(&catalog, &ReplicateAll));
    assert_eq!(sent.iter().filter(|c| matches!(c, Change::Remove { .. })).count(), 3);
}

#[test]
fn moves_into_and_out_of_what_is_withheld_are_none() {
    let (tree, catalog) = tree();
    tree.rename(&path("a/1"), &path("b/from-a")).expect("moved");
    tree.rename(&path("b/1"), &path("a/from-b")).expect("moved");
    tree.rename(&path("a/2"), &path("a/3")).expect("moved");
    let mut plan = tree.whole(&catalog, &ReplicateAll);
    plan.withhold(&withheld(&["a"], 1)).expect("kept");
    let all = seen(&mut plan);
    let of = |wanted: &str| {
        all.iter().filter(|c| *c.path() == path(wanted)).cloned().collect::<Vec<_>>()
    };
    assert!(matches!(&of("a/1")[..], [Change::Remove { .. }]));
    assert!(matches!(&of("b/1")[..], [Change::Remove { .. }]));
    assert!(of("a/2").is_empty(), "a move within it is one");
    assert!(matches!(&of("a/3")[..], [Change::Look { moved_from: Some(_), .. }]));
    let sent = tree.carry_out(&catalog, &ReplicateAll, plan);
    let names: Vec<_> = sent.iter().map(|c| c.path().to_string()).collect();
    assert!(
        names.contains(&"b/from-a".to_owned()) && names.contains(&"b/1".to_owned()),
        "{names:?}"
    );
    assert!(names.iter().all(|name| !name.starts_with("a/")), "{names:?}");
    let reader = catalog.reader().expect("a reader");
    assert!(reader.get(&path("a/1")).expect("read").is_some(), "it stays where it was");
}

#[test]
fn further_names_of_what_is_withheld_become_files_of_their_own() {
    let (tree, catalog) = tree();
    tree.write(&path("a/new"), b"many names");
    tree.link(&path("a/new"), &path("b/x")).expect("linked");
    tree.link(&path("a/new"), &path("b/y")).expect("linked");
    let mut plan = tree.whole(&catalog, &ReplicateAll);
    plan.withhold(&withheld(&["a"], 1)).expect("kept");
    let sent = tree.carry_out(&catalog, &ReplicateAll, plan);
    let of = |wanted: &str| sent.iter().find(|c| *c.path() == path(wanted)).cloned();
    assert!(matches!(of("b/x"), Some(Change::Look { is_file: false, .. })), "{sent:?}");
    assert_eq!(of("b/y"), Some(Change::Link { path: path("b/y"), leader: path("b/x") }));
    assert_eq!(of("a/new"), None);
}

/// What becomes of the first name of an inode with a further one in another account.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Replaced,
    Removed,
    WithItsDirectory,
    /// Its directory is a file now.
    Buried,
    /// It is a directory now.
    Opened,
    /// The further name is gone, and the first has another name.
    Moved,
}

const FATES: [Fate; 6] = [
    Fate::Replaced,
    Fate::Removed,
    Fate::WithItsDirectory,
    Fate::Buried,
    Fate::Opened,
    Fate::Moved,
];

/// A tree where `a/d/x` and `b/y` were one file.
fn parted(fate: Fate) -> (Tree, Catalog) {
    let (tree, catalog) = tree();
    let (first, further) = (path("a/d/x"), path("b/y"));
    tree.directory(&path("a/d"));
    tree.write(&first, b"two names");
    tree.link(&first, &further).expect("linked");
    tree.carry_out(&catalog, &ReplicateAll, tree.whole(&catalog, &ReplicateAll));
    match fate {
        Fate::Replaced => {
            tree.write(&path("a/new"), b"another one");
            tree.rename(&path("a/new"), &first).expect("replaced");
        }
        Fate::Removed => drop(tree.remove(&first)),
        Fate::WithItsDirectory => drop(tree.remove(&path("a/d"))),
        Fate::Buried => {
            tree.remove(&path("a/d"));
            tree.write(&path("a/d"), b"a file now");
        }
        Fate::Opened => {
            tree.remove(&first);
            tree.directory(&first);
            tree.write(&path("a/d/x/1"), b"below");
        }
        Fate::Moved => {
            tree.remove(&further);
            tree.rename(&first, &path("a/d/z")).expect("moved");
        }
    }
    for n in 0..3 {
        tree.write(&path(format!("b/more-{n}")), b"new");
        tree.write(&path(format!("g/more-{n}")), b"new");
    }
    (tree, catalog)
}

fn record(catalog: &Catalog, at: &str) -> Option<Record> {
    catalog.reader().expect("a reader").get(&path(at)).expect("read")
}

/// All of it is sent, and then the records say what is there.
fn catches_up(tree: &Tree, catalog: &Catalog) {
    tree.carry_out(catalog, &ReplicateAll, tree.whole(catalog, &ReplicateAll));
    let fresh = new_catalog();
    tree.carry_out(&fresh, &ReplicateAll, tree.whole(&fresh, &ReplicateAll));
    assert_eq!(root_of(catalog), root_of(&fresh));
}

#[test]
fn the_first_of_several_names_stays_with_a_further_one_that_is_withheld() {
    for fate in FATES {
        let (tree, catalog) = parted(fate);
        let before = ["a/d/x", "b/y"].map(|at| record(&catalog, at));
        let mut plan = tree.whole(&catalog, &ReplicateAll);
        plan.withhold(&withheld(&["b"], 1)).expect("kept");
        let named: Vec<_> = plan.problems.iter().map(|p| p.path.to_string()).collect();
        assert_eq!(named, ["a/d/x"], "{fate:?}");
        plan.leave_out(&[path("g")].into()).expect("left out");
        assert_eq!(plan.problems.len(), 1, "said once: {fate:?}");
        let sent = tree.carry_out(&catalog, &ReplicateAll, plan);
        let is_near = |change: &Change| change.path().starts_with(&path("a/d/x"));
        assert!(!sent.iter().any(is_near), "{fate:?}: {sent:?}");
        assert_eq!(["a/d/x", "b/y"].map(|at| record(&catalog, at)), before, "{fate:?}");
        catches_up(&tree, &catalog);
    }
}

#[test]
fn a_turn_takes_the_names_of_an_inode_together_that_were_such() {
    for fate in FATES {
        let mut parted_from_others = 0;
        for budget in (1..16).map(|n| n << 10) {
            let (tree, catalog) = parted(fate);
            let before = ["a/d/x", "b/y"].map(|at| record(&catalog, at));
            let mut plan = tree.whole(&catalog, &ReplicateAll);
            plan.withhold(&withheld(&[], 1)).expect("kept");
            let loads = plan.loads(|_| false).expect("counted");
            let waits = Turns::default().choose(loads, |_| Class::Normal, budget).left_out;
            let [a, b] = ["a", "b"].map(|account| waits.contains(&path(account)));
            assert_eq!(a, b, "{fate:?} {budget}: {waits:?}");
            parted_from_others += u64::from(a);
            plan.leave_out(&waits).expect("left out");
            assert!(plan.problems.is_empty(), "{fate:?} {budget}: {:?}", plan.problems);
            tree.carry_out(&catalog, &ReplicateAll, plan);
            let after = ["a/d/x", "b/y"].map(|at| record(&catalog, at));
            assert!(!a || after == before, "{fate:?} {budget}");
            catches_up(&tree, &catalog);
        }
        assert!(parted_from_others > 0, "{fate:?}");
    }
}

#[test]
fn nothing_above_what_is_withheld_is_removed_or_replaced() {
    for becomes_file in [false, true] {
        let (tree, catalog) = tree();
        tree.remove(&path("g"));
        if becomes_file {
            tree.write(&path("g"), b"a file now");
        }
        let mut plan = tree.whole(&catalog, &ReplicateAll);
        plan.withhold(&withheld(&["g/x"], 2)).expect("kept");
        let sent = tree.carry_out(&catalog, &ReplicateAll, plan);
        let names: Vec<_> = sent.iter().map(|c| c.path().to_string()).collect();
        assert!(names.contains(&"g/y/1".to_owned()), "{names:?}");
        assert!(!names.contains(&"g".to_owned()), "{names:?}");
        assert!(names.iter().all(|name| !name.starts_with("g/x")), "{names:?}");
    }
}

#[test]
fn what_the_policy_leaves_out_was_not_seen() {
    let (tree, catalog) = tree();
    tree.directory(&path("axe"));
    let plan = tree.whole(&catalog, &Rules);
    assert!(!plan.could_see(&path("axe")) && plan.could_see(&path("b")));
    assert!(!plan.could_see(&path("g/x")) && plan.could_see(&path("g")));
}
