//! Resizing with a triangle filter.

use crate::{Image, image::checked_len};
use quarterturn_core::Result;

/// Weights are fractions of 2²²: a byte times their sum stays below 2³⁰.
const FRACTION_BITS: u32 = 22;

/// To `height` × `width`: one axis after the other, each rounded to bytes; integers only, so the same bits everywhere.
/// Rows are resized first, unless that makes the image larger and resizing the columns makes it smaller.
pub fn resize(image: Image, [height, width]: [usize; 2]) -> Result<Image> {
    let [channels, rows, columns] = image.extents();
    checked_len([channels, height, width])?;
    if width > columns && height < rows {
        resize_columns(&image, height).and_then(|image| resize_rows(&image, width))
    } else if [height, width] == [rows, columns] {
        Ok(image)
    } else {
        resize_rows(&image, width).and_then(|image| resize_columns(&image, height))
    }
}

/// As [`resize`], each pixel that of the nearest place: nothing is mixed.
pub fn nearest(image: &Image, [height, width]: [usize; 2]) -> Result<Image> {
    let [channels, rows, columns] = image.extents();
    let mut resized = Image::black([channels, height, width])?;
    let place = |at: usize, from: usize, to: usize| (2 * at + 1) * from / (2 * to);
    for (to, from) in resized.planes_mut().zip(image.planes()) {
        for (row, line) in to.chunks_exact_mut(width).enumerate() {
            let from = &from[place(row, rows, height) * columns..][..columns];
            line.iter_mut().enumerate().for_each(|(column, pixel)| *pixel = from[place(column, columns, width)]);
        }
    }
    Ok(resized)
}

/// Every row to `width` pixels.
fn resize_rows(image: &Image, width: usize) -> Result<Image> {
    let [channels, rows, columns] = image.extents();
    let axis = Axis::new(columns, width);
    let mut resized = Image::black([channels, rows, width])?;
    for (to, from) in resized.planes_mut().zip(image.planes()) {
        for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(columns)) {
            along_row(from, to, &axis);
        }
    }
    Ok(resized)
}

/// Every column to `height` pixels.
fn resize_columns(image: &Image, height: usize) -> Result<Image> {
    let [channels, rows, width] = image.extents();
    let axis = Axis::new(rows, height);
    let mut resized = Image::black([channels, height, width])?;
    let mut sums = vec![0; width];
    for (to, from) in resized.planes_mut().zip(image.planes()) {
        for (row, to) in to.chunks_exact_mut(width).enumerate() {
            sums.fill(1 << (FRACTION_BITS - 1));
            let (first, weights) = axis.taps(row);
            for (from, &weight) in from.chunks_exact(width).skip(first).zip(weights) {
                sums.iter_mut().zip(from).for_each(|(sum, &pixel)| *sum += i32::from(pixel) * weight);
            }
            to.iter_mut().zip(&sums).for_each(|(pixel, &sum)| *pixel = to_byte(sum));
        }
    }
    Ok(resized)
}

fn along_row(from: &[u8], to: &mut [u8], axis: &Axis) {
    for (column, pixel) in to.iter_mut().enumerate() {
        let (first, weights) = axis.taps(column);
        let products = from[first..].iter().zip(weights).map(|(&pixel, &weight)| i32::from(pixel) * weight);
        *pixel = to_byte((1 << (FRACTION_BITS - 1)) + products.sum::<i32>());
    }
}

/// A sum that began with one half.
fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Which samples of an axis make each of the new ones, and with which weights.
struct Axis {
    firsts: Vec<usize>,
    counts: Vec<usize>,
    /// As many for each new sample as for the one with the most.
    weights: Vec<i32>,
    most: usize,
}

impl Axis {
    /// New sample `i` stands at c = (i + ½)·from/to. Sample `j`, at j + ½, has the weight
    /// max(0, 1 − |j + ½ − c| / r) with r = max(1, from/to), divided by the sum of all weights.
    fn new(from: usize, to: usize) -> Self {
        let step = from as f64 / to as f64;
        let radius = step.max(1.0);
        let most = 2 * radius.ceil() as usize + 1;
        let mut axis = Axis { firsts: Vec::new(), counts: Vec::new(), weights: Vec::new(), most };
        let mut exact = Vec::with_capacity(most);
        for i in 0..to {
            let centre = (i as f64 + 0.5) * step;
            // Rounded outward to whole samples; casts stop at 0.
            let first = (centre - radius + 0.5) as usize;
            let end = ((centre + radius + 0.5) as usize).min(from);
            exact.clear();
            let reciprocal = 1.0 / radius;
            exact.extend((first..end).map(|j| (1.0 - ((j as f64 - centre + 0.5) * reciprocal).abs()).max(0.0)));
            let sum: f64 = exact.iter().sum();
            let whole = f64::from(1 << FRACTION_BITS);
            axis.firsts.push(first);
            axis.counts.push(exact.len());
            axis.weights.extend(exact.iter().map(|weight| (weight / sum * whole + 0.5) as i32));
            axis.weights.resize((i + 1) * most, 0);
        }
        axis
    }

