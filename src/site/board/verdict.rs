//! What the facts come to: whether the objective is kept and for how long, what stands against a failover, and one
//! sentence for somebody who was just woken up. One rule for the screen, the exit code and `/healthz`.

use std::time::Duration;

use farshore_core::size::HumanBytes;

use super::facts::{
    AccountStatus, AtRisk, Bound, ObjectiveStatus, ObjectiveVerdict, PeerStatus, Reason, Role,
    RoleStatus, ShareState, ShareStatus, SiteStatus, Stall, Why,
};
use super::snapshot::millis;
use crate::report::utc;

pub(super) use super::facts::Verdict;

/// From this part of the objective on, the lag is warned of.
const WARN_PERCENT: u64 = 80;

/// A time span for people: `3 s`, `4 min`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn span(ms: u64) -> String {
    let (s, min, h, d) = (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0 => "0 s".into(),
        1..1_000 => "< 1 s".into(),
        1_000..120_000 => format!("{s} s"),
        120_000..7_200_000 => format!("{min} min"),
        7_200_000..172_800_000 => format!("{h} h {} min", min % 60),
        _ => format!("{d} d {} h", h % 24),
    }
}

/// A time of day and, unless it is today, the day: by UTC, which is said.
#[must_use]
pub fn moment(unix_ms: i64, now_unix_ms: i64) -> String {
    let (at, now) = (utc(unix_ms), utc(now_unix_ms));
    let time = |text: &str| text.get(11..19).unwrap_or_default().to_owned();
    match at.get(..10) == now.get(..10) {
        true => format!("{} UTC", time(&at)),
        false => format!("{} {} UTC", at.get(..10).unwrap_or_default(), time(&at)),
    }
}

pub(super) fn stall_text(stall: &Stall) -> String {
    let of = match stall.path.as_str() {
        "" => "the share's folder",
        path => path,
    };
    format!("{} of {of} for {}", stall.call, span(stall.for_ms))
}

/// Whether the objective is kept. `None` of the lag is worse than any.
pub(super) fn objective(
    share: &ShareStatus,
    objective: Option<Duration>,
    connected: bool,
) -> ObjectiveStatus {
    let Some(objective) = objective.map(millis) else { return ObjectiveStatus::default() };
    let say = |verdict, breaks_in_ms, forecast: Option<String>| ObjectiveStatus {
        objective_ms: Some(objective),
        verdict,
        breaks_in_ms,
        forecast,
    };
    let Some(lag) = share.lag.now_ms.filter(|lag| *lag <= objective) else {
        return say(ObjectiveVerdict::Broken, None, None);
    };
    let left = objective - lag;
    let moves = matches!(
        share.state,
        ShareState::Seeding | ShareState::Looking | ShareState::Replicating | ShareState::Idle
    );
    let standstill = match () {
        () if !connected => Some("there is no connection"),
        () if !share.holds.is_empty() => Some("the brake holds"),
        () if !moves => Some(share.state.words()),
        () => None,
    };
    if let Some(why) = standstill {
        let text = format!("broken in {} if it goes on: {why}", span(left));
        return say(ObjectiveVerdict::Warning, Some(left), Some(text));
    }
    if let Some(eta) = share.backlog.as_ref().and_then(|b| b.eta_ms).filter(|eta| *eta > left) {
        let text =
            format!("broken in {}: the cut under way takes another {}", span(left), span(eta));
        return say(ObjectiveVerdict::Warning, Some(left), Some(text));
    }
    match lag.saturating_mul(100) > objective.saturating_mul(WARN_PERCENT) {
        true => say(ObjectiveVerdict::Warning, None, None),
        false => say(ObjectiveVerdict::Kept, None, None),
    }
}

