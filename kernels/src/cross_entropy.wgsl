struct Batch {
    places: u32,
    classes: u32,
    // Places of an image: how far a step from class to class goes.
    inner: u32,
    groups: u32,
    // What a label that is no class makes of the result, or a place without an answer.
    nan: f32,
    smoothing: f32,
    ignored: f32,
    has_ignored: u32,
    has_weights: u32,
    // Whether the loss is a mean; for its gradient, the number of places or 1.
    divisor: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> batch: Batch;

// Where the logits of a place begin.
fn start_of(place: u32) -> u32 {
    return place / batch.inner * batch.classes * batch.inner + place % batch.inner;
}

// The largest logit of a place, and log Σ exp(logit − largest).
fn log_sum(start: u32) -> vec2f {
    let end = start + batch.classes * batch.inner;
    var largest = logits[start];
    for (var at = start; at < end; at += batch.inner) {
        largest = select(largest, logits[at], is_greater(logits[at], largest));
    }
    if ((bitcast<u32>(largest) & 0x7f800000u) == 0x7f800000u) {
        // NaN or infinite: `exp` and `log` may take such numbers for others.
        return vec2f(batch.nan);
    }
    var total = 0.0;
    for (var at = start; at < end; at += batch.inner) {
        total += exp(max(logits[at] - largest, LEAST));
    }
    return vec2f(largest, log(total));
}

// Nothing is left of the exponential of less than this, nor need it know −∞.
const LEAST: f32 = -104.0;

fn label_is_valid(label: f32) -> bool {
    return !is_nan(label) && label >= 0.0 && label < f32(batch.classes) && floor(label) == label;
}

fn is_ignored(label: f32) -> bool {
    return batch.has_ignored == 1u && label == batch.ignored;
}

fn weight_of(class_index: u32) -> f32 {
    if (batch.has_weights == 1u) {
        return weights[class_index];
    }
    return 1.0;
}

// The loss of a place that is not ignored, and its weight.
fn loss_of(place: u32, label: f32) -> vec2f {
    if (!label_is_valid(label)) {
        return vec2f(batch.nan);
    }
    let start = start_of(place);
    let sum = log_sum(start);
    let weight = weight_of(u32(label));
    let sure = weight * (1.0 - batch.smoothing);
    var loss = 0.0;
    if (sure != 0.0) {
        loss = sure * (sum.y - (logits[start + u32(label) * batch.inner] - sum.x));
    }
    if (batch.smoothing != 0.0) {
        for (var k = 0u; k < batch.classes; k++) {
            let even = weight_of(k) * batch.smoothing / f32(batch.classes);
            if (even != 0.0) {
                loss += even * (sum.y - (logits[start + k * batch.inner] - sum.x));
            }
        }
    }
    return vec2f(select(loss, batch.nan, is_nan(sum.x)), weight);
}

// A workgroup sums up 1024 places. Of one workgroup the loss is whole, of more [losses, weights] of each.
@compute @workgroup_size(WORKGROUP)
fn cross_entropy(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let piece = linear_group(group, groups);
    let end = min(piece * 1024u + 1024u, batch.places);
    var total = vec2f(0.0);
    for (var place = piece * 1024u + lane; place < end; place += WORKGROUP) {
        let label = labels[place];
        if (!is_ignored(label)) {
            total += loss_of(place, label);
        }
    }
    let loss = sum_of_lanes(total.x, lane);
    workgroupBarrier();
    let weight = sum_of_lanes(total.y, lane);
    if (lane != 0u || piece >= batch.groups) {
        return;
    }
    if (batch.groups > 1u) {
        y[piece] = loss;
        y[batch.groups + piece] = weight;
    } else if (batch.divisor == 1u) {
        y[0] = select(loss / weight, batch.nan, weight == 0.0);
    } else {
        y[0] = loss;
    }
}

@group(0) @binding(3) var<storage, read> dloss: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogits: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn cross_entropy_vjp(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                     @builtin(local_invocation_index) lane: u32) {
    let place = linear_index(group, groups, lane);
    if (place >= batch.places) {
        return;
    }
    let start = start_of(place);
    let label = labels[place];
    let end = start + batch.classes * batch.inner;
    if (is_ignored(label)) {
        for (var at = start; at < end; at += batch.inner) {
            dlogits[at] = 0.0;
        }
        return;
    }
    let sum = log_sum(start);
    let is_valid = label_is_valid(label);
    let part = select(batch.nan, dloss[0] / f32(batch.divisor), is_valid && !is_nan(sum.x));
    // The targets: `even` of every class, `sure` more of the label's.
    let even = batch.smoothing / f32(batch.classes);
    let sure = weight_of(u32(select(0.0, label, is_valid))) * (1.0 - batch.smoothing);
    var whole = sure;
    if (batch.smoothing != 0.0) {
        for (var k = 0u; k < batch.classes; k++) {
            whole += weight_of(k) * even;
        }
    }
    for (var k = 0u; k < batch.classes; k++) {
        let at = start + k * batch.inner;
        let softmax = exp(max(logits[at] - sum.x - sum.y, LEAST));
        var smooth_target = select(0.0, sure, f32(k) == label);
        if (batch.smoothing != 0.0) {
            smooth_target += weight_of(k) * even;
        }
        dlogits[at] = (whole * softmax - smooth_target) * part;
    }
}

// What each label weighs in a mean.
@group(0) @binding(0) var<storage, read> some_labels: array<f32>;
@group(0) @binding(1) var<storage, read> class_weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> place_weights: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn label_weights(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let place = linear_index(group, groups, lane);
    if (place >= batch.places) {
        return;
    }
    let label = some_labels[place];
    if (is_ignored(label)) {
        place_weights[place] = 0.0;
    } else if (!label_is_valid(label)) {
        place_weights[place] = batch.nan;
    } else if (batch.has_weights == 1u) {
        place_weights[place] = class_weights[u32(label)];
    } else {
        place_weights[place] = 1.0;
    }
}

// One workgroup for the whole batch: `some_labels` are the answers, `class_weights` the labels.
@compute @workgroup_size(WORKGROUP)
fn count_correct(@builtin(local_invocation_index) lane: u32) {
    var correct = 0.0;
    for (var place = lane; place < batch.places; place += WORKGROUP) {
        let right = some_labels[place] == class_weights[place] && !is_nan(some_labels[place]);
        correct += select(batch.nan, select(0.0, 1.0, right), label_is_valid(class_weights[place]));
    }
    let sum = sum_of_lanes(correct, lane);
    if (lane == 0u) {
        place_weights[0] = sum;
    }
}
