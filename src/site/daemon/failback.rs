//! The way home: the plan of what becomes of every path that either site changed, made and applied.
//!
//! ```text
//! at the site that is alone                              at the stranded one
//! plan   ── compare ──────────────────────────────────►  its catalog is corrected to the common base
//!        ── inventory ────────────────────────────────►  lists what it changed since
//!        lists its own changes, joins the two, writes the plan
//! apply  looks at its own paths of the plan; ── check ──►  looks at its own: nothing was done yet
//!        ── the role says: reconciling ───────────────►
//!        ── reconcile: the plan ──────────────────────►  losing versions to quarantine, winning ones laid out
//!        ── carry ────────────────────────────────────►  sends those
//!        losing versions to quarantine, winning ones made; what services changed meanwhile of what was to be
//!        copied here  ── reconcile: also ─────────────►  laid out as well, and carried
//!        winning ones placed
//!        ── finish ───────────────────────────────────►  its catalog says what its tree is
//!        ── the role says: done ──────────────────────►  standby; ordinary replication makes it equal
//! abandon ─ abandon ──────────────────────────────────►  what it moved is at its paths again
//!        lets go of what came
//!        ── the role says: alone ─────────────────────►  stranded, as before the plan
//! ```
//! Guarantees: planning changes nothing at either site but their catalogs' belief, and is refused while a plan is under
//! way: the trees say what that one did then; a plan is applied only to the
//! states it was made from, path by path; every step can be done again, so an apply that is broken off goes on
//! when it is asked again, and one that cannot go on is given up. Refuses a plan of another share, pair, epoch or base. What each step does to the trees
//! is in `farshore_engine::failback`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use farshore_core::failback::list::ListFile;
use farshore_core::failback::plan::{BasePoint, Header, PlanReader, PlanWriter, Summary};
use farshore_core::failback::{Base, BaseTree, Config as MergeConfig, ListError, Merge, NoBase};
use farshore_core::policy::Policy;
use farshore_core::role::{
    Command, CommandName, Phase, PlanId, Point, Record as RoleRecord, RoleView, Strand,
};
use farshore_engine::catalog::{Catalog, Turning};
use farshore_engine::failback::apply::{
    Applied, ApplyPlanError, Folders, Undone, abandon_at_recovery, apply_at_production,
    apply_at_recovery, check_at, close_at_production, drop_laid_out, has_quarantine, is_begun,
    lay_out_wanted, undo_at_production,
};
use farshore_engine::failback::inventory::{Inventory, inventory};
use farshore_engine::source;
use farshore_policies::Policies;
use farshore_proto::message::{Call, PART_LEN_MAX, Purpose};
use serde::{Deserialize, Serialize};

mod abandoning;
mod applying;
mod deciding;
mod parts;
mod resolving;

use super::ends::site_catalog;
use super::roles::ShareRole;
use super::roles::commanding::{LONG, SHORTLY};
use super::*;
use crate::replicate::{open_site_catalog, worker_threads};
use crate::state::{open_file, write_durably};
pub(super) use abandoning::TakenBack;
use abandoning::take_back;
pub(super) use applying::Carried;
use applying::{RECONCILE_PATIENCE, failed, iterated};
pub(super) use deciding::Decided;
use parts::{
    ANSWER_LEN_MAX, LIST_LEN_MAX, WORD_LEN_MAX, receive_parts, receive_parts_or_end, send_parts,
};
use resolving::{Resolvers, answer_reads};

/// In the plan field of a call for an inventory: the base is not known, everything is listed.
const WITHOUT_BASE: [u8; 32] = [1; 32];
/// Problems that stop a plan are told, so many.
const TOLD_MAX: usize = 5;

/// What goes before a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ListHead {
    /// Digest of the policies in force, 64 hex digits.
    policies: String,
    /// Entries nothing is known of.
    problems: u64,
    /// The first of them.
    first: Vec<String>,
    /// R of what the list was made against.
    base: String,
}

