//! A convolution and the batch norm behind it as one operation. On the CPU whatever has to be done to each image besides the
//! convolution, or to its gradient, is done while that image is in a cache, and what is read for it fetched while products
//! are summed.

#[cfg(feature = "gpu")]
use super::gpu;
use super::{
    Conv, Extents, gradient, group_conv, group_conv_dw, group_conv_dx,
    pass::{self, OfImages},
};
use crate::{
    Activation, BatchNorm, Isa, Window, add,
    batch_norm::{
        After, Axes, Gradient, Moments, Statistics, Through, batch_norm_of_moments, gradient_by_channel, vjp,
    },
    batch_norm_eval, batch_norm_train,
    jobs::{collect, for_each_chunk},
    max_pool, max_pool_vjp,
    pool::Geometry,
    sweep::add_to,
};
use quarterturn_core::{Device, HostBuffer, Shape, Tensor, common_device};

/// A batch norm with given statistics, as in evaluation, and the ReLU after it.
#[derive(Clone, Copy, Debug)]
pub struct GivenNorm<'a> {
    /// Scale `[C]`.
    pub weight: &'a Tensor,
    /// Shift `[C]`.
    pub bias: &'a Tensor,
    /// Running mean `[C]`.
    pub mean: &'a Tensor,
    /// Running variance `[C]`.
    pub var: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
    /// Whether `max(·, 0)` follows.
    pub relu: bool,
}

/// [`group_conv`], then [`batch_norm_eval`] with `norm`, as one operation on the CPU and on GPUs.
///
/// # Panics
/// As those two.
#[track_caller]
pub fn group_conv_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv, norm: GivenNorm) -> Tensor {
    let GivenNorm { weight: gamma, bias: beta, mean, var, eps, relu } = norm;
    let mut operands = vec![x, weight, gamma, beta, mean, var];
    operands.extend(bias);
    let e = Extents::new("group_conv_norm", x.shape(), weight.shape(), conv);
    for statistic in &operands[2..] {
        assert_eq!(statistic.dims(), [e.c_out], "group_conv_norm: expected [C_out] in norm and bias");
    }
    match common_device("group_conv_norm", &operands) {
        Device::Cpu => {}
        Device::Reference => {
            let y = group_conv(x, weight, bias, conv);
            return batch_norm_eval(&y, gamma, beta, mean, var, eps, Activation { relu, dropout: None });
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => return gpu::forward_norm(&gpu, &e, x, weight, bias, conv, norm),
    }
    let epilogue = norm.epilogue(bias);
    Tensor::cpu(e.y(), pass::forward(&e, conv, Isa::current(), x.f32s(), weight.f32s(), epilogue))
}

impl GivenNorm<'_> {
    /// The norm of what a convolution with this bias makes, in one multiplication and one addition.
    pub(super) fn epilogue(self, bias: Option<&Tensor>) -> pass::Epilogue {
        let GivenNorm { weight: gamma, bias: beta, mean, var, eps, relu } = self;
        let scale_shift = |c: usize| {
            let scale = f64::from(gamma.f32s()[c]) / (f64::from(var.f32s()[c]) + eps).sqrt();
            let centre = f64::from(mean.f32s()[c]) - bias.map_or(0.0, |b| f64::from(b.f32s()[c]));
            (scale as f32, (f64::from(beta.f32s()[c]) - centre * scale) as f32)
        };
        pass::Epilogue { scale_shift: (0..gamma.len()).map(scale_shift).collect(), relu }
    }
}

/// A batch norm with the statistics of the batch, and what follows it: `y = pool(dropout(relu(z)))`, see
/// [`batch_norm_train`].
#[derive(Clone, Copy, Debug)]
pub struct TrainNorm<'a> {
    /// Scale `[C]`.
    pub weight: &'a Tensor,
    /// Shift `[C]`.
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
    /// ReLU and dropout.
    pub activation: Activation,
    /// The window of the max pooling at the end, if there is one: see [`max_pool`].
    pub pool: Option<Window>,
}

