//! Where Quarterturn's numbers live: shapes, tensors, devices, the GPU runtime, random numbers and errors.

mod device;
mod error;
mod file;
#[cfg(feature = "gpu")]
pub mod gpu;
mod host;
mod preparation;
mod random;
mod shape;
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
pub use tensor::{Tensor, common_device};
