//! Numeric matrices from MATLAB files of version 5 to 7, compressed or not, in either byte order.
//!
//! A file is a header of 128 bytes and then elements: a tag of 8 bytes (type and length), or of 4 bytes if no more than
//! 4 bytes follow, then the content, padded to 8 bytes. An element of type 15 is a zlib stream that holds another; one
//! of type 14 is a matrix, made of elements for flags, extents, name and values. Whatever is no real numeric matrix is
//! left out. Nothing else may be in a file: no bytes behind what an element holds, and no variable twice.

use byteorder::{BigEndian, ByteOrder, LittleEndian};
use flate2::{Decompress, FlushDecompress, Status};
use quarterturn_core::{Error, Result};
use std::{collections::HashSet, fs::File, io::Read, path::Path};

const HEADER: usize = 128;
/// The most bytes of a file, and of what all its compressed elements hold together.
const MAX_BYTES: usize = 1 << 24;
/// The most numbers of all matrices together: 16 MiB, as they are kept.
const MAX_VALUES: usize = 1 << 21;

const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
/// How an HDF5 file begins.
const HDF5: &[u8] = b"\x89HDF\r\n\x1a\n";

/// A real matrix, values in column-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// The variable's name.
    pub name: String,
    /// Rows, columns and so on.
    pub extents: Vec<usize>,
    /// The values, column by column.
    pub values: Vec<f64>,
    /// Where the matrix begins in the file, in bytes.
    pub offset: u64,
}

/// The numeric matrices of the file at `path`. Takes at most 48 MiB: of the file, of what it holds compressed, and of numbers
/// 16 MiB each.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Corrupt`] if it is no such file, is damaged or cut short, holds a
/// variable twice, or holds more than 16 MiB or 2,097,152 numbers. Files of versions 4 and 7.3 are named as such.
pub fn read(path: &Path) -> Result<Vec<Matrix>> {
    let io = |e: std::io::Error| Error::io(path, &e);
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    parse(&bytes, path)
}

/// As [`read`], from memory; `path` is only named in errors.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Matrix>> {
    let corrupt = |offset: usize, message: String| Error::Corrupt { path: path.into(), offset: offset as u64, message };
    if bytes.len() > MAX_BYTES {
        return Err(corrupt(MAX_BYTES, format!("more than {MAX_BYTES} bytes")));
    }
    if let Some(version) = other_version(bytes) {
        let message = format!("a MATLAB file of version {version}; 5 to 7 are read: save it with save(…, '-v7')");
        return Err(corrupt(0, message));
    }
    let Some(header) = bytes.get(..HEADER) else {
        return Err(corrupt(
            bytes.len(),
            format!("truncated: the header of {HEADER} bytes ends after {}", bytes.len()),
        ));
    };
    let big = match (&header[124..126], &header[126..128]) {
        ([0, 1], b"IM") => false,
        ([1, 0], b"MI") => true,
        (version, order) => {
            let message = format!("not a MATLAB file of version 5: version {version:02x?}, byte order {order:02x?}");
            return Err(corrupt(124, message));
        }
    };
    let mut file = Reader { bytes, at: HEADER, origin: 0, compressed: false, big, path };
    let (mut matrices, mut names) = (Vec::new(), HashSet::new());
    // What is left for the whole file.
    let (mut room, mut numbers) = (MAX_BYTES, MAX_VALUES);
    while file.at < bytes.len() {
        let offset = file.at;
        let (kind, content) = file.element(COMPRESSED)?;
        let found = match kind {
            MATRIX => file.inner(content, offset).matrix(numbers)?,
            COMPRESSED => {
                let content = inflate(content, room).map_err(|message| corrupt(offset, message))?;
                room -= content.len();
                let mut inner = Reader { bytes: &content, at: 0, origin: offset as u64, compressed: true, big, path };
                let (kind, matrix) = inner.element(COMPRESSED)?;
                if kind != MATRIX {
                    return inner.corrupt(format!("an element of type {kind} where a matrix is expected"));
                }
                inner.expect_end()?;
                inner.inner(matrix, 0).matrix(numbers)?
            }
            _ => return Err(corrupt(offset, format!("an element of type {kind} where a matrix is expected"))),
        };
        let Some(matrix) = found else { continue };
        if !names.insert(matrix.name.clone()) {
            return Err(corrupt(offset, format!("a second variable {}", matrix.name)));
        }
        numbers -= matrix.values.len();
        matrices.push(matrix);
    }
    Ok(matrices)
}

