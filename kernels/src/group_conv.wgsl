// Group convolution in the irrep domain.
//
// At an output location, every un-rotated tap q of a filter meets the samples F[h] = x[h, p + h·q] of the group's
// elements h. Their transform F̂ over the group times the transform ψ̃ of the filter's ψ[d] = w[d, d·q], summed over
// channels and taps in one order for all outputs, is the transform of the output. Turning the input permutes the
// entries of F̂ and flips signs, so the turned run makes the same additions and the same bits.
//
// Transforms of C4 are (Σ, Σ ±, f₀ − f₂, f₁ − f₃); those of D4 four one-dimensional irreps and one of 2 × 2, by rows.
// The filters carry the factors d_ρ/|G| of the inverse transform.

// Size of the filter, distance of the windows, and distance of the source's samples (zeros between them, in dx).
override K: u32 = 3;
override STRIDE: u32 = 1;
override DILATION: u32 = 1;
// Whether the source has no group axis: then one tap of each orbit under C4 stands for all of them.
override LIFTING: bool = false;
// Whether the filters are those of the adjoint, dx.
override ADJOINT: bool = false;

// Result channels that one invocation makes, and positions. With D4, fewer: their sums must fit the registers.
const TILE_C1: u32 = 20u;
const TILE_C4: u32 = 5u;
const TILE_D4: u32 = 4u;
const POSITIONS: u32 = 4u;
const POSITIONS_D4: u32 = 2u;

// Terms of a filter's gradient that one invocation sums.
const TERMS: u32 = 4u;
const TERMS_D4: u32 = 2u;

struct Conv {
    // Channels of the source and of the result, and the result's tiles of channels.
    c_in: u32,
    c_out: u32,
    tiles: u32,
    // Planes of a source channel.
    planes: u32,
    // Extents of the source's and the result's planes.
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    // batch · out_height · out_width
    positions: u32,
    // Where the source's first sample lies in the padded plane.
    lead: i32,
    // Whether there is a bias.
    biased: u32,
    // Positions that are summed into one partial gradient, and number of these.
    chunk: u32,
    chunks: u32,
}

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

// ---- Filters ----

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read_write> filters_y: array<vec4f>;

// ψ_q[d] for result channel `row` and source channel `column`; zero beyond the last channel. The adjoint's filter is
// weight'[c, o, d, e] = weight[o, c, d⁻¹, −d⁻¹e].
fn psi(row: u32, column: u32, q: u32, d: u32, order: u32) -> f32 {
    if (row >= conv.c_out) {
        return 0.0;
    }
    let tap = tap_at(q);
    let moved = move_entry(d, tap, vec2u(K));
    if (ADJOINT) {
        let entry = vec2u(K - 1u) - tap;
        let plane = (column * conv.c_out + row) * order + group_inverse(d);
        return weight[(plane * K + entry.x) * K + entry.y];
    }
    let plane = select((row * conv.c_in + column) * order + d, row * conv.c_in + column, LIFTING);
    return weight[(plane * K + moved.x) * K + moved.y] * tap_weight(q, order);
}

fn psi_quarter(row: u32, column: u32, q: u32, first: u32, order: u32) -> vec4f {
    return vec4f(
        psi(row, column, q, first, order),
        psi(row, column, q, first + 1u, order),
        psi(row, column, q, first + 2u, order),
        psi(row, column, q, first + 3u, order),
    );
}

// Filters lie as [tile, source channel, tap, channel in tile]: the row, column and tap of number i.
fn filter_place(i: u32, tile: u32) -> vec3u {
    let taps = tap_count();
    let row = i / (tile * taps * conv.c_in) * tile + i % tile;
    return vec3u(row, i / (tile * taps) % conv.c_in, i / tile % taps);
}

// Four channels make one vector.
@compute @workgroup_size(WORKGROUP)
fn filters_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&filters_y)) {
        let at = filter_place(4u * i, TILE_C1);
        filters_y[i] = vec4f(
            psi(at.x, at.y, at.z, 0u, 1u),
            psi(at.x + 1u, at.y, at.z, 0u, 1u),
            psi(at.x + 2u, at.y, at.z, 0u, 1u),
            psi(at.x + 3u, at.y, at.z, 0u, 1u),
        );
    }
}

