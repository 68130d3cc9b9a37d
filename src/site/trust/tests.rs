//! What the trust store takes in, refuses and keeps.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::site::keys::{self, KeysError, SiteKeys};

fn id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 32])
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_trusted_survives_and_nobody_else_may_write_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = TrustFile::of(folder.path());
    assert_eq!(file.load().unwrap(), TrustStore::default());
    let as_what = file.update(|store| store.trust("recovery", id(1), 0)).unwrap();
    assert_eq!((as_what, mode(file.path())), (Trusted::AsCurrent, 0o600));
    // Again is nothing new, and the second is beside the first.
    assert_eq!(file.update(|s| s.trust("recovery", id(1), 9)).unwrap(), Trusted::Already);
    assert_eq!(file.update(|s| s.trust("recovery", id(2), 9)).unwrap(), Trusted::AsNext);
    let store = file.load().unwrap();
    assert_eq!(store.keys_of("recovery"), [id(1), id(2)].into_iter().collect());
    assert_eq!(store.keys_of("nobody"), KeySet::new());
    assert_eq!(store.find(&id(1)).unwrap().1.since, "1970-01-01T00:00:00.000Z");
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o620)).unwrap();
    let open = file.load().unwrap_err();
    assert!(matches!(open, TrustError::TooOpen { mode: 0o620, .. }), "{open}");
    assert!(file.update(|s| s.trust("recovery", id(3), 9)).is_err());
}

#[test]
fn a_broken_file_is_refused_and_never_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = TrustFile::of(folder.path());
    file.update(|store| store.trust("recovery", id(1), 0)).unwrap();
    let good = std::fs::read_to_string(file.path()).unwrap();
    let key = format!(
        "[[peer.key]]\nid = \"{}\"\nstate = \"current\"\nsince = \"\"\nreason = \"\"\n",
        id(1)
    );
    let broken = [
        String::new(),
        "x".into(),
        good[..good.len() / 2].to_owned(),
        good.replace("version = 1", "version = 2"),
        good.replace("current", "trusted"),
        good.replace("\"current\"", "\"next\""),
        good.replace("fsk1-", "fsk2-"),
        good.replace("reason", "raeson"),
        format!("{good}\n{key}"),
        good.replace("name = \"recovery\"", "name = \"a b\""),
    ];
    for text in broken {
        std::fs::write(file.path(), &text).unwrap();
        let error = file.load().expect_err(&text);
        assert!(matches!(error, TrustError::Broken { .. }), "{error}");
        assert!(error.failure().hint.unwrap().contains("until then nobody is let in"));
        assert!(file.update(|store| store.trust("recovery", id(2), 0)).is_err());
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text, "it is left as it is");
    }
}

#[test]
fn a_revoked_key_is_never_trusted_again_and_the_next_takes_its_place() {
    let mut store = TrustStore::default();
    store.trust("recovery", id(1), 0).unwrap();
    store.trust("recovery", id(2), 0).unwrap();
    assert!(store.trust("recovery", id(3), 0).unwrap_err().to_string().contains("2 trusted keys"));
    assert!(store.trust("other", id(1), 0).unwrap_err().to_string().contains("'recovery' already"));
    assert_eq!(store.revoke(&id(1), "laptop\nlost", 5).unwrap(), "recovery");
    assert_eq!(store.keys_of("recovery"), id(2).into());
    assert_eq!(store.find(&id(2)).unwrap().1.state, KeyState::Current);
    let again = store.trust("recovery", id(1), 0).unwrap_err().to_string();
    assert!(again.contains("never trusted again") && again.contains("laptop\\u{a}lost"), "{again}");
    store.revoke(&id(2), "", 5).unwrap();
    assert_eq!(store.keys(), KeySet::new());
    assert!(store.revoke(&id(9), "", 5).is_err());
    // The last one is gone and told as revoked; the file with it is a good one.
    let shown = store.show().unwrap();
    assert_eq!(TrustStore::parse(&shown).unwrap(), store);
}

#[test]
fn a_peer_speaks_for_its_own_keys_alone() {
    let mut store = TrustStore::default();
    store.trust("recovery", id(1), 0).unwrap();
    store.trust("third", id(7), 0).unwrap();
    let next = Announcement { next: Some(id(2)), ..Announcement::default() };
    assert!(store.heard(&id(9), &next, 1).is_err(), "nobody knows it");
    assert_eq!(store.heard(&id(1), &next, 1).unwrap().len(), 1);
    assert_eq!(store.heard(&id(1), &next, 1).unwrap().len(), 0, "again is nothing new");
    let third = Announcement { next: Some(id(7)), ..Announcement::default() };
    assert!(store.heard(&id(1), &third, 1).is_err(), "the key of another peer");
    let takes = Announcement { retired: vec![id(7), id(1)], ..Announcement::default() };
    let before = store.keys();
    store.heard(&id(1), &takes, 1).unwrap();
    assert_eq!(store.keys(), before, "neither another peer's nor the one it shows");
    store.heard(&id(2), &takes, 1).unwrap();
    assert_eq!(store.keys_of("recovery"), id(2).into());
    assert_eq!(store.find(&id(2)).unwrap().1.state, KeyState::Current);
    assert!(store.heard(&id(1), &next, 1).is_err(), "a revoked key says nothing");
    let back = Announcement { next: Some(id(1)), ..Announcement::default() };
    assert!(store.heard(&id(2), &back, 1).is_err(), "nor does it come back");
}

