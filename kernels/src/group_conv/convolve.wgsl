// The convolution and, with the adjoint's filters, its dx.
//
// A workgroup makes VECTORS vectors of result channels, all elements of the group, at WINDOWS windows of one phase. It
// stages some source channels at a time in its memory: their filters' spectra, and the samples around its windows, with
// zeros where the source ends. An invocation has TILE vectors of result channels at two windows (four without a group).
// For each tap it transforms its windows' samples and multiplies them with each filter; at the end it transforms back.
//
// Windows are numbered along strips, planes at most some dozens of windows wide, and the samples of a strip with their
// zeros are numbered the same way, strip after strip. So those of a workgroup are one range of numbers, and a tap is at
// the same distance from each window's first sample. Where dx would meet the zeros that a stride puts between the samples
// of dy, it does not look: in each phase only those taps are visited that meet a sample in some rotation.
//
// Per tap an invocation on C4 reads 8 filters, which all its neighbours read too, and 8 samples, transforms these by 16
// additions, and makes 96 multiply-adds; on D4 it reads 4 filters and 16 samples for 48 additions and 96 multiply-adds;
// without a group 5 filters and 4 samples for 80 multiply-adds.

// Vectors of result channels, and windows, of a workgroup.
override VECTORS: u32 = 10;
override WINDOWS: u32 = 128;
// Source channels that are staged at a time.
override CHANNELS: u32 = 2;
// Samples of a strip's row with its zeros, of a strip, and those that are staged of each plane.
override ROW: u32 = 30;
override STRIP: u32 = 900;
override RANGE: u32 = 260;
// Room for all that is staged. (No products of overrides: naga sizes arrays by names only.)
override SAMPLES: u32 = 2080;
override FILTERS: u32 = 180;
override TAPS: u32 = 9;
// What follows: a bias, a norm with given statistics, a ReLU.
override BIASED: bool = false;
override NORM: bool = false;
override RELU: bool = false;

@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read> mean: array<f32>;
@group(0) @binding(6) var<storage, read> variance: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

// ---- The epilogue ----

// Scale and shift of a result channel.
fn affine_of(channel: u32) -> vec2f {
    let added = select(0.0, bias[channel], BIASED);
    if (!NORM) {
        return vec2f(1.0, added);
    }
    let scale = gamma[channel] / sqrt(variance[channel] + conv.eps);
    return vec2f(scale, fma(added - mean[channel], scale, beta[channel]));
}

fn finished(value: f32, affine: vec2f) -> f32 {
    let z = fma(value, affine.x, affine.y);
    return select(z, positive_part(z), RELU);
}

// Where a window's result goes, beyond that of its channel.
struct Goal {
    image: u32,
    place: u32,
    exists: bool,
}

fn goal_of(position: u32, phase: u32) -> Goal {
    let window = window_at(position);
    let at = vec2u(window.row, window.column) * SPREAD + vec2u(phase / SPREAD, phase % SPREAD);
    let exists = window.exists && all(at < vec2u(conv.out_height, conv.out_width));
    return Goal(window.image, at.x * conv.out_width + at.y, exists);
}

// Stores one value of a channel's plane.
fn store(goal: Goal, channel: u32, plane: u32, order: u32, value: f32, affine: vec2f) {
    let count = conv.out_height * conv.out_width;
    y[((goal.image * conv.c_out + channel) * order + plane) * count + goal.place] = finished(value, affine);
}

fn store_c1(goal: Goal, channel: u32, value: f32) {
    if (goal.exists && channel < conv.c_out) {
        store(goal, channel, 0u, 1u, value, affine_of(channel));
    }
}

fn store_vector_c1(goal: Goal, first: u32, values: vec4f) {
    store_c1(goal, first, values.x);
    store_c1(goal, first + 1u, values.y);
    store_c1(goal, first + 2u, values.z);
    store_c1(goal, first + 3u, values.w);
}

fn store_c4(goal: Goal, channel: u32, sum: vec4f) {
    if (goal.exists && channel < conv.c_out) {
        let values = inverse_c4(sum);
        let affine = affine_of(channel);
        store(goal, channel, 0u, 4u, values.x, affine);
        store(goal, channel, 1u, 4u, values.y, affine);
        store(goal, channel, 2u, 4u, values.z, affine);
        store(goal, channel, 3u, 4u, values.w, affine);
    }
}

