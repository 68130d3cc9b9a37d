//! What each thread of a comparison does.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use farshore_core::entry::DeviceNumber;
use farshore_core::path::RelPath;
use farshore_core::policy::{Action, Verdict};

use super::compare::{At, Looked, Place, Trouble};
use super::content::Buffers;
use super::links::{Claim, Links, Pair};
use super::queue::{Large, Queue, Work};
use super::{Aspect, Difference, Side, VerifyConfig, VerifyProgress};
use crate::io::{FileKind, Storage};
use crate::scan::candidate;

/// Waits before the second and each further look at what does not hold still.
const WAITS: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(250)];

/// Files of this length are worth a worker of their own.
const LARGE_MIN: u64 = 4 << 20;

/// A directory open on both sides, with the names of both.
pub(super) struct Opened<A: Storage, B: Storage> {
    a: A::Directory,
    b: B::Directory,
    path: RelPath,
    bytes: Vec<u8>,
    names: Vec<Name>,
}

impl<A: Storage, B: Storage> Opened<A, B> {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

struct Name {
    start: usize,
    len: u16,
    in_a: bool,
    in_b: bool,
}

impl Name {
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..self.start + usize::from(self.len)]
    }
}

/// What all workers share.
pub(super) struct Run<'a, A: Storage, B: Storage> {
    a: &'a A,
    b: &'a B,
    config: &'a VerifyConfig<'a>,
    progress: &'a VerifyProgress,
    /// The devices of the roots; others are mounted there.
    devices: (DeviceNumber, DeviceNumber),
    queue: Queue<A, B>,
    links: Mutex<Links>,
}

impl<'a, A: Storage, B: Storage> Run<'a, A, B> {
    pub(super) fn new(
        a: &'a A,
        b: &'a B,
        config: &'a VerifyConfig<'a>,
        progress: &'a VerifyProgress,
        devices: (DeviceNumber, DeviceNumber),
    ) -> Self {
        let (queue, links) = (Queue::new(), Mutex::default());
        Self { a, b, config, progress, devices, queue, links }
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more work is given out once this is dropped.
    pub(super) fn stop_on_drop(&self) -> impl Drop + use<'_, 'a, A, B> {
        StopOnDrop(&self.queue)
    }

    /// How the groups of names differ; to be asked when all is compared.
    pub(super) fn finish_links(self) -> Vec<Difference> {
        self.links.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    }
}

struct StopOnDrop<'a, A: Storage, B: Storage>(&'a Queue<A, B>);

impl<A: Storage, B: Storage> Drop for StopOnDrop<'_, A, B> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What one worker counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) excluded: u64,
}

/// One thread's part.
pub(super) struct Worker<'a, A: Storage, B: Storage> {
    run: &'a Run<'a, A, B>,
    out: Sender<Difference>,
    buffers: Buffers,
    tally: Tally,
}

/// What came of one look.
struct Concluded {
    aspects: Vec<Aspect>,
    /// Whether both are directories to be entered.
    enter: bool,
}

impl<'a, A: Storage, B: Storage> Worker<'a, A, B> {
    pub(super) fn new(run: &'a Run<'a, A, B>, out: Sender<Difference>) -> Self {
        Self { run, out, buffers: Buffers::new(), tally: Tally::default() }
    }

    /// Works until nothing is left.
    pub(super) fn run(&mut self) -> Tally {
        while let Some((work, _busy)) = self.run.queue.take() {
            match work {
                Work::Root => self.root(),
                Work::Directory(path) => self.open(path),
                Work::Names(directory, names) => self.names(&directory, names),
                Work::Large(large) => {
                    let Large { directory, path, looked } = *large;
                    self.entry(&directory.a, &directory.b, &path, Some(looked));
                }
            }
        }
        self.tally
    }

    fn report(&self, path: &RelPath, aspect: Aspect) {
        if self.out.send(Difference { path: path.clone(), aspect }).is_err() {
            // Nobody listens any more.
            self.run.queue.stop();
        }
    }

    fn root(&mut self) {
        let run = self.run;
        self.count_entry();
        if self.entry(run.a.root(), run.b.root(), &RelPath::root(), None) {
            self.open(RelPath::root());
        }
    }

    /// Opens and lists a directory of both sides. From the root by its path, so that no handles are
    /// held for what waits.
    fn open(&mut self, path: RelPath) {
        match self.list(&path) {
            Ok(opened) => self.run.queue.push_open(Arc::new(opened)),
            Err(trouble) => self.report(&path, trouble.into()),
        }
    }

