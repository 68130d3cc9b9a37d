//! The way home after a failover by force: every kind of divergence, planted at both sites, with the truth kept
//! aside. Nothing that anybody wrote is lost, nothing that was consumed comes back, and the trees are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{farshore, shown, text};
use crate::pair::{Dials, Pair, Site};
use crate::switch::{listed, run, wait_phase};

/// What is proven here is not the brake.
const NO_BRAKE: &str = "account_depth = 1\nbrake = { entries = 1000000, percent = 100 }";
/// Of each kind, so many.
const EACH: usize = 20;

type Act = fn(&Path, &str);

/// A kind of divergence.
struct Kind {
    name: &'static str,
    /// What the plan calls the path.
    class: &'static str,
    /// Before both were apart.
    base: Act,
    production: Act,
    recovery: Act,
    /// What the path holds in the end.
    end: fn(&str) -> Option<String>,
}

fn nothing(_: &Path, _: &str) {}

fn write(at: &Path, content: &str) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, content).unwrap();
}

fn file(at: &Path, name: &str) {
    write(at, &format!("base of {name}"));
}

fn by_p(at: &Path, name: &str) {
    write(at, &format!("production's longer {name}"));
}

fn by_r(at: &Path, name: &str) {
    write(at, &format!("recovery's {name}"));
}

fn alike(at: &Path, name: &str) {
    write(at, &format!("the same at both: {name}"));
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    fs::File::options().write(true).open(at).unwrap().set_modified(time).unwrap();
}

fn gone(at: &Path, _: &str) {
    fs::remove_file(at).unwrap();
}

fn private(at: &Path, _: &str) {
    fs::set_permissions(at, fs::Permissions::from_mode(0o600)).unwrap();
}

fn group(at: &Path, _: &str) {
    fs::set_permissions(at, fs::Permissions::from_mode(0o660)).unwrap();
}

fn moved(at: &Path, to: &str) {
    let to = at.parent().unwrap().parent().unwrap().join(to).join(at.file_name().unwrap());
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::rename(at, to).unwrap();
}

fn to_done(at: &Path, _: &str) {
    moved(at, "done");
}

fn to_error(at: &Path, _: &str) {
    moved(at, "error");
}

fn link(at: &Path, _: &str) {
    fs::remove_file(at).unwrap();
    std::os::unix::fs::symlink("elsewhere", at).unwrap();
}

fn partial(at: &Path, name: &str) {
    write(&at.with_extension("filepart"), &format!("a part of {name}"));
}

/// It was sent again, to the site that was open, under another name.
fn resent(at: &Path, name: &str) {
    write(&at.with_extension("again"), &format!("production's longer {name}"));
}

const fn base(name: &str) -> Option<String> {
    let _ = name;
    None
}

fn kinds() -> Vec<Kind> {
    let kind = |name, class, base: Act, production: Act, recovery: Act, end| Kind {
        name,
        class,
        base,
        production,
        recovery,
        end,
    };
    let none: fn(&str) -> Option<String> = base;
    let of_base: fn(&str) -> Option<String> = |name| Some(format!("base of {name}"));
    let of_p: fn(&str) -> Option<String> = |name| Some(format!("production's longer {name}"));
    let of_r: fn(&str) -> Option<String> = |name| Some(format!("recovery's {name}"));
    let same: fn(&str) -> Option<String> = |name| Some(format!("the same at both: {name}"));
    let elsewhere: fn(&str) -> Option<String> = |_| Some("-> elsewhere".into());
    vec![
        kind("p-orphan", "production-created", nothing, by_p, nothing, none),
        kind("p-resent", "production-created", nothing, by_p, resent, none),
        kind("p-modified", "production-modified", file, by_p, nothing, of_p),
        kind("p-deleted", "production-deleted", file, gone, nothing, none),
        kind("p-metadata", "production-metadata", file, private, nothing, of_base),
        kind("p-renamed", "production-renamed", file, to_done, nothing, none),
        kind("p-kind", "production-kind", file, link, nothing, elsewhere),
        kind("r-created", "recovery-created", nothing, nothing, by_r, of_r),
        kind("r-modified", "recovery-modified", file, nothing, by_r, of_r),
        kind("r-deleted", "recovery-deleted", file, nothing, gone, none),
        kind("r-metadata", "recovery-metadata", file, nothing, private, of_base),
        kind("r-renamed", "recovery-renamed", file, nothing, to_done, none),
        kind("r-kind", "recovery-kind", file, nothing, link, elsewhere),
        kind("b-modified", "both-modified", file, by_p, by_r, of_r),
        kind("b-alike", "both-modified-alike", file, alike, alike, same),
        kind("b-created", "both-created", nothing, by_p, by_r, of_r),
        kind("b-created-alike", "both-created-alike", nothing, alike, alike, same),
        kind("b-deleted", "both-deleted", file, gone, gone, none),
        kind("p-mod-r-del", "production-modified-recovery-deleted", file, by_p, gone, none),
        kind("p-del-r-mod", "production-deleted-recovery-modified", file, gone, by_r, of_r),
        kind("b-renamed", "both-renamed-apart", file, to_error, to_done, none),
        kind("b-renamed-alike", "both-renamed-alike", file, to_done, to_done, none),
        kind("p-ren-r-mod", "production-renamed-recovery-modified", file, to_done, by_r, of_r),
        kind("p-ren-r-del", "production-renamed-recovery-deleted", file, to_done, gone, none),
        kind("p-mod-r-ren", "production-modified-recovery-renamed", file, by_p, to_done, none),
        kind("p-del-r-ren", "production-deleted-recovery-renamed", file, gone, to_done, none),
        kind("b-kind", "both-kind", file, link, by_dir, none),
        kind("b-metadata", "both-metadata", file, private, group, of_base),
    ]
}