fn store_d4(goal: Goal, channel: u32, sum: Spectrum) {
    if (goal.exists && channel < conv.c_out) {
        let values = inverse_d4(sum);
        let affine = affine_of(channel);
        store(goal, channel, 0u, 8u, values.turned.x, affine);
        store(goal, channel, 1u, 8u, values.turned.y, affine);
        store(goal, channel, 2u, 8u, values.turned.z, affine);
        store(goal, channel, 3u, 8u, values.turned.w, affine);
        store(goal, channel, 4u, 8u, values.mirrored.x, affine);
        store(goal, channel, 5u, 8u, values.mirrored.y, affine);
        store(goal, channel, 6u, 8u, values.mirrored.z, affine);
        store(goal, channel, 7u, 8u, values.mirrored.w, affine);
    }
}

// Vector `t` of an invocation's tile, at all its windows.
fn store_four_c1(t: u32, goals: array<Goal, 4>, first: u32, a: vec4f, b: vec4f, c: vec4f, d: vec4f) {
    if (t < TILE) {
        store_vector_c1(goals[0], first + 4u * t, a);
        store_vector_c1(goals[1], first + 4u * t, b);
        store_vector_c1(goals[2], first + 4u * t, c);
        store_vector_c1(goals[3], first + 4u * t, d);
    }
}

fn store_pair_c4(t: u32, goals: array<Goal, 2>, first: u32, a: vec4f, b: vec4f) {
    if (t < TILE) {
        store_c4(goals[0], first + t, a);
        store_c4(goals[1], first + t, b);
    }
}

fn store_pair_d4(t: u32, goals: array<Goal, 2>, first: u32, a: Spectrum, b: Spectrum) {
    if (t < TILE) {
        store_d4(goals[0], first + t, a);
        store_d4(goals[1], first + t, b);
    }
}

// ---- What is staged ----

const NOTHING: u32 = 0xffffffffu;
const NOTHING_4: vec4u = vec4u(NOTHING);

// Where the samples of the range are in a plane of the source, or NOTHING.
var<workgroup> origins: array<u32, RANGE>;
// Where a tap's samples are, beyond a window's first, in the rotations and in the reflections; or NOTHING.
var<workgroup> turned_places: array<vec4u, TAPS>;
var<workgroup> mirrored_places: array<vec4u, TAPS>;
// Where a tap's entries are in a filter, of the rotations and of the reflections.
var<workgroup> turned_entries: array<vec4u, TAPS>;
var<workgroup> mirrored_entries: array<vec4u, TAPS>;
// By channel, plane and place.
var<workgroup> samples: array<f32, SAMPLES>;
// By channel, tap and vector.
var<workgroup> filters_one: array<vec4f, FILTERS>;
var<workgroup> filters_two: array<vec4f, FILTERS>;

// What a workgroup makes.
struct Area {
    phase: u32,
    // Its first window, and its first vector of result channels.
    position: u32,
    vector: u32,
}

// Neighbouring workgroups share their windows and make different channels.
fn area_of(index: u32) -> Area {
    let areas = (conv.positions + WINDOWS - 1u) / WINDOWS;
    let along = index / conv.parts;
    return Area(along / areas, along % areas * WINDOWS, index % conv.parts * VECTORS);
}

// The number of a window's first sample in the strips.
fn strip_place(position: u32) -> u32 {
    let index = min(position, conv.positions - 1u);
    let place = index % (conv.rows * conv.strip_columns);
    let at = vec2u(place / conv.strip_columns, place % conv.strip_columns) * STRIDE;
    return index / (conv.rows * conv.strip_columns) * STRIP + at.x * ROW + at.y;
}

// Row and column of the source that the first taps of a phase meet in its first window: ⌈origin/SPREAD⌉.
fn first_met(phase: u32) -> vec2i {
    let origin = origin_of(phase);
    let step = i32(SPREAD);
    return select(origin / step, (origin + step - 1) / step, origin > vec2i(0));
}

