//! The state as bytes, to be kept over a restart.
//!
//! Sums are stored with the times of their buckets, so that they hold under another window too: a
//! bucket goes to the slot its end lies in, so it counts too long rather than too short.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::guard::Threshold;
use crate::limits;
use crate::path::RelPath;

use super::hold::{
    Beside, Counts, Decision, Hold, Kinds, Mass, PATHS_MAX, Pass, Reason, SHARERS_MAX, Shared,
};
use super::tally::{EXTENSION_LEN_MAX, Extension, ExtensionCount, NAMES_MAX};
use super::window::{BUCKETS_MAX, EXTENSIONS_MAX, Sums, Window};
use super::{Brake, BrakeConfig, LastPoint, Learned, SEEN_MAX, Touch};

/// 2 has what a look at all that is held needs; of 1 everything else is read.
const VERSION: u8 = 2;
/// Most hashes of a hold in version 1: they are passed over.
const PENDING_MAX: usize = 1 << 16;
/// Most accounts with events, holds and approvals; ten times what the largest site has.
const ACCOUNTS_MAX: usize = 200_000;
/// Most reasons of one hold: one of each sort.
const REASONS_MAX: usize = 10;

impl Brake {
    /// The whole state but the settings.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.put_u8(VERSION);
        e.put_u64(self.config.slot_ms());
        e.put_u64(self.slot);
        e.put_u64(self.next);
        e.put_u64(self.revision);
        put_window(&mut e, &self.share);
        e.put_u64(self.accounts.len() as u64);
        for (account, window) in &self.accounts {
            e.put_bytes(account.as_bytes());
            put_window(&mut e, window);
        }
        let mut last = 0;
        e.put_u64(self.seen.len() as u64);
        for (&hash, &(slot, touch)) in &self.seen {
            e.put_u64(hash - last);
            e.put_u64(slot);
            e.put_u8(touch as u8);
            last = hash;
        }
        let mut last = 0;
        e.put_u64(self.stems.len() as u64);
        for (&hash, &(slot, extension)) in &self.stems {
            e.put_u64(hash - last);
            e.put_u64(slot);
            e.put_bytes(extension.as_bytes());
            last = hash;
        }
        e.put_u64(self.extensions.len() as u64);
        for (extension, learned) in &self.extensions {
            e.put_bytes(extension.as_bytes());
            e.put_i64(learned.first_ms);
            e.put_i64(learned.last_ms);
        }
        e.put_u64(self.holds.len() as u64);
        self.holds.iter().for_each(|hold| put_hold(&mut e, hold));
        e.put_u64(self.approvals.len() as u64);
        self.approvals.iter().for_each(|pass| put_pass(&mut e, pass));
        e.finish()
    }

    /// The state that [`Self::encode`] wrote, under `config`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are. A caller whose state is damaged must not go on without:
    /// holds may be lost.
    pub fn decode(bytes: &[u8], config: BrakeConfig) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let version = d.take_u8("brake version")?;
        if version == 0 || version > VERSION {
            let found = u64::from(version);
            return Err(DecodeError::Invalid { what: "brake version", found });
        }
        let slot_ms = d.take_u64("brake slot length")?;
        let change = (slot_ms != config.slot_ms()).then_some((slot_ms, config.slot_ms()));
        let mut brake = Self::new(config);
        brake.slot = reslot(d.take_u64("brake slot")?, change);
        brake.next = d.take_u64("brake next hold")?;
        brake.revision = d.take_u64("brake revision")?;
        brake.share = take_window(&mut d, change)?;
        for _ in 0..d.take_len("brake accounts", ACCOUNTS_MAX)? {
            let account = take_path(&mut d)?;
            let window = take_window(&mut d, change)?;
            if brake.accounts.last_key_value().is_some_and(|(last, _)| *last >= account) {
                return Err(disorder("brake accounts"));
            }
            brake.accounts.insert(account, window);
        }
        brake.take_files(&mut d, change)?;
        for _ in 0..d.take_len("brake extensions", super::EXTENSIONS_MAX)? {
            let extension = take_extension(&mut d)?;
            let first_ms = d.take_i64("extension first seen")?;
            let last_ms = d.take_i64("extension last seen")?;
            if brake.extensions.insert(extension, Learned { first_ms, last_ms }).is_some() {
                return Err(disorder("brake extensions"));
            }
        }
        for _ in 0..d.take_len("brake holds", ACCOUNTS_MAX)? {
            let hold = take_hold(&mut d, version)?;
            brake.holds.push(hold);
        }
        for _ in 0..d.take_len("brake approvals", ACCOUNTS_MAX)? {
            brake.approvals.push(take_pass(&mut d, version)?);
        }
        d.finish("brake")?;
        Ok(brake)
    }

    fn take_files(
        &mut self,
        d: &mut Decoder<'_>,
        change: Option<(u64, u64)>,
    ) -> Result<(), DecodeError> {
        let mut last = None;
        for _ in 0..d.take_len("files seen", SEEN_MAX)? {
            let hash = take_next(d, &mut last)?;
            let slot = reslot(d.take_u64("file slot")?, change);
            let touch = match d.take_u8("file touch")? {
                0 => Touch::Born,
                1 => Touch::Rewritten,
                2 => Touch::Encrypted,
                found => {
                    let found = u64::from(found);
                    return Err(DecodeError::Invalid { what: "file touch", found });
                }
            };
            self.seen.insert(hash, (slot, touch));
        }
        let mut last = None;
        for _ in 0..d.take_len("names expected", NAMES_MAX)? {
            let hash = take_next(d, &mut last)?;
            let slot = reslot(d.take_u64("name slot")?, change);
            self.stems.insert(hash, (slot, take_extension(d)?));
        }
        Ok(())
    }
}

