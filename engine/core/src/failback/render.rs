//! A plan for people and programs: lines of text, one JSON object a line, a page of HTML.
//!
//! Guarantees: names are escaped as everywhere ([`crate::path::escape`]), so that a terminal is not moved
//! and a page runs nothing; the page needs nothing from elsewhere and no script. What is written is a
//! function of the plan alone.

use std::fmt::{self, Write};

use super::plan::{Count, Header, Summary};
use super::{AtSite, DecidedBy, Divergence, outcome_name};
use crate::conflict::{Outcome, Piece, Site};
use crate::entry::{Entry, Timestamp};
use crate::path::escape_text;
use crate::size::HumanBytes;

mod html;

pub use html::Page;

/// The plan in a few lines: what it was made from, and its counts.
///
/// # Errors
/// Those of `out`.
pub fn head(out: &mut dyn Write, header: &Header, revision: u32, summary: &Summary) -> fmt::Result {
    let share = escape_text(&header.share);
    writeln!(out, "failback plan {} revision {revision}, share {share}", header.id())?;
    match &header.base {
        Some(base) => writeln!(
            out,
            "base: recovery point {} of {}, root {}",
            base.sequence,
            Time(base.time_unix_ms),
            base.root
        )?,
        None => writeln!(out, "base: lost; nothing counts as deleted")?,
    }
    writeln!(out, "epoch {}, made {}", header.epoch.0, Time(header.made_unix_ms))?;
    writeln!(
        out,
        "production: the site that was lost; recovery: the one that went on, where this plan was made"
    )?;
    writeln!(
        out,
        "{} paths, {} conflicts, {} held for a person, {} to carry to recovery",
        summary.paths(),
        summary.conflicts(),
        summary.held(),
        HumanBytes(summary.needs)
    )?;
    for ((class, outcome), Count { paths, bytes }) in &summary.counts {
        writeln!(out, "{paths:>9}  {:>9}  {class:<37} {outcome}", HumanBytes(*bytes).to_string())?;
    }
    Ok(())
}

/// One divergence on one line.
///
/// # Errors
/// Those of `out`.
pub fn line(out: &mut dyn Write, divergence: &Divergence, header: &Header) -> fmt::Result {
    let Divergence { path, class, outcome, .. } = divergence;
    let outcome = outcome_name(outcome);
    let size = HumanBytes(divergence.size()).to_string();
    write!(out, "{outcome:<10} {class:<37} {size:>9}  {path}")?;
    if let Some(name) = new_name(divergence) {
        write!(out, " -> {name}")?;
    }
    for (site, at) in sites(divergence) {
        if let Some(to) = &at.moved_to {
            write!(out, "  ({site} moved it to {to})")?;
        }
        if let Some(from) = &at.moved_from {
            write!(out, "  ({site} moved it from {from})")?;
        }
    }
    writeln!(out, "  [{}] {}", by(divergence.by, header), escape_text(divergence.why()))
}

/// One divergence as one JSON object on one line; `docs/output.md` names its fields.
///
/// # Errors
/// Those of `out`.
pub fn json(out: &mut dyn Write, divergence: &Divergence, header: &Header) -> fmt::Result {
    let Divergence { path, base, production, recovery, class, outcome, .. } = divergence;
    write!(out, "{{\"path\":{}", Quoted(&path.to_string()))?;
    write!(out, ",\"class\":\"{class}\",\"conflict\":{}", class.is_conflict())?;
    write!(out, ",\"outcome\":\"{}\"", outcome_name(outcome))?;
    match outcome {
        Outcome::KeepBoth { renamed, path } => {
            write!(out, ",\"renamed\":\"{renamed}\",\"new_name\":{}", Quoted(&path.to_string()))?;
        }
        Outcome::Merge { attributes, pieces } => {
            write!(out, ",\"attributes_of\":\"{attributes}\",\"pieces\":[")?;
            for (at, piece) in pieces.iter().enumerate() {
                out.write_str(if at == 0 { "" } else { "," })?;
                json_piece(out, piece)?;
            }
            out.write_str("]")?;
        }
        _ => {}
    }
    let (by, detail) = match divergence.by {
        DecidedBy::Default(rule) => ("default", rule.name().to_owned()),
        DecidedBy::Policy(index) => ("policy", policy(index, header)),
        DecidedBy::Person => ("person", String::new()),
    };
    write!(out, ",\"by\":\"{by}\",\"rule\":{}", Quoted(&detail))?;
    write!(out, ",\"reason\":{}", Quoted(divergence.why()))?;
    if let Some(group) = divergence.group {
        write!(out, ",\"group\":\"{group}\"")?;
    }
    write!(out, ",\"carry_bytes\":{}", divergence.needs)?;
    out.write_str(",\"base\":")?;
    json_site(out, &AtSite { entry: base.clone(), ..AtSite::default() })?;
    out.write_str(",\"production\":")?;
    json_site(out, production)?;
    out.write_str(",\"recovery\":")?;
    json_site(out, recovery)?;
    out.write_str("}\n")
}

fn json_piece(out: &mut dyn Write, piece: &Piece) -> fmt::Result {
    match piece {
        Piece::Literal(bytes) => write!(out, "{{\"literal_bytes\":{}}}", bytes.len()),
        Piece::Copy { side, offset, length } => {
            write!(out, "{{\"copy\":\"{side}\",\"offset\":{offset},\"length\":{length}}}")
        }
    }
}

