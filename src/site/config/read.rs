//! TOML tables read key by key, with the line of everything that is wrong.
//!
//! Guarantees: a fault never ends the reading, so that all are told at once; a key nobody knows is a
//! fault and names the nearest one there is. The first fault of a value is the only one of it.

use std::cell::RefCell;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1; 0 where there is none.
    pub line: usize,
    /// The key with the tables it is in, as `share.homes.objective`; empty for a fault of the file.
    pub key: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// The text and what was found wrong with it.
///
/// The lines' beginnings are found once: a file may be wrong everywhere.
pub(super) struct Reader<'t> {
    lines: Vec<usize>,
    faults: RefCell<Vec<Fault>>,
    text: std::marker::PhantomData<&'t str>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let lines =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
        Self { lines, faults: RefCell::default(), text: std::marker::PhantomData }
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|end| *end < offset) + 1
    }

    pub(super) fn fault(&self, at: &At, what: impl Into<String>) {
        let (line, key) = (at.line, at.key.clone());
        self.faults.borrow_mut().push(Fault { line, key, what: what.into() });
    }

    /// All faults, in the order of their lines.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| fault.line);
        faults
    }
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: usize,
    pub(super) key: String,
}

/// What was read, and where.
#[derive(Debug, Clone)]
pub(super) struct Read<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// One table whose keys are known.
pub(super) struct Section<'r, 't> {
    pub(super) reader: &'r Reader<'t>,
    pub(super) at: At,
    table: &'r DeTable<'t>,
}

