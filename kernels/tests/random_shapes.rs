//! Operations at shapes drawn at random, compiled for every instruction set, beside the plain formulas in `f64`. One
//! test, for the choice of instructions holds for the whole process. Compiled with `--cfg quarterturn_exact_buffers`
//! (see ARCHITECTURE.md, Tests) it also shows reads and writes outside of a buffer, and results that nobody wrote.

use quarterturn_core::{Device, Shape, Stream, Tensor, window_extent};
use quarterturn_kernels::*;
use std::cell::Cell;

/// Draws of each operation.
const DRAWS: u64 = 25;

/// Numbers in the order in which they are asked for.
struct Dice {
    stream: Stream,
    drawn: Cell<u64>,
}

impl Dice {
    fn next(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        self.drawn.get()
    }

    /// One of `range`.
    fn pick(&self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.stream.word(self.next()) as usize % (range.end() - range.start() + 1)
    }

    /// Normal values, exact in `f32`.
    fn tensor(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let values = (0..shape.len()).map(|_| f64::from(self.stream.normal(self.next()) as f32));
        Tensor::reference(shape, values.collect())
    }

    fn positive(&self, shape: impl Into<Shape>) -> Tensor {
        let x = self.tensor(shape);
        Tensor::reference(x.shape(), x.f64s().iter().map(|v| f64::from((v.abs() + 0.5) as f32)).collect())
    }
}

type Run = Box<dyn Fn(&[Tensor]) -> Vec<Tensor>>;

/// Operands, and what is made of them on whatever device they are.
struct Case {
    name: String,
    operands: Vec<Tensor>,
    run: Run,
}

impl Case {
    fn new(name: impl Into<String>, operands: Vec<Tensor>, run: impl Fn(&[Tensor]) -> Vec<Tensor> + 'static) -> Case {
        Case { name: name.into(), operands, run: Box::new(run) }
    }
}

fn convolution(dice: &Dice) -> Case {
    let group = [Group::C1, Group::C4, Group::D4][dice.pick(0..=2)];
    let lifts = dice.pick(0..=3) == 0;
    let g_in = if lifts { 1 } else { group.order() };
    let (k, stride) = (dice.pick(1..=5), dice.pick(1..=3));
    let dilation = [1, 1, 2, 3][dice.pick(0..=3)];
    let window = dilation * (k - 1) + 1;
    let conv = Conv { group, stride, padding: dice.pick(0..=window - 1), dilation };
    let most = if group.order() == 8 { 9 } else { 21 };
    let (n, c_in, c_out) = (dice.pick(1..=4), dice.pick(1..=most), dice.pick(1..=most));
    let extent = |dice: &Dice| dice.pick(window.saturating_sub(2 * conv.padding).max(1)..=13);
    let (h, w) = (extent(dice), extent(dice));
    let x = dice.tensor([n, c_in, g_in, h, w]);
    let weight = dice.tensor([c_out, c_in, g_in, k, k]);
    let [rows, cols] = [h, w].map(|i| window_extent(i, window, stride, conv.padding).unwrap());
    let dy = dice.tensor([n, c_out, group.order(), rows, cols]);
    let [bias, gamma, beta, mean] = std::array::from_fn(|_| dice.tensor([c_out]));
    let var = dice.positive([c_out]);
    let name = format!("{conv:?}, {:?} by {:?}", x.shape(), weight.shape());
    Case::new(name, vec![x, weight, dy, bias, gamma, beta, mean, var], move |t| {
        let [x, weight, dy, bias, gamma, beta, mean, var] = t else { unreachable!("as above") };
        let given = GivenNorm { weight: gamma, bias: beta, mean, var, eps: 1e-5, relu: true };
        let (dweight, dbias) = group_conv_dw(x, dy, weight.shape(), conv);
        let mut results = vec![
            group_conv(x, weight, Some(bias), conv),
            group_conv_norm(x, weight, None, conv, given),
            group_conv_dx(dy, weight, x.shape(), conv),
            dweight,
            dbias,
        ];
        // Statistics of few values magnify rounding, and so does a weight of few taps, whose size a norm takes away.
        if n * rows * cols >= 20 && c_in * g_in * k * k >= 12 {
            let pool = (rows >= 2 && cols >= 2).then_some(Window { kernel_size: 2, stride: 2, padding: 0 });
            for pool in [None, pool] {
                let activation = Activation { relu: true, dropout: Some((0.25, Stream::new(1, 2, 3))) };
                let norm = TrainNorm { weight: gamma, bias: beta, eps: 1e-5, activation, pool };
                let (y, gradient) = group_conv_norm_train(x, weight, Some(bias), conv, norm);
                let dy = pool.map_or(dy.clone(), |pool| max_pool(dy, pool));
                let back = group_conv_norm_train_vjp(x, weight.shape(), conv, &gradient, &dy, None, true);
                results.extend([y.y, y.mean, y.var, back.weight, back.norm_weight, back.norm_bias]);
                results.extend(back.convolved);
            }
        }
        results
    })
}

