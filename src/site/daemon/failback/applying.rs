//! A plan is carried out: at the site that is alone, which asks the stranded one to do its part first.
//!
//! Guarantees: a plan is applied only while both sites are as it says, path by path, which both look at before either
//! does anything; what is asked again goes on
//! where it was; when this site's part is done it only has the other one end the plan, whatever stands at the paths by
//! then. What is under way is kept in the state folder of each site, whatever becomes of the plan's file, and is
//! sent with all that is asked, so that the lost site may have lost it.
//! Refuses a plan of another share, pair, epoch or base, one beside another that is under way, and one that was
//! begun here and given up.

use std::collections::HashSet;

use farshore_core::conflict::Site as SiteOf;

use super::*;
use crate::site::drills::{self, DrillFile};

/// Paths that are named to the other site.
const NAMED_MAX: usize = 100;
/// Times that what services changed is asked of the other site, in one call.
const ROUNDS_MAX: u32 = 8;
/// How long the other site may take to hear of a change of role.
pub(super) const RECONCILE_PATIENCE: Duration = Duration::from_secs(60);

/// What a plan came to that was carried out.
pub(in crate::site::daemon) struct Carried {
    pub(in crate::site::daemon) production: Applied,
    pub(in crate::site::daemon) recovery: Applied,
    pub(in crate::site::daemon) header: Header,
    /// The manifests of the quarantines; production's as that site says.
    pub(in crate::site::daemon) manifests: Vec<DrillFile>,
}

/// What both parts came to, kept until the other site has ended the plan as well.
#[derive(Debug, Default, Serialize, Deserialize)]
struct PartsDone {
    /// 64 hex digits.
    plan: String,
    production: PartDone,
    recovery: PartDone,
}

/// A plan that is under way.
pub(super) struct UnderWay {
    pub(super) bytes: Vec<u8>,
    pub(super) folders: Folders,
}

