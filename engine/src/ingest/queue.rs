//! Operations of one batch on their way to its stream, some of them waiting for signatures.
//!
//! Guarantees: operations leave in the order they came in. Chunks that may be patched wait until the
//! target's signatures are there, and what comes after them waits behind them, while the worker reads
//! on; at most [`PENDING_BYTES_MAX`] do, then the worker waits itself. Chunks that follow one another
//! in content the target holds leave as one run.

use std::collections::VecDeque;

use farshore_core::codec::Encoder;
use farshore_core::recipe::{ChunkId, FileDigest};
use farshore_proto::link::LinkError;
use farshore_proto::op::Op;

use super::delta::{Delta, Section};
use super::signing::SignDesk;
use crate::frames::FrameWriter;
use crate::progress::Progress;

/// Bytes that wait for signatures in one worker: on a line of 100 ms, two round trips at 160 MB/s,
/// which is what the windows of the link hold.
const PENDING_BYTES_MAX: usize = 32 << 20;

/// What a waiting run counts for among them.
const RUN_COST: usize = 128;

/// Operations that wait are kept together up to this length.
const TOGETHER: usize = 64 * 1024;

/// A run is sent when it has this many bytes, so that the target copies while the source reads on.
const RUN_MAX: u64 = 4 << 20;
/// A frame is sent, however short, when what it says stands for so many bytes.
const FRAME_WORK: u64 = 8 << 20;

enum Item {
    /// Encoded operations.
    Ops { bytes: Vec<u8>, count: u64 },
    /// The same, the beginning of a file; its base, if it was named.
    Begin { bytes: Vec<u8>, count: u64, base: Option<FileDigest> },
    /// Chunks that follow one another in `from`; the first.
    Run { from: FileDigest, offset: u64, len: u64, first: ChunkId },
    /// Chunks that may be patched.
    Section(Section),
}

impl Item {
    fn section(&mut self) -> Option<&mut Section> {
        match self {
            Self::Section(section) => Some(section),
            _ => None,
        }
    }
}

/// See the module.
pub(super) struct OpQueue<'w, 'g, 'd> {
    writer: &'w mut FrameWriter<'g>,
    progress: &'d Progress,
    /// `None` when the target does not speak of bases, runs and patches.
    pub(super) delta: Option<Delta<'d>>,
    items: VecDeque<Item>,
    /// Items at the front that need not be searched any more: each is looked at once, not each time
    /// something comes behind it.
    searched: usize,
    bytes: usize,
    /// The base named last in the file that is being written.
    base: Option<FileDigest>,
    /// Bytes the target builds from what was written since the last frame was sent.
    work: u64,
}

impl<'w, 'g, 'd> OpQueue<'w, 'g, 'd> {
    pub(super) fn new(
        writer: &'w mut FrameWriter<'g>,
        desk: &'d SignDesk<'d>,
        progress: &'d Progress,
    ) -> Self {
        let delta = desk.is_open().then(|| Delta::new(desk));
        let items = VecDeque::new();
        Self { writer, progress, delta, items, searched: 0, bytes: 0, base: None, work: 0 }
    }

    /// Appends an operation; files begin with [`Self::begin`].
    pub(super) fn op(&mut self, op: &Op<'_>) -> Result<(), LinkError> {
        self.end_gap(None)?;
        if let Some(delta) = &mut self.delta {
            delta.passed(op);
        }
        if self.items.is_empty() {
            return self.writer.op(op);
        }
        let mut e = Encoder::new();
        op.encode(&mut e);
        self.bytes += e.len();
        match self.items.back_mut() {
            Some(Item::Ops { bytes, count }) if bytes.len() + e.len() <= TOGETHER => {
                bytes.extend_from_slice(e.as_slice());
                *count += 1;
            }
            _ => self.items.push_back(Item::Ops { bytes: e.finish(), count: 1 }),
        }
        self.advance()
    }

