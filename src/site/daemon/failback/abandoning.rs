//! A plan that is under way is given up: what the lost site did of it is taken back, and another one can be made.
//!
//! ```text
//! 1. the lost site brings back every version it moved aside, durably, and forgets what it laid out
//! 2. the site that goes on lets go of the plan; what it placed or kept already stays
//! 3. its role says alone again, and the other one is stranded when it hears so; what came goes
//! ```
//! Guarantees: each step can be done again, and after a crash within any of them the plan can be given up or go on, as
//! it is asked; the lost site is sent the plan, so that what it moved is known also where it lost its own. Nothing is
//! deleted. Refuses a plan that is carried out at the site that goes on, which can only be finished; and at the lost
//! site to do a part that was asked for before the plan was given up and had waited since.

use super::*;

/// What became of the lost site's part of a plan that is not carried out.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::site::daemon) struct TakenBack {
    /// Versions that are at their paths again.
    pub(in crate::site::daemon) back: u64,
    /// Versions that stay in the quarantine, since something else is at their paths.
    pub(in crate::site::daemon) kept: u64,
    /// The first of those paths.
    pub(in crate::site::daemon) first: Vec<String>,
    /// The quarantine, below the share's root, if the plan was begun.
    pub(in crate::site::daemon) quarantine: Option<String>,
    /// Whether the site that goes on had begun its part: that stays.
    #[serde(default)]
    pub(in crate::site::daemon) is_begun_here: bool,
}

impl TakenBack {
    fn new(undone: Undone, quarantine: Option<String>) -> Self {
        Self {
            back: undone.back,
            kept: undone.late_total,
            first: undone.late.iter().take(TOLD_MAX).map(ToString::to_string).collect(),
            quarantine,
            is_begun_here: false,
        }
    }
}

impl Daemon {
    /// Gives up the plan that is under way at the site that is alone here; nothing where none is.
    pub(in crate::site::daemon) fn abandon_failback(
        &self,
        role: &ShareRole,
    ) -> Result<Option<TakenBack>, Failure> {
        let _turn = role.commanding.begin(&role.share, "failback abandon", SHORTLY)?;
        let share = self.share_of(role)?;
        let held = |text: &str, hint: String| Failure {
            exit: Exit::Held,
            message: format!("share '{}': {text}", share.name),
            hint: Some(hint),
        };
        let status = || "farshore status says where both stand".to_owned();
        let id = match role.view().map(|view| view.record.phase) {
            Some(Phase::Reconciling { plan, open: true, done: false }) => plan,
            Some(Phase::Reconciling { open: true, .. }) => {
                return Err(held(
                    "the plan is carried out here, it can only be finished",
                    format!(
                        "farshore failback apply --plan {}",
                        self.plan_file(&share.name).display()
                    ),
                ));
            }
            Some(Phase::Reconciling { .. }) => {
                return Err(held("a plan is given up at the site that goes on working", status()));
            }
            Some(Phase::Alone) => return Ok(None),
            _ => return Err(held("no plan is under way here", status())),
        };
        let plan = self.plan_under_way(&share.name, id)?.ok_or_else(|| {
            held(
                "the plan that is under way is not in the state folder",
                "farshore failback apply --plan FILE goes on with it".into(),
            )
        })?;
        let folders = plan.folders;
        let mut there: TakenBack = self.ask_for(&share.name, id, &[b"abandon", &plan.bytes])?;
        let opened = self.open_for_plan(&share)?;
        let divergences = || iterated(&plan.bytes);
        let begun = abandon_at_recovery(&*opened.storage, &divergences, &folders);
        there.is_begun_here = begun.map_err(|e| failed(&e))?;
        let storage = Arc::clone(&opened.storage);
        drop(opened);
        self.command(role, Command::AbandonReconcile { plan: id })?;
        // Until then the plan could go on; what stays is in nobody's way.
        drop_laid_out(&*storage).unwrap_or(());
        self.await_role(role, RECONCILE_PATIENCE, |view| {
            let said = view.peer.as_ref().map(|peer| peer.said.phase);
            matches!(said, Some(Phase::Stranded { .. })).then_some(Ok(()))
        })?;
        let text = format!(
            "the plan {} is given up: {} versions are back at the other site",
            folders.plan, there.back
        );
        self.say_of(&share.name, Level::Info, "failback", text);
        Ok(Some(there))
    }

