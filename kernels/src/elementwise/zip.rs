//! Elementwise operations of two operands as values.

#[cfg(any(feature = "gpu", test))]
use super::shader::Expression;
use crate::{
    arithmetic::{broadcast, common_shape, sum_to},
    simd::wide,
    sweep::{self, PIECE},
};
use quarterturn_core::{Device, HostBuffer, Tensor, common_device};

/// An elementwise operation of two operands, `y = f(a, b)`. The result is NaN where `a` or `b` is NaN. Operands
/// broadcast as in [`crate::add`].
///
/// ```
/// use quarterturn_kernels::{Elementwise2, zip};
/// # use quarterturn_core::{Device, Tensor};
///
/// /// The length `√(a² + b²)`.
/// static HYPOT: Elementwise2 = Elementwise2 {
///     name: "hypot",
///     value: f64::hypot,
///     slopes: [|a, b| a / a.hypot(b), |a, b| b / a.hypot(b)],
///     cpu: None,
///     wgsl: ["length(vec2f(a, b))", "a / length(vec2f(a, b))", "b / length(vec2f(a, b))"],
/// };
/// # fn main() -> quarterturn_core::Result<()> {
/// let [a, b] = [Tensor::full([2, 1], 3.0, &Device::Cpu)?, Tensor::full([2], 4.0, &Device::Cpu)?];
/// assert_eq!(zip(&a, &b, &HYPOT).to_vec()?, [5.0; 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Elementwise2 {
    /// Its name in panics and profiles: letters, digits and `_`.
    pub name: &'static str,
    /// `f(a, b)`, what [`Device::Reference`] computes.
    pub value: fn(f64, f64) -> f64,
    /// The derivatives with respect to `a` and `b`.
    pub slopes: [fn(f64, f64) -> f64; 2],
    /// `f` and its derivatives for [`Device::Cpu`], usually by [`each2`] and the functions of [`crate::math`]. `None`: `value`
    /// and `slopes` are called for each pair.
    pub cpu: Option<[Sweep2; 3]>,
    /// `f` and its derivatives as WGSL expressions of `a` and `b`, with the functions of [`crate::Elementwise::wgsl`].
    pub wgsl: [&'static str; 3],
}

/// Computes a function of each pair of numbers of the first two slices and writes it to the third. All have the same
/// length.
pub type Sweep2 = fn(&[f32], &[f32], &mut [f32]);

/// `y[i] = f(a[i], b[i])`, or NaN where one of the two is NaN. The compiler vectorises the loop if `f` calls only small
/// functions.
pub fn each2(a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    wide! {
        fn sweep<F: Fn(f32, f32) -> f32>(a: &[f32], b: &[f32], y: &mut [f32], f: &F) {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                let value = f(a, b);
                *y = if a.is_nan() || b.is_nan() { f32::NAN } else { value };
            }
        }
    }
    sweep(a, b, y, &f);
}

/// `y = f(a, b)`, elementwise.
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn zip(a: &Tensor, b: &Tensor, f: &Elementwise2) -> Tensor {
    f.pairs(Part::Value, a, b, None)
}

/// Gradient of [`zip`] with respect to `a`: `∂f/∂a · dy`, summed over the elements to which one of `a` was broadcast.
///
/// # Panics
/// If the shapes do not fit each other, or the devices differ.
#[track_caller]
pub fn zip_vjp_a(a: &Tensor, b: &Tensor, dy: &Tensor, f: &Elementwise2) -> Tensor {
    sum_to(&f.pairs(Part::SlopeA, a, b, Some(dy)), a.shape())
}

/// As [`zip_vjp_a`], with respect to `b`.
///
/// # Panics
/// As [`zip_vjp_a`].
#[track_caller]
pub fn zip_vjp_b(a: &Tensor, b: &Tensor, dy: &Tensor, f: &Elementwise2) -> Tensor {
    sum_to(&f.pairs(Part::SlopeB, a, b, Some(dy)), b.shape())
}

/// What of an operation is wanted.
#[derive(Clone, Copy, Debug)]
enum Part {
    Value,
    SlopeA,
    SlopeB,
}

