//! Group convolutions against the device's multiply-add peak: `cargo bench --bench kernels`.
//!
//! Ids are `group_conv/{z2,p4,p4m}/{forward,grad_input,grad_weight}[/direct]/{cin}x{cout}_k3_{h}x{w}_n{batch}/{cpu,gpu}`.
//! Throughput counts the multiply-adds of the dense sum, whatever a kernel really does, so that kernels compare;
//! `/gpu_fp16x3` and `/gpu_fp16x1` are those of a GPU's tensor cores, `/gpu` is fp32 on the same GPU.
//! "direct" is the dense convolution with expanded filters. `transposed_conv/…/14x14_28x28` and `separable_conv/…` have the
//! same roof: of a separable convolution, multiply-adds are counted per channel over space, then at 1×1, and it takes 14 of
//! them for each byte of its map and its result. (The part over space alone is bound by memory: see `sweeps`.)

mod support;

use criterion::Criterion;
#[cfg(feature = "gpu")]
use quarterturn::{
    core::gpu::TensorCores,
    kernels::{TensorCoreUse, tensor_core_use},
};
use quarterturn::{
    core::{Device, Shape, Tensor},
    kernels::{
        Conv, Group, depthwise_conv, depthwise_conv_dw, depthwise_conv_dx, filter_orbit, group_conv, group_conv_dw,
        group_conv_dx, transposed_group_conv, transposed_group_conv_dw, transposed_group_conv_dx,
    },
};
use support::random;

/// Layers of ResNet-18, of p4m at 225², p4 at 224² and z2 at 112², as (group, channels in and out, extent, batch).
const WIDE: [(Group, usize, usize, usize); 8] = [
    (Group::D4, 23, 57, 4),
    (Group::D4, 45, 29, 4),
    (Group::D4, 91, 15, 4),
    (Group::D4, 181, 8, 4),
    (Group::C4, 64, 28, 4),
    (Group::C4, 128, 14, 4),
    (Group::C4, 256, 8, 4),
    (Group::C1, 128, 14, 4),
];

/// (group, channels in and out, extent, batch)
const SIZES: [(Group, usize, usize, usize); 6] = [
    (Group::C4, 10, 28, 128),
    (Group::C4, 10, 14, 128),
    (Group::C4, 32, 28, 16),
    (Group::C4, 64, 14, 16),
    (Group::D4, 7, 28, 128),
    (Group::D4, 16, 28, 16),
];

fn main() {
    support::on_every_device(measure_on);
}

/// Beside these, what fills a large GPU; a CPU would take minutes.
const LARGE: (Group, usize, usize, usize) = (Group::C4, 64, 56, 64);

fn measure_on(device: &Device, criterion: &mut Criterion) {
    #[cfg(feature = "gpu")]
    on_tensor_cores(device, criterion);
    let device = &in_fp32(device);
    let mut report = support::Report::new(device);
    let large = (!matches!(device, Device::Cpu)).then_some(LARGE);
    // First, for a session on a lent GPU may end before the last.
    for (group, channels, extent, batch) in large.into_iter().chain(SIZES).chain(WIDE) {
        let (g, conv) = (group.order(), Conv { padding: 1, ..Conv::new(group) });
        let x = random([batch, channels, g, extent, extent], 1, device);
        let weight = random([channels, channels, g, 3, 3], 2, device);
        let dy = random(x.shape(), 3, device);
        let flat = |x: &Tensor| x.reshape([batch, channels * g, 1, extent, extent]);
        let (dense_x, dense_dy) = (flat(&x), flat(&dy));
        let dense = Conv { group: Group::C1, ..conv };
        let dense_shape = Shape::from([channels * g, channels * g, 1, 3, 3]);
        let expand = || filter_orbit(&weight, group).reshape(dense_shape);

        let flops = 2.0 * (x.len() * channels * g * 9) as f64;
        let size = format!("{channels}x{channels}_k3_{extent}x{extent}_n{batch}/{}", support::suffix(device));
        let mut measure = |what: &str, run: &dyn Fn()| {
            report.measure(criterion, &format!("group_conv/{group}/{what}/{size}"), flops, run);
        };
        measure("forward", &|| drop(group_conv(&x, &weight, None, conv)));
        measure("grad_input", &|| drop(group_conv_dx(&dy, &weight, x.shape(), conv)));
        measure("grad_weight", &|| drop(group_conv_dw(&x, &dy, weight.shape(), conv)));
        measure("forward/direct", &|| drop(group_conv(&dense_x, &expand(), None, dense)));
        measure("grad_input/direct", &|| drop(group_conv_dx(&dense_dy, &expand(), dense_x.shape(), dense)));
        measure("grad_weight/direct", &|| drop(group_conv_dw(&dense_x, &dense_dy, dense_shape, dense)));
    }
    transposed(device, criterion, &mut report);
    separable(device, criterion, &mut report);
    report.print();
}

