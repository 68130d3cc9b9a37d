//! Compiled code is used only when it is our own and as it was written; else it is made anew.

#[path = "common/mod.rs"]
mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::{Guest, candidate, path};
use farshore_core::policy::{Action, Verdict};
use farshore_policies::{Component, Host, Limits, OnFault};

/// Loads the usual guest with this cache, and whether it came from there; it works in any case.
fn load(cache: &Path) -> bool {
    let host = Host::new(Some(cache)).expect("a host");
    let component = host.load(&Guest::default().build(), &Limits::default()).expect("a policy");
    works(&component);
    component.is_from_cache()
}

fn works(component: &Component) {
    let configured = component
        .configure("guest", &[], Limits::default(), OnFault::Replicate, common::AT)
        .expect("configured");
    let name = path("ax");
    assert_eq!(configured.exclude(&[candidate(&name)]), [Verdict::by_rule(Action::Exclude, 0)]);
}

/// A cache with one file in it.
fn filled() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    assert!(!load(&cache), "compiled");
    assert!(load(&cache), "kept");
    let file = only_file(&cache);
    (folder, cache, file)
}

fn only_file(cache: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(cache).expect("a folder").collect();
    assert_eq!(files.len(), 1, "one file, and nothing beside it");
    files.into_iter().next().expect("one").expect("an entry").path()
}

#[test]
fn what_is_kept_is_for_its_owner_alone() {
    let (_folder, cache, file) = filled();
    assert_eq!(fs::metadata(&cache).expect("a folder").mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
}

#[test]
fn a_damaged_file_is_compiled_anew_and_replaced() {
    let (_folder, cache, file) = filled();
    let good = fs::read(&file).expect("readable");
    let mut cases = vec![Vec::new(), good[..40].to_vec(), good[..good.len() / 2].to_vec()];
    cases.push([&good[..], b"x"].concat());
    for at in [0, 16, 48, 80, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        cases.push(bytes);
    }
    for bytes in cases {
        fs::write(&file, &bytes).expect("written");
        assert!(!load(&cache), "{} bytes", bytes.len());
        assert_eq!(fs::read(&file).expect("readable"), good, "replaced");
        assert!(load(&cache));
    }
}

#[test]
fn a_file_that_others_can_write_or_read_is_not_run() {
    let (_folder, cache, file) = filled();
    for mode in [0o620, 0o602, 0o640, 0o604] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("set");
        assert!(!load(&cache), "{mode:o}");
        assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600, "replaced");
        assert!(load(&cache));
    }
}

#[test]
#[allow(clippy::print_stderr)]
fn a_file_of_somebody_else_is_not_run() {
    let (_folder, cache, file) = filled();
    if let Err(error) = std::os::unix::fs::chown(&file, Some(12_345), None) {
        eprintln!("skipped: only root gives files away ({error})");
        return;
    }
    assert!(!load(&cache));
    assert_ne!(fs::metadata(&file).expect("a file").uid(), 12_345, "replaced");
    assert!(load(&cache));
}

#[test]
fn a_link_or_a_fifo_in_its_place_is_not_followed() {
    let (folder, cache, file) = filled();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&file, &elsewhere).expect("moved");
    symlink(&elsewhere, &file).expect("linked");
    assert!(!load(&cache), "a good file, but not here");
    assert!(fs::symlink_metadata(&file).expect("a file").is_file(), "replaced");
    fs::remove_file(&file).expect("removed");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &file,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a fifo");
    assert!(!load(&cache), "and it did not wait");
    assert!(load(&cache));
}

#[test]
fn the_file_of_another_policy_is_not_taken_for_this_one() {
    let (_folder, cache, file) = filled();
    let host = Host::new(Some(&cache)).expect("a host");
    let other = Guest { verdict: "unreachable".to_owned(), ..Guest::default() };
    host.load(&other.build(), &Limits::default()).expect("a policy");
    let mut files: Vec<_> =
        fs::read_dir(&cache).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| *f != file);
    fs::rename(&files[0], &file).expect("moved");
    assert!(!load(&cache));
}

#[test]
fn what_is_refused_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let host = Host::new(Some(&cache)).expect("a host");
    let empty = wat::parse_str("(component)").expect("a component");
    assert!(host.load(&empty, &Limits::default()).is_err());
    assert_eq!(fs::read_dir(&cache).expect("a folder").count(), 0);
}

#[test]
fn a_folder_that_is_open_to_others_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).expect("made");
    for mode in [0o770, 0o702, 0o755] {
        fs::set_permissions(&cache, Permissions::from_mode(mode)).expect("set");
        let error = Host::new(Some(&cache)).expect_err("open to others");
        let source = std::error::Error::source(&error).expect("why").to_string();
        assert!(source.contains("run: chmod 700"), "{source}");
    }
    let link = folder.path().join("link");
    fs::set_permissions(&cache, Permissions::from_mode(0o700)).expect("set");
    symlink(&cache, &link).expect("linked");
    assert!(Host::new(Some(&link)).is_err(), "not through a link");
    assert!(Host::new(Some(&folder.path().join("no/such"))).is_err());
    assert!(Host::new(Some(&cache)).is_ok());
}

#[test]
fn the_oldest_files_go() {
    let (_folder, cache, file) = filled();
    for n in 0..100 {
        fs::write(cache.join(format!("{n}.4242")), b"left over").expect("written");
    }
    fs::remove_file(&file).expect("removed");
    assert!(!load(&cache));
    assert_eq!(fs::read_dir(&cache).expect("a folder").count(), 64);
    assert!(load(&cache), "the newest stays");
}
