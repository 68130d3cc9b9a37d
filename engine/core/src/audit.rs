//! The audit chain: who did what to a share and when, one line a record, each bound to all before it.
//!
//! ```text
//! 7 <tab> 2026-10-05T12:00:00.000Z <tab> production <tab> homes <tab> role <tab> text <tab> before <tab> digest
//! ```
//!
//! `before` is the digest of the record before, of the first 64 zeros; `digest` is BLAKE3 over the
//! line up to and with `before`. A person reads it with `less`, any tool cuts it at the tabs.
//!
//! Guarantees: a line has one form only ([`parse`] refuses another spelling of the same record), so
//! [`verify`] finds every change of a single bit, and names the first line that is not what was written. A
//! chain that was cut short, or written anew from some record on, is told from the real one by a head
//! kept elsewhere: the peer's. It cannot tell who wrote a record, nor find a chain written anew after the
//! newest head that anybody else keeps.
//!
//! Refuses: lines longer than [`LINE_LEN_MAX`], bytes that are not UTF-8, control characters (they are
//! escaped, those that turn the direction of writing too: what is shown is what is there).

use std::fmt::Write as _;

use crate::recipe::digest_from_hex;

/// Longest line that is read, its end not counted.
pub const LINE_LEN_MAX: usize = 32 * 1024;
/// Longest text of a record that is written; the rest is cut off, and the cut said.
pub const TEXT_LEN_MAX: usize = 4_096;
/// Longest name of a site or share, and of a kind.
pub const NAME_LEN_MAX: usize = 255;

/// 9999-12-31T23:59:59.999Z, the last time that is written with four digits for the year.
const TIME_MAX: i64 = 253_402_300_799_999;
const CONTEXT: &str = "farshore audit record v1";

/// Most bytes that one byte becomes when it is escaped, and what a field has besides that was cut.
const ESCAPE_LEN_MAX: usize = 6;
const CUT_LEN_MAX: usize = 64;
const _: () = {
    let fields = TEXT_LEN_MAX + 3 * NAME_LEN_MAX + 4 * CUT_LEN_MAX;
    assert!(fields * ESCAPE_LEN_MAX + 256 < LINE_LEN_MAX);
};

/// Where a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct AuditHead {
    /// Records in it.
    pub length: u64,
    /// Digest of the last one, zeros for none.
    pub digest: [u8; 32],
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970-01-01 UTC.
    pub time_unix_ms: i64,
    /// At which site.
    pub site: String,
    /// Of which share, empty for the site as a whole.
    pub share: String,
    /// What sort of thing: one word.
    pub kind: String,
    /// What happened.
    pub text: String,
}

/// A record as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Counts from 1.
    pub sequence: u64,
    /// What it says.
    pub entry: AuditEntry,
    /// Digest of the record before.
    pub before: [u8; 32],
    /// Its own.
    pub digest: [u8; 32],
}

/// Why a line is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is longer than any that is written.
    #[error("it is longer than {LINE_LEN_MAX} bytes")]
    TooLong,
    /// It is not text.
    #[error("it is not UTF-8")]
    NotText,
    /// It does not have eight fields.
    #[error("it has {0} fields, not 8")]
    Fields(usize),
    /// A field does not say what it should, or not in the way it is written.
    #[error("its {0} cannot be read")]
    Field(&'static str),
    /// The digest is another.
    #[error("its digest is not that of its text")]
    Digest,
}

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// The line is none that was ever written.
    #[error("record {at}: {why}")]
    Line {
        /// Which line, from 1.
        at: u64,
        /// Why not.
        why: LineError,
    },
    /// A record is missing, doubled or in the wrong place.
    #[error("record {at}: it is numbered {found}")]
    Sequence {
        /// Which line, from 1.
        at: u64,
        /// What it says.
        found: u64,
    },
    /// It does not follow the one before it.
    #[error("record {at}: it was not written after the one before it")]
    Before {
        /// Which line, from 1.
        at: u64,
    },
    /// There were more.
    #[error("record {at}: it is missing; there were {known}")]
    Truncated {
        /// The first that is missing.
        at: u64,
        /// How many there were at least.
        known: u64,
    },
    /// Another record stood here, or one before it was another.
    #[error("record {at}: another one was here: the chain was written anew from it or before it")]
    Forked {
        /// Where it differs at the latest.
        at: u64,
    },
}

/// Writes a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditChain {
    head: AuditHead,
}

impl AuditChain {
    /// A chain that goes on after `head`.
    #[must_use]
    pub fn after(head: AuditHead) -> Self {
        Self { head }
    }

