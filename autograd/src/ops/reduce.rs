//! Sums over axes.

use crate::Var;
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// The sum of all elements: [`kernels::sum`].
    #[track_caller]
    pub fn sum(&self) -> Var<'t> {
        let shape = self.shape();
        self.unary("sum", kernels::sum(self.value()), move |dy| kernels::broadcast(&dy, shape))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, Table};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("sum", LINEAR, &[&[3, 4]], |_, v| v[0].sum());
        table.check();
    }
}
