//! A plan that cannot go on is taken back.
//!
//! Guarantees: at production every version that a plan moved aside is at its path again, the same inode, before anything
//! of the plan is forgotten; nothing takes the place of what somebody put there meanwhile. At recovery nothing is taken
//! back: services have worked with what was placed, and what it replaced is in the quarantine. See [`super`].

use farshore_core::conflict::Site;

use super::*;

/// What came of taking production's part back.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Undone {
    /// Versions that are at their paths again.
    pub back: u64,
    /// Paths that somebody else has now, the first of them: the plan's versions stay in the quarantine.
    pub late: Vec<RelPath>,
    /// How many there are.
    pub late_total: u64,
}

/// Takes production's part of a plan back.
///
/// # Errors
/// [`ApplyPlanError`]; the same call goes on.
pub fn undo_at_production<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
) -> Result<Undone> {
    let mut applying = Applying::open(storage, plan, folders, Site::Production)?;
    let mut undone = Undone::default();
    // What was moved aside is durable there before it has two names, and has two before it has one.
    storage.sync_all().map_err(own("making it durable"))?;
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        let path = &divergence.path;
        if !steps(&divergence).quarantine_production || !applying.is_kept(path)? {
            continue;
        }
        match applying.tree.bring_back(path).map_err(at(path, "bringing it back"))? {
            Put::Done => undone.back += 1,
            Put::Late | Put::InTheWay => applying.is_late(path),
        }
    }
    storage.sync_all().map_err(own("making it durable"))?;
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        let path = &divergence.path;
        if steps(&divergence).quarantine_production {
            let gone = applying.tree.let_go(path);
            gone.map_err(at(path, "taking its name in the quarantine away"))?;
        }
    }
    drop_laid_out(storage)?;
    // Folders in the quarantine in which nothing is any more.
    for divergence in (applying.plan)()? {
        let divergence = divergence?;
        if steps(&divergence).quarantine_production {
            applying.tree.remove_empty_above(&divergence.path);
        }
    }
    if applying.applied.late_total == 0 {
        match storage.unlink(&applying.quarantine, MANIFEST) {
            Err(e) if is_gone(&e) => {}
            done => done.map_err(own("removing the manifest"))?,
        }
        applying.forget_folders(folders)?;
    }
    storage.sync_all().map_err(own("making it durable"))?;
    undone.late = applying.applied.late;
    undone.late_total = applying.applied.late_total;
    Ok(undone)
}

/// Lets go of a plan at recovery: what is in the quarantine becomes files of its own. Whether the plan
/// was begun there; then its quarantine stays. What came goes when the caller has it that the plan cannot go on any more
/// ([`drop_laid_out`]): with it goes what was made and not placed, and nothing would say any more that it was not.
///
/// # Errors
/// [`ApplyPlanError`]; the same call goes on.
pub fn abandon_at_recovery<S: Storage>(
    storage: &S,
    plan: Plan<'_>,
    folders: &Folders,
) -> Result<bool> {
    let mut applying = Applying::open(storage, plan, folders, Site::Recovery)?;
    if applying.is_begun {
        applying.detach_all()?;
    } else {
        drop_laid_out(storage)?;
        applying.forget_folders(folders)?;
    }
    storage.sync_all().map_err(own("making it durable"))?;
    Ok(applying.is_begun)
}
