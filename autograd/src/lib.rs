//! Automatic differentiation (backpropagation), parameters, optimizers, learning rates, and a check of gradients.
//!
//! # A training step
//!
//! A [`Tape`] records the operations of one step; PyTorch keeps this graph out of sight. A [`Var`] is a tensor on the
//! tape. Data become `Var`s by [`Tape::constant`], parameters by [`Tape::param`]. Each method of `Var` computes its
//! result at once. [`Var::backward`] returns [`Gradients`]. [`Optimizer::step`] applies them to the parameters. It
//! finds these through a function that calls back with each parameter and its name; for a network that function is
//! `network.visit`.
//!
//! ```
//! use quarterturn_autograd::{Optimizer, Param, Tape};
//! use quarterturn_core::{Device, Tensor};
//!
//! # fn main() -> quarterturn_core::Result<()> {
//! let mut weight = Param::weight(Tensor::full([1, 3], 0.5, &Device::Cpu)?);
//! let mut optimizer = Optimizer::sgd(0.9, 0.0);
//! let x = Tensor::from_vec([2, 3], vec![1., 2., 3., 4., 5., 6.], &Device::Cpu)?;
//!
//! let tape = Tape::new();
//! let loss = tape.constant(x).linear(&tape.param(&weight), None).sum();
//! let gradients = loss.backward()?;
//! optimizer.step(&gradients, 0.01, |f| f("weight", &mut weight))?;
//! # Ok(())
//! # }
//! ```
//!
//! Gradients are values, so you can change them before the step. [`Gradients::add`] and [`Gradients::scale`] accumulate
//! several batches, [`Gradients::clip_norm`] clips. For an update rule of your own, read them with [`Gradients::of`]
//! and set each parameter with [`Param::set`]. [`Param::set_frozen`] freezes a weight. [`Averages`] keeps an
//! exponential moving average of all parameters.
//!
//! # An operation of your own
//!
//! First try to combine the methods of [`Var`]; then the gradient comes for free. An elementwise function is a
//! [`quarterturn_kernels::Elementwise`], and `x.map(&MY_FUNCTION)` applies it. For any other operation, compute the
//! result yourself and pass it to [`Var::custom`], together with a closure from the gradient of the result to the
//! gradients of the operands. Any code may compute them. This example has one branch for each device:
//!
//! ```
//! use quarterturn_autograd::{Tape, Var, gradcheck};
//! use quarterturn_core::{Device, Tensor};
//!
//! /// `y[…, i] = x[…, 0] + … + x[…, i]`: the sums of the last axis so far.
//! fn cumulative_sum<'t>(x: &Var<'t>) -> Var<'t> {
//!     // x[j] is part of every y[i] with i ≥ j: its gradient is the sum of theirs, from the end.
//!     Var::custom("cumulative_sum", &[x], scan(x.value(), false), |dy| vec![Some(scan(&dy, true))])
//! }
//!
//! fn scan(x: &Tensor, backward: bool) -> Tensor {
//!     let length = *x.dims().last().expect("cumulative_sum: expected an axis");
//!     match x.device() {
//!         Device::Cpu => {
//!             let mut y = x.f32s().to_vec();
//!             y.chunks_mut(length).for_each(|row| add_up(row, backward));
//!             Tensor::cpu(x.shape(), y.into())
//!         }
//!         Device::Reference => {
//!             let mut y = x.f64s().to_vec();
//!             y.chunks_mut(length).for_each(|row| add_up(row, backward));
//!             Tensor::reference(x.shape(), y)
//!         }
//!         #[cfg(feature = "gpu")]
//!         Device::Gpu(gpu) => {
//!             use quarterturn_core::gpu::{Kernel, Size};
//!             static KERNEL: Kernel = Kernel::new("scan", SHADER);
//!             let (y, rows) = (gpu.output(x.len()), Size::Threads(x.len() / length));
//!             gpu.launch(&KERNEL, &[], &[x.buffer()], &[&y], &[length as u32, backward.into()], rows);
//!             Tensor::gpu(x.shape(), y)
//!         }
//!     }
//! }
//!
//! fn add_up<T: Copy + Default + std::ops::Add<Output = T>>(row: &mut [T], backward: bool) {
//!     let mut sum = T::default();
//!     for i in 0..row.len() {
//!         let at = if backward { row.len() - 1 - i } else { i };
//!         sum = sum + row[at];
//!         row[at] = sum;
//!     }
//! }
//!
//! # #[cfg(feature = "gpu")]
//! static SHADER: &str = "
//! @group(0) @binding(0) var<storage, read> x: array<f32>;
//! @group(0) @binding(1) var<storage, read_write> y: array<f32>;
//! @group(1) @binding(0) var<uniform> row: vec2u; // its length, and 1 to go backward
//!
//! @compute @workgroup_size(64)
//! fn scan(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
//!         @builtin(local_invocation_index) lane: u32) {
//!     let first = ((group.y * groups.x + group.x) * 64u + lane) * row.x;
//!     if (first < arrayLength(&x)) {
//!         var sum = 0.0;
//!         for (var i = 0u; i < row.x; i++) {
//!             let at = first + select(i, row.x - 1u - i, row.y == 1u);
//!             sum += x[at];
//!             y[at] = sum;
//!         }
//!     }
//! }";
//!
//! # fn main() -> quarterturn_core::Result<()> {
//! for device in quarterturn_core::testing::devices() {
//!     let tape = Tape::new();
//!     let x = tape.variable(Tensor::from_vec([3], vec![1.0, 2.0, 3.0], &device)?);
//!     let y = cumulative_sum(&x);
//!     assert_eq!(y.value().to_vec()?, [1.0, 3.0, 6.0]);
//!     assert_eq!(y.sum().backward()?.wrt(&x).unwrap().to_vec()?, [3.0, 2.0, 1.0]);
//! }
//! // In f64, the gradient agrees with a difference quotient.
//! let x = Tensor::reference([2, 3], vec![0.3, -1.0, 2.0, 0.5, 0.1, -0.7]);
//! assert_eq!(gradcheck(|_, v| cumulative_sum(&v[0]), &[x], 1e-7), Ok(()));
//! # Ok(())
//! # }
//! ```
//!
//! The folder `tests/outside` of the repository is an example crate with this operation, an activation, a loss and an
//! update rule.

mod averages;
mod gradcheck;
mod gradients;
mod ops;
mod optimizer;
mod param;
mod param_group;
mod parts;
mod schedule;
mod tape;
mod var;

pub use averages::Averages;
pub use gradcheck::{GradientError, gradcheck};
pub use gradients::Gradients;
pub use optimizer::{Optimizer, Rule};
pub use param::{Kind, Param, ParamId};
pub use param_group::ParamGroup;
pub use parts::Parts;
pub use schedule::{OwnRate, Position, Schedule};
pub use tape::Tape;
pub use var::Var;
