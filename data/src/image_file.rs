//! One image file: JPEG, PNG or TIFF.

use crate::{Image, image::MAX_BYTES, image::MAX_SIDE};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use quarterturn_core::{Error, Result};
use std::{
    fs::File,
    io::{Cursor, Read},
    path::Path,
};

/// What the names of image files end in, in small letters.
pub(crate) const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "tif", "tiff"];
/// The largest file that is read.
const MAX_FILE: u64 = 1 << 28;

/// Reads an image file as RGB, `[3, H, W]`: grey becomes three equal channels, transparency is left out, 16 bits
/// become 8. Which format it has is told by its content, not by its name. A note within the file that it should be
/// turned is not heeded.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Corrupt`] if it is no such image, cut short, or larger than
/// [`MAX_SIDE`] by [`MAX_SIDE`] or [`MAX_BYTES`], with the place that decoding had come to.
pub fn read(path: &Path) -> Result<Image> {
    let io = |e: std::io::Error| Error::io(path, &e);
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    decode(&bytes, path)
}

/// As [`read`], from memory; `path` is only named in errors.
///
/// # Errors
/// As [`read`].
pub fn decode(bytes: &[u8], path: &Path) -> Result<Image> {
    let corrupt = |offset, message: String| Error::Corrupt { path: path.into(), offset, message };
    if bytes.len() as u64 > MAX_FILE {
        return Err(corrupt(MAX_FILE, format!("an image file of more than {MAX_FILE} bytes")));
    }
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Tiff)) => format,
        _ => return Err(corrupt(0, "not a JPEG, PNG or TIFF file".into())),
    };
    if format == ImageFormat::Jpeg {
        // The decoder fills up what is missing with grey.
        find_end(bytes).map_err(|offset| corrupt(offset, "truncated: the JPEG image does not end".into()))?;
    }
    let mut content = Cursor::new(bytes);
    let decoded = decode_within_limits(&mut content, format);
    let place = content.position().min(bytes.len() as u64);
    let pixels = decoded.map_err(|message| corrupt(place, message))?.into_rgb8();
    let (width, height) = pixels.dimensions();
    Image::from_interleaved(pixels.as_raw(), [height as usize, width as usize, 3])
        .map_err(|e| corrupt(place, e.to_string()))
}

/// The limits hold before anything is allocated.
fn decode_within_limits(content: &mut Cursor<&[u8]>, format: ImageFormat) -> std::result::Result<DynamicImage, String> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    // What is decoded may have four channels of 16 bits, or of floats.
    limits.max_alloc = Some(4 * MAX_BYTES as u64);
    let mut reader = ImageReader::with_format(content, format);
    reader.limits(limits.clone());
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    if 3 * u64::from(width) * u64::from(height) > MAX_BYTES as u64 {
        return Err(format!("an image of {height}x{width}: at most {MAX_BYTES} bytes"));
    }
    DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())
}

