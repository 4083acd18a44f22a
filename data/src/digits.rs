//! Built-in digits: a data set like MNIST that needs no files. Digits are drawn stroke by stroke when they are asked
//! for.
//!
//! A digit begins as the path of a pen in one of several styles (a 7 with or without a bar, a 4 open or closed). Its
//! control points are jittered, the path is bent, slanted and turned by up to 12° and scaled into a box of 20 pixels
//! around its centre of mass, as MNIST's digits are; then a pen of random width and pressure traces it. All digits
//! are upright: a 6 and a 9 are told apart by nothing else than which way is up.

mod path;
mod pen;
mod skeleton;

pub use crate::Split;

use crate::{Dataset, dice::Dice};
use path::Path;
use quarterturn_core::{Error, Result, Stream};
use rayon::prelude::*;

/// What the data set is called in tables and figures.
const NAME: &str = "built-in digits";

/// Height and width of an image.
pub const SIZE: usize = 28;

/// The stream that all digits are drawn from.
const DIGITS: u32 = u32::from_be_bytes(*b"digt");
/// Random numbers reserved for one digit.
const PER_DIGIT: u64 = 1 << 12;
/// Number of classes; a block of so many consecutive digits has each class once.
const CLASSES: usize = 10;

/// One digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digit {
    /// Which digit it is.
    pub label: u8,
    /// Row-major, black 0, white 255.
    pub pixels: [u8; SIZE * SIZE],
}

/// The first `n` digits of a split: digit `i` is [`draw`]`(seed, split, i)`, whatever `n` is. If `n` is a multiple of
/// ten, all classes are equally frequent.
///
/// # Errors
/// [`Error::Invalid`] for more than 2³² − 1 digits, [`Error::OutOfMemory`] if there is no room for so many.
pub fn generate(seed: u64, split: Split, n: usize) -> Result<Dataset> {
    if u32::try_from(n).is_err() {
        return Err(Error::Invalid(format!("{NAME}: {n} were asked for, there are {}", u32::MAX)));
    }
    let mut pixels = zeros(n.saturating_mul(SIZE * SIZE))?;
    let mut labels = zeros(n)?;
    pixels.par_chunks_exact_mut(SIZE * SIZE).zip(&mut labels).enumerate().for_each(|(i, (image, label))| {
        let digit = draw(seed, split, i as u32);
        image.copy_from_slice(&digit.pixels);
        *label = digit.label;
    });
    Dataset::new(NAME, pixels, labels, [1, SIZE, SIZE], CLASSES)
}

/// Memory whose size a user decides.
fn zeros(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|e| Error::OutOfMemory(format!("{NAME}: {len} bytes: {e}")))?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Digit `index` of a split: a pure function of the three arguments.
pub fn draw(seed: u64, split: Split, index: u32) -> Digit {
    let stream = Stream::new(seed, DIGITS, split as u32);
    let classes = Stream { stream: DIGITS.wrapping_add(1), ..stream };
    let label = class(&classes, index);
    let mut dice = Dice::new(stream, u64::from(index) * PER_DIGIT);
    let strokes = skeleton::strokes(label, &mut dice);
    let path = Path::new(&strokes, &mut dice);
    Digit { label, pixels: pen::trace(&path, &mut dice) }
}

/// The class of digit `index`: every block of ten is a permutation of its own.
fn class(stream: &Stream, index: u32) -> u8 {
    let (block, place) = (u64::from(index) / CLASSES as u64, index as usize % CLASSES);
    let mut order: [u8; CLASSES] = std::array::from_fn(|i| i as u8);
    for i in (1..CLASSES).rev() {
        let draw = stream.word(block * 16 + i as u64);
        order.swap(i, ((u64::from(draw) * (i as u64 + 1)) >> 32) as usize);
    }
    order[place]
}

