//! The limits of this machine, and what follows from them for each workload.
//!
//! Guarantees: a limit is derived by the formula printed with it from parts measured in the same run and
//! from counts of the very tree that is replicated. It is the time the parts alone would take if they
//! used all cores without a gap, or the time of the one thing that cannot be spread over cores if that
//! is longer. Refuses to invent: where a part is missing or no formula is known there is no limit.

use std::path::Path;

use serde::Serialize;

mod clock;
mod parts;
pub(crate) mod walk;

use crate::bench::BenchError;
use crate::bench::rng::to_f64;
use crate::bench::workload::Workload;
use walk::Walk;

/// CPU and wall seconds, of one unit.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cost {
    /// CPU seconds of all threads that took part.
    pub(crate) cpu_s: f64,
    /// Wall seconds.
    pub(crate) wall_s: f64,
}

/// What the parts of this machine cost, by byte or by file.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Parts {
    /// Cores both ends share.
    pub(crate) cores: usize,
    /// A byte read out of the page cache.
    pub(crate) read: Cost,
    /// A byte read, cut and hashed.
    pub(crate) take: Cost,
    /// A byte hashed, in chunks of 64 KiB.
    pub(crate) hash: Cost,
    /// A byte sealed with AES-128-GCM.
    pub(crate) crypto: Cost,
    /// A byte over the link, both ends.
    pub(crate) link: Cost,
    /// A byte written; wall time with its sync.
    pub(crate) write: Cost,
    /// A small file opened, read and closed.
    pub(crate) open_read: Cost,
    /// A file of 4 KiB created by one of two threads.
    pub(crate) create: Cost,
    /// The same with one syncfs for all.
    pub(crate) create_durable: Cost,
}

impl Parts {
    /// Measures them in a folder of the work file system.
    pub(crate) fn measure(folder: &Path, scale: f64) -> Result<Self, BenchError> {
        parts::measure(folder, scale)
    }

    /// Names, costs, and whether the unit is a byte.
    pub(crate) fn list(&self) -> [(&'static str, Cost, bool); 9] {
        [
            ("read, page cache", self.read, true),
            ("read + chunk + hash", self.take, true),
            ("hash", self.hash, true),
            ("AES-128-GCM", self.crypto, true),
            ("link, both ends", self.link, true),
            ("write (wall: durable)", self.write, true),
            ("open + read + close, 4 KiB", self.open_read, false),
            ("create 4 KiB, two threads", self.create, false),
            ("the same, one syncfs", self.create_durable, false),
        ]
    }
}

/// What a workload asks of the parts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Demand {
    /// The source by a bare walk of one thread.
    pub(crate) walk_one: Walk,
    /// The same by two threads.
    pub(crate) walk_two: Walk,
    /// Files written by the change.
    pub(crate) changed_files: u64,
    /// Bytes of content that are new.
    pub(crate) changed_bytes: u64,
}

/// The line of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct LineRate {
    /// Payload of full datagrams, bytes a second.
    pub(crate) bytes_per_s: f64,
    /// The same with the headers of IP and UDP.
    pub(crate) ip_bytes_per_s: f64,
    /// Round trip.
    pub(crate) rtt_s: f64,
}

/// A derived limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Limit {
    /// The least wall time.
    pub(crate) seconds: f64,
    /// How it was derived.
    pub(crate) formula: &'static str,
}

