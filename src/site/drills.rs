//! Reports of drills and of the real thing: what a switchover, a failover, a failback or a rehearsal achieved,
//! signed by the site that did it.
//!
//! ```text
//! <state>/drills/<share>-<began>-<kind>.drill
//!   line 1   the report, one JSON object (docs/output.md)
//!   line 2   farshore-drill-v1 <public key> <signature of line 1>
//! ```
//! Guarantees: a report is whole and durable, or not there; not a byte of it can be changed without
//! [`read`] saying so. It has the audit records of what it is about, and where that chain ended, so it can be held
//! against the site's record and what the other site keeps of it; files it counts on are named by their digest.
//!
//! Refuses to vouch for a key: who reads it says whose key that is, or gets it told as it is in the report.

use std::io;
use std::path::{Path, PathBuf};

use farshore_core::audit::{AuditHead, AuditRecord};
use farshore_transport::{KeyId, Signature, SignatureError, SiteKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit::show_head;
use crate::report::utc;
use crate::state::{open_file, write_durably};

/// Below the state folder.
pub const FOLDER: &str = "drills";
const EXTENSION: &str = "drill";
const CONTEXT: &str = "drill report v1";
const SIGNED: &str = "farshore-drill-v1 ";
/// A report is a few KiB; far more is something else.
const BYTES_MAX: u64 = 16 << 20;
/// Records of the chain in a report.
const RECORDS_MAX: usize = 1_000;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillKind {
    /// A share was handed over in order.
    Switchover,
    /// It was opened without the other site.
    Failover,
    /// A plan was carried out.
    Failback,
    /// A recovery point was rehearsed.
    Rehearsal,
}

impl DrillKind {
    /// As in names and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
            Self::Failback => "failback",
            Self::Rehearsal => "rehearsal",
        }
    }
}

/// The recovery point it was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillPoint {
    /// Its number.
    pub sequence: u64,
    /// Its T.
    pub time_unix_ms: i64,
    /// Its R.
    pub root: String,
}

/// A file that belongs to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFile {
    /// What it is.
    pub what: String,
    /// Where it was.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of it, 64 hex digits.
    pub blake3: String,
}

/// A record of the site's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Its number in the chain.
    pub sequence: u64,
    /// When.
    pub time: String,
    /// What sort of thing.
    pub kind: String,
    /// What happened.
    pub text: String,
    /// Its digest, 64 hex digits.
    pub digest: String,
}

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// What was done.
    pub kind: DrillKind,
    /// The site that did it, and signs.
    pub site: String,
    /// The other one.
    pub peer: String,
    /// The share.
    pub share: String,
    /// Its epoch afterwards.
    pub epoch: u64,
    /// When it was asked for.
    pub began_unix_ms: i64,
    /// The same as text.
    pub began: String,
    /// How long it took until it was done, in milliseconds.
    pub took_ms: u64,
    /// Whether it came to its end as it should.
    pub well: bool,
    /// The recovery point.
    pub point: Option<DrillPoint>,
    /// RPO achieved: at most the changes of so long are missing, in milliseconds.
    pub rpo_ms: Option<u64>,
    /// RTO achieved: after so long services could work with the share, in milliseconds.
    pub rto_ms: Option<u64>,
    /// What came of it, as the command gave it.
    pub result: Value,
    /// Lists it counts on.
    pub files: Vec<DrillFile>,
    /// What the site's chain says of it.
    pub records: Vec<DrillRecord>,
    /// Where that chain ended, `LENGTH:DIGEST`.
    pub audit_head: String,
}

