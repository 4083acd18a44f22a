// The gradient of the weight: dψ̃ = Σ F̂ᵀ·dŷ over all windows, in two passes.
//
// In the first, a workgroup sums a chunk of the windows for LEFT_CHANNELS vectors of result channels and RUNS runs of
// terms: the panels' steps are windows, the left factors dŷ, the right ones F̂. (gradient_halves.wgsl is another first
// pass.) In the second, a workgroup adds up the chunks of one filter, in an order that depends on their number alone, and
// transforms back.

// Vectors of result channels, and runs, that a workgroup makes.
override LEFT_CHANNELS: u32 = 10;
override RUNS: u32 = 8;
// Invocations that share the channels of a run while panels are filled.
override SPLIT: u32 = 1;
// Taps that a workgroup of the second pass folds.
override FOLDED: u32 = 9;

@group(0) @binding(2) var<storage, read_write> partials_y: array<vec4f>;

// Where the windows of some steps are, with the first sample of their dy, or NOTHING: of these steps and, beside them,
// of the next.
var<workgroup> step_bases: array<vec3i, 2u * STEPS>;
var<workgroup> step_goals: array<u32, 2u * STEPS>;

// What a workgroup sums.
struct Share {
    // First and last but one window, first vector of result channels, first run.
    first: u32,
    end: u32,
    row: u32,
    run: u32,
    chunk: u32,
}

fn share_of(index: u32) -> Share {
    let along = index / conv.parts;
    let chunk = along / conv.bands;
    let first = chunk * conv.chunk;
    let end = min(first + conv.chunk, conv.positions);
    return Share(first, end, index % conv.parts * LEFT_CHANNELS, along % conv.bands * RUNS, chunk);
}

fn find_step(share: Share, step: u32, order: u32, lane: u32) {
    for (var i = lane; i < STEPS; i += THREADS) {
        let position = share.first + step * STEPS + i;
        let window = window_at(position);
        let at = step % 2u * STEPS + i;
        step_bases[at] = base_of(window);
        let place = window.row * conv.out_width + window.column;
        let goal = window.image * conv.c_out * order * conv.out_height * conv.out_width + place;
        step_goals[at] = select(NOTHING, goal, position < share.end);
    }
}

fn dy_c1(goal: u32, channel: u32) -> vec4f {
    return vec4f(
        dy_at(goal, channel, 0u, 1u),
        dy_at(goal, channel + 1u, 0u, 1u),
        dy_at(goal, channel + 2u, 0u, 1u),
        dy_at(goal, channel + 3u, 0u, 1u),
    );
}

// ---- The panels: windows vary fastest, so that neighbours fetch neighbouring samples, while the steps before are
// summed ----

// An invocation's share of a step: the channels of run `r` that are SPLIT apart from `part`, at window `i`; and a vector
// of dy. There are as many invocations as that.
struct Unit {
    i: u32,
    r: u32,
    part: u32,
    index: u32,
    run: Run,
    exists: bool,
}

fn unit_of(share: Share, lane: u32) -> Unit {
    let r = lane / STEPS % RUNS;
    let index = share.run + r;
    let run = run_at(min(index, run_count() - 1u));
    return Unit(lane % STEPS, r, lane / (STEPS * RUNS), index, run, lane < STEPS * RUNS * SPLIT);
}

// Channel `number` of a unit's, and where its right factor goes.
struct Term {
    channel: u32,
    at: u32,
    // Whether there is such a channel, and whether there is room for it.
    exists: bool,
    placed: bool,
}

fn term_at(unit: Unit, number: u32) -> Term {
    let c = unit.part + number * SPLIT;
    let exists = c < DEPTH && unit.run.first + c < conv.c_in;
    let channel = select(0u, unit.run.first + c, exists);
    return Term(channel, unit.i * RIGHT_PITCH + unit.r * DEPTH + c, exists, unit.exists && c < DEPTH);
}

// Channels of a unit, at most; bounds are constants, so that all samples are fetched at once.
const MOST_TERMS: u32 = 8u;
const MOST_TERMS_D4: u32 = 4u;

fn fetch_c1(unit: Unit, step: u32, samples: ptr<function, array<f32, MOST_TERMS>>) {
    let base = step_bases[step % 2u * STEPS + unit.i];
    for (var number = 0u; number < (DEPTH + SPLIT - 1u) / SPLIT; number++) {
        let term = term_at(unit, number);
        (*samples)[number] = fetch_one(base, origin_of(0u), unit.run.tap, term.channel * channel_len());
    }
}

fn place_c1(unit: Unit, samples: ptr<function, array<f32, MOST_TERMS>>) {
    for (var number = 0u; number < (DEPTH + SPLIT - 1u) / SPLIT; number++) {
        let term = term_at(unit, number);
        if (term.placed) {
            right_c1[term.at] = select(select(0.0, (*samples)[number], term.exists), 1.0, is_bias(unit.index));
        }
    }
}

