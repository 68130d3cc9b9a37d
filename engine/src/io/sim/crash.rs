//! The power cut: what is left of the disk.
//!
//! Every state is the durable one plus some of what was pending. How much is drawn anew for names,
//! facts and pages, none and all included, so that "everything was lost" and "everything happened
//! to be written" both come up within a few seeds.

use super::CrashModel;
use super::content::{Page, zero_page};
use super::log::{FactChange, Pending, PendingName};
use super::state::State;
use super::tree::{Id, Tree};

/// splitmix64: small, and the same everywhere.
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next();
        rng
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn eighths(&mut self, of_eight: u64) -> bool {
        self.below(8) < of_eight
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }

    /// In how many of eight cases something is kept.
    fn share(&mut self) -> u64 {
        *self.pick(&[0, 1, 4, 7, 8])
    }
}

/// Replaces both states of the disk by what a power cut leaves.
pub(super) fn crash(state: &mut State, seed: u64) {
    let mut rng = Rng::new(state.config.seed, seed);
    let mut tree = state.durable.clone();
    replay(&mut tree, state.log.take_all(), state.config.crash_model, &mut rng);
    let share = rng.share();
    for (id, pages) in std::mem::take(&mut state.dirty) {
        for (index, versions) in pages {
            let Some(content) = tree.inodes.get_mut(&id).and_then(|inode| inode.content_mut())
            else {
                break;
            };
            let old = content.page(index).cloned();
            let page = if rng.eighths(share) {
                kept(&versions, &mut rng)
            } else {
                lost(old, &versions, state, &mut rng)
            };
            content.put_page(index, page);
        }
    }
    for inode in tree.inodes.values_mut() {
        if let Some(content) = inode.content_mut() {
            content.trim();
        }
    }
    tree.prune();
    state.restart(tree);
}

fn replay(tree: &mut Tree, pending: Vec<Pending>, model: CrashModel, rng: &mut Rng) {
    let settled = |p: &Pending| matches!(p, Pending::Name(PendingName { settled: true, .. }));
    let open = pending.iter().filter(|p| !settled(p)).count() as u64;
    let prefix = match rng.below(4) {
        0 => 0,
        1 => open,
        _ => rng.below(open + 1),
    };
    let (names, facts) = (rng.share(), rng.share());
    let mut seen = 0;
    for pending in pending {
        let keep = settled(&pending)
            || match (model, &pending) {
                (CrashModel::Ordered, _) => seen < prefix,
                (CrashModel::Hostile, Pending::Name(_)) => rng.eighths(names),
                (CrashModel::Hostile, Pending::Fact(..)) => rng.eighths(facts),
            };
        seen += u64::from(!settled(&pending));
        match pending {
            Pending::Name(name) if keep => {
                tree.apply_name(&name.op);
            }
            Pending::Name(_) => {}
            Pending::Fact(id, op) if keep => {
                tree.apply_fact(id, &op);
            }
            Pending::Fact(id, op) => {
                if let FactChange::Written { end } = op.change {
                    grow_in_part(tree, id, end, rng);
                }
            }
        }
    }
}

/// A lost write may still have moved the end of the file some of the way.
fn grow_in_part(tree: &mut Tree, id: Id, end: u64, rng: &mut Rng) {
    if let Some(content) = tree.inodes.get_mut(&id).and_then(|inode| inode.content_mut())
        && content.size() < end
        && rng.eighths(1)
    {
        content.grow(content.size() + rng.below(end - content.size()));
    }
}

/// A page that was written back: as it is, rarely as it was at an earlier write.
fn kept(versions: &[Page], rng: &mut Rng) -> Option<Page> {
    if versions.len() > 1 && rng.eighths(1) {
        return Some(rng.pick(versions).clone());
    }
    versions.last().cloned()
}

/// A page that was not, or not wholly.
fn lost(old: Option<Page>, versions: &[Page], state: &State, rng: &mut Rng) -> Option<Page> {
    if state.config.crash_model == CrashModel::Hostile && rng.eighths(1) {
        return torn(old, versions, rng);
    }
    // A block that was never written may come up allocated and empty. One that was is not emptied
    // by writing into it on any file system, unless asked for.
    if (old.is_none() || state.config.zero_overwritten_pages) && rng.eighths(3) {
        return Some(zero_page());
    }
    old
}

/// Some sectors new, some as they were.
fn torn(old: Option<Page>, versions: &[Page], rng: &mut Rng) -> Option<Page> {
    let mut page = old.unwrap_or_else(zero_page);
    let new = versions.last()?;
    let sectors = rng.next();
    let bytes = std::sync::Arc::make_mut(&mut page);
    for (sector, (to, from)) in bytes.chunks_mut(512).zip(new.chunks(512)).enumerate() {
        if sectors >> sector & 1 == 1 {
            to.copy_from_slice(from);
        }
    }
    Some(page)
}
