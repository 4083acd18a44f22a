//! Describes a network once, layer by layer.

use crate::{
    AvgPool, BatchNorm, Chain, ConvNorm, CosetMax, CosetMean, GroupConv, Init, Linear, MaxPool, Module, Relu, Residual,
    SpatialMean,
    nn::{chain::Link, residual::SHORTCUT},
};
use quarterturn_core::{Device, Error, Result};
use quarterturn_kernels::{Conv, Group, Window};
use std::{collections::BTreeSet, mem};

/// Layers in the order in which they read each other. Keeps count of channels, lifts the first convolution to the group, and
/// computes together what can be: a norm, a ReLU and max pooling become part of the convolution before them.
///
/// What does not fit is reported by [`Builder::build`], and by [`crate::Network::output_shape`] what depends on the size of the
/// images. Names of layers become those of their parameters, joined by dots.
///
/// ```
/// use quarterturn_core::{Device, Result};
/// use quarterturn_kernels::{Group, Window};
/// use quarterturn_models::{Builder, Exactness, Init, Network, Sequential};
///
/// # fn main() -> Result<()> {
/// let halving = Window { kernel_size: 3, stride: 2, padding: 1 };
/// let keeping = Window { stride: 1, ..halving };
/// let layers = Builder::new(Group::C4, 3, Init::kaiming(1), &Device::Cpu)
///     .conv("conv1", 8, halving).norm("norm1").relu()
///     .residual("block", |x| x.conv("conv1", 8, keeping).norm("norm1").relu().conv("conv2", 8, keeping).norm("norm2"), |x| x)
///     .relu()
///     .spatial_mean().coset_max().linear("linear", 10)
///     .build()?;
/// let mut network = Sequential::new("small", layers);
///
/// assert_eq!(network.parameters(), 4_986);
/// let at_32 = Exactness::of(&network, [32, 32])?;
/// assert_eq!(at_32.warning().unwrap(), "small on p4 is inexact at 32: conv1 (3×3, stride 2, padding 1, on 32×32, leaves 1 over) \
///     breaks the symmetry; nearest exact sizes 31 and 33");
/// assert!(Exactness::of(&network, [33, 33])?.is_exact());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Builder {
    group: Group,
    in_channels: usize,
    device: Device,
    init: Init,
    place: Place,
    /// Norms so far, in the whole network: the number of one is the key of the dropout behind it.
    norms: u32,
    links: Vec<Link>,
    /// The last layer, as long as the next may still become part of it.
    last: Option<(String, Open)>,
    first_error: Option<Error>,
    /// Names around the present place.
    path: Vec<String>,
    /// Full names of all layers and blocks so far: no two may be the same, or a file could not keep both.
    names: BTreeSet<String>,
}

/// What the next layer reads.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    channels: usize,
    /// Extent of the group axis: 1 before lifting and behind the maximum over the group.
    elements: usize,
}

/// A layer that the next may become part of.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a builder has one")]
enum Open {
    Conv(GroupConv),
    ConvNorm(ConvNorm),
    Norm(BatchNorm),
    Residual(Residual),
}

/// No layer may have more channels.
const LARGEST: usize = 1 << 16;

impl Builder {
    /// Nothing yet: what comes first reads images with `in_channels` channels.
    pub fn new(group: Group, in_channels: usize, init: Init, device: &Device) -> Self {
        let place = Place { channels: in_channels, elements: 1 };
        let builder = Builder {
            group,
            in_channels,
            device: device.clone(),
            init,
            place,
            norms: 0,
            links: Vec::new(),
            last: None,
            first_error: None,
            path: Vec::new(),
            names: BTreeSet::new(),
        };
        builder.checked("in_channels", in_channels)
    }

    /// A convolution with a bias: lifting, if the group has not been reached yet.
    #[must_use]
    pub fn conv(self, name: &str, out_channels: usize, window: Window) -> Self {
        self.convolution(name, out_channels, window, true)
    }

    /// As [`Builder::conv`], without a bias, which a norm would only take away again.
    #[must_use]
    pub fn conv_without_bias(self, name: &str, out_channels: usize, window: Window) -> Self {
        self.convolution(name, out_channels, window, false)
    }

    fn convolution(self, name: &str, out_channels: usize, window: Window, bias: bool) -> Self {
        let builder = self.settled().checked(name, out_channels);
        if builder.first_error.is_some() {
            return builder;
        }
        let Window { kernel_size, stride, padding } = window;
        if kernel_size == 0 || stride == 0 {
            return builder.refused(name, "expected a kernel size and a stride of at least 1");
        }
        let Builder { group, place: Place { channels, elements }, .. } = builder;
        let mut builder = builder
            .named(name)
            .expecting(name, &[("weight", &[out_channels, channels, elements, kernel_size, kernel_size])]);
        if bias {
            builder = builder.expecting(name, &[("bias", &[out_channels])]);
        }
        if builder.first_error.is_some() {
            return builder;
        }
        let (conv, init, device) = (Conv { group, stride, padding }, &mut builder.init, &builder.device);
        let layer = match elements {
            1 => GroupConv::lifting(channels, out_channels, kernel_size, conv, init, device),
            _ => GroupConv::new(channels, out_channels, kernel_size, conv, init, device),
        };
        match layer {
            Ok(layer) => {
                let layer = if bias { layer } else { layer.without_bias() };
                builder.place = Place { channels: out_channels, elements: group.order() };
                builder.last = Some((name.into(), Open::Conv(layer)));
            }
            Err(error) => builder.first_error = Some(error),
        }
        builder
    }