/// A directory in the file's place.
fn by_dir(at: &Path, name: &str) {
    fs::remove_file(at).unwrap();
    write(&at.join("inside"), &format!("recovery's {name}"));
}

/// Every version that stands in a tree or in a quarantine or in the history of a site, by content.
fn versions(tree: &Path) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![tree.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.insert(fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn at(site: &Site, kind: &Kind, n: usize) -> PathBuf {
    site.tree.join(format!("acct{}/in/{}-{n}", n % 4, kind.name))
}

pub(crate) fn plan(site: &Site) -> (String, BTreeMap<String, Value>) {
    let out = run(site, &["failback", "plan", "--json"]);
    assert!(out.status.success(), "{}", shown(&out));
    let made: Value = serde_json::from_slice(&out.stdout).unwrap();
    let file = made["plan"].as_str().unwrap().to_owned();
    let out = farshore(&["failback", "show", "--plan", &file, "--json"]);
    assert!(out.status.success(), "{}", shown(&out));
    let lines = String::from_utf8(out.stdout).unwrap();
    let rows = lines.lines().skip(1).map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["path"].as_str().unwrap().to_owned(), row)
    });
    (file, rows.collect())
}

#[test]
fn what_both_sites_did_alone_becomes_one_and_nothing_is_lost_or_delivered_twice() {
    let pair = Pair::with(Dials::Recovery, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let kinds = kinds();
    let each = || (0..EACH).flat_map(|n| kinds.iter().map(move |kind| (kind, n)));
    for (kind, n) in each() {
        let path = at(production, kind, n);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        (kind.base)(&path, &format!("{}-{n}", kind.name));
    }
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    pair.equal("at the base");
    drop(p);
    for (kind, n) in each() {
        (kind.production)(&at(production, kind, n), &format!("{}-{n}", kind.name));
        partial(&at(production, kind, n), &format!("{}-{n}", kind.name));
    }
    let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    for (kind, n) in each() {
        (kind.recovery)(&at(recovery, kind, n), &format!("{}-{n}", kind.name));
    }
    // What stands at either site now; what somebody replaced there before is gone by their own hand.
    let mut ever: BTreeSet<Vec<u8>> = BTreeSet::new();
    for site in [production, recovery] {
        ever.extend(listed(&site.tree).into_values());
    }
    let p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    // Every planted case is what the plan says.
    let (file, rows) = plan(recovery);
    let mut wrong = Vec::new();
    for (kind, n) in each() {
        let path = format!("acct{}/in/{}-{n}", n % 4, kind.name);
        let class = rows.get(&path).map_or("not in the plan", |row| row["class"].as_str().unwrap());
        if class != kind.class {
            wrong.push(format!("{path}: {class}, it is {}", kind.class));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
    // What waits for a person is not applied unasked.
    let refused = run(recovery, &["failback", "apply", "--plan", &file]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    // A plan that was made before somebody changed what it is about is not applied.
    let first = kinds.iter().find(|kind| kind.name == "b-modified").unwrap();
    let late = at(production, first, 0);
    let before = fs::read(&late).unwrap();
    let stamp = fs::metadata(&late).unwrap().modified().unwrap();
    fs::write(&late, b"somebody was here").unwrap();
    let refused = run(recovery, &["failback", "apply", "--plan", &file, "--accept-held"]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    assert!(shown(&refused).contains("b-modified-0"), "{}", shown(&refused));
    fs::write(&late, &before).unwrap();
    fs::File::options().write(true).open(&late).unwrap().set_modified(stamp).unwrap();
    // It goes on where it was, though a daemon was killed meanwhile.
    p.kill();
    let _p = production.start();
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    loop {
        let applied = run(recovery, &["failback", "apply", "--plan", &file, "--accept-held"]);
        if applied.status.success() {
            break;
        }
        assert!(std::time::Instant::now() < until, "{}", shown(&applied));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    wait_phase(&pair, recovery, "active", true);
    wait_phase(&pair, production, "standby", false);
    let config = text(&recovery.config);
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    loop {
        let out = farshore(&["mark", "create", "--config", config, "--label", "home"]);
        if out.status.success() {
            break;
        }
        let held = run(recovery, &["brake", "show"]);
        assert_ne!(held.status.code(), Some(5), "{}", shown(&held));
        assert!(std::time::Instant::now() < until, "{}", shown(&out));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    pair.equal("after the way home");
    let there = listed(&recovery.tree);
    let mut wrong = Vec::new();
    for (kind, n) in each() {
        let name = format!("{}-{n}", kind.name);
        let path = format!("acct{}/in/{name}", n % 4);
        let full = recovery.tree.join(&path);
        let found = match fs::read_link(&full) {
            Ok(target) => Some(format!("-> {}", target.display())),
            Err(_) => there.get(&path).map(|bytes| String::from_utf8(bytes.clone()).unwrap()),
        };
        let wanted = (kind.end)(&name);
        if found != wanted {
            wrong.push(format!("{path}: {found:?}, not {wanted:?}"));
        }
        if there.contains_key(&format!("{path}.filepart")) {
            wrong.push(format!("{path}.filepart: a partial upload was published"));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
    // Each version that was ever there is somewhere still.
    let mut kept = versions(&production.tree);
    kept.extend(versions(&recovery.tree));
    let lost: Vec<_> = ever.difference(&kept).map(|v| String::from_utf8_lossy(v)).collect();
    assert!(
        lost.is_empty(),
        "{} versions are lost: {:#?}",
        lost.len(),
        &lost[..lost.len().min(40)]
    );
}
