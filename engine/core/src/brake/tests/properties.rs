//! What holds whatever is counted and whatever the bytes of a state are.

use proptest::prelude::*;

use super::*;

/// One cut: milliseconds since the last one, and of each of three accounts how many files are deleted
/// and which are rewritten.
type Step = (i64, [(usize, Vec<u16>); 3]);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let account = || (0usize..5, prop::collection::vec(0u16..60, 0..4));
    let gap = prop_oneof![0i64..2_000, 0i64..20 * MINUTE];
    prop::collection::vec((gap, [account(), account(), account()]), 1..60)
}

/// What was let pass: when, which account, which path.
#[derive(Default)]
struct Truth(Vec<(i64, usize, String)>);

impl Truth {
    fn distinct(&self, account: Option<usize>, from: i64) -> usize {
        let paths: BTreeSet<_> = self
            .0
            .iter()
            .filter(|(at, a, _)| *at > from && account.is_none_or(|account| account == *a))
            .map(|(.., path)| path)
            .collect();
        paths.len()
    }
}

const ENTRIES: usize = 30;
const ACCOUNT: usize = 12;

fn strict() -> BrakeConfig {
    BrakeConfig {
        threshold: Threshold { entries: ENTRIES as u64, percent: 0 },
        rewrite_percent: 0,
        account: Threshold { entries: ACCOUNT as u64, percent: 0 },
        ..BrakeConfig::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However a mass change is cut, no window of what passed is above a threshold; and nothing is held
    /// that is below all of them, counted over a window and one bucket.
    #[test]
    fn no_window_of_what_passed_is_above_a_threshold(steps in steps(), restart_at in 0usize..60) {
        let mut site = Site::new(strict());
        for account in ["a", "b", "c"] {
            site = site.with(account, 400);
        }
        let (mut deletes, mut rewrites) = (Truth::default(), Truth::default());
        let mut next = [100usize; 3];
        for (n, (gap, accounts)) in steps.into_iter().enumerate() {
            site.now += gap;
            if n == restart_at {
                site.restart();
            }
            let now = site.now;
            let mut changes = Vec::new();
            let mut would = (Truth(deletes.0.clone()), Truth(rewrites.0.clone()));
            for (i, account) in ["a", "b", "c"].into_iter().enumerate() {
                let (count, files) = &accounts[i];
                for change in gone(account, next[i]..next[i] + count) {
                    would.0.0.push((now, i, format!("{change:?}")));
                    changes.push(change);
                }
                for file in files.iter().collect::<BTreeSet<_>>() {
                    let path = format!("{account}/f{file:05}.csv");
                    would.1.0.push((now, i, path.clone()));
                    changes.push(Change::Wrote(path, None));
                }
            }
            let judgement = site.cut(&changes);
            for (i, account) in ["a", "b", "c"].into_iter().enumerate() {
                if judgement.verdicts.get(&p(account)) == Some(&Verdict::Pass) {
                    next[i] += accounts[i].0;
                    let of = |truth: &Truth| {
                        truth.0.iter().filter(|t| t.0 == now && t.1 == i).cloned().collect::<Vec<_>>()
                    };
                    deletes.0.extend(of(&would.0));
                    rewrites.0.extend(of(&would.1));
                }
            }
            let begin = now - HOUR;
            for i in 0..3 {
                prop_assert!(deletes.distinct(Some(i), begin) <= ACCOUNT);
            }
            prop_assert!(deletes.distinct(None, begin) <= ENTRIES);
            prop_assert!(rewrites.distinct(None, begin) <= ENTRIES);
            let wide = begin - HOUR / 27;
            let calm = (0..3).all(|i| would.0.distinct(Some(i), wide) <= ACCOUNT)
                && would.0.distinct(None, wide) <= ENTRIES
                && would.1.distinct(None, wide) <= ENTRIES;
            if calm {
                prop_assert!(judgement.began.is_empty(), "held too early: {}", site.reasons());
            }
        }
    }

    /// Any split of one mass delete is held when its sum passes the threshold, and not before.
    #[test]
    fn every_split_of_a_mass_delete_is_held(cuts in prop::collection::vec(1usize..40, 1..200)) {
        let mut site = Site::new(BrakeConfig::default()).with("a", 300);
        let mut done = 0;
        for len in cuts {
            let end = (done + len).min(300);
            let passes = site.cut(&gone("a", done..end)).passes();
            prop_assert_eq!(passes, end <= 150);
            if !passes {
                break;
            }
            done = end;
        }
        prop_assert_eq!(site.files.len(), 300 - done);
    }

    #[test]
    fn the_state_survives_encoding(steps in steps(), decided in 0u8..4) {
        let mut site = Site::new(strict()).with("a", 99).with("b", 99).with("c", 99);
        for (gap, accounts) in steps {
            site.now += gap;
            let mut changes = vec![Change::New(format!("a/{}.locked", site.now), 9)];
            for (i, account) in ["a", "b", "c"].into_iter().enumerate() {
                let noise = Some(Sample { entropy: 7.9, bytes: 9_000, former: None });
                changes.extend(gone(account, i..i + accounts[i].0));
                changes.extend(accounts[i].1.iter().map(|f| {
                    Change::Wrote(format!("{account}/f{f:05}.csv"), noise)
                }));
                let from = format!("{account}/f{gap:05}.csv");
                changes.push(Change::Moved(from.clone(), from + ".x1z"));
            }
            site.cut(&changes);
        }
        if decided & 1 != 0 && !site.brake.holds().is_empty() {
            site.brake.reject(None, site.now).expect("held");
        }
        if decided & 2 != 0 && !site.brake.holds().is_empty() {
            let first = site.brake.holds()[0].account.clone();
            site.brake.approve(first.as_ref(), site.now).expect("held");
        }
        let bytes = site.brake.encode();
        let back = Brake::decode(&bytes, strict()).expect("own bytes");
        prop_assert_eq!(&back, &site.brake);
        prop_assert_eq!(back.encode(), bytes);
    }

    /// What an approval of `a` passes is of `a` alone: what would be held of another account without it is
    /// held with it, by that account's own sums and by those of the share.
    #[test]
    fn an_approval_of_one_account_lets_nothing_of_another_pass(
        before in (0usize..26, 0usize..26),
        held in 26usize..60,
        steps in prop::collection::vec((0i64..2 * MINUTE, 0usize..20, 0usize..20, any::<bool>()), 1..30),
    ) {
        let account = Threshold { entries: 25, percent: 0 };
        let config = BrakeConfig { account, ..strict() };
        let mut site = Site::new(config.clone()).with("a", 400).with("b", 400);
        site.cut(&gone("a", 0..before.0));
        site.cut(&gone("b", 0..before.1));
        site.cut(&gone("a", 100..100 + held));
        prop_assume!(site.brake.hold_of(Some(&p("a"))).is_some());
        prop_assume!(site.brake.hold_of(Some(&p("b"))).is_none());
        let mut brake = site.brake.clone();
        let (now, files, known) = (site.now, site.files.clone(), site.known.clone());
        let mut without = Site::new(config);
        std::mem::swap(&mut without.brake, &mut brake);
        (without.now, without.files, without.known) = (now, files, known);
        site.brake.approve(Some(&p("a")), site.now).expect("held");
        let (mut next_a, mut next_b) = (100, 20);
        for (gap, of_a, of_b, writes) in steps {
            site.now += gap;
            without.now = site.now;
            let change = |account, range: std::ops::Range<usize>| match writes {
                true => wrote(account, range, None),
                false => gone(account, range),
            };
            let mut changes = gone("a", next_a..next_a + of_a);
            changes.extend(change("b", next_b..next_b + of_b));
            let (with, alone) = (site.cut(&changes), without.cut(&changes));
            let verdict = |judged: &Judgement| judged.verdicts.get(&p("b")).copied();
            let held_alone = verdict(&alone).is_some_and(|v| v != Verdict::Pass);
            let held_with = verdict(&with).is_some_and(|v| v != Verdict::Pass);
            prop_assert!(held_with || !held_alone, "{} against {}", site.reasons(), without.reasons());
            if held_with || held_alone {
                break;
            }
            (next_a, next_b) = (next_a + of_a, next_b + of_b);
        }
    }

    /// However often and whenever it is looked at, what is held stays held while nobody takes it back.
    #[test]
    fn what_is_left_as_it_is_stays_held(
        before in 0usize..12,
        held in 13usize..200,
        looks in prop::collection::vec((0i64..30 * HOUR, any::<bool>()), 1..20),
    ) {
        let mut site = Site::new(strict()).with("a", 400).with("b", 400);
        site.cut(&gone("a", 0..before));
        let changes = gone("a", 100..100 + held);
        site.cut(&changes);
        prop_assert_eq!(site.brake.holds().len(), 1);
        for (gap, whole) in looks {
            site.now += gap;
            site.whole = whole;
            let mut seen = changes.clone();
            if !whole {
                seen.truncate(held / 2);
            }
            seen.extend(gone("b", 0..1));
            let judgement = site.cut(&seen);
            prop_assert!(judgement.ended.is_empty());
            prop_assert_eq!(site.brake.holds()[0].counts.deleted, held as u64);
            site.restart();
        }
        site.whole = true;
        prop_assert_eq!(site.cut(&[]).ended.len(), 1);
    }

    #[test]
    fn any_bytes_decode_or_fail_without_panic(bytes: Vec<u8>) {
        let _decoded_or_refused = Brake::decode(&bytes, BrakeConfig::default()).is_ok();
    }

    /// Damaged states that still decode, odd tallies and odd clocks make no panic.
    #[test]
    fn nothing_makes_it_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in (any::<u64>(), any::<u64>(), any::<i64>(), any::<i64>()),
        counts in any::<[u64; 4]>(),
    ) {
        let mut site = Site::new(strict()).with("a", 99).with("b", 99);
        site.cut(&gone("a", 0..10));
        site.cut(&wrote("a", 0..20, Some(Sample { entropy: f32::NAN, bytes: 9_000, former: None })));
        site.cut(&gone("b", 0..40));
        let mut bytes = site.brake.encode();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(mut brake) = Brake::decode(&bytes, strict()) else { return Ok(()) };
        let (known, point, then, now) = cut;
        let point = LastPoint { sequence: point, time_ms: then };
        let mut tally = brake.tally(known, point, then);
        for i in 0..30 {
            tally.deleted(&p(&format!("a/f{i:05}.csv")));
            tally.rewritten(&p(&format!("b/f{i:05}.csv")), None);
            tally.moved(&p(&format!("a/{i}")), &p(&format!("b/{i}.locked")));
        }
        tally.account(p("a"), known, true);
        let mut cut = tally.finish();
        let odd = cut.accounts.entry(p("odd")).or_default();
        [odd.known, odd.deleted, odd.rewritten, odd.moved] = counts;
        let judgement = brake.judge(&cut, now);
        brake.applied(&cut, &judgement, now);
        let _may_be_empty = brake.approve(None, now).is_ok();
        let judgement = brake.judge(&cut, now);
        brake.applied(&cut, &judgement, then);
        prop_assert!(Brake::decode(&brake.encode(), strict()).is_ok());
    }
}
