//! The IDX format of the MNIST files, plain or gzip-compressed.
//!
//! A file is the bytes `0 0 type rank`, then `rank` extents as big-endian `u32`, then the elements in row-major order.
//! Only unsigned bytes (type 8) are read. The header is not trusted: memory grows with the bytes that are read, and
//! reading stops at the first byte too many.

use crate::gzip::Members;
use byteorder::{BigEndian, ByteOrder};
use quarterturn_core::{Error, Result};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// The most elements a file may hold, 1 GiB.
pub const MAX_ELEMENTS: usize = 1 << 30;
/// The largest extent of an axis after the first: the height and width of an image.
pub const MAX_SIDE: usize = 4096;

/// Elements decompressed and checked at a time, and the first allocation.
const CHUNK: usize = 1 << 16;
/// The code of unsigned bytes.
const UNSIGNED_BYTE: u8 = 0x08;

/// An array of bytes read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// The extents, none of them zero.
    pub extents: Vec<usize>,
    /// The elements in row-major order.
    pub elements: Vec<u8>,
    /// Where the elements begin in the (decompressed) file.
    pub data_offset: u64,
}

/// Reads the IDX file at `path`, which must hold unsigned bytes on `rank` axes. Compression is recognised by the first
/// bytes, not by the name.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it is not exactly such a file, and
/// [`Error::OutOfMemory`].
pub fn read(path: &Path, rank: u8) -> Result<Idx> {
    let file = File::open(path).map_err(|e| Error::io(path, &e))?;
    parse(BufReader::new(file), path, rank)
}

/// As [`read`], from any reader; `path` is only named in errors.
///
/// # Errors
/// As [`read`].
pub fn parse(input: impl BufRead, path: &Path, rank: u8) -> Result<Idx> {
    let mut content = Content::open(input, path)?;
    let extents = read_header(&mut content, rank)?;
    let wanted = checked_len(&content, &extents)?;
    let data_offset = content.offset;
    let elements = read_elements(&mut content, wanted)?;
    Ok(Idx { extents, elements, data_offset })
}

fn read_header(content: &mut Content<impl BufRead>, rank: u8) -> Result<Vec<usize>> {
    let mut magic = [0; 4];
    let got = content.fill(&mut magic)?;
    if got < magic.len() {
        return Err(content.corrupt(got as u64, format!("truncated: the 4 bytes of the magic number end after {got}")));
    }
    if magic[..2] != [0, 0] {
        let found = BigEndian::read_u32(&magic);
        return Err(content.corrupt(0, format!("not an IDX file: magic number 0x{found:08x} does not begin 0x0000")));
    }
    if magic[2] != UNSIGNED_BYTE {
        let found = element_type(magic[2]);
        return Err(content.corrupt(2, format!("elements are {found}, expected unsigned bytes (type 0x08)")));
    }
    if magic[3] != rank {
        return Err(content.corrupt(3, format!("{} axes, expected {rank}{}", magic[3], swapped(magic[3], rank))));
    }
    let mut extents = vec![0; 4 * usize::from(rank)];
    let got = content.fill(&mut extents)?;
    if got < extents.len() {
        let wanted = extents.len();
        let message = format!("truncated: the {wanted} bytes of the extents end after {got}");
        return Err(content.corrupt(4 + got as u64, message));
    }
    Ok(extents.chunks_exact(4).map(|extent| BigEndian::read_u32(extent) as usize).collect())
}

fn element_type(code: u8) -> String {
    let name = match code {
        0x09 => "signed bytes",
        0x0b => "16-bit integers",
        0x0c => "32-bit integers",
        0x0d => "32-bit floats",
        0x0e => "64-bit floats",
        _ => return format!("of the unknown type 0x{code:02x}"),
    };
    format!("{name} (type 0x{code:02x})")
}

/// A hint for the commonest mistake.
fn swapped(found: u8, expected: u8) -> &'static str {
    match (found, expected) {
        (1, 3) => ": these are labels, not images",
        (3, 1) => ": these are images, not labels",
        _ => "",
    }
}

