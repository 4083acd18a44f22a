//! How the GPU kernels cut a convolution, as a function of its shape alone.
//!
//! A [`Tiling`] changes neither which terms a result sums nor their order, so all give the same bits; the tests hold each
//! against the others and against the kernel without tiles. What does order the terms, [`depth`] and [`Chunks`], is
//! decided here too, from the shape alone, so that a result depends on no measurement and no adapter.

use crate::Group;

/// Workgroup memory that every WebGPU implementation has, in bytes.
pub(super) const WORKGROUP_MEMORY: usize = 16_384;
/// Windows of a step of the weight gradient: their samples are 32 contiguous bytes.
pub(super) const SPAN: usize = 8;
/// Workgroups that keep a large GPU busy, and windows that one should sum at least, for its start and end to be worth it.
const BUSY: usize = 1024;
const SHORTEST_CHUNK: usize = 64;

/// Source channels that are summed together under each tap: at most eight (on D4, whose spectra are twice as large, four),
/// and as equal as can be.
pub(super) fn depth(group: Group, c_in: usize) -> usize {
    let most = if group == Group::D4 { 4 } else { 8 };
    c_in.div_ceil(c_in.div_ceil(most))
}

/// Result channels that one vector of left factors stands for.
pub(super) fn channels_per_vector(group: Group) -> usize {
    if group == Group::C1 { 4 } else { 1 }
}

/// Right factors of an invocation.
pub(super) fn count(group: Group) -> usize {
    if group == Group::D4 { 2 } else { 4 }
}

/// Bytes of a left and of a right factor.
fn factor_bytes(group: Group) -> (usize, usize) {
    match group {
        Group::C1 => (16, 4),
        Group::C4 => (16, 16),
        Group::D4 => (32, 32),
    }
}

/// Who makes what in a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Vectors of result channels that an invocation makes, 4 or 5.
    pub tile: usize,
    /// Invocations across the result's channels.
    pub rows: usize,
    /// Invocations across windows (of the weight gradient: across terms).
    pub columns: usize,
}

impl Tiling {
    /// The tiling of a convolution or of its `dx`: as few channels beyond the last as possible, workgroups of 64 to 256
    /// where the channels allow, panels within [`WORKGROUP_MEMORY`].
    pub fn of(group: Group, c_in: usize, c_out: usize) -> Self {
        let (tile, rows) = Self::across(group, c_out, 8);
        let wide = |&columns: &usize| {
            let tiling = Tiling { tile, rows, columns };
            tiling.threads() <= 64 && tiling.memory(group, c_in) <= WORKGROUP_MEMORY
        };
        let columns = [64, 32].into_iter().find(wide).unwrap_or(16);
        Tiling { tile, rows, columns }
    }

    /// The tiling of the weight gradient.
    pub fn of_gradient(group: Group, c_out: usize) -> Self {
        let (tile, rows) = Self::across(group, c_out, if group == Group::D4 { 4 } else { 8 });
        let columns = if group == Group::C1 && rows == 1 { 32 } else { 16 };
        Tiling { tile, rows, columns }
    }

    /// Tile and rows, at most `most` of them.
    fn across(group: Group, c_out: usize, most: usize) -> (usize, usize) {
        let vectors = c_out.div_ceil(channels_per_vector(group));
        let rows = |tile: usize| {
            let needed = vectors.div_ceil(tile);
            needed.div_ceil(needed.div_ceil(most))
        };
        let made = |tile: usize| vectors.next_multiple_of(tile * rows(tile));
        // Four where it wastes no more: fewer registers.
        let tile = if group != Group::D4 && made(5) < made(4) { 5 } else { 4 };
        (tile, rows(tile))
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
        self.columns * count(group)
    }

    /// Invocations that share the samples of one window: as few as leave none idle.
    pub fn split(self, group: Group) -> usize {
        let gcd = (1..=self.rows).rfind(|d| self.rows.is_multiple_of(*d) && count(group).is_multiple_of(*d));
        self.rows / gcd.unwrap_or(1)
    }