@compute @workgroup_size(WORKGROUP)
fn filters_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&filters_y)) {
        let at = filter_place(i, TILE_C4);
        filters_y[i] = transform_c4(psi_quarter(at.x, at.y, at.z, 0u, 4u)) * vec4f(0.25, 0.25, 0.5, 0.5);
    }
}

// Two vectors for each filter: ψ̃ = Σ_d ψ[d] ρ(d)ᵀ, hence the transposed entries.
@compute @workgroup_size(WORKGROUP)
fn filters_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (2u * i < arrayLength(&filters_y)) {
        let at = filter_place(i, TILE_D4);
        let f = Values(psi_quarter(at.x, at.y, at.z, 0u, 8u), psi_quarter(at.x, at.y, at.z, 4u, 8u));
        let spectrum = transform_d4(f);
        filters_y[2u * i] = spectrum.one * 0.125;
        filters_y[2u * i + 1u] = spectrum.two.xzyw * 0.25;
    }
}

// ---- Samples ----

@group(0) @binding(0) var<storage, read> x: array<f32>;

// A sample of the padded plane that starts at `start`.
fn sample(start: u32, row: i32, column: i32) -> f32 {
    let r = u32(row) / DILATION;
    let s = u32(column) / DILATION;
    let between = (u32(row) % DILATION) + (u32(column) % DILATION);
    let inside = between == 0u && r < conv.height && s < conv.width;
    return select(0.0, x[select(0u, start + r * conv.width + s, inside)], inside);
}

// F[h] of the rotations h.
fn turned_samples(start: u32, step: u32, corner: vec2i, tap: vec2u) -> vec4f {
    let near = vec2i(tap);
    let far = i32(K) - 1 - near;
    return vec4f(
        sample(start, corner.x + near.x, corner.y + near.y),
        sample(start + step, corner.x + far.y, corner.y + near.x),
        sample(start + 2u * step, corner.x + far.x, corner.y + far.y),
        sample(start + 3u * step, corner.x + near.y, corner.y + far.x),
    );
}

// F[h] of the reflections h: the rotated tap, flipped from top to bottom.
fn mirrored_samples(start: u32, step: u32, corner: vec2i, tap: vec2u) -> vec4f {
    let near = vec2i(tap);
    let far = i32(K) - 1 - near;
    return vec4f(
        sample(start, corner.x + far.x, corner.y + near.y),
        sample(start + step, corner.x + near.y, corner.y + near.x),
        sample(start + 2u * step, corner.x + near.x, corner.y + far.y),
        sample(start + 3u * step, corner.x + far.y, corner.y + far.x),
    );
}

fn plane_len() -> u32 {
    return conv.height * conv.width;
}

// Distance of the planes of two group elements.
fn plane_step() -> u32 {
    return select(plane_len(), 0u, conv.planes == 1u);
}

// Where a window's samples are, and where its result goes.
struct Window {
    // Index of the image's first sample.
    start: u32,
    // Upper left sample, from that of the plane.
    corner: vec2i,
    image: u32,
    // Place in the result's plane.
    place: u32,
}

fn window_at(position: u32) -> Window {
    let count = conv.out_height * conv.out_width;
    let place = position % count;
    let image = position / count;
    let corner = vec2i(vec2u(place / conv.out_width, place % conv.out_width) * STRIDE) - conv.lead;
    return Window(image * conv.c_in * conv.planes * plane_len(), corner, image, place);
}

// The sample of a plain map, `plane` beyond its first, under a tap of the window.
fn window_sample(window: Window, plane: u32, tap: vec2i) -> f32 {
    return sample(window.start + plane, window.corner.x + tap.x, window.corner.y + tap.y);
}

// F̂ at a window, of the channel whose first plane is `channel` beyond the image's first.
fn spectrum_c4(window: Window, channel: u32, tap: vec2u) -> vec4f {
    return transform_c4(turned_samples(window.start + channel, plane_step(), window.corner, tap));
}

