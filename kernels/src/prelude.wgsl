// What every shader starts with: where an invocation stands, random bits, and the group of the square.

// Invocations of a workgroup, where a kernel does not say otherwise.
const WORKGROUP: u32 = 64u;

// The workgroup's place in a launch, which may have been folded into y.
fn linear_group(group: vec3u, groups: vec3u) -> u32 {
    return group.y * groups.x + group.x;
}

// The invocation's place in a launch of workgroups of WORKGROUP.
fn linear_index(group: vec3u, groups: vec3u, lane: u32) -> u32 {
    return linear_group(group, groups) * WORKGROUP + lane;
}

var<workgroup> lane_values: array<f32, WORKGROUP>;

// Σ of the values of a workgroup's WORKGROUP invocations, pairwise in a fixed order; only the first gets it.
fn sum_of_lanes(value: f32, lane: u32) -> f32 {
    lane_values[lane] = value;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lane_values[lane] += lane_values[lane + half];
        }
    }
    return lane_values[0];
}

// A driver may assume that no value is NaN and take comparisons accordingly; what looks at bits is out of its reach.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// Whether v takes the place of the maximum so far: it is greater, or the first NaN.
fn is_greater(v: f32, largest: f32) -> bool {
    return (v > largest || is_nan(v)) && !is_nan(largest);
}

// max(x, 0), or NaN; −0 stays. The numbers below 0 have the bits 0x80000001 to 0xff800000.
fn positive_part(x: f32) -> f32 {
    return select(x, 0.0, bitcast<u32>(x) - 0x80000001u < 0x7f800000u);
}

// Whether a gradient passes the ReLU whose result is y: it is positive, or NaN.
fn passes(y: f32) -> bool {
    return y > 0.0 || is_nan(y);
}

// The 64-bit product a·b as (high, low) words.
fn wide_product(a: u32, b: u32) -> vec2u {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let middle = a1 * b0 + ((a0 * b0) >> 16u);
    let carry = (middle & 0xffffu) + a0 * b1;
    return vec2u(a1 * b1 + (middle >> 16u) + (carry >> 16u), a * b);
}

// Four random words: ten rounds of Philox4x32, the same bits as the host's `philox`.
fn philox(first_counter: vec4u, first_key: vec2u) -> vec4u {
    var counter = first_counter;
    var key = first_key;
    for (var round = 0u; round < 10u; round++) {
        let a = wide_product(0xd2511f53u, counter.x);
        let b = wide_product(0xcd9e8d57u, counter.z);
        counter = vec4u(b.x ^ counter.y ^ key.x, b.y, a.x ^ counter.w ^ key.y, a.y);
        key += vec2u(0x9e3779b9u, 0xbb67ae85u);
    }
    return counter;
}

// Group element 4m + r: r quarter turns counter-clockwise, then, if m = 1, a flip from top to bottom.
fn group_product(g: u32, h: u32) -> u32 {
    let turn = select(h + 4u - (g & 3u), g + h, h < 4u) & 3u;
    return ((g ^ h) & 4u) | turn;
}

fn group_inverse(g: u32) -> u32 {
    return select(4u - g, g, g == 0u || g >= 4u);
}

// Where element g moves the entry at (row, column) `from` of an array of `extents` rows and columns.
fn move_entry(g: u32, from_entry: vec2u, extents: vec2u) -> vec2u {
    let last = extents - 1u;
    var to = from_entry;
    var rows = last.x;
    switch g & 3u {
        case 1u: { to = vec2u(last.y - from_entry.y, from_entry.x); rows = last.y; }
        case 2u: { to = last - from_entry; }
        case 3u: { to = vec2u(from_entry.y, last.x - from_entry.x); rows = last.y; }
        default: {}
    }
    return vec2u(select(to.x, rows - to.x, g >= 4u), to.y);
}