/// Transposed and depthwise ones.
fn other_convolutions(dice: &Dice) -> Case {
    let group = [Group::C1, Group::C4, Group::D4][dice.pick(0..=2)];
    let g_in = if dice.pick(0..=3) == 0 { 1 } else { group.order() };
    let (k, stride, dilation) = (dice.pick(1..=5), dice.pick(1..=3), [1, 1, 2, 3][dice.pick(0..=3)]);
    let conv = Conv { group, stride, padding: dice.pick(0..=dilation * (k - 1) / 2), dilation };
    let most = if group.order() == 8 { 9 } else { 21 };
    let (n, c_in, c_out) = (dice.pick(1..=4), dice.pick(1..=most), dice.pick(1..=most));
    let (h, w) = (dice.pick(1..=9), dice.pick(1..=9));
    let x = dice.tensor([n, c_in, g_in, h, w]);
    let weight = dice.tensor([c_in, c_out, g_in, k, k]);
    let (bias, filters, output_padding) =
        (dice.tensor([c_out]), dice.tensor([c_out, 1, 1, k, k]), dice.pick(0..=stride - 1));
    let name = format!("transposed {conv:?}, {:?} by {:?}", x.shape(), weight.shape());
    Case::new(name, vec![x, weight, bias, filters], move |t| {
        let [x, weight, bias, filters] = t else { unreachable!("as above") };
        let y = transposed_group_conv(x, weight, Some(bias), conv, output_padding);
        let (dweight, dbias) = transposed_group_conv_dw(x, &y, weight.shape(), conv);
        // Back to the extents of x, channel by channel.
        let filtered = depthwise_conv(&y, filters, conv);
        vec![
            transposed_group_conv_dx(&y, weight, x.shape(), conv),
            dweight,
            dbias,
            depthwise_conv_dx(&filtered, filters, y.shape(), conv),
            depthwise_conv_dw(&y, &filtered, filters.shape(), conv),
            filtered,
            y,
        ]
    })
}

fn pooling(dice: &Dice) -> Case {
    let (kernel_size, stride) = (dice.pick(1..=4), dice.pick(1..=3));
    let window = Window { kernel_size, stride, padding: dice.pick(0..=kernel_size / 2) };
    let extents = [dice.pick(kernel_size..=40), dice.pick(kernel_size..=40)];
    let x = dice.tensor([dice.pick(1..=3), dice.pick(1..=4), 1, extents[0], extents[1]]);
    Case::new(format!("{window:?} of {:?}", x.shape()), vec![x], move |t| {
        let (max, mean) = (max_pool(&t[0], window), avg_pool(&t[0], window));
        let mut results = vec![max_pool_vjp(&t[0], &max, window), avg_pool_vjp(&mean, t[0].shape(), window), max, mean];
        if kernel_size == 3 {
            let blurred = blur_pool(&t[0], window);
            results.extend([blur_pool_vjp(&blurred, t[0].shape(), window), blurred]);
        }
        if stride == 2 {
            let (y, choice) = adaptive_max_pool(&t[0], window);
            results.extend([adaptive_max_pool_vjp(&t[0], &y, window, &choice), y]);
        }
        results
    })
}

fn over_the_group(dice: &Dice) -> Case {
    let group = [Group::C4, Group::D4][dice.pick(0..=1)];
    let x = dice.tensor([dice.pick(1..=3), dice.pick(1..=5), group.order(), dice.pick(1..=20), dice.pick(1..=20)]);
    let k = dice.pick(1..=5);
    let weight = dice.tensor([dice.pick(1..=5), dice.pick(1..=5), group.order(), k, k]);
    let g = dice.pick(0..=group.order() - 1);
    Case::new(format!("{group} on {:?}", x.shape()), vec![x, weight], move |t| {
        let (max, mean, space) = (coset_max(&t[0]), coset_mean(&t[0]), spatial_mean(&t[0]));
        let dense = filter_orbit(&t[1], group);
        vec![
            coset_max_vjp(&t[0], &max),
            coset_mean_vjp(&mean, t[0].shape()),
            spatial_mean_vjp(&space, t[0].shape()),
            filter_orbit_vjp(&dense, t[1].shape(), group),
            transform_feature_map(&t[0], g, group),
            transform_plane(&t[0], g),
            max,
            mean,
            space,
            dense,
        ]
    })
}

