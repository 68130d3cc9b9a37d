//! A typed reader of settings.
//!
//! Guarantees: a key that is given twice, a value that does not read as what it should be, and a key
//! that the policy never asked for are refused, each with a text that names the key and what would
//! do. Refuses to guess: `4` is no size with a unit forgotten but four bytes, and `4 GB` is an error.

use std::time::Duration;

use crate::types::Setting;

/// The settings of a session, read by key. What was not read is refused at the end.
///
/// ```
/// use farshore_wasm_sdk::Settings;
///
/// let mut settings = Settings::from_pairs([("suffixes", ".tmp, ~"), ("older", "90d")])?;
/// assert_eq!(settings.list("suffixes", &[])?, [".tmp", "~"]);
/// assert_eq!(settings.age("older")?, Some(std::time::Duration::from_secs(90 * 86_400)));
/// assert!(!settings.switch("strict", false)?);
/// settings.finish()?;
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// A handful: searched in order.
    given: Vec<Setting>,
    /// Every key that was asked for, whether it was given or not.
    known: Vec<&'static str>,
}

impl Settings {
    /// The settings as the host gives them.
    ///
    /// # Errors
    /// A key that is given twice.
    pub fn new(settings: impl IntoIterator<Item = Setting>) -> Result<Self, String> {
        let mut given: Vec<Setting> = Vec::new();
        for setting in settings {
            if given.iter().any(|other| other.key == setting.key) {
                return Err(format!("setting '{}' is given twice", setting.key));
            }
            given.push(setting);
        }
        Ok(Self { given, known: Vec::new() })
    }

    /// Settings from pairs, as tests write them.
    ///
    /// # Errors
    /// A key that is given twice.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let own = |(k, v): (&str, &str)| Setting { key: k.to_owned(), value: v.to_owned() };
        Self::new(pairs.into_iter().map(own))
    }

    /// The text of `key`, without white space around it; `None` when it is not given.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let given = self.given.iter().find(|setting| setting.key == key)?;
        Some(given.value.trim_ascii().to_owned())
    }

    /// The parts of a list with commas between them, without white space around them. A list that is
    /// given and empty is empty; one that is not given is `default`.
    ///
    /// # Errors
    /// An empty part: `.tmp,,~`.
    pub fn list(&mut self, key: &'static str, default: &[&str]) -> Result<Vec<String>, String> {
        let Some(text) = self.text(key) else {
            return Ok(default.iter().map(|&part| part.to_owned()).collect());
        };
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let parts: Vec<_> = text.split(',').map(|part| part.trim_ascii().to_owned()).collect();
        match parts.iter().any(String::is_empty) {
            true => Err(format!("setting '{key}': '{text}' has an empty part")),
            false => Ok(parts),
        }
    }

    /// `true`, `yes`, `on` or `false`, `no`, `off`.
    ///
    /// # Errors
    /// Any other text.
    pub fn switch(&mut self, key: &'static str, default: bool) -> Result<bool, String> {
        match self.text(key).as_deref() {
            None => Ok(default),
            Some("true" | "yes" | "on") => Ok(true),
            Some("false" | "no" | "off") => Ok(false),
            Some(text) => Err(format!("setting '{key}': '{text}' is neither 'true' nor 'false'")),
        }
    }

    /// One of these texts, and what it stands for; the first when it is not given.
    ///
    /// # Errors
    /// Any other text; names these.
    ///
    /// # Panics
    /// There are none to choose from.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, String> {
        let Some(text) = self.text(key) else { return Ok(choices[0].1) };
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            format!("setting '{key}': '{text}' is none of: {}", names.join(", "))
        })
    }

    /// A number without sign.
    ///
    /// # Errors
    /// Any other text.
    pub fn number(&mut self, key: &'static str) -> Result<Option<u64>, String> {
        self.parsed(key, parse_number)
    }

    /// A size: bytes, or with `K`, `M`, `G`, `T` (powers of 1,024) behind the number.
    ///
    /// # Errors
    /// Any other text.
    pub fn size(&mut self, key: &'static str) -> Result<Option<u64>, String> {
        self.parsed(key, parse_size)
    }

    /// An age: a number with `s`, `m` (minutes), `h`, `d`, `w` behind it.
    ///
    /// # Errors
    /// Any other text.
    pub fn age(&mut self, key: &'static str) -> Result<Option<Duration>, String> {
        self.parsed(key, parse_age)
    }

    fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let parsed = self.text(key).map(|text| parse(&text)).transpose();
        parsed.map_err(|what| format!("setting '{key}': {what}"))
    }

    /// Refuses what was not read. The glue and [`testing::configure`](crate::testing::configure) call
    /// this; a policy need not.
    ///
    /// # Errors
    /// A key that nothing asked for; the text names those that were.
    ///
    /// ```
    /// let mut settings = farshore_wasm_sdk::Settings::from_pairs([("sufixes", ".tmp")])?;
    /// settings.text("suffixes");
    /// let error = settings.finish().unwrap_err();
    /// assert_eq!(error, "unknown setting 'sufixes'; the settings are: suffixes");
    /// # Ok::<(), String>(())
    /// ```
    pub fn finish(self) -> Result<(), String> {
        let is_unknown = |setting: &&Setting| !self.known.contains(&setting.key.as_str());
        let Some(Setting { key, .. }) = self.given.iter().find(is_unknown) else { return Ok(()) };
        if self.known.is_empty() {
            return Err(format!("unknown setting '{key}'; this policy has no settings"));
        }
        Err(format!("unknown setting '{key}'; the settings are: {}", self.known.join(", ")))
    }
}

