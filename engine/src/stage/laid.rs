//! What a staged file shares with content held here, and what is written over it.
//!
//! Guarantees: where this module says that bytes stand in the file, they are those that were read from
//! the base and hashed. The order proves it: the base is looked at, then its blocks are shared, then it
//! is read, then it is looked at again. With equal facts at both looks nothing changed between sharing
//! and reading: sharing writes back and write-protects what the base has in memory, so that a later
//! change moves its change time, even one through a mapping. Where that proves nothing (a file system
//! that keeps times elsewhere, a base changed within a tick of the clock before the first look), the
//! shared blocks are read from the staged file itself; where the facts moved, all of it is read again.
//!
//! A file that follows its base at the same places is *laid*: it takes the base's blocks a stretch at a
//! time, and only what differs is written, in whole blocks, since a part of a block would first have to
//! be read from the disk. From the next byte to be appended on, all that is laid is still the base's.

use std::ops::Range;
use std::sync::Arc;

use farshore_core::recipe::{ChunkId, Extent};

use super::assembly::Assembly;
use super::{HOLE, OpError, Stager, is_fatal, write_extent};
use crate::io::{Object, Stat, Storage};
use crate::observe::same_content_facts;

/// Bytes laid at once: what is wasted when the file soon parts from its base.
const STRETCH: u64 = 64 << 20;
/// Shorter stretches are copied: sharing blocks is a transaction of the file system.
const SHARE_MIN: u64 = 64 * 1024;
/// Bases of one file that are remembered to be looked at again at its end.
const BASES_MAX: usize = 8;
/// Times a file is laid anew, at most: it may part from its base at every chunk.
const RESTARTS_MAX: u32 = 64;
/// No clock of a file system ticks more rarely than this, in nanoseconds: a change within one tick
/// carries the time of the one before.
const TICK_NS: i64 = 20_000_000;
const BLOCK: u64 = HOLE as u64;

/// What a file shares with others.
pub(super) struct Laid<S: Storage> {
    /// Where it stands as `base`, from the next byte to be appended on.
    range: Range<u64>,
    base: Option<Arc<S::File>>,
    /// Blocks before this were written, or shared with something else.
    written: u64,
    /// No byte at or after this was ever shared: there the file is a hole.
    touched: u64,
    /// Times it was laid anew, rather than further.
    restarts: u32,
    bases: Vec<Shared<S>>,
    /// Facts of a base moved: nothing that is shared is proven.
    moved: bool,
}

impl<S: Storage> Default for Laid<S> {
    fn default() -> Self {
        Self {
            range: 0..0,
            base: None,
            written: 0,
            touched: 0,
            restarts: 0,
            bases: Vec::new(),
            moved: false,
        }
    }
}

/// A base and its facts before anything of it was shared.
struct Shared<S: Storage> {
    file: Arc<S::File>,
    before: Stat,
    is_sure: bool,
}

impl<S: Storage> Laid<S> {
    fn is_base(&self, file: &Arc<S::File>) -> bool {
        self.base.as_ref().is_some_and(|base| Arc::ptr_eq(base, file))
    }

    /// Whether the file stands as `base` in all of `range`, which begins at the next byte.
    pub(super) fn covers(&self, base: &Arc<S::File>, range: &Range<u64>) -> bool {
        self.is_base(base) && self.range.start <= range.start && range.end <= self.range.end
    }

    /// What is to be written for a change of `range`: whole blocks where what stands around it is
    /// known and not in memory already.
    fn widened(&self, range: Range<u64>) -> Range<u64> {
        let (start, end) = (range.start / BLOCK * BLOCK, range.end.next_multiple_of(BLOCK));
        let from = start >= self.written && start >= self.range.start;
        (if from { start } else { range.start })..(if end <= self.range.end {
            end
        } else {
            range.end
        })
    }
}

