struct Places {
    inner: u32,
    // Extent of the axis that is chosen from, and how many places are chosen.
    extent: u32,
    count: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> places: Places;

@compute @workgroup_size(WORKGROUP)
fn index_select(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        let row = i / places.inner;
        let place = row / places.count * places.extent + indices[row % places.count];
        y[i] = x[place * places.inner + i % places.inner];
    }
}

// x is dy, y is dx.
@compute @workgroup_size(WORKGROUP)
fn index_select_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let row = i / places.inner;
    let start = row / places.extent * places.count;
    var total = 0.0;
    for (var chosen = 0u; chosen < places.count; chosen++) {
        if (indices[chosen] == row % places.extent) {
            total += x[(start + chosen) * places.inner + i % places.inner];
        }
    }
    y[i] = total;
}
