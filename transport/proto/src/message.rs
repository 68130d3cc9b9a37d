//! Control messages: what the two ends say to each other beside the batches.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::delta::{SIGNED_LEN_MAX, Signing};
use farshore_core::digest::{BUCKETS, Child, DirectoryDigest, RootDigest};
use farshore_core::entry::{Entry, decode_path};
use farshore_core::limits::FILE_SIZE_MAX;
use farshore_core::path::RelPath;
use farshore_core::policy::PolicySet;
use farshore_core::recipe::{ChunkId, FileDigest};
use farshore_core::recovery_point::{Epoch, RecoveryPoint};

mod ahead;
mod beat;
mod call;
mod encoding;
mod holds;

pub use ahead::{AHEAD_EXTENTS_MAX, AHEAD_LIST_MAX, AHEAD_MAX, BEHIND_MAX, Behind, HELD_LEN_MAX};
pub use beat::{Beat, Unsealed};
pub use call::{Call, Purpose};
use encoding::{
    cut, decode_answer, decode_events, decode_queries, decode_receipt, decode_sign, decode_welcome,
    encode_answer, encode_events, encode_receipt, encode_sign, encode_welcome, put_text,
    put_versions, take_bool, take_versions,
};
pub use holds::{HOLD_ID_MAX, HOLD_TEXT_MAX, HOLDS_MAX, Held, Holds};

/// The version of the protocol this build speaks. 2 adds signatures, bases, runs and patches, batches
/// of several streams, and a source that closes when it has heard that all is sealed; 3 adds the
/// policies in force; 4 adds sessions that stand, targets that dial, marks, and what other hosts saw
/// change; 5 adds what two sites say of roles, links that one asks the other for, beats, and files that a
/// standby has no room for; 6 adds content that is carried ahead of its cut; 7 adds seals that do not wait for
/// receipts; 8 adds batches that are dealt to their streams in pieces. With a peer that speaks less they are left out.
pub const PROTOCOL_VERSION: u16 = 8;

/// The lowest version this build still speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;

/// The version from which on the second level of the delta is spoken.
pub const DELTA_VERSION: u16 = 2;

/// The version from which on a batch may lie on several streams.
pub const STRIPES_VERSION: u16 = 2;

/// The version from which on a source may close the link, with code 0, once it has heard of its seal:
/// it need not say goodbye first.
pub const LEAVE_VERSION: u16 = 2;

/// The version from which on a source says which policies are in force before anything else.
pub const POLICIES_VERSION: u16 = 3;

/// The version from which on a session may go on after its seal, and a target may dial.
pub const STANDING_VERSION: u16 = 4;

/// The version from which on two sites speak of roles.
pub const ROLES_VERSION: u16 = 5;

/// The version from which on ends that stand say beats, and what a standby has no room for.
pub const BEATS_VERSION: u16 = 5;

/// The version from which on content may be carried ahead of the cut it is for.
pub const AHEAD_VERSION: u16 = 6;

/// The version from which on a recovery point may be named while its last batches are under way.
pub const SEAL_BEHIND_VERSION: u16 = 7;

/// The version from which on a batch may be dealt to its streams in pieces, see [`crate::batch::Deal`].
pub const PIECES_VERSION: u16 = 8;

/// The version from which on offers, reports and what sites say of roles are as they are now.
pub const SITES_VERSION: u16 = 6;

/// Whether an offer, a report or a talk of somebody who speaks these versions is understood here.
#[must_use]
pub fn understands_sites((lowest, highest): (u16, u16)) -> bool {
    lowest <= highest && lowest <= PROTOCOL_VERSION && highest >= SITES_VERSION
}

/// Longest word of a site about its role in a share, in bytes.
pub const SAY_LEN_MAX: usize = 4_096;

/// Most bytes of one [`Message::Part`].
pub const PART_LEN_MAX: usize = 1 << 20;

/// Longest name of a share in bytes.
pub const SHARE_NAME_MAX: usize = 128;

/// Longest text for people in a message, in bytes.
pub const TEXT_MAX: usize = 1_024;

/// Longest label of a mark in bytes.
pub const LABEL_MAX: usize = 256;

/// Longest name of a host that reports changes, in bytes.
pub const NODE_NAME_MAX: usize = 128;

/// Longest announcement of keys in bytes.
pub const KEYS_LEN_MAX: usize = 4_096;

/// Longest path of a share's folder in bytes.
pub const PATH_MAX: usize = 4_096;

