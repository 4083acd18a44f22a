// Up to two lists of axes along which operands are read, the innermost axis first: (extent, a stride per operand).
struct Strided {
    rank: u32,
    second_rank: u32,
    // What a kernel needs beside.
    own: vec4u,
    axes: array<vec4u, 8>,
}

@group(1) @binding(0) var<uniform> strided: Strided;

// Where place i of the `rank` axes from `first` on lies in each operand.
fn offsets_along(first: u32, rank: u32, i: u32) -> vec3u {
    var rest = i;
    var offsets = vec3u(0u);
    // The outermost axis needs no division.
    for (var axis = 1u; axis < rank; axis++) {
        let inner = strided.axes[first + axis - 1u];
        let outer = rest / inner.x;
        offsets += (rest - outer * inner.x) * inner.yzw;
        rest = outer;
    }
    return offsets + rest * strided.axes[first + rank - 1u].yzw;
}

fn offsets_of(i: u32) -> vec3u {
    return offsets_along(0u, strided.rank, i);
}
