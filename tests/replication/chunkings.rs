//! A pair that replicated before new files were cut by a new chunking goes on: nothing that is at the
//! target is sent again, whatever happens to files and catalogs.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use farshore_core::chunking::{Chunker, ChunkingId};
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recipe::Recipe;
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole, Durability, Record};
use farshore_proto::message::StoreId;

use crate::catalogs::{catalog, recovers};
use crate::sites::{Counts, Sites, noise, put};

const MIB: usize = 1 << 20;

/// Roles and the beginnings of their catalogs' names.
const ENDS: [(CatalogRole, &str); 2] =
    [(CatalogRole::Source, "source-"), (CatalogRole::Target, "target-")];

fn recipe_of(content: &[u8], id: ChunkingId) -> Recipe {
    let mut chunker = Chunker::new(id, MIB);
    let mut recipe = Recipe { chunking: id, extents: Vec::new() };
    let mut rest = content;
    loop {
        let spare = chunker.spare();
        let len = spare.len().min(rest.len());
        spare[..len].copy_from_slice(&rest[..len]);
        chunker.filled(len);
        rest = &rest[len..];
        if len == 0 {
            chunker.finish();
        }
        while let Some(cut) = chunker.poll() {
            recipe.push(cut.extent);
        }
        if len == 0 {
            return recipe;
        }
    }
}

fn open(sites: &Sites, role: CatalogRole, name: &str) -> Catalog {
    let path = catalog(&sites.state, name).join("catalog.redb");
    let config = CatalogConfig { role, cache_bytes: 8 * MIB, fresh_id: StoreId([7; 16]) };
    Catalog::open(&path, &config).expect("its catalog")
}

fn larger_files(catalog: &Catalog) -> Vec<(RelPath, Record)> {
    let records =
        catalog.reader().and_then(|r| r.records_below(&RelPath::root())).expect("records");
    let all = records.map(|r| r.expect("a record"));
    all.filter(|(_, r)| r.entry.content().is_some() && r.entry.size() > 64 << 10).collect()
}

/// Writes into both catalogs what they would hold had the first chunking cut all files.
fn age(sites: &Sites) {
    let mut roots = Vec::new();
    for (role, name) in ENDS {
        let catalog = open(sites, role, name);
        let files = larger_files(&catalog);
        let update = catalog.update(Durability::Immediate, |tables| {
            for (path, record) in files {
                let file = sites.a.join(path.to_string());
                let recipe = recipe_of(&fs::read(file).expect("content"), ChunkingId::FastCdc64K);
                let Entry::File { size, meta, .. } = record.entry else { continue };
                let content = recipe.digest();
                let entry = Entry::File { size, content, meta };
                tables.put(&path, &Record { entry, facts: record.facts })?;
                tables.put_recipe(&content, &recipe)?;
            }
            tables.seal()
        });
        roots.push(update.expect("updated"));
    }
    assert_eq!(roots[0], roots[1]);
}

/// What cut `name`, as both ends have it.
fn chunking_of(sites: &Sites, name: &str) -> Option<ChunkingId> {
    let path = RelPath::new(name.as_bytes().to_vec()).expect("a path");
    let [source, target] = ENDS.map(|(role, end)| {
        let catalog = open(sites, role, end);
        let reader = catalog.reader().expect("a view");
        let record = reader.get(&path).expect("read").expect("it is there");
        reader.chunking(record.entry.content().expect("a file")).expect("read")
    });
    assert_eq!(source, target, "{name}");
    source
}

/// A pair whose files were all cut by the first chunking.
fn old_pair() -> Sites {
    let sites = Sites::in_memory();
    for (n, name) in ["kept", "edited", "touched", "renamed", "copied", "grown"].iter().enumerate()
    {
        put(&sites.a.join("home").join(name), noise(n as u64, 3 * MIB + n));
    }
    put(&sites.a.join("home/one-chunk"), noise(20, 70_000));
    put(&sites.a.join("home/small"), noise(21, 5_000));
    put(&sites.a.join("folder/below"), noise(24, 2 * MIB));
    let mut holes = noise(22, 100_000);
    holes.resize(MIB, 0);
    holes.extend(noise(23, MIB));
    put(&sites.a.join("home/zeros"), holes);
    sites.run();
    assert_eq!(chunking_of(&sites, "home/kept"), Some(ChunkingId::Gear64K));
    age(&sites);
    sites.converged("with older catalogs");
    sites
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::options().write(true).open(path).and_then(|f| f.set_modified(time)).expect("set");
}

