//! The bytes of the longer control messages.
//!
//! Guarantees: what is read is within the limits of [`super`], whatever the bytes are; nothing panics on them.

use super::*;

/// Offsets count from the end of the range before.
#[allow(clippy::cast_possible_wrap)] // offsets of files are below 2^63
pub(super) fn encode_sign(sign: &Sign, e: &mut Encoder) {
    e.put_u64(sign.id);
    e.put_raw(&sign.content.0);
    e.put_u64(sign.signing.block_len() as u64);
    e.put_u64(sign.signing.signature_len() as u64);
    e.put_u64(sign.ranges.len() as u64);
    let mut cursor = 0u64;
    for &(offset, len) in &sign.ranges {
        e.put_i64((offset as i64).wrapping_sub(cursor as i64));
        e.put_u64(len);
        cursor = offset.saturating_add(len);
    }
}

pub(super) fn decode_sign(d: &mut Decoder<'_>) -> Result<Sign, DecodeError> {
    let id = d.take_u64("sign")?;
    let content = FileDigest(d.take_array("signed content")?);
    let block_len = d.take_u64("block length")?;
    let signature_len = d.take_len("signature length", 8)?;
    let signing = usize::try_from(block_len).ok().and_then(|b| Signing::new(b, signature_len));
    let signing = signing
        .ok_or(DecodeError::Invalid { what: "block or signature length", found: block_len })?;
    let count = d.take_len("signed ranges", SIGN_RANGES_MAX)?;
    let mut ranges = Vec::new();
    let (mut cursor, mut left) = (0u64, SIGNED_LEN_MAX);
    for _ in 0..count {
        let moved = d.take_i64("signed range")?;
        let offset = cursor.checked_add_signed(moved).filter(|&o| o <= FILE_SIZE_MAX);
        let offset = offset.ok_or(DecodeError::Invalid { what: "signed range", found: cursor })?;
        let len = d.take_bounded("signed bytes", left)?;
        left -= len;
        cursor = offset + len;
        ranges.push((offset, len));
    }
    Ok(Sign { id, content, signing, ranges })
}

/// The beginning of `text`, at most so many bytes.
pub(super) fn cut(text: &str, len_max: usize) -> &str {
    let mut end = text.len().min(len_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(super) fn put_text(text: &str, e: &mut Encoder) {
    e.put_bytes(cut(text, TEXT_MAX).as_bytes());
}

pub(super) fn put_versions(versions: (u16, u16), e: &mut Encoder) {
    e.put_u64(u64::from(versions.0));
    e.put_u64(u64::from(versions.1));
}

pub(super) fn take_versions(d: &mut Decoder<'_>) -> Result<(u16, u16), DecodeError> {
    Ok((take_u16(d)?, take_u16(d)?))
}

pub(super) fn encode_events(events: &Events, e: &mut Encoder) {
    e.put_u64(events.number);
    e.put_u8(u8::from(events.lost.is_some()));
    if let Some(why) = &events.lost {
        put_text(why, e);
    }
    e.put_u64(events.parts.len() as u64);
    for (directory, deep) in &events.parts {
        e.put_bytes(directory.as_bytes());
        e.put_u8(u8::from(*deep));
    }
}

pub(super) fn decode_events(d: &mut Decoder<'_>) -> Result<Events, DecodeError> {
    let number = d.take_u64("events")?;
    let lost = take_bool(d)?.then(|| d.take_text("why events are lost", TEXT_MAX)).transpose()?;
    let count = d.take_len("changed directories", EVENTS_MAX)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push((decode_path(d, "changed directory")?, take_bool(d)?));
    }
    Ok(Events { number, lost, parts })
}

pub(super) fn take_u16(d: &mut Decoder<'_>) -> Result<u16, DecodeError> {
    let found = d.take_u64("version")?;
    u16::try_from(found).map_err(|_| DecodeError::Invalid { what: "version", found })
}

pub(super) fn take_bool(d: &mut Decoder<'_>) -> Result<bool, DecodeError> {
    match d.take_u8("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Invalid { what: "flag", found: u64::from(other) }),
    }
}

pub(super) fn encode_welcome(w: &Welcome, e: &mut Encoder) {
    e.put_u64(u64::from(w.version));
    e.put_raw(&w.target.0);
    e.put_u8(u8::from(w.sealed_with.is_some()));
    if let Some(id) = w.sealed_with {
        e.put_raw(&id.0);
    }
    e.put_u64(w.epoch.0);
    e.put_u64(w.applied_batch);
    e.put_raw(&w.root.0);
    e.put_u64(w.entries);
    e.put_u64(w.foreign_changes);
    e.put_u8(u8::from(w.recovery_point.is_some()));
    if let Some(point) = w.recovery_point {
        point.encode(e);
    }
}

pub(super) fn decode_welcome(d: &mut Decoder<'_>) -> Result<Welcome, DecodeError> {
    Ok(Welcome {
        version: take_u16(d)?,
        target: StoreId(d.take_array("target id")?),
        sealed_with: take_bool(d)?.then(|| d.take_array("source id").map(StoreId)).transpose()?,
        epoch: Epoch(d.take_u64("epoch")?),
        applied_batch: d.take_u64("applied batch")?,
        root: RootDigest(d.take_array("root digest")?),
        entries: d.take_u64("entries")?,
        foreign_changes: d.take_u64("foreign changes")?,
        recovery_point: take_bool(d)?.then(|| RecoveryPoint::decode(d)).transpose()?,
    })
}

pub(super) fn decode_queries(d: &mut Decoder<'_>) -> Result<Vec<Query>, DecodeError> {
    let count = d.take_len("queries", COMPARE_QUERIES_MAX)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        let directory = decode_path(d, "queried directory")?;
        let bucket = take_bool(d)?.then(|| d.take_u8("bucket")).transpose()?;
        queries.push(Query { directory, bucket });
    }
    Ok(queries)
}

