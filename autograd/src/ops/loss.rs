//! Losses.

use crate::Var;
use quarterturn_core::Tensor;
use quarterturn_kernels::{self as kernels, CrossEntropy, Pointwise, Reduction};

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

    /// The squared differences from `target`: [`kernels::pointwise_loss`] of [`Pointwise::Squared`].
    #[track_caller]
    pub fn mse_loss(&self, target: &Tensor, reduction: Reduction) -> Var<'t> {
        self.pointwise_loss(target, Pointwise::Squared, reduction)
    }

    /// The absolute differences from `target`: [`kernels::pointwise_loss`] of [`Pointwise::Absolute`].
    #[track_caller]
    pub fn l1_loss(&self, target: &Tensor, reduction: Reduction) -> Var<'t> {
        self.pointwise_loss(target, Pointwise::Absolute, reduction)
    }

    /// The Huber loss, quadratic for small differences from `target` and linear for large ones:
    /// [`kernels::pointwise_loss`] of [`Pointwise::Huber`].
    #[track_caller]
    pub fn huber_loss(&self, target: &Tensor, delta: f64, reduction: Reduction) -> Var<'t> {
        self.pointwise_loss(target, Pointwise::Huber(delta), reduction)
    }

    /// The binary cross-entropy of these logits with probabilities `target`: [`kernels::pointwise_loss`] of
    /// [`Pointwise::BinaryCrossEntropy`].
    #[track_caller]
    pub fn bce_with_logits(&self, target: &Tensor, reduction: Reduction) -> Var<'t> {
        self.pointwise_loss(target, Pointwise::BinaryCrossEntropy, reduction)
    }

    /// A loss that compares each element with that of `target`, which gets no gradient: [`kernels::pointwise_loss`].
    #[track_caller]
    pub fn pointwise_loss(&self, target: &Tensor, loss: Pointwise, reduction: Reduction) -> Var<'t> {
        let (x, target) = (self.value().clone(), target.clone());
        let y = kernels::pointwise_loss(&x, &target, loss, reduction);
        let vjp = move |dy| kernels::pointwise_loss_vjp(&x, &target, loss, reduction, &dy);
        self.unary("pointwise_loss", y, vjp)
    }

    /// The soft Dice loss of probabilities `[N, K, …]` against targets of the same shape (Sudre et al. 2017), with s =
    /// `smooth`: `1 − (1/NK) Σ_nk (2 Σ_p x[n, k, p]·t[n, k, p] + s) / (Σ_p x[n, k, p] + Σ_p t[n, k, p] + s)`. With s =
    /// 0 the loss is NaN if a class neither occurs nor is predicted; s = 1 is usual.
    ///
    /// # Panics
    /// If shapes or devices differ, or there are fewer than three axes.
    #[track_caller]
    pub fn dice_loss(&self, target: &Tensor, smooth: f64) -> Var<'t> {
        let (shape, rank) = (self.shape(), self.shape().rank());
        assert_eq!(
            shape,
            target.shape(),
            "dice_loss: expected a target of the shape {shape:?}, got {:?}",
            target.shape()
        );
        assert!(rank > 2, "dice_loss: expected probabilities [N, K, ...], got {shape:?}");
        let target = self.tape().constant(target.clone());
        let places: Vec<usize> = (2..rank).collect();
        let sum = |x: &Var<'t>| x.sum_axes(&places, false);
        let both = sum(&self.mul(&target)).scale(2.0).add_scalar(smooth);
        let each = sum(self).add(&sum(&target)).add_scalar(smooth);
        both.div(&each).mean().scale(-1.0).add_scalar(1.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Var,
        ops::check::{NONLINEAR, Table, beside},
    };
    use quarterturn_core::Tensor;
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
        let target = |v: &Var<'_>| beside(v, &[0.0, 1.0, 0.3, 1.0, 0.0, 0.8]).reshape([1, 2, 3]);
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let map: &[&[usize]] = &[&[1, 2, 3]];
            let name = |loss: &str| format!("{loss}, {reduction:?}");
            table.row(name("mse_loss"), NONLINEAR, map, move |_, v| v[0].mse_loss(&target(&v[0]), reduction));
            table.row(name("l1_loss"), NONLINEAR, map, move |_, v| v[0].l1_loss(&target(&v[0]), reduction));
            table.row(name("huber_loss"), NONLINEAR, map, move |_, v| v[0].huber_loss(&target(&v[0]), 0.5, reduction));
            table.row(name("bce"), NONLINEAR, map, move |_, v| v[0].bce_with_logits(&target(&v[0]), reduction));
        }
        table.row("dice_loss", NONLINEAR, &[&[1, 2, 3]], move |_, v| v[0].softmax(1).dice_loss(&target(&v[0]), 1.0));
        table.check();
    }

    #[test]
    fn dice_by_hand() {
        let tape = crate::Tape::evaluation();
        let of = |values: &[f64]| Tensor::reference([1, 2, 2], values.to_vec());
        // The first class is half right, the second neither there nor predicted.
        let x = tape.constant(of(&[1.0, 0.0, 0.0, 0.0]));
        let target = of(&[1.0, 1.0, 0.0, 0.0]);
        let loss = |smooth| x.dice_loss(&target, smooth).value().f64s()[0];
        assert!((loss(1.0) - (1.0 - (3.0 / 4.0 + 1.0) / 2.0)).abs() < 1e-15);
        assert!(loss(0.0).is_nan());
        assert!(tape.constant(target.clone()).dice_loss(&target, 1.0).value().f64s()[0].abs() < 1e-15);
    }
}
