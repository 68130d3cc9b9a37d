//! Sparse content of one file: pages that exist, and space reserved without them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a page: what a write dirties, what a crash loses or keeps, what a hole is made of.
pub(super) const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

/// One page. Shared between the visible state, the durable one and the versions a crash may pick.
pub(super) type Page = Arc<[u8; PAGE_LEN]>;

/// A page that was written with zeros.
pub(super) fn zero_page() -> Page {
    Arc::new([0; PAGE_LEN])
}

/// Bytes of a file. Nothing is kept of a hole.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    size: u64,
    pages: BTreeMap<u64, Page>,
    /// Page ranges reserved: start to end.
    reserved: BTreeMap<u64, u64>,
    /// Pages that take space: reserved ones and existing ones outside of those.
    charged: u64,
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn charged_pages(&self) -> u64 {
        self.charged
    }

    pub(super) fn page(&self, index: u64) -> Option<&Page> {
        self.pages.get(&index)
    }

    /// Indices of existing pages that overlap the bytes of `range`.
    pub(super) fn pages_in(&self, range: Range<u64>) -> Vec<u64> {
        if range.is_empty() {
            return Vec::new();
        }
        self.pages.range(range.start / PAGE..range.end.div_ceil(PAGE)).map(|(i, _)| *i).collect()
    }

    /// Whether a write to page `index` takes no further space.
    pub(super) fn has_space(&self, index: u64) -> bool {
        self.pages.contains_key(&index) || self.is_reserved(index)
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        let buf = &mut buf[..len];
        buf.fill(0);
        let end = offset + len as u64;
        for index in self.pages_in(offset..end) {
            let start = index * PAGE;
            let from = offset.max(start);
            let to = end.min(start + PAGE);
            let page = &self.pages[&index];
            buf[distance(offset, from)..distance(offset, to)]
                .copy_from_slice(&page[distance(start, from)..distance(start, to)]);
        }
        len
    }

    /// Writes into one page from `start` on; the size stays.
    pub(super) fn write_page(&mut self, index: u64, start: usize, bytes: &[u8]) {
        if !self.has_space(index) {
            self.charged += 1;
        }
        let page = self.pages.entry(index).or_insert_with(zero_page);
        Arc::make_mut(page)[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Replaces a page as a whole, or makes it a hole; the size stays.
    pub(super) fn put_page(&mut self, index: u64, page: Option<Page>) {
        let reserved = self.is_reserved(index);
        let had = match page {
            Some(page) => self.pages.insert(index, page).is_some(),
            None => self.pages.remove(&index).is_some(),
        };
        let has = self.pages.contains_key(&index);
        if !reserved {
            self.charged = self.charged + u64::from(has) - u64::from(had);
        }
    }

    /// Sets the length. What lies behind it is gone; a longer file ends in a hole.
    pub(super) fn set_len(&mut self, len: u64) {
        self.size = len;
        self.trim();
    }

    pub(super) fn grow(&mut self, len: u64) {
        self.size = self.size.max(len);
    }

    /// Drops pages behind the end and zeroes the rest of the last one.
    pub(super) fn trim(&mut self) {
        let end = self.size.div_ceil(PAGE);
        for index in self.pages.split_off(&end).into_keys() {
            if !self.is_reserved(index) {
                self.charged -= 1;
            }
        }
        for (start, stop) in self.reserved.split_off(&end) {
            self.charged -= stop - start;
        }
        if let Some((_, stop)) = self.reserved.iter_mut().next_back()
            && *stop > end
        {
            self.charged -= *stop - end;
            *stop = end;
        }
        let used = distance(0, self.size % PAGE);
        if used != 0
            && let Some(page) = self.pages.get_mut(&(self.size / PAGE))
            && page[used..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(page)[used..].fill(0);
        }
    }

    /// Pages of `range` that a reservation would have to charge.
    pub(super) fn unreserved_pages(&self, range: &Range<u64>) -> u64 {
        let pages = page_range(range);
        let mut covered = 0;
        let mut outside = self.pages.range(pages.clone()).count() as u64;
        for (start, stop) in &self.reserved {
            let (from, to) = ((*start).max(pages.start), (*stop).min(pages.end));
            if from < to {
                covered += to - from;
                outside -= self.pages.range(from..to).count() as u64;
            }
        }
        pages.end - pages.start - covered - outside
    }

    /// Reserves space for the bytes of `range`; neither size nor content change.
    pub(super) fn reserve(&mut self, range: &Range<u64>) {
        self.charged += self.unreserved_pages(range);
        let mut pages = page_range(range);
        self.reserved.retain(|start, stop| {
            let touches = *start <= pages.end && pages.start <= *stop;
            if touches {
                pages = pages.start.min(*start)..pages.end.max(*stop);
            }
            !touches
        });
        self.reserved.insert(pages.start, pages.end);
    }

    pub(super) fn next_data(&self, offset: u64, size: u64) -> Option<Range<u64>> {
        let limit = size.min(self.size);
        let mut run = self.pages.range(offset / PAGE..).map(|(index, _)| *index);
        let first = run.next()?;
        let start = offset.max(first * PAGE);
        if start >= limit {
            return None;
        }
        let mut last = first;
        for index in run {
            if index != last + 1 || index * PAGE >= limit {
                break;
            }
            last = index;
        }
        Some(start..limit.min((last + 1) * PAGE))
    }

    /// Size and non-zero pages, hashed: equal bytes give an equal digest, holes or not.
    pub(super) fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.size.to_le_bytes());
        for (index, page) in &self.pages {
            if page.iter().any(|byte| *byte != 0) {
                hasher.update(&index.to_le_bytes());
                hasher.update(page.as_slice());
            }
        }
        hasher.finalize()
    }

    fn is_reserved(&self, index: u64) -> bool {
        self.reserved.range(..=index).next_back().is_some_and(|(_, stop)| index < *stop)
    }
}

