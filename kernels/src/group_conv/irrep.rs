//! The real irreps of C1, C4 and D4, whose entries are all 0 or ±1, so that every transform is additions alone.
//!
//! With R the quarter turn [[0, −1], [1, 0]] and S = diag(1, −1), element 4m + r has
//!
//! - one-dimensional irreps aᵐ·bʳ: C1 has (1, 1); C4 has b = 1, −1; D4 has (a, b) = (1, 1), (−1, 1), (1, −1), (−1, −1);
//! - the two-dimensional ρ = SᵐRʳ: C4 and D4. Over C4 its two columns carry the same information; only the first is kept
//!   of products.
//!
//! Turning the input by u multiplies F̂(ρ) by ρ(u) from the left: a signed permutation of its rows. For that to hold to
//! the last bit, sums run over the pairs {h, r²h} first and over rotations before reflections: these sets are cosets of
//! normal subgroups, so u maps each onto one of its kind and only swaps the operands of an addition or flips a sign.

use super::Extents;
use crate::{Group, simd::Simd};

/// How many irreps a group has, and how many columns of the two-dimensional one a product keeps.
#[derive(Clone, Copy)]
pub(super) struct Irreps {
    /// One-dimensional irreps.
    pub one: usize,
    /// Columns kept of the two-dimensional irrep; 0 if there is none.
    pub columns: usize,
}

impl Irreps {
    pub(super) const fn of(order: usize) -> Self {
        match order {
            1 => Irreps { one: 1, columns: 0 },
            4 => Irreps { one: 2, columns: 1 },
            _ => Irreps { one: 4, columns: 2 },
        }
    }

    /// Values of a transformed function: one per one-dimensional irrep and four of the two-dimensional one.
    pub(super) const fn values(self) -> usize {
        self.one + if self.columns > 0 { 4 } else { 0 }
    }
}

/// F̂(ρ) = Σ_h f[h] ρ(h): the one-dimensional irreps in order, then F̂₀₀, F̂₀₁, F̂₁₀, F̂₁₁; entries beyond
/// [`Irreps::values`] are unspecified.
#[inline(always)]
pub(super) fn transform<S: Simd, const G: usize>(f: [S::V; G]) -> [S::V; 8] {
    let negate = |v| S::sub(S::splat(-0.0), v);
    let half = |m: usize| {
        let (f0, f1, f2, f3) = (f[4 * m], f[4 * m + 1], f[4 * m + 2], f[4 * m + 3]);
        let (a, b) = (S::add(f0, f2), S::add(f1, f3));
        (S::add(a, b), S::sub(a, b), S::sub(f0, f2), S::sub(f1, f3))
    };
    let mut out = [f[0]; 8];
    if G == 4 {
        let (plus, minus, d, e) = half(0);
        out[..6].copy_from_slice(&[plus, minus, d, negate(e), e, d]);
    } else if G == 8 {
        let ((p0, m0, d0, e0), (p1, m1, d1, e1)) = (half(0), half(1));
        out = [
            S::add(p0, p1),
            S::sub(p0, p1),
            S::add(m0, m1),
            S::sub(m0, m1),
            S::add(d0, d1),
            negate(S::add(e0, e1)),
            S::sub(e0, e1),
            S::sub(d0, d1),
        ];
    }
    out
}

/// y[g] = Σ_χ ŷ(χ)χ(g) + Σ_ij ŷ_ij ρ(g)_ij, the factors d_ρ/n being in the weights; `two[i][j]`, over C4 with ŷ_i0 alone.
#[inline(always)]
pub(super) fn inverse<S: Simd, const G: usize>(one: [S::V; 4], two: [[S::V; 2]; 2]) -> [S::V; G] {
    let mut y = [one[0]; G];
    if G == 4 {
        let (even, odd) = (S::add(one[0], one[1]), S::sub(one[0], one[1]));
        let [[yd, _], [ye, _]] = two;
        y.copy_from_slice(&[S::add(even, yd), S::add(odd, ye), S::sub(even, yd), S::sub(odd, ye)]);
    } else if G == 8 {
        let [[a, b], [c, d]] = two;
        for m in 0..2 {
            let sign = |u, v| if m == 0 { S::add(u, v) } else { S::sub(u, v) };
            let (p, q) = (sign(one[0], one[1]), sign(one[2], one[3]));
            let (even, odd) = (S::add(p, q), S::sub(p, q));
            // ρ(m = 0): a + d and c − b; ρ(m = 1): a − d and −(b + c).
            let (u, v) = (sign(a, d), if m == 0 { S::sub(c, b) } else { S::add(c, b) });
            y[4 * m] = S::add(even, u);
            y[4 * m + 2] = S::sub(even, u);
            y[4 * m + 1] = if m == 0 { S::add(odd, v) } else { S::sub(odd, v) };
            y[4 * m + 3] = if m == 0 { S::sub(odd, v) } else { S::add(odd, v) };
        }
    }
    y
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
    /// The adjoint's filter weight'[c, o, d, e] = weight[o, c, d⁻¹, −d⁻¹e]: ψ_q[d] = weight[o, c, d⁻¹, −q].
    Adjoint,
}

