//! How the GPU kernels cut a convolution, as a function of its shape alone.
//!
//! A [`Tiling`] changes neither which terms a result sums nor their order, so all give the same bits; the tests hold each
//! against the others and against the kernel without tiles. What does order terms, [`Chunks`], is decided here too, from
//! the shape alone, so that a result depends on no measurement and no adapter.

use crate::Group;

/// Workgroup memory that every WebGPU implementation has, in bytes.
pub(super) const LEAST_MEMORY: usize = 16_384;

/// The most that pays: on C4 a second channel of wide layers saves a fifteenth of the time on an H100, on D4 the smaller
/// number of workgroups that share a multiprocessor costs half as much again (benches/results/2026-11-26-gpu.md).
fn most_memory(group: Group) -> usize {
    if group == Group::D4 { LEAST_MEMORY } else { 2 * LEAST_MEMORY }
}

/// Windows whose factors the weight gradient has in memory at a time: their samples are 32 contiguous bytes.
pub(super) const SPAN: usize = 8;
/// Widths of strips, from the best, and the memory that the samples of a channel should take at most: those of a wide
/// strip have many others between them.
const STRIPS: [usize; 5] = [64, 32, 16, 8, 4];
const SAMPLES_MEMORY: usize = LEAST_MEMORY / 2;
/// Invocations that keep a large GPU busy, and windows that a workgroup of the weight gradient should sum at least, for
/// its start and end to be worth it.
pub(super) const BUSY: usize = 1 << 16;
const SHORTEST_CHUNK: usize = 64;
/// Runs, and vectors of result channels, that a workgroup of the weight gradient has at most: 256 invocations fetch them.
const UNITS: usize = 256 / SPAN;

/// Result channels that one vector of left factors stands for.
pub(super) fn channels_per_vector(group: Group) -> usize {
    if group == Group::C1 { 4 } else { 1 }
}

/// Bytes of a filter's and of a sample's spectrum.
fn factor_bytes(group: Group) -> (usize, usize) {
    match group {
        Group::C1 => (16, 4),
        Group::C4 => (16, 16),
        Group::D4 => (32, 32),
    }
}

/// What a tiling depends on: one phase of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub group: Group,
    /// Planes of a source channel.
    pub planes: usize,
    /// Taps that are summed over, and samples from a window's first to its last along one axis.
    pub taps: usize,
    pub span: usize,
    pub stride: usize,
    /// Rows and columns of windows.
    pub rows: usize,
    pub columns: usize,
    pub images: usize,
    pub phases: usize,
    /// Source channels, and result channels in vectors.
    pub c_in: usize,
    pub vectors: usize,
}

impl Geometry {
    /// Strips, and windows across each.
    pub fn strips(&self) -> (usize, usize) {
        let columns = |widest: usize| self.columns.div_ceil(self.columns.div_ceil(widest));
        let fits = |&columns: &usize| 4 * self.planes * self.range_of(columns, 64) <= SAMPLES_MEMORY;
        let columns = STRIPS.map(columns).into_iter().find(fits).unwrap_or(columns(STRIPS[4]));
        (self.columns.div_ceil(columns), columns)
    }

    /// Windows of all strips, whether they exist or not.
    pub fn positions(&self) -> usize {
        let (strips, columns) = self.strips();
        self.images * strips * self.rows * columns
    }

    /// Samples of a strip's row, and of a strip.
    pub fn strip(&self) -> (usize, usize) {
        let row = self.row_of(self.strips().1);
        (row, ((self.rows - 1) * self.stride + self.span) * row)
    }

    fn row_of(&self, columns: usize) -> usize {
        (columns - 1) * self.stride + self.span
    }

    /// Samples from the first of some windows in succession to their last, wherever they begin.
    pub fn range(&self, windows: usize) -> usize {
        self.range_of(self.strips().1, windows)
    }

    /// Each step to the next window, each to the next row and each to the next strip passes so many.
    fn range_of(&self, columns: usize, windows: usize) -> usize {
        let row = self.row_of(columns);
        let steps = windows - 1;
        let (rows, strips) = (steps.div_ceil(columns), steps.div_ceil(columns * self.rows));
        let along = steps * self.stride + rows * self.stride * row.saturating_sub(columns);
        along + strips * row * self.span.saturating_sub(self.stride) + (self.span - 1) * (row + 1) + 1
    }
}

