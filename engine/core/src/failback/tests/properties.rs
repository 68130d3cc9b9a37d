//! Random trees, changed at random at both sites.

use proptest::prelude::*;

use super::super::*;
use super::apply::{Entries, apply, check_versions, what};
use super::model::{Base as BaseEntries, Op, Tree, changes};
use super::{path, shown};
use crate::conflict::{Conflict, Decision, Piece, Side};

const PATHS: [&str; 20] = [
    "d",
    "d/a",
    "d/b",
    "d/c",
    "d/a.tmp",
    "d/b.m_inproc.1",
    "d/s",
    "d/s/a",
    "d/s/b",
    "d/s/t/a",
    "e",
    "e/a",
    "e/b",
    "d/.stfs",
    "d/.stfs/attrs/a",
    "d/.stfs/attrs/b",
    "e/.stfs/attrs/a",
    "f",
    "f/a",
    "g",
];

fn any_path() -> impl Strategy<Value = RelPath> {
    (0..PATHS.len()).prop_map(|at| path(PATHS[at]))
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any_path(), 0u64..5).prop_map(|(path, content)| Op::Write(path, content)),
        2 => (any_path(), 0o600u32..0o603).prop_map(|(path, mode)| Op::Chmod(path, mode)),
        4 => any_path().prop_map(Op::Remove),
        5 => (any_path(), any_path()).prop_map(|(from, to)| Op::Rename(from, to)),
        2 => (any_path(), any_path()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => (any_path(), 1u64..3).prop_map(|(path, target)| Op::Symlink(path, target)),
        1 => any_path().prop_map(Op::Fifo),
        2 => any_path().prop_map(Op::MakeDirectory),
    ]
}

/// A base, and what each site made of it.
#[derive(Debug, Clone)]
pub(super) struct Sites {
    pub(super) base: Tree,
    pub(super) production: Tree,
    pub(super) recovery: Tree,
}

pub(super) fn any_sites() -> impl Strategy<Value = Sites> {
    let ops = |most| proptest::collection::vec(any_op(), 0..most);
    (ops(24), ops(8), ops(8)).prop_map(|(first, p, r)| {
        let mut base = Tree::default().fork(1);
        base.run(&first);
        let (mut production, mut recovery) = (base.fork(2), base.fork(3));
        production.run(&p);
        recovery.run(&r);
        Sites { base, production, recovery }
    })
}

impl Sites {
    pub(super) fn entries(&self) -> [Entries; 3] {
        [self.base.entries(), self.production.entries(), self.recovery.entries()]
    }

    pub(super) fn plan(&self, resolver: &dyn Resolve) -> Vec<Divergence> {
        let base = BaseEntries(self.base.entries());
        let production = changes(&self.base, &self.production);
        let recovery = changes(&self.base, &self.recovery);
        let merge = Merge {
            production: &production,
            recovery: &recovery,
            base: &base,
            resolver,
            config: &Config::default(),
        };
        merge.run().expect("lists").collect::<Result<_, _>>().expect("lists")
    }
}

/// One divergence for each path that a list has, in order, and groups decided as one.
fn check_form(sites: &Sites, plan: &[Divergence], [base, production, recovery]: &[Entries; 3]) {
    let differing: std::collections::BTreeSet<_> = [&sites.production, &sites.recovery]
        .into_iter()
        .flat_map(|site| changes(&sites.base, site))
        .map(|change| change.path)
        .collect();
    let differing: Vec<_> = differing.iter().collect();
    assert_eq!(plan.iter().map(|d| &d.path).collect::<Vec<_>>(), differing);
    for divergence in plan {
        assert_eq!(divergence.base.as_ref(), base.get(&divergence.path));
        assert_eq!(divergence.production.entry.as_ref(), production.get(&divergence.path));
        assert_eq!(divergence.recovery.entry.as_ref(), recovery.get(&divergence.path));
    }
}

