//! Turns, what is left out meanwhile, and what the target may say.

use farshore_core::chunking::ChunkingId;
use farshore_core::entry::{DeviceNumber, Entry, Metadata, Timestamp};
use farshore_core::recipe::Extent;

use super::*;
use crate::io::{FileKind, Stat};

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("a path")
}

/// By its first letter.
fn class(account: &RelPath) -> Class {
    match account.as_bytes().first() {
        Some(b'h') => Class::High,
        Some(b'z') => Class::Low,
        _ => Class::Normal,
    }
}

fn wants(desk: &AheadDesk, file: &str, size: u64) -> RelPath {
    let account = farshore_core::account::account_of(&path(file), 1);
    match desk.wants(&path(file), (&account, class(&account)), (size, None), false) {
        Known::Waits(withholds) => withholds,
        Known::Ready(_) | Known::WithCut => panic!("it does not wait"),
    }
}

fn read() -> ReadAhead {
    let time = Timestamp { seconds: 0, nanos: 0 };
    let nowhere = DeviceNumber { major: 0, minor: 0 };
    let stat = Stat {
        kind: FileKind::Regular,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        allocated: 0,
        mtime: time,
        ctime: time,
        inode: 1,
        links: 1,
        device: nowhere,
        number: nowhere,
    };
    ReadAhead {
        entry: Entry::Fifo { meta: Metadata::default() },
        recipe: None,
        stat,
        settled: true,
    }
}

/// Carries the next file; its account.
fn carried(desk: &AheadDesk) -> RelPath {
    let task = desk.next_task().expect("one waits");
    let account = desk.account_of(&task.path).expect("a job");
    desk.ended(&task.path, Outcome::Ready(read()));
    account
}

fn is_with_cut(desk: &AheadDesk, file: &str) -> bool {
    let account = farshore_core::account::account_of(&path(file), 1);
    matches!(desk.wants(&path(file), (&account, class(&account)), (1, None), false), Known::WithCut)
}

fn next(desk: &AheadDesk) -> String {
    desk.next_task().expect("one waits").path.to_string()
}

#[test]
fn accounts_take_turns_with_one_file_each() {
    let desk = AheadDesk::default();
    for (file, size) in [("a/1", 500), ("a/2", 50), ("b/1", 400), ("c/1", 300)] {
        assert_eq!(wants(&desk, file, size).to_string(), file[..1]);
    }
    assert_eq!(desk.withheld(), [path("a"), path("b"), path("c")]);
    // The shortest of those that were not served; of each account one.
    assert_eq!([next(&desk), next(&desk), next(&desk)], ["a/2", "c/1", "b/1"]);
    desk.ended(&path("c/1"), Outcome::Gone);
    desk.left_out(desk.withheld());
    assert_eq!(desk.withheld(), [path("a"), path("b")]);
    wants(&desk, "c/2", 1);
    wants(&desk, "d/1", 1_000);
    assert_eq!(next(&desk), "d/1", "never served");
    assert_eq!(next(&desk), "c/2", "a is busy");
    desk.ended(&path("a/2"), Outcome::Gone);
    assert_eq!(next(&desk), "a/1");
    desk.close();
    assert!(desk.next_task().is_none());
}

/// Sixteen times as much as one of the lowest: never all of it.
#[test]
fn an_important_account_is_first_and_others_have_their_turn_beside_it() {
    let desk = AheadDesk::default();
    for n in 0..20 {
        wants(&desk, &format!("a/{n}"), 100);
        wants(&desk, &format!("h/{n}"), 100);
        wants(&desk, &format!("z/{n}"), 100);
    }
    let mut order = String::new();
    for _ in 0..21 {
        let file = next(&desk);
        order.push_str(&file[..1]);
        desk.ended(&path(&file), Outcome::Gone);
    }
    assert_eq!(&order[..3], "haz", "whoever was not served, the important first");
    let count = |account: &str| order.matches(account).count();
    assert_eq!((count("h"), count("a"), count("z")), (16, 4, 1));
}