/// The version of a file that MATLAB writes too, but in another format.
fn other_version(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.get(124..HEADER).is_some_and(|end| matches!(end, b"\x00\x02IM" | b"\x02\x00MI"));
    if bytes.starts_with(HDF5) || text {
        return Some("7.3 (HDF5)");
    }
    // Version 4 has no text: type, rows, columns, whether complex, length of the name.
    let words = bytes.get(..20)?;
    let fits = |word: fn(&[u8]) -> u32| {
        let [kind, _, _, complex, name]: [u32; 5] = [0, 4, 8, 12, 16].map(|at| word(&words[at..]));
        let (order, reserved, precision, matrix) = (kind / 1000, kind / 100 % 10, kind / 10 % 10, kind % 10);
        order <= 4 && reserved == 0 && precision <= 5 && matrix <= 2 && complex <= 1 && (1..=64).contains(&name)
    };
    (fits(LittleEndian::read_u32) || fits(BigEndian::read_u32)).then_some("4")
}

/// The content of a zlib stream of at most `room` bytes. Nothing may follow the stream.
fn inflate(stream: &[u8], room: usize) -> std::result::Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let mut decoder = Decompress::new(true);
    loop {
        let rest = &stream[decoder.total_in() as usize..];
        let left = room.saturating_sub(content.len());
        content.reserve(left.min(1 << 16) + 1);
        let before = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress_vec(rest, &mut content, FlushDecompress::None);
        let status = status.map_err(|e| format!("corrupt zlib stream: {e}"))?;
        if content.len() > room {
            return Err(format!("decompresses to more than the {MAX_BYTES} bytes that a file may hold"));
        }
        match status {
            Status::StreamEnd if decoder.total_in() < stream.len() as u64 => {
                let more = stream.len() as u64 - decoder.total_in();
                return Err(format!("{more} bytes behind the end of the zlib stream"));
            }
            Status::StreamEnd => return Ok(content),
            _ if (decoder.total_in(), decoder.total_out()) == before => {
                return Err("truncated: the zlib stream ends early".into());
            }
            _ => {}
        }
    }
}

