//! rsync as an oracle.
//!
//! By default rsync takes two times for equal that differ within a second; `--modify-window=-1`
//! makes it look at nanoseconds.
//!
//! It is blind in one point, which [`crate::compare()`] is not: two names that are one inode in `b`
//! and two equal files in `a` stay linked, and no line tells (3.5.0).

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;

const NANOSECONDS: &str = "--modify-window=-1";

/// Whether rsync can be run.
#[must_use]
pub fn has_rsync() -> bool {
    Command::new("rsync").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Makes `b` equal to `a`, as far as rsync can: no path beyond PATH_MAX.
///
/// # Errors
/// When rsync cannot run or does not succeed; its complaint is in the text.
pub fn rsync_copy(a: &Path, b: &Path) -> io::Result<()> {
    run(&["-aHAXS", "--numeric-ids", "--delete", NANOSECONDS], a, b).map(|_| ())
}

/// What rsync would still change to make `b` equal to `a`, one line each; contents are compared.
/// Leaves `/.farshore` of either side out.
///
/// # Errors
/// When rsync cannot run or does not succeed; its complaint is in the text.
pub fn rsync_differences(a: &Path, b: &Path) -> io::Result<Vec<String>> {
    let args = ["-aHAXSc", "--numeric-ids", "--delete", "-ni", NANOSECONDS, "--exclude=/.farshore"];
    let out = run(&args, a, b)?;
    Ok(String::from_utf8_lossy(&out).lines().map(str::to_owned).collect())
}

#[cfg(test)]
#[allow(clippy::print_stderr)]
pub(crate) fn note_no_rsync() {
    eprintln!("note: rsync is not here: the comparison with it was skipped");
}

fn run(args: &[&str], a: &Path, b: &Path) -> io::Result<Vec<u8>> {
    let with_slash = |path: &Path| -> OsString { path.join("").into() };
    let output = Command::new("rsync")
        .env("LC_ALL", "C")
        .args(args)
        .arg(with_slash(a))
        .arg(with_slash(b))
        .output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("rsync {}: {}", output.status, complaint.trim())))
}
