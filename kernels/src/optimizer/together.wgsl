// The kernels of optimizer.wgsl for seven weights in one launch: the workgroups of one weight follow those of the other. WGSL has
// no arrays of buffers, so each has a name, and which one is meant is looked up for a whole workgroup.

@group(0) @binding(0) var<storage, read> dw_0: array<f32>;
@group(0) @binding(1) var<storage, read> dw_1: array<f32>;
@group(0) @binding(2) var<storage, read> dw_2: array<f32>;
@group(0) @binding(3) var<storage, read> dw_3: array<f32>;
@group(0) @binding(4) var<storage, read> dw_4: array<f32>;
@group(0) @binding(5) var<storage, read> dw_5: array<f32>;
@group(0) @binding(6) var<storage, read> dw_6: array<f32>;
@group(0) @binding(7) var<storage, read_write> w_0: array<f32>;
@group(0) @binding(8) var<storage, read_write> w_1: array<f32>;
@group(0) @binding(9) var<storage, read_write> w_2: array<f32>;
@group(0) @binding(10) var<storage, read_write> w_3: array<f32>;
@group(0) @binding(11) var<storage, read_write> w_4: array<f32>;
@group(0) @binding(12) var<storage, read_write> w_5: array<f32>;
@group(0) @binding(13) var<storage, read_write> w_6: array<f32>;
@group(0) @binding(14) var<storage, read_write> state_0: array<f32>;
@group(0) @binding(15) var<storage, read_write> state_1: array<f32>;
@group(0) @binding(16) var<storage, read_write> state_2: array<f32>;
@group(0) @binding(17) var<storage, read_write> state_3: array<f32>;
@group(0) @binding(18) var<storage, read_write> state_4: array<f32>;
@group(0) @binding(19) var<storage, read_write> state_5: array<f32>;
@group(0) @binding(20) var<storage, read_write> state_6: array<f32>;
@group(0) @binding(21) var<storage, read_write> second_0: array<f32>;
@group(0) @binding(22) var<storage, read_write> second_1: array<f32>;
@group(0) @binding(23) var<storage, read_write> second_2: array<f32>;
@group(0) @binding(24) var<storage, read_write> second_3: array<f32>;
@group(0) @binding(25) var<storage, read_write> second_4: array<f32>;
@group(0) @binding(26) var<storage, read_write> second_5: array<f32>;
@group(0) @binding(27) var<storage, read_write> second_6: array<f32>;

// Where the workgroups of each weight end; unused places end where the last weight does.
alias Ends = array<vec4u, 2>;

// The number of a weight, and the element of it that an invocation has; a number beyond the last for none.
struct Place {
    weight: u32,
    element: u32,
}

fn place_of(ends: Ends, group: u32, lane: u32) -> Place {
    var weight = 0u;
    var first = 0u;
    for (var k = 0u; k < 7u; k++) {
        let end = select(ends[0][k & 3u], ends[1][k & 3u], k >= 4u);
        if (group >= end) {
            weight = k + 1u;
            first = end;
        }
    }
    return Place(weight, (group - first) * WORKGROUP + lane);
}

fn is_element(at: Place) -> bool {
    switch at.weight {
        case 0u: { return at.element < arrayLength(&w_0); }
        case 1u: { return at.element < arrayLength(&w_1); }
        case 2u: { return at.element < arrayLength(&w_2); }
        case 3u: { return at.element < arrayLength(&w_3); }
        case 4u: { return at.element < arrayLength(&w_4); }
        case 5u: { return at.element < arrayLength(&w_5); }
        case 6u: { return at.element < arrayLength(&w_6); }
        default: { return false; }
    }
}

fn dw_at(at: Place) -> f32 {
    switch at.weight {
        case 0u: { return dw_0[at.element]; }
        case 1u: { return dw_1[at.element]; }
        case 2u: { return dw_2[at.element]; }
        case 3u: { return dw_3[at.element]; }
        case 4u: { return dw_4[at.element]; }
        case 5u: { return dw_5[at.element]; }
        default: { return dw_6[at.element]; }
    }
}

