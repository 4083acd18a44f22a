//! An update rule.

use quarterturn::{
    autograd::{Gradients, Param, ParamId},
    core::Tensor,
    kernels::{self, Elementwise},
};
use std::collections::HashMap;

/// Lion (Chen et al. 2023): `w ← w − lr·(sign(β₁m + (1−β₁)g) + weight_decay·w)`, then `m ← β₂m + (1−β₂)g`.
pub struct Lion {
    betas: [f64; 2],
    weight_decay: f64,
    moments: HashMap<ParamId, Tensor>,
}

static SIGN: Elementwise = Elementwise {
    name: "sign",
    parameters: [],
    value: |x, []| if x == 0.0 { 0.0 } else { x.signum() },
    slope: |_, []| 0.0,
    cpu: None,
    wgsl: ["sign(x)", "0.0"],
};

impl Lion {
    /// A rule that has made no step.
    pub fn new(beta1: f64, beta2: f64, weight_decay: f64) -> Self {
        Lion { betas: [beta1, beta2], weight_decay, moments: HashMap::new() }
    }

    /// One step on every parameter that `visit` reaches.
    pub fn step(&mut self, gradients: &Gradients, lr: f64, visit: impl FnOnce(&mut dyn FnMut(&str, &mut Param))) {
        visit(&mut |_, param| {
            if let Some(value) = gradients.buffer(param) {
                param.set(value.clone());
            }
            let Some(g) = gradients.of(param) else { return };
            let m = self.moments.entry(param.id()).or_insert_with(|| kernels::scale(g, 0.0));
            let mean = |beta: f64, m: &Tensor| kernels::add(&kernels::scale(m, beta), &kernels::scale(g, 1.0 - beta));
            let direction = kernels::map(&mean(self.betas[0], m), &SIGN, []);
            let step = kernels::add(&direction, &kernels::scale(param.value(), self.weight_decay));
            param.set(kernels::sub(param.value(), &kernels::scale(&step, lr)));
            *m = mean(self.betas[1], m);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{all_devices, assert_close};
    use quarterturn::core::Device;

    #[test]
    fn steps_by_hand() {
        let gradients = [[1.0, -2.0, 0.0], [-0.1, 0.5, 3.0], [-2.0, 0.5, 0.0]];
        let (mut w, mut m) = ([1.0f64, 0.5, -2.0], [0.0; 3]);
        for g in gradients {
            for i in 0..3 {
                let c: f64 = 0.9 * m[i] + 0.1 * g[i];
                w[i] -= 0.1 * (if c == 0.0 { 0.0 } else { c.signum() } + 0.01 * w[i]);
                m[i] = 0.99 * m[i] + 0.01 * g[i];
            }
        }
        let expected = Tensor::reference([3], w.to_vec());
        for device in all_devices() {
            let of = |values: [f64; 3]| Tensor::from_f64([3], values.to_vec(), &device).unwrap();
            let (mut param, mut lion) = (Param::weight(of([1.0, 0.5, -2.0])), Lion::new(0.9, 0.99, 0.01));
            for g in gradients {
                let mut step = Gradients::new();
                step.set(&param, of(g));
                lion.step(&step, 0.1, |f| f("w", &mut param));
            }
            assert_close(&format!("{device}"), param.value(), &expected);
        }
        assert!(all_devices().iter().any(|device| matches!(device, Device::Cpu)));
    }
}