/// Everything against a failover of this share now, the worst first.
pub(super) fn of_share(
    share: &ShareStatus,
    peer: &PeerStatus,
    grace: Duration,
    now_unix_ms: i64,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let words = |state: ShareState| match &share.state_text {
        Some(text) => format!("{}: {text}", state.words()),
        None => state.words().to_owned(),
    };
    if let Some(roles) = share.roles.as_ref().filter(|r| !is_ordinary(&r.phase)) {
        let text = roles.text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
        reasons.push(format!("the share is {} here{text}", roles.phase));
    } else if let Some(roles) = share.roles.as_ref().filter(|r| !r.gate_open && r.phase == "active")
    {
        let why = roles.gate_text.as_deref().unwrap_or("its gate is closed");
        reasons.push(format!("services may not work with it here: {why}"));
    }
    let peer_is_stranded = share.roles.as_ref().is_some_and(|roles| {
        roles.phase == "active"
            && matches!(roles.peer_phase.as_deref(), Some("stranded" | "reconciling"))
    });
    if peer_is_stranded {
        reasons.push(format!(
            "{} is stranded: nothing goes there before farshore failback plan and apply",
            peer.name
        ));
    }
    let percent = share.capture.as_ref().and_then(|capture| capture.whole_look_percent);
    match share.state {
        ShareState::Looking => reasons.push(match percent {
            Some(percent) => format!("{} is at {percent:.0} %", share.state.words()),
            None => words(share.state),
        }),
        // What is held is said below, by account.
        ShareState::Held if !share.holds.is_empty() => {}
        // Said above, by the role.
        ShareState::Stopped if !reasons.is_empty() => {}
        // The peer has rules of its own.
        ShareState::Replicating | ShareState::Idle | ShareState::WaitingForPeer => {}
        state => reasons.push(words(state)),
    }
    let is_gone = !peer.connected && peer.since_ms > millis(grace);
    if let Some(silent) = peer.silent_ms.filter(|_| !is_gone) {
        reasons.push(format!("nothing heard from {} for {}", peer.name, span(silent)));
    }
    if is_gone {
        let why = peer.reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        reasons.push(match share.role {
            Role::Active => {
                format!("not connected to {} for {}{why}", peer.name, span(peer.since_ms))
            }
            Role::Standby => {
                format!(
                    "nothing heard from {} for {}{why}",
                    peer.name,
                    heard(share, peer, now_unix_ms)
                )
            }
        });
    }
    for hold in &share.holds {
        let whose = match hold.account.as_str() {
            "" => "the share".to_owned(),
            account => format!("account {account}"),
        };
        let why = hold.reasons.first().map_or_else(String::new, |why| format!(": {why}"));
        let rejected = if hold.rejected_unix_ms.is_some() { ", rejected" } else { "" };
        let stale = if hold.stale { ", as was heard last" } else { "" };
        reasons.push(format!("held: the brake holds {whose}{rejected}{stale}{why}"));
    }
    if let Some(objective) = share.objective.objective_ms {
        // What is held is said; of what waits for a large file, or its turn, the one that waits longest is.
        let is_held = |name: &str| share.holds.iter().any(|hold| hold.account == name);
        let mut waits = behind(share).filter(|a| a.lag_ms > objective && !is_held(&a.account));
        if let Some(AccountStatus { account, lag_ms, why, .. }) = waits.next() {
            let (lag, objective) = (span(*lag_ms), span(objective));
            let why = why.map_or("is behind", Why::words);
            reasons.push(format!(
                "account {account} {why}: its lag of {lag} is over the objective of {objective}"
            ));
        }
    }
    if share.recovery_point.is_none() {
        reasons.push("there is no recovery point yet".into());
    }
    if let (ObjectiveVerdict::Broken, Some(objective), Some(lag)) =
        (share.objective.verdict, share.objective.objective_ms, share.lag.now_ms)
    {
        reasons.push(format!(
            "the lag of {} is over the objective of {}",
            span(lag),
            span(objective)
        ));
    }
    reasons
}

/// Accounts that are further behind than their share.
fn behind(share: &ShareStatus) -> impl Iterator<Item = &AccountStatus> {
    let of_share = share.lag.now_ms.unwrap_or(0);
    let worst = share.accounts.worst.iter();
    worst.filter(move |account| !account.account.is_empty() && account.lag_ms > of_share)
}

/// A state in which the pair replicates.
fn is_ordinary(phase: &str) -> bool {
    matches!(phase, "active" | "standby")
}

/// How long nothing was heard from the source.
fn heard(share: &ShareStatus, peer: &PeerStatus, now_unix_ms: i64) -> String {
    let last = share.standby.as_ref().and_then(|standby| standby.last_heard_unix_ms);
    let ago = last.and_then(|last| u64::try_from(now_unix_ms.saturating_sub(last)).ok());
    span(ago.unwrap_or(peer.since_ms))
}

