// Batch norm, for elements one by one (singles.wgsl) or four at a time (quads.wgsl): the file before this one says what a Value is.
// What is made of each element has the same bits both ways; sums are taken in another order.
//
// Sums of a channel are taken in pieces, a workgroup each, which whoever needs them adds up for itself: two
// launches forward, two back.
//
// There is no f64 to hold a mean that is large beside the deviations. So whatever is summed of a channel is a difference to its
// `centre`, a number near the mean, and the mean is the pair (centre, rest): (x − centre) − rest rounds away nothing that counts.

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
    // A power of two between ½/√count and 1/√count: deviations are multiplied by it before they are squared, so that a sum of
    // squares is beyond f32 only where the variance is.
    shrink: f32,
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

// Values of an octet, and rounds in which a workgroup goes over its octets.
const ROUNDS: u32 = 8u / WIDTH;

// The index of an invocation's value in a round over the octets, or NOTHING. Neighbours have neighbouring values.
fn value(round: u32, lane: u32) -> u32 {
    let number = round * LANES + lane;
    let octet = octets[number / ROUNDS];
    let v = octet.x / WIDTH + number % ROUNDS;
    return select(NOTHING, v, WIDTH * v >= octet.y && WIDTH * v < octet.z);
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

// Count, mean and sum of squared shrunk deviations of two sets together (Chan, Golub & LeVeque 1979).
fn merged(a: vec3f, b: vec3f) -> vec3f {
    let count = a.x + b.x;
    let part = select(b.x / count, 0.0, b.x == 0.0);
    let delta = b.y - a.y;
    let shrunk = delta * axes.shrink;
    return vec3f(count, a.y + delta * part, a.z + b.z + shrunk * shrunk * (a.x * part));
}

// ---- Forward ----

@group(0) @binding(0) var<storage, read> x: array<Value>;
@group(0) @binding(1) var<storage, read_write> moments_y: array<vec4f>;

// A mean of up to LANES elements of a channel, from all over it; a power of two of them, so that of equal values it is theirs.
fn centre_of(channel: u32, lane: u32) -> f32 {
    let samples = 1u << firstLeadingBit(min(LANES, axes.count));
    let number = lane * (axes.count / samples);
    let i = (number / axes.block * axes.channels + channel) * axes.block + number % axes.block;
    var sample = 0.0;
    if (lane < samples) {
        sample = nth(x[i / WIDTH], i % WIDTH) * (1.0 / f32(samples));
    }
    return sum_lanes(lane, vec3f(sample, 0.0, 0.0)).x;
}

// Of each piece of each channel: count, mean − centre, sum of squared shrunk deviations from the mean, and centre.
@compute @workgroup_size(LANES)
fn moments(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let piece = piece_of(index);
    if (piece.channel >= axes.channels) {
        return;
    }
    let centre_of_channel = centre_of(piece.channel, lane);
    var elements = 0.0;
    var total = Value(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < ROUNDS; round++) {
            let v = value(round, lane);
            if (v != NOTHING) {
                elements += f32(WIDTH);
                total += x[v] - centre_of_channel;
            }
        }
    }
    let sums = sum_lanes(lane, vec3f(elements, sum_of(total), 0.0));
    let count = sums.x;
    // The mean up to what the sum has rounded, which is found beside the squares.
    let rest = sums.y / count;
    var deviations = Value(0.0);
    var squares = Value(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < ROUNDS; round++) {
            let v = value(round, lane);
            if (v != NOTHING) {
                let deviation = (x[v] - centre_of_channel) - rest;
                let shrunk = deviation * axes.shrink;
                deviations += deviation;
                squares = fma(shrunk, shrunk, squares);
            }
        }
    }
    let sum = sum_lanes(lane, vec3f(sum_of(deviations), sum_of(squares), 0.0));
    store_moments(index, lane, centre_of_channel, vec2f(count, rest), sum);
}

