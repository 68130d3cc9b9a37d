//! A snapshot as metrics. Each name is declared once, with its kind and what it means; what has no value has no
//! line.

use std::fmt::Write as _;

use crate::site::board::facts::{
    Bound, ObjectiveVerdict, Role, ShareState, ShareStatus, SiteStatus,
};

/// A metric: its name, whether it only grows, what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, with its unit.
    pub name: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// In a sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal $help:literal;)*) => {
        $(const $constant: Metric =
            Metric { name: $name, kind: kind::$kind, help: $help };)*
        /// All there are, in the order they are written.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

/// The two words of the format.
mod kind {
    pub(super) const GAUGE: &str = "gauge";
    pub(super) const COUNTER: &str = "counter";
}

metrics! {
    INFO GAUGE "farshore_info" "1, with the site, its peer and the version of the daemon.";
    START GAUGE "farshore_start_time_seconds" "When the daemon began, since 1970.";
    READY GAUGE "farshore_ready" "1 when nothing stands against a failover of any share.";
    CONNECTED GAUGE "farshore_peer_connected" "1 when there is a connection to the peer.";
    CONNECTION_AGE GAUGE "farshore_peer_state_seconds" "How long it is connected, or is not.";
    RTT GAUGE "farshore_peer_round_trip_seconds" "Round trip to the peer.";
    OFFSET GAUGE "farshore_peer_clock_offset_seconds" "What the peer's clock shows more than ours.";
    SENT COUNTER "farshore_link_sent_bytes_total" "UDP payload sent to the peer.";
    RECEIVED COUNTER "farshore_link_received_bytes_total" "UDP payload received from the peer.";
    SHARE_READY GAUGE "farshore_share_ready" "1 when nothing stands against a failover of the share.";
    ROLE GAUGE "farshore_share_active" "1 where the share is active, 0 where it is standby.";
    EPOCH GAUGE "farshore_share_epoch" "Rises with every change of role.";
    STATE GAUGE "farshore_share_state" "1 for the state the share is in, 0 for the others.";
    POINT GAUGE "farshore_recovery_point_sequence" "Number of the last recovery point.";
    POINT_TIME GAUGE "farshore_recovery_point_time_seconds" "Its time T, since 1970, by the source's clock.";
    POINT_ENTRIES GAUGE "farshore_recovery_point_entries" "Entries it covers.";
    POINT_BYTES GAUGE "farshore_recovery_point_bytes" "Bytes of content it covers.";
    EXCEPTIONS GAUGE "farshore_recovery_point_exceptions" "Entries nobody vouches for in it.";
    LAG GAUGE "farshore_lag_seconds" "Now less T.";
    LAG_HOUR GAUGE "farshore_lag_hour_seconds" "The lag over the last hour, by quantile of its seconds.";
    OBJECTIVE GAUGE "farshore_objective_seconds" "The lag that is allowed.";
    OBJECTIVE_STATE GAUGE "farshore_objective_state" "0: kept, 1: kept with a warning, 2: broken.";
    RISK_FILES GAUGE "farshore_at_risk_files" "Entries known to have changed and not proven at the standby.";
    RISK_BYTES GAUGE "farshore_at_risk_bytes" "Their content.";
    RISK_BOUND GAUGE "farshore_at_risk_complete" "1 when there are no more than those known.";
    BACKLOG GAUGE "farshore_backlog_changes" "Changes the cut under way has left.";
    BACKLOG_BYTES GAUGE "farshore_backlog_bytes" "Bytes of content it has left to read.";
    COVERAGE GAUGE "farshore_capture_coverage_ratio" "Part of the directories that events come from.";
    OVERFLOWS COUNTER "farshore_capture_overflows_total" "How often events were lost and all was looked at again.";
    LOOK GAUGE "farshore_whole_look_progress_ratio" "How far the whole look under way is.";
    LOOK_TIME GAUGE "farshore_whole_look_time_seconds" "When the last complete whole look began, since 1970.";
    LOOK_TOOK GAUGE "farshore_whole_look_duration_seconds" "How long it took.";
    NODE GAUGE "farshore_node_last_heard_time_seconds" "When a node last reported, since 1970.";
    HOLDS GAUGE "farshore_holds" "What the brake holds and an operator must look at; at a standby: what that of the source does.";
    HELD_TIME GAUGE "farshore_held_oldest_time_seconds" "The oldest T of what is held: the last point in which it was whole, since 1970.";
    ACCOUNTS GAUGE "farshore_accounts" "Accounts that the last point does not have as at its T: held, or waiting for a large file or for their turn.";
    STALLED GAUGE "farshore_stalled_seconds" "How long the longest call on the mount that does not return takes; 0 without one.";
    VERIFIED GAUGE "farshore_scrub_oldest_verified_time_seconds" "Every byte of the standby was read since then, since 1970.";
    SCRUB GAUGE "farshore_scrub_progress_ratio" "How far the scrub under way is.";
    SCRUB_FOUND COUNTER "farshore_scrub_found_total" "Entries it found damaged.";
    SCRUB_REPAIRED COUNTER "farshore_scrub_repaired_total" "Of those mended.";
    HISTORY GAUGE "farshore_history_bytes" "Content of former versions.";
    HISTORY_SETS GAUGE "farshore_history_sets" "Sets of former versions.";
    HISTORY_OLDEST GAUGE "farshore_history_oldest_time_seconds" "Time of the oldest recovery point one can go back to, since 1970.";
    DETACHED GAUGE "farshore_policy_detached_entries" "Entries policies leave out and the standby keeps.";
    POLICY_FAULTS GAUGE "farshore_policy_faults" "Entries a policy had no answer about in the last cut.";
    PROBLEMS COUNTER "farshore_problems_total" "Problems met, each time they are.";
    DEGRADED GAUGE "farshore_degraded_entries" "What the standby's mount could not keep, by kind.";
    HEARD GAUGE "farshore_source_last_heard_time_seconds" "At a standby: when the source last said anything, since 1970.";
    FOREIGN COUNTER "farshore_foreign_found_total" "At a standby: entries changed by others.";
    FOREIGN_ASIDE COUNTER "farshore_foreign_set_aside_total" "Of those moved to quarantine.";
    FOREIGN_REPAIRED COUNTER "farshore_foreign_repaired_total" "Of those made as they should be.";
}

