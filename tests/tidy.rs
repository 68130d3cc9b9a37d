//! House rules that a machine can hold: module headers, file lengths, and that the page on output names
//! every field that is printed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines beyond which a file has a part that wants a room of its own. Tests are not counted.
const LINES_MAX: usize = 800;

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> =
        ["src", "engine", "transport", "policies", "wasm-sdk", "tests", "benches", "fuzz"]
            .iter()
            .map(|f| root.join(f))
            .collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 50, "the walk found the project");
    files
}

#[test]
fn every_module_begins_with_its_contract() {
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("readable");
        let contract = text.lines().find(|l| !l.starts_with("#!")).unwrap_or_default();
        assert!(contract.starts_with("//!"), "{} has no module documentation", file.display());
    }
}

#[test]
fn no_file_outgrows_its_room() {
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("readable");
        let is_test = file.components().any(|c| c.as_os_str() == "tests")
            || file.file_name().is_some_and(|n| n == "tests.rs");
        let lines: Vec<&str> = text.lines().collect();
        let begin_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{');
        let lines = lines.windows(2).position(begin_tests).unwrap_or(lines.len());
        let limit = LINES_MAX;
        assert!(is_test || lines <= limit, "{} has {lines} lines of {limit}", file.display());
    }
}

#[test]
fn the_page_on_output_names_every_field() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("file"), "content").expect("written");
    let run = |command: &str| {
        let mut farshore = Command::new(env!("CARGO_BIN_EXE_farshore"));
        farshore.arg(command).arg(&source).arg(folder.path().join("target"));
        if command != "verify" {
            farshore.arg("--state").arg(folder.path().join("state"));
        }
        let output = farshore.arg("--json").output().expect("it ran");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let value: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
        let fields = value.as_object().expect("an object").keys().cloned();
        fields.collect::<BTreeSet<String>>()
    };
    let page = include_str!("../docs/output.md");
    let section = |name: &str| {
        let start = page.find(&format!("## {name} --json")).expect("a section");
        let rest = &page[start + 3..];
        &rest[..rest.find("\n## ").unwrap_or(rest.len())]
    };
    for command in ["replicate", "status", "verify"] {
        let named: BTreeSet<&str> = section(command).split('`').skip(1).step_by(2).collect();
        for field in run(command) {
            assert!(
                named.contains(field.as_str()),
                "{command} prints '{field}', the page does not"
            );
        }
    }
}
