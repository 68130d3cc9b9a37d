//! Screens as they are meant to look, one file each in `golden/`. `FARSHORE_BLESS=1` writes them anew: read the
//! difference before it is committed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use farshore_core::digest::RootDigest;
use farshore_core::path::RelPath;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_engine::progress::Progress;

use super::*;
use crate::site::board::clock::{Clock, HandClock};
use crate::site::board::facts::{
    AtRisk, History, Hold, LargeFile, NodeStatus, PolicySummary, Scrub,
};
use crate::site::board::{Board, BoardConfig, ShareBoard, ShareConfig};

/// 2026-11-22, 03:00:00 UTC.
const THREE_AM: i64 = 1_795_316_400_000;

struct Scene {
    clock: Arc<HandClock>,
    board: Arc<Board>,
    share: ShareBoard,
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

fn point(sequence: u64, time_unix_ms: i64) -> RecoveryPoint {
    let mut root = [0x5c; 32];
    root[0] = 0x1a;
    let root = RootDigest(root);
    RecoveryPoint {
        sequence,
        time_unix_ms,
        root,
        entries: 1_204_332,
        bytes: 4_617_089_843_200,
        exceptions: 0,
    }
}

fn scene(role: Role) -> Scene {
    let clock = Arc::new(HandClock::at(THREE_AM - 3_600_000));
    let (site, peer) = match role {
        Role::Active => ("production", "recovery"),
        Role::Standby => ("recovery", "production"),
    };
    let config = BoardConfig {
        site: site.into(),
        peer: peer.into(),
        peer_address: Some("dr.example.net:7411".into()),
        grace: Duration::from_secs(60),
    };
    let board = Board::new(config, Arc::clone(&clock) as Arc<dyn Clock>);
    let share = board.share(&ShareConfig {
        name: "homes",
        path: Path::new("/shared/homes"),
        role,
        epoch: 3,
        objective: Some(Duration::from_secs(30)),
    });
    board.connected("dr.example.net:7411");
    Scene { clock, board, share }
}

/// An hour of cuts every 4 seconds, the last one 3 seconds ago.
fn ready() -> Scene {
    let scene = scene(Role::Active);
    scene.share.capture(Capture {
        method: "fanotify".into(),
        coverage_percent: 100.0,
        whole_look_percent: Some(41.0),
        last_look_unix_ms: Some(THREE_AM - 2_400_000),
        last_look_took_ms: Some(720_000),
        overflows: 0,
        start: "resumes: 3 journaled paths, no look at the whole tree".into(),
        whole_looks: 0,
        looked_at: 12,
        nodes: ["node1", "node2"]
            .map(|name| NodeStatus {
                name: name.into(),
                last_heard_unix_ms: Some(THREE_AM - 1_000),
                state: "ok".into(),
            })
            .to_vec(),
    });
    scene.share.state(ShareState::Idle, None);
    let begin = scene.clock.wall_ms();
    for n in 0..900 {
        scene.share.recovery_point(&point(
            334 + n,
            begin + i64::try_from(n).expect("small") * 4_000 - 500,
        ));
        scene.clock.advance(4_000);
        scene.board.link(Duration::from_micros(12_300), n * 4_600_000, n * 37_000);
    }
    scene.share.recovery_point(&point(1_234, THREE_AM - 500));
    scene.share.peer_recovery_point(&point(1_234, THREE_AM - 500));
    scene.share.history(History {
        bytes: 93_000_000_000,
        sets: 12_345,
        oldest_unix_ms: Some(THREE_AM - 14 * 86_400_000),
        newest_unix_ms: Some(THREE_AM),
    });
    scene.share.scrub(Scrub {
        oldest_verified_unix_ms: Some(THREE_AM - 6 * 86_400_000),
        progress_percent: Some(37.5),
        ..Scrub::default()
    });
    scene.share.policy(PolicySummary {
        digest: "77".repeat(32),
        names: vec!["mft-defaults".into()],
        detached: 312,
        faults: 0,
    });
    let accounts = [(path("BU01/acct7"), THREE_AM - 500), (path("BU01/acct8"), THREE_AM + 800)];
    scene.share.accounts(accounts.iter().map(|(account, time)| (account, *time)));
    scene.share.at_risk(AtRisk { files: 4, bytes: Some(120 << 10), bound: Bound::AtMost });
    scene.clock.advance(2_500);
    scene
}

#[track_caller]
fn golden(name: &str, scene: &Scene) {
    let text = screen(&scene.board.snapshot(), false);
    for line in text.lines() {
        let long_word =
            line.trim_start().split(' ').any(|word| word.chars().count() > WIDTH - COLUMN);
        assert!(line.chars().count() <= WIDTH || long_word, "{line}");
        assert_eq!(line.trim_end(), line);
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("src/cli/status/screen/golden/{name}.txt"));
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        std::fs::write(&file, &text).expect("written");
    }
    let expected = std::fs::read_to_string(&file).expect("a golden screen");
    assert_eq!(text, expected, "{name}:\n{text}");
}

