//! The service manager of a test: it hears a site's words, keeps its descriptors, and gives them to the next process.
//!
//! What it keeps is one share's: a queue of events and its ledger.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tempfile::TempDir;

use crate::common::{BINARY, text};
use crate::pair::{Daemon, Site};

/// What is kept, by name.
type Shelf = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

/// See the module.
pub(crate) struct Manager {
    folder: TempDir,
    shelf: Shelf,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let shelf = Shelf::default();
        let its = Arc::clone(&shelf);
        std::thread::spawn(move || {
            // Until the test process ends.
            while let Ok((words, descriptors)) = hear(&socket) {
                let name = words.lines().find_map(|line| line.strip_prefix("FDNAME="));
                let mut shelf = its.lock().unwrap();
                for line in words.lines() {
                    match (line, name) {
                        ("FDSTOREREMOVE=1", Some(name)) => drop(shelf.remove(name)),
                        ("FDSTORE=1", Some(_)) => {}
                        _ => continue,
                    }
                }
                for descriptor in descriptors {
                    shelf.entry(name.expect("a name").to_owned()).or_insert(descriptor);
                }
            }
        });
        Self { folder, shelf }
    }

    /// What is kept now.
    pub(crate) fn names(&self) -> Vec<String> {
        self.shelf.lock().unwrap().keys().cloned().collect()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.shelf.lock().unwrap().clear();
    }

    /// Writes into what is kept.
    pub(crate) fn scribble(&self, name: &str, at: u64, bytes: &[u8]) {
        let descriptor = self.shelf.lock().unwrap()[name].try_clone().unwrap();
        std::fs::File::from(descriptor).write_all_at(bytes, at).unwrap();
    }

    /// Starts `what` of the site with all that is kept, and waits until it is ready.
    pub(crate) fn start(&self, site: &Site, what: &str) -> Daemon {
        let daemon = self.spawn(site, what);
        daemon.wait_for("ready");
        daemon
    }

    pub(crate) fn spawn(&self, site: &Site, what: &str) -> Daemon {
        // The shell has what is kept as its input and output, and gives it at the numbers it is to have.
        let (names, mut given): (Vec<String>, Vec<Stdio>) = {
            let shelf = self.shelf.lock().unwrap();
            let copy = |(name, fd): (&String, &OwnedFd)| {
                (name.clone(), Stdio::from(fd.try_clone().unwrap()))
            };
            shelf.iter().map(copy).unzip()
        };
        assert!(given.len() == 2 || given.is_empty(), "{names:?}");
        let listens = "export LISTEN_FDS=2 LISTEN_PID=$$; exec 3<&0 4>&1 </dev/null >/dev/null; ";
        let begin = if given.is_empty() { "exec </dev/null >/dev/null; " } else { listens };
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{begin}exec \"$0\" \"$@\""), BINARY, what]);
        command.args(["--config", text(&site.config)]).env("HOME", "/nonexistent");
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify")).env("FDSTORE", "8");
        command.env("LISTEN_FDNAMES", names.join(":")).stderr(Stdio::piped());
        if let (Some(ledger), Some(events)) = (given.pop(), given.pop()) {
            command.stdin(events).stdout(ledger);
        }
        Daemon::of(command.spawn().expect("it starts"))
    }
}

/// One datagram.
fn hear(socket: &UnixDatagram) -> rustix::io::Result<(String, Vec<OwnedFd>)> {
    let (mut bytes, mut space) =
        ([0; 4_096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let len = rustix::net::recvmsg(socket, &mut into, &mut ancillary, flags)?.bytes;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(given) = message {
            descriptors.extend(given);
        }
    }
    Ok((String::from_utf8_lossy(&bytes[..len]).into_owned(), descriptors))
}
