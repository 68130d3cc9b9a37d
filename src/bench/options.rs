//! The options of `farshore bench`.
//!
//! Guarantees: every value is checked when it is parsed, before anything is made. Refuses unknown
//! units, shares above 1 and scales that are not positive.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::bench::generate::Workload;

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
    /// Share of packets lost each way, e.g. 0.1%
    #[arg(long, value_parser = parse_share, default_value = "0")]
    pub(crate) loss: f64,
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
    #[arg(long)]
    pub(crate) w7_old: Option<PathBuf>,
    /// The newer version of it
    #[arg(long)]
    pub(crate) w7_new: Option<PathBuf>,
    /// The folder, empty or absent
    pub(crate) folder: PathBuf,
}

/// The tools compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerKind {
    /// This program
    Farshore,
    /// rsync -aHAXS --numeric-ids --delete over ssh (aes128-gcm)
    RsyncSsh,
    /// The same with -z
    RsyncSshZ,
    /// The same with --no-inc-recursive
    RsyncSshNir,
    /// rsync to a daemon, not encrypted
    RsyncDaemon,
    /// tar over ssh; first syncs only
    TarSsh,
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
    /// Folder to work in: a new folder is made in it, and removed at the end
    #[arg(long, required = true)]
    pub(crate) work: Option<PathBuf>,
    /// File system of the work; a loop image is slower to set up and much more even
    #[arg(long, value_enum, default_value = "host")]
    pub(crate) work_fs: WorkFs,
    /// Size of the loop image or tmpfs, in GiB (the image is sparse)
    #[arg(long, default_value_t = 64)]
    pub(crate) work_gib: u64,
    /// Workloads to run
    #[arg(long, value_delimiter = ',', default_value = "W1,W2,W3,W4a,W4b,W4c,W5,W6")]
    pub(crate) workload: Vec<Workload>,
    /// Add the million files of W3L
    #[arg(long)]
    pub(crate) large: bool,
    /// Size relative to the full workloads; 0.02 is a smoke test
    #[arg(long, value_parser = parse_scale, default_value = "1")]
    pub(crate) scale: f64,
    /// Tools to compare
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "farshore,rsync-ssh,rsync-daemon,tar-ssh"
    )]
    pub(crate) peers: Vec<PeerKind>,
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
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Write every single measurement to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// The farshore program (default: this one)
    #[arg(long)]
    pub(crate) farshore: Option<PathBuf>,
    /// An argument added to every `farshore replicate`; may be repeated
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) farshore_arg: Vec<String>,
    /// The older version of the real tree of W7
    #[arg(long)]
    pub(crate) w7_old: Option<PathBuf>,
    /// The newer version of it
    #[arg(long)]
    pub(crate) w7_new: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) line: LineArgs,
    /// TCP congestion controls to run on the emulated line (farshore brings its own)
    #[arg(long, value_delimiter = ',')]
    pub(crate) congestion: Vec<String>,
}

/// A number and the unit after it.
fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| format!("{text:?}: not a number"))?;
    Ok((number, unit.trim()))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "s" => number,
        "ms" => number / 1e3,
        "us" => number / 1e6,
        _ => return Err(format!("{text:?}: the unit must be s, ms or us")),
    };
    if seconds > 10.0 {
        return Err(format!("{text:?}: more than 10 seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "gbit" => 1e9,
        "mbit" => 1e6,
        "kbit" => 1e3,
        "" if number == 0.0 => 0.0,
        _ => return Err(format!("{text:?}: the unit must be gbit, mbit or kbit")),
    };
    Ok(crate::bench::rng::round_to_u64(number * factor))
}

fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = split_unit(text)?;
    let share = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => return Err(format!("{text:?}: give a share or a percentage")),
    };
    if share > 1.0 { Err(format!("{text:?}: more than all")) } else { Ok(share) }
}

fn parse_scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| format!("{text:?}: not a number"))?;
    let fits = scale > 0.0 && scale <= 100.0;
    if fits { Ok(scale) } else { Err(format!("{text:?}: must be above 0, at most 100")) }
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
    fn units() {
        assert_eq!(parse_duration("80ms"), Ok(Duration::from_millis(80)));
        assert_eq!(parse_duration("0.5s"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("80").is_err() && parse_duration("11s").is_err());
        assert_eq!(parse_rate("200mbit"), Ok(200_000_000));
        assert_eq!(parse_rate("0"), Ok(0));
        assert!(parse_rate("200").is_err() && parse_rate("x").is_err());
        assert_eq!(parse_share("0.1%"), Ok(0.001));
        assert_eq!(parse_share("0.5"), Ok(0.5));
        assert!(parse_share("120%").is_err());
        assert!(parse_scale("0").is_err() && parse_scale("nan").is_err());
    }

    #[test]
    fn a_series_needs_a_work_folder_and_takes_lists() {
        assert!(Cli::try_parse_from(["bench"]).is_err());
        let words =
            ["bench", "--work", "/w", "--workload", "W1,W4a", "--peers", "rsync-ssh,tar-ssh"];
        let cli = Cli::try_parse_from(words).expect("parses");
        assert_eq!(cli.bench.series.workload, [Workload::W1, Workload::W4a]);
        assert_eq!(cli.bench.series.peers, [PeerKind::RsyncSsh, PeerKind::TarSsh]);
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
