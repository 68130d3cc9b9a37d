//! Kinds of divergence: what is planted before the sites were apart, and what each did alone.

use std::io;

use farshore_core::conflict::{Outcome, Site};
use farshore_core::path::RelPath;
use farshore_engine::io::{NewNode, Storage};

use crate::trees::{Hands, noise};

/// Done to the tree of a site, about one path.
type Act = fn(&Hands<'_>, &str) -> io::Result<()>;

/// What a path holds in the end at both sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// What the base had.
    Base,
    Production,
    Recovery,
    Nothing,
    /// The general rules say all there is to say.
    Rules,
}

/// A kind of divergence.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) base: Act,
    pub(crate) production: Act,
    pub(crate) recovery: Act,
    pub(crate) ends: Ends,
    /// What a person says of it, and of what is below it.
    pub(crate) decided: Option<fn(&str) -> Outcome>,
}

impl Kind {
    /// Where the case `n` of it is.
    pub(crate) fn path(&self, n: usize) -> String {
        format!("acct{}/in/{}-{n}", n % 4, self.name)
    }
}

fn nothing(_: &Hands<'_>, _: &str) -> io::Result<()> {
    Ok(())
}

fn folder(h: &Hands<'_>, path: &str) -> io::Result<()> {
    match h.directory(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            folder(h, path.rsplit_once('/').map_or("", |(above, _)| above))?;
            h.directory(path)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// A new file in the place of whatever file is there.
fn put(h: &Hands<'_>, path: &str, text: String) -> io::Result<()> {
    folder(h, path.rsplit_once('/').map_or("", |(above, _)| above))?;
    h.file(path, text.as_bytes()).map(drop)
}

pub(crate) fn of_base(path: &str) -> String {
    format!("base of {path}")
}

pub(crate) fn of_production(path: &str) -> String {
    format!("production's longer {path}")
}

pub(crate) fn of_recovery(path: &str) -> String {
    format!("recovery's {path}")
}

fn file(h: &Hands<'_>, path: &str) -> io::Result<()> {
    put(h, path, of_base(path))
}

fn by_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    put(h, path, of_production(path))
}

fn by_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    put(h, path, of_recovery(path))
}

fn alike(h: &Hands<'_>, path: &str) -> io::Result<()> {
    put(h, path, format!("the same at both: {path}"))?;
    h.time(path, 1_700_000_000)
}

fn gone(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(path)
}

fn private(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.mode(path, 0o600)
}

fn group(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.mode(path, 0o660)
}

fn marked(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.xattr(path, "user.note", b"by production")
}

fn moved(h: &Hands<'_>, path: &str, to: &str) -> io::Result<()> {
    let to = path.replace("/in/", to);
    folder(h, to.rsplit_once('/').map_or("", |(above, _)| above))?;
    h.rename(path, &to)
}

fn to_done(h: &Hands<'_>, path: &str) -> io::Result<()> {
    moved(h, path, "/done/")
}

fn to_error(h: &Hands<'_>, path: &str) -> io::Result<()> {
    moved(h, path, "/error/")
}

fn link(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(path)?;
    h.symlink(path, "elsewhere")
}

fn symlink(h: &Hands<'_>, path: &str) -> io::Result<()> {
    folder(h, path.rsplit_once('/').map_or("", |(above, _)| above))?;
    h.symlink(path, &format!("base-of/{path}"))
}

fn retarget(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(path)?;
    h.symlink(path, &format!("production-of/{path}"))
}

fn fifo(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(path)?;
    let (at, name) = h.at(path)?;
    h.0.make_node(&at, name, NewNode::Fifo)
}

fn partial(h: &Hands<'_>, path: &str) -> io::Result<()> {
    put(h, &format!("{path}.filepart"), format!("a part of {path}"))
}

fn interrupted(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.rename(path, &format!("{path}.M_INPROC"))
}

fn again(h: &Hands<'_>, path: &str) -> io::Result<()> {
    put(h, &format!("{path}.again"), of_production(path))
}

fn large(h: &Hands<'_>, path: &str) -> io::Result<()> {
    folder(h, path.rsplit_once('/').map_or("", |(above, _)| above))?;
    h.file(path, &noise(path.len() as u64, 150_000)).map(drop)
}

