// The kernels of gradient_halves.wgsl. Sums are named as in matrices.wgsl: y of floats, m of high·high over a run, x of the
// two others.

@compute @workgroup_size(THREADS)
fn gradient_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    // As linear_group: of a function, naga does not see that all lanes get the same.
    let index = group.y * groups.x + group.x;
    if (index >= conv.workgroups) {
        return;
    }
    let sweep = sweep_of(index);
    let tile = tile_of(lane);
    find_exponents(sweep, lane);
    var y0 = Sum();
    var y1 = Sum();
    var y2 = Sum();
    var y3 = Sum();
    var x0 = Sum();
    var x1 = Sum();
    var x2 = Sum();
    var x3 = Sum();
    for (var run = 0u; run < conv.chunk; run += RUN) {
        find_windows(sweep, run, 4u, lane);
        var m0 = Sum();
        var m1 = Sum();
        var m2 = Sum();
        var m3 = Sum();
        for (var first = 0u; first < RUN; first += CHUNK) {
            workgroupBarrier();
            lay_both_c4(sweep, first, lane);
            workgroupBarrier();
            for (var k = 0u; k < CHUNK; k += SIZE) {
                let left = tile.row * PITCH + k;
                let right = tile.column * PITCH + k;
                // The first irrep of dimension one.
                let f0 = coopLoadT<Left>(&lefts[factors_at(0u, 0u, TERMS) + left], PITCH);
                let w0 = coopLoad<Right>(&rights[factors_at(0u, 0u, OUTPUTS) + right], PITCH);
                m0 = coopMultiplyAdd(f0, w0, m0);
                if (SPLIT) {
                    let g0 = coopLoadT<Left>(&lefts[factors_at(0u, 1u, TERMS) + left], PITCH);
                    let v0 = coopLoad<Right>(&rights[factors_at(0u, 1u, OUTPUTS) + right], PITCH);
                    x0 = coopMultiplyAdd(f0, v0, x0);
                    x0 = coopMultiplyAdd(g0, w0, x0);
                }
                // The second.
                let f1 = coopLoadT<Left>(&lefts[factors_at(1u, 0u, TERMS) + left], PITCH);
                let w1 = coopLoad<Right>(&rights[factors_at(1u, 0u, OUTPUTS) + right], PITCH);
                m1 = coopMultiplyAdd(f1, w1, m1);
                if (SPLIT) {
                    let g1 = coopLoadT<Left>(&lefts[factors_at(1u, 1u, TERMS) + left], PITCH);
                    let v1 = coopLoad<Right>(&rights[factors_at(1u, 1u, OUTPUTS) + right], PITCH);
                    x1 = coopMultiplyAdd(f1, v1, x1);
                    x1 = coopMultiplyAdd(g1, w1, x1);
                }
                // The plane: D·d + E·e, and E·d − D·e.
                let f2 = coopLoadT<Left>(&lefts[factors_at(2u, 0u, TERMS) + left], PITCH);
                let f3 = coopLoadT<Left>(&lefts[factors_at(3u, 0u, TERMS) + left], PITCH);
                let minus = f2 * f16(-1.0);
                let w2 = coopLoad<Right>(&rights[factors_at(2u, 0u, OUTPUTS) + right], PITCH);
                let w3 = coopLoad<Right>(&rights[factors_at(3u, 0u, OUTPUTS) + right], PITCH);
                m2 = coopMultiplyAdd(f2, w2, m2);
                m2 = coopMultiplyAdd(f3, w3, m2);
                m3 = coopMultiplyAdd(f3, w2, m3);
                m3 = coopMultiplyAdd(minus, w3, m3);
                if (SPLIT) {
                    let g2 = coopLoadT<Left>(&lefts[factors_at(2u, 1u, TERMS) + left], PITCH);
                    let g3 = coopLoadT<Left>(&lefts[factors_at(3u, 1u, TERMS) + left], PITCH);
                    let minus_low = g2 * f16(-1.0);
                    let v2 = coopLoad<Right>(&rights[factors_at(2u, 1u, OUTPUTS) + right], PITCH);
                    let v3 = coopLoad<Right>(&rights[factors_at(3u, 1u, OUTPUTS) + right], PITCH);
                    x2 = coopMultiplyAdd(f2, v2, x2);
                    x2 = coopMultiplyAdd(g2, w2, x2);
                    x2 = coopMultiplyAdd(f3, v3, x2);
                    x2 = coopMultiplyAdd(g3, w3, x2);
                    x3 = coopMultiplyAdd(f3, v2, x3);
                    x3 = coopMultiplyAdd(g3, w2, x3);
                    x3 = coopMultiplyAdd(minus, v3, x3);
                    x3 = coopMultiplyAdd(minus_low, w3, x3);
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
    let to = tile.number * SIZE * SIZE;
    coopStore(y0, &results[to], SIZE);
    keep_value(sweep, tile, lane, 0u, 4u);
    coopStore(y1, &results[to], SIZE);
    keep_value(sweep, tile, lane, 1u, 4u);
    coopStore(y2, &results[to], SIZE);
    keep_value(sweep, tile, lane, 2u, 4u);
    coopStore(y3, &results[to], SIZE);
    keep_value(sweep, tile, lane, 3u, 4u);
    keep_unfit_c4(sweep, tile, lane);
}

@compute @workgroup_size(THREADS)
fn gradient_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    // As linear_group: of a function, naga does not see that all lanes get the same.
    let index = group.y * groups.x + group.x;
    if (index >= conv.workgroups) {
        return;
    }
    let sweep = sweep_of(index);
    let tile = tile_of(lane);
    find_exponents(sweep, lane);
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
    for (var run = 0u; run < conv.chunk; run += RUN) {
        find_windows(sweep, run, 8u, lane);
        var m0 = Sum();
        var m1 = Sum();
        var m2 = Sum();
        var m3 = Sum();
        var m4 = Sum();
        var m5 = Sum();
        var m6 = Sum();
        var m7 = Sum();
        for (var first = 0u; first < RUN; first += CHUNK) {
            workgroupBarrier();
            lay_both_d4(sweep, first, lane);
            workgroupBarrier();
            for (var k = 0u; k < CHUNK; k += SIZE) {
                let left = tile.row * PITCH + k;
                let right = tile.column * PITCH + k;
                // The first irrep of dimension one.
                let f0 = coopLoadT<Left>(&lefts[factors_at(0u, 0u, TERMS) + left], PITCH);
                let w0 = coopLoad<Right>(&rights[factors_at(0u, 0u, OUTPUTS) + right], PITCH);
                m0 = coopMultiplyAdd(f0, w0, m0);
                if (SPLIT) {
                    let g0 = coopLoadT<Left>(&lefts[factors_at(0u, 1u, TERMS) + left], PITCH);
                    let v0 = coopLoad<Right>(&rights[factors_at(0u, 1u, OUTPUTS) + right], PITCH);
                    x0 = coopMultiplyAdd(f0, v0, x0);
                    x0 = coopMultiplyAdd(g0, w0, x0);
                }
                // The second.
                let f1 = coopLoadT<Left>(&lefts[factors_at(1u, 0u, TERMS) + left], PITCH);
                let w1 = coopLoad<Right>(&rights[factors_at(1u, 0u, OUTPUTS) + right], PITCH);
                m1 = coopMultiplyAdd(f1, w1, m1);
                if (SPLIT) {
                    let g1 = coopLoadT<Left>(&lefts[factors_at(1u, 1u, TERMS) + left], PITCH);
                    let v1 = coopLoad<Right>(&rights[factors_at(1u, 1u, OUTPUTS) + right], PITCH);
                    x1 = coopMultiplyAdd(f1, v1, x1);
                    x1 = coopMultiplyAdd(g1, w1, x1);
                }
                // The third.
                let f2 = coopLoadT<Left>(&lefts[factors_at(2u, 0u, TERMS) + left], PITCH);
                let w2 = coopLoad<Right>(&rights[factors_at(2u, 0u, OUTPUTS) + right], PITCH);
                m2 = coopMultiplyAdd(f2, w2, m2);
                if (SPLIT) {
                    let g2 = coopLoadT<Left>(&lefts[factors_at(2u, 1u, TERMS) + left], PITCH);
                    let v2 = coopLoad<Right>(&rights[factors_at(2u, 1u, OUTPUTS) + right], PITCH);
                    x2 = coopMultiplyAdd(f2, v2, x2);
                    x2 = coopMultiplyAdd(g2, w2, x2);
                }
                // The fourth.
                let f3 = coopLoadT<Left>(&lefts[factors_at(3u, 0u, TERMS) + left], PITCH);
                let w3 = coopLoad<Right>(&rights[factors_at(3u, 0u, OUTPUTS) + right], PITCH);
                m3 = coopMultiplyAdd(f3, w3, m3);
                if (SPLIT) {
                    let g3 = coopLoadT<Left>(&lefts[factors_at(3u, 1u, TERMS) + left], PITCH);
                    let v3 = coopLoad<Right>(&rights[factors_at(3u, 1u, OUTPUTS) + right], PITCH);
                    x3 = coopMultiplyAdd(f3, v3, x3);
                    x3 = coopMultiplyAdd(g3, w3, x3);
                }
                // The irrep of dimension two: its rows are summed over.
                let f4 = coopLoadT<Left>(&lefts[factors_at(4u, 0u, TERMS) + left], PITCH);
                let f5 = coopLoadT<Left>(&lefts[factors_at(5u, 0u, TERMS) + left], PITCH);
                let f6 = coopLoadT<Left>(&lefts[factors_at(6u, 0u, TERMS) + left], PITCH);
                let f7 = coopLoadT<Left>(&lefts[factors_at(7u, 0u, TERMS) + left], PITCH);
                let w4 = coopLoad<Right>(&rights[factors_at(4u, 0u, OUTPUTS) + right], PITCH);
                let w5 = coopLoad<Right>(&rights[factors_at(5u, 0u, OUTPUTS) + right], PITCH);
                let w6 = coopLoad<Right>(&rights[factors_at(6u, 0u, OUTPUTS) + right], PITCH);
                let w7 = coopLoad<Right>(&rights[factors_at(7u, 0u, OUTPUTS) + right], PITCH);
                m4 = coopMultiplyAdd(f4, w4, m4);
                m4 = coopMultiplyAdd(f6, w6, m4);
                m5 = coopMultiplyAdd(f4, w5, m5);
                m5 = coopMultiplyAdd(f6, w7, m5);
                m6 = coopMultiplyAdd(f5, w4, m6);
                m6 = coopMultiplyAdd(f7, w6, m6);
                m7 = coopMultiplyAdd(f5, w5, m7);
                m7 = coopMultiplyAdd(f7, w7, m7);
                if (SPLIT) {
                    let g4 = coopLoadT<Left>(&lefts[factors_at(4u, 1u, TERMS) + left], PITCH);
                    let g5 = coopLoadT<Left>(&lefts[factors_at(5u, 1u, TERMS) + left], PITCH);
                    let g6 = coopLoadT<Left>(&lefts[factors_at(6u, 1u, TERMS) + left], PITCH);
                    let g7 = coopLoadT<Left>(&lefts[factors_at(7u, 1u, TERMS) + left], PITCH);
                    let v4 = coopLoad<Right>(&rights[factors_at(4u, 1u, OUTPUTS) + right], PITCH);
                    let v5 = coopLoad<Right>(&rights[factors_at(5u, 1u, OUTPUTS) + right], PITCH);
                    let v6 = coopLoad<Right>(&rights[factors_at(6u, 1u, OUTPUTS) + right], PITCH);
                    let v7 = coopLoad<Right>(&rights[factors_at(7u, 1u, OUTPUTS) + right], PITCH);
                    x4 = coopMultiplyAdd(f4, v4, x4);
                    x4 = coopMultiplyAdd(g4, w4, x4);
                    x4 = coopMultiplyAdd(f6, v6, x4);
                    x4 = coopMultiplyAdd(g6, w6, x4);
                    x5 = coopMultiplyAdd(f4, v5, x5);
                    x5 = coopMultiplyAdd(g4, w5, x5);
                    x5 = coopMultiplyAdd(f6, v7, x5);
                    x5 = coopMultiplyAdd(g6, w7, x5);
                    x6 = coopMultiplyAdd(f5, v4, x6);
                    x6 = coopMultiplyAdd(g5, w4, x6);
                    x6 = coopMultiplyAdd(f7, v6, x6);
                    x6 = coopMultiplyAdd(g7, w6, x6);
                    x7 = coopMultiplyAdd(f5, v5, x7);
                    x7 = coopMultiplyAdd(g5, w5, x7);
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
    let to = tile.number * SIZE * SIZE;
    coopStore(y0, &results[to], SIZE);
    keep_value(sweep, tile, lane, 0u, 8u);
    coopStore(y1, &results[to], SIZE);
    keep_value(sweep, tile, lane, 1u, 8u);
    coopStore(y2, &results[to], SIZE);
    keep_value(sweep, tile, lane, 2u, 8u);
    coopStore(y3, &results[to], SIZE);
    keep_value(sweep, tile, lane, 3u, 8u);
    coopStore(y4, &results[to], SIZE);
    keep_value(sweep, tile, lane, 4u, 8u);
    coopStore(y5, &results[to], SIZE);
    keep_value(sweep, tile, lane, 5u, 8u);
    coopStore(y6, &results[to], SIZE);
    keep_value(sweep, tile, lane, 6u, 8u);
    coopStore(y7, &results[to], SIZE);
    keep_value(sweep, tile, lane, 7u, 8u);
    keep_unfit_d4(sweep, tile, lane);
}
