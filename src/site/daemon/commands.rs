//! What the daemon does when it is asked over its control socket.
//!
//! Guarantees: what the board knows is answered without asking anybody else; what needs a cut or a pass
//! waits for it, and says so when that takes too long.

use std::path::Path;

use farshore_core::role::{Command, CommandName, Phase, RoleView};
use farshore_engine::catalog::Catalog;

use super::drilling::{Achieved, Begun, about_roles};
use super::ends::site_catalog;
use super::failback::{Carried, Decided as FailbackDecided};
use super::receiving::Standby;
use super::roles::{FailedOver, ShareRole, clock};
use super::sending::Outgoing;
use super::*;
use crate::history;
use crate::rehearse;
use crate::replicate::catalog_failure;
use crate::report::point_json;
use crate::site::control::{Asker, SwitchStep};
use crate::site::drills::{self, DrillKind, DrillPoint};
use crate::site::failover::LossManifest;
use crate::site::sender::Decided;

/// How long a command waits for ends that are just being opened.
const OPENING: Duration = Duration::from_secs(5);

impl Daemon {
    /// Waits while the daemon has just begun, and ends are being opened.
    fn let_open(&self) {
        let until = std::time::Instant::now() + OPENING;
        let opens = |slot: &Arc<Slot>| {
            let is_known = self.role(slot.share()).is_none_or(|role| role.view().is_some());
            let is_wanted = slot.wanted() != Want::Nothing;
            slot.end().is_none() && slot.why_closed().is_none() && (is_wanted || !is_known)
        };
        while self.slots.values().any(opens)
            && std::time::Instant::now() < until
            && !self.is_stopping()
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn sender(&self, given: Option<&str>) -> Result<Arc<Outgoing>, Failure> {
        self.let_open();
        let names: Vec<&str> = self.slots.keys().map(String::as_str).collect();
        // One that is closed is named, to say why.
        let here = |name: &&str| {
            self.outgoing(name).is_some()
                || self.slot(name).is_some_and(|s| {
                    matches!(s.wanted(), Want::Source(_)) && s.why_closed().is_some()
                })
        };
        // One that is named is that one; else those that are sent are chosen from.
        let sent: Vec<&str> = names.iter().copied().filter(here).collect();
        let all = given.is_some() || sent.is_empty();
        let name = control::choose_share(if all { &names } else { &sent }, given)?;
        self.outgoing(name).ok_or_else(|| self.why_not(name, "sent from here"))
    }

    /// Lets a share have another folder than before; whether it waited for that.
    fn approve_root(&self, given: Option<&str>) -> bool {
        match given {
            Some(name) => self.slot(name).is_some_and(|slot| slot.approve_root()),
            None => match self.slots.values().collect::<Vec<_>>()[..] {
                [only] => only.approve_root(),
                _ => false,
            },
        }
    }

    /// Why a share is not what was asked for: it cannot be opened, or is something else.
    fn why_not(&self, share: &str, what: &str) -> Failure {
        match self.slot(share).and_then(|slot| slot.why_closed()) {
            Some(why) => Failure {
                exit: Exit::Held,
                message: format!("share '{share}' is not open: {why}"),
                hint: None,
            },
            None => not_here(share, what),
        }
    }

    fn receiver(&self, given: Option<&str>) -> Result<Arc<Standby>, Failure> {
        self.let_open();
        let names: Vec<&str> = self.slots.keys().map(String::as_str).collect();
        let here = |name: &&str| {
            self.standby(name).is_some()
                || self.slot(name).is_some_and(|s| {
                    matches!(s.wanted(), Want::Target(_)) && s.why_closed().is_some()
                })
        };
        let received: Vec<&str> = names.iter().copied().filter(here).collect();
        let all = given.is_some() || received.is_empty();
        let name = control::choose_share(if all { &names } else { &received }, given)?;
        self.standby(name).ok_or_else(|| self.why_not(name, "received here"))
    }
}

impl Daemon {
    /// What is known of the share whose folder is `root`; `None` when no share of this site is there.
    fn catalog_at(&self, root: &Path) -> Result<Option<Arc<Catalog>>, Failure> {
        let config = self.config();
        let share = config.shares.iter().find(|share| share.path == root);
        share.map(|share| self.catalog_of(Some(&share.name))).transpose()
    }

