// An axis between outer and inner ones.
struct Padded {
    inner: u32,
    // Extents of x and y along the axis.
    x_extent: u32,
    y_extent: u32,
    // Places before x in y; for `narrow`, before y in x.
    before: u32,
    // Zeros, reflection, circular.
    padding: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> padded: Padded;

// The place of x that stands at place o of y.
fn source(o: u32) -> u32 {
    let end = padded.before + padded.x_extent;
    if (o < padded.before) {
        return select(padded.before - o, o + padded.x_extent - padded.before, padded.padding == 2u);
    }
    if (o >= end) {
        return select(end + padded.x_extent - 2u - o, o - end, padded.padding == 2u);
    }
    return o - padded.before;
}

@compute @workgroup_size(WORKGROUP)
fn pad(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
       @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let row = i / padded.inner;
    let o = row % padded.y_extent;
    if (padded.padding == 0u && (o < padded.before || o >= padded.before + padded.x_extent)) {
        y[i] = 0.0;
    } else {
        y[i] = x[(row / padded.y_extent * padded.x_extent + source(o)) * padded.inner + i % padded.inner];
    }
}

// x is dy, y is dx; the extents are those of the operation itself. Never of zeros, whose gradient is `narrow`.
@compute @workgroup_size(WORKGROUP)
fn pad_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let row = i / padded.inner;
    let place = row % padded.x_extent;
    let start = row / padded.x_extent * padded.y_extent;
    var total = x[(start + padded.before + place) * padded.inner + i % padded.inner];
    for (var o = 0u; o < padded.before; o++) {
        if (source(o) == place) {
            total += x[(start + o) * padded.inner + i % padded.inner];
        }
    }
    for (var o = padded.before + padded.x_extent; o < padded.y_extent; o++) {
        if (source(o) == place) {
            total += x[(start + o) * padded.inner + i % padded.inner];
        }
    }
    y[i] = total;
}

@compute @workgroup_size(WORKGROUP)
fn narrow(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        let row = i / padded.inner;
        let place = row / padded.y_extent * padded.x_extent + padded.before + row % padded.y_extent;
        y[i] = x[place * padded.inner + i % padded.inner];
    }
}
