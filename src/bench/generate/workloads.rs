//! The workloads W1 to W6, and those of the long line that are smaller copies of them.
//!
//! Guarantees: base and second state are functions of (workload, scale, seed); in-place changes are
//! made in place, insertions by writing a new file and renaming it over the old one, as applications
//! do. Refuses nothing; a scale that rounds to nothing still gives at least one entry.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::writer::Look;
use super::{Plan, TreeWriter, Workload};
use crate::bench::content::{Content, RowChange, rows_for, scaled};
use crate::bench::rng::{Rng, len_u64, mix, round_to_u64, to_usize};
use crate::bench::{BenchError, Context};

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
const BIG_FILE: &str = "master.dat";
const W5_FILES: u64 = 200;
const W5_ACCOUNT: &str = "BU01/acct0001";
const W5_BEFORE: &str = "BU01/acct0001/archive-2025";
const W5_AFTER: &str = "BU01/acct0001/archive-closed";

/// W1: 8 files, 2 GiB, half random, half text.
pub(super) fn write_w1(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let len = scaled(2 * GIB / 8, plan.scale(), 1);
    for number in 0..8 {
        let seed = mix(plan.seed, number);
        let (name, content) = if number % 2 == 0 {
            (format!("random-{number}.bin"), Content::Random { seed, len })
        } else {
            (format!("text-{number}.csv"), Content::Text { seed, len })
        };
        tree.file(Path::new(&name), content, Look::plain(seed))?;
    }
    Ok(())
}

/// L64 and L1r: files that cannot shrink, `bytes` in all.
pub(super) fn write_random(
    tree: &mut TreeWriter,
    plan: &Plan,
    bytes: u64,
    files: u64,
) -> Result<(), BenchError> {
    let len = scaled(bytes / files, plan.scale(), 1);
    for number in 0..files {
        let seed = mix(plan.seed, 0x64 + number);
        let name = format!("random-{number}.bin");
        tree.file(Path::new(&name), Content::Random { seed, len }, Look::plain(seed))?;
    }
    Ok(())
}

/// One file of the account tree.
struct AccountFile {
    folder: PathBuf,
    name: String,
    len: u64,
    seed: u64,
}

