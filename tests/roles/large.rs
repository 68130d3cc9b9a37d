//! Over by force and home again beside many files: what either takes does not grow with what did not change.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{command, farshore, shown, text};
use crate::pair::{Daemon, Dials, Pair, Site};
use crate::switch::{run, wait_phase};

/// What is proven here is not the brake.
const NO_BRAKE: &str = "account_depth = 1\nbrake = { entries = 10000000, percent = 100 }";
const ACCOUNTS: u64 = 1_000;
const FOLDERS: u64 = 10;
/// For the first copy of a million files.
const LONG: Duration = Duration::from_secs(1_200);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn at(site: &Site, n: u64) -> PathBuf {
    let (account, folder) = (n % ACCOUNTS, n / ACCOUNTS % FOLDERS);
    site.tree.join(format!("acct{account:04}/folder{folder}/file-{n}.csv"))
}

/// Makes a point, however long it takes.
fn point(site: &Site, label: &str) {
    let until = Instant::now() + LONG;
    loop {
        // It waits a minute by itself.
        let config = text(&site.config);
        let args = ["mark", "create", "--label", label, "--config", config];
        let made = command(&args).output().unwrap();
        if made.status.success() {
            return;
        }
        assert!(Instant::now() < until, "no point: {}", shown(&made));
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The most memory a daemon ever had, MiB; begins to count anew.
fn peak(daemon: &Daemon) -> u64 {
    let folder = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let status = fs::read_to_string(folder.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    fs::write(folder.join("clear_refs"), "5").unwrap_or(());
    kib / 1024
}

/// Changes `count` files of a site, each `every` files apart from `first` on, in turn in one of four ways.
fn diverge(site: &Site, first: u64, every: u64, count: u64) {
    for n in 0..count {
        let path = at(site, first + n * every);
        match n % 4 {
            0 => fs::write(&path, format!("{}'s version of {n}", site.name)).unwrap(),
            1 => fs::remove_file(&path).unwrap(),
            2 => fs::rename(&path, path.with_extension("done")).unwrap(),
            _ => {
                fs::write(path.with_extension("new"), format!("new at {}: {n}", site.name)).unwrap()
            }
        }
    }
}

#[test]
fn it_opens_at_once_and_the_plan_is_of_what_diverged_however_many_files_there_are() {
    let files = number("FARSHORE_TEST_FILES", 3_000);
    let diverged = number("FARSHORE_TEST_DIVERGED", 60);
    let size = format!("{}m", 512 + files / 100);
    let pair = Pair::of_size(Dials::Recovery, NO_BRAKE, &size);
    let (production, recovery) = (&pair.production, &pair.recovery);
    for folder in 0..ACCOUNTS.min(files) * FOLDERS {
        let path = at(production, folder % ACCOUNTS + folder / ACCOUNTS * ACCOUNTS);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    for n in 0..files {
        fs::write(at(production, n), format!("of the base: {n}")).unwrap();
    }
    let began = Instant::now();
    let (p, r) = (production.start(), recovery.start());
    point(production, "base");
    println!(
        "{files} files: first copy {:?}, peaks {} and {} MiB",
        began.elapsed(),
        peak(&p),
        peak(&r)
    );
    p.kill();

    let began = Instant::now();
    let opened = run(recovery, &["failover", "--force", "--peer-is-off", "--json"]);
    let took = began.elapsed();
    assert!(opened.status.success(), "{}", shown(&opened));
    let manifest: Value = serde_json::from_slice(&opened.stdout).unwrap();
    assert_eq!(manifest["open"], true, "{manifest:#}");
    fs::write(recovery.tree.join("acct0000/first"), b"written").unwrap();
    println!("failover: open for writing after {took:?}, peak {} MiB", peak(&r));

    // Half of them at each site, a tenth of those at both.
    let half = diverged / 2;
    let every = files / (diverged + 1);
    diverge(production, 0, every, half);
    diverge(recovery, (half - half / 10) * every, every, half);
    let p = production.start();
    wait_phase(&pair, production, "stranded", false);
    wait_phase(&pair, recovery, "alone", true);
    let began = Instant::now();
    let args = ["failback", "plan", "--json", "--config", text(&recovery.config)];
    let out = command(&args).output().unwrap();
    let took = began.elapsed();
    assert!(out.status.success(), "{}", shown(&out));
    let made: Value = serde_json::from_slice(&out.stdout).unwrap();
    let file = made["plan"].as_str().unwrap();
    println!("plan: {took:?} with both scans, peaks {} and {} MiB; {made}", peak(&p), peak(&r));
    let log = r.log();
    println!("{}", log.lines().rfind(|line| line.contains("planned:")).unwrap());
    let began = Instant::now();
    let shown_plan = farshore(&["failback", "show", "--plan", file, "--json"]);
    assert!(shown_plan.status.success(), "{}", shown(&shown_plan));
    let rows = shown_plan.stdout.iter().filter(|byte| **byte == b'\n').count() - 1;
    println!("show --json: {:?}, {rows} paths", began.elapsed());
    // Every one of them, both names of the renamed, and the one that was written at once.
    assert!(rows as u64 >= diverged - half / 10, "{rows} paths");

    let began = Instant::now();
    let config = text(&recovery.config);
    let args = ["failback", "apply", "--plan", file, "--accept-held", "--config", config];
    let applied = command(&args).output().unwrap();
    assert!(applied.status.success(), "{}", shown(&applied));
    wait_phase(&pair, recovery, "active", true);
    wait_phase(&pair, production, "standby", false);
    println!("apply: {:?}, peaks {} and {} MiB", began.elapsed(), peak(&p), peak(&r));
    let began = Instant::now();
    point(recovery, "home");
    println!("equal after {:?}, peaks {} and {} MiB", began.elapsed(), peak(&p), peak(&r));
    for line in r.log().lines().chain(p.log().lines()) {
        println!("  {line}");
    }
    pair.equal("after the way home");
    let began = Instant::now();
    let home = run(recovery, &["switchover"]);
    assert!(home.status.success(), "{}", shown(&home));
    wait_phase(&pair, production, "active", true);
    println!("switchover: {:?}", began.elapsed());
}
