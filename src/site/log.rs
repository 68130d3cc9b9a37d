//! The log of a site: one line an event, on standard error, as text for people or as JSON for programs.
//!
//! **Guarantees.** Whoever logs never waits for whoever reads: lines go through a bounded queue to a thread of their
//! own, and when a reader does not read, lines are dropped and counted, and the next one says how many. No line can
//! be forged by a name or by a peer's words: control characters and bidirectional marks are never written raw, and a
//! value with a space, a quote or a sign that means something is quoted. A kind of event that repeats is limited;
//! how many were left out is said with the next of its kind.
//!
//! **Does not** survive a crash: lines that were not written yet are lost with the process, so what must be on
//! record is recorded elsewhere.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use farshore_core::path::{RelPath, escape_text};
use serde_json::{Map, Value};

use crate::report::utc;
use crate::site::board::account_name;
use crate::site::board::clock::{Clock, SystemClock};

/// Lines that wait for a reader.
const QUEUE: usize = 1_024;
/// Of one kind this many come at once,
const BURST: u64 = 20;
/// then one in this time.
const ONE_IN_MS: u64 = 3_000;
/// Characters of one value.
const VALUE_MAX: usize = 4_000;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// Somebody should look.
    Warn,
    /// Somebody must.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// What systemd's journal takes for its priority at the start of a line, and does not keep.
    fn priority(self) -> &'static str {
        match self {
            Self::Debug => "<7>",
            Self::Info => "<6>",
            Self::Warn => "<4>",
            Self::Error => "<3>",
        }
    }
}

/// Whether the journal reads standard error.
fn is_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    let ours = format!("{}:{}", stat.st_dev, stat.st_ino);
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == ours)
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Debug, Self::Info, Self::Warn, Self::Error]
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| format!("'{text}': give debug, info, warn or error"))
    }
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("'{text}': give text or json")),
        }
    }
}

/// What is to be logged.
#[derive(Debug, Clone)]
pub struct Record {
    level: Level,
    event: &'static str,
    fields: Vec<(&'static str, Value)>,
    message: String,
}

impl Record {
    /// An event of a kind: `hold`, `connected`, ... Kinds are few, and in lower case.
    #[must_use]
    pub fn new(level: Level, event: &'static str, message: impl Into<String>) -> Self {
        Self { level, event, fields: Vec::new(), message: message.into() }
    }

    /// Of a share.
    #[must_use]
    pub fn share(self, name: &str) -> Self {
        self.field("share", name)
    }

    /// Of an account.
    #[must_use]
    pub fn account(self, account: &RelPath) -> Self {
        self.field("account", account_name(account))
    }

    /// With a number or a text of its own.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// The log; a clone of it is the same.
#[derive(Debug, Clone)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    format: Format,
    least: Level,
    /// Each line begins with its priority.
    prioritised: bool,
    clock: Arc<dyn Clock>,
    limits: Mutex<HashMap<&'static str, Limit>>,
    lines: Sender<Line>,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Line {
    Text(String),
    /// All before it is written.
    Flush(Sender<()>),
}

/// How much of one kind may still be said.
#[derive(Debug, Clone, Copy)]
struct Limit {
    left: u64,
    since_ms: u64,
    left_out: u64,
}

impl Log {
    /// To standard error.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn to_stderr(format: Format, least: Level) -> std::io::Result<Self> {
        Self::open(std::io::stderr(), format, least, Arc::new(SystemClock), is_journal())
    }

    /// To any writer.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn to(
        writer: impl Write + Send + 'static,
        format: Format,
        least: Level,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        Self::open(writer, format, least, clock, false)
    }

    fn open(
        writer: impl Write + Send + 'static,
        format: Format,
        least: Level,
        clock: Arc<dyn Clock>,
        prioritised: bool,
    ) -> std::io::Result<Self> {
        let (lines, queue) = bounded(QUEUE);
        std::thread::Builder::new().name("log".into()).spawn(move || write(&queue, writer))?;
        let limits = Mutex::default();
        let dropped = AtomicU64::new(0);
        Ok(Self(Arc::new(Inner { format, least, prioritised, clock, limits, lines, dropped })))
    }