/// A share that is opened to be planned for: nobody else has it open.
struct Opened {
    storage: Arc<farshore_engine::io::uring::UringStorage>,
    catalog: Catalog,
    folder: PathBuf,
    policy: Arc<Policies>,
}

impl Daemon {
    fn open_for_plan(&self, share: &Share) -> Result<Opened, Failure> {
        let config = self.config();
        let storage = Arc::new(open_root("share", &share.path, IoMode::Posix, share.io_limit)?);
        let turning = Turning { role: CatalogRole::Source, joined_with: None };
        let (catalog, folder) =
            open_site_catalog(&self.state, &site_catalog(share, &config), &turning)?;
        let policy = policies::chain(share, &self.state, system_wall_clock())?;
        Ok(Opened { storage, catalog, folder, policy })
    }

    fn share_of(&self, role: &ShareRole) -> Result<Share, Failure> {
        self.config().share(&role.share).cloned().ok_or_else(|| {
            Failure::usage(format!("share '{}': it is not in the config", role.share), "name one")
        })
    }

    /// Makes the plan of a share that is alone here; where it is, and its counts.
    pub(super) fn plan_failback(&self, role: &ShareRole) -> Result<(PathBuf, Summary), Failure> {
        let _turn = role.commanding.begin(&role.share, "failback plan", SHORTLY)?;
        let share = self.share_of(role)?;
        let held = |text: String, hint: &str| Failure {
            exit: Exit::Held,
            message: format!("share '{}': {text}", share.name),
            hint: Some(hint.into()),
        };
        let view = role.view().filter(is_alone).ok_or_else(|| {
            held(
                "there is nothing to plan: this site is not alone with a stranded one".into(),
                "a plan is made at the site that was opened by failover --force, while the other one is \
                 connected; farshore status says where both stand",
            )
        })?;
        if let Phase::Reconciling { plan, .. } = view.record.phase {
            return Err(self.is_under_way(&share.name, plan, "no other one can be made"));
        }
        let opened = self.open_for_plan(&share)?;
        let root =
            opened.catalog.sealed_root().map_err(|e| crate::replicate::catalog_failure(&e))?;
        let base = view.record.base.filter(|base| base.root == root && !is_peer_put_back(&view));
        self.compared(&share.name, &opened)?;
        let work = tempfile_folder(&opened.folder)?;
        let (theirs, ours) = (work.join("theirs.list"), work.join("ours.list"));
        let began = std::time::Instant::now();
        // Each looks at its own tree meanwhile.
        let (head, own_head) = std::thread::scope(|scope| {
            let fetch = || self.fetch_inventory(&share.name, base.is_some(), &theirs);
            let fetch = scope.spawn(fetch);
            let own_head = self.write_inventory(&opened, base.is_some(), &ours);
            (fetch.join(), own_head)
        });
        let head = head.map_err(|_| Failure {
            exit: Exit::Internal,
            message: format!("share '{}': fetching what the other site changed broke", share.name),
            hint: None,
        })??;
        let own_head = own_head?;
        let looked = began.elapsed();
        if head.policies != own_head.policies {
            return Err(held(
                "the two sites decide by different policies: what one of them leaves out the other one would \
                 take for deleted"
                    .into(),
                "make the policies of the share the same in both configs, and plan again",
            ));
        }
        for (site, head) in [("the other site", &head), ("this site", &own_head)] {
            if head.problems > 0 {
                return Err(held(
                    format!(
                        "{} entries of {site} could not be read: {}",
                        head.problems,
                        head.first.join("; ")
                    ),
                    "mend them, and plan again: nothing is decided over what is not known",
                ));
            }
        }
        if base.is_some() && head.base != own_head.base {
            return Err(held(
                format!(
                    "the two sites list their changes against different points: {} here, {} there",
                    own_head.base, head.base
                ),
                "plan again; if it stays so, see the log of the other site",
            ));
        }
        let began = std::time::Instant::now();
        let (file, summary) = self.write_plan(&share, &view, &opened, base, &work)?;
        let text = format!(
            "planned: {} paths differ; both sites looked for {:.1} s, the plan took {:.1} s",
            summary.paths(),
            looked.as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
        self.say_of(&share.name, Level::Info, "failback", text);
        Ok((file, summary))
    }

    /// Has the other site correct what it believes to what is here.
    fn compared(&self, share: &str, opened: &Opened) -> Result<(), Failure> {
        let link = self.call(Purpose::Compare, share, [0; 32])?;
        let failed = |e: farshore_engine::target::TargetError| Failure::new(Exit::Connection, &e);
        let hello = target::receive_hello(&link).map_err(failed)?;
        target::answer_comparisons(&*opened.storage, &opened.catalog, &link, &hello).map_err(failed)
    }

    fn fetch_inventory(&self, share: &str, based: bool, to: &Path) -> Result<ListHead, Failure> {
        let plan = if based { [0; 32] } else { WITHOUT_BASE };
        let link = self.call(Purpose::Inventory, share, plan)?;
        let mut head = Vec::new();
        receive_parts(&link, &mut head, ANSWER_LEN_MAX)?;
        let head = serde_json::from_slice(&head).map_err(|e| Failure::new(Exit::Internal, &e))?;
        let mut file = BufWriter::new(created(to)?);
        receive_parts(&link, &mut file, LIST_LEN_MAX)?;
        file.flush().map_err(|e| disk(to, &e))?;
        link.close(CloseCode::Done as u32, "");
        Ok(head)
    }

    fn write_inventory(
        &self,
        opened: &Opened,
        based: bool,
        to: &Path,
    ) -> Result<ListHead, Failure> {
        let failed = |e: &dyn std::error::Error| Failure::new(Exit::Disk, e);
        let file = BufWriter::new(created(to)?);
        let writer = farshore_core::failback::list::ListWriter::new(file);
        let mut writer = writer.map_err(|e| disk(to, &e))?;
        let empty;
        let catalog = match based {
            true => &opened.catalog,
            false => {
                empty = empty_catalog(&opened.folder)?;
                &empty
            }
        };
        catalog.sealed_root().map_err(|e| failed(&e))?;
        let reader = catalog.reader().map_err(|e| failed(&e))?;
        // What lies below the root: the root's own entry is not compared.
        let base = reader.below(&RelPath::root()).map_err(|e| failed(&e))?;
        let listed = inventory(
            &*opened.storage,
            &reader,
            &*opened.policy,
            worker_threads(),
            &opened.folder,
            &mut |change| writer.push(&change),
        );
        let Inventory { problems, problems_total, .. } = listed.map_err(|e| failed(&e))?;
        let (file, _) = writer.finish().map_err(|e| disk(to, &e))?;
        file.into_inner().map_err(|e| disk(to, e.error()))?.sync_all().map_err(|e| disk(to, &e))?;
        let told = problems.iter().take(TOLD_MAX).map(|p| format!("{}: {}", p.path, p.text));
        Ok(ListHead {
            policies: policy_digest(&*opened.policy),
            problems: problems_total,
            first: told.collect(),
            base: blake3::Hash::from_bytes(base.0).to_hex().to_string(),
        })
    }

    /// Whom to ask about conflicts.
    fn resolvers<'o>(&self, share: &Share, opened: &'o Opened) -> Resolvers<'o> {
        let (me, share) = (self.me.clone(), share.name.clone());
        let call = move || {
            let daemon = me.upgrade().ok_or_else(|| Failure {
                exit: Exit::Busy,
                message: "the daemon stops".into(),
                hint: None,
            })?;
            daemon.call(Purpose::Read, &share, [0; 32])
        };
        Resolvers::new(&opened.policy, Arc::clone(&opened.storage), Box::new(call))
    }

    fn write_plan(
        &self,
        share: &Share,
        view: &RoleView,
        opened: &Opened,
        base: Option<Point>,
        work: &Path,
    ) -> Result<(PathBuf, Summary), Failure> {
        let internal = |e: &dyn std::error::Error| Failure::new(Exit::Internal, e);
        let (ours, theirs) = (work.join("ours.list"), work.join("theirs.list"));
        let list = |path: PathBuf| ListFile(move || File::open(&path).map(BufReader::new));
        let (ours, theirs) = (list(ours), list(theirs));
        let digest = |list: &dyn Fn() -> std::io::Result<BufReader<File>>| {
            let reader = farshore_core::failback::list::ListReader::new(list()?)
                .map_err(|e| std::io::Error::other(e.to_string()))?;
            reader.read_all().map(|(_, d)| d).map_err(|e| std::io::Error::other(e.to_string()))
        };
        let our_digest = digest(&ours.0).map_err(|e| internal(&e))?;
        let their_digest = digest(&theirs.0).map_err(|e| internal(&e))?;
        // In a plan 'recovery' is the site that served alone, 'production' the one that was lost.
        let config = self.config();
        let (here, there) = (site_of(&config.site.name), site_of(&config.peer.name));
        let policies = policy_bytes(&*opened.policy);
        let resolvers = self.resolvers(share, opened);
        let header = Header {
            pair: pair_of(&config.site.name, &config.peer.name),
            production: there,
            recovery: here,
            share: share.name.clone(),
            epoch: view.record.epoch,
            base: base.map(|base| BasePoint {
                sequence: base.sequence,
                root: base.root,
                batch: base.batch,
                time_unix_ms: base.time_unix_ms,
            }),
            policies: [policies; 2],
            resolvers: resolvers.names(),
            made_unix_ms: now_ms(),
            lists: [their_digest, our_digest],
        };
        let merge_config = merge_config(base.is_some(), share);
        let reader = opened.catalog.reader().map_err(|e| internal(&e))?;
        let base_tree: &dyn BaseTree = if base.is_some() { &reader } else { &NoBase };
        let merge = Merge {
            production: &theirs,
            recovery: &ours,
            base: base_tree,
            resolver: &resolvers,
            config: &merge_config,
        };
        let folder = self.state.folder().join("failback");
        std::fs::create_dir_all(&folder).map_err(|e| disk(&folder, &e))?;
        let file = folder.join(format!("{}-{}.plan", share.name, header.id().short()));
        let beside = file.with_extension("new");
        let out = BufWriter::new(created(&beside)?);
        let mut writer = PlanWriter::new(out, &header, 1).map_err(|e| disk(&beside, &e))?;
        for divergence in merge.run().map_err(|e| internal(&e))? {
            let divergence = divergence.map_err(|e| internal(&e))?;
            writer.push(&divergence).map_err(|e| disk(&beside, &e))?;
        }
        let (out, summary) = writer.finish().map_err(|e| disk(&beside, &e))?;
        let out = out.into_inner().map_err(|e| disk(&beside, e.error()))?;
        out.sync_all().map_err(|e| disk(&beside, &e))?;
        std::fs::rename(&beside, &file).map_err(|e| disk(&file, &e))?;
        Ok((file, summary))
    }

    /// Does what the other site called for.
    pub(super) fn serve_call(&self, call: &Call, link: &QuicLink) {
        let served = self.try_serve(call, link);
        if let Err(failure) = served {
            let text = format!("{:?}: {}", call.purpose, failure.message);
            self.say_of(&call.share, Level::Error, "failback", text);
            target::refuse(link, CloseCode::Internal, &failure.message);
        }
    }

    fn try_serve(&self, call: &Call, link: &QuicLink) -> Result<(), Failure> {
        let role = self.role(&call.share).ok_or_else(|| {
            Failure::usage(format!("no share '{}' is served here", call.share), "name one")
        })?;
        let _turn =
            role.commanding.begin(&role.share, "a part of the other site's failback", LONG)?;
        let share = self.share_of(role)?;
        let phase = role.view().map(|view| view.record.phase);
        let is_its_turn = phase.is_some_and(|phase| match phase {
            // Its tree is what the plan made of it so far: nothing may be concluded from that.
            Phase::Reconciling { .. } => {
                phase.awaits_a_plan() && matches!(call.purpose, Purpose::Reconcile | Purpose::Carry)
            }
            phase => phase.awaits_a_plan(),
        });
        if !is_its_turn {
            let name = phase.map_or("not known yet", |phase| phase.name());
            return Err(Failure {
                exit: Exit::Held,
                message: format!("share '{}': this site is {name}, not stranded", share.name),
                hint: None,
            });
        }
        if matches!(call.purpose, Purpose::Compare | Purpose::Inventory) {
            self.take_back_left_behind(role, &share)?;
        }
        let opened = self.open_for_plan(&share)?;
        match call.purpose {
            Purpose::Compare => self.compare_with(&share, &opened, link),
            Purpose::Inventory => {
                let work = tempfile_folder(&opened.folder)?;
                let list = work.join("own.list");
                let head = self.write_inventory(&opened, call.plan != WITHOUT_BASE, &list)?;
                let head = serde_json::to_vec(&head);
                let head = head.map_err(|e| Failure::new(Exit::Internal, &e))?;
                send_parts(link, &mut &head[..])?;
                let mut file = File::open(&list).map_err(|e| disk(&list, &e))?;
                send_parts(link, &mut file)?;
                drop(link.finish_control());
                // The other site closes when it has it.
                while matches!(link.recv_control(), Ok(Some(_))) {}
                Ok(())
            }
            Purpose::Read => answer_reads(&opened.storage, link),
            Purpose::Reconcile => self.reconcile(role, opened, call, link),
            Purpose::Carry => self.carry_out_to(&opened, call, link),
        }
    }

    fn compare_with(&self, share: &Share, opened: &Opened, link: &QuicLink) -> Result<(), Failure> {
        let config = SourceConfig {
            share: share.name.clone(),
            epoch: Epoch(u64::MAX),
            policy: &*opened.policy,
            threshold: Threshold { entries: 0, percent: 0 },
            approved: false,
            trust_target: true,
            dry_run: true,
            workers: worker_threads(),
            compression: Compression::Never,
            striping: Striping::ONE,
            spool_folder: opened.folder.clone(),
            now: &system_wall_clock,
            racy_ns: RACY_NS,
            profile: &Profile::default(),
        };
        let corrected = source::compare(&*opened.storage, &opened.catalog, link, &config);
        let corrected = corrected.map_err(|e| Failure::new(Exit::Connection, &e))?;
        let text = format!("compared with the other site's base: {corrected} entries corrected");
        self.say_of(&share.name, Level::Info, "failback", text);
        Ok(())
    }
}

