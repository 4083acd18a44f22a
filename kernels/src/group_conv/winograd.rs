//! Plain 3×3 convolutions at stride 1 on the CPU, forward and input gradient: Winograd's F(4×4, 3×3) (Lavin & Gray 2016).
//!
//! Results are made in *squares* of 4×4, each from the 6×6 samples d under its windows and from the filter g:
//!
//! ```text
//! y = Aᵀ [Σ_c (G g Gᵀ) ⊙ (Bᵀ d B)] A
//!
//!      ⎡1  0  −s   0  1  0⎤        ⎡  1     0     0 ⎤
//!      ⎢0 −q  −q²  p  1  0⎥        ⎢  u     up    up²⎥         ⎡1  1   1   1   1   0⎤
//! Bᵀ = ⎢0  q  −q² −p  1  0⎥    G = ⎢  u    −up    up²⎥    Aᵀ = ⎢0  p  −p   q  −q   0⎥
//!      ⎢0 −p  −p²  q  1  0⎥        ⎢  v     vq    vq²⎥         ⎢0  p²  p²  q²  q²  0⎥
//!      ⎢0  p  −p² −q  1  0⎥        ⎢  v    −vq    vq²⎥         ⎣0  p³ −p³  q³ −q³  1⎦
//!      ⎣0  1  0   −s   0  1⎦       ⎣  0     0     1 ⎦
//!
//! p = 3/4,  q = 1/p,  s = p² + q²,  u = 1 / (2p²(p² − q²)),  v = 1 / (2q²(q² − p²))
//! ```
//!
//! That is 36 products for 16 results instead of 144. Each of the 36 entries is a matrix product over the channels by itself.
//!
//! The matrices come from multiplying polynomials by their values at 0, ±p, ±q and infinity. The usual points ±1 and ±2 make
//! errors six to ten times as large as those of the plain sum. With ±3/4 and ±4/3, whose powers stay near 1, they are two to three
//! times as large. A sample that is not finite makes results of its squares NaN or infinite, also such as its own windows do not reach.
//!
//! On a group the irreps save nearly as much (p4 takes 720 products for 16 pixels, in exact passes 864, where this would take 576), and
//! the two do not multiply. Nor would a turned image give the same bits, because rows are combined before columns.

use super::{
    Conv, Extents,
    irrep::Filter,
    layout::{Windows, copy_row},
    packed::{Scratch, pieces, room},
    panel::{Multiplication, STRIP, multiply},
    pass::{Finish, Pass, Shared, share_out, shares},
    tile::{finished, tile_rows, tiles},
};
use crate::{
    Group,
    jobs::{for_each_chunk, map_items},
    simd::{Isa, Simd, Task, WIDEST},
};
use quarterturn_core::HostBuffer;
use std::ops::Range;

/// Results of a square in each direction.
pub(super) const SIDE: usize = 4;
/// Samples under its windows in each direction.
pub(super) const SPAN: usize = SIDE + 2;
/// Entries of a transformed square, and of a transformed filter.
pub(super) const ENTRIES: usize = SPAN * SPAN;
/// p and q.
pub(super) const INNER: f32 = 0.75;
pub(super) const OUTER: f32 = 4.0 / 3.0;
/// Vectors of [`WIDEST`] squares that are laid down and multiplied together.
const VECTORS: usize = 2;
/// Squares of the images that a job takes together, at least. (This crate's tests are small, and are to be shared out too.)
const TOGETHER: usize = if cfg!(test) { WIDEST } else { 13 * WIDEST };
/// Channels of the source that are laid down together: so many fit the second-level cache.
const CHANNELS: usize = 64;
/// Floats that combined samples may take together.
const FLOATS: usize = 1 << 24;
/// Floats before and behind the combined samples that a vector may reach.
const MARGIN: usize = 2 * WIDEST;

/// One convolution, forward or adjoint, with its filters.
pub(super) struct InSquares {
    pass: Pass,
    isa: Isa,
    /// Threads that share the work.
    shares: usize,
    combined: Combined,
    /// G g Gᵀ: tile by tile of channels of the result, `[entry][channel of the source][channel of the tile]`.
    filters: HostBuffer,
}

impl InSquares {
    /// Whether it can be done.
    pub(super) fn fits(e: &Extents, conv: Conv) -> bool {
        let plain = conv.group == Group::C1 && e.k == 3 && conv.stride == 1 && conv.dilation == 1;
        let passes = || [(Windows::forward(e, conv), e.c_in), (Windows::adjoint(e, conv), e.c_out)];
        plain && passes().iter().all(|(windows, channels)| Combined::of(windows, *channels).image <= FLOATS)
    }

