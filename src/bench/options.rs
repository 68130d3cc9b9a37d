//! The options of `farshore bench`.
//!
//! Guarantees: every value is checked when it is parsed, before anything is made. Refuses unknown
//! units, shares above 1 and scales that are not positive.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

mod units;

use crate::bench::peer::Tool;
use crate::bench::wan::LineConfig;
use crate::bench::workload::Workload;
use units::{parse_duration, parse_rate, parse_scale, parse_share};

/// Measure Farshore against rsync and tar, with the same data, on the same machine.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    /// What to do instead of a series of measurements.
    #[command(subcommand)]
    pub(crate) action: Option<BenchAction>,
    #[command(flatten)]
    pub(crate) series: SeriesArgs,
}

/// The parts of the harness, each by itself.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum BenchAction {
    /// Run a command at one end of an emulated long line (root)
    Wan(WanArgs),
    /// Write the test tree of a workload
    Generate(GenerateArgs),
    /// Compare two trees: content, kind, mode, owner, times, links, attributes
    Compare {
        /// The first tree
        a: PathBuf,
        /// The second tree; its entry .farshore is skipped
        b: PathBuf,
    },
}

/// The emulated line.
#[derive(Debug, Clone, Args)]
pub(crate) struct LineArgs {
    /// Round trip of the emulated line, e.g. 80ms
    #[arg(long, value_parser = parse_duration)]
    pub(crate) rtt: Option<Duration>,
    /// Bit rate each way, e.g. 200mbit; 0 is without limit
    #[arg(long, value_parser = parse_rate, default_value = "200mbit")]
    pub(crate) rate: u64,
    /// Share of packets lost each way, e.g. 0.1% [default: none; 0.1% with --line]
    #[arg(long, value_parser = parse_share)]
    pub(crate) loss: Option<f64>,
}

impl LineArgs {
    /// The line of the options, and where they are silent the long line of the table: 80 ms, 0.1 %.
    pub(crate) fn long(&self, seed: u64) -> LineConfig {
        let rtt = self.rtt.unwrap_or(Duration::from_millis(80));
        LineConfig { rtt, rate_bits: self.rate, loss: self.loss.unwrap_or(0.001), seed }
    }

    /// The line of the options alone, without loss unless asked.
    pub(crate) fn plain(&self, seed: u64) -> LineConfig {
        LineConfig { loss: self.loss.unwrap_or(0.0), ..self.long(seed) }
    }
}

/// `farshore bench wan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WanArgs {
    #[command(flatten)]
    pub(crate) line: LineArgs,
    /// Seed of the losses
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// TCP congestion control at both ends (default: the system's)
    #[arg(long)]
    pub(crate) congestion: Option<String>,
    /// Shell command run at the far end (10.77.0.2) for as long as the command runs
    #[arg(long)]
    pub(crate) server: Option<String>,
    /// Do not measure the line first
    #[arg(long)]
    pub(crate) no_probe: bool,
    /// The command, run at the near end (10.77.0.1)
    #[arg(last = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// `farshore bench generate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GenerateArgs {
    /// The workload
    #[arg(long)]
    pub(crate) workload: Workload,
    /// Size relative to the full workload
    #[arg(long, value_parser = parse_scale, default_value = "1")]
    pub(crate) scale: f64,
    /// The seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Turn the base state already in the folder into the second state
    #[arg(long)]
    pub(crate) second: bool,
    /// The older version of the real tree of W7
    #[arg(long, requires = "w7_new")]
    pub(crate) w7_old: Option<PathBuf>,
    /// The newer version of it
    #[arg(long, requires = "w7_old")]
    pub(crate) w7_new: Option<PathBuf>,
    /// The folder, empty or absent
    pub(crate) folder: PathBuf,
}

/// The file system of the work folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WorkFs {
    /// Whatever the work folder is on
    Host,
    /// A loop image with XFS (root)
    Xfs,
    /// A loop image with ext4 and its journal (root)
    Ext4,
    /// Memory (root)
    Tmpfs,
}

