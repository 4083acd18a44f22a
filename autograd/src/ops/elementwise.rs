//! Sums, products and activations, element by element.

use crate::Var;
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// `self + other`: [`kernels::add`].
    #[track_caller]
    pub fn add(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::add(self.value(), other.value());
        Var::custom("add", &[self, other], y, |dy| vec![Some(dy.clone()), Some(dy)])
    }

    /// `max(self + other, 0)`: [`kernels::add_relu`].
    #[track_caller]
    pub fn add_relu(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::add_relu(self.value(), other.value());
        Var::custom("add_relu", &[self, other], y.clone(), move |dy| {
            let d = kernels::relu_vjp(&y, &dy);
            vec![Some(d.clone()), Some(d)]
        })
    }

    /// `self · other`, elementwise: [`kernels::mul`].
    #[track_caller]
    pub fn mul(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::mul(self.value(), other.value());
        let (a, b) = (other.keeps(self.value()), self.keeps(other.value()));
        Var::custom("mul", &[self, other], y, move |dy| {
            vec![b.map(|b| kernels::mul(&dy, &b)), a.map(|a| kernels::mul(&dy, &a))]
        })
    }

    /// `factor · self`: [`kernels::scale`].
    #[track_caller]
    pub fn scale(&self, factor: f64) -> Var<'t> {
        self.unary("scale", kernels::scale(self.value(), factor), move |dy| kernels::scale(&dy, factor))
    }

    /// `max(self, 0)`: [`kernels::relu`].
    #[track_caller]
    pub fn relu(&self) -> Var<'t> {
        let y = kernels::relu(self.value());
        self.unary("relu", y.clone(), move |dy| kernels::relu_vjp(&y, &dy))
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
