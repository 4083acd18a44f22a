//! Weight gradient of plain 3×3 convolutions at stride 1 on the CPU: the adjoint of [`super::winograd`].
//!
//! ```text
//! dg = Gᵀ [Σ_squares (A dy Aᵀ) ⊙ (Bᵀ d B)] G
//! ```
//!
//! dy is that of a square, d the samples under its windows. Each of the 36 entries is a sum over squares by itself, one for every
//! pair of channels.

use super::{
    Conv, Extents,
    gradient::{ResultGradient, Summation, Together, over_images},
    layout::{Windows, copy_row},
    tile::{Correlation, LANES, correlations, gradient_tile, tiles},
    winograd::{Combined, ENTRIES, INNER, Images, InSquares, OF_INNER, OF_OUTER, OUTER, Pack, SIDE, SPAN, plus_minus},
};
use crate::{
    jobs::{for_each_chunk, map_items},
    simd::{Isa, Simd, Task},
    sweep::lane_sum,
};
use quarterturn_core::HostBuffer;
use std::ops::Range;

/// Squares that are summed in registers, at least. After each such run lanes have to be added up, which should be rare.
const TOGETHER: usize = 256;
/// Floats that the panels of some images may take: beyond that they would come from memory.
const FLOATS: usize = 2 << 20;

/// Whether squares pay: a function of the extents alone, since sums round otherwise than in tiles. Measured:
/// `benches/results/2026-11-28-cpu.md`.
pub(super) fn pay(e: &Extents, conv: Conv) -> bool {
    let squares = e.out_height.div_ceil(SIDE) * e.out_width.div_ceil(SIDE);
    InSquares::pays(e, conv)
        && e.c_in.min(e.c_out) >= 10
        && e.batch * squares >= TOGETHER / 2
        && squares.next_multiple_of(LANES) * ENTRIES * (e.c_in + e.c_out) <= FLOATS
}

/// Gradients of weight and bias; that of the bias only where dy is given.
pub(super) fn dw(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: ResultGradient) -> (HostBuffer, HostBuffer) {
    let plan = Squares::new(e, conv, isa);
    let (sums, bias) = over_images(&plan, x, dy);
    let tile_of: Vec<Range<usize>> = plan.tiles().flat_map(|tile| vec![tile.clone(); tile.len()]).collect();
    let mut dweight = HostBuffer::scratch(e.weight().len());
    for_each_chunk(&mut dweight, e.c_in * 9, 1, &|o, dweight| {
        let tile = &tile_of[o];
        for (c, dweight) in dweight.chunks_exact_mut(9).enumerate() {
            let at = tile.start * e.c_in + c * tile.len() + o - tile.start;
            let entry = |i: usize, j: usize| sums[(SPAN * i + j) * e.c_out * e.c_in + at];
            let rows: [[f32; 3]; SPAN] = std::array::from_fn(|i| three_of_six(std::array::from_fn(|j| entry(i, j))));
            for v in 0..3 {
                let column = three_of_six(rows.map(|row| row[v]));
                for u in 0..3 {
                    dweight[3 * u + v] = column[u];
                }
            }
        }
    });
    (dweight, bias)
}

/// Gᵀ m.
fn three_of_six(m: [f32; SPAN]) -> [f32; 3] {
    let of = |[one, odd, even]: [f32; 3], a: f32, b: f32| [one * (a + b), odd * (a - b), even * (a + b)];
    let (inner, outer) = (of(OF_INNER, m[1], m[2]), of(OF_OUTER, m[3], m[4]));
    [m[0] + (inner[0] + outer[0]), inner[1] + outer[1], inner[2] + outer[2] + m[5]]
}

struct Squares {
    e: Extents,
    isa: Isa,
    /// Of one channel.
    combined: Combined,
    together: usize,
    /// Squares of the images that are summed together, whole vectors of [`LANES`].
    squares: usize,
}

impl Squares {
    fn new(e: &Extents, conv: Conv, isa: Isa) -> Self {
        let combined = Combined::of(&Windows::forward(e, conv), 1);
        let of_image = combined.squares();
        let most = FLOATS / (ENTRIES * (e.c_in + e.c_out) * of_image);
        let together = TOGETHER.div_ceil(of_image).min(most).clamp(1, e.batch);
        Squares { e: *e, isa, combined, together, squares: (together * of_image).next_multiple_of(LANES) }
    }

    /// The channels of each tile.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        tiles(self.e.c_out, gradient_tile::<1>(self.isa))
    }
}

struct Panels {
    /// Bᵀ d B and A dy Aᵀ, `[channel][entry][square]`.
    samples: HostBuffer,
    gradients: HostBuffer,
}

impl Summation for Squares {
    type Copies = Panels;

