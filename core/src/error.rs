//! One error type. Its variants differ where a caller would react differently.

use std::{fmt, io, path::PathBuf};

/// `Result` with this library's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What a file, a user or the machine can cause. A programming mistake (wrong shape, axis or device) panics instead.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// There is no GPU of the wanted kind. Use the CPU, or install a driver.
    NoGpu(String),
    /// The GPU was reset or removed; everything on it is gone. Open a new one.
    DeviceLost(String),
    /// An allocation failed: use a smaller batch.
    OutOfMemory(String),
    /// A tensor or a kernel launch is larger than the device can address.
    TooLarge(String),
    /// The driver or the shader compiler refused something; please report it.
    Gpu(String),
    /// Reading or writing a file failed.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A file's content violates its format.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Position in the (decompressed) content, in bytes.
        offset: u64,
        /// What was expected and what was found.
        message: String,
    },
    /// A checkpoint does not fit the network.
    Checkpoint {
        /// The tensor or configuration field concerned.
        name: String,
        /// What was expected and what was found.
        message: String,
    },
    /// A value that a user gave does not fit: a setting out of range, an image of the wrong size.
    Invalid(String),
    /// Fetching a data set failed from every mirror.
    Download(String),
}

impl Error {
    /// Wraps an I/O error with the path it happened at.
    pub fn io(path: impl Into<PathBuf>, error: &io::Error) -> Self {
        Error::Io { path: path.into(), message: error.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoGpu(m) => write!(f, "no GPU: {m}"),
            Error::DeviceLost(m) => write!(f, "GPU lost: {m}"),
            Error::OutOfMemory(m) => write!(f, "out of memory: {m}"),
            Error::TooLarge(m) => write!(f, "too large: {m}"),
            Error::Gpu(m) => write!(f, "GPU: {m}"),
            Error::Io { path, message } => write!(f, "{}: {message}", path.display()),
            Error::Corrupt { path, offset, message } => write!(f, "{}: at byte {offset}: {message}", path.display()),
            Error::Checkpoint { name, message } => write!(f, "checkpoint: {name}: {message}"),
            Error::Invalid(m) => write!(f, "{m}"),
            Error::Download(m) => write!(f, "download: {m}"),
        }
    }
}

impl std::error::Error for Error {}
