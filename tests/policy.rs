//! Policies as an author and an operator meet them: from a new project to a policy in force, its
//! messages, and what it changes at a standby.
//!
//! The project is compiled only where something here compiles for WebAssembly; elsewhere the message is
//! looked at, and the committed component of the same source goes on.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use common::{Site, command, expect, farshore, files, finish, json, said, shown, text};

/// A committed component.
fn fixture(name: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/policies").join(name);
    assert!(file.is_file(), "{} is not there", file.display());
    file
}

fn example(name: &str) -> PathBuf {
    let cases = format!("wasm-sdk/examples/{name}/tests/cases.toml");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(cases)
}

/// `farshore policy`, with a state folder.
fn policy(state: &Path, args: &[&str]) -> Output {
    let (command, rest) = args.split_first().unwrap();
    let mut all = vec!["policy", command];
    all.extend(rest);
    if !["new", "build", "sign"].contains(command) {
        all.extend(["--state", text(state)]);
    }
    farshore(&all)
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Builds the project, if something here can: a first time takes as long as the standard library.
fn build(folder: &Path, target: &Path) -> Output {
    let mut build = command(&["policy", "build"]);
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            build.env(name, value);
        }
    }
    // What runs this test must not reach the build.
    build.env("RUSTFLAGS", "--no-such-flag").env("CARGO_BUILD_TARGET", "no-such-target");
    build.env("CARGO_TARGET_DIR", target).current_dir(folder);
    build.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn an_author_comes_from_nothing_to_an_installed_policy() {
    // The same place each time: what was compiled once is not compiled again.
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("policy");
    let project = place.join("my-policy");
    drop(std::fs::remove_dir_all(&project));
    std::fs::create_dir_all(&place).unwrap();
    let new = |name: &str| {
        let args = ["policy", "new", name];
        finish(command(&args).current_dir(&place).spawn().unwrap(), &args)
    };
    expect(&new("my-policy"), 0, &["my-policy/", "farshore policy build"]);
    expect(&new("my-policy"), 3, &["my-policy: making it: File exists", "hint: take another name"]);
    expect(&new("My_Policy"), 2, &["'My_Policy' cannot name a policy"]);
    let built = build(&project, &place.join("target"));
    let component = project.join("my-policy.wasm");
    let name = match built.status.code() {
        Some(0) => {
            expect(&built, 0, &["my-policy.wasm: ", "decides exclude", "\nid "]);
            "my-policy"
        }
        _ => {
            // One command, whatever is missing.
            expect(
                &built,
                3,
                &["nothing on this machine compiles for wasm32-unknown-unknown", "hint: "],
            );
            let hint = said(&built);
            let commands = ["rustup target add wasm32-unknown-unknown", "apt-get install "];
            assert!(commands.iter().any(|command| hint.contains(command)), "{hint}");
            std::fs::copy(fixture("by-suffix.wasm"), &component).unwrap();
            "by-suffix"
        }
    };
    let state = tempfile::tempdir().unwrap();
    let file = text(&component);
    let tested = policy(state.path(), &["test", file]);
    expect(&tested, 0, &["7 cases; at most ", " fuel a case"]);
    expect(
        &policy(state.path(), &["check", file]),
        0,
        &["ok     same answers", "ok     cases: 7 of 7"],
    );
    let installed = policy(state.path(), &["install", file, "--setting", "suffixes=.bak"]);
    expect(&installed, 0, &[&format!("installed {name} ({name} 0.1.0, 1 rule)"), "--policy"]);
    let listed = out(&policy(state.path(), &["list"]));
    assert!(
        listed.contains(&format!("{name:<24} ")) && listed.contains("suffixes=.bak"),
        "{listed}"
    );
    let asked = policy(state.path(), &["run", name, "in/a.bak", "in/a.tmp"]);
    assert_eq!(
        out(&asked),
        "in/a.bak: exclude, by 'suffix .bak'\nin/a.tmp: replicate, by no rule\n"
    );
}

