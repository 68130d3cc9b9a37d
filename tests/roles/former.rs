//! Former versions while the site runs: at a standby, and at a site that was opened by a failover, whose services
//! write in place.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::process::Output;

use crate::common::{expect, farshore, json, text};
use crate::pair::{Dials, Pair, Site};

const NO_BRAKE: &str = "brake = { entries = 1000000, percent = 100 }";

fn history(site: &Site, words: &[&str]) -> Output {
    let (command, rest) = words.split_first().expect("a command");
    let mut args = vec!["history", *command, text(&site.tree)];
    args.extend(rest);
    args.extend(["--state", text(&site.state)]);
    farshore(&args)
}

/// Restores a file as it was at `point`, to a folder that is nobody's; its content.
#[track_caller]
fn restored(site: &Site, path: &str, point: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let (to, at) = (folder.path().join("out"), point.to_string());
    expect(&history(site, &["restore", path, "--at", &at, "--to", text(&to)]), 0, &[path]);
    fs::read(to).expect("it is there")
}

#[test]
fn versions_are_listed_and_restored_while_either_kind_of_site_works() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (production, recovery) = (&pair.production, &pair.recovery);
    let large: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    pair.write("acct/0-stays", &large);
    fs::hard_link(production.tree.join("acct/0-stays"), production.tree.join("acct/gone")).unwrap();
    pair.write("acct/\u{e4} name", b"first");
    let (standby, sender) = (recovery.start(), production.start());
    let (first, _) = pair.whole_point();
    fs::remove_file(production.tree.join("acct/gone")).unwrap();
    pair.write("acct/\u{e4} name", b"second");
    let (second, _) = pair.whole_point();
    // At the standby, which goes on meanwhile.
    let list = history(recovery, &["list", "acct/gone", "--json"]);
    expect(&list, 0, &[]);
    let versions = json(&list)["versions"].clone();
    assert_eq!(versions.as_array().map(Vec::len), Some(1), "{versions}");
    assert_eq!(versions[0]["point"], first, "{versions}");
    expect(&history(recovery, &["list"]), 0, &["acct/gone hard link", "acct/\u{e4} name file 5 B"]);
    expect(&history(recovery, &["list", "--points"]), 0, &[&format!("{first} "), "entries"]);
    assert_eq!(restored(recovery, "acct/gone", first), large);
    assert_eq!(restored(recovery, "acct/\u{e4} name", first), b"first");
    assert_eq!(restored(recovery, "acct/\u{e4} name", second), b"second");
    let (at, missing) = (first.to_string(), "acct/never");
    let to = recovery.state.join("out");
    let refused = history(recovery, &["restore", missing, "--at", &at, "--to", text(&to)]);
    expect(&refused, 3, &[missing, "not there then"]);
    let refused = history(recovery, &["restore", "acct/gone", "--at", &at]);
    expect(&refused, 9, &["--to FILE"]);
    // Opened: services write in place, and the file that went was a name of what they write to.
    sender.kill();
    let config = text(&recovery.config);
    let force = ["failover", "--force", "--peer-is-off", "--config", config];
    expect(&farshore(&force), 0, &[]);
    let stays = fs::OpenOptions::new().write(true).open(recovery.tree.join("acct/0-stays"));
    let mut stays = stays.unwrap();
    stays.seek(SeekFrom::Start(600_000)).unwrap();
    stays.write_all(b"what services write").unwrap();
    assert_eq!(restored(recovery, "acct/gone", first), large);
    assert_eq!(restored(recovery, "acct/\u{e4} name", first), b"first");
    expect(&history(recovery, &["list", "acct/gone"]), 0, &["acct/gone hard link"]);
    standby.kill();
    // A folder that is no share of this site, and nobody to ask.
    expect(&history(production, &["list"]), 3, &["knows no target"]);
}