fn elementwise(dice: &Dice) -> Case {
    let n = dice.pick(1..=10_000);
    let operands = vec![dice.tensor([n]), dice.tensor([n]), dice.positive([n]), dice.positive([n])];
    Case::new(format!("{n} elements"), operands, move |t| {
        let (mut w, mut m, mut v) = (t[0].clone(), t[2].clone(), t[3].clone());
        let adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, decoupled: true, step: 3 };
        adam_step(&mut w, &mut m, &mut v, &t[1], &adam);
        let (mut sgd_w, mut velocity) = (t[0].clone(), t[2].clone());
        sgd_step(&mut sgd_w, &mut velocity, &t[1], &Sgd { lr: 0.1, momentum: 0.9, weight_decay: 1e-2, nesterov: true });
        vec![
            add(&t[0], &t[1]),
            add_relu(&t[0], &t[1]),
            mul(&t[0], &t[1]),
            scale(&t[0], 0.5),
            relu(&t[0]),
            relu_vjp(&t[0], &t[1]),
            dropout(&t[0], 0.3, Stream::new(1, 1, 1)),
            sum(&t[2]),
            broadcast(&sum(&t[2]), Shape::from([n])),
            w,
            m,
            v,
            sgd_w,
            velocity,
        ]
    })
}

fn products(dice: &Dice) -> Case {
    let (m, k, n) = (dice.pick(1..=80), dice.pick(1..=80), dice.pick(1..=80));
    let operands = vec![dice.tensor([m, k]), dice.tensor([n, k]), dice.tensor([n])];
    Case::new(format!("{m}×{k} by {k}×{n}"), operands, |t| {
        let y = linear(&t[0], &t[1], Some(&t[2]));
        let labels = argmax(&y, 1);
        vec![
            matmul(&t[0], &t[1], false, true),
            matmul(&y, &t[1], false, false),
            matmul(&t[0], &y, true, false),
            matmul(&t[1], &t[0], false, true),
            sum_rows(&t[0]),
            cross_entropy(&y, &labels),
            count_correct(&y, &labels),
            y,
        ]
    })
}

fn norms(dice: &Dice) -> Case {
    let shape = [dice.pick(2..=4), dice.pick(1..=5), [1, 4, 8][dice.pick(0..=2)], dice.pick(4..=20), dice.pick(4..=20)];
    let (x, dy) = (dice.tensor(shape), dice.tensor(shape));
    let [weight, bias, mean] = std::array::from_fn(|_| dice.tensor([shape[1]]));
    let var = dice.positive([shape[1]]);
    Case::new(format!("norm of {:?}", x.shape()), vec![x, dy, weight, bias, mean, var], |t| {
        let [x, dy, weight, bias, mean, var] = t else { unreachable!("as above") };
        let activation = Activation { relu: true, dropout: Some((0.3, Stream::new(1, 2, 3))) };
        let forward = batch_norm_train(x, weight, bias, 1e-5, activation);
        let (dx, dweight, dbias) = batch_norm_train_vjp(x, &forward, weight, bias, 1e-5, activation, dy);
        let given = batch_norm_eval(x, weight, bias, mean, var, 1e-5, activation);
        vec![forward.y, forward.mean, forward.var, dx, dweight, dbias, given]
    })
}

fn warps(dice: &Dice) -> Case {
    let images = [dice.pick(1..=3), dice.pick(1..=3), dice.pick(1..=40), dice.pick(1..=40)];
    let degrees: Vec<f32> = (0..images[0]).map(|_| dice.pick(0..=359) as f32 + 0.25).collect();
    let (h, w) = (dice.pick(1..=50), dice.pick(1..=50));
    Case::new(format!("{images:?} to {h}×{w}"), vec![dice.tensor(images)], move |t| {
        let resized = resize(&t[0], h, w);
        vec![
            rotate(&t[0], &degrees, 0.3),
            rotate_vjp(&t[0], &degrees),
            resize_vjp(&resized, images[2], images[3]),
            resize_nearest_vjp(&resized, images[2], images[3]),
            resize_nearest(&t[0], h, w),
            circle_crop(&t[0]),
            resized,
        ]
    })
}

#[test]
fn operations_at_random_shapes() {
    let kinds = [convolution, pooling, over_the_group, elementwise, products, norms, warps, other_convolutions];
    for (kind, make) in kinds.into_iter().enumerate() {
        for draw in 0..DRAWS {
            let dice = Dice { stream: Stream::new(5, kind as u32, draw as u32), drawn: Cell::new(0) };
            let case = make(&dice);
            let expected = (case.run)(&case.operands);
            let there: Vec<Tensor> = case.operands.iter().map(|t| t.to_device(&Device::Cpu).unwrap()).collect();
            for &isa in Isa::available() {
                Isa::choose(isa);
                for (i, (got, expected)) in (case.run)(&there).iter().zip(&expected).enumerate() {
                    assert_close(&format!("{}, result {i} on {isa}", case.name), got, expected);
                }
            }
        }
    }
}

fn assert_close(name: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.shape(), expected.shape(), "{name}");
    let most = expected.f64s().iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    for (i, (&got, &expected)) in got.f32s().iter().zip(expected.f64s()).enumerate() {
        let near = (f64::from(got) - expected).abs() <= 1e-4 * most;
        assert!(near, "{name}: element {i} is {got} instead of {expected}");
    }
}