    /// Where it ends.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        self.head
    }

    /// The line of the next record, with its end. Names and text beyond their limits are cut.
    pub fn append(&mut self, entry: &AuditEntry) -> String {
        let sequence = self.head.length + 1;
        let mut line = body(sequence, entry, &self.head.digest);
        let digest = digest_of(&line);
        self.head = AuditHead { length: sequence, digest };
        line.push('\t');
        push_hex(&mut line, &digest);
        line.push('\n');
        line
    }
}

/// Reads one line, without its end, and checks that its digest is its own.
///
/// # Errors
/// [`LineError`], whatever the bytes are.
pub fn parse(line: &[u8]) -> Result<AuditRecord, LineError> {
    if line.len() > LINE_LEN_MAX {
        return Err(LineError::TooLong);
    }
    let line = std::str::from_utf8(line).map_err(|_| LineError::NotText)?;
    let fields: Vec<&str> = line.split('\t').collect();
    let [sequence, time, site, share, kind, text, before, digest] = fields[..] else {
        return Err(LineError::Fields(fields.len()));
    };
    let entry = AuditEntry {
        time_unix_ms: take_time(time).ok_or(LineError::Field("time"))?,
        site: unescaped(site).ok_or(LineError::Field("site"))?,
        share: unescaped(share).ok_or(LineError::Field("share"))?,
        kind: unescaped(kind).ok_or(LineError::Field("kind"))?,
        text: unescaped(text).ok_or(LineError::Field("text"))?,
    };
    let record = AuditRecord {
        sequence: sequence.parse().map_err(|_| LineError::Field("number"))?,
        entry,
        before: digest_from_hex(before).ok_or(LineError::Field("digest of the record before"))?,
        digest: digest_from_hex(digest).ok_or(LineError::Field("digest"))?,
    };
    let written = body(record.sequence, &record.entry, &record.before);
    let (shown, _) = line.rsplit_once('\t').ok_or(LineError::Fields(1))?;
    if written != shown {
        return Err(LineError::Field("spelling"));
    }
    if digest_of(&written) != record.digest {
        return Err(LineError::Digest);
    }
    Ok(record)
}

/// Checks a whole chain, `lines` without their ends, against heads that were kept elsewhere.
///
/// # Errors
/// [`AuditFault`], the first there is.
pub fn verify<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    known: &[AuditHead],
) -> Result<AuditHead, AuditFault> {
    let mut check = AuditCheck::new(known);
    for line in lines {
        check.line(line)?;
    }
    check.finish()
}

/// [`verify`], fed line by line.
#[derive(Debug, Clone)]
pub struct AuditCheck<'k> {
    head: AuditHead,
    known: &'k [AuditHead],
}

impl<'k> AuditCheck<'k> {
    /// Nothing was read yet.
    #[must_use]
    pub fn new(known: &'k [AuditHead]) -> Self {
        Self { head: AuditHead::default(), known }
    }

    /// Where it stands.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        self.head
    }

    /// The next line.
    ///
    /// # Errors
    /// [`AuditFault`]; what follows proves nothing then.
    pub fn line(&mut self, line: &[u8]) -> Result<AuditRecord, AuditFault> {
        let at = self.head.length + 1;
        let record = parse(line).map_err(|why| AuditFault::Line { at, why })?;
        if record.sequence != at {
            return Err(AuditFault::Sequence { at, found: record.sequence });
        }
        if record.before != self.head.digest {
            return Err(AuditFault::Before { at });
        }
        if self.known.iter().any(|k| k.length == at && k.digest != record.digest) {
            return Err(AuditFault::Forked { at });
        }
        self.head = AuditHead { length: at, digest: record.digest };
        Ok(record)
    }

    /// There are no more.
    ///
    /// # Errors
    /// [`AuditFault::Truncated`].
    pub fn finish(self) -> Result<AuditHead, AuditFault> {
        let known = self.known.iter().map(|k| k.length).max().unwrap_or_default();
        if known > self.head.length {
            return Err(AuditFault::Truncated { at: self.head.length + 1, known });
        }
        Ok(self.head)
    }
}

