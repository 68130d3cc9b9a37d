//! What a policy may use, by default and at most, and what its failure means for a cut.
//!
//! Guarantees: every bound of a sandboxed policy is named here, has a unit, a default and a range
//! that is checked before any code runs, and is part of the policy's identity, so that two sites
//! with other limits never take their answers for the same. Refuses: limits out of range. Nothing
//! here survives a crash.
//!
//! Memory, fuel and reads are counted, not timed: they end a policy at the same instruction on every
//! machine. The watchdog alone is a clock; it is an alarm, not a judgement.

use farshore_core::conflict::LITERAL_MAX;

/// Entries of one `exclude` call, at most; longer lists are split.
pub const BATCH_MAX: usize = 256;

/// Stack of a policy in bytes. One for all: it is the host's setting, not a policy's.
pub const STACK_BYTES: usize = 256 << 10;

/// Bytes a policy may hand over in one call besides literals: verdicts, reasons, lines of log.
pub const HANDOVER_BYTES: usize = 2 << 20;

/// Faults in a session after which a policy is off: every further path is a fault, unasked.
pub const FAULTS_MAX: u32 = 16;

/// Bytes of a decision's reason that are kept.
pub const REASON_MAX: usize = 1024;

/// Settings of a policy, at most.
pub const SETTINGS_MAX: usize = 256;
/// Bytes of a setting's key, at most.
pub const SETTING_KEY_MAX: usize = 64;
/// Bytes of all settings, at most.
pub const SETTINGS_BYTES_MAX: usize = 64 << 10;
/// Rules of a policy, at most.
pub const POLICY_RULES_MAX: usize = 1_024;
/// Bytes of a rule's name, at most.
pub const POLICY_RULE_MAX: usize = 256;

/// The version of the engine policies run on. What a step costs may change with it.
pub const ENGINE: &str = "wasmtime 48.0.8";

/// What a policy may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memories and tables together.
    pub memory_bytes: u64,
    /// Fuel of one `exclude` call; a unit is about one instruction.
    pub fuel_call: u64,
    /// Fuel an entry of an `exclude` call adds.
    pub fuel_entry: u64,
    /// Fuel of one `resolve` call.
    pub fuel_resolve: u64,
    /// Fuel of an instance's start and its `configure` call.
    pub fuel_configure: u64,
    /// Bytes of content `resolve` may read in one conflict.
    pub read_bytes: u64,
    /// Literal bytes of one merged file.
    pub literal_bytes: u64,
    /// Bytes of the component.
    pub component_bytes: u64,
    /// Lines of log a call; further ones are counted.
    pub log_lines: u32,
    /// Bytes of a line of log; the rest is cut off.
    pub log_line_bytes: u32,
    /// Milliseconds a call may take by the clock, host calls included.
    pub watchdog_millis: u64,
}

/// What a fault of a policy means for the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFault {
    /// The path is replicated, and the fault reported.
    #[default]
    Replicate,
    /// The cut is held.
    Hold,
}

/// A limit out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} of {found}: it must be from {least} to {most}")]
pub struct LimitError {
    /// Which.
    pub name: &'static str,
    /// What was given.
    pub found: u64,
    /// The least that is allowed.
    pub least: u64,
    /// The most that is allowed.
    pub most: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            fuel_call: 50_000,
            fuel_entry: 20_000,
            fuel_resolve: 200_000_000,
            fuel_configure: 50_000_000,
            read_bytes: 4 << 20,
            literal_bytes: LITERAL_MAX as u64,
            component_bytes: 8 << 20,
            log_lines: 64,
            log_line_bytes: 512,
            watchdog_millis: 2_000,
        }
    }
}

