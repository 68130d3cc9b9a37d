//! Approvals, rejections, and what survives a restart.

use super::*;

fn held() -> Site {
    let mut site = Site::new(BrakeConfig::default()).with("a", 200).with("b", 200);
    assert!(!site.cut(&gone("a", 0..120)).passes());
    site
}

#[test]
fn an_approval_lets_pass_what_was_shown_and_then_is_used_up() {
    let mut site = held();
    let ended = site.brake.approve(Some(&p("a")), site.now).expect("held");
    assert_eq!(ended.len(), 1);
    assert!(site.cut(&gone("a", 0..120)).passes(), "{}", site.reasons());
    assert_eq!(site.files.len(), 280);
    assert!(site.brake.approvals.is_empty());
    assert!(!site.cut(&gone("a", 120..180)).passes(), "60 of 80 are a new mass");
}

#[test]
fn an_approval_serves_several_cuts_and_a_tenth_more() {
    let mut site = held();
    site.brake.approve(None, site.now).expect("held");
    assert!(site.cut(&gone("a", 0..50)).passes());
    assert!(site.cut(&gone("a", 50..100)).passes());
    site.restart();
    let judgement = site.cut(&gone("a", 100..141));
    assert!(!judgement.passes(), "141 of 120 and 20");
    assert!(site.reasons().contains("141 changes now, up to 140 were approved"));
    assert_eq!(site.files.len(), 300);
    site.brake.approve(None, site.now).expect("held");
    assert!(site.cut(&gone("a", 100..141)).passes(), "{}", site.reasons());
}

#[test]
fn an_approval_does_not_cover_what_was_not_shown() {
    let mut site = held();
    site.brake.approve(None, site.now).expect("held");
    assert!(!site.cut(&gone("b", 0..120)).passes());
    let noise = Some(Sample { entropy: 7.9, bytes: 65_536, former: Some(4.0) });
    assert!(!site.cut(&wrote("a", 150..190, noise)).passes());
}

#[test]
fn an_approval_ends_after_a_day() {
    let mut site = held();
    site.brake.approve(None, site.now).expect("held");
    site.now += 25 * HOUR;
    assert!(!site.cut(&gone("a", 0..120)).passes());
}

#[test]
fn after_an_approval_rewriting_the_same_files_again_is_a_new_mass() {
    let config =
        BrakeConfig { threshold: Threshold { entries: 20, percent: 10 }, ..BrakeConfig::default() };
    let mut site = Site::new(config).with("a", 100);
    assert!(site.cut(&wrote("a", 0..40, None)).passes());
    assert!(!site.cut(&wrote("a", 40..80, None)).passes());
    site.brake.approve(None, site.now).expect("held");
    assert!(site.cut(&wrote("a", 40..80, None)).passes());
    assert!(!site.cut(&wrote("a", 0..80, None)).passes());
}

#[test]
fn the_counts_of_a_hold_are_those_of_the_last_look_at_all_of_it() {
    let mut site = held();
    site.cut(&gone("a", 0..120));
    site.cut(&gone("a", 100..150));
    assert_eq!(
        site.brake.holds()[0].counts.deleted,
        120,
        "of parts it is not known what is the same"
    );
    site.whole = true;
    for (deletes, counted) in [(0..150, 150), (0..190, 190), (0..130, 130)] {
        assert!(!site.cut(&gone("a", deletes)).passes());
        assert_eq!(site.brake.holds()[0].counts.deleted, counted);
        assert!(
            site.reasons().contains(&format!("{counted} of 200 entries")),
            "{}",
            site.reasons()
        );
    }
    let hold = &site.brake.holds()[0];
    assert!(hold.last_ms > hold.since_ms && hold.paths.len() <= 20);
    // What is approved is what was there last.
    site.cut(&gone("a", 0..180));
    site.brake.approve(None, site.now).expect("held");
    assert!(site.cut(&gone("a", 0..180)).passes(), "{}", site.reasons());
}

#[test]
fn nothing_more_of_a_held_account_passes() {
    let mut site = held();
    assert!(!site.cut(&[Change::New("a/new.csv".into(), 5)]).passes());
    assert!(site.cut(&[Change::New("b/new.csv".into(), 5)]).passes());
}

