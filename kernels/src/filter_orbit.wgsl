// [c_out, c_in, g_in, k, k] and its orbit [c_out·order, c_in·g_in, k, k]; g_in is 1 when lifting.
struct Extents {
    c_in: u32,
    g_in: u32,
    order: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> extents: Extents;

// Row (o, g), column (c, h): act_g(weight[o, c, g⁻¹h]).
@compute @workgroup_size(WORKGROUP)
fn filter_orbit(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let k = extents.k;
    let h = i / (k * k) % extents.g_in;
    let c = i / (k * k * extents.g_in) % extents.c_in;
    let row = i / (k * k * extents.g_in * extents.c_in);
    let inverse = group_inverse(row % extents.order);
    let d = select(group_product(inverse, h), 0u, extents.g_in == 1u);
    let tap = move_entry(inverse, vec2u(i / k % k, i % k), vec2u(k, k));
    y[i] = x[(((row / extents.order * extents.c_in + c) * extents.g_in + d) * k + tap.x) * k + tap.y];
}

// x is the orbit's gradient, y the weight's: y[o, c, d, q] = Σ_g x[(o, g), (c, gd), gq].
@compute @workgroup_size(WORKGROUP)
fn filter_orbit_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let k = extents.k;
    let d = i / (k * k) % extents.g_in;
    let c = i / (k * k * extents.g_in) % extents.c_in;
    let o = i / (k * k * extents.g_in * extents.c_in);
    var total = 0.0;
    for (var g = 0u; g < extents.order; g++) {
        let h = select(group_product(g, d), 0u, extents.g_in == 1u);
        let tap = move_entry(g, vec2u(i / k % k, i % k), vec2u(k, k));
        let row = o * extents.order + g;
        total += x[(((row * extents.c_in + c) * extents.g_in + h) * k + tap.x) * k + tap.y];
    }
    y[i] = total;
}