    /// What is known of a share, whichever end of it is here.
    fn catalog_of(&self, given: Option<&str>) -> Result<Arc<Catalog>, Failure> {
        self.let_open();
        let names: Vec<&str> = self.slots.keys().map(String::as_str).collect();
        let name = control::choose_share(&names, given)?;
        let received = self.standby(name).map(|s| Arc::clone(s.receiver.catalog()));
        let sent = || self.outgoing(name).map(|o| Arc::clone(o.sender.catalog()));
        if let Some(catalog) = received.or_else(sent) {
            return Ok(catalog);
        }
        // A share that is alone has no end, and nobody else has its catalog but a command that takes long.
        let config = self.config();
        let share = config.share(name).ok_or_else(|| self.why_not(name, "open here"))?;
        let names = site_catalog(share, &config);
        let catalog = self.state.site_catalog_as_it_is(&names);
        let catalog = catalog.map_err(|e| crate::replicate::state_failure(&e))?;
        catalog.map(Arc::new).ok_or_else(|| self.why_not(name, "open here"))
    }

    /// The points of a share as `history list --points --json` says them; nothing of a folder that is no share here.
    fn points(&self, given: Option<&str>, root: Option<&Path>) -> Result<Value, Failure> {
        let config = self.config();
        let (name, catalog) = match (root, self.receiver(given)) {
            (Some(root), _) => {
                let share = config.shares.iter().find(|share| share.path == root);
                let Some(share) = share else { return Ok(Value::Null) };
                (share.name.clone(), self.catalog_of(Some(&share.name))?)
            }
            (None, Ok(standby)) => {
                let receiver = &standby.receiver;
                (receiver.share().to_owned(), Arc::clone(receiver.catalog()))
            }
            (None, Err(_)) => {
                let names: Vec<&str> = self.slots.keys().map(String::as_str).collect();
                let name = control::choose_share(&names, given)?;
                (name.to_owned(), self.catalog_of(Some(name))?)
            }
        };
        let view = self.role(&name).and_then(|role| role.view());
        let is_old_copy = view.is_some_and(|view| view.record.forgot);
        let points = catalog.reader().and_then(|reader| history::points(&reader, is_old_copy));
        points.map_err(|e| catalog_failure(&e))
    }

    fn role_of(&self, given: Option<&str>) -> Result<&ShareRole, Failure> {
        let names: Vec<&str> = self.roles.keys().map(String::as_str).collect();
        let name = control::choose_share(&names, given)?;
        self.role(name).map(|role| &**role).ok_or_else(|| not_here(name, "here"))
    }

    /// A command that is done when it is taken.
    fn simple(&self, role: &ShareRole, command: Command) -> Result<Value, Failure> {
        self.command(role, command)?;
        let view = self.await_role(role, POINT_PATIENCE, |view| (!view.busy).then_some(Ok(())))?;
        let line = format!(
            "share '{}': {} in epoch {}",
            role.share,
            view.record.phase.name(),
            view.record.epoch.0
        );
        Ok(json!({ "share": role.share, "lines": [line] }))
    }

    /// Gives up the plan that is under way.
    fn abandon(&self, role: &ShareRole) -> Result<Value, Failure> {
        let Some(done) = self.abandon_failback(role)? else {
            let line = format!("share '{}': no plan is under way", role.share);
            return Ok(json!({ "share": role.share, "lines": [line] }));
        };
        let mut lines = vec![format!(
            "share '{}': the plan is given up; {} versions are at their paths again at the other site",
            role.share, done.back
        )];
        let quarantine = done.quarantine.as_deref().unwrap_or_default();
        if done.kept > 0 {
            lines.push(format!(
                "{} stay in {quarantine} there, since something else is at their paths: {}",
                done.kept,
                done.first.join("; ")
            ));
        }
        lines.push(match done.is_begun_here {
            true => format!(
                "this site had begun its part: what it placed stays, what that replaced is in {quarantine} here; \
                 farshore failback plan makes a new plan"
            ),
            false => "nothing was done here; the plan can be decided and applied again, or farshore failback \
                      plan makes a new one"
                .into(),
        });
        self.record(&role.share, "abandoned", lines.join("; "));
        let mut value =
            serde_json::to_value(&done).map_err(|e| Failure::new(Exit::Internal, &e))?;
        value["share"] = role.share.clone().into();
        value["lines"] = lines.into();
        Ok(value)
    }

