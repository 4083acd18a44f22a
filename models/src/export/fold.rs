//! Folding batch norms into the convolutions before them.

use super::{Array, Op, Plain, Step};
use std::mem;

impl Plain {
    /// The same network with batch norms folded into the convolution or linear layer before them, unless another
    /// operation reads the output of that layer too. The weights become `w·f` with `f = weight/√(var + eps)`, the bias
    /// `(b − mean)·f + bias`.
    #[must_use]
    pub fn with_norms_folded(mut self) -> Self {
        let mut readers = vec![0; self.steps.len() + 1];
        self.steps.iter().flat_map(|step| &step.inputs).for_each(|&input| readers[input] += 1);
        // The new index of each value.
        let mut index = vec![0];
        let mut steps: Vec<Step> = Vec::with_capacity(self.steps.len());
        for mut step in mem::take(&mut self.steps) {
            let read = step.inputs[0];
            step.inputs.iter_mut().for_each(|input| *input = index[*input]);
            if let Op::Norm { weight, bias, mean, var, eps } = &step.op
                && readers[read] == 1
                && step.inputs[0] == steps.len()
                && let Some(before) = steps.last_mut()
                && fold(&mut before.op, [weight, bias, mean, var], *eps)
            {
                index.push(steps.len());
                continue;
            }
            steps.push(step);
            index.push(steps.len());
        }
        self.steps = steps;
        self
    }
}

/// Whether the norm with these parameters has become part of the operation before it.
fn fold(op: &mut Op, [factor, add, mean, var]: [&Array; 4], eps: f64) -> bool {
    let factors: Vec<f64> = factor.values.iter().zip(&var.values).map(|(w, var)| w / (var + eps).sqrt()).collect();
    let biased = |b: Option<&Array>| {
        let folded = |c: usize| (b.map_or(0.0, |b| b.values[c]) - mean.values[c]) * factors[c] + add.values[c];
        Array { dims: vec![factors.len()], values: (0..factors.len()).map(folded).collect() }
    };
    // How many values follow one another with one factor.
    let scale = |weight: &mut Array, run: usize| {
        weight.values.iter_mut().enumerate().for_each(|(i, w)| *w *= factors[i / run % factors.len()]);
    };
    match op {
        Op::Conv { weight, bias, .. } => {
            let run = weight.dims[1..].iter().product();
            scale(weight, run);
            *bias = Some(biased(bias.as_ref()));
        }
        Op::TransposedConv { weight, bias, .. } => {
            let run = weight.dims[2..].iter().product();
            scale(weight, run);
            *bias = Some(biased(bias.as_ref()));
        }
        Op::Linear { weight, bias } => {
            let run = weight.dims[1];
            scale(weight, run);
            *bias = biased(Some(bias));
        }
        _ => return false,
    }
    true
}
