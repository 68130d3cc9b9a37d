//! Two sites that were apart, the plan of the way home, and carrying it out as both daemons do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use farshore_core::conflict::{Conflict, Decision, Outcome, Piece, Side as Of, Site};
use farshore_core::failback::list::ListDigest;
use farshore_core::failback::plan::{BasePoint, Edit, Header, PlanReader, PlanWriter, edit};
use farshore_core::failback::{Config, Divergence, ListError, Merge, SideChange};
use farshore_core::path::RelPath;
use farshore_core::policy::ReplicateAll;
use farshore_core::recovery_point::Epoch;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::failback::apply::{
    Applied, Folders, abandon_at_recovery, apply_at_production, apply_at_recovery,
    close_at_production, drop_laid_out, lay_out_wanted, undo_at_production,
};
use farshore_engine::failback::inventory::inventory;
use farshore_engine::ingest::describe;
use farshore_engine::io::sim::{CrashModel, SimDisk, SimStorage};
use farshore_engine::io::{FileKind, Storage};
use farshore_engine::own_folder::{ensure_directory, remove_tree};

use super::kinds::{Kind, kinds};
use crate::sites::{Tree, World, clean};
use crate::storage::{Careless, Moves, Watched};
use crate::trees::Hands;

const MADE_MS: i64 = 1_700_000_000_000;

/// Production is the source of the world, recovery the target.
pub(crate) struct Home {
    pub(crate) world: World,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) each: usize,
    /// The three trees before anything was done.
    pub(crate) base: Tree,
    pub(crate) production: Tree,
    pub(crate) recovery: Tree,
    pub(crate) plan: Vec<u8>,
    /// What the plan is called in folders.
    name: &'static str,
}

/// A policy that merges what is called so.
fn merges(conflict: &Conflict, _: &dyn Fn(&RelPath) -> bool) -> Option<(u32, Decision)> {
    let name = conflict.path.to_string();
    let size = |of| conflict.side(of).version().map_or(0, |version| version.size);
    let copy = |side| Piece::Copy { side, offset: 0, length: size(side) };
    let pieces = match () {
        () if name.contains("m-merge") => {
            vec![copy(Of::Production), Piece::Literal(b" and ".to_vec()), copy(Of::Recovery)]
        }
        () if name.contains("m-literal") => {
            vec![copy(Of::Recovery), Piece::Literal(format!(", merged: {name}").into_bytes())]
        }
        // Nobody keeps that: it is held.
        () if name.contains("m-base") => vec![copy(Of::Base), copy(Of::Production)],
        () => return None,
    };
    let outcome = Outcome::Merge { attributes: Site::Recovery, pieces };
    Some((0, Decision { outcome, rule: None, reason: "both lists".into() }))
}

fn listed(world: &World, role: CatalogRole) -> Vec<SideChange> {
    let disk = if role == CatalogRole::Source { &world.source } else { &world.target };
    let storage = disk.mount("tree").expect("mount");
    let catalog = world.catalog(role).expect("catalog");
    let reader = catalog.reader().expect("reader");
    let mut changes = Vec::new();
    let met =
        inventory(&storage, &reader, &ReplicateAll, 1, &std::env::temp_dir(), &mut |change| {
            changes.push(change);
            Ok(())
        });
    let met = met.expect("inventory");
    assert_eq!(met.problems_total, 0, "{:?}", met.problems);
    changes
}