/// The number of elements that plausible extents make.
fn checked_len(content: &Content<impl BufRead>, extents: &[usize]) -> Result<usize> {
    let offset_of = |axis: usize| 4 + 4 * axis as u64;
    if let Some(axis) = extents.iter().position(|&e| e == 0) {
        return Err(content.corrupt(offset_of(axis), format!("extent {axis} of {extents:?} is zero")));
    }
    let Some(len) = extents.iter().try_fold(1usize, |product, &e| product.checked_mul(e)) else {
        let message = format!("the extents {extents:?} overflow: their product does not fit in a word");
        return Err(content.corrupt(offset_of(0), message));
    };
    if let Some((axis, side)) = extents.iter().enumerate().skip(1).find(|&(_, &e)| e > MAX_SIDE) {
        let message = format!("implausible extents {extents:?}: {side} on axis {axis}, at most {MAX_SIDE}");
        return Err(content.corrupt(offset_of(axis), message));
    }
    if len > MAX_ELEMENTS {
        let message = format!("implausible extents {extents:?}: {len} elements, at most {MAX_ELEMENTS}");
        return Err(content.corrupt(offset_of(0), message));
    }
    Ok(len)
}

fn read_elements(content: &mut Content<impl BufRead>, wanted: usize) -> Result<Vec<u8>> {
    let mut elements = Vec::new();
    while elements.len() < wanted {
        let had = elements.len();
        let step = CHUNK.min(wanted - had);
        elements.try_reserve(step).map_err(|e| {
            Error::OutOfMemory(format!("{}: {had} of {wanted} bytes read: {e}", content.path.display()))
        })?;
        elements.resize(had + step, 0);
        let got = content.fill(&mut elements[had..])?;
        if got < step {
            let message = format!("truncated: the header announces {wanted} bytes of data, there are {}", had + got);
            return Err(content.corrupt(content.offset, message));
        }
    }
    content.expect_end(wanted)?;
    elements.shrink_to_fit();
    Ok(elements)
}

/// The (decompressed) bytes of a file, and how many of them have been read.
struct Content<R> {
    source: Source<R>,
    path: PathBuf,
    offset: u64,
}

/// The bytes that were looked at to tell gzip from plain, then the rest.
type Whole<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

enum Source<R> {
    Plain(Whole<R>),
    Gzip(Members<Whole<R>>),
}

impl<R: BufRead> Content<R> {
    fn open(mut input: R, path: &Path) -> Result<Self> {
        let mut start = Vec::new();
        input.by_ref().take(2).read_to_end(&mut start).map_err(|e| Error::io(path, &e))?;
        let compressed = start == [0x1f, 0x8b];
        let whole = io::Cursor::new(start).chain(input);
        let source = if compressed { Source::Gzip(Members::new(whole)) } else { Source::Plain(whole) };
        Ok(Content { source, path: path.into(), offset: 0 })
    }

    fn corrupt(&self, offset: u64, message: String) -> Error {
        Error::Corrupt { path: self.path.clone(), offset, message }
    }