fn spectrum_d4(window: Window, channel: u32, tap: vec2u) -> Spectrum {
    let start = window.start + channel;
    let step = plane_step();
    return transform_d4(Values(
        turned_samples(start, step, window.corner, tap),
        mirrored_samples(start + 4u * step, step, window.corner, tap),
    ));
}

// ---- The convolution: an invocation makes a tile of channels, all elements of the group, at some positions ----

@group(0) @binding(1) var<storage, read> filters: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn bias_of(channel: u32) -> f32 {
    return select(0.0, bias[channel], conv.biased == 1u);
}

// Five vectors: twenty channels of plain maps, or the spectra of five channels on C4.
struct Tile {
    a: vec4f,
    b: vec4f,
    c: vec4f,
    d: vec4f,
    e: vec4f,
}

fn filter_tile(at: u32) -> Tile {
    return Tile(filters[at], filters[at + 1u], filters[at + 2u], filters[at + 3u], filters[at + 4u]);
}

// The first position of an invocation; the others follow a workgroup's width apart. Neighbouring workgroups share the
// positions and make different tiles.
fn first_position(group: u32, lane: u32, count: u32) -> u32 {
    return group / conv.tiles * count * WORKGROUP + lane;
}

// Position k of an invocation; beyond the last, the last once more.
fn window_of(first: u32, k: u32) -> Window {
    return window_at(min(first + k * WORKGROUP, conv.positions - 1u));
}

fn add_scaled(sum: Tile, f: f32, w: Tile) -> Tile {
    return Tile(sum.a + f * w.a, sum.b + f * w.b, sum.c + f * w.c, sum.d + f * w.d, sum.e + f * w.e);
}

fn store_four(window: Window, first: u32, values: vec4f) {
    let count = conv.out_height * conv.out_width;
    for (var t = 0u; t < 4u; t++) {
        let channel = first + t;
        if (channel < conv.c_out) {
            y[(window.image * conv.c_out + channel) * count + window.place] = values[t] + bias_of(channel);
        }
    }
}

fn store_c1(window: Window, first: u32, sum: Tile) {
    store_four(window, first, sum.a);
    store_four(window, first + 4u, sum.b);
    store_four(window, first + 8u, sum.c);
    store_four(window, first + 12u, sum.d);
    store_four(window, first + 16u, sum.e);
}

@compute @workgroup_size(WORKGROUP)
fn conv_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let first = first_position(index, lane, POSITIONS);
    if (first >= conv.positions) {
        return;
    }
    let tile = index % conv.tiles;
    let window0 = window_of(first, 0u);
    let window1 = window_of(first, 1u);
    let window2 = window_of(first, 2u);
    let window3 = window_of(first, 3u);
    var at = tile * conv.c_in * K * K * 5u;
    var y0 = Tile();
    var y1 = Tile();
    var y2 = Tile();
    var y3 = Tile();
    for (var c = 0u; c < conv.c_in; c++) {
        let plane = c * plane_len();
        for (var row = 0; row < i32(K); row++) {
            for (var column = 0; column < i32(K); column++) {
                let w = filter_tile(at);
                let tap = vec2i(row, column);
                y0 = add_scaled(y0, window_sample(window0, plane, tap), w);
                y1 = add_scaled(y1, window_sample(window1, plane, tap), w);
                y2 = add_scaled(y2, window_sample(window2, plane, tap), w);
                y3 = add_scaled(y3, window_sample(window3, plane, tap), w);
                at += 5u;
            }
        }
    }
    let channel = tile * TILE_C1;
    store_c1(window0, channel, y0);
    if (first + WORKGROUP < conv.positions) {
        store_c1(window1, channel, y1);
    }
    if (first + 2u * WORKGROUP < conv.positions) {
        store_c1(window2, channel, y2);
    }
    if (first + 3u * WORKGROUP < conv.positions) {
        store_c1(window3, channel, y3);
    }
}

// ŷ + F̂·ψ̃. The rows of the two-dimensional irrep take their terms in the same order.
fn add_product(sum: vec4f, f: vec4f, w: vec4f) -> vec4f {
    let first = sum + w.xyzz * f;
    return vec4f(first.xy, first.zw + w.w * vec2f(f.w, -f.z));
}

