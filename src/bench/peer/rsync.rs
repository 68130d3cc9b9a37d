//! rsync's command lines.
//!
//! Guarantees: every way of running it has the same options of fidelity. Four at once share the entries
//! at the top of the source by weight, so that they end at about the same time; what four cannot do
//! (the attributes of the top folder itself) is done for them afterwards and not timed, which favours
//! them. Refuses nothing; a source with one entry at its top is one rsync.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Job, RsyncWay};
use crate::bench::generate::set_times;
use crate::bench::{BenchError, Context};

/// The options of rsync in every comparison.
pub(super) const OPTIONS: [&str; 3] = ["-aHAXS", "--numeric-ids", "--delete"];
/// How many run at once.
const PARALLEL: usize = 4;
/// What an entry weighs beside its bytes when the work is shared out.
const ENTRY_WEIGHT: u64 = 16 * 1024;

/// The words of a command over ssh to `host`.
pub(super) fn over_ssh(way: RsyncWay, job: &Job, ssh: &str, host: &str) -> Vec<String> {
    let more = match way {
        RsyncWay::Plain => Vec::new(),
        RsyncWay::Compressed => vec!["-z".to_owned()],
        RsyncWay::WholeList => vec!["--no-inc-recursive".to_owned()],
        RsyncWay::Block(bytes) => vec![format!("--block-size={bytes}")],
        RsyncWay::Parallel => return in_parallel("", job, ssh, host),
        RsyncWay::ParallelCompressed => return in_parallel("-z", job, ssh, host),
    };
    let mut words = vec!["rsync".to_owned()];
    words.extend(OPTIONS.map(str::to_owned));
    words.extend(more);
    words.extend(["-e".to_owned(), ssh.to_owned()]);
    words.extend([
        format!("{}/", job.source.display()),
        format!("{host}:{}/", job.target.display()),
    ]);
    words
}

/// A shell that runs one rsync for each group of entries and waits for all.
fn in_parallel(more: &str, job: &Job, ssh: &str, host: &str) -> Vec<String> {
    let mut script = String::from("status=0; pids=;");
    for group in groups(&job.source) {
        // -R with /./ keeps the names below the dot, so that each takes entries of its own.
        let entries: Vec<String> = group
            .iter()
            .map(|name| quoted(&format!("{}/./{name}", job.source.display())))
            .collect();
        let options = OPTIONS.join(" ");
        let target = quoted(&format!("{host}:{}/", job.target.display()));
        script.push_str(&format!(
            " rsync {options} -R {more} -e {} {} {target} & pids=\"$pids $!\";",
            quoted(ssh),
            entries.join(" ")
        ));
    }
    script.push_str(" for pid in $pids; do wait $pid || status=$?; done; exit $status");
    ["/bin/sh", "-c", &script].map(str::to_owned).to_vec()
}

/// The entries at the top in at most four groups of about equal weight.
fn groups(source: &Path) -> Vec<Vec<String>> {
    let entries = std::fs::read_dir(source).into_iter().flatten().flatten();
    let mut weighed: Vec<(u64, String)> = entries
        .filter_map(|entry| Some((weight(&entry.path()), entry.file_name().into_string().ok()?)))
        .collect();
    weighed.sort_by(|a, b| b.cmp(a));
    let mut groups: Vec<(u64, Vec<String>)> = vec![(0, Vec::new()); PARALLEL];
    for (weight, name) in weighed {
        if let Some(lightest) = groups.iter_mut().min_by_key(|(sum, _)| *sum) {
            lightest.0 += weight;
            lightest.1.push(name);
        }
    }
    groups.into_iter().map(|(_, names)| names).filter(|names| !names.is_empty()).collect()
}

fn weight(path: &Path) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return ENTRY_WEIGHT + meta.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    ENTRY_WEIGHT + entries.map(|entry| weight(&entry.path())).sum::<u64>()
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Gives the top of the target the owner, mode and time of the source's.
pub(super) fn finish_top(job: &Job) -> Result<(), BenchError> {
    let meta = std::fs::metadata(&job.source).at("read", &job.source)?;
    let target = &job.target;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(target, Some(meta.uid()), Some(meta.gid()))
            .at("set the owner", target)?;
    }
    std::fs::set_permissions(target, meta.permissions()).at("set the mode", target)?;
    set_times(target, meta.modified().at("read", &job.source)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_is_shared_by_weight() {
        let folder = tempfile::tempdir().expect("temp folder");
        let root = folder.path();
        for (name, kib) in [("big", 400), ("b", 100), ("c", 100), ("d", 100), ("e's", 100)] {
            std::fs::create_dir(root.join(name)).expect("made");
            std::fs::write(root.join(name).join("f"), vec![0; kib << 10]).expect("written");
        }
        assert_eq!(super::groups(root).len(), 4);
        let groups = super::groups(root);
        assert!(groups.contains(&vec!["big".to_owned()]), "{groups:?}");
        let job = Job::at(root, root);
        let words = over_ssh(RsyncWay::Parallel, &job, "ssh -p 1", "h");
        assert!(words[2].contains(r"/./e'\''s'"), "{words:?}");
        assert_eq!(words[2].matches("rsync -aHAXS").count(), 4);
        std::fs::remove_dir_all(root.join("b")).expect("removed");
        std::fs::remove_dir_all(root.join("c")).expect("removed");
        assert_eq!(super::groups(root).len(), 3);
    }
}
