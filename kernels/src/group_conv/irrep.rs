//! The real irreps of C1, C4 and D4, whose entries are all 0 or ±1, so that every transform is additions alone.
//!
//! With R the quarter turn [[0, −1], [1, 0]] and S = diag(1, −1), element 4m + r has
//!
//! - one-dimensional irreps aᵐ·bʳ: C1 has (1, 1); C4 has b = 1, −1; D4 has (a, b) = (1, 1), (−1, 1), (1, −1), (−1, −1);
//! - the two-dimensional ρ = SᵐRʳ: C4 and D4. Over C4 F̂ and ŷ have the form [[D, −E], [E, D]], of which (D, E) is kept.
//!
//! Turning the input by u multiplies F̂(ρ) by ρ(u) from the left: a signed permutation of its rows. For that to hold to
//! the last bit, sums run over the pairs {h, r²h} first and over rotations before reflections: these sets are cosets of
//! normal subgroups, so u maps each onto one of its kind and only swaps the operands of an addition or flips a sign.

use super::Extents;
use crate::{
    Group,
    jobs::for_each_chunk,
    simd::{Scalar, Simd},
};
use std::ops::Range;

/// Products of a term over C4 where a turned input need not give the same bits: 5 instead of the 6 of the real irreps,
/// Gauss's three for the two-dimensional one instead of four:
///
/// ```text
/// ŷ₀ = W_d (D + E) − (W_d − W_e) E        ŷ₁ = W_d (D + E) − (W_d + W_e) D
/// ```
///
/// A quarter turn makes (D, E) into (−E, D), hence D + E into D − E, of which there is no product: the turned sums round
/// otherwise. Nor would any other three do. Each multiplies one linear form of (D, E), and a quarter turn, to keep the
/// bits, would have to permute the three up to signs; but no form is its own image, and applied twice it negates them, so it
/// takes them in pairs.
pub(super) const GAUSS: usize = 5;

/// What the `P` products of a term take from ψ̃: with `P` = G, its values.
#[inline(always)]
pub(super) fn filter_factors<S: Simd, const G: usize, const P: usize>(f: [S::V; G]) -> [S::V; P] {
    std::array::from_fn(|i| match (G, P, i) {
        (4, 5, 3) => S::sub(f[2], f[3]),
        (4, 5, 4) => S::add(f[2], f[3]),
        _ => f[i],
    })
}

/// What the `P` products of a term take from F̂: with `P` = G, its values.
#[inline(always)]
pub(super) fn value_factors<S: Simd, const G: usize, const P: usize>(v: [S::V; G]) -> [S::V; P] {
    std::array::from_fn(|i| match (G, P, i) {
        (4, 5, 2) => S::add(v[2], v[3]),
        (4, 5, 4) => v[2],
        _ => v[i],
    })
}

/// ŷ of the sums of `P` products.
#[inline(always)]
pub(super) fn from_products<S: Simd, const G: usize, const P: usize>(sums: [S::V; P]) -> [S::V; G] {
    std::array::from_fn(|i| match (G, P, i) {
        (4, 5, 2 | 3) => S::sub(sums[2], sums[i + 1]),
        _ => sums[i],
    })
}

/// `sums += F̂(ρ) ψ̃(ρ)` of every ρ, for one term of the sum over channels and taps, in `P` products.
///
/// With `P` = G turning the input permutes and negates the sums, to the last bit: over C4 F̂ = [[D, −E], [E, D]], and the
/// first column of ψ̃ is (W_d, −W_e): ŷ₀ = W_d·D + W_e·E and ŷ₁ = W_d·E − W_e·D. Turning the input makes (D, E) into (−E, D), hence
/// ŷ₀ into −ŷ₁, term by term. Over D4 entry (i, j) of the two-dimensional irrep's matrices is number 4 + 2i + j.
#[inline(always)]
pub(super) fn add_products<S: Simd, const G: usize, const P: usize>(
    sums: &mut [S::V; P],
    values: [S::V; P],
    filters: [S::V; P],
) {
    let (f, v) = (filters, values);
    let numbers = if P == G { ONE_DIMENSIONAL[G / 4] } else { P };
    for i in 0..numbers {
        sums[i] = S::mul_add(f[i], v[i], sums[i]);
    }
    if (G, P) == (4, 4) {
        sums[2] = S::mul_add(f[3], v[3], S::mul_add(f[2], v[2], sums[2]));
        sums[3] = S::mul_sub(f[3], v[2], S::mul_add(f[2], v[3], sums[3]));
    } else if G == 8 {
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let first = S::mul_add(f[4 + j], v[4 + 2 * i], sums[4 + 2 * i + j]);
            sums[4 + 2 * i + j] = S::mul_add(f[6 + j], v[5 + 2 * i], first);
        }
    }
}

