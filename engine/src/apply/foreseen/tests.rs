//! What is foreseen comes out as what is not.

use super::*;
use crate::apply::bed::{Bed, path};
use crate::io::sim::SimConfig;
use crate::stage::Staged;

/// What there is after a batch that removes, replaces and makes a file, and tries to make one where it cannot when
/// `one_fails`; and whether the digests were up to date at once.
fn after_a_batch(sealed: bool, one_fails: bool) -> (String, bool) {
    let bed = Bed::new(SimConfig::default());
    let known = [("gone", &b"1"[..]), ("kept", b"22"), ("other", b"333")]
        .map(|(name, content)| (path(name), bed.file(bed.storage.root(), name, content)));
    let expected = known[0].1.entry.digest();
    bed.knows(&known, sealed);
    let folder = bed.staging();
    let place = |number: u32, at: &str, content: &[u8]| {
        let entry = bed.file(&folder, &number.to_string(), content).entry;
        Staged::Place { number, path: path(at), entry }
    };
    let mut staged = vec![
        Staged::Remove { number: 1, path: path("gone"), expected },
        place(2, "kept", b"4444"),
        place(3, "new", b"55555"),
    ];
    let nowhere = one_fails.then(|| place(4, "nowhere/new", b"666666"));
    staged.extend(nowhere);
    let receipts = bed.apply(staged);
    let catalog = &bed.catalog;
    let reader = catalog.reader().expect("reader");
    let records: Vec<_> =
        reader.records_below(&RelPath::root()).expect("read").map(|r| r.expect("read")).collect();
    let failed = u64::from(one_fails);
    assert_eq!(receipts[0].failures.len() as u64, failed, "{receipts:?}");
    let totals = (reader.entry_count().expect("read"), reader.content_bytes().expect("read"));
    assert_eq!(totals, (3, 3 + 4 + 5));
    let digest = reader.root_digest().expect("read");
    let sealed_root = catalog.sealed_root().expect("sealed");
    let held = [&b"1"[..], b"22", b"4444", b"55555", b"666666"]
        .map(|content| reader.locations(&FileDigest::of_small(content), 9).expect("read"));
    let all = (records, totals, reader.history_sets().expect("read"), held, sealed_root, receipts);
    assert_eq!(reader.applied_batch().expect("read"), 2);
    (format!("{all:?}"), digest == sealed_root)
}

#[test]
fn a_batch_is_recorded_as_it_came_out_foreseen_or_not() {
    for one_fails in [false, true] {
        let (foreseen, up_to_date) = after_a_batch(true, one_fails);
        let (plain, plain_up_to_date) = after_a_batch(false, one_fails);
        assert_eq!(foreseen, plain, "one fails: {one_fails}");
        // What failed was not foreseen, and a tree that was never sealed is not.
        assert_eq!((up_to_date, plain_up_to_date), (!one_fails, false));
    }
}
