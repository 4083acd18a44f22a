use super::super::tests::{assert_near_formula, fixture, formula, message, parse};
use crate::Image;

const SHORT: u16 = 3;
const LONG: u16 = 4;
const FLOAT: u16 = 11;

/// A tag: its number, type, and values.
type Entry = (u16, u16, Vec<u64>);

/// A file of one strip.
struct File {
    entries: Vec<Entry>,
    data: Vec<u8>,
    big_endian: bool,
    /// Whether it is BigTIFF.
    big: bool,
}

impl File {
    /// An image whose samples are `bits` long, of type `format`.
    fn new(size: [usize; 2], photometric: u16, samples: u64, bits: u64, format: u64, data: Vec<u8>) -> Self {
        let [width, height] = size.map(|side| side as u64);
        let entries = vec![
            (256, LONG, vec![width]),
            (257, LONG, vec![height]),
            (258, SHORT, vec![bits; samples as usize]),
            (259, SHORT, vec![1]),
            (262, SHORT, vec![photometric.into()]),
            (273, LONG, vec![]),
            (277, SHORT, vec![samples]),
            (278, LONG, vec![height]),
            (279, LONG, vec![data.len() as u64]),
            (339, SHORT, vec![format; samples as usize]),
        ];
        File { entries, data, big_endian: false, big: false }
    }

    fn with(mut self, tag: u16, kind: u16, values: &[u64]) -> Self {
        self.entries.retain(|entry| entry.0 != tag);
        self.entries.push((tag, kind, values.to_vec()));
        self.entries.sort();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let number = |value: u64, len: usize| {
            let bytes = value.to_le_bytes()[..len].to_vec();
            if self.big_endian { bytes.into_iter().rev().collect() } else { bytes }
        };
        let (offset, count, entry) = if self.big { (8, 8, 20) } else { (4, 2, 12) };
        let mut bytes = if self.big_endian { b"MM".to_vec() } else { b"II".to_vec() };
        let header = if self.big { 16 } else { 8 };
        bytes.extend(number(if self.big { 43 } else { 42 }, 2));
        if self.big {
            bytes.extend([number(8, 2), number(0, 2)].concat());
        }
        let directory = header + self.data.len().next_multiple_of(8);
        bytes.extend(number(directory as u64, offset));
        bytes.extend(&self.data);
        bytes.resize(directory, 0);
        bytes.extend(number(self.entries.len() as u64, count));
        let mut behind = Vec::new();
        let behind_at = directory + count + self.entries.len() * entry + offset;
        for (tag, kind, values) in &self.entries {
            let values = if *tag == 273 && values.is_empty() { vec![header as u64] } else { values.clone() };
            let len = if *kind == SHORT { 2 } else { 4 };
            let content: Vec<u8> = values.iter().flat_map(|&value| number(value, len)).collect();
            bytes.extend(
                [number((*tag).into(), 2), number((*kind).into(), 2), number(values.len() as u64, offset)].concat(),
            );
            if content.len() <= offset {
                bytes.extend(&content);
                bytes.resize(bytes.len() + offset - content.len(), 0);
            } else {
                bytes.extend(number((behind_at + behind.len()) as u64, offset));
                behind.extend(content);
            }
        }
        bytes.extend(number(0, offset));
        bytes.extend(behind);
        bytes
    }

    fn levels(&self) -> Vec<u8> {
        let image = parse(&self.bytes()).unwrap();
        assert!(image.planes().all(|plane| plane == image.planes().next().unwrap()), "not grey");
        image.planes().next().unwrap().to_vec()
    }

    #[track_caller]
    fn refused(&self, wanted: &str) {
        let message = message(parse(&self.bytes()));
        assert!(message.contains(wanted), "{message} does not say {wanted}");
    }
}

/// A plain file of red, green, blue. The pixels are its end.
pub(in super::super) fn rgb(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
    let file = File::new([width, height], 2, 3, 8, 1, pixels.to_vec());
    // Pixels behind the directory, so that a file that is cut short lacks some.
    let mut bytes = File { data: Vec::new(), ..file }.bytes();
    let at = bytes.len() as u64;
    let file = File::new([width, height], 2, 3, 8, 1, Vec::new());
    bytes = file.with(273, LONG, &[at]).with(279, LONG, &[pixels.len() as u64]).bytes();
    bytes.extend(pixels);
    bytes
}

/// A grey image of one line.
fn grey<const N: usize>(bits: u64, format: u64, samples: &[[u8; N]]) -> File {
    File::new([samples.len(), 1], 1, 1, bits, format, samples.concat())
}

