//! The guard: a source that is empty, replaced, or changed en masse, and a target that lost everything,
//! hold the run before its first change.
//!
//! Pure: it is given counts and identities, and answers with a reason to hold or none. It holds
//! until an operator approves; nothing has been changed at the target by then. A policy that failed holds
//! it too where the site wants that.

use crate::policy::Faults;

/// What tells one root directory from another on the same mount point: an unmounted share shows the
/// empty directory below the mount, another file system shows another root inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootIdentity {
    /// Inode number of the root directory.
    pub inode: u64,
    /// File system magic number, as statfs reports it.
    pub file_system: u64,
}

/// The mass-change threshold: a run that would delete, or rewrite, more than both holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// So many entries are never a mass change.
    pub entries: u64,
    /// Percent of what the recovery point holds that are never a mass change.
    pub percent: u8,
}

impl Default for Threshold {
    fn default() -> Self {
        Self { entries: 1_000, percent: 10 }
    }
}

/// What a scan found, before anything is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Entries at the target as the catalog has them, the root not counted.
    pub known: u64,
    /// Entries the scan found, the root not counted.
    pub found: u64,
    /// Entries to be deleted.
    pub deleted: u64,
    /// Known files whose content or kind changed.
    pub rewritten: u64,
}

/// What is known of the target before anything is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// No earlier run joined this source and this very tree.
    pub first_contact: bool,
    /// Entries of the last recovery point; 0 when there is none.
    pub proven: u64,
}

/// Why a run is held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// The source's root is not the directory of the last run.
    #[error(
        "the source root is another directory than at the last run (inode {found}, was {expected}): \
         is the share mounted?"
    )]
    RootReplaced {
        /// Inode at the last run.
        expected: u64,
        /// Inode now.
        found: u64,
    },
    /// Nothing is left at the source.
    #[error("the source is empty, the target holds {known} entries: is the share mounted?")]
    RootEmptied {
        /// Entries at the target.
        known: u64,
    },
    /// Too much would be deleted.
    #[error(
        "{deleted} of {known} entries would be deleted, more than {} entries and {} %",
        threshold.entries, threshold.percent
    )]
    MassDelete {
        /// Entries to be deleted.
        deleted: u64,
        /// Entries at the target.
        known: u64,
        /// The threshold broken.
        threshold: Threshold,
    },
    /// Too much would be rewritten.
    #[error(
        "{rewritten} of {known} entries would be rewritten, more than {} entries and {} %",
        threshold.entries, threshold.percent
    )]
    MassRewrite {
        /// Entries to be rewritten.
        rewritten: u64,
        /// Entries at the target.
        known: u64,
        /// The threshold broken.
        threshold: Threshold,
    },
    /// The target lost all that was proven to be there.
    #[error(
        "the target is empty, the last recovery point there has {proven} entries: is it mounted?"
    )]
    TargetEmptied {
        /// Entries of the last recovery point.
        proven: u64,
    },
    /// A policy failed, and the site wants such cuts held.
    #[error(
        "a policy had no answer about {count} {}, and such cuts are to be held; the first: {first}",
        if *count == 1 { "entry" } else { "entries" }
    )]
    PolicyFaults {
        /// Entries without an answer.
        count: u64,
        /// The first of them, and what happened.
        first: String,
    },
    /// The target has entries the source lacks, and no run has joined the two before.
    #[error(
        "the target was not made from this source, and {deleted} of its {known} entries are not at \
         the source: they would be deleted"
    )]
    UnknownTarget {
        /// Entries to be deleted.
        deleted: u64,
        /// Entries at the target.
        known: u64,
    },
}

/// Whether to hold.
#[must_use]
pub fn judge(
    expected: Option<RootIdentity>,
    found: RootIdentity,
    tally: Tally,
    threshold: Threshold,
    target: Target,
) -> Option<Hold> {
    if let Some(expected) = expected.filter(|&e| e != found) {
        return Some(Hold::RootReplaced { expected: expected.inode, found: found.inode });
    }
    let Tally { known, found: present, deleted, rewritten } = tally;
    if present == 0 && deleted > 0 {
        return Some(Hold::RootEmptied { known });
    }
    if known == 0 && present > 0 && target.proven > 0 {
        return Some(Hold::TargetEmptied { proven: target.proven });
    }
    if target.first_contact && deleted > 0 {
        return Some(Hold::UnknownTarget { deleted, known });
    }
    let mass = |count: u64| {
        count > threshold.entries
            && u128::from(count) * 100 > u128::from(known) * u128::from(threshold.percent)
    };
    if mass(deleted) {
        return Some(Hold::MassDelete { deleted, known, threshold });
    }
    // Half the tree rewritten is ransomware's shape; the delete threshold would hold monthly runs.
    if rewritten > threshold.entries && rewritten > known / 2 {
        return Some(Hold::MassRewrite {
            rewritten,
            known,
            threshold: Threshold { percent: 50, ..threshold },
        });
    }
    None
}

