//! Pools over windows and over whole maps.

use crate::Var;
use quarterturn_kernels::{self as kernels, Window};

impl<'t> Var<'t> {
    /// Max pooling: [`kernels::max_pool`].
    #[track_caller]
    pub fn max_pool(&self, window: Window) -> Var<'t> {
        let x = self.value().clone();
        self.unary("max_pool", kernels::max_pool(&x, window), move |dy| kernels::max_pool_vjp(&x, &dy, window))
    }

    /// Average pooling: [`kernels::avg_pool`].
    #[track_caller]
    pub fn avg_pool(&self, window: Window) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::avg_pool(self.value(), window);
        self.unary("avg_pool", y, move |dy| kernels::avg_pool_vjp(&dy, shape, window))
    }

    /// BlurPool, anti-aliased subsampling: [`kernels::blur_pool`].
    #[track_caller]
    pub fn blur_pool(&self, window: Window) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::blur_pool(self.value(), window);
        self.unary("blur_pool", y, move |dy| kernels::blur_pool_vjp(&dy, shape, window))
    }

    /// The mean over the two last axes: [`kernels::spatial_mean`].
    #[track_caller]
    pub fn spatial_mean(&self) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::spatial_mean(self.value());
        self.unary("spatial_mean", y, move |dy| kernels::spatial_mean_vjp(&dy, shape))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};
    use quarterturn_kernels::Window;

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        for (kernel_size, stride, padding) in [(2, 2, 0), (3, 2, 1)] {
            let (window, x) = (Window { kernel_size, stride, padding }, [2, 2, 4, 5, 6]);
            table.row(format!("max_pool {window:?}"), NONLINEAR, &[&x], move |_, v| v[0].max_pool(window));
            table.row(format!("avg_pool {window:?}"), LINEAR, &[&x], move |_, v| v[0].avg_pool(window));
        }
        for (kernel_size, stride, padding) in [(3, 2, 1), (5, 2, 2)] {
            let (window, x) = (Window { kernel_size, stride, padding }, [2, 2, 4, 5, 6]);
            table.row(format!("blur_pool {window:?}"), LINEAR, &[&x], move |_, v| v[0].blur_pool(window));
        }
        table.row("spatial_mean", LINEAR, &[&[2, 3, 4, 3, 5]], |_, v| v[0].spatial_mean());
        table.check();
    }
}
