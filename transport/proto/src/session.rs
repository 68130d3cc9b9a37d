//! Who may say what, when: one machine for each end of a session.
//!
//! ```text
//! source:  AwaitWelcome ─► Ready ─► AwaitSealed ─► Done
//! target:  AwaitHello ─► Checking ─► Ready ─► Done (Ready again after a seal that did not match)
//! ```
//! Both are fed every message before anything is done about it, and refuse the ones out of order.
//! They hold the counters that must never disagree: batches under way, queries not yet answered.

use std::collections::BTreeSet;

use farshore_core::codec::DecodeError;
use farshore_core::recovery_point::Epoch;

use crate::message::{Answer, COMPARE_QUERIES_MAX, Message, PROTOCOL_VERSION};

/// Most batches a source may have under way.
pub const BATCHES_UNDER_WAY_MAX: usize = 64;

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
    /// No protocol version in common.
    #[error(
        "peer speaks protocol versions {lowest} to {highest}, this build speaks {PROTOCOL_VERSION}: \
             upgrade the older side"
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
    under_way: BTreeSet<u64>,
    queries: usize,
}

impl SourceSession {
    /// A session whose Hello is about to be sent under `epoch`.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self { state: SourceState::AwaitWelcome, epoch, under_way: BTreeSet::new(), queries: 0 }
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
                if w.version != PROTOCOL_VERSION {
                    let v = w.version;
                    return Err(SessionError::VersionMismatch { lowest: v, highest: v });
                }
                if w.epoch > self.epoch {
                    return Err(SessionError::EpochFenced {
                        ours: w.epoch.0,
                        theirs: self.epoch.0,
                    });
                }
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
                    Ok(())
                } else {
                    Err(SessionError::UnknownBatch { batch: r.batch })
                }
            }
            (S::AwaitSealed, Message::Sealed(_)) => {
                self.state = S::Done;
                Ok(())
            }
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    AwaitHello,
    Checking,
    Ready,
    Done,
}

/// The target's end.
#[derive(Debug)]
pub struct TargetSession {
    state: TargetState,
    epoch: Epoch,
    next_batch: u64,
    under_way: BTreeSet<u64>,
}

