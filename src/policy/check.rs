//! Whether a policy's answers depend on what it is asked alone.
//!
//! Asks the same of two instances, twice, in batches of 1, 7 and 256 and in another order, and compares.
//! Guarantees: what is found is named by its first path. A policy that passes may still be wrong at an
//! entry that was not asked about; one that fails would decide otherwise at the other site.

use std::sync::Arc;

use farshore_core::conflict::{Conflict, Contents};
use farshore_core::policy::{Candidate, Verdict};
use farshore_policies::{Configured, Resolution};

use super::cases::{Texts, action_name};
use super::facts::Facts;
use super::generate::{Generated, Numbers};
use crate::report::counted;

/// Entries a call of the host takes at most; as the engine asks.
const WHOLE: usize = 256;

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub passed: bool,
    /// What was found.
    pub detail: String,
}

impl Finding {
    /// What is as it should be.
    #[must_use]
    pub fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, passed: true, detail: detail.into() }
    }

    /// What is not.
    #[must_use]
    pub fn bad(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, passed: false, detail: detail.into() }
    }
}

/// Asks both the same of `entries` in several ways.
#[must_use]
pub fn exclusion(one: &Configured, other: &Configured, entries: &[Facts]) -> Finding {
    const NAME: &str = "same answers";
    let candidates: Vec<_> = entries.iter().map(Facts::candidate).collect();
    let first = ask(one, &candidates, WHOLE);
    if let Some(fault) = [one, other].iter().find_map(|p| p.take_faults().first.into_iter().next())
    {
        return Finding::bad("no faults", format!("{}: {}", fault.path, fault.text));
    }
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    Numbers::new(7).shuffle(&mut order);
    let shuffled: Vec<_> = order.iter().map(|index| candidates[*index]).collect();
    let ways: [(&str, &Configured, usize, bool); 6] = [
        ("asked again", one, WHOLE, false),
        ("in another instance", other, WHOLE, false),
        ("one at a time", other, 1, false),
        ("in batches of 7", one, 7, false),
        ("in another order", other, WHOLE, true),
        ("in another order, in batches of 7", one, 7, true),
    ];
    for (way, policy, batch, is_shuffled) in ways {
        let answers = if is_shuffled {
            let mut answers = vec![Verdict::REPLICATE; candidates.len()];
            let verdicts = ask(policy, &shuffled, batch);
            order.iter().zip(verdicts).for_each(|(index, verdict)| answers[*index] = verdict);
            answers
        } else {
            ask(policy, &candidates, batch)
        };
        if let Some(fault) = policy.take_faults().first.into_iter().next() {
            return Finding::bad("no faults", format!("{way}: {}: {}", fault.path, fault.text));
        }
        if let Some(index) = (0..first.len()).find(|index| first[*index] != answers[*index]) {
            let path = &entries[index].path;
            let (before, now) = (said(one, &first[index]), said(policy, &answers[index]));
            return Finding::bad(NAME, format!("{path}: {before} at first, {way} {now}"));
        }
    }
    let count = counted(entries.len() as u64, "entry", "entries");
    let ways = "twice, in two instances, in batches of 1, 7 and 256, in two orders";
    Finding::good(NAME, format!("{count} asked {ways}"))
}

fn ask(policy: &Configured, candidates: &[Candidate<'_>], batch: usize) -> Vec<Verdict> {
    candidates.chunks(batch).flat_map(|part| policy.exclude(part)).collect()
}

fn said(policy: &Configured, verdict: &Verdict) -> String {
    let rule =
        verdict.rule.and_then(|rule| policy.manifest().rules.get(usize::try_from(rule).ok()?));
    match rule {
        Some(rule) => format!("{} by '{rule}'", action_name(verdict.action)),
        None => action_name(verdict.action).to_owned(),
    }
}

/// Asks both the same about conflicts, forward and backward.
#[must_use]
pub fn resolution(
    one: &Configured,
    other: &Configured,
    conflicts: &[(Conflict, Texts)],
) -> Finding {
    let answer = |policy: &Configured, (conflict, texts): &(Conflict, Texts)| {
        let contents: Arc<dyn Contents> = Arc::new(texts.clone());
        policy.resolve(conflict, &contents, &|_| true)
    };
    let first: Vec<_> = conflicts.iter().map(|asked| answer(one, asked)).collect();
    for (asked, first) in conflicts.iter().zip(&first).rev() {
        let path = &asked.0.path;
        if let Resolution::Fault(why) = first {
            return Finding::bad("no faults", format!("{path}: {why}"));
        }
        if [one, other].iter().any(|policy| answer(policy, asked) != *first) {
            return Finding::bad(
                "same decisions",
                format!("{path}: another decision when asked again"),
            );
        }
    }
    let count = counted(conflicts.len() as u64, "conflict", "conflicts");
    Finding::good("same decisions", format!("{count} asked twice, in two instances"))
}

/// Conflicts as cases have them.
#[must_use]
pub fn with_texts(generated: Vec<Generated>) -> Vec<(Conflict, Texts)> {
    let texts =
        |[base, production, recovery]: [Option<Vec<u8>>; 3]| Texts { base, production, recovery };
    generated.into_iter().map(|(conflict, sides)| (conflict, texts(sides))).collect()
}