fn plan(world: &World, kinds: &[Kind], each: usize) -> Vec<u8> {
    let production = listed(world, CatalogRole::Source);
    let recovery = listed(world, CatalogRole::Target);
    let catalog = world.catalog(CatalogRole::Target).expect("catalog");
    let reader = catalog.reader().expect("reader");
    let root = catalog.sealed_root().expect("root");
    let (base, config) = (reader, Config::default());
    let merge = Merge {
        production: &production,
        recovery: &recovery,
        base: &base,
        resolver: &merges,
        config: &config,
    };
    let header = Header {
        pair: [1; 16],
        production: [2; 16],
        recovery: [3; 16],
        share: "share".into(),
        epoch: Epoch(5),
        base: Some(BasePoint { sequence: 1, root, batch: 1, time_unix_ms: MADE_MS }),
        policies: [[0; 32]; 2],
        resolvers: vec!["merges".into()],
        made_unix_ms: MADE_MS,
        lists: [ListDigest([1; 32]), ListDigest([2; 32])],
    };
    let mut writer = PlanWriter::new(Vec::new(), &header, 1).expect("memory");
    for divergence in merge.run().expect("a plan") {
        writer.push(&divergence.expect("a divergence")).expect("memory");
    }
    let (mut plan, _) = writer.finish().expect("memory");
    for kind in kinds {
        let Some(decided) = kind.decided else { continue };
        let paths: Vec<_> = (0..each).map(|n| kind.path(n)).collect();
        // A new name is for one path; all else is said once.
        let is_for_one = matches!(decided(&paths[0]), Outcome::KeepBoth { .. });
        let said: Vec<&[String]> =
            if is_for_one { paths.chunks(1).collect() } else { vec![&paths[..]] };
        for paths in said {
            let select = |d: &Divergence| {
                let at = d.path.to_string();
                let rest = |path: &String| at.strip_prefix(path.as_str()).map(str::to_owned);
                let mut rests = paths.iter().filter_map(rest);
                rests.any(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
            };
            let outcome = &decided(&paths[0]);
            let asked =
                Edit { select: &select, outcome, reason: "so", base: &base, config: &config };
            let (next, edited) = edit(&|| Ok(&*plan), Vec::new(), &asked).expect("a revision");
            assert_eq!(edited.refused, vec![], "{}", paths[0]);
            plan = next;
        }
    }
    plan
}

impl Home {
    /// `each` cases of every kind.
    pub(crate) fn new(each: usize) -> Self {
        let kinds = kinds();
        let all = |act: &dyn Fn(&Kind, &str) -> io::Result<()>| {
            for n in 0..each {
                for kind in &kinds {
                    let path = kind.path(n);
                    act(kind, &path).unwrap_or_else(|e| panic!("{path}: {e}"));
                }
            }
        };
        let world = World::of(|hands| {
            all(&|kind, path| (kind.base)(hands, path));
            Ok(())
        });
        world.run().sealed().expect("the base");
        let base = world.target_tree();
        // So that no time at one site is one of the other's.
        let mut late = world.target.time();
        late.seconds += 1_000;
        world.target.set_time(late);
        let (p, r) = (world.source.mount("tree").expect("mount"), world.target.mount("tree"));
        let (p, r) = (Hands(&p), r.expect("mount"));
        let r = Hands(&r);
        all(&|kind, path| (kind.production)(&p, path));
        all(&|kind, path| (kind.recovery)(&r, path));
        for disk in [&world.source, &world.target] {
            disk.mount("").expect("mount").sync_all().expect("sync");
        }
        let plan = plan(&world, &kinds, each);
        for disk in [&world.source, &world.target] {
            disk.mount("").expect("mount").sync_all().expect("sync");
        }
        let (production, recovery) = (world.source_tree(), world.target_tree());
        Self { world, kinds, each, base, production, recovery, plan, name: "0badcafe" }
    }

    pub(crate) fn divergences(&self) -> BTreeMap<Vec<u8>, Divergence> {
        let all = PlanReader::new(&*self.plan).expect("a plan").map(|d| d.expect("a divergence"));
        all.map(|d| (d.path.as_bytes().to_vec(), d)).collect()
    }

    pub(crate) fn folders(&self) -> Folders {
        Folders { epoch: 5, plan: self.name.into() }
    }

    /// The same with a plan that is made of what stands at `sites` now; nobody decided anything.
    pub(crate) fn anew(&self, sites: &Sites) -> Self {
        Self {
            world: self.world.clone(),
            kinds: kinds(),
            base: self.base.clone(),
            production: self.production.clone(),
            recovery: self.recovery.clone(),
            plan: plan(&sites.0, &[], 0),
            name: "5ec07d00",
            ..*self
        }
    }

    /// Both sites as they were left, once more.
    pub(crate) fn fork(&self, seed: u64, model: CrashModel) -> Sites {
        // Every other one on a disk that knows less.
        let moves = if seed.is_multiple_of(2) { Moves::All } else { Moves::NoExchange };
        Sites(self.world.fork(seed, model), None, moves)
    }
}

/// Where a call is made.
pub(crate) use crate::Side;

/// Both sites under way, and what somebody does before the n-th changing call of a part.
pub(crate) struct Sites(pub(crate) World, pub(crate) Option<Meanwhile>, pub(crate) Moves);

/// At whose part, before which call, what.
pub(crate) type Meanwhile = (Side, u64, fn(&Hands<'_>));

impl Sites {
    pub(crate) fn disk(&self, site: Side) -> &SimDisk {
        match site {
            Side::Source => &self.0.source,
            Side::Target => &self.0.target,
        }
    }

    fn storage(&self, site: Side) -> Result<Watched, String> {
        let inner = self.disk(site).mount("tree").map_err(|e| e.to_string())?;
        let mut watched = Watched::new(inner, self.0.careless, false);
        watched.moves = self.2;
        if let Some((at, call, act)) = self.1
            && at == site
        {
            let other = self.disk(site).mount("tree").map_err(|e| e.to_string())?;
            watched.before = Some((call, Box::new(move || act(&Hands(&other)))));
        }
        Ok(watched)
    }

    /// The part of one site.
    pub(crate) fn part(&self, home: &Home, site: Side) -> Result<Applied, String> {
        let storage = self.storage(site)?;
        let folders = home.folders();
        let plan = || -> Result<Box<dyn Iterator<Item = _>>, ListError> {
            Ok(Box::new(PlanReader::new(&*home.plan)?))
        };
        let applied = match site {
            Side::Source => apply_at_production(&storage, &plan, &folders, MADE_MS),
            Side::Target => apply_at_recovery(&storage, &plan, &folders, MADE_MS),
        };
        let applied = applied.map_err(|e| format!("{site:?}: {}", describe(&e)))?;
        match applied.moved.first() {
            None => Ok(applied),
            Some((path, why)) => Err(format!("{site:?}: {path} moved: {why}")),
        }
    }

    /// Both parts, as whoever types the command again has them done; `before` is called before that of a site.
    pub(crate) fn carry_out(
        &self,
        home: &Home,
        before: &dyn Fn(Side),
    ) -> Result<[Applied; 2], String> {
        before(Side::Source);
        let production = self.part(home, Side::Source)?;
        if production.carried > 0 {
            self.transfer(home).map_err(|e| format!("transfer: {e}"))?;
        }
        before(Side::Target);
        let mut recovery = self.part(home, Side::Target)?;
        let mut rounds = 0;
        while !recovery.wanting.is_empty() && rounds < 8 {
            self.send_besides(home, &recovery.wanting)?;
            recovery = self.part(home, Side::Target)?;
            rounds += 1;
        }
        let plan = || -> Result<Box<dyn Iterator<Item = _>>, ListError> {
            Ok(Box::new(PlanReader::new(&*home.plan)?))
        };
        close_at_production(&self.storage(Side::Source)?, &plan, &home.folders())
            .map_err(|e| format!("closing: {}", describe(&e)))?;
        Ok([production, recovery])
    }

    /// Production lays out what recovery wants besides, and it comes.
    pub(crate) fn send_besides(&self, home: &Home, wanting: &[RelPath]) -> Result<(), String> {
        let plan = || -> Result<Box<dyn Iterator<Item = _>>, ListError> {
            Ok(Box::new(PlanReader::new(&*home.plan)?))
        };
        let (storage, wanted) = (self.storage(Side::Source)?, wanting.iter().cloned().collect());
        let laid = lay_out_wanted(&storage, &plan, &home.folders(), &wanted);
        let laid = laid.map_err(|e| format!("laying out more: {}", describe(&e)))?;
        if laid.moved_total > 0 || laid.carried != wanting.len() as u64 {
            return Err(format!("not all of {wanting:?} is laid out: {laid:?}"));
        }
        self.transfer(home).map_err(|e| format!("transfer: {e}"))
    }

    /// The plan is taken back at one site; how many paths somebody else has.
    pub(crate) fn abandon(&self, home: &Home, site: Side) -> Result<u64, String> {
        let storage = self.storage(site)?;
        let folders = home.folders();
        let plan = || -> Result<Box<dyn Iterator<Item = _>>, ListError> {
            Ok(Box::new(PlanReader::new(&*home.plan)?))
        };
        let done = match site {
            Side::Source => {
                undo_at_production(&storage, &plan, &folders).map(|undone| undone.late_total)
            }
            Side::Target => abandon_at_recovery(&storage, &plan, &folders).map(|_| 0),
        };
        done.map_err(|e| format!("{site:?}: {}", describe(&e)))
    }

    /// What production laid out is at recovery, as a replication of it leaves it: durable.
    pub(crate) fn transfer(&self, home: &Home) -> io::Result<()> {
        let (from, to) = (self.0.source.mount("tree")?, self.0.target.mount("tree")?);
        let folders = home.folders();
        let (outgoing, incoming) = (folders.outgoing(), folders.incoming());
        let (above, name) = incoming.rsplit_once('/').expect("a folder");
        let mut at = to.open_directory(to.root(), b"")?;
        for component in above.split('/') {
            at = ensure_directory(&to, &at, component.as_bytes())?;
        }
        remove_tree(&to, &at, name.as_bytes())?;
        let at = ensure_directory(&to, &at, name.as_bytes())?;
        copy(&from, &from.open_directory(from.root(), outgoing.as_bytes())?, &to, &at)?;
        to.sync_all()
    }

    /// What the daemons take away when it is over.
    pub(crate) fn drop_folders(&self) -> io::Result<()> {
        for site in [Side::Source, Side::Target] {
            drop_laid_out(&self.disk(site).mount("tree")?).map_err(io::Error::other)?;
        }
        Ok(())
    }

    pub(crate) fn end(&self) -> End {
        let of = |disk: &SimDisk| {
            let all = disk.snapshot_tree("tree").expect("a tree");
            let kept = |path: &[u8]| path.starts_with(b".farshore/quarantine");
            let quarantine = all.iter().filter(|(path, _)| kept(path));
            let quarantine = quarantine.map(|(path, entry)| (path.clone(), entry.clone()));
            (timeless(clean(all.clone())), bare(quarantine.collect()))
        };
        let (p, r) = (of(&self.0.source), of(&self.0.target));
        End { production: p.0, recovery: r.0, quarantines: [p.1, r.1] }
    }

    /// Recovery's tree goes to production as any other does.
    pub(crate) fn replicate_home(&self) -> World {
        let world = World {
            source: self.0.target.clone(),
            target: self.0.source.clone(),
            approved: true,
            careless: Careless::Nothing,
            ..self.0
        };
        for disk in [&world.source, &world.target] {
            let state = disk.mount("state").expect("mount");
            state.unlink(state.root(), b"catalog.redb").expect("unlink");
        }
        world.run().sealed().expect("the way home");
        world
    }
}

fn copy(
    from: &SimStorage,
    source: &<SimStorage as Storage>::Directory,
    to: &SimStorage,
    target: &<SimStorage as Storage>::Directory,
) -> io::Result<()> {
    let mut names = Vec::new();
    from.list(source, &mut |l| names.push((l.name.to_vec(), l.kind)))?;
    for (name, kind) in names {
        if kind == Some(FileKind::Directory) {
            let below = ensure_directory(to, target, &name)?;
            copy(from, &from.open_directory(source, &name)?, to, &below)?;
            continue;
        }
        let (file, stat) = from.open_file_and_stat(source, &name)?;
        let mut bytes = vec![0; usize::try_from(stat.size).expect("small")];
        from.read_at(&file, 0, &mut bytes)?;
        let made = to.create_file(target, &name)?;
        to.write_at(&made, 0, &bytes)?;
    }
    Ok(())
}

/// Times of directories change with every name in them.
pub(crate) fn timeless(mut tree: Tree) -> Tree {
    for entry in tree.values_mut().filter(|entry| entry.kind == FileKind::Directory) {
        entry.mtime = farshore_core::entry::Timestamp { seconds: 0, nanos: 0 };
    }
    tree
}

/// Content and paths alone.
fn bare(tree: Tree) -> Tree {
    let mut tree = timeless(tree);
    for entry in tree.values_mut() {
        entry.hard_link_of = None;
    }
    let is_said = |path: &[u8]| path.ends_with(b"/manifest") || path.ends_with(b"/placing");
    tree.retain(|path, _| !is_said(path));
    tree
}

/// What there is when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) production: Tree,
    pub(crate) recovery: Tree,
    pub(crate) quarantines: [Tree; 2],
}

/// What a version is.
pub(crate) type What = (u8, Option<[u8; 32]>, Option<Vec<u8>>);

pub(crate) fn what(entry: &farshore_engine::io::sim::SimEntry) -> Option<What> {
    let content = entry.content.map(|hash| *hash.as_bytes());
    (entry.kind != FileKind::Directory).then(|| (entry.kind as u8, content, entry.target.clone()))
}

pub(crate) fn versions<'t>(trees: impl IntoIterator<Item = &'t Tree>) -> BTreeSet<What> {
    trees.into_iter().flat_map(|tree| tree.values().filter_map(what)).collect()
}

impl End {
    pub(crate) fn versions(&self) -> BTreeSet<What> {
        let [p, r] = &self.quarantines;
        versions([&self.production, &self.recovery, p, r])
    }

    /// The first paths that differ from `other`.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        let pairs = [
            ("production", &self.production, &other.production),
            ("recovery", &self.recovery, &other.recovery),
            ("production's quarantine", &self.quarantines[0], &other.quarantines[0]),
            ("recovery's quarantine", &self.quarantines[1], &other.quarantines[1]),
        ];
        let mut text = String::new();
        for (name, a, b) in pairs {
            let paths: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            let differ = paths.into_iter().filter(|path| a.get(*path) != b.get(*path));
            for path in differ.take(3) {
                let (a, b) = (a.get(path), b.get(path));
                let lines = [format!("{a:?}"), format!("{b:?}")].join("\n  ");
                text +=
                    &["\n", name, ": ", &path.escape_ascii().to_string(), "\n  ", &lines].concat();
            }
        }
        (!text.is_empty()).then_some(text)
    }
}
