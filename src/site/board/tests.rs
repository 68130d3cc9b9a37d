//! The board by a clock that a test moves.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use farshore_core::digest::RootDigest;

use super::clock::HandClock;
use super::facts::{Bound, ObjectiveVerdict};
use super::*;

pub(super) const T0: i64 = 1_795_390_871_000;

fn board() -> (Arc<HandClock>, Arc<Board>) {
    let clock = Arc::new(HandClock::at(T0));
    let config = BoardConfig {
        site: "production".into(),
        peer: "recovery".into(),
        peer_address: Some("dr.example.net:7411".into()),
        grace: Duration::from_secs(60),
    };
    (Arc::clone(&clock), Board::new(config, clock))
}

fn homes(board: &Arc<Board>, role: Role) -> ShareBoard {
    board.share(&ShareConfig {
        name: "homes",
        path: Path::new("/shared/homes"),
        role,
        epoch: 3,
        objective: Some(Duration::from_secs(30)),
    })
}

fn point(sequence: u64, time_unix_ms: i64) -> RecoveryPoint {
    let root = RootDigest([0xab; 32]);
    RecoveryPoint { sequence, time_unix_ms, root, entries: 10, bytes: 1 << 20, exceptions: 0 }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

#[test]
fn a_site_is_ready_when_nothing_stands_against_it() {
    let (clock, board) = board();
    assert_eq!(board.snapshot().verdict.text, "NOT READY: no share is configured");
    let share = homes(&board, Role::Active);
    assert!(!board.snapshot().verdict.ready, "starting");
    board.connected("192.0.2.7:7411");
    share.state(ShareState::Idle, None);
    let reasons = board.snapshot().shares[0].reasons.clone();
    assert_eq!(reasons, ["there is no recovery point yet"]);
    share.recovery_point(&point(1, T0));
    share.at_risk(AtRisk { files: 4, bytes: Some(120 << 10), bound: Bound::AtMost });
    clock.advance(3_000);
    let status = board.snapshot();
    assert_eq!(
        status.verdict.text,
        "READY: if we failed over now, 3 s of changes (4 files, 120 KiB at most) would be lost"
    );
    assert_eq!(status.shares[0].objective.verdict, ObjectiveVerdict::Kept);
    // A connection may be away for a while; the objective may not.
    board.disconnected("timed out", Some(Duration::from_secs(5)));
    share.state(ShareState::WaitingForPeer, None);
    let status = board.snapshot();
    assert!(status.verdict.ready, "{:?}", status.verdict);
    let objective = &status.shares[0].objective;
    assert_eq!(
        (objective.verdict, objective.breaks_in_ms),
        (ObjectiveVerdict::Warning, Some(27_000))
    );
    assert_eq!(status.peer.next_attempt_unix_ms, Some(T0 + 8_000));
    clock.advance(61_000);
    board.disconnected("refused", None);
    let reasons = board.snapshot().shares[0].reasons.clone();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert_eq!(reasons[0], "not connected to recovery for 61 s (refused)");
    assert_eq!(reasons[1], "the lag of 64 s is over the objective of 30 s");
}

#[test]
fn an_account_that_waits_longer_than_the_objective_is_named_though_the_share_goes_on() {
    let (clock, board) = board();
    let share = homes(&board, Role::Standby);
    board.connected("192.0.2.7:7411");
    share.state(ShareState::Idle, None);
    let account = path("acct1");
    share.accounts([(&account, T0)]);
    for ready in [true, false] {
        clock.advance(20_000);
        share.recovery_point(&point(1, T0 + 20_000));
        let status = board.snapshot();
        assert_eq!(status.verdict.ready, ready, "{:?}", status.verdict);
        assert!(status.verdict.text.contains("of account acct1 "), "{}", status.verdict.text);
    }
    let reasons = board.snapshot().shares[0].reasons.clone();
    let wanted = "account acct1 is behind: its lag of 40 s is over the objective of 30 s";
    assert_eq!(reasons, [wanted], "at a standby nobody knows why");
    let (account, time_unix_ms) = (&account, T0);
    for (why, says) in
        [(Why::LargeFile, "waits for a large file"), (Why::Turn, "waits for its turn")]
    {
        share.accounts([Late { account, time_unix_ms, why: Some(why), class: Class::Low }]);
        let status = board.snapshot().shares[0].clone();
        assert_eq!(status.reasons, [wanted.replace("is behind", says)]);
        let shown = &status.accounts.worst[0];
        assert_eq!((shown.why, shown.class.as_deref()), (Some(why), Some("low")));
    }
}

/// Two hours between the sites' clocks: what is told by the other's clock is taken by it.
#[test]
fn clocks_far_apart_are_warned_of_and_the_lag_is_what_it_is() {
    const APART: i64 = 2 * 3_600_000;
    for apart in [APART, -APART] {
        let (clock, board) = board();
        let share = homes(&board, Role::Standby);
        board.connected("192.0.2.7:7411");
        share.state(ShareState::Idle, None);
        share.clock_sample(T0, T0 + apart + 20, T0 + 40);
        share.recovery_point(&point(1, T0 + apart));
        clock.advance(3_000);
        let status = board.snapshot();
        let found = status.peer.clock.expect("measured");
        assert_eq!((found.offset_ms, found.uncertainty_ms, found.warning), (apart, 20, true));
        assert_eq!(status.shares[0].lag.now_ms, Some(3_000), "not two hours");
        assert_eq!(status.shares[0].objective.verdict, ObjectiveVerdict::Kept);
        assert!(status.verdict.ready, "{:?}", status.verdict);
    }
}

/// Applications expect one path at both sites: another one is said, and no reason against a failover.
#[test]
fn another_path_at_the_peer_is_warned_of() {
    let (_, board) = board();
    let share = homes(&board, Role::Active);
    share.peer_path(b"/shared/homes");
    assert!(board.snapshot().shares[0].warnings.is_empty());
    share.peer_path(b"/srv/\x1bhomes");
    let warnings = board.snapshot().shares[0].warnings.clone();
    assert!(
        warnings[0].starts_with("the peer has this share at /srv/\\u{1b}homes: "),
        "{warnings:?}"
    );
}

#[test]
fn a_call_that_does_not_return_is_seen_by_others_and_ends_with_the_call() {
    let (clock, board) = board();
    let share = homes(&board, Role::Active);
    share.state(ShareState::Replicating, None);
    let worker = share.worker("scanner-1");
    worker.doing("planning");
    let call = worker.on_mount("statx", &path("BU01/a\u{1b}"));
    clock.advance(STALL_AFTER_MS);
    assert_eq!(board.snapshot().shares[0].state, ShareState::Replicating);
    // The machine's clock is set: no stall by that.
    clock.jump(3_600_000);
    assert!(board.snapshot().shares[0].stalls.is_empty());
    clock.advance(32_000);
    let status = board.snapshot();
    let homes = &status.shares[0];
    assert_eq!(homes.state, ShareState::Stalled);
    assert_eq!(homes.state_text.as_deref(), Some("statx of BU01/a\\u{1b} for 42 s"));
    assert!(!homes.ready);
    assert!(status.workers[0].on_mount);
    drop(call);
    let status = board.snapshot();
    assert_eq!(status.shares[0].state, ShareState::Replicating, "as it was posted");
    assert_eq!(status.workers[0].doing, "planning");
    drop(worker);
    assert!(board.snapshot().workers.is_empty());
    // What is no call on a mount may take as long as it likes.
    let worker = share.worker("ingest-1");
    worker.doing("compressing");
    clock.advance(1_000_000);
    assert!(board.snapshot().shares[0].stalls.is_empty());
}

#[test]
fn what_is_posted_is_cut_and_escaped() {
    let (_clock, board) = board();
    let share = homes(&board, Role::Active);
    for n in 0..250 {
        share.problem(&path("BU01/x"), &format!("file {n}: \u{202e}\u{7} \n{}", "y".repeat(5_000)));
    }
    share.problem(&path("BU01/x"), "again");
    share.problem(&path("BU02/y"), "another");
    share.problem(&path("BU01/x"), "again");
    let problems = board.snapshot().shares[0].problems.clone();
    assert_eq!((problems.total, problems.newest.len()), (253, 100));
    assert_eq!((problems.newest[0].text.as_str(), problems.newest[0].times), ("again", 2));
    let text = &problems.newest[5].text;
    assert!(text.len() < 1_100 && !text.contains(char::is_control), "{text}");
    share.solved(Some(&path("BU01/x")));
    assert_eq!(board.snapshot().shares[0].problems.newest.len(), 1);
    share.solved(None);
    assert!(board.snapshot().shares[0].problems.newest.is_empty());

    let names: Vec<RelPath> = (0..1_000).map(|n| path(&format!("acct{n:03}"))).collect();
    share.accounts(names.iter().zip((0..1_000).map(|n| T0 - (n * 7) % 1_000)));
    let accounts = board.snapshot().shares[0].accounts.clone();
    assert_eq!((accounts.count, accounts.worst.len()), (1_000, 10));
    assert_eq!(accounts.worst[0].lag_ms, 999);
    assert!(accounts.worst.is_sorted_by_key(|account| account.time_unix_ms));

    share.holds(vec![Hold { account: "it's\u{1b}".into(), ..Hold::default() }]);
    let next = board.snapshot().shares[0].holds[0].next.clone();
    assert_eq!(next[1], r"farshore brake approve --share homes --only 'it'\''s\u{1b}'");
}

#[test]
fn a_standby_tells_its_lag_by_the_clock_of_the_source() {
    let (clock, board) = board();
    let share = homes(&board, Role::Standby);
    // The source is 5 s ahead; a sample that took long says otherwise and is not believed.
    board.clock_sample(T0, T0 + 5_010, T0 + 20);
    board.clock_sample(T0, T0 + 9_000, T0 + 8_000);
    share.recovery_point(&point(1, T0 + 4_000));
    clock.advance(2_000);
    let status = board.snapshot();
    let clock_status = status.peer.clock.expect("a sample");
    assert_eq!((clock_status.offset_ms, clock_status.warning), (5_000, true));
    assert_eq!(status.shares[0].lag.now_ms, Some(3_000));
    assert_eq!(status.shares[0].lag.hour.expect("a point").max_ms, 3_000);
}

/// Ends threads that look at a flag.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_snapshot_is_of_one_moment_and_readers_do_not_hold_posts_up() {
    let (_clock, board) = board();
    let share = homes(&board, Role::Active);
    share.at_risk(AtRisk { files: 0, bytes: Some(0), bound: Bound::AtMost });
    let stop = AtomicBool::new(false);
    // A reader that sits on a snapshot's facts holds no lock.
    let sat_on = Arc::clone(&board.facts());
    std::thread::scope(|scope| {
        // Also when an assertion fails: a scope waits for its threads.
        let _stops = Stops(&stop);
        for thread in 0..3 {
            let share = share.clone();
            let stop = &stop;
            scope.spawn(move || {
                let worker = share.worker(&format!("worker-{thread}"));
                for n in 0_u64.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    // What is posted together: files and bytes are the same number.
                    let bound = Bound::AtMost;
                    share.at_risk(AtRisk { files: n, bytes: Some(n), bound });
                    let _call = worker.on_mount("statx", &path("a/b"));
                    share.problem(&RelPath::root(), &format!("{}", n % 7));
                }
            });
        }
        for _ in 0..2_000 {
            let status = board.snapshot();
            let at_risk = status.shares[0].at_risk;
            assert_eq!(Some(at_risk.files), at_risk.bytes);
            assert!(status.shares[0].problems.newest.len() <= 7);
        }
    });
    drop(sat_on);
    assert!(board.snapshot().workers.is_empty());
}