/// What the sites have at the end of one group comes from one site, but for what they agree on.
fn check_groups(plan: &[Divergence]) {
    let config = Config::default();
    for divergence in plan {
        let Some(group) = divergence.group else { continue };
        let differs = |d: &&Divergence| d.production.entry != d.recovery.entry;
        let takes = |d: &Divergence| matches!(d.outcome, Outcome::Keep(Site::Production));
        let mut members = plan.iter().filter(|d| d.group == Some(group)).filter(differs);
        let mains_alike = plan
            .iter()
            .filter(|d| d.group == Some(group) && config.owner_of(&d.path).is_none())
            .all(|d| d.production.entry == d.recovery.entry);
        // Of what is not finished nothing is published, and what goes with it may go.
        let by_partial = |d: &Divergence| d.by == DecidedBy::Default(Rule::InFlight);
        let is_partial = plan.iter().any(|d| d.group == Some(group) && by_partial(d));
        if mains_alike || is_partial || !differs(&divergence) {
            continue;
        }
        assert!(
            members.all(|d| takes(d) == takes(divergence)),
            "{}: a group in two minds:\n{}",
            divergence.path,
            shown(plan)
        );
    }
}

/// The promises of the defaults, path by path.
fn check_defaults(plan: &[Divergence], tree: &Entries, entries: &[Entries; 3]) {
    let [base, production, recovery] = entries;
    let config = Config::default();
    for d in plan {
        let path = &d.path;
        let (b, p, r) = (base.get(path), production.get(path), recovery.get(path));
        let end = tree.get(path);
        let is_directory = |e: Option<&Entry>| super::super::is_directory(e);
        let is_plain = !is_directory(b) && !is_directory(p) && !is_directory(r);
        let is_attributes = config.owner_of(path).is_some();
        let held = d.outcome == Outcome::Hold;
        // W4: what recovery consumed stays gone.
        if is_plain && b.is_some() && r.is_none() && !is_attributes {
            assert!(
                end.is_none(),
                "{path}: consumed at recovery, and there again: {}",
                shown(plan)
            );
        }
        // W5: what production consumed and recovery left alone goes.
        let is_moved = d.recovery.moved_from.is_some() || d.recovery.moved_to.is_some();
        let is_same = what(base, path) == what(recovery, path) && !is_moved;
        let left_alone = b.is_some() && r.is_some() && is_same;
        if is_plain && left_alone && p.is_none() && !is_attributes && d.class != Class::BothLinked {
            assert!(
                held || end.is_none(),
                "{path}: consumed at production, and there: {}",
                shown(plan)
            );
        }
        // W7: what production alone received is never published.
        let is_new = b.is_none() && r.is_none() && d.production.moved_from.is_none();
        let shares = |e: Option<&Entry>| e.is_some_and(|e| e.kind() == EntryKind::HardLink);
        if is_plain && is_new && p.is_some() && !is_attributes && !shares(p) && d.group.is_none() {
            assert!(
                end.is_none(),
                "{path}: published though only production received it: {}",
                shown(plan)
            );
        }
        // W1, W10: partial uploads and marks of production are never published.
        if is_plain && config.is_in_flight(path) && p != b && !is_attributes && p != r {
            assert!(end.is_none() || end == r || end == b, "{path}: published: {}", shown(plan));
        }
        // Recovery's stays where production did nothing, and in every conflict.
        if d.group.is_none() && p == b {
            let is_bare = is_directory(b) && r.is_none();
            assert!(end == r || is_bare, "{path}: recovery's alone, not kept: {}", shown(plan));
        }
        if d.class.is_conflict() && r.is_some() && end != r {
            // Of a group with a partial upload, what production deleted and recovery left as it was goes.
            let is_left = b.is_some() && what(base, path) == what(recovery, path);
            let is_taken = d.by == DecidedBy::Default(Rule::ConsumedAtProduction)
                || (d.by == DecidedBy::Default(Rule::DeleteWins) && p.is_none() && is_left);
            let no_content = is_directory(r);
            assert!(is_taken || no_content, "{path}: recovery lost a conflict: {}", shown(plan));
        }
        // Production's is taken where recovery did nothing.
        let is_ordinary = d.group.is_none() && is_plain && !config.is_in_flight(path);
        if is_ordinary && r == b && b.is_some() && !held {
            assert_eq!(end, p, "{path}: production's alone, not taken: {}", shown(plan));
        }
        assert!(!held || matches!(d.by, DecidedBy::Default(_)), "nobody was asked");
    }
}

