//! One decoded image.

use quarterturn_core::{Error, Result};
use std::fmt;

/// The largest height or width of an image that is read or made.
pub const MAX_SIDE: usize = 1 << 14;
/// The most bytes that one image may take.
pub const MAX_BYTES: usize = 1 << 28;

/// An 8-bit image, planes one after the other: `[C, H, W]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    pixels: Vec<u8>,
    extents: [usize; 3],
}

impl Image {
    /// An image of the given channels, height and width.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an extent is zero, height or width exceed [`MAX_SIDE`], or there are not as many pixels
    /// as the extents say.
    pub fn new(pixels: Vec<u8>, extents: [usize; 3]) -> Result<Self> {
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
    /// As [`Image::new`].
    pub fn from_interleaved(pixels: &[u8], [height, width, channels]: [usize; 3]) -> Result<Self> {
        let mut planes = Vec::new();
        if channels > 0 && pixels.len().is_multiple_of(channels) {
            planes.reserve_exact(pixels.len());
            for channel in 0..channels {
                planes.extend(pixels.iter().skip(channel).step_by(channels));
            }
        }
        Image::new(planes, [channels, height, width])
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
