//! Moves that no inode tells of.

use proptest::prelude::*;

use super::super::*;
use super::apply::{apply, check_versions};
use super::model::{Base as BaseEntries, changes, digest};
use super::properties::{Sites, any_sites, check_plan_of};
use super::{path, shown};
use crate::account::account_of;
use crate::entry::{Metadata, Timestamp, Xattrs};
use crate::limits::MOVED_FILE_LEN_MIN;

/// Lists in which `site` does not know which inode stood where: of a plain file that went as it was nothing is said.
fn without_inodes(sites: &Sites) -> [Vec<SideChange>; 2] {
    [&sites.production, &sites.recovery].map(|site| {
        let mut list = changes(&sites.base, site);
        let whole = list.clone();
        for change in list.iter_mut().filter(|change| change.before.is_none()) {
            let Some(from) = &change.moved_from else { continue };
            let from = whole.iter().find(|other| other.path == *from).expect("it is in the list");
            let is_plain = change.after.as_ref().is_some_and(|after| {
                after.kind() == EntryKind::File && after.size() >= MOVED_FILE_LEN_MIN
            });
            let is_plain = is_plain && !Config::default().is_in_flight(&from.path);
            let [account, other] = [&change.path, &from.path].map(|path| account_of(path, 1));
            let is_plain = is_plain && account == other;
            if is_plain && from.after.is_none() && from.before == change.after {
                change.moved_from = None;
            }
        }
        list
    })
}

fn planned(base: &BaseEntries, [production, recovery]: &[Vec<SideChange>; 2]) -> Vec<Divergence> {
    let config = Config::default();
    let merge = Merge { production, recovery, base, resolver: &Unasked, config: &config };
    merge.run().expect("lists").collect::<Result<_, _>>().expect("lists")
}

fn file(content: u64, size: u64, seconds: i64) -> Entry {
    let mtime = Timestamp { seconds, nanos: 7 };
    let meta = Metadata { mode: 0o640, uid: 1, gid: 1, mtime, xattrs: Xattrs::default() };
    Entry::File { size, content: digest(content), meta }
}

fn went(at: &str, entry: &Entry) -> SideChange {
    SideChange { path: path(at), before: Some(entry.clone()), after: None, moved_from: None }
}

fn came(at: &str, entry: &Entry) -> SideChange {
    SideChange { path: path(at), before: None, after: Some(entry.clone()), moved_from: None }
}

/// What production's changes alone come to, each path with its rule.
fn alone(production: Vec<SideChange>) -> Vec<(String, Rule)> {
    let gone = production.iter().filter_map(|c| Some((c.path.clone(), c.before.clone()?)));
    let base = BaseEntries(gone.collect());
    let plan = planned(&base, &[production, Vec::new()]);
    let rule = |d: &Divergence| match d.by {
        DecidedBy::Default(rule) => (d.path.to_string(), rule),
        _ => panic!("{}", shown(std::slice::from_ref(d))),
    };
    plan.iter().map(rule).collect()
}

fn rules(expected: &[(&str, Rule)]) -> Vec<(String, Rule)> {
    expected.iter().map(|(path, rule)| ((*path).to_owned(), *rule)).collect()
}

#[test]
fn one_that_went_and_one_that_came_as_it_was_are_one_move() {
    let x = file(1, 16, 5);
    let found = alone(vec![went("a/in/x", &x), came("a/out/x", &x)]);
    let moved = [("a/in/x", Rule::ProductionOnly), ("a/out/x", Rule::ProductionOnly)];
    assert_eq!(found, rules(&moved));
}

