//! Matrix products.

use crate::Var;
use quarterturn_core::Tensor;
use quarterturn_kernels as kernels;

impl<'t> Var<'t> {
    /// The matrix product of `self` and `other`, either of which may be transposed first: [`kernels::matmul`].
    #[track_caller]
    pub fn matmul(&self, other: &Var<'t>, transpose_a: bool, transpose_b: bool) -> Var<'t> {
        let y = kernels::matmul(self.value(), other.value(), transpose_a, transpose_b);
        let (a, b) = (other.keeps(self.value()), self.keeps(other.value()));
        let da = move |dy: &Tensor, b: Tensor| match transpose_a {
            false => kernels::matmul(dy, &b, false, !transpose_b),
            true => kernels::matmul(&b, dy, transpose_b, true),
        };
        let db = move |dy: &Tensor, a: Tensor| match transpose_b {
            false => kernels::matmul(&a, dy, !transpose_a, false),
            true => kernels::matmul(dy, &a, true, transpose_a),
        };
        Var::custom("matmul", &[self, other], y, move |dy| vec![b.map(|b| da(&dy, b)), a.map(|a| db(&dy, a))])
    }

    /// `self · weightᵀ + bias`: [`kernels::linear`].
    #[track_caller]
    pub fn linear(&self, weight: &Var<'t>, bias: Option<&Var<'t>>) -> Var<'t> {
        let y = kernels::linear(self.value(), weight.value(), bias.map(Var::value));
        let (x, w) = (weight.keeps(self.value()), self.keeps(weight.value()));
        let bias_is_tracked = bias.map(Var::is_tracked);
        let operands: Vec<_> = [self, weight].into_iter().chain(bias).collect();
        Var::custom("linear", &operands, y, move |dy| {
            let dw = x.map(|x| kernels::matmul(&dy, &x, true, false));
            let db = bias_is_tracked.map(|tracked| tracked.then(|| kernels::sum_rows(&dy)));
            let dx = w.map(|w| kernels::matmul(&dy, &w, false, false));
            [dx, dw].into_iter().chain(db).collect()
        })
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
