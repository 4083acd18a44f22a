// The first pass of the weight's gradient on the units of tensor_cores.wgsl; the second is that of weight_gradient.wgsl.
//
// dψ̃ = Σ F̂ᵀ·dŷ is a few matrix products: a row belongs to a term, a column to a result channel, and what is summed over are
// windows. A workgroup makes COLS tiles of SIZE result channels at ROWS tiles of SIZE terms, of a chunk of the windows. Its
// invocations lay down both factors of CHUNK windows, and each subgroup makes the products of one tile.
//
// Factors are sums of two halves, see halves.wgsl. An exponent cannot belong to a window here, for windows are what is
// summed. So each source channel has one, and each result channel, from its largest value in the batch. Where none fits,
// the sums are made in floats.
//
// A turn changes the order of the windows. So gradients of turned inputs agree up to rounding, as they do in fp32.

// Terms and result channels of a workgroup, and room for right factors.
override TERMS: u32 = 32;
override OUTPUTS: u32 = 64;
override RIGHTS: u32 = 2560;

// Largest |x| of each source channel, largest |dy| of each result channel: as bits, PIECES of each.
@group(0) @binding(2) var<storage, read> source_peaks: array<u32>;
@group(0) @binding(3) var<storage, read> result_peaks: array<u32>;
// As the second pass reads them: [chunk, result channel, term, value].
@group(0) @binding(4) var<storage, read_write> partials_made: array<f32>;

// Left and right factors lie by value, high or low half, term or result channel, and window.
var<workgroup> rights: array<f16, RIGHTS>;
var<workgroup> term_exponents: array<i32, TERMS>;
var<workgroup> output_exponents: array<i32, OUTPUTS>;
// Of a run of windows: where they are, with the first sample of their dy, or NOTHING.
var<workgroup> run_bases: array<vec3i, RUN>;
var<workgroup> run_goals: array<u32, RUN>;

// ---- Peaks of channels ----

// Workgroups of a channel.
const PIECES: u32 = 8u;

@group(0) @binding(1) var<storage, read_write> channel_peaks_made: array<u32>;

@compute @workgroup_size(256)
fn find_channel_peaks(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                      @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.c_in * PIECES) {
        return;
    }
    var peak = 0u;
    for (var image = index % PIECES; image < conv.images; image += PIECES) {
        let first = (image * conv.c_in + index / PIECES) * channel_len();
        for (var i = lane; i < channel_len(); i += 256u) {
            peak = max(peak, bitcast<u32>(x[first + i]) & 0x7fffffffu);
        }
    }
    slice_peaks[lane] = peak;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            slice_peaks[lane] = max(slice_peaks[lane], slice_peaks[lane + half]);
        }
    }
    if (lane == 0u) {
        channel_peaks_made[index] = slice_peaks[0];
    }
}

// ---- What a workgroup sums ----

struct Sweep {
    // First and last but one window, first term, first result channel.
    first: u32,
    end: u32,
    term: u32,
    channel: u32,
    chunk: u32,
}

fn sweep_of(index: u32) -> Sweep {
    let along = index / conv.parts;
    let chunk = along / conv.bands;
    let first = chunk * conv.chunk;
    let end = min(first + conv.chunk, conv.positions);
    return Sweep(first, end, along % conv.bands * TERMS, index % conv.parts * OUTPUTS, chunk);
}

// A term's source channel, which may lie beyond the last, and its tap.
fn run_of(term: u32) -> Run {
    let run = run_at(min(term / DEPTH, run_count() - 1u));
    return Run(run.first + term % DEPTH, run.tap);
}

fn exists(term: u32, channel: u32) -> bool {
    return term / DEPTH < run_count() && channel < conv.c_in;
}

// The bias has one term.
fn is_bias_term(term: u32) -> bool {
    return term == run_count() * DEPTH;
}

// The bias's source is constantly 1, so its spectrum is this, in a group of `order`; and its exponent.
fn spectrum_of_one(order: u32) -> vec4f {
    return vec4f(f32(order), 0.0, 0.0, 0.0);
}

const BIAS_EXPONENT: i32 = 10;

fn find_exponents(sweep: Sweep, lane: u32) {
    for (var i = lane; i < TERMS; i += THREADS) {
        let channel = run_of(sweep.term + i).first;
        var peak = 0u;
        if (exists(sweep.term + i, channel)) {
            for (var piece = 0u; piece < PIECES; piece++) {
                peak = max(peak, source_peaks[channel * PIECES + piece]);
            }
        }
        term_exponents[i] = select(exponent_for(peak, GROWTH), BIAS_EXPONENT, is_bias_term(sweep.term + i));
    }
    for (var i = lane; i < OUTPUTS; i += THREADS) {
        var peak = 0u;
        if (sweep.channel + i < conv.c_out) {
            for (var piece = 0u; piece < PIECES; piece++) {
                peak = max(peak, result_peaks[(sweep.channel + i) * PIECES + piece]);
            }
        }
        output_exponents[i] = exponent_for(peak, GROWTH);
    }
}