impl<S: Storage> Stager<'_, S> {
    /// Looks at `base` before anything of it is shared: whether it can be, and whether what is read
    /// from it afterwards is proof of what was shared.
    fn first_look(&self, assembly: &mut Assembly<S>, base: &Arc<S::File>) -> Option<bool> {
        let is_dense = |stat: &Stat| stat.allocated >= stat.size;
        if let Some(known) = assembly.laid.bases.iter().find(|b| Arc::ptr_eq(&b.file, base)) {
            return is_dense(&known.before).then_some(known.is_sure);
        }
        let (file, _) = assembly.file.as_ref()?;
        let before = self.storage.stat(Object::File(&**base)).ok()?;
        let begun = self.storage.stat(Object::File(file)).ok()?.ctime;
        let is_sure = self.times_settle && begun.nanos_since(before.ctime) > TICK_NS;
        if assembly.laid.bases.len() == BASES_MAX {
            let oldest = assembly.laid.bases.remove(0);
            assembly.laid.moved |= self.has_moved(&oldest);
        }
        let dense = is_dense(&before);
        assembly.laid.bases.push(Shared { file: Arc::clone(base), before, is_sure });
        dense.then_some(is_sure)
    }

    fn has_moved(&self, base: &Shared<S>) -> bool {
        let same = |now: Stat| same_content_facts(&base.before, &now);
        base.is_sure && !self.storage.stat(Object::File(&*base.file)).is_ok_and(same)
    }

    /// Lays the file as its base from the next byte on, if `end` and the stretch laid already leave
    /// something to lay; `data_end` says how far the base has data, from where and up to where asked.
    pub(super) fn lay(
        &self,
        assembly: &mut Assembly<S>,
        base: &Arc<S::File>,
        end: u64,
        data_end: impl Fn(u64, u64) -> u64,
    ) -> Result<(), OpError> {
        let at = assembly.offset;
        let laid = &assembly.laid;
        if assembly.sparse || laid.restarts > RESTARTS_MAX || laid.covers(base, &(at..end)) {
            return Ok(());
        }
        let follows = laid.is_base(base) && (laid.range.start..=laid.range.end).contains(&at);
        let start = if follows { laid.range.end } else { at.next_multiple_of(BLOCK) };
        let limit = start.saturating_add(STRETCH).min(assembly.size);
        let end = data_end(start, limit).min(limit) / BLOCK * BLOCK;
        if end < start + SHARE_MIN || !self.storage.shares_blocks(&self.folder) {
            return Ok(());
        }
        let sure = self.first_look(assembly, base);
        let Some((file, _)) = assembly.file.as_ref().filter(|_| sure == Some(true)) else {
            return Ok(());
        };
        let shared = self.storage.copy_range(base, start, file, start, end - start);
        let laid = &mut assembly.laid;
        laid.touched = laid.touched.max(end);
        match shared {
            Ok(()) => {
                laid.restarts += u32::from(!follows);
                laid.range = if follows { laid.range.start..end } else { start..end };
                laid.base = Some(Arc::clone(base));
                Ok(())
            }
            Err(e) if is_fatal(&e) => Err(self.write_failed(assembly, e)),
            Err(_) => {
                // What was shared of it is written over like anything else.
                laid.restarts = u32::MAX;
                Ok(())
            }
        }
    }

    /// Has the file share the blocks of a run with its base, where blocks line up and the file system
    /// can: `None` when it was not done, else whether what the base says is proof of it. A file with
    /// holes, or from one with holes, is written block by block instead, since those may not be the
    /// same.
    pub(super) fn share(
        &self,
        assembly: &mut Assembly<S>,
        base: &Arc<S::File>,
        from: u64,
        len: u64,
    ) -> Result<Option<bool>, OpError> {
        let to = assembly.offset;
        let lines_up = from % BLOCK == to % BLOCK && len <= assembly.size - to;
        if assembly.sparse || !lines_up || len < SHARE_MIN || assembly.file.is_none() {
            return Ok(None);
        }
        if !self.storage.shares_blocks(&self.folder) {
            return Ok(None);
        }
        let Some(sure) = self.first_look(assembly, base) else { return Ok(None) };
        let Some((file, _)) = &assembly.file else { return Ok(None) };
        let (start, end) = (to.next_multiple_of(BLOCK), (to + len) / BLOCK * BLOCK);
        let edge = |range: Range<u64>| {
            let mut bytes = [0; HOLE];
            // Shorter than a block.
            let bytes = &mut bytes[..usize::try_from(range.end - range.start).unwrap_or(HOLE)];
            let read = self.storage.read_at(base, from + (range.start - to), bytes)?;
            // What is missing is found out when the run is hashed.
            self.storage.write_at(file, range.start, &bytes[..read])
        };
        let shared = self
            .storage
            .copy_range(base, from + (start - to), file, start, end - start)
            .and_then(|()| edge(to..start))
            .and_then(|()| edge(end..to + len));
        let laid = &mut assembly.laid;
        laid.written = laid.written.max((to + len).next_multiple_of(BLOCK));
        laid.touched = laid.touched.max(to + len);
        match shared {
            Ok(()) => Ok(Some(sure)),
            Err(e) if is_fatal(&e) => Err(self.write_failed(assembly, e)),
            Err(_) => Ok(None),
        }
    }

    /// Writes the part `changed` of the chunk `bytes` that is appended next.
    pub(super) fn write(
        &self,
        assembly: &mut Assembly<S>,
        bytes: &[u8],
        changed: Range<usize>,
    ) -> Result<(), OpError> {
        let Some((file, _)) = &assembly.file else { return Ok(()) };
        let at = assembly.offset;
        let (from, to) = (at + changed.start as u64, at + changed.end as u64);
        let laid = &assembly.laid;
        let written = if from >= laid.range.end || to <= laid.range.start {
            write_extent(self.storage, file, from, &bytes[changed], assembly.sparse)
        } else {
            let wide = laid.widened(from..to);
            let chunk = at..at + bytes.len() as u64;
            // Around the chunk the file stands as its base: what is not read is not written.
            let before = self.of_base(laid, wide.start..wide.start.max(chunk.start));
            let after = self.of_base(laid, wide.end.min(chunk.end)..wide.end);
            let inner = |at: u64| usize::try_from(at - chunk.start).unwrap_or(bytes.len());
            let first = inner(wide.start.max(chunk.start));
            let within = &bytes[first..inner(wide.end.min(chunk.end))];
            let start = wide.start.max(chunk.start) - before.len() as u64;
            if before.is_empty() && after.is_empty() {
                self.storage.write_at(file, start, within)
            } else {
                self.storage.write_at(file, start, &[&before, within, &after].concat())
            }
        };
        let written = written.map_err(|e| self.write_failed(assembly, e));
        assembly.laid.written = assembly.laid.written.max(to.next_multiple_of(BLOCK));
        written
    }

    /// Bytes of the base a file is laid as, less than a block; none when they cannot be read.
    fn of_base(&self, laid: &Laid<S>, range: Range<u64>) -> Vec<u8> {
        let len = range.end.saturating_sub(range.start);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let read = laid.base.as_ref().filter(|_| !bytes.is_empty()).and_then(|base| {
            self.storage.read_at(base, range.start, &mut bytes).ok().filter(|n| *n as u64 == len)
        });
        if read.is_none() {
            bytes.clear();
        }
        bytes
    }

    /// Zeros are appended: they are there already unless something was shared in their place.
    pub(super) fn write_zeros(&self, assembly: &mut Assembly<S>, len: u64) -> Result<(), OpError> {
        const ZEROS: &[u8] = &[0; 16 * HOLE];
        let (mut at, end) = (assembly.offset, (assembly.offset + len).min(assembly.laid.touched));
        let Some((file, _)) = assembly.file.as_ref().filter(|_| at < end) else { return Ok(()) };
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.storage
                .write_at(file, at, &ZEROS[..part])
                .map_err(|e| self.write_failed(assembly, e))?;
            at += part as u64;
        }
        assembly.laid.written = assembly.laid.written.max(end.next_multiple_of(BLOCK));
        Ok(())
    }

    /// All extents have arrived: looks again at what the file shares blocks with. When that changed,
    /// the file itself is read, and what is not as it should be counts as missing.
    pub(super) fn settle(&mut self, assembly: &mut Assembly<S>) -> Result<(), OpError> {
        let bases = std::mem::take(&mut assembly.laid.bases);
        let moved = assembly.laid.moved || bases.iter().any(|base| self.has_moved(base));
        let Some((file, _)) = assembly.file.as_ref().filter(|_| moved) else { return Ok(()) };
        let mut offset = 0;
        let mut wrong = Vec::new();
        for extent in &assembly.recipe.extents {
            if let Extent::Chunk { id, len } = *extent {
                self.buf.resize(len as usize, 0);
                let read = self.storage.read_at(file, offset, &mut self.buf);
                let whole = read.is_ok_and(|n| n == self.buf.len());
                if !whole || ChunkId::of(&self.buf) != id {
                    wrong.push(id);
                }
            }
            offset += extent.len();
        }
        let from = assembly.base;
        wrong.into_iter().for_each(|id| assembly.missing.chunk(id, from));
        Ok(())
    }
}
