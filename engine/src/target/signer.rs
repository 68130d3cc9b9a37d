//! Signing blocks of content held here, for the source that owns it.
//!
//! Guarantees: one answer for each request, in their order, of the length that was asked for or empty
//! when the content is not there as it was. Refuses nothing: the session's machine bounds requests
//! under way, their decoder the bytes of each. Memory is what one request reads, at most
//! [`farshore_core::delta::SIGNED_LEN_MAX`]. What is signed may change before it is copied from; who
//! builds on it checks the result.

use bytes::Bytes;
use crossbeam_channel::Receiver;
use farshore_core::delta::signatures;
use farshore_core::recipe::FileDigest;
use farshore_proto::message::{Message, Sign};

use super::Session;
use crate::contents::open_content;
use crate::io::Storage;
use crate::own_folder::OwnFolder;

/// Ranges closer than this are read at once, ...
const NEAR: u64 = 8 * 1024;
/// ... up to this length.
const SPAN: u64 = 512 * 1024;

impl<S: Storage> Session<'_, S> {
    /// Answers requests until no more come or nobody listens.
    pub(super) fn sign(&self, own: &OwnFolder<S>, asked: &Receiver<Sign>) {
        let mut opened = None;
        while let Ok(request) = asked.recv() {
            let bytes = self.signed(own, &request, &mut opened).unwrap_or_default();
            self.machine().signed();
            let answer = Message::Signatures { id: request.id, bytes };
            if self.link.send_control(Bytes::from(answer.to_bytes())).is_err() {
                return;
            }
        }
    }

    /// The answer to one request; `opened` is the content used last.
    fn signed(
        &self,
        own: &OwnFolder<S>,
        request: &Sign,
        opened: &mut Option<(FileDigest, S::File)>,
    ) -> Option<Vec<u8>> {
        if opened.as_ref().is_none_or(|(content, _)| *content != request.content) {
            let found = open_content(self.storage, self.catalog, own, &request.content);
            *opened = found.ok().flatten().map(|file| (request.content, file));
        }
        let (_, file) = opened.as_ref()?;
        let mut out = Vec::with_capacity(usize::try_from(request.answer_len()).ok()?);
        let mut buf = Vec::new();
        let mut rest = request.ranges.as_slice();
        while let Some(&(start, len)) = rest.first() {
            let mut end = start + len;
            let near = rest.iter().skip(1).take_while(|&&(next, len)| {
                let joins = next >= end && next <= end + NEAR && next + len <= start + SPAN;
                end = if joins { next + len } else { end };
                joins
            });
            let (together, others) = rest.split_at(1 + near.count());
            rest = others;
            let at = |offset: u64| usize::try_from(offset - start).ok();
            buf.resize(at(end)?, 0);
            let read = self.storage.read_at(file, start, &mut buf).ok()?;
            for &(offset, len) in together {
                let part = buf[..read].get(at(offset)?..at(offset + len)?)?;
                signatures(part, request.signing, &mut out);
            }
        }
        Some(out)
    }
}
