//! The audit chain of a site on its disk: `<state>/audit.log`, a line a record (`farshore_core::audit`), and
//! `<state>/audit.peer`, where the other site's chain ended when it said so last.
//!
//! Guarantees: a record is durable when [`AuditLog::append`] returns its head. What a crash left of a line is taken
//! away at the next start: nothing that was to follow that record was done. A chain that is broken is gone on with,
//! so that its faults can be seen and what happens after them is on record too. The head that is kept of the
//! other site never goes back: [`PeerHead::heard`] says when that site has fewer records than it had, or others.
//!
//! Refuses nothing that has to happen: a record that cannot be written is kept in memory, up to a bound,
//! and goes before the next. Those are lost with the process, and the log said so when the write failed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use farshore_core::audit::{
    AuditChain, AuditCheck, AuditEntry, AuditFault, AuditHead, AuditRecord, LINE_LEN_MAX, parse,
};

use crate::state::write_durably;

/// The chain, in the state folder.
pub const FILE: &str = "audit.log";
/// The other site's head, in the state folder.
pub const PEER_FILE: &str = "audit.peer";

/// Records that wait for a disk that takes none.
const UNWRITTEN_MAX: usize = 1_000;

/// What was found when a chain was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes of a line that was not whole, taken away.
    pub torn: u64,
    /// The first record that is not what was written.
    pub fault: Option<AuditFault>,
}

/// The chain of this site.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    chain: AuditChain,
    unwritten: Vec<AuditEntry>,
    /// Records that were given up.
    lost: u64,
}

impl AuditLog {
    /// Opens the chain in a state folder, or begins one.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(folder: &Path) -> io::Result<(Self, Found)> {
        let path = folder.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path)?;
        File::open(folder)?.sync_all()?;
        let read = read_all(&mut file, &[], &mut |_| {})?;
        let mut found = Found { torn: read.torn, fault: read.fault };
        let mut length = read.whole;
        if read.torn > 0 {
            if read.torn <= LINE_LEN_MAX as u64 {
                file.set_len(length)?;
            } else {
                // No append that was cut off is as long: it is left for whoever looks into it.
                file.seek(SeekFrom::End(0))?;
                file.write_all(b"\n")?;
                length += read.torn + 1;
                found.torn = 0;
            }
            file.sync_all()?;
        }
        let chain = AuditChain::after(read.last);
        Ok((Self { path, file, length, chain, unwritten: Vec::new(), lost: 0 }, found))
    }

    /// Where the chain ends.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        self.chain.head()
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a record durable, and those before it that are not; gives the new head.
    ///
    /// # Errors
    /// What the disk says. The record waits for the next call then.
    pub fn append(&mut self, entry: AuditEntry) -> io::Result<AuditHead> {
        if self.unwritten.len() == UNWRITTEN_MAX {
            // The first say how it began.
            self.unwritten.pop();
            self.lost += 1;
        }
        self.unwritten.push(entry);
        let mut chain = self.chain;
        let mut lines = String::new();
        for entry in &self.unwritten {
            lines.push_str(&chain.append(entry));
        }
        if self.lost > 0 {
            let last = self.unwritten.last().cloned();
            let text = format!("{} records before this one could not be written", self.lost);
            let said = last.map(|last| AuditEntry { kind: "lost".into(), text, ..last });
            said.iter().for_each(|said| lines.push_str(&chain.append(said)));
        }
        // What a write that failed may have left.
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_data()?;
        self.length += lines.len() as u64;
        self.chain = chain;
        self.unwritten.clear();
        self.lost = 0;
        Ok(self.chain.head())
    }
}

/// What reading a chain gave.
struct ReadAll {
    /// Bytes of whole lines.
    whole: u64,
    /// Bytes after the last of them.
    torn: u64,
    /// The first fault.
    fault: Option<AuditFault>,
    /// The head as the last line says it, sound or not.
    last: AuditHead,
}

