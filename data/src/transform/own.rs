//! Transforms of your own.

use crate::{Dice, Image};
use quarterturn_core::{Error, Result};
use std::{fmt, sync::Arc};

/// A transform of your own, for [`crate::Transform::own`].
///
/// Take random numbers from `dice` only. They depend on the loader's seed, the epoch and the image's index, so that a
/// resumed run gets the same images.
///
/// ```
/// use quarterturn_core::Result;
/// use quarterturn_data::{Augment, Dice, Image, Transform};
///
/// /// Black and white exchanged, half of the time.
/// #[derive(Debug)]
/// struct Negative;
///
/// impl Augment for Negative {
///     fn apply(&self, image: Image, dice: &mut Dice) -> Result<Image> {
///         if !dice.chance(0.5) {
///             return Ok(image);
///         }
///         Image::new(image.pixels().iter().map(|pixel| 255 - pixel).collect(), image.extents())
///     }
///
///     // Places stay where they are.
///     fn apply_to_mask(&self, mask: Image, _: &mut Dice) -> Result<Image> {
///         Ok(mask)
///     }
/// }
///
/// let transforms = [Transform::own(Negative), Transform::QuarterTurn];
/// # let _ = transforms;
/// ```
pub trait Augment: fmt::Debug + Send + Sync {
    /// Applies the transform to an image.
    ///
    /// # Errors
    /// Any error; the loader adds the name of the image.
    fn apply(&self, image: Image, dice: &mut Dice) -> Result<Image>;

    /// Applies the transform to the mask of the image, one channel of class indices. `dice` draws the same numbers as
    /// for the image.
    ///
    /// # Errors
    /// As [`Augment::apply`]. Without an implementation, masks are an error.
    fn apply_to_mask(&self, mask: Image, dice: &mut Dice) -> Result<Image> {
        let _ = (mask, dice);
        Err(Error::Invalid(format!("{self:?} does not say what becomes of a mask")))
    }
}

/// A transform of your own; see [`crate::Transform::own`]. Two of them count as equal if their `Debug`
/// output is equal. A resumed run compares that output, so it should show all settings.
#[derive(Clone)]
pub struct OwnTransform(pub(super) Arc<dyn Augment>);

impl fmt::Debug for OwnTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for OwnTransform {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Annotated, Dataset, Loader, Normalization, Pipeline, Samples, Transform};

    /// Adds a number that is drawn.
    #[derive(Debug)]
    struct Brighter {
        #[expect(dead_code, reason = "it is shown, and so decides whether two are equal")]
        most: usize,
    }

    impl Augment for Brighter {
        fn apply(&self, image: Image, dice: &mut Dice) -> Result<Image> {
            let more = dice.below(200) as u8;
            Image::new(image.pixels().iter().map(|pixel| pixel + more).collect(), image.extents())
        }
    }

    fn loader(samples: impl Samples + 'static, threads: usize) -> Loader {
        let normalization = Normalization { mean: vec![0.0], std: vec![1.0 / 255.0] };
        let transforms = vec![Transform::own(Brighter { most: 200 })];
        Loader::new(samples, Pipeline { transforms, normalization }, 4).seed(5).threads(threads)
    }

    #[test]
    fn draws_are_functions_of_seed_epoch_and_place() {
        let samples = || Dataset::new("x", vec![1; 8], vec![0; 8], [1, 1, 1], 1).unwrap();
        let values = |loader: &Loader, epoch| -> Vec<f32> {
            loader.epoch(epoch).flat_map(|batch| batch.unwrap().images.f32s().to_vec()).collect()
        };
        let first = values(&loader(samples(), 0), 3);
        assert_eq!(first, values(&loader(samples(), 3), 3));
        assert_ne!(first, values(&loader(samples(), 3), 4));
        assert_ne!(first, values(&loader(samples(), 3).seed(6), 3));
        assert!(first.iter().any(|value| *value != first[0]));
    }

    /// A mask that is not turned with its image would be wrong without a word.
    #[test]
    fn a_transform_that_says_nothing_of_masks_is_not_applied_to_them() {
        let samples = Annotated::with_masks("cells", vec![1; 4], vec![0; 4], [1, 2, 2], 2).unwrap();
        let message = loader(samples, 0).epoch(0).next().unwrap().unwrap_err().to_string();
        assert_eq!(message, "cells: image 0: Brighter { most: 200 } does not say what becomes of a mask");
    }

    #[test]
    fn two_are_equal_if_they_show_the_same() {
        let of = |most| Transform::own(Brighter { most });
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
    }
}