/// A place in the content of a file or of an element.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the content begins in the file. Of compressed content, places in it are not told apart.
    origin: u64,
    compressed: bool,
    big: bool,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    /// The content of an element that begins at `at`.
    fn inner(&self, bytes: &'a [u8], at: usize) -> Reader<'a> {
        let origin = if self.compressed { self.origin } else { self.origin + at as u64 };
        Reader { bytes, at: 0, origin, ..*self }
    }

    fn corrupt<T>(&self, message: String) -> Result<T> {
        let offset = if self.compressed { self.origin } else { self.origin + self.at as u64 };
        Err(Error::Corrupt { path: self.path.into(), offset, message })
    }

    fn word(&self, bytes: &[u8]) -> u32 {
        if self.big { BigEndian::read_u32(bytes) } else { LittleEndian::read_u32(bytes) }
    }

    /// Type and content of the next element. Those of type `unpadded` and of the short form are not padded.
    fn element(&mut self, unpadded: u32) -> Result<(u32, &'a [u8])> {
        let rest = &self.bytes[self.at..];
        let Some(tag) = rest.get(..8) else {
            return self.corrupt(format!("truncated: a tag of 8 bytes ends after {}", rest.len()));
        };
        let first = self.word(tag);
        let (kind, from, len, whole) = if first >> 16 > 0 {
            (first & 0xffff, 4, (first >> 16) as usize, 8)
        } else {
            let len = self.word(&tag[4..]) as usize;
            let padded = if first == unpadded { len } else { len.checked_next_multiple_of(8).unwrap_or(len) };
            (first, 8, len, padded.saturating_add(8))
        };
        let end = if from == 4 && len > 4 { None } else { len.checked_add(from) };
        let Some(content) = end.and_then(|end| rest.get(from..end)) else {
            return self.corrupt(format!("truncated: an element of {len} bytes, {} are left", rest.len() - from));
        };
        // The padding of the last element may be missing.
        self.at += whole.min(rest.len());
        Ok((kind, content))
    }

    fn expect_end(&self) -> Result<()> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            more => self.corrupt(format!("{more} bytes behind the matrix")),
        }
    }

    /// The matrix that an element of that type holds, if it is a real numeric one, of at most `most` numbers.
    fn matrix(mut self, most: usize) -> Result<Option<Matrix>> {
        let (offset, (kind, flags)) = (self.origin, self.element(0)?);
        if kind != 6 || flags.len() != 8 {
            return self.corrupt(format!("flags are 8 bytes of type 6, these are {} of type {kind}", flags.len()));
        }
        let flags = self.word(flags);
        // Classes 6 to 15 are floats and integers.
        if !(6..=15).contains(&(flags & 0xff)) || flags & 0x800 != 0 {
            return Ok(None);
        }
        let (kind, extents) = self.element(0)?;
        if kind != 5 || extents.len() < 8 || !extents.len().is_multiple_of(4) {
            return self.corrupt(format!("no extents: {} bytes of type {kind}", extents.len()));
        }
        let extents: Vec<usize> = extents.chunks_exact(4).map(|e| self.word(e) as usize).collect();
        let (kind, name) = self.element(0)?;
        if kind != 1 {
            return self.corrupt(format!("a name of type {kind}, expected 1"));
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let count = extents.iter().try_fold(1usize, |product, &e| product.checked_mul(e));
        if count.is_none_or(|count| count > most) {
            return self.corrupt(format!("{name}: extents {extents:?}, at most {MAX_VALUES} numbers in a file"));
        }
        let (kind, content) = self.element(0)?;
        let Some(width) = width(kind).filter(|width| content.len().is_multiple_of(*width)) else {
            return self.corrupt(format!("{name}: {} bytes of type {kind} are no numbers", content.len()));
        };
        if count != Some(content.len() / width) {
            return self.corrupt(format!("{name}: extents {extents:?}, but {} values", content.len() / width));
        }
        self.expect_end()?;
        let values = self.numbers(kind, content).unwrap_or_default();
        Ok(Some(Matrix { name, extents, values, offset }))
    }

    /// Numbers as they are stored, which may be smaller than the matrix's class.
    fn numbers(&self, kind: u32, bytes: &[u8]) -> Option<Vec<f64>> {
        match kind {
            1 => self.all(bytes, |b| i8::from_le_bytes(b).into()),
            2 => self.all(bytes, |b| u8::from_le_bytes(b).into()),
            3 => self.all(bytes, |b| i16::from_le_bytes(b).into()),
            4 => self.all(bytes, |b| u16::from_le_bytes(b).into()),
            5 => self.all(bytes, |b| i32::from_le_bytes(b).into()),
            6 => self.all(bytes, |b| u32::from_le_bytes(b).into()),
            7 => self.all(bytes, |b| f32::from_le_bytes(b).into()),
            9 => self.all(bytes, f64::from_le_bytes),
            12 => self.all(bytes, |b| i64::from_le_bytes(b) as f64),
            13 => self.all(bytes, |b| u64::from_le_bytes(b) as f64),
            _ => None,
        }
    }

    /// Every `N` bytes, the lowest first, as a number.
    fn all<const N: usize>(&self, bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        let (parts, []) = bytes.as_chunks() else { return None };
        let lowest_first = |mut part: [u8; N]| {
            if self.big {
                part.reverse();
            }
            part
        };
        Some(parts.iter().map(|&part| number(lowest_first(part))).collect())
    }
}