// What `moments` knows of a piece: its count and mean − centre, up to what the sums of deviations and squares from these make good.
fn store_moments(index: u32, lane: u32, centre_of_channel: f32, first: vec2f, sum: vec3f) {
    if (lane == 0u) {
        let count = first.x;
        let off = sum.x / count;
        let shrunk = off * axes.shrink;
        let about_mean = positive_part(sum.y - count * shrunk * shrunk);
        moments_y[index] = vec4f(count, first.y + off, about_mean, centre_of_channel);
    }
}

// What is not finite becomes NaN, by its bits.
fn number_or_nan(value: f32) -> f32 {
    let bits = bitcast<u32>(value);
    return bitcast<f32>(select(bits, bits | 0x7fc00000u, (bits & 0x7f800000u) == 0x7f800000u));
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

// dropout(relu(z)) of value v, the invocation's in a round.
fn activated(z: Value, v: u32, round: u32, lane: u32) -> Value {
    if (ACTIVATION == 0u) {
        return z;
    }
    let positive = positive_of(z);
    if (ACTIVATION == 1u) {
        return positive;
    }
    let drawn = drawn_of(draws[(round * LANES + lane) / ROUNDS], v);
    return select(Value(0.0), positive * axes.factor, drawn >= Drawn(axes.threshold));
}

@group(0) @binding(1) var<storage, read> pieces: array<vec4f>;
@group(0) @binding(2) var<storage, read> slope_weight: array<f32>;
@group(0) @binding(3) var<storage, read> shift_bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> batch_y: array<Value>;
@group(0) @binding(5) var<storage, read_write> batch_mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> batch_var: array<f32>;
// centre and rest
@group(0) @binding(7) var<storage, read_write> batch_parts: array<f32>;

// Count, mean − centre and squared shrunk deviations of a channel. Every workgroup that asks adds in the same order.
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

// z = ((x − centre) − rest) · slope + shift
struct Affine {
    centre: f32,
    rest: f32,
    slope: f32,
    shift: f32,
}

// Of a piece's channel, by the batch's own statistics, which its first piece stores.
fn affine_of_batch(piece: Piece, lane: u32) -> Affine {
    let moments = moments_of(piece.channel, lane);
    let centre_of_channel = pieces[piece.channel * axes.pieces].w;
    let rest = moments.y;
    let var_of_channel = number_or_nan(moments.z / (moments.x * axes.shrink * axes.shrink));
    if (piece.number == 0u && lane == 0u) {
        batch_mean[piece.channel] = select(centre_of_channel + rest, var_of_channel, is_nan(var_of_channel));
        batch_var[piece.channel] = var_of_channel;
        batch_parts[piece.channel] = centre_of_channel;
        batch_parts[axes.channels + piece.channel] = rest;
    }
    let slope = slope_weight[piece.channel] * inverse_deviation(var_of_channel);
    return Affine(centre_of_channel, rest, slope, shift_bias[piece.channel]);
}

// y = dropout(relu((x − mean) / √(var + eps) · weight + bias)) by the batch's own statistics, and those.
@compute @workgroup_size(LANES)
fn normalise_batch(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) lane: u32) {
    let piece = piece_of(linear_group(group, groups));
    if (piece.channel >= axes.channels) {
        return;
    }
    let affine = affine_of_batch(piece, lane);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        draw(lane);
        for (var round = 0u; round < ROUNDS; round++) {
            let v = value(round, lane);
            if (v != NOTHING) {
                let z = fma((x[v] - affine.centre) - affine.rest, Value(affine.slope), Value(affine.shift));
                batch_y[v] = activated(z, v, round, lane);
            }
        }
    }
}

@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> variance: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<Value>;

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
        for (var round = 0u; round < ROUNDS; round++) {
            let v = value(round, lane);
            if (v != NOTHING) {
                y[v] = activated(fma(x[v] - centre, Value(slope), Value(shift)), v, round, lane);
            }
        }
    }
}

