//! Other production nodes that mount a share too and report what they see change: the leader's side.
//!
//! ```text
//! node ── report ─► attend ── events ─► dirty set ── flushed ─► heard
//!                      ▲ sync(n) ──────── all events seen before ── sync(n)
//! ```
//! Guarantees: events are in the share's dirty set, and in its journal, before they are said to be heard;
//! [`Nodes::sync`] returns nothing only when every node that the config lists is connected and has sent
//! all that it saw change before the call, or has said that it does not know. A node that lost events
//! makes the whole be looked at. Refuses more than one link of a node: the latest counts, the one before
//! is closed. Nothing of it survives a crash: a node sends again what was not heard.
//!
//! Who may speak for a node is the daemon's to decide before it gives the link away.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_engine::capture::{DirtySet, Synced, WatchKind, WatchReport};
use farshore_engine::ingest::describe;
use farshore_proto::close::CloseCode;
use farshore_proto::link::{Link, LinkError};
use farshore_proto::message::{Events, Message};

use crate::site::announce::KeyTalk;
use crate::site::board::facts::NodeStatus;
use crate::state::now_ms;

/// How long the nodes have to send what they saw, all together. A cut waits for it.
const SYNC_PATIENCE: Duration = Duration::from_millis(500);

/// The nodes of a share. See the module.
pub struct Nodes {
    dirty: DirtySet,
    inner: Mutex<Inner>,
    answered: Condvar,
}

struct Inner {
    nodes: BTreeMap<String, Node>,
    links: u64,
}

#[derive(Default)]
struct Node {
    link: Option<Attached>,
    last_heard_ms: Option<i64>,
    /// What is wrong; nothing: it reports.
    wrong: Option<String>,
}

struct Attached {
    number: u64,
    link: Arc<dyn Link>,
    /// Numbers of the last sync that was asked and answered.
    asked: u64,
    answered: u64,
    /// Of the last events.
    events: u64,
}

/// Why a node's link ends.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It is gone.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It ended in order.
    #[error("it left")]
    Left,
    /// It said what may not be said.
    #[error("it broke the protocol: {0}")]
    Protocol(String),
    /// What it reported cannot be kept.
    #[error("what it reports cannot be written to the journal")]
    Journal(#[source] std::io::Error),
    /// A later link of the same node took the place of this one.
    #[error("it connected again")]
    Again,
}

/// Whether a host knows of every change of its own: what others do on a shared file system it is not told.
pub(super) fn covers_own(synced: &Synced, report: &WatchReport) -> bool {
    match synced {
        Synced::Complete => true,
        Synced::Gone(_) => false,
        Synced::Partial(_) => {
            let watches = report.kind != WatchKind::None && report.failed.is_none();
            watches && report.unwatched_count == 0 && report.remote.is_some()
        }
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("nodes", &self.status()).finish_non_exhaustive()
    }
}