#[test]
fn a_site_that_is_ready() {
    let scene = ready();
    golden("ready", &scene);
    let plain = screen(&scene.board.snapshot(), false);
    let coloured = screen(&scene.board.snapshot(), true);
    assert!(coloured.starts_with("\x1b[1;32mREADY\x1b[0m:"), "{coloured}");
    let stripped = coloured.replace("\x1b[1;32m", "").replace("\x1b[0m", "");
    assert_eq!(stripped, plain, "colour says nothing that words do not");
}

#[test]
fn a_site_that_lags() {
    let scene = ready();
    scene.share.state(ShareState::Replicating, None);
    let progress = Arc::new(Progress::default());
    progress.planned.store(84_000, Relaxed);
    progress.planned_bytes.store(40 << 30, Relaxed);
    scene.share.cut_began(Arc::clone(&progress));
    progress.done.store(21_000, Relaxed);
    progress.read_bytes.store(10 << 30, Relaxed);
    scene.share.at_risk(AtRisk { files: 84_210, bytes: Some(41 << 30), bound: Bound::AtLeast });
    scene.share.large_files(vec![LargeFile {
        path: "BU01/acct3/in/ledger_20261126.dat".into(),
        bytes: 12 << 30,
        bytes_left: 5 << 30,
        rate: 40 << 20,
        eta_ms: Some(128_000),
    }]);
    scene.share.problem(&path("BU01/acct9"), "in/report.pdf: reading: permission denied");
    scene.share.problem(&path("BU01/acct9"), "in/report.pdf: reading: permission denied");
    scene.clock.advance(95_000);
    golden("lagging", &scene);
}

#[test]
fn a_site_that_is_held() {
    let scene = ready();
    scene.share.state(ShareState::Held, None);
    scene.share.holds(vec![Hold {
        id: "7f3a".into(),
        account: "BU01/acct7".into(),
        reasons: vec![
            "38 % of its entries would be deleted within 1 h".into(),
            "the canary .canary/do-not-touch.docx was changed".into(),
        ],
        counts: [("removed".to_owned(), 12_904), ("replaced".to_owned(), 77)].into(),
        since_unix_ms: THREE_AM - 240_000,
        last_good_point: Some(1_190),
        ..Hold::default()
    }]);
    golden("held", &scene);
}

#[test]
fn a_site_that_is_not_connected() {
    let scene = ready();
    scene.board.disconnected("timed out", Some(Duration::from_secs(5)));
    scene.share.state(ShareState::WaitingForPeer, None);
    scene.clock.advance(1_300_000);
    scene.board.disconnected("no answer within 10 s", Some(Duration::from_secs(30)));
    golden("disconnected", &scene);
    // A site that is alone replicates nothing, and yet hears the other one.
    scene.board.answers(true);
    let text = screen(&scene.board.snapshot(), false);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("answers; nothing is replicated for 21 m"), "{text}");
    assert!(!text.contains("NOT CONNECTED"), "{text}");
}