    /// Logs it, unless there was too much of its kind or nobody reads.
    pub fn say(&self, record: &Record) {
        if record.level < self.0.least {
            return;
        }
        let Some(left_out) = self.admit(record.event) else { return };
        let dropped = self.0.dropped.swap(0, Relaxed);
        let time = utc(self.0.clock.wall_ms());
        let counts = [("left_out", left_out), ("dropped", dropped)];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let line = match self.0.format {
            Format::Text => text_line(&time, record, counts),
            Format::Json => json_line(&time, record, counts),
        };
        let line =
            if self.0.prioritised { record.level.priority().to_owned() + &line } else { line };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.0.lines.try_send(Line::Text(line))
        {
            self.0.dropped.fetch_add(dropped + 1, Relaxed);
        }
    }

    /// Waits until what was logged is written, but no longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let (done, written) = bounded(1);
        if self.0.lines.send_timeout(Line::Flush(done), patience).is_ok() {
            written.recv_timeout(patience).unwrap_or(());
        }
    }

    /// Whether one more of this kind may be said, and how many were not.
    fn admit(&self, event: &'static str) -> Option<u64> {
        let now = self.0.clock.steady_ms();
        let mut limits = self.0.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Limit { left: BURST, since_ms: now, left_out: 0 };
        let limit = limits.entry(event).or_insert(fresh);
        let earned = now.saturating_sub(limit.since_ms) / ONE_IN_MS;
        if earned > 0 {
            limit.left = limit.left.saturating_add(earned).min(BURST);
            limit.since_ms += earned * ONE_IN_MS;
        }
        if limit.left == 0 {
            limit.left_out += 1;
            return None;
        }
        limit.left -= 1;
        Some(std::mem::take(&mut limit.left_out))
    }
}

fn write(queue: &Receiver<Line>, mut writer: impl Write) {
    // A reader that went away does not stop the daemon: its lines go nowhere.
    for line in queue {
        match line {
            Line::Text(line) => drop(writer.write_all(line.as_bytes())),
            Line::Flush(done) => {
                drop(writer.flush());
                done.send(()).unwrap_or(());
            }
        }
    }
}

fn text_line<'a>(
    time: &str,
    record: &Record,
    counts: impl Iterator<Item = (&'a str, u64)>,
) -> String {
    let mut line = format!("{time} {:<5} {}", record.level.name(), record.event);
    for (name, value) in &record.fields {
        let value = match value {
            Value::String(text) => quoted(&cut(text)).into_owned(),
            list @ (Value::Array(_) | Value::Object(_)) => {
                quoted(&cut(&list.to_string())).into_owned()
            }
            other => other.to_string(),
        };
        write!(line, " {name}={value}").unwrap_or(());
    }
    for (name, count) in counts {
        write!(line, " {name}={count}").unwrap_or(());
    }
    if !record.message.is_empty() {
        write!(line, ": {}", cut(&record.message)).unwrap_or(());
    }
    line.push('\n');
    line
}

fn json_line<'a>(
    time: &str,
    record: &Record,
    counts: impl Iterator<Item = (&'a str, u64)>,
) -> String {
    let mut object = Map::new();
    object.insert("time".into(), time.into());
    object.insert("level".into(), record.level.name().into());
    object.insert("event".into(), record.event.into());
    for (name, value) in &record.fields {
        let value = match value {
            Value::String(text) => cut(text).into(),
            list @ (Value::Array(_) | Value::Object(_)) => cut(&list.to_string()).into(),
            other => other.clone(),
        };
        object.insert((*name).to_owned(), value);
    }
    for (name, count) in counts {
        object.insert(name.to_owned(), count.into());
    }
    object.insert("message".into(), cut(&record.message).into());
    Value::Object(object).to_string() + "\n"
}

/// Safe to show, and not long.
fn cut(text: &str) -> String {
    match text.char_indices().nth(VALUE_MAX) {
        None => escape_text(text),
        Some((end, _)) => escape_text(&text[..end]) + "...",
    }
}

