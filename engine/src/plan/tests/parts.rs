//! What a plan of parts looks at, concludes, counts, and does not.

use farshore_core::guard::{Hold, RootIdentity, Target, Threshold, judge};
use farshore_core::policy::ReplicateAll;

use super::*;
use crate::io::sim::Fault;

/// `a/1`, `a/2`, `b/1`, `b/c/1`, all known.
fn small() -> (Tree, Catalog) {
    let tree = Tree::new(1);
    for directory in ["a", "b", "b/c"] {
        tree.directory(&path(directory));
    }
    for file in ["a/1", "a/2", "b/1", "b/c/1"] {
        tree.write(&path(file), file.as_bytes());
    }
    let catalog = new_catalog();
    tree.carry_out(&catalog, &ReplicateAll, tree.whole(&catalog, &ReplicateAll));
    (tree, catalog)
}

fn changes(plan: Plan) -> Vec<String> {
    let mut changes = plan.into_changes().expect("kept");
    let mut all = Vec::new();
    while let Some(change) = changes.next_change().expect("reads back") {
        all.push(match change {
            Change::Look { path, moved_from: Some(from), .. } => format!("{from} > {path}"),
            Change::Look { path, .. } => format!("+ {path}"),
            Change::Link { path, leader } => format!("{path} = {leader}"),
            Change::Remove { path, .. } => format!("- {path}"),
        });
    }
    all
}

fn held(tally: Tally) -> Option<Hold> {
    let found = RootIdentity { inode: 1, file_system: 1 };
    let target = Target { first_contact: false, proven: tally.known };
    judge(Some(found), found, tally, Threshold::default(), target)
}

#[test]
fn a_scope_is_in_order_and_holds_nothing_twice() {
    let scope = Scope::new([
        shallow("b"),
        deep("a"),
        shallow("a"),
        shallow("a/b"),
        deep("a/b/c"),
        shallow(""),
    ]);
    assert_eq!(scope.parts(), [shallow(""), deep("a"), shallow("b")]);
    for covered in ["", "a", "b", "new", "a/b", "a/b/c/d", "b/1"] {
        assert!(scope.covers(&path(covered)), "{covered}");
    }
    let narrow = Scope::new([shallow("b"), deep("a/d")]);
    for covered in ["b", "b/1", "a/d", "a/d/1/2"] {
        assert!(narrow.covers(&path(covered)), "{covered}");
    }
    for outside in ["", "a", "b/1/2", "a/1", "c"] {
        assert!(!narrow.covers(&path(outside)), "{outside}");
    }
    assert!(Scope::new([]).is_empty() && !narrow.is_empty());
}

#[test]
fn what_is_not_marked_is_not_looked_at() {
    let (tree, catalog) = small();
    tree.write(&path("a/1"), b"other");
    tree.write(&path("b/1"), b"other");
    tree.remove(&path("a/2"));
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("b")]);
    assert_eq!(plan.tally.found, plan.tally.known);
    assert_eq!(changes(plan), ["+ b/1"]);
    assert!(tree.told(&catalog, &ReplicateAll, &[]).is_empty());
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("a")]);
    assert_eq!(changes(plan), ["- a/2", "+ a", "+ a/1"]);
}

