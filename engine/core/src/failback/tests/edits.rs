//! A person changes a plan.

use proptest::prelude::*;

use super::super::plan::*;
use super::super::*;
use super::apply::{apply, check_versions};
use super::model::{Base as BaseEntries, Op, Tree, changes};
use super::path;
use super::plans::{header, read, written};
use super::properties::{Sites, answer, any_outcome, any_sites};

fn edited(
    plan: &[Divergence],
    base: &BaseEntries,
    select: &dyn Fn(&Divergence) -> bool,
    outcome: &Outcome,
) -> (Vec<Divergence>, Edited) {
    let bytes = written(plan, 1);
    let change = Edit { select, outcome, reason: "as agreed", base, config: &Config::default() };
    let (out, edited) = edit(&|| Ok(&bytes[..]), Vec::new(), &change).expect("memory");
    let reader = PlanReader::new(&out[..]).expect("a plan");
    assert_eq!((reader.header().id(), reader.revision()), (header().id(), 2));
    (read(&out).expect("a plan"), edited)
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::with_cases(3_000)
    })]

    #[test]
    fn whatever_a_person_changes_can_be_carried_out_and_loses_nothing(
        sites in any_sites(), seed: u64,
        changes in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>()), 1..4),
    ) {
        check_edits(&sites, seed, &changes);
    }
}

type Change = (u8, u8, u8, u8);

pub(super) fn check_edits(sites: &Sites, seed: u64, changes: &[Change]) {
    let entries = sites.entries();
    let base = BaseEntries(entries[0].clone());
    let mut plan = sites.plan(&answer(seed));
    for &(which, kind, site, name) in changes {
        let Some(outcome) = any_outcome(kind, site, name) else { continue };
        let select =
            |d: &Divergence| blake3::hash(d.path.as_bytes()).as_bytes()[0] % 4 == which % 4;
        let (after, edited) = edited(&plan, &base, &select, &outcome);
        assert_eq!(after.len(), plan.len());
        let by_person = after.iter().filter(|d| d.by == DecidedBy::Person).count() as u64;
        assert!(edited.changed <= by_person);
        for (old, new) in plan.iter().zip(&after) {
            let is_meant = select(old)
                || plan.iter().any(|d| d.group.is_some() && d.group == old.group && select(d));
            let is_mended = new.by == DecidedBy::Default(Rule::DirectoryNeeded);
            assert!(is_meant || is_mended || old == new, "{:?} became {:?}", old, new);
        }
        plan = after;
    }
    let applied = apply(&plan, &entries[1], &entries[2]);
    check_versions(&plan, &applied, &entries[0], &entries[1], &entries[2]);
}

fn ops(sites: [&[Op]; 3]) -> (Sites, BaseEntries) {
    let mut base = Tree::default().fork(1);
    base.run(sites[0]);
    let (mut production, mut recovery) = (base.fork(2), base.fork(3));
    production.run(sites[1]);
    recovery.run(sites[2]);
    let entries = BaseEntries(base.entries());
    assert!(!changes(&base, &production).is_empty());
    (Sites { base, production, recovery }, entries)
}

fn at<'a>(plan: &'a [Divergence], name: &str) -> &'a Divergence {
    plan.iter().find(|d| d.path == path(name)).expect("in the plan")
}

#[test]
fn publishing_what_was_held_brings_its_attributes_and_its_directories() {
    let made = [Op::Write(path("acc/in/a"), 1), Op::Write(path("acc/in/.stfs/attrs/a"), 2)];
    let base = [Op::Write(path("acc/in/old"), 3), Op::MakeDirectory(path("acc/in/.stfs/attrs"))];
    let (sites, base) = ops([&base, &made, &[Op::Remove(path("acc/in"))]]);
    let plan = sites.plan(&Unasked);
    assert_eq!(at(&plan, "acc/in").outcome, Outcome::Keep(Site::Recovery), "gone");
    let keep = Outcome::Keep(Site::Production);
    let (after, edited) = edited(&plan, &base, &|d| d.path == path("acc/in/a"), &keep);
    assert!(edited.refused.is_empty() && edited.changed == 2, "{edited:?}");
    for name in ["acc/in", "acc/in/a", "acc/in/.stfs", "acc/in/.stfs/attrs", "acc/in/.stfs/attrs/a"]
    {
        assert_eq!(at(&after, name).outcome, keep, "{name}");
    }
    assert_eq!(at(&after, "acc/in/a").needs, at(&after, "acc/in/a").size());
    assert_eq!(at(&after, "acc/in/a").why(), "as agreed");
    let [base, production, recovery] = sites.entries();
    let applied = apply(&after, &production, &recovery);
    check_versions(&after, &applied, &base, &production, &recovery);
    assert!(applied.tree.contains_key(&path("acc/in/a")));
}

#[test]
fn what_cannot_be_carried_out_is_refused_and_said() {
    let base =
        [Op::Write(path("d/a"), 1), Op::Write(path("d/b"), 1), Op::Link(path("d/b"), path("d/c"))];
    let production =
        [Op::Write(path("d/a"), 2), Op::Write(path("d/new"), 3), Op::Write(path("d/b"), 4)];
    let recovery = [Op::Write(path("d/a"), 5), Op::Write(path("d/b"), 6)];
    let (sites, base) = ops([&base, &production, &recovery]);
    let plan = sites.plan(&Unasked);
    let refused = |name: &'static str, outcome: &Outcome| {
        let (after, edited) = edited(&plan, &base, &|d| d.path == path(name), outcome);
        let changed: Vec<_> = after.iter().zip(&plan).filter(|(a, b)| a != b).collect();
        assert!(changed.is_empty(), "{name}: {changed:#?}");
        assert_eq!((edited.refused.len(), edited.changed), (1, 0));
        edited.refused[0].why.clone()
    };
    let both = |name: &str| Outcome::KeepBoth { renamed: Site::Production, path: path(name) };
    assert!(refused("d/new", &Outcome::Keep(Site::Recovery)).contains("never had the path"));
    assert!(refused("d/a", &both("d/c")).contains("not free"));
    assert!(refused("d/a", &both("d/a/x")).contains("below it"));
    assert!(refused("d/b", &both("d/z")).contains("several names"));
}
