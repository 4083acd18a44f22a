//! A network of one's own.

use crate::{Chain, Config, Network};

/// A name, and layers that [`crate::Builder`] has made. Its checkpoints describe the layers, so that
/// [`crate::Checkpoint::network`] makes the network again without code, if all its layers are of known kinds.
#[derive(Debug)]
pub struct Sequential {
    name: String,
    layers: Chain,
}

impl Sequential {
    /// The network `name`.
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
