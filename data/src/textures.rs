//! Built-in textures: small colour images of ten materials that need no files, drawn as they are asked for.
//!
//! Colours, scale, slant, waviness, light and grain are random and say nothing about the class. The pattern does, and
//! for six of the ten classes only its orientation does: bricks lie or stand, twill rises or falls, scales open upward
//! or downward. So a network that is exactly invariant under quarter turns cannot tell the two of a pair apart, and is
//! right in at most 70 % of all cases, on average; what more a network finds, it owes to broken equivariance.
//!
//! A texture is a picture in the plane, of which an image samples as many points as it has pixels: image `i` of
//! 32×32 and image `i` of 33×33 show the same.

mod pattern;

use crate::{Dataset, Split, dice::Dice};
use pattern::{Pattern, Scene};
use quarterturn_core::{Error, Result, Stream};
use rayon::prelude::*;

/// What the data set is called in tables and figures.
const NAME: &str = "built-in textures";
/// The stream that all textures are drawn from.
const TEXTURES: u32 = u32::from_be_bytes(*b"txtr");
/// Random numbers reserved for one texture.
const PER_TEXTURE: u64 = 1 << 12;
/// The largest height and width.
pub const MAX_SIZE: usize = 1024;

/// What the classes are called, in the order of the labels. Classes 2k and 2k + 1 for k < 3 are the same patterns,
/// turned by 90° (bricks, twill) or 180° (scales).
pub const CLASS_NAMES: [&str; 10] = [
    "lying bricks",
    "standing bricks",
    "rising twill",
    "falling twill",
    "scales open upward",
    "scales open downward",
    "checks",
    "dots",
    "ripples",
    "marble",
];

/// Each class's pattern and by how many quarter turns it is turned, where that is not random.
const CLASSES: [(Pattern, Option<usize>); 10] = [
    (Pattern::Bricks, Some(0)),
    (Pattern::Bricks, Some(1)),
    (Pattern::Twill, Some(0)),
    (Pattern::Twill, Some(1)),
    (Pattern::Scales, Some(0)),
    (Pattern::Scales, Some(2)),
    (Pattern::Checks, None),
    (Pattern::Dots, None),
    (Pattern::Ripples, None),
    (Pattern::Marble, None),
];

/// The first `n` textures of a split, `size` × `size`, RGB. Texture `i` is a function of seed, split and `i`, and its
/// class is `i` mod 10; shuffled batches mix them.
///
/// # Errors
/// [`Error::Invalid`] for a size of 0 or above [`MAX_SIZE`], or more than 2³² − 1 textures; [`Error::OutOfMemory`] if
/// there is no room for so many.
pub fn generate(seed: u64, split: Split, n: usize, size: usize) -> Result<Dataset> {
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(Error::Invalid(format!("{NAME}: a size of 1 to {MAX_SIZE} is wanted, got {size}")));
    }
    if u32::try_from(n).is_err() {
        return Err(Error::Invalid(format!("{NAME}: {n} were asked for, there are {}", u32::MAX)));
    }
    let len = 3 * size * size;
    let mut pixels = Vec::new();
    let total = n.saturating_mul(len);
    pixels.try_reserve_exact(total).map_err(|e| Error::OutOfMemory(format!("{NAME}: {total} bytes: {e}")))?;
    pixels.resize(total, 0);
    pixels.par_chunks_exact_mut(len).enumerate().for_each(|(i, image)| draw(seed, split, i as u32, size, image));
    let labels = (0..n).map(|i| (i % CLASSES.len()) as u8).collect();
    Dataset::new(NAME, pixels, labels, [3, size, size], CLASSES.len())
}

