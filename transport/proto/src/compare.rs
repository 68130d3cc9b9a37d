//! Finding what differs between two trees whose root digests differ.
//!
//! The source descends: it asks for a directory, compares the answer with what it believes, and asks
//! on where both have a directory with different digests. One round trip a level, many directories a
//! message; equal subtrees are never looked at. What it finds corrects its belief; the ordinary diff
//! against the tree on disk comes after.

use std::collections::VecDeque;

use farshore_core::digest::{BUCKETS, Child, DirectoryDigest};
use farshore_core::entry::{Entry, EntryKind};
use farshore_core::path::RelPath;

use crate::message::{Answer, BUCKET_CHILDREN_MAX, COMPARE_QUERIES_MAX, Query, WIDE};
use crate::session::SessionError;

/// What a query takes at most beside its path.
const QUERY_COST: usize = 8;
/// Bytes of queries in one message at most: paths may be long. Always room for one.
const QUERIES_BYTES_MAX: usize = 1 << 20;

const _: () = {
    assert!(QUERIES_BYTES_MAX + 16 <= crate::link::CONTROL_MESSAGE_MAX);
    assert!(farshore_core::limits::PATH_LEN_MAX + QUERY_COST <= QUERIES_BYTES_MAX);
};

/// What one side holds, as the comparison needs it.
pub trait TreeView {
    /// Why it cannot be read.
    type Error;
    /// Children of `directory` in name order, all or those of one bucket; empty when there is no
    /// such directory.
    ///
    /// # Errors
    /// The store's own.
    fn children(&self, directory: &RelPath, bucket: Option<u8>) -> Result<Vec<Child>, Self::Error>;
    /// The digest of each bucket of `directory`.
    ///
    /// # Errors
    /// The store's own.
    fn buckets(&self, directory: &RelPath) -> Result<Box<[DirectoryDigest; BUCKETS]>, Self::Error>;
}

/// Where the target is not what the source believes. `theirs` replaces the belief at `path`; when it
/// is no directory, nothing is believed below `path` any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: RelPath,
    /// What the target holds there.
    pub theirs: Option<Entry>,
}

/// Why a comparison stops.
#[derive(Debug, thiserror::Error)]
pub enum CompareError<E> {
    /// The peer broke the order or the bounds.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Our own view cannot be read.
    #[error("reading the source catalog to compare it")]
    View(#[source] E),
}

/// The descent. Call [`Self::poll_queries`] and send them; feed each answer to
/// [`Self::handle_answer`]; done when [`Self::is_finished`].
#[derive(Debug)]
pub struct Comparison {
    to_ask: VecDeque<Query>,
    asked: VecDeque<Query>,
    /// Children of the answer now arriving in pieces.
    partial: Vec<Child>,
}

impl Default for Comparison {
    fn default() -> Self {
        let root = Query { directory: RelPath::root(), bucket: None };
        Self { to_ask: VecDeque::from([root]), asked: VecDeque::new(), partial: Vec::new() }
    }
}

impl Comparison {
    /// Queries to send in one message; empty while enough are under way.
    pub fn poll_queries(&mut self) -> Vec<Query> {
        let room = COMPARE_QUERIES_MAX.saturating_sub(self.asked.len());
        let mut bytes = 0;
        let fits = |query: &&Query| {
            bytes += query.directory.as_bytes().len() + QUERY_COST;
            bytes <= QUERIES_BYTES_MAX
        };
        let room = self.to_ask.iter().take(room).take_while(fits).count();
        let batch: Vec<_> = self.to_ask.drain(..room).collect();
        self.asked.extend(batch.iter().cloned());
        batch
    }

    /// Whether every query is answered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.to_ask.is_empty() && self.asked.is_empty()
    }

