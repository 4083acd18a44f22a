struct Columns {
    extent: u32,
    // How far a step along the axis goes.
    inner: u32,
    nan: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> columns: Columns;

// Softmax, log-softmax, or the logarithm of the sum of exponentials.
override KIND: u32 = 0u;

// Nothing is left of less than this, nor need `exp` know −∞.
const LEAST: f32 = -104.0;

// An invocation for each column.
@compute @workgroup_size(WORKGROUP)
fn softmax(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let column = linear_index(group, groups, lane);
    let start = column / columns.inner * columns.extent * columns.inner + column % columns.inner;
    if (start >= arrayLength(&x)) {
        return;
    }
    let end = start + columns.extent * columns.inner;
    var largest = x[start];
    for (var at = start; at < end; at += columns.inner) {
        largest = select(largest, x[at], is_greater(x[at], largest));
    }
    let is_finite = (bitcast<u32>(largest) & 0x7f800000u) != 0x7f800000u;
    var total = 0.0;
    for (var at = start; at < end; at += columns.inner) {
        total += exp(max(x[at] - largest, LEAST));
    }
    if (KIND == 2u) {
        y[column] = select(largest, largest + log(total), is_finite);
        return;
    }
    for (var at = start; at < end; at += columns.inner) {
        let shifted = x[at] - largest;
        let value = select(shifted - log(total), exp(max(shifted, LEAST)) / total, KIND == 0u);
        y[at] = select(columns.nan, value, is_finite);
    }
}