fn disorder(what: &'static str) -> DecodeError {
    DecodeError::Invalid { what, found: 0 }
}

/// The slot of new length in which the slot of old length ends.
fn reslot(slot: u64, change: Option<(u64, u64)>) -> u64 {
    let Some((old, new)) = change else { return slot };
    (slot.saturating_add(1).saturating_mul(old) - u64::from(old > 0)) / new
}

/// The next of a rising sequence of numbers, stored as differences.
fn take_next(d: &mut Decoder<'_>, last: &mut Option<u64>) -> Result<u64, DecodeError> {
    let step = d.take_u64("hash")?;
    let next = match *last {
        None => Some(step),
        Some(before) => before.checked_add(step).filter(|_| step > 0),
    };
    *last = next;
    next.ok_or(disorder("hash order"))
}

fn take_path(d: &mut Decoder<'_>) -> Result<RelPath, DecodeError> {
    let bytes = d.take_bytes("brake path", limits::PATH_LEN_MAX)?;
    RelPath::new(bytes).map_err(|source| DecodeError::Path { what: "brake path", source })
}

fn take_extension(d: &mut Decoder<'_>) -> Result<Extension, DecodeError> {
    let bytes = d.take_bytes("extension", EXTENSION_LEN_MAX)?;
    Extension::new(bytes).filter(|e| e.as_bytes() == bytes).ok_or(disorder("extension"))
}

fn put_window(e: &mut Encoder, window: &Window) {
    e.put_u64(window.buckets.len() as u64);
    for (slot, sums) in &window.buckets {
        e.put_u64(*slot);
        for n in [sums.deleted, sums.rewritten, sums.sampled, sums.encrypted, sums.moved] {
            e.put_u64(n);
        }
        e.put_i64(sums.grown);
        e.put_u64(sums.extensions.len() as u64);
        for count in &sums.extensions {
            e.put_bytes(count.extension.as_bytes());
            e.put_u64(count.appended);
            e.put_u64(count.renamed);
        }
    }
}

fn take_window(d: &mut Decoder<'_>, change: Option<(u64, u64)>) -> Result<Window, DecodeError> {
    let mut window = Window::default();
    let mut last = None;
    for _ in 0..d.take_len("window buckets", BUCKETS_MAX)? {
        let slot = d.take_u64("bucket slot")?;
        if last.is_some_and(|last| last >= slot) {
            return Err(disorder("bucket order"));
        }
        last = Some(slot);
        let mut sums = Sums {
            deleted: d.take_u64("deleted")?,
            rewritten: d.take_u64("rewritten")?,
            sampled: d.take_u64("sampled")?,
            encrypted: d.take_u64("encrypted")?,
            moved: d.take_u64("moved")?,
            grown: d.take_i64("grown")?,
            extensions: Vec::new(),
        };
        for _ in 0..d.take_len("bucket extensions", EXTENSIONS_MAX)? {
            let extension = take_extension(d)?;
            let appended = d.take_u64("appended")?;
            let renamed = d.take_u64("renamed")?;
            if sums.extensions.last().is_some_and(|last| last.extension >= extension) {
                return Err(disorder("bucket extensions"));
            }
            sums.extensions.push(ExtensionCount { extension, appended, renamed });
        }
        match change {
            Some(_) => window.add(reslot(slot, change), &sums),
            None => window.buckets.push_back((slot, sums)),
        }
    }
    Ok(window)
}

