//! NumPy's `.npz` archives: a zip file whose members are `.npy` arrays.
//!
//! The file is not trusted. Memory is bounded by what the compressed bytes can hold (deflate expands a byte to at most
//! 1032), and checksums are checked.

mod npy;

pub use npy::Array;

use byteorder::{ByteOrder, LittleEndian as Le};
use flate2::{Crc, bufread::DeflateDecoder};
use quarterturn_core::{Error, Result};
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// The most members of an archive.
const MAX_MEMBERS: usize = 1 << 12;
/// No byte of deflate makes more.
const MOST_PER_BYTE: u64 = 1032;
/// Lengths of a zip file's records without what varies: end of the central directory, entry of it, header of a member.
const END: usize = 22;
const ENTRY: usize = 46;
const LOCAL: usize = 30;

/// An open archive.
#[derive(Debug)]
pub struct Npz {
    path: PathBuf,
    file: File,
    length: u64,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// Without `.npy`.
    name: String,
    is_deflated: bool,
    checksum: u32,
    compressed: u64,
    size: u64,
    /// Where its header begins.
    offset: u64,
}

/// What is wrong, and where: in bytes from the beginning.
type Fault = (u64, String);

impl Npz {
    /// Opens the archive at `path` and reads its directory.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`], naming the file, if it is no zip file, or one that is split, encrypted, of more than 4 GiB, or
    /// compressed otherwise than by deflate.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: io::Error| Error::io(path, &e);
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::Io { path: path.into(), message: "this is no regular file".into() });
        }
        let length = metadata.len();
        // The last record, behind which a comment may stand.
        let tail_length = length.min(END as u64 + u64::from(u16::MAX));
        let tail = read_at(&mut file, length - tail_length, tail_length as usize).map_err(io)?;
        let corrupt = |(offset, message): Fault| Error::Corrupt { path: path.into(), offset, message };
        let (start, size, count) = directory(&tail, length - tail_length).map_err(corrupt)?;
        let bytes = read_at(&mut file, start, size).map_err(io)?;
        let members = entries(&bytes, start, count).map_err(corrupt)?;
        Ok(Npz { path: path.into(), file, length, members })
    }

    /// The names of its arrays.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// The array called `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`], naming the file and the array, if it is damaged or of a type that is not understood.
    pub fn array(&mut self, name: &str) -> Result<Option<Array>> {
        self.array_of_at_most(name, u64::MAX)
    }

    /// As [`Npz::array`], with a limit: an array of more than `most` bytes, header included, is an error.
    ///
    /// # Errors
    /// As [`Npz::array`], if there are more too.
    pub fn array_of_at_most(&mut self, name: &str, most: u64) -> Result<Option<Array>> {
        let Some(member) = self.members.iter().find(|member| member.name == name) else { return Ok(None) };
        let read = match member.size {
            size if size > most => Ok(Err((member.offset, format!("{size} bytes, expected {most} at most")))),
            _ => read_member(&mut self.file, self.length, member),
        };
        let corrupt = |(offset, message): Fault| {
            Err(Error::Corrupt { path: self.path.clone(), offset, message: format!("{name}: {message}") })
        };
        match read.map_err(|e| Error::io(&self.path, &e))? {
            Err(fault) => corrupt(fault),
            Ok(bytes) => match Array::parse(bytes) {
                Ok(array) => Ok(Some(array)),
                Err(message) => corrupt((member.offset, message)),
            },
        }
    }
}

