//! The types of `farshore:policy@1.0.0` as they cross into and out of a component, beside what they
//! are here.
//!
//! Guarantees: what goes in is borrowed, so that an entry costs no allocation on this side; what
//! comes out is bounded by the store's handover limit before it is taken, and is no more trusted
//! than that: whoever takes it checks it. The derives check every type against the component's when
//! it is loaded. Nothing here survives a crash.

#![allow(dead_code)] // the derives make variants from numbers

use farshore_core::conflict::{
    Class, Conflict, Decision, Outcome, OutcomeError, Piece, Side, Site, State, Version,
};
use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Verdict};
use wasmtime::component::{ComponentType, Lift, Lower};

mod entries;

pub(super) use entries::WitEntries;

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WitKind {
    #[component(name = "file")]
    File,
    #[component(name = "directory")]
    Directory,
    #[component(name = "symlink")]
    Symlink,
    #[component(name = "fifo")]
    Fifo,
    #[component(name = "socket")]
    Socket,
    #[component(name = "char-device")]
    CharDevice,
    #[component(name = "block-device")]
    BlockDevice,
}

#[derive(ComponentType, Lower, Lift, Clone, Copy)]
#[component(record)]
pub(super) struct WitTimestamp {
    seconds: i64,
    nanoseconds: u32,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub(super) struct WitEntry<'a> {
    path: &'a [u8],
    kind: WitKind,
    size: u64,
    mtime: WitTimestamp,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub(super) struct WitSetting<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a str,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WitManifest {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) rules: Vec<String>,
}

#[derive(ComponentType, Lift, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WitAction {
    #[component(name = "replicate")]
    Replicate,
    #[component(name = "exclude")]
    Exclude,
    #[component(name = "defer")]
    Defer,
}

#[derive(ComponentType, Lift, Clone, Copy)]
#[component(record)]
pub(super) struct WitVerdict {
    action: WitAction,
    rule: Option<u32>,
}

#[derive(ComponentType, Lift, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WitSource {
    #[component(name = "base")]
    Base,
    #[component(name = "production")]
    Production,
    #[component(name = "recovery")]
    Recovery,
}

#[derive(ComponentType, Lift, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WitSite {
    #[component(name = "production")]
    Production,
    #[component(name = "recovery")]
    Recovery,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub(super) struct WitVersion<'a> {
    entry: WitEntry<'a>,
    digest: Option<&'a [u8]>,
    #[component(name = "link-target")]
    link_target: Option<&'a [u8]>,
    #[component(name = "renamed-from")]
    renamed_from: Option<&'a [u8]>,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(variant)]
