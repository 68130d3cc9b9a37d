//! The workloads: their names, what they start from, and what is measured of them.
//!
//! Guarantees: every workload has one label, one base tree and one line in the list of targets at
//! most. Refuses nothing: it is a table.

/// What can be generated and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Workload {
    /// 2 GiB in 8 files, half random and half text; first sync
    #[value(name = "W1")]
    W1,
    /// 100,000 files, lognormal (median 4 KiB), 1,000 accounts; first sync
    #[value(name = "W2")]
    W2,
    /// no change on W2
    #[value(name = "W3")]
    W3,
    /// no change on 1,000,000 files of 16-200 B
    #[value(name = "W3L")]
    W3Large,
    /// one 1 GiB file, 1 % of its 4 KiB pages rewritten in place
    #[value(name = "W4a")]
    W4a,
    /// one 1 GiB file, 100 B inserted at the start and at 20 places
    #[value(name = "W4b")]
    W4b,
    /// one 1 GiB file of 200 B rows, 2 % updated at scattered places
    #[value(name = "W4c")]
    W4c,
    /// the same rows, updated, inserted, deleted and appended in clusters (variant C)
    #[value(name = "W4d")]
    W4d,
    /// the same rows, updated, inserted, deleted and appended scattered (variant S)
    #[value(name = "W4e")]
    W4e,
    /// a folder of 200 files, 1 GiB, renamed
    #[value(name = "W5")]
    W5,
    /// the 200 files of W5 moved into 20 other folders
    #[value(name = "W5b")]
    W5b,
    /// W2 with 1 % changed, 0.5 % deleted, 0.5 % new
    #[value(name = "W6")]
    W6,
    /// a real tree to its next version (--w7-old and --w7-new, or what this machine has of Rust)
    #[value(name = "W7")]
    W7,
    /// the account profile: 20 accounts, 2,000 files, 0.4 GB; then one day of churn
    #[value(name = "XS")]
    ProfileXs,
    /// the account profile: 200 accounts, 50,000 files, 14 GB; then one day of churn
    #[value(name = "S")]
    ProfileS,
    /// long line: one file of 64 MiB that cannot shrink; first sync
    #[value(name = "L64")]
    LineFile,
    /// long line: W1 with 512 MiB; first sync
    #[value(name = "L1")]
    LineLarge,
    /// long line: 512 MiB that cannot shrink; first sync
    #[value(name = "L1r")]
    LineRandom,
    /// long line: W2 with 20,000 files; first sync
    #[value(name = "L2")]
    LineSmall,
    /// long line: no change on L2
    #[value(name = "L3")]
    LineNoChange,
}

impl Workload {
    /// The lines of the table on a local network, but for the million files.
    pub(crate) const LOCAL: [Self; 10] = [
        Self::W1,
        Self::W2,
        Self::W3,
        Self::W4a,
        Self::W4b,
        Self::W4c,
        Self::W5,
        Self::W5b,
        Self::W6,
        Self::W7,
    ];

    /// The lines of the table on the long line.
    pub(crate) const LINE: [Self; 5] =
        [Self::LineFile, Self::LineLarge, Self::LineRandom, Self::LineSmall, Self::LineNoChange];

    /// The name in tables and options.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::W1 => "W1",
            Self::W2 => "W2",
            Self::W3 => "W3",
            Self::W3Large => "W3L",
            Self::W4a => "W4a",
            Self::W4b => "W4b",
            Self::W4c => "W4c",
            Self::W4d => "W4d",
            Self::W4e => "W4e",
            Self::W5 => "W5",
            Self::W5b => "W5b",
            Self::W6 => "W6",
            Self::W7 => "W7",
            Self::ProfileXs => "XS",
            Self::ProfileS => "S",
            Self::LineFile => "L64",
            Self::LineLarge => "L1",
            Self::LineRandom => "L1r",
            Self::LineSmall => "L2",
            Self::LineNoChange => "L3",
        }
    }

    /// The workload of a label.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        <Self as clap::ValueEnum>::value_variants().iter().copied().find(|w| w.label() == label)
    }

    /// The workload whose base tree this one starts from: workloads of one base form a chain.
    pub(crate) fn base(self) -> Self {
        match self {
            Self::W3 | Self::W6 => Self::W2,
            Self::W5b => Self::W5,
            Self::LineNoChange => Self::LineSmall,
            other => other,
        }
    }

    /// Whether the figure of interest is the first sync.
    pub(crate) fn is_first_sync(self) -> bool {
        matches!(
            self,
            Self::W1
                | Self::W2
                | Self::LineFile
                | Self::LineLarge
                | Self::LineRandom
                | Self::LineSmall
        )
    }

    /// Whether nothing changes between the first sync and the measured one.
    pub(crate) fn is_no_change(self) -> bool {
        matches!(self, Self::W3 | Self::W3Large | Self::LineNoChange)
    }

    /// Whether the workload is meant for the long line.
    pub(crate) fn is_for_line(self) -> bool {
        Self::LINE.contains(&self)
    }

    /// Its size relative to the workload it is a smaller copy of.
    pub(crate) fn share(self) -> f64 {
        match self {
            Self::LineLarge => 0.25,
            Self::LineSmall | Self::LineNoChange => 0.2,
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_names_of_the_options() {
        use clap::ValueEnum;
        for workload in Workload::value_variants() {
            let name = workload.to_possible_value().expect("listed").get_name().to_owned();
            assert_eq!(workload.label(), name);
            assert_eq!(Workload::of_label(&name), Some(*workload));
            // The source is written for the base, so a base is its own base.
            assert_eq!(workload.base().base(), workload.base());
        }
    }
}