    /// A batch norm.
    #[must_use]
    pub fn norm(self, name: &str) -> Self {
        let channels = [self.place.channels];
        let mut builder = self.named(name).expecting(name, &BatchNorm::PARAMETERS.map(|part| (part, &channels[..])));
        if builder.first_error.is_some() {
            return builder;
        }
        builder.norms += 1;
        let norm = match BatchNorm::new(builder.place.channels, &builder.device) {
            Ok(norm) => norm,
            Err(error) => {
                builder.first_error = Some(error);
                return builder;
            }
        };
        match builder.last.take() {
            Some((conv_name, Open::Conv(conv))) => {
                let both = ConvNorm::new([conv_name, name.into()], conv, norm);
                builder.last = Some((String::new(), Open::ConvNorm(both)));
                builder
            }
            last => {
                builder.last = last;
                let mut builder = builder.settled();
                builder.last = Some((name.into(), Open::Norm(norm)));
                builder
            }
        }
    }

    /// A ReLU.
    #[must_use]
    pub fn relu(mut self) -> Self {
        let (name, open) = match self.last.take() {
            Some((name, Open::Norm(norm))) => (name, Open::Norm(norm.with_relu())),
            Some((name, Open::ConvNorm(both))) => (name, Open::ConvNorm(both.map_norm(BatchNorm::with_relu))),
            Some((name, Open::Residual(residual))) => (name, Open::Residual(residual.with_relu())),
            last => {
                self.last = last;
                return self.layer("", Relu);
            }
        };
        self.last = Some((name, open));
        self
    }

    /// In training, dropout with probability `p` behind the norm and ReLU that must come before it; with `p` = 0, none.
    #[must_use]
    pub fn dropout(mut self, p: f32) -> Self {
        if !(0.0..1.0).contains(&p) {
            return self.refused("dropout", &format!("expected a probability of at least 0 and below 1, not {p}"));
        }
        let number = self.norms;
        let (name, open) = match self.last.take() {
            Some((name, Open::Norm(norm))) if norm.has_relu() => (name, Open::Norm(norm.with_dropout(p, number))),
            Some((name, Open::ConvNorm(both))) if both.norm().has_relu() => {
                (name, Open::ConvNorm(both.map_norm(|norm| norm.with_dropout(p, number))))
            }
            last => {
                self.last = last;
                return self.refused("dropout", "expected a norm and a ReLU before it");
            }
        };
        self.last = Some((name, open));
        self
    }

    /// The maximum of each window.
    #[must_use]
    pub fn max_pool(mut self, name: &str, window: Window) -> Self {
        match self.last.take() {
            Some((empty, Open::ConvNorm(both))) => {
                let mut builder = self.named(name);
                builder.links.push(Link { name: empty, module: Box::new(both.with_pool(name, MaxPool(window))) });
                builder
            }
            last => {
                self.last = last;
                self.layer(name, MaxPool(window))
            }
        }
    }

    /// The mean of each window.
    #[must_use]
    pub fn avg_pool(self, name: &str, window: Window) -> Self {
        self.layer(name, AvgPool(window))
    }

    /// Layers under a common name.
    #[must_use]
    pub fn chain(self, name: &str, layers: impl FnOnce(Builder) -> Builder) -> Self {
        let (mut builder, chain) = self.named(name).nested(&[name], layers);
        builder.links.push(Link { name: name.into(), module: Box::new(chain) });
        builder
    }

    /// A residual block: the sum of `branch` and `shortcut`, which is the identity if it is `|x| x`. Its layers are called
    /// `name.…` and `name.shortcut.…`.
    #[must_use]
    pub fn residual(
        self,
        name: &str,
        branch: impl FnOnce(Builder) -> Builder,
        shortcut: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let start = self.place;
        let (mut builder, branch) = self.named(name).nested(&[name], branch);
        let end = mem::replace(&mut builder.place, start);
        let (mut builder, shortcut) = builder.nested(&[name, SHORTCUT], shortcut);
        if builder.place != end {
            let (a, b) = (end, builder.place);
            let message = format!(
                "the branch makes {} channels on a group axis of {}, the shortcut {} on {}",
                a.channels, a.elements, b.channels, b.elements
            );
            return builder.refused(name, &message);
        }
        builder.last = Some((name.into(), Open::Residual(Residual::new(branch, shortcut))));
        builder
    }

    /// The mean over space.
    #[must_use]
    pub fn spatial_mean(self) -> Self {
        let name = self.free("mean");
        self.layer(&name, SpatialMean)
    }

    /// The maximum over the group: from here on, a turned image makes the same as the upright one.
    #[must_use]
    pub fn coset_max(self) -> Self {
        let name = self.free("coset");
        let mut builder = self.layer(&name, CosetMax);
        builder.place.elements = 1;
        builder
    }

