// The convolution and its dx on units for small matrix products (CUDA: tensor cores). The bits of a turned input's result
// are still those of the turned result.
//
// In the irreps of the group a convolution is a few matrix products. A row belongs to a window, a column to a result
// channel, and the terms are source channels and taps. The irrep of dimension two makes two rows of a window. A turn moves
// rows to other places and changes the signs of some. How a unit adds up and rounds is unknown. But it treats all rows
// alike and both signs alike, so the turned row gives the same bits; `gpu/tensor_cores.rs` tests that first.
//
// The factors are sums of two halves, see halves.wgsl. Of their product three parts count: high·high, and high·low and
// low·high in a sum of its own. Units may cut off what does not fit, which would add up over a long sum. So high·high is
// added to an ordinary sum of floats after every RUN terms.
//
// A workgroup makes COLS tiles of SIZE result channels at ROWS tiles of SIZE windows of one phase. Its invocations lay down
// the left factors of CHUNK terms, the samples' spectra. Then each subgroup makes the products of one tile. It reads the
// right factors from the memory of the GPU: all workgroups read the same ones.

// Invocations of a subgroup, windows of a workgroup, and their distance in `lefts`: some more, against bank conflicts.
override SUBGROUP: u32 = 32;
override LOCATIONS: u32 = 32;
override PITCH: u32 = 40;
// Room for left factors, for places of samples, and for the results of all subgroups. (Arrays are sized by names only.)
override LEFTS: u32 = 2560;
override PLACES: u32 = 288;
override MIRRORED_PLACES: u32 = 144;
override RESULTS: u32 = 512;
// Terms after which a unit's sum is added to one of floats: a multiple of each CHUNK.
const RUN: u32 = 64u;

@group(0) @binding(2) var<storage, read> filters: array<f16>;
@group(0) @binding(3) var<storage, read> columns: array<Column>;
@group(0) @binding(4) var<storage, read> peaks: array<u32>;
@group(0) @binding(5) var<storage, read_write> result: array<f32>;

// By value, high or low half, term and window.
var<workgroup> lefts: array<f16, LEFTS>;
// Where the samples of a tap are in the first source channel, by tap and window; or NOTHING.
var<workgroup> turned_at: array<vec4u, PLACES>;
var<workgroup> mirrored_at: array<vec4u, MIRRORED_PLACES>;
// The largest samples that windows meet, and the exponents that follow.
var<workgroup> window_peaks: array<atomic<u32>, LOCATIONS>;
var<workgroup> exponents: array<i32, LOCATIONS>;
// A tile of each subgroup, by result channel and window.
var<workgroup> results: array<f32, RESULTS>;

// ---- What is laid down ----

fn area_of_matrices(index: u32) -> Area {
    let areas = (conv.positions + LOCATIONS - 1u) / LOCATIONS;
    let along = index / conv.parts;
    return Area(along / areas, along % areas * LOCATIONS, index % conv.parts * COLS);
}

fn peak_at(pixel: u32, inside: bool) -> u32 {
    return select(0u, peaks[select(0u, pixel, inside)], inside);
}

// The largest |x| at four pixels.
fn peak_of(samples: Samples, planes: vec4u, base: vec3i) -> u32 {
    let image = u32(base.z) / (conv.c_in * channel_len());
    let pixels = samples.at - u32(base.z) - planes * plane_len() + image * plane_len();
    return max(
        max(peak_at(pixels.x, samples.inside.x), peak_at(pixels.y, samples.inside.y)),
        max(peak_at(pixels.z, samples.inside.z), peak_at(pixels.w, samples.inside.w)),
    );
}

// Where all samples are. The rotations of the taps cover a window, so they meet its largest sample.
fn find_places(area: Area, mirrored: bool, lane: u32) {
    for (var i = lane; i < LOCATIONS; i += THREADS) {
        atomicStore(&window_peaks[i], 0u);
    }
    workgroupBarrier();
    let origin = origin_of(area.phase);
    let planes = select(vec4u(0u, 1u, 2u, 3u), vec4u(0u), LIFTING);
    for (var i = lane; i < PLACES; i += THREADS) {
        let base = base_of(window_at(area.position + i % LOCATIONS));
        let turned = turned_samples(base, origin, tap_at(i / LOCATIONS));
        turned_at[i] = select(NOTHING_4, turned.at, turned.inside);
        if (mirrored) {
            let others = mirrored_samples(base, origin, tap_at(i / LOCATIONS));
            mirrored_at[i] = select(NOTHING_4, others.at, others.inside);
        }
        atomicMax(&window_peaks[i % LOCATIONS], peak_of(turned, planes, base));
    }
    workgroupBarrier();
    for (var i = lane; i < LOCATIONS; i += THREADS) {
        exponents[i] = exponent_for(atomicLoad(&window_peaks[i]), GROWTH);
    }
}

