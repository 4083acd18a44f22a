use super::*;
use crate::{
    Group, add, mul,
    parity::{Tolerance, all_elements, check, check_equivariant, devices_and_reference, random, same_bits},
    transform_feature_map,
};
use quarterturn_core::Shape;

const EPS: f64 = 1e-5;

const CASES: [&[usize]; 13] = [
    &[5, 1],
    &[17, 3],
    &[64, 65],
    &[1, 3, 1, 4, 4],
    &[2, 1, 4, 1, 1],
    &[3, 5, 4, 5, 3],
    &[2, 7, 1, 3, 21],
    &[5, 3, 1, 8, 8],
    &[1, 2, 1, 5, 13],
    &[2, 10, 4, 28, 28],
    &[3, 11, 8, 7, 9],
    &[2, 3, 4, 65, 63],
    &[1, 1, 1, 130, 130],
];

fn activations() -> [Activation; 3] {
    let stream = Stream::new(5, 6, 7);
    [
        Activation::default(),
        Activation { relu: true, dropout: None },
        Activation { relu: true, dropout: Some((0.3, stream)) },
    ]
}

/// x with a mean of 3, weight and bias.
fn operands(dims: &[usize]) -> (Tensor, Tensor, Tensor) {
    let shape = Shape::new(dims);
    let x = add(&random(shape, 1), &Tensor::full(shape, 3.0, &Device::Reference).unwrap());
    (x, random([dims[1]], 2), random([dims[1]], 3))
}

/// Of a mean that is large beside the deviations, too; and of a batch in two parts.
#[test]
fn sums_of_parts_make_the_statistics_of_the_batch() {
    for (mean, channels) in [(0.0, 1), (3.0, 5), (1000.0, 2), (-30_000.0, 3)] {
        let shape = Shape::from([4, channels, 1, 9, 7]);
        let x = add(&random(shape, 1), &Tensor::full(shape, mean, &Device::Reference).unwrap());
        let [weight, bias] = [2, 3].map(|stream| random([channels], stream));
        for device in devices_and_reference() {
            let [x, weight, bias] = [&x, &weight, &bias].map(|t| t.to_device(&device).unwrap());
            let parts = [0, 1].map(|half| crate::narrow(&x, 0, 2 * half, 2));
            let [mut sums, others] = parts.each_ref().map(|part| batch_norm_sums(part).unwrap());
            sums.iter_mut().zip(others).for_each(|(a, b)| *a += b);
            let whole = batch_norm_train(&x, &weight, &bias, EPS, Activation::default());
            for (half, part) in parts.iter().enumerate() {
                let found = batch_norm_of_sums(part, &sums, &weight, &bias, EPS, Activation::default());
                assert_eq!(found.count, whole.count);
                let y = crate::narrow(&whole.y, 0, 2 * half, 2);
                for (found, expected) in [(&found.mean, &whole.mean), (&found.var, &whole.var), (&found.y, &y)] {
                    let pairs = found.to_f64().unwrap().into_iter().zip(expected.to_f64().unwrap());
                    // The mean is rounded to f32, and x with it.
                    let tolerance = 1e-5 + 2e-7 * f64::from(mean.abs());
                    for (a, b) in pairs {
                        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{device}, mean {mean}: {a}, not {b}");
                    }
                }
            }
        }
    }
}

/// Equal values have no variance; those that f32 does not hold the variance of have no statistics.
#[test]
fn sums_of_extremes() {
    for (values, var) in
        [([7.25f32; 6], 0.0), ([1e30, -1e30, 0.0, 0.0, 0.0, 0.0], f64::NAN), ([f32::INFINITY; 6], f64::NAN)]
    {
        for device in devices_and_reference() {
            let x = Tensor::from_vec([6, 1], values.to_vec(), &device).unwrap();
            let [weight, bias] = [1.0, 0.0].map(|value| Tensor::full([1], value, &device).unwrap());
            let sums = batch_norm_sums(&x).unwrap();
            let found = batch_norm_of_sums(&x, &sums, &weight, &bias, EPS, Activation::default());
            let found = found.var.to_f64().unwrap()[0];
            assert!(found == var || found.is_nan() && var.is_nan(), "{device}: {found}, not {var}");
        }
    }
}

