struct Batch {
    rows: u32,
    classes: u32,
    // What a label that is no class makes of the result, or a row without an answer.
    nan: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> batch: Batch;

// The first of a row's largest logits, or of its NaNs.
fn first_maximum(row: u32) -> u32 {
    let start = row * batch.classes;
    var best = 0u;
    for (var k = 1u; k < batch.classes; k++) {
        if (is_greater(logits[start + k], logits[start + best])) {
            best = k;
        }
    }
    return best;
}

// The largest logit of a row, and log Σ exp(logit − largest).
fn log_sum(row: u32) -> vec2f {
    let start = row * batch.classes;
    let largest = logits[start + first_maximum(row)];
    if ((bitcast<u32>(largest) & 0x7f800000u) == 0x7f800000u) {
        // NaN or infinite: `exp` and `log` may take such numbers for others.
        return vec2f(batch.nan);
    }
    var total = 0.0;
    for (var k = 0u; k < batch.classes; k++) {
        total += exp(logits[start + k] - largest);
    }
    return vec2f(largest, log(total));
}

fn label_is_valid(label: f32) -> bool {
    return !is_nan(label) && label >= 0.0 && label < f32(batch.classes) && floor(label) == label;
}

// One workgroup for the whole batch.
@compute @workgroup_size(WORKGROUP)
fn cross_entropy(@builtin(local_invocation_index) lane: u32) {
    var total = 0.0;
    for (var row = lane; row < batch.rows; row += WORKGROUP) {
        let label = labels[row];
        if (label_is_valid(label)) {
            let sum = log_sum(row);
            total += sum.y - (logits[row * batch.classes + u32(label)] - sum.x);
        } else {
            total = batch.nan;
        }
    }
    let sum = sum_of_lanes(total, lane);
    if (lane == 0u) {
        y[0] = sum / f32(batch.rows);
    }
}

// One workgroup for the whole batch.
@compute @workgroup_size(WORKGROUP)
fn count_correct(@builtin(local_invocation_index) lane: u32) {
    var correct = 0.0;
    for (var row = lane; row < batch.rows; row += WORKGROUP) {
        let best = first_maximum(row);
        let right = f32(best) == labels[row] && !is_nan(logits[row * batch.classes + best]);
        correct += select(batch.nan, select(0.0, 1.0, right), label_is_valid(labels[row]));
    }
    let sum = sum_of_lanes(correct, lane);
    if (lane == 0u) {
        y[0] = sum;
    }
}

@group(0) @binding(1) var<storage, read_write> best: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn argmax(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let row = linear_index(group, groups, lane);
    if (row < batch.rows) {
        let answer = first_maximum(row);
        best[row] = select(f32(answer), batch.nan, is_nan(logits[row * batch.classes + answer]));
    }
}

@group(0) @binding(2) var<storage, read> dloss: array<f32>;
@group(0) @binding(3) var<storage, read_write> dlogits: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn cross_entropy_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                     @builtin(local_invocation_index) lane: u32) {
    let row = linear_index(group, groups, lane);
    if (row >= batch.rows) {
        return;
    }
    let sum = log_sum(row);
    let label = labels[row];
    let part = select(batch.nan, dloss[0] / f32(batch.rows), label_is_valid(label) && !is_nan(sum.x));
    for (var k = 0u; k < batch.classes; k++) {
        let at = row * batch.classes + k;
        let softmax = exp(logits[at] - sum.x - sum.y);
        dlogits[at] = (softmax - select(0.0, 1.0, f32(k) == label)) * part;
    }
}
