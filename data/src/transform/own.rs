//! Transforms that others write.

use crate::{Dice, Image};
use quarterturn_core::{Error, Result};
use std::{fmt, sync::Arc};

/// A transform of one's own, for [`crate::Transform::own`].
///
/// Its random numbers come from `dice` alone: so they are functions of the loader's seed, the epoch and the image's place, and a run
/// that is resumed meets the same images.
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
    /// What becomes of an image.
    ///
    /// # Errors
    /// What keeps it from being made; the loader names the image.
    fn apply(&self, image: Image, dice: &mut Dice) -> Result<Image>;

    /// What becomes of its mask, one channel of class indices; `dice` stands where it stood for the image.
    ///
    /// # Errors
    /// As [`Augment::apply`]; that masks are not known to be left alone, unless this is implemented.
    fn apply_to_mask(&self, mask: Image, dice: &mut Dice) -> Result<Image> {
        let _ = (mask, dice);
        Err(Error::Invalid(format!("{self:?} does not say what becomes of a mask")))
    }
}

/// A transform of one's own; see [`crate::Transform::own`]. What `Debug` shows of it stands for all that it does: two are equal if
/// that is, and it is compared when a run is resumed.
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