#[test]
fn cases_that_fail_say_what_was_expected_and_got() {
    let site = Site::new();
    let cases = site.path("cases.toml");
    let text_of_cases = "[[exclude]]\npath = 'in/a.m_inproc'\nexpect = 'replicate'\n\n\
        [[exclude]]\npath = 'b'\nexpect = { action = 'replicate', max_fuel = 1 }\n\n\
        [[refuse]]\nsettings = { sandboxes = 'true' }\n";
    std::fs::write(&cases, text_of_cases).unwrap();
    let args = ["test", "mft-defaults", "--cases", text(&cases)];
    let failed = policy(&site.source_state, &args);
    let words = [
        "cases.toml:1: exclude in/a.m_inproc: expected replicate, got exclude by rule 'marker *.m_inproc*'",
        "cases.toml:5: exclude b: took ",
        "more than max_fuel 1",
        "cases.toml:9: refuse: the settings were taken",
        "no case reaches the rule 'young trigger *.trigger'",
        "3 cases, 3 failed",
    ];
    expect(&failed, 8, &words);
    let object = json(&policy(&site.source_state, &[&args[..], &["--json"]].concat()));
    assert_eq!(object["failed"], 3);
    assert_eq!(object["cases"][0]["line"], 1);
    std::fs::write(&cases, "[[exclude]]\npath = 'a'\nexpekt = 'replicate'\n").unwrap();
    let slip = policy(&site.source_state, &args);
    expect(&slip, 2, &["cases.toml:3: ", "expekt"]);
    expect(
        &policy(&site.source_state, &["test", "mft-defaults"]),
        2,
        &["no cases", "hint: name a file"],
    );
    for name in ["mft-defaults", "by-age-size-owner", "merge-journals"] {
        let cases = example(name);
        let good = policy(&site.source_state, &["test", name, "--cases", text(&cases)]);
        expect(&good, 0, &[" cases; at most "]);
        let checked = policy(&site.source_state, &["check", name, "--cases", text(&cases)]);
        expect(&checked, 0, &["ok     cases: "]);
    }
}

#[test]
fn what_is_no_policy_is_refused_with_the_remedy() {
    let site = Site::new();
    let state = &site.source_state;
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let output = policy(state, args);
        expect(&output, code, words);
        assert!(said(&output).lines().count() <= 2, "{}", shown(&output));
        assert!(output.stdout.is_empty(), "{}", shown(&output));
    };
    let missing = site.path("nosuch.wasm");
    refused(&["inspect", text(&missing)], 3, &["nosuch.wasm: reading it", "policy build"]);
    refused(&["inspect", "nosuch"], 3, &["policy nosuch: none of that name", "policy list"]);
    refused(&["inspect", "No such"], 2, &["no name of a policy", "./NAME.wasm"]);
    let module = site.path("module.wasm");
    std::fs::write(&module, b"\0asm\x01\0\0\0").unwrap();
    refused(
        &["inspect", text(&module)],
        3,
        &["module.wasm: a core module", "'farshore policy build'"],
    );
    std::fs::write(&module, b"(component)").unwrap();
    refused(&["check", text(&module)], 3, &["WebAssembly as text"]);
    refused(&["run", "merge-journals", "a"], 3, &["decides conflicts alone", "policy test"]);
    let absolute = ["path '/a': paths are relative to the share's root"];
    refused(&["run", "mft-defaults", "/a"], 2, &absolute);
    refused(&["explain", "/a"], 2, &absolute);
    let unknown = ["run", "mft-defaults", "a", "--setting", "sandbox=true"];
    refused(
        &unknown,
        3,
        &["policy mft-defaults: it refuses its settings: unknown setting 'sandbox'"],
    );
    let twice =
        ["run", "mft-defaults", "a", "--setting", "sandboxes=true", "--setting", "sandboxes=false"];
    refused(&twice, 2, &["setting 'sandboxes' is given twice"]);
    let limit = ["install", "mft-defaults", "--limit", "memry=1M"];
    refused(&limit, 2, &["'memry' is no limit: memory-bytes"]);
    let short = ["install", "mft-defaults", "--limit", "memory=1M"];
    refused(&short, 2, &["'memory' is no limit: memory-bytes"]);
    let shadow = fixture("by-suffix.wasm");
    let shadow = ["install", text(&shadow), "--name", "mft-defaults"];
    refused(&shadow, 3, &["another policy of that name comes with Farshore", "--name"]);
    let component = fixture("mft-defaults.wasm");
    let wrap = ["build", "--module", text(&component)];
    refused(&wrap, 3, &["mft-defaults.wasm: a component already"]);
    refused(&["build", text(&site.source)], 3, &["it has no Cargo.toml", "policy new NAME"]);
    refused(&["remove", "nosuch"], 3, &["policy nosuch: it is not installed"]);
    refused(&["remove", "mft-defaults"], 3, &["it comes with Farshore", "nothing to remove"]);
    // Shown all the same, but not as if it could run.
    let unknown = ["inspect", "mft-defaults", "--setting", "sandbox=true"];
    let words = ["unknown setting 'sandbox'", "origin     comes with Farshore"];
    expect(&policy(state, &unknown), 3, &words);
    let pair = ["replay", "mft-defaults", "--pair", text(&site.source), text(&site.target)];
    refused(&pair, 3, &["no run of it is recorded", "hint: give SRC and DST"]);
    // A fault is a failing check, and nothing such is installed.
    let hostile = fixture("hostile.wasm");
    let args = ["--setting", "act=rule", "--setting", "at=.pay"];
    let checked = policy(state, &[&["check", text(&hostile)][..], &args].concat());
    expect(&checked, 8, &["FAILED no faults: ", "rule 1 of 1, counted from 0"]);
    let installed = policy(state, &[&["install", text(&hostile)][..], &args].concat());
    expect(&installed, 8, &["it is not installed: the check failed"]);
    assert!(!out(&policy(state, &["list"])).contains("hostile"));
    let faulty = policy(state, &[&["run", text(&hostile), "a.pay", "b"][..], &args].concat());
    expect(
        &faulty,
        6,
        &["a.pay: replicate, policy hostile ", "rule 1 of 1, counted from 0", "b: replicate"],
    );
    // One that is off has no figures.
    let off = [
        &["bench", text(&hostile), "--entries", "4000"][..],
        &["--setting", "act=rule", "--setting", "at="],
    ];
    let bench = policy(state, &off.concat());
    expect(&bench, 6, &["no figures: policy hostile is off after its faults"]);
    assert!(!out(&bench).contains(" ns and "), "{}", shown(&bench));
    // Options of a run.
    let run = |more: &[&str], code: i32, words: &[&str]| expect(&site.local(more), code, words);
    run(&["--setting", "a=b", "--policy", "mft-defaults"], 2, &["no policy is named before it"]);
    run(&["--on-policy-fault", "hold"], 2, &["no policy is named", "--policy"]);
    run(&["--policy", "mft-defaults", "--policy", "mft-defaults"], 2, &["two policies named"]);
    run(&["--policy", "mft-defaults", "--on-policy-fault", "stop"], 2, &["replicate, hold"]);
    run(&["--policy", "merge-journals"], 2, &["merge-journals: it decides conflicts alone"]);
    assert!(files(&site.target).is_empty());
}

