// The kernels of batch_norm.wgsl with four elements to a load, for blocks of whole quads. What is made of each element has the same
// bits; sums are taken in another order.

@group(0) @binding(0) var<storage, read> x_quads: array<vec4f>;

// The index of an invocation's quad in round 0 or 1 over the octets, or NOTHING.
fn quad(round: u32, lane: u32) -> u32 {
    let number = round * LANES + lane;
    let octet = octets[number / 2u];
    let q = octet.x / 4u + number % 2u;
    return select(NOTHING, q, 4u * q >= octet.y && 4u * q < octet.z);
}

fn sum_of(v: vec4f) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// As `centre_of`.
fn centre_of_quads(channel: u32, lane: u32) -> f32 {
    let samples = 1u << firstLeadingBit(min(LANES, axes.count));
    let number = lane * (axes.count / samples);
    let i = (number / axes.block * axes.channels + channel) * axes.block + number % axes.block;
    var sample = 0.0;
    if (lane < samples) {
        sample = x_quads[i / 4u][i % 4u] * (1.0 / f32(samples));
    }
    return sum_lanes(lane, vec3f(sample, 0.0, 0.0)).x;
}

@compute @workgroup_size(LANES)
fn moments_quads(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let piece = piece_of(index);
    if (piece.channel >= axes.channels) {
        return;
    }
    let centre_of_channel = centre_of_quads(piece.channel, lane);
    var elements = 0.0;
    var total = vec4f(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 2u; round++) {
            let q = quad(round, lane);
            if (q != NOTHING) {
                elements += 4.0;
                total += x_quads[q] - centre_of_channel;
            }
        }
    }
    let sums = sum_lanes(lane, vec3f(elements, sum_of(total), 0.0));
    let rest = sums.y / sums.x;
    var deviations = vec4f(0.0);
    var squares = vec4f(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 2u; round++) {
            let q = quad(round, lane);
            if (q != NOTHING) {
                let deviation = (x_quads[q] - centre_of_channel) - rest;
                let shrunk = deviation * axes.shrink;
                deviations += deviation;
                squares = fma(shrunk, shrunk, squares);
            }
        }
    }
    let sum = sum_lanes(lane, vec3f(sum_of(deviations), sum_of(squares), 0.0));
    store_moments(index, lane, centre_of_channel, vec2f(sums.x, rest), sum);
}

// dropout(relu(z)) of quad q, the invocation's in a round.
fn activated_quad(z: vec4f, q: u32, round: u32, lane: u32) -> vec4f {
    if (ACTIVATION == 0u) {
        return z;
    }
    let positive = vec4f(positive_part(z.x), positive_part(z.y), positive_part(z.z), positive_part(z.w));
    if (ACTIVATION == 1u) {
        return positive;
    }
    let words = draws[(round * LANES + lane) / 2u];
    let pair = select(words.xy, words.zw, (q & 1u) == 1u);
    let drawn = vec4u(pair.x & 0xffffu, pair.x >> 16u, pair.y & 0xffffu, pair.y >> 16u);
    return select(vec4f(0.0), positive * axes.factor, drawn >= vec4u(axes.threshold));
}

@group(0) @binding(4) var<storage, read_write> batch_y_quads: array<vec4f>;

@compute @workgroup_size(LANES)
fn normalise_batch_quads(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                         @builtin(local_invocation_index) lane: u32) {
    let piece = piece_of(linear_group(group, groups));
    if (piece.channel >= axes.channels) {
        return;
    }
    let affine = affine_of_batch(piece, lane);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        draw(lane);
        for (var round = 0u; round < 2u; round++) {
            let q = quad(round, lane);
            if (q != NOTHING) {
                let z = fma((x_quads[q] - affine.centre) - affine.rest, vec4f(affine.slope), vec4f(affine.shift));
                batch_y_quads[q] = activated_quad(z, q, round, lane);
            }
        }
    }
}

@group(0) @binding(5) var<storage, read_write> y_quads: array<vec4f>;

@compute @workgroup_size(LANES)
fn normalise_quads(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
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
        for (var round = 0u; round < 2u; round++) {
            let q = quad(round, lane);
            if (q != NOTHING) {
                y_quads[q] = activated_quad(fma(x_quads[q] - centre, vec4f(slope), vec4f(shift)), q, round, lane);
            }
        }
    }
}

@group(0) @binding(1) var<storage, read> result_quads: array<vec4f>;
@group(0) @binding(2) var<storage, read> dy_quads: array<vec4f>;

fn dz_quad(q: u32) -> vec4f {
    let d = dy_quads[q];
    if (ACTIVATION == 0u) {
        return d;
    }
    let r = result_quads[q];
    let lets_through = vec4<bool>(passes(r.x), passes(r.y), passes(r.z), passes(r.w));
    return select(vec4f(0.0), d * axes.factor, lets_through);
}

@compute @workgroup_size(LANES)
fn gradient_sums_quads(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                       @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let piece = piece_of(index);
    if (piece.channel >= axes.channels) {
        return;
    }
    let parts = mean_parts_of(piece.channel);
    var total = vec4f(0.0);
    var products = vec4f(0.0);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 2u; round++) {
            let q = quad(round, lane);
            if (q != NOTHING) {
                let d = dz_quad(q);
                total += d;
                products = fma(d, (x_quads[q] - parts.x) - parts.y, products);
            }
        }
    }
    let sum = sum_lanes(lane, vec3f(sum_of(total), sum_of(products), 0.0));
    store_gradient_sums(index, piece, lane, parts, sum);
}

@group(0) @binding(4) var<storage, read_write> dx_quads: array<vec4f>;

@compute @workgroup_size(LANES)
fn gradient_quads(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) lane: u32) {
    let piece = piece_of(linear_group(group, groups));
    if (piece.channel >= axes.channels) {
        return;
    }
    let back = backward_of(piece, lane);
    for (var octet = piece.first; octet < piece.end; octet += LANES) {
        find_octets(piece.channel, octet, piece.end, lane);
        for (var round = 0u; round < 2u; round++) {
            let q = quad(round, lane);
            if (q != NOTHING) {
                let deviation = (x_quads[q] - back.centre) - back.rest;
                let through_statistics = fma(vec4f(back.slope), deviation, vec4f(back.dz_mean));
                let without = select(vec4f(0.0), through_statistics, axes.training == 1u);
                dx_quads[q] = back.scale * (dz_quad(q) - without);
            }
        }
    }
}