/// Calls are counted, not time.
#[test]
fn a_directory_costs_what_is_in_it_whatever_the_tree() {
    let (tree, catalog) = (Tree::new(1), new_catalog());
    let mut files = Vec::new();
    for d in 0..1_000 {
        let directory = path(format!("d{d}"));
        tree.directory(&directory);
        let at = tree.storage.open_directory(tree.storage.root(), directory.as_bytes());
        let at = at.expect("opened");
        for f in 0..99 {
            let name = format!("f{f}");
            drop(tree.storage.create_file(&at, name.as_bytes()).expect("created"));
            let stat = tree.storage.stat(Object::Named(&at, name.as_bytes())).expect("there");
            files.push((directory.join(name.as_bytes()).expect("short"), stat));
        }
    }
    catalog
        .update(Durability::None, |t| {
            let content = farshore_core::recipe::FileDigest::of_small(b"");
            for (path, stat) in &files {
                let meta =
                    farshore_core::entry::Metadata { mtime: stat.mtime, ..Default::default() };
                let facts = Some(LocalFacts::of(stat));
                t.put(path, &Record { entry: Entry::File { size: 0, content, meta }, facts })?;
            }
            for d in 0..1_000 {
                let path = path(format!("d{d}"));
                t.put(&path, &tree.observe(&path))?;
            }
            t.put(&RelPath::root(), &tree.observe(&RelPath::root()))
        })
        .expect("recorded");
    assert_eq!(catalog.reader().expect("a reader").entry_count().expect("read"), 100_000);
    tree.write(&path("d500/f50"), b"new");
    let before = tree.disk.reads();
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("d500")]);
    // The root, and the way from there to it; it and its listing; its entries.
    assert_eq!(tree.disk.reads() - before, 1 + 2 + 2 + 99);
    assert_eq!(plan.looked.as_ref().map(|windows| windows.keys().count()), Some(2));
    assert_eq!(changes(plan), ["+ d500/f50"]);
    // The root has a thousand children, and none of them is entered.
    tree.write(&path("new"), b"new");
    let before = tree.disk.reads();
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("")]);
    assert_eq!(tree.disk.reads() - before, 1 + 2 + 1_001);
    assert_eq!(changes(plan), ["+ .", "+ new"]);
    // Nor when it was recorded too soon after its last change to be told unchanged.
    let unsettled = |at: &RelPath| {
        let facts = LocalFacts::unsettled(&tree.stat(at).expect("there"));
        Record { facts: Some(facts), ..tree.observe(at) }
    };
    catalog
        .update(Durability::None, |t| {
            t.put(&path("d7"), &unsettled(&path("d7")))?;
            t.put(&RelPath::root(), &unsettled(&RelPath::root()))
        })
        .expect("recorded");
    let before = tree.disk.reads();
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("")]);
    assert_eq!(tree.disk.reads() - before, 1 + 2 + 1_001);
    assert_eq!(changes(plan), ["+ .", "+ d7", "+ new"]);
}

#[test]
fn the_last_file_of_a_directory_is_no_emptied_root() {
    let (tree, catalog) = small();
    for file in ["a/1", "a/2"] {
        tree.remove(&path(file));
    }
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("a")]);
    assert_eq!((plan.tally.deleted, plan.tally.found, plan.tally.known), (2, 5, 7));
    assert_eq!(held(plan.tally), None);
    for at in ["a", "b"] {
        tree.remove(&path(at));
    }
    for parts in [vec![shallow("")], vec![deep("")], vec![shallow("b/c"), shallow("a")]] {
        let tally = tree.told(&catalog, &ReplicateAll, &parts).tally;
        assert_eq!(tally, tree.whole(&catalog, &ReplicateAll).tally);
        assert_eq!(held(tally), Some(Hold::RootEmptied { known: 7 }), "{parts:?}");
    }
}

#[test]
fn a_move_from_outside_is_a_move_and_its_removal_is_found_done() {
    for (from, to) in [("a/1", "b/2"), ("b/1", "a/3")] {
        let (tree, catalog) = small();
        tree.rename(&path(from), &path(to)).expect("renamed");
        let new = path(to).split().expect("in a directory").0;
        let plan = tree.told(&catalog, &ReplicateAll, &[shallow(new.as_bytes())]);
        assert_eq!((plan.tally.deleted, plan.tally.found), (0, 7));
        let old = path(from).split().expect("in a directory").0;
        let done = tree.carry_out(&catalog, &ReplicateAll, plan);
        assert!(
            done.iter()
                .any(|c| matches!(c, Change::Look { moved_from: Some(f), .. } if *f == path(from)))
        );
        let plan = tree.told(&catalog, &ReplicateAll, &[shallow(old.as_bytes())]);
        assert_eq!(plan.tally.deleted, 0);
        assert_eq!(changes(plan), [format!("+ {old}")]);
    }
}

