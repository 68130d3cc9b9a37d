//! What a cut takes: by class, whole, within a bound.

use std::collections::BTreeMap;

use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

fn loads(of: &[(&str, u64)]) -> Loads {
    let mut loads = Loads::default();
    of.iter().for_each(|(account, cost)| loads.add(&path(account), *cost));
    loads
}

/// By their first letter.
fn class(account: &RelPath) -> Class {
    match account.as_bytes().first() {
        Some(b'h') => Class::High,
        Some(b'l') => Class::Low,
        _ => Class::Normal,
    }
}

fn left_out(turn: &Turn) -> Vec<String> {
    turn.left_out.iter().map(ToString::to_string).collect()
}

#[test]
fn what_fits_is_taken_whole_and_nobody_waits() {
    let turn = Turns::default().choose(loads(&[("a", 60), ("l", 40)]), class, 100);
    assert!(turn.left_out.is_empty() && turn.cost == 100);
    assert!(turn.next.waiting.is_empty());
}

#[test]
fn the_important_are_first_and_then_the_small() {
    let all = [("a", 90), ("b", 30), ("h1", 40), ("h2", 20), ("l", 1)];
    let turn = Turns::default().choose(loads(&all), class, 100);
    // 20 + 40 + 30, and the one that still fits.
    assert_eq!((left_out(&turn), turn.cost), (vec!["a".to_owned()], 91));
}

#[test]
fn one_that_is_more_than_a_cut_goes_when_there_is_little_else() {
    let turn = Turns::default().choose(loads(&[("a", 1_000), ("h", 3)]), class, 100);
    assert!(turn.left_out.is_empty(), "the line would rest");
    let turn = Turns::default().choose(loads(&[("a", 1_000), ("h", 60)]), class, 100);
    assert_eq!(left_out(&turn), ["a"]);
    let turn = Turns::default().choose(loads(&[("a", 1_000), ("b", 2_000)]), class, 0);
    assert_eq!(left_out(&turn), ["b"], "whatever a cut may take, one goes");
}

#[test]
fn the_share_itself_and_what_crosses_into_it_always_go() {
    let mut all = loads(&[("", 500), ("l", 500), ("h", 50), ("a", 50)]);
    all.tie(&path("l"), &RelPath::root());
    let turn = Turns::default().choose(all, class, 100);
    assert_eq!(left_out(&turn), ["a"]);
}

#[test]
fn what_crosses_is_as_important_as_the_most_important_of_it_and_stays_together() {
    let mut all = loads(&[("a", 10), ("b", 20), ("l1", 70), ("l2", 5)]);
    // By way of one that has nothing of its own.
    all.tie(&path("l1"), &path("n"));
    all.tie(&path("n"), &path("h"));
    let turn = Turns::default().choose(all, class, 75);
    assert_eq!(left_out(&turn), ["a", "b"], "70 of those that go together, and 5");
}

#[test]
fn a_large_one_has_its_turn_beside_ever_new_small_ones() {
    let mut turns = Turns::default();
    let all = [("a", 200), ("b", 60), ("c", 40), ("l", 100)];
    let mut waited = BTreeMap::from([("a", 0), ("l", 0)]);
    while waited.values().any(|n| *n < 100) {
        let turn = turns.choose(loads(&all), class, 100);
        for (account, rounds) in &mut waited {
            match turn.left_out.contains(&path(account)) {
                // An 8th of each cut, from the second on: 200 / 12; of the low, with nobody before it, 100 / 6.
                true => assert!(
                    {
                        *rounds += 1;
                        *rounds
                    } <= 18,
                    "{account} waits"
                ),
                false if *rounds < 100 => *rounds = 100,
                false => {}
            }
        }
        turns = turn.next;
    }
}

#[test]
fn what_was_saved_for_one_that_is_gone_is_not_for_others() {
    let names: Vec<_> = (0..40).map(|n| format!("l{n:02}")).collect();
    for leaves_in_a_cut in [false, true] {
        let mut turns = Turns::default();
        let mut all = loads(&[("h", 100), ("l", 1_000)]);
        for round in 0..100 {
            let turn = turns.choose(all, class, 100);
            assert!(turn.left_out.contains(&path("l")), "a 16th of 100 with each: {round}");
            turns = turn.next;
            all = loads(&[("h", 100), ("l", 1_000)]);
            names.iter().for_each(|name| all.add(&path(name), 20));
        }
        let mut all = loads(&[("h", 100)]);
        names.iter().for_each(|name| all.add(&path(name), 20));
        if leaves_in_a_cut {
            all.add(&path("l"), 1_000);
            all.tie(&path("l"), &path("h"));
            turns = turns.choose(all, class, 100).next;
            all = loads(&[("h", 100)]);
            names.iter().for_each(|name| all.add(&path(name), 20));
        }
        let turn = turns.choose(all, class, 100);
        assert_eq!((turn.cost, turn.left_out.len()), (100, 40), "{leaves_in_a_cut}");
    }
}

