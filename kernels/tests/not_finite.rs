//! NaN and infinities: every operation is given one, in every operand and at several places, and what comes out must be
//! NaN, infinite or finite at the same places on every device. A new operation is a new row.

use quarterturn_core::{Device, Shape, Stream, Tensor, testing};
use quarterturn_kernels::*;

/// What a device may make of a sum that the formula leaves infinite.
#[derive(Clone, Copy, PartialEq)]
enum Sums {
    /// The formula's terms, so the formula's result.
    Plain,
    /// Differences too, as of samples in the irreps of a group or of a channel's sums, and products with padding zeros. So NaN may
    /// come of ∞, and reach all that a window covers; but what is not finite by the formula is finite on no device.
    Mixed,
}

type Run = Box<dyn Fn(&[Tensor]) -> Vec<Tensor>>;

struct Row {
    name: &'static str,
    operands: Vec<Tensor>,
    /// So many of the operands, from the first on, are given what is not finite.
    changed: usize,
    sums: Sums,
    run: Run,
}

fn row(name: &'static str, shapes: &[&[usize]], run: impl Fn(&[Tensor]) -> Vec<Tensor> + 'static) -> Row {
    let operands: Vec<Tensor> = (1..).zip(shapes).map(|(i, shape)| random(shape, i)).collect();
    Row { name, changed: operands.len(), operands, sums: Sums::Plain, run: Box::new(run) }
}

impl Row {
    /// With one more operand, which stays as it is.
    fn beside(mut self, operand: Tensor) -> Row {
        self.operands.push(operand);
        self
    }

    fn mixed(self) -> Row {
        Row { sums: Sums::Mixed, ..self }
    }

    fn check(&self) {
        for (changed, value) in
            (0..self.changed).flat_map(|i| [f64::NAN, f64::INFINITY, -f64::INFINITY].map(|v| (i, v)))
        {
            let len = self.operands[changed].len();
            let mut shows = false;
            for at in [0, len / 3, len / 2, len - 1] {
                let mut operands = self.operands.clone();
                let mut values = operands[changed].f64s().to_vec();
                values[at] = value;
                operands[changed] = Tensor::reference(operands[changed].shape(), values);
                let expected = values_of(&(self.run)(&operands));
                shows |= expected.iter().any(|v| !v.is_finite());
                for device in testing::devices() {
                    let there: Vec<Tensor> = operands.iter().map(|t| t.to_device(&device).unwrap()).collect();
                    let got = values_of(&(self.run)(&there));
                    let name = format!("{}, operand {changed} is {value} at {at}, on {device}", self.name);
                    self.compare(&name, &got, &expected);
                }
            }
            // Gradients of maxima and masks choose by what they are given, and may drop it.
            let drops = !value.is_nan() || self.name.contains("vjp");
            assert!(shows || drops, "{}: nothing came of NaN in operand {changed}", self.name);
        }
    }

    fn compare(&self, name: &str, got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len(), "{name}");
        let largest = expected.iter().filter(|v| v.is_finite()).fold(1.0, |max: f64, v| max.max(v.abs()));
        for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
            let same = if expected.is_finite() {
                (got - expected).abs() <= 1e-3 * largest || (self.sums == Sums::Mixed && !got.is_finite())
            } else if self.sums == Sums::Mixed {
                !got.is_finite()
            } else {
                got == expected || (got.is_nan() && expected.is_nan())
            };
            assert!(same, "{name}: result {i} is {got}, expected {expected}");
        }
    }
}

fn values_of(tensors: &[Tensor]) -> Vec<f64> {
    tensors.iter().flat_map(|t| t.to_f64().unwrap()).collect()
}

/// Normal values without those near 0, exact in `f32`.
fn random(shape: &[usize], stream: u32) -> Tensor {
    let (shape, stream) = (Shape::new(shape), Stream::new(9, stream, 0));
    let value = |i: usize| {
        let v = stream.normal(i as u64) as f32;
        f64::from(v + 0.1f32.copysign(v))
    };
    Tensor::reference(shape, (0..shape.len()).map(value).collect())
}

fn constant(values: &[f64]) -> Tensor {
    Tensor::reference([values.len()], values.to_vec())
}

const HALVING: Window = Window { kernel_size: 2, stride: 2, padding: 0 };
const OVERLAPPING: Window = Window { kernel_size: 3, stride: 2, padding: 1 };
const EPS: f64 = 1e-5;

