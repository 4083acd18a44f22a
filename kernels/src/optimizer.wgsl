struct Sgd {
    lr: f32,
    momentum: f32,
    weight_decay: f32,
    // 1 for Nesterov's momentum.
    nesterov: f32,
}

@group(0) @binding(0) var<storage, read> dw: array<f32>;
@group(0) @binding(1) var<storage, read_write> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> velocity: array<f32>;
@group(1) @binding(0) var<uniform> sgd: Sgd;

@compute @workgroup_size(WORKGROUP)
fn sgd_step(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&w)) {
        let g = dw[i] + sgd.weight_decay * w[i];
        let v = sgd.momentum * velocity[i] + g;
        velocity[i] = v;
        w[i] -= sgd.lr * select(v, g + sgd.momentum * v, sgd.nesterov == 1.0);
    }
}

struct Adam {
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    // lr/(1 − β₁ᵗ)
    step_size: f32,
    // √(1 − β₂ᵗ)
    root_correction2: f32,
    eps: f32,
    // The L2 penalty, 0 for AdamW, and what that multiplies the weight by.
    penalty: f32,
    shrink: f32,
}

@group(0) @binding(2) var<storage, read_write> moment1: array<f32>;
@group(0) @binding(3) var<storage, read_write> moment2: array<f32>;
@group(1) @binding(0) var<uniform> adam: Adam;

@compute @workgroup_size(WORKGROUP)
fn adam_step(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&w)) {
        let g = dw[i] + adam.penalty * w[i];
        let m = adam.beta1 * moment1[i] + adam.rest1 * g;
        let v = adam.beta2 * moment2[i] + adam.rest2 * g * g;
        moment1[i] = m;
        moment2[i] = v;
        w[i] = adam.shrink * w[i] - adam.step_size * m / (sqrt(v) / adam.root_correction2 + adam.eps);
    }
}

@group(0) @binding(0) var<storage, read> value: array<f32>;
@group(0) @binding(1) var<storage, read_write> mean: array<f32>;
// (decay, 1 − decay)
@group(1) @binding(0) var<uniform> factors: vec2f;

@compute @workgroup_size(WORKGROUP)
fn average_step(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&mean)) {
        mean[i] = factors.x * mean[i] + factors.y * value[i];
    }
}
