//! What the daemon does when it is asked over its control socket.
//!
//! Guarantees: what the board knows is answered without asking anybody else; what needs a cut or a pass
//! waits for it, and says so when that takes too long.

use super::*;
use crate::site::sender::Decided;

impl Daemon {
    fn sender(&self, given: Option<&str>) -> Result<&Outgoing, Failure> {
        let names: Vec<&str> = self.senders.keys().map(String::as_str).collect();
        let name = control::choose_share(&names, given)?;
        self.senders
            .get(name)
            .map(|outgoing| &**outgoing)
            .ok_or_else(|| not_here(name, "sent from here"))
    }
}

fn not_here(share: &str, what: &str) -> Failure {
    Failure {
        exit: Exit::Usage,
        message: format!("share '{share}': it is not {what}"),
        hint: Some("ask the daemon of the other site".into()),
    }
}

/// What was decided, for people and for tools.
fn told(decided: &[Decided], what: &str) -> Value {
    let holds = decided
        .iter()
        .map(|one| json!({ "id": one.id, "account": one.account, "counts": one.counts }));
    let text = match decided {
        [] => format!("nothing is left to be {what}: it was already"),
        all => all.iter().map(|one| one.text(what)).collect::<Vec<_>>().join("\n"),
    };
    json!({ what: holds.collect::<Vec<_>>(), "text": text })
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
                let sender = &self.sender(share.as_deref())?.sender;
                let decided = sender.approve(only.as_ref(), id.as_deref())?;
                Ok(told(&decided, "approved"))
            }
            Request::BrakeReject { share, account: only, id } => {
                let only = only.as_deref().map(account).transpose()?;
                let sender = &self.sender(share.as_deref())?.sender;
                let decided = sender.reject(only.as_ref(), id.as_deref())?;
                Ok(told(&decided, "rejected"))
            }
            Request::Mark { share, label } => {
                let outgoing = self.sender(share.as_deref())?;
                if !farshore_engine::catalog::is_label(&label) {
                    return Err(Failure {
                        exit: Exit::Usage,
                        message: "a label is 1 to 256 bytes without control characters".into(),
                        hint: None,
                    });
                }
                let point = outgoing.sender.cut_now(Some(label.clone()), POINT_PATIENCE)?;
                let text = format!("recovery point {} is marked '{label}'", point.sequence);
                let record = Record::new(Level::Info, "mark", text);
                self.log.say(&record.share(outgoing.sender.share()));
                let mut object = shown(&point);
                object["label"] = label.into();
                Ok(object)
            }
            Request::Cut { share } => {
                let outgoing = self.sender(share.as_deref())?;
                Ok(shown(&outgoing.sender.cut_now(None, POINT_PATIENCE)?))
            }
            Request::Scrub { share, now: _ } => {
                let names: Vec<&str> = self.scrubbers.keys().map(String::as_str).collect();
                let name = control::choose_share(&names, share.as_deref())?;
                let pass = self.scrubbers.get(name).map(|s| s.now(SCRUB_PATIENCE));
                let pass = pass.ok_or_else(|| not_here(name, "received"))??;
                serde_json::to_value(pass).map_err(|e| Failure::new(Exit::Internal, &e))
            }
            Request::Marks { share } => {
                let names: Vec<&str> = self.receivers.keys().map(String::as_str).collect();
                let name = control::choose_share(&names, share.as_deref())?;
                let receiver = self.receivers.get(name);
                marks(receiver.ok_or_else(|| not_here(name, "received"))?)
            }
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