#[test]
fn a_hold_lasts_until_the_files_are_restored() {
    for rejected in [true, false] {
        let mut site = held();
        let before = site.brake.revision();
        let verdict = |site: &Site| site.brake.verdict(&p("a"));
        if rejected {
            assert_eq!(site.brake.reject(Some(&p("a")), site.now).expect("held").len(), 1);
            assert_ne!(site.brake.revision(), before);
        }
        site.restart();
        let waits = if rejected { Verdict::Rejected(1) } else { Verdict::Hold(1) };
        assert_eq!(site.cut(&gone("a", 0..120)).verdicts[&p("a")], waits);
        assert_eq!(site.reasons().contains("its changes rejected"), rejected);
        site.cut(&[]);
        assert_eq!(verdict(&site), waits, "a look at a part says nothing");
        (site.whole, site.blind) = (true, true);
        site.cut(&[]);
        assert_eq!(verdict(&site), waits, "nor does one that could not see it");
        site.blind = false;
        let known = site.known.insert(p("a"), 30);
        site.cut(&[]);
        assert_eq!(verdict(&site), waits, "nor one of a target that lost what it had");
        site.known.extend(known.map(|known| (p("a"), known)));
        site.cut(&gone("a", 0..101));
        assert_eq!(verdict(&site), waits, "still too many");
        let judgement = site.cut(&[Change::New("a/new.csv".into(), 5)]);
        assert_eq!(judgement.ended.len(), 1);
        assert!(site.brake.holds().is_empty());
        assert!(site.files.contains("a/new.csv"));
    }
}

#[test]
fn what_is_left_below_the_thresholds_passes_when_a_hold_ends() {
    let mut site = held();
    site.whole = true;
    assert_eq!(site.cut(&gone("a", 0..60)).ended.len(), 1);
    assert_eq!(site.files.len(), 340);
    assert!(!site.cut(&gone("a", 60..110)).passes(), "and counts within the window");
}

#[test]
fn a_share_that_is_held_ends_when_all_is_restored() {
    let mut site = Site::new(BrakeConfig::default());
    let mut changes = Vec::new();
    for i in 0..20 {
        site = site.with(&format!("a{i:02}"), 100);
        changes.extend(gone(&format!("a{i:02}"), 0..80));
    }
    assert!(!site.cut(&changes).passes());
    site.whole = true;
    assert!(site.cut(&changes[..80]).ended.is_empty(), "one account is still to be held");
    assert_eq!(site.brake.holds()[0].counts.deleted, 80);
    assert_eq!(site.cut(&[]).ended.len(), 1);
}

#[test]
fn an_approval_of_the_share_covers_the_accounts_it_showed_and_no_other() {
    let mut site = Site::new(BrakeConfig::default()).with("calm", 200);
    let mut changes = Vec::new();
    for i in 0..20 {
        site = site.with(&format!("a{i:02}"), 100);
        changes.extend(gone(&format!("a{i:02}"), 0..80));
    }
    assert!(!site.cut(&changes).passes());
    site.brake.approve(None, site.now).expect("held");
    site.restart();
    let judgement = site.cut(&gone("calm", 0..150));
    assert_ne!(judgement.verdicts[&p("calm")], Verdict::Pass);
    assert!(site.cut(&changes).passes(), "{}", site.reasons());
}

#[test]
fn time_alone_ends_no_hold() {
    let purges = vec![PurgeWindow { at_s: 0, for_s: 86_400 }];
    let purging = BrakeConfig { purges, ..BrakeConfig::default() };
    for config in [BrakeConfig::default(), purging] {
        // Half of it before, the other half is held.
        let mut site = Site::new(BrakeConfig::default()).with("a", 200).with("b", 9_000);
        assert!(site.cut(&gone("a", 0..90)).passes());
        assert!(!site.cut(&gone("a", 90..130)).passes());
        // By the share's sums, of which it has a part.
        assert!(site.cut(&gone("b", 0..800)).passes());
        let mut share = site.cut(&gone("b", 800..1_100));
        assert_eq!(share.began.len(), 1);
        site.whole = true;
        site.brake = Brake::decode(&site.brake.encode(), config).expect("own bytes");
        let mut changes = gone("a", 90..130);
        changes.extend(gone("b", 800..1_100));
        for _ in 0..5 {
            site.now += 7 * HOUR;
            share = site.cut(&changes);
            assert!(share.ended.is_empty(), "{:?}", share.ended);
        }
        assert_eq!(site.brake.holds().len(), 2);
        assert_eq!(site.cut(&[]).ended.len(), 2);
    }
}

#[test]
fn what_it_is_held_for_does_not_become_usual() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 400);
    let name = |i: usize| format!("a/f{i:05}.csv");
    let moves = |range: std::ops::Range<usize>| -> Vec<_> {
        range.map(|i| Change::Moved(name(i), name(i) + ".locked")).collect()
    };
    // Some of it passed, and taught the extension.
    assert!(site.cut(&moves(0..15)).passes());
    assert!(!site.cut(&moves(15..40)).passes());
    site.now += 3 * HOUR;
    site.whole = true;
    assert!(site.cut(&moves(15..60)).ended.is_empty(), "{}", site.reasons());
}

