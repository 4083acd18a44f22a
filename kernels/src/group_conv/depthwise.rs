//! Depthwise convolution over a group: the part over space of a separable one. A sum runs over the taps of one filter, in the
//! order that they have before the filter is turned, and so a turned map makes the same sums: no irreps are needed.

use super::{
    Conv, Extents,
    layout::{Layout, Windows},
};
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    Group, Isa,
    jobs::collect,
    simd::{Simd, Task},
    sum_axes,
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, Size};
use quarterturn_core::{Device, HostBuffer, Shape, Tensor, common_device};
use rayon::prelude::*;

/// Depthwise convolution over a group: one filter for each channel, which is turned for each group element.
///
/// ```text
/// y[n, c, g, p] = Σ_u (act_g weight[c])[u] · x[n, c, g, s·p + d·u − padding]
/// ```
///
/// `x` is `[N, C, G, H, W]`, `weight` `[C, 1, 1, k, k]`, `y` `[N, C, G, H', W']`. If the group axis of `x` has length
/// 1, it lifts: every g reads that one plane. Followed by a convolution with 1×1 filters, over channels and group
/// elements, it is a separable convolution. See [`super::group_conv`] for s, d, `act_g` and the order of group
/// elements.
///
/// Where (i + 2p − d(k − 1) − 1) mod s = 0 along both axes, a turned or mirrored `x` gives `y` turned or mirrored in every bit on
/// the CPU and on a GPU.
///
/// # Panics
/// If shapes or devices do not fit, or not one window fits the padded input.
#[track_caller]
pub fn depthwise_conv(x: &Tensor, weight: &Tensor, conv: Conv) -> Tensor {
    const OP: &str = "depthwise_conv";
    let e = Extents::depthwise(OP, x.shape(), weight.shape(), conv);
    match common_device(OP, &[x, weight]) {
        Device::Cpu => {
            let planes = Planes::new(&e, Windows::forward(&e, conv), false, weight.f32s());
            Tensor::cpu(e.y(), planes.run(Isa::current(), x.f32s()))
        }
        Device::Reference => {
            let (x, w) = (x.f64s(), weight.f64s());
            let mut y = vec![0.0; e.y().len()];
            for_each_product(&e, conv, |yi, xi, wi| y[yi] += w[wi] * x[xi]);
            Tensor::reference(e.y(), y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => sums_on_gpu(&gpu, &e, conv, false, x, weight, e.y()),
    }
}

/// Gradient of [`depthwise_conv`] with respect to its input.
///
/// # Panics
/// If shapes or devices do not fit.
#[track_caller]
pub fn depthwise_conv_dx(dy: &Tensor, weight: &Tensor, x_shape: Shape, conv: Conv) -> Tensor {
    const OP: &str = "depthwise_conv_dx";
    let e = Extents::depthwise(OP, x_shape, weight.shape(), conv);
    e.check_y(OP, dy);
    if e.g_in != e.g_out {
        // Every element has read the one plane.
        let of_elements = Shape::from([e.batch, e.c_in, e.g_out, e.height, e.width]);
        return sum_axes(&depthwise_conv_dx(dy, weight, of_elements, conv), &[2], true);
    }
    match common_device(OP, &[dy, weight]) {
        Device::Cpu => {
            let planes = Planes::new(&e, Windows::adjoint(&e, conv), true, weight.f32s());
            Tensor::cpu(e.x(), planes.run(Isa::current(), dy.f32s()))
        }
        Device::Reference => {
            let (dy, w) = (dy.f64s(), weight.f64s());
            let mut dx = vec![0.0; e.x().len()];
            for_each_product(&e, conv, |yi, xi, wi| dx[xi] += w[wi] * dy[yi]);
            Tensor::reference(e.x(), dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => sums_on_gpu(&gpu, &e, conv, true, dy, weight, e.x()),
    }
}

/// Gradient of the weight of [`depthwise_conv`], `[C, 1, 1, k, k]`.
///
/// # Panics
/// If shapes or devices do not fit.
#[track_caller]
pub fn depthwise_conv_dw(x: &Tensor, dy: &Tensor, weight_shape: Shape, conv: Conv) -> Tensor {
    const OP: &str = "depthwise_conv_dw";
    let e = Extents::depthwise(OP, x.shape(), weight_shape, conv);
    e.check_y(OP, dy);
    match common_device(OP, &[x, dy]) {
        Device::Cpu => Tensor::cpu(weight_shape, dw(&e, conv, Isa::current(), x.f32s(), dy.f32s())),
        Device::Reference => {
            let (x, dy) = (x.f64s(), dy.f64s());
            let mut dw = vec![0.0; weight_shape.len()];
            for_each_product(&e, conv, |yi, xi, wi| dw[wi] += dy[yi] * x[xi]);
            Tensor::reference(weight_shape, dw)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let (overrides, uniform) = sizes(&e, conv, false);
            let kernel = launch::kernel("depthwise_conv_dw", SHADER).workgroup(64, 4 * 64);
            let size = Size::Groups(weight_shape.len());
            launch::result(&gpu, kernel, &overrides, &[x, dy], weight_shape, &uniform, size)
        }
    }
}

impl Extents {
    #[track_caller]
    fn depthwise(op: &str, x: Shape, weight: Shape, conv: Conv) -> Self {
        let of_channels = x.rank() == 5 && weight.rank() == 5 && weight[0] == x[1] && weight.dims()[1..3] == [1, 1];
        assert!(
            of_channels && weight[3] == weight[4],
            "{op}: expected x [N, C, G, H, W] and weight [C, 1, 1, k, k], got {x:?} and {weight:?}"
        );
        // Whatever else there is to be checked: the convolution of one channel.
        let one = |shape: Shape, channels: usize| Shape::from([shape[0], channels, shape[2], shape[3], shape[4]]);
        let filter = Shape::from([x[1], 1, x[2], weight[3], weight[4]]);
        Extents { c_in: x[1], ..Extents::new(op, one(x, 1), filter, conv) }
    }
}

/// Calls `visit(y, x, w)` with the flat indices of every product `w · x` that the formula adds to `y`.
fn for_each_product(e: &Extents, conv: Conv, mut visit: impl FnMut(usize, usize, usize)) {
    for plane in 0..e.batch * e.c_out * e.g_out {
        let (channel, g) = (plane / e.g_out, plane % e.g_out);
        let source = channel * e.g_in + g % e.g_in;
        for tap in 0..e.k * e.k {
            let (u, v) = Group::move_entry(g, tap / e.k, tap % e.k, e.k, e.k);
            for place in 0..e.out_height * e.out_width {
                let (i, j) = (place / e.out_width, place % e.out_width);
                // Outside the input are zeros.
                let row = (i * conv.stride + u * conv.dilation).checked_sub(conv.padding).filter(|&r| r < e.height);
                let col = (j * conv.stride + v * conv.dilation).checked_sub(conv.padding).filter(|&c| c < e.width);
                if let (Some(row), Some(col)) = (row, col) {
                    let y = plane * e.out_height * e.out_width + place;
                    visit(y, (source * e.height + row) * e.width + col, channel % e.c_out * e.k * e.k + tap);
                }
            }
        }
    }
}

/// Locations that are summed at once, in registers.
const BLOCK: usize = 32;

/// Where the taps of the filter, turned by `g`, lie for location 0 of a phase, with their numbers; in the order of the
/// filter that is not turned. `far` if they are those of the adjoint.
fn taps_of(e: &Extents, windows: &Windows, layout: &Layout, far: bool, phase: usize, g: usize) -> Vec<(usize, usize)> {
    let phase = (phase / windows.step, phase % windows.step);
    let place = |tap: usize| {
        let (u, v) = Group::move_entry(g, tap / e.k, tap % e.k, e.k, e.k);
        let moved = if far { (e.k - 1 - u, e.k - 1 - v) } else { (u, v) };
        Some((tap, windows.place(layout, phase, moved)?))
    };
    (0..e.k * e.k).filter_map(place).collect()
}

/// The sums of all planes.
struct Planes<'a> {
    e: &'a Extents,
    windows: Windows,
    layout: Layout,
    /// Of each phase and, under it, each element.
    taps: Vec<Vec<(usize, usize)>>,
    weight: &'a [f32],
}

impl<'a> Planes<'a> {
    fn new(e: &'a Extents, windows: Windows, far: bool, weight: &'a [f32]) -> Self {
        let layout = windows.layout(1, 1);
        let all = (0..windows.step * windows.step).flat_map(|phase| (0..e.g_out).map(move |g| (phase, g)));
        let taps = all.map(|(phase, g)| taps_of(e, &windows, &layout, far, phase, g)).collect();
        Planes { e, windows, layout, taps, weight }
    }

    fn run(&self, isa: Isa, source: &[f32]) -> HostBuffer {
        let Planes { e, windows, layout, .. } = self;
        let (source_len, result_len) = (windows.source.0 * windows.source.1, windows.result.0 * windows.result.1);
        let locations = layout.locations(layout.band(0).len()).next_multiple_of(BLOCK);
        let mut y = HostBuffer::scratch(e.batch * e.c_out * e.g_out * result_len);
        let scratch = || (HostBuffer::zeros(layout.plane() + locations), HostBuffer::scratch(locations));
        let planes = y.par_chunks_exact_mut(result_len).enumerate().with_min_len(4);
        planes.for_each_init(scratch, |(padded, sums), (plane, y)| {
            let (channel, g) = (plane / e.g_out, plane % e.g_out);
            let source = &source[(channel * e.g_in + g % e.g_in) * source_len..][..source_len];
            let filter = &self.weight[channel % e.c_out * e.k * e.k..][..e.k * e.k];
            isa.run(OnePlane { all: self, g, source, filter, padded, sums, y });
        });
        y
    }
}

struct OnePlane<'a> {
    all: &'a Planes<'a>,
    g: usize,
    source: &'a [f32],
    filter: &'a [f32],
    /// Zeros, but where a band is.
    padded: &'a mut [f32],
    sums: &'a mut [f32],
    y: &'a mut [f32],
}

impl Task for OnePlane<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let OnePlane { all: Planes { e, windows, layout, taps, .. }, g, source, filter, padded, sums, y } = self;
        let (width, step) = (windows.result.1, windows.step);
        for band in (0..layout.bands()).map(|i| layout.band(i)) {
            if layout.bands() > 1 {
                padded.fill(0.0);
            }
            layout.pad(source, band.clone(), padded);
            for (phase, taps) in taps.iter().skip(g).step_by(e.g_out).enumerate() {
                let (row, col) = (phase / step, phase % step);
                let (top, rows, cols) = windows.extent_of((row, col), &band);
                if rows == 0 || cols == 0 {
                    continue;
                }
                let locations = layout.locations(rows).next_multiple_of(BLOCK);
                let blocks = sums[..locations].as_chunks_mut::<BLOCK>().0;
                for (i, sums) in blocks.iter_mut().enumerate() {
                    let mut total = [0.0; BLOCK];
                    for &(tap, place) in taps {
                        let samples: &[f32; BLOCK] =
                            padded[place + i * BLOCK..][..BLOCK].try_into().expect("a block of samples");
                        let w = filter[tap];
                        for (sum, sample) in total.iter_mut().zip(samples) {
                            *sum += w * sample;
                        }
                    }
                    *sums = total;
                }
                for (i, sums) in sums[..locations].chunks(layout.pitch()).take(rows).enumerate() {
                    let y = &mut y[(top + i * step) * width + col..];
                    match step {
                        1 => y[..cols].copy_from_slice(&sums[..cols]),
                        _ => y.iter_mut().step_by(step).zip(&sums[..cols]).for_each(|(y, sum)| *y = *sum),
                    }
                }
            }
        }
    }
}

