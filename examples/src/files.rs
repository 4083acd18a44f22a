//! The files of a folder of results: written whole or not at all, and read only where they are what they look like. A
//! link is never followed: what it points to was not made here.

use quarterturn::core::{Error, NewFile, Result, replace_file, sync_folder_of};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    path::Path,
};

/// The file that [`create_folder`] tries a folder with.
pub const PROBE: &str = "probe";

/// Creates the folder and its parents, and sees that it takes files: better now than after hours of work.
///
/// # Errors
/// When the system refuses.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::Io { path: path.into(), message: "a file, where a folder for results is needed".into() });
    }
    fs::create_dir_all(path).map_err(|e| Error::io(path, &e))?;
    // What follows gets a temporary name, and is removed when it is dropped.
    let written = NewFile::create(path.join(PROBE))?.write_all(b"results will be written here");
    written.map_err(|e| Error::io(path, &e))?;
    sync_folder_of(path)
}

/// As [`create_folder`], for a folder that must lie where its name says: a link to one is refused.
///
/// # Errors
/// When it is a link or a file, or the system refuses.
pub fn create_own_folder(path: &Path) -> Result<()> {
    expect_own_folder(path)?;
    create_folder(path)
}

/// Whether there is a folder; a link to one is refused.
///
/// # Errors
/// When something else has its name, or the system refuses.
pub fn expect_own_folder(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(found) => {
            Err(Error::Io { path: path.into(), message: format!("{}, where a folder is needed", kind(&found)) })
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(path, &e)),
    }
}

/// Whether there is a file of this name.
///
/// # Errors
/// When something else has its name, a link too, or the system refuses.
pub fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => expect_regular(&found).map(|()| true).map_err(|e| Error::io(path, &e)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(path, &e)),
    }
}

/// Puts `content` at `path`, or leaves what was there.
///
/// # Errors
/// When the disk is full, the folder missing or read-only.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    replace_file(path, |out| out.write_all(content))
}

/// The content of a file, unless it is longer than `limit` bytes.
///
/// # Errors
/// [`ErrorKind::NotFound`]; or when it is longer, a link, no file, or the system refuses.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path, OpenOptions::new().read(true))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(bytes)
}

/// Opens a file that is there.
///
/// # Errors
/// [`ErrorKind::NotFound`]; or when it is a link or no file, or the system refuses.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Tells in words what would else be the system's "too many levels of symbolic links".
    expect_regular(&fs::symlink_metadata(path)?)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Whatever has taken its place since: no link is followed, and no pipe waited for.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    let file = options.open(path)?;
    expect_regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a file to read and write, an empty one if there is none.
///
/// # Errors
/// When it is a link or no file, or the system refuses.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    loop {
        match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            outcome => return outcome,
        }
        match open(path, OpenOptions::new().read(true).write(true)) {
            // Removed in between.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            outcome => return outcome,
        }
    }
}

/// Removes a file, if it is one. That it cannot be removed does no harm.
pub fn remove(path: &Path) {
    if exists(path).unwrap_or(false) {
        let _ = fs::remove_file(path);
    }
}

fn expect_regular(found: &fs::Metadata) -> io::Result<()> {
    match found.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{}, where a file is needed", kind(found)))),
    }
}

fn kind(found: &fs::Metadata) -> &'static str {
    match found.file_type() {
        kind if kind.is_symlink() => "a link",
        kind if kind.is_dir() => "a folder",
        kind if kind.is_file() => "a file",
        _ => "no file",
    }
}
