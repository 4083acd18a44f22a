//! One optimizer step on one parameter, by PyTorch's formulas; the moving average of a parameter; and the same for many
//! parameters, for which a GPU needs fewer launches.
#[cfg(feature = "gpu")]
mod together;

use crate::{
    jobs::{for_each_chunk, map_items},
    simd::wide,
    sweep::PIECE,
};
#[cfg(feature = "gpu")]
use together::Launches;

use quarterturn_core::{Device, Tensor, common_device};

/// SGD: `g ← dw + weight_decay·w; v ← momentum·v + g; w ← w − lr·v` (v starts as g); with Nesterov's momentum
/// `w ← w − lr·(g + momentum·v)` instead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Step size.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Nesterov's momentum: the step looks ahead by one.
    pub nesterov: bool,
}

/// Adam: `g ← dw + weight_decay·w; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²;
/// w ← w − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + eps)`, t the step (Kingma & Ba 2015, with PyTorch's L2 penalty). AdamW
/// (Loshchilov & Hutter 2019): `g = dw`, and `w ← w − lr·weight_decay·w` first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Step size.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// L2 penalty, or for AdamW the decoupled weight decay.
    pub weight_decay: f64,
    /// Whether weight decay is decoupled, as in AdamW.
    pub decoupled: bool,
    /// Number of this step, from 1.
    pub step: u64,
}

/// A step of SGD. `w` and `velocity` are updated in place unless they are shared. `velocity` starts with zeros.
///
/// # Panics
/// If shapes or devices differ.
#[track_caller]
pub fn sgd_step(w: &mut Tensor, velocity: &mut Tensor, dw: &Tensor, settings: &Sgd) {
    Updates::one_by_one().sgd(w, velocity, dw, settings);
}

/// A step of Adam. `w` and the moments are updated in place unless they are shared. The moments start with zeros.
///
/// # Panics
/// If shapes or devices differ, or `step` is 0.
#[track_caller]
pub fn adam_step(w: &mut Tensor, moment1: &mut Tensor, moment2: &mut Tensor, dw: &Tensor, settings: &Adam) {
    Updates::one_by_one().adam(w, moment1, moment2, dw, settings);
}

/// `mean ← decay·mean + (1 − decay)·value`, in place where the mean is not shared.
///
/// # Panics
/// If shapes or devices differ.
#[track_caller]
pub fn average_step(mean: &mut Tensor, value: &Tensor, decay: f64) {
    Updates::one_by_one().average(mean, value, decay);
}

/// The steps of many parameters, with the bits of [`sgd_step`], [`adam_step`] and [`average_step`] for each. A GPU
/// gathers up to seven parameters with the same settings and updates them in one launch, if one launch may have that many
/// buffers (browsers allow fewer). The last ones are launched by [`Updates::finish`], or when this is dropped. Until then,
/// do not use what was to be updated. Other devices compute at each call.
///
/// ```
/// use quarterturn_core::{Device, Tensor};
/// use quarterturn_kernels::{Sgd, Updates};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let of = |value| Tensor::full([2], value, &Device::Cpu);
/// let (mut weights, mut velocities) = ([of(1.0)?, of(2.0)?], [of(0.0)?, of(0.0)?]);
/// let settings = Sgd { lr: 0.5, momentum: 0.9, weight_decay: 0.0, nesterov: false };
/// let mut updates = Updates::new();
/// for (w, velocity) in weights.iter_mut().zip(&mut velocities) {
///     updates.sgd(w, velocity, &of(1.0)?, &settings);
/// }
/// updates.finish();
/// assert_eq!(weights[1].to_vec()?, [1.5, 1.5]);
/// # Ok(())
/// # }
/// ```
// A lifetime cannot hold callers to that: who lists a network's parameters lends each for one call only.
#[derive(Debug, Default)]
pub struct Updates {
    #[cfg(feature = "gpu")]
    launches: Launches,
}

impl Updates {
    /// Nothing to do yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Updates::new`], with a launch for each parameter: to compare with.
    pub fn one_by_one() -> Self {
        Updates {
            #[cfg(feature = "gpu")]
            launches: Launches::one_by_one(),
        }
    }

    /// Launches what waits, as dropping does.
    pub fn finish(self) {}

