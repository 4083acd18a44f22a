//! The micro-kernel: a small matrix product whose accumulators stay in registers.

use crate::simd::{Simd, Task};

/// Operands of [`product`]: `c[m][v] += Σ_k a[m][k] · b[k][v]`, `v` running over two vectors. Distances in floats.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Length of the sum.
    pub inner: usize,
    /// Left factor, consecutive in k.
    pub a: *const f32,
    /// From one row of `a` to the next.
    pub a_row: usize,
    /// Right factor.
    pub b: *const f32,
    /// From one k of `b` to the next.
    pub b_step: usize,
    /// From the first vector of `b` to the second.
    pub b_gap: usize,
    /// Result.
    pub c: *mut f32,
    /// From one row of `c` to the next.
    pub c_row: usize,
    /// From the first vector of `c` to the second.
    pub c_gap: usize,
    /// Start from zero instead of from `c`.
    pub fresh: bool,
}

/// Rows per call that keep accumulators, operands and a broadcast within the registers: 2·12 + 3 of 32, 2·6 + 3 of 16.
const fn tile_rows<S: Simd>() -> usize {
    if S::LANES == 8 { 6 } else { 12 }
}

/// `p` for `rows` rows, in tiles as even as they come.
///
/// # Safety
/// All addresses that the formula names for `rows` rows, and the `LANES` floats behind those of `b` and `c`, must be in
/// bounds.
#[inline(always)]
pub(super) unsafe fn product_rows<S: Simd>(rows: usize, p: Product) {
    // A function of its own: a dozen tile heights, inlined wherever they are called, make a library of megabytes.
    S::ISA.run(Rows(rows, p));
}

struct Rows(usize, Product);

impl Task for Rows {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Rows(rows, p) = self;
        let tiles = rows.div_ceil(tile_rows::<S>());
        let mut row = 0;
        for tile in 0..tiles {
            let count = rows / tiles + usize::from(tile < rows % tiles);
            // SAFETY: rows `row .. row + count` of operands that the caller of `product_rows` vouches for.
            unsafe {
                let p = Product { a: p.a.add(row * p.a_row), c: p.c.add(row * p.c_row), ..p };
                match count {
                    1 => product::<S, 1>(p),
                    2 => product::<S, 2>(p),
                    3 => product::<S, 3>(p),
                    4 => product::<S, 4>(p),
                    5 => product::<S, 5>(p),
                    6 => product::<S, 6>(p),
                    7 => product::<S, 7>(p),
                    8 => product::<S, 8>(p),
                    9 => product::<S, 9>(p),
                    10 => product::<S, 10>(p),
                    11 => product::<S, 11>(p),
                    _ => product::<S, 12>(p),
                }
            }
            row += count;
        }
    }
}

/// One tile of `M` rows. Every element of `c` sums its terms in the order of k, whatever `M` is: edge tiles round as full
/// ones do.
///
/// # Safety
/// All addresses that the formula names, and the `LANES` floats behind those of `b` and `c`, must be in bounds.
#[inline(always)]
unsafe fn product<S: Simd, const M: usize>(p: Product) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; M];
        if !p.fresh {
            for m in 0..M {
                acc[m] = [S::load(p.c.add(m * p.c_row)), S::load(p.c.add(m * p.c_row + p.c_gap))];
            }
        }
        let (mut a, mut b) = (p.a, p.b);
        for _ in 0..p.inner {
            let (b0, b1) = (S::load(b), S::load(b.add(p.b_gap)));
            for m in 0..M {
                let w = S::splat(*a.add(m * p.a_row));
                acc[m] = [S::mul_add(w, b0, acc[m][0]), S::mul_add(w, b1, acc[m][1])];
            }
            a = a.add(1);
            b = b.add(p.b_step);
        }
        for m in 0..M {
            S::store(p.c.add(m * p.c_row), acc[m][0]);
            S::store(p.c.add(m * p.c_row + p.c_gap), acc[m][1]);
        }
    }
}
