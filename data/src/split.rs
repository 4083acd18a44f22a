//! Which part of a data set that is drawn on the spot.

/// Independent sets of images of one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To fit weights to.
    Train,
    /// To make choices by.
    Validation,
    /// To report accuracy on.
    Test,
}
