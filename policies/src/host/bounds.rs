//! How much a component would be put together from, told before it is compiled.
//!
//! Guarantees: what compiling and instantiating take besides code is bounded. Components may hold
//! components and instantiate each of them several times, so a few hundred bytes can ask for millions
//! of instances, and the compiler lays them all out. Refuses: more than [`INSTANCES_MAX`] by an
//! estimate that is never too low. No code is read. Nothing here survives a crash.

use wasmparser::{ComponentInstance, Parser, Payload};

/// Instances that a component is put together from, at most; the compiler takes some 350 bytes for each.
/// Compiled languages have some ten, an interpreter with its shims is counted as some thousands.
pub(super) const INSTANCES_MAX: u64 = 100_000;

/// At least as many instances as the component `bytes` makes of itself, or of what it holds, whichever
/// is more.
///
/// Every component that is instantiated ended before that, so each counts as much as the largest one
/// that did.
///
/// # Errors
/// What is wrong with the bytes.
pub(super) fn instances(bytes: &[u8]) -> Result<u64, wasmparser::BinaryReaderError> {
    // Of each component and module that is open, the outermost first.
    let mut open: Vec<u64> = Vec::new();
    let mut largest = 1u64;
    for payload in Parser::new(0).parse_all(bytes) {
        let more = match payload? {
            Payload::Version { .. } => {
                open.push(1);
                0
            }
            Payload::InstanceSection(section) => u64::from(section.count()),
            Payload::ComponentInstanceSection(section) => {
                let mut more = 0u64;
                for instance in section {
                    more = more.saturating_add(match instance? {
                        ComponentInstance::Instantiate { .. } => largest,
                        ComponentInstance::FromExports(_) => 1,
                    });
                }
                more
            }
            Payload::End(_) => {
                largest = largest.max(open.pop().unwrap_or_default());
                0
            }
            _ => 0,
        };
        if let Some(innermost) = open.last_mut() {
            *innermost = innermost.saturating_add(more);
            // What is counted from here on would only make it more.
            if *innermost > INSTANCES_MAX {
                return Ok(*innermost);
            }
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Vec<u8> {
        let mut inner = "(component)".to_owned();
        for _ in 0..levels {
            let named = inner.replacen("(component", "(component $c", 1);
            let instances = "(instance (instantiate $c))".repeat(4);
            inner = format!("(component {named} {instances})");
        }
        wat::parse_str(&inner).expect("a component")
    }

    #[test]
    fn a_component_that_multiplies_itself_is_counted_without_being_laid_out() {
        assert_eq!(instances(&nested(0)).expect("valid"), 1);
        assert!(instances(&nested(3)).expect("valid") >= 64);
        assert!(instances(&nested(3)).expect("valid") < 1_000);
        for levels in [9, 12, 30] {
            assert!(instances(&nested(levels)).expect("valid") > INSTANCES_MAX, "{levels}");
        }
    }

    #[test]
    fn what_languages_make_is_far_below() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/policies");
        for entry in std::fs::read_dir(folder).expect("the fixtures") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "wasm") {
                let bytes = std::fs::read(&path).expect("a fixture");
                let found = instances(&bytes).expect("valid");
                assert!(found < INSTANCES_MAX / 10, "{}: {found}", path.display());
            }
        }
    }
}
