//! A person decides what becomes of paths of a plan.
//!
//! Guarantees: the next revision takes the plan's place as a whole or not at all; what is bound together is
//! decided together, and what cannot be carried out stays as it was and is named. Refuses a plan that is being
//! carried out.

use farshore_core::conflict::{Outcome, Site};
use farshore_core::failback::plan::{Edit, EditError, Edited, Filter, edit};

use super::*;

/// What a person decided.
pub(in crate::site::daemon) struct Decided<'a> {
    /// The plan's file.
    pub(in crate::site::daemon) plan: &'a Path,
    /// One path, or a pattern.
    pub(in crate::site::daemon) select: &'a str,
    /// By name.
    pub(in crate::site::daemon) outcome: &'a str,
    /// Why.
    pub(in crate::site::daemon) reason: &'a str,
    /// For both: what production's version is called from now on.
    pub(in crate::site::daemon) new_name: Option<&'a str>,
}

impl Decided<'_> {
    fn outcome(&self) -> Result<Outcome, Failure> {
        let outcome = match (self.outcome, self.new_name) {
            ("both", Some(name)) => {
                Outcome::KeepBoth { renamed: Site::Production, path: rel_path(name)? }
            }
            ("both", None) => {
                return Err(Failure::usage(
                    "both versions cannot stay under one name",
                    "give --new-name PATH: production's version gets it",
                ));
            }
            (_, Some(_)) => {
                return Err(Failure::usage(
                    "only with both something is renamed",
                    "leave --new-name out",
                ));
            }
            ("production", None) => Outcome::Keep(Site::Production),
            ("recovery", None) => Outcome::Keep(Site::Recovery),
            ("quarantine", None) => Outcome::Delete,
            ("hold", None) => Outcome::Hold,
            (other, None) => {
                return Err(Failure::usage(
                    format!("'{other}' is no outcome"),
                    "production, recovery, both, quarantine or hold",
                ));
            }
        };
        Ok(outcome)
    }
}

fn rel_path(text: &str) -> Result<RelPath, Failure> {
    let bytes = farshore_core::path::unescape(text).and_then(|bytes| RelPath::new(bytes).ok());
    bytes.ok_or_else(|| {
        Failure::usage(format!("'{text}' is no path below a share"), "give it as it is shown")
    })
}

impl Daemon {
    /// Writes the next revision of a plan in its place; of which share it is.
    pub(in crate::site::daemon) fn decide_failback(
        &self,
        decided: &Decided<'_>,
    ) -> Result<(String, Edited), Failure> {
        let file = decided.plan;
        let held = |text: &str| Failure {
            exit: Exit::Held,
            message: format!("plan {}: {text}", file.display()),
            hint: Some("farshore failback plan makes a new one".into()),
        };
        let outcome = decided.outcome()?;
        let one = rel_path(decided.select).ok();
        let pattern =
            Filter { glob: Some(decided.select.as_bytes().to_vec()), ..Filter::default() };
        let plan = read_plan(file)?;
        let (header, ..) = checked(&plan, file)?;
        let role = self.role(&header.share).ok_or_else(|| held("its share is not here"))?;
        let _turn = role.commanding.begin(&role.share, "failback decide", SHORTLY)?;
        let view = role.view().filter(is_alone);
        let view = view.ok_or_else(|| held("this site is not alone with a stranded one"))?;
        let share = self.share_of(role)?;
        if let Phase::Reconciling { plan, .. } = view.record.phase {
            return Err(self.is_under_way(&share.name, plan, "nothing can be decided meanwhile"));
        }
        let opened = self.open_for_plan(&share)?;
        let begun = is_begun(&*opened.storage, &folders_of(&header));
        if begun.map_err(|e| applying::failed(&e))? {
            return Err(held("it was begun here and given up"));
        }
        let reader = opened.catalog.reader().map_err(|e| crate::replicate::catalog_failure(&e))?;
        let base: &dyn BaseTree = if header.base.is_some() { &reader } else { &NoBase };
        let config = merge_config(header.base.is_some(), &share);
        let select = |divergence: &farshore_core::failback::Divergence| {
            one.as_ref() == Some(&divergence.path) || pattern.matches(divergence)
        };
        let asked = Edit {
            select: &select,
            outcome: &outcome,
            reason: decided.reason,
            base,
            config: &config,
        };
        let failed = |e: EditError| Failure {
            exit: Exit::Refused,
            message: format!("plan {}: {}", file.display(), farshore_engine::ingest::describe(&e)),
            hint: None,
        };
        let (revised, edited) = edit(&|| Ok(&*plan), Vec::new(), &asked).map_err(failed)?;
        if edited.changed == 0 && edited.refused.is_empty() {
            return Err(Failure::usage(
                format!("no path of the plan is meant by '{}'", decided.select),
                format!("farshore failback show --plan {} names them", file.display()),
            ));
        }
        if edited.changed > 0 {
            write_durably(file, &revised).map_err(|e| disk(file, &e))?;
        }
        Ok((share.name, edited))
    }
}