#[test]
fn parity() {
    for (dims, activation) in CASES.into_iter().flat_map(|dims| activations().map(|a| (dims, a))) {
        let name = format!("{dims:?} {activation:?}");
        let (x, weight, bias) = operands(dims);
        let dy = random(x.shape(), 4);
        // Normalising divides rounding errors of x by the deviation; small batches may have a small one.
        let tolerance = Tolerance::Terms(200);
        let (running_mean, running_var) = (random([dims[1]], 5), mul(&random([dims[1]], 6), &random([dims[1]], 6)));
        check(&format!("train {name}"), &[&x, &weight, &bias, &running_mean, &running_var], tolerance, |t| {
            let forward = batch_norm_train(&t[0], &t[1], &t[2], EPS, activation);
            let (mean, var) = update_running(&t[3], &t[4], &forward, 0.1);
            vec![forward.y, forward.mean, forward.var, mean, var]
        });
        check(&format!("train_vjp {name}"), &[&x, &weight, &bias, &dy], tolerance, |t| {
            let forward = batch_norm_train(&t[0], &t[1], &t[2], EPS, activation);
            let (dx, dweight, dbias) = batch_norm_train_vjp(&t[0], &forward, &t[1], &t[2], EPS, activation, &t[3]);
            vec![dx, dweight, dbias]
        });
        let mean = random([dims[1]], 7);
        let var = add(&mul(&mean, &mean), &Tensor::full([dims[1]], 0.5, &Device::Reference).unwrap());
        check(&format!("eval {name}"), &[&x, &weight, &bias, &mean, &var, &dy], tolerance, |t| {
            let y = batch_norm_eval(&t[0], &t[1], &t[2], &t[3], &t[4], EPS, activation);
            let (dx, dweight, dbias) =
                batch_norm_eval_vjp(&t[0], &y, &t[1], &t[2], &t[3], &t[4], EPS, activation, &t[5]);
            vec![y, dx, dweight, dbias]
        });
    }
}

/// What `f32` can hold of these values, as operand of every device.
fn column(values: impl IntoIterator<Item = f64>) -> Tensor {
    let values: Vec<f64> = values.into_iter().map(|v| f64::from(v as f32)).collect();
    Tensor::reference([values.len(), 1], values)
}

/// Largest error of the results of `f`, relative to the largest element, on each device but the reference.
fn errors(operands: &[&Tensor], f: impl Fn(&[Tensor]) -> Vec<Tensor>) -> Vec<(Device, f64)> {
    let on = |device: &Device| -> Vec<Vec<f64>> {
        let there: Vec<Tensor> = operands.iter().map(|t| t.to_device(device).unwrap()).collect();
        f(&there).iter().map(|t| t.to_f64().unwrap()).collect()
    };
    let expected = on(&Device::Reference);
    let error = |got: &[f64], expected: &[f64]| {
        let largest = expected.iter().fold(1e-30, |max: f64, v| max.max(v.abs()));
        got.iter()
            .zip(expected)
            .fold(0.0, |max: f64, (g, e)| if (g - e).is_nan() { 1.0 } else { max.max((g - e).abs() / largest) })
    };
    let worst = |got: Vec<Vec<f64>>| got.iter().zip(&expected).map(|(g, e)| error(g, e)).fold(0.0, f64::max);
    quarterturn_core::testing::devices().into_iter().map(|device| (device.clone(), worst(on(&device)))).collect()
}

/// The mean is subtracted before it is rounded, forward and backward.
#[test]
fn a_large_mean_costs_no_digits() {
    let noise = |n: usize| random([n], 1).f64s().to_vec();
    let about = |mean: f64, n: usize| noise(n).into_iter().map(move |v| mean + v).collect::<Vec<f64>>();
    let mut outlier = about(0.0, 3000);
    outlier[0] = 1e6;
    let cases = [
        (vec![10000.0, 10001.0, 10001.0], EPS),
        (vec![10000.0, 10000.001], 1e-12),
        (vec![1e-3, 1e-3 + 1e-9, 1e-3 + 2e-9], 1e-20),
        (about(1e3, 2601), EPS),
        (about(-1e4, 9000), EPS),
        (about(1e5, 300), EPS),
        (about(3e6, 70_000), EPS),
        (outlier, EPS),
    ];
    for ((values, eps), activation) in cases.iter().flat_map(|case| activations().map(|a| (case, a))) {
        let name = format!("{} values from {:e}, {activation:?}", values.len(), values[0]);
        let (x, weight, bias) = (column(values.iter().copied()), random([1], 2), random([1], 3));
        let dy = random(x.shape(), 4);
        let all = errors(&[&x, &weight, &bias, &dy], |t| {
            let forward = batch_norm_train(&t[0], &t[1], &t[2], *eps, activation);
            let (dx, dweight, dbias) = batch_norm_train_vjp(&t[0], &forward, &t[1], &t[2], *eps, activation, &t[3]);
            let mut all = vec![forward.y, forward.mean, forward.var, dweight, dbias];
            // Of few values, dx is what rounding leaves of a difference.
            all.extend((values.len() > 3).then_some(dx));
            all
        });
        for (device, error) in all {
            assert!(error <= 5e-6, "{name} on {device}: off by {error:e}");
        }
    }
}