/// Whether a failover of a share is what might come next: it has a point, and the sites did not part already.
fn may_fail_over(share: &ShareStatus) -> bool {
    let has_parted = |roles: &RoleStatus| {
        matches!(&*roles.phase, "alone" | "stranded" | "reconciling" | "split")
    };
    share.recovery_point.is_some() && !share.roles.as_ref().is_some_and(has_parted)
}

/// What the site comes to.
pub(super) fn of_site(status: &SiteStatus) -> Verdict {
    let mut reasons: Vec<Reason> = Vec::new();
    for share in &status.shares {
        let of = |text: &String| Reason { share: share.name.clone(), text: text.clone() };
        reasons.extend(share.reasons.iter().map(of));
    }
    if status.shares.is_empty() {
        reasons.push(Reason { share: String::new(), text: "no share is configured".into() });
    }
    let ready = reasons.is_empty();
    let text = match reasons.split_first() {
        None => format!("READY: if we failed over now, {}", loss(status)),
        Some((first, rest)) => {
            let share = match (first.share.as_str(), status.shares.len()) {
                ("", _) | (_, 1) => String::new(),
                (share, _) => format!("{share}: "),
            };
            let more = match rest.len() {
                0 => String::new(),
                1 => " (and 1 more reason)".into(),
                n => format!(" (and {n} more reasons)"),
            };
            let cost = match status.shares.iter().any(may_fail_over) {
                true => format!("; if we failed over now, {}", loss(status)),
                false => String::new(),
            };
            format!("NOT READY: {share}{}{more}{cost}", first.text)
        }
    };
    Verdict { ready, text, reasons }
}

/// What a failover now would cost, of all shares.
fn loss(status: &SiteStatus) -> String {
    let lags = status.shares.iter().filter_map(|share| share.lag.now_ms);
    let lag = span(lags.max().unwrap_or(0));
    let without = status.shares.iter().filter(|share| share.recovery_point.is_none()).count();
    let sum = status.shares.iter().fold(
        AtRisk { files: 0, bytes: Some(0), bound: Bound::AtMost },
        |sum, share| {
            let bound = match (sum.bound, share.at_risk.bound) {
                (Bound::Unknown, _) | (_, Bound::Unknown) => Bound::Unknown,
                (Bound::AtLeast, _) | (_, Bound::AtLeast) => Bound::AtLeast,
                _ => Bound::AtMost,
            };
            AtRisk {
                files: sum.files.saturating_add(share.at_risk.files),
                bytes: sum.bytes.zip(share.at_risk.bytes).map(|(a, b)| a.saturating_add(b)),
                bound,
            }
        },
    );
    let lost = match (sum.bound, sum.files) {
        (Bound::AtMost, 0) => {
            format!("nothing known of would be lost; all before {lag} ago is proven")
        }
        _ => format!("{lag} of changes ({}) would be lost", at_risk_text(&sum)),
    };
    // An account that is held, or waits for a large file or its turn, has a T of its own.
    let accounts = status.shares.iter().flat_map(behind);
    let lost = match accounts.max_by_key(|account| account.lag_ms) {
        Some(AccountStatus { account, lag_ms, .. }) => {
            format!("{lost}; of account {account} {} of changes", span(*lag_ms))
        }
        None => lost,
    };
    match without {
        0 => lost,
        n => format!("{lost}, and all of {n} shares without a recovery point"),
    }
}

/// A count by threes: `1,204,332`.
#[must_use]
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Changes at risk, for people.
#[must_use]
pub fn at_risk_text(at_risk: &AtRisk) -> String {
    let files = match at_risk.files {
        1 => "1 file".to_owned(),
        n => format!("{} files", grouped(n)),
    };
    let bytes = at_risk.bytes.map_or("bytes not known".into(), |n| HumanBytes(n).to_string());
    match at_risk.bound {
        Bound::AtMost => format!("{files}, {bytes} at most"),
        Bound::AtLeast => format!("{files}, {bytes} at least"),
        Bound::Unknown => "how many is not known".to_owned(),
    }
}
