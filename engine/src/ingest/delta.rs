//! The second level of the delta at the source: new chunks that lie where a former version had others
//! are described by what of them stands there.
//!
//! ```text
//! old   ...matched |      gap       | matched...      the target holds it
//! new   ...matched | fresh chunks   | matched...      sections of it wait here
//!
//! coarse   blocks of 512 B to 4 KiB of the gap, 4 bytes each, found at any offset
//! fine     between two of those: blocks of 64 B, 3 bytes each, in step with one of the two
//! ```
//! Guarantees: nothing is lost and nothing reordered, whatever the target answers: what is found is a
//! claim that the target checks chunk by chunk, and what it cannot build is sent again whole. Sends
//! bytes as they are where signatures would not pay: without a former version near, in tiny gaps,
//! after [`FRUITLESS_MAX`] sections in which nothing was found, and, where the line takes all there is, where little
//! is (see [`thrift`](super::thrift)). Requests are many and none is waited
//! for while there is something to read.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use farshore_core::delta::{Found, SIGNED_LEN_MAX, Signatures, Signing, in_step};
use farshore_core::recipe::{ChunkId, FileDigest};
use farshore_proto::link::LinkError;
use farshore_proto::message::SIGN_RANGES_MAX;
use farshore_proto::op::Op;

use super::signing::SignDesk;

mod section;

pub(super) use section::Section;
use section::{Part, Stage};

/// New bytes that are searched together.
const SECTION: usize = 512 * 1024;
/// Old bytes are signed so far beyond where the new ones would stand had nothing moved.
const SLACK: u64 = 128 * 1024;
/// Gaps with fewer new bytes are sent as they are: a request and a patch cost a few dozen.
const GAP_MIN: u64 = 256;
/// Sections without a single block found, after which a gap is taken for strange.
const FRUITLESS_MAX: u32 = 8;
/// Old bytes, and ranges, after which a request is sent; also sent when it has waited while
/// [`REQUEST_AGE`] bytes were read. Short requests cost their header, late ones time.
const REQUEST_BYTES: u64 = 512 * 1024;
const REQUEST_RANGES: usize = 512;
const REQUEST_AGE: u64 = 2 << 20;

/// Bytes of a coarse signature. Blocks in step need no more; others count in pairs only.
const COARSE_LEN: usize = 4;
/// Coarse blocks, until it is known how densely a file was edited.
const COARSE_BLOCK: usize = 1_024;
const COARSE_BLOCKS: Range<usize> = 512..4_097;
/// Blocks between two coarse ones. A byte of signature for 21 of content: cheaper than the half block
/// that is otherwise sent on either side of an edit.
const FINE: Option<Signing> = Signing::new(64, 3);
/// Shorter stretches are not looked at more finely.
const FINE_MIN: usize = 128;
/// Longer ones only at their ends, unless fine blocks have been found in such stretches.
const FINE_WHOLE: usize = 16 * 1024;
const FINE_EDGE: usize = 4 * 1024;
/// Old bytes between two blocks that were found may exceed the new ones by so much.
const FINE_REACH: u64 = 8 * 1024;

// Each range by itself fits a request, and without credit any is asked for.
const _: () = {
    assert!(REQUEST_BYTES <= SIGNED_LEN_MAX);
    assert!(FINE_WHOLE as u64 + FINE_REACH <= SIGNED_LEN_MAX);
    assert!(2 * FINE_EDGE as u64 <= SIGNED_LEN_MAX && 2 * FINE_EDGE <= FINE_WHOLE);
};

/// What a range was asked for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Coarse { gap: u64, start: u64 },
    Fine { ticket: u64 },
}

/// Ranges to be asked for together.
#[derive(Debug, Default)]
struct Request {
    of: Option<(FileDigest, Signing)>,
    ranges: Vec<(u64, u64)>,
    purposes: Vec<Purpose>,
    bytes: u64,
    /// Bytes read when its first range came.
    since: u64,
}

struct UnderWay {
    id: u64,
    signing: Signing,
    ranges: Vec<(u64, u64)>,
    purposes: Vec<Purpose>,
}

