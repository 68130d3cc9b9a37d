//! Built-in rules and sandboxed policies as one policy.
//!
//! Guarantees: the rules are asked first, then the policies in the order given; a policy is asked only
//! about what nobody before it decided; the first verdict with a rule, or with another action than to
//! replicate, decides, and a fault decides too: the path is replicated, whatever others would have
//! said. Rules are counted through. Refuses: two policies of one name, and more than
//! [`POLICIES_MAX`]. Nothing here survives a crash.

use farshore_core::policy::{
    Action, Candidate, Faults, HeldFaults, POLICIES_MAX, Policy, PolicySet, Verdict,
};

use crate::host::Configured;
use crate::rule_set::RuleSet;

/// Faults that are passed on with their text.
const FAULTS_KEPT: usize = 1_000;

/// Policies that cannot be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Too many.
    #[error("{0} policies, the limit is {POLICIES_MAX}")]
    TooMany(usize),
    /// Two of one name.
    #[error("two policies named {0}: give one another name")]
    Twice(String),
}

/// The rules, then the policies in order.
#[derive(Debug)]
pub struct Policies {
    rules: RuleSet,
    configured: Vec<Configured>,
    /// Where the rules of each begin in the whole list.
    firsts: Vec<u32>,
}

impl Policies {
    /// All of them as one.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn new(rules: RuleSet, configured: Vec<Configured>) -> Result<Self, ChainError> {
        if configured.len() > POLICIES_MAX {
            return Err(ChainError::TooMany(configured.len()));
        }
        let mut names: Vec<_> = configured.iter().map(|c| c.identity().name).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ChainError::Twice(pair[0].clone()));
        }
        let mut next = rules.iter().count();
        let firsts = configured.iter().map(|configured| {
            let first = next;
            next += configured.manifest().rules.len();
            u32::try_from(first).unwrap_or(u32::MAX) // both lists are bounded
        });
        let firsts = firsts.collect();
        Ok(Self { rules, configured, firsts })
    }

    /// The built-in rules.
    #[must_use]
    pub fn rule_set(&self) -> &RuleSet {
        &self.rules
    }

    /// The sandboxed policies in order.
    #[must_use]
    pub fn configured(&self) -> &[Configured] {
        &self.configured
    }
}

/// Whether nobody further is asked.
fn is_decided(verdict: &Verdict) -> bool {
    verdict.is_fault || verdict.rule.is_some() || verdict.action != Action::Replicate
}

impl Policy for Policies {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let mut verdicts = self.rules.exclude(candidates);
        let mut open: Vec<usize> =
            (0..verdicts.len()).filter(|&index| !is_decided(&verdicts[index])).collect();
        let mut asked = Vec::new();
        for (configured, first) in self.configured.iter().zip(&self.firsts) {
            if open.is_empty() {
                break;
            }
            if !configured.has_exclude() {
                continue;
            }
            let answers = if open.len() == candidates.len() {
                configured.exclude(candidates)
            } else {
                asked.clear();
                asked.extend(open.iter().map(|&index| candidates[index]));
                configured.exclude(&asked)
            };
            for (&index, mut answer) in open.iter().zip(answers) {
                answer.rule = answer.rule.map(|rule| rule.saturating_add(*first));
                verdicts[index] = answer;
            }
            open.retain(|&index| !is_decided(&verdicts[index]));
        }
        verdicts
    }

    fn may_concern(&self, at_root: bool, name: &[u8]) -> bool {
        self.configured.iter().any(Configured::has_exclude) || self.rules.may_concern(at_root, name)
    }

    fn rules(&self) -> Vec<String> {
        let mut all = self.rules.rules();
        for configured in &self.configured {
            let name = configured.identity().name;
            all.extend(configured.manifest().rules.iter().map(|rule| format!("{name}: {rule}")));
        }
        all
    }

    fn identity(&self) -> PolicySet {
        let policies = self.configured.iter().map(Configured::identity).collect();
        PolicySet { policies, ..self.rules.identity() }
    }

    fn take_faults(&self) -> Faults {
        let mut all = Faults::default();
        for configured in &self.configured {
            let faults = configured.take_faults();
            all.count += faults.count;
            all.hold = match (all.hold, faults.hold) {
                (Some(all), Some(more)) => {
                    Some(HeldFaults { count: all.count + more.count, ..all })
                }
                (all, more) => all.or(more),
            };
            let room = FAULTS_KEPT.saturating_sub(all.first.len());
            all.first.extend(faults.first.into_iter().take(room));
        }
        all
    }
}
