// Group convolution in the irrep domain.
//
// At an output location, every un-rotated tap q of a filter meets the samples F[h] = x[h, p + h·q] of the group's
// elements h. Their transform F̂ over the group times the transform ψ̃ of the filter's ψ[d] = w[d, d·q], summed over
// channels and taps in one order for all outputs, is the transform of the output. Turning the input permutes the
// entries of F̂ and flips signs, so the turned run makes the same additions and the same bits.
//
// Transforms of C4 are (Σ, Σ ±, f₀ − f₂, f₁ − f₃); those of D4 four one-dimensional irreps and one of 2 × 2, by rows.
// The filters carry the factors d_ρ/|G| of the inverse transform.
//
// The order of the sum, of every kernel that makes a feature map: source channels, and under each its taps. Each term is
// an `fma`, which no driver may split or reassociate, so that kernels which cut the work in other ways give the same
// bits; what is left to reassociate, the additions of the transforms, has no product beside it to contract with, but for
// powers of two, which are exact.

// Size of the filter, distance of the windows, of a window's taps, and of the source's samples (zeros between them, in dx).
override K: u32 = 3;
override STRIDE: u32 = 1;
override DILATION: u32 = 1;
override SPREAD: u32 = 1;
// Whether the source has no group axis: then one tap of each orbit under C4 stands for all of them.
override LIFTING: bool = false;
// Whether the filters are those of the adjoint, dx.
override ADJOINT: bool = false;
// Invocations of a workgroup, and those across windows (of the weight's gradient, across terms).
override THREADS: u32 = 64;
override COLUMNS: u32 = 64;
// Vectors of result channels that an invocation makes.
override TILE: u32 = 5;

