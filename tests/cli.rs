//! The binary as an operator meets it: exit codes, messages that name the object, the step and what to
//! do, and reports.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use common::{
    Site, Tmpfs, assert_equal_trees, command, expect, farshore, finish, is_root, json, said, shown,
    text,
};
use farshore_test_support::Rng;

fn small_tree(root: &Path) {
    std::fs::create_dir(root.join("in")).unwrap();
    std::fs::write(root.join("in/a"), "alpha").unwrap();
    std::fs::write(root.join("in/b"), "beta").unwrap();
    symlink("a", root.join("in/link")).unwrap();
}

fn replicate(source: &Path, target: &Path, state: &Path, more: &[&str]) -> Output {
    let mut args = vec!["replicate", text(source), text(target), "--state", text(state)];
    args.extend(more);
    farshore(&args)
}

/// Everything an error shows: one line that starts with the program, and perhaps one with a hint.
#[track_caller]
fn expect_error(out: &Output, code: i32, words: &[&str]) {
    expect(out, code, words);
    let err = said(out);
    assert!(err.starts_with("farshore: "), "{err}");
    assert!(err.lines().count() <= 2, "{err}");
    assert!(err.lines().skip(1).all(|l| l.starts_with("  hint: ")), "{err}");
    assert_plain(out);
    assert!(out.stdout.is_empty(), "{}", shown(out));
}