    /// Reads until `buffer` is full or the content ends, and returns how much was read.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = match &mut self.source {
                Source::Plain(input) => input.read(&mut buffer[filled..]),
                Source::Gzip(members) => members.read(&mut buffer[filled..]),
            };
            match read {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    self.offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.read_error(&e)),
            }
        }
        Ok(filled)
    }

    /// Fails unless everything has been read. Asks for one byte more only, however many there may be; for gzip, not
    /// finding it means that length and CRC of every member were right and that nothing but zeros follows the last.
    fn expect_end(&mut self, wanted: usize) -> Result<()> {
        let end = self.offset;
        let more = self.fill(&mut [0])? > 0;
        match &self.source {
            Source::Plain(_) if more => {
                let message = format!("trailing bytes after the {wanted} bytes of data that the header announces");
                Err(self.corrupt(end, message))
            }
            Source::Gzip(_) if more => {
                let message = format!("decompresses to more than the {wanted} bytes of data that the header announces");
                Err(self.corrupt(end, message))
            }
            _ => Ok(()),
        }
    }

    /// What an error of the reader means: the decoder reports bad data with kinds that reading a file does not have.
    fn read_error(&self, error: &io::Error) -> Error {
        match (&self.source, error.kind()) {
            (Source::Gzip(_), io::ErrorKind::UnexpectedEof) => {
                self.corrupt(self.offset, "truncated: the gzip stream ends early".into())
            }
            (Source::Gzip(_), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
                self.corrupt(self.offset, format!("corrupt gzip stream: {error}"))
            }
            _ => Error::io(&self.path, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    /// A file of 2 images of 2×3 pixels, 0 to 11.
    const IMAGES: [u8; 28] = [
        0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, // header
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    ];

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn parse_images(bytes: &[u8]) -> Result<Idx> {
        parse(bytes, Path::new("images"), 3)
    }

    fn header(extents: [u32; 3]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, 3];
        bytes.extend(extents.iter().flat_map(|e| e.to_be_bytes()));
        bytes
    }

    #[track_caller]
    fn assert_corrupt(result: Result<Idx>, wanted_offset: u64, wanted: &str) {
        match result.unwrap_err() {
            Error::Corrupt { path, offset, message } => {
                assert_eq!(path, Path::new("images"));
                assert!(message.contains(wanted), "{message:?} does not say {wanted:?}");
                assert_eq!(offset, wanted_offset, "{message}");
            }
            other => panic!("{other:?} instead of a corrupt file with {wanted:?}"),
        }
    }

    #[test]
    fn plain_and_gzip_hold_the_same_array() {
        let plain = parse_images(&IMAGES).unwrap();
        assert_eq!(plain.extents, [2, 2, 3]);
        assert!(plain.elements.iter().copied().eq(0..12));
        assert_eq!(plain.data_offset, 16);
        assert_eq!(parse_images(&gzip(&IMAGES)).unwrap(), plain);
        let labels = [0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9];
        assert_eq!(parse(&labels[..], Path::new("labels"), 1).unwrap().elements, [7, 8, 9]);
    }

    #[test]
    fn arrays_longer_than_a_chunk_arrive_whole() {
        for len in [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let mut bytes = vec![0, 0, 8, 1];
            bytes.extend((len as u32).to_be_bytes());
            bytes.extend((0..len).map(|i| (i * i / 7) as u8));
            for file in [gzip(&bytes), bytes.clone()] {
                // One byte at a time: a reader may return less than is asked for.
                let slow = BufReader::with_capacity(1, &file[..]);
                assert_eq!(parse(slow, Path::new("x"), 1).unwrap().elements, bytes[8..]);
            }
        }
    }

    #[test]
    fn wrong_magic() {
        assert_corrupt(parse_images(b"<!DOCTYPE html><html>"), 0, "not an IDX file: magic number 0x3c21444f");
        assert_corrupt(parse_images(&gzip(b"\x89PNG and so on")), 0, "not an IDX file: magic number 0x89504e47");
    }

    #[test]
    fn wrong_element_type() {
        let mut bytes = IMAGES;
        bytes[2] = 0x0d;
        assert_corrupt(parse_images(&bytes), 2, "elements are 32-bit floats (type 0x0d)");
        bytes[2] = 0x77;
        assert_corrupt(parse_images(&bytes), 2, "of the unknown type 0x77");
    }

    #[test]
    fn wrong_rank() {
        assert_corrupt(parse(&IMAGES[..], Path::new("images"), 1), 3, "3 axes, expected 1: these are images, not");
        assert_corrupt(parse_images(&[0, 0, 8, 1, 0, 0, 0, 1, 5]), 3, "1 axes, expected 3: these are labels, not");
        assert_corrupt(parse_images(&[0, 0, 8, 0]), 3, "0 axes, expected 3");
    }

    #[test]
    fn zero_sizes() {
        assert_corrupt(parse_images(&header([0, 2, 3])), 4, "extent 0 of [0, 2, 3] is zero");
        assert_corrupt(parse_images(&header([2, 2, 0])), 12, "extent 2 of [2, 2, 0] is zero");
    }

    #[test]
    fn implausible_sizes() {
        assert_corrupt(parse_images(&header([1, 28, 5000])), 12, "implausible extents [1, 28, 5000]: 5000 on axis 2");
        assert_corrupt(parse_images(&header([1 << 30, 28, 28])), 4, "implausible extents");
    }

    #[test]
    fn size_overflow() {
        assert_corrupt(parse_images(&header([u32::MAX; 3])), 4, "overflow");
    }

    #[test]
    fn truncated_magic_extents_and_data() {
        assert_corrupt(parse_images(&[]), 0, "the magic number end after 0");
        assert_corrupt(parse_images(&IMAGES[..3]), 3, "the magic number end after 3");
        assert_corrupt(parse_images(&IMAGES[..9]), 9, "the extents end after 5");
        assert_corrupt(parse_images(&IMAGES[..20]), 20, "the header announces 12 bytes of data, there are 4");
        assert_corrupt(parse_images(&gzip(&IMAGES[..20])), 20, "the header announces 12 bytes of data, there are 4");
    }

    #[test]
    fn truncated_gzip() {
        let bytes = gzip(&IMAGES);
        for end in 2..bytes.len() {
            let error = parse_images(&bytes[..end]).unwrap_err().to_string();
            assert!(error.contains("the gzip stream ends early"), "{end}: {error}");
        }
    }

    #[test]
    fn trailing_bytes() {
        assert_corrupt(parse_images(&[&IMAGES[..], b"x"].concat()), 28, "trailing bytes after the 12 bytes");
        let compressed = gzip(&IMAGES);
        for rest in [&b"x"[..], b"\0\0x"] {
            let followed = [&compressed[..], rest].concat();
            assert_corrupt(parse_images(&followed), 28, "trailing bytes after the gzip stream");
        }
        let twice = [&compressed[..], &compressed[..]].concat();
        assert_corrupt(parse_images(&twice), 28, "decompresses to more than the 12 bytes");
    }

    #[test]
    fn a_gzip_file_may_have_several_members() {
        let whole = parse_images(&IMAGES).unwrap();
        let nothing = gzip(&[]);
        for cut in [0, 3, 16, 20, 28] {
            let (start, rest) = (gzip(&IMAGES[..cut]), gzip(&IMAGES[cut..]));
            for file in [[&start[..], &rest].concat(), [&start[..], &nothing, &rest, &nothing, &[0; 512]].concat()] {
                assert_eq!(parse_images(&file).unwrap(), whole, "cut at {cut}");
            }
            // The checksum of each member counts.
            let mut damaged = [&start[..], &rest].concat();
            let crc = start.len() - 8;
            damaged[crc] ^= 1;
            assert_corrupt(parse_images(&damaged), cut as u64, "corrupt gzip stream");
        }
    }

    #[test]
    fn corrupt_gzip() {
        let mut bytes = gzip(&IMAGES);
        let crc = bytes.len() - 8;
        bytes[crc] ^= 1;
        assert_corrupt(parse_images(&bytes), 28, "corrupt gzip stream");
        let mut bytes = gzip(&IMAGES);
        bytes[2] = 9; // no such compression method
        assert_corrupt(parse_images(&bytes), 0, "corrupt gzip stream");
    }

    /// A reader that counts what is taken from it.
    struct Counting<'a>(&'a [u8], &'a std::cell::Cell<usize>);

    impl Read for Counting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(buffer)?;
            self.1.set(self.1.get() + n);
            Ok(n)
        }
    }

    #[test]
    fn a_gzip_bomb_is_left_after_the_announced_bytes() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&IMAGES).unwrap();
        for _ in 0..64 {
            encoder.write_all(&[0; 1 << 20]).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        let taken = std::cell::Cell::new(0);
        let input = BufReader::with_capacity(512, Counting(&bomb, &taken));
        let result = parse(input, Path::new("images"), 3);
        assert_corrupt(result, 28, "decompresses to more than the 12 bytes of data that the header announces");
        assert!(taken.get() < bomb.len() / 10, "{} of {} bytes were decompressed", taken.get(), bomb.len());
    }

    #[test]
    fn an_announced_size_is_not_allocated_before_the_data_arrives() {
        // 1 GiB announced, 4 bytes there: if it were allocated and filled first, this would take a second.
        let bytes = [header([1 << 18, 64, 64]), vec![1, 2, 3, 4]].concat();
        let before = std::time::Instant::now();
        for _ in 0..100 {
            let wanted = "announces 1073741824 bytes of data, there are 4";
            assert_corrupt(parse_images(&bytes), 20, wanted);
        }
        assert!(before.elapsed().as_secs() < 10);
    }

    #[test]
    fn an_unreadable_file_is_an_io_error_with_its_path() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is on fire"))
            }
        }
        let after = |bytes: &'static [u8]| parse(BufReader::new(bytes.chain(Broken)), Path::new("images"), 3);
        for start in [&b""[..], &[0x1f, 0x8b], &[0x1f, 0x8b, 8, 0, 0], &IMAGES[..18], &IMAGES] {
            assert_eq!(after(Vec::leak(start.to_vec())).unwrap_err().to_string(), "images: the disk is on fire");
        }
        let missing = read(Path::new("no/such/file"), 3).unwrap_err();
        assert!(matches!(missing, Error::Io { ref path, .. } if path == Path::new("no/such/file")));
        assert!(matches!(read(&std::env::temp_dir(), 3), Err(Error::Io { .. })), "a folder is not a file");
    }

    /// Whatever is changed, the result is an error, or an array that agrees with its own header.
    fn assert_consistent(bytes: &[u8]) {
        if let Ok(idx) = parse_images(bytes) {
            assert_eq!(idx.extents.iter().product::<usize>(), idx.elements.len());
            assert_eq!(idx.extents.len(), 3);
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        for file in [IMAGES.to_vec(), gzip(&IMAGES)] {
            for end in 0..file.len() {
                assert!(parse_images(&file[..end]).is_err(), "{end} of {} bytes", file.len());
            }
        }
    }

    #[test]
    fn every_changed_byte_of_a_plain_file_is_an_error_or_a_changed_array() {
        for at in 0..IMAGES.len() {
            for value in (0..=255).filter(|&v| v != IMAGES[at]) {
                let mut bytes = IMAGES;
                bytes[at] = value;
                assert_consistent(&bytes);
                // The header admits no other value; a data byte is an element.
                assert_eq!(parse_images(&bytes).is_ok(), at >= 16, "byte {at} = {value}");
            }
        }
    }

    #[test]
    fn every_changed_byte_of_a_gzip_file_is_an_error_or_the_same_array() {
        let whole = parse_images(&IMAGES).unwrap();
        let file = gzip(&IMAGES);
        for at in 0..file.len() {
            for value in (0..=255).filter(|&v| v != file[at]) {
                let mut bytes = file.clone();
                bytes[at] = value;
                // Time stamp, system and the like may change freely; the CRC guards everything else.
                if let Ok(idx) = parse_images(&bytes) {
                    assert_eq!(idx, whole, "byte {at} = {value}");
                }
            }
        }
    }

    #[test]
    fn random_damage_never_panics() {
        let stream = quarterturn_core::Stream::new(1, 0, 0);
        let originals = [IMAGES.to_vec(), gzip(&IMAGES), gzip(&[&header([9, 28, 28])[..], &[7; 9 * 784]].concat())];
        for trial in 0..20_000u64 {
            let words = stream.block(trial);
            let mut bytes = originals[trial as usize % 3].clone();
            for change in 0..1 + words[0] % 4 {
                let draw = stream.block(trial << 8 | u64::from(change) | 1 << 40);
                let at = draw[0] as usize % bytes.len();
                match draw[1] % 4 {
                    0 => bytes[at] = draw[2] as u8,
                    1 => bytes[at] ^= 1 << (draw[2] % 8),
                    2 => bytes.insert(at, draw[2] as u8),
                    _ => drop(bytes.remove(at)),
                }
            }
            assert_consistent(&bytes);
        }
    }
}