#[test]
fn two_near_values_are_told_apart() {
    for device in devices_and_reference() {
        let scalar = |v: f32| Tensor::full([1], v, &device).unwrap();
        let y = |values: &[f32], eps| {
            let x = Tensor::from_vec([values.len(), 1], values.to_vec(), &device).unwrap();
            batch_norm_train(&x, &scalar(1.0), &scalar(0.0), eps, Activation::default()).y.to_vec().unwrap()
        };
        for (got, expected) in y(&[10000.0, 10000.001], 1e-12).into_iter().zip([-1.0, 1.0]) {
            assert!((got - expected).abs() < 4e-6, "{got} on {device}");
        }
        let root = 0.5f32.sqrt();
        for (got, expected) in y(&[10000.0, 10001.0, 10001.0], 0.0).into_iter().zip([-2.0 * root, root, root]) {
            assert!((got - expected).abs() < 1e-6, "{got} on {device}");
        }
    }
}

#[test]
fn equal_values_have_no_variance() {
    for device in devices_and_reference() {
        let scalar = |v: f32| Tensor::full([1], v, &device).unwrap();
        for (value, n) in
            [0.1, -7.3, 1e24, -3e37, 3e38, 1e-30].into_iter().flat_map(|v| [2, 3, 1000, 5001].map(|n| (v, n)))
        {
            let x = Tensor::full([n, 1], value, &device).unwrap();
            let forward = batch_norm_train(&x, &scalar(2.0), &scalar(0.5), EPS, Activation::default());
            let name = format!("{n} times {value:e} on {device}");
            let (mean, var) = update_running(&scalar(0.0), &scalar(1.0), &forward, 1.0);
            let off = (f64::from(mean.to_vec().unwrap()[0]) / f64::from(value) - 1.0).abs();
            assert!(off < 2e-7 && var.to_vec().unwrap() == [0.0], "{name}: {off:e}, {:?}", var.to_vec());
            let y = forward.y.to_vec().unwrap();
            // What is left of the mean is rounding, and divided by √eps.
            let near = 0.5 + 2e-7 * f64::from(value).abs() / EPS.sqrt();
            assert!(y.iter().all(|&v| f64::from(v - 0.5).abs() <= near - 0.5), "{name}: {}", y[0]);
        }
    }
}

/// The same on every device, and nothing that could be taken for a result.
#[test]
fn a_variance_beyond_f32_is_no_statistic() {
    for device in devices_and_reference() {
        let scalar = |v: f32| Tensor::full([2], v, &device).unwrap();
        let run = |values: Vec<f32>| {
            // Before a channel that is sound.
            let sound = (0..values.len()).map(|i| (i % 200) as f32);
            let x =
                Tensor::from_vec([1, 2, values.len()], values.iter().copied().chain(sound).collect(), &device).unwrap();
            let relu = Activation { relu: true, dropout: None };
            let forward = batch_norm_train(&x, &scalar(1.0), &scalar(0.0), EPS, relu);
            [forward.y, forward.mean, forward.var].map(|t| t.to_vec().unwrap())
        };
        for scale in [1e20f32, 1e30, 3e38] {
            let values = random([200], 1).f64s().iter().map(|&v| (v as f32).clamp(-1.0, 1.0) * scale).collect();
            for result in run(values) {
                for (i, v) in result.iter().enumerate() {
                    assert_eq!(v.is_nan(), i < result.len() / 2, "{scale:e} on {device}: {i} is {v}");
                }
            }
        }
        // Just within: sums of squares are beyond f32, their mean is not.
        for (mean, scale, count) in [(0.0, 1e19, 5000), (1e30, 0.0, 200), (0.0, 1e17, 200)] {
            let values =
                random([count], 1).f64s().iter().map(|&v| (mean + v.clamp(-1.0, 1.0) * scale) as f32).collect();
            for result in run(values) {
                assert!(result.iter().all(|v| v.is_finite()), "{mean:e} ± {scale:e} on {device}: {result:?}");
            }
        }
    }
}

#[test]
fn evaluation_commutes_with_every_symmetry() {
    let channel = |stream| random([3], stream);
    let var = mul(&channel(5), &channel(5));
    let parameters = [channel(2), channel(3), channel(4), var];
    for activation in &activations()[..2] {
        let eval = |x: &Tensor| {
            let [weight, bias, mean, var] = parameters.each_ref().map(|t| t.to_device(&x.device()).unwrap());
            batch_norm_eval(x, &weight, &bias, &mean, &var, EPS, *activation)
        };
        check_equivariant("eval", [2, 3, 1, 5, 7], &all_elements(), true, eval);
        let x = random([2, 3, 8, 5, 5], 1);
        for device in devices_and_reference() {
            let x = x.to_device(&device).unwrap();
            for g in Group::D4.elements() {
                let expected = transform_feature_map(&eval(&x), g, Group::D4);
                assert!(same_bits(&eval(&transform_feature_map(&x, g, Group::D4)), &expected), "{g} on {device}");
            }
        }
    }
}