    fn copies(&self) -> Panels {
        let panels = |channels| HostBuffer::scratch(channels * ENTRIES * self.squares);
        Panels { samples: panels(self.e.c_in), gradients: panels(self.e.c_out) }
    }

    fn extents(&self) -> &Extents {
        &self.e
    }

    fn together(&self) -> usize {
        self.together
    }

    fn fetches_ahead(&self) -> bool {
        true
    }

    fn filters(&self) -> usize {
        ENTRIES * self.e.c_in
    }

    /// The sums are, for each entry, tile by tile `[channel of the source][channel of the tile]`.
    fn add(&self, images: Together, panels: &mut Panels, sums: &mut [f32], bias: Option<&mut [f32]>) {
        let Squares { e, isa, combined, squares, .. } = self;
        let Together { x, dy, later } = images;
        let (area, out_area) = (e.height * e.width, e.out_height * e.out_width);
        let images = x.len() / (e.c_in * area);
        let Panels { samples, gradients } = panels;
        for_each_chunk(samples, ENTRIES * squares, 1, &|c, panels| {
            let mut all = Images::new(*combined, images);
            for i in 0..images {
                all.combine(*isa, i, &x[(i * e.c_in + c) * area..][..area]);
            }
            isa.run(Samples { images, combined: &all, squares: *squares, panels });
        });
        for_each_chunk(gradients, ENTRIES * squares, 1, &|o, panels| {
            isa.run(LayDown { plan: self, dy: &dy[o * out_area..], images, panels });
        });
        if let Some(bias) = bias {
            for channels in dy.chunks_exact(e.c_out * out_area) {
                let sums = channels.chunks_exact(out_area).map(lane_sum);
                bias.iter_mut().zip(sums).for_each(|(sum, v)| *sum += v as f32);
            }
        }
        map_items(sums.chunks_exact_mut(e.c_out * e.c_in), 1, |entry, sums| {
            let offsets: Vec<[usize; 1]> = (0..e.c_in).map(|c| [c * ENTRIES * squares]).collect();
            let mut rest = sums;
            for rows in self.tiles() {
                let (tile, after) = rest.split_at_mut(rows.len() * e.c_in);
                rest = after;
                let correlation = Correlation {
                    offsets: &offsets,
                    padded: &samples[entry * squares..],
                    padded_image: 0,
                    left: &gradients[(rows.start * ENTRIES + entry) * squares..],
                    left_row: ENTRIES * squares,
                    left_image: 0,
                    locations: *squares,
                    images: 1,
                    later: later.map(|later| {
                        later.part(entry * e.c_out + rows.start..entry * e.c_out + rows.end, ENTRIES * e.c_out)
                    }),
                };
                isa.run(Sums { rows: rows.len(), correlation, sums: tile });
            }
        });
    }
}

/// Lays down the samples of a channel.
struct Samples<'a> {
    images: usize,
    combined: &'a Images,
    squares: usize,
    panels: &'a mut [f32],
}

impl Task for Samples<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Samples { images, combined, squares, panels } = self;
        S::run(Pack { images, channels: 0..1, combined, at: 0, width: squares / S::LANES, panels });
    }
}

/// Lays down the gradients of a channel: A dy Aᵀ. Behind the last square there are zeros.
struct LayDown<'a> {
    plan: &'a Squares,
    /// Of the first image, from this channel on.
    dy: &'a [f32],
    images: usize,
    panels: &'a mut [f32],
}

impl Task for LayDown<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let LayDown { plan: Squares { e, squares, .. }, dy, images, panels } = self;
        let (rows, cols) = (e.out_height.div_ceil(SIDE), e.out_width.div_ceil(SIDE));
        // The first rows of all squares, then the second ones, and so on.
        let of_row = SIDE * squares;
        let mut by_row = HostBuffer::zeros(SIDE * of_row);
        let image = e.c_out * e.out_height * e.out_width;
        for i in 0..images {
            for row in 0..e.out_height {
                let from = &dy[i * image + row * e.out_width..][..e.out_width];
                copy_row(from, &mut by_row[row % SIDE * of_row + (i * rows + row / SIDE) * SIDE * cols..]);
            }
        }
        assert!(squares % S::LANES == 0 && panels.len() >= ENTRIES * squares);
        let panels = panels.as_mut_ptr();
        for at in (0..*squares).step_by(S::LANES) {
            // dy, by column, then row.
            let mut columns = [[S::splat(0.0); SIDE]; SIDE];
            for row in 0..SIDE {
                let mut v = [S::splat(0.0); SIDE];
                for i in 0..SIDE {
                    // SAFETY: of each row there are four floats for every square.
                    v[i] = unsafe { S::load(by_row.as_ptr().add(row * of_row + SIDE * at + i * S::LANES)) };
                }
                let ((a, b), (c, d)) = (S::unzip(v[0], v[1]), S::unzip(v[2], v[3]));
                let ((first, third), (second, fourth)) = (S::unzip(a, c), S::unzip(b, d));
                for (column, v) in [first, second, third, fourth].into_iter().enumerate() {
                    columns[column][row] = v;
                }
            }
            // A dy: by column of dy, then entry.
            let mut of_columns = [[S::splat(0.0); SPAN]; SIDE];
            for column in 0..SIDE {
                of_columns[column] = six_of_four::<S>(columns[column]);
            }
            for i in 0..SPAN {
                let mut row = [S::splat(0.0); SIDE];
                for column in 0..SIDE {
                    row[column] = of_columns[column][i];
                }
                let entries = six_of_four::<S>(row);
                for j in 0..SPAN {
                    // SAFETY: the panels have a float of each entry for every square, as asserted above.
                    unsafe { S::store(panels.add((SPAN * i + j) * squares + at), entries[j]) };
                }
            }
        }
    }
}