fn w_at(at: Place) -> f32 {
    switch at.weight {
        case 0u: { return w_0[at.element]; }
        case 1u: { return w_1[at.element]; }
        case 2u: { return w_2[at.element]; }
        case 3u: { return w_3[at.element]; }
        case 4u: { return w_4[at.element]; }
        case 5u: { return w_5[at.element]; }
        default: { return w_6[at.element]; }
    }
}

fn set_w(at: Place, value: f32) {
    switch at.weight {
        case 0u: { w_0[at.element] = value; }
        case 1u: { w_1[at.element] = value; }
        case 2u: { w_2[at.element] = value; }
        case 3u: { w_3[at.element] = value; }
        case 4u: { w_4[at.element] = value; }
        case 5u: { w_5[at.element] = value; }
        default: { w_6[at.element] = value; }
    }
}

fn state_at(at: Place) -> f32 {
    switch at.weight {
        case 0u: { return state_0[at.element]; }
        case 1u: { return state_1[at.element]; }
        case 2u: { return state_2[at.element]; }
        case 3u: { return state_3[at.element]; }
        case 4u: { return state_4[at.element]; }
        case 5u: { return state_5[at.element]; }
        default: { return state_6[at.element]; }
    }
}

fn set_state(at: Place, value: f32) {
    switch at.weight {
        case 0u: { state_0[at.element] = value; }
        case 1u: { state_1[at.element] = value; }
        case 2u: { state_2[at.element] = value; }
        case 3u: { state_3[at.element] = value; }
        case 4u: { state_4[at.element] = value; }
        case 5u: { state_5[at.element] = value; }
        default: { state_6[at.element] = value; }
    }
}

fn second_at(at: Place) -> f32 {
    switch at.weight {
        case 0u: { return second_0[at.element]; }
        case 1u: { return second_1[at.element]; }
        case 2u: { return second_2[at.element]; }
        case 3u: { return second_3[at.element]; }
        case 4u: { return second_4[at.element]; }
        case 5u: { return second_5[at.element]; }
        default: { return second_6[at.element]; }
    }
}

fn set_second(at: Place, value: f32) {
    switch at.weight {
        case 0u: { second_0[at.element] = value; }
        case 1u: { second_1[at.element] = value; }
        case 2u: { second_2[at.element] = value; }
        case 3u: { second_3[at.element] = value; }
        case 4u: { second_4[at.element] = value; }
        case 5u: { second_5[at.element] = value; }
        default: { second_6[at.element] = value; }
    }
}

struct SgdSteps {
    ends: Ends,
    settings: Sgd,
}

@group(1) @binding(0) var<uniform> sgd_steps_uniform: SgdSteps;

@compute @workgroup_size(WORKGROUP)
fn sgd_steps(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let at = place_of(sgd_steps_uniform.ends, linear_group(group, groups), lane);
    if (is_element(at)) {
        let next = sgd_of(sgd_steps_uniform.settings, dw_at(at), w_at(at), state_at(at));
        set_w(at, next.x);
        set_state(at, next.y);
    }
}

struct AdamSteps {
    ends: Ends,
    settings: Adam,
}

@group(1) @binding(0) var<uniform> adam_steps_uniform: AdamSteps;

@compute @workgroup_size(WORKGROUP)
fn adam_steps(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let at = place_of(adam_steps_uniform.ends, linear_group(group, groups), lane);
    if (is_element(at)) {
        let next = adam_of(adam_steps_uniform.settings, dw_at(at), w_at(at), state_at(at), second_at(at));
        set_w(at, next.x);
        set_state(at, next.y);
        set_second(at, next.z);
    }
}

struct AverageSteps {
    ends: Ends,
    factors: vec2f,
}

@group(1) @binding(0) var<uniform> average_steps_uniform: AverageSteps;

@compute @workgroup_size(WORKGROUP)
fn average_steps(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let at = place_of(average_steps_uniform.ends, linear_group(group, groups), lane);
    if (is_element(at)) {
        let rates = average_steps_uniform.factors;
        set_w(at, rates.x * w_at(at) + rates.y * dw_at(at));
    }
}