    /// Whether it pays. Squares reach over small images; and where there are few squares, the transforms of the filters cost more
    /// than they save. Measured: `benches/results/2026-11-28-cpu.md`.
    pub(super) fn pays(e: &Extents, conv: Conv) -> bool {
        let (height, width) = (e.height.min(e.out_height), e.width.min(e.out_width));
        let squares = height.div_ceil(SIDE) * width.div_ceil(SIDE);
        let wide = e.c_in.min(e.c_out) >= 8 && e.c_in * e.c_out <= 8192 * squares;
        wide && height.min(width) >= 8 && Self::fits(e, conv)
    }

    pub(super) fn new(pass: Pass, e: &Extents, conv: Conv, isa: Isa, weight: &[f32]) -> Self {
        let filters = filters(&pass, e, isa, weight);
        let combined = Combined::of(&pass.windows, pass.cols);
        InSquares { pass, isa, shares: shares(e, conv), combined, filters }
    }

    /// The results for the images `source`, each image's finished by `finish`.
    pub(super) fn over_images(&self, source: &[f32], finish: &dyn Finish) -> HostBuffer {
        let pass = &self.pass;
        let image = pass.cols * pass.windows.source.0 * pass.windows.source.1;
        let result = pass.rows * pass.windows.result.0 * pass.windows.result.1;
        let batch = source.len() / image;
        let together = TOGETHER.div_ceil(self.combined.squares()).min(batch);
        let mut y = HostBuffer::scratch(batch * result);
        let images: Vec<&[f32]> = source.chunks_exact(image).collect();
        match batch.div_ceil(together) {
            jobs if self.shares == 1 || jobs >= 2 * self.shares => self.in_groups(&images, together, finish, &mut y),
            _ => self.all_at_once(&images, finish, &mut y),
        }
        y
    }

    /// Each job takes so many images `together`, from their samples to what `finish` makes.
    fn in_groups(&self, images: &[&[f32]], together: usize, finish: &dyn Finish, y: &mut [f32]) {
        let combined = self.combined;
        let (result, shared) = (y.len() / images.len(), Shared(y.as_mut_ptr()));
        let groups: Vec<_> = images.chunks(together).collect();
        share_out(self.shares, groups.len(), groups.len().div_ceil(8 * self.shares), &|jobs| {
            let (mut samples, mut scratch) = (Images::new(combined, together), Scratch::default());
            for job in jobs {
                let group = groups[job];
                for (i, &source) in group.iter().enumerate() {
                    samples.combine(self.isa, i, source);
                }
                // SAFETY: these images' results lie apart from others.
                let y = unsafe { shared.add(job * together * result) };
                let vectors = 0..(group.len() * combined.squares()).div_ceil(WIDEST);
                self.vectors(group.len(), vectors, &samples, &mut scratch, y);
                for i in 0..group.len() {
                    // SAFETY: no other job writes to this image's results.
                    let y = unsafe { std::slice::from_raw_parts_mut(y.add(i * result).0, result) };
                    finish.image(job * together + i, y);
                }
            }
        });
    }

    /// The squares of all images, or of as many as fit the memory, are shared out: for few or large images.
    fn all_at_once(&self, images: &[&[f32]], finish: &dyn Finish, y: &mut [f32]) {
        let combined = self.combined;
        let result = y.len() / images.len();
        // (This crate's tests are small, and are to be taken in several parts too.)
        let floats = if cfg!(test) { 1 << 13 } else { FLOATS };
        let at_once = (floats / combined.image).clamp(1, images.len());
        let mut samples = Images::new(combined, at_once);
        for (some, y) in images.chunks(at_once).zip(y.chunks_mut(at_once * result)) {
            let to = &mut samples.floats[MARGIN..][..some.len() * combined.image];
            for_each_chunk(to, combined.image, 1, &|n, to| {
                let plane = &mut HostBuffer::zeros(combined.plane());
                self.isa.run(Combine { combined: &combined, source: some[n], plane, to });
            });
            let vectors = (some.len() * combined.squares()).div_ceil(WIDEST);
            let jobs: Vec<_> = tiles(vectors, VECTORS.min(vectors.div_ceil(self.shares))).collect();
            let shared = Shared(y.as_mut_ptr());
            share_out(self.shares, jobs.len(), 1, &|run| {
                let mut scratch = Scratch::default();
                for vectors in &jobs[run] {
                    self.vectors(some.len(), vectors.clone(), &samples, &mut scratch, shared);
                }
            });
        }
        for_each_chunk(y, result, 1, &|n, y| finish.image(n, y));
    }