fn fetch_c4(unit: Unit, step: u32, samples: ptr<function, array<vec4f, MOST_TERMS>>) {
    let turned = turned_samples(step_bases[step % 2u * STEPS + unit.i], origin_of(0u), unit.run.tap);
    for (var number = 0u; number < (DEPTH + SPLIT - 1u) / SPLIT; number++) {
        (*samples)[number] = fetch(turned, term_at(unit, number).channel * channel_len());
    }
}

fn place_c4(unit: Unit, samples: ptr<function, array<vec4f, MOST_TERMS>>) {
    for (var number = 0u; number < (DEPTH + SPLIT - 1u) / SPLIT; number++) {
        let term = term_at(unit, number);
        let f = select(vec4f(0.0), transform_c4((*samples)[number]), term.exists);
        if (term.placed) {
            right_one[term.at] = select(f, vec4f(4.0, 0.0, 0.0, 0.0), is_bias(unit.index));
        }
    }
}

fn fetch_d4(unit: Unit, step: u32, samples: ptr<function, array<Values, MOST_TERMS_D4>>) {
    let base = step_bases[step % 2u * STEPS + unit.i];
    let turned = turned_samples(base, origin_of(0u), unit.run.tap);
    let mirrored = mirrored_samples(base, origin_of(0u), unit.run.tap);
    for (var number = 0u; number < (DEPTH + SPLIT - 1u) / SPLIT; number++) {
        let channel = term_at(unit, number).channel * channel_len();
        (*samples)[number] = Values(fetch(turned, channel), fetch(mirrored, channel));
    }
}

// F̂ is transposed.
fn place_d4(unit: Unit, samples: ptr<function, array<Values, MOST_TERMS_D4>>) {
    for (var number = 0u; number < (DEPTH + SPLIT - 1u) / SPLIT; number++) {
        let term = term_at(unit, number);
        let f = transform_d4((*samples)[number]);
        let one = select(vec4f(0.0), f.one, term.exists);
        let two = select(vec4f(0.0), f.two.xzyw, term.exists);
        if (term.placed) {
            right_one[term.at] = select(one, vec4f(8.0, 0.0, 0.0, 0.0), is_bias(unit.index));
            right_two[term.at] = select(two, vec4f(0.0), is_bias(unit.index));
        }
    }
}

// The window and the vector of dy that an invocation fetches.
fn goal_at(step: u32, lane: u32) -> u32 {
    return select(NOTHING, step_goals[step % 2u * STEPS + lane % STEPS], lane < STEPS * LEFT_CHANNELS);
}

fn left_place(lane: u32) -> u32 {
    return lane % STEPS * LEFT_PITCH + lane / STEPS;
}

// ---- The first pass ----

struct Place {
    chunk: u32,
    rows: u32,
    row: u32,
    term: u32,
    exists: bool,
}

// Where an invocation's sum with its right factor at `right` goes; `rows` vectors of result channels.
fn place_of(share: Share, rows: u32, right: u32, lane: u32) -> Place {
    let term = share.run * DEPTH + right;
    let exists = lane < SLICE && right < RUNS * DEPTH && term < term_count();
    return Place(share.chunk, rows, share.row + lane % SLICE / COLUMNS * TILE, term, exists);
}

fn keep(place: Place, t: u32, sum: vec4f, lane: u32) {
    let total = sum_slices(sum, lane);
    if (place.exists && place.row + t < place.rows) {
        partials_y[partial_place(place.chunk, place.rows, place.row + t, place.term)] = total;
    }
}

fn keep_tile(place: Place, tile: Tile, lane: u32) {
    keep(place, 0u, tile.a, lane);
    keep(place, 1u, tile.b, lane);
    keep(place, 2u, tile.c, lane);
    keep(place, 3u, tile.d, lane);
    if (TILE == 5u) {
        keep(place, 4u, tile.e, lane);
    }
}

fn keep_sums(share: Share, rows: u32, lane: u32, sums: Sums) {
    let right = lane % SLICE % COLUMNS;
    keep_tile(place_of(share, rows, right, lane), sums.t0, lane);
    keep_tile(place_of(share, rows, right + COLUMNS, lane), sums.t1, lane);
    keep_tile(place_of(share, rows, right + 2u * COLUMNS, lane), sums.t2, lane);
    if (COUNT == 4u) {
        keep_tile(place_of(share, rows, right + 3u * COLUMNS, lane), sums.t3, lane);
    }
}

fn keep_d4(place: Place, t: u32, sum: Spectrum, lane: u32) {
    let total = Spectrum(sum_slices(sum.one, lane), sum_slices(sum.two, lane));
    if (place.exists && place.row + t < place.rows) {
        let at = 2u * partial_place(place.chunk, place.rows, place.row + t, place.term);
        partials_y[at] = total.one;
        partials_y[at + 1u] = total.two;
    }
}

