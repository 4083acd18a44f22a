//! Tensors joined along an axis, and cut apart again.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{axis::Along, jobs::for_each_chunk, pad::narrow, sweep::PIECE};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Size;

use quarterturn_core::{Device, HostBuffer, Shape, Tensor, common_device};

/// `y[…, start_k + i, …] = operand_k[…, i, …]`, where `start_k` is the sum of the extents before: the operands one
/// after another along `axis` (PyTorch: `torch.cat`). All other axes must have the same length. Gradient: [`split`].
///
/// # Panics
/// If there is no operand, or their shapes do not fit, or the devices differ.
#[doc(alias = "cat")]
#[track_caller]
pub fn concat(operands: &[&Tensor], axis: usize) -> Tensor {
    let [first, others @ ..] = operands else { panic!("concat: expected at least one operand, got none") };
    let along = Along::of("concat", first.shape(), axis);
    for other in others {
        let fits = other.shape().rank() == first.shape().rank()
            && along.with_extent(other.shape(), along.extent) == first.shape();
        assert!(
            fits,
            "concat: expected operands that differ in axis {axis} alone, got {:?} and {:?}",
            first.shape(),
            other.shape()
        );
    }
    let device = common_device("concat", operands);
    if others.is_empty() {
        return (*first).clone();
    }
    let parts: Vec<Along> = operands.iter().map(|operand| Along::of("concat", operand.shape(), axis)).collect();
    let whole = Along { extent: parts.iter().map(|part| part.extent).sum(), ..along };
    let shape = whole.with_extent(first.shape(), whole.extent);
    match device {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            let copy = |outer: usize, y: &mut [f32]| {
                let mut start = 0;
                for (operand, part) in operands.iter().zip(&parts) {
                    y[start..][..part.len()].copy_from_slice(&operand.f32s()[outer * part.len()..][..part.len()]);
                    start += part.len();
                }
            };
            let len = whole.len().max(1);
            if y.len() <= PIECE {
                y.chunks_mut(len).enumerate().for_each(|(outer, y)| copy(outer, y));
            } else {
                for_each_chunk(&mut y, len, PIECE.div_ceil(len), &copy);
            }
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let mut y = Vec::with_capacity(shape.len());
            for outer in 0..whole.outer {
                for (operand, part) in operands.iter().zip(&parts) {
                    y.extend_from_slice(&operand.f64s()[outer * part.len()..][..part.len()]);
                }
            }
            Tensor::reference(shape, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let y = gpu.output(shape.len());
            let mut start = 0;
            for (operand, part) in operands.iter().zip(&parts) {
                let words = [part.len(), whole.len(), start].map(|v| v as u32);
                let (kernel, size) = (launch::kernel("concat", SHADER), Size::Threads(operand.len()));
                gpu.launch(&kernel, &[], &[operand.buffer()], &[&y], &words, size);
                start += part.len();
            }
            Tensor::gpu(shape, y)
        }
    }
}

/// `y[…, k, …] = operand_k[…]`: operands of one shape along a new axis at position `axis` (PyTorch: `torch.stack`).
/// Gradient: [`split`] into parts of 1, reshaped.
///
/// # Panics
/// If there is no operand, their shapes or devices differ, or `axis` is beyond their rank.
#[track_caller]
pub fn stack(operands: &[&Tensor], axis: usize) -> Tensor {
    let [first, ..] = operands else { panic!("stack: expected at least one operand, got none") };
    let shape = first.shape();
    assert!(axis <= shape.rank(), "stack: expected a new axis of 0 to {}, got {axis}", shape.rank());
    if let Some(other) = operands.iter().find(|other| other.shape() != shape) {
        panic!("stack: expected operands of one shape, got {shape:?} and {:?}", other.shape());
    }
    let mut dims = shape.dims().to_vec();
    dims.insert(axis, 1);
    let operands: Vec<Tensor> = operands.iter().map(|operand| operand.reshape(Shape::new(&dims))).collect();
    concat(&operands.iter().collect::<Vec<_>>(), axis)
}