pub(super) enum WitState<'a> {
    #[component(name = "absent")]
    Absent,
    #[component(name = "deleted")]
    Deleted,
    #[component(name = "present")]
    Present(WitVersion<'a>),
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WitClass {
    #[component(name = "modify-modify")]
    ModifyModify,
    #[component(name = "modify-delete")]
    ModifyDelete,
    #[component(name = "create-create")]
    CreateCreate,
    #[component(name = "rename-rename")]
    RenameRename,
    #[component(name = "rename-modify")]
    RenameModify,
    #[component(name = "type-change")]
    TypeChange,
    #[component(name = "attributes-only")]
    AttributesOnly,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(record)]
pub(super) struct WitConflict<'a> {
    path: &'a [u8],
    class: WitClass,
    base: WitState<'a>,
    production: WitState<'a>,
    recovery: WitState<'a>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WitSpan {
    source: WitSource,
    offset: u64,
    length: u64,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum WitPiece {
    #[component(name = "copy")]
    Copy(WitSpan),
    #[component(name = "literal")]
    Literal(Vec<u8>),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WitMerged {
    attributes: WitSite,
    pieces: Vec<WitPiece>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WitBoth {
    renamed: WitSite,
    #[component(name = "new-path")]
    new_path: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum WitOutcome {
    #[component(name = "keep-production")]
    KeepProduction,
    #[component(name = "keep-recovery")]
    KeepRecovery,
    #[component(name = "keep-both")]
    KeepBoth(WitBoth),
    #[component(name = "merge")]
    Merge(WitMerged),
    #[component(name = "delete")]
    Delete,
    #[component(name = "hold")]
    Hold,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WitDecision {
    outcome: WitOutcome,
    rule: Option<u32>,
    reason: String,
}

#[derive(ComponentType, Lift, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WitLevel {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
pub(super) enum WitReadError {
    #[component(name = "unavailable")]
    Unavailable,
    #[component(name = "over-budget")]
    OverBudget(u64),
    #[component(name = "io")]
    Io(String),
}

impl From<EntryKind> for WitKind {
    fn from(kind: EntryKind) -> Self {
        match kind {
            EntryKind::File | EntryKind::HardLink => Self::File,
            EntryKind::Directory => Self::Directory,
            EntryKind::Symlink => Self::Symlink,
            EntryKind::Fifo => Self::Fifo,
            EntryKind::Socket => Self::Socket,
            EntryKind::CharDevice => Self::CharDevice,
            EntryKind::BlockDevice => Self::BlockDevice,
        }
    }
}

impl From<Timestamp> for WitTimestamp {
    fn from(at: Timestamp) -> Self {
        Self { seconds: at.seconds, nanoseconds: at.nanos }
    }
}

impl From<WitVerdict> for Verdict {
    fn from(verdict: WitVerdict) -> Self {
        let action = match verdict.action {
            WitAction::Replicate => Action::Replicate,
            WitAction::Exclude => Action::Exclude,
            WitAction::Defer => Action::Defer,
        };
        Self { action, rule: verdict.rule, is_fault: false }
    }
}

impl From<WitSource> for Side {
    fn from(source: WitSource) -> Self {
        match source {
            WitSource::Base => Self::Base,
            WitSource::Production => Self::Production,
            WitSource::Recovery => Self::Recovery,
        }
    }
}

impl From<WitSite> for Site {
    fn from(site: WitSite) -> Self {
        match site {
            WitSite::Production => Self::Production,
            WitSite::Recovery => Self::Recovery,
        }
    }
}

impl<'a> From<&'a Version> for WitVersion<'a> {
    fn from(version: &'a Version) -> Self {
        Self {
            entry: WitEntry {
                path: version.path.as_bytes(),
                kind: version.kind.into(),
                size: version.size,
                mtime: version.mtime.into(),
                mode: version.mode & 0o7777,
                uid: version.uid,
                gid: version.gid,
            },
            digest: version.digest.as_ref().map(|d| &d.0[..]),
            link_target: version.link_target.as_deref(),
            renamed_from: version.renamed_from.as_ref().map(RelPath::as_bytes),
        }
    }
}

impl<'a> From<&'a State> for WitState<'a> {
    fn from(state: &'a State) -> Self {
        match state {
            State::Absent => Self::Absent,
            State::Deleted => Self::Deleted,
            State::Present(version) => Self::Present(version.into()),
        }
    }
}

impl<'a> From<&'a Conflict> for WitConflict<'a> {
    fn from(conflict: &'a Conflict) -> Self {
        let class = match conflict.class {
            Class::ModifyModify => WitClass::ModifyModify,
            Class::ModifyDelete => WitClass::ModifyDelete,
            Class::CreateCreate => WitClass::CreateCreate,
            Class::RenameRename => WitClass::RenameRename,
            Class::RenameModify => WitClass::RenameModify,
            Class::TypeChange => WitClass::TypeChange,
            Class::AttributesOnly => WitClass::AttributesOnly,
        };
        Self {
            path: conflict.path.as_bytes(),
            class,
            base: (&conflict.base).into(),
            production: (&conflict.production).into(),
            recovery: (&conflict.recovery).into(),
        }
    }
}

impl TryFrom<WitDecision> for Decision {
    type Error = OutcomeError;

    fn try_from(decision: WitDecision) -> Result<Self, OutcomeError> {
        let outcome = match decision.outcome {
            WitOutcome::KeepProduction => Outcome::Keep(Site::Production),
            WitOutcome::KeepRecovery => Outcome::Keep(Site::Recovery),
            WitOutcome::KeepBoth(both) => Outcome::KeepBoth {
                renamed: both.renamed.into(),
                path: RelPath::new(both.new_path)?,
            },
            WitOutcome::Merge(merged) => Outcome::Merge {
                attributes: merged.attributes.into(),
                pieces: merged.pieces.into_iter().map(Piece::from).collect(),
            },
            WitOutcome::Delete => Outcome::Delete,
            WitOutcome::Hold => Outcome::Hold,
        };
        Ok(Self { outcome, rule: decision.rule, reason: decision.reason })
    }
}

impl From<WitPiece> for Piece {
    fn from(piece: WitPiece) -> Self {
        match piece {
            WitPiece::Copy(span) => {
                Self::Copy { side: span.source.into(), offset: span.offset, length: span.length }
            }
            WitPiece::Literal(bytes) => Self::Literal(bytes),
        }
    }
}