#[test]
fn both_byte_orders_and_bigtiff() {
    let words = [0u16, 257, 514, 32896, 65535];
    for big in [false, true] {
        for big_endian in [false, true] {
            let samples = words.map(|word| if big_endian { word.to_be_bytes() } else { word.to_le_bytes() });
            let file = File { big, big_endian, ..grey(16, 1, &samples) };
            assert_eq!(file.levels(), [0, 1, 2, 128, 255], "BigTIFF {big}, big-endian {big_endian}");
        }
    }
    assert_near_formula(&parse(&fixture("big.tif")).unwrap(), 0);
}

#[test]
fn files_of_other_libraries() {
    for name in ["lzw-predictor.tif", "deflate-16.tif", "planes.tif"] {
        let image = parse(&fixture(name)).unwrap();
        assert_eq!(image.extents(), [3, 9, 13], "{name}");
        assert_near_formula(&image, 0);
    }
    let tiled = parse(&fixture("tiles-jpeg.tif")).unwrap();
    assert_eq!(tiled.extents(), [3, 27, 26]);
    let near = |image: &Image, place: [usize; 3], most: u8| {
        let [channel, row, column] = place;
        let got = image.planes().nth(channel).unwrap()[row * 26 + column];
        assert!(got.abs_diff(formula([channel, row % 9, column % 13])) <= most, "{got} at {place:?}");
    };
    (0..3).for_each(|channel| {
        [(3, 3), (13, 5), (22, 22), (4, 20)].iter().for_each(|&(r, c)| near(&tiled, [channel, r, c], 12))
    });
    let float = parse(&fixture("float.tif")).unwrap();
    let bilevel = parse(&fixture("bilevel.tif")).unwrap();
    let palette = parse(&fixture("palette.tif")).unwrap();
    for (at, ((&grey, &black), rgb)) in float.pixels().iter().zip(bilevel.pixels()).zip(0..13 * 9).enumerate() {
        let (row, column) = (at / 13, at % 13);
        assert_eq!(grey, ((5 * column + 7 * row) as f64 * 255.0 / 116.0).round() as u8);
        assert_eq!(black, if 5 * column > 30 { 0 } else { 255 });
        let colour: Vec<u8> = palette.planes().map(|plane| plane[rgb]).collect();
        assert_eq!(colour, [column as u8, 255 - column as u8, 7]);
    }
}

#[test]
fn every_type_of_sample_is_scaled_to_its_range() {
    assert_eq!(grey(8, 1, &[[0], [7], [255]]).levels(), [0, 7, 255]);
    assert_eq!(grey(8, 2, &[-128i8, -127, 0, 127].map(i8::to_le_bytes)).levels(), [0, 1, 128, 255]);
    assert_eq!(grey(16, 2, &[i16::MIN, 0, i16::MAX].map(i16::to_le_bytes)).levels(), [0, 128, 255]);
    assert_eq!(grey(32, 1, &[0, u32::MAX / 2, u32::MAX].map(u32::to_le_bytes)).levels(), [0, 127, 255]);
    assert_eq!(grey(32, 2, &[i32::MIN, 0, i32::MAX].map(i32::to_le_bytes)).levels(), [0, 128, 255]);
    assert_eq!(grey(64, 1, &[0, u64::MAX].map(u64::to_le_bytes)).levels(), [0, 255]);
    assert_eq!(grey(32, 3, &[0f32, 0.25, 1.0].map(f32::to_le_bytes)).levels(), [0, 64, 255]);
    assert_eq!(grey(64, 3, &[0f64, 0.25, 1.0].map(f64::to_le_bytes)).levels(), [0, 64, 255]);
    // Half floats 0, 1/2, 1.
    assert_eq!(grey(16, 3, &[0u16, 0x3800, 0x3c00].map(u16::to_le_bytes)).levels(), [0, 128, 255]);
    for (bits, packed, levels) in [
        (1, vec![0b1011_0000], vec![255, 0, 255, 255, 0]),
        (2, vec![0b0001_1011, 0b0100_0000], vec![0, 85, 170, 255, 85]),
        (4, vec![0x0f, 0x71, 0x80], vec![0, 255, 119, 17, 136]),
    ] {
        assert_eq!(File::new([5, 1], 1, 1, bits, 1, packed.clone()).levels(), levels, "{bits} bits");
        let inverted: Vec<u8> = levels.iter().map(|level| 255 - level).collect();
        assert_eq!(File::new([5, 1], 0, 1, bits, 1, packed).levels(), inverted, "{bits} bits, white is 0");
    }
    assert_eq!(File::new([2, 1], 0, 1, 16, 2, vec![0, 0x80, 0xff, 0x7f]).levels(), [255, 0]);
}

