//! The log of a slot: the recipe of what came so far.
//!
//! ```text
//! "FSAHED01", then frames: body length u32 LE, first 16 bytes of the body's BLAKE3, body
//! body  1: a piece of the recipe, encoded as one        2: whole: the content's digest raw 32
//!       3: the path of the file it is of, before all else
//! ```
//! Guarantees: what reads back was written, in order; from the first frame that is not whole on nothing
//! is believed. It is not synced with every frame: what it says of bytes that a power cut lost is found
//! out by who reads them. It is synced once, behind the bytes, when they are whole.

use std::io;

use farshore_core::codec::{DecodeError, Decoder, Encoder};
use farshore_core::entry::decode_path;
use farshore_core::path::RelPath;
use farshore_core::recipe::{Extent, FileDigest, Recipe};

use crate::io::Storage;

const MAGIC: [u8; 8] = *b"FSAHED01";
const CHECK_LEN: usize = 16;
/// A frame is written when this many bytes have come.
const FRAME_BYTES: u64 = 4 << 20;
/// Extents of one frame at most: more wait for the next.
const FRAME_EXTENTS: usize = 1 << 18;
/// Longest body that is read.
const BODY_MAX: usize = 16 << 20;
/// Longest log that is read: a recipe of the most extents.
const LOG_MAX: u64 = 1 << 30;

/// Writes the log of one slot.
#[derive(Debug)]
pub(crate) struct Writer<S: Storage> {
    file: S::File,
    path: Option<RelPath>,
    /// Where the next frame begins.
    at: u64,
    /// Extents that were written, and the bytes they stand for.
    extents: usize,
    offset: u64,
}

impl<S: Storage> Writer<S> {
    pub(super) const fn begin(file: S::File) -> Self {
        Self { file, path: None, at: 0, extents: 0, offset: 0 }
    }

    /// What it is of; said before anything is written.
    pub(crate) fn is_of(&mut self, path: &RelPath) {
        self.path = Some(path.clone());
    }

    /// Writes what is new in `recipe`, which comes to `offset` bytes, if it is worth a frame.
    pub(crate) fn grown(&mut self, storage: &S, recipe: &Recipe, offset: u64) -> io::Result<bool> {
        if offset.saturating_sub(self.offset) < FRAME_BYTES {
            return Ok(false);
        }
        self.offset = offset;
        self.write(storage, recipe).map(|()| true)
    }

    /// Writes all of `recipe` that was not, but for zeros at its end: they may still grow.
    pub(crate) fn write(&mut self, storage: &S, recipe: &Recipe) -> io::Result<()> {
        let zeros = matches!(recipe.extents.last(), Some(Extent::Zero { .. }));
        self.write_up_to(storage, recipe, recipe.extents.len() - usize::from(zeros))
    }

    fn write_up_to(&mut self, storage: &S, recipe: &Recipe, end: usize) -> io::Result<()> {
        while self.extents < end {
            let piece = self.extents..end.min(self.extents + FRAME_EXTENTS);
            self.extents = piece.end;
            let mut e = Encoder::new();
            e.put_u8(1);
            let extents = recipe.extents[piece].to_vec();
            Recipe { chunking: recipe.chunking, extents }.encode(&mut e);
            self.frame(storage, &e.finish())?;
        }
        Ok(())
    }

    /// Writes a log, empty so far, of content that is whole; durable but for its name.
    pub(super) fn whole(mut self, storage: &S, recipe: &Recipe) -> io::Result<()> {
        self.write_up_to(storage, recipe, recipe.extents.len())?;
        let mut e = Encoder::new();
        e.put_u8(2);
        e.put_raw(&recipe.digest().0);
        self.frame(storage, &e.finish())?;
        storage.sync_file(&self.file)
    }

    fn frame(&mut self, storage: &S, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::new();
        if self.at == 0 {
            frame.extend(MAGIC);
            if let Some(path) = &self.path {
                let mut e = Encoder::new();
                e.put_u8(3);
                e.put_bytes(path.as_bytes());
                append(&mut frame, &e.finish())?;
            }
        }
        append(&mut frame, body)?;
        storage.write_at(&self.file, self.at, &frame)?;
        self.at += frame.len() as u64;
        Ok(())
    }
}

fn append(frame: &mut Vec<u8>, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::Other))?;
    frame.extend(len.to_le_bytes());
    frame.extend(&blake3::hash(body).as_bytes()[..CHECK_LEN]);
    frame.extend(body);
    Ok(())
}

/// What a log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Logged {
    /// The path of the file it is of, where it says so.
    pub(super) path: Option<RelPath>,
    /// What that is made of, as far as it came.
    pub(super) recipe: Recipe,
    /// Whether that is all of it.
    pub(super) whole: bool,
}