fn read_all(
    file: &mut File,
    known: &[AuditHead],
    each: &mut dyn FnMut(AuditRecord),
) -> io::Result<ReadAll> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let mut check = Some(AuditCheck::new(known));
    let mut read = ReadAll { whole: 0, torn: 0, fault: None, last: AuditHead::default() };
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line that is too long is read to its end, in parts, and is one fault.
        let most = LINE_LEN_MAX as u64 + 2;
        let mut taken = reader.by_ref().take(most).read_until(b'\n', &mut line)? as u64;
        while taken >= most && line.last() != Some(&b'\n') {
            line.truncate(LINE_LEN_MAX + 1);
            let more = reader.by_ref().take(most).read_until(b'\n', &mut line)? as u64;
            if more == 0 {
                break;
            }
            taken += more;
        }
        if line.last() != Some(&b'\n') {
            read.torn = taken;
            break;
        }
        line.pop();
        read.whole += taken;
        let at = read.last.length + 1;
        read.last = match parse(&line) {
            Ok(record) => AuditHead { length: at, digest: record.digest },
            Err(_) => AuditHead { length: at, digest: [0; 32] },
        };
        match check.as_mut().map(|check| check.line(&line)) {
            Some(Ok(record)) => each(record),
            Some(Err(fault)) => {
                read.fault = Some(fault);
                check = None;
            }
            None => {}
        }
    }
    if let Some(Err(fault)) = check.map(AuditCheck::finish) {
        read.fault = Some(fault);
    }
    Ok(read)
}

/// A chain that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Where it ends.
    pub head: AuditHead,
    /// The first fault.
    pub fault: Option<AuditFault>,
    /// Bytes after the last whole line.
    pub torn: u64,
}

/// Reads a chain without changing it, against heads that are known of it; `each` gets its records, as far as
/// they are sound. A folder without one has an empty one.
///
/// # Errors
/// What the disk says.
pub fn check(
    folder: &Path,
    known: &[AuditHead],
    each: &mut dyn FnMut(AuditRecord),
) -> io::Result<Checked> {
    let mut file = match File::open(folder.join(FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let head = AuditHead::default();
            let fault = AuditCheck::new(known).finish().err();
            return Ok(Checked { head, fault, torn: 0 });
        }
        Err(e) => return Err(e),
    };
    let read = read_all(&mut file, known, each)?;
    Ok(Checked { head: read.last, fault: read.fault, torn: read.torn })
}

/// What became of the other site's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The same.
    Same,
    /// It grew, and the new head is kept.
    Grew,
    /// It has fewer records than it had, or another last one.
    Broken {
        /// What it had.
        had: AuditHead,
    },
}

/// A word of one share may be this much behind that of another, in milliseconds.
const BEHIND_MS: i64 = 30_000;

/// The head that is kept of the other site's chain.
#[derive(Debug)]
pub struct PeerHead {
    path: PathBuf,
    head: AuditHead,
    /// By share, the last word that was looked at.
    words: BTreeMap<String, (u64, u64)>,
    /// Since when no word named the head that is kept, or a later one.
    behind: Option<i64>,
    /// What was wrong last, so that it is said once.
    wrong: Option<AuditHead>,
}