/// Where the JPEG image ends, or where the file does without one: steps over marked segments, and over entropy-coded
/// data, in which 0xFF is followed by 0 or a restart marker.
fn find_end(bytes: &[u8]) -> std::result::Result<usize, u64> {
    let missing = bytes.len() as u64;
    let mut at = 2;
    loop {
        // To the next marker: two bytes, the first 0xFF (which may be repeated), the second neither that nor 0.
        let marker = loop {
            at += bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)).ok_or(missing)?;
            match *bytes.get(at + 1).ok_or(missing)? {
                0xff => at += 1,
                0 | 1 | 0xd0..=0xd8 => at += 2,
                marker => break marker,
            }
        };
        if marker == 0xd9 {
            return Ok(at + 2);
        }
        let length = bytes.get(at + 2..at + 4).ok_or(missing)?;
        at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    /// A smooth image, which JPEG leaves almost as it is.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(8 * x) as u8, (8 * y) as u8, (4 * (x + y)) as u8]))
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn files() -> [(ImageFormat, Vec<u8>); 3] {
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Tiff]
            .map(|format| (format, encoded(&picture(19, 12).into(), format)))
    }

    fn parse(bytes: &[u8]) -> Result<Image> {
        decode(bytes, Path::new("x.jpg"))
    }

    #[track_caller]
    fn message(result: Result<Image>) -> String {
        match result.unwrap_err() {
            Error::Corrupt { path, message, .. } => {
                assert_eq!(path, Path::new("x.jpg"));
                message
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_format_gives_the_pixels_whatever_the_name() {
        for (format, bytes) in files() {
            let image = parse(&bytes).unwrap();
            assert_eq!(image.extents(), [3, 12, 19]);
            let most = if format == ImageFormat::Jpeg { 6 } else { 0 };
            for (x, y, pixel) in picture(19, 12).enumerate_pixels() {
                for (channel, plane) in image.planes().enumerate() {
                    let got = plane[y as usize * 19 + x as usize];
                    assert!(got.abs_diff(pixel[channel]) <= most, "{format:?} at {x}, {y}");
                }
            }
        }
    }

    #[test]
    fn grey_alpha_and_16_bits_become_three_bytes() {
        let grey = DynamicImage::from(picture(5, 4)).to_luma8();
        let image = parse(&encoded(&grey.clone().into(), ImageFormat::Png)).unwrap();
        assert!(image.planes().all(|plane| plane == grey.as_raw()));
        let wide = DynamicImage::from(picture(5, 4)).to_rgb16();
        let image = parse(&encoded(&wide.into(), ImageFormat::Tiff)).unwrap();
        assert_eq!(image, parse(&encoded(&picture(5, 4).into(), ImageFormat::Png)).unwrap());
        let mut seen_through = DynamicImage::from(picture(5, 4)).to_rgba8();
        seen_through.pixels_mut().for_each(|pixel| pixel[3] = 9);
        assert_eq!(parse(&encoded(&seen_through.into(), ImageFormat::Png)).unwrap(), image);
    }

    #[test]
    fn a_truncated_file_is_an_error_wherever_it_ends() {
        for (format, bytes) in files() {
            for len in 0..bytes.len() {
                match parse(&bytes[..len]) {
                    Err(Error::Corrupt { offset, .. }) => assert!(offset <= len as u64),
                    // A PNG or TIFF image may be complete before the last bytes of its file.
                    Ok(image) if format != ImageFormat::Jpeg => {
                        assert!(bytes.len() - len <= 16, "{format:?} without {} bytes", bytes.len() - len);
                        assert_eq!(image, parse(&bytes).unwrap());
                    }
                    other => panic!("{format:?} cut to {len} of {}: {other:?}", bytes.len()),
                }
            }
        }
    }

    /// Nothing panics, and nothing is allocated that the file does not have.
    #[test]
    fn flipped_bits_are_errors_or_other_pixels() {
        for (_, bytes) in files() {
            for at in 0..bytes.len() {
                for change in [0x01, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= change;
                    if let Ok(image) = parse(&bytes) {
                        assert!(image.pixels().len() < 1 << 24, "byte {at} makes {image:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert_eq!(message(parse(b"")), "not a JPEG, PNG or TIFF file");
        assert_eq!(message(parse(b"GIF89a and so on")), "not a JPEG, PNG or TIFF file");
        assert!(matches!(parse(b"\xff\xd8\xff\xd9"), Err(Error::Corrupt { .. })));
        let missing = read(Path::new("no/such.jpg")).unwrap_err();
        assert!(matches!(&missing, Error::Io { path, .. } if path == Path::new("no/such.jpg")), "{missing:?}");
    }

    /// A file of 60 bytes that says it holds 4 GB.
    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        let mut png = encoded(&picture(5, 4).into(), ImageFormat::Png);
        for (width, height) in [(1u32 << 14, 1u32 << 14), (1 << 31, 1), (1, 1 << 20)] {
            png[16..20].copy_from_slice(&width.to_be_bytes());
            png[20..24].copy_from_slice(&height.to_be_bytes());
            let mut crc = flate2::Crc::new();
            crc.update(&png[12..29]);
            png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
            let message = message(parse(&png));
            assert!(message.contains("at most") || message.to_lowercase().contains("limit"), "{message}");
        }
    }

    #[test]
    fn the_end_of_a_jpeg_is_not_that_of_its_thumbnail() {
        let jpeg = encoded(&picture(19, 12).into(), ImageFormat::Jpeg);
        // An application segment that holds a whole small JPEG.
        let inner = encoded(&picture(3, 3).into(), ImageFormat::Jpeg);
        let mut bytes = jpeg[..2].to_vec();
        bytes.extend([0xff, 0xe1]);
        bytes.extend((inner.len() as u16 + 2).to_be_bytes());
        bytes.extend(&inner);
        bytes.extend(&jpeg[2..]);
        assert_eq!(parse(&bytes).unwrap(), parse(&jpeg).unwrap());
        assert_eq!(find_end(&bytes), Ok(bytes.len()));
        let cut = &bytes[..bytes.len() - 40];
        assert_eq!(message(parse(cut)), "truncated: the JPEG image does not end");
        // What follows the end does not matter.
        assert_eq!(find_end(&[&bytes[..], b"and more"].concat()), Ok(bytes.len()));
    }
}
