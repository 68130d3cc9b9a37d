//! Seals that are asked for while the last batches are under way: told by the order of what the source says and hears,
//! not by any clock.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use farshore::replicate::TargetOptions;
use farshore_core::recovery_point::RecoveryPoint;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::frames::Striping;
use farshore_engine::progress::Progress;
use farshore_engine::source::{self, Outcome, SourceConfig, SourceError, SourceReport};
use farshore_engine::target;
use farshore_proto::close::CloseCode;
use farshore_proto::link::{BulkReceive, BulkSend, Link, LinkError, LinkStats};
use farshore_proto::message::{Message, PIECES_VERSION, SEAL_BEHIND_VERSION};
use farshore_transport::{KeySet, Listener, QuicLink, SiteKey, TransportConfig, dial};

use crate::sites::{RACY, Sites, is_root, noise, put, source_config};
use crate::standing::{Bed, parts, standing, standing_with, whole, write};

/// What becomes of the words of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meddling {
    Nothing,
    /// No receipt is heard before a seal is asked for.
    HoldsReceipts,
    /// The same, and the link breaks when this comes, which is not heard any more.
    Breaks(&'static str),
    /// The target holds nothing of what it is asked to sign first; what comes of the requests behind that is not heard
    /// before a seal is asked for, or a second is over.
    HoldsSignatures,
    /// The source says that it speaks no version above this.
    Speaks(u16),
}

/// What the source's end of a link said, and heard; and what is done to it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    notes: Arc<(Mutex<Vec<String>>, Condvar)>,
    meddling: Meddling,
}

impl Line {
    fn new(meddling: Meddling) -> Self {
        Self { notes: Arc::default(), meddling }
    }

    pub(crate) fn over(&self, link: QuicLink) -> Over {
        Over { link, line: self.clone() }
    }

    fn note(&self, direction: &str, message: &Message) {
        self.note_that(format!("{direction} {}", message.name()));
    }

    fn note_that(&self, what: String) {
        let (notes, moved) = &*self.notes;
        notes.lock().unwrap().push(what);
        moved.notify_all();
    }

    /// All that was said of a cut or its seal, in order, and the answers.
    fn seals(&self) -> Vec<String> {
        let about = [
            "> seal",
            "> seal behind",
            "< sealed",
            "< seal mismatch",
            "< receipt",
            "< held back for nothing",
        ];
        let notes = self.notes.0.lock().unwrap();
        notes.iter().filter(|note| about.contains(&note.as_str())).cloned().collect()
    }

    fn said(&self, what: &str) -> usize {
        self.notes.0.lock().unwrap().iter().filter(|note| *note == what).count()
    }

    /// Waits until a seal is asked for, so long at most; after one that was refused, what is sent again is not held.
    fn hold(&self, most: Duration) {
        let (notes, moved) = &*self.notes;
        let waits = |all: &mut Vec<String>| {
            let of_seals = all.iter().rev().find(|note| note.contains(" seal"));
            of_seals.is_none_or(|note| note == "< sealed")
        };
        let all = notes.lock().unwrap();
        let (mut all, over) = moved.wait_timeout_while(all, most, waits).unwrap();
        if over.timed_out() {
            all.push("< held back for nothing".into());
        }
    }
}

/// One end of a link.
pub(crate) struct Over {
    link: QuicLink,
    line: Line,
}

