//! A convolution, the batch norm of its results, and the pooling of those, as one operation in training.
//!
//! The gradient of a norm begins with sums over the gradient that arrives. The operation that makes that gradient leaves
//! them behind while it has it in its cache. How it knows where to: whoever makes a norm's results leaves a [`Norm`] with
//! them as a note on the [`Var`], which the next convolution finds.

use crate::Var;
use quarterturn_core::{Shape, Tensor};
use quarterturn_kernels::{
    self as kernels, Activation, Conv, ConvNormGradients, NormGradient, NormSums, TrainNorm, Window,
};
use std::{cell::RefCell, rc::Rc};

/// The norm whose results a value is.
pub(super) struct Norm {
    gradient: NormGradient,
    /// What its gradient begins with, if the operation that made the arriving gradient has left it. The kernel takes it
    /// only if it is of that very gradient, and not of one of several that were added up.
    sums: RefCell<Option<NormSums>>,
}

impl Norm {
    pub fn new(gradient: NormGradient) -> Rc<Self> {
        Rc::new(Norm { gradient, sums: RefCell::new(None) })
    }

    /// What is known of `dy`, or of another gradient: the kernel asks.
    pub fn gradient_and_sums(&self) -> (&NormGradient, Option<NormSums>) {
        (&self.gradient, self.sums.take())
    }
}

/// The gradient of a convolution's input, plus what has arrived of it before. If the input is the result of `norm`, its sums
/// are left there.
pub(super) fn conv_dx(
    dy: &Tensor,
    weight: &Tensor,
    x_shape: Shape,
    conv: Conv,
    norm: Option<Rc<Norm>>,
    arrived: Option<Tensor>,
) -> Tensor {
    let gradient = norm.as_ref().map(|norm| &norm.gradient);
    let (dx, sums) = kernels::group_conv_dx_norm(dy, weight, x_shape, conv, gradient, arrived.as_ref());
    if let Some(norm) = norm {
        norm.sums.replace(sums);
    }
    dx
}

impl<'t> Var<'t> {
    /// A convolution, batch norm, and, if wanted, max pooling: [`kernels::group_conv_norm_train`]. The convolution's
    /// bias gets no gradient, which would be 0.
    #[track_caller]
    pub fn group_conv_norm_train(
        &self,
        weight: &Var<'t>,
        bias: Option<&Tensor>,
        conv: Conv,
        norm_weight: &Var<'t>,
        norm_bias: &Var<'t>,
        eps: f64,
        activation: Activation,
        pool: Option<Window>,
    ) -> (Var<'t>, Rc<kernels::BatchNorm>) {
        let (x, w) = (self.value().clone(), weight.value().clone());
        let norm = TrainNorm { weight: norm_weight.value(), bias: norm_bias.value(), eps, activation, pool };
        let (forward, gradient) = kernels::group_conv_norm_train(&x, &w, bias, conv, norm);
        let norm = Norm::new(gradient);
        let (note, wants_dx, before) = (norm.clone(), self.is_tracked(), self.note::<Norm>());
        let operands = [self, weight, norm_weight, norm_bias];
        let vjp = move |dy: Tensor, arrived| {
            let ((gradient, sums), x_shape) = (norm.gradient_and_sums(), x.shape());
            let gradients = kernels::group_conv_norm_train_vjp(&x, w.shape(), conv, gradient, &dy, sums, wants_dx);
            let ConvNormGradients { weight, norm_weight, norm_bias, convolved } = gradients;
            // The input's gradient comes last, into memory that has just been read and is free by then.
            drop((x, norm, dy));
            let dx = convolved.map(|dy| conv_dx(&dy, &w, x_shape, conv, before, arrived));
            vec![dx, Some(weight), Some(norm_weight), Some(norm_bias)]
        };
        let y = Var::custom_adding("group_conv_norm_train", &operands, forward.y.clone(), vjp);
        (y.with_note(note), Rc::new(forward))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{NONLINEAR, Table};
    use quarterturn_core::Stream;
    use quarterturn_kernels::{
        Activation, Conv,
        Group::{C1, C4, D4},
        Window,
    };

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        let relu = Activation { relu: true, dropout: None };
        let dropping = Activation { relu: true, dropout: Some((0.3, Stream::new(1, 2, 3))) };
        let halving = Window { kernel_size: 2, stride: 2, padding: 0 };
        for (group, g_in) in [(C1, 1), (C4, 1), (C4, 4), (D4, 8)] {
            let conv = Conv { padding: 1, ..Conv::new(group) };
            let shapes: &[&[usize]] = &[&[2, 2, g_in, 5, 6], &[3, 2, g_in, 3, 3], &[3], &[3]];
            for (name, activation, pool) in [
                ("", Activation::default(), None),
                (" relu", relu, None),
                (" relu dropout", dropping, None),
                (" relu pool", relu, Some(halving)),
                (" relu dropout pool", dropping, Some(halving)),
            ] {
                let name = format!("group_conv_norm_train {group} from {g_in}{name}");
                table.row(name, NONLINEAR, shapes, move |_, v| {
                    v[0].group_conv_norm_train(&v[1], None, conv, &v[2], &v[3], 1e-5, activation, pool).0
                });
            }
            // Two in a row, of which the second one's gradient begins the first one's.
            let mut shapes = shapes.to_vec();
            let second = [3, 3, group.order(), 3, 3];
            shapes.extend([&second[..], &[3], &[3]]);
            for (name, activation, pool) in [("", dropping, None), (" pool", relu, Some(halving))] {
                let name = format!("group_conv_norm_train twice {group} from {g_in}{name}");
                table.row(name, NONLINEAR, &shapes, move |_, v| {
                    let (y, _) = v[0].group_conv_norm_train(&v[1], None, conv, &v[2], &v[3], 1e-5, activation, pool);
                    let none = Activation::default();
                    y.group_conv_norm_train(&v[4], None, conv, &v[5], &v[6], 1e-5, none, None).0
                });
            }
        }
        table.check();
    }
}
