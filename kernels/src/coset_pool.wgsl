// A feature map as [maps, order, positions].
struct Axes {
    order: u32,
    positions: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> axes: Axes;

// Index in x of element 0 at the place of y[i].
fn first_of(i: u32) -> u32 {
    return (i / axes.positions) * axes.order * axes.positions + i % axes.positions;
}

// The first element with the largest value.
fn first_maximum(start: u32) -> u32 {
    var best = start;
    for (var g = 1u; g < axes.order; g++) {
        let at = start + g * axes.positions;
        if (is_greater(x[at], x[best])) {
            best = at;
        }
    }
    return best;
}

@compute @workgroup_size(WORKGROUP)
fn coset_max(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        y[i] = x[first_maximum(first_of(i))];
    }
}

// Four elements, opposite ones first: {h, r²h} are cosets, so a turn exchanges operands at most.
fn coset_sum(start: u32) -> f32 {
    let step = axes.positions;
    return (x[start] + x[start + 2u * step]) + (x[start + step] + x[start + 3u * step]);
}

@compute @workgroup_size(WORKGROUP)
fn coset_mean(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let start = first_of(i);
    if (axes.order == 1u) {
        y[i] = x[start];
    } else if (axes.order == 2u) {
        y[i] = (x[start] + x[start + axes.positions]) * 0.5;
    } else if (axes.order == 4u) {
        y[i] = coset_sum(start) * 0.25;
    } else {
        y[i] = (coset_sum(start) + coset_sum(start + 4u * axes.positions)) * 0.125;
    }
}

// x is dy, y is dx.
@compute @workgroup_size(WORKGROUP)
fn coset_mean_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        let map = i / (axes.order * axes.positions);
        y[i] = x[map * axes.positions + i % axes.positions] / f32(axes.order);
    }
}

@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn coset_max_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&dx)) {
        let map = i / (axes.order * axes.positions);
        let place = map * axes.positions + i % axes.positions;
        dx[i] = select(0.0, dy[place], first_maximum(first_of(place)) == i);
    }
}
