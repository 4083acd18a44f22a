//! The sweeps give the same bits whichever vector instructions they are compiled for. One test, for the choice holds for
//! the whole process.

use quarterturn_core::{Shape, Stream, Tensor};
use quarterturn_kernels::*;

fn random(shape: impl Into<Shape>, stream: u32) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(4, stream, 0));
    Tensor::cpu(shape, (0..shape.len()).map(|i| stream.normal(i as u64) as f32).collect())
}

fn results() -> Vec<(&'static str, Tensor)> {
    let shape = Shape::from([3, 5, 4, 29, 31]);
    let (x, dy) = (random(shape, 1), random(shape, 2));
    let (weight, bias) = (random([5], 3), random([5], 4));
    let mut results = vec![
        ("mul", mul(&x, &dy)),
        ("mul, spread", mul(&x, &bias.reshape([5, 1, 1, 1]))),
        ("sum_axes, rows", sum_axes(&x, &[0, 4], false)),
        ("sum_axes, columns", sum_axes(&x, &[1, 2], false)),
        ("var_axes", var_axes(&x, &[0, 2, 3, 4], 0, false)),
        ("softmax, columns", softmax(&x, 1)),
        ("log_softmax, rows", log_softmax(&x, 4)),
        ("relu", relu(&x)),
        ("gelu", map(&x, &GELU, [])),
        ("softplus_vjp", map_vjp(&x, &dy, &SOFTPLUS, [])),
        ("sum", sum(&x)),
        ("matmul", matmul(&random([70, 33], 5), &random([33, 130], 6), false, false)),
        ("dropout", dropout(&x, 0.3, Stream::new(1, 1, 1))),
        ("coset_max", coset_max(&x)),
        ("coset_mean", coset_mean(&x)),
        ("spatial_mean", spatial_mean(&x)),
        ("rotate", rotate(&random([2, 3, 28, 28], 7), &[33.0, 190.0], 0.0)),
        ("rotate_vjp", rotate_vjp(&random([2, 3, 28, 28], 7), &[33.0, 190.0])),
        ("resize", resize(&x, 30, 28)),
    ];
    for dropout in [None, Some((0.3, Stream::new(1, 2, 3)))] {
        let activation = Activation { relu: true, dropout };
        let forward = batch_norm_train(&x, &weight, &bias, 1e-5, activation);
        let (dx, dweight, dbias) = batch_norm_train_vjp(&x, &forward, &weight, &bias, 1e-5, activation, &dy);
        results.extend([("mean", forward.mean), ("var", forward.var), ("y", forward.y)]);
        results.extend([("dx", dx), ("dweight", dweight), ("dbias", dbias)]);
    }
    for (kernel_size, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1)] {
        let window = Window { kernel_size, stride, padding };
        let (max, mean) = (max_pool(&x, window), avg_pool(&x, window));
        results.push(("max_pool_vjp", max_pool_vjp(&x, &max, window)));
        results.push(("avg_pool_vjp", avg_pool_vjp(&mean, shape, window)));
        results.extend([("max_pool", max), ("avg_pool", mean)]);
    }
    for window in [Window { kernel_size: 2, stride: 2, padding: 0 }, Window { kernel_size: 4, stride: 2, padding: 1 }] {
        let (y, choice) = adaptive_max_pool(&x, window);
        results.push(("adaptive_max_pool_vjp", adaptive_max_pool_vjp(&x, &y, window, &choice)));
        results.extend([("adaptive_max_pool", y), ("choice", choice.weights().clone())]);
    }
    let (mut w, mut m, mut v) = (x.clone(), dy.clone(), mul(&x, &x));
    let settings =
        Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, decoupled: false, step: 3 };
    adam_step(&mut w, &mut m, &mut v, &dy, &settings);
    results.extend([("adam w", w), ("adam m", m), ("adam v", v)]);
    results
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    Isa::choose(Isa::Portable);
    let portable = results();
    for &isa in Isa::available() {
        Isa::choose(isa);
        for ((name, got), (_, expected)) in results().iter().zip(&portable) {
            assert!(got.f32s() == expected.f32s(), "{name} differs on {isa}");
        }
    }
}
