//! From TOML to a checked configuration.
//!
//! Guarantees what [`super`] says of [`SiteConfig::parse`]; never panics on any text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use farshore_core::path::RelPath;
use farshore_core::size::parse_size;
use farshore_policies::glob::Glob;
use toml::de::{DeTable, DeValue};

use super::read::{At, Read, Reader, Section, kind};
use super::values::{
    TimeOfDay, parse_address, parse_duration, parse_listen, parse_rate, parse_share_name,
    parse_site_name, parse_time, show_duration,
};
use super::{
    Bandwidth, Brake, Fault, History, Hooks, Peer, Priority, Purge, Role, Share, Site, SiteConfig,
    Slot,
};
use crate::policy::library::is_file;

/// A table and the keys it may have.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// As it is written in the file's headers.
    pub table: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
}

/// Every table but those whose keys the operator chooses (`share.settings.NAME`).
pub const KEYS: [Known; 11] = [
    Known { table: "", keys: &["site", "peer", "bandwidth", "share"] },
    Known { table: "site", keys: &["name", "state", "listen", "metrics", "install_dirs"] },
    Known { table: "peer", keys: &["name", "dial"] },
    Known { table: "bandwidth", keys: &["limit", "timetable"] },
    Known { table: "bandwidth.timetable", keys: &["from", "to", "limit"] },
    Known {
        table: "share",
        keys: &[
            "name",
            "path",
            "role",
            "account_depth",
            "policies",
            "settings",
            "objective",
            "scan",
            "settle",
            "history",
            "scrub",
            "io_limit",
            "brake",
            "priority",
            "nodes",
            "hooks",
            "lease",
            "allow_protected",
        ],
    },
    Known { table: "share.hooks", keys: &["start", "stop", "probe", "timeout"] },
    Known { table: "share.priority", keys: &["high", "low"] },
    Known { table: "share.history", keys: &["days", "size"] },
    Known {
        table: "share.brake",
        keys: &[
            "entries",
            "percent",
            "account_entries",
            "account_percent",
            "rewrite_percent",
            "encrypted",
            "appended",
            "renamed",
            "note_directories",
            "spread",
            "window",
            "canaries",
            "purges",
        ],
    },
    Known { table: "share.brake.purges", keys: &["at", "for"] },
];