/// A value that cannot be taken for another field, nor for the message.
fn quoted(escaped: &str) -> Cow<'_, str> {
    let means_something = |c: char| c.is_whitespace() || "\"=:".contains(c);
    match escaped.is_empty() || escaped.contains(means_something) {
        false => Cow::Borrowed(escaped),
        true => Cow::Owned(format!("\"{}\"", escaped.replace('"', "\\\""))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::site::board::clock::HandClock;

    struct Kept(mpsc::Sender<u8>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            bytes.iter().for_each(|byte| self.0.send(*byte).unwrap_or(()));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log(format: Format) -> (Log, Arc<HandClock>, impl Fn(&Log) -> String) {
        let clock = Arc::new(HandClock::at(1_795_390_871_000));
        let (kept, read) = mpsc::channel();
        let log = Log::to(Kept(kept), format, Level::Info, Arc::clone(&clock) as Arc<dyn Clock>);
        let read = move |log: &Log| {
            log.flush(Duration::from_secs(60));
            String::from_utf8(read.try_iter().collect()).expect("UTF-8")
        };
        (log.expect("a thread"), clock, read)
    }

    fn nasty() -> Record {
        Record::new(Level::Warn, "hold", "12 deletes\nerror: \u{1b}[2J\u{202e}forged")
            .share("homes")
            .account(&RelPath::new(*b"BU01/a b\" level=error").expect("a path"))
            .field("entries", 12)
    }

    #[test]
    fn no_name_forges_a_line() {
        let (log, _, read) = log(Format::Text);
        log.say(&Record::new(Level::Debug, "detail", "not asked for"));
        log.say(&nasty());
        assert_eq!(
            read(&log),
            "2026-11-22T21:01:11.000Z warn  hold share=homes account=\"BU01/a b\\\" level=error\" \
             entries=12: 12 deletes\\u{a}error: \\u{1b}[2J\\u{202e}forged\n"
                .replace("2026-11-22T21:01:11.000Z", &utc(1_795_390_871_000))
        );
    }

    #[test]
    fn the_journal_is_told_the_priority() {
        let (kept, read) = mpsc::channel();
        let clock = Arc::new(HandClock::at(0));
        let log = Log::open(Kept(kept), Format::Text, Level::Info, clock, true).expect("a thread");
        log.say(&Record::new(Level::Error, "reload", "refused"));
        log.flush(Duration::from_secs(60));
        let line = String::from_utf8(read.try_iter().collect()).expect("UTF-8");
        assert!(line.starts_with("<3>") && line.ends_with(" reload: refused\n"), "{line}");
    }

    #[test]
    fn an_object_a_line() {
        let (log, _, read) = log(Format::Json);
        log.say(&nasty());
        let line = read(&log);
        assert!(!line.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{line}");
        let object: Value = serde_json::from_str(&line).expect("one object");
        assert_eq!(object["level"], "warn");
        assert_eq!(object["share"], "homes");
        assert_eq!(object["entries"], 12);
        assert_eq!(object["message"], "12 deletes\\u{a}error: \\u{1b}[2J\\u{202e}forged");
    }

    #[test]
    fn a_kind_that_repeats_is_limited_and_says_so() {
        let (log, clock, read) = log(Format::Text);
        for n in 0..100 {
            log.say(&Record::new(Level::Info, "refused", format!("{n}")));
        }
        log.say(&Record::new(Level::Info, "other", "comes through"));
        let lines = read(&log);
        assert_eq!(lines.lines().count(), 21, "{lines}");
        assert!(lines.ends_with("other: comes through\n"), "{lines}");
        clock.advance(ONE_IN_MS);
        log.say(&Record::new(Level::Info, "refused", "next"));
        assert!(read(&log).ends_with(" refused left_out=80: next\n"));
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        struct Stuck(mpsc::Sender<()>, mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.send(()).unwrap_or(());
                self.1.recv().unwrap_or(());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let ((entered, is_stuck), (_let_go, stuck)) = (mpsc::channel(), mpsc::channel());
        let clock = Arc::new(HandClock::at(0));
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let log = Log::to(Stuck(entered, stuck), Format::Text, Level::Info, shared);
        let log = log.expect("a thread");
        log.say(&Record::new(Level::Info, "event", "the one it hangs at"));
        is_stuck.recv().expect("it writes");
        for _ in 0..3 * QUEUE {
            clock.advance(ONE_IN_MS);
            log.say(&Record::new(Level::Info, "event", ""));
        }
        assert!(log.0.dropped.load(Relaxed) >= QUEUE as u64);
    }
}