#[test]
fn a_file_that_keeps_changing_waits_by_itself_and_its_account_goes_on() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    for _ in 0..CHANGES_MAX {
        assert_eq!(desk.left_out(desk.withheld()), [(path("a"), None)].into());
        desk.ended(&path("a/1"), Outcome::Changed);
    }
    assert_eq!(desk.withheld(), [path("a/1")]);
    assert_eq!(desk.take_released(), [path("a")]);
    assert_eq!(desk.take_released(), []);
    let failing = desk.failing(|_| true);
    assert!(failing[0].why.contains("unstable"), "{}", failing[0].why);
    assert!(desk.probed(&[], |_| true).is_empty(), "too soon");
    assert!(desk.take_untidy().is_none(), "what came is of use to the next attempt");
}

#[test]
fn a_file_that_is_overtaken_time_and_again_goes_with_its_cut() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    for _ in 1..OVERTAKEN_MAX {
        assert_eq!(next(&desk), "a/1");
        desk.ended(&path("a/1"), Outcome::Ready(read()));
        assert_eq!(desk.is_overtaken(&path("a/1")), Some(path("a")));
    }
    assert_eq!(next(&desk), "a/1");
    desk.ended(&path("a/1"), Outcome::Ready(read()));
    assert_eq!((desk.is_overtaken(&path("a/1")), desk.withheld()), (None, vec![]));
    // Its cut could not read it either.
    desk.had_trouble(|path| (path.to_string() == "a/1").then(|| "unstable".into()));
    assert_eq!(desk.withheld(), [path("a/1")], "by itself");
    assert_eq!(desk.failing(|_| true)[0].why, "unstable");
}

#[test]
fn of_an_account_of_more_files_than_may_wait_at_the_target_the_rest_goes_with_its_cut() {
    let desk = AheadDesk::default();
    for n in 0..2 * AHEAD_MAX {
        wants(&desk, &format!("a/{n}"), n as u64);
    }
    for n in 1..ACCOUNT_READY_MAX {
        assert_eq!(carried(&desk), path("a"));
        assert_eq!(desk.withheld(), [path("a")], "after {n}");
    }
    carried(&desk);
    assert!(desk.withheld().is_empty());
    assert!(is_with_cut(&desk, &format!("a/{}", 2 * AHEAD_MAX - 1)), "found before");
    assert!(is_with_cut(&desk, "a/new"));
    wants(&desk, "b/1", 1_000);
    assert_eq!(carried(&desk), path("b"), "others have their turn");
    // Its cut had trouble with one of them.
    desk.had_trouble(|path| (path.to_string() == "a/new").then(|| "unreadable".into()));
    desk.settled(|path| path.to_string() != "a/new");
    assert_eq!(desk.withheld(), [path("a/new")]);
    wants(&desk, "a/later", 1);
    assert_eq!(carried(&desk), path("a"), "there is room again");
}

#[test]
fn where_no_more_may_wait_at_the_target_others_wait_until_there_is_room() {
    let desk = AheadDesk::default();
    for n in 0..AHEAD_MAX {
        wants(&desk, &format!("{}/{n}", n % 2), 1);
    }
    for _ in 0..READY_MAX {
        assert!(carried(&desk).as_bytes().len() == 1);
    }
    assert!(desk.withheld().is_empty(), "what is in their way goes with their cuts");
    wants(&desk, "b/1", 1);
    assert_eq!(desk.withheld(), [path("b")], "nothing of it would be placed by its cut");
    assert!(desk.lock().is_full());
    desk.make_room(|path| path.as_bytes().starts_with(b"x"));
    assert!(desk.lock().is_full());
    // That account is held from now on: no cut comes for what waits for it.
    desk.make_room(|path| path.as_bytes().starts_with(b"0"));
    assert_eq!(carried(&desk), path("b"));
    desk.make_room(|path| path.as_bytes().starts_with(b"1"));
    assert!(desk.account_of(&path("1/1")).is_some(), "there is room");
}

