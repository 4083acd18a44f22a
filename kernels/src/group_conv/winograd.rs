//! Plain 3×3 convolutions at stride 1 on the CPU, forward and input gradient: Winograd's F(2×2, 3×3) (Lavin & Gray 2016).
//!
//! Results are made in *squares* of 2×2, each from the 4×4 samples d under its windows and from the filter g:
//!
//! ```text
//! y = Aᵀ [Σ_c (G g Gᵀ) ⊙ (Bᵀ d B)] A
//!
//!      ⎡1  0 −1  0⎤        ⎡ 1   0   0 ⎤
//! Bᵀ = ⎢0  1  1  0⎥    G = ⎢ ½   ½   ½ ⎥    Aᵀ = ⎡1  1  1  0⎤
//!      ⎢0 −1  1  0⎥        ⎢ ½  −½   ½ ⎥         ⎣0  1 −1 −1⎦
//!      ⎣0  1  0 −1⎦        ⎣ 0   0   1 ⎦
//! ```
//!
//! That is 16 products for 4 results instead of 36. Each of the 16 entries is a matrix product over the channels by itself.
//! The error is that of the plain sum or less. On a group the irreps save as much, and the two do not multiply: see
//! `benches/results/2026-11-28-cpu.md`.

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

/// Entries of a transformed square, and of a transformed filter.
pub(super) const ENTRIES: usize = 16;
/// Vectors of [`WIDEST`] squares that are laid down and multiplied together.
const VECTORS: usize = 4;
/// Squares of the images that a job takes together, at least.
const TOGETHER: usize = 13 * WIDEST;
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
    /// Whether it pays. Measured: `benches/results/2026-11-28-cpu.md`.
    pub(super) fn pays(e: &Extents, conv: Conv) -> bool {
        let plain = conv.group == Group::C1 && e.k == 3 && conv.stride == 1 && conv.dilation == 1;
        let combined = 2 * e.c_in.max(e.c_out) * e.height.max(e.out_height) * e.width.max(e.out_width);
        plain && e.c_in.min(e.c_out) >= 16 && combined <= FLOATS
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
                let mut g = [[S::splat(0.0); 4]; 3];
                for u in 0..3 {
                    let mut row = [S::splat(0.0); 3];
                    for v in 0..3 {
                        // SAFETY: `taps` has `WIDEST` lanes, a multiple of any vector's.
                        row[v] = unsafe { S::load(taps[3 * u + v].as_ptr().add(first)) };
                    }
                    g[u] = four_taps::<S>(row);
                }
                for j in 0..4 {
                    let column = four_taps::<S>([g[0][j], g[1][j], g[2][j]]);
                    for i in 0..4 {
                        let at = ((4 * i + j) * cols + col) * rows + first;
                        // SAFETY: lanes of this tile, for which there is room, as asserted above.
                        unsafe { S::store_lanes(column[i], 0..S::LANES.min(rows - first), to.as_mut_ptr().add(at)) };
                    }
                }
            }
        }
    }
}

/// G g.
#[inline(always)]
fn four_taps<S: Simd>(g: [S::V; 3]) -> [S::V; 4] {
    let half = S::splat(0.5);
    let outer = S::mul_add(half, S::add(g[0], g[2]), S::splat(0.0));
    [g[0], S::mul_add(half, g[1], outer), S::mul_sub(half, g[1], outer), g[2]]
}

/// How *combined samples* lie. Along each row of the padded image, B combines neighbours:
///
/// ```text
/// outer[2t]     = d[2t]     − d[2t + 2]      inner[2t]     = d[2t + 1] + d[2t + 2]
/// outer[2t + 1] = d[2t + 1] − d[2t + 3]      inner[2t + 1] = d[2t + 2] − d[2t + 1]
/// ```
///
/// for each square t of the row. These are the entries 0 and 3, and 1 and 2. Of each channel the even rows come first, then the
/// odd ones; of each, first the outer combinations, then the inner ones. So all squares of an image stand in a row, and each of
/// their four rows of samples lies a constant distance away.
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
    channel: usize,
    image: usize,
    /// Rows of the padded plane, and the distance of two.
    rows: usize,
    pitch: usize,
}