impl TargetSession {
    /// A session under the epoch in force at the target.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self { state: TargetState::AwaitHello, epoch, next_batch: 0, under_way: BTreeSet::new() }
    }

    /// Checks `message` against the state and follows it.
    ///
    /// # Errors
    /// [`SessionError`]; the session is over then.
    pub fn handle(&mut self, message: &Message) -> Result<(), SessionError> {
        use TargetState as T;
        match (self.state, message) {
            (T::AwaitHello, Message::Hello { versions, epoch, .. }) => {
                let (lowest, highest) = *versions;
                if lowest > PROTOCOL_VERSION || highest < PROTOCOL_VERSION {
                    return Err(SessionError::VersionMismatch { lowest, highest });
                }
                self.check_epoch(*epoch)?;
                self.state = T::Checking;
                Ok(())
            }
            (T::Ready, Message::Compare(queries)) => {
                if queries.len() > COMPARE_QUERIES_MAX {
                    let limit = COMPARE_QUERIES_MAX;
                    return Err(SessionError::TooMany { what: "queries", limit });
                }
                Ok(())
            }
            (T::Ready, Message::Seal(_)) if self.under_way.is_empty() => Ok(()),
            (T::Ready | T::Done, Message::Goodbye) => {
                self.state = T::Done;
                Ok(())
            }
            (_, other) => Err(SessionError::UnexpectedMessage {
                state: self.state_name(),
                message: other.name(),
            }),
        }
    }

    /// The Welcome is about to be sent; batches start behind `applied`.
    pub fn welcome_sent(&mut self, applied: u64) {
        self.state = TargetState::Ready;
        self.next_batch = applied + 1;
    }

    /// A batch stream began.
    ///
    /// # Errors
    /// [`SessionError`] when its epoch is over, its number was used, or too many are under way.
    pub fn batch_began(&mut self, batch: u64, epoch: Epoch) -> Result<(), SessionError> {
        self.check_epoch(epoch)?;
        if self.state != TargetState::Ready || batch < self.next_batch {
            return Err(SessionError::UnknownBatch { batch });
        }
        if self.under_way.len() >= BATCHES_UNDER_WAY_MAX || !self.under_way.insert(batch) {
            return Err(SessionError::TooMany { what: "batches", limit: BATCHES_UNDER_WAY_MAX });
        }
        Ok(())
    }

    /// A batch's receipt is about to be sent.
    pub fn batch_applied(&mut self, batch: u64) {
        self.under_way.remove(&batch);
        self.next_batch = self.next_batch.max(batch + 1);
    }

    fn check_epoch(&self, theirs: Epoch) -> Result<(), SessionError> {
        if theirs < self.epoch {
            return Err(SessionError::EpochFenced { ours: self.epoch.0, theirs: theirs.0 });
        }
        Ok(())
    }

    /// What the session was doing, for errors.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            TargetState::AwaitHello => "waiting for a hello",
            TargetState::Checking => "checking its tree",
            TargetState::Ready => "replicating",
            TargetState::Done => "done",
        }
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::digest::RootDigest;
    use farshore_core::recovery_point::RecoveryPoint;

    use super::*;
    use crate::message::{Receipt, StoreId, Welcome};

    fn hello(versions: (u16, u16), epoch: u64) -> Message {
        Message::Hello {
            versions,
            share: "s".into(),
            source: StoreId([0; 16]),
            epoch: Epoch(epoch),
            trust_target: false,
        }
    }

    fn welcome(epoch: u64) -> Message {
        Message::Welcome(Welcome {
            version: PROTOCOL_VERSION,
            target: StoreId([0; 16]),
            sealed_with: None,
            epoch: Epoch(epoch),
            applied_batch: 4,
            root: RootDigest([0; 32]),
            entries: 0,
            foreign_changes: 0,
            recovery_point: None,
        })
    }

    fn point() -> RecoveryPoint {
        RecoveryPoint {
            sequence: 1,
            time_unix_ms: 0,
            root: RootDigest([0; 32]),
            entries: 0,
            bytes: 0,
            exceptions: 0,
        }
    }

    #[test]
    fn a_whole_session_passes_both_machines() {
        let mut source = SourceSession::new(Epoch(2));
        let mut target = TargetSession::new(Epoch(2));
        target.handle(&hello((1, 1), 2)).expect("hello");
        target.welcome_sent(4);
        source.handle(&Message::Checking(1)).expect("checking");
        source.handle(&welcome(2)).expect("welcome");
        source.batch_sent(5);
        target.batch_began(5, Epoch(2)).expect("batch");
        assert!(target.handle(&Message::Seal(point())).is_err(), "a batch is under way");
        target.batch_applied(5);
        source
            .handle(&Message::Receipt(Receipt { batch: 5, ..Receipt::default() }))
            .expect("receipt");
        assert_eq!(source.batches_under_way(), 0);
        source.seal_sent();
        target.handle(&Message::Seal(point())).expect("seal");
        source.handle(&Message::Sealed(point())).expect("sealed");
        target.handle(&Message::Goodbye).expect("goodbye");
    }

    #[test]
    fn an_old_epoch_is_refused_at_both_ends() {
        let mut target = TargetSession::new(Epoch(3));
        assert_eq!(
            target.handle(&hello((1, 1), 2)),
            Err(SessionError::EpochFenced { ours: 3, theirs: 2 })
        );
        let mut target = TargetSession::new(Epoch(3));
        target.handle(&hello((1, 1), 3)).expect("hello");
        target.welcome_sent(0);
        assert!(target.batch_began(1, Epoch(2)).is_err());
        let mut source = SourceSession::new(Epoch(2));
        assert!(matches!(source.handle(&welcome(3)), Err(SessionError::EpochFenced { .. })));
    }

    #[test]
    fn what_nobody_asked_for_is_refused() {
        let mut source = SourceSession::new(Epoch(0));
        assert!(source.handle(&Message::Sealed(point())).is_err(), "before its welcome");
        source.handle(&welcome(0)).expect("welcome");
        let receipt = Message::Receipt(Receipt { batch: 9, ..Receipt::default() });
        assert_eq!(source.handle(&receipt), Err(SessionError::UnknownBatch { batch: 9 }));
        let answer = Message::Answer(Answer::Children { last: true, children: Vec::new() });
        assert_eq!(source.handle(&answer), Err(SessionError::UnaskedAnswer));
        assert!(source.handle(&hello((1, 1), 0)).is_err());
    }

    #[test]
    fn replayed_batches_and_foreign_versions_are_refused() {
        let mut target = TargetSession::new(Epoch(0));
        assert!(target.batch_began(1, Epoch(0)).is_err(), "before the hello");
        assert!(matches!(
            target.handle(&hello((2, 9), 0)),
            Err(SessionError::VersionMismatch { lowest: 2, highest: 9 })
        ));
        target.handle(&hello((0, 9), 0)).expect("a range that holds ours");
        target.welcome_sent(4);
        assert_eq!(target.batch_began(4, Epoch(0)), Err(SessionError::UnknownBatch { batch: 4 }));
        target.batch_began(5, Epoch(0)).expect("the next");
        assert!(target.batch_began(5, Epoch(0)).is_err(), "twice");
        target.batch_applied(5);
        assert!(target.batch_began(5, Epoch(0)).is_err(), "replayed");
    }
}
