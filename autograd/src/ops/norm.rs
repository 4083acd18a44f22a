//! Batch norm.

use crate::{Parts, Var, ops::conv_norm::Norm};
use quarterturn_core::Tensor;
use quarterturn_kernels::{self as kernels, Activation};
use std::rc::Rc;

impl<'t> Var<'t> {
    /// Batch norm with the statistics of the batch, which are returned too: [`kernels::batch_norm_train`].
    #[track_caller]
    pub fn batch_norm_train(
        &self,
        weight: &Var<'t>,
        bias: &Var<'t>,
        eps: f64,
        activation: Activation,
    ) -> (Var<'t>, Rc<kernels::BatchNorm>) {
        let (x, w, b) = (self.value(), weight.value(), bias.value());
        let (forward, gradient) = kernels::batch_norm_train_of(x, w, b, eps, activation);
        let norm = Norm::new(gradient);
        let note = norm.clone();
        let y = Var::custom_adding("batch_norm_train", &[self, weight, bias], forward.y.clone(), move |dy, arrived| {
            let (gradient, sums) = norm.gradient_and_sums();
            let (dx, dw, db) = gradient.vjp(&dy, sums, arrived.as_ref());
            vec![Some(dx), Some(dw), Some(db)]
        });
        (y.with_note(note), Rc::new(forward))
    }

    /// Batch norm with the statistics of a batch of which this is a part: [`kernels::batch_norm_of_sums`]. `parts` adds the
    /// sums of all parts, once now and once in the backward pass.
    #[track_caller]
    pub fn batch_norm_sync(
        &self,
        weight: &Var<'t>,
        bias: &Var<'t>,
        eps: f64,
        activation: Activation,
        parts: Rc<dyn Parts>,
    ) -> (Var<'t>, Rc<kernels::BatchNorm>) {
        let (x, w, b) = (self.value().clone(), weight.value().clone(), bias.value().clone());
        let channels = w.len();
        // Of infinitely many elements: the statistics are no numbers.
        let lost = move || vec![f64::INFINITY; 1 + 2 * channels];
        let sums = parts.sum(kernels::batch_norm_sums(&x)).unwrap_or_else(lost);
        let forward = Rc::new(kernels::batch_norm_of_sums(&x, &sums, &w, &b, eps, activation));
        let (y, saved) = (forward.y.clone(), forward.clone());
        let y = Var::custom("batch_norm_sync", &[self, weight, bias], y, move |dy| {
            let kernels::BatchNorm { y, mean, var, .. } = &*saved;
            let (dx, dw, db) = kernels::batch_norm_eval_vjp(&x, y, &w, &b, mean, var, eps, activation, &dy);
            // Each part differentiates its own loss. To the loss of all, and so to the statistics, it counts by its weight.
            let own = dw.to_f64().and_then(|dw| Ok([dw, db.to_f64()?].concat()));
            let weighted = own.map(|own| own.into_iter().map(|sum| sum * parts.weight()).collect());
            let all = parts.sum(weighted).unwrap_or_else(|| vec![f64::NAN; 2 * channels]);
            let all: Vec<f64> = all.into_iter().map(|sum| sum / parts.weight()).collect();
            let dx = kernels::batch_norm_of_sums_dx(&x, &sums, &w, eps, &dx, &all);
            vec![Some(dx), Some(dw), Some(db)]
        });
        (y, forward)
    }

    /// Batch norm with given statistics: [`kernels::batch_norm_eval`].
    #[track_caller]
    pub fn batch_norm_eval(
        &self,
        weight: &Var<'t>,
        bias: &Var<'t>,
        mean: &Tensor,
        var: &Tensor,
        eps: f64,
        activation: Activation,
    ) -> Var<'t> {
        let y = kernels::batch_norm_eval(self.value(), weight.value(), bias.value(), mean, var, eps, activation);
        let (x, w, b) = (self.value().clone(), weight.value().clone(), bias.value().clone());
        let (mean, var, saved) = (mean.clone(), var.clone(), y.clone());
        Var::custom("batch_norm_eval", &[self, weight, bias], y, move |dy| {
            let (dx, dw, db) = kernels::batch_norm_eval_vjp(&x, &saved, &w, &b, &mean, &var, eps, activation, &dy);
            vec![Some(dx), Some(dw), Some(db)]
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Parts,
        ops::check::{NONLINEAR, Table, beside},
    };
    use quarterturn_core::{Result, Stream};
    use quarterturn_kernels::Activation;
    use std::rc::Rc;

    /// The only part of a batch.
    struct Whole;

    impl Parts for Whole {
        fn sum(&self, own: Result<Vec<f64>>) -> Option<Vec<f64>> {
            Some(own.unwrap())
        }

        fn weight(&self) -> f64 {
            3.0
        }
    }

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        let relu = Activation { relu: true, dropout: None };
        let dropping = Activation { relu: true, dropout: Some((0.3, Stream::new(1, 2, 3))) };
        let map: &[&[usize]] = &[&[3, 2, 4, 2, 3], &[2], &[2]];
        for (name, activation) in [("", Activation::default()), (" relu", relu), (" relu dropout", dropping)] {
            table.row(format!("batch_norm_train{name}"), NONLINEAR, map, move |_, v| {
                v[0].batch_norm_train(&v[1], &v[2], 1e-5, activation).0
            });
            table.row(format!("batch_norm_sync{name}"), NONLINEAR, map, move |_, v| {
                v[0].batch_norm_sync(&v[1], &v[2], 1e-5, activation, Rc::new(Whole)).0
            });
        }
        for (name, activation) in [("", Activation::default()), (" relu", relu)] {
            table.row(format!("batch_norm_eval{name}"), NONLINEAR, map, move |_, v| {
                let (mean, var) = (beside(&v[0], &[0.25, -1.0]), beside(&v[0], &[0.5, 2.0]));
                v[0].batch_norm_eval(&v[1], &v[2], &mean, &var, 1e-5, activation)
            });
        }
        table.check();
    }
}
