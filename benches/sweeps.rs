//! The operations that memory limits, on the first layer's maps of P4CNN, against a plain copy:
//! `cargo bench --bench sweeps`.
//!
//! Ids are `sweep/{op}/cpu`. Throughput counts each operand and each result once, however often an operation really
//! reads them; so batch norm in training, which must read x twice, can reach two thirds of the copy's rate at best where
//! x does not stay in a cache.

use criterion::{Criterion, Throughput};
use quarterturn::{
    core::{Device, Shape, Stream, Tensor},
    kernels::{
        Activation, Adam, Conv, Group, Window, adam_step, adaptive_max_pool, avg_pool, batch_norm_eval,
        batch_norm_train, batch_norm_train_vjp, blur_pool, blur_pool_vjp, coset_max, depthwise_conv, depthwise_conv_dw,
        depthwise_conv_dx, dropout, max_pool, max_pool_vjp, mul, resize, resize_nearest, scale, spatial_mean,
    },
};

/// Batch, channels, group, height, width.
const MAPS: [usize; 5] = [128, 10, 4, 28, 28];
const EPS: f64 = 1e-5;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let (x, dy) = (random(Shape::new(&MAPS), 1), random(Shape::new(&MAPS), 2));
    let (weight, bias) = (random(Shape::from([MAPS[1]]), 3), random(Shape::from([MAPS[1]]), 4));
    let maps = x.len();
    let stream = Stream::new(1, 5, 0);
    let mut measure = |op: &str, elements: usize, run: &mut dyn FnMut()| {
        let mut group = criterion.benchmark_group(format!("sweep/{op}/cpu"));
        group.throughput(Throughput::Bytes(4 * elements as u64)).sample_size(20);
        group.bench_function("time", |b| b.iter(&mut *run));
        group.finish();
    };

    measure("copy", 2 * maps, &mut || drop(scale(&x, 1.0)));
    measure("dropout", 2 * maps, &mut || drop(dropout(&x, 0.3, stream)));
    for (name, dropout) in [("batch_norm_relu", None), ("batch_norm_relu_dropout", Some((0.3, stream)))] {
        let activation = Activation { relu: true, dropout };
        let forward = batch_norm_train(&x, &weight, &bias, EPS, activation);
        measure(name, 2 * maps, &mut || drop(batch_norm_train(&x, &weight, &bias, EPS, activation)));
        measure(&format!("{name}_vjp"), 3 * maps, &mut || {
            drop(batch_norm_train_vjp(&x, &forward, &weight, &bias, EPS, activation, &dy));
        });
        let (mean, var) = (&forward.mean, &forward.var);
        measure(&format!("{name}_eval"), 2 * maps, &mut || {
            drop(batch_norm_eval(&x, &weight, &bias, mean, var, EPS, activation));
        });
    }
    for (kernel_size, stride, padding) in [(2, 2, 0), (3, 2, 1)] {
        let window = Window { kernel_size, stride, padding };
        let y = max_pool(&x, window);
        let name = format!("max_pool_{kernel_size}x{kernel_size}");
        measure(&name, maps + y.len(), &mut || drop(max_pool(&x, window)));
        measure(&format!("{name}_vjp"), 2 * maps + y.len(), &mut || drop(max_pool_vjp(&x, &y, window)));
    }
    // A training batch's half, which stays in a large cache, and an evaluation's batch, which comes from memory.
    for batch in [64, 512] {
        let uneven = random(Shape::from([batch, 10, 4, 29, 29]), 6);
        let halving = Window { kernel_size: 2, stride: 2, padding: 0 };
        let elements = uneven.len() + max_pool(&uneven, halving).len();
        measure(&format!("max_pool_2x2_29_n{batch}"), elements, &mut || drop(max_pool(&uneven, halving)));
        let adaptive = || drop(adaptive_max_pool(&uneven, halving));
        measure(&format!("adaptive_max_pool_2x2_29_n{batch}"), elements, &mut { adaptive });
    }
    for kernel_size in [2, 3] {
        let window = Window { kernel_size, stride: 1, padding: kernel_size / 2 };
        let name = format!("{kernel_size}x{kernel_size}_s1");
        let elements = maps + max_pool(&x, window).len();
        measure(&format!("max_pool_{name}"), elements, &mut || drop(max_pool(&x, window)));
        measure(&format!("avg_pool_{name}"), elements, &mut || drop(avg_pool(&x, window)));
    }
    for kernel_size in [3, 5] {
        let window = Window { kernel_size, stride: 2, padding: kernel_size / 2 };
        let y = blur_pool(&x, window);
        let name = format!("blur_pool_{kernel_size}x{kernel_size}");
        measure(&name, maps + y.len(), &mut || drop(blur_pool(&x, window)));
        measure(&format!("{name}_vjp"), maps + y.len(), &mut || drop(blur_pool_vjp(&y, x.shape(), window)));
    }
    for extent in [14, 56] {
        let resized = maps / 784 * extent * extent;
        measure(&format!("resize_{extent}"), maps + resized, &mut || drop(resize(&x, extent, extent)));
        let name = format!("resize_nearest_{extent}");
        measure(&name, maps + resized, &mut || drop(resize_nearest(&x, extent, extent)));
    }
    measure("spatial_mean", maps, &mut || drop(spatial_mean(&x)));
    measure("coset_max", maps + maps / MAPS[2], &mut || drop(coset_max(&x)));

    // The part of a separable convolution over space, beside a copy of as large a map.
    let wide = random(Shape::from([16, 32, 4, 28, 28]), 1);
    let filters = random(Shape::from([32, 1, 1, 3, 3]), 2);
    let conv = Conv { padding: 1, ..Conv::new(Group::C4) };
    measure("copy_32", 2 * wide.len(), &mut || drop(scale(&wide, 1.0)));
    measure("depthwise_conv_3x3", 2 * wide.len(), &mut || drop(depthwise_conv(&wide, &filters, conv)));
    measure("depthwise_conv_3x3_dx", 2 * wide.len(), &mut || {
        drop(depthwise_conv_dx(&wide, &filters, wide.shape(), conv));
    });
    measure("depthwise_conv_3x3_dw", 2 * wide.len(), &mut || {
        drop(depthwise_conv_dw(&wide, &wide, filters.shape(), conv));
    });

    let [mut w, mut moment1, mut moment2] = [1, 2, 3].map(|seed| random(x.shape(), seed));
    moment2 = mul(&moment2, &moment2);
    let settings =
        Adam { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-5, decoupled: false, step: 10 };
    measure("adam", 7 * maps, &mut || adam_step(&mut w, &mut moment1, &mut moment2, &dy, &settings));
    criterion.final_summary();
}

fn random(shape: Shape, stream: u32) -> Tensor {
    let stream = Stream::new(1, stream, 0);
    let values = (0..shape.len() as u64).map(|i| stream.uniform(i) - 0.4).collect();
    Tensor::from_vec(shape, values, &Device::Cpu).expect("the CPU has no limit")
}