fn digest_of(body: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(body.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The line up to and with the digest of the record before.
fn body(sequence: u64, entry: &AuditEntry, before: &[u8; 32]) -> String {
    let mut line = String::with_capacity(192 + entry.text.len());
    push(&mut line, format_args!("{sequence}\t"));
    push_time(&mut line, entry.time_unix_ms);
    let names = [&entry.site, &entry.share, &entry.kind];
    for (field, limit) in
        names.map(|n| (n, NAME_LEN_MAX)).into_iter().chain([(&entry.text, TEXT_LEN_MAX)])
    {
        line.push('\t');
        let shown = cut(field, limit);
        push_escaped(&mut line, shown);
        if shown.len() < field.len() {
            push(&mut line, format_args!(" [cut from {} bytes]", field.len()));
        }
    }
    line.push('\t');
    push_hex(&mut line, before);
    line
}

fn push(line: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    line.write_fmt(what).unwrap_or_default();
}

/// As much of `text` as the limit allows. What was cut once is left as it is, with the words that say so.
fn cut(text: &str, limit: usize) -> &str {
    let was_cut = text.len() <= limit + CUT_LEN_MAX && text.ends_with(" bytes]");
    if was_cut || text.len() <= limit {
        return text;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Characters that would hide what is there: those that control, and those that turn or join.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{061c}')
}

fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            '\t' => line.push_str("\\t"),
            '\n' => line.push_str("\\n"),
            c if hides(c) => push(line, format_args!("\\u{{{:x}}}", u32::from(c))),
            c => line.push(c),
        }
    }
}

fn unescaped(field: &str) -> Option<String> {
    let mut text = String::with_capacity(field.len());
    let mut rest = field.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next()? {
            '\\' => text.push('\\'),
            't' => text.push('\t'),
            'n' => text.push('\n'),
            'u' => {
                let (number, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                text.push(char::from_u32(u32::from_str_radix(number, 16).ok()?)?);
                rest = after.chars();
            }
            _ => return None,
        }
    }
    Some(text)
}

fn push_hex(line: &mut String, bytes: &[u8; 32]) {
    for byte in bytes {
        push(line, format_args!("{byte:02x}"));
    }
}

/// UTC with milliseconds; times before 1970 and after 9999 as the first and last of those years.
fn push_time(line: &mut String, time_unix_ms: i64) {
    let ms = time_unix_ms.clamp(0, TIME_MAX);
    let (days, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days since 0000-03-01, years counted from March so that leap days come last.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    push(
        line,
        format_args!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            ms % 1_000
        ),
    );
}

