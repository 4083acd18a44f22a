//! A network of one's own.

use crate::{Chain, Config, Network};

/// A name, and layers that [`crate::Builder`] has made. Its checkpoints keep the name, the group and the image channels; the
/// layers are those of the program that reads them, to which the tensors' names and shapes must fit.
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
