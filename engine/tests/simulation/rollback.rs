//! Going back on a disk that fails: a rollback that is cut short is finished or was never begun.

use farshore_core::path::RelPath;
use farshore_engine::apply::Applier;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::history::rollback::BatchBounds;
use farshore_engine::history::{Goal, Report, Rollback, Wanted, find};
use farshore_engine::ingest::describe;
use farshore_engine::io::Storage;
use farshore_engine::io::sim::{Fault, SimConfig};
use farshore_engine::own_folder::OwnFolder;
use farshore_engine::profile::Profile;
use farshore_engine::stage::StageConfig;
use farshore_proto::message::StoreId;

use crate::sites::{Tree, World};
use crate::{Judgement, Sample, State, Verdict, demand};

/// What is to be done to a target on its own.
enum Task {
    /// Go back to the point of this sequence.
    To(u64),
    /// Finish what was interrupted, if anything was.
    Start,
}

fn work(world: &World, task: &Task) -> Result<Option<Report>, String> {
    let catalog = world.catalog(CatalogRole::Target)?;
    let storage = world.target.mount("tree").map_err(|e| e.to_string())?;
    let own = OwnFolder::open(&storage, StoreId([7; 16])).map_err(|e| e.to_string())?;
    let (profile, spool) = (Profile::default(), std::env::temp_dir());
    let now_ms = || 1_700_000_000_000;
    let (storage, catalog, own) = (&storage, &catalog, &own);
    let applier = Applier { storage, catalog, own, now_ms: &now_ms, profile: &profile };
    if matches!(task, Task::Start) {
        applier.recover().map_err(|e| describe(&e))?;
    }
    let mut rollback = Rollback::new(
        applier,
        &spool,
        1,
        StageConfig { devices: true, passes_over_too_large: false },
    );
    // Several batches, so that it can be cut between two.
    rollback.bounds = BatchBounds { ops: 12, ..BatchBounds::default() };
    match task {
        Task::Start => rollback.finish().map_err(|e| describe(&e)),
        Task::To(sequence) => {
            let reader = catalog.reader().map_err(|e| describe(&e))?;
            let (batch, point) =
                find(&reader, &Wanted::Sequence(*sequence)).map_err(|e| describe(&e))?;
            drop(reader);
            let root = point.map(|p| p.point.root);
            let goal = Goal { batch, scope: RelPath::root(), root };
            rollback.run(&goal).map(Some).map_err(|e| describe(&e))
        }
    }
}

fn exactly(world: &World, point: u64, tree: &Tree) -> Result<(), String> {
    let report = work(world, &Task::To(point))?.ok_or("no report")?;
    if !report.exact || report.failed > 0 {
        return Err(format!("not exact: {report:?}"));
    }
    same(&world.target_tree(), tree, "after going back")
}

fn same(a: &Tree, b: &Tree, when: &str) -> Result<(), String> {
    let differs = |path: &&Vec<u8>| a.get(*path) != b.get(*path);
    let all: std::collections::BTreeSet<&Vec<u8>> =
        a.keys().chain(b.keys()).filter(differs).collect();
    let shown: Vec<String> = all.iter().take(6).map(|p| p.escape_ascii().to_string()).collect();
    if all.is_empty() { Ok(()) } else { Err(format!("{when}: differs in {shown:?}")) }
}

/// Both states replicated: the world, and the target's tree at each point.
fn both() -> (World, Tree, Tree) {
    let world = World::new().second();
    let first = world.target_tree();
    world.run().sealed().expect("the second run");
    world.target.mount("").expect("mount").sync_all().expect("sync");
    let second = world.target_tree();
    (world, first, second)
}

#[test]
fn both_points_come_back_again_and_again() {
    let (world, first, second) = both();
    for (point, tree) in [(1, &first), (2, &second), (1, &first), (1, &first), (2, &second)] {
        exactly(&world, point, tree).unwrap_or_else(|e| panic!("point {point}: {e}"));
    }
    world.run().sealed().expect("the source again");
    same(&world.target_tree(), &second, "the source again").expect("equal");
}

/// After whatever ended a rollback early, the next start has one of both states, and each can be had.
fn settled(world: &World, state: State<'_>, first: &Tree, second: &Tree) -> Result<(), String> {
    if state.at.is_multiple_of(3) {
        // The next start is a session of the source.
        world.run().sealed()?;
        same(&world.target_tree(), second, "after the next session")?;
        return exactly(world, 1, first);
    }
    let finished = work(world, &Task::Start)?;
    let now = world.target_tree();
    match finished {
        Some(report) if !report.exact => return Err(format!("not exact: {report:?}")),
        Some(_) => same(&now, first, "finished")?,
        None => same(&now, first, "done").or_else(|_| same(&now, second, "not begun"))?,
    }
    exactly(world, 2, second)?;
    exactly(world, 1, first)
}

fn cut(base: &(World, Tree, Tree), state: State<'_>) -> Judgement {
    let (base, first, second) = base;
    let world = base.fork(state.seed, state.model);
    world.target.cut_power_at(state.at);
    let done = work(&world, &Task::To(1));
    if !world.target.is_dead() {
        done?;
        same(&world.target_tree(), first, "uncut")?;
        return Ok(Verdict::PastTheEnd);
    }
    world.target.crash(state.seed);
    let judged = settled(&world, state, first, second);
    let trace = || world.target.trace().join("\n  ");
    judged.map(|()| Verdict::Held).map_err(|text| format!("{text}\n  {}", trace()))
}

#[test]
fn power_cut_of_a_rollback() {
    let base = both();
    demand("rollback cut", Sample::every(3), |state| cut(&base, state));
}

fn failing(base: &(World, Tree, Tree), fault: Fault, state: State<'_>) -> Judgement {
    let (base, first, second) = base;
    let world = base.fork(state.seed, state.model);
    let before = world.target.operations();
    world.target.fail_at(state.at, fault);
    let done = work(&world, &Task::To(1));
    if world.target.operations() - before < state.at {
        done?;
        return Ok(Verdict::PastTheEnd);
    }
    settled(&world, state, first, second).map(|()| Verdict::Held)
}

#[test]
fn failing_calls_in_a_rollback() {
    let base = both();
    for (name, fault) in [("rollback EIO", Fault::Eio), ("rollback ENOSPC", Fault::Enospc)] {
        demand(name, Sample::every(7), |state| failing(&base, fault, state));
    }
}

/// The disk has so many pages of 4 KiB left, and later enough.
fn full(base: &(World, Tree, Tree), state: State<'_>) -> Judgement {
    let (base, first, second) = base;
    let world = base.fork(state.seed, state.model);
    let room = world.target.mount("").and_then(|d| d.free_bytes()).map_err(|e| e.to_string())?;
    let used = SimConfig::default().capacity_bytes - room;
    world.target.set_capacity_bytes(used + (state.at - 1) * 4_096);
    let done = work(&world, &Task::To(1));
    if matches!(&done, Ok(Some(report)) if report.exact) {
        same(&world.target_tree(), first, "it fitted")?;
        return Ok(Verdict::PastTheEnd);
    }
    let Err(said) = done else { return Err(format!("neither done nor refused: {done:?}")) };
    // Found out before anything was done.
    if said.contains("bytes free") {
        same(&world.target_tree(), second, "refused")?;
    }
    world.target.set_capacity_bytes(SimConfig::default().capacity_bytes);
    settled(&world, state, first, second).map(|()| Verdict::Held)
}

#[test]
fn full_disk_in_a_rollback() {
    let base = both();
    demand("rollback full", Sample::every(29), |state| full(&base, state));
}
