#![doc = include_str!("../README.md")]

pub use quarterturn_autograd as autograd;
pub use quarterturn_core as core;
pub use quarterturn_data as data;
pub use quarterturn_kernels as kernels;
pub use quarterturn_models as models;
