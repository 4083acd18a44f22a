// Batch norm: sums of a channel are taken in pieces, a workgroup each, which whoever needs them adds up for itself: two
// launches forward, two back.

// What follows the normalisation: 0 nothing, 1 relu, 2 relu and dropout.
override ACTIVATION: u32 = 0;

// Invocations of a workgroup: many, so that few pieces keep a GPU busy.
const LANES: u32 = 256u;

// x as [batch, channels, block].
struct Axes {
    channels: u32,
    block: u32,
    // Elements of a channel.
    count: u32,
    // Octets that the elements of a channel in one image touch, those of all images, and the pieces they make.
    octets: u32,
    all_octets: u32,
    pieces: u32,
    // Octets of a piece.
    piece: u32,
    eps: f32,
    // Whether mean and variance are functions of x.
    training: u32,
    // The dropout rule.
    stream: u32,
    epoch: u32,
    threshold: u32,
    key: vec2u,
    factor: f32,
}

@group(1) @binding(0) var<uniform> axes: Axes;

// ---- Elements: eight whose indices differ in the last three bits are an octet, and share a random block ----

const NOTHING: u32 = 0xffffffffu;

// The octets that a workgroup is at: index of the first element, and the range of those that belong to the channel.
var<workgroup> octets: array<vec3u, LANES>;

// Finds the octets from number `first` of a channel, one per invocation, before `end`.
fn find_octets(channel: u32, first: u32, end: u32, lane: u32) {
    workgroupBarrier();
    let number = first + lane;
    var octet = vec3u(0u);
    if (number < end) {
        let start = (number / axes.octets * axes.channels + channel) * axes.block;
        let base = (start / 8u + number % axes.octets) * 8u;
        octet = vec3u(base, start, start + axes.block);
    }
    octets[lane] = octet;
    workgroupBarrier();
}

// The index of an invocation's element in round 0..7 over the octets, or NOTHING. Neighbours have neighbouring elements.
fn element(round: u32, lane: u32) -> u32 {
    let number = round * LANES + lane;
    let octet = octets[number / 8u];
    let i = octet.x + number % 8u;
    return select(NOTHING, i, i >= octet.y && i < octet.z);
}

// What a workgroup makes or sums: octets `first` to `end` of a channel.
struct Piece {
    number: u32,
    channel: u32,
    first: u32,
    end: u32,
}

fn piece_of(index: u32) -> Piece {
    let number = index % axes.pieces;
    let first = number * axes.piece;
    return Piece(number, index / axes.pieces, first, min(first + axes.piece, axes.all_octets));
}

// ---- Sums of a workgroup, in a fixed order ----

var<workgroup> lanes: array<vec3f, LANES>;

// Σ of every lane's value.
fn sum_lanes(lane: u32, value: vec3f) -> vec3f {
    workgroupBarrier();
    lanes[lane] = value;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lanes[lane] += lanes[lane + half];
        }
    }
    workgroupBarrier();
    return lanes[0];
}

// Count, mean and sum of squared deviations of two sets together (Chan, Golub & LeVeque 1979).
fn merged(a: vec3f, b: vec3f) -> vec3f {
    let count = a.x + b.x;
    let part = select(b.x / count, 0.0, b.x == 0.0);
    let delta = b.y - a.y;
    return vec3f(count, a.y + delta * part, a.z + b.z + delta * delta * a.x * part);
}

// ---- Forward ----

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> moments_y: array<vec4f>;

// Count, mean and sum of squared deviations from it, of each piece of each channel.
@compute @workgroup_size(LANES)
fn moments(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let piece = piece_of(index);
    if (piece.channel >= axes.channels) {
        return;
    }
    var total = vec3f(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 8u; round++) {
            let i = element(round, lane);
            if (i != NOTHING) {
                total += vec3f(1.0, x[i], 0.0);
            }
        }
    }
    let sums = sum_lanes(lane, total);
    let mean = sums.y / sums.x;
    var squares = 0.0;
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 8u; round++) {
            let i = element(round, lane);
            if (i != NOTHING) {
                let deviation = x[i] - mean;
                squares = fma(deviation, deviation, squares);
            }
        }
    }
    let sum = sum_lanes(lane, vec3f(squares, 0.0, 0.0)).x;
    if (lane == 0u) {
        moments_y[index] = vec4f(sums.x, mean, sum, 0.0);
    }
}

fn inverse_deviation(value: f32) -> f32 {
    return 1.0 / sqrt(value + axes.eps);
}

// The random words of the octets that the workgroup is at.
var<workgroup> draws: array<vec4u, LANES>;

fn draw(lane: u32) {
    if (ACTIVATION == 2u) {
        draws[lane] = philox(vec4u(octets[lane].x / 8u, 0u, axes.stream, axes.epoch), axes.key);
        workgroupBarrier();
    }
}

// dropout(relu(z)) of element i, the invocation's in a round.
fn activated(z: f32, i: u32, round: u32, lane: u32) -> f32 {
    if (ACTIVATION == 0u) {
        return z;
    }
    let positive = positive_part(z);
    if (ACTIVATION == 1u) {
        return positive;
    }
    let word = draws[(round * LANES + lane) / 8u][(i >> 1u) & 3u];
    let drawn = (word >> (16u * (i & 1u))) & 0xffffu;
    return select(0.0, positive * axes.factor, drawn >= axes.threshold);
}

