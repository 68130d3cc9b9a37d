//! The policies of a share as the site's config names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::entry::Timestamp;
use farshore_core::policy::Policy;
use farshore_policies::{Policies, RuleSet};

use crate::exit::{Exit, Failure};
use crate::policy::library::Library;
use crate::site::config::Share;
use crate::state::State;

/// What decides about a share for a cut at `at`: the default rules, then the policies its config names.
///
/// # Errors
/// [`Failure`] naming the share and the policy.
pub fn in_force(share: &Share, state: &State, at: Timestamp) -> Result<Arc<dyn Policy>, Failure> {
    chain(share, state, at).map(|policies| policies as Arc<dyn Policy>)
}

/// The same, whom to ask about conflicts too.
///
/// # Errors
/// [`Failure`] naming the share and the policy.
pub fn chain(share: &Share, state: &State, at: Timestamp) -> Result<Arc<Policies>, Failure> {
    let named = |mut failure: Failure| {
        failure.message = format!("share '{}': {}", share.name, failure.message);
        failure
    };
    let none = BTreeMap::new();
    let mut configured = Vec::new();
    if !share.policies.is_empty() {
        let library = Library::open(state).map_err(named)?;
        for reference in &share.policies {
            let mut chosen = library.find(reference).map_err(named)?;
            let settings = share.settings.get(reference).unwrap_or(&none);
            chosen.settings.extend(settings.clone());
            configured.push(library.in_force(&chosen, at).map_err(named)?);
        }
    }
    let rules = RuleSet::builder(at).build();
    let policies = Policies::new(rules, configured);
    Ok(Arc::new(policies.map_err(|e| named(Failure::new(Exit::Refused, &e)))?))
}