/// Old bytes between two matched chunks, and what is known of them.
#[derive(Debug)]
struct Gap {
    content: FileDigest,
    /// Length of that content.
    size: u64,
    /// Where in it the new bytes would stand had nothing moved.
    start: u64,
    /// Up to where it was asked for.
    frontier: u64,
    new_len: u64,
    block_len: u64,
    signing: Signing,
    blocks: Signatures,
    asked: u32,
    answered: u32,
    /// The target does not have it, or nothing of it is found.
    strange: bool,
    fruitless: u32,
    /// What to add to where bytes would stand, as found last.
    drift: i64,
    closed: bool,
    /// Sections not yet searched.
    sections: u32,
}

impl Gap {
    /// Where the new byte at `at` is expected.
    fn expected(&self, at: u64) -> u64 {
        (self.start + at).saturating_add_signed(self.drift)
    }
}

/// The second level for one batch.
pub(super) struct Delta<'d> {
    desk: &'d SignDesk<'d>,
    coarse: Request,
    fine: Request,
    under_way: VecDeque<UnderWay>,
    gaps: HashMap<u64, Gap>,
    next_gap: u64,
    /// Old content and where in it the next new byte would stand had nothing moved.
    anchor: Option<(FileDigest, u64)>,
    open: Option<Section>,
    fine_answers: HashMap<u64, Vec<u8>>,
    fine_arrived: bool,
    next_ticket: u64,
    /// Bytes that came by, for the age of requests.
    read: u64,
    /// Bytes searched in this file, and stretches of them that were not found.
    searched: u64,
    edits: u64,
    /// Bytes that may still be asked for in long stretches where nothing was found: what was found
    /// there adds to it.
    credit: i64,
    /// Whether the line takes bytes faster than they can be searched.
    line_is_fast: bool,
}

impl<'d> Delta<'d> {
    pub(super) fn new(desk: &'d SignDesk<'d>) -> Self {
        Self {
            desk,
            coarse: Request::default(),
            fine: Request::default(),
            under_way: VecDeque::new(),
            gaps: HashMap::new(),
            next_gap: 0,
            anchor: None,
            open: None,
            fine_answers: HashMap::new(),
            fine_arrived: false,
            next_ticket: 0,
            read: 0,
            searched: 0,
            edits: 0,
            credit: 1 << 20,
            line_is_fast: false,
        }
    }

    /// Whether the line takes bytes faster than they can be searched.
    pub(super) fn line_is_fast(&mut self, is_fast: bool) {
        self.line_is_fast = is_fast;
    }

    /// A file begins, likely to resemble `basis`.
    pub(super) fn begin_file(&mut self, basis: Option<FileDigest>) {
        self.anchor = basis.map(|content| (content, 0));
        (self.searched, self.edits) = (0, 0);
    }

    /// A chunk was found in old content, which goes on at `end`.
    pub(super) fn matched(&mut self, content: FileDigest, len: u64, end: u64) {
        self.read += len;
        self.anchor = Some((content, end));
    }

    /// An operation went by that says nothing of old content.
    pub(super) fn passed(&mut self, op: &Op<'_>) {
        let len = match op {
            Op::Zero { len } => *len,
            Op::Literal { bytes } => bytes.len() as u64,
            _ => 0,
        };
        self.read += len;
        if let Some((_, offset)) = &mut self.anchor {
            *offset = offset.saturating_add(len);
        }
    }

    pub(super) fn in_gap(&self) -> bool {
        self.open.is_some()
    }

    /// The content a gap that begins here would be searched in.
    pub(super) fn anchor(&self) -> Option<FileDigest> {
        self.anchor.map(|(content, _)| content)
    }

