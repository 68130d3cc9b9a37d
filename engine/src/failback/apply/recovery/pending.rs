//! What recovery's part has still to do, as names in a folder of ours.
//!
//! ```text
//! .farshore/quarantine/<epoch>-<plan>/placing                 "farshore-placing-v1\n": all that is to be placed is made
//! .farshore/failback/<plan>/pending/<number>.<task>.<inode>   what is still to be done
//! ```
//! The number is that of the divergence in the plan, from 0. The tasks: `p` the object is to be placed at the path, `b`
//! at the further one; `d` owner, mode, time and attributes of the inode at the path are to be set; `r`, whose number
//! says nothing, that what is to go did not go, all of it; `l` and `m` are not to do, for good: somebody else has the
//! path, or the further one, or what is of the path's task was not to be done to it. The first two are
//! the very objects, made with that inode; a name with another inode behind it changed places with what it was to
//! replace. The others are empty files. Where `l` stands beside `p`, or `m` beside `b`, the process ended between the two:
//! the object goes, or is kept if it is somebody's.
//!
//! Guarantees: from the moment at which `placing` is durable, what has no name here any more is done and is not done
//! again, whatever stands at its path: the call that places an object takes its name away, and what an empty file
//! stands for is durable before that goes. Before, nothing was
//! placed. A `placing` of another version is refused.

use std::collections::BTreeMap;
use std::io;

use crate::failback::place::GOING;
use crate::io::Storage;

/// Says that all is made.
pub(super) const PLACING: &[u8] = b"placing";
/// What it holds.
pub(super) const VERSION: &[u8] = b"farshore-placing-v1\n";

/// What is to be done about a divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// The object is placed at the path.
    Place,
    /// The object is placed at the further path.
    Beside,
    /// The inode at the path is given owner, mode, time and attributes.
    Dress,
    /// What is to go goes, at all paths.
    Remove,
    /// Nothing: somebody else has the path.
    Late,
    /// Nothing: somebody else has the further path.
    LateBeside,
}

impl Task {
    const ALL: [(Self, u8); 6] = [
        (Self::Place, b'p'),
        (Self::Beside, b'b'),
        (Self::Dress, b'd'),
        (Self::Remove, b'r'),
        (Self::Late, b'l'),
        (Self::LateBeside, b'm'),
    ];

    fn letter(self) -> char {
        let found = Self::ALL.iter().find(|(task, _)| *task == self);
        char::from(found.map_or(b'?', |(_, letter)| *letter))
    }

    /// What it becomes when somebody else has the path.
    pub(super) fn late(self) -> Self {
        if self == Self::Beside { Self::LateBeside } else { Self::Late }
    }
}

/// The name of a task.
pub(super) fn name_of(number: u64, task: Task, inode: u64) -> Vec<u8> {
    format!("{number}.{}.{inode}", task.letter()).into_bytes()
}

fn parsed(name: &[u8]) -> Option<(u64, Task, u64)> {
    let mut parts = std::str::from_utf8(name).ok()?.split('.');
    let (number, letter, inode) = (parts.next()?, parts.next()?, parts.next()?);
    let (task, _) = Task::ALL.iter().find(|(_, of)| letter.as_bytes() == [*of])?;
    parts.next().is_none().then_some(())?;
    Some((number.parse().ok()?, *task, inode.parse().ok()?))
}

/// What is still to be done.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// By number and task: the inode.
    tasks: BTreeMap<(u64, Task), u64>,
    /// The same of those that a crash met between two names.
    pub(super) going: BTreeMap<(u64, Task), u64>,
}

impl Pending {
    pub(super) fn read<S: Storage>(storage: &S, at: &S::Directory) -> io::Result<Self> {
        let mut pending = Self::default();
        storage.list(at, &mut |listed| {
            let name = listed.name.strip_suffix(GOING);
            let into = if name.is_some() { &mut pending.going } else { &mut pending.tasks };
            if let Some((number, task, inode)) = parsed(name.unwrap_or(listed.name)) {
                into.insert((number, task), inode);
            }
        })?;
        Ok(pending)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.going.is_empty()
    }

    /// Whether any task is of that kind.
    pub(super) fn has(&self, task: Task) -> bool {
        self.tasks.keys().any(|(_, of)| *of == task)
    }

    /// The names of what nothing is left to do of when it is durable.
    pub(super) fn notes(&self) -> impl Iterator<Item = Vec<u8>> {
        let is_note = |task| matches!(task, Task::Dress | Task::Remove);
        let notes = self.tasks.iter().filter(move |((_, task), _)| is_note(*task));
        notes.map(|((number, task), inode)| name_of(*number, *task, *inode))
    }

    /// The inode of a task, if it is to be done.
    pub(super) fn of(&self, number: u64, task: Task) -> Option<u64> {
        self.tasks.get(&(number, task)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_to_be_done() {
        for (task, _) in Task::ALL {
            assert_eq!(parsed(&name_of(7, task, 99)), Some((7, task, 99)));
        }
        for name in ["", "7.p", "7.x.9", "7.p.9.going", "made", "7.p.-1", "7.pp.1"] {
            assert_eq!(parsed(name.as_bytes()), None, "{name}");
        }
    }
}
