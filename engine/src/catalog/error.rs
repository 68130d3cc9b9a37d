//! Why a catalog cannot be used.

use std::path::PathBuf;

use farshore_core::codec::DecodeError;

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be opened or made.
    #[error("catalog {}: opening it", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A new one cannot be put in place.
    #[error("catalog {}: {step}", path.display())]
    Create {
        /// The database file.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("catalog {}: another farshore has it open; wait for it or stop it", path.display())]
    Busy {
        /// The database file.
        path: PathBuf,
    },
    /// Made by another version or for the other role.
    #[error(
        "catalog {}: made {found}, this needs {wanted}; move the file away and run again: it is \
         rebuilt from the trees", path.display()
    )]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What was expected.
        wanted: String,
    },
    /// The database failed.
    #[error("catalog: {step}")]
    Database {
        /// What it was to do.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// A list that is to be written cannot be read back.
    #[error("catalog: reading a list of changes back from the state folder")]
    List(#[source] std::io::Error),
    /// A stored value does not decode.
    #[error("catalog: value in table {table} is damaged; move the catalog away and run again")]
    Damaged {
        /// Where.
        table: &'static str,
        /// How.
        #[source]
        source: DecodeError,
    },
}

impl CatalogError {
    /// What the file system said, when it was the one to fail.
    #[must_use]
    pub fn file_system(&self) -> Option<&std::io::Error> {
        match self {
            Self::Create { source, .. } | Self::List(source) => Some(source),
            Self::Open { source, .. } | Self::Database { source, .. } => match &**source {
                redb::Error::Io(e) => Some(e),
                _ => None,
            },
            _ => None,
        }
    }
}

pub(super) type Result<T, E = CatalogError> = std::result::Result<T, E>;

pub(super) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T>;
}

impl<T, E: Into<redb::Error>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: &'static str) -> Result<T> {
        self.map_err(|e| CatalogError::Database { step, source: Box::new(e.into()) })
    }
}

pub(super) fn damaged(table: &'static str) -> impl Fn(DecodeError) -> CatalogError {
    move |source| CatalogError::Damaged { table, source }
}