/// Who makes what in a workgroup of a convolution or of its `dx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Vectors of result channels that an invocation makes.
    pub tile: usize,
    /// Invocations across the result's channels, and across windows.
    pub rows: usize,
    pub columns: usize,
    /// Source channels that are staged at a time.
    pub channels: usize,
}

impl Tiling {
    /// Vectors of result channels of an invocation, at most; and its windows.
    fn most(group: Group) -> (usize, usize) {
        match group {
            Group::C1 => (5, 4),
            Group::C4 => (8, 2),
            Group::D4 => (4, 2),
        }
    }

    /// As few channels beyond the last as possible, enough invocations, workgroups of 64 to 256 where the channels allow,
    /// and what is staged within `available` bytes. Two source channels at a time are enough: of more, drivers unroll too
    /// much. None where windows reach so far that not even the samples of eight of them fit.
    pub fn of(geometry: &Geometry, available: usize) -> Option<Self> {
        let memory = most_memory(geometry.group).min(available);
        let (most, windows) = Self::most(geometry.group);
        let busy = |tile: usize| {
            geometry.phases * geometry.positions().div_ceil(windows) * geometry.vectors.div_ceil(tile) >= BUSY
        };
        let waste = |tile: usize| geometry.vectors.next_multiple_of(tile) - geometry.vectors;
        // The largest that leaves enough invocations, or else the smallest.
        let order = |tile: usize| if busy(tile) { most - tile } else { most + tile };
        let tile = (most.div_ceil(2)..=most)
            .min_by_key(|&tile| (waste(tile), order(tile)))
            .unwrap_or(most)
            .min(geometry.vectors);
        let needed = geometry.vectors.div_ceil(tile);
        let rows = needed.div_ceil(needed.div_ceil(4));
        let halves = |most: usize| std::iter::successors(Some(most), |&n| (n > 1).then_some(n / 2));
        let mut all = halves(tile).flat_map(|tile| {
            halves(rows)
                .flat_map(move |rows| [64, 32, 16, 8, 4].map(|columns| Tiling { tile, rows, columns, channels: 1 }))
        });
        let fits = |tiling: &Tiling| tiling.memory(geometry) <= memory;
        let tiling = all.find(fits)?;
        let two = Tiling { channels: 2, ..tiling };
        Some(if geometry.c_in > 1 && fits(&two) { two } else { tiling })
    }

    /// Invocations of a workgroup.
    pub fn threads(self) -> usize {
        self.rows * self.columns
    }

    /// Vectors of result channels that a workgroup makes.
    pub fn vectors(self) -> usize {
        self.tile * self.rows
    }

    /// Windows that a workgroup makes.
    pub fn windows(self, group: Group) -> usize {
        self.columns * Self::most(group).1
    }

    /// Bytes of workgroup memory: staged samples and filters, and where the samples, the taps and their filters' entries
    /// are.
    pub fn memory(self, geometry: &Geometry) -> usize {
        let range = geometry.range(self.windows(geometry.group));
        let places = if geometry.group == Group::D4 { 64 } else { 32 };
        let filters = geometry.taps * self.vectors() * factor_bytes(geometry.group).0;
        self.channels * (4 * geometry.planes * range + filters) + 4 * range + geometry.taps * places
    }
}

/// Source channels of a run of the weight gradient: they share the places of their samples. At most eight (on D4, whose
/// spectra are twice as large, four), and as equal as can be.
pub(super) fn depth(group: Group, c_in: usize) -> usize {
    let most = if group == Group::D4 { 4 } else { 8 };
    c_in.div_ceil(c_in.div_ceil(most))
}

/// How the weight gradient's sum over windows is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Vectors of result channels, and terms, that an invocation makes.
    pub tile: usize,
    pub count: usize,
    /// Invocations across the result's channels, across terms, and slices of them.
    pub rows: usize,
    pub columns: usize,
    pub slices: usize,
    /// Invocations that share the channels of a run.
    pub split: usize,
    /// Runs of a workgroup, and workgroups across all runs.
    pub runs: usize,
    pub bands: usize,
    /// Workgroups across the result's channels.
    pub parts: usize,
    /// Windows of a chunk, and chunks.
    pub chunk: usize,
    pub chunks: usize,
}