/// A y.
#[inline(always)]
fn six_of_four<S: Simd>(y: [S::V; SIDE]) -> [S::V; SPAN] {
    let mut six = [y[0], y[0], y[0], y[0], y[0], y[3]];
    for (i, point) in [(1, INNER), (3, OUTER)] {
        let square = S::splat(point * point);
        let (odd, even) = (S::mul_add(square, y[3], y[1]), S::mul_add(square, y[2], y[0]));
        [six[i], six[i + 1]] = plus_minus::<S>(point, odd, even);
    }
    six
}

/// Adds the sums of an entry for some channels.
struct Sums<'a> {
    rows: usize,
    correlation: Correlation<'a, 1>,
    sums: &'a mut [f32],
}

impl Task for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Sums { rows, correlation, sums } = self;
        let Correlation { offsets, padded, left, left_row, locations, .. } = correlation;
        let reach = offsets.iter().flatten().max().expect("a channel") + locations;
        assert!(padded.len() >= reach && left.len() >= (rows - 1) * left_row + locations);
        // SAFETY: just asserted.
        unsafe { correlations::<S, 1>(rows, correlation, sums) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Group,
        group_conv::tests::{Case, close, expected, operands},
    };
    use quarterturn_core::{Device, Tensor};

    /// Squares that reach over the image, several images together, more than are taken together, more than one tile of channels, and
    /// padding from none to more than the filter.
    const CASES: [Case; 6] = [
        (Group::C1, false, 9, 17, 19, 7, 5, 3, 1, 1, 1),
        (Group::C1, false, 40, 3, 6, 3, 4, 3, 1, 0, 1),
        (Group::C1, false, 33, 2, 2, 12, 13, 3, 1, 1, 1),
        (Group::C1, false, 2, 16, 21, 28, 28, 3, 1, 1, 1),
        (Group::C1, false, 2, 5, 4, 9, 31, 3, 1, 2, 1),
        (Group::C1, false, 3, 4, 1, 6, 6, 3, 1, 4, 1),
    ];

    /// Every instruction set agrees with the reference; threads, and whether dy is given or made, change no bit.
    #[test]
    fn squares_are_the_gradient_up_to_rounding() {
        for case in CASES {
            let [_, dy, _, dw, db] = expected(case);
            let (x, weight, _, conv) = operands(case, &Device::Cpu);
            let e = Extents::new("test", x.shape(), weight.shape(), conv);
            let dy = dy.to_device(&Device::Cpu).unwrap();
            let (x, dy) = (x.f32s(), dy.f32s());
            let image = |n: usize, made: &mut [f32]| made.copy_from_slice(&dy[n * made.len()..][..made.len()]);
            let mut fused: Option<HostBuffer> = None;
            for &isa in Isa::available() {
                let name = format!("{case:?} {isa}");
                let (got, bias) = super::dw(&e, conv, isa, x, ResultGradient::Given(dy));
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let again = pool.install(|| super::dw(&e, conv, isa, x, ResultGradient::Given(dy)));
                    assert!(again.0[..] == got[..] && again.1[..] == bias[..], "{name}, {threads} threads");
                }
                let mut kept = vec![f32::NAN; dy.len()];
                let made = ResultGradient::Made { image: &image, reads: [&[]; 3], kept: Some(&mut kept) };
                assert!(super::dw(&e, conv, isa, x, made).0[..] == got[..] && kept == dy, "{name}: made");
                if isa != Isa::Portable {
                    let fused = fused.get_or_insert_with(|| got.clone());
                    assert!(got[..] == fused[..], "{name}: the width of vectors shows");
                }
                close(&format!("dw {name}"), &Tensor::cpu(e.weight(), got), &dw, 2e-6);
                close(&format!("db {name}"), &Tensor::cpu([e.c_out], bias), &db, 2e-6);
            }
        }
    }
}
