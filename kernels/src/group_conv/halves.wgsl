// Floats as sums of two halves, for the units of tensor_cores.wgsl: v·2ᵉ = high + low·2⁻¹¹.
//
// Halves reach from 2⁻²⁴ to 65504, floats much further. So each window of the source and each result channel has an
// exponent e of its own, which brings its largest value just below 2¹⁵. A window's comes from the largest sample that it
// meets. A turned window meets the same samples, so it has the same exponent. An exponent for an image or a batch would
// lose windows of small samples beside a large one.
//
// Where a sample or a filter is infinite or NaN, or a window's sums might overflow, no exponent fits. Those results are
// made as direct.wgsl makes them.

// Whether values have a low half.
override SPLIT: bool = true;
// Terms of the sum that are in workgroup memory at a time; the filters' terms are filled up to a multiple with zeros.
override CHUNK: u32 = 32;
// Tiles of windows and of result channels in a workgroup.
override ROWS: u32 = 2;
override COLS: u32 = 4;

// What the low half counts for.
const LOW: f32 = 0.00048828125;
// Stands for an exponent where none fits.
const UNFIT: i32 = 1000;

fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>(u32(exponent + 127) << 23u);
}

// The factor of an exponent: 0 where none fits.
fn factor_of(exponent: i32) -> f32 {
    return select(power_of_two(min(exponent, 126)), 0.0, exponent == UNFIT);
}

// value·2^exponent, in two steps, since a power of two may lie further out than the result.
fn times_power_of_two(value: f32, exponent: i32) -> f32 {
    let half = exponent / 2;
    return value * power_of_two(half) * power_of_two(exponent - half);
}

// The exponent for values with these bits at most, without their sign, if sums of them are at most 2^growth as large.
fn exponent_for(bits: u32, growth: i32) -> i32 {
    let largest = i32(bits >> 23u);
    return select(min(141 - growth - largest, 126), UNFIT, largest + growth >= 255);
}

// Sums over the group: eight times as large at most.
const GROWTH: i32 = 3;

// Rounded to the eleven bits of a half, ties away from zero; 0 where a half would be subnormal. By bits: compilers take a
// float that was made a half and a float again for the one it was.
fn high_part(v: vec4f) -> vec4f {
    let rounded = bitcast<vec4f>((bitcast<vec4u>(v) + vec4u(0x1000u)) & vec4u(0xffffe000u));
    return select(rounded, vec4f(0.0), abs(v) < vec4f(0.00006103515625));
}

fn low_half(v: vec4f, high: vec4f) -> vec4h {
    return vec4h((v - high) * 2048.0);
}

fn magnitude_bits(v: vec4f) -> u32 {
    let bits = bitcast<vec4u>(v) & vec4u(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// Terms of the sum, filled up; result channels, filled up to those of all workgroups.
fn padded_terms() -> u32 {
    return (conv.c_in * TAPS + CHUNK - 1u) / CHUNK * CHUNK;
}

fn padded_channels() -> u32 {
    return conv.parts * COLS * SIZE;
}

// ---- Peaks: the largest |x| at each pixel, over channels and planes, as bits without the sign. NaN is above all. ----

const PIXELS: u32 = 32u;
const SLICES: u32 = 8u;

@group(0) @binding(1) var<storage, read_write> peaks_made: array<u32>;
var<workgroup> slice_peaks: array<u32, 256>;

@compute @workgroup_size(256)
fn find_peaks(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) lane: u32) {
    let pixel = linear_group(group, groups) * PIXELS + lane % PIXELS;
    let exists = pixel < conv.images * plane_len();
    var peak = 0u;
    if (exists) {
        let first = pixel / plane_len() * conv.c_in * channel_len() + pixel % plane_len();
        for (var plane = lane / PIXELS; plane < conv.c_in * conv.planes; plane += SLICES) {
            peak = max(peak, bitcast<u32>(x[first + plane * plane_len()]) & 0x7fffffffu);
        }
    }
    slice_peaks[lane] = peak;
    workgroupBarrier();
    if (lane < PIXELS && exists) {
        for (var slice = 1u; slice < SLICES; slice++) {
            peak = max(peak, slice_peaks[slice * PIXELS + lane]);
        }
        peaks_made[pixel] = peak;
    }
}

// ---- Filters: a workgroup makes those of one result channel ----

// What belongs to a result channel: its filters' exponent, and scale and shift of what follows the sum.
struct Column {
    exponent: i32,
    scale: f32,
    shift: f32,
}

// By value, high or low half, term and result channel.
@group(0) @binding(7) var<storage, read_write> filters_made: array<f16>;
@group(0) @binding(8) var<storage, read_write> columns_made: array<Column>;
var<workgroup> lane_peaks: array<u32, WORKGROUP>;

// The largest of all lanes, for all lanes.
fn largest_of_lanes(peak: u32, lane: u32) -> u32 {
    lane_peaks[lane] = peak;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            lane_peaks[lane] = max(lane_peaks[lane], lane_peaks[lane + half]);
        }
    }
    workgroupBarrier();
    return lane_peaks[0];
}