    /// Makes the results of some vectors of [`WIDEST`] squares of `images`.
    fn vectors(&self, images: usize, vectors: Range<usize>, combined: &Images, scratch: &mut Scratch, y: Shared) {
        for first in vectors.clone().step_by(VECTORS) {
            let vectors = first..vectors.end.min(first + VECTORS);
            self.isa.run(Job { plan: self, images, vectors, combined, scratch, y });
        }
    }
}

/// [`InSquares::filters`].
fn filters(pass: &Pass, e: &Extents, isa: Isa, weight: &[f32]) -> HostBuffer {
    let mut filters = HostBuffer::scratch(ENTRIES * pass.rows * pass.cols);
    let (mut rest, mut jobs) = (&mut filters[..], Vec::new());
    for tile in tiles(pass.rows, tile_rows::<1>(isa.registers())) {
        let (of_tile, after) = rest.split_at_mut(tile.len() * ENTRIES * pass.cols);
        jobs.push(Filters { pass, e, weight, tile, to: of_tile });
        rest = after;
    }
    map_items(jobs.into_iter(), 1, |_, job| isa.run(job));
    filters
}

/// The filters of a tile of channels of the result.
struct Filters<'a> {
    pass: &'a Pass,
    e: &'a Extents,
    weight: &'a [f32],
    tile: Range<usize>,
    to: &'a mut [f32],
}

impl Task for Filters<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Filters { pass, e, weight, tile, to } = self;
        let (cols, rows) = (pass.cols, tile.len());
        assert!(to.len() >= ENTRIES * cols * rows && rows <= WIDEST);
        let forward = pass.filter == Filter::Forward;
        for col in 0..cols {
            // `[tap][row]`; the adjoint's filter is turned by a half.
            let mut taps = [[0.0; WIDEST]; 9];
            for (m, row) in tile.clone().enumerate() {
                let (o, c) = if forward { (row, col) } else { (col, row) };
                let g: &[f32; 9] = weight[(o * e.c_in + c) * 9..].first_chunk().expect("nine taps");
                for i in 0..9 {
                    taps[i][m] = g[if forward { i } else { 8 - i }];
                }
            }
            for first in (0..rows).step_by(S::LANES) {
                let mut g = [[S::splat(0.0); SPAN]; 3];
                for u in 0..3 {
                    let mut row = [S::splat(0.0); 3];
                    for v in 0..3 {
                        // SAFETY: `taps` has `WIDEST` lanes, a multiple of any vector's.
                        row[v] = unsafe { S::load(taps[3 * u + v].as_ptr().add(first)) };
                    }
                    g[u] = six_of_taps::<S>(row);
                }
                for j in 0..SPAN {
                    let column = six_of_taps::<S>([g[0][j], g[1][j], g[2][j]]);
                    for i in 0..SPAN {
                        let at = ((SPAN * i + j) * cols + col) * rows + first;
                        // SAFETY: lanes of this tile, for which there is room, as asserted above.
                        unsafe { S::store_lanes(column[i], 0..S::LANES.min(rows - first), to.as_mut_ptr().add(at)) };
                    }
                }
            }
        }
    }
}

/// u, up and up²; v, vq and vq².
pub(super) const OF_INNER: [f32; 3] = [-128.0 / 175.0, -96.0 / 175.0, -72.0 / 175.0];
pub(super) const OF_OUTER: [f32; 3] = [40.5 / 175.0, 54.0 / 175.0, 72.0 / 175.0];

/// G g.
#[inline(always)]
fn six_of_taps<S: Simd>(g: [S::V; 3]) -> [S::V; SPAN] {
    let (mut six, zero) = ([g[0], g[0], g[0], g[0], g[0], g[2]], S::splat(0.0));
    for (i, [one, odd, even]) in [(1, OF_INNER), (3, OF_OUTER)] {
        let even = S::mul_add(S::splat(even), g[2], S::mul_add(S::splat(one), g[0], zero));
        [six[i], six[i + 1]] = plus_minus::<S>(odd, g[1], even);
    }
    six
}

/// `even ± point · odd`.
#[inline(always)]
pub(super) fn plus_minus<S: Simd>(point: f32, odd: S::V, even: S::V) -> [S::V; 2] {
    let point = S::splat(point);
    [S::mul_add(point, odd, even), S::mul_sub(point, odd, even)]
}

