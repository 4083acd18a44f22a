//! Batches in parts that share their norms' statistics.

use quarterturn_core::Result;

/// What one part of a batch knows of the others, for [`crate::Var::batch_norm_sync`]. Each part is on a tape of its own, and goes through
/// the same network; its norms wait for those of the others.
pub trait Parts {
    /// The sum over all parts, number by number, in a fixed order. All parts make the same calls, with as many numbers, in the same
    /// order. `None` if a part has failed: what is computed from then on is of no use, and whoever runs the parts has the error.
    fn sum(&self, own: Result<Vec<f64>>) -> Option<Vec<f64>>;

    /// How much this part's loss counts beside those of the others: the number of its images, say.
    fn weight(&self) -> f64;
}
