//! Peers that were not let in, in the log.
//!
//! Guarantees: a peer that knocks without end cannot fill the log: after the first few lines one comes
//! every few seconds, and says how many there were. Nothing of it survives the server.

use std::time::{Duration, Instant};

use farshore_transport::{KeyId, Refusal, RefusalCode};

/// Lines that may come at once.
const BURST: u32 = 10;
/// Time after which one more may.
const EVERY: Duration = Duration::from_secs(6);

/// Makes lines of refusals, and leaves most out when there are many.
pub(crate) struct RefusalLog {
    own_key: KeyId,
    /// At a site that stands keys are paired, not listed.
    is_site: bool,
    left: u32,
    since: Instant,
    unsaid: u64,
}

impl RefusalLog {
    pub(crate) fn new(own_key: KeyId, now: Instant) -> Self {
        Self { own_key, is_site: false, left: BURST, since: now, unsaid: 0 }
    }

    /// The same, for a site.
    pub(crate) fn at_site(own_key: KeyId, now: Instant) -> Self {
        Self { is_site: true, ..Self::new(own_key, now) }
    }

    /// The line for a refusal at `now`, if one is to be written.
    pub(crate) fn line(&mut self, refusal: &Refusal, now: Instant) -> Option<String> {
        self.unsaid = self.unsaid.saturating_add(refusal.suppressed);
        while self.left < BURST && now.saturating_duration_since(self.since) >= EVERY {
            self.left += 1;
            self.since += EVERY;
        }
        if self.left == 0 {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        if self.left == BURST {
            self.since = now;
        }
        self.left -= 1;
        let advice = match refusal.code {
            RefusalCode::UnlistedKey { .. } if self.is_site => {
                "; if it is the other site's or a node's: farshore pair --trust that key --as its name"
                    .to_owned()
            }
            RefusalCode::RefusedOurKey if self.is_site => {
                format!("; there: farshore pair --trust {} --as this site's name", self.own_key)
            }
            RefusalCode::UnlistedKey { .. } => {
                "; to let it in, add --allow with that key".to_owned()
            }
            RefusalCode::RefusedOurKey => format!("; its --peer must be {}", self.own_key),
            _ => String::new(),
        };
        let more = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            n => format!(" ({n} more refused since the line before)"),
        };
        Some(format!("{}: refused: {}{advice}{more}", refusal.remote, refusal.code))
    }
}

#[cfg(test)]
mod tests {
    use farshore_transport::SiteKey;

    use super::*;

    #[test]
    fn many_refusals_are_a_few_lines_that_count_the_rest() {
        let key = SiteKey::generate().expect("key").key_id();
        let start = Instant::now();
        let mut log = RefusalLog::new(key, start);
        let remote = "192.0.2.1:9".parse().expect("an address");
        let refusal = |code| Refusal { remote, code, suppressed: 0 };
        let unlisted = refusal(RefusalCode::UnlistedKey { found: key });
        let lines: Vec<_> = (0..1_000).filter_map(|_| log.line(&unlisted, start)).collect();
        assert_eq!(lines.len(), 10);
        assert_eq!(
            lines[0],
            format!(
                "192.0.2.1:9: refused: key {key} is not allowed here; to let it in, add --allow with \
                 that key"
            )
        );
        let suppressed = Refusal { suppressed: 5, ..refusal(RefusalCode::RefusedOurKey) };
        let later = log.line(&suppressed, start + EVERY).expect("one more");
        assert!(
            later.ends_with(&format!(
                "its --peer must be {key} (995 more refused since the line before)"
            )),
            "{later}"
        );
        let mut site = RefusalLog::at_site(key, start);
        for code in [RefusalCode::UnlistedKey { found: key }, RefusalCode::RefusedOurKey] {
            let line = site.line(&refusal(code), start).expect("the first ones");
            assert!(line.contains("farshore pair --trust") && !line.contains("--allow"), "{line}");
        }
        assert_eq!(log.line(&unlisted, start + EVERY), None);
        let quiet = start + EVERY * 100;
        assert_eq!((0..1_000).filter_map(|_| log.line(&unlisted, quiet)).count(), 10);
    }
}