/// Whether this site is the one that goes on, and the other one is there to be reconciled.
fn is_alone(view: &RoleView) -> bool {
    // Active: the other one was its standby, and lost its state or came back with an old copy.
    matches!(
        view.record.phase,
        Phase::Alone | Phase::Active | Phase::Reconciling { open: true, .. }
    ) && is_peer_stranded(view)
}

/// Whether the other site is stranded, as it said last.
pub(super) fn is_peer_stranded(view: &RoleView) -> bool {
    view.peer.as_ref().is_some_and(|peer| peer.said.phase.awaits_a_plan())
}

/// Whether the other site forgot more than its tree's own marker tells of: then that was put back too, perhaps with the tree,
/// and what an old tree lacks was not deleted.
fn is_peer_put_back(view: &RoleView) -> bool {
    let said = view.peer.as_ref().map(|peer| peer.said.phase);
    matches!(said, Some(Phase::Stranded { why: Strand::PeerAhead, .. }))
}

/// Whether neither site sends or receives before a plan is carried out, or a person says which one is active.
pub(super) fn is_to_be_reconciled(view: &RoleView) -> bool {
    use Phase::{Alone, Reconciling, Split, Stranded};
    let apart = matches!(view.record.phase, Alone | Split | Stranded { .. } | Reconciling { .. });
    apart || is_peer_stranded(view)
}

