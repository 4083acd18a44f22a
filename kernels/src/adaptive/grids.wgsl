// Which of the four grids of its maps an image is sampled on, and the samples; see `adaptive.rs`.

// Bits of a float without its sign: as integers magnitudes have their order, NaN above infinity.
const MAGNITUDE: u32 = 0x7fffffffu;
const INFINITY: u32 = 0x7f800000u;
const NAN: u32 = 0x7fc00000u;

// The map is what windows of this extent make with stride 1.
override WINDOW: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<f32>;

// ---- Scores ----

struct Scores {
    // Extents of a plane of x, and of the map.
    height: u32,
    width: u32,
    map_height: u32,
    map_width: u32,
    // Where in the plane the map's first window begins.
    inset: i32,
    // Planes of an image, and all there are.
    planes: u32,
    all_planes: u32,
    // A term is at most 2 to the `bits`; a plane's sum loses `spare` bits.
    bits: u32,
    spare: u32,
}

@group(1) @binding(0) var<uniform> scores: Scores;

// Bits of the greatest sample of a window, NaN above all; 0 where it covers none.
fn map_value(plane: u32, row: u32, column: u32) -> u32 {
    var greatest = 0u;
    var found = false;
    for (var u = 0u; u < WINDOW; u++) {
        for (var v = 0u; v < WINDOW; v++) {
            let r = u32(i32(row + u) + scores.inset);
            let c = u32(i32(column + v) + scores.inset);
            if (r < scores.height && c < scores.width) {
                let value = x[(plane * scores.height + r) * scores.width + c];
                let bits = bitcast<u32>(value);
                let is_nan = (greatest & MAGNITUDE) > INFINITY;
                if (!found || (!is_nan && ((bits & MAGNITUDE) > INFINITY || value > bitcast<f32>(greatest)))) {
                    greatest = bits;
                    found = true;
                }
            }
        }
    }
    return greatest;
}

// The exponent of a magnitude, kept where squares and scales are normal numbers.
fn exponent_of(magnitude: u32) -> u32 {
    return clamp(magnitude >> 23u, 24u, 252u);
}

var<workgroup> lane_bits: array<u32, WORKGROUP>;
var<workgroup> lane_sums: array<vec4u, WORKGROUP>;

// The largest of a workgroup's numbers, for all of it.
fn largest_of_lanes(value: u32, lane: u32) -> u32 {
    lane_bits[lane] = value;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lane_bits[lane] = max(lane_bits[lane], lane_bits[lane + half]);
        }
    }
    workgroupBarrier();
    return lane_bits[0];
}

// The sum of a workgroup's vectors; only the first invocation gets it.
fn total_of_lanes(value: vec4u, lane: u32) -> vec4u {
    lane_sums[lane] = value;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lane_sums[lane] += lane_sums[lane + half];
        }
    }
    return lane_sums[0];
}

@group(0) @binding(1) var<storage, read_write> plane_scores: array<u32>;

// A workgroup a plane: its largest magnitude, and the sums of the grids' squares in integers, whose order does not matter.
@compute @workgroup_size(WORKGROUP)
fn grid_scores(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let plane = linear_group(group, groups);
    if (plane >= scores.all_planes) {
        return;
    }
    let count = scores.map_height * scores.map_width;
    var most = 0u;
    for (var i = lane; i < count; i += WORKGROUP) {
        most = max(most, map_value(plane, i / scores.map_width, i % scores.map_width) & MAGNITUDE);
    }
    let largest = largest_of_lanes(most, lane);
    let scale = bitcast<f32>((253u - exponent_of(largest) + scores.bits / 2u) << 23u);
    let limit = f32(1u << scores.bits);
    var sums = vec4u(0u);
    for (var i = lane; i < count; i += WORKGROUP) {
        let row = i / scores.map_width;
        let column = i % scores.map_width;
        let root = bitcast<f32>(map_value(plane, row, column)) * scale;
        let term = u32(round(min(root * root, limit)));
        let grid = 2u * (row & 1u) + (column & 1u);
        sums += select(vec4u(0u), vec4u(term), vec4u(grid) == vec4u(0u, 1u, 2u, 3u));
    }
    let total = total_of_lanes(sums, lane);
    if (lane == 0u) {
        plane_scores[5u * plane] = largest;
        plane_scores[5u * plane + 1u] = total.x;
        plane_scores[5u * plane + 2u] = total.y;
        plane_scores[5u * plane + 3u] = total.z;
        plane_scores[5u * plane + 4u] = total.w;
    }
}

@group(0) @binding(0) var<storage, read> all_scores: array<u32>;
@group(0) @binding(1) var<storage, read_write> chosen: array<u32>;

