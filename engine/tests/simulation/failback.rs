//! The way home on disks that fail: a plan with cases of every kind of divergence is carried out at both sites,
//! once undisturbed, and once for each storage operation of either site's part with the process ending there,
//! the power going, or the operation failing. Then it is called again, until it ends.
//!
//! At the moment of the crash and at the end every version that stood at either site is in a tree or a
//! quarantine; the end is the undisturbed one, and that is what the rules say: nothing lost, nothing consumed
//! comes back, nothing that recovery has is gone, and after the replication that follows both trees are equal.
//!
//! `FARSHORE_SIM_SEEDS=N` takes every operation, with N seeds; `FARSHORE_SIM_ONLY` the one state a failure named.

use std::collections::BTreeSet;

use farshore_core::conflict::{Outcome, Site};
use farshore_engine::io::FileKind;
use farshore_engine::io::sim::{CrashModel, Fault};

use crate::oracle::difference;
use crate::sites::Tree;
use crate::storage::Careless;
use crate::{Judgement, Sample, Side, State, Verdict, sweep};

#[path = "failback/anew.rs"]
mod anew;
#[path = "failback/consumed.rs"]
mod consumed;
#[path = "failback/faults.rs"]
mod faults;
#[path = "failback/home.rs"]
mod home;
#[path = "failback/kinds.rs"]
mod kinds;
#[path = "failback/late.rs"]
mod late;
#[path = "failback/named.rs"]
mod named;
#[path = "failback/rewritten.rs"]
mod rewritten;
#[path = "failback/settled.rs"]
mod settled;

use home::{End, Home, Sites, What, versions, what};
use kinds::{Ends, of_base, of_production, of_recovery};

/// What happens at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The process ends after it: all that was done stays.
    Ends,
    /// The power goes during it.
    Cut,
    Fails(Fault),
}

/// Home, the undisturbed end, and every version there was.
struct Truth {
    home: Home,
    end: End,
    ever: BTreeSet<What>,
}

impl Truth {
    fn of(each: usize) -> Self {
        let home = Home::new(each);
        let sites = home.fork(1, CrashModel::Hostile);
        sites.carry_out(&home, &|_| {}).expect("undisturbed");
        let ever = versions([&home.production, &home.recovery]);
        Self { end: sites.end(), home, ever }
    }

    fn check_versions(&self, end: &End, when: &str) -> Result<(), String> {
        let there = end.versions();
        let lost: Vec<_> = self.ever.difference(&there).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let trees = [&self.home.production, &self.home.recovery];
        let named = trees.iter().flat_map(|tree| tree.iter());
        let named = named.filter(|(_, entry)| what(entry).is_some_and(|w| lost.contains(&&w)));
        let names: Vec<_> = named.map(|(p, _)| p.escape_ascii().to_string()).take(6).collect();
        Err(format!("{when}: {} versions are lost: {names:?}", lost.len()))
    }
}

fn disturbed(
    truth: &Truth,
    careless: Careless,
    site: Side,
    how: How,
    state: State<'_>,
) -> Judgement {
    let Truth { home, end, .. } = truth;
    let mut sites = home.fork(state.seed, state.model);
    sites.0.careless = careless;
    let disk = sites.disk(site).clone();
    let start = std::cell::Cell::new(u64::MAX);
    let arm = |at: Side| {
        if at == site {
            start.set(disk.operations());
            match how {
                How::Ends | How::Cut => disk.cut_power_at(state.at),
                How::Fails(fault) => disk.fail_at(state.at, fault),
            }
        }
    };
    let first = sites.carry_out(home, &arm);
    let judged = (|| -> Judgement {
        let met = disk.operations() - start.get() >= state.at;
        if !met {
            first.clone()?;
            return Ok(Verdict::PastTheEnd);
        }
        match how {
            How::Ends => disk.end_processes(),
            How::Cut => disk.crash(state.seed),
            // A lie is told to be found out; of the others every second is followed by a crash.
            How::Fails(Fault::SyncLies) => disk.crash(state.seed),
            How::Fails(_) if state.at.is_multiple_of(2) => disk.crash(state.seed),
            How::Fails(_) => {}
        }
        // Whoever failed says so; what is durable when it says it is done must last.
        truth.check_versions(&sites.end(), "at the crash")?;
        sites.0.careless = Careless::Nothing;
        settled(truth, &sites, end)?;
        Ok(Verdict::Held)
    })();
    judged.map_err(|text| {
        let trace = disk.trace().join("\n  ");
        format!("{how:?}: {text}\nfirst: {first:?}\nlast operations:\n  {trace}")
    })
}

