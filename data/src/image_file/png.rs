//! PNG files. What their chunks say is checked before anything is decoded.

use super::{Checked, MAX_DECODED, Size, as_rgb};
use ::png::{BitDepth, Decoder, Limits, Transformations};
use std::io::Cursor;

const SIGNATURE: usize = 8;
/// No byte of a deflate stream holds more: a match of 258 bytes takes two bits at least.
const MAX_INFLATION: u64 = 1032;

/// The size of the image, and its pixels as red, green, blue.
pub(super) fn decode(bytes: &[u8]) -> Checked<(Size, Vec<u8>)> {
    let size = check(bytes)?;
    let mut content = Cursor::new(bytes);
    let decoded = unpack(&mut content);
    let place = usize::try_from(content.position()).unwrap_or(usize::MAX).min(bytes.len());
    decoded.map(|pixels| (size, pixels)).map_err(|message| (place, message))
}

fn unpack(content: &mut Cursor<&[u8]>) -> Result<Vec<u8>, String> {
    let mut decoder = Decoder::new_with_limits(content, Limits { bytes: MAX_DECODED });
    // A palette becomes colours, and samples of less than 8 bits become bytes.
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let len = reader.output_buffer_size().filter(|&len| len <= MAX_DECODED).ok_or("too many pixels")?;
    let mut pixels = vec![0; len];
    let frame = reader.next_frame(&mut pixels).map_err(|e| e.to_string())?;
    if frame.bit_depth == BitDepth::Sixteen {
        // The nearest of 256 levels: 65535 is 255.
        let level = |high: u8, low: u8| ((u32::from(u16::from_be_bytes([high, low])) + 128) / 257) as u8;
        pixels = pixels.as_chunks().0.iter().map(|&[high, low]| level(high, low)).collect();
    }
    Ok(as_rgb(pixels, frame.color_type.samples()))
}

/// The size of the image, if chunks follow each other, are as long as their kind demands, and those that hold the pixels can
/// hold so many. Checksums and pixels are left to the decoder.
fn check(bytes: &[u8]) -> Checked<Size> {
    let mut at = SIGNATURE;
    let (mut size, mut raw, mut stored) = (None, 0, 0u64);
    loop {
        let fault = |message: String| Err((at, message));
        let Some((kind, content)) = chunk(&bytes[at.min(bytes.len())..]) else {
            // The last chunks may be missing: what matters of them is the pixels.
            break;
        };
        let length = content.len();
        match kind {
            b"IHDR" if at == SIGNATURE => {
                let announced = header(content).map_err(|message| (at, message))?;
                (size, raw) = (Some(announced.0), announced.1);
            }
            _ if size.is_none() => return fault("the first chunk is no header".into()),
            b"IHDR" => return fault("a second header".into()),
            b"PLTE" if !length.is_multiple_of(3) || !(3..=768).contains(&length) => {
                return fault(format!("a palette of {length} bytes: 3 for each of 1 to 256 colours are expected"));
            }
            b"IDAT" => stored += length as u64,
            b"IEND" => break,
            _ => {}
        }
        at += 12 + length;
    }
    let Some(size) = size else { return Err((at.min(bytes.len()), "truncated: no header".into())) };
    if raw > MAX_INFLATION * stored {
        return Err((
            at.min(bytes.len()),
            format!("truncated: {stored} bytes cannot hold {}x{}", size.height, size.width),
        ));
    }
    Ok(size)
}

/// Kind and content of a chunk that is all there.
fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let length = u32::from_be_bytes(*length) as usize;
    rest.get(..length.checked_add(4)?).map(|content| (kind, &content[..length]))
}