impl Chunks {
    /// For `runs` runs (the bias's included) over `positions` windows.
    pub fn of(group: Group, c_in: usize, c_out: usize, runs: usize, positions: usize) -> Self {
        let depth = depth(group, c_in);
        let vectors = c_out.div_ceil(channels_per_vector(group));
        let rows_of = |tile: usize| {
            let (needed, most) = (vectors.div_ceil(tile), if group == Group::D4 { 4 } else { UNITS / tile });
            needed.div_ceil(needed.div_ceil(most))
        };
        let made = |tile: usize| vectors.next_multiple_of(tile * rows_of(tile));
        // Four where it wastes no more: fewer registers.
        let tile = if group != Group::D4 && made(5) < made(4) { 5 } else { 4 };
        let rows = rows_of(tile);
        let counts: &[usize] = if group == Group::D4 { &[2] } else { &[4, 3] };
        // As few terms as possible, some of them in vain; a band costs a dozen more, for its left factors.
        let shapes = counts.iter().flat_map(|&count| [32, 16, 8, 4, 2].map(|columns| (count, columns)));
        let fits = shapes.filter(|&(count, columns)| count * columns >= depth && rows * columns <= 128);
        let bands_of = |count: usize, columns: usize| runs.div_ceil((count * columns / depth).min(UNITS));
        let cost = |&(count, columns): &(usize, usize)| bands_of(count, columns) * (count * columns + 12);
        let base = |(count, columns): (usize, usize)| {
            let bands = bands_of(count, columns);
            Chunks {
                tile,
                count,
                rows,
                columns,
                slices: 1,
                split: 1,
                runs: runs.div_ceil(bands),
                bands,
                ..Chunks::default()
            }
        };
        let small = |shape: &(usize, usize)| base(*shape).memory(group) <= LEAST_MEMORY;
        let chosen = base(fits.filter(small).min_by_key(cost).expect("a few columns always fit"));
        // Few slices, for each has few of the steps between two barriers; but enough invocations.
        let slices = [(8, 128), (4, 128), (2, 256)].into_iter().find_map(|(slices, most)| {
            let sliced = Chunks { slices, ..chosen };
            (sliced.slice() * slices <= most && sliced.memory(group) <= LEAST_MEMORY).then_some(slices)
        });
        let sliced = Chunks { slices: slices.unwrap_or(1), ..chosen };
        let split = (sliced.slice() * sliced.slices / (SPAN * sliced.runs)).clamp(1, depth);
        let parts = vectors.div_ceil(tile * rows);
        let workgroups = (2 * BUSY).div_ceil(sliced.threads() * sliced.bands * parts);
        let chunk = positions.div_ceil(workgroups).max(SHORTEST_CHUNK).next_multiple_of(SPAN);
        Chunks { split, parts, chunk, chunks: positions.div_ceil(chunk), ..sliced }
    }

    /// Vectors of result channels that a workgroup makes.
    pub fn vectors(self) -> usize {
        self.tile * self.rows
    }

    /// Invocations of a slice.
    pub fn slice(self) -> usize {
        self.rows * self.columns
    }

    /// Invocations of a workgroup: each fetches a run, or a share of it, and a vector of `dy`, at one window.
    pub fn threads(self) -> usize {
        (self.slice() * self.slices).max(SPAN * self.vectors().max(self.runs)).next_multiple_of(32)
    }

    /// Vectors that hold the sums of half the slices.
    pub fn exchange(self) -> usize {
        (self.slices / 2 * self.slice()).max(1)
    }

    /// Distances of the steps of the left and the right panel: odd, so that the invocations that fill a panel, step by
    /// step, meet different banks.
    pub fn pitches(self) -> [usize; 2] {
        [self.vectors() | 1, (self.columns * self.count) | 1]
    }

