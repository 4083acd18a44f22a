//! A built-in task for segmentation that needs no files: what lies inside of a closed outline?
//!
//! An image shows outlines of ellipses, some closed and some with a gap, all of one brightness, on a ground of uneven brightness with
//! noise. Every pixel on a closed outline or inside of it is of class 1, all others are of class 0. The ground looks the same inside
//! and outside, and so does each piece of an outline: a network must look as far as an outline reaches.
//!
//! The gap of an open outline is a quarter to a half of its length.

use crate::{Annotated, Split, dice::Dice};
use quarterturn_core::{Error, Result, Stream};
use rayon::prelude::*;
use std::f64::consts::TAU;

/// What the data set is called in tables and figures.
const NAME: &str = "built-in outlines";
/// The stream that all of it is drawn from.
const OUTLINES: u32 = u32::from_be_bytes(*b"otln");
/// Blocks of random numbers reserved for one image, and where those of its noise begin.
const PER_IMAGE: u64 = 1 << 20;
const NOISE: u64 = 1 << 12;
/// The smallest and the largest height and width.
pub const SIZES: std::ops::RangeInclusive<usize> = 24..=1024;
/// What the classes are called, in the order of the labels.
pub const CLASS_NAMES: [&str; 2] = ["outside", "inside"];

/// The first `n` images of a split, `size` × `size`, of one channel, with masks. Image `i` is a function of seed, split, `i` and `size`.
///
/// # Errors
/// [`Error::Invalid`] for a size that is not within [`SIZES`], or more than 2³² − 1 images; [`Error::OutOfMemory`] if there is no room
/// for so many.
pub fn generate(seed: u64, split: Split, n: usize, size: usize) -> Result<Annotated> {
    if !SIZES.contains(&size) {
        let (least, most) = (SIZES.start(), SIZES.end());
        return Err(Error::Invalid(format!("{NAME}: a size of {least} to {most} is wanted, got {size}")));
    }
    if u32::try_from(n).is_err() {
        return Err(Error::Invalid(format!("{NAME}: {n} were asked for, there are {}", u32::MAX)));
    }
    let len = size * size;
    let room = || {
        let (mut bytes, total) = (Vec::new(), n.saturating_mul(len));
        bytes.try_reserve_exact(total).map_err(|e| Error::OutOfMemory(format!("{NAME}: {total} bytes: {e}")))?;
        bytes.resize(total, 0);
        Ok(bytes)
    };
    let (mut pixels, mut masks): (Vec<u8>, Vec<u8>) = (room()?, room()?);
    let each = pixels.par_chunks_exact_mut(len).zip(masks.par_chunks_exact_mut(len)).enumerate();
    each.for_each(|(i, (image, mask))| draw(Stream::new(seed, OUTLINES, split as u32), i as u64, size, image, mask));
    Annotated::with_masks(NAME, pixels, masks, [1, size, size], CLASS_NAMES.len())
}

fn draw(stream: Stream, index: u64, size: usize, image: &mut [u8], mask: &mut [u8]) {
    let mut dice = Dice::new(stream, index * PER_IMAGE);
    let outlines = place(size, &mut dice);
    let (ground, line) = (f64::from(dice.uniform(0.1, 0.3)), f64::from(dice.uniform(0.65, 0.95)));
    let (bearing, strength) = (f64::from(dice.uniform(0.0, 1.0)) * TAU, f64::from(dice.uniform(0.0, 0.2)));
    let mut noise = Dice::new(stream, index * PER_IMAGE + NOISE);
    let middle = (size as f64 - 1.0) / 2.0;
    for (at, (pixel, class)) in image.iter_mut().zip(mask).enumerate() {
        let (y, x) = ((at / size) as f64, (at % size) as f64);
        let light = strength * (bearing.sin() * (y - middle) + bearing.cos() * (x - middle)) / middle;
        let ink = outlines.iter().map(|outline| outline.ink(y, x)).fold(0.0, f64::max);
        let value = ground + light + ink * (line - ground) + f64::from(noise.normal(0.0, 0.04));
        *pixel = (255.0 * value).round().clamp(0.0, 255.0) as u8;
        *class = u8::from(outlines.iter().any(|outline| outline.encloses(y, x)));
    }
}

/// Two to four outlines that do not meet, of which one at least is closed and one is not.
fn place(size: usize, dice: &mut Dice) -> Vec<Outline> {
    let mut placed: Vec<Outline> = Vec::new();
    let wanted = 2 + dice.below(3);
    // Some may find no place.
    for attempt in 0..200 {
        if placed.len() == wanted {
            break;
        }
        let mut outline = Outline::draw(size as f64, dice);
        if attempt < 100 || placed.len() >= 2 {
            // Of the first two, one is closed.
            outline.gap = match placed.len() {
                0 => None,
                1 => Some(outline.a_gap(dice)),
                _ => dice.chance(0.5).then(|| outline.a_gap(dice)),
            };
        }
        let apart = |other: &Outline| {
            let [y, x] = [0, 1].map(|axis| outline.centre[axis] - other.centre[axis]);
            y.hypot(x) > outline.reach() + other.reach() + 2.0
        };
        if placed.iter().all(apart) {
            placed.push(outline);
        }
    }
    placed
}