fn keys(table: &str) -> &'static [&'static str] {
    KEYS.iter().find(|known| known.table == table).map_or(&[], |known| known.keys)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Longest path of an account, in components.
const ACCOUNT_DEPTH_MAX: i64 = 16;
/// Shares of a site.
const SHARES_MAX: usize = 4_096;

/// A configuration, and the lines its roots are on.
pub(super) struct Parsed {
    pub(super) config: SiteConfig,
    pub(super) path_lines: Vec<usize>,
}

/// A share that may not be whole, to compare it with the others.
struct Placed {
    name: Option<Read<String>>,
    path: Option<Read<PathBuf>>,
    share: Option<Share>,
}

pub(super) fn parse(text: &str) -> Result<Parsed, Vec<Fault>> {
    let reader = Reader::new(text);
    let (table, broken) = DeTable::parse_recoverable(text);
    if !broken.is_empty() {
        // What a broken line meant is not guessed: what follows from it would be noise.
        for error in broken {
            let line = error.span().map_or(0, |span| reader.line(span.start));
            reader.fault(&At { line, key: String::new() }, error.message());
        }
        return Err(reader.into_faults());
    }
    let at = At { line: 1, key: String::new() };
    let top = Section::open(&reader, at, table.get_ref(), keys(""));
    let site = site(&top);
    let peer = peer(&top);
    let bandwidth = top.table("bandwidth", keys("bandwidth"));
    let bandwidth = bandwidth.map(|section| read_bandwidth(&section)).unwrap_or_default();
    if top.value("share").is_none() {
        top.missing("share", "at least one [[share]] with a name, a path and a role");
    }
    let placed: Vec<Placed> = top.tables("share", keys("share")).into_iter().map(share).collect();
    if placed.len() > SHARES_MAX {
        let what = format!("{} shares, {SHARES_MAX} are the most", placed.len());
        reader.fault(&At { line: 1, key: "share".into() }, what);
    }
    check_between(&reader, &top, site.as_ref(), peer.as_ref());
    check_nodes(&reader, site.as_ref(), peer.as_ref(), &placed);
    check_shares(&reader, site.as_ref(), &placed);
    let path_lines = placed.iter().map(|p| p.path.as_ref().map_or(0, |p| p.at.line)).collect();
    let shares: Vec<Share> = placed.into_iter().filter_map(|p| p.share).collect();
    match (reader.into_faults(), site, peer) {
        (faults, Some(site), Some(peer)) if faults.is_empty() => {
            Ok(Parsed { config: SiteConfig { site, peer, bandwidth, shares }, path_lines })
        }
        (faults, ..) => Err(faults),
    }
}

fn site(top: &Section<'_, '_>) -> Option<Site> {
    let Some(section) = top.table("site", keys("site")) else {
        if top.value("site").is_none() {
            top.missing("site", "a table [site] with this site's name");
        }
        return None;
    };
    let name =
        required(&section, "name", "this site's name", |name| section.text(name, parse_site_name));
    let state = section.text("state", parse_folder);
    let wrong = section.value("state").is_some() && state.is_none();
    let state = state.map_or_else(|| PathBuf::from("/var/lib/farshore"), |read| read.value);
    let listen = section.text("listen", parse_listen).map(|read| read.value);
    let metrics = section.text("metrics", parse_listen).map(|read| read.value);
    let install_dirs = section.texts("install_dirs", parse_folder);
    let install_dirs = install_dirs.map(|read| read.value).unwrap_or_default();
    let name = name?.value;
    (!wrong).then_some(Site { name, state, listen, metrics, install_dirs })
}

fn peer(top: &Section<'_, '_>) -> Option<Peer> {
    let Some(section) = top.table("peer", keys("peer")) else {
        if top.value("peer").is_none() {
            top.missing("peer", "a table [peer] with the other site's name");
        }
        return None;
    };
    let name = required(&section, "name", "the other site's name", |name| {
        section.text(name, parse_site_name)
    });
    let dial = section.text("dial", parse_address).map(|read| read.value);
    Some(Peer { name: name?.value, dial })
}

/// What must be there, read by `read`, which tells what is wrong with it.
fn required<T>(
    section: &Section<'_, '_>,
    name: &str,
    what: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    if section.value(name).is_none() {
        section.missing(name, what);
        return None;
    }
    read(name)
}

fn read_bandwidth(section: &Section<'_, '_>) -> Bandwidth {
    let limit = section.text("limit", parse_rate).map(|read| read.value);
    let mut taken = [false; 1_440];
    let mut timetable = Vec::new();
    for slot in section.tables("timetable", keys("bandwidth.timetable")) {
        let from = required(&slot, "from", "when it begins", |n| slot.text(n, parse_time));
        let to = required(&slot, "to", "when it ends", |n| slot.text(n, parse_time));
        let limit = required(&slot, "limit", "bytes a second, or \"none\"", |n| {
            slot.text(n, |text| if text == "none" { Ok(None) } else { parse_rate(text).map(Some) })
        });
        let (Some(from), Some(to), Some(limit)) = (from, to, limit) else { continue };
        let slot_read = Slot { from: from.value, to: to.value, limit: limit.value };
        if let Err(what) = take_minutes(&mut taken, slot_read.from, slot_read.to) {
            section.reader.fault(&slot.at, what);
        }
        timetable.push(slot_read);
    }
    Bandwidth { limit, timetable }
}

/// Marks the minutes of a slot as taken.
fn take_minutes(taken: &mut [bool; 1_440], from: TimeOfDay, to: TimeOfDay) -> Result<(), String> {
    let day = u16::try_from(taken.len()).unwrap_or(u16::MAX);
    let (begin, end) = (from.minutes() % day, to.minutes());
    let length = match end.checked_sub(begin) {
        Some(length) if from < to => length,
        _ if from == to => return Err(format!("begins and ends at {from}")),
        _ => day - begin + end,
    };
    for minute in (begin..begin + length).map(|minute| usize::from(minute % day)) {
        if std::mem::replace(&mut taken[minute], true) {
            return Err(format!("{from} to {to} overlaps another time of the table"));
        }
    }
    Ok(())
}

fn share(section: Section<'_, '_>) -> Placed {
    let name = required(&section, "name", "the share's name, the same at both sites", |name| {
        section.text(name, parse_share_name)
    });
    // From here on its name says which one is meant.
    let key = name.as_ref().map_or("share".into(), |name| format!("share.{}", name.value));
    let section = section.called(key);
    let path =
        required(&section, "path", "the folder it is kept in", |n| section.text(n, parse_folder));
    let role = required(&section, "role", "active or standby", |n| {
        section.text(n, |text| text.parse::<Role>())
    });
    let depth = section.number("account_depth", 0..=ACCOUNT_DEPTH_MAX);
    let account_depth = depth.and_then(|d| usize::try_from(d.value).ok()).unwrap_or(1);
    let policies = policies(&section);
    let settings = settings(&section, &policies);
    let objective = duration(&section, "objective", 30 * SECOND, SECOND..=DAY);
    let scan = duration(&section, "scan", HOUR, MINUTE..=30 * DAY);
    let settle =
        duration(&section, "settle", Duration::from_millis(200), Duration::ZERO..=10 * MINUTE);
    let scrub = duration(&section, "scrub", 7 * DAY, HOUR..=365 * DAY);
    times_fit(&section, objective, scan, settle);
    let history = history(&section, role.as_ref().map(|read| read.value));
    let io_limit = section.text("io_limit", parse_rate).map(|read| read.value);
    let brake = brake(&section);
    let priority = priority(&section);
    let nodes = nodes(&section);
    let hooks = hooks(&section);
    let lease = section
        .value("lease")
        .is_some()
        .then(|| duration(&section, "lease", MINUTE, 5 * SECOND..=HOUR));
    let allow_protected = section.flag("allow_protected").is_some_and(|read| read.value);
    let whole = name.as_ref().zip(path.as_ref()).zip(role.as_ref());
    let share = whole.map(|((name, path), role)| Share {
        name: name.value.clone(),
        path: path.value.clone(),
        role: role.value,
        account_depth,
        policies,
        settings,
        objective,
        scan,
        settle,
        history,
        scrub,
        io_limit,
        brake,
        priority,
        nodes,
        hooks,
        lease,
        allow_protected,
    });
    Placed { name, path, share }
}

fn duration(
    section: &Section<'_, '_>,
    name: &str,
    default: Duration,
    range: std::ops::RangeInclusive<Duration>,
) -> Duration {
    let parse = |text: &str| {
        let parsed = parse_duration(text)?;
        if range.contains(&parsed) {
            return Ok(parsed);
        }
        let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
        Err(format!("'{text}' is out of range: {least} to {most}"))
    };
    section.text(name, parse).map_or(default, |read| read.value)
}

fn times_fit(section: &Section<'_, '_>, objective: Duration, scan: Duration, settle: Duration) {
    let at = |name: &str| section.value(name).map_or(section.at.clone(), |(_, at)| at);
    let shown = show_duration;
    if settle >= objective {
        let what = format!(
            "{}: a cut that waits so long cannot keep the objective of {}",
            shown(settle),
            shown(objective)
        );
        section.reader.fault(&at("settle"), what);
    }
    if scan < objective {
        let what = format!(
            "{}: shorter than the objective of {}, which cannot be meant",
            shown(scan),
            shown(objective)
        );
        section.reader.fault(&at("scan"), what);
    }
}

fn policies(section: &Section<'_, '_>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let read = section.texts("policies", |text| {
        if text.is_empty() {
            return Err("a policy without a name".to_owned());
        }
        if is_file(text) && !Path::new(text).is_absolute() {
            return Err(format!("'{text}': the file of a policy is named by an absolute path"));
        }
        if !seen.insert(text.to_owned()) {
            return Err(format!("'{text}' is given twice"));
        }
        Ok(text.to_owned())
    });
    read.map(|read| read.value).unwrap_or_default()
}

/// The hosts that report, each once.
fn nodes(section: &Section<'_, '_>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let read = section.texts("nodes", |text| {
        let name = parse_site_name(text)?;
        match seen.insert(name.clone()) {
            true => Ok(name),
            false => Err(format!("'{text}' is given twice")),
        }
    });
    read.map(|read| read.value).unwrap_or_default()
}

fn settings(
    section: &Section<'_, '_>,
    policies: &[String],
) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let Some((table, at)) = section.any_table("settings") else { return all };
    for (name, value) in table {
        let at = section.below(&at, name);
        let Some(of_one) = value.get_ref().as_table() else {
            let what = format!("a table is wanted, this is {}", kind(value.get_ref()));
            section.reader.fault(&at, what);
            continue;
        };
        let name: &str = name.get_ref();
        if !policies.iter().any(|policy| policy == name) {
            section.reader.fault(&at, format!("'{name}' is none of the policies of this share"));
        }
        let mut read = BTreeMap::new();
        for (key, value) in of_one {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Boolean(flag) => flag.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
                other => {
                    let what = format!(
                        "a text, a decimal number, or true or false is wanted, this is {}",
                        kind(other)
                    );
                    section.reader.fault(&section.below(&at, key), what);
                    continue;
                }
            };
            read.insert(key.get_ref().to_string(), text);
        }
        all.insert(name.to_owned(), read);
    }
    all
}

