// Planes of images; `channels` planes share an angle.
struct Images {
    channels: u32,
    height: u32,
    width: u32,
    fill: f32,
}

// Of each image: the element of C4 that undoes the whole quarter turns, and cosine and sine of the rest.
struct Rotation {
    unturn: f32,
    cosine: f32,
    sine: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> rotations: array<Rotation>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> images: Images;

// Offset from the centre after g quarter turns.
fn turned(g: u32, offset: vec2f) -> vec2f {
    switch g & 3u {
        case 1u: { return vec2f(-offset.y, offset.x); }
        case 2u: { return -offset; }
        case 3u: { return vec2f(offset.y, -offset.x); }
        default: { return offset; }
    }
}

fn centre() -> vec2f {
    return 0.5 * (vec2f(f32(images.height), f32(images.width)) - 1.0);
}

// The position that the pixel at `offset` from the centre reads.
fn source(rotation: Rotation, offset: vec2f) -> vec2f {
    let d = turned(u32(rotation.unturn), offset);
    return vec2f(
        rotation.cosine * d.x + rotation.sine * d.y,
        rotation.cosine * d.y - rotation.sine * d.x,
    ) + centre();
}

// What lies at t between a and b; at 0, b is not looked at.
fn between(a: f32, b: f32, t: f32) -> f32 {
    return select(a * (1.0 - t) + b * t, a, t == 0.0);
}

fn pixel(start: u32, at: vec2i) -> f32 {
    let inside = at.x >= 0 && at.y >= 0 && at.x < i32(images.height) && at.y < i32(images.width);
    let index = start + u32(at.x) * images.width + u32(at.y);
    return select(images.fill, x[select(0u, index, inside)], inside);
}

@compute @workgroup_size(WORKGROUP)
fn rotate(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let count = images.height * images.width;
    let plane = i / count;
    let here = vec2f(f32(i % count / images.width), f32(i % images.width));
    let position = source(rotations[plane / images.channels], here - centre());
    let corner = floor(position);
    let weight = position - corner;
    let at = vec2i(corner);
    let start = plane * count;
    let above = between(pixel(start, at), pixel(start, at + vec2i(0, 1)), weight.y);
    let below = between(pixel(start, at + vec2i(1, 0)), pixel(start, at + vec2i(1, 1)), weight.y);
    y[i] = between(above, below, weight.x);
}

// x is dy, y is dx. A pixel gathers from those that read it, all within √2 of where it is turned to.
@compute @workgroup_size(WORKGROUP)
fn rotate_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let count = images.height * images.width;
    let plane = i / count;
    let rotation = rotations[plane / images.channels];
    let here = vec2f(f32(i % count / images.width), f32(i % images.width));
    let offset = here - centre();
    let unrotated = vec2f(
        rotation.cosine * offset.x - rotation.sine * offset.y,
        rotation.cosine * offset.y + rotation.sine * offset.x,
    );
    let corner = vec2i(floor(turned(4u - u32(rotation.unturn), unrotated) + centre()));
    var total = 0.0;
    for (var row = max(corner.x - 1, 0); row < min(corner.x + 3, i32(images.height)); row++) {
        for (var column = max(corner.y - 1, 0); column < min(corner.y + 3, i32(images.width)); column++) {
            let distance = abs(source(rotation, vec2f(f32(row), f32(column)) - centre()) - here);
            let weight = max(vec2f(1.0) - distance, vec2f(0.0));
            if (all(weight > vec2f(0.0))) {
                total += weight.x * weight.y * x[plane * count + u32(row) * images.width + u32(column)];
            }
        }
    }
    y[i] = total;
}

struct Resized {
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
}

@group(0) @binding(1) var<storage, read_write> resized_y: array<f32>;
@group(1) @binding(0) var<uniform> resized: Resized;

// A sample between two neighbours, their weights, and whether they count.
struct Blend {
    lower: u32,
    upper: u32,
    weights: vec2f,
    counts: vec2<bool>,
}

