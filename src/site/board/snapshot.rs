//! From what was posted to what is shown: ages, rates, stalls, what it all comes to. Pure.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use farshore_core::turns::Class;
use farshore_engine::progress::Phase;

use super::facts::{
    AccountStatus, Accounts, AtRisk, Backlog, Bound, Hold, LagStatus, PeerStatus, Problems, Role,
    ShareState, ShareStatus, SiteStatus, Stall, Traffic, WorkerStatus,
};
use super::{CutFacts, Facts, ShareFacts, TrafficFacts, verdict};

/// What was seen for less time than this says nothing of the rest.
const SEEN_MIN_MS: u64 = 2_000;
/// An end further away is a guess that helps nobody.
const FORECAST_MAX_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// When.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: i64,
    pub(super) steady: u64,
}

/// How old T is. At a standby T is by the peer's clock, which shows `offset` more than ours.
pub(super) fn lag_ms(role: Role, wall: i64, offset: i64, time: i64) -> u64 {
    let now = match role {
        Role::Active => wall,
        Role::Standby => wall.saturating_add(offset),
    };
    u64::try_from(now.saturating_sub(time)).unwrap_or(0)
}

pub(super) fn of(
    facts: &Facts,
    traffic: TrafficFacts,
    stalls: &[(String, Stall)],
    workers: Vec<WorkerStatus>,
    now: Now,
) -> SiteStatus {
    let peer = peer(facts, traffic, now);
    let shares = facts.shares.values();
    let shares = shares.map(|share| self::share(share, facts, &peer, stalls, now)).collect();
    let mut status = SiteStatus {
        site: facts.config.site.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_ms: facts.started_unix_ms,
        now_unix_ms: now.wall,
        verdict: verdict::Verdict::default(),
        peer,
        shares,
        workers,
    };
    status.verdict = verdict::of_site(&status);
    status
}

fn peer(facts: &Facts, mut traffic: TrafficFacts, now: Now) -> PeerStatus {
    let peer = &facts.peer;
    let (sent_rate, sent_minute) = traffic.sent.rates(now.steady);
    let (received_rate, received_minute) = traffic.received.rates(now.steady);
    PeerStatus {
        name: facts.config.peer.clone(),
        address: peer.address.clone(),
        connected: peer.connected,
        answers: peer.answers,
        silent_ms: peer.silent_since.map(|since| now.steady.saturating_sub(since)),
        since_unix_ms: peer.since_unix_ms,
        since_ms: now.steady.saturating_sub(peer.since_steady_ms),
        reason: peer.reason.clone(),
        next_attempt_unix_ms: peer.next_attempt_unix_ms,
        rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        sent: Traffic { bytes: traffic.sent.total, rate: sent_rate, minute_rate: sent_minute },
        received: Traffic {
            bytes: traffic.received.total,
            rate: received_rate,
            minute_rate: received_minute,
        },
        clock: peer.best_clock(),
    }
}

fn share(
    share: &ShareFacts,
    facts: &Facts,
    peer: &PeerStatus,
    stalls: &[(String, Stall)],
    now: Now,
) -> ShareStatus {
    let offset = peer.clock.map_or(0, |clock| clock.offset_ms);
    let lag = |time| lag_ms(share.role, now.wall, offset, time);
    let stalls: Vec<Stall> =
        stalls.iter().filter(|(name, _)| *name == share.name).map(|(_, s)| s.clone()).collect();
    let (state, state_text) = match stalls.first() {
        Some(stall) if share.state != ShareState::Stopped => {
            (ShareState::Stalled, Some(verdict::stall_text(stall)))
        }
        _ => (share.state, share.state_text.clone()),
    };
    let mut hour = share.lag.clone();
    hour.advance(now.steady);
    let worst = share.worst.iter().map(|behind| AccountStatus {
        account: behind.account.clone(),
        time_unix_ms: behind.time_unix_ms,
        lag_ms: lag(behind.time_unix_ms),
        why: behind.why,
        class: (behind.class != Class::Normal).then(|| behind.class.name().to_owned()),
    });
    let mut status = ShareStatus {
        name: share.name.clone(),
        path: share.path.clone(),
        role: share.role,
        epoch: share.epoch,
        roles: share.roles.clone(),
        state,
        state_text,
        state_since_unix_ms: share.state_since_unix_ms,
        recovery_point: share.point.clone(),
        peer_recovery_point: share.peer_point.clone(),
        warnings: warnings(share),
        peer_path: share.peer_path.clone(),
        lag: LagStatus { now_ms: hour.now(now.steady), hour: hour.status(now.steady) },
        at_risk: at_risk(share.at_risk, share.role, state, peer.connected),
        backlog: share.cut.as_ref().map(|cut| backlog(cut, now)),
        capture: share.capture.clone(),
        large_files: share.large_files.clone(),
        holds: holds(share, peer.connected),
        holds_total: share.holds_total,
        accounts: Accounts { count: share.accounts, worst: worst.collect() },
        scrub: share.scrub.clone(),
        history: share.history.clone(),
        policy: share.policy.clone(),
        problems: Problems {
            total: share.problems_total,
            newest: share.problems.iter().cloned().collect(),
        },
        degraded: share.degraded.clone(),
        standby: (share.role == Role::Standby).then(|| share.standby.clone()),
        stalls,
        ..ShareStatus::default()
    };
    status.objective = verdict::objective(&status, share.objective, peer.connected);
    status.reasons = verdict::of_share(&status, peer, facts.config.grace, now.wall);
    status.ready = status.reasons.is_empty();
    status
}