impl AccountFile {
    fn content(&self) -> Content {
        let (seed, len) = (self.seed, self.len);
        // Half of the bytes are compressible, as in the measurements of LIMITS.
        if seed.is_multiple_of(2) {
            Content::Text { seed, len }
        } else {
            Content::Random { seed, len }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }
}

/// The files of W2: lognormal with median 4 KiB and mean 12 KiB, in 1,000 accounts, 3 levels.
fn account_files(plan: &Plan, first: u64, count: u64) -> Vec<AccountFile> {
    let accounts = scaled(1_000, plan.scale(), 4);
    let sigma = (2.0 * 3f64.ln()).sqrt();
    let parts = ["inbound", "outbound", "archive", "reports", "error"];
    (first..first + count)
        .map(|number| {
            let seed = mix(plan.seed, number);
            let mut rng = Rng::new(seed);
            let account = rng.below(accounts);
            let part = parts[rng.index(parts.len())];
            let folder = format!("BU{:02}/acct{account:04}/{part}", account % 20);
            let len = round_to_u64(rng.lognormal(4096.0, sigma)).min(256 << 20);
            let name =
                format!("file-{number:06}.{}", if seed.is_multiple_of(2) { "csv" } else { "pgp" });
            AccountFile { folder: PathBuf::from(folder), name, len, seed }
        })
        .collect()
}

fn account_count(plan: &Plan) -> u64 {
    scaled(100_000, plan.scale(), 20)
}

/// The base of W2, W3 and W6.
pub(super) fn write_accounts(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    for file in account_files(plan, 0, account_count(plan)) {
        tree.folder(&file.folder, Look::plain(plan.seed).mode(0o750))?;
        tree.file(&file.path(), file.content(), Look::plain(file.seed))?;
    }
    Ok(())
}

/// W6: 1 % changed, 0.5 % deleted, 0.5 % new.
pub(super) fn change_accounts(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let count = account_count(plan);
    let day = Look::plain(plan.seed).mode(0o750).next_day(plan.seed);
    for file in account_files(plan, 0, count) {
        let fate = mix(plan.seed ^ 0x66, file.seed) % 1_000;
        let path = file.path();
        if fate < 10 {
            change_part(tree, &file)?;
        } else if fate < 15 {
            tree.remove(&path)?;
            tree.touch_folder(&file.folder, day);
        }
    }
    for file in account_files(plan, count, (count / 200).max(1)) {
        tree.folder(&file.folder, day)?;
        tree.file(&file.path(), file.content(), Look::plain(file.seed).next_day(file.seed))?;
    }
    Ok(())
}

/// Rewrites a tenth of a file somewhere in it and adds 64 bytes at its end.
fn change_part(tree: &mut TreeWriter, file: &AccountFile) -> Result<(), BenchError> {
    let mut bytes = Vec::new();
    let path = tree.path(&file.path());
    file.content().write_to(&mut bytes).at("generate a file", &path)?;
    let mut rng = Rng::new(mix(file.seed, 5));
    let span = bytes.len() / 10;
    let start = rng.index(bytes.len() - span + 1);
    rng.fill(&mut bytes[start..start + span]);
    let mut tail = [0; 64];
    rng.fill(&mut tail);
    bytes.extend_from_slice(&tail);
    tree.bytes(&file.path(), &bytes, Look::plain(file.seed).next_day(file.seed))
}

/// The base of W3L: files of 16 to 200 bytes, 1,000 to a folder.
pub(super) fn write_tiny_files(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    for number in 0..scaled(1_000_000, plan.scale(), 20) {
        let seed = mix(plan.seed, number);
        let account = number / 1_000;
        let folder = PathBuf::from(format!("BU{:02}/acct{account:04}/inbound", account % 20));
        tree.folder(&folder, Look::plain(plan.seed).mode(0o750))?;
        let len = 16 + seed % 185;
        let name = folder.join(format!("msg-{number:07}.ack"));
        tree.file(&name, Content::Text { seed, len }, Look::plain(seed))?;
    }
    Ok(())
}

fn big_len(plan: &Plan) -> u64 {
    scaled(GIB / PAGE, plan.scale(), 64) * PAGE
}

fn rows(plan: &Plan, change: RowChange) -> Content {
    Content::Rows { seed: plan.seed, rows: rows_for(big_len(plan)), change }
}

/// The base of W4: one file of 1 GiB.
pub(super) fn write_one_file(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let content = match plan.workload {
        Workload::W4a | Workload::W4b => Content::Mixed { seed: plan.seed, len: big_len(plan) },
        _ => rows(plan, RowChange::None),
    };
    tree.file(Path::new(BIG_FILE), content, Look::plain(plan.seed))
}

/// W4a: 1 % of the pages rewritten in place.
pub(super) fn rewrite_pages(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let path = tree.path(Path::new(BIG_FILE));
    let file = OpenOptions::new().write(true).open(&path).at("open for change", &path)?;
    let mut rng = Rng::new(mix(plan.seed, 0x4a));
    let pages = big_len(plan) / PAGE;
    let mut page = vec![0; to_usize(PAGE)];
    for number in 0..pages {
        if rng.chance(0.01) || number == pages / 2 {
            rng.fill(&mut page);
            file.write_all_at(&page, number * PAGE).at("rewrite a page", &path)?;
            tree.count_bytes(PAGE);
        }
    }
    tree.dress(&file, &path, Look::plain(plan.seed).next_day(plan.seed))
}

/// W4b: 100 bytes inserted at the start and at 20 places.
pub(super) fn insert_bytes(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let (old, new) = (Path::new(BIG_FILE), Path::new("master.dat.new"));
    let (old_path, new_path) = (tree.path(old), tree.path(new));
    let mut rng = Rng::new(mix(plan.seed, 0x4b));
    let mut places: Vec<u64> = (0..20).map(|_| rng.below(big_len(plan))).collect();
    places.push(0);
    places.sort_unstable();
    let mut from = BufReader::new(File::open(&old_path).at("open", &old_path)?);
    let file = File::create(&new_path).at("create", &new_path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut at = 0;
    for place in places {
        let piece = std::io::copy(&mut from.by_ref().take(place - at), &mut out);
        at += piece.at("copy", &new_path)?;
        let mut inserted = [0; 100];
        rng.fill(&mut inserted);
        out.write_all(&inserted).at("insert", &new_path)?;
        tree.count_bytes(len_u64(inserted.len()));
    }
    std::io::copy(&mut from, &mut out).at("copy", &new_path)?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error);
    let file = file.at("write", &new_path)?;
    tree.dress(&file, &new_path, Look::plain(plan.seed).next_day(plan.seed))?;
    tree.rename(new, old)
}

/// W4c, W4d, W4e: the rows of the next day, written over the old file by a rename.
pub(super) fn change_rows(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let change = match plan.workload {
        Workload::W4d => RowChange::Clustered,
        Workload::W4e => RowChange::Scattered,
        _ => RowChange::UpdatedScattered,
    };
    let new = Path::new("master.dat.new");
    tree.file(new, rows(plan, change), Look::plain(plan.seed).next_day(plan.seed))?;
    tree.rename(new, Path::new(BIG_FILE))
}

/// The base of W5: 200 files, 1 GiB, in one folder.
pub(super) fn write_w5(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let folder = Path::new(W5_BEFORE);
    tree.folder(folder, Look::plain(plan.seed).mode(0o750))?;
    let len = scaled(GIB / W5_FILES, plan.scale(), 1);
    for number in 0..W5_FILES {
        let seed = mix(plan.seed, number);
        let name = folder.join(w5_name(number));
        tree.file(&name, Content::Mixed { seed, len }, Look::plain(seed))?;
    }
    Ok(())
}

/// W5: the folder renamed.
pub(super) fn rename_w5(tree: &mut TreeWriter) -> Result<(), BenchError> {
    tree.rename_folder(Path::new(W5_BEFORE), Path::new(W5_AFTER))?;
    tree.touch_folder(Path::new(W5_ACCOUNT), Look::plain(2).mode(0o750).next_day(2));
    Ok(())
}

/// W5b: the files moved into 20 other folders, from whichever name the folder has by now.
pub(super) fn move_w5(tree: &mut TreeWriter) -> Result<(), BenchError> {
    let renamed = tree.path(Path::new(W5_AFTER)).is_dir();
    let from = Path::new(if renamed { W5_AFTER } else { W5_BEFORE });
    let look = Look::plain(3).mode(0o750).next_day(3);
    for number in 0..W5_FILES {
        let folder = PathBuf::from(format!("BU02/acct{:04}/received", number % 20));
        tree.folder(&folder, look)?;
        tree.rename(&from.join(w5_name(number)), &folder.join(w5_name(number)))?;
    }
    tree.touch_folder(from, look);
    Ok(())
}

fn w5_name(number: u64) -> String {
    format!("delivery-{number:03}.zip")
}
