//! Group-equivariant CNNs that are exact to the last bit.
pub use quarterturn_core as core;
