//! What travels by age, size, owner and name, from settings alone.
//!
//! For a site that wants a rule and no code. Nothing is set by default, and then everything travels.
//! In the order they are asked:
//!
//! | setting | files that | example |
//! |---|---|---|
//! | `include` | match travel, whatever comes below | `*.pay, /keep/**` |
//! | `defer-younger` | were written so shortly before the cut wait | `30s` |
//! | `exclude` | match stay behind | `*.iso, *~` |
//! | `exclude-older` | were last written longer ago stay behind | `90d` |
//! | `exclude-larger` | are larger stay behind | `4G` |
//! | `exclude-owners` | belong to one of these numeric owners stay behind | `1001, 1002` |
//! | `only-owners` | belong to anybody else stay behind | `2000` |
//!
//! All of it is about regular files. Directories travel, except one that a pattern of `exclude` with
//! a `/` at its end names: nothing below that is asked, so `include` does not reach into it.
//!
//! `defer-younger` waits for `*` unless `defer` names patterns. A file that is written all day does
//! not travel while it is that young: name what is known to be written once. A time more than
//! `defer-younger` after the cut was not set by a write and defers nothing.

use farshore_wasm_sdk::{
    Action, Entry, Exclude, GlobSet, Kind, Manifest, Policy, Settings, Timestamp, Verdict,
    export_policy,
};

/// The policy.
pub struct ByAgeSizeOwner {
    include: Patterns,
    defer: Option<(Patterns, Timestamp, Timestamp)>,
    exclude: Patterns,
    folders: Patterns,
    older: Option<(Timestamp, u32)>,
    larger: Option<(u64, u32)>,
    owners: Option<(Vec<u32>, u32)>,
    only_owners: Option<(Vec<u32>, u32)>,
}

/// Patterns, and the rule of the first.
struct Patterns {
    set: GlobSet,
    first: u32,
}

impl Patterns {
    /// Patterns for files.
    fn new(manifest: &mut Manifest, key: &str, patterns: &[String]) -> Result<Self, String> {
        match patterns.iter().find(|pattern| pattern.ends_with('/')) {
            Some(pattern) => Err(format!("{key}: '{pattern}' matches no file but directories")),
            None => Self::folders(manifest, key, patterns),
        }
    }

    /// Patterns for directories.
    fn folders(manifest: &mut Manifest, key: &str, patterns: &[String]) -> Result<Self, String> {
        let set = GlobSet::new(patterns).map_err(|why| format!("setting '{key}': {why}"))?;
        let first = u32::try_from(manifest.rules.len()).unwrap_or(u32::MAX);
        for pattern in patterns {
            manifest.rule(format!("{key} {pattern}"));
        }
        Ok(Self { set, first })
    }

    fn find(&self, entry: &Entry) -> Option<u32> {
        let index = self.set.find(entry)?;
        u32::try_from(index).ok()?.checked_add(self.first)
    }
}

impl Policy for ByAgeSizeOwner {
    fn configure(settings: &mut Settings, at: Timestamp) -> Result<(Self, Manifest), String> {
        let mut manifest = Manifest::new("by-age-size-owner", env!("CARGO_PKG_VERSION"));
        let m = &mut manifest;
        let include = Patterns::new(m, "include", &settings.list("include", &[])?)?;

        let patterns = settings.list("defer", &[])?;
        let younger = (settings.text("defer-younger"), settings.age("defer-younger")?);
        let defer = match younger {
            (Some(text), Some(age)) => {
                let key = format!("defer-younger {text}");
                let patterns = if patterns.is_empty() { vec!["*".to_owned()] } else { patterns };
                Some((Patterns::new(m, &key, &patterns)?, at.before(age), at.after(age)))
            }
            _ if patterns.is_empty() => None,
            _ => return Err("setting 'defer' needs 'defer-younger'".to_owned()),
        };

        let is_folder = |pattern: &String| pattern.ends_with('/');
        let (folders, files): (Vec<_>, Vec<_>) =
            settings.list("exclude", &[])?.into_iter().partition(is_folder);
        let exclude = Patterns::new(m, "exclude", &files)?;
        let folders = Patterns::folders(m, "exclude", &folders)?;
        let mut rule =
            |key: &str, text: Option<String>| m.rule(format!("{key} {}", text.unwrap_or_default()));
        let age = settings.age("exclude-older")?;
        let older =
            age.map(|age| (at.before(age), rule("exclude-older", settings.text("exclude-older"))));
        let size = settings.size("exclude-larger")?;
        let larger =
            size.map(|size| (size, rule("exclude-larger", settings.text("exclude-larger"))));
        let mut owners = |key: &'static str| -> Result<Option<(Vec<u32>, u32)>, String> {
            let owners = owners(key, &settings.list(key, &[])?)?;
            Ok((!owners.is_empty()).then(|| (owners, rule(key, settings.text(key)))))
        };
        let (owners, only_owners) = (owners("exclude-owners")?, owners("only-owners")?);
        Ok((
            Self { include, defer, exclude, folders, older, larger, owners, only_owners },
            manifest,
        ))
    }
}

/// Numeric owners; names differ between sites.
fn owners(key: &str, texts: &[String]) -> Result<Vec<u32>, String> {
    let owner = |text: &String| {
        let number = farshore_wasm_sdk::settings::parse_number(text).ok();
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| format!("setting '{key}': '{text}' is no numeric owner"))
    };
    texts.iter().map(owner).collect()
}

impl Exclude for ByAgeSizeOwner {
    fn exclude(&self, entry: &Entry) -> Verdict {
        match entry.kind {
            Kind::File => {}
            Kind::Directory => {
                let rule = self.folders.find(entry);
                return rule.map_or(Verdict::REPLICATE, exclude);
            }
            _ => return Verdict::REPLICATE,
        }
        if let Some(rule) = self.include.find(entry) {
            return Verdict::by_rule(Action::Replicate, rule);
        }
        if let Some((patterns, since, latest)) = &self.defer
            && entry.mtime > *since
            && entry.mtime <= *latest
            && let Some(rule) = patterns.find(entry)
        {
            return Verdict::by_rule(Action::Defer, rule);
        }
        let excluded = self.exclude.find(entry);
        let excluded = excluded.or_else(|| {
            let older = self.older.filter(|(since, _)| entry.mtime < *since).map(|(_, rule)| rule);
            older.or_else(|| {
                self.larger.filter(|(size, _)| entry.size > *size).map(|(_, rule)| rule)
            })
        });
        let excluded = excluded.or_else(|| match (&self.owners, &self.only_owners) {
            (Some((owners, rule)), _) if owners.contains(&entry.uid) => Some(*rule),
            (_, Some((owners, rule))) if !owners.contains(&entry.uid) => Some(*rule),
            _ => None,
        });
        excluded.map_or(Verdict::REPLICATE, exclude)
    }
}

fn exclude(rule: u32) -> Verdict {
    Verdict::by_rule(Action::Exclude, rule)
}

export_policy!(ByAgeSizeOwner: exclude);