#[test]
fn a_removed_share_is_gone_and_a_changed_one_keeps_its_facts() {
    let (_clock, board) = board();
    let share = homes(&board, Role::Active);
    share.recovery_point(&point(4, T0));
    let again = homes(&board, Role::Standby);
    let status = board.snapshot();
    assert_eq!(status.shares[0].role, Role::Standby);
    assert_eq!(status.shares[0].recovery_point.as_ref().map(|p| p.sequence), Some(4));
    board.remove_share("homes");
    again.state(ShareState::Idle, None);
    assert!(board.snapshot().shares.is_empty());
}

#[test]
fn a_clock_set_back_makes_no_lag_vanish() {
    let (clock, board) = board();
    let share = homes(&board, Role::Active);
    share.recovery_point(&point(1, T0 - 1_000));
    clock.advance(4_000);
    clock.jump(-3_600_000);
    assert_eq!(board.snapshot().shares[0].lag.now_ms, Some(5_000));
}

#[test]
fn what_nobody_can_know_is_not_said_to_be_at_most() {
    let (_clock, board) = board();
    let posted = AtRisk { files: 1, bytes: Some(2), bound: Bound::AtMost };
    let active = homes(&board, Role::Active);
    active.at_risk(posted);
    let bound = || board.snapshot().shares[0].at_risk.bound;
    for (state, expected) in [
        (ShareState::Idle, Bound::AtMost),
        (ShareState::WaitingForPeer, Bound::AtMost),
        (ShareState::MountGone, Bound::AtLeast),
        (ShareState::Error, Bound::AtLeast),
    ] {
        active.state(state, None);
        assert_eq!(bound(), expected, "{state:?}");
    }
    let standby = homes(&board, Role::Standby);
    standby.state(ShareState::Idle, None);
    assert_eq!(bound(), Bound::Unknown, "nobody is connected");
    board.connected("a");
    assert_eq!(bound(), Bound::AtMost);
}

#[test]
fn an_objective_that_will_be_broken_is_warned_of_before_it_is() {
    use super::facts::{Backlog, LagStatus, ShareStatus};
    let of = |lag, eta_ms, connected| {
        let share = ShareStatus {
            state: ShareState::Replicating,
            lag: LagStatus { now_ms: lag, hour: None },
            backlog: Some(Backlog { eta_ms, ..Backlog::default() }),
            ..ShareStatus::default()
        };
        let objective = verdict::objective(&share, Some(Duration::from_secs(30)), connected);
        (objective.verdict, objective.breaks_in_ms)
    };
    assert_eq!(of(Some(5_000), Some(20_000), true), (ObjectiveVerdict::Kept, None));
    assert_eq!(of(Some(5_000), Some(26_000), true), (ObjectiveVerdict::Warning, Some(25_000)));
    assert_eq!(of(Some(24_001), None, true), (ObjectiveVerdict::Warning, None));
    assert_eq!(of(Some(5_000), None, false), (ObjectiveVerdict::Warning, Some(25_000)));
    assert_eq!(of(Some(30_001), None, true), (ObjectiveVerdict::Broken, None));
    assert_eq!(of(None, None, true), (ObjectiveVerdict::Broken, None));
}