#[test]
fn a_policy_that_excludes_more_deletes_nothing_and_says_so_before() {
    let site = Site::new();
    for name in ["a.pay", "b.bak", "c.bak"] {
        std::fs::write(site.source.join(name), name).unwrap();
    }
    expect(&site.local(&[]), 0, &[]);
    let (source, target) = (text(&site.source), text(&site.target));
    let bak = ["by-age-size-owner", "--setting", "exclude=*.bak"];
    for place in [&["--root", source][..], &["--pair", source, target]] {
        let args = [&["replay"][..], &bak, place].concat();
        let words = [
            "newly left out: b.bak: by-age-size-owner: exclude *.bak",
            "2 would fare otherwise than with no policy",
            "newly left out: 2 entries, 10 B",
            "detached: it stays at the standby as it is",
        ];
        expect(&policy(&site.source_state, &args), 0, &words);
        let object = json(&policy(&site.source_state, &[&args[..], &["--json"]].concat()));
        assert_eq!(object["newly_excluded"]["entries"], 2, "{object}");
        assert_eq!(object["changes"][0]["path"], "b.bak");
        assert_eq!(object["by_rule"][0]["rule"], "by-age-size-owner: exclude *.bak");
    }
    let run = site.local(&["--policy", bak[0], bak[1], bak[2], "--json"]);
    let object = json(&run);
    assert_eq!((&object["excluded"], &object["removed"]), (&2.into(), &0.into()), "{object}");
    assert_eq!(files(&site.target).len(), 3, "nothing was deleted");
    let verify = |more: &[&str]| {
        farshore(
            &[&["verify", source, target, "--state", text(&site.source_state)][..], more].concat(),
        )
    };
    std::fs::write(site.target.join("b.bak"), "other").unwrap();
    expect(&verify(&[]), 8, &["b.bak"]);
    expect(&verify(&["--policy", bak[0], bak[1], bak[2]]), 0, &[]);
    // Installed with these settings, it is compared with what is to be.
    let install = [&["install"][..], &bak].concat();
    expect(&policy(&site.source_state, &install), 0, &["installed by-age-size-owner"]);
    expect(&policy(&site.source_state, &install), 3, &["is installed already", "--replace"]);
    let less = ["replay", bak[0], "--setting", "exclude=b.*", "--root", source];
    let found = policy(&site.source_state, &less);
    expect(&found, 0, &["newly taken in: c.bak", "1 would fare otherwise than with policy by-age"]);
    let explained = farshore(&[
        "policy",
        "explain",
        "b.bak",
        "lost+found/x",
        "a.pay",
        "--policy",
        bak[0],
        "--state",
        text(&site.source_state),
    ]);
    let words = [
        "b.bak: stays here: policy 'by-age-size-owner: exclude *.bak'",
        "lost+found/x: stays here: all of 'lost+found' does: rule '- /lost+found/'",
        "a.pay: travels",
    ];
    expect(&explained, 0, &words);
    expect(&site.local(&["--policy", bak[0]]), 0, &["recovery point"]);
}