/// It is called again and again, ends, and all is as it should be; and once more, when it is over.
fn settled(truth: &Truth, sites: &Sites, end: &End) -> Result<(), String> {
    let home = &truth.home;
    sites.carry_out(home, &|_| {}).map_err(|text| format!("called again: {text}"))?;
    let found = sites.end();
    truth.check_versions(&found, "at the end")?;
    if let Some(text) = found.difference(end) {
        return Err(format!("another end:\n{text}"));
    }
    sites.drop_folders().map_err(|e| e.to_string())?;
    sites.carry_out(home, &|_| {}).map_err(|text| format!("when it was over: {text}"))?;
    match sites.end().difference(end) {
        None => Ok(()),
        Some(text) => Err(format!("another end when called once too often:\n{text}")),
    }
}

/// Cases of each kind in the sweeps.
const SWEPT: usize = 1;

fn sweeps(site: Side, name: &str, step: u64) {
    let truth = Truth::of(SWEPT);
    let mut wrong = Vec::new();
    for (name, how) in [
        (format!("failback {name} ends"), How::Ends),
        (format!("failback {name} cut"), How::Cut),
        (format!("failback {name} EIO"), How::Fails(Fault::Eio)),
        (format!("failback {name} ENOSPC"), How::Fails(Fault::Enospc)),
        (format!("failback {name} lie"), How::Fails(Fault::SyncLies)),
    ] {
        let began = std::time::Instant::now();
        let (states, found) = sweep(&name, Sample::every(step), 5, |state| {
            disturbed(&truth, Careless::Nothing, site, how, state)
        });
        eprintln!("{name}: {states} states in {:.1?}, {} wrong", began.elapsed(), found.len());
        wrong.extend(found);
    }
    if let Some(first) = wrong.first() {
        panic!("{} states wrong, the first:\n{first}", wrong.len());
    }
}

#[test]
fn a_failback_that_is_cut_short_at_production_has_the_same_end() {
    sweeps(Side::Source, "production", 31);
}

#[test]
fn a_failback_that_is_cut_short_at_recovery_has_the_same_end() {
    sweeps(Side::Target, "recovery", 97);
}

fn at<'t>(tree: &'t Tree, path: &str) -> Option<&'t farshore_engine::io::sim::SimEntry> {
    tree.get(path.as_bytes())
}

/// Every path against the rules, whatever its kind.
fn rules(home: &Home, end: &End) -> Vec<String> {
    let mut wrong = Vec::new();
    let plan = home.divergences();
    let content = |tree: &Tree, path: &Vec<u8>| tree.get(path).and_then(what);
    let paths: BTreeSet<_> =
        home.base.keys().chain(home.production.keys()).chain(home.recovery.keys()).collect();
    for path in paths {
        let [p, r] = [&home.production, &home.recovery].map(|t| content(t, path));
        let found = content(&end.recovery, path);
        let outcome = plan.get(path).map(|d| &d.outcome);
        let as_it_should = match outcome {
            None => found == r,
            Some(Outcome::Keep(Site::Production)) => found == p,
            Some(Outcome::Keep(Site::Recovery) | Outcome::Hold) => found == r,
            Some(Outcome::KeepBoth { renamed, path: other }) => {
                let (stays, goes) =
                    if matches!(renamed, Site::Production) { (&r, &p) } else { (&p, &r) };
                found == *stays && content(&end.recovery, &other.as_bytes().to_vec()) == *goes
            }
            Some(Outcome::Delete) => found.is_none(),
            Some(Outcome::Merge { .. }) => found.is_some() && found != p && found != r,
        };
        let text = path.escape_ascii();
        if !as_it_should {
            wrong.push(format!("{text}: not as {outcome:?}: {found:?}"));
        }
    }
    wrong.extend(promises(home, end));
    wrong
}

