use super::*;
use crate::{
    GivenNorm, group_conv,
    group_conv::{
        Extents,
        tests::{Case, close, operands, random},
    },
    group_conv_dx, group_conv_norm, transform_plane, transposed_group_conv,
};
use quarterturn_core::{gpu::GpuOptions, testing, window_residual};
use std::{
    env,
    io::{self, Write},
    sync::OnceLock,
};

/// Widths that are no multiples of a tile, one window, one image, phases without windows, and terms that end in each place
/// of a chunk.
pub(super) const SHAPES: &[Case] = &[
    (Group::C4, false, 2, 16, 16, 9, 9, 3, 1, 1, 1),
    (Group::C4, false, 1, 17, 25, 6, 6, 3, 1, 1, 1),
    (Group::C4, false, 3, 20, 70, 5, 4, 3, 1, 1, 1),
    (Group::C4, false, 2, 16, 33, 7, 7, 3, 2, 1, 1),
    (Group::C4, false, 1, 19, 16, 9, 9, 1, 2, 0, 1),
    (Group::C4, false, 1, 16, 16, 3, 3, 3, 1, 0, 1),
    (Group::C4, false, 2, 18, 17, 12, 11, 3, 1, 4, 4),
    (Group::C4, false, 1, 16, 18, 10, 10, 4, 2, 1, 1),
    (Group::C4, true, 2, 16, 20, 9, 9, 5, 2, 2, 1),
    (Group::D4, false, 2, 16, 16, 6, 6, 3, 1, 1, 1),
    (Group::D4, false, 1, 17, 19, 7, 7, 3, 2, 1, 1),
    (Group::D4, true, 1, 16, 16, 7, 7, 3, 2, 1, 1),
    (Group::D4, false, 3, 23, 40, 3, 3, 1, 1, 0, 1),
];

/// The units that tests run on, in the given use. Without them a test is left out, and a line says so.
pub(super) fn gpu(wanted: TensorCores) -> Option<Gpu> {
    static ACCURATE: OnceLock<Option<Gpu>> = OnceLock::new();
    static FAST: OnceLock<Option<Gpu>> = OnceLock::new();
    let shared = if wanted == TensorCores::Fast { &FAST } else { &ACCURATE };
    let opened = shared.get_or_init(|| {
        let name = Some(testing::gpu()?.adapter().name.clone());
        let gpu = Gpu::open(&GpuOptions { adapter: name, tensor_cores: wanted, ..GpuOptions::default() }).unwrap();
        let used = tensor_core_use(&gpu);
        // Past the capture of `eprintln!`. Nothing depends on whether the line could be written.
        let _ = writeln!(io::stderr(), "tensor cores of {gpu}: {used}");
        match *used {
            TensorCoreUse::None(_) => None,
            _ => Some(gpu),
        }
    });
    let required = env::var("REQUIRE_TENSOR_CORES").is_ok_and(|value| value == "1");
    if opened.is_none() {
        let _ = writeln!(io::stderr(), "A TEST OF TENSOR CORES IS LEFT OUT");
    }
    assert!(opened.is_some() || !required, "REQUIRE_TENSOR_CORES=1, but they are not used");
    opened.clone()
}

/// A pass in fp32, and on the units.
fn both(pass: &Pass, gpu: &Gpu, x: &Tensor, weight: &Tensor) -> [Vec<f32>; 2] {
    let tiles = pass.tiles(gpu).expect("a shape for the units");
    let none = Epilogue::default();
    let on_units = pass.run_matrices(tiles, gpu, x.buffer(), weight.buffer(), none);
    [pass.run_fp32(gpu, x.buffer(), weight.buffer(), none).read().unwrap(), on_units.read().unwrap()]
}

/// Largest |got − expected|, of the largest |expected|.
pub(super) fn error(got: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(1e-300f64, |most, v| most.max(v.abs()));
    got.iter().zip(expected).map(|(g, e)| (f64::from(*g) - e).abs()).fold(0.0, f64::max) / largest
}

/// Equal, or both NaN.
pub(super) fn alike(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

/// In f64, whatever the device.
fn exact(x: &Tensor, weight: &Tensor, conv: Conv) -> Vec<f64> {
    let [x, weight] = [x, weight].map(|t| t.to_device(&Device::Reference).unwrap());
    group_conv(&x, &weight, None, conv).to_f64().unwrap()
}

#[test]
fn wide_convolutions_use_the_units() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu.clone());
    for (group, c_in, c_out, launches) in
        [(Group::C4, 16, 16, 3), (Group::C4, 15, 16, 1), (Group::D4, 16, 15, 1), (Group::C1, 16, 16, 1)]
    {
        let (x, weight, _, conv) = operands((group, false, 1, c_in, c_out, 5, 5, 3, 1, 1, 1), &device);
        let own =
            Gpu::open(&GpuOptions { adapter: Some(gpu.adapter().name.clone()), ..GpuOptions::default() }).unwrap();
        assert_eq!(*tensor_core_use(&own), TensorCoreUse::Accurate);
        let there = [x, weight].map(|t| t.to_device(&Device::Gpu(own.clone())).unwrap());
        let before = own.statistics().launches;
        let y = group_conv(&there[0], &there[1], None, conv);
        assert_eq!(own.statistics().launches - before, launches, "{group} {c_in} {c_out}");
        drop(y);
    }
}