/// Most directories one [`Message::Events`] names.
pub const EVENTS_MAX: usize = 4_096;

/// Most failures one receipt lists; a batch never has more operations.
pub const BATCH_OPS_MAX: usize = 65_536;

/// What one failure takes of a receipt at most beside its path, with one missing chunk and no text.
pub const FAILURE_COST: usize = 40;

/// Most bytes that the paths of a batch have together, each with [`FAILURE_COST`]: one receipt can
/// name them all.
pub const BATCH_NAMES_MAX: usize = 3 << 20;

/// Most missing chunks one receipt lists beyond the first of each failure.
pub const MISSING_CHUNKS_MAX: usize = 8_192;

/// Most kinds of facts not kept that one receipt lists.
const DEGRADED_MAX: usize = 64;

/// What a receipt takes at most beside its failures.
const RECEIPT_REST: usize = DEGRADED_MAX * (TEXT_MAX + 16) + 64;

const _: () = {
    let fixed = BATCH_NAMES_MAX + 32 * MISSING_CHUNKS_MAX + RECEIPT_REST;
    // Room for a word about each of the most failures.
    assert!(fixed + 8 * BATCH_OPS_MAX <= crate::link::CONTROL_MESSAGE_MAX);
    assert!(FAILURE_COST * BATCH_OPS_MAX <= BATCH_NAMES_MAX);
};

/// Most directories one [`Message::Compare`] asks for.
pub const COMPARE_QUERIES_MAX: usize = 1_024;

/// Most children one [`Message::Answer`] carries; further ones follow in the next answer.
pub const ANSWER_CHILDREN_MAX: usize = 4_096;

/// Directories with more children than this are answered by buckets.
pub const WIDE: usize = 4_096;

/// Most children of one bucket: a directory of a hundred million has half of that.
pub const BUCKET_CHILDREN_MAX: usize = 1 << 20;

/// Most ranges one [`Message::Sign`] names.
pub const SIGN_RANGES_MAX: usize = 4_096;

/// Bytes of one answer at most, whatever the lengths of blocks and signatures.
#[allow(clippy::cast_possible_truncation)] // 4 MiB
pub const SIGNATURES_LEN_MAX: usize =
    SIGNED_LEN_MAX as usize / farshore_core::delta::BLOCK_LEN_MIN * 6;

const _: () = assert!(SIGNATURES_LEN_MAX < crate::link::CONTROL_MESSAGE_MAX);

/// Identity of one catalog or tree: random, made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

/// What the target tells of itself when it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version spoken from here on.
    pub version: u16,
    /// The target tree's identity, kept beside the tree.
    pub target: StoreId,
    /// The source this tree was last sealed with, or begun by while it was empty.
    pub sealed_with: Option<StoreId>,
    /// The epoch in force at the target.
    pub epoch: Epoch,
    /// Batches up to this number are applied.
    pub applied_batch: u64,
    /// R of what the target holds now.
    pub root: RootDigest,
    /// Entries it holds, the root not counted.
    pub entries: u64,
    /// Entries that changed at the target behind our back, found by its check.
    pub foreign_changes: u64,
    /// The last recovery point.
    pub recovery_point: Option<RecoveryPoint>,
}

/// Which part of a directory a comparison asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The directory.
    pub directory: RelPath,
    /// One bucket of its names; `None` for all, or the buckets' digests if it is wide.
    pub bucket: Option<u8>,
}

/// What the target holds of a queried directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Children in name order.
    Children {
        /// Whether this ends the answer to the query.
        last: bool,
        /// The children.
        children: Vec<Child>,
    },
    /// One digest a bucket: the directory is wide.
    Buckets(Box<[DirectoryDigest; BUCKETS]>),
}

/// Why one operation of a batch was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// The target lacks the basis: these chunks, or all of the content when none is named. To be
    /// sent again without them.
    Basis(Vec<ChunkId>),
    /// The target's system refused; the text says what and why.
    Refused,
    /// There is no room for it; in a session that stands alone.
    NoSpace {
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
}

/// One operation that was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its path.
    pub path: RelPath,
    /// Why.
    pub kind: FailureKind,
    /// The target's words.
    pub text: String,
}

/// Everything of a batch but its failures is durable at the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// The batch.
    pub batch: u64,
    /// What was not applied.
    pub failures: Vec<Failure>,
    /// Facts the target's mount could not keep (an attribute, an owner), by what it was.
    pub degraded: Vec<(String, u64)>,
}

