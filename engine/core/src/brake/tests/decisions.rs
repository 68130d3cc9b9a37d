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
fn what_is_held_grows_and_counts_once_however_often_it_is_seen() {
    let mut site = held();
    for _ in 0..3 {
        assert!(!site.cut(&gone("a", 0..120)).passes());
        assert!(!site.cut(&gone("a", 100..150)).passes());
    }
    let hold = &site.brake.holds()[0];
    assert_eq!(hold.counts.deleted, 150);
    assert!(hold.last_ms > hold.since_ms && hold.paths.len() <= 20);
    site.brake.approve(None, site.now).expect("held");
    assert!(site.cut(&gone("a", 0..150)).passes());
}

#[test]
fn nothing_more_of_a_held_account_passes() {
    let mut site = held();
    assert!(!site.cut(&[Change::New("a/new.csv".into(), 5)]).passes());
    assert!(site.cut(&[Change::New("b/new.csv".into(), 5)]).passes());
}

#[test]
fn a_rejection_lasts_until_the_source_is_as_it_was() {
    let mut site = held();
    let before = site.brake.revision();
    site.brake.reject(Some(&p("a")), site.now).expect("held");
    assert_ne!(site.brake.revision(), before);
    site.restart();
    assert_eq!(site.cut(&gone("a", 0..120)).verdicts[&p("a")], Verdict::Rejected(1));
    assert!(site.reasons().contains("its changes rejected"));
    site.cut(&[]);
    assert_eq!(site.brake.verdict(&p("a")), Verdict::Rejected(1), "a look at a part says nothing");
    site.whole = true;
    assert_eq!(site.cut(&[Change::New("a/new.csv".into(), 5)]).ended.len(), 1);
    assert!(site.brake.holds().is_empty());
    assert!(site.files.contains("a/new.csv"));
}

#[test]
fn a_hold_that_waits_does_not_end_by_itself() {
    let mut site = held();
    site.whole = true;
    site.now += 30 * 24 * HOUR;
    assert!(site.cut(&[]).ended.is_empty());
    assert_eq!(site.brake.holds().len(), 1);
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
