// The same sum without workgroups: an invocation makes one vector of one window, reading whatever it needs. For windows that
// reach too far to be staged; and what the tests hold the tiled kernels against.

struct Spot {
    goal: Goal,
    base: vec3i,
    phase: u32,
    // Of result channels: their vector.
    row: u32,
}

// Invocation i, of `vectors` for each window.
fn spot_of(i: u32, vectors: u32) -> Spot {
    let position = i / vectors % conv.positions;
    let phase = i / vectors / conv.positions;
    return Spot(goal_of(position, phase), base_of(window_at(position)), phase, i % vectors);
}

fn end_of(vectors: u32) -> u32 {
    return vectors * conv.positions * SPREAD * SPREAD;
}

@compute @workgroup_size(WORKGROUP)
fn direct_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    let vectors = (conv.c_out + 3u) / 4u;
    if (i >= end_of(vectors)) {
        return;
    }
    let spot = spot_of(i, vectors);
    let origin = origin_of(spot.phase);
    var sum = vec4f(0.0);
    for (var c = 0u; c < conv.c_in; c++) {
        for (var q = 0u; q < tap_count(); q++) {
            let sample = fetch_one(spot.base, origin, tap_at(q), c * channel_len());
            sum = fma(vec4f(sample), filter_c1(4u * spot.row, c, entry_place(q, 0u)), sum);
        }
    }
    store_vector_c1(spot.goal, 4u * spot.row, sum);
}

// The sum of a window, by its base and phase, for result channel `row`.
fn direct_sum_c4(base: vec3i, phase: u32, row: u32) -> vec4f {
    let origin = origin_of(phase);
    var sum = vec4f(0.0);
    for (var c = 0u; c < conv.c_in; c++) {
        for (var q = 0u; q < tap_count(); q++) {
            let f = transform_c4(fetch(turned_samples(base, origin, tap_at(q)), c * channel_len()));
            sum = add_product_c4(sum, f, filter_c4(row, c, entry_places(q, 0u), tap_weight(q, 4u)));
        }
    }
    return sum;
}

fn direct_sum_d4(base: vec3i, phase: u32, row: u32) -> Spectrum {
    let origin = origin_of(phase);
    var sum = Spectrum();
    for (var c = 0u; c < conv.c_in; c++) {
        for (var q = 0u; q < tap_count(); q++) {
            let turned = fetch(turned_samples(base, origin, tap_at(q)), c * channel_len());
            let mirrored = fetch(mirrored_samples(base, origin, tap_at(q)), c * channel_len());
            let w = filter_d4(row, c, entry_places(q, 0u), entry_places(q, 4u), tap_weight(q, 8u));
            sum = add_product_d4(sum, transform_d4(Values(turned, mirrored)), w);
        }
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn direct_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= end_of(conv.c_out)) {
        return;
    }
    let spot = spot_of(i, conv.c_out);
    store_c4(spot.goal, spot.row, direct_sum_c4(spot.base, spot.phase, spot.row));
}

@compute @workgroup_size(WORKGROUP)
fn direct_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= end_of(conv.c_out)) {
        return;
    }
    let spot = spot_of(i, conv.c_out);
    store_d4(spot.goal, spot.row, direct_sum_d4(spot.base, spot.phase, spot.row));
}
