//! What is worth keeping of a role, in words: for the audit chain and whoever reads it years later.
//!
//! Guarantees: a kind is one word and stays what it is; the text names the epoch and the turn it was
//! said in, so that records of both sites can be laid beside each other.

use std::fmt;

use super::{AuditEvent, Command, Phase, Point, Stamp, Strand};

impl AuditEvent {
    /// What sort of event it is, in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Commanded { .. } => "command",
            Self::Changing { .. } => "role",
            Self::Declined { .. } => "declined",
            Self::GaveUp { .. } => "gave-up",
            Self::GateOpened { .. } | Self::GateClosed { .. } => "gate",
            Self::HookDone { .. } => "hook",
            Self::MarkerBehind { .. } => "marker",
        }
    }
}

impl fmt::Display for AuditEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commanded { command, stamp } => {
                write!(f, "{}, in {stamp}", command.name())?;
                match command {
                    Command::BeginReconcile { plan }
                    | Command::FinishReconcile { plan }
                    | Command::AbandonReconcile { plan } => {
                        write!(f, ", plan ")?;
                        crate::recipe::hex(&plan.0, f)
                    }
                    _ => Ok(()),
                }
            }
            Self::Changing { from, to, stamp } => {
                write!(f, "{} -> {}, {stamp}", from.name(), to.name())?;
                detail(f, to)
            }
            Self::Declined { epoch, grant, have } => {
                write!(f, "epoch {} was handed over with {grant}, here is ", epoch.0)?;
                match have {
                    Some(have) => write!(f, "{have}"),
                    None => f.write_str("no recovery point"),
                }
            }
            Self::GaveUp { stamp } => {
                write!(f, "takeover from {stamp}: the peer speaks, in a higher epoch")
            }
            Self::GateOpened { stamp } => write!(f, "open, {stamp}"),
            Self::GateClosed { stamp, why } => write!(f, "closed, {stamp}: {why}"),
            Self::HookDone { hook, ok } => {
                let name = match hook {
                    super::Hook::Start => "start",
                    super::Hook::Stop => "stop",
                };
                write!(f, "{name} {}", if *ok { "done" } else { "failed" })
            }
            Self::MarkerBehind { due } => {
                write!(f, "the tree's marker is behind {due}: the tree was put back, or is another")
            }
        }
    }
}

fn detail(f: &mut fmt::Formatter<'_>, to: &Phase) -> fmt::Result {
    match to {
        Phase::Handed { point } | Phase::Opening { point } => write!(f, ", {point}"),
        Phase::Stranded { acted, why } => {
            let why = match why {
                Strand::Overtaken => "the peer is in a higher epoch",
                Strand::MarkerAhead => {
                    "the record is an old copy: the tree's marker is ahead of it"
                }
                Strand::StateLost => "the record is lost",
                Strand::PeerAhead => "the record is an old copy: the peer remembers more",
            };
            write!(f, ", acted last in epoch {}: {why}", acted.0)
        }
        Phase::Reconciling { plan, .. } => {
            write!(f, ", plan ")?;
            crate::recipe::hex(&plan.0, f)
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} turn {}", self.epoch.0, self.turn)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "point {} {}", self.sequence, self.root)
    }
}
