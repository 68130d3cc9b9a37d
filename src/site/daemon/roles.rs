//! The role of each share: its machine, and what it wants done.
//!
//! ```text
//! words of the peer, ticks, commands, what hooks and writes came to ──► one thread a share ──► machine
//!          effects, in their order ◄───────────────────────────────────┘
//! audit · gate · end of the share turned · record written · hooks and drains on threads of their own · words
//! ```
//! Guarantees: effects are carried out in their order, and what depends on a write is not begun before it is
//! durable: a write that fails is tried again until it succeeds, and until then the gate stays closed. When an
//! end is turned, what the former one did is over before the next effect. A command that is broken off goes on.
//!
//! Refuses to put a marker into an empty root of a share that has a record: that is a mount point. After a crash
//! the record and the marker say what is owed.

use std::time::Instant;

use farshore_core::role::{
    Command, DataRole, Effect, FirstRole, Gate, Hook, Input, Kept, Lease, Now, Phase, PlanId,
    Point, Record as RoleRecord, Refused, Role as Machine, RoleConfig, RoleView, Say, SiteId,
    Stamp,
};
use farshore_engine::catalog::Turning;
use farshore_engine::io::uring::UringStorage;

pub(super) mod commanding;
mod keeping;
mod sealing;
mod showing;
mod standing;

use commanding::{Commanding, LONG};

use super::ends::{PeerIds, Want, site_catalog};
use super::marker::{NoRole, is_empty, read_marker, write_marker};
use super::root::{self, Closed};
use super::*;
use crate::site::failover;
use crate::site::hooks::{HookError, Which};
use crate::state::{random_id, write_durably};

/// What is said at least so often.
const BEAT: Duration = Duration::from_secs(1);
/// How long a write that failed waits until it is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(2);
/// How long a share whose root cannot be read waits until it is tried again.
const ROOT_AGAIN: Duration = Duration::from_secs(2);
/// What waits for a machine at most.
const QUEUED_MAX: usize = 1_024;

/// Something for a machine.
enum Item {
    Input(Input),
    Command(Command, Told<Result<(), Refused>>),
}

/// The role of one share at this site.
pub(super) struct ShareRole {
    pub(super) share: String,
    file: PathBuf,
    life: u64,
    /// Not there until the root could be read.
    machine: Mutex<Option<Machine>>,
    tell: Told<Item>,
    items: Queue<Item>,
    /// A drain is under way.
    draining: AtomicBool,
    /// The last point that is known here was shown, or is by an end.
    shows_point: AtomicBool,
    /// Points that were sealed before the share's end was turned last.
    seals: AtomicU64,
    /// What a drain waits for.
    waits: Mutex<Option<String>>,
    /// What was refused last of what the other site sent: it may dial again and again.
    refused: Mutex<String>,
    /// One operator's command at a time.
    pub(super) commanding: Commanding,
    /// The failback plan that was taken back here last, until it is begun anew.
    pub(super) given_up: Mutex<Option<PlanId>>,
}

impl std::fmt::Debug for ShareRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareRole").field("share", &self.share).finish_non_exhaustive()
    }
}

impl ShareRole {
    pub(super) fn new(share: &Share, state: &State) -> Result<Self, Failure> {
        let folder = state.folder().join("roles");
        let made = std::fs::create_dir_all(&folder);
        made.map_err(|e| Failure {
            exit: Exit::Refused,
            message: format!("state folder {}: making it: {e}", folder.display()),
            hint: None,
        })?;
        let id = random_id().map_err(|e| Failure::new(Exit::Internal, &e))?;
        let life = u64::from_le_bytes(std::array::from_fn(|n| id.0[n]));
        let (tell, items) = bounded(QUEUED_MAX);
        Ok(Self {
            share: share.name.clone(),
            file: folder.join(&share.name),
            life,
            machine: Mutex::default(),
            tell,
            items,
            draining: AtomicBool::new(false),
            shows_point: AtomicBool::new(false),
            seals: AtomicU64::new(0),
            waits: Mutex::default(),
            refused: Mutex::default(),
            commanding: Commanding::default(),
            given_up: Mutex::default(),
        })
    }