    /// Begins a file that is likely to resemble `basis`. That is named before the first byte, so that
    /// the target does not reserve what it will share.
    pub(super) fn begin(
        &mut self,
        op: &Op<'_>,
        basis: Option<FileDigest>,
    ) -> Result<(), LinkError> {
        self.end_gap(None)?;
        let mut e = Encoder::new();
        op.encode(&mut e);
        let base = basis.filter(|_| self.delta.is_some());
        if let Some(content) = base {
            Op::Base { content }.encode(&mut e);
        }
        if let Some(delta) = &mut self.delta {
            delta.begin_file(basis);
        }
        self.bytes += e.len();
        let count = 1 + u64::from(base.is_some());
        self.items.push_back(Item::Begin { bytes: e.finish(), count, base });
        self.advance()
    }

    /// Appends the chunk `id` that stands in `from`.
    pub(super) fn copy(
        &mut self,
        from: FileDigest,
        offset: u64,
        len: u32,
        id: ChunkId,
    ) -> Result<(), LinkError> {
        if self.delta.is_none() {
            return self.op(&Op::Copy { from, offset, len, id });
        }
        self.end_gap(Some((from, offset)))?;
        let long = u64::from(len);
        if let Some(delta) = &mut self.delta {
            delta.matched(from, long, offset + long);
        }
        if let Some(Item::Run { from: held, offset: start, len: run, .. }) = self.items.back_mut()
            && *held == from
            && *start + *run == offset
            && *run < RUN_MAX
        {
            *run += long;
            return Ok(());
        }
        self.bytes += RUN_COST;
        self.items.push_back(Item::Run { from, offset, len: long, first: id });
        self.advance()
    }

    /// Appends a chunk that is nowhere, within a gap that is open.
    pub(super) fn fresh(&mut self, id: ChunkId, bytes: &[u8]) -> Result<(), LinkError> {
        let Some(delta) = &mut self.delta else { return self.op(&Op::Literal { bytes }) };
        delta.line_is_fast(self.writer.line_is_fast());
        self.bytes += bytes.len();
        if let Some(section) = delta.fresh(id, bytes)? {
            self.items.push_back(Item::Section(section));
        }
        self.advance()
    }

    /// The file was read to its end.
    pub(super) fn end_file(&mut self) -> Result<(), LinkError> {
        let end = self.delta.as_ref().and_then(Delta::end_of_file);
        self.end_gap(end)
    }

    /// The chunks of the gap end here; with what stands next in old content, where that is known.
    pub(super) fn end_gap(&mut self, next: Option<(FileDigest, u64)>) -> Result<(), LinkError> {
        let Some(delta) = &mut self.delta else { return Ok(()) };
        if let Some(section) = delta.end_gap(next)? {
            self.items.push_back(Item::Section(section));
        }
        Ok(())
    }

    /// Writes what need not wait; waits itself when too much does.
    fn advance(&mut self) -> Result<(), LinkError> {
        self.write_ready(false)?;
        while self.bytes > PENDING_BYTES_MAX && self.items.len() > 1 {
            self.wait_once()?;
            self.write_ready(false)?;
        }
        Ok(())
    }

    /// Waits for an answer; where none is to come, nothing waits for one any more.
    fn wait_once(&mut self) -> Result<(), LinkError> {
        let Some(delta) = &mut self.delta else { return Ok(()) };
        delta.flush()?;
        if delta.take_answers(true) {
            return Ok(());
        }
        self.search()?;
        if let Some(Item::Section(section)) = self.items.front_mut() {
            section.settle();
        }
        Ok(())
    }

    /// Writes all there is.
    pub(super) fn finish(&mut self) -> Result<(), LinkError> {
        self.end_gap(None)?;
        self.write_ready(true)?;
        while !self.items.is_empty() {
            self.wait_once()?;
            self.write_ready(true)?;
        }
        Ok(())
    }

    /// Takes the answers nobody waits for any more: of a file that was given up.
    pub(super) fn take_all_answers(&mut self) {
        let Some(delta) = &mut self.delta else { return };
        while delta.take_answers(true) {}
    }

