//! Sessions that stand: one cut after another over one link.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use farshore_core::guard::Hold;
use farshore_core::path::RelPath;
use farshore_core::policy::ReplicateAll;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_core::turns::{Class, Loads, Turn, Turns};
use farshore_engine::apply::HistoryBounds;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::history::Wanted;
use farshore_engine::plan::{Part, Plan, Problem, Scope, Withheld};
use farshore_engine::progress::Progress;
use farshore_engine::source::SourceError;
use farshore_engine::source::standing::{Cut, CutReport, Cuts, Dropped, Look, Next, stand};
use farshore_engine::stage::StageConfig;
use farshore_engine::target::{self, Observer, TargetConfig};
use farshore_proto::link::Link;
use farshore_proto::message::{Held, Holds, Receipt, Welcome};
use farshore_transport::{KeySet, Listener, QuicLink, SiteKey, TransportConfig, dial};

use crate::behind::Line;
use crate::sites::{Sites, source_config};

/// What a test asks for, and what it is told.
#[derive(Default)]
pub(crate) struct Script {
    state: Mutex<State_>,
    moved: Condvar,
}

#[derive(Default)]
struct State_ {
    wanted: VecDeque<Cut>,
    leave: bool,
    told: VecDeque<Told>,
    differ: u64,
    refuses: bool,
    /// Done once a plan is made, before anything of it is read.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
    holds: Option<Holds>,
    ended: bool,
    /// Files from so many bytes on go ahead of their cut.
    ahead_min: Option<u64>,
    /// What the last cut left out, and what was released since the session began.
    left_out: Vec<RelPath>,
    released: Vec<RelPath>,
    /// What the next points do not have.
    behind: Vec<(RelPath, i64)>,
    /// What a cut may take, and who waits.
    budget: Option<u64>,
    turns: Turns,
}

enum Told {
    Began,
    Sealed(Box<CutReport>),
    Dropped(Option<Hold>),
    Broken,
}

impl Script {
    fn tell(&self, told: Told) {
        self.state.lock().unwrap().told.push_back(told);
        self.moved.notify_all();
    }

    fn told(&self) -> Told {
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(told) = state.told.pop_front() {
                return told;
            }
            let (next, over) = self.moved.wait_timeout(state, Duration::from_secs(60)).unwrap();
            assert!(!over.timed_out(), "nothing was told");
            state = next;
        }
    }

    pub(crate) fn want(&self, cut: Cut) {
        self.state.lock().unwrap().wanted.push_back(cut);
        self.moved.notify_all();
    }

    /// Files from so many bytes on go ahead of their cut.
    pub(crate) fn carries_from(&self, bytes: u64) {
        self.state.lock().unwrap().ahead_min = Some(bytes);
    }

    /// The next points do not have these accounts as at their time.
    pub(crate) fn are_behind(&self, behind: Vec<(RelPath, i64)>) {
        self.state.lock().unwrap().behind = behind;
    }

    /// Cuts take so much.
    pub(crate) fn takes(&self, budget: u64) {
        self.state.lock().unwrap().budget = Some(budget);
    }

    /// What the last cut left out.
    pub(crate) fn left_out(&self) -> Vec<RelPath> {
        self.state.lock().unwrap().left_out.clone()
    }

    /// Whether something was left out and is no longer.
    pub(crate) fn take_released(&self) -> Vec<RelPath> {
        std::mem::take(&mut self.state.lock().unwrap().released)
    }

    /// Waits until that is so.
    pub(crate) fn released(&self) -> Vec<RelPath> {
        let patience = Duration::from_secs(60);
        let state = self.state.lock().unwrap();
        let waited = self.moved.wait_timeout_while(state, patience, |s| s.released.is_empty());
        let (mut state, over) = waited.unwrap();
        assert!(!over.timed_out(), "never released");
        std::mem::take(&mut state.released)
    }

    /// Waits until the session has ended.
    pub(crate) fn ended(&self) {
        let patience = Duration::from_secs(60);
        let state = self.state.lock().unwrap();
        let over = self.moved.wait_timeout_while(state, patience, |state| !state.ended);
        assert!(!over.unwrap().1.timed_out(), "the source does not notice");
    }

    /// A cut that is sealed.
    pub(crate) fn cut(&self, cut: Cut) -> Box<CutReport> {
        self.want(cut);
        match self.told() {
            Told::Sealed(report) => report,
            Told::Dropped(hold) => panic!("dropped: {hold:?}"),
            Told::Began | Told::Broken => panic!("not sealed"),
        }
    }
}

