//! Transforms and augmentation of 8-bit images.
//!
//! Names and parameters are those of torchvision, and so are results unless the documentation says otherwise. Each
//! transform takes and returns bytes, rounded. Random draws depend on the loader's seed, the epoch and the image's
//! index in the data set alone.

mod colour;
mod own;
mod resize;
mod rotate;

use crate::{Dice, Image, image::MAX_SIDE};
use quarterturn_core::{Error, Result};
use rotate::Sampling;
use std::sync::Arc;

pub use own::{Augment, OwnTransform};

/// A transform of an image, fixed or random.
#[derive(Clone, Debug, PartialEq)]
pub enum Transform {
    /// Converts to this number of channels: each gets the grey image. Grey is 0.299 R + 0.587 G + 0.114 B, rounded. An
    /// image that has this number of channels already stays as it is.
    Channels {
        /// How many.
        channels: usize,
    },
    /// Resizes to this height and width, with an anti-aliased bilinear filter (that of Pillow 13, to the bit).
    Resize {
        /// Height and width.
        size: [usize; 2],
    },
    /// Resizes the shorter side to this length and the longer one in proportion, rounded down; filtered as
    /// [`Transform::Resize`].
    ResizeShorter {
        /// The shorter side.
        size: usize,
    },
    /// Crops the centre. A smaller image is padded with black.
    CenterCrop {
        /// Height and width.
        size: [usize; 2],
    },
    /// Crops a random part of this size, after adding a black margin.
    RandomCrop {
        /// Height and width.
        size: [usize; 2],
        /// Width of the margin on all four sides.
        padding: usize,
    },
    /// Crops a part of random size and shape, and resizes it as [`Transform::Resize`]. Ten random parts are tried. If
    /// none fits into the image, the largest centre part within the ratios is taken.
    RandomResizedCrop {
        /// Height and width of the result.
        size: [usize; 2],
        /// The part's fraction of the area, uniform between these.
        scale: [f32; 2],
        /// Width by height, its logarithm uniform between those of these.
        ratio: [f32; 2],
    },
    /// Mirrors left and right with this probability.
    HorizontalFlip {
        /// From 0 to 1.
        probability: f32,
    },
    /// Mirrors top and bottom with this probability.
    VerticalFlip {
        /// From 0 to 1.
        probability: f32,
    },
    /// Turns by 0, 90, 180 or 270 degrees, with equal probability. Pixels only move. Turns by 90 and 270 degrees
    /// exchange height and width.
    QuarterTurn,
    /// Rotates counter-clockwise about the centre, with bilinear interpolation (torchvision's default is
    /// nearest-neighbour). Pixels from outside are black. For a square image, multiples of 90° only move pixels, as in
    /// `quarterturn_kernels::rotate`.
    Rotate {
        /// How far, in degrees.
        angle: Angle,
    },
    /// Replaces pixels whose centre is further than `radius` pixels from the centre of the image: CircleCrop of Edixhoven et
    /// al. 2023 (Fig. 2), who take 47.5 for PatchCamelyon.
    CircleCrop {
        /// In pixels.
        radius: f32,
        /// What stands in their place: a value for each channel. Empty for black.
        fill: Vec<u8>,
    },
    /// Multiplies brightness, contrast and saturation, in this order, by random factors. Each is uniform from 1 − b to
    /// 1 + b, but not below 0. Contrast scales the distance from the mean grey of the image, saturation that from the
    /// grey of the pixel. Saturation applies to images of three channels only.
    ColorJitter {
        /// b of the brightness, 0 to leave it alone.
        brightness: f32,
        /// b of the contrast.
        contrast: f32,
        /// b of the saturation.
        saturation: f32,
    },
    /// Paints a black square of this side about a random pixel, cut off at the edges (DeVries & Taylor 2017). Masks are
    /// not changed.
    Cutout {
        /// In pixels.
        size: usize,
    },
    /// A transform of your own: see [`Transform::own`].
    Own(OwnTransform),
}

