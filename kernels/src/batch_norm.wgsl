// What follows the normalisation: 0 nothing, 1 relu, 2 relu and dropout.
override ACTIVATION: u32 = 0;

// x as [batch, channels, block].
struct Axes {
    channels: u32,
    block: u32,
    // Elements of a channel, and the pieces that they are summed in.
    count: u32,
    pieces: u32,
    eps: f32,
    // Whether mean and variance are functions of x.
    training: u32,
    // The dropout rule.
    key: vec2u,
    stream: u32,
    epoch: u32,
    threshold: u32,
    factor: f32,
}

// Elements of a channel that one workgroup sums.
const PIECE: u32 = 4096u;

@group(1) @binding(0) var<uniform> axes: Axes;

// Index of element j of a channel.
fn element(channel: u32, j: u32) -> u32 {
    return (j / axes.block * axes.channels + channel) * axes.block + j % axes.block;
}

var<workgroup> lanes: array<vec2f, WORKGROUP>;

// Σ of every lane's value, in a fixed order.
fn sum_lanes(lane: u32, value: vec2f) -> vec2f {
    workgroupBarrier();
    lanes[lane] = value;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lanes[lane] += lanes[lane + half];
        }
    }
    workgroupBarrier();
    return lanes[0];
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> moments_y: array<vec2f>;

// Mean and sum of squared deviations from it, of each piece of each channel.
@compute @workgroup_size(WORKGROUP)
fn moments(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let channel = index / axes.pieces;
    let start = index % axes.pieces * PIECE;
    let end = min(start + PIECE, axes.count);
    var total = 0.0;
    for (var j = start + lane; j < end; j += WORKGROUP) {
        total += x[element(channel, j)];
    }
    let mean = sum_lanes(lane, vec2f(total, 0.0)).x / f32(end - start);
    var squares = 0.0;
    for (var j = start + lane; j < end; j += WORKGROUP) {
        let deviation = x[element(channel, j)] - mean;
        squares += deviation * deviation;
    }
    let sum = sum_lanes(lane, vec2f(squares, 0.0)).x;
    if (lane == 0u && channel < axes.channels) {
        moments_y[index] = vec2f(mean, sum);
    }
}

@group(0) @binding(0) var<storage, read> pieces: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> batch_mean: array<f32>;
@group(0) @binding(2) var<storage, read_write> batch_var: array<f32>;

// Count, mean and sum of squared deviations of two sets together (Chan, Golub & LeVeque 1979).
fn merged(a: vec3f, b: vec3f) -> vec3f {
    let count = a.x + b.x;
    let part = select(b.x / count, 0.0, b.x == 0.0);
    let delta = b.y - a.y;
    return vec3f(count, a.y + delta * part, a.z + b.z + delta * delta * a.x * part);
}

var<workgroup> sets: array<vec3f, WORKGROUP>;

// A workgroup merges the pieces of one channel.
@compute @workgroup_size(WORKGROUP)
fn merge_moments(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let channel = linear_group(group, groups);
    var total = vec3f(0.0);
    for (var piece = lane; piece < axes.pieces; piece += WORKGROUP) {
        let moments = pieces[channel * axes.pieces + piece];
        total = merged(total, vec3f(f32(min(PIECE, axes.count - piece * PIECE)), moments));
    }
    sets[lane] = total;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            sets[lane] = merged(sets[lane], sets[lane + half]);
        }
    }
    if (lane == 0u && channel < axes.channels) {
        batch_mean[channel] = sets[0].y;
        batch_var[channel] = sets[0].z / f32(axes.count);
    }
}

@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> variance: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

fn inverse_deviation(value: f32) -> f32 {
    return 1.0 / sqrt(value + axes.eps);
}

// y = dropout(relu((x − mean) / √(var + eps) · weight + bias)). With dropout, an invocation has the eight elements
// that share a random block.
@compute @workgroup_size(WORKGROUP)
fn normalise(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let index = linear_index(group, groups, lane);
    let elements = select(1u, 8u, ACTIVATION == 2u);
    let end = min((index + 1u) * elements, arrayLength(&y));
    var words = vec4u();
    if (ACTIVATION == 2u) {
        words = philox(vec4u(index, 0u, axes.stream, axes.epoch), axes.key);
    }
    for (var i = index * elements; i < end; i++) {
        let channel = i / axes.block % axes.channels;
        let slope = weight[channel] * inverse_deviation(variance[channel]);
        var z = (x[i] - mean[channel]) * slope + bias[channel];
        if (ACTIVATION > 0u) {
            z = max(z, 0.0);
        }
        if (ACTIVATION == 2u) {
            let draw = (words[(i >> 1u) & 3u] >> (16u * (i & 1u))) & 0xffffu;
            z = select(0.0, z * axes.factor, draw >= axes.threshold);
        }
        y[i] = z;
    }
}