/// What a log of `size` bytes says; `None` when it is none.
pub(super) fn read<S: Storage>(
    storage: &S,
    file: &S::File,
    size: u64,
) -> io::Result<Option<Logged>> {
    let mut bytes = vec![0; usize::try_from(size.min(LOG_MAX)).unwrap_or(0)];
    let read = storage.read_at(file, 0, &mut bytes)?;
    Ok(parse(&bytes[..read]))
}

fn parse(bytes: &[u8]) -> Option<Logged> {
    let mut rest = bytes.strip_prefix(&MAGIC)?;
    let (mut path, mut recipe): (_, Option<Recipe>) = (None, None);
    let mut whole = false;
    while let Some(body) = next_body(&mut rest) {
        match piece(body) {
            Ok(Piece::Recipe(more)) => match &mut recipe {
                Some(recipe) => more.extents.into_iter().for_each(|extent| recipe.push(extent)),
                None => recipe = Some(more),
            },
            Ok(Piece::Path(of)) if recipe.is_none() => path = Some(of),
            Ok(Piece::Whole(content)) => {
                whole = recipe.as_ref().is_some_and(|recipe| recipe.digest() == content);
                break;
            }
            Ok(Piece::Path(_)) | Err(_) => break,
        }
    }
    recipe.map(|recipe| Logged { path, recipe, whole })
}

fn next_body<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (len, after) = rest.split_first_chunk::<4>()?;
    let (check, after) = after.split_first_chunk::<CHECK_LEN>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok().filter(|len| *len <= BODY_MAX)?;
    let (body, after) = after.split_at_checked(len)?;
    *rest = after;
    (blake3::hash(body).as_bytes()[..CHECK_LEN] == *check).then_some(body)
}

enum Piece {
    Recipe(Recipe),
    Whole(FileDigest),
    Path(RelPath),
}

fn piece(body: &[u8]) -> Result<Piece, DecodeError> {
    let mut d = Decoder::new(body);
    let piece = match d.take_u8("piece of a log")? {
        1 => Piece::Recipe(Recipe::decode(&mut d)?),
        2 => Piece::Whole(FileDigest(d.take_array("content")?)),
        3 => Piece::Path(decode_path(&mut d, "path of a log")?),
        other => {
            let (what, found) = ("piece of a log", u64::from(other));
            return Err(DecodeError::Invalid { what, found });
        }
    };
    d.finish("piece of a log")?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use farshore_core::chunking::ChunkingId;
    use farshore_core::recipe::ChunkId;

    use super::*;

    fn log(whole: bool) -> (Vec<u8>, Logged) {
        let chunk = |n: u8| Extent::Chunk { id: ChunkId([n; 32]), len: 1 + u32::from(n) };
        let extents = vec![chunk(1), Extent::Zero { len: 65_536 }, chunk(2), chunk(3)];
        let recipe = Recipe { chunking: ChunkingId::Gear64K, extents };
        let path = RelPath::new(*b"acct1/huge").expect("valid");
        let mut bytes = MAGIC.to_vec();
        let mut frame = |body: &[u8]| append(&mut bytes, body).expect("short");
        let mut e = Encoder::new();
        e.put_u8(3);
        e.put_bytes(path.as_bytes());
        frame(&e.finish());
        for part in [&recipe.extents[..1], &recipe.extents[1..]] {
            let mut e = Encoder::new();
            e.put_u8(1);
            Recipe { chunking: recipe.chunking, extents: part.to_vec() }.encode(&mut e);
            frame(&e.finish());
        }
        if whole {
            let mut e = Encoder::new();
            e.put_u8(2);
            e.put_raw(&recipe.digest().0);
            frame(&e.finish());
        }
        (bytes, Logged { path: Some(path), recipe, whole })
    }

    #[test]
    fn a_log_reads_back_and_one_cut_short_says_less_and_never_whole() {
        let (bytes, logged) = log(true);
        assert_eq!(parse(&bytes), Some(logged.clone()));
        assert_eq!(parse(&log(false).0), Some(Logged { whole: false, ..logged.clone() }));
        let is_less = |found: &Logged| {
            let begins = logged.recipe.extents.starts_with(&found.recipe.extents);
            !found.whole && begins && found.path == logged.path
        };
        for len in 0..bytes.len() {
            let Some(found) = parse(&bytes[..len]) else { continue };
            assert!(is_less(&found), "cut to {len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let Some(found) = parse(&damaged) else { continue };
            assert!(is_less(&found), "byte {at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_log_or_none(bytes: Vec<u8>) {
            let _parsed_or_none = parse(&bytes).is_some();
            let mut log = MAGIC.to_vec();
            log.extend(u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
            log.extend(&blake3::hash(&bytes).as_bytes()[..CHECK_LEN]);
            log.extend(&bytes);
            let _parsed_or_none = parse(&log).is_some();
        }
    }
}