fn find_origins(area: Area, lane: u32) {
    let start = strip_place(area.position);
    let met = first_met(area.phase);
    for (var i = lane; i < RANGE; i += THREADS) {
        let strip = (start + i) / STRIP;
        let place = (start + i) % STRIP;
        let image = strip / conv.strips;
        let column = strip % conv.strips * conv.strip_columns * STRIDE + place % ROW;
        let at = vec2u(vec2i(vec2u(place / ROW, column)) + met);
        let inside = image < conv.images && all(at < vec2u(conv.height, conv.width));
        origins[i] = select(NOTHING, image * conv.c_in * channel_len() + at.x * conv.width + at.y, inside);
    }
}

// Where taps in these rows, columns and planes are.
fn places_at(phase: u32, rows: vec4u, columns: vec4u, planes: vec4u) -> vec4u {
    let origin = origin_of(phase);
    let met = first_met(phase);
    let step = vec4i(i32(SPREAD));
    let row = vec4u((vec4i(rows * DILATION) + origin.x) / step - met.x);
    let column = vec4u((vec4i(columns * DILATION) + origin.y) / step - met.y);
    return select(NOTHING_4, planes * RANGE + row * ROW + column, aligned(origin, rows, columns));
}

fn find_turned(phase: u32, lane: u32) {
    let planes = select(vec4u(0u, 1u, 2u, 3u), vec4u(0u), LIFTING);
    for (var q = lane; q < TAPS; q += THREADS) {
        turned_places[q] = places_at(phase, turned_rows(tap_at(q)), turned_columns(tap_at(q)), planes);
        turned_entries[q] = entry_places(q, 0u);
    }
}

fn find_mirrored(phase: u32, lane: u32) {
    let planes = select(vec4u(4u, 5u, 6u, 7u), vec4u(0u), LIFTING);
    for (var q = lane; q < TAPS; q += THREADS) {
        let rows = vec4u(K - 1u) - turned_rows(tap_at(q));
        mirrored_places[q] = places_at(phase, rows, turned_columns(tap_at(q)), planes);
        mirrored_entries[q] = entry_places(q, 4u);
    }
}

// Without a group a tap is only one place, and no other is looked for.
fn find_taps_c1(phase: u32, lane: u32) {
    for (var q = lane; q < TAPS; q += THREADS) {
        let tap = tap_at(q);
        turned_places[q] = places_at(phase, vec4u(tap.x), vec4u(tap.y), vec4u(0u));
        turned_entries[q] = vec4u(entry_place(q, 0u));
    }
}

// Stages the planes of source channels from `first`, `order` planes each, beyond the last zeros. Bounds are constants, so
// that a compiler can fetch the samples all at once.
fn stage_samples(first: u32, order: u32, lane: u32) {
    let planes = select(order, 1u, LIFTING);
    for (var i = lane; i < RANGE; i += THREADS) {
        let origin = origins[i];
        for (var plane = 0u; plane < CHANNELS * planes; plane++) {
            let inside = origin != NOTHING && first + plane / planes < conv.c_in;
            let at = select(0u, origin + first * channel_len() + plane * plane_len(), inside);
            samples[plane * RANGE + i] = select(0.0, x[at], inside);
        }
    }
}

// A filter to be staged: its place, result vector, source channel and tap.
struct Entry {
    at: u32,
    vector: u32,
    channel: u32,
    q: u32,
}

// Neighbours fetch neighbouring taps.
fn entry_of(unit: u32) -> Entry {
    let q = unit % TAPS;
    let vector = unit / TAPS % VECTORS;
    let channel = unit / TAPS / VECTORS;
    return Entry((channel * TAPS + q) * VECTORS + vector, vector, channel, q);
}

fn stage_filters_c1(area: Area, first: u32, lane: u32) {
    for (var unit = lane; unit < FILTERS; unit += THREADS) {
        let entry = entry_of(unit);
        let column = min(first + entry.channel, conv.c_in - 1u);
        filters_one[entry.at] = filter_c1(4u * (area.vector + entry.vector), column, turned_entries[entry.q].x);
    }
}

fn stage_filters_c4(area: Area, first: u32, lane: u32) {
    for (var unit = lane; unit < FILTERS; unit += THREADS) {
        let entry = entry_of(unit);
        let column = min(first + entry.channel, conv.c_in - 1u);
        let places = turned_entries[entry.q];
        filters_one[entry.at] = filter_c4(area.vector + entry.vector, column, places, tap_weight(entry.q, 4u));
    }
}

