//! Tensors and the devices that they live on; shapes, the GPU runtime, random numbers and errors.
//!
//! ```
//! use quarterturn_core::{Device, Tensor};
//!
//! # fn main() -> quarterturn_core::Result<()> {
//! let x = Tensor::from_vec([2, 3], vec![1., 2., 3., 4., 5., 6.], &Device::Cpu)?;
//! assert_eq!(x.reshape([3, 2]).dims(), [3, 2]);
//! let same = x.to_device(&Device::Reference)?; // PyTorch: x.to(device)
//! assert_eq!(same.to_vec()?, [1., 2., 3., 4., 5., 6.]); // PyTorch: x.tolist()
//! # Ok(())
//! # }
//! ```
//!
//! Operations on tensors are functions of `quarterturn_kernels`. With gradients they are methods of
//! `quarterturn_autograd::Var`.

mod device;
mod error;
mod file;
#[cfg(feature = "gpu")]
pub mod gpu;
mod host;
mod preparation;
mod random;
mod shape;
mod share;
mod tensor;
#[doc(hidden)]
pub mod testing;

pub use device::Device;
pub use error::{Error, Result};
pub use file::{NewFile, replace_file, sync_folder_of, unfinished_name};
pub use host::HostBuffer;
pub use preparation::{Preparation, Step};
pub use random::{Stream, philox};
pub use shape::{MAX_RANK, Shape, dilated_extent, transposed_extent, window_extent, window_residual};
pub use share::Share;
pub use tensor::{Tensor, common_device};
