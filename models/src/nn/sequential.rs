//! A network of your own.

use crate::{Chain, Config, Network};

/// A network: a name, and layers from [`crate::Builder`] (PyTorch: `nn.Sequential`). Its checkpoints describe the
/// layers. If all are of this library, [`crate::Checkpoint::network`] builds the network from the file alone.
#[derive(Debug)]
pub struct Sequential {
    name: String,
    layers: Chain,
}

impl Sequential {
    /// A network of these layers, called `name`.
    pub fn new(name: &str, layers: Chain) -> Self {
        Sequential { name: name.into(), layers }
    }
}

impl Network for Sequential {
    fn config(&self) -> Config {
        Config::from([
            ("model".into(), self.name.clone()),
            ("group".into(), self.layers.group().to_string()),
            ("in_channels".into(), self.layers.in_channels().to_string()),
        ])
    }

    fn layers(&self) -> &Chain {
        &self.layers
    }

    fn layers_mut(&mut self) -> &mut Chain {
        &mut self.layers
    }
}