#[test]
fn an_older_pair_sends_what_changed_and_no_more() {
    let sites = old_pair();
    let home = sites.a.join("home");
    let mut content = fs::read(home.join("edited")).expect("content");
    content.splice(MIB..MIB, *b"inserted");
    put(&home.join("edited"), content);
    let mut content = fs::read(home.join("grown")).expect("content");
    content.extend(noise(30, 50_000));
    put(&home.join("grown"), content);
    for name in ["touched", "one-chunk", "zeros"] {
        set_time(&home.join(name), 1_000_000_000);
    }
    fs::rename(home.join("renamed"), home.join("renamed-now")).expect("renamed");
    fs::rename(sites.a.join("folder"), sites.a.join("folder-now")).expect("renamed");
    fs::copy(home.join("copied"), home.join("a-copy")).expect("copied");
    fs::copy(home.join("one-chunk"), home.join("another-copy")).expect("copied");
    let run = sites.run();
    // A chunk is at most 256 KiB: one or two of each of the two that changed.
    assert!(run.literal() < 900_000, "{} bytes sent", run.literal());
    let expected = Counts { written: 5, metadata: 5, moved: 2, removed: 1 };
    assert_eq!(run.counts(), expected);
    sites.converged("after changes");
    for name in ["kept", "edited", "touched", "renamed-now", "copied", "a-copy", "grown", "zeros"] {
        assert_eq!(
            chunking_of(&sites, &format!("home/{name}")),
            Some(ChunkingId::FastCdc64K),
            "{name}"
        );
    }
    assert_eq!(chunking_of(&sites, "folder-now/below"), Some(ChunkingId::FastCdc64K));
    // What is new is cut by the new one, beside the old.
    put(&home.join("new"), noise(31, 2 * MIB));
    assert_eq!(sites.run().literal(), 2 << 20);
    assert_eq!(chunking_of(&sites, "home/new"), Some(ChunkingId::Gear64K));
    put(&home.join("new"), [noise(32, 1_000), noise(31, 2 * MIB)].concat());
    let sent = sites.run().literal();
    assert!(sent < 400_000, "{sent} bytes sent");
    sites.converged("after more changes");
}

/// The target describes what it finds as the source does.
#[test]
fn a_check_describes_files_as_they_were_cut() {
    let sites = old_pair();
    let there = sites.b.join("home");
    for name in ["kept", "touched", "one-chunk", "zeros"] {
        set_time(&there.join(name), 1_000_000_000);
    }
    let run = sites.run();
    assert_eq!(run.literal(), 0);
    // And the root, which is always looked at when the ends were compared.
    let expected = Counts { written: 1, metadata: 4, ..Counts::default() };
    assert_eq!(run.counts(), expected, "content is seen the same");
    sites.converged("after times were set");
    assert_eq!(chunking_of(&sites, "home/kept"), Some(ChunkingId::FastCdc64K));
    // Other bytes, same length and a new time.
    let mut content = fs::read(there.join("kept")).expect("content");
    content[2 * MIB] ^= 1;
    put(&there.join("kept"), content);
    let run = sites.run();
    assert_eq!(run.counts().written, 2);
    assert!(run.literal() <= 3 << 20);
    sites.converged("after an edit at the target");
}

/// What a lost catalog knew is found by trying.
#[test]
fn older_pairs_recover_lost_catalogs() {
    for lost in [&["source-"][..], &["target-"], &["source-", "target-"]] {
        let sites = old_pair();
        for name in lost {
            fs::remove_dir_all(catalog(&sites.state, name)).expect("removed");
        }
        recovers(&sites, "catalogs lost");
        let path = sites.a.join("home/edited");
        let mut content = fs::read(&path).expect("content");
        content.splice(MIB..MIB, *b"inserted");
        put(&path, content);
        let sent = sites.run().literal();
        assert!(sent < 512 << 10, "{lost:?}: {sent} bytes sent for 8");
        sites.converged("after an edit");
    }
}
