//! Services go on at recovery while a plan is carried out, and while its daemon is down in the middle of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, farshore, shown, text};
use crate::home::plan;
use crate::pair::{Daemon, Dials, Pair, Site};
use crate::switch::{listed, run, wait_phase};

/// What is proven here is not the brake.
const NO_BRAKE: &str = "account_depth = 1\nbrake = { entries = 1000000, percent = 100 }";
/// So many that the daemon can be killed while they are placed.
const FILES: usize = 1_500;

fn put(tree: &Path, path: &str, content: &str) {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Production is killed and what `lost` does there never travels; recovery is opened, and both are there.
fn apart(pair: &Pair, p: Daemon, lost: impl Fn(&Path)) -> Daemon {
    let (production, recovery) = (&pair.production, &pair.recovery);
    p.kill();
    lost(&production.tree);
    let opened = run(recovery, &["failover", "--force", "--peer-is-off"]);
    assert!(opened.status.success(), "{}", shown(&opened));
    let p = production.start();
    wait_phase(pair, production, "stranded", false);
    wait_phase(pair, recovery, "alone", true);
    p
}

/// Applies at `site`, until the other site can be asked, and kills its daemon as soon as `met` says so.
fn killed_while_applying(site: &Site, daemon: Daemon, file: &str, met: impl Fn() -> bool) {
    let is_killed = AtomicBool::new(false);
    let out = std::thread::scope(|scope| {
        let applying = scope.spawn(|| {
            loop {
                let out = run(site, &["failback", "apply", "--plan", file, "--accept-held"]);
                if out.status.success() || is_killed.load(Ordering::SeqCst) {
                    return out;
                }
            }
        });
        let until = Instant::now() + PATIENCE;
        while !met() {
            if Instant::now() > until || applying.is_finished() {
                is_killed.store(true, Ordering::SeqCst);
                panic!("it was never met: {}", shown(&applying.join().unwrap()));
            }
            std::hint::spin_loop();
        }
        is_killed.store(true, Ordering::SeqCst);
        daemon.kill();
        applying.join().unwrap()
    });
    assert!(!out.status.success(), "it was done before it was killed: {}", shown(&out));
}

/// What it says at its end.
fn apply_until_done(pair: &Pair, file: &str) -> String {
    let recovery = &pair.recovery;
    let until = Instant::now() + PATIENCE;
    let said = loop {
        let applied = run(recovery, &["failback", "apply", "--plan", file, "--accept-held"]);
        if applied.status.success() {
            break shown(&applied);
        }
        assert!(Instant::now() < until, "{}", shown(&applied));
        std::thread::sleep(Duration::from_millis(100));
    };
    wait_phase(pair, recovery, "active", true);
    wait_phase(pair, &pair.production, "standby", false);
    loop {
        let config = text(&recovery.config);
        let out = farshore(&["mark", "create", "--config", config, "--label", "home"]);
        if out.status.success() {
            return said;
        }
        assert!(Instant::now() < until, "{}", shown(&out));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_was_placed_and_consumed_is_not_placed_again_when_the_daemon_was_killed_in_the_middle() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let path = |n: usize| format!("a/in/payment-{n:04}");
    for n in (0..FILES).step_by(2) {
        put(&production.tree, &path(n), "0");
    }
    let (p, r) = (production.start(), recovery.start());
    pair.point();
    let _p = apart(&pair, p, |tree| {
        // Every other one is new.
        (0..FILES).for_each(|n| put(tree, &path(n), &format!("production's {n}")));
    });
    let (file, _) = plan(recovery);
    let args = ["failback", "decide", "--plan", &file, "a/in/*", "production"];
    let decided = run(recovery, &args);
    assert!(decided.status.success(), "{}", shown(&decided));
    let is_placed =
        |n: usize| fs::read_to_string(recovery.tree.join(path(n))).is_ok_and(|text| text.len() > 1);
    killed_while_applying(recovery, r, &file, || is_placed(0));
    // A partner fetches what there is, and a service moves the rest of it to its archive.
    let mut taken = BTreeSet::new();
    for n in (0..FILES).filter(|n| is_placed(*n)) {
        let from = recovery.tree.join(path(n));
        if n % 3 == 0 {
            let to = recovery.tree.join(path(n).replace("/in/", "/done/"));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(from, to).unwrap();
        } else {
            fs::remove_file(from).unwrap();
        }
        taken.insert(n);
    }
    let _r = recovery.start();
    apply_until_done(&pair, &file);
    pair.equal("after the way home");
    let there = listed(&recovery.tree);
    let mut wrong = Vec::new();
    for n in 0..FILES {
        let (at, done) = (path(n), path(n).replace("/in/", "/done/"));
        let wanted = format!("production's {n}").into_bytes();
        let (at_in, at_done) = match (taken.contains(&n), n % 3 == 0) {
            (false, _) => (Some(&wanted), None),
            (true, true) => (None, Some(&wanted)),
            (true, false) => (None, None),
        };
        if (there.get(&at), there.get(&done)) != (at_in, at_done) {
            wrong.push((at, taken.contains(&n)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {FILES}, {} were taken: {:?}",
        wrong.len(),
        taken.len(),
        &wrong[..wrong.len().min(10)]
    );
}

/// What is in recovery's quarantine, if a plan was begun there.
fn in_quarantine(site: &Site, name: &str) -> bool {
    let all = fs::read_dir(site.tree.join(".farshore/quarantine"));
    all.is_ok_and(|all| all.flatten().any(|plan| plan.path().join(name).exists()))
}

#[test]
fn what_services_write_to_a_file_that_production_renamed_does_not_stop_the_plan() {
    let pair = Pair::with(Dials::Recovery, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let path = |n: usize| format!("a/in/payment-{n:04}");
    (0..FILES).for_each(|n| put(&production.tree, &path(n), "0"));
    put(&production.tree, "z/in/report", "the report of the day");
    let (p, r) = (production.start(), recovery.start());
    pair.point();
    let _p = apart(&pair, p, |tree| {
        // Of these nothing is sent: what services change is all that comes.
        let private = || fs::Permissions::from_mode(0o600);
        (0..FILES).for_each(|n| fs::set_permissions(tree.join(path(n)), private()).unwrap());
        fs::create_dir_all(tree.join("z/done")).unwrap();
        fs::rename(tree.join("z/in/report"), tree.join("z/done/report")).unwrap();
    });
    let (file, rows) = plan(recovery);
    assert_eq!(
        rows["z/done/report"]["class"], "production-renamed",
        "{:#?}",
        rows["z/done/report"]
    );
    // It was begun, and nothing is copied yet.
    killed_while_applying(recovery, r, &file, || in_quarantine(recovery, "manifest"));
    assert!(!in_quarantine(recovery, "placing"), "too late to test anything");
    // In place: the very file that was to be copied.
    fs::write(recovery.tree.join("z/in/report"), "what a service wrote").unwrap();
    let r = recovery.start();
    apply_until_done(&pair, &file);
    assert!(r.log().contains("z/done/report"), "{}", r.log());
    pair.equal("after the way home");
    let there = listed(&recovery.tree);
    let text = |path: &str| there.get(path).map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    assert_eq!(text("z/done/report").as_deref(), Some("the report of the day"));
    assert_eq!(text("z/in/report").as_deref(), Some("what a service wrote"));
    let mode = |n: usize| fs::metadata(recovery.tree.join(path(n))).unwrap().permissions().mode();
    assert_eq!((0..FILES).filter(|n| mode(*n) & 0o777 != 0o600).count(), 0);
    assert!(!recovery.tree.join(".farshore/failback").exists(), "nothing of it is left");
}

/// Names of what waits, or is noted, at a site.
fn waiting(site: &Site) -> usize {
    let plans = fs::read_dir(site.tree.join(".farshore/failback")).into_iter().flatten().flatten();
    let names = plans.filter_map(|plan| fs::read_dir(plan.path().join("pending")).ok());
    names.map(Iterator::count).sum()
}

#[test]
fn what_was_late_is_counted_by_a_call_that_goes_on_right_before_the_end() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let path = |n: usize| format!("a/in/payment-{n:04}");
    (0..FILES).for_each(|n| put(&production.tree, &path(n), "0"));
    let (p, r) = (production.start(), recovery.start());
    pair.point();
    let _p = apart(&pair, p, |tree| {
        (0..FILES).for_each(|n| put(tree, &path(n), &format!("production's {n}")));
    });
    let (file, _) = plan(recovery);
    killed_while_applying(recovery, r, &file, || in_quarantine(recovery, "manifest"));
    assert!(!in_quarantine(recovery, "placing"), "too late to test anything");
    for n in [3, 700, FILES - 1] {
        fs::remove_file(recovery.tree.join(path(n))).unwrap();
    }
    // All is done here, what was noted goes, and the other site did not hear of it.
    let done = recovery.state.join("failback/homes.done");
    let r = recovery.start();
    killed_while_applying(recovery, r, &file, || done.exists() && waiting(recovery) < 3);
    let kept = fs::read(&done).unwrap();
    let _r = recovery.start();
    let said = apply_until_done(&pair, &file);
    assert!(said.contains(&format!(" {} paths placed", FILES - 3)), "{said}");
    assert!(fs::read(&done).unwrap() == kept, "what it came to is another thing now");
    assert!(!recovery.tree.join(".farshore/failback").exists(), "nothing of it is left");
    pair.equal("after the way home");
    assert_eq!(listed(&recovery.tree).len(), FILES - 3);
}