/// How *combined samples* lie. Along each row of the padded image, neighbours are combined to three pairs for each square, of
/// which the six entries of d B are made. With x₀ to x₅ for the square's samples in that row:
///
/// ```text
/// ends  = (x₀ + x₄ − s x₂, x₁ + x₅ − s x₃)     entries 0 and 5
/// inner = (x₃ − q² x₁, x₄ − q² x₂)             entries 1 and 2: the second ± p times the first
/// outer = (x₃ − p² x₁, x₄ − p² x₂)             entries 3 and 4: the second ± q times the first
/// ```
///
/// Of each channel the first rows of all squares come first, then the second ones, up to the fourth: a fifth row is the first of
/// the squares below. Of each of these four, first come the ends, then the inner pairs, then the outer ones. So all squares of an
/// image stand in a row, and each of their six rows of samples lies a constant distance away.
#[derive(Clone, Copy)]
pub(super) struct Combined {
    channels: usize,
    /// Extents of the source, and zeros before its first sample.
    source: (usize, usize),
    lead: isize,
    /// Rows and columns of squares.
    squares: (usize, usize),
    /// Floats of a row.
    row: usize,
    /// Floats of all rows of one kind: rows one after another, and what the last vector may reach behind.
    kind: usize,
    /// Floats of a channel, and of an image.
    channel: usize,
    image: usize,
    /// Rows and columns of the padded image that windows reach.
    reach: (usize, usize),
    /// Rows of the padded plane, and the distance of two.
    rows: usize,
    pitch: usize,
}

/// Pairs of combined samples of a square's row.
const KINDS: usize = 3;

impl Combined {
    pub(super) fn of(windows: &Windows, channels: usize) -> Self {
        let (rows, cols) = (windows.result.0.div_ceil(SIDE), windows.result.1.div_ceil(SIDE));
        let kind = (rows + 1) * 2 * cols + WIDEST;
        Combined {
            channels,
            source: windows.source,
            lead: windows.lead,
            squares: (rows, cols),
            row: 2 * cols,
            kind,
            channel: SIDE * KINDS * kind,
            image: channels * SIDE * KINDS * kind,
            reach: (windows.result.0 + 2, windows.result.1 + 2),
            rows: SIDE * rows + 2,
            pitch: SIDE * cols + 2 * WIDEST + SIDE + 1,
        }
    }

    /// Of an image.
    pub(super) fn squares(&self) -> usize {
        self.squares.0 * self.squares.1
    }

    /// Of a padded plane.
    fn plane(&self) -> usize {
        self.rows * self.pitch
    }

    /// Where in a channel a pair of row `i` of the first square lies: its ends, or its inner or outer pair, which are `kind` 0, 1 and 2.
    #[inline(always)]
    fn place(&self, i: usize, kind: usize) -> usize {
        (i % SIDE * KINDS + kind) * self.kind + i / SIDE * self.row
    }
}

/// The combined samples of some images; behind them a padded plane, in which [`Images::combine`] makes them.
pub(super) struct Images {
    combined: Combined,
    floats: HostBuffer,
}

impl Images {
    pub(super) fn new(combined: Combined, images: usize) -> Self {
        let mut floats = HostBuffer::scratch(images * combined.image + 2 * MARGIN + combined.plane());
        let plane = floats.len() - combined.plane();
        floats[plane..].fill(0.0);
        Images { combined, floats }
    }

    /// Makes those of image `i`.
    pub(super) fn combine(&mut self, isa: Isa, i: usize, source: &[f32]) {
        let Images { combined, floats } = self;
        let plane = floats.len() - combined.plane();
        let (images, plane) = floats.split_at_mut(plane);
        let to = &mut images[MARGIN + i * combined.image..][..combined.image];
        isa.run(Combine { combined, source, plane, to });
    }
}

/// Combines the samples of an image.
struct Combine<'a> {
    combined: &'a Combined,
    source: &'a [f32],
    /// Its border stays zero.
    plane: &'a mut [f32],
    to: &'a mut [f32],
}

