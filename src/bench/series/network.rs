//! The network of a series: a private loopback, the emulated line, or the machine's own loopback.
//!
//! Guarantees: with root, no other traffic is on the devices that are counted. Refuses the line without
//! root.

use std::io::Write;
use std::path::Path;

use crate::bench::janitor::Janitor;
use crate::bench::limits::LineRate;
use crate::bench::measure::Site;
use crate::bench::measure::cgroup::Account;
use crate::bench::measure::netns::NetNs;
use crate::bench::report::Setting;
use crate::bench::wan::{self, LineConfig, Wan};
use crate::bench::{BenchError, Context};

/// The network of a series.
pub(super) enum Network {
    /// A private loopback.
    Loopback(NetNs),
    /// The emulated line.
    Line(Box<Wan>),
    /// The machine's own loopback, when we may not make one.
    Shared,
}

impl Network {
    pub(super) fn start(line: Option<LineConfig>, janitor: &Janitor) -> Result<Self, BenchError> {
        let root = rustix::process::geteuid().is_root();
        match line {
            Some(_) if !root => Err(BenchError::NeedsRoot { what: "the emulated line" }),
            Some(line) => Ok(Self::Line(Box::new(Wan::start(line, janitor)?))),
            None if root => {
                let name = format!("farbench{}", std::process::id());
                // A container may have root and no right to make namespaces.
                Ok(NetNs::create(&name, janitor).map_or(Self::Shared, Self::Loopback))
            }
            None => Ok(Self::Shared),
        }
    }

    pub(super) fn site<'a>(&'a self, account: &'a Account) -> Site<'a> {
        let (client, server, device) = match self {
            Self::Loopback(place) => (Some(place), Some(place), "lo"),
            Self::Line(wan) => (Some(&wan.near), Some(&wan.far), wan::DEVICE),
            Self::Shared => (None, None, "lo"),
        };
        let line = match self {
            Self::Line(wan) => Some(&**wan),
            _ => None,
        };
        Site { client, server, device, account, line }
    }

    /// The address of the far end, when it is not this machine's.
    pub(super) fn far_address(&self) -> Option<String> {
        matches!(self, Self::Line(_)).then(|| wan::ADDRESS_B.to_string())
    }

    pub(super) fn set_congestion(&self, name: &str) -> Result<(), BenchError> {
        match self {
            Self::Loopback(place) => {
                let route = ["local", "127.0.0.1", "dev", "lo", "table", "local"];
                place.set_congestion(&route, name)
            }
            Self::Line(wan) => wan.set_congestion(name),
            Self::Shared => Err(BenchError::NeedsRoot { what: "--congestion" }),
        }
    }

    /// The controls to run: those asked for; on a line bbr, if the kernel has it.
    pub(super) fn controls(&self, asked: &[String]) -> Vec<Option<String>> {
        if !asked.is_empty() {
            return asked.iter().cloned().map(Some).collect();
        }
        let known = "/proc/sys/net/ipv4/tcp_available_congestion_control";
        let known = std::fs::read_to_string(known).unwrap_or_default();
        let bbr = matches!(self, Self::Line(_)) && known.split_whitespace().any(|c| c == "bbr");
        vec![bbr.then(|| "bbr".to_owned())]
    }

    fn congestion(&self) -> String {
        let place = match self {
            Self::Loopback(place) => place,
            Self::Line(wan) => &wan.near,
            Self::Shared => return "the system's".to_owned(),
        };
        place.congestion().unwrap_or_else(|_| "unknown".to_owned())
    }

    /// Adds to the setting what the network is; of a line also what it was measured to do.
    pub(super) fn describe(&self, setting: &mut Setting) -> Result<Option<LineRate>, BenchError> {
        let wan = match self {
            Self::Loopback(_) => {
                setting.add("network", "loopback in a namespace of its own");
                setting.add("tcp", &self.congestion());
                return Ok(None);
            }
            Self::Shared => {
                let text = "shared loopback (a private one needs root): no figure of bytes";
                setting.add("network", text);
                return Ok(None);
            }
            Self::Line(wan) => wan,
        };
        let (asked, probe) = (wan.config, wan.probe()?);
        setting.add(
            "line",
            &format!(
                "asked: {:?}, {} bit/s, loss {}; measured: {probe}",
                asked.rtt, asked.rate_bits, asked.loss,
            ),
        );
        let rate = |mbit: f64| {
            let bytes_per_s = mbit * 1e6 / 8.0;
            let ip_bytes_per_s = bytes_per_s * wan::PACKET_PER_PAYLOAD;
            LineRate { bytes_per_s, ip_bytes_per_s, rtt_s: probe.rtt_ms / 1e3 }
        };
        Ok(probe.udp_mbit.map(rate))
    }

    pub(super) fn print_counts(&self, out: &mut dyn Write) -> Result<(), BenchError> {
        let Self::Line(wan) = self else { return Ok(()) };
        let (there, back) = wan.counts();
        writeln!(out, "line, there: {there}\nline, back:  {back}")
            .at("print", Path::new("the report"))
    }
}