fn json_site(out: &mut dyn Write, at: &AtSite) -> fmt::Result {
    let Some(entry) = &at.entry else {
        return match &at.moved_to {
            Some(to) => write!(out, "{{\"moved_to\":{}}}", Quoted(&to.to_string())),
            None => out.write_str("null"),
        };
    };
    write!(out, "{{\"kind\":\"{}\",\"size\":{}", entry.kind(), entry.size())?;
    if let Some(content) = entry.content() {
        out.write_str(",\"digest\":\"")?;
        crate::recipe::hex(&content.0, &mut &mut *out)?;
        out.write_str("\"")?;
    }
    match entry {
        Entry::Symlink { target, .. } => {
            let mut text = String::new();
            crate::path::escape(target, &mut text)?;
            write!(out, ",\"target\":{}", Quoted(&text))?;
        }
        Entry::HardLink { leader } => {
            write!(out, ",\"first_name\":{}", Quoted(&leader.to_string()))?;
        }
        _ => {}
    }
    if let Some(meta) = entry.meta() {
        let Timestamp { seconds, nanos } = meta.mtime;
        write!(out, ",\"mode\":\"{:04o}\",\"uid\":{},\"gid\":{}", meta.mode, meta.uid, meta.gid)?;
        write!(out, ",\"mtime_seconds\":{seconds},\"mtime_nanos\":{nanos}")?;
    }
    for (name, path) in [("moved_from", &at.moved_from), ("moved_to", &at.moved_to)] {
        if let Some(path) = path {
            write!(out, ",\"{name}\":{}", Quoted(&path.to_string()))?;
        }
    }
    out.write_str("}")
}

/// The counts as one JSON object on one line.
///
/// # Errors
/// Those of `out`.
pub fn json_head(
    out: &mut dyn Write,
    header: &Header,
    revision: u32,
    summary: &Summary,
) -> fmt::Result {
    write!(out, "{{\"plan\":\"{}\",\"revision\":{revision}", header.id())?;
    write!(out, ",\"share\":{},\"epoch\":{}", Quoted(&header.share), header.epoch.0)?;
    write!(out, ",\"made_unix_ms\":{}", header.made_unix_ms)?;
    match &header.base {
        Some(base) => write!(
            out,
            ",\"base\":{{\"sequence\":{},\"root\":\"{}\",\"time_unix_ms\":{}}}",
            base.sequence, base.root, base.time_unix_ms
        )?,
        None => out.write_str(",\"base\":null")?,
    }
    write!(
        out,
        ",\"paths\":{},\"conflicts\":{},\"held\":{},\"carry_bytes\":{},\"counts\":[",
        summary.paths(),
        summary.conflicts(),
        summary.held(),
        summary.needs
    )?;
    for (at, ((class, outcome), Count { paths, bytes })) in summary.counts.iter().enumerate() {
        out.write_str(if at == 0 { "" } else { "," })?;
        write!(
            out,
            "{{\"class\":\"{class}\",\"outcome\":\"{outcome}\",\"paths\":{paths},\"bytes\":{bytes}}}"
        )?;
    }
    out.write_str("]}\n")
}

fn sites(divergence: &Divergence) -> [(Site, &AtSite); 2] {
    [(Site::Production, &divergence.production), (Site::Recovery, &divergence.recovery)]
}

fn new_name(divergence: &Divergence) -> Option<String> {
    match &divergence.outcome {
        Outcome::KeepBoth { renamed, path } => Some(format!("{renamed}'s as {path}")),
        _ => None,
    }
}

fn policy(index: u32, header: &Header) -> String {
    let name = usize::try_from(index).ok().and_then(|index| header.resolvers.get(index));
    name.cloned().unwrap_or_else(|| index.to_string())
}

fn by(by: DecidedBy, header: &Header) -> String {
    match by {
        DecidedBy::Default(rule) => format!("default {rule}"),
        DecidedBy::Policy(index) => format!("policy {}", escape_text(&policy(index, header))),
        DecidedBy::Person => "person".to_owned(),
    }
}

fn facts(at: &AtSite) -> String {
    let Some(entry) = &at.entry else {
        return at.moved_to.as_ref().map_or("-".to_owned(), |to| format!("moved to {to}"));
    };
    let mut text = match entry {
        Entry::File { size, content, meta } => {
            format!("{}, {content}, {}", HumanBytes(*size), Time::of(meta.mtime))
        }
        Entry::HardLink { leader } => format!("a name of {leader}"),
        Entry::Symlink { target, .. } => {
            let mut text = "link to ".to_owned();
            // Writing to a string does not fail.
            crate::path::escape(target, &mut text).unwrap_or(());
            text
        }
        other => other.kind().to_string(),
    };
    if let Some(from) = &at.moved_from {
        text.push_str(", moved from ");
        text.push_str(&from.to_string());
    }
    text
}

/// Milliseconds since 1970-01-01 UTC as a date and a time.
#[derive(Debug, Clone, Copy)]
struct Time(i64);

impl Time {
    fn of(at: Timestamp) -> Self {
        Self(at.seconds.saturating_mul(1_000))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days since 0000-03-01, in eras of 400 years.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// A text as a JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() || is_bidi(c) => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// Whether it would turn what a terminal shows.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
