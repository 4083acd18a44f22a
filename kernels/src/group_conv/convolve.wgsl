// The convolution and, with the adjoint's filters, its dx: an implicit matrix product of filters and windows.
//
// A workgroup makes LEFT_PITCH vectors of result channels, all elements of the group, at RIGHT_PITCH windows of one
// phase. For each run it transforms the windows' samples and the filters into its panels, multiplies these, and at the
// end transforms back. Where dx would meet the zeros that a stride puts between the samples of dy, it does not look:
// in each phase only those taps are visited that meet a sample in some rotation.

// Invocations that share the samples of a window.
override SPLIT: u32 = 1;
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
    return select(z, max(z, 0.0), RELU);
}

// Where a window's result goes, beyond that of its channel.
struct Goal {
    image: u32,
    place: u32,
    exists: bool,
}

fn goal_of(position: u32, phase: u32) -> Goal {
    let window = window_at(position);
    let at = vec2u(window.row, window.column) * DILATION + vec2u(phase / DILATION, phase % DILATION);
    let exists = position < conv.positions && all(at < vec2u(conv.out_height, conv.out_width));
    return Goal(window.image, at.x * conv.out_width + at.y, exists);
}

// Stores one value of a channel's plane.
fn store(goal: Goal, channel: u32, plane: u32, order: u32, value: f32, affine: vec2f) {
    let count = conv.out_height * conv.out_width;
    y[((goal.image * conv.c_out + channel) * order + plane) * count + goal.place] = finished(value, affine);
}

fn store_c1(goal: Goal, first: u32, values: vec4f) {
    if (goal.exists) {
        for (var t = 0u; t < 4u; t++) {
            if (first + t < conv.c_out) {
                store(goal, first + t, 0u, 1u, values[t], affine_of(first + t));
            }
        }
    }
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
        for (var r = 0u; r < 4u; r++) {
            store(goal, channel, r, 8u, values.turned[r], affine);
            store(goal, channel, r + 4u, 8u, values.mirrored[r], affine);
        }
    }
}

fn store_tile_c1(goal: Goal, first: u32, tile: Tile) {
    store_c1(goal, first, tile.a);
    store_c1(goal, first + 4u, tile.b);
    store_c1(goal, first + 8u, tile.c);
    store_c1(goal, first + 12u, tile.d);
    if (TILE == 5u) {
        store_c1(goal, first + 16u, tile.e);
    }
}

fn store_tile_c4(goal: Goal, first: u32, tile: Tile) {
    store_c4(goal, first, tile.a);
    store_c4(goal, first + 1u, tile.b);
    store_c4(goal, first + 2u, tile.c);
    store_c4(goal, first + 3u, tile.d);
    if (TILE == 5u) {
        store_c4(goal, first + 4u, tile.e);
    }
}

fn store_tile_d4(goal: Goal, first: u32, tile: TileD4) {
    store_d4(goal, first, tile.a);
    store_d4(goal, first + 1u, tile.b);
    store_d4(goal, first + 2u, tile.c);
    store_d4(goal, first + 3u, tile.d);
}

// ---- The panels ----

// What a workgroup makes.
struct Area {
    phase: u32,
    // Its first window, and its first vector of result channels.
    position: u32,
    row: u32,
}

// Neighbouring workgroups share their windows and make different channels.
fn area_of(index: u32) -> Area {
    let areas = (conv.positions + RIGHT_PITCH - 1u) / RIGHT_PITCH;
    let along = index / conv.parts;
    return Area(along / areas, along % areas * RIGHT_PITCH, index % conv.parts * LEFT_PITCH);
}

// The bases of the workgroup's windows.
var<workgroup> bases: array<vec3i, RIGHT_PITCH>;

fn find_bases(first: u32, lane: u32) {
    for (var i = lane; i < RIGHT_PITCH; i += THREADS) {
        bases[i] = base_of(window_at(first + i));
    }
}

// A window's sample places are found once for all channels of a run.
fn fill_c1(area: Area, run: Run, lane: u32) {
    let origin = origin_of(area.phase);
    for (var unit = lane; unit < RIGHT_PITCH * SPLIT; unit += THREADS) {
        let i = unit % RIGHT_PITCH;
        for (var c = unit / RIGHT_PITCH; c < run.count; c += SPLIT) {
            right_c1[c * RIGHT_PITCH + i] = fetch_one(bases[i], origin, run.tap, (run.first + c) * channel_len());
        }
    }
    for (var unit = lane; unit < run.count * LEFT_PITCH; unit += THREADS) {
        left_one[unit] = filter_c1(4u * (area.row + unit % LEFT_PITCH), run.first + unit / LEFT_PITCH, run);
    }
}