impl Daemon {
    /// Carries out a plan at the site that is alone here; `None` when it was carried out before.
    pub(in crate::site::daemon) fn apply_failback(
        &self,
        file: &Path,
        accept_held: bool,
    ) -> Result<Option<Carried>, Failure> {
        let plan = read_plan(file)?;
        let (header, _, summary) = checked(&plan, file)?;
        let held = |text: String, hint: &str| Failure {
            exit: Exit::Held,
            message: format!("plan {}: {text}", file.display()),
            hint: Some(hint.into()),
        };
        let again = "farshore failback plan makes a new one";
        let role = self.role(&header.share).ok_or_else(|| {
            held(format!("it is for share '{}', which is not here", header.share), again)
        })?;
        let _turn = role.commanding.begin(&role.share, "failback apply", SHORTLY)?;
        let share = self.share_of(role)?;
        let config = self.config();
        if header.pair != pair_of(&config.site.name, &config.peer.name)
            || header.recovery != site_of(&config.site.name)
        {
            return Err(held(
                "it is for another pair of sites, or for the other site".into(),
                again,
            ));
        }
        let (id, view) = (plan_id(&plan), role.view());
        let is_done = |view: &RoleView| view.record.plan == Some(id) && !is_alone(view);
        if view.as_ref().is_some_and(is_done) {
            return Ok(None);
        }
        let view = view.filter(is_alone).ok_or_else(|| {
            held(
                "this site is not alone with a stranded one".into(),
                "farshore status says where both stand",
            )
        })?;
        let under_way = match view.record.phase {
            // What services did since with what was placed is theirs: nothing is looked at again, or placed.
            Phase::Reconciling { plan: ours, done: true, .. } if ours == id => {
                // Of a call that ended before it did that.
                let root = open_root("share", &share.path, IoMode::Posix, None)?;
                drop_laid_out(&root).unwrap_or(());
                return self.finish_failback(role, id, &plan, header).map(Some);
            }
            Phase::Reconciling { plan, .. } if plan == id => true,
            Phase::Reconciling { plan, .. } => {
                let text = format!("plan {} cannot be carried out", file.display());
                return Err(self.is_under_way(&share.name, plan, &text));
            }
            _ => false,
        };
        // A word that the other site is off raises the epoch also while a plan is under way.
        if header.epoch != view.record.epoch && !under_way {
            let text =
                format!("it was made in epoch {}, now is {}", header.epoch.0, view.record.epoch.0);
            return Err(held(text, again));
        }
        let base = view.record.base.map(|base| (base.sequence, base.root));
        if header.base.is_some_and(|made| Some((made.sequence, made.root)) != base) {
            return Err(held("it was made against another common point".into(), again));
        }
        if summary.held() > 0 && !accept_held {
            return Err(held(
                format!("{} paths wait for a person", summary.held()),
                &format!(
                    "farshore failback show --plan {} --outcome hold names them, failback decide decides; or \
                     apply with --accept-held: they stay as they are at {}, the versions of {} in quarantine",
                    file.display(),
                    config.site.name,
                    config.peer.name
                ),
            ));
        }
        let folders = folders_of(&header);
        let divergences = || iterated(&plan);
        let opened = self.open_for_plan(&share)?;
        let storage = &*opened.storage;
        if !under_way && is_begun(storage, &folders).map_err(|e| failed(&e))? {
            return Err(held("it was begun here and given up".into(), again));
        }
        // Nothing is done anywhere before both sites are found to be as the plan says.
        let here = check_at(storage, &divergences, &folders, SiteOf::Recovery);
        let here = here.map_err(|e| failed(&e))?;
        let there: PartDone = self.ask_for(&share.name, id, &[b"check", &plan])?;
        let there = there.into_applied();
        if here.moved_total + there.moved_total > 0 {
            return Err(self.moved(&header, under_way, &here, &there));
        }
        self.keep_under_way(&share.name, &plan)?;
        self.command(role, Command::BeginReconcile { plan: id })?;
        self.await_role(role, RECONCILE_PATIENCE, |view| is_heard(view, id).then_some(Ok(())))?;
        let there: PartDone = self.ask_for(&share.name, id, &[b"plan", &plan])?;
        let production = there.clone().into_applied();
        if production.moved_total > 0 {
            return Err(self.moved(&header, true, &here, &production));
        }
        if production.carried > 0 {
            self.fetch_carried(&share, &opened, id, &folders)?;
        }
        let recovery = self.apply_here(&share, &opened, (id, &plan), &header)?;
        if recovery.moved_total > 0 {
            let there = Applied { is_begun: true, ..production };
            return Err(self.moved(&header, true, &recovery, &there));
        }
        if recovery.late_total > 0 {
            let named = recovery.late.iter().take(TOLD_MAX).map(ToString::to_string);
            let text = format!(
                "plan {}: somebody changed {} paths while it was carried out, they stay as they are now: {}",
                header.id().short(),
                recovery.late_total,
                named.collect::<Vec<_>>().join("; ")
            );
            self.say_of(&share.name, Level::Warn, "failback", text);
        }
        let manifest = manifest_of(storage, &folders, &share.path, "quarantine's manifest");
        let here = PartDone { manifest: Some(manifest), ..PartDone::from(recovery) };
        self.keep_parts(&share.name, id, here, there)?;
        let storage = Arc::clone(&opened.storage);
        // Its catalog goes back to whoever opens it next.
        drop(opened);
        self.command(role, Command::FinishReconcile { plan: id })?;
        // Until then the part goes on where what waits says it was; what stays is in nobody's way.
        drop_laid_out(&*storage).unwrap_or(());
        self.finish_failback(role, id, &plan, header).map(Some)
    }

