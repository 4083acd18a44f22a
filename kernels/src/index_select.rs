//! Chosen entries of an axis, in any order.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{axis::Along, sweep::for_each_piece};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, GpuBuffer, Size};

use quarterturn_core::{Device, HostBuffer, Tensor};

/// `y[…, i, …] = x[…, indices[i], …]` along `axis`; an index may be named more than once, or not at all. Gradient:
/// [`index_select_vjp`].
///
/// # Panics
/// If `axis` is not one of `x`, or does not have an index.
#[track_caller]
pub fn index_select(x: &Tensor, axis: usize, indices: &[usize]) -> Tensor {
    let along = Along::of("index_select", x.shape(), axis);
    assert!(
        indices.iter().all(|&i| i < along.extent),
        "index_select: expected places of axis {axis} of {:?}, got {indices:?}",
        x.shape()
    );
    let shape = along.with_extent(x.shape(), indices.len());
    let inner = along.inner;
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            let y_len = (indices.len() * inner).max(1);
            for_each_piece(x.f32s(), along.len().max(1), &mut y, y_len, &|_, x, y| {
                for (y, &i) in y.chunks_exact_mut(inner).zip(indices) {
                    y.copy_from_slice(&x[i * inner..][..inner]);
                }
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let y = Along::of("index_select", shape, axis);
            let value = |i: usize| {
                let (outer, place, inner) = y.position(i);
                x.f64s()[along.index(outer, indices[place], inner)]
            };
            Tensor::reference(shape, (0..shape.len()).map(value).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let y = gpu.output(shape.len());
            let words = [inner, along.extent, indices.len()].map(|v| v as u32);
            let (kernel, list) = (launch::kernel("index_select", SHADER), constant(&gpu, indices));
            gpu.launch(&kernel, &[], &[x.buffer(), &list], &[&y], &words, Size::Threads(shape.len()));
            Tensor::gpu(shape, y)
        }
    }
}

/// Gradient of [`index_select`] from an axis of `extent`: each entry gets the sum of the gradients of its copies,
/// `dx[…, k, …] = Σ_i [indices[i] = k] dy[…, i, …]`, in the order of i.
///
/// # Panics
/// If `axis` of `dy` is not as long as there are indices, or an index is not below `extent`.
#[track_caller]
pub fn index_select_vjp(dy: &Tensor, axis: usize, indices: &[usize], extent: usize) -> Tensor {
    let along = Along::of("index_select_vjp", dy.shape(), axis);
    assert!(
        along.extent == indices.len() && indices.iter().all(|&i| i < extent),
        "index_select_vjp: expected {} places below {extent}, got {indices:?} for {:?}",
        along.extent,
        dy.shape()
    );
    let shape = along.with_extent(dy.shape(), extent);
    let inner = along.inner;
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::zeros(shape.len());
            let dx_len = (extent * inner).max(1);
            for_each_piece(dy.f32s(), along.len().max(1), &mut dx, dx_len, &|_, dy, dx| {
                for (dy, &i) in dy.chunks_exact(inner).zip(indices) {
                    for (dx, &dy) in dx[i * inner..].iter_mut().zip(dy) {
                        *dx += dy;
                    }
                }
            });
            Tensor::cpu(shape, dx)
        }
        Device::Reference => {
            let (x, mut dx) = (Along::of("index_select_vjp", shape, axis), vec![0.0; shape.len()]);
            for (i, &dy) in dy.f64s().iter().enumerate() {
                let (outer, place, inner) = along.position(i);
                dx[x.index(outer, indices[place], inner)] += dy;
            }
            Tensor::reference(shape, dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let dx = gpu.output(shape.len());
            let words = [inner, extent, indices.len()].map(|v| v as u32);
            let (kernel, list) = (launch::kernel("index_select_vjp", SHADER), constant(&gpu, indices));
            gpu.launch(&kernel, &[], &[dy.buffer(), &list], &[&dx], &words, Size::Threads(shape.len()));
            Tensor::gpu(shape, dx)
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("index_select.wgsl"));

/// Indices in a buffer, as the bits of its floats.
#[cfg(feature = "gpu")]
fn constant(gpu: &Gpu, indices: &[usize]) -> GpuBuffer {
    gpu.constant(&indices.iter().map(|&i| f32::from_bits(i as u32)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{Tolerance, all_elements, check, check_adjoint, check_equivariant, random};

    #[test]
    fn parity_and_adjoint() {
        let cases: [(&[usize], usize, &[usize]); 7] = [
            (&[5], 0, &[4, 0, 0]),
            (&[2, 3, 4], 1, &[2, 1, 0]),
            (&[2, 3, 4], 2, &[1, 1, 3, 1]),
            (&[2, 3, 8, 5, 5], 2, &[0, 4, 1, 7, 2, 6, 3, 5]),
            (&[5, 7, 4, 16, 17], 2, &[0, 2, 1, 3]),
            (&[300, 65], 0, &[299, 5]),
            (&[2, 3], 1, &[]),
        ];
        for (dims, axis, indices) in cases {
            let (name, x) = (format!("{dims:?}, axis {axis}, {indices:?}"), random(dims, 1));
            check(&name, &[&x], Tolerance::Exact, |t| vec![index_select(&t[0], axis, indices)]);
            let dy = index_select(&x, axis, indices);
            check(&name, &[&dy], Tolerance::Terms(4), |t| vec![index_select_vjp(&t[0], axis, indices, dims[axis])]);
            let back = |dy: &Tensor| index_select_vjp(dy, axis, indices, dims[axis]);
            check_adjoint(&name, dims, |x| index_select(x, axis, indices), back);
        }
    }

    #[test]
    fn every_bit_is_kept_under_all_symmetries() {
        let channels = |x: &Tensor| index_select(x, 1, &[2, 0, 2]);
        check_equivariant("channels", [2, 3, 4, 7], &all_elements(), true, channels);
        check_equivariant("rows", [2, 3, 5, 5], &all_elements(), false, |x| index_select(x, 2, &[0, 0, 1, 2, 3]));
    }

    #[test]
    #[should_panic(expected = "index_select: expected places of axis 1 of [2, 3], got [0, 3]")]
    fn an_index_beyond_the_axis_is_refused() {
        index_select(&random([2, 3], 1), 1, &[0, 3]);
    }
}