/// The values that [`group_conv_norm_train`] saves for its backward pass.
#[derive(Debug)]
pub struct NormGradient {
    /// Results of the convolution.
    x: Tensor,
    /// Results of norm and activation, before pooling. On the CPU only where they are read again.
    y: Option<Tensor>,
    mean_parts: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    activation: Activation,
    pool: Option<Window>,
}

/// [`batch_norm_train`], and what its backward pass needs.
///
/// # Panics
/// As there.
#[track_caller]
pub fn batch_norm_train_of(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> (BatchNorm, NormGradient) {
    let forward = batch_norm_train(x, weight, bias, eps, activation);
    let reads_y = activation.dropout.is_some() || !matches!(x.device(), Device::Cpu);
    let (mean_parts, var) = (forward.mean_parts.clone(), forward.var.clone());
    let (y, weight, bias) = (reads_y.then(|| forward.y.clone()), weight.clone(), bias.clone());
    let gradient = NormGradient { x: x.clone(), y, mean_parts, var, weight, bias, eps, activation, pool: None };
    (forward, gradient)
}

/// The sums over the gradient `dy` of a norm's output with which the norm's backward pass starts.
#[derive(Debug)]
pub struct NormSums {
    dy: Tensor,
    /// `[Σ dz, Σ dz·(x − mean)]` of each channel.
    of_channels: Vec<[f64; 2]>,
}

/// [`group_conv`], then [`batch_norm_train`], then [`max_pool`] if `norm` says so, as one operation. Returns the output
/// `[N, C_out, G, H', W']` (pooled) with the batch's mean and variance, and the values that
/// [`group_conv_norm_train_vjp`] needs.
///
/// On the CPU this is faster than the three operations one after another, and on p4 it takes a sixth fewer
/// multiplications. For a turned input the output is the turned one up to rounding only. That is so in any case in
/// training, because the batch statistics are sums over all pixels.
///
/// # Panics
/// As those.
#[track_caller]
pub fn group_conv_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: Conv,
    norm: TrainNorm,
) -> (BatchNorm, NormGradient) {
    let TrainNorm { weight: gamma, bias: beta, eps, activation, pool } = norm;
    let e = Extents::new("group_conv_norm_train", x.shape(), weight.shape(), conv);
    let mut operands = vec![x, weight, gamma, beta];
    operands.extend(bias);
    for per_channel in &operands[2..] {
        assert_eq!(per_channel.dims(), [e.c_out], "group_conv_norm_train: expected [C_out] in norm and bias");
    }
    let (convolved, norm, y) = match common_device("group_conv_norm_train", &operands) {
        Device::Cpu => {
            let epilogue = pass::Epilogue::bias(e.c_out, bias.map(Tensor::f32s));
            let channel = e.g_out * e.out_height * e.out_width;
            let moments = |_, y: &mut [f32]| -> Vec<Moments> { y.chunks_exact(channel).map(Moments::of).collect() };
            let moments = OfImages::new(e.batch, [&[]; 3], &moments);
            let isa = Isa::current();
            let convolved = pass::forward_then(&e, conv, isa, x.f32s(), weight.f32s(), epilogue, &moments);
            let (convolved, moments) = (Tensor::cpu(e.y(), convolved), moments.into_made());
            let windows = pool.map(|window| Geometry::of("group_conv_norm_train", e.y(), window));
            let norm = batch_norm_of_moments(&convolved, &moments.concat(), gamma, beta, eps, activation, windows);
            let y = (pool.is_none() && activation.dropout.is_some()).then(|| norm.y.clone());
            (convolved, norm, y)
        }
        _ => {
            let convolved = group_conv(x, weight, bias, conv);
            let mut norm = batch_norm_train(&convolved, gamma, beta, eps, activation);
            let y = norm.y.clone();
            if let Some(window) = pool {
                norm.y = max_pool(&y, window);
            }
            (convolved, norm, Some(y))
        }
    };
    let (mean_parts, var) = (norm.mean_parts.clone(), norm.var.clone());
    let (weight, bias) = (gamma.clone(), beta.clone());
    (norm, NormGradient { x: convolved, y, mean_parts, var, weight, bias, eps, activation, pool })
}