/// Draws texture `index` into `[3, size, size]` bytes.
fn draw(seed: u64, split: Split, index: u32, size: usize, image: &mut [u8]) {
    let mut dice = Dice::new(Stream::new(seed, TEXTURES, split as u32), u64::from(index) * PER_TEXTURE);
    let (pattern, turns) = CLASSES[index as usize % CLASSES.len()];
    let turns = turns.unwrap_or_else(|| dice.below(4));
    let scene = Scene::new(pattern, &mut dice);
    let grain = dice.uniform(2.0, 10.0);
    for row in 0..size {
        for column in 0..size {
            // Pixels are turned, not what is drawn: both classes of a pair have the same images but for the turn.
            let (y, x) = turned(row, column, size, turns);
            let colour = scene.pixel(y, x, size);
            for (plane, value) in image.chunks_exact_mut(size * size).zip(colour) {
                plane[row * size + column] = value;
            }
        }
    }
    // Grain of its own for every pixel, four from each random word.
    let noise = Stream::new(seed, TEXTURES.wrapping_add(1), split as u32);
    for (i, chunk) in image.chunks_mut(16).enumerate() {
        let words = noise.block(u64::from(index) << 24 | i as u64);
        for (k, pixel) in chunk.iter_mut().enumerate() {
            let byte = (words[k / 4] >> (8 * (k % 4))) & 255;
            let value = f32::from(*pixel) + grain * (byte as f32 - 127.5) / 127.5;
            *pixel = value.round().clamp(0.0, 255.0) as u8;
        }
    }
}

