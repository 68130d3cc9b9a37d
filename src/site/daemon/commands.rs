//! What the daemon does when it is asked over its control socket.
//!
//! Guarantees: what the board knows is answered without asking anybody else; what needs a cut or a pass
//! waits for it, and says so when that takes too long.

use super::*;

impl Daemon {
    /// The share that is meant, of those with this role here.
    fn place(&self, given: Option<&str>, role: Role) -> Result<&Place, Failure> {
        let with_role = self.places.iter().filter(|(_, place)| place.role() == role);
        let names: Vec<&str> = with_role.map(|(name, _)| name.as_str()).collect();
        let name = control::choose_share(&names, given)?;
        let what = if role == Role::Active { "sent from here" } else { "received" };
        let place = self.places.get(name).filter(|place| place.role() == role);
        place.ok_or_else(|| not_here(name, what))
    }

    /// The same, which is open.
    fn open_one(&self, given: Option<&str>, role: Role) -> Result<Arc<Opened>, Failure> {
        let place = self.place(given, role)?;
        place.opened().ok_or_else(|| Failure { exit: Exit::Held, message: place.why(), hint: None })
    }

    /// Does `work` with the sending end of a share.
    fn with_sender<T>(
        &self,
        given: Option<&str>,
        work: impl FnOnce(&Sender) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let opened = self.open_one(given, Role::Active)?;
        let outgoing = opened.sent().ok_or_else(|| not_here("", "sent from here"))?;
        work(&outgoing.sender)
    }

    /// Lets a share have another folder than before; whether it waited for that.
    fn approve_root(&self, given: Option<&str>) -> bool {
        let either = [Role::Active, Role::Standby].map(|role| self.place(given, role).ok());
        either.into_iter().flatten().any(Place::approve)
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
                if only.is_none() && id.is_none() && self.approve_root(share.as_deref()) {
                    return Ok(json!({}));
                }
                self.with_sender(share.as_deref(), |sender| {
                    sender.is_still(only.as_ref(), id.as_deref())?;
                    sender.approve(only.as_ref())
                })?;
                Ok(json!({}))
            }
            Request::BrakeReject { share, account: only, id } => {
                let only = only.as_deref().map(account).transpose()?;
                self.with_sender(share.as_deref(), |sender| {
                    sender.is_still(only.as_ref(), id.as_deref())?;
                    sender.reject(only.as_ref())
                })?;
                Ok(json!({}))
            }
            Request::Mark { share, label } => {
                let point = self.with_sender(share.as_deref(), |sender| {
                    sender.cut_now(Some(label.clone()), POINT_PATIENCE)
                })?;
                let mut object = shown(&point);
                object["label"] = label.into();
                Ok(object)
            }
            Request::Cut { share } => {
                let cut = |sender: &Sender| sender.cut_now(None, POINT_PATIENCE);
                Ok(shown(&self.with_sender(share.as_deref(), cut)?))
            }
            Request::Scrub { share, now: _ } => {
                let opened = self.open_one(share.as_deref(), Role::Standby)?;
                let pass = opened.received().map(|(_, scrubber)| scrubber.now(SCRUB_PATIENCE));
                let pass = pass.ok_or_else(|| not_here("", "received"))??;
                serde_json::to_value(pass).map_err(|e| Failure::new(Exit::Internal, &e))
            }
            Request::Marks { share } => {
                let opened = self.open_one(share.as_deref(), Role::Standby)?;
                let receiver = opened.received().ok_or_else(|| not_here("", "received"))?;
                marks(receiver.0)
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
