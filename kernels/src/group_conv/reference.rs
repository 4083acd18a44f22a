//! The formula as it stands, in `f64`: the oracle of the fast paths.

use super::{Conv, Extents};
use crate::Group;

/// Calls `visit(y, x, w)` with the flat indices of every product `w · x` that the formula adds to `y`.
fn for_each_product(e: &Extents, conv: Conv, mut visit: impl FnMut(usize, usize, usize)) {
    for n in 0..e.batch {
        for o in 0..e.c_out {
            for g in 0..e.g_out {
                for c in 0..e.c_in {
                    for d in 0..e.g_in {
                        // weight[o, c, d] with d = g⁻¹h reads the input at h = g·d.
                        let h = if e.g_in == 1 { 0 } else { conv.group.product(g, d) };
                        for row in 0..e.k {
                            for col in 0..e.k {
                                let (u, v) = Group::move_entry(g, row, col, e.k, e.k);
                                let w = (((o * e.c_in + c) * e.g_in + d) * e.k + row) * e.k + col;
                                for i in 0..e.out_height {
                                    for j in 0..e.out_width {
                                        // Outside the input are zeros.
                                        let (Some(r), Some(s)) = (
                                            (i * conv.stride + u * conv.dilation)
                                                .checked_sub(conv.padding)
                                                .filter(|&r| r < e.height),
                                            (j * conv.stride + v * conv.dilation)
                                                .checked_sub(conv.padding)
                                                .filter(|&s| s < e.width),
                                        ) else {
                                            continue;
                                        };
                                        let y =
                                            (((n * e.c_out + o) * e.g_out + g) * e.out_height + i) * e.out_width + j;
                                        let x = (((n * e.c_in + c) * e.g_in + h) * e.height + r) * e.width + s;
                                        visit(y, x, w);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The channel that element `y` of the output belongs to.
fn channel(e: &Extents, y: usize) -> usize {
    y / (e.g_out * e.out_height * e.out_width) % e.c_out
}

pub(super) fn forward(e: &Extents, conv: Conv, x: &[f64], w: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let mut y: Vec<f64> = (0..e.y().len()).map(|i| bias.map_or(0.0, |b| b[channel(e, i)])).collect();
    for_each_product(e, conv, |yi, xi, wi| y[yi] += w[wi] * x[xi]);
    y
}

pub(super) fn dx(e: &Extents, conv: Conv, dy: &[f64], w: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; e.x().len()];
    for_each_product(e, conv, |yi, xi, wi| dx[xi] += w[wi] * dy[yi]);
    dx
}

/// In the extents of the convolution whose adjoint it is.
pub(super) fn transposed(e: &Extents, conv: Conv, x: &[f64], w: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let mut y = dx(e, conv, x, w);
    if let Some(bias) = bias {
        let channel = e.g_in * e.height * e.width;
        y.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i / channel % e.c_in]);
    }
    y
}

pub(super) fn dw(e: &Extents, conv: Conv, x: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut dw = vec![0.0; e.weight().len()];
    for_each_product(e, conv, |yi, xi, wi| dw[wi] += dy[yi] * x[xi]);
    let mut db = vec![0.0; e.c_out];
    for (i, d) in dy.iter().enumerate() {
        db[channel(e, i)] += d;
    }
    (dw, db)
}
