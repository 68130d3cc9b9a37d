//! The account profile of DOMAIN section 4: classes, names and structure of file-transfer homes.
//!
//! Guarantees: class shares, sizes and names follow the table there; one simulated day of churn
//! (arrivals, deletions, moves to the archive, daily dumps, growing logs, renamed folders) is the
//! second state. Refuses nothing. Not modelled: intermediate states within the day.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::writer::Look;
use super::{Plan, TreeWriter, Workload};
use crate::bench::content::{Content, RowChange, rows_for, scaled};
use crate::bench::rng::{Rng, Zipf, mix, round_to_u64, to_f64, to_usize};
use crate::bench::{BenchError, Context};

const MB: u64 = 1_000_000;
const KB: f64 = 1e3;
/// The service account that owns the homes of virtual users.
const SERVICE_UID: u32 = 5_000;
/// Owners of the accounts with a uid of their own start here.
const FIRST_UID: u32 = 10_000;

/// The sizes of a scale of the profile.
#[derive(Debug, Clone, Copy)]
struct Scale {
    accounts: u64,
    files: u64,
    flat: u64,
    /// Factor of the zip and PGP sizes.
    payload: f64,
    dump: (u64, u64),
    gzip: (u64, u64),
    log: (u64, u64),
}

impl Scale {
    fn of(plan: &Plan) -> Self {
        let base = if plan.workload == Workload::ProfileS {
            Self {
                accounts: 200,
                files: 50_000,
                flat: 50_000,
                payload: 0.25,
                dump: (16 * MB, 64 * MB),
                gzip: (4 * MB, 16 * MB),
                log: (MB / 5, 20 * MB),
            }
        } else {
            Self {
                accounts: 20,
                files: 2_000,
                flat: 500,
                payload: 0.1,
                dump: (4 * MB, 16 * MB),
                gzip: (MB, 4 * MB),
                log: (MB / 20, 4 * MB),
            }
        };
        Self {
            accounts: scaled(base.accounts, plan.scale(), 3),
            files: scaled(base.files, plan.scale(), 50),
            flat: scaled(base.flat, plan.scale(), 10),
            ..base
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Records,
    Pgp,
    Zip,
    Report,
    Trigger,
    Log,
    Dump,
    DumpGz,
}

impl Class {
    fn pick(rng: &mut Rng) -> Self {
        match rng.unit() {
            p if p < 0.62 => Self::Records,
            p if p < 0.77 => Self::Pgp,
            p if p < 0.89 => Self::Zip,
            p if p < 0.95 => Self::Report,
            p if p < 0.99 => Self::Trigger,
            p if p < 0.995 => Self::Log,
            p if p < 0.998 => Self::Dump,
            _ => Self::DumpGz,
        }
    }

    fn content(self, seed: u64, scale: &Scale) -> Content {
        let rng = &mut Rng::new(mix(seed, 21));
        let size = |rng: &mut Rng, median, sigma, cap: u64| {
            round_to_u64(rng.lognormal(median, sigma)).min(cap)
        };
        let cap = |bytes: u64| round_to_u64(to_f64(bytes) * scale.payload);
        match self {
            Self::Records => Content::Text { seed, len: size(rng, 12.0 * KB, 1.6, 20 * MB) },
            Self::Pgp => Content::Random { seed, len: size(rng, 60.0 * KB, 1.8, cap(500 * MB)) },
            Self::Zip => {
                let len = size(rng, 400.0 * KB * scale.payload, 1.7, cap(2_000 * MB));
                Content::Archive { seed, len, changed: None }
            }
            Self::Report => {
                // 30 % are copies of one of 16 broadcast reports.
                let seed = if rng.chance(0.3) { rng.below(16) } else { seed };
                let len = size(&mut Rng::new(seed), 250.0 * KB, 1.2, 20 * MB);
                Content::Random { seed, len }
            }
            Self::Trigger => {
                let len = if rng.chance(0.25) { 0 } else { rng.below(301) };
                Content::Text { seed, len }
            }
            Self::Log => Content::Text { seed, len: rng.log_uniform(scale.log.0, scale.log.1) },
            Self::Dump => {
                let rows = rows_for(rng.log_uniform(scale.dump.0, scale.dump.1));
                Content::Rows { seed, rows, change: RowChange::None }
            }
            Self::DumpGz => {
                Content::Random { seed, len: rng.log_uniform(scale.gzip.0, scale.gzip.1) }
            }
        }
    }

    fn name(self, number: u64, seed: u64) -> OsString {
        let pick = |names: &[&'static str]| names[to_usize(seed >> 7) % names.len()];
        let plain = match self {
            Self::Records => format!("ORD_{number:07}.{}", pick(&["edi", "xml", "csv", "txt"])),
            Self::Pgp => format!("payroll_{number:07}.csv.{}", pick(&["pgp", "gpg"])),
            Self::Zip => format!("batch_{number:07}.{}", pick(&["zip", "tar.gz", "csv.gz"])),
            Self::Report => format!("Report {number:07}.{}", pick(&["pdf", "xlsx"])),
            Self::Trigger => format!("ORD_{number:07}.{}", pick(&["trigger", "done", "ack"])),
            Self::Log => format!("feed_{number:07}.log"),
            Self::Dump => format!("ledger_{number:07}_20251231.dat"),
            Self::DumpGz => format!("ledger_{number:07}_20251231.dat.gz"),
        };
        odd_name(plain, seed)
    }
}

/// 0.5 % of the names are odd: not UTF-8, long, UTF-8, leading space, or a twin but for case.
fn odd_name(plain: String, seed: u64) -> OsString {
    if mix(seed, 31) % 1_000 >= 5 {
        return plain.into();
    }
    match mix(seed, 32) % 5 {
        0 => OsStr::from_bytes(&[b"L\xf6hne-\xff-", plain.as_bytes()].concat()).to_owned(),
        1 => format!("{}{plain}", "long-".repeat(40)).into(),
        2 => format!("Gehälter €-{plain}").into(),
        3 => format!(" {plain} copy").into(),
        _ => plain.to_lowercase().into(),
    }
}

/// One file of a home.
struct Placed {
    folder: PathBuf,
    name: OsString,
    class: Class,
    content: Content,
    look: Look,
    folder_look: Look,
    seed: u64,
}

impl Placed {
    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn write(&self, tree: &mut TreeWriter, day: Option<u64>) -> Result<(), BenchError> {
        let look = day.map_or(self.look, |seed| self.look.next_day(mix(seed, self.seed)));
        tree.folder(&self.folder, self.folder_look)?;
        tree.file(&self.path(), self.content, look)?;
        if mix(self.seed, 41) % 10 < 6 {
            let attrs = self.folder.join(".stfs/attrs");
            tree.folder(&attrs, self.folder_look)?;
            let len = 200 + mix(self.seed, 42) % 1_301;
            let name = attrs.join(&self.name);
            tree.file(&name, Content::Text { seed: mix(self.seed, 43), len }, look)?;
        }
        if mix(self.seed, 44).is_multiple_of(1_000) {
            let mut link = OsString::from("latest-");
            link.push(&self.name);
            tree.symlink(&self.folder.join(link), Path::new(&self.name), look)?;
        }
        Ok(())
    }
}

/// Where files go: accounts by Zipf 1.1, business units by Zipf 1.0.
struct Homes {
    activity: Zipf,
    units: Vec<usize>,
    seed: u64,
}

impl Homes {
    fn new(plan: &Plan, scale: &Scale) -> Self {
        let zipf = Zipf::new(20, 1.0);
        let mut rng = Rng::new(mix(plan.seed, 51));
        let units = (0..scale.accounts).map(|_| zipf.pick(&mut rng) + 1).collect();
        Self { activity: Zipf::new(scale.accounts, 1.1), units, seed: plan.seed }
    }

    fn account(&self, number: usize) -> PathBuf {
        PathBuf::from(format!("homes/BU{:02}/acct{number:05}", self.units[number]))
    }

    fn place(&self, number: u64, scale: &Scale) -> Placed {
        let seed = mix(self.seed, number);
        let rng = &mut Rng::new(seed);
        let account = self.activity.pick(rng);
        // At least one dump for every 50 accounts, whatever the dice say.
        let class =
            if number < scale.accounts.div_ceil(50) { Class::Dump } else { Class::pick(rng) };
        let own_uid = mix(self.seed ^ 0xacc7, account as u64) % 10 < 3;
        let own = FIRST_UID + u32::try_from(account).unwrap_or(0);
        let uid = if own_uid { own } else { SERVICE_UID };
        let mode = [0o640, 0o640, 0o660, 0o750][rng.index(4)];
        let owner = Some((uid, SERVICE_UID));
        let folder = self.account(account).join(self.subfolder(account, class, rng));
        let folder_mode = if account.is_multiple_of(4) { 0o2770 } else { 0o750 };
        Placed {
            folder,
            name: class.name(number, seed),
            class,
            content: class.content(seed, scale),
            look: Look { owner, ..Look::plain(seed).mode(mode) },
            folder_look: Look { owner, ..Look::plain(account as u64).mode(folder_mode) },
            seed,
        }
    }

    fn subfolder(&self, account: usize, class: Class, rng: &mut Rng) -> PathBuf {
        if class == Class::Report {
            return "reports".into();
        }
        let own = mix(self.seed ^ 0x50b5, account as u64);
        match rng.below(100) {
            0..35 => "inbound".into(),
            35..45 => "outbound".into(),
            45..65 => {
                let (month, day) = (rng.between(11, 12), rng.between(1, 30));
                format!("archive/2025/{month:02}/{day:02}").into()
            }
            65..68 => "error".into(),
            68..70 if own.is_multiple_of(10) => format!(".mailbox/{:02}", rng.below(20)).into(),
            _ => subscription(own, rng),
        }
    }
}

/// One of the 1-6 subscription folders of an account, 2-5 deep, date-partitioned for 30 %.
fn subscription(own: u64, rng: &mut Rng) -> PathBuf {
    let number = rng.below(1 + own % 6);
    let mut path = PathBuf::from(format!("sub{number}"));
    for level in 1..2 + (own >> 8) % 4 {
        path.push(format!("{}{level}", ["partner", "feed", "region"][rng.index(3)]));
    }
    if (own >> 16) % 10 < 3 {
        path.push(format!("2025-12-{:02}", rng.between(1, 31)));
    }
    path
}

/// The base state.
pub(super) fn write_base(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let scale = Scale::of(plan);
    let homes = Homes::new(plan, &scale);
    for number in 0..scale.files {
        let placed = homes.place(number, &scale);
        placed.write(tree, None)?;
        if mix(placed.seed, 45) % 100 < 16 {
            write_archive_copy(tree, &placed)?;
        }
    }
    let flat = Path::new("adhoc/flat");
    tree.folder(flat, Look::plain(7).mode(0o750))?;
    for number in 0..scale.flat {
        let name = flat.join(format!("event-{number:06}.done"));
        tree.bytes(&name, b"", Look::plain(mix(plan.seed ^ 0xf1a7, number)))?;
    }
    Ok(())
}

/// The identical copy in the archive root, under the unique name of the product.
fn write_archive_copy(tree: &mut TreeWriter, placed: &Placed) -> Result<(), BenchError> {
    let below = placed.folder.strip_prefix("homes").unwrap_or(&placed.folder);
    let folder = Path::new("archive").join(below);
    tree.folder(&folder, placed.folder_look)?;
    let stamp = 1_767_000_000_000 + placed.seed % 100_000_000;
    let long = placed.seed % 100_000_000_000_000_000;
    let mut name = placed.name.clone();
    if name.len() > 180 {
        name = OsString::from("shortened");
    }
    name.push(format!("{stamp:013}_{long:017}.{}", placed.seed % 1_000));
    tree.file(&folder.join(name), placed.content, placed.look)
}

/// One day later.
pub(super) fn pass_day(tree: &mut TreeWriter, plan: &Plan) -> Result<(), BenchError> {
    let scale = Scale::of(plan);
    let homes = Homes::new(plan, &scale);
    for number in 0..scale.files {
        let placed = homes.place(number, &scale);
        live_through(tree, plan, &placed)?;
    }
    for number in scale.files..scale.files + (scale.files * 6).div_ceil(100) {
        homes.place(number, &scale).write(tree, Some(plan.seed))?;
    }
    rename_folders(tree, &homes, &scale)
}

/// What a day does to one file of the base state.
fn live_through(tree: &mut TreeWriter, plan: &Plan, placed: &Placed) -> Result<(), BenchError> {
    let path = placed.path();
    let day = placed.look.next_day(mix(plan.seed, placed.seed));
    match (placed.class, placed.content) {
        (Class::Dump, Content::Rows { seed, rows, .. }) => {
            let variants = [RowChange::Clustered, RowChange::Scattered];
            let change = variants[to_usize(placed.seed >> 3) % 2];
            let next = Content::Rows { seed, rows, change };
            let new_name = mix(placed.seed, 61) % 10 < 7;
            let tomorrow = format!("next_{:07}_20260101.dat", placed.seed % 10_000_000);
            let name = if new_name { placed.folder.join(tomorrow) } else { path };
            tree.folder(&placed.folder, placed.folder_look.next_day(placed.seed))?;
            return tree.file(&name, next, day);
        }
        (Class::DumpGz, Content::Random { len, .. }) => {
            let fresh = Content::Random { seed: mix(placed.seed, 62), len };
            return tree.file(&path, fresh, day);
        }
        (Class::Log, content) => return append(tree, placed, content, day),
        _ => {}
    }
    let folder_day = placed.folder_look.next_day(placed.seed);
    match mix(plan.seed ^ 0xda7, placed.seed) % 1_000 {
        0..30 => {
            tree.remove(&path)?;
            tree.touch_folder(&placed.folder, folder_day);
        }
        30..50 => {
            let account: PathBuf = placed.folder.components().take(3).collect();
            let archive = account.join("archive/2026/01/01");
            tree.folder(&archive, folder_day)?;
            tree.rename(&path, &archive.join(&placed.name))?;
            tree.touch_folder(&placed.folder, folder_day);
        }
        50..60 => tree.file(&path, overwritten(placed), day)?,
        60..65 => tree.retouch(&path, day.mode(0o600))?,
        _ => {}
    }
    Ok(())
}

/// The content after an overwrite: an archive changes one member, all else is new.
fn overwritten(placed: &Placed) -> Content {
    let fresh = mix(placed.seed, 63);
    match placed.content {
        Content::Archive { seed, len, .. } => Content::Archive { seed, len, changed: Some(fresh) },
        Content::Text { len, .. } => Content::Text { seed: fresh, len },
        other => Content::Random { seed: fresh, len: other.len() },
    }
}

/// Appends 1-50 KB for each of 60 minutes to a growing log.
fn append(
    tree: &mut TreeWriter,
    placed: &Placed,
    content: Content,
    day: Look,
) -> Result<(), BenchError> {
    let Content::Text { seed, len } = content else { return Ok(()) };
    let path = tree.path(&placed.path());
    let file = OpenOptions::new().append(true).open(&path).at("open to append", &path)?;
    let mut out = BufWriter::new(&file);
    let mut rng = Rng::new(mix(placed.seed, 64));
    let more = 60 * rng.between(1_000, 50_000);
    let mut tail = Vec::new();
    Content::Text { seed: mix(seed, 65), len: more.min(len) }
        .write_to(&mut tail)
        .at("generate a log", &path)?;
    out.write_all(&tail).at("append", &path)?;
    out.flush().at("append", &path)?;
    drop(out);
    tree.count_bytes(tail.len() as u64);
    tree.dress(&file, &path, day)
}

/// Two folders renamed for 1,000 accounts, at least one.
fn rename_folders(tree: &mut TreeWriter, homes: &Homes, scale: &Scale) -> Result<(), BenchError> {
    let wanted = (scale.accounts * 2).div_ceil(1_000);
    let mut done = 0;
    for account in 0..to_usize(scale.accounts) {
        let home = homes.account(account);
        let (from, to) = (home.join("sub0"), home.join("sub0-renamed"));
        if done < wanted && tree.path(&from).is_dir() {
            tree.rename_folder(&from, &to)?;
            let look = homes.place(account as u64, scale).folder_look;
            tree.touch_folder(&home, look.next_day(account as u64));
            done += 1;
        }
    }
    Ok(())
}