impl Link for Over {
    fn send_control(&self, message: Bytes) -> Result<(), LinkError> {
        let mut said = Message::from_bytes(&message).expect("the source speaks the protocol");
        if let (Meddling::Speaks(version), Message::Hello { versions, .. }) =
            (self.line.meddling, &mut said)
        {
            versions.1 = version;
        }
        self.line.note(">", &said);
        self.link.send_control(Bytes::from(said.to_bytes()))
    }

    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        let bytes = self.link.recv_control()?;
        let Some(message) = &bytes else { return Ok(bytes) };
        let message = Message::from_bytes(message).expect("the target speaks the protocol");
        let meddling = self.line.meddling;
        if let Message::Receipt(_) = message
            && matches!(meddling, Meddling::HoldsReceipts | Meddling::Breaks(_))
        {
            self.line.hold(Duration::from_secs(10));
        }
        if let (Meddling::HoldsSignatures, Message::Signatures { id, .. }) = (meddling, &message) {
            self.line.note("<", &message);
            if self.line.said("< signatures") == 1 {
                let none = Message::Signatures { id: *id, bytes: Vec::new() };
                return Ok(Some(Bytes::from(none.to_bytes())));
            }
            self.line.hold(Duration::from_secs(1));
            return Ok(bytes);
        }
        if meddling == Meddling::Breaks(message.name()) {
            self.link.close(CloseCode::Internal as u32, "pulled");
            return Err(LinkError::Lost { step: "hear of it", source: "pulled".into() });
        }
        self.line.note("<", &message);
        Ok(bytes)
    }

    fn finish_control(&self) -> Result<(), LinkError> {
        self.link.finish_control()
    }

    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        let stream = self.link.open_bulk()?;
        Ok(Box::new(Noted { stream, line: self.line.clone(), began: false }))
    }

    fn expect_bulk(&self) {
        self.line.note_that("expects bulk".into());
        self.link.expect_bulk();
    }

    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        self.link.accept_bulk()
    }

    fn close(&self, code: u32, reason: &str) {
        self.link.close(code, reason);
    }

    fn stats(&self) -> LinkStats {
        self.link.stats()
    }
}

/// A bulk stream, of which it is noted how it begins.
struct Noted {
    stream: Box<dyn BulkSend>,
    line: Line,
    began: bool,
}

impl BulkSend for Noted {
    fn write(&mut self, chunk: Bytes) -> Result<(), LinkError> {
        if !std::mem::replace(&mut self.began, true) {
            self.line.note_that(format!("> stream {}", String::from_utf8_lossy(&chunk[..4])));
        }
        self.stream.write(chunk)
    }

    fn yields(&mut self) {
        self.stream.yields();
    }

    fn finish(self: Box<Self>) -> Result<(), LinkError> {
        self.stream.finish()
    }
}

/// One run over such a link; what each end came to.
fn run(
    sites: &Sites,
    line: &Line,
) -> (Result<SourceReport, SourceError>, Result<target::TargetReport, target::TargetError>) {
    run_between(sites, line, &Line::new(Meddling::Nothing))
}

/// The same with such a link at the target's end as well, where what it hears is what the source says.
fn run_between(
    sites: &Sites,
    line: &Line,
    far: &Line,
) -> (Result<SourceReport, SourceError>, Result<target::TargetReport, target::TargetError>) {
    std::thread::sleep(RACY);
    let (source_key, target_key) = (SiteKey::generate().unwrap(), SiteKey::generate().unwrap());
    let config = TransportConfig::loopback();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let peers = KeySet::from(source_key.key_id());
    let listener = Listener::bind(address, &target_key, peers, config.clone()).unwrap();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let (storage, catalog, folder) = sites.end(CatalogRole::Target);
            let config = TargetOptions::default().config(folder, Arc::default()).unwrap();
            let incoming = listener.accept().unwrap();
            let hello = target::receive_hello(&incoming.link).unwrap();
            let over = far.over(incoming.link);
            target::run(&storage, &catalog, &over, &hello, &config)
        });
        let (storage, catalog, folder) = sites.end(CatalogRole::Source);
        let profile = Default::default();
        let striping = Striping::up_to(3);
        let source_config =
            SourceConfig { trust_target: true, striping, ..source_config(folder, &profile) };
        let peers = KeySet::from(target_key.key_id());
        let link = dial(listener.local_addr(), &source_key, peers, &config).unwrap();
        let over = line.over(link);
        let source = source::run(&storage, &catalog, &over, &source_config, &Progress::default());
        drop(over);
        (source, serving.join().unwrap())
    })
}

/// One that seals.
fn sealed(sites: &Sites, line: &Line) -> RecoveryPoint {
    let (source, target) = run(sites, line);
    let report = source.expect("the source's end");
    assert!(target.expect("the target's end").sealed);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    match report.outcome {
        Outcome::Sealed(point) => point,
        other => panic!("not sealed: {other:?}"),
    }
}