impl<'r, 't> Section<'r, 't> {
    /// A table, every key of which must be one of `known`.
    pub(super) fn open(
        reader: &'r Reader<'t>,
        at: At,
        table: &'r DeTable<'t>,
        known: &[&str],
    ) -> Self {
        let section = Self { reader, at, table };
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let nearest = nearest(name, known);
                let at = section.place(name, key.span().start);
                reader.fault(&at, format!("no such key; the nearest one is '{nearest}'"));
            }
        }
        section
    }

    /// The same under another name.
    pub(super) fn called(self, key: String) -> Self {
        Self { at: At { key, ..self.at }, ..self }
    }

    fn place(&self, name: &str, offset: usize) -> At {
        let dot = if self.at.key.is_empty() { "" } else { "." };
        At { line: self.reader.line(offset), key: format!("{}{dot}{name}", self.at.key) }
    }

    pub(super) fn value(&self, name: &str) -> Option<(&'r DeValue<'t>, At)> {
        let (key, value) = self.table.iter().find(|(key, _)| key.get_ref() == name)?;
        Some((value.get_ref(), self.place(name, key.span().start)))
    }

    pub(super) fn missing(&self, name: &str, what: &str) {
        let at = self.place(name, 0);
        self.reader.fault(&At { line: self.at.line, ..at }, format!("missing: {what}"));
    }

    /// A text made into a value.
    pub(super) fn text<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Read<T>> {
        let (value, at) = self.value(name)?;
        match self.as_text(value, &at, parse) {
            Some(value) => Some(Read { value, at }),
            None => None,
        }
    }

    fn as_text<T>(
        &self,
        value: &DeValue<'_>,
        at: &At,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(text) = value.as_str() else {
            self.reader.fault(at, format!("a text in quotes is wanted, this is {}", kind(value)));
            return None;
        };
        parse(text).map_err(|what| self.reader.fault(at, what)).ok()
    }

    /// A whole number within a range.
    pub(super) fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<Read<i64>> {
        let (value, at) = self.value(name)?;
        self.as_number(value, &at, range).map(|value| Read { value, at })
    }

    pub(super) fn as_number(
        &self,
        value: &DeValue<'_>,
        at: &At,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let (least, most) = (range.start(), range.end());
        let Some(number) = value.as_integer() else {
            let what = format!("a whole number is wanted, this is {}", kind(value));
            self.reader.fault(at, what);
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let parsed = parsed.filter(|number| range.contains(number));
        if parsed.is_none() {
            let what = format!("{} is out of range: {least} to {most}", number.as_str());
            self.reader.fault(at, what);
        }
        parsed
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Option<Read<bool>> {
        let (value, at) = self.value(name)?;
        match value.as_bool() {
            Some(value) => Some(Read { value, at }),
            None => {
                let what = format!("true or false is wanted, this is {}", kind(value));
                self.reader.fault(&at, what);
                None
            }
        }
    }

    /// A list of texts made into values; what is wrong with one leaves the others.
    pub(super) fn texts<T>(
        &self,
        name: &str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Read<Vec<T>>> {
        let (items, at) = self.items(name, "texts in quotes")?;
        let values = items.into_iter();
        let values =
            values.filter_map(|(value, at)| self.as_text(value, &at, &mut parse)).collect();
        Some(Read { value: values, at })
    }

    /// A list of tables, each with its place.
    pub(super) fn tables(&self, name: &str, known: &[&str]) -> Vec<Self> {
        let Some((items, _)) = self.items(name, "tables") else { return Vec::new() };
        let open = |(value, at): (&'r DeValue<'t>, At)| match value.as_table() {
            Some(table) => Some(Self::open(self.reader, at, table, known)),
            None => {
                self.reader.fault(&at, format!("a table is wanted, this is {}", kind(value)));
                None
            }
        };
        items.into_iter().filter_map(open).collect()
    }

    fn items(&self, name: &str, of: &str) -> Option<(Vec<(&'r DeValue<'t>, At)>, At)> {
        let (value, at) = self.value(name)?;
        let Some(list) = value.as_array() else {
            self.reader.fault(&at, format!("a list of {of} is wanted, this is {}", kind(value)));
            return None;
        };
        let place = |item: &Spanned<DeValue<'_>>| At {
            line: self.reader.line(item.span().start),
            key: at.key.clone(),
        };
        let items = list.iter().map(|item| (item.get_ref(), place(item))).collect();
        Some((items, at))
    }

    /// A table within this one.
    pub(super) fn table(&self, name: &str, known: &[&str]) -> Option<Self> {
        let (table, at) = self.any_table(name)?;
        Some(Self::open(self.reader, at, table, known))
    }

    /// A table whose keys are names that the operator chose.
    pub(super) fn any_table(&self, name: &str) -> Option<(&'r DeTable<'t>, At)> {
        let (value, at) = self.value(name)?;
        match value.as_table() {
            Some(table) => Some((table, at)),
            None => {
                self.reader.fault(&at, format!("a table is wanted, this is {}", kind(value)));
                None
            }
        }
    }

    /// The same, nothing said of what is no table.
    pub(super) fn table_untold(&self, name: &str) -> Option<&'r DeTable<'t>> {
        self.value(name).and_then(|(value, _)| value.as_table())
    }

    /// The place of a key of [`Section::any_table`].
    pub(super) fn below(&self, at: &At, key: &Spanned<std::borrow::Cow<'_, str>>) -> At {
        let line = self.reader.line(key.span().start);
        At { line, key: format!("{}.{}", at.key, key.get_ref()) }
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or a time without quotes",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The name that takes the fewest changes to be `typed`.
fn nearest<'n>(typed: &str, known: &[&'n str]) -> &'n str {
    // What is far longer than any key is not compared letter by letter.
    let typed: Vec<char> = typed.chars().take(64).collect();
    known.iter().copied().min_by_key(|name| distance(&typed, name)).unwrap_or_default()
}

fn distance(typed: &[char], name: &str) -> usize {
    let name: Vec<char> = name.chars().collect();
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (i, a) in typed.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in name.iter().enumerate() {
            let change = diagonal + usize::from(!a.eq_ignore_ascii_case(b));
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_key_is_the_one_meant() {
        let known = ["objective", "scan", "settle", "scrub"];
        for (typed, meant) in
            [("objectiv", "objective"), ("scann", "scan"), ("Settle", "settle"), ("scurb", "scrub")]
        {
            assert_eq!(nearest(typed, &known), meant);
        }
        assert!(known.contains(&nearest(&"x".repeat(100_000), &known)));
    }
}
