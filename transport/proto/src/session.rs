//! Who may say what, when: one machine for each end of a session.
//!
//! ```text
//! source:  AwaitWelcome ─► Ready ─► AwaitSealed ─► Done
//! target:  AwaitHello ─► Checking ─► AwaitPolicies ─► Ready ─► Done
//!          (Ready again after a seal that did not match, and after every seal of a session that stands;
//!          below version 3 Ready follows Checking)
//! ```
//! Both are fed every message before anything is done about it, and refuse the ones out of order. A seal *behind*
//! batches is sent in Ready, with their receipts to come, and answered after the last of them: between the two
//! the target takes nothing but what those batches bring, and what goes ahead of later cuts.
//! They hold the counters that must never disagree: batches under way, queries not yet answered.
//! Signatures have a machine of their own at the source, [`SignLedger`]: many threads ask for them
//! while another owns the session.

use std::collections::{BTreeSet, VecDeque};

use farshore_core::codec::DecodeError;
use farshore_core::recovery_point::Epoch;

use crate::batch::{BatchHeader, Deal};
use crate::message::{
    AHEAD_VERSION, Answer, COMPARE_QUERIES_MAX, DELTA_VERSION, LEAVE_VERSION, Message,
    PIECES_VERSION, POLICIES_VERSION, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, SEAL_BEHIND_VERSION,
    STANDING_VERSION, STRIPES_VERSION, Sign,
};

/// Most batches a source may have under way.
pub const BATCHES_UNDER_WAY_MAX: usize = 64;

/// Most streams that carry content ahead of its cut at once.
pub const CARRIES_MAX: usize = 4;

/// Most requests to sign a source may have under way: together up to 1 GiB of old bytes, a second's
/// work of one thread.
pub const SIGNS_UNDER_WAY_MAX: usize = 256;

/// Why a session ends out of order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A message that may not come now.
    #[error("peer sent '{message}' while this end was {state}")]
    UnexpectedMessage {
        /// This end's state.
        state: &'static str,
        /// The message's name.
        message: &'static str,
    },
    /// The peer left in the middle.
    #[error("peer ended the session while this end was {state}")]
    EndedEarly {
        /// This end's state.
        state: &'static str,
    },
    /// The source decides by other policies than the target was told to accept.
    #[error("the policies in force at the source are not those this end was given: {difference}")]
    PoliciesDiffer {
        /// In what, for people.
        difference: String,
    },
    /// The source is too old to say its policies.
    #[error(
        "peer speaks protocol version {version}, which does not say which policies are in force: \
             upgrade it"
    )]
    PoliciesUnknown {
        /// The version settled on.
        version: u16,
    },
    /// The target is too old for a session that stands.
    #[error(
        "peer speaks protocol version {version}, which knows of no session that stands: upgrade it"
    )]
    CannotStand {
        /// The version settled on.
        version: u16,
    },
    /// No protocol version in common.
    #[error(
        "peer speaks protocol versions {lowest} to {highest}, this build speaks \
             {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}: upgrade the older side"
    )]
    VersionMismatch {
        /// Lowest the peer speaks.
        lowest: u16,
        /// Highest the peer speaks.
        highest: u16,
    },
    /// The peer acts under an epoch that is over.
    #[error("peer acts under epoch {theirs}, epoch {ours} is in force here: it must not send")]
    EpochFenced {
        /// The epoch in force here.
        ours: u64,
        /// The peer's.
        theirs: u64,
    },
    /// The peer acts under an epoch that this end has not heard of by way of roles.
    #[error(
        "peer acts under epoch {theirs}, epoch {ours} is in force here: roles are settled before \
             anything is sent"
    )]
    EpochUnknown {
        /// The epoch in force here.
        ours: u64,
        /// The peer's.
        theirs: u64,
    },
    /// A batch of another epoch than its session.
    #[error("batch of epoch {theirs} in a session of epoch {ours}")]
    EpochOfBatch {
        /// The session's.
        ours: u64,
        /// The batch's.
        theirs: u64,
    },
    /// The epoch this source acts under is over.
    #[error(
        "epoch {theirs} is in force at the target, this site acts under epoch {ours}: its is over"
    )]
    EpochOver {
        /// This source's.
        ours: u64,
        /// The target's.
        theirs: u64,
    },
    /// The target would not serve.
    #[error("the target refused: {text}")]
    Refused {
        /// A [`crate::close::CloseCode`] as a number.
        code: u32,
        /// The target's words.
        text: String,
    },
    /// A receipt for a batch that is not under way.
    #[error("receipt for batch {batch}, which is not under way")]
    UnknownBatch {
        /// Its number.
        batch: u64,
    },
    /// A seal behind batches of which the last can be none of the cut under way.
    #[error("seal behind batch {batch}, which is not the last one of the cut under way")]
    SealBehindUnknown {
        /// Its number.
        batch: u64,
    },
    /// The target recorded something else than it was asked to.
    #[error("the target recorded another recovery point than the one sent")]
    OtherPoint,
    /// A number from the peer that leaves no room for the next one.
    #[error("peer announced {what} {found}, which no honest peer reaches")]
    Absurd {
        /// Of what.
        what: &'static str,
        /// The number.
        found: u64,
    },
    /// An answer that answers no query.
    #[error("an answer that fits no query")]
    UnaskedAnswer,
    /// More than the bound under way at once.
    #[error("peer has more than {limit} {what} under way")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// Bytes that are no message.
    #[error("message from the peer")]
    Decode(#[from] DecodeError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceState {
    AwaitWelcome,
    Ready,
    AwaitSealed,
    Done,
}