impl Receipt {
    /// The same in no more bytes than a message has. Every failure stays; texts are cut, and of
    /// missing chunks the first ones stay: the source asks again without them and is told the rest.
    /// Holds for what paths a batch within [`BATCH_NAMES_MAX`] has.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let mut spare = MISSING_CHUNKS_MAX;
        let mut taken = RECEIPT_REST;
        for failure in &mut self.failures {
            taken += failure.path.as_bytes().len() + FAILURE_COST;
            if let FailureKind::Basis(chunks) = &mut failure.kind {
                chunks.truncate(spare + 1);
                let further = chunks.len().saturating_sub(1);
                spare -= further;
                taken += 32 * further;
            }
        }
        self.degraded.truncate(DEGRADED_MAX);
        let room = crate::link::CONTROL_MESSAGE_MAX.saturating_sub(taken);
        let each = room / self.failures.len().max(1);
        for failure in &mut self.failures {
            let len = cut(&failure.text, each).len();
            failure.text.truncate(len);
        }
        self
    }
}

/// What blocks are to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// Comes back with the answer; numbers rise.
    pub id: u64,
    /// Content the target holds.
    pub content: FileDigest,
    /// Lengths of blocks and signatures.
    pub signing: Signing,
    /// Stretches of the content, offset and length in bytes; together at most [`SIGNED_LEN_MAX`].
    pub ranges: Vec<(u64, u64)>,
}

impl Sign {
    /// Bytes of the signatures it asks for.
    #[must_use]
    pub fn answer_len(&self) -> u64 {
        self.ranges.iter().map(|&(_, len)| self.signing.signed_len(len)).sum()
    }
}