#[test]
fn what_is_not_plain_stays_as_it_is_judged_without_a_move() {
    let x = file(1, 16, 5);
    let apart = |came_as: &Entry| alone(vec![went("a/in/x", &x), came("a/out/x", came_as)]);
    let expected = rules(&[("a/in/x", Rule::DeleteWins), ("a/out/x", Rule::Orphan)]);
    // Another time, content or size.
    for other in [file(1, 16, 6), file(2, 16, 5), file(1, 17, 5)] {
        assert_eq!(apart(&other), expected, "{other:?}");
    }
    // A mark of a few bytes is like many.
    let mark = file(1, MOVED_FILE_LEN_MIN - 1, 5);
    assert_eq!(alone(vec![went("a/in/x", &mark), came("a/out/x", &mark)]), expected);
    // Which of two it was is not known.
    let found = alone(vec![went("a/in/x", &x), went("a/in/y", &x), came("a/out/x", &x)]);
    let gone = [("a/in/x", Rule::DeleteWins), ("a/in/y", Rule::DeleteWins)];
    assert_eq!(found, rules(&[&gone[..], &[("a/out/x", Rule::Orphan)]].concat()));
    // Nor which of two it is.
    let found = alone(vec![went("a/in/x", &x), came("a/out/x", &x), came("a/out/y", &x)]);
    let came_twice = [("a/out/x", Rule::Orphan), ("a/out/y", Rule::Orphan)];
    assert_eq!(found, rules(&[&[("a/in/x", Rule::DeleteWins)][..], &came_twice].concat()));
    // It has a further name, which may be how it is handed on.
    let link = Entry::HardLink { leader: path("a/out/x") };
    let found = alone(vec![went("a/in/x", &x), came("a/out/x", &x), came("a/out/y", &link)]);
    assert_eq!(found, rules(&[&[("a/in/x", Rule::DeleteWins)][..], &came_twice].concat()));
    // What is alike was replaced: it may be that which moved, or came in its place.
    let changed = |at: &str, before: &Entry, after: &Entry| SideChange {
        before: Some(before.clone()),
        ..came(at, after)
    };
    let y = file(2, 16, 6);
    for (was, is) in [(&x, &y), (&y, &x)] {
        let found =
            alone(vec![went("a/in/x", &x), changed("a/in/y", was, is), came("a/out/x", &x)]);
        let replaced = [("a/in/x", Rule::DeleteWins), ("a/in/y", Rule::ProductionOnly)];
        assert_eq!(found, rules(&[&replaced[..], &[("a/out/x", Rule::Orphan)]].concat()));
    }
    // Nor whether it is that of which the inode is known, or a copy of it.
    let known = SideChange { moved_from: Some(path("a/in/y")), ..came("a/out/y", &x) };
    let list = vec![went("a/in/x", &x), went("a/in/y", &x), came("a/out/x", &x), known];
    let expected_too = [("a/in/y", Rule::ProductionOnly), ("a/out/x", Rule::Orphan)];
    let moved = [("a/out/y", Rule::ProductionOnly)];
    let expected_too = [&[("a/in/x", Rule::DeleteWins)][..], &expected_too, &moved].concat();
    assert_eq!(alone(list), rules(&expected_too));
    // Another account's: what is handed out to many is the same in each.
    let found = alone(vec![went("a/in/x", &x), came("b/in/x", &x)]);
    assert_eq!(found, rules(&[("a/in/x", Rule::DeleteWins), ("b/in/x", Rule::Orphan)]));
    // A time that whoever sent it set.
    let mut sent = x.clone();
    if let Entry::File { meta, .. } = &mut sent {
        meta.mtime.nanos = 0;
    }
    assert_eq!(alone(vec![went("a/in/x", &sent), came("a/out/x", &sent)]), expected);
    // An upload that was finished is something new, also beside another one that went.
    let list = vec![went("a/in/x", &x), went("a/in/y.tmp", &x), came("a/in/z", &x)];
    let gone = [("a/in/x", Rule::DeleteWins), ("a/in/y.tmp", Rule::DeleteWins)];
    assert_eq!(alone(list), rules(&[&gone[..], &[("a/in/z", Rule::Orphan)]].concat()));
    let found = alone(vec![went("a/in/x.tmp", &x), came("a/in/y", &x)]);
    assert_eq!(found, rules(&[("a/in/x.tmp", Rule::DeleteWins), ("a/in/y", Rule::Orphan)]));
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::with_cases(6_000)
    })]

    #[test]
    fn a_move_is_decided_alike_whether_its_inode_is_known_or_not(sites in any_sites()) {
        let base = BaseEntries(sites.base.entries());
        let lists = without_inodes(&sites);
        let plan = planned(&base, &lists);
        prop_assert_eq!(&plan, &sites.plan(&Unasked), "{}", shown(&plan));
        let entries = sites.entries();
        let applied = apply(&plan, &entries[1], &entries[2]);
        check_versions(&plan, &applied, &entries[0], &entries[1], &entries[2]);
    }

    /// Nothing of what the sites did has an inode that is known: whatever is taken for a move, nothing is lost.
    #[test]
    fn without_any_inode_nothing_is_lost_either(sites in any_sites()) {
        let base = BaseEntries(sites.base.entries());
        let lists = [&sites.production, &sites.recovery].map(|site| {
            let mut list = changes(&sites.base, site);
            list.iter_mut().for_each(|change| change.moved_from = None);
            list
        });
        check_plan_of(&sites, planned(&base, &lists));
    }
}