/// Why a report cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The disk.
    #[error("report {}: {step}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It is none, or of a version that is not known.
    #[error("report {}: it is no report of a drill", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// It was changed.
    #[error("report {}", path.display())]
    Signature {
        /// The file.
        path: PathBuf,
        /// How it is known.
        #[source]
        source: SignatureError,
    },
    /// It cannot be signed.
    #[error("signing the report")]
    Sign(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Drill {
    /// A report that has the records of `share` after `since`, of those that `records` gives.
    #[must_use]
    pub fn with_records(
        mut self,
        since: AuditHead,
        records: impl IntoIterator<Item = AuditRecord>,
        head: &AuditHead,
    ) -> Self {
        let ours = records
            .into_iter()
            .filter(|record| record.sequence > since.length && record.entry.share == self.share);
        self.records = ours
            .take(RECORDS_MAX)
            .map(|record| DrillRecord {
                sequence: record.sequence,
                time: utc(record.entry.time_unix_ms),
                kind: record.entry.kind,
                text: record.entry.text,
                digest: blake3::Hash::from_bytes(record.digest).to_hex().to_string(),
            })
            .collect();
        self.audit_head = show_head(head);
        self
    }

    /// Signs it and keeps it in the state folder; where.
    ///
    /// # Errors
    /// [`DrillError`].
    pub fn keep(&self, state: &Path, key: &SiteKey) -> Result<PathBuf, DrillError> {
        let sign = |e: Box<dyn std::error::Error + Send + Sync>| DrillError::Sign(e);
        let text = serde_json::to_string(self).map_err(|e| sign(e.into()))?;
        let signature = key.sign(CONTEXT, text.as_bytes()).map_err(|e| sign(e.into()))?;
        let folder = state.join(FOLDER);
        let began: String = self.began.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let path = folder.join(format!("{}-{began}-{}.{EXTENSION}", self.share, self.kind.name()));
        let failed = |step| {
            let path = path.clone();
            move |source| DrillError::File { path, step, source }
        };
        std::fs::create_dir_all(&folder).map_err(failed("making its folder"))?;
        let bytes = format!("{text}\n{SIGNED}{signature}\n");
        write_durably(&path, bytes.as_bytes()).map_err(failed("writing it"))?;
        Ok(path)
    }

    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
        let end = if self.well { "done" } else { "NOT done as it should be" };
        let mut lines = vec![
            format!(
                "{} of share '{}' at '{}', {}: {end}",
                self.kind.name(),
                self.share,
                self.site,
                self.began
            ),
            format!(
                "other site '{}', epoch {} afterwards, took {}",
                self.peer,
                self.epoch,
                seconds(self.took_ms)
            ),
        ];
        if let Some(point) = &self.point {
            let time = utc(point.time_unix_ms);
            lines.push(format!("recovery point {} of {time}, root {}", point.sequence, point.root));
        }
        let or_none = |ms: Option<u64>| ms.map_or_else(|| "none".to_owned(), seconds);
        lines.push(format!("RPO {}, RTO {}", or_none(self.rpo_ms), or_none(self.rto_ms)));
        for file in &self.files {
            lines.push(format!(
                "{}: {}, {} bytes, BLAKE3 {}",
                file.what, file.path, file.bytes, file.blake3
            ));
        }
        for record in &self.records {
            lines.push(format!(
                "{:>6} {} {}: {}",
                record.sequence, record.time, record.kind, record.text
            ));
        }
        lines.push(format!("audit head {}", self.audit_head));
        lines
    }
}

/// A file, for a report; one that is not there is named as such.
#[must_use]
pub fn file(what: &str, path: &Path) -> DrillFile {
    hashed(what, path, open_file(path))
}

/// The same of a file that was opened already, at `path`.
pub fn hashed(what: &str, path: &Path, opened: io::Result<impl io::Read>) -> DrillFile {
    let mut hasher = blake3::Hasher::new();
    let read = opened.and_then(|mut file| io::copy(&mut file, &mut hasher));
    DrillFile {
        what: match &read {
            Ok(_) => what.to_owned(),
            Err(e) => format!("{what} (cannot be read: {e})"),
        },
        path: path.display().to_string(),
        bytes: read.unwrap_or(0),
        blake3: hasher.finalize().to_hex().to_string(),
    }
}