    fn machine(&self) -> std::sync::MutexGuard<'_, Option<Machine>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what waits for the machine; a machine that takes nothing is told again by the next word.
    pub(super) fn input(&self, input: Input) {
        self.tell.try_send(Item::Input(input)).unwrap_or(());
    }

    /// As [`Self::input`] for what is said once: waits for room, so not on the machine's own thread.
    fn report(&self, input: Input) {
        self.tell.send(Item::Input(input)).unwrap_or(());
    }

    /// What there is to show, if the root could be read.
    pub(super) fn view(&self) -> Option<RoleView> {
        self.machine().as_ref().map(|machine| machine.view(clock().ms))
    }

    /// Whether services may work with the share now.
    pub(super) fn gate(&self) -> Result<(), String> {
        match self.machine().as_ref().map(|machine| machine.gate(clock().ms)) {
            Some(Gate::Open) => Ok(()),
            Some(Gate::Closed(why)) => Err(why.to_string()),
            None => Err("its root could not be read yet".into()),
        }
    }

    /// Whether this is not what was refused last.
    pub(super) fn is_news(&self, refused: &str) -> bool {
        let mut last = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *last != refused;
        refused.clone_into(&mut last);
        is_news
    }

    fn waits_for(&self, what: Option<String>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn waiting(&self) -> Option<String> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn peer_file(&self) -> PathBuf {
        self.file.with_extension("peer")
    }

    /// The identities of the other end that were heard last, before this run perhaps.
    fn kept_peer(&self) -> Option<[[u8; 16]; 2]> {
        let bytes = std::fs::read(self.peer_file()).ok()?;
        let (catalog, tree) = bytes.split_at_checked(16)?;
        Some([catalog.try_into().ok()?, tree.try_into().ok()?])
    }

    /// Keeps them, when they are others. Without them the ends would take each other for strangers.
    fn keep_peer(&self, said: &Say) {
        let ids = [said.catalog, said.tree];
        if self.kept_peer() != Some(ids) {
            write_durably(&self.peer_file(), ids.as_flattened()).unwrap_or(());
        }
    }

    /// Reads what is kept of the role.
    fn kept(&self) -> Result<Kept<RoleRecord>, String> {
        match std::fs::read(&self.file) {
            Ok(bytes) => Ok(RoleRecord::decode(&bytes).map_or(Kept::Damaged, Kept::Found)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Kept::Nothing),
            Err(e) => Err(format!("{}: {e}", self.file.display())),
        }
    }
}

/// The time as machines want it.
pub(super) fn clock() -> Now {
    // Goes on while the machine sleeps, and never back.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000);
    let ms = ms.saturating_add(u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0));
    Now { ms, wall_ms: now_ms() }
}

/// Which start of this machine it is; a kernel that does not say is one that was started anew.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digest = blake3::derive_key("farshore start of a machine v1", &text);
    let unknown = random_id().map_or([0; 16], |id| id.0);
    if text.is_empty() { unknown } else { std::array::from_fn(|n| digest[n]) }
}

/// How the machines of both ends know a site.
fn site_id(name: &str) -> SiteId {
    SiteId(blake3::derive_key("farshore site of a role v1", name.as_bytes()))
}

impl Daemon {
    pub(super) fn role(&self, share: &str) -> Option<&Arc<ShareRole>> {
        self.roles.get(share)
    }

    /// The link over which roles are spoken of is there, or is gone.
    pub(super) fn roles_linked(&self, is_up: bool) {
        self.board.answers(is_up);
        for role in self.roles.values() {
            role.input(if is_up { Input::LinkUp } else { Input::LinkDown });
        }
    }

    /// The other site said something of a role.
    pub(super) fn role_heard(&self, share: &str, said: &[u8]) {
        // A share the other site alone has is none of ours.
        let Some(role) = self.role(share) else { return };
        match Say::decode(said) {
            Ok(say) => {
                self.talk.lives(share, say.beat.life);
                role.input(Input::Heard(Box::new(say)));
            }
            Err(e) => self.say_of(share, Level::Warn, "role", format!("what the peer said: {e}")),
        }
    }

