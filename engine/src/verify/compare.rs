//! Comparing what stands at one path.
//!
//! Guarantees: what is concluded was true of both sides over the whole look: facts are taken before
//! and after, by the same handle, and must be the same. A file whose last change is so recent that
//! one more would not show in its times is first left to settle.

use std::io;
use std::time::{Duration, SystemTime};

use farshore_core::entry::Timestamp;
use farshore_core::path::RelPath;
use rustix::io::Errno;

use super::content::{self, Buffers};
use super::{Aspect, Side};
use crate::io::{FileKind, Object, Stat, Storage};
use crate::observe::same_content_facts;

/// Times of files move in steps of a timer tick, 10 ms at the most: an older change time than this
/// cannot stay the same over another change.
const SETTLED: Duration = Duration::from_millis(20);

/// Holes of A that make it worth a word when B has none.
const HOLES_TOLD_MIN: u64 = 1 << 20;

/// What is in the way of a conclusion.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It does not hold still.
    Changed(Side),
    /// A call failed.
    Failed { side: Side, step: &'static str, source: io::Error },
}

impl Trouble {
    /// Whether another look may do better: it changed, or was swapped for something else.
    pub(super) fn is_passing(&self) -> bool {
        let passing =
            [Errno::NOENT, Errno::AGAIN, Errno::STALE, Errno::LOOP, Errno::INVAL, Errno::NOTDIR];
        match self {
            Self::Changed(_) => true,
            Self::Failed { source, .. } => source
                .raw_os_error()
                .is_some_and(|raw| passing.iter().any(|errno| errno.raw_os_error() == raw)),
        }
    }
}

impl From<Trouble> for Aspect {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Changed(side) => Self::Unreadable {
                side,
                step: "comparing it",
                error: "unstable: it changed each time it was compared".to_owned(),
            },
            Trouble::Failed { side, step, source } => {
                Self::Unreadable { side, step, error: source.to_string() }
            }
        }
    }
}

/// Gives a failed call its side and step.
pub(super) trait At<T> {
    fn at(self, side: Side, step: &'static str) -> Result<T, Trouble>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, side: Side, step: &'static str) -> Result<T, Trouble> {
        self.map_err(|source| Trouble::Failed { side, step, source })
    }
}

/// Facts of both sides; `None` where there is nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub(super) a: Option<Stat>,
    pub(super) b: Option<Stat>,
    /// No later than the facts.
    since: SystemTime,
}

impl Looked {
    /// How long until a change would show, if it would not yet.
    pub(super) fn unsettled(&self) -> Option<(Side, Duration)> {
        let wait = |stat: Option<Stat>| {
            let stat = stat.filter(|s| s.kind == FileKind::Regular)?;
            let seconds = u64::try_from(stat.ctime.seconds).ok()?;
            let ctime = SystemTime::UNIX_EPOCH + Duration::new(seconds, stat.ctime.nanos);
            // A time to come is another machine's clock: nothing can be said by ours.
            let age = self.since.duration_since(ctime).ok()?;
            SETTLED.checked_sub(age).filter(|wait| !wait.is_zero())
        };
        match (wait(self.a), wait(self.b)) {
            (Some(a), Some(b)) => Some((Side::A, a.max(b))),
            (Some(a), None) => Some((Side::A, a)),
            (None, b) => b.map(|b| (Side::B, b)),
        }
    }
}

/// One path in both trees: the directories it is in and its name there.
#[derive(Debug)]
pub(super) struct Place<'a, A: Storage, B: Storage> {
    pub(super) a: (&'a A, &'a A::Directory),
    pub(super) b: (&'a B, &'a B::Directory),
    pub(super) path: &'a RelPath,
}

/// The object at `path` in `directory`: itself, for the root.
fn object<'a, S: Storage>(directory: &'a S::Directory, path: &'a RelPath) -> Object<'a, S> {
    if path.is_root() {
        Object::Directory(directory)
    } else {
        Object::Named(directory, path.name())
    }
}

fn look_at<S: Storage>(
    storage: &S,
    object: Object<'_, S>,
    side: Side,
) -> Result<Option<Stat>, Trouble> {
    match storage.stat(object) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.at(side, "looking at it").map(Some),
    }
}

