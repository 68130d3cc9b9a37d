//! Policies are asked what becomes of conflicts, and may read both sites' versions.
//!
//! Guarantees: they are asked in their order, the first that decides conflicts answers; one that fails holds the
//! path for a person, with the reason. What they read of the other site comes over a link of its own, in pieces
//! of at most [`READ_MAX`] bytes. Versions of the common base are kept nowhere while a site is alone: a policy
//! that reads one is told so, and a merge that takes bytes of one is held.

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::conflict::{Conflict, ContentError, Contents, Decision, Outcome, Piece, Side};
use farshore_core::failback::Resolve;
use farshore_engine::io::uring::UringStorage;
use farshore_policies::{Configured, Policies, Resolution};

use super::*;

/// Bytes that are read at once, at most.
const READ_MAX: u32 = 1 << 19;
const _: () = assert!(READ_MAX as usize <= PART_LEN_MAX);

/// The policies of a share that decide conflicts.
pub(super) struct Resolvers<'a> {
    policies: &'a Policies,
    storage: Arc<UringStorage>,
    /// To the other site, once something of it was read.
    link: Arc<Remote>,
}

/// Reads files of the other site.
struct Remote {
    call: Box<dyn Fn() -> Result<QuicLink, Failure> + Send + Sync>,
    link: Mutex<Option<QuicLink>>,
}

impl<'a> Resolvers<'a> {
    /// `call` opens a link for [`Purpose::Read`].
    pub(super) fn new(
        policies: &'a Policies,
        storage: Arc<UringStorage>,
        call: Box<dyn Fn() -> Result<QuicLink, Failure> + Send + Sync>,
    ) -> Self {
        Self { policies, storage, link: Arc::new(Remote { call, link: Mutex::default() }) }
    }

    fn asked(&self) -> impl Iterator<Item = &Configured> {
        self.policies.configured().iter().filter(|configured| configured.has_resolve())
    }

    /// What they are called, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.asked().map(|configured| configured.identity().name).collect()
    }
}

impl Resolve for Resolvers<'_> {
    fn resolve(
        &self,
        conflict: &Conflict,
        is_free: &dyn Fn(&RelPath) -> bool,
    ) -> Option<(u32, Decision)> {
        let asked = self.asked().next()?;
        let versions = Versions {
            path: conflict.path.clone(),
            storage: Arc::clone(&self.storage),
            remote: Arc::clone(&self.link),
        };
        let contents: Arc<dyn Contents> = Arc::new(versions);
        let held = |reason: String| Decision { outcome: Outcome::Hold, rule: None, reason };
        let decision = match asked.resolve(conflict, &contents, is_free) {
            Resolution::Decided(decision) if takes_of_base(&decision.outcome) => {
                held("its merge takes bytes of the common base, which are kept nowhere".into())
            }
            Resolution::Decided(decision) => decision,
            Resolution::Fault(why) => held(why),
        };
        Some((0, decision))
    }
}

fn takes_of_base(outcome: &Outcome) -> bool {
    let is_of_base = |piece: &Piece| matches!(piece, Piece::Copy { side: Side::Base, .. });
    matches!(outcome, Outcome::Merge { pieces, .. } if pieces.iter().any(is_of_base))
}

/// The versions of one path.
struct Versions {
    path: RelPath,
    storage: Arc<UringStorage>,
    remote: Arc<Remote>,
}

impl Contents for Versions {
    fn read(&self, side: Side, offset: u64, length: u32) -> Result<Vec<u8>, ContentError> {
        let wanted = Wanted { path: self.path.clone(), offset, length: length.min(READ_MAX) };
        let read = |wanted: &Wanted| match side {
            Side::Base => Err(ContentError::Unavailable),
            Side::Recovery => {
                read_here(&self.storage, wanted).map_err(|e| ContentError::Io(e.to_string()))
            }
            Side::Production => self.remote.read(wanted).map_err(|e| ContentError::Io(e.message)),
        };
        let mut bytes = read(&wanted)?;
        while let Some(done) = u32::try_from(bytes.len()).ok().filter(|done| *done < length) {
            let more = read(&Wanted {
                offset: offset + u64::from(done),
                length: (length - done).min(READ_MAX),
                ..wanted.clone()
            })?;
            if more.is_empty() {
                break;
            }
            bytes.extend(more);
        }
        Ok(bytes)
    }
}

impl Remote {
    fn read(&self, wanted: &Wanted) -> Result<Vec<u8>, Failure> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match link.take() {
            Some(open) => open,
            None => (self.call)()?,
        };
        send_parts(&open, &mut &wanted.to_bytes()[..])?;
        let mut bytes = Vec::new();
        receive_parts(&open, &mut bytes, READ_MAX.into())?;
        *link = Some(open);
        bytes.truncate(wanted.length as usize);
        Ok(bytes)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let link = self.link.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = link {
            link.close(CloseCode::Done as u32, "");
        }
    }
}

/// A piece of a file that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    path: RelPath,
    offset: u64,
    length: u32,
}

impl Wanted {
    fn to_bytes(&self) -> Vec<u8> {
        let mut e = Encoder::default();
        e.put_bytes(self.path.as_bytes());
        e.put_u64(self.offset);
        e.put_u64(u64::from(self.length));
        e.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let path = farshore_core::entry::decode_path(&mut d, "path to read")?;
        let offset = d.take_u64("offset to read")?;
        let length = d.take_bounded("bytes to read", u64::from(READ_MAX))?;
        d.finish("read")?;
        Ok(Self { path, offset, length: u32::try_from(length).unwrap_or(READ_MAX) })
    }
}

fn read_here(storage: &UringStorage, wanted: &Wanted) -> std::io::Result<Vec<u8>> {
    let Some((parent, name)) = wanted.path.split() else {
        return Err(std::io::ErrorKind::IsADirectory.into());
    };
    let parent = storage.open_directory(storage.root(), parent.as_bytes())?;
    let file = storage.open_file(&parent, name)?;
    let mut bytes = vec![0; wanted.length as usize];
    let mut len = 0;
    while len < bytes.len() {
        let at = wanted.offset.saturating_add(len as u64);
        match storage.read_at(&file, at, &mut bytes[len..])? {
            0 => break,
            read => len += read,
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Answers what the other site's policies read of this one, until it has enough.
pub(super) fn answer_reads(storage: &UringStorage, link: &QuicLink) -> Result<(), Failure> {
    let mut asked = Vec::new();
    while receive_parts_or_end(link, &mut asked, ANSWER_LEN_MAX)? {
        let wanted = Wanted::from_bytes(&asked);
        let wanted = wanted.map_err(|e| Failure::new(Exit::Connection, &e))?;
        let bytes = read_here(storage, &wanted).map_err(|e| Failure {
            exit: Exit::Partial,
            message: format!("{}: reading it: {e}", wanted.path),
            hint: None,
        })?;
        send_parts(link, &mut &bytes[..])?;
        asked.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_as_it_was_and_is_bounded() {
        let path = RelPath::new(&b"acct/in/journal"[..]).expect("a path");
        let wanted = Wanted { path, offset: 1 << 40, length: READ_MAX };
        assert_eq!(Wanted::from_bytes(&wanted.to_bytes()), Ok(wanted.clone()));
        let more = Wanted { length: READ_MAX + 1, ..wanted.clone() };
        assert!(Wanted::from_bytes(&more.to_bytes()).is_err());
        let bytes = wanted.to_bytes();
        for len in 0..bytes.len() {
            assert!(Wanted::from_bytes(&bytes[..len]).is_err(), "{len}");
        }
    }
}
