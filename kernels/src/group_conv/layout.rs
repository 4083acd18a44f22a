//! Padded copies of one image, laid out so that every tap of every output location lies a constant distance away.
//!
//! An output location ℓ = row · pitch + col counts along rows of the padded image; a vector of consecutive ℓ reads
//! consecutive floats for any tap. The few ℓ between the end of one row and the start of the next are computed and thrown
//! away. With stride s the padded image is split into its s² phases, each of which is read at stride 1. A large image is
//! taken in bands of output rows, each with the source rows that its windows reach.

use super::{Conv, Extents};
use std::ops::Range;

/// Floats that the padded copy of a band may have: half a second-level cache, so that filters and results fit beside it.
const BAND_FLOATS: usize = 128 * 1024;

/// How windows go over a source: at a stride, with zeros around it, and, in an adjoint, with zeros between its samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// Extents of the source and of the result.
    pub source: (usize, usize),
    pub result: (usize, usize),
    /// Samples from a window's first tap to its last, and from one tap to the next.
    window: usize,
    dilation: usize,
    /// Distance of two results in the source.
    stride: usize,
    /// Distance of two source samples in the image that the windows go over, with zeros between them. Results fall into
    /// `step`² phases, by row and column modulo `step`; in each the same taps meet samples.
    pub step: usize,
    /// Zeros before the first sample of that image.
    pub lead: isize,
}

impl Windows {
    pub(super) fn forward(e: &Extents, conv: Conv) -> Self {
        Windows {
            source: (e.height, e.width),
            result: (e.out_height, e.out_width),
            window: e.window,
            dilation: conv.dilation,
            stride: conv.stride,
            step: 1,
            lead: conv.padding as isize,
        }
    }

    pub(super) fn adjoint(e: &Extents, conv: Conv) -> Self {
        Windows {
            source: (e.out_height, e.out_width),
            result: (e.height, e.width),
            window: e.window,
            dilation: conv.dilation,
            stride: 1,
            step: conv.stride,
            lead: e.window as isize - 1 - conv.padding as isize,
        }
    }

    /// The padded source: that of a stride-1 window for each phase of the result when the samples are spread out.
    pub(super) fn layout(&self, planes: usize, bands: usize) -> Layout {
        if self.step == 1 {
            return Layout::new(self.source, self.result, self.window, self.stride, self.lead, planes, bands);
        }
        let step = self.step as isize;
        let (first, last) = (self.nearest(0).0, (step + self.window as isize - 2 - self.lead).div_euclid(step));
        let result = (self.result.0.div_ceil(self.step), self.result.1.div_ceil(self.step));
        Layout::new(self.source, result, (last - first + 1) as usize, 1, -first, planes, bands)
    }

    /// Sample `at` of the spread-out image: the source sample there or before it, and how far before.
    fn nearest(&self, at: usize) -> (isize, isize) {
        let (at, step) = (at as isize - self.lead, self.step as isize);
        (at.div_euclid(step), at.rem_euclid(step))
    }

    /// Where in a plane of `layout` the tap (u, v) lies for location 0 of a phase; `None` where it meets the zeros between
    /// samples.
    pub(super) fn place(&self, layout: &Layout, (row, col): (usize, usize), (u, v): (usize, usize)) -> Option<usize> {
        let (u, v) = (u * self.dilation, v * self.dilation);
        if self.step == 1 {
            return Some(layout.sample(u, v));
        }
        match (self.nearest(row + u), self.nearest(col + v)) {
            ((u, 0), (v, 0)) => {
                let first = self.nearest(0).0;
                Some(layout.sample((u - first) as usize, (v - first) as usize))
            }
            _ => None,
        }
    }

    /// Row of the result where a phase of a band begins, and how many rows and columns it has there.
    pub(super) fn extent_of(&self, (row, col): (usize, usize), band: &Range<usize>) -> (usize, usize, usize) {
        let top = self.step * band.start + row;
        let rows = self.result.0.saturating_sub(top).div_ceil(self.step).min(band.len());
        (top, rows, self.result.1.saturating_sub(col).div_ceil(self.step))
    }
}

/// How the samples of a sliding window lie in the padded copy of a band.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    /// Extent of the window.
    k: usize,
    stride: usize,
    /// Where the source's first sample lies in the padded image; negative if it is cut off.
    lead: isize,
    /// Output rows of a band.
    band: usize,
    /// Columns of the padded image, as far as windows reach.
    cols: usize,
    /// Distance of two rows of a phase.
    pitch: usize,
    /// Samples of a phase.
    phase: usize,
}

