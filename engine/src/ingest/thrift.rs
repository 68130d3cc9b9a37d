//! When the search for old blocks is not worth its processor time.
//!
//! Where the line takes bytes faster than they are searched, a search that finds less than half of what it looks at costs
//! more than the bytes it spares: an object file of another compiler has a quarter of its bytes somewhere in the
//! former one. Then bytes go out unsearched, but for a section once in a while, so that a file that is worth it is
//! found out. On a line that binds, everything is searched: there bytes are what counts.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes in which less than half was found, before any go out unsearched.
const TRIED: u64 = 1 << 20;
/// Bytes that go out unsearched behind a section in which less than half was found.
const SPARED: u64 = 8 << 20;

/// What the searches of a session have brought, those of all its workers.
#[derive(Debug, Default)]
pub(super) struct Thrift(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes searched since half of a section was found.
    in_vain: u64,
    /// Bytes that still go out unsearched.
    left: u64,
}

impl Thrift {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next section is not to be searched, on a line of which is known whether it takes bytes faster than
    /// they can be searched. Its bytes count among those that go out unsearched.
    pub(super) fn skips(&self, len: u64, line_is_fast: bool) -> bool {
        let mut state = self.state();
        let skips = line_is_fast && state.left > 0;
        state.left = state.left.saturating_sub(len);
        skips
    }

    /// A section was searched, and so much of it found.
    pub(super) fn searched(&self, len: u64, found: u64) {
        let mut state = self.state();
        if found >= len / 2 {
            *state = State::default();
            return;
        }
        state.in_vain = state.in_vain.saturating_add(len);
        if state.in_vain >= TRIED {
            state.left = SPARED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: u64 = 512 << 10;

    /// How many of so many sections are searched, when so many hundredths are found in each.
    fn searched(thrift: &Thrift, line_is_fast: bool, sections: u64, per_cent: u64) -> u64 {
        let mut searched = 0;
        for _ in 0..sections {
            if !thrift.skips(SECTION, line_is_fast) {
                searched += 1;
                thrift.searched(SECTION, SECTION * per_cent / 100);
            }
        }
        searched
    }

    #[test]
    fn what_brings_little_is_searched_once_in_a_while_on_a_fast_line() {
        let thrift = Thrift::default();
        assert_eq!(searched(&thrift, true, 100, 60), 100);
        // Two in vain, and then one of seventeen.
        assert_eq!(searched(&thrift, true, 2 + 17 * 5, 25), 2 + 5);
    }

    #[test]
    fn what_is_worth_it_is_found_out() {
        let thrift = Thrift::default();
        searched(&thrift, true, 50, 0);
        // At most sixteen go by before the one that tells.
        assert!(searched(&thrift, true, 100, 90) >= 100 - 16);
        assert_eq!(searched(&thrift, true, 2, 0), 2, "one in vain says nothing yet");
    }

    #[test]
    fn on_a_line_that_binds_everything_is_searched() {
        let thrift = Thrift::default();
        assert_eq!(searched(&thrift, false, 100, 0), 100);
        searched(&thrift, true, 20, 0);
        assert_eq!(searched(&thrift, false, 100, 0), 100);
    }
}