fn stage_filters_d4(area: Area, first: u32, lane: u32) {
    for (var unit = lane; unit < FILTERS; unit += THREADS) {
        let entry = entry_of(unit);
        let column = min(first + entry.channel, conv.c_in - 1u);
        let turned = turned_entries[entry.q];
        let mirrored = mirrored_entries[entry.q];
        let scale = tap_weight(entry.q, 8u);
        let spectrum = filter_d4(area.vector + entry.vector, column, turned, mirrored, scale);
        filters_one[entry.at] = spectrum.one;
        filters_two[entry.at] = spectrum.two;
    }
}

// ---- The kernels ----

// Four staged samples from a window's first, where there are some.
fn staged(base: u32, places: vec4u) -> vec4f {
    if (SPREAD == 1u) {
        return vec4f(samples[base + places.x], samples[base + places.y], samples[base + places.z], samples[base + places.w]);
    }
    let met = places != NOTHING_4;
    let at = base + select(vec4u(0u), places, met);
    return select(vec4f(0.0), vec4f(samples[at.x], samples[at.y], samples[at.z], samples[at.w]), met);
}

// Whether a phase has none of a tap's samples.
fn is_missed(places: vec4u) -> bool {
    return SPREAD > 1u && all(places == NOTHING_4);
}

// Vectors of result channels of an invocation, at most. Sums are arrays, but no index is left once the short loops over a
// tile are unrolled: results are stored one by one, for a single index that stays would put all sums in slow memory.
const MOST_C1: u32 = 5u;
const MOST_C4: u32 = 8u;
const MOST_D4: u32 = 4u;

@compute @workgroup_size(THREADS)
fn conv_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of(index);
    find_origins(area, lane);
    find_taps_c1(area.phase, lane);
    let vector = lane / COLUMNS * TILE;
    let position = area.position + lane % COLUMNS;
    let start = strip_place(area.position);
    let base = vec4u(
        strip_place(position) - start,
        strip_place(position + COLUMNS) - start,
        strip_place(position + 2u * COLUMNS) - start,
        strip_place(position + 3u * COLUMNS) - start,
    );
    var s0: array<vec4f, MOST_C1>;
    var s1: array<vec4f, MOST_C1>;
    var s2: array<vec4f, MOST_C1>;
    var s3: array<vec4f, MOST_C1>;
    for (var first = 0u; first < conv.c_in; first += CHANNELS) {
        workgroupBarrier();
        stage_samples(first, 1u, lane);
        stage_filters_c1(area, first, lane);
        workgroupBarrier();
        for (var c = 0u; c < min(CHANNELS, conv.c_in - first); c++) {
            for (var q = 0u; q < TAPS; q++) {
                let place = turned_places[q].x;
                if (SPREAD > 1u && place == NOTHING) {
                    continue;
                }
                let at = base + c * RANGE + place;
                let f = vec4f(samples[at.x], samples[at.y], samples[at.z], samples[at.w]);
                for (var t = 0u; t < TILE; t++) {
                    let w = filters_one[(c * TAPS + q) * VECTORS + vector + t];
                    s0[t] = fma(vec4f(f.x), w, s0[t]);
                    s1[t] = fma(vec4f(f.y), w, s1[t]);
                    s2[t] = fma(vec4f(f.z), w, s2[t]);
                    s3[t] = fma(vec4f(f.w), w, s3[t]);
                }
            }
        }
    }
    let goals = array<Goal, 4>(
        goal_of(position, area.phase),
        goal_of(position + COLUMNS, area.phase),
        goal_of(position + 2u * COLUMNS, area.phase),
        goal_of(position + 3u * COLUMNS, area.phase),
    );
    let first = 4u * (area.vector + vector);
    store_four_c1(0u, goals, first, s0[0], s1[0], s2[0], s3[0]);
    store_four_c1(1u, goals, first, s0[1], s1[1], s2[1], s3[1]);
    store_four_c1(2u, goals, first, s0[2], s1[2], s2[2], s3[2]);
    store_four_c1(3u, goals, first, s0[3], s1[3], s2[3], s3[3]);
    store_four_c1(4u, goals, first, s0[4], s1[4], s2[4], s3[4]);
}