/// A series of measurements.
#[derive(Debug, Clone, Args)]
pub(crate) struct SeriesArgs {
    /// Folder to work in, which must exist: a new folder is made in it, and removed at the end
    #[arg(long, required = true)]
    pub(crate) work: Option<PathBuf>,
    /// File system of the work; a loop image is slower to set up and much more even
    #[arg(long, value_enum, default_value = "host")]
    pub(crate) work_fs: WorkFs,
    /// Size of the loop image or tmpfs, in GiB (the image is sparse)
    #[arg(long, default_value_t = 64)]
    pub(crate) work_gib: u64,
    /// Workloads to run [default: W1,W2,W3,W4a,W4b,W4c,W5,W5b,W6,W7; with --line L64,L1,L1r,L2,L3]
    #[arg(long, value_delimiter = ',')]
    pub(crate) workload: Vec<Workload>,
    /// Add the million files of W3L
    #[arg(long)]
    pub(crate) large: bool,
    /// Everything in the table: the default workloads, W3L, and those of the long line; with --targets
    #[arg(long, conflicts_with_all = ["workload", "on_line", "rtt"])]
    pub(crate) table: bool,
    /// On the emulated long line: 80 ms, 200 Mbit/s, 0.1 % loss unless said otherwise (root); the
    /// workloads L64 to L3 go there by themselves
    #[arg(long = "line")]
    pub(crate) on_line: bool,
    /// Size relative to the full workloads; 0.02 is a smoke test
    #[arg(long, value_parser = parse_scale, default_value = "1")]
    pub(crate) scale: f64,
    /// Tools to compare on every workload: farshore, farshore-trust, farshore-z, farshore-served, rsync-ssh,
    /// rsync-ssh-z, rsync-ssh-nir, rsync-ssh-bBYTES, rsync-ssh-4, rsync-ssh-4z, rsync-daemon, tar-ssh
    /// [default: for each workload those its targets name]
    #[arg(long, value_delimiter = ',')]
    pub(crate) peers: Vec<Tool>,
    /// Another tool, described by a file (docs/benchmarking.md); may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) adapter: Vec<PathBuf>,
    /// Block sizes of rsync tried where the best of them counts (W4c)
    #[arg(long, value_delimiter = ',', default_value = "512,1024,2048,4096")]
    pub(crate) block_sizes: Vec<u32>,
    /// Runs of each tool on each workload, by turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Seed of data and losses
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Keep the work folder
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not compare the trees after each run
    #[arg(long, conflicts_with = "targets")]
    pub(crate) no_verify: bool,
    /// Do not measure what the parts of this machine can do first
    #[arg(long)]
    pub(crate) no_limits: bool,
    /// Say PASS or FAIL for each line of the table of targets; at scale 1 end with an error if one is
    /// missed
    #[arg(long)]
    pub(crate) targets: bool,
    /// Write every measurement, the limits and the verdicts to this file (docs/benchmarking.md)
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Draw the ratios and their targets into this SVG file
    #[arg(long)]
    pub(crate) plot: Option<PathBuf>,
    /// The farshore program (default: this one)
    #[arg(long)]
    pub(crate) farshore: Option<PathBuf>,
    /// An argument added to every `farshore replicate`; may be repeated
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) farshore_arg: Vec<String>,
    /// The older version of the real tree of W7
    #[arg(long, requires = "w7_new")]
    pub(crate) w7_old: Option<PathBuf>,
    /// The newer version of it
    #[arg(long, requires = "w7_old")]
    pub(crate) w7_new: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) line: LineArgs,
    /// TCP congestion controls to run (farshore brings its own) [default: the system's; on the long line
    /// bbr where the kernel has it]
    #[arg(long, value_delimiter = ',')]
    pub(crate) congestion: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    #[test]
    fn a_series_needs_a_work_folder_and_takes_lists() {
        assert!(Cli::try_parse_from(["bench"]).is_err());
        let words =
            ["bench", "--work", "/w", "--workload", "W1,W4a", "--peers", "rsync-ssh,tar-ssh"];
        let cli = Cli::try_parse_from(words).expect("parses");
        assert_eq!(cli.bench.series.workload, [Workload::W1, Workload::W4a]);
        let names: Vec<String> = cli.bench.series.peers.iter().map(Tool::label).collect();
        assert_eq!(names, ["rsync-ssh", "tar-ssh"]);
        assert!(Cli::try_parse_from(["bench", "--work", "/w", "--peers", "rsinc"]).is_err());
    }

    #[test]
    fn the_long_line_is_what_the_options_leave_open() {
        let line = |words: &[&str]| {
            let all = [&["bench", "--work", "/w"], words].concat();
            Cli::try_parse_from(all).expect("parses").bench.series.line.long(1)
        };
        let table = line(&[]);
        assert_eq!(table.rtt, Duration::from_millis(80));
        assert_eq!((table.rate_bits, table.loss), (200_000_000, 0.001));
        assert_eq!(line(&["--rtt", "20ms", "--loss", "0"]).loss, 0.0);
    }

    #[test]
    fn the_parts_need_no_work_folder() {
        let words = ["bench", "wan", "--rtt", "80ms", "--loss", "0.1%", "--", "true", "--x"];
        let cli = Cli::try_parse_from(words).expect("parses");
        let Some(BenchAction::Wan(wan)) = cli.bench.action else { panic!("not wan") };
        assert_eq!(wan.command, ["true", "--x"]);
        assert!(Cli::try_parse_from(["bench", "compare", "a", "b"]).is_ok());
    }
}