/// Where the pixel comes from that `turns` counter-clockwise quarter turns move to (row, column).
fn turned(row: usize, column: usize, size: usize, turns: usize) -> (usize, usize) {
    (0..turns).fold((row, column), |(row, column), _| (column, size - 1 - row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(seed: u64, split: Split, n: usize, size: usize) -> Dataset {
        generate(seed, split, n, size).unwrap()
    }

    #[test]
    fn a_texture_depends_on_nothing_but_seed_split_and_index() {
        let long = make(9, Split::Train, 40, 17);
        assert_eq!(long.first(25).unwrap(), make(9, Split::Train, 25, 17));
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one_thread.install(|| make(9, Split::Train, 40, 17)), long);
        let others = [make(8, Split::Train, 40, 17), make(9, Split::Test, 40, 17), make(9, Split::Validation, 40, 17)];
        for other in others {
            assert!((0..40).all(|i| (0..40).all(|j| long.image(i) != other.image(j))));
        }
        assert_eq!(long.labels()[8..13], [8, 9, 0, 1, 2]);
        assert!(make(1, Split::Train, 0, 5).is_empty());
    }

    #[test]
    fn sizes_and_numbers_have_limits() {
        for (n, size) in [(1, 0), (1, MAX_SIZE + 1), (1 << 32, 1)] {
            assert!(matches!(generate(1, Split::Train, n, size), Err(Error::Invalid(_))));
        }
        assert!(matches!(generate(1, Split::Train, u32::MAX as usize, MAX_SIZE), Err(Error::OutOfMemory(_))));
        make(u64::MAX, Split::Test, 10, 1);
    }

    /// A change of the textures changes every result obtained with them, so it has to be meant.
    #[test]
    fn the_textures_of_a_seed_stay_what_they_are() {
        let textures = make(1, Split::Test, 60, 32);
        let hash = textures
            .pixels()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 0x9a1d_f387_32c0_b786, "FNV-1a is {hash:#018x}");
    }

    /// Coarse means of brightness on a grid of 4×4.
    fn coarse(image: &[u8], size: usize) -> Vec<f64> {
        let mut means = vec![0.0; 16];
        for plane in image.chunks_exact(size * size) {
            for (i, &pixel) in plane.iter().enumerate() {
                let (row, column) = (i / size * 4 / size, i % size * 4 / size);
                means[row * 4 + column] += f64::from(pixel) * 16.0 / (3 * size * size) as f64;
            }
        }
        means
    }

    #[test]
    fn a_size_is_a_sampling_of_the_same_texture() {
        let (small, large) = (make(5, Split::Train, 20, 32), make(5, Split::Train, 20, 64));
        for i in 0..20 {
            let (a, b) = (coarse(small.image(i), 32), coarse(large.image(i), 64));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 6.0), "texture {i}: {a:?} and {b:?}");
        }
    }

    /// The energy of the differences between neighbours in each of four directions: what a first layer could see.
    fn features(image: &[u8], size: usize) -> Vec<f64> {
        let grey = |y: usize, x: usize| (0..3).map(|c| f64::from(image[(c * size + y) * size + x])).sum::<f64>() / 3.0;
        let mut energy = [0.0; 4];
        for y in 1..size - 1 {
            for x in 1..size - 1 {
                // Down, right, down and right, up and right.
                let ends = [[(y + 1, x), (y - 1, x)], [(y, x + 1), (y, x - 1)]];
                let diagonal = [[(y + 1, x + 1), (y - 1, x - 1)], [(y - 1, x + 1), (y + 1, x - 1)]];
                for (energy, [to, from]) in energy.iter_mut().zip(ends.into_iter().chain(diagonal)) {
                    *energy += (grey(to.0, to.1) - grey(from.0, from.1)).powi(2);
                }
            }
        }
        let sum = energy.iter().sum::<f64>().max(1e-9);
        energy.map(|e| e / sum).to_vec()
    }

    /// The share of textures that are nearest to the mean of their class, by some description of an image.
    fn nearest_mean(describe: impl Fn(&[u8]) -> Vec<f64>, size: usize, turns: usize) -> f64 {
        let (train, test) = (make(1, Split::Train, 400, size), make(1, Split::Test, 200, size));
        let mut means = vec![vec![0.0; describe(train.image(0)).len()]; 10];
        for i in 0..train.len() {
            let mean = &mut means[usize::from(train.labels()[i])];
            mean.iter_mut().zip(describe(train.image(i))).for_each(|(m, v)| *m += v / 40.0);
        }
        let right = (0..test.len()).filter(|&i| {
            let upright = test.image(i);
            let image: Vec<u8> = (0..upright.len())
                .map(|k| {
                    let (plane, at) = (k / (size * size), k % (size * size));
                    let (y, x) = turned(at / size, at % size, size, turns);
                    upright[(plane * size + y) * size + x]
                })
                .collect();
            let found = describe(&image);
            let distance = |mean: &[f64]| mean.iter().zip(&found).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            let nearest = (0..10).min_by(|&a, &b| distance(&means[a]).total_cmp(&distance(&means[b])));
            nearest == Some(usize::from(test.labels()[i]))
        });
        right.count() as f64 / test.len() as f64
    }

    #[test]
    fn neither_colour_nor_brightness_tell_the_classes_apart() {
        let colour = |image: &[u8]| {
            let plane = image.len() / 3;
            image.chunks_exact(plane).map(|p| p.iter().map(|&v| f64::from(v)).sum::<f64>() / plane as f64).collect()
        };
        let accuracy = nearest_mean(colour, 24, 0);
        assert!(accuracy < 0.25, "{accuracy}");
        let accuracy = nearest_mean(|image| image.iter().map(|&p| f64::from(p)).collect(), 24, 0);
        assert!(accuracy < 0.4, "{accuracy} by all pixels");
    }

    /// Directions of edges are worth something, and lead astray after a quarter turn.
    #[test]
    fn orientation_is_information() {
        let upright = nearest_mean(|image| features(image, 32), 32, 0);
        let turned = nearest_mean(|image| features(image, 32), 32, 1);
        assert!(upright > 0.4 && turned < upright - 0.15, "{upright} upright, {turned} turned");
    }

    /// The classes of a pair are the same images but for the turn: so says the code, and so say their statistics.
    #[test]
    fn pairs_differ_by_a_turn_only() {
        for first in [0, 2, 4] {
            let ((a, Some(from)), (b, Some(to))) = (CLASSES[first], CLASSES[first + 1]) else { panic!("pairs") };
            assert_eq!((a, from), (b, 0));
            assert!(to == 1 || to == 2);
        }
        let textures = make(3, Split::Train, 400, 24);
        let mean = |class: usize, feature: usize| {
            (0..40).map(|i| features(textures.image(10 * i + class), 24)[feature]).sum::<f64>() / 40.0
        };
        // Lying bricks have more edges downward, standing ones to the right; twill is as its name says.
        assert!(mean(0, 0) > 1.5 * mean(0, 1) && mean(1, 1) > 1.5 * mean(1, 0));
        assert!((mean(0, 0) / mean(1, 1) - 1.0).abs() < 0.15);
        assert!(mean(2, 2) > 1.5 * mean(2, 3) && mean(3, 3) > 1.5 * mean(3, 2));
    }
}