#[test]
fn what_is_not_there_is_said() {
    let Some(shared) = testing::gpu() else { return };
    let name = Some(shared.adapter().name.clone());
    let off =
        Gpu::open(&GpuOptions { adapter: name, tensor_cores: TensorCores::Off, ..GpuOptions::default() }).unwrap();
    assert_eq!(off.matrix_units(), None);
    assert_eq!(tensor_core_use(&off).to_string(), "fp32: tensor cores are switched off");
    // Whatever this adapter has, the answer says what is used.
    let used = tensor_core_use(&shared);
    assert_eq!(shared.matrix_units().is_none(), matches!(&*used, TensorCoreUse::None(_)), "{used}");
}

#[test]
fn the_units_agree_with_the_reference() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu);
    for &case in SHAPES {
        let (x, weight, bias, conv) = operands(case, &Device::Reference);
        let y = group_conv(&x, &weight, Some(&bias), conv);
        let dy = random(y.shape(), 4, &Device::Reference);
        let dx = group_conv_dx(&dy, &weight, x.shape(), conv);
        let there = [&x, &weight, &bias, &dy].map(|t| t.to_device(&device).unwrap());
        close(&format!("y {case:?}"), &group_conv(&there[0], &there[1], Some(&there[2]), conv), &y, 2e-6);
        close(&format!("dx {case:?}"), &group_conv_dx(&there[3], &there[1], x.shape(), conv), &dx, 2e-6);
    }
}

/// Where the size is exact, and elsewhere not: so the comparison can fail. The fast mode keeps bits too.
#[test]
fn every_turn_keeps_every_bit() {
    for wanted in [TensorCores::Accurate, TensorCores::Fast] {
        let Some(gpu) = gpu(wanted) else { return };
        let device = Device::Gpu(gpu);
        let some = if wanted == TensorCores::Fast { 5 } else { 1 };
        for &(group, lift, n, c_in, c_out, size, _, k, stride, padding, dilation) in SHAPES.iter().step_by(some) {
            let window = dilation * (k - 1) + 1;
            let exact = size + (stride - (size + 2 * padding - window) % stride) % stride;
            for size in [size, exact] {
                let case = (group, lift, n, c_in, c_out, size, size, k, stride, padding, dilation);
                let (x, weight, bias, conv) = operands(case, &device);
                let y = group_conv(&x, &weight, Some(&bias), conv);
                let exact = window_residual(size, window, stride, padding) == Some(0);
                for g in group.elements().skip(1) {
                    let turned = if lift { transform_plane(&x, g) } else { transform_feature_map(&x, g, group) };
                    let got = group_conv(&turned, &weight, Some(&bias), conv).to_vec().unwrap();
                    let commutes = got == transform_feature_map(&y, g, group).to_vec().unwrap();
                    assert_eq!(commutes, exact || g == 5, "{case:?}, element {g}, {wanted:?}");
                }
            }
        }
    }
}

/// Gradients of inputs turn too, and transposed convolutions with a bias.
#[test]
fn what_the_adjoint_makes_keeps_every_bit() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu);
    for group in [Group::C4, Group::D4] {
        let conv = Conv { stride: 2, padding: 1, ..Conv::new(group) };
        let dy = random(Shape::from([2, 20, group.order(), 5, 5]), 1, &device);
        let weight = random(Shape::from([20, 17, group.order(), 3, 3]), 2, &device);
        let bias = random(Shape::from([17]), 3, &device);
        let x_shape = Shape::from([2, 17, group.order(), 9, 9]);
        let dx = group_conv_dx(&dy, &weight, x_shape, conv);
        let up = transposed_group_conv(&dy, &weight, Some(&bias), conv, 0);
        for g in group.elements().skip(1) {
            let turned = transform_feature_map(&dy, g, group);
            let got = group_conv_dx(&turned, &weight, x_shape, conv).to_vec().unwrap();
            assert!(got == transform_feature_map(&dx, g, group).to_vec().unwrap(), "dx on {group}, element {g}");
            let got = transposed_group_conv(&turned, &weight, Some(&bias), conv, 0).to_vec().unwrap();
            assert!(
                got == transform_feature_map(&up, g, group).to_vec().unwrap(),
                "transposed on {group}, element {g}"
            );
        }
    }
}