#[test]
fn where_a_policy_fails_the_path_travels_or_the_run_is_held() {
    let site = Site::new();
    for name in ["a.pay", "b"] {
        std::fs::write(site.source.join(name), name).unwrap();
    }
    let hostile = fixture("hostile.wasm");
    let fails = ["--policy", text(&hostile), "--setting", "act=rule", "--setting", "at=.pay"];
    let held = site.local(&[&fails[..], &["--on-policy-fault", "hold"]].concat());
    expect(&held, 5, &["held: "]);
    assert!(files(&site.target).is_empty());
    expect(&site.local(&fails), 6, &["a.pay", "rule 1 of 1, counted from 0"]);
    assert_eq!(files(&site.target).len(), 2);
    // What is compared says so, too; how often a path is asked is not looked at.
    let (source, target) = (text(&site.source), text(&site.target));
    let verify = ["verify", source, target, "--state", text(&site.source_state)];
    let verify = |more: &[&str]| farshore(&[&verify[..], &fails, more].concat());
    expect(&verify(&[]), 6, &["0 differences", "fault: a.pay: ", "a policy had no answer about"]);
    let told = verify(&["--json"]);
    assert_eq!(told.status.code(), Some(6), "{}", shown(&told));
    let object = json(&told);
    assert_eq!(object["equal"], true, "{object}");
    assert!(object["policy_faults"].as_u64() > Some(0), "{object}");
    let held = verify(&["--json", "--on-policy-fault", "hold"]);
    assert_eq!(held.status.code(), Some(5), "{}", shown(&held));
    assert!(json(&held)["held"].as_str().unwrap().contains("no answer"));
    std::fs::write(site.target.join("b"), "other").unwrap();
    expect(&verify(&[]), 8, &["b: ", "fault: a.pay: "]);
}

#[test]
fn what_a_policy_wrote_is_shown_as_far_as_it_matters() {
    let site = Site::new();
    std::fs::write(site.source.join("a.pay"), "a").unwrap();
    let hostile = fixture("hostile.wasm");
    let run = |act: &str, more: &[&str]| {
        let act = format!("act={act}");
        let policy = ["--policy", text(&hostile), "--setting", &act, "--setting", "at=.pay"];
        site.local(&[&policy[..], more].concat())
    };
    let panicked = run("panic", &[]);
    let line = "log of policy hostile: ";
    assert_eq!(panicked.status.code(), Some(6), "{}", shown(&panicked));
    let told = out(&panicked);
    assert!(
        told.lines().any(|l| l.starts_with(line) && l.contains("as the settings say")),
        "{told}"
    );
    let object = run("panic", &["--json"]);
    assert_eq!(json(&object)["policy_faults"], 1);
    assert!(said(&object).contains(line), "{}", shown(&object));
    // Lines of the level info, of which 64 are kept of a call.
    let quiet = run("flood", &[]);
    assert!(!shown(&quiet).contains(line), "{}", shown(&quiet));
    let all = out(&run("flood", &["-v"]));
    assert_eq!(all.lines().filter(|l| l.starts_with(line)).count(), 20, "{all}");
    assert!(all.contains(" more lines of log"), "{all}");
}

