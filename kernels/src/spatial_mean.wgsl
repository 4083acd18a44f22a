struct Extents {
    height: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> extents: Extents;

var<private> plane_start: u32;

fn sample(row: u32, column: u32) -> f32 {
    return x[plane_start + row * extents.width + column];
}

@compute @workgroup_size(WORKGROUP)
fn spatial_mean(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let plane = linear_index(group, groups, lane);
    if (plane >= arrayLength(&y)) {
        return;
    }
    let count = extents.height * extents.width;
    plane_start = plane * count;
    y[plane] = orbit_sum(extents.height, extents.width) / f32(count);
}

// x is dy, y is dx.
@compute @workgroup_size(WORKGROUP)
fn spatial_mean_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    let count = extents.height * extents.width;
    if (i < arrayLength(&y)) {
        y[i] = x[i / count] / f32(count);
    }
}
