//! Labelled images in memory, and parts of them.

use crate::{Batches, image};
use quarterturn_core::{Error, Result, Stream};
use std::{fmt, sync::Arc};

/// The stream that draws a random part of a data set.
pub(crate) const SPLIT: u32 = u32::from_be_bytes(*b"splt");

/// Labelled 8-bit images of one size, `[N, C, H, W]`. Cloning shares the memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Dataset {
    name: String,
    pixels: Arc<Vec<u8>>,
    labels: Arc<Vec<u8>>,
    extents: [usize; 3],
    classes: usize,
}

impl Dataset {
    /// A data set of `labels.len()` images; `extents` are channels, height and width, `[C, H, W]`, and `pixels` holds the
    /// images one after the other, each one channel after the other.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an extent is zero, the number of pixels is not that of the labels times the extents, a label is
    /// not below `classes`, or the extents look like `[H, W, C]`: the last is at most 4 and the others are more. (Images
    /// of more than 4 channels that are so narrow can be given to [`Dataset::from_interleaved`].)
    pub fn new(
        name: impl Into<String>,
        pixels: Vec<u8>,
        labels: Vec<u8>,
        extents: [usize; 3],
        classes: usize,
    ) -> Result<Self> {
        let name = name.into();
        image::expect_planes(extents).map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
        Self::of_planes(name, pixels, labels, extents, classes)
    }

    /// As [`Dataset::new`], from images whose channels are next to each other: `extents` are height, width and channels,
    /// `[H, W, C]`, as NumPy and most image libraries have them.
    ///
    /// # Errors
    /// As [`Dataset::new`], for extents that look like `[C, H, W]`: the first is at most 4 and the others are more.
    pub fn from_interleaved(
        name: impl Into<String>,
        pixels: &[u8],
        labels: Vec<u8>,
        extents: [usize; 3],
        classes: usize,
    ) -> Result<Self> {
        let (name, [height, width, channels]) = (name.into(), extents);
        image::expect_interleaved(extents).map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
        let mut planes = Vec::with_capacity(pixels.len());
        // What is no whole image, or none at all, is told by the number of pixels.
        let size = extents.iter().try_fold(1usize, |product, &e| product.checked_mul(e)).unwrap_or(0).max(1);
        for image in pixels.chunks(size) {
            (0..channels).for_each(|channel| planes.extend(image.iter().skip(channel).step_by(channels)));
        }
        Self::of_planes(name, planes, labels, [channels, height, width], classes)
    }

    fn of_planes(name: String, pixels: Vec<u8>, labels: Vec<u8>, extents: [usize; 3], classes: usize) -> Result<Self> {
        if extents.contains(&0) {
            return Err(Error::Invalid(format!("{name}: an image of {extents:?} has no pixels")));
        }
        let wanted = extents.iter().try_fold(labels.len(), |n, &extent| n.checked_mul(extent));
        if wanted != Some(pixels.len()) {
            let (images, bytes) = (labels.len(), pixels.len());
            return Err(Error::Invalid(format!("{name}: {images} images of {extents:?} do not have {bytes} pixels")));
        }
        if let Some(i) = labels.iter().position(|&label| usize::from(label) >= classes) {
            return Err(Error::Invalid(format!("{name}: label {} of image {i} is not below {classes}", labels[i])));
        }
        Ok(Dataset { name, pixels: Arc::new(pixels), labels: Arc::new(labels), extents, classes })
    }

    /// The name of the data set, for tables and figures.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Channels, height and width of an image.
    pub fn extents(&self) -> [usize; 3] {
        self.extents
    }

    /// Number of classes. Labels are from 0 to this − 1.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The class of every image.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// All pixels, `[N, C, H, W]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Pixels of image `index`, `[C, H, W]`.
    ///
    /// # Panics
    /// If there is no such image.
    #[track_caller]
    pub fn image(&self, index: usize) -> &[u8] {
        assert!(index < self.len(), "Dataset::image: {} images, got index {index}", self.len());
        let size = self.image_len();
        &self.pixels[index * size..(index + 1) * size]
    }

