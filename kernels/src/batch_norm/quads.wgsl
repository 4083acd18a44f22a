// batch_norm.wgsl with four elements to a load: for blocks of whole quads.

alias Value = vec4f;
// Random bits of a value: of each element 16.
alias Drawn = vec4u;

// Elements of a value.
const WIDTH: u32 = 4u;

fn nth(v: Value, n: u32) -> f32 {
    return v[n];
}

fn sum_of(v: Value) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn positive_of(v: Value) -> Value {
    return vec4f(positive_part(v.x), positive_part(v.y), positive_part(v.z), positive_part(v.w));
}

fn passes_of(v: Value) -> vec4<bool> {
    return vec4<bool>(passes(v.x), passes(v.y), passes(v.z), passes(v.w));
}

// Of the random words of an octet those of value number v of all.
fn drawn_of(words: vec4u, v: u32) -> Drawn {
    let pair = select(words.xy, words.zw, (v & 1u) == 1u);
    return vec4u(pair.x & 0xffffu, pair.x >> 16u, pair.y & 0xffffu, pair.y >> 16u);
}