/// The angle of [`Transform::Rotate`], in degrees counter-clockwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Angle {
    /// The same angle for every image.
    Fixed(f32),
    /// Uniform between two angles.
    Uniform(f32, f32),
    /// Normal with a mean and a standard deviation.
    Normal(f32, f32),
}

impl Transform {
    /// The common training crop: 8 % to 100 % of the area, sides 3:4 to 4:3.
    pub fn random_resized_crop(size: usize) -> Self {
        Transform::RandomResizedCrop { size: [size, size], scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }

    /// Any transform that implements [`Augment`].
    pub fn own(transform: impl Augment + 'static) -> Self {
        Transform::Own(OwnTransform(Arc::new(transform)))
    }

    /// Applies the transform to a mask, one channel of class indices. With the same `dice` as for the image, pixels of
    /// image and mask move alike. Class indices are never interpolated. Pixels from outside are of class 0. Transforms
    /// of colours do not change masks.
    ///
    /// # Errors
    /// As [`Transform::apply`].
    pub fn apply_to_mask(&self, mask: Image, dice: &mut Dice) -> Result<Image> {
        match *self {
            Transform::Resize { size } => resize::nearest(&mask, size),
            Transform::ResizeShorter { size } => resize::nearest(&mask, in_proportion(&mask, size)),
            Transform::RandomResizedCrop { size, scale, ratio } => {
                let (from, part) = random_part(mask.extents(), scale, ratio, dice)?;
                resize::nearest(&crop(&mask, from, part)?, size)
            }
            Transform::Rotate { angle } => rotate::rotate(&mask, angle.draw(dice)?, Sampling::Nearest),
            Transform::Channels { .. } | Transform::ColorJitter { .. } | Transform::Cutout { .. } => Ok(mask),
            Transform::Own(ref own) => own.0.apply_to_mask(mask, dice),
            _ => self.apply(mask, dice),
        }
    }

    /// Applies the transform to an image.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the result would have no pixels or too many, the crop does not fit, or a parameter is out
    /// of range; the error of a transform of your own.
    pub fn apply(&self, image: Image, dice: &mut Dice) -> Result<Image> {
        match *self {
            Transform::Channels { channels } => colour::channels(image, channels),
            Transform::Resize { size } => resize::resize(image, size),
            Transform::ResizeShorter { size } => {
                let to = in_proportion(&image, size);
                resize::resize(image, to)
            }
            Transform::CenterCrop { size } => {
                let [_, height, width] = image.extents();
                let from = [middle(height, size[0]), middle(width, size[1])];
                crop(&image, from, size)
            }
            Transform::RandomCrop { size, padding } => random_crop(&image, size, padding, dice),
            Transform::RandomResizedCrop { size, scale, ratio } => {
                let (from, part) = random_part(image.extents(), scale, ratio, dice)?;
                resize::resize(crop(&image, from, part)?, size)
            }
            Transform::HorizontalFlip { probability } => {
                check(probability, (0.0..=1.0).contains(&probability), "a probability from 0 to 1")?;
                Ok(if dice.chance(probability) { flipped(image) } else { image })
            }
            Transform::VerticalFlip { probability } => {
                check(probability, (0.0..=1.0).contains(&probability), "a probability from 0 to 1")?;
                if !dice.chance(probability) {
                    return Ok(image);
                }
                let upside_down = turned(&turned(&image)?)?;
                Ok(flipped(upside_down))
            }
            Transform::QuarterTurn => (0..dice.below(4)).try_fold(image, |image, _| turned(&image)),
            Transform::Rotate { angle } => rotate::rotate(&image, angle.draw(dice)?, Sampling::Bilinear),
            Transform::CircleCrop { radius, ref fill } => {
                check(radius, radius >= 0.0, "a radius")?;
                circle_crop(image, radius, fill)
            }
            Transform::ColorJitter { brightness, contrast, saturation } => {
                for share in [brightness, contrast, saturation] {
                    check(share, share >= 0.0 && share.is_finite(), "a share of 0 or more")?;
                }
                Ok(colour::jitter(image, [brightness, contrast, saturation], dice))
            }
            Transform::Cutout { size } => Ok(colour::cut_out(image, size, dice)),
            Transform::Own(ref own) => own.0.apply(image, dice),
        }
    }
}

impl Angle {
    /// In degrees.
    fn draw(self, dice: &mut Dice) -> Result<f32> {
        let degrees = match self {
            Angle::Fixed(degrees) => degrees,
            Angle::Uniform(low, high) => dice.uniform(low, high),
            Angle::Normal(mean, deviation) => dice.normal(mean, deviation),
        };
        check(degrees, degrees.is_finite(), "a finite angle")?;
        Ok(degrees)
    }
}

/// Height and width in proportion, the shorter of them `size`.
fn in_proportion(image: &Image, size: usize) -> [usize; 2] {
    let [_, height, width] = image.extents();
    let longer = |short: usize, long: usize| (size as u64 * long as u64 / short as u64) as usize;
    if height <= width { [size, longer(height, width)] } else { [longer(width, height), size] }
}

/// By a quarter turn counter-clockwise.
fn turned(image: &Image) -> Result<Image> {
    let [channels, height, width] = image.extents();
    let mut turned = Image::black([channels, width, height])?;
    for (to, from) in turned.planes_mut().zip(image.planes()) {
        for (row, line) in to.chunks_exact_mut(height).enumerate() {
            line.iter_mut().enumerate().for_each(|(column, pixel)| *pixel = from[column * width + width - 1 - row]);
        }
    }
    Ok(turned)
}

fn check(value: f32, holds: bool, wanted: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Invalid(format!("{wanted} is wanted, got {value}"))) }
}

