//! A hostile source against `farshore serve`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::codec::Encoder;
use farshore_core::delta::Signing;
use farshore_core::digest::RootDigest;
use farshore_core::entry::{Entry, EntryDigest, Metadata, Timestamp, Xattrs};
use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recipe::{ChunkId, Extent, FileDigest, Recipe};
use farshore_core::recovery_point::{Epoch, RecoveryPoint};
use farshore_engine::deadline::within;
use farshore_proto::batch::{BatchHeader, Deal, FrameHeader, PIECE_BYTES, Stripe};
use farshore_proto::close::CloseCode;
use farshore_proto::link::Link;
use farshore_proto::message::{
    Answer, Message, PIECES_VERSION, PROTOCOL_VERSION, Query, Receipt, Sign, StoreId, Welcome,
};
use farshore_proto::op::{Op, Piece};
use farshore_transport::{KeySet, QuicLink, SiteKey, TransportConfig, dial};

use crate::common::{Server, Site, assert_equal_trees, expect, shown};

/// A server answers a broken rule within this.
pub(crate) const SOON: Duration = Duration::from_secs(9);
/// What a hostile session may add to the server's memory.
pub(crate) const MEMORY: u64 = 400 << 20;

/// What the server did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It ended the session.
    Ended,
    /// It refused the operation.
    Failed,
    /// It answered as to anybody.
    Fine,
}
use Outcome::{Ended, Failed, Fine};

/// An attacker's end of a session.
pub(crate) struct Attack {
    pub(crate) link: QuicLink,
    pub(crate) welcome: Welcome,
}

fn key(site: &Site) -> SiteKey {
    SiteKey::load(&site.source_state.join("site.key")).unwrap()
}

fn connect(site: &Site, server: &Server) -> QuicLink {
    let expected = KeySet::from(site.target_key.parse::<farshore_transport::KeyId>().unwrap());
    dial(server.address, &key(site), expected, &TransportConfig::loopback())
        .expect("an allowed key")
}

fn hello(share: &str, versions: (u16, u16), epoch: u64) -> Message {
    let source = StoreId([0xee; 16]);
    Message::Hello {
        versions,
        share: share.into(),
        source,
        epoch: Epoch(epoch),
        trust_target: true,
    }
}

pub(crate) fn say(link: &QuicLink, message: &Message) {
    raw_control(link, message.to_bytes());
}

/// A link that is gone already is an outcome, not an error of the test.
pub(crate) fn raw_control(link: &QuicLink, bytes: Vec<u8>) {
    link.send_control(Bytes::from(bytes)).unwrap_or(());
}

pub(crate) fn hear(link: &QuicLink) -> Option<Message> {
    let bytes = link.recv_control().ok().flatten()?;
    Some(Message::from_bytes(&bytes).expect("the server speaks the protocol"))
}

impl Attack {
    /// A session up to its welcome.
    fn begin(site: &Site, server: &Server) -> Self {
        Self::speaking(2, site, server)
    }

