//! A source, a target and a state folder, and one run between them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use farshore::exit::Failure;
use farshore::replicate::{
    RunOptions, RunResult, TargetOptions, folder_pair, open_catalog, open_root, to_folder,
};
use farshore::state::{State, path_bytes};
use farshore_core::guard::{Hold, Threshold};
use farshore_core::policy::ReplicateAll;
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_engine::catalog::{Catalog, CatalogRole};
use farshore_engine::frames::{Compression, Striping};
use farshore_engine::io::uring::{IoMode, UringStorage};
use farshore_engine::profile::Profile;
use farshore_engine::progress::Progress;
use farshore_engine::source::{Outcome, SourceConfig, system_wall_clock};
use farshore_test_support::{Rng, Tree, compare, remove_tree};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

/// What a run looks at again when it changed this lately; tests wait it out where they count.
pub(crate) const RACY: Duration = Duration::from_millis(40);

/// How small files are read and created: `FARSHORE_TEST_IO`, as `--io`.
fn io_mode() -> IoMode {
    std::env::var("FARSHORE_TEST_IO").map_or(IoMode::Auto, |io| io.parse().expect("a way"))
}

/// The two trees and the state between them.
pub(crate) struct Sites {
    pub(crate) a: PathBuf,
    pub(crate) b: PathBuf,
    pub(crate) state: PathBuf,
    dir: Option<TempDir>,
    mounted: bool,
}

impl Sites {
    /// Both roots empty, on the file system of the temporary folder.
    pub(crate) fn new() -> Self {
        Self::of(false)
    }

    /// As [`Self::new`], on a tmpfs of their own where that is allowed.
    pub(crate) fn in_memory() -> Self {
        Self::of(true)
    }

    fn of(in_memory: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("farshore-").tempdir().expect("a folder");
        let top = dir.path();
        let mounted = in_memory && is_root() && mount_tmpfs(top);
        let [a, b, state] = ["a", "b", "state"].map(|name| top.join(name));
        for folder in [&a, &b, &state] {
            fs::create_dir(folder).expect("a folder");
        }
        Self { a, b, state, dir: Some(dir), mounted }
    }

    /// The folder above both roots.
    pub(crate) fn top(&self) -> &Path {
        self.dir.as_ref().expect("there until it is dropped").path()
    }

    /// The catalog of one end, and the folder it is in.
    pub(crate) fn catalog(&self, role: CatalogRole) -> (Catalog, PathBuf) {
        let parts = match role {
            CatalogRole::Source => folder_pair(&self.a, &self.b).to_vec(),
            CatalogRole::Target => vec![path_bytes(&self.b)],
        };
        let state = State::open(Some(&self.state)).expect("a state folder");
        open_catalog(&state, role, &parts).expect("a catalog")
    }

    /// What a session by hand needs of one end: its tree, and the same.
    pub(crate) fn end(&self, role: CatalogRole) -> (UringStorage, Catalog, PathBuf) {
        let (name, root) = match role {
            CatalogRole::Source => ("source", &self.a),
            CatalogRole::Target => ("target", &self.b),
        };
        let (catalog, folder) = self.catalog(role);
        (open_root(name, root, IoMode::Posix, None).expect("a root"), catalog, folder)
    }

    pub(crate) fn options(&self) -> RunOptions<'static> {
        RunOptions {
            state: State::open(Some(&self.state)).expect("a state folder"),
            policy: &ReplicateAll,
            threshold: Threshold::default(),
            approved: false,
            trust_target: false,
            dry_run: false,
            compression: Compression::Auto,
            bandwidth: None,
            io_limit: None,
            io: io_mode(),
            target: TargetOptions::default(),
        }
    }

    /// One run as `options` say.
    pub(crate) fn try_run(&self, options: &RunOptions<'_>) -> Result<Run, Failure> {
        std::thread::sleep(RACY);
        let progress = Progress::default();
        let result = to_folder(&self.a, &self.b, options, &progress)?;
        Ok(Run { result, progress })
    }

    /// One run as `options` say, which ends in order.
    pub(crate) fn run_with(&self, options: &RunOptions<'_>) -> Run {
        self.try_run(options).unwrap_or_else(|e| panic!("the run failed: {}", e.message))
    }

    /// One run that seals and reports no problem.
    pub(crate) fn run(&self) -> Run {
        let run = self.run_with(&self.options());
        run.clean();
        run
    }

    /// As [`Self::run`], with approval.
    pub(crate) fn run_approved(&self) -> Run {
        let run = self.run_with(&RunOptions { approved: true, ..self.options() });
        run.clean();
        run
    }

    /// The target equals the source.
    pub(crate) fn equal(&self, when: &str) {
        let found = compare(&self.a, &self.b, &[b".farshore"]);
        assert!(found.is_empty(), "{when}: {} differences: {found:#?}", found.len());
    }

    /// The target equals the source, and a further run finds nothing to do.
    pub(crate) fn converged(&self, when: &str) {
        self.equal(when);
        let again = self.run();
        assert_eq!(again.counts(), Counts::default(), "{when}: a further run");
        assert_eq!(again.literal(), 0, "{when}: a further run");
        assert_eq!(again.result.source.foreign_changes, 0, "{when}: a further run");
        assert!(!again.result.source.compared, "{when}: a further run compared the two ends");
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        for root in [&self.a, &self.b, &self.state] {
            // What a failed test mounted goes first; nothing there is no error.
            let _mounted = rustix::mount::unmount(root, UnmountFlags::DETACH);
            drop(remove_tree(root));
        }
        if self.mounted {
            let _busy = rustix::mount::unmount(self.top(), UnmountFlags::DETACH);
        }
        if let Some(dir) = self.dir.take() {
            drop(remove_tree(dir.path()));
        }
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mounts a tmpfs; whether that was allowed.
pub(crate) fn mount_tmpfs(at: &Path) -> bool {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("farshore-test", at, "tmpfs", flags, Some(c"size=3g,mode=0700")).is_ok()
}

/// What a run applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) written: u64,
    pub(crate) metadata: u64,
    pub(crate) moved: u64,
    pub(crate) removed: u64,
}

