//! Files that keep networks.

pub mod checkpoint;
mod preparation;
mod safetensors;