/// An ellipse's outline, in pixels.
struct Outline {
    centre: [f64; 2],
    /// Half the length of each axis.
    axes: [f64; 2],
    /// Of the first axis, as sine and cosine.
    direction: [f64; 2],
    /// Half the thickness of the line.
    half_width: f64,
    /// Where it is open: the middle and half the length of the gap, in radians.
    gap: Option<[f64; 2]>,
}

impl Outline {
    fn draw(size: f64, dice: &mut Dice) -> Self {
        let mut uniform = |low: f64, high: f64| f64::from(dice.uniform(low as f32, high as f32));
        let radius = uniform(0.11, 0.18) * size;
        let axes = [radius, radius * uniform(0.75, 1.0)];
        let margin = radius + 1.5;
        let centre = [uniform(margin, size - 1.0 - margin), uniform(margin, size - 1.0 - margin)];
        let direction = uniform(0.0, TAU).sin_cos();
        Outline { centre, axes, direction: [direction.0, direction.1], half_width: uniform(0.55, 0.85), gap: None }
    }

    fn a_gap(&self, dice: &mut Dice) -> [f64; 2] {
        [f64::from(dice.uniform(0.0, 1.0)) * TAU, f64::from(dice.uniform(0.125, 0.25)) * TAU]
    }

    /// No point of it is further from its centre.
    fn reach(&self) -> f64 {
        self.axes[0] + self.half_width
    }

    /// Where a point is, in units of the axes: distance from the centre and angle.
    fn polar(&self, y: f64, x: f64) -> (f64, f64) {
        let ([sin, cos], y, x) = (self.direction, y - self.centre[0], x - self.centre[1]);
        let (along, across) = ((cos * x + sin * y) / self.axes[0], (cos * y - sin * x) / self.axes[1]);
        (along.hypot(across), across.atan2(along))
    }

    /// How far outside of the outline's middle line a point is, about, in pixels.
    fn distance(&self, radius: f64) -> f64 {
        (radius - 1.0) * self.axes[1]
    }

    /// How much of a pixel the line covers, 0 to 1.
    fn ink(&self, y: f64, x: f64) -> f64 {
        let (radius, angle) = self.polar(y, x);
        let open = self.gap.is_some_and(|[middle, half]| {
            let off = (angle - middle).rem_euclid(TAU);
            off.min(TAU - off) < half
        });
        if open { 0.0 } else { (self.half_width + 0.5 - self.distance(radius).abs()).clamp(0.0, 1.0) }
    }

    /// Whether a point is on a closed outline or inside of it.
    fn encloses(&self, y: f64, x: f64) -> bool {
        self.gap.is_none() && self.distance(self.polar(y, x).0) <= self.half_width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Samples, Target};

    fn masks(samples: &Annotated) -> Vec<Vec<u8>> {
        let mask = |i| match samples.target(i).unwrap() {
            Target::Mask(mask) => mask.pixels().to_vec(),
            other => panic!("{other:?}"),
        };
        (0..samples.len()).map(mask).collect()
    }

    #[test]
    fn an_image_depends_on_nothing_but_seed_split_index_and_size() {
        let make = |seed, split, n, size| generate(seed, split, n, size).unwrap();
        let long = make(9, Split::Train, 12, 33);
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one_thread.install(|| make(9, Split::Train, 12, 33)), long);
        let short = make(9, Split::Train, 5, 33);
        let others = [make(8, Split::Train, 5, 33), make(9, Split::Test, 5, 33), make(9, Split::Validation, 5, 33)];
        for i in 0..5 {
            let image = short.decode(i).unwrap();
            assert_eq!((&image, &masks(&short)[i]), (&long.decode(i).unwrap(), &masks(&long)[i]));
            assert!(others.iter().all(|other| (0..5).all(|j| other.decode(j).unwrap() != image)));
        }
        assert!(generate(1, Split::Train, 1, 23).is_err() && generate(1, Split::Train, 1, 1025).is_err());
    }

    /// Class 1 is a few whole ellipses; and neither the brightness of a pixel nor how many there are tells of it.
    #[test]
    fn there_is_something_inside_and_the_ground_is_the_same() {
        let samples = generate(3, Split::Train, 200, 32).unwrap();
        let (mut inside, mut ground) = (0usize, [(0.0, 0.0); 2]);
        for (i, mask) in masks(&samples).iter().enumerate() {
            let count = mask.iter().filter(|&&class| class == 1).count();
            assert!((30..600).contains(&count), "image {i}: {count}");
            inside += count;
            // What is dark and has dark neighbours is ground.
            let image = samples.decode(i).unwrap();
            for at in 33..1024 - 33 {
                let around = [at - 33, at - 32, at - 31, at - 1, at, at + 1, at + 31, at + 32, at + 33];
                if around.iter().all(|&at| image.pixels()[at] < 110) {
                    let (sum, n) = &mut ground[usize::from(mask[at])];
                    (*sum, *n) = (*sum + f64::from(image.pixels()[at]), *n + 1.0);
                }
            }
        }
        let share = inside as f64 / (200.0 * 1024.0);
        assert!((0.08..0.3).contains(&share), "{share}");
        let [outside, inside] = ground.map(|(sum, n): (f64, f64)| sum / n);
        assert!((outside - inside).abs() < 5.0, "{outside} {inside}");
    }
}