@compute @workgroup_size(THREADS)
fn conv_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of(index);
    find_origins(area, lane);
    find_turned(area.phase, lane);
    let vector = lane / COLUMNS * TILE;
    let position = area.position + lane % COLUMNS;
    let start = strip_place(area.position);
    let base_0 = strip_place(position) - start;
    let base_1 = strip_place(position + COLUMNS) - start;
    var s0: array<vec4f, MOST_C4>;
    var s1: array<vec4f, MOST_C4>;
    for (var first = 0u; first < conv.c_in; first += CHANNELS) {
        workgroupBarrier();
        stage_samples(first, 4u, lane);
        stage_filters_c4(area, first, lane);
        workgroupBarrier();
        for (var c = 0u; c < min(CHANNELS, conv.c_in - first); c++) {
            let channel = c * select(4u, 1u, LIFTING) * RANGE;
            for (var q = 0u; q < TAPS; q++) {
                let places = turned_places[q];
                if (is_missed(places)) {
                    continue;
                }
                let f0 = transform_c4(staged(base_0 + channel, places));
                let f1 = transform_c4(staged(base_1 + channel, places));
                for (var t = 0u; t < TILE; t++) {
                    let w = filters_one[(c * TAPS + q) * VECTORS + vector + t];
                    s0[t] = add_product_c4(s0[t], f0, w);
                    s1[t] = add_product_c4(s1[t], f1, w);
                }
            }
        }
    }
    let goals = array<Goal, 2>(goal_of(position, area.phase), goal_of(position + COLUMNS, area.phase));
    let first = area.vector + vector;
    store_pair_c4(0u, goals, first, s0[0], s1[0]);
    store_pair_c4(1u, goals, first, s0[1], s1[1]);
    store_pair_c4(2u, goals, first, s0[2], s1[2]);
    store_pair_c4(3u, goals, first, s0[3], s1[3]);
    store_pair_c4(4u, goals, first, s0[4], s1[4]);
    store_pair_c4(5u, goals, first, s0[5], s1[5]);
    store_pair_c4(6u, goals, first, s0[6], s1[6]);
    store_pair_c4(7u, goals, first, s0[7], s1[7]);
}

@compute @workgroup_size(THREADS)
fn conv_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of(index);
    find_origins(area, lane);
    find_turned(area.phase, lane);
    find_mirrored(area.phase, lane);
    let vector = lane / COLUMNS * TILE;
    let position = area.position + lane % COLUMNS;
    let start = strip_place(area.position);
    let base_0 = strip_place(position) - start;
    let base_1 = strip_place(position + COLUMNS) - start;
    var s0: array<Spectrum, MOST_D4>;
    var s1: array<Spectrum, MOST_D4>;
    for (var first = 0u; first < conv.c_in; first += CHANNELS) {
        workgroupBarrier();
        stage_samples(first, 8u, lane);
        stage_filters_d4(area, first, lane);
        workgroupBarrier();
        for (var c = 0u; c < min(CHANNELS, conv.c_in - first); c++) {
            let channel = c * select(8u, 1u, LIFTING) * RANGE;
            for (var q = 0u; q < TAPS; q++) {
                let turned = turned_places[q];
                let mirrored = mirrored_places[q];
                if (is_missed(turned) && is_missed(mirrored)) {
                    continue;
                }
                let f0 = transform_d4(Values(staged(base_0 + channel, turned), staged(base_0 + channel, mirrored)));
                let f1 = transform_d4(Values(staged(base_1 + channel, turned), staged(base_1 + channel, mirrored)));
                for (var t = 0u; t < TILE; t++) {
                    let at = (c * TAPS + q) * VECTORS + vector + t;
                    let w = Spectrum(filters_one[at], filters_two[at]);
                    s0[t] = add_product_d4(s0[t], f0, w);
                    s1[t] = add_product_d4(s1[t], f1, w);
                }
            }
        }
    }
    let goals = array<Goal, 2>(goal_of(position, area.phase), goal_of(position + COLUMNS, area.phase));
    let first = area.vector + vector;
    store_pair_d4(0u, goals, first, s0[0], s1[0]);
    store_pair_d4(1u, goals, first, s0[1], s1[1]);
    store_pair_d4(2u, goals, first, s0[2], s1[2]);
    store_pair_d4(3u, goals, first, s0[3], s1[3]);
}
