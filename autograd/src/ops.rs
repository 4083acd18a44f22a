//! One method per operation: the kernel's result, and one closure per operand (or per group of operands whose
//! gradients one sweep yields). Formulas, shapes and panics are the kernels'.

use crate::{Var, tape::Edge};
use quarterturn_core::{Shape, Stream, Tensor};
use quarterturn_kernels::{self as kernels, Activation, Conv, Group, Window};
use std::rc::Rc;

impl<'t> Var<'t> {
    /// `self + other`: [`kernels::add`].
    #[track_caller]
    pub fn add(&self, other: &Var<'t>) -> Var<'t> {
        self.result(kernels::add(self.value(), other.value()), [self.edge(Tensor::clone), other.edge(Tensor::clone)])
    }

    /// `self · other`, elementwise: [`kernels::mul`].
    #[track_caller]
    pub fn mul(&self, other: &Var<'t>) -> Var<'t> {
        let (a, b) = (self.value().clone(), other.value().clone());
        self.result(
            kernels::mul(&a, &b),
            [self.edge(move |dy| kernels::mul(dy, &b)), other.edge(move |dy| kernels::mul(dy, &a))],
        )
    }

    /// `factor · self`: [`kernels::scale`].
    pub fn scale(&self, factor: f64) -> Var<'t> {
        self.result(kernels::scale(self.value(), factor), [self.edge(move |dy| kernels::scale(dy, factor))])
    }

    /// `max(self, 0)`: [`kernels::relu`].
    pub fn relu(&self) -> Var<'t> {
        let y = kernels::relu(self.value());
        self.result(y.clone(), [self.edge(move |dy| kernels::relu_vjp(&y, dy))])
    }

