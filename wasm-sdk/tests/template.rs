//! A new project as `farshore policy new` makes it, and that its tests pass without a network.

#[allow(unreachable_pub)] // it is a public module of the crate
#[path = "../src/sources.rs"]
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The project of that name in an empty folder.
fn made(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        // What was built stays, the files are made anew.
        for part in ["src", "tests", "vendor"] {
            std::fs::remove_dir_all(folder.join(part)).expect("removed");
        }
    }
    for (path, text) in sources::project(name).expect("a name") {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    folder
}

#[test]
fn a_new_project_passes_its_tests_without_a_network() {
    let folder = made("hold-back-drafts");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--quiet"])
        .current_dir(&folder)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .expect("cargo ran");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("3 passed"), "{}", text(&output.stdout));
    let warned = text(&output.stderr);
    assert!(!warned.contains("warning"), "{warned}");
}

#[test]
fn the_name_is_everywhere_the_templates_was() {
    for (path, text) in sources::project("a1-b").expect("a name") {
        if !path.starts_with("vendor/") {
            let lower = text.to_lowercase();
            assert!(
                !["my-policy", "my_policy", "mypolicy"].iter().any(|n| lower.contains(n)),
                "{path}"
            );
        }
    }
}

#[test]
fn what_names_no_crate_is_refused() {
    let long = "a".repeat(65);
    for name in ["", "A", "a_b", "-a", "a-", "a--b", "1a", "a/b", "..", "é", "fn", "std", &long] {
        assert!(sources::project(name).is_err(), "'{name}' was taken");
    }
}

#[test]
fn every_module_of_the_kit_travels_with_it() {
    let files = sources::project("a").expect("a name");
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below").display();
            let vendored = format!("vendor/farshore-wasm-sdk/{below}");
            let travels = files.iter().any(|(path, _)| *path == vendored);
            assert!(travels || vendored.ends_with("/sources.rs"), "{below} is not in the list");
            seen += 1;
        }
    }
    assert!(seen > 10, "the walk found the crate");
}
