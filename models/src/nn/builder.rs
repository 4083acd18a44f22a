//! Describes a network once, layer by layer.

use crate::{
    Activation, AdaptiveAvgPool, AdaptiveConv, AdaptiveMaxPool, AvgPool, BatchNorm, BlurPool, Chain, CosetMax,
    CosetMean, Crop, DropoutMaps, GridUpsample, GroupConv, Init, Interpolation, Layer, Layers, Linear, MaxPool, Module,
    Node, Relu, Resize, Restrict, SeparableConv, Site, SpatialMax, SpatialMean, SubgroupMax, SubgroupMean,
    TransposedConv, Upsample,
    nn::assembly::{CHAIN, DROPOUT, Plan, assemble},
    nn::layer::OWN,
    nn::parallel::{Join, SHORTCUT},
};
use quarterturn_core::{Device, Result};
use quarterturn_kernels::{Elementwise, Group, Subgroup, Window};
use std::{fmt, iter, mem};

/// Describes a network layer by layer, as `nn.Sequential`. The builder counts channels, makes the first convolution a
/// lifting one, and fuses layers where that is faster: a norm, a ReLU and max pooling become part of the convolution
/// before them.
///
/// [`Builder::build`] returns an error if layers do not fit each other. Errors that depend on the image size come from
/// [`crate::Network::output_shape`]. Parameters are named after their layers, joined by dots: `block.conv1.weight`.
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
    /// An empty description. The first layer will read images with `in_channels` channels. `init` says how weights are
    /// initialised.
    pub fn new(group: Group, in_channels: usize, init: Init, device: &Device) -> Self {
        let (device, layers) = (device.clone(), Layers::standard());
        Builder { group, in_channels, device, init, layers, plans: Vec::new() }
    }

    /// Makes other types of layers than the library's known to [`Builder::described`].
    #[must_use]
    pub fn with_layers(self, layers: Layers) -> Self {
        Builder { layers, ..self }
    }

    /// Adds a layer of any known kind by its description. The methods below are short forms of this.
    #[must_use]
    pub fn described(mut self, node: Node) -> Self {
        self.plans.push(Plan::of(&node));
        self
    }

    /// Adds a convolution with a bias. The first one lifts: it reads the image and writes one plane for each group
    /// element.
    #[must_use]
    pub fn conv(self, name: &str, out_channels: usize, window: Window) -> Self {
        self.convolution(name, out_channels, window, true)
    }

    /// As [`Builder::conv`], without a bias. Use it before a batch norm, which would subtract the bias again.
    #[must_use]
    pub fn conv_without_bias(self, name: &str, out_channels: usize, window: Window) -> Self {
        self.convolution(name, out_channels, window, false)
    }

    /// As [`Builder::conv`], with a `dilation` from 1 to 64. At stride 1, a padding of `dilation·(k − 1)/2` keeps
    /// height and width.
    #[must_use]
    pub fn dilated_conv(self, name: &str, out_channels: usize, window: Window, dilation: usize) -> Self {
        let node = Node::new(GroupConv::KIND, name).with("out_channels", out_channels);
        self.described(node.with_window(window).with("dilation", dilation).with("bias", true))
    }

    /// Adds a transposed convolution with a bias, which enlarges feature maps by the window's stride. It is exact at
    /// every size if `output_padding` is 0, and otherwise at none. `output_padding` must be below the stride. As a
    /// first layer it lifts.
    #[must_use]
    pub fn transposed_conv(self, name: &str, out_channels: usize, window: Window, output_padding: usize) -> Self {
        let node = Node::new(TransposedConv::KIND, name).with("out_channels", out_channels).with_window(window);
        self.described(node.with("output_padding", output_padding).with("bias", true))
    }

    /// Adds a separable convolution with a bias: first a depthwise convolution (one filter for each channel), then a
    /// 1×1 convolution over channels and group elements. As a first layer it lifts.
    #[must_use]
    pub fn separable_conv(self, name: &str, out_channels: usize, window: Window) -> Self {
        let node = Node::new(SeparableConv::KIND, name).with("out_channels", out_channels);
        self.described(node.with_window(window).with("bias", true))
    }

    fn convolution(self, name: &str, out_channels: usize, window: Window, bias: bool) -> Self {
        let node = Node::new(GroupConv::KIND, name).with("out_channels", out_channels);
        self.described(node.with_window(window).with("bias", bias))
    }

    /// Adds a batch norm.
    #[must_use]
    pub fn norm(self, name: &str) -> Self {
        self.described(Node::new(BatchNorm::KIND, name))
    }

    /// Adds a ReLU.
    #[must_use]
    pub fn relu(self) -> Self {
        self.described(Node::new(Relu::KIND, ""))
    }

    /// Adds dropout with probability `p`, in training only. With `p` = 0 nothing is added.
    ///
    /// A norm and a ReLU must come right before it, because all three are computed as one operation. It stores no mask:
    /// the backward pass takes the elements that are above 0 for those that were kept. In other places use
    /// [`Builder::dropout_maps`], or a layer of your own that calls [`quarterturn_autograd::Var::dropout`].
    #[must_use]
    pub fn dropout(self, p: f32) -> Self {
        self.described(Node::new(DROPOUT, "").with("p", p))
    }

    /// Adds dropout of whole channels with probability `p`, in training only: all pixels and all group elements of a
    /// channel together (PyTorch: `Dropout2d`).
    #[must_use]
    pub fn dropout_maps(self, p: f32) -> Self {
        self.described(Node::new(DropoutMaps::KIND, "").with("p", p))
    }

    /// Adds max pooling.
    #[must_use]
    pub fn max_pool(self, name: &str, window: Window) -> Self {
        self.described(Node::new(MaxPool::KIND, name).with_window(window))
    }

    /// Adds average pooling.
    #[must_use]
    pub fn avg_pool(self, name: &str, window: Window) -> Self {
        self.described(Node::new(AvgPool::KIND, name).with_window(window))
    }

    /// Adds BlurPool, of `kernel_size` 3 or 5: subsampling after a low-pass filter, against aliasing.
    #[must_use]
    pub fn blur_pool(self, name: &str, window: Window) -> Self {
        self.described(Node::new(BlurPool::KIND, name).with_window(window))
    }

    /// Adds a convolution with a bias and stride 2, on the grid that its input chooses: exact at every size. Layers
    /// with the same name `grid` share the choice.
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

    /// Adds max pooling of stride 2 on the grid that the maxima choose: exact at every size. `grid` is a name for the
    /// choice, for a later [`Builder::grid_upsample`].
    #[must_use]
    pub fn adaptive_max_pool(self, name: &str, window: Window, grid: Option<&str>) -> Self {
        self.described(on_grid(Node::new(AdaptiveMaxPool::KIND, name).with_window(window), grid))
    }

    /// As [`Builder::adaptive_max_pool`], with means in place of maxima.
    #[must_use]
    pub fn adaptive_avg_pool(self, name: &str, window: Window, grid: Option<&str>) -> Self {
        self.described(on_grid(Node::new(AdaptiveAvgPool::KIND, name).with_window(window), grid))
    }

    /// Adds upsampling by 2: puts the samples on the grid `grid`, which an earlier adaptive layer has chosen, with
    /// zeros elsewhere.
    #[must_use]
    pub fn grid_upsample(self, name: &str, grid: &str) -> Self {
        self.described(on_grid(Node::new(GridUpsample::KIND, name), Some(grid)))
    }

    /// Adds layers under a common name, which becomes the prefix of theirs.
    #[must_use]
    pub fn chain(self, name: &str, layers: impl FnOnce(Builder) -> Builder) -> Self {
        let (mut builder, chain) = self.nested(name, layers);
        builder.plans.push(chain);
        builder
    }

    /// Adds a residual block, `branch(x) + shortcut(x)`. Pass `|x| x` for an identity shortcut. The layers are named
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

    /// Adds two branches that read the same feature map, and concatenates their channels: those of `first`, then those
    /// of `second`. Pass `|x| x` for the feature map itself. The layers of `first` are named `name.first.…`, those of
    /// `second` `name.…`.
    ///
    /// For a network with several outputs, end with two heads: their results `[N, A]` and `[N, B]` become `[N, A + B]`.
    /// A loss of your own ([`Objective::own`](crate::training::Objective::own)) takes them apart again with `narrow`.
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

    /// Adds an elementwise function: silu, gelu, sigmoid, tanh, softplus, …
    #[must_use]
    pub fn activation(self, function: &'static Elementwise) -> Self {
        self.described(Node::new(Activation::KIND, "").with("function", function.name))
    }

    /// Adds bilinear upsampling to `factor` times the height and width: exact at every size.
    #[must_use]
    pub fn upsample(self, name: &str, factor: usize) -> Self {
        self.described(Node::new(Upsample::KIND, name).with("factor", factor))
    }

    /// Adds a resize to `extent` × `extent` pixels. Bilinear interpolation is exact at every size. Nearest-neighbour
    /// interpolation is exact where height and width of the input have no more factors of 2 than `extent`.
    #[must_use]
    pub fn resize(self, name: &str, extent: usize, interpolation: Interpolation) -> Self {
        let node = Node::new(Resize::KIND, name).with("extent", extent);
        self.described(node.with("interpolation", interpolation))
    }

    /// As [`Builder::upsample`], with nearest-neighbour interpolation.
    #[must_use]
    pub fn upsample_nearest(self, name: &str, factor: usize) -> Self {
        let node = Node::new(Upsample::KIND, name).with("factor", factor);
        self.described(node.with("interpolation", Interpolation::Nearest))
    }

    /// Adds a centre crop: maps without their `margin` outermost rows and columns on each side. It is exact at every size.
    #[must_use]
    pub fn crop(self, name: &str, margin: usize) -> Self {
        self.described(Node::new(Crop::KIND, name).with("margin", margin))
    }

    /// Adds the mean over all pixels (global average pooling).
    #[must_use]
    pub fn spatial_mean(self) -> Self {
        let name = self.free("mean");
        self.described(Node::new(SpatialMean::KIND, &name))
    }

    /// Adds the maximum over all pixels (global max pooling).
    #[must_use]
    pub fn spatial_max(self) -> Self {
        let name = self.free("max");
        self.described(Node::new(SpatialMax::KIND, &name))
    }

    /// Adds the maximum over the group axis. After it and a mean over all pixels, a turned image gives the same values
    /// as the upright one.
    #[must_use]
    pub fn coset_max(self) -> Self {
        let name = self.free("coset");
        self.described(Node::new(CosetMax::KIND, &name))
    }

    /// Adds the mean over the group axis; otherwise as [`Builder::coset_max`].
    #[must_use]
    pub fn coset_mean(self) -> Self {
        let name = self.free("coset");
        self.described(Node::new(CosetMean::KIND, &name))
    }

    /// Restricts feature maps to a subgroup `to` of the group (p4, p2 or z2), with more channels. Later convolutions
    /// work on that subgroup, and the network is no longer equivariant under turns and flips outside of it. There are
    /// no convolutions on p2.
    #[must_use]
    pub fn restrict(self, name: &str, to: Subgroup) -> Self {
        self.described(Node::new(Restrict::KIND, name).with("to", to))
    }

    /// Adds the maximum over each coset of a subgroup, that is over some of the planes along the group axis at a time.
    /// The group axis becomes shorter by a factor of the subgroup's number of elements. On p4m, after pooling over pm
    /// (the flip), feature maps can be restricted to p4 and convolved on it.
    #[must_use]
    pub fn subgroup_max(self, name: &str, subgroup: Subgroup) -> Self {
        self.described(Node::new(SubgroupMax::KIND, name).with("subgroup", subgroup))
    }

    /// Adds the mean over each coset of a subgroup; otherwise as [`Builder::subgroup_max`].
    #[must_use]
    pub fn subgroup_mean(self, name: &str, subgroup: Subgroup) -> Self {
        self.described(Node::new(SubgroupMean::KIND, name).with("subgroup", subgroup))
    }

    /// Adds a linear layer. It needs a mean or maximum over all pixels before it. Without a maximum or mean over the
    /// group too, it has a weight for each group element, and its output is not invariant.
    #[must_use]
    pub fn linear(self, name: &str, out_features: usize) -> Self {
        self.described(Node::new(Linear::KIND, name).with("out_features", out_features))
    }

    /// Adds a layer of your own, any [`Module`] that keeps the number of channels. A checkpoint stores its parameters,
    /// but not how to make the layer. So the file can be restored into a network that your program has built
    /// ([`crate::Checkpoint::restore`]), but cannot build one. To lift that limit, implement [`Layer`].
    #[must_use]
    pub fn layer(self, name: &str, module: impl Module + 'static) -> Self {
        self.own(name, Box::new(module), None)
    }

    /// As [`Builder::layer`], for a layer whose output has `out_channels` channels.
    #[must_use]
    pub fn layer_to(self, name: &str, module: impl Module + 'static, out_channels: usize) -> Self {
        self.own(name, Box::new(module), Some(out_channels))
    }

    fn own(mut self, name: &str, module: Box<dyn Module>, channels: Option<usize>) -> Self {
        let node = Node::new(OWN, name);
        self.plans.push(Plan { node, own: Some((module, channels)), children: Vec::new() });
        self
    }

    /// Makes the layers. Wrap them in a [`crate::Sequential`] to get a network.
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
