// The product of two panels, as in any blocked matrix product: a workgroup has some steps of the sum in its memory,
// left factors and right factors, and each invocation multiplies TILE left ones with COUNT right ones.
//
// Invocations stand in slices, rows and columns; slices share out the steps, neighbours in a row read neighbouring right
// factors and the same left ones. So right factors come without bank conflicts, 16 bytes a lane, and left ones as
// broadcasts. On C4 a step reads 5 + 4 vectors for 120 multiply-adds, on D4 8 + 4 for 96, without a group 5 + 1 for 80.
// Sums are named, not indexed: they stay in registers whatever a compiler thinks of loops (80 of them at most).

// Right factors of an invocation, COLUMNS apart: 3 or 4; on D4 always 2. (Left ones are 4 or 5; on D4 always 4.)
override COUNT: u32 = 4;
// Invocations of a slice, and slices. Those of a workgroup beyond them only fetch.
override SLICE: u32 = 32;
override SLICES: u32 = 1;
// Steps whose factors are in memory at a time; each slice has STEPS/SLICES of them.
const STEPS: u32 = 8u;
// Room for the factors of a step, of all, and for the sums of half the slices.
override LEFT_PITCH: u32 = 10;
override RIGHT_PITCH: u32 = 64;
override LEFT: u32 = 40;
override RIGHT: u32 = 256;
override EXCHANGE: u32 = 1;

// On C4 only the first of each pair is used; without a group the right factors are single samples. Spectra of D4 lie in
// two halves: 32 bytes from lane to lane would meet each bank twice.
var<workgroup> left_one: array<vec4f, LEFT>;
var<workgroup> left_two: array<vec4f, LEFT>;
var<workgroup> right_one: array<vec4f, RIGHT>;
var<workgroup> right_two: array<vec4f, RIGHT>;
var<workgroup> right_c1: array<f32, RIGHT>;
var<workgroup> exchange: array<vec4f, EXCHANGE>;

// An invocation's first left and first right factor in a step of its slice's.
fn left_of(step: u32, lane: u32) -> u32 {
    return (lane / SLICE + step * SLICES) * LEFT_PITCH + lane % SLICE / COLUMNS * TILE;
}

fn right_of(step: u32, lane: u32) -> u32 {
    return (lane / SLICE + step * SLICES) * RIGHT_PITCH + lane % SLICE % COLUMNS;
}

// The sum over the slices, in the first: halves add up in a fixed order.
fn sum_slices(sum: vec4f, lane: u32) -> vec4f {
    var total = sum;
    for (var half = SLICES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane >= half * SLICE && lane < 2u * half * SLICE) {
            exchange[lane - half * SLICE] = total;
        }
        workgroupBarrier();
        if (lane < half * SLICE) {
            total += exchange[lane];
        }
    }
    return total;
}

// Sums of TILE left factors with one right factor.
struct Tile {
    a: vec4f,
    b: vec4f,
    c: vec4f,
    d: vec4f,
    e: vec4f,
}

fn left_tile(at: u32) -> Tile {
    var e = vec4f(0.0);
    if (TILE == 5u) {
        e = left_one[at + 4u];
    }
    return Tile(left_one[at], left_one[at + 1u], left_one[at + 2u], left_one[at + 3u], e);
}

// Sums of an invocation.
struct Sums {
    t0: Tile,
    t1: Tile,
    t2: Tile,
    t3: Tile,
}

fn add_scaled(sum: Tile, f: f32, w: Tile) -> Tile {
    let v = vec4f(f);
    var e = sum.e;
    if (TILE == 5u) {
        e = fma(v, w.e, sum.e);
    }
    return Tile(fma(v, w.a, sum.a), fma(v, w.b, sum.b), fma(v, w.c, sum.c), fma(v, w.d, sum.d), e);
}

fn add_panels_c1(sums: Sums, lane: u32) -> Sums {
    var s = sums;
    if (lane >= SLICE * SLICES) {
        return s;
    }
    for (var step = 0u; step < STEPS / SLICES; step++) {
        let left = left_of(step, lane);
        let right = right_of(step, lane);
        let w = left_tile(left);
        s.t0 = add_scaled(s.t0, right_c1[right], w);
        s.t1 = add_scaled(s.t1, right_c1[right + COLUMNS], w);
        s.t2 = add_scaled(s.t2, right_c1[right + 2u * COLUMNS], w);
        if (COUNT == 4u) {
            s.t3 = add_scaled(s.t3, right_c1[right + 3u * COLUMNS], w);
        }
    }
    return s;
}

fn add_products_c4(sum: Tile, f: vec4f, w: Tile) -> Tile {
    var e = sum.e;
    if (TILE == 5u) {
        e = add_product_c4(sum.e, f, w.e);
    }
    return Tile(
        add_product_c4(sum.a, f, w.a),
        add_product_c4(sum.b, f, w.b),
        add_product_c4(sum.c, f, w.c),
        add_product_c4(sum.d, f, w.d),
        e,
    );
}

fn add_panels_c4(sums: Sums, lane: u32) -> Sums {
    var s = sums;
    if (lane >= SLICE * SLICES) {
        return s;
    }
    for (var step = 0u; step < STEPS / SLICES; step++) {
        let left = left_of(step, lane);
        let right = right_of(step, lane);
        let w = left_tile(left);
        s.t0 = add_products_c4(s.t0, right_one[right], w);
        s.t1 = add_products_c4(s.t1, right_one[right + COLUMNS], w);
        s.t2 = add_products_c4(s.t2, right_one[right + 2u * COLUMNS], w);
        if (COUNT == 4u) {
            s.t3 = add_products_c4(s.t3, right_one[right + 3u * COLUMNS], w);
        }
    }
    return s;
}

struct TileD4 {
    a: Spectrum,
    b: Spectrum,
    c: Spectrum,
    d: Spectrum,
}

struct SumsD4 {
    t0: TileD4,
    t1: TileD4,
}

fn add_products_d4(sum: TileD4, f: Spectrum, w: TileD4) -> TileD4 {
    return TileD4(
        add_product_d4(sum.a, f, w.a),
        add_product_d4(sum.b, f, w.b),
        add_product_d4(sum.c, f, w.c),
        add_product_d4(sum.d, f, w.d),
    );
}

fn add_panels_d4(sums: SumsD4, lane: u32) -> SumsD4 {
    var s = sums;
    if (lane >= SLICE * SLICES) {
        return s;
    }
    for (var step = 0u; step < STEPS / SLICES; step++) {
        let left = left_of(step, lane);
        let right = right_of(step, lane);
        let w = TileD4(
            Spectrum(left_one[left], left_two[left]),
            Spectrum(left_one[left + 1u], left_two[left + 1u]),
            Spectrum(left_one[left + 2u], left_two[left + 2u]),
            Spectrum(left_one[left + 3u], left_two[left + 3u]),
        );
        s.t0 = add_products_d4(s.t0, Spectrum(right_one[right], right_two[right]), w);
        s.t1 = add_products_d4(s.t1, Spectrum(right_one[right + COLUMNS], right_two[right + COLUMNS]), w);
    }
    return s;
}