impl Task for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Combine { combined, source, plane, to } = self;
        let Combined { source: (height, width), lead, row, kind, channel, reach, rows, pitch, .. } = *combined;
        let inside = |extent: usize, padded: usize| {
            let start = lead.max(0).min(padded as isize);
            start as usize..(extent as isize + lead).clamp(start, padded as isize) as usize
        };
        let (down, across) = (inside(height, reach.0), inside(width, reach.1));
        assert!(plane.len() >= rows * pitch && pitch > 2 * row + 2 * S::LANES + SIDE);
        assert!(channel >= SIDE * KINDS * kind && kind >= (rows - 1) / SIDE * row + row + S::LANES);
        for (samples, to) in source.chunks_exact(height * width).zip(to.chunks_exact_mut(channel)) {
            if !across.is_empty() {
                for r in down.clone() {
                    let from = (r as isize - lead) as usize * width + (across.start as isize - lead) as usize;
                    copy_row(&samples[from..][..across.len()], &mut plane[r * pitch + across.start..]);
                }
            }
            for r in 0..rows {
                for at in (0..row).step_by(S::LANES) {
                    // SAFETY: `pitch` and `kind` have room for vectors behind a row, as asserted above; what is written behind
                    // a row is written again with the next one.
                    unsafe {
                        let x = plane.as_ptr().add(r * pitch + 2 * at);
                        let ((x01, x23), (x45, _)) = (pairs::<S>(x), pairs::<S>(x.add(SIDE)));
                        let (x12, x34) = pairs::<S>(x.add(1));
                        let ends = S::mul_sub(S::splat(INNER * INNER + OUTER * OUTER), x23, S::add(x01, x45));
                        let inner = S::mul_sub(S::splat(OUTER * OUTER), x12, x34);
                        let outer = S::mul_sub(S::splat(INNER * INNER), x12, x34);
                        for (kind, pair) in [ends, inner, outer].into_iter().enumerate() {
                            S::store(to.as_mut_ptr().add(combined.place(r, kind) + at), pair);
                        }
                    }
                }
            }
        }
    }
}

/// Of the floats from `from` on the pairs at even places, and those at odd ones.
///
/// # Safety
/// There must be two vectors of them.
#[inline(always)]
unsafe fn pairs<S: Simd>(from: *const f32) -> (S::V, S::V) {
    // SAFETY: the caller's.
    unsafe { S::unzip_pairs(S::load(from), S::load(from.add(S::LANES))) }
}

/// Results of at most [`VECTORS`] vectors of [`WIDEST`] squares.
struct Job<'a> {
    plan: &'a InSquares,
    images: usize,
    /// Of [`WIDEST`] squares.
    vectors: Range<usize>,
    combined: &'a Images,
    scratch: &'a mut Scratch,
    /// The first image's results.
    y: Shared,
}

impl Task for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Job { plan, images, vectors, combined, scratch, y } = self;
        let (rows, cols) = (plan.pass.rows, plan.pass.cols);
        let squares = images * plan.combined.squares();
        let (start, end) = (vectors.start * WIDEST, squares.min(vectors.end * WIDEST));
        // Vectors of this instruction set, a strip of them at a time.
        let count = (end - start).div_ceil(S::LANES);
        let strips = || (0..count).step_by(STRIP).map(|first| (first, STRIP.min(count - first)));
        let most = CHANNELS.min(cols);
        // Floats for each vector.
        let (panel, sum) = (most * ENTRIES * S::LANES, rows * ENTRIES * S::LANES);
        let sums = room(&mut scratch.sums, count * sum);
        let panels = room(&mut scratch.panels, count * panel);
        for channels in tiles(cols, most) {
            for (vector, width) in strips() {
                let panels = &mut panels[vector * panel..][..width * panel];
                let at = start + vector * S::LANES;
                S::run(Pack { images, channels: channels.clone(), combined, at, width, panels });
            }
            for tile in tiles(rows, tile_rows::<1>(S::REGISTERS)) {
                for (vector, width) in strips() {
                    let lanes = width * S::LANES;
                    let panel = &panels[vector * panel..][..channels.len() * ENTRIES * lanes];
                    // Where all channels fit, the sums of a tile are used up before the next one's, and stay in the first cache.
                    let sums = match most == cols {
                        true => &mut sums[..],
                        false => &mut sums[vector * sum + tile.start * ENTRIES * lanes..],
                    };
                    let sums = &mut sums[..tile.len() * ENTRIES * lanes];
                    for entry in 0..ENTRIES {
                        let filters = tile.start * ENTRIES * cols + (entry * cols + channels.start) * tile.len();
                        multiply::<S>(
                            tile.len(),
                            width,
                            Multiplication {
                                panel: &panel[entry * channels.len() * lanes..][..channels.len() * lanes],
                                matrix: &plan.filters[filters..][..channels.len() * tile.len()],
                                sums: &mut sums[entry * tile.len() * lanes..][..tile.len() * lanes],
                                begin: channels.start == 0,
                            },
                        );
                    }
                    if channels.end == cols {
                        let at = start + vector * S::LANES;
                        S::run(Store { plan, images, at, width, tile: tile.clone(), sums, y });
                    }
                }
            }
        }
    }
}