/// Where the middle `part` of `whole` begins, a half rounded to the even neighbour; negative if it does not fit.
fn middle(whole: usize, part: usize) -> isize {
    let twice = whole as isize - part as isize;
    let half = twice.div_euclid(2);
    if twice.rem_euclid(2) == 1 && half.rem_euclid(2) == 1 { half + 1 } else { half }
}

/// The part that begins at row and column `from`; black beyond the image.
fn crop(image: &Image, from: [isize; 2], [height, width]: [usize; 2]) -> Result<Image> {
    let [channels, rows, columns] = image.extents();
    let mut part = Image::black([channels, height, width])?;
    // Columns of the part that the image has, and where they are there.
    let first = (-from[1]).clamp(0, width as isize) as usize;
    let last = (columns as isize - from[1]).clamp(first as isize, width as isize) as usize;
    let start = (from[1] + first as isize).max(0) as usize;
    for (to, plane) in part.planes_mut().zip(image.planes()) {
        for (row, to) in to.chunks_exact_mut(width).enumerate() {
            let row = from[0] + row as isize;
            if (0..rows as isize).contains(&row) && first < last {
                let line = &plane[row as usize * columns..][..columns];
                to[first..last].copy_from_slice(&line[start..start + last - first]);
            }
        }
    }
    Ok(part)
}

fn random_crop(image: &Image, size: [usize; 2], padding: usize, dice: &mut Dice) -> Result<Image> {
    let [_, height, width] = image.extents();
    if padding > MAX_SIDE {
        return Err(Error::Invalid(format!("a margin of at most {MAX_SIDE} pixels is wanted, got {padding}")));
    }
    let mut start = |whole: usize, part: usize| {
        let room = (whole + 2 * padding).checked_sub(part)?;
        Some(dice.below(room + 1) as isize - padding as isize)
    };
    let (Some(row), Some(column)) = (start(height, size[0]), start(width, size[1])) else {
        let [h, w] = size;
        let message = format!("a crop of {h}x{w} does not fit in {height}x{width} with a margin of {padding}");
        return Err(Error::Invalid(message));
    };
    crop(image, [row, column], size)
}

