struct Rule {
    key: vec2u,
    stream: u32,
    epoch: u32,
    // 16-bit draws below this are dropped.
    threshold: u32,
    factor: f32,
    // Elements of a map, where whole maps are dropped.
    map_len: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> rule: Rule;

// One random block has the draws of eight elements: the low half of its first word is the first.
@compute @workgroup_size(WORKGROUP)
fn dropout(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let block = linear_index(group, groups, lane);
    let end = min(8u * block + 8u, arrayLength(&y));
    let words = philox(vec4u(block, 0u, rule.stream, rule.epoch), rule.key);
    for (var i = 8u * block; i < end; i++) {
        let draw = (words[(i >> 1u) & 3u] >> (16u * (i & 1u))) & 0xffffu;
        y[i] = select(0.0, x[i] * rule.factor, draw >= rule.threshold);
    }
}

@compute @workgroup_size(WORKGROUP)
fn dropout_maps(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let map = i / rule.map_len;
    let words = philox(vec4u(map / 8u, 0u, rule.stream, rule.epoch), rule.key);
    let draw = (words[(map >> 1u) & 3u] >> (16u * (map & 1u))) & 0xffffu;
    y[i] = select(0.0, x[i] * rule.factor, draw >= rule.threshold);
}
