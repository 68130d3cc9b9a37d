//! What a snapshot says: the object of `farshore status --json`, documented in `docs/output.md`.
//!
//! Every text in it is safe to show: names are escaped when they are posted. Fields that a reader of another version
//! does not know are left out by it, fields it misses have their default.

use std::collections::BTreeMap;

use farshore_core::recovery_point::RecoveryPoint;
use serde::{Deserialize, Serialize};

use crate::report::utc;

/// Digits of a root digest that people compare.
const SHORT_DIGITS: usize = 8;

/// All that is known of a site at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteStatus {
    /// Name of this site.
    pub site: String,
    /// Of the daemon.
    pub version: String,
    /// When the daemon began.
    pub started_unix_ms: i64,
    /// When this was so.
    pub now_unix_ms: i64,
    /// What it comes to.
    pub verdict: Verdict,
    /// The other site.
    pub peer: PeerStatus,
    /// By name.
    pub shares: Vec<ShareStatus>,
    /// Threads of the daemon, those in a call on a mount first; at most 64.
    pub workers: Vec<WorkerStatus>,
}

/// Whether one could fail over now, and what that would cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// No share has a reason against it.
    pub ready: bool,
    /// In one sentence.
    pub text: String,
    /// Everything against it, each with its share.
    pub reasons: Vec<Reason>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// Empty: of the site.
    pub share: String,
    /// What.
    pub text: String,
}

/// The other site and the line to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Where it was last met, or is looked for.
    pub address: Option<String>,
    /// A share is replicated, or could be, now.
    pub connected: bool,
    /// It talks with us of roles now, which it does beside replication and without.
    pub answers: bool,
    /// It spoke, and nothing was heard for so long, whatever the connection says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
    /// Connected, or not, since.
    pub since_unix_ms: i64,
    /// How long that is, by a clock that does not jump.
    pub since_ms: u64,
    /// Why not.
    pub reason: Option<String>,
    /// When it is tried again.
    pub next_attempt_unix_ms: Option<i64>,
    /// Round trip.
    pub rtt_ms: Option<f64>,
    /// To it.
    pub sent: Traffic,
    /// From it.
    pub received: Traffic,
    /// Its clock against ours.
    pub clock: Option<ClockStatus>,
}

/// Bytes in one direction, as UDP payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Since the daemon began.
    pub bytes: u64,
    /// Bytes a second, over the last five.
    pub rate: u64,
    /// Bytes a second, over the last minute.
    pub minute_rate: u64,
}

/// An estimate of what the peer's clock shows more than ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockStatus {
    /// Its clock less ours.
    pub offset_ms: i64,
    /// The estimate may be wrong by this.
    pub uncertainty_ms: u64,
    /// It is more than a second off for certain: times of the two sites do not compare.
    pub warning: bool,
}

/// What a site does with a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is written here, and sent from here.
    #[default]
    Active,
    /// It is kept here, ready.
    Standby,
}

impl Role {
    /// As it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
        }
    }
}

/// Where a site stands in a share, as `farshore_core::role` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleStatus {
    /// The state: standby, active, draining, handed, opening, alone, stranded, reconciling or split.
    pub phase: String,
    /// In more words, where there is something to say.
    pub text: Option<String>,
    /// Whether services may work with the share here now.
    pub gate_open: bool,
    /// Why not.
    pub gate_text: Option<String>,
    /// The commands that change the role from here.
    pub next: Vec<String>,
    /// The other site's state, as it said last.
    pub peer_phase: Option<String>,
    /// The epoch it said.
    pub peer_epoch: Option<u64>,
}

/// What a share is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareState {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// The first connection after a start.
    Connecting,
    /// The first copy is being made.
    Seeding,
    /// The first whole look after a start: what happened while nobody watched is being found.
    Looking,
    /// Changes are on their way.
    Replicating,
    /// Everything known is there.
    Idle,
    /// The brake holds.
    Held,
    /// There was a connection, and will be.
    WaitingForPeer,
    /// What the share lies on is not mounted.
    MountGone,
    /// A call on its mount does not return. Never posted: the board sees it.
    Stalled,
    /// It was stopped.
    Stopped,
    /// It cannot go on; the text says why.
    Error,
}