/// The source's end.
#[derive(Debug)]
pub struct SourceSession {
    state: SourceState,
    epoch: Epoch,
    /// The version spoken.
    version: u16,
    under_way: BTreeSet<u64>,
    queries: usize,
    standing: bool,
    /// A batch was not applied whole since the last seal that waited for all receipts.
    failed: bool,
    /// A seal behind batches is not answered yet.
    sealing_behind: bool,
}

impl SourceSession {
    /// A session whose Hello is about to be sent under `epoch`.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self {
            state: SourceState::AwaitWelcome,
            epoch,
            version: PROTOCOL_VERSION_MIN,
            under_way: BTreeSet::new(),
            queries: 0,
            standing: false,
            failed: false,
            sealing_behind: false,
        }
    }

    /// Standing is about to be sent: cuts follow each other.
    pub fn stands(&mut self) {
        self.standing = true;
    }

    /// A batch is about to be sent.
    pub fn batch_sent(&mut self, batch: u64) {
        self.under_way.insert(batch);
    }

    /// Queries are about to be sent.
    pub fn queries_sent(&mut self, count: usize) {
        self.queries += count;
    }

    /// Seal is about to be sent.
    pub fn seal_sent(&mut self) {
        self.state = SourceState::AwaitSealed;
        self.failed = false;
    }

    /// The last batch under way, if the target may be asked to seal behind it.
    #[must_use]
    pub fn seals_behind(&self) -> Option<u64> {
        let may = self.state == SourceState::Ready
            && self.version >= SEAL_BEHIND_VERSION
            && self.queries == 0
            && !self.failed
            && !self.sealing_behind;
        self.under_way.last().copied().filter(|_| may)
    }

    /// Seal behind all batches under way is about to be sent: no further one is, until it is answered.
    pub fn seal_behind_sent(&mut self) {
        self.sealing_behind = true;
    }

    /// Whether a seal behind batches is to be refused yet, because one of them was not applied whole.
    #[must_use]
    pub fn awaits_refusal(&self) -> bool {
        self.sealing_behind && self.failed
    }

    /// Batches without a receipt.
    #[must_use]
    pub fn batches_under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Checks `message` against the state and follows it.
    ///
    /// # Errors
    /// [`SessionError`]; the session is over then.
    pub fn handle(&mut self, message: &Message) -> Result<(), SessionError> {
        use SourceState as S;
        match (self.state, message) {
            (_, Message::Refused { code, text }) => {
                Err(SessionError::Refused { code: *code, text: text.clone() })
            }
            (S::AwaitWelcome, Message::Checking(_)) => Ok(()),
            (S::AwaitWelcome, Message::Welcome(w)) => {
                if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&w.version) {
                    let v = w.version;
                    return Err(SessionError::VersionMismatch { lowest: v, highest: v });
                }
                if w.epoch > self.epoch {
                    let (ours, theirs) = (self.epoch.0, w.epoch.0);
                    return Err(SessionError::EpochOver { ours, theirs });
                }
                self.version = w.version;
                self.state = S::Ready;
                Ok(())
            }
            (S::Ready, Message::Answer(answer)) => {
                let ends = !matches!(answer, Answer::Children { last: false, .. });
                if self.queries == 0 {
                    return Err(SessionError::UnaskedAnswer);
                }
                self.queries -= usize::from(ends);
                Ok(())
            }
            (S::Ready, Message::Receipt(r)) => {
                if self.under_way.remove(&r.batch) {
                    self.failed |= !r.failures.is_empty();
                    Ok(())
                } else {
                    Err(SessionError::UnknownBatch { batch: r.batch })
                }
            }
            (S::AwaitSealed, Message::Sealed(_)) => {
                self.state = if self.standing { S::Ready } else { S::Done };
                Ok(())
            }
            (S::Ready, Message::Sealed(_)) if self.is_behind_all() && !self.failed => {
                self.sealing_behind = false;
                self.state = if self.standing { S::Ready } else { S::Done };
                Ok(())
            }
            (S::Ready, Message::SealMismatch(_)) if self.is_behind_all() => {
                self.sealing_behind = false;
                Ok(())
            }
            (
                S::Ready | S::AwaitSealed,
                Message::Foreign(_) | Message::Keys(_) | Message::Beat(_),
            ) if self.standing => Ok(()),
            (S::AwaitSealed, Message::SealMismatch(_)) => {
                self.state = S::Ready;
                Ok(())
            }
            (S::Done, Message::Goodbye) => Ok(()),
            (_, other) => Err(SessionError::UnexpectedMessage {
                state: self.state_name(),
                message: other.name(),
            }),
        }
    }

    /// Whether a seal behind batches may be answered now: each of them was.
    fn is_behind_all(&self) -> bool {
        self.sealing_behind && self.under_way.is_empty()
    }

    /// What the session was doing, for errors.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            SourceState::AwaitWelcome => "waiting for its welcome",
            SourceState::Ready => "replicating",
            SourceState::AwaitSealed => "waiting for the recovery point",
            SourceState::Done => "done",
        }
    }
}

