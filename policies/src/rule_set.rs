//! Rules in order; the first that matches decides, and what none matches travels.
//!
//! The order: the reserved rule, then the user's in the order given, then the defaults. So
//! `+ /lost+found/` of the user's overrules a default, and nothing overrules [`RESERVED`].
//!
//! As in rsync an included name below an excluded directory is not reached, because nothing is
//! asked below an excluded directory: include the directory, and exclude its other contents.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use farshore_core::entry::Timestamp;
use farshore_core::policy::{Action, Candidate, Policy, Verdict};

use crate::rule::{Origin, RULES_MAX, Reason, Rule, RuleError, at_place};

/// Farshore's own directory at a share's root: never replicated.
pub const RESERVED: &str = "/.farshore";

/// Excluded unless switched off. Each names something a file server or a client keeps beside the
/// data; at the root only directories, so that a file of that name travels.
pub const DEFAULTS: [&str; 13] = [
    // Snapshots: NetApp and others, snapper, ZFS, NetApp over SMB, QNAP, Synology.
    "/.snapshot/",
    "/.snapshots/",
    "/.zfs/",
    "/~snapshot/",
    "/@Recently-Snapshot/",
    "/#snapshot/",
    // Recycle bins: QNAP, Synology, Windows.
    "/@Recycle/",
    "/#recycle/",
    "/$RECYCLE.BIN/",
    // The file system's own.
    "/System Volume Information/",
    "/lost+found/",
    // Names of files that are deleted and still open: .nfs and 24 digits, FUSE.
    ".nfs???????????????????????? kind=file",
    ".fuse_hidden* kind=file",
];

/// Rules in order, and the time ages are taken at.
#[derive(Debug, Clone)]
pub struct RuleSet {
    now: Timestamp,
    rules: Vec<Rule>,
    /// Of each rule, whether it has decided anything; clones share it.
    decided: Arc<[AtomicBool]>,
    concerned: Arc<Concerned>,
}

/// By the first byte of its name, whether any rule may match an entry: nearly none may, and a look at one byte costs
/// less than a path.
#[derive(Debug)]
struct Concerned {
    anywhere: [bool; 256],
    at_root: [bool; 256],
}

impl Concerned {
    fn by(rules: &[Rule]) -> Self {
        let mut concerned = Self { anywhere: [false; 256], at_root: [false; 256] };
        for rule in rules {
            match rule.first_byte() {
                Some((byte, true)) => concerned.at_root[usize::from(byte)] = true,
                Some((byte, false)) => concerned.anywhere[usize::from(byte)] = true,
                None => concerned.anywhere = [true; 256],
            }
        }
        concerned
    }
}

/// Gathers the rules of a [`RuleSet`].
#[derive(Debug, Clone)]
pub struct RuleSetBuilder {
    now: Timestamp,
    rules: Vec<Rule>,
    defaults: bool,
}

impl RuleSet {
    /// A set to add rules to. `now` is what ages are counted from: the time of the cut, the same at
    /// both sites, never a clock read in between.
    #[must_use]
    pub fn builder(now: Timestamp) -> RuleSetBuilder {
        RuleSetBuilder { now, rules: vec![built_in(RESERVED, Origin::Reserved)], defaults: true }
    }

    /// The rule a [`Verdict`] names.
    #[must_use]
    pub fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(usize::try_from(index).ok()?)
    }

    /// The rules in order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The verdict on one candidate.
    #[must_use]
    pub fn verdict(&self, candidate: &Candidate<'_>) -> Verdict {
        let mut rules = (0u32..).zip(&self.rules).zip(&*self.decided);
        let found = rules.find(|((_, rule), _)| rule.is_match(candidate, self.now));
        let Some(((index, rule), decided)) = found else { return Verdict::REPLICATE };
        // Written once: threads that scan would pass the line of memory to and fro.
        if !decided.load(Relaxed) {
            decided.store(true, Relaxed);
        }
        Verdict::by_rule(rule.action(), index)
    }

    /// The given rules, not the built-in ones, that have decided about nothing so far: they matched
    /// no candidate, or an earlier rule matched the same ones.
    pub fn idle(&self) -> impl Iterator<Item = &Rule> {
        let idle = |(rule, decided): &(&Rule, &AtomicBool)| {
            matches!(rule.origin(), Origin::Option | Origin::File { .. }) && !decided.load(Relaxed)
        };
        self.rules.iter().zip(&*self.decided).filter(idle).map(|(rule, _)| rule)
    }
}

impl Policy for RuleSet {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        candidates.iter().map(|candidate| self.verdict(candidate)).collect()
    }

    fn rules(&self) -> Vec<String> {
        self.rules.iter().map(ToString::to_string).collect()
    }

    fn may_concern(&self, at_root: bool, name: &[u8]) -> bool {
        let Concerned { anywhere, at_root: in_root } = &*self.concerned;
        // No name is empty; of one that were nothing is known.
        let Some(first) = name.first().map(|&byte| usize::from(byte)) else { return true };
        anywhere[first] || (at_root && in_root[first])
    }
}