fn hooks(section: &Section<'_, '_>) -> Hooks {
    const TIMEOUT: Duration = Duration::from_secs(300);
    let none = Hooks { start: Vec::new(), stop: Vec::new(), probe: Vec::new(), timeout: TIMEOUT };
    let Some(table) = section.table("hooks", keys("share.hooks")) else { return none };
    let command = |name: &str| {
        let mut is_first = true;
        let read = table.texts(name, |text| {
            let first = std::mem::take(&mut is_first);
            if text.contains('\0') || (first && !Path::new(text).is_absolute()) {
                return Err(format!("'{text}': a program is named by an absolute path"));
            }
            Ok(text.to_owned())
        });
        read.map(|read| read.value).unwrap_or_default()
    };
    Hooks {
        start: command("start"),
        stop: command("stop"),
        probe: command("probe"),
        timeout: duration(&table, "timeout", TIMEOUT, SECOND..=DAY),
    }
}

fn history(section: &Section<'_, '_>, role: Option<Role>) -> History {
    const DAYS: u32 = 14;
    const DAYS_MAX: i64 = 3_650;
    let Some(table) = section.table("history", keys("share.history")) else {
        return History { days: DAYS, size: None };
    };
    let days = table.number("days", 0..=DAYS_MAX);
    if let (Some(Read { value: 0, at }), Some(Role::Standby)) = (&days, role) {
        let what = "a standby that keeps no former version cannot undo what was damaged at the active \
                    site and replicated; give at least 1";
        section.reader.fault(at, what);
    }
    let size = table.text("size", |text| match parse_size(text) {
        Ok(0) => Err("'0' keeps nothing; for no limit leave the key out".to_owned()),
        parsed => parsed.map_err(|e| e.to_string()),
    });
    let days = days.and_then(|days| u32::try_from(days.value).ok()).unwrap_or(DAYS);
    History { days, size: size.map(|read| read.value) }
}

