@group(0) @binding(0) var<storage, read_write> y: array<f32>;
struct Chain { rounds: u32, factor: f32, shift: f32 }
@group(1) @binding(0) var<uniform> chain: Chain;

// Eight independent chains a ↦ a · factor + shift of four lanes each, from the invocation's index on: enough of them to
// hide the latency of a multiply-add, few enough to stay in registers. Their sum is stored, lest they be left out.
@compute @workgroup_size(WORKGROUP)
fn peak(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    let factor = vec4f(chain.factor);
    let shift = vec4f(chain.shift);
    var a = vec4f(f32(i));
    var b = a;
    var c = a;
    var d = a;
    var e = a;
    var f = a;
    var g = a;
    var h = a;
    // Different chains, for equal ones a compiler may compute once.
    b.x += 1.0; c.x += 2.0; d.x += 3.0; e.x += 4.0; f.x += 5.0; g.x += 6.0; h.x += 7.0;
    b.y -= 1.0; c.y -= 2.0; d.y -= 3.0; e.y -= 4.0; f.y -= 5.0; g.y -= 6.0; h.y -= 7.0;
    b.z += 0.5; c.z += 1.5; d.z += 2.5; e.z += 3.5; f.z += 4.5; g.z += 5.5; h.z += 6.5;
    b.w -= 0.5; c.w -= 1.5; d.w -= 2.5; e.w -= 3.5; f.w -= 4.5; g.w -= 5.5; h.w -= 6.5;
    a += vec4f(0.125, 0.25, 0.375, 0.75);
    for (var round = 0u; round < chain.rounds; round++) {
        a = fma(a, factor, shift);
        b = fma(b, factor, shift);
        c = fma(c, factor, shift);
        d = fma(d, factor, shift);
        e = fma(e, factor, shift);
        f = fma(f, factor, shift);
        g = fma(g, factor, shift);
        h = fma(h, factor, shift);
    }
    if (i < arrayLength(&y)) {
        let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
        y[i] = (sum.x + sum.y) + (sum.z + sum.w);
    }
}
