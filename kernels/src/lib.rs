//! What Quarterturn can compute: one file per operation, with its formula, CPU code, shader launch and parity cases.

mod adaptive;
mod argmax;
mod arithmetic;
mod axis;
mod batch_norm;
mod blur_pool;
mod concat;
mod coset_pool;
mod cosets;
mod cross_entropy;
mod dense;
mod dropout;
mod elementwise;
#[cfg(feature = "gpu")]
mod exactness;
mod filter_orbit;
mod group;
mod group_conv;
mod index_select;
#[cfg(feature = "gpu")]
mod launch;
pub mod math;
mod matmul;
mod optimizer;
mod order;
mod pad;
#[cfg(test)]
mod parity;
mod peak;
mod permute;
mod plane;
mod pointwise_loss;
mod pool;
mod reduce;
mod resize_nearest;
mod simd;
mod softmax;
mod spatial_mean;
mod strided;
mod subgroup;
mod sweep;
mod transform;
mod warp;

pub use adaptive::*;
pub use argmax::*;
pub use arithmetic::*;
pub use batch_norm::*;
pub use blur_pool::*;
pub use concat::*;
pub use coset_pool::*;
pub use cosets::*;
pub use cross_entropy::*;
pub use dropout::*;
pub use elementwise::*;
#[cfg(feature = "gpu")]
pub use exactness::{BitExactness, LayerExactness, bit_exactness, bit_exactness_async};
pub use filter_orbit::*;
pub use group::Group;
pub use group_conv::*;
pub use index_select::*;
pub use matmul::*;
pub use optimizer::*;
pub use pad::*;
#[cfg(feature = "gpu")]
pub use peak::gpu_peak_flops;
pub use peak::peak_flops;
pub use permute::*;
pub use pointwise_loss::*;
pub use pool::*;
pub use reduce::*;
pub use resize_nearest::*;
pub use simd::Isa;
pub use softmax::*;
pub use spatial_mean::*;
pub use subgroup::*;
pub use transform::*;
pub use warp::*;