/// The sine, by way of `f64`: the last bits of `f32::sin` depend on the platform, and the digits shall not.
fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Normalization;

    fn make(seed: u64, split: Split, n: usize) -> Dataset {
        generate(seed, split, n).unwrap()
    }

    #[test]
    fn a_digit_depends_on_nothing_but_seed_split_and_index() {
        let long = make(9, Split::Train, 60);
        let short = make(9, Split::Train, 25);
        assert_eq!(long.first(25).unwrap(), short);
        for i in [0, 7, 24] {
            let digit = draw(9, Split::Train, i as u32);
            assert_eq!((digit.label, &digit.pixels[..]), (short.labels()[i], short.image(i)));
        }
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one_thread.install(|| make(9, Split::Train, 60)), long);
        assert!(make(9, Split::Train, 0).is_empty());
    }

    #[test]
    fn more_digits_than_there_is_memory_for_are_an_error() {
        assert!(matches!(generate(1, Split::Test, 1 << 32), Err(Error::Invalid(_))));
        assert!(matches!(generate(1, Split::Test, usize::MAX), Err(Error::Invalid(_))));
        assert!(matches!(zeros(usize::MAX / 2 + 1), Err(Error::OutOfMemory(_))));
    }

    #[test]
    fn seeds_and_splits_are_different_digits() {
        let parts = [(1, Split::Train), (2, Split::Train), (1, Split::Validation), (1, Split::Test)];
        let sets = parts.map(|(seed, split)| make(seed, split, 100));
        for i in 0..sets.len() {
            for j in 0..i {
                assert_ne!(sets[i].labels(), sets[j].labels());
                let same = (0..100).filter(|&k| (0..100).any(|l| sets[i].image(k) == sets[j].image(l))).count();
                assert_eq!(same, 0, "{:?} and {:?}", parts[i], parts[j]);
            }
        }
        draw(u64::MAX, Split::Test, u32::MAX);
    }

    /// A change of the digits changes every result obtained with them, so it has to be meant.
    #[test]
    fn the_digits_of_a_seed_stay_what_they_are() {
        let digits = make(1, Split::Test, 300);
        let bytes = digits.labels().iter().chain(digits.pixels());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 0x6033_08f9_e7b2_1bde, "FNV-1a is {hash:#018x}");
    }

    #[test]
    fn every_ten_digits_have_every_class_once() {
        let digits = make(3, Split::Train, 1_000);
        let mut first_of_block = [0; CLASSES];
        for block in digits.labels().chunks_exact(CLASSES) {
            let mut sorted = block.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
            first_of_block[usize::from(block[0])] += 1;
        }
        assert!(first_of_block.iter().all(|&n| n > 0), "blocks begin with {first_of_block:?}");
    }

    #[test]
    fn pixels_have_the_statistics_of_mnist() {
        let digits = make(4, Split::Train, 2_000);
        let found = Normalization::of(&digits);
        assert!((found.mean[0] - 0.131).abs() < 0.02 && (found.std[0] - 0.308).abs() < 0.03, "{found:?}");
        let border = |i: usize| matches!(i / SIZE, 0 | 27) || matches!(i % SIZE, 0 | 27);
        let lit = (0..digits.len()).flat_map(|n| digits.image(n).iter().enumerate());
        let lit = lit.filter(|&(i, &p)| border(i) && p > 0).count();
        assert!(lit < digits.len() / 20, "{lit} pixels of the border of {} digits are lit", digits.len());
        for i in 0..digits.len() {
            let ink: usize = digits.image(i).iter().filter(|&&p| p > 127).count();
            assert!((15..350).contains(&ink), "a {} with {ink} bright pixels", digits.labels()[i]);
        }
    }

    /// The mean image of each class.
    fn means(digits: &Dataset) -> Vec<[f64; SIZE * SIZE]> {
        let mut sums = vec![[0.0; SIZE * SIZE]; CLASSES];
        for (i, &label) in digits.labels().iter().enumerate() {
            for (sum, &p) in sums[usize::from(label)].iter_mut().zip(digits.image(i)) {
                *sum += f64::from(p) / (255.0 * digits.len() as f64 / CLASSES as f64);
            }
        }
        sums
    }

    fn correlation(a: &[f64], b: &[f64]) -> f64 {
        let (ma, mb) = (a.iter().sum::<f64>() / a.len() as f64, b.iter().sum::<f64>() / b.len() as f64);
        let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
        for (x, y) in a.iter().zip(b) {
            ab += (x - ma) * (y - mb);
            aa += (x - ma) * (x - ma);
            bb += (y - mb) * (y - mb);
        }
        ab / (aa * bb).sqrt()
    }

    fn turned_upside_down(image: &[f64]) -> Vec<f64> {
        image.iter().rev().copied().collect()
    }

    /// The share of digits, turned counter-clockwise by 90° if so wanted, that are nearest to the mean of their class.
    fn nearest_mean_accuracy(turn: bool) -> f64 {
        let means = means(&make(5, Split::Train, 3_000));
        let test = make(5, Split::Test, 1_000);
        let right = (0..test.len()).filter(|&i| {
            let upright = test.image(i);
            let image: Vec<f64> = (0..SIZE * SIZE)
                .map(|k| if turn { upright[k % SIZE * SIZE + SIZE - 1 - k / SIZE] } else { upright[k] })
                .map(|p| f64::from(p) / 255.0)
                .collect();
            let distance =
                |mean: &[f64; SIZE * SIZE]| mean.iter().zip(&image).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            let nearest = (0..CLASSES).min_by(|&a, &b| distance(&means[a]).total_cmp(&distance(&means[b])));
            nearest == Some(usize::from(test.labels()[i]))
        });
        right.count() as f64 / test.len() as f64
    }

    /// On MNIST the same classifier gets 82 %.
    #[test]
    fn the_digits_can_be_told_apart_but_not_trivially() {
        let accuracy = nearest_mean_accuracy(false);
        assert!((0.7..0.92).contains(&accuracy), "{accuracy}");
    }

    #[test]
    fn a_quarter_turn_makes_them_unrecognisable_to_what_knows_upright_ones() {
        let accuracy = nearest_mean_accuracy(true);
        assert!(accuracy < 0.35, "{accuracy}");
    }

    #[test]
    fn symmetry_under_half_a_turn_is_that_of_the_real_digits() {
        let means = means(&make(6, Split::Train, 5_000));
        let own = |digit: usize| correlation(&means[digit], &turned_upside_down(&means[digit]));
        for digit in [0, 1, 8] {
            assert!(own(digit) > 0.93, "{digit}: {}", own(digit));
        }
        for digit in [2, 6, 7, 9] {
            assert!(own(digit) < 0.8, "{digit}: {}", own(digit));
        }
        let six_as_nine = correlation(&turned_upside_down(&means[6]), &means[9]);
        assert!(six_as_nine > 0.8 && six_as_nine > correlation(&means[6], &means[9]) + 0.2, "{six_as_nine}");
    }
}
