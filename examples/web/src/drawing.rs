//! From a drawing to a digit like those of MNIST.

use quarterturn::{
    core::{Device, Error, Result},
    data::{Image, Pipeline, Transform},
};

/// Width and height of a digit.
pub const SIDE: usize = 28;
/// Of the square that its ink fits into.
const INK: usize = 20;
/// Below it a pixel is paper: smoothed edges reach far.
const FAINTEST: u8 = 32;

/// A digit of 28×28 pixels, 255 for ink, as MNIST's were made: the ink in proportion into 20×20 pixels, and its centre of mass into
/// the middle.
///
/// # Errors
/// [`Error::Invalid`] if nothing is drawn, or `pixels` are not `height` × `width`.
pub fn digit(pixels: &[u8], height: usize, width: usize) -> Result<Vec<u8>> {
    let drawing = Image::new(pixels.to_vec(), [1, height, width])?;
    let ink = drawing.pixels().iter().enumerate().filter(|&(_, &value)| value >= FAINTEST);
    let places = ink.map(|(at, _)| [at / width, at % width]);
    let bounds = places.fold(None, |bounds: Option<[[usize; 2]; 2]>, place| {
        let [least, most] = bounds.unwrap_or([place, place]);
        let with = |of: [usize; 2], choose: fn(usize, usize) -> usize| [0, 1].map(|axis| choose(of[axis], place[axis]));
        Some([with(least, usize::min), with(most, usize::max)])
    });
    let Some([[top, left], [bottom, right]]) = bounds else {
        return Err(Error::Invalid("nothing is drawn yet".into()));
    };
    let extents = [bottom + 1 - top, right + 1 - left];
    let rows = pixels.chunks_exact(width).skip(top).take(extents[0]);
    let cut: Vec<u8> = rows.flat_map(|row| &row[left..=right]).copied().collect();
    let longest = extents[0].max(extents[1]);
    let size = extents.map(|extent| ((INK * extent + longest / 2) / longest).max(1));
    let pipeline = Pipeline { transforms: vec![Transform::Resize { size }], ..Pipeline::plain(1) };
    let small = pipeline.prepare(Image::new(cut, [1, extents[0], extents[1]])?, &Device::Cpu)?.to_vec()?;
    let small: Vec<u8> = small.iter().map(|value| (255.0 * value).round() as u8).collect();
    Ok(centred(&small, size))
}

/// The pixels on a digit's paper, moved by whole pixels until their centre of mass is next to the middle, as far as they stay on it.
fn centred(pixels: &[u8], [height, width]: [usize; 2]) -> Vec<u8> {
    let (mut mass, mut moments) = (0.0, [0.0; 2]);
    for (at, &value) in pixels.iter().enumerate() {
        mass += f64::from(value);
        moments[0] += f64::from(value) * (at / width) as f64;
        moments[1] += f64::from(value) * (at % width) as f64;
    }
    let middle = (SIDE as f64 - 1.0) / 2.0;
    let start = |moment: f64, extent: usize| {
        let wanted = (middle - moment / f64::max(mass, 1.0)).round();
        wanted.clamp(0.0, (SIDE - extent) as f64) as usize
    };
    let (top, left) = (start(moments[0], height), start(moments[1], width));
    let mut digit = vec![0; SIDE * SIDE];
    for (row, line) in pixels.chunks_exact(width).enumerate() {
        digit[(top + row) * SIDE + left..][..width].copy_from_slice(line);
    }
    digit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box of ink in a corner becomes 20 pixels high, in proportion, and comes into the middle; so does a turned one, turned.
    #[test]
    fn ink_is_scaled_and_centred() {
        let (height, width) = (120, 100);
        let mut pixels = vec![0; height * width];
        for y in 10..90 {
            for x in 3..43 {
                pixels[y * width + x] = 255;
            }
        }
        let upright = digit(&pixels, height, width).unwrap();
        let rows: Vec<usize> = (0..SIDE).filter(|y| upright[y * SIDE..][..SIDE].contains(&255)).collect();
        let columns: Vec<usize> = (0..SIDE).filter(|x| (0..SIDE).any(|y| upright[y * SIDE + x] == 255)).collect();
        assert_eq!((rows[0], rows.len(), columns[0], columns.len()), (4, 20, 9, 10));
        let transposed: Vec<u8> = (0..height * width).map(|at| pixels[at % height * width + at / height]).collect();
        let turned = digit(&transposed, width, height).unwrap();
        assert!((0..SIDE * SIDE).all(|at| turned[at] == upright[at % SIDE * SIDE + at / SIDE]));
    }

    /// The heavy end of a stroke draws the digit over, and not out of the picture.
    #[test]
    fn the_centre_of_mass_counts() {
        let width = 40;
        let pixels: Vec<u8> =
            (0..width * width).map(|at| if at / width < 8 || at % width < 2 { 255 } else { 0 }).collect();
        let digit = digit(&pixels, width, width).unwrap();
        let first = (0..SIDE).find(|y| digit[y * SIDE..][..SIDE].contains(&255)).unwrap();
        assert_eq!(first, 8, "20 rows end at the edge");
    }

    #[test]
    fn empty_paper_and_wrong_sizes_are_errors() {
        assert!(digit(&[0; 100], 10, 10).unwrap_err().to_string().contains("nothing is drawn"));
        assert!(digit(&[0; 99], 10, 10).is_err());
        assert!(digit(&[], 0, 0).is_err());
        let dot = digit(&[[0; 4], [0, 255, 0, 0]].concat(), 2, 4).unwrap();
        assert_eq!(dot.iter().filter(|&&value| value == 255).count(), INK * INK);
    }
}