#[test]
fn elementwise() {
    let stream = Stream::new(1, 2, 3);
    for row in [
        row("add", &[&[7], &[7]], |t| vec![add(&t[0], &t[1])]),
        row("add_relu", &[&[7], &[7]], |t| vec![add_relu(&t[0], &t[1])]),
        row("mul", &[&[7], &[7]], |t| vec![mul(&t[0], &t[1])]),
        row("add, spread", &[&[3, 1], &[4]], |t| vec![add(&t[0], &t[1])]),
        row("sub", &[&[7], &[7]], |t| vec![sub(&t[0], &t[1])]),
        row("div", &[&[7], &[7]], |t| vec![div(&t[0], &t[1])]),
        row("maximum", &[&[7], &[7]], |t| vec![maximum(&t[0], &t[1]), minimum(&t[0], &t[1])]),
        row("maximum vjp", &[&[7], &[7], &[7]], |t| {
            let (max, min) = (maximum_vjp(&t[0], &t[1], &t[2]), minimum_vjp(&t[0], &t[1], &t[2]));
            vec![max.0, max.1, min.0, min.1]
        }),
        row("add_scalar", &[&[7]], |t| vec![add_scalar(&t[0], 0.5)]),
        row("pow", &[&[7]], |t| [2.0, 3.0, 1.0, -1.0, -2.0, 0.5, 1.5].map(|exponent| pow(&t[0], exponent)).to_vec()),
        row("pow vjp", &[&[7], &[7]], |t| [2.0, 3.0, -1.0].map(|e| pow_vjp(&t[0], &t[1], e)).to_vec()),
        row("scale", &[&[7]], |t| vec![scale(&t[0], -0.5)]),
        row("relu", &[&[7]], |t| vec![relu(&t[0])]),
        row("relu_vjp", &[&[7], &[7]], |t| vec![relu_vjp(&t[0], &t[1])]),
        row("sum", &[&[70]], |t| vec![sum(&t[0])]),
        row("broadcast", &[&[]], |t| vec![broadcast(&t[0], Shape::from([3]))]),
        row("sum_to", &[&[2, 3, 4]], |t| vec![sum_to(&t[0], Shape::from([3, 1]))]),
        row("dropout", &[&[70]], move |t| vec![dropout(&t[0], 0.3, stream)]),
    ] {
        row.check();
    }
}

#[test]
fn reductions() {
    for axes in [&[0][..], &[2], &[0, 2], &[1, 2], &[0, 1, 2]] {
        let dy: Vec<usize> = (0..3).filter(|axis| !axes.contains(axis)).map(|axis| [3, 4, 70][axis]).collect();
        let x = Shape::from([3, 4, 70]);
        for row in [
            row("sum_axes", &[&[3, 4, 70]], |t| vec![sum_axes(&t[0], axes, false), mean_axes(&t[0], axes, false)]),
            row("max_axes", &[&[3, 4, 70]], |t| vec![max_axes(&t[0], axes, true)]),
            row("var_axes", &[&[3, 4, 70]], |t| vec![var_axes(&t[0], axes, 1, true)]),
            row("sum_axes_vjp", &[&dy], move |t| vec![sum_axes_vjp(&t[0], x, axes), mean_axes_vjp(&t[0], x, axes)]),
            row("max_axes_vjp", &[&[3, 4, 70], &dy], |t| vec![max_axes_vjp(&t[0], &t[1], axes)]),
            row("var_axes_vjp", &[&[3, 4, 70], &dy], |t| vec![var_axes_vjp(&t[0], &t[1], axes, 0)]),
        ] {
            row.check();
        }
    }
}

#[test]
fn products() {
    for row in [
        row("matmul", &[&[3, 5], &[5, 4]], |t| vec![matmul(&t[0], &t[1], false, false)]),
        row("linear", &[&[3, 5], &[4, 5], &[4]], |t| vec![linear(&t[0], &t[1], Some(&t[2]))]),
        row("sum_rows", &[&[6, 5]], |t| vec![sum_rows(&t[0])]),
    ] {
        row.check();
    }
}

