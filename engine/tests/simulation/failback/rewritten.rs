//! Services write at recovery to files whose content the plan wants at another path, while the plan is carried out: what
//! is placed is the plan's content all the same, what they wrote is kept, and the plan comes to its end.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;

use farshore_engine::io::sim::CrashModel;

use super::Truth;
use super::home::{Sites, what};
use crate::trees::Hands;
use crate::{Judgement, Sample, Side, Verdict, sweep};

/// Production renamed these, and recovery has their content there alone.
const RENAMED: [&str; 3] =
    ["acct0/in/p-renamed-0", "acct0/in/c-p-renamed-0", "acct0/in/d-p-renamed-0/a"];
/// In all that they write.
const MARK: &[u8] = b"WRITTEN";

thread_local! {
    /// Files that were written to; whoever does it is called on the thread of the part.
    static WRITTEN: Cell<usize> = const { Cell::new(0) };
}

fn to_each(act: impl Fn(&str) -> io::Result<()>) {
    WRITTEN.set(RENAMED.iter().filter(|path| act(path).is_ok()).count());
}

fn in_place(hands: &Hands<'_>) {
    to_each(|path| hands.patch(path, 0, MARK));
}

fn another(hands: &Hands<'_>) {
    to_each(|path| hands.file(path, &[MARK, path.as_bytes()].concat()).map(drop));
}

fn taken(hands: &Hands<'_>) {
    to_each(|path| hands.unlink(path));
}

/// Versions at recovery that hold the mark.
fn marked(sites: &Sites) -> usize {
    let disk = sites.disk(Side::Target);
    let tree = disk.snapshot_tree("tree").expect("a tree");
    let read = |path: &Vec<u8>| disk.read_file([b"tree/", &path[..]].concat()).ok();
    let is_marked = |bytes: &Vec<u8>| bytes.windows(MARK.len()).any(|window| window == MARK);
    tree.keys().filter_map(read).filter(is_marked).collect::<BTreeSet<_>>().len()
}

/// The end is the undisturbed one but for what was written to, which is kept where it was written.
fn judge(truth: &Truth, sites: &Sites, written: usize, leaves_marks: bool) -> Result<(), String> {
    let (found, wanted) = (sites.end().recovery, &truth.end.recovery);
    let paths: BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let is_written = |path: &[u8]| RENAMED.iter().any(|written| written.as_bytes() == path);
    for path in paths.into_iter().filter(|path| !is_written(path)) {
        let [found, wanted] = [&found, wanted].map(|tree| tree.get(path).and_then(what));
        if found != wanted {
            return Err(format!("{}: {found:?}, not {wanted:?}", path.escape_ascii()));
        }
    }
    let kept = marked(sites);
    if leaves_marks && kept < written {
        return Err(format!("{kept} of {written} versions that services wrote are left"));
    }
    Ok(())
}

/// Services act right before the changing call `at` of recovery's part.
fn meanwhile(truth: &Truth, act: fn(&Hands<'_>), leaves_marks: bool, at: u64) -> Judgement {
    let home = &truth.home;
    let mut sites = home.fork(at, CrashModel::Hostile);
    sites.part(home, Side::Source)?;
    sites.transfer(home).map_err(|e| e.to_string())?;
    sites.1 = Some((Side::Target, at, act));
    WRITTEN.set(0);
    let first = sites.part(home, Side::Target);
    sites.1 = None;
    match (WRITTEN.get(), &first) {
        (0, Ok(_)) => return Ok(Verdict::PastTheEnd),
        // Nothing was begun yet: a new plan is to be made.
        (_, Err(text)) if text.contains("the plan was made with") => return Ok(Verdict::Held),
        _ => {}
    }
    let written = WRITTEN.get();
    // Typed again, whatever it said.
    let done = sites.carry_out(home, &|_| {});
    done.map_err(|text| format!("{first:?}, then: {text}"))?;
    judge(truth, &sites, written, leaves_marks)?;
    Ok(Verdict::Held)
}

/// The process ends at an operation of recovery's part, and services act before it is called again.
fn after_a_crash(truth: &Truth, act: fn(&Hands<'_>), leaves_marks: bool, at: u64) -> Judgement {
    let home = &truth.home;
    let sites = home.fork(at, CrashModel::Hostile);
    sites.part(home, Side::Source)?;
    sites.transfer(home).map_err(|e| e.to_string())?;
    let disk = sites.disk(Side::Target);
    let start = disk.operations();
    disk.cut_power_at(at);
    drop(sites.part(home, Side::Target));
    if disk.operations() - start < at {
        return Ok(Verdict::PastTheEnd);
    }
    disk.end_processes();
    let tree = disk.mount("tree").map_err(|e| e.to_string())?;
    act(&Hands(&tree));
    let written = WRITTEN.get();
    match sites.carry_out(home, &|_| {}) {
        Err(text) if text.contains("the plan was made with") => return Ok(Verdict::Held),
        done => drop(done?),
    }
    judge(truth, &sites, written, leaves_marks)?;
    Ok(Verdict::Held)
}

#[test]
fn what_was_to_be_copied_and_is_written_to_comes_from_production() {
    let truth = Truth::of(1);
    let mut wrong = Vec::new();
    let acts: [(&str, fn(&Hands<'_>), bool); 3] =
        [("in place", in_place, true), ("another", another, true), ("taken", taken, false)];
    for (name, act, leaves_marks) in acts {
        for (when, judge) in [
            ("meanwhile", meanwhile as fn(&Truth, fn(&Hands<'_>), bool, u64) -> Judgement),
            ("after a crash", after_a_crash),
        ] {
            let name = format!("failback {name} {when}");
            let (states, found) = sweep(&name, Sample::every(37), 3, |state| {
                judge(&truth, act, leaves_marks, state.at)
            });
            eprintln!("{name}: {states} states, {} wrong", found.len());
            assert!(states > 5, "{name}: {states} states");
            wrong.extend(found);
        }
    }
    if let Some(first) = wrong.first() {
        panic!("{} states wrong, the first:\n{first}", wrong.len());
    }
}

#[test]
fn what_is_not_the_plans_at_production_either_is_named() {
    let truth = Truth::of(1);
    let home = &truth.home;
    let mut sites = home.fork(2, CrashModel::Hostile);
    sites.part(home, Side::Source).expect("production");
    sites.transfer(home).expect("transfer");
    // When it has begun, and nothing is copied yet.
    let mut at = 1;
    let wanting = loop {
        let mut tried = home.fork(2, CrashModel::Hostile);
        tried.part(home, Side::Source).expect("production");
        tried.transfer(home).expect("transfer");
        tried.1 = Some((Side::Target, at, in_place));
        if let Ok(applied) = tried.part(home, Side::Target)
            && !applied.wanting.is_empty()
        {
            tried.1 = None;
            sites = tried;
            break applied.wanting;
        }
        at += 1;
    };
    let there = sites.disk(Side::Source).mount("tree").expect("mount");
    let path = "acct0/done/p-renamed-0";
    Hands(&there).patch(path, 0, b"PRODUCTION").expect("patched");
    let said = sites.send_besides(home, &wanting).expect_err("refused");
    assert!(said.contains(path) && said.contains("moved_total: 1"), "{said}");
    let placed = sites.end().recovery.get(path.as_bytes()).and_then(what);
    assert_eq!(placed, None, "nothing else is taken for it");
}
