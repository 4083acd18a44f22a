struct Loss {
    // Squared, absolute, Huber, binary cross-entropy.
    kind: u32,
    delta: f32,
    count: u32,
    factor: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> goal: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> loss: Loss;

// Elements that a workgroup sums.
const PIECE: u32 = 4096u;

fn value(x: f32, t: f32) -> f32 {
    let d = x - t;
    var value = d * d;
    switch loss.kind {
        case 1u: { value = abs(d); }
        case 2u: { value = select(loss.delta * (abs(d) - 0.5 * loss.delta), 0.5 * d * d, abs(d) <= loss.delta); }
        case 3u: { value = positive_part(x) - t * x + ln_1p(exp(-min(abs(x), 100.0))); }
        default: {}
    }
    return select(value, d, is_nan(d));
}

fn slope(x: f32, t: f32) -> f32 {
    let d = x - t;
    var slope = 2.0 * d;
    switch loss.kind {
        case 1u: { slope = select(select(0.0, -1.0, d < 0.0), 1.0, d > 0.0); }
        case 2u: { slope = clamp(d, -loss.delta, loss.delta); }
        case 3u: { slope = sigmoid(x) - t; }
        default: {}
    }
    return select(slope, d, is_nan(d));
}

@compute @workgroup_size(WORKGROUP)
fn pointwise_loss(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) lane: u32) {
    let piece = linear_group(group, groups);
    let end = min(piece * PIECE + PIECE, loss.count);
    var total = 0.0;
    for (var i = piece * PIECE + lane; i < end; i += WORKGROUP) {
        total += value(x[i], goal[i]);
    }
    let whole = sum_of_lanes(total, lane);
    if (lane == 0u && piece < arrayLength(&y)) {
        y[piece] = whole * loss.factor;
    }
}

@group(0) @binding(2) var<storage, read> dloss: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn pointwise_loss_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                      @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&dx)) {
        dx[i] = slope(x[i], goal[i]) * (dloss[0] * loss.factor);
    }
}
