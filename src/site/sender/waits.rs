//! What is left out of a cut, and waits: what could not be replicated, files that the standby has no room for, and
//! what a policy defers.

use farshore_core::policy::{Action, Deferring, Policy, Verdict};

use super::*;

/// Files that the standby had no room for, and that it is not time to try again.
pub(super) fn waits(troubled: &BTreeMap<RelPath, Trouble>) -> Vec<RelPath> {
    let waits = |trouble: &Trouble| trouble.needed.is_some() && !trouble.marked;
    let waiting = troubled.iter().filter(|(_, trouble)| waits(trouble));
    waiting.map(|(path, _)| path.clone()).take(WAITS_MAX).collect()
}

/// Those of a cut's problems of which it concluded something, or nobody knew. What is in trouble and was left out is so
/// as before, as often as it was.
fn anew<'p>(
    problems: &'p [Problem],
    left_out: &LeftOut,
    troubled: &BTreeMap<RelPath, Trouble>,
) -> impl Iterator<Item = &'p Problem> {
    problems.iter().filter(|p| !(left_out.covers(&p.path) && troubled.contains_key(&p.path)))
}

/// What is known of a cut's problems however often they are noted: with what is known when all is sent, and again
/// when more of it turned out not to be replicated.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// What of the paths that the cut concludes something of was in trouble before it.
    former: HashMap<RelPath, Trouble>,
    /// Paths that this cut itself found to be in trouble.
    new: BTreeSet<RelPath>,
    too_large: HashMap<RelPath, TooLarge>,
}

impl Noted {
    /// What the cut covers is no trouble from before any more.
    fn covers(&mut self, troubled: impl Iterator<Item = (RelPath, Trouble)>) {
        for (path, trouble) in troubled {
            if !self.new.contains(&path) {
                self.former.insert(path, trouble);
            }
        }
    }

    /// The cut came to nothing: what was in trouble before it is so as before.
    pub(super) fn give_back(self, troubled: &mut BTreeMap<RelPath, Trouble>) {
        for (path, trouble) in self.former {
            troubled.entry(path).or_insert(trouble);
        }
    }

    /// How often `path` is in trouble with this cut.
    fn times(&mut self, path: &RelPath) -> u32 {
        self.new.insert(path.clone());
        self.former.get(path).map_or(1, |trouble| trouble.times.saturating_add(1))
    }
}

impl Sender {
    /// Marks what could not be replicated and is to be tried again.
    pub(super) fn retry(&self, inner: &mut Inner) {
        let now = Instant::now();
        for (path, trouble) in &mut inner.troubled {
            if !trouble.marked && trouble.again <= now {
                if trouble.needed.is_some_and(|needed| self.is_still_too_large(path, needed)) {
                    trouble.again = now + trouble.wait();
                    continue;
                }
                let directory = path.split().map_or_else(RelPath::root, |(parent, _)| parent);
                self.dirty.mark(&directory, false, now_ms());
                trouble.marked = true;
            }
        }
        for (directory, _) in inner.deferred.extract_if(.., |_, again| *again <= now) {
            self.dirty.mark(&directory, false, now_ms());
        }
    }

    /// Notes what a cut could not replicate, and forgets what it could; each time all that is known of it.
    pub(super) fn note_problems(&self, inner: &mut Inner, cut: &Cut, problems: &[Problem]) {
        let covered = |path: &RelPath| cut.look.covers(path) && !cut.left_out.covers(path);
        let waits: BTreeSet<RelPath> = inner.under_way.waits.iter().cloned().collect();
        let mut noted = std::mem::take(&mut inner.under_way.noted);
        let is_covered = |path: &RelPath, _: &mut Trouble| covered(path) && !waits.contains(path);
        noted.covers(inner.troubled.extract_if(.., is_covered));
        let account = |path: &RelPath| account_of(path, self.config.account_depth);
        let too_large = self.progress.take_too_large().into_iter();
        noted.too_large.extend(too_large.map(|file| (file.path.clone(), file)));
        let problems: Vec<&Problem> = anew(problems, &cut.left_out, &inner.troubled).collect();
        for problem in problems {
            let times = noted.times(&problem.path);
            let (path, file) = (&problem.path, noted.too_large.get(&problem.path));
            let text = match file {
                Some(TooLarge { needed, free, .. }) => {
                    format!("standby: no space for {path} ({needed} bytes needed, {free} free)")
                }
                None => format!("{path}: {}", problem.text),
            };
            self.board.problem(&account(path), &text);
            if inner.troubled.len() < TROUBLED_MAX {
                let needed = file.map(|file| file.needed);
                let now = Instant::now();
                let mut trouble = Trouble { times, again: now, marked: false, needed };
                trouble.again += trouble.wait();
                inner.troubled.insert(problem.path.clone(), trouble);
            }
        }
        inner.under_way.noted = noted;
    }