/// 12 bits in 16 became 16 levels.
#[test]
fn the_largest_value_that_a_file_names_becomes_white() {
    let samples = [0u16, 2048, 4095].map(u16::to_le_bytes);
    assert_eq!(grey(16, 1, &samples).with(281, SHORT, &[4095]).levels(), [0, 128, 255]);
    grey(16, 1, &samples).refused("use less than a sixteenth of 0 to 65535");
    grey(16, 1, &samples).refused("set MaxSampleValue");
    // It may be what the file means.
    assert_eq!(grey(16, 1, &samples).with(281, SHORT, &[65535]).levels(), [0, 8, 16]);
    grey(16, 1, &samples).with(281, SHORT, &[4000]).refused("from 0 to 4095, but 0 to 4000 the file's tags say");
    // Black is black.
    assert_eq!(grey(16, 1, &[[0, 0], [0, 0]]).levels(), [0, 0]);
    // Of 8 bits no tag takes any away.
    assert_eq!(grey(8, 1, &[[0], [15]]).with(281, SHORT, &[15]).levels(), [0, 15]);
    let wide = [0u32, 500, 1000].map(u32::to_le_bytes);
    assert_eq!(grey(32, 1, &wide).with(281, LONG, &[1000]).levels(), [0, 128, 255]);
    grey(32, 1, &wide).refused("set MaxSampleValue");
    let signed = [-100i16, 0, 100].map(i16::to_le_bytes);
    grey(16, 2, &signed).refused("set SMinSampleValue and SMaxSampleValue");
    let bits = |value: f32| u64::from(value.to_bits());
    let tagged = |file: File, low, high| file.with(340, FLOAT, &[bits(low)]).with(341, FLOAT, &[bits(high)]);
    assert_eq!(tagged(grey(16, 2, &signed), -100.0, 100.0).levels(), [0, 128, 255]);
    let floats = [-3f32, 0.0, 37.0].map(f32::to_le_bytes);
    assert_eq!(tagged(grey(32, 3, &floats), -3.0, 37.0).levels(), [0, 19, 255]);
    grey(32, 3, &floats).refused("samples from -3 to 37, but 0 to 1 is expected");
    grey(32, 3, &[f32::NAN.to_le_bytes()]).refused("not a number");
    tagged(grey(32, 3, &floats), 5.0, 5.0).refused("samples from 5 to 5");
    // All samples of an RGB image, but not its transparency, which is full.
    let pixel = [100u16, 200, 300, 65535].map(u16::to_le_bytes).concat();
    File::new([1, 1], 2, 4, 16, 1, pixel).with(338, SHORT, &[2]).refused("samples from 100 to 300");
}

