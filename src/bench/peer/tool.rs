//! The names of the tools compared.
//!
//! Guarantees: every tool has one name, which is what options take and tables show. Refuses names it
//! does not know; tools described by a file are added by the file, not by name.

use std::str::FromStr;
use std::sync::Arc;

use super::adapter::Adapter;

/// How rsync is run over ssh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RsyncWay {
    /// With the common options alone.
    Plain,
    /// With -z.
    Compressed,
    /// With --no-inc-recursive.
    WholeList,
    /// With --block-size.
    Block(u32),
    /// Four at once, the top folders shared out among them.
    Parallel,
    /// Four at once with -z.
    ParallelCompressed,
}

/// A tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tool {
    /// This program.
    Farshore,
    /// This program with --trust-target.
    FarshoreTrust,
    /// This program with --compress 3, where bytes are what counts.
    FarshoreZ,
    /// This program with its far end as a process of its own (as on the line) also on loopback.
    FarshoreServed,
    /// rsync -aHAXS --numeric-ids --delete over ssh (aes128-gcm).
    Rsync(RsyncWay),
    /// rsync to a daemon, not encrypted.
    RsyncDaemon,
    /// tar over ssh; first syncs only.
    TarSsh,
    /// A tool described by a file.
    Adapter(Arc<Adapter>),
}

impl Tool {
    /// The name in options and tables.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Farshore => "farshore".to_owned(),
            Self::FarshoreTrust => "farshore-trust".to_owned(),
            Self::FarshoreZ => "farshore-z".to_owned(),
            Self::FarshoreServed => "farshore-served".to_owned(),
            Self::Rsync(RsyncWay::Plain) => "rsync-ssh".to_owned(),
            Self::Rsync(RsyncWay::Compressed) => "rsync-ssh-z".to_owned(),
            Self::Rsync(RsyncWay::WholeList) => "rsync-ssh-nir".to_owned(),
            Self::Rsync(RsyncWay::Block(bytes)) => format!("rsync-ssh-b{bytes}"),
            Self::Rsync(RsyncWay::Parallel) => "rsync-ssh-4".to_owned(),
            Self::Rsync(RsyncWay::ParallelCompressed) => "rsync-ssh-4z".to_owned(),
            Self::RsyncDaemon => "rsync-daemon".to_owned(),
            Self::TarSsh => "tar-ssh".to_owned(),
            Self::Adapter(adapter) => adapter.name.clone(),
        }
    }

    /// Whether the tool can bring a target up to date; tar only fills an empty one.
    pub(crate) fn is_incremental(&self) -> bool {
        match self {
            Self::TarSsh => false,
            Self::Adapter(adapter) => adapter.incremental,
            _ => true,
        }
    }

    /// Whether the tool remembers nothing between runs, so that any equal target will do as its start.
    pub(crate) fn is_stateless(&self) -> bool {
        matches!(self, Self::Rsync(_) | Self::RsyncDaemon)
    }

    /// Whether it is this program.
    pub(crate) fn is_farshore(&self) -> bool {
        matches!(
            self,
            Self::Farshore | Self::FarshoreTrust | Self::FarshoreZ | Self::FarshoreServed
        )
    }

    /// The programs it cannot do without.
    pub(super) fn programs(&self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Farshore | Self::FarshoreTrust | Self::FarshoreZ | Self::FarshoreServed => &[],
            Self::Rsync(_) => &["rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd"],
            Self::RsyncDaemon => &["rsync"],
            Self::TarSsh => &["tar", "ssh", "ssh-keygen", "/usr/sbin/sshd"],
            Self::Adapter(adapter) => return adapter.programs(),
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }
}

impl FromStr for Tool {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [
            Self::Farshore,
            Self::FarshoreTrust,
            Self::FarshoreZ,
            Self::FarshoreServed,
            Self::Rsync(RsyncWay::Plain),
            Self::Rsync(RsyncWay::Compressed),
            Self::Rsync(RsyncWay::WholeList),
            Self::Rsync(RsyncWay::Parallel),
            Self::Rsync(RsyncWay::ParallelCompressed),
            Self::RsyncDaemon,
            Self::TarSsh,
        ];
        if let Some(tool) = known.into_iter().find(|tool| tool.label() == name) {
            return Ok(tool);
        }
        let block = name.strip_prefix("rsync-ssh-b").and_then(|size| size.parse().ok());
        let block = block.filter(|size| (64..=131_072).contains(size));
        block.map(|size| Self::Rsync(RsyncWay::Block(size))).ok_or_else(|| {
            format!("{name:?}: no such tool (rsync-ssh-bBYTES takes 64 to 131072; see --help)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_the_name_that_parses() {
        for name in [
            "farshore",
            "farshore-z",
            "farshore-trust",
            "rsync-ssh-b700",
            "rsync-ssh-4z",
            "tar-ssh",
        ] {
            assert_eq!(name.parse::<Tool>().expect("known").label(), name);
        }
        for name in ["rsync-ssh-b", "rsync-ssh-b1", "rsync-ssh-b1e3", "rclone", ""] {
            assert!(name.parse::<Tool>().is_err(), "{name}");
        }
    }
}
