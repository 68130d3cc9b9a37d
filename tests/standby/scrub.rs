//! What others do to a standby, and what time does to it: found, mended, and what was there is kept.
//!
//! `FARSHORE_TEST_FLIPS=n`: so many files rot, and so many are written by others (100 by default).

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{PATIENCE, farshore, shown, text};
use crate::pair::{Pair, there};

fn wanted() -> usize {
    std::env::var("FARSHORE_TEST_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

/// Changes one bit of a file and nothing that a look at it would show but its change time.
fn flip(path: &Path, at: u64) {
    let before = fs::metadata(path).unwrap();
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let at = at % before.len();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.set_times(FileTimes::new().set_modified(before.modified().unwrap())).unwrap();
}

fn scrub(pair: &Pair) -> Value {
    let out = farshore(&["scrub", "--config", text(&pair.recovery.config), "--json"]);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(&out)))
}

/// Contents of all kept versions.
fn kept(folder: &Path, found: &mut BTreeSet<Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            kept(&path, found);
        } else if path.is_file() {
            found.insert(fs::read(path).unwrap());
        }
    }
}

#[test]
fn what_rots_and_what_others_write_is_found_mended_and_kept() {
    let pair = Pair::new();
    let count = wanted();
    let content = |n: usize| format!("statement {n}\n").repeat(20 + n % 50);
    for n in 0..3 * count {
        pair.write(&format!("acct{}/in/{n}.csv", n % 7), content(n).as_bytes());
    }
    // One larger than a chunk, cut like the source cut it.
    let large: Vec<u8> = (0..400_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
    pair.write("acct0/in/large.dat", &large);
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    pair.equal("at first");
    let clean = scrub(&pair);
    assert_eq!((clean["rotten"].as_u64(), clean["foreign"].as_u64()), (Some(0), Some(0)));
    assert_eq!(clean["verified"].as_u64(), Some(3 * count as u64 + 1));

    let mut aliens = BTreeSet::new();
    for n in 0..count {
        let path = there(&pair, &format!("acct{}/in/{n}.csv", n % 7));
        flip(&path, 7 * n as u64);
        aliens.insert(fs::read(path).unwrap());
    }
    flip(&there(&pair, "acct0/in/large.dat"), 900_000);
    for n in count..2 * count {
        let path = there(&pair, &format!("acct{}/in/{n}.csv", n % 7));
        match n % 3 {
            0 => fs::write(&path, format!("written by somebody else {n}")).unwrap(),
            1 => fs::remove_file(&path).unwrap(),
            _ => fs::write(path.with_extension("alien"), format!("not ours {n}")).unwrap(),
        }
        match n % 3 {
            0 => drop(aliens.insert(fs::read(&path).unwrap())),
            1 => {}
            _ => drop(aliens.insert(fs::read(path.with_extension("alien")).unwrap())),
        }
    }
    // Either the scrub that is asked for finds them, or the one that never stops.
    let until = Instant::now() + PATIENCE;
    loop {
        pair.point();
        if scrub(&pair)["verified"].as_u64() == Some(3 * count as u64 + 1) {
            break;
        }
        assert!(Instant::now() < until, "never mended");
        std::thread::sleep(Duration::from_millis(100));
    }
    pair.equal("mended");
    let mut versions = BTreeSet::new();
    kept(&pair.recovery.tree.join(".farshore/history"), &mut versions);
    let lost = aliens.iter().filter(|alien| !versions.contains(*alien)).count();
    assert_eq!(lost, 0, "of {} versions that were there", aliens.len());
    pair.wait(&pair.recovery, "told", |share| {
        share["scrub"]["found"].as_u64() > Some(2 * count as u64)
            && share["standby"]["foreign_repaired"] == share["standby"]["foreign_found"]
    });
}