/// The adjoint in the filters: `gradient += F̂(ρ)ᵀ dŷ(ρ)`.
#[inline(always)]
pub(super) fn add_product_vjp<S: Simd, const G: usize>(
    gradient: &mut [S::V; G],
    values: [S::V; G],
    results: [S::V; G],
) {
    let (v, r) = (values, results);
    for i in 0..ONE_DIMENSIONAL[G / 4] {
        gradient[i] = S::mul_add(r[i], v[i], gradient[i]);
    }
    if G == 4 {
        gradient[2] = S::mul_add(r[3], v[3], S::mul_add(r[2], v[2], gradient[2]));
        gradient[3] = S::mul_sub(r[3], v[2], S::mul_add(r[2], v[3], gradient[3]));
    } else if G == 8 {
        for (l, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let first = S::mul_add(r[4 + j], v[4 + l], gradient[4 + 2 * l + j]);
            gradient[4 + 2 * l + j] = S::mul_add(r[6 + j], v[6 + l], first);
        }
    }
}

/// One-dimensional irreps of C1, C4 and D4.
const ONE_DIMENSIONAL: [usize; 3] = [1, 2, 4];

/// F̂(ρ) = Σ_h f[h] ρ(h), G values: the one-dimensional irreps, then over C4 D = f₀ − f₂ and E = f₁ − f₃, over D4 the rows of
/// the matrix.
#[inline(always)]
pub(super) fn transform<S: Simd, const G: usize>(f: [S::V; G]) -> [S::V; G] {
    let half = |m: usize| {
        let (f0, f1, f2, f3) = (f[4 * m], f[4 * m + 1], f[4 * m + 2], f[4 * m + 3]);
        let (a, b) = (S::add(f0, f2), S::add(f1, f3));
        [S::add(a, b), S::sub(a, b), S::sub(f0, f2), S::sub(f1, f3)]
    };
    let mut values = f;
    if G == 4 {
        values.copy_from_slice(&half(0));
    } else if G == 8 {
        let ([p0, m0, d0, e0], [p1, m1, d1, e1]) = (half(0), half(1));
        values.copy_from_slice(&[
            S::add(p0, p1),
            S::sub(p0, p1),
            S::add(m0, m1),
            S::sub(m0, m1),
            S::add(d0, d1),
            S::sub(S::splat(-0.0), S::add(e0, e1)),
            S::sub(e0, e1),
            S::sub(d0, d1),
        ]);
    }
    values
}

/// y[g] = Σ_ρ (ŷ(ρ), ρ(g)), the factors d_ρ/n being in the filters; `values` as [`transform`] orders them.
#[inline(always)]
pub(super) fn inverse<S: Simd, const G: usize>(values: [S::V; G]) -> [S::V; G] {
    let mut y = values;
    if G == 4 {
        let (even, odd) = (S::add(values[0], values[1]), S::sub(values[0], values[1]));
        let (d, e) = (values[2], values[3]);
        y.copy_from_slice(&[S::add(even, d), S::add(odd, e), S::sub(even, d), S::sub(odd, e)]);
    } else if G == 8 {
        let (a, b, c, d) = (values[4], values[5], values[6], values[7]);
        let (p0, p1) = (S::add(values[0], values[1]), S::sub(values[0], values[1]));
        let (q0, q1) = (S::add(values[2], values[3]), S::sub(values[2], values[3]));
        // (matrix, ρ): a + d and c − b without the reflection, a − d and −(b + c) with it.
        let (u0, v0, u1, v1) = (S::add(a, d), S::sub(c, b), S::sub(a, d), S::add(c, b));
        let (even0, odd0, even1, odd1) = (S::add(p0, q0), S::sub(p0, q0), S::add(p1, q1), S::sub(p1, q1));
        y.copy_from_slice(&[
            S::add(even0, u0),
            S::add(odd0, v0),
            S::sub(even0, u0),
            S::sub(odd0, v0),
            S::add(even1, u1),
            S::sub(odd1, v1),
            S::sub(even1, u1),
            S::add(odd1, v1),
        ]);
    }
    y
}

/// d_ρ/n of value `i`, a power of two.
fn scale<const G: usize>(i: usize) -> f32 {
    match G {
        1 => 1.0,
        4 => [0.25, 0.5][i / 2],
        _ => [0.125, 0.25][i / 4],
    }
}

/// An un-rotated tap q of the filter: the sum of the formula runs over g·d·q for the d of the group.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    pub row: usize,
    pub col: usize,
    /// One over the number of elements that leave the tap in place, when lifting: a power of two.
    share: f32,
}

/// The taps to sum over: all of them, or, when lifting, one of each orbit (the other members are its rotations).
pub(super) fn taps(e: &Extents, group: Group) -> Vec<Tap> {
    let all = (0..e.k).flat_map(|row| (0..e.k).map(move |col| (row, col)));
    if e.g_in == e.g_out {
        return all.map(|(row, col)| Tap { row, col, share: 1.0 }).collect();
    }
    all.filter_map(|(row, col)| {
        let orbit = || group.elements().map(|g| Group::move_entry(g, row, col, e.k, e.k));
        let stabilizer = orbit().filter(|&q| q == (row, col)).count();
        orbit().all(|q| q >= (row, col)).then_some(Tap { row, col, share: 1.0 / stabilizer as f32 })
    })
    .collect()
}

