//! Losses that compare outputs with targets element by element.
use crate::{
    Reduction,
    jobs::collect,
    math,
    simd::wide,
    sweep::{self, LANES, PIECE},
};
#[cfg(feature = "gpu")]
use crate::{launch, scale, sum};
#[cfg(feature = "gpu")]
use quarterturn_core::{
    Shape,
    gpu::{Gpu, Size},
};

use quarterturn_core::{Device, Tensor, common_device};

/// The loss of one output x with target t; d = x − t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pointwise {
    /// `d²`.
    Squared,
    /// `|d|`. Its slope at d = 0 is 0.
    Absolute,
    /// `d²/2` where `|d| ≤ δ`, else `δ·(|d| − δ/2)` (Huber 1964); δ > 0.
    Huber(f64),
    /// The binary cross-entropy of a logit, `log(1 + eˣ) − t·x`, t from 0 to 1: no x overflows.
    BinaryCrossEntropy,
}

/// `loss = Σ_i f(x[i], target[i])`, for a mean divided by the number of elements: two tensors of one shape → `[]`. A
/// NaN makes the loss NaN.
///
/// # Panics
/// If shapes or devices differ, or the δ of [`Pointwise::Huber`] is not above 0.
#[track_caller]
pub fn pointwise_loss(x: &Tensor, target: &Tensor, loss: Pointwise, reduction: Reduction) -> Tensor {
    loss.expect("pointwise_loss", x, target);
    let factor = factor(x, reduction);
    match common_device("pointwise_loss", &[x, target]) {
        Device::Cpu => {
            let (x, t) = (x.f32s(), target.f32s());
            let total = match loss {
                Pointwise::Squared => total(x, t, |x, t| (x - t) * (x - t)),
                Pointwise::Absolute => total(x, t, |x, t| (x - t).abs()),
                Pointwise::Huber(delta) => {
                    let delta = delta as f32;
                    total(x, t, |x, t| {
                        let d = (x - t).abs();
                        if d <= delta { 0.5 * d * d } else { delta * (d - 0.5 * delta) }
                    })
                }
                Pointwise::BinaryCrossEntropy => total(x, t, |x, t| {
                    let positive = if x < 0.0 { 0.0 } else { x };
                    positive - t * x + math::ln_1p(math::exp(-x.abs()))
                }),
            };
            Tensor::cpu([], vec![(factor * total) as f32].into())
        }
        Device::Reference => {
            let pairs = x.f64s().iter().zip(target.f64s());
            Tensor::reference([], vec![factor * pairs.map(|(&x, &t)| loss.value(x, t)).sum::<f64>()])
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => loss.gpu(&gpu, x, target, factor),
    }
}

/// Gradient of [`pointwise_loss`] with respect to `x`: `dx[i] = f′(x[i], target[i])·dloss`, for a mean divided by the number of
/// elements.
///
/// # Panics
/// As [`pointwise_loss`], or if `dloss` is not a scalar.
#[track_caller]
pub fn pointwise_loss_vjp(
    x: &Tensor,
    target: &Tensor,
    loss: Pointwise,
    reduction: Reduction,
    dloss: &Tensor,
) -> Tensor {
    loss.expect("pointwise_loss_vjp", x, target);
    assert_eq!(dloss.len(), 1, "pointwise_loss_vjp: expected a scalar dloss, got {:?}", dloss.shape());
    let factor = factor(x, reduction);
    match common_device("pointwise_loss_vjp", &[x, target, dloss]) {
        Device::Cpu => {
            let (shape, part) = (x.shape(), (factor * f64::from(dloss.f32s()[0])) as f32);
            let (x, t) = (x.f32s(), target.f32s());
            let dx = match loss {
                Pointwise::Squared => sweep::zip(x, t, |x, t| 2.0 * (x - t) * part),
                Pointwise::Absolute => sweep::zip(x, t, |x, t| {
                    let d = x - t;
                    // The sign of d; d itself where that is 0 or NaN.
                    part * if d > 0.0 { 1.0 } else { if d < 0.0 { -1.0 } else { d } }
                }),
                Pointwise::Huber(delta) => {
                    let delta = delta as f32;
                    sweep::zip(x, t, move |x, t| (x - t).clamp(-delta, delta) * part)
                }
                Pointwise::BinaryCrossEntropy => sweep::zip(x, t, |x, t| {
                    let slope = math::sigmoid(x) - t;
                    part * if x.is_nan() { x } else { slope }
                }),
            };
            Tensor::cpu(shape, dx)
        }
        Device::Reference => {
            let part = factor * dloss.f64s()[0];
            let pairs = x.f64s().iter().zip(target.f64s());
            Tensor::reference(x.shape(), pairs.map(|(&x, &t)| loss.slope(x, t) * part).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let (kernel, words) = (launch::kernel("pointwise_loss_vjp", SHADER), loss.words(x.len(), factor));
            launch::each(&gpu, kernel, &[], &[x, target, dloss], x.shape(), &words)
        }
    }
}

/// What the sum is multiplied by.
fn factor(x: &Tensor, reduction: Reduction) -> f64 {
    match reduction {
        Reduction::Mean => 1.0 / x.len() as f64,
        Reduction::Sum => 1.0,
    }
}

impl Pointwise {
    #[track_caller]
    fn expect(self, op: &str, x: &Tensor, target: &Tensor) {
        let (x, target) = (x.shape(), target.shape());
        assert_eq!(x, target, "{op}: expected a target of the shape {x:?}, got {target:?}");
        if let Pointwise::Huber(delta) = self {
            assert!(delta > 0.0, "{op}: expected a δ above 0, got {delta}");
        }
    }

    fn value(self, x: f64, t: f64) -> f64 {
        let d = x - t;
        match self {
            Pointwise::Squared => d * d,
            Pointwise::Absolute => d.abs(),
            Pointwise::Huber(delta) if d.abs() <= delta => 0.5 * d * d,
            Pointwise::Huber(delta) => delta * (d.abs() - 0.5 * delta),
            Pointwise::BinaryCrossEntropy => (if x < 0.0 { 0.0 } else { x }) - t * x + (-x.abs()).exp().ln_1p(),
        }
    }

    fn slope(self, x: f64, t: f64) -> f64 {
        let d = x - t;
        match self {
            Pointwise::Squared => 2.0 * d,
            Pointwise::Absolute if d == 0.0 => 0.0,
            Pointwise::Absolute => d.signum(),
            Pointwise::Huber(delta) => d.clamp(-delta, delta),
            Pointwise::BinaryCrossEntropy => 1.0 / (1.0 + (-x).exp()) - t,
        }
    }
}

/// `Σ f(x, t)`, the pieces' sums in order.
fn total(x: &[f32], t: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> f64 {
    if x.len() <= PIECE {
        return lane_total(x, t, &f);
    }
    let pieces: Vec<_> = x.chunks(PIECE).zip(t.chunks(PIECE)).collect();
    collect(pieces.len(), 1, |i| lane_total(pieces[i].0, pieces[i].1, &f)).iter().sum()
}

wide! {
    fn lane_total<F: Fn(f32, f32) -> f32>(x: &[f32], t: &[f32], f: &F) -> f64 {
        let mut lanes = [0f32; LANES];
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (t, t_rest) = t.as_chunks::<LANES>();
        for (x, t) in x.iter().zip(t) {
            for lane in 0..LANES {
                lanes[lane] += f(x[lane], t[lane]);
            }
        }
        for ((lane, &x), &t) in lanes.iter_mut().zip(x_rest).zip(t_rest) {
            *lane += f(x, t);
        }
        sweep::total(&lanes)
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(
    include_str!("prelude.wgsl"),
    include_str!("elementwise/functions.wgsl"),
    include_str!("pointwise_loss.wgsl")
);

#[cfg(feature = "gpu")]
impl Pointwise {
    /// Which loss, its δ, the number of elements and the factor.
    fn words(self, len: usize, factor: f64) -> [u32; 4] {
        let (kind, delta) = match self {
            Pointwise::Squared => (0, 0.0),
            Pointwise::Absolute => (1, 0.0),
            Pointwise::Huber(delta) => (2, delta as f32),
            Pointwise::BinaryCrossEntropy => (3, 0.0),
        };
        [kind, delta.to_bits(), len as u32, (factor as f32).to_bits()]
    }

    fn gpu(self, gpu: &Gpu, x: &Tensor, target: &Tensor, factor: f64) -> Tensor {
        const SUMMED: usize = 4096;
        let groups = x.len().div_ceil(SUMMED).max(1);
        // One workgroup's sum is the loss.
        let words = self.words(x.len(), if groups == 1 { factor } else { 1.0 });
        let kernel = launch::kernel("pointwise_loss", SHADER).workgroup(64, 4 * 64);
        let y = launch::result(gpu, kernel, &[], &[x, target], Shape::from([groups]), &words, Size::Groups(groups));
        if groups == 1 { y.reshape([]) } else { scale(&sum(&y), factor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{
        EXTENTS, SHARED_EXTENT, Tolerance, all_elements, check, devices_and_reference, random, same_bits,
    };
    use crate::transform_plane;

    const LOSSES: [Pointwise; 5] = [
        Pointwise::Squared,
        Pointwise::Absolute,
        Pointwise::Huber(1.0),
        Pointwise::Huber(0.3),
        Pointwise::BinaryCrossEntropy,
    ];

    #[test]
    fn parity() {
        for n in EXTENTS.into_iter().chain([SHARED_EXTENT]) {
            let (x, t, dloss) = (crate::scale(&random([n], 1), 4.0), random([n], 2), random([], 3));
            for (loss, reduction) in
                LOSSES.iter().flat_map(|&loss| [Reduction::Mean, Reduction::Sum].map(move |r| (loss, r)))
            {
                let name = format!("{loss:?}, {reduction:?}, {n}");
                // So that the sum is as large as its terms.
                let t = if loss == Pointwise::BinaryCrossEntropy { crate::scale(&t, 0.0) } else { t.clone() };
                check(&name, &[&x, &t], Tolerance::Terms(8), |t| vec![pointwise_loss(&t[0], &t[1], loss, reduction)]);
                check(&name, &[&x, &t, &dloss], Tolerance::Terms(8), |t| {
                    vec![pointwise_loss_vjp(&t[0], &t[1], loss, reduction, &t[2])]
                });
            }
        }
    }

    #[test]
    fn losses_by_hand() {
        for device in devices_and_reference() {
            let of = |values: &[f32]| Tensor::from_vec([values.len()], values.to_vec(), &device).unwrap();
            let (x, t, one) = (of(&[1.0, -2.0, 0.5]), of(&[1.0, 0.0, 1.0]), of(&[1.0]).reshape([]));
            let sum = |loss| pointwise_loss(&x, &t, loss, Reduction::Sum).to_vec().unwrap()[0];
            assert_eq!([sum(Pointwise::Squared), sum(Pointwise::Absolute)], [4.25, 2.5], "{device}");
            assert_eq!(sum(Pointwise::Huber(1.0)), 1.5 + 0.125, "{device}");
            let slope = |loss| pointwise_loss_vjp(&x, &t, loss, Reduction::Sum, &one).to_vec().unwrap();
            assert_eq!(slope(Pointwise::Squared), [0.0, -4.0, -1.0], "{device}");
            assert_eq!(slope(Pointwise::Absolute), [0.0, -1.0, -1.0], "{device}");
            assert_eq!(slope(Pointwise::Huber(1.0)), [0.0, -1.0, -0.5], "{device}");
            // Logits that overflow eˣ, right and wrong.
            let (x, t) = (of(&[1000.0, -1000.0, 1000.0, -1000.0]), of(&[1.0, 0.0, 0.0, 1.0]));
            let loss = pointwise_loss(&x, &t, Pointwise::BinaryCrossEntropy, Reduction::Mean);
            assert_eq!(loss.to_vec().unwrap(), [500.0], "{device}");
            let dx = pointwise_loss_vjp(&x, &t, Pointwise::BinaryCrossEntropy, Reduction::Sum, &one);
            assert_eq!(dx.to_vec().unwrap(), [0.0, 0.0, 1.0, -1.0], "{device}");
        }
    }

    /// The gradient at a place is that of this place alone, wherever it lies.
    #[test]
    fn gradients_keep_every_bit_under_all_symmetries() {
        for device in devices_and_reference() {
            let [x, t] = [1, 2].map(|stream| random([2, 3, 5, 7], stream).to_device(&device).unwrap());
            let dloss = Tensor::full([], 1.0, &device).unwrap();
            for loss in LOSSES {
                let dx = pointwise_loss_vjp(&x, &t, loss, Reduction::Mean, &dloss);
                for g in all_elements() {
                    let (x, t) = (transform_plane(&x, g), transform_plane(&t, g));
                    let moved = pointwise_loss_vjp(&x, &t, loss, Reduction::Mean, &dloss);
                    assert!(same_bits(&moved, &transform_plane(&dx, g)), "{loss:?}, {g} on {device}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "pointwise_loss: expected a target of the shape [3], got [2]")]
    fn a_target_of_another_shape_is_refused() {
        pointwise_loss(&random([3], 1), &random([2], 1), Pointwise::Squared, Reduction::Mean);
    }
}
