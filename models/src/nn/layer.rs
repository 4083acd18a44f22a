//! Types of layers that a description can name, and how one is made.

use crate::{
    Activation, AdaptiveAvgPool, AdaptiveConv, AdaptiveMaxPool, AvgPool, BatchNorm, BlurPool, CosetMax, CosetMean,
    Crop, DropoutMaps, GridUpsample, GroupConv, Init, Linear, MaxPool, Module, Node, Relu, Resize, Restrict,
    SeparableConv, SpatialMax, SpatialMean, SubgroupMax, SubgroupMean, TransposedConv, Upsample,
};
use quarterturn_core::{Device, Error, Result};
use quarterturn_kernels::{Cosets, Group};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A type of layer that a description can name.
///
/// ```
/// use quarterturn_autograd::{Param, Var};
/// use quarterturn_core::{Device, Result, Shape};
/// use quarterturn_kernels::{Cosets, Group};
/// use quarterturn_models::{
///     Builder, Checkpoint, Init, Layer, Layers, Module, Network, Node, Pass, Sequential, Site, Symmetry, Trace, checkpoint,
/// };
///
/// /// `y = factor · x`.
/// struct Scale(f64);
///
/// impl Layer for Scale {
///     const KIND: &'static str = "scale";
///
///     fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
///         node.knows_only(&["factor"])?;
///         Ok(Scale(node.setting("factor")?))
///     }
/// }
///
/// impl Module for Scale {
///     fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
///         x.scale(self.0)
///     }
///
///     fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
///         Ok(x)
///     }
///
///     fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
///         Symmetry::Commutes
///     }
///
///     fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
/// }
///
/// # fn main() -> Result<()> {
/// let layers = Layers::standard().with::<Scale>();
/// let scale = Node::new(Scale::KIND, "half").with("factor", 0.5);
/// let builder = Builder::new(Group::C4, 1, Init::new(0), &Device::Cpu).with_layers(layers.clone());
/// let network = Sequential::new("mine", builder.described(scale).spatial_mean().coset_max().linear("linear", 2).build()?);
/// let file = std::env::temp_dir().join("own-layer.safetensors");
/// checkpoint::save(&file, &network)?;
///
/// // The file describes the network; `layers` says how to make what it names.
/// let loaded = Checkpoint::read(&file)?.network_of(&layers, &Device::Cpu)?;
/// assert_eq!(loaded.description(), network.description());
/// # Ok(())
/// # }
/// ```
pub trait Layer: Module + Sized + 'static {
    /// The name of this type in descriptions: the first word of its line.
    const KIND: &'static str;

    /// Makes the layer that `node` describes. `site` tells what the layer reads: channels, group axis, device. If its
    /// output has other channels or another group axis, call [`Site::makes`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if a setting does not fit ([`Site::unfit`] makes an error that names the layer); or when the
    /// GPU has no room.
    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self>;
}

/// Makes a layer of a description's node.
type Make = fn(&Node, &mut Site<'_>) -> Result<Box<dyn Module>>;

/// The known types of layers, by their names in descriptions. Pass it to [`crate::Checkpoint::network_of`] or
/// [`crate::Builder::with_layers`].
#[derive(Clone)]
pub struct Layers {
    makers: BTreeMap<&'static str, Make>,
}

impl Layers {
    /// The types of this library.
    pub fn standard() -> Self {
        let none = Layers { makers: BTreeMap::new() };
        let layers = none.with::<GroupConv>().with::<BatchNorm>().with::<Relu>().with::<Linear>();
        let layers =
            layers.with::<MaxPool>().with::<AvgPool>().with::<BlurPool>().with::<SpatialMean>().with::<SpatialMax>();
        let layers = layers.with::<CosetMax>().with::<CosetMean>();
        let layers = layers.with::<Restrict>().with::<SubgroupMax>().with::<SubgroupMean>();
        let layers =
            layers.with::<Activation>().with::<Upsample>().with::<Resize>().with::<DropoutMaps>().with::<Crop>();
        let layers = layers.with::<TransposedConv>().with::<SeparableConv>();
        layers.with::<AdaptiveConv>().with::<AdaptiveMaxPool>().with::<AdaptiveAvgPool>().with::<GridUpsample>()
    }

    /// Adds a type of your own. It replaces another with the same [`Layer::KIND`].
    #[must_use]
    pub fn with<L: Layer>(mut self) -> Self {
        self.makers.insert(L::KIND, |node, site| Ok(Box::new(L::make(node, site)?)));
        self
    }

    /// The layer that `node` describes.
    pub(crate) fn make(&self, node: &Node, site: &mut Site<'_>) -> Result<Box<dyn Module>> {
        match self.makers.get(node.kind.as_str()) {
            Some(make) => make(node, site),
            None if node.kind == OWN => {
                Err(site.unfit("a layer of another program's own, which only that program makes"))
            }
            None => {
                let known: Vec<&str> = self.makers.keys().copied().collect();
                let message = format!("no layer is of the kind '{}'; there are {}", node.kind, known.join(", "));
                Err(site.unfit(message))
            }
        }
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.makers.keys()).finish()
    }
}

/// The kind of a layer that was not described, but given.
pub(crate) const OWN: &str = "own";
/// No layer may have more channels.
const LARGEST: usize = 1 << 16;

