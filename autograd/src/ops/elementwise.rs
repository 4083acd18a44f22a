//! Sums, products and activations, element by element.

use crate::{Var, tape::Edge};
use quarterturn_core::Tensor;
use quarterturn_kernels::{self as kernels};

impl<'t> Var<'t> {
    /// `self + other`: [`kernels::add`].
    #[track_caller]
    pub fn add(&self, other: &Var<'t>) -> Var<'t> {
        self.result(kernels::add(self.value(), other.value()), [self.edge(Tensor::clone), other.edge(Tensor::clone)])
    }

    /// `max(self + other, 0)`: [`kernels::add_relu`].
    #[track_caller]
    pub fn add_relu(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::add_relu(self.value(), other.value());
        let vjp = {
            let y = y.clone();
            move |dy: &Tensor| {
                let d = kernels::relu_vjp(&y, dy);
                vec![d.clone(), d]
            }
        };
        self.result(y, [Edge::joint([self, other], vjp)])
    }

    /// `self · other`, elementwise: [`kernels::mul`].
    #[track_caller]
    pub fn mul(&self, other: &Var<'t>) -> Var<'t> {
        let (a, b) = (self.value().clone(), other.value().clone());
        self.result(
            kernels::mul(&a, &b),
            [self.edge(move |dy| kernels::mul(dy, &b)), other.edge(move |dy| kernels::mul(dy, &a))],
        )
    }

    /// `factor · self`: [`kernels::scale`].
    pub fn scale(&self, factor: f64) -> Var<'t> {
        self.result(kernels::scale(self.value(), factor), [self.edge(move |dy| kernels::scale(dy, factor))])
    }

    /// `max(self, 0)`: [`kernels::relu`].
    pub fn relu(&self) -> Var<'t> {
        let y = kernels::relu(self.value());
        self.result(y.clone(), [self.edge(move |dy| kernels::relu_vjp(&y, dy))])
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("add", NONLINEAR, &[&[2, 3], &[2, 3]], |_, v| v[0].add(&v[1]));
        table.row("add_relu", NONLINEAR, &[&[4, 4], &[4, 4]], |_, v| v[0].add_relu(&v[1]));
        table.row("mul", LINEAR, &[&[2, 3], &[2, 3]], |_, v| v[0].mul(&v[1]));
        table.row("scale", LINEAR, &[&[5]], |_, v| v[0].scale(-1.5));
        table.row("relu", NONLINEAR, &[&[4, 4]], |_, v| v[0].relu());
        table.check();
    }
}
