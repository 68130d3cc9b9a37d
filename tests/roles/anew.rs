//! A way home that does not go straight: what moved meanwhile, what is broken off and given up, and what must stand at
//! both sites when it is over.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{PATIENCE, farshore, shown, text};
use crate::home::plan;
use crate::pair::{Daemon, Dials, Pair, Site};
use crate::switch::{listed, run, wait_phase};

/// What is proven here is not the brake.
const NO_BRAKE: &str = "account_depth = 1\nbrake = { entries = 1000000, percent = 100 }";
/// Below its own folder, a site has nothing else of a plan.
const OWN: &str = ".farshore/failback";

fn put(site: &Site, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = site.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn read(site: &Site, path: &str) -> Option<String> {
    fs::read_to_string(site.tree.join(path)).ok()
}

fn json(site: &Site, args: &[&str]) -> Value {
    let out = run(site, &[args, &["--json"]].concat());
    assert!(out.status.success(), "{args:?}: {}", shown(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn over(pair: &Pair, from: &Site, to: &Site) {
    let done = run(from, &["switchover"]);
    assert!(done.status.success(), "{}", shown(&done));
    wait_phase(pair, to, "active", true);
    wait_phase(pair, from, "standby", false);
}

/// A recovery point that is sent from `site`.
fn point(site: &Site) {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let out = farshore(&["mark", "create", "--config", text(&site.config), "--label", "home"]);
        if out.status.success() {
            return;
        }
        assert!(std::time::Instant::now() < until, "{}", shown(&out));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Production is killed with `lost` written that never travelled, recovery is opened and writes `found`; then both
/// are there.
fn apart(pair: &Pair, p: Daemon, lost: impl Fn(&Site), found: impl Fn(&Site)) -> Daemon {
    let (production, recovery) = (&pair.production, &pair.recovery);
    p.kill();
    lost(production);
    let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    found(recovery);
    let p = production.start();
    wait_phase(pair, production, "stranded", false);
    wait_phase(pair, recovery, "alone", true);
    p
}

#[test]
fn what_was_decided_stands_at_both_sites_and_is_there_still_when_the_share_is_home() {
    let pair = Pair::with(Dials::Recovery, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let all = ["a/in/1", "a/in/2", "a/in/3", "a/in/4", "a/in/5"];
    put(production, &all.map(|path| (path, path)));
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    // So that what each knows of its tree is what a standby knows.
    over(&pair, production, recovery);
    over(&pair, recovery, production);
    pair.point();
    let _p = apart(
        &pair,
        p,
        |site| {
            fs::remove_file(site.tree.join("a/in/1")).unwrap();
            fs::rename(site.tree.join("a/in/2"), site.tree.join("a/in/2-production")).unwrap();
            put(site, &[("a/in/3", "production's longer")]);
        },
        |site| {
            fs::rename(site.tree.join("a/in/2"), site.tree.join("a/in/2-recovery")).unwrap();
            put(site, &[("a/in/3", "recovery's"), ("a/in/new", "new")]);
        },
    );
    let (file, _) = plan(recovery);
    for args in [
        &["a/in/1", "recovery"][..],
        &["a/in/2", "both", "--new-name", "a/in/2-both"],
        &["a/in/3", "both", "--new-name", "a/in/3-production"],
    ] {
        let out = run(recovery, &[&["failback", "decide", "--plan", &file][..], args].concat());
        assert!(out.status.success(), "{args:?}: {}", shown(&out));
    }
    let applied = run(recovery, &["failback", "apply", "--plan", &file, "--accept-held"]);
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, production, "standby", false);
    point(recovery);
    pair.equal("after the way home");
    // Typed again it is done, and what is no outcome is told as such.
    let again = run(recovery, &["failback", "apply", "--plan", &file]);
    assert!(again.status.success(), "{}", shown(&again));
    assert!(shown(&again).contains("carried out already"), "{}", shown(&again));
    let pipe = recovery.state.join("failback/pipe.plan");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    for args in
        [&["failback", "show"][..], &["failback", "apply", "--config", text(&recovery.config)]]
    {
        let none = farshore(&[args, &["--plan", text(&pipe)]].concat());
        assert_eq!(none.status.code(), Some(3), "{args:?}: {}", shown(&none));
    }
    let bogus = farshore(&["failback", "show", "--plan", &file, "--outcome", "bogus"]);
    assert_eq!(bogus.status.code(), Some(2), "{}", shown(&bogus));
    let there = listed(&recovery.tree);
    assert_eq!(there.get("a/in/1").map(Vec::as_slice), Some(&b"a/in/1"[..]), "{there:?}");
    over(&pair, recovery, production);
    pair.equal("at home");
    assert_eq!(listed(&production.tree), there, "what stood there before is there");
}

#[test]
fn a_path_that_moved_at_either_site_stops_a_plan_before_anything_is_done() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    put(production, &[("a/lost", "0"), ("b/won", "0")]);
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    let _p = apart(
        &pair,
        p,
        |site| put(site, &[("a/lost", "production's lost"), ("b/won", "production's")]),
        |site| put(site, &[("a/lost", "recovery's")]),
    );
    for (site, path) in [(recovery, "b/won"), (production, "a/lost")] {
        let (file, _) = plan(recovery);
        let full = site.tree.join(path);
        let before = read(site, path).unwrap();
        let stamp = fs::metadata(&full).unwrap().modified().unwrap();
        put(site, &[(path, "somebody was here")]);
        let refused = run(recovery, &["failback", "apply", "--plan", &file]);
        let said = shown(&refused);
        assert_eq!(refused.status.code(), Some(5), "{said}");
        assert!(said.contains(path) && said.contains("nothing was done at either site"), "{said}");
        for site in [production, recovery] {
            let left = fs::read_dir(site.tree.join(".farshore/quarantine"));
            assert_eq!(
                left.map_or(0, Iterator::count),
                0,
                "nothing of it is left at {}",
                site.name
            );
        }
        wait_phase(&pair, production, "stranded", false);
        wait_phase(&pair, recovery, "alone", true);
        put(site, &[(path, &before)]);
        fs::File::options().write(true).open(&full).unwrap().set_modified(stamp).unwrap();
    }
    // The next plan sees what both sites did, not what a plan did.
    let (file, rows) = plan(recovery);
    assert_eq!(rows["a/lost"]["class"], "both-modified", "{rows:#?}");
    let applied = run(recovery, &["failback", "apply", "--plan", &file]);
    assert!(applied.status.success(), "{}", shown(&applied));
    point(recovery);
    pair.equal("after the way home");
    assert_eq!(read(recovery, "b/won").as_deref(), Some("production's"));
}

/// A pair whose plan is broken off when production has moved `a/lost` aside and could not lay out `b/won`.
struct Broken {
    pair: Pair,
    p: Daemon,
    r: Daemon,
    plan: String,
    /// What is in the way at production.
    obstacle: PathBuf,
    /// Recovery's role before the plan was begun.
    alone: Vec<u8>,
}

fn broken() -> Broken {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    put(production, &[("a/lost", "0"), ("a/kept", "0"), ("b/won", "0")]);
    let (p, r) = (production.start(), recovery.start());
    pair.point();
    let p = apart(
        &pair,
        p,
        |site| {
            let lost = [("a/lost", "production's lost"), ("a/kept", "production's kept")];
            put(site, &lost);
            put(site, &[("b/won", "production's")]);
        },
        |site| put(site, &[("a/lost", "recovery's")]),
    );
    let (file, _) = plan(recovery);
    let kept = run(recovery, &["failback", "decide", "--plan", &file, "a/kept", "recovery"]);
    assert!(kept.status.success(), "{}", shown(&kept));
    let name = file.rsplit_once('-').unwrap().1.strip_suffix(".plan").unwrap();
    let obstacle = production.tree.join(OWN).join(name).join("outgoing/b");
    fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
    fs::write(&obstacle, "in the way").unwrap();
    let alone = fs::read(recovery.state.join("roles/homes")).unwrap();
    let stopped = run(recovery, &["failback", "apply", "--plan", &file]);
    assert!(!stopped.status.success(), "{}", shown(&stopped));
    wait_phase(&pair, production, "reconciling", false);
    wait_phase(&pair, recovery, "reconciling", true);
    assert!(!production.tree.join("a/lost").exists() && !production.tree.join("a/kept").exists());
    Broken { pair, p, r, plan: file, obstacle, alone }
}

#[test]
fn a_plan_that_is_under_way_goes_on_or_is_given_up_and_no_other_is_made_beside_it() {
    let Broken { pair, p: _p, r: _r, plan: file, obstacle, .. } = broken();
    let (production, recovery) = (&pair.production, &pair.recovery);
    // Both words that lead on are named, by whatever is refused, and by status.
    for args in [
        &["failback", "plan"][..],
        &["failback", "decide", "--plan", &file, "a/lost", "production"],
    ] {
        let refused = run(recovery, args);
        let said = shown(&refused);
        assert_eq!(refused.status.code(), Some(5), "{said}");
        assert!(said.contains("failback apply --plan /"), "{said}");
        assert!(said.contains("failback abandon"), "{said}");
    }
    let status = pair.wait(recovery, "what is next", |share| share["roles"].is_object());
    let next = status["roles"]["next"].to_string();
    assert!(next.contains("failback apply") && next.contains("failback abandon"), "{next}");
    let given_up = json(recovery, &["failback", "abandon"]);
    assert_eq!((&given_up["back"], &given_up["kept"]), (&2.into(), &0.into()), "{given_up:#}");
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    assert_eq!(read(production, "a/lost").as_deref(), Some("production's lost"));
    assert!(!obstacle.exists() && is_empty(&production.tree.join(OWN)));
    // Nothing is under way any more.
    assert!(run(recovery, &["failback", "abandon"]).status.success());
    // What was decided holds; it can be changed, and be carried out.
    let decided = run(recovery, &["failback", "decide", "--plan", &file, "b/won", "production"]);
    assert!(decided.status.success(), "{}", shown(&decided));
    let (other, rows) = plan(recovery);
    assert_eq!(rows["a/lost"]["class"], "both-modified", "{rows:#?}");
    assert_eq!(rows["a/kept"]["class"], "production-modified", "{rows:#?}");
    assert_ne!(other, file);
    let applied = run(recovery, &["failback", "apply", "--plan", &file]);
    assert!(applied.status.success(), "{}", shown(&applied));
    point(recovery);
    pair.equal("after the way home");
    assert_eq!(read(recovery, "a/lost").as_deref(), Some("recovery's"));
    assert_eq!(read(recovery, "a/kept").as_deref(), Some("0"), "as it was decided");
    assert_eq!(read(recovery, "b/won").as_deref(), Some("production's"));
}

/// Whether nothing is in a folder, or it is not there.
fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn an_apply_that_goes_on_tells_of_the_whole_plan_and_leaves_nothing_behind() {
    let Broken { pair, p: _p, r: _r, plan: file, obstacle, .. } = broken();
    let (production, recovery) = (&pair.production, &pair.recovery);
    fs::remove_file(&obstacle).unwrap();
    // Of a plan that never came to its end.
    for site in [production, recovery] {
        put(site, &[(&format!("{OWN}/deadbeef/outgoing/a/large"), "large")]);
    }
    let applied = json(recovery, &["failback", "apply", "--plan", &file]);
    assert_eq!(applied["quarantined"]["production"], 2, "{applied:#}");
    assert_eq!(applied["quarantined"]["recovery"], 1, "{applied:#}");
    assert_eq!((&applied["placed"], &applied["carried"]), (&1.into(), &1.into()), "{applied:#}");
    let report = json(recovery, &["audit", "report", applied["report"].as_str().unwrap()]);
    let files = report["files"].as_array().unwrap();
    let there = production.tree.join(applied["quarantine"].as_str().unwrap()).join("manifest");
    let digest = blake3::hash(&fs::read(&there).unwrap()).to_hex();
    assert!(files.iter().any(|file| file["blake3"] == digest.as_str()), "{report:#}");
    wait_phase(&pair, production, "standby", false);
    point(recovery);
    pair.equal("after the way home");
    for site in [production, recovery] {
        assert!(!site.tree.join(OWN).exists(), "{}", site.name);
    }
}

#[test]
fn the_lost_site_is_opened_when_the_other_one_is_lost_in_the_middle_of_a_plan() {
    let Broken { pair, p: _p, r, .. } = broken();
    let (production, recovery) = (&pair.production, &pair.recovery);
    r.kill();
    let opened = json(production, &["failover", "--force", "--peer-is-off"]);
    let lines = opened["lines"].to_string();
    assert_eq!(opened["open"], true, "{opened:#}");
    assert_eq!((&opened["stood"]["back"], &opened["stood"]["kept"]), (&2.into(), &0.into()));
    assert!(lines.contains("failback plan"), "{opened:#}");
    wait_phase(&pair, production, "alone", true);
    for (path, content) in [("a/lost", "production's lost"), ("a/kept", "production's kept")] {
        assert_eq!(read(production, path).as_deref(), Some(content));
    }
    // Who was lost waits for a plan, which knows what either site did itself.
    let _r = recovery.start();
    wait_phase(&pair, recovery, "stranded", false);
    let (file, rows) = plan(production);
    assert_eq!(rows["a/lost"]["class"], "both-modified", "{rows:#?}");
    assert!(rows.values().all(|row| row["outcome"] != "delete"), "{rows:#?}");
    let applied = run(production, &["failback", "apply", "--plan", &file, "--accept-held"]);
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, recovery, "standby", false);
    point(production);
    pair.equal("brought back");
    assert_eq!(read(production, "a/kept").as_deref(), Some("production's kept"));
}

/// A daemon that is killed while it is asked for something, and begins anew, is not waited for as long as a line may
/// be silent.
#[test]
fn a_command_ends_when_the_other_site_began_anew() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    put(production, &[("a/in/1", "1")]);
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    let p = apart(&pair, p, |_| {}, |site| put(site, &[("a/in/2", "2")]));
    let pid = rustix::process::Pid::from_raw(i32::try_from(p.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| run(recovery, &["failback", "plan"]));
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(!asked.is_finished(), "it waits for the other site");
        p.kill();
        let _p = production.start();
        let out = asked.join().unwrap();
        assert_eq!(out.status.code(), Some(4), "{}", shown(&out));
        assert!(shown(&out).contains("its daemon began anew"), "{}", shown(&out));
        // Nothing of it is in the way of the next.
        wait_phase(&pair, recovery, "alone", true);
        wait_phase(&pair, production, "stranded", false);
        plan(recovery);
    });
}

/// Whatever road leads out of a plan that was begun: what it moved aside at production is at its path again before
/// anybody takes it for deleted, or works with the tree.
#[test]
fn what_a_plan_moved_aside_is_back_before_anything_is_concluded() {
    for by_force in [true, false] {
        let Broken { pair, p: _p, r, alone, .. } = broken();
        let (production, recovery) = (&pair.production, &pair.recovery);
        // Its state folder comes from a backup.
        r.kill();
        fs::write(recovery.state.join("roles/homes"), &alone).unwrap();
        let _r = recovery.start();
        wait_phase(&pair, recovery, "stranded", false);
        wait_phase(&pair, production, "reconciling", false);
        if by_force {
            let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
            assert!(opened.status.success(), "{}", shown(&opened));
            wait_phase(&pair, recovery, "alone", true);
            wait_phase(&pair, production, "stranded", false);
            let (_, rows) = plan(recovery);
            // What was common is not known to an old copy; what production has is in the plan.
            for path in ["a/lost", "a/kept"] {
                assert_eq!(rows[path]["class"], "no-base", "{rows:#?}");
                assert!(rows[path]["production"].is_object(), "{rows:#?}");
            }
        } else {
            let opened = run(production, &["open", "--resolve-split"]);
            assert!(opened.status.success(), "{}", shown(&opened));
            wait_phase(&pair, production, "alone", true);
        }
        assert_eq!(read(production, "a/lost").as_deref(), Some("production's lost"));
        assert_eq!(read(production, "a/kept").as_deref(), Some("production's kept"));
    }
}

/// Waits until `is_so`, looking often.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < until, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// What services did with what was placed is theirs: an apply that is typed again when only the other site's end is
/// missing places nothing, and asks nothing of the paths there.
#[test]
fn what_was_consumed_since_recovery_was_done_does_not_rise_when_apply_is_typed_again() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    // Many, so that production is stopped long before recovery is done.
    let won: Vec<String> = (0..300).map(|n| format!("b/{n:03}")).collect();
    let all = |content: &'static str| won.iter().map(move |path| (&**path, content));
    put(production, &all("0").collect::<Vec<_>>());
    let (p, _r) = (production.start(), recovery.start());
    pair.point();
    let p = apart(
        &pair,
        p,
        |site| put(site, &all("production's").collect::<Vec<_>>()),
        |site| put(site, &[("a/new", "recovery's")]),
    );
    let (file, _) = plan(recovery);
    let pid = rustix::process::Pid::from_raw(i32::try_from(p.pid()).unwrap()).unwrap();
    let log = recovery.state.join("audit.log");
    let _p = std::thread::scope(|scope| {
        let asked = scope.spawn(|| run(recovery, &["failback", "apply", "--plan", &file]));
        until("the first is placed", || read(recovery, "b/000").as_deref() == Some("production's"));
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        until("recovery is done", || fs::read_to_string(&log).unwrap().contains("failback finish"));
        assert!(!asked.is_finished(), "it waits for the other site");
        p.kill();
        // Both go on meanwhile.
        fs::remove_file(recovery.tree.join("b/000")).unwrap();
        put(production, &[("b/001", "somebody was here")]);
        let p = production.start();
        let broken_off = asked.join().unwrap();
        assert!(!broken_off.status.success(), "{}", shown(&broken_off));
        p
    });
    wait_phase(&pair, production, "reconciling", false);
    wait_phase(&pair, recovery, "reconciling", true);
    let refused = run(recovery, &["failback", "abandon"]);
    assert_eq!(refused.status.code(), Some(5), "{}", shown(&refused));
    let again = json(recovery, &["failback", "apply", "--plan", &file]);
    assert_eq!((&again["placed"], &again["carried"]), (&300.into(), &300.into()), "{again:#}");
    assert_eq!(again["quarantined"]["recovery"], 300, "{again:#}");
    wait_phase(&pair, production, "standby", false);
    point(recovery);
    pair.equal("after the way home");
    assert_eq!(read(recovery, "b/000"), None, "it was consumed");
    assert_eq!(read(production, "b/000"), None);
    assert_eq!(read(production, "b/001").as_deref(), Some("production's"));
}

