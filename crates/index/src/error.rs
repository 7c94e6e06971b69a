//! What can go wrong with an index.

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, IndexError>;

/// An error of an index, with what is needed to act.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file could not be read or written.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The folder is not an index.
    #[error("{path:?} is not an index: it has no index.json; make one with `sensorium index`")]
    NoIndex {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the index is not what the index says it is.
    #[error("{path:?} is damaged: {problem}; restore the folder from a copy, or remove it and index anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An index was written by a newer program.
    #[error("{path:?} was written in format {found}, this program reads {known}: use a newer sensorium")]
    Newer {
        /// The index.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// What is to be added does not belong into this index.
    #[error("index {path:?}: {problem}")]
    Mismatch {
        /// The index.
        path: PathBuf,
        /// What does not fit and how to mend it.
        problem: String,
    },
    /// Another program is writing to the index.
    #[error("index {path:?} is being written by another program; wait for it to end")]
    Busy {
        /// The index.
        path: PathBuf,
    },
    /// A filter names a column that no entry has.
    #[error("the index has no column {name:?}; it has: {}", known.join(", "))]
    NoColumn {
        /// The column.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The address of a store is none.
    #[error(
        "{problem}; an address is written postgres://USER@HOST:5432/DATABASE?index=NAME, the name in small letters, \
         digits and _; the password is taken from PGPASSWORD"
    )]
    Address {
        /// What is wrong.
        problem: String,
    },
    /// The program cannot speak to PostgreSQL.
    #[error("this program was built without PostgreSQL; build it with `--features postgres`")]
    NoPostgres,
    /// A database did not do what it was asked for.
    #[error("cannot {action} {place}: {problem}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// The database, without a password.
        place: String,
        /// What it said, and how to mend it.
        problem: String,
    },
    /// A vector cannot be compared with others.
    #[error("a vector {problem}")]
    Vector {
        /// What is wrong with it.
        problem: String,
    },
}

impl IndexError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn address(problem: impl Into<String>) -> Self {
        Self::Address { problem: problem.into() }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }
}
