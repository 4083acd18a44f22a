@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

// Which operation: the order of `arithmetic.rs`.
override OPERATION: u32 = 0u;

fn of_pair(a: f32, b: f32) -> f32 {
    switch OPERATION {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        case 3u: { return a / b; }
        case 4u: { return select(b, a, is_greater(a, b)); }
        case 5u: { return select(b, a, is_greater(-a, -b)); }
        case 6u: { return select(select(0.0, 0.5, a == b), 1.0, a > b || is_nan(a) || is_nan(b)); }
        default: { return select(0.0, 1.0, a == b || (is_nan(a) && is_nan(b))); }
    }
}

// c = a ∘ b, each read along its strides.
@compute @workgroup_size(WORKGROUP)
fn arithmetic(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&c)) {
        let at = offsets_of(i);
        c[i] = of_pair(a[at.x], b[at.y]);
    }
}

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn broadcast(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        y[i] = a[offsets_of(i).x];
    }
}

@compute @workgroup_size(WORKGROUP)
fn add_scalar(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        y[i] = a[i] + bitcast<f32>(strided.own.x);
    }
}

// x^exponent: WGSL's own is left open for x ≤ 0.
fn power(x: f32, exponent: f32, nan: f32) -> f32 {
    if (exponent == 0.0) {
        return 1.0;
    }
    if (is_nan(x)) {
        return x;
    }
    let whole = floor(exponent) == exponent;
    let odd = whole && floor(exponent * 0.5) * 2.0 != exponent;
    let sign = select(1.0, -1.0, odd && (bitcast<u32>(x) >> 31u) == 1u);
    let infinity = bitcast<f32>(bitcast<u32>(nan) & 0x7f800000u);
    if (x == 0.0) {
        return sign * select(infinity, 0.0, exponent > 0.0);
    }
    if (abs(x) == infinity) {
        return sign * select(0.0, infinity, exponent > 0.0);
    }
    return select(sign * pow(abs(x), exponent), nan, x < 0.0 && !whole);
}

@compute @workgroup_size(WORKGROUP)
fn pow_scalar(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&y)) {
        y[i] = power(a[i], bitcast<f32>(strided.own.x), bitcast<f32>(strided.own.y));
    }
}