fn brake(section: &Section<'_, '_>) -> Brake {
    let default = Brake::default();
    let Some(table) = section.table("brake", keys("share.brake")) else { return default };
    let count = |name: &str, least: i64, default: u64| {
        let read = table.number(name, least..=i64::MAX);
        read.and_then(|n| u64::try_from(n.value).ok()).unwrap_or(default)
    };
    let percent = |name: &str, default: u8| {
        let read = table.number(name, 0..=100);
        read.and_then(|n| u8::try_from(n.value).ok()).unwrap_or(default)
    };
    let canaries = table.texts("canaries", parse_path);
    let mut purges = Vec::new();
    for window in table.tables("purges", keys("share.brake.purges")) {
        let at = required(&window, "at", "when it begins", |n| window.text(n, parse_purge_begin));
        let length = required(&window, "for", "how long it lasts", |_| {
            Some(duration(&window, "for", HOUR, MINUTE..=DAY))
        });
        let Some((at, length)) = at.zip(length) else { continue };
        purges.push(Purge { at: at.value, length });
    }
    Brake {
        entries: count("entries", 0, default.entries),
        percent: percent("percent", default.percent),
        account_entries: count("account_entries", 0, default.account_entries),
        account_percent: percent("account_percent", default.account_percent),
        rewrite_percent: percent("rewrite_percent", default.rewrite_percent),
        encrypted: count("encrypted", 0, default.encrypted),
        appended: count("appended", 0, default.appended),
        renamed: count("renamed", 0, default.renamed),
        note_directories: count("note_directories", 0, default.note_directories),
        spread: count("spread", 1, default.spread),
        window: duration(&table, "window", default.window, MINUTE..=7 * DAY),
        canaries: canaries.map(|read| read.value).unwrap_or_default(),
        purges,
    }
}

