//! The rules that are rsync's by meaning, beside rsync itself: both select from one tree.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Candidate};
use farshore_policies::RuleSet;

/// Files; their directories are made on the way. A trailing '/' makes an empty directory.
const TREE: [&[u8]; 30] = [
    b"foo",
    b"bar",
    b"foo.o",
    b"a.txt",
    b"A.TXT",
    b"x]y",
    b"star*name",
    b"back\\slash",
    b"sp ace",
    b"tail ",
    b"-dash",
    b"caf\xe9",
    b"d1/foo",
    b"d1/foo.o",
    b"d1/bar/foo",
    b"d1/bar/baz/foo.o",
    b"d1/a1",
    b"d1/b2",
    b"d2/d1/foo",
    b"d2/d1/a1",
    b"d2/foo/bar",
    b"d2/foo/baz/bar",
    b"empty/",
    b"d3/.hidden",
    b"d3/foobar",
    b"d3/x-y",
    b"d3/x5y",
    b"foo.d/foo",
    b"#hash",
    b"d3/[b]",
];

/// One set of rules a line, each rule an argument of `--exclude`.
const RULES: [&[&[u8]]; 52] = [
    &[b"foo"],
    &[b"/foo"],
    &[b"foo/"],
    &[b"d1/foo"],
    &[b"/d1/foo"],
    &[b"d1/"],
    &[b"/d1/"],
    &[b"*.o"],
    &[b"/*.o"],
    &[b"*"],
    &[b"/*"],
    &[b"*/"],
    &[b"d1/*"],
    &[b"/d1/*"],
    &[b"d1/**"],
    &[b"/d1/**"],
    &[b"d1/***"],
    &[b"/d1/***"],
    &[b"**/foo"],
    &[b"/**/foo"],
    &[b"d1/**/foo"],
    &[b"d1/**foo*"],
    &[b"**foo"],
    &[b"foo**"],
    &[b"**/bar/**"],
    &[b"fo?"],
    &[b"?"],
    &[b"??"],
    &[b"d?/foo"],
    &[b"[ab]*"],
    &[b"[!ab]*"],
    &[b"[^ab]*"],
    &[b"[a-z][0-9]"],
    &[b"x[]]y"],
    &[b"x[0-9-]y"],
    &[b"*[[:upper:]]*"],
    &[b"*[[:space:]]*"],
    &[b"star\\*name"],
    &[b"star\\*nam?"],
    &[b"back\\slash"],
    &[b"back\\\\slas?"],
    &[b"back\\slas?"],
    &[b"sp ace"],
    &[b"tail "],
    &[b"tail"],
    &[b"caf\xe9"],
    &[b"caf[\x80-\xff]"],
    &[b"\\[b]*"],
    &[b"+ foo", b"*"],
    &[b"+ */", b"+ *.o", b"- *"],
    &[b"+ /d1/", b"+ /d1/bar/***", b"*"],
    &[b"- -dash", b"#hash"],
];

#[test]
fn selects_what_rsync_selects() {
    if Command::new("rsync").arg("--version").output().is_err() {
        note("rsync is not here: the comparison with it was skipped");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (src, dst) = (dir.path().join("src"), dir.path().join("dst"));
    fs::create_dir(&dst).expect("a target");
    for path in TREE {
        let path = src.join(OsStr::from_bytes(path));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        if path.as_os_str().as_bytes().ends_with(b"/") {
            fs::create_dir_all(&path).expect("a directory");
        } else {
            fs::write(&path, b"x").expect("a file");
        }
    }
    for rules in RULES {
        let args = rules.iter().map(|r| [b"--exclude=", *r].concat()).collect::<Vec<_>>();
        assert_eq!(ours(&src, rules), rsyncs(&src, &dst, &args), "{:?}", shown(rules));
    }
    let file =
        b"# comment\n; comment\n\n*.o\r\n+ /d1/\n+ foo\n- d?\n;x\n sp ace\ntail \n".as_slice();
    let list = dir.path().join("rules");
    fs::write(&list, file).expect("a file of rules");
    for (sense, option) in [(Action::Exclude, "exclude"), (Action::Replicate, "include")] {
        let mut builder = RuleSet::builder(Timestamp::default());
        builder.without_defaults().push_file(sense, "rules", file).expect("rules");
        builder.push(Action::Exclude, b"b*").expect("a rule");
        let from = format!("--{option}-from={}", list.display()).into_bytes();
        let theirs = rsyncs(&src, &dst, &[from, b"--exclude=b*".to_vec()]);
        assert_eq!(walk(&src, &builder.build()), theirs, "--{option}-from");
    }
}

fn ours(src: &Path, rules: &[&[u8]]) -> BTreeSet<Vec<u8>> {
    let mut builder = RuleSet::builder(Timestamp::default());
    builder.without_defaults();
    for rule in rules {
        builder.push(Action::Exclude, rule).expect("a rule");
    }
    walk(src, &builder.build())
}

/// What a walk selects that asks nothing below an excluded directory.
fn walk(src: &Path, rules: &RuleSet) -> BTreeSet<Vec<u8>> {
    let mut selected = BTreeSet::new();
    let mut waiting = vec![RelPath::root()];
    while let Some(parent) = waiting.pop() {
        let dir = src.join(OsStr::from_bytes(parent.as_bytes()));
        for entry in fs::read_dir(dir).expect("a listing") {
            let entry = entry.expect("an entry");
            let path = parent.join(entry.file_name().as_bytes()).expect("a name");
            let is_directory = entry.file_type().expect("a type").is_dir();
            let candidate = Candidate {
                path: &path,
                kind: if is_directory { EntryKind::Directory } else { EntryKind::File },
                size: 1,
                mtime: Timestamp::default(),
                mode: 0o644,
                uid: 0,
                gid: 0,
            };
            if rules.verdict(&candidate).action == Action::Replicate {
                selected.insert(path.as_bytes().to_vec());
                if is_directory {
                    waiting.push(path);
                }
            }
        }
    }
    selected
}

fn rsyncs(src: &Path, dst: &Path, args: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    let output = Command::new("rsync")
        .env("LC_ALL", "C")
        .args(["-an", "-8", "--out-format=%n"])
        .args(args.iter().map(|a| OsStr::from_bytes(a)))
        .arg(src.join(""))
        .arg(dst.join(""))
        .output()
        .expect("rsync runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
        .stdout
        .split(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"/").unwrap_or(line))
        .filter(|line| !line.is_empty() && *line != b".")
        // -8 shows every byte but a backslash that would look like an escape.
        .map(|line| line.to_vec())
        .collect()
}

fn shown(rules: &[&[u8]]) -> Vec<String> {
    rules.iter().map(|r| r.escape_ascii().to_string()).collect()
}

#[allow(clippy::print_stderr)]
fn note(text: &str) {
    eprintln!("note: {text}");
}