fn put_account(e: &mut Encoder, account: Option<&RelPath>) {
    e.put_u8(u8::from(account.is_some()));
    if let Some(account) = account {
        e.put_bytes(account.as_bytes());
    }
}

fn take_flag(d: &mut Decoder<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match d.take_u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(DecodeError::Invalid { what, found: u64::from(found) }),
    }
}

fn take_account(d: &mut Decoder<'_>) -> Result<Option<RelPath>, DecodeError> {
    Ok(if take_flag(d, "account flag")? { Some(take_path(d)?) } else { None })
}

fn put_counts(e: &mut Encoder, counts: Counts) {
    for n in [counts.created, counts.deleted, counts.rewritten, counts.moved] {
        e.put_u64(n);
    }
}

fn take_counts(d: &mut Decoder<'_>) -> Result<Counts, DecodeError> {
    Ok(Counts {
        created: d.take_u64("created")?,
        deleted: d.take_u64("deleted")?,
        rewritten: d.take_u64("rewritten")?,
        moved: d.take_u64("moved")?,
    })
}

fn put_hold(e: &mut Encoder, hold: &Hold) {
    e.put_u64(hold.id);
    put_account(e, hold.account.as_ref());
    e.put_i64(hold.since_ms);
    e.put_i64(hold.last_ms);
    put_counts(e, hold.counts);
    e.put_u64(hold.point.sequence);
    e.put_i64(hold.point.time_ms);
    match hold.decision {
        Decision::Waits => e.put_u8(0),
        Decision::Rejected { at_ms } => {
            e.put_u8(1);
            e.put_i64(at_ms);
        }
    }
    e.put_u64(hold.paths.len() as u64);
    hold.paths.iter().for_each(|p| e.put_bytes(p.as_bytes()));
    e.put_u64(hold.reasons.len() as u64);
    hold.reasons.iter().for_each(|r| put_reason(e, r));
    let Beside { deleted, rewritten, known } = hold.beside;
    [hold.known, deleted, rewritten, known].iter().for_each(|n| e.put_u64(*n));
    e.put_u64(hold.sharers.len() as u64);
    for (account, counts) in &hold.sharers {
        e.put_bytes(account.as_bytes());
        put_counts(e, *counts);
    }
}

fn take_hold(d: &mut Decoder<'_>, version: u8) -> Result<Hold, DecodeError> {
    let id = d.take_u64("hold number")?;
    let account = take_account(d)?;
    let since_ms = d.take_i64("hold since")?;
    let last_ms = d.take_i64("hold last")?;
    let counts = take_counts(d)?;
    let sequence = d.take_u64("hold point")?;
    let time_ms = match version {
        1 => take_flag(d, "hold frozen").map(|_| 0)?,
        _ => d.take_i64("hold point's time")?,
    };
    let point = LastPoint { sequence, time_ms };
    let decision = if take_flag(d, "hold decision")? {
        Decision::Rejected { at_ms: d.take_i64("hold rejected")? }
    } else {
        Decision::Waits
    };
    let mut hold = Hold::new(id, account, point, since_ms);
    for _ in 0..d.take_len("hold paths", PATHS_MAX)? {
        hold.paths.push(take_path(d)?);
    }
    for _ in 0..d.take_len("hold reasons", REASONS_MAX)? {
        // One of a sort, so that there is room for all sorts.
        hold.add_reasons([take_reason(d)?]);
    }
    let hold = Hold { last_ms, counts, decision, ..hold };
    if version == 1 {
        for _ in 0..d.take_len("held changes", PENDING_MAX)? {
            d.take_u64("held change")?;
        }
        return Ok(hold);
    }
    let known = d.take_u64("hold entries")?;
    let beside = Beside {
        deleted: d.take_u64("deleted beside a hold")?,
        rewritten: d.take_u64("rewritten beside a hold")?,
        known: d.take_u64("entries beside a hold")?,
    };
    let mut sharers = BTreeMap::new();
    for _ in 0..d.take_len("accounts of a hold", SHARERS_MAX)? {
        let account = take_path(d)?;
        let counts = take_counts(d)?;
        in_order(&sharers, &account)?;
        sharers.insert(account, counts);
    }
    Ok(Hold { known, beside, sharers, ..hold })
}