/// Images whose gradients are summed by one job, whatever the number of threads.
const IMAGES: usize = 8;

fn dw(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: &[f32]) -> HostBuffer {
    let windows = Windows::forward(e, conv);
    let layout = windows.layout(1, 1);
    let taps: Vec<_> = (0..e.g_out).map(|g| taps_of(e, &windows, &layout, false, 0, g)).collect();
    let parts = e.batch.div_ceil(IMAGES);
    let partial: Vec<Vec<f64>> = collect(e.c_out * parts, 1, |job| {
        let (channel, first) = (job / parts, job % parts * IMAGES);
        let images = first..e.batch.min(first + IMAGES);
        isa.run(OneChannel { e, layout: &layout, taps: &taps, channel, images, x, dy })
    });
    let mut dw = HostBuffer::scratch(e.c_out * e.k * e.k);
    for (dw, partial) in dw.chunks_exact_mut(e.k * e.k).zip(partial.chunks_exact(parts)) {
        for (tap, dw) in dw.iter_mut().enumerate() {
            *dw = partial.iter().map(|sums| sums[tap]).sum::<f64>() as f32;
        }
    }
    dw
}

/// The gradient of one channel's filter over some images.
struct OneChannel<'a> {
    e: &'a Extents,
    layout: &'a Layout,
    /// Of each element.
    taps: &'a [Vec<(usize, usize)>],
    channel: usize,
    images: std::ops::Range<usize>,
    x: &'a [f32],
    dy: &'a [f32],
}