/// The number without sign that `text` is.
///
/// # Errors
/// Says what would do.
pub fn parse_number(text: &str) -> Result<u64, String> {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = is_plain.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| format!("'{text}' is not a whole number"))
}

fn parse_unit(text: &str, units: &[(char, u64)], what: &str) -> Result<u64, String> {
    let refused = || format!("'{text}' is not {what}");
    let with_unit = units.iter().find_map(|(unit, factor)| {
        Some((text.strip_suffix(*unit).filter(|_| *unit != ' ')?, *factor))
    });
    let bare = || units.iter().find(|(unit, _)| *unit == ' ').map(|(_, factor)| (text, *factor));
    let (number, factor) = with_unit.or_else(bare).ok_or_else(refused)?;
    let number = parse_number(number).map_err(|_| refused())?;
    number.checked_mul(factor).ok_or_else(refused)
}

/// The size that `text` is: `0`, `512`, `4G`.
///
/// # Errors
/// Says what would do.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units = [(' ', 1), ('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)];
    parse_unit(text, &units, "a size such as 512, 64K, 10M, 4G or 1T")
}

/// The age that `text` is: `30s`, `5m`, `12h`, `90d`, `2w`, or `0`.
///
/// # Errors
/// Says what would do.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let units = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];
    parse_unit(text, &units, "an age such as 30s, 5m, 12h, 90d or 2w").map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_size_is_refused() {
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        for text in ["", "G", "4 G", "4GB", "4g", "-1", "+1", "1.5G", "99999999999T", "4é"] {
            assert!(parse_size(text).is_err(), "'{text}' was taken for a size");
        }
    }

    #[test]
    fn what_is_no_age_is_refused() {
        assert_eq!(parse_age("2w"), Ok(Duration::from_secs(14 * 86_400)));
        for text in ["", "d", "90", "90 d", "90D", "-1d", "1y"] {
            assert!(parse_age(text).is_err(), "'{text}' was taken for an age");
        }
    }

    #[test]
    fn a_bad_setting_names_itself() {
        let mut settings = Settings::from_pairs([("a", "x"), ("b", ".tmp,,~"), ("c", "perhaps")])
            .expect("each once");
        assert!(settings.size("a").is_err_and(|e| e.starts_with("setting 'a': 'x' is not a size")));
        assert!(settings.list("b", &[]).is_err_and(|e| e.contains("empty part")));
        assert!(settings.switch("c", true).is_err_and(|e| e.contains("'perhaps'")));
        assert!(Settings::from_pairs([("a", "1"), ("a", "2")]).is_err());
    }
}
