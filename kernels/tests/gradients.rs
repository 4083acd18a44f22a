//! Every gradient kernel against a difference quotient in `f64`, in one random direction.

use quarterturn_core::{Device, Shape, Stream, Tensor};
use quarterturn_kernels::*;

const EPSILON: f64 = 1e-6;
const TOLERANCE: f64 = 1e-7;

fn random(shape: impl Into<Shape>, stream: u32) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(4, stream, 0));
    Tensor::reference(shape, (0..shape.len()).map(|i| stream.normal(i as u64)).collect())
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    a.f64s().iter().zip(b.f64s()).map(|(a, b)| a * b).sum()
}

/// `d/dt ⟨f(x + t·v), dy⟩` at 0, as a central difference and as `⟨v, vjp(x, dy)⟩`.
fn check(
    name: &str,
    operands: &[Tensor],
    f: impl Fn(&[Tensor]) -> Tensor,
    vjp: impl Fn(&[Tensor], &Tensor, &Tensor) -> Vec<Tensor>,
) {
    let y = f(operands);
    let dy = random(y.shape(), 100);
    let gradients = vjp(operands, &y, &dy);
    let directions: Vec<Tensor> =
        gradients.iter().enumerate().map(|(i, g)| random(g.shape(), 200 + i as u32)).collect();
    let at = |t: f64| {
        let mut moved = operands.to_vec();
        for (operand, direction) in moved.iter_mut().zip(&directions) {
            *operand = add(operand, &scale(direction, t));
        }
        dot(&f(&moved), &dy)
    };
    let difference = (at(EPSILON) - at(-EPSILON)) / (2.0 * EPSILON);
    let backward: f64 = gradients.iter().zip(&directions).map(|(g, v)| dot(g, v)).sum();
    assert!(backward != 0.0, "{name}: this direction shows nothing");
    let error = (backward - difference).abs();
    assert!(error <= TOLERANCE * backward.abs().max(1.0), "{name}: {backward} instead of {difference}");
}

#[test]
fn elementwise_and_products() {
    let x = || random([3, 5], 1);
    check("add", &[x(), random([3, 5], 2)], |t| add(&t[0], &t[1]), |_, _, dy| vec![dy.clone(), dy.clone()]);
    check("mul", &[x(), random([3, 5], 2)], |t| mul(&t[0], &t[1]), |t, _, dy| vec![mul(dy, &t[1]), mul(dy, &t[0])]);
    check("scale", &[x()], |t| scale(&t[0], 0.7), |_, _, dy| vec![scale(dy, 0.7)]);
    check("relu", &[x()], |t| relu(&t[0]), |_, y, dy| vec![relu_vjp(y, dy)]);
    check("sum", &[x()], |t| sum(&t[0]), |t, _, dy| vec![broadcast(dy, t[0].shape())]);
    check("broadcast", &[random([], 1)], |t| broadcast(&t[0], Shape::from([4])), |_, _, dy| vec![sum(dy)]);
    check(
        "matmul",
        &[x(), random([5, 4], 2)],
        |t| matmul(&t[0], &t[1], false, false),
        |t, _, dy| vec![matmul(dy, &t[1], false, true), matmul(&t[0], dy, true, false)],
    );
    check(
        "linear",
        &[x(), random([4, 5], 2), random([4], 3)],
        |t| linear(&t[0], &t[1], Some(&t[2])),
        |t, _, dy| vec![matmul(dy, &t[1], false, false), matmul(dy, &t[0], true, false), sum_rows(dy)],
    );
    let stream = Stream::new(1, 2, 3);
    check("dropout", &[x()], |t| dropout(&t[0], 0.4, stream), |_, _, dy| vec![dropout(dy, 0.4, stream)]);
    let labels = Tensor::reference([3], vec![4.0, 0.0, 2.0]);
    check(
        "cross_entropy",
        &[x()],
        |t| cross_entropy(&t[0], &labels),
        |t, _, dy| vec![cross_entropy_vjp(&t[0], &labels, dy)],
    );
}

#[test]
fn pools_and_means() {
    for (kernel_size, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 0)] {
        let window = Window { kernel_size, stride, padding };
        let x = random([2, 3, 1, 6, 7], 1);
        let name = format!("{window:?}");
        check(
            &name,
            std::slice::from_ref(&x),
            |t| max_pool(&t[0], window),
            |t, _, dy| vec![max_pool_vjp(&t[0], dy, window)],
        );
        check(&name, &[x], |t| avg_pool(&t[0], window), |t, _, dy| vec![avg_pool_vjp(dy, t[0].shape(), window)]);
    }
    for order in [4, 8] {
        let x = random([2, 3, order, 3, 2], 1);
        let operands = std::slice::from_ref(&x);
        check("spatial_mean", operands, |t| spatial_mean(&t[0]), |t, _, dy| vec![spatial_mean_vjp(dy, t[0].shape())]);
        check("coset_max", operands, |t| coset_max(&t[0]), |t, _, dy| vec![coset_max_vjp(&t[0], dy)]);
        check("coset_mean", operands, |t| coset_mean(&t[0]), |t, _, dy| vec![coset_mean_vjp(dy, t[0].shape())]);
    }
}

