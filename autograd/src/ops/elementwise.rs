//! Activations, element by element.

use crate::Var;
use quarterturn_kernels::{self as kernels, Elementwise};

impl<'t> Var<'t> {
    /// `max(self + other, 0)`: [`kernels::add_relu`].
    #[track_caller]
    pub fn add_relu(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::add_relu(self.value(), other.value());
        Var::custom("add_relu", &[self, other], y.clone(), move |dy| {
            let d = kernels::relu_vjp(&y, &dy);
            vec![Some(d.clone()), Some(d)]
        })
    }

    /// `max(self, 0)`: [`kernels::relu`].
    #[track_caller]
    pub fn relu(&self) -> Var<'t> {
        let y = kernels::relu(self.value());
        self.unary("relu", y.clone(), move |dy| kernels::relu_vjp(&y, &dy))
    }

    /// `f(self)`, elementwise, as in `x.map(&SILU)`: [`kernels::map`].
    #[track_caller]
    pub fn map(&self, f: &Elementwise) -> Var<'t> {
        self.map_with(f, [])
    }

    /// As [`Var::map`], for an `f` that depends on numbers, as in `x.map_with(&CLAMP, [-1.0, 1.0])`.
    #[track_caller]
    pub fn map_with<const P: usize>(&self, f: &Elementwise<P>, parameters: [f64; P]) -> Var<'t> {
        let (x, f) = (self.value().clone(), *f);
        self.unary(f.name, kernels::map(&x, &f, parameters), move |dy| kernels::map_vjp(&x, &dy, &f, parameters))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{NONLINEAR, Table};
    use quarterturn_kernels as kernels;

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("add_relu", NONLINEAR, &[&[4, 4], &[4, 4]], |_, v| v[0].add_relu(&v[1]));
        table.row("relu", NONLINEAR, &[&[4, 4]], |_, v| v[0].relu());
        table.row("map", NONLINEAR, &[&[4, 4]], |_, v| v[0].map(&kernels::SILU));
        table.row("map_with", NONLINEAR, &[&[4, 4]], |_, v| v[0].map_with(&kernels::LEAKY_RELU, [0.2]));
        table.check();
    }
}
