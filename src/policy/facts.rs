//! What a policy is asked about, as people write it: paths, kinds, sizes, times.
//!
//! Guarantees: a text means one thing or is refused with what would be right; what is left out has the
//! value a native test of the SDK gives it. Reads no clock.

use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::{RelPath, escape};
use farshore_core::policy::Candidate;

/// The facts of one entry, its path among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Below the share's root.
    pub path: RelPath,
    /// Kind.
    pub kind: EntryKind,
    /// Length in bytes; 0 for what has no content.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

impl Facts {
    /// An empty entry of `kind`, of user 0 and group 0, modified in 1970, of the usual mode.
    #[must_use]
    pub fn of(path: RelPath, kind: EntryKind) -> Self {
        let mode = match kind {
            EntryKind::Directory => 0o755,
            EntryKind::Symlink => 0o777,
            _ => 0o644,
        };
        Self { path, kind, size: 0, mtime: Timestamp::default(), mode, uid: 0, gid: 0 }
    }

    /// Those of what was seen in a tree.
    #[must_use]
    pub fn seen(seen: &Candidate<'_>) -> Self {
        let Candidate { path, kind, size, mtime, mode, uid, gid } = *seen;
        Self { path: path.clone(), kind, size, mtime, mode, uid, gid }
    }

    /// As a policy sees it.
    #[must_use]
    pub fn candidate(&self) -> Candidate<'_> {
        let Self { path, kind, size, mtime, mode, uid, gid } = self;
        Candidate {
            path,
            kind: *kind,
            size: *size,
            mtime: *mtime,
            mode: *mode,
            uid: *uid,
            gid: *gid,
        }
    }
}

/// A path below a share's root; the root itself is none that a policy is asked about.
///
/// # Errors
/// What is wrong with it.
pub fn parse_path(bytes: &[u8]) -> Result<RelPath, String> {
    let mut shown = String::new();
    // Writing to a string does not fail.
    escape(bytes, &mut shown).unwrap_or(());
    if bytes.is_empty() {
        return Err("a path is empty: the root is not asked about".into());
    }
    if let Some(below) = shown.strip_prefix('/') {
        return Err(format!(
            "path '{shown}': paths are relative to the share's root, without a '/' before: that of \
             '/srv/homes/a.pay' in the share /srv/homes is 'a.pay', and '{below}' is what this one would be in \
             the share /"
        ));
    }
    RelPath::new(bytes).map_err(|e| format!("path '{shown}': {e}; give it below the share's root"))
}

/// A path out of hex digits.
///
/// # Errors
/// What is wrong with it.
pub fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let byte = |pair: &[char]| match pair {
        [high, low] => u8::try_from(high.to_digit(16)? << 4 | low.to_digit(16)?).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes.ok_or_else(|| format!("'{text}' is not pairs of hex digits"))
}

/// A kind of entry.
///
/// # Errors
/// The kinds there are.
pub fn parse_kind(text: &str) -> Result<EntryKind, String> {
    Ok(match text {
        "file" => EntryKind::File,
        "directory" => EntryKind::Directory,
        "symlink" => EntryKind::Symlink,
        "fifo" => EntryKind::Fifo,
        "socket" => EntryKind::Socket,
        "char-device" => EntryKind::CharDevice,
        "block-device" => EntryKind::BlockDevice,
        _ => {
            return Err(format!(
                "'{text}' is no kind: file, directory, symlink, fifo, socket, char-device, \
                 block-device"
            ));
        }
    })
}

/// Permission bits in octal, as `644` or `0644`.
///
/// # Errors
/// What they look like.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("'{text}' is no mode: give octal digits, as 644"))
}

/// A moment: `2026-11-26T10:00:00Z`, with a fraction or another offset if wanted, `2026-11-26`, or
/// seconds since 1970 as `@1795390871`.
///
/// # Errors
/// What it looks like.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "'{text}' is no time: give it as 2026-11-26T10:00:00Z, 2026-11-26, or @1795687200 \
             (seconds since 1970)"
        )
    };
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse().map(|seconds| Timestamp { seconds, nanos: 0 }).map_err(|_| wrong());
    }
    parse_civil(text).ok_or_else(wrong)
}

fn parse_civil(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let number = |text: &str, digits: usize| -> Option<i64> {
        let is_number = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        if is_number { text.parse().ok() } else { None }
    };
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=days).contains(&day) {
        return None;
    }
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, offset) = time.split_at(at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let second = number(parts.next().unwrap_or("00"), 2)?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nanos = number(&format!("{fraction:0<9}"), 9)?;
    let offset = match offset {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            sign * (hours * 3_600 + minutes * 60)
        }
    };
    // Years counted from March, so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * m + 2) / 5 + day - 1;
    let seconds =
        (era * 146_097 + day_of_era - 719_468) * 86_400 + hour * 3_600 + minute * 60 + second
            - offset;
    Some(Timestamp { seconds, nanos: u32::try_from(nanos).ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::report::utc;

    #[test]
    fn times_are_read_as_they_are_written() {
        for ms in [0, 951_782_400_123, -1, 1_795_390_871_000, 4_107_542_399_999] {
            let time = parse_time(&utc(ms)).unwrap();
            assert_eq!(time.seconds * 1_000 + i64::from(time.nanos / 1_000_000), ms);
        }
        let at = |text: &str| parse_time(text).unwrap();
        assert_eq!(at("2026-11-26"), at("2026-11-26T00:00:00Z"));
        assert_eq!(at("2026-11-26T10:00:00+01:30"), at("2026-11-26T08:30:00Z"));
        assert_eq!(at("2026-11-26T10:00:00.5Z").nanos, 500_000_000);
        assert_eq!(at("@-5"), Timestamp { seconds: -5, nanos: 0 });
        for text in [
            "",
            "now",
            "2026-13-01",
            "2026-02-29",
            "2026-11-26T10:00:00",
            "2026-11-26T24:00:00Z",
            "@x",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_and_digits_are_checked() {
        assert!(parse_path(b"a/b").is_ok());
        for path in [&b""[..], b"/a", b"a//b", b"../a", b"a/.", b"a\0b"] {
            assert!(parse_path(path).is_err(), "{path:?}");
        }
        let absolute = parse_path(b"/srv/a").unwrap_err();
        assert!(absolute.contains("relative to the share's root"), "{absolute}");
        assert_eq!(parse_hex("69 6e2FFF").unwrap(), b"in/\xff");
        for text in ["6", "6x", "+1"] {
            assert!(parse_hex(text).is_err(), "{text}");
        }
        assert_eq!(parse_mode("0640").unwrap(), 0o640);
        assert!(parse_mode("888").is_err() && parse_mode("10000").is_err());
    }
}
