//! Services work at recovery between two calls: they take what was placed, put new files where something went, change
//! modes. Recovery's part is cut short at each operation, twice, and called again until it ends: nothing that was taken
//! comes back, nothing is skipped, and what services did is as they left it.

use std::collections::{BTreeMap, BTreeSet};

use farshore_engine::io::sim::{CrashModel, SimEntry};
use farshore_engine::io::{FileKind, Storage};

use super::home::{Home, Sites, What, versions, what};
use super::{How, Truth};
use crate::sites::Tree;
use crate::storage::Moves;
use crate::trees::Hands;
use crate::{Judgement, Sample, Side, State, Verdict, sweep};

const ANEW: &[u8] = b"services put that here meanwhile";
const MODE: u32 = 0o604;

/// What services did to paths that were done.
#[derive(Default)]
struct Did {
    taken: BTreeSet<Vec<u8>>,
    moved: BTreeMap<Vec<u8>, What>,
    anew: BTreeSet<Vec<u8>>,
    modes: BTreeSet<Vec<u8>>,
}

fn of(tree: &Tree, path: &[u8]) -> Option<What> {
    tree.get(path).and_then(what)
}

/// Whether all above the path is a directory in `tree`.
fn has_room(tree: &Tree, path: &[u8]) -> bool {
    let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.all(|(end, _)| tree.get(&path[..end]).is_some_and(|e| e.kind == FileKind::Directory))
}

fn same_meta(a: &SimEntry, b: &SimEntry) -> bool {
    (a.mode, a.mtime, &a.xattrs) == (b.mode, b.mtime, &b.xattrs)
}

/// Services take every second file that was placed, and move the others; put a file wherever one went; and change the
/// mode of what was given another one.
fn consume(truth: &Truth, sites: &Sites, did: &mut Did) {
    let (home, end) = (&truth.home, &truth.end.recovery);
    let disk = sites.disk(Side::Target);
    let now = disk.snapshot_tree("tree").expect("a tree");
    let tree = disk.mount("tree").expect("mount");
    let hands = Hands(&tree);
    let paths: BTreeSet<_> = home.recovery.keys().chain(end.keys()).collect();
    for path in paths {
        let name = std::str::from_utf8(path).expect("a test's");
        let [before, there, wanted] = [&home.recovery, &now, end].map(|tree| of(tree, path));
        let is_done = before != wanted && there == wanted;
        match (is_done, &wanted) {
            (true, Some(version)) if !did.taken.contains(path) => {
                did.taken.insert(path.clone());
                if did.taken.len().is_multiple_of(2) {
                    hands.unlink(name).expect("taken");
                } else {
                    let to = format!("{name}.taken");
                    hands.rename(name, &to).expect("moved");
                    did.moved.insert(to.into_bytes(), version.clone());
                }
            }
            (true, None)
                if [end, &now]
                    .iter()
                    .all(|tree| !tree.contains_key(path) && has_room(tree, path))
                    && did.anew.insert(path.clone()) =>
            {
                hands.file(name, ANEW).expect("put");
            }
            _ => {}
        }
        let metas = (home.recovery.get(path), now.get(path), end.get(path));
        let (Some(before), Some(there), Some(wanted)) = metas else { continue };
        let is_file = there.kind == FileKind::Regular && of(&home.recovery, path) == of(end, path);
        if is_file && same_meta(there, wanted) && !same_meta(before, wanted) {
            hands.mode(name, MODE).expect("changed");
            did.modes.insert(path.clone());
        }
    }
    tree.sync_all().expect("synced");
}