#[test]
fn pooling() {
    let map = [2, 3, 4, 6, 6];
    let reduced = [2, 3, 6, 6];
    let coset = Shape::from(map);
    let plane = Shape::from([2, 7, 8]);
    for row in [
        row("coset_max", &[&map], |t| vec![coset_max(&t[0])]),
        row("coset_max_vjp", &[&map, &reduced], |t| vec![coset_max_vjp(&t[0], &t[1])]),
        row("coset_mean", &[&map], |t| vec![coset_mean(&t[0])]),
        row("coset_mean_vjp", &[&reduced], move |t| vec![coset_mean_vjp(&t[0], coset)]),
        row("max_pool", &[&[2, 7, 8]], |t| vec![max_pool(&t[0], HALVING), max_pool(&t[0], OVERLAPPING)]),
        row("max_pool_vjp", &[&[2, 7, 8], &[2, 3, 4]], |t| vec![max_pool_vjp(&t[0], &t[1], HALVING)]),
        row("max_pool_vjp, wide", &[&[1, 6, 40], &[1, 3, 20]], |t| vec![max_pool_vjp(&t[0], &t[1], HALVING)]),
        row("max_pool_vjp, overlapping", &[&[2, 7, 8], &[2, 4, 4]], |t| vec![max_pool_vjp(&t[0], &t[1], OVERLAPPING)]),
        row("avg_pool", &[&[2, 7, 8]], |t| vec![avg_pool(&t[0], HALVING), avg_pool(&t[0], OVERLAPPING)]),
        row("avg_pool_vjp", &[&[2, 4, 4]], move |t| vec![avg_pool_vjp(&t[0], plane, OVERLAPPING)]),
        row("blur_pool", &[&[2, 7, 8]], |t| vec![blur_pool(&t[0], OVERLAPPING)]),
        row("blur_pool_vjp", &[&[2, 4, 4]], move |t| vec![blur_pool_vjp(&t[0], plane, OVERLAPPING)]),
        row("adaptive_max_pool", &[&[2, 3, 8, 7]], |t| {
            let (y, choice) = adaptive_max_pool(&t[0], HALVING);
            vec![y, choice.weights().clone()]
        }),
        row("adaptive_avg_pool", &[&[2, 3, 8, 7]], |t| {
            let (y, choice) = adaptive_avg_pool(&t[0], OVERLAPPING);
            vec![y, choice.weights().clone()]
        }),
        row("adaptive_max_pool_vjp", &[&[2, 3, 8, 7], &[2, 3, 4, 4]], |t| {
            let (_, choice) = adaptive_max_pool(&t[0], OVERLAPPING);
            vec![adaptive_max_pool_vjp(&t[0], &t[1], OVERLAPPING, &choice)]
        }),
        row("subsample and back", &[&[2, 3, 8, 7]], |t| {
            let choice = choose_grid(&t[0]);
            let y = subsample(&t[0], &choice);
            vec![upsample(&y, &choice), y]
        }),
        row("move_onto_grid", &[&[2, 3, 8, 7]], |t| {
            let choice = choose_grid_of_windows(&t[0], OVERLAPPING);
            vec![move_onto_grid(&t[0], &choice, OVERLAPPING).0]
        }),
        row("resize_nearest", &[&[2, 7, 8]], |t| vec![resize_nearest(&t[0], 14, 16)]),
        row("resize_nearest_vjp", &[&[2, 7, 8]], |t| vec![resize_nearest_vjp(&t[0], 4, 5)]),
        row("spatial_mean", &[&[2, 7, 8]], |t| vec![spatial_mean(&t[0])]),
        row("spatial_mean_vjp", &[&[2]], move |t| vec![spatial_mean_vjp(&t[0], plane)]),
    ] {
        row.check();
    }
}

/// Several NaNs in one window: the first is its maximum.
#[test]
fn the_gradient_of_a_maximum_goes_to_the_first_nan() {
    for device in [testing::devices(), vec![Device::Reference]].concat() {
        let there = |shape: &[usize], values: &[f32]| Tensor::from_vec(shape, values.to_vec(), &device).unwrap();
        for window in [HALVING, Window { kernel_size: 2, stride: 1, padding: 0 }] {
            let x = there(&[2, 2], &[1.0, f32::NAN, f32::INFINITY, f32::NAN]);
            let dx = max_pool_vjp(&x, &there(&[1, 1], &[5.0]), window).to_vec().unwrap();
            assert_eq!(dx, [0.0, 5.0, 0.0, 0.0], "{window:?} on {device}");
        }
        let x = there(&[1, 1, 4], &[1.0, f32::NAN, f32::INFINITY, f32::NAN]);
        let dx = coset_max_vjp(&x, &there(&[1, 1], &[5.0])).to_vec().unwrap();
        assert_eq!(dx, [0.0, 5.0, 0.0, 0.0], "{device}");
    }
}

