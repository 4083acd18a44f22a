//! One image file: JPEG, PNG or TIFF.
//!
//! The file is not trusted. Sizes in the header are compared with the length of the file before anything is decoded.
//! Reading takes at most about 12 bytes of memory for each of [`MAX_PIXELS`] pixels, and at most 2^16 bytes for each
//! byte of the file. If the decoder panics, the result is an [`Error::Corrupt`].

mod jpeg;
mod png;
#[cfg(feature = "tiff")]
mod tiff;

use crate::{Image, guard::guarded, image::MAX_SIDE};
use quarterturn_core::{Error, Result};
use std::{fs::File, io::Read, path::Path};

/// What the names of image files end in, in small letters.
pub(crate) const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "tif", "tiff"];
/// The most pixels that the image of a file may have, height times width.
pub const MAX_PIXELS: usize = 1 << 26;
/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 1 << 28;
/// The most bytes of an image as the decoder hands it over: with transparency, 16 bits a sample and so on.
const MAX_DECODED: usize = 1 << 28;

/// What is wrong, and where: in bytes from the beginning.
type Fault = (usize, String);
type Checked<T> = std::result::Result<T, Fault>;

/// The extents of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    width: usize,
    height: usize,
}

impl Size {
    /// Whether the image is within the limits, if decoding takes so many bytes for each pixel.
    fn check(self, bytes_per_pixel: usize) -> std::result::Result<(), String> {
        let Size { width, height } = self;
        let pixels = width.saturating_mul(height);
        if width == 0 || height == 0 {
            return Err(format!("an image of {height}x{width} has no pixels"));
        }
        if width.max(height) > MAX_SIDE || pixels > MAX_PIXELS || pixels * bytes_per_pixel > MAX_DECODED {
            return Err(format!(
                "an image of {height}x{width}, {bytes_per_pixel} bytes a pixel: at most {MAX_SIDE} pixels a side, \
                 {MAX_PIXELS} pixels and {MAX_DECODED} bytes"
            ));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Jpeg,
    Png,
    Tiff,
}

impl Format {
    /// By the first bytes of a file, of which it needs eight.
    fn of(start: &[u8]) -> Option<Self> {
        let signatures: [(&[u8], Format); 6] = [
            (b"\xff\xd8\xff", Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n", Format::Png),
            (b"II*\0", Format::Tiff),
            (b"MM\0*", Format::Tiff),
            // BigTIFF.
            (b"II+\0", Format::Tiff),
            (b"MM\0+", Format::Tiff),
        ];
        signatures.into_iter().find(|(signature, _)| start.starts_with(signature)).map(|(_, format)| format)
    }
}

/// Reads an image file as RGB, `[3, H, W]`. Grey becomes three equal channels, transparency is dropped, and 16-bit
/// samples are scaled to 8 bits. The format is recognised by the content, not by the name. The EXIF orientation is
/// ignored.
///
/// TIFF files (BigTIFF too) need the feature `tiff`. They may have grey, RGB, CMYK, Y'CbCr or a palette, as unsigned or signed integers or floats.
/// Samples of more than 8 bits are scaled to 8. The range of unsigned integers is from 0 to the tag MaxSampleValue, or
/// without that tag to the largest number of this width. The range of signed integers and floats is from the tag
/// SMinSampleValue to SMaxSampleValue. Without them it is all numbers of this width for integers, and 0 to 1 for
/// floats. If integers use less than a sixteenth of their range (12 bits stored in 16) and no tag says so, reading is
/// an error, because almost nothing would be visible in 8 bits.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, or is a TIFF file and the feature `tiff` is off; [`Error::Corrupt`] if it is no such image, incomplete, damaged, or larger
/// than [`MAX_FILE`], [`MAX_SIDE`] by [`MAX_SIDE`] or [`MAX_PIXELS`], with the position in the file. A JPEG file must
/// be complete: all blocks of each of its scans.
pub fn read(path: &Path) -> Result<Image> {
    let io = |e: std::io::Error| Error::io(path, &e);
    let mut file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    // Whether it is an image at all is seen before the rest is read: it may be a device that never ends.
    file.by_ref().take(8).read_to_end(&mut bytes).map_err(io)?;
    if Format::of(&bytes).is_some() {
        file.take(MAX_FILE as u64 + 1 - bytes.len() as u64).read_to_end(&mut bytes).map_err(io)?;
    }
    decode(&bytes, path)
}

/// As [`read`], from memory; `path` is only named in errors.
///
/// # Errors
/// As [`read`].
pub fn decode(bytes: &[u8], path: &Path) -> Result<Image> {
    let corrupt = |(offset, message): Fault| Error::Corrupt { path: path.into(), offset: offset as u64, message };
    if bytes.len() > MAX_FILE {
        return Err(corrupt((MAX_FILE, format!("an image file of more than {MAX_FILE} bytes"))));
    }
    let Some(format) = Format::of(bytes) else {
        return Err(corrupt((0, "not a JPEG, PNG or TIFF file".into())));
    };
    let decoder = match format {
        Format::Jpeg => jpeg::decode,
        Format::Png => png::decode,
        #[cfg(feature = "tiff")]
        Format::Tiff => tiff::decode,
        #[cfg(not(feature = "tiff"))]
        Format::Tiff => {
            let message = "a TIFF file, and this program was built without the feature `tiff` that reads them";
            return Err(Error::Io { path: path.into(), message: message.into() });
        }
    };
    image_of(guarded(|| decoder(bytes)), path)
}

/// What decoding gave, if it came to an end at all.
fn image_of(decoded: std::result::Result<Checked<(Size, Vec<u8>)>, String>, path: &Path) -> Result<Image> {
    let corrupt = |(offset, message): Fault| Error::Corrupt { path: path.into(), offset: offset as u64, message };
    let (size, pixels) = decoded.unwrap_or_else(|message| Err((0, message))).map_err(corrupt)?;
    Image::from_interleaved(&pixels, [size.height, size.width, 3])
}

/// Pixels as red, green, blue; of each pixel there are so many `samples`, of which one or two are a level of grey, and the second
/// or fourth is its transparency.
fn as_rgb(pixels: Vec<u8>, samples: usize) -> Vec<u8> {
    match samples {
        3 => pixels,
        1 | 2 => pixels.chunks_exact(samples).flat_map(|pixel| [pixel[0]; 3]).collect(),
        _ => pixels.chunks_exact(samples).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
    }
}

#[cfg(test)]
mod tests;
