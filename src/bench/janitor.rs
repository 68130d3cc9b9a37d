//! Undoes what the harness did to the system, whatever becomes of the harness.
//!
//! Guarantees: every undo line registered is run once, the last registered first, when the
//! [`Janitor`] is dropped or its process dies (the helper sees the end of its standard input), also
//! after SIGKILL. Refuses paths with characters a shell would interpret. Lines must name exactly what
//! the harness made (a mount point, a loop device, a process id with its command line).

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use crate::bench::{BenchError, Context};

/// Collects lines until the end of input, then runs them backwards.
const SCRIPT: &str = r#"trap '' INT TERM HUP
undo=
while IFS= read -r line; do undo="$line
$undo"; done
printf '%s' "$undo" | while IFS= read -r line; do sh -c "$line" </dev/null; done"#;

/// The helper process.
#[derive(Debug)]
pub(crate) struct Janitor {
    child: Child,
    lines: Mutex<Option<ChildStdin>>,
}

impl Janitor {
    /// Starts the helper, out of reach of an interrupt from the terminal.
    pub(crate) fn start() -> Result<Self, BenchError> {
        let shell = Path::new("/bin/sh");
        let mut child = Command::new(shell)
            .args(["-c", SCRIPT])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .at("start the clean-up helper", shell)?;
        let lines = Mutex::new(child.stdin.take());
        Ok(Self { child, lines })
    }

    /// Registers one undo line.
    pub(crate) fn undo(&self, line: &str) -> Result<(), BenchError> {
        let mut lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = Path::new("/bin/sh");
        match lines.as_mut() {
            Some(pipe) => writeln!(pipe, "{line}").at("register an undo step", path),
            None => Ok(()),
        }
    }

    /// Registers the end of what still runs in a control group of ours, by process id, and the group's.
    pub(crate) fn end_group(&self, group: &Path) -> Result<(), BenchError> {
        let group = group.display();
        let kill = format!("for p in $(cat {group}/cgroup.procs); do kill");
        self.undo(&format!(
            "{kill} $p; sleep 0.3; done; {kill} -9 $p; sleep 0.1; done; rmdir {group}"
        ))
    }

    /// Registers the end of a process, recognised by its id together with a part of its command line.
    pub(crate) fn end_process(&self, pid: u32, marker: &Path) -> Result<(), BenchError> {
        let marker = marker.display();
        self.undo(&format!("grep -qaF {marker} /proc/{pid}/cmdline && kill {pid} && sleep 0.1"))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        *self.lines.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        self.child.wait().ok();
    }
}

/// Refuses a path that a shell, ssh or a configuration file would not take as it is.
pub(crate) fn check_plain(path: &Path) -> Result<(), BenchError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let text = path.to_str().unwrap_or(" ");
    if text.chars().all(plain) && path.is_absolute() {
        return Ok(());
    }
    Err(BenchError::OddPath { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_lines_run_backwards_when_dropped() {
        let folder = tempfile::tempdir().expect("temp folder");
        let log = folder.path().join("log");
        let janitor = Janitor::start().expect("start");
        janitor.undo(&format!("echo one >> {}", log.display())).expect("undo");
        janitor.undo(&format!("echo two >> {}", log.display())).expect("undo");
        assert!(!log.exists());
        drop(janitor);
        assert_eq!(std::fs::read_to_string(&log).expect("log"), "two\none\n");
    }

    #[test]
    fn paths_for_the_shell_are_plain() {
        assert!(check_plain(Path::new("/tmp/a-b_c.1")).is_ok());
        for odd in ["relative", "/a b", "/a;b", "/a$b", "/a'b"] {
            assert!(check_plain(Path::new(odd)).is_err(), "{odd}");
        }
    }
}