/// Whether to hold because a policy failed whose faults are to hold; those of others are not counted.
#[must_use]
pub fn judge_faults(faults: &Faults) -> Option<Hold> {
    let held = faults.hold.as_ref()?;
    let first = format!("{}: {}", held.first.path, held.first.text);
    Some(Hold::PolicyFaults { count: held.count, first })
}

#[cfg(test)]
mod tests {
    use crate::path::RelPath;
    use crate::policy::{Fault, HeldFaults};

    use super::*;

    const ROOT: RootIdentity = RootIdentity { inode: 2, file_system: 0xef53 };

    fn judged(tally: Tally, first_contact: bool) -> Option<Hold> {
        let target = Target { first_contact, proven: 0 };
        judge(Some(ROOT), ROOT, tally, Threshold::default(), target)
    }

    #[test]
    fn a_quiet_run_passes() {
        let tally = Tally { known: 20_000, found: 20_000, deleted: 900, rewritten: 5_000 };
        assert_eq!(judged(tally, false), None);
        let tally = Tally { known: 20_000, found: 18_500, deleted: 1_500, rewritten: 0 };
        assert_eq!(judged(tally, false), None, "above 1,000 entries, below 10 %");
    }

    #[test]
    fn a_policy_that_failed_holds_where_the_site_wants_it() {
        let fault = |path: &str, text: &str| {
            let path = RelPath::new(path.as_bytes()).expect("a path");
            Fault { path, text: text.into() }
        };
        // Another policy's fault is the first, and is none that holds.
        let first = vec![fault("a", "policy lax trapped"), fault("b", "policy strict trapped")];
        let hold = Some(HeldFaults { count: 1, first: first[1].clone() });
        let faults = Faults { count: 3, first, hold };
        let held = judge_faults(&faults).expect("held").to_string();
        assert!(held.contains("about 1 entry") && held.contains("b: policy strict"), "{held}");
        assert!(!held.contains("lax"), "{held}");
        assert_eq!(judge_faults(&Faults { hold: None, ..faults }), None);
    }

    #[test]
    fn mass_changes_hold() {
        let tally = Tally { known: 5_000, found: 3_999, deleted: 1_001, rewritten: 0 };
        assert!(matches!(judged(tally, false), Some(Hold::MassDelete { deleted: 1_001, .. })));
        let tally = Tally { known: 5_000, found: 5_000, deleted: 0, rewritten: 2_501 };
        assert!(matches!(judged(tally, false), Some(Hold::MassRewrite { .. })));
    }

    #[test]
    fn an_emptied_or_replaced_root_holds_however_small() {
        let tally = Tally { known: 3, found: 0, deleted: 3, rewritten: 0 };
        assert_eq!(judged(tally, false), Some(Hold::RootEmptied { known: 3 }));
        let other = RootIdentity { inode: 3, ..ROOT };
        let target = Target { first_contact: false, proven: 3 };
        let hold = judge(Some(ROOT), other, Tally::default(), Threshold::default(), target);
        assert_eq!(hold, Some(Hold::RootReplaced { expected: 2, found: 3 }));
    }

    #[test]
    fn an_emptied_target_holds_before_it_is_filled_again() {
        let emptied = Tally { known: 0, found: 10, deleted: 0, rewritten: 0 };
        let on = |tally, proven| {
            let target = Target { first_contact: true, proven };
            judge(Some(ROOT), ROOT, tally, Threshold::default(), target)
        };
        assert_eq!(on(emptied, 9), Some(Hold::TargetEmptied { proven: 9 }));
        assert_eq!(on(emptied, 0), None, "a first run, or one that never came to its end");
        assert_eq!(on(Tally { known: 1, ..emptied }, 9), None);
        assert_eq!(on(Tally { found: 0, ..emptied }, 9), None, "both are empty");
    }

    #[test]
    fn first_contact_deletes_nothing_unasked() {
        let tally = Tally { known: 10, found: 9, deleted: 1, rewritten: 0 };
        assert_eq!(judged(tally, true), Some(Hold::UnknownTarget { deleted: 1, known: 10 }));
        assert_eq!(judged(tally, false), None);
    }
}
