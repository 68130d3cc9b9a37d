//! The options that put policies in force, in the order they were given.

use clap::{ArgMatches, Args};
use farshore_core::entry::Timestamp;
use farshore_policies::{OnFault, Policies, RuleSet};

use crate::exit::{Exit, Failure};
use crate::policy::library::{Library, parse_on_fault, parse_pair};
use crate::state::State;

use super::super::StateArgs;

/// Policies are asked in the order given, about what no rule decides; the first that decides is right.
#[derive(Debug, Args)]
pub(in crate::cli) struct PolicyOptions {
    /// A policy: a file (./NAME.wasm), or the name of an installed one or of one that comes with Farshore
    #[arg(long, value_name = "FILE|NAME")]
    policy: Vec<String>,
    /// A setting of the policy named before it
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    setting: Vec<(String, String)>,
    /// When a policy fails at a path: replicate it, or hold the run [default: what each was installed
    /// with, else replicate]
    #[arg(long, value_name = "WHAT", value_parser = parse_on_fault)]
    on_policy_fault: Option<OnFault>,
}

impl PolicyOptions {
    /// The rules, and the policies after them, for a cut at `at`.
    pub(in crate::cli) fn with(
        &self,
        rules: RuleSet,
        matches: &ArgMatches,
        state: &StateArgs,
        at: Timestamp,
    ) -> Result<Policies, Failure> {
        let together = |configured| {
            Policies::new(rules, configured).map_err(|e| {
                let hint = "name each policy once; another name: 'farshore policy install --name'";
                Failure::new(Exit::Usage, &e).hint(hint)
            })
        };
        let settings = self.settings(matches)?;
        if self.policy.is_empty() {
            if self.on_policy_fault.is_some() {
                let message = "option --on-policy-fault: no policy is named";
                return Err(Failure::usage(message, "name one with --policy, or leave it out"));
            }
            return together(Vec::new());
        }
        let state =
            State::open(state.state.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
        let library = Library::open(&state)?;
        let mut configured = Vec::new();
        for (reference, given) in self.policy.iter().zip(&settings) {
            let mut chosen = library.find(reference)?;
            chosen.settings.extend(super::settings_of(given)?);
            chosen.on_fault = self.on_policy_fault.unwrap_or(chosen.on_fault);
            let policy = library.in_force(&chosen, at)?;
            if !policy.has_exclude() {
                let message = format!(
                    "option --policy {}: it decides conflicts alone, about which no run asks yet",
                    chosen.reference
                );
                return Err(Failure::usage(message, "leave it out; failback will ask it"));
            }
            configured.push(policy);
        }
        together(configured)
    }

    /// The settings of each policy.
    fn settings(&self, matches: &ArgMatches) -> Result<Vec<Vec<(String, String)>>, Failure> {
        let indices = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
        let policies = indices("policy");
        let mut settings = vec![Vec::new(); self.policy.len()];
        for (at, pair) in indices("setting").into_iter().zip(&self.setting) {
            let before = policies.iter().filter(|policy| **policy < at).count();
            let Some(own) = before.checked_sub(1).and_then(|index| settings.get_mut(index)) else {
                let message =
                    format!("option --setting {}=...: no policy is named before it", pair.0);
                return Err(Failure::usage(message, "give it after the --policy it is for"));
            };
            own.push(pair.clone());
        }
        Ok(settings)
    }
}
