//! Sizes and rates as people write and read them.

use std::fmt;

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a size: give a number of bytes, or one with k, M, G or T (powers of 1,024)"
)]
pub struct ParseSizeError {
    text: String,
}

/// A number of bytes from `4096`, `64k`, `10M`, `2G`, `1T`; powers of 1,024, a trailing `iB` or `B`
/// allowed.
///
/// # Errors
/// [`ParseSizeError`] with the text.
pub fn parse_size(text: &str) -> Result<u64, ParseSizeError> {
    let err = || ParseSizeError { text: text.to_owned() };
    let trimmed = text.trim();
    let bare = trimmed.strip_suffix("iB").or_else(|| trimmed.strip_suffix('B')).unwrap_or(trimmed);
    let (digits, shift) = match bare.as_bytes().last() {
        Some(b'k' | b'K') => (&bare[..bare.len() - 1], 10),
        Some(b'M' | b'm') => (&bare[..bare.len() - 1], 20),
        Some(b'G' | b'g') => (&bare[..bare.len() - 1], 30),
        Some(b'T' | b't') => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    let number: u64 = digits.trim().parse().map_err(|_| err())?;
    number.checked_mul(1 << shift).ok_or_else(err)
}

/// Shows a number of bytes in the largest unit that keeps three digits.
#[derive(Debug, Clone, Copy)]
pub struct HumanBytes(pub u64);

impl fmt::Display for HumanBytes {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        match unit {
            0 => write!(f, "{} B", self.0),
            _ if value < 10.0 => write!(f, "{value:.2} {}", UNITS[unit]),
            _ if value < 100.0 => write!(f, "{value:.1} {}", UNITS[unit]),
            _ => write!(f, "{value:.0} {}", UNITS[unit]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_show() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64k"), Ok(65536));
        assert_eq!(parse_size(" 2 GiB"), Ok(2 << 30));
        assert!(
            parse_size("").is_err()
                && parse_size("-1").is_err()
                && parse_size("99999999T").is_err()
        );
        assert_eq!(HumanBytes(999).to_string(), "999 B");
        assert_eq!(HumanBytes(1536).to_string(), "1.50 KiB");
        assert_eq!(HumanBytes(5 << 30).to_string(), "5.00 GiB");
    }
}