    /// How the other end of a share is known, as it said last: in this run or in one before.
    pub(super) fn joined_with(&self, share: &str) -> PeerIds {
        let Some(role) = self.role(share) else { return PeerIds::default() };
        let said = role.view().and_then(|view| view.peer);
        let ids = said.map(|peer| [peer.said.catalog, peer.said.tree]);
        let ids = ids.or_else(|| role.kept_peer()).unwrap_or_default();
        let [catalog, tree] =
            ids.map(|id| (id != [0; 16]).then_some(farshore_proto::message::StoreId(id)));
        PeerIds { catalog, tree }
    }

    /// Runs the machine of a share for as long as the daemon runs.
    pub(super) fn tend_role(&self, role: &ShareRole) {
        while !self.is_stopping() {
            match self.start_role(role) {
                Ok(effects) => {
                    self.carry_out(role, effects);
                    break;
                }
                Err(why) => {
                    self.show_no_role(role, &why);
                    self.pause(ROOT_AGAIN);
                }
            }
        }
        while !self.is_stopping() {
            let due = role.machine().as_ref().map_or(0, Machine::next_timeout);
            let wait = due.saturating_sub(clock().ms).clamp(1, 200);
            self.follow_seals(role);
            self.watch_talk();
            let item = role.items.recv_timeout(Duration::from_millis(wait));
            let effects = match item {
                Ok(Item::Input(input)) => {
                    let heard = matches!(input, Input::Heard(_));
                    let effects = self.step(role, |machine, now| machine.handle(now, input));
                    if let Some(peer) = role.view().filter(|_| heard).and_then(|view| view.peer) {
                        role.keep_peer(&peer.said);
                    }
                    effects
                }
                Ok(Item::Command(command, reply)) => {
                    let mut refused = None;
                    let effects = self.step(role, |machine, now| {
                        machine.command(now, command).unwrap_or_else(|e| {
                            refused = Some(e);
                            Vec::new()
                        })
                    });
                    // Who asked may have left.
                    reply.send(refused.map_or(Ok(()), Err)).unwrap_or(());
                    effects
                }
                Err(_) => self.step(role, |machine, now| machine.handle(now, Input::Tick)),
            };
            self.carry_out(role, effects);
        }
    }

    fn step(
        &self,
        role: &ShareRole,
        act: impl FnOnce(&mut Machine, Now) -> Vec<Effect>,
    ) -> Vec<Effect> {
        let mut machine = role.machine();
        machine.as_mut().map(|machine| act(machine, clock())).unwrap_or_default()
    }

    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.is_stopping() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn start_role(&self, role: &ShareRole) -> Result<Vec<Effect>, NoRole> {
        let config = self.config();
        let share = config.share(&role.share);
        let share = share.ok_or_else(|| NoRole::State("it is not in the config".into()))?;
        let record = role.kept()?;
        let storage = self.role_storage(share).map_err(NoRole::Root)?;
        let is_meant = self.slot(&role.share).is_some_and(|slot| slot.is_approved());
        let (tree, marker) = read_marker(&storage, record != Kept::Nothing && !is_meant)?;
        let lease = share.lease.map(|lease| Lease {
            ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            stop_ms: u64::try_from(lease.as_millis() / 4).unwrap_or(0),
        });
        let beat = lease.map_or(BEAT, |lease| BEAT.min(Duration::from_millis(lease.ms / 5)));
        let made = RoleConfig {
            boot: boot_id(),
            site: site_id(&config.site.name),
            peer: site_id(&config.peer.name),
            first_role: match share.role {
                Role::Active => FirstRole::Active,
                Role::Standby => FirstRole::Standby,
            },
            lease,
            beat_ms: u64::try_from(beat.as_millis()).unwrap_or(1_000),
            life: role.life,
            catalog: self.catalog_id(share, &config)?,
            tree: tree.0,
        };
        let (mut machine, mut effects) = Machine::start(record, marker, made, clock());
        // Before the first word: one that says less than was said before would look like a record cut short.
        effects.extend(machine.handle(clock(), Input::Audit(self.audit_head())));
        *role.machine() = Some(machine);
        Ok(effects)
    }