    /// Takes the answer to the oldest query; the differences it shows.
    ///
    /// # Errors
    /// [`CompareError::Session`] for an answer nobody asked for or children of another directory,
    /// [`CompareError::View`] when `ours` cannot be read.
    pub fn handle_answer<V: TreeView>(
        &mut self,
        answer: Answer,
        ours: &V,
    ) -> Result<Vec<Difference>, CompareError<V::Error>> {
        let query = self.asked.front().ok_or(SessionError::UnaskedAnswer)?.clone();
        match answer {
            Answer::Buckets(theirs) => {
                if query.bucket.is_some() || !self.partial.is_empty() {
                    return Err(SessionError::UnaskedAnswer.into());
                }
                let mine = ours.buckets(&query.directory).map_err(CompareError::View)?;
                let differing = (0..=u8::MAX).filter(|&b| mine[b as usize] != theirs[b as usize]);
                self.to_ask.extend(
                    differing
                        .map(|b| Query { directory: query.directory.clone(), bucket: Some(b) }),
                );
                self.asked.pop_front();
                Ok(Vec::new())
            }
            Answer::Children { last, children } => {
                check_children(&query.directory, self.partial.last(), &children)?;
                let limit = if query.bucket.is_some() { BUCKET_CHILDREN_MAX } else { WIDE };
                if self.partial.len() + children.len() > limit {
                    return Err(SessionError::TooMany { what: "children", limit }.into());
                }
                self.partial.extend(children);
                if !last {
                    return Ok(Vec::new());
                }
                self.asked.pop_front();
                let theirs = std::mem::take(&mut self.partial);
                let mine =
                    ours.children(&query.directory, query.bucket).map_err(CompareError::View)?;
                Ok(self.merge(mine, theirs))
            }
        }
    }

    fn merge(&mut self, mine: Vec<Child>, theirs: Vec<Child>) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut mine = mine.into_iter().peekable();
        for their in theirs {
            while let Some(gone) = mine.next_if(|m| m.path < their.path) {
                differences.push(Difference { path: gone.path, theirs: None });
            }
            let known = mine.next_if(|m| m.path == their.path);
            let same_below = known.as_ref().is_some_and(|m| m.below == their.below);
            if their.entry.kind() == EntryKind::Directory && !same_below {
                self.to_ask.push_back(Query { directory: their.path.clone(), bucket: None });
            }
            if known.is_none_or(|m| m.entry != their.entry) {
                differences.push(Difference { path: their.path, theirs: Some(their.entry) });
            }
        }
        differences.extend(mine.map(|m| Difference { path: m.path, theirs: None }));
        differences
    }
}

