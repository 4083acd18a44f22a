//! Files that keep networks.

pub mod checkpoint;
mod safetensors;
