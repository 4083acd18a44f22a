// Depthwise convolution: an invocation makes one result, a workgroup one entry of the weight's gradient.
//
// The order of a sum is that of the filter's taps before it is turned, so that a turned source makes the same sums.

override K: u32 = 3;
// Distance of the windows, of a window's taps, and of the source's samples, with zeros between them, in dx.
override STRIDE: u32 = 1;
override DILATION: u32 = 1;
override SPREAD: u32 = 1;
override ADJOINT: bool = false;

struct Sizes {
    channels: u32,
    // Planes of a channel of the source (1 when lifting) and of the result.
    planes: u32,
    order: u32,
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    // Where the source's first sample lies in the padded plane.
    lead: i32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
// The weight, or, for its gradient, dy.
@group(0) @binding(1) var<storage, read> other: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> sizes: Sizes;

// A place of the result.
struct Place {
    row: u32,
    column: u32,
    element: u32,
    // Channels of all images are counted on.
    channel: u32,
}

fn place_of(i: u32) -> Place {
    let plane = i / sizes.out_width / sizes.out_height;
    return Place(i / sizes.out_width % sizes.out_height, i % sizes.out_width, plane % sizes.order, plane / sizes.order);
}

// The sample that tap q of the filter meets, turned by the place's element; 0 outside and between samples.
fn sample(place: Place, q: u32) -> f32 {
    let moved = move_entry(place.element, vec2u(q / K, q % K), vec2u(K));
    let tap = select(moved, vec2u(K - 1u) - moved, ADJOINT);
    let at = vec2i(vec2u(place.row, place.column) * STRIDE + tap * DILATION) - sizes.lead;
    let met = vec2u(at) / SPREAD;
    let inside = all(at >= vec2i(0)) && all(met * SPREAD == vec2u(at)) && all(met < vec2u(sizes.height, sizes.width));
    let plane = place.channel * sizes.planes + select(place.element, 0u, sizes.planes == 1u);
    let index = (plane * sizes.height + met.x) * sizes.width + met.y;
    return select(0.0, x[select(0u, index, inside)], inside);
}

@compute @workgroup_size(WORKGROUP)
fn depthwise_conv(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let place = place_of(i);
    let filter_start = place.channel % sizes.channels * K * K;
    var sum = 0.0;
    for (var q = 0u; q < K * K; q++) {
        sum = fma(other[filter_start + q], sample(place, q), sum);
    }
    y[i] = sum;
}

@compute @workgroup_size(WORKGROUP)
fn depthwise_conv_dw(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                     @builtin(local_invocation_index) lane: u32) {
    let entry = linear_group(group, groups);
    if (entry >= arrayLength(&y)) {
        return;
    }
    let channel_len = sizes.order * sizes.out_height * sizes.out_width;
    let images = arrayLength(&other) / (sizes.channels * channel_len);
    var sum = 0.0;
    for (var i = lane; i < images * channel_len; i += WORKGROUP) {
        let channel = i / channel_len * sizes.channels + entry / (K * K);
        let index = channel * channel_len + i % channel_len;
        sum = fma(other[index], sample(place_of(index), entry % (K * K)), sum);
    }
    let total = sum_of_lanes(sum, lane);
    if (lane == 0u) {
        y[entry] = total;
    }
}
