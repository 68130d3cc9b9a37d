//! The simulation from many seeds, and the operator who puts things right afterwards.

use super::super::*;
use super::world::{Fault, Seen, World, note};

/// Steps of trouble.
const STEPS: u64 = 400;
/// What an operator may take to put all right: looks, each a second after the last command.
const LOOKS: usize = 60;

pub(super) fn run(seed: u64, fault: Fault, trace: bool) -> (Result<Seen, String>, Vec<String>) {
    let mut world = World::new(seed, fault);
    world.trace = trace.then(Vec::new);
    for _ in 0..world.rng.below(80) {
        world.step();
    }
    world.calm = false;
    for _ in 0..STEPS {
        world.sabotage();
        let quiet = seed.is_multiple_of(3) && world.weather < 4;
        if world.rng.percent(if quiet { 5 } else { 18 }) {
            world.act_of_god();
        }
        world.step();
        if world.violation.is_some() {
            break;
        }
    }
    if world.violation.is_none() {
        put_right(&mut world);
    }
    let trace = world.trace.take().unwrap_or_default();
    (world.violation.map_or(Ok(world.seen), Err), trace)
}

fn put_right(world: &mut World) {
    world.heal();
    for look in 0..LOOKS {
        let until = world.now + 1_000;
        while world.now < until && world.violation.is_none() {
            world.step();
        }
        if world.violation.is_some() {
            return;
        }
        if world.has_converged() {
            return;
        }
        decide(world, look);
    }
    let states = [0, 1].map(|site| {
        let now = world.moment(site).ms;
        let s = &world.sites[site];
        s.role.as_ref().map(|r| {
            let record = r.record();
            (record.phase, record.stamp(), r.gate(now), r.legal_commands(now), s.runs)
        })
    });
    world.fail(format!("nobody could put it right: {states:?}"));
}

/// An operator who reads `status` at both sites and knows nothing else.
fn decide(world: &mut World, look: usize) {
    let plan = PlanId([1; 32]);
    let legal = [0, 1].map(|site| {
        let now = world.moment(site).ms;
        let role = world.sites[site].role.as_ref();
        role.map_or(Vec::new(), |r| r.legal_commands(now))
    });
    note!(world, "legal {legal:?}");
    let phase = |world: &World, site: usize| {
        world.sites[site].role.as_ref().map_or(Phase::Standby, |r| r.record().phase)
    };
    let order = [
        CommandName::RetryHook,
        CommandName::TakeBack,
        CommandName::BeginReconcile,
        CommandName::FinishReconcile,
        CommandName::ResolveSplit,
        CommandName::AbortSwitchover,
    ];
    for name in order {
        // One who always begins at the same site would not be random enough.
        for site in if look % 4 < 2 { [0, 1] } else { [1, 0] } {
            if !legal[site].contains(&name) {
                continue;
            }
            let here = phase(world, site);
            let command = match (name, here) {
                (CommandName::RetryHook, _) => Command::RetryHook,
                (CommandName::TakeBack, _) => Command::TakeBack,
                (CommandName::BeginReconcile, Phase::Reconciling { .. }) => continue,
                (CommandName::BeginReconcile, _) => Command::BeginReconcile { plan },
                (CommandName::FinishReconcile, Phase::Reconciling { plan, .. }) => {
                    Command::FinishReconcile { plan }
                }
                (CommandName::ResolveSplit, _) => Command::ResolveSplit,
                // The drain goes on by itself now; who waited long enough gives up.
                (CommandName::AbortSwitchover, _) if look % 8 == 7 => Command::AbortSwitchover,
                _ => continue,
            };
            return world.command(site, command);
        }
    }
}

pub(super) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// `FARSHORE_SEEDS` seeds from `FARSHORE_FIRST_SEED` on.
#[test]
#[allow(clippy::print_stderr)]
fn two_sites_keep_their_promises_whatever_happens() {
    let first = number("FARSHORE_FIRST_SEED", 0);
    let count = number("FARSHORE_SEEDS", 2_000);
    let mut all = Seen::default();
    let mut bad = Vec::new();
    for seed in first..first + count {
        if number("FARSHORE_SHOW", u64::MAX) == seed {
            run(seed, Fault::None, true).1.iter().for_each(|line| eprintln!("{line}"));
        }
        match run(seed, Fault::None, false).0 {
            Ok(seen) => add(&mut all, &seen),
            Err(what) if number("FARSHORE_ALL_SEEDS", 0) > 0 => bad.push((seed, what)),
            Err(what) => {
                let (_, trace) = run(seed, Fault::None, true);
                let keep = usize::try_from(number("FARSHORE_TRACE", 120)).unwrap_or(120);
                let tail = trace.len().saturating_sub(keep);
                panic!("seed {seed}: {what}\n{}", trace[tail..].join("\n"));
            }
        }
    }
    eprintln!("{count} seeds: {all:?}");
    assert!(bad.is_empty(), "{} seeds of {count}: {bad:#?}", bad.len());
    if count >= 1_000 {
        let Seen { events, switched, declined, forced, lapsed, splits, .. } = all;
        let Seen { stranded, reconciled, taken_back, restored, found_out, baseless, .. } = all;
        let parts = [events, switched, declined, forced, lapsed, splits, stranded, reconciled];
        assert!(
            parts.into_iter().chain([taken_back, restored, found_out, baseless]).all(|n| n >= 10),
            "it tests too little: {all:?}"
        );
    }
}

fn add(all: &mut Seen, one: &Seen) {
    all.events += one.events;
    all.switched += one.switched;
    all.declined += one.declined;
    all.forced += one.forced;
    all.lapsed += one.lapsed;
    all.splits += one.splits;
    all.stranded += one.stranded;
    all.reconciled += one.reconciled;
    all.taken_back += one.taken_back;
    all.restored += one.restored;
    all.found_out += one.found_out;
    all.baseless += one.baseless;
}