impl Combined {
    pub(super) fn of(windows: &Windows, channels: usize) -> Self {
        let (rows, cols) = (windows.result.0.div_ceil(2), windows.result.1.div_ceil(2));
        let kind = (rows + 1) * 2 * cols + WIDEST;
        Combined {
            channels,
            source: windows.source,
            lead: windows.lead,
            squares: (rows, cols),
            row: 2 * cols,
            kind,
            channel: 4 * kind,
            image: channels * 4 * kind,
            rows: 2 * rows + 2,
            pitch: 2 * cols + 2 + WIDEST,
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
}

/// The combined samples of some images; behind them a padded plane to make them in.
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
        let Combined { source: (height, width), lead, row, kind, channel, rows, pitch, .. } = *combined;
        let inside = |extent: usize, padded: usize| {
            let start = lead.max(0).min(padded as isize);
            start as usize..(extent as isize + lead).clamp(start, padded as isize) as usize
        };
        let (down, across) = (inside(height, rows), inside(width, row + 2));
        let bits = |odd: u32, even: u32| {
            let lanes = std::array::from_fn::<_, WIDEST, _>(|i| f32::from_bits(if i % 2 == 1 { odd } else { even }));
            // SAFETY: no vector has more lanes.
            unsafe { S::load(lanes.as_ptr()) }
        };
        let (odd, even, sign) = (bits(!0, 0), bits(0, !0), bits(1 << 31, 0));
        assert!(plane.len() >= rows * pitch && pitch >= row + 2 + S::LANES && to.len() >= combined.image);
        for (samples, to) in source.chunks_exact(height * width).zip(to.chunks_exact_mut(channel)) {
            if !across.is_empty() {
                for r in down.clone() {
                    let from = (r as isize - lead) as usize * width + (across.start as isize - lead) as usize;
                    copy_row(&samples[from..][..across.len()], &mut plane[r * pitch + across.start..]);
                }
            }
            for r in 0..rows {
                let place = r % 2 * 2 * kind + r / 2 * row;
                for at in (0..row).step_by(S::LANES) {
                    // SAFETY: `pitch` and `kind` have room for a vector behind a row, as asserted above; what is written behind
                    // a row is written again with the next one.
                    unsafe {
                        let d = plane.as_ptr().add(r * pitch + at);
                        let (d0, d1, d2) = (S::load(d), S::load(d.add(1)), S::load(d.add(2)));
                        let other = S::or_bits(S::and_bits(even, d2), S::and_bits(odd, S::add_bits(d0, sign)));
                        S::store(to.as_mut_ptr().add(place + at), S::sub(d0, d2));
                        S::store(to.as_mut_ptr().add(place + kind + at), S::add(d1, other));
                    }
                }
            }
        }
    }
}

/// Results of at most [`VECTORS`] vectors of squares.
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
        assert!(channels.end <= combined.channels && floats.len() >= images * combined.image + 2 * MARGIN);
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
            // over them by a margin.
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
            for (kind, columns) in [[0, 3], [1, 2]].into_iter().enumerate() {
                let mut rows = [[S::splat(0.0); 4]; 2];
                for half in 0..2 {
                    for i in 0..4 {
                        let at = channel * combined.channel + (i % 2 * 2 + kind) * combined.kind + i / 2 * combined.row;
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
                let (low, high) = (four_rows::<S>(rows[0]), four_rows::<S>(rows[1]));
                for i in 0..4 {
                    let (first, second) = S::unzip(low[i], high[i]);
                    let place = |column: usize| ((4 * i + column) * terms + term) * step + v * S::LANES;
                    // SAFETY: the panel has all entries, as [`Pack::run`] asserts.
                    unsafe {
                        S::store(panels.add(place(columns[0])), first);
                        S::store(panels.add(place(columns[1])), second);
                    }
                }
            }
        }
    }
}

/// Bᵀ d.
#[inline(always)]
fn four_rows<S: Simd>(d: [S::V; 4]) -> [S::V; 4] {
    [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[1], d[3])]
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
            // Pieces of rows of squares: their part of the 2 · LANES results of each of two rows, and where in the first channel
            // they belong. A row or column of squares may reach over the image.
            let (mut stored, mut count) = (std::array::from_fn::<_, WIDEST, _>(|_| (0..0, 0, 0)), 0);
            for (piece, run, place) in pieces(at + v * S::LANES, S::LANES, squares.1, images * squares.0) {
                let (image, row) = (run / squares.0, run % squares.0);
                let part = 2 * piece.start..(2 * piece.end).min(2 * piece.start + row_len - 2 * place);
                let to = ((image * pass.rows + tile.start) * height + 2 * row) * row_len + 2 * place;
                stored[count] = (part, to, (height - 2 * row).min(2));
                count += 1;
            }
            for (m, &scale_shift) in scale_shift.iter().enumerate() {
                let mut sides = [[S::splat(0.0); 4]; 2];
                for j in 0..4 {
                    let mut m_j = [S::splat(0.0); 4];
                    for i in 0..4 {
                        // SAFETY: asserted above.
                        m_j[i] = unsafe { S::load(sums.as_ptr().add(((4 * i + j) * rows + m) * lanes + v * S::LANES)) };
                    }
                    [sides[0][j], sides[1][j]] = two::<S>(m_j);
                }
                for i in 0..2 {
                    let [left, right] = two::<S>(sides[i]);
                    let [left] = finished::<S, 1, 1>([left], scale_shift, relu);
                    let [right] = finished::<S, 1, 1>([right], scale_shift, relu);
                    let (low, high) = S::zip(left, right);
                    for (part, to, rows_there) in &stored[..count] {
                        if i >= *rows_there {
                            continue;
                        }
                        let to = to + (m * height + i) * row_len;
                        let middle = part.end.min(S::LANES).max(part.start);
                        // SAFETY: results of these images, which no other job makes.
                        unsafe {
                            if part.start < middle {
                                S::store_lanes(low, part.start..middle, y.add(to).0);
                            }
                            if middle < part.end {
                                let first = middle - S::LANES..part.end - S::LANES;
                                S::store_lanes(high, first, y.add(to + middle - part.start).0);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Aᵀ m.
#[inline(always)]
fn two<S: Simd>(m: [S::V; 4]) -> [S::V; 2] {
    [S::add(S::add(m[0], m[1]), m[2]), S::sub(S::sub(m[1], m[2]), m[3])]
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
            assert!(InSquares::pays(&e, conv), "{case:?}");
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