impl Task for OneChannel<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Vec<f64> {
        let OneChannel { e, layout, taps, channel, images, x, dy } = self;
        let (x_len, dy_len) = (e.height * e.width, e.out_height * e.out_width);
        let locations = layout.locations(layout.band(0).len()).next_multiple_of(BLOCK);
        let mut padded = HostBuffer::zeros(layout.plane() + locations);
        // dy as locations are, with zeros between rows and behind the last.
        let mut left = HostBuffer::zeros(locations + layout.pitch());
        let mut total = vec![0.0; e.k * e.k];
        for plane in images.flat_map(|n| (0..e.g_out).map(move |g| (n * e.c_out + channel) * e.g_out + g)) {
            let (of_image, g) = (plane / e.g_out, plane % e.g_out);
            let x = &x[(of_image * e.g_in + g % e.g_in) * x_len..][..x_len];
            let dy = &dy[plane * dy_len..][..dy_len];
            for band in (0..layout.bands()).map(|i| layout.band(i)) {
                if layout.bands() > 1 {
                    padded.fill(0.0);
                    left.fill(0.0);
                }
                layout.pad(x, band.clone(), &mut padded);
                let rows = dy.chunks_exact(e.out_width).skip(band.start).take(band.len());
                for (row, left) in rows.zip(left.chunks_mut(layout.pitch())) {
                    left[..e.out_width].copy_from_slice(row);
                }
                for &(tap, place) in &taps[g] {
                    let mut sums = [0.0; BLOCK];
                    let samples = padded[place..place + locations].as_chunks::<BLOCK>().0;
                    for (left, samples) in left[..locations].as_chunks::<BLOCK>().0.iter().zip(samples) {
                        for ((sum, dy), sample) in sums.iter_mut().zip(left).zip(samples) {
                            *sum += dy * sample;
                        }
                    }
                    total[tap] += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
                }
            }
        }
        total
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("../prelude.wgsl"), include_str!("depthwise.wgsl"));

