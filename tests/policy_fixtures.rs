//! The built policies and the interface they were built for: neither changes unseen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// BLAKE3 of `farshore:policy@1.0.0` without comments and white space. The interface is frozen: what
/// was built for it must run for ever. A new interface gets a version and a line of its own.
const FROZEN: &str = "843efb71625f1ca042f931973811562a8278bd08f471b8b2b8df1babb51b8382";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/policies")
}

/// The words of an interface: what means something in it.
fn words(wit: &str) -> String {
    let code = wit.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(str::split_whitespace).fold(String::new(), |mut all, word| {
        write!(all, "{word} ").expect("a string");
        all
    })
}

#[test]
fn the_interface_is_frozen() {
    let wit = std::fs::read_to_string(root().join("policies/wit/policy.wit")).expect("readable");
    let code = words(&wit);
    assert!(code.starts_with("package farshore:policy@1.0.0;"));
    let digest = blake3::hash(code.as_bytes()).to_hex().to_string();
    assert_eq!(
        digest, FROZEN,
        "policies/wit/policy.wit says something else than version 1.0.0 did"
    );
    // Comments may get better; anything else may not.
    assert_eq!(words(&wit.replace("///", "/// better:")), code);
    assert_ne!(words(&wit.replace("u32", "u64")), code);
}

#[test]
fn every_fixture_is_in_the_list_with_its_digest_and_its_source() {
    let list = std::fs::read_to_string(fixtures().join("digests")).expect("a list");
    let mut listed = BTreeSet::new();
    for line in list.lines() {
        let [digest, name, source, tools] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("'{line}' is not a digest, a name, a source and its tools");
        };
        let bytes = std::fs::read(fixtures().join(name)).expect(name);
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), digest, "{name}");
        assert!(root().join(source).is_dir(), "{name}: no folder {source}");
        assert!(tools.contains(char::is_numeric), "{name}: '{tools}' names no version");
        assert!(listed.insert(name.to_owned()), "{name} is listed twice");
    }
    let names = std::fs::read_dir(fixtures())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let found: BTreeSet<_> =
        names.filter(|name| !["digests", "sources", "README.md"].contains(&&**name)).collect();
    assert_eq!(found, listed);
}

#[test]
fn no_fixture_names_a_folder_of_the_machine_it_was_built_on() {
    for entry in std::fs::read_dir(fixtures()).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("readable");
        for folder in ["/home/", "/root/", "/tmp/"] {
            let found = bytes.windows(folder.len()).any(|window| window == folder.as_bytes());
            // The engine inside is a release of its authors', built on their machine.
            let is_foreign = path.ends_with("by-suffix-js.wasm");
            assert!(!found || is_foreign, "{} names {folder}", path.display());
        }
    }
}