/// Lines of one metric, under way.
struct Family<'a> {
    out: &'a mut String,
    metric: &'a Metric,
    begun: bool,
}

impl Family<'_> {
    fn put(&mut self, labels: &[(&str, &str)], value: impl Into<Option<f64>>) {
        let Some(value) = value.into() else { return };
        let Metric { name, kind, help } = self.metric;
        // Writing to a string does not fail.
        if !std::mem::replace(&mut self.begun, true) {
            write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").unwrap_or(());
        }
        self.out.push_str(name);
        for (n, (label, value)) in labels.iter().enumerate() {
            self.out.push(if n == 0 { '{' } else { ',' });
            write!(self.out, "{label}=\"{}\"", escaped(value)).unwrap_or(());
        }
        let end = if labels.is_empty() { " " } else { "} " };
        writeln!(self.out, "{end}{value}").unwrap_or(());
    }
}

/// A label's value: the format's own three escapes. Control characters were escaped when it was posted.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A snapshot in the text format of Prometheus, version 0.0.4.
#[must_use]
pub fn exposition(status: &SiteStatus) -> String {
    let mut out = String::new();
    for metric in METRICS {
        let mut family = Family { out: &mut out, metric, begun: false };
        if !of_site(&mut family, status) {
            for share in &status.shares {
                of_share(&mut family, share);
            }
        }
    }
    out
}

/// Whether it is one of the site's, and was written.
fn of_site(family: &mut Family<'_>, status: &SiteStatus) -> bool {
    let peer = &status.peer;
    let value = match *family.metric {
        INFO => {
            let labels =
                [("site", &*status.site), ("peer", &*peer.name), ("version", &*status.version)];
            family.put(&labels, 1.0);
            return true;
        }
        START => Some(seconds_at(status.started_unix_ms)),
        READY => Some(flag(status.verdict.ready)),
        CONNECTED => Some(flag(peer.connected)),
        CONNECTION_AGE => Some(seconds(peer.since_ms)),
        RTT => peer.rtt_ms.map(|ms| ms / 1_000.0),
        OFFSET => peer.clock.map(|clock| seconds_at(clock.offset_ms)),
        SENT => Some(number(peer.sent.bytes)),
        RECEIVED => Some(number(peer.received.bytes)),
        _ => return false,
    };
    family.put(&[], value);
    true
}

fn of_share(family: &mut Family<'_>, share: &ShareStatus) {
    let name = ("share", share.name.as_str());
    match *family.metric {
        STATE => {
            for state in ShareState::ALL {
                family.put(&[name, ("state", state.name())], flag(state == share.state));
            }
        }
        LAG_HOUR => {
            let Some(hour) = share.lag.hour else { return };
            for (quantile, ms) in [("0.5", hour.p50_ms), ("0.99", hour.p99_ms), ("1", hour.max_ms)]
            {
                family.put(&[name, ("quantile", quantile)], seconds(ms));
            }
        }
        NODE => {
            for node in share.capture.iter().flat_map(|capture| &capture.nodes) {
                let heard = node.last_heard_unix_ms.map(seconds_at);
                family.put(&[name, ("node", &node.name)], heard);
            }
        }
        DEGRADED => {
            for (kind, count) in &share.degraded {
                family.put(&[name, ("kind", kind)], number(*count));
            }
        }
        metric => {
            let value = main_value(&metric, share).or_else(|| part_value(&metric, share));
            family.put(&[name], value);
        }
    }
}

