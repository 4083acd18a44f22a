//! Compares gradients with finite differences (PyTorch: `torch.autograd.gradcheck`).

use crate::{Tape, Var};
use quarterturn_core::{Stream, Tensor};
use std::fmt;

/// Step of the central difference.
const EPSILON: f64 = 1e-6;

/// A gradient that does not agree with the difference quotient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientError {
    /// The derivative along the random direction, from `backward`.
    pub backward: f64,
    /// The difference quotient.
    pub difference: f64,
    /// The tolerance it missed.
    pub tolerance: f64,
}

impl fmt::Display for GradientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GradientError { backward, difference, tolerance } = self;
        write!(f, "backward gives {backward:e}, the difference quotient {difference:e} (tolerance {tolerance:e})")
    }
}

impl std::error::Error for GradientError {}

/// Checks the gradient of `f` at `inputs`. With the scalar `L(x) = ⟨f(x), r⟩`, it compares the derivative along a
/// direction v: `⟨dL/dx, v⟩` from `backward`, and `(L(x + εv) − L(x − εv)) / 2ε` with ε = 1e-6. r and v are random with
/// entries of variance 1.
///
/// # Errors
/// If the two differ by more than `tolerance · max(1, |derivative|)`, or one is not finite.
///
/// # Panics
/// If an input is not on [`quarterturn_core::Device::Reference`]: f32 has too few digits for differences.
pub fn gradcheck(
    f: impl for<'t> Fn(&'t Tape, &[Var<'t>]) -> Var<'t>,
    inputs: &[Tensor],
    tolerance: f64,
) -> Result<(), GradientError> {
    let normals = |like: &Tensor, stream: u32| -> Vec<f64> {
        let stream = Stream::new(0x67AD, stream, 0);
        (0..like.len() as u64).map(|i| stream.normal(i)).collect()
    };
    let directions: Vec<_> = inputs.iter().zip(1..).map(|(input, stream)| normals(input, stream)).collect();

    let tape = Tape::new();
    let variables: Vec<_> = inputs.iter().map(|input| tape.variable(input.clone())).collect();
    let y = f(&tape, &variables);
    let r = normals(y.value(), 0);
    let gradients = y.backward_from(Tensor::reference(y.shape(), r.clone()));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let backward: f64 = variables
        .iter()
        .zip(&directions)
        .map(|(variable, v)| gradients.wrt(variable).map_or(0.0, |gradient| dot(gradient.f64s(), v)))
        .sum();

    let shifted = |epsilon: f64| {
        let tape = Tape::evaluation();
        let moved: Vec<_> = inputs
            .iter()
            .zip(&directions)
            .map(|(input, v)| {
                let values = input.f64s().iter().zip(v).map(|(x, v)| x + epsilon * v).collect();
                tape.constant(Tensor::reference(input.shape(), values))
            })
            .collect();
        dot(f(&tape, &moved).value().f64s(), &r)
    };
    let difference = (shifted(EPSILON) - shifted(-EPSILON)) / (2.0 * EPSILON);
    // Written so that NaN fails.
    let agrees = (backward - difference).abs() <= tolerance * backward.abs().max(1.0);
    if agrees { Ok(()) } else { Err(GradientError { backward, difference, tolerance }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_kernels as kernels;

    /// y = x², but backward is told dy/dx = x.
    fn wrong_square<'t>(_: &'t Tape, v: &[Var<'t>]) -> Var<'t> {
        let x = v[0].value().clone();
        v[0].unary("wrong square", kernels::mul(&x, &x), move |dy| kernels::mul(&dy, &x))
    }

    fn square<'t>(_: &'t Tape, v: &[Var<'t>]) -> Var<'t> {
        v[0].mul(&v[0])
    }

    #[test]
    fn a_wrong_gradient_is_caught() {
        let x = Tensor::reference([3], vec![0.3, -1.0, 2.0]);
        assert!(gradcheck(wrong_square, std::slice::from_ref(&x), 1e-7).is_err());
        assert_eq!(gradcheck(square, &[x], 1e-7), Ok(()));
    }
}