    fn list(&self, path: &RelPath) -> Result<Opened<A, B>, Trouble> {
        let run = self.run;
        let a = run.a.open_directory(run.a.root(), path.as_bytes()).at(Side::A, "opening it")?;
        let b = run.b.open_directory(run.b.root(), path.as_bytes()).at(Side::B, "opening it")?;
        let mut bytes = Vec::new();
        let mut names = Vec::new();
        let mut too_long = None;
        let mut add = |name: &[u8], side: Side| {
            if path.is_root() && name == run.config.own_folder {
                return;
            }
            let Ok(len) = u16::try_from(name.len()) else {
                too_long = Some(side);
                return;
            };
            let (in_a, in_b) = (side == Side::A, side == Side::B);
            names.push(Name { start: bytes.len(), len, in_a, in_b });
            bytes.extend_from_slice(name);
        };
        run.a.list(&a, &mut |listed| add(listed.name, Side::A)).at(Side::A, "listing it")?;
        run.b.list(&b, &mut |listed| add(listed.name, Side::B)).at(Side::B, "listing it")?;
        if let Some(side) = too_long {
            let source = std::io::ErrorKind::InvalidFilename.into();
            return Err(Trouble::Failed { side, step: "listing it", source });
        }
        names.sort_unstable_by(|x, y| x.of(&bytes).cmp(y.of(&bytes)));
        names.dedup_by(|next, first| {
            let same = next.of(&bytes) == first.of(&bytes);
            if same {
                first.in_a |= next.in_a;
                first.in_b |= next.in_b;
            }
            same
        });
        Ok(Opened { a, b, path: path.clone(), bytes, names })
    }

    /// Compares some names of a directory.
    fn names(&mut self, directory: &Arc<Opened<A, B>>, range: Range<usize>) {
        let mut batch = Vec::with_capacity(range.len());
        for name in &directory.names[range] {
            match directory.path.join(name.of(&directory.bytes)) {
                Ok(path) => {
                    let place = self.place(&directory.a, &directory.b, &path);
                    match place.look(name.in_a, name.in_b) {
                        Ok(looked) => batch.push((path, looked)),
                        Err(trouble) => {
                            self.count_entry();
                            self.report(&path, trouble.into());
                        }
                    }
                }
                Err(error) => {
                    let side = if name.in_a { Side::A } else { Side::B };
                    let step = "naming what lies below";
                    let error = error.to_string();
                    self.report(&directory.path, Aspect::Unreadable { side, step, error });
                }
            }
        }
        self.drop_excluded(&mut batch);
        let mut subdirectories: Vec<Box<[u8]>> = Vec::new();
        for (path, looked) in batch {
            self.count_entry();
            let Some((path, looked)) = self.set_apart(directory, path, looked) else { continue };
            if self.entry(&directory.a, &directory.b, &path, Some(looked)) {
                subdirectories.push(path.name().into());
            }
        }
        self.run.queue.push_waiting(&directory.path, subdirectories);
    }

    /// Leaves a large file to whoever is free; gives back what is not.
    fn set_apart(
        &self,
        directory: &Arc<Opened<A, B>>,
        path: RelPath,
        looked: Looked,
    ) -> Option<(RelPath, Looked)> {
        let Looked { a: Some(a), b: Some(b), .. } = looked else { return Some((path, looked)) };
        let regular = a.kind == FileKind::Regular && b.kind == FileKind::Regular;
        if !regular || a.size != b.size || a.size < LARGE_MIN || self.run.config.threads < 2 {
            return Some((path, looked));
        }
        let large = Box::new(Large { directory: Arc::clone(directory), path, looked });
        self.run.queue.push_large(large).err().map(|back| (back.path, back.looked))
    }

    /// Takes out what does not travel.
    fn drop_excluded(&mut self, batch: &mut Vec<(RelPath, Looked)>) {
        let policy = self.run.config.policy;
        if policy.is_trivial() {
            return;
        }
        let candidates: Vec<_> = batch
            .iter()
            .filter_map(|(path, Looked { a, b, .. })| {
                a.as_ref().or(b.as_ref()).map(|stat| candidate(path, stat))
            })
            .collect();
        let mut verdicts = policy.exclude(&candidates).into_iter();
        let mut excluded = 0;
        batch.retain(|(_, Looked { a, b, .. })| {
            if a.is_none() && b.is_none() {
                return true;
            }
            let kept = match verdicts.next().unwrap_or(Verdict::REPLICATE).action {
                Action::Replicate => true,
                Action::Exclude => false,
                // What is still being written at A comes later; what only B has never came from A.
                Action::Defer => a.is_none(),
            };
            excluded += u64::from(!kept);
            kept
        });
        self.tally.excluded += excluded;
    }

