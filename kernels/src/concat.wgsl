// Elements of an outer index in one operand and in the whole, and where the operand begins there.
struct Part {
    len: u32,
    whole: u32,
    start: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> part: Part;

// Puts one operand in its places.
@compute @workgroup_size(WORKGROUP)
fn concat(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&x)) {
        y[i / part.len * part.whole + part.start + i % part.len] = x[i];
    }
}
