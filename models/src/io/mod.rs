//! Files of networks.

pub mod checkpoint;
mod preparation;
pub(crate) mod regular;
pub(crate) mod safetensors;
mod save;

pub(crate) use checkpoint::missing;
pub(crate) use safetensors::quote;
pub(crate) use save::Encoder;