    /// Bytes of workgroup memory: the panels, the sums of half the slices, and bases and goals of two times [`SPAN`].
    pub fn memory(self, group: Group) -> usize {
        let (left, right) = factor_bytes(group);
        let [left_pitch, right_pitch] = self.pitches();
        SPAN * (left_pitch * left + right_pitch * right + 2 * (16 + 4)) + 16 * self.exchange()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(group: Group, [k, stride, extent]: [usize; 3], c_in: usize, vectors: usize) -> Geometry {
        Geometry {
            group,
            planes: group.order(),
            taps: k * k,
            span: k,
            stride,
            rows: extent,
            columns: extent,
            images: 128,
            phases: 1,
            c_in,
            vectors,
        }
    }

    #[test]
    fn every_shape_fits_every_adapter() {
        for group in [Group::C1, Group::C4, Group::D4] {
            for channels in (1..=80).chain([96, 127, 128, 255, 256, 512, 1000, 4096]) {
                for [k, stride, extent] in [
                    [1, 1, 8],
                    [1, 2, 28],
                    [3, 1, 4],
                    [3, 1, 28],
                    [3, 2, 112],
                    [3, 1, 1000],
                    [5, 1, 28],
                    [7, 2, 300],
                    [9, 1, 64],
                ] {
                    let e =
                        geometry(group, [k, stride, extent], channels, channels.div_ceil(channels_per_vector(group)));
                    for available in [LEAST_MEMORY, 2 * LEAST_MEMORY] {
                        let tiling = Tiling::of(&e, available).expect("a tiling");
                        assert!(tiling.memory(&e) <= available, "{e:?} {tiling:?} {}", tiling.memory(&e));
                        assert!(tiling.threads() <= 256, "{e:?} {tiling:?}");
                    }
                }
                for c_in in [1, 2, 3, 7, 8, 9, 10, 16, 20, 64, 65, 256] {
                    for runs in [2, 5, 10, 26, 50, 9 * c_in + 1] {
                        let chunks = Chunks::of(group, c_in, channels, runs, 1000);
                        assert!(chunks.memory(group) <= LEAST_MEMORY, "{group} {c_in} {channels} {chunks:?}");
                        assert!(chunks.threads() <= 256 && SPAN.is_multiple_of(chunks.slices), "{chunks:?}");
                        assert!(chunks.runs * depth(group, c_in) <= chunks.columns * chunks.count, "{chunks:?}");
                        assert!(chunks.runs * chunks.bands >= runs, "{chunks:?}");
                    }
                }
            }
        }
    }

    /// The bound of the samples is no guess: no run of windows needs more, and some need all.
    #[test]
    fn the_range_holds_every_run_of_windows() {
        for (k, stride, extent, windows) in
            [(3, 1, 28, 128), (3, 1, 7, 64), (3, 2, 15, 32), (1, 2, 9, 16), (5, 1, 100, 64)]
        {
            let e = geometry(Group::C4, [k, stride, extent], 1, 1);
            let ((strips, columns), (row, strip)) = (e.strips(), e.strip());
            let place = |position: usize| {
                let at = position % (e.rows * columns);
                position / (e.rows * columns) * strip + (at / columns * row + at % columns) * stride
            };
            let needed = |first: usize| place(first + windows - 1) + (k - 1) * (row + 1) - place(first) + 1;
            let most = (0..2 * strips * e.rows * columns).map(needed).max().unwrap();
            assert!(most <= e.range(windows), "{k} {stride} {extent} {windows}: {most} of {}", e.range(windows));
            assert!(
                most + 2 * row >= e.range(windows),
                "{k} {stride} {extent} {windows}: {most} of {}",
                e.range(windows)
            );
        }
    }

    /// What the shapes of the paper's networks and of ResNets get.
    #[test]
    fn common_widths_waste_little() {
        for (group, c_out, made) in [
            (Group::C1, 16, 16),
            (Group::C1, 20, 20),
            (Group::C1, 64, 64),
            (Group::C4, 10, 10),
            (Group::C4, 8, 8),
            (Group::C4, 16, 16),
            (Group::C4, 32, 32),
            (Group::C4, 64, 64),
            (Group::C4, 256, 256),
            (Group::D4, 7, 8),
            (Group::D4, 16, 16),
        ] {
            let each = channels_per_vector(group);
            let tiling = Tiling::of(&geometry(group, [3, 1, 28], c_out, c_out / each), LEAST_MEMORY).unwrap();
            assert_eq!((c_out / each).next_multiple_of(tiling.vectors()) * each, made, "{group} {c_out} {tiling:?}");
        }
    }

    #[test]
    fn a_gradient_has_few_chunks_of_enough_windows() {
        let p4cnn = Chunks::of(Group::C4, 10, 10, 19, 128 * 28 * 28);
        assert_eq!((p4cnn.count, p4cnn.columns, p4cnn.rows, p4cnn.slices), (3, 32, 2, 2));
        assert_eq!((p4cnn.bands, p4cnn.parts, p4cnn.runs), (1, 1, 19));
        assert_eq!((p4cnn.chunk, p4cnn.chunks), (128, 784));
        assert_eq!(Chunks::of(Group::C4, 10, 16, 19, 128 * 28 * 28).slices, 1);
        let tiny = Chunks::of(Group::C4, 2, 3, 10, 1);
        assert_eq!((tiny.chunk, tiny.chunks), (SHORTEST_CHUNK, 1));
    }
}
