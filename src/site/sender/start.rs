//! How a sending end begins, and what it leaves for the next one to begin with.
//!
//! Guarantees: an end goes on without a look at everything only when the kernel watched since the one before, the
//! last look at everything was complete with every change since announced, and the same policies decide. What
//! was known to be otherwise than at the standby, and waits for no event, is on record for the next one before the
//! cut that left it is: what could not be replicated, what a policy deferred, what is held or waits for a large
//! file or its turn, and what the ends were found to differ in. How it began is logged and shown.
//!
//! After a crash of this end the next one looks at these directories first, and at what the journal has.

use farshore_engine::capture::Gap;

use super::*;

/// Directories owed one by one; more are everything.
const OWED_MAX: usize = 50_000;

impl Sender {
    /// Begins from what the end before left.
    pub(super) fn go_on_from(&self, resumed: &Resumed) -> Result<(), Failure> {
        let failed = |e: CatalogError| Failure::new(Exit::Refused, &e);
        let reader = self.catalog.reader().map_err(failed)?;
        let now = now_ms();
        let mut inner = self.lock();
        if !inner.seeding && resumed.gap == Gap::None {
            let policies = reader.policies().map_err(failed)?;
            if policies != Some(self.policy().identity()) {
                self.dirty.mark_whole("the policies are others", now);
            }
            match resumed.looked {
                Some((began_ms, took_ms)) => {
                    let took = Duration::from_millis(took_ms);
                    inner.covered = true;
                    // All of what was left out is owed, so the first cut looks at it.
                    inner.lags.values_mut().for_each(|lag| lag.is_unknown = false);
                    inner.last_look = Some((began_ms, took));
                    let ago = u64::try_from(now.saturating_sub(began_ms)).unwrap_or(0);
                    let left = self.config.scan.saturating_sub(Duration::from_millis(ago));
                    inner.next_look = Instant::now() + left;
                }
                None => self.dirty.mark_whole("no look at everything was complete", now),
            }
        }
        let paths = resumed.directories;
        let text = match self.dirty.status().whole {
            _ if inner.seeding => "looks at everything: the first copy".to_owned(),
            Some((why, _)) => format!("looks at everything: {why}"),
            None => format!("resumes: {paths} journaled paths, no look at the whole tree"),
        };
        self.log.say(&Record::new(Level::Info, "start", &*text).share(&self.config.share));
        *self.start.lock().unwrap_or_else(PoisonError::into_inner) = text;
        Ok(())
    }

    /// The watch goes on when this end is dropped: the next process of the site reads what happens until then.
    pub fn go_on_watching(&self) {
        self.watcher.go_on();
    }

    /// Leaves on record what the next process is to look at, whatever it is told.
    pub(super) fn owe(&self, inner: &Inner) {
        let parent = |path: &RelPath| path.split().map_or_else(RelPath::root, |(parent, _)| parent);
        let troubled = inner.troubled.keys().map(|path| (parent(path), false));
        let deferred = inner.deferred.keys().map(|directory| (directory.clone(), false));
        let (parts, mut whole) = match &inner.differing {
            Some(Look::Parts(scope)) => (scope.parts(), None),
            Some(Look::Whole) => (&[][..], Some("the ends differed in much")),
            Some(Look::Nothing) | None => (&[][..], None),
        };
        let differing = parts.iter().map(|part| (part.directory.clone(), part.deep));
        let mut owed: BTreeMap<RelPath, bool> = troubled.chain(deferred).collect();
        let held = self.withheld();
        let held = held.accounts().iter().map(|account| (account.clone(), true));
        // What cuts left out: all of the account, or the directory of a file that waits by itself.
        let behind = inner.ahead.keys().chain(inner.lags.keys()).map(|account| {
            let is_account = account_of(account, self.config.account_depth) == *account;
            if is_account { (account.clone(), true) } else { (parent(account), false) }
        });
        let waiting = inner.ahead.values().flat_map(ahead::Waiting::parts);
        for (directory, deep) in differing.chain(held).chain(behind).chain(waiting) {
            *owed.entry(directory).or_default() |= deep;
        }
        if owed.len() > OWED_MAX {
            owed.clear();
            whole = Some("more was owed than is kept one by one");
        }
        self.dirty.owe(owed, whole);
    }
}
