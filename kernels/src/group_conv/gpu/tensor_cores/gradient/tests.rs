use super::*;
use crate::{
    group_conv,
    group_conv::{
        Conv, Extents,
        gpu::tensor_cores::tests::{SHAPES, alike, error, gpu},
        tests::{close, operands, random},
    },
    group_conv_dw, transform_plane,
};
use quarterturn_core::{
    gpu::{GpuOptions, TensorCores},
    window_residual,
};

/// The gradient of a weight in fp32, and on the units.
fn both(pass: &Pass, gpu: &Gpu, x: &Tensor, dy: &Tensor, weight: Shape) -> [Vec<f32>; 2] {
    let cut = pass.cut(gpu).expect("a shape for the units");
    let lengths = [weight.len(), pass.c_out];
    let [plain, _] = pass.weight_gradient_fp32(gpu, x.buffer(), dy.buffer(), lengths);
    let [on_units, _] = pass.weight_gradient_matrices(cut, gpu, x.buffer(), dy.buffer(), lengths);
    [plain.read().unwrap(), on_units.read().unwrap()]
}

fn pass_of(x: &Tensor, weight: &Tensor, conv: Conv) -> (Pass, Shape) {
    let e = Extents::new("test", x.shape(), weight.shape(), conv);
    (Pass::forward(&e, conv), e.y())
}

/// The same values but those that `change` changes, by their index.
fn changed(t: &Tensor, change: impl Fn(usize, f32) -> f32) -> Tensor {
    let values = t.to_vec().unwrap().into_iter().enumerate().map(|(i, v)| change(i, v)).collect();
    Tensor::from_vec(t.shape(), values, &t.device()).unwrap()
}

#[test]
fn gradients_of_wide_weights_use_the_units() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let adapter = Some(gpu.adapter().name.clone());
    for (c_in, c_out, launches) in [(16, 16, 4), (15, 16, 2)] {
        let own = Gpu::open(&GpuOptions { adapter: adapter.clone(), ..GpuOptions::default() }).unwrap();
        let device = Device::Gpu(own.clone());
        let (x, weight, _, conv) = operands((Group::C4, false, 1, c_in, c_out, 5, 5, 3, 1, 1, 1), &device);
        let dy = random(pass_of(&x, &weight, conv).1, 4, &device);
        super::super::tensor_core_use(&own);
        let before = own.statistics().launches;
        let gradients = group_conv_dw(&x, &dy, weight.shape(), conv);
        assert_eq!(own.statistics().launches - before, launches, "{c_in} {c_out}");
        drop(gradients);
    }
}

#[test]
fn the_units_agree_with_the_reference() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu);
    for &case in SHAPES {
        let (x, weight, bias, conv) = operands(case, &Device::Reference);
        let dy = random(group_conv(&x, &weight, Some(&bias), conv).shape(), 4, &Device::Reference);
        let (dw, db) = group_conv_dw(&x, &dy, weight.shape(), conv);
        let there = [&x, &dy].map(|t| t.to_device(&device).unwrap());
        let (got_w, got_b) = group_conv_dw(&there[0], &there[1], weight.shape(), conv);
        close(&format!("dw {case:?}"), &got_w, &dw, 2e-6);
        close(&format!("db {case:?}"), &got_b, &db, 2e-6);
    }
}

/// A turn changes the order of the sum. Where no order is rounded, all bits are kept at exact sizes, and not at others.
#[test]
fn of_whole_numbers_every_turn_keeps_every_bit() {
    for wanted in [TensorCores::Accurate, TensorCores::Fast] {
        let Some(gpu) = gpu(wanted) else { return };
        let device = Device::Gpu(gpu.clone());
        let some = if wanted == TensorCores::Fast { 5 } else { 1 };
        for &(group, lift, n, c_in, c_out, size, _, k, stride, padding, dilation) in SHAPES.iter().step_by(some) {
            let window = dilation * (k - 1) + 1;
            let exact = size + (stride - (size + 2 * padding - window) % stride) % stride;
            for size in [size, exact] {
                let case = (group, lift, n, c_in, c_out, size, size, k, stride, padding, dilation);
                let (x, weight, _, conv) = operands(case, &device);
                let (pass, y) = pass_of(&x, &weight, conv);
                let (x, dy) = (whole_numbers(x.shape(), 1, &gpu).unwrap(), whole_numbers(y, 2, &gpu).unwrap());
                let [plain, got] = both(&pass, &gpu, &x, &dy, weight.shape());
                assert!(got == plain, "{case:?}, {wanted:?}");
                let exact = window_residual(size, window, stride, padding) == Some(0);
                for g in group.elements().skip(1) {
                    let turned = if lift { transform_plane(&x, g) } else { transform_feature_map(&x, g, group) };
                    let turned_dy = transform_feature_map(&dy, g, group);
                    let [_, turned] = both(&pass, &gpu, &turned, &turned_dy, weight.shape());
                    assert_eq!(turned == got, exact || g == 5, "{case:?}, element {g}, {wanted:?}");
                }
            }
        }
    }
}

