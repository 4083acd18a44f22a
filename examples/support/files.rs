//! Writing result files so that no reader ever sees half of one.

use quarterturn::core::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Creates the folder and its parents, and sees that it takes files: better now than after hours of work.
///
/// # Errors
/// When the system refuses.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::Io { path: path.into(), message: "a file, where a folder for results is needed".into() });
    }
    fs::create_dir_all(path).map_err(|e| Error::io(path, &e))?;
    let probe = path.join(format!(".{}.part", std::process::id()));
    fs::write(&probe, b"results will be written here").map_err(|e| Error::io(path, &e))?;
    fs::remove_file(&probe).map_err(|e| Error::io(path, &e))
}

/// Removes what processes that were killed left half-written in a folder.
pub fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "part") {
            // A leftover does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes `content` beside `path`, flushes it to the disk and renames it into place.
///
/// # Errors
/// When the disk is full, the folder missing or read-only.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.part", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written: io::Result<()> = File::create(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        // The first error matters; that the leftover cannot be removed either is no news.
        let _ = fs::remove_file(&temporary);
        Error::io(path, &e)
    })
}