    /// Begins a gap; whether there is something of the old content, `size` bytes long, to search.
    pub(super) fn open_gap(&mut self, size: u64) -> bool {
        let Some((content, start)) = self.anchor.filter(|(_, start)| *start < size) else {
            return false;
        };
        let block_len = self.block_len();
        let Some(signing) = Signing::new(block_len, COARSE_LEN) else { return false };
        let block_len = block_len as u64;
        let id = self.next_gap;
        self.next_gap += 1;
        let gap = Gap {
            content,
            size,
            start,
            // Blocks lie on multiples of their length: files are often written so.
            frontier: start / block_len * block_len,
            new_len: 0,
            block_len,
            signing,
            blocks: Signatures::new(signing),
            asked: 0,
            answered: 0,
            strange: false,
            fruitless: 0,
            drift: 0,
            closed: false,
            sections: 0,
        };
        self.gaps.insert(id, gap);
        self.open = Some(Section::new(id, content, 0));
        true
    }

    /// With edits `n` bytes apart, blocks of b bytes cost 4 n / b bytes of signatures and, once looked
    /// at more finely, b / 21 for every edit: least where b is the root of 84 n.
    fn block_len(&self) -> usize {
        if self.edits < 16 {
            return COARSE_BLOCK;
        }
        let best = (84 * (self.searched / self.edits)).isqrt();
        let mut len = COARSE_BLOCKS.start;
        while len < COARSE_BLOCKS.end - 1 && (len as u64) * 3 / 2 < best {
            len *= 2;
        }
        len
    }

    /// Appends a chunk to the gap; a section, when one is full.
    pub(super) fn fresh(
        &mut self,
        id: ChunkId,
        bytes: &[u8],
    ) -> Result<Option<Section>, LinkError> {
        self.read += bytes.len() as u64;
        let Some(section) = &mut self.open else { return Ok(None) };
        section.chunks.push((id, bytes.len()));
        section.bytes.extend_from_slice(bytes);
        let gap_id = section.gap;
        let full = section.bytes.len() >= SECTION;
        let Some(gap) = self.gaps.get_mut(&gap_id) else { return Ok(None) };
        gap.new_len += bytes.len() as u64;
        if !full {
            return Ok(None);
        }
        let here = gap.expected(gap.new_len);
        let next = Section::new(gap_id, gap.content, gap.new_len);
        let len = section.bytes.len();
        if self.skips(len) {
            self.skip_to(gap_id, here.saturating_sub(SLACK));
            let mut section = self.open.replace(next);
            section.iter_mut().for_each(Section::settle);
            return Ok(section);
        }
        self.cover(gap_id, here + SLACK)?;
        let section = self.open.replace(next);
        Ok(section.map(|section| self.handed_out(section)))
    }

    /// Whether so many new bytes are to go out unsearched.
    fn skips(&self, len: usize) -> bool {
        self.desk.thrift.skips(len as u64, self.line_is_fast)
    }

    fn handed_out(&mut self, mut section: Section) -> Section {
        match self.gaps.get_mut(&section.gap) {
            Some(gap) => {
                gap.sections += 1;
                section.stage = Stage::Coarse(gap.asked);
            }
            None => section.settle(),
        }
        section
    }

