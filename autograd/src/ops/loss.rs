//! Losses.

use crate::Var;
use quarterturn_core::Tensor;
use quarterturn_kernels::{self as kernels, CrossEntropy};

impl<'t> Var<'t> {
    /// The mean cross-entropy of these logits: [`kernels::cross_entropy`].
    #[track_caller]
    pub fn cross_entropy(&self, labels: &Tensor) -> Var<'t> {
        let (logits, labels) = (self.value().clone(), labels.clone());
        let loss = kernels::cross_entropy(&logits, &labels);
        self.unary("cross_entropy", loss, move |dy| kernels::cross_entropy_vjp(&logits, &labels, &dy))
    }

    /// The cross-entropy of these logits `[N, K, …]`, with weights of the classes, label smoothing or an ignored label:
    /// [`kernels::cross_entropy_with`].
    #[track_caller]
    pub fn cross_entropy_with(&self, labels: &Tensor, options: &CrossEntropy) -> Var<'t> {
        let (logits, labels, options) = (self.value().clone(), labels.clone(), options.clone());
        let loss = kernels::cross_entropy_with(&logits, &labels, &options);
        let vjp = move |dy| kernels::cross_entropy_with_vjp(&logits, &labels, &options, &dy);
        self.unary("cross_entropy_with", loss, vjp)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Var,
        ops::check::{NONLINEAR, Table, beside},
    };
    use quarterturn_kernels::{CrossEntropy, Reduction};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("cross_entropy", NONLINEAR, &[&[4, 3]], |_, v| {
            v[0].cross_entropy(&beside(&v[0], &[0.0, 2.0, 1.0, 2.0]))
        });
        let smooth = |v: &Var<'_>, ignored, reduction| CrossEntropy {
            weights: Some(beside(v, &[0.5, 2.0, 1.0])),
            smoothing: 0.2,
            ignored,
            reduction,
        };
        for reduction in [Reduction::Mean, Reduction::Sum] {
            table.row(format!("cross_entropy_with, {reduction:?}"), NONLINEAR, &[&[2, 3, 2]], move |_, v| {
                let labels = beside(&v[0], &[0.0, 2.0, 9.0, 1.0]).reshape([2, 2]);
                v[0].cross_entropy_with(&labels, &smooth(&v[0], Some(9), reduction))
            });
        }
        table.check();
    }
}
