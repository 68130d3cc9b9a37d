//! What the coordinator of a run hears: its workers, and the target.
//!
//! Guarantees: what a worker said before the target could answer it is heard before that answer; a
//! target that says more than is acted on is not read on, so that its words wait at its own end. The
//! workers' events are few, one a batch, and never wait. A target that is gone has ended, however
//! often that is asked.

use std::time::Instant;

use crossbeam_channel::{Receiver, never, select};

use super::Event;

/// Both queues.
#[derive(Debug)]
pub(super) struct Inbox {
    workers: Receiver<Event>,
    target: Receiver<Event>,
    /// Taken from the target's queue, and to be heard behind what the workers have said.
    held: Option<Event>,
}

impl Inbox {
    pub(super) fn new(workers: Receiver<Event>, target: Receiver<Event>) -> Self {
        Self { workers, target, held: None }
    }

    /// The next event; waits for it.
    pub(super) fn recv(&mut self) -> Event {
        loop {
            if let Some(event) = self.try_recv() {
                return event;
            }
            let _never = self.is_over(&never());
        }
    }

    /// The next event, if there is one by `until`.
    pub(super) fn recv_until(&mut self, until: Instant) -> Option<Event> {
        let over = crossbeam_channel::at(until);
        loop {
            if let Some(event) = self.try_recv() {
                return Some(event);
            }
            if self.is_over(&over) {
                return None;
            }
        }
    }

    /// The next event, if there is one.
    pub(super) fn try_recv(&mut self) -> Option<Event> {
        if self.held.is_none() {
            self.held = self.target.try_recv().ok();
        }
        self.workers.try_recv().ok().or_else(|| self.held.take())
    }

    /// Waits until something may be there; whether `over` came first.
    fn is_over(&mut self, over: &Receiver<Instant>) -> bool {
        let event = select! {
            recv(self.workers) -> event => event.ok(),
            recv(self.target) -> event => Some(event.unwrap_or(Event::Ended)),
            recv(over) -> _ => return true,
        };
        self.held = event;
        false
    }
}
