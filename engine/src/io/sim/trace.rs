//! The trace of operations, for a seed that fails.

use std::io;

use rustix::io::Errno;

use super::faults::Step;
use super::state::State;
use super::tree::{Entries, Id, Node};

impl State {
    /// Puts an operation into the trace.
    pub(super) fn record(&mut self, text: &str, step: Step, error: Option<&io::Error>) {
        if self.config.trace_max == 0 {
            return;
        }
        let outcome = match (step, error.and_then(io::Error::raw_os_error)) {
            (Step::Cut, _) => "POWER CUT".to_owned(),
            (Step::Lie, _) => "EIO, FORGOTTEN".to_owned(),
            (Step::Fail(errno), _) => format!("FAULT {errno:?}"),
            (Step::Go, Some(code)) => format!("{:?}", Errno::from_raw_os_error(code)),
            (Step::Go, None) if error.is_some() => "failed".to_owned(),
            (Step::Go, None) => "ok".to_owned(),
        };
        let line = format!("{} {text}: {outcome}", self.faults.operations());
        self.note(line);
    }

    pub(super) fn note(&mut self, line: String) {
        if self.config.trace_max == 0 {
            return;
        }
        if self.trace.len() == self.config.trace_max {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// A name as the trace writes it.
    pub(super) fn path(&self, directory: Id, name: &[u8]) -> String {
        let mut path = name.escape_ascii().to_string();
        let mut at = directory;
        while let Some(above) = self.visible.get(at).and_then(|inode| inode.parent) {
            let entries = self.visible.entries(above).into_iter().flat_map(Entries::iter);
            let name = entries.filter(|(_, id)| **id == at).map(|(name, _)| name).next();
            path = format!("{}/{path}", name.map_or(&b"?"[..], |name| name).escape_ascii());
            at = above;
        }
        path
    }

    pub(super) fn handle_name(&self, id: Id) -> String {
        self.visible.get(id).map_or_else(|| "#?".to_owned(), |inode| format!("#{}", inode.number))
    }
}

/// What the trace calls a node.
pub(super) fn node_name(node: &Node) -> &'static str {
    match node {
        Node::File(_) => "file",
        Node::Directory(_) => "directory",
        Node::Symlink(_) => "link",
        Node::Fifo => "pipe",
        Node::Socket => "socket",
        Node::CharDevice(_) => "character device",
        Node::BlockDevice(_) => "block device",
    }
}