impl RuleSetBuilder {
    /// Adds one rule, as given to `--exclude` or `--include`; its grammar is in [`crate::rule`].
    ///
    /// # Errors
    /// [`RuleError::Text`].
    pub fn push(&mut self, sense: Action, text: &[u8]) -> Result<&mut Self, RuleError> {
        self.add(sense, text, Origin::Option)
    }

    /// Adds the rules of a file's content, as given to `--exclude-from` or `--include-from`; `file`
    /// names it in errors and reports.
    ///
    /// # Errors
    /// [`RuleError::Line`] for the first line that is wrong; the lines before it are added.
    pub fn push_file(
        &mut self,
        sense: Action,
        file: &str,
        content: &[u8],
    ) -> Result<&mut Self, RuleError> {
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        for (number, line) in (1..).zip(lines(content)) {
            if !matches!(line, [] | [b'#' | b';', ..]) {
                self.add(sense, line, Origin::File { name: file.to_owned(), line: number })?;
            }
        }
        Ok(self)
    }

    /// Leaves [`DEFAULTS`] out.
    pub fn without_defaults(&mut self) -> &mut Self {
        self.defaults = false;
        self
    }

    /// The set.
    #[must_use]
    pub fn build(self) -> RuleSet {
        let Self { now, mut rules, defaults } = self;
        if defaults {
            rules.extend(DEFAULTS.map(|text| built_in(text, Origin::Default)));
        }
        let decided = rules.iter().map(|_| AtomicBool::new(false)).collect();
        let concerned = Arc::new(Concerned::by(&rules));
        RuleSet { now, rules, decided, concerned }
    }

    fn add(&mut self, sense: Action, text: &[u8], origin: Origin) -> Result<&mut Self, RuleError> {
        if self.rules.len() >= RULES_MAX {
            return Err(at_place(text, &origin, 1, Reason::TooMany));
        }
        self.rules.push(Rule::parse_from(sense, text, origin)?);
        Ok(self)
    }
}

/// The lines, ended by LF, CR LF or CR.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split(|&b| b == b'\n').flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.split(|&b| b == b'\r')
    })
}

