use super::*;
use ::image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use std::{fs, io::Cursor, path::PathBuf};

/// A smooth image, which JPEG leaves almost as it is.
pub(super) fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(8 * x) as u8, (8 * y) as u8, (4 * (x + y)) as u8]))
}

pub(super) fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn files() -> Vec<(Format, Vec<u8>)> {
    let image = DynamicImage::from(picture(19, 12));
    vec![
        (Format::Jpeg, encoded(&image, ImageFormat::Jpeg)),
        (Format::Png, encoded(&image, ImageFormat::Png)),
        #[cfg(feature = "tiff")]
        (Format::Tiff, tiff::tests::rgb(19, 12, image.as_bytes())),
    ]
}

pub(super) fn parse(bytes: &[u8]) -> Result<Image> {
    decode(bytes, Path::new("x.jpg"))
}

/// A file written by another library; see `make_images.py` beside them.
pub(super) fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name);
    fs::read(&path).unwrap()
}

/// Pixel `[channel, row, column]` of the fixtures.
pub(super) fn formula([channel, row, column]: [usize; 3]) -> u8 {
    [5 * column, 7 * row, 3 * (row + column) + 20][channel].min(255) as u8
}

/// Compares with [`formula`], which image files may miss by `most`.
#[track_caller]
pub(super) fn assert_near_formula(image: &Image, most: u8) {
    let [_, height, width] = image.extents();
    for (channel, plane) in image.planes().enumerate() {
        for (at, &pixel) in plane.iter().enumerate() {
            let place = [channel, at / width, at % width];
            assert!(pixel.abs_diff(formula(place)) <= most, "{pixel} at {place:?} of {height}x{width}");
        }
    }
}

#[track_caller]
pub(super) fn message(result: Result<Image>) -> String {
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
        let most = if format == Format::Jpeg { 6 } else { 0 };
        for (x, y, pixel) in picture(19, 12).enumerate_pixels() {
            for (channel, plane) in image.planes().enumerate() {
                let got = plane[y as usize * 19 + x as usize];
                assert!(got.abs_diff(pixel[channel]) <= most, "{format:?} at {x}, {y}");
            }
        }
    }
}

/// Grey levels, transparency, palettes and 16 bits, by the conversions of the `image` crate.
#[test]
fn pixels_are_those_of_another_library() {
    let (wide, high) = (23, 9);
    let level = |x: u32, y: u32, c: u32| (x * 2851 + y * 7919 + c * 104_729) as u16;
    let rgba16 = ::image::ImageBuffer::from_fn(wide, high, |x, y| ::image::Rgba([0, 1, 2, 3].map(|c| level(x, y, c))));
    let rich = DynamicImage::ImageRgba16(rgba16);
    let made = [
        rich.clone(),
        rich.to_rgb16().into(),
        rich.to_luma16().into(),
        rich.to_luma_alpha16().into(),
        rich.to_rgba8().into(),
        rich.to_rgb8().into(),
        rich.to_luma_alpha8().into(),
        rich.to_luma8().into(),
    ];
    let mut files: Vec<Vec<u8>> = made.iter().map(|image| encoded(image, ImageFormat::Png)).collect();
    files.extend([5, 7].map(|made_of| encoded(&made[made_of], ImageFormat::Jpeg)));
    files.extend(["grey.jpg", "cmyk.jpg", "progressive.jpg", "restarts.jpg"].map(fixture));
    for bytes in files {
        let expected = ::image::load_from_memory(&bytes).unwrap().into_rgb8();
        let [width, height] = [expected.width(), expected.height()].map(|extent| extent as usize);
        let expected = Image::from_interleaved(expected.as_raw(), [height, width, 3]).unwrap();
        assert!(parse(&bytes).unwrap() == expected, "{height}x{width}");
    }
}

#[test]
fn grey_alpha_and_16_bits_become_three_bytes() {
    let grey = DynamicImage::from(picture(5, 4)).to_luma8();
    let image = parse(&encoded(&grey.clone().into(), ImageFormat::Png)).unwrap();
    assert!(image.planes().all(|plane| plane == grey.as_raw()));
    let wide = DynamicImage::from(picture(5, 4)).to_rgb16();
    let image = parse(&encoded(&wide.into(), ImageFormat::Png)).unwrap();
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
                // A PNG image may be complete before the last bytes of its file.
                Ok(image) if format == Format::Png => {
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

/// A device gives zeros for ever; a file that is no image need not be read to its end.
#[cfg(target_os = "linux")]
#[test]
fn a_file_without_end_is_left_at_its_beginning() {
    let before = std::time::Instant::now();
    let message = read(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(message, "/dev/zero: at byte 0: not a JPEG, PNG or TIFF file");
    assert!(before.elapsed().as_millis() < 100);
}

/// Whatever a decoder does, the process goes on, and the error names the file.
#[test]
fn a_panic_of_a_decoder_is_a_corrupt_file() {
    let panics = || -> Checked<(Size, Vec<u8>)> { panic!("index out of bounds") };
    let message = message(image_of(guarded(panics), Path::new("x.jpg")));
    assert_eq!(message, "the decoder gave up: index out of bounds");
}

#[cfg(not(feature = "tiff"))]
#[test]
fn without_the_feature_a_tiff_file_is_refused_by_its_name() {
    let refused = parse(b"II*\0\x08\0\0\0").unwrap_err().to_string();
    assert!(refused.contains("x.jpg") && refused.contains("feature `tiff`"), "{refused}");
}