#[test]
fn a_target_takes_only_the_policies_it_was_told() {
    let site = Site::new();
    std::fs::write(site.source.join("a"), "a").unwrap();
    let server = site.serve_with(0, &["--policy", "mft-defaults"]);
    expect(&site.remote(server.port(), &["--policy", "mft-defaults"]), 0, &["recovery point"]);
    let none = site.remote(server.port(), &[]);
    assert_ne!(none.status.code(), Some(0), "{}", shown(&none));
    assert!(said(&none).contains("polic"), "{}", shown(&none));
    let other = ["--policy", "mft-defaults", "--setting", "sandboxes=false"];
    let other = site.remote(server.port(), &other);
    assert!(said(&other).contains("has other settings"), "{}", shown(&other));
}

#[test]
fn an_installed_policy_is_the_one_that_was_installed() {
    let site = Site::new();
    let state = &site.source_state;
    let file = fixture("by-suffix.wasm");
    expect(&policy(state, &["install", text(&file), "--name", "mine"]), 0, &["installed mine"]);
    expect(&site.local(&["--policy", "mine"]), 0, &["recovery point"]);
    let component = state.join("policies/mine/policy.wasm");
    assert_eq!(component.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::copy(fixture("mft-defaults.wasm"), &component).unwrap();
    let words = ["policy mine", "installed was", "install it again"];
    expect(&site.local(&["--policy", "mine"]), 3, &words);
    expect(&policy(state, &["list"]), 6, &["mine", "cannot run: ", "its digest is"]);
    expect(&policy(state, &["remove", "mine"]), 0, &["removed mine"]);
    expect(&site.local(&["--policy", "mine"]), 3, &["none of that name"]);
}

#[test]
fn with_a_list_of_signers_only_what_they_signed_runs() {
    let site = Site::new();
    let state = &site.source_state;
    let file = site.path("mine.wasm");
    std::fs::copy(fixture("by-suffix.wasm"), &file).unwrap();
    let key = site.path("site.minisign");
    let sign = ["sign", text(&file), "--key", text(&key)];
    expect(&policy(state, &sign), 3, &["there is no such file", "--make-key"]);
    let signed = policy(state, &[&sign[..], &["--make-key", "--json"]].concat());
    let public = json(&signed)["public_key"].as_str().unwrap().to_owned();
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    expect(&policy(state, &[&sign[..], &["--make-key"]].concat()), 3, &["leave --make-key out"]);
    let (policies, list) = (state.join("policies"), state.join("policies/signers"));
    std::fs::create_dir_all(&policies).unwrap();
    std::fs::write(&list, format!("# ours\n{public} the office\n")).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&policies, 0o755);
    mode(&list, 0o664);
    let words = ["signers: others can write it", "chmod go-w"];
    expect(&site.local(&["--policy", "mft-defaults"]), 3, &words);
    mode(&list, 0o644);
    // What comes with Farshore stays that when it is installed.
    let defaults = ["install", "mft-defaults", "--setting", "sandboxes=true"];
    expect(&policy(state, &defaults), 0, &["installed mft-defaults"]);
    expect(&policy(state, &["list"]), 0, &["mft-defaults", "sandboxes=true"]);
    expect(&site.local(&["--policy", "mft-defaults"]), 0, &["recovery point"]);
    // Who signed it is said, in the line for the list, too, and not what the file is called.
    let signed = out(&policy(state, &sign));
    let id = std::fs::read_to_string(site.path("site.minisign.pub")).unwrap();
    let id = id.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(signed.contains(&format!(", by key {id}\n")), "{signed} {id}");
    assert!(signed.contains(&format!("{public} key {id}\n")), "{signed} {id}");
    expect(&policy(state, &["install", text(&file)]), 0, &["signed by the office"]);
    expect(&site.local(&["--policy", "by-suffix"]), 0, &[]);
    expect(&site.local(&["--policy", text(&file)]), 0, &[]);
    std::fs::remove_file(site.path("mine.wasm.minisig")).unwrap();
    let words = ["not signed", "'farshore policy sign ", "--allow-unsigned"];
    expect(&site.local(&["--policy", text(&file)]), 3, &words);
    expect(&site.local(&["--policy", "mft-defaults"]), 0, &[]);
    let again = ["install", text(&file), "--replace"];
    expect(&policy(state, &again), 3, &["not signed"]);
    let exception = policy(state, &[&again[..], &["--allow-unsigned"]].concat());
    expect(&exception, 0, &["not signed: an exception"]);
    expect(&policy(state, &["list"]), 0, &["not signed: an exception"]);
    expect(&site.local(&["--policy", "by-suffix"]), 0, &[]);
    // A signature of another file is none, and no exception either.
    std::fs::copy(fixture("mft-defaults.wasm"), &file).unwrap();
    expect(&policy(state, &sign), 0, &["mine.wasm.minisig"]);
    std::fs::copy(fixture("by-suffix.wasm"), &file).unwrap();
    let wrong = ["no signer on the list made this signature"];
    expect(&policy(state, &again), 3, &wrong);
    expect(&policy(state, &[&again[..], &["--allow-unsigned"]].concat()), 3, &wrong);
    let listed = json(&policy(state, &["list", "--json"]));
    let one = listed["policies"].as_array().unwrap().iter().find(|p| p["name"] == "by-suffix");
    assert_eq!(one.unwrap()["has_signature"], false, "{listed}");
    // What no run would take is listed as such: here its exception was taken back.
    let record = policies.join("by-suffix/policy.toml");
    let edited = std::fs::read_to_string(&record).unwrap().replace("unsigned = true", "");
    std::fs::write(&record, edited).unwrap();
    expect(&policy(state, &["list"]), 6, &["cannot run: policy by-suffix: it is not signed"]);
}

