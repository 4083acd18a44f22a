//! Describes a network once, layer by layer.

use crate::{
    Activation, AdaptiveAvgPool, AdaptiveConv, AdaptiveMaxPool, AvgPool, BatchNorm, BlurPool, Chain, CosetMax,
    CosetMean, DropoutMaps, GridUpsample, GroupConv, Init, Interpolation, Layer, Layers, Linear, MaxPool, Module, Node,
    Relu, Resize, Restrict, SeparableConv, Site, SpatialMax, SpatialMean, SubgroupMax, SubgroupMean, TransposedConv,
    Upsample,
    nn::assembly::{CHAIN, DROPOUT, Plan, assemble},
    nn::layer::OWN,
    nn::parallel::{Join, SHORTCUT},
};
use quarterturn_core::{Device, Result};
use quarterturn_kernels::{Elementwise, Group, Subgroup, Window};
use std::{fmt, iter, mem};

/// Layers in the order in which they read each other. Keeps count of channels, lifts the first convolution to the group, and
/// computes together what can be: a norm, a ReLU and max pooling become part of the convolution before them.
///
/// What does not fit is reported by [`Builder::build`], and by [`crate::Network::output_shape`] what depends on the size of the
/// images. Names of layers become those of their parameters, joined by dots.
///
/// ```
/// use quarterturn_core::{Device, Result};
/// use quarterturn_kernels::{Elementwise, Group, Window};
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
/// let network = Sequential::new("small", layers);
///
/// assert_eq!(network.parameters(), 4_986);
/// let at_32 = Exactness::of(&network, [32, 32])?;
/// assert_eq!(at_32.warning().unwrap(), "small on p4 is inexact at 32: conv1 (3×3, stride 2, padding 1, on 32×32, leaves 1 over) \
///     breaks the symmetry; nearest exact sizes 31 and 33");
/// assert!(Exactness::of(&network, [33, 33])?.is_exact());
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    group: Group,
    in_channels: usize,
    device: Device,
    init: Init,
    layers: Layers,
    plans: Vec<Plan>,
}

impl Builder {
    /// Nothing yet: what comes first reads images with `in_channels` channels.
    pub fn new(group: Group, in_channels: usize, init: Init, device: &Device) -> Self {
        let (device, layers) = (device.clone(), Layers::standard());
        Builder { group, in_channels, device, init, layers, plans: Vec::new() }
    }

    /// With other types of layers than the library's own, for [`Builder::described`].
    #[must_use]
    pub fn with_layers(self, layers: Layers) -> Self {
        Builder { layers, ..self }
    }