/// What comes of an account in each round, and when what it has is gone again.
#[derive(Debug, Clone)]
struct Busy {
    name: String,
    each: u64,
    every: u64,
    gone: u64,
}

fn site() -> impl prop::strategy::Strategy<Value = Vec<Busy>> {
    use prop::strategy::Strategy as _;
    let class = prop_oneof![Just("h"), Just("n"), Just("l")];
    let one = (class, 1_u64..300, 1_u64..5, prop_oneof![3 => Just(u64::MAX), 1 => 2_u64..40]);
    prop::collection::vec(one, 1..12).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named
            .map(|(n, (class, each, every, gone))| {
                let name = format!("{class}{n:02}");
                Busy { name, each, every, gone }
            })
            .collect()
    })
}

proptest! {
    /// Whatever others bring, who waits is taken within the bound; a cut takes something, is at least half full if
    /// something waits, and passes what it may take by what was due and one account at the most. A class saves no more
    /// than the one needs that it saves for, and nothing for one that does not wait.
    #[test]
    fn nobody_starves_and_no_cut_is_empty(site in site(), budget in 1_u64..400) {
        let mut turns = Turns::default();
        let mut waits: BTreeMap<RelPath, u64> = BTreeMap::new();
        // What is ahead of each in its class, itself too, when it begins to wait; and since when.
        let mut bounds: BTreeMap<RelPath, (u64, u64)> = BTreeMap::new();
        for round in 0..300_u64 {
            for busy in &site {
                if round % busy.gone == busy.gone - 1 {
                    waits.remove(&path(&busy.name));
                    bounds.remove(&path(&busy.name));
                }
                if round % busy.every == 0 {
                    *waits.entry(path(&busy.name)).or_default() += busy.each;
                }
            }
            if waits.is_empty() {
                continue;
            }
            let mut all = Loads::default();
            waits.iter().for_each(|(account, cost)| all.add(account, *cost));
            let total = all.total();
            let turn = turns.choose(all, class, budget);
            prop_assert!(turn.left_out.len() < waits.len(), "one goes at least");
            prop_assert!(turn.left_out.is_empty() || turn.cost * 2 >= budget, "half full");
            prop_assert!(total > budget || turn.left_out.is_empty(), "what fits goes");
            let sent: Vec<RelPath> =
                waits.keys().filter(|a| !turn.left_out.contains(*a)).cloned().collect();
            prop_assert_eq!(turn.cost, sent.iter().map(|account| waits[account]).sum::<u64>());
            sent.iter().for_each(|account| { waits.remove(account); bounds.remove(account); });
            let needs = |account: &RelPath| turn.next.waiting[account].needs;
            for account in &turn.left_out {
                let of_class = |other: &&RelPath| class(other) == class(account);
                let ahead = turn.left_out.iter().filter(of_class).map(needs).sum::<u64>();
                let (since, ahead) = *bounds.entry(account.clone()).or_insert((round, ahead));
                let each = (budget / class(account).part()).max(1);
                prop_assert!(round - since <= ahead.div_ceil(each), "{account} waits for ever");
            }
            for Saved { credit, of } in &turn.next.saved {
                let most = of.as_ref().map_or(1, needs);
                prop_assert!(*credit < most, "{credit} of {most} saved for {of:?}");
            }
            turns = turn.next;
        }
    }

    /// Of what goes together nothing goes alone, and of one class a larger one goes before a smaller one only when it
    /// waited.
    #[test]
    fn what_goes_together_is_not_parted(
        costs in prop::collection::vec(0_u64..200, 2..10),
        ties in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..6),
        budget in 1_u64..400,
    ) {
        let names: Vec<RelPath> = (0..costs.len()).map(|n| path(&format!("n{n}"))).collect();
        let mut all = Loads::default();
        names.iter().zip(&costs).for_each(|(name, cost)| all.add(name, *cost));
        let tied: Vec<_> = ties.iter().map(|(a, b)| (a.get(&names), b.get(&names))).collect();
        tied.iter().for_each(|(a, b)| all.tie(a, b));
        let turn = Turns::default().choose(all, class, budget);
        for (a, b) in &tied {
            prop_assert_eq!(turn.left_out.contains(*a), turn.left_out.contains(*b));
        }
        if tied.is_empty() && !turn.left_out.is_empty() {
            let cost = |name: &RelPath| costs[names.iter().position(|n| n == name).expect("one of them")];
            let smallest = names.iter().map(cost).min();
            prop_assert!(names.iter().any(|n| !turn.left_out.contains(n) && Some(cost(n)) == smallest));
        }
    }
}
