//! Which entries travel: the seam between the engine and the policies.
//!
//! The engine asks a [`Policy`] once for every candidate of a scan, in batches, and applies the
//! verdicts; a policy never deletes: an entry that turns excluded is detached, and stays at the
//! target as it was.

use std::fmt;
use std::ops::Deref;

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::entry::{EntryKind, Timestamp};
use crate::path::RelPath;

/// What a policy sees of an entry: facts that both sites know, nothing of one machine alone.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Path below the share's root.
    pub path: &'a RelPath,
    /// Kind; a further name of an inode shows as a file.
    pub kind: EntryKind,
    /// Length in bytes; 0 for what has no content.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// The answer for one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It travels.
    Replicate,
    /// It stays; below an excluded directory nothing is asked.
    Exclude,
    /// Not now: it is still being written. Asked again at the next run.
    Defer,
}

/// An answer and the rule that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// Index into [`Policy::rules`]; `None` when no rule matched.
    pub rule: Option<u32>,
    /// There is no answer: the policy failed at this candidate, see [`Policy::take_faults`]. The
    /// action is to replicate then, and nothing may be concluded gone by it.
    pub is_fault: bool,
}

impl Verdict {
    /// Replicate, by no rule.
    pub const REPLICATE: Self = Self { action: Action::Replicate, rule: None, is_fault: false };
    /// Not now, by no rule.
    pub const DEFER: Self = Self { action: Action::Defer, rule: None, is_fault: false };
    /// The policy failed.
    pub const FAULT: Self = Self { action: Action::Replicate, rule: None, is_fault: true };

    /// `action`, by the rule of that index.
    #[must_use]
    pub const fn by_rule(action: Action, rule: u32) -> Self {
        Self { action, rule: Some(rule), is_fault: false }
    }
}

/// A policy that trapped, ran over a limit or gave an answer that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The candidate it was asked about.
    pub path: RelPath,
    /// What happened, with the policy's name.
    pub text: String,
}

/// What went wrong in a policy since it was last asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// How many candidates had no answer.
    pub count: u64,
    /// The first of them.
    pub first: Vec<Fault>,
    /// Those of policies whose faults are to hold the cut instead of publishing it.
    pub hold: Option<HeldFaults>,
}

/// Faults of policies that the site wants to hold a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFaults {
    /// How many candidates had no answer of them.
    pub count: u64,
    /// The first.
    pub first: Fault,
}

/// Decides which entries travel. Must depend on the candidate alone, not on the batch it came in.
pub trait Policy: Send + Sync {
    /// One verdict for each candidate, in order.
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict>;
    /// The rules as people wrote them, for reports.
    fn rules(&self) -> Vec<String>;
    /// Whether every verdict is [`Verdict::REPLICATE`], so that the engine need not ask.
    fn is_trivial(&self) -> bool {
        false
    }
    /// Whether the verdict on an entry of this name may be another one than [`Verdict::REPLICATE`], or be remembered:
    /// the engine need not ask about one for which it may not. `at_root` is whether it lies in the share's root.
    fn may_concern(&self, _at_root: bool, _name: &[u8]) -> bool {
        true
    }
    /// What the answers depend on, besides the candidate and the time of the cut.
    fn identity(&self) -> PolicySet {
        let mut rules = blake3::Hasher::new();
        for rule in self.rules() {
            rules.update(&(rule.len() as u64).to_le_bytes());
            rules.update(rule.as_bytes());
        }
        PolicySet { rules: *rules.finalize().as_bytes(), policies: Vec::new() }
    }
    /// Takes what went wrong since the last call.
    fn take_faults(&self) -> Faults {
        Faults::default()
    }
}

/// BLAKE3 of the bytes of a policy's component.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub [u8; 32]);

impl PolicyId {
    /// The id of a component.
    #[must_use]
    pub fn of(component: &[u8]) -> Self {
        Self(*blake3::hash(component).as_bytes())
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyId({self})")
    }
}

/// One component in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyIdentity {
    /// The operator's name for it.
    pub name: String,
    /// Its bytes.
    pub id: PolicyId,
    /// BLAKE3 of its settings.
    pub settings: [u8; 32],
    /// BLAKE3 of its limits, of what a fault of it means, and of the version of the engine it runs on.
    pub limits: [u8; 32],
}

/// All that the answers of the policies in force depend on, besides what they are asked about and the
/// time of the cut: equal sets decide alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicySet {
    /// BLAKE3 of the built-in rules in order.
    pub rules: [u8; 32],
    /// The components in the order they are asked.
    pub policies: Vec<PolicyIdentity>,
}

/// Components in force at once, at most.
pub const POLICIES_MAX: usize = 16;
/// Bytes of a policy's name, at most.
pub const POLICY_NAME_MAX: usize = 64;