impl ShareState {
    /// Each of them.
    pub const ALL: [Self; 12] = [
        Self::Starting,
        Self::Connecting,
        Self::Seeding,
        Self::Looking,
        Self::Replicating,
        Self::Idle,
        Self::Held,
        Self::WaitingForPeer,
        Self::MountGone,
        Self::Stalled,
        Self::Stopped,
        Self::Error,
    ];

    /// As in JSON and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Seeding => "seeding",
            Self::Looking => "looking",
            Self::Replicating => "replicating",
            Self::Idle => "idle",
            Self::Held => "held",
            Self::WaitingForPeer => "waiting-for-peer",
            Self::MountGone => "mount-gone",
            Self::Stalled => "stalled",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }

    /// As people read it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Seeding => "seeding: the first copy",
            Self::Looking => "looking: the first whole look since the start",
            Self::Held => "held by the brake",
            Self::WaitingForPeer => "waiting for the peer",
            Self::MountGone => "the mount is gone",
            other => other.name(),
        }
    }
}

/// All that is known of a share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShareStatus {
    /// Its name.
    pub name: String,
    /// Where it is mounted here.
    pub path: String,
    /// What this site does with it.
    pub role: Role,
    /// Rises with every change of role.
    pub epoch: u64,
    /// Where the site stands, and what may be done about it.
    pub roles: Option<RoleStatus>,
    /// What it is at.
    pub state: ShareState,
    /// In more words.
    pub state_text: Option<String>,
    /// Since when.
    pub state_since_unix_ms: i64,
    /// Nothing stands against a failover of it.
    pub ready: bool,
    /// What does.
    pub reasons: Vec<String>,
    /// What does not, and should be looked at.
    pub warnings: Vec<String>,
    /// Where the peer has it, as it said last.
    pub peer_path: Option<String>,
    /// The last recovery point, as this site has it.
    pub recovery_point: Option<PointStatus>,
    /// The same, as the peer said last.
    pub peer_recovery_point: Option<PointStatus>,
    /// How old the recovery point is, and was.
    pub lag: LagStatus,
    /// How old it may be.
    pub objective: ObjectiveStatus,
    /// Changes known of and not yet proven at the standby.
    pub at_risk: AtRisk,
    /// What the cut under way has left; null when none is.
    pub backlog: Option<Backlog>,
    /// How changes are learned of; active only.
    pub capture: Option<Capture>,
    /// What the brake holds; at a standby what that of the source does.
    pub holds: Vec<Hold>,
    /// How many there are, those that are not listed too.
    pub holds_total: u64,
    /// Its accounts.
    pub accounts: Accounts,
    /// Files on their way beside the cuts; active only.
    pub large_files: Vec<LargeFile>,
    /// Reading the standby byte by byte.
    pub scrub: Option<Scrub>,
    /// Former versions at the standby.
    pub history: Option<History>,
    /// What decides what travels.
    pub policy: Option<PolicySummary>,
    /// What could not be done.
    pub problems: Problems,
    /// What the standby's mount could not keep, by kind: entries.
    pub degraded: BTreeMap<String, u64>,
    /// What a standby sees.
    pub standby: Option<Standby>,
    /// Calls on its mount that do not return.
    pub stalls: Vec<Stall>,
}

/// A recovery point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointStatus {
    /// Counts from 1.
    pub sequence: u64,
    /// T, as text.
    pub time: String,
    /// T.
    pub time_unix_ms: i64,
    /// R, 64 hex digits.
    pub root: String,
    /// The first of them.
    pub root_short: String,
    /// Entries it covers.
    pub entries: u64,
    /// Bytes it covers.
    pub bytes: u64,
    /// Entries nobody vouches for.
    pub exceptions: u64,
}

impl From<&RecoveryPoint> for PointStatus {
    fn from(point: &RecoveryPoint) -> Self {
        let root = point.root.to_string();
        Self {
            sequence: point.sequence,
            time: utc(point.time_unix_ms),
            time_unix_ms: point.time_unix_ms,
            root_short: root.chars().take(SHORT_DIGITS).collect(),
            root,
            entries: point.entries,
            bytes: point.bytes,
            exceptions: point.exceptions,
        }
    }
}

