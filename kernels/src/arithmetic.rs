//! Arithmetic of two operands that spread over each other's axes, as in NumPy; the spreading itself, and its adjoint.
//!
//! Shapes are aligned at their last axes, and missing leading axes count as extent 1. Two extents fit if they are equal or
//! one of them is 1; along that axis its only value is used throughout: `y[…, i, …] = a[…, i, …] ∘ b[…, 0, …]`.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    order,
    reduce::sum_axes,
    simd::wide,
    strided::{self, Strided},
    sweep::{self, for_each_part},
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Gpu;

use quarterturn_core::{Device, HostBuffer, Shape, Tensor, common_device};
use std::cmp::Ordering;

/// `y = a + b`, with broadcasting: an axis of length 1 is repeated to the length of the other operand's axis, as in
/// NumPy and PyTorch.
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn add(a: &Tensor, b: &Tensor) -> Tensor {
    binary("add", a, b, |a, b| a + b, |a, b| a + b)
}

/// `y = a − b`; broadcasts as [`add`].
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn sub(a: &Tensor, b: &Tensor) -> Tensor {
    binary("sub", a, b, |a, b| a - b, |a, b| a - b)
}

/// `y = a · b`; broadcasts as [`add`].
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn mul(a: &Tensor, b: &Tensor) -> Tensor {
    binary("mul", a, b, |a, b| a * b, |a, b| a * b)
}

/// `y = a / b`; broadcasts as [`add`].
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn div(a: &Tensor, b: &Tensor) -> Tensor {
    binary("div", a, b, |a, b| a / b, |a, b| a / b)
}

/// `y = max(a, b)`, NaN if either is NaN; broadcasts as [`add`].
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn maximum(a: &Tensor, b: &Tensor) -> Tensor {
    binary("maximum", a, b, order::greater, order::greater)
}

/// `y = min(a, b)`, NaN if either is NaN; broadcasts as [`add`].
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn minimum(a: &Tensor, b: &Tensor) -> Tensor {
    binary("minimum", a, b, |a, b| -order::greater(-a, -b), |a, b| -order::greater(-a, -b))
}

/// Gradients (da, db) of [`maximum`]: `dy` goes to the greater operand, and half of it to each where they are equal.
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn maximum_vjp(a: &Tensor, b: &Tensor, dy: &Tensor) -> (Tensor, Tensor) {
    (sum_to(&mul(dy, &greater(a, b)), a.shape()), sum_to(&mul(dy, &greater(b, a)), b.shape()))
}

/// Gradients (da, db) of [`minimum`]: `dy` goes to the smaller operand, and half of it to each where they are equal.
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn minimum_vjp(a: &Tensor, b: &Tensor, dy: &Tensor) -> (Tensor, Tensor) {
    // a is the smaller where b is the greater.
    (sum_to(&mul(dy, &greater(b, a)), a.shape()), sum_to(&mul(dy, &greater(a, b)), b.shape()))
}

/// 1 where `a > b` or either is NaN, ½ where they are equal, 0 elsewhere.
#[track_caller]
fn greater(a: &Tensor, b: &Tensor) -> Tensor {
    let f = |a: f64, b: f64| match a.partial_cmp(&b) {
        Some(Ordering::Less) => 0.0,
        Some(Ordering::Equal) => 0.5,
        Some(Ordering::Greater) | None => 1.0,
    };
    binary("greater", a, b, move |a, b| f(f64::from(a), f64::from(b)) as f32, f)
}

/// 1 where `a` and `b` are equal or both NaN, else 0.
#[track_caller]
pub(crate) fn equal(a: &Tensor, b: &Tensor) -> Tensor {
    let f = |a: f64, b: f64| f64::from(u8::from(a == b || (a.is_nan() && b.is_nan())));
    binary("equal", a, b, move |a, b| f(f64::from(a), f64::from(b)) as f32, f)
}

