//! A daemon's board as others meet it: by the control socket, by HTTP, by the command line; with callers that are
//! slow, many, or say nonsense, and with threads of the daemon that never return.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PATIENCE, command, expect, farshore, is_root, json, shown, text};
use farshore::exit::{Exit, Failure};
use farshore::site::board::clock::{Clock, HandClock};
use farshore::site::board::facts::{
    AtRisk, Bound, Capture, History, Hold, NodeStatus, PolicySummary, Role, Scrub, ScrubAccount,
    ShareState,
};
use farshore::site::board::{Board, BoardConfig, ShareBoard, ShareConfig};
use farshore::site::control::{
    self, CLIENTS_MAX, Commands, Control, DaemonLock, REQUEST_MAX, Request, call, choose_share,
    from_board, socket_path,
};
use farshore::site::metrics::{METRICS, Metrics, exposition};
use farshore_core::digest::RootDigest;
use farshore_core::path::RelPath;
use farshore_core::recovery_point::RecoveryPoint;
use serde_json::{Value, json};

const T0: i64 = 1_795_316_400_000;

/// A daemon without an engine: what it is asked is answered from its board, or as a test wants it.
struct Fake {
    board: Arc<Board>,
    /// Cuts wait for a word on it.
    gate: Mutex<Receiver<()>>,
    asked: Mutex<Vec<Request>>,
}

impl Commands for Fake {
    fn run(&self, request: Request) -> Result<Value, Failure> {
        let request = match from_board(&self.board, request) {
            Ok(answer) => return answer,
            Err(request) => request,
        };
        self.asked.lock().unwrap().push(request.clone());
        match request {
            Request::Cut { .. } => {
                let ended = self.gate.lock().unwrap().recv();
                Ok(json!({"ended": ended.is_ok()}))
            }
            Request::BrakeApprove { share, .. } => {
                choose_share(&["homes", "projects"], share.as_deref())?;
                Ok(json!({"text": "let pass: 12 changes \u{1b}[2J"}))
            }
            Request::Mark { label, .. } => Ok(json!({
                "sequence": 7, "time": "2026-11-22T03:00:00.000Z", "root": "5c", "label": label,
            })),
            Request::Marks { .. } => Ok(json!({"marks": []})),
            Request::Reload {} => panic!("a fault in the daemon (meant by the test)"),
            other => Err(Failure::usage(format!("not here: {other:?}"), "elsewhere")),
        }
    }
}

struct Daemon {
    clock: Arc<HandClock>,
    board: Arc<Board>,
    fake: Arc<Fake>,
    let_go: Option<Sender<()>>,
    control: Option<Control>,
    lock: Option<DaemonLock>,
    state: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.let_go.take();
    }
}

fn board() -> (Arc<HandClock>, Arc<Board>) {
    let clock = Arc::new(HandClock::at(T0));
    let config = BoardConfig {
        site: "production".into(),
        peer: "recovery".into(),
        peer_address: Some("dr.example.net:7411".into()),
        grace: Duration::from_secs(60),
    };
    (Arc::clone(&clock), Board::new(config, clock as Arc<dyn Clock>))
}

fn share(board: &Arc<Board>, name: &str, role: Role) -> ShareBoard {
    board.share(&ShareConfig {
        name,
        path: Path::new("/shared/homes"),
        role,
        epoch: 3,
        objective: Some(Duration::from_secs(30)),
    })
}

fn point(time_unix_ms: i64) -> RecoveryPoint {
    let root = RootDigest([0x5c; 32]);
    RecoveryPoint { sequence: 7, time_unix_ms, root, entries: 10, bytes: 4_096, exceptions: 0 }
}

impl Daemon {
    fn start() -> Self {
        let (clock, board) = board();
        let state = tempfile::Builder::new().prefix("farshore-test").tempdir_in("/tmp").unwrap();
        let (let_go, gate) = channel();
        let fake =
            Fake { board: Arc::clone(&board), gate: Mutex::new(gate), asked: Mutex::default() };
        let fake = Arc::new(fake);
        let lock = DaemonLock::take(state.path()).unwrap();
        let control =
            Control::open(state.path(), &lock, Arc::clone(&fake) as Arc<dyn Commands>).unwrap();
        let (control, lock, let_go) = (Some(control), Some(lock), Some(let_go));
        Self { clock, board, fake, let_go, control, lock, state }
    }