/// Which filter the sum over taps uses.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Filter {
    /// `weight` itself: ψ_q[d] = weight[o, c, d, d·q].
    Forward,
    /// The adjoint's filter weight'[c, o, d, e] = weight[o, c, d⁻¹, −d⁻¹e]: ψ_q[d] = weight[o, c, d⁻¹, −q]. Of a transposed
    /// convolution that lifts, weight'[c, o, e] = weight[o, c, −e].
    Adjoint,
}

/// Where ψ_q[d] lies in `weight`: `[tap][d]`, beyond the filters of one (output, input) pair of channels.
fn psi_offsets<const G: usize>(e: &Extents, group: Group, filter: Filter, taps: &[Tap]) -> Vec<[usize; G]> {
    let place = |tap: &Tap, d| {
        let (d, (u, v)) = match filter {
            Filter::Forward if e.g_in == 1 => (0, Group::move_entry(d, tap.row, tap.col, e.k, e.k)),
            Filter::Forward => (d, Group::move_entry(d, tap.row, tap.col, e.k, e.k)),
            Filter::Adjoint if e.g_in != e.g_out => {
                let (u, v) = Group::move_entry(d, tap.row, tap.col, e.k, e.k);
                (0, (e.k - 1 - u, e.k - 1 - v))
            }
            Filter::Adjoint => (group.inverse(d), (e.k - 1 - tap.row, e.k - 1 - tap.col)),
        };
        (d * e.k + u) * e.k + v
    };
    taps.iter().map(|tap| std::array::from_fn(|d| place(tap, d))).collect()
}

/// ψ̃ of the channels `rows` of the result, scaled by d_ρ/n, for `P` products: `put(term, row, factors)` for each term
/// (input channel, tap), in order, and each of the rows.
pub(super) fn filters<const G: usize, const P: usize>(
    e: &Extents,
    group: Group,
    filter: Filter,
    weight: &[f32],
    taps: &[Tap],
    rows: Range<usize>,
    mut put: impl FnMut(usize, usize, [f32; P]),
) {
    let cols = if filter == Filter::Forward { e.c_in } else { e.c_out };
    let offsets = psi_offsets::<G>(e, group, filter, taps);
    let pair = e.g_in * e.k * e.k;
    for col in 0..cols {
        for (m, row) in rows.clone().enumerate() {
            let (o, c) = if filter == Filter::Forward { (row, col) } else { (col, row) };
            let weight = &weight[(o * e.c_in + c) * pair..][..pair];
            for (t, tap) in taps.iter().enumerate() {
                let values = transform::<Scalar, G>(offsets[t].map(|at| weight[at] * tap.share));
                let mut filters = [0.0; G];
                for (i, value) in values.into_iter().enumerate() {
                    filters[filter_of_value::<G>(i)] = value * scale::<G>(i);
                }
                put(col * taps.len() + t, m, filter_factors::<Scalar, G, P>(filters));
            }
        }
    }
}

/// ψ̃ = Σ_d ψ[d] ρ(d)ᵀ: entry (l, j) of the filter is entry (j, l) of the transform.
const fn filter_of_value<const G: usize>(i: usize) -> usize {
    if G == 8 && i >= 4 { 4 + 2 * (i % 2) + (i - 4) / 2 } else { i }
}

/// The adjoint of [`filters`], forward: spreads the gradient of ψ̃ over `dweight`. `gradient(o, c, t)` reads the filters of
/// a pair of channels.
pub(super) fn spread_gradient<const G: usize>(
    e: &Extents,
    group: Group,
    taps: &[Tap],
    gradient: impl Fn(usize, usize, usize) -> [f32; G] + Sync,
    dweight: &mut [f32],
) {
    let offsets = weight_offsets::<G>(e, group, taps);
    let pair = e.g_in * e.k * e.k;
    for_each_chunk(dweight, e.c_in * pair, 1, &|o, dweight| {
        for (c, dweight) in dweight.chunks_exact_mut(pair).enumerate() {
            for (t, tap) in taps.iter().enumerate() {
                let values = psi_of_gradient::<Scalar, G>(gradient(o, c, t), tap);
                for (d, value) in values.into_iter().enumerate() {
                    dweight[offsets[t][d]] += value;
                }
            }
        }
    });
}

/// Where [`psi_of_gradient`] belongs: `[tap][d]`, in the weight of one pair of channels.
pub(super) fn weight_offsets<const G: usize>(e: &Extents, group: Group, taps: &[Tap]) -> Vec<[usize; G]> {
    psi_offsets::<G>(e, group, Filter::Forward, taps)
}

/// Gradients of ψ_q[d] for all d, from those of ψ̃ at a tap.
#[inline(always)]
pub(super) fn psi_of_gradient<S: Simd, const G: usize>(filters: [S::V; G], tap: &Tap) -> [S::V; G] {
    // What leaves the sign of a zero alone.
    let zero = S::splat(-0.0);
    let mut values = filters;
    for i in 0..G {
        values[i] = S::mul_add(filters[filter_of_value::<G>(i)], S::splat(scale::<G>(i)), zero);
    }
    let mut psi = inverse::<S, G>(values);
    for value in &mut psi {
        *value = S::mul_add(*value, S::splat(tap.share), zero);
    }
    psi
}
