//! What must be decided in every situation that has a name, in twenty accounts of one share.
//!
//! Each scenario stands in a folder of its own, in every account; contents differ everywhere, so that
//! nothing counts as received twice unless the scenario says so.

use std::collections::BTreeMap;

use super::super::*;
use super::model::{Base as BaseEntries, Op, Tree, changes};
use super::path;
use crate::conflict::Decision;

const ACCOUNTS: u64 = 20;

/// A situation: what is done at the base, at production and at recovery (`w` write, `m` mode, `r` remove,
/// `v` move, `l` link, `s` symbolic link, `d` directory), and what is expected of each path.
struct Scenario {
    name: &'static str,
    base: &'static str,
    production: &'static str,
    recovery: &'static str,
    expected: &'static [(&'static str, Class, &'static str, Rule)],
}

fn ops(folder: &str, text: &str, seed: u64) -> Vec<Op> {
    let at = |name: &str| path(&format!("{folder}/{name}"));
    text.split(';')
        .map(|op| op.split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .map(|words| {
            let content = |word: &str| match word.parse::<u64>().expect("a number") {
                0 => 0,
                number => seed * 100 + number,
            };
            match words[..] {
                ["w", name, number] => Op::Write(at(name), content(number)),
                ["s", name, number] => Op::Symlink(at(name), content(number)),
                ["m", name, mode] => {
                    Op::Chmod(at(name), u32::from_str_radix(mode, 8).expect("a mode"))
                }
                ["r", name] => Op::Remove(at(name)),
                ["v", from, to] => Op::Rename(at(from), at(to)),
                ["l", from, to] => Op::Link(at(from), at(to)),
                ["d", name] => Op::MakeDirectory(at(name)),
                _ => panic!("{words:?}"),
            }
        })
        .collect()
}

struct Planted {
    plan: BTreeMap<RelPath, Divergence>,
}

fn planted(scenarios: &[Scenario], resolver: &dyn Resolve) -> Planted {
    let mut base = Tree::default().fork(1);
    let folders: Vec<_> = (0..ACCOUNTS)
        .flat_map(|account| (0..scenarios.len()).map(move |at| (account, at)))
        .map(|(account, at)| {
            (format!("acc{account:02}/{}", scenarios[at].name), account * 1_000 + at as u64 + 1, at)
        })
        .collect();
    for (folder, seed, at) in &folders {
        base.run(&[Op::MakeDirectory(path(folder))]);
        base.run(&ops(folder, scenarios[*at].base, *seed));
    }
    let (mut production, mut recovery) = (base.fork(2), base.fork(3));
    for (folder, seed, at) in &folders {
        production.run(&ops(folder, scenarios[*at].production, *seed));
        recovery.run(&ops(folder, scenarios[*at].recovery, *seed));
    }
    let lists = [changes(&base, &production), changes(&base, &recovery)];
    let merge = Merge {
        production: &lists[0],
        recovery: &lists[1],
        base: &BaseEntries(base.entries()),
        resolver,
        config: &Config::default(),
    };
    let all: Vec<_> = merge.run().expect("lists").collect::<Result<_, _>>().expect("lists");
    Planted { plan: all.into_iter().map(|d| (d.path.clone(), d)).collect() }
}

#[test]
fn every_situation_is_decided_as_the_table_says() {
    let scenarios = all();
    let planted = planted(&scenarios, &Unasked);
    let mut cases: BTreeMap<Class, u64> = BTreeMap::new();
    for account in 0..ACCOUNTS {
        for scenario in &scenarios {
            let folder = format!("acc{account:02}/{}", scenario.name);
            for (name, class, outcome, rule) in scenario.expected {
                let at = path(&format!("{folder}/{name}"));
                let Some(d) = planted.plan.get(&at) else { panic!("{at}: not in the plan") };
                let found = (d.class, outcome_name(&d.outcome), d.by);
                assert_eq!(found, (*class, *outcome, DecidedBy::Default(*rule)), "{at}: {d:?}");
                *cases.entry(*class).or_default() += 1;
            }
            // Nothing else in the folder, but directories that got a new time.
            let below = path(&folder);
            for d in planted.plan.values().filter(|d| d.path.starts_with(&below)) {
                let rest = &d.path.as_bytes()[below.as_bytes().len()..];
                let name = std::str::from_utf8(rest).expect("text").trim_start_matches('/');
                let is_expected = scenario.expected.iter().any(|(n, ..)| *n == name);
                let is_time = d.by == DecidedBy::Default(Rule::Directory)
                    || (is_directory(d.base.as_ref())
                        && is_directory(d.production.entry.as_ref())
                        && is_directory(d.recovery.entry.as_ref()));
                assert!(is_expected || is_time, "{}: not expected: {d:?}", d.path);
            }
        }
    }
    for class in Class::ALL.into_iter().filter(|class| *class != Class::NoBase) {
        let count = cases.get(&class).copied().unwrap_or(0);
        assert!(count >= 20, "{class}: {count} cases");
    }
}

#[test]
fn content_that_recovery_has_is_not_carried_and_never_copied_from_what_was_replaced() {
    use super::super::action::{End, Source, steps};
    let planted = planted(&all(), &Unasked);
    let end = |name: &str| steps(&planted.plan[&path(name)]).end;
    let needs = |name: &str| planted.plan[&path(name)].needs;
    let from = |name: &str| End::Placed(Source::Recovery(path(name)));
    assert_eq!(end("acc00/p-renamed/b"), from("acc00/p-renamed/a"));
    assert_eq!(end("acc00/p-metadata/a"), from("acc00/p-metadata/a"));
    assert_eq!((needs("acc00/p-renamed/b"), needs("acc00/p-metadata/a")), (0, 0));
    for name in ["acc00/p-rotated/log.1", "acc00/p-swapped/a", "acc00/p-swapped/b"] {
        assert_eq!(end(name), End::Placed(Source::Carried), "{name}");
        assert!(needs(name) > 0);
    }
    let first = path("acc00/p-linked-modified/a");
    let name = "acc00/p-linked-modified/b";
    assert_eq!(end(name), End::Placed(Source::Link(first)), "it is a name of the new file");
}

#[test]
fn lists_that_do_not_belong_together_are_refused() {
    let run = |production: &[SideChange], recovery: &[SideChange]| {
        let (production, recovery) = (production.to_vec(), recovery.to_vec());
        let config = Config::default();
        let merge = Merge {
            production: &production,
            recovery: &recovery,
            base: &NoBase,
            resolver: &Unasked,
            config: &config,
        };
        merge.run().and_then(|merged| merged.collect::<Result<Vec<_>, _>>()).map(|plan| plan.len())
    };
    let fifo = |mode| {
        let meta = crate::entry::Metadata { mode, ..crate::entry::Metadata::default() };
        Some(Entry::Fifo { meta })
    };
    let change = |before, after| SideChange { path: path("a"), before, after, moved_from: None };
    let one = change(fifo(0o600), None);
    let other = change(fifo(0o640), None);
    let alone = std::slice::from_ref(&one);
    assert!(matches!(run(alone, &[other]), Err(MergeError::Bases(_))));
    assert!(matches!(run(alone, alone), Ok(1)));
    let twice = [one.clone(), one.clone()];
    assert!(matches!(run(&[], &twice), Err(MergeError::List(Site::Recovery, _))));
}

#[test]
fn only_conflicts_are_asked_about_and_each_once() {
    let scenarios = all();
    let asked = std::cell::RefCell::new(BTreeMap::<RelPath, u32>::new());
    let ask = |conflict: &conflict::Conflict, _: &dyn Fn(&RelPath) -> bool| {
        *asked.borrow_mut().entry(conflict.path.clone()).or_default() += 1;
        assert!(conflict.production != conflict.base && conflict.recovery != conflict.base);
        Some((0, Decision { outcome: Outcome::Hold, rule: None, reason: "asked".to_owned() }))
    };
    let planted = planted(&scenarios, &ask);
    assert!(asked.borrow().values().all(|times| *times == 1));
    for d in planted.plan.values() {
        let is_asked = d.by == DecidedBy::Policy(0);
        assert!(!is_asked || d.class.is_conflict(), "{}: {d:?}", d.path);
        assert!(!is_asked || d.why() == "asked");
    }
    let count = |class| {
        planted
            .plan
            .values()
            .filter(|d| d.class == class)
            .filter(|d| d.by == DecidedBy::Policy(0))
            .count()
    };
    for class in
        [Class::BothModified, Class::BothCreated, Class::BothRenamedApart, Class::BothMetadata]
    {
        assert!(count(class) >= 20, "{class}: asked about {}", count(class));
    }
}

use crate::conflict;

#[allow(clippy::too_many_lines)] // a table
fn all() -> Vec<Scenario> {
    use Class as C;
    use Rule as R;
    let s = |name, base, production, recovery, expected| Scenario {
        name,
        base,
        production,
        recovery,
        expected,
    };
    vec![
        // Production alone.
        s("p-created", "", "w a 1", "", &[("a", C::ProductionCreated, "hold", R::Orphan)]),
        s("p-empty", "w b 0", "w a 0", "", &[("a", C::ProductionCreated, "hold", R::Orphan)]),
        s(
            "p-modified",
            "w a 1",
            "w a 2",
            "",
            &[("a", C::ProductionModified, "production", R::ProductionOnly)],
        ),
        s(
            "p-deleted",
            "w a 1",
            "r a",
            "",
            &[("a", C::ProductionDeleted, "production", R::DeleteWins)],
        ),
        s(
            "p-metadata",
            "w a 1",
            "m a 600",
            "",
            &[("a", C::ProductionMetadata, "production", R::ProductionOnly)],
        ),
        s(
            "p-renamed",
            "w a 1",
            "v a b",
            "",
            &[
                ("a", C::ProductionRenamed, "production", R::ProductionOnly),
                ("b", C::ProductionRenamed, "production", R::ProductionOnly),
            ],
        ),
        s(
            "p-kind",
            "w a 1",
            "r a;s a 1",
            "",
            &[("a", C::ProductionKind, "production", R::ProductionOnly)],
        ),
        s(
            "p-rotated",
            "w log 1",
            "v log log.1;w log 2",
            "",
            &[
                ("log", C::ProductionRenamed, "production", R::ProductionOnly),
                ("log.1", C::ProductionRenamed, "production", R::ProductionOnly),
            ],
        ),
        s(
            "p-swapped",
            "w a 1;w b 2",
            "v a c;v b a;v c b",
            "",
            &[
                ("a", C::ProductionRenamed, "production", R::ProductionOnly),
                ("b", C::ProductionRenamed, "production", R::ProductionOnly),
            ],
        ),
        // W7: the partner sent it again.
        s(
            "p-resent",
            "",
            "w a 1",
            "w in/x 1",
            &[
                ("a", C::ProductionCreated, "quarantine", R::Resent),
                ("in", C::RecoveryCreated, "recovery", R::RecoveryOnly),
                ("in/x", C::RecoveryCreated, "recovery", R::RecoveryOnly),
            ],
        ),
        s(
            // What stood there before says nothing of it: it may have moved by a copy, and the other name go with the plan.
            "p-as-one-before",
            "w old 1",
            "w a 1",
            "",
            &[("a", C::ProductionCreated, "hold", R::Orphan)],
        ),
        // W1, W10: what is not finished.
        s(
            "p-partial",
            "w b.part 1",
            "w a.filepart 1;w b.part 2",
            "",
            &[
                ("a.filepart", C::ProductionCreated, "quarantine", R::InFlight),
                ("b.part", C::ProductionModified, "recovery", R::InFlight),
            ],
        ),
        s(
            "p-mark",
            "w a 1",
            "w a.M_INPROC.7 2",
            "",
            &[("a.M_INPROC.7", C::ProductionCreated, "quarantine", R::InFlight)],
        ),
        s(
            "p-finished",
            "w a.filepart 1",
            "v a.filepart a;w a 2",
            "",
            &[
                ("a", C::ProductionCreated, "hold", R::Orphan),
                ("a.filepart", C::ProductionDeleted, "production", R::DeleteWins),
            ],
        ),
        s(
            "p-finished-as-it-was",
            "w a.tmp 1",
            "v a.tmp a",
            "",
            &[
                ("a", C::ProductionCreated, "hold", R::Orphan),
                ("a.tmp", C::ProductionDeleted, "production", R::DeleteWins),
            ],
        ),
        s(
            "p-interrupted",
            "w a 1",
            "v a a.tmp",
            "",
            &[
                ("a", C::ProductionRenamed, "hold", R::Interrupted),
                ("a.tmp", C::ProductionRenamed, "hold", R::Interrupted),
            ],
        ),
        // Recovery alone.
        s("r-created", "", "", "w a 1", &[("a", C::RecoveryCreated, "recovery", R::RecoveryOnly)]),
        s(
            "r-modified",
            "w a 1",
            "",
            "w a 2",
            &[("a", C::RecoveryModified, "recovery", R::RecoveryOnly)],
        ),
        s("r-consumed", "w a 1", "", "r a", &[("a", C::RecoveryDeleted, "recovery", R::Consumed)]),
        s(
            "r-metadata",
            "w a 1",
            "",
            "m a 600",
            &[("a", C::RecoveryMetadata, "recovery", R::RecoveryOnly)],
        ),
        s(
            "r-renamed",
            "w a 1",
            "",
            "v a b",
            &[
                ("a", C::RecoveryRenamed, "recovery", R::Consumed),
                ("b", C::RecoveryRenamed, "recovery", R::RecoveryOnly),
            ],
        ),
        s(
            "r-kind",
            "w a 1",
            "",
            "r a;s a 1",
            &[("a", C::RecoveryKind, "recovery", R::RecoveryOnly)],
        ),
        s(
            "r-partial",
            "",
            "",
            "w a.tmp 1",
            &[("a.tmp", C::RecoveryCreated, "recovery", R::RecoveryOnly)],
        ),
        // Both, alike.
        s(
            "both-alike",
            "w a 1;w b 1;w c 1",
            "r b;s x 1;m c 600",
            "r b;s x 1;m c 600",
            &[
                ("b", C::BothDeleted, "recovery", R::Agree),
                ("c", C::BothModifiedAlike, "recovery", R::Agree),
                ("x", C::BothMetadata, "recovery", R::Attributes),
            ],
        ),
        s(
            "both-moved-alike",
            "w a 1",
            "v a b",
            "v a b",
            &[
                ("a", C::BothRenamedAlike, "recovery", R::Agree),
                ("b", C::BothRenamedAlike, "recovery", R::Agree),
            ],
        ),
        // Both, not alike.
        s(
            "modify-modify",
            "w a 1",
            "w a 2",
            "w a 3",
            &[("a", C::BothModified, "recovery", R::BothChanged)],
        ),
        s(
            "modify-modify-content",
            "w a 1",
            "w a 2",
            "w a 2",
            &[("a", C::BothMetadata, "recovery", R::Attributes)],
        ),
        s(
            "create-create",
            "",
            "w a 1",
            "w a 2",
            &[("a", C::BothCreated, "recovery", R::BothChanged)],
        ),
        s(
            "create-create-content",
            "",
            "w a 1",
            "w a 1",
            &[("a", C::BothMetadata, "recovery", R::Attributes)],
        ),
        s(
            "delete-modify",
            "w a 1",
            "r a",
            "w a 2",
            &[("a", C::ProductionDeletedRecoveryModified, "recovery", R::BothChanged)],
        ),
        s(
            "delete-metadata",
            "w a 1",
            "r a",
            "m a 600",
            &[("a", C::ProductionDeletedRecoveryModified, "production", R::ConsumedAtProduction)],
        ),
        s(
            "modify-delete",
            "w a 1",
            "w a 2",
            "r a",
            &[("a", C::ProductionModifiedRecoveryDeleted, "recovery", R::Delivered)],
        ),
        s(
            "rename-apart",
            "w a 1",
            "v a b",
            "v a c",
            &[
                ("a", C::BothRenamedApart, "recovery", R::BothChanged),
                ("b", C::BothRenamedApart, "recovery", R::BothChanged),
                ("c", C::BothRenamedApart, "recovery", R::BothChanged),
            ],
        ),
        s(
            "rename-modify",
            "w a 1",
            "v a b",
            "w a 2",
            &[
                ("a", C::ProductionRenamedRecoveryModified, "recovery", R::BothChanged),
                ("b", C::ProductionRenamedRecoveryModified, "recovery", R::BothChanged),
            ],
        ),
        s(
            "rename-metadata",
            "w a 1",
            "v a b",
            "m a 600",
            &[
                ("a", C::ProductionRenamedRecoveryModified, "production", R::ConsumedAtProduction),
                ("b", C::ProductionRenamedRecoveryModified, "production", R::ConsumedAtProduction),
            ],
        ),
        s(
            "rename-delete",
            "w a 1",
            "v a b",
            "r a",
            &[
                ("a", C::ProductionRenamedRecoveryDeleted, "recovery", R::Delivered),
                ("b", C::ProductionRenamedRecoveryDeleted, "recovery", R::Delivered),
            ],
        ),
        s(
            "modify-rename",
            "w a 1",
            "w a 2",
            "v a b",
            &[
                ("a", C::ProductionModifiedRecoveryRenamed, "recovery", R::BothChanged),
                ("b", C::ProductionModifiedRecoveryRenamed, "recovery", R::BothChanged),
            ],
        ),
        s(
            "delete-rename",
            "w a 1",
            "r a",
            "v a b",
            &[
                ("a", C::ProductionDeletedRecoveryRenamed, "recovery", R::BothChanged),
                ("b", C::ProductionDeletedRecoveryRenamed, "recovery", R::BothChanged),
            ],
        ),
        s(
            "rename-onto-created",
            "w a 1",
            "v a b",
            "w b 2",
            &[
                ("a", C::ProductionRenamedRecoveryModified, "hold", R::Entangled),
                ("b", C::ProductionRenamedRecoveryModified, "hold", R::Entangled),
            ],
        ),
        s(
            "kind-kind",
            "w a 1",
            "r a;s a 1",
            "w a 2",
            &[("a", C::BothKind, "recovery", R::BothChanged)],
        ),
        s(
            "attributes",
            "w a 1",
            "m a 600",
            "m a 644",
            &[("a", C::BothMetadata, "recovery", R::Attributes)],
        ),
        s(
            "both-partial",
            "w a.tmp 1",
            "w a.tmp 2",
            "w a.tmp 3",
            &[("a.tmp", C::BothModified, "recovery", R::InFlight)],
        ),
        // Names of one file.
        s(
            "linked",
            "w a 1;l a b",
            "w a 2",
            "r b",
            &[
                ("a", C::BothLinked, "recovery", R::BothChanged),
                ("b", C::BothLinked, "recovery", R::BothChanged),
            ],
        ),
        s(
            "p-first-name-gone",
            "w a 1;l a b;l a c",
            "r a",
            "",
            &[
                ("a", C::ProductionDeleted, "production", R::DeleteWins),
                ("b", C::ProductionModified, "production", R::ProductionOnly),
                ("c", C::ProductionModified, "production", R::ProductionOnly),
            ],
        ),
        s(
            "p-first-name-added",
            "w b 1",
            "l b a",
            "",
            &[
                ("a", C::ProductionCreated, "hold", R::Orphan),
                ("b", C::ProductionModified, "hold", R::Orphan),
            ],
        ),
        s(
            "p-linked-modified",
            "w a 1;l a b",
            "w a 2",
            "",
            &[
                ("a", C::ProductionModified, "production", R::ProductionOnly),
                ("b", C::ProductionModified, "production", R::ProductionOnly),
            ],
        ),
        s(
            "p-further-name",
            "w a 1",
            "l a b",
            "",
            &[("b", C::ProductionCreated, "quarantine", R::Resent)],
        ),
        // A file and its attributes.
        s(
            "attrs-orphan",
            "d .stfs/attrs",
            "w a 1;w .stfs/attrs/a 2",
            "",
            &[
                ("a", C::ProductionCreated, "hold", R::Orphan),
                (".stfs/attrs/a", C::ProductionCreated, "hold", R::Orphan),
            ],
        ),
        s(
            "attrs-new",
            "w a 1;d .stfs/attrs",
            "w .stfs/attrs/a 2",
            "",
            &[(".stfs/attrs/a", C::ProductionCreated, "production", R::ProductionOnly)],
        ),
        s(
            "attrs-of-nothing",
            "d .stfs/attrs",
            "w .stfs/attrs/a 2",
            "",
            &[(".stfs/attrs/a", C::ProductionCreated, "quarantine", R::Companion)],
        ),
        s(
            "attrs-apart",
            "w a 1;w .stfs/attrs/a 2",
            "w a 3;w .stfs/attrs/a 4",
            "w a 5",
            &[
                ("a", C::BothModified, "recovery", R::BothChanged),
                (".stfs/attrs/a", C::BothModified, "recovery", R::BothChanged),
            ],
        ),
        s(
            "attrs-against-file",
            "w a 1;w .stfs/attrs/a 2",
            "w .stfs/attrs/a 3",
            "w a 4",
            &[
                ("a", C::BothModified, "recovery", R::BothChanged),
                (".stfs/attrs/a", C::BothModified, "recovery", R::BothChanged),
            ],
        ),
        s(
            "attrs-of-consumed",
            "w a 1;w .stfs/attrs/a 2",
            "w .stfs/attrs/a 3",
            "r a;r .stfs/attrs/a",
            &[
                ("a", C::ProductionModifiedRecoveryDeleted, "recovery", R::Delivered),
                (".stfs/attrs/a", C::ProductionModifiedRecoveryDeleted, "recovery", R::Delivered),
            ],
        ),
        s(
            "attrs-consumed",
            "w a 1;w .stfs/attrs/a 2",
            "r a;r .stfs/attrs/a",
            "w .stfs/attrs/a 3",
            &[
                ("a", C::ProductionDeletedRecoveryModified, "production", R::ConsumedAtProduction),
                (
                    ".stfs/attrs/a",
                    C::ProductionDeletedRecoveryModified,
                    "production",
                    R::ConsumedAtProduction,
                ),
            ],
        ),
        s(
            "attrs-moved",
            "w a 1;w .stfs/attrs/a 2",
            "v a b;v .stfs/attrs/a .stfs/attrs/b",
            "",
            &[
                ("a", C::ProductionRenamed, "production", R::ProductionOnly),
                ("b", C::ProductionRenamed, "production", R::ProductionOnly),
                (".stfs/attrs/a", C::ProductionRenamed, "production", R::ProductionOnly),
                (".stfs/attrs/b", C::ProductionRenamed, "production", R::ProductionOnly),
            ],
        ),
        // Directories.
        s(
            "p-directory",
            "",
            "d x/y",
            "",
            &[
                ("x", C::ProductionCreated, "production", R::Directory),
                ("x/y", C::ProductionCreated, "production", R::Directory),
            ],
        ),
        s(
            "p-directory-gone",
            "w x/a 1",
            "r x",
            "",
            &[
                ("x", C::ProductionDeleted, "production", R::DeleteWins),
                ("x/a", C::ProductionDeleted, "production", R::DeleteWins),
            ],
        ),
        s(
            "p-directory-needed",
            "w x/a 1",
            "r x",
            "w x/b 2",
            &[
                ("x", C::ProductionDeleted, "recovery", R::DirectoryNeeded),
                ("x/a", C::ProductionDeleted, "production", R::DeleteWins),
                ("x/b", C::RecoveryCreated, "recovery", R::RecoveryOnly),
            ],
        ),
        s(
            "r-directory-gone",
            "w x/a 1",
            "w x/b 2",
            "r x",
            &[
                ("x", C::RecoveryDeleted, "recovery", R::Consumed),
                ("x/a", C::RecoveryDeleted, "recovery", R::Consumed),
                ("x/b", C::ProductionCreated, "hold", R::Orphan),
            ],
        ),
        s(
            "r-directory-needed",
            "d x;w a 1",
            "v a x/a",
            "r x",
            &[
                ("a", C::ProductionRenamed, "production", R::ProductionOnly),
                ("x", C::RecoveryDeleted, "production", R::DirectoryNeeded),
                ("x/a", C::ProductionRenamed, "production", R::ProductionOnly),
            ],
        ),
        s(
            "p-directory-in-gone",
            "d x",
            "d x/y",
            "r x",
            &[
                ("x", C::RecoveryDeleted, "recovery", R::Consumed),
                ("x/y", C::ProductionCreated, "quarantine", R::Directory),
            ],
        ),
        s(
            "no-room",
            "d x;w a 1",
            "v a x/a",
            "r x;w x 2",
            &[
                ("a", C::ProductionRenamed, "hold", R::NoRoom),
                ("x", C::RecoveryKind, "recovery", R::RecoveryOnly),
                ("x/a", C::ProductionRenamed, "hold", R::NoRoom),
            ],
        ),
        s(
            "p-file-for-directory",
            "w x/a 1",
            "r x;w x 2",
            "w x/b 3",
            &[
                ("x", C::BothKind, "recovery", R::DirectoryNeeded),
                ("x/a", C::ProductionDeleted, "production", R::DeleteWins),
                ("x/b", C::RecoveryCreated, "recovery", R::RecoveryOnly),
            ],
        ),
        s(
            "p-directory-moved",
            "w x/a 1;w x/b 2",
            "v x y",
            "",
            &[
                ("x", C::ProductionDeleted, "production", R::DeleteWins),
                ("x/a", C::ProductionRenamed, "production", R::ProductionOnly),
                ("x/b", C::ProductionRenamed, "production", R::ProductionOnly),
                ("y", C::ProductionCreated, "production", R::Directory),
                ("y/a", C::ProductionRenamed, "production", R::ProductionOnly),
                ("y/b", C::ProductionRenamed, "production", R::ProductionOnly),
            ],
        ),
        s(
            "p-directory-moved-r-modified",
            "w x/a 1;w x/b 2",
            "v x y",
            "w x/a 3",
            &[
                ("x", C::ProductionDeleted, "recovery", R::DirectoryNeeded),
                ("x/a", C::ProductionRenamedRecoveryModified, "recovery", R::BothChanged),
                ("x/b", C::ProductionRenamed, "production", R::ProductionOnly),
                ("y", C::ProductionCreated, "production", R::Directory),
                ("y/a", C::ProductionRenamedRecoveryModified, "recovery", R::BothChanged),
                ("y/b", C::ProductionRenamed, "production", R::ProductionOnly),
            ],
        ),
        s(
            "directory-attributes",
            "d x",
            "m x 700",
            "m x 711",
            &[("x", C::BothMetadata, "recovery", R::Attributes)],
        ),
        s(
            "p-directory-attributes",
            "d x",
            "m x 700",
            "w x/a 1",
            &[
                ("x", C::ProductionMetadata, "production", R::ProductionOnly),
                ("x/a", C::RecoveryCreated, "recovery", R::RecoveryOnly),
            ],
        ),
        s(
            "both-directory",
            "",
            "d x",
            "d x",
            &[("x", C::BothCreatedAlike, "recovery", R::Directory)],
        ),
    ]
}