/// Where the part of a [`Transform::RandomResizedCrop`] begins, and its height and width.
fn random_part(
    [_, height, width]: [usize; 3],
    scale: [f32; 2],
    ratio: [f32; 2],
    dice: &mut Dice,
) -> Result<([isize; 2], [usize; 2])> {
    let ordered = |range: [f32; 2]| range[0] > 0.0 && range[0] <= range[1] && range[1].is_finite();
    if !ordered(scale) || !ordered(ratio) {
        return Err(Error::Invalid(format!(
            "positive, ordered ranges are wanted, got scale {scale:?}, ratio {ratio:?}"
        )));
    }
    let area = (height * width) as f64;
    let logarithms = ratio.map(|r| f64::from(r).ln() as f32);
    for _ in 0..10 {
        let target = area * f64::from(dice.uniform(scale[0], scale[1]));
        let aspect = f64::from(dice.uniform(logarithms[0], logarithms[1])).exp();
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let row = dice.below(height - h + 1) as isize;
            let column = dice.below(width - w + 1) as isize;
            return Ok(([row, column], [h, w]));
        }
    }
    let found = width as f64 / height as f64;
    let (low, high) = (f64::from(ratio[0]), f64::from(ratio[1]));
    let part = if found < low {
        [((width as f64 / low).round_ties_even() as usize).clamp(1, height), width]
    } else if found > high {
        [height, ((height as f64 * high).round_ties_even() as usize).clamp(1, width)]
    } else {
        [height, width]
    };
    Ok(([((height - part[0]) / 2) as isize, ((width - part[1]) / 2) as isize], part))
}

fn flipped(mut image: Image) -> Image {
    let width = image.extents()[2];
    image.planes_mut().for_each(|plane| plane.chunks_exact_mut(width).for_each(<[u8]>::reverse));
    image
}