// Where dy of window `position` begins.
fn goal_of_dy(position: u32, order: u32) -> u32 {
    let window = window_at(position);
    let count = conv.out_height * conv.out_width;
    return window.image * conv.c_out * order * count + window.row * conv.out_width + window.column;
}

// Those of the RUN windows from the chunk's window `run`.
fn find_windows(sweep: Sweep, run: u32, order: u32, lane: u32) {
    for (var i = lane; i < RUN; i += THREADS) {
        let position = sweep.first + run + i;
        run_bases[i] = base_of(window_at(position));
        run_goals[i] = select(NOTHING, goal_of_dy(position, order), position < sweep.end);
    }
}

// ---- What is laid down ----

// Where the factors of a value begin, of `rows` terms or result channels.
fn factors_at(value: u32, low: u32, rows: u32) -> u32 {
    return (select(1u, 2u, SPLIT) * value + low) * rows * PITCH;
}

fn scaled(v: vec4f, exponent: i32) -> vec4f {
    return select(v * factor_of(exponent), vec4f(0.0), exponent == UNFIT);
}

fn lay_left(value: u32, at: u32, v: vec4f) {
    let part = high_part(v);
    let high = vec4h(part);
    lefts[factors_at(value, 0u, TERMS) + at] = high.x;
    lefts[factors_at(value + 1u, 0u, TERMS) + at] = high.y;
    lefts[factors_at(value + 2u, 0u, TERMS) + at] = high.z;
    lefts[factors_at(value + 3u, 0u, TERMS) + at] = high.w;
    if (SPLIT) {
        let low = low_half(v, part);
        lefts[factors_at(value, 1u, TERMS) + at] = low.x;
        lefts[factors_at(value + 1u, 1u, TERMS) + at] = low.y;
        lefts[factors_at(value + 2u, 1u, TERMS) + at] = low.z;
        lefts[factors_at(value + 3u, 1u, TERMS) + at] = low.w;
    }
}

fn lay_right(value: u32, at: u32, v: vec4f) {
    let part = high_part(v);
    let high = vec4h(part);
    rights[factors_at(value, 0u, OUTPUTS) + at] = high.x;
    rights[factors_at(value + 1u, 0u, OUTPUTS) + at] = high.y;
    rights[factors_at(value + 2u, 0u, OUTPUTS) + at] = high.z;
    rights[factors_at(value + 3u, 0u, OUTPUTS) + at] = high.w;
    if (SPLIT) {
        let low = low_half(v, part);
        rights[factors_at(value, 1u, OUTPUTS) + at] = low.x;
        rights[factors_at(value + 1u, 1u, OUTPUTS) + at] = low.y;
        rights[factors_at(value + 2u, 1u, OUTPUTS) + at] = low.z;
        rights[factors_at(value + 3u, 1u, OUTPUTS) + at] = low.w;
    }
}

// Terms that an invocation lays down at a time: they are of one run, so their samples lie in the same places of their
// channels. Windows vary fastest, so that neighbours fetch neighbouring samples.
const TOGETHER: u32 = 4u;

// Both factors of CHUNK windows from `first` of the run.
fn lay_both_c4(sweep: Sweep, first: u32, lane: u32) {
    for (var i = lane; i < CHUNK * TERMS / TOGETHER; i += THREADS) {
        let k = i % CHUNK;
        let row = i / CHUNK * TOGETHER;
        let run = run_of(sweep.term + row);
        let turned = turned_samples(run_bases[first + k], origin_of(0u), run.tap);
        for (var j = 0u; j < TOGETHER; j++) {
            let term = sweep.term + row + j;
            let met = exists(term, run.first + j);
            let f = transform_c4(fetch(turned, select(0u, run.first + j, met) * channel_len()));
            let v = select(select(vec4f(0.0), f, met), spectrum_of_one(4u), is_bias_term(term));
            lay_left(0u, (row + j) * PITCH + k, scaled(v, term_exponents[row + j]));
        }
    }
    for (var i = lane; i < CHUNK * OUTPUTS; i += THREADS) {
        let k = i % CHUNK;
        let column = i / CHUNK;
        let w = transform_c4(dy_quarter(run_goals[first + k], sweep.channel + column, 0u, 4u)) * SCALE_C4;
        lay_right(0u, column * PITCH + k, scaled(w, output_exponents[column]));
    }
}

fn lay_both_d4(sweep: Sweep, first: u32, lane: u32) {
    for (var i = lane; i < CHUNK * TERMS / TOGETHER; i += THREADS) {
        let k = i % CHUNK;
        let row = i / CHUNK * TOGETHER;
        let run = run_of(sweep.term + row);
        let turned = turned_samples(run_bases[first + k], origin_of(0u), run.tap);
        let mirrored = mirrored_samples(run_bases[first + k], origin_of(0u), run.tap);
        for (var j = 0u; j < TOGETHER; j++) {
            let term = sweep.term + row + j;
            let met = exists(term, run.first + j);
            let beyond = select(0u, run.first + j, met) * channel_len();
            let f = transform_d4(Values(fetch(turned, beyond), fetch(mirrored, beyond)));
            let one = select(select(vec4f(0.0), f.one, met), spectrum_of_one(8u), is_bias_term(term));
            let exponent = term_exponents[row + j];
            lay_left(0u, (row + j) * PITCH + k, scaled(one, exponent));
            lay_left(4u, (row + j) * PITCH + k, scaled(select(vec4f(0.0), f.two, met), exponent));
        }
    }
    for (var i = lane; i < CHUNK * OUTPUTS; i += THREADS) {
        let k = i % CHUNK;
        let column = i / CHUNK;
        let w = transform_d4(dy_values(run_goals[first + k], sweep.channel + column));
        lay_right(0u, column * PITCH + k, scaled(w.one * 0.125, output_exponents[column]));
        lay_right(4u, column * PITCH + k, scaled(w.two * 0.25, output_exponents[column]));
    }
}

