//! A watch that outlives its process, as far as one process can show it.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_engine::capture::{
    DirtyConfig, DirtySet, Disbelief, Gap, Keeper, Kept, Resumed, TakeFilter, WatchKind, Watcher,
    resume,
};

use crate::bed::{Bed, path, write};

/// Where the ledger says that events are being read, and where they are.
const READING: u64 = 80;
const EVENTS: u64 = 4_096;

/// Keeps a watch for the next one.
#[derive(Debug, Default)]
struct Shelf(Mutex<Option<Kept>>);

fn copy(of: &impl AsFd) -> OwnedFd {
    of.as_fd().try_clone_to_owned().unwrap()
}

impl Shelf {
    fn ledger(&self) -> fs::File {
        self.given().unwrap().ledger.into()
    }
}

impl Keeper for Shelf {
    fn given(&self) -> Option<Kept> {
        let kept = self.0.lock().unwrap();
        kept.as_ref().map(|kept| Kept { events: copy(&kept.events), ledger: copy(&kept.ledger) })
    }

    fn keep(&self, events: BorrowedFd<'_>, ledger: BorrowedFd<'_>) {
        let kept = Kept { events: copy(&events), ledger: copy(&ledger) };
        *self.0.lock().unwrap() = Some(kept);
    }

    fn forget(&self) {
        *self.0.lock().unwrap() = None;
    }
}

fn start(bed: &Bed, state: &tempfile::TempDir, shelf: &Arc<Shelf>) -> (DirtySet, Watcher, Resumed) {
    let keeper: Arc<dyn Keeper> = Arc::clone(shelf) as _;
    resume(&bed.config(), DirtyConfig::default(), state.path(), Some(keeper)).unwrap()
}

/// A share with the directories `a` and `b`, of which everything is done.
fn begun() -> Option<(Bed, tempfile::TempDir, Arc<Shelf>, DirtySet, Watcher)> {
    let bed = Bed::new("tmpfs", WatchKind::Fanotify)?;
    fs::create_dir_all(bed.root.join("a")).unwrap();
    fs::create_dir_all(bed.root.join("b")).unwrap();
    let (state, shelf) = (tempfile::tempdir().unwrap(), Arc::default());
    let (set, watcher, resumed) = start(&bed, &state, &shelf);
    assert_eq!(resumed.gap, Gap::New);
    set.done(set.take(&TakeFilter::default()).unwrap());
    Some((bed, state, shelf, set, watcher))
}

#[test]
fn what_was_read_and_not_journaled_is_read_again() {
    let Some((bed, state, shelf, set, watcher)) = begun() else { return };
    watcher.go_on();
    drop((watcher, set));
    // A process that read this and was killed before it journaled it.
    write(&bed.root.join("a/file"));
    let mut bytes = vec![0; 4_096];
    let len = rustix::io::read(&shelf.given().unwrap().events, &mut bytes[..]).unwrap();
    shelf.ledger().write_all_at(&bytes[..len], EVENTS).unwrap();
    shelf.ledger().write_all_at(&1u64.to_ne_bytes(), READING).unwrap();
    // And what nobody read.
    write(&bed.root.join("b/file"));
    let (set, watcher, resumed) = start(&bed, &state, &shelf);
    assert_eq!(resumed.gap, Gap::None);
    let _synced = watcher.sync();
    assert!(set.waits(&path("a")) && set.waits(&path("b")), "{:?}", set.status());
    assert_eq!(set.status().whole, None);
    drop((watcher, set));
    // That end was not to be gone on from.
    assert!(shelf.given().is_none());
    let (set, _watcher, resumed) = start(&bed, &state, &shelf);
    assert_eq!(resumed.gap, Gap::Unwatched);
    assert!(set.status().whole.is_some());
}

#[test]
fn whatever_is_read_is_in_memory_that_is_kept_until_it_is_journaled() {
    let Some((bed, _state, shelf, _set, _watcher)) = begun() else { return };
    let ledger = shelf.ledger();
    let word = |at| {
        let mut word = [0; 4];
        ledger.read_exact_at(&mut word, at).unwrap();
        u32::from_ne_bytes(word)
    };
    let until = Instant::now() + Duration::from_secs(60);
    let mut n = 0;
    // The reader writes a journal, which takes longer than a look at these.
    while !(word(READING) == 1 && word(EVENTS) != 0 && word(READING) == 1) {
        assert!(Instant::now() < until, "events are read elsewhere");
        n += 1;
        if n % 16 == 0 {
            write(&bed.root.join(format!("{}/{n}", if n % 32 == 0 { "a" } else { "b" })));
            fs::create_dir(bed.root.join(format!("new{n}"))).unwrap();
        }
    }
}

#[test]
fn another_root_on_the_same_file_system_is_not_resumed() {
    let Some((bed, state, shelf, set, watcher)) = begun() else { return };
    watcher.go_on();
    drop((watcher, set));
    fs::rename(&bed.root, bed.top.join("away")).unwrap();
    fs::create_dir(&bed.root).unwrap();
    let (set, _watcher, resumed) = start(&bed, &state, &shelf);
    assert_eq!(resumed.gap, Gap::Disbelieved(Disbelief::OtherRoot));
    assert!(set.status().whole.is_some());
}