fn keep_tile_d4(place: Place, tile: TileD4, lane: u32) {
    keep_d4(place, 0u, tile.a, lane);
    keep_d4(place, 1u, tile.b, lane);
    keep_d4(place, 2u, tile.c, lane);
    keep_d4(place, 3u, tile.d, lane);
}

@compute @workgroup_size(THREADS)
fn partial_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let share = share_of(index);
    let steps = (share.end - share.first + STEPS - 1u) / STEPS;
    let unit = unit_of(share, lane);
    find_step(share, 0u, 1u, lane);
    workgroupBarrier();
    var samples: array<f32, MOST_TERMS>;
    fetch_c1(unit, 0u, &samples);
    var values = dy_c1(goal_at(0u, lane), 4u * (share.row + lane / STEPS));
    find_step(share, 1u, 1u, lane);
    var sums = Sums();
    for (var step = 0u; step < steps; step++) {
        workgroupBarrier();
        place_c1(unit, &samples);
        if (lane < STEPS * LEFT_CHANNELS) {
            left_one[left_place(lane)] = values;
        }
        find_step(share, step + 2u, 1u, lane);
        workgroupBarrier();
        fetch_c1(unit, step + 1u, &samples);
        values = dy_c1(goal_at(step + 1u, lane), 4u * (share.row + lane / STEPS));
        sums = add_panels_c1(sums, lane);
    }
    keep_sums(share, (conv.c_out + 3u) / 4u, lane, sums);
}

@compute @workgroup_size(THREADS)
fn partial_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let share = share_of(index);
    let steps = (share.end - share.first + STEPS - 1u) / STEPS;
    let unit = unit_of(share, lane);
    find_step(share, 0u, 4u, lane);
    workgroupBarrier();
    var samples: array<vec4f, MOST_TERMS>;
    fetch_c4(unit, 0u, &samples);
    var values = dy_quarter(goal_at(0u, lane), share.row + lane / STEPS, 0u, 4u);
    find_step(share, 1u, 4u, lane);
    var sums = Sums();
    for (var step = 0u; step < steps; step++) {
        workgroupBarrier();
        place_c4(unit, &samples);
        if (lane < STEPS * LEFT_CHANNELS) {
            // The adjoint of the inverse transform.
            left_one[left_place(lane)] = transform_c4(values) * SCALE_C4;
        }
        find_step(share, step + 2u, 4u, lane);
        workgroupBarrier();
        fetch_c4(unit, step + 1u, &samples);
        values = dy_quarter(goal_at(step + 1u, lane), share.row + lane / STEPS, 0u, 4u);
        sums = add_panels_c4(sums, lane);
    }
    keep_sums(share, conv.c_out, lane, sums);
}

@compute @workgroup_size(THREADS)
fn partial_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let share = share_of(index);
    let steps = (share.end - share.first + STEPS - 1u) / STEPS;
    let unit = unit_of(share, lane);
    find_step(share, 0u, 8u, lane);
    workgroupBarrier();
    var samples: array<Values, MOST_TERMS_D4>;
    fetch_d4(unit, 0u, &samples);
    var values = dy_values(goal_at(0u, lane), share.row + lane / STEPS);
    find_step(share, 1u, 8u, lane);
    var sums = SumsD4();
    for (var step = 0u; step < steps; step++) {
        workgroupBarrier();
        place_d4(unit, &samples);
        if (lane < STEPS * LEFT_CHANNELS) {
            let spectrum = transform_d4(values);
            left_one[left_place(lane)] = spectrum.one * 0.125;
            left_two[left_place(lane)] = spectrum.two * 0.25;
        }
        find_step(share, step + 2u, 8u, lane);
        workgroupBarrier();
        fetch_d4(unit, step + 1u, &samples);
        values = dy_values(goal_at(step + 1u, lane), share.row + lane / STEPS);
        sums = add_panels_d4(sums, lane);
    }
    let right = lane % SLICE % COLUMNS;
    keep_tile_d4(place_of(share, conv.c_out, right, lane), sums.t0, lane);
    keep_tile_d4(place_of(share, conv.c_out, right + COLUMNS, lane), sums.t1, lane);
}

// ---- The second pass ----

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(2) var<storage, read_write> dbias: array<f32>;

var<workgroup> dpsi_turned: array<vec4f, FOLDED>;
var<workgroup> dpsi_mirrored: array<vec4f, FOLDED>;
var<workgroup> lane_sums: array<vec4f, WORKGROUP>;