impl PeerHead {
    /// Reads what is kept.
    ///
    /// # Errors
    /// What the disk says, and a file that cannot be read as one.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(PEER_FILE);
        let head = match std::fs::read_to_string(&path) {
            Ok(text) => parse_head(text.trim_end()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "it is not LENGTH:DIGEST")
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => AuditHead::default(),
            Err(e) => return Err(e),
        };
        Ok(Self { path, head, words: BTreeMap::new(), behind: None, wrong: None })
    }

    /// What is kept.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        self.head
    }

    /// The other site said in `word` of a share where its chain ends. One that is shorter than it was may be an
    /// older word's; it is broken when there is none but such for a while. What is broken is said once, until
    /// it is another thing.
    ///
    /// # Errors
    /// What the disk says; it is kept by a later word then.
    pub fn heard(
        &mut self,
        share: &str,
        word: (u64, u64),
        said: AuditHead,
        now_ms: i64,
    ) -> io::Result<Heard> {
        if self.words.insert(share.to_owned(), word) == Some(word) {
            return Ok(Heard::Same);
        }
        if said.length < self.head.length {
            let since = *self.behind.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) < BEHIND_MS || self.wrong.replace(said).is_some() {
                return Ok(Heard::Same);
            }
            return Ok(Heard::Broken { had: self.head });
        }
        self.behind = None;
        if said.length == self.head.length {
            if said.digest == self.head.digest {
                self.wrong = None;
                return Ok(Heard::Same);
            }
            return Ok(match self.wrong.replace(said) {
                Some(before) if before == said => Heard::Same,
                _ => Heard::Broken { had: self.head },
            });
        }
        write_durably(&self.path, format!("{}\n", show_head(&said)).as_bytes())?;
        (self.head, self.wrong) = (said, None);
        Ok(Heard::Grew)
    }
}

/// A head as text: `LENGTH:DIGEST`.
#[must_use]
pub fn show_head(head: &AuditHead) -> String {
    let digest: String = head.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{digest}", head.length)
}

