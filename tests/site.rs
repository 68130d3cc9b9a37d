//! Two sites from nothing: configurations, keys, pairing by a code and by ids, what is refused.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::thread;

use common::{command, expect, farshore, finish, json, text};
use farshore::site::confine::{Confined, Confinement, confine};
use farshore_engine::io::Storage;
use farshore_engine::io::batch::SmallFile;
use farshore_engine::io::uring::{IoMode, UringStorage};
use farshore_proto::link::Link;
use farshore_transport::{Listener, SiteKey, TransportConfig, dial_pairing};
use tempfile::TempDir;

struct Pair {
    folder: TempDir,
}

impl Pair {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("farshore-site").tempdir_in("/tmp").unwrap();
        for name in ["production", "recovery"] {
            let out = farshore(&["key", "--state", text(&folder.path().join(name))]);
            expect(&out, 0, &[]);
        }
        Self { folder }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self, name: &str) -> String {
        let out = farshore(&["key", "--state", text(&self.state(name))]);
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn pair(&self, name: &str, more: &[&str]) -> Output {
        let state = self.state(name);
        farshore(&[&["pair", "--state", text(&state), "--name", name], more].concat())
    }

    /// What `name` trusts, as text.
    fn trusted(&self, name: &str) -> String {
        let out = farshore(&["pair", "--list", "--state", text(&self.state(name))]);
        expect(&out, 0, &[]);
        String::from_utf8(out.stdout).unwrap()
    }
}

/// A site that shows a code.
struct Showing {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    code: String,
    addr: SocketAddr,
}

impl Showing {
    fn start(pair: &Pair, name: &str, more: &[&str]) -> Self {
        let state = pair.state(name);
        let args = ["pair", "--listen", "127.0.0.1:0", "--state", text(&state), "--name", name];
        let mut child =
            command(&[&args[..], more].concat()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line
        };
        let code = line().strip_prefix("code ").unwrap().trim().to_owned();
        let listening = line();
        let addr = listening.split(' ').nth(2).unwrap().parse().unwrap();
        Self { child, out, code, addr }
    }

    fn dial(&self, pair: &Pair, name: &str, code: &str) -> Output {
        pair.pair(name, &[&self.addr.to_string(), "--code", code])
    }

    /// Its exit code, and all it said.
    fn end(mut self) -> (i32, String) {
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        let out = finish(self.child, &["pair", "--listen"]);
        (out.status.code().unwrap(), said + &String::from_utf8(out.stderr).unwrap())
    }
}

/// A code that is not `code`.
fn another(code: &str) -> String {
    let first = if code.starts_with('0') { "1" } else { "0" };
    format!("{first}{}", &code[1..])
}