    /// The catalog's identity, whichever end it serves now; it is made where there is none.
    fn catalog_id(&self, share: &Share, config: &SiteConfig) -> Result<[u8; 16], String> {
        let names = site_catalog(share, config);
        let there = self.state.site_catalog_as_it_is(&names);
        if let Some(catalog) = there.map_err(|e| farshore_engine::ingest::describe(&e))? {
            return Ok(catalog.id().0);
        }
        let role = match share.role {
            Role::Active => CatalogRole::Source,
            Role::Standby => CatalogRole::Target,
        };
        let made = self.state.site_catalog(&names, &Turning { role, joined_with: None });
        made.map(|(catalog, _)| catalog.id().0).map_err(|e| farshore_engine::ingest::describe(&e))
    }

    fn role_storage(&self, share: &Share) -> Result<UringStorage, String> {
        open_root("share", &share.path, IoMode::Posix, None).map_err(|e| e.message)
    }

    /// Carries out effects, and those of what comes of them at once.
    fn carry_out(&self, role: &ShareRole, effects: Vec<Effect>) {
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let more = match effect {
                Effect::Audit(event) => {
                    self.audit_role(role, &event);
                    Vec::new()
                }
                Effect::CloseGate(why) => {
                    let text = format!("closed: {why}");
                    self.say_of(&role.share, Level::Warn, "gate", text);
                    Vec::new()
                }
                Effect::OpenGate => {
                    let text = "open: services may work with the share here".to_owned();
                    self.say_of(&role.share, Level::Info, "gate", text);
                    Vec::new()
                }
                Effect::AbortDrain => {
                    role.draining.store(false, Relaxed);
                    Vec::new()
                }
                Effect::Turn(data) => {
                    self.turn(role, data);
                    Vec::new()
                }
                Effect::ReadPoint => {
                    let point = self.read_point(&role.share).unwrap_or_else(|failure| {
                        self.say_of(&role.share, Level::Error, "role", failure.message);
                        None
                    });
                    self.step(role, |machine, now| machine.handle(now, Input::Point(point)))
                }
                Effect::Persist { write, marker, record } => {
                    if !self.persist(role, marker, &record) {
                        return;
                    }
                    self.step(role, |machine, now| machine.handle(now, Input::Persisted { write }))
                }
                Effect::BeginDrain => {
                    self.begin_drain(role);
                    Vec::new()
                }
                Effect::RunHook(hook) => {
                    self.run_hook(role, hook);
                    Vec::new()
                }
                Effect::Send(say) => {
                    let (share, said) = (role.share.clone(), say.encode());
                    self.talk.send(&Message::Say { share, said });
                    Vec::new()
                }
            };
            // What comes of it comes behind what was wanted before.
            effects.extend(more);
        }
        self.follow_phase(role);
        self.show_role(role);
    }

    /// An end that neither sends nor receives watches or not as the phase says, and phases change without a
    /// word about data: a site that has just become active watches before the other one is heard of.
    fn follow_phase(&self, role: &ShareRole) {
        let Some(slot) = self.slot(&role.share) else { return };
        let former = slot.wanted();
        let want = wanted(role, DataRole::Neither);
        if matches!(former, Want::Nothing | Want::Source(None)) && want != former {
            slot.turn(want, &|| self.is_stopping());
        }
    }

    /// Turns the end of the share; what the former one did is over when it returns.
    fn turn(&self, role: &ShareRole, data: DataRole) {
        if let Some(slot) = self.slot(&role.share) {
            slot.turn(wanted(role, data), &|| self.is_stopping());
        }
        role.seals.store(self.seals(role), Relaxed);
    }

    /// The last recovery point of this site, if what it holds is that very point.
    fn read_point(&self, share: &str) -> Result<Option<Point>, Failure> {
        if let Some(end) = self.slot(share).and_then(|slot| slot.end()) {
            return point_of(end.catalog());
        }
        let config = self.config();
        let Some(share) = config.share(share) else { return Ok(None) };
        match self.state.site_catalog_as_it_is(&site_catalog(share, &config)) {
            Ok(Some(catalog)) => point_of(&catalog),
            Ok(None) => Ok(None),
            Err(e) => Err(Failure::new(Exit::Refused, &e)),
        }
    }

    fn begin_drain(&self, role: &ShareRole) {
        if role.draining.swap(true, Relaxed) {
            return;
        }
        let Some(daemon) = self.me.upgrade() else { return };
        let share = role.share.clone();
        std::thread::spawn(move || {
            let Some(role) = daemon.role(&share) else { return };
            let over = || daemon.is_stopping() || !role.draining.load(Relaxed);
            while !over() {
                let Some(outgoing) = daemon.outgoing(&share) else {
                    std::thread::sleep(WAIT_FOR_END);
                    continue;
                };
                let drained = outgoing.sender.drain(&over, &|what| role.waits_for(what));
                if let Some(point) = drained {
                    let batch = outgoing.catalog.reader().and_then(|reader| reader.applied_batch());
                    let point = Point {
                        sequence: point.sequence,
                        batch: batch.unwrap_or(0),
                        root: point.root,
                        time_unix_ms: point.time_unix_ms,
                    };
                    role.report(Input::Drained { point });
                    break;
                }
            }
            role.waits_for(None);
            role.draining.store(false, Relaxed);
        });
    }

    fn run_hook(&self, role: &ShareRole, hook: Hook) {
        let Some(daemon) = self.me.upgrade() else { return };
        let share = role.share.clone();
        let epoch = role.view().map_or(0, |view| view.record.epoch.0);
        std::thread::spawn(move || {
            let which = match hook {
                Hook::Start => Which::Start,
                Hook::Stop => Which::Stop,
            };
            let config = daemon.config();
            let root = config.share(&share).map(|s| s.path.display().to_string());
            let env = [
                ("FARSHORE_SHARE", share.clone()),
                ("FARSHORE_SITE", config.site.name.clone()),
                ("FARSHORE_HOOK", which.name().to_owned()),
                ("FARSHORE_EPOCH", epoch.to_string()),
                ("FARSHORE_ROOT", root.unwrap_or_default()),
            ];
            let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let has = daemon.hooks.has(&share, which);
            if has {
                daemon.say_of(&share, Level::Info, "hook", format!("'{}' begins", which.name()));
            }
            let began = Instant::now();
            let ok = match daemon.hooks.run(&share, which, env) {
                Ok(()) => {
                    if has {
                        let text =
                            format!("'{}' ended well in {:?}", which.name(), began.elapsed());
                        daemon.say_of(&share, Level::Info, "hook", text);
                    }
                    true
                }
                Err(HookError::Gone { .. }) if daemon.stops_soon() => {
                    let text =
                        format!("'{}' ends with the site; its next start runs it", which.name());
                    daemon.say_of(&share, Level::Info, "hook", text);
                    return;
                }
                Err(e) => {
                    daemon.say_of(&share, Level::Error, "hook", e.to_string());
                    false
                }
            };
            if let Some(role) = daemon.role(&share) {
                role.report(Input::HookDone { hook, ok });
            }
        });
    }

    /// Gives a command to the machine of a share.
    pub(super) fn command(&self, role: &ShareRole, command: Command) -> Result<(), Failure> {
        let (reply, answer) = bounded(1);
        role.tell.send(Item::Command(command, reply)).unwrap_or(());
        match answer.recv_timeout(COMMAND_PATIENCE) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(self.refused(&role.share, &refused)),
            Err(_) => Err(Failure {
                exit: Exit::Busy,
                message: format!("share '{}': its role is being changed", role.share),
                hint: Some("farshore status says what it waits for".into()),
            }),
        }
    }

    pub(super) fn refused(&self, share: &str, refused: &Refused) -> Failure {
        let legal = showing::typed(&refused.legal);
        Failure {
            exit: Exit::Held,
            message: format!(
                "share '{share}': {}: this site is {}: {}",
                refused.command.name(),
                refused.phase,
                refused.why
            ),
            hint: Some(match legal.is_empty() {
                true => "nothing can be done about the role here now; see farshore status at both \
                         sites"
                    .into(),
                false => format!("legal here now: {}", legal.join(" · ")),
            }),
        }
    }

    /// Waits until the role of a share is as `is_done` wants; says what it was at last.
    pub(super) fn await_role(
        &self,
        role: &ShareRole,
        patience: Duration,
        mut is_done: impl FnMut(&RoleView) -> Option<Result<(), String>>,
    ) -> Result<RoleView, Failure> {
        let until = Instant::now() + patience;
        let failed = |text: String| Failure {
            exit: Exit::Held,
            message: format!("share '{}': {text}", role.share),
            hint: Some("farshore status says where it stands and what may be done".into()),
        };
        loop {
            if let Some(view) = role.view() {
                match is_done(&view) {
                    Some(Ok(())) => return Ok(view),
                    Some(Err(why)) => return Err(failed(why)),
                    None => {}
                }
            }
            if Instant::now() >= until || self.is_stopping() {
                let waits = role.waiting().map_or_else(String::new, |what| format!(": {what}"));
                return Err(failed(format!("not done yet{waits}; it goes on")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `open` comes to when nobody has the catalog any more: of an end that is over a thread that took content in, or
    /// somebody who was told of a version, may be the last to let go of it.
    fn when_let_go<T>(&self, open: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let until = Instant::now() + LET_GO;
        loop {
            match open() {
                Err(e) if e.exit == Exit::Busy && Instant::now() < until && !self.is_stopping() => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                done => return done,
            }
        }
    }

    /// Brings a share that is received here to a recovery point, and opens it without the other site.
    pub(super) fn fail_over(
        &self,
        role: &ShareRole,
        at: Option<&str>,
        peer_is_off: bool,
    ) -> Result<FailedOver, Failure> {
        let _turn = role.commanding.begin(&role.share, "failover", LONG)?;
        let command = Command::Failover { peer_is_off };
        let at = at
            .map(crate::history::parse_wanted)
            .transpose()
            .map_err(|text| Failure::usage(text, "a point's number, a time, or a mark"))?;
        let view = role.view();
        if let Some(view) = view.as_ref().filter(|view| view.record.phase == Phase::Alone) {
            return self.failed_over(role, view, peer_is_off);
        }
        // Nothing is touched for a command that is refused.
        if !view.as_ref().is_some_and(|view| view.legal.contains(&command.name())) {
            self.command(role, command)?;
        }
        let record = view.map(|view| view.record);
        let config = self.config();
        let share = config.share(&role.share).ok_or_else(|| {
            Failure::usage(format!("share '{}': it is not in the config", role.share), "name one")
        })?;
        let slot = self.slot(&role.share);
        if let Some(slot) = slot {
            slot.turn(Want::Nothing, &|| self.is_stopping());
        }
        let settled = match record.filter(|record| self.has_no_point(share, record)) {
            Some(record) => self.as_it_stands(share, &record, at.as_ref()),
            None => self
                .when_let_go(|| failover::settle(&self.state, &share.path, at.as_ref()))
                .map(|settled| (settled, None)),
        };
        let done = settled.and_then(|settled| {
            self.command(role, command)?;
            let view = self.await_role(role, OPEN_PATIENCE, |view| match view.record.phase {
                Phase::Alone if !view.busy => Some(Ok(())),
                _ => None,
            })?;
            Ok((settled, view))
        });
        let ((settled, stood), view) = match done {
            Ok(done) => done,
            Err(failure) => {
                // What the machine wants is what it is to be again.
                if let (Some(view), Some(slot)) = (role.view(), slot)
                    && let DataRole::Receives(epoch) = view.data
                {
                    slot.turn(Want::Target(epoch), &|| self.is_stopping());
                }
                return Err(failure);
            }
        };
        // Nobody else has it open: a share that is alone has no end.
        let catalog = self.when_let_go(|| {
            let catalog = self.state.site_catalog_as_it_is(&site_catalog(share, &config));
            catalog.map_err(|e| crate::replicate::state_failure(&e))
        })?;
        let is_old_copy = stood.as_ref().is_some_and(|stood| stood.is_old_copy);
        let mut manifest = match &catalog {
            Some(catalog) if !is_old_copy => {
                let reader = catalog.reader().map_err(|e| crate::replicate::catalog_failure(&e))?;
                failover::LossManifest::of(&role.share, &settled, &reader)?
            }
            Some(_) => failover::LossManifest::of_point(&role.share, &settled),
            None => failover::LossManifest { share: role.share.clone(), ..Default::default() },
        };
        manifest.stood = stood;
        manifest.epoch = view.record.epoch.0;
        manifest.opened_unix_ms = now_ms();
        manifest.write(&self.state)?;
        let gate = self.await_gate(role, peer_is_off);
        Ok(FailedOver { manifest, gate, is_news: true })
    }

    /// A failover was given before. The word that the other site is off is a new one, under an epoch of its own.
    fn failed_over(
        &self,
        role: &ShareRole,
        view: &RoleView,
        peer_is_off: bool,
    ) -> Result<FailedOver, Failure> {
        let manifest = failover::LossManifest::read(&self.state, &role.share, view.record.epoch);
        let mut manifest = manifest?;
        if !peer_is_off || view.gate == Gate::Open {
            return Ok(FailedOver { manifest, gate: role.gate(), is_news: false });
        }
        self.command(role, Command::OpenAlone)?;
        let gate = self.await_gate(role, true);
        let epoch = role.view().map_or(view.record.epoch, |view| view.record.epoch);
        let is_news = epoch != view.record.epoch;
        if is_news {
            manifest.epoch = epoch.0;
            manifest.write(&self.state)?;
        }
        Ok(FailedOver { manifest, gate, is_news })
    }

    /// Waits for a gate that opens a moment after its record is durable, or when the other site's lease has lapsed;
    /// where the other one is not known to be off, no longer than that takes.
    fn await_gate(&self, role: &ShareRole, peer_is_off: bool) -> Result<(), String> {
        let patience = if peer_is_off { OPEN_PATIENCE } else { GATE_PATIENCE };
        let config = self.config();
        let lease = config.share(&role.share).and_then(|share| share.lease);
        let lapse = lease.map_or(Duration::ZERO, |lease| lease + lease / 5);
        let opens = self
            .await_role(role, patience + lapse, |view| (view.gate == Gate::Open).then_some(Ok(())));
        opens.map(drop).or_else(|_| role.gate())
    }
}

/// What a failover came to.
pub(super) struct FailedOver {
    pub(super) manifest: failover::LossManifest,
    /// Whether the gate is open, or why it is not.
    pub(super) gate: Result<(), String>,
    /// The site was opened, or its gate, by this command.
    pub(super) is_news: bool,
}

/// The last point of a catalog whose entries are that point's.
fn point_of(catalog: &farshore_engine::catalog::Catalog) -> Result<Option<Point>, Failure> {
    let refused = |e| crate::replicate::catalog_failure(&e);
    let root = catalog.sealed_root().map_err(refused)?;
    let reader = catalog.reader().map_err(refused)?;
    let point = reader.recovery_point().map_err(refused)?;
    let batch = reader.applied_batch().map_err(refused)?;
    Ok(point.filter(|point| point.root == root).map(|point| Point {
        sequence: point.sequence,
        batch,
        root: point.root,
        time_unix_ms: point.time_unix_ms,
    }))
}

/// What the end of a share is to be.
fn wanted(role: &ShareRole, data: DataRole) -> Want {
    let view = role.view();
    let peer_is_stranded = view.as_ref().is_some_and(super::failback::is_peer_stranded);
    match (data, view.map(|view| view.record.phase)) {
        (DataRole::Sends(epoch), _) => Want::Source(Some(epoch)),
        (DataRole::Receives(epoch), _) => Want::Target(epoch),
        // The two are reconciled first, and whoever plans that opens the share for itself.
        (DataRole::Neither, _) if peer_is_stranded => Want::Nothing,
        // It may not send yet, and what changes is watched for the time it may.
        (DataRole::Neither, Some(Phase::Active | Phase::Opening { .. } | Phase::Draining)) => {
            Want::Source(None)
        }
        (DataRole::Neither, _) => Want::Nothing,
    }
}

/// How often a drain looks whether the share has an end again.
const WAIT_FOR_END: Duration = Duration::from_millis(50);
/// How long a machine may be busy with what it was told before.
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// How long a gate may take to open that needs nobody's word.
const GATE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a catalog that was in use is waited for.
const LET_GO: Duration = Duration::from_secs(20);
/// How long opening may take: two durable writes, and a root that answers.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
