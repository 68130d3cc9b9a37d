//! A new project: the template with a name, and this crate beside it.
//!
//! Guarantees: all of it is in the program, so that a project is made without a network. Refuses a
//! name that is no crate's. Writes nothing: the files are the caller's to place.

/// This crate, by path below its root.
const SDK: [(&str, &str); 15] = [
    ("Cargo.toml", include_str!("../Cargo.toml")),
    ("README.md", include_str!("../README.md")),
    ("src/abi.rs", include_str!("abi.rs")),
    ("src/export.rs", include_str!("export.rs")),
    ("src/glob.rs", include_str!("glob.rs")),
    ("src/lib.rs", include_str!("lib.rs")),
    ("src/log.rs", include_str!("log.rs")),
    ("src/merge.rs", include_str!("merge.rs")),
    ("src/merge/lines.rs", include_str!("merge/lines.rs")),
    ("src/policy.rs", include_str!("policy.rs")),
    ("src/settings.rs", include_str!("settings.rs")),
    ("src/testing.rs", include_str!("testing.rs")),
    ("src/types.rs", include_str!("types.rs")),
    ("src/worlds.rs", include_str!("worlds.rs")),
    ("wit/policy.wit", include_str!("../../policies/wit/policy.wit")),
];

/// The project, by path below its root.
const TEMPLATE: [(&str, &str); 7] = [
    (".gitignore", include_str!("../template/gitignore")),
    ("Cargo.toml", include_str!("../template/Cargo.toml")),
    ("README.md", include_str!("../template/README.md")),
    ("ci.yml", include_str!("../template/ci.yml")),
    ("src/lib.rs", include_str!("../template/src/lib.rs")),
    ("tests/cases.toml", include_str!("../template/tests/cases.toml")),
    ("tests/native.rs", include_str!("../template/tests/native.rs")),
];

/// Longest name of a policy.
pub const NAME_MAX: usize = 64;

/// The files of a new project, by path below its folder.
///
/// # Errors
/// Says which names are possible.
pub fn project(name: &str) -> Result<Vec<(String, String)>, String> {
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--")
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.len() <= NAME_MAX;
    // The names of the kit and of the libraries that every crate has.
    let is_taken = ["farshore-wasm-sdk", "core", "std", "alloc", "test", "proc-macro"];
    if !is_name || is_taken.contains(&name) || is_keyword(name) {
        return Err(format!(
            "'{name}' cannot name a policy: a name has lower-case letters, digits and single '-' \
             between them, begins with a letter, has at most {NAME_MAX} bytes, and is no word of Rust"
        ));
    }
    let part = |part: &str| {
        let (first, rest) = part.split_at(part.len().min(1));
        first.to_ascii_uppercase() + rest
    };
    let type_name: String = name.split('-').map(part).collect();
    let crate_name = name.replace('-', "_");
    let fill = |text: &str| {
        let text = text.replace("my-policy", name).replace("my_policy", &crate_name);
        text.replace("MyPolicy", &type_name)
    };
    let template = TEMPLATE.iter().map(|(path, text)| ((*path).to_owned(), fill(text)));
    let vendored = |path: &str| format!("vendor/farshore-wasm-sdk/{path}");
    let sdk = SDK.iter().map(|(path, text)| (vendored(path), (*text).to_owned()));
    Ok(template.chain(sdk).collect())
}

fn is_keyword(name: &str) -> bool {
    const WORDS: &str = "as async await break const continue crate dyn else enum extern false fn for gen \
        if impl in let loop match mod move mut pub ref return self static struct super trait true type \
        unsafe use where while abstract become box do final macro override priv try typeof unsized \
        virtual yield";
    WORDS.split_ascii_whitespace().any(|word| word == name)
}