/// Three products of halves are as accurate as fp32, one is as accurate as a half.
#[test]
fn errors_are_bounded() {
    for group in [Group::C4, Group::D4] {
        let case = (group, false, 1, 64, 16, 6, 6, 3, 1, 1, 1);
        for wanted in [TensorCores::Accurate, TensorCores::Fast] {
            let Some(gpu) = gpu(wanted) else { return };
            let (x, weight, _, conv) = operands(case, &Device::Gpu(gpu.clone()));
            let x = crate::relu(&x);
            let pass = Pass::forward(&Extents::new("test", x.shape(), weight.shape(), conv), conv);
            let [fp32, on_units] = both(&pass, &gpu, &x, &weight);
            let expected = exact(&x, &weight, conv);
            let [fp32, on_units] = [fp32, on_units].map(|y| error(&y, &expected));
            println!("{group}, 576 terms, {wanted:?}: {on_units:.1e} of the largest, fp32 {fp32:.1e}");
            match wanted {
                TensorCores::Fast => assert!((1e-5..1e-3).contains(&on_units), "{group} {on_units:e}"),
                _ => assert!(on_units <= fp32.max(4e-7), "{group} {on_units:e}, fp32 {fp32:e}"),
            }
        }
    }
}

/// Halves reach from 2⁻²⁴ to 65504. Samples and filters may be anything.
#[test]
fn nothing_is_lost_where_halves_end() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu.clone());
    for group in [Group::C4, Group::D4] {
        let (x, weight, _, conv) = operands((group, false, 2, 16, 17, 7, 7, 3, 1, 1, 1), &device);
        let pass = Pass::forward(&Extents::new("test", x.shape(), weight.shape(), conv), conv);
        let scaled = |t: &Tensor, factor: f32| {
            let values = t.to_vec().unwrap().into_iter().map(|v| v * factor).collect();
            Tensor::from_vec(t.shape(), values, &device).unwrap()
        };
        let two = |exponent: i32| 2f32.powi(exponent);
        let plain = both(&pass, &gpu, &x, &weight)[1].clone();
        // Powers of two change exponents only.
        for (of_x, of_weight) in
            [(40, -40), (-40, 40), (-40, 20), (100, -90), (-100, 80), (-60, -40), (117, -60), (60, 50)]
        {
            let got = both(&pass, &gpu, &scaled(&x, two(of_x)), &scaled(&weight, two(of_weight)))[1].clone();
            let wanted: Vec<f32> = plain.iter().map(|v| v * two(of_x + of_weight)).collect();
            assert!(got == wanted, "{group}: 2^{of_x}, 2^{of_weight}");
        }
        // Close to the largest float sums may overflow: then in fp32.
        let [fp32, got] = both(&pass, &gpu, &scaled(&x, two(125)), &scaled(&weight, two(-20)));
        assert!(got.iter().zip(&fp32).all(|(a, b)| alike(*a, *b)), "{group}: close to the largest float");
        // Windows beside a huge sample are as without it. And zeros stay zeros.
        let mut values = x.to_vec().unwrap();
        values[0] = two(60);
        let huge = Tensor::from_vec(x.shape(), values, &device).unwrap();
        let got = both(&pass, &gpu, &huge, &weight)[1].clone();
        let far = |i: usize| i % 49 / 7 > 1 || i % 7 > 1 || i >= got.len() / 2;
        assert!((0..got.len()).filter(|&i| far(i)).all(|i| got[i] == plain[i]), "{group}: beside a huge sample");
        let zeros = Tensor::from_vec(x.shape(), vec![0.0; x.shape().len()], &device).unwrap();
        assert!(both(&pass, &gpu, &zeros, &weight)[1].iter().all(|v| *v == 0.0));
        assert!(both(&pass, &gpu, &x, &scaled(&weight, 0.0))[1].iter().all(|v| *v == 0.0));
    }
}

