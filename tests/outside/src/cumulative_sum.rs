//! An operation with a kernel of its own for every device.

use quarterturn::{
    autograd::Var,
    core::{
        Device, Tensor,
        gpu::{Kernel, Size},
    },
};

/// `y[…, i] = x[…, 0] + … + x[…, i]`: the sums of the last axis so far.
///
/// # Panics
/// If `x` has no axis.
#[track_caller]
pub fn cumulative_sum<'t>(x: &Var<'t>) -> Var<'t> {
    // x[j] is part of every y[i] with i ≥ j: its gradient is the sum of theirs, from the end.
    Var::custom("cumulative_sum", &[x], scan(x.value(), false), |dy| vec![Some(scan(&dy, true))])
}

static KERNEL: Kernel = Kernel::new("cumulative_sum", include_str!("cumulative_sum.wgsl"));

#[track_caller]
fn scan(x: &Tensor, backward: bool) -> Tensor {
    let shape = x.shape();
    let Some(&length) = shape.dims().last() else { panic!("cumulative_sum: expected an axis, got {shape:?}") };
    match x.device() {
        Device::Cpu => {
            let mut y = x.f32s().to_vec();
            for row in y.chunks_mut(length.max(1)) {
                add_up(row, backward);
            }
            Tensor::cpu(shape, y.into())
        }
        Device::Reference => {
            let mut y = x.f64s().to_vec();
            for row in y.chunks_mut(length.max(1)) {
                add_up(row, backward);
            }
            Tensor::reference(shape, y)
        }
        Device::Gpu(gpu) => {
            let y = gpu.output(shape.len());
            let uniform = [length as u32, u32::from(backward)];
            let rows = Size::Threads(shape.len() / length.max(1));
            gpu.launch(&KERNEL, &[], &[x.buffer()], &[&y], &uniform, rows);
            Tensor::gpu(shape, y)
        }
    }
}

fn add_up<T: Copy + Default + std::ops::Add<Output = T>>(row: &mut [T], backward: bool) {
    let mut sum = T::default();
    let mut add = |value: &mut T| {
        sum = sum + *value;
        *value = sum;
    };
    match backward {
        false => row.iter_mut().for_each(&mut add),
        true => row.iter_mut().rev().for_each(&mut add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{all_devices, assert_close, random};
    use quarterturn::autograd::{Tape, gradcheck};

    const SHAPES: [&[usize]; 4] = [&[1], &[5], &[3, 2, 7], &[130, 33]];

    fn value_and_gradient(x: &Tensor, dy: &Tensor) -> [Tensor; 2] {
        let tape = Tape::new();
        let x = tape.variable(x.clone());
        let y = cumulative_sum(&x);
        let gradients = y.backward_from(dy.clone());
        [y.value().clone(), gradients.wrt(&x).unwrap().clone()]
    }

    #[test]
    fn by_hand_on_every_device() {
        for device in all_devices() {
            let of = |values: [f32; 4]| Tensor::from_vec([2, 2], values.to_vec(), &device).unwrap();
            let [y, dx] = value_and_gradient(&of([1.0, 2.0, 3.0, 4.0]), &of([1.0, 10.0, 100.0, 1000.0]));
            assert_eq!(y.to_vec().unwrap(), [1.0, 3.0, 3.0, 7.0], "{device}");
            assert_eq!(dx.to_vec().unwrap(), [11.0, 10.0, 1100.0, 1000.0], "{device}");
        }
    }

    #[test]
    fn devices_agree_and_the_gradient_is_right() {
        for shape in SHAPES {
            let [x, dy] = [1, 2].map(|stream| random(shape, stream, &Device::Reference));
            assert_eq!(gradcheck(|_, v| cumulative_sum(&v[0]), std::slice::from_ref(&x), 1e-7), Ok(()));
            let expected = value_and_gradient(&x, &dy);
            for device in all_devices() {
                let got = value_and_gradient(&x.to_device(&device).unwrap(), &dy.to_device(&device).unwrap());
                for (got, expected) in got.iter().zip(&expected) {
                    assert_close(&format!("{shape:?} on {device}"), got, expected);
                }
            }
        }
    }
}
