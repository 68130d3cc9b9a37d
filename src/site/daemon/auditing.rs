//! What a daemon puts on its site's record, and what it keeps of the other's.
//!
//! Guarantees: what the machine of a role wants on record is durable before the effects that follow it,
//! unless the disk takes nothing: that is said, and the record is written with the next. Where the record ends
//! goes to the other site with each word; where the other's ends is kept, and one that was cut short or
//! written anew is said and put on record here.

use farshore_core::audit::{AuditEntry, AuditHead};
use farshore_core::role::{AuditEvent, Input, Say};

use super::*;
use crate::site::audit::{Heard, show_head};

impl Daemon {
    pub(super) fn audit_role(&self, role: &ShareRole, event: &AuditEvent) {
        let text = event.to_string();
        self.say_of(&role.share, Level::Info, "audit", format!("{}: {text}", event.kind()));
        self.record(&role.share, event.kind(), text);
    }

    /// Puts something on the site's record, durably. A disk that takes nothing holds up no role: a gate
    /// has to close whatever the record says.
    pub(super) fn record(&self, share: &str, kind: &str, text: String) {
        let entry = AuditEntry {
            time_unix_ms: now_ms(),
            site: self.config().site.name,
            share: share.to_owned(),
            kind: kind.to_owned(),
            text,
        };
        let written = self.audit().0.append(entry);
        match written {
            // Told to the other site with the next word.
            Ok(head) => self.roles.values().for_each(|role| role.input(Input::Audit(head))),
            Err(e) => {
                let text = format!("its record cannot be written: {e}; it is tried with the next");
                self.say_of(share, Level::Error, "audit", text);
            }
        }
    }

    /// Where this site's record ends.
    pub(super) fn audit_head(&self) -> AuditHead {
        self.audit().0.head()
    }

    fn audit(&self) -> std::sync::MutexGuard<'_, (AuditLog, PeerHead)> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps where the other site's record ends, and sees that it only grows.
    pub(super) fn keep_peer_head(&self, share: &str, said: &Say) {
        let word = (said.beat.life, said.beat.count);
        let heard = self.audit().1.heard(share, word, said.audit, now_ms());
        let text = match heard {
            Ok(Heard::Same | Heard::Grew) => return,
            Ok(Heard::Broken { had }) => format!(
                "the other site's record was cut short or written anew: it ended at {}, now at {}",
                show_head(&had),
                show_head(&said.audit)
            ),
            Err(e) => format!("where the other site's record ends cannot be kept: {e}"),
        };
        self.say(Level::Error, "audit", text.clone());
        self.record("", "peer-audit", text);
    }
}