impl Cuts for Script {
    fn carries(&self, path: &RelPath, size: u64) -> Option<RelPath> {
        let min = self.state.lock().unwrap().ahead_min?;
        (size >= min).then(|| farshore_core::account::account_of(path, 1))
    }

    fn behind(&self, _: &Cut) -> Vec<(RelPath, i64)> {
        self.state.lock().unwrap().behind.clone()
    }

    fn released(&self, accounts: &[RelPath]) {
        self.state.lock().unwrap().released.extend_from_slice(accounts);
        self.moved.notify_all();
    }

    fn keys(&self) -> Option<Vec<u8>> {
        None
    }

    fn heard_keys(&self, _: &[u8]) {}

    fn holds(&self) -> Option<Holds> {
        self.state.lock().unwrap().holds.take()
    }

    fn began(&self, _: &Welcome, _: bool) {
        self.tell(Told::Began);
    }

    fn differ(&self, entries: u64, _: &Look) {
        self.state.lock().unwrap().differ = entries;
    }

    fn next(&self, at_most: Duration) -> Next {
        let mut state = self.state.lock().unwrap();
        if state.wanted.is_empty() && !state.leave {
            state = self.moved.wait_timeout(state, at_most).unwrap().0;
        }
        match state.wanted.pop_front() {
            Some(cut) => Next::Cut(Box::new(cut)),
            None if state.leave => Next::Leave,
            None => Next::Idle,
        }
    }

    fn judge(&self, _: &Cut, _: &mut Plan) -> bool {
        let meanwhile = self.state.lock().unwrap().meanwhile.take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        !self.state.lock().unwrap().refuses
    }

    fn budget(&self, _: &Cut) -> Option<u64> {
        self.state.lock().unwrap().budget
    }

    fn turn(&self, _: &Cut, loads: Loads, budget: u64) -> BTreeSet<RelPath> {
        let mut state = self.state.lock().unwrap();
        let class = |account: &RelPath| match account.as_bytes().first() {
            Some(b'h') => Class::High,
            _ => Class::Normal,
        };
        let Turn { left_out, next, .. } = state.turns.choose(loads, class, budget);
        state.turns = next;
        left_out
    }

    fn exceptions(&self, _: &Cut, problems: &[Problem], faults: u64) -> u64 {
        problems.len() as u64 + faults
    }

    fn sealed(&self, cut: Cut, report: CutReport) {
        let left_out = cut.left_out.accounts.into_keys();
        self.state.lock().unwrap().left_out = left_out.collect();
        self.tell(Told::Sealed(Box::new(report)));
    }

    fn dropped(&self, _: Cut, why: Dropped) {
        self.tell(Told::Dropped(match why {
            Dropped::Guard(hold) => Some(hold),
            Dropped::Owner => None,
        }));
    }

    fn broken(&self, _: Cut) {
        self.tell(Told::Broken);
    }
}

pub(crate) fn whole(time: i64) -> Cut {
    Cut { look: Look::Whole, time_unix_ms: Some(time), ..nothing(time) }
}

pub(crate) fn nothing(time: i64) -> Cut {
    Cut {
        look: Look::Nothing,
        time_unix_ms: Some(time),
        policy: Arc::new(ReplicateAll),
        withheld: Withheld::default(),
        approved: false,
        only_judged: false,
        labels: Vec::new(),
        left_out: Default::default(),
    }
}

pub(crate) fn parts<const N: usize>(time: i64, directories: [&str; N]) -> Cut {
    looks(time, directories.map(part))
}

pub(crate) fn part(directory: &str) -> Part {
    Part { directory: path(directory), deep: false }
}

pub(crate) fn looks(time: i64, parts: impl IntoIterator<Item = Part>) -> Cut {
    Cut { look: Look::Parts(Scope::new(parts)), ..nothing(time) }
}

fn withheld(account: &str) -> Withheld {
    Withheld::new([path(account)].into(), 1)
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Vec<RecoveryPoint>>, Mutex<Option<QuicLink>>);

