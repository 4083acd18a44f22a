//! TIFF and BigTIFF files. The `tiff` crate unpacks samples as they are stored; what they mean is decided here.

mod levels;

use super::{Checked, MAX_DECODED, Size, jpeg};
use std::io::Cursor;
use tiff::{
    TiffError,
    decoder::{Decoder, DecodingResult, Limits, ifd::Value},
    tags::{SampleFormat, Tag},
};

type File<'a> = Decoder<Cursor<&'a [u8]>>;

/// No compression holds more in a byte than the fax code, which writes a line that is like the one above in one bit.
const MAX_EXPANSION: usize = 1 << 14;
/// The most samples of a pixel; more are a stack of measurements and no picture.
const MAX_SAMPLES: usize = 16;
/// Kinds of compression.
const NONE: usize = 1;
const JPEG: usize = 7;
/// What the tag of the photometric interpretation is called.
const PHOTOMETRIC: u16 = 262;
const BLACK_IS_ZERO: u16 = 1;

/// What the samples of a pixel mean.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Colour {
    Grey { inverted: bool },
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
}

/// How samples are stored.
struct Layout {
    size: Size,
    colour: Colour,
    /// Samples of a pixel; what exceeds the colour's is transparency and the like.
    samples: usize,
    bits: usize,
    format: SampleFormat,
    /// Whether each sample of the pixels has a plane of its own.
    planar: bool,
}

/// The first image of a file: its size, and its pixels as red, green, blue.
pub(super) fn decode(bytes: &[u8]) -> Checked<(Size, Vec<u8>)> {
    let mut copy = bytes.to_vec();
    let colour = take_photometric(&mut copy)?;
    let told = |error: TiffError| (0, error.to_string());
    let limits = {
        let mut limits = Limits::default();
        limits.decoding_buffer_size = MAX_DECODED;
        limits.intermediate_buffer_size = bytes.len();
        limits
    };
    let mut file = Decoder::new(Cursor::new(&copy[..])).map_err(told)?.with_limits(limits);
    let layout = Layout::of(&mut file, colour, bytes.len()).map_err(|message| (0, message))?;
    layout.check_parts(&mut file, bytes)?;
    let palette = layout.palette(&mut file).map_err(|message| (0, message))?;
    let range = levels::Range::of(&layout, &mut file).map_err(|message| (0, message))?;
    let mut samples = DecodingResult::U8(Vec::new());
    let read = file.read_image_to_buffer(&mut samples);
    let at = |file: &mut File| usize::try_from(file.inner().position()).unwrap_or(usize::MAX).min(bytes.len());
    read.map_err(|error| (at(&mut file), error.to_string()))?;
    drop(file);
    let pixels = match palette {
        Some(colours) => layout.look_up(&samples, &colours),
        None => levels::of(&layout, samples, range).map(|levels| layout.colours(levels)),
    };
    Ok((layout.size, pixels.map_err(|message| (0, message))?))
}

impl Layout {
    fn of(file: &mut File, colour: Colour, len: usize) -> Result<Self, String> {
        let mut number = |tag, default| number(file, tag, default);
        let (width, height) = (number(Tag::ImageWidth, 0)?, number(Tag::ImageLength, 0)?);
        let (samples, bits) = (number(Tag::SamplesPerPixel, 1)?, number(Tag::BitsPerSample, 1)?);
        let format = SampleFormat::from_u16_exhaustive(number(Tag::SampleFormat, 1)? as u16);
        let planar = number(Tag::PlanarConfiguration, 1)? == 2;
        let tile = number(Tag::TileWidth, 1)?;
        let layout = Layout { size: Size { width, height }, colour, samples, bits, format, planar };
        if !(layout.wanted()..=MAX_SAMPLES).contains(&samples) {
            return Err(format!("{samples} samples a pixel, {colour:?} has {}", layout.wanted()));
        }
        if !matches!(bits, 1..=8 | 16 | 32 | 64) {
            return Err(format!("{bits} bits a sample: 1 to 8, 16, 32 and 64 are read"));
        }
        layout.size.check((samples * bits).div_ceil(8).max(3))?;
        let stored = width * height * samples * bits / 8;
        if stored > MAX_EXPANSION.saturating_mul(len) {
            return Err(format!("truncated: {len} bytes cannot hold an image of {height}x{width}"));
        }
        Size { width: tile, height: 1 }.check(1).map_err(|message| format!("tiles: {message}"))?;
        let plain = number(Tag::FillOrder, 1)? == 1;
        if !plain && bits < 8 {
            return Err("bits in reversed order (fill order 2), which are not read".into());
        }
        Ok(layout)
    }

    /// Samples of a pixel that make its colour.
    fn wanted(&self) -> usize {
        match self.colour {
            Colour::Grey { .. } | Colour::Palette => 1,
            Colour::Rgb | Colour::YCbCr => 3,
            Colour::Cmyk => 4,
        }
    }