/// Size of the image, and how many bytes its pixels are at least.
fn header(content: &[u8]) -> Result<(Size, u64), String> {
    let &[w3, w2, w1, w0, h3, h2, h1, h0, depth, colour, _, _, _] = content else {
        return Err(format!("a header of {} bytes, expected 13", content.len()));
    };
    let (width, height) = (u32::from_be_bytes([w3, w2, w1, w0]), u32::from_be_bytes([h3, h2, h1, h0]));
    let samples = match colour {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return Err(format!("pixels of kind {colour}")),
    };
    let size = Size { width: width as usize, height: height as usize };
    // A palette's colours may become four bytes.
    let channels = if colour == 3 { 4 } else { samples };
    size.check(if depth == 16 { 2 * channels } else { channels })?;
    Ok((size, (size.width * size.height * samples * usize::from(depth)) as u64 / 8))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{encoded, message, parse, picture};
    use ::image::{DynamicImage, ImageFormat};

    fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(content);
        let length = content.len() as u32;
        [&length.to_be_bytes()[..], kind, content, &crc.sum().to_be_bytes()].concat()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
    }

    fn header(width: u32, height: u32, depth: u8, colour: u8) -> Vec<u8> {
        chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat())
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        chunk(b"IDAT", &encoder.finish().unwrap())
    }

    /// One pixel, colour 0 of a palette.
    fn of_palette(palette: &[u8]) -> Vec<u8> {
        file(&[header(1, 1, 8, 3), chunk(b"PLTE", palette), pixels(&[0, 0]), chunk(b"IEND", &[])])
    }

    /// 4 and 5 bytes made the decoder panic.
    #[test]
    fn a_palette_is_three_bytes_a_colour() {
        assert_eq!(parse(&of_palette(&[1, 2, 3])).unwrap().pixels(), [1, 2, 3]);
        assert_eq!(parse(&of_palette(&[9; 768])).unwrap().pixels(), [9; 3]);
        for length in [0, 1, 2, 4, 5, 7, 766, 767, 769, 771, 1024] {
            let message = message(parse(&of_palette(&vec![7; length])));
            assert!(message.contains(&format!("a palette of {length} bytes")), "{message}");
        }
    }

    /// A file of 60 bytes that says it holds 4 GB.
    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        for (width, height) in [(1u32 << 14, 1u32 << 14), (1 << 31, 1), (1, 1 << 20), (0, 5)] {
            let message = message(parse(&file(&[header(width, height, 8, 2), pixels(&[0; 9])])));
            assert!(message.contains("at most") || message.contains("no pixels"), "{message}");
        }
        // Within the limits, but more than the bytes can hold.
        for (width, height) in [(8000, 8000), (4, 8000), (200, 200)] {
            let message = message(parse(&file(&[header(width, height, 8, 2), pixels(&[0; 9]), chunk(b"IEND", &[])])));
            assert!(message.contains(&format!("cannot hold {height}x{width}")), "{message}");
        }
    }

    /// What compresses best is not refused.
    #[test]
    fn a_plain_colour_is_small() {
        let black = DynamicImage::new_rgb8(2000, 1000);
        let bytes = file(&[header(2000, 1000, 8, 2), pixels(&vec![0; 6001 * 1000]), chunk(b"IEND", &[])]);
        assert!(bytes.len() < 6000);
        assert_eq!(parse(&bytes).unwrap(), parse(&encoded(&black, ImageFormat::Png)).unwrap());
    }

    #[test]
    fn chunks_out_of_place_are_named() {
        let whole = encoded(&picture(5, 4).into(), ImageFormat::Png);
        let (start, rest) = whole.split_at(8);
        let twice = [start, &header(5, 4, 8, 2), rest].concat();
        assert_eq!(message(parse(&twice)), "a second header");
        let late = [start, &chunk(b"tEXt", b"a\0b"), rest].concat();
        assert_eq!(message(parse(&late)), "the first chunk is no header");
        let short = file(&[chunk(b"IHDR", &[0; 12]), pixels(&[0])]);
        assert_eq!(message(parse(&short)), "a header of 12 bytes, expected 13");
    }
}