    fn count_entry(&mut self) {
        self.tally.entries += 1;
        self.run.progress.entries.fetch_add(1, Relaxed);
    }

    fn place<'p>(
        &self,
        a: &'p A::Directory,
        b: &'p B::Directory,
        path: &'p RelPath,
    ) -> Place<'p, A, B>
    where
        'a: 'p,
    {
        Place { a: (self.run.a, a), b: (self.run.b, b), path }
    }

    /// Compares one path until it holds still, and reports; whether to enter it.
    fn entry(
        &mut self,
        a: &A::Directory,
        b: &B::Directory,
        path: &RelPath,
        looked: Option<Looked>,
    ) -> bool {
        let place = self.place(a, b, path);
        let mut claim = None;
        let mut waits = WAITS.iter();
        // In a settled file a change since then will show.
        let mut looked = looked.filter(|l| l.unsettled().is_none());
        let concluded = loop {
            let mut enter = false;
            match self.look_once(&place, looked.take(), &mut claim, &mut enter) {
                Ok(aspects) => break Concluded { aspects, enter },
                Err(trouble) => match waits.next() {
                    Some(wait) if trouble.is_passing() => std::thread::sleep(*wait),
                    // What lies below may be readable all the same.
                    _ => break Concluded { aspects: vec![trouble.into()], enter },
                },
            }
        };
        if let Some(claim) = claim {
            self.run.links().settle(claim);
        }
        for aspect in concluded.aspects {
            self.report(path, aspect);
        }
        concluded.enter
    }

    fn look_once(
        &mut self,
        place: &Place<'_, A, B>,
        looked: Option<Looked>,
        claim: &mut Option<Claim>,
        enter: &mut bool,
    ) -> Result<Vec<Aspect>, Trouble> {
        let looked = looked.map_or_else(|| place.look_settled(), Ok)?;
        self.claim(place.path, &looked, claim);
        let (a, b) = match (&looked.a, &looked.b) {
            (None, None) => return Ok(Vec::new()),
            (Some(a), None) => return Ok(vec![Aspect::OnlyInA { kind: a.kind }]),
            (None, Some(b)) => return Ok(vec![Aspect::OnlyInB { kind: b.kind }]),
            (Some(a), Some(b)) => (a, b),
        };
        let (device_a, device_b) = self.run.devices;
        for (stat, device, side) in [(a, device_a, Side::A), (b, device_b, Side::B)] {
            if stat.kind == FileKind::Directory && stat.device != device {
                let source = std::io::ErrorKind::CrossesDevices.into();
                let step = "entering a mount point";
                return Ok(vec![Trouble::Failed { side, step, source }.into()]);
            }
        }
        if a.kind != b.kind {
            return Ok(vec![Aspect::Kind { a: a.kind, b: b.kind }]);
        }
        *enter = a.kind == FileKind::Directory;
        if claim.is_some_and(|claim| !claim.compares) {
            return Ok(Vec::new());
        }
        let mut aspects = Vec::new();
        let mut compared = 0;
        let bytes = &self.run.progress.bytes;
        let mut count = |len| {
            compared += len;
            bytes.fetch_add(len, Relaxed);
        };
        let grain = self.run.config.mtime_grain_nanos;
        let done = place.compare((a, b), grain, &mut self.buffers, &mut count, &mut aspects);
        match done {
            Ok(()) => self.tally.bytes += compared,
            Err(_) => drop(bytes.fetch_sub(compared, Relaxed)),
        }
        done.map(|()| aspects)
    }

    /// Notes which inodes share this path; once for all looks at it, unless they differ.
    fn claim(&self, path: &RelPath, looked: &Looked, claim: &mut Option<Claim>) {
        let found = match (&looked.a, &looked.b) {
            (Some(a), Some(b)) => Pair::of(a, b).map(|pair| (pair, a, b)),
            _ => None,
        };
        if claim.map(|claim| claim.pair) == found.map(|(pair, ..)| pair) {
            return;
        }
        let mut links = self.run.links();
        if let Some(former) = claim.take() {
            links.leave(former);
        }
        *claim = found.map(|(pair, a, b)| links.meet(pair, path, a, b));
    }
}