    /// Searches, in their order, the sections whose signatures are there.
    fn search(&mut self) -> Result<(), LinkError> {
        let Some(delta) = &mut self.delta else { return Ok(()) };
        delta.take_answers(false);
        delta.send_old()?;
        let (items, searched) = (&mut self.items, self.searched);
        delta.use_arrived(items.iter_mut().take(searched).filter_map(Item::section));
        while let Some(item) = self.items.get_mut(self.searched) {
            if let Item::Section(section) = item
                && !delta.advance(section)?
            {
                break;
            }
            self.searched += 1;
        }
        // Waiting for room to ask may have taken some.
        let (items, searched) = (&mut self.items, self.searched);
        delta.use_arrived(items.iter_mut().take(searched).filter_map(Item::section));
        Ok(())
    }

    /// Writes items off the front until one has to wait. A run at the end may still grow, unless
    /// nothing comes any more.
    fn write_ready(&mut self, all: bool) -> Result<(), LinkError> {
        self.search()?;
        while let Some(item) = self.items.pop_front() {
            let waits = match &item {
                Item::Ops { .. } | Item::Begin { .. } => false,
                Item::Run { .. } => self.items.is_empty() && !all,
                Item::Section(section) => !section.is_ready(),
            };
            if waits {
                self.items.push_front(item);
                break;
            }
            self.searched = self.searched.saturating_sub(1);
            self.write(item)?;
        }
        Ok(())
    }

    fn write(&mut self, item: Item) -> Result<(), LinkError> {
        if matches!(item, Item::Run { .. }) {
            self.bytes -= RUN_COST;
        }
        match item {
            Item::Ops { bytes, count } => {
                self.bytes -= bytes.len();
                self.writer.encoded(&bytes, count)?;
            }
            Item::Begin { bytes, count, base } => {
                self.bytes -= bytes.len();
                self.writer.encoded(&bytes, count)?;
                self.base = base;
            }
            // Content of one chunk has no recipe.
            Item::Run { from, offset, len, first } if from.0 == first.0 => {
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                self.writer.op(&Op::Copy { from, offset, len, id: first })?;
            }
            Item::Run { from, offset, len, .. } => {
                self.name_base(from)?;
                self.writer.op(&Op::CopyRun { offset, len })?;
                self.worked(len)?;
            }
            Item::Section(section) => {
                self.bytes -= section.len();
                let (mut reused, mut sent) = (0, 0);
                let based = section.has_copies();
                if based {
                    self.name_base(section.content())?;
                }
                for op in section.ops() {
                    let (old, new) = content_of(&op);
                    (reused, sent) = (reused + old, sent + new);
                    self.writer.op(&op)?;
                }
                self.worked(reused)?;
                Progress::add(&self.progress.reused_bytes, reused);
                Progress::add(&self.progress.literal_bytes, sent);
            }
        }
        Ok(())
    }

    fn worked(&mut self, bytes: u64) -> Result<(), LinkError> {
        self.work += bytes;
        if self.work >= FRAME_WORK {
            self.work = 0;
            self.writer.flush()?;
        }
        Ok(())
    }

    fn name_base(&mut self, content: FileDigest) -> Result<(), LinkError> {
        if self.base != Some(content) {
            self.base = Some(content);
            self.writer.op(&Op::Base { content })?;
        }
        Ok(())
    }
}

/// Bytes of a chunk's operation that the target held, and that it did not.
fn content_of(op: &Op<'_>) -> (u64, u64) {
    use farshore_proto::op::Piece;
    match op {
        Op::Literal { bytes } => (0, bytes.len() as u64),
        Op::Patch { pieces, .. } => pieces.iter().fold((0, 0), |(old, new), piece| match piece {
            Piece::Old { len, .. } => (old + u64::from(*len), new),
            Piece::New(bytes) => (old, new + bytes.len() as u64),
        }),
        _ => (0, 0),
    }
}