    /// The sum of all elements: [`kernels::sum`].
    pub fn sum(&self) -> Var<'t> {
        let shape = self.shape();
        self.result(kernels::sum(self.value()), [self.edge(move |dy| kernels::broadcast(dy, shape))])
    }

    /// The same elements under other extents.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Var<'t> {
        let before = self.shape();
        self.result(self.value().reshape(shape), [self.edge(move |dy| dy.reshape(before))])
    }

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

    /// Plain, lifting or group convolution: [`kernels::group_conv`].
    #[track_caller]
    pub fn group_conv(&self, weight: &Var<'t>, bias: Option<&Var<'t>>, conv: Conv) -> Var<'t> {
        let (x, w) = (self.value().clone(), weight.value().clone());
        let (x_shape, w_shape) = (x.shape(), w.shape());
        let y = kernels::group_conv(&x, &w, bias.map(Var::value), conv);
        let dw = match bias {
            Some(bias) => Edge::joint([weight, bias], move |dy| {
                let (dweight, dbias) = kernels::group_conv_dw(&x, dy, w_shape, conv);
                vec![dweight, dbias]
            }),
            None => weight.edge(move |dy| kernels::group_conv_dw(&x, dy, w_shape, conv).0),
        };
        // The input's gradient comes last: by then the saved input is free.
        self.result(y, [dw, self.edge(move |dy| kernels::group_conv_dx(dy, &w, x_shape, conv))])
    }

    /// The orbit of a filter as one dense weight: [`kernels::filter_orbit`].
    #[track_caller]
    pub fn filter_orbit(&self, group: Group) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::filter_orbit(self.value(), group);
        self.result(y, [self.edge(move |dy| kernels::filter_orbit_vjp(dy, shape, group))])
    }

    /// The maximum of each window: [`kernels::max_pool`].
    #[track_caller]
    pub fn max_pool(&self, window: Window) -> Var<'t> {
        let x = self.value().clone();
        self.result(kernels::max_pool(&x, window), [self.edge(move |dy| kernels::max_pool_vjp(&x, dy, window))])
    }

    /// The mean of each window: [`kernels::avg_pool`].
    #[track_caller]
    pub fn avg_pool(&self, window: Window) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::avg_pool(self.value(), window);
        self.result(y, [self.edge(move |dy| kernels::avg_pool_vjp(dy, shape, window))])
    }

    /// The mean over the two last axes: [`kernels::spatial_mean`].
    #[track_caller]
    pub fn spatial_mean(&self) -> Var<'t> {
        let shape = self.shape();
        self.result(kernels::spatial_mean(self.value()), [self.edge(move |dy| kernels::spatial_mean_vjp(dy, shape))])
    }

    /// The maximum over the group axis: [`kernels::coset_max`].
    #[track_caller]
    pub fn coset_max(&self) -> Var<'t> {
        let x = self.value().clone();
        self.result(kernels::coset_max(&x), [self.edge(move |dy| kernels::coset_max_vjp(&x, dy))])
    }

    /// The mean over the group axis: [`kernels::coset_mean`].
    #[track_caller]
    pub fn coset_mean(&self) -> Var<'t> {
        let shape = self.shape();
        self.result(kernels::coset_mean(self.value()), [self.edge(move |dy| kernels::coset_mean_vjp(dy, shape))])
    }

    /// Batch norm by the batch's own statistics, and those: [`kernels::batch_norm_train`].
    #[track_caller]
    pub fn batch_norm_train(
        &self,
        weight: &Var<'t>,
        bias: &Var<'t>,
        eps: f64,
        activation: Activation,
    ) -> (Var<'t>, Rc<kernels::BatchNorm>) {
        let (x, w, b) = (self.value().clone(), weight.value().clone(), bias.value().clone());
        let forward = Rc::new(kernels::batch_norm_train(&x, &w, &b, eps, activation));
        let saved = forward.clone();
        let vjp = move |dy: &Tensor| {
            let (dx, dw, db) = kernels::batch_norm_train_vjp(&x, &saved, &w, &b, eps, activation, dy);
            vec![dx, dw, db]
        };
        (self.result(forward.y.clone(), [Edge::joint([self, weight, bias], vjp)]), forward)
    }

    /// Batch norm by given statistics: [`kernels::batch_norm_eval`].
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
        let vjp = move |dy: &Tensor| {
            let (dx, dw, db) = kernels::batch_norm_eval_vjp(&x, &saved, &w, &b, &mean, &var, eps, activation, dy);
            vec![dx, dw, db]
        };
        self.result(y, [Edge::joint([self, weight, bias], vjp)])
    }

    /// Drops elements with probability `p`: [`kernels::dropout`], which is linear and its own adjoint.
    pub fn dropout(&self, p: f32, stream: Stream) -> Var<'t> {
        let y = kernels::dropout(self.value(), p, stream);
        self.result(y, [self.edge(move |dy| kernels::dropout(dy, p, stream))])
    }

    /// The mean cross-entropy of these logits: [`kernels::cross_entropy`].
    #[track_caller]
    pub fn cross_entropy(&self, labels: &Tensor) -> Var<'t> {
        let (logits, labels) = (self.value().clone(), labels.clone());
        let loss = kernels::cross_entropy(&logits, &labels);
        self.result(loss, [self.edge(move |dy| kernels::cross_entropy_vjp(&logits, &labels, dy))])
    }

    /// Turns and flips the two last axes: [`kernels::transform_plane`].
    #[track_caller]
    pub fn transform_plane(&self, g: usize) -> Var<'t> {
        let y = kernels::transform_plane(self.value(), g);
        self.result(y, [self.edge(move |dy| kernels::transform_plane(dy, Group::D4.inverse(g)))])
    }

    /// `T_g` on a feature map: [`kernels::transform_feature_map`].
    #[track_caller]
    pub fn transform_feature_map(&self, g: usize, group: Group) -> Var<'t> {
        let y = kernels::transform_feature_map(self.value(), g, group);
        self.result(y, [self.edge(move |dy| kernels::transform_feature_map(dy, group.inverse(g), group))])
    }

    /// Bilinear rotation of image `n` by `degrees[n]`: [`kernels::rotate`].
    #[track_caller]
    pub fn rotate(&self, degrees: &[f32], fill: f32) -> Var<'t> {
        let y = kernels::rotate(self.value(), degrees, fill);
        let degrees = degrees.to_vec();
        self.result(y, [self.edge(move |dy| kernels::rotate_vjp(dy, &degrees))])
    }

    /// Bilinear resize: [`kernels::resize`].
    #[track_caller]
    pub fn resize(&self, height: usize, width: usize) -> Var<'t> {
        let before = self.shape();
        let y = kernels::resize(self.value(), height, width);
        let (h, w) = (before[before.rank() - 2], before[before.rank() - 1]);
        self.result(y, [self.edge(move |dy| kernels::resize_vjp(dy, h, w))])
    }

    /// Zeroes what lies outside the inscribed circle: [`kernels::circle_crop`], its own adjoint.
    #[track_caller]
    pub fn circle_crop(&self) -> Var<'t> {
        self.result(kernels::circle_crop(self.value()), [self.edge(kernels::circle_crop)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tape, gradcheck};
    use quarterturn_kernels::Group::{C1, C4, D4};

    /// An operation as a function of its differentiable operands.
    type Op = Box<dyn for<'t> Fn(&'t Tape, &[Var<'t>]) -> Var<'t>>;

    /// Names the closure's type, which inference does not find by itself.
    fn op(f: impl for<'t> Fn(&'t Tape, &[Var<'t>]) -> Var<'t> + 'static) -> Op {
        Box::new(f)
    }

    /// Values around 0 that keep clear of each other, so that no maximum and no ReLU changes sides within ε.
    fn random(shape: &[usize], stream: u32) -> Tensor {
        let stream = Stream::new(11, stream, 0);
        let len = Shape::new(shape).len() as u64;
        Tensor::reference(shape, (0..len).map(|i| stream.normal(i)).collect())
    }

    fn positive(shape: &[usize], stream: u32) -> Tensor {
        Tensor::reference(shape, random(shape, stream).f64s().iter().map(|v| 0.5 + v * v).collect())
    }

    fn labels(values: &[f64]) -> Tensor {
        Tensor::reference([values.len()], values.to_vec())
    }

    const ACTIVE: Activation = Activation { relu: true, dropout: None };

    /// Name, shapes of the operands, operation.
    fn table() -> Vec<(String, Vec<Vec<usize>>, Op)> {
        let mut rows: Vec<(String, Vec<Vec<usize>>, Op)> = Vec::new();
        let mut row = |name: &str, shapes: &[&[usize]], f: Op| {
            rows.push((name.into(), shapes.iter().map(|shape| shape.to_vec()).collect(), f));
        };
        row("add", &[&[2, 3], &[2, 3]], op(|_, v| v[0].add(&v[1])));
        row("mul", &[&[2, 3], &[2, 3]], op(|_, v| v[0].mul(&v[1])));
        row("scale", &[&[5]], op(|_, v| v[0].scale(-1.5)));
        row("relu", &[&[4, 4]], op(|_, v| v[0].relu()));
        row("sum", &[&[3, 4]], op(|_, v| v[0].sum()));
        row("reshape", &[&[3, 4]], op(|_, v| v[0].reshape([2, 6])));
        row("matmul", &[&[3, 4], &[4, 2]], op(|_, v| v[0].matmul(&v[1], false, false)));
        row("matmul aᵀ", &[&[4, 3], &[4, 2]], op(|_, v| v[0].matmul(&v[1], true, false)));
        row("matmul bᵀ", &[&[3, 4], &[2, 4]], op(|_, v| v[0].matmul(&v[1], false, true)));
        row("matmul aᵀ bᵀ", &[&[4, 3], &[2, 4]], op(|_, v| v[0].matmul(&v[1], true, true)));
        row("linear", &[&[3, 4], &[2, 4], &[2]], op(|_, v| v[0].linear(&v[1], Some(&v[2]))));
        row("linear, no bias", &[&[3, 4], &[2, 4]], op(|_, v| v[0].linear(&v[1], None)));
        for (group, g_in) in [(C1, 1), (C4, 1), (C4, 4), (D4, 1), (D4, 8)] {
            for (k, stride, padding) in [(3, 1, 1), (2, 2, 0), (3, 2, 1), (4, 1, 0)] {
                let conv = Conv { group, stride, padding };
                row(
                    &format!("group_conv {group} from {g_in}, k {k} s {stride} p {padding}"),
                    &[&[2, 2, g_in, 5, 6], &[3, 2, g_in, k, k], &[3]],
                    op(move |_, v| v[0].group_conv(&v[1], Some(&v[2]), conv)),
                );
            }
            row(
                &format!("filter_orbit {group} from {g_in}"),
                &[&[2, 3, g_in, 3, 3]],
                op(move |_, v| v[0].filter_orbit(group)),
            );
        }
        let conv = Conv { group: C4, stride: 1, padding: 0 };
        row(
            "group_conv, no bias",
            &[&[1, 2, 4, 5, 5], &[2, 2, 4, 3, 3]],
            op(move |_, v| v[0].group_conv(&v[1], None, conv)),
        );
        for (kernel_size, stride, padding) in [(2, 2, 0), (3, 2, 1)] {
            let window = Window { kernel_size, stride, padding };
            row(&format!("max_pool {window:?}"), &[&[2, 2, 4, 5, 6]], op(move |_, v| v[0].max_pool(window)));
            row(&format!("avg_pool {window:?}"), &[&[2, 2, 4, 5, 6]], op(move |_, v| v[0].avg_pool(window)));
        }
        row("spatial_mean", &[&[2, 3, 4, 3, 5]], op(|_, v| v[0].spatial_mean()));
        row("coset_max", &[&[2, 3, 8, 2, 2]], op(|_, v| v[0].coset_max()));
        row("coset_mean", &[&[2, 3, 4, 2, 2]], op(|_, v| v[0].coset_mean()));
        let dropping = Activation { relu: true, dropout: Some((0.3, Stream::new(1, 2, 3))) };
        for (name, activation) in [("", Activation::default()), (" relu", ACTIVE), (" relu dropout", dropping)] {
            row(
                &format!("batch_norm_train{name}"),
                &[&[3, 2, 4, 2, 3], &[2], &[2]],
                op(move |_, v| v[0].batch_norm_train(&v[1], &v[2], 1e-5, activation).0),
            );
        }
        for (name, activation) in [("", Activation::default()), (" relu", ACTIVE)] {
            row(
                &format!("batch_norm_eval{name}"),
                &[&[3, 2, 4, 2, 3], &[2], &[2]],
                op(move |_, v| {
                    v[0].batch_norm_eval(&v[1], &v[2], &random(&[2], 90), &positive(&[2], 91), 1e-5, activation)
                }),
            );
        }
        row("dropout", &[&[40]], op(|_, v| v[0].dropout(0.3, Stream::new(1, 2, 3))));
        row("cross_entropy", &[&[4, 3]], op(|_, v| v[0].cross_entropy(&labels(&[0., 2., 1., 2.]))));
        for g in D4.elements() {
            row(&format!("transform_plane {g}"), &[&[2, 3, 5]], op(move |_, v| v[0].transform_plane(g)));
            row(
                &format!("transform_feature_map {g}"),
                &[&[1, 2, 8, 3, 3]],
                op(move |_, v| v[0].transform_feature_map(g, D4)),
            );
        }
        row("rotate", &[&[3, 2, 5, 5]], op(|_, v| v[0].rotate(&[20.0, 90.0, -130.5], 0.5)));
        row("resize up", &[&[1, 2, 5, 4]], op(|_, v| v[0].resize(7, 6)));
        row("resize down", &[&[1, 2, 7, 6]], op(|_, v| v[0].resize(4, 5)));
        row("circle_crop", &[&[1, 2, 6, 6]], op(|_, v| v[0].circle_crop()));
        rows
    }

    #[test]
    fn gradients_agree_with_differences() {
        let mut failures = Vec::new();
        for (name, shapes, f) in table() {
            let inputs: Vec<_> = shapes.iter().zip(0..).map(|(shape, stream)| random(shape, stream)).collect();
            if let Err(error) = gradcheck(f, &inputs, 1e-7) {
                failures.push(format!("{name}: {error}"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
