//! Arithmetic with broadcasting, as in NumPy and PyTorch.

use crate::Var;
use quarterturn_core::{Shape, Tensor};
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// `self + other`: [`kernels::add`].
    #[track_caller]
    pub fn add(&self, other: &Var<'t>) -> Var<'t> {
        let (a, b) = (Spread::of(self), Spread::of(other));
        let y = kernels::add(self.value(), other.value());
        Var::custom("add", &[self, other], y, move |dy| vec![a.gradient(|| dy.clone()), b.gradient(|| dy.clone())])
    }

    /// `self − other`: [`kernels::sub`].
    #[track_caller]
    pub fn sub(&self, other: &Var<'t>) -> Var<'t> {
        let (a, b) = (Spread::of(self), Spread::of(other));
        let y = kernels::sub(self.value(), other.value());
        Var::custom("sub", &[self, other], y, move |dy| {
            let db = b.gradient(|| dy.clone()).map(|db| kernels::scale(&db, -1.0));
            vec![a.gradient(|| dy), db]
        })
    }

    /// `self · other`, elementwise: [`kernels::mul`].
    #[track_caller]
    pub fn mul(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::mul(self.value(), other.value());
        let (a, b) = (Spread::of(self), Spread::of(other));
        let (a_value, b_value) = (other.keeps(self.value()), self.keeps(other.value()));
        Var::custom("mul", &[self, other], y, move |dy| {
            let da = b_value.map(|b_value| a.sum(kernels::mul(&dy, &b_value)));
            vec![da, a_value.map(|a_value| b.sum(kernels::mul(&dy, &a_value)))]
        })
    }

    /// `self / other`, elementwise: [`kernels::div`].
    #[track_caller]
    pub fn div(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::div(self.value(), other.value());
        let (a, b) = (Spread::of(self), Spread::of(other));
        let (divisor, quotient) = (other.value().clone(), other.keeps(&y));
        Var::custom("div", &[self, other], y, move |dy| {
            // d(a/b)/da = 1/b, d(a/b)/db = −(a/b)/b.
            let da = kernels::div(&dy, &divisor);
            let db = quotient.map(|quotient| kernels::scale(&b.sum(kernels::mul(&da, &quotient)), -1.0));
            vec![a.gradient(|| da), db]
        })
    }

    /// `max(self, other)`, elementwise: [`kernels::maximum`].
    #[track_caller]
    pub fn maximum(&self, other: &Var<'t>) -> Var<'t> {
        let (a, b) = (self.value().clone(), other.value().clone());
        let tracked = (self.is_tracked(), other.is_tracked());
        Var::custom("maximum", &[self, other], kernels::maximum(&a, &b), move |dy| {
            let (da, db) = kernels::maximum_vjp(&a, &b, &dy);
            vec![tracked.0.then_some(da), tracked.1.then_some(db)]
        })
    }

    /// `min(self, other)`, elementwise: [`kernels::minimum`].
    #[track_caller]
    pub fn minimum(&self, other: &Var<'t>) -> Var<'t> {
        let (a, b) = (self.value().clone(), other.value().clone());
        let tracked = (self.is_tracked(), other.is_tracked());
        Var::custom("minimum", &[self, other], kernels::minimum(&a, &b), move |dy| {
            let (da, db) = kernels::minimum_vjp(&a, &b, &dy);
            vec![tracked.0.then_some(da), tracked.1.then_some(db)]
        })
    }

    /// `factor · self`: [`kernels::scale`].
    #[track_caller]
    pub fn scale(&self, factor: f64) -> Var<'t> {
        self.unary("scale", kernels::scale(self.value(), factor), move |dy| kernels::scale(&dy, factor))
    }

    /// `self + offset`: [`kernels::add_scalar`].
    #[track_caller]
    pub fn add_scalar(&self, offset: f64) -> Var<'t> {
        self.unary("add_scalar", kernels::add_scalar(self.value(), offset), |dy| dy)
    }

    /// `self^exponent`, elementwise: [`kernels::pow`].
    #[track_caller]
    pub fn pow(&self, exponent: f64) -> Var<'t> {
        let x = self.value().clone();
        self.unary("pow", kernels::pow(&x, exponent), move |dy| kernels::pow_vjp(&x, &dy, exponent))
    }

    /// `self` broadcast to `shape`: [`kernels::broadcast`].
    #[track_caller]
    pub fn broadcast(&self, shape: impl Into<Shape>) -> Var<'t> {
        let before = self.shape();
        let y = kernels::broadcast(self.value(), shape.into());
        self.unary("broadcast", y, move |dy| kernels::sum_to(&dy, before))
    }
}

/// An operand that may be spread: its gradient is the sum over all places where it was used.
#[derive(Clone, Copy)]
struct Spread {
    shape: Shape,
    tracked: bool,
}

impl Spread {
    fn of(operand: &Var<'_>) -> Self {
        Spread { shape: operand.shape(), tracked: operand.is_tracked() }
    }

    fn sum(self, d: Tensor) -> Tensor {
        kernels::sum_to(&d, self.shape)
    }

    fn gradient(self, d: impl FnOnce() -> Tensor) -> Option<Tensor> {
        self.tracked.then(|| self.sum(d()))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        let pairs: [&[&[usize]]; 4] =
            [&[&[2, 3], &[2, 3]], &[&[2, 3, 4, 2, 3], &[1, 3, 1, 1, 1]], &[&[3, 1], &[2, 1, 4]], &[&[], &[2, 3]]];
        for shapes in pairs {
            table.row(format!("add {shapes:?}"), NONLINEAR, shapes, |_, v| v[0].add(&v[1]));
            table.row(format!("sub {shapes:?}"), NONLINEAR, shapes, |_, v| v[0].sub(&v[1]));
            table.row(format!("mul {shapes:?}"), LINEAR, shapes, |_, v| v[0].mul(&v[1]));
            // Away from the pole.
            let div = format!("div {shapes:?}");
            table.row(div, NONLINEAR, shapes, |_, v| v[0].div(&v[1].mul(&v[1]).add_scalar(0.5)));
            table.row(format!("maximum {shapes:?}"), NONLINEAR, shapes, |_, v| v[0].maximum(&v[1]));
            table.row(format!("minimum {shapes:?}"), NONLINEAR, shapes, |_, v| v[0].minimum(&v[1]));
        }
        table.row("scale", LINEAR, &[&[5]], |_, v| v[0].scale(-1.5));
        table.row("add_scalar", NONLINEAR, &[&[5]], |_, v| v[0].add_scalar(-1.5));
        for exponent in [0.0, 1.0, 2.0, 3.0] {
            table.row(format!("pow {exponent}"), NONLINEAR, &[&[5]], move |_, v| v[0].pow(exponent));
        }
        for exponent in [-2.0, 0.5, 1.7] {
            let name = format!("pow {exponent}");
            table.row(name, NONLINEAR, &[&[5]], move |_, v| v[0].mul(&v[0]).add_scalar(0.5).pow(exponent));
        }
        table.row("broadcast", LINEAR, &[&[3, 1]], |_, v| v[0].broadcast([2, 3, 4]));
        table.check();
    }
}