#[test]
fn batch_norm_with_each_activation() {
    let stream = Stream::new(1, 2, 3);
    let activations = [
        Activation::default(),
        Activation { relu: true, dropout: None },
        Activation { relu: true, dropout: Some((0.3, stream)) },
    ];
    for activation in activations {
        let operands = [random([3, 2, 4, 3, 3], 1), random([2], 2), random([2], 3)];
        check(
            &format!("train {activation:?}"),
            &operands,
            |t| batch_norm_train(&t[0], &t[1], &t[2], 1e-5, activation).y,
            |t, _, dy| {
                let forward = batch_norm_train(&t[0], &t[1], &t[2], 1e-5, activation);
                let (dx, dw, db) = batch_norm_train_vjp(&t[0], &forward, &t[1], &t[2], 1e-5, activation, dy);
                vec![dx, dw, db]
            },
        );
        let (mean, var) = (random([2], 4), Tensor::reference([2], vec![0.5, 2.0]));
        check(
            &format!("eval {activation:?}"),
            &operands,
            |t| batch_norm_eval(&t[0], &t[1], &t[2], &mean, &var, 1e-5, activation),
            |t, y, dy| {
                let (dx, dw, db) = batch_norm_eval_vjp(&t[0], y, &t[1], &t[2], &mean, &var, 1e-5, activation, dy);
                vec![dx, dw, db]
            },
        );
    }
}

#[test]
fn convolutions_and_filter_orbits() {
    for (group, lift, k, stride, padding) in [
        (Group::C1, false, 3, 2, 1),
        (Group::C4, true, 3, 1, 1),
        (Group::C4, false, 3, 2, 1),
        (Group::C4, false, 4, 1, 0),
        (Group::D4, true, 2, 1, 1),
        (Group::D4, false, 3, 1, 0),
    ] {
        let conv = Conv { stride, padding, ..Conv::new(group) };
        let order_in = if lift { 1 } else { group.order() };
        let weight = random([3, 2, order_in, k, k], 2);
        check(
            &format!("{conv:?}"),
            &[random([2, 2, order_in, 5, 6], 1), weight.clone(), random([3], 3)],
            |t| group_conv(&t[0], &t[1], Some(&t[2]), conv),
            |t, _, dy| {
                let (dw, db) = group_conv_dw(&t[0], dy, t[1].shape(), conv);
                vec![group_conv_dx(dy, &t[1], t[0].shape(), conv), dw, db]
            },
        );
        check(
            &format!("transposed {conv:?}"),
            &[random([2, 3, order_in, 3, 4], 1), weight.clone(), random([2], 3)],
            |t| transposed_group_conv(&t[0], &t[1], Some(&t[2]), conv, stride - 1),
            |t, _, dy| {
                let (dw, db) = transposed_group_conv_dw(&t[0], dy, t[1].shape(), conv);
                vec![transposed_group_conv_dx(dy, &t[1], t[0].shape(), conv), dw, db]
            },
        );
        check(
            &format!("orbit {conv:?}"),
            &[weight],
            |t| filter_orbit(&t[0], group),
            |t, _, dy| vec![filter_orbit_vjp(dy, t[0].shape(), group)],
        );
    }
}

#[test]
fn transforms_and_resampling() {
    for g in Group::D4.elements() {
        let inverse = Group::D4.inverse(g);
        check(
            "plane",
            &[random([2, 3, 5], 1)],
            |t| transform_plane(&t[0], g),
            |_, _, dy| vec![transform_plane(dy, inverse)],
        );
        let x = random([1, 2, 8, 3, 4], 1);
        check(
            "feature map",
            &[x],
            |t| transform_feature_map(&t[0], g, Group::D4),
            |_, _, dy| vec![transform_feature_map(dy, inverse, Group::D4)],
        );
    }
    let images = || [random([2, 2, 5, 6], 1)];
    let degrees = [33.0, 250.0];
    check("rotate", &images(), |t| rotate(&t[0], &degrees, 0.3), |_, _, dy| vec![rotate_vjp(dy, &degrees)]);
    check("resize", &images(), |t| resize(&t[0], 7, 4), |_, _, dy| vec![resize_vjp(dy, 5, 6)]);
    check("circle_crop", &images(), |t| circle_crop(&t[0]), |_, _, dy| vec![circle_crop(dy)]);
}

#[test]
#[should_panic(expected = "planted")]
fn a_wrong_gradient_is_caught() {
    check("planted", &[random([3], 1)], relu_of_first, |_, y, dy| vec![scale(&relu_vjp(y, dy), 1.0 + 1e-5)]);

    fn relu_of_first(t: &[Tensor]) -> Tensor {
        assert!(matches!(t[0].device(), Device::Reference));
        relu(&t[0])
    }
}
