//! A site on one screen of 80 columns, for somebody who is tired: the verdict first, then each share in a few lines
//! that begin alike. Colour repeats what a word says already.

use std::fmt::Write as _;

use farshore_core::size::HumanBytes;

use crate::site::board::facts::{
    Backlog, Bound, Capture, LagStatus, LargeFile, ObjectiveVerdict, PeerStatus, PointStatus, Role,
    RoleStatus, ShareState, ShareStatus, SiteStatus,
};
use crate::site::board::verdict::{at_risk_text, grouped, moment, span};

/// Columns.
const WIDTH: usize = 80;
/// Where what is said of something begins.
const COLUMN: usize = 13;
/// Lines of a list.
const LISTED: usize = 3;

/// The screen. Every text in a snapshot is safe to show.
pub(super) fn screen(status: &SiteStatus, colours: bool) -> String {
    let mut out = String::new();
    let verdict = &status.verdict;
    let (word, rest) = verdict.text.split_once(':').unwrap_or((&verdict.text, ""));
    let mut first = wrapped(0, &format!("{word}:{rest}"));
    if colours {
        let colour = if verdict.ready { "\x1b[1;32m" } else { "\x1b[1;31m" };
        first = first.replacen(word, &format!("{colour}{word}\x1b[0m"), 1);
    }
    out.push_str(&first);
    out.push('\n');
    peer(&mut out, status);
    for share in &status.shares {
        out.push('\n');
        self::share(&mut out, share, status.peer.answers, status.now_unix_ms);
    }
    out
}

fn peer(out: &mut String, status: &SiteStatus) {
    let PeerStatus { name, address, reason, .. } = &status.peer;
    let peer = &status.peer;
    let at = address.as_ref().map_or_else(String::new, |address| format!(" at {address}"));
    let since = span(peer.since_ms);
    let mut text = match (peer.connected, peer.answers) {
        (true, _) if peer.silent_ms.is_some() => {
            format!("{name}{at}, SILENT for {}", span(peer.silent_ms.unwrap_or(0)))
        }
        (true, _) => format!("{name}{at}, connected for {since}"),
        (false, true) => format!("{name}{at}, answers; nothing is replicated for {since}"),
        (false, false) => format!("{name}{at}, NOT CONNECTED for {since}"),
    };
    if let Some(reason) = reason {
        write!(text, ": {reason}").unwrap_or(());
    }
    if let Some(next) = peer.next_attempt_unix_ms {
        write!(text, "; next attempt {}", from_now(next, status.now_unix_ms)).unwrap_or(());
    }
    if let Some(rtt) = peer.rtt_ms {
        write!(text, ", round trip {rtt:.1} ms").unwrap_or(());
    }
    line(
        out,
        "site",
        &format!("{}, Farshore {}, {}", status.site, status.version, started(status)),
    );
    line(out, "peer", &text);
    if peer.connected {
        let rates = |traffic: &crate::site::board::facts::Traffic| {
            format!(
                "{}/s ({}/s over a minute)",
                HumanBytes(traffic.rate),
                HumanBytes(traffic.minute_rate)
            )
        };
        line(out, "sends", &rates(&peer.sent));
        line(out, "receives", &rates(&peer.received));
    }
    if let Some(clock) = peer.clock.filter(|clock| clock.warning) {
        let which = if clock.offset_ms > 0 { "ahead of" } else { "behind" };
        let by = span(clock.offset_ms.unsigned_abs());
        line(out, "WARNING", &format!("its clock is {by} {which} ours: set one of them right"));
    }
}

fn started(status: &SiteStatus) -> String {
    let ago = status.now_unix_ms.saturating_sub(status.started_unix_ms);
    format!("up for {}", span(u64::try_from(ago).unwrap_or(0)))
}