/// `x` broadcast to `shape`: `y[…, i, …] = x[…, 0, …]` along axes of length 1, and along new leading axes. Its gradient
/// is [`sum_to`].
///
/// # Panics
/// If `x` cannot be broadcast to `shape`.
#[doc(alias = "expand")]
#[track_caller]
pub fn broadcast(x: &Tensor, shape: Shape) -> Tensor {
    let Some(strides) = strided::spread(x.shape(), shape) else {
        panic!("broadcast: expected a shape that {:?} spreads over, got {shape:?}", x.shape())
    };
    if x.shape() == shape {
        return x.clone();
    }
    let strided = Strided::new(shape.dims().iter().zip(strides).map(|(&extent, stride)| (extent, [stride])));
    match x.device() {
        Device::Cpu => {
            let (x, inner) = (x.f32s(), strided.inner_strides()[0]);
            let mut y = HostBuffer::scratch(shape.len());
            for_each_part(&mut y, &|start, y| {
                strided.for_each_run(start..start + y.len(), |run, [x_at]| match inner {
                    0 => y[run].fill(x[x_at]),
                    _ => {
                        let len = run.len();
                        y[run].copy_from_slice(&x[x_at..][..len]);
                    }
                });
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            Tensor::reference(shape, (0..shape.len()).map(|i| x.f64s()[strided.offsets(i)[0]]).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => launch::each(
            &gpu,
            launch::kernel("broadcast", SHADER),
            &[],
            &[x],
            shape,
            &strided::words(&strided, None, []),
        ),
    }
}

/// Sums `x` over the axes along which [`broadcast`] would repeat values of a tensor of shape `shape`: the gradient of
/// [`broadcast`].
///
/// # Panics
/// If `shape` cannot be broadcast to that of `x`.
#[track_caller]
pub fn sum_to(x: &Tensor, shape: Shape) -> Tensor {
    if x.shape() == shape {
        return x.clone();
    }
    assert!(
        strided::spread(shape, x.shape()).is_some(),
        "sum_to: expected a shape that spreads over {:?}, got {shape:?}",
        x.shape()
    );
    let missing = x.shape().rank() - shape.rank();
    let axes: Vec<usize> = (0..x.shape().rank()).filter(|&axis| axis < missing || shape[axis - missing] == 1).collect();
    sum_axes(x, &axes, true).reshape(shape)
}

/// `y = x + offset`. Except on [`Device::Reference`], the offset is rounded to `f32` first.
pub fn add_scalar(x: &Tensor, offset: f64) -> Tensor {
    match x.device() {
        Device::Cpu => {
            let offset = offset as f32;
            Tensor::cpu(x.shape(), sweep::map(x.f32s(), |x| x + offset))
        }
        Device::Reference => Tensor::reference(x.shape(), x.f64s().iter().map(|&x| x + offset).collect()),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_unary(&gpu, "add_scalar", x, offset),
    }
}

/// `y = x^exponent`. A negative `x` to an integer power has that power's sign, to any other it is NaN; `x⁰ = 1`, of NaN too.
/// Except on [`Device::Reference`], the exponent is rounded to `f32` first.
pub fn pow(x: &Tensor, exponent: f64) -> Tensor {
    if exponent == 2.0 {
        // What most powers are, and much quicker than any other.
        return mul(x, x);
    }
    match x.device() {
        Device::Cpu => {
            let exponent = exponent as f32;
            Tensor::cpu(x.shape(), sweep::map(x.f32s(), |x| x.powf(exponent)))
        }
        Device::Reference => Tensor::reference(x.shape(), x.f64s().iter().map(|&x| x.powf(exponent)).collect()),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_unary(&gpu, "pow_scalar", x, exponent),
    }
}

/// Gradient of [`pow`]: `dx = exponent · x^(exponent − 1) · dy`.
///
/// # Panics
/// If shapes or devices differ.
#[track_caller]
pub fn pow_vjp(x: &Tensor, dy: &Tensor, exponent: f64) -> Tensor {
    assert_eq!(x.shape(), dy.shape(), "pow_vjp: expected dy {:?}, got {:?}", x.shape(), dy.shape());
    if exponent == 0.0 {
        return crate::scale(dy, 0.0);
    }
    crate::scale(&mul(&pow(x, exponent - 1.0), dy), exponent)
}

/// The operations, as the shader counts them.
#[cfg(feature = "gpu")]
const OPERATIONS: [&str; 8] = ["add", "sub", "mul", "div", "maximum", "minimum", "greater", "equal"];

/// `f` of each pair.
#[track_caller]
fn binary(
    name: &str,
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Sync + Send,
    reference: impl Fn(f64, f64) -> f64,
) -> Tensor {
    let device = common_device(name, &[a, b]);
    let shape = common_shape(name, a.shape(), b.shape());
    if matches!(device, Device::Cpu) && a.shape() == b.shape() {
        return Tensor::cpu(shape, sweep::zip(a.f32s(), b.f32s(), f));
    }
    let strides = |x: Shape| strided::spread(x, shape).expect("the common shape is one that both spread over");
    let (a_strides, b_strides) = (strides(a.shape()), strides(b.shape()));
    let axes = shape.dims().iter().zip(a_strides.into_iter().zip(b_strides));
    let strided = Strided::new(axes.map(|(&extent, (a, b))| (extent, [a, b])));
    match device {
        Device::Cpu => {
            let (a, b, inner) = (a.f32s(), b.f32s(), strided.inner_strides());
            let mut y = HostBuffer::scratch(shape.len());
            for_each_part(&mut y, &|start, y| {
                strided.for_each_run(start..start + y.len(), |run, [a_at, b_at]| {
                    let len = run.len();
                    // An operand that is spread along the run is one value there.
                    let a = &a[a_at..][..if inner[0] == 0 { 1 } else { len }];
                    let b = &b[b_at..][..if inner[1] == 0 { 1 } else { len }];
                    zip_run(a, b, &mut y[run], &f);
                });
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let (a, b) = (a.f64s(), b.f64s());
            let value = |i| {
                let [a_at, b_at] = strided.offsets(i);
                reference(a[a_at], b[b_at])
            };
            Tensor::reference(shape, (0..shape.len()).map(value).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let operation = OPERATIONS.iter().position(|&operation| operation == name).expect("each is listed");
            let (kernel, words) = (launch::kernel("arithmetic", SHADER), strided::words(&strided, None, []));
            launch::each(&gpu, kernel, &[("OPERATION", operation as f64)], &[a, b], shape, &words)
        }
    }
}

wide! {
    /// `y[i] = f(a[i], b[i])`, where a slice of one value stands for as many as are wanted.
    fn zip_run<F: Fn(f32, f32) -> f32>(a: &[f32], b: &[f32], y: &mut [f32], f: &F) {
        match (a, b) {
            (&[a], b) => {
                for (y, &b) in y.iter_mut().zip(b) {
                    *y = f(a, b);
                }
            }
            (a, &[b]) => {
                for (y, &a) in y.iter_mut().zip(a) {
                    *y = f(a, b);
                }
            }
            (a, b) => {
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = f(a, b);
                }
            }
        }
    }
}

/// A kernel of each element and one number.
#[cfg(feature = "gpu")]
fn gpu_unary(gpu: &Gpu, name: &'static str, x: &Tensor, number: f64) -> Tensor {
    // A shader cannot make a NaN of its own.
    let own = [(number as f32).to_bits(), f32::NAN.to_bits()];
    let words = strided::words(&Strided::<1>::new([(x.len(), [1])]), None, own);
    launch::each(gpu, launch::kernel(name, SHADER), &[], &[x], x.shape(), &words)
}

/// The shape that both operands of `op` spread over.
#[track_caller]
pub(crate) fn common_shape(op: &str, a: Shape, b: Shape) -> Shape {
    let (long, short) = if a.rank() >= b.rank() { (a, b) } else { (b, a) };
    let missing = long.rank() - short.rank();
    let mut dims = long.dims().to_vec();
    for (axis, &extent) in short.dims().iter().enumerate() {
        let common = &mut dims[missing + axis];
        assert!(
            *common == extent || *common == 1 || extent == 1,
            "{op}: expected operands of one shape, or of extents that are 1 where they differ, got {a:?} and {b:?}"
        );
        if *common == 1 {
            *common = extent;
        }
    }
    Shape::new(&dims)
}

#[cfg(feature = "gpu")]
static SHADER: &str =
    concat!(include_str!("prelude.wgsl"), include_str!("strided.wgsl"), include_str!("arithmetic.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{
            EXTENTS, SHARED_EXTENT, Tolerance, all_elements, check, check_adjoint, check_equivariant,
            devices_and_reference, random, same_bits,
        },
        transform_plane,
    };

    type Binary = fn(&Tensor, &Tensor) -> Tensor;
    const BINARY: [(&str, Binary); 8] = [
        ("add", add),
        ("sub", sub),
        ("mul", mul),
        ("div", div),
        ("maximum", maximum),
        ("minimum", minimum),
        ("greater", greater),
        ("equal", equal),
    ];

    /// Shapes that spread over each other, and the shape of the result.
    const PAIRS: [(&[usize], &[usize], &[usize]); 12] = [
        (&[2, 3], &[], &[2, 3]),
        (&[], &[7], &[7]),
        (&[17], &[5, 1], &[5, 17]),
        (&[3, 1, 5], &[1, 4, 1], &[3, 4, 5]),
        (&[2, 3, 4, 5, 6], &[1, 3, 1, 1, 1], &[2, 3, 4, 5, 6]),
        (&[2, 3, 1, 1, 1], &[2, 3, 4, 17, 15], &[2, 3, 4, 17, 15]),
        (&[2, 1, 4, 1, 6], &[1, 3, 1, 5, 1], &[2, 3, 4, 5, 6]),
        (&[6], &[4, 1, 5, 6], &[4, 1, 5, 6]),
        (&[3, 2, 1, 5, 1, 7], &[2, 4, 1, 6, 1], &[3, 2, 4, 5, 6, 7]),
        (&[1, 1], &[1], &[1, 1]),
        (&[64, 1], &[1, 650], &[64, 650]),
        (&[0, 3], &[3], &[0, 3]),
    ];

    #[test]
    fn parity_of_one_shape() {
        for n in EXTENTS.into_iter().chain([SHARED_EXTENT]) {
            let (a, b) = (random([n], 1), random([n], 2));
            for (name, f) in BINARY {
                check(&format!("{name} {n}"), &[&a, &b], Tolerance::Terms(1), |t| vec![f(&t[0], &t[1])]);
            }
            check(&format!("add_scalar {n}"), &[&a], Tolerance::Terms(1), |t| vec![add_scalar(&t[0], 0.3)]);
            for exponent in [2.0, 3.0, 1.0, 0.0] {
                let name = format!("pow {exponent}, {n}");
                check(&name, &[&a], Tolerance::Terms(4), |t| vec![pow(&t[0], exponent)]);
                check(&name, &[&a, &b], Tolerance::Terms(4), |t| vec![pow_vjp(&t[0], &t[1], exponent)]);
            }
            let positive = add_scalar(&mul(&a, &a), 0.1);
            for exponent in [0.5, -1.0, -2.5] {
                let name = format!("pow {exponent}, {n}");
                check(&name, &[&positive], Tolerance::Terms(4), |t| vec![pow(&t[0], exponent)]);
            }
        }
    }

    #[test]
    fn parity_of_shapes_that_spread() {
        for (a, b, y) in PAIRS {
            let (a_values, b_values) = (random(a, 1), random(b, 2));
            for (name, f) in BINARY {
                check(&format!("{name} {a:?} {b:?}"), &[&a_values, &b_values], Tolerance::Terms(1), |t| {
                    let results = vec![f(&t[0], &t[1]), f(&t[1], &t[0])];
                    assert!(results.iter().all(|result| result.dims() == y));
                    results
                });
            }
            for shape in [a, b] {
                let name = format!("{shape:?} over {y:?}");
                check(&name, &[&random(shape, 3)], Tolerance::Exact, |t| vec![broadcast(&t[0], Shape::new(y))]);
                check(&name, &[&random(y, 3)], Tolerance::Terms(4000), |t| vec![sum_to(&t[0], Shape::new(shape))]);
                let (there, back) = (|x: &Tensor| broadcast(x, Shape::new(y)), |dy: &Tensor| sum_to(dy, shape.into()));
                check_adjoint(&name, shape, there, back);
            }
        }
    }

    /// Where an operand is spread over the plane, or the operands are planes both, a turn moves the result's places alone.
    #[test]
    fn every_bit_is_kept_under_all_symmetries() {
        for (height, width) in [(1, 1), (5, 5), (4, 7), (16, 17)] {
            let gate = random([2, 3, 1, 1, 1], 5);
            for (name, f) in BINARY {
                let name = format!("{name} {height}x{width}");
                check_equivariant(&name, [2, 3, 4, height, width], &all_elements(), true, |x| {
                    f(x, &gate.to_device(&x.device()).unwrap())
                });
            }
            check_equivariant("pow", [2, 3, height, width], &all_elements(), true, |x| pow(x, 3.0));
        }
        // A ramp along x is no gate: it does not turn with the map.
        let ramp = random([5], 5);
        check_equivariant("ramp", [2, 5, 5], &all_elements(), false, |x| mul(x, &ramp.to_device(&x.device()).unwrap()));
        for device in devices_and_reference() {
            let [a, b] = [1, 2].map(|stream| random([2, 5, 5], stream).to_device(&device).unwrap());
            for g in all_elements() {
                let moved = mul(&transform_plane(&a, g), &transform_plane(&b, g));
                assert!(same_bits(&moved, &transform_plane(&mul(&a, &b), g)), "{g} on {device}");
            }
        }
    }

    #[test]
    fn nan_passes_on_every_device() {
        for device in devices_and_reference() {
            let of = |values: [f32; 4]| Tensor::from_vec([4], values.to_vec(), &device).unwrap();
            let (a, b) = (of([f32::NAN, 1.0, f32::NAN, -1.0]), of([1.0, f32::NAN, f32::NAN, 2.0]));
            for (name, f) in &BINARY[..6] {
                let y = f(&a, &b).to_vec().unwrap();
                assert!(y[..3].iter().all(|v| v.is_nan()) && !y[3].is_nan(), "{name} on {device}: {y:?}");
            }
            assert!(pow(&a, 3.0).to_vec().unwrap()[0].is_nan() && add_scalar(&a, 1.0).to_vec().unwrap()[0].is_nan());
            // Whoever was NaN gets a gradient.
            let (da, db) = maximum_vjp(&a, &b, &of([1.0; 4]));
            assert_eq!((da.to_vec().unwrap(), db.to_vec().unwrap()), (vec![1.0, 1.0, 1.0, 0.0], vec![1.0; 4]));
        }
    }

    #[test]
    fn gradients_of_maximum_and_minimum_by_hand() {
        for device in devices_and_reference() {
            let of = |values: [f32; 3]| Tensor::from_vec([3], values.to_vec(), &device).unwrap();
            let (a, b, dy) = (of([1.0, 2.0, 3.0]), of([2.0, 2.0, 2.0]), of([10.0, 20.0, 30.0]));
            let (da, db) = maximum_vjp(&a, &b, &dy);
            assert_eq!((da.to_vec().unwrap(), db.to_vec().unwrap()), (vec![0.0, 10.0, 30.0], vec![10.0, 10.0, 0.0]));
            let (da, db) = minimum_vjp(&a, &b, &dy);
            assert_eq!((da.to_vec().unwrap(), db.to_vec().unwrap()), (vec![10.0, 10.0, 0.0], vec![0.0, 10.0, 30.0]));
            let scalar = Tensor::from_vec([], vec![2.0], &device).unwrap();
            assert_eq!(maximum_vjp(&a, &scalar, &dy).1.to_vec().unwrap(), [20.0]);
        }
    }

    #[test]
    fn powers_of_zero_negative_and_infinite_numbers() {
        let x = vec![0.0, -0.0, -2.0, f32::INFINITY, f32::NEG_INFINITY];
        for device in devices_and_reference() {
            let x = Tensor::from_vec([5], x.clone(), &device).unwrap();
            for exponent in [0.0, 1.0, 2.0, 3.0, -1.0, -2.0, 0.5, -0.5] {
                let (y, expected) = (pow(&x, exponent).to_vec().unwrap(), x.to_vec().unwrap());
                for (y, x) in y.into_iter().zip(expected) {
                    let expected = x.powf(exponent as f32);
                    let same = y == expected || (y.is_nan() && expected.is_nan()) || (y / expected - 1.0).abs() < 1e-5;
                    assert!(same, "{x}^{exponent} on {device}: {y}");
                }
            }
        }
    }

    #[test]
    #[should_panic(
        expected = "div: expected operands of one shape, or of extents that are 1 where they differ, got [2] and [3]"
    )]
    fn shapes_that_do_not_fit_are_refused() {
        div(&random([2], 1), &random([3], 1));
    }

    #[test]
    #[should_panic(expected = "broadcast: expected a shape that [2, 1] spreads over, got [2]")]
    fn a_shape_that_an_operand_does_not_spread_over_is_refused() {
        broadcast(&random([2, 1], 1), [2].into());
    }
}
