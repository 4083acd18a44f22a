//! Matrix product and linear layer.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{jobs::for_each_chunk, simd::wide, sweep::PIECE};
#[cfg(feature = "gpu")]
use quarterturn_core::{
    Shape,
    gpu::{Gpu, Size},
};

use quarterturn_core::{Device, HostBuffer, Tensor, common_device};
use std::borrow::Cow;

/// `y[m, n] = Σ_k a[m, k] b[k, n]`; `transpose_a` reads `a` as `[k, m]`, `transpose_b` reads `b` as `[n, k]`.
///
/// On the CPU every element is one `f32` sum in the order of `k`.
///
/// # Panics
/// If `a` or `b` is not a matrix, the inner extents differ, or the devices do.
#[track_caller]
pub fn matmul(a: &Tensor, b: &Tensor, transpose_a: bool, transpose_b: bool) -> Tensor {
    let device = common_device("matmul", &[a, b]);
    let (m, k, n) = product_extents(a, b, transpose_a, transpose_b);
    match device {
        Device::Cpu => {
            let a = if transpose_a { Cow::Owned(transposed(a.f32s(), k, m)) } else { Cow::Borrowed(a.f32s()) };
            let b = if transpose_b { Cow::Owned(transposed(b.f32s(), n, k)) } else { Cow::Borrowed(b.f32s()) };
            let mut y = HostBuffer::zeros(m * n);
            accumulate_product(&a, &b, &mut y, k, n);
            Tensor::cpu([m, n], y)
        }
        Device::Reference => {
            let (av, bv) = (a.f64s(), b.f64s());
            let at = |i: usize, l: usize| if transpose_a { av[l * m + i] } else { av[i * k + l] };
            let bt = |l: usize, j: usize| if transpose_b { bv[j * k + l] } else { bv[l * n + j] };
            let mut y = vec![0.0; m * n];
            for i in 0..m {
                for j in 0..n {
                    y[i * n + j] = (0..k).map(|l| at(i, l) * bt(l, j)).sum();
                }
            }
            Tensor::reference([m, n], y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_product(&gpu, "matmul", &[a, b], (m, k, n), transpose_a, transpose_b),
    }
}

/// `y[n, o] = Σ_i x[n, i] weight[o, i] + bias[o]`: `[N, I]`, `[O, I]`, `[O]` → `[N, O]`.
/// Gradients are matmuls and [`sum_rows`].
///
/// # Panics
/// If the shapes do not fit or the devices differ.
#[track_caller]
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    assert!(
        x.shape().rank() == 2 && weight.shape().rank() == 2 && x.shape()[1] == weight.shape()[1],
        "linear: expected x [N, I] and weight [O, I], got {:?} and {:?}",
        x.shape(),
        weight.shape()
    );
    let Some(bias) = bias else { return matmul(x, weight, false, true) };
    let (n, inputs, outputs) = (x.shape()[0], x.shape()[1], weight.shape()[0]);
    assert_eq!(bias.dims(), [outputs], "linear: expected bias [{outputs}], got {:?}", bias.shape());
    match common_device("linear", &[x, weight, bias]) {
        Device::Cpu => {
            let weight = transposed(weight.f32s(), outputs, inputs);
            // The bias comes last, as in the formula: a sum that starts from it would round differently.
            let mut y = HostBuffer::zeros(n * outputs);
            accumulate_product(x.f32s(), &weight, &mut y, inputs, outputs);
            for row in y.chunks_exact_mut(outputs.max(1)) {
                for (y, &b) in row.iter_mut().zip(bias.f32s()) {
                    *y += b;
                }
            }
            Tensor::cpu([n, outputs], y)
        }
        Device::Reference => {
            let (x, w, b) = (x.f64s(), weight.f64s(), bias.f64s());
            let mut y = vec![0.0; n * outputs];
            for row in 0..n {
                for o in 0..outputs {
                    let products = (0..inputs).map(|i| x[row * inputs + i] * w[o * inputs + i]);
                    y[row * outputs + o] = products.sum::<f64>() + b[o];
                }
            }
            Tensor::reference([n, outputs], y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_product(&gpu, "linear", &[x, weight, bias], (n, inputs, outputs), false, true),
    }
}

/// `y[o] = Σ_n x[n, o]`: `[N, O]` → `[O]`; on the CPU summed in `f64` in the order of `n`.
///
/// # Panics
/// If `x` is not a matrix.
#[track_caller]
pub fn sum_rows(x: &Tensor) -> Tensor {
    assert_eq!(x.shape().rank(), 2, "sum_rows: expected a matrix, got {:?}", x.shape());
    let columns = x.shape()[1];
    let mut y = vec![0f64; columns];
    match x.device() {
        Device::Cpu => {
            for row in x.f32s().chunks_exact(columns.max(1)) {
                for (y, &v) in y.iter_mut().zip(row) {
                    *y += f64::from(v);
                }
            }
            Tensor::cpu([columns], y.into_iter().map(|v| v as f32).collect())
        }
        Device::Reference => {
            for row in x.f64s().chunks_exact(columns.max(1)) {
                for (y, &v) in y.iter_mut().zip(row) {
                    *y += v;
                }
            }
            Tensor::reference([columns], y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let extents = [x.shape()[0] as u32, 0, columns as u32];
            let kernel = launch::kernel("sum_rows", SHADER).workgroup(64, 4 * 64);
            launch::result(&gpu, kernel, &[], &[x], Shape::from([columns]), &extents, Size::Groups(columns))
        }
    }
}

/// (m, k, n) of the product.
#[track_caller]
fn product_extents(a: &Tensor, b: &Tensor, transpose_a: bool, transpose_b: bool) -> (usize, usize, usize) {
    let extents = |t: &Tensor, transpose: bool| match *t.dims() {
        [rows, columns] if transpose => Some((columns, rows)),
        [rows, columns] => Some((rows, columns)),
        _ => None,
    };
    match (extents(a, transpose_a), extents(b, transpose_b)) {
        (Some((m, k)), Some((k2, n))) if k == k2 => (m, k, n),
        _ => panic!(
            "matmul: expected [m, k] and [k, n], got {:?}{} and {:?}{}",
            a.shape(),
            if transpose_a { " transposed" } else { "" },
            b.shape(),
            if transpose_b { " transposed" } else { "" }
        ),
    }
}

/// The transpose of a `rows` × `columns` matrix.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    // Squares that fit the first cache, whichever way they are read.
    const TILE: usize = 32;
    let mut y = vec![0.0; rows * columns];
    for row0 in (0..rows).step_by(TILE) {
        for column0 in (0..columns).step_by(TILE) {
            for row in row0..rows.min(row0 + TILE) {
                for column in column0..columns.min(column0 + TILE) {
                    y[column * rows + row] = x[row * columns + column];
                }
            }
        }
    }
    y
}

/// Rows and columns of the block of `y` that stays in registers while `k` runs.
const BLOCK_ROWS: usize = 6;
const BLOCK_COLUMNS: usize = 32;

/// `y += a b` for row-major `a` `[m, k]`, `b` `[k, n]`, `y` `[m, n]`.
fn accumulate_product(a: &[f32], b: &[f32], y: &mut [f32], k: usize, n: usize) {
    if y.is_empty() || k == 0 {
        return;
    }
    let work = y.len() * k;
    if work <= PIECE {
        multiply_rows(a, b, y, k, n);
    } else {
        // Whole row blocks, as many as make a job worthwhile.
        let rows = BLOCK_ROWS * PIECE.div_ceil(BLOCK_ROWS * n * k);
        for_each_chunk(y, rows * n, 1, &|i, y| multiply_rows(&a[i * rows * k..][..y.len() / n * k], b, y, k, n));
    }
}

wide! {
    fn multiply_rows(a: &[f32], b: &[f32], y: &mut [f32], k: usize, n: usize) {
        for (a, y) in a.chunks(BLOCK_ROWS * k).zip(y.chunks_mut(BLOCK_ROWS * n)) {
            let whole = if a.len() == BLOCK_ROWS * k { n - n % BLOCK_COLUMNS } else { 0 };
            for column in (0..whole).step_by(BLOCK_COLUMNS) {
                multiply_block(a, b, y, column, k, n);
            }
            for (a, y) in a.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
                for (&factor, b) in a.iter().zip(b.chunks_exact(n)) {
                    for (y, &b) in y[whole..].iter_mut().zip(&b[whole..]) {
                        *y += factor * b;
                    }
                }
            }
        }
    }
}

/// `BLOCK_COLUMNS` columns of `BLOCK_ROWS` rows.
#[inline(always)]
fn multiply_block(a: &[f32], b: &[f32], y: &mut [f32], column: usize, k: usize, n: usize) {
    let rows: [&[f32]; BLOCK_ROWS] = std::array::from_fn(|row| &a[row * k..][..k]);
    let mut block = [[0f32; BLOCK_COLUMNS]; BLOCK_ROWS];
    for (l, b) in b.chunks_exact(n).enumerate().take(k) {
        let b: &[f32; BLOCK_COLUMNS] = b[column..].first_chunk().expect("a whole block of columns");
        for row in 0..BLOCK_ROWS {
            let factor = rows[row][l];
            let sums = &mut block[row];
            for j in 0..BLOCK_COLUMNS {
                sums[j] += factor * b[j];
            }
        }
    }
    for (row, sums) in block.iter().enumerate() {
        for (y, v) in y[row * n + column..].iter_mut().zip(sums) {
            *y += v;
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("matmul.wgsl"));

/// `matmul` or `linear`: a workgroup for each tile of 16 × 16 results.
#[cfg(feature = "gpu")]
fn gpu_product(
    gpu: &Gpu,
    name: &'static str,
    operands: &[&Tensor],
    (m, k, n): (usize, usize, usize),
    transpose_a: bool,
    transpose_b: bool,
) -> Tensor {
    const TILE: usize = 16;
    let kernel = launch::kernel(name, SHADER).workgroup((TILE * TILE) as u32, (2 * 4 * TILE * TILE) as u32);
    let flag = |flag| f64::from(u8::from(flag));
    let overrides = [("TRANSPOSE_A", flag(transpose_a)), ("TRANSPOSE_B", flag(transpose_b))];
    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
    let extents = [m as u32, k as u32, n as u32];
    launch::result(gpu, kernel, &overrides, operands, Shape::from([m, n]), &extents, Size::Groups(tiles))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{Tolerance, check, check_adjoint, random};

    /// (m, k, n)
    const CASES: [(usize, usize, usize); 11] = [
        (1, 1, 1),
        (1, 10, 10),
        (2, 3, 5),
        (15, 16, 17),
        (17, 1, 65),
        (5, 0, 3),
        (63, 64, 65),
        (65, 63, 64),
        (4, 7, 128),
        (256, 10, 10),
        (130, 129, 131),
    ];

    #[test]
    fn parity() {
        for (m, k, n) in CASES {
            for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
                let a = random(if ta { [k, m] } else { [m, k] }, 1);
                let b = random(if tb { [n, k] } else { [k, n] }, 2);
                check(&format!("matmul {m} {k} {n} {ta} {tb}"), &[&a, &b], Tolerance::Terms(k.max(1)), |t| {
                    vec![matmul(&t[0], &t[1], ta, tb)]
                });
            }
            let (x, weight, bias) = (random([m, k], 3), random([n, k], 4), random([n], 5));
            check(&format!("linear {m} {k} {n}"), &[&x, &weight, &bias], Tolerance::Terms(k + 1), |t| {
                vec![linear(&t[0], &t[1], Some(&t[2])), linear(&t[0], &t[1], None)]
            });
            check(&format!("sum_rows {m} {k}"), &[&x], Tolerance::Terms(m), |t| vec![sum_rows(&t[0])]);
        }
    }

    #[test]
    fn products_and_their_adjoints() {
        for device in crate::parity::devices_and_reference() {
            let (a, b) = (random([3, 5], 1).to_device(&device).unwrap(), random([5, 4], 2).to_device(&device).unwrap());
            let on = |t: &Tensor, other: &Tensor| other.to_device(&t.device()).unwrap();
            let name = format!("matmul on {device}");
            check_adjoint(
                &name,
                [3, 5],
                |x| matmul(x, &on(x, &b), false, false),
                |dy| matmul(dy, &on(dy, &b), false, true),
            );
            check_adjoint(
                &name,
                [5, 4],
                |x| matmul(&on(x, &a), x, false, false),
                |dy| matmul(&on(dy, &a), dy, true, false),
            );
        }
    }

    #[test]
    fn a_product_by_hand() {
        let a = Tensor::cpu([2, 2], vec![1.0, 2.0, 3.0, 4.0].into());
        let b = Tensor::cpu([2, 2], vec![5.0, 6.0, 7.0, 8.0].into());
        assert_eq!(matmul(&a, &b, false, false).f32s(), [19.0, 22.0, 43.0, 50.0]);
        assert_eq!(matmul(&a, &b, true, false).f32s(), [26.0, 30.0, 38.0, 44.0]);
        assert_eq!(matmul(&a, &b, false, true).f32s(), [17.0, 23.0, 39.0, 53.0]);
        assert_eq!(sum_rows(&a).f32s(), [4.0, 6.0]);
    }

    #[test]
    #[should_panic(expected = "matmul: expected [m, k] and [k, n], got [2, 3] and [2, 3]")]
    fn inner_extents_that_differ_are_refused() {
        matmul(&random([2, 3], 1), &random([2, 3], 2), false, false);
    }
}