/// One run that ended in order.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) result: RunResult,
    pub(crate) progress: Progress,
}

impl Run {
    pub(crate) fn counts(&self) -> Counts {
        let applied = &self.progress.applied;
        let [written, metadata, moved, removed] =
            [&applied.written, &applied.metadata, &applied.moved, &applied.removed]
                .map(|count| count.load(Relaxed));
        Counts { written, metadata, moved, removed }
    }

    /// Bytes of content sent.
    pub(crate) fn literal(&self) -> u64 {
        self.progress.literal_bytes.load(Relaxed)
    }

    /// Bytes of frames as stored on the wire.
    pub(crate) fn frames(&self) -> u64 {
        self.progress.frame_bytes.load(Relaxed)
    }

    /// Bytes on the wire towards the target.
    pub(crate) fn sent(&self) -> u64 {
        self.result.link.sent_bytes
    }

    pub(crate) fn sealed(&self) -> &RecoveryPoint {
        match &self.result.source.outcome {
            Outcome::Sealed(point) => point,
            other => panic!("not sealed: {other:?}"),
        }
    }

    pub(crate) fn held(&self) -> &Hold {
        match &self.result.source.outcome {
            Outcome::Held(hold) => hold,
            other => panic!("not held: {other:?}"),
        }
    }

    /// It sealed, and reports neither problems nor lost facts.
    pub(crate) fn clean(&self) {
        self.sealed();
        let source = &self.result.source;
        assert!(source.problems.is_empty(), "{:#?}", source.problems);
        assert!(source.degraded.is_empty(), "{:?}", source.degraded);
    }

    /// The problems, each as `path: text`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.result.source.problems.iter();
        problems.map(|p| format!("{}: {}", p.path, p.text)).collect()
    }
}

/// Every name below `root` with what moves when it is touched: inode, change time, time, size, mode.
pub(crate) type Snapshot = BTreeMap<Vec<u8>, (u64, i128, i128, u64, u32)>;

/// Looks at all of `root`, Farshore's folder included, but for the names in `but`.
pub(crate) fn snapshot(root: &Path, but: &[&[u8]]) -> Snapshot {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let facts = |m: &fs::Metadata| {
        let ctime = nanos(m.ctime(), m.ctime_nsec());
        (m.ino(), ctime, nanos(m.mtime(), m.mtime_nsec()), m.size(), m.mode())
    };
    let tree = Tree::open(root).expect("the root");
    let mut found = Snapshot::new();
    found.insert(Vec::new(), facts(&fs::symlink_metadata(root).expect("the root")));
    for (path, _) in tree.walk().expect("a walk") {
        if but.contains(&&path[..]) {
            continue;
        }
        let (dir, name) = tree.parent(&path).expect("its directory");
        let at = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
        let meta = fs::symlink_metadata(Path::new(&at).join(name)).expect("it is there");
        found.insert(path, facts(&meta));
    }
    found
}

/// Paths whose facts differ between two snapshots.
pub(crate) fn touched(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let gone = before.keys().filter(|path| !after.contains_key(*path));
    let other = after.iter().filter(|(path, facts)| before.get(*path) != Some(facts));
    gone.chain(other.map(|(path, _)| path)).map(|p| p.escape_ascii().to_string()).collect()
}

/// Content that does not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

/// Writes `content` to `path`, making the folders above it.
pub(crate) fn put(path: &Path, content: impl AsRef<[u8]>) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("folders");
    }
    fs::write(path, content).expect("a file");
}

/// How often random rounds are multiplied.
pub(crate) fn seeds() -> u64 {
    number_from("FARSHORE_TEST_SEEDS", 1)
}

/// Mebibytes of the large files.
pub(crate) fn large_mib() -> usize {
    usize::try_from(number_from("FARSHORE_TEST_MIB", 128)).expect("a size")
}

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Content of every regular file below `root`, and how many bytes it has.
pub(crate) fn contents(root: &Path) -> HashMap<blake3::Hash, u64> {
    let tree = Tree::open(root).expect("the root");
    let mut found = HashMap::new();
    for (path, facts) in tree.walk().expect("a walk") {
        if facts.kind != farshore_test_support::Kind::File || facts.size > 1 << 30 {
            continue;
        }
        let mut file = tree.open_file(&path, rustix::fs::OFlags::RDONLY).expect("a file");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("its content");
        found.insert(blake3::hash(&bytes), facts.size);
    }
    found
}

/// How the source's end of a session by hand runs.
pub(crate) fn source_config(spool_folder: PathBuf, profile: &Profile) -> SourceConfig<'_> {
    SourceConfig {
        share: "share".into(),
        epoch: Epoch(0),
        policy: &ReplicateAll,
        threshold: Threshold::default(),
        approved: false,
        trust_target: false,
        dry_run: false,
        workers: 2,
        compression: Compression::Never,
        striping: Striping::ONE,
        spool_folder,
        now: &system_wall_clock,
        racy_ns: 20_000_000,
        profile,
    }
}
