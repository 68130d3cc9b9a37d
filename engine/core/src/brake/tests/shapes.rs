//! Ransomware's shapes, and what looks like them and is none.

use super::*;

fn site() -> Site {
    Site::new(BrakeConfig::default()).with("a", 2_000).with("b", 2_000)
}

fn name(i: usize) -> String {
    format!("a/f{i:05}.csv")
}

const NOISE: Option<Sample> = Some(Sample { entropy: 7.95, bytes: 65_536, former: None });
const WAS_TEXT: Option<Sample> = Some(Sample { entropy: 7.95, bytes: 65_536, former: Some(4.5) });
const WAS_NOISE: Option<Sample> = Some(Sample { entropy: 7.95, bytes: 65_536, former: Some(7.9) });
const TEXT: Option<Sample> = Some(Sample { entropy: 4.5, bytes: 65_536, former: Some(4.5) });

#[test]
fn entropy_tells_text_from_noise() {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..4_096)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        })
        .collect();
    assert!(entropy(&noise) > 7.9);
    assert!(entropy(b"UNB+UNOC:3+4012345000016:14+").is_finite());
    assert!(entropy(&b"0123456789;ABC;".repeat(400)) < 5.0);
    assert!(entropy(&[]) == 0.0 && entropy(&[7; 99]) == 0.0);
    assert!((entropy(&(0..=255).collect::<Vec<u8>>()) - 8.0).abs() < 1e-3);
}

#[test]
fn text_that_becomes_noise_is_held_file_by_file() {
    for sample in [NOISE, WAS_TEXT] {
        let mut site = site();
        let held = (0..100).find(|&i| !site.cut(&wrote("a", i..i + 1, sample)).passes());
        assert_eq!(held, Some(20));
        assert!(
            site.reasons().contains("21 of 21 rewritten files were compressible"),
            "{}",
            site.reasons()
        );
        assert!(site.cut(&wrote("b", 0..1, TEXT)).passes());
    }
}

#[test]
fn noise_spread_thin_over_accounts_holds_the_share() {
    let mut site = Site::new(BrakeConfig::default());
    for i in 0..30 {
        site = site.with(&format!("s{i:02}"), 50);
    }
    let held = (0..30).find(|i| !site.cut(&wrote(&format!("s{i:02}"), 0..1, NOISE)).passes());
    assert_eq!(held, Some(20));
    assert_eq!(site.brake.holds()[0].account, None);
}

#[test]
fn a_growing_log_that_becomes_noise_counts() {
    let mut site = site();
    assert!(site.cut(&wrote("a", 0..40, TEXT)).passes());
    assert!(site.cut(&wrote("a", 0..20, WAS_TEXT)).passes());
    assert!(!site.cut(&wrote("a", 20..40, WAS_TEXT)).passes(), "40 of 40");
}

#[test]
fn noise_over_noise_short_files_and_texts_pass() {
    let mut site = site();
    // The weekly re-zip, and PGP files overwritten by their next version.
    for (i, ending) in ["zip", "pgp", "pdf", "gz", "dat"].iter().enumerate() {
        let changes: Vec<_> =
            (0..150).map(|n| Change::Wrote(format!("a/z{i}-{n}.{ending}"), NOISE)).collect();
        assert!(site.cut(&changes).passes(), "{}", site.reasons());
    }
    assert!(site.cut(&wrote("a", 0..60, WAS_NOISE)).passes());
    assert!(site.cut(&wrote("a", 60..120, TEXT)).passes());
    let short = Some(Sample { entropy: 7.95, bytes: 2_048, former: None });
    assert!(site.cut(&wrote("a", 120..180, short)).passes());
}

#[test]
fn a_few_encrypted_among_many_rewritten_pass() {
    let mut site = site();
    assert!(site.cut(&wrote("a", 0..60, TEXT)).passes());
    assert!(site.cut(&wrote("a", 60..100, WAS_TEXT)).passes(), "{}", site.reasons());
}

#[test]
fn names_that_get_one_new_extension_are_held_however_it_is_done() {
    let renamed = |i: usize| vec![Change::Moved(name(i), name(i) + ".locked")];
    let beside = |i: usize| vec![Change::New(name(i) + ".locked", 5_000), Change::Gone(name(i))];
    for how in [&renamed as &dyn Fn(usize) -> Vec<Change>, &beside] {
        let mut site = site();
        let held = (0..100).find(|&i| !site.cut(&how(i)).passes());
        assert_eq!(held, Some(20), "{}", site.reasons());
        assert!(
            site.reasons().contains(
                "21 of 21 deleted or moved files would get .locked added to their name within 1h"
            ),
            "{}",
            site.reasons()
        );
    }
    // Copies first, deletes in later cuts.
    let mut site = site();
    for i in 0..40 {
        assert!(site.cut(&[Change::New(name(i) + ".locked", 5_000)]).passes());
    }
    site.restart();
    let held = (0..40).find(|&i| !site.cut(&[Change::Gone(name(i))]).passes());
    assert_eq!(held, Some(20));
}

#[test]
fn renames_to_one_new_extension_are_held() {
    let mut site = site();
    let held = (0..100)
        .find(|&i| !site.cut(&[Change::Moved(name(i), format!("a/f{i:05}.crypt8"))]).passes());
    assert_eq!(held, Some(50));
    assert!(site.reasons().contains("51 of 51 moved files would be renamed to .crypt8"));
}