/// No control characters but newlines, no bidirectional marks.
#[track_caller]
fn assert_plain(out: &Output) {
    for stream in [&out.stdout, &out.stderr] {
        let text = std::str::from_utf8(stream).expect("output is UTF-8");
        let bad = text.chars().find(|c| {
            (c.is_control() && *c != '\n') || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        assert_eq!(bad, None, "{text:?}");
    }
}

#[test]
fn wrong_options_are_usage() {
    let cases: [&[&str]; 24] = [
        &[],
        &["replicat"],
        &["replicate"],
        &["replicate", "/tmp/a"],
        &["replicate", "/tmp/a", "/tmp/b", "--no-such-option"],
        &["replicate", "/tmp/a", "/tmp/b", "--brake-percent", "101"],
        &["replicate", "/tmp/a", "/tmp/b", "--bwlimit", "fast"],
        &["replicate", "/tmp/a", "/tmp/b", "--compress", "20"],
        &["replicate", "/tmp/a", "/tmp/b", "--bwlimit", "0"],
        &["replicate", "/tmp/a", "/tmp/b", "--io-limit", "0k"],
        &["verify", "/tmp/a", "/tmp/b", "--io-limit", "0"],
        &["replicate", "/tmp/a", "recovery:homes"],
        &["replicate", "/tmp/a", "rsync://recovery/homes"],
        &["serve", "--share", "a=/tmp", "--listen", "127.0.0.1:0", "--io-limit", "0"],
        &["verify", "/tmp/a", "farshore://127.0.0.1:9/homes"],
        &["replicate", "/tmp/a", "/tmp/b", "--peer", "no-key"],
        &["replicate", "/tmp/a", "/tmp/b", "--io", "fast"],
        &["serve", "--share", "a=/tmp", "--listen", "127.0.0.1:0", "--allow", "x", "--io", "no"],
        &["replicate", "/tmp/a", "farshore://host/share"],
        &["replicate", "/tmp/a", "farshore://host:7000/"],
        &["replicate", "/tmp/a", "farshore://host:7000/a/b"],
        &["serve", "--listen", "127.0.0.1:0"],
        &["serve", "--share", "a b=/tmp", "--listen", "127.0.0.1:0", "--allow", "x"],
        &["serve", "--share", "a=/tmp", "--listen", "nowhere", "--allow", "x"],
    ];
    for args in cases {
        let out = farshore(args);
        expect(&out, 2, &[]);
        assert!(!said(&out).is_empty(), "{args:?}");
    }
    expect(&farshore(&["--help"]), 0, &["replicate", "serve", "key"]);
    expect(&farshore(&["--version"]), 0, &["farshore"]);
    let never = farshore(&["replicate", "/tmp/a", "/tmp/b", "--bwlimit", "0"]);
    expect(&never, 2, &["nothing would ever end; for no limit leave the option out"]);
    let site = Site::new();
    let out = site.local(&["--exclude", "*.iso siez>4G"]);
    expect_error(
        &out,
        2,
        &["'siez' is nothing a condition can ask", "size, age, owner", "siez[>]4G"],
    );
    let out = site.local(&["--exclude", "size>>"]);
    expect_error(&out, 2, &["size>>"]);
    let out = site.local(&["--exclude-from", "/tmp/no/such/rules"]);
    expect_error(&out, 2, &["/tmp/no/such/rules", "reading it", "No such file"]);
    // A remote target whose key nobody gave.
    let out = farshore(&[
        "replicate",
        text(&site.source),
        "farshore://127.0.0.1:9/share",
        "--state",
        text(&site.source_state),
    ]);
    expect_error(&out, 2, &["127.0.0.1:9", "its key is not known", "hint: give --peer"]);
}

#[test]
fn options_that_would_do_nothing_are_usage() {
    let site = Site::new();
    small_tree(&site.source);
    for option in [&["--history-days", "0"][..], &["--history-size", "1k"], &["--no-devices"]] {
        let words = [option[0], "it acts at the target", "hint: give it to 'farshore serve' there"];
        expect_error(&site.remote(9, option), 2, &words);
    }
    let out = site.local(&["--peer", &site.target_key]);
    expect_error(
        &out,
        2,
        &["option --peer", "folder of this machine", "farshore://HOST:PORT/SHARE"],
    );
    let missing = site.path("nosuch");
    let out = site.local(&["--install-dir", text(&missing)]);
    expect_error(&out, 3, &["install folder", text(&missing), "No such file"]);
    assert!(common::files(&site.target).is_empty());
}

#[test]
fn what_looks_like_another_host_is_no_folder() {
    let site = Site::new();
    small_tree(&site.source);
    let within = |args: &[&str]| {
        let mut command = command(args);
        command.current_dir(site.folder.path()).arg("--state").arg(&site.source_state);
        finish(command.spawn().unwrap(), args)
    };
    let out = within(&["replicate", "source", "recovery:homes"]);
    expect(&out, 2, &["recovery:homes", "farshore://HOST:PORT/SHARE", "./recovery:homes"]);
    assert!(!site.path("recovery:homes").exists());
    expect(&within(&["replicate", "source", "./recovery:homes"]), 0, &["recovery point 1"]);
    assert_equal_trees(&site.source, &site.path("recovery:homes"));
    let out = within(&["replicate", "production:homes", "target"]);
    expect_error(&out, 2, &["source production:homes", "on the host that has it"]);
    let out = within(&["verify", "source", "farshore://127.0.0.1:9/homes"]);
    expect_error(&out, 2, &["compares two folders of this machine", "hint: run it where both"]);
}

#[test]
fn rules_that_matched_nothing_are_named() {
    let site = Site::new();
    small_tree(&site.source);
    let rules = ["--exclude", "in/b size < 1k", "--exclude", "*.tmp", "--include", "in/b"];
    let out = site.local(&rules);
    expect(&out, 0, &["rule '- *.tmp' matched nothing", "rule '+ in/b' matched nothing"]);
    assert_eq!(common::files(&site.target).into_keys().collect::<Vec<_>>(), ["in/a"]);
    let out = site.local(&[&rules[..], &["--json"]].concat());
    expect(&out, 0, &[]);
    assert_eq!(json(&out)["idle_rules"], serde_json::json!(["- *.tmp", "+ in/b"]));
    let (a, b) = (text(&site.source), text(&site.target));
    let out = farshore(&["verify", a, b, "--exclude", "in/b", "--exclude", "*.tmp"]);
    expect(&out, 0, &["rule '- *.tmp' matched nothing"]);
    assert!(!shown(&out).contains("- in/b"), "{}", shown(&out));
}

#[test]
fn an_error_is_an_object_too() {
    let site = Site::new();
    let object = |out: &Output, exit: i32| {
        expect(out, exit, &[]);
        assert!(!said(out).is_empty(), "{}", shown(out));
        let object = json(out);
        assert_eq!(object["exit"], exit, "{object}");
        object
    };
    let missing = site.path("missing");
    let args = ["replicate", text(&missing), text(&site.target), "--json"];
    let state = ["--state", text(&site.source_state)];
    let out = object(&farshore(&[&args[..], &state].concat()), 3);
    assert!(out["error"].as_str().unwrap().contains("looking for it"), "{out}");
    assert!(out["hint"].is_null(), "{out}");
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let out = object(&site.remote(free.port(), &["--json"]), 4);
    assert!(out["error"].as_str().unwrap().contains("nothing answers"), "{out}");
    let out = object(&site.local(&["--json", "--bwlimit", "0"]), 2);
    assert!(out["error"].as_str().unwrap().contains("'--bwlimit <RATE>'"), "{out}");
    object(&farshore(&["key", "/nonexistent/key", "--json"]), 3);
}

#[test]
fn roots_that_cannot_be_are_refused_by_name() {
    let site = Site::new();
    small_tree(&site.source);
    let state = &site.source_state;
    let run = |source: &Path, target: &Path| replicate(source, target, state, &[]);

    let missing = site.path("missing");
    let out = run(&missing, &site.target);
    expect_error(&out, 3, &["source", text(&missing), "looking for it", "No such file"]);
    let file = site.source.join("in/a");
    expect_error(&run(&file, &site.target), 3, &["source", text(&file), "not a folder"]);
    let plain = site.path("plain");
    std::fs::write(&plain, "x").unwrap();
    expect_error(&run(&site.source, &plain), 3, &["target", text(&plain), "not a folder"]);
    assert_eq!(std::fs::read(&plain).unwrap(), b"x");

    // Within each other, the same, the same through a link.
    let inside = site.source.join("in");
    expect_error(&run(&site.source, &inside), 3, &["the target lies in the source", text(&inside)]);
    let new = site.source.join("new");
    expect_error(&run(&site.source, &new), 3, &["the target lies in the source"]);
    assert!(!new.exists(), "refused before it was made");
    expect_error(&run(&inside, &site.source), 3, &["the source lies in the target"]);
    expect_error(&run(&site.source, &site.source), 3, &["they are the same folder"]);
    let link = site.path("link");
    symlink(&site.source, &link).unwrap();
    expect_error(&run(&site.source, &link), 3, &["they are the same folder"]);
    expect_error(&run(&link, &site.source), 3, &["they are the same folder"]);
    let below = link.join("below");
    expect_error(&run(&site.source, &below), 3, &["the target lies in the source"]);
    assert!(!site.source.join("below").exists(), "refused before it was made");
    // Something in between is not there.
    let far = site.path("no/such/folder");
    expect_error(&run(&site.source, &far), 3, &["target", text(&far), "making it", "No such file"]);
    let dangling = site.path("dangling");
    symlink(site.path("nowhere"), &dangling).unwrap();
    expect_error(&run(&site.source, &dangling), 3, &["target", text(&dangling)]);
    expect_error(&run(&dangling, &site.target), 3, &["source", text(&dangling)]);
    assert!(common::files(&site.target).is_empty());
}

#[test]
fn folders_of_the_system_and_of_the_application_are_refused() {
    let site = Site::new();
    small_tree(&site.source);
    let state = &site.source_state;
    for system in ["/", "/usr", "/etc", "/usr/share", "/proc", "/dev/shm"] {
        let system = Path::new(system);
        let out = replicate(&site.source, system, state, &[]);
        let words = ["target", "belongs to the operating system", text(system)];
        expect_error(&out, 3, &words);
        expect_error(&replicate(system, &site.target, state, &[]), 3, &["source", text(system)]);
    }
    let lies_in = replicate(&site.source, Path::new("/usr/share"), state, &[]);
    expect_error(&lies_in, 3, &["hint: if that is on purpose, add --allow-protected"]);
    for system in ["/", "/usr", "/etc"] {
        let out = replicate(&site.source, Path::new(system), state, &["--allow-protected"]);
        expect_error(&out, 3, &["belongs to the operating system"]);
    }
    // The install folder, below it and above it, whatever else is said.
    let install = site.target.join("install");
    std::fs::create_dir_all(install.join("below")).unwrap();
    for target in [&install, &install.join("below"), &site.target] {
        let more = ["--install-dir", text(&install), "--allow-protected", "--approve"];
        expect_error(&replicate(&site.source, target, state, &more), 3, &["the install folder"]);
    }
    assert!(common::files(&site.target).is_empty());
    let share = format!("share={}", text(&install));
    let out = farshore(&[
        "serve",
        "--share",
        &share,
        "--listen",
        "127.0.0.1:0",
        "--allow",
        &site.source_key,
        "--state",
        text(&site.target_state),
        "--install-dir",
        text(&install),
    ]);
    expect_error(&out, 3, &["the install folder"]);
    let out = farshore(&[
        "serve",
        "--share",
        "share=/usr",
        "--listen",
        "127.0.0.1:0",
        "--allow",
        &site.source_key,
        "--state",
        text(&site.target_state),
    ]);
    expect_error(&out, 3, &["/usr"]);
}

/// Runs `args` as nobody.
fn as_nobody(args: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let mut command = command(args);
    command.uid(65_534).gid(65_534);
    finish(command.spawn().unwrap(), args)
}

#[test]
fn what_may_not_be_read_or_written_is_named() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    small_tree(&site.source);
    std::fs::set_permissions(site.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
    let state = site.path("nobody-state");
    std::fs::create_dir(&state).unwrap();
    own(&state);
    own(&site.target);
    // The binary itself must be within reach.
    let reach = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "test", "-x", common::BINARY])
        .status();
    if !reach.is_ok_and(|s| s.success()) {
        println!("nobody cannot run the binary here");
        return;
    }
    let run = |state: &Path| {
        as_nobody(&["replicate", text(&site.source), text(&site.target), "--state", text(state)])
    };
    std::fs::set_permissions(&site.source, PermissionsExt::from_mode(0o700)).unwrap();
    let out = run(&state);
    expect_error(&out, 3, &["source", text(&site.source), "opening it", "Permission denied"]);
    std::fs::set_permissions(&site.source, PermissionsExt::from_mode(0o755)).unwrap();

    let closed = site.path("closed");
    std::fs::create_dir(&closed).unwrap();
    let out = run(&closed.join("state"));
    expect_error(&out, 3, &["state folder", text(&closed), "making it", "Permission denied"]);
    let out = run(&closed);
    expect_error(&out, 3, &[text(&closed), "making it", "Permission denied"]);

    // One file that may not be read: everything else goes, and the exit code says so.
    std::fs::write(site.source.join("in/secret"), "x").unwrap();
    std::fs::set_permissions(site.source.join("in/secret"), PermissionsExt::from_mode(0o600))
        .unwrap();
    let out = run(&state);
    expect(&out, 6, &["problem: in/secret", "opening it", "Permission denied"]);
    assert_eq!(common::files(&site.target).len(), 2);
}