fn in_order<T>(before: &BTreeMap<RelPath, T>, next: &RelPath) -> Result<(), DecodeError> {
    match before.last_key_value() {
        Some((last, _)) if last >= next => Err(disorder("accounts held or approved")),
        _ => Ok(()),
    }
}

fn put_pass(e: &mut Encoder, pass: &Pass) {
    put_account(e, pass.account.as_ref());
    put_counts(e, pass.shown);
    put_counts(e, pass.used);
    e.put_u64(u64::from(pass.kinds.0));
    e.put_i64(pass.until_ms);
    e.put_u64(pass.sharers.len() as u64);
    for (account, part) in &pass.sharers {
        e.put_bytes(account.as_bytes());
        put_counts(e, part.shown);
        put_counts(e, part.used);
    }
}

/// An approval for the whole share of version 1 showed no accounts: it covers none any more.
fn take_pass(d: &mut Decoder<'_>, version: u8) -> Result<Pass, DecodeError> {
    let account = take_account(d)?;
    let shown = take_counts(d)?;
    let used = take_counts(d)?;
    let kinds = d.take_bounded("approval reasons", (1 << REASONS_MAX) - 1)?;
    let kinds = Kinds(u16::try_from(kinds).unwrap_or_default());
    let until_ms = d.take_i64("approval end")?;
    let mut sharers = BTreeMap::new();
    let count = if version == 1 { 0 } else { d.take_len("accounts approved", SHARERS_MAX)? };
    for _ in 0..count {
        let account = take_path(d)?;
        let part = Shared { shown: take_counts(d)?, used: take_counts(d)? };
        in_order(&sharers, &account)?;
        sharers.insert(account, part);
    }
    Ok(Pass { account, shown, used, kinds, until_ms, sharers })
}

fn put_mass(e: &mut Encoder, mass: &Mass) {
    e.put_u64(mass.count);
    e.put_u64(mass.of);
    e.put_u64(mass.threshold.entries);
    e.put_u8(mass.threshold.percent);
    e.put_u64(mass.window_ms);
    e.put_u8(u8::from(mass.share));
}

fn take_mass(d: &mut Decoder<'_>) -> Result<Mass, DecodeError> {
    Ok(Mass {
        count: d.take_u64("mass count")?,
        of: d.take_u64("mass of")?,
        threshold: Threshold {
            entries: d.take_u64("mass entries")?,
            percent: d.take_u8("mass percent")?,
        },
        window_ms: d.take_u64("mass window")?,
        share: take_flag(d, "mass of the share")?,
    })
}

fn put_reason(e: &mut Encoder, reason: &Reason) {
    e.put_u8(reason.kind());
    match reason {
        Reason::RootReplaced => {}
        Reason::RootEmptied { known } => e.put_u64(*known),
        Reason::MassDelete(mass) | Reason::MassRewrite(mass) | Reason::Encrypted(mass) => {
            put_mass(e, mass);
        }
        Reason::Appended { extension, mass } | Reason::Renamed { extension, mass } => {
            e.put_bytes(extension.as_bytes());
            put_mass(e, mass);
        }
        Reason::Canary { path } => e.put_bytes(path.as_bytes()),
        Reason::Note { name, directories, limit } => {
            e.put_bytes(name);
            e.put_u64(*directories);
            e.put_u64(*limit);
        }
        Reason::BeyondApproval { count, approved } => {
            e.put_u64(*count);
            e.put_u64(*approved);
        }
    }
}

fn take_reason(d: &mut Decoder<'_>) -> Result<Reason, DecodeError> {
    Ok(match d.take_u8("hold reason")? {
        0 => Reason::RootReplaced,
        1 => Reason::RootEmptied { known: d.take_u64("known entries")? },
        2 => Reason::MassDelete(take_mass(d)?),
        3 => Reason::MassRewrite(take_mass(d)?),
        4 => Reason::Encrypted(take_mass(d)?),
        5 => Reason::Appended { extension: take_extension(d)?, mass: take_mass(d)? },
        6 => Reason::Renamed { extension: take_extension(d)?, mass: take_mass(d)? },
        7 => Reason::Canary { path: take_path(d)? },
        8 => Reason::Note {
            name: d.take_bytes("note name", limits::NAME_MAX)?.into(),
            directories: d.take_u64("note directories")?,
            limit: d.take_u64("note limit")?,
        },
        9 => Reason::BeyondApproval {
            count: d.take_u64("changes")?,
            approved: d.take_u64("changes approved")?,
        },
        found => {
            return Err(DecodeError::Invalid { what: "hold reason", found: u64::from(found) });
        }
    })
}
