//! Networks for other programs: an equivariant network as an ordinary CNN.
//!
//! [`Plain::of`] walks through a network's layers, each of which says by [`crate::Module::export`] what it is made of: filters are
//! expanded to their orbit once, the group axis is joined with the channels, and the rest are operations that every library has.
//! What comes out is written as weights with a description, which a few lines of Python read ([`Plain::save`]; the lines are
//! `examples/export/plain.py`)
#![cfg_attr(feature = "onnx", doc = "or as an ONNX model ([`Plain::save_onnx`]).")]
#![cfg_attr(not(feature = "onnx"), doc = "or, with the feature `onnx`, as an ONNX model.")]
//!
//! The numbers are those of the network up to rounding. Quarter turns no longer keep every bit: other programs add the terms of a
//! convolution in an order that does not turn with the image. For the same reason an image that is its own quarter turn, such as a
//! blank one, may have another result there in a network with adaptive subsampling: all grids tie, and rounding takes one of them.

mod describe;
mod fold;
mod op;
mod plain;

pub(crate) use plain::Grid;
pub use {
    op::{Op, Size},
    plain::{Array, Plain, Step, Value},
};

use crate::Network;
use quarterturn_core::{Error, Result, Shape};

impl Plain {
    /// The network as operations of ordinary CNNs, in evaluation mode, with its norms as they are
    /// ([`Plain::with_norms_folded`] makes them part of the convolutions). `size` is that of the images; without adaptive
    /// subsampling it may be left out, and the plain network takes images of every size that the layers allow.
    ///
    /// The result has the axes that the network's has, without a group axis of 1.
    ///
    /// ```
    /// use quarterturn_core::{Device, Result};
    /// use quarterturn_models::{MnistCnn, MnistCnnConfig, checkpoint::Notes, export::Plain};
    ///
    /// # fn main() -> Result<()> {
    /// let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 0, &Device::Cpu)?;
    /// let plain = Plain::of(&network, None)?.with_norms_folded();
    /// plain.save(std::env::temp_dir().join("p4cnn-plain.safetensors"), &Notes::new())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the first layer that has no plain form, or that images of this size do not fit.
    pub fn of<N: Network + ?Sized>(network: &N, size: Option<[usize; 2]>) -> Result<Self> {
        if let Some([height, width]) = size {
            network.output_shape(Shape::from([1, network.in_channels(), 1, height, width]))?;
        }
        let mut plain = Plain::new(network.in_channels(), size);
        plain.result = plain.through("", network.layers(), plain.result)?;
        if plain.result.elements > 1 {
            let Value { is_map, channels, elements, .. } = plain.result;
            plain.push(Op::Part { is_map, channels, elements }, &[plain.result], plain.result);
        }
        match plain.steps.is_empty() {
            true => Err(Error::Invalid("a network without layers has no plain form".into())),
            false => Ok(plain),
        }
    }
}
