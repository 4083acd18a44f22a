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

// (w, velocity) after a step.
fn sgd_of(s: Sgd, dw: f32, w: f32, velocity: f32) -> vec2f {
    let g = dw + s.weight_decay * w;
    let v = s.momentum * velocity + g;
    return vec2f(w - s.lr * select(v, g + s.momentum * v, s.nesterov == 1.0), v);
}

@compute @workgroup_size(WORKGROUP)
fn sgd_step(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&w)) {
        let next = sgd_of(sgd, dw[i], w[i], velocity[i]);
        w[i] = next.x;
        velocity[i] = next.y;
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

// (w, moment1, moment2) after a step.
fn adam_of(a: Adam, dw: f32, w: f32, moment1: f32, moment2: f32) -> vec3f {
    let g = dw + a.penalty * w;
    let m = a.beta1 * moment1 + a.rest1 * g;
    let v = a.beta2 * moment2 + a.rest2 * g * g;
    return vec3f(a.shrink * w - a.step_size * m / (sqrt(v) / a.root_correction2 + a.eps), m, v);
}

@compute @workgroup_size(WORKGROUP)
fn adam_step(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&w)) {
        let next = adam_of(adam, dw[i], w[i], moment1[i], moment2[i]);
        w[i] = next.x;
        moment1[i] = next.y;
        moment2[i] = next.z;
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