#[test]
fn two_sites_pair_by_a_code_and_both_show_both_keys() {
    let pair = Pair::new();
    let showing = Showing::start(&pair, "recovery", &[]);
    let (ours, theirs) = (pair.key("production"), pair.key("recovery"));
    let wrong = showing.dial(&pair, "production", &another(&showing.code));
    expect(&wrong, 4, &["the other site refuses", "the code is not the one shown"]);
    assert_eq!(pair.trusted("production"), "nobody is trusted yet\n");
    let right = showing.dial(&pair, "production", &showing.code.to_lowercase());
    expect(&right, 0, &["'recovery' trusted", &ours, &theirs]);
    let addr = showing.addr;
    let code = showing.code.clone();
    let (exit, said) = showing.end();
    assert_eq!(exit, 0, "{said}");
    for words in ["'production' trusted", &ours, &theirs, "2 attempts left"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(pair.trusted("production").contains(&theirs));
    assert!(pair.trusted("recovery").contains(&ours));
    let mode = std::fs::metadata(pair.state("recovery").join("trust.toml")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    // The code was used, and nobody waits any more.
    let again = pair.pair("production", &[&addr.to_string(), "--code", &code]);
    expect(&again, 4, &["nothing answers"]);
}

#[test]
fn three_wrong_codes_end_the_waiting() {
    let pair = Pair::new();
    let showing = Showing::start(&pair, "recovery", &[]);
    for _ in 0..3 {
        expect(&showing.dial(&pair, "production", &another(&showing.code)), 4, &["code"]);
    }
    let (exit, said) = showing.end();
    assert_eq!(exit, 4, "{said}");
    assert!(said.contains("tried 3 times and is dead"), "{said}");
    assert_eq!(pair.trusted("recovery"), "nobody is trusted yet\n");
}

#[test]
fn a_code_that_nobody_used_expires() {
    let pair = Pair::new();
    let showing = Showing::start(&pair, "recovery", &["--for", "50ms"]);
    let (exit, said) = showing.end();
    assert_eq!(exit, 4, "{said}");
    assert!(said.contains("the code has expired"), "{said}");
    expect(&pair.pair("recovery", &["--listen", "127.0.0.1:0", "--for", "6m"]), 2, &["5m at most"]);
}

/// One in the middle has a key of its own, gets a connection to each end, and passes everything on.
#[test]
fn a_relay_with_a_key_of_its_own_pairs_nobody() {
    let pair = Pair::new();
    let showing = Showing::start(&pair, "recovery", &[]);
    let key = SiteKey::generate().unwrap();
    let config = TransportConfig::pairing();
    let near = Listener::bind_pairing(([127, 0, 0, 1], 0).into(), &key, config.clone(), |_| ());
    let near = near.unwrap();
    let (addr, to) = (near.local_addr(), showing.addr);
    let relay = thread::spawn(move || {
        let dialer = near.accept().unwrap().link;
        let listener = dial_pairing(to, &key, &config).unwrap();
        let mut passed = 0;
        for n in 0_usize.. {
            let (from, to) = if n % 2 == 0 { (&dialer, &listener) } else { (&listener, &dialer) };
            let Ok(Some(message)) = from.recv_control() else { break };
            if to.send_control(message).is_err() {
                break;
            }
            passed += 1;
        }
        dialer.finish_control().unwrap_or(());
        listener.finish_control().unwrap_or(());
        passed
    });
    let caught = pair.pair("production", &[&addr.to_string(), "--code", &showing.code]);
    expect(&caught, 4, &["somebody is between the two sites", "nothing was written"]);
    assert!(relay.join().unwrap() >= 3, "it passed the exchange on");
    assert_eq!(pair.trusted("production"), "nobody is trusted yet\n");
    // Without it the same code is still good.
    expect(&showing.dial(&pair, "production", &showing.code), 0, &["trusted"]);
    assert_eq!(showing.end().0, 0);
}

#[test]
fn keys_are_trusted_by_id_and_revoked_for_good() {
    let pair = Pair::new();
    let theirs = pair.key("recovery");
    let trust = |key: &str| pair.pair("production", &["--trust", key, "--as", "recovery"]);
    expect(&trust(&theirs), 0, &["'recovery' trusted", &theirs]);
    expect(&trust(&theirs), 0, &["already trusted"]);
    expect(&trust(&pair.key("production")), 2, &["own key"]);
    let revoked = pair.pair("production", &["--revoke", &theirs, "--because", "stolen"]);
    expect(&revoked, 0, &["revoked", &theirs, "'recovery'"]);
    assert!(pair.trusted("production").contains("stolen"));
    expect(&trust(&theirs), 3, &["never trusted again", "stolen"]);
    expect(&pair.pair("production", &["--revoke", &pair.key("production")]), 3, &["is not known"]);
    let listed =
        farshore(&["pair", "--list", "--json", "--state", text(&pair.state("production"))]);
    assert_eq!(json(&listed)["peers"][0]["keys"][0]["state"], "revoked");
}

#[test]
fn a_broken_trust_store_is_said_before_anybody_is_asked() {
    let pair = Pair::new();
    std::fs::write(pair.state("production").join("trust.toml"), "version = 1\n").unwrap();
    for more in [&["--list"][..], &["127.0.0.1:9", "--code", "00000000"]] {
        expect(&pair.pair("production", more), 3, &["trust.toml", "until then nobody is let in"]);
    }
    std::fs::remove_file(pair.state("production").join("trust.toml")).unwrap();
    let key = pair.key("recovery");
    expect(&pair.pair("production", &["--trust", &key, "--as", "recovery"]), 0, &[]);
    let file = pair.state("production").join("trust.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    expect(
        &pair.pair("production", &["--list"]),
        3,
        &["others may write it (mode 0666)", "chmod 600"],
    );
}

#[test]
fn a_key_is_changed_in_steps() {
    let pair = Pair::new();
    let state = pair.state("production");
    let key = |more: &[&str]| farshore(&[&["key"], more, &["--state", text(&state)]].concat());
    let former = pair.key("production");
    expect(&key(&["retire"]), 3, &["no change of keys is under way", "farshore key rotate"]);
    let rotated = json(&key(&["rotate", "--json"]));
    assert_eq!(rotated["current"], former);
    let next = rotated["next"].as_str().unwrap().to_owned();
    assert_eq!(pair.key("production"), former, "it stays in use");
    let theirs = pair.key("recovery");
    expect(&pair.pair("production", &["--trust", &theirs, "--as", "recovery"]), 0, &[]);
    expect(&key(&["retire"]), 3, &["'recovery' has not acknowledged", &next]);
    expect(&key(&["retire", "--force"]), 0, &["retired", &former, &next]);
    assert_eq!(pair.key("production"), next);
}

#[test]
fn a_site_is_begun_once_and_pairs_by_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("site.toml"), folder.path().join("state"));
    let args = [
        "init",
        "--config",
        text(&file),
        "--name",
        "production",
        "--peer",
        "recovery",
        "--share",
        "homes=/srv/homes",
        "--state",
        text(&state),
        "--listen",
        "127.0.0.1:7411",
    ];
    expect(&farshore(&args), 0, &["wrote", "key fsk1-", "next: farshore pair --config"]);
    expect(&farshore(&args), 3, &["is not overwritten", "move it away first"]);
    let list = ["pair", "--list", "--config", text(&file)];
    expect(&farshore(&list), 0, &["nobody is trusted yet"]);
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("name =", "nmae =")).unwrap();
    expect(
        &farshore(&list),
        3,
        &["faults", "line 7", "site.nmae", "nearest one is 'name'", "share.nmae"],
    );
    expect(
        &farshore(&["pair", "--list", "--config", "/no/such/file"]),
        3,
        &["/no/such/file", "farshore init"],
    );
    for wrong in [
        &["pair"][..],
        &["pair", "--list", "--listen"],
        &["pair", "--trust", "x", "--as", "y"],
        &["init", "--name", "a"],
    ] {
        expect(&farshore(wrong), 2, &[]);
    }
}