    /// The gap's chunks end here; `next` is what stands behind it in old content, where that is
    /// known. The last section, unless it is empty.
    pub(super) fn end_gap(
        &mut self,
        next: Option<(FileDigest, u64)>,
    ) -> Result<Option<Section>, LinkError> {
        let Some(mut section) = self.open.take() else { return Ok(None) };
        let id = section.gap;
        let Some(gap) = self.gaps.get_mut(&id) else { return Ok(None) };
        gap.closed = true;
        let (content, start, new_len) = (gap.content, gap.start, gap.new_len);
        let reach = gap.expected(new_len) + SLACK;
        let last = section.bytes.len() as u64 + SLACK;
        let is_last = gap.sections == 0;
        let done = is_last && section.bytes.is_empty();
        self.anchor = Some((content, start + new_len));
        if done || new_len < GAP_MIN {
            section.settle();
            self.gaps.remove(&id);
            return Ok((!section.bytes.is_empty()).then_some(section));
        }
        if self.skips(section.bytes.len()) {
            section.settle();
            if is_last {
                self.gaps.remove(&id);
            }
            return Ok((!section.bytes.is_empty()).then_some(section));
        }
        match next.filter(|(c, at)| *c == content && *at >= start) {
            Some((_, end)) => {
                section.next = Some(end);
                self.cover(id, end.min(reach))?;
                if end > reach {
                    // Much is gone: what is left of it stands at either end.
                    self.skip_to(id, end.saturating_sub(last));
                    self.cover(id, end)?;
                }
            }
            None => self.cover(id, reach)?,
        }
        if section.bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.handed_out(section)))
    }

    /// The file ends here, and its former version with it.
    pub(super) fn end_of_file(&self) -> Option<(FileDigest, u64)> {
        let gap = self.gaps.get(&self.open.as_ref()?.gap)?;
        Some((gap.content, gap.size))
    }

    fn skip_to(&mut self, id: u64, to: u64) {
        if let Some(gap) = self.gaps.get_mut(&id) {
            gap.frontier = gap.frontier.max(to / gap.block_len * gap.block_len);
        }
    }

    /// Asks for blocks of the gap's old content up to `to`.
    fn cover(&mut self, id: u64, to: u64) -> Result<(), LinkError> {
        loop {
            let Some(gap) = self.gaps.get_mut(&id).filter(|gap| !gap.strange) else {
                return Ok(());
            };
            let to = to.next_multiple_of(gap.block_len).min(gap.size);
            let start = gap.frontier;
            let len = to.saturating_sub(start).min(REQUEST_BYTES);
            if len < gap.block_len {
                return Ok(());
            }
            gap.frontier += len;
            gap.asked += 1;
            let (content, signing) = (gap.content, gap.signing);
            let purpose = Purpose::Coarse { gap: id, start };
            self.ask(true, (content, signing), (start, len), purpose)?;
        }
    }

    fn ask(
        &mut self,
        coarse: bool,
        of: (FileDigest, Signing),
        range: (u64, u64),
        purpose: Purpose,
    ) -> Result<(), LinkError> {
        let request = if coarse { &self.coarse } else { &self.fine };
        let fits = request.of.is_none_or(|held| held == of)
            && request.ranges.len() < SIGN_RANGES_MAX
            && request.bytes + range.1 <= SIGNED_LEN_MAX;
        if !fits {
            self.send(coarse)?;
        }
        let since = self.read;
        let request = if coarse { &mut self.coarse } else { &mut self.fine };
        if request.ranges.is_empty() {
            (request.of, request.since) = (Some(of), since);
        }
        request.ranges.push(range);
        request.purposes.push(purpose);
        request.bytes += range.1;
        if request.bytes >= REQUEST_BYTES || request.ranges.len() >= REQUEST_RANGES {
            self.send(coarse)?;
        }
        Ok(())
    }

    /// Sends a request, when there is one; waits for room among those under way.
    fn send(&mut self, coarse: bool) -> Result<(), LinkError> {
        let request = std::mem::take(if coarse { &mut self.coarse } else { &mut self.fine });
        let Some((content, signing)) = request.of else { return Ok(()) };
        while self.under_way.len() >= self.desk.share() {
            self.take_answers(true);
        }
        let id = self.desk.ask(content, signing, request.ranges.clone())?;
        let Request { ranges, purposes, .. } = request;
        self.under_way.push_back(UnderWay { id, signing, ranges, purposes });
        Ok(())
    }

    /// Sends what was not sent yet.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        self.send(true)?;
        self.send(false)
    }

    /// Sends requests that have waited for others long enough.
    pub(super) fn send_old(&mut self) -> Result<(), LinkError> {
        for coarse in [true, false] {
            let request = if coarse { &self.coarse } else { &self.fine };
            if self.read.saturating_sub(request.since) >= REQUEST_AGE {
                self.send(coarse)?;
            }
        }
        Ok(())
    }

    /// Takes the answers that are there, and waits for the first if told so; whether there was one.
    pub(super) fn take_answers(&mut self, mut wait: bool) -> bool {
        let mut any = false;
        while let Some(first) = self.under_way.front() {
            let id = first.id;
            let answer = if wait { Some(self.desk.wait(id)) } else { self.desk.poll(id) };
            let Some(bytes) = answer else { break };
            let Some(request) = self.under_way.pop_front() else { break };
            (any, wait) = (true, false);
            self.answered(&request, &bytes);
        }
        any
    }

    fn answered(&mut self, request: &UnderWay, mut bytes: &[u8]) {
        for (&(_, len), purpose) in request.ranges.iter().zip(&request.purposes) {
            let len = usize::try_from(request.signing.signed_len(len)).unwrap_or(usize::MAX);
            let part = bytes.split_off(..len);
            match purpose {
                Purpose::Coarse { gap, start } => {
                    let Some(gap) = self.gaps.get_mut(gap) else { continue };
                    gap.answered += 1;
                    match part {
                        Some(part) => gap.blocks.add(*start, part),
                        None => gap.strange = true,
                    }
                }
                Purpose::Fine { ticket } => {
                    self.fine_answers.insert(*ticket, part.unwrap_or_default().into());
                    self.fine_arrived = true;
                }
            }
        }
    }

    /// Searches a section that was not, once its answers are there; `false` when those behind it have
    /// to wait as well.
    pub(super) fn advance(&mut self, section: &mut Section) -> Result<bool, LinkError> {
        if let Stage::Coarse(asked) = section.stage {
            let gap = self.gaps.get(&section.gap);
            if gap.is_some_and(|gap| !gap.strange && gap.answered < asked) {
                return Ok(false);
            }
            self.search(section)?;
        }
        Ok(true)
    }

    /// Finds out more about the sections that were searched, as far as fine answers came since.
    pub(super) fn use_arrived<'s>(&mut self, searched: impl Iterator<Item = &'s mut Section>) {
        if !std::mem::take(&mut self.fine_arrived) {
            return;
        }
        for section in searched {
            if let Stage::Fine(parts) = &section.stage
                && parts.iter().all(|part| self.fine_answers.contains_key(&part.ticket))
            {
                self.refine(section);
            }
        }
    }

    /// Finds coarse blocks, and asks for fine ones between them.
    fn search(&mut self, section: &mut Section) -> Result<(), LinkError> {
        // What was asked for before it was known how little is found here.
        let skipped = self.skips(section.bytes.len());
        let Some(gap) = self.gaps.get_mut(&section.gap) else {
            section.settle();
            return Ok(());
        };
        gap.sections -= 1;
        let over = gap.closed && gap.sections == 0;
        if gap.strange || skipped {
            section.settle();
        } else {
            let expected = gap.expected(section.at);
            section.found = gap.blocks.find(&section.bytes, expected);
            let mut at = section.bytes.len();
            let last = section.found.iter().rev().find_map(|piece| {
                at -= piece.len();
                if let Found::Old { offset, .. } = piece { Some(*offset) } else { None }
            });
            gap.fruitless = if last.is_some() { 0 } else { gap.fruitless + 1 };
            gap.strange = gap.fruitless >= FRUITLESS_MAX;
            if let Some(offset) = last {
                let unmoved = gap.start + section.at + at as u64;
                gap.drift =
                    i64::try_from(offset).unwrap_or(0) - i64::try_from(unmoved).unwrap_or(0);
            }
            let searched = section.at + section.bytes.len() as u64;
            let behind = gap.expected(searched).saturating_sub(2 * SLACK);
            gap.blocks.forget_before(behind);
            let size = gap.size;
            let len = section.bytes.len() as u64;
            self.searched += len;
            let is_old = |f: &&Found| matches!(f, Found::Old { .. });
            let found: usize = section.found.iter().filter(is_old).map(Found::len).sum();
            self.desk.thrift.searched(len, found as u64);
            let fresh = section.found.iter().filter(|f| matches!(f, Found::New(_))).count();
            self.edits += fresh as u64;
            self.look_finer(section, expected, size)?;
        }
        if over {
            self.gaps.remove(&section.gap);
        }
        Ok(())
    }

    /// Asks for fine blocks of the old bytes that stand where new ones were not found.
    fn look_finer(
        &mut self,
        section: &mut Section,
        expected: u64,
        size: u64,
    ) -> Result<(), LinkError> {
        let Some(fine) = FINE else { return Ok(()) };
        let mut parts = Vec::new();
        let mut cursor = expected;
        for (piece, found) in section.found.iter().enumerate() {
            let new = match found {
                Found::Old { offset, len } => {
                    cursor = offset + *len as u64;
                    continue;
                }
                Found::New(new) => new.clone(),
            };
            let len = new.len() as u64;
            let next = match section.found.get(piece + 1) {
                Some(Found::Old { offset, .. }) => Some(*offset),
                Some(Found::New(_)) => None,
                None => section.next,
            };
            let between = next.filter(|&next| next > cursor && next - cursor <= len + FINE_REACH);
            let old = cursor..between.unwrap_or(cursor + len).min(size);
            cursor += len;
            for (new, old) in self.worth(&new, &old, fine) {
                parts.push(Part { piece, new, old, ticket: self.next_ticket });
                self.next_ticket += 1;
            }
        }
        for part in &parts {
            let range = (part.old.start, part.old.end - part.old.start);
            let purpose = Purpose::Fine { ticket: part.ticket };
            self.ask(false, (section.content, fine), range, purpose)?;
        }
        section.stage = if parts.is_empty() { Stage::Ready } else { Stage::Fine(parts) };
        Ok(())
    }

    /// Which of these old bytes are worth asking for, and which new ones they may be; no range is longer
    /// than a request may be.
    fn worth(
        &mut self,
        new: &Range<usize>,
        old: &Range<u64>,
        fine: Signing,
    ) -> Vec<(Range<usize>, Range<u64>)> {
        let old_len = old.end.saturating_sub(old.start);
        if new.len() < FINE_MIN || old_len < fine.block_len() as u64 {
            return Vec::new();
        }
        if new.len() <= FINE_WHOLE {
            return vec![(new.clone(), old.clone())];
        }
        let asked = i64::try_from(old_len).unwrap_or(i64::MAX);
        if old_len <= SIGNED_LEN_MAX && self.credit >= asked {
            self.credit -= asked;
            return vec![(new.clone(), old.clone())];
        }
        let edge = FINE_EDGE as u64;
        if old_len < 2 * edge {
            return Vec::new();
        }
        vec![
            (new.start..new.start + FINE_EDGE, old.start..old.start + edge),
            (new.end - FINE_EDGE..new.end, old.end - edge..old.end),
        ]
    }

    /// Finds fine blocks.
    fn refine(&mut self, section: &mut Section) {
        let Stage::Fine(parts) = std::mem::replace(&mut section.stage, Stage::Ready) else {
            return;
        };
        let Some(fine) = FINE else { return };
        let mut found = Vec::with_capacity(section.found.len() + 2 * parts.len());
        let mut parts = parts.into_iter().peekable();
        for (number, piece) in section.found.drain(..).enumerate() {
            let Found::New(new) = &piece else {
                found.push(piece);
                continue;
            };
            let mut at = new.start;
            while let Some(part) = parts.next_if(|part| part.piece == number) {
                let signatures = self.fine_answers.remove(&part.ticket).unwrap_or_default();
                let bytes = &section.bytes[part.new.clone()];
                if at < part.new.start {
                    found.push(Found::New(at..part.new.start));
                }
                for piece in in_step(bytes, &part.old, fine, &signatures) {
                    found.push(match piece {
                        Found::New(r) => {
                            Found::New(part.new.start + r.start..part.new.start + r.end)
                        }
                        Found::Old { offset, len } => {
                            if part.new.len() > FINE_WHOLE {
                                let won = i64::try_from(16 * len).unwrap_or(0);
                                self.credit = (self.credit + won).min(16 << 20);
                            }
                            Found::Old { offset, len }
                        }
                    });
                }
                at = part.new.end;
            }
            if at < new.end {
                found.push(Found::New(at..new.end));
            }
        }
        section.found = found;
    }
}

#[cfg(test)]
mod tests;