fn built_in(text: &str, origin: Origin) -> Rule {
    match Rule::parse_from(Action::Exclude, text.as_bytes(), origin) {
        Ok(rule) => rule,
        Err(error) => unreachable!("a built-in rule: {error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::entry::EntryKind;
    use farshore_core::path::RelPath;

    use super::*;

    const NOW: Timestamp = Timestamp { seconds: 1_000_000_000, nanos: 0 };

    fn action(rules: &RuleSet, path: &[u8], kind: EntryKind) -> Action {
        let path = RelPath::new(path).expect("a path");
        let candidate =
            Candidate { path: &path, kind, size: 1, mtime: NOW, mode: 0o644, uid: 1, gid: 1 };
        rules.verdict(&candidate).action
    }

    #[test]
    fn defaults_name_what_is_not_data_and_nothing_else() {
        let rules = RuleSet::builder(NOW).build();
        assert_eq!(rules.rules().len(), DEFAULTS.len() + 1);
        let directory = EntryKind::Directory;
        for path in [".snapshot", ".zfs", "~snapshot", "@Recycle", "lost+found", ".farshore"] {
            assert_eq!(action(&rules, path.as_bytes(), directory), Action::Exclude, "{path}");
            let below = format!("home/{path}");
            assert_eq!(action(&rules, below.as_bytes(), directory), Action::Replicate, "{below}");
        }
        for (path, kind, wanted) in [
            (&b"lost+found"[..], EntryKind::File, Action::Replicate),
            (b".farshore", EntryKind::File, Action::Exclude),
            (b"a/.nfs0000000001a2b3c400000007", EntryKind::File, Action::Exclude),
            (b"a/.nfs0000000001a2b3c400000007", EntryKind::HardLink, Action::Exclude),
            (b"a/.nfs0000000001a2b3c400000007", directory, Action::Replicate),
            (b"a/.nfs1", EntryKind::File, Action::Replicate),
            (b".fuse_hidden0000000500000001", EntryKind::File, Action::Exclude),
            (b"", directory, Action::Replicate),
        ] {
            assert_eq!(action(&rules, path, kind), wanted, "{path:?}");
        }
    }

    #[test]
    fn the_first_match_decides_and_defaults_come_last() {
        let mut builder = RuleSet::builder(NOW);
        builder.push(Action::Exclude, b"+ *.pay").expect("a rule");
        builder.push(Action::Exclude, b"*").expect("a rule");
        let rules = builder.build();
        assert_eq!(action(&rules, b"a.pay", EntryKind::File), Action::Replicate);
        assert_eq!(action(&rules, b"a.txt", EntryKind::File), Action::Exclude);

        let mut builder = RuleSet::builder(NOW);
        builder.push(Action::Replicate, b"/lost+found/").expect("a rule");
        builder.push(Action::Replicate, b"/.farshore").expect("a rule");
        let rules = builder.build();
        assert_eq!(action(&rules, b"lost+found", EntryKind::Directory), Action::Replicate);
        assert_eq!(action(&rules, b".farshore", EntryKind::Directory), Action::Exclude);
    }

    #[test]
    fn rules_that_decided_nothing_are_known() {
        let mut builder = RuleSet::builder(NOW);
        builder.push(Action::Exclude, b"*.o").expect("a rule");
        builder.push_file(Action::Exclude, "x", b"*.tmp\n+ a.o\n").expect("rules");
        let rules = builder.build();
        let idle = |rules: &RuleSet| rules.idle().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(idle(&rules), ["- *.o", "- *.tmp", "+ a.o"]);
        action(&rules, b"a.o", EntryKind::File);
        action(&rules.clone(), b"lost+found", EntryKind::Directory);
        // The last one is hidden by the first.
        assert_eq!(idle(&rules), ["- *.tmp", "+ a.o"]);
    }

    #[test]
    fn without_defaults_only_the_reserved_rule_is_left() {
        let mut builder = RuleSet::builder(NOW);
        builder.without_defaults();
        let rules = builder.build();
        assert_eq!(rules.rules(), ["- /.farshore"]);
        assert!(!rules.is_trivial());
    }

    #[test]
    fn files_have_comments_blank_lines_and_both_line_ends() {
        let mut builder = RuleSet::builder(NOW);
        builder.without_defaults();
        let content = b"\xef\xbb\xbf# c\r\n; c\n\n*.o\r\n+ keep\n- drop\rcaf\xe9 ";
        builder.push_file(Action::Exclude, "x.rules", content).expect("rules");
        let rules = builder.build();
        assert_eq!(rules.rules()[1..], ["- *.o", "+ keep", "- drop", "- caf\\xe9 "]);
        let origin = rules.rule(2).expect("the third").origin();
        assert_eq!(*origin, Origin::File { name: "x.rules".to_owned(), line: 5 });
    }

    #[test]
    fn a_wrong_line_is_named() {
        let mut builder = RuleSet::builder(NOW);
        let error = builder.push_file(Action::Exclude, "x.rules", b"ok\n\n- size>big\n");
        let error = error.expect_err("no size");
        assert_eq!(error.to_string(), "x.rules:3:8: rule '- size>big'");
        assert!(matches!(error.reason(), Reason::Size(_)));
    }

    #[test]
    fn too_many_rules_are_refused() {
        let mut builder = RuleSet::builder(NOW);
        let content = b"x\n".repeat(RULES_MAX);
        let error = builder.push_file(Action::Exclude, "x", &content).expect_err("one too many");
        assert_eq!(*error.reason(), Reason::TooMany);
    }

    /// Of each name that a rule decides about, the engine is told to ask; of others, as far as a byte tells, not to.
    #[test]
    fn what_rules_may_decide_about_is_asked() {
        let texts: [&[u8]; 9] = [
            b"*.tmp",
            b"/scratch/",
            b"a/b",
            b"[xy]z",
            b"**/deep",
            b"size>1G",
            b"/q*",
            b"name",
            b"\\*s",
        ];
        let names =
            ["x.tmp", "scratch", "b", "yz", "deep", "quite", "name", "*s", ".zfs", ".nfs1", "Zeit"];
        for text in [None].into_iter().chain(texts.map(Some)) {
            let mut builder = RuleSet::builder(NOW);
            if let Some(text) = text {
                builder.push(Action::Exclude, text).expect("a rule");
            }
            let rules = builder.build();
            for parent in ["", "a", "a/c"] {
                for name in names.into_iter().chain(DEFAULTS) {
                    let name = name.trim_matches('/').split(' ').next().expect("a name");
                    let path = [parent, name].join("/");
                    let path = path.trim_start_matches('/').as_bytes();
                    let kinds = [EntryKind::File, EntryKind::Directory];
                    let decided = kinds.map(|kind| action(&rules, path, kind));
                    if decided != [Action::Replicate; 2] {
                        let asked = rules.may_concern(parent.is_empty(), name.as_bytes());
                        assert!(asked, "{text:?} decides about {}", path.escape_ascii());
                    }
                }
            }
        }
        let rules = RuleSet::builder(NOW).build();
        assert!(!rules.may_concern(true, b"home") && !rules.may_concern(false, b"lost+found"));
        assert!(rules.may_concern(true, b"lost+found") && rules.may_concern(false, b".nfs"));
    }

    #[test]
    fn verdicts_do_not_depend_on_the_batch() {
        let rules = RuleSet::builder(NOW).build();
        let paths = ["a", ".zfs", "b/.zfs"].map(|p| RelPath::new(p.as_bytes()).expect("a path"));
        let candidates: Vec<_> = paths
            .iter()
            .map(|path| Candidate {
                path,
                kind: EntryKind::Directory,
                size: 0,
                mtime: NOW,
                mode: 0o755,
                uid: 0,
                gid: 0,
            })
            .collect();
        let together = rules.exclude(&candidates);
        let alone: Vec<_> = candidates.iter().flat_map(|c| rules.exclude(&[*c])).collect();
        assert_eq!(together, alone);
    }
}