impl Layout {
    /// For images of `planes` planes, in `bands` bands at least if there are as many rows.
    pub(super) fn new(
        (height, width): (usize, usize),
        (out_height, out_width): (usize, usize),
        k: usize,
        stride: usize,
        lead: isize,
        planes: usize,
        bands: usize,
    ) -> Self {
        let cols = stride * (out_width - 1) + k;
        let trail = cols as isize - lead - width as isize;
        // The zeros on the right of a row can serve as those on the left of the next, as long as the row of outputs
        // still fits.
        let shared = if stride == 1 { (lead.min(trail).max(0) as usize).min(k - 1) } else { 0 };
        let pitch = cols.div_ceil(stride) - shared;
        // What the window reaches beyond a band is copied for both its neighbours; a band of fewer rows than that would
        // be mostly such copies.
        let room = BAND_FLOATS / (stride * stride * pitch * planes);
        let most = room.saturating_sub(k.div_ceil(stride)).max(k).min(out_height.div_ceil(bands)).max(1);
        let band = out_height.div_ceil(out_height.div_ceil(most));
        let rows = stride * (band - 1) + k;
        let phase = rows.div_ceil(stride) * pitch + shared;
        Layout { height, width, out_height, out_width, k, stride, lead, band, cols, pitch, phase }
    }

    pub(super) fn bands(&self) -> usize {
        self.out_height.div_ceil(self.band)
    }

    /// Output rows of a band.
    pub(super) fn band(&self, index: usize) -> Range<usize> {
        index * self.band..self.out_height.min((index + 1) * self.band)
    }

    /// Output locations of `rows` rows, those between rows included.
    pub(super) fn locations(&self, rows: usize) -> usize {
        (rows - 1) * self.pitch + self.out_width
    }

    /// Samples of one padded plane.
    pub(super) fn plane(&self) -> usize {
        self.stride * self.stride * self.phase
    }

    /// Where in the plane the sample (row, col) of the padded image lies; for a tap: where it lies for location 0.
    pub(super) fn sample(&self, row: usize, col: usize) -> usize {
        let s = self.stride;
        (row % s * s + col % s) * self.phase + row / s * self.pitch + col / s
    }

    /// Copies what the windows of output rows `band` reach of an image into padded planes. Their zeros must be there
    /// already.
    #[inline(always)]
    pub(super) fn pad(&self, image: &[f32], band: Range<usize>, padded: &mut [f32]) {
        let s = self.stride;
        // Padded row r of the band is row r + first of the source, padded column c is column c − lead.
        let first = (s * band.start) as isize - self.lead;
        let rows = (s * (band.len() - 1) + self.k) as isize;
        let top = (-first).max(0) as usize;
        let bottom = (self.height as isize - first).clamp(0, rows) as usize;
        let left = self.lead.max(0) as usize;
        let right = (self.cols as isize).min(self.lead + self.width as isize).max(0) as usize;
        for phase in 0..s.min(self.k).pow(2) {
            // The first of the rows and columns of this phase, and how many there are.
            let (row, col) = (phase / s.min(self.k), phase % s.min(self.k));
            let row = top + (row + s - top % s) % s;
            let col = left + (col + s - left % s) % s;
            let rows = bottom.saturating_sub(row).div_ceil(s);
            if rows == 0 || col >= right {
                continue;
            }
            let place = self.sample(row, col);
            let from = (row as isize + first) as usize * self.width + (col as isize - self.lead) as usize;
            let planes = image.chunks_exact(self.height * self.width);
            for (source, padded) in planes.zip(padded.chunks_exact_mut(self.plane())) {
                for i in 0..rows {
                    let source = &source[from + i * s * self.width..][..right - col];
                    copy_strided(source, s, &mut padded[place + i * self.pitch..]);
                }
            }
        }
    }

    /// Columns of the result.
    pub(super) fn out_width(&self) -> usize {
        self.out_width
    }

    /// Distance of two rows among the locations.
    pub(super) fn pitch(&self) -> usize {
        self.pitch
    }
}

/// Copies every `stride`-th element.
#[inline(always)]
fn copy_strided(from: &[f32], stride: usize, to: &mut [f32]) {
    match stride {
        1 => copy_row(from, to),
        2 => {
            let (pairs, last) = from.as_chunks::<2>();
            for (to, from) in to.iter_mut().zip(pairs) {
                *to = from[0];
            }
            if let [from] = last {
                to[pairs.len()] = *from;
            }
        }
        _ => to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from),
    }
}

/// A short copy: vectors of fixed length, the last one overlapping, where a call to `memcpy` would cost more.
#[inline(always)]
pub(super) fn copy_row(from: &[f32], to: &mut [f32]) {
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
