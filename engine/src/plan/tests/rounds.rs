//! Many rounds of random changes: a plan of the directories that a watcher would have marked comes to
//! what a whole plan does.

use farshore_core::policy::ReplicateAll;
use proptest::prelude::*;

use super::*;

/// Few names, so that they meet again; with bytes on both sides of the slash.
const NAMES: [&[u8]; 9] = [b"a", b"a-", b"a.b", b"b", b"\x01", b"x", b"q", b"m", b"z\xff"];

struct Rounds {
    tree: Tree,
    state: u64,
    links: bool,
    marks: Vec<Part>,
    deferred: Vec<Part>,
}

impl Rounds {
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).expect("small")
    }

    fn pick(&mut self, fits: impl Fn(&Stat) -> bool) -> Option<(RelPath, Stat)> {
        let mut all = self.tree.entries();
        all.retain(|(_, stat)| fits(stat));
        (!all.is_empty()).then(|| all.swap_remove(self.below(all.len())))
    }

    /// A directory, the root among them.
    fn directory(&mut self) -> RelPath {
        if self.below(4) == 0 {
            return RelPath::root();
        }
        self.pick(|stat| stat.kind == FileKind::Directory).map(|(path, _)| path).unwrap_or_default()
    }

    fn name_in(&mut self, directory: &RelPath) -> RelPath {
        let name = NAMES[self.below(NAMES.len())];
        directory.join(name).expect("short")
    }

    fn mark(&mut self, directory: RelPath) {
        self.marks.push(Part { directory, deep: false });
    }

    fn mark_parent(&mut self, path: &RelPath) {
        self.mark(path.split().map(|(parent, _)| parent).unwrap_or_default());
    }

    fn remove(&mut self, path: &RelPath) {
        for changed in self.tree.remove(path) {
            self.mark(changed);
        }
    }

    /// A path where nothing stands; what did is removed.
    fn free(&mut self) -> RelPath {
        let directory = self.directory();
        let path = self.name_in(&directory);
        if self.tree.stat(&path).is_ok() {
            self.remove(&path);
        }
        self.mark(directory);
        path
    }

    fn content(&mut self) -> Vec<u8> {
        vec![b'c'; 1 + self.below(3)]
    }

    fn change(&mut self) {
        let kinds = if self.links { 12 } else { 10 };
        match self.below(kinds) {
            0 | 1 => {
                let (path, content) = (self.free(), self.content());
                self.tree.write(&path, &content);
            }
            2 => {
                let path = self.free();
                self.tree.directory(&path);
                if self.below(2) == 0 {
                    let (inner, content) = (self.name_in(&path), self.content());
                    self.tree.write(&inner, &content);
                }
                // Its inode may be that of a directory that is gone.
                self.mark(path);
            }
            3 => {
                let path = self.free();
                let (at, name) = self.tree.at(&path).expect("a parent");
                self.tree.storage.make_symlink(&at, name, b"a").expect("made");
            }
            4 => {
                if let Some((path, _)) = self.pick(|s| s.kind == FileKind::Regular) {
                    let content = self.content();
                    self.tree.write(&path, &content);
                    self.mark_parent(&path);
                }
            }
            5 => {
                if let Some((path, _)) = self.pick(|_| true) {
                    self.remove(&path);
                }
            }
            6 => {
                let Some((path, stat)) = self.pick(|s| s.kind != FileKind::Symlink) else { return };
                let bit = [0o002, 0o020][self.below(2)];
                self.tree.set_mode(&path, stat.mode ^ bit);
                match stat.kind {
                    FileKind::Directory if self.below(2) == 0 => self.mark(path),
                    _ => self.mark_parent(&path),
                }
            }
            7 => {
                let mode = [0o700, 0o710, 0o750, 0o770][self.below(4)];
                self.tree.set_mode(&RelPath::root(), mode);
                self.mark(RelPath::root());
            }
            8 | 9 => self.rename(),
            10 => {
                let Some((from, _)) = self.pick(|s| s.kind == FileKind::Regular) else { return };
                let path = self.free();
                // It may have stood where the new name is to be.
                if self.tree.link(&from, &path).is_ok() {
                    self.mark_parent(&path);
                }
            }
            _ => {
                let linked = self.pick(|s| s.links > 1 && s.kind == FileKind::Regular);
                if let Some((path, _)) = linked {
                    self.remove(&path);
                    self.tree.write(&path, b"of its own");
                }
            }
        }
    }

    fn rename(&mut self) {
        let Some((from, stat)) = self.pick(|_| true) else { return };
        let directory = self.directory();
        let to = self.name_in(&directory);
        if to.starts_with(&from) || from.starts_with(&to) {
            return;
        }
        if self
            .tree
            .stat(&to)
            .is_ok_and(|old| old.kind == FileKind::Directory || stat.kind == FileKind::Directory)
        {
            self.remove(&to);
        }
        self.tree.rename(&from, &to).expect("renamed");
        self.mark_parent(&from);
        self.mark_parent(&to);
        if stat.kind == FileKind::Directory {
            self.marks.push(Part { directory: to, deep: true });
        }
    }

    /// What nobody needed to mark: directories, files, what was never there.
    fn mark_more(&mut self) {
        for _ in 0..self.below(4) {
            let mut path = self.pick(|_| true).map(|(path, _)| path).unwrap_or_default();
            for _ in 0..self.below(3) {
                path = self.name_in(&path);
            }
            let deep = self.below(5) == 0;
            self.marks.push(Part { directory: path, deep });
        }
        if self.below(8) == 0 {
            self.mark(path(OWN));
        }
    }
}