// Sample i of `to` along an axis of `extent`: position (i + ½)·extent/to − ½, clamped to the samples, in whole numbers, so
// that the weights of the mirrored sample are these, exchanged.
fn blend(i: u32, extent: u32, to: u32) -> Blend {
    let whole = 2u * to;
    let numerator = min(max((2u * i + 1u) * extent, to) - to, (extent - 1u) * whole);
    let lower = numerator / whole;
    let parts = vec2u(whole - numerator % whole, numerator % whole);
    return Blend(lower, min(lower + 1u, extent - 1u), vec2f(parts) / f32(whole), parts != vec2u(0u));
}

// Terms that count. A product behind a choice is none that a driver could fuse with the addition that follows, of which
// one operand would then be rounded and the other not.
fn counted(samples: vec2f, weights: vec2f, counts: vec2<bool>) -> vec2f {
    return select(vec2f(0.0), samples * weights, counts);
}

@compute @workgroup_size(WORKGROUP)
fn resize(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&resized_y)) {
        return;
    }
    let count = resized.out_height * resized.out_width;
    let row = blend(i % count / resized.out_width, resized.height, resized.out_height);
    let column = blend(i % resized.out_width, resized.width, resized.out_width);
    let start = i / count * resized.height * resized.width;
    let above = start + row.lower * resized.width;
    let below = start + row.upper * resized.width;
    // Each diagonal first: turns and reflections exchange operands of these additions, or the two sums.
    let one = vec2f(x[above + column.lower], x[below + column.upper]);
    let other = vec2f(x[above + column.upper], x[below + column.lower]);
    let falling = counted(one, row.weights * column.weights, row.counts & column.counts);
    let rising = counted(other, row.weights * column.weights.yx, row.counts & column.counts.yx);
    resized_y[i] = (falling.x + falling.y) + (rising.x + rising.y);
}

// Samples of `to` that may read sample `at` of `extent`: the first, and one past the last.
fn readers(at: u32, extent: u32, to: u32) -> vec2u {
    let first = max(2u * at, 1u) - 1u;
    return vec2u(max(first * to / (2u * extent), 1u) - 1u, min((2u * at + 3u) * to / (2u * extent) + 2u, to));
}

fn weight_of(at: u32, sample: Blend) -> f32 {
    return dot(sample.weights, select(vec2f(0.0), vec2f(1.0), vec2u(sample.lower, sample.upper) == vec2u(at)));
}

// x is dy, y is dx.
@compute @workgroup_size(WORKGROUP)
fn resize_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&resized_y)) {
        return;
    }
    let count = resized.height * resized.width;
    let start = i / count * resized.out_height * resized.out_width;
    let y_at = i % count / resized.width;
    let x_at = i % resized.width;
    let rows = readers(y_at, resized.height, resized.out_height);
    let columns = readers(x_at, resized.width, resized.out_width);
    var total = 0.0;
    for (var row = rows.x; row < rows.y; row++) {
        let down = weight_of(y_at, blend(row, resized.height, resized.out_height));
        for (var column = columns.x; column < columns.y; column++) {
            let across = weight_of(x_at, blend(column, resized.width, resized.out_width));
            if (down > 0.0 && across > 0.0) {
                total += down * across * x[start + row * resized.out_width + column];
            }
        }
    }
    resized_y[i] = total;
}

// Twice the distance to the middle of an axis.
fn twice_offset(i: u32, extent: u32) -> u32 {
    return max(2u * i + 1u, extent) - min(2u * i + 1u, extent);
}

// Extents are those of `resized`'s first plane.
@compute @workgroup_size(WORKGROUP)
fn circle_crop(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&resized_y)) {
        return;
    }
    let dy = twice_offset(i / resized.width % resized.height, resized.height);
    let dx = twice_offset(i % resized.width, resized.width);
    let diameter = min(resized.height, resized.width);
    resized_y[i] = select(0.0, x[i], dy * dy + dx * dx <= diameter * diameter);
}
