//! Roots to watch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use farshore_core::path::RelPath;
use farshore_engine::capture::{
    DirtyConfig, DirtySet, Synced, TakeFilter, Taking, WatchConfig, WatchKind, Watcher,
};
use tempfile::TempDir;

pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("before the year 292277026")
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("valid")
}

/// A file system, mounted as long as this is.
pub(crate) struct Bed {
    pub(crate) top: PathBuf,
    /// The share is a folder of it.
    pub(crate) root: PathBuf,
    pub(crate) kind: WatchKind,
    /// By itself: room for many files.
    pub(crate) mounted: bool,
    _folder: TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.mounted {
            run("umount", &["-l", self.top.to_str().expect("text")]);
        }
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Bed {
    /// `None` where the machine refuses it.
    pub(crate) fn new(file_system: &str, kind: WatchKind) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().join("top");
        fs::create_dir(&top).expect("made");
        let at = top.to_str().expect("text");
        let image = folder.path().join("image");
        let image_at = image.to_str().expect("text");
        let make_image = |mib: u64, mkfs: &str| {
            let made = fs::File::create(&image).and_then(|file| file.set_len(mib << 20));
            made.is_ok()
                && run(mkfs, &["-q", image_at])
                && run("mount", &["-o", "loop", image_at, at])
        };
        let mounted = match file_system {
            "folder" => false,
            "tmpfs" => run("mount", &["-t", "tmpfs", "farshore-test", at]),
            "xfs" => make_image(320, "mkfs.xfs"),
            "ext4" => make_image(64, "mkfs.ext4"),
            other => panic!("{other} is no file system of these tests"),
        };
        if !mounted && file_system != "folder" {
            eprintln!("skipped: no {file_system} can be mounted here");
            return None;
        }
        let root = top.join("share");
        fs::create_dir(&root).expect("made");
        let bed = Self { top, root, kind, mounted, _folder: folder };
        let watch = Watch::start(&bed);
        let found = watch.watcher.report();
        if found.kind != kind {
            eprintln!("skipped: {file_system} by {kind:?}: {}", found.refused.join("; "));
            return None;
        }
        Some(bed)
    }

    /// Every bed there is, one after the other.
    pub(crate) fn each(test: impl Fn(&Self)) {
        for (file_system, kind) in [
            ("tmpfs", WatchKind::Fanotify),
            ("xfs", WatchKind::Fanotify),
            ("ext4", WatchKind::Fanotify),
            ("xfs", WatchKind::Inotify),
            ("folder", WatchKind::Inotify),
        ] {
            if let Some(bed) = Self::new(file_system, kind) {
                eprintln!("on {file_system} by {kind:?}");
                test(&bed);
            }
        }
    }

    pub(crate) fn config(&self) -> WatchConfig {
        WatchConfig { best: self.kind, ..WatchConfig::new(&self.root, now_ms) }
    }
}

/// A root that is watched, with nothing waiting.
pub(crate) struct Watch {
    pub(crate) root: PathBuf,
    pub(crate) set: DirtySet,
    pub(crate) watcher: Watcher,
}

impl Watch {
    pub(crate) fn start(bed: &Bed) -> Self {
        Self::start_with(&bed.config())
    }

    pub(crate) fn start_with(config: &WatchConfig) -> Self {
        let set = DirtySet::new(DirtyConfig::default());
        let watcher = Watcher::start(config, set.clone()).expect("started");
        let watch = Self { root: config.root.clone(), set, watcher };
        watch.clear();
        watch
    }

    /// All that waits is done.
    pub(crate) fn clear(&self) {
        let _synced = self.watcher.sync();
        while let Some(taken) = self.set.take(&TakeFilter::default()) {
            self.set.done(taken);
        }
    }

    pub(crate) fn at(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// What waits after all is read, as text: `path`, or `path/**` for deep; then nothing waits.
    pub(crate) fn told(&self) -> Vec<String> {
        assert_eq!(self.watcher.sync(), Synced::Complete);
        let Some(taken) = self.set.take(&TakeFilter::default()) else { return Vec::new() };
        let told = match &taken.scope {
            Taking::Whole(why) => vec![format!("whole: {why}")],
            Taking::Parts(scope) => scope
                .parts()
                .iter()
                .map(|part| format!("{}{}", part.directory, if part.deep { "/**" } else { "" }))
                .collect(),
        };
        self.set.done(taken);
        told
    }

    /// After all is read, the change in `directory` waits.
    pub(crate) fn must_wait(&self, directory: &str) {
        assert_eq!(self.watcher.sync(), Synced::Complete);
        assert!(self.set.waits(&path(directory)), "{directory}: {:?}", self.set.status());
    }
}

pub(crate) fn write(at: &Path) {
    fs::write(at, b"content").expect("written");
}
