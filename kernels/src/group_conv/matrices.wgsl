// The kernels of tensor_cores.wgsl.
// Sums y of floats, of high·high over a run (m) and of the two others (x), by value of the spectrum. They are single
// variables so that they stay in registers, whatever a compiler thinks of arrays of matrices.

@compute @workgroup_size(THREADS)
fn matrices_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    // As linear_group: of a function, naga does not see that all lanes get the same.
    let index = group.y * groups.x + group.x;
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of_matrices(index);
    let share = share_of(lane);
    find_places(area, false, lane);
    let channels = padded_channels();
    let terms = padded_terms();
    var y0 = Sum();
    var y1 = Sum();
    var y2 = Sum();
    var y3 = Sum();
    var x0 = Sum();
    var x1 = Sum();
    var x2 = Sum();
    var x3 = Sum();
    for (var run = 0u; run < terms; run += RUN) {
        var m0 = Sum();
        var m1 = Sum();
        var m2 = Sum();
        var m3 = Sum();
        for (var first = run; first < min(run + RUN, terms); first += CHUNK) {
            workgroupBarrier();
            lay_down_c4(first, lane);
            workgroupBarrier();
            for (var k = 0u; k < CHUNK; k += SIZE) {
                let at = (first + k) * channels + area.vector * SIZE + share.channel;
                // The first irrep of dimension one.
                let f0 = coopLoad<Left>(&lefts[high_at(0u, k) + share.window], PITCH);
                let w0 = coopLoadT<Right>(&filters[high_filters(0u) + at], channels);
                m0 = coopMultiplyAdd(f0, w0, m0);
                if (SPLIT) {
                    let g0 = coopLoad<Left>(&lefts[low_at(0u, k) + share.window], PITCH);
                    let v0 = coopLoadT<Right>(&filters[low_filters(0u) + at], channels);
                    x0 = coopMultiplyAdd(f0, v0, x0);
                    x0 = coopMultiplyAdd(g0, w0, x0);
                }
                // The second.
                let f1 = coopLoad<Left>(&lefts[high_at(1u, k) + share.window], PITCH);
                let w1 = coopLoadT<Right>(&filters[high_filters(1u) + at], channels);
                m1 = coopMultiplyAdd(f1, w1, m1);
                if (SPLIT) {
                    let g1 = coopLoad<Left>(&lefts[low_at(1u, k) + share.window], PITCH);
                    let v1 = coopLoadT<Right>(&filters[low_filters(1u) + at], channels);
                    x1 = coopMultiplyAdd(f1, v1, x1);
                    x1 = coopMultiplyAdd(g1, w1, x1);
                }
                // The plane's rows [D, E] and [E, -D]: the sign is with the filter.
                let f2 = coopLoad<Left>(&lefts[high_at(2u, k) + share.window], PITCH);
                let f3 = coopLoad<Left>(&lefts[high_at(3u, k) + share.window], PITCH);
                let w2 = coopLoadT<Right>(&filters[high_filters(2u) + at], channels);
                let w3 = coopLoadT<Right>(&filters[high_filters(3u) + at], channels);
                let w4 = coopLoadT<Right>(&filters[high_filters(4u) + at], channels);
                m2 = coopMultiplyAdd(f2, w2, m2);
                m3 = coopMultiplyAdd(f3, w2, m3);
                m2 = coopMultiplyAdd(f3, w3, m2);
                m3 = coopMultiplyAdd(f2, w4, m3);
                if (SPLIT) {
                    let g2 = coopLoad<Left>(&lefts[low_at(2u, k) + share.window], PITCH);
                    let g3 = coopLoad<Left>(&lefts[low_at(3u, k) + share.window], PITCH);
                    let v2 = coopLoadT<Right>(&filters[low_filters(2u) + at], channels);
                    let v3 = coopLoadT<Right>(&filters[low_filters(3u) + at], channels);
                    let v4 = coopLoadT<Right>(&filters[low_filters(4u) + at], channels);
                    x2 = coopMultiplyAdd(f2, v2, x2);
                    x2 = coopMultiplyAdd(g2, w2, x2);
                    x3 = coopMultiplyAdd(f3, v2, x3);
                    x3 = coopMultiplyAdd(g3, w2, x3);
                    x2 = coopMultiplyAdd(f3, v3, x2);
                    x2 = coopMultiplyAdd(g3, w3, x2);
                    x3 = coopMultiplyAdd(f2, v4, x3);
                    x3 = coopMultiplyAdd(g2, w4, x3);
                }
            }
        }
        y0 = y0 + m0;
        y1 = y1 + m1;
        y2 = y2 + m2;
        y3 = y3 + m3;
    }
    if (SPLIT) {
        y0 = y0 + x0 * LOW;
        y1 = y1 + x1 * LOW;
        y2 = y2 + x2 * LOW;
        y3 = y3 + x3 * LOW;
    }
    // The transform back, of whole tiles.
    let even = y0 + y1;
    let odd = y0 - y1;
    let to = share.number * SIZE * SIZE;
    coopStore(even + y2, &results[to], SIZE);
    store_plane(area, share, lane, 0u, false);
    coopStore(odd + y3, &results[to], SIZE);
    store_plane(area, share, lane, 1u, false);
    coopStore(even - y2, &results[to], SIZE);
    store_plane(area, share, lane, 2u, false);
    coopStore(odd - y3, &results[to], SIZE);
    store_plane(area, share, lane, 3u, false);
}

