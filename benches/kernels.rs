//! Group convolutions against the device's multiply-add peak: `cargo bench --bench kernels`.
//!
//! Ids are `group_conv/{p4,p4m}/{forward,grad_input,grad_weight}[/direct]/{cin}x{cout}_k3_{h}x{w}_n{batch}/{cpu,gpu}`.
//! Throughput counts the multiply-adds of the dense sum, whatever a kernel really does, so that kernels compare;
//! "direct" is the dense convolution with expanded filters.

mod support;

use criterion::Criterion;
use quarterturn::{
    core::{Device, Shape, Tensor},
    kernels::{Conv, Group, filter_orbit, group_conv, group_conv_dw, group_conv_dx},
};
use support::random;

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
    let mut criterion = Criterion::default().configure_from_args();
    for device in support::devices() {
        measure_on(&device, &mut criterion);
    }
    criterion.final_summary();
}

/// Beside these, what fills a large GPU; a CPU would take minutes.
const LARGE: (Group, usize, usize, usize) = (Group::C4, 64, 56, 64);

fn measure_on(device: &Device, criterion: &mut Criterion) {
    let mut report = support::Report::new(device);
    let large = (!matches!(device, Device::Cpu)).then_some(LARGE);
    for (group, channels, extent, batch) in SIZES.into_iter().chain(large) {
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
    report.print();
}
