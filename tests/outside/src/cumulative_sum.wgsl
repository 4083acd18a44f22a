struct Rows {
    length: u32,
    backward: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> rows: Rows;

@compute @workgroup_size(64)
fn cumulative_sum(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) lane: u32) {
    // A launch of many workgroups is folded into y.
    let row = (group.y * groups.x + group.x) * 64u + lane;
    let first = row * rows.length;
    if (first >= arrayLength(&x)) {
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < rows.length; i++) {
        let at = first + select(i, rows.length - 1u - i, rows.backward == 1u);
        sum += x[at];
        y[at] = sum;
    }
}
