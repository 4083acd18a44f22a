struct Batch {
    rows: u32,
    classes: u32,
    // What a label that is no class makes of the result.
    nan: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> batch: Batch;

// The largest logit of a row, and log Σ exp(logit − largest).
fn log_sum(row: u32) -> vec2f {
    let start = row * batch.classes;
    var largest = logits[start];
    for (var k = 1u; k < batch.classes; k++) {
        largest = max(largest, logits[start + k]);
    }
    var total = 0.0;
    for (var k = 0u; k < batch.classes; k++) {
        total += exp(logits[start + k] - largest);
    }
    return vec2f(largest, log(total));
}

fn label_is_valid(label: f32) -> bool {
    return label >= 0.0 && label < f32(batch.classes) && floor(label) == label;
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

fn first_maximum(row: u32) -> u32 {
    let start = row * batch.classes;
    var best = 0u;
    for (var k = 1u; k < batch.classes; k++) {
        if (logits[start + k] > logits[start + best]) {
            best = k;
        }
    }
    return best;
}

// One workgroup for the whole batch.
@compute @workgroup_size(WORKGROUP)
fn count_correct(@builtin(local_invocation_index) lane: u32) {
    var correct = 0.0;
    for (var row = lane; row < batch.rows; row += WORKGROUP) {
        correct += select(0.0, 1.0, f32(first_maximum(row)) == labels[row]);
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
        best[row] = f32(first_maximum(row));
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
    let part = select(batch.nan, dloss[0] / f32(batch.rows), label_is_valid(label));
    for (var k = 0u; k < batch.classes; k++) {
        let at = row * batch.classes + k;
        let softmax = exp(logits[at] - sum.x - sum.y);
        dlogits[at] = (softmax - select(0.0, 1.0, f32(k) == label)) * part;
    }
}