/// Results of [`group_conv_norm_train_vjp`].
#[derive(Debug)]
pub struct ConvNormGradients {
    /// Of the convolution's weight, `[C_out, C_in, G_in, k, k]`.
    pub weight: Tensor,
    /// Of the norm's weight, `[C_out]`.
    pub norm_weight: Tensor,
    /// Of the norm's bias, `[C_out]`.
    pub norm_bias: Tensor,
    /// Of the convolution's output, if asked for. [`group_conv_dx`] computes the gradient of the input from it.
    pub convolved: Option<Tensor>,
}

/// Gradients of [`group_conv_norm_train`] for the input `x`, where `dy` is the gradient of its output. The gradient of
/// the convolution's bias is 0, because the norm subtracts what the bias adds. `sums` are used if they were computed
/// from this `dy`; otherwise they are computed here.
///
/// # Panics
/// If shapes or devices do not fit.
#[track_caller]
pub fn group_conv_norm_train_vjp(
    x: &Tensor,
    weight_shape: Shape,
    conv: Conv,
    norm: &NormGradient,
    dy: &Tensor,
    sums: Option<NormSums>,
    wants_convolved: bool,
) -> ConvNormGradients {
    const OP: &str = "group_conv_norm_train_vjp";
    let e = Extents::new(OP, x.shape(), weight_shape, conv);
    assert_eq!(norm.x.shape(), e.y(), "{OP}: expected the norm of this convolution");
    assert_eq!(dy.shape(), norm.y_shape(OP), "{OP}: dy must have the shape of the output");
    let channels = [e.c_out];
    if !matches!(common_device(OP, &[x, dy, &norm.x]), Device::Cpu) {
        let (dz, norm_weight, norm_bias) = norm.gradients(dy);
        let (weight, _) = group_conv_dw(x, &dz, weight_shape, conv);
        return ConvNormGradients { weight, norm_weight, norm_bias, convolved: wants_convolved.then_some(dz) };
    }
    let images = norm.on_images(OP);
    if !gradient::takes_whole_images(&e, conv) {
        let Images { axes, gradients, x: convolved, y } = images;
        let (y, statistics) = (y.unwrap_or(convolved), Statistics::Batch);
        let (dz, dweight, dbias) = gradient_by_channel(statistics, axes, &gradients, convolved, y, dy.f32s());
        let (weight, _) = gradient::dw(&e, conv, Isa::current(), x.f32s(), gradient::ResultGradient::Given(&dz));
        return ConvNormGradients {
            weight: Tensor::cpu(weight_shape, weight),
            norm_weight: Tensor::cpu(channels, dweight),
            norm_bias: Tensor::cpu(channels, dbias),
            convolved: wants_convolved.then(|| Tensor::cpu(e.y(), dz)),
        };
    }
    let sums = match sums {
        Some(sums) if sums.dy.shares_values_with(dy) => sums.of_channels,
        _ => images.sums(dy.f32s()),
    };
    let (through, norm_weight, norm_bias) = images.of_sums(&sums);
    let mut dz = wants_convolved.then(|| HostBuffer::scratch(norm.x.len()));
    let made = gradient::ResultGradient::Made {
        image: &|n, dz| images.sweep(n, images.image(n, dy.f32s()), &through, dz, None),
        reads: [images.x, images.y.unwrap_or_default(), dy.f32s()],
        kept: dz.as_deref_mut(),
    };
    let (weight, _) = gradient::dw(&e, conv, Isa::current(), x.f32s(), made);
    ConvNormGradients {
        weight: Tensor::cpu(weight_shape, weight),
        norm_weight: Tensor::cpu(channels, norm_weight),
        norm_bias: Tensor::cpu(channels, norm_bias),
        convolved: dz.map(|dz| Tensor::cpu(e.y(), dz)),
    }
}