/// The position in a network at which a layer is made: it tells what the layer will read, and the device and initial
/// values for its parameters.
#[derive(Debug)]
pub struct Site<'a> {
    group: Group,
    device: &'a Device,
    init: &'a mut Init,
    layers: &'a Layers,
    place: Place,
    /// Names from the network down to the layer.
    path: Vec<String>,
    /// Full names of all layers and blocks so far: no two may be the same, or a file could not keep both.
    names: BTreeSet<String>,
    /// Norms so far, in the whole network: the number of one is the key of the dropout behind it.
    norms: u32,
    /// Layers so far that drop whole maps, likewise.
    map_dropouts: u32,
}

/// What a layer reads or makes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub channels: usize,
    /// What the group axis stands for: the single coset of the whole group before lifting and behind the maximum over the group.
    pub axis: Cosets,
}

impl<'a> Site<'a> {
    /// Where images with `in_channels` channels are read.
    ///
    /// # Errors
    /// [`Error::Invalid`] if that is no number of channels.
    pub(crate) fn new(
        group: Group,
        in_channels: usize,
        layers: &'a Layers,
        init: &'a mut Init,
        device: &'a Device,
    ) -> Result<Self> {
        let place = Place { channels: in_channels, axis: Cosets::one(group) };
        let (path, names) = (vec!["in_channels".to_string()], BTreeSet::new());
        let mut site = Site { group, device, init, layers, place, path, names, norms: 0, map_dropouts: 0 };
        site.check_channels(in_channels)?;
        site.path.clear();
        Ok(site)
    }

    /// What the group axis of the layer's input stands for, and with it the group: the network's, or a subgroup if an
    /// earlier layer has restricted feature maps to it.
    pub fn axis(&self) -> Cosets {
        self.place.axis
    }

    /// The group that a convolution works on here.
    ///
    /// # Errors
    /// [`Error::Invalid`] if earlier layers have restricted feature maps to a group without convolutions, or pooled
    /// over a part of the group.
    pub fn group(&self) -> Result<Group> {
        let axis = self.axis();
        let Some(group) = axis.group().group() else {
            return Err(self.unfit(format!("there are no convolutions on {}", axis.group())));
        };
        if axis.order() == 1 || axis == Cosets::elements(group) {
            return Ok(group);
        }
        Err(self.unfit(format!(
            "what was pooled over {} is no map on {group}, so that it cannot be convolved on it; restrict it first",
            axis.pooled()
        )))
    }

    /// The network's group.
    pub(crate) fn network_group(&self) -> Group {
        self.group
    }

    /// The number of channels of the layer's input.
    pub fn channels(&self) -> usize {
        self.place.channels
    }

    /// The length of the group axis of the layer's input: 1 before lifting, and after a maximum or mean over the group.
    pub fn elements(&self) -> usize {
        self.place.axis.order()
    }

    /// The device for the layer's parameters.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Draws initial values.
    pub fn init(&mut self) -> &mut Init {
        self.init
    }

    /// Call this if the layer's output has other channels or another group axis than its input.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there are 1 to 65,536 channels.
    pub fn makes(&mut self, channels: usize, axis: Cosets) -> Result<()> {
        self.check_channels(channels)?;
        self.place = Place { channels, axis };
        Ok(())
    }

    /// Call this if the layer's output has these channels and a group axis of length 1 or none, as after a maximum over
    /// the group.
    ///
    /// # Errors
    /// As [`Site::makes`].
    pub fn makes_invariant(&mut self, channels: usize) -> Result<()> {
        self.makes(channels, Cosets::one(self.axis().group()))
    }

    /// Checks that the checkpoint, if the network is made from one, has such a parameter. Call it before you allocate
    /// the parameter, so that a damaged file cannot make you allocate too much.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the parameter's name.
    pub fn expect(&self, parameter: &str, shape: &[usize]) -> Result<()> {
        let names = self.named_path().chain([parameter]);
        self.init.expect(&names.collect::<Vec<_>>().join("."), shape)
    }

    /// An error with this message that names the layer.
    pub fn unfit(&self, message: impl fmt::Display) -> Error {
        let path = self.named_path().collect::<Vec<_>>().join(".");
        let colon = if path.is_empty() { "" } else { ": " };
        Error::Invalid(format!("{path}{colon}{message}"))
    }

    pub(crate) fn check_channels(&self, channels: usize) -> Result<()> {
        if (1..=LARGEST).contains(&channels) {
            return Ok(());
        }
        Err(self.unfit(format!("expected 1 to {LARGEST} channels, not {channels}")))
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    pub(crate) fn layers(&self) -> &'a Layers {
        self.layers
    }

    /// How many names there are around the present place, empty ones too.
    pub(crate) fn depth(&self) -> usize {
        self.path.len()
    }

    /// Goes to the layer `name`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if another layer is called so.
    pub(crate) fn enter(&mut self, name: &str) -> Result<()> {
        self.path.push(name.into());
        let full = self.named_path().collect::<Vec<_>>().join(".");
        if !name.is_empty() && !self.names.insert(full) {
            return Err(self.unfit("another layer has this name already"));
        }
        Ok(())
    }

    pub(crate) fn leave(&mut self) {
        self.path.pop();
    }

    /// Counts a layer that drops whole maps; how many there were before.
    pub(crate) fn count_map_dropout(&mut self) -> u32 {
        self.map_dropouts += 1;
        self.map_dropouts - 1
    }

    /// The number of one more norm.
    pub(crate) fn count_norm(&mut self) {
        self.norms += 1;
    }

    /// The number of the last norm.
    pub(crate) fn norms(&self) -> u32 {
        self.norms
    }

    fn named_path(&self) -> impl Iterator<Item = &str> {
        self.path.iter().map(String::as_str).filter(|name| !name.is_empty())
    }
}