/// The parts of `x` along `axis`, of these extents: inverse of [`concat()`].
///
/// # Panics
/// If the extents do not add up to that of the axis.
#[track_caller]
pub fn split(x: &Tensor, axis: usize, extents: &[usize]) -> Vec<Tensor> {
    let along = Along::of("split", x.shape(), axis);
    assert_eq!(
        extents.iter().sum::<usize>(),
        along.extent,
        "split: expected extents that add up to {}, got {extents:?}",
        along.extent
    );
    let mut start = 0;
    let mut part = |&extent: &usize| {
        start += extent;
        narrow(x, axis, start - extent, extent)
    };
    extents.iter().map(&mut part).collect()
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("concat.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{Tolerance, all_elements, check, check_equivariant, devices_and_reference, random, same_bits};

    /// Shapes, axis.
    const CASES: [(&[&[usize]], usize); 8] = [
        (&[&[5]], 0),
        (&[&[5], &[1], &[3]], 0),
        (&[&[2, 3], &[2, 1]], 1),
        (&[&[2, 3], &[4, 3]], 0),
        (&[&[2, 3, 4, 5, 6], &[2, 2, 4, 5, 6]], 1),
        (&[&[2, 3, 4, 5, 6], &[2, 3, 4, 5, 1], &[2, 3, 4, 5, 0], &[2, 3, 4, 5, 2]], 4),
        (&[&[3, 10, 4, 16, 17], &[3, 1, 4, 16, 17]], 1),
        (&[&[300, 64], &[300, 65]], 1),
    ];

    fn views(tensors: &[Tensor]) -> Vec<&Tensor> {
        tensors.iter().collect()
    }

    #[test]
    fn parity_and_the_way_back() {
        for (shapes, axis) in CASES {
            let name = format!("{shapes:?}, axis {axis}");
            let operands: Vec<Tensor> = shapes.iter().zip(1..).map(|(&shape, i)| random(shape, i)).collect();
            let extents: Vec<usize> = shapes.iter().map(|shape| shape[axis]).collect();
            check(&name, &views(&operands), Tolerance::Exact, |t| vec![concat(&views(t), axis)]);
            check(&name, &[&concat(&views(&operands), axis)], Tolerance::Exact, |t| split(&t[0], axis, &extents));
            for device in devices_and_reference() {
                let there: Vec<Tensor> = operands.iter().map(|x| x.to_device(&device).unwrap()).collect();
                let back = split(&concat(&views(&there), axis), axis, &extents);
                let same = back.iter().zip(&there).all(|(a, b)| a.shape() == b.shape() && same_bits(a, b));
                assert!(same, "{name} on {device}");
            }
        }
        for axis in 0..=3 {
            let operands = [1, 2, 3].map(|stream| random([2, 3, 17], stream));
            check(&format!("stack {axis}"), &views(&operands), Tolerance::Exact, |t| vec![stack(&views(t), axis)]);
        }
    }

    #[test]
    fn every_bit_is_kept_under_all_symmetries() {
        for (height, width) in [(1, 1), (5, 5), (4, 7)] {
            let shape = [2, 3, height, width];
            check_equivariant("channels", shape, &all_elements(), true, |x| concat(&[x, &narrow(x, 1, 1, 1)], 1));
            check_equivariant("images", shape, &all_elements(), true, |x| concat(&[x, x], 0));
        }
        check_equivariant("rows", [2, 5, 5], &all_elements(), false, |x| concat(&[x, x], 1));
    }

    #[test]
    fn joined_by_hand() {
        let (a, b) = (Tensor::cpu([2, 1], vec![1.0, 2.0].into()), Tensor::cpu([2, 1], vec![3.0, 4.0].into()));
        assert_eq!(concat(&[&a, &b], 1).f32s(), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(concat(&[&a, &b], 0).f32s(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!((stack(&[&a, &b], 2).dims(), stack(&[&a, &b], 0).dims()), (&[2, 1, 2][..], &[2, 2, 1][..]));
        assert_eq!(stack(&[&a, &b], 2).f32s(), [1.0, 3.0, 2.0, 4.0]);
    }

    #[test]
    #[should_panic(expected = "concat: expected operands that differ in axis 1 alone, got [2, 3] and [1, 3]")]
    fn operands_that_differ_elsewhere_are_refused() {
        concat(&[&random([2, 3], 1), &random([1, 3], 1)], 1);
    }

    #[test]
    #[should_panic(expected = "split: expected extents that add up to 3, got [1, 1]")]
    fn parts_that_leave_something_over_are_refused() {
        split(&random([2, 3], 1), 1, &[1, 1]);
    }
}
