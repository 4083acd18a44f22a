//! Sums, means, maxima and variances, of all elements or over chosen axes.

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
        table.check();
    }
}
