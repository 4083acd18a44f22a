//! Activations, element by element.

use crate::Var;
use quarterturn_kernels::{self as kernels, Elementwise, Elementwise2};

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

    /// `f(self, other)`, elementwise, with broadcasting: [`kernels::zip`].
    #[track_caller]
    pub fn zip(&self, other: &Var<'t>, f: &Elementwise2) -> Var<'t> {
        let (a, b, f) = (self.value().clone(), other.value().clone(), *f);
        let wanted = [self, other].map(Var::is_tracked);
        Var::custom(f.name, &[self, other], kernels::zip(&a, &b, &f), move |dy| {
            let da = wanted[0].then(|| kernels::zip_vjp_a(&a, &b, &dy, &f));
            let db = wanted[1].then(|| kernels::zip_vjp_b(&a, &b, &dy, &f));
            vec![da, db]
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{NONLINEAR, Table};
    use quarterturn_kernels::{self as kernels, Elementwise2};

    /// `a²·b²`.
    static PRODUCT_OF_SQUARES: Elementwise2 = Elementwise2 {
        name: "product_of_squares",
        value: |a, b| a * a * b * b,
        slopes: [|a, b| 2.0 * a * b * b, |a, b| 2.0 * a * a * b],
        cpu: None,
        wgsl: ["a * a * b * b", "2.0 * a * b * b", "2.0 * a * a * b"],
    };

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("add_relu", NONLINEAR, &[&[4, 4], &[4, 4]], |_, v| v[0].add_relu(&v[1]));
        table.row("relu", NONLINEAR, &[&[4, 4]], |_, v| v[0].relu());
        table.row("map", NONLINEAR, &[&[4, 4]], |_, v| v[0].map(&kernels::SILU));
        table.row("map_with", NONLINEAR, &[&[4, 4]], |_, v| v[0].map_with(&kernels::LEAKY_RELU, [0.2]));
        for (a, b) in [(&[4, 4][..], &[4, 4][..]), (&[3, 1], &[2, 1, 4])] {
            table.row(format!("zip {a:?} {b:?}"), NONLINEAR, &[a, b], |_, v| v[0].zip(&v[1], &PRODUCT_OF_SQUARES));
        }
        table.check();
    }
}