@compute @workgroup_size(THREADS)
fn matrices_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    // As linear_group: of a function, naga does not see that all lanes get the same.
    let index = group.y * groups.x + group.x;
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of_matrices(index);
    let share = share_of(lane);
    find_places(area, true, lane);
    let channels = padded_channels();
    let terms = padded_terms();
    var y0 = Sum();
    var y1 = Sum();
    var y2 = Sum();
    var y3 = Sum();
    var y4 = Sum();
    var y5 = Sum();
    var y6 = Sum();
    var y7 = Sum();
    var x0 = Sum();
    var x1 = Sum();
    var x2 = Sum();
    var x3 = Sum();
    var x4 = Sum();
    var x5 = Sum();
    var x6 = Sum();
    var x7 = Sum();
    for (var run = 0u; run < terms; run += RUN) {
        var m0 = Sum();
        var m1 = Sum();
        var m2 = Sum();
        var m3 = Sum();
        var m4 = Sum();
        var m5 = Sum();
        var m6 = Sum();
        var m7 = Sum();
        for (var first = run; first < min(run + RUN, terms); first += CHUNK) {
            workgroupBarrier();
            lay_down_d4(first, lane);
            workgroupBarrier();
            for (var k = 0u; k < CHUNK; k += SIZE) {
                let at = (first + k) * channels + area.vector * SIZE + share.channel;
                // The first irrep of dimension one.
                let f0 = coopLoad<Left>(&lefts[high_at(0u, k) + share.window], PITCH);
                let w0 = coopLoadT<Right>(&filters[high_filters(0u) + at], channels);
                m0 = coopMultiplyAdd(f0, w0, m0);
                if (SPLIT) {
                    let g0 = coopLoad<Left>(&lefts[low_at(0u, k) + share.window], PITCH);
                    let v0 = coopLoadT<Right>(&filters[low_filters(0u) + at], channels);
                    x0 = coopMultiplyAdd(f0, v0, x0);
                    x0 = coopMultiplyAdd(g0, w0, x0);
                }
                // The second.
                let f1 = coopLoad<Left>(&lefts[high_at(1u, k) + share.window], PITCH);
                let w1 = coopLoadT<Right>(&filters[high_filters(1u) + at], channels);
                m1 = coopMultiplyAdd(f1, w1, m1);
                if (SPLIT) {
                    let g1 = coopLoad<Left>(&lefts[low_at(1u, k) + share.window], PITCH);
                    let v1 = coopLoadT<Right>(&filters[low_filters(1u) + at], channels);
                    x1 = coopMultiplyAdd(f1, v1, x1);
                    x1 = coopMultiplyAdd(g1, w1, x1);
                }
                // The third.
                let f2 = coopLoad<Left>(&lefts[high_at(2u, k) + share.window], PITCH);
                let w2 = coopLoadT<Right>(&filters[high_filters(2u) + at], channels);
                m2 = coopMultiplyAdd(f2, w2, m2);
                if (SPLIT) {
                    let g2 = coopLoad<Left>(&lefts[low_at(2u, k) + share.window], PITCH);
                    let v2 = coopLoadT<Right>(&filters[low_filters(2u) + at], channels);
                    x2 = coopMultiplyAdd(f2, v2, x2);
                    x2 = coopMultiplyAdd(g2, w2, x2);
                }
                // The fourth.
                let f3 = coopLoad<Left>(&lefts[high_at(3u, k) + share.window], PITCH);
                let w3 = coopLoadT<Right>(&filters[high_filters(3u) + at], channels);
                m3 = coopMultiplyAdd(f3, w3, m3);
                if (SPLIT) {
                    let g3 = coopLoad<Left>(&lefts[low_at(3u, k) + share.window], PITCH);
                    let v3 = coopLoadT<Right>(&filters[low_filters(3u) + at], channels);
                    x3 = coopMultiplyAdd(f3, v3, x3);
                    x3 = coopMultiplyAdd(g3, w3, x3);
                }
                // The rows of the irrep of dimension two, each with both columns of the filter.
                let f4 = coopLoad<Left>(&lefts[high_at(4u, k) + share.window], PITCH);
                let f5 = coopLoad<Left>(&lefts[high_at(5u, k) + share.window], PITCH);
                let f6 = coopLoad<Left>(&lefts[high_at(6u, k) + share.window], PITCH);
                let f7 = coopLoad<Left>(&lefts[high_at(7u, k) + share.window], PITCH);
                let w4 = coopLoadT<Right>(&filters[high_filters(4u) + at], channels);
                let w5 = coopLoadT<Right>(&filters[high_filters(5u) + at], channels);
                let w6 = coopLoadT<Right>(&filters[high_filters(6u) + at], channels);
                let w7 = coopLoadT<Right>(&filters[high_filters(7u) + at], channels);
                m4 = coopMultiplyAdd(f4, w4, m4);
                m4 = coopMultiplyAdd(f5, w6, m4);
                m5 = coopMultiplyAdd(f4, w5, m5);
                m5 = coopMultiplyAdd(f5, w7, m5);
                m6 = coopMultiplyAdd(f6, w4, m6);
                m6 = coopMultiplyAdd(f7, w6, m6);
                m7 = coopMultiplyAdd(f6, w5, m7);
                m7 = coopMultiplyAdd(f7, w7, m7);
                if (SPLIT) {
                    let g4 = coopLoad<Left>(&lefts[low_at(4u, k) + share.window], PITCH);
                    let g5 = coopLoad<Left>(&lefts[low_at(5u, k) + share.window], PITCH);
                    let g6 = coopLoad<Left>(&lefts[low_at(6u, k) + share.window], PITCH);
                    let g7 = coopLoad<Left>(&lefts[low_at(7u, k) + share.window], PITCH);
                    let v4 = coopLoadT<Right>(&filters[low_filters(4u) + at], channels);
                    let v5 = coopLoadT<Right>(&filters[low_filters(5u) + at], channels);
                    let v6 = coopLoadT<Right>(&filters[low_filters(6u) + at], channels);
                    let v7 = coopLoadT<Right>(&filters[low_filters(7u) + at], channels);
                    x4 = coopMultiplyAdd(f4, v4, x4);
                    x4 = coopMultiplyAdd(g4, w4, x4);
                    x4 = coopMultiplyAdd(f5, v6, x4);
                    x4 = coopMultiplyAdd(g5, w6, x4);
                    x5 = coopMultiplyAdd(f4, v5, x5);
                    x5 = coopMultiplyAdd(g4, w5, x5);
                    x5 = coopMultiplyAdd(f5, v7, x5);
                    x5 = coopMultiplyAdd(g5, w7, x5);
                    x6 = coopMultiplyAdd(f6, v4, x6);
                    x6 = coopMultiplyAdd(g6, w4, x6);
                    x6 = coopMultiplyAdd(f7, v6, x6);
                    x6 = coopMultiplyAdd(g7, w6, x6);
                    x7 = coopMultiplyAdd(f6, v5, x7);
                    x7 = coopMultiplyAdd(g6, w5, x7);
                    x7 = coopMultiplyAdd(f7, v7, x7);
                    x7 = coopMultiplyAdd(g7, w7, x7);
                }
            }
        }
        y0 = y0 + m0;
        y1 = y1 + m1;
        y2 = y2 + m2;
        y3 = y3 + m3;
        y4 = y4 + m4;
        y5 = y5 + m5;
        y6 = y6 + m6;
        y7 = y7 + m7;
    }
    if (SPLIT) {
        y0 = y0 + x0 * LOW;
        y1 = y1 + x1 * LOW;
        y2 = y2 + x2 * LOW;
        y3 = y3 + x3 * LOW;
        y4 = y4 + x4 * LOW;
        y5 = y5 + x5 * LOW;
        y6 = y6 + x6 * LOW;
        y7 = y7 + x7 * LOW;
    }
    // The transform back, of whole tiles.
    let p0 = y0 + y1;
    let p1 = y0 - y1;
    let q0 = y2 + y3;
    let q1 = y2 - y3;
    let u0 = y4 + y7;
    let u1 = y4 - y7;
    let v0 = y6 - y5;
    let v1 = y6 + y5;
    let to = share.number * SIZE * SIZE;
    coopStore((p0 + q0) + u0, &results[to], SIZE);
    store_plane(area, share, lane, 0u, true);
    coopStore((p0 - q0) + v0, &results[to], SIZE);
    store_plane(area, share, lane, 1u, true);
    coopStore((p0 + q0) - u0, &results[to], SIZE);
    store_plane(area, share, lane, 2u, true);
    coopStore((p0 - q0) - v0, &results[to], SIZE);
    store_plane(area, share, lane, 3u, true);
    coopStore((p1 + q1) + u1, &results[to], SIZE);
    store_plane(area, share, lane, 4u, true);
    coopStore((p1 - q1) - v1, &results[to], SIZE);
    store_plane(area, share, lane, 5u, true);
    coopStore((p1 + q1) - u1, &results[to], SIZE);
    store_plane(area, share, lane, 6u, true);
    coopStore((p1 - q1) + v1, &results[to], SIZE);
    store_plane(area, share, lane, 7u, true);
}