@group(0) @binding(1) var<storage, read> result: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;

// The gradient behind dropout and relu, which let through what is positive in the result.
fn dz(i: u32) -> f32 {
    if (ACTIVATION == 0u) {
        return dy[i];
    }
    return select(0.0, dy[i] * axes.factor, result[i] > 0.0);
}

@group(0) @binding(3) var<storage, read> centre: array<f32>;
@group(0) @binding(4) var<storage, read_write> gradient_sums_y: array<vec2f>;

// Σ dz and Σ dz·(x − mean) of each piece of each channel.
@compute @workgroup_size(WORKGROUP)
fn gradient_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let channel = index / axes.pieces;
    let start = index % axes.pieces * PIECE;
    let end = min(start + PIECE, axes.count);
    let mean_of_channel = centre[min(channel, axes.channels - 1u)];
    var total = vec2f(0.0);
    for (var j = start + lane; j < end; j += WORKGROUP) {
        let i = element(channel, j);
        let d = dz(i);
        total += vec2f(d, d * (x[i] - mean_of_channel));
    }
    let sum = sum_lanes(lane, total);
    if (lane == 0u && channel < axes.channels) {
        gradient_sums_y[index] = sum;
    }
}

// dx = a·(dz − dz_mean − slope·(x − mean)) in one channel.
struct Coefficients {
    a: f32,
    mean: f32,
    dz_mean: f32,
    slope: f32,
}

@group(0) @binding(4) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(5) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(6) var<storage, read_write> coefficients_y: array<Coefficients>;

// A workgroup adds up the pieces of one channel.
@compute @workgroup_size(WORKGROUP)
fn merge_gradient_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                       @builtin(local_invocation_index) lane: u32) {
    let channel = linear_group(group, groups);
    var total = vec2f(0.0);
    for (var piece = lane; piece < axes.pieces; piece += WORKGROUP) {
        total += pieces[channel * axes.pieces + piece];
    }
    let sum = sum_lanes(lane, total);
    if (lane == 0u && channel < axes.channels) {
        let inverse = inverse_deviation(variance[channel]);
        dweight[channel] = sum.y * inverse;
        dbias[channel] = sum.x;
        let part = select(0.0, 1.0 / f32(axes.count), axes.training == 1u);
        coefficients_y[channel] =
            Coefficients(weight[channel] * inverse, mean[channel], sum.x * part, sum.y * inverse * inverse * part);
    }
}

@group(0) @binding(3) var<storage, read> coefficients: array<Coefficients>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn gradient(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&dx)) {
        let c = coefficients[i / axes.block % axes.channels];
        dx[i] = c.a * (dz(i) - c.dz_mean - c.slope * (x[i] - c.mean));
    }
}

struct Update {
    momentum: f32,
    // count/(count − 1)
    unbiased: f32,
}

@group(0) @binding(0) var<storage, read> running_mean: array<f32>;
@group(0) @binding(1) var<storage, read> running_var: array<f32>;
@group(0) @binding(2) var<storage, read> new_mean: array<f32>;
@group(0) @binding(3) var<storage, read> new_var: array<f32>;
@group(0) @binding(4) var<storage, read_write> updated_mean: array<f32>;
@group(0) @binding(5) var<storage, read_write> updated_var: array<f32>;
@group(1) @binding(0) var<uniform> running_update: Update;

@compute @workgroup_size(WORKGROUP)
fn update_running(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) lane: u32) {
    let c = linear_index(group, groups, lane);
    if (c < arrayLength(&updated_mean)) {
        let momentum = running_update.momentum;
        updated_mean[c] = (1.0 - momentum) * running_mean[c] + momentum * new_mean[c];
        updated_var[c] = (1.0 - momentum) * running_var[c] + momentum * new_var[c] * running_update.unbiased;
    }
}