    fn ask(&self, request: &Request) -> Result<Value, Failure> {
        call(self.state.path(), request, PATIENCE)
    }

    fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(socket_path(self.state.path())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What comes back for these bytes, until the daemon hangs up.
    fn raw(&self, bytes: &[u8], hang_up: bool) -> String {
        let mut stream = self.stream();
        // It may have heard enough before all was said.
        drop(stream.write_all(bytes));
        if hang_up {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut answer = Vec::new();
        // A daemon that hangs up on what it did not read resets the line.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8(answer).unwrap()
    }
}

#[test]
fn the_socket_is_ours_alone_and_one_daemon_has_a_state_folder() {
    let mut daemon = Daemon::start();
    let path = socket_path(daemon.state.path());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let second = DaemonLock::take(daemon.state.path()).unwrap_err();
    assert_eq!(second.exit, Exit::Busy, "{second}");
    assert!(second.message.contains("two daemons on one state folder"), "{second}");
    // Somebody removed the lock: the socket still answers.
    std::fs::remove_file(daemon.state.path().join("daemon.lock")).unwrap();
    let lock = DaemonLock::take(daemon.state.path()).unwrap();
    let fake = || Arc::clone(&daemon.fake) as Arc<dyn Commands>;
    let second = Control::open(daemon.state.path(), &lock, fake()).unwrap_err();
    assert_eq!(second.exit, Exit::Busy, "{second}");
    assert!(daemon.ask(&Request::Status {}).is_ok(), "the first one goes on");

    // One that ends in order leaves no socket; a dead one does.
    drop(daemon.control.take());
    assert!(!path.exists());
    drop((lock, daemon.lock.take()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let gone = daemon.ask(&Request::Status {}).unwrap_err();
    assert_eq!(gone.exit, Exit::NoDaemon);
    assert!(gone.message.contains("left by one that is gone"), "{gone}");
    let lock = DaemonLock::take(daemon.state.path()).unwrap();
    let control = Control::open(daemon.state.path(), &lock, fake()).unwrap();
    assert!(daemon.ask(&Request::Status {}).is_ok());
    drop(control);
}

#[test]
fn a_state_folder_with_a_long_name_has_a_socket_too() {
    let daemon = Daemon::start();
    let long = daemon.state.path().join("x".repeat(120));
    std::fs::create_dir(&long).unwrap();
    let lock = DaemonLock::take(&long).unwrap();
    let fake = Arc::clone(&daemon.fake) as Arc<dyn Commands>;
    let _control = Control::open(&long, &lock, fake).unwrap();
    assert!(call(&long, &Request::Status {}, PATIENCE).is_ok());
}

#[test]
fn another_user_is_not_served_even_when_the_mode_lets_it_in() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start();
    for (path, mode) in
        [(daemon.state.path().to_path_buf(), 0o755), (socket_path(daemon.state.path()), 0o666)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut other = command(&["status", "--state", text(daemon.state.path())]);
    let out = other.uid(65_534).gid(65_534).output().unwrap();
    expect(&out, 3, &["user 65534 is not served"]);
}

#[test]
fn nonsense_is_answered_by_what_is_wrong_with_it() {
    let daemon = Daemon::start();
    for bad in [
        "\n",
        "{}\n",
        "[1]\n",
        "status\n",
        "{\"command\": \"status\", \"more\": 1}\n",
        "{\"command\": \"no such\"}\n",
        "{\"command\": \"mark\"}\n",
        "{\"command\": \"status\"} {\"command\": \"status\"}\n",
        "\u{0}\u{1b}[2J\n",
    ] {
        let answer: Value = serde_json::from_str(&daemon.raw(bad.as_bytes(), false)).unwrap();
        assert_eq!(answer["error"]["exit"], 2, "{bad:?}: {answer}");
    }
    let answer = daemon.raw(b"\xff\xfe\n", false);
    assert!(answer.contains("\"exit\":2"), "{answer}");
    // Half of a request and nothing more.
    assert_eq!(daemon.raw(b"{\"command\": \"sta", true), "");
    assert_eq!(daemon.raw(b"", true), "");
    // As long as allowed, and one byte longer.
    let padded = |length: usize| {
        let mut text = b"{\"command\": \"status\"}".to_vec();
        text.resize(length, b' ');
        text.push(b'\n');
        text
    };
    assert!(daemon.raw(&padded(REQUEST_MAX), true).starts_with("{\"ok\":"));
    assert!(!daemon.raw(&padded(REQUEST_MAX + 1), true).contains("\"ok\""));
    assert!(!daemon.raw(&vec![b'x'; 1 << 20], true).contains("\"ok\""));
    // Several on one line, one after the other.
    let two = daemon.raw(b"{\"command\": \"status\"}\n{\"command\": \"status\"}\n", true);
    assert_eq!(two.lines().count(), 2);
    assert!(daemon.ask(&Request::Status {}).is_ok(), "it goes on");
}

#[test]
fn a_hundred_callers_are_all_answered() {
    let daemon = Daemon::start();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..100)
            .map(|n| {
                let daemon = &daemon;
                scope.spawn(move || match n % 4 {
                    0 => daemon.ask(&Request::BrakeShow { share: None }),
                    _ => daemon.ask(&Request::Status {}),
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap().unwrap();
        }
    });
}

#[test]
fn callers_that_say_nothing_or_read_nothing_are_put_out() {
    let daemon = Daemon::start();
    let homes = share(&daemon.board, "homes", Role::Active);
    for n in 0..100 {
        // An answer that no socket buffer holds.
        homes.problem(&RelPath::root(), &format!("{n} {}", "long words ".repeat(90)));
    }
    let mut deaf = daemon.stream();
    let many = "{\"command\": \"status\"}\n".repeat(20);
    deaf.write_all(many.as_bytes()).unwrap();
    let silent: Vec<UnixStream> = (0..CLIENTS_MAX).map(|_| daemon.stream()).collect();
    assert!(daemon.ask(&Request::Status {}).is_ok());
    drop((silent, deaf));
}

#[test]
fn commands_that_never_end_leave_room_for_status() {
    let daemon = Daemon::start();
    std::thread::scope(|scope| {
        let cuts: Vec<_> = (0..CLIENTS_MAX / 2)
            .map(|_| scope.spawn(|| daemon.ask(&Request::Cut { share: None })))
            .collect();
        while daemon.fake.asked.lock().unwrap().len() < cuts.len() {
            std::thread::yield_now();
        }
        let busy = daemon.ask(&Request::Cut { share: None }).unwrap_err();
        assert_eq!(busy.exit, Exit::Busy, "{busy}");
        for _ in 0..20 {
            assert!(daemon.ask(&Request::Status {}).is_ok());
        }
        for _ in &cuts {
            daemon.let_go.as_ref().unwrap().send(()).unwrap();
        }
        for cut in cuts {
            assert_eq!(cut.join().unwrap().unwrap(), json!({"ended": true}));
        }
    });
    let failed = daemon.ask(&Request::Reload {}).unwrap_err();
    assert_eq!(failed.exit, Exit::Internal);
    assert!(daemon.ask(&Request::Status {}).is_ok(), "the daemon goes on");
}

#[test]
fn a_thread_that_never_returns_from_its_mount_is_shown_by_everyone() {
    let daemon = Daemon::start();
    let homes = share(&daemon.board, "homes", Role::Active);
    homes.state(ShareState::Replicating, None);
    let metrics = Metrics::open("127.0.0.1:0".parse().unwrap(), Arc::clone(&daemon.board)).unwrap();
    let (let_go, stuck) = channel::<()>();
    let (begun, began) = channel();
    let thread = std::thread::spawn(move || {
        let worker = homes.worker("scanner-1");
        let _call = worker.on_mount("statx", &RelPath::new(*b"BU01/acct7").unwrap());
        begun.send(()).unwrap();
        stuck.recv().unwrap_or(());
    });
    began.recv().unwrap();
    daemon.clock.advance(42_000);
    let status = daemon.ask(&Request::Status {}).unwrap();
    assert_eq!(status["shares"][0]["state"], "stalled");
    assert_eq!(status["shares"][0]["state_text"], "statx of BU01/acct7 for 42 s");
    let (code, body) = get(&metrics, "GET /healthz HTTP/1.1\r\n\r\n");
    assert_eq!(code, 503);
    assert!(body.contains("homes: stalled: statx of BU01/acct7 for 42 s\n"), "{body}");
    let (_, body) = get(&metrics, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(body.contains("farshore_stalled_seconds{share=\"homes\"} 42\n"), "{body}");
    drop(let_go);
    thread.join().unwrap();
    assert_eq!(daemon.ask(&Request::Status {}).unwrap()["shares"][0]["state"], "replicating");
}

/// Everything there is to post.
fn post_all(board: &Arc<Board>) {
    board.connected("192.0.2.7:7411");
    board.link(Duration::from_millis(12), 5_000, 700);
    board.clock_sample(T0, T0 + 3, T0 + 12);
    for (name, role) in [("homes", Role::Active), ("odd \"\\\n\u{1b} name", Role::Standby)] {
        let share = share(board, name, role);
        share.state(ShareState::Idle, Some("text"));
        share.recovery_point(&point(T0 - 2_000));
        share.peer_recovery_point(&point(T0 - 2_000));
        share.at_risk(AtRisk { files: 4, bytes: Some(120 << 10), bound: Bound::AtMost });
        share.cut_began(Arc::default());
        share.capture(Capture {
            method: "fanotify".into(),
            coverage_percent: 99.5,
            whole_look_percent: Some(41.0),
            last_look_unix_ms: Some(T0 - 9_000),
            last_look_took_ms: Some(7_000),
            overflows: 1,
            start: "resumes: 3 journaled paths, no look at the whole tree".into(),
            whole_looks: 0,
            looked_at: 12,
            nodes: vec![NodeStatus {
                name: "node1".into(),
                last_heard_unix_ms: Some(T0),
                state: "ok".into(),
            }],
        });
        share.accounts([(&RelPath::new(*b"acct7").unwrap(), T0 - 2_000)]);
        share.scrub(Scrub {
            oldest_verified_unix_ms: Some(T0 - 99_000),
            worst: vec![ScrubAccount::default()],
            progress_percent: Some(3.0),
            found: 1,
            repaired: 1,
        });
        let (oldest, newest) = (Some(T0 - 99_000), Some(T0));
        share.history(History {
            bytes: 10,
            sets: 2,
            oldest_unix_ms: oldest,
            newest_unix_ms: newest,
        });
        share.policy(PolicySummary {
            digest: "77".into(),
            names: vec!["mft-defaults".into()],
            detached: 3,
            faults: 0,
        });
        share.problem(&RelPath::root(), "a problem");
        share.degraded(&BTreeMap::from([("owner".to_owned(), 3)]));
        share.heard_from_source();
        share.foreign(3, 2, 1);
    }
}

fn hold(share: &ShareBoard) {
    share.holds(vec![Hold {
        id: "7f3a".into(),
        account: "BU01/acct7".into(),
        reasons: vec!["38 % would be deleted".into()],
        counts: BTreeMap::from([("removed".to_owned(), 12)]),
        since_unix_ms: T0 - 5_000,
        last_good_point: Some(6),
        point_unix_ms: Some(T0 - 6_000),
        ..Hold::default()
    }]);
}

fn get(metrics: &Metrics, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(metrics.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap();
    if !request.starts_with("HEAD") {
        assert_eq!(length.parse::<usize>().unwrap(), body.len());
    }
    (code, body.to_owned())
}

/// The text format, strictly: families in one piece, each declared once before its samples, no sample twice.
fn parse(text: &str) -> BTreeMap<String, Vec<(String, f64)>> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let mut families: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let mut declared: (String, u8) = Default::default();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        assert!(!line.contains(char::is_control), "{line:?}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && !help.is_empty(), "{line}");
            assert!(families.insert(name.to_owned(), Vec::new()).is_none(), "twice: {line}");
            declared = (name.to_owned(), 1);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(declared == (name.to_owned(), 1), "{line}");
            assert!(["gauge", "counter"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            declared.1 = 2;
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            assert!(declared == (name.to_owned(), 2), "{line}");
            if !labels.is_empty() {
                parse_labels(labels.strip_suffix('}').unwrap());
            }
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite());
            let family = families.get_mut(name).unwrap();
            assert!(family.iter().all(|(other, _)| other != series), "twice: {line}");
            family.push((series.to_owned(), value));
        }
    }
    assert!(families.values().all(|samples| !samples.is_empty()));
    families
}

fn parse_labels(text: &str) {
    let mut rest = text;
    loop {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(name.chars().all(|c| c.is_ascii_lowercase()) && !name.is_empty(), "{text}");
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("no end: {text}")) {
                (end, '"') => break end,
                (_, '\\') => {
                    let escaped = chars.next().map(|(_, c)| c);
                    assert!(matches!(escaped, Some('\\' | '"' | 'n')), "{text}");
                }
                _ => {}
            }
        };
        match value[end + 1..].strip_prefix(',') {
            Some(more) => rest = more,
            None => return assert_eq!(&value[end + 1..], "", "{text}"),
        }
    }
}

#[test]
fn metrics_are_of_the_format_and_all_documented() {
    let (_clock, board) = board();
    parse(&exposition(&board.snapshot()));
    post_all(&board);
    hold(&share(&board, "homes", Role::Active));
    let status = board.snapshot();
    let families = parse(&exposition(&status));
    let names: BTreeSet<&str> = families.keys().map(String::as_str).collect();
    let all: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names, all, "every one has a value here");
    let page = include_str!("../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `farshore_"));
    let on_page: BTreeSet<String> =
        rows.map(|row| format!("farshore_{}", row.split(['`', '{']).next().unwrap())).collect();
    assert_eq!(on_page, all.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
    for metric in METRICS {
        let row = page.lines().find(|l| l.starts_with(&format!("| `{}", metric.name))).unwrap();
        assert!(row.contains(metric.kind), "{row}");
    }
    let states = &families["farshore_share_state"];
    assert_eq!(states.iter().map(|(_, value)| value).sum::<f64>(), 2.0, "one a share");
}

#[test]
fn healthz_is_200_only_when_nothing_stands_against_it() {
    let (_clock, board) = board();
    let metrics = Metrics::open("127.0.0.1:0".parse().unwrap(), Arc::clone(&board)).unwrap();
    let health = || get(&metrics, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(health().0, 503);
    post_all(&board);
    assert_eq!(health(), (200, "ok\n".into()));
    let homes = share(&board, "homes", Role::Active);
    hold(&homes);
    let (code, body) = health();
    assert_eq!(code, 503);
    assert_eq!(body, "homes: held: the brake holds account BU01/acct7: 38 % would be deleted\n");
    homes.holds(Vec::new());
    assert_eq!(health().0, 200);
    assert_eq!(get(&metrics, "HEAD /healthz HTTP/1.0\r\n\r\n"), (200, String::new()));
    assert_eq!(get(&metrics, "GET /else HTTP/1.1\r\n\r\n").0, 404);
    assert_eq!(get(&metrics, "PUT /metrics HTTP/1.1\r\n\r\n").0, 405);
    assert_eq!(get(&metrics, "nonsense\r\n\r\n").0, 400);
    assert_eq!(get(&metrics, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(8_400))).0, 431);
    // Callers that say nothing are put out.
    let silent: Vec<_> = (0..8).map(|_| TcpStream::connect(metrics.address()).unwrap()).collect();
    assert_eq!(health().0, 200);
    drop(silent);
}

/// Keys of the object at any depth; of maps whose keys are data, none.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                found.insert(key.clone());
                if !["counts", "degraded"].contains(&key.as_str()) {
                    keys(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_command_line_tells_what_the_daemon_tells() {
    let daemon = Daemon::start();
    let state = text(daemon.state.path()).to_owned();
    let status =
        |more: &[&str]| farshore(&[&["status", "--state", state.as_str()][..], more].concat());
    expect(&status(&[]), 10, &["NOT READY: no share is configured"]);
    post_all(&daemon.board);
    let out = status(&[]);
    expect(&out, 0, &["READY: if we failed over now, 2 s of changes (8 files, 240 KiB at most)"]);
    assert!(!shown(&out).contains('\u{1b}'), "{}", shown(&out));
    let _worker = daemon.board.worker(Some("homes"), "scanner-1");
    let homes = share(&daemon.board, "homes", Role::Active);
    hold(&homes);
    let out = status(&["--json"]);
    assert_eq!(out.status.code(), Some(10));
    let object = json(&out);
    assert_eq!(object["shares"][0]["holds"][0]["id"], "7f3a");
    let page = include_str!("../docs/output.md");
    let start = page.find("## status --json of a site").expect("a section");
    let section = &page[start..];
    let section = &section[..section[3..].find("\n## ").unwrap_or(section.len() - 3) + 3];
    let named: BTreeSet<&str> = section.split('`').skip(1).step_by(2).collect();
    let mut found = BTreeSet::new();
    keys(&object, &mut found);
    let missing: Vec<_> = found.iter().filter(|key| !named.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "printed, but not on the page: {missing:?}");

    let brake =
        |more: &[&str]| farshore(&[&["brake"][..], more, &["--state", state.as_str()]].concat());
    expect(
        &brake(&["show"]),
        5,
        &[
            "share homes, account BU01/acct7: held for 5 s (id 7f3a)",
            "farshore brake approve --share homes --only BU01/acct7 --id 7f3a",
        ],
    );
    expect(&brake(&["show", "--share", "no"]), 2, &["share 'no'", "homes"]);
    expect(&brake(&["approve"]), 2, &["give --share NAME; this site has: homes, projects"]);
    let approve = brake(&["approve", "--share", "homes", "--only", "BU01/acct7", "--id", "7f3a"]);
    expect(&approve, 0, &["let pass: 12 changes \\u{1b}[2J"]);
    assert!(daemon.fake.asked.lock().unwrap().contains(&Request::BrakeApprove {
        share: Some("homes".into()),
        account: Some("BU01/acct7".into()),
        id: Some("7f3a".into()),
    }));
    homes.holds(Vec::new());
    expect(&brake(&["show"]), 0, &["holds nothing"]);
    let mark =
        |more: &[&str]| farshore(&[&["mark"][..], more, &["--state", state.as_str()]].concat());
    expect(&mark(&["create", "--label", "lsn 4/2"]), 0, &["recovery point 7 of", ": lsn 4/2"]);
    expect(&mark(&["list", "--share", "homes"]), 0, &["no marks"]);

    // By the config, and where nobody is.
    let config = daemon.state.path().join("site.toml");
    std::fs::write(&config, format!("[site]\nname = \"a\"\nstate = \"{state}\"\n[peer]\n"))
        .unwrap();
    expect(&farshore(&["status", "--config", text(&config)]), 0, &["READY: "]);
    let nowhere = daemon.state.path().join("nowhere");
    let out = farshore(&["status", "--json", "--state", text(&nowhere)]);
    expect(&out, 11, &["no daemon runs here"]);
    assert_eq!(json(&out)["exit"], 11);
    for wrong in
        [&["status", "/tmp"][..], &["status", "--detached"], &["brake"], &["mark", "create"]]
    {
        expect(&farshore(wrong), 2, &[]);
    }
    assert_eq!(control::choose_share(&["a"], None).unwrap(), "a");
}