/// The pieces of a write at `offset`: page, start within it, bytes.
pub(super) fn pieces(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    let mut at = offset;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let start = distance(0, at % PAGE);
        let (piece, tail) = rest.split_at(rest.len().min(PAGE_LEN - start));
        let found = (at / PAGE, start, piece);
        at += piece.len() as u64;
        rest = tail;
        Some(found)
    })
}

fn page_range(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE..range.end.div_ceil(PAGE)
}

/// `to - from`, both within one buffer.
fn distance(from: u64, to: u64) -> usize {
    usize::try_from(to - from).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(content: &mut Content, offset: u64, bytes: &[u8]) {
        for (index, start, piece) in pieces(offset, bytes) {
            content.write_page(index, start, piece);
        }
        content.grow(offset + bytes.len() as u64);
    }

    #[test]
    fn seventeen_tebibytes_take_two_pages() {
        let mut content = Content::default();
        content.set_len(17 << 40);
        write(&mut content, 5, b"head");
        write(&mut content, (17 << 40) - 3, b"end");
        assert_eq!(content.charged_pages(), 2);
        assert_eq!(content.next_data(0, 17 << 40), Some(0..4096));
        assert_eq!(content.next_data(4096, 17 << 40), Some((17 << 40) - 4096..17 << 40));
        let mut buf = [1; 4];
        assert_eq!(content.read((17 << 40) - 4, &mut buf), 4);
        assert_eq!(&buf, b"\0end");
        content.set_len(6);
        assert_eq!((content.charged_pages(), content.read(0, &mut [0; 10])), (1, 6));
        content.set_len(20);
        let mut buf = [1; 20];
        content.read(0, &mut buf);
        assert_eq!(&buf[..10], b"\0\0\0\0\0h\0\0\0\0");
    }

    #[test]
    fn reservations_are_charged_once() {
        let mut content = Content::default();
        content.set_len(1 << 20);
        write(&mut content, 8192, &[1; 4096]);
        content.reserve(&(0..16_384));
        assert_eq!(content.charged_pages(), 4);
        content.reserve(&(8192..40_960));
        assert_eq!(content.charged_pages(), 10);
        write(&mut content, 0, &[1; 8192]);
        assert_eq!(content.charged_pages(), 10);
        content.set_len(8192);
        assert_eq!(content.charged_pages(), 2);
        content.set_len(0);
        assert_eq!(content.charged_pages(), 0);
    }
}