fn circle_crop(mut image: Image, radius: f32, fill: &[u8]) -> Result<Image> {
    let [channels, height, width] = image.extents();
    if !fill.is_empty() && fill.len() != channels {
        let why = format!("circle crop: {} values to fill with, for an image of {channels} channels", fill.len());
        return Err(Error::Invalid(why));
    }
    // Twice the distance from the centre is a whole number on each axis.
    let twice = |at: usize, extent: usize| (2 * at as i64 + 1 - extent as i64) as f64;
    let limit = 2.0 * f64::from(radius);
    for (channel, plane) in image.planes_mut().enumerate() {
        let outside = fill.get(channel).copied().unwrap_or(0);
        for (row, line) in plane.chunks_exact_mut(width).enumerate() {
            for (column, pixel) in line.iter_mut().enumerate() {
                let (y, x) = (twice(row, height), twice(column, width));
                if y * y + x * x > limit * limit {
                    *pixel = outside;
                }
            }
        }
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_core::Stream;

    fn dice(index: u64) -> Dice {
        Dice::new(Stream::new(1, 2, 3), index << 16)
    }

    /// Two channels; pixel (y, x) of the first is 16y + x + 1, of the second its complement.
    fn numbered(height: usize, width: usize) -> Image {
        let first: Vec<u8> = (0..height * width).map(|i| (i / width * 16 + i % width + 1) as u8).collect();
        let second = first.iter().map(|p| 255 - p);
        Image::new(first.iter().copied().chain(second).collect(), [2, height, width]).unwrap()
    }

    fn apply(transform: Transform, image: Image) -> Image {
        transform.apply(image, &mut dice(0)).unwrap()
    }

    #[test]
    fn the_middle_is_where_torchvision_finds_it() {
        // int(round((whole - part) / 2.0)) of Python, whose round takes a half to the even neighbour.
        for (whole, part, start) in [(10, 4, 3), (10, 5, 2), (10, 3, 4), (11, 8, 2), (7, 6, 0), (9, 6, 2), (4, 4, 0)] {
            assert_eq!(middle(whole, part), start, "{part} of {whole}");
        }
        assert_eq!((middle(4, 6), middle(4, 7), middle(4, 5)), (-1, -2, 0));
    }

    #[test]
    fn colours_become_grey_and_grey_is_repeated() {
        let image = Image::new(vec![255, 0, 9, 0, 255, 9, 10, 0, 9], [3, 1, 3]).unwrap();
        let grey = apply(Transform::Channels { channels: 1 }, image.clone());
        assert_eq!((grey.extents(), grey.pixels()), ([1, 1, 3], &[77, 150, 9][..]));
        let repeated = apply(Transform::Channels { channels: 3 }, grey.clone());
        assert_eq!(repeated.pixels(), [77, 150, 9, 77, 150, 9, 77, 150, 9]);
        assert_eq!(apply(Transform::Channels { channels: 1 }, repeated), grey);
        assert_eq!(apply(Transform::Channels { channels: 3 }, image.clone()), image);
        let mask = Transform::Channels { channels: 3 }.apply_to_mask(grey.clone(), &mut dice(0)).unwrap();
        assert_eq!(mask, grey);
    }

    #[test]
    fn centre_crops_cut_and_pad() {
        let image = numbered(4, 5);
        let cut = apply(Transform::CenterCrop { size: [2, 3] }, image.clone());
        assert_eq!(cut.pixels()[..6], [18, 19, 20, 34, 35, 36]);
        assert_eq!(cut.pixels()[6..], [237, 236, 235, 221, 220, 219]);
        let padded = apply(Transform::CenterCrop { size: [6, 5] }, image.clone());
        assert_eq!(padded.planes().next().unwrap()[..5], [0; 5]);
        assert_eq!(padded.planes().next().unwrap()[5..25], image.pixels()[..20]);
        assert_eq!(padded.planes().next().unwrap()[25..], [0; 5]);
    }

    #[test]
    fn random_crops_reach_every_place_and_no_other() {
        let image = numbered(3, 3);
        let transform = Transform::RandomCrop { size: [3, 3], padding: 1 };
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..200 {
            let cut = transform.apply(image.clone(), &mut dice(i)).unwrap();
            assert_eq!(cut.extents(), [2, 3, 3]);
            seen.insert(cut.pixels()[..9].to_vec());
        }
        assert_eq!(seen.len(), 9);
        assert!(seen.contains(&image.pixels()[..9]));
        assert!(seen.contains(&vec![0, 0, 0, 0, 1, 2, 0, 17, 18]));
        let too_large = Transform::RandomCrop { size: [6, 3], padding: 1 };
        let message = too_large.apply(image, &mut dice(0)).unwrap_err().to_string();
        assert_eq!(message, "a crop of 6x3 does not fit in 3x3 with a margin of 1");
    }

    #[test]
    fn the_shorter_side_is_resized_and_the_longer_follows() {
        for (from, to) in
            [([3, 50, 100], [25, 50]), ([3, 100, 50], [50, 25]), ([1, 7, 10], [25, 35]), ([1, 9, 9], [25, 25])]
        {
            let image = Image::new(vec![9; from.iter().product()], from).unwrap();
            let resized = apply(Transform::ResizeShorter { size: 25 }, image);
            assert_eq!(resized.extents()[1..], to);
            assert!(resized.pixels().iter().all(|&p| p == 9));
        }
    }

    #[test]
    fn random_parts_have_the_area_and_shape_asked_for() {
        let (scale, ratio) = ([0.25, 0.5], [0.5, 2.0]);
        let (mut areas, mut shapes) = (Vec::new(), Vec::new());
        for i in 0..500 {
            let ([row, column], [h, w]) = random_part([3, 300, 300], scale, ratio, &mut dice(i)).unwrap();
            assert!(row >= 0 && column >= 0 && row as usize + h <= 300 && column as usize + w <= 300);
            areas.push((h * w) as f64 / 90_000.0);
            shapes.push((w as f64 / h as f64).ln());
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        assert!(areas.iter().all(|a| (0.24..0.51).contains(a)));
        assert!((mean(&areas) - 0.375).abs() < 0.02, "{}", mean(&areas));
        assert!(shapes.iter().all(|s| s.abs() < 0.72) && mean(&shapes).abs() < 0.05);
        // Nothing of this shape is within a strip: the middle, as high as the ratio allows.
        assert_eq!(random_part([3, 1000, 10], [0.9, 1.0], ratio, &mut dice(0)).unwrap(), ([490, 0], [20, 10]));
        assert!(random_part([3, 9, 9], [0.5, 0.2], ratio, &mut dice(0)).is_err());
        assert!(random_part([3, 9, 9], [0.0, 0.2], ratio, &mut dice(0)).is_err());
    }

    #[test]
    fn flips_are_as_frequent_as_they_should_be() {
        let image = numbered(2, 3);
        let mut turned = 0;
        for i in 0..1000 {
            let flip = Transform::HorizontalFlip { probability: 0.3 };
            let flipped = flip.apply(image.clone(), &mut dice(i)).unwrap();
            if flipped != image {
                assert_eq!(flipped.pixels()[..6], [3, 2, 1, 19, 18, 17]);
                turned += 1;
            }
        }
        assert!((250..350).contains(&turned), "{turned}");
        assert!(Transform::HorizontalFlip { probability: 1.5 }.apply(image, &mut dice(0)).is_err());
    }

    #[test]
    fn the_circle_is_round_and_symmetric() {
        let white = |n: usize| Image::new(vec![255; n * n], [1, n, n]).unwrap();
        let circle = |radius| Transform::CircleCrop { radius, fill: vec![] };
        let cropped = apply(circle(2.5), white(5));
        let corners = [0, 4, 20, 24];
        assert!((0..25).all(|i| cropped.pixels()[i] == if corners.contains(&i) { 0 } else { 255 }));
        let ink = |n, radius| {
            let image = apply(circle(radius), white(n));
            assert!(image.pixels().iter().eq(image.pixels().iter().rev()));
            image.pixels().iter().filter(|&&p| p > 0).count() as f64
        };
        for n in [96, 97] {
            let area = std::f64::consts::PI * 47.5 * 47.5;
            assert!((ink(n, 47.5) / area - 1.0).abs() < 0.01);
        }
        assert_eq!((ink(5, 0.0), ink(4, 0.0), ink(5, 100.0)), (1.0, 0.0, 25.0));
        assert!(circle(f32::NAN).apply(white(3), &mut dice(0)).is_err());

        let filled = Transform::CircleCrop { radius: 2.5, fill: vec![7, 0, 9] };
        let colours = apply(filled.clone(), Image::new(vec![255; 75], [3, 5, 5]).unwrap());
        for (channel, fill) in [7, 0, 9].into_iter().enumerate() {
            let plane = &colours.pixels()[25 * channel..][..25];
            assert!((0..25).all(|i| plane[i] == if corners.contains(&i) { fill } else { 255 }));
        }
        let error = filled.apply(white(3), &mut dice(0)).unwrap_err().to_string();
        assert!(error.contains("3 values to fill with, for an image of 1 channels"), "{error}");
    }

    #[test]
    fn angles_follow_their_distribution() {
        let line = Image::new((0..81).map(|i| if i % 9 == 4 { 255 } else { 0 }).collect(), [1, 9, 9]).unwrap();
        let lying = apply(Transform::Rotate { angle: Angle::Fixed(90.0) }, line.clone());
        assert!((0..81).all(|i| lying.pixels()[i] == if i / 9 == 4 { 255 } else { 0 }));
        let mut distinct = std::collections::BTreeSet::new();
        for i in 0..20 {
            for angle in [Angle::Uniform(-30.0, 30.0), Angle::Normal(45.0, 20.0)] {
                let turned = Transform::Rotate { angle }.apply(line.clone(), &mut dice(i)).unwrap();
                distinct.insert(turned.pixels().to_vec());
            }
        }
        assert!(distinct.len() > 35);
        assert!(Transform::Rotate { angle: Angle::Fixed(f32::NAN) }.apply(line, &mut dice(0)).is_err());
    }

    #[test]
    fn results_without_pixels_or_beyond_reason_are_refused() {
        for size in [[0, 5], [5, 0], [1 << 20, 5], [usize::MAX, usize::MAX]] {
            for transform in [
                Transform::Resize { size },
                Transform::CenterCrop { size },
                Transform::RandomResizedCrop { size, scale: [0.5, 1.0], ratio: [1.0, 1.0] },
            ] {
                let result = transform.apply(numbered(4, 4), &mut dice(0));
                assert!(matches!(result, Err(Error::Invalid(_))), "{transform:?}");
            }
        }
        let strip = Image::new(vec![0; 10_000], [1, 1, 10_000]).unwrap();
        assert!(Transform::ResizeShorter { size: 100 }.apply(strip, &mut dice(0)).is_err());
    }
}