/// The end is the undisturbed one, but for what services did. Where the file system cannot do all in one step, what a
/// crash met may be kept instead of placed.
fn judge(truth: &Truth, sites: &Sites, did: &Did, may_keep: bool) -> Result<(), String> {
    let end = sites.end();
    let now = &end.recovery;
    let kept = versions([&end.quarantines[1]]);
    let mut wrong = Vec::new();
    let undisturbed = &truth.end.recovery;
    let paths: BTreeSet<_> = now.keys().chain(undisturbed.keys()).collect();
    for path in paths {
        let found = of(now, path);
        let wanted = match () {
            () if did.taken.contains(path) => None,
            () if did.anew.contains(path) => {
                of(now, path).filter(|_| now[path].size == ANEW.len() as u64)
            }
            () => did.moved.get(path).cloned().or_else(|| of(undisturbed, path)),
        };
        let is_kept = may_keep && wanted.as_ref().is_some_and(|w| kept.contains(w));
        let is_gone = wanted.is_none() && did.anew.contains(path);
        if (found != wanted || is_gone) && !(found.is_none() && is_kept) {
            wrong.push(format!("{}: {found:?}, not {wanted:?}", path.escape_ascii()));
        }
        let mode = now.get(path).map(|entry| entry.mode);
        if did.modes.contains(path) && mode != Some(MODE) {
            wrong.push(format!("{}: its mode is {mode:?}", path.escape_ascii()));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let all = wrong.len();
    wrong.truncate(5);
    Err(format!("{all} paths are not as they were left: {wrong:#?}"))
}

fn cut(sites: &Sites, home: &Home, how: How, state: State<'_>, at: u64) -> Result<bool, String> {
    let disk = sites.disk(Side::Target);
    let start = disk.operations();
    match how {
        How::Ends | How::Cut => disk.cut_power_at(at),
        How::Fails(fault) => disk.fail_at(at, fault),
    }
    let first = sites.part(home, Side::Target);
    if disk.operations() - start < at {
        first?;
        disk.end_processes();
        return Ok(false);
    }
    match how {
        How::Ends => disk.end_processes(),
        How::Cut => disk.crash(state.seed),
        How::Fails(_) => {}
    }
    Ok(true)
}

fn consumed(truth: &Truth, moves: Moves, how: How, state: State<'_>) -> Judgement {
    let home = &truth.home;
    let mut sites = home.fork(state.seed, state.model);
    sites.2 = moves;
    sites.part(home, Side::Source)?;
    sites.transfer(home).map_err(|e| e.to_string())?;
    let mut did = Did::default();
    if !cut(&sites, home, how, state, state.at)? {
        return Ok(Verdict::PastTheEnd);
    }
    consume(truth, &sites, &mut did);
    // And once more, somewhere near the begin of what is left.
    cut(&sites, home, how, state, 1 + state.at % 53)?;
    consume(truth, &sites, &mut did);
    let trace = || sites.disk(Side::Target).trace().join("\n  ");
    for when in ["called again", "called once too often"] {
        let judged = sites
            .part(home, Side::Target)
            .and_then(|_| judge(truth, &sites, &did, moves == Moves::Plain));
        judged.map_err(|text| format!("{how:?} {moves:?}, {when}: {text}\n  {}", trace()))?;
    }
    Ok(Verdict::Held)
}

#[test]
fn nothing_that_was_consumed_comes_back_and_nothing_is_skipped() {
    use farshore_engine::io::sim::Fault::{Eio, Enospc};
    let truth = Truth::of(1);
    let mut wrong = Vec::new();
    for (moves, how) in [
        (Moves::All, How::Ends),
        (Moves::All, How::Cut),
        (Moves::All, How::Fails(Eio)),
        (Moves::NoExchange, How::Ends),
        (Moves::NoExchange, How::Fails(Enospc)),
        (Moves::Plain, How::Ends),
    ] {
        let name = format!("failback consumed {moves:?} {how:?}");
        let began = std::time::Instant::now();
        let (states, found) =
            sweep(&name, Sample::every(41), 5, |state| consumed(&truth, moves, how, state));
        eprintln!("{name}: {states} states in {:.1?}, {} wrong", began.elapsed(), found.len());
        wrong.extend(found);
    }
    if let Some(first) = wrong.first() {
        panic!("{} states wrong, the first:\n{first}", wrong.len());
    }
}

/// Recovery's part is cut short, both sites begin to give the plan up, and it goes on after all: what was made and not
/// placed is placed, and nothing twice.
fn gone_on_after_all(truth: &Truth, state: State<'_>) -> Judgement {
    let home = &truth.home;
    let sites = home.fork(state.seed, state.model);
    sites.part(home, Side::Source)?;
    sites.transfer(home).map_err(|e| e.to_string())?;
    let mut did = Did::default();
    if !cut(&sites, home, How::Ends, state, state.at)? {
        return Ok(Verdict::PastTheEnd);
    }
    consume(truth, &sites, &mut did);
    for site in [Side::Source, Side::Target] {
        sites.abandon(home, site)?;
    }
    sites.carry_out(home, &|_| {})?;
    judge(truth, &sites, &did, false)?;
    Ok(Verdict::Held)
}

#[test]
fn a_plan_that_was_about_to_be_given_up_goes_on_where_it_was() {
    let truth = Truth::of(1);
    crate::demand("failback gone on after all", Sample::every(61), |state| {
        gone_on_after_all(&truth, state)
    });
}

#[test]
fn what_is_consumed_is_met_at_every_kind_of_place() {
    let truth = Truth::of(1);
    let sites = truth.home.fork(1, CrashModel::Hostile);
    sites.carry_out(&truth.home, &|_| {}).expect("undisturbed");
    let mut did = Did::default();
    consume(&truth, &sites, &mut did);
    let counts = [did.taken.len(), did.moved.len(), did.anew.len(), did.modes.len()];
    assert!(counts.iter().all(|count| *count > 2), "{counts:?}");
    judge(&truth, &sites, &did, false).expect("as they were left");
    // And a taken one that is there again is found out.
    let tree = sites.disk(Side::Target).mount("tree").expect("mount");
    let path = did.taken.iter().find(|path| !did.anew.contains(*path)).expect("one");
    Hands(&tree).file(std::str::from_utf8(path).expect("text"), b"again").expect("written");
    judge(&truth, &sites, &did, false).expect_err("it came back");
}