    /// Of a cut that is sealed: accounts that have nothing in trouble any more are said to be well. Not before: what
    /// was in trouble may turn out to be so still when its receipt comes.
    pub(super) fn note_solved(&self, inner: &Inner, noted: &Noted) {
        let account = |path: &RelPath| account_of(path, self.config.account_depth);
        let troubled: BTreeSet<RelPath> = inner.troubled.keys().map(account).collect();
        let settled: BTreeSet<RelPath> =
            noted.former.keys().chain(&noted.new).map(account).collect();
        settled.difference(&troubled).for_each(|account| self.board.solved(Some(account)));
    }

    /// Whether the standby is known to have no room for a file that is as it was: to send it again would
    /// be for nothing.
    pub(super) fn is_still_too_large(&self, path: &RelPath, needed: u64) -> bool {
        let has_no_room = self.standby_free().is_some_and(|free| free < needed);
        let size = || {
            let (parent, name) = path.split()?;
            let parent =
                self.storage.open_directory(self.storage.root(), parent.as_bytes()).ok()?;
            Some(self.storage.stat(Object::Named(&parent, name)).ok()?.size)
        };
        has_no_room && size() == Some(needed)
    }

    /// Notes where a policy deferred something; what the standby has no room for waits by itself, and what a
    /// cut left out is looked at when it is over.
    pub(super) fn note_deferred(
        &self,
        inner: &mut Inner,
        cut: &Cut,
        waits: &[RelPath],
        report: &CutReport,
    ) {
        let again = Instant::now() + DEFERRED_AGAIN;
        let waits = |path: &RelPath| waits.contains(path) || cut.left_out.covers(path);
        for path in report.deferred_first.iter().filter(|path| !waits(path)) {
            if inner.deferred.len() >= TROUBLED_MAX {
                break;
            }
            if let Some((parent, _)) = path.split() {
                inner.deferred.entry(parent).or_insert(again);
            }
        }
    }
}

/// The policy of a cut without some files: each is deferred, and what else is there is decided as ever. `policy` itself
/// where there are none.
pub(super) fn without(policy: Arc<dyn Policy>, paths: &[RelPath]) -> Arc<dyn Policy> {
    if paths.is_empty() {
        return policy;
    }
    let paths: BTreeSet<RelPath> = paths.iter().cloned().collect();
    let defers = move |path: &RelPath, verdict: &Verdict| {
        verdict.action == Action::Replicate && paths.contains(path)
    };
    Arc::new(Deferring { policy, defers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_left_out_is_in_trouble_as_often_as_before() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a path");
        let trouble = || Trouble { times: 9, again: Instant::now(), marked: true, needed: None };
        let troubled = ["a/known", "b/known"].map(|at| (path(at), trouble())).into();
        let left_out = LeftOut { accounts: [(path("a"), None)].into(), ..LeftOut::default() };
        let problem = |at| Problem { path: path(at), text: String::new() };
        let problems = ["a/known", "a/new", "b/known"].map(problem);
        let found: Vec<_> = anew(&problems, &left_out, &troubled).map(|p| &p.path).collect();
        assert_eq!(found, [&path("a/new"), &path("b/known")]);
    }

    /// A cut is noted when all of it is sent, and again with what only its receipts told.
    #[test]
    fn what_is_noted_twice_of_a_cut_is_in_trouble_once_more_than_before() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a path");
        let trouble = |times| Trouble { times, again: Instant::now(), marked: true, needed: None };
        let mut noted = Noted::default();
        noted.covers([(path("a/known"), trouble(3)), (path("a/settled"), trouble(9))].into_iter());
        assert_eq!((noted.times(&path("a/known")), noted.times(&path("a/new"))), (4, 1));
        // Among the troubles is what the cut itself noted.
        noted.covers([(path("a/known"), trouble(4)), (path("a/new"), trouble(1))].into_iter());
        assert_eq!((noted.times(&path("a/known")), noted.times(&path("a/new"))), (4, 1));
        assert_eq!(noted.times(&path("a/settled")), 10, "only its receipt told");
    }

    /// A cut whose link breaks before its seal concluded nothing.
    #[test]
    fn what_a_broken_cut_took_for_settled_is_in_trouble_as_before() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a path");
        let trouble =
            |times, needed| Trouble { times, again: Instant::now(), marked: true, needed };
        let mut noted = Noted::default();
        noted.covers(
            [(path("large"), trouble(5, Some(7))), (path("new"), trouble(2, None))].into_iter(),
        );
        let times = noted.times(&path("new"));
        let mut troubled = BTreeMap::from([(path("new"), trouble(times, None))]);
        noted.give_back(&mut troubled);
        let large = &troubled[&path("large")];
        assert_eq!((large.times, large.needed), (5, Some(7)));
        assert_eq!(troubled[&path("new")].times, 3, "that is known by this cut");
    }
}