fn finish_column(channel: u32, exponent: i32, lane: u32) {
    if (lane == 0u) {
        let affine = affine_of(min(channel, conv.c_out - 1u));
        columns_made[channel] = Column(exponent, affine.x, affine.y);
    }
}

// Where the high halves of a value's filters begin, and the low ones.
fn high_filters(value: u32) -> u32 {
    return select(1u, 2u, SPLIT) * value * padded_terms() * padded_channels();
}

fn low_filters(value: u32) -> u32 {
    return (2u * value + 1u) * padded_terms() * padded_channels();
}

fn write_filter(value: u32, term: u32, channel: u32, high: f16, low: f16) {
    let at = term * padded_channels() + channel;
    filters_made[high_filters(value) + at] = high;
    if (SPLIT) {
        filters_made[low_filters(value) + at] = low;
    }
}

fn write_filters(value: u32, term: u32, channel: u32, filters: vec4f) {
    let part = high_part(filters);
    let high = vec4h(part);
    let low = low_half(filters, part);
    write_filter(value, term, channel, high.x, low.x);
    write_filter(value + 1u, term, channel, high.y, low.y);
    write_filter(value + 2u, term, channel, high.z, low.z);
    write_filter(value + 3u, term, channel, high.w, low.w);
}

fn filter_c4_of(term: u32, channel: u32) -> vec4f {
    let q = term % TAPS;
    let w = filter_c4(channel, min(term / TAPS, conv.c_in - 1u), entry_places(q, 0u), tap_weight(q, 4u));
    return select(vec4f(0.0), w, term < conv.c_in * TAPS);
}

fn filter_d4_of(term: u32, channel: u32) -> Spectrum {
    let q = term % TAPS;
    let column = min(term / TAPS, conv.c_in - 1u);
    let w = filter_d4(channel, column, entry_places(q, 0u), entry_places(q, 4u), tap_weight(q, 8u));
    let exists = term < conv.c_in * TAPS;
    return Spectrum(select(vec4f(0.0), w.one, exists), select(vec4f(0.0), w.two, exists));
}

// Values 0 to 3 are those of the filter, 4 is the last one with the other sign.
@compute @workgroup_size(WORKGROUP)
fn split_c4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let channel = linear_group(group, groups);
    if (channel >= padded_channels()) {
        return;
    }
    var peak = 0u;
    for (var term = lane; term < conv.c_in * TAPS; term += WORKGROUP) {
        peak = max(peak, magnitude_bits(filter_c4_of(term, channel)));
    }
    let exponent = exponent_for(largest_of_lanes(peak, lane), 0);
    finish_column(channel, exponent, lane);
    let factor = factor_of(exponent);
    for (var term = lane; term < padded_terms(); term += WORKGROUP) {
        let w = select(vec4f(0.0), filter_c4_of(term, channel) * factor, factor > 0.0);
        write_filters(0u, term, channel, w);
        let part = high_part(w);
        write_filter(4u, term, channel, -f16(part.w), -low_half(w, part).w);
    }
}

@compute @workgroup_size(WORKGROUP)
fn split_d4(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let channel = linear_group(group, groups);
    if (channel >= padded_channels()) {
        return;
    }
    var peak = 0u;
    for (var term = lane; term < conv.c_in * TAPS; term += WORKGROUP) {
        let w = filter_d4_of(term, channel);
        peak = max(peak, max(magnitude_bits(w.one), magnitude_bits(w.two)));
    }
    let exponent = exponent_for(largest_of_lanes(peak, lane), 0);
    finish_column(channel, exponent, lane);
    let factor = factor_of(exponent);
    for (var term = lane; term < padded_terms(); term += WORKGROUP) {
        let w = filter_d4_of(term, channel);
        write_filters(0u, term, channel, select(vec4f(0.0), w.one * factor, factor > 0.0));
        write_filters(4u, term, channel, select(vec4f(0.0), w.two * factor, factor > 0.0));
    }
}
