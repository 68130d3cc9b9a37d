//! Cuts that take some of the accounts that changed: what waits is left as it is, and comes with a later one.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use farshore_core::path::RelPath;
use farshore_engine::plan::Withheld;
use farshore_engine::source::standing::Cut;

use crate::sites::{Sites, noise};
use crate::standing::{Standing, looks, part, parts, path, standing, whole, write};

const MIB: usize = 1 << 20;

/// With accounts of one component.
fn by_account(cut: Cut) -> Cut {
    Cut { withheld: Withheld::new(BTreeSet::new(), 1), ..cut }
}

fn fill(sites: &Sites, account: &str, mib: usize) {
    let folder = sites.a.join(account).join("in");
    fs::create_dir_all(&folder).unwrap();
    for n in 0..mib {
        fs::write(folder.join(format!("new{n}")), noise(n as u64, MIB)).unwrap();
    }
}

/// All cuts it takes until nothing waits any more; how many that were, and what the first left out.
fn all_turns(at: &Standing<'_>, directories: &[&str]) -> (usize, Vec<RelPath>) {
    let mut first = None;
    for round in 1..50 {
        let looked = directories.iter().copied().map(part);
        at.script.cut(by_account(looks(1_000 + round, looked)));
        let left_out = at.script.left_out();
        if left_out.is_empty() {
            return (round.unsigned_abs() as usize, first.unwrap_or_default());
        }
        assert_eq!(at.script.released(), left_out, "it may come with the next cut");
        first.get_or_insert(left_out);
    }
    panic!("something waits for ever");
}

fn begun(sites: &Sites, accounts: &[&str]) {
    for account in accounts {
        write(&sites.a, &format!("{account}/in/old"), "as it was");
        write(&sites.a, &format!("{account}/in/gone"), "as it was");
    }
}

#[test]
fn whole_accounts_wait_for_their_turn_and_the_important_ones_do_not() {
    let sites = Sites::in_memory();
    let accounts = ["a", "b", "c", "d", "h"];
    begun(&sites, &accounts);
    standing(&sites, |at| {
        at.script.cut(whole(1_000));
        at.script.takes(4 << 20);
        for (account, mib) in [("a", 3), ("b", 3), ("c", 2), ("d", 2), ("h", 3)] {
            fill(&sites, account, mib);
            fs::remove_file(sites.a.join(account).join("in/gone")).unwrap();
        }
        at.script.cut(by_account(parts(2_000, ["a/in", "b/in", "c/in", "d/in", "h/in"])));
        let waits = at.script.left_out();
        assert_eq!(waits, ["a", "b", "c", "d"].map(path), "the important one fills the cut");
        for account in accounts {
            let there = sites.b.join(account).join("in");
            let is_there = [there.join("new0").exists(), !there.join("gone").exists()];
            assert_eq!(is_there, [account == "h"; 2], "{account}: all of it or nothing");
        }
        at.script.released();
        let (cuts, _) = all_turns(at, &["a/in", "b/in", "c/in", "d/in"]);
        assert!(cuts >= 3, "{cuts} more cuts for 10 MiB");
        sites.equal("in the end");
    })
    .expect("ends in order");
}

/// Taken away here and copied there it would be sent, and be under neither name or both in between.
#[test]
fn what_moves_from_account_to_account_stays_one_move() {
    let sites = Sites::in_memory();
    begun(&sites, &["a", "b", "c"]);
    let moves = noise(7, 2 * MIB);
    fs::write(sites.a.join("c/in/moves"), &moves).unwrap();
    standing(&sites, |at| {
        at.script.cut(whole(1_000));
        std::thread::sleep(Duration::from_millis(50));
        // What is too young to be told from a later change is looked at once more.
        at.script.cut(parts(1_500, ["a/in", "b/in", "c/in"]));
        at.script.takes(1 << 20);
        fill(&sites, "a", 2);
        fill(&sites, "b", 3);
        fs::rename(sites.a.join("c/in/moves"), sites.a.join("b/in/moved")).unwrap();
        let literal = || at.progress.literal_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let before = (literal(), at.progress.applied.totals());
        at.script.cut(by_account(parts(2_000, ["a/in", "b/in", "c/in"])));
        assert_eq!(at.script.left_out(), ["b", "c"].map(path), "both ends of the move");
        assert!(sites.b.join("c/in/moves").exists() && !sites.b.join("b/in/moved").exists());
        at.script.released();
        let (cuts, _) = all_turns(at, &["b/in", "c/in"]);
        assert_eq!(cuts, 1);
        let applied = at.progress.applied.totals() - before.1;
        assert_eq!((applied.moved, applied.removed), (1, 0), "{applied:?}");
        assert!(literal() - before.0 <= 5 * MIB as u64 + 4_096, "the content of the move is there");
        assert!(fs::read(sites.b.join("b/in/moved")).unwrap() == moves);
        sites.equal("in the end");
    })
    .expect("ends in order");
}

/// A name of an inode elsewhere, a folder of a new account, one that is taken away: what lies across, and above.
#[test]
fn what_lies_across_and_above_accounts_is_as_it_should_be_in_the_end() {
    let sites = Sites::in_memory();
    begun(&sites, &["a", "b", "c", "d"]);
    standing(&sites, |at| {
        at.script.cut(whole(1_000));
        at.script.takes(1 << 20);
        fill(&sites, "a", 2);
        fill(&sites, "b", 3);
        fill(&sites, "new", 3);
        fs::hard_link(sites.a.join("b/in/new0"), sites.a.join("c/in/linked")).unwrap();
        fs::remove_dir_all(sites.a.join("d")).unwrap();
        write(&sites.a, "above", "the share's own");
        let all = ["", "a/in", "b/in", "c/in", "new"];
        at.script.cut(by_account(looks(2_000, all.map(part))));
        let waits = at.script.left_out();
        assert!(waits.contains(&path("b")) && waits.contains(&path("c")), "{waits:?}");
        assert!(sites.b.join("above").exists() && !sites.b.join("d").exists());
        at.script.released();
        let (cuts, _) = all_turns(at, &all);
        assert!(cuts >= 2, "{cuts}");
        sites.equal("in the end");
    })
    .expect("ends in order");
}

/// A record of a further name says whose. With the first name another one, and the further one not looked at, it would
/// say that both are the new file, at both ends.
#[test]
fn names_of_one_file_in_two_accounts_that_part_have_their_turn_together() {
    for is_replaced in [true, false] {
        let sites = Sites::in_memory();
        begun(&sites, &["a", "b", "c"]);
        let [first, further] = ["a/in/old", "b/in/linked"];
        fs::hard_link(sites.a.join(first), sites.a.join(further)).unwrap();
        standing(&sites, |at| {
            at.script.cut(whole(1_000));
            at.script.takes(1 << 20);
            fill(&sites, "b", 3);
            fill(&sites, "c", 1);
            match is_replaced {
                true => {
                    fs::write(sites.a.join("a/in/new"), "another one").unwrap();
                    fs::rename(sites.a.join("a/in/new"), sites.a.join(first)).unwrap();
                }
                false => fs::remove_file(sites.a.join(first)).unwrap(),
            }
            at.script.cut(by_account(parts(2_000, ["a/in", "b/in", "c/in"])));
            assert_eq!(at.script.left_out(), ["a", "b"].map(path), "replaced: {is_replaced}");
            for name in [first, further] {
                assert_eq!(fs::read_to_string(sites.b.join(name)).unwrap(), "as it was", "{name}");
            }
            at.script.released();
            all_turns(at, &["a/in", "b/in", "c/in"]);
            sites.equal("in the end");
        })
        .expect("ends in order");
    }
}