#[test]
fn what_took_the_old_name_of_a_move_is_not_lost() {
    let (tree, catalog) = small();
    tree.rename(&path("a/1"), &path("b/2")).expect("renamed");
    tree.write(&path("a/1"), b"another one, and longer");
    // Nobody looks at it in this plan: the target keeps what it has there.
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("b")]);
    assert_eq!(changes(plan), ["+ b", "+ b/2"]);
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("a"), shallow("b")]);
    assert_eq!(changes(plan), ["+ a", "+ b", "+ a/1", "a/1 > b/2"]);
}

#[test]
fn a_renamed_directory_moves_all_its_files() {
    let (tree, catalog) = small();
    tree.rename(&path("b"), &path("a/b")).expect("renamed");
    let parts = [shallow(""), shallow("a"), deep("a/b")];
    let plan = tree.told(&catalog, &ReplicateAll, &parts);
    assert_eq!((plan.tally.deleted, plan.tally.found), (2, 7));
    let expected =
        ["+ .", "+ a", "+ a/b", "b/1 > a/b/1", "+ a/b/c", "b/c/1 > a/b/c/1", "- b/c", "- b"];
    assert_eq!(changes(plan), expected);
}

#[test]
fn another_directory_in_its_place_is_looked_at_deep() {
    let (tree, catalog) = small();
    tree.rename(&path("b"), &path("old")).expect("renamed");
    tree.rename(&path("a"), &path("b")).expect("renamed");
    // Marked as a change of names in the root alone.
    let by_parts = changes(tree.told(&catalog, &ReplicateAll, &[shallow("")]));
    assert_eq!(by_parts, changes(tree.whole(&catalog, &ReplicateAll)));
    // Nor does it help to know of the directory itself alone.
    let plan = tree.told(&catalog, &ReplicateAll, &[shallow("b")]);
    assert_eq!(changes(plan), ["- b/c/1", "+ b", "a/1 > b/1", "a/2 > b/2", "- b/c"]);
}

#[test]
fn what_is_gone_goes_over_to_what_is_there() {
    let (tree, catalog) = small();
    tree.remove(&path("b"));
    for part in ["b", "b/c", "b/c/d/e", "b/1/x"] {
        let plan = tree.told(&catalog, &ReplicateAll, &[shallow(part)]);
        assert_eq!(changes(plan), ["- b/1", "- b/c/1", "+ .", "- b/c", "- b"], "{part}");
    }
    // Behind a link there is nothing of ours.
    let at = tree.storage.open_directory(tree.storage.root(), b"").expect("opened");
    tree.storage.make_symlink(&at, b"b", b"a").expect("made");
    let plan = tree.told(&catalog, &ReplicateAll, &[deep("b/c")]);
    assert_eq!(changes(plan), ["- b/1", "- b/c/1", "+ .", "+ b", "- b/c"]);
    // What is Farshore's is not there.
    assert!(tree.told(&catalog, &ReplicateAll, &[deep(OWN), deep(".farshore/x")]).is_empty());
}

#[test]
fn nothing_is_concluded_from_what_cannot_be_read_or_lies_on_another_mount() {
    let (tree, catalog) = small();
    tree.write(&path("b/1"), b"other");
    let calls = |plan: &Plan| plan.problems.len();
    let before = tree.disk.reads();
    assert_eq!(calls(&tree.told(&catalog, &ReplicateAll, &[shallow("b")])), 0);
    let reads = tree.disk.reads() - before;
    for read in 0..reads {
        tree.disk.fail_read_at(read, Fault::Eio);
        let plan = tree.told(&catalog, &ReplicateAll, &[shallow("b")]);
        assert_eq!(plan.tally.deleted, 0, "read {read}");
        assert!(changes(plan).iter().all(|change| !change.starts_with('-')), "read {read}");
    }
    tree.disk.set_mount_point("tree/b", true).expect("mounted");
    for part in [shallow("b"), deep("b/c"), shallow("")] {
        let plan = tree.told(&catalog, &ReplicateAll, &[part]);
        assert_eq!((plan.problems.len(), plan.len()), (1, 0), "{:?}", plan.problems);
        assert_eq!(plan.problems[0].path, path("b"));
    }
}

