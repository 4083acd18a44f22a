//! Dropout: element `i` is kept iff word `i` of the stream says so, scaled by `1/(1−p)`.
use quarterturn_core::{Stream, Tensor};

/// `y[i] = x[i] / (1 − p)` where kept, else 0.
pub fn dropout(x: &Tensor, p: f32, stream: Stream) -> Tensor {
    todo!()
}
