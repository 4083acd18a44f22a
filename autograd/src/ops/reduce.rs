//! Sums, means, maxima and variances, of all elements or over chosen axes; softmax along one.

use crate::Var;
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// The sum of all elements: [`kernels::sum`].
    #[track_caller]
    pub fn sum(&self) -> Var<'t> {
        let shape = self.shape();
        self.unary("sum", kernels::sum(self.value()), move |dy| kernels::broadcast(&dy, shape))
    }

    /// The mean of all elements: [`kernels::mean_axes`].
    #[track_caller]
    pub fn mean(&self) -> Var<'t> {
        let axes: Vec<usize> = (0..self.shape().rank()).collect();
        self.mean_axes(&axes, false)
    }

    /// Sums over `axes`, which stay with extent 1 if `keep_dims`: [`kernels::sum_axes`].
    #[track_caller]
    pub fn sum_axes(&self, axes: &[usize], keep_dims: bool) -> Var<'t> {
        let (shape, y) = (self.shape(), kernels::sum_axes(self.value(), axes, keep_dims));
        let axes = axes.to_vec();
        self.unary("sum_axes", y, move |dy| kernels::sum_axes_vjp(&dy, shape, &axes))
    }

    /// Means over `axes`, which stay with extent 1 if `keep_dims`: [`kernels::mean_axes`].
    #[track_caller]
    pub fn mean_axes(&self, axes: &[usize], keep_dims: bool) -> Var<'t> {
        let (shape, y) = (self.shape(), kernels::mean_axes(self.value(), axes, keep_dims));
        let axes = axes.to_vec();
        self.unary("mean_axes", y, move |dy| kernels::mean_axes_vjp(&dy, shape, &axes))
    }

    /// Maxima over `axes`, which stay with extent 1 if `keep_dims`: [`kernels::max_axes`].
    #[track_caller]
    pub fn max_axes(&self, axes: &[usize], keep_dims: bool) -> Var<'t> {
        let (x, y) = (self.value().clone(), kernels::max_axes(self.value(), axes, keep_dims));
        let axes = axes.to_vec();
        self.unary("max_axes", y, move |dy| kernels::max_axes_vjp(&x, &dy, &axes))
    }

    /// Variances over `axes`, which stay with extent 1 if `keep_dims`: [`kernels::var_axes`].
    #[track_caller]
    pub fn var_axes(&self, axes: &[usize], correction: usize, keep_dims: bool) -> Var<'t> {
        let (x, y) = (self.value().clone(), kernels::var_axes(self.value(), axes, correction, keep_dims));
        let axes = axes.to_vec();
        self.unary("var_axes", y, move |dy| kernels::var_axes_vjp(&x, &dy, &axes, correction))
    }

    /// The softmax along `axis`: [`kernels::softmax`].
    #[track_caller]
    pub fn softmax(&self, axis: usize) -> Var<'t> {
        let y = kernels::softmax(self.value(), axis);
        self.unary("softmax", y.clone(), move |dy| kernels::softmax_vjp(&y, &dy, axis))
    }

    /// The logarithm of the softmax along `axis`: [`kernels::log_softmax`].
    #[track_caller]
    pub fn log_softmax(&self, axis: usize) -> Var<'t> {
        let y = kernels::log_softmax(self.value(), axis);
        self.unary("log_softmax", y.clone(), move |dy| kernels::log_softmax_vjp(&y, &dy, axis))
    }

    /// The logarithm of the sum of exponentials along `axis`, which stays with extent 1 if `keep_dims`:
    /// [`kernels::logsumexp`].
    #[track_caller]
    pub fn logsumexp(&self, axis: usize, keep_dims: bool) -> Var<'t> {
        let (x, y) = (self.value().clone(), kernels::logsumexp(self.value(), axis, keep_dims));
        self.unary("logsumexp", y, move |dy| kernels::logsumexp_vjp(&x, &dy, axis))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("sum", LINEAR, &[&[3, 4]], |_, v| v[0].sum());
        table.row("mean", LINEAR, &[&[3, 4]], |_, v| v[0].mean());
        let cases: [(&[usize], &'static [usize]); 5] =
            [(&[7], &[0]), (&[3, 4], &[0]), (&[3, 4], &[1]), (&[2, 3, 4, 2, 3], &[0, 2, 3, 4]), (&[2, 3, 4], &[2, 0])];
        for (shape, axes) in cases {
            for keep in [false, true] {
                let name = |op: &str| format!("{op} {shape:?} over {axes:?}, kept: {keep}");
                table.row(name("sum_axes"), LINEAR, &[shape], move |_, v| v[0].sum_axes(axes, keep));
                table.row(name("mean_axes"), LINEAR, &[shape], move |_, v| v[0].mean_axes(axes, keep));
                table.row(name("max_axes"), NONLINEAR, &[shape], move |_, v| v[0].max_axes(axes, keep));
                for correction in [0, 1] {
                    table.row(name("var_axes"), NONLINEAR, &[shape], move |_, v| v[0].var_axes(axes, correction, keep));
                }
            }
        }
        for axis in 0..3 {
            let map: &[&[usize]] = &[&[2, 5, 3]];
            table.row(format!("softmax {axis}"), NONLINEAR, map, move |_, v| v[0].softmax(axis));
            table.row(format!("log_softmax {axis}"), NONLINEAR, map, move |_, v| v[0].log_softmax(axis));
            table.row(format!("logsumexp {axis}"), NONLINEAR, map, move |_, v| v[0].logsumexp(axis, axis == 1));
        }
        table.check();
    }
}