/// Opening a site without the other one is no next step as long as that one answers, nor is its cost a headline
/// where it was done.
#[test]
fn what_may_be_typed_next() {
    let shown = |role, phase: &str, peer: &str, answers| {
        let scene = scene(role);
        scene.share.recovery_point(&point(7, THREE_AM));
        scene.board.answers(answers);
        let forced = "farshore failover --force".to_owned();
        let roles = RoleStatus {
            phase: phase.into(),
            peer_phase: Some(peer.into()),
            peer_epoch: Some(3),
            next: match phase {
                "alone" => vec!["farshore failback plan".into()],
                _ => vec![forced],
            },
            ..RoleStatus::default()
        };
        scene.share.roles(roles, 3);
        let text = screen(&scene.board.snapshot(), false);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let lost = "only if the other site is lost: farshore failover --force";
    let standby = shown(Role::Standby, "standby", "active", true);
    assert!(standby.contains("next farshore switchover, at the other site"), "{standby}");
    assert!(standby.contains(lost), "{standby}");
    let stranded = shown(Role::Standby, "stranded", "alone", true);
    assert!(stranded.contains("next farshore failback plan, at the other site"), "{stranded}");
    assert!(!stranded.contains("if we failed over now"), "{stranded}");
    let cut_off = shown(Role::Standby, "standby", "active", false);
    assert!(cut_off.contains("next farshore failover --force"), "{cut_off}");
    assert!(cut_off.contains("if we failed over now"), "{cut_off}");
    let alone = shown(Role::Active, "alone", "stranded", true);
    assert!(alone.contains("next farshore failback plan"), "{alone}");
    assert!(!alone.contains("if we failed over now"), "{alone}");
}

#[test]
fn a_site_whose_mount_stalls() {
    let scene = ready();
    scene.share.state(ShareState::Replicating, None);
    let worker = scene.share.worker("scanner-2");
    let _call = worker.on_mount("statx", &path("BU01/acct7/in/\u{1b}report.pdf"));
    scene.clock.advance(42_000);
    golden("stalled", &scene);
}

#[test]
fn a_site_that_makes_its_first_copy() {
    let scene = scene(Role::Active);
    scene.share.state(ShareState::Seeding, None);
    let progress = Arc::new(Progress::default());
    progress.scanned.store(1_234_567, Relaxed);
    scene.share.cut_began(progress);
    scene.clock.advance(3_600_000);
    golden("seeding", &scene);
}

#[test]
fn a_standby() {
    let scene = scene(Role::Standby);
    scene.board.clock_sample(THREE_AM, THREE_AM + 4_010, THREE_AM + 20);
    scene.share.state(ShareState::Idle, None);
    scene.clock.advance(3_600_000 - 2_000);
    scene.share.recovery_point(&point(1_234, THREE_AM + 1_000));
    scene.share.heard_from_source();
    scene.share.foreign(12, 11, 12);
    scene.share.degraded(&[("owner".to_owned(), 12_u64)].into());
    scene.share.at_risk(AtRisk { files: 0, bytes: Some(0), bound: Bound::AtMost });
    scene.clock.advance(2_000);
    golden("standby", &scene);
}

#[test]
fn long_words_are_not_cut() {
    let long = "x".repeat(100);
    assert_eq!(wrapped(3, &format!("a {long} b")), format!("a\n   {long}\n   b"));
    assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
}

#[test]
fn a_cut_says_what_is_left_and_when_it_ends() {
    let mut cut = Backlog {
        phase: "replicating".into(),
        changes: 84_000,
        changes_left: 63_000,
        bytes: 40 << 30,
        bytes_left: 30 << 30,
        rate: 108 << 20,
        eta_ms: Some(284_000),
        for_ms: 95_000,
        scanned: 0,
    };
    let left = "63,000 of 84,000 changes and 30.0 GiB of 40.0 GiB left, 108 MiB/s, done in 4 min";
    assert_eq!(backlog(&cut), left);
    cut.phase = "sealing".into();
    (cut.rate, cut.eta_ms) = (0, None);
    assert_eq!(backlog(&cut), "sealing, for 95 s");
}