/// Where ψ_q[d] lies in `weight`: `[tap][d]`, beyond the filters of one (output, input) pair of channels.
fn psi_offsets<const G: usize>(e: &Extents, group: Group, filter: Filter, taps: &[Tap]) -> Vec<[usize; G]> {
    let place = |tap: &Tap, d| {
        let (d, (u, v)) = match filter {
            Filter::Forward if e.g_in == 1 => (0, Group::move_entry(d, tap.row, tap.col, e.k, e.k)),
            Filter::Forward => (d, Group::move_entry(d, tap.row, tap.col, e.k, e.k)),
            Filter::Adjoint => (group.inverse(d), (e.k - 1 - tap.row, e.k - 1 - tap.col)),
        };
        (d * e.k + u) * e.k + v
    };
    taps.iter().map(|tap| std::array::from_fn(|d| place(tap, d))).collect()
}

/// ψ̃ as the left factors of the products, row-major: of each one-dimensional irrep `[rows, K]`, then of the
/// two-dimensional one `[rows · columns, K, 2]`; K = (input channel, tap). Scaled by d_ρ/n, a power of two.
pub(super) fn filter_matrices<S: Simd, const G: usize>(
    e: &Extents,
    group: Group,
    filter: Filter,
    weight: &[f32],
    taps: &[Tap],
    out: &mut [f32],
) {
    let irreps = Irreps::of(G);
    let (rows, cols) = if filter == Filter::Forward { (e.c_out, e.c_in) } else { (e.c_in, e.c_out) };
    let inner = cols * taps.len();
    let offsets = psi_offsets::<G>(e, group, filter, taps);
    let pair = e.g_in * e.k * e.k;
    let (one, two) = out.split_at_mut(irreps.one * rows * inner);
    let (mut gathered, mut lanes) = ([[0.0; 16]; G], [0.0; 16]);
    for row in 0..rows {
        for k0 in (0..inner).step_by(S::LANES) {
            let count = S::LANES.min(inner - k0);
            for lane in 0..count {
                let (col, t) = ((k0 + lane) / taps.len(), (k0 + lane) % taps.len());
                let (o, c) = if filter == Filter::Forward { (row, col) } else { (col, row) };
                let filters = &weight[(o * e.c_in + c) * pair..][..pair];
                for d in 0..G {
                    gathered[d][lane] = filters[offsets[t][d]] * taps[t].share;
                }
            }
            // SAFETY: 16 floats are at least `LANES`.
            let values = transform::<S, G>(std::array::from_fn(|d| unsafe { S::load(gathered[d].as_ptr()) }));
            let mut put = |value: S::V, scale: usize, to: &mut [f32], start: usize, step: usize| {
                // SAFETY: as above.
                unsafe { S::store(lanes.as_mut_ptr(), value) };
                for lane in 0..count {
                    to[start + lane * step] = lanes[lane] * (scale as f32 / G as f32);
                }
            };
            for s in 0..irreps.one {
                put(values[s], 1, one, (s * rows + row) * inner + k0, 1);
            }
            for j in 0..irreps.columns {
                for l in 0..2 {
                    // ψ̃ = Σ_d ψ[d] ρ(d)ᵀ, hence the transposed entry.
                    let start = ((row * irreps.columns + j) * inner + k0) * 2 + l;
                    put(values[irreps.one + 2 * j + l], 2, two, start, 2);
                }
            }
        }
    }
}

/// The adjoint of [`filter_matrices`], forward: spreads the gradient of ψ̃ over `dweight`. `one(o, c, t, s)` reads that of
/// one-dimensional irrep s, `two(o, c, t, l, j)` that of entry (l, j) of the two-dimensional one.
pub(super) fn spread_gradient<S: Simd, const G: usize>(
    e: &Extents,
    group: Group,
    taps: &[Tap],
    one: impl Fn(usize, usize, usize, usize) -> f32,
    two: impl Fn(usize, usize, usize, usize, usize) -> f32,
    dweight: &mut [f32],
) {
    let irreps = Irreps::of(G);
    let offsets = psi_offsets::<G>(e, group, Filter::Forward, taps);
    let mut lanes = [0.0; 16];
    for (pair, filters) in dweight.chunks_exact_mut(e.g_in * e.k * e.k).enumerate() {
        let (o, c) = (pair / e.c_in, pair % e.c_in);
        for (t, tap) in taps.iter().enumerate() {
            let scaled = |value: f32, scale: usize| S::splat(value * (scale as f32 / G as f32));
            let ones = std::array::from_fn(|s| scaled(if s < irreps.one { one(o, c, t, s) } else { 0.0 }, 1));
            let entry = |i: usize, j: usize| match irreps.columns {
                // Over C4, the column of ψ̃ that is kept has the entries W_d and −W_e.
                1 if j == 0 => two(o, c, t, i, 0) * if i == 0 { 1.0 } else { -1.0 },
                2 => two(o, c, t, j, i),
                _ => 0.0,
            };
            let twos = std::array::from_fn(|i| std::array::from_fn(|j| scaled(entry(i, j), 2)));
            for (d, value) in inverse::<S, G>(ones, twos).into_iter().enumerate() {
                // SAFETY: 16 floats are at least `LANES`.
                unsafe { S::store(lanes.as_mut_ptr(), value) };
                filters[offsets[t][d]] += lanes[0] * tap.share;
            }
        }
    }
}