impl Nodes {
    /// Those called `names`, none of them connected; what they report goes to `dirty`.
    #[must_use]
    pub fn new(names: &[String], dirty: DirtySet) -> Self {
        let wrong = || Some("not connected since the start".to_owned());
        let node = |name: &String| (name.clone(), Node { wrong: wrong(), ..Node::default() });
        let nodes = names.iter().map(node).collect();
        let inner = Mutex::new(Inner { nodes, links: 0 });
        Self { dirty, inner, answered: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `name` is one of them.
    #[must_use]
    pub fn lists(&self, name: &str) -> bool {
        self.lock().nodes.contains_key(name)
    }

    /// Whether every change that was completed before the call, by whatever host, is in the dirty set or
    /// the set says whole; `synced` and `report` are the leader's own watch. A file system that others
    /// change too is no reason against it when every one of those others reports.
    #[must_use]
    pub fn cover(&self, synced: &Synced, report: &WatchReport) -> bool {
        *synced == Synced::Complete || (!self.lock().nodes.is_empty() && covers_own(synced, report))
    }

    /// Asks every node for all it saw before the call; why not all of that is known, if so.
    #[must_use]
    pub fn sync(&self) -> Option<String> {
        let until = Instant::now() + SYNC_PATIENCE;
        let mut asked = Vec::new();
        {
            let mut inner = self.lock();
            for (name, node) in &inner.nodes {
                match &node.link {
                    None => return Some(format!("node '{name}' is not connected")),
                    // It was given its time for that one.
                    Some(link) if link.asked > link.answered => {
                        return Some(format!("node '{name}' is late"));
                    }
                    Some(_) => {}
                }
            }
            for node in inner.nodes.values_mut() {
                if let Some(attached) = &mut node.link {
                    attached.asked += 1;
                    asked.push((Arc::clone(&attached.link), attached.asked));
                }
            }
        }
        for (link, number) in asked {
            // One that is gone does not answer.
            let message = Message::Sync(number).to_bytes();
            link.send_control(Bytes::from(message)).unwrap_or(());
        }
        self.wait_for_answers(until)
    }

    fn wait_for_answers(&self, until: Instant) -> Option<String> {
        let mut inner = self.lock();
        loop {
            let owes = |node: &Node| node.link.as_ref().is_none_or(|l| l.asked > l.answered);
            let owing = inner.nodes.iter().find(|(_, node)| owes(node));
            let (name, is_gone) = match owing {
                None => return None,
                Some((name, node)) => (name.clone(), node.link.is_none()),
            };
            let left = until.saturating_duration_since(Instant::now());
            if is_gone {
                return Some(format!("node '{name}' is not connected"));
            }
            if left.is_zero() {
                for node in inner.nodes.values_mut().filter(|node| owes(node)) {
                    let late = || format!("no answer within {} ms", SYNC_PATIENCE.as_millis());
                    node.wrong.get_or_insert_with(late);
                }
                return Some(format!("node '{name}' is late"));
            }
            let woken = self.answered.wait_timeout(inner, left);
            inner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How they are.
    #[must_use]
    pub fn status(&self) -> Vec<NodeStatus> {
        let inner = self.lock();
        let node = |(name, node): (&String, &Node)| NodeStatus {
            name: name.clone(),
            last_heard_unix_ms: node.last_heard_ms,
            state: node.wrong.clone().unwrap_or_else(|| "ok".to_owned()),
        };
        inner.nodes.iter().map(node).collect()
    }

    /// Takes in what `name` reports over `link`, until that ends; why it did.
    /// `talk` is that of keys over it.
    pub fn attend(&self, name: &str, link: &Arc<dyn Link>, talk: Option<&KeyTalk>) -> NodeError {
        let Some(number) = self.attach(name, link) else {
            return NodeError::Protocol("nobody knows this node".into());
        };
        let why = loop {
            if let Err(why) = self.hear(name, number, &**link, talk) {
                break why;
            }
        };
        let code = match &why {
            NodeError::Protocol(_) => CloseCode::ProtocolViolation,
            NodeError::Journal(_) => CloseCode::Internal,
            _ => CloseCode::Done,
        };
        self.detach(name, number, &describe(&why));
        link.close(code as u32, &describe(&why));
        why
    }

    fn attach(&self, name: &str, link: &Arc<dyn Link>) -> Option<u64> {
        let mut inner = self.lock();
        inner.links += 1;
        let number = inner.links;
        let node = inner.nodes.get_mut(name)?;
        let link = Arc::clone(link);
        let attached = Attached { number, link, asked: 0, answered: 0, events: 0 };
        let former = node.link.replace(attached);
        (node.wrong, node.last_heard_ms) = (None, Some(now_ms()));
        drop(inner);
        if let Some(former) = former {
            former.link.close(CloseCode::Busy as u32, "this node connected again");
        }
        self.answered.notify_all();
        Some(number)
    }

    fn detach(&self, name: &str, number: u64, why: &str) {
        let mut inner = self.lock();
        let node = inner.nodes.get_mut(name);
        if let Some(node) = node.filter(|n| n.link.as_ref().is_some_and(|l| l.number == number)) {
            node.link = None;
            node.wrong = Some(format!("not connected: {why}"));
        }
        drop(inner);
        self.answered.notify_all();
    }

    /// Takes in one message.
    fn hear(
        &self,
        name: &str,
        number: u64,
        link: &dyn Link,
        talk: Option<&KeyTalk>,
    ) -> Result<(), NodeError> {
        let bytes = link.recv_control()?.ok_or(NodeError::Left)?;
        let message = Message::from_bytes(&bytes).map_err(|e| NodeError::Protocol(describe(&e)))?;
        match message {
            Message::Events(events) => {
                self.with(name, number, |attached| {
                    if events.number <= attached.events {
                        return Err(NodeError::Protocol("numbers of events do not rise".into()));
                    }
                    attached.events = events.number;
                    Ok(())
                })?;
                let heard = Message::Heard(events.number);
                self.take_in(name, events)?;
                link.send_control(Bytes::from(heard.to_bytes()))?;
            }
            Message::Sync(answer) => {
                self.with(name, number, |attached| {
                    if answer != attached.asked || answer == attached.answered {
                        return Err(NodeError::Protocol("an answer that nobody asked for".into()));
                    }
                    attached.answered = answer;
                    Ok(())
                })?;
                self.answered.notify_all();
            }
            Message::Keys(said) => {
                self.with(name, number, |_| Ok(()))?;
                let answer = talk.and_then(|talk| {
                    talk.hear(&said);
                    talk.said()
                });
                if let Some(answer) = answer {
                    link.send_control(Bytes::from(Message::Keys(answer).to_bytes()))?;
                }
            }
            other => {
                return Err(NodeError::Protocol(format!("'{}' may not come now", other.name())));
            }
        }
        Ok(())
    }

    fn with(
        &self,
        name: &str,
        number: u64,
        act: impl FnOnce(&mut Attached) -> Result<(), NodeError>,
    ) -> Result<(), NodeError> {
        let mut inner = self.lock();
        let node = inner.nodes.get_mut(name).ok_or(NodeError::Again)?;
        let attached = node.link.as_mut().filter(|attached| attached.number == number);
        let attached = attached.ok_or(NodeError::Again)?;
        act(attached)?;
        // One that owes an answer is late whatever else it says.
        if attached.asked == attached.answered {
            node.wrong = None;
        }
        node.last_heard_ms = Some(now_ms());
        Ok(())
    }

    /// Makes events wait to be looked at, durably.
    fn take_in(&self, name: &str, events: Events) -> Result<(), NodeError> {
        let now = now_ms();
        for (directory, deep) in &events.parts {
            self.dirty.mark(directory, *deep, now);
        }
        if let Some(why) = events.lost {
            self.dirty.mark_whole(&format!("node '{name}': {why}"), now);
        }
        self.dirty.flush().map_err(NodeError::Journal)
    }
}

#[cfg(test)]
mod tests;