    /// The images at `indices`, in that order; an index may occur more than once.
    ///
    /// # Panics
    /// If an index is not below [`Dataset::len`].
    #[track_caller]
    pub fn subset(&self, indices: &[usize]) -> Dataset {
        let mut pixels = Vec::with_capacity(indices.len() * self.image_len());
        for &i in indices {
            pixels.extend_from_slice(self.image(i));
        }
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        Dataset { name: self.name.clone(), pixels: Arc::new(pixels), labels: Arc::new(labels), ..*self }
    }

    /// The first `n` images in the order of the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are fewer.
    pub fn first(&self, n: usize) -> Result<Dataset> {
        self.require(n)?;
        if n == self.len() {
            return Ok(self.clone());
        }
        let pixels = self.pixels[..n * self.image_len()].to_vec();
        let labels = self.labels[..n].to_vec();
        Ok(Dataset { name: self.name.clone(), pixels: Arc::new(pixels), labels: Arc::new(labels), ..*self })
    }

    /// A random split: `n` images drawn by `seed`, and all the others (PyTorch: `random_split`). Both are in the drawn
    /// order.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are fewer than `n`.
    pub fn split(&self, n: usize, seed: u64) -> Result<(Dataset, Dataset)> {
        self.require(n)?;
        let order = Stream::new(seed, SPLIT, 0).permutation(self.len());
        Ok((self.subset(&order[..n]), self.subset(&order[n..])))
    }