// ---- Partial sums ----

// What a subgroup makes: its number in the workgroup, and its first term and result channel there.
struct Tile {
    number: u32,
    row: u32,
    column: u32,
}

fn tile_of(lane: u32) -> Tile {
    let number = lane / SUBGROUP;
    return Tile(number, number % ROWS * SIZE, number / ROWS * SIZE);
}

// Element i of a tile: its term and result channel in the workgroup, where its sum goes, and whether it is one.
struct Element {
    row: u32,
    column: u32,
    at: u32,
    exists: bool,
    fits: bool,
}

fn element_of(sweep: Sweep, tile: Tile, i: u32, order: u32) -> Element {
    let row = tile.row + i % SIZE;
    let column = tile.column + i / SIZE;
    let term = sweep.term + row;
    let channel = sweep.channel + column;
    let at = partial_place(sweep.chunk, conv.c_out, channel, term) * order;
    let fits = term_exponents[row] != UNFIT && output_exponents[column] != UNFIT;
    return Element(row, column, at, term < term_count() && channel < conv.c_out, fits);
}

// Stores one value of a subgroup's sums, once they are in `results`.
fn keep_value(sweep: Sweep, tile: Tile, lane: u32, value: u32, order: u32) {
    workgroupBarrier();
    for (var i = lane % SUBGROUP; i < SIZE * SIZE; i += SUBGROUP) {
        let element = element_of(sweep, tile, i, order);
        if (element.exists && element.fits) {
            let exponent = term_exponents[element.row] + output_exponents[element.column];
            partials_made[element.at + value] = times_power_of_two(results[tile.number * SIZE * SIZE + i], -exponent);
        }
    }
    workgroupBarrier();
}

fn keep_four(at: u32, sum: vec4f) {
    partials_made[at] = sum.x;
    partials_made[at + 1u] = sum.y;
    partials_made[at + 2u] = sum.z;
    partials_made[at + 3u] = sum.w;
}

// The sums that no exponent fits, in floats.
fn keep_unfit_c4(sweep: Sweep, tile: Tile, lane: u32) {
    for (var i = lane % SUBGROUP; i < SIZE * SIZE; i += SUBGROUP) {
        let element = element_of(sweep, tile, i, 4u);
        if (element.exists && !element.fits) {
            let term = sweep.term + element.row;
            let run = run_of(term);
            let met = exists(term, run.first);
            let beyond = select(0u, run.first, met) * channel_len();
            var sum = vec4f(0.0);
            for (var position = sweep.first; position < sweep.end; position++) {
                let f = transform_c4(fetch(turned_samples(base_of(window_at(position)), origin_of(0u), run.tap), beyond));
                let v = select(select(vec4f(0.0), f, met), spectrum_of_one(4u), is_bias_term(term));
                let values = dy_quarter(goal_of_dy(position, 4u), sweep.channel + element.column, 0u, 4u);
                sum = add_product_c4(sum, v, transform_c4(values) * SCALE_C4);
            }
            keep_four(element.at, sum);
        }
    }
}

// As place_d4 of weight_gradient.wgsl, F̂ is transposed.
fn keep_unfit_d4(sweep: Sweep, tile: Tile, lane: u32) {
    for (var i = lane % SUBGROUP; i < SIZE * SIZE; i += SUBGROUP) {
        let element = element_of(sweep, tile, i, 8u);
        if (element.exists && !element.fits) {
            let term = sweep.term + element.row;
            let run = run_of(term);
            let met = exists(term, run.first);
            let beyond = select(0u, run.first, met) * channel_len();
            var sum = Spectrum();
            for (var position = sweep.first; position < sweep.end; position++) {
                let base = base_of(window_at(position));
                let turned = fetch(turned_samples(base, origin_of(0u), run.tap), beyond);
                let mirrored = fetch(mirrored_samples(base, origin_of(0u), run.tap), beyond);
                let f = transform_d4(Values(turned, mirrored));
                let one = select(select(vec4f(0.0), f.one, met), spectrum_of_one(8u), is_bias_term(term));
                let w = transform_d4(dy_values(goal_of_dy(position, 8u), sweep.channel + element.column));
                let two = select(vec4f(0.0), f.two.xzyw, met);
                sum = add_product_d4(sum, Spectrum(one, two), Spectrum(w.one * 0.125, w.two * 0.25));
            }
            keep_four(element.at, sum.one);
            keep_four(element.at + 4u, sum.two);
        }
    }
}