fn priority(section: &Section<'_, '_>) -> Priority {
    let Some(table) = section.table("priority", keys("share.priority")) else {
        return Priority::default();
    };
    let mut seen = BTreeSet::new();
    let mut patterns = |name: &str| {
        let read = table.texts(name, |text| {
            if let Err(e) = Glob::new(text.as_bytes()) {
                return Err(format!("'{text}' is no pattern of an account's path: {e}"));
            }
            match seen.insert(text.to_owned()) {
                true => Ok(text.to_owned()),
                false => Err(format!("'{text}' is given twice")),
            }
        });
        read.map(|read| read.value).unwrap_or_default()
    };
    Priority { high: patterns("high"), low: patterns("low") }
}

fn parse_purge_begin(text: &str) -> Result<TimeOfDay, String> {
    let time = parse_time(text)?;
    if time.minutes() < 1_440 { Ok(time) } else { Err("'24:00' is 00:00 of the next day".into()) }
}

/// A path below a share's root, not the root.
fn parse_path(text: &str) -> Result<RelPath, String> {
    match RelPath::new(text.as_bytes()) {
        Ok(path) if !path.is_root() => Ok(path),
        Ok(_) => Err("an empty path".to_owned()),
        Err(e) => Err(format!("'{text}' is no path below the share: {e}")),
    }
}

/// An absolute path without `.` and `..`, so that paths can be compared as they are written.
fn parse_folder(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("'{text}' is no absolute path"));
    }
    if text.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("'{text}': a path without '..' is wanted"));
    }
    // Takes out doubled slashes and dots.
    Ok(path.components().collect())
}

fn check_between(
    reader: &Reader<'_>,
    top: &Section<'_, '_>,
    site: Option<&Site>,
    peer: Option<&Peer>,
) {
    let (Some(site), Some(peer)) = (site, peer) else { return };
    let line = top.value("peer").map_or(1, |(_, at)| at.line);
    let fault = |key: &str, what: &str| reader.fault(&At { line, key: key.into() }, what);
    // A wrong one was told where it stands.
    let has = |table: &str, key: &str| {
        let table = top.table_untold(table);
        table.is_some_and(|table| table.keys().any(|k| k.get_ref() == key))
    };
    if !has("site", "listen") && !has("peer", "dial") {
        fault("peer", "give peer.dial, or site.listen for the peer to dial in: they cannot meet");
    }
    if site.name == peer.name {
        fault("peer.name", "the two sites have one name");
    }
}

/// A node is neither of the two sites: its key must not be taken for one of theirs.
fn check_nodes(reader: &Reader<'_>, site: Option<&Site>, peer: Option<&Peer>, shares: &[Placed]) {
    let sites = [site.map(|site| &site.name), peer.map(|peer| &peer.name)];
    for share in shares.iter().filter_map(|placed| placed.share.as_ref().zip(placed.name.as_ref()))
    {
        let (share, Read { at, .. }) = share;
        for node in share.nodes.iter().filter(|node| sites.contains(&Some(*node))) {
            let at = At { line: at.line, key: format!("share.{}.nodes", share.name) };
            reader.fault(&at, format!("'{node}' is the name of a site, not of a node"));
        }
    }
}

fn check_shares(reader: &Reader<'_>, site: Option<&Site>, shares: &[Placed]) {
    let mut names = BTreeMap::new();
    let mut paths: Vec<(&Path, usize)> = Vec::new();
    for share in shares {
        if let Some(Read { value, at }) = &share.name {
            let at = At { line: at.line, key: format!("share.{value}.name") };
            match names.get(value.as_str()) {
                Some(line) => {
                    reader.fault(&at, format!("the share of line {line} has that name already"));
                }
                None => drop(names.insert(value.as_str(), at.line)),
            }
        }
        let Some(Read { value: path, at }) = &share.path else { continue };
        if let Some(site) = site {
            let how = if site.state.starts_with(path) {
                "the state folder lies in it"
            } else if path.starts_with(&site.state) {
                "it lies in the state folder"
            } else {
                ""
            };
            if !how.is_empty() {
                reader.fault(at, format!("{}: {how} {}", path.display(), site.state.display()));
            }
        }
        let overlapping =
            |other: &&(&Path, usize)| path.starts_with(other.0) || other.0.starts_with(path);
        if let Some((other, line)) = paths.iter().find(overlapping) {
            let what = format!(
                "{} and {} of line {line} are one folder or lie within each other",
                path.display(),
                other.display()
            );
            reader.fault(at, what);
        }
        paths.push((path, at.line));
    }
}
