//! The harness in small: it measures, compares, holds a tool to what it claims, and writes files others
//! can read. Nothing here depends on how fast anything is.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Output;

use common::{expect, farshore, shown, text};
use serde_json::Value;

/// A tool that copies well, and one that claims to keep times and does not.
const COPY: &str = "# all of cp\nname = copy\nneeds = cp\nversion = cp --version\n\
    claims = mode owner times folder-times\nsync = cp -a {source}/. {target}/\n";
const CARELESS: &str = "name = careless\nneeds = cp\nclaims = seconds\n\
    sync = cp -r {source}/. {target}/\n";

fn row<'a>(all: &'a Value, step: &str, tool: &str) -> &'a Value {
    let rows = all["rows"].as_array().unwrap();
    rows.iter().find(|row| row["step"] == step && row["tool"] == tool).unwrap()
}

#[test]
fn a_small_series_is_measured_compared_and_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("copy"), COPY).unwrap();
    std::fs::write(path("careless"), CARELESS).unwrap();
    let (work, json, plot) = (path("work"), path("all.json"), path("all.svg"));
    std::fs::create_dir(&work).unwrap();
    let out = farshore(&[
        "bench",
        "--work",
        text(&work),
        "--scale",
        "0.01",
        "--runs",
        "1",
        "--workload",
        "W1,W4a",
        "--peers",
        "farshore",
        "--adapter",
        text(&path("copy")),
        "--adapter",
        text(&path("careless")),
        "--json",
        text(&json),
        "--plot",
        text(&plot),
        "--targets",
    ]);
    // At this scale a target that is missed is shown, and is no error.
    expect(&out, 0, &["not meant for them", "limit: what the parts"]);
    let all: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(all["format"], 2);
    for (step, tool) in [("W1", "farshore"), ("W4a", "farshore"), ("W1", "copy"), ("W4a", "copy")] {
        let row = row(&all, step, tool);
        assert_eq!((&row["good"], &row["runs"]), (&1.into(), &1.into()), "{}", shown(&out));
        assert!(row["wall_s"].as_f64().unwrap() > 0.0 && row["limit_s"].as_f64().unwrap() > 0.0);
    }
    // What it did not keep is held against it; it has no target to show on what follows.
    let careless = row(&all, "W1", "careless");
    assert_eq!(careless["good"], 0);
    assert!(careless["trouble"].as_str().unwrap().contains("mtime differs"), "{careless}");
    assert!(
        all["rows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["step"] != "W4a" || row["tool"] != "careless")
    );
    let targets = all["targets"].as_array().unwrap();
    let faster = targets.iter().find(|t| t["asked"] == "times as fast as rsync-ssh").unwrap();
    assert_eq!(faster["outcome"], "not-measured");
    assert_well_formed(&std::fs::read_to_string(&plot).unwrap());
    // Nothing is left but what was asked for.
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);
}

#[test]
fn a_slip_in_an_adapter_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slip");
    std::fs::write(&file, "name = x\nsync = cp {sorce} {target}\n").unwrap();
    let work = folder.path().join("work");
    let out = farshore(&["bench", "--work", text(&work), "--adapter", text(&file)]);
    expect(&out, 1, &["line 2", "{sorce}"]);
    assert!(!Path::new(&work).exists());
}

/// One small run of each adapter in files of these contents, and of Farshore with these words.
fn series(adapters: &[&str], words: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let files: Vec<_> = (0..adapters.len()).map(|n| folder.path().join(n.to_string())).collect();
    let mut all = vec!["bench", "--work", text(&work), "--workload", "W1", "--scale", "0.001"];
    all.extend(["--runs", "1", "--no-limits", "--peers", "farshore"]);
    for (file, adapter) in files.iter().zip(adapters) {
        std::fs::write(file, adapter).unwrap();
        all.extend(["--adapter", text(file)]);
    }
    all.extend(words);
    let out = farshore(&all);
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "nothing is left");
    out
}

#[test]
fn a_run_of_ours_that_failed_or_differs_is_an_error_at_any_scale() {
    expect(&series(&[], &[]), 0, &["equal"]);
    for words in ["--farshore-arg=--nonsense", "--farshore-arg=--dry-run"] {
        expect(
            &series(&[], &[words]),
            1,
            &["runs of farshore: 1 failed or left a tree that differs"],
        );
    }
    let out = series(&[], &["--farshore", "/nonexistent"]);
    expect(&out, 1, &["nothing was measured"]);
}

#[test]
fn a_tool_that_changes_its_source_ends_the_series() {
    let eater =
        "name = eater\nclaims = all\nsync = rm -rf {source}/*; cp -a {source}/. {target}/\n";
    let out = series(&[eater], &[]);
    // What was measured before it is shown all the same.
    expect(&out, 1, &["eater run 1: changed its source", "W1               farshore"]);
}

#[test]
fn two_adapters_of_one_name_are_refused() {
    expect(&series(&[COPY, COPY], &[]), 1, &["copy: the name of two adapters"]);
}

#[test]
fn a_report_is_put_in_place_of_nothing_but_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path().join("file"), &link).unwrap();
    for option in ["--json", "--plot"] {
        let out = series(&[], &[option, text(&link)]);
        expect(&out, 1, &[text(&link), "cannot put a report in place of no file"]);
    }
    assert!(link.is_symlink() && !folder.path().join("file").exists());
}

#[test]
fn a_folder_to_work_in_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().join("nosuch");
    let out = farshore(&["bench", "--work", text(&work), "--workload", "W1", "--scale", "0.01"]);
    expect(&out, 1, &[text(&work), "cannot find the folder to work in"]);
    assert!(!work.exists());
}

/// Every tag is closed in order, and no text has a bare special character.
#[track_caller]
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg.trim();
    assert!(rest.starts_with("<svg ") && rest.ends_with("</svg>"), "{svg}");
    while let Some((words, after)) = rest.split_once('<') {
        assert!(!words.contains('>'), "{words}");
        assert!(words.match_indices('&').all(|(at, _)| words[at..].contains(';')), "{words}");
        let (tag, behind) = after.split_once('>').expect("a tag that ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{svg}");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a name"));
        }
        rest = behind;
    }
    assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
}