fn large_by_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    let file = h.file(path, &noise(1_000 + path.len() as u64, 170_000))?;
    // Not whole: a hole at the end.
    h.0.set_len(&file, 400_000)
}

fn large_by_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.patch(path, 90_000, b"recovery was here")
}

// Names of one inode.

fn names(h: &Hands<'_>, path: &str) -> io::Result<()> {
    file(h, path)?;
    h.link(path, &format!("{path}.b"))?;
    h.link(path, &format!("{path}.c"))
}

fn in_place(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.patch(path, 0, b"PRODUCTION")
}

fn in_place_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.patch(path, 0, b"RECOVERY")
}

fn second_gone(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(&format!("{path}.b"))
}

fn name_added(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.link(path, &format!("{path}.z"))
}

fn changed_and_added(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_p(h, path)?;
    name_added(h, path)
}

fn private_and_added(h: &Hands<'_>, path: &str) -> io::Result<()> {
    private(h, path)?;
    name_added(h, path)
}

fn renamed_and_added(h: &Hands<'_>, path: &str) -> io::Result<()> {
    to_done(h, path)?;
    name_added(h, &path.replace("/in/", "/done/"))
}

fn second_apart(h: &Hands<'_>, path: &str) -> io::Result<()> {
    put(h, &format!("{path}.b"), format!("apart, {}", of_production(path)))
}

fn second_moved(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.rename(&format!("{path}.b"), &format!("{path}.y"))
}

fn first_gone_and_changed(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.patch(path, 0, b"PRODUCTION")?;
    h.unlink(path)
}

// Directories.

fn full(h: &Hands<'_>, path: &str) -> io::Result<()> {
    file(h, &format!("{path}/a"))?;
    file(h, &format!("{path}/b/c"))
}

fn emptied(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(&format!("{path}/a"))?;
    h.unlink(&format!("{path}/b/c"))?;
    h.remove_directory(&format!("{path}/b"))?;
    h.remove_directory(path)
}

fn made_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_p(h, &format!("{path}/d/e/new"))?;
    by_p(h, &format!("{path}/new"))
}

fn made_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_r(h, &format!("{path}/d/new"))
}

fn file_to_folder_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(path)?;
    made_p(h, path)
}

fn file_to_folder_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(path)?;
    made_r(h, path)
}

fn folder_to_file_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    emptied(h, path)?;
    by_p(h, path)
}

fn folder_to_file_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    emptied(h, path)?;
    by_r(h, path)
}

fn inside_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_r(h, &format!("{path}/b/late"))
}

fn inside_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_p(h, &format!("{path}/b/c"))
}

fn folder_private(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.mode(path, 0o700)
}

// A file and its attributes.

fn beside(path: &str) -> String {
    path.replace("/in/", "/in/.stfs/attrs/")
}

fn pair(h: &Hands<'_>, path: &str) -> io::Result<()> {
    file(h, path)?;
    file(h, &beside(path))
}

fn pair_by_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_p(h, path)?;
    by_p(h, &beside(path))
}

fn pair_by_r(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_r(h, path)?;
    by_r(h, &beside(path))
}

fn pair_gone(h: &Hands<'_>, path: &str) -> io::Result<()> {
    h.unlink(path)?;
    h.unlink(&beside(path))
}

fn pair_done(h: &Hands<'_>, path: &str) -> io::Result<()> {
    to_done(h, path)?;
    let from = beside(path);
    let to = from.replace("/in/", "/done/");
    folder(h, to.rsplit_once('/').map_or("", |(above, _)| above))?;
    h.rename(&from, &to)
}

fn attributes_by_p(h: &Hands<'_>, path: &str) -> io::Result<()> {
    by_p(h, &beside(path))
}

// What a person says.

fn production(_: &str) -> Outcome {
    Outcome::Keep(Site::Production)
}

fn recovery(_: &str) -> Outcome {
    Outcome::Keep(Site::Recovery)
}

fn quarantine(_: &str) -> Outcome {
    Outcome::Delete
}

fn hold(_: &str) -> Outcome {
    Outcome::Hold
}

fn renamed(path: &str, renamed: Site) -> Outcome {
    let path = RelPath::new(format!("{path}.other").into_bytes()).expect("a path");
    Outcome::KeepBoth { renamed, path }
}

fn both(path: &str) -> Outcome {
    renamed(path, Site::Production)
}