fn add_products(sum: Tile, f: vec4f, w: Tile) -> Tile {
    return Tile(
        add_product(sum.a, f, w.a),
        add_product(sum.b, f, w.b),
        add_product(sum.c, f, w.c),
        add_product(sum.d, f, w.d),
        add_product(sum.e, f, w.e),
    );
}

fn store_channel(window: Window, channel: u32, spectrum: vec4f) {
    if (channel >= conv.c_out) {
        return;
    }
    let values = inverse_c4(spectrum) + bias_of(channel);
    let count = conv.out_height * conv.out_width;
    let first = (window.image * conv.c_out + channel) * 4u * count + window.place;
    y[first] = values.x;
    y[first + count] = values.y;
    y[first + 2u * count] = values.z;
    y[first + 3u * count] = values.w;
}

fn store_c4(window: Window, first: u32, sum: Tile) {
    store_channel(window, first, sum.a);
    store_channel(window, first + 1u, sum.b);
    store_channel(window, first + 2u, sum.c);
    store_channel(window, first + 3u, sum.d);
    store_channel(window, first + 4u, sum.e);
}

@compute @workgroup_size(WORKGROUP)
fn conv_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let first = first_position(index, lane, POSITIONS);
    if (first >= conv.positions) {
        return;
    }
    let tile = index % conv.tiles;
    let window0 = window_of(first, 0u);
    let window1 = window_of(first, 1u);
    let window2 = window_of(first, 2u);
    let window3 = window_of(first, 3u);
    let taps = tap_count();
    var at = tile * conv.c_in * taps * TILE_C4;
    var y0 = Tile();
    var y1 = Tile();
    var y2 = Tile();
    var y3 = Tile();
    for (var c = 0u; c < conv.c_in; c++) {
        let channel = c * conv.planes * plane_len();
        for (var q = 0u; q < taps; q++) {
            let w = filter_tile(at);
            let tap = tap_at(q);
            y0 = add_products(y0, spectrum_c4(window0, channel, tap), w);
            y1 = add_products(y1, spectrum_c4(window1, channel, tap), w);
            y2 = add_products(y2, spectrum_c4(window2, channel, tap), w);
            y3 = add_products(y3, spectrum_c4(window3, channel, tap), w);
            at += TILE_C4;
        }
    }
    let channel = tile * TILE_C4;
    store_c4(window0, channel, y0);
    if (first + WORKGROUP < conv.positions) {
        store_c4(window1, channel, y1);
    }
    if (first + 2u * WORKGROUP < conv.positions) {
        store_c4(window2, channel, y2);
    }
    if (first + 3u * WORKGROUP < conv.positions) {
        store_c4(window3, channel, y3);
    }
}

// The spectra of four channels on D4.
struct TileD4 {
    a: Spectrum,
    b: Spectrum,
    c: Spectrum,
    d: Spectrum,
}

fn filter_tile_d4(at: u32) -> TileD4 {
    return TileD4(
        Spectrum(filters[at], filters[at + 1u]),
        Spectrum(filters[at + 2u], filters[at + 3u]),
        Spectrum(filters[at + 4u], filters[at + 5u]),
        Spectrum(filters[at + 6u], filters[at + 7u]),
    );
}

// ŷ + F̂·ψ̃, as above.
fn add_product_d4(sum: Spectrum, f: Spectrum, w: Spectrum) -> Spectrum {
    let first = sum.two + f.two.xxzz * w.two.xyxy;
    return Spectrum(sum.one + f.one * w.one, first + f.two.yyww * w.two.zwzw);
}

fn add_products_d4(sum: TileD4, f: Spectrum, w: TileD4) -> TileD4 {
    return TileD4(
        add_product_d4(sum.a, f, w.a),
        add_product_d4(sum.b, f, w.b),
        add_product_d4(sum.c, f, w.c),
        add_product_d4(sum.d, f, w.d),
    );
}

fn store_channel_d4(window: Window, channel: u32, spectrum: Spectrum) {
    if (channel >= conv.c_out) {
        return;
    }
    let values = inverse_d4(spectrum);
    let added = bias_of(channel);
    let count = conv.out_height * conv.out_width;
    let first = (window.image * conv.c_out + channel) * 8u * count + window.place;
    for (var r = 0u; r < 4u; r++) {
        y[first + r * count] = values.turned[r] + added;
        y[first + (r + 4u) * count] = values.mirrored[r] + added;
    }
}

