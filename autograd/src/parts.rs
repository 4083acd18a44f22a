//! Batches in parts that share their norms' statistics.

use quarterturn_core::Result;

/// How one part of a batch is joined with the other parts, for [`crate::Var::batch_norm_sync`] (synchronised batch
/// norm). Each part has a tape of its own and goes through the same network. At each norm a part waits for the others.
pub trait Parts {
    /// Adds `own` to the numbers of the other parts, number by number and in a fixed order, and returns the sums. All
    /// parts make the same calls in the same order, with equally many numbers. Returns `None` if a part has failed:
    /// then nothing that this part computes afterwards is used, and the caller who runs the parts gets the error.
    fn sum(&self, own: Result<Vec<f64>>) -> Option<Vec<f64>>;

    /// The weight of this part's loss beside those of the other parts, such as the number of its images.
    fn weight(&self) -> f64;
}
