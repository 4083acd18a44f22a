// Tiles of TILE × TILE results; each invocation makes one.
const TILE: u32 = 16u;

override TRANSPOSE_A: bool = false;
override TRANSPOSE_B: bool = false;

struct Extents {
    m: u32,
    k: u32,
    n: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> extents: Extents;

var<workgroup> a_tile: array<array<f32, TILE>, TILE>;
var<workgroup> b_tile: array<array<f32, TILE>, TILE>;

fn a_at(i: u32, l: u32) -> f32 {
    let inside = i < extents.m && l < extents.k;
    return select(0.0, a[select(i * extents.k + l, l * extents.m + i, TRANSPOSE_A)], inside);
}

fn b_at(l: u32, j: u32) -> f32 {
    let inside = l < extents.k && j < extents.n;
    return select(0.0, b[select(l * extents.n + j, j * extents.k + l, TRANSPOSE_B)], inside);
}

// Row and column of the result that an invocation makes.
fn place(group: u32, lane: u32) -> vec2u {
    let columns = (extents.n + TILE - 1u) / TILE;
    return vec2u(group / columns, group % columns) * TILE + vec2u(lane / TILE, lane % TILE);
}

// Σ_l a[i, l] b[l, j] in the order of l.
fn product(at: vec2u, lane: u32) -> f32 {
    let r = lane / TILE;
    let s = lane % TILE;
    var total = 0.0;
    for (var l = 0u; l < extents.k; l += TILE) {
        a_tile[r][s] = a_at(at.x, l + s);
        b_tile[r][s] = b_at(l + r, at.y);
        workgroupBarrier();
        for (var t = 0u; t < TILE; t++) {
            total += a_tile[r][t] * b_tile[t][s];
        }
        workgroupBarrier();
    }
    return total;
}

@compute @workgroup_size(256)
fn matmul(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let at = place(linear_group(group, groups), lane);
    let total = product(at, lane);
    if (at.x < extents.m && at.y < extents.n) {
        y[at.x * extents.n + at.y] = total;
    }
}

@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> biased: array<f32>;

// a is x, b is the weight (TRANSPOSE_B).
@compute @workgroup_size(256)
fn linear(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let at = place(linear_group(group, groups), lane);
    let total = product(at, lane);
    if (at.x < extents.m && at.y < extents.n) {
        biased[at.x * extents.n + at.y] = total + bias[at.y];
    }
}

@group(0) @binding(1) var<storage, read_write> column_sums: array<f32>;

// y[o] = Σ_n x[n, o]; `extents` has m rows and n columns. A workgroup has a column: its lanes sum a stride apart, then
// pairwise.
@compute @workgroup_size(WORKGROUP)
fn sum_rows(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let column = linear_group(group, groups);
    if (column >= extents.n) {
        return;
    }
    var total = 0.0;
    for (var row = lane; row < extents.m; row += WORKGROUP) {
        total += a[row * extents.n + column];
    }
    let sum = sum_of_lanes(total, lane);
    if (lane == 0u) {
        column_sums[column] = sum;
    }
}
