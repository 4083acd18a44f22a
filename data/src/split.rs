//! Training, validation and test part of a built-in data set.

/// Independent sets of images with the same seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To train on.
    Train,
    /// To choose settings and epochs by.
    Validation,
    /// To report accuracy on.
    Test,
}
