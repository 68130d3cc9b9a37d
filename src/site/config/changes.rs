//! What a change of the configuration does to a running site.
//!
//! Guarantees that every difference of two configurations is listed once, with what it was and will
//! be; a key that this module does not know to be safe while running needs a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::values::show_duration;
use super::{Share, SiteConfig};

/// When a change is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// From the reload on.
    Live,
    /// From the next start on; until then the former value is.
    Restart,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, as `share.homes.objective`; `share.homes` for a share that comes or goes.
    pub key: String,
    /// What it was; empty for nothing.
    pub from: String,
    /// What it will be; empty for nothing.
    pub to: String,
    /// When.
    pub effect: Effect,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |value: &str| if value.is_empty() { "nothing".to_owned() } else { value.into() };
        write!(f, "{}: {} -> {}", self.key, shown(&self.from), shown(&self.to))?;
        match self.effect {
            Effect::Live => Ok(()),
            Effect::Restart => f.write_str(" (needs a restart)"),
        }
    }
}

/// Keys that take effect while the site runs; those of a share first.
const LIVE: [&str; 7] =
    ["objective", "scan", "settle", "brake", "priority", "bandwidth.limit", "bandwidth.timetable"];

/// `old` with those values of `new` that take effect while the site runs: what is in force from now on.
pub(super) fn in_force(old: &SiteConfig, new: &SiteConfig) -> SiteConfig {
    let share = |share: &Share| match new.share(&share.name) {
        None => share.clone(),
        Some(new) => Share {
            objective: new.objective,
            scan: new.scan,
            settle: new.settle,
            brake: new.brake.clone(),
            priority: new.priority.clone(),
            ..share.clone()
        },
    };
    SiteConfig {
        bandwidth: new.bandwidth.clone(),
        shares: old.shares.iter().map(share).collect(),
        ..old.clone()
    }
}

/// Values by share (empty for none) and key.
type Flat<'c> = BTreeMap<(&'c str, &'static str), String>;

pub(super) fn changes(old: &SiteConfig, new: &SiteConfig) -> Vec<Change> {
    let (before, after) = (flat(old), flat(new));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let changed = keys.into_iter().filter_map(|(share, key)| {
        let value = |map: &Flat<'_>| map.get(&(share, key)).cloned().unwrap_or_default();
        let (from, to) = (value(&before), value(&after));
        let comes_or_goes = old.share(share).is_some() != new.share(share).is_some();
        let name = match (share, key) {
            ("", key) => key.to_owned(),
            // A share that comes or goes is one change, not one for each of its keys.
            (share, "path") if comes_or_goes => format!("share.{share}"),
            _ if comes_or_goes => return None,
            (share, key) => format!("share.{share}.{key}"),
        };
        let live = LIVE.contains(&key) && !comes_or_goes;
        let effect = if live { Effect::Live } else { Effect::Restart };
        (from != to).then_some(Change { key: name, from, to, effect })
    });
    changed.collect()
}

fn flat(config: &SiteConfig) -> Flat<'_> {
    let (site, peer, bandwidth) = (&config.site, &config.peer, &config.bandwidth);
    let or_none = |value: Option<String>| value.unwrap_or_default();
    let slot = |slot: &super::Slot| {
        let limit = slot.limit.map_or("none".to_owned(), |limit| limit.to_string());
        format!("{}-{} {limit}", slot.from, slot.to)
    };
    let of_site = [
        ("site.name", site.name.clone()),
        ("site.state", site.state.display().to_string()),
        ("site.listen", or_none(site.listen.map(|a| a.to_string()))),
        ("site.metrics", or_none(site.metrics.map(|a| a.to_string()))),
        ("site.install_dirs", list(site.install_dirs.iter().map(|d| d.display()))),
        ("peer.name", peer.name.clone()),
        ("peer.dial", or_none(peer.dial.as_ref().map(|a| a.to_string()))),
        ("bandwidth.limit", or_none(bandwidth.limit.map(|n| n.to_string()))),
        ("bandwidth.timetable", list(bandwidth.timetable.iter().map(slot))),
    ];
    let of_site = of_site.into_iter().map(|(key, value)| (("", key), value));
    let of_shares = config.shares.iter().flat_map(|share| {
        of_share(share).into_iter().map(|(key, value)| ((share.name.as_str(), key), value))
    });
    of_site.chain(of_shares).collect()
}

fn list(items: impl Iterator<Item = impl fmt::Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn hooks(hooks: &super::Hooks) -> String {
    let commands = [("start", &hooks.start), ("stop", &hooks.stop), ("probe", &hooks.probe)];
    let set = commands.into_iter().filter(|(_, command)| !command.is_empty());
    let shown = list(set.map(|(name, command)| format!("{name}: {}", command.join(" "))));
    format!("{shown}; at most {}", show_duration(hooks.timeout))
}

fn priority(priority: &super::Priority) -> String {
    let classes = [("high", &priority.high), ("low", &priority.low)];
    let set = classes.into_iter().filter(|(_, patterns)| !patterns.is_empty());
    let shown = set.map(|(class, patterns)| format!("{class}: {}", patterns.join(", ")));
    shown.collect::<Vec<_>>().join("; ")
}

fn of_share(share: &Share) -> Vec<(&'static str, String)> {
    let rate = |limit: Option<u64>| limit.map(|n| n.to_string()).unwrap_or_default();
    let path =
        |path: &farshore_core::path::RelPath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    let settings = share.settings.iter().flat_map(|(policy, settings)| {
        settings.iter().map(move |(key, value)| format!("{policy}.{key} = {value}"))
    });
    let size = share.history.size.map_or("no limit".to_owned(), |size| size.to_string());
    let brake = &share.brake;
    let purges = brake.purges.iter();
    let purges = purges.map(|p| format!("{} for {}", p.at, show_duration(p.length)));
    let brake = format!(
        "{} entries, {} %; an account {} entries, {} %; rewritten {} %; encrypted {}, appended {}, \
         renamed {}, note_directories {}; spread {}; {}; canaries {}; purges {}",
        brake.entries,
        brake.percent,
        brake.account_entries,
        brake.account_percent,
        brake.rewrite_percent,
        brake.encrypted,
        brake.appended,
        brake.renamed,
        brake.note_directories,
        brake.spread,
        show_duration(brake.window),
        list(brake.canaries.iter().map(path)),
        list(purges),
    );
    vec![
        ("path", share.path.display().to_string()),
        ("role", share.role.to_string()),
        ("account_depth", share.account_depth.to_string()),
        ("policies", list(share.policies.iter())),
        ("settings", list(settings)),
        ("objective", show_duration(share.objective)),
        ("scan", show_duration(share.scan)),
        ("settle", show_duration(share.settle)),
        ("history", format!("{} days, {size}", share.history.days)),
        ("scrub", show_duration(share.scrub)),
        ("io_limit", rate(share.io_limit)),
        ("brake", brake),
        ("priority", priority(&share.priority)),
        ("nodes", list(share.nodes.iter())),
        ("hooks", hooks(&share.hooks)),
        ("lease", share.lease.map(show_duration).unwrap_or_default()),
        ("allow_protected", share.allow_protected.to_string()),
    ]
}

/// The keys of a share that are compared.
#[cfg(test)]
pub(super) fn share_keys(share: &Share) -> Vec<&'static str> {
    of_share(share).into_iter().map(|(key, _)| key).collect()
}