    /// [`sgd_step`].
    ///
    /// # Panics
    /// As [`sgd_step`].
    #[track_caller]
    pub fn sgd(&mut self, w: &mut Tensor, velocity: &mut Tensor, dw: &Tensor, settings: &Sgd) {
        assert_same_shapes("sgd_step", &[w, velocity, dw]);
        let Sgd { lr, momentum, weight_decay, nesterov } = *settings;
        match common_device("sgd_step", &[w, velocity, dw]) {
            Device::Cpu => {
                let factors = [lr, momentum, weight_decay].map(|v| v as f32);
                let (w, velocity, dw) = (w.f32s_mut(), velocity.f32s_mut(), dw.f32s());
                if w.len() <= PIECE {
                    sgd_sweep(w, velocity, dw, factors, nesterov);
                } else {
                    let pieces = w.chunks_mut(PIECE).zip(velocity.chunks_mut(PIECE)).zip(dw.chunks(PIECE));
                    map_items(pieces, 1, |_, ((w, velocity), dw)| sgd_sweep(w, velocity, dw, factors, nesterov));
                }
            }
            Device::Reference => {
                let (mut new_w, mut new_velocity) = (w.f64s().to_vec(), velocity.f64s().to_vec());
                for (i, dw) in dw.f64s().iter().enumerate() {
                    let g = dw + weight_decay * new_w[i];
                    new_velocity[i] = momentum * new_velocity[i] + g;
                    new_w[i] -= lr * if nesterov { g + momentum * new_velocity[i] } else { new_velocity[i] };
                }
                *velocity = Tensor::reference(w.shape(), new_velocity);
                *w = Tensor::reference(w.shape(), new_w);
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let uniform = [lr, momentum, weight_decay, f64::from(u8::from(nesterov))].map(|v| (v as f32).to_bits());
                self.launches.update(&gpu, &together::SGD, dw, &mut [w, velocity], &uniform);
            }
        }
    }

    /// [`adam_step`].
    ///
    /// # Panics
    /// As [`adam_step`].
    #[track_caller]
    pub fn adam(&mut self, w: &mut Tensor, moment1: &mut Tensor, moment2: &mut Tensor, dw: &Tensor, settings: &Adam) {
        assert_same_shapes("adam_step", &[w, moment1, moment2, dw]);
        assert!(settings.step > 0, "adam_step: expected steps from 1, got 0");
        let Adam { lr, beta1, beta2, eps, weight_decay, decoupled, step } = *settings;
        // One of the two does nothing, to the last bit.
        let (penalty, shrink) = if decoupled { (0.0, 1.0 - lr * weight_decay) } else { (weight_decay, 1.0) };
        let (correction1, correction2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
        match common_device("adam_step", &[w, moment1, moment2, dw]) {
            Device::Cpu => {
                let factors = AdamFactors {
                    beta1: beta1 as f32,
                    rest1: (1.0 - beta1) as f32,
                    beta2: beta2 as f32,
                    rest2: (1.0 - beta2) as f32,
                    step_size: (lr / correction1) as f32,
                    root_correction2: correction2.sqrt() as f32,
                    eps: eps as f32,
                    penalty: penalty as f32,
                    shrink: shrink as f32,
                };
                let (w, moment1, moment2, dw) = (w.f32s_mut(), moment1.f32s_mut(), moment2.f32s_mut(), dw.f32s());
                if w.len() <= PIECE {
                    adam_sweep(w, moment1, moment2, dw, factors);
                } else {
                    let moments = moment1.chunks_mut(PIECE).zip(moment2.chunks_mut(PIECE));
                    let pieces = w.chunks_mut(PIECE).zip(moments).zip(dw.chunks(PIECE));
                    map_items(pieces, 1, |_, ((w, (moment1, moment2)), dw)| {
                        adam_sweep(w, moment1, moment2, dw, factors);
                    });
                }
            }
            Device::Reference => {
                let mut new_w = w.f64s().to_vec();
                let (mut m, mut v) = (moment1.f64s().to_vec(), moment2.f64s().to_vec());
                for (i, dw) in dw.f64s().iter().enumerate() {
                    let g = dw + penalty * new_w[i];
                    m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                    v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                    let step = lr * (m[i] / correction1) / ((v[i] / correction2).sqrt() + eps);
                    new_w[i] = shrink * new_w[i] - step;
                }
                let shape = w.shape();
                *w = Tensor::reference(shape, new_w);
                *moment1 = Tensor::reference(shape, m);
                *moment2 = Tensor::reference(shape, v);
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let moments = [beta1, 1.0 - beta1, beta2, 1.0 - beta2, lr / correction1, correction2.sqrt(), eps];
                let uniform: Vec<u32> =
                    moments.into_iter().chain([penalty, shrink]).map(|v| (v as f32).to_bits()).collect();
                self.launches.update(&gpu, &together::ADAM, dw, &mut [w, moment1, moment2], &uniform);
            }
        }
    }

    /// [`average_step`].
    ///
    /// # Panics
    /// As [`average_step`].
    #[track_caller]
    pub fn average(&mut self, mean: &mut Tensor, value: &Tensor, decay: f64) {
        assert_same_shapes("average_step", &[mean, value]);
        let factors = [decay as f32, (1.0 - decay) as f32];
        match common_device("average_step", &[mean, value]) {
            Device::Cpu => {
                let (mean, value) = (mean.f32s_mut(), value.f32s());
                if mean.len() <= PIECE {
                    average_sweep(mean, value, factors);
                } else {
                    for_each_chunk(mean, PIECE, 1, &|i, mean| {
                        average_sweep(mean, &value[i * PIECE..][..mean.len()], factors);
                    });
                }
            }
            Device::Reference => {
                let next =
                    mean.f64s().iter().zip(value.f64s()).map(|(mean, value)| decay * mean + (1.0 - decay) * value);
                *mean = Tensor::reference(mean.shape(), next.collect());
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                self.launches.update(&gpu, &together::AVERAGE, value, &mut [mean], &factors.map(f32::to_bits));
            }
        }
    }
}

wide! {
    fn sgd_sweep(w: &mut [f32], velocity: &mut [f32], dw: &[f32], factors: [f32; 3], nesterov: bool) {
        let [lr, momentum, weight_decay] = factors;
        for ((w, v), &dw) in w.iter_mut().zip(velocity).zip(dw) {
            let g = dw + weight_decay * *w;
            *v = momentum * *v + g;
            *w -= lr * if nesterov { g + momentum * *v } else { *v };
        }
    }
}

/// [`Adam`]'s settings as the sweep needs them.
#[derive(Clone, Copy)]
struct AdamFactors {
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    root_correction2: f32,
    eps: f32,
    penalty: f32,
    shrink: f32,
}

wide! {
    fn adam_sweep(w: &mut [f32], moment1: &mut [f32], moment2: &mut [f32], dw: &[f32], f: AdamFactors) {
        for (((w, m), v), &dw) in w.iter_mut().zip(moment1).zip(moment2).zip(dw) {
            let g = dw + f.penalty * *w;
            *m = f.beta1 * *m + f.rest1 * g;
            *v = f.beta2 * *v + f.rest2 * g * g;
            *w = f.shrink * *w - f.step_size * *m / (v.sqrt() / f.root_correction2 + f.eps);
        }
    }
}

wide! {
    fn average_sweep(mean: &mut [f32], value: &[f32], factors: [f32; 2]) {
        for (mean, value) in mean.iter_mut().zip(value) {
            *mean = factors[0] * *mean + factors[1] * value;
        }
    }
}

#[track_caller]
fn assert_same_shapes(op: &str, tensors: &[&Tensor]) {
    let shapes: Vec<_> = tensors.iter().map(|t| t.shape()).collect();
    assert!(shapes.iter().all(|s| *s == shapes[0]), "{op}: expected one shape, got {shapes:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mul,
        parity::{EXTENTS, SHARED_EXTENT, Tolerance, check, random},
    };
    use quarterturn_core::testing;

    fn adam(step: u64) -> Adam {
        Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2, decoupled: false, step }
    }

