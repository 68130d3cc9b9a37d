//! Production made further names of a file, and services take or replace that file at recovery after the plan's part was
//! cut short: no name is one of what services wrote, and each that is not there is named.

use std::collections::BTreeSet;
use std::io;

use farshore_core::path::RelPath;
use farshore_engine::io::sim::CrashModel;

use super::Truth;
use super::home::what;
use crate::trees::Hands;
use crate::{Judgement, Sample, Side, Verdict, sweep};

/// First names, as they are at production, and what further ones end with.
const NAMED: [(&str, &[&str]); 5] = [
    ("acct0/in/h-changed-added-0", &[".z"]),
    ("acct0/in/h-private-added-0", &[".z"]),
    ("acct0/done/h-renamed-added-0", &[".z"]),
    ("acct0/in/h-p-in-place-0", &[".b", ".c"]),
    (UNCHANGED, &[".z"]),
];
/// Of this one the plan says nothing: what stands there is what has a further name.
const UNCHANGED: &str = "acct0/in/h-added-0";
const MARK: &[u8] = b"written by services";

type Act = fn(&Hands<'_>, &str) -> io::Result<()>;

fn another(hands: &Hands<'_>, path: &str) -> io::Result<()> {
    hands.file(path, MARK).map(drop)
}

fn taken(hands: &Hands<'_>, path: &str) -> io::Result<()> {
    hands.unlink(path)
}

fn in_place(hands: &Hands<'_>, path: &str) -> io::Result<()> {
    hands.patch(path, 0, MARK)
}

/// The process ends at an operation of recovery's part, and services act on first names before it is called again.
fn cut(truth: &Truth, (act, is_in_place): (Act, bool), at: u64) -> Judgement {
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
    for (first, _) in NAMED {
        drop(act(&Hands(&tree), first));
    }
    let said = match sites.carry_out(home, &|_| {}) {
        Err(text) if text.contains("the plan was made with") => return Ok(Verdict::Held),
        done => done?[1].clone(),
    };
    let (found, wanted) = (sites.end().recovery, &truth.end.recovery);
    let late: BTreeSet<&[u8]> = said.late.iter().map(RelPath::as_bytes).collect();
    for (first, ends) in NAMED {
        for path in ends.iter().map(|end| format!("{first}{end}").into_bytes()) {
            let [there, planned] = [&found, wanted].map(|tree| tree.get(&path).and_then(what));
            // Written to by its first name after it was placed, or named.
            let is_name = found.get(&path).and_then(|entry| entry.hard_link_of.as_deref())
                == Some(first.as_bytes());
            let may_be_theirs = (is_in_place || first == UNCHANGED) && is_name;
            if there != planned && !may_be_theirs && !late.contains(&path[..]) {
                return Err(format!("{}: {there:?}, not {planned:?}", path.escape_ascii()));
            }
        }
    }
    Ok(Verdict::Held)
}

#[test]
fn further_names_are_of_productions_file_whatever_services_do_with_its_first_name() {
    let truth = Truth::of(1);
    let mut wrong = Vec::new();
    let acts: [(&str, Act, bool); 3] =
        [("another", another, false), ("taken", taken, false), ("in place", in_place, true)];
    for (name, act, is_in_place) in acts {
        let name = format!("failback named {name}");
        let (states, found) =
            sweep(&name, Sample::every(23), 3, |state| cut(&truth, (act, is_in_place), state.at));
        eprintln!("{name}: {states} states, {} wrong", found.len());
        assert!(states > 5, "{name}: {states} states");
        wrong.extend(found);
    }
    if let Some(first) = wrong.first() {
        panic!("{} states wrong, the first:\n{first}", wrong.len());
    }
}
