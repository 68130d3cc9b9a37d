//! How an entry changed, and what two changes of one path are to each other.

use super::Class;
use crate::conflict;
use crate::entry::{Entry, EntryKind, Metadata};

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Same,
    Created,
    Content,
    Deleted,
    Metadata,
    Kind,
}

/// What became of `before`. A directory's time changes with every name in it, and says nothing.
pub(super) fn how(before: Option<&Entry>, after: Option<&Entry>) -> How {
    match (before, after) {
        (None, None) => How::Same,
        (None, Some(_)) => How::Created,
        (Some(_), None) => How::Deleted,
        (Some(a), Some(b)) if a == b => How::Same,
        (Some(Entry::Directory { meta: a }), Some(Entry::Directory { meta: b })) => {
            let timeless = |m: &Metadata| Metadata { mtime: b.mtime, ..m.clone() };
            if timeless(a) == *b { How::Same } else { How::Metadata }
        }
        (Some(a), Some(b)) if a.same_but_metadata(b) => How::Metadata,
        (Some(a), Some(b)) if plain(a.kind()) == plain(b.kind()) => How::Content,
        _ => How::Kind,
    }
}

/// The kind; a further name of a file is a file.
pub(super) fn plain(kind: EntryKind) -> EntryKind {
    if kind == EntryKind::HardLink { EntryKind::File } else { kind }
}

/// The class of a path that production alone changed.
pub(super) fn by_production(how: How, is_renamed: bool) -> Class {
    match how {
        _ if is_renamed => Class::ProductionRenamed,
        How::Created => Class::ProductionCreated,
        How::Same | How::Content => Class::ProductionModified,
        How::Deleted => Class::ProductionDeleted,
        How::Metadata => Class::ProductionMetadata,
        How::Kind => Class::ProductionKind,
    }
}

/// The class of a path that recovery alone changed.
pub(super) fn by_recovery(how: How, is_renamed: bool) -> Class {
    match how {
        _ if is_renamed => Class::RecoveryRenamed,
        How::Created => Class::RecoveryCreated,
        How::Same | How::Content => Class::RecoveryModified,
        How::Deleted => Class::RecoveryDeleted,
        How::Metadata => Class::RecoveryMetadata,
        How::Kind => Class::RecoveryKind,
    }
}

/// The class of a path that both have as the other has it.
pub(super) fn alike(how: How, is_renamed: bool) -> Class {
    match how {
        _ if is_renamed => Class::BothRenamedAlike,
        How::Created => Class::BothCreatedAlike,
        How::Deleted => Class::BothDeleted,
        _ => Class::BothModifiedAlike,
    }
}

/// The class of a path that both changed, each where it is, and that is not the same now.
pub(super) fn apart(
    base: Option<&Entry>,
    production: Option<&Entry>,
    recovery: Option<&Entry>,
) -> Class {
    match (production, recovery) {
        (None, None) => Class::BothDeleted,
        (None, Some(_)) => Class::ProductionDeletedRecoveryModified,
        (Some(_), None) => Class::ProductionModifiedRecoveryDeleted,
        (Some(p), Some(r)) if p.same_but_metadata(r) => Class::BothMetadata,
        (Some(_), Some(_)) if base.is_none() => Class::BothCreated,
        (Some(p), Some(r)) if plain(p.kind()) != plain(r.kind()) => Class::BothKind,
        (Some(_), Some(_)) => Class::BothModified,
    }
}

/// What policies call a conflict of that class; `None` for what is none.
pub(super) fn asked_as(class: Class, is_kind: bool) -> Option<conflict::Class> {
    use conflict::Class as Asked;
    Some(match class {
        _ if is_kind => Asked::TypeChange,
        Class::BothModified => Asked::ModifyModify,
        Class::BothCreated => Asked::CreateCreate,
        Class::ProductionModifiedRecoveryDeleted | Class::ProductionDeletedRecoveryModified => {
            Asked::ModifyDelete
        }
        Class::BothRenamedApart => Asked::RenameRename,
        Class::ProductionRenamedRecoveryModified
        | Class::ProductionRenamedRecoveryDeleted
        | Class::ProductionModifiedRecoveryRenamed
        | Class::ProductionDeletedRecoveryRenamed => Asked::RenameModify,
        Class::BothKind => Asked::TypeChange,
        Class::BothMetadata => Asked::AttributesOnly,
        _ => return None,
    })
}
