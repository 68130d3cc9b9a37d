//! What a standing pair costs: the lag of its recovery point under a churn, how soon it goes on after a
//! kill, and memory. Two daemons as processes, both trees and states on one tmpfs (as root), policies off.
//!
//! ```sh
//! cargo bench --bench standby
//! FARSHORE_BENCH_RATE=500 FARSHORE_BENCH_SECONDS=120 FARSHORE_BENCH_FILES=1000000 cargo bench --bench standby
//! FARSHORE_BENCH_ACCOUNTS=20 FARSHORE_BENCH_MIB=50 FARSHORE_BENCH_LINE=40M cargo bench --bench standby -- backlog
//! ```
//! Lag is told twice: as the standby's status does, and as its objective means it, from the truth: for each
//! change, how long after it was done a sealed point that vouches for it was known at the standby.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "../tests/standby/churn.rs"]
mod churn;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/standby/pair.rs"]
mod pair;
#[path = "../tests/standby/truth.rs"]
mod truth;

use churn::Churn;
use pair::{Daemon, Dials, Pair, Site, there};
use truth::now_ns;

/// No part of it takes longer.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often the standby is asked for its point.
const POLL: Duration = Duration::from_millis(50);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What a site's daemon says of its share; null while it does not answer.
fn share(site: &Site) -> Value {
    let ask = || {
        let mut socket = UnixStream::connect(site.state.join("control.sock")).ok()?;
        socket.write_all(b"{\"command\": \"status\"}\n").ok()?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).ok()?;
        let answer: Value = serde_json::from_str(&line).ok()?;
        Some(answer["ok"]["shares"][0].clone())
    };
    ask().unwrap_or_default()
}

/// The time of the point that a standby declares.
fn declared_ms(share: &Value) -> Option<i64> {
    share["recovery_point"]["time_unix_ms"].as_i64()
}

fn wait(what: &str, poll: Duration, mut until: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < PATIENCE, "never {what}");
        std::thread::sleep(poll);
    }
    began.elapsed()
}

fn point_after(site: &Site, ns: i128) -> Duration {
    wait("a later point", Duration::from_millis(10), || {
        declared_ms(&share(site)).is_some_and(|t| i128::from(t) * 1_000_000 > ns)
    })
}

fn memory(name: &str, daemon: &Daemon) {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line[key.len()..].trim().to_owned()
    };
    println!("  {name}: VmHWM {}, VmRSS {}", of("VmHWM:"), of("VmRSS:"));
}

/// The times of one part of `all`, sorted: half, 99 of 100, and the largest.
fn told(name: &str, mut all: Vec<i128>) {
    all.sort_unstable();
    let at = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
    let max = at(100);
    println!("  {name}: p50 {} ms, p99 {} ms, max {max} ms of {}", at(50), at(99), all.len());
}

/// Churns for a while, and tells the lag.
fn lag(pair: &Pair, seconds: u64, rate: u64) {
    let (began, span) = (Instant::now(), Duration::from_secs(seconds));
    let churn = Churn::start(&pair.production.tree, 1, 8, rate);
    let (mut known, mut last) = (Vec::new(), None);
    let mut note = |at: &Value| {
        let time = declared_ms(at);
        if time.is_some() && time != last {
            known.extend(time.map(|t| (now_ns(), i128::from(t) * 1_000_000)));
            last = time;
        }
    };
    while began.elapsed() < span {
        note(&share(&pair.recovery));
        std::thread::sleep(POLL);
    }
    let truth = churn.stop();
    let end = now_ns();
    wait("all vouched for", POLL, || {
        let share = share(&pair.recovery);
        note(&share);
        declared_ms(&share).is_some_and(|t| i128::from(t) * 1_000_000 > end)
    });
    let hour = share(&pair.recovery)["lag"]["hour"].clone();
    println!("lag at {} changes a second for {seconds} s:", truth.count() / seconds.max(1));
    let of_change = |done: i128| {
        let first = known.partition_point(|(_, time)| *time <= done);
        (known[first].0 - done) / 1_000_000
    };
    told("by the truth, each change", truth.done_ns().into_iter().map(of_change).collect());
    println!(
        "  by the standby's status: p50 {} ms, p99 {} ms, max {} ms of {} s",
        hour["p50_ms"], hour["p99_ms"], hour["max_ms"], hour["seconds"]
    );
    let points = known.len().saturating_sub(1).max(1);
    println!("  points: {points}, one each {} ms", span.as_millis() / points as u128);
    pair.equal("after the churn");
}

fn small(seconds: u64, rate: u64) {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    pair.write("acct00/inbound/first", b"1");
    let (standby, sender) = (pair.recovery.start(), pair.production.start());
    point_after(&pair.recovery, now_ns());
    lag(&pair, seconds, rate);
    memory("sender", &sender);
    memory("standby", &standby);
}

/// What is measured here is not the brake.
const NO_BRAKE: &str = "brake = { entries = 1000000000, percent = 100 }";

