//! Rotation of bytes, bilinear.

use crate::Image;
use quarterturn_core::Result;

/// How the value between pixels is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// From the four around it.
    Bilinear,
    /// That of the nearest.
    Nearest,
}

/// Turns counter-clockwise about ((H−1)/2, (W−1)/2); what lies outside counts as black. The angle is split into
/// quarter turns and a rest below 90°, so that multiples of 90° have no rounding in them.
pub fn rotate(image: &Image, degrees: f32, sampling: Sampling) -> Result<Image> {
    let degrees = f64::from(degrees).rem_euclid(360.0);
    let quarters = (degrees / 90.0).floor();
    let (mut sin, mut cos) = (degrees - 90.0 * quarters).to_radians().sin_cos();
    for _ in 0..quarters as u32 {
        (sin, cos) = (cos, -sin);
    }
    let extents = image.extents();
    let [_, height, width] = extents;
    let (middle_y, middle_x) = ((height as f64 - 1.0) / 2.0, (width as f64 - 1.0) / 2.0);
    let mut turned = Image::black(extents)?;
    for row in 0..height {
        for column in 0..width {
            let (y, x) = (row as f64 - middle_y, column as f64 - middle_x);
            let taps = Taps::at(sin * x + cos * y + middle_y, cos * x - sin * y + middle_x, [height, width]);
            for (to, from) in turned.planes_mut().zip(image.planes()) {
                to[row * width + column] = match sampling {
                    Sampling::Bilinear => taps.value(from),
                    Sampling::Nearest => taps.nearest(from),
                };
            }
        }
    }
    Ok(turned)
}

/// The four pixels around a place, and their weights; a weight is 0 where there is no pixel.
struct Taps {
    places: [usize; 4],
    weights: [f64; 4],
}

impl Taps {
    fn at(y: f64, x: f64, [height, width]: [usize; 2]) -> Self {
        let (low_y, low_x) = (y.floor(), x.floor());
        let mut taps = Taps { places: [0; 4], weights: [0.0; 4] };
        for (tap, (dy, dx)) in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].into_iter().enumerate() {
            let (row, column) = (low_y + dy, low_x + dx);
            if (0.0..height as f64).contains(&row) && (0.0..width as f64).contains(&column) {
                taps.places[tap] = row as usize * width + column as usize;
                taps.weights[tap] = (1.0 - (y - row).abs()) * (1.0 - (x - column).abs());
            }
        }
        taps
    }

    /// 0 where there is no pixel.
    fn nearest(&self, plane: &[u8]) -> u8 {
        let (mut heaviest, mut value) = (0.0, 0);
        for (&place, &weight) in self.places.iter().zip(&self.weights) {
            if weight > heaviest {
                (heaviest, value) = (weight, plane[place]);
            }
        }
        value
    }

    fn value(&self, plane: &[u8]) -> u8 {
        let products = self.places.iter().zip(&self.weights).map(|(&place, weight)| f64::from(plane[place]) * weight);
        (products.sum::<f64>() + 0.5) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::{Sampling::Bilinear, *};

    fn noise(height: usize, width: usize) -> Image {
        let pixels = (0..3 * height * width).map(|i| (i * i * 31 % 251) as u8).collect();
        Image::new(pixels, [3, height, width]).unwrap()
    }

    /// `rot90(a, 1)` of numpy: out[i, j] = a[j, n − 1 − i].
    fn quarter(image: &Image) -> Image {
        let [channels, n, _] = image.extents();
        let plane = |p: &[u8]| (0..n * n).map(|k| p[k % n * n + n - 1 - k / n]).collect::<Vec<u8>>();
        Image::new(image.planes().flat_map(plane).collect(), [channels, n, n]).unwrap()
    }

    #[test]
    fn quarter_turns_move_pixels_and_nothing_else() {
        for n in [1, 8, 9] {
            let image = noise(n, n);
            let mut wanted = image.clone();
            for degrees in [0.0, 90.0, 180.0, 270.0, 360.0] {
                assert_eq!(rotate(&image, degrees, Bilinear).unwrap(), wanted, "{degrees}");
                assert_eq!(rotate(&image, degrees - 720.0, Bilinear).unwrap(), wanted);
                wanted = quarter(&wanted);
            }
            for degrees in [10.0, 45.0, 200.0] {
                assert_eq!(
                    rotate(&image, degrees + 90.0, Bilinear).unwrap(),
                    quarter(&rotate(&image, degrees, Bilinear).unwrap())
                );
            }
        }
    }

    #[test]
    fn a_rectangle_keeps_its_extents_and_turns_by_180() {
        let image = noise(4, 7);
        let turned = rotate(&image, 180.0, Bilinear).unwrap();
        let plane = 4 * 7;
        assert!((0..plane).all(|i| turned.pixels()[i] == image.pixels()[plane - 1 - i]));
        assert_eq!(rotate(&image, 33.0, Bilinear).unwrap().extents(), [3, 4, 7]);
    }

    #[test]
    fn corners_come_from_outside_and_are_black() {
        let white = Image::new(vec![255; 81], [1, 9, 9]).unwrap();
        let turned = rotate(&white, 45.0, Bilinear).unwrap();
        assert_eq!((turned.pixels()[0], turned.pixels()[80], turned.pixels()[40]), (0, 0, 255));
    }
}