/// Lays down some channels of `width` vectors of squares, from `at` on: Bᵀ d B, `[entry][channel][square]`. Behind the last
/// square there are zeros.
pub(super) struct Pack<'a> {
    pub images: usize,
    pub channels: Range<usize>,
    pub combined: &'a Images,
    pub at: usize,
    pub width: usize,
    pub panels: &'a mut [f32],
}

impl Task for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Pack { images, ref channels, combined: Images { combined, floats }, at, width, ref panels } = self;
        let of_image = combined.squares();
        assert!(
            images > 0 && channels.end <= combined.channels && floats.len() >= images * combined.image + 2 * MARGIN
        );
        assert!(panels.len() >= ENTRIES * channels.len() * width * S::LANES);
        let mut strip = self;
        for v in 0..width {
            let (mut from, mut lanes) = ([0; WIDEST], std::array::from_fn(|_| 0..0));
            let mut count = 0;
            for (piece, image, place) in pieces(at + v * S::LANES, S::LANES, of_image, images) {
                from[count] = MARGIN + image * combined.image + 2 * place - 2 * piece.start;
                lanes[count] = 2 * piece.start..2 * piece.end;
                count += 1;
            }
            // SAFETY: the squares are those of the images, as asserted above; their samples lie in `floats`, and a vector may reach
            // over them by a margin. Pieces that are not used begin at 0.
            unsafe {
                match count {
                    1 if lanes[0].len() == 2 * S::LANES => strip.vector::<S, 1>(v, &from, &lanes),
                    0..=2 => strip.vector::<S, 2>(v, &from, &lanes),
                    _ => strip.vector::<S, WIDEST>(v, &from, &lanes),
                }
            }
        }
    }
}

impl Pack<'_> {
    /// Lays down vector `v`, whose squares lie in at most `N` images: for each, where the samples begin, less those of the lanes
    /// before, and its lanes of the 2 · LANES floats from there on.
    ///
    /// # Safety
    /// `floats` must have these floats, for all rows and channels.
    #[inline(always)]
    unsafe fn vector<S: Simd, const N: usize>(
        &mut self,
        v: usize,
        from: &[usize; WIDEST],
        lanes: &[Range<usize>; WIDEST],
    ) {
        let Images { combined, ref floats } = *self.combined;
        let floats = floats.as_ptr();
        let (step, terms) = (self.width * S::LANES, self.channels.len());
        let mut masks = [[S::splat(0.0); 2]; N];
        for n in 0..N {
            for half in 0..2 {
                let bits = std::array::from_fn::<u32, WIDEST, _>(|i| {
                    if lanes[n].contains(&(i + half * S::LANES)) { !0 } else { 0 }
                });
                // SAFETY: no vector has more lanes.
                masks[n][half] = unsafe { S::load(bits.map(f32::from_bits).as_ptr()) };
            }
        }
        let panels = self.panels.as_mut_ptr();
        for (term, channel) in self.channels.clone().enumerate() {
            for kind in 0..KINDS {
                let mut rows = [[S::splat(0.0); SPAN]; 2];
                for half in 0..2 {
                    for i in 0..SPAN {
                        let at = channel * combined.channel + combined.place(i, kind);
                        for n in 0..N {
                            // SAFETY: the caller's.
                            let piece = unsafe { S::load(floats.add(from[n] + at + half * S::LANES)) };
                            rows[half][i] = match N {
                                1 => piece,
                                _ => S::or_bits(S::and_bits(masks[n][half], piece), rows[half][i]),
                            };
                        }
                    }
                }
                let (low, high) = (six_of_samples::<S>(rows[0]), six_of_samples::<S>(rows[1]));
                for i in 0..SPAN {
                    let (first, second) = S::unzip(low[i], high[i]);
                    let entries = match kind {
                        0 => [first, second],
                        1 => plus_minus::<S>(INNER, first, second),
                        _ => plus_minus::<S>(OUTER, first, second),
                    };
                    for (entry, column) in entries.into_iter().zip([[0, 5], [1, 2], [3, 4]][kind]) {
                        let place = ((SPAN * i + column) * terms + term) * step + v * S::LANES;
                        // SAFETY: the panel has all entries, as [`Pack::run`] asserts.
                        unsafe { S::store(panels.add(place), entry) };
                    }
                }
            }
        }
    }
}