    /// The same, of a source that speaks up to `version`.
    pub(crate) fn speaking(version: u16, site: &Site, server: &Server) -> Self {
        let start = Instant::now();
        loop {
            let link = connect(site, server);
            say(&link, &hello("share", (1, version), 0));
            let heard = within(&link, SOON, CloseCode::Internal, "", || {
                loop {
                    match hear(&link) {
                        Some(Message::Checking(_)) => {}
                        other => break other,
                    }
                }
            });
            match heard {
                Some(Message::Welcome(welcome)) => return Self { link, welcome },
                // The former session is still being cleared away.
                other => assert!(start.elapsed() < SOON, "no welcome: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.welcome.applied_batch + 1
    }

    /// What comes back first that is an outcome.
    fn outcome(&self) -> Outcome {
        outcome(&self.link)
    }

    /// Sends bytes on a bulk stream; not finished, the stream is reset.
    pub(crate) fn stream(&self, bytes: Vec<u8>, finish: bool) {
        let Ok(mut stream) = self.link.open_bulk() else { return };
        if stream.write(Bytes::from(bytes)).is_ok() && finish {
            stream.finish().unwrap_or(());
        }
    }

    /// A batch whose only frame is `payload`.
    fn payload(&self, payload: &[u8]) {
        self.stream([header(self.next()), frame(payload)].concat(), true);
    }

    /// A batch of `ops`, in order.
    fn ops(&self, ops: &[Op<'_>]) {
        self.payload(&closed(ops));
    }
}

fn outcome(link: &QuicLink) -> Outcome {
    within(link, SOON, CloseCode::Internal, "the test waited long enough", || {
        loop {
            match hear(link) {
                None | Some(Message::Refused { .. }) => return Ended,
                Some(Message::Receipt(Receipt { failures, .. })) => {
                    return if failures.is_empty() { Fine } else { Failed };
                }
                Some(Message::Answer(_) | Message::SealMismatch(_)) => return Fine,
                Some(_) => {}
            }
        }
    })
}

fn header(batch: u64) -> Vec<u8> {
    BatchHeader::of(batch, Epoch(0)).to_bytes()
}

/// One of several streams of the next batch: its header and frames of nothing.
fn striped(a: &Attack, index: u8, of: u8, frames: usize) -> Vec<u8> {
    let stripe = Stripe { index, of };
    let header = BatchHeader { stripe, ..BatchHeader::of(a.next(), Epoch(0)) };
    [header.to_bytes(), frame(&[]).repeat(frames)].concat()
}

/// One of two streams that pieces are dealt to.
fn dealt(a: &Attack, index: u8, bytes: &[u8]) -> Vec<u8> {
    let stripe = Stripe { index, of: 2 };
    let header = BatchHeader { stripe, deal: Deal::Pieces, ..BatchHeader::of(a.next(), Epoch(0)) };
    [&header.to_bytes()[..], bytes].concat()
}

pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    raw_frame(payload, payload.len(), 0)
}

fn raw_frame(stored: &[u8], payload_len: usize, flags: u8) -> Vec<u8> {
    let mut out = (stored.len() as u32).to_le_bytes().to_vec();
    out.extend((payload_len as u32).to_le_bytes());
    out.push(flags);
    out.extend(stored);
    out
}

pub(crate) fn encoded(ops: &[Op<'_>]) -> Vec<u8> {
    let mut e = Encoder::new();
    ops.iter().for_each(|op| op.encode(&mut e));
    e.finish()
}

pub(crate) fn closed(ops: &[Op<'_>]) -> Vec<u8> {
    [encoded(ops), encoded(&[Op::Close { ops: ops.len() as u64 }])].concat()
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

pub(crate) fn meta() -> Metadata {
    Metadata {
        mode: 0o644,
        mtime: Timestamp { seconds: 1_700_000_000, nanos: 0 },
        ..Metadata::default()
    }
}

pub(crate) fn file(content: &[u8]) -> Entry {
    Entry::File { size: content.len() as u64, content: FileDigest::of_small(content), meta: meta() }
}

fn directory() -> Entry {
    Entry::Directory { meta: meta() }
}

fn link_to(leader: &str) -> Entry {
    Entry::HardLink { leader: path(leader) }
}

const NOWHERE: EntryDigest = EntryDigest([7; 32]);
pub(crate) const NO_CONTENT: FileDigest = FileDigest([8; 32]);

/// An operation with a path no honest encoder writes: a small file `x` there.
fn with_path(raw: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.put_u8(3);
    e.put_bytes(raw);
    file(b"x").encode(&mut e);
    e.put_bytes(b"x");
    [e.finish(), encoded(&[Op::Close { ops: 1 }])].concat()
}

/// A hard link to a path no honest encoder writes.
fn with_leader(raw: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.put_u8(2);
    e.put_bytes(b"in/new");
    e.put_u8(4);
    e.put_bytes(raw);
    [e.finish(), encoded(&[Op::Close { ops: 1 }])].concat()
}

pub(crate) fn point(root: RootDigest) -> RecoveryPoint {
    RecoveryPoint {
        sequence: u64::MAX,
        time_unix_ms: i64::MIN,
        root,
        entries: 0,
        bytes: 0,
        exceptions: 0,
    }
}

type Case = (&'static str, Outcome, fn(&Attack));

/// A batch of one operation.
macro_rules! one {
    ($op:expr) => {
        |a| a.ops(&[$op])
    };
}

/// A larger file `in/new` of 10 bytes, built of the given operations.
macro_rules! built {
    ($($op:expr),*) => {
        |a| a.ops(&[Op::Begin { path: path("in/new"), size: 10, sparse: false }, $($op),*])
    };
}

pub(crate) fn end(content: FileDigest, size: u64) -> Op<'static> {
    let entry = Entry::File { size, content, meta: meta() };
    Op::End { entry, chunking: ChunkingId::FastCdc64K }
}

/// What the file `large` is made of.
fn large() -> Recipe {
    let content = farshore_test_support::Rng::new(1).bytes(300_000);
    let mut chunker = Chunker::new(ChunkingId::for_size(300_000), 512 << 10);
    let mut recipe = Recipe { chunking: chunker.id(), extents: Vec::new() };
    chunker.spare()[..content.len()].copy_from_slice(&content);
    chunker.filled(content.len());
    chunker.finish();
    while let Some(cut) = chunker.poll() {
        recipe.push(cut.extent);
    }
    recipe
}

/// A file `in/new` as long as `large`, built on that.
fn on_large(a: &Attack, ops: &[Op<'_>]) {
    let begin = Op::Begin { path: path("in/new"), size: 300_000, sparse: false };
    let base = Op::Base { content: large().digest() };
    a.ops(&[&[begin, base], ops, &[end(NO_CONTENT, 300_000)]].concat());
}

fn patch(pieces: Vec<Piece<'_>>) -> Op<'_> {
    Op::Patch { id: ChunkId([1; 32]), pieces }
}

fn sign(id: u64, content: FileDigest, ranges: Vec<(u64, u64)>) -> Sign {
    Sign { id, content, signing: Signing::new(64, 3).unwrap(), ranges }
}

fn raw_sign(block_len: u64, signature_len: u64) -> Vec<u8> {
    let mut e = Encoder::new();
    e.put_u8(12);
    e.put_u64(0);
    e.put_raw(&[0; 32]);
    [block_len, signature_len, 0].into_iter().for_each(|v| e.put_u64(v));
    e.finish()
}

/// Bytes of the answer.
fn signatures(a: &Attack, sign: Sign) -> Option<usize> {
    say(&a.link, &Message::Sign(sign));
    match hear(&a.link) {
        Some(Message::Signatures { bytes, .. }) => Some(bytes.len()),
        _ => None,
    }
}

/// Each on a session of its own, after its welcome.
const CASES: &[Case] = &[
    // The stream.
    ("bad magic", Ended, |a| a.stream([b"FSB9".as_slice(), &[0; 16]].concat(), true)),
    ("nothing on the stream", Ended, |a| a.stream(Vec::new(), true)),
    ("half a header", Ended, |a| a.stream(header(a.next())[..9].to_vec(), true)),
    ("no frame", Ended, |a| a.stream(header(a.next()), true)),
    // Batches of several streams.
    ("two stripes", Fine, |a| {
        a.stream([striped(a, 0, 2, 0), frame(&closed(&[]))].concat(), true);
        a.stream(striped(a, 1, 2, 0), true);
    }),
    ("a stripe beyond their number", Ended, |a| a.stream(striped(a, 2, 2, 0), true)),
    ("more stripes than allowed", Ended, |a| a.stream(striped(a, 0, 9, 0), true)),
    ("one stripe of one", Ended, |a| {
        let only = [b"FSB2".as_slice(), &header(a.next())[4..], &[0, 1]].concat();
        a.stream([only, frame(&closed(&[]))].concat(), true);
    }),
    ("no stripe at all", Ended, |a| {
        a.stream([b"FSB2".as_slice(), &header(a.next())[4..], &[0, 0]].concat(), true);
    }),
    ("a batch that begins with its second stripe", Ended, |a| {
        a.stream(striped(a, 1, 2, 0), true);
        a.stream(striped(a, 0, 2, 0), true);
    }),
    ("the same stripe twice", Ended, |a| {
        a.stream([striped(a, 0, 3, 0), frame(&closed(&[]))].concat(), true);
        a.stream(striped(a, 1, 3, 0), true);
        a.stream(striped(a, 1, 3, 0), true);
    }),
    ("a missing stripe", Ended, |a| {
        a.stream([striped(a, 0, 3, 0), frame(&closed(&[]))].concat(), true);
        a.stream(striped(a, 1, 3, 0), true);
        a.stream([header(a.next() + 1), frame(&closed(&[]))].concat(), true);
    }),
    ("a missing stripe, then seal", Ended, |a| {
        a.stream([striped(a, 0, 2, 0), frame(&closed(&[]))].concat(), true);
        std::thread::sleep(Duration::from_millis(100));
        say(&a.link, &Message::Seal(point(a.welcome.root)));
    }),
    ("stripes that do not agree how many they are", Ended, |a| {
        a.stream([striped(a, 0, 2, 0), frame(&closed(&[]))].concat(), true);
        a.stream(striped(a, 1, 3, 0), true);
    }),
    ("a stripe of another batch", Ended, |a| {
        a.stream([striped(a, 0, 2, 0), frame(&closed(&[]))].concat(), true);
        let stripe = Stripe { index: 1, of: 2 };
        let other = BatchHeader { stripe, ..BatchHeader::of(a.next() + 1, Epoch(0)) };
        a.stream(other.to_bytes(), true);
    }),
    ("a stripe that ends early", Ended, |a| {
        a.stream(striped(a, 0, 2, 3), true);
        a.stream(striped(a, 1, 2, 1), true);
    }),
    ("a stripe that is reset", Ended, |a| {
        a.stream([striped(a, 0, 2, 0), frame(&closed(&[]))].concat(), true);
        a.stream(striped(a, 1, 2, 0), false);
    }),
    ("frame of 4 GiB", Ended, |a| {
        let frame = raw_frame(&[], u32::MAX as usize, 0);
        a.stream([header(a.next()), frame].concat(), true);
    }),
    ("stored longer than payload", Ended, |a| {
        a.stream([header(a.next()), raw_frame(&[0; 100], 10, 1)].concat(), true);
    }),
    ("stored is not payload", Ended, |a| {
        a.stream([header(a.next()), raw_frame(&[0; 10], 100, 0)].concat(), true);
    }),
    ("unknown flags", Ended, |a| {
        a.stream([header(a.next()), raw_frame(&[0; 10], 10, 0x82)].concat(), true);
    }),
    ("zstd bomb", Ended, |a| {
        let bomb = zstd::bulk::compress(&vec![0; 512 << 20], 3).unwrap();
        assert!(bomb.len() < 64 << 10);
        a.stream([header(a.next()), raw_frame(&bomb, 4 << 20, 1)].concat(), true);
    }),
    ("zstd that shrinks", Ended, |a| {
        let packed = zstd::bulk::compress(&[0; 1_000], 3).unwrap();
        a.stream([header(a.next()), raw_frame(&packed, 2_000, 1)].concat(), true);
    }),
    ("zstd garbage", Ended, |a| {
        a.stream([header(a.next()), raw_frame(&[0x28; 500], 2_000, 1)].concat(), true);
    }),
    ("zstd with something behind it", Ended, |a| {
        let mut packed = zstd::bulk::compress(&[0; 1_000], 3).unwrap();
        packed.extend([1; 7]);
        a.stream([header(a.next()), raw_frame(&packed, 1_000, 1)].concat(), true);
    }),
    ("frame cut short", Ended, |a| {
        let whole = [header(a.next()), frame(&closed(&[]))].concat();
        a.stream(whole[..whole.len() - 1].to_vec(), true);
    }),
    ("no end of the batch", Ended, |a| a.payload(&encoded(&[put_dir()]))),
    ("wrong count", Ended, |a| {
        a.payload(&[encoded(&[put_dir()]), encoded(&[Op::Close { ops: 2 }])].concat())
    }),
    ("count of all there are", Ended, |a| a.payload(&encoded(&[Op::Close { ops: u64::MAX }]))),
    ("an operation after the last", Ended, |a| {
        a.payload(&[closed(&[]), encoded(&[put_dir()])].concat())
    }),
    ("two ends", Ended, |a| a.payload(&[closed(&[]), closed(&[])].concat())),
    ("unknown operation", Ended, |a| a.payload(&[99, 0, 0])),
    ("operation cut short", Ended, |a| {
        let whole = encoded(&[put_dir()]);
        a.payload(&whole[..whole.len() - 3]);
    }),
    ("operation over two frames", Ended, |a| {
        let whole = closed(&[put_dir()]);
        let (first, second) = whole.split_at(4);
        a.stream([header(a.next()), frame(first), frame(second)].concat(), true);
    }),
    ("garbage frame", Ended, |a| a.payload(&farshore_test_support::Rng::new(9).bytes(9_000))),
    // The order of operations.
    ("chunk without a file", Ended, one!(Op::Literal { bytes: b"x" })),
    ("end without a file", Ended, one!(end(NO_CONTENT, 0))),
    ("abort without a file", Ended, one!(Op::Abort)),
    ("zeros without a file", Ended, one!(Op::Zero { len: 1 })),
    ("file in a file", Ended, built!(Op::Begin { path: path("in/other"), size: 1, sparse: false })),
    ("directory in a file", Ended, built!(put_dir())),
    ("batch ends in a file", Ended, built!()),
    // Paths.
    ("parent", Ended, |a| a.payload(&with_path(b"../outside"))),
    ("parent in between", Ended, |a| a.payload(&with_path(b"in/../../outside"))),
    ("absolute", Ended, |a| a.payload(&with_path(b"/etc/farshore-was-here"))),
    ("empty component", Ended, |a| a.payload(&with_path(b"in//x"))),
    ("dot", Ended, |a| a.payload(&with_path(b"in/./x"))),
    ("trailing slash", Ended, |a| a.payload(&with_path(b"in/x/"))),
    ("NUL", Ended, |a| a.payload(&with_path(b"in/x\0y"))),
    ("name of 256 bytes", Ended, |a| a.payload(&with_path(&[b'x'; 256]))),
    ("endless path", Ended, |a| a.payload(&with_path(&b"d/".repeat(20_000)))),
    ("small file as the root", Ended, |a| a.payload(&with_path(b""))),
    ("into .farshore", Ended, |a| a.payload(&with_path(b".farshore/identity"))),
    ("into the journal", Ended, |a| {
        a.payload(&with_path(b".farshore/journal/00000000000000000009"))
    }),
    ("in place of .farshore", Ended, |a| a.payload(&with_path(b".farshore"))),
    (
        "removal of .farshore",
        Ended,
        one!(Op::Remove { path: path(".farshore/identity"), expected: NOWHERE }),
    ),
    (
        "metadata of .farshore",
        Ended,
        one!(Op::Meta { path: path(".farshore"), entry: directory() }),
    ),
    (
        "move out of .farshore",
        Ended,
        one!(Op::Move {
            from: path(".farshore/identity"),
            expected: NOWHERE,
            to: path("in/new"),
            entry: file(b"x")
        }),
    ),
    (
        "move into .farshore",
        Ended,
        one!(Op::Move {
            from: path("in/a"),
            expected: file(b"alpha").digest(),
            to: path(".farshore/new"),
            entry: file(b"alpha")
        }),
    ),
    (
        "larger file into .farshore",
        Ended,
        one!(Op::Begin { path: path(".farshore/x"), size: 1, sparse: false }),
    ),
    (
        "hard link to .farshore",
        Ended,
        one!(Op::Put { path: path("in/new"), entry: link_to(".farshore/identity") }),
    ),
    ("hard link to the root", Ended, |a| a.payload(&with_leader(b""))),
    ("hard link to outside", Ended, |a| a.payload(&with_leader(b"../outside"))),
    ("hard link to /etc/passwd", Ended, |a| a.payload(&with_leader(b"/etc/passwd"))),
    ("removal of the root", Ended, |a| {
        let mut e = Encoder::new();
        e.put_u8(1);
        e.put_bytes(b"");
        e.put_raw(&[0; 32]);
        a.payload(&[e.finish(), encoded(&[Op::Close { ops: 1 }])].concat());
    }),
    ("file in place of the root", Ended, one!(Op::Put { path: RelPath::root(), entry: file(b"") })),
    (
        "file's metadata for the root",
        Ended,
        one!(Op::Meta { path: RelPath::root(), entry: file(b"") }),
    ),
    (
        "moved directory",
        Ended,
        one!(Op::Move {
            from: path("in"),
            expected: directory().digest(),
            to: path("new"),
            entry: directory()
        }),
    ),
    (
        "moved hard link",
        Ended,
        one!(Op::Move {
            from: path("in/a"),
            expected: NOWHERE,
            to: path("in/new"),
            entry: link_to("in/b")
        }),
    ),
    ("hard link as metadata", Ended, one!(Op::Meta { path: path("in/a"), entry: link_to("in/b") })),
    (
        "through a symbolic link",
        Failed,
        one!(Op::Small { path: path("in/link/x"), entry: file(b"x"), bytes: b"x" }),
    ),
    (
        "below a file",
        Failed,
        one!(Op::Small { path: path("in/a/x"), entry: file(b"x"), bytes: b"x" }),
    ),
    (
        "metadata through a link",
        Failed,
        one!(Op::Meta { path: path("in/link/victim"), entry: file(b"v") }),
    ),
    (
        "move through a link",
        Failed,
        one!(Op::Move {
            from: path("in/link/victim"),
            expected: file(b"v").digest(),
            to: path("in/new"),
            entry: file(b"v")
        }),
    ),
    (
        "hard link through a link",
        Failed,
        one!(Op::Put { path: path("in/new"), entry: link_to("in/link/victim") }),
    ),
    (
        "removal through a link",
        Fine,
        one!(Op::Remove { path: path("in/link/victim"), expected: NOWHERE }),
    ),
    (
        "hard link to nothing",
        Failed,
        one!(Op::Put { path: path("in/new"), entry: link_to("in/none") }),
    ),
    ("hard link to a directory", Failed, one!(Op::Put { path: path("new"), entry: link_to("in") })),
    // Content and claims.
    ("another state expected", Failed, one!(Op::Remove { path: path("in/a"), expected: NOWHERE })),
    ("removal of nothing", Fine, one!(Op::Remove { path: path("in/none"), expected: NOWHERE })),
    ("removal of a full directory", Failed, |a| {
        a.ops(&[Op::Remove { path: path("in"), expected: NOWHERE }])
    }),
    (
        "move of nothing",
        Failed,
        one!(Op::Move {
            from: path("in/none"),
            expected: NOWHERE,
            to: path("in/new"),
            entry: file(b"x")
        }),
    ),
    (
        "move of something else",
        Failed,
        one!(Op::Move {
            from: path("in/a"),
            expected: NOWHERE,
            to: path("in/new"),
            entry: file(b"alpha")
        }),
    ),
    ("metadata of nothing", Failed, one!(Op::Meta { path: path("in/none"), entry: file(b"x") })),
    (
        "metadata with other content",
        Failed,
        one!(Op::Meta { path: path("in/a"), entry: file(b"other") }),
    ),
    (
        "small file, wrong digest",
        Failed,
        one!(Op::Small { path: path("in/a"), entry: file(b"y"), bytes: b"x" }),
    ),
    ("small file, wrong size", Failed, |a| {
        let entry = Entry::File { size: 9, content: FileDigest::of_small(b"x"), meta: meta() };
        a.ops(&[Op::Small { path: path("in/a"), entry, bytes: b"x" }]);
    }),
    ("small file of 1 MiB", Ended, |a| {
        let bytes = vec![1; 1 << 20];
        a.ops(&[Op::Small { path: path("in/a"), entry: file(&bytes), bytes: &bytes }]);
    }),
    ("content nobody has", Failed, |a| {
        let entry = Entry::File { size: 70_000, content: NO_CONTENT, meta: meta() };
        a.ops(&[Op::Reuse { path: path("in/a"), entry }]);
    }),
    ("content of another size", Failed, |a| {
        let entry = Entry::File {
            size: u64::MAX >> 2,
            content: FileDigest::of_small(b"alpha"),
            meta: meta(),
        };
        a.ops(&[Op::Reuse { path: path("in/a"), entry }]);
    }),
    ("file without content", Failed, one!(Op::Put { path: path("in/new"), entry: file(b"x") })),
    (
        "chunk beyond what was announced",
        Failed,
        built!(Op::Literal { bytes: &[1; 11] }, end(NO_CONTENT, 10)),
    ),
    (
        "chunks beyond what was announced",
        Failed,
        built!(
            Op::Literal { bytes: &[1; 10] },
            Op::Literal { bytes: &[1; 1] },
            end(NO_CONTENT, 10)
        ),
    ),
    (
        "zeros beyond what was announced",
        Failed,
        built!(Op::Zero { len: 1 << 62 }, end(NO_CONTENT, 10)),
    ),
    ("empty chunk", Failed, built!(Op::Literal { bytes: b"" }, end(NO_CONTENT, 10))),
    ("zeros of no length", Failed, built!(Op::Zero { len: 0 }, end(NO_CONTENT, 10))),
    ("shorter than announced", Failed, built!(Op::Literal { bytes: b"x" }, end(NO_CONTENT, 1))),
    ("another digest", Failed, built!(Op::Literal { bytes: &[1; 10] }, end(NO_CONTENT, 10))),
    (
        "copy from the end of the world",
        Failed,
        built!(
            Op::Copy {
                from: FileDigest::of_small(b"alpha"),
                offset: i64::MAX as u64,
                len: 10,
                id: ChunkId([1; 32])
            },
            end(NO_CONTENT, 10)
        ),
    ),
    (
        "copy from nothing",
        Failed,
        built!(
            Op::Copy { from: NO_CONTENT, offset: 0, len: 10, id: ChunkId([1; 32]) },
            end(NO_CONTENT, 10)
        ),
    ),
    (
        "copy of no length",
        Failed,
        built!(
            Op::Copy { from: NO_CONTENT, offset: 0, len: 0, id: ChunkId([1; 32]) },
            end(NO_CONTENT, 10)
        ),
    ),
    ("copy of 4 GiB", Ended, |a| {
        let mut e = Encoder::new();
        Op::Begin { path: path("in/new"), size: 1 << 40, sparse: true }.encode(&mut e);
        e.put_u8(9);
        e.put_raw(&[0; 32]);
        e.put_u64(0);
        e.put_u64(u64::from(u32::MAX));
        e.put_raw(&[0; 32]);
        a.payload(&e.finish());
    }),
    (
        "copy of what is not that chunk",
        Failed,
        built!(
            Op::Copy {
                from: FileDigest::of_small(b"alpha"),
                offset: 0,
                len: 5,
                id: ChunkId([1; 32])
            },
            Op::Zero { len: 5 },
            end(NO_CONTENT, 10)
        ),
    ),
    // The second level of the delta.
    ("run without a base", Ended, built!(Op::CopyRun { offset: 0, len: 10 })),
    ("patch without a base", Ended, built!(patch(vec![Piece::New(b"0123456789")]))),
    ("base without a file", Ended, one!(Op::Base { content: NO_CONTENT })),
    ("run without a file", Ended, one!(Op::CopyRun { offset: 0, len: 10 })),
    ("patch without a file", Ended, one!(patch(vec![Piece::New(b"x")]))),
    (
        "run of nothing anybody has",
        Failed,
        built!(
            Op::Base { content: NO_CONTENT },
            Op::CopyRun { offset: 0, len: 10 },
            end(NO_CONTENT, 10)
        ),
    ),
    (
        "run of content without a recipe",
        Failed,
        built!(
            Op::Base { content: FileDigest::of_small(b"alpha") },
            Op::CopyRun { offset: 0, len: 5 },
            Op::Zero { len: 5 },
            end(NO_CONTENT, 10)
        ),
    ),
    ("run between two chunks", Failed, |a| on_large(a, &[Op::CopyRun { offset: 1, len: 10 }])),
    ("run into the middle of a chunk", Failed, |a| {
        on_large(a, &[Op::CopyRun { offset: 0, len: 10 }])
    }),
    ("run beyond its base", Failed, |a| on_large(a, &[Op::CopyRun { offset: 0, len: 1 << 40 }])),
    ("run at the end of the world", Failed, |a| {
        on_large(a, &[Op::CopyRun { offset: i64::MAX as u64, len: i64::MAX as u64 }])
    }),
    ("run of no length", Failed, |a| on_large(a, &[Op::CopyRun { offset: 0, len: 0 }])),
    ("run longer than announced", Failed, |a| {
        on_large(a, &vec![Op::CopyRun { offset: 0, len: 300_000 }; 2])
    }),
    ("patch that is another chunk", Failed, |a| {
        on_large(a, &[patch(vec![Piece::Old { offset: 0, len: 9 }, Piece::New(b"x")])])
    }),
    ("patch beyond its base", Failed, |a| {
        on_large(a, &[patch(vec![Piece::Old { offset: 299_999, len: 2 }])])
    }),
    ("patch from the end of the world", Failed, |a| {
        on_large(a, &[patch(vec![Piece::Old { offset: i64::MAX as u64, len: 4 << 20 }])])
    }),
    ("patch of nothing", Failed, |a| on_large(a, &[patch(Vec::new())])),
    ("patch longer than announced", Failed, |a| {
        on_large(a, &[patch(vec![Piece::Old { offset: 0, len: 300_000 }; 2])])
    }),
    ("patch longer than a chunk", Ended, |a| {
        on_large(a, &[patch(vec![Piece::Old { offset: 0, len: 4 << 20 }; 2])])
    }),
    ("patch of pieces without end", Ended, |a| {
        on_large(a, &[patch(vec![Piece::Old { offset: 0, len: 1 }; 70_000])])
    }),
    ("piece of no length", Ended, |a| on_large(a, &[patch(vec![Piece::New(b"")])])),
    ("zeros of 2^64", Ended, |a| {
        let mut e = Encoder::new();
        Op::Begin { path: path("in/new"), size: 10, sparse: true }.encode(&mut e);
        e.put_u8(10);
        e.put_u64(u64::MAX);
        a.payload(&e.finish());
    }),
    ("file of 2^64", Ended, |a| {
        let mut e = Encoder::new();
        e.put_u8(7);
        e.put_bytes(b"in/new");
        e.put_u64(u64::MAX);
        e.put_u64(1);
        a.payload(&e.finish());
    }),
    ("sparse file of 8 EiB", Failed, |a| {
        let size = i64::MAX as u64;
        let zeros = Extent::Zero { len: size };
        let recipe = Recipe { chunking: ChunkingId::FastCdc64K, extents: vec![zeros] };
        a.ops(&[
            Op::Begin { path: path("in/new"), size, sparse: true },
            Op::Zero { len: size },
            end(recipe.digest(), size),
        ]);
    }),
    ("attribute of the system", Failed, |a| {
        // Refused by name or passed over as degraded: not an end of the session, not a change.
        let pair = (b"user.".to_vec().into_boxed_slice(), b"x".to_vec().into_boxed_slice());
        let meta = Metadata { xattrs: Xattrs::new(vec![pair]).unwrap(), ..meta() };
        a.ops(&[Op::Meta { path: path("in/none"), entry: Entry::Fifo { meta } }]);
    }),
    // Numbers and streams.
    ("batch 0", Ended, |a| a.stream([header(0), frame(&closed(&[]))].concat(), true)),
    ("batch applied already", Ended, |a| {
        a.ops(&[]);
        assert_eq!(a.outcome(), Fine, "an empty batch is nothing");
        a.ops(&[]);
    }),
    ("one number twice", Ended, |a| {
        for _ in 0..2 {
            a.stream([header(a.next() + 1), frame(&closed(&[]))].concat(), true);
        }
    }),
    ("batch of another epoch, then seal", Ended, |a| {
        let far = BatchHeader::of(u64::MAX, Epoch(u64::MAX)).to_bytes();
        a.stream([far, frame(&closed(&[]))].concat(), true);
        std::thread::sleep(Duration::from_millis(100));
        say(&a.link, &Message::Seal(point(a.welcome.root)));
    }),
    ("seal with a batch under way", Ended, |a| {
        let mut stream = a.link.open_bulk().unwrap();
        stream.write(Bytes::from(header(a.next()))).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        say(&a.link, &Message::Seal(point(a.welcome.root)));
        assert_eq!(a.outcome(), Ended);
        drop(stream);
    }),
    ("100 batches under way", Ended, |a| {
        for batch in 0..100 {
            a.stream([header(a.next() + 1 + batch), frame(&closed(&[]))].concat(), true);
        }
    }),
    ("stream reset", Ended, |a| {
        a.stream([header(a.next()), frame(&encoded(&[put_dir()]))].concat(), false);
        std::thread::sleep(Duration::from_millis(50));
        a.link.close(CloseCode::Done as u32, "");
    }),
    ("leaves with batches under way", Ended, |a| {
        a.stream([header(a.next() + 3), frame(&closed(&[]))].concat(), true);
        say(&a.link, &Message::Goodbye);
    }),
    // Messages.
    ("garbage message", Ended, |a| {
        raw_control(&a.link, farshore_test_support::Rng::new(4).bytes(300))
    }),
    ("empty message", Ended, |a| raw_control(&a.link, Vec::new())),
    ("unknown message", Ended, |a| raw_control(&a.link, vec![77])),
    ("message with more behind it", Ended, |a| {
        raw_control(&a.link, [Message::Goodbye.to_bytes(), vec![0]].concat());
    }),
    ("garbage of 4 MiB", Ended, |a| raw_control(&a.link, vec![0xff; 4 << 20])),
    ("second hello", Ended, |a| say(&a.link, &hello("share", (1, 1), 0))),
    ("welcome from the source", Ended, |a| say(&a.link, &Message::Welcome(a.welcome.clone()))),
    ("receipt from the source", Ended, |a| say(&a.link, &Message::Receipt(Receipt::default()))),
    ("answer from the source", Ended, |a| {
        say(&a.link, &Message::Answer(Answer::Children { last: true, children: Vec::new() }));
    }),
    ("sealed by the source", Ended, |a| say(&a.link, &Message::Sealed(point(a.welcome.root)))),
    ("checking from the source", Ended, |a| say(&a.link, &Message::Checking(1))),
    ("refused by the source", Ended, |a| {
        say(&a.link, &Message::Refused { code: 0, text: "\u{1b}[2J".into() })
    }),
    ("queries without end", Ended, |a| {
        let mut e = Encoder::new();
        e.put_u8(5);
        e.put_u64(u64::MAX);
        raw_control(&a.link, e.finish());
    }),
    ("query of outside", Ended, |a| {
        let mut e = Encoder::new();
        e.put_u8(5);
        e.put_u64(1);
        e.put_bytes(b"../..");
        e.put_u8(0);
        raw_control(&a.link, e.finish());
    }),
    ("query of nothing", Fine, |a| {
        say(
            &a.link,
            &Message::Compare(vec![Query { directory: path("in/none/at/all"), bucket: Some(3) }]),
        );
    }),
    ("signatures from the source", Ended, |a| {
        say(&a.link, &Message::Signatures { id: 0, bytes: Vec::new() })
    }),
    ("signatures of nothing anybody has", Fine, |a| {
        assert_eq!(signatures(a, sign(0, NO_CONTENT, vec![(0, 4 << 20)])), Some(0));
        a.ops(&[]);
    }),
    ("signatures beyond the content", Fine, |a| {
        let content = large().digest();
        assert_eq!(signatures(a, sign(0, content, vec![(0, 300_001)])), Some(0));
        assert_eq!(signatures(a, sign(1, content, vec![(i64::MAX as u64, 1)])), Some(0));
        assert_eq!(signatures(a, sign(7, content, vec![(1, 4_096), (0, 63)])), Some(192));
        a.ops(&[]);
    }),
    ("signatures of a number used before", Ended, |a| {
        (0..2).for_each(|_| say(&a.link, &Message::Sign(sign(5, NO_CONTENT, Vec::new()))));
    }),
    ("signatures of too much", Ended, |a| {
        say(&a.link, &Message::Sign(sign(0, NO_CONTENT, vec![(0, 4 << 20), (0, 1)])));
    }),
    ("signatures of ranges without end", Ended, |a| {
        say(&a.link, &Message::Sign(sign(0, NO_CONTENT, vec![(0, 1); 4_097])));
    }),
    ("signatures of blocks of one byte", Ended, |a| raw_control(&a.link, raw_sign(1, 3))),
    ("signatures of blocks of 2^60", Ended, |a| raw_control(&a.link, raw_sign(1 << 60, 3))),
    ("signatures of no bytes", Ended, |a| raw_control(&a.link, raw_sign(64, 0))),
    ("signatures of 8 bytes", Ended, |a| raw_control(&a.link, raw_sign(64, 8))),
    ("flood of requests to sign, answers not read", Ended, |a| {
        within(&a.link, Duration::from_secs(2), CloseCode::Internal, "flooded", || {
            for id in 0..20_000 {
                let ranges = vec![(0, 1_000); 4_096];
                let message = Message::Sign(sign(id, large().digest(), ranges)).to_bytes();
                if a.link.send_control(Bytes::from(message)).is_err() {
                    break;
                }
            }
        });
    }),
    ("seal with a request under way", Ended, |a| {
        // Enough of them that the last is not answered when the seal comes.
        for id in 0..100 {
            say(&a.link, &Message::Sign(sign(id, large().digest(), vec![(0, 300_000); 13])));
        }
        say(&a.link, &Message::Seal(point(a.welcome.root)));
    }),
    ("flood of queries, answers not read", Ended, |a| {
        let all = vec![Query { directory: RelPath::root(), bucket: None }; 1_024];
        let flood = Bytes::from(Message::Compare(all).to_bytes());
        within(&a.link, Duration::from_secs(2), CloseCode::Internal, "flooded", || {
            for _ in 0..20_000 {
                if a.link.send_control(flood.clone()).is_err() {
                    break;
                }
            }
        });
    }),
    ("seal of another root", Fine, |a| say(&a.link, &Message::Seal(point(RootDigest([9; 32]))))),
    ("control stream ended", Ended, |a| a.link.finish_control().unwrap()),
];

pub(crate) fn put_dir() -> Op<'static> {
    // As it is already, so that it would change nothing were it applied.
    Op::Put { path: path("in"), entry: directory() }
}

pub(crate) fn site() -> Site {
    let site = Site::new();
    std::fs::create_dir(site.path("outside")).unwrap();
    std::fs::write(site.path("outside/victim"), "v").unwrap();
    std::fs::create_dir(site.source.join("in")).unwrap();
    std::fs::write(site.source.join("in/a"), "alpha").unwrap();
    std::fs::write(site.source.join("in/b"), "beta").unwrap();
    std::os::unix::fs::symlink(site.path("outside"), site.source.join("in/link")).unwrap();
    std::fs::write(site.source.join("large"), farshore_test_support::Rng::new(1).bytes(300_000))
        .unwrap();
    site
}

/// The honest source, which may have to wait a moment for the share.
#[track_caller]
pub(crate) fn honest(site: &Site, server: &Server) {
    let start = Instant::now();
    loop {
        let out = site.remote(server.port(), &["--approve", "--json"]);
        if out.status.code() == Some(0) {
            let object = crate::common::json(&out);
            assert_eq!(object["problems"].as_array().map(Vec::len), Some(0), "{object:#}");
            return;
        }
        let busy = shown(&out).contains("in use by another session");
        assert!(busy && start.elapsed() < SOON, "{}\n{}", shown(&out), server.log());
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[track_caller]
pub(crate) fn assert_sound(site: &Site, server: &mut Server, memory: u64) {
    assert!(server.is_alive(), "{}", server.log());
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains('\u{1b}'), "{log}");
    let (_, highest) = server.memory();
    assert!(highest < memory, "{} MiB", highest >> 20);
    assert_equal_trees(&site.source, &site.target);
    let outside: Vec<_> = std::fs::read_dir(site.path("outside")).unwrap().collect();
    assert_eq!(outside.len(), 1);
    assert_eq!(std::fs::read(site.path("outside/victim")).unwrap(), b"v");
}

#[test]
fn a_hostile_source_gets_nowhere() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    let memory = server.memory().1 + MEMORY;
    let mut wrong = Vec::new();
    for (number, (name, expected, attack)) in CASES.iter().enumerate() {
        let start = Instant::now();
        let end = Attack::begin(&site, &server);
        attack(&end);
        let outcome = end.outcome();
        drop(end);
        if outcome != *expected {
            wrong.push(format!("{name}: {outcome:?}, not {expected:?}"));
        }
        if start.elapsed() > SOON {
            wrong.push(format!("{name}: took {:?}", start.elapsed()));
        }
        let sound = catch_unwind(AssertUnwindSafe(|| {
            assert_sound(&site, &mut server, memory);
            // A whole session each time would only show the same again.
            if number % 4 == 0 {
                honest(&site, &server);
            }
        }));
        assert!(sound.is_ok(), "after '{name}': {}", server.log());
    }
    honest(&site, &server);
    assert_sound(&site, &mut server, memory);
    println!("{} hostile sequences, {} MiB at most", CASES.len(), server.memory().1 >> 20);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", server.log());
}

/// A source that heard of its seal closes the link, or never does, in the second or third session with that server: it is over
/// either way.
pub(crate) fn leaves(server: &Server, link: &QuicLink, closes: bool) {
    if closes {
        link.close(CloseCode::Done as u32, "");
    }
    let over = if closes { 2 } else { 3 };
    let start = Instant::now();
    while server.log().matches("session over").count() < over {
        assert!(start.elapsed() < SOON, "closes: {closes}: {}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!server.log().contains("session failed"), "{}", server.log());
}

/// A source that closes as soon as all is sealed, or is not heard of any more, leaves a session that is
/// over: the share is free for others at the latest when it had time enough to leave.
#[test]
fn a_share_is_given_back_when_all_is_sealed_whatever_the_source_does() {
    let site = site();
    let server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    for closes in [true, false] {
        let end = Attack::begin(&site, &server);
        say(&end.link, &Message::Seal(point(end.welcome.root)));
        let sealed = within(&end.link, SOON, CloseCode::Internal, "", || hear(&end.link));
        assert!(matches!(sealed, Some(Message::Sealed(_))), "{sealed:?}");
        leaves(&server, &end.link, closes);
    }
}

#[test]
fn a_first_message_that_is_no_good_hello_is_the_last() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    let long = {
        let mut e = Encoder::new();
        e.put_u8(1);
        e.put_u64(1);
        e.put_u64(1);
        e.put_bytes(&[b'x'; 129]);
        e.put_raw(&[0; 16]);
        e.put_u64(0);
        e.put_u8(0);
        e.finish()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("later versions", hello("share", (PROTOCOL_VERSION + 1, 9), 0).to_bytes()),
        ("versions the wrong way round", hello("share", (9, 0), 0).to_bytes()),
        ("unknown share", hello("other", (1, 1), 0).to_bytes()),
        ("no share", hello("", (1, 1), 0).to_bytes()),
        ("share that is a path", hello("../share", (1, 1), 0).to_bytes()),
        ("share that moves a terminal", hello("\u{1b}[2J\u{202e}\n", (1, 1), 0).to_bytes()),
        ("share of 129 bytes", long),
        ("goodbye", Message::Goodbye.to_bytes()),
        ("seal", Message::Seal(point(RootDigest([0; 32]))).to_bytes()),
        ("query", Message::Compare(Vec::new()).to_bytes()),
        ("garbage", vec![0xff; 4_000]),
        ("nothing", Vec::new()),
    ];
    for (name, bytes) in &cases {
        let link = connect(&site, &server);
        // A batch before the hello is a batch of no session.
        if let Ok(mut stream) = link.open_bulk() {
            stream.write(Bytes::from([header(1), frame(&closed(&[]))].concat())).unwrap_or(());
            stream.finish().unwrap_or(());
        }
        raw_control(&link, bytes.clone());
        assert_eq!(outcome(&link), Ended, "{name}");
    }
    assert_sound(&site, &mut server, MEMORY);
    honest(&site, &server);
}

#[test]
fn policies_that_are_none_or_come_at_the_wrong_time_end_the_session() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    let policies = |names: &[&str]| {
        let mut e = Encoder::new();
        e.put_u8(14);
        e.put_raw(&[0; 32]);
        e.put_u64(names.len() as u64);
        for name in names {
            e.put_bytes(name.as_bytes());
            e.put_raw(&[0; 96]);
        }
        e.finish()
    };
    let begun = policies(&["a"]);
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("more than there may be", vec![policies(&["a"; 17])]),
        ("a name that moves a terminal", vec![policies(&["\u{1b}[2J"])]),
        ("no name", vec![policies(&[""])]),
        ("cut off", vec![begun[..begun.len() - 1].to_vec()]),
        ("more behind it", vec![[&begun[..], &[0]].concat()]),
        ("twice", vec![begun.clone(), begun.clone()]),
        ("a query before it", vec![Message::Compare(Vec::new()).to_bytes()]),
        ("a seal before it", vec![Message::Seal(point(RootDigest([0; 32]))).to_bytes()]),
        ("goodbye before it", vec![Message::Goodbye.to_bytes()]),
    ];
    for (name, messages) in cases {
        let attack = Attack::speaking(PROTOCOL_VERSION, &site, &server);
        attack.ops(&[]);
        for message in messages {
            raw_control(&attack.link, message);
        }
        assert_eq!(attack.outcome(), Ended, "{name}");
    }
    let attack = Attack::speaking(2, &site, &server);
    raw_control(&attack.link, begun);
    assert_eq!(attack.outcome(), Ended, "version 2 knows of none");
    assert_sound(&site, &mut server, MEMORY);
    honest(&site, &server);
}

#[test]
fn pieces_that_are_dealt_wrongly_end_the_session() {
    type Case = (&'static str, u16, fn(&Attack));
    const CASES: [Case; 5] = [
        ("in the version before", PIECES_VERSION - 1, |a| {
            a.stream(dealt(a, 0, &frame(&closed(&[]))), true);
            a.stream(dealt(a, 1, &[]), true);
        }),
        ("they end early", PIECES_VERSION, |a| {
            a.stream(dealt(a, 0, &[0; PIECE_BYTES]), true);
            a.stream(dealt(a, 1, &[]), true);
        }),
        ("a stripe of frames beside one of pieces", PIECES_VERSION, |a| {
            a.stream(dealt(a, 0, &frame(&closed(&[]))), true);
            a.stream(striped(a, 1, 2, 0), true);
        }),
        ("one goes on where another ended", PIECES_VERSION, |a| {
            a.stream(dealt(a, 0, &frame(&[])), true);
            a.stream(dealt(a, 1, &frame(&[])), true);
        }),
        ("a frame that is longer than there is", PIECES_VERSION, |a| {
            a.stream(dealt(a, 0, &raw_frame(&[0; 100], 1 << 20, 1)), true);
            a.stream(dealt(a, 1, &[0; 100]), true);
        }),
    ];
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    for (name, version, case) in CASES {
        let attack = Attack::speaking(version, &site, &server);
        say(&attack.link, &Message::Policies(PolicySet::default()));
        case(&attack);
        assert_eq!(attack.outcome(), Ended, "{name}");
    }
    assert_sound(&site, &mut server, MEMORY);
    honest(&site, &server);
}

#[test]
fn who_stays_is_shown_out() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    // Silent from the start, and many of them.
    let silent: Vec<_> = (0..20).map(|_| connect(&site, &server)).collect();
    // Told that it broke a rule, it stays: at the control stream, at a batch, and not reading.
    for number in 0..3 {
        let stays = Attack::begin(&site, &server);
        let stream = stays.link.open_bulk().map(|mut stream| {
            stream.write(Bytes::from(header(stays.next()))).unwrap();
            stream
        });
        match number {
            0 => raw_control(&stays.link, vec![99]),
            1 => stays.stream(b"no batch at all, that is".to_vec(), true),
            _ => {
                let all = vec![Query { directory: RelPath::root(), bucket: None }; 1_024];
                let flood = Bytes::from(Message::Compare(all).to_bytes());
                stays.stream(b"no batch at all, that is".to_vec(), true);
                within(&stays.link, Duration::from_secs(7), CloseCode::Internal, "", || {
                    while stays.link.send_control(flood.clone()).is_ok() {}
                });
            }
        }
        let start = Instant::now();
        honest(&site, &server);
        println!("the share was free after {:?}", start.elapsed());
        drop(stream);
    }
    let ended = silent.into_iter().all(|link| {
        within(&link, Duration::from_secs(15), CloseCode::Internal, "", || {
            let start = Instant::now();
            while matches!(link.recv_control(), Ok(Some(_))) {}
            start.elapsed() < Duration::from_secs(14)
        })
    });
    assert!(ended, "silent links live on");
    assert_sound(&site, &mut server, MEMORY);
}

#[test]
fn memory_does_not_follow_the_number_of_chunks() {
    let site = site();
    let mut server = site.serve(0);
    expect(&site.remote(server.port(), &[]), 0, &[]);
    let before = server.memory().1;
    let attack = Attack::begin(&site, &server);
    // 24 MiB of chunks of one byte, 8 million of them: each would be 40 bytes of a recipe.
    let mut e = Encoder::new();
    for _ in 0..80_000 {
        Op::Literal { bytes: b"x" }.encode(&mut e);
    }
    let chunks = frame(&e.finish());
    let mut stream = attack.link.open_bulk().unwrap();
    let begin = encoded(&[Op::Begin { path: path("in/new"), size: 1 << 40, sparse: true }]);
    stream.write(Bytes::from([header(attack.next()), frame(&begin)].concat())).unwrap();
    for _ in 0..100 {
        if stream.write(Bytes::from(chunks.clone())).is_err() {
            break;
        }
    }
    drop(stream);
    drop(attack);
    honest(&site, &server);
    let after = server.memory().1;
    println!("{} MiB before, {} MiB at most", before >> 20, after >> 20);
    assert!(after - before < 100 << 20, "{} MiB more", (after - before) >> 20);
    assert_sound(&site, &mut server, MEMORY);
}

#[test]
fn a_dead_source_does_not_hold_the_share_and_another_source_does_not_get_it() {
    let site = site();
    let server = site.serve(0);
    let attack = Attack::begin(&site, &server);
    // The same key, another catalog: a session in progress is nobody else's to end.
    let out = site.remote(server.port(), &[]);
    expect(&out, 9, &["in use by another session"]);
    // The same key and catalog: the former session's process is gone.
    let later = Attack::begin(&site, &server);
    assert_eq!(attack.outcome(), Ended);
    drop((attack, later));
    honest(&site, &server);
    let _header_is_public = FrameHeader { stored_len: 0, payload_len: 0, compressed: false };
}