    /// This site's part; what services changed of what was to be copied here is fetched from the other site.
    fn apply_here(
        &self,
        share: &Share,
        opened: &Opened,
        (id, plan): (PlanId, &[u8]),
        header: &Header,
    ) -> Result<Applied, Failure> {
        let (folders, divergences) = (folders_of(header), || iterated(plan));
        let storage = &*opened.storage;
        for round in 1.. {
            let done = apply_at_recovery(storage, &divergences, &folders, header.made_unix_ms);
            let done = done.map_err(|e| failed(&e))?;
            let Some(first) = done.wanting.first() else { return Ok(done) };
            let text = format!(
                "plan {}: {} files that were to be copied here are not what they were, {first} among them: they are \
                 asked of the other site",
                header.id().short(),
                done.wanting.len()
            );
            if round > ROUNDS_MAX {
                return Err(Failure {
                    exit: Exit::Partial,
                    message: text,
                    hint: Some(
                        "type the same again when they are not written to all the time".into(),
                    ),
                });
            }
            self.say_of(&share.name, Level::Warn, "failback", text);
            let wanted: Vec<&[u8]> = done.wanting.iter().map(RelPath::as_bytes).collect();
            let words: [&[u8]; 3] = [b"also", plan, &wanted.join(&0)];
            let there: PartDone = self.ask_for(&share.name, id, &words)?;
            let there = Applied { is_begun: true, ..there.into_applied() };
            if there.moved_total > 0 {
                return Err(self.moved(header, true, &done, &there));
            }
            self.fetch_carried(share, opened, id, &folders)?;
        }
        Ok(Applied::default())
    }

    /// The last of a plan that is carried out here: the other site ends it too.
    fn finish_failback(
        &self,
        role: &ShareRole,
        id: PlanId,
        plan: &[u8],
        header: Header,
    ) -> Result<Carried, Failure> {
        let over = |view: &RoleView| view.record.phase == Phase::Active;
        let view = self.await_role(role, RECONCILE_PATIENCE, |view| {
            (over(view) || is_heard(view, id)).then_some(Ok(()))
        })?;
        if !over(&view) {
            let _: PartDone = self.ask_for(&role.share, id, &[b"finish", plan])?;
        }
        self.await_role(role, RECONCILE_PATIENCE, |view| {
            (over(view) && !view.busy).then_some(Ok(()))
        })?;
        let PartsDone { production, recovery, .. } = self.kept_parts(&role.share, id);
        let manifests = [&recovery.manifest, &production.manifest];
        let manifests = manifests.into_iter().flatten().cloned().collect();
        let (production, recovery) = (production.into_applied(), recovery.into_applied());
        Ok(Carried { production, recovery, header, manifests })
    }

    fn parts_file(&self, share: &str) -> PathBuf {
        self.state.folder().join("failback").join(format!("{share}.done"))
    }

    fn keep_parts(
        &self,
        share: &str,
        id: PlanId,
        recovery: PartDone,
        production: PartDone,
    ) -> Result<(), Failure> {
        let file = self.parts_file(share);
        // Of a call that came as far: it was the first to end, and saw the most.
        if self.kept_parts(share, id).plan == hex_of(id) {
            return Ok(());
        }
        let parts = PartsDone { plan: hex_of(id), production, recovery };
        let bytes = serde_json::to_vec(&parts).map_err(|e| Failure::new(Exit::Internal, &e))?;
        write_durably(&file, &bytes).map_err(|e| disk(&file, &e))
    }

