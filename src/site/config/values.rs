//! Durations, times of day, addresses and names as a configuration writes them.
//!
//! Every parser names what it was given and what it would take. None of them panics on any text.

use std::fmt;
use std::time::Duration;

/// Longest name of a site.
pub const SITE_NAME_MAX: usize = 64;

/// A duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// What it looks like and what it should.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let err = || {
        format!(
            "'{text}' is no duration: give a whole number with ms, s, m, h or d, as in 200ms, 30s, 7d"
        )
    };
    let number: u64 = number.parse().map_err(|_| err())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(err()),
    };
    let ms = number.checked_mul(ms).filter(|ms| i64::try_from(*ms).is_ok()).ok_or_else(err)?;
    Ok(Duration::from_millis(ms))
}

/// `duration` as [`parse_duration`] reads it, in the largest unit that holds it whole.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// A minute of the day, UTC; 24:00 is the end of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;

impl TimeOfDay {
    /// Minutes since midnight, up to 1,440.
    #[must_use]
    pub const fn minutes(self) -> u16 {
        self.0
    }

    /// The time of day of a moment in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn of(unix_ms: i64) -> Self {
        let minutes = unix_ms.div_euclid(60_000).rem_euclid(i64::from(DAY_MINUTES));
        Self(u16::try_from(minutes).unwrap_or(0))
    }

    /// Whether the time from `self` to `to`, over midnight where `to` is the earlier one, has `at` in it.
    #[must_use]
    pub fn until_has(self, to: Self, at: Self) -> bool {
        if self < to { self <= at && at < to } else { self <= at || at < to }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// `HH:MM`, 00:00 to 24:00.
///
/// # Errors
/// What it looks like and what it should.
pub fn parse_time(text: &str) -> Result<TimeOfDay, String> {
    let err = || format!("'{text}' is no time of day: give HH:MM (UTC), from 00:00 to 24:00");
    let (hours, minutes) = text.split_once(':').ok_or_else(err)?;
    let two = |part: &str| {
        let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours).ok_or_else(err)?, two(minutes).ok_or_else(err)?);
    let all = hours * 60 + minutes;
    if minutes > 59 || all > DAY_MINUTES { Err(err()) } else { Ok(TimeOfDay(all)) }
}

/// Where a peer is dialed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The UDP port, not 0.
    pub port: u16,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `HOST:PORT` or `[ADDRESS]:PORT`.
///
/// # Errors
/// What it looks like and what it should.
pub fn parse_address(text: &str) -> Result<PeerAddress, String> {
    let err = || format!("'{text}' is no address to dial: give HOST:PORT or [IPV6]:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(err)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(err)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or_else(err)?;
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| err())?;
            inner
        }
        None => host,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_name = !host.is_empty() && host.len() <= 253 && host.chars().all(plain);
    if is_name || host.contains(':') && text.starts_with('[') {
        Ok(PeerAddress { host: host.to_owned(), port })
    } else {
        Err(err())
    }
}

/// Where to listen; port 0 is none, since nobody could find it.
///
/// # Errors
/// What it looks like and what it should.
pub fn parse_listen(text: &str) -> Result<std::net::SocketAddr, String> {
    let parsed = text.parse::<std::net::SocketAddr>().ok().filter(|addr| addr.port() != 0);
    parsed.ok_or_else(|| {
        format!("'{text}' is no address to listen on: give ADDRESS:PORT, as in 0.0.0.0:7411 or [::]:7411")
    })
}

fn parse_name(text: &str, what: &str, longest: usize) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let begins = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if begins && text.len() <= longest && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "'{text}' is no name of a {what}: up to {longest} letters, digits, '-', '_' and '.', a letter or \
         digit first"
    ))
}

/// The name of a site.
///
/// # Errors
/// What it looks like and what it should.
pub fn parse_site_name(text: &str) -> Result<String, String> {
    parse_name(text, "site", SITE_NAME_MAX)
}

/// The name of a share.
///
/// # Errors
/// What it looks like and what it should.
pub fn parse_share_name(text: &str) -> Result<String, String> {
    parse_name(text, "share", farshore_proto::message::SHARE_NAME_MAX)
}

/// A rate in bytes a second, which is not 0.
///
/// # Errors
/// What is wrong with it.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match farshore_core::size::parse_size(text) {
        Ok(0) => Err(format!("'{text}': nothing would ever end; for no limit leave the key out")),
        parsed => parsed.map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_and_name_what_is_wrong() {
        for (text, ms) in
            [("0ms", 0), ("200ms", 200), ("2s", 2_000), ("90s", 90_000), ("7d", 604_800_000)]
        {
            let parsed = parse_duration(text).expect(text);
            assert_eq!(parsed, Duration::from_millis(ms));
            assert_eq!(show_duration(parsed), text);
        }
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "1w",
            "1S",
            "99999999999999999999d",
            "999999999999d",
        ] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }

    #[test]
    fn times_read_back_and_windows_pass_midnight() {
        let time = |text: &str| parse_time(text).expect(text);
        assert_eq!(time("08:05").to_string(), "08:05");
        assert_eq!(time("24:00").minutes(), 1_440);
        for text in ["", "8:00", "08:60", "24:01", "25:00", "08:00:00", "0800", "+8:00", "é8:00"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        assert!(time("08:00").until_has(time("18:00"), time("08:00")));
        assert!(!time("08:00").until_has(time("18:00"), time("18:00")));
        assert!(time("22:00").until_has(time("02:00"), time("01:59")));
        assert!(!time("22:00").until_has(time("02:00"), time("12:00")));
        assert_eq!(TimeOfDay::of(-60_000).to_string(), "23:59");
        assert_eq!(TimeOfDay::of(3_600_000).to_string(), "01:00");
    }

    #[test]
    fn addresses_and_names_are_plain() {
        for text in ["dr.example.net:7411", "10.0.0.1:1", "[2001:db8::1]:7411"] {
            assert_eq!(parse_address(text).map(|a| a.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            ":7411",
            "host",
            "host:",
            "host:0",
            "host:70000",
            "a b:1",
            "2001:db8::1:7411",
            "[x]:1",
            "[::1:5",
        ] {
            assert!(parse_address(text).is_err(), "{text}");
        }
        assert!(parse_listen("[::]:7411").is_ok() && parse_listen("0.0.0.0:0").is_err());
        assert!(parse_listen("localhost:7411").is_err());
        for name in ["", "a b", "-a", "a/b", "é", &"a".repeat(65)] {
            assert!(parse_site_name(name).is_err(), "{name}");
        }
        assert!(parse_site_name("dr-2.site").is_ok());
    }
}
