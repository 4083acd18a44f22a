//! Matrix products.

use crate::Var;
use quarterturn_core::Tensor;
use quarterturn_kernels::{self as kernels};

impl<'t> Var<'t> {
    /// The matrix product of `self` and `other`, each transposed on demand: [`kernels::matmul`].
    #[track_caller]
    pub fn matmul(&self, other: &Var<'t>, transpose_a: bool, transpose_b: bool) -> Var<'t> {
        let (a, b) = (self.value().clone(), other.value().clone());
        let y = kernels::matmul(&a, &b, transpose_a, transpose_b);
        let da = move |dy: &Tensor| match transpose_a {
            false => kernels::matmul(dy, &b, false, !transpose_b),
            true => kernels::matmul(&b, dy, transpose_b, true),
        };
        let db = move |dy: &Tensor| match transpose_b {
            false => kernels::matmul(&a, dy, !transpose_a, false),
            true => kernels::matmul(dy, &a, true, transpose_a),
        };
        self.result(y, [self.edge(da), other.edge(db)])
    }

    /// `self · weightᵀ + bias`: [`kernels::linear`].
    #[track_caller]
    pub fn linear(&self, weight: &Var<'t>, bias: Option<&Var<'t>>) -> Var<'t> {
        let (x, w) = (self.value().clone(), weight.value().clone());
        let y = kernels::linear(&x, &w, bias.map(Var::value));
        self.result(
            y,
            [
                weight.edge(move |dy| kernels::matmul(dy, &x, true, false)),
                bias.and_then(|bias| bias.edge(kernels::sum_rows)),
                self.edge(move |dy| kernels::matmul(dy, &w, false, false)),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("matmul", LINEAR, &[&[3, 4], &[4, 2]], |_, v| v[0].matmul(&v[1], false, false));
        table.row("matmul aᵀ", LINEAR, &[&[4, 3], &[4, 2]], |_, v| v[0].matmul(&v[1], true, false));
        table.row("matmul bᵀ", LINEAR, &[&[3, 4], &[2, 4]], |_, v| v[0].matmul(&v[1], false, true));
        table.row("matmul aᵀ bᵀ", LINEAR, &[&[4, 3], &[2, 4]], |_, v| v[0].matmul(&v[1], true, true));
        table.row("linear", NONLINEAR, &[&[3, 4], &[2, 4], &[2]], |_, v| v[0].linear(&v[1], Some(&v[2])));
        table.row("linear, no bias", LINEAR, &[&[3, 4], &[2, 4]], |_, v| v[0].linear(&v[1], None));
        table.check();
    }
}