fn store_d4(window: Window, first: u32, sum: TileD4) {
    store_channel_d4(window, first, sum.a);
    store_channel_d4(window, first + 1u, sum.b);
    store_channel_d4(window, first + 2u, sum.c);
    store_channel_d4(window, first + 3u, sum.d);
}

@compute @workgroup_size(WORKGROUP)
fn conv_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    let first = first_position(index, lane, POSITIONS_D4);
    if (first >= conv.positions) {
        return;
    }
    let tile = index % conv.tiles;
    let window0 = window_of(first, 0u);
    let window1 = window_of(first, 1u);
    let taps = tap_count();
    var at = tile * conv.c_in * taps * TILE_D4 * 2u;
    var y0 = TileD4();
    var y1 = TileD4();
    for (var c = 0u; c < conv.c_in; c++) {
        let channel = c * conv.planes * plane_len();
        for (var q = 0u; q < taps; q++) {
            let w = filter_tile_d4(at);
            let tap = tap_at(q);
            y0 = add_products_d4(y0, spectrum_d4(window0, channel, tap), w);
            y1 = add_products_d4(y1, spectrum_d4(window1, channel, tap), w);
            at += TILE_D4 * 2u;
        }
    }
    let channel = tile * TILE_D4;
    store_d4(window0, channel, y0);
    if (first + WORKGROUP < conv.positions) {
        store_d4(window1, channel, y1);
    }
}

// ---- The weight gradient: transforms of dy, their products with F̂ summed in chunks, and the way back ----

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> spectra_y: array<vec4f>;

// dŷ at [image, channel, place]: the adjoint of the inverse transform.
@compute @workgroup_size(WORKGROUP)
fn gradient_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&spectra_y)) {
        let count = conv.out_height * conv.out_width;
        let first = i / count * 4u * count + i % count;
        let values = vec4f(dy[first], dy[first + count], dy[first + 2u * count], dy[first + 3u * count]);
        spectra_y[i] = transform_c4(values) * vec4f(0.25, 0.25, 0.5, 0.5);
    }
}

@compute @workgroup_size(WORKGROUP)
fn gradient_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    if (2u * i < arrayLength(&spectra_y)) {
        let count = conv.out_height * conv.out_width;
        let first = i / count * 8u * count + i % count;
        var values = Values();
        for (var r = 0u; r < 4u; r++) {
            values.turned[r] = dy[first + r * count];
            values.mirrored[r] = dy[first + (r + 4u) * count];
        }
        let spectrum = transform_d4(values);
        spectra_y[2u * i] = spectrum.one * 0.125;
        spectra_y[2u * i + 1u] = spectrum.two * 0.25;
    }
}

// Terms of a filter's gradient: every tap of every source channel, and the bias, whose source is constantly 1.
fn term_count() -> u32 {
    return conv.c_in * tap_count() + 1u;
}

// What an invocation sums: some terms, a step apart, of a tile, over a chunk of the positions.
struct Share {
    term: u32,
    step: u32,
    tile: u32,
    chunk: u32,
}

fn share_of(i: u32, terms: u32) -> Share {
    let step = (term_count() + terms - 1u) / terms;
    return Share(i % step, step, i / step % conv.tiles, i / step / conv.tiles);
}

// Partial gradients lie as [chunk, tile, term, channel in tile].
fn partial_place(chunk: u32, tile: u32, term: u32) -> u32 {
    return (chunk * conv.tiles + tile) * term_count() + term;
}

// Where a term's samples are.
struct Term {
    is_bias: bool,
    // Its channel's first sample, from that of the image.
    channel: u32,
    tap: vec2u,
}

// Term k of a share; beyond the last, the last once more.
fn term_of(share: Share, k: u32) -> Term {
    let index = min(share.term + k * share.step, term_count() - 1u);
    let is_bias = index + 1u == term_count();
    let channel = min(index / tap_count(), conv.c_in - 1u) * conv.planes * plane_len();
    return Term(is_bias, channel, tap_at(index % tap_count()));
}

