//! Padded copies of one image, laid out so that every tap of every output location lies a constant distance away.
//!
//! An output location ℓ = row · pitch + col counts along rows of the padded image; a panel of consecutive ℓ reads
//! consecutive floats for any tap. The few ℓ between the end of one row and the start of the next are computed and thrown
//! away. With stride s the padded image is split into its s² phases, each of which is read at stride 1.

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
}
