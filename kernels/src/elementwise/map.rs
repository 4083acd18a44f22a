//! Elementwise operations as values: a function and its derivative, each for the CPU, for GPUs and in `f64`.
//!
//! A NaN stays NaN, whatever the definition of the function says.

#[cfg(any(feature = "gpu", test))]
use super::shader::Expression;
use crate::{
    simd::wide,
    sweep::{self, PIECE},
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Gpu;
use quarterturn_core::{Device, HostBuffer, Tensor, common_device};

/// An elementwise operation `y = f(x)` with `P` parameters. `f(NaN)` is always NaN.
///
/// ```
/// use quarterturn_kernels::{Elementwise, each, map};
/// # use quarterturn_core::{Device, Tensor};
///
/// /// `x·clamp(x + 3, 0, 6)/6` (Howard et al. 2019).
/// static HARD_SWISH: Elementwise = Elementwise {
///     name: "hard_swish",
///     parameters: [],
///     value: |x, []| x.max(-3.0) * ((x + 3.0).clamp(0.0, 6.0) / 6.0),
///     slope: |x, []| if x.abs() < 3.0 { (2.0 * x + 3.0) / 6.0 } else { f64::from(u8::from(x > 0.0)) },
///     cpu: Some([
///         |x, y, []| each(x, y, |x| x.max(-3.0) * ((x + 3.0).clamp(0.0, 6.0) / 6.0)),
///         |x, y, []| each(x, y, |x| if x.abs() < 3.0 { (2.0 * x + 3.0) / 6.0 } else { f32::from(u8::from(x > 0.0)) }),
///     ]),
///     wgsl: [
///         "max(x, -3.0) * (clamp(x + 3.0, 0.0, 6.0) / 6.0)",
///         "select(select(0.0, 1.0, x > 0.0), (2.0 * x + 3.0) / 6.0, abs(x) < 3.0)",
///     ],
/// };
/// # fn main() -> quarterturn_core::Result<()> {
/// let x = Tensor::from_vec([3], vec![-5.0, 1.5, 20.0], &Device::Cpu)?;
/// assert_eq!(map(&x, &HARD_SWISH, []).to_vec()?, [0.0, 1.125, 20.0]);
/// // Values, slopes and devices, NaN and infinities.
/// HARD_SWISH.check([], &[-4.0, -1.0, 0.5, 7.0], &[Device::Cpu])?.unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Elementwise<const P: usize = 0> {
    /// Its name in panics and profiles: letters, digits and `_`.
    pub name: &'static str,
    /// The names of the parameters in the WGSL expressions; at most 60.
    pub parameters: [&'static str; P],
    /// `f(x)`, what [`Device::Reference`] computes.
    pub value: fn(f64, [f64; P]) -> f64,
    /// The derivative `f′(x)`. At a kink, any number between the derivatives on both sides.
    pub slope: fn(f64, [f64; P]) -> f64,
    /// `f` and `f′` for [`Device::Cpu`], usually by [`each`] and the functions of [`crate::math`]. `None`: `value` and `slope`
    /// are called for each element, which is exact and, with a function such as `exp`, some ten times as slow.
    pub cpu: Option<[Sweep<P>; 2]>,
    /// `f` and `f′` as WGSL expressions of `x` and the parameters. Beside WGSL's own functions there are
    /// `sigmoid(x)`, `softplus(x)`, `ln_1p(x)`, `normal_cdf(x)`, and `infinity` and `nan` as numbers.
    pub wgsl: [&'static str; 2],
}

/// Computes a function of each number of the first slice and writes it to the second, of the same length. The third
/// argument has the parameters.
pub type Sweep<const P: usize> = fn(&[f32], &mut [f32], [f32; P]);

/// `y[i] = f(x[i])`, or NaN where `x[i]` is NaN. The compiler vectorises the loop if `f` calls only small functions.
pub fn each(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    wide! {
        fn sweep<F: Fn(f32) -> f32>(x: &[f32], y: &mut [f32], f: &F) {
            for (y, &x) in y.iter_mut().zip(x) {
                let value = f(x);
                *y = if x.is_nan() { x } else { value };
            }
        }
    }
    sweep(x, y, &f);
}

/// `y = f(x)`, elementwise. Parameters are rounded to `f32`, except on [`Device::Reference`].
#[track_caller]
pub fn map<const P: usize>(x: &Tensor, f: &Elementwise<P>, parameters: [f64; P]) -> Tensor {
    match x.device() {
        Device::Cpu => {
            let (value, numbers) = (f.cpu.map(|[value, _]| value), parameters.map(|p| p as f32));
            let mut y = HostBuffer::scratch(x.len());
            sweep::for_each_piece(x.f32s(), PIECE, &mut y, PIECE, &|_, x, y| match value {
                Some(value) => value(x, y, numbers),
                None => one_by_one(x, y, f.value, parameters),
            });
            Tensor::cpu(x.shape(), y)
        }
        Device::Reference => {
            let value = |&x: &f64| if x.is_nan() { x } else { (f.value)(x, parameters) };
            Tensor::reference(x.shape(), x.f64s().iter().map(value).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => f.launch(&gpu, Part::Value, &[x], parameters),
    }
}

/// Gradient of [`map`]: `dx = f′(x)·dy`.
///
/// # Panics
/// If shapes or devices differ.
#[track_caller]
pub fn map_vjp<const P: usize>(x: &Tensor, dy: &Tensor, f: &Elementwise<P>, parameters: [f64; P]) -> Tensor {
    let (expected, got) = (x.shape(), dy.shape());
    assert_eq!(got, expected, "{}: expected a gradient {expected:?}, got {got:?}", f.name);
    match common_device(f.name, &[x, dy]) {
        Device::Cpu => {
            let (slope, numbers) = (f.cpu.map(|[_, slope]| slope), parameters.map(|p| p as f32));
            let mut dx = HostBuffer::scratch(x.len());
            // Slopes lie in the first cache until they are multiplied.
            const BLOCK: usize = 1 << 11;
            sweep::for_each_piece2(x.f32s(), PIECE, dy.f32s(), PIECE, &mut dx, PIECE, &|_, x, dy, dx| {
                for ((x, dy), dx) in x.chunks(BLOCK).zip(dy.chunks(BLOCK)).zip(dx.chunks_mut(BLOCK)) {
                    match slope {
                        Some(slope) => slope(x, dx, numbers),
                        None => one_by_one(x, dx, f.slope, parameters),
                    }
                    sweep::multiply(dx, dy);
                }
            });
            Tensor::cpu(x.shape(), dx)
        }
        Device::Reference => {
            let slope = |(&x, &dy): (&f64, &f64)| if x.is_nan() { x } else { (f.slope)(x, parameters) * dy };
            Tensor::reference(x.shape(), x.f64s().iter().zip(dy.f64s()).map(slope).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => f.launch(&gpu, Part::Slope, &[x, dy], parameters),
    }
}

fn one_by_one<const P: usize>(x: &[f32], y: &mut [f32], f: fn(f64, [f64; P]) -> f64, parameters: [f64; P]) {
    // The parameters that the other devices have.
    let parameters = parameters.map(|p| f64::from(p as f32));
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x.is_nan() { x } else { f(f64::from(x), parameters) as f32 };
    }
}

/// What of an operation is wanted.
#[cfg(any(feature = "gpu", test))]
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Value,
    Slope,
}

#[cfg(any(feature = "gpu", test))]
impl Part {
    pub fn name(self) -> &'static str {
        ["map", "map_vjp"][self as usize]
    }
}

#[cfg(any(feature = "gpu", test))]
impl<const P: usize> Elementwise<P> {
    pub(super) fn expression(&self, part: Part) -> Expression<'_> {
        Expression {
            name: self.name,
            operands: &["x"],
            parameters: &self.parameters,
            wgsl: self.wgsl[part as usize],
            is_slope: matches!(part, Part::Slope),
        }
    }

    #[cfg(feature = "gpu")]
    fn launch(&self, gpu: &Gpu, part: Part, operands: &[&Tensor], parameters: [f64; P]) -> Tensor {
        self.expression(part).launch(gpu, part.name(), operands, &parameters)
    }
}