/// Bᵀ d.
#[inline(always)]
fn six_of_samples<S: Simd>(d: [S::V; SPAN]) -> [S::V; SPAN] {
    let sum = S::splat(INNER * INNER + OUTER * OUTER);
    let mut six = d;
    six[0] = S::mul_sub(sum, d[2], S::add(d[0], d[4]));
    for (i, point, other) in [(1, INNER, OUTER), (3, OUTER, INNER)] {
        let square = S::splat(other * other);
        let (odd, even) = (S::mul_sub(square, d[1], d[3]), S::mul_sub(square, d[2], d[4]));
        [six[i], six[i + 1]] = plus_minus::<S>(point, odd, even);
    }
    six[5] = S::mul_sub(sum, d[3], S::add(d[1], d[5]));
    six
}

/// Makes results of the sums of a strip, and stores them: Aᵀ m A.
struct Store<'a> {
    plan: &'a InSquares,
    images: usize,
    at: usize,
    width: usize,
    /// Channels.
    tile: Range<usize>,
    /// `[entry][channel][lane]`.
    sums: &'a [f32],
    y: Shared,
}

impl Task for Store<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Store {
            plan: InSquares { pass, combined: Combined { squares, .. }, .. },
            images,
            at,
            width,
            tile,
            sums,
            y,
        } = self;
        let (lanes, rows, relu) = (width * S::LANES, tile.len(), pass.epilogue.relu);
        let scale_shift = &pass.epilogue.scale_shift[tile.clone()];
        assert!(sums.len() >= ENTRIES * rows * lanes);
        let (height, row_len) = pass.windows.result;
        for v in 0..width {
            // For pieces of rows of squares: which of the four vectors with a row's results has some of theirs, in which lanes,
            // and where in the first channel they belong. A row or column of squares may reach over the image.
            let (mut stored, mut count) = (std::array::from_fn::<_, { WIDEST + SIDE }, _>(|_| (0, 0..0, 0, 0)), 0);
            for (piece, run, place) in pieces(at + v * S::LANES, S::LANES, squares.1, images * squares.0) {
                let (image, row) = (run / squares.0, run % squares.0);
                let part = SIDE * piece.start..(SIDE * piece.end).min(SIDE * piece.start + row_len - SIDE * place);
                let to = ((image * pass.rows + tile.start) * height + SIDE * row) * row_len + SIDE * place;
                for vector in part.start / S::LANES..part.end.div_ceil(S::LANES) {
                    let first = vector * S::LANES;
                    let lanes = part.start.max(first)..part.end.min(first + S::LANES);
                    let to = to + lanes.start - part.start;
                    stored[count] =
                        (vector, lanes.start - first..lanes.end - first, to, (height - SIDE * row).min(SIDE));
                    count += 1;
                }
            }
            for (m, &scale_shift) in scale_shift.iter().enumerate() {
                let mut sides = [[S::splat(0.0); SPAN]; SIDE];
                for j in 0..SPAN {
                    let mut column = [S::splat(0.0); SPAN];
                    for i in 0..SPAN {
                        let at = ((SPAN * i + j) * rows + m) * lanes + v * S::LANES;
                        // SAFETY: asserted above.
                        column[i] = unsafe { S::load(sums.as_ptr().add(at)) };
                    }
                    let four = four_of_six::<S>(column);
                    for i in 0..SIDE {
                        sides[i][j] = four[i];
                    }
                }
                for i in 0..SIDE {
                    let mut four = four_of_six::<S>(sides[i]);
                    for result in &mut four {
                        [*result] = finished::<S, 1, 1>([*result], scale_shift, relu);
                    }
                    let (even, odd) = (S::zip(four[0], four[2]), S::zip(four[1], four[3]));
                    let (first, second) = (S::zip(even.0, odd.0), S::zip(even.1, odd.1));
                    let vectors = [first.0, first.1, second.0, second.1];
                    for (vector, lanes, to, rows_there) in &stored[..count] {
                        if i < *rows_there {
                            let to = to + (m * height + i) * row_len;
                            // SAFETY: results of these images, which no other job makes.
                            unsafe { S::store_lanes(vectors[*vector], lanes.clone(), y.add(to).0) };
                        }
                    }
                }
            }
        }
    }
}

