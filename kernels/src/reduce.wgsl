@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// Sum, or maximum (1).
override MAXIMUM: u32 = 0u;

fn join(a: f32, b: f32) -> f32 {
    return select(a + b, select(a, b, is_greater(b, a)), MAXIMUM == 1u);
}

// The uniform's own words: terms of a result, terms that are folded at a time, results, and the factor of the last launch.
fn first_term(result: u32) -> u32 {
    return offsets_of(result).x;
}

fn term(i: u32) -> u32 {
    return offsets_along(strided.rank, strided.second_rank, i).x;
}

var<workgroup> lanes: array<f32, WORKGROUP>;

// y[split, result] = the fold of a part of the result's terms: a workgroup for each.
@compute @workgroup_size(WORKGROUP)
fn fold_rows(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_group(group, groups);
    let first = first_term(i % strided.own.z);
    let begin = i / strided.own.z * strided.own.y;
    let end = min(begin + strided.own.y, strided.own.x);
    // A maximum may count a term twice, so lanes without terms begin with the first.
    var total = 0.0;
    if (MAXIMUM == 1u && begin < end) {
        total = x[first + term(begin)];
    }
    for (var at = begin + lane; at < end; at += WORKGROUP) {
        total = join(total, x[first + term(at)]);
    }
    lanes[lane] = total;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
    }
    if (lane == 0u && i < arrayLength(&y)) {
        y[i] = lanes[0] * bitcast<f32>(strided.own.w);
    }
}

// The same with an invocation for each, where neighbouring results lie side by side.
@compute @workgroup_size(WORKGROUP)
fn fold_columns(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i >= arrayLength(&y)) {
        return;
    }
    let first = first_term(i % strided.own.z);
    let begin = i / strided.own.z * strided.own.y;
    let end = min(begin + strided.own.y, strided.own.x);
    var total = 0.0;
    if (MAXIMUM == 1u && begin < end) {
        total = x[first + term(begin)];
    }
    for (var at = begin; at < end; at++) {
        total = join(total, x[first + term(at)]);
    }
    y[i] = total * bitcast<f32>(strided.own.w);
}
