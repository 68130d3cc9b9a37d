//! A file that moved is sent as a move when its bytes are what the target holds, whatever its times say.

use super::*;

/// Not of one chunk, and of no zeros.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let next = |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(seed >> 57).unwrap_or(0) + 1
    };
    (0..len).map(next).collect()
}

/// Moves a file of `content`, in which `edit` is written behind the back of its times, and says what is sent.
fn moved(content: &[u8], edit: Option<(u64, &[u8])>) -> Vec<(String, &'static str)> {
    let storage = disk(&[]);
    let [a, b] = [b"a", b"b"].map(|d| storage.open_directory(storage.root(), d).expect("opened"));
    let file = storage.create_file(&a, b"old").expect("created");
    storage.write_at(&file, 0, content).expect("written");
    let (entry, recipe, was) =
        describe_file(&storage, &a, b"old", None, &mut None).expect("described");
    let size = was.size;
    storage.rename(&a, b"old", &b, b"new").expect("renamed");
    if let Some((at, bytes)) = edit {
        storage.write_at(&file, at, bytes).expect("written");
        storage.set_mtime(Object::File(&file), was.mtime).expect("set back");
    }
    let now = storage.stat(Object::File(&file)).expect("looked at");
    assert_eq!((now.mtime, now.inode), (was.mtime, was.inode));
    assert_ne!(now.ctime, was.ctime, "or the content would not be looked at");
    let change = Change::Look {
        path: path("b/new"),
        size,
        is_file: true,
        kind: LookKind::New,
        moved_from: Some(path("a/old")),
    };
    let put = |tables: &mut CatalogTables<'_>| {
        let facts = Some(LocalFacts::of(&was));
        tables.put(&path("a/old"), &Record { entry: entry.clone(), facts })?;
        let content = entry.content().copied();
        recipe
            .iter()
            .zip(&content)
            .try_for_each(|(recipe, content)| tables.put_recipe(content, recipe))
    };
    let (record, problems) = batch_after(put, &storage, vec![change], &|| storage.disk().time(), 0);
    assert!(problems.is_empty(), "{problems:?}");
    let told = |effect: &Effect| match effect {
        Effect::Put { path, kind: EffectKind::Moved(_), .. } => (path.to_string(), "moved"),
        Effect::Put { path, .. } => (path.to_string(), "sent"),
        Effect::Remove { path, moved: true } => (path.to_string(), "moved away"),
        Effect::Remove { path, .. } => (path.to_string(), "removed"),
    };
    record.effects.iter().map(told).collect()
}

#[test]
fn what_is_the_same_byte_by_byte_moves_and_nothing_else_does() {
    let of_many_chunks = noise(1_000_000, 1);
    let mut with_zeros = noise(600_000, 2);
    with_zeros[200_000..500_000].fill(0);
    let contents = [
        noise(4_000, 3),
        noise(usize::try_from(SMALL_FILE_MAX).expect("fits") + 1, 4),
        of_many_chunks,
        with_zeros,
    ];
    for content in contents {
        let len = content.len() as u64;
        let as_move = [("a/old".to_owned(), "moved away"), ("b/new".to_owned(), "moved")];
        assert_eq!(moved(&content, None), as_move, "{len} bytes");
        // At the begin, in the middle, at the end; of the same length, and longer by a byte.
        for at in [0, len / 2, len - 1, len] {
            let sent = moved(&content, Some((at, b"\xff")));
            let apart = [("a/old".to_owned(), "removed"), ("b/new".to_owned(), "sent")];
            assert_eq!(sent, apart, "{len} bytes, changed at {at}");
        }
    }
}