/// Whether it may be a policy's name: lower-case letters, digits, `.`, `_` and `-`, a letter or digit first.
#[must_use]
pub fn is_policy_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let first = name.as_bytes().first().is_some_and(|&b| plain(b));
    first && name.len() <= POLICY_NAME_MAX && name.bytes().all(|b| plain(b) || b"._-".contains(&b))
}

impl PolicySet {
    /// BLAKE3 of the encoding.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut e = Encoder::default();
        self.encode(&mut e);
        *blake3::hash(&e.finish()).as_bytes()
    }

    /// In what the other set differs, for people; `None` when they are equal.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let names = |set: &Self| {
            let names: Vec<_> = set.policies.iter().map(|p| p.name.as_str()).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        if self.policies.len() != other.policies.len() {
            return Some(format!("policies [{}] against [{}]", names(self), names(other)));
        }
        for (ours, theirs) in self.policies.iter().zip(&other.policies) {
            if ours.name != theirs.name {
                return Some(format!("policies [{}] against [{}]", names(self), names(other)));
            }
            let what = match () {
                () if ours.id != theirs.id => format!("is {} against {}", ours.id, theirs.id),
                () if ours.settings != theirs.settings => "has other settings".to_owned(),
                () if ours.limits != theirs.limits => "has other limits".to_owned(),
                () => continue,
            };
            return Some(format!("policy {} {what}", ours.name));
        }
        (self.rules != other.rules).then(|| "other rules".to_owned())
    }

    /// Appends the encoding.
    pub fn encode(&self, e: &mut Encoder) {
        e.put_raw(&self.rules);
        e.put_u64(self.policies.len() as u64);
        for policy in &self.policies {
            e.put_bytes(policy.name.as_bytes());
            e.put_raw(&policy.id.0);
            e.put_raw(&policy.settings);
            e.put_raw(&policy.limits);
        }
    }

    /// Takes one off the front of `d`.
    ///
    /// # Errors
    /// [`DecodeError`], whatever the bytes are.
    pub fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let rules = d.take_array("policy rules")?;
        let count = d.take_len("policies", POLICIES_MAX)?;
        let mut policies = Vec::with_capacity(count);
        for _ in 0..count {
            let name = d.take_text("policy name", POLICY_NAME_MAX)?;
            if !is_policy_name(&name) {
                return Err(DecodeError::Invalid { what: "policy name", found: 0 });
            }
            policies.push(PolicyIdentity {
                name,
                id: PolicyId(d.take_array("policy id")?),
                settings: d.take_array("policy settings")?,
                limits: d.take_array("policy limits")?,
            });
        }
        Ok(Self { rules, policies })
    }
}

/// A policy of which some answers are put off; the others are as ever.
pub struct Deferring<P, F> {
    /// It.
    pub policy: P,
    /// Whether what it says of a path is put off.
    pub defers: F,
}

impl<P, F> Policy for Deferring<P, F>
where
    P: Deref<Target: Policy> + Send + Sync,
    F: Fn(&RelPath, &Verdict) -> bool + Send + Sync,
{
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let mut verdicts = self.policy.exclude(candidates);
        for (candidate, verdict) in candidates.iter().zip(&mut verdicts) {
            if (self.defers)(candidate.path, verdict) {
                *verdict = Verdict::DEFER;
            }
        }
        verdicts
    }

    fn rules(&self) -> Vec<String> {
        self.policy.rules()
    }

    fn identity(&self) -> PolicySet {
        self.policy.identity()
    }

    fn take_faults(&self) -> Faults {
        self.policy.take_faults()
    }
}

impl<P, F> fmt::Debug for Deferring<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferring")
    }
}

/// Replicates everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplicateAll;

impl Policy for ReplicateAll {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        vec![Verdict::REPLICATE; candidates.len()]
    }

    fn rules(&self) -> Vec<String> {
        Vec::new()
    }

    fn is_trivial(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_off_is_deferred_and_the_rest_is_as_the_policy_says() {
        let paths = ["a/now", "a/later"].map(|p| RelPath::new(p.as_bytes()).expect("a path"));
        let candidate = |path| Candidate {
            path,
            kind: EntryKind::File,
            size: 1,
            mtime: Timestamp { seconds: 0, nanos: 0 },
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        let candidates = paths.each_ref().map(candidate);
        let policy: &dyn Policy = &ReplicateAll;
        let defers = |path: &RelPath, _: &Verdict| *path == paths[1];
        let deferring = Deferring { policy, defers };
        assert_eq!(deferring.exclude(&candidates), [Verdict::REPLICATE, Verdict::DEFER]);
        assert_eq!(deferring.identity(), policy.identity());
        assert!(!deferring.is_trivial(), "it is to be asked");
    }
}