// Samples of source channel `c`, where there are some.
fn samples_of(places: vec4u, c: u32) -> vec4f {
    let inside = (places != NOTHING_4) & vec4<bool>(c < conv.c_in);
    let at = select(vec4u(0u), places + c * channel_len(), inside);
    return select(vec4f(0.0), vec4f(x[at.x], x[at.y], x[at.z], x[at.w]), inside);
}

// Where the high halves of a value's left factors of a term begin, and the low ones.
fn high_at(value: u32, k: u32) -> u32 {
    return (select(1u, 2u, SPLIT) * value * CHUNK + k) * PITCH;
}

fn low_at(value: u32, k: u32) -> u32 {
    return ((2u * value + 1u) * CHUNK + k) * PITCH;
}

fn lay_down(value: u32, k: u32, window: u32, spectrum: vec4f) {
    let exponent = exponents[window];
    let v = select(spectrum * factor_of(exponent), vec4f(0.0), exponent == UNFIT);
    let part = high_part(v);
    let high = vec4h(part);
    lefts[high_at(value, k) + window] = high.x;
    lefts[high_at(value + 1u, k) + window] = high.y;
    lefts[high_at(value + 2u, k) + window] = high.z;
    lefts[high_at(value + 3u, k) + window] = high.w;
    if (SPLIT) {
        let low = low_half(v, part);
        lefts[low_at(value, k) + window] = low.x;
        lefts[low_at(value + 1u, k) + window] = low.y;
        lefts[low_at(value + 2u, k) + window] = low.z;
        lefts[low_at(value + 3u, k) + window] = low.w;
    }
}

// The left factors of CHUNK terms from `first`.
fn lay_down_c4(first: u32, lane: u32) {
    for (var i = lane; i < LOCATIONS * CHUNK; i += THREADS) {
        let term = first + i / LOCATIONS;
        let window = i % LOCATIONS;
        let place = term % TAPS * LOCATIONS + window;
        lay_down(0u, i / LOCATIONS, window, transform_c4(samples_of(turned_at[place], term / TAPS)));
    }
}

fn lay_down_d4(first: u32, lane: u32) {
    for (var i = lane; i < LOCATIONS * CHUNK; i += THREADS) {
        let term = first + i / LOCATIONS;
        let window = i % LOCATIONS;
        let place = term % TAPS * LOCATIONS + window;
        let c = term / TAPS;
        let f = transform_d4(Values(samples_of(turned_at[place], c), samples_of(mirrored_at[place], c)));
        lay_down(0u, i / LOCATIONS, window, f.one);
        lay_down(4u, i / LOCATIONS, window, f.two);
    }
}

// ---- The results ----

// What a subgroup makes: its number in the workgroup, and its first window and result channel there.
struct Share {
    number: u32,
    window: u32,
    channel: u32,
}

fn share_of(lane: u32) -> Share {
    let number = lane / SUBGROUP;
    return Share(number, number % ROWS * SIZE, number / ROWS * SIZE);
}

// One value of what direct.wgsl makes.
fn direct_value(base: vec3i, phase: u32, channel: u32, plane: u32, mirrored: bool) -> f32 {
    if (!mirrored) {
        return inverse_c4(direct_sum_c4(base, phase, channel))[plane];
    }
    let values = inverse_d4(direct_sum_d4(base, phase, channel));
    return select(values.turned, values.mirrored, plane >= 4u)[plane % 4u];
}

// Stores one plane of a subgroup's tile, once it is in `results`.
fn store_plane(area: Area, share: Share, lane: u32, plane: u32, mirrored: bool) {
    workgroupBarrier();
    for (var i = lane % SUBGROUP; i < SIZE * SIZE; i += SUBGROUP) {
        let window = share.window + i % SIZE;
        let channel = area.vector * SIZE + share.channel + i / SIZE;
        let goal = goal_of(area.position + window, area.phase);
        if (goal.exists && channel < conv.c_out) {
            let column = columns[channel];
            let exponent = exponents[window];
            var value = 0.0;
            if (exponent == UNFIT || column.exponent == UNFIT) {
                let base = base_of(window_at(area.position + window));
                value = direct_value(base, area.phase, channel, plane, mirrored);
            } else {
                let sum = results[share.number * SIZE * SIZE + i];
                value = times_power_of_two(sum, -(exponent + column.exponent));
            }
            let count = conv.out_height * conv.out_width;
            let at = ((goal.image * conv.c_out + channel) * select(4u, 8u, mirrored) + plane) * count + goal.place;
            result[at] = finished(value, vec2f(column.scale, column.shift));
        }
    }
    workgroupBarrier();
}
