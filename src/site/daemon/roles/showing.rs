//! How a role is shown: its phase and gate, why, what may be typed next, and the last point where no end shows it.

use farshore_core::role::CommandName;

use super::*;
use crate::site::board::ShareBoard;

impl Daemon {
    pub(super) fn show_no_role(&self, role: &ShareRole, why: &NoRole) {
        let closed = match why {
            NoRole::State(text) => {
                Closed::Failure(Failure { exit: Exit::Disk, message: text.clone(), hint: None })
            }
            NoRole::Root(text) => Closed::Gone(text.clone()),
            NoRole::Emptied => root::emptied(&role.share),
        };
        let config = self.config();
        let Some(share) = config.share(&role.share) else { return };
        let board = self.board.share(&shown_share(share, Want::Nothing));
        board.state(closed.state(), Some(closed.text()));
        if self.slot(&role.share).is_some_and(|slot| slot.cannot_open(&closed)) {
            self.say_of(&role.share, Level::Error, "role", closed.text().to_owned());
        }
    }

    pub(super) fn show_role(&self, role: &ShareRole) {
        let Some(view) = role.view() else { return };
        let config = self.config();
        let Some(share) = config.share(&role.share) else { return };
        let wanted = self.slot(&role.share).map_or(Want::Nothing, |slot| slot.wanted());
        let board = self.board.share(&shown_share(share, wanted));
        self.show_point(role, &view, share, &board);
        let gate = match view.gate {
            Gate::Open => None,
            Gate::Closed(why) => Some(why.to_string()),
        };
        let failed = view.failed_hook.map(|hook| {
            let name = match hook {
                Hook::Start => Which::Start.name(),
                Hook::Stop => Which::Stop.name(),
            };
            format!("hook '{name}' failed, see the log")
        });
        let declined = view.legal.contains(&CommandName::TakeBack);
        let declined = declined.then(|| "the other site declined what was handed over".to_owned());
        let text =
            failed.or(declined).or_else(|| role.waiting()).or_else(|| told(&view.record.phase));
        let said = view.peer.as_ref().map(|peer| &peer.said);
        if let Some(said) = said {
            self.keep_peer_head(&role.share, said);
        }
        let status = facts::RoleStatus {
            phase: view.record.phase.name().to_owned(),
            text,
            gate_open: gate.is_none(),
            gate_text: gate,
            next: typed(&view.legal),
            peer_phase: said.map(|said| said.phase.name().to_owned()),
            peer_epoch: said.map(|said| said.stamp.epoch.0),
        };
        board.roles(status, view.record.epoch.0);
    }

    /// A share without an end has its last point all the same: as the catalog has it, once. What an old copy has is not it.
    fn show_point(&self, role: &ShareRole, view: &RoleView, share: &Share, board: &ShareBoard) {
        let phase = &view.record.phase;
        let is_apart = matches!(phase, Phase::Alone | Phase::Split)
            || matches!(phase, Phase::Reconciling { .. } | Phase::Stranded { .. });
        if !is_apart || view.busy || view.record.forgot || role.shows_point.load(Relaxed) {
            return;
        }
        let config = self.config();
        let catalog = self.state.site_catalog_as_it_is(&site_catalog(share, &config));
        // Who has it open shows more; it is tried again with the next change.
        let Ok(Some(catalog)) = catalog else { return };
        if let Ok(Some(point)) = catalog.reader().and_then(|reader| reader.recovery_point()) {
            board.recovery_point(&point);
        }
        role.shows_point.store(true, Relaxed);
    }
}

/// The legal commands as they are typed: before a plan is carried out one is made, and one that is under way goes on.
pub(super) fn typed(legal: &[CommandName]) -> Vec<String> {
    let is_under_way = legal.contains(&CommandName::FinishReconcile);
    let apply = "farshore failback apply --plan FILE";
    let mut typed = Vec::new();
    for name in legal {
        match name {
            CommandName::FinishReconcile => {}
            CommandName::BeginReconcile => {
                if !is_under_way {
                    typed.push("farshore failback plan".to_owned());
                }
                typed.push(apply.to_owned());
            }
            CommandName::AbandonReconcile => {
                typed.extend([apply.to_owned(), format!("farshore {}", name.name())]);
            }
            name => typed.push(format!("farshore {}", name.name())),
        }
    }
    typed
}

/// What is to be said of a phase besides its name.
fn told(phase: &Phase) -> Option<String> {
    use farshore_core::role::Strand;
    Some(match phase {
        Phase::Stranded { why, .. } => match why {
            Strand::Overtaken => {
                "the other site was opened in a later epoch; nothing is sent or applied until a plan is".into()
            }
            Strand::MarkerAhead => "its state folder is an old copy".into(),
            Strand::StateLost => "its state was lost".into(),
            Strand::PeerAhead => "its state is an old copy: the other site knows more of it".into(),
        },
        Phase::Alone => "opened without the other site, which is to be reconciled".into(),
        Phase::Handed { .. } => "handed over; the other site has not taken it yet".into(),
        Phase::Split => "both sites say that they are active".into(),
        _ => return None,
    })
}
