//! One decoded image.

use quarterturn_core::{Error, Result};
use std::fmt;

/// The largest height or width of an image that is read or made.
pub const MAX_SIDE: usize = 1 << 14;
/// The most bytes that one image may take.
pub const MAX_BYTES: usize = 1 << 28;

/// A decoded 8-bit image, `[C, H, W]`: one channel after the other.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    pixels: Vec<u8>,
    extents: [usize; 3],
}

impl Image {
    /// An image of the given channels, height and width, `[C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an extent is zero, height or width exceed [`MAX_SIDE`], there are not as many pixels
    /// as the extents say, or the extents look like `[H, W, C]`: the last is at most 4 and the others are more. (Images
    /// of more than 4 channels that are so narrow can be made by [`Image::from_interleaved`].)
    pub fn new(pixels: Vec<u8>, extents: [usize; 3]) -> Result<Self> {
        expect_planes(extents)?;
        Self::of_planes(pixels, extents)
    }

    /// From planes whose extents are known to be `[C, H, W]`.
    pub(crate) fn of_planes(pixels: Vec<u8>, extents: [usize; 3]) -> Result<Self> {
        let wanted = checked_len(extents)?;
        if wanted != pixels.len() {
            let message = format!("an image of {extents:?} has {wanted} pixels, got {}", pixels.len());
            return Err(Error::Invalid(message));
        }
        Ok(Image { pixels, extents })
    }

    /// From pixels whose channels are next to each other, `[H, W, C]`, as most files hold them.
    ///
    /// # Errors
    /// As [`Image::new`], for extents that look like `[C, H, W]`: the first is at most 4 and the others are more.
    pub fn from_interleaved(pixels: &[u8], extents: [usize; 3]) -> Result<Self> {
        expect_interleaved(extents)?;
        let [height, width, channels] = extents;
        let mut planes = Vec::new();
        if channels > 0 && pixels.len().is_multiple_of(channels) {
            planes.reserve_exact(pixels.len());
            for channel in 0..channels {
                planes.extend(pixels.iter().skip(channel).step_by(channels));
            }
        }
        Image::of_planes(planes, [channels, height, width])
    }

    /// A black image.
    pub(crate) fn black(extents: [usize; 3]) -> Result<Self> {
        Ok(Image { pixels: vec![0; checked_len(extents)?], extents })
    }

    /// Channels, height and width.
    pub fn extents(&self) -> [usize; 3] {
        self.extents
    }

    /// All pixels, `[C, H, W]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The planes, one per channel.
    pub(crate) fn planes(&self) -> impl Iterator<Item = &[u8]> {
        self.pixels.chunks_exact(self.extents[1] * self.extents[2])
    }

    /// The planes, to be written.
    pub(crate) fn planes_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.pixels.chunks_exact_mut(self.extents[1] * self.extents[2])
    }
}

/// The number of pixels that extents within the limits make.
pub(crate) fn checked_len(extents: [usize; 3]) -> Result<usize> {
    let [channels, height, width] = extents;
    if extents.contains(&0) {
        return Err(Error::Invalid(format!("an image of {extents:?} has no pixels")));
    }
    let len = channels.checked_mul(height).and_then(|n| n.checked_mul(width));
    match len {
        Some(len) if height.max(width) <= MAX_SIDE && len <= MAX_BYTES => Ok(len),
        _ => {
            let message = format!("an image of {extents:?}: at most {MAX_SIDE} pixels a side and {MAX_BYTES} bytes");
            Err(Error::Invalid(message))
        }
    }
}

/// The most channels of a picture: red, green, blue and transparency, or four inks.
const MAX_PICTURE_CHANNELS: usize = 4;

/// Refuses extents that are to be `[C, H, W]` and look like `[H, W, C]`: they would make 28 channels of 28×1 of a digit.
pub(crate) fn expect_planes([a, b, c]: [usize; 3]) -> Result<()> {
    if c <= MAX_PICTURE_CHANNELS && a.min(b) > MAX_PICTURE_CHANNELS {
        return Err(Error::Invalid(format!(
            "[{a}, {b}, {c}] as channels, height, width: {a} channels of {b}x{c}? from_interleaved takes pixels whose \
             channels are next to each other, as height, width, channels"
        )));
    }
    Ok(())
}

/// Refuses extents that are to be `[H, W, C]` and look like `[C, H, W]`.
pub(crate) fn expect_interleaved([a, b, c]: [usize; 3]) -> Result<()> {
    if a <= MAX_PICTURE_CHANNELS && b.min(c) > MAX_PICTURE_CHANNELS {
        return Err(Error::Invalid(format!(
            "[{a}, {b}, {c}] as height, width, channels: {c} channels of {a}x{b}? new takes one channel after the other, \
             as channels, height, width"
        )));
    }
    Ok(())
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [c, h, w] = self.extents;
        write!(f, "image {c}x{h}x{w}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_pixels_become_planes() {
        let image = Image::from_interleaved(&[1, 2, 3, 4, 5, 6], [1, 2, 3]).unwrap();
        assert_eq!(image.extents(), [3, 1, 2]);
        assert_eq!(image.pixels(), [1, 4, 2, 5, 3, 6]);
    }

    /// What makes sense one way only is taken that way only; anything can be said in one of the two.
    #[test]
    fn the_order_of_extents_is_not_guessed() {
        for (planes, interleaved) in
            [([3, 8, 8], [8, 8, 3]), ([1, 28, 28], [28, 28, 1]), ([4, 5, 9], [5, 9, 4]), ([3, 64, 5], [64, 5, 3])]
        {
            let pixels = vec![7; planes.iter().product()];
            assert_eq!(Image::new(pixels.clone(), planes).unwrap().extents(), planes);
            assert_eq!(Image::from_interleaved(&pixels, interleaved).unwrap().extents(), planes);
            let message = Image::new(pixels.clone(), interleaved).unwrap_err().to_string();
            assert!(message.contains("from_interleaved takes"), "{message}");
            assert!(Image::from_interleaved(&pixels, planes).is_err());
        }
        for planes in [[64, 1, 1], [5, 4, 4], [8, 3, 8], [8, 8, 8], [3, 1, 8], [2, 3, 4], [7, 1, 9]] {
            assert!(Image::new(vec![7; planes.iter().product()], planes).is_ok(), "{planes:?}");
        }
        // Eight channels of eight by three.
        assert_eq!(Image::from_interleaved(&[7; 192], [8, 3, 8]).unwrap().extents(), [8, 8, 3]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for (len, extents, wanted) in [
            (5, [3, 1, 2], "has 6 pixels, got 5"),
            (0, [3, 0, 2], "has no pixels"),
            (0, [1, 1, MAX_SIDE + 1], "at most"),
            (0, [usize::MAX, 2, 2], "at most"),
            (0, [3, MAX_SIDE, MAX_SIDE], "at most"),
        ] {
            let message = Image::new(vec![0; len], extents).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
        assert!(Image::from_interleaved(&[1, 2], [1, 2, 0]).is_err());
        assert!(Image::from_interleaved(&[1, 2], [1, 1, 3]).is_err());
    }
}