/// What the source said that it holds may be otherwise by now, when nothing is heard of it.
fn holds(share: &ShareFacts, connected: bool) -> Vec<Hold> {
    let mut holds = share.holds.clone();
    holds.iter_mut().for_each(|hold| hold.stale = hold.decided_at.is_some() && !connected);
    holds
}

/// What does not stand against a failover, and should be looked at.
fn warnings(share: &ShareFacts) -> Vec<String> {
    let other = share.peer_path.as_ref().filter(|path| **path != share.path);
    let path = other.map(|path| {
        format!(
            "the peer has this share at {path}: applications find their folders at one path at both sites only"
        )
    });
    path.into_iter().collect()
}

/// What was posted of changes at risk is worth no more than who could still add to it: while nobody looks at the
/// tree there may be more, and at a standby that hears nothing nobody knows.
fn at_risk(posted: AtRisk, role: Role, state: ShareState, connected: bool) -> AtRisk {
    let blind = matches!(
        state,
        ShareState::Starting
            | ShareState::MountGone
            | ShareState::Stalled
            | ShareState::Stopped
            | ShareState::Error
    );
    let bound = match (role, posted.bound) {
        (Role::Standby, _) if !connected => Bound::Unknown,
        (_, Bound::AtMost) if blind => Bound::AtLeast,
        (_, bound) => bound,
    };
    AtRisk { bound, ..posted }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn backlog(cut: &CutFacts, now: Now) -> Backlog {
    let progress = &cut.progress;
    let get = |counter: &AtomicU64| counter.load(Relaxed);
    // What is done is read first: of the two it is never the larger one then.
    let (done, read) = (get(&progress.done), get(&progress.read_bytes));
    let (changes, bytes) = (get(&progress.planned), get(&progress.planned_bytes));
    let for_ms = now.steady.saturating_sub(cut.since_steady_ms);
    let seen = for_ms >= SEEN_MIN_MS;
    let seconds = for_ms as f64 / 1_000.0;
    // Files and bytes each have their cost; the slower of the two says when it ends.
    let part = |done: u64, of: u64| if of == 0 { 1.0 } else { (done as f64 / of as f64).min(1.0) };
    let part = part(done, changes).min(part(read, bytes));
    let sending = progress.phase() == Phase::Replicating;
    let eta = (sending && seen && part > 0.0 && part < 1.0)
        .then(|| for_ms as f64 * (1.0 - part) / part)
        .filter(|eta| *eta <= FORECAST_MAX_MS as f64);
    Backlog {
        phase: match progress.phase() {
            Phase::Connecting => "connecting",
            Phase::Scanning => "scanning",
            Phase::Comparing => "comparing",
            Phase::Replicating => "replicating",
            Phase::Sealing => "sealing",
        }
        .to_owned(),
        scanned: get(&progress.scanned),
        changes,
        changes_left: changes.saturating_sub(done),
        bytes,
        bytes_left: bytes.saturating_sub(read),
        rate: if seen { (read as f64 / seconds) as u64 } else { 0 },
        eta_ms: eta.map(|eta| eta as u64),
        for_ms,
    }
}

/// A time span as a number of milliseconds.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
