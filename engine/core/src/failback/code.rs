//! The bytes of one divergence in a plan.
//!
//! Guarantees: one encoding for each divergence; any other bytes are refused, without a panic and without
//! allocating what they do not hold.

use super::{AtSite, Class, DecidedBy, Divergence, GroupId, Rule};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::conflict::{LITERAL_MAX, Outcome, PIECES_MAX, Piece, Side, Site};
use crate::entry::{Entry, decode_path};
use crate::limits::FILE_SIZE_MAX;
use crate::path::RelPath;

/// Bytes of a reason, at most.
pub(super) const REASON_MAX: usize = 4 << 10;

fn invalid(what: &'static str, found: u8) -> DecodeError {
    DecodeError::Invalid { what, found: u64::from(found) }
}

fn put_option(e: &mut Encoder, path: Option<&RelPath>) {
    e.put_u8(u8::from(path.is_some()));
    if let Some(path) = path {
        e.put_bytes(path.as_bytes());
    }
}

fn take_flag(d: &mut Decoder<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match d.take_u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(invalid(what, other)),
    }
}

fn take_option(d: &mut Decoder<'_>, what: &'static str) -> Result<Option<RelPath>, DecodeError> {
    take_flag(d, what)?.then(|| decode_path(d, what)).transpose()
}

/// Nothing, the base's, or an entry of its own.
fn put_entry(e: &mut Encoder, entry: Option<&Entry>, base: Option<&Entry>) {
    match entry {
        None => e.put_u8(0),
        _ if entry == base => e.put_u8(1),
        Some(entry) => {
            e.put_u8(2);
            entry.encode(e);
        }
    }
}

fn take_entry(d: &mut Decoder<'_>, base: Option<&Entry>) -> Result<Option<Entry>, DecodeError> {
    match (d.take_u8("entry of a site")?, base) {
        (0, _) => Ok(None),
        (1, Some(base)) => Ok(Some(base.clone())),
        (2, _) => {
            let entry = Entry::decode(d)?;
            if Some(&entry) == base {
                return Err(invalid("entry of a site", 2));
            }
            Ok(Some(entry))
        }
        (other, _) => Err(invalid("entry of a site", other)),
    }
}

fn put_site(e: &mut Encoder, at: &AtSite, base: Option<&Entry>) {
    put_entry(e, at.entry.as_ref(), base);
    put_option(e, at.moved_from.as_ref());
    put_option(e, at.moved_to.as_ref());
}

fn take_site(d: &mut Decoder<'_>, base: Option<&Entry>) -> Result<AtSite, DecodeError> {
    Ok(AtSite {
        entry: take_entry(d, base)?,
        moved_from: take_option(d, "former path")?,
        moved_to: take_option(d, "later path")?,
    })
}

impl Divergence {
    /// Appends the encoding.
    pub(super) fn encode(&self, e: &mut Encoder) {
        let base = self.base.as_ref();
        e.put_bytes(self.path.as_bytes());
        put_entry(e, base, None);
        put_site(e, &self.production, base);
        put_site(e, &self.recovery, base);
        e.put_u8(self.class as u8);
        put_outcome(e, &self.outcome);
        match self.by {
            DecidedBy::Default(rule) => e.put_u64(u64::from(rule as u8) << 2),
            DecidedBy::Policy(index) => e.put_u64(u64::from(index) << 2 | 1),
            DecidedBy::Person => e.put_u64(2),
        }
        e.put_bytes(shortened(&self.reason).as_bytes());
        e.put_u8(u8::from(self.group.is_some()));
        if let Some(GroupId(id)) = self.group {
            e.put_u64(id);
        }
        put_option(e, self.at_recovery.as_ref());
        e.put_u64(self.needs);
    }

    /// Takes one off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let path = decode_path(d, "path of a divergence")?;
        let base = take_entry(d, None)?;
        let production = take_site(d, base.as_ref())?;
        let recovery = take_site(d, base.as_ref())?;
        let class = d.take_u8("class")?;
        let class = Class::of(class).ok_or(invalid("class", class))?;
        let outcome = take_outcome(d)?;
        let by = take_by(d)?;
        let reason = d.take_text("reason", REASON_MAX)?;
        let group = take_flag(d, "group")?.then(|| d.take_u64("group").map(GroupId)).transpose()?;
        let at_recovery = take_option(d, "source at recovery")?;
        let needs = d.take_bounded("bytes to carry", FILE_SIZE_MAX)?;
        Ok(Self {
            path,
            base,
            production,
            recovery,
            class,
            outcome,
            by,
            reason,
            group,
            at_recovery,
            needs,
        })
    }
}