fn take_time(field: &str) -> Option<i64> {
    let bytes = field.as_bytes();
    let right = bytes.len() == 24
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')]
            .iter()
            .all(|&(at, c)| bytes[at] == c);
    let number = |from: usize, to: usize| {
        let digits = bytes.get(from..to)?;
        digits
            .iter()
            .try_fold(0, |n: i64, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !right || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let clock = (number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?;
    Some((days * 86_400 + clock) * 1_000 + number(20, 23)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(n: i64, text: &str) -> AuditEntry {
        AuditEntry {
            time_unix_ms: 1_780_000_000_000 + n * 1_234,
            site: "production".into(),
            share: "homes".into(),
            kind: "role".into(),
            text: text.into(),
        }
    }

    fn chain(texts: &[&str]) -> (Vec<u8>, AuditHead) {
        let mut chain = AuditChain::default();
        let lines = (0..).zip(texts).map(|(n, text)| chain.append(&entry(n, text)));
        (lines.collect::<String>().into_bytes(), chain.head())
    }

    fn check(log: &[u8], known: &[AuditHead]) -> Result<AuditHead, AuditFault> {
        let whole = log.strip_suffix(b"\n").unwrap_or(log);
        verify(whole.split(|&b| b == b'\n').filter(|l| !l.is_empty() || whole.len() > 1), known)
    }

    #[test]
    fn a_record_is_a_line_that_a_person_can_read() {
        let mut chain = AuditChain::default();
        let line = chain.append(&AuditEntry {
            time_unix_ms: 1_780_000_000_007,
            site: "recovery".into(),
            share: "homes".into(),
            kind: "command".into(),
            text: "failover --force by \"anna\"\nC:\\x\u{202e}".into(),
        });
        let (shown, digest) = line.trim_end().rsplit_once('\t').expect("a digest");
        assert_eq!(
            shown,
            format!(
                "1\t2026-05-28T20:26:40.007Z\trecovery\thomes\tcommand\t\
                 failover --force by \"anna\"\\nC:\\\\x\\u{{202e}}\t{}",
                "0".repeat(64)
            )
        );
        assert_eq!(digest.len(), 64);
        let record = parse(line.trim_end().as_bytes()).expect("a record");
        assert_eq!(record.entry.text, "failover --force by \"anna\"\nC:\\x\u{202e}");
        assert_eq!((record.sequence, record.digest), (1, chain.head().digest));
    }

    #[test]
    fn every_wrong_bit_is_found_where_it_is() {
        let (log, head) = chain(&["one", "two \\ \t\u{7} ü", "", "four"]);
        assert_eq!(check(&log, &[]), Ok(head));
        for bit in 0..log.len() * 8 {
            let mut log = log.clone();
            let line = log[..bit / 8].iter().filter(|&&b| b == b'\n').count() as u64 + 1;
            log[bit / 8] ^= 1 << (bit % 8);
            if log.len() == bit / 8 + 1 {
                // The end of the last line: what was a line is one with a byte too many.
                assert!(check(&log, &[]).is_err(), "bit {bit}");
                continue;
            }
            let fault = check(&log, &[]).expect_err("a wrong bit");
            let (AuditFault::Line { at, .. }
            | AuditFault::Sequence { at, .. }
            | AuditFault::Before { at }
            | AuditFault::Truncated { at, .. }
            | AuditFault::Forked { at }) = fault;
            assert_eq!(at, line, "bit {bit}: {fault}");
        }
    }

    #[test]
    fn records_taken_out_put_in_or_exchanged_are_found() {
        let (log, _) = chain(&["one", "two", "three", "four"]);
        let lines: Vec<&[u8]> = log.split_inclusive(|&b| b == b'\n').collect();
        let orders: [&[usize]; 4] = [&[0, 2, 3], &[0, 1, 1, 2, 3], &[0, 2, 1, 3], &[1, 2, 3]];
        for order in orders {
            let log: Vec<u8> = order.iter().flat_map(|&n| lines[n]).copied().collect();
            assert!(check(&log, &[]).is_err(), "{order:?}");
        }
    }

    #[test]
    fn a_chain_cut_short_or_written_anew_is_told_by_a_head_kept_elsewhere() {
        let (log, head) = chain(&["one", "two", "three", "four"]);
        let ends: Vec<usize> =
            log.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(n, _)| n + 1).collect();
        for (n, &end) in (1..).zip(&ends[..3]) {
            assert!(check(&log[..end], &[]).is_ok_and(|h| h.length == n), "nothing else tells");
            let cut = check(&log[..end], &[head]);
            assert_eq!(cut, Err(AuditFault::Truncated { at: n + 1, known: 4 }));
        }
        let (other, _) = chain(&["one", "2", "three", "four", "five"]);
        assert!(check(&other, &[]).is_ok());
        assert_eq!(check(&other, &[head]), Err(AuditFault::Forked { at: 4 }));
        let (longer, _) = chain(&["one", "two", "three", "four", "five"]);
        assert!(check(&longer, &[head, AuditHead::default()]).is_ok(), "it may have grown");
        assert_eq!(check(b"", &[head]), Err(AuditFault::Truncated { at: 1, known: 4 }));
    }

    #[test]
    fn a_chain_goes_on_where_it_was() {
        let (log, head) = chain(&["one", "two"]);
        let mut after = AuditChain::after(head);
        let more = after.append(&entry(2, "three"));
        assert_eq!(check(&[log, more.into_bytes()].concat(), &[]), Ok(after.head()));
        assert_eq!(after.head(), chain(&["one", "two", "three"]).1);
    }

    #[test]
    fn a_text_beyond_the_limit_is_cut_and_says_so() {
        let text = "\u{202e}ü".repeat(TEXT_LEN_MAX);
        let mut chain = AuditChain::default();
        let line = chain.append(&entry(0, &text));
        let record = parse(line.trim_end().as_bytes()).expect("a record that can be read again");
        assert!(record.entry.text.ends_with(&format!(" [cut from {} bytes]", text.len())));
        assert!(line.len() < LINE_LEN_MAX);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            texts in proptest::collection::vec((any::<String>(), any::<String>(), any::<i64>()), 1..5)
        ) {
            let mut chain = AuditChain::default();
            let mut log = Vec::new();
            let mut entries = Vec::new();
            for (name, text, time) in texts {
                let entry = AuditEntry {
                    time_unix_ms: time.rem_euclid(TIME_MAX + 1),
                    site: name.clone(),
                    share: text.chars().take(40).collect(),
                    kind: String::new(),
                    text,
                };
                log.push(chain.append(&entry).into_bytes());
                entries.push(entry);
            }
            let mut check = AuditCheck::new(&[]);
            for (line, entry) in log.iter().zip(&entries) {
                let record = check.line(&line[..line.len() - 1]);
                prop_assert_eq!(record.map(|r| r.entry), Ok(entry.clone()));
            }
            prop_assert_eq!(check.finish(), Ok(chain.head()));
        }

        #[test]
        fn any_bytes_are_a_record_or_none_without_panic(bytes: Vec<u8>, at: usize, to: u8) {
            parse(&bytes).ok();
            let (log, _) = chain(&["one"]);
            let mut line = log[..log.len() - 1].to_vec();
            let at = at % line.len();
            let was = std::mem::replace(&mut line[at], to);
            prop_assert_eq!(parse(&line).is_ok(), was == to);
        }
    }
}