/// [`group_conv_dx`], plus `arrived`, what of the same gradient is there already. If the input is the output of `norm`, then
/// on the CPU it also computes the sums with which the norm's backward pass starts.
///
/// # Panics
/// As [`group_conv_dx`], or if the input is not of the shape of the norm's results and of what is there.
#[track_caller]
pub fn group_conv_dx_norm(
    dy: &Tensor,
    weight: &Tensor,
    x_shape: Shape,
    conv: Conv,
    norm: Option<&NormGradient>,
    arrived: Option<&Tensor>,
) -> (Tensor, Option<NormSums>) {
    const OP: &str = "group_conv_dx_norm";
    let e = Extents::new(OP, x_shape, weight.shape(), conv);
    e.check_y(OP, dy);
    for shape in norm.map(|norm| norm.y_shape(OP)).into_iter().chain(arrived.map(Tensor::shape)) {
        assert_eq!(shape, x_shape, "{OP}: expected the norm of this input, and its gradient");
    }
    let mut operands = vec![dy, weight];
    operands.extend(norm.map(|norm| &norm.x).into_iter().chain(arrived));
    let on_cpu = matches!(common_device(OP, &operands), Device::Cpu);
    if e.g_in != e.g_out || !on_cpu || (norm.is_none() && arrived.is_none()) {
        let dx = group_conv_dx(dy, weight, x_shape, conv);
        return (arrived.map_or(dx.clone(), |arrived| add(&dx, arrived)), None);
    }
    let (images, arrived) = (norm.map(|norm| norm.on_images(OP)), arrived.map_or(&[][..], Tensor::f32s));
    let image = arrived.len() / e.batch;
    let finish = |n: usize, dx: &mut [f32]| {
        add_to(dx, &arrived[n * image..][..image]);
        images.as_ref().map(|images| images.sums_of(n, dx))
    };
    let [x, y] = images.as_ref().map_or([&[][..]; 2], |images| [images.x, images.y.unwrap_or_default()]);
    let finished = OfImages::new(e.batch, [x, y, arrived], &finish);
    let dx = pass::dx_then(&e, conv, Isa::current(), dy.f32s(), weight.f32s(), &finished);
    let dx = Tensor::cpu(x_shape, dx);
    let sums: Option<Vec<_>> = finished.into_made().into_iter().collect();
    let sums = images.zip(sums).map(|(images, sums)| NormSums { dy: dx.clone(), of_channels: images.total(&sums) });
    (dx, sums)
}

impl NormGradient {
    /// Gradients of the norm's input, weight and bias, where `dy` is the gradient of its output: [`crate::batch_norm_train_vjp`].
    /// `arrived`, what of the input's gradient is there already, is added to that. `sums` are used if they were computed from
    /// this `dy`.
    ///
    /// # Panics
    /// If shapes or devices do not fit.
    #[track_caller]
    pub fn vjp(&self, dy: &Tensor, sums: Option<NormSums>, arrived: Option<&Tensor>) -> (Tensor, Tensor, Tensor) {
        const OP: &str = "batch_norm_train_vjp";
        assert_eq!(dy.shape(), self.y_shape(OP), "{OP}: dy must have the shape of the output");
        let on_cpu = matches!(common_device(OP, &[dy, &self.x]), Device::Cpu);
        let sums = sums.filter(|sums| on_cpu && sums.dy.shares_values_with(dy));
        let Some(sums) = sums.map(|sums| sums.of_channels) else {
            let (dx, dweight, dbias) = self.gradients(dy);
            return (arrived.map_or(dx.clone(), |arrived| add(&dx, arrived)), dweight, dbias);
        };
        let images = self.on_images(OP);
        let (through, dweight, dbias) = images.of_sums(&sums);
        let mut dx = HostBuffer::scratch(self.x.len());
        for_each_chunk(&mut dx, self.x.len() / images.axes.batch, 1, &|n, dx| {
            let arrived = arrived.map(|arrived| images.image(n, arrived.f32s()));
            images.sweep(n, images.image(n, dy.f32s()), &through, dx, arrived);
        });
        let channels = [images.axes.channels];
        (Tensor::cpu(self.x.shape(), dx), Tensor::cpu(channels, dweight), Tensor::cpu(channels, dbias))
    }

    /// The shape of the results.
    #[track_caller]
    fn y_shape(&self, op: &str) -> Shape {
        self.windows(op).map_or(self.x.shape(), |windows| windows.y_shape(self.x.shape()))
    }