    /// The plan that was begun at this site as the lost one, and neither carried out nor given up, though the role is
    /// not reconciling any more: as when the other site was opened by force meanwhile. Its part is in the quarantine
    /// still, and nothing may be concluded from the tree before it is taken back.
    pub(in crate::site::daemon) fn left_behind(
        &self,
        share: &Share,
        record: &RoleRecord,
    ) -> Result<Option<PlanId>, Failure> {
        let file = self.plan_file(&share.name);
        if matches!(record.phase, Phase::Reconciling { .. }) || !file.exists() {
            return Ok(None);
        }
        let plan = read_plan(&file)?;
        let (header, ..) = checked(&plan, &file)?;
        let (id, is_lost) = (plan_id(&plan), header.recovery != site_of(&self.config().site.name));
        Ok((is_lost && record.plan != Some(id)).then_some(id))
    }

    /// Removes what is kept of the plan `id`, durably, if that is the one.
    pub(in crate::site::daemon) fn forget_plan(
        &self,
        share: &str,
        id: PlanId,
    ) -> Result<(), Failure> {
        // What cannot be read as a plan is none that could be taken back.
        if !matches!(self.plan_under_way(share, id), Ok(Some(_))) {
            return Ok(());
        }
        let file = self.plan_file(share);
        let folder = file.parent().unwrap_or(self.state.folder());
        std::fs::remove_file(&file)
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|e| disk(&file, &e))
    }

    /// Takes back what a plan that was left behind did here, if there is one.
    pub(super) fn take_back_left_behind(
        &self,
        role: &ShareRole,
        share: &Share,
    ) -> Result<(), Failure> {
        let Some(record) = role.view().map(|view| view.record) else { return Ok(()) };
        let Some(id) = self.left_behind(share, &record)? else { return Ok(()) };
        let Some((plan, taken_back)) = self.take_back_alone(share, id) else { return Ok(()) };
        let taken_back = taken_back?;
        if taken_back.back + taken_back.kept > 0 {
            let text = format!(
                "plan {plan} was left behind: {} versions are back at their paths, {} stay in the quarantine",
                taken_back.back, taken_back.kept
            );
            self.say_of(&share.name, Level::Warn, "failback", text);
        }
        Ok(())
    }

    /// Before a site that was lost, and is reconciling or was, is opened by an operator's word: its tree is what it
    /// made it itself.
    pub(in crate::site::daemon) fn take_back_before_opening(
        &self,
        role: &ShareRole,
    ) -> Result<(), Failure> {
        let _turn = role.commanding.begin(&role.share, "opening the share", LONG)?;
        let share = self.share_of(role)?;
        let Some(view) = role.view() else { return Ok(()) };
        if !view.legal.contains(&CommandName::ResolveSplit) {
            return Ok(());
        }
        match view.record.phase {
            Phase::Reconciling { plan, open: false, .. } => {
                match self.take_back_alone(&share, plan) {
                    None | Some((_, Ok(_))) => Ok(()),
                    Some((_, Err(failure))) => Err(failure),
                }
            }
            Phase::Stranded { .. } => self.take_back_left_behind(role, &share),
            _ => Ok(()),
        }
    }

    /// The site is opened though a plan is under way that will not be carried out: what this site did of it is
    /// taken back; the plan's short name, and what came of it. Nothing where no plan was begun here.
    pub(in crate::site::daemon) fn take_back_alone(
        &self,
        share: &Share,
        id: PlanId,
    ) -> Option<(String, Result<TakenBack, Failure>)> {
        let unknown = |failure| Some(("unknown".into(), Err(failure)));
        let file = self.plan_file(&share.name);
        let opened = match self.open_for_plan(share) {
            Ok(opened) => opened,
            Err(failure) => return unknown(failure),
        };
        match self.plan_under_way(&share.name, id) {
            Ok(Some(plan)) => Some((plan.folders.plan, take_back(&plan.bytes, &file, &opened))),
            Ok(None) => match has_quarantine(&*opened.storage) {
                Ok(false) => None,
                Ok(true) => unknown(Failure {
                    exit: Exit::Partial,
                    message: format!("{}: the plan is not there", file.display()),
                    hint: None,
                }),
                Err(e) => unknown(failed(&e)),
            },
            Err(failure) => unknown(failure),
        }
    }
}

/// Takes a site's part of the plan back, at the one that was lost; `file` is where it is kept.
pub(super) fn take_back(plan: &[u8], file: &Path, opened: &Opened) -> Result<TakenBack, Failure> {
    let (header, ..) = checked(plan, file)?;
    let (storage, folders) = (&*opened.storage, folders_of(&header));
    let was_begun = is_begun(storage, &folders).map_err(|e| failed(&e))?;
    let undone = undo_at_production(storage, &|| iterated(plan), &folders);
    let undone = undone.map_err(|e| failed(&e))?;
    Ok(TakenBack::new(undone, was_begun.then(|| folders.quarantine())))
}