/// The same GPU without tensor cores: what the ids that end in `/gpu` are measured on.
fn in_fp32(device: &Device) -> Device {
    #[cfg(feature = "gpu")]
    if let Device::Gpu(gpu) = device {
        return Device::Gpu(support::reopened(gpu, TensorCores::Off));
    }
    device.clone()
}

/// [`LARGE`] with three products of halves, and with one.
#[cfg(feature = "gpu")]
fn on_tensor_cores(device: &Device, criterion: &mut Criterion) {
    let Device::Gpu(gpu) = device else { return };
    for (wanted, name) in [(TensorCores::Accurate, "gpu_fp16x3"), (TensorCores::Fast, "gpu_fp16x1")] {
        let gpu = support::reopened(gpu, wanted);
        if let TensorCoreUse::None(why) = &*tensor_core_use(&gpu) {
            eprintln!("note: the ids that end in /{name} are left out: {why}");
            continue;
        }
        let device = Device::Gpu(gpu);
        let mut report = support::Report::new(&device);
        let (group, channels, extent, batch) = LARGE;
        let (g, conv) = (group.order(), Conv { padding: 1, ..Conv::new(group) });
        let x = random([batch, channels, g, extent, extent], 1, &device);
        let weight = random([channels, channels, g, 3, 3], 2, &device);
        let flops = 2.0 * (x.len() * channels * g * 9) as f64;
        let size = format!("{channels}x{channels}_k3_{extent}x{extent}_n{batch}/{name}");
        let mut measure = |what: &str, run: &dyn Fn()| {
            report.measure(criterion, &format!("group_conv/{group}/{what}/{size}"), flops, run);
        };
        measure("forward", &|| drop(group_conv(&x, &weight, None, conv)));
        measure("grad_input", &|| drop(group_conv_dx(&x, &weight, x.shape(), conv)));
        measure("grad_weight", &|| drop(group_conv_dw(&x, &x, weight.shape(), conv)));
        report.print();
    }
}

/// 32 channels of p4, doubled by filters of 4×4: exact, for there is no output padding.
fn transposed(device: &Device, criterion: &mut Criterion, report: &mut support::Report) {
    let conv = Conv { stride: 2, padding: 1, ..Conv::new(Group::C4) };
    let (x, weight) = (random([16, 32, 4, 14, 14], 1, device), random([32, 32, 4, 4, 4], 2, device));
    let dy = random([16, 32, 4, 28, 28], 3, device);
    let flops = 2.0 * (x.len() * 32 * 4 * 16) as f64;
    let mut measure = |what: &str, run: &dyn Fn()| {
        let size = format!("32x32_k4_14x14_28x28_n16/{}", support::suffix(device));
        report.measure(criterion, &format!("transposed_conv/p4/{what}/{size}"), flops, run);
    };
    measure("forward", &|| drop(transposed_group_conv(&x, &weight, None, conv, 0)));
    measure("grad_input", &|| drop(transposed_group_conv_dx(&dy, &weight, x.shape(), conv)));
    measure("grad_weight", &|| drop(transposed_group_conv_dw(&x, &dy, weight.shape(), conv)));
}

/// 32 channels of p4, filters of 3×3, then 1×1.
fn separable(device: &Device, criterion: &mut Criterion, report: &mut support::Report) {
    let (over_space, at_places) = (Conv { padding: 1, ..Conv::new(Group::C4) }, Conv::new(Group::C4));
    let [x, dy] = [1, 2].map(|stream| random([16, 32, 4, 28, 28], stream, device));
    let (filters, mixing) = (random([32, 1, 1, 3, 3], 3, device), random([32, 32, 4, 1, 1], 4, device));
    let flops = 2.0 * (x.len() * (9 + 32 * 4)) as f64;
    let mut measure = |what: &str, run: &dyn Fn()| {
        let size = format!("32x32_k3_28x28_n16/{}", support::suffix(device));
        report.measure(criterion, &format!("separable_conv/p4/{what}/{size}"), flops, run);
    };
    let filtered = depthwise_conv(&x, &filters, over_space);
    measure("forward", &|| {
        drop(group_conv(&depthwise_conv(&x, &filters, over_space), &mixing, None, at_places));
    });
    measure("grad_input", &|| {
        let dy = group_conv_dx(&dy, &mixing, x.shape(), at_places);
        drop(depthwise_conv_dx(&dy, &filters, x.shape(), over_space));
    });
    measure("grad_weight", &|| {
        drop(group_conv_dw(&filtered, &dy, mixing.shape(), at_places));
        drop(depthwise_conv_dw(&x, &dy, filters.shape(), over_space));
    });
}