/// A control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Source: opens the session.
    Hello {
        /// Versions the source speaks, lowest and highest.
        versions: (u16, u16),
        /// The share.
        share: String,
        /// The source catalog's identity.
        source: StoreId,
        /// The epoch the source acts under.
        epoch: Epoch,
        /// Whether the target may skip checking its tree by stat.
        trust_target: bool,
    },
    /// Target: ready.
    Welcome(Welcome),
    /// Target: still checking; so many entries so far.
    Checking(u64),
    /// Target: will not serve this; the connection ends.
    Refused {
        /// A [`crate::close::CloseCode`] as a number.
        code: u32,
        /// For people.
        text: String,
    },
    /// Source: asks for directories whose digests differ.
    Compare(Vec<Query>),
    /// Target: answers the oldest query not yet answered.
    Answer(Answer),
    /// Target: a batch is applied.
    Receipt(Receipt),
    /// Source: all is sent and acknowledged; this is the point the target shall reach.
    Seal(RecoveryPoint),
    /// Source, since version 7: all is sent, and nothing failed so far; this is the point the target shall reach
    /// with the batches up to that number, if every one of the cut is applied whole.
    SealBehind {
        /// The last batch of the cut.
        batch: u64,
        /// The point.
        point: RecoveryPoint,
    },
    /// Target: reached and recorded.
    Sealed(RecoveryPoint),
    /// Target: its root differs from what the source expects, or a batch was not applied whole that a seal is behind;
    /// nothing is recorded.
    SealMismatch(RootDigest),
    /// Either: the session is over.
    Goodbye,
    /// Source, since version 2: asks for signatures of blocks of content the target holds.
    Sign(Sign),
    /// Target, since version 2: answers the oldest [`Message::Sign`] not yet answered.
    Signatures {
        /// The request's number.
        id: u64,
        /// The signatures of each range's whole blocks, range by range; nothing when the content is
        /// not there as it was.
        bytes: Vec<u8>,
    },
    /// Source, since version 3, first after the welcome: the policies that decide about this cut; since
    /// version 4 also between two cuts, when they change.
    Policies(PolicySet),
    /// Source, since version 4, behind the policies: further cuts follow each seal, until one end leaves.
    Standing,
    /// Source, since version 4, behind a seal: the recovery point of that number has this label.
    Mark {
        /// The point's sequence.
        sequence: u64,
        /// For people, and for tools that align the point with something else.
        label: String,
    },
    /// Target that dialed, since version 4, first of all: it stands ready for a source of this share.
    Offer {
        /// Versions the target speaks, lowest and highest.
        versions: (u16, u16),
        /// The share.
        share: String,
    },
    /// Target, since version 4, in a session that stands: so many entries were found to be other than
    /// they were applied, and are no longer held as such. The two ends are to be compared.
    Foreign(u64),
    /// A host that sees the same tree, since version 4, first of all: it reports what it sees change.
    Report {
        /// Versions it speaks, lowest and highest.
        versions: (u16, u16),
        /// The share.
        share: String,
        /// The host's name.
        node: String,
    },
    /// That host: directories in which something changed.
    Events(Events),
    /// Source: asks that host for all that was changed before it hears this; the host's answer, with the
    /// same number, behind those events.
    Sync(u64),
    /// Source: events up to this number are durable at the source.
    Heard(u64),
    /// Either, since version 4, in a session that stands and over the link of a host that reports: what this
    /// end says of its keys, at most [`KEYS_LEN_MAX`] bytes. The source says it, the target answers with its
    /// own.
    Keys(Vec<u8>),
    /// Source, since version 4, in a session that stands, between two cuts: what its brake holds.
    Holds(Holds),
    /// The site that dials, since version 5, first of all: both speak of their roles over this link, for as
    /// long as it stands.
    Talk {
        /// Versions it speaks, lowest and highest.
        versions: (u16, u16),
        /// Its name.
        site: String,
    },
    /// Either, over such a link: what it says of its role in a share, at most [`SAY_LEN_MAX`] bytes.
    Say {
        /// The share.
        share: String,
        /// As `farshore_core::role` has it.
        said: Vec<u8>,
    },
    /// The site that does not dial, over such a link: asks for a link of its own.
    Ask(Call),
    /// The site that dials, since version 5, first of all: the link that was asked for, or one of its own will.
    Call(Call),
    /// Source, since version 6, in a session that stands: asks what content the target holds ahead.
    Ahead {
        /// What of it is still wanted, at most [`AHEAD_MAX`]; anything else is removed first. `None` for
        /// all of it.
        keep: Option<Vec<FileDigest>>,
    },
    /// Target: of content it holds ahead, a piece of its recipe.
    Held {
        /// The content: of a file that did not arrive whole, of what did.
        content: FileDigest,
        /// Whether it arrived whole.
        whole: bool,
        /// Whether the recipe ends with this piece.
        last: bool,
        /// At most [`HELD_LEN_MAX`] bytes of the recipe's encoding.
        bytes: Vec<u8>,
    },
    /// Target: that was all it holds ahead, so many contents; the answer to one [`Message::Ahead`].
    Listed(u64),
    /// Target: the stream of that number, by which content was carried ahead, has ended. Without a failure
    /// what it brought is durable.
    Carried(Receipt),
    /// Source, since version 6, in a session that stands, before a seal, if they are others than those of the
    /// seal before, or of none: accounts that the point does not have as at its time.
    Behind(Behind),
    /// Either, over a link that was called for: a piece of what is carried.
    Part {
        /// Whether it ends.
        last: bool,
        /// At most [`PART_LEN_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// Either, since version 5, in a session that stands: that it is there. The source says it between two
    /// cuts, the target answers each with its own.
    Beat(Beat),
}

/// What a host saw change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Numbers rise, from 1 on.
    pub number: u64,
    /// Why not all of what changed before is known, if so.
    pub lost: Option<String>,
    /// Directories, and whether all below them is meant; at most [`EVENTS_MAX`].
    pub parts: Vec<(RelPath, bool)>,
}