/// What a confined process can and cannot do, tried by this test binary, started again.
#[test]
fn a_confined_process_stays_in_its_folders() {
    let folder = tempfile::tempdir().unwrap();
    let (share, outside) = (folder.path().join("share"), folder.path().join("outside"));
    for path in [&share, &outside] {
        std::fs::create_dir_all(path.join("a")).unwrap();
        std::fs::write(path.join("a/file"), "content").unwrap();
    }
    let this = std::env::current_exe().unwrap();
    let child = std::process::Command::new(this)
        .args(["--exact", "confined_child", "--ignored", "--nocapture"])
        .env("FARSHORE_CONFINED", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("landlock: "), "{said}");
    assert!(!share.join("a/file").exists() && share.join("b/file").exists(), "{said}");
}

/// Not a test of its own: see [`a_confined_process_stays_in_its_folders`].
#[test]
#[ignore = "run by another test, in a process of its own"]
fn confined_child() {
    let Some(folder) = std::env::var_os("FARSHORE_CONFINED") else { return };
    let (share, outside) = (Path::new(&folder).join("share"), Path::new(&folder).join("outside"));
    let kept =
        Confinement { work: vec![share.clone()], read: vec!["/proc".into()], listen: vec![] };
    let confined = confine(&kept).unwrap();
    #[allow(clippy::print_stdout, reason = "the other test reads it")]
    {
        println!("{confined}");
    }
    // All a target does: make, write, link, rename across folders, remove, special files.
    std::fs::create_dir(share.join("b")).unwrap();
    std::fs::rename(share.join("a/file"), share.join("b/file")).unwrap();
    std::fs::hard_link(share.join("b/file"), share.join("a/link")).unwrap();
    std::fs::write(share.join("a/new"), "x").unwrap();
    std::os::unix::fs::symlink("x", share.join("a/symlink")).unwrap();
    std::fs::remove_file(share.join("a/link")).unwrap();
    assert_eq!(std::fs::read(share.join("b/file")).unwrap(), b"content");
    assert!(std::fs::read("/proc/self/status").is_ok());
    let storage = UringStorage::open(&share.join("b"), IoMode::Uring).unwrap();
    let file = SmallFile { at: storage.root(), name: b"file" };
    let read = storage.read_small_files(&[file], 1_000);
    assert_eq!(read[0].as_ref().unwrap().bytes, b"content");
    let usage = storage.usage();
    assert!(usage.reads.ring_files == 1 || usage.refused.is_some(), "{usage:?}");
    assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok(), "QUIC is UDP");
    if let Confined::Not { .. } = confined {
        return;
    }
    // Threads started later are confined as well.
    thread::spawn(move || {
        let denied = |outcome: std::io::Result<()>| {
            assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        };
        denied(std::fs::read(outside.join("a/file")).map(drop));
        denied(std::fs::read_dir(outside.join("a")).map(drop));
        denied(std::fs::write(outside.join("a/new"), "x"));
        denied(std::fs::remove_file(outside.join("a/file")));
        denied(std::fs::read("/etc/passwd").map(drop));
        denied(std::process::Command::new("/bin/true").status().map(drop));
        if matches!(confined, Confined::Whole { abi } | Confined::Partly { abi } if abi >= 4) {
            denied(std::net::TcpListener::bind("127.0.0.1:0").map(drop));
        }
        let through = share.join("way-out");
        std::os::unix::fs::symlink(&outside, &through).unwrap();
        denied(std::fs::read(through.join("a/file")).map(drop));
    })
    .join()
    .unwrap();
}