/// Answers at random, often what cannot be carried out.
#[allow(clippy::type_complexity)] // what a resolver is
pub(super) fn answer(
    seed: u64,
) -> impl Fn(&Conflict, &dyn Fn(&RelPath) -> bool) -> Option<(u32, Decision)> {
    move |conflict, _| {
        let hash = blake3::hash(&[conflict.path.as_bytes(), &seed.to_le_bytes()].concat());
        let bytes = hash.as_bytes();
        let outcome = any_outcome(bytes[0], bytes[1], bytes[2])?;
        Some((7, Decision { outcome, rule: None, reason: "at random".to_owned() }))
    }
}

pub(super) fn any_outcome(kind: u8, site: u8, name: u8) -> Option<Outcome> {
    let site = if site & 1 == 0 { Site::Production } else { Site::Recovery };
    let names = ["d/z", "d/s/z", "e/a", "h/i/z", "d/b", "g/z", "d/.stfs/attrs/z", "f/z"];
    Some(match kind % 8 {
        0 => Outcome::Hold,
        1 | 2 => Outcome::Keep(site),
        3 | 4 => {
            Outcome::KeepBoth { renamed: site, path: path(names[usize::from(name) % names.len()]) }
        }
        5 => Outcome::Merge {
            attributes: site,
            pieces: vec![
                Piece::Copy { side: Side::Production, offset: 0, length: 1 },
                Piece::Literal(b"and".to_vec()),
                Piece::Copy { side: Side::Recovery, offset: 0, length: 1 },
            ],
        },
        6 => Outcome::Delete,
        _ => return None,
    })
}

pub(super) fn check_plan_by_default(sites: &Sites) {
    check_plan_of(sites, sites.plan(&Unasked));
}

pub(super) fn check_plan_of(sites: &Sites, plan: Vec<Divergence>) {
    let entries = sites.entries();
    check_form(sites, &plan, &entries);
    check_groups(&plan);
    let applied = apply(&plan, &entries[1], &entries[2]);
    check_versions(&plan, &applied, &entries[0], &entries[1], &entries[2]);
    check_defaults(&plan, &applied.tree, &entries);
}

pub(super) fn check_plan_by_policies(sites: &Sites, seed: u64) {
    let entries = sites.entries();
    let plan = sites.plan(&answer(seed));
    check_form(sites, &plan, &entries);
    let applied = apply(&plan, &entries[1], &entries[2]);
    check_versions(&plan, &applied, &entries[0], &entries[1], &entries[2]);
    // Policies are asked about conflicts alone.
    for d in &plan {
        let is_asked = matches!(d.by, DecidedBy::Policy(_));
        let is_conflict = |o: &Divergence| {
            let is_bound = o.path == d.path || (o.group.is_some() && o.group == d.group);
            is_bound && o.class.is_conflict()
        };
        assert!(!is_asked || plan.iter().any(is_conflict), "asked about {d:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::with_cases(6_000)
    })]

    #[test]
    fn nothing_is_lost_and_nothing_comes_back(sites in any_sites()) {
        check_plan_by_default(&sites);
    }

    #[test]
    fn whatever_policies_answer_can_be_carried_out_and_loses_nothing(
        sites in any_sites(), seed: u64,
    ) {
        check_plan_by_policies(&sites, seed);
    }

    #[test]
    fn without_a_base_nothing_is_decided(sites in any_sites()) {
        let [_, production, recovery] = sites.entries();
        let list = |entries: &Entries| -> Vec<SideChange> {
            entries.iter().map(|(path, entry)| SideChange {
                path: path.clone(), before: None, after: Some(entry.clone()), moved_from: None,
            }).collect()
        };
        let (p, r) = (list(&production), list(&recovery));
        let config = Config { base: Base::Unknown, ..Config::default() };
        let merge = Merge {
            production: &p, recovery: &r, base: &NoBase, resolver: &answer(1), config: &config,
        };
        let plan: Vec<_> =
            merge.run().expect("lists").collect::<Result<_, _>>().expect("lists");
        for d in &plan {
            prop_assert_eq!((&d.outcome, d.class), (&Outcome::Hold, Class::NoBase));
            prop_assert_ne!(production.get(&d.path), recovery.get(&d.path));
        }
        let applied = apply(&plan, &production, &recovery);
        prop_assert_eq!(&applied.tree, &recovery);
        check_versions(&plan, &applied, &Entries::new(), &production, &recovery);
    }
}