    /// What both parts of the plan `id` came to; nothing where that was lost, which the plan does not depend on.
    fn kept_parts(&self, share: &str, id: PlanId) -> PartsDone {
        let kept = std::fs::read(self.parts_file(share)).ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<PartsDone>(&bytes).ok());
        kept.filter(|parts| parts.plan == hex_of(id)).unwrap_or_default()
    }

    /// Asks the other site for something about the plan `id`, and waits for what came of it.
    pub(super) fn ask_for<T: serde::de::DeserializeOwned>(
        &self,
        share: &str,
        id: PlanId,
        words: &[&[u8]],
    ) -> Result<T, Failure> {
        let link = self.call(Purpose::Reconcile, share, id.0)?;
        for word in words {
            send_parts(&link, &mut &**word)?;
        }
        let mut answer = Vec::new();
        receive_parts(&link, &mut answer, ANSWER_LEN_MAX)?;
        link.close(CloseCode::Done as u32, "");
        serde_json::from_slice(&answer).map_err(|e| Failure::new(Exit::Internal, &e))
    }

    /// Paths are not what the plan was made with: what was done so far, and what may be typed.
    fn moved(&self, header: &Header, under_way: bool, here: &Applied, there: &Applied) -> Failure {
        let mut text = Vec::new();
        for (site, applied) in [("this site", here), ("the other site", there)] {
            if applied.moved_total > 0 {
                let named = applied.moved.iter().take(TOLD_MAX);
                let named: Vec<String> =
                    named.map(|(path, why)| format!("{path}: {why}")).collect();
                text.push(format!(
                    "{} paths of {site} are not what the plan was made with: {}",
                    applied.moved_total,
                    named.join("; ")
                ));
            }
        }
        let quarantine = folders_of(header).quarantine();
        let part = |site: &str, applied: &Applied| match applied.is_begun {
            true => format!("{site} has done of the plan what is in its {quarantine}"),
            false => format!("{site} has done nothing"),
        };
        text.push(match here.is_begun || there.is_begun {
            true => format!("{}, {}", part("the other site", there), part("this site", here)),
            false => "nothing was done at either site".into(),
        });
        let hint = match under_way {
            true => format!(
                "put those paths back and type farshore failback apply --plan {} again; or farshore failback \
                 abandon takes back what the other site did, and farshore failback plan makes a new one",
                self.plan_file(&header.share).display()
            ),
            false => "farshore failback plan makes a new one".into(),
        };
        Failure { exit: Exit::Held, message: text.join(". "), hint: Some(hint) }
    }

    /// Why something is not done while a plan is under way, and what is to be typed.
    pub(super) fn is_under_way(&self, share: &str, plan: PlanId, what: &str) -> Failure {
        let file = match self.plan_under_way(share, plan) {
            Ok(Some(_)) => self.plan_file(share).display().to_string(),
            _ => "FILE".into(),
        };
        Failure {
            exit: Exit::Held,
            message: format!("share '{share}': a plan is under way: {what}"),
            hint: Some(format!(
                "farshore failback apply --plan {file} goes on with it; farshore failback abandon gives it up"
            )),
        }
    }

    /// Does this site's part of a plan that the other one sends.
    pub(super) fn reconcile(
        &self,
        role: &ShareRole,
        opened: Opened,
        call: &Call,
        link: &QuicLink,
    ) -> Result<(), Failure> {
        let refused = |text: &str| Failure {
            exit: Exit::Held,
            message: format!("share '{}': {text}", role.share),
            hint: None,
        };
        let id = PlanId(call.plan);
        let mut word = Vec::new();
        receive_parts(link, &mut word, WORD_LEN_MAX)?;
        let ours = role.view().map(|view| view.record.phase);
        let is_this_plan =
            matches!(ours, Some(Phase::Reconciling { plan, open: false, .. }) if plan == id);
        // Looking changes nothing, and of a plan that it did not hear of it did nothing.
        let is_of_none =
            matches!(ours, Some(Phase::Stranded { .. })) && matches!(&*word, b"check" | b"abandon");
        if !is_this_plan && !is_of_none {
            return Err(refused("another plan, or none, is being applied here"));
        }
        if !matches!(&*word, b"check" | b"plan" | b"also" | b"finish" | b"abandon") {
            return Err(refused("the other site asks for something unknown"));
        }
        // It comes with every word: what is kept here may be lost.
        let mut plan = Vec::new();
        receive_parts(link, &mut plan, PLAN_LEN_MAX)?;
        if plan_id(&plan) != id {
            return Err(refused("the plan that came is not the one that was announced"));
        }
        let mut given_up = role.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        match &*word {
            // Of an apply that was broken off before the plan was given up: it waited here since.
            b"plan" | b"also" if *given_up == Some(id) => {
                return Err(refused("this plan is given up"));
            }
            b"abandon" => *given_up = Some(id),
            // Whoever looks first begins anew.
            b"check" => *given_up = None,
            _ => {}
        }
        drop(given_up);
        let internal = |e: serde_json::Error| Failure::new(Exit::Internal, &e);
        let answer = match &*word {
            b"finish" => {
                self.close_plan(&role.share, &plan, &opened)?;
                // Its catalog goes to the end that is opened then.
                drop(opened);
                self.command(role, Command::FinishReconcile { plan: id })?;
                serde_json::to_vec(&PartDone::default()).map_err(internal)?
            }
            b"abandon" => {
                let taken_back = take_back(&plan, &self.plan_file(&role.share), &opened)?;
                serde_json::to_vec(&taken_back).map_err(internal)?
            }
            b"also" => {
                let mut wanted = Vec::new();
                receive_parts(link, &mut wanted, PLAN_LEN_MAX)?;
                let laid = lay_out_also(&plan, &wanted, &self.plan_file(&role.share), &opened)?;
                serde_json::to_vec(&laid).map_err(internal)?
            }
            _ => {
                let done = self.do_part(&role.share, &plan, &opened, &*word == b"plan")?;
                serde_json::to_vec(&done).map_err(internal)?
            }
        };
        send_parts(link, &mut &answer[..])?;
        drop(link.finish_control());
        while matches!(link.recv_control(), Ok(Some(_))) {}
        Ok(())
    }

    /// Looks at this site's paths of a plan, or does its part.
    fn do_part(
        &self,
        share: &str,
        plan: &[u8],
        opened: &Opened,
        does: bool,
    ) -> Result<PartDone, Failure> {
        let file = self.plan_file(share);
        let (header, ..) = checked(plan, &file)?;
        let (folders, divergences) = (folders_of(&header), || iterated(plan));
        let storage = &*opened.storage;
        if !does {
            let found = check_at(storage, &divergences, &folders, SiteOf::Production);
            return Ok(PartDone::from(found.map_err(|e| failed(&e))?));
        }
        self.keep_under_way(share, plan)?;
        let applied = apply_at_production(storage, &divergences, &folders, header.made_unix_ms);
        let applied = applied.map_err(|e| failed(&e))?;
        let text = format!(
            "plan {}: {} versions in {}, {} files to send",
            header.id().short(),
            applied.quarantined,
            folders.quarantine(),
            applied.carried
        );
        self.say_of(share, Level::Info, "failback", text);
        let root = self.config().share(share).map(|share| share.path.clone());
        let what = "quarantine's manifest at the other site";
        let manifest = root.map(|root| manifest_of(storage, &folders, &root, what));
        Ok(PartDone { manifest, ..PartDone::from(applied) })
    }

    /// The last of this site's part, at the site that was lost: its catalog says what its tree is, so that
    /// the first session finds what differs from the site that went on.
    fn close_plan(&self, share: &str, plan: &[u8], opened: &Opened) -> Result<(), Failure> {
        let storage = &*opened.storage;
        let (header, ..) = checked(plan, &self.plan_file(share))?;
        // Is the other site lost before the first session, it is taken back by what is kept.
        self.keep_under_way(share, plan)?;
        let closed = close_at_production(storage, &|| iterated(plan), &folders_of(&header));
        closed.map_err(|e| failed(&e))?;
        // What stays is in nobody's way.
        drop_laid_out(storage).unwrap_or(());
        let settled = farshore_engine::check::settle_by(
            storage,
            &opened.catalog,
            &*opened.policy,
            worker_threads(),
            &opened.folder,
        );
        let settled = settled.map_err(|e| Failure::new(Exit::Disk, &e))?;
        let text =
            format!("{} entries are others here than at the common point", settled.foreign_changes);
        self.say_of(share, Level::Info, "failback", text);
        for problem in settled.problems.iter().take(TOLD_MAX) {
            let text = format!("{}: {}: it is sent anew", problem.path, problem.text);
            self.say_of(share, Level::Warn, "failback", text);
        }
        Ok(())
    }

    /// Where the plan is kept that is being applied here.
    pub(super) fn plan_file(&self, share: &str) -> PathBuf {
        self.state.folder().join("failback").join(format!("{share}.applying"))
    }

    fn keep_under_way(&self, share: &str, plan: &[u8]) -> Result<(), Failure> {
        let file = self.plan_file(share);
        let folder = file.parent().unwrap_or(self.state.folder());
        std::fs::create_dir_all(folder).map_err(|e| disk(folder, &e))?;
        write_durably(&file, plan).map_err(|e| disk(&file, &e))
    }

    /// The plan `id`, if it was begun here and is kept.
    pub(super) fn plan_under_way(
        &self,
        share: &str,
        id: PlanId,
    ) -> Result<Option<UnderWay>, Failure> {
        let file = self.plan_file(share);
        if !file.exists() {
            return Ok(None);
        }
        let bytes = read_plan(&file)?;
        if plan_id(&bytes) != id {
            return Ok(None);
        }
        let (header, ..) = checked(&bytes, &file)?;
        Ok(Some(UnderWay { bytes, folders: folders_of(&header) }))
    }

    /// Sends what the plan brings over: a small tree of further names, as any other.
    pub(super) fn carry_out_to(
        &self,
        opened: &Opened,
        call: &Call,
        link: &QuicLink,
    ) -> Result<(), Failure> {
        let file = self.plan_file(&call.share);
        let plan = read_plan(&file)?;
        let (header, ..) = checked(&plan, &file)?;
        let share = self.config().share(&call.share).cloned();
        let root = share.map(|share| share.path).unwrap_or_default();
        // A folder of ours, which nobody else may write: it is named, not reached by others' names.
        let storage =
            open_root("outgoing", &root.join(folders_of(&header).outgoing()), IoMode::Posix, None)?;
        let catalog = scratch_catalog(&opened.folder, "carry-source.redb", CatalogRole::Source)?;
        let policy = farshore_core::policy::ReplicateAll;
        let config = SourceConfig {
            share: call.share.clone(),
            epoch: Epoch(0),
            policy: &policy,
            threshold: Threshold { entries: u64::MAX, percent: 100 },
            approved: true,
            trust_target: false,
            dry_run: false,
            workers: remote_threads(),
            compression: Compression::Auto,
            striping: Striping::ONE,
            spool_folder: opened.folder.clone(),
            now: &system_wall_clock,
            racy_ns: RACY_NS,
            profile: &Profile::default(),
        };
        let progress = farshore_engine::progress::Progress::default();
        let sent = source::run(&storage, &catalog, link, &config, &progress);
        let sent = sent.map_err(|e| Failure::new(Exit::Connection, &e))?;
        match sent.problems.first() {
            None => Ok(()),
            Some(problem) => Err(Failure {
                exit: Exit::Partial,
                message: format!("{}: {}", problem.path, problem.text),
                hint: None,
            }),
        }
    }

    /// Takes what the plan brings over.
    fn fetch_carried(
        &self,
        share: &Share,
        opened: &Opened,
        id: PlanId,
        folders: &Folders,
    ) -> Result<(), Failure> {
        let failed = |e: &dyn std::error::Error| Failure::new(Exit::Connection, e);
        let incoming = folders.incoming();
        made_below(&*opened.storage, &incoming).map_err(|e| disk(Path::new(&incoming), &e))?;
        let storage = open_root("incoming", &share.path.join(&incoming), IoMode::Posix, None)?;
        let catalog = scratch_catalog(&opened.folder, "carry-target.redb", CatalogRole::Target)?;
        let link = self.call(Purpose::Carry, &share.name, id.0)?;
        let hello = target::receive_hello(&link).map_err(|e| failed(&e))?;
        let options = TargetOptions {
            devices: true,
            history_age_max_ms: 0,
            history_bytes_max: 0,
            history_sets_max: 0,
            io_limit: None,
            epoch: None,
            policies: None,
        };
        let config = options.config(opened.folder.clone(), Arc::default())?;
        target::run(&storage, &catalog, &link, &hello, &config).map_err(|e| failed(&e))?;
        Ok(())
    }
}