@group(0) @binding(1) var<storage, read> dy_c1: array<f32>;
@group(0) @binding(1) var<storage, read> spectra: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> products: array<vec4f>;

// Four channels of dy, from `channel`, at a window; zeros beyond the last.
fn dy_four(window: Window, channel: u32) -> vec4f {
    var values = vec4f(0.0);
    let count = conv.out_height * conv.out_width;
    for (var t = 0u; t < 4u; t++) {
        if (channel + t < conv.c_out) {
            values[t] = dy_c1[(window.image * conv.c_out + channel + t) * count + window.place];
        }
    }
    return values;
}

fn dy_tile(window: Window, channel: u32) -> Tile {
    return Tile(
        dy_four(window, channel),
        dy_four(window, channel + 4u),
        dy_four(window, channel + 8u),
        dy_four(window, channel + 12u),
        dy_four(window, channel + 16u),
    );
}

fn term_sample(window: Window, term: Term) -> f32 {
    return select(window_sample(window, term.channel, vec2i(term.tap)), 1.0, term.is_bias);
}

// Stores the sum of term k of a share.
fn store_term(share: Share, k: u32, sum: Tile) {
    let term = share.term + k * share.step;
    if (term < term_count()) {
        let at = 5u * partial_place(share.chunk, share.tile, term);
        products[at] = sum.a;
        products[at + 1u] = sum.b;
        products[at + 2u] = sum.c;
        products[at + 3u] = sum.d;
        products[at + 4u] = sum.e;
    }
}

@compute @workgroup_size(WORKGROUP)
fn products_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let share = share_of(linear_index(group, groups, lane), TERMS);
    if (share.chunk >= conv.chunks) {
        return;
    }
    let term0 = term_of(share, 0u);
    let term1 = term_of(share, 1u);
    let term2 = term_of(share, 2u);
    let term3 = term_of(share, 3u);
    var dw0 = Tile();
    var dw1 = Tile();
    var dw2 = Tile();
    var dw3 = Tile();
    let end = min((share.chunk + 1u) * conv.chunk, conv.positions);
    for (var position = share.chunk * conv.chunk; position < end; position++) {
        let window = window_at(position);
        let d = dy_tile(window, share.tile * TILE_C1);
        dw0 = add_scaled(dw0, term_sample(window, term0), d);
        dw1 = add_scaled(dw1, term_sample(window, term1), d);
        dw2 = add_scaled(dw2, term_sample(window, term2), d);
        dw3 = add_scaled(dw3, term_sample(window, term3), d);
    }
    store_term(share, 0u, dw0);
    store_term(share, 1u, dw1);
    store_term(share, 2u, dw2);
    store_term(share, 3u, dw3);
}

// Index of dŷ at a window; channels beyond the last read the last, and are ignored later.
fn spectrum_place(window: Window, channel: u32) -> u32 {
    let count = conv.out_height * conv.out_width;
    return (window.image * conv.c_out + min(channel, conv.c_out - 1u)) * count + window.place;
}

fn spectra_tile(window: Window, channel: u32) -> Tile {
    return Tile(
        spectra[spectrum_place(window, channel)],
        spectra[spectrum_place(window, channel + 1u)],
        spectra[spectrum_place(window, channel + 2u)],
        spectra[spectrum_place(window, channel + 3u)],
        spectra[spectrum_place(window, channel + 4u)],
    );
}

// dψ̃ + F̂ᵀ·dŷ
fn add_outer(sum: vec4f, f: vec4f, d: vec4f) -> vec4f {
    return sum + vec4f(d.x * f.x, d.y * f.y, d.z * f.z + d.w * f.w, d.z * f.w - d.w * f.z);
}

fn add_outers(sum: Tile, f: vec4f, d: Tile) -> Tile {
    return Tile(
        add_outer(sum.a, f, d.a),
        add_outer(sum.b, f, d.b),
        add_outer(sum.c, f, d.c),
        add_outer(sum.d, f, d.d),
        add_outer(sum.e, f, d.e),
    );
}

fn term_spectrum(window: Window, term: Term) -> vec4f {
    return select(spectrum_c4(window, term.channel, term.tap), vec4f(4.0, 0.0, 0.0, 0.0), term.is_bias);
}