    /// A layer of any known kind.
    #[must_use]
    pub fn described(mut self, node: Node) -> Self {
        self.plans.push(Plan::of(&node));
        self
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

    /// As [`Builder::conv`], with taps that are `dilation` apart, from 1 to 64: at stride 1, a padding of `dilation·(k − 1)/2` keeps
    /// the extents.
    #[must_use]
    pub fn dilated_conv(self, name: &str, out_channels: usize, window: Window, dilation: usize) -> Self {
        let node = Node::new(GroupConv::KIND, name).with("out_channels", out_channels);
        self.described(node.with_window(window).with("dilation", dilation).with("bias", true))
    }

    /// A transposed convolution with a bias, which makes maps larger by the window's stride: exact at every size if
    /// `output_padding`, which is below the stride, is 0; otherwise at none. Lifting, if the group has not been reached yet.
    #[must_use]
    pub fn transposed_conv(self, name: &str, out_channels: usize, window: Window, output_padding: usize) -> Self {
        let node = Node::new(TransposedConv::KIND, name).with("out_channels", out_channels).with_window(window);
        self.described(node.with("output_padding", output_padding).with("bias", true))
    }

    /// A separable convolution with a bias: over space within each channel, then over channels and group at each place. Lifting, if
    /// the group has not been reached yet.
    #[must_use]
    pub fn separable_conv(self, name: &str, out_channels: usize, window: Window) -> Self {
        let node = Node::new(SeparableConv::KIND, name).with("out_channels", out_channels);
        self.described(node.with_window(window).with("bias", true))
    }

    fn convolution(self, name: &str, out_channels: usize, window: Window, bias: bool) -> Self {
        let node = Node::new(GroupConv::KIND, name).with("out_channels", out_channels);
        self.described(node.with_window(window).with("bias", bias))
    }

    /// A batch norm.
    #[must_use]
    pub fn norm(self, name: &str) -> Self {
        self.described(Node::new(BatchNorm::KIND, name))
    }

    /// A ReLU.
    #[must_use]
    pub fn relu(self) -> Self {
        self.described(Node::new(Relu::KIND, ""))
    }

    /// In training, dropout with probability `p` behind the norm and ReLU that must come before it; with `p` = 0, none.
    #[must_use]
    pub fn dropout(self, p: f32) -> Self {
        self.described(Node::new(DROPOUT, "").with("p", p))
    }

    /// In training, dropout of whole maps with probability `p`, the same at all places and for all elements of the group.
    #[must_use]
    pub fn dropout_maps(self, p: f32) -> Self {
        self.described(Node::new(DropoutMaps::KIND, "").with("p", p))
    }

    /// The maximum of each window.
    #[must_use]
    pub fn max_pool(self, name: &str, window: Window) -> Self {
        self.described(Node::new(MaxPool::KIND, name).with_window(window))
    }

    /// The mean of each window.
    #[must_use]
    pub fn avg_pool(self, name: &str, window: Window) -> Self {
        self.described(Node::new(AvgPool::KIND, name).with_window(window))
    }

    /// Binomially weighted sums of windows, of `kernel_size` 3 or 5: subsampling without aliasing.
    #[must_use]
    pub fn blur_pool(self, name: &str, window: Window) -> Self {
        self.described(Node::new(BlurPool::KIND, name).with_window(window))
    }

    /// A convolution with a bias, at stride 2 on the grid that its input chooses: exact at every size. Layers that are given the
    /// same `grid` share the choice.
    #[must_use]
    pub fn adaptive_conv(self, name: &str, out_channels: usize, window: Window, grid: Option<&str>) -> Self {
        self.adaptive_convolution(name, out_channels, window, true, grid)
    }

    /// As [`Builder::adaptive_conv`], without a bias.
    #[must_use]
    pub fn adaptive_conv_without_bias(
        self,
        name: &str,
        out_channels: usize,
        window: Window,
        grid: Option<&str>,
    ) -> Self {
        self.adaptive_convolution(name, out_channels, window, false, grid)
    }

    fn adaptive_convolution(
        self,
        name: &str,
        out_channels: usize,
        window: Window,
        bias: bool,
        grid: Option<&str>,
    ) -> Self {
        let node = Node::new(AdaptiveConv::KIND, name).with("out_channels", out_channels);
        self.described(on_grid(node.with_window(window).with("bias", bias), grid))
    }

    /// The maximum of each window, at stride 2 on the grid that the maxima choose: exact at every size. `grid` names the choice for
    /// a [`Builder::grid_upsample`].
    #[must_use]
    pub fn adaptive_max_pool(self, name: &str, window: Window, grid: Option<&str>) -> Self {
        self.described(on_grid(Node::new(AdaptiveMaxPool::KIND, name).with_window(window), grid))
    }

    /// As [`Builder::adaptive_max_pool`], with the mean of each window.
    #[must_use]
    pub fn adaptive_avg_pool(self, name: &str, window: Window, grid: Option<&str>) -> Self {
        self.described(on_grid(Node::new(AdaptiveAvgPool::KIND, name).with_window(window), grid))
    }

    /// The samples back on the grid `grid`, which an adaptive layer before has chosen, zeros elsewhere.
    #[must_use]
    pub fn grid_upsample(self, name: &str, grid: &str) -> Self {
        self.described(on_grid(Node::new(GridUpsample::KIND, name), Some(grid)))
    }

    /// Layers under a common name.
    #[must_use]
    pub fn chain(self, name: &str, layers: impl FnOnce(Builder) -> Builder) -> Self {
        let (mut builder, chain) = self.nested(name, layers);
        builder.plans.push(chain);
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
        let (builder, branch) = self.nested("", branch);
        let (mut builder, shortcut) = builder.nested(SHORTCUT, shortcut);
        let node = Node::new(Join::Sum.kind(), name);
        builder.plans.push(Plan { node, own: None, children: vec![branch, shortcut] });
        builder
    }

    /// The channels of `first` and then those of `second`, which both read the same value; `|x| x` passes it on. The layers of
    /// `first` are called `name.first.…`, those of `second` `name.…`.
    #[must_use]
    pub fn concat(
        self,
        name: &str,
        first: impl FnOnce(Builder) -> Builder,
        second: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let (builder, mut first) = self.nested("first", first);
        if first.children.is_empty() {
            first.node.name.clear(); // there is nothing to name
        }
        let (mut builder, second) = builder.nested("", second);
        let node = Node::new(Join::Concat.kind(), name);
        builder.plans.push(Plan { node, own: None, children: vec![first, second] });
        builder
    }

    /// An elementwise function: silu, gelu, sigmoid, tanh, softplus, …
    #[must_use]
    pub fn activation(self, function: &'static Elementwise) -> Self {
        self.described(Node::new(Activation::KIND, "").with("function", function.name))
    }

    /// Maps `factor` times as high and wide, interpolated bilinearly between the centres of pixels: exact at every size.
    #[must_use]
    pub fn upsample(self, name: &str, factor: usize) -> Self {
        self.described(Node::new(Upsample::KIND, name).with("factor", factor))
    }

    /// Square maps of this extent. Bilinearly it is exact at every size; to the nearest pixel, where the maps' extents have no more
    /// factors of 2 than this one.
    #[must_use]
    pub fn resize(self, name: &str, extent: usize, interpolation: Interpolation) -> Self {
        let node = Node::new(Resize::KIND, name).with("extent", extent);
        self.described(node.with("interpolation", interpolation))
    }

    /// As [`Builder::upsample`], by whole pixels.
    #[must_use]
    pub fn upsample_nearest(self, name: &str, factor: usize) -> Self {
        let node = Node::new(Upsample::KIND, name).with("factor", factor);
        self.described(node.with("interpolation", Interpolation::Nearest))
    }

    /// The mean over space.
    #[must_use]
    pub fn spatial_mean(self) -> Self {
        let name = self.free("mean");
        self.described(Node::new(SpatialMean::KIND, &name))
    }

    /// The maximum over space.
    #[must_use]
    pub fn spatial_max(self) -> Self {
        let name = self.free("max");
        self.described(Node::new(SpatialMax::KIND, &name))
    }

    /// The maximum over the group: from here on, a turned image makes the same as the upright one.
    #[must_use]
    pub fn coset_max(self) -> Self {
        let name = self.free("coset");
        self.described(Node::new(CosetMax::KIND, &name))
    }

    /// The mean over the group; as [`Builder::coset_max`].
    #[must_use]
    pub fn coset_mean(self) -> Self {
        let name = self.free("coset");
        self.described(Node::new(CosetMean::KIND, &name))
    }

    /// Maps on the group as maps on its subgroup `to`, p4, p2 or z2, with more channels: what follows convolves on that, and turns and
    /// flips outside of it are no longer kept. On p2 there are no convolutions.
    #[must_use]
    pub fn restrict(self, name: &str, to: Subgroup) -> Self {
        self.described(Node::new(Restrict::KIND, name).with("to", to))
    }

    /// The maximum over each coset of a subgroup: a group axis that is shorter by the subgroup's order. On p4m, what was pooled over
    /// pm can be restricted to p4, and convolved on it.
    #[must_use]
    pub fn subgroup_max(self, name: &str, subgroup: Subgroup) -> Self {
        self.described(Node::new(SubgroupMax::KIND, name).with("subgroup", subgroup))
    }

    /// The mean over each coset of a subgroup; as [`Builder::subgroup_max`].
    #[must_use]
    pub fn subgroup_mean(self, name: &str, subgroup: Subgroup) -> Self {
        self.described(Node::new(SubgroupMean::KIND, name).with("subgroup", subgroup))
    }

    /// A linear layer on the means over space. Without a maximum or mean over the group before it, it has a weight for each
    /// element, and its result is not invariant.
    #[must_use]
    pub fn linear(self, name: &str, out_features: usize) -> Self {
        self.described(Node::new(Linear::KIND, name).with("out_features", out_features))
    }

    /// A layer of any type, which keeps the number of channels. [`crate::Exactness`] asks it for its [`Module::symmetry`]. A
    /// checkpoint of the network can be restored into the same network, but only this program can make it again; for a type of
    /// layer that files can name, see [`Layer`].
    #[must_use]
    pub fn layer(self, name: &str, module: impl Module + 'static) -> Self {
        self.own(name, Box::new(module), None)
    }

    /// As [`Builder::layer`], for a layer that makes `out_channels` channels.
    #[must_use]
    pub fn layer_to(self, name: &str, module: impl Module + 'static, out_channels: usize) -> Self {
        self.own(name, Box::new(module), Some(out_channels))
    }

    fn own(mut self, name: &str, module: Box<dyn Module>, channels: Option<usize>) -> Self {
        let node = Node::new(OWN, name);
        self.plans.push(Plan { node, own: Some((module, channels)), children: Vec::new() });
        self
    }

    /// The layers.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`] with the first layer that does not fit, or has the name of another one; or when the GPU has
    /// no room.
    pub fn build(self) -> Result<Chain> {
        let Builder { group, in_channels, device, mut init, layers, plans } = self;
        let nodes = plans.iter().map(Plan::describe).collect();
        let mut site = Site::new(group, in_channels, &layers, &mut init, &device)?;
        assemble(plans, &mut site)?.described(nodes)
    }

    /// What `layers` adds, as a chain of its own.
    fn nested(mut self, name: &str, layers: impl FnOnce(Builder) -> Builder) -> (Builder, Plan) {
        let outer = mem::take(&mut self.plans);
        let mut builder = layers(self);
        let children = mem::replace(&mut builder.plans, outer);
        (builder, Plan { node: Node::new(CHAIN, name), own: None, children })
    }

    /// `name`, or with the first number behind it under which there is no layer yet.
    fn free(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}{number}"));
        let mut names = iter::once(name.to_string()).chain(numbered);
        names.find(|name| !is_taken(&self.plans, name)).unwrap_or_default()
    }
}

/// The layer, with the choice that it shares.
fn on_grid(node: Node, grid: Option<&str>) -> Node {
    match grid {
        Some(grid) => node.with("grid", grid),
        None => node,
    }
}

/// Whether a layer is called `name`, here or in a block without a name, whose layers' names belong to what it stands in.
fn is_taken(plans: &[Plan], name: &str) -> bool {
    plans.iter().any(|plan| plan.node.name == name || (plan.node.name.is_empty() && is_taken(&plan.children, name)))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.plans.iter().map(Plan::describe)).finish()
    }
}

#[cfg(test)]
mod tests;