impl Message {
    /// A short name for errors and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Welcome(_) => "welcome",
            Self::Checking(_) => "checking",
            Self::Refused { .. } => "refused",
            Self::Compare(_) => "compare",
            Self::Answer(_) => "answer",
            Self::Receipt(_) => "receipt",
            Self::Seal(_) => "seal",
            Self::SealBehind { .. } => "seal behind",
            Self::Sealed(_) => "sealed",
            Self::SealMismatch(_) => "seal mismatch",
            Self::Goodbye => "goodbye",
            Self::Sign(_) => "sign",
            Self::Signatures { .. } => "signatures",
            Self::Policies(_) => "policies",
            Self::Standing => "standing",
            Self::Mark { .. } => "mark",
            Self::Offer { .. } => "offer",
            Self::Foreign(_) => "foreign",
            Self::Report { .. } => "report",
            Self::Events(_) => "events",
            Self::Sync(_) => "sync",
            Self::Heard(_) => "heard",
            Self::Keys(_) => "keys",
            Self::Holds(_) => "holds",
            Self::Talk { .. } => "talk",
            Self::Say { .. } => "say",
            Self::Ask(_) => "ask",
            Self::Call(_) => "call",
            Self::Part { .. } => "part",
            Self::Ahead { .. } => "ahead",
            Self::Held { .. } => "held",
            Self::Listed(_) => "listed",
            Self::Carried(_) => "carried",
            Self::Behind(_) => "behind",
            Self::Beat(_) => "beat",
        }
    }

    /// The encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        match self {
            Self::Hello { versions, share, source, epoch, trust_target } => {
                e.put_u8(1);
                put_versions(*versions, &mut e);
                e.put_bytes(share.as_bytes());
                e.put_raw(&source.0);
                e.put_u64(epoch.0);
                e.put_u8(u8::from(*trust_target));
            }
            Self::Welcome(w) => {
                e.put_u8(2);
                encode_welcome(w, &mut e);
            }
            Self::Checking(entries) => {
                e.put_u8(3);
                e.put_u64(*entries);
            }
            Self::Refused { code, text } => {
                e.put_u8(4);
                e.put_u64(u64::from(*code));
                put_text(text, &mut e);
            }
            Self::Compare(queries) => {
                e.put_u8(5);
                e.put_u64(queries.len() as u64);
                for q in queries {
                    e.put_bytes(q.directory.as_bytes());
                    match q.bucket {
                        None => e.put_u8(0),
                        Some(b) => {
                            e.put_u8(1);
                            e.put_u8(b);
                        }
                    }
                }
            }
            Self::Answer(answer) => {
                e.put_u8(6);
                encode_answer(answer, &mut e);
            }
            Self::Receipt(receipt) => {
                e.put_u8(7);
                encode_receipt(receipt, &mut e);
            }
            Self::Seal(point) => {
                e.put_u8(8);
                point.encode(&mut e);
            }
            Self::Sealed(point) => {
                e.put_u8(9);
                point.encode(&mut e);
            }
            Self::SealMismatch(root) => {
                e.put_u8(10);
                e.put_raw(&root.0);
            }
            Self::Goodbye => e.put_u8(11),
            Self::Sign(sign) => {
                e.put_u8(12);
                encode_sign(sign, &mut e);
            }
            Self::Signatures { id, bytes } => {
                e.put_u8(13);
                e.put_u64(*id);
                e.put_bytes(bytes);
            }
            Self::Policies(set) => {
                e.put_u8(14);
                set.encode(&mut e);
            }
            Self::Standing => e.put_u8(15),
            Self::Mark { sequence, label } => {
                e.put_u8(16);
                e.put_u64(*sequence);
                e.put_bytes(label.as_bytes());
            }
            Self::Offer { versions, share } => {
                e.put_u8(17);
                put_versions(*versions, &mut e);
                e.put_bytes(share.as_bytes());
            }
            Self::Foreign(entries) => {
                e.put_u8(18);
                e.put_u64(*entries);
            }
            Self::Report { versions, share, node } => {
                e.put_u8(19);
                put_versions(*versions, &mut e);
                e.put_bytes(share.as_bytes());
                e.put_bytes(node.as_bytes());
            }
            Self::Events(events) => {
                e.put_u8(20);
                encode_events(events, &mut e);
            }
            Self::Sync(number) => {
                e.put_u8(21);
                e.put_u64(*number);
            }
            Self::Heard(number) => {
                e.put_u8(22);
                e.put_u64(*number);
            }
            Self::Keys(said) => {
                e.put_u8(23);
                e.put_bytes(said);
            }
            Self::Holds(holds) => {
                e.put_u8(24);
                holds.encode(&mut e);
            }
            Self::Talk { versions, site } => {
                e.put_u8(32);
                put_versions(*versions, &mut e);
                e.put_bytes(site.as_bytes());
            }
            Self::Say { share, said } => {
                e.put_u8(33);
                e.put_bytes(share.as_bytes());
                e.put_bytes(said);
            }
            Self::Ask(call) => {
                e.put_u8(34);
                call.encode(&mut e);
            }
            Self::Call(call) => {
                e.put_u8(35);
                call.encode(&mut e);
            }
            Self::Part { last, bytes } => {
                e.put_u8(36);
                e.put_u8(u8::from(*last));
                e.put_bytes(bytes);
            }
            Self::Beat(beat) => {
                e.put_u8(25);
                beat.encode(&mut e);
            }
            Self::Ahead { keep } => {
                e.put_u8(40);
                ahead::encode_keep(keep.as_deref(), &mut e);
            }
            Self::Held { content, whole, last, bytes } => {
                e.put_u8(41);
                ahead::encode_held(content, (*whole, *last), bytes, &mut e);
            }
            Self::Listed(contents) => {
                e.put_u8(42);
                e.put_u64(*contents);
            }
            Self::Carried(receipt) => {
                e.put_u8(43);
                encode_receipt(receipt, &mut e);
            }
            Self::Behind(behind) => {
                e.put_u8(44);
                behind.encode(&mut e);
            }
            Self::SealBehind { batch, point } => {
                e.put_u8(45);
                e.put_u64(*batch);
                point.encode(&mut e);
            }
        }
        e.finish()
    }

    /// The message that `bytes` are.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let message = match d.take_u8("message")? {
            1 => Self::Hello {
                versions: take_versions(&mut d)?,
                share: d.take_text("share name", SHARE_NAME_MAX)?,
                source: StoreId(d.take_array("source id")?),
                epoch: Epoch(d.take_u64("epoch")?),
                trust_target: take_bool(&mut d)?,
            },
            2 => Self::Welcome(decode_welcome(&mut d)?),
            3 => Self::Checking(d.take_u64("entries checked")?),
            4 => Self::Refused {
                code: d.take_u32("close code")?,
                text: d.take_text("refusal", TEXT_MAX)?,
            },
            5 => Self::Compare(decode_queries(&mut d)?),
            6 => Self::Answer(decode_answer(&mut d)?),
            7 => Self::Receipt(decode_receipt(&mut d)?),
            8 => Self::Seal(RecoveryPoint::decode(&mut d)?),
            9 => Self::Sealed(RecoveryPoint::decode(&mut d)?),
            10 => Self::SealMismatch(RootDigest(d.take_array("root digest")?)),
            11 => Self::Goodbye,
            12 => Self::Sign(decode_sign(&mut d)?),
            13 => Self::Signatures {
                id: d.take_u64("signatures")?,
                bytes: d.take_bytes("signatures", SIGNATURES_LEN_MAX)?.into(),
            },
            14 => Self::Policies(PolicySet::decode(&mut d)?),
            15 => Self::Standing,
            16 => Self::Mark {
                sequence: d.take_u64("marked point")?,
                label: d.take_text("label", LABEL_MAX)?,
            },
            17 => Self::Offer {
                versions: take_versions(&mut d)?,
                share: d.take_text("share name", SHARE_NAME_MAX)?,
            },
            18 => Self::Foreign(d.take_u64("foreign entries")?),
            19 => Self::Report {
                versions: take_versions(&mut d)?,
                share: d.take_text("share name", SHARE_NAME_MAX)?,
                node: d.take_text("host name", NODE_NAME_MAX)?,
            },
            20 => Self::Events(decode_events(&mut d)?),
            21 => Self::Sync(d.take_u64("sync")?),
            22 => Self::Heard(d.take_u64("heard")?),
            23 => Self::Keys(d.take_bytes("keys", KEYS_LEN_MAX)?.into()),
            24 => Self::Holds(Holds::decode(&mut d)?),
            32 => Self::Talk {
                versions: take_versions(&mut d)?,
                site: d.take_text("site name", NODE_NAME_MAX)?,
            },
            33 => Self::Say {
                share: d.take_text("share name", SHARE_NAME_MAX)?,
                said: d.take_bytes("word of a role", SAY_LEN_MAX)?.into(),
            },
            34 => Self::Ask(Call::decode(&mut d)?),
            35 => Self::Call(Call::decode(&mut d)?),
            36 => Self::Part {
                last: take_bool(&mut d)?,
                bytes: d.take_bytes("part", PART_LEN_MAX)?.into(),
            },
            25 => Self::Beat(Beat::decode(&mut d)?),
            40 => Self::Ahead { keep: ahead::decode_keep(&mut d)? },
            41 => ahead::decode_held(&mut d)?,
            42 => Self::Listed(d.take_u64("contents held ahead")?),
            43 => Self::Carried(decode_receipt(&mut d)?),
            44 => Self::Behind(Behind::decode(&mut d)?),
            45 => Self::SealBehind {
                batch: d.take_u64("last batch of a cut")?,
                point: RecoveryPoint::decode(&mut d)?,
            },
            other => return Err(DecodeError::Invalid { what: "message", found: u64::from(other) }),
        };
        d.finish("message")?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
