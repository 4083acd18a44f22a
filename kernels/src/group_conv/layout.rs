//! Padded copies of one image, laid out so that every tap of every output location lies a constant distance away.
//!
//! An output location ℓ = row · pitch + col counts along rows of the padded image; a panel of consecutive ℓ reads
//! consecutive floats for any tap. The few ℓ between the end of one row and the start of the next are computed and thrown
//! away. With stride s the padded image is split into its s² phases, each of which is read at stride 1.

/// Every panel of locations divides this.
pub(super) const PANEL_LOCATIONS: usize = 64;

/// How the samples of a sliding window lie in a padded image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
    stride: usize,
    /// Distance of the source's samples in the padded image: zeros between them.
    dilation: usize,
    /// Where the source's first sample lies in the padded image; negative if it is cut off.
    lead: isize,
    /// Extents of the padded image, as far as windows reach.
    rows: usize,
    cols: usize,
    /// Distance of two rows of a phase.
    pub pitch: usize,
    /// Samples of a phase.
    phase: usize,
}

impl Layout {
    pub(super) fn new(
        (height, width): (usize, usize),
        (out_height, out_width): (usize, usize),
        k: usize,
        stride: usize,
        dilation: usize,
        lead: isize,
    ) -> Self {
        let (rows, cols) = (stride * (out_height - 1) + k, stride * (out_width - 1) + k);
        let trail = cols as isize - lead - (dilation * (width - 1) + 1) as isize;
        // The zeros on the right of a row can serve as those on the left of the next, as long as the row of outputs
        // still fits.
        let shared = if stride == 1 { (lead.min(trail).max(0) as usize).min(k - 1) } else { 0 };
        let pitch = cols.div_ceil(stride) - shared;
        let phase = rows.div_ceil(stride) * pitch + shared;
        Layout { height, width, out_height, out_width, stride, dilation, lead, rows, cols, pitch, phase }
    }

    /// Output locations, those between rows included.
    pub(super) fn locations(&self) -> usize {
        (self.out_height - 1) * self.pitch + self.out_width
    }

    /// Samples of one padded plane.
    pub(super) fn plane(&self) -> usize {
        self.stride * self.stride * self.phase
    }

    /// Where in the plane the sample (row, col) of the padded image lies; for a tap: where it lies for location 0.
    #[inline(always)]
    pub(super) fn sample(&self, row: usize, col: usize) -> usize {
        let s = self.stride;
        (row % s * s + col % s) * self.phase + row / s * self.pitch + col / s
    }

    /// Calls `copy(source, target, count)` for each run of source samples and the place in the plane where it lies.
    #[inline(always)]
    pub(super) fn for_each_run(&self, mut copy: impl FnMut(usize, usize, usize)) {
        // The source indices whose place in the padded image, i · dilation + lead, is within `extent`.
        let inside = |source: usize, extent: usize| {
            let first = (-self.lead).max(0) as usize;
            let room = (extent as isize - self.lead).max(0) as usize;
            first.div_ceil(self.dilation)..room.div_ceil(self.dilation).min(source)
        };
        let place = |i: usize| ((i * self.dilation) as isize + self.lead) as usize;
        let columns = inside(self.width, self.cols);
        for r in inside(self.height, self.rows) {
            if columns.is_empty() {
                continue;
            }
            if self.stride == 1 && self.dilation == 1 {
                let target = self.sample(place(r), place(columns.start));
                copy(r * self.width + columns.start, target, columns.len());
            } else {
                for c in columns.clone() {
                    copy(r * self.width + c, self.sample(place(r), place(c)), 1);
                }
            }
        }
    }

    /// Floats of a flat plane of results: all locations, up to a whole number of panels.
    pub(super) fn flat_plane(&self) -> usize {
        self.locations().next_multiple_of(PANEL_LOCATIONS)
    }

    /// Copies an image into its padded planes. Their zeros must be there already.
    #[inline(always)]
    pub(super) fn pad(&self, source: &[f32], padded: &mut [f32]) {
        let planes = source.chunks_exact(self.height * self.width);
        for (source, padded) in planes.zip(padded.chunks_exact_mut(self.plane())) {
            self.for_each_run(|from, to, count| copy_row(&source[from..from + count], &mut padded[to..to + count]));
        }
    }

    /// As [`Layout::pad`], from `[c][h][row][col]` to `[padded sample][h][c]`.
    #[inline(always)]
    pub(super) fn pad_interleaved(&self, source: &[f32], planes: usize, channels: usize, padded: &mut [f32]) {
        let (area, depth) = (self.height * self.width, planes * channels);
        self.for_each_run(|from, to, count| {
            let samples = &mut padded[to * depth..(to + count) * depth];
            for h in 0..planes {
                let first = h * area + from;
                // Four samples at a time: half the cost of one.
                let mut quads = samples.chunks_exact_mut(4 * depth);
                for (i, quad) in quads.by_ref().enumerate() {
                    let (ab, cd) = quad.split_at_mut(2 * depth);
                    let ((a, b), (c, d)) = (ab.split_at_mut(depth), cd.split_at_mut(depth));
                    let [a, b, c, d] = [a, b, c, d].map(|sample| &mut sample[h * channels..][..channels]);
                    for channel in 0..channels {
                        let from = &source[channel * planes * area + first + 4 * i..][..4];
                        (a[channel], b[channel], c[channel], d[channel]) = (from[0], from[1], from[2], from[3]);
                    }
                }
                let done = count / 4 * 4;
                for (i, sample) in quads.into_remainder().chunks_exact_mut(depth).enumerate() {
                    for (channel, to) in sample[h * channels..][..channels].iter_mut().enumerate() {
                        *to = source[channel * planes * area + first + done + i];
                    }
                }
            }
        });
    }

    /// Copies the valid columns of flat planes to dense ones.
    #[inline(always)]
    pub(super) fn crop(&self, flat: &[f32], y: &mut [f32]) {
        for (flat, y) in flat.chunks_exact(self.flat_plane()).zip(y.chunks_exact_mut(self.out_height * self.out_width))
        {
            for (row, y) in y.chunks_exact_mut(self.out_width).enumerate() {
                copy_row(&flat[row * self.pitch..][..self.out_width], y);
            }
        }
    }

    /// The adjoint of [`Layout::crop`], into planes whose other columns must be zero already.
    #[inline(always)]
    pub(super) fn uncrop(&self, y: &[f32], flat: &mut [f32]) {
        let planes = flat.chunks_exact_mut(self.flat_plane());
        for (y, flat) in y.chunks_exact(self.out_height * self.out_width).zip(planes) {
            for (row, y) in y.chunks_exact(self.out_width).enumerate() {
                copy_row(y, &mut flat[row * self.pitch..][..self.out_width]);
            }
        }
    }
}

/// A short copy: vectors of fixed length, the last one overlapping, where a call to `memcpy` would cost more.
#[inline(always)]
fn copy_row(from: &[f32], to: &mut [f32]) {
    let n = from.len();
    let to = &mut to[..n];
    if n >= 16 {
        for i in (0..n - 15).step_by(16) {
            to[i..i + 16].copy_from_slice(&from[i..i + 16]);
        }
        to[n - 16..].copy_from_slice(&from[n - 16..]);
    } else if n >= 8 {
        to[..8].copy_from_slice(&from[..8]);
        to[n - 8..].copy_from_slice(&from[n - 8..]);
    } else {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    }
}