/// What a site's part of a plan came to, as it is told.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct PartDone {
    #[serde(default)]
    is_begun: bool,
    moved: Vec<(String, String)>,
    moved_total: u64,
    quarantined: u64,
    quarantined_bytes: u64,
    carried: u64,
    #[serde(default)]
    placed: u64,
    #[serde(default)]
    removed: u64,
    /// Of its quarantine.
    #[serde(default)]
    manifest: Option<DrillFile>,
}

impl From<Applied> for PartDone {
    fn from(applied: Applied) -> Self {
        let moved = applied.moved.into_iter().take(NAMED_MAX);
        Self {
            is_begun: applied.is_begun,
            moved: moved.map(|(path, why)| (path.to_string(), why)).collect(),
            moved_total: applied.moved_total,
            quarantined: applied.quarantined,
            quarantined_bytes: applied.quarantined_bytes,
            carried: applied.carried,
            placed: applied.placed,
            removed: applied.removed,
            manifest: None,
        }
    }
}

impl PartDone {
    fn into_applied(self) -> Applied {
        let path =
            |text: String| farshore_core::path::unescape(&text).and_then(|b| RelPath::new(b).ok());
        let moved = self.moved.into_iter().filter_map(|(text, why)| Some((path(text)?, why)));
        Applied {
            is_begun: self.is_begun,
            moved: moved.collect(),
            moved_total: self.moved_total,
            quarantined: self.quarantined,
            quarantined_bytes: self.quarantined_bytes,
            carried: self.carried,
            placed: self.placed,
            removed: self.removed,
            ..Applied::default()
        }
    }
}