fn large(files: u64, seconds: u64, rate: u64) {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    for n in 0..files {
        let folder = format!("home{}/inbound/{}", n % 50, n / 10_000);
        if n % 10_000 < 50 {
            fs::create_dir_all(pair.production.tree.join(&folder)).unwrap();
        }
        // Most are empty: a tmpfs takes a page for one byte.
        let content: &[u8] = if n % 10 == 0 { b"an order" } else { b"" };
        fs::write(pair.production.tree.join(&folder).join(n.to_string()), content).unwrap();
    }
    let (standby, sender) = (pair.recovery.start(), pair.production.start());
    let seeded = point_after(&pair.recovery, now_ns());
    println!("{files} files: the first point after {:.1} s", seeded.as_secs_f64());
    memory("sender", &sender);
    let mut sender = sender;
    for round in 0..3 {
        sender.kill();
        let began = Instant::now();
        sender = pair.production.start();
        let ready = began.elapsed();
        let name = format!("home7/inbound/0/after-kill-{round}");
        pair.write(&name, b"x");
        let written = now_ns();
        let path = there(&pair, &name);
        let there = wait("there", Duration::from_millis(1), || path.exists());
        let vouched = point_after(&pair.recovery, written) + there;
        println!(
            "  sender killed: ready after {} ms; a change after that is there in {} ms, and vouched \
             for, after a look at everything, in {} ms",
            ready.as_millis(),
            there.as_millis(),
            vouched.as_millis(),
        );
    }
    lag(&pair, seconds, rate);
    memory("sender", &sender);
    memory("standby", &standby);
}

/// Files of a backlog, in KiB.
const SIZES: [usize; 6] = [16, 64, 16, 256, 16, 1_024];
/// How often the important account changes its file.
const EACH: Duration = Duration::from_millis(200);

/// Many accounts get a backlog at once, on a line of a rate, while an important one changes a small file: how long
/// each change takes to be in a point.
fn backlog(accounts: u64, mib: u64, line: &str) {
    let more =
        format!("priority = {{ high = [\"pay\"] }}\n{NO_BRAKE}\n[bandwidth]\nlimit = \"{line}\"");
    let pair = Pair::of_size(Dials::Production, &more, &format!("{}m", 3 * accounts * mib + 512));
    let (file, path) = (pair.production.tree.join("pay/in/file"), there(&pair, "pay/in/file"));
    pair.write("pay/in/file", b"0");
    (0..accounts).for_each(|n| pair.write(&format!("acct{n}/in/first"), b"1"));
    let (standby, sender) = (pair.recovery.start(), pair.production.start());
    point_after(&pair.recovery, now_ns());
    let mut rng = farshore_test_support::Rng::new(7);
    let made = Instant::now();
    for account in 0..accounts {
        let (mut left, mut n) = (usize::try_from(mib).unwrap() << 20, 0);
        while left > 0 {
            let size = (SIZES[n % SIZES.len()] << 10).min(left);
            pair.write(&format!("acct{account}/in/{n}"), &rng.bytes(size));
            (left, n) = (left - size, n + 1);
        }
    }
    println!(
        "{accounts} accounts of {mib} MiB, made in {} ms, at {line}:",
        made.elapsed().as_millis()
    );
    let (began, mut written, mut took) = (Instant::now(), Vec::new(), Vec::new());
    let (mut behind, mut last) = (true, 0);
    while behind || took.len() < written.len() {
        if behind && began.elapsed() >= EACH * u32::try_from(written.len()).unwrap() {
            fs::write(&file, (written.len() + 1).to_string()).unwrap();
            written.push(now_ns());
        }
        let share = share(&pair.recovery);
        let is_in = |n: usize| {
            fs::read_to_string(&path).is_ok_and(|t| t.parse().is_ok_and(|t: usize| t > n))
        };
        while let Some(at) = written.get(took.len())
            && declared_ms(&share).is_some_and(|time| i128::from(time) * 1_000_000 > *at)
            && is_in(took.len())
        {
            took.push((now_ns() - at) / 1_000_000);
        }
        let names = (0..accounts).map(|n| there(&pair, &format!("acct{n}/in/0")));
        let is_through = share["accounts"]["count"] == 0 && names.map(|p| p.exists()).all(|is| is);
        if behind && is_through {
            (behind, last) = (false, began.elapsed().as_millis());
        }
        assert!(began.elapsed() < PATIENCE, "never through");
        std::thread::sleep(POLL / 5);
    }
    told("a change of the important account in a point", took);
    println!("  the backlog is through after {last} ms");
    memory("sender", &sender);
    memory("standby", &standby);
    point_after(&pair.recovery, now_ns());
    pair.equal("after the backlog");
}

fn main() {
    if std::env::args().any(|arg| arg == "backlog") {
        let line = std::env::var("FARSHORE_BENCH_LINE").unwrap_or_else(|_| "40M".into());
        return backlog(
            number("FARSHORE_BENCH_ACCOUNTS", 20),
            number("FARSHORE_BENCH_MIB", 50),
            &line,
        );
    }
    let seconds = number("FARSHORE_BENCH_SECONDS", 60);
    let rate = number("FARSHORE_BENCH_RATE", 100);
    let files = number("FARSHORE_BENCH_FILES", 100_000);
    small(seconds, rate);
    if files > 0 {
        large(files, seconds.div_ceil(3), rate);
    }
}