    /// The mean over the group; as [`Builder::coset_max`].
    #[must_use]
    pub fn coset_mean(self) -> Self {
        let name = self.free("coset");
        let mut builder = self.layer(&name, CosetMean);
        builder.place.elements = 1;
        builder
    }

    /// A linear layer on the means over space. Without a maximum or mean over the group before it, it has a weight for each
    /// element, and its result is not invariant.
    #[must_use]
    pub fn linear(self, name: &str, out_features: usize) -> Self {
        let builder = self.settled().checked(name, out_features);
        if builder.first_error.is_some() {
            return builder;
        }
        let features = builder.place.channels * builder.place.elements;
        let mut builder = builder.expecting(name, &[("weight", &[out_features, features]), ("bias", &[out_features])]);
        if builder.first_error.is_some() {
            return builder;
        }
        builder.place = Place { channels: out_features, elements: 1 };
        match Linear::new(features, out_features, &mut builder.init, &builder.device) {
            Ok(linear) => builder.layer(name, linear),
            Err(error) => {
                builder.first_error = Some(error);
                builder
            }
        }
    }

    /// A layer of any kind that keeps the number of channels. [`crate::Exactness`] asks it for its [`Module::symmetry`].
    #[must_use]
    pub fn layer(self, name: &str, module: impl Module + 'static) -> Self {
        let mut builder = self.settled().named(name);
        builder.links.push(Link { name: name.into(), module: Box::new(module) });
        builder
    }

    /// The layers.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first layer that does not fit; or when the GPU has no room.
    pub fn build(self) -> Result<Chain> {
        let builder = self.settled();
        if let Some(error) = builder.first_error {
            return Err(error);
        }
        let mut chain = Chain::new(builder.group, builder.in_channels, builder.links);
        // Layers of one's own name their parameters themselves.
        let (mut names, mut twice) = (BTreeSet::new(), None);
        chain.visit(&mut |name, _| {
            if !names.insert(name.to_string()) {
                twice.get_or_insert_with(|| name.to_string());
            }
        });
        match twice {
            Some(name) => Err(Error::Invalid(format!("{name}: two parameters have this name"))),
            None => Ok(chain),
        }
    }

    /// What `layers` adds, as a chain of its own.
    fn nested(self, names: &[&str], layers: impl FnOnce(Builder) -> Builder) -> (Builder, Chain) {
        let mut builder = self.settled();
        let in_channels = builder.place.channels;
        let outer = mem::take(&mut builder.links);
        let outside = builder.path.len();
        builder.path.extend(names.iter().map(ToString::to_string));
        let mut builder = layers(builder).settled();
        builder.path.truncate(outside);
        let links = mem::replace(&mut builder.links, outer);
        let chain = Chain::new(builder.group, in_channels, links);
        (builder, chain)
    }

    /// With the last layer in its place, as it is.
    fn settled(mut self) -> Self {
        if let Some((name, open)) = self.last.take() {
            let module: Box<dyn Module> = match open {
                Open::Conv(conv) => Box::new(conv),
                Open::ConvNorm(both) => Box::new(both),
                Open::Norm(norm) => Box::new(norm),
                Open::Residual(residual) => Box::new(residual),
            };
            self.links.push(Link { name, module });
        }
        self
    }

    fn checked(self, name: &str, channels: usize) -> Self {
        if (1..=LARGEST).contains(&channels) {
            return self;
        }
        self.refused(name, &format!("expected 1 to {LARGEST} channels, not {channels}"))
    }

    /// With this error, unless there was one before.
    fn refused(mut self, name: &str, message: &str) -> Self {
        let path = self.path_of(name);
        self.first_error.get_or_insert_with(|| Error::Invalid(format!("{path}: {message}")));
        self
    }

    /// Refuses a name that another layer or block of the same place has.
    fn named(mut self, name: &str) -> Self {
        if name.is_empty() || self.names.insert(self.path_of(name)) {
            return self;
        }
        self.refused(name, "another layer has this name already")
    }

    /// `name`, or with the first number behind it under which there is no layer yet.
    fn free(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}{number}"));
        let mut names = std::iter::once(name.to_string()).chain(numbered);
        names.find(|name| !self.names.contains(&self.path_of(name))).unwrap_or_default()
    }

    /// Refuses parameters (name, shape) of the layer `name` that are not in the file that the values will be taken from.
    fn expecting(mut self, name: &str, parameters: &[(&str, &[usize])]) -> Self {
        let path = self.path_of(name);
        let mut parameters = parameters.iter();
        let outcome = parameters.try_for_each(|(part, shape)| self.init.expect(&format!("{path}.{part}"), shape));
        if let Err(error) = outcome {
            self.first_error.get_or_insert(error);
        }
        self
    }

    /// `name` behind the names around it.
    fn path_of(&self, name: &str) -> String {
        let names = self.path.iter().map(String::as_str).chain([name]);
        names.filter(|name| !name.is_empty()).collect::<Vec<_>>().join(".")
    }
}

#[cfg(test)]
mod tests;