fn all_changes(plan: Plan) -> Vec<Change> {
    let mut changes = plan.into_changes().expect("kept");
    std::iter::from_fn(|| changes.next_change().expect("reads back")).collect()
}

/// Rounds of changes, each planned in parts and as a whole; how often the parts did not tell.
fn run(seed: u64, policy: &dyn Policy, links: bool) -> usize {
    let tree = Tree::new(seed);
    let mut rounds = Rounds { tree, state: seed, links, marks: Vec::new(), deferred: Vec::new() };
    let (by_parts, by_whole) = (new_catalog(), new_catalog());
    for _ in 0..30 {
        rounds.change();
    }
    let mut wholes = 0;
    for catalog in [&by_parts, &by_whole] {
        rounds.tree.carry_out(catalog, policy, rounds.tree.whole(catalog, policy));
    }
    for round in 0..25 {
        rounds.marks = std::mem::take(&mut rounds.deferred);
        for _ in 0..=rounds.below(6) {
            rounds.change();
        }
        rounds.mark_more();
        let scope = Scope::new(rounds.marks.clone());
        let at = || format!("seed {seed}, round {round}, {scope:?}");
        let tree = &rounds.tree;
        let plan = match tree.parts(&by_parts, policy, &scope) {
            PartialPlan::Plan(plan) => {
                let whole = tree.whole(&by_parts, policy);
                if !links {
                    let (ours, theirs) = (plan.tally, whole.tally);
                    assert_eq!(ours.rewritten, theirs.rewritten, "{}", at());
                    // A gone directory above what is kept is counted by each plan that passes it.
                    assert!(ours.deleted <= theirs.deleted, "{}", at());
                    if policy.is_trivial() {
                        assert_eq!(ours, theirs, "{}", at());
                    }
                    let again = match tree.parts(&by_parts, policy, &scope) {
                        PartialPlan::Plan(plan) => all_changes(*plan),
                        PartialPlan::Whole(why) => panic!("{why}: {}", at()),
                    };
                    assert_eq!(again, all_changes(whole), "{}", at());
                }
                *plan
            }
            PartialPlan::Whole(why) => {
                assert!(links, "{why}: {}", at());
                wholes += 1;
                tree.whole(&by_parts, policy)
            }
        };
        let again = |path: &RelPath| Part { directory: path.clone(), deep: true };
        rounds.deferred = plan.deferred_first.iter().map(again).collect();
        let done = tree.carry_out(&by_parts, policy, plan);
        tree.carry_out(&by_whole, policy, tree.whole(&by_whole, policy));
        assert_eq!(root_of(&by_parts), root_of(&by_whole), "{} {done:?}", at());
        assert_eq!(detached(&by_parts), detached(&by_whole), "{}", at());
        if !links {
            let left = all_changes(tree.whole(&by_parts, policy));
            assert!(left.is_empty(), "{} left {left:?}", at());
        }
    }
    wholes
}

/// The same seeds every time; as many others as `FARSHORE_TEST_SEEDS` says, each time anew.
fn config() -> ProptestConfig {
    use proptest::test_runner::RngSeed;
    let more = std::env::var("FARSHORE_TEST_SEEDS").ok().and_then(|n| n.parse().ok());
    let (cases, rng_seed) = match more {
        Some(cases) => (cases, RngSeed::Random),
        None => (96, RngSeed::Fixed(15_541_921_284_824_277_759)),
    };
    ProptestConfig { cases, rng_seed, max_shrink_iters: 0, ..ProptestConfig::default() }
}

proptest! {
    // A seed has no smaller one.
    #![proptest_config(config())]

    #[test]
    fn parts_come_to_what_the_whole_does(seed: u64) {
        run(seed, &ReplicateAll, false);
    }

    #[test]
    fn and_so_they_do_under_a_policy(seed: u64) {
        run(seed, &Rules, false);
    }

    #[test]
    fn and_with_inodes_of_several_names_or_they_say_that_they_cannot_tell(seed: u64) {
        run(seed, &ReplicateAll, true);
    }
}
