// The binomial weight of a window's sample along one axis: `KERNEL_SIZE` is 3 or 5.
fn binomial(i: u32) -> f32 {
    let quarters = vec3f(0.25, 0.5, 0.0);
    let sixteenths = vec3f(0.0625, 0.25, 0.375);
    return select(quarters, sixteenths, KERNEL_SIZE == 5u)[min(i, KERNEL_SIZE - 1u - i)];
}

@compute @workgroup_size(WORKGROUP)
fn blur_pool(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    enter(i);
    var total = 0.0;
    for (var row = 0u; 2u * row < KERNEL_SIZE; row++) {
        for (var column = row; 2u * column < KERNEL_SIZE; column++) {
            // Samples of one weight are added first: no turn or reflection changes their sum by a bit.
            total = fma(binomial(row) * binomial(column), square_orbit(row, column, KERNEL_SIZE - 1u), total);
        }
    }
    y[i] = total;
}

// x is dy, y is dx.
@compute @workgroup_size(WORKGROUP)
fn blur_pool_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let plane = i / (extents.height * extents.width);
    let at = vec2u(i / extents.width % extents.height, i % extents.width);
    let rows = covering(at.x, extents.out_height);
    let columns = covering(at.y, extents.out_width);
    var total = 0.0;
    for (var row = rows.x; row < rows.y; row++) {
        let down = binomial(at.x + PADDING - row * STRIDE);
        for (var column = columns.x; column < columns.y; column++) {
            let weight = down * binomial(at.y + PADDING - column * STRIDE);
            total = fma(weight, x[(plane * extents.out_height + row) * extents.out_width + column], total);
        }
    }
    y[i] = total;
}