#[test]
fn what_other_policies_may_exclude_is_planned_again_and_given_up_meanwhile() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    wants(&desk, "b/1", 600);
    assert_eq!(next(&desk), "a/1");
    desk.left_out(desk.withheld());
    assert!(!desk.is_dismissed(&path("a/1")));
    desk.dismiss();
    assert!(desk.is_dismissed(&path("a/1")));
    assert_eq!(desk.take_released(), [path("b")]);
    desk.ended(&path("a/1"), Outcome::Changed);
    assert_eq!((desk.take_released(), desk.withheld()), (vec![path("a")], vec![]));
    wants(&desk, "a/1", 500);
    assert_eq!(next(&desk), "a/1");
    assert!(!desk.is_dismissed(&path("a/1")));
}

#[test]
fn a_file_that_fails_is_not_looked_for_where_its_account_is_left_out() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    (0..CHANGES_MAX).for_each(|_| desk.ended(&path("a/1"), Outcome::Changed));
    desk.lock().jobs.get_mut(&path("a/1")).expect("a job").again = Instant::now();
    wants(&desk, "a/2", 500);
    assert_eq!(desk.stays_out(), [path("a"), path("a/1")]);
    assert_eq!(desk.probed(&desk.stays_out(), |_| true), []);
    assert_eq!(desk.failing(|_| true).len(), 1, "it is known to fail");
    desk.forgotten(&path("a/2"));
    assert_eq!(desk.probed(&desk.stays_out(), |_| true), [path("a/1")]);
}

#[test]
fn a_refusal_keeps_the_account_waiting_and_not_for_ever() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    for _ in 1..REFUSALS_MAX {
        desk.ended(&path("a/1"), Outcome::Refused("too long".into()));
        let left_out = desk.left_out(desk.withheld());
        let first = left_out.first_key_value();
        let Some((account, Some(why))) = first else { panic!("{left_out:?}") };
        assert!(*account == path("a") && why.contains("too long"), "{left_out:?}");
        assert_eq!(desk.take_released(), []);
    }
    desk.ended(&path("a/1"), Outcome::Refused("too long".into()));
    assert_eq!((desk.withheld(), desk.take_released()), (vec![path("a/1")], vec![path("a")]));
    assert!(desk.failing(|_| true)[0].why.contains("too long"));
    assert!(desk.probed(&[], |_| true).is_empty(), "too soon");
}

#[test]
fn what_came_of_a_file_that_is_gone_goes_when_the_next_cut_does_not_meet_it_elsewhere() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    desk.left_out(desk.withheld());
    assert_eq!(next(&desk), "a/1");
    desk.ended(&path("a/1"), Outcome::Gone);
    // Of the cut that was under way then: it did not look at the account.
    desk.settled(|_| true);
    assert_eq!((desk.take_untidy(), desk.take_released()), (None, vec![path("a")]));
    assert_eq!(desk.take_untidy(), None, "nobody looked yet");
    wants(&desk, "a/renamed", 500);
    desk.settled(|_| true);
    assert_eq!(desk.take_untidy(), None, "it is of use to what was met");
    assert_eq!(next(&desk), "a/renamed");
    desk.ended(&path("a/renamed"), Outcome::Gone);
    assert_eq!(desk.take_released(), []);
    desk.settled(|_| true);
    assert_eq!((desk.take_untidy(), desk.take_untidy()), (Some(vec![]), None));
}

#[test]
fn what_there_is_no_room_for_is_left_to_its_owner_and_its_account_goes_on() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    desk.left_out(desk.withheld());
    assert_eq!(next(&desk), "a/1");
    desk.ended(&path("a/1"), Outcome::NoRoom { needed: 500, free: 7 });
    assert_eq!(desk.withheld(), [path("a/1")]);
    assert_eq!(desk.take_released(), [path("a")]);
    std::thread::sleep(Duration::from_millis(2));
    desk.lock().jobs.get_mut(&path("a/1")).expect("a job").again = Instant::now();
    assert!(desk.probed(&[], |_| true).is_empty(), "it is not tried again from here");
    let failing = desk.failing(|_| true);
    assert!(failing[0].no_room.is_some_and(|room| (room.needed, room.free) == (500, 7)));
    desk.given_up(|path| path.to_string() == "b/1");
    assert_eq!(desk.withheld(), [path("a/1")], "its owner does not know yet");
    desk.given_up(|_| true);
    assert_eq!((desk.withheld(), desk.take_untidy()), (vec![], Some(vec![])));
}

