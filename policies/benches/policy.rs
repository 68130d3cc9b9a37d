//! What sandboxed policies cost: an entry, an instance, a load. `cargo bench -p farshore-policies`;
//! compare two versions in one sitting.
//!
//! The policy is `mft-defaults` as it is committed; `FARSHORE_POLICY` names another component,
//! `FARSHORE_PATHS` a file with paths, one a line, instead of made-up ones.

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::PathBuf;

use divan::Bencher;
use divan::counter::ItemsCount;
use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Candidate, Policy};
use farshore_policies::{Component, Configured, Host, Limits, OnFault, Policies, RuleSet};

const AT: Timestamp = Timestamp { seconds: 1_800_000_000, nanos: 0 };
const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/policies/mft-defaults.wasm");

fn main() {
    divan::main();
}

fn bytes() -> Vec<u8> {
    let path = std::env::var_os("FARSHORE_POLICY").map_or_else(|| FIXTURE.into(), PathBuf::from);
    std::fs::read(path).expect("a component")
}

fn component(host: &Host) -> Component {
    host.load(&bytes(), &Limits::default()).expect("a policy")
}

fn configured(component: &Component) -> Configured {
    component
        .configure("policy", &[], Limits::default(), OnFault::Replicate, AT)
        .expect("configured")
}

/// Paths as homes have them, 43 bytes on average; the policy decides about some.
fn paths(count: usize) -> Vec<RelPath> {
    if let Some(file) = std::env::var_os("FARSHORE_PATHS") {
        let text = std::fs::read(file).expect("a file of paths");
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let all: Vec<_> = lines.filter_map(|line| RelPath::new(line).ok()).collect();
        return all.into_iter().cycle().take(count).collect();
    }
    let names = [
        "account00017/inbox/2026/11/invoice-0001.pdf",
        "account00017/outbox/orders.csv",
        "account00123/inbox/partner/statement_2026-11-26_final_copy.xml",
        "account00123/inbox/upload.zip.filepart",
        "account01999/archive/2025/12/31/batch-000000123.dat",
        "account01999/work/report.tmp",
    ];
    let path = |n: usize| RelPath::new(format!("{}{}", names[n % names.len()], n % 7).into_bytes());
    (0..count).map(|n| path(n).expect("a path")).collect()
}

fn candidates(paths: &[RelPath]) -> Vec<Candidate<'_>> {
    let candidate = |path| Candidate {
        path,
        kind: EntryKind::File,
        size: 4_096,
        mtime: AT,
        mode: 0o640,
        uid: 1_001,
        gid: 1_001,
    };
    paths.iter().map(candidate).collect()
}

/// One `exclude`, by entry; the host splits it into calls of 256.
#[divan::bench(sample_count = 10, args = [1, 16, 256, 4_096, 1_000_000])]
fn exclude(bencher: Bencher, entries: usize) {
    let host = Host::new(None).expect("a host");
    let configured = configured(&component(&host));
    let paths = paths(entries);
    let candidates = candidates(&paths);
    bencher.counter(ItemsCount::new(entries)).bench_local(|| configured.exclude(&candidates));
    assert_eq!(configured.take_faults().count, 0);
}

/// The same behind the built-in rules, as a run asks.
#[divan::bench(args = [4_096])]
fn rules_and_exclude(bencher: Bencher, entries: usize) {
    let host = Host::new(None).expect("a host");
    let mut rules = RuleSet::builder(AT);
    rules.push(Action::Exclude, b"*.bak").expect("a rule");
    let all = Policies::new(rules.build(), vec![configured(&component(&host))]).expect("a chain");
    let paths = paths(entries);
    let candidates = candidates(&paths);
    bencher.counter(ItemsCount::new(entries)).bench_local(|| all.exclude(&candidates));
}

/// A fresh instance of a policy that does nothing to be configured: what the host takes.
#[divan::bench]
fn instantiate(bencher: Bencher) {
    let host = Host::new(None).expect("a host");
    let guest = common::Guest::default().build();
    let component = host.load(&guest, &Limits::default()).expect("a policy");
    bencher.bench_local(|| configured(&component));
}

/// A fresh instance, configured: with what the policy itself does.
#[divan::bench]
fn instantiate_and_configure(bencher: Bencher) {
    let host = Host::new(None).expect("a host");
    let component = component(&host);
    bencher.bench_local(|| configured(&component));
}

/// Compiling, and the checks.
#[divan::bench(sample_count = 10)]
fn load_compiled(bencher: Bencher) {
    let host = Host::new(None).expect("a host");
    bencher.bench_local(|| component(&host));
}

/// From the cache, and the checks.
#[divan::bench]
fn load_cached(bencher: Bencher) {
    let folder = tempfile::tempdir().expect("a folder");
    let host = Host::new(Some(&folder.path().join("cache"))).expect("a host");
    component(&host);
    bencher.bench_local(|| component(&host));
}