/// What the kernels are specialised for, and the uniform.
#[cfg(feature = "gpu")]
fn sizes(e: &Extents, conv: Conv, adjoint: bool) -> ([(&'static str, f64); 5], [u32; 8]) {
    let (source, result) = ([e.height, e.width], [e.out_height, e.out_width]);
    let forward = (source, result, conv.stride, 1, conv.padding as i32);
    let backward = (result, source, 1, conv.stride, e.window as i32 - 1 - conv.padding as i32);
    let (source, result, stride, spread, lead) = if adjoint { backward } else { forward };
    let overrides = [
        ("K", e.k as f64),
        ("STRIDE", stride as f64),
        ("DILATION", conv.dilation as f64),
        ("SPREAD", spread as f64),
        ("ADJOINT", f64::from(u8::from(adjoint))),
    ];
    let [channels, planes, order] = [e.c_in, e.g_in, e.g_out].map(|n| n as u32);
    let [height, width, out_height, out_width] = [source[0], source[1], result[0], result[1]].map(|n| n as u32);
    (overrides, [channels, planes, order, height, width, out_height, out_width, lead as u32])
}

#[cfg(feature = "gpu")]
fn sums_on_gpu(
    gpu: &Gpu,
    e: &Extents,
    conv: Conv,
    adjoint: bool,
    source: &Tensor,
    weight: &Tensor,
    result: Shape,
) -> Tensor {
    let (overrides, uniform) = sizes(e, conv, adjoint);
    launch::each(gpu, launch::kernel("depthwise_conv", SHADER), &overrides, &[source, weight], result, &uniform)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filter_orbit, group_conv,
        group_conv::tests::{close, random},
        transform_feature_map, transform_plane,
    };
    use quarterturn_core::{testing, window_residual};

    /// (group, lift, [batch, channels, height, width, k, stride, padding, dilation])
    const CASES: &[(Group, bool, [usize; 8])] = &[
        (Group::C1, false, [2, 3, 9, 8, 3, 2, 1, 1]),
        (Group::C1, false, [1, 1, 1, 1, 1, 1, 0, 1]),
        (Group::C4, true, [2, 2, 7, 7, 3, 1, 1, 1]),
        (Group::C4, true, [1, 3, 8, 8, 3, 2, 1, 1]),
        (Group::C4, false, [9, 2, 8, 8, 3, 1, 1, 1]),
        (Group::C4, false, [2, 3, 9, 9, 3, 2, 1, 1]),
        (Group::C4, false, [2, 3, 8, 8, 3, 2, 1, 1]),
        (Group::C4, false, [1, 2, 10, 7, 4, 3, 2, 1]),
        (Group::C4, false, [1, 2, 9, 9, 3, 1, 2, 2]),
        (Group::C4, false, [1, 2, 8, 8, 2, 2, 1, 4]),
        (Group::C4, false, [1, 1, 400, 390, 3, 1, 1, 1]),
        (Group::D4, true, [1, 2, 8, 8, 4, 2, 1, 1]),
        (Group::D4, false, [1, 3, 6, 6, 3, 1, 1, 1]),
        (Group::D4, false, [1, 2, 9, 9, 5, 2, 2, 1]),
        (Group::D4, false, [1, 2, 8, 8, 3, 2, 1, 1]),
    ];

    fn operands(
        (group, lift, [n, c, h, w, k, stride, padding, dilation]): (Group, bool, [usize; 8]),
        device: &Device,
    ) -> (Tensor, Tensor, Conv) {
        let x = random(Shape::from([n, c, if lift { 1 } else { group.order() }, h, w]), 1, device);
        let weight = random(Shape::from([c, 1, 1, k, k]), 2, device);
        (x, weight, Conv { group, stride, padding, dilation })
    }

    /// Each plane of each channel is a plain convolution with the turned filter.
    #[test]
    fn planes_are_convolved_with_turned_filters() {
        let case = (Group::D4, false, [1, 2, 5, 6, 3, 2, 1, 1]);
        let (x, weight, conv) = operands(case, &Device::Reference);
        let y = depthwise_conv(&x, &weight, conv);
        let orbit = filter_orbit(&weight, Group::D4);
        for plane in 0..16 {
            let part = |t: &Tensor, shape: &[usize]| {
                let len = Shape::new(shape).len();
                Tensor::reference(shape, t.f64s()[plane * len..][..len].to_vec())
            };
            let (image, filter) = (part(&x, &[1, 1, 1, 5, 6]), part(&orbit, &[1, 1, 1, 3, 3]));
            let expected = group_conv(&image, &filter, None, Conv { group: Group::C1, ..conv });
            close(&format!("plane {plane}"), &part(&y, &[1, 1, 1, 3, 3]), &expected, 1e-14);
        }
    }

    #[test]
    fn devices_and_instruction_sets_agree_with_the_reference() {
        for &case in CASES {
            let (x, weight, conv) = operands(case, &Device::Reference);
            let y = depthwise_conv(&x, &weight, conv);
            let dy = random(y.shape(), 3, &Device::Reference);
            let dx = depthwise_conv_dx(&dy, &weight, x.shape(), conv);
            let expected_dw = depthwise_conv_dw(&x, &dy, weight.shape(), conv);
            for device in testing::devices() {
                let name = |what: &str| format!("{what} {case:?} on {device}");
                let (x, weight, conv) = operands(case, &device);
                let dy = dy.to_device(&device).unwrap();
                close(&name("y"), &depthwise_conv(&x, &weight, conv), &y, 2e-6);
                close(&name("dx"), &depthwise_conv_dx(&dy, &weight, x.shape(), conv), &dx, 2e-6);
                close(&name("dw"), &depthwise_conv_dw(&x, &dy, weight.shape(), conv), &expected_dw, 2e-6);
            }
            let (x, weight, conv) = operands(case, &Device::Cpu);
            let e = Extents::depthwise("test", x.shape(), weight.shape(), conv);
            let dy = dy.to_device(&Device::Cpu).unwrap();
            let of = |isa: Isa| {
                let planes = Planes::new(&e, Windows::forward(&e, conv), false, weight.f32s());
                (planes.run(isa, x.f32s()).to_vec(), dw(&e, conv, isa, x.f32s(), dy.f32s()).to_vec())
            };
            for &isa in Isa::available() {
                assert!(of(isa) == of(Isa::Portable), "{case:?} {isa}");
            }
        }
    }

    /// `f(T x) == T' f(x)` to the last bit where windows leave nothing over, and not otherwise.
    #[test]
    fn exact_sizes_commute_with_the_group_to_the_last_bit() {
        for device in testing::devices() {
            for &case in CASES {
                let (group, lift, [_, _, h, w, k, stride, padding, dilation]) = case;
                if h != w {
                    continue;
                }
                let (x, weight, conv) = operands(case, &device);
                let y = depthwise_conv(&x, &weight, conv);
                let exact = window_residual(h, dilation * (k - 1) + 1, stride, padding) == Some(0);
                for g in 1..group.order() {
                    let turned = if lift { transform_plane(&x, g) } else { transform_feature_map(&x, g, group) };
                    let got = depthwise_conv(&turned, &weight, conv).to_vec().unwrap();
                    let equal = got == transform_feature_map(&y, g, group).to_vec().unwrap();
                    // The mirroring at the main diagonal, 5, moves no window.
                    assert!(equal == (exact || g == 5), "{case:?} on {device}, element {g}: {equal}");
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let (x, weight, conv) = operands((Group::C4, false, [19, 3, 9, 9, 3, 2, 1, 1]), &Device::Cpu);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = depthwise_conv(&x, &weight, conv);
                let dx = depthwise_conv_dx(&y, &weight, x.shape(), conv);
                [y.clone(), dx, depthwise_conv_dw(&x, &y, weight.shape(), conv)]
            })
        };
        let one = run(1);
        for threads in [2, 3] {
            for (one, other) in one.iter().zip(run(threads)) {
                assert!(one.f32s() == other.f32s(), "{threads} threads");
            }
        }
    }

    #[test]
    #[should_panic(expected = "depthwise_conv: expected x [N, C, G, H, W] and weight [C, 1, 1, k, k], got")]
    fn a_filter_for_two_channels_is_refused() {
        let x = random(Shape::from([1, 2, 4, 5, 5]), 1, &Device::Cpu);
        depthwise_conv(&x, &random(Shape::from([2, 2, 1, 3, 3]), 2, &Device::Cpu), Conv::new(Group::C4));
    }
}