/// The requests to sign that a source has under way, oldest first.
#[derive(Debug, Default)]
pub struct SignLedger {
    next: u64,
    /// Number and bytes of the answer, if there is one.
    under_way: VecDeque<(u64, u64)>,
}

impl SignLedger {
    /// The number of the next request.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next
    }

    /// Whether every request was answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// A request with that number is about to be sent.
    pub fn asked(&mut self, sign: &Sign) {
        self.next = sign.id + 1;
        self.under_way.push_back((sign.id, sign.answer_len()));
    }

    /// An answer arrived.
    ///
    /// # Errors
    /// [`SessionError::UnaskedAnswer`] unless it answers the oldest request, whole or not at all.
    pub fn answered(&mut self, id: u64, len: usize) -> Result<(), SessionError> {
        match self.under_way.pop_front() {
            Some((oldest, whole)) if oldest == id && (len == 0 || len as u64 == whole) => Ok(()),
            _ => Err(SessionError::UnaskedAnswer),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    AwaitHello,
    Checking,
    AwaitPolicies,
    Ready,
    Done,
}

/// The target's end.
#[derive(Debug)]
pub struct TargetSession {
    state: TargetState,
    epoch: Epoch,
    version: u16,
    next_batch: u64,
    under_way: BTreeSet<u64>,
    /// Streams that carry content ahead, by their numbers.
    carries: BTreeSet<u64>,
    signs: usize,
    next_sign: u64,
    /// The last thing said was that all is sealed.
    sealed: bool,
    standing: bool,
    /// The number of the last point sealed in this session.
    sequence: Option<u64>,
    /// The first batch that no seal has been asked for yet.
    unsealed: u64,
    /// A batch was not applied whole since the last seal that came behind all receipts.
    failed: bool,
    /// The last batch behind which a seal is asked for that is not answered yet.
    sealing_behind: Option<u64>,
    /// Only a source of this very epoch may send: roles say which it is.
    exact: bool,
}

impl TargetSession {
    /// A session under the epoch in force at the target, which a source of a later one raises.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self { exact: false, ..Self::exact(epoch) }
    }

    /// A session under the epoch that roles say is in force: no source of another one sends.
    #[must_use]
    pub fn exact(epoch: Epoch) -> Self {
        Self {
            exact: true,
            state: TargetState::AwaitHello,
            epoch,
            version: PROTOCOL_VERSION_MIN,
            next_batch: 0,
            under_way: BTreeSet::new(),
            carries: BTreeSet::new(),
            signs: 0,
            next_sign: 0,
            sealed: false,
            standing: false,
            sequence: None,
            unsealed: 0,
            failed: false,
            sealing_behind: None,
        }
    }

    /// The version spoken: the highest both ends know.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Checks `message` against the state and follows it.
    ///
    /// # Errors
    /// [`SessionError`]; the session is over then.
    pub fn handle(&mut self, message: &Message) -> Result<(), SessionError> {
        use TargetState as T;
        // A label changes nothing of what is sealed, nor does what is carried for a later cut.
        let ahead = match message {
            Message::Ahead { .. } => true,
            Message::Sign(_) => self.standing && self.version >= AHEAD_VERSION,
            _ => false,
        };
        self.sealed &= ahead || matches!(message, Message::Mark { .. });
        if self.sealing_behind.is_some() && !ahead {
            return Err(self.unexpected(message));
        }
        match (self.state, message) {
            (T::AwaitHello, Message::Hello { versions, epoch, .. }) => {
                let (lowest, highest) = *versions;
                let version = highest.min(PROTOCOL_VERSION);
                if version < lowest.max(PROTOCOL_VERSION_MIN) {
                    return Err(SessionError::VersionMismatch { lowest, highest });
                }
                self.version = version;
                let (ours, theirs) = (self.epoch.0, epoch.0);
                if theirs < ours {
                    return Err(SessionError::EpochFenced { ours, theirs });
                }
                if self.exact && theirs > ours {
                    return Err(SessionError::EpochUnknown { ours, theirs });
                }
                self.epoch = *epoch;
                self.state = T::Checking;
                Ok(())
            }
            (T::AwaitPolicies, Message::Policies(_)) => {
                self.state = T::Ready;
                Ok(())
            }
            (T::Ready, Message::Policies(_)) if self.standing && self.under_way.is_empty() => {
                Ok(())
            }
            (T::Ready, Message::Standing) if self.version >= STANDING_VERSION => {
                self.standing = true;
                Ok(())
            }
            (T::Ready, Message::Mark { sequence, .. }) if self.sequence == Some(*sequence) => {
                Ok(())
            }
            (T::Ready, Message::Compare(queries)) => {
                if queries.len() > COMPARE_QUERIES_MAX {
                    let limit = COMPARE_QUERIES_MAX;
                    return Err(SessionError::TooMany { what: "queries", limit });
                }
                Ok(())
            }
            (T::Ready, Message::Keys(_) | Message::Holds(_) | Message::Beat(_))
                if self.standing =>
            {
                Ok(())
            }
            (T::Ready, Message::Sign(sign)) if self.version >= DELTA_VERSION => {
                if sign.id < self.next_sign {
                    return Err(SessionError::Absurd { what: "request", found: sign.id });
                }
                if self.signs >= SIGNS_UNDER_WAY_MAX {
                    let limit = SIGNS_UNDER_WAY_MAX;
                    return Err(SessionError::TooMany { what: "requests to sign", limit });
                }
                self.next_sign = sign.id.saturating_add(1);
                self.signs += 1;
                Ok(())
            }
            // What is carried ahead of a later cut may be asking.
            (T::Ready, Message::Seal(_))
                if self.under_way.is_empty() && self.may_seal_beside_signs() =>
            {
                (self.failed, self.unsealed) = (false, self.next_batch);
                Ok(())
            }
            (T::Ready, Message::SealBehind { batch, .. })
                if self.version >= SEAL_BEHIND_VERSION && self.may_seal_beside_signs() =>
            {
                let applied = self.next_batch.saturating_sub(1);
                let first =
                    self.unsealed.max(applied).max(self.under_way.last().copied().unwrap_or(0));
                // Streams come in no order with messages: those of the last batches may be to come.
                if !(first..=applied.saturating_add(BATCHES_UNDER_WAY_MAX as u64)).contains(batch) {
                    return Err(SessionError::SealBehindUnknown { batch: *batch });
                }
                self.sealing_behind = Some(*batch);
                Ok(())
            }
            (T::Ready, Message::Ahead { .. } | Message::Behind(_))
                if self.standing && self.version >= AHEAD_VERSION =>
            {
                Ok(())
            }
            (T::Ready | T::Done, Message::Goodbye) => {
                self.state = T::Done;
                Ok(())
            }
            (_, other) => Err(self.unexpected(other)),
        }
    }

    fn unexpected(&self, message: &Message) -> SessionError {
        SessionError::UnexpectedMessage { state: self.state_name(), message: message.name() }
    }

    /// Whether the requests to sign under way are none of the cut's, or may be those of what goes ahead of others.
    fn may_seal_beside_signs(&self) -> bool {
        self.signs == 0 || (self.standing && self.version >= AHEAD_VERSION)
    }

    /// The Welcome is about to be sent; batches start behind `applied`.
    pub fn welcome_sent(&mut self, applied: u64) {
        self.state = match self.version {
            POLICIES_VERSION.. => TargetState::AwaitPolicies,
            _ => TargetState::Ready,
        };
        self.next_batch = applied + 1;
        self.unsealed = self.next_batch;
    }

    /// `Sealed` is about to be sent, for the point of that number.
    pub fn sealed(&mut self, sequence: u64) {
        self.sealed = true;
        self.sequence = Some(sequence);
        self.seal_answered();
    }

    /// `SealMismatch` is about to be sent.
    pub fn seal_refused(&mut self) {
        self.seal_answered();
    }

    fn seal_answered(&mut self) {
        self.sealing_behind = None;
        self.unsealed = self.next_batch;
    }

    /// Whether a batch was not applied whole since the last seal that came behind all receipts: then no seal behind
    /// batches is answered but by a refusal, since the source did not know of it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether further cuts follow each seal.
    #[must_use]
    pub fn is_standing(&self) -> bool {
        self.standing
    }

    /// Whether the source may close the link now without a word.
    #[must_use]
    pub fn may_be_left(&self) -> bool {
        self.sealed && self.version >= LEAVE_VERSION
    }

    /// The first stream of a batch began.
    ///
    /// # Errors
    /// [`SessionError`] when its epoch is over, its number was used, too many are under way, or it has
    /// several streams, or pieces on them, and the source speaks a version without.
    pub fn batch_began(&mut self, header: &BatchHeader) -> Result<(), SessionError> {
        let BatchHeader { batch, epoch, stripe, deal, .. } = *header;
        if epoch != self.epoch {
            let (ours, theirs) = (self.epoch.0, epoch.0);
            return Err(SessionError::EpochOfBatch { ours, theirs });
        }
        if stripe.of > 1 && self.version < STRIPES_VERSION {
            return Err(SessionError::TooMany { what: "streams of a batch", limit: 1 });
        }
        if deal == Deal::Pieces && self.version < PIECES_VERSION {
            return Err(SessionError::TooMany { what: "pieces of a frame", limit: 1 });
        }
        let is_beyond = self.sealing_behind.is_some_and(|last| batch > last);
        if self.state != TargetState::Ready || batch < self.next_batch || is_beyond {
            return Err(SessionError::UnknownBatch { batch });
        }
        if self.under_way.len() >= BATCHES_UNDER_WAY_MAX || !self.under_way.insert(batch) {
            return Err(SessionError::TooMany { what: "batches", limit: BATCHES_UNDER_WAY_MAX });
        }
        self.sealed = false;
        Ok(())
    }

    /// A stream began that carries content ahead of its cut.
    ///
    /// # Errors
    /// [`SessionError`] when its epoch is over, the session does not stand or speaks a version without,
    /// or too many are under way.
    pub fn carry_began(&mut self, header: &BatchHeader) -> Result<(), SessionError> {
        if header.epoch != self.epoch {
            let (ours, theirs) = (self.epoch.0, header.epoch.0);
            return Err(SessionError::EpochOfBatch { ours, theirs });
        }
        let may = self.state == TargetState::Ready && self.standing;
        if !may || self.version < AHEAD_VERSION {
            return Err(SessionError::UnknownBatch { batch: header.batch });
        }
        if self.carries.len() >= CARRIES_MAX || !self.carries.insert(header.batch) {
            let limit = CARRIES_MAX;
            return Err(SessionError::TooMany { what: "streams of content ahead", limit });
        }
        Ok(())
    }

    /// What became of the stream of that number is about to be said.
    pub fn carry_ended(&mut self, number: u64) {
        self.carries.remove(&number);
    }

    /// A request to sign is about to be answered.
    pub fn signed(&mut self) {
        self.signs = self.signs.saturating_sub(1);
    }

    /// A batch's receipt is about to be sent; whether all of it was applied.
    pub fn batch_applied(&mut self, batch: u64, is_whole: bool) {
        self.failed |= !is_whole;
        self.under_way.remove(&batch);
        self.next_batch = self.next_batch.max(batch + 1);
    }

    /// What the session was doing, for errors.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            TargetState::AwaitHello => "waiting for a hello",
            TargetState::Checking => "checking its tree",
            TargetState::AwaitPolicies => "waiting for the policies in force",
            TargetState::Ready if self.sealing_behind.is_some() => "about to seal",
            TargetState::Ready => "replicating",
            TargetState::Done => "done",
        }
    }
}

#[cfg(test)]
mod tests;