/// Now less T. At a standby by the source's clock, as far as its offset is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LagStatus {
    /// Now; null without a recovery point.
    pub now_ms: Option<u64>,
    /// Over the last hour.
    pub hour: Option<LagHourStatus>,
}

/// Of the largest lag of each second of the last hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LagHourStatus {
    /// Half of them had no more.
    pub p50_ms: u64,
    /// 99 of 100 had no more.
    pub p99_ms: u64,
    /// None had more.
    pub max_ms: u64,
    /// How many seconds are known; less than 3,600 after a start.
    pub seconds: u64,
}

/// How the lag stands to what was promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveVerdict {
    /// Nothing was promised.
    #[default]
    None,
    /// And nothing says that it will not be.
    Kept,
    /// Kept, but not for long.
    Warning,
    /// The lag is over it.
    Broken,
}

/// The recovery point objective.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectiveStatus {
    /// The lag that is allowed.
    pub objective_ms: Option<u64>,
    /// Whether it is kept.
    pub verdict: ObjectiveVerdict,
    /// Forecast: it breaks in this time unless something changes.
    pub breaks_in_ms: Option<u64>,
    /// Why it is thought so.
    pub forecast: Option<String>,
}

/// What a number of changes known says of the changes there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Nothing: changes may have been missed, and the whole share is to be looked at.
    #[default]
    Unknown,
    /// There are no more; some may turn out to be none.
    AtMost,
    /// There may be more.
    AtLeast,
}

/// What would be lost if the active site were lost now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AtRisk {
    /// Entries that changed.
    pub files: u64,
    /// Their content; null: it is not known.
    pub bytes: Option<u64>,
    /// What the two numbers say.
    pub bound: Bound,
}

/// What a cut has left to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backlog {
    /// `connecting`, `scanning`, `comparing`, `replicating`, `sealing`.
    pub phase: String,
    /// Entries looked at.
    pub scanned: u64,
    /// Changes planned.
    pub changes: u64,
    /// Of those not dealt with.
    pub changes_left: u64,
    /// Bytes of content planned.
    pub bytes: u64,
    /// Of those not read.
    pub bytes_left: u64,
    /// Bytes read a second since the cut began.
    pub rate: u64,
    /// When all is done, if it goes on like that.
    pub eta_ms: Option<u64>,
    /// How long the cut takes so far.
    pub for_ms: u64,
}

/// How changes are learned of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capture {
    /// `fanotify`, `inotify`, or `none`: by looking alone.
    pub method: String,
    /// The part of the tree's directories that events come from.
    pub coverage_percent: f64,
    /// How far the whole look under way is.
    pub whole_look_percent: Option<f64>,
    /// When the last whole look that was completed began.
    pub last_look_unix_ms: Option<i64>,
    /// How long it took.
    pub last_look_took_ms: Option<u64>,
    /// How often events were lost and everything was looked at again.
    pub overflows: u64,
    /// How the sending end began: where it resumed, or why it looked at everything.
    pub start: String,
    /// How often everything was looked at, or begun to be, since then.
    pub whole_looks: u64,
    /// Entries looked at since then.
    pub looked_at: u64,
    /// Other nodes that report changes of this share.
    pub nodes: Vec<NodeStatus>,
}

/// A node that reports changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// When it last was.
    pub last_heard_unix_ms: Option<i64>,
    /// In a word.
    pub state: String,
}

/// Something the brake holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hold {
    /// By which it is approved: what was looked at is what is let pass.
    pub id: String,
    /// Empty: the share itself.
    pub account: String,
    /// Why.
    pub reasons: Vec<String>,
    /// How many of what: `removed`, `replaced`, ...
    pub counts: BTreeMap<String, u64>,
    /// Since when.
    pub since_unix_ms: i64,
    /// Sequence of the last recovery point before it: the last good one.
    pub last_good_point: Option<u64>,
    /// When an operator said that it must not pass.
    pub rejected_unix_ms: Option<i64>,
    /// Commands that end it.
    pub next: Vec<String>,
    /// T of the last recovery point in which what is held was whole.
    pub point_unix_ms: Option<i64>,
    /// The other site, if it is decided there.
    pub decided_at: Option<String>,
    /// At a standby: nothing is heard of the source, and this is as it was said last.
    pub stale: bool,
}