#[test]
fn below_what_does_not_travel_nothing_is_looked_at() {
    let (tree, catalog) = small();
    let policy = &Rules;
    tree.set_mode(&path("b"), 0o702);
    tree.write(&path("b/c/1"), b"other");
    tree.remove(&path("b/1"));
    let plan = tree.told(&catalog, policy, &[shallow("b/c"), deep("b")]);
    assert_eq!((plan.excluded, plan.len(), plan.detached), (1, 0, 4));
    tree.carry_out(&catalog, policy, plan);
    let kept = [(path("b"), "what others may write".to_owned())];
    assert_eq!(detached(&catalog), kept);
    // The next time what is below is not even read from the catalog.
    let before = tree.disk.reads();
    let plan = tree.told(&catalog, policy, &[deep("b/c")]);
    assert_eq!((plan.excluded, plan.len(), plan.detached), (1, 0, 1));
    assert_eq!(tree.disk.reads() - before, 3);
    tree.carry_out(&catalog, policy, plan);
    assert_eq!(detached(&catalog), kept);
    // Nor is it touched when all is seen of another part.
    let plan = tree.told(&catalog, policy, &[shallow("a")]);
    tree.carry_out(&catalog, policy, plan);
    assert_eq!(detached(&catalog), kept);
    // It travels again, and is looked at deep: nobody heard what changed in it.
    tree.set_mode(&path("b"), 0o700);
    let plan = tree.told(&catalog, policy, &[shallow("b")]);
    let done = tree.carry_out(&catalog, policy, plan);
    assert_eq!((done.len(), detached(&catalog).len()), (3, 0), "{done:?}");
}

#[test]
fn several_names_of_an_inode_are_told_where_they_can_be() {
    let (tree, catalog) = small();
    tree.link(&path("a/2"), &path("b/2")).expect("linked");
    tree.link(&path("b/1"), &path("aside")).expect("linked");
    tree.carry_out(&catalog, &ReplicateAll, tree.whole(&catalog, &ReplicateAll));
    let reader = catalog.reader().expect("a reader");
    let first = |at| reader.is_first_name(&path(at)).expect("read");
    assert_eq!(
        (first("a/2"), first("b/2"), first("aside"), first("a/1")),
        (true, false, true, false)
    );
    let whole = |tree: &Tree, part| {
        let scope = Scope::new([shallow(part)]);
        matches!(tree.parts(&catalog, &ReplicateAll, &scope), PartialPlan::Whole(_))
    };
    // Unchanged ones, beside one that is new.
    tree.write(&path("a/new"), b"");
    assert!(!whole(&tree, "a") && !whole(&tree, "b") && !whole(&tree, ""));
    // A further name that is gone.
    tree.remove(&path("b/2"));
    assert!(!whole(&tree, "b"));
    // Its first name is alone now, which its record does not know.
    assert!(whole(&tree, "a"));
    // A first name that is gone, and one that is another inode.
    tree.rename(&path("a/new"), &path("aside")).expect("renamed");
    assert!(whole(&tree, ""));
    tree.carry_out(&catalog, &ReplicateAll, tree.whole(&catalog, &ReplicateAll));
    assert!(!whole(&tree, "") && !whole(&tree, "a") && !whole(&tree, "b"));
    // A new one is known where both of its names are.
    tree.link(&path("a/1"), &path("b/3")).expect("linked");
    assert!(whole(&tree, "b"));
}

#[test]
fn a_name_outside_of_the_share_cannot_be_told_from_one_within() {
    let (tree, catalog) = small();
    tree.directory(&path(OWN));
    tree.link(&path("a/1"), &path(".farshore/elsewhere")).expect("linked");
    tree.carry_out(&catalog, &ReplicateAll, tree.whole(&catalog, &ReplicateAll));
    tree.write(&path("a/1"), b"other");
    let scope = Scope::new([shallow("a")]);
    assert!(matches!(tree.parts(&catalog, &ReplicateAll, &scope), PartialPlan::Whole(_)));
}