#[test]
fn samples_beyond_the_colour_are_left_out() {
    let rgbx: Vec<u8> = (0..4).flat_map(|i| [10 * i, 10 * i + 1, 10 * i + 2, 99]).collect();
    for extra in [0, 1, 2] {
        let image = parse(&File::new([2, 2], 2, 4, 8, 1, rgbx.clone()).with(338, SHORT, &[extra]).bytes()).unwrap();
        assert_eq!(image.pixels(), [0, 10, 20, 30, 1, 11, 21, 31, 2, 12, 22, 32]);
        // Stored as differences to the pixel before, all four samples of it.
        let mut differences = rgbx.clone();
        for line in differences.chunks_mut(8) {
            (4..8).rev().for_each(|i| line[i] = line[i].wrapping_sub(line[i - 4]));
        }
        let file = File::new([2, 2], 2, 4, 8, 1, differences).with(338, SHORT, &[extra]).with(317, SHORT, &[2]);
        assert_eq!(parse(&file.bytes()).unwrap(), image);
    }
    let with_alpha = File::new([2, 1], 1, 2, 8, 1, vec![5, 200, 6, 0]).with(338, SHORT, &[2]);
    assert_eq!(with_alpha.levels(), [5, 6]);
    // One plane after the other.
    let planes = File::new([2, 1], 2, 3, 8, 1, vec![1, 2, 3, 4, 5, 6]).with(284, SHORT, &[2]);
    let planes = planes.with(273, LONG, &[8, 10, 12]).with(279, LONG, &[2, 2, 2]);
    assert_eq!(parse(&planes.bytes()).unwrap().pixels(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn other_colours_become_red_green_blue() {
    let cmyk = File::new([3, 1], 5, 4, 8, 1, vec![0, 0, 0, 0, 255, 0, 100, 0, 0, 0, 0, 128]);
    assert_eq!(parse(&cmyk.bytes()).unwrap().pixels(), [255, 0, 127, 255, 255, 127, 255, 155, 127]);
    let ycbcr = File::new([3, 1], 6, 3, 8, 1, vec![76, 85, 255, 150, 44, 21, 90, 128, 128]);
    ycbcr.refused("colour differences at half resolution");
    let full = File::new([3, 1], 6, 3, 8, 1, ycbcr.data.clone()).with(530, SHORT, &[1, 1]);
    assert_eq!(parse(&full.bytes()).unwrap().pixels(), [254, 0, 90, 0, 255, 90, 0, 1, 90]);
    let map: Vec<u64> = (0..4).map(|i| 60 * i * 257).chain([257 * 9; 4]).chain((0..4).map(|i| 257 * i)).collect();
    for (bits, data) in [(2, vec![0b1101_1000]), (4, vec![0x31, 0x20])] {
        let map: Vec<u64> = if bits == 2 {
            map.clone()
        } else {
            map.chunks(4).flat_map(|channel| channel.iter().copied().chain([0; 12])).collect()
        };
        let file = File::new([3, 1], 3, 1, bits, 1, data).with(320, SHORT, &map);
        assert_eq!(parse(&file.bytes()).unwrap().pixels(), [180, 60, 120, 9, 9, 9, 3, 1, 2]);
    }
    // Colours of 8 bits where 16 are meant.
    let narrow: Vec<u64> = map.iter().map(|value| value / 257).collect();
    let file = File::new([3, 1], 3, 1, 2, 1, vec![0b1101_1000]).with(320, SHORT, &narrow);
    assert_eq!(parse(&file.bytes()).unwrap().pixels(), [180, 60, 120, 9, 9, 9, 3, 1, 2]);
    File::new([3, 1], 3, 1, 2, 1, vec![0]).refused("a palette of 0 values, expected 3 times 4");
    File::new([3, 1], 8, 3, 8, 1, vec![0; 9]).refused("photometric interpretation 8, which is not read");
    File::new([3, 1], 2, 1, 8, 1, vec![0; 3]).refused("1 samples a pixel, Rgb has 3");
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    let data = vec![0; 30];
    for (size, samples, bits) in
        [([1 << 14, 1 << 14], 3, 8), ([8000, 8000], 1, 64), ([1 << 20, 1], 3, 8), ([8000, 8000], 16, 8)]
    {
        File::new(size, 1, samples, bits, 1, data.clone()).refused("at most");
    }
    File::new([8000, 8000], 2, 3, 8, 1, data.clone()).refused("cannot hold an image of 8000x8000");
    File::new([9, 9], 1, 17, 8, 1, data.clone()).refused("17 samples a pixel");
    File::new([9, 9], 1, 1, 12, 1, data.clone()).refused("12 bits a sample");
    let mut tiled = File::new([9, 9], 1, 1, 8, 1, data.clone());
    tiled.entries.retain(|entry| ![273, 278, 279].contains(&entry.0));
    let tiled = tiled.with(322, LONG, &[u32::MAX.into()]).with(323, LONG, &[u32::MAX.into()]);
    tiled.with(324, LONG, &[8]).with(325, LONG, &[30]).refused("tiles: an image of 1x4294967295");
    // 9 lines of 9 pixels, and 30 bytes.
    File::new([9, 9], 1, 1, 8, 1, data.clone()).refused("truncated: 30 bytes for 9 lines of 9");
    File::new([9, 1], 1, 1, 1, 1, data).with(266, SHORT, &[2]).refused("reversed order");
}

/// JPEG data within a TIFF file end early as those of a JPEG file do.
#[test]
fn strips_of_jpeg_data_are_complete() {
    let bytes = fixture("tiles-jpeg.tif");
    let tile = bytes.windows(3).position(|w| w == [0xff, 0xd8, 0xff]).unwrap();
    let scan = tile + bytes[tile..].windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    for at in [scan + 16, scan + 24, scan + 60] {
        let mut cut = bytes.clone();
        cut[at..at + 2].copy_from_slice(&[0xff, 0xd9]);
        let message = message(parse(&cut));
        assert!(message.contains("of the image: ") && message.contains("the scan ends"), "{message}");
    }
}

#[test]
fn what_the_samples_mean_must_be_said_once() {
    let mut nothing = grey(8, 1, &[[1]]);
    nothing.entries.retain(|entry| entry.0 != 262);
    nothing.refused("no photometric interpretation");
    let mut twice = grey(8, 1, &[[1]]);
    twice.entries.insert(5, (262, SHORT, vec![2]));
    twice.refused("not one photometric interpretation");
    grey(8, 1, &[[1]]).with(262, LONG, &[1]).refused("not one photometric interpretation");
    grey(8, 1, &[[1]]).with(266, SHORT, &[1, 2]).refused("the same value is expected for all samples");
    let bytes = grey(8, 1, &[[1]]).bytes();
    for len in 8..bytes.len() {
        assert!(parse(&bytes[..len]).is_err() || len + 4 >= bytes.len(), "{len}");
    }
}
