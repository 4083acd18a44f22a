override KERNEL_SIZE: u32 = 2;
override STRIDE: u32 = 2;
override PADDING: u32 = 0;

// Planes of x and of y.
struct Extents {
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> extents: Extents;

// Where in the plane the window (i, j) starts; wraps around where it starts in the padding.
var<private> window: vec2u;
var<private> plane_start: u32;

fn inside(row: u32, column: u32) -> bool {
    return row < extents.height && column < extents.width;
}

// Enters window `index` of y; its plane and place.
fn enter(index: u32) {
    let plane = index / (extents.out_height * extents.out_width);
    let at = index % (extents.out_height * extents.out_width);
    plane_start = plane * extents.height * extents.width;
    window = vec2u(at / extents.out_width, at % extents.out_width) * STRIDE - PADDING;
}

// Where the window has its first maximum, in row-major order.
fn first_maximum() -> u32 {
    var best = 0u;
    var largest = 0.0;
    var found = false;
    for (var u = 0u; u < KERNEL_SIZE; u++) {
        for (var v = 0u; v < KERNEL_SIZE; v++) {
            let row = window.x + u;
            let column = window.y + v;
            if (inside(row, column)) {
                let at = plane_start + row * extents.width + column;
                let value = x[at];
                if (!found || is_greater(value, largest)) {
                    best = at;
                    largest = value;
                    found = true;
                }
            }
        }
    }
    return best;
}

@compute @workgroup_size(WORKGROUP)
fn max_pool(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        enter(i);
        y[i] = x[first_maximum()];
    }
}

// The windows that cover sample `at` along one axis: the first, and one past the last.
fn covering(at: u32, count: u32) -> vec2u {
    let padded = at + PADDING;
    let first = select(0u, (padded + STRIDE - KERNEL_SIZE) / STRIDE, padded + 1u > KERNEL_SIZE);
    return vec2u(first, min(padded / STRIDE + 1u, count));
}

@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn max_pool_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&dx)) {
        return;
    }
    let plane = i / (extents.height * extents.width);
    let at = i % (extents.height * extents.width);
    let rows = covering(at / extents.width, extents.out_height);
    let columns = covering(at % extents.width, extents.out_width);
    var total = 0.0;
    for (var row = rows.x; row < rows.y; row++) {
        for (var column = columns.x; column < columns.y; column++) {
            let index = (plane * extents.out_height + row) * extents.out_width + column;
            enter(index);
            if (first_maximum() == i) {
                total += dy[index];
            }
        }
    }
    dx[i] = total;
}

// As `max_pool_vjp` where windows do not overlap and nothing is padded: an invocation has the STRIDE × STRIDE samples
// from the start of one window to the next, or what is left of them at the edge.
@compute @workgroup_size(WORKGROUP)
fn max_pool_vjp_apart(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                      @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    let rows = (extents.height + STRIDE - 1u) / STRIDE;
    let columns = (extents.width + STRIDE - 1u) / STRIDE;
    let plane = i / (rows * columns);
    plane_start = plane * extents.height * extents.width;
    if (plane_start >= arrayLength(&dx)) {
        return;
    }
    let at = vec2u(i / columns % rows, i % columns);
    window = at * STRIDE;
    let whole = at.x < extents.out_height && at.y < extents.out_width;
    var best = arrayLength(&dx);
    var gradient = 0.0;
    if (whole) {
        best = first_maximum();
        gradient = dy[(plane * extents.out_height + at.x) * extents.out_width + at.y];
    }
    for (var row = window.x; row < min(window.x + STRIDE, extents.height); row++) {
        for (var column = window.y; column < min(window.y + STRIDE, extents.width); column++) {
            let here = plane_start + row * extents.width + column;
            dx[here] = select(0.0, gradient, here == best);
        }
    }
}

fn sample(row: u32, column: u32) -> f32 {
    let r = window.x + row;
    let s = window.y + column;
    let covered = inside(r, s);
    return select(0.0, x[select(0u, plane_start + r * extents.width + s, covered)], covered);
}

@compute @workgroup_size(WORKGROUP)
fn avg_pool(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        enter(i);
        y[i] = orbit_sum(KERNEL_SIZE, KERNEL_SIZE) / f32(KERNEL_SIZE * KERNEL_SIZE);
    }
}

// x is dy, y is dx.
@compute @workgroup_size(WORKGROUP)
fn avg_pool_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let plane = i / (extents.height * extents.width);
    let at = i % (extents.height * extents.width);
    let rows = covering(at / extents.width, extents.out_height);
    let columns = covering(at % extents.width, extents.out_width);
    var total = 0.0;
    for (var row = rows.x; row < rows.y; row++) {
        for (var column = columns.x; column < columns.y; column++) {
            total += x[(plane * extents.out_height + row) * extents.out_width + column];
        }
    }
    y[i] = total / f32(KERNEL_SIZE * KERNEL_SIZE);
}
