//! Nodes as the leader sees them, over a wire of two queues.

#![allow(clippy::unwrap_used)]

use crossbeam_channel::{Receiver, Sender, unbounded};
use farshore_core::path::RelPath;
use farshore_engine::capture::{DirtyConfig, TakeFilter, Taking};
use farshore_proto::link::{BulkReceive, BulkSend, LinkStats};

use super::*;

struct Wire {
    to: Sender<Bytes>,
    from: Receiver<Bytes>,
}

impl Link for Wire {
    fn send_control(&self, message: Bytes) -> Result<(), LinkError> {
        // Nobody reads at the other end any more: that is noticed by what is received.
        self.to.send(message).unwrap_or(());
        Ok(())
    }
    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        Ok(self.from.recv().ok())
    }
    fn finish_control(&self) -> Result<(), LinkError> {
        Ok(())
    }
    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        Err(LinkError::MessageTooLarge { len: 0, limit: 0 })
    }
    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        Ok(None)
    }
    fn close(&self, _: u32, _: &str) {}
    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

/// A node's end.
struct Far {
    to: Sender<Bytes>,
    from: Receiver<Bytes>,
}

impl Far {
    fn say(&self, message: &Message) {
        self.to.send(Bytes::from(message.to_bytes())).unwrap();
    }

    fn events(&self, number: u64, lost: Option<&str>, parts: &[&str]) {
        let path = |path: &&str| (RelPath::new(path.as_bytes()).unwrap(), false);
        let (lost, parts) = (lost.map(str::to_owned), parts.iter().map(path).collect());
        self.say(&Message::Events(Events { number, lost, parts }));
    }

    fn hears(&self) -> Message {
        Message::from_bytes(&self.from.recv().unwrap()).unwrap()
    }
}

fn nodes(names: &[&str]) -> (Arc<Nodes>, DirtySet) {
    let dirty = DirtySet::new(DirtyConfig::default());
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    (Arc::new(Nodes::new(&names, dirty.clone())), dirty)
}

/// Connects `name`; it is attended to until the far end is dropped.
fn connect(nodes: &Arc<Nodes>, name: &'static str) -> Far {
    let ((to, its_from), (its_to, from)) = (unbounded(), unbounded());
    let link: Arc<dyn Link> = Arc::new(Wire { to: its_to, from: its_from });
    let nodes = Arc::clone(nodes);
    let state = |nodes: &Nodes| nodes.status().into_iter().find(|n| n.name == name).unwrap().state;
    let its = Arc::clone(&nodes);
    std::thread::spawn(move || its.attend(name, &link, None));
    while state(&nodes) != "ok" {
        std::thread::yield_now();
    }
    Far { to, from }
}

#[test]
fn events_wait_to_be_looked_at_before_they_are_said_to_be_heard() {
    let (nodes, dirty) = nodes(&["n2"]);
    let far = connect(&nodes, "n2");
    far.events(1, None, &["a/in", "b"]);
    assert_eq!(far.hears(), Message::Heard(1));
    assert!(dirty.waits(&RelPath::new(*b"a/in").unwrap()));
    far.events(2, Some("its queue overflowed"), &[]);
    assert_eq!(far.hears(), Message::Heard(2));
    let taken = dirty.take(&TakeFilter::default()).unwrap();
    let Taking::Whole(why) = &taken.scope else { panic!("{taken:?}") };
    assert!(why.contains("node 'n2': its queue overflowed"), "{why}");
}

#[test]
fn nothing_is_vouched_for_unless_every_node_has_answered() {
    let (nodes, dirty) = nodes(&["n2", "n3"]);
    let n2 = connect(&nodes, "n2");
    assert!(nodes.sync().unwrap().contains("'n3' is not connected"));
    let n3 = connect(&nodes, "n3");
    let answering = std::thread::spawn(move || {
        assert_eq!(n2.hears(), Message::Sync(1));
        n2.events(1, None, &["late/change"]);
        n2.say(&Message::Sync(1));
        assert_eq!(n2.hears(), Message::Heard(1));
        n2
    });
    let answers = std::thread::spawn(move || {
        assert_eq!(n3.hears(), Message::Sync(1));
        n3.say(&Message::Sync(1));
        n3
    });
    assert_eq!(nodes.sync(), None);
    // What was said before the answer is known.
    assert!(dirty.waits(&RelPath::new(*b"late/change").unwrap()));
    let (n2, n3) = (answering.join().unwrap(), answers.join().unwrap());
    drop(n3);
    while nodes.status()[1].state == "ok" {
        std::thread::yield_now();
    }
    assert!(nodes.sync().unwrap().contains("'n3'"), "it is gone");
    drop(n2);
}

#[test]
fn a_node_that_is_late_is_not_waited_for_again_until_it_has_answered() {
    let (nodes, _) = nodes(&["n2"]);
    let far = connect(&nodes, "n2");
    assert!(nodes.sync().unwrap().contains("late"));
    assert!(nodes.status()[0].state.contains("no answer"));
    assert!(nodes.sync().unwrap().contains("late"), "nothing more is asked");
    assert_eq!(far.hears(), Message::Sync(1));
    far.say(&Message::Sync(1));
    while nodes.status()[0].state != "ok" {
        std::thread::yield_now();
    }
    let answering = std::thread::spawn(move || {
        assert_eq!(far.hears(), Message::Sync(2));
        far.say(&Message::Sync(2));
        far
    });
    assert_eq!(nodes.sync(), None);
    drop(answering.join().unwrap());
}

#[test]
fn what_may_not_be_said_ends_the_link() {
    let repeated = |far: &Far| {
        far.events(1, None, &["a"]);
        far.events(1, None, &["a"]);
    };
    let wrong: [&dyn Fn(&Far); 3] =
        [&|far| far.say(&Message::Sync(7)), &|far| far.say(&Message::Goodbye), &repeated];
    for act in wrong {
        let (nodes, _) = nodes(&["n2"]);
        let far = connect(&nodes, "n2");
        act(&far);
        while nodes.status()[0].state == "ok" {
            std::thread::yield_now();
        }
        assert!(nodes.status()[0].state.contains("protocol"), "{:?}", nodes.status());
    }
}

#[test]
fn a_shared_file_system_is_covered_by_those_who_share_it_and_nothing_else_is() {
    let partial = Synced::Partial("changes by other hosts are not told of on nfs".into());
    let remote =
        WatchReport { kind: WatchKind::Inotify, remote: Some("nfs"), ..WatchReport::default() };
    let ((alone, _), (listed, _)) = (nodes(&[]), nodes(&["n2"]));
    assert!(alone.cover(&Synced::Complete, &WatchReport::default()));
    assert!(!alone.cover(&partial, &remote), "nobody else reports");
    assert!(listed.cover(&partial, &remote));
    let unwatched = WatchReport { unwatched_count: 1, ..remote.clone() };
    let failed = WatchReport { failed: Some("events cannot be read".into()), ..remote.clone() };
    let none = WatchReport { kind: WatchKind::None, ..remote.clone() };
    for report in [unwatched, failed, none, WatchReport { remote: None, ..remote }] {
        assert!(!listed.cover(&partial, &report), "{report:?}");
    }
    assert!(!listed.cover(&Synced::Gone("unmounted".into()), &WatchReport::default()));
}