/// Three products of halves are as accurate as fp32, one is as accurate as a half.
#[test]
fn errors_are_bounded() {
    for group in [Group::C4, Group::D4] {
        for wanted in [TensorCores::Accurate, TensorCores::Fast] {
            let Some(gpu) = gpu(wanted) else { return };
            let (x, weight, _, conv) =
                operands((group, false, 3, 16, 16, 20, 20, 3, 1, 1, 1), &Device::Gpu(gpu.clone()));
            let x = crate::relu(&x);
            let (pass, y) = pass_of(&x, &weight, conv);
            let dy = random(y, 4, &Device::Gpu(gpu.clone()));
            let there = [&x, &dy].map(|t| t.to_device(&Device::Reference).unwrap());
            let expected = group_conv_dw(&there[0], &there[1], weight.shape(), conv).0.to_f64().unwrap();
            let [fp32, on_units] = both(&pass, &gpu, &x, &dy, weight.shape()).map(|dw| error(&dw, &expected));
            println!("dw on {group}, 1200 windows, {wanted:?}: {on_units:.1e} of the largest, fp32 {fp32:.1e}");
            match wanted {
                TensorCores::Fast => assert!((1e-5..1e-3).contains(&on_units), "{group} {on_units:e}"),
                _ => assert!(on_units <= fp32.max(4e-7), "{group} {on_units:e}, fp32 {fp32:e}"),
            }
        }
    }
}

/// Halves reach from 2⁻²⁴ to 65504. Samples and dy may be anything, each channel on its own.
#[test]
fn nothing_is_lost_where_halves_end() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu.clone());
    for group in [Group::C4, Group::D4] {
        let (x, weight, _, conv) = operands((group, false, 2, 16, 17, 7, 7, 3, 1, 1, 1), &device);
        let (pass, y) = pass_of(&x, &weight, conv);
        let dy = random(y, 4, &device);
        let order = group.order();
        let run = |x: &Tensor, dy: &Tensor| both(&pass, &gpu, x, dy, weight.shape());
        let two = |exponent: i32| 2f32.powi(exponent);
        let [_, plain] = run(&x, &dy);
        // Powers of two change exponents only.
        for (of_x, of_dy) in [(40, -40), (-40, 40), (-40, 20), (100, -90), (-100, 80), (-60, -40), (117, -60), (60, 50)]
        {
            let [_, got] = run(&changed(&x, |_, v| v * two(of_x)), &changed(&dy, |_, v| v * two(of_dy)));
            assert!(got.iter().zip(&plain).all(|(a, b)| *a == b * two(of_x + of_dy)), "{group}: 2^{of_x}, 2^{of_dy}");
        }
        // Of one channel, too: no other channel has another bit.
        let (channel_x, channel_dy) = (order * 49, order * 49);
        let large_x = changed(&x, |i, v| if i / channel_x % 16 == 3 { v * two(60) } else { v });
        let small_dy = changed(&dy, |i, v| if i / channel_dy % 17 == 5 { v * two(-60) } else { v });
        let [_, got] = run(&large_x, &small_dy);
        let channel = order * 9;
        for (i, (a, b)) in got.iter().zip(&plain).enumerate() {
            let of_x = if i / channel % 16 == 3 { 60 } else { 0 };
            let exponent = of_x - if i / channel / 16 == 5 { 60 } else { 0 };
            assert!(*a == b * two(exponent), "{group}: {a} at {i}, should be {b}·2^{exponent}");
        }
        // Close to the largest float sums may overflow: then in fp32.
        let [fp32, got] = run(&changed(&x, |_, v| v * two(126)), &changed(&dy, |_, v| v * two(-20)));
        let largest = fp32.iter().fold(0f32, |most, v| most.max(v.abs()));
        assert!(got.iter().zip(&fp32).all(|(a, b)| alike(*a, *b) || (a - b).abs() <= largest * 1e-6), "{group}");
        let zeros = changed(&x, |_, _| 0.0);
        assert!(run(&zeros, &dy)[1].iter().all(|v| *v == 0.0));
        assert!(run(&x, &changed(&dy, |_, _| 0.0))[1].iter().all(|v| *v == 0.0));
    }
}

