//! A plan is carried out: at the site that is alone, which asks the stranded one to do its part first.
//!
//! Guarantees: a plan is applied only while both sites are as it says, path by path; what is asked again goes on
//! where it was. Refuses a plan of another share, pair, epoch or base.

use super::*;

/// Paths that are named to the other site.
const NAMED_MAX: usize = 100;
/// How long the other site may take to hear of a change of role.
const RECONCILE_PATIENCE: Duration = Duration::from_secs(60);

impl Daemon {
    /// Carries out a plan at the site that is alone here.
    pub(in crate::site::daemon) fn apply_failback(
        &self,
        file: &Path,
        accept_held: bool,
    ) -> Result<(Applied, Applied, Header), Failure> {
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
        let _one = role.commanding.lock().unwrap_or_else(PoisonError::into_inner);
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
        let view = role.view().filter(is_alone).ok_or_else(|| {
            held(
                "this site is not alone with a stranded one".into(),
                "farshore status says where both stand",
            )
        })?;
        // A word that the other site is off raises the epoch also while a plan is under way.
        let under_way = matches!(
            view.record.phase,
            Phase::Reconciling { plan: under_way, .. } if under_way == plan_id(&plan)
        );
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
                "farshore failback show --outcome hold names them, failback decide decides; or apply with \
                 --accept-held: they stay as recovery has them, production's versions in quarantine",
            ));
        }
        let id = plan_id(&plan);
        self.command(role, Command::BeginReconcile { plan: id })?;
        self.await_role(role, RECONCILE_PATIENCE, |view| {
            let said = view.peer.as_ref().map(|peer| peer.said.phase);
            match said {
                Some(Phase::Reconciling { plan, open: false, .. }) if plan == id => Some(Ok(())),
                _ => None,
            }
        })?;
        let folders = folders_of(&header);
        let at_production = self.ask_reconcile(&share.name, &plan, id)?;
        if at_production.moved_total > 0 {
            return Err(moved("the other site", &at_production));
        }
        let opened = self.open_for_plan(&share)?;
        if at_production.carried > 0 {
            self.fetch_carried(&share, &opened, id, &folders)?;
        }
        let divergences = || iterated(&plan);
        let applied =
            apply_at_recovery(&*opened.storage, &divergences, &folders, header.made_unix_ms);
        let applied = applied.map_err(|e| Failure::new(Exit::Partial, &e))?;
        if applied.moved_total > 0 {
            return Err(moved("this site", &applied));
        }
        if applied.late_total > 0 {
            let named = applied.late.iter().take(TOLD_MAX).map(ToString::to_string);
            let text = format!(
                "plan {}: somebody changed {} paths while it was carried out, they stay as they are now: {}",
                header.id().short(),
                applied.late_total,
                named.collect::<Vec<_>>().join("; ")
            );
            self.say_of(&share.name, Level::Warn, "failback", text);
        }
        drop_folders(&*opened.storage, &folders);
        // Its catalog goes back to whoever opens it next.
        drop(opened);
        self.command(role, Command::FinishReconcile { plan: id })?;
        self.tell_finished(&share.name, id)?;
        self.await_role(role, RECONCILE_PATIENCE, |view| match view.record.phase {
            Phase::Active if !view.busy => Some(Ok(())),
            _ => None,
        })?;
        Ok((at_production, applied, header))
    }

    /// Has the other site do its part of a plan.
    fn ask_reconcile(&self, share: &str, plan: &[u8], id: PlanId) -> Result<Applied, Failure> {
        let link = self.call(Purpose::Reconcile, share, id.0)?;
        send_parts(&link, &mut &b"plan"[..])?;
        send_parts(&link, &mut &*plan)?;
        let mut answer = Vec::new();
        receive_parts(&link, &mut answer)?;
        link.close(CloseCode::Done as u32, "");
        let answer: PartDone =
            serde_json::from_slice(&answer).map_err(|e| Failure::new(Exit::Internal, &e))?;
        Ok(answer.into_applied())
    }

    /// Tells the other site that its part is over.
    fn tell_finished(&self, share: &str, id: PlanId) -> Result<(), Failure> {
        let link = self.call(Purpose::Reconcile, share, id.0)?;
        send_parts(&link, &mut &b"finish"[..])?;
        let mut answer = Vec::new();
        receive_parts(&link, &mut answer)?;
        link.close(CloseCode::Done as u32, "");
        Ok(())
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
        let ours = role.view().map(|view| view.record.phase);
        if !matches!(ours, Some(Phase::Reconciling { plan, open: false, .. }) if plan == id) {
            return Err(refused("another plan, or none, is being applied here"));
        }
        let mut word = Vec::new();
        receive_parts(link, &mut word)?;
        let done = match &*word {
            b"finish" => {
                let file = self.plan_file(&role.share);
                if let Ok(plan) = read_plan(&file) {
                    let (header, ..) = checked(&plan, &file)?;
                    drop_folders(&*opened.storage, &folders_of(&header));
                }
                // Its catalog goes to the end that is opened then.
                drop(opened);
                self.command(role, Command::FinishReconcile { plan: id })?;
                PartDone::default()
            }
            b"plan" => {
                let mut plan = Vec::new();
                receive_parts(link, &mut plan)?;
                if plan_id(&plan) != id {
                    return Err(refused("the plan that came is not the one that was announced"));
                }
                let file = self.plan_file(&role.share);
                let folder = file.parent().unwrap_or(self.state.folder());
                std::fs::create_dir_all(folder).map_err(|e| disk(folder, &e))?;
                write_durably(&file, &plan).map_err(|e| disk(&file, &e))?;
                let (header, ..) = checked(&plan, &file)?;
                let divergences = || iterated(&plan);
                let folders = folders_of(&header);
                let applied = apply_at_production(
                    &*opened.storage,
                    &divergences,
                    &folders,
                    header.made_unix_ms,
                );
                let applied = applied.map_err(|e| Failure::new(Exit::Partial, &e))?;
                let text = format!(
                    "plan {}: {} versions in {}, {} files to send",
                    header.id().short(),
                    applied.quarantined,
                    folders.quarantine(),
                    applied.carried
                );
                self.say_of(&role.share, Level::Info, "failback", text);
                PartDone::from(applied)
            }
            _ => return Err(refused("the other site asks for something unknown")),
        };
        let answer = serde_json::to_vec(&done).map_err(|e| Failure::new(Exit::Internal, &e))?;
        send_parts(link, &mut &answer[..])?;
        drop(link.finish_control());
        while matches!(link.recv_control(), Ok(Some(_))) {}
        Ok(())
    }

    /// The plan that is being applied here, at the site that did not make it.
    fn plan_file(&self, share: &str) -> PathBuf {
        self.state.folder().join("failback").join(format!("{share}.applying"))
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
#[derive(Debug, Default, Serialize, Deserialize)]
struct PartDone {
    moved: Vec<(String, String)>,
    moved_total: u64,
    quarantined: u64,
    quarantined_bytes: u64,
    carried: u64,
}

impl From<Applied> for PartDone {
    fn from(applied: Applied) -> Self {
        let moved = applied.moved.into_iter().take(NAMED_MAX);
        Self {
            moved: moved.map(|(path, why)| (path.to_string(), why)).collect(),
            moved_total: applied.moved_total,
            quarantined: applied.quarantined,
            quarantined_bytes: applied.quarantined_bytes,
            carried: applied.carried,
        }
    }
}

impl PartDone {
    fn into_applied(self) -> Applied {
        let path =
            |text: String| farshore_core::path::unescape(&text).and_then(|b| RelPath::new(b).ok());
        let moved = self.moved.into_iter().filter_map(|(text, why)| Some((path(text)?, why)));
        Applied {
            moved: moved.collect(),
            moved_total: self.moved_total,
            quarantined: self.quarantined,
            quarantined_bytes: self.quarantined_bytes,
            carried: self.carried,
            ..Applied::default()
        }
    }
}

fn moved(site: &str, applied: &Applied) -> Failure {
    let named = applied.moved.iter().take(TOLD_MAX);
    let named: Vec<String> = named.map(|(path, why)| format!("{path}: {why}")).collect();
    Failure {
        exit: Exit::Held,
        message: format!(
            "{} paths of {site} are not what the plan was made with, and nothing was done: {}",
            applied.moved_total,
            named.join("; ")
        ),
        hint: Some("farshore failback plan makes a new one".into()),
    }
}

type Divergences<'p> =
    Box<dyn Iterator<Item = Result<farshore_core::failback::Divergence, ListError>> + 'p>;

fn iterated(plan: &[u8]) -> Result<Divergences<'_>, ListError> {
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

/// Takes away what was made for a plan but its quarantine. What stays is in nobody's way.
fn drop_folders(storage: &impl Storage, folders: &Folders) {
    let parent = storage.open_directory(storage.root(), b".farshore/failback");
    if let Ok(parent) = parent {
        drop(farshore_engine::own_folder::remove_tree(storage, &parent, folders.plan.as_bytes()));
    }
}