fn share(out: &mut String, share: &ShareStatus, answers: bool, now: i64) {
    let role = share.roles.as_ref().map_or(share.role.name(), |roles| &roles.phase);
    let title = format!("{} at {}: {role}, epoch {}", share.name, share.path, share.epoch);
    line(out, "SHARE", &title);
    if let Some(roles) = &share.roles {
        self::roles(out, roles, answers);
    }
    line(out, "state", &state(share, now));
    for reason in &share.reasons {
        line(out, "NOT READY", reason);
    }
    for warning in &share.warnings {
        line(out, "WARNING", warning);
    }
    match &share.recovery_point {
        Some(point) => line(out, "point", &self::point(point, now)),
        None => line(out, "point", "none yet"),
    }
    if let (Some(ours), Some(theirs)) = (&share.recovery_point, &share.peer_recovery_point)
        && ours.sequence != theirs.sequence
    {
        line(out, "at the peer", &point(theirs, now));
    }
    line(out, "lag", &lag(&share.lag, share));
    let at_risk = match (share.at_risk.bound, share.at_risk.files) {
        (Bound::AtMost, 0) => "nothing known of".to_owned(),
        (Bound::Unknown, _) if share.role == Role::Standby => {
            "how much is not known: the source has not said it".to_owned()
        }
        (Bound::Unknown, _) => {
            "how much is not known: the whole share is to be looked at".to_owned()
        }
        _ => at_risk_text(&share.at_risk),
    };
    line(out, "at risk", &at_risk);
    if let Some(backlog) = &share.backlog {
        line(out, "cut", &self::backlog(backlog));
    }
    if let (Some(capture), Role::Active) = (&share.capture, share.role) {
        line(out, "capture", &self::capture(capture, now));
        let silent = capture.nodes.iter().filter(|node| node.state != "ok").take(LISTED);
        for node in silent {
            let heard = node.last_heard_unix_ms.map_or("never".into(), |at| ago(at, now));
            line(out, "node", &format!("{}: {}, last heard {heard}", node.name, node.state));
        }
    }
    brake(out, share, now);
    standby(out, share, now);
    kept(out, share, now);
    if let Some(worst) = share.accounts.worst.first().filter(|_| share.accounts.count > 0) {
        let count = share.accounts.count;
        let class = worst.class.as_ref().map_or_else(String::new, |class| format!(" ({class})"));
        let why = worst.why.map_or_else(String::new, |why| format!(": it {}", why.words()));
        let text = format!(
            "{count}; the oldest is {}{class}, {} behind{why}",
            named(&worst.account),
            span(worst.lag_ms)
        );
        line(out, "accounts", &text);
    }
    for file in share.large_files.iter().take(LISTED) {
        line(out, "large file", &large_file(file));
    }
    for (kind, count) in share.degraded.iter().take(LISTED) {
        line(out, "degraded", &format!("{kind} could not be kept on {count} entries"));
    }
    problems(out, share, now);
}

fn roles(out: &mut String, roles: &RoleStatus, answers: bool) {
    let gate = match (&roles.gate_text, roles.gate_open) {
        (_, true) => "services may work with it here".to_owned(),
        (Some(why), false) => format!("services may not work with it here: {why}"),
        (None, false) => "services may not work with it here".to_owned(),
    };
    let text = roles.text.as_ref().map_or_else(String::new, |text| format!(" ({text})"));
    let peer = match (&roles.peer_phase, roles.peer_epoch) {
        (Some(phase), Some(epoch)) => format!("; the other site: {phase}, epoch {epoch}"),
        _ => "; nothing heard from the other site yet".to_owned(),
    };
    line(out, "role", &format!("{}{text}; {gate}{peer}", roles.phase));
    next(out, roles, answers);
}

/// What may be typed now. What opens this site without the other one is no next step as long as that answers.
fn next(out: &mut String, roles: &RoleStatus, answers: bool) {
    let is_forced = |next: &&String| next.starts_with("farshore failover");
    let (forced, mut steps): (Vec<&String>, Vec<&String>) = roles.next.iter().partition(is_forced);
    let there = match (&*roles.phase, roles.peer_phase.as_deref()) {
        _ if !answers => None,
        ("standby", Some("active")) => Some("farshore switchover, at the other site".to_owned()),
        ("stranded", Some("alone" | "active")) => {
            Some("farshore failback plan, at the other site".to_owned())
        }
        _ => None,
    };
    steps.extend(&there);
    let joined = |of: &[&String]| of.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ");
    let forced = joined(&forced);
    match (steps.is_empty(), forced.is_empty(), answers) {
        (true, true, _) => {}
        (_, true, _) => line(out, "next", &joined(&steps)),
        (true, false, false) => line(out, "next", &forced),
        (true, false, true) => line(out, "next", &format!("if the other site is lost: {forced}")),
        (false, false, _) => {
            line(out, "next", &joined(&steps));
            line(out, "", &format!("only if the other site is lost: {forced}"));
        }
    }
}

fn state(share: &ShareStatus, now: i64) -> String {
    let text = share.state_text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
    match share.state {
        ShareState::Stalled => format!("STALLED{text}"),
        state => {
            format!("{}{text}, since {}", state.words(), moment(share.state_since_unix_ms, now))
        }
    }
}

fn point(point: &PointStatus, now: i64) -> String {
    let exceptions = match point.exceptions {
        0 => String::new(),
        n => format!(", {n} EXCEPTIONS"),
    };
    format!(
        "{} of {}, root {}, {} entries, {}{exceptions}",
        point.sequence,
        moment(point.time_unix_ms, now),
        point.root_short,
        grouped(point.entries),
        HumanBytes(point.bytes),
    )
}