    /// Gradients of the convolution's results, and of the norm's weight and bias, where it is not the CPU: one operation
    /// after the other.
    fn gradients(&self, dy: &Tensor) -> (Tensor, Tensor, Tensor) {
        let NormGradient { x, y, mean_parts, var, weight, bias, eps, activation, pool } = self;
        // Where it is not kept, it is not read.
        let y = y.as_ref().unwrap_or(x);
        let unpooled = pool.map(|window| max_pool_vjp(y, dy, window));
        let dy = unpooled.as_ref().unwrap_or(dy);
        let statistics = Statistics::Batch;
        vjp("batch_norm_train_vjp", statistics, x, y, weight, bias, mean_parts, var, *eps, *activation, dy)
    }

    #[track_caller]
    fn windows(&self, op: &str) -> Option<Geometry> {
        self.pool.map(|window| Geometry::of(op, self.x.shape(), window))
    }

    #[track_caller]
    fn on_images(&self, op: &str) -> Images<'_> {
        let NormGradient { x, y, mean_parts, var, weight, bias, eps, activation, .. } = self;
        let after = After::new(op, *activation);
        let gradients = Gradient::of_channels(weight, bias, mean_parts, var, *eps, after, self.windows(op));
        Images { axes: Axes::of(op, x, &[weight, bias, var]), gradients, x: x.f32s(), y: y.as_ref().map(Tensor::f32s) }
    }
}

/// A norm's gradient on the CPU, image by image.
struct Images<'a> {
    axes: Axes,
    gradients: Vec<Gradient>,
    x: &'a [f32],
    /// Where it is read.
    y: Option<&'a [f32]>,
}