    fn taps(&self, i: usize) -> (usize, &[i32]) {
        (self.firsts[i], &self.weights[i * self.most..][..self.counts[i]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pixels: &[u8], width: usize) -> Vec<u8> {
        let image = Image::new(pixels.to_vec(), [1, 1, pixels.len()]).unwrap();
        resize(image, [1, width]).unwrap().pixels().to_vec()
    }

    fn column(pixels: &[u8], height: usize) -> Vec<u8> {
        let image = Image::new(pixels.to_vec(), [1, pixels.len(), 1]).unwrap();
        resize(image, [height, 1]).unwrap().pixels().to_vec()
    }

    #[test]
    fn by_hand() {
        // Twice as many: ¾ and ¼ of the neighbours, the ends repeated.
        assert_eq!(row(&[0, 200], 4), [0, 50, 150, 200]);
        // Half as many: weights 1, 3, 3, 1 over 8; the ends without what is outside, over 7.
        let halved = [(3.0 * 7.0 + 3.0 * 70.0 + 0.0) / 7.0, (70.0 + 0.0 + 3.0 * 210.0) / 7.0];
        assert_eq!(row(&[7, 70, 0, 210], 2), halved.map(|v: f64| v.round() as u8));
        assert_eq!(row(&[5, 6, 7], 3), [5, 6, 7]);
    }

    #[test]
    fn rows_and_columns_are_treated_alike() {
        let pixels: Vec<u8> = (0..37).map(|i| (i * i * 7 % 256) as u8).collect();
        for to in [1, 2, 5, 36, 37, 38, 80] {
            assert_eq!(row(&pixels, to), column(&pixels, to), "{to}");
        }
    }

    #[test]
    fn flat_images_stay_flat_and_mirrored_ones_mirrored() {
        for (from, to) in [(500, 224), (224, 225), (32, 33), (3, 100), (100, 3), (1, 7), (7, 1)] {
            for value in [0, 1, 127, 254, 255] {
                assert_eq!(row(&vec![value; from], to), vec![value; to], "{value}: {from} to {to}");
            }
            let pixels: Vec<u8> = (0..from).map(|i| (i * i * 31 % 256) as u8).collect();
            let mirrored: Vec<u8> = pixels.iter().rev().copied().collect();
            let (mut resized, other) = (row(&pixels, to), row(&mirrored, to));
            resized.reverse();
            let most = resized.iter().zip(&other).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(most <= Some(1), "{from} to {to}: {most:?}");
        }
    }

    /// What Pillow 13 makes of a 5×4 image, in both orders of the axes.
    #[test]
    fn the_bits_are_pillows() {
        let image = Image::new((0..20).map(|i| (i * i * 37 % 256) as u8).collect(), [1, 4, 5]).unwrap();
        for (size, pixels) in PILLOW {
            assert_eq!(resize(image.clone(), size).unwrap().pixels(), pixels, "{size:?}");
        }
    }

    const PILLOW: [([usize; 2], &[u8]); 4] = [
        ([3, 7], &[47, 44, 61, 110, 84, 89, 110, 137, 110, 96, 115, 95, 107, 133, 128, 76, 84, 200, 186, 128, 57]),
        ([7, 3], &[16, 108, 79, 50, 83, 98, 105, 42, 127, 116, 103, 113, 117, 167, 97, 92, 161, 109, 76, 157, 117]),
        ([2, 3], &[72, 86, 104, 100, 145, 110]),
        (
            [6, 8],
            &[
                0, 16, 44, 113, 126, 81, 79, 80, 79, 64, 47, 72, 80, 71, 105, 131, 150, 113, 63, 56, 58, 70, 124, 165,
                123, 118, 117, 157, 153, 106, 101, 100, 125, 98, 71, 159, 190, 163, 107, 65, 133, 75, 12, 135, 202,
                211, 118, 45,
            ],
        ),
    ];

    /// Stripes finer than the new pixels turn grey instead of becoming other stripes.
    #[test]
    fn making_smaller_does_not_alias() {
        let stripes: Vec<u8> = (0..300).map(|i| if i % 2 == 0 { 255 } else { 0 }).collect();
        assert!(row(&stripes, 29).iter().all(|p| (118..=138).contains(p)), "{:?}", row(&stripes, 29));
    }
}