fn read_at(file: &mut File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Where the central directory begins, its length, and its number of entries; `tail` is the end of the file, from `from` on.
fn directory(tail: &[u8], from: u64) -> std::result::Result<(u64, usize, usize), Fault> {
    let is_end = |&at: &usize| {
        let record = &tail[at..];
        record.starts_with(b"PK\x05\x06") && END + usize::from(Le::read_u16(&record[20..])) == record.len()
    };
    let starts = (0..=tail.len().saturating_sub(END)).rev().filter(|at| tail.len() - at >= END);
    let Some(at) = starts.into_iter().find(is_end) else {
        return Err((from, "no zip file: it has no directory at its end".into()));
    };
    let (record, place) = (&tail[at..], from + at as u64);
    let refused = |message: &str| Err((place, message.to_string()));
    let [disk, first_disk, here, count] = [4, 6, 8, 10].map(|at| Le::read_u16(&record[at..]));
    let [size, start] = [12, 16].map(|at| Le::read_u32(&record[at..]));
    if disk != 0 || first_disk != 0 || here != count {
        return refused("an archive of several files");
    }
    if start == u32::MAX || size == u32::MAX || count == u16::MAX {
        return refused("an archive of 4 GiB or more (zip64)");
    }
    if usize::from(count) > MAX_MEMBERS {
        return refused(&format!("{count} members, more than {MAX_MEMBERS}"));
    }
    if u64::from(start) + u64::from(size) > place {
        return refused(&format!("a directory of {size} bytes at {start} does not lie before its end"));
    }
    Ok((u64::from(start), size as usize, usize::from(count)))
}

fn entries(bytes: &[u8], start: u64, count: usize) -> std::result::Result<Vec<Member>, Fault> {
    let (mut members, mut at) = (Vec::new(), 0);
    for _ in 0..count {
        let place = start + at as u64;
        let refused = |message: &str| Err((place, message.to_string()));
        let Some(entry) = bytes.get(at..at + ENTRY).filter(|entry| entry.starts_with(b"PK\x01\x02")) else {
            return refused("no entry of the directory");
        };
        let [flags, method] = [8, 10].map(|at| Le::read_u16(&entry[at..]));
        let [checksum, compressed, size, offset] = [16, 20, 24, 42].map(|at| Le::read_u32(&entry[at..]));
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(Le::read_u16(&entry[at..])));
        let Some(bytes_of_name) = bytes.get(at + ENTRY..at + ENTRY + name) else {
            return refused("an entry of the directory is cut off");
        };
        let name_text = String::from_utf8_lossy(bytes_of_name).into_owned();
        at += ENTRY + name + extra + comment;
        let Some(array_name) = name_text.strip_suffix(".npy") else { continue };
        if flags & 1 != 0 {
            return refused(&format!("{name_text} is encrypted"));
        }
        if [compressed, size, offset].contains(&u32::MAX) {
            return refused(&format!("{name_text} has 4 GiB or more (zip64)"));
        }
        if method != 0 && method != 8 {
            return refused(&format!("{name_text} is compressed by method {method}, expected 0 (not) or 8 (deflate)"));
        }
        if members.iter().any(|member: &Member| member.name == array_name) {
            return refused(&format!("{name_text} is there twice"));
        }
        members.push(Member {
            name: array_name.to_string(),
            is_deflated: method == 8,
            checksum,
            compressed: compressed.into(),
            size: size.into(),
            offset: offset.into(),
        });
    }
    Ok(members)
}

/// The content of a member, checked.
fn read_member(file: &mut File, length: u64, member: &Member) -> io::Result<std::result::Result<Vec<u8>, Fault>> {
    let place = member.offset;
    let refused = |message: String| Ok(Err((place, message)));
    let &Member { compressed, size, .. } = member;
    if place + LOCAL as u64 > length {
        return refused("it begins behind the end of the file".into());
    }
    let header = read_at(file, place, LOCAL)?;
    if !header.starts_with(b"PK\x03\x04") {
        return refused("no member of a zip file begins here".into());
    }
    let [name, extra] = [26, 28].map(|at| u64::from(Le::read_u16(&header[at..])));
    let start = place + LOCAL as u64 + name + extra;
    if start + compressed > length {
        return refused(format!("{compressed} bytes from {start} on, but the file has {length}"));
    }
    let most = if member.is_deflated { compressed.saturating_mul(MOST_PER_BYTE) } else { compressed };
    if size > most || (!member.is_deflated && size != compressed) {
        return refused(format!("{size} bytes cannot be made of {compressed}"));
    }
    file.seek(SeekFrom::Start(start))?;
    let source = BufReader::new(file.take(compressed));
    let mut bytes = Vec::new();
    // One byte more than there should be, to see whether there are more.
    let outcome = match member.is_deflated {
        true => DeflateDecoder::new(source).take(size + 1).read_to_end(&mut bytes),
        false => { source }.take(size + 1).read_to_end(&mut bytes),
    };
    if let Err(error) = outcome {
        return match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                refused(format!("damaged: {error}"))
            }
            _ => Err(error),
        };
    }
    if bytes.len() as u64 != size {
        return refused(format!(
            "it is announced with {size} bytes and has {}",
            if bytes.len() as u64 > size { "more" } else { "fewer" }
        ));
    }
    let mut checksum = Crc::new();
    checksum.update(&bytes);
    if checksum.sum() != member.checksum {
        return refused("its checksum does not agree".into());
    }
    Ok(Ok(bytes))
}

#[cfg(test)]
pub(crate) mod tests;