/// −0 is not below 0.
#[test]
fn relu_keeps_the_sign_of_zero() {
    for device in testing::devices() {
        let bits = |t: Tensor| -> Vec<u32> { t.to_vec().unwrap().into_iter().map(f32::to_bits).collect() };
        let x = Tensor::from_vec([4], vec![-0.0, 0.0, -1e-30, f32::NEG_INFINITY], &device).unwrap();
        let expected = [-0.0, 0.0, 0.0, 0.0].map(f32::to_bits);
        assert_eq!(bits(relu(&x)), expected, "relu on {device}");
        assert_eq!(bits(add_relu(&x, &Tensor::full([4], -0.0, &device).unwrap())), expected, "add_relu on {device}");
    }
}

#[test]
fn permutations_and_resampling() {
    let weight = Shape::from([2, 2, 4, 3, 3]);
    for row in [
        row("index_select_vjp", &[&[2, 3, 4]], |t| vec![index_select_vjp(&t[0], 1, &[2, 0, 2], 4)]),
        row("restrict", &[&[1, 2, 8, 2, 2]], |t| vec![restrict(&t[0], Group::D4, Subgroup::P4)]),
        row("subgroup pools", &[&[1, 2, 8, 2, 2]], |t| {
            vec![subgroup_max(&t[0], Group::D4, Subgroup::PM), subgroup_mean(&t[0], Group::D4, Subgroup::P2)]
        }),
        row("permute", &[&[2, 3, 4]], |t| vec![permute(&t[0], &[2, 0, 1])]),
        row("pad", &[&[2, 5, 4]], |t| {
            [Padding::Zeros, Padding::Reflection, Padding::Circular].map(|p| pad(&t[0], 1, 3, 2, p)).to_vec()
        }),
        row("pad_vjp", &[&[2, 9, 4]], |t| {
            [Padding::Zeros, Padding::Reflection, Padding::Circular].map(|p| pad_vjp(&t[0], 1, 2, 2, p)).to_vec()
        }),
        row("narrow_vjp", &[&[2, 5, 4]], |t| vec![narrow_vjp(&t[0], 1, 3, 9)]),
        row("concat", &[&[2, 1, 3], &[2, 4, 3]], |t| vec![concat(&[&t[0], &t[1]], 1)]),
        row("transform_plane", &[&[2, 3, 4]], |t| vec![transform_plane(&t[0], 5)]),
        row("transform_feature_map", &[&[1, 2, 4, 3, 3]], |t| vec![transform_feature_map(&t[0], 1, Group::C4)]),
        row("filter_orbit", &[&[2, 2, 4, 3, 3]], |t| vec![filter_orbit(&t[0], Group::C4)]),
        row("filter_orbit_vjp", &[&[8, 8, 3, 3]], move |t| vec![filter_orbit_vjp(&t[0], weight, Group::C4)]),
        row("rotate", &[&[4, 1, 7, 7]], |t| vec![rotate(&t[0], &[0.0, 90.0, 33.0, 200.5], 0.25)]),
        row("rotate, fill", &[&[2, 1, 4, 6]], |t| vec![rotate(&t[0], &[90.0, 33.0], f32::NAN)]),
        row("rotate_vjp", &[&[4, 1, 7, 7]], |t| vec![rotate_vjp(&t[0], &[0.0, 90.0, 33.0, 200.5])]),
        row("resize", &[&[2, 7, 6]], |t| [(7, 6), (14, 9), (3, 2), (1, 1)].map(|(h, w)| resize(&t[0], h, w)).to_vec()),
        row("resize_vjp", &[&[2, 7, 6]], |t| {
            [(7, 6), (14, 9), (3, 2), (1, 1)].map(|(h, w)| resize_vjp(&t[0], h, w)).to_vec()
        }),
        row("circle_crop vjp", &[&[2, 7, 6]], |t| vec![circle_crop(&t[0])]),
    ] {
        row.check();
    }
}