/// Two sites, one of which changes its key; at every step the key that is shown is trusted.
#[test]
fn a_key_is_changed_without_a_refused_link() {
    let folder = tempfile::tempdir().unwrap();
    let site = |name: &str| {
        let state = folder.path().join(name);
        std::fs::create_dir(&state).unwrap();
        farshore_transport::SiteKey::create(&state.join("site.key")).unwrap();
        state
    };
    let (a, b) = (site("a"), site("b"));
    let (at_a, at_b) = (TrustFile::of(&a), TrustFile::of(&b));
    let own = |state: &Path| SiteKeys::load(state).unwrap();
    let (key_a, key_b) = (own(&a).current.key_id(), own(&b).current.key_id());
    at_a.update(|s| s.trust("b", key_b, 0)).unwrap();
    at_b.update(|s| s.trust("a", key_a, 0)).unwrap();
    // A session: each shows its key, and says what it has to say.
    let meet = || {
        let (store_a, store_b) = (at_a.load().unwrap(), at_b.load().unwrap());
        let (keys_a, keys_b) = (own(&a), own(&b));
        let shown_a = keys_a.shown(&store_a, "b").key_id();
        let shown_b = keys_b.shown(&store_b, "a").key_id();
        assert!(store_b.keys_of("a").contains(&shown_a), "refused");
        assert!(store_a.keys_of("b").contains(&shown_b), "refused");
        let (said_a, said_b) =
            (keys_a.announcement(&store_a, "b"), keys_b.announcement(&store_b, "a"));
        at_b.update(|s| s.heard(&shown_a, &said_a, 1)).unwrap();
        at_a.update(|s| s.heard(&shown_b, &said_b, 1)).unwrap();
        shown_a
    };
    assert_eq!(meet(), key_a);
    assert!(matches!(keys::retire(&a, false), Err(KeysError::NoNext { .. })));
    let next = keys::rotate(&a).unwrap().next.unwrap().key_id();
    assert_eq!(keys::rotate(&a).unwrap().next.unwrap().key_id(), next, "again makes no third");
    assert_eq!(mode(&a.join("site.key.next")), 0o600);
    assert!(matches!(keys::retire(&a, false), Err(KeysError::NotAcknowledged { .. })));
    assert_eq!(meet(), key_a, "the peer hears of it");
    assert!(at_b.load().unwrap().keys_of("a").contains(&next));
    meet();
    assert_eq!(meet(), next, "the peer knows it, so it is shown");
    assert!(at_b.load().unwrap().keys_of("a").contains(&key_a), "both are trusted");
    assert_eq!(keys::retire(&a, false).unwrap(), (key_a, next));
    assert_eq!(meet(), next);
    assert_eq!(at_b.load().unwrap().keys_of("a"), next.into());
    assert_eq!(own(&a).current.key_id(), next);
    assert!(own(&a).next.is_none());
}

/// A crash after the key was written down as given up, before the next one took its place.
#[test]
fn a_retirement_that_was_cut_is_not_announced_of_the_key_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let key = farshore_transport::SiteKey::create(&state.join("site.key")).unwrap().key_id();
    let file = TrustFile::of(state);
    file.update(|store| {
        store.retire_own(key);
        Ok(())
    })
    .unwrap();
    let keys = SiteKeys::load(state).unwrap();
    assert!(keys.announcement(&file.load().unwrap(), "b").retired.is_empty());
}

#[test]
fn a_change_is_noticed_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = TrustFile::of(folder.path());
    let mut watch = TrustWatch::new(file.clone());
    assert!(watch.poll().is_some_and(|store| store.unwrap() == TrustStore::default()));
    assert!(watch.poll().is_none());
    file.update(|store| store.trust("recovery", id(1), 0)).unwrap();
    assert_eq!(watch.poll().unwrap().unwrap().keys(), id(1).into());
    assert!(watch.poll().is_none());
    file.update(|store| store.revoke(&id(1), "", 0)).unwrap();
    assert_eq!(watch.poll().unwrap().unwrap().keys(), KeySet::new());
    std::fs::write(file.path(), "x").unwrap();
    assert!(watch.poll().unwrap().is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        drop(TrustStore::parse(&text));
    }
}