@group(0) @binding(1) var<storage, read> pieces: array<vec4f>;
@group(0) @binding(2) var<storage, read> slope_weight: array<f32>;
@group(0) @binding(3) var<storage, read> shift_bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> batch_y: array<f32>;
@group(0) @binding(5) var<storage, read_write> batch_mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> batch_var: array<f32>;

// Count, mean and squared deviations of a channel. Every workgroup that asks adds in the same order.
fn moments_of(channel: u32, lane: u32) -> vec3f {
    var total = vec3f(0.0);
    for (var piece = lane; piece < axes.pieces; piece += LANES) {
        total = merged(total, pieces[channel * axes.pieces + piece].xyz);
    }
    lanes[lane] = total;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lanes[lane] = merged(lanes[lane], lanes[lane + half]);
        }
    }
    workgroupBarrier();
    return lanes[0];
}

// y = dropout(relu((x − mean) / √(var + eps) · weight + bias)) by the batch's own statistics, and those.
@compute @workgroup_size(LANES)
fn normalise_batch(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) lane: u32) {
    let piece = piece_of(linear_group(group, groups));
    if (piece.channel >= axes.channels) {
        return;
    }
    let moments = moments_of(piece.channel, lane);
    let mean_of_channel = moments.y;
    let var_of_channel = moments.z / moments.x;
    if (piece.number == 0u && lane == 0u) {
        batch_mean[piece.channel] = mean_of_channel;
        batch_var[piece.channel] = var_of_channel;
    }
    let slope = slope_weight[piece.channel] * inverse_deviation(var_of_channel);
    let shift = shift_bias[piece.channel];
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        draw(lane);
        for (var round = 0u; round < 8u; round++) {
            let i = element(round, lane);
            if (i != NOTHING) {
                batch_y[i] = activated(fma(x[i] - mean_of_channel, slope, shift), i, round, lane);
            }
        }
    }
}

@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> variance: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// The same by given statistics.
@compute @workgroup_size(LANES)
fn normalise(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let piece = piece_of(linear_group(group, groups));
    if (piece.channel >= axes.channels) {
        return;
    }
    let centre = mean[piece.channel];
    let slope = weight[piece.channel] * inverse_deviation(variance[piece.channel]);
    let shift = bias[piece.channel];
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        draw(lane);
        for (var round = 0u; round < 8u; round++) {
            let i = element(round, lane);
            if (i != NOTHING) {
                y[i] = activated(fma(x[i] - centre, slope, shift), i, round, lane);
            }
        }
    }
}

// ---- Backward ----

@group(0) @binding(1) var<storage, read> result: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;

// The gradient behind dropout and relu, which let through what is positive (or NaN) in the result.
fn dz(i: u32) -> f32 {
    if (ACTIVATION == 0u) {
        return dy[i];
    }
    return select(0.0, dy[i] * axes.factor, passes(result[i]));
}

@group(0) @binding(3) var<storage, read> centre: array<f32>;
@group(0) @binding(4) var<storage, read> spread: array<f32>;
@group(0) @binding(5) var<storage, read> factor: array<f32>;
@group(0) @binding(6) var<storage, read_write> gradient_sums_y: array<vec4f>;

// Σ dz and Σ dz·(x − mean) of each piece of each channel; behind them, of each channel, mean, 1/√(var + eps) and weight.
@compute @workgroup_size(LANES)
fn gradient_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let piece = piece_of(index);
    if (piece.channel >= axes.channels) {
        return;
    }
    let mean_of_channel = centre[piece.channel];
    var total = vec3f(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 8u; round++) {
            let i = element(round, lane);
            if (i != NOTHING) {
                let d = dz(i);
                total = fma(vec3f(d), vec3f(1.0, x[i] - mean_of_channel, 0.0), total);
            }
        }
    }
    let sum = sum_lanes(lane, total);
    if (lane == 0u) {
        gradient_sums_y[index] = vec4f(sum, 0.0);
        if (piece.number == 0u) {
            let inverse = inverse_deviation(spread[piece.channel]);
            gradient_sums_y[axes.channels * axes.pieces + piece.channel] =
                vec4f(mean_of_channel, inverse, factor[piece.channel], 0.0);
        }
    }
}

@group(0) @binding(3) var<storage, read> sums: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(6) var<storage, read_write> dbias: array<f32>;

// dx = weight/√(var + eps) · (dz − Σ dz/n − slope·(x − mean)), and the sums.
@compute @workgroup_size(LANES)
fn gradient(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let piece = piece_of(linear_group(group, groups));
    if (piece.channel >= axes.channels) {
        return;
    }
    var total = vec3f(0.0);
    for (var p = lane; p < axes.pieces; p += LANES) {
        total += sums[piece.channel * axes.pieces + p].xyz;
    }
    let sum = sum_lanes(lane, total);
    let channel = sums[axes.channels * axes.pieces + piece.channel];
    let inverse = channel.y;
    if (piece.number == 0u && lane == 0u) {
        dweight[piece.channel] = sum.y * inverse;
        dbias[piece.channel] = sum.x;
    }
    let part = select(0.0, 1.0 / f32(axes.count), axes.training == 1u);
    let dz_mean = sum.x * part;
    let slope = sum.y * inverse * inverse * part;
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 8u; round++) {
            let i = element(round, lane);
            if (i != NOTHING) {
                dx[i] = channel.z * inverse * (dz(i) - dz_mean - slope * (x[i] - channel.x));
            }
        }
    }
}

// ---- Running statistics ----

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
