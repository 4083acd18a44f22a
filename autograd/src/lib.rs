//! Reverse-mode autodiff: a tape of vector-Jacobian products, parameters, optimizers and the check of gradients.
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

mod averages;
mod gradcheck;
mod gradients;
mod ops;
mod optimizer;
mod param;
mod param_group;
mod schedule;
mod tape;
mod var;

pub use averages::Averages;
pub use gradcheck::{GradientError, gradcheck};
pub use gradients::Gradients;
pub use optimizer::{Optimizer, Rule};
pub use param::{Kind, Param, ParamId};
pub use param_group::ParamGroup;
pub use schedule::{OwnRate, Position, Schedule};
pub use tape::Tape;
pub use var::Var;
