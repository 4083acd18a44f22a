// y = T_g x on [maps, order, height, width], extents of y; order 1 moves planes alone.
struct Motion {
    g: u32,
    order: u32,
    height: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> motion: Motion;

@compute @workgroup_size(WORKGROUP)
fn transform(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let count = motion.height * motion.width;
    let at = i % count;
    let plane = i / count;
    let inverse = group_inverse(motion.g);
    let source = move_entry(inverse, vec2u(at / motion.width, at % motion.width), vec2u(motion.height, motion.width));
    let element = select(group_product(inverse, plane % motion.order), 0u, motion.order == 1u);
    let width = select(motion.height, motion.width, (motion.g & 1u) == 0u);
    y[i] = x[(plane / motion.order * motion.order + element) * count + source.x * width + source.y];
}