/// Lays out what the other site wants besides: paths, a zero byte between two.
fn lay_out_also(
    plan: &[u8],
    wanted: &[u8],
    file: &Path,
    opened: &Opened,
) -> Result<PartDone, Failure> {
    let (header, ..) = checked(plan, file)?;
    let paths = wanted.split(|byte| *byte == 0).map(|path| RelPath::new(path.to_vec()));
    let paths: Result<HashSet<RelPath>, _> = paths.collect();
    let paths = paths.map_err(|e| Failure::new(Exit::Connection, &e))?;
    let divergences = || iterated(plan);
    let laid = lay_out_wanted(&*opened.storage, &divergences, &folders_of(&header), &paths);
    Ok(PartDone::from(laid.map_err(|e| failed(&e))?))
}

/// Whether the other site says that it carries the plan `id` out.
fn is_heard(view: &RoleView, id: PlanId) -> bool {
    let said = view.peer.as_ref().map(|peer| peer.said.phase);
    matches!(said, Some(Phase::Reconciling { plan, open: false, .. }) if plan == id)
}

fn hex_of(id: PlanId) -> String {
    blake3::Hash::from_bytes(id.0).to_hex().to_string()
}

/// A file that is read by the handle of its share.
struct Reading<'s, S: Storage> {
    storage: &'s S,
    file: S::File,
    at: u64,
}