/// The point and the number of entries in a catalog.
fn known(sites: &Sites, role: CatalogRole) -> (Option<RecoveryPoint>, u64) {
    let (catalog, _) = sites.catalog(role);
    let reader = catalog.reader().unwrap();
    (reader.recovery_point().unwrap(), reader.entry_count().unwrap())
}

/// Some small files, and one that is more than a batch.
fn tree(sites: &Sites) {
    for n in 0..50 {
        put(&sites.a.join(format!("home/f{n}")), n.to_string());
    }
    put(&sites.a.join("home/large"), noise(7, 40 << 20));
}

#[test]
fn a_run_asks_for_its_seal_before_any_receipt_has_come() {
    let sites = Sites::in_memory();
    tree(&sites);
    let line = Line::new(Meddling::HoldsReceipts);
    assert_eq!(sealed(&sites, &line).sequence, 1);
    let seals = line.seals();
    assert_eq!(seals.first().map(String::as_str), Some("> seal behind"), "{seals:?}");
    assert_eq!(seals.last().map(String::as_str), Some("< sealed"), "{seals:?}");
    assert!(seals[1..seals.len() - 1].iter().all(|note| note == "< receipt"), "{seals:?}");
    sites.equal("after the first run");
    put(&sites.a.join("home/f1"), b"other");
    let line = Line::new(Meddling::HoldsReceipts);
    assert_eq!(sealed(&sites, &line).sequence, 2);
    assert_eq!(line.seals(), ["> seal behind", "< receipt", "< sealed"]);
    sites.converged("after the second run");
}

#[test]
fn a_session_that_stands_asks_for_each_seal_before_any_receipt_has_come() {
    let sites = Sites::in_memory();
    write(&sites.a, "acct1/in/one", "1");
    let line = Line::new(Meddling::HoldsReceipts);
    let bed = Bed { line: Some(line.clone()), ..Bed::default() };
    standing_with(&sites, bed, |at| {
        at.script.cut(whole(1_000));
        for n in 2..6 {
            write(&sites.a, &format!("acct1/in/file{n}"), "content");
            // What a point lacks is said before it is asked for.
            at.script.are_behind(vec![(crate::standing::path("acct9"), n)]);
            let point = at.script.cut(parts(n * 1_000, ["acct1/in"])).point;
            assert_eq!((point.sequence, point.time_unix_ms), (n.unsigned_abs(), n * 1_000));
            assert_eq!(at.seen.last(), Some(point));
            sites.equal("after a cut");
        }
        assert_eq!(line.seals(), ["> seal behind", "< receipt", "< sealed"].repeat(5));
        // Where nothing is sent, there is nothing to be behind of.
        at.script.cut(crate::standing::nothing(20_000));
        assert_eq!(line.said("> seal"), 1);
    })
    .expect("ends in order");
    sites.converged("by a run of its own");
}

#[test]
fn a_peer_of_the_version_before_is_asked_as_before() {
    let sites = Sites::in_memory();
    tree(&sites);
    let line = Line::new(Meddling::Speaks(SEAL_BEHIND_VERSION - 1));
    assert_eq!(sealed(&sites, &line).sequence, 1);
    assert_eq!((line.said("> seal"), line.said("> seal behind")), (1, 0), "{:?}", line.seals());
    let seals = line.seals();
    assert_eq!(seals[seals.len() - 2..], ["> seal", "< sealed"]);
    sites.converged("with version 6");
}

/// What a batch on several streams is dealt in follows the version that both ends speak.
#[test]
fn batches_are_dealt_in_pieces_to_who_knows_of_them() {
    for (meddling, dealt, not) in [
        (Meddling::Nothing, "> stream FSB3", "> stream FSB2"),
        (Meddling::Speaks(PIECES_VERSION - 1), "> stream FSB2", "> stream FSB3"),
    ] {
        let sites = Sites::in_memory();
        tree(&sites);
        let line = Line::new(meddling);
        assert_eq!(sealed(&sites, &line).sequence, 1);
        assert_eq!((line.said(dealt), line.said(not)), (3, 0), "{meddling:?}");
        sites.converged("however it was dealt");
    }
}