/// Aᵀ m.
#[inline(always)]
fn four_of_six<S: Simd>(m: [S::V; SPAN]) -> [S::V; SIDE] {
    let (p, q, zero) = (S::splat(INNER), S::splat(OUTER), S::splat(0.0));
    let (p2, q2) = (S::splat(INNER * INNER), S::splat(OUTER * OUTER));
    let (inner, outer) = (S::add(m[1], m[2]), S::add(m[3], m[4]));
    let odd_inner = S::mul_add(p, S::sub(m[1], m[2]), zero);
    let odd_outer = S::mul_add(q, S::sub(m[3], m[4]), zero);
    [
        S::add(S::add(m[0], inner), outer),
        S::add(odd_inner, odd_outer),
        S::mul_add(q2, outer, S::mul_add(p2, inner, zero)),
        S::mul_add(q2, odd_outer, S::mul_add(p2, odd_inner, m[5])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group_conv::{
        pass::{Epilogue, Nothing, Plan, Way},
        tests::{Case, operands, random},
    };
    use quarterturn_core::Device;

    /// Odd extents, squares that reach over the image, vectors with squares of several images, images that a job takes by
    /// themselves or together, more channels than are laid down at once, and padding from none to more than the filter.
    const CASES: [Case; 8] = [
        (Group::C1, false, 9, 17, 19, 7, 5, 3, 1, 1, 1),
        (Group::C1, false, 40, 16, 16, 3, 4, 3, 1, 0, 1),
        (Group::C1, false, 33, 16, 16, 1, 2, 3, 1, 1, 1),
        (Group::C1, false, 1, 16, 21, 28, 28, 3, 1, 1, 1),
        (Group::C1, false, 2, 70, 16, 9, 31, 3, 1, 2, 1),
        (Group::C1, false, 1, 16, 150, 6, 33, 3, 1, 3, 1),
        (Group::C1, false, 5, 16, 16, 14, 14, 3, 1, 4, 1),
        (Group::C1, false, 3, 16, 16, 3, 3, 3, 1, 0, 1),
    ];

    #[test]
    fn squares_are_the_sums_of_tiles_up_to_rounding() {
        for case in CASES {
            let (x, weight, bias, conv) = operands(case, &Device::Cpu);
            let e = Extents::new("test", x.shape(), weight.shape(), conv);
            assert!(InSquares::fits(&e, conv), "{case:?}");
            let dy = random(e.y(), 4, &Device::Cpu);
            let epilogue = |channels, relu| Epilogue {
                scale_shift: (0..channels).map(|c| (1.5, bias.f32s().get(c).copied().unwrap_or(0.5))).collect(),
                relu,
            };
            let run = |isa, way, images: usize| {
                let mut forward = Pass::forward(&e, conv, true, epilogue(e.c_out, true));
                let mut adjoint = Pass::adjoint(&e, conv, false, epilogue(e.c_in, false));
                [forward.way, adjoint.way] = [way; 2];
                [(forward, x.f32s()), (adjoint, dy.f32s())].map(|(pass, source)| {
                    let source = &source[..source.len() / e.batch * images];
                    Plan::new(pass, &e, conv, isa, weight.f32s()).over(source, &Nothing)
                })
            };
            for &isa in Isa::available() {
                let [squares, tiles] = [Way::Squares, Way::Tiles].map(|way| run(isa, way, e.batch));
                for (squares, tiles) in squares.iter().zip(&tiles) {
                    let most = tiles.iter().fold(0f32, |most, v| most.max(v.abs()));
                    assert_eq!(squares.len(), tiles.len());
                    for (a, b) in squares.iter().zip(tiles.iter()) {
                        assert!((a - b).abs() <= 2e-6 * most, "{case:?} {isa}: {a}, not {b}");
                    }
                }
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let again = pool.install(|| run(isa, Way::Squares, e.batch));
                    let equal = again.iter().zip(&squares).all(|(again, squares)| again[..] == squares[..]);
                    assert!(equal, "{case:?} {isa}, {threads} threads");
                }
                for (one, all) in run(isa, Way::Squares, 1).iter().zip(&squares) {
                    let equal = one.iter().zip(all.iter()).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(equal, "{case:?} {isa}: the first image's bits depend on the others");
                }
                if isa != Isa::Portable {
                    for (fused, widest) in squares.iter().zip(run(Isa::current(), Way::Squares, e.batch)) {
                        assert!(
                            fused.iter().zip(widest.iter()).all(|(a, b)| a.to_bits() == b.to_bits()),
                            "{case:?} {isa}"
                        );
                    }
                }
            }
        }
    }
}
