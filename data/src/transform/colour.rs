//! What changes the colours of pixels and not their places.

use crate::{Dice, Image};
use quarterturn_core::Result;

/// How much red, green and blue count for grey.
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// Brightness, contrast and saturation, by factors drawn about 1.
pub fn jitter(mut image: Image, shares: [f32; 3], dice: &mut Dice) -> Image {
    let [brightness, contrast, saturation] = shares.map(|share| dice.uniform((1.0 - share).max(0.0), 1.0 + share));
    blend(&mut image, brightness, |_, _| 0.0);
    let grey = greys(&image);
    // The sum of whole numbers is exact.
    let sum: u64 = grey.iter().map(|&grey| u64::from(byte(grey))).sum();
    let mean = sum as f32 / grey.len() as f32;
    blend(&mut image, contrast, |_, _| mean);
    if image.extents()[0] == 3 {
        let grey = greys(&image);
        blend(&mut image, saturation, |_, place| grey[place]);
    }
    image
}

/// Grey in so many channels, unless the image has so many.
pub fn channels(image: Image, channels: usize) -> Result<Image> {
    let [had, height, width] = image.extents();
    if had == channels {
        return Ok(image);
    }
    let plane: Vec<u8> = greys(&image).into_iter().map(byte).collect();
    Image::of_planes(plane.repeat(channels), [channels, height, width])
}

/// `factor · pixel + (1 − factor) · other`, rounded and within 0 to 255.
fn blend(image: &mut Image, factor: f32, other: impl Fn(usize, usize) -> f32) {
    for (channel, plane) in image.planes_mut().enumerate() {
        for (place, pixel) in plane.iter_mut().enumerate() {
            *pixel = byte(factor * f32::from(*pixel) + (1.0 - factor) * other(channel, place));
        }
    }
}

fn byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// The grey of each pixel; of other than three channels, their mean.
fn greys(image: &Image) -> Vec<f32> {
    let channels = image.extents()[0];
    let weight = |channel: usize| if channels == 3 { GREY[channel] } else { 1.0 / channels as f32 };
    let mut greys = vec![0.0; image.pixels().len() / channels];
    for (channel, plane) in image.planes().enumerate() {
        greys.iter_mut().zip(plane).for_each(|(grey, &pixel)| *grey += weight(channel) * f32::from(pixel));
    }
    greys
}

/// A black square of side `size` about a random pixel.
pub fn cut_out(mut image: Image, size: usize, dice: &mut Dice) -> Image {
    let [_, height, width] = image.extents();
    let mut part = |extent: usize| {
        let middle = dice.below(extent);
        let start = middle.saturating_sub(size / 2);
        // What is cut off at the upper edge is not added at the lower one.
        let end = middle.saturating_add(size).saturating_sub(size / 2).min(extent);
        start..end.max(start)
    };
    let (rows, columns) = (part(height), part(width));
    for plane in image.planes_mut() {
        plane.chunks_exact_mut(width).skip(rows.start).take(rows.len()).for_each(|line| line[columns.clone()].fill(0));
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transform;
    use quarterturn_core::Stream;

    fn dice(index: u64) -> Dice {
        Dice::new(Stream::new(1, 2, 3), index << 16)
    }

    #[test]
    fn factors_are_within_their_bounds_and_colours_by_hand() {
        let image = Image::new(vec![100, 50, 200, 50, 0, 50], [3, 1, 2]).unwrap();
        let jitter = |shares: [f32; 3], index| {
            let [brightness, contrast, saturation] = shares;
            let jitter = Transform::ColorJitter { brightness, contrast, saturation };
            jitter.apply(image.clone(), &mut dice(index)).unwrap()
        };
        assert_eq!(jitter([0.0; 3], 0), image);
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..200 {
            let brightened = jitter([0.5, 0.0, 0.0], index).pixels().to_vec();
            assert!((50..=150).contains(&brightened[0]) && (100..=255).contains(&brightened[2]), "{brightened:?}");
            // One factor for all.
            assert!(brightened[4] == 0 && brightened[1].abs_diff(brightened[0] / 2) <= 1);
            seen.insert(brightened[0]);
            // The grey of the first pixel is 147.3, of the second 50; so their mean 98.5, and a grey pixel has no saturation.
            let [contrasted, saturated] =
                [[0.0, 0.5, 0.0], [0.0, 0.0, 0.5]].map(|shares| jitter(shares, index).pixels().to_vec());
            let factor = (f32::from(contrasted[4]) - 98.5) / -98.5;
            assert!((0.49..=1.01).contains(&factor), "{factor}");
            // Where no pixel would have been below 0.
            assert!(contrasted[4] == 0 || (f32::from(contrasted[1]) - (98.5 - factor * 48.5)).abs() <= 1.5);
            assert_eq!([saturated[1], saturated[3], saturated[5]], [50; 3]);
            let factor = (147.3 - f32::from(saturated[0])) / 47.3;
            assert!((0.47..=1.53).contains(&factor), "{factor}");
        }
        assert!(seen.len() > 50);
        assert!(
            Transform::ColorJitter { brightness: -0.1, contrast: 0.0, saturation: 0.0 }
                .apply(image, &mut dice(0))
                .is_err()
        );
    }

    #[test]
    fn squares_are_cut_out_within_the_image() {
        let white = Image::new(vec![255; 2 * 5 * 7], [2, 5, 7]).unwrap();
        let mut sizes = std::collections::BTreeSet::new();
        for index in 0..200 {
            let cut = Transform::Cutout { size: 3 }.apply(white.clone(), &mut dice(index)).unwrap();
            let [first, second]: [&[u8]; 2] = cut.planes().collect::<Vec<_>>().try_into().unwrap();
            assert_eq!(first, second);
            sizes.insert(first.iter().filter(|&&pixel| pixel == 0).count());
        }
        // In the middle, at an edge, in a corner.
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [4, 6, 9]);
        assert_eq!(Transform::Cutout { size: 0 }.apply(white.clone(), &mut dice(0)).unwrap(), white);
        let all = Transform::Cutout { size: usize::MAX }.apply(white, &mut dice(0));
        assert!(all.unwrap().pixels().contains(&0));
    }
}
