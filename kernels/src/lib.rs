//! The operations on tensors, without gradients being recorded (for that see `quarterturn_autograd::Var`). Each
//! operation has a formula and runs on every device.
//!
//! ```
//! use quarterturn_core::{Device, Tensor};
//! use quarterturn_kernels::{Conv, Group, group_conv, transform_plane};
//!
//! # fn main() -> quarterturn_core::Result<()> {
//! let image = Tensor::from_vec([1, 1, 1, 5, 5], (0..25u8).map(f32::from).collect(), &Device::Cpu)?;
//! let filter = Tensor::full([2, 1, 1, 3, 3], 0.1, &Device::Cpu)?; // [C_out, C_in, G_in, k, k]
//! let maps = group_conv(&image, &filter, None, Conv::new(Group::C4)); // lifts the image to p4
//! assert_eq!(maps.dims(), [1, 2, 4, 3, 3]); // [N, C, G, H, W]
//! let turned = transform_plane(&image, 1); // by 90° counter-clockwise
//! # let _ = turned;
//! # Ok(())
//! # }
//! ```
//!
//! # Words
//! - A *feature map* is `[N, C, G, H, W]`: image, channel, group element, row, column. Images and maps on z2 have
//!   a group axis of length 1.
//! - A *plane* is one `H × W` slice of a tensor.
//! - The *group* is a set of turns and flips: see [`Group`]. Its *elements* are numbered from 0, where 0 changes
//!   nothing.
//! - `T_g` turns and flips a feature map by element g: the pixels of every plane, and the order of the planes along G
//!   ([`transform_feature_map`]). `act_g` does so with a plane alone ([`transform_plane`]).
//! - An operation *commutes* with g if `f(T_g x) = T_g f(x)`. It does so *exactly*, or *to the last bit*, if both sides
//!   are equal by `==`. This is what equivariance means.
//! - A [`Window`] has a kernel size k, a stride s and a padding p. On i samples it *leaves over* `(i + 2p − k) mod s`
//!   rows (or columns) at the end, which it does not reach. It commutes with quarter turns where that is 0 for both
//!   axes.
//! - An *orbit* is a set of pixels (or filters) that the group's elements turn into each other. Sums that must not
//!   change a bit under a turn first add the members of an orbit.
//! - A *coset* of a subgroup is a set of group elements, and so of planes along G, that are pooled together. In p4m
//!   with the subgroup {no change, flip}, each turn is pooled with the flip followed by that turn.
//! - *Lifting* is what the first convolution does: from an image it makes a map on the group.
//! - The *irreps* (irreducible representations) are what a small Fourier transform along G splits values into. On p4 it
//!   makes of `f₀ … f₃` the numbers `f₀ + f₁ + f₂ + f₃` and `f₀ − f₁ + f₂ − f₃`, and the pair `(f₀ − f₂, f₁ − f₃)`. A
//!   convolution multiplies each of these by its own part of the filter only, and so needs fewer products.
//! - A *tap* is one entry of a filter's k × k. An *adjoint* is the transpose of a linear operation: that of a
//!   convolution is the gradient of its input.
//! - A function `…_vjp` computes the gradient of another one (vector-Jacobian product).

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
mod jobs;
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
#[cfg(feature = "gpu")]
mod variants;
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
#[cfg(feature = "gpu")]
pub use variants::Variants;
pub use warp::*;