/// What the site configures of a merge.
fn merge_config(is_based: bool, share: &Share) -> MergeConfig {
    MergeConfig {
        base: if is_based { Base::Known } else { Base::Unknown },
        account_depth: share.account_depth,
        ..MergeConfig::default()
    }
}

fn empty_catalog(folder: &Path) -> Result<Catalog, Failure> {
    let config = farshore_engine::catalog::CatalogConfig {
        role: CatalogRole::Source,
        cache_bytes: 1 << 20,
        fresh_id: crate::state::random_id().map_err(|e| Failure::new(Exit::Internal, &e))?,
    };
    let path = folder.join("nothing.redb");
    std::fs::remove_file(&path).unwrap_or(());
    Catalog::open(&path, &config).map_err(|e| crate::replicate::catalog_failure(&e))
}

fn policy_bytes(policy: &dyn Policy) -> [u8; 32] {
    let mut e = farshore_core::codec::Encoder::new();
    policy.identity().encode(&mut e);
    *blake3::hash(e.as_slice()).as_bytes()
}

fn policy_digest(policy: &dyn Policy) -> String {
    blake3::Hash::from_bytes(policy_bytes(policy)).to_hex().to_string()
}

/// How plans know a site.
fn site_of(name: &str) -> [u8; 16] {
    let id = blake3::derive_key("farshore site of a plan v1", name.as_bytes());
    std::array::from_fn(|n| id[n])
}