    /// Bytes of workgroup memory of a convolution: the panels of a run, and a base per window.
    pub fn memory(self, group: Group, c_in: usize) -> usize {
        let (left, right) = factor_bytes(group);
        depth(group, c_in) * (self.vectors() * left + self.windows(group) * right) + 16 * self.windows(group)
    }
}

/// How the weight gradient's sum over windows is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    pub tiling: Tiling,
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
        let tiling = Tiling::of_gradient(group, c_out);
        let fitting = (tiling.columns * count(group) / depth(group, c_in)).min(runs);
        let bands = runs.div_ceil(fitting);
        let parts = c_out.div_ceil(channels_per_vector(group) * tiling.vectors());
        let chunk = positions.div_ceil(BUSY.div_ceil(bands * parts)).max(SHORTEST_CHUNK);
        Chunks { tiling, runs: runs.div_ceil(bands), bands, parts, chunk, chunks: positions.div_ceil(chunk) }
    }

    /// Distances of the steps of the left and the right panel: odd, so that the invocations that fill a panel, step by
    /// step, meet different banks.
    pub fn pitches(self, group: Group) -> [usize; 2] {
        [self.tiling.vectors() | 1, self.tiling.windows(group) | 1]
    }

    /// Bytes of workgroup memory: the panels, and two steps' bases and goals.
    pub fn memory(self, group: Group) -> usize {
        let (left, right) = factor_bytes(group);
        let [left_pitch, right_pitch] = self.pitches(group);
        SPAN * (left_pitch * left + right_pitch * right + 2 * (16 + 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_fits_every_adapter() {
        for group in [Group::C1, Group::C4, Group::D4] {
            for channels in (1..=80).chain([96, 127, 128, 255, 256, 512, 1000, 4096]) {
                for c_in in [1, 2, 3, 7, 8, 9, 10, 16, 20, 64, 65, 256] {
                    let tiling = Tiling::of(group, c_in, channels);
                    assert!(tiling.memory(group, c_in) <= WORKGROUP_MEMORY, "{group} {c_in} {channels} {tiling:?}");
                    assert!((16..=256).contains(&tiling.threads()), "{group} {channels} {tiling:?}");
                    for runs in [2, 5, 10, 26, 50, 9 * c_in + 1] {
                        let chunks = Chunks::of(group, c_in, channels, runs, 1000);
                        assert!(chunks.memory(group) <= WORKGROUP_MEMORY, "{group} {c_in} {channels} {chunks:?}");
                        assert!((16..=256).contains(&chunks.tiling.threads()), "{group} {channels} {chunks:?}");
                        assert!(chunks.runs * depth(group, c_in) <= chunks.tiling.windows(group), "{chunks:?}");
                        assert!(chunks.runs * chunks.bands >= runs, "{chunks:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_invocation_idles_while_panels_are_filled() {
        for group in [Group::C1, Group::C4, Group::D4] {
            for rows in 1..=8 {
                let tiling = Tiling { tile: 4, rows, columns: 16 };
                assert!((tiling.windows(group) * tiling.split(group)).is_multiple_of(tiling.threads()), "{tiling:?}");
            }
        }
    }

    /// What the shapes of the paper's networks and of ResNets get.
    #[test]
    fn common_widths_waste_little() {
        let made = |group, c_out| {
            let tiling = Tiling::of(group, c_out, c_out);
            c_out.next_multiple_of(tiling.vectors() * channels_per_vector(group))
        };
        for (group, c_out, most) in [
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
            assert_eq!(made(group, c_out), most, "{group} {c_out}");
        }
    }

    #[test]
    fn a_gradient_has_few_chunks_of_enough_windows() {
        let p4cnn = Chunks::of(Group::C4, 10, 10, 19, 128 * 28 * 28);
        assert_eq!((p4cnn.bands, p4cnn.parts, p4cnn.runs), (2, 1, 10));
        assert_eq!((p4cnn.chunk, p4cnn.chunks), (196, 512));
        let tiny = Chunks::of(Group::C4, 2, 3, 10, 1);
        assert_eq!((tiny.chunk, tiny.chunks), (SHORTEST_CHUNK, 1));
    }
}
