@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn add_relu(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&c)) {
        c[i] = positive_part(a[i] + b[i]);
    }
}

// dx = dy where y > 0 or NaN: a is y, b is dy.
@compute @workgroup_size(WORKGROUP)
fn relu_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&c)) {
        c[i] = select(0.0, b[i], passes(a[i]));
    }
}

@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> factor: f32;

@compute @workgroup_size(WORKGROUP)
fn scale(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        y[i] = factor * a[i];
    }
}

@compute @workgroup_size(WORKGROUP)
fn relu(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        y[i] = positive_part(a[i]);
    }
}

// Elements that a workgroup sums.
const PIECE: u32 = 4096u;
@group(1) @binding(0) var<uniform> count: u32;

// y[piece] = Σ of a piece of a, in a fixed order; launched again on the partial sums until one is left.
@compute @workgroup_size(WORKGROUP)
fn sum(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
       @builtin(local_invocation_index) lane: u32) {
    let piece = linear_group(group, groups);
    let end = min(piece * PIECE + PIECE, count);
    var total = 0.0;
    for (var i = piece * PIECE + lane; i < end; i += WORKGROUP) {
        total += a[i];
    }
    let whole = sum_of_lanes(total, lane);
    if (lane == 0u && piece < arrayLength(&y)) {
        y[piece] = whole;
    }
}
