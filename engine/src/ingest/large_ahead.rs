//! Reading one large file with two threads.
//!
//! Guarantees: extents reach the visitor in their order, with their bytes, as
//! [`read_extents`](crate::observe::read_extents) gives them; what it could not read is the answer,
//! unless the visitor failed first. The thread that reads, cuts and hashes is over when this returns.
//! It is ahead by [`PIECES`] pieces of [`PIECE`] bytes and one chunk at most.

use crossbeam_channel::bounded;
use farshore_core::chunking::Chunker;
use farshore_core::recipe::Extent;

use super::Failure;
use crate::io::{Stat, Storage};
use crate::observe::{ObserveError, Visit, read_extents};
use crate::profile::{Profile, Stage};

/// Bytes handed over at once.
const PIECE: usize = 512 * 1024;
/// Pieces that wait.
const PIECES: usize = 4;
/// Extents without bytes in one piece, at most.
const EXTENTS_MAX: usize = 4_096;

/// Extents that follow each other, and the bytes of those that are no zeros.
#[derive(Default)]
struct Piece {
    extents: Vec<Extent>,
    bytes: Vec<u8>,
}

/// Why reading ended early.
enum Stop {
    Failed(ObserveError),
    /// The visitor wants no more.
    Gone,
}

impl From<ObserveError> for Stop {
    fn from(e: ObserveError) -> Self {
        Self::Failed(e)
    }
}

/// As `read_extents`, with `visit` on this thread and the rest on another.
pub(super) fn read_ahead<S: Storage>(
    storage: &S,
    file: &S::File,
    stat: &Stat,
    chunker: &mut Chunker,
    profile: Option<&Profile>,
    visit: Visit<'_, Failure>,
) -> Result<(), Failure> {
    let (full, pieces) = bounded::<Piece>(PIECES);
    let (used, spare) = bounded::<Piece>(PIECES);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let _reading = profile.map(|p| p.enter(Stage::Ingest));
            let mut piece = Piece::default();
            let read =
                read_extents::<S, Stop>(storage, file, stat, chunker, &mut |extent, bytes| {
                    piece.extents.push(extent);
                    piece.bytes.extend_from_slice(bytes);
                    if piece.bytes.len() < PIECE && piece.extents.len() < EXTENTS_MAX {
                        return Ok(());
                    }
                    let next = spare.try_recv().unwrap_or_default();
                    let sent = full.send(std::mem::replace(&mut piece, next));
                    sent.map_err(|_| Stop::Gone)
                });
            let last = full.send(piece).map_err(|_| Stop::Gone);
            read.and(last)
        });
        let visited = pieces.into_iter().try_for_each(|mut piece| {
            let mut rest = piece.bytes.as_slice();
            for extent in piece.extents.drain(..) {
                let len = match extent {
                    Extent::Chunk { len, .. } => len as usize,
                    Extent::Zero { .. } => 0,
                };
                let (bytes, others) = rest.split_at(len.min(rest.len()));
                rest = others;
                visit(extent, bytes)?;
            }
            piece.bytes.clear();
            // Nobody waits for it.
            used.try_send(piece).unwrap_or(());
            Ok::<_, Failure>(())
        });
        let read = reading.join().unwrap_or(Err(Stop::Gone));
        visited?;
        match read {
            Ok(()) => Ok(()),
            Err(Stop::Failed(e)) => Err(e.into()),
            Err(Stop::Gone) => Err(ObserveError::Changed.into()),
        }
    })
}