/// A name, what is set, and the range.
type Bound = (&'static str, u64, u64, u64);

impl Limits {
    /// Every limit: name, value, least, most.
    #[must_use]
    pub fn all(&self) -> [Bound; 11] {
        [
            ("memory-bytes", self.memory_bytes, 64 << 10, 1 << 30),
            ("fuel-call", self.fuel_call, 1_000, 1_000_000_000),
            ("fuel-entry", self.fuel_entry, 0, 10_000_000),
            ("fuel-resolve", self.fuel_resolve, 1_000, 10_000_000_000),
            ("fuel-configure", self.fuel_configure, 1_000, 10_000_000_000),
            ("read-bytes", self.read_bytes, 0, 1 << 30),
            ("literal-bytes", self.literal_bytes, 0, LITERAL_MAX as u64),
            ("component-bytes", self.component_bytes, 1, 32 << 20),
            ("log-lines", u64::from(self.log_lines), 0, 1_024),
            ("log-line-bytes", u64::from(self.log_line_bytes), 16, 4_096),
            ("watchdog-millis", self.watchdog_millis, 100, 600_000),
        ]
    }

    /// Whether every limit is in its range.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), LimitError> {
        match self
            .all()
            .into_iter()
            .find(|(_, found, least, most)| !(least..=most).contains(&found))
        {
            Some((name, found, least, most)) => Err(LimitError { name, found, least, most }),
            None => Ok(()),
        }
    }

    /// Fuel of an `exclude` call of `entries`.
    ///
    /// A single entry may use what a whole call may: an entry that passed in company passes alone,
    /// whatever the others cost, so that no verdict depends on the batch.
    #[must_use]
    pub fn fuel_of(&self, entries: usize) -> u64 {
        let entries = if entries == 1 { BATCH_MAX } else { entries };
        self.fuel_call.saturating_add(self.fuel_entry.saturating_mul(entries as u64))
    }

    /// BLAKE3 of all limits, the constants among them, of what a fault means and of the engine.
    #[must_use]
    pub fn digest(&self, on_fault: OnFault) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(ENGINE.as_bytes());
        let fixed = [BATCH_MAX, STACK_BYTES, HANDOVER_BYTES, FAULTS_MAX as usize];
        for value in fixed.map(|v| v as u64).into_iter().chain(self.all().map(|b| b.1)) {
            hasher.update(&value.to_le_bytes());
        }
        hasher.update(&[u8::from(on_fault == OnFault::Hold)]);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_default_in_its_range_and_both_ends_are_refused() {
        assert_eq!(Limits::default().check(), Ok(()));
        let wrong = Limits { memory_bytes: 1, ..Limits::default() };
        assert_eq!(
            wrong.check().expect_err("too little").to_string(),
            "memory-bytes of 1: it must be from 65536 to 1073741824"
        );
        let wrong = Limits { component_bytes: 33 << 20, ..Limits::default() };
        assert_eq!(wrong.check().expect_err("too much").name, "component-bytes");
    }

    #[test]
    fn an_entry_that_passes_in_a_batch_passes_alone() {
        let limits = Limits::default();
        for entries in 1..=BATCH_MAX {
            assert!(limits.fuel_of(entries) <= limits.fuel_of(1));
        }
        assert_eq!(limits.fuel_of(2), 90_000);
    }

    #[test]
    fn every_limit_is_part_of_the_identity() {
        let base = Limits::default();
        let with = |change: &dyn Fn(&mut Limits)| {
            let mut limits = base;
            change(&mut limits);
            limits.digest(OnFault::Replicate)
        };
        let mut digests = vec![base.digest(OnFault::Replicate), base.digest(OnFault::Hold)];
        let changes: [&dyn Fn(&mut Limits); 11] = [
            &|l| l.memory_bytes += 1,
            &|l| l.fuel_call += 1,
            &|l| l.fuel_entry += 1,
            &|l| l.fuel_resolve += 1,
            &|l| l.fuel_configure += 1,
            &|l| l.read_bytes += 1,
            &|l| l.literal_bytes -= 1,
            &|l| l.component_bytes += 1,
            &|l| l.log_lines += 1,
            &|l| l.log_line_bytes += 1,
            &|l| l.watchdog_millis += 1,
        ];
        digests.extend(changes.map(with));
        let unequal: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(unequal.len(), digests.len());
    }

    #[test]
    fn the_engine_named_is_the_one_locked() {
        let lock = include_str!("../../Cargo.lock");
        let (name, version) = ENGINE.split_once(' ').expect("two words");
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")));
    }
}