/// NaN and infinities are where they are in fp32, and nowhere else. Other channels keep every bit.
#[test]
fn what_is_not_finite_is_as_in_fp32() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu.clone());
    for group in [Group::C4, Group::D4] {
        let (x, weight, _, conv) = operands((group, false, 1, 16, 16, 7, 7, 3, 1, 1, 1), &device);
        let (pass, y) = pass_of(&x, &weight, conv);
        let dy = random(y, 4, &device);
        let [_, plain] = both(&pass, &gpu, &x, &dy, weight.shape());
        let (channel, filter) = (group.order() * 49, group.order() * 9);
        // In a corner: taps that never meet it are finite.
        let at = 3 * channel;
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let with = |t: &Tensor| changed(t, |i, v| if i == at { bad } else { v });
            for (what, x, dy) in [("x", with(&x), dy.clone()), ("dy", x.clone(), with(&dy))] {
                let [fp32, got] = both(&pass, &gpu, &x, &dy, weight.shape());
                let largest = plain.iter().fold(0f32, |most, v| most.max(v.abs()));
                let mut spoilt = 0;
                for (i, (a, b)) in fp32.iter().zip(&got).enumerate() {
                    let number = if what == "x" { i / filter % 16 } else { i / filter / 16 };
                    if number != 3 {
                        assert!(*b == plain[i], "{group} {bad} in {what}: {b} at {i}, should be {}", plain[i]);
                    } else if a.is_finite() {
                        assert!((a - b).abs() <= largest * 1e-6, "{group} {bad} in {what}: {a}, {b} at {i}");
                    } else {
                        spoilt += 1;
                        assert!(alike(*a, *b), "{group} {bad} in {what}: {a}, {b} at {i}");
                    }
                }
                assert!(spoilt > 0 && spoilt < got.len(), "{group} {bad} in {what}: {spoilt}");
            }
        }
    }
}

/// How a sum is cut among workgroups changes no bit.
#[test]
fn no_cut_changes_a_bit() {
    let Some(gpu) = gpu(TensorCores::Accurate) else { return };
    let device = Device::Gpu(gpu.clone());
    for group in [Group::C4, Group::D4] {
        let (x, weight, _, conv) = operands((group, false, 5, 17, 40, 5, 6, 3, 1, 1, 1), &device);
        let (pass, y) = pass_of(&x, &weight, conv);
        let dy = random(y, 4, &device);
        let cut = pass.cut(&gpu).unwrap();
        assert!(cut.chunks > 1, "{cut:?}");
        let run = |cut: Cut| {
            pass.weight_gradient_matrices(cut, &gpu, x.buffer(), dy.buffer(), [weight.shape().len(), 40])
                .map(|gradient| gradient.read().unwrap())
        };
        let all = run(cut);
        let mut tried = 0;
        for [rows, cols] in [[1, 1], [1, 2], [2, 1], [1, 3], [2, 4]] {
            for span in SPANS {
                let (bands, parts) = (cut.terms.div_ceil(rows * cut.size()), 40usize.div_ceil(cols * cut.size()));
                let other = Cut { rows, cols, span, bands, parts, ..cut };
                if other.memory() <= gpu.workgroup_memory() {
                    assert!(run(other) == all, "{group} {other:?}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 3, "{group}: {tried}");
    }
}

/// What a launch says of its workgroup memory is what the shader uses. Needs no GPU.
#[test]
fn the_stated_workgroup_memory_is_right() {
    for (size, subgroup) in [(8, 8), (16, 32), (16, 64)] {
        for (group, split, k) in
            [(Group::C4, true, 3), (Group::C4, false, 1), (Group::D4, true, 3), (Group::D4, false, 2)]
        {
            let shapes = [[1, 17, group.order(), 6, 6], [70, 17, group.order(), k, k]].map(Shape::from);
            let conv = Conv::new(group);
            let pass = Pass::forward(&Extents::new("test", shapes[0], shapes[1], conv), conv);
            let cut = Cut::of(&pass, MatrixUnits { size, subgroup }, split, 49_152).unwrap();
            let (kernel, overrides) = cut.kernel(&pass);
            let bytes = crate::group_conv::gpu::tests::workgroup_bytes(&kernel, &overrides);
            assert_eq!(bytes, kernel.workgroup_memory(), "{group} {size} {split} {k}");
        }
    }
}