#[test]
fn losses() {
    let labels = || constant(&[4.0, 0.0, 2.0]);
    for row in [
        row("cross_entropy", &[&[3, 5]], |t| vec![cross_entropy(&t[0], &t[1])]).beside(labels()),
        row("cross_entropy_vjp", &[&[3, 5]], |t| {
            let dloss = Tensor::full([], 2.0, &t[0].device()).unwrap();
            vec![cross_entropy_vjp(&t[0], &t[1], &dloss)]
        })
        .beside(labels()),
    ] {
        row.check();
    }
    for loss in [Pointwise::Squared, Pointwise::Absolute, Pointwise::Huber(1.0), Pointwise::BinaryCrossEntropy] {
        for row in [
            row("pointwise_loss", &[&[7], &[7]], move |t| vec![pointwise_loss(&t[0], &t[1], loss, Reduction::Mean)]),
            row("pointwise_loss_vjp", &[&[7], &[7]], move |t| {
                let dloss = Tensor::full([], 2.0, &t[0].device()).unwrap();
                vec![pointwise_loss_vjp(&t[0], &t[1], loss, Reduction::Sum, &dloss)]
            }),
        ] {
            row.check();
        }
    }
    let smooth = || CrossEntropy { smoothing: 0.1, ..CrossEntropy::default() };
    row("cross_entropy, smooth", &[&[3, 5]], move |t| vec![cross_entropy_with(&t[0], &t[1], &smooth())])
        .beside(labels())
        .check();
    for axis in [0, 1] {
        let rows = [
            row("softmax", &[&[3, 5]], move |t| vec![softmax(&t[0], axis), log_softmax(&t[0], axis)]),
            row("logsumexp", &[&[3, 5]], move |t| vec![logsumexp(&t[0], axis, true)]),
            row("softmax vjp", &[&[3, 5], &[3, 5]], move |t| {
                let (y, log_y) = (softmax(&t[0], axis), log_softmax(&t[0], axis));
                vec![softmax_vjp(&y, &t[1], axis), log_softmax_vjp(&log_y, &t[1], axis)]
            }),
        ];
        rows.iter().for_each(Row::check);
    }
    // Infinite logits are answers, NaN is none: `argmax` and `count_correct` have a test of their own.
}

#[test]
fn norms() {
    let map = [3, 2, 4, 3, 3];
    let tails = [None, Some(false), Some(true)].map(|tail| Activation {
        relu: tail.is_some(),
        dropout: (tail == Some(true)).then(|| (0.3, Stream::new(1, 2, 3))),
    });
    for activation in tails {
        for row in [
            row("batch_norm_train", &[&map, &[2], &[2]], move |t| {
                let BatchNorm { y, mean, var, .. } = batch_norm_train(&t[0], &t[1], &t[2], EPS, activation);
                vec![y, mean, var]
            }),
            row("batch_norm_train_vjp", &[&map, &[2], &[2], &map], move |t| {
                let forward = batch_norm_train(&t[0], &t[1], &t[2], EPS, activation);
                let (dx, dweight, dbias) = batch_norm_train_vjp(&t[0], &forward, &t[1], &t[2], EPS, activation, &t[3]);
                vec![dx, dweight, dbias]
            })
            .mixed(),
            row("batch_norm_eval", &[&map, &[2], &[2], &[2]], move |t| {
                vec![batch_norm_eval(&t[0], &t[1], &t[2], &t[3], &t[4], EPS, activation)]
            })
            .beside(constant(&[0.5, 2.0])),
            row("batch_norm_eval_vjp", &[&map, &[2], &[2], &[2], &map], move |t| {
                let var = mul(&t[1], &t[1]);
                let y = batch_norm_eval(&t[0], &t[1], &t[2], &t[3], &var, EPS, activation);
                let (dx, dweight, dbias) =
                    batch_norm_eval_vjp(&t[0], &y, &t[1], &t[2], &t[3], &var, EPS, activation, &t[4]);
                vec![dx, dweight, dbias]
            }),
        ] {
            row.check();
        }
    }
}

#[test]
fn optimizers() {
    let sgd = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 1e-3, nesterov: false };
    let adam = Adam { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-3, decoupled: false, step: 3 };
    for row in [
        row("sgd_step", &[&[5], &[5], &[5]], move |t| {
            let (mut w, mut velocity) = (t[0].clone(), t[1].clone());
            sgd_step(&mut w, &mut velocity, &t[2], &sgd);
            vec![w, velocity]
        }),
        row("adam_step", &[&[5], &[5], &[5]], move |t| {
            let (mut w, mut moment1, mut moment2) = (t[0].clone(), t[1].clone(), mul(&t[1], &t[1]));
            adam_step(&mut w, &mut moment1, &mut moment2, &t[2], &adam);
            vec![w, moment1, moment2]
        }),
    ] {
        row.check();
    }
}