#[test]
fn what_was_left_out_stays_so_until_its_owner_knows_that_it_is_over() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    assert_eq!(desk.stays_out(), [path("a")]);
    desk.left_out(desk.stays_out());
    assert_eq!(next(&desk), "a/1");
    desk.ended(&path("a/1"), Outcome::Gone);
    assert_eq!((desk.withheld(), desk.stays_out()), (vec![], vec![path("a")]));
    assert_eq!(desk.take_released(), [path("a")]);
    assert_eq!(desk.stays_out(), []);
}

#[test]
fn of_what_is_held_only_what_is_under_way_goes_on() {
    let desk = AheadDesk::default();
    wants(&desk, "a/1", 500);
    wants(&desk, "a/2", 50);
    wants(&desk, "b/1", 400);
    assert_eq!(next(&desk), "a/2");
    desk.let_go(|held| held.starts_with(&path("a")));
    assert_eq!(
        (desk.account_of(&path("a/1")), desk.account_of(&path("a/2"))),
        (None, Some(path("a")))
    );
    assert_eq!(next(&desk), "b/1");
    desk.ended(&path("a/2"), Outcome::Changed);
    desk.let_go(|held| held.starts_with(&path("a")));
    assert_eq!(desk.withheld(), [path("b")]);
}

#[test]
fn what_the_target_was_not_asked_or_what_is_no_recipe_ends_the_session() {
    let desk = AheadDesk::default();
    let extents = vec![Extent::Chunk { id: ChunkId([1; 32]), len: 9 }; 3];
    let recipe = Recipe { chunking: ChunkingId::Gear64K, extents };
    let held = |content, bytes: &[u8], last| Message::Held {
        content,
        whole: false,
        last,
        bytes: bytes.to_vec(),
    };
    let (digest, bytes) = (recipe.digest(), recipe.to_bytes());
    assert!(desk.hear(held(digest, &bytes, true)).is_err(), "nothing was asked");
    assert!(desk.hear(Message::Listed(0)).is_err());
    assert!(desk.hear(Message::Carried(Receipt::default())).is_err());
    desk.lock().asked = 2;
    assert!(desk.hear(held(FileDigest([9; 32]), &bytes, true)).is_err(), "another digest");
    let (first, rest) = bytes.split_at(20);
    desk.hear(held(digest, first, false)).expect("a piece");
    assert!(desk.hear(Message::Listed(0)).is_err(), "in the middle");
    desk.hear(held(digest, rest, true)).expect("the rest");
    assert!(desk.hear(Message::Listed(2)).is_err(), "another number");
    desk.hear(Message::Listed(1)).expect("all");
    let there = HeldThere { content: digest, whole: false, recipe: Arc::new(recipe) };
    assert_eq!(desk.held(1).expect("answered").contents, [there]);
    assert_eq!(desk.held_whole(1, Duration::ZERO), Some(HashSet::new()), "it broke off");
    assert_eq!(desk.held_whole(2, Duration::ZERO), None, "not answered");
    desk.lock().coming_extents = AHEAD_EXTENTS_MAX - 2;
    let beyond = desk.hear(held(digest, &bytes, true));
    assert!(matches!(beyond, Err(SessionError::Decode(_))), "of all more extents: {beyond:?}");
    let number = desk.next_number();
    let receipt = Receipt { batch: number, ..Receipt::default() };
    desk.hear(Message::Carried(receipt.clone())).expect("asked");
    assert!(desk.hear(Message::Carried(receipt.clone())).is_err(), "twice");
    assert_eq!(desk.receipt(number), Some(receipt));
    assert!(matches!(desk.hear(Message::Goodbye), Ok(Some(Message::Goodbye))));
}
