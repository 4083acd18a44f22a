//! One method per operation: the kernel's result, and one closure per operand (or per group of operands whose
//! gradients one sweep yields). Formulas, shapes and panics are the kernels'.

use crate::{
    Var,
    tape::{Edge, Norm},
};
use quarterturn_core::{Shape, Stream, Tensor};
use quarterturn_kernels::{self as kernels, Activation, Conv, ConvNormGradients, Group, TrainNorm, Window};
use std::{cell::RefCell, rc::Rc};

impl<'t> Var<'t> {
    /// `self + other`: [`kernels::add`].
    #[track_caller]
    pub fn add(&self, other: &Var<'t>) -> Var<'t> {
        self.result(kernels::add(self.value(), other.value()), [self.edge(Tensor::clone), other.edge(Tensor::clone)])
    }

    /// `max(self + other, 0)`: [`kernels::add_relu`].
    #[track_caller]
    pub fn add_relu(&self, other: &Var<'t>) -> Var<'t> {
        let y = kernels::add_relu(self.value(), other.value());
        let vjp = {
            let y = y.clone();
            move |dy: &Tensor| {
                let d = kernels::relu_vjp(&y, dy);
                vec![d.clone(), d]
            }
        };
        self.result(y, [Edge::joint([self, other], vjp)])
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
        let y = kernels::group_conv(self.value(), weight.value(), bias.map(Var::value), conv);
        let (x, w) = (self.value().clone(), weight.value().clone());
        let (x_shape, w_shape) = (x.shape(), w.shape());
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

    /// A convolution, the batch norm of its results, and the maxima of those: [`kernels::group_conv_norm_train`]. No gradient
    /// flows to the convolution's bias: it is 0.
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
        let (x, w, x_norm, wants_dx) = (self.value().clone(), weight.value().clone(), self.norm(), self.is_tracked());
        let norm = TrainNorm { weight: norm_weight.value(), bias: norm_bias.value(), eps, activation, pool };
        let (forward, gradient) = kernels::group_conv_norm_train(&x, &w, bias, conv, norm);
        let norm = Rc::new(Norm { gradient, sums: RefCell::new(None) });
        let vjp = {
            let norm = norm.clone();
            move |dy: Tensor| {
                let (sums, x_shape) = (norm.sums.take(), x.shape());
                let gradients =
                    kernels::group_conv_norm_train_vjp(&x, w.shape(), conv, &norm.gradient, &dy, sums, wants_dx);
                let ConvNormGradients { weight, norm_weight, norm_bias, convolved } = gradients;
                // The input's gradient comes last, into memory that has just been read and is free by then.
                drop((x, norm, dy));
                let dx = convolved.map(|dy| match x_norm {
                    Some(x_norm) => {
                        let (dx, sums) = kernels::group_conv_dx_norm(&dy, &w, x_shape, conv, &x_norm.gradient);
                        x_norm.sums.replace(sums);
                        dx
                    }
                    None => kernels::group_conv_dx(&dy, &w, x_shape, conv),
                });
                [weight, norm_weight, norm_bias].into_iter().chain(dx).collect()
            }
        };
        let edge = match wants_dx {
            true => Edge::consuming([weight, norm_weight, norm_bias, self], vjp),
            false => Edge::consuming([weight, norm_weight, norm_bias], vjp),
        };
        (self.result(forward.y.clone(), [edge]).of_norm(norm), Rc::new(forward))
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
    use quarterturn_core::{Device, testing};
    use quarterturn_kernels::Group::{C1, C4, D4};

    /// An operation as a function of its differentiable operands.
    type Op = Box<dyn for<'t> Fn(&'t Tape, &[Var<'t>]) -> Var<'t>>;

    /// Names the closure's type, which inference does not find by itself.
    fn op(f: impl for<'t> Fn(&'t Tape, &[Var<'t>]) -> Var<'t> + 'static) -> Op {
        Box::new(f)
    }

    /// Normal values, exact in f32, so that all devices read the same ones.
    fn random(shape: &[usize], stream: u32) -> Tensor {
        let stream = Stream::new(11, stream, 0);
        let len = Shape::new(shape).len() as u64;
        Tensor::reference(shape, (0..len).map(|i| f64::from(stream.normal(i) as f32)).collect())
    }

    /// A tensor of given values where `like` is.
    fn beside(like: &Var<'_>, values: &[f64]) -> Tensor {
        Tensor::from_f64([values.len()], values.to_vec(), &like.value().device()).unwrap()
    }

    struct Row {
        name: String,
        shapes: Vec<Vec<usize>>,
        /// Whether the result is linear in each operand on its own.
        linear: bool,
        op: Op,
    }

    impl Row {
        fn inputs(&self) -> Vec<Tensor> {
            self.shapes.iter().zip(0..).map(|(shape, stream)| random(shape, stream)).collect()
        }

        /// The result, and the gradients of `⟨result, r⟩` for a random r (returned last).
        fn run(&self, inputs: &[Tensor]) -> (Tensor, Vec<Tensor>, Tensor) {
            let tape = Tape::new();
            let variables: Vec<_> = inputs.iter().map(|input| tape.variable(input.clone())).collect();
            let y = (self.op)(&tape, &variables);
            let r = random(y.shape().dims(), 1000).to_device(&y.value().device()).unwrap();
            let gradients = y.backward_from(r.clone());
            let gradients = variables.iter().map(|v| gradients.wrt(v).expect("every operand counts").clone());
            (y.value().clone(), gradients.collect(), r)
        }
    }

    const LINEAR: bool = true;
    const NONLINEAR: bool = false;

    /// Every operation, with cases. Drives the check of gradients, of adjoints, and of devices.
    fn table() -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |name: &str, linear: bool, shapes: &[&[usize]], op: Op| {
            let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
            rows.push(Row { name: name.into(), shapes, linear, op });
        };
        row("add", NONLINEAR, &[&[2, 3], &[2, 3]], op(|_, v| v[0].add(&v[1])));
        row("add_relu", NONLINEAR, &[&[4, 4], &[4, 4]], op(|_, v| v[0].add_relu(&v[1])));
        row("mul", LINEAR, &[&[2, 3], &[2, 3]], op(|_, v| v[0].mul(&v[1])));
        row("scale", LINEAR, &[&[5]], op(|_, v| v[0].scale(-1.5)));
        row("relu", NONLINEAR, &[&[4, 4]], op(|_, v| v[0].relu()));
        row("sum", LINEAR, &[&[3, 4]], op(|_, v| v[0].sum()));
        row("reshape", LINEAR, &[&[3, 4]], op(|_, v| v[0].reshape([2, 6])));
        row("matmul", LINEAR, &[&[3, 4], &[4, 2]], op(|_, v| v[0].matmul(&v[1], false, false)));
        row("matmul aᵀ", LINEAR, &[&[4, 3], &[4, 2]], op(|_, v| v[0].matmul(&v[1], true, false)));
        row("matmul bᵀ", LINEAR, &[&[3, 4], &[2, 4]], op(|_, v| v[0].matmul(&v[1], false, true)));
        row("matmul aᵀ bᵀ", LINEAR, &[&[4, 3], &[2, 4]], op(|_, v| v[0].matmul(&v[1], true, true)));
        row("linear", NONLINEAR, &[&[3, 4], &[2, 4], &[2]], op(|_, v| v[0].linear(&v[1], Some(&v[2]))));
        row("linear, no bias", LINEAR, &[&[3, 4], &[2, 4]], op(|_, v| v[0].linear(&v[1], None)));
        for (group, g_in) in [(C1, 1), (C4, 1), (C4, 4), (D4, 1), (D4, 8)] {
            for (k, stride, padding) in [(3, 1, 1), (2, 2, 0), (3, 2, 1), (4, 1, 0)] {
                let conv = Conv { group, stride, padding };
                let (x, w) = ([2, 2, g_in, 5, 6], [3, 2, g_in, k, k]);
                let name = format!("group_conv {group} from {g_in}, k {k} s {stride} p {padding}");
                let with = op(move |_, v| v[0].group_conv(&v[1], Some(&v[2]), conv));
                row(&name, NONLINEAR, &[&x, &w, &[3]], with);
                let without = op(move |_, v| v[0].group_conv(&v[1], None, conv));
                row(&format!("{name}, no bias"), LINEAR, &[&x, &w], without);
            }
            let name = format!("filter_orbit {group} from {g_in}");
            row(&name, LINEAR, &[&[2, 3, g_in, 3, 3]], op(move |_, v| v[0].filter_orbit(group)));
        }
        for (kernel_size, stride, padding) in [(2, 2, 0), (3, 2, 1)] {
            let (window, x) = (Window { kernel_size, stride, padding }, [2, 2, 4, 5, 6]);
            row(&format!("max_pool {window:?}"), NONLINEAR, &[&x], op(move |_, v| v[0].max_pool(window)));
            row(&format!("avg_pool {window:?}"), LINEAR, &[&x], op(move |_, v| v[0].avg_pool(window)));
        }
        row("spatial_mean", LINEAR, &[&[2, 3, 4, 3, 5]], op(|_, v| v[0].spatial_mean()));
        for g in [1, 4, 8] {
            row("coset_max", NONLINEAR, &[&[2, 3, g, 2, 2]], op(|_, v| v[0].coset_max()));
            row("coset_mean", LINEAR, &[&[2, 3, g, 2, 2]], op(|_, v| v[0].coset_mean()));
        }
        let relu = Activation { relu: true, dropout: None };
        let dropping = Activation { relu: true, dropout: Some((0.3, Stream::new(1, 2, 3))) };
        let map: &[&[usize]] = &[&[3, 2, 4, 2, 3], &[2], &[2]];
        for (name, activation) in [("", Activation::default()), (" relu", relu), (" relu dropout", dropping)] {
            let train = op(move |_, v| v[0].batch_norm_train(&v[1], &v[2], 1e-5, activation).0);
            row(&format!("batch_norm_train{name}"), NONLINEAR, map, train);
        }
        let halving = Window { kernel_size: 2, stride: 2, padding: 0 };
        for (group, g_in) in [(C1, 1), (C4, 1), (C4, 4), (D4, 8)] {
            let conv = Conv { group, stride: 1, padding: 1 };
            let shapes: &[&[usize]] = &[&[2, 2, g_in, 5, 6], &[3, 2, g_in, 3, 3], &[3], &[3]];
            for (name, activation, pool) in [
                ("", Activation::default(), None),
                (" relu", relu, None),
                (" relu dropout", dropping, None),
                (" relu pool", relu, Some(halving)),
                (" relu dropout pool", dropping, Some(halving)),
            ] {
                let fused = op(move |_, v| {
                    v[0].group_conv_norm_train(&v[1], None, conv, &v[2], &v[3], 1e-5, activation, pool).0
                });
                row(&format!("group_conv_norm_train {group} from {g_in}{name}"), NONLINEAR, shapes, fused);
            }
            // Two in a row, of which the second one's gradient begins the first one's.
            let mut shapes = shapes.to_vec();
            let second = [3, 3, group.order(), 3, 3];
            shapes.extend([&second[..], &[3], &[3]]);
            for (name, activation, pool) in [("", dropping, None), (" pool", relu, Some(halving))] {
                let fused = op(move |_, v| {
                    let (y, _) = v[0].group_conv_norm_train(&v[1], None, conv, &v[2], &v[3], 1e-5, activation, pool);
                    let none = Activation::default();
                    y.group_conv_norm_train(&v[4], None, conv, &v[5], &v[6], 1e-5, none, None).0
                });
                row(&format!("group_conv_norm_train twice {group} from {g_in}{name}"), NONLINEAR, &shapes, fused);
            }
        }
        for (name, activation) in [("", Activation::default()), (" relu", relu)] {
            let eval = op(move |_, v| {
                let (mean, var) = (beside(&v[0], &[0.25, -1.0]), beside(&v[0], &[0.5, 2.0]));
                v[0].batch_norm_eval(&v[1], &v[2], &mean, &var, 1e-5, activation)
            });
            row(&format!("batch_norm_eval{name}"), NONLINEAR, map, eval);
        }
        row("dropout", LINEAR, &[&[40]], op(|_, v| v[0].dropout(0.3, Stream::new(1, 2, 3))));
        let cross_entropy = op(|_, v| v[0].cross_entropy(&beside(&v[0], &[0.0, 2.0, 1.0, 2.0])));
        row("cross_entropy", NONLINEAR, &[&[4, 3]], cross_entropy);
        for g in D4.elements() {
            let plane = op(move |_, v| v[0].transform_plane(g));
            row(&format!("transform_plane {g}"), LINEAR, &[&[2, 3, 5]], plane);
            let map = op(move |_, v| v[0].transform_feature_map(g, D4));
            row(&format!("transform_feature_map {g}"), LINEAR, &[&[1, 2, 8, 3, 3]], map);
        }
        let angles = [20.0, 90.0, -130.5];
        row("rotate", LINEAR, &[&[3, 2, 5, 5]], op(move |_, v| v[0].rotate(&angles, 0.0)));
        row("rotate, filled", NONLINEAR, &[&[3, 2, 5, 5]], op(move |_, v| v[0].rotate(&angles, 0.5)));
        row("resize up", LINEAR, &[&[1, 2, 5, 4]], op(|_, v| v[0].resize(7, 6)));
        row("resize down", LINEAR, &[&[1, 2, 7, 6]], op(|_, v| v[0].resize(4, 5)));
        row("circle_crop", LINEAR, &[&[1, 2, 6, 6]], op(|_, v| v[0].circle_crop()));
        rows
    }

    fn devices() -> Vec<(Device, f64)> {
        let tolerance = |device: &Device| match device {
            Device::Reference => 1e-12,
            Device::Cpu => 1e-5,
            #[cfg(feature = "gpu")]
            Device::Gpu(_) => 1e-4,
        };
        let mut devices = testing::devices();
        devices.push(Device::Reference);
        devices.into_iter().map(|device| (device.clone(), tolerance(&device))).collect()
    }

    fn on(device: &Device, inputs: &[Tensor]) -> Vec<Tensor> {
        inputs.iter().map(|input| input.to_device(device).unwrap()).collect()
    }

    fn dot(a: &Tensor, b: &Tensor) -> f64 {
        a.to_f64().unwrap().iter().zip(b.to_f64().unwrap()).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn gradients_agree_with_differences() {
        let check = |row: Row| gradcheck(&row.op, &row.inputs(), 1e-7).err().map(|e| format!("{}: {e}", row.name));
        let failures: Vec<_> = table().into_iter().filter_map(check).collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    /// `⟨f(v), r⟩ = ⟨vᵢ, ∂⟨f(v), r⟩/∂vᵢ⟩` where f is linear in operand i.
    #[test]
    fn linear_operations_have_their_adjoints() {
        let mut failures = Vec::new();
        for row in table().into_iter().filter(|row| row.linear) {
            for (device, tolerance) in devices() {
                let inputs = on(&device, &row.inputs());
                let (y, gradients, r) = row.run(&inputs);
                let expected = dot(&y, &r);
                // Terms of both signs cancel: the scale is that of the vectors.
                let scale = (dot(&y, &y) * dot(&r, &r)).sqrt();
                for (i, (input, gradient)) in inputs.iter().zip(&gradients).enumerate() {
                    let error = (dot(input, gradient) - expected).abs() / scale;
                    if error.is_nan() || error > tolerance {
                        failures.push(format!("{}, operand {i} on {device}: {error:e}", row.name));
                    }
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn results_and_gradients_agree_between_devices() {
        let mut failures = Vec::new();
        for row in table() {
            let inputs = row.inputs();
            let (y, gradients, _) = row.run(&inputs);
            for (device, tolerance) in devices() {
                let (y_here, gradients_here, _) = row.run(&on(&device, &inputs));
                let pairs = std::iter::once((&y_here, &y)).chain(gradients_here.iter().zip(&gradients));
                for (i, (got, expected)) in pairs.enumerate() {
                    assert_eq!(got.shape(), expected.shape(), "{}", row.name);
                    let largest = expected.f64s().iter().fold(0.0f64, |m, v| m.max(v.abs()));
                    let got = got.to_f64().unwrap();
                    let error = got.iter().zip(expected.f64s()).map(|(g, e)| (g - e).abs()).fold(0.0, f64::max);
                    if got.iter().any(|v| !v.is_finite()) || error > tolerance * largest {
                        let what = if i == 0 { "result".into() } else { format!("gradient {}", i - 1) };
                        failures.push(format!("{}, {what} on {device}: {:e}", row.name, error / largest));
                    }
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
