//! JPEG files. Before one is decoded, it is checked that it holds every block that its header announces: the decoder fills up
//! with grey what is missing.
//!
//! The check decodes nothing but the lengths of codes (ITU-T T.81, annexes F and G): each scan must have the bits of all its
//! blocks. So a file of 4 KB that claims 9000×9000 pixels is refused before memory is taken for them.

mod entropy;

use super::{Checked, Size, as_rgb};
use crate::image::MAX_SIDE;
use entropy::{Scan, Segments, Table};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

/// The most scans of a file, as in the decoder. Each may run over all blocks, at next to no bits.
const MAX_SCANS: usize = 100;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DHT: u8 = 0xc4;
const DRI: u8 = 0xdd;
const DNL: u8 = 0xdc;

/// The size of the image, and its pixels as red, green, blue.
pub(super) fn decode(bytes: &[u8]) -> Checked<(Size, Vec<u8>)> {
    let (size, _) = check(bytes)?;
    unpack(bytes, size).map(|pixels| (size, pixels)).map_err(|message| (bytes.len(), message))
}

fn unpack(bytes: &[u8], size: Size) -> Result<Vec<u8>, String> {
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(MAX_SIDE).set_max_height(MAX_SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| e.to_string())?;
    let (colours, samples) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorSpace::Luma, 1),
        _ => (ColorSpace::RGB, 3),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    let pixels = decoder.decode().map_err(|e| e.to_string())?;
    if decoder.dimensions() != Some((size.width, size.height)) || pixels.len() != size.width * size.height * samples {
        return Err(format!("not an image of {}x{}, as announced", size.height, size.width));
    }
    Ok(as_rgb(pixels, samples))
}

/// The size of the image, and how many channels it has, if all of it is there.
pub(super) fn check(bytes: &[u8]) -> Checked<(Size, usize)> {
    File { bytes, at: 0, tables: Default::default(), interval: 0, frame: None }.run()
}

/// One colour channel.
struct Component {
    id: u8,
    /// Blocks across and down in a unit of an interleaved scan.
    sampling: [usize; 2],
    /// Whether a scan has brought its mean values (DC).
    seen: bool,
    /// Of a progressive file, which coefficients of each block are not zero: refining scans have a bit for each.
    nonzero: Vec<u64>,
}

struct Frame {
    progressive: bool,
    size: Size,
    components: Vec<Component>,
}

impl Frame {
    /// The largest sampling factors.
    fn largest(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.components.iter().map(|c| c.sampling[axis]).max().unwrap_or(1))
    }

    /// Blocks across and down of a component by itself.
    fn blocks(&self, component: &Component) -> [usize; 2] {
        let (largest, sides) = (self.largest(), [self.size.width, self.size.height]);
        [0, 1].map(|axis| (sides[axis] * component.sampling[axis]).div_ceil(largest[axis]).div_ceil(8))
    }

    /// Units of an interleaved scan.
    fn units(&self) -> usize {
        let (largest, sides) = (self.largest(), [self.size.width, self.size.height]);
        [0, 1].map(|axis| sides[axis].div_ceil(8 * largest[axis])).iter().product()
    }
}

struct File<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Huffman codes of mean values and of other coefficients.
    tables: [[Option<Table>; 4]; 2],
    /// Units between restart markers, or 0.
    interval: usize,
    frame: Option<Frame>,
}