/// NaN and infinities are where they are in fp32, and nowhere else, from samples and from filters.
#[test]
fn what_is_not_finite_is_as_in_fp32() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu.clone());
    for group in [Group::C4, Group::D4] {
        let (x, weight, _, conv) = operands((group, false, 1, 16, 16, 7, 7, 3, 1, 1, 1), &device);
        let pass = Pass::forward(&Extents::new("test", x.shape(), weight.shape(), conv), conv);
        let plain = both(&pass, &gpu, &x, &weight)[1].clone();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let with = |t: &Tensor, at: usize| {
                let mut values = t.to_vec().unwrap();
                values[at] = bad;
                Tensor::from_vec(t.shape(), values, &device).unwrap()
            };
            for (x, weight) in [(with(&x, 24), weight.clone()), (x.clone(), with(&weight, 1000))] {
                let [fp32, got] = both(&pass, &gpu, &x, &weight);
                let mut spoilt = 0;
                for (i, (a, b)) in fp32.iter().zip(&got).enumerate() {
                    if a.is_finite() {
                        assert!(*b == plain[i], "{group} {bad}: {b} at {i}, should be {}", plain[i]);
                    } else {
                        spoilt += 1;
                        assert!(alike(*a, *b), "{group} {bad}: {a}, {b} at {i}");
                    }
                }
                assert!(spoilt > 0 && spoilt < got.len(), "{group} {bad}: {spoilt}");
            }
        }
    }
}

/// How a convolution is cut changes no bit, and nor does a batch.
#[test]
fn neither_tiles_nor_batches_change_a_bit() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu.clone());
    for group in [Group::C4, Group::D4] {
        let (x, weight, _, conv) = operands((group, false, 5, 17, 40, 5, 6, 3, 1, 1, 1), &device);
        let pass = Pass::forward(&Extents::new("test", x.shape(), weight.shape(), conv), conv);
        let tiles = pass.tiles(&gpu).unwrap();
        let run = |pass: &Pass, tiles, x: &Tensor| {
            let y = pass.run_matrices(tiles, &gpu, x.buffer(), weight.buffer(), Epilogue::default());
            y.read().unwrap()
        };
        let all = run(&pass, tiles, &x);
        for (cols, chunk) in [(1, 16), (2, 16), (3, 16), (2, 32)] {
            let parts = 40usize.div_ceil(tiles.size()).div_ceil(cols);
            let other = Tiles { cols, parts, chunk, terms: (17usize * 9).next_multiple_of(chunk), ..tiles };
            if other.memory() <= gpu.workgroup_memory() {
                assert!(run(&pass, other, &x) == all, "{group} {cols} {chunk}");
            }
        }
        let values = x.to_vec().unwrap();
        let (len, result) = (values.len() / 5, all.len() / 5);
        for image in [0, 4] {
            let alone = values[image * len..][..len].to_vec();
            let alone = Tensor::from_vec([1, 17, group.order(), 5, 6], alone, &device).unwrap();
            let pass = Pass::forward(&Extents::new("test", alone.shape(), weight.shape(), conv), conv);
            assert!(run(&pass, tiles, &alone) == all[image * result..][..result], "{group} image {image}");
        }
    }
}

#[test]
fn a_norm_and_a_relu_follow() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let gpu = Device::Gpu(gpu);
    let make = |device: &Device| {
        let (x, weight, bias, conv) = operands((Group::C4, false, 2, 16, 18, 6, 6, 3, 1, 1, 1), device);
        let [gamma, beta, mean] = [5, 6, 7].map(|stream| random(Shape::from([18]), stream, device));
        let var = Tensor::from_vec([18], (1..19).map(|i| i as f32).collect(), device).unwrap();
        let norm = GivenNorm { weight: &gamma, bias: &beta, mean: &mean, var: &var, eps: 1e-5, relu: true };
        group_conv_norm(&x, &weight, Some(&bias), conv, norm)
    };
    close("norm", &make(&gpu), &make(&Device::Reference), 2e-6);
}

/// What a launch says of its workgroup memory is what the shader uses. Needs no GPU.
#[test]
fn the_stated_workgroup_memory_is_right() {
    for (size, subgroup) in [(8, 8), (16, 32), (16, 64)] {
        for (group, split, k) in
            [(Group::C4, true, 3), (Group::C4, false, 1), (Group::D4, true, 3), (Group::D4, false, 2)]
        {
            let shape = Shape::from([1, 17, group.order(), 6, 6]);
            let conv = Conv::new(group);
            let pass =
                Pass::forward(&Extents::new("test", shape, Shape::from([70, 17, group.order(), k, k]), conv), conv);
            let tiles = Tiles::of(&pass, MatrixUnits { size, subgroup }, split, 49_152).unwrap();
            let (kernel, overrides) = pass.product(tiles, Epilogue::default());
            let bytes = super::super::tests::workgroup_bytes(&kernel, &overrides);
            assert_eq!(bytes, kernel.workgroup_memory(), "{group} {size} {split} {k}");
            let other = 24 - size;
            for (text, there) in [(size, true), (other, false)] {
                for text in [format!("coop_mat{text}x{text}<"), format!("SIZE: u32 = {text}u")] {
                    assert_eq!(kernel.source().contains(&text), there, "{text} for tiles of {size}");
                }
            }
        }
    }
}
