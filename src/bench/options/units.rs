//! Numbers with units, as options give them.
//!
//! Guarantees: a value that parses is in range. Refuses unknown units, shares above 1 and scales that are
//! not positive.

use std::time::Duration;

use crate::bench::rng::round_to_u64;

/// A number and the unit after it.
fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| format!("{text:?}: not a number"))?;
    Ok((number, unit.trim()))
}

/// A time with its unit, at most 10 seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "us" => number / 1e6,
        _ => return Err(format!("{text:?}: the unit must be s, ms or us")),
    };
    if seconds > 10.0 {
        return Err(format!("{text:?}: more than 10 seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Bits per second with their unit; 0 needs none.
pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "gbit" => 1e9,
        "mbit" => 1e6,
        "kbit" => 1e3,
        "" if number == 0.0 => 0.0,
        _ => return Err(format!("{text:?}: the unit must be gbit, mbit or kbit")),
    };
    Ok(round_to_u64(number * factor))
}

/// A share, or a percentage.
pub(super) fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = split_unit(text)?;
    let share = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => return Err(format!("{text:?}: give a share or a percentage")),
    };
    if share > 1.0 { Err(format!("{text:?}: more than all")) } else { Ok(share) }
}

/// A factor of size.
pub(super) fn parse_scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| format!("{text:?}: not a number"))?;
    let fits = scale > 0.0 && scale <= 100.0;
    if fits { Ok(scale) } else { Err(format!("{text:?}: must be above 0, at most 100")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse_duration("80ms"), Ok(Duration::from_millis(80)));
        assert_eq!(parse_duration("0.5s"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("80").is_err() && parse_duration("11s").is_err());
        assert_eq!(parse_rate("200mbit"), Ok(200_000_000));
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(parse_rate("200").is_err() && parse_rate("x").is_err());
        assert_eq!(parse_share("0.1%"), Ok(0.001));
        assert_eq!(parse_share("0.5"), Ok(0.5));
        assert!(parse_share("120%").is_err());
        assert!(parse_scale("0").is_err() && parse_scale("nan").is_err());
    }
}