#[test]
fn dropout_after_relu_is_the_dropout_op() {
    let (x, weight, bias) = operands(&[2, 3, 4, 5, 5]);
    let (p, stream) = (0.3, Stream::new(8, 9, 10));
    for device in devices_and_reference() {
        let [x, weight, bias] = [&x, &weight, &bias].map(|t| t.to_device(&device).unwrap());
        let run = |dropout| batch_norm_train(&x, &weight, &bias, EPS, Activation { relu: true, dropout }).y;
        assert!(same_bits(&run(Some((p, stream))), &crate::dropout(&run(None), p, stream)), "{device}");
    }
}

#[test]
fn two_values_by_hand() {
    let x = Tensor::cpu([2, 1], vec![1.0, 3.0].into());
    let scalar = |v: f32| Tensor::cpu([1], vec![v].into());
    let forward = batch_norm_train(&x, &scalar(2.0), &scalar(0.5), 0.0, Activation { relu: true, dropout: None });
    assert_eq!((forward.mean.f32s(), forward.var.f32s()), (&[2.0][..], &[1.0][..]));
    assert_eq!(forward.y.f32s(), [0.0, 2.5]);
    let (mean, var) = update_running(&scalar(10.0), &scalar(4.0), &forward, 0.5);
    assert_eq!((mean.f32s(), var.f32s()), (&[6.0][..], &[3.0][..]));
}

#[test]
#[should_panic(expected = "batch_norm_train: expected relu where there is dropout")]
fn dropout_without_relu_is_refused() {
    let (x, weight, bias) = operands(&[2, 3]);
    let dropout = Some((0.5, Stream::new(1, 1, 1)));
    batch_norm_train(&x, &weight, &bias, EPS, Activation { relu: false, dropout });
}

/// Given statistics, whatever is made of an element has the same bits whether four are read at a time or one; sums agree up to rounding.
#[cfg(feature = "gpu")]
#[test]
fn quads_make_of_each_element_the_same_bits() {
    use crate::Variants;
    use quarterturn_core::gpu::{Gpu, GpuOptions};

    let Some(quads) = quarterturn_core::testing::gpu() else { return };
    let single =
        Gpu::open(&GpuOptions { adapter: Some(quads.adapter().name.clone()), ..GpuOptions::default() }).unwrap();
    Variants { norm_quads: false }.choose(&single).unwrap();
    assert!(Variants::default().choose(&single).is_err(), "the first choice holds");
    let of_quads: [&[usize]; 5] =
        [&[2, 3, 4, 1, 1], &[3, 2, 4, 3, 3], &[5, 3, 1, 2, 6], &[2, 10, 4, 28, 28], &[40, 2, 8, 9, 7]];
    for (dims, activation) in of_quads.into_iter().flat_map(|dims| activations().map(|a| (dims, a))) {
        let (x, weight, bias) = operands(dims);
        let (dy, mean) = (random(x.shape(), 4), random([dims[1]], 7));
        let var = add(&mul(&mean, &mean), &Tensor::full([dims[1]], 0.5, &Device::Reference).unwrap());
        let on = |gpu: &Gpu| {
            let there = |t: &Tensor| t.to_device(&Device::Gpu(gpu.clone())).unwrap();
            let [x, weight, bias, mean, var, dy] = [&x, &weight, &bias, &mean, &var, &dy].map(there);
            let y = batch_norm_eval(&x, &weight, &bias, &mean, &var, EPS, activation);
            let (dx, dweight, dbias) = batch_norm_eval_vjp(&x, &y, &weight, &bias, &mean, &var, EPS, activation, &dy);
            let forward = batch_norm_train(&x, &weight, &bias, EPS, activation);
            let alike = [y, dx].map(|t| t.to_vec().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>());
            (alike, [dweight, dbias, forward.mean, forward.var, forward.y].map(|t| t.to_f64().unwrap()))
        };
        let ((alike, sums), (alike_single, sums_single)) = (on(&quads), on(&single));
        assert_eq!(alike, alike_single, "{dims:?} {activation:?}");
        for (a, b) in sums.iter().zip(&sums_single) {
            let largest = b.iter().fold(1e-30, |max: f64, v| max.max(v.abs()));
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() <= 1e-5 * largest, "{dims:?} {activation:?}: {a} and {b}");
            }
        }
    }
}