#[test]
fn a_file_name_moves_no_terminal() {
    let site = Site::new();
    let state = &site.source_state;
    let file = site.path("\u{1b}[2Jmine.wasm");
    std::fs::copy(fixture("by-suffix.wasm"), &file).unwrap();
    let key = site.path("key");
    let signed = policy(state, &["sign", text(&file), "--key", text(&key), "--make-key"]);
    expect(&signed, 0, &["mine.wasm.minisig: of id "]);
    assert!(!shown(&signed).contains('\u{1b}'), "{:?}", shown(&signed));
    let module = site.path("\u{1b}[2Jmodule.wasm");
    std::fs::write(&module, b"\0asm\x01\0\0\0").unwrap();
    let built = policy(state, &["build", "--module", text(&module)]);
    assert!(!shown(&built).contains('\u{1b}'), "{:?}", shown(&built));
}

/// The page on output names every field of every object.
#[test]
fn the_page_on_output_names_every_field_of_policies() {
    let site = Site::new();
    let state = &site.source_state;
    std::fs::write(site.source.join("a.bak"), "a").unwrap();
    let cases = example("mft-defaults");
    let bak = ["--setting", "exclude=*.bak"];
    let (source, module) = (text(&site.source), fixture("mft-defaults.wasm"));
    let copy = site.path("x.wasm");
    std::fs::copy(&module, &copy).unwrap();
    let key = site.path("key");
    let commands: [&[&str]; 11] = [
        &["check", "mft-defaults"],
        &["inspect", "mft-defaults"],
        &["test", "mft-defaults", "--cases", text(&cases)],
        &["run", "mft-defaults", "a"],
        &["explain", "a", "--policy", "mft-defaults"],
        &["replay", "by-age-size-owner", bak[0], bak[1], "--root", source],
        &["bench", "mft-defaults", "--entries", "1000"],
        &["sign", text(&copy), "--key", text(&key), "--make-key"],
        &["install", "by-age-size-owner", bak[0], bak[1]],
        &["list"],
        &["remove", "by-age-size-owner"],
    ];
    let page = include_str!("../docs/output.md");
    for args in commands {
        let object = json(&policy(state, &[args, &["--json"]].concat()));
        let title = format!("## policy {} --json", args[0]);
        let start = page.find(&title).unwrap_or_else(|| panic!("no '{title}'"));
        let rest = &page[start + 3..];
        let section = &rest[..rest.find("\n#").unwrap_or(rest.len())];
        let named: Vec<&str> = section.split('`').skip(1).step_by(2).collect();
        let mut fields: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
        for list in object.as_object().unwrap().values().filter_map(|v| v.as_array()) {
            fields
                .extend(list.iter().filter_map(|v| v.as_object()).flat_map(|o| o.keys().cloned()));
        }
        for field in fields {
            assert!(named.contains(&field.as_str()), "{title}: '{field}' is not in the page");
        }
    }
}
