// batch_norm.wgsl for elements one by one: blocks of any length.

alias Value = f32;
// Random bits of a value: of each element 16.
alias Drawn = u32;

// Elements of a value.
const WIDTH: u32 = 1u;

fn nth(v: Value, n: u32) -> f32 {
    return v;
}

fn sum_of(v: Value) -> f32 {
    return v;
}

fn positive_of(v: Value) -> Value {
    return positive_part(v);
}

fn passes_of(v: Value) -> bool {
    return passes(v);
}

// Of the random words of an octet those of value number v of all.
fn drawn_of(words: vec4u, v: u32) -> Drawn {
    return (words[(v >> 1u) & 3u] >> (16u * (v & 1u))) & 0xffffu;
}