/// The accounts of a share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accounts {
    /// All of them.
    pub count: u64,
    /// Those with the oldest T, oldest first; at most 10.
    pub worst: Vec<AccountStatus>,
}

/// An account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountStatus {
    /// Its path below the share; empty: the share itself.
    pub account: String,
    /// Its T.
    pub time_unix_ms: i64,
    /// Now less T.
    pub lag_ms: u64,
    /// What it waits for; null where that is not known, as at a standby.
    pub why: Option<Why>,
    /// `high` or `low`; null for others, and at a standby.
    pub class: Option<String>,
}

/// A large file on its way beside the cuts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LargeFile {
    /// Its path below the share.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// Of those not sent.
    pub bytes_left: u64,
    /// Bytes a second since this attempt began.
    pub rate: u64,
    /// When it is there, if it goes on like that.
    pub eta_ms: Option<u64>,
}

/// What an account that is behind waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A decision: the brake holds it.
    Held,
    /// A large file of its own is on its way.
    LargeFile,
    /// Others go first.
    Turn,
}

impl Why {
    /// As people read it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Held => "is held",
            Self::LargeFile => "waits for a large file",
            Self::Turn => "waits for its turn",
        }
    }
}

/// Reading the standby byte by byte.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrub {
    /// No byte was read longer ago than this; null: some never were.
    pub oldest_verified_unix_ms: Option<i64>,
    /// Accounts that wait longest, oldest first, at most 10; without a time: never read.
    pub worst: Vec<ScrubAccount>,
    /// Of the pass under way.
    pub progress_percent: Option<f64>,
    /// Entries found damaged since the daemon began.
    pub found: u64,
    /// Of those mended.
    pub repaired: u64,
}

/// An account that waits to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubAccount {
    /// Its path below the share.
    pub account: String,
    /// When it was read to its end.
    pub verified_unix_ms: Option<i64>,
}

/// Former versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// They take.
    pub bytes: u64,
    /// What one batch displaced is a set.
    pub sets: u64,
    /// T of the oldest recovery point one can go back to.
    pub oldest_unix_ms: Option<i64>,
    /// And of the newest.
    pub newest_unix_ms: Option<i64>,
}

/// What decides what travels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicySummary {
    /// Of all of it.
    pub digest: String,
    /// Policies by name.
    pub names: Vec<String>,
    /// Entries left out that the standby keeps.
    pub detached: u64,
    /// Entries it had no answer about in the last cut.
    pub faults: u64,
}

/// What could not be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problems {
    /// Since the daemon began, each time it was met.
    pub total: u64,
    /// The newest that stand, newest first; at most 100.
    pub newest: Vec<Problem>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// Last met.
    pub time_unix_ms: i64,
    /// Empty: the share itself.
    pub account: String,
    /// What, and where.
    pub text: String,
    /// How often.
    pub times: u64,
}

/// What a standby sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standby {
    /// When the source last said anything of this share.
    pub last_heard_unix_ms: Option<i64>,
    /// Entries changed here by others.
    pub foreign_found: u64,
    /// Of those moved to quarantine.
    pub foreign_set_aside: u64,
    /// And made as they should be.
    pub foreign_repaired: u64,
}

/// A call on a mount that does not return.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stall {
    /// Which thread waits.
    pub worker: String,
    /// For what.
    pub call: String,
    /// Where; empty: the share itself.
    pub path: String,
    /// How long.
    pub for_ms: u64,
}

/// A thread of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// For which share it works.
    pub share: Option<String>,
    /// What it does.
    pub doing: String,
    /// Where.
    pub path: String,
    /// Whether that is a call on a mount.
    pub on_mount: bool,
    /// How long.
    pub for_ms: u64,
}