/// What [`show_head`] wrote.
#[must_use]
pub fn parse_head(text: &str) -> Option<AuditHead> {
    let (length, digest) = text.split_once(':')?;
    if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(digest.get(at..at + 2)?, 16).ok()?;
    }
    Some(AuditHead { length: length.parse().ok()?, digest: bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> AuditEntry {
        AuditEntry {
            time_unix_ms: 1_780_000_000_000,
            site: "production".into(),
            share: "homes".into(),
            kind: "role".into(),
            text: text.into(),
        }
    }

    fn texts(folder: &Path) -> (Vec<String>, Checked) {
        let mut texts = Vec::new();
        let checked = check(folder, &[], &mut |record| texts.push(record.entry.text));
        (texts, checked.expect("readable"))
    }

    #[test]
    fn a_chain_goes_on_over_a_restart_and_a_line_that_was_not_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, found) = AuditLog::open(folder.path()).expect("opened");
        assert_eq!(found, Found::default());
        log.append(entry("one")).expect("written");
        let head = log.append(entry("two")).expect("written");
        drop(log);
        let file = folder.path().join(FILE);
        let whole = std::fs::read(&file).expect("readable");
        for torn in [1, 20, 150] {
            let (line, _) = whole.split_at(torn);
            std::fs::write(&file, [&whole[..], line].concat()).expect("written");
            let (log, found) = AuditLog::open(folder.path()).expect("opened");
            assert_eq!(found, Found { torn: line.len() as u64, fault: None });
            assert_eq!(log.head(), head);
            assert_eq!(std::fs::read(&file).expect("readable"), whole);
        }
        let (mut log, _) = AuditLog::open(folder.path()).expect("opened");
        let head = log.append(entry("three")).expect("written");
        let (said, checked) = texts(folder.path());
        assert_eq!(said, ["one", "two", "three"]);
        assert_eq!(checked, Checked { head, fault: None, torn: 0 });
    }

    #[test]
    fn a_broken_chain_is_said_and_gone_on_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, _) = AuditLog::open(folder.path()).expect("opened");
        for text in ["one", "two", "three"] {
            log.append(entry(text)).expect("written");
        }
        let file = folder.path().join(FILE);
        let text = std::fs::read_to_string(&file).expect("readable");
        std::fs::write(&file, text.replace("\ttwo\t", "\t2\t")).expect("written");
        let (mut log, found) = AuditLog::open(folder.path()).expect("opened");
        assert!(matches!(found.fault, Some(AuditFault::Line { at: 2, .. })), "{found:?}");
        assert_eq!(log.append(entry("four")).expect("written").length, 4);
        let (said, checked) = texts(folder.path());
        assert_eq!(said, ["one"], "what follows a fault proves nothing");
        assert_eq!(checked.fault, found.fault);
        // The rest still hangs together: one fault is one fault.
        let lines = std::fs::read_to_string(&file).expect("readable");
        let sound = lines.lines().filter(|line| parse(line.as_bytes()).is_ok()).count();
        assert_eq!(sound, 3);
    }

    #[test]
    fn a_line_without_end_is_a_fault_and_no_torn_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        std::fs::write(&file, vec![b'x'; 5 * LINE_LEN_MAX]).expect("written");
        let (mut log, found) = AuditLog::open(folder.path()).expect("opened");
        assert_eq!(found.torn, 0);
        log.append(entry("one")).expect("written");
        let (_, checked) = texts(folder.path());
        assert!(matches!(checked.fault, Some(AuditFault::Line { at: 1, .. })), "{checked:?}");
    }

    #[test]
    fn records_of_a_disk_that_took_none_go_before_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, _) = AuditLog::open(folder.path()).expect("opened");
        log.append(entry("one")).expect("written");
        let file = folder.path().join(FILE);
        let writable = std::mem::replace(&mut log.file, File::open(&file).expect("for reading"));
        log.append(entry("two")).expect_err("it cannot be written");
        log.append(entry("three")).expect_err("it cannot be written");
        log.file = writable;
        log.append(entry("four")).expect("written");
        let (said, checked) = texts(folder.path());
        assert_eq!(said, ["one", "two", "three", "four"]);
        assert_eq!(checked.fault, None);
    }

    #[test]
    fn the_peers_head_never_goes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let head = |length, digest| AuditHead { length, digest: [digest; 32] };
        let mut peer = PeerHead::open(folder.path()).expect("opened");
        let mut count = 0;
        let mut heard = |peer: &mut PeerHead, said, now| {
            count += 1;
            peer.heard("homes", (1, count), said, now).expect("kept")
        };
        assert_eq!(heard(&mut peer, AuditHead::default(), 0), Heard::Same);
        assert_eq!(heard(&mut peer, head(3, 1), 0), Heard::Grew);
        let mut peer = PeerHead::open(folder.path()).expect("opened again");
        assert_eq!(peer.head(), head(3, 1));
        // Another one in the place of the last.
        let had = head(3, 1);
        assert_eq!(heard(&mut peer, head(3, 2), 0), Heard::Broken { had });
        assert_eq!(heard(&mut peer, head(3, 2), 0), Heard::Same, "it was said");
        assert_eq!(heard(&mut peer, had, 0), Heard::Same);
        // A shorter one may be an older word's, for a while.
        assert_eq!(heard(&mut peer, head(2, 1), 0), Heard::Same);
        assert_eq!(heard(&mut peer, had, BEHIND_MS), Heard::Same, "there it is again");
        assert_eq!(heard(&mut peer, head(2, 1), BEHIND_MS), Heard::Same);
        assert_eq!(heard(&mut peer, head(2, 1), 2 * BEHIND_MS), Heard::Broken { had });
        assert_eq!(heard(&mut peer, head(2, 1), 3 * BEHIND_MS), Heard::Same, "it was said");
        assert_eq!(heard(&mut peer, head(4, 4), 0), Heard::Grew);
        assert_eq!(PeerHead::open(folder.path()).expect("opened").head(), head(4, 4));
        std::fs::write(folder.path().join(PEER_FILE), "3:zz").expect("written");
        assert!(PeerHead::open(folder.path()).is_err());
    }

    #[test]
    fn a_chain_that_is_gone_is_missed_by_who_knew_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = [AuditHead { length: 2, digest: [1; 32] }];
        let checked = check(folder.path(), &known, &mut |_| {}).expect("readable");
        assert_eq!(checked.fault, Some(AuditFault::Truncated { at: 1, known: 2 }));
    }
}
