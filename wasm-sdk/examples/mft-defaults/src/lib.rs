//! Temporary names, markers, triggers and sandboxes of managed file transfer.
//!
//! What it does, in this order; every name is a setting:
//!
//! - Below `.stfs` names mean nothing: attributes must travel with their files, and a sandbox is
//!   persisted with its event. With `sandboxes = false` the directories `.stfs/objects` stay behind.
//! - **Markers** (`*.m_inproc*`) are excluded. At the other site one would prevent the resubmission
//!   of its file.
//! - **Uploads in flight** (`*.filepart`, `*.part`, `*.partial`, `*.tmp`, by which also the chunks
//!   `0.tmp`, `1.tmp` of a `COMB` upload) are deferred while they grow: while the last write is less
//!   than `settle` (10 minutes) before the cut.
//! - **Triggers** (`*.trigger`) are deferred until `trigger-age` (30 seconds) after they were written.
//!
//! Why a name alone does not hold a file back for ever: an upload that was given up, or a file that
//! somebody chose to call `report.tmp`, would never reach the other site, and nobody would see it.
//! Left alone for `settle` it travels under the name it has, which costs its bytes once and lets the
//! client resume at either site; the rename afterwards moves no data.
//!
//! Why no file with a final name is deferred, however young: one that is written all day would
//! never travel. The engine reads such a file again when it changed meanwhile.
//!
//! Why triggers wait: a look that passes a folder before the data come and another after the trigger
//! came has the trigger alone. A trigger that was written before the cut's time less `trigger-age`
//! was there, and its data before it, when the cut began to look; so the cut that has the trigger has
//! the data, if these had their final name, could be read, and the trigger has the time of its
//! writing. `trigger-age` covers the difference between the clocks that stamp files and the cut's.
//!
//! A time more than a minute after the cut was not set by a write, but by a client that keeps times.
//! It defers nothing, or the file would wait until that time comes.

use std::time::Duration;

use farshore_wasm_sdk::{
    Action, Entry, Exclude, GlobSet, Kind, Manifest, Policy, Settings, Timestamp, Verdict,
    export_policy,
};

/// How far a clock that stamps files may be ahead of the cut's.
const SKEW: Duration = Duration::from_secs(60);

/// The policy.
pub struct MftDefaults {
    /// Markers, then uploads, then triggers.
    names: GlobSet,
    /// What each pattern of `names` does.
    effects: Vec<Effect>,
    sandboxes: Option<u32>,
    /// Past this a time is not that of a write.
    latest: Timestamp,
}

struct Effect {
    action: Action,
    rule: u32,
    /// A file that was written after this is deferred.
    since: Timestamp,
}

impl Policy for MftDefaults {
    fn configure(settings: &mut Settings, at: Timestamp) -> Result<(Self, Manifest), String> {
        let markers = settings.list("markers", &["*.m_inproc*"])?;
        let uploads = settings.list("uploads", &["*.filepart", "*.part", "*.partial", "*.tmp"])?;
        let triggers = settings.list("triggers", &["*.trigger"])?;
        let settle = settings.age("settle")?.unwrap_or(Duration::from_secs(600));
        let trigger_age = settings.age("trigger-age")?.unwrap_or(Duration::from_secs(30));
        let keep_sandboxes = settings.switch("sandboxes", true)?;

        let mut manifest = Manifest::new("mft-defaults", env!("CARGO_PKG_VERSION"));
        let mut effects = Vec::new();
        let groups = [
            (&markers, Action::Exclude, Duration::ZERO, "marker"),
            (&uploads, Action::Defer, settle, "growing upload"),
            (&triggers, Action::Defer, trigger_age, "young trigger"),
        ];
        for (patterns, action, age, what) in groups {
            for pattern in patterns {
                let rule = manifest.rule(format!("{what} {pattern}"));
                effects.push(Effect { action, rule, since: at.before(age) });
            }
        }
        let names = GlobSet::new(markers.iter().chain(&uploads).chain(&triggers))?;
        let sandboxes = (!keep_sandboxes).then(|| manifest.rule("sandboxes .stfs/objects"));
        Ok((Self { names, effects, sandboxes, latest: at.after(SKEW) }, manifest))
    }
}

impl Exclude for MftDefaults {
    fn exclude(&self, entry: &Entry) -> Verdict {
        if entry.kind == Kind::Directory {
            return match self.sandboxes {
                Some(rule) if is_sandboxes(&entry.path) => Verdict::by_rule(Action::Exclude, rule),
                _ => Verdict::REPLICATE,
            };
        }
        if entry.kind != Kind::File {
            return Verdict::REPLICATE;
        }
        let Some(effect) = self.names.find(entry).and_then(|index| self.effects.get(index)) else {
            return Verdict::REPLICATE;
        };
        let is_over = effect.action == Action::Defer
            && (entry.mtime <= effect.since || entry.mtime > self.latest);
        if is_over || entry.parts().any(|part| part == b".stfs") {
            return Verdict::REPLICATE;
        }
        Verdict::by_rule(effect.action, effect.rule)
    }
}

fn is_sandboxes(path: &[u8]) -> bool {
    let rest = path.strip_suffix(b".stfs/objects");
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with(b"/"))
}

export_policy!(MftDefaults: exclude);
