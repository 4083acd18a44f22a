//! Export: an equivariant network as an ordinary CNN, for other programs.
//!
//! [`Plain::of`] converts a network, layer by layer ([`crate::Module::export`]). Filters are written out in all their
//! orientations, and the group axis is merged into the channels. All operations of the result exist in every library.
//! [`Plain::save`] writes it as weights with a description, which a few lines of Python can run
//! (`examples/export/plain.py`)
#![cfg_attr(feature = "onnx", doc = "or as an ONNX model ([`Plain::save_onnx`]).")]
#![cfg_attr(not(feature = "onnx"), doc = "or, with the feature `onnx`, as an ONNX model.")]
//!
//! Results agree with those of the network up to rounding. In other programs quarter turns do not keep every bit,
//! because they add the terms of a convolution in an order that does not turn with the image. In a network with
//! adaptive subsampling the difference can be larger for an image that is its own quarter turn, such as a blank one.
//! There all grids have the same score, and rounding decides.

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
    /// Converts `network`, in evaluation mode, to operations of ordinary CNNs. Batch norms stay separate until
    /// [`Plain::with_norms_folded`]. `size` is height and width of the images. Without adaptive subsampling it may be
    /// `None`; the plain network then takes images of every size that the layers allow.
    ///
    /// The output has the axes of the network's output, without a group axis of length 1.
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