impl Seen {
    /// The point that the target recorded last.
    pub(crate) fn last(&self) -> Option<RecoveryPoint> {
        self.0.lock().unwrap().last().copied()
    }

    /// That link breaks when the target has recorded a point, before its source is told.
    pub(crate) fn breaks(&self, link: &QuicLink) {
        *self.1.lock().unwrap() = Some(link.clone());
    }
}

impl Observer for Seen {
    fn keys(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn began(&self, _: &Welcome) {}
    fn applied(&self, _: &Receipt) {}
    fn sealed(&self, point: &RecoveryPoint) {
        self.0.lock().unwrap().push(*point);
        if let Some(link) = &*self.1.lock().unwrap() {
            link.close(5, "pulled");
        }
    }
}

/// What is at hand while a session stands.
pub(crate) struct Standing<'a> {
    pub(crate) script: &'a Script,
    /// The source's end of the link.
    pub(crate) link: &'a QuicLink,
    pub(crate) seen: Arc<Seen>,
    pub(crate) progress: Arc<Progress>,
}

/// Ends the session, however what goes on meanwhile does.
struct Leaves<'a>(&'a Script);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).leave = true;
        self.0.moved.notify_all();
    }
}

/// Runs one session that stands between the two trees while `work` goes on; how the source ended.
pub(crate) fn standing(sites: &Sites, work: impl FnOnce(&Standing<'_>)) -> Result<(), SourceError> {
    standing_with(sites, Bed::default(), work)
}

/// What a session runs on that is not as ever.
#[derive(Debug, Default)]
pub(crate) struct Bed {
    /// How much history the target keeps.
    pub(crate) history: Option<HistoryBounds>,
    /// Files that the target has no room for are passed over.
    pub(crate) passes_over_too_large: bool,
    /// What lies between the source and its link.
    pub(crate) line: Option<Line>,
}

/// The same on a bed of its own.
pub(crate) fn standing_with(
    sites: &Sites,
    Bed { history, passes_over_too_large, line }: Bed,
    work: impl FnOnce(&Standing<'_>),
) -> Result<(), SourceError> {
    let (source_key, target_key) = (SiteKey::generate().unwrap(), SiteKey::generate().unwrap());
    let config = TransportConfig::loopback();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener =
        Listener::bind(address, &target_key, KeySet::from(source_key.key_id()), config.clone())
            .unwrap();
    let script = Script::default();
    let seen = Arc::new(Seen::default());
    std::thread::scope(|scope| {
        let observer: Arc<dyn Observer> = Arc::clone(&seen) as _;
        let listener = &listener;
        let serving = scope.spawn(move || {
            let (storage, catalog, folder) = sites.end(CatalogRole::Target);
            let config = farshore::replicate::TargetOptions::default();
            let config = config.config(folder, Arc::default()).unwrap();
            let history = history.unwrap_or(config.history);
            let stage = StageConfig { passes_over_too_large, ..config.stage };
            let config = TargetConfig { observer: Some(observer), history, stage, ..config };
            let incoming = listener.accept().unwrap();
            let hello = target::receive_hello(&incoming.link).unwrap();
            target::run(&storage, &catalog, &incoming.link, &hello, &config)
        });
        let link =
            dial(listener.local_addr(), &source_key, KeySet::from(target_key.key_id()), &config)
                .unwrap();
        let near: Box<dyn Link> = match line {
            Some(line) => Box::new(line.over(link.clone())),
            None => Box::new(link.clone()),
        };
        let script = &script;
        let counters = Arc::new(Progress::default());
        let progress = Arc::clone(&counters);
        let sending = scope.spawn(move || {
            let (storage, catalog, folder) = sites.end(CatalogRole::Source);
            let profile = Default::default();
            let config = source_config(folder, &profile);
            let ended = stand(&storage, &catalog, &*near, &config, &progress, script);
            script.state.lock().unwrap().ended = true;
            script.moved.notify_all();
            ended
        });
        let leaves = Leaves(script);
        assert!(matches!(script.told(), Told::Began));
        let seen = Arc::clone(&seen);
        work(&Standing { script, link: &link, seen, progress: counters });
        drop(leaves);
        let ended = sending.join().unwrap();
        drop(serving.join().unwrap());
        ended
    })
}

pub(crate) fn write(folder: &std::path::Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn cuts_follow_each_other_and_each_is_sealed() {
    let sites = Sites::in_memory();
    write(&sites.a, "acct1/in/one", "1");
    standing(&sites, |at| {
        let first = at.script.cut(whole(1_000)).point;
        assert_eq!((first.sequence, first.time_unix_ms, first.entries), (1, 1_000, 3));
        sites.equal("after the first cut");
        for n in 2..12 {
            write(&sites.a, &format!("acct1/in/file{n}"), "content");
            let report = at.script.cut(parts(n * 1_000, ["acct1/in"]));
            assert_eq!(report.point.sequence, n.unsigned_abs());
            assert_eq!(report.point.time_unix_ms, n * 1_000);
            assert_eq!(report.applied.written, 1, "the file; {:?}", report.applied);
            sites.equal("after a cut");
        }
        let still = at.script.cut(nothing(20_000));
        assert_eq!((still.point.time_unix_ms, still.applied.all()), (20_000, 0));
        assert_eq!(at.seen.0.lock().unwrap().last(), Some(&still.point));
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

/// What moved, and is gone by the time that it is read where it moved to, is gone at the target as well, from where it
/// was: no event will have that looked at again.
#[test]
fn what_moves_and_vanishes_while_a_cut_is_made_leaves_nothing_behind() {
    let sites = Sites::in_memory();
    for name in ["kept", "moves"] {
        write(&sites.a, &format!("acct1/in/{name}"), name);
    }
    write(&sites.a, "acct1/archive/other", "other");
    standing(&sites, |at| {
        at.script.cut(whole(1_000));
        // What is too young to be told from a later change is looked at once more.
        std::thread::sleep(Duration::from_millis(50));
        at.script.cut(parts(2_000, ["acct1/in"]));
        let there = sites.a.join("acct1/archive/moved");
        fs::rename(sites.a.join("acct1/in/moves"), &there).unwrap();
        at.script.state.lock().unwrap().meanwhile =
            Some(Box::new(move || fs::remove_file(there).unwrap()));
        let report = at.script.cut(parts(3_000, ["acct1/in", "acct1/archive"]));
        assert_eq!(report.point.exceptions, 0, "{:?}", report.problems);
        assert!(at.script.state.lock().unwrap().meanwhile.is_none(), "it was planned");
        sites.equal("at that point");
    })
    .expect("ends in order");
}

#[test]
fn a_point_never_goes_back_nor_ahead_of_what_is_vouched_for() {
    let sites = Sites::in_memory();
    write(&sites.a, "acct1/one", "1");
    standing(&sites, |at| {
        at.script.cut(whole(5_000));
        let unproven = Cut { time_unix_ms: None, ..parts(0, ["acct1"]) };
        assert_eq!(at.script.cut(unproven).point.time_unix_ms, 5_000);
        assert_eq!(at.script.cut(nothing(4_000)).point.time_unix_ms, 5_000, "a clock set back");
    })
    .expect("ends in order");
}

#[test]
fn what_is_withheld_is_neither_sent_nor_removed() {
    let sites = Sites::in_memory();
    for account in ["acct1", "acct2"] {
        write(&sites.a, &format!("{account}/kept"), "before");
        write(&sites.a, &format!("{account}/gone"), "before");
    }
    standing(&sites, |at| {
        at.script.cut(whole(1_000));
        for account in ["acct1", "acct2"] {
            write(&sites.a, &format!("{account}/kept"), "after that");
            fs::remove_file(sites.a.join(account).join("gone")).unwrap();
        }
        let all = |time| parts(time, ["acct1", "acct2"]);
        let held = Cut { withheld: withheld("acct2"), ..all(2_000) };
        at.script.cut(held);
        assert!(!sites.b.join("acct1/gone").exists());
        assert_eq!(fs::read(sites.b.join("acct2/gone")).unwrap(), b"before");
        assert_eq!(fs::read(sites.b.join("acct2/kept")).unwrap(), b"before");
        // The whole account taken away is withheld as well.
        fs::remove_dir_all(sites.a.join("acct2")).unwrap();
        let held = Cut { withheld: withheld("acct2"), ..parts(3_000, ["", "acct2"]) };
        at.script.cut(held);
        assert_eq!(fs::read(sites.b.join("acct2/gone")).unwrap(), b"before");
        at.script.cut(parts(4_000, [""]));
        sites.equal("approved");
    })
    .expect("ends in order");
}

#[test]
fn what_its_owner_or_the_guard_refuses_is_not_sent() {
    let sites = Sites::in_memory();
    for n in 0..1_500 {
        write(&sites.a, &format!("acct1/{n}"), "x");
    }
    standing(&sites, |at| {
        at.script.cut(whole(1_000));
        write(&sites.a, "acct1/new", "x");
        at.script.state.lock().unwrap().refuses = true;
        at.script.want(parts(2_000, ["acct1"]));
        assert!(matches!(at.script.told(), Told::Dropped(None)));
        assert!(!sites.b.join("acct1/new").exists());
        at.script.state.lock().unwrap().refuses = false;
        fs::remove_dir_all(sites.a.join("acct1")).unwrap();
        at.script.want(parts(3_000, [""]));
        assert!(matches!(at.script.told(), Told::Dropped(Some(Hold::RootEmptied { .. }))));
        assert!(sites.b.join("acct1/7").exists());
        at.script.cut(Cut { approved: true, ..parts(4_000, [""]) });
        sites.equal("approved");
    })
    .expect("ends in order");
}

#[test]
fn a_lost_link_breaks_the_cut_and_the_next_session_goes_on() {
    let sites = Sites::in_memory();
    write(&sites.a, "acct1/one", "1");
    let ended = standing(&sites, |at| {
        at.script.cut(whole(1_000));
        write(&sites.a, "acct1/two", "2");
        at.link.close(5, "pulled");
        let patience = Duration::from_secs(60);
        let state = at.script.state.lock().unwrap();
        let over = at.script.moved.wait_timeout_while(state, patience, |state| !state.ended);
        assert!(!over.unwrap().1.timed_out(), "the source does not notice");
    });
    assert!(matches!(ended, Err(SourceError::Link(_))), "{ended:?}");
    standing(&sites, |at| {
        let report = at.script.cut(parts(2_000, ["acct1"]));
        assert_eq!(report.point.sequence, 2);
        assert_eq!(report.compared, None, "both ends are as they were");
        sites.equal("after the next session");
    })
    .expect("ends in order");
}

/// The last good point of a hold stays whole however little history is kept, and no longer than the hold.
#[test]
fn the_last_good_point_of_a_hold_is_kept_until_the_hold_ends() {
    let sites = Sites::in_memory();
    write(&sites.a, "acct1/one", "first");
    let history = Some(HistoryBounds { sets_max: 0, ..HistoryBounds::NONE });
    let none = || Bed { history, ..Bed::default() };
    let can_go_back = || {
        let (catalog, _) = sites.catalog(CatalogRole::Target);
        let reader = catalog.reader().unwrap();
        let found = farshore_engine::history::find(&reader, &Wanted::Sequence(1)).is_ok();
        (found, reader.holds().unwrap())
    };
    let held = Held {
        id: "7".into(),
        account: path("acct1"),
        since_unix_ms: 1,
        rejected_unix_ms: None,
        point: Some((1, 1_000)),
        reason: "why".into(),
        counts: [0, 9, 0, 0],
    };
    let holds = Holds { total: 1, oldest_point: Some(1), first: vec![held] };
    standing(&sites, |at| drop(at.script.cut(whole(1_000)))).expect("ends in order");
    for (n, held) in [(2, Some(&holds)), (3, None), (4, Some(&Holds::default()))] {
        write(&sites.a, "acct1/one", &format!("version {n}"));
        standing_with(&sites, none(), |at| {
            at.script.state.lock().unwrap().holds = held.cloned();
            at.script.want(nothing(n * 1_000 - 500));
            assert!(matches!(at.script.told(), Told::Sealed(_)));
            at.script.cut(parts(n * 1_000, ["acct1"]));
        })
        .expect("ends in order");
        // What was displaced in this session is for the next one to prune.
        standing_with(&sites, none(), |at| drop(at.script.cut(nothing(n * 1_000 + 100)))).unwrap();
        let said = if n < 4 { holds.clone() } else { Holds::default() };
        assert_eq!(can_go_back(), (n < 4, said), "in session {n}");
    }
}