impl<A: Storage, B: Storage> Place<'_, A, B> {
    /// The facts now; of what a listing had not, none.
    pub(super) fn look(&self, in_a: bool, in_b: bool) -> Result<Looked, Trouble> {
        let since = SystemTime::now();
        let a = if in_a { look_at(self.a.0, object(self.a.1, self.path), Side::A)? } else { None };
        let b = if in_b { look_at(self.b.0, object(self.b.1, self.path), Side::B)? } else { None };
        Ok(Looked { a, b, since })
    }

    /// The facts once a further change would show in them.
    pub(super) fn look_settled(&self) -> Result<Looked, Trouble> {
        let mut looked = self.look(true, true)?;
        if let Some((_, wait)) = looked.unsettled() {
            std::thread::sleep(wait);
            looked = self.look(true, true)?;
        }
        match looked.unsettled() {
            None => Ok(looked),
            Some((side, _)) => Err(Trouble::Changed(side)),
        }
    }

    /// Compares all but what lies below, both sides being of one kind and having these facts.
    pub(super) fn compare(
        &self,
        (a, b): (&Stat, &Stat),
        mtime_grain_nanos: u32,
        buffers: &mut Buffers,
        count: &mut dyn FnMut(u64),
        out: &mut Vec<Aspect>,
    ) -> Result<(), Trouble> {
        if a.kind == FileKind::Regular {
            self.compare_files(a, b, buffers, count, out)?;
        } else {
            self.compare_nodes(a, b, out)?;
        }
        if a.kind != FileKind::Symlink && a.mode != b.mode {
            out.push(Aspect::Mode { a: a.mode, b: b.mode });
        }
        let (owner_a, owner_b) = ((a.uid, a.gid), (b.uid, b.gid));
        if owner_a != owner_b {
            out.push(Aspect::Owner { a: owner_a, b: owner_b });
        }
        let cut = |time: Timestamp| time.truncate(mtime_grain_nanos);
        if cut(a.mtime) != cut(b.mtime) {
            out.push(Aspect::Mtime { a: a.mtime, b: b.mtime });
        }
        Ok(())
    }

    fn compare_files(
        &self,
        a: &Stat,
        b: &Stat,
        buffers: &mut Buffers,
        count: &mut dyn FnMut(u64),
        out: &mut Vec<Aspect>,
    ) -> Result<(), Trouble> {
        let name = self.path.name();
        let ((store_a, at_a), (store_b, at_b)) = (self.a, self.b);
        let file_a = store_a.open_file(at_a, name).at(Side::A, "opening it")?;
        let file_b = store_b.open_file(at_b, name).at(Side::B, "opening it")?;
        if a.size == b.size {
            let left = content::Opened { storage: store_a, file: &file_a, allocated: a.allocated };
            let right = content::Opened { storage: store_b, file: &file_b, allocated: b.allocated };
            let outcome = content::compare(&left, &right, a.size, buffers, count)?;
            if let Some((offset, a, b)) = outcome.difference {
                out.push(Aspect::Content { offset, a, b });
            }
            let far_larger = b.allocated > a.allocated.saturating_mul(2) + HOLES_TOLD_MIN;
            if outcome.holes_in_a >= HOLES_TOLD_MIN && far_larger {
                out.push(Aspect::Holes { a: a.allocated, b: b.allocated });
            }
        } else {
            out.push(Aspect::Size { a: a.size, b: b.size });
        }
        self.compare_attributes(Object::File(&file_a), Object::File(&file_b), out)?;
        self.check_unchanged(a, b, Object::File(&file_a), Object::File(&file_b))
    }

    fn compare_nodes(&self, a: &Stat, b: &Stat, out: &mut Vec<Aspect>) -> Result<(), Trouble> {
        let ((store_a, at_a), (store_b, at_b)) = (self.a, self.b);
        match a.kind {
            FileKind::Symlink => {
                let name = self.path.name();
                let a = store_a.read_link(at_a, name).at(Side::A, "reading the link")?;
                let b = store_b.read_link(at_b, name).at(Side::B, "reading the link")?;
                if a != b {
                    out.push(Aspect::Target { a: a.into(), b: b.into() });
                }
            }
            FileKind::CharDevice | FileKind::BlockDevice if a.number != b.number => {
                out.push(Aspect::DeviceNumber { a: a.number, b: b.number });
            }
            _ => {}
        }
        let (object_a, object_b) = (object(at_a, self.path), object(at_b, self.path));
        self.compare_attributes(object_a, object_b, out)?;
        self.check_unchanged(a, b, object_a, object_b)
    }

    fn compare_attributes(
        &self,
        a: Object<'_, A>,
        b: Object<'_, B>,
        out: &mut Vec<Aspect>,
    ) -> Result<(), Trouble> {
        const STEP: &str = "reading its attributes";
        let mut of_a = self.a.0.xattrs(a).at(Side::A, STEP)?;
        let mut of_b = self.b.0.xattrs(b).at(Side::B, STEP)?;
        of_a.sort_unstable();
        of_b.sort_unstable();
        if of_a == of_b {
            return Ok(());
        }
        let mut of_b = of_b.into_iter().peekable();
        let mut differ = |name, a, b| out.push(Aspect::Attributes { name, a, b });
        for (name, value) in of_a {
            while let Some((extra, value)) = of_b.next_if(|(other, _)| *other < name) {
                differ(extra, None, Some(value));
            }
            match of_b.next_if(|(other, _)| *other == name) {
                Some((_, other)) if other == value => {}
                other => differ(name, Some(value), other.map(|(_, other)| other)),
            }
        }
        of_b.for_each(|(extra, value)| differ(extra, None, Some(value)));
        Ok(())
    }

    fn check_unchanged(
        &self,
        a: &Stat,
        b: &Stat,
        object_a: Object<'_, A>,
        object_b: Object<'_, B>,
    ) -> Result<(), Trouble> {
        const STEP: &str = "looking at it again";
        let after = self.a.0.stat(object_a).at(Side::A, STEP)?;
        if !same_content_facts(a, &after) {
            return Err(Trouble::Changed(Side::A));
        }
        let after = self.b.0.stat(object_b).at(Side::B, STEP)?;
        if !same_content_facts(b, &after) {
            return Err(Trouble::Changed(Side::B));
        }
        Ok(())
    }
}