/// How plans know the pair, whichever of the two asks.
fn pair_of(one: &str, other: &str) -> [u8; 16] {
    let (first, second) = if one < other { (one, other) } else { (other, one) };
    let id = blake3::derive_key(
        "farshore pair of a plan v1",
        format!("{}:{first}{second}", first.len()).as_bytes(),
    );
    std::array::from_fn(|n| id[n])
}

/// A folder for lists, empty.
fn tempfile_folder(folder: &Path) -> Result<PathBuf, Failure> {
    let work = folder.join("failback");
    match std::fs::remove_dir_all(&work) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(disk(&work, &e)),
        _ => {}
    }
    std::fs::create_dir_all(&work).map_err(|e| disk(&work, &e))?;
    Ok(work)
}

fn created(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|e| disk(path, &e))
}

fn disk(path: &Path, e: &std::io::Error) -> Failure {
    Failure { exit: Exit::Disk, message: format!("{}: {e}", path.display()), hint: None }
}

/// How a plan's role knows it: by all of its bytes, so that a revision is another one.
fn plan_id(plan: &[u8]) -> PlanId {
    PlanId(*blake3::hash(plan).as_bytes())
}

fn folders_of(header: &Header) -> Folders {
    Folders { epoch: header.epoch.0, plan: header.id().short() }
}