#[test]
fn packing_encrypting_and_archiving_jobs_pass() {
    let day = [
        // Logs are rotated and packed.
        |i: usize| vec![Change::New(name(i) + ".gz", 900), Change::Gone(name(i))],
        // A job writes encrypted copies beside and deletes the originals.
        |i: usize| vec![Change::New(name(i) + ".pgp", 900), Change::Gone(name(i))],
        // Archive by rename with a time, in place and elsewhere.
        |i: usize| vec![Change::Moved(name(i), format!("{}.20261126120000", name(i)))],
        |i: usize| vec![Change::Moved(name(i), format!("a/archive/2026/f{i}.csv.1764158400000"))],
        // Set aside.
        |i: usize| vec![Change::Moved(name(i), name(i) + ".bak")],
        // Encrypted copies beside, of an extension nobody knows; the originals stay.
        |i: usize| vec![Change::New(name(i) + ".sealed", 900)],
    ];
    for (n, job) in day.iter().enumerate() {
        let mut site = site();
        for i in 0..200 {
            assert!(site.cut(&job(i)).passes(), "{n}: {}", site.reasons());
        }
    }
}

#[test]
fn an_extension_that_has_been_in_use_is_not_new() {
    let mut site = site();
    site.brake.learn(b"old.sealed");
    site.cut(&[Change::New("b/x.fresh".into(), 1)]);
    site.now += 2 * HOUR;
    for i in 0..200 {
        let end = if i % 2 == 0 { ".sealed" } else { ".fresh" };
        let changes = [Change::New(name(i) + end, 9), Change::Gone(name(i))];
        assert!(site.cut(&changes).passes(), "{}", site.reasons());
    }
}

#[test]
fn what_is_held_does_not_teach_its_extension() {
    let mut site = site();
    let changes: Vec<_> = (0..40).map(|i| Change::Moved(name(i), name(i) + ".locked")).collect();
    assert!(!site.cut(&changes).passes());
    site.now += 3 * HOUR;
    let other: Vec<_> = (0..40)
        .map(|i| Change::Moved(format!("b/f{i:05}.csv"), format!("b/f{i:05}.csv.locked")))
        .collect();
    assert_ne!(site.cut(&other).verdicts[&p("b")], Verdict::Pass);
}

#[test]
fn a_touched_canary_holds_the_share() {
    let canary = "a/.canary.docx".to_owned();
    for change in [
        Change::Gone(canary.clone()),
        Change::Wrote(canary.clone(), None),
        Change::Moved(canary.clone(), canary.clone() + ".x"),
        Change::Moved("a/f00000.csv".into(), canary.clone()),
    ] {
        let config =
            BrakeConfig { canaries: BTreeSet::from([p(&canary)]), ..BrakeConfig::default() };
        let mut site = Site::new(config).with("a", 50).with("b", 50);
        site.insert(&canary);
        assert!(site.cut(&[Change::Wrote("a/.canary.doc".into(), None)]).passes());
        let judgement = site.cut(&[change.clone(), Change::New("b/x".into(), 1)]);
        assert_eq!(judgement.verdicts[&p("b")], Verdict::Hold(1), "{change:?}");
        assert!(site.reasons().contains("the canary a/.canary.docx was changed"));
        site.brake.approve(None, site.now).expect("held");
        assert!(site.cut(std::slice::from_ref(&change)).passes(), "{}", site.reasons());
        assert!(!site.cut(&[change]).passes(), "once");
    }
}

fn everywhere(name: &str, size: u64, accounts: usize, folders: usize) -> Vec<Change> {
    let path = |a: usize, f: usize| Change::New(format!("n{a}/d{f}/{name}"), size);
    (0..accounts).flat_map(|a| (0..folders).map(move |f| (a, f))).map(|(a, f)| path(a, f)).collect()
}

#[test]
fn a_note_in_every_folder_holds_the_share() {
    for name in ["HOW_TO_DECRYPT.txt", "!!!README", "restore.html"] {
        let mut site = site();
        assert!(!site.cut(&everywhere(name, 1_900, 5, 6)).passes());
        assert_eq!(site.brake.holds()[0].account, None);
        assert!(site.reasons().contains("turned up in 30 directories at once, more than 20"));
    }
}

#[test]
fn triggers_broadcasts_and_new_accounts_pass() {
    let mut site = site();
    for (name, size, accounts, folders) in [
        (".done", 300, 5, 20),
        ("batch.done", 300, 5, 20),
        ("trigger.txt", 0, 5, 20),
        ("rates_20261126.pdf", 250_000, 60, 4),
        ("notice.txt", 2_000, 100, 1),
        ("notice.txt", 2_000, 100, 2),
        ("HOW_TO.txt", 1_900, 2, 10),
    ] {
        assert!(site.cut(&everywhere(name, size, accounts, folders)).passes(), "{name}");
    }
    let mut changes: Vec<_> =
        (0..5).flat_map(|a| (0..6).map(move |d| Change::Folder(format!("n{a}/d{d}")))).collect();
    changes.extend(everywhere("README.txt", 1_000, 5, 6));
    assert!(site.cut(&changes).passes());
}

#[test]
fn each_shape_can_be_turned_off() {
    let shapes = Shapes { encrypted: None, appended: None, renamed: None, note_directories: None };
    let mut site = Site::new(BrakeConfig { shapes, ..BrakeConfig::default() }).with("a", 2_000);
    let moves: Vec<_> = (0..200).map(|i| Change::Moved(name(i), name(i) + ".locked")).collect();
    assert!(site.cut(&moves).passes());
    assert!(site.cut(&wrote("a", 200..400, NOISE)).passes());
    assert!(site.cut(&everywhere("NOTE.txt", 2_000, 1, 50)).passes());
}