#[test]
fn keys_are_made_shown_and_guarded() {
    let site = Site::new();
    small_tree(&site.source);
    let file = site.path("site.key");
    let out = farshore(&["key", text(&file), "--json"]);
    expect(&out, 0, &[]);
    let made = json(&out);
    assert_eq!((&made["made"], made["file"].as_str()), (&true.into(), Some(text(&file))));
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    let again = farshore(&["key", text(&file)]);
    expect(&again, 0, &[made["id"].as_str().unwrap()]);

    let server = site.serve(0);
    let run = |key: &Path| site.remote(server.port(), &["--key", text(key)]);
    let none = site.path("none.key");
    let hint = format!("hint: 'farshore key {}' makes one", text(&none));
    expect_error(&run(&none), 3, &["site key", text(&none), "No such file", &hint]);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let open = run(&file);
    expect_error(&open, 3, &["site key", text(&file), "644", "run: chmod 600"]);
    assert!(!said(&open).contains("hint"), "{}", said(&open));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    // Made by this test, so nobody allows it there.
    let id = made["id"].as_str().unwrap();
    expect_error(&run(&file), 4, &["peer 127.0.0.1", &format!("--allow {id}")]);
    server.logged(&format!("refused: key {id} is not allowed here; to let it in, add --allow"));
    std::fs::write(&none, "no key at all").unwrap();
    std::fs::set_permissions(&none, PermissionsExt::from_mode(0o600)).unwrap();
    expect_error(&run(&none), 3, &["site key", text(&none), "hint: name the right file"]);
    // No advice to close what is no key, least of all a file of the system.
    let system = farshore(&["key", "/etc/passwd"]);
    expect_error(&system, 3, &["/etc/passwd", "hint: name the right file"]);
    assert!(!said(&system).contains("chmod"), "{}", said(&system));
    expect_error(&run(&site.source), 3, &["site key", text(&site.source)]);
    assert!(common::files(&site.target).is_empty());
}