    /// Hands a share over, and waits until the other site has it.
    fn switch_over(
        &self,
        role: &ShareRole,
        step: SwitchStep,
        begun: &Begun,
    ) -> Result<Value, Failure> {
        match step {
            SwitchStep::Abort => return self.simple(role, Command::AbortSwitchover),
            SwitchStep::TakeBack => return self.simple(role, Command::TakeBack),
            SwitchStep::Begin => {}
        }
        let view = role.view();
        if let Some(epoch) = view.as_ref().and_then(taken_by_peer) {
            let peer = self.config().peer.name;
            let line = format!(
                "share '{}': it was handed over already: '{peer}' is active in epoch {}; to bring it here, type \
                 switchover there",
                role.share, epoch.0
            );
            return Ok(json!({ "share": role.share, "epoch": epoch.0, "lines": [line] }));
        }
        let held = self.outgoing(&role.share).and_then(|outgoing| outgoing.sender.held());
        if let Some(held) = held {
            return Err(Failure {
                exit: Exit::Held,
                message: format!(
                    "share '{}': {held}: it would be waited for with services stopped",
                    role.share
                ),
                hint: Some(
                    "farshore brake show says what it is, brake approve or reject decides".into(),
                ),
            });
        }
        let heard = view.as_ref().and_then(|view| view.peer.as_ref()).map(|peer| peer.at_ms);
        let silent = heard.map(|at_ms| clock().ms.saturating_sub(at_ms) / 1_000);
        if let Some(silent) = silent.filter(|silent| *silent >= SILENT_S) {
            return Err(Failure {
                exit: Exit::Held,
                message: format!(
                    "share '{}': nothing was heard from '{}' for {silent} s: services would be stopped for nobody",
                    role.share,
                    self.config().peer.name
                ),
                hint: Some("farshore status says how the connection is".into()),
            });
        }
        let before = view.map_or(0, |view| view.record.epoch.0);
        self.command(role, Command::Switchover)?;
        let (mut handed, peer) = (None, self.config().peer.name);
        let view = self.await_role(role, SWITCH_PATIENCE, |view| {
            if let Phase::Handed { point } = view.record.phase {
                handed = Some(point);
            }
            switched(view, before, &peer)
        })?;
        let took_ms = begun.elapsed_ms();
        let lines = [
            format!(
                "share '{}': handed over to '{}', which is active in epoch {}",
                role.share,
                self.config().peer.name,
                view.record.epoch.0
            ),
            format!("nothing was lost; it took {}.{} s", took_ms / 1_000, took_ms % 1_000 / 100),
        ];
        let mut result = json!({
            "share": role.share,
            "epoch": view.record.epoch.0,
            "took_ms": took_ms,
            "lines": lines,
        });
        let achieved = Achieved {
            kind: DrillKind::Switchover,
            share: role.share.clone(),
            epoch: view.record.epoch.0,
            well: true,
            // What was handed over is what the other site compared its own with, by R.
            point: handed.map(|point| DrillPoint {
                sequence: point.sequence,
                time_unix_ms: point.time_unix_ms,
                root: point.root.to_string(),
            }),
            rpo_ms: Some(0),
            rto_ms: Some(took_ms),
            files: Vec::new(),
        };
        self.report_drill(begun, achieved, &mut result);
        Ok(result)
    }
}

/// Whether a switchover that was begun in epoch `before` is over, and how.
fn switched(view: &RoleView, before: u64, peer: &str) -> Option<Result<(), String>> {
    match view.record.phase {
        // Legal only when the other site is in that epoch, and did not take it.
        Phase::Handed { .. } if view.legal.contains(&CommandName::TakeBack) => Some(Err(format!(
            "'{peer}' declined it: it is not at the point that was handed over, which its log names; 'farshore \
             switchover --take-back' makes this site active again"
        ))),
        Phase::Standby if view.record.epoch.0 > before => Some(Ok(())),
        // The site was asked to go on, or something came in between.
        Phase::Active if !view.busy => Some(Err("the switchover was taken back".into())),
        Phase::Stranded { .. } | Phase::Alone | Phase::Split => {
            Some(Err(format!("it is {} now", view.record.phase.name())))
        }
        _ => view.failed_hook.map(|_| Err("a hook failed; see the log".into())),
    }
}

/// Seconds after which a site that says something each second is not taken to be there.
const SILENT_S: u64 = 3;

/// The epoch that this site handed over and the other one, which is heard, works in.
fn taken_by_peer(view: &RoleView) -> Option<Epoch> {
    let said = view.peer.as_ref().filter(|_| view.link).map(|peer| &peer.said)?;
    let epoch = view.record.epoch;
    let works = matches!(said.phase, Phase::Active | Phase::Opening { .. });
    let took = said.took == epoch && said.stamp.epoch == epoch;
    (view.record.phase == Phase::Standby && works && took).then_some(epoch)
}

/// How long a switchover is waited for; it goes on afterwards.
const SWITCH_PATIENCE: Duration = Duration::from_secs(24 * 3_600);

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
            let mut object = point_json(&kept.point);
            object["label"] = mark.label.clone().into();
            object
        })
    });
    Ok(json!({ "marks": marks.collect::<Vec<_>>() }))
}

