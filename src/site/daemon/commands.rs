//! What the daemon does when it is asked over its control socket.
//!
//! Guarantees: what the board knows is answered without asking anybody else; what needs a cut or a pass
//! waits for it, and says so when that takes too long.

use super::receiving::Standby;
use super::sending::Outgoing;
use super::*;
use crate::rehearse;

impl Daemon {
    fn sender(&self, given: Option<&str>) -> Result<Arc<Outgoing>, Failure> {
        let names: Vec<&str> = self.slots.keys().map(String::as_str).collect();
        let here = |name: &&str| self.outgoing(name).is_some();
        // One that is named is that one; else those that are sent are chosen from.
        let sent: Vec<&str> = names.iter().copied().filter(here).collect();
        let name = control::choose_share(if given.is_some() { &names } else { &sent }, given)?;
        self.outgoing(name).ok_or_else(|| not_here(name, "sent from here"))
    }

    fn receiver(&self, given: Option<&str>) -> Result<Arc<Standby>, Failure> {
        let names: Vec<&str> = self.slots.keys().map(String::as_str).collect();
        let here = |name: &&str| self.standby(name).is_some();
        let received: Vec<&str> = names.iter().copied().filter(here).collect();
        let name = control::choose_share(if given.is_some() { &names } else { &received }, given)?;
        self.standby(name).ok_or_else(|| not_here(name, "received here"))
    }
}

fn not_here(share: &str, what: &str) -> Failure {
    Failure {
        exit: Exit::Usage,
        message: format!("share '{share}': it is not {what}"),
        hint: Some("ask the daemon of the other site".into()),
    }
}

/// The labelled points of a share that is received.
fn marks(receiver: &Receiver) -> Result<Value, Failure> {
    let points = receiver.catalog().reader().and_then(|reader| reader.points());
    let points = points.map_err(|e| Failure::new(Exit::Refused, &e))?;
    let marks = points.iter().flat_map(|kept| {
        kept.marks.iter().map(|mark| {
            let mut object = shown(&kept.point);
            object["label"] = mark.label.clone().into();
            object
        })
    });
    Ok(json!({ "marks": marks.collect::<Vec<_>>() }))
}

/// An account as it is shown, back as a path.
fn account(shown: &str) -> Result<RelPath, Failure> {
    farshore_core::path::unescape(shown).and_then(|bytes| RelPath::new(bytes).ok()).ok_or_else(
        || Failure {
            exit: Exit::Usage,
            message: format!("account '{shown}': no path below a share"),
            hint: None,
        },
    )
}

fn shown(point: &farshore_core::recovery_point::RecoveryPoint) -> Value {
    json!({
        "sequence": point.sequence,
        "time_unix_ms": point.time_unix_ms,
        "time": crate::report::utc(point.time_unix_ms),
        "root": point.root.to_string(),
        "entries": point.entries,
        "bytes": point.bytes,
        "exceptions": point.exceptions,
    })
}

impl Commands for Daemon {
    fn run(&self, request: Request) -> Result<Value, Failure> {
        let request = match control::from_board(&self.board, request) {
            Ok(answer) => return answer,
            Err(request) => request,
        };
        match request {
            Request::BrakeApprove { share, account: only, id } => {
                let only = only.as_deref().map(account).transpose()?;
                let outgoing = self.sender(share.as_deref())?;
                let sender = &outgoing.sender;
                sender.is_still(only.as_ref(), id.as_deref())?;
                sender.approve(only.as_ref())?;
                Ok(json!({}))
            }
            Request::BrakeReject { share, account: only, id } => {
                let only = only.as_deref().map(account).transpose()?;
                let outgoing = self.sender(share.as_deref())?;
                let sender = &outgoing.sender;
                sender.is_still(only.as_ref(), id.as_deref())?;
                sender.reject(only.as_ref())?;
                Ok(json!({}))
            }
            Request::Mark { share, label } => {
                let outgoing = self.sender(share.as_deref())?;
                let point = outgoing.sender.cut_now(Some(label.clone()), POINT_PATIENCE)?;
                let mut object = shown(&point);
                object["label"] = label.into();
                Ok(object)
            }
            Request::Cut { share } => {
                let outgoing = self.sender(share.as_deref())?;
                Ok(shown(&outgoing.sender.cut_now(None, POINT_PATIENCE)?))
            }
            Request::Scrub { share, now: _ } => {
                let standby = self.receiver(share.as_deref())?;
                let pass = standby.scrubber.now(SCRUB_PATIENCE, &standby.over)?;
                serde_json::to_value(pass).map_err(|e| Failure::new(Exit::Internal, &e))
            }
            Request::Rehearse { share, at, id } => {
                let standby = self.receiver(share.as_deref())?;
                let made = rehearse::making::make(&standby.receiver, &standby.over, &at, &id)?;
                serde_json::to_value(made).map_err(|e| Failure::new(Exit::Internal, &e))
            }
            Request::Marks { share } => marks(&self.receiver(share.as_deref())?.receiver),
            Request::Reload {} => Ok(json!({ "changes": self.reload()? })),
            Request::Stop {} => {
                self.words.send(Word::Stop("a request")).unwrap_or(());
                Ok(json!({}))
            }
            other => Err(Failure {
                exit: Exit::Usage,
                message: format!("{other:?}: this daemon does not do that"),
                hint: None,
            }),
        }
    }
}