/// As much of a reason as a plan keeps.
fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

fn take_by(d: &mut Decoder<'_>) -> Result<DecidedBy, DecodeError> {
    let tagged = d.take_bounded("who decided", u64::from(u32::MAX) << 2 | 3)?;
    let value = u32::try_from(tagged >> 2).unwrap_or(u32::MAX);
    let rule = u8::try_from(value).ok().and_then(Rule::of);
    match (tagged & 3, rule, value) {
        (0, Some(rule), _) => Ok(DecidedBy::Default(rule)),
        (1, _, index) => Ok(DecidedBy::Policy(index)),
        (2, _, 0) => Ok(DecidedBy::Person),
        _ => Err(DecodeError::Invalid { what: "who decided", found: tagged }),
    }
}

fn put_name(e: &mut Encoder, site: Site) {
    e.put_u8(match site {
        Site::Production => 0,
        Site::Recovery => 1,
    });
}

fn take_name(d: &mut Decoder<'_>) -> Result<Site, DecodeError> {
    Ok(if take_flag(d, "site")? { Site::Recovery } else { Site::Production })
}

/// Appends an outcome.
pub(super) fn put_outcome(e: &mut Encoder, outcome: &Outcome) {
    match outcome {
        Outcome::Hold => e.put_u8(0),
        Outcome::Keep(site) => {
            e.put_u8(1);
            put_name(e, *site);
        }
        Outcome::KeepBoth { renamed, path } => {
            e.put_u8(2);
            put_name(e, *renamed);
            e.put_bytes(path.as_bytes());
        }
        Outcome::Merge { attributes, pieces } => {
            e.put_u8(3);
            put_name(e, *attributes);
            e.put_u64(pieces.len() as u64);
            for piece in pieces {
                put_piece(e, piece);
            }
        }
        Outcome::Delete => e.put_u8(4),
    }
}

fn put_piece(e: &mut Encoder, piece: &Piece) {
    match piece {
        Piece::Literal(bytes) => {
            e.put_u8(0);
            e.put_bytes(bytes);
        }
        Piece::Copy { side, offset, length } => {
            e.put_u8(match side {
                Side::Base => 1,
                Side::Production => 2,
                Side::Recovery => 3,
            });
            e.put_u64(*offset);
            e.put_u64(*length);
        }
    }
}

fn take_outcome(d: &mut Decoder<'_>) -> Result<Outcome, DecodeError> {
    match d.take_u8("outcome")? {
        0 => Ok(Outcome::Hold),
        1 => Ok(Outcome::Keep(take_name(d)?)),
        2 => Ok(Outcome::KeepBoth { renamed: take_name(d)?, path: decode_path(d, "new name")? }),
        3 => {
            let attributes = take_name(d)?;
            let count = d.take_len("pieces", PIECES_MAX)?;
            let (mut pieces, mut literal) = (Vec::new(), 0);
            for _ in 0..count {
                pieces.push(take_piece(d, &mut literal)?);
            }
            Ok(Outcome::Merge { attributes, pieces })
        }
        4 => Ok(Outcome::Delete),
        other => Err(invalid("outcome", other)),
    }
}

fn take_piece(d: &mut Decoder<'_>, literal: &mut usize) -> Result<Piece, DecodeError> {
    let side = match d.take_u8("piece")? {
        0 => {
            let bytes = d.take_bytes("literal bytes", LITERAL_MAX - *literal)?;
            *literal += bytes.len();
            return Ok(Piece::Literal(bytes.into()));
        }
        1 => Side::Base,
        2 => Side::Production,
        3 => Side::Recovery,
        other => return Err(invalid("piece", other)),
    };
    Ok(Piece::Copy {
        side,
        offset: d.take_bounded("offset of a piece", FILE_SIZE_MAX)?,
        length: d.take_bounded("length of a piece", FILE_SIZE_MAX)?,
    })
}