/// What is shown as `text`, back as a path; `what` is for whoever gave another thing.
fn path_shown(what: &str, text: &str) -> Result<RelPath, Failure> {
    // As the root is shown.
    let text = if text == "." { "" } else { text };
    farshore_core::path::unescape(text).and_then(|bytes| RelPath::new(bytes).ok()).ok_or_else(
        || Failure {
            exit: Exit::Usage,
            message: format!("{what} '{text}': no path below a share"),
            hint: None,
        },
    )
}

fn account(shown: &str) -> Result<RelPath, Failure> {
    path_shown("account", shown)
}

impl Commands for Daemon {
    fn run(&self, request: Request, by: &Asker) -> Result<Value, Failure> {
        let request = match control::from_board(&self.board, request) {
            Ok(answer) => return answer,
            Err(request) => request,
        };
        let begun = self.begins();
        let about = about_roles(&request);
        if let Some((command, share)) = &about {
            self.record_asked(command, share.as_deref(), by);
        }
        let done = self.carry_out_request(request, &begun);
        if let (Err(failure), Some((command, share))) = (&done, about) {
            self.record_refusal(command, share.as_deref(), failure);
        }
        done
    }
}

impl Daemon {
    fn carry_out_request(&self, request: Request, begun: &Begun) -> Result<Value, Failure> {
        match request {
            Request::BrakeApprove { share, account: only, id } => {
                let only = only.as_deref().map(account).transpose()?;
                if only.is_none() && id.is_none() && self.approve_root(share.as_deref()) {
                    return Ok(
                        json!({ "approved": [], "text": "the folder at the share's path is meant" }),
                    );
                }
                let outgoing = self.sender(share.as_deref())?;
                let sender = &outgoing.sender;
                let decided = sender.approve(only.as_ref(), id.as_deref())?;
                Ok(told(&decided, "approved"))
            }
            Request::BrakeReject { share, account: only, id } => {
                let only = only.as_deref().map(account).transpose()?;
                let outgoing = self.sender(share.as_deref())?;
                let sender = &outgoing.sender;
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
                let mut object = point_json(&point);
                object["label"] = label.into();
                Ok(object)
            }
            Request::Cut { share } => {
                let outgoing = self.sender(share.as_deref())?;
                Ok(point_json(&outgoing.sender.cut_now(None, POINT_PATIENCE)?))
            }
            Request::Scrub { share, now: _ } => {
                let standby = self.receiver(share.as_deref())?;
                let pass = standby.scrubber.now(SCRUB_PATIENCE, &standby.over)?;
                serde_json::to_value(pass).map_err(|e| Failure::new(Exit::Internal, &e))
            }
            Request::Rehearse { share, at, id } => {
                let standby = self.receiver(share.as_deref())?;
                let made =
                    rehearse::making::make(&standby.receiver, &standby.over, at.as_deref(), &id)?;
                serde_json::to_value(made).map_err(|e| Failure::new(Exit::Internal, &e))
            }
            Request::Rehearsed { share, mut report } => {
                let role = self.role_of(share.as_deref())?;
                self.rehearsed(role, begun, &mut report);
                Ok(report)
            }
            Request::Marks { share } => marks(&self.receiver(share.as_deref())?.receiver),
            Request::Points { share, root } => self.points(share.as_deref(), root.as_deref()),
            Request::Versions { root, path } => {
                let path = path_shown("path", &path)?;
                let Some(catalog) = self.catalog_at(&root)? else { return Ok(Value::Null) };
                let reader = catalog.reader();
                let versions = reader.and_then(|reader| history::versions_object(&reader, &path));
                versions.map_err(|e| catalog_failure(&e))
            }
            Request::Version { root, path, at } => {
                let path = path_shown("path", &path)?;
                let Some(catalog) = self.catalog_at(&root)? else { return Ok(Value::Null) };
                let reader = catalog.reader().map_err(|e| catalog_failure(&e))?;
                let said = history::asked::say(&reader, &path, &at)?;
                serde_json::to_value(said).map_err(|e| Failure::new(Exit::Internal, &e))
            }
            Request::Switchover { share, step } => {
                self.switch_over(self.role_of(share.as_deref())?, step, begun)
            }
            Request::Failover { share, at, peer_is_off } => {
                let role = self.role_of(share.as_deref())?;
                let FailedOver { manifest, gate, is_news } =
                    self.fail_over(role, at.as_deref(), peer_is_off)?;
                let mut lines = manifest.lines();
                let file = LossManifest::file(&self.state, &role.share, manifest.epoch);
                lines.push(format!("all of them: {}", file.display()));
                if let Err(why) = &gate {
                    lines.push(format!(
                        "THE GATE IS STILL CLOSED: {why}; it opens when the other site gives way, or by \
                         'farshore failover --force --peer-is-off', your word that it is switched off"
                    ));
                }
                let mut value = serde_json::to_value(&manifest)
                    .map_err(|e| Failure::new(Exit::Internal, &e))?;
                value["open"] = gate.is_ok().into();
                value["lines"] = lines.into();
                if is_news {
                    // The gate may have waited for a second word: it counts from the first.
                    let since = begun.unix_ms.min(manifest.opened_unix_ms);
                    let took = u64::try_from(now_ms().saturating_sub(since)).unwrap_or(0);
                    let rto_ms = gate.is_ok().then_some(took);
                    let age = since.saturating_sub(manifest.time_unix_ms);
                    // Of a state folder that is an old copy the last point that both had is not known.
                    let is_known = !manifest.stood.as_ref().is_some_and(|stood| stood.is_old_copy);
                    let achieved = Achieved {
                        kind: DrillKind::Failover,
                        share: role.share.clone(),
                        epoch: manifest.epoch,
                        well: gate.is_ok(),
                        point: is_known.then(|| DrillPoint {
                            sequence: manifest.point,
                            time_unix_ms: manifest.time_unix_ms,
                            root: manifest.root.clone(),
                        }),
                        // The lost site did nothing after it was lost, whenever that was.
                        rpo_ms: is_known.then(|| u64::try_from(age).unwrap_or(0)),
                        rto_ms,
                        files: vec![drills::file("loss manifest", &file)],
                    };
                    self.report_drill(begun, achieved, &mut value);
                }
                Ok(value)
            }
            Request::OpenAlone { share } => {
                self.simple(self.role_of(share.as_deref())?, Command::OpenAlone)
            }
            Request::ResolveSplit { share } => {
                let role = self.role_of(share.as_deref())?;
                self.take_back_before_opening(role)?;
                self.simple(role, Command::ResolveSplit)
            }
            Request::RetryHook { share } => {
                self.simple(self.role_of(share.as_deref())?, Command::RetryHook)
            }
            Request::FailbackApply { plan, accept_held } => {
                let of_plan = drills::file("plan", &plan);
                let Some(carried) = self.apply_failback(&plan, accept_held)? else {
                    let line = "this plan was carried out already; 'farshore status' says where the share stands";
                    return Ok(json!({ "plan": of_plan.path, "lines": [line] }));
                };
                let Carried { production, recovery, header, manifests } = carried;
                let config = self.config();
                // In a plan these are recovery and production, whatever they are called here.
                let (here, lost) = (&config.site.name, &config.peer.name);
                let folder =
                    format!(".farshore/quarantine/{}-{}", header.epoch.0, header.id().short());
                let lines = vec![
                    format!("share '{}': both sites are one again", header.share),
                    format!(
                        "at {here} {} paths placed, {} gone; {} files came over from {lost}",
                        recovery.placed, recovery.removed, production.carried
                    ),
                    format!(
                        "{} versions in quarantine at {lost}, {} at {here}: {folder}, with a manifest",
                        production.quarantined, recovery.quarantined
                    ),
                    "restore one: copy it from tree/ there to its path".to_owned(),
                    format!(
                        "replication goes from {here} to {lost} now; 'farshore switchover' hands the share to {lost}"
                    ),
                ];
                let text = format!(
                    "{} (BLAKE3 {}): {} placed, {} gone, {} came over, {} in quarantine at {lost}, {} here",
                    of_plan.path,
                    of_plan.blake3,
                    recovery.placed,
                    recovery.removed,
                    production.carried,
                    production.quarantined,
                    recovery.quarantined
                );
                self.record(&header.share, "applied", text);
                let mut value = json!({
                    "share": header.share,
                    "placed": recovery.placed,
                    "removed": recovery.removed,
                    "carried": production.carried,
                    "quarantined": { "production": production.quarantined, "recovery": recovery.quarantined },
                    "quarantine": folder,
                    "lines": lines,
                });
                let achieved = Achieved {
                    kind: DrillKind::Failback,
                    share: header.share.clone(),
                    epoch: self
                        .role(&header.share)
                        .and_then(|role| role.view())
                        .map_or(header.epoch.0, |view| view.record.epoch.0),
                    well: true,
                    point: header.base.map(|base| DrillPoint {
                        sequence: base.sequence,
                        time_unix_ms: base.time_unix_ms,
                        root: base.root.to_string(),
                    }),
                    // Nothing is missing, and services went on meanwhile.
                    rpo_ms: None,
                    rto_ms: None,
                    files: std::iter::once(of_plan).chain(manifests).collect(),
                };
                self.report_drill(begun, achieved, &mut value);
                Ok(value)
            }
            Request::FailbackAbandon { share } => self.abandon(self.role_of(share.as_deref())?),
            Request::FailbackDecide { plan, select, outcome, reason, new_name } => {
                let (plan, new_name) = (&*plan, new_name.as_deref());
                let (share, edited) = self.decide_failback(&FailbackDecided {
                    plan,
                    select: &select,
                    outcome: &outcome,
                    reason: &reason,
                    new_name,
                })?;
                let file = drills::file("plan", plan);
                let text = format!(
                    "{} (BLAKE3 {}), revision {}: {outcome} for {select}: {} paths, {} still held; {reason}",
                    file.path,
                    file.blake3,
                    edited.revision,
                    edited.changed,
                    edited.summary.held()
                );
                self.record(&share, "decided", text);
                let mut lines = vec![format!(
                    "revision {}: {} paths decided, {} still wait for a person",
                    edited.revision,
                    edited.changed,
                    edited.summary.held()
                )];
                if edited.overridden > 0 {
                    lines.push(format!(
                        "of them {} had another decision of a person before, which is over",
                        edited.overridden
                    ));
                }
                let refused = edited
                    .refused
                    .iter()
                    .map(|r| format!("{}: stays as it was: {}", r.path, r.why));
                lines.extend(refused.clone());
                Ok(json!({
                    "revision": edited.revision,
                    "changed": edited.changed,
                    "overridden": edited.overridden,
                    "held": edited.summary.held(),
                    "refused": refused.collect::<Vec<_>>(),
                    "lines": lines,
                }))
            }
            Request::FailbackPlan { share } => {
                let role = self.role_of(share.as_deref())?;
                let (file, summary) = self.plan_failback(role)?;
                let of_plan = drills::file("plan", &file);
                let text = format!(
                    "{} (BLAKE3 {}): {} paths differ, {} conflicts, {} held",
                    of_plan.path,
                    of_plan.blake3,
                    summary.paths(),
                    summary.conflicts(),
                    summary.held()
                );
                self.record(&role.share, "planned", text);
                let file = file.display().to_string();
                let config = self.config();
                let (here, lost) = (&config.site.name, &config.peer.name);
                let mut lines = vec![
                    format!(
                        "{} paths differ, {} conflicts, {} held for a person",
                        summary.paths(),
                        summary.conflicts(),
                        summary.held()
                    ),
                    format!(
                        "in the plan 'production' is {lost}, which was lost, and 'recovery' is {here}, which went on"
                    ),
                    format!("plan: {file}"),
                    format!("read it:      farshore failback show --plan {file}"),
                ];
                if summary.held() > 0 {
                    lines.push(format!(
                        "decide:       farshore failback decide --plan {file} PATH OUTCOME"
                    ));
                }
                lines.push(format!("carry it out: farshore failback apply --plan {file}"));
                Ok(json!({
                    "share": role.share,
                    "plan": file,
                    "paths": summary.paths(),
                    "conflicts": summary.conflicts(),
                    "held": summary.held(),
                    "carry_bytes": summary.needs,
                    "lines": lines,
                }))
            }
            Request::Gate { share } => {
                let role = self.role_of(share.as_deref())?;
                let gate = role.gate();
                let line = match &gate {
                    Ok(()) => format!("share '{}': services may work with it here", role.share),
                    Err(why) => {
                        format!("share '{}': services may not work with it here: {why}", role.share)
                    }
                };
                Ok(json!({
                    "share": role.share,
                    "open": gate.is_ok(),
                    "why": gate.err(),
                    "lines": [line],
                }))
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

#[cfg(test)]
mod tests {
    use farshore_core::digest::RootDigest;
    use farshore_core::role::{
        Closed, CommandName, DataRole, Gate, Phase, Point, Record, RoleView, Services,
    };

    use super::*;

    #[test]
    fn a_switchover_is_over_when_the_other_site_took_it_or_declined_it() {
        let root = RootDigest([0; 32]);
        let point = Point { sequence: 7, batch: 7, root, time_unix_ms: 0 };
        let view = |phase: Phase, epoch, legal| RoleView {
            record: Record { epoch: Epoch(epoch), phase, ..Record::new(Services::Stopped) },
            gate: Gate::Closed(Closed::Phase(phase.name())),
            data: DataRole::Neither,
            link: true,
            peer: None,
            busy: false,
            failed_hook: None,
            lease_until_ms: None,
            promised_until_ms: None,
            legal,
        };
        let over = |phase, epoch, legal| switched(&view(phase, epoch, legal), 3, "recovery");
        assert_eq!(over(Phase::Draining, 3, vec![CommandName::AbortSwitchover]), None);
        assert_eq!(over(Phase::Handed { point }, 4, Vec::new()), None);
        assert_eq!(over(Phase::Standby, 4, Vec::new()), Some(Ok(())));
        let declined = over(Phase::Handed { point }, 4, vec![CommandName::TakeBack]);
        let why = declined.expect("it is over").expect_err("nobody took it");
        assert!(why.contains("'recovery' declined it") && why.contains("--take-back"), "{why}");
        assert!(over(Phase::Active, 5, Vec::new()).is_some_and(|end| end.is_err()));
    }
}
