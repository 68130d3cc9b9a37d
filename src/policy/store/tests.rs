//! The store of policies on a real file system.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::*;

struct Place {
    folder: tempfile::TempDir,
    store: PolicyStore,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let state = State::existing(Some(&folder.path().join("state"))).unwrap();
    Place { store: PolicyStore::of(&state), folder }
}

fn policy(name: &str, component: &[u8]) -> StoredPolicy {
    let settings = [("suffixes".to_owned(), ".tmp,~".to_owned())];
    StoredPolicy {
        name: name.parse().unwrap(),
        component: component.to_vec(),
        record: PolicyRecord {
            id: PolicyId::of(component).to_string(),
            on_fault: "hold".into(),
            unsigned: false,
            settings: settings.into(),
            limits: [("memory-bytes".to_owned(), "64M".to_owned())].into(),
        },
        signature: Some("untrusted comment: x\n".into()),
    }
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

/// Everything in the folder that is no policy.
fn leftovers(store: &PolicyStore) -> Vec<String> {
    let names = fs::read_dir(store.folder()).unwrap().flatten();
    let names = names.map(|e| e.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

#[test]
fn what_is_installed_is_read_back_and_nobody_else_may_look() {
    let place = place();
    let store = &place.store;
    assert_eq!(store.names().unwrap(), []);
    let one = policy("one", b"component");
    store.install(&one, false).unwrap();
    let read = store.get(&one.name).unwrap();
    assert_eq!(read.component, one.component);
    assert_eq!(read.record, one.record);
    assert_eq!(read.signature, one.signature);
    assert_eq!(store.names().unwrap(), [one.name.clone()]);
    let folder = store.folder().join("one");
    assert_eq!(mode(store.folder()), 0o700);
    assert_eq!(mode(&folder), 0o700);
    for file in ["policy.wasm", "policy.toml", "policy.minisig"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&store.cache_folder().unwrap()), 0o700);
    assert_eq!(store.names().unwrap(), [one.name], "the cache is no policy");
}

#[test]
fn one_gives_way_to_another_only_when_that_is_asked_for() {
    let place = place();
    let store = &place.store;
    let (old, mut new) = (policy("one", b"old"), policy("one", b"new"));
    new.signature = None;
    store.install(&old, true).unwrap();
    let refused = store.install(&new, false).unwrap_err();
    assert!(matches!(refused, StoreError::Exists { .. }), "{refused}");
    assert!(refused.failure().to_string().contains("--replace"));
    assert_eq!(store.get(&old.name).unwrap().component, b"old");
    store.install(&new, true).unwrap();
    let read = store.get(&new.name).unwrap();
    assert_eq!((read.component, read.signature), (b"new".to_vec(), None));
    assert_eq!(leftovers(store), [] as [&str; 0]);
    store.remove(&new.name).unwrap();
    assert!(matches!(store.get(&new.name), Err(StoreError::NotInstalled { .. })));
    assert!(matches!(store.remove(&new.name), Err(StoreError::NotInstalled { .. })));
    assert_eq!(leftovers(store), [] as [&str; 0]);
}

#[test]
fn what_was_edited_or_damaged_is_refused_with_the_remedy() {
    let place = place();
    let store = &place.store;
    let one = policy("one", b"component");
    let damages: [(&str, &[u8]); 4] = [
        ("policy.wasm", b"Component"),
        ("policy.toml", b"id = 3\n"),
        ("policy.toml", b"id = 'x'\non-fault = 'hold'\nnew-field = 1\n"),
        ("policy.toml", b"\xff"),
    ];
    for (file, content) in damages {
        store.install(&one, true).unwrap();
        fs::write(store.folder().join("one").join(file), content).unwrap();
        let refused = store.get(&one.name).unwrap_err();
        let text = refused.failure().to_string();
        assert!(text.contains(file), "{text}");
        assert_eq!(store.names().unwrap(), [one.name.clone()], "it is listed all the same");
    }
    store.install(&one, true).unwrap();
    fs::write(store.folder().join("one/policy.wasm"), "other").unwrap();
    let text = store.get(&one.name).unwrap_err().failure().to_string();
    assert!(text.contains("installed was") && text.contains("--name one --replace"), "{text}");
    for file in ["policy.toml", "policy.wasm"] {
        store.install(&one, true).unwrap();
        fs::remove_file(store.folder().join("one").join(file)).unwrap();
        let text = store.get(&one.name).unwrap_err().failure().to_string();
        assert!(text.contains(file), "{text}");
    }
}

/// The settings are the site's own: its digest covers the component alone.
#[test]
fn a_site_may_edit_its_settings() {
    let place = place();
    let store = &place.store;
    let one = policy("one", b"component");
    store.install(&one, false).unwrap();
    let file = store.folder().join("one/policy.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(".tmp,~", ".bak")).unwrap();
    assert_eq!(store.get(&one.name).unwrap().record.settings["suffixes"], ".bak");
}

#[test]
fn what_others_can_write_is_not_believed() {
    let place = place();
    let store = &place.store;
    let one = policy("one", b"component");
    store.install(&one, false).unwrap();
    fs::write(store.signers_file(), "key").unwrap();
    let set =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = |result: Result<(), StoreError>, path: &Path| {
        let text = result.unwrap_err().failure().to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("chmod go-w"), "{text}");
    };
    set(&store.signers_file(), 0o644);
    assert!(store.signers().unwrap().is_some());
    for mode in [0o664, 0o646] {
        set(&store.signers_file(), mode);
        refused(store.signers().map(drop), &store.signers_file());
    }
    let folder = store.folder().join("one");
    set(&folder, 0o770);
    refused(store.get(&one.name).map(drop), &folder);
    set(&folder, 0o700);
    store.get(&one.name).unwrap();
    fs::remove_file(store.signers_file()).unwrap();
    set(store.folder(), 0o707);
    refused(store.get(&one.name).map(drop), store.folder());
    refused(store.signers().map(drop), store.folder());
    refused(store.install(&one, true), store.folder());
    set(store.folder(), 0o755);
    assert_eq!(store.signers().unwrap(), None);
}

#[test]
fn what_a_crash_left_behind_is_no_policy_and_goes_with_the_next_change() {
    let place = place();
    let store = &place.store;
    fs::create_dir_all(store.folder().join(".new-00/policy.wasm")).unwrap();
    fs::write(store.folder().join(".new-01"), "a file, by whatever way").unwrap();
    assert_eq!(store.names().unwrap(), []);
    store.install(&policy("one", b"x"), false).unwrap();
    assert_eq!(leftovers(store), [] as [&str; 0]);
}

#[test]
fn names_are_plain() {
    let long = "a".repeat(65);
    for name in
        ["", ".hidden", "a/b", "..", "A", "-a", "a b", "é", "x.wasm", "cache", "none", &long]
    {
        assert!(name.parse::<PolicyName>().is_err(), "{name}");
    }
    for name in ["a", "0", "mft-defaults", "a.b_c-d", &"a".repeat(64)] {
        assert!(name.parse::<PolicyName>().is_ok(), "{name}");
    }
}

#[test]
fn files_that_are_no_files_or_too_long_are_refused() {
    let place = place();
    let at = |name: &str| place.folder.path().join(name);
    fs::write(at("long"), [0; 11]).unwrap();
    assert!(read_bounded(&at("long"), 10).is_err());
    assert_eq!(read_bounded(&at("long"), 11).unwrap().len(), 11);
    assert!(read_bounded(place.folder.path(), 10).is_err());
    rustix::fs::mknodat(
        CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(read_bounded(&at("pipe"), 10).is_err());
    assert!(read_text(&at("missing")).unwrap().is_none());
    std::os::unix::fs::symlink("/no/such/volume/list", at("link")).unwrap();
    assert!(read_text(&at("link")).is_err(), "a link to what is not there is not nothing");
}
