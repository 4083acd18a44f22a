//! Parts of a data set.

use crate::{Image, Samples, Target, dataset::SPLIT};
use quarterturn_core::{Error, Result, Stream};
use std::{fmt, sync::Arc};

/// The stream that draws a few images of every class.
const PER_CLASS: u32 = u32::from_be_bytes(*b"clss");

/// A subset of a data set, in any order (PyTorch: `Subset`). Nothing is copied.
#[derive(Clone)]
pub struct Part {
    whole: Arc<dyn Samples>,
    indices: Vec<usize>,
}

impl Part {
    /// The images at `indices`, in that order; an index may occur more than once.
    ///
    /// # Panics
    /// If an index is not below [`Samples::len`].
    #[track_caller]
    pub fn new(whole: Arc<dyn Samples>, indices: Vec<usize>) -> Self {
        let len = whole.len();
        let beyond = indices.iter().find(|&&i| i >= len);
        assert!(beyond.is_none(), "Part::new: indices below {len}, got {beyond:?}");
        Part { whole, indices }
    }

    /// The first `n` images.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are fewer.
    pub fn first(whole: Arc<dyn Samples>, n: usize) -> Result<Self> {
        require(&*whole, n)?;
        Ok(Part { whole, indices: (0..n).collect() })
    }

    /// A random split: `n` images drawn by `seed`, and all the others (PyTorch: `random_split`). Both are in the drawn
    /// order. The same images as [`crate::Dataset::split`] draws.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are fewer than `n`.
    pub fn split(whole: Arc<dyn Samples>, n: usize, seed: u64) -> Result<(Self, Self)> {
        require(&*whole, n)?;
        let mut drawn = Stream::new(seed, SPLIT, 0).permutation(whole.len());
        let others = drawn.split_off(n);
        Ok((Part { whole: whole.clone(), indices: drawn }, Part { whole, indices: others }))
    }

    /// A random fraction of the images, drawn by `seed`: `fraction` times their number, rounded, but at least one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the fraction is not in 0..=1 and above 0, or there is no image.
    pub fn fraction(whole: Arc<dyn Samples>, fraction: f64, seed: u64) -> Result<Self> {
        if !(fraction > 0.0 && fraction <= 1.0) {
            return Err(Error::Invalid(format!("{}: a fraction above 0 and up to 1, got {fraction}", whole.name())));
        }
        let n = ((whole.len() as f64 * fraction).round() as usize).max(1);
        Ok(Self::split(whole, n, seed)?.0)
    }

    /// `n` images of every class, drawn by `seed`, class after class.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a class has fewer.
    pub fn per_class(whole: Arc<dyn Samples>, n: usize, seed: u64) -> Result<Self> {
        let mut classes = vec![Vec::new(); whole.classes()];
        for index in Stream::new(seed, PER_CLASS, 0).permutation(whole.len()) {
            let class = &mut classes[whole.label(index)];
            if class.len() < n {
                class.push(index);
            }
        }
        if let Some(class) = classes.iter().position(|drawn| drawn.len() < n) {
            let (name, has) = (whole.name(), classes[class].len());
            return Err(Error::Invalid(format!("{name}: {n} images of class {class} were asked for, there are {has}")));
        }
        Ok(Part { whole, indices: classes.concat() })
    }

    /// The indices of the images in the whole data set.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }
}

fn require(whole: &dyn Samples, n: usize) -> Result<()> {
    let (name, len) = (whole.name(), whole.len());
    if n > len {
        return Err(Error::Invalid(format!("{name}: {n} images were asked for, there are {len}")));
    }
    Ok(())
}

impl Samples for Part {
    fn name(&self) -> &str {
        self.whole.name()
    }
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn classes(&self) -> usize {
        self.whole.classes()
    }
    fn label(&self, index: usize) -> usize {
        self.whole.label(self.indices[index])
    }
    fn target(&self, index: usize) -> Result<Target> {
        self.whole.target(self.indices[index])
    }
    fn decode(&self, index: usize) -> Result<Image> {
        self.whole.decode(self.indices[index])
    }
    fn describe(&self, index: usize) -> String {
        self.whole.describe(self.indices[index])
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} images of {}", self.len(), self.whole.len(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;

    /// Image `i` is the pixel `i`, its label i mod 5.
    fn numbered(n: u8) -> Dataset {
        Dataset::new("numbered", (0..n).collect(), (0..n).map(|i| i % 5).collect(), [1, 1, 1], 5).unwrap()
    }

    fn pixels(part: &Part) -> Vec<u8> {
        (0..part.len()).map(|i| part.decode(i).unwrap().pixels()[0]).collect()
    }

    #[test]
    fn a_split_is_that_of_the_data_set_in_memory() {
        let whole = numbered(50);
        let (a, b) = Part::split(Arc::new(whole.clone()), 40, 3).unwrap();
        let (in_memory, others) = whole.split(40, 3).unwrap();
        assert_eq!((pixels(&a), pixels(&b)), (in_memory.pixels().to_vec(), others.pixels().to_vec()));
        assert_eq!(a.label(7), usize::from(in_memory.labels()[7]));
        assert_eq!(a.describe(7), format!("numbered: image {}", a.indices()[7]));
    }

    #[test]
    fn every_class_gives_the_same_number() {
        let whole: Arc<dyn Samples> = Arc::new(numbered(50));
        let part = Part::per_class(whole.clone(), 3, 1).unwrap();
        assert_eq!((0..15).map(|i| part.label(i)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        let mut sorted = part.indices().to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 15);
        assert_ne!(part.indices(), Part::per_class(whole.clone(), 3, 2).unwrap().indices());
        let message = Part::per_class(whole, 11, 1).unwrap_err().to_string();
        assert_eq!(message, "numbered: 11 images of class 0 were asked for, there are 10");
    }

    #[test]
    fn fractions_round_and_have_limits() {
        let whole: Arc<dyn Samples> = Arc::new(numbered(50));
        let len = |fraction| Part::fraction(whole.clone(), fraction, 1).map(|part| part.len());
        assert_eq!((len(0.5).unwrap(), len(1.0).unwrap(), len(0.03).unwrap(), len(1e-9).unwrap()), (25, 50, 2, 1));
        for fraction in [0.0, -0.5, 1.1, f64::NAN] {
            assert!(matches!(len(fraction), Err(Error::Invalid(_))), "{fraction}");
        }
        assert_eq!(pixels(&Part::first(whole.clone(), 3).unwrap()), [0, 1, 2]);
        assert!(Part::first(whole, 51).is_err());
    }

    #[test]
    #[should_panic(expected = "Part::new: indices below 5, got Some(5)")]
    fn an_index_past_the_end_is_a_broken_contract() {
        Part::new(Arc::new(numbered(5)), vec![4, 5]);
    }
}