/// The plan that production kept is lost, with all that its state folder had of it.
fn forgotten(broken: Broken) -> (Pair, Daemon, Daemon) {
    let Broken { pair, p, r, .. } = broken;
    p.kill();
    fs::remove_file(pair.production.state.join("failback/homes.applying")).unwrap();
    let p = pair.production.start();
    wait_phase(&pair, &pair.production, "reconciling", false);
    (pair, p, r)
}

#[test]
fn a_plan_is_given_up_where_the_lost_site_has_lost_it_too() {
    let (pair, _p, _r) = forgotten(broken());
    let (production, recovery) = (&pair.production, &pair.recovery);
    wait_phase(&pair, recovery, "reconciling", true);
    let given_up = json(recovery, &["failback", "abandon"]);
    assert_eq!((&given_up["back"], &given_up["kept"]), (&2.into(), &0.into()), "{given_up:#}");
    wait_phase(&pair, production, "stranded", false);
    assert_eq!(read(production, "a/lost").as_deref(), Some("production's lost"));
    assert_eq!(read(production, "a/kept").as_deref(), Some("production's kept"));
    let (_, rows) = plan(recovery);
    assert!(rows.values().all(|row| row["outcome"] != "delete"), "{rows:#?}");
}

#[test]
fn a_site_that_is_opened_without_the_plan_it_had_begun_says_so() {
    let (pair, _p, r) = forgotten(broken());
    r.kill();
    let opened = json(&pair.production, &["failover", "--force", "--peer-is-off"]);
    let problem = opened["stood"]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("the plan is not there"), "{opened:#}");
    assert!(opened["lines"].to_string().contains("NOT ALL"), "{opened:#}");
}