#[test]
fn convolutions() {
    for (group, lifting) in [(Group::C1, false), (Group::C4, true), (Group::C4, false), (Group::D4, false)] {
        let (g_in, g) = (if lifting { 1 } else { group.order() }, group.order());
        let (x, weight) = ([2, 2, g_in, 6, 6], [3, 2, g_in, 3, 3]);
        let (transposed, of_channels) = ([2, 3, g_in, 3, 3], [2, 2, g, 6, 6]);
        let y = [2, 3, g, 6, 6];
        let (x_shape, weight_shape) = (Shape::from(x), Shape::from(weight));
        let conv = Conv { padding: 1, ..Conv::new(group) };
        let given = move |t: &[Tensor], relu| {
            let (weight, bias, mean, var) = (&t[2], &t[3], &t[4], &t[5]);
            let norm = GivenNorm { weight, bias, mean, var, eps: EPS, relu };
            group_conv_norm(&t[0], &t[1], None, conv, norm)
        };
        for row in [
            row("group_conv", &[&x, &weight, &[3]], move |t| vec![group_conv(&t[0], &t[1], Some(&t[2]), conv)]),
            row("group_conv_dx", &[&y, &weight], move |t| vec![group_conv_dx(&t[0], &t[1], x_shape, conv)]),
            row("group_conv_dw", &[&x, &y], move |t| {
                let (dw, db) = group_conv_dw(&t[0], &t[1], weight_shape, conv);
                vec![dw, db]
            }),
            row("transposed_group_conv", &[&x, &transposed, &[3]], move |t| {
                vec![transposed_group_conv(&t[0], &t[1], Some(&t[2]), Conv { stride: 2, ..conv }, 0)]
            }),
            row("depthwise_conv", &[&x, &[2, 1, 1, 3, 3]], move |t| {
                vec![depthwise_conv(&t[0], &t[1], Conv { stride: 2, ..conv })]
            }),
            row("depthwise_conv_dx", &[&of_channels, &[2, 1, 1, 3, 3]], move |t| {
                vec![depthwise_conv_dx(&t[0], &t[1], x_shape, conv)]
            }),
            row("depthwise_conv_dw", &[&x, &of_channels], move |t| {
                vec![depthwise_conv_dw(&t[0], &t[1], Shape::from([2, 1, 1, 3, 3]), conv)]
            }),
            row("group_conv_norm", &[&x, &weight, &[3], &[3], &[3]], move |t| vec![given(t, false), given(t, true)])
                .beside(constant(&[0.5, 2.0, 1.0])),
            row("group_conv_norm_train vjp", &[&x, &weight, &[3], &[3]], move |t| {
                let activation = Activation { relu: true, dropout: None };
                let norm = TrainNorm { weight: &t[2], bias: &t[3], eps: EPS, activation, pool: Some(HALVING) };
                let (forward, gradient) = group_conv_norm_train(&t[0], &t[1], None, conv, norm);
                let dy = Tensor::full(forward.y.shape(), 1.0, &t[0].device()).unwrap();
                let vjp = group_conv_norm_train_vjp(&t[0], weight_shape, conv, &gradient, &dy, None, true);
                vec![forward.y, forward.mean, forward.var, vjp.weight, vjp.norm_weight, vjp.norm_bias]
            }),
        ] {
            row.mixed().check();
        }
    }
}

/// Wide enough for panels on the CPU.
#[test]
fn wide_convolutions() {
    for (group, c_out) in [(Group::C1, 129), (Group::C4, 33), (Group::D4, 46)] {
        let (g, conv) = (group.order(), Conv { padding: 1, ..Conv::new(group) });
        let (x, weight, y) = ([1, 17, g, 2, 2], [c_out, 17, g, 3, 3], [1, c_out, g, 2, 2]);
        let (x_shape, weight_shape) = (Shape::from(x), Shape::from(weight));
        for row in [
            row("group_conv", &[&x, &weight], move |t| vec![group_conv(&t[0], &t[1], None, conv)]),
            row("group_conv_dx", &[&y, &weight], move |t| vec![group_conv_dx(&t[0], &t[1], x_shape, conv)]),
            row("group_conv_dw", &[&x, &y], move |t| {
                let (dw, db) = group_conv_dw(&t[0], &t[1], weight_shape, conv);
                vec![dw, db]
            }),
        ] {
            row.mixed().check();
        }
    }
}
