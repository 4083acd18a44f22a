//! Losses.

use crate::Var;
use quarterturn_core::Tensor;
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// The mean cross-entropy of these logits: [`kernels::cross_entropy`].
    #[track_caller]
    pub fn cross_entropy(&self, labels: &Tensor) -> Var<'t> {
        let (logits, labels) = (self.value().clone(), labels.clone());
        let loss = kernels::cross_entropy(&logits, &labels);
        self.unary("cross_entropy", loss, move |dy| kernels::cross_entropy_vjp(&logits, &labels, &dy))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{NONLINEAR, Table, beside};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("cross_entropy", NONLINEAR, &[&[4, 3]], |_, v| {
            v[0].cross_entropy(&beside(&v[0], &[0.0, 2.0, 1.0, 2.0]))
        });
        table.check();
    }
}
