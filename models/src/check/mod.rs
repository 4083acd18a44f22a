//! Whether a network is equivariant: by its layers and sizes, and by measurement.

mod equivariance;
mod exactness;
#[cfg(feature = "onnx")]
pub(crate) mod onnx;
mod summary;
mod trace;
mod warnings;

pub use equivariance::{DepthError, EquivarianceError, transform_output};
pub use exactness::{Exactness, Verdict};
pub use summary::{LayerSummary, MultiplyAdds, Standing, Summary};
pub use trace::{BreakingLayer, LayerKind, Symmetry, Trace, WindowedLayer};
pub(crate) use warnings::{warn_of, warn_of_pixels};