pub(super) fn encode_answer(answer: &Answer, e: &mut Encoder) {
    match answer {
        Answer::Children { last, children } => {
            e.put_u8(0);
            e.put_u8(u8::from(*last));
            e.put_u64(children.len() as u64);
            for child in children {
                e.put_bytes(child.path.as_bytes());
                child.entry.encode(e);
                e.put_u8(u8::from(child.below.is_some()));
                if let Some(below) = child.below {
                    e.put_raw(&below.0);
                }
            }
        }
        Answer::Buckets(buckets) => {
            e.put_u8(1);
            buckets.iter().for_each(|b| e.put_raw(&b.0));
        }
    }
}

pub(super) fn decode_answer(d: &mut Decoder<'_>) -> Result<Answer, DecodeError> {
    if take_bool(d)? {
        let mut buckets = Box::new([DirectoryDigest([0; 32]); BUCKETS]);
        for bucket in buckets.iter_mut() {
            *bucket = DirectoryDigest(d.take_array("bucket digest")?);
        }
        return Ok(Answer::Buckets(buckets));
    }
    let last = take_bool(d)?;
    let count = d.take_len("children", ANSWER_CHILDREN_MAX)?;
    let mut children = Vec::new();
    for _ in 0..count {
        children.push(Child {
            path: decode_path(d, "child")?,
            entry: Entry::decode(d)?,
            below: take_bool(d)?
                .then(|| d.take_array("directory digest").map(DirectoryDigest))
                .transpose()?,
        });
    }
    Ok(Answer::Children { last, children })
}

pub(super) fn encode_receipt(receipt: &Receipt, e: &mut Encoder) {
    e.put_u64(receipt.batch);
    e.put_u64(receipt.failures.len() as u64);
    for failure in &receipt.failures {
        e.put_bytes(failure.path.as_bytes());
        match &failure.kind {
            FailureKind::Refused => e.put_u8(0),
            FailureKind::Basis(chunks) => {
                e.put_u8(1);
                e.put_u64(chunks.len() as u64);
                chunks.iter().for_each(|c| e.put_raw(&c.0));
            }
            FailureKind::NoSpace { needed, free } => {
                e.put_u8(2);
                e.put_u64(*needed);
                e.put_u64(*free);
            }
        }
        put_text(&failure.text, e);
    }
    e.put_u64(receipt.degraded.len() as u64);
    for (what, count) in &receipt.degraded {
        put_text(what, e);
        e.put_u64(*count);
    }
}

pub(super) fn decode_receipt(d: &mut Decoder<'_>) -> Result<Receipt, DecodeError> {
    let batch = d.take_u64("receipt batch")?;
    let count = d.take_len("failures", BATCH_OPS_MAX)?;
    let mut failures = Vec::new();
    for _ in 0..count {
        let path = decode_path(d, "failed path")?;
        let kind = match d.take_u8("failure kind")? {
            0 => FailureKind::Refused,
            1 => {
                let chunks = d.take_len("missing chunks", BATCH_OPS_MAX)?;
                let mut missing = Vec::new();
                for _ in 0..chunks {
                    missing.push(ChunkId(d.take_array("chunk id")?));
                }
                FailureKind::Basis(missing)
            }
            2 => FailureKind::NoSpace {
                needed: d.take_u64("bytes needed")?,
                free: d.take_u64("bytes free")?,
            },
            found => {
                let found = u64::from(found);
                return Err(DecodeError::Invalid { what: "failure kind", found });
            }
        };
        failures.push(Failure { path, kind, text: d.take_text("failure", TEXT_MAX)? });
    }
    let count = d.take_len("degraded kinds", DEGRADED_MAX)?;
    let mut degraded = Vec::new();
    for _ in 0..count {
        degraded.push((d.take_text("degraded", TEXT_MAX)?, d.take_u64("degraded count")?));
    }
    Ok(Receipt { batch, failures, degraded })
}