fn fill_c4(area: Area, run: Run, lane: u32) {
    let origin = origin_of(area.phase);
    for (var unit = lane; unit < RIGHT_PITCH * SPLIT; unit += THREADS) {
        let i = unit % RIGHT_PITCH;
        let samples = turned_samples(bases[i], origin, run.tap);
        for (var c = unit / RIGHT_PITCH; c < run.count; c += SPLIT) {
            right_one[c * RIGHT_PITCH + i] = transform_c4(fetch(samples, (run.first + c) * channel_len()));
        }
    }
    for (var unit = lane; unit < run.count * LEFT_PITCH; unit += THREADS) {
        left_one[unit] = filter_c4(area.row + unit % LEFT_PITCH, run.first + unit / LEFT_PITCH, run);
    }
}

fn fill_d4(area: Area, run: Run, lane: u32) {
    let origin = origin_of(area.phase);
    for (var unit = lane; unit < RIGHT_PITCH * SPLIT; unit += THREADS) {
        let i = unit % RIGHT_PITCH;
        let turned = turned_samples(bases[i], origin, run.tap);
        let mirrored = mirrored_samples(bases[i], origin, run.tap);
        for (var c = unit / RIGHT_PITCH; c < run.count; c += SPLIT) {
            let channel = (run.first + c) * channel_len();
            let spectrum = transform_d4(Values(fetch(turned, channel), fetch(mirrored, channel)));
            right_one[c * RIGHT_PITCH + i] = spectrum.one;
            right_two[c * RIGHT_PITCH + i] = spectrum.two;
        }
    }
    for (var unit = lane; unit < run.count * LEFT_PITCH; unit += THREADS) {
        let spectrum = filter_d4(area.row + unit % LEFT_PITCH, run.first + unit / LEFT_PITCH, run);
        left_one[unit] = spectrum.one;
        left_two[unit] = spectrum.two;
    }
}

// Whether a tap meets samples in a phase, in one rotation at least.
fn meets_c1(phase: u32, tap: vec2u) -> bool {
    return all((vec2i(tap) + origin_of(phase)) % i32(DILATION) == vec2i(0));
}

fn meets_c4(phase: u32, tap: vec2u) -> bool {
    return any(aligned(origin_of(phase), turned_rows(tap), turned_columns(tap)));
}

fn meets_d4(phase: u32, tap: vec2u) -> bool {
    let rows = vec4u(K - 1u) - turned_rows(tap);
    return meets_c4(phase, tap) || any(aligned(origin_of(phase), rows, turned_columns(tap)));
}

// ---- The kernels ----

@compute @workgroup_size(THREADS)
fn conv_c1(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of(index);
    find_bases(area.position, lane);
    var sums = Sums();
    for (var r = 0u; r < run_count(); r++) {
        let run = run_at(r);
        if (meets_c1(area.phase, run.tap)) {
            workgroupBarrier();
            fill_c1(area, run, lane);
            workgroupBarrier();
            sums = add_panels_c1(sums, run.count, lane);
        }
    }
    let position = area.position + lane % COLUMNS;
    let channel = 4u * (area.row + lane / COLUMNS * TILE);
    store_tile_c1(goal_of(position, area.phase), channel, sums.t0);
    store_tile_c1(goal_of(position + COLUMNS, area.phase), channel, sums.t1);
    store_tile_c1(goal_of(position + 2u * COLUMNS, area.phase), channel, sums.t2);
    store_tile_c1(goal_of(position + 3u * COLUMNS, area.phase), channel, sums.t3);
}

@compute @workgroup_size(THREADS)
fn conv_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of(index);
    find_bases(area.position, lane);
    var sums = Sums();
    for (var r = 0u; r < run_count(); r++) {
        let run = run_at(r);
        if (meets_c4(area.phase, run.tap)) {
            workgroupBarrier();
            fill_c4(area, run, lane);
            workgroupBarrier();
            sums = add_panels_c4(sums, run.count, lane);
        }
    }
    let position = area.position + lane % COLUMNS;
    let channel = area.row + lane / COLUMNS * TILE;
    store_tile_c4(goal_of(position, area.phase), channel, sums.t0);
    store_tile_c4(goal_of(position + COLUMNS, area.phase), channel, sums.t1);
    store_tile_c4(goal_of(position + 2u * COLUMNS, area.phase), channel, sums.t2);
    store_tile_c4(goal_of(position + 3u * COLUMNS, area.phase), channel, sums.t3);
}

@compute @workgroup_size(THREADS)
fn conv_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let index = linear_group(group, groups);
    if (index >= conv.workgroups) {
        return;
    }
    let area = area_of(index);
    find_bases(area.position, lane);
    var sums = SumsD4();
    for (var r = 0u; r < run_count(); r++) {
        let run = run_at(r);
        if (meets_d4(area.phase, run.tap)) {
            workgroupBarrier();
            fill_d4(area, run, lane);
            workgroupBarrier();
            sums = add_panels_d4(sums, run.count, lane);
        }
    }
    let position = area.position + lane % COLUMNS;
    let channel = area.row + lane / COLUMNS * TILE;
    store_tile_d4(goal_of(position, area.phase), channel, sums.t0);
    store_tile_d4(goal_of(position + COLUMNS, area.phase), channel, sums.t1);
}
