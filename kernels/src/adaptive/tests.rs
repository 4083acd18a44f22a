//! The choice, and what is sampled by it, turn with the map in every bit; and nothing does without it.

use super::*;
use crate::{
    Conv, Group, group_conv, max_pool,
    parity::{Tolerance, check, check_adjoint, devices_and_reference, random, same_bits},
    transform_feature_map,
};
use quarterturn_core::testing;

const HALVING: Window = Window { kernel_size: 2, stride: 2, padding: 0 };
const SIZES: [usize; 11] = [5, 6, 7, 8, 9, 10, 11, 12, 13, 26, 28];

/// Random images, a blank one, one that is its own half turn and one that is its own reflection.
fn maps(group: Group, extent: usize) -> Tensor {
    let shape = [2, 3, group.order(), extent, extent];
    let x = random(shape, extent as u32);
    let symmetric = |g: usize| crate::add(&x, &transform_feature_map(&x, g, group));
    let parts = [x.clone(), symmetric(2), symmetric(group.order() - 1), crate::scale(&x, 0.0)];
    let values: Vec<f64> = parts.iter().flat_map(|part| part.f64s().to_vec()).collect();
    // In f32, so that every device has the same.
    let values = values.into_iter().map(|v| f64::from(v as f32)).collect();
    Tensor::reference([8, 3, group.order(), extent, extent], values)
}