#[test]
fn the_other_end_is_named_when_it_is_not_there_or_not_the_one() {
    let site = Site::new();
    small_tree(&site.source);
    let server = site.serve(0);
    let port = server.port();
    let to = |address: &str, peer: &str| {
        farshore(&[
            "replicate",
            text(&site.source),
            address,
            "--state",
            text(&site.source_state),
            "--peer",
            peer,
        ])
    };
    let here = format!("farshore://127.0.0.1:{port}/share");
    // Another key was expected there.
    let out = to(&here, &site.source_key);
    expect_error(&out, 4, &[&format!("127.0.0.1:{port}"), &site.target_key, "give it with --peer"]);
    server
        .logged(&format!("does not trust this site's key; its --peer must be {}", site.target_key));
    let out = to(&format!("farshore://127.0.0.1:{port}/other"), &site.target_key);
    expect_error(&out, 4, &["no share 'other' is served here", "hint: compare the share in DST"]);
    server.logged("asked for share 'other', which is not served");
    let out = to(&format!("farshore://127.0.0.1:{port}/\u{1b}[31m\u{202e}"), &site.target_key);
    expect_error(&out, 4, &["no share '\\u{1b}[31m\\u{202e}' is served here"]);
    assert!(!server.log().contains('\u{1b}'));
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed = free.local_addr().unwrap();
    drop(free);
    let start = Instant::now();
    let out = to(&format!("farshore://{closed}/share"), &site.target_key);
    expect_error(&out, 4, &[&closed.to_string(), "refused"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let out = to("farshore://no-such-host.invalid:7000/share", &site.target_key);
    expect_error(&out, 4, &["no-such-host.invalid:7000", "looking up its address"]);
    assert!(common::files(&site.target).is_empty());
    // And the right one.
    expect(&to(&here, &site.target_key), 0, &["recovery point 1"]);
    assert_equal_trees(&site.source, &site.target);
    // The port is taken.
    let share = format!("share={}", text(&site.path("target")));
    let out = farshore(&[
        "serve",
        "--share",
        &share,
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--allow",
        &site.source_key,
        "--state",
        text(&site.target_state),
    ]);
    expect_error(&out, 4, &[&format!("127.0.0.1:{port}"), "cannot bind"]);
}

fn catalogs(state: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(state)
        .unwrap()
        .map(|e| e.unwrap().path().join("catalog.redb"))
        .filter(|p| p.exists())
        .collect();
    found.sort();
    found
}

#[test]
fn a_damaged_catalog_is_named_and_moving_it_away_helps() {
    let damage: [(&str, fn(&Path)); 5] = [
        ("garbage", |p| std::fs::write(p, Rng::new(1).bytes(300_000)).unwrap()),
        ("truncated", |p| {
            let len = p.metadata().unwrap().len();
            std::fs::File::options().write(true).open(p).unwrap().set_len(len / 3).unwrap();
        }),
        ("empty", |p| std::fs::write(p, "").unwrap()),
        ("header", |p| {
            let mut bytes = std::fs::read(p).unwrap();
            bytes[..400].fill(0x5a);
            std::fs::write(p, bytes).unwrap();
        }),
        ("pages", |p| {
            let mut bytes = std::fs::read(p).unwrap();
            let noise = Rng::new(2).bytes(bytes.len() - 4_096);
            bytes[4_096..].copy_from_slice(&noise);
            std::fs::write(p, bytes).unwrap();
        }),
    ];
    let start = Site::new();
    small_tree(&start.source);
    expect(&start.local(&[]), 0, &[]);
    let sound = catalogs(&start.source_state);
    assert_eq!(sound.len(), 2);
    for catalog in &sound {
        let kept = std::fs::read(catalog).unwrap();
        for (name, damage) in damage {
            damage(catalog);
            let out = start.local(&[]);
            let all = shown(&out);
            if out.status.code() != Some(0) {
                let words = ["catalog", text(catalog), "hint:"];
                if name == "pages" {
                    // The database panics on such; that is caught, and said in its own words first.
                    assert_eq!(out.status.code(), Some(3), "{name}: {all}");
                    assert!(words.iter().all(|w| all.contains(w)), "{name}: {all}");
                } else {
                    expect_error(&out, 3, &words);
                }
                // The hint: it is rebuilt from the trees, and nothing is sent that is there.
                std::fs::remove_file(catalog).unwrap();
                let out = start.local(&["--json", "--approve"]);
                expect(&out, 0, &[]);
                assert_eq!(json(&out)["literal_bytes"], 0, "{}", shown(&out));
            }
            assert_equal_trees(&start.source, &start.target);
            std::fs::write(catalog, &kept).unwrap();
            expect(&start.local(&["--approve"]), 0, &[]);
        }
    }
    // The catalog of the other role.
    std::fs::copy(&sound[0], &sound[1]).unwrap();
    let out = start.local(&[]);
    expect_error(&out, 3, &["catalog", text(&sound[1]), "made in format", "move the file away"]);
    std::fs::remove_file(&sound[1]).unwrap();
    expect(&start.local(&["--approve"]), 0, &[]);
}

/// The database may panic over a damaged page, in whatever thread reads it: the run ends all the same.
#[test]
fn a_catalog_damaged_anywhere_ends_the_run() {
    let site = Site::new();
    for i in 0..600 {
        std::fs::write(site.source.join(format!("file-{i}")), format!("content {i}")).unwrap();
    }
    expect(&site.local(&[]), 0, &[]);
    let catalogs = catalogs(&site.source_state);
    let whole: Vec<Vec<u8>> = catalogs.iter().map(|c| std::fs::read(c).unwrap()).collect();
    let mut codes = std::collections::BTreeMap::new();
    for (at, path) in catalogs.iter().enumerate() {
        for page in 1..=24 {
            for (path, bytes) in catalogs.iter().zip(&whole) {
                std::fs::write(path, bytes).unwrap();
            }
            let mut damaged = whole[at].clone();
            let Some(part) = damaged.get_mut(page * 4_096 + 8..page * 4_096 + 308) else { break };
            part.fill(0xff);
            std::fs::write(path, damaged).unwrap();
            std::fs::write(site.source.join("file-3"), format!("changed {at} {page}")).unwrap();
            // Ends: a run that waits for ever is killed, and its code is none of these.
            let out = site.local(&["--approve"]);
            let code = out.status.code();
            assert!(
                [0, 1, 3, 4, 6].map(Some).contains(&code),
                "{at} {page}: {}",
                common::shown(&out)
            );
            *codes.entry(code).or_insert(0) += 1;
        }
    }
    assert!(codes.len() > 1, "nothing that mattered was damaged: {codes:?}");
}

/// Which pair a folder of the state folder is for.
#[test]
fn the_state_folder_says_which_pair_is_which() {
    let site = Site::new();
    small_tree(&site.source);
    expect(&site.local(&[]), 0, &[]);
    let server = site.serve(0);
    expect(&site.remote(server.port(), &["--approve"]), 0, &[]);
    let pairs = |state: &Path| {
        let folders = std::fs::read_dir(state).unwrap().map(|e| e.unwrap().path().join("pair"));
        let mut found: Vec<String> =
            folders.filter(|p| p.exists()).map(|p| std::fs::read_to_string(p).unwrap()).collect();
        found.sort();
        found
    };
    let (source, target) = (text(&site.source), text(&site.target));
    let remote = format!("farshore://127.0.0.1:{}/share", server.port());
    let mut wanted = [
        format!("source {source}\ntarget {target}\n"),
        format!("source {source}\ntarget {remote}\n"),
        format!("target {target}\n"),
    ];
    wanted.sort();
    assert_eq!(pairs(&site.source_state), wanted);
    assert_eq!(pairs(&site.target_state), [format!("target {target}\n")]);
}

#[test]
fn a_server_that_is_stopped_tells_its_sources_and_leaves_nothing_torn() {
    let site = Site::new();
    for f in 0..400 {
        std::fs::write(site.source.join(format!("f{f}")), Rng::new(f).bytes(20_000)).unwrap();
    }
    let mut server = site.serve(0);
    let mut args = site.remote_args(server.port());
    args.extend(["--bwlimit".into(), "1M".into()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = command(&args).spawn().unwrap();
    server.logged("session begins");
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = common::wait_for(&mut server.child, common::PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.log());
    server.logged("stopping on SIGTERM: 1 sessions");
    server.logged("session ended by the stop");
    server.logged("stopped");
    // The source knows at once, and why.
    let out = finish(run, &args);
    expect_error(&out, 4, &["the operator stopped the server", "hint: run the command again"]);
    for (path, content) in common::files(&site.target) {
        assert_eq!(content, std::fs::read(site.source.join(&path)).unwrap(), "{path} is not whole");
    }
    let server = site.serve(0);
    expect(&site.remote(server.port(), &["--approve"]), 0, &[]);
    assert_equal_trees(&site.source, &site.target);
}

#[test]
fn a_torn_journal_record_is_dropped() {
    let site = Site::new();
    small_tree(&site.source);
    expect(&site.local(&[]), 0, &[]);
    let journal = site.target.join(".farshore/journal");
    for (number, content) in [(7, &b""[..]), (8, b"FSJRNL01"), (9, &[0x5a; 4_000])] {
        std::fs::write(journal.join(format!("{number:020}")), content).unwrap();
    }
    std::fs::write(journal.join("no-number"), "x").unwrap();
    std::fs::create_dir(site.target.join(".farshore/staging/b9")).unwrap();
    std::fs::write(site.target.join(".farshore/staging/b9/1"), "x").unwrap();
    std::fs::write(site.source.join("in/a"), "changed").unwrap();
    expect(&site.local(&[]), 0, &[]);
    assert_equal_trees(&site.source, &site.target);
    assert_eq!(std::fs::read_dir(site.target.join(".farshore/staging")).unwrap().count(), 0);
    let left: Vec<_> =
        std::fs::read_dir(&journal).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| n == "no-number"), "{left:?}");
}

#[test]
fn a_second_run_on_the_same_state_is_told_so() {
    let site = Site::new();
    std::fs::write(site.source.join("big"), Rng::new(1).bytes(8 << 20)).unwrap();
    let server = site.serve(0);
    let mut args = site.remote_args(server.port());
    args.extend(["--bwlimit".into(), "2M".into()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let first = command(&args).spawn().unwrap();
    server.logged("session begins");
    let out = site.remote(server.port(), &[]);
    expect_error(&out, 9, &["catalog", "another farshore has it open"]);
    // Another source, with a state of its own, is told that the share is in use.
    let other = site.path("other-state");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(site.source_state.join("site.key"), other.join("site.key")).unwrap();
    let out = farshore(&[
        "replicate",
        text(&site.source),
        &format!("farshore://{}/share", server.address),
        "--state",
        text(&other),
        "--peer",
        &site.target_key,
    ]);
    expect_error(&out, 9, &["share 'share' is in use by another session"]);
    expect(&finish(first, &args), 0, &[]);
    assert_equal_trees(&site.source, &site.target);
}

#[test]
fn a_full_file_system_stops_cleanly_and_room_heals_it() {
    let Some(memory) = Tmpfs::mount(24 << 20) else { return };
    for remote in [false, true] {
        let site = Site::new();
        let target = memory.place.join(format!("target-{remote}"));
        std::fs::create_dir(&target).unwrap();
        std::fs::remove_dir(&site.target).unwrap();
        symlink(&target, &site.target).unwrap();
        small_tree(&site.source);
        expect(&site.local(&[]), 0, &[]);
        let mut versions = vec![common::files(&site.source)];
        // More than fits, beside something in the way.
        let ballast = memory.place.join("ballast");
        std::fs::write(&ballast, Rng::new(3).bytes(12 << 20)).unwrap();
        for f in 0..10 {
            std::fs::write(site.source.join(format!("in/big{f}")), Rng::new(f).bytes(1_600_000))
                .unwrap();
            std::fs::write(site.source.join(format!("in/small{f}")), Rng::new(f).bytes(9_000))
                .unwrap();
        }
        versions.push(common::files(&site.source));
        let server = remote.then(|| site.serve(0));
        let run = |more: &[&str]| match &server {
            Some(server) => site.remote(server.port(), &[&["--approve"], more].concat()),
            None => site.local(more),
        };
        let out = run(&[]);
        expect_error(&out, 7, &["No space left on device", "hint: make room"]);
        for (path, content) in common::files(&target) {
            let whole = versions.iter().any(|v| v.get(&path) == Some(&content));
            assert!(whole, "{path} is not whole");
        }
        expect_error(&run(&[]), 7, &["No space left on device"]);
        std::fs::remove_file(&ballast).unwrap();
        expect(&run(&[]), 0, &[]);
        assert_equal_trees(&site.source, &target);
        drop(server);
        std::fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn a_read_only_target_is_a_matter_of_the_disk() {
    let Some(memory) = Tmpfs::mount(24 << 20) else { return };
    let site = Site::new();
    small_tree(&site.source);
    let run = || replicate(&site.source, &memory.place, &site.source_state, &[]);
    expect(&run(), 0, &[]);
    std::fs::write(site.source.join("in/a"), "changed").unwrap();
    memory.read_only(true);
    expect_error(&run(), 7, &["Read-only file system", "hint:", "mend the mount"]);
    memory.read_only(false);
    expect(&run(), 0, &[]);
    assert_equal_trees(&site.source, &memory.place);
}

/// The lock is the tree's own: another state folder does not make it another tree.
#[test]
fn two_processes_do_not_write_one_tree() {
    let site = Site::new();
    std::fs::write(site.source.join("big"), Rng::new(1).bytes(8 << 20)).unwrap();
    let server = site.serve(0);
    let mut args = site.remote_args(server.port());
    args.extend(["--bwlimit".into(), "2M".into()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let first = command(&args).spawn().unwrap();
    server.logged("session begins");
    // It has opened the folder once it has made the last part of it.
    while !site.target.join(".farshore/history").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = replicate(&site.source, &site.target, &site.path("other"), &["--approve"]);
    expect_error(&out, 9, &[".farshore", "another farshore process writes this tree"]);
    expect(&finish(first, &args), 0, &[]);
    expect(&replicate(&site.source, &site.target, &site.path("other"), &[]), 0, &[]);
    assert_equal_trees(&site.source, &site.target);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let site = Site::new();
    small_tree(&site.source);
    expect(&site.local(&[]), 0, &[]);
    let before = common::files(&site.target);
    std::thread::sleep(Duration::from_millis(30));
    std::fs::write(site.source.join("in/a"), "changed now").unwrap();
    std::fs::remove_file(site.source.join("in/b")).unwrap();
    std::fs::write(site.source.join("in/c"), "new").unwrap();
    let out = site.local(&["-n"]);
    expect(&out, 0, &["update    in/a", "remove    in/b", "create    in/c", "nothing was changed"]);
    let out = site.local(&["--dry-run", "--json"]);
    expect(&out, 0, &[]);
    let object = json(&out);
    assert_eq!(object["outcome"], "dry-run");
    let lines = object["preview"].as_array().unwrap();
    let has =
        |path: &str, change: &str| lines.iter().any(|l| l["path"] == path && l["change"] == change);
    assert!(has("in/a", "update") && has("in/b", "remove") && has("in/c", "create"), "{object:#}");
    assert_eq!(common::files(&site.target), before);
    // Nor does it make a target.
    let none = site.path("none");
    let out = replicate(&site.source, &none, &site.source_state, &["-n"]);
    expect_error(&out, 3, &["target", text(&none), "a dry run makes none", "without --dry-run"]);
    assert!(!none.exists());
    expect(&site.local(&[]), 0, &[]);
    assert_equal_trees(&site.source, &site.target);
}

#[test]
fn the_guard_holds_until_approved() {
    let site = Site::new();
    small_tree(&site.source);
    expect(&site.local(&[]), 0, &[]);
    std::fs::remove_dir_all(site.source.join("in")).unwrap();
    let out = site.local(&[]);
    expect(&out, 5, &["held: the source is empty", "--approve", "nothing was changed"]);
    let out = site.local(&["--json"]);
    expect(&out, 5, &[]);
    assert_eq!(json(&out)["outcome"], "held");
    expect(&site.local(&["-n"]), 5, &["remove    in/a", "would be held: the source is empty"]);
    let out = site.local(&["-n", "--json"]);
    expect(&out, 5, &[]);
    assert_eq!(json(&out)["outcome"], "dry-run");
    assert!(json(&out)["held"].as_str().unwrap().contains("is empty"));
    expect(&site.local(&["-n", "--approve"]), 0, &[]);
    assert_eq!(common::files(&site.target).len(), 2);
    expect(&site.local(&["--approve"]), 0, &[]);
    assert_equal_trees(&site.source, &site.target);
}

/// The fields of a repair describe the moments the page on output says.
#[test]
fn a_repair_says_what_was_and_what_is() {
    let site = Site::new();
    for f in 0..20 {
        std::fs::write(site.source.join(format!("f{f}")), format!("content {f}")).unwrap();
    }
    let (a, b) = (text(&site.source), text(&site.target));
    let state = ["--state", text(&site.source_state)];
    let repair = |more: &[&str]| {
        farshore(&[&["verify", a, b, "--repair", "--json"], &state[..], more].concat())
    };
    expect(&site.local(&[]), 0, &[]);
    std::fs::write(site.target.join("f1"), "rotten").unwrap();
    let out = repair(&[]);
    expect(&out, 0, &[]);
    let object = json(&out);
    assert_eq!((&object["repaired"], &object["equal"]), (&true.into(), &true.into()), "{object}");
    assert!(object["differences"].as_u64().unwrap() > 0 && object["held"].is_null(), "{object}");
    assert_eq!(object["left"], 0);
    for f in 0..20 {
        std::fs::remove_file(site.source.join(format!("f{f}"))).unwrap();
    }
    let out = repair(&[]);
    expect(&out, 5, &[]);
    let object = json(&out);
    assert_eq!((&object["repaired"], &object["equal"]), (&false.into(), &false.into()), "{object}");
    assert!(object["held"].as_str().unwrap().contains("empty"), "{object}");
    assert_eq!(object["left"], object["differences"]);
}

#[test]
fn versions_that_leave_the_history_are_counted_in_the_text() {
    let site = Site::new();
    std::fs::write(site.source.join("f"), "first").unwrap();
    expect(&site.local(&[]), 0, &[]);
    std::fs::write(site.source.join("f"), "the second version").unwrap();
    let out = site.local(&["--history-days", "0"]);
    expect(&out, 0, &["1 sets of former versions left the history"]);
    assert_eq!(std::fs::read_dir(site.target.join(".farshore/history")).unwrap().count(), 0);
}

/// An ordinary user cannot give files away: said by every run, until the two are equal.
#[test]
fn what_a_target_did_not_keep_is_said_again() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    small_tree(&site.source);
    std::fs::set_permissions(site.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&site.source, PermissionsExt::from_mode(0o755)).unwrap();
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
    let state = site.path("nobody-state");
    std::fs::create_dir(&state).unwrap();
    own(&state);
    own(&site.target);
    let reach = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "test", "-x", common::BINARY])
        .status();
    if !reach.is_ok_and(|s| s.success()) {
        println!("nobody cannot run the binary here");
        return;
    }
    let (a, b) = (text(&site.source), text(&site.target));
    let args = ["replicate", a, b, "--state", text(&state), "--json"];
    let first = json(&as_nobody(&args));
    assert!(first["degraded"]["owner"].as_u64().unwrap() > 0, "{first}");
    let again = json(&as_nobody(&args));
    assert_eq!(again["degraded"], serde_json::json!({}), "{again}");
    assert_eq!(again["degraded_before"], first["degraded"], "{again}");
    expect(&as_nobody(&args[..5]), 0, &["degraded before: owner could not be kept on"]);
    // As root they are equal after a repair, and it is forgotten.
    expect(&farshore(&["verify", a, b, "--repair", "--state", text(&state)]), 0, &[]);
    expect(&farshore(&["verify", a, b, "--state", text(&state)]), 0, &[]);
    let last = json(&farshore(&args));
    assert_eq!(last["degraded_before"], serde_json::json!({}), "{last}");
}

#[test]
fn a_pair_tells_what_is_left_out_without_a_run() {
    let site = Site::new();
    small_tree(&site.source);
    let status = |more: &[&str]| {
        let mut args = vec!["status", text(&site.source), text(&site.target), "--state"];
        args.push(text(&site.source_state));
        args.extend(more);
        farshore(&args)
    };
    expect_error(&status(&[]), 3, &["it knows no run of this pair", "as they were given"]);
    expect(&site.local(&[]), 0, &[]);
    expect(&status(&[]), 0, &["recovery point 1: ", "policies "]);
    let out = site.local(&["--exclude", "a"]);
    let newly = ["newly excluded: 1 entry", "nothing is deleted there", "in/a (rule '- a')"];
    expect(&out, 0, &newly);
    expect(&out, 0, &["policies changed since recovery point 1: other rules"]);
    let again = site.local(&["--exclude", "a"]);
    assert!(!shown(&again).contains("newly excluded"), "{}", shown(&again));
    assert!(!shown(&again).contains("policies changed"), "{}", shown(&again));
    expect(&status(&[]), 0, &["left out by rule '- a': 1 entry", "recovery point 3: "]);
    expect(&status(&["--detached"]), 0, &["detached in/a (rule '- a', since 2)"]);
    let object = json(&status(&["--detached", "--json"]));
    let expected = serde_json::json!([{"path": "in/a", "rule": "- a", "since": 2}]);
    assert_eq!(object["detached"], expected, "{object}");
    expect(&site.local(&[]), 0, &["1 entry that was excluded before is not any more"]);
    assert!(json(&status(&["--json"]))["detached"].is_null());
}

#[test]
fn json_has_the_documented_fields_and_no_other() {
    let site = Site::new();
    small_tree(&site.source);
    let out = site.local(&["--json", "--profile"]);
    expect(&out, 0, &[]);
    assert!(out.stderr.is_empty() && out.stdout.ends_with(b"}\n"), "{}", shown(&out));
    let object = json(&out);
    assert!(object["profile"]["stages"]["stage"]["cpu_seconds"].is_number(), "{object}");
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/output.md")).unwrap();
    let part = page.split("## replicate --json").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut documented: Vec<&str> = part
        .lines()
        .filter_map(|l| l.strip_prefix("| `"))
        .flat_map(|l| l.split(" |").next().unwrap().split(", "))
        .map(|f| f.trim_matches(['`', ' ']))
        .collect();
    documented.sort_unstable();
    let mut given: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    given.sort_unstable();
    assert_eq!(given, documented);
    assert_eq!(object["outcome"], "sealed");
    assert_eq!(object["entries"], 4);
    // The root too: its metadata.
    assert_eq!(object["written"].as_u64().unwrap() + object["metadata"].as_u64().unwrap(), 5);
    assert_eq!(object["literal_bytes"], 9);
    let point = &object["recovery_point"];
    assert_eq!(
        (&point["sequence"], &point["entries"], &point["bytes"]),
        (&1.into(), &4.into(), &9.into())
    );
    assert_eq!(point["root"].as_str().unwrap().len(), 64);
    assert!(object["former_recovery_point"].is_null() && object["held"].is_null());
}

#[test]
fn the_way_of_small_files_is_chosen_and_said() {
    for way in ["auto", "posix", "uring"] {
        let site = Site::new();
        small_tree(&site.source);
        let out = site.local(&["--io", way, "--json"]);
        expect(&out, 0, &[]);
        assert_equal_trees(&site.source, &site.target);
        let io = &json(&out)["io"];
        for (end, verb) in [("source", "reading"), ("target", "creating")] {
            let said = &io[end];
            assert_eq!(said["asked"], way);
            let files = |name: &str| said[verb][name].as_u64().unwrap();
            assert_eq!(files("plain_files") + files("uring_files"), 2, "{io}");
            let by_ring = way == "uring" && said["uring_refused"].is_null();
            assert_eq!(files("uring_files"), if by_ring { 2 } else { 0 }, "{io}");
            assert!(way != "posix" || said["uring_refused"].is_null(), "{io}");
        }
        let out = site.local(&["--io", way, "-v"]);
        expect(&out, 0, &[&format!("io at the source: {way}"), "io at the target: "]);
    }
}

#[test]
fn the_bandwidth_limit_limits() {
    let site = Site::new();
    std::fs::write(site.source.join("big"), Rng::new(5).bytes(3 << 20)).unwrap();
    let server = site.serve(0);
    let start = Instant::now();
    let out = site.remote(server.port(), &["--bwlimit", "1M", "--json"]);
    let took = start.elapsed().as_secs_f64();
    expect(&out, 0, &[]);
    let bytes = json(&out)["frame_bytes"].as_u64().unwrap() as f64;
    let rate = bytes / took;
    assert!(bytes >= 3e6, "{bytes}");
    assert!(rate < 1.3e6, "{rate} bytes a second");
    assert!(rate > 0.3e6, "{rate} bytes a second: far below what was allowed");
    assert_equal_trees(&site.source, &site.target);
}

/// Both ends, each by itself: the source reads, the target writes, a comparison reads.
#[test]
fn the_io_limit_limits() {
    let site = Site::new();
    std::fs::write(site.source.join("file"), Rng::new(7).bytes(3 << 20)).unwrap();
    let server = site.serve_with(0, &["--io-limit", "1M"]);
    let least = Duration::from_millis(1_900);
    let start = Instant::now();
    expect(&site.remote(server.port(), &["--io-limit", "1G"]), 0, &[]);
    assert!(start.elapsed() > least, "target: {:?}", start.elapsed());
    std::fs::write(site.source.join("file"), Rng::new(8).bytes(3 << 20)).unwrap();
    let start = Instant::now();
    expect(&site.local(&["--io-limit", "1M"]), 0, &[]);
    assert!(start.elapsed() > least, "source: {:?}", start.elapsed());
    let (a, b) = (site.source.to_str().unwrap(), site.target.to_str().unwrap());
    let start = Instant::now();
    expect(&farshore(&["verify", a, b, "--io-limit", "1M"]), 0, &[]);
    assert!(start.elapsed() > least, "comparison: {:?}", start.elapsed());
}

#[test]
fn more_is_said_on_request() {
    let site = Site::new();
    small_tree(&site.source);
    let quiet = site.local(&[]);
    expect(&quiet, 0, &["recovery point 1", "4 entries"]);
    assert!(quiet.stderr.is_empty() && !shown(&quiet).contains("excluded"), "{}", shown(&quiet));
    let more = site.local(&["-v"]);
    expect(&more, 0, &["0 excluded, 0 kept", "before: recovery point 1: "]);
    // A run long enough for one line of progress.
    std::fs::write(site.source.join("big"), Rng::new(5).bytes(3 << 20)).unwrap();
    let server = site.serve(0);
    let out = site.remote(server.port(), &["--progress", "--bwlimit", "900K", "--approve"]);
    expect(&out, 0, &[]);
    let err = said(&out);
    assert!(err.contains("changes") && err.contains("sent"), "{err}");
    assert_plain(&out);
}

#[test]
fn names_cannot_move_a_terminal_or_forge_a_line() {
    let site = Site::new();
    let evil: [&[u8]; 6] = [
        b"\x1b[2J\x1b]0;owned\x07",
        b"line\nrecovery point 9: everything is fine",
        b"\xc2\x9b31m",
        b"\xe2\x80\xaegnp.exe",
        b"bad\xff\xfeutf8",
        b"back\\slash\r",
    ];
    for name in evil {
        std::fs::write(site.source.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let dry = {
        std::fs::write(site.target.join("known"), "x").unwrap();
        site.local(&["-n", "--approve"])
    };
    expect(
        &dry,
        0,
        &["\\u{1b}[2J\\u{1b}]0;owned\\u{7}", "bad\\xff\\xfeutf8", "back\\\\slash\\u{d}"],
    );
    assert_plain(&dry);
    assert_plain(&site.local(&["-n", "--json"]));
    // As a problem: a name the target cannot make, since something that does not replicate is there.
    let out = site.local(&["--approve"]);
    expect(&out, 0, &[]);
    assert_equal_trees(&site.source, &site.target);
    // As a root, in an error.
    let root = site.path("r").join(std::ffi::OsStr::from_bytes(b"\x1b[31m\nfarshore: all is well"));
    let out = finish(
        command(&["replicate"])
            .arg(&root)
            .arg(&site.target)
            .arg("--state")
            .arg(&site.source_state)
            .spawn()
            .unwrap(),
        &[],
    );
    expect_error(&out, 3, &["\\u{1b}[31m\\u{a}farshore: all is well"]);
    let mut more = command(&["replicate", text(&site.source), text(&site.target), "--state"]);
    let out = finish(
        more.arg(&root.join("state")).args(["--exclude-from"]).arg(&root).spawn().unwrap(),
        &[],
    );
    expect_error(&out, 2, &["\\u{1b}[31m"]);
    for name in evil.iter().take(2) {
        std::fs::remove_file(site.source.join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    expect(&site.local(&["--approve"]), 0, &[]);
}
