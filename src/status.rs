//! What is known of a pair without a run: its last recovery point, what decided about it, and what of the
//! target the source does not vouch for.
//!
//! Reads the source's catalog alone: it connects to nobody and looks at neither tree. Where no catalog is,
//! nothing is made; where one is, opening it mends what a crash left in it, and its file `pair` is
//! written again should it be missing. Busy while a run has the catalog.

use std::collections::BTreeMap;

use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_engine::catalog::{CatalogError, CatalogReader, CatalogRole, Detached};

use crate::exit::{Exit, Failure};
use crate::replicate::open_catalog;
use crate::state::{self, State};

/// What is known of a pair.
#[derive(Debug)]
pub struct Status {
    /// The last recovery point.
    pub point: Option<RecoveryPoint>,
    /// Which policies decided about it.
    pub policies: Option<PolicySet>,
    /// Entries that policies leave out and the target keeps, by rule.
    pub detached: BTreeMap<String, u64>,
    /// What the target's mount could not keep so far, by kind.
    pub degraded: BTreeMap<String, u64>,
}

/// The status of the pair that `parts` name; `each` is given every detached entry, in path order.
///
/// # Errors
/// [`Failure`]: no run of this pair was ever made with this state folder, or the catalog cannot be used.
pub fn of_pair(
    state: &State,
    parts: &[&[u8]],
    each: &mut dyn FnMut(&RelPath, &Detached),
) -> Result<Status, Failure> {
    let folder = state.catalog_folder(CatalogRole::Source, parts);
    if !folder.join("catalog.redb").exists() {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!(
                "state folder {}: it knows no run of this pair",
                state.folder().display()
            ),
            hint: Some("give SRC and DST as they were given to 'farshore replicate'".into()),
        });
    }
    let (catalog, folder) = open_catalog(state, CatalogRole::Source, parts)?;
    let read = catalog.reader().and_then(|reader| of_catalog(&reader, each));
    let status = read.map_err(|e| Failure::new(Exit::Refused, &e))?;
    Ok(Status { degraded: state::degraded(&folder), ..status })
}

fn of_catalog(
    reader: &CatalogReader,
    each: &mut dyn FnMut(&RelPath, &Detached),
) -> Result<Status, CatalogError> {
    let mut detached = BTreeMap::<String, u64>::new();
    for row in reader.detached()? {
        let (path, row) = row?;
        each(&path, &row);
        *detached.entry(row.rule).or_default() += 1;
    }
    let (point, policies) = (reader.recovery_point()?, reader.policies()?);
    Ok(Status { point, policies, detached, degraded: BTreeMap::new() })
}