/// Bytes of a plan at most, which is read into memory.
const PLAN_LEN_MAX: u64 = 8 << 30;

/// Reads a plan whole, once its first record says that it is one.
fn read_plan(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure {
        exit: Exit::Refused,
        message: format!("plan {}: reading it: {e}", file.display()),
        hint: Some("the daemon reads it: it must be below its state folder".into()),
    };
    let is_none = |why: String| Failure {
        exit: Exit::Refused,
        message: format!("plan {}: {why}", file.display()),
        hint: Some("farshore failback plan makes a new one".into()),
    };
    let opened = open_file(file).map_err(failed)?;
    if opened.metadata().map_err(failed)?.len() > PLAN_LEN_MAX {
        return Err(is_none("it is far longer than a plan".into()));
    }
    let first = PlanReader::new(BufReader::new(&opened));
    first.map_err(|e| is_none(farshore_engine::ingest::describe(&e)))?;
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut &opened).map_err(failed)?;
    (&opened).take(PLAN_LEN_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn checked(plan: &[u8], file: &Path) -> Result<(Header, u32, Summary), Failure> {
    PlanReader::new(plan).and_then(PlanReader::check).map_err(|e| Failure {
        exit: Exit::Refused,
        message: format!("plan {}: {}", file.display(), farshore_engine::ingest::describe(&e)),
        hint: Some("farshore failback plan makes a new one".into()),
    })
}