// A workgroup an image.
@compute @workgroup_size(WORKGROUP)
fn grid_weights(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let image = linear_group(group, groups);
    if (image >= scores.all_planes / scores.planes) {
        return;
    }
    let first = image * scores.planes;
    var most = 0u;
    for (var i = lane; i < scores.planes; i += WORKGROUP) {
        most = max(most, all_scores[5u * (first + i)]);
    }
    let largest = largest_of_lanes(most, lane);
    var sums = vec4u(0u);
    for (var i = lane; i < scores.planes; i += WORKGROUP) {
        let at = 5u * (first + i);
        let shift = 2u * (exponent_of(largest) - exponent_of(all_scores[at])) + scores.spare;
        let sum = vec4u(all_scores[at + 1u], all_scores[at + 2u], all_scores[at + 3u], all_scores[at + 4u]);
        sums += select(vec4u(0u), sum >> vec4u(min(shift, 31u)), vec4<bool>(shift < 32u));
    }
    let total = total_of_lanes(sums, lane);
    if (lane == 0u) {
        let even = vec2<bool>((scores.map_height & 1u) == 0u, (scores.map_width & 1u) == 0u);
        let exists = vec4<bool>(true, even.y, even.x, even.x && even.y);
        let found = select(vec4u(0u), total, exists);
        let best = max(max(found.x, found.y), max(found.z, found.w));
        let ties = exists & (total == vec4u(best));
        let count = dot(select(vec4f(0.0), vec4f(1.0), ties), vec4f(1.0));
        let weights = select(vec4f(0.0), vec4f(1.0 / count), ties);
        let bits = select(bitcast<vec4u>(weights), vec4u(NAN), vec4<bool>(largest > INFINITY));
        chosen[4u * image] = bits.x;
        chosen[4u * image + 1u] = bits.y;
        chosen[4u * image + 2u] = bits.z;
        chosen[4u * image + 3u] = bits.w;
    }
}

// ---- Samples ----

struct Sampling {
    // Extents of the planes of the map, and of what is sampled.
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    // Planes of an image.
    planes: u32,
    // y[r, c] = Σ w[a, b] x[step·r + a − lead, step·c + b − lead]
    step: u32,
    lead: u32,
}

@group(0) @binding(1) var<storage, read> weights: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> sampling: Sampling;

// Of grid 2a + b, whose weight is not NaN, the sample of y at (row, column), or 0.
fn sample_of(image: u32, grid: u32, plane: u32, row: u32, column: u32) -> f32 {
    let r = sampling.step * row + (grid >> 1u) - sampling.lead;
    let c = sampling.step * column + (grid & 1u) - sampling.lead;
    let counts = weights[4u * image + grid] != 0u && r < sampling.height && c < sampling.width;
    let at = (plane * sampling.height + r) * sampling.width + c;
    return select(0.0, x[select(0u, at, counts)], counts);
}

// The weight of the grids that are chosen: they all have the same.
fn weight_of(image: u32) -> f32 {
    let first = max(weights[4u * image], weights[4u * image + 1u]);
    return bitcast<f32>(max(first, max(weights[4u * image + 2u], weights[4u * image + 3u])));
}

@compute @workgroup_size(WORKGROUP)
fn grid_gather(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let count = sampling.out_height * sampling.out_width;
    let plane = i / count;
    let row = i % count / sampling.out_width;
    let column = i % sampling.out_width;
    let image = plane / sampling.planes;
    // Opposite grids are added first.
    let opposite = sample_of(image, 0u, plane, row, column) + sample_of(image, 3u, plane, row, column);
    let other = sample_of(image, 1u, plane, row, column) + sample_of(image, 2u, plane, row, column);
    y[i] = (opposite + other) * weight_of(image);
}

// What the sample (row, column) of a plane of the map gets from grid 2a + b: x is y, y is x.
fn spread_of(image: u32, grid: u32, plane: u32, row: u32, column: u32) -> f32 {
    let r = row + sampling.lead - (grid >> 1u);
    let c = column + sampling.lead - (grid & 1u);
    let at = vec2u(r, c) / sampling.step;
    let met = r % sampling.step == 0u && c % sampling.step == 0u;
    let inside = met && r <= row + sampling.lead && c <= column + sampling.lead;
    let counts = inside && weights[4u * image + grid] != 0u && at.x < sampling.out_height && at.y < sampling.out_width;
    let source = (plane * sampling.out_height + at.x) * sampling.out_width + at.y;
    return select(0.0, x[select(0u, source, counts)], counts);
}

@compute @workgroup_size(WORKGROUP)
fn grid_spread(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let count = sampling.height * sampling.width;
    let plane = i / count;
    let row = i % count / sampling.width;
    let column = i % sampling.width;
    let image = plane / sampling.planes;
    let opposite = spread_of(image, 0u, plane, row, column) + spread_of(image, 3u, plane, row, column);
    let other = spread_of(image, 1u, plane, row, column) + spread_of(image, 2u, plane, row, column);
    y[i] = (opposite + other) * weight_of(image);
}

// ---- Pooling ----

// Of grid 2a + b the maximum of the window of y at (row, column), or 0: `lead` is the padding.
fn maximum_of(image: u32, grid: u32, plane: u32, row: u32, column: u32) -> f32 {
    if (weights[4u * image + grid] == 0u) {
        return 0.0;
    }
    var greatest = 0.0;
    var found = false;
    for (var u = 0u; u < WINDOW; u++) {
        for (var v = 0u; v < WINDOW; v++) {
            let r = 2u * row + (grid >> 1u) + u - sampling.lead;
            let c = 2u * column + (grid & 1u) + v - sampling.lead;
            if (r < sampling.height && c < sampling.width) {
                let value = x[(plane * sampling.height + r) * sampling.width + c];
                greatest = select(greatest, value, !found || value > greatest);
                found = true;
            }
        }
    }
    return greatest;
}

@compute @workgroup_size(WORKGROUP)
fn grid_max(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let count = sampling.out_height * sampling.out_width;
    let plane = i / count;
    let row = i % count / sampling.out_width;
    let column = i % sampling.out_width;
    let image = plane / sampling.planes;
    let opposite = maximum_of(image, 0u, plane, row, column) + maximum_of(image, 3u, plane, row, column);
    let other = maximum_of(image, 1u, plane, row, column) + maximum_of(image, 2u, plane, row, column);
    y[i] = (opposite + other) * weight_of(image);
}
