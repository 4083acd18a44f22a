//! Permuting the axes.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    strided::{self, Strided},
    sweep::for_each_part,
};

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// `y[i_order[0], i_order[1], …] = x[i_0, i_1, …]`: axis `order[a]` of `x` becomes axis `a` of `y`. Inverse and gradient:
/// [`permute`] by [`inverse_order`].
///
/// # Panics
/// If `order` does not name every axis of `x` once.
#[track_caller]
pub fn permute(x: &Tensor, order: &[usize]) -> Tensor {
    let rank = x.shape().rank();
    let named = |axis: usize| order.contains(&axis);
    assert!(
        order.len() == rank && (0..rank).all(named),
        "permute: expected each of {rank} axes once, got {order:?} of {:?}",
        x.shape()
    );
    let strides = strided::dense(x.shape());
    let strided = Strided::new(order.iter().map(|&axis| (x.shape()[axis], [strides[axis]])));
    let dims: Vec<usize> = order.iter().map(|&axis| x.shape()[axis]).collect();
    if strided.inner_extent() == x.len() {
        // Only axes of extent 1 change places.
        return x.reshape(Shape::new(&dims));
    }
    match x.device() {
        Device::Cpu => {
            let (x, stride) = (x.f32s(), strided.inner_strides()[0]);
            let mut y = HostBuffer::scratch(x.len());
            for_each_part(&mut y, &|start, y| {
                strided.for_each_run(start..start + y.len(), |run, [at]| match stride {
                    1 => {
                        let len = run.len();
                        y[run].copy_from_slice(&x[at..][..len]);
                    }
                    _ => {
                        for (y, &x) in y[run].iter_mut().zip(x[at..].iter().step_by(stride)) {
                            *y = x;
                        }
                    }
                });
            });
            Tensor::cpu(Shape::new(&dims), y)
        }
        Device::Reference => {
            let value = |i: usize| x.f64s()[strided.offsets(i)[0]];
            Tensor::reference(Shape::new(&dims), (0..x.len()).map(value).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let words = strided::words(&strided, None, []);
            launch::each(&gpu, launch::kernel("permute", SHADER), &[], &[x], Shape::new(&dims), &words)
        }
    }
}

/// The order of axes that undoes `order`.
///
/// # Panics
/// If `order` does not name each axis below its length once.
#[track_caller]
pub fn inverse_order(order: &[usize]) -> Vec<usize> {
    let place = |axis: usize| order.iter().position(|&a| a == axis);
    let missing = |axis: usize| panic!("inverse_order: expected each axis once, got {order:?} without {axis}");
    (0..order.len()).map(|axis| place(axis).unwrap_or_else(|| missing(axis))).collect()
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("strided.wgsl"), include_str!("permute.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Group,
        parity::{Tolerance, check, check_adjoint, devices_and_reference, random, same_bits},
        transform_plane,
    };

    const CASES: [(&[usize], &[usize]); 12] = [
        (&[], &[]),
        (&[5], &[0]),
        (&[3, 4], &[1, 0]),
        (&[65, 300], &[1, 0]),
        (&[2, 3, 4], &[0, 1, 2]),
        (&[2, 3, 4], &[2, 0, 1]),
        (&[2, 3, 4, 5, 6], &[0, 3, 4, 1, 2]),
        (&[2, 3, 4, 5, 6], &[2, 1, 0, 3, 4]),
        (&[2, 3, 4, 17, 16], &[0, 1, 2, 4, 3]),
        (&[2, 1, 4, 1, 6], &[3, 0, 1, 4, 2]),
        (&[3, 2, 2, 3, 2, 3], &[5, 3, 1, 4, 2, 0]),
        (&[2, 0, 3], &[2, 1, 0]),
    ];

    #[test]
    fn parity_adjoint_and_inverse() {
        for (dims, order) in CASES {
            let (name, x, inverse) = (format!("{dims:?} {order:?}"), random(dims, 1), inverse_order(order));
            check(&name, &[&x], Tolerance::Exact, |t| vec![permute(&t[0], order)]);
            check_adjoint(&name, dims, |x| permute(x, order), |dy| permute(dy, &inverse));
            assert!(same_bits(&permute(&permute(&x, order), &inverse), &x), "{name}");
        }
    }

    /// Axes that stay beside the plane, and the transpose of the plane, which is a reflection itself.
    #[test]
    fn permutations_commute_with_the_symmetries() {
        for device in devices_and_reference() {
            let x = random([2, 3, 4, 5, 7], 1).to_device(&device).unwrap();
            for g in Group::D4.elements() {
                let moved = permute(&transform_plane(&x, g), &[2, 0, 1, 3, 4]);
                assert!(same_bits(&moved, &transform_plane(&permute(&x, &[2, 0, 1, 3, 4]), g)), "{g} on {device}");
                // flip_rows(rot90(x)) transposes; conjugation by it.
                let transpose = |x: &Tensor| permute(x, &[0, 1, 2, 4, 3]);
                let reflection = (4..8).find(|&r| same_bits(&transform_plane(&x, r), &transpose(&x))).unwrap();
                let conjugate = Group::D4.product(Group::D4.product(reflection, g), reflection);
                let moved = transpose(&transform_plane(&x, g));
                assert!(same_bits(&moved, &transform_plane(&transpose(&x), conjugate)), "{g} on {device}");
            }
        }
    }

    #[test]
    fn a_permutation_by_hand() {
        let x = Tensor::cpu([1, 2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0].into());
        let y = permute(&x, &[2, 0, 1]);
        assert_eq!((y.dims(), y.f32s()), (&[3, 1, 2][..], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0][..]));
    }

    #[test]
    #[should_panic(expected = "permute: expected each of 3 axes once, got [0, 2, 2] of [1, 2, 3]")]
    fn an_axis_named_twice_is_refused() {
        permute(&random([1, 2, 3], 1), &[0, 2, 2]);
    }
}