/// Before a first contact is answered, the link learns what its line holds; nothing is sent for that where little is to
/// be sent.
#[test]
fn much_is_expected_at_first_contact_alone() {
    let sites = Sites::in_memory();
    tree(&sites);
    let line = Line::new(Meddling::Nothing);
    sealed(&sites, &line);
    assert_eq!(line.notes.0.lock().unwrap()[..2], ["> hello", "expects bulk"]);
    assert_eq!(line.said("expects bulk"), 1);
    put(&sites.a.join("home/f1"), b"other");
    let line = Line::new(Meddling::Nothing);
    sealed(&sites, &line);
    assert_eq!(line.said("expects bulk"), 0);
}

/// A target that lacks what it was to sign has a whole file sent at once, while what else was asked of it is under way.
#[test]
fn a_seal_is_asked_for_behind_no_request_that_is_not_answered() {
    let sites = Sites::in_memory();
    let file = sites.a.join("home/master.dat");
    put(&file, &noise(5, 24 << 20));
    sealed(&sites, &Line::new(Meddling::Nothing));
    put(&file, &noise(6, 24 << 20));
    let line = Line::new(Meddling::HoldsSignatures);
    assert_eq!(sealed(&sites, &line).sequence, 2);
    assert!(line.said("< signatures") > 1, "some were under way");
    assert!(line.said("< held back for nothing") > 0, "no seal was asked for meanwhile");
    assert_eq!((line.said("> seal behind"), line.said("> seal")), (0, 1));
    sites.converged("after the run");
}

/// The target's file changed while nobody looked: what was sent cannot be built, which only its receipt tells.
#[test]
fn a_seal_behind_a_batch_that_failed_is_refused_and_the_cut_sealed_as_it_then_is() {
    let sites = Sites::in_memory();
    let (file, copy) = (sites.a.join("home/master.dat"), sites.b.join("home/master.dat"));
    let old = noise(97, 8 << 20);
    put(&file, &old);
    sealed(&sites, &Line::new(Meddling::Nothing));
    let before = fs::metadata(&copy).expect("it is there");
    let mut other = old.clone();
    (0..other.len()).step_by(300_000).for_each(|at| other[at] ^= 1);
    fs::write(&copy, &other).expect("written in place");
    let in_place = fs::File::options().write(true).open(&copy).expect("it is there");
    in_place.set_modified(before.modified().expect("a time")).expect("the time it had");
    let mut new = old;
    (100_000..new.len()).step_by(1_000_000).for_each(|at| new[at] ^= 0x55);
    put(&file, &new);
    let line = Line::new(Meddling::HoldsReceipts);
    let point = sealed(&sites, &line);
    assert_eq!((point.sequence, point.exceptions), (2, 0), "no number is left out");
    let seals = line.seals();
    assert_eq!(seals[..3], ["> seal behind", "< receipt", "< seal mismatch"], "{seals:?}");
    assert_eq!(seals[seals.len() - 2..], ["> seal", "< sealed"], "{seals:?}");
    assert_eq!((line.said("> seal behind"), line.said("> seal")), (1, 1), "{seals:?}");
    assert_eq!(fs::read(&copy).expect("it is there"), new);
    sites.converged("after the run");
}