/// Reads a report and checks its signature; by whose key it is good.
///
/// # Errors
/// [`DrillError`] when it was changed, or is none.
pub fn read(path: &Path) -> Result<(Drill, KeyId), DrillError> {
    use std::io::Read;
    let failed = |source| DrillError::File { path: path.into(), step: "reading it", source };
    let form = || DrillError::Form { path: path.into() };
    let file = open_file(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => form(),
        _ => failed(e),
    })?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| form())?;
    let (report, rest) = text.split_once('\n').ok_or_else(form)?;
    let signature = rest.strip_suffix('\n').and_then(|rest| rest.strip_prefix(SIGNED));
    let signature: Signature = signature.and_then(|s| s.parse().ok()).ok_or_else(form)?;
    let by = signature.verify(CONTEXT, report.as_bytes());
    let by = by.map_err(|source| DrillError::Signature { path: path.into(), source })?;
    // What is signed in this context was written by us: another form is another version.
    Ok((serde_json::from_str(report).map_err(|_| form())?, by))
}

/// The reports of a state folder, by share, the oldest first.
///
/// # Errors
/// [`DrillError`] when the folder cannot be read; one that is not there has none.
pub fn list(state: &Path) -> Result<Vec<PathBuf>, DrillError> {
    let folder = state.join(FOLDER);
    let failed = |source| DrillError::File { path: folder.clone(), step: "reading it", source };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            found.push(path);
        }
    }
    // Their names have the time.
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Drill, DrillError, DrillKind, read};
    use farshore_core::audit::{AuditEntry, AuditHead, AuditRecord};
    use farshore_transport::SiteKey;

    fn drill() -> Drill {
        Drill {
            kind: DrillKind::Failover,
            site: "recovery".into(),
            peer: "production".into(),
            share: "homes".into(),
            epoch: 3,
            began_unix_ms: 0,
            began: crate::report::utc(0),
            took_ms: 812,
            well: true,
            point: None,
            rpo_ms: Some(4_212),
            rto_ms: Some(790),
            result: serde_json::json!({"undone": 3}),
            files: Vec::new(),
            records: Vec::new(),
            audit_head: String::new(),
        }
    }

    #[test]
    fn a_report_reads_back_and_no_changed_byte_of_it_passes() {
        let folder = tempfile::tempdir().expect("folder");
        let key = SiteKey::generate().expect("key");
        let record = |sequence, share: &str| AuditRecord {
            sequence,
            entry: AuditEntry {
                time_unix_ms: 5,
                site: "recovery".into(),
                share: share.into(),
                kind: "role".into(),
                text: "standby -> alone".into(),
            },
            before: [0; 32],
            digest: [7; 32],
        };
        let since = AuditHead { length: 4, digest: [1; 32] };
        let all = [record(4, "homes"), record(5, "homes"), record(6, "other"), record(7, "homes")];
        let drill = drill().with_records(since, all, &AuditHead { length: 7, digest: [2; 32] });
        assert_eq!(drill.records.iter().map(|r| r.sequence).collect::<Vec<_>>(), [5, 7]);
        let path = drill.keep(folder.path(), &key).expect("kept");
        assert_eq!(super::list(folder.path()).expect("listed"), [path.clone()]);
        let (back, by) = read(&path).expect("good");
        assert_eq!((back, by), (drill, key.key_id()));
        let good = std::fs::read(&path).expect("read");
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).expect("write");
            assert!(read(&path).is_err(), "byte {at} was changed: {:?}", good[at] as char);
        }
        std::fs::write(&path, &good[..good.len() - 1]).expect("write");
        assert!(matches!(read(&path), Err(DrillError::Form { .. })));
        // What is no file holds nobody up, and hides no other.
        let pipe = path.with_extension("pipe.drill");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("made");
        assert!(matches!(read(&pipe), Err(DrillError::Form { .. })));
        std::os::unix::fs::symlink("nowhere", path.with_extension("link.drill")).expect("made");
        assert_eq!(super::list(folder.path()).expect("listed").len(), 3);
    }
}