/// The limit of a workload without a line; `trusted` when the target is not looked at.
pub(crate) fn local(
    workload: Workload,
    parts: &Parts,
    demand: &Demand,
    trusted: bool,
) -> Option<Limit> {
    let cores = to_f64(crate::bench::rng::len_u64(parts.cores));
    let walk = demand.walk_one;
    let (entries, files, bytes) = (to_f64(walk.entries), to_f64(walk.files), to_f64(walk.bytes));
    let (new_files, new_bytes) = (to_f64(demand.changed_files), to_f64(demand.changed_bytes));
    let look = walk.cpu_per_entry_s();
    let (take, hash, link) = (parts.take.cpu_s, parts.hash.cpu_s, parts.link.cpu_s);
    let write = parts.write.cpu_s;
    let small = parts.open_read.cpu_s + parts.create.cpu_s;
    let (seconds, formula) = match workload {
        Workload::W1 => (
            (bytes * (take + link + hash + write) / cores).max(bytes * parts.write.wall_s),
            "larger of bytes x (read+chunk+hash + link + hash + write) / cores, bytes x durable write",
        ),
        Workload::W2 => (
            ((entries * look + files * small + bytes * (2.0 * hash + link)) / cores)
                .max(files * parts.create_durable.wall_s),
            "larger of (entries x look + files x (open+read + create) + bytes x (2 hash + link)) / cores, \
             files x durable create",
        ),
        Workload::W3 | Workload::W3Large if trusted => {
            (entries * look / cores, "entries x look / cores")
        }
        Workload::W3 | Workload::W3Large | Workload::W5 | Workload::W5b => {
            (2.0 * entries * look / cores, "2 x entries x look / cores")
        }
        Workload::W4a | Workload::W4b | Workload::W4c => (
            (bytes * take + new_bytes * (link + hash + write)) / cores,
            "(bytes x read+chunk+hash + new bytes x (link + hash + write)) / cores",
        ),
        Workload::W6 | Workload::W7 => (
            (2.0 * entries * look + new_files * small + new_bytes * (take + link + hash)) / cores,
            "(2 x entries x look + new files x (open+read + create) + new bytes x (read+chunk+hash + link \
             + hash)) / cores",
        ),
        _ => return None,
    };
    Some(Limit { seconds, formula })
}

/// The limit of a workload on the line; `sent_bytes` is what the run sent towards the target.
pub(crate) fn on_line(
    workload: Workload,
    line: LineRate,
    demand: &Demand,
    sent_bytes: Option<u64>,
) -> Option<Limit> {
    let (seconds, formula) = match workload {
        Workload::LineFile | Workload::LineRandom => {
            (to_f64(demand.walk_one.bytes) / line.bytes_per_s, "bytes / line rate")
        }
        Workload::LineLarge | Workload::LineSmall => (
            to_f64(sent_bytes?) / line.ip_bytes_per_s,
            "bytes sent, headers included / line rate: how well the line was used",
        ),
        Workload::LineNoChange => {
            (2.0 * line.rtt_s + demand.walk_two.wall_s, "2 round trips + a walk of two threads")
        }
        _ => return None,
    };
    Some(Limit { seconds, formula })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let cost = |cpu_s: f64, wall_s: f64| Cost { cpu_s, wall_s };
        Parts {
            cores: 2,
            read: cost(1e-10, 1e-10),
            take: cost(4e-10, 4e-10),
            hash: cost(2e-10, 2e-10),
            crypto: cost(1e-10, 1e-10),
            link: cost(6e-10, 5e-10),
            write: cost(1e-10, 3e-10),
            open_read: cost(5e-6, 5e-6),
            create: cost(30e-6, 20e-6),
            create_durable: cost(40e-6, 30e-6),
        }
    }

    #[test]
    fn limits_follow_their_formulas() {
        let walk = Walk { entries: 1_000, files: 900, bytes: 1 << 30, wall_s: 0.01, cpu_s: 0.002 };
        let demand = Demand { walk_one: walk, walk_two: walk, changed_files: 9, changed_bytes: 0 };
        let of = |workload, trusted| {
            local(workload, &parts(), &demand, trusted).expect("a formula").seconds
        };
        let gib = to_f64(1 << 30);
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        near(of(Workload::W1, false), gib * 13e-10 / 2.0);
        near(of(Workload::W3, true), 0.001);
        near(of(Workload::W3, false), 0.002);
        near(of(Workload::W4a, false), gib * 2e-10);
        assert_eq!(local(Workload::ProfileS, &parts(), &demand, false), None);
        let line = LineRate { bytes_per_s: 25e6, ip_bytes_per_s: 26e6, rtt_s: 0.08 };
        let file = on_line(Workload::LineFile, line, &demand, None).expect("a formula");
        near(file.seconds, gib / 25e6);
        assert_eq!(on_line(Workload::LineLarge, line, &demand, None), None);
    }
}