    #[test]
    fn parity() {
        for n in EXTENTS.into_iter().chain([SHARED_EXTENT]) {
            let (w, m, dw) = (random([n], 1), random([n], 2), random([n], 3));
            let v = mul(&random([n], 4), &random([n], 4));
            for nesterov in [false, true] {
                check(&format!("sgd {n}, {nesterov}"), &[&w, &m, &dw], Tolerance::Terms(4), |t| {
                    let (mut w, mut velocity) = (t[0].clone(), t[1].clone());
                    let settings = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov };
                    sgd_step(&mut w, &mut velocity, &t[2], &settings);
                    vec![w, velocity]
                });
            }
            check(&format!("average {n}"), &[&w, &m], Tolerance::Terms(2), |t| {
                let mut mean = t[0].clone();
                average_step(&mut mean, &t[1], 0.9);
                vec![mean]
            });
            // √v is nearly 0 here and there, where m/√v magnifies its rounding.
            for decoupled in [false, true] {
                check(&format!("adam {n}, {decoupled}"), &[&w, &m, &v, &dw], Tolerance::Terms(16), |t| {
                    let (mut w, mut m, mut v) = (t[0].clone(), t[1].clone(), t[2].clone());
                    adam_step(&mut w, &mut m, &mut v, &t[3], &Adam { decoupled, ..adam(7) });
                    vec![w, m, v]
                });
            }
        }
    }

    #[test]
    fn first_steps_by_hand() {
        let one = |v: f64| Tensor::reference([1], vec![v]);
        // Bias correction makes Adam's first step lr · sign(g).
        let (mut w, mut m, mut v) = (one(1.0), one(0.0), one(0.0));
        adam_step(&mut w, &mut m, &mut v, &one(-3.0), &Adam { weight_decay: 0.0, ..adam(1) });
        assert!((w.f64s()[0] - 1.01).abs() < 1e-10 && (m.f64s()[0] + 0.3).abs() < 1e-12);
        let (mut w, mut velocity) = (one(1.0), one(0.0));
        let settings = Sgd { lr: 0.5, momentum: 0.5, weight_decay: 1.0, nesterov: false };
        sgd_step(&mut w, &mut velocity, &one(1.0), &settings);
        assert_eq!((w.f64s()[0], velocity.f64s()[0]), (0.0, 2.0));
        sgd_step(&mut w, &mut velocity, &one(1.0), &settings);
        assert_eq!((w.f64s()[0], velocity.f64s()[0]), (-1.0, 2.0));
    }

    #[test]
    fn a_step_is_taken_in_place_unless_shared() {
        let tensor = || Tensor::full([100], 1.0, &Device::Cpu).unwrap();
        let (mut w, mut m, mut v, dw) = (tensor(), tensor(), tensor(), tensor());
        let (before, shared) = (w.f32s().as_ptr(), m.clone());
        adam_step(&mut w, &mut m, &mut v, &dw, &adam(1));
        assert_eq!(w.f32s().as_ptr(), before);
        assert!(shared.f32s().iter().all(|&v| v == 1.0));
        assert_ne!(m.f32s().as_ptr(), shared.f32s().as_ptr());
    }

    /// Sixteen weights with their states and gradients: more than two launches take, some of them longer than a workgroup.
    fn many(device: &Device) -> Vec<[Tensor; 4]> {
        let of = |n: usize, seed| random([n], seed).to_device(device).unwrap();
        let lengths = [1, 63, 64, 65, 1000, 2, 10, 10, 200, 64, 128, 7, 1, 90, 3000, 5];
        let weight = |(k, n): (u32, usize)| {
            let second = of(n, 4 * k + 3);
            [of(n, 4 * k), of(n, 4 * k + 1), mul(&second, &second), of(n, 4 * k + 2)]
        };
        (0..).zip(lengths).map(weight).collect()
    }

    #[test]
    fn together_is_as_one_by_one_in_every_bit() {
        let values = |tensors: &[[Tensor; 4]]| -> Vec<Vec<u32>> {
            let bits = |t: &Tensor| t.to_vec().unwrap().into_iter().map(f32::to_bits).collect();
            tensors.iter().flatten().map(bits).collect()
        };
        for device in testing::devices() {
            for count in [1, 2, 6, 7, 8, 16] {
                let run = |mut updates: Updates| {
                    let mut weights = many(&device);
                    weights.truncate(count);
                    for [w, m, v, dw] in &mut weights {
                        updates.adam(w, m, v, dw, &adam(3));
                    }
                    for (k, [w, m, _, dw]) in weights.iter_mut().enumerate() {
                        // Other settings in between.
                        let settings = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov: k % 5 == 4 };
                        updates.sgd(w, m, dw, &settings);
                    }
                    for [w, _, v, _] in &mut weights {
                        updates.average(v, w, 0.9);
                    }
                    updates.finish();
                    weights
                };
                assert_eq!(values(&run(Updates::new())), values(&run(Updates::one_by_one())), "{device}, {count}");
            }
        }
    }

    #[test]
    fn a_shared_tensor_keeps_its_values_and_a_weight_may_come_twice() {
        for device in testing::devices() {
            let run = |mut updates: Updates| {
                let mut weights = many(&device);
                let shared = weights[1].clone();
                let [w, m, v, dw] = &mut weights[1];
                updates.adam(w, m, v, dw, &adam(1));
                updates.adam(w, m, v, dw, &adam(1));
                updates.finish();
                [w.to_vec().unwrap(), shared[0].to_vec().unwrap(), shared[1].to_vec().unwrap()]
            };
            assert_eq!(run(Updates::new()), run(Updates::one_by_one()), "{device}");
            assert_eq!(run(Updates::new())[1], many(&device)[1][0].to_vec().unwrap(), "{device}");
        }
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn a_gradient_without_meaning_spoils_its_own_weight_only() {
        let Some(gpu) = testing::gpu() else { return };
        let mut weights = many(&Device::Gpu(gpu.clone()));
        // No launch of this kernel is possible, so its output has no meaning.
        let impossible = quarterturn_core::gpu::Kernel::new("impossible", "no shader");
        gpu.launch(&impossible, &[], &[], &[weights[2][3].buffer()], &[], quarterturn_core::gpu::Size::Groups(1));
        let mut updates = Updates::new();
        for [w, m, v, dw] in &mut weights {
            updates.adam(w, m, v, dw, &adam(1));
        }
        updates.finish();
        for (k, [w, m, v, _]) in weights.iter().enumerate() {
            let failed = [w, m, v].map(|tensor| tensor.to_vec().is_err());
            assert_eq!(failed, [k == 2; 3], "weight {k}");
        }
    }
}