impl Elementwise2 {
    /// One of the functions for every pair, times `dy` if there is one.
    #[track_caller]
    fn pairs(&self, part: Part, a: &Tensor, b: &Tensor, dy: Option<&Tensor>) -> Tensor {
        let operands: Vec<&Tensor> = [a, b].into_iter().chain(dy).collect();
        let device = common_device(self.name, &operands);
        let shape = common_shape(self.name, a.shape(), b.shape());
        if let Some(got) = dy.map(Tensor::shape) {
            assert_eq!(got, shape, "{}: expected a gradient {shape:?}, got {got:?}", self.name);
        }
        let (a, b) = (broadcast(a, shape), broadcast(b, shape));
        match device {
            Device::Cpu => {
                let fast = self.cpu.map(|sweeps| sweeps[part as usize]);
                let (slow, mut y) = (self.function(part), HostBuffer::scratch(shape.len()));
                sweep::for_each_piece2(a.f32s(), PIECE, b.f32s(), PIECE, &mut y, PIECE, &|i, a, b, y| {
                    match fast {
                        Some(sweep) => sweep(a, b, y),
                        None => each2(a, b, y, |a, b| slow(f64::from(a), f64::from(b)) as f32),
                    }
                    if let Some(dy) = dy {
                        sweep::multiply(y, &dy.f32s()[i * PIECE..]);
                    }
                });
                Tensor::cpu(shape, y)
            }
            Device::Reference => {
                let f = self.function(part);
                let pair = |(&a, &b): (&f64, &f64)| if a.is_nan() || b.is_nan() { f64::NAN } else { f(a, b) };
                let y = a.f64s().iter().zip(b.f64s()).map(pair);
                Tensor::reference(
                    shape,
                    match dy {
                        Some(dy) => y.zip(dy.f64s()).map(|(slope, dy)| slope * dy).collect(),
                        None => y.collect(),
                    },
                )
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let operands: Vec<&Tensor> = [&a, &b].into_iter().chain(dy).collect();
                self.expression(part).launch(&gpu, part.name(), &operands, &[])
            }
        }
    }

    fn function(&self, part: Part) -> fn(f64, f64) -> f64 {
        [self.value, self.slopes[0], self.slopes[1]][part as usize]
    }

    #[cfg(any(feature = "gpu", test))]
    fn expression(&self, part: Part) -> Expression<'_> {
        Expression {
            name: self.name,
            operands: &["a", "b"],
            parameters: &[],
            wgsl: self.wgsl[part as usize],
            is_slope: !matches!(part, Part::Value),
        }
    }
}

#[cfg(any(feature = "gpu", test))]
impl Part {
    fn name(self) -> &'static str {
        ["zip", "zip_vjp_a", "zip_vjp_b"][self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        elementwise::shader::validate,
        math,
        parity::{EXTENTS, SHARED_EXTENT, Tolerance, check, devices_and_reference, random},
    };

    /// `a·σ(b)`.
    static GATE: Elementwise2 = Elementwise2 {
        name: "gate",
        value: |a, b| a / (1.0 + (-b).exp()),
        slopes: [|_, b| 1.0 / (1.0 + (-b).exp()), |a, b| a / ((1.0 + (-b).exp()) * (1.0 + b.exp()))],
        cpu: Some([
            |a, b, y| each2(a, b, y, |a, b| a * math::sigmoid(b)),
            |a, b, y| each2(a, b, y, |_, b| math::sigmoid(b)),
            |a, b, y| each2(a, b, y, |a, b| a * math::sigmoid(b) * math::sigmoid(-b)),
        ]),
        wgsl: ["a * sigmoid(b)", "sigmoid(b)", "a * sigmoid(b) * sigmoid(-b)"],
    };

    #[test]
    fn parity() {
        let derived = Elementwise2 { cpu: None, ..GATE };
        let same = EXTENTS.into_iter().chain([SHARED_EXTENT]).map(|n| (vec![n], vec![n]));
        for (a, b) in same.chain([(vec![3, 1, 5], vec![4, 1]), (vec![2], vec![3, 2])]) {
            let (a, b) = (random(&a[..], 1), random(&b[..], 2));
            let dy = random(zip(&a, &b, &GATE).shape(), 3);
            for f in [&GATE, &derived] {
                check("gate", &[&a, &b, &dy], Tolerance::Terms(64), |t| {
                    let [a, b, dy] = [&t[0], &t[1], &t[2]];
                    vec![zip(a, b, f), zip_vjp_a(a, b, dy, f), zip_vjp_b(a, b, dy, f)]
                });
            }
        }
        for part in [Part::Value, Part::SlopeA, Part::SlopeB] {
            validate(&GATE.expression(part), part.name());
        }
    }

    #[test]
    fn nan_of_either_operand_passes() {
        for device in devices_and_reference() {
            let of = |values: [f32; 3]| Tensor::from_vec([3], values.to_vec(), &device).unwrap();
            let (a, b, dy) = (of([f32::NAN, 0.0, 1.0]), of([f32::INFINITY, f32::NAN, 0.0]), of([1.0; 3]));
            for y in [zip(&a, &b, &GATE), zip_vjp_a(&a, &b, &dy, &GATE), zip_vjp_b(&a, &b, &dy, &GATE)] {
                let y = y.to_vec().unwrap();
                assert!(y[0].is_nan() && y[1].is_nan() && !y[2].is_nan(), "{y:?} on {device}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "gate: expected operands of one shape")]
    fn shapes_that_do_not_fit_are_refused() {
        zip(&random([2], 1), &random([3], 2), &GATE);
    }
}