impl<'a> File<'a> {
    fn run(mut self) -> Checked<(Size, usize)> {
        let mut scans = 0;
        loop {
            let marker = self.marker()?;
            if marker == EOI {
                return self.complete();
            }
            let start = self.at;
            let segment = self.segment()?;
            let fault = |message: &str| Err((start, message.to_owned()));
            match marker {
                DHT => self.huffman(segment).map_err(|message| (start, message))?,
                DRI => match segment {
                    &[high, low] => self.interval = usize::from(u16::from_be_bytes([high, low])),
                    _ => return fault("a restart interval is 2 bytes"),
                },
                0xc0..=0xc2 => {
                    if self.frame.is_some() {
                        return fault("two frames");
                    }
                    self.frame = Some(frame(segment, marker == 0xc2).map_err(|message| (start, message))?);
                }
                0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                    return fault("a lossless, hierarchical or arithmetic JPEG file, which is not read");
                }
                DNL => return fault("the number of lines is not in the header but behind the scan, which is not read"),
                SOS => {
                    scans += 1;
                    if scans > MAX_SCANS {
                        return fault(&format!("more than {MAX_SCANS} scans"));
                    }
                    self.scan(segment)?;
                }
                _ => {}
            }
        }
    }

    /// Goes to the next marker, over whatever lies between: 0xFF (which may be repeated) and a byte that is neither that,
    /// nor 0, nor a restart.
    fn marker(&mut self) -> Checked<u8> {
        let missing = (self.bytes.len(), "truncated: the JPEG image does not end".to_owned());
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            self.at += rest.iter().position(|&b| b == 0xff).ok_or_else(|| missing.clone())?;
            match *self.bytes.get(self.at + 1).ok_or_else(|| missing.clone())? {
                0xff => self.at += 1,
                0 | 1 | 0xd0..=SOI => self.at += 2,
                marker => {
                    self.at += 2;
                    return Ok(marker);
                }
            }
        }
    }

    /// The content of the segment that begins here with its length.
    fn segment(&mut self) -> Checked<&'a [u8]> {
        let missing = || (self.bytes.len(), "truncated: the JPEG image does not end".to_owned());
        let length = self.bytes.get(self.at..self.at + 2).ok_or_else(missing)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length < 2 {
            return Err((self.at, format!("a segment of {length} bytes")));
        }
        let content = self.bytes.get(self.at + 2..self.at + length).ok_or_else(missing)?;
        self.at += length;
        Ok(content)
    }

    fn huffman(&mut self, mut segment: &[u8]) -> std::result::Result<(), String> {
        while let Some((&[class_and_id, ref counts @ ..], rest)) = segment.split_first_chunk::<17>() {
            let (class, id) = (usize::from(class_and_id >> 4), usize::from(class_and_id & 15));
            let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let (Some(table), Some(values)) =
                (self.tables.get_mut(class).and_then(|t| t.get_mut(id)), rest.get(..total))
            else {
                return Err(format!("a Huffman table {id} of class {class} with {total} codes"));
            };
            *table = Some(Table::new(counts, values)?);
            segment = &rest[total..];
        }
        if segment.is_empty() { Ok(()) } else { Err("a Huffman table that ends early".into()) }
    }

    /// One scan: its header, and the data behind it up to the next marker.
    fn scan(&mut self, header: &[u8]) -> Checked<()> {
        let start = self.at;
        let fault = |message: &str| Err((start, message.to_owned()));
        let Some(frame) = &mut self.frame else { return fault("a scan before the frame") };
        let [count, chosen @ .., first, last, bits] = header else { return fault("no header of a scan") };
        let (chosen, []) = chosen.as_chunks::<2>() else { return fault("no header of a scan") };
        if chosen.len() != usize::from(*count) || chosen.is_empty() || chosen.len() > 4 {
            return fault("no header of a scan");
        }
        let mut parts = Vec::new();
        for &[id, tables] in chosen {
            let Some(index) = frame.components.iter().position(|c| c.id == id) else {
                return fault(&format!("a scan of component {id}, which the frame does not have"));
            };
            let sampling = frame.components[index].sampling.iter().product();
            let table = |class: usize, id: u8| self.tables[class].get(usize::from(id)).and_then(Option::as_ref);
            parts.push(entropy::Part { index, sampling, dc: table(0, tables >> 4), ac: table(1, tables & 15) });
        }
        let units = match parts[..] {
            [ref alone] => frame.blocks(&frame.components[alone.index]).iter().product(),
            _ => frame.units(),
        };
        let scan = if frame.progressive {
            Scan::progressive([*first, *last], [bits >> 4, bits & 15], parts.len())
        } else {
            Ok(Scan::Sequential)
        };
        let scan = scan.map_err(|message| (start, message))?;
        let alone = parts.len() == 1;
        for part in &mut parts {
            let component = &mut frame.components[part.index];
            component.seen |= scan.brings_means();
            if alone {
                part.sampling = 1;
            }
            if scan.needs_map() && component.nonzero.is_empty() {
                component.nonzero = vec![0; units];
            }
        }
        let maps = match parts[..] {
            [ref alone] => &mut frame.components[alone.index].nonzero[..],
            _ => &mut [],
        };
        let mut segments = Segments::new(self.bytes, start);
        let walked = entropy::walk(&mut segments, scan, &parts, units, self.interval, maps);
        self.at = segments.end();
        walked.map_err(|message| (self.at, message))
    }

    fn complete(&self) -> Checked<(Size, usize)> {
        let fault = |message: String| Err((self.at, message));
        match &self.frame {
            None => fault("no image in the JPEG file".into()),
            Some(frame) => match frame.components.iter().find(|component| !component.seen) {
                Some(component) => fault(format!("truncated: no scan of component {}", component.id)),
                None => Ok((frame.size, frame.components.len())),
            },
        }
    }
}

fn frame(segment: &[u8], progressive: bool) -> std::result::Result<Frame, String> {
    let Some((&[precision, h1, h0, w1, w0, count], components)) = segment.split_first_chunk() else {
        return Err("a frame that ends early".into());
    };
    let (height, width) = (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
    if precision != 8 {
        return Err(format!("{precision} bits a sample, 8 are read"));
    }
    if height == 0 || width == 0 {
        return Err(format!("an image of {height}x{width}"));
    }
    let components = match components.as_chunks::<3>() {
        (components, []) if components.len() == usize::from(count) && (1..=4).contains(&count) => components,
        _ => return Err(format!("a frame of {count} components in {} bytes", components.len())),
    };
    let component = |&[id, sampling, _]: &[u8; 3]| {
        let sampling = [usize::from(sampling >> 4), usize::from(sampling & 15)];
        if sampling.iter().any(|factor| !(1..=4).contains(factor)) {
            return Err(format!("sampling factors {sampling:?}"));
        }
        Ok(Component { id, sampling, seen: false, nonzero: Vec::new() })
    };
    let size = Size { width, height };
    size.check(components.len())?;
    let components = components.iter().map(component).collect::<std::result::Result<_, _>>()?;
    Ok(Frame { progressive, size, components })
}

#[cfg(test)]
mod tests;
