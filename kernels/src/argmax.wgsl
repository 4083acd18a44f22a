struct Columns {
    extent: u32,
    // How far a step along the axis goes.
    inner: u32,
    nan: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> columns: Columns;

@compute @workgroup_size(WORKGROUP)
fn argmax(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let start = i / columns.inner * columns.extent * columns.inner + i % columns.inner;
    var best = 0u;
    var largest = x[start];
    for (var k = 1u; k < columns.extent; k++) {
        let v = x[start + k * columns.inner];
        let is_new = is_greater(v, largest);
        best = select(best, k, is_new);
        largest = select(largest, v, is_new);
    }
    y[i] = select(f32(best), columns.nan, is_nan(largest));
}
