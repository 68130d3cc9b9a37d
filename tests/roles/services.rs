//! Services that work with a share where the site's hooks let them, and remember what they did.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What hooks do: a file that says that the services may run, which they take away when they have stopped.
const HOOK: &str = r#"#!/bin/sh
set -eu
running="$(dirname "$FARSHORE_ROOT")/running"
echo "$FARSHORE_HOOK $FARSHORE_SHARE $FARSHORE_SITE $FARSHORE_EPOCH" >> "$(dirname "$FARSHORE_ROOT")/hooks.log"
case "$FARSHORE_HOOK" in
start) touch "$running" ;;
stop)
    rm -f "$running"
    # Whoever is in the middle of something ends it.
    while [ -e "$(dirname "$FARSHORE_ROOT")/busy" ]; do sleep 0.01; done ;;
esac
"#;

/// The lines of a config that name the hook, which is written to `folder`.
pub(crate) fn hooks(folder: &Path) -> String {
    let file = folder.join("hook.sh");
    fs::write(&file, HOOK).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let file = file.display();
    format!("[share.hooks]\nstart = [\"{file}\"]\nstop = [\"{file}\"]\ntimeout = \"30s\"\n")
}

/// Services at two sites: they work wherever `running` stands beside the tree.
pub(crate) struct Services {
    stop: Arc<AtomicBool>,
    truth: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    both: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Services {
    /// Begins; at the first site they run already.
    pub(crate) fn start(trees: [PathBuf; 2]) -> Self {
        fs::write(trees[0].parent().unwrap().join("running"), b"").unwrap();
        let (stop, both) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let truth = Arc::new(Mutex::new(BTreeMap::new()));
        let (ended, noted, twice) = (Arc::clone(&stop), Arc::clone(&truth), Arc::clone(&both));
        let thread = std::thread::spawn(move || work(&trees, &ended, &noted, &twice));
        Self { stop, truth, both, thread: Some(thread) }
    }

    /// Ends; how often they wrote, and what is there now.
    pub(crate) fn end(mut self) -> (u64, BTreeMap<String, Vec<u8>>) {
        self.stop.store(true, Relaxed);
        let wrote = self.thread.take().unwrap().join().unwrap();
        assert!(!self.both.load(Relaxed), "services ran at both sites");
        (wrote, self.truth.lock().unwrap().clone())
    }
}

fn work(
    trees: &[PathBuf; 2],
    stop: &AtomicBool,
    truth: &Mutex<BTreeMap<String, Vec<u8>>>,
    both: &AtomicBool,
) -> u64 {
    let beside = |tree: &Path, name: &str| tree.parent().unwrap().join(name);
    let mut n = 0_u64;
    while !stop.load(Relaxed) {
        let may = |tree: &PathBuf| beside(tree, "running").exists();
        if trees.iter().all(may) {
            both.store(true, Relaxed);
        }
        for tree in trees.iter() {
            let busy = beside(tree, "busy");
            fs::write(&busy, b"").unwrap();
            // Looked at again: who stops the services waits for the file that stands now.
            if may(tree) {
                n += 1;
                one(tree, n, &mut truth.lock().unwrap());
            }
            fs::remove_file(&busy).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    n
}

/// A partner's upload, its pick-up, its archive.
fn one(tree: &Path, n: u64, truth: &mut BTreeMap<String, Vec<u8>>) {
    let account = format!("acct{}", n % 7);
    let at = |path: &str| tree.join(path);
    let name = format!("{account}/in/file{n}");
    let content = format!("{n} ").repeat(usize::try_from(n % 50).unwrap() + 1).into_bytes();
    fs::create_dir_all(at(&format!("{account}/in"))).unwrap();
    fs::create_dir_all(at(&format!("{account}/done"))).unwrap();
    fs::write(at(&format!("{name}.filepart")), &content).unwrap();
    fs::rename(at(&format!("{name}.filepart")), at(&name)).unwrap();
    truth.insert(name, content);
    if n > 20 {
        let old = n - 20;
        let account = format!("acct{}", old % 7);
        let name = format!("{account}/in/file{old}");
        if let Some(content) = truth.remove(&name) {
            if old % 3 == 0 {
                let archived = format!("{account}/done/file{old}");
                fs::rename(at(&name), at(&archived)).unwrap();
                truth.insert(archived, content);
            } else {
                fs::remove_file(at(&name)).unwrap();
            }
        }
    }
}