/// The elements that do not commute with `f`, on each device.
fn broken(group: Group, x: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Vec<(String, Vec<usize>)> {
    let on = |device: Device| {
        let x = x.to_device(&device).unwrap();
        let y = f(&x);
        let turned = |g: &usize| {
            let got = f(&transform_feature_map(&x, *g, group));
            !same_bits(&got, &transform_feature_map(&y, *g, group))
        };
        (device.to_string(), group.elements().filter(turned).collect())
    };
    testing::devices().into_iter().map(on).collect()
}

#[track_caller]
fn assert_exact(name: &str, group: Group, x: &Tensor, f: impl Fn(&Tensor) -> Tensor) {
    for (device, elements) in broken(group, x, f) {
        assert!(elements.is_empty(), "{name} {group} on {device}: elements {elements:?} do not commute");
    }
}

#[test]
fn subsampling_is_exact_at_every_size_and_plainly_it_is_not() {
    for group in [Group::C4, Group::D4] {
        for extent in SIZES {
            let x = maps(group, extent);
            assert_exact(&format!("subsample {extent}"), group, &x, |x| subsample(x, &choose_grid(x)));
            let back = |x: &Tensor| {
                let choice = choose_grid(x);
                upsample(&subsample(x, &choice), &choice)
            };
            assert_exact(&format!("down and up {extent}"), group, &x, back);
            let plain = |x: &Tensor| max_pool(x, Window { kernel_size: 1, stride: 2, padding: 0 });
            for (device, elements) in broken(group, &x, plain) {
                assert_eq!(elements.is_empty(), extent % 2 == 1, "plain {extent} {group} on {device}: {elements:?}");
            }
        }
    }
}

#[test]
fn pools_are_exact_at_every_size_and_plain_ones_are_not() {
    for group in [Group::C4, Group::D4] {
        for extent in [5, 6, 13, 28, 29] {
            let x = maps(group, extent);
            for (kernel_size, padding) in [(2, 0), (3, 1), (3, 0)] {
                let window = Window { kernel_size, stride: 2, padding };
                let name = format!("{extent} {window:?}");
                assert_exact(&format!("max {name}"), group, &x, |x| adaptive_max_pool(x, window).0);
                assert_exact(&format!("avg {name}"), group, &x, |x| adaptive_avg_pool(x, window).0);
                let residual = (extent + 2 * padding - kernel_size) % 2;
                for (device, elements) in broken(group, &x, |x| max_pool(x, window)) {
                    assert_eq!(elements.is_empty(), residual == 0, "plain {name} {group} on {device}: {elements:?}");
                }
            }
        }
    }
}

/// As a layer does it: the input chooses, and branch and shortcut follow.
fn strided(x: &Tensor, weight: &Tensor, conv: Conv, choice: &GridChoice) -> Tensor {
    let window = Window { kernel_size: weight.shape()[3], stride: conv.stride, padding: conv.padding };
    let (moved, window) = move_onto_grid(x, choice, window);
    group_conv(&moved, weight, None, Conv { padding: window.padding, ..conv })
}

#[test]
fn strided_convolutions_are_exact_at_every_size_and_share_a_choice() {
    for group in [Group::C4, Group::D4] {
        let order = group.order();
        for extent in [6, 7, 12] {
            let x = maps(group, extent);
            for (k, padding) in [(3, 1), (3, 0), (1, 0), (2, 0), (4, 1), (3, 2)] {
                let conv = Conv { stride: 2, padding, ..Conv::new(group) };
                let window = Window { kernel_size: k, stride: 2, padding };
                let weight = random([2, 3, order, k, k], 7);
                let own = |x: &Tensor| {
                    let weight = weight.to_device(&x.device()).unwrap();
                    strided(x, &weight, conv, &choose_grid_of_windows(x, window))
                };
                assert_exact(&format!("conv {extent} {window:?}"), group, &x, own);
            }
            // A block: 3 × 3 and, beside it, 1 × 1.
            let weights = [random([2, 3, order, 3, 3], 7), random([2, 3, order, 1, 1], 8)];
            let block = |x: &Tensor| {
                let [branch, shortcut] = [0, 1].map(|i| weights[i].to_device(&x.device()).unwrap());
                let choice = choose_grid_of_windows(x, Window { kernel_size: 3, stride: 2, padding: 1 });
                let branch = strided(x, &branch, Conv { stride: 2, padding: 1, ..Conv::new(group) }, &choice);
                crate::add(&branch, &strided(x, &shortcut, Conv { stride: 2, ..Conv::new(group) }, &choice))
            };
            assert_exact(&format!("block {extent}"), group, &x, block);
        }
    }
}

/// Where the plain windows leave nothing over, results are theirs; and the fused pool is what it says.
#[test]
fn the_plain_results_where_the_rule_holds_and_the_composed_ones_elsewhere() {
    for device in devices_and_reference() {
        for (extent, window) in [(6, HALVING), (7, HALVING), (9, Window { kernel_size: 3, stride: 2, padding: 1 })] {
            for shape in [[2, 3, 4, extent, extent], [2, 1, 4, extent, extent + 1], [3, 2, 1, extent + 1, extent]] {
                // Far below 0, the largest magnitude is not that of the greatest sample.
                for shift in [0.0, -3.0] {
                    let name = format!("{shape:?} {shift} {window:?} on {device}");
                    let samples = random(shape, 3).f64s().iter().map(|v| v + shift).collect();
                    let x = Tensor::reference(shape, samples).to_device(&device).unwrap();
                    let (y, choice) = adaptive_max_pool(&x, window);
                    let made = max_pool(&x, Window { stride: 1, ..window });
                    let same = choose_grid(&made);
                    assert!(same_bits(choice.weights(), same.weights()), "{name}");
                    assert!(same_bits(&y, &subsample(&made, &same)), "{name}");
                    if !choice.is_open() {
                        assert!(same_bits(&y, &max_pool(&x, window)), "{name}");
                    }
                }
            }
        }
        let (x, conv) = (random([2, 3, 4, 7, 7], 1), Conv { stride: 2, padding: 1, ..Conv::new(Group::C4) });
        let [x, weight] = [x, random([2, 3, 4, 3, 3], 2)].map(|t| t.to_device(&device).unwrap());
        let choice = choose_grid_of_windows(&x, Window { kernel_size: 3, stride: 2, padding: 1 });
        assert!(same_bits(&strided(&x, &weight, conv, &choice), &group_conv(&x, &weight, None, conv)), "{device}");
    }
}

#[test]
fn parity_and_adjoints() {
    for (shape, window) in [
        ([3, 2, 4, 6, 6], HALVING),
        ([2, 3, 1, 7, 8], HALVING),
        ([2, 1, 4, 29, 29], HALVING),
        ([1, 70, 4, 9, 9], HALVING),
        ([3, 2, 4, 6, 5], Window { kernel_size: 3, stride: 2, padding: 1 }),
        ([2, 2, 1, 8, 33], Window { kernel_size: 3, stride: 2, padding: 2 }),
        ([1, 1, 1, 40, 300], Window { kernel_size: 4, stride: 2, padding: 0 }),
    ] {
        let name = format!("{shape:?} {window:?}");
        let x = random(shape, 1);
        check(&name, &[&x], Tolerance::Exact, |t| {
            let choice = choose_grid(&t[0]);
            vec![choice.weights().clone(), subsample(&t[0], &choice)]
        });
        let (y, _) = adaptive_max_pool(&x, window);
        let dy = random(y.shape(), 2);
        check(&format!("max {name}"), &[&x, &dy], Tolerance::Terms(9), |t| {
            let (y, choice) = adaptive_max_pool(&t[0], window);
            let dx = adaptive_max_pool_vjp(&t[0], &t[1], window, &choice);
            vec![choice.weights().clone(), y, dx]
        });
        check(&format!("avg {name}"), &[&x, &dy], Tolerance::Terms(16), |t| {
            let (y, choice) = adaptive_avg_pool(&t[0], window);
            vec![y, adaptive_avg_pool_vjp(&t[1], t[0].shape(), window, &choice)]
        });
        check(&format!("windows {name}"), &[&x], Tolerance::Exact, |t| {
            let choice = choose_grid_of_windows(&t[0], window);
            vec![choice.weights().clone(), move_onto_grid(&t[0], &choice, window).0]
        });
        // A choice of one grid, and one with ties.
        for chooser in [x.clone(), crate::scale(&x, 0.0)] {
            let chosen = |x: &Tensor| choose_grid(&chooser.to_device(&x.device()).unwrap());
            check_adjoint(&name, shape, |x| subsample(x, &chosen(x)), |dy| upsample(dy, &chosen(dy)));
            let chosen = |x: &Tensor| choose_grid_of_windows(&chooser.to_device(&x.device()).unwrap(), window);
            let there = |x: &Tensor| move_onto_grid(x, &chosen(x), window).0;
            check_adjoint(&name, shape, there, |dy| move_onto_grid_vjp(dy, x.shape(), &chosen(dy), window));
        }
    }
}

/// Of three kinds of ties, and of a choice by hand.
#[test]
fn grids_by_hand() {
    for device in devices_and_reference() {
        let on = |values: Vec<f32>| Tensor::from_vec([1, 1, 2, 2], values, &device).unwrap();
        let sampled = |values: Vec<f32>| {
            let x = on(values);
            let choice = choose_grid(&x);
            (choice.weights().to_vec().unwrap(), subsample(&x, &choice).to_vec().unwrap()[0])
        };
        assert_eq!(sampled(vec![1.0, -3.0, 2.0, 0.5]), (vec![0.0, 1.0, 0.0, 0.0], -3.0), "{device}");
        assert_eq!(sampled(vec![1.0, -3.0, 3.0, 0.5]), (vec![0.0, 0.5, 0.5, 0.0], 0.0), "{device}");
        assert_eq!(sampled(vec![2.0, 2.0, -2.0, 2.0]), (vec![0.25; 4], 1.0), "{device}");
        assert_eq!(sampled(vec![1e30, 8e37, -7e37, 1e-30]), (vec![0.0, 1.0, 0.0, 0.0], 8e37), "{device}");
        assert_eq!(sampled(vec![0.0, 0.0, f32::INFINITY, 7.0]).1, f32::INFINITY, "{device}");
        let up =
            upsample(&Tensor::from_vec([1, 1, 1, 1], vec![6.0], &device).unwrap(), &choose_grid(&on(vec![3.0; 4])));
        assert_eq!(up.to_vec().unwrap(), [1.5; 4]);
    }
}

/// Each plane has a scale of its own: one that is huge does not silence the choice of an image without it.
#[test]
fn images_and_scales_do_not_mix() {
    let mut x = random([3, 2, 4, 8, 8], 1).f64s().to_vec();
    let image = x.len() / 3;
    x[image..2 * image].iter_mut().for_each(|v| *v *= 1e20);
    x[2 * image..].iter_mut().for_each(|v| *v *= 1e-20);
    for device in devices_and_reference() {
        let all = Tensor::from_f64([3, 2, 4, 8, 8], x.clone(), &device).unwrap();
        let chosen = choose_grid(&all).weights().to_vec().unwrap();
        for n in 0..3 {
            let one = Tensor::from_f64([1, 2, 4, 8, 8], x[n * image..][..image].to_vec(), &device).unwrap();
            assert_eq!(choose_grid(&one).weights().to_vec().unwrap(), chosen[4 * n..][..4], "{device}, image {n}");
            assert!(chosen[4 * n..][..4].contains(&1.0), "{device}, image {n}: a grid is chosen");
        }
    }
}

#[test]
fn a_nan_anywhere_makes_its_image_nan_however_it_lies() {
    for device in testing::devices() {
        for place in 0..36 {
            let mut values = random([2, 1, 1, 6, 6], 5).to_vec().unwrap();
            values[place] = f32::NAN;
            let x = Tensor::from_vec([2, 1, 1, 6, 6], values, &device).unwrap();
            let y = subsample(&x, &choose_grid(&x)).to_vec().unwrap();
            let window = Window { kernel_size: 3, stride: 2, padding: 1 };
            let (pooled, choice) = adaptive_max_pool(&x, window);
            let pooled = pooled.to_vec().unwrap();
            let back = upsample(&subsample(&x, &choice), &choice).to_vec().unwrap();
            for (name, y) in [("subsampled", y), ("pooled", pooled), ("back", back)] {
                let (first, second) = y.split_at(y.len() / 2);
                assert!(first.iter().all(|v| v.is_nan()), "{name} on {device}, place {place}");
                assert!(second.iter().all(|v| v.is_finite()), "{name} on {device}, place {place}");
            }
        }
    }
}

/// An even shift of a map on a torus shifts what is sampled, and an odd one too: the grid goes with it.
#[test]
fn shifts_of_a_circular_map_shift_the_result() {
    let (extent, x) = (8, random([1, 3, 4, 8, 8], 9).to_device(&Device::Cpu).unwrap());
    let shifted = |x: &Tensor, extent: usize, [down, right]: [usize; 2]| {
        let values = x.f32s().chunks_exact(extent * extent).flat_map(|plane| {
            (0..extent * extent).map(move |at| {
                let (row, column) = (at / extent + extent - down, at % extent + extent - right);
                plane[row % extent * extent + column % extent]
            })
        });
        Tensor::cpu(x.shape(), values.collect())
    };
    let y = subsample(&x, &choose_grid(&x));
    let [a, b] = {
        let grid = choose_grid(&x).weights().f32s().iter().position(|&w| w == 1.0).unwrap();
        [grid / 2, grid % 2]
    };
    for by in (0..4).flat_map(|down| (0..4).map(move |right| [down, right])) {
        let moved = shifted(&x, extent, by);
        let got = subsample(&moved, &choose_grid(&moved));
        let expected = shifted(&y, extent / 2, [(by[0] + a) / 2, (by[1] + b) / 2]);
        assert_eq!(got.f32s(), expected.f32s(), "{by:?}");
    }
}

#[test]
#[should_panic(expected = "only a stride of 2 has four grids")]
fn larger_strides_are_refused() {
    choose_grid_of_windows(&random([1, 1, 9, 9], 1), Window { kernel_size: 3, stride: 3, padding: 1 });
}

#[test]
#[should_panic(expected = "subsample: expected [2, 1, 6, 6], got [2, 1, 5, 6]")]
fn a_map_of_other_extents_is_refused() {
    subsample(&random([2, 1, 5, 6], 1), &choose_grid(&random([2, 3, 6, 6], 1)));
}