@compute @workgroup_size(WORKGROUP)
fn products_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let share = share_of(linear_index(group, groups, lane), TERMS);
    if (share.chunk >= conv.chunks) {
        return;
    }
    let term0 = term_of(share, 0u);
    let term1 = term_of(share, 1u);
    let term2 = term_of(share, 2u);
    let term3 = term_of(share, 3u);
    var dw0 = Tile();
    var dw1 = Tile();
    var dw2 = Tile();
    var dw3 = Tile();
    let end = min((share.chunk + 1u) * conv.chunk, conv.positions);
    for (var position = share.chunk * conv.chunk; position < end; position++) {
        let window = window_at(position);
        let d = spectra_tile(window, share.tile * TILE_C4);
        dw0 = add_outers(dw0, term_spectrum(window, term0), d);
        dw1 = add_outers(dw1, term_spectrum(window, term1), d);
        dw2 = add_outers(dw2, term_spectrum(window, term2), d);
        dw3 = add_outers(dw3, term_spectrum(window, term3), d);
    }
    store_term(share, 0u, dw0);
    store_term(share, 1u, dw1);
    store_term(share, 2u, dw2);
    store_term(share, 3u, dw3);
}

fn spectrum_at(place: u32) -> Spectrum {
    return Spectrum(spectra[2u * place], spectra[2u * place + 1u]);
}

fn spectra_tile_d4(window: Window, channel: u32) -> TileD4 {
    return TileD4(
        spectrum_at(spectrum_place(window, channel)),
        spectrum_at(spectrum_place(window, channel + 1u)),
        spectrum_at(spectrum_place(window, channel + 2u)),
        spectrum_at(spectrum_place(window, channel + 3u)),
    );
}

// dψ̃ + F̂ᵀ·dŷ
fn add_outer_d4(sum: Spectrum, f: Spectrum, d: Spectrum) -> Spectrum {
    return Spectrum(
        sum.one + f.one * d.one,
        sum.two + (f.two.xxyy * d.two.xyxy + f.two.zzww * d.two.zwzw),
    );
}

fn add_outers_d4(sum: TileD4, f: Spectrum, d: TileD4) -> TileD4 {
    return TileD4(
        add_outer_d4(sum.a, f, d.a),
        add_outer_d4(sum.b, f, d.b),
        add_outer_d4(sum.c, f, d.c),
        add_outer_d4(sum.d, f, d.d),
    );
}

fn term_spectrum_d4(window: Window, term: Term) -> Spectrum {
    if (term.is_bias) {
        return Spectrum(vec4f(8.0, 0.0, 0.0, 0.0), vec4f(0.0));
    }
    return spectrum_d4(window, term.channel, term.tap);
}

fn store_spectrum(at: u32, spectrum: Spectrum) {
    products[at] = spectrum.one;
    products[at + 1u] = spectrum.two;
}

fn store_term_d4(share: Share, k: u32, sum: TileD4) {
    let term = share.term + k * share.step;
    if (term < term_count()) {
        let at = 2u * TILE_D4 * partial_place(share.chunk, share.tile, term);
        store_spectrum(at, sum.a);
        store_spectrum(at + 2u, sum.b);
        store_spectrum(at + 4u, sum.c);
        store_spectrum(at + 6u, sum.d);
    }
}

@compute @workgroup_size(WORKGROUP)
fn products_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) lane: u32) {
    let share = share_of(linear_index(group, groups, lane), TERMS_D4);
    if (share.chunk >= conv.chunks) {
        return;
    }
    let term0 = term_of(share, 0u);
    let term1 = term_of(share, 1u);
    var dw0 = TileD4();
    var dw1 = TileD4();
    let end = min((share.chunk + 1u) * conv.chunk, conv.positions);
    for (var position = share.chunk * conv.chunk; position < end; position++) {
        let window = window_at(position);
        let d = spectra_tile_d4(window, share.tile * TILE_D4);
        dw0 = add_outers_d4(dw0, term_spectrum_d4(window, term0), d);
        dw1 = add_outers_d4(dw1, term_spectrum_d4(window, term1), d);
    }
    store_term_d4(share, 0u, dw0);
    store_term_d4(share, 1u, dw1);
}

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(2) var<storage, read_write> dbias: array<f32>;