struct Conv {
    // Channels of the source and of the result.
    c_in: u32,
    c_out: u32,
    // Planes of a source channel.
    planes: u32,
    // Extents of the source's and the result's planes.
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    // Images, and windows of one phase in an image: rows and columns of them, and the strips that these are cut into, of
    // so many columns each (in the last some may be missing).
    images: u32,
    rows: u32,
    columns: u32,
    strips: u32,
    strip_columns: u32,
    // Windows of all strips, images, and none beyond.
    positions: u32,
    // Where the source's first sample lies in the padded plane.
    lead: i32,
    // Workgroups across the result's channels, and all that there are.
    parts: u32,
    workgroups: u32,
    // Added to the variance of the norm that follows.
    eps: f32,
    // Of the weight's gradient: workgroups across the runs, positions of a partial sum, and number of these.
    bands: u32,
    chunk: u32,
    chunks: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(1) @binding(0) var<uniform> conv: Conv;

// ---- Taps ----

// Taps that are summed over.
fn tap_count() -> u32 {
    return select(K * K, (K / 2u) * ((K + 1u) / 2u) + (K & 1u), LIFTING);
}

// Row and column of tap q: a quadrant and the centre when lifting.
fn tap_at(q: u32) -> vec2u {
    if (!LIFTING) {
        return vec2u(q / K, q % K);
    }
    let columns = max(K / 2u, 1u);
    let quadrant = (K / 2u) * ((K + 1u) / 2u);
    return select(vec2u(K / 2u), vec2u(q / columns, q % columns), q < quadrant);
}

// The number of a tap that is summed over, or tap_count().
fn tap_number(tap: vec2u) -> u32 {
    if (!LIFTING) {
        return tap.x * K + tap.y;
    }
    let columns = K / 2u;
    if (tap.x < (K + 1u) / 2u && tap.y < columns) {
        return tap.x * columns + tap.y;
    }
    let centre = (K & 1u) == 1u && all(tap == vec2u(K / 2u));
    return select(tap_count(), tap_count() - 1u, centre);
}

// What tap q counts for: the size of its orbit over the order of the group, when lifting.
fn tap_weight(q: u32, order: u32) -> f32 {
    if (!LIFTING) {
        return 1.0;
    }
    let centre = (K & 1u) == 1u && q + 1u == tap_count();
    return select(4.0, 1.0, centre) / f32(order);
}

// ---- Transforms ----

fn transform_c4(f: vec4f) -> vec4f {
    let even = f.x + f.z;
    let odd = f.y + f.w;
    return vec4f(even + odd, even - odd, f.x - f.z, f.y - f.w);
}

fn inverse_c4(f: vec4f) -> vec4f {
    let even = f.x + f.y;
    let odd = f.x - f.y;
    return vec4f(even + f.z, odd + f.w, even - f.z, odd - f.w);
}

struct Spectrum {
    one: vec4f,
    two: vec4f,
}

// A function on D4: its rotations, and its reflections.
struct Values {
    turned: vec4f,
    mirrored: vec4f,
}

fn transform_d4(f: Values) -> Spectrum {
    let a = transform_c4(f.turned);
    let b = transform_c4(f.mirrored);
    return Spectrum(
        vec4f(a.x + b.x, a.x - b.x, a.y + b.y, a.y - b.y),
        vec4f(a.z + b.z, -(a.w + b.w), a.w - b.w, a.z - b.z),
    );
}

fn inverse_d4(f: Spectrum) -> Values {
    let p = vec2f(f.one.x + f.one.y, f.one.x - f.one.y);
    let q = vec2f(f.one.z + f.one.w, f.one.z - f.one.w);
    let even = p + q;
    let odd = p - q;
    let u = vec2f(f.two.x + f.two.w, f.two.x - f.two.w);
    let v = vec2f(f.two.z - f.two.y, -(f.two.z + f.two.y));
    return Values(
        vec4f(even.x + u.x, odd.x + v.x, even.x - u.x, odd.x - v.x),
        vec4f(even.y + u.y, odd.y + v.y, even.y - u.y, odd.y - v.y),
    );
}

// ŷ + F̂·ψ̃ on C4: six multiply-adds for sixteen of the plain sum. Both rows of the rotation plane take their terms in
// the same order.
fn add_product_c4(sum: vec4f, f: vec4f, w: vec4f) -> vec4f {
    let first = fma(w.xyzz, f, sum);
    return vec4f(first.xy, fma(w.ww, vec2f(f.w, -f.z), first.zw));
}

// The same on D4, of `w` transposed: twelve for sixty-four.
fn add_product_d4(sum: Spectrum, f: Spectrum, w: Spectrum) -> Spectrum {
    let first = fma(f.two.xxzz, w.two.xyxy, sum.two);
    return Spectrum(fma(f.one, w.one, sum.one), fma(f.two.yyww, w.two.zwzw, first));
}

// ---- Filters ----

@group(0) @binding(1) var<storage, read> weight: array<f32>;

// Where ψ_q[d] is in the filter from source channel 0 to result channel 0, or in that filter's transpose: the adjoint's
// is weight'[c, o, d, e] = weight[o, c, d⁻¹, −d⁻¹e], or, of a transposed convolution that lifts, weight[o, c, −e].
fn entry_place(q: u32, d: u32) -> u32 {
    if (ADJOINT && !LIFTING) {
        let entry = vec2u(K - 1u) - tap_at(q);
        return (group_inverse(d) * K + entry.x) * K + entry.y;
    }
    let moved = move_entry(d, tap_at(q), vec2u(K));
    let entry = select(moved, vec2u(K - 1u) - moved, ADJOINT);
    return (select(d, 0u, LIFTING) * K + entry.x) * K + entry.y;
}

// Those of four elements from d.
fn entry_places(q: u32, d: u32) -> vec4u {
    return vec4u(entry_place(q, d), entry_place(q, d + 1u), entry_place(q, d + 2u), entry_place(q, d + 3u));
}

// Where the filter from source channel `column` to result channel `row` begins, in a group of `order`.
fn filter_place(row: u32, column: u32, order: u32) -> u32 {
    let number = select(row * conv.c_in + column, column * conv.c_out + row, ADJOINT);
    return number * select(order, 1u, LIFTING) * K * K;
}

fn weights_at(places: vec4u) -> vec4f {
    return vec4f(weight[places.x], weight[places.y], weight[places.z], weight[places.w]);
}

// The spectra of filters, zero beyond the last result channel. Without a group, four result channels make one vector.
fn filter_c1(row: u32, column: u32, entry: u32) -> vec4f {
    let rows = row + vec4u(0u, 1u, 2u, 3u);
    let exists = rows < vec4u(conv.c_out);
    let number = select(rows * conv.c_in + column, column * conv.c_out + rows, vec4<bool>(ADJOINT));
    return select(vec4f(0.0), weights_at(select(vec4u(0u), number * K * K + entry, exists)), exists);
}

const SCALE_C4: vec4f = vec4f(0.25, 0.25, 0.5, 0.5);

// `entries` as `entry_places` gives them, `scale` as `tap_weight`.
fn filter_c4(row: u32, column: u32, entries: vec4u, scale: f32) -> vec4f {
    let exists = row < conv.c_out;
    let psi = weights_at(select(0u, filter_place(row, column, 4u), exists) + entries) * select(0.0, scale, exists);
    return transform_c4(psi) * SCALE_C4;
}

// ψ̃ = Σ_d ψ[d] ρ(d)ᵀ, hence the transposed entries.
fn filter_d4(row: u32, column: u32, turned: vec4u, mirrored: vec4u, scale: f32) -> Spectrum {
    let exists = row < conv.c_out;
    let place = select(0u, filter_place(row, column, 8u), exists);
    let factor = select(0.0, scale, exists);
    let spectrum = transform_d4(Values(weights_at(place + turned) * factor, weights_at(place + mirrored) * factor));
    return Spectrum(spectrum.one * 0.125, spectrum.two.xzyw * 0.25);
}

// ---- Samples ----

fn plane_len() -> u32 {
    return conv.height * conv.width;
}

fn channel_len() -> u32 {
    return conv.planes * plane_len();
}

// A window of an image. Windows of one phase meet the same taps at samples, and not at the zeros between them.
struct Window {
    image: u32,
    // Among the windows of its phase.
    row: u32,
    column: u32,
    // Whether it is one, and not beyond the last or in what the last strip lacks.
    exists: bool,
}

// Window `position` of a phase: they are numbered by image, strip, row and column. Beyond the last, the last once more.
fn window_at(position: u32) -> Window {
    let index = min(position, conv.positions - 1u);
    let strip = index / (conv.rows * conv.strip_columns);
    let place = index % (conv.rows * conv.strip_columns);
    let column = strip % conv.strips * conv.strip_columns + place % conv.strip_columns;
    let exists = position < conv.positions && column < conv.columns;
    return Window(strip / conv.strips, place / conv.strip_columns, column, exists);
}

// Where the samples of a window are: row and column that belong to the zero of `origin`, and the image's first sample.
fn base_of(window: Window) -> vec3i {
    return vec3i(vec3u(window.row * STRIDE, window.column * STRIDE, window.image * conv.c_in * channel_len()));
}

// The first tap's distance, in the source with its zeros, from a base: of windows in phase `number` of SPREAD².
fn origin_of(number: u32) -> vec2i {
    return vec2i(vec2u(number / SPREAD, number % SPREAD)) - conv.lead;
}

// Four samples of the first channel: where they are, and whether they are there at all.
struct Samples {
    at: vec4u,
    inside: vec4<bool>,
}

// Whether taps in these rows and columns meet samples.
fn aligned(origin: vec2i, rows: vec4u, columns: vec4u) -> vec4<bool> {
    let step = vec4i(i32(SPREAD));
    return ((vec4i(rows * DILATION) + origin.x) % step == vec4i(0)) & ((vec4i(columns * DILATION) + origin.y) % step == vec4i(0));
}

fn samples_at(base: vec3i, origin: vec2i, rows: vec4u, columns: vec4u, planes: vec4u) -> Samples {
    let step = vec4i(i32(SPREAD));
    let row = vec4u((vec4i(rows * DILATION) + origin.x) / step + base.x);
    let column = vec4u((vec4i(columns * DILATION) + origin.y) / step + base.y);
    let inside = (row < vec4u(conv.height)) & (column < vec4u(conv.width)) & aligned(origin, rows, columns);
    return Samples(u32(base.z) + planes * plane_len() + row * conv.width + column, inside);
}

// Rows, and columns, of the images of a tap under the rotations.
fn turned_rows(tap: vec2u) -> vec4u {
    let far = vec2u(K - 1u) - tap;
    return vec4u(tap.x, far.y, far.x, tap.y);
}

fn turned_columns(tap: vec2u) -> vec4u {
    let far = vec2u(K - 1u) - tap;
    return vec4u(tap.y, tap.x, far.y, far.x);
}

// F[h] is read at these, of the rotations h.
fn turned_samples(base: vec3i, origin: vec2i, tap: vec2u) -> Samples {
    let planes = select(vec4u(0u, 1u, 2u, 3u), vec4u(0u), LIFTING);
    return samples_at(base, origin, turned_rows(tap), turned_columns(tap), planes);
}

// And of the reflections: the rotated tap, flipped from top to bottom.
fn mirrored_samples(base: vec3i, origin: vec2i, tap: vec2u) -> Samples {
    let planes = select(vec4u(4u, 5u, 6u, 7u), vec4u(0u), LIFTING);
    return samples_at(base, origin, vec4u(K - 1u) - turned_rows(tap), turned_columns(tap), planes);
}

// The samples, `beyond` those of the first channel. Outside the source are zeros.
fn fetch(samples: Samples, beyond: u32) -> vec4f {
    let at = select(vec4u(0u), samples.at + beyond, samples.inside);
    return select(vec4f(0.0), vec4f(x[at.x], x[at.y], x[at.z], x[at.w]), samples.inside);
}

// The same without a group.
fn fetch_one(base: vec3i, origin: vec2i, tap: vec2u, beyond: u32) -> f32 {
    let at = vec2i(tap * DILATION) + origin;
    let place = vec2u(at / i32(SPREAD) + base.xy);
    let inside = all(at % i32(SPREAD) == vec2i(0)) && all(place < vec2u(conv.height, conv.width));
    return select(0.0, x[select(0u, u32(base.z) + beyond + place.x * conv.width + place.y, inside)], inside);
}