/// What only a receipt tells of is counted by the point, although one without it was asked for.
#[test]
fn a_point_counts_what_only_a_receipt_told() {
    let sites = Sites::in_memory();
    if !is_root() {
        return;
    }
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("farshore-test", &sites.b, "tmpfs", flags, Some(c"size=8m")).unwrap();
    write(&sites.a, "acct1/in/one", "1");
    put(&sites.a.join("acct1/in/large"), noise(3, 16 << 20));
    let line = Line::new(Meddling::HoldsReceipts);
    let bed = Bed { line: Some(line.clone()), passes_over_too_large: true, ..Bed::default() };
    let stood = standing_with(&sites, bed, |at| {
        let report = at.script.cut(whole(1_000));
        assert_eq!((report.point.sequence, report.point.exceptions), (1, 1), "{report:?}");
        assert_eq!(at.seen.last(), Some(report.point));
        let seals = ["> seal behind", "< receipt", "< seal mismatch", "> seal", "< sealed"];
        assert_eq!(line.seals(), seals);
        // The next cut knows of no failure: it is asked for behind its batches again.
        write(&sites.a, "acct2/one", "1");
        let report = at.script.cut(parts(2_000, ["acct2", ""]));
        assert_eq!(report.point.sequence, 2);
        assert_eq!(line.seals()[5..], ["> seal behind", "< receipt", "< sealed"]);
    });
    rustix::mount::unmount(&sites.b, rustix::mount::UnmountFlags::DETACH).unwrap();
    stood.expect("ends in order");
}

/// However much the target made of it: what the source was not told is not on record there.
#[test]
fn nothing_is_recorded_at_the_source_when_the_link_breaks_before_it_hears_of_the_seal() {
    for at in ["receipt", "sealed"] {
        let sites = Sites::in_memory();
        tree(&sites);
        let line = Line::new(Meddling::Breaks(at));
        let (source, _) = run(&sites, &line);
        assert!(matches!(source, Err(SourceError::Link(_))), "{at}: {source:?}");
        assert_eq!(line.said("> seal behind"), 1, "{at}");
        let (point, entries) = known(&sites, CatalogRole::Source);
        assert_eq!(point, None, "{at}");
        if at == "receipt" {
            assert_eq!(entries, 0, "no receipt was heard");
        } else {
            let (point, entries) = known(&sites, CatalogRole::Target);
            assert_eq!(point.map(|point| point.sequence), Some(1), "it had recorded it by then");
            assert_eq!(entries, 52);
        }
        let again = Line::new(Meddling::Nothing);
        sealed(&sites, &again);
        let (source, target) =
            (known(&sites, CatalogRole::Source), known(&sites, CatalogRole::Target));
        assert_eq!(source, target, "{at}");
        sites.converged(at);
    }
}

/// A link that breaks with the seal on its way has no point recorded at either end, and neither has to be told anything
/// twice.
#[test]
fn a_seal_that_does_not_arrive_is_recorded_nowhere() {
    let sites = Sites::in_memory();
    tree(&sites);
    let near = Line::new(Meddling::HoldsReceipts);
    let far = Line::new(Meddling::Breaks("seal behind"));
    let (source, target) = run_between(&sites, &near, &far);
    assert!(source.is_err() && target.is_err(), "{source:?} {target:?}");
    assert_eq!(near.said("> seal behind"), 1);
    for role in [CatalogRole::Source, CatalogRole::Target] {
        assert_eq!(known(&sites, role).0, None, "{role:?}");
    }
    assert_eq!(sealed(&sites, &Line::new(Meddling::Nothing)).sequence, 1);
    assert_eq!(known(&sites, CatalogRole::Source), known(&sites, CatalogRole::Target));
    sites.converged("after the next run");
}

/// In a session that stands: the next one goes on from what the target has recorded, and gives no number twice.
#[test]
fn a_point_that_was_sealed_behind_and_not_heard_of_is_gone_on_from() {
    let sites = Sites::in_memory();
    write(&sites.a, "acct1/one", "1");
    let bed = || Bed { line: Some(Line::new(Meddling::Breaks("sealed"))), ..Bed::default() };
    let ended = standing_with(&sites, bed(), |at| {
        at.script.want(whole(1_000));
        at.script.ended();
    });
    assert!(matches!(ended, Err(SourceError::Link(_))), "{ended:?}");
    assert_eq!(known(&sites, CatalogRole::Source).0, None);
    let theirs = known(&sites, CatalogRole::Target).0.expect("it was recorded");
    standing(&sites, |at| {
        let report = at.script.cut(whole(2_000));
        assert_eq!((theirs.sequence, report.point.sequence), (1, 2));
        sites.equal("after the next session");
    })
    .expect("ends in order");
}