/// Of the recovery point and what belongs to it.
fn main_value(metric: &Metric, share: &ShareStatus) -> Option<f64> {
    let point = share.recovery_point.as_ref();
    let known = share.at_risk.bound != Bound::Unknown;
    match *metric {
        SHARE_READY => Some(flag(share.ready)),
        ROLE => Some(flag(share.role == Role::Active)),
        EPOCH => Some(number(share.epoch)),
        POINT => point.map(|point| number(point.sequence)),
        POINT_TIME => point.map(|point| seconds_at(point.time_unix_ms)),
        POINT_ENTRIES => point.map(|point| number(point.entries)),
        POINT_BYTES => point.map(|point| number(point.bytes)),
        EXCEPTIONS => point.map(|point| number(point.exceptions)),
        LAG => share.lag.now_ms.map(seconds),
        OBJECTIVE => share.objective.objective_ms.map(seconds),
        OBJECTIVE_STATE => match share.objective.verdict {
            ObjectiveVerdict::None => None,
            ObjectiveVerdict::Kept => Some(0.0),
            ObjectiveVerdict::Warning => Some(1.0),
            ObjectiveVerdict::Broken => Some(2.0),
        },
        RISK_FILES => known.then(|| number(share.at_risk.files)),
        RISK_BYTES => share.at_risk.bytes.filter(|_| known).map(number),
        RISK_BOUND => Some(flag(share.at_risk.bound == Bound::AtMost)),
        BACKLOG => Some(share.backlog.as_ref().map_or(0.0, |b| number(b.changes_left))),
        BACKLOG_BYTES => Some(share.backlog.as_ref().map_or(0.0, |b| number(b.bytes_left))),
        HOLDS => Some(number(share.holds_total)),
        HELD_TIME => oldest_held(share),
        ACCOUNTS => Some(number(share.accounts.count)),
        STALLED => {
            let longest = share.stalls.iter().map(|stall| stall.for_ms).max();
            Some(seconds(longest.unwrap_or(0)))
        }
        PROBLEMS => Some(number(share.problems.total)),
        _ => None,
    }
}

/// The oldest T of what is held.
fn oldest_held(share: &ShareStatus) -> Option<f64> {
    share.holds.iter().filter_map(|hold| hold.point_unix_ms).min().map(seconds_at)
}

/// Of a part that a share may not have.
fn part_value(metric: &Metric, share: &ShareStatus) -> Option<f64> {
    let capture = share.capture.as_ref();
    let scrub = share.scrub.as_ref();
    let history = share.history.as_ref();
    let standby = share.standby.as_ref();
    let policy = share.policy.as_ref();
    match *metric {
        COVERAGE => Some(capture?.coverage_percent / 100.0),
        OVERFLOWS => Some(number(capture?.overflows)),
        LOOK => capture?.whole_look_percent.map(|percent| percent / 100.0),
        LOOK_TIME => capture?.last_look_unix_ms.map(seconds_at),
        LOOK_TOOK => capture?.last_look_took_ms.map(seconds),
        VERIFIED => scrub?.oldest_verified_unix_ms.map(seconds_at),
        SCRUB => scrub?.progress_percent.map(|percent| percent / 100.0),
        SCRUB_FOUND => Some(number(scrub?.found)),
        SCRUB_REPAIRED => Some(number(scrub?.repaired)),
        HISTORY => Some(number(history?.bytes)),
        HISTORY_SETS => Some(number(history?.sets)),
        HISTORY_OLDEST => history?.oldest_unix_ms.map(seconds_at),
        DETACHED => Some(number(policy?.detached)),
        POLICY_FAULTS => Some(number(policy?.faults)),
        HEARD => standby?.last_heard_unix_ms.map(seconds_at),
        FOREIGN => Some(number(standby?.foreign_found)),
        FOREIGN_ASIDE => Some(number(standby?.foreign_set_aside)),
        FOREIGN_REPAIRED => Some(number(standby?.foreign_repaired)),
        _ => None,
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[allow(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}

fn seconds(ms: u64) -> f64 {
    number(ms) / 1_000.0
}

#[allow(clippy::cast_precision_loss)]
fn seconds_at(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}
