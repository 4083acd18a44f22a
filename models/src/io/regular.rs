//! Files of a known length.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// The file at `path` and its length, at most `largest` bytes; opening what is no file, such as a pipe, could wait for ever, and
/// reading it never end.
pub(crate) fn open(path: &Path, largest: u64) -> io::Result<(File, u64)> {
    let length = |metadata: fs::Metadata| match metadata.len() {
        _ if !metadata.is_file() => Err(io::Error::other("this is no regular file")),
        length if length > largest || usize::try_from(length).is_err() => {
            Err(io::Error::other(format!("the file has {length} bytes, more than the {largest} that are read")))
        }
        length => Ok(length),
    };
    length(fs::metadata(path)?)?;
    let file = File::open(path)?;
    let length = length(file.metadata()?)?;
    Ok((file, length))
}
