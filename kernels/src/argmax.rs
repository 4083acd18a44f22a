//! Where the greatest value along an axis is.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    axis::Along,
    order::{first_maximum, is_greater},
    simd::wide,
    sweep::for_each_piece,
};

use quarterturn_core::{Device, HostBuffer, Tensor};

/// `y[…] = argmax_k x[…, k, …]` along `axis`, which is removed: the index of the greatest value, stored as a number. Of
/// equal values the first counts. The result is NaN where a value is NaN. There is no gradient.
///
/// For logits `[N, K, …]` and axis 1 these are the predicted classes.
///
/// # Panics
/// If `axis` is not one of `x`, or is empty.
#[track_caller]
pub fn argmax(x: &Tensor, axis: usize) -> Tensor {
    let along = Along::of("argmax", x.shape(), axis);
    assert!(along.extent > 0, "argmax: expected an axis that is not empty, got {axis} of {:?}", x.shape());
    let shape = along.without(x.shape());
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            for_each_piece(x.f32s(), along.len().max(1), &mut y, along.inner.max(1), &|_, x, y| match along.inner {
                1 => {
                    let best = first_maximum(x.iter().copied());
                    y[0] = if x[best].is_nan() { f32::NAN } else { best as f32 };
                }
                _ => best_of_columns(x, y),
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let best = |place: usize| {
                let column = along.column(x.f64s(), place);
                let best = first_maximum(column.iter().copied());
                if column[best].is_nan() { f64::NAN } else { best as f64 }
            };
            Tensor::reference(shape, (0..shape.len()).map(best).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let words = [along.extent as u32, along.inner as u32, f32::NAN.to_bits()];
            launch::each(&gpu, launch::kernel("argmax", SHADER), &[], &[x], shape, &words)
        }
    }
}

wide! {
    /// Of columns side by side, as many as there are results.
    fn best_of_columns(x: &[f32], y: &mut [f32]) {
        const BLOCK: usize = 256;
        let inner = y.len();
        for (block, y) in y.chunks_mut(BLOCK).enumerate() {
            let mut max = [f32::NEG_INFINITY; BLOCK];
            y.fill(0.0);
            for (k, row) in x.chunks_exact(inner).enumerate() {
                for ((y, max), &v) in y.iter_mut().zip(&mut max).zip(&row[block * BLOCK..]) {
                    let new = is_greater(&v, max);
                    *y = if new { k as f32 } else { *y };
                    *max = if new { v } else { *max };
                }
            }
            for (y, max) in y.iter_mut().zip(&max) {
                *y = if max.is_nan() { f32::NAN } else { *y };
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("argmax.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{Tolerance, all_elements, check, check_equivariant, devices_and_reference, random};

    #[test]
    fn parity() {
        let cases: [(&[usize], usize); 8] = [
            (&[1], 0),
            (&[5, 10], 1),
            (&[3000, 17], 1),
            (&[10, 300], 0),
            (&[2, 3, 17, 16], 1),
            (&[2, 3, 4, 5, 5], 2),
            (&[7, 5, 8, 28, 28], 2),
            (&[3, 1, 4], 1),
        ];
        for (dims, axis) in cases {
            let name = format!("{dims:?}, axis {axis}");
            check(&name, &[&random(dims, 1)], Tolerance::Exact, |t| vec![argmax(&t[0], axis)]);
        }
    }

    #[test]
    fn the_first_of_equal_values_wins_and_nan_is_no_answer() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let rows = [[1.0, 2.0, 2.0], [0.0; 3], [nan, 0.0, 1.0], [0.0, inf, nan], [-inf, inf, inf], [-inf; 3]];
        let expected = [1.0, 0.0, nan, nan, 1.0, 0.0];
        for device in devices_and_reference() {
            let x = Tensor::from_vec([6, 3], rows.concat(), &device).unwrap();
            for (x, axis) in [(x.clone(), 1), (crate::permute(&x, &[1, 0]), 0)] {
                let y = argmax(&x, axis).to_vec().unwrap();
                let same = y.iter().zip(expected).all(|(&y, e)| y == e || (y.is_nan() && e.is_nan()));
                assert!(same, "axis {axis} on {device}: {y:?}");
            }
        }
    }

    #[test]
    fn every_bit_is_kept_under_all_symmetries() {
        for (height, width) in [(1, 1), (5, 5), (4, 7), (17, 33)] {
            let shape = [2, 5, 1, height, width];
            check_equivariant("classes", shape, &all_elements(), true, |x| {
                let y = argmax(x, 1);
                y.reshape([2, 1, 1, y.dims()[2], y.dims()[3]])
            });
        }
    }

    #[test]
    #[should_panic(expected = "argmax: expected an axis that is not empty, got 1 of [2, 0]")]
    fn an_empty_axis_is_refused() {
        argmax(&random([2, 0], 1), 1);
    }
}