impl<S: Storage> Read for Reading<'_, S> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.storage.read_at(&self.file, self.at, into)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The manifest of a plan's quarantine below `root`, which `storage` is open at: no link is followed to it.
fn manifest_of(storage: &impl Storage, folders: &Folders, root: &Path, what: &str) -> DrillFile {
    let quarantine = folders.quarantine();
    let opened = storage
        .open_directory(storage.root(), quarantine.as_bytes())
        .and_then(|at| storage.open_file(&at, b"manifest"))
        .map(|file| Reading { storage, file, at: 0 });
    drills::hashed(what, &root.join(quarantine).join("manifest"), opened)
}

pub(super) fn failed(e: &ApplyPlanError) -> Failure {
    Failure::new(Exit::Partial, e)
}

type Divergences<'p> =
    Box<dyn Iterator<Item = Result<farshore_core::failback::Divergence, ListError>> + 'p>;

pub(super) fn iterated(plan: &[u8]) -> Result<Divergences<'_>, ListError> {
    Ok(Box::new(PlanReader::new(plan)?))
}

fn scratch_catalog(folder: &Path, name: &str, role: CatalogRole) -> Result<Catalog, Failure> {
    let config = farshore_engine::catalog::CatalogConfig {
        role,
        cache_bytes: 4 << 20,
        fresh_id: crate::state::random_id().map_err(|e| Failure::new(Exit::Internal, &e))?,
    };
    Catalog::open(&folder.join(name), &config).map_err(|e| crate::replicate::catalog_failure(&e))
}

fn made_below(storage: &impl Storage, path: &str) -> std::io::Result<()> {
    let mut directory = storage.open_directory(storage.root(), b"")?;
    for name in path.split('/') {
        directory =
            farshore_engine::own_folder::ensure_directory(storage, &directory, name.as_bytes())?;
    }
    Ok(())
}