/// What holds whatever is planned: what recovery alone did stays.
fn promises(home: &Home, end: &End) -> Vec<String> {
    let mut wrong = Vec::new();
    let content = |tree: &Tree, path: &Vec<u8>| tree.get(path).and_then(what);
    let paths: BTreeSet<_> =
        home.base.keys().chain(home.production.keys()).chain(home.recovery.keys()).collect();
    for path in paths {
        let [b, p, r] = [&home.base, &home.production, &home.recovery].map(|t| content(t, path));
        let (found, text) = (content(&end.recovery, path), path.escape_ascii());
        let decided = home.kinds.iter().any(|kind| {
            kind.decided.is_some() && text.to_string().contains(&format!("/{}-", kind.name))
        });
        if p == b && r.is_none() && found.is_some() && !decided {
            wrong.push(format!("{text}: came back"));
        }
        if p == b && r.is_some() && found != r && !decided {
            wrong.push(format!("{text}: recovery alone had it, and it is another"));
        }
    }
    wrong
}

/// Each case against what its kind says.
fn ends(home: &Home, end: &End) -> Vec<String> {
    let mut wrong = Vec::new();
    for (kind, n) in home.kinds.iter().flat_map(|kind| (0..home.each).map(move |n| (kind, n))) {
        let path = kind.path(n);
        let found = at(&end.recovery, &path).and_then(what);
        let file = |text: String| {
            let base = [&home.base, &home.production, &home.recovery];
            let of = base.iter().find_map(|tree| {
                at(tree, &path).filter(|e| e.size == text.len() as u64).and_then(what)
            });
            of.map(Some)
        };
        let wanted = match kind.ends {
            Ends::Rules => continue,
            Ends::Nothing => Some(None),
            Ends::Base => file(of_base(&path)),
            Ends::Production => file(of_production(&path)),
            Ends::Recovery => file(of_recovery(&path)),
        };
        if Some(&found) != wanted.as_ref() {
            wrong.push(format!("{path}: {:?}, not {found:?}", kind.ends));
        }
    }
    wrong
}

/// Names of one inode are one still.
fn groups(home: &Home, end: &End) -> Vec<String> {
    let mut wrong = Vec::new();
    for kind in ["h-p-in-place", "h-in-place", "h-p-metadata", "h-r-in-place", "h-b-in-place"] {
        for n in 0..home.each {
            let path = format!("acct{}/in/{kind}-{n}", n % 4);
            for name in [".b", ".c"] {
                let there = at(&end.recovery, &format!("{path}{name}"));
                let of = there.and_then(|entry| entry.hard_link_of.clone());
                if of.as_deref() != Some(path.as_bytes()) {
                    wrong.push(format!("{path}{name}: no name of the first: {of:?}"));
                }
            }
        }
    }
    wrong
}

#[test]
fn every_kind_of_divergence_ends_as_it_should() {
    let truth = Truth::of(20);
    let Truth { home, end, .. } = &truth;
    let mut wrong = rules(home, end);
    wrong.extend(ends(home, end));
    wrong.extend(groups(home, end));
    truth.check_versions(end, "undisturbed").unwrap_or_else(|text| wrong.push(text));
    eprintln!(
        "failback: {} kinds, {} cases, {} divergences, {} versions; quarantined {} and {}; {} wrong",
        home.kinds.len(),
        home.kinds.len() * home.each,
        home.divergences().len(),
        truth.ever.len(),
        files(&end.quarantines[0]),
        files(&end.quarantines[1]),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(40)]);
}

#[test]
fn after_the_way_home_replication_makes_both_trees_equal() {
    // More cases would be more differences than the link in memory has room for questions about.
    let truth = Truth::of(2);
    let home = &truth.home;
    let sites = home.fork(1, CrashModel::Hostile);
    sites.carry_out(home, &|_| {}).expect("undisturbed");
    let world = sites.replicate_home();
    assert_eq!(difference(&world.target_tree(), &world.source_tree()), None);
    let end = End { production: world.target_tree(), recovery: world.source_tree(), ..sites.end() };
    assert_eq!(groups(home, &end), Vec::<String>::new());
    let trees =
        [&world.target, &world.source].map(|disk| disk.snapshot_tree("tree").expect("a tree"));
    assert_eq!(truth.ever.difference(&versions(&trees)).count(), 0, "lost by what follows");
}

fn files(tree: &Tree) -> usize {
    tree.values().filter(|entry| entry.kind != FileKind::Directory).count()
}