impl Images<'_> {
    /// Image `n` of an array with as much for every image.
    fn image<'a>(&self, n: usize, all: &'a [f32]) -> &'a [f32] {
        let image = all.len() / self.axes.batch;
        &all[n * image..][..image]
    }

    /// For each channel of image `n`: its first element in the whole tensor, its gradient, x and y.
    fn channels(&self, n: usize) -> impl Iterator<Item = (usize, Gradient, &[f32], &[f32])> {
        let Axes { channels, block, .. } = self.axes;
        self.gradients.iter().enumerate().map(move |(c, &gradient)| {
            let start = (n * channels + c) * block;
            let x = &self.x[start..start + block];
            (start, gradient, x, self.y.map_or(x, |y| &y[start..start + block]))
        })
    }

    /// The sums of each channel of image `n`, where the gradient of its results is `dy`.
    fn sums_of(&self, n: usize, dy: &[f32]) -> Vec<[f64; 2]> {
        let mut scratch = Vec::new();
        let channels = self.channels(n).zip(dy.chunks_exact(dy.len() / self.axes.channels));
        channels.map(|((start, gradient, x, y), dy)| gradient.sums(start, x, y, dy, &mut scratch)).collect()
    }

    /// Those of all images, added in their order.
    fn total(&self, images: &[Vec<[f64; 2]>]) -> Vec<[f64; 2]> {
        let mut total = vec![[0.0; 2]; self.axes.channels];
        for image in images {
            for (total, sums) in total.iter_mut().zip(image) {
                *total = [total[0] + sums[0], total[1] + sums[1]];
            }
        }
        total
    }

    fn sums(&self, dy: &[f32]) -> Vec<[f64; 2]> {
        self.total(&collect(self.axes.batch, 1, |n| self.sums_of(n, self.image(n, dy))))
    }

    /// What flows back through each channel's statistics, and the gradients of the norm's weight and bias.
    fn of_sums(&self, sums: &[[f64; 2]]) -> (Vec<Through>, HostBuffer, HostBuffer) {
        let (of_channels, count) = (|| self.gradients.iter().zip(sums), self.axes.count());
        let through = of_channels().map(|(g, &sums)| g.through_statistics(sums, count)).collect();
        let (weight, bias): (Vec<f32>, Vec<f32>) = of_channels().map(|(g, &sums)| g.of_parameters(sums)).unzip();
        (through, weight.into(), bias.into())
    }

    /// Gradient of x, of image `n`, and what has arrived of it before.
    fn sweep(&self, n: usize, dy: &[f32], through: &[Through], dx: &mut [f32], arrived: Option<&[f32]>) {
        let (mut scratch, block) = (Vec::new(), self.axes.block);
        let channels = self.channels(n).zip(dy.chunks_exact(dy.len() / self.axes.channels));
        let channels = channels.zip(through).zip(dx.chunks_exact_mut(block)).enumerate();
        for (c, ((((start, gradient, x, y), dy), &through), dx)) in channels {
            gradient.sweep(start, x, y, dy, Some(through), dx, &mut scratch);
            if let Some(arrived) = arrived {
                add_to(dx, &arrived[c * block..][..block]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Group, batch_norm_train_vjp,
        group_conv::tests::{close, random},
        parity::devices_and_reference,
    };
    use quarterturn_core::Stream;

    const EPS: f64 = 1e-5;

    #[test]
    fn a_given_norm_is_the_norm() {
        for device in devices_and_reference() {
            let x = random(Shape::from([2, 3, 4, 9, 9]), 1, &device);
            let weight = random(Shape::from([5, 3, 4, 3, 3]), 2, &device);
            let [bias, gamma, beta, mean] = [3, 4, 5, 6].map(|stream| random(Shape::from([5]), stream, &device));
            let var = Tensor::from_vec([5], vec![0.5, 1.0, 2.0, 3.0, 0.1], &device).unwrap();
            let conv = Conv { stride: 2, padding: 1, ..Conv::new(Group::C4) };
            for relu in [false, true] {
                let norm = GivenNorm { weight: &gamma, bias: &beta, mean: &mean, var: &var, eps: EPS, relu };
                let y = group_conv(&x, &weight, Some(&bias), conv);
                let apart = batch_norm_eval(&y, &gamma, &beta, &mean, &var, EPS, Activation { relu, dropout: None });
                close("group_conv_norm", &group_conv_norm(&x, &weight, Some(&bias), conv, norm), &apart, 1e-6);
            }
        }
    }

    /// (group, lifting, batch, input channels, output channels, extent): whole images, alone or several together, bands,
    /// and panels.
    const CASES: [(Group, bool, usize, usize, usize, usize); 7] = [
        (Group::C1, false, 2, 3, 5, 7),
        (Group::C4, false, 3, 3, 5, 9),
        (Group::C4, true, 5, 1, 5, 14),
        (Group::C4, false, 33, 2, 5, 6),
        (Group::C4, false, 1, 8, 5, 65),
        (Group::D4, false, 1, 2, 5, 6),
        (Group::C4, false, 2, 17, 33, 4),
    ];

    fn tails() -> impl Iterator<Item = (Activation, Option<Window>)> {
        let relu = Activation { relu: true, dropout: None };
        let dropping = Activation { relu: true, dropout: Some((0.3, Stream::new(1, 6, 0))) };
        let windows = [None, Some((2, 2, 0)), Some((3, 2, 1))];
        let windows = windows.map(|w| w.map(|(kernel_size, stride, padding)| Window { kernel_size, stride, padding }));
        [Activation::default(), relu, dropping].into_iter().flat_map(move |a| windows.map(|window| (a, window)))
    }

    /// Everything that training has of a convolution with a norm, and of one behind it: results of both devices' ways.
    fn fused(
        x: &Tensor,
        weights: &[Tensor; 5],
        conv: Conv,
        tail: (Activation, Option<Window>),
    ) -> Vec<(&'static str, Tensor)> {
        let [weight, bias, gamma, beta, next] = weights;
        let norm = TrainNorm { weight: gamma, bias: beta, eps: EPS, activation: tail.0, pool: tail.1 };
        let (forward, gradient) = group_conv_norm_train(x, weight, Some(bias), conv, norm);
        let second = group_conv(&forward.y, next, None, conv);
        let (gradient_of_y, arrived) = (Some(&gradient), Some(&forward.y));
        let (dy, sums) = group_conv_dx_norm(&second, next, forward.y.shape(), conv, gradient_of_y, arrived);
        let vjp = |sums| group_conv_norm_train_vjp(x, weight.shape(), conv, &gradient, &dy, sums, true);
        let (with_sums, without) = (vjp(sums), vjp(None));
        for (one, other) in with_sums.tensors().into_iter().zip(without.tensors()) {
            assert!(one.1.to_f64().unwrap() == other.1.to_f64().unwrap(), "{} depends on who takes the sums", one.0);
        }
        let mut all = vec![("y", forward.y), ("mean", forward.mean), ("var", forward.var), ("dy", dy)];
        all.extend(with_sums.tensors());
        all
    }

    /// The same, one operation after the other.
    fn apart(
        x: &Tensor,
        weights: &[Tensor; 5],
        conv: Conv,
        tail: (Activation, Option<Window>),
    ) -> Vec<(&'static str, Tensor)> {
        let ([weight, bias, gamma, beta, next], (activation, pool)) = (weights, tail);
        let convolved = group_conv(x, weight, Some(bias), conv);
        let norm = batch_norm_train(&convolved, gamma, beta, EPS, activation);
        let y = pool.map_or(norm.y.clone(), |window| max_pool(&norm.y, window));
        let second = group_conv(&y, next, None, conv);
        let dy = add(&group_conv_dx(&second, next, y.shape(), conv), &y);
        let unpooled = pool.map_or(dy.clone(), |window| max_pool_vjp(&norm.y, &dy, window));
        let (dz, dgamma, dbeta) = batch_norm_train_vjp(&convolved, &norm, gamma, beta, EPS, activation, &unpooled);
        let (dweight, _) = group_conv_dw(x, &dz, weight.shape(), conv);
        let forward = [("y", y), ("mean", norm.mean), ("var", norm.var), ("dy", dy)];
        let backward = [("weight", dweight), ("norm weight", dgamma), ("norm bias", dbeta), ("convolved", dz)];
        forward.into_iter().chain(backward).collect()
    }

    /// A norm and a convolution behind it: results of the fused operations, and of one after the other.
    #[test]
    fn a_norm_before_a_convolution_is_the_norm_with_any_number_of_threads() {
        for device in devices_and_reference() {
            for (group, _, n, c_in, c_out, extent) in CASES {
                let [gamma, beta] = [1, 2].map(|stream| random(Shape::from([c_in]), stream, &device));
                let shape = Shape::from([n, c_in, group.order(), extent, extent]);
                let [x, arrived] = [3, 4].map(|stream| random(shape, stream, &device));
                let dz = random(Shape::from([n, c_out, group.order(), extent, extent]), 5, &device);
                let weight = random(Shape::from([c_out, c_in, group.order(), 3, 3]), 6, &device);
                let conv = Conv { padding: 1, ..Conv::new(group) };
                for activation in tails().map(|(activation, _)| activation) {
                    let on = |threads: usize| {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                        pool.install(|| {
                            let (norm, gradient) = batch_norm_train_of(&x, &gamma, &beta, EPS, activation);
                            let (dy, sums) = group_conv_dx_norm(&dz, &weight, shape, conv, Some(&gradient), None);
                            let (dx, dgamma, dbeta) = gradient.vjp(&dy, sums, Some(&arrived));
                            [norm.y, norm.mean, norm.var, dx, dgamma, dbeta]
                        })
                    };
                    let norm = batch_norm_train(&x, &gamma, &beta, EPS, activation);
                    let dy = group_conv_dx(&dz, &weight, shape, conv);
                    let (dx, dgamma, dbeta) = batch_norm_train_vjp(&x, &norm, &gamma, &beta, EPS, activation, &dy);
                    let apart = [norm.y, norm.mean, norm.var, add(&dx, &arrived), dgamma, dbeta];
                    let (one, name) = (on(1), format!("{group} {n} {extent} {activation:?} {device:?}"));
                    for (i, (got, expected)) in one.iter().zip(&apart).enumerate() {
                        close(&format!("result {i} {name}"), got, expected, 2e-4);
                    }
                    for (i, (one, other)) in one.iter().zip(&on(3)).enumerate() {
                        assert!(one.to_f64().unwrap() == other.to_f64().unwrap(), "result {i} {name}, 3 threads");
                    }
                }
            }
        }
    }

    impl ConvNormGradients {
        fn tensors(&self) -> [(&'static str, Tensor); 4] {
            let convolved = self.convolved.clone().expect("asked for");
            let ConvNormGradients { weight, norm_weight, norm_bias, .. } = self;
            [
                ("weight", weight.clone()),
                ("norm weight", norm_weight.clone()),
                ("norm bias", norm_bias.clone()),
                ("convolved", convolved),
            ]
        }
    }

    /// Whole numbers about 10,000, which a convolution with one tap leaves whole: the norm behind it must tell them apart.
    #[test]
    fn a_large_mean_costs_no_digits() {
        let window = Window { kernel_size: 2, stride: 2, padding: 0 };
        for (group, pool) in
            [(Group::C1, None), (Group::C4, None), (Group::C4, Some(window)), (Group::D4, Some(window))]
        {
            let shape = Shape::from([3, 1, group.order(), 6, 6]);
            let noise = random(shape, 1, &Device::Reference);
            let values: Vec<f32> = noise.f64s().iter().map(|v| 1e4 + v.round() as f32).collect();
            let conv = Conv::new(group);
            let on = |device: &Device| -> [Vec<f64>; 6] {
                let x = Tensor::from_vec(shape, values.clone(), device).unwrap();
                let mut filter = vec![0.0; group.order()];
                filter[0] = 1.0;
                let weight = Tensor::from_vec([1, 1, group.order(), 1, 1], filter, device).unwrap();
                let gamma = Tensor::full([1], 0.7, device).unwrap();
                let beta = Tensor::full([1], 0.1, device).unwrap();
                let activation = Activation { relu: true, dropout: None };
                let norm = TrainNorm { weight: &gamma, bias: &beta, eps: EPS, activation, pool };
                let (forward, gradient) = group_conv_norm_train(&x, &weight, None, conv, norm);
                let dy = random(forward.y.shape(), 2, device);
                let vjp = group_conv_norm_train_vjp(&x, weight.shape(), conv, &gradient, &dy, None, true);
                let convolved = vjp.convolved.expect("asked for");
                [forward.y, forward.mean, forward.var, vjp.norm_weight, vjp.norm_bias, convolved]
                    .map(|t| t.to_f64().unwrap())
            };
            let expected = on(&Device::Reference);
            for device in quarterturn_core::testing::devices() {
                for (i, (got, expected)) in on(&device).iter().zip(&expected).enumerate() {
                    let largest = expected.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
                    for (got, expected) in got.iter().zip(expected) {
                        let off = (got - expected).abs() / largest;
                        assert!(off <= 5e-6, "{group} {pool:?} on {device}: result {i} is {got}, expected {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_norm_of_the_batch_is_the_norm_with_any_number_of_threads() {
        for device in devices_and_reference() {
            for ((group, lifting, n, c_in, c_out, extent), tail) in
                CASES.iter().flat_map(|&case| tails().map(move |t| (case, t)))
            {
                let g_in = if lifting { 1 } else { group.order() };
                let x = random(Shape::from([n, c_in, g_in, extent, extent]), 1, &device);
                let weight = random(Shape::from([c_out, c_in, g_in, 3, 3]), 2, &device);
                let [bias, gamma, beta] = [3, 4, 5].map(|stream| random(Shape::from([c_out]), stream, &device));
                let next = random(Shape::from([3, c_out, group.order(), 3, 3]), 6, &device);
                let (weights, conv) = ([weight, bias, gamma, beta, next], Conv { padding: 1, ..Conv::new(group) });
                let on = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| fused(&x, &weights, conv, tail))
                };
                let (one, name) = (on(1), format!("{group} {n} {extent} {tail:?} {device:?}"));
                for ((what, got), (_, expected)) in one.iter().zip(&apart(&x, &weights, conv, tail)) {
                    close(&format!("{what} {name}"), got, expected, 2e-4);
                }
                for ((what, one), (_, other)) in one.iter().zip(&on(3)) {
                    assert!(one.to_f64().unwrap() == other.to_f64().unwrap(), "{what} {name}, 3 threads");
                }
            }
        }
    }
}