// Σ over the chunks, in order, of vector `part` of `parts` that a tile has for a term.
fn chunk_sum(tile: u32, term: u32, part: u32, parts: u32) -> vec4f {
    var total = vec4f(0.0);
    for (var chunk = 0u; chunk < conv.chunks; chunk++) {
        total += partials[partial_place(chunk, tile, term) * parts + part];
    }
    return total;
}

// What invocation i makes: an entry of the weight's gradient, or of the bias's.
struct Entry {
    is_bias: bool,
    o: u32,
    c: u32,
    d: u32,
    tap: vec2u,
}

fn entry_of(i: u32) -> Entry {
    let len = arrayLength(&dweight);
    if (i >= len) {
        return Entry(true, i - len, 0u, 0u, vec2u());
    }
    let plane = i / (K * K);
    let map = plane / conv.planes;
    return Entry(false, map / conv.c_in, map % conv.c_in, plane % conv.planes, vec2u(i / K % K, i % K));
}

@compute @workgroup_size(WORKGROUP)
fn fold_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    let entry = entry_of(i);
    if (entry.o >= conv.c_out) {
        return;
    }
    let term = select(entry.c * tap_count() + tap_number(entry.tap), term_count() - 1u, entry.is_bias);
    let value = chunk_sum(entry.o / TILE_C1, term, entry.o / 4u % 5u, 5u)[entry.o % 4u];
    if (entry.is_bias) {
        dbias[entry.o] = value;
    } else {
        dweight[i] = value;
    }
}

// The gradient of ψ_q[d] of the group C4.
fn psi_gradient_c4(o: u32, term: u32, d: u32) -> f32 {
    return inverse_c4(chunk_sum(o / TILE_C4, term, o % TILE_C4, TILE_C4))[d];
}

fn psi_gradient_d4(o: u32, term: u32, d: u32) -> f32 {
    let part = 2u * (o % TILE_D4);
    let one = chunk_sum(o / TILE_D4, term, part, 2u * TILE_D4);
    let two = chunk_sum(o / TILE_D4, term, part + 1u, 2u * TILE_D4);
    let values = inverse_d4(Spectrum(one, two.xzyw));
    return select(values.turned[d & 3u], values.mirrored[d & 3u], d >= 4u);
}

@compute @workgroup_size(WORKGROUP)
fn fold_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    let entry = entry_of(i);
    if (entry.o >= conv.c_out) {
        return;
    }
    if (entry.is_bias) {
        dbias[entry.o] = chunk_sum(entry.o / TILE_C4, term_count() - 1u, entry.o % TILE_C4, TILE_C4).x;
        return;
    }
    // When lifting, the entry is part of the filters of all elements that move a tap here.
    var total = 0.0;
    for (var e = 0u; e < select(1u, 4u, LIFTING); e++) {
        let d = select(entry.d, e, LIFTING);
        let q = tap_number(move_entry(group_inverse(d), entry.tap, vec2u(K)));
        if (q < tap_count()) {
            total += psi_gradient_c4(entry.o, entry.c * tap_count() + q, d) * tap_weight(q, 4u);
        }
    }
    dweight[i] = total;
}

@compute @workgroup_size(WORKGROUP)
fn fold_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = linear_index(group, groups, lane);
    let entry = entry_of(i);
    if (entry.o >= conv.c_out) {
        return;
    }
    if (entry.is_bias) {
        dbias[entry.o] = chunk_sum(entry.o / TILE_D4, term_count() - 1u, 2u * (entry.o % TILE_D4), 2u * TILE_D4).x;
        return;
    }
    var total = 0.0;
    for (var e = 0u; e < select(1u, 8u, LIFTING); e++) {
        let d = select(entry.d, e, LIFTING);
        let q = tap_number(move_entry(group_inverse(d), entry.tap, vec2u(K)));
        if (q < tap_count()) {
            total += psi_gradient_d4(entry.o, entry.c * tap_count() + q, d) * tap_weight(q, 8u);
        }
    }
    dweight[i] = total;
}
