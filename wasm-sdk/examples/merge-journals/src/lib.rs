//! Logs and journals that both sites appended to are merged; anything else is held for a person.
//!
//! After a failover production has the lines of its last minutes, which never travelled, and the
//! recovery site those since. A file is merged when its name says that it is appended to (`logs`, by
//! default `*.log` and `*.journal`), both sites have it under its path, and the bytes of the last
//! common recovery point are unchanged at both. The result is a recipe: what was common, then what
//! each site added. No line is dropped, not even one that both wrote alike: two lines may be two
//! events.
//!
//! Settings:
//!
//! - `logs`: patterns of names;
//! - `order`: `in-turn` (production's lines, then the recovery site's; the lines are not looked at)
//!   or `by-time` (by the time at the start of each line, see [`Order::ByTime`]);
//! - `attributes`: whose owner and mode the merged file gets, `recovery` unless told.
//!
//! The comparison reads the common part at both sites. One that is larger than half of the host's
//! read budget is held, and the reason says so.

use farshore_wasm_sdk::merge::{Order, append_only};
use farshore_wasm_sdk::{
    Class, Conflict, Contents, Decision, Entry, GlobSet, Manifest, Outcome, Policy, Resolve,
    Settings, Site, Source, Timestamp, export_policy,
};

/// The policy.
pub struct MergeJournals {
    logs: GlobSet,
    order: Order,
    attributes: Site,
}

const MERGED: u32 = 0;
const NOT_MERGED: u32 = 1;
const OTHER: u32 = 2;

impl Policy for MergeJournals {
    fn configure(settings: &mut Settings, _: Timestamp) -> Result<(Self, Manifest), String> {
        let logs = settings.list("logs", &["*.log", "*.journal"])?;
        let order =
            settings.choice("order", &[("in-turn", Order::InTurn), ("by-time", Order::ByTime)])?;
        let attributes = settings.choice(
            "attributes",
            &[("recovery", Site::Recovery), ("production", Site::Production)],
        )?;

        let mut manifest = Manifest::new("merge-journals", env!("CARGO_PKG_VERSION"));
        for rule in ["log merged", "log that is not merged", "no log"] {
            manifest.rule(rule);
        }
        let logs = GlobSet::new(&logs)?;
        Ok((Self { logs, order, attributes }, manifest))
    }
}

impl Resolve for MergeJournals {
    fn resolve(&self, conflict: &Conflict, contents: &dyn Contents) -> Decision {
        // The names of files; a directory of that name has no content to merge.
        if !self.logs.is_match(&Entry::file(conflict.path.clone(), 0)) {
            let reason = "its name is not that of a log";
            return Decision::by_rule(Outcome::Hold, OTHER, reason);
        }
        let held = |reason: &str| Decision::by_rule(Outcome::Hold, NOT_MERGED, reason);
        if !matches!(conflict.class, Class::ModifyModify | Class::CreateCreate) {
            return held("the sites did not both append to it");
        }
        let is_moved = [Source::Production, Source::Recovery].iter().any(|&source| {
            let version = conflict.state(source).version();
            version.is_some_and(|v| v.entry.path != conflict.path || v.renamed_from.is_some())
        });
        if is_moved {
            return held("a site renamed it");
        }
        match append_only(conflict, contents, self.order) {
            Ok(pieces) => {
                let added = |source| {
                    let base = conflict.size(Source::Base).unwrap_or(0);
                    conflict.size(source).unwrap_or(0).saturating_sub(base)
                };
                let (production, recovery) = (added(Source::Production), added(Source::Recovery));
                let reason = format!("production added {production} bytes, recovery {recovery}");
                let outcome = Outcome::Merge { attributes: self.attributes, pieces };
                Decision::by_rule(outcome, MERGED, reason)
            }
            Err(why) => held(&why.to_string()),
        }
    }
}

export_policy!(MergeJournals: resolve);