fn check_children(
    directory: &RelPath,
    before: Option<&Child>,
    children: &[Child],
) -> Result<(), SessionError> {
    let mut last = before.map(|c| &c.path);
    for child in children {
        let in_order = last.is_none_or(|l| *l < child.path);
        if !in_order || child.path.parent_bytes() != Some(directory.as_bytes()) {
            return Err(SessionError::UnaskedAnswer);
        }
        last = Some(&child.path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use farshore_core::digest::{DirectoryHasher, bucket_of};
    use farshore_core::entry::Metadata;
    use farshore_core::recipe::FileDigest;
    use proptest::prelude::*;

    use super::*;
    use crate::message::ANSWER_CHILDREN_MAX;

    #[derive(Debug, Clone, Default)]
    struct Tree(BTreeMap<RelPath, Entry>);

    impl Tree {
        fn below(&self, directory: &RelPath) -> DirectoryDigest {
            let mut hasher = DirectoryHasher::default();
            for (path, entry) in &self.0 {
                if path.parent_bytes() == Some(directory.as_bytes()) {
                    let below = (entry.kind() == EntryKind::Directory).then(|| self.below(path));
                    hasher.add(path.name(), &entry.to_bytes(), below.as_ref());
                }
            }
            hasher.finish()
        }

        fn apply(&mut self, difference: Difference) {
            let is_directory =
                difference.theirs.as_ref().is_some_and(|e| e.kind() == EntryKind::Directory);
            if !is_directory {
                self.0.retain(|p, _| !p.starts_with(&difference.path));
            }
            if let Some(entry) = difference.theirs {
                self.0.insert(difference.path, entry);
            }
        }
    }

    impl TreeView for Tree {
        type Error = Infallible;

        fn children(&self, dir: &RelPath, bucket: Option<u8>) -> Result<Vec<Child>, Infallible> {
            Ok(self
                .0
                .iter()
                .filter(|(p, _)| p.parent_bytes() == Some(dir.as_bytes()))
                .filter(|(p, _)| bucket.is_none_or(|b| bucket_of(p.name()) == b))
                .map(|(p, e)| Child {
                    path: p.clone(),
                    entry: e.clone(),
                    below: (e.kind() == EntryKind::Directory).then(|| self.below(p)),
                })
                .collect())
        }

        fn buckets(&self, dir: &RelPath) -> Result<Box<[DirectoryDigest; BUCKETS]>, Infallible> {
            let mut hashers: Vec<_> = (0..BUCKETS).map(|_| DirectoryHasher::default()).collect();
            for child in self.children(dir, None)? {
                hashers[bucket_of(child.path.name()) as usize].add(
                    child.path.name(),
                    &child.entry.to_bytes(),
                    child.below.as_ref(),
                );
            }
            Ok(Box::new(std::array::from_fn(|i| hashers[i].finish())))
        }
    }

    /// Answers as a target does; wide from `wide` children on.
    fn answers(tree: &Tree, query: &Query, wide: usize) -> Vec<Answer> {
        let Ok(children) = tree.children(&query.directory, query.bucket);
        if query.bucket.is_none() && children.len() >= wide {
            let Ok(buckets) = tree.buckets(&query.directory);
            return vec![Answer::Buckets(buckets)];
        }
        let pieces = children.chunks(2.min(ANSWER_CHILDREN_MAX)).count().max(1);
        let mut out: Vec<_> = children
            .chunks(2)
            .enumerate()
            .map(|(i, c)| Answer::Children { last: i + 1 == pieces, children: c.to_vec() })
            .collect();
        if out.is_empty() {
            out.push(Answer::Children { last: true, children: Vec::new() });
        }
        out
    }

    fn any_tree() -> impl Strategy<Value = Tree> {
        let step = (prop::collection::vec(0u8..4, 1..4), any::<bool>(), 0u8..3);
        prop::collection::vec(step, 0..25).prop_map(|steps| {
            let mut tree = Tree::default();
            for (names, is_dir, content) in steps {
                let mut at = RelPath::root();
                for (i, name) in names.iter().enumerate() {
                    let parent_ok = at.is_root()
                        || tree.0.get(&at).is_some_and(|e| e.kind() == EntryKind::Directory);
                    if !parent_ok {
                        break;
                    }
                    at = at.join(&[b'a' + name]).expect("valid");
                    if tree.0.contains_key(&at) {
                        continue;
                    }
                    let entry = if is_dir || i + 1 < names.len() {
                        Entry::Directory { meta: Metadata::default() }
                    } else {
                        Entry::File {
                            size: 1,
                            content: FileDigest::of_small(&[content]),
                            meta: Metadata::default(),
                        }
                    };
                    tree.0.insert(at.clone(), entry);
                }
            }
            tree
        })
    }

    proptest! {
        #[test]
        fn applying_the_differences_makes_the_trees_equal(
            mine in any_tree(), theirs in any_tree(), wide in 1usize..6
        ) {
            let mut belief = mine.clone();
            let mut comparison = Comparison::default();
            let mut differences = Vec::new();
            loop {
                let queries = comparison.poll_queries();
                if queries.is_empty() {
                    break;
                }
                for query in queries {
                    for answer in answers(&theirs, &query, wide) {
                        differences.extend(
                            comparison.handle_answer(answer, &mine).expect("honest answers"));
                    }
                }
            }
            prop_assert!(comparison.is_finished());
            differences.into_iter().for_each(|d| belief.apply(d));
            prop_assert_eq!(belief.0, theirs.0);
        }
    }

    #[test]
    fn queries_of_long_paths_go_in_several_messages() {
        let deep = [b"x".repeat(250).as_slice(); 125].join(b"/".as_slice());
        let query = |n: u32| {
            let name = [deep.as_slice(), n.to_string().as_bytes()].join(b"/".as_slice());
            Query { directory: RelPath::new(name).expect("a path"), bucket: Some(1) }
        };
        let mut comparison =
            Comparison { to_ask: (0..2_000).map(query).collect(), ..Comparison::default() };
        let mut asked = 0;
        while !comparison.is_finished() {
            let queries = comparison.poll_queries();
            assert!(!queries.is_empty());
            asked += queries.len();
            let len = crate::message::Message::Compare(queries).to_bytes().len();
            assert!(len <= crate::link::CONTROL_MESSAGE_MAX, "{len} bytes");
            comparison.asked.clear();
        }
        assert_eq!(asked, 2_000);
    }

    #[test]
    fn children_of_another_directory_are_refused() {
        let mut comparison = Comparison::default();
        comparison.poll_queries();
        let stray = Child {
            path: RelPath::new(*b"a/b").expect("valid"),
            entry: Entry::Directory { meta: Metadata::default() },
            below: None,
        };
        let answer = Answer::Children { last: true, children: vec![stray] };
        let result = comparison.handle_answer(answer, &Tree::default());
        assert!(matches!(result, Err(CompareError::Session(SessionError::UnaskedAnswer))));
    }
}
