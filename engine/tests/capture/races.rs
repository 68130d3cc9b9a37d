//! Changes that do not wait for their being read.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use farshore_engine::capture::{Synced, TakeFilter, Taking};

use crate::bed::{Bed, Watch, path, write};

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

/// One change of a tree of directories; the directory whose look would find it.
fn change(watch: &Watch, known: &mut Vec<String>, random: &mut Numbers, n: usize) -> String {
    let at = known[random.below(known.len())].clone();
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
    match random.below(10) {
        0 if known.len() < 200 => {
            // With what is in it, before anybody looks.
            let new = below(&format!("d{n}"));
            fs::create_dir_all(watch.at(&new).join("in")).unwrap();
            write(&watch.at(&new).join("in/f"));
            known.push(new.clone());
            known.push(format!("{new}/in"));
            format!("{new}/in")
        }
        1 if !at.is_empty() => {
            let to = known[random.below(known.len())].clone();
            if to == at || to.starts_with(&format!("{at}/")) {
                return touch(watch, &at);
            }
            let new = if to.is_empty() { format!("m{n}") } else { format!("{to}/m{n}") };
            fs::rename(watch.at(&at), watch.at(&new)).unwrap();
            for path in known.iter_mut() {
                if let Some(rest) = path.strip_prefix(&at)
                    && (rest.is_empty() || rest.starts_with('/'))
                {
                    *path = format!("{new}{rest}");
                }
            }
            new
        }
        2 if !at.is_empty() && known.len() > 20 => {
            fs::remove_dir_all(watch.at(&at)).unwrap();
            known.retain(|path| *path != at && !path.starts_with(&format!("{at}/")));
            at.rsplit_once('/').map_or(String::new(), |(parent, _)| parent.to_owned())
        }
        _ => touch(watch, &at),
    }
}

fn touch(watch: &Watch, at: &str) -> String {
    let file = watch.at(at).join("f");
    if file.exists() {
        fs::remove_file(file).unwrap()
    } else {
        write(&file)
    }
    at.to_owned()
}

#[test]
fn ten_thousand_changes_each_synced_are_never_missed() {
    Bed::each(|bed| {
        let watch = Watch::start(bed);
        let (mut known, mut random) = (vec![String::new()], Numbers(0x9e37_79b9_7f4a_7c15));
        for n in 0..10_000 {
            let changed = change(&watch, &mut known, &mut random, n);
            watch.must_wait(&changed);
            // Mostly nothing else hides what the next one marks.
            if n % 7 != 0 {
                while let Some(taken) = watch.set.take(&TakeFilter::default()) {
                    watch.set.done(taken);
                }
            }
        }
        assert_eq!(watch.set.status().whole, None);
    });
}

#[test]
fn a_tree_made_faster_than_it_is_watched_is_told_all_of() {
    Bed::each(|bed| {
        let watch = Watch::start(bed);
        let made = AtomicBool::new(false);
        let mut told = Vec::new();
        let mut directories = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for a in 0..8 {
                    for b in 0..8 {
                        fs::create_dir_all(watch.at(&format!("t{a}/{b}/x/y/z"))).unwrap();
                        write(&watch.at(&format!("t{a}/{b}/x/y/z/f")));
                    }
                    fs::rename(watch.at(&format!("t{a}")), watch.at(&format!("r{a}"))).unwrap();
                }
                made.store(true, Ordering::SeqCst);
            });
            // Cuts go on meanwhile: each looks at what is there by then.
            while !made.load(Ordering::SeqCst) {
                assert_eq!(watch.watcher.sync(), Synced::Complete);
                told.extend(watch.set.take(&TakeFilter::default()));
            }
        });
        drop(told);
        for (a, b) in (0..8).flat_map(|a| (0..8).map(move |b| (a, b))) {
            directories.extend(["", "/x", "/x/y", "/x/y/z"].map(|end| format!("r{a}/{b}{end}")));
        }
        directories.iter().for_each(|at| watch.must_wait(at));
        watch.clear();
        // Every one is watched.
        for at in directories {
            write(&watch.at(&at).join("more"));
            watch.must_wait(&at);
        }
    });
}

#[test]
fn what_a_cut_could_not_see_waits_for_the_next() {
    // A taker beside the reader: whatever the moment, a file is there when its directory is looked at, or
    // its directory is marked again.
    Bed::each(|bed| {
        let watch = Watch::start(bed);
        let made = AtomicBool::new(false);
        let mut seen = std::collections::BTreeSet::new();
        let look = |seen: &mut std::collections::BTreeSet<String>| {
            while let Some(taken) = watch.set.take(&TakeFilter::default()) {
                let Taking::Parts(scope) = &taken.scope else { panic!("{:?}", taken.scope) };
                for part in scope.parts() {
                    list(
                        &watch,
                        &String::from_utf8_lossy(part.directory.as_bytes()),
                        part.deep,
                        seen,
                    );
                }
                watch.set.done(taken);
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..300 {
                    fs::create_dir_all(watch.at(&format!("a{n}/b/c"))).unwrap();
                    write(&watch.at(&format!("a{n}/b/c/f")));
                    write(&watch.at(&format!("a{n}/b/g")));
                }
                made.store(true, Ordering::SeqCst);
            });
            while !made.load(Ordering::SeqCst) {
                look(&mut seen);
            }
        });
        assert_eq!(watch.watcher.sync(), Synced::Complete);
        look(&mut seen);
        for n in 0..300 {
            for file in ["b/c/f", "b/g"] {
                assert!(seen.contains(&format!("a{n}/{file}")), "a{n}/{file}");
            }
        }
        assert!(!watch.set.waits(&path("")));
    });
}

fn list(watch: &Watch, at: &str, deep: bool, seen: &mut std::collections::BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(watch.at(at)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap();
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        if deep && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(watch, &path, true, seen);
        }
        seen.insert(path);
    }
}