    fn pixels(&self) -> usize {
        self.size.width * self.size.height
    }

    /// Where sample `channel` of pixel `index` stands among all.
    fn place(&self, index: usize, channel: usize) -> usize {
        if self.planar { channel * self.pixels() + index } else { index * self.samples + channel }
    }

    /// Strips and tiles must lie within the file, and hold what they are to hold where that can be told without decoding them:
    /// where nothing is compressed, and in JPEG data, for which the decoder makes up what is missing.
    fn check_parts(&self, file: &mut File, bytes: &[u8]) -> Checked<()> {
        let told = |message: String| (0, message);
        let compression = number(file, Tag::Compression, 1).map_err(told)?;
        let subsampled = numbers(file, Tag::ChromaSubsampling).map_err(told)?.unwrap_or(vec![2, 2]);
        if compression != JPEG && self.colour == Colour::YCbCr && subsampled != [1, 1] {
            return Err(told("colour differences at half resolution are read from JPEG data only".into()));
        }
        let find = |file: &mut File, tags: [Tag; 2]| -> Result<Vec<u64>, String> {
            Ok(numbers(file, tags[0])?.or(numbers(file, tags[1])?).unwrap_or_default())
        };
        let offsets = find(file, [Tag::StripOffsets, Tag::TileOffsets]).map_err(told)?;
        let counts = find(file, [Tag::StripByteCounts, Tag::TileByteCounts]).map_err(told)?;
        let tables = numbers(file, Tag::JPEGTables).map_err(told)?.unwrap_or_default();
        // Without the marker of their end.
        let tables: Vec<u8> = tables[..tables.len().saturating_sub(2)].iter().map(|&byte| byte as u8).collect();
        let width = file.chunk_dimensions().0 as usize;
        for (index, (&offset, &count)) in offsets.iter().zip(&counts).enumerate() {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
            let fault = |at: usize, message: String| (at, format!("part {index} of the image: {message}"));
            let Some(part) = bytes.get(from..to) else {
                return Err(fault(bytes.len(), format!("truncated: it lies at bytes {from} to {to}")));
            };
            let height = file.chunk_data_dimensions(index as u32).1 as usize;
            let line = (width * self.stored_together() * self.bits).div_ceil(8);
            match compression {
                NONE if part.len() < height * line => {
                    return Err(fault(to, format!("truncated: {} bytes for {height} lines of {line}", part.len())));
                }
                JPEG => {
                    // The marker of the beginning is that of the tables, if there are any.
                    let joined =
                        if tables.is_empty() { vec![] } else { [&tables, part.get(2..).unwrap_or(&[])].concat() };
                    let part = if tables.is_empty() { part } else { &joined };
                    let (size, channels) = jpeg::check(part).map_err(|(_, message)| fault(from, message))?;
                    // The last strip may be whole though the image ends before.
                    if size.width != width || size.height < height || channels != self.stored_together() {
                        let found = format!("{}x{} of {channels} channels", size.height, size.width);
                        let wanted = format!("expected {height}x{width} of {}", self.stored_together());
                        return Err(fault(from, format!("{found}, {wanted}")));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Samples of a pixel in one strip or tile.
    fn stored_together(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    /// The colours of a file that numbers them.
    fn palette(&self, file: &mut File) -> Result<Option<Vec<[u8; 3]>>, String> {
        if self.colour != Colour::Palette {
            return Ok(None);
        }
        if self.bits > 16 || self.format != SampleFormat::Uint {
            return Err(format!("numbers of colours in {} bits, type {:?}", self.bits, self.format));
        }
        let map = numbers(file, Tag::ColorMap)?.unwrap_or_default();
        let count = 1 << self.bits;
        if map.len() != 3 * count {
            return Err(format!("a palette of {} values, expected 3 times {count}", map.len()));
        }
        // All in 8 bits although there is room for 16: an old and common mistake, which libtiff puts right too.
        let shift = if map.iter().all(|&value| value < 256) { 0 } else { 8 };
        Ok(Some((0..count).map(|i| [0, 1, 2].map(|channel| (map[channel * count + i] >> shift) as u8)).collect()))
    }

    fn look_up(&self, samples: &DecodingResult, colours: &[[u8; 3]]) -> Result<Vec<u8>, String> {
        let numbers: Vec<usize> = match samples {
            DecodingResult::U8(bytes) => {
                let bytes = if self.bits < 8 { levels::unpacked(self, bytes) } else { bytes.clone() };
                (0..self.pixels()).map(|i| bytes[self.place(i, 0)].into()).collect()
            }
            DecodingResult::U16(words) => (0..self.pixels()).map(|i| words[self.place(i, 0)].into()).collect(),
            _ => return Err("numbers of colours that are no whole numbers".into()),
        };
        Ok(numbers.into_iter().flat_map(|number| colours[number]).collect())
    }

    /// Red, green and blue from the levels of the samples, which stand next to each other.
    fn colours(&self, levels: Vec<u8>) -> Vec<u8> {
        match self.colour {
            Colour::Rgb => levels,
            Colour::Cmyk => {
                let rgb = |&[c, m, y, k]: &[u8; 4]| [c, m, y].map(|ink| share(255 - ink, 255 - k));
                levels.as_chunks().0.iter().flat_map(rgb).collect()
            }
            Colour::YCbCr => levels.as_chunks().0.iter().flat_map(|&pixel| rgb_of_ycbcr(pixel)).collect(),
            Colour::Grey { inverted } => {
                levels.into_iter().flat_map(|level| [if inverted { 255 - level } else { level }; 3]).collect()
            }
            Colour::Palette => levels,
        }
    }
}

/// `a·b / 255`, rounded.
fn share(a: u8, b: u8) -> u8 {
    ((u32::from(a) * u32::from(b) + 127) / 255) as u8
}

/// As JFIF defines it: Y and both differences in 0..=255, weights of ITU-R BT.601.
fn rgb_of_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|value| value.round() as u8)
}

/// Values of a tag of whole numbers.
fn numbers(file: &mut File, tag: Tag) -> Result<Option<Vec<u64>>, String> {
    let told = |error: TiffError| format!("{tag:?}: {error}");
    file.find_tag(tag).map_err(told)?.map(Value::into_u64_vec).transpose().map_err(told)
}

/// The one value that a tag has for all samples.
fn number(file: &mut File, tag: Tag, default: usize) -> Result<usize, String> {
    match numbers(file, tag)?.as_deref() {
        None => Ok(default),
        Some(&[first, ref others @ ..]) if others.iter().all(|&other| other == first) => {
            usize::try_from(first).map_err(|_| format!("{tag:?} is {first}"))
        }
        Some(values) => Err(format!("{tag:?} is {values:?}: the same value is expected for all samples")),
    }
}

/// What the file says that its samples mean. The tag in `bytes` then says "grey", for which the decoder hands over all samples
/// as they are; of other meanings it knows some, and not for all types of samples.
fn take_photometric(bytes: &mut [u8]) -> Checked<Colour> {
    let missing = (bytes.len(), "truncated: the directory of the TIFF file ends early".to_owned());
    let big_endian = bytes.starts_with(b"MM");
    let number = |bytes: &[u8], at: usize, len: usize| {
        let field = at.checked_add(len).and_then(|end| bytes.get(at..end))?;
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Some(if big_endian { field.iter().fold(0, add) } else { field.iter().rev().fold(0, add) })
    };
    let place = |bytes: &[u8], at, len| usize::try_from(number(bytes, at, len)?).ok();
    let big = number(bytes, 2, 2) == Some(43);
    // Bytes of an offset, of the number of entries, of an entry.
    let (offset, count, entry) = if big { (8, 8, 20) } else { (4, 2, 12) };
    let directory = place(bytes, offset, offset).ok_or_else(|| missing.clone())?;
    let entries = place(bytes, directory, count).ok_or_else(|| missing.clone())?;
    let mut found = None;
    for index in 0..entries {
        let at = index.checked_mul(entry).and_then(|at| at.checked_add(directory)?.checked_add(count));
        let at = at.ok_or_else(|| missing.clone())?;
        let tag = number(bytes, at, 2).ok_or_else(|| missing.clone())?;
        if tag != u64::from(PHOTOMETRIC) {
            continue;
        }
        // Type and number of the values, then the value itself: one 16-bit word.
        let value_at = at + 4 + offset;
        let value = number(bytes, value_at, 2).ok_or_else(|| missing.clone())?;
        if number(bytes, at + 2, 2) != Some(3) || number(bytes, at + 4, offset) != Some(1) || found.is_some() {
            return Err((at, "not one photometric interpretation, a 16-bit word".into()));
        }
        let grey = if big_endian { BLACK_IS_ZERO.to_be_bytes() } else { BLACK_IS_ZERO.to_le_bytes() };
        bytes[value_at..value_at + 2].copy_from_slice(&grey);
        found = Some((value_at, value));
    }
    match found {
        Some((_, 0)) => Ok(Colour::Grey { inverted: true }),
        Some((_, 1)) => Ok(Colour::Grey { inverted: false }),
        Some((_, 2)) => Ok(Colour::Rgb),
        Some((_, 3)) => Ok(Colour::Palette),
        Some((_, 5)) => Ok(Colour::Cmyk),
        Some((_, 6)) => Ok(Colour::YCbCr),
        Some((at, other)) => Err((at, format!("photometric interpretation {other}, which is not read"))),
        None => Err((directory, "no photometric interpretation: it is not said what the samples mean".into())),
    }
}

#[cfg(test)]
pub(super) mod tests;
