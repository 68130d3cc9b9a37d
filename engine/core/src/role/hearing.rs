//! Which of the peer's messages may be acted on.
//!
//! A message may be late, doubled or years old. It is *current* when it was sent by the peer's newest
//! run, after that run heard from this one, and is newer than all heard of it. Newest is proven, not
//! assumed: a run is followed once it has answered a message sent after it was first heard, so it was
//! alive then, and every run before it was over. What the other end sends counts only once it follows
//! this run in turn ([`Echo::followed`]): from then on it acts on nothing an earlier run of ours said.
//!
//! Guarantees: after a message was current, no message of an earlier run of either end ever is.
//! Survives a crash: nothing, and nothing needs to: a new run is a new life.

use super::say::{Beat, Echo, Say};

/// Runs of the peer that may be its newest; replays of dead ones must not crowd it out at once.
const CANDIDATES_MAX: usize = 4;

/// What a message is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Nothing.
    Nothing,
    /// An answer that echoes it: the other end has yet to prove itself, or to follow.
    Answer(Echo),
    /// It may be acted on. `first` of its run.
    Current {
        /// Nothing of this run was acted on before.
        first: bool,
    },
}

struct Followed {
    beat: Beat,
    /// It must have heard at least this message of ours.
    floor: u64,
    current: bool,
}

struct Candidate {
    beat: Beat,
    floor: u64,
}

/// The state of one end.
pub(super) struct Hearing {
    life: u64,
    sent: u64,
    followed: Option<Followed>,
    candidates: Vec<Candidate>,
}

impl Hearing {
    pub(super) fn new(life: u64) -> Self {
        Self { life, sent: 0, followed: None, candidates: Vec::new() }
    }

    /// Whether a message of the run that is followed was current.
    pub(super) fn is_mutual(&self) -> bool {
        self.followed.as_ref().is_some_and(|f| f.current)
    }

    /// The next message's number.
    pub(super) fn beat(&mut self, at_ms: u64) -> Beat {
        self.sent += 1;
        Beat { life: self.life, count: self.sent, at_ms }
    }

    /// What an ordinary message echoes.
    pub(super) fn echo(&self) -> Option<Echo> {
        self.followed.as_ref().map(|f| Echo { beat: f.beat, followed: true })
    }

    pub(super) fn hear(&mut self, say: &Say) -> Worth {
        let heard = say.echo.filter(|e| e.beat.life == self.life && e.beat.count <= self.sent);
        if let Some(f) = self.followed.as_mut().filter(|f| f.beat.life == say.beat.life) {
            let answers = heard.is_some_and(|e| e.beat.count >= f.floor);
            if say.beat.count <= f.beat.count || !answers {
                return Worth::Nothing;
            }
            f.beat = say.beat;
            if !heard.is_some_and(|e| e.followed) {
                return Worth::Answer(Echo { beat: f.beat, followed: true });
            }
            let first = !std::mem::replace(&mut f.current, true);
            return Worth::Current { first };
        }
        let known = self.candidates.iter().position(|c| c.beat.life == say.beat.life);
        let Some(at) = known else {
            if self.candidates.len() == CANDIDATES_MAX {
                self.candidates.remove(0);
            }
            self.candidates.push(Candidate { beat: say.beat, floor: self.sent + 1 });
            return Worth::Answer(Echo { beat: say.beat, followed: false });
        };
        let candidate = &mut self.candidates[at];
        if say.beat.count <= candidate.beat.count {
            return Worth::Nothing;
        }
        candidate.beat = say.beat;
        if heard.is_none_or(|e| e.beat.count < candidate.floor) {
            return Worth::Answer(Echo { beat: say.beat, followed: false });
        }
        let Candidate { beat, floor } = self.candidates.remove(at);
        let current = heard.is_some_and(|e| e.followed);
        self.followed = Some(Followed { beat, floor, current });
        if current {
            return Worth::Current { first: true };
        }
        Worth::Answer(Echo { beat, followed: true })
    }
}