fn lag(lag: &LagStatus, share: &ShareStatus) -> String {
    let mut text = lag.now_ms.map_or_else(|| "no recovery point yet".to_owned(), span);
    if let Some(hour) = lag.hour {
        let (half, most, max) = (span(hour.p50_ms), span(hour.p99_ms), span(hour.max_ms));
        let over = if hour.seconds >= 3_600 { "in the last hour" } else { "since the start" };
        write!(text, "; {half} median, {most} p99, {max} at most {over}").unwrap_or(());
    }
    let objective = &share.objective;
    if let Some(allowed) = objective.objective_ms {
        let verdict = match objective.verdict {
            ObjectiveVerdict::None | ObjectiveVerdict::Kept => "kept",
            ObjectiveVerdict::Warning => "WARNING",
            ObjectiveVerdict::Broken => "BROKEN",
        };
        write!(text, "; objective {} {verdict}", span(allowed)).unwrap_or(());
    }
    if let Some(forecast) = &objective.forecast {
        write!(text, ", {forecast}").unwrap_or(());
    }
    text
}

fn large_file(file: &LargeFile) -> String {
    let LargeFile { path, bytes, bytes_left, rate, eta_ms } = file;
    let done = bytes.saturating_sub(*bytes_left);
    // Not all, as long as it is on its way.
    let percent = u128::from(done) * 100 / u128::from((*bytes).max(1));
    let mut text = format!("{path}: {} % of {} sent", percent.min(99), HumanBytes(*bytes));
    if *rate > 0 {
        write!(text, ", {}/s", HumanBytes(*rate)).unwrap_or(());
    }
    if let Some(eta) = eta_ms {
        write!(text, ", there in {}", span(*eta)).unwrap_or(());
    }
    text
}

fn backlog(backlog: &Backlog) -> String {
    let mut text = match backlog.phase.as_str() {
        "replicating" => format!(
            "{} of {} changes and {} of {} left",
            grouped(backlog.changes_left),
            grouped(backlog.changes),
            HumanBytes(backlog.bytes_left),
            HumanBytes(backlog.bytes),
        ),
        "scanning" => format!("scanning, {} entries so far", grouped(backlog.scanned)),
        phase => phase.to_owned(),
    };
    if backlog.rate > 0 {
        write!(text, ", {}/s", HumanBytes(backlog.rate)).unwrap_or(());
    }
    match backlog.eta_ms {
        Some(eta) => write!(text, ", done in {}", span(eta)).unwrap_or(()),
        None => write!(text, ", for {}", span(backlog.for_ms)).unwrap_or(()),
    }
    text
}

fn capture(capture: &Capture, now: i64) -> String {
    let mut text = match capture.method.as_str() {
        "none" => "no events: by looking at everything".to_owned(),
        method => format!("{method}, {:.0} % covered", capture.coverage_percent.floor()),
    };
    if let Some(percent) = capture.whole_look_percent {
        write!(text, "; whole look at {:.0} %", percent.floor()).unwrap_or(());
    }
    if let Some(at) = capture.last_look_unix_ms {
        write!(text, "; last whole look {}", ago(at, now)).unwrap_or(());
        if let Some(took) = capture.last_look_took_ms {
            write!(text, ", took {}", span(took)).unwrap_or(());
        }
    }
    match capture.overflows {
        0 => {}
        1 => text.push_str("; events were lost once"),
        n => write!(text, "; events were lost {n} times").unwrap_or(()),
    }
    let nodes = capture.nodes.len();
    if nodes > 0 {
        let ok = capture.nodes.iter().filter(|node| node.state == "ok").count();
        write!(text, "; {ok} of {nodes} nodes report").unwrap_or(());
    }
    text
}

fn brake(out: &mut String, share: &ShareStatus, now: i64) {
    for hold in share.holds.iter().take(LISTED) {
        let counts: Vec<_> =
            hold.counts.iter().map(|(what, n)| format!("{} {what}", grouped(*n))).collect();
        let counts = match counts.is_empty() {
            true => String::new(),
            false => format!(" ({})", counts.join(", ")),
        };
        let since = ago(hold.since_unix_ms, now);
        let why = hold.reasons.join("; ");
        let stale = if hold.stale { ", as was heard last" } else { "" };
        line(out, "HELD", &format!("{}, {since}{stale}: {why}{counts}", named(&hold.account)));
        if let Some(at) = hold.rejected_unix_ms {
            line(out, "  rejected", &format!("{}: nothing of it is applied", ago(at, now)));
        }
        if let Some(point) = hold.last_good_point {
            let time = hold
                .point_unix_ms
                .map_or_else(String::new, |time| format!(" of {}", moment(time, now)));
            line(out, "  last good", &format!("recovery point {point}{time}"));
        }
        for next in &hold.next {
            line(out, "  next", next);
        }
    }
    let listed = share.holds.len().min(LISTED) as u64;
    if let Some(more) = share.holds_total.checked_sub(listed).filter(|more| *more > 0) {
        line(out, "HELD", &format!("and {more} more: farshore brake show"));
    }
}