/// Bytes of a number of that type.
fn width(kind: u32) -> Option<usize> {
    match kind {
        1 | 2 => Some(1),
        3 | 4 => Some(2),
        5..=7 => Some(4),
        9 | 12 | 13 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::{Compression, write::ZlibEncoder};
    use std::io::Write;

    fn u32s(words: &[u32], big: bool) -> Vec<u8> {
        words.iter().flat_map(|w| if big { w.to_be_bytes() } else { w.to_le_bytes() }).collect()
    }

    fn element(kind: u32, content: &[u8], big: bool) -> Vec<u8> {
        let mut bytes = u32s(&[kind, content.len() as u32], big);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// `[1, n]` doubles that are stored as 16-bit integers, as MATLAB does.
    pub(crate) fn matrix(name: &str, values: &[u16], big: bool) -> Vec<u8> {
        let mut content = element(6, &u32s(&[6, 0], big), big);
        content.extend(element(5, &u32s(&[1, values.len() as u32], big), big));
        content.extend(element(1, name.as_bytes(), big));
        let bytes: Vec<u8> = values.iter().flat_map(|v| if big { v.to_be_bytes() } else { v.to_le_bytes() }).collect();
        content.extend(element(4, &bytes, big));
        element(MATRIX, &content, big)
    }

    pub(crate) fn file(elements: &[Vec<u8>], big: bool) -> Vec<u8> {
        let mut bytes = vec![b' '; 124];
        bytes.extend(if big { *b"\x01\x00MI" } else { *b"\x00\x01IM" });
        bytes.extend(elements.concat());
        bytes
    }

    fn compressed(element: &[u8], big: bool) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(element).unwrap();
        let stream = encoder.finish().unwrap();
        let mut bytes = u32s(&[COMPRESSED, stream.len() as u32], big);
        bytes.extend(stream);
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Matrix>> {
        parse(bytes, Path::new("x.mat"))
    }

    #[test]
    fn both_byte_orders_compressed_or_not() {
        for big in [false, true] {
            let (one, two) = (matrix("one", &[1, 500, 3], big), matrix("a longer name", &[7], big));
            for elements in [vec![one.clone(), two.clone()], vec![compressed(&one, big), compressed(&two, big)]] {
                let found = read_all(&file(&elements, big)).unwrap();
                assert_eq!((found[0].name.as_str(), &found[0].values[..]), ("one", &[1.0, 500.0, 3.0][..]));
                assert_eq!((found[1].name.as_str(), &found[1].extents[..]), ("a longer name", &[1, 1][..]));
                assert_eq!((found[0].offset, found[1].offset), (128, 128 + elements[0].len() as u64));
            }
        }
    }

    #[test]
    fn short_elements_and_other_classes() {
        // Name and value in the short form: type and length share a word.
        let mut content = element(6, &u32s(&[9, 0], false), false);
        content.extend(element(5, &u32s(&[2, 1], false), false));
        content.extend(u32s(&[1 << 16 | 1, u32::from(b'x')], false));
        content.extend(u32s(&[2 << 16 | 2, 0x0807], false));
        let text = element(MATRIX, &element(6, &u32s(&[4, 0], false), false), false);
        let found = read_all(&file(&[text, element(MATRIX, &content, false)], false)).unwrap();
        assert_eq!((found.len(), found[0].name.as_str(), &found[0].values[..]), (1, "x", &[7.0, 8.0][..]));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for big in [false, true] {
            let one = matrix("one", &[1, 500, 3], big);
            for elements in [vec![one.clone()], vec![compressed(&one, big)]] {
                let whole = file(&elements, big);
                for len in 0..whole.len() {
                    // The padding at the end may be missing.
                    let cut = read_all(&whole[..len]);
                    let empty = len == HEADER && cut.as_ref().is_ok_and(Vec::is_empty);
                    assert!(matches!(cut, Err(Error::Corrupt { .. })) || empty || len + 8 > whole.len(), "{len}");
                }
                for at in 0..whole.len() {
                    for change in [1, 4, 0x80, 0xff] {
                        let mut bytes = whole.clone();
                        bytes[at] ^= change;
                        let _ = read_all(&bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn what_decompresses_without_end_is_refused() {
        let bomb = compressed(&vec![0; MAX_BYTES + 1], false);
        assert!(bomb.len() < 20_000);
        let message = read_all(&file(&[bomb], false)).unwrap_err().to_string();
        assert_eq!(message, "x.mat: at byte 128: decompresses to more than the 16777216 bytes that a file may hold");
        // An extent of 4 billion.
        let mut lying = matrix("one", &[1, 500, 3], false);
        lying[8 + 16 + 8..8 + 16 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        let message = read_all(&file(&[lying], false)).unwrap_err().to_string();
        assert!(message.contains("extents [4294967295, 3], at most 2097152 numbers"), "{message}");
    }

    /// A limit for each element let 131 KB take 1 GiB.
    #[test]
    fn all_elements_share_one_limit() {
        // Text is left out, but was decompressed.
        let text = |len| {
            let flags = element(6, &u32s(&[4, 0], false), false);
            compressed(&element(MATRIX, &[flags, vec![0; len]].concat(), false), false)
        };
        assert!(read_all(&file(&[text(MAX_BYTES / 2), text(MAX_BYTES / 2 - 100)], false)).unwrap().is_empty());
        let message = read_all(&file(&[text(MAX_BYTES / 2), text(MAX_BYTES / 2)], false)).unwrap_err().to_string();
        assert!(message.contains("decompresses to more than the 16777216 bytes that a file may hold"), "{message}");
        // A million numbers in 1 MB each, and 8 MB as they are kept.
        let bytes = |name: &str| {
            let mut content = element(6, &u32s(&[9, 0], false), false);
            content.extend(element(5, &u32s(&[1 << 10, 1 << 10], false), false));
            content.extend(element(1, name.as_bytes(), false));
            content.extend(element(2, &vec![7; 1 << 20], false));
            element(MATRIX, &content, false)
        };
        assert_eq!(read_all(&file(&[bytes("a"), bytes("b")], false)).unwrap().len(), 2);
        for elements in [["a", "b", "c"].map(bytes), ["a", "b", "c"].map(|name| compressed(&bytes(name), false))] {
            let message = read_all(&file(&elements, false)).unwrap_err().to_string();
            assert!(message.contains("c: extents [1024, 1024], at most 2097152 numbers in a file"), "{message}");
        }
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        let fails = |elements: &[Vec<u8>], wanted: &str| {
            let message = read_all(&file(elements, false)).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message} does not say {wanted}");
        };
        let one = matrix("one", &[1, 500, 3], false);
        // Behind the values of a matrix: another element, or some bytes.
        let grown = |more: &[u8]| {
            let mut bytes = [&one[..], more].concat();
            let len = bytes.len() as u32 - 8;
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
            bytes
        };
        fails(&[grown(&element(4, &[1, 0], false))], "16 bytes behind the matrix");
        fails(&[grown(&[0; 8])], "8 bytes behind the matrix");
        // Behind the matrix of a stream, and behind the stream.
        fails(&[compressed(&[&one[..], &[0; 3]].concat(), false)], "3 bytes behind the matrix");
        fails(&[compressed(&[&one[..], &one].concat(), false)], "bytes behind the matrix");
        let mut stream = compressed(&one, false);
        stream.extend([0; 5]);
        let len = stream.len() as u32 - 8;
        stream[4..8].copy_from_slice(&len.to_le_bytes());
        fails(&[stream], "5 bytes behind the end of the zlib stream");
        // Behind the last element of the file.
        fails(&[one.clone(), vec![1, 2, 3]], "truncated: a tag of 8 bytes ends after 3");
        fails(&[one.clone(), element(2, &[7], false)], "an element of type 2 where a matrix is expected");
        fails(&[one.clone(), vec![0; 8]], "an element of type 0 where a matrix is expected");
        fails(&[compressed(&element(2, &[7], false), false)], "an element of type 2 where a matrix is expected");
        // A variable may be there once, however it is stored.
        fails(&[one.clone(), matrix("two", &[1], false), compressed(&one, false)], "a second variable one");
    }

    /// Names were compared one by one: 4 MiB took minutes.
    #[test]
    fn many_variables_take_no_longer_than_their_bytes() {
        let variables: Vec<_> = (0..65_000).map(|i| matrix(&format!("v{i:05}"), &[], false)).collect();
        let before = std::time::Instant::now();
        assert_eq!(read_all(&file(&variables, false)).unwrap().len(), 65_000);
        assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
    }

    #[test]
    fn other_files_are_named() {
        let message = read_all(b"<html>").unwrap_err().to_string();
        assert_eq!(message, "x.mat: at byte 6: truncated: the header of 128 bytes ends after 6");
        let html = read_all(&[b"<!DOCTYPE html>".to_vec(), vec![b' '; 200]].concat()).unwrap_err().to_string();
        assert!(html.contains("not a MATLAB file of version 5: version [20, 20]"), "{html}");
    }

    #[test]
    fn other_versions_are_named_with_the_way_out() {
        let says = |bytes: &[u8], version: &str| {
            let message = read_all(bytes).unwrap_err().to_string();
            let wanted = format!("a MATLAB file of version {version}; 5 to 7 are read: save it with save(…, '-v7')");
            assert!(message.ends_with(&wanted), "{message}");
        };
        let text = || [&b"MATLAB 7.3 MAT-file, Platform: GLNXA64"[..], &[b' '; 86]].concat();
        says(&[text(), b"\x00\x02IM".to_vec(), vec![0; 384], HDF5.to_vec()].concat(), "7.3 (HDF5)");
        says(&[text(), b"\x02\x00MI".to_vec()].concat(), "7.3 (HDF5)");
        says(&[HDF5, &[0; 100]].concat(), "7.3 (HDF5)");
        // Version 4: one variable x of two doubles, in either byte order, full or text.
        for (kind, big) in [(0, false), (1000, true), (1, false), (10, false)] {
            let header = u32s(&[kind, 1, 2, 0, 2], big);
            says(&[&header[..], b"x\0", &[0; 16]].concat(), "4");
        }
    }
}