#[test]
fn what_nobody_looked_into_does_not_end_a_hold_of_noise() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 400);
    let noise = Some(Sample { entropy: 7.9, bytes: 65_536, former: Some(4.0) });
    let text = Some(Sample { entropy: 4.0, bytes: 65_536, former: Some(4.0) });
    assert!(!site.cut(&wrote("a", 0..40, noise)).passes());
    site.whole = true;
    let mut changes = wrote("a", 0..20, text);
    changes.extend(wrote("a", 20..40, None));
    assert!(site.cut(&changes).ended.is_empty());
    assert_eq!(site.cut(&wrote("a", 0..40, text)).ended.len(), 1);
}

#[test]
fn beyond_an_approval_only_what_is_taken_back_ends_the_hold() {
    let mut site = held();
    site.brake.approve(None, site.now).expect("held");
    assert!(site.cut(&gone("a", 0..100)).passes());
    assert!(!site.cut(&gone("a", 100..141)).passes());
    site.whole = true;
    assert!(site.cut(&gone("a", 100..141)).ended.is_empty(), "41 of 100 were not approved");
    assert_eq!(site.cut(&[]).ended.len(), 1);
}

#[test]
fn a_state_of_the_version_before_is_read() {
    // One hold of 3 of 4 entries of `a`, rejected, with two hashes; one approval.
    let mut e = crate::codec::Encoder::new();
    e.put_u8(1);
    [1u64, 0, 2, 5, 0, 0, 0, 0, 0].iter().for_each(|n| e.put_u64(*n));
    e.put_u64(1);
    e.put_u64(1);
    e.put_u8(1);
    e.put_bytes(b"a");
    [START, START].iter().for_each(|n| e.put_i64(*n));
    [0u64, 3, 0, 0, 7].iter().for_each(|n| e.put_u64(*n));
    [1u8, 1].iter().for_each(|n| e.put_u8(*n));
    e.put_i64(START);
    [0u64, 0, 2, 9, 9].iter().for_each(|n| e.put_u64(*n));
    e.put_u64(1);
    e.put_u8(0);
    [0u64, 3, 0, 0, 0, 0, 0, 0, 4].iter().for_each(|n| e.put_u64(*n));
    e.put_i64(START);
    let brake = Brake::decode(&e.finish(), BrakeConfig::default()).expect("version 1");
    let hold = &brake.holds()[0];
    assert_eq!((hold.counts.deleted, hold.point.sequence, hold.point.time_ms), (3, 7, 0));
    assert_eq!(hold.decision, Decision::Rejected { at_ms: START });
    assert_eq!(brake.approvals.len(), 1);
}

#[test]
fn a_rejection_can_be_approved_later() {
    let mut site = held();
    site.brake.reject(None, site.now).expect("held");
    site.now += 72 * HOUR;
    site.brake.approve(None, site.now).expect("rejected");
    assert!(site.cut(&gone("a", 0..120)).passes());
}

#[test]
fn holds_and_sums_survive_a_restart() {
    let mut site = held();
    assert!(site.cut(&gone("b", 0..90)).passes());
    site.restart();
    assert_eq!(site.brake.verdict(&p("a")), Verdict::Hold(1));
    assert!(!site.cut(&gone("b", 90..115)).passes());
    assert_eq!(site.brake.holds()[1].id, 2);
}

#[test]
fn another_window_after_a_restart_forgets_nothing_too_early() {
    for window_ms in [20 * 60_000, 7_200_000, 1_234_567] {
        let mut site = Site::new(BrakeConfig::default()).with("a", 200);
        site.cut(&gone("a", 0..90));
        site.now += 15 * MINUTE;
        let config = BrakeConfig { window_ms, ..BrakeConfig::default() };
        site.brake = Brake::decode(&site.brake.encode(), config).expect("own bytes");
        assert!(!site.cut(&gone("a", 90..115)).passes(), "{window_ms}");
    }
}

#[test]
fn decisions_about_nothing_are_errors() {
    let mut site = held();
    let error = site.brake.approve(Some(&p("b")), site.now).expect_err("not held");
    assert_eq!(error.to_string(), "account b is not held");
    site.brake.approve(None, site.now).expect("held");
    assert_eq!(site.brake.reject(None, site.now), Err(DecideError::NothingHeld));
    site.root = Root::Emptied;
    site.cut(&[]);
    assert_eq!(site.brake.reject(Some(&p("b")), site.now), Err(DecideError::ShareHeld));
}

#[test]
fn an_approved_replacement_of_the_root_passes() {
    let mut site = Site::new(BrakeConfig::default()).with("a", 100).with("b", 100);
    site.root = Root::Replaced;
    let mut changes = gone("a", 0..100);
    changes.extend(gone("b", 0..60));
    assert!(!site.cut(&changes).passes());
    site.brake.approve(None, site.now).expect("held");
    assert!(site.cut(&changes).passes(), "{}", site.reasons());
    assert_eq!(site.files.len(), 40);
}