fn standby(out: &mut String, share: &ShareStatus, now: i64) {
    let Some(standby) = &share.standby else { return };
    let heard = standby.last_heard_unix_ms.map_or("nothing yet".into(), |at| ago(at, now));
    line(out, "source", &format!("last heard {heard}"));
    if standby.foreign_found > 0 {
        let text = format!(
            "{} entries changed here by others; {} set aside, {} repaired",
            grouped(standby.foreign_found),
            grouped(standby.foreign_set_aside),
            grouped(standby.foreign_repaired),
        );
        line(out, "FOREIGN", &text);
    }
}

/// Scrub, history, policies.
fn kept(out: &mut String, share: &ShareStatus, now: i64) {
    if let Some(scrub) = &share.scrub {
        let mut text = match scrub.oldest_verified_unix_ms {
            Some(at) => format!("every byte was read within {}", span_to(at, now)),
            None => "the first pass is not complete yet".to_owned(),
        };
        if let Some(percent) = scrub.progress_percent {
            write!(text, "; this pass is at {:.0} %", percent.floor()).unwrap_or(());
        }
        if scrub.found > 0 {
            write!(
                text,
                "; {} DAMAGED, {} repaired",
                grouped(scrub.found),
                grouped(scrub.repaired)
            )
            .unwrap_or(());
        }
        line(out, "scrub", &text);
    }
    if let Some(history) = &share.history {
        let mut text = format!("{} in {} sets", HumanBytes(history.bytes), grouped(history.sets));
        if let Some(at) = history.oldest_unix_ms {
            write!(text, ", back to {}", moment(at, now)).unwrap_or(());
        }
        line(out, "history", &text);
    }
    if let Some(policy) = share.policy.as_ref().filter(|policy| !policy.names.is_empty()) {
        let mut text = policy.names.join(", ");
        if policy.detached > 0 {
            write!(text, "; {} entries left out", grouped(policy.detached)).unwrap_or(());
        }
        if policy.faults > 0 {
            write!(text, "; NO ANSWER about {} entries", grouped(policy.faults)).unwrap_or(());
        }
        line(out, "policies", &text);
    }
}

fn problems(out: &mut String, share: &ShareStatus, now: i64) {
    let newest = &share.problems.newest;
    for problem in newest.iter().take(LISTED) {
        let times =
            if problem.times > 1 { format!(", {} times", problem.times) } else { String::new() };
        let when = ago(problem.time_unix_ms, now);
        line(
            out,
            "problem",
            &format!("{}: {} ({when}{times})", named(&problem.account), problem.text),
        );
    }
    if newest.len() > LISTED {
        let more = newest.len() - LISTED;
        line(out, "problem", &format!("and {more} more (--json lists them)"));
    }
}

fn named(account: &str) -> &str {
    if account.is_empty() { "the share itself" } else { account }
}

fn span_to(at: i64, now: i64) -> String {
    span(u64::try_from(now.saturating_sub(at)).unwrap_or(0))
}

fn ago(at: i64, now: i64) -> String {
    format!("{} ago", span_to(at, now))
}

fn from_now(at: i64, now: i64) -> String {
    match u64::try_from(at.saturating_sub(now)) {
        Ok(ms) if ms > 0 => format!("in {}", span(ms)),
        _ => "now".to_owned(),
    }
}

/// A line of a share; what does not fit goes on below.
fn line(out: &mut String, label: &str, text: &str) {
    let head = format!("{label:<COLUMN$}");
    let rest = wrapped(COLUMN, text);
    out.push_str(head.trim_end_matches(|_| text.is_empty()));
    out.push_str(&rest);
    out.push('\n');
}

/// `text` in lines of [`WIDTH`], of which all but the first begin at `column`. A word that is longer than a line
/// stands alone: a path that is cut is no path.
fn wrapped(column: usize, text: &str) -> String {
    let mut out = String::new();
    let mut at = column;
    for (n, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if n > 0 && at + 1 + width > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(column));
            at = column;
        } else if n > 0 {
            out.push(' ');
            at += 1;
        }
        out.push_str(word);
        at += width;
    }
    out
}

#[cfg(test)]
mod tests;