    /// Iterates over the images in batches of `batch_size`; the last one may be smaller. By default they are in the
    /// order of the data set, with values from 0 to 1, on the CPU. Methods of [`Batches`] change that.
    ///
    /// # Panics
    /// If `batch_size` is zero.
    #[track_caller]
    pub fn batches(&self, batch_size: usize) -> Batches<'_> {
        Batches::new(self, batch_size)
    }

    fn image_len(&self) -> usize {
        self.extents.iter().product()
    }

    fn require(&self, n: usize) -> Result<()> {
        if n > self.len() {
            return Err(Error::Invalid(format!("{}: {n} images were asked for, there are {}", self.name, self.len())));
        }
        Ok(())
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [c, h, w] = self.extents;
        write!(f, "{}: {} images {c}x{h}x{w}, {} classes", self.name, self.len(), self.classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Image `i` has the pixels 2i and 2i + 1 and the label i mod 10.
    fn numbered(n: u8) -> Dataset {
        Dataset::new("numbered", (0..2 * n).collect(), (0..n).map(|i| i % 10).collect(), [1, 1, 2], 10).unwrap()
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let make = |pixels: usize, labels: Vec<u8>, extents| Dataset::new("x", vec![0; pixels], labels, extents, 10);
        assert!(make(4, vec![0, 9], [1, 1, 2]).is_ok());
        assert!(make(0, vec![], [1, 1, 2]).unwrap().is_empty());
        for (result, wanted) in [
            (make(5, vec![0, 9], [1, 1, 2]), "do not have 5 pixels"),
            (make(0, vec![0, 9], [1, 0, 2]), "has no pixels"),
            (make(4, vec![0, 10], [1, 1, 2]), "label 10 of image 1 is not below 10"),
            (make(4, vec![0, 9], [usize::MAX, 2, 2]), "do not have 4 pixels"),
        ] {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
    }

    /// `[H, W, C]` became so many channels, without a word.
    #[test]
    fn the_order_of_extents_is_not_guessed() {
        for [height, width, channels] in [[28, 28, 1], [32, 32, 3], [8, 8, 3], [5, 7, 4], [96, 64, 2]] {
            let (size, extents) = (height * width * channels, [height, width, channels]);
            let message = Dataset::new("x", vec![0; 2 * size], vec![0, 1], extents, 2).unwrap_err().to_string();
            assert!(message.starts_with("x: [") && message.contains("from_interleaved takes"), "{message}");
            let pixels: Vec<u8> = (0..2 * size).map(|i| (i % 251) as u8).collect();
            let dataset = Dataset::from_interleaved("x", &pixels, vec![0, 1], extents, 2).unwrap();
            assert_eq!(dataset.extents(), [channels, height, width]);
            let place = |n: usize, c: usize, y: usize, x: usize| ((n * channels + c) * height + y) * width + x;
            for (at, &pixel) in pixels.iter().enumerate() {
                let (c, x) = (at % channels, at / channels % width);
                let (y, n) = (at / channels / width % height, at / size);
                assert_eq!(dataset.pixels()[place(n, c, y, x)], pixel);
            }
            let planes = dataset.extents();
            assert!(Dataset::new("x", pixels.clone(), vec![0, 1], planes, 2).is_ok());
            assert!(Dataset::from_interleaved("x", &pixels, vec![0, 1], planes, 2).is_err());
        }
        // What is not doubtful is taken, and what is can be given the other way.
        for extents in [[512, 1, 1], [9, 4, 4], [8, 3, 8], [1, 1, 2], [40, 9, 9]] {
            assert!(Dataset::new("x", vec![0; extents.iter().product()], vec![0], extents, 1).is_ok(), "{extents:?}");
        }
        let narrow = Dataset::from_interleaved("x", &[1; 192], vec![0], [8, 3, 8], 1).unwrap();
        assert_eq!(narrow.extents(), [8, 8, 3]);
        assert_eq!(crate::Samples::decode(&narrow, 0).unwrap().extents(), [8, 8, 3]);
        for (pixels, extents, wanted) in [
            (5, [1, 2, 3], "do not have 5 pixels"),
            (6, [1, 2, 0], "has no pixels"),
            (0, [usize::MAX, 2, 2], "do not have"),
        ] {
            let message =
                Dataset::from_interleaved("x", &vec![0; pixels], vec![0], extents, 1).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
    }

    #[test]
    fn a_subset_keeps_pixels_with_labels() {
        let part = numbered(20).subset(&[13, 2, 2]);
        assert_eq!(part.pixels(), [26, 27, 4, 5, 4, 5]);
        assert_eq!(part.labels(), [3, 2, 2]);
        assert_eq!(part.image(0), [26, 27]);
    }

    #[test]
    fn a_split_is_a_partition_that_the_seed_decides() {
        let whole = numbered(50);
        let (a, b) = whole.split(40, 3).unwrap();
        assert_eq!((a.len(), b.len()), (40, 10));
        let firsts: BTreeSet<u8> = a.pixels().iter().chain(b.pixels()).copied().filter(|p| p % 2 == 0).collect();
        assert_eq!(firsts.len(), 50);
        assert_eq!(whole.split(40, 3).unwrap(), (a.clone(), b));
        assert_ne!(whole.split(40, 4).unwrap().0, a);
        assert_ne!(a.labels()[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn more_images_than_there_are_is_an_error_that_counts_them() {
        for result in [numbered(5).first(6), numbered(5).split(6, 0).map(|(a, _)| a)] {
            assert_eq!(result.unwrap_err().to_string(), "numbered: 6 images were asked for, there are 5");
        }
        assert_eq!(numbered(5).first(2).unwrap().pixels(), [0, 1, 2, 3]);
        assert_eq!(numbered(5).first(5).unwrap(), numbered(5));
        assert_eq!(numbered(5).split(0, 1).unwrap().1.len(), 5);
    }

    #[test]
    #[should_panic(expected = "Dataset::image: 5 images, got index 5")]
    fn an_index_past_the_end_is_a_broken_contract() {
        numbered(5).subset(&[5]);
    }
}
