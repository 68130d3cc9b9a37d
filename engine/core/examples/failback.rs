//! How long a failback plan takes and what it holds: a base of a million files, changes at both sites.
//!
//! `cargo run --release -p farshore-core --example failback -- FILES PRODUCTION RECOVERY`

#![allow(clippy::print_stdout, clippy::unwrap_used)] // an example

use std::time::Instant;

use farshore_core::entry::{Entry, Metadata};
use farshore_core::failback::list::ChangeIter;
use farshore_core::failback::plan::{Header, PlanReader, PlanWriter};
use farshore_core::failback::{
    BaseTree, ChangeList, Config, ListError, Merge, SideChange, Unasked, render,
};
use farshore_core::path::RelPath;
use farshore_core::recipe::FileDigest;
use farshore_core::recovery_point::Epoch;

/// Files per account; accounts are in path order, and so are the files of one.
const PER_ACCOUNT: u64 = 500;

fn path(number: u64) -> RelPath {
    let (account, file) = (number / PER_ACCOUNT, number % PER_ACCOUNT);
    RelPath::new(format!("acc{account:06}/in/file{file:03}.csv").into_bytes()).unwrap()
}

fn file(number: u64, version: u64) -> Entry {
    let content = FileDigest::of_small(&[number.to_le_bytes(), version.to_le_bytes()].concat());
    let meta = Metadata { mode: 0o640, uid: 7, gid: 7, ..Metadata::default() };
    Entry::File { size: 1_000 + number % 9_000, content, meta }
}

struct Base;

impl BaseTree for Base {
    fn entry(&self, _: &RelPath) -> Result<Option<Entry>, ListError> {
        Ok(None)
    }
}

/// Changes of every `step`th file: modified, deleted, created.
struct Changes {
    files: u64,
    step: u64,
    version: u64,
}

impl Changes {
    fn at(&self, number: u64) -> SideChange {
        // Both sites know the same base.
        let before = (number % 16 != 3).then(|| file(number, 0));
        let changed = Some(file(number, self.version));
        let after = match (&before, (number / self.step) % 4) {
            (Some(_), 0) => None,
            _ => changed,
        };
        SideChange { path: path(number), before, after, moved_from: None }
    }
}

impl ChangeList for Changes {
    fn changes(&self) -> Result<ChangeIter<'_>, ListError> {
        let step = usize::try_from(self.step).unwrap_or(usize::MAX);
        Ok(Box::new((0..self.files).step_by(step).map(|number| Ok(self.at(number)))))
    }
}

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown");
    line.to_owned()
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<u64>().unwrap());
    let files = numbers.next().unwrap_or(1_000_000);
    let (p, r) = (numbers.next().unwrap_or(5_000), numbers.next().unwrap_or(5_000));
    // Steps without a common factor, so that most paths differ at one site alone.
    let side = |count: u64, version| Changes { files, step: (files / count).max(1) | 1, version };
    let (production, recovery) = (side(p, 1), side(r, 2));
    let (base, config) = (Base, Config::default());
    let begun = Instant::now();
    let merge = Merge {
        production: &production,
        recovery: &recovery,
        base: &base,
        resolver: &Unasked,
        config: &config,
    };
    let header = Header {
        pair: [0; 16],
        production: [1; 16],
        recovery: [2; 16],
        share: "homes".into(),
        epoch: Epoch(2),
        base: None,
        policies: [[0; 32]; 2],
        resolvers: Vec::new(),
        made_unix_ms: 0,
        lists: Default::default(),
    };
    let mut writer = PlanWriter::new(std::io::sink(), &header, 1).unwrap();
    let mut kept = PlanWriter::new(Vec::new(), &header, 1).unwrap();
    let is_kept = p + r <= 100_000;
    for divergence in merge.run().unwrap() {
        let divergence = divergence.unwrap();
        writer.push(&divergence).unwrap();
        if is_kept {
            kept.push(&divergence).unwrap();
        }
    }
    let (_, summary) = writer.finish().unwrap();
    println!("{} paths planned in {:?}, {}", summary.paths(), begun.elapsed(), peak());
    let mut text = String::new();
    render::head(&mut text, &header, 1, &summary).unwrap();
    print!("{text}");
    let (bytes, summary) = kept.finish().unwrap();
    if is_kept {
        let begun = Instant::now();
        let mut page = render::Page::new(String::new(), &header, 1, &summary).unwrap();
        for divergence in PlanReader::new(&bytes[..]).unwrap() {
            page.row(&divergence.unwrap()).unwrap();
        }
        let html = page.finish().unwrap().len();
        println!("plan {} bytes, page {html} bytes in {:?}", bytes.len(), begun.elapsed());
    }
}
