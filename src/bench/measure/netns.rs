//! Private network namespaces.
//!
//! Guarantees: a namespace has a name of its own and is removed by the janitor; work done by
//! [`NetNs::enter`] sees only its devices. Refuses nothing; without root creation fails.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bench::janitor::Janitor;
use crate::bench::{BenchError, Context};

/// Received and sent bytes of a device.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeviceBytes {
    /// Received.
    pub(crate) received: u64,
    /// Sent.
    pub(crate) sent: u64,
}

/// A network namespace with its loopback up.
#[derive(Debug)]
pub(crate) struct NetNs {
    name: String,
    path: PathBuf,
}

impl NetNs {
    /// Creates the namespace.
    pub(crate) fn create(name: &str, janitor: &Janitor) -> Result<Self, BenchError> {
        run_ip(&["netns", "add", name])?;
        janitor.undo(&format!("ip netns del {name}"))?;
        run_ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(Self { name: name.to_owned(), path: Path::new("/run/netns").join(name) })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace; processes it starts stay inside.
    pub(crate) fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, BenchError> + Send,
    ) -> Result<T, BenchError> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter_thread()?;
                work()
            });
            inside.join().unwrap_or(Err(BenchError::Panicked { step: "work in a namespace" }))
        })
    }

    /// Moves the calling thread into the namespace for good.
    pub(crate) fn enter_thread(&self) -> Result<(), BenchError> {
        let handle = File::open(&self.path).at("open the namespace", &self.path)?;
        move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(std::io::Error::from)
            .at("enter the namespace", &self.path)
    }

    /// The byte counters of a device.
    pub(crate) fn device_bytes(&self, device: &str) -> Result<DeviceBytes, BenchError> {
        let path = Path::new("/proc/thread-self/net/dev");
        let text = self.enter(|| std::fs::read_to_string(path).at("read the counters", path))?;
        Ok(parse_device_bytes(&text, device).unwrap_or_default())
    }

    /// Chooses the TCP congestion control of connections made over a route of this namespace.
    ///
    /// By the route, because the kernel lets only the first namespace set a default that is not in its
    /// list of allowed ones; nothing outside this namespace changes.
    pub(crate) fn set_congestion(&self, route: &[&str], name: &str) -> Result<(), BenchError> {
        let words = ["-n", &self.name, "route", "replace"];
        run_ip(&[&words, route, &["congctl", name]].concat())
    }

    /// The TCP congestion control of connections made inside.
    pub(crate) fn congestion(&self) -> Result<String, BenchError> {
        let path = Path::new("/proc/sys/net/ipv4/tcp_congestion_control");
        let text = self.enter(|| std::fs::read_to_string(path).at("read", path))?;
        Ok(text.trim().to_owned())
    }
}

fn parse_device_bytes(text: &str, device: &str) -> Option<DeviceBytes> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    Some(DeviceBytes { received: *fields.first()?, sent: *fields.get(8)? })
}

/// Runs `ip` of iproute2.
pub(crate) fn run_ip(args: &[&str]) -> Result<(), BenchError> {
    run_tool("ip", args)
}

/// Runs a short system command to its end; what it says on standard error goes into the error.
pub(crate) fn run_tool(program: &'static str, args: &[&str]) -> Result<(), BenchError> {
    let output = Command::new(program).args(args).output();
    let output = output.at("run", Path::new(program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BenchError::Tool { program, arguments: args.join(" "), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_column() {
        let text = "Inter-|   Receive |\n face |bytes\n    lo: 10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0\n";
        let bytes = parse_device_bytes(text, "lo").expect("found");
        assert_eq!((bytes.received, bytes.sent), (10, 20));
        assert!(parse_device_bytes(text, "l").is_none());
    }
}