// The sum over the chunks of vector `part` of `parts` that they have for a row's term: lanes sum a stride apart, then
// pairwise.
fn chunk_sum(row: u32, rows: u32, term: u32, part: u32, parts: u32, lane: u32) -> vec4f {
    var total = vec4f(0.0);
    for (var chunk = lane; chunk < conv.chunks; chunk += WORKGROUP) {
        total += partials[partial_place(chunk, rows, row, term) * parts + part];
    }
    workgroupBarrier();
    lane_sums[lane] = total;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lane_sums[lane] += lane_sums[lane + half];
        }
    }
    workgroupBarrier();
    return lane_sums[0];
}

// What a workgroup folds: the filter of source channel c to `row`, at the taps from q; c = c_in is the bias.
struct Fold {
    row: u32,
    c: u32,
    q: u32,
    taps: u32,
}

fn fold_of(index: u32) -> Fold {
    let taps = select(1u, tap_count(), LIFTING);
    let shares = tap_count() / taps;
    let along = index / shares;
    return Fold(along / (conv.c_in + 1u), along % (conv.c_in + 1u), index % shares * taps, taps);
}

fn term_of(fold: Fold, q: u32) -> u32 {
    let run = select(fold.c / DEPTH * tap_count() + q, run_count(), fold.c == conv.c_in);
    return run * DEPTH + select(fold.c % DEPTH, 0u, fold.c == conv.c_in);
}

fn dweight_place(o: u32, c: u32, plane: u32, tap: vec2u) -> u32 {
    return (((o * conv.c_in + c) * conv.planes + plane) * K + tap.x) * K + tap.y;
}

@compute @workgroup_size(WORKGROUP)
fn fold_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let fold = fold_of(index);
    let sum = chunk_sum(fold.row, (conv.c_out + 3u) / 4u, term_of(fold, fold.q), 0u, 1u, lane);
    let o = 4u * fold.row + lane;
    if (lane < 4u && o < conv.c_out) {
        if (fold.c < conv.c_in) {
            dweight[dweight_place(o, fold.c, 0u, tap_at(fold.q))] = sum[lane];
        } else if (fold.q == 0u) {
            dbias[o] = sum[lane];
        }
    }
}

// Writes the gradients of one filter from dψ. When lifting, an entry is part of the filters of all elements that move
// a tap there.
fn spread(fold: Fold, order: u32, lane: u32) {
    if (!LIFTING) {
        if (lane < order) {
            let value = select(dpsi_turned[0][lane & 3u], dpsi_mirrored[0][lane & 3u], lane >= 4u);
            dweight[dweight_place(fold.row, fold.c, lane, move_entry(lane, tap_at(fold.q), vec2u(K)))] = value;
        }
        return;
    }
    for (var i = lane; i < K * K; i += WORKGROUP) {
        let entry = vec2u(i / K, i % K);
        var total = 0.0;
        for (var d = 0u; d < order; d++) {
            let q = tap_number(move_entry(group_inverse(d), entry, vec2u(K)));
            if (q < tap_count()) {
                let value = select(dpsi_turned[q][d & 3u], dpsi_mirrored[q][d & 3u], d >= 4u);
                total = fma(value, tap_weight(q, order), total);
            }
        }
        dweight[dweight_place(fold.row, fold.c, 0u, entry)] = total;
    }
}

@compute @workgroup_size(WORKGROUP)
fn fold_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let fold = fold_of(index);
    if (fold.c == conv.c_in) {
        let sum = chunk_sum(fold.row, conv.c_out, term_of(fold, 0u), 0u, 1u, lane);
        if (lane == 0u && fold.q == 0u) {
            dbias[fold.row] = sum.x;
        }
        return;
    }
    for (var t = 0u; t < fold.taps; t++) {
        let sum = chunk_sum(fold.row, conv.c_out, term_of(fold, fold.q + t), 0u, 1u, lane);
        if (lane == 0u) {
            dpsi_turned[t] = inverse_c4(sum);
        }
    }
    workgroupBarrier();
    spread(fold, 4u, lane);
}

@compute @workgroup_size(WORKGROUP)
fn fold_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let fold = fold_of(index);
    if (fold.c == conv.c_in) {
        let sum = chunk_sum(fold.row, conv.c_out, term_of(fold, 0u), 0u, 2u, lane);
        if (lane == 0u && fold.q == 0u) {
            dbias[fold.row] = sum.x;
        }
        return;
    }
    for (var t = 0u; t < fold.taps; t++) {
        let term = term_of(fold, fold.q + t);
        let one = chunk_sum(fold.row, conv.c_out, term, 0u, 2u, lane);
        let two = chunk_sum(fold.row, conv.c_out, term, 1u, 2u, lane);
        if (lane == 0u) {
            let values = inverse_d4(Spectrum(one, two.xzyw));
            dpsi_turned[t] = values.turned;
            dpsi_mirrored[t] = values.mirrored;
        }
    }
    workgroupBarrier();
    spread(fold, 8u, lane);
}
