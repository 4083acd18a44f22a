//! The smallest network that subsamples, with which Figure 3 of Edixhoven et al. 2023 shows that a network of exactly
//! equivariant layers can learn to tell an image from its quarter turn.

use crate::{Builder, Chain, Config, Init, Network};
use quarterturn_core::{Device, Error, Result, Tensor};
use quarterturn_kernels::{Group, Window};

/// Lifting convolution on p4 (k = 3, s = 2, p = 1; one channel to one) → mean over space → maximum over the group →
/// linear layer 1 → 2. Exact for odd sizes (33), not for even ones (32).
#[derive(Debug)]
pub struct SubsamplingNet {
    layers: Chain,
}

impl SubsamplingNet {
    /// A network with random weights that are a function of `seed`.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn new(seed: u64, device: &Device) -> Result<Self> {
        Self::with_init(Init::new(seed), device)
    }

    pub(crate) fn with_init(init: Init, device: &Device) -> Result<Self> {
        let layers = Builder::new(Group::C4, 1, init, device)
            .conv("conv", 1, Window { kernel_size: 3, stride: 2, padding: 1 })
            .spatial_mean()
            .coset_max()
            .linear("linear", 2)
            .build()?;
        Ok(SubsamplingNet { layers })
    }

    /// The output of the convolution for images `[N, 1, 1, H, W]`: the feature map `[N, 1, 4, H', W']` before the mean.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the images do not fit.
    pub fn feature_map(&self, images: &Tensor) -> Result<Tensor> {
        let mut map = None;
        self.predict_watched(images, &mut |name, y| {
            if name == "conv" {
                map = Some(y.clone());
            }
        })?;
        map.ok_or_else(|| Error::Invalid("the network has no layer conv".into()))
    }
}

impl Network for SubsamplingNet {
    fn config(&self) -> Config {
        Config::from([("model".into(), "subsampling_net".into()), ("group".into(), Group::C4.name().into())])
    }

    fn layers(&self) -> &Chain {
        &self.layers
    }

    fn layers_mut(&mut self) -> &mut Chain {
        &mut self.layers
    }
}