fn both_r(path: &str) -> Outcome {
    renamed(path, Site::Recovery)
}

/// In a folder that nobody has.
fn both_far(path: &str) -> Outcome {
    let path = RelPath::new(path.replace("/in/", "/far/off/").into_bytes()).expect("a path");
    Outcome::KeepBoth { renamed: Site::Production, path }
}

pub(crate) fn kinds() -> Vec<Kind> {
    use Ends::{Base, Nothing, Production, Recovery, Rules};
    let of = |decided: Option<fn(&str) -> Outcome>,
              name,
              base: Act,
              production: Act,
              recovery: Act,
              ends| Kind { name, base, production, recovery, ends, decided };
    let kind =
        |name, base, production, recovery, ends| of(None, name, base, production, recovery, ends);
    let said = |says, name, base, production, recovery, ends| {
        of(Some(says), name, base, production, recovery, ends)
    };
    vec![
        kind("p-orphan", nothing, by_p, nothing, Nothing),
        kind("p-resent", nothing, by_p, again, Nothing),
        kind("p-modified", file, by_p, nothing, Production),
        kind("p-large", large, large_by_p, nothing, Rules),
        kind("p-deleted", file, gone, nothing, Nothing),
        kind("p-metadata", file, private, nothing, Base),
        kind("p-attribute", file, marked, nothing, Base),
        kind("p-renamed", file, to_done, nothing, Nothing),
        kind("p-kind", file, link, nothing, Rules),
        kind("p-fifo", file, fifo, nothing, Rules),
        kind("p-retarget", symlink, retarget, nothing, Rules),
        kind("p-partial", file, partial, nothing, Base),
        kind("p-interrupted", file, interrupted, nothing, Base),
        kind("r-created", nothing, nothing, by_r, Recovery),
        kind("r-modified", file, nothing, by_r, Recovery),
        kind("r-deleted", file, nothing, gone, Nothing),
        kind("r-metadata", file, nothing, private, Base),
        kind("r-renamed", file, nothing, to_done, Nothing),
        kind("r-kind", file, nothing, link, Rules),
        kind("b-modified", file, by_p, by_r, Recovery),
        kind("b-large", large, large_by_p, large_by_r, Rules),
        kind("b-alike", file, alike, alike, Rules),
        kind("b-created", nothing, by_p, by_r, Recovery),
        kind("b-created-alike", nothing, alike, alike, Rules),
        kind("b-deleted", file, gone, gone, Nothing),
        kind("p-mod-r-del", file, by_p, gone, Nothing),
        kind("p-del-r-mod", file, gone, by_r, Recovery),
        kind("p-del-r-meta", file, gone, private, Nothing),
        kind("b-renamed", file, to_error, to_done, Nothing),
        kind("b-renamed-alike", file, to_done, to_done, Nothing),
        kind("p-ren-r-mod", file, to_done, by_r, Recovery),
        kind("p-ren-r-del", file, to_done, gone, Nothing),
        kind("p-mod-r-ren", file, by_p, to_done, Nothing),
        kind("p-del-r-ren", file, gone, to_done, Nothing),
        kind("b-kind", file, link, file_to_folder_r, Rules),
        kind("b-metadata", file, private, group, Base),
        // Names of one inode.
        kind("h-p-in-place", names, in_place, nothing, Rules),
        kind("h-p-second-gone", names, second_gone, nothing, Base),
        kind("h-p-first-gone", names, gone, nothing, Nothing),
        kind("h-p-first-gone-changed", names, first_gone_and_changed, nothing, Nothing),
        kind("h-p-added", names, name_added, nothing, Base),
        kind("h-p-apart", names, second_apart, nothing, Base),
        kind("h-p-moved", names, second_moved, nothing, Rules),
        kind("h-p-metadata", names, private, nothing, Base),
        kind("h-r-in-place", names, nothing, in_place_r, Rules),
        kind("h-r-second-gone", names, nothing, second_gone, Base),
        kind("h-r-first-gone", names, nothing, gone, Nothing),
        kind("h-r-added", names, nothing, name_added, Base),
        kind("h-r-apart", names, nothing, second_apart, Base),
        kind("h-b-in-place", names, in_place, in_place_r, Rules),
        kind("h-p-in-place-r-gone", names, in_place, second_gone, Rules),
        kind("h-p-gone-r-in-place", names, second_gone, in_place_r, Rules),
        said(production, "h-added", names, name_added, nothing, Base),
        said(production, "h-changed-added", file, changed_and_added, nothing, Production),
        said(production, "h-private-added", file, private_and_added, nothing, Base),
        said(production, "h-renamed-added", file, renamed_and_added, nothing, Nothing),
        said(production, "h-in-place", names, in_place, in_place_r, Rules),
        said(production, "h-gone", names, second_gone, in_place_r, Rules),
        said(production, "h-new", nothing, names, nothing, Base),
        said(quarantine, "h-quarantine", names, in_place, in_place_r, Nothing),
        // Directories.
        kind("d-p-made", nothing, made_p, nothing, Rules),
        kind("d-r-made", nothing, nothing, made_r, Rules),
        kind("d-p-removed", full, emptied, nothing, Nothing),
        kind("d-r-removed", full, nothing, emptied, Nothing),
        kind("d-b-removed", full, emptied, emptied, Nothing),
        kind("d-p-removed-r-inside", full, emptied, inside_r, Rules),
        kind("d-r-removed-p-inside", full, inside_p, emptied, Rules),
        kind("d-p-to-folder", file, file_to_folder_p, nothing, Rules),
        kind("d-p-to-file", full, folder_to_file_p, nothing, Production),
        kind("d-r-to-folder", file, nothing, file_to_folder_r, Rules),
        kind("d-r-to-file", full, nothing, folder_to_file_r, Recovery),
        kind("d-p-to-file-r-inside", full, folder_to_file_p, inside_r, Rules),
        kind("d-p-renamed", full, to_done, nothing, Rules),
        kind("d-r-renamed", full, nothing, to_done, Rules),
        kind("d-p-mode", full, folder_private, nothing, Rules),
        said(production, "d-made", nothing, made_p, nothing, Rules),
        said(production, "d-to-folder", file, file_to_folder_p, nothing, Rules),
        said(production, "d-inside", full, inside_p, emptied, Rules),
        said(production, "d-to-file", full, folder_to_file_p, inside_p, Rules),
        // A file and its attributes.
        kind("c-p-modified", pair, pair_by_p, nothing, Production),
        kind("c-p-deleted", pair, pair_gone, nothing, Nothing),
        kind("c-p-renamed", pair, pair_done, nothing, Nothing),
        kind("c-p-attributes", pair, attributes_by_p, nothing, Base),
        kind("c-p-new", file, attributes_by_p, nothing, Base),
        kind("c-p-orphan", nothing, pair_by_p, nothing, Nothing),
        kind("c-r-modified", pair, nothing, pair_by_r, Recovery),
        kind("c-r-deleted", pair, nothing, pair_gone, Nothing),
        kind("c-b-modified", pair, pair_by_p, pair_by_r, Recovery),
        kind("c-p-mod-r-del", pair, pair_by_p, pair_gone, Nothing),
        said(both, "c-both", pair, pair_by_p, pair_by_r, Recovery),
        said(both, "c-both-file-alone", pair, by_p, by_r, Recovery),
        said(production, "c-production", pair, pair_by_p, pair_by_r, Production),
        // What a person, or a policy, says of what both changed.
        said(production, "x-production", file, by_p, by_r, Production),
        said(recovery, "x-recovery", file, by_p, by_r, Recovery),
        said(both, "x-both", file, by_p, by_r, Recovery),
        said(both_r, "x-both-r", file, by_p, by_r, Production),
        said(both_far, "x-both-far", file, by_p, by_r, Recovery),
        said(quarantine, "x-quarantine", file, by_p, by_r, Nothing),
        said(hold, "x-hold", file, by_p, by_r, Recovery),
        said(production, "x-orphan", nothing, by_p, nothing, Production),
        said(production, "x-delivered", file, by_p, gone, Production),
        said(production, "x-deleted", file, gone, by_r, Nothing),
        said(both, "x-large-both", large, large_by_p, large_by_r, Rules),
        said(production, "x-large", large, large_by_p, large_by_r, Rules),
        kind("m-merge", file, by_p, by_r, Rules),
        kind("m-literal", file, by_p, by_r, Rules),
        kind("m-base", file, by_p, by_r, Recovery),
    ]
}