// ---- Backward ----

@group(0) @binding(1) var<storage, read> result: array<Value>;
@group(0) @binding(2) var<storage, read> dy: array<Value>;

// The gradient behind dropout and relu, which let through what is positive (or NaN) in the result.
fn dz(v: u32) -> Value {
    if (ACTIVATION == 0u) {
        return dy[v];
    }
    return select(Value(0.0), dy[v] * axes.factor, passes_of(result[v]));
}

// The mean of each channel, or centres, then rests.
@group(0) @binding(3) var<storage, read> centre: array<f32>;
@group(0) @binding(4) var<storage, read> spread: array<f32>;
@group(0) @binding(5) var<storage, read> factor: array<f32>;
@group(0) @binding(6) var<storage, read_write> gradient_sums_y: array<vec4f>;

// A channel's centre and rest.
fn mean_parts_of(channel: u32) -> vec2f {
    var rest = 0.0;
    if (arrayLength(&centre) > axes.channels) {
        rest = centre[axes.channels + channel];
    }
    return vec2f(centre[channel], rest);
}

// Σ dz and Σ dz·(x − mean) of each piece of each channel; behind them, of each channel, centre, 1/√(var + eps), weight and rest.
@compute @workgroup_size(LANES)
fn gradient_sums(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let piece = piece_of(index);
    if (piece.channel >= axes.channels) {
        return;
    }
    let parts = mean_parts_of(piece.channel);
    var total = Value(0.0);
    var products = Value(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < ROUNDS; round++) {
            let v = value(round, lane);
            if (v != NOTHING) {
                let d = dz(v);
                total += d;
                products = fma(d, (x[v] - parts.x) - parts.y, products);
            }
        }
    }
    let sum = sum_lanes(lane, vec3f(sum_of(total), sum_of(products), 0.0));
    store_gradient_sums(index, piece, lane, parts, sum);
}

// A piece's sums; with the first, what `gradient` needs of the channel.
fn store_gradient_sums(index: u32, piece: Piece, lane: u32, mean_parts: vec2f, sum: vec3f) {
    if (lane == 0u) {
        gradient_sums_y[index] = vec4f(sum, 0.0);
        if (piece.number == 0u) {
            let inverse = inverse_deviation(spread[piece.channel]);
            gradient_sums_y[axes.channels * axes.pieces + piece.channel] =
                vec4f(mean_parts.x, inverse, factor[piece.channel], mean_parts.y);
        }
    }
}

@group(0) @binding(3) var<storage, read> sums: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> dx: array<Value>;
@group(0) @binding(5) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(6) var<storage, read_write> dbias: array<f32>;

// dx = scale·(dz − (dz_mean + slope·(x − mean)))
struct Backward {
    centre: f32,
    rest: f32,
    scale: f32,
    dz_mean: f32,
    slope: f32,
}

// Of a piece's channel; its first piece stores the gradients of weight and bias.
fn backward_of(piece: Piece, lane: u32) -> Backward {
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
    let part = 1.0 / f32(axes.count);
    return Backward(channel.x, channel.w, channel.z * inverse, sum.x * part, sum.y * inverse * inverse * part);
}

// dx = weight/√(var + eps) · (dz − (Σ dz/n + slope·(x − mean))), without the inner bracket by given statistics; and the sums.
@compute @workgroup_size(LANES)
fn gradient(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let piece = piece_of(linear_group(group, groups));
    if (piece.channel >= axes.channels) {
        return;
    }
    let back = backward_of(piece, lane);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < ROUNDS; round++) {
            let v = value(round, lane);
            if (v != NOTHING) {
                let deviation = (x[v] - back.centre) - back.rest;
                let through_statistics = fma(Value(back.slope), deviation, Value(back.dz_mean));
                dx[v] = back.scale * (dz(v) - select(Value(0.0), through_statistics, axes.training == 1u));
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
