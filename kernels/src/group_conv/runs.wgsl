// What is summed over windows in the gradient of a weight, and where partial sums lie. A term is a source channel under a
// tap, and terms stand in runs. The bias is one more run, whose source is constantly 1.

// Source channels of a run.
override DEPTH: u32 = 5;

// Some source channels under one tap. A term of a run is a channel.
struct Run {
    first: u32,
    tap: vec2u,
}

fn run_count() -> u32 {
    return (conv.c_in + DEPTH - 1u) / DEPTH * tap_count();
}

fn run_at(index: u32) -> Run {
    return Run(index / tap_count() * DEPTH, tap_at(index % tap_count()));
}

fn is_bias(index: u32) -> bool {
    return index == run_count();
}

@group(0) @binding(1) var<storage, read> dy: array<f32>;

// dy of one result channel and plane, `goal` being where that of the first is; zero where there is none, so that all
// steps can be summed.
fn dy_at(goal: u32, channel: u32, plane: u32, order: u32) -> f32 {
    let exists = goal != NOTHING && channel < conv.c_out;
    let at = select(0u, goal + (channel * order + plane) * conv.out_height * conv.out_width, exists);
    return select(0.0, dy[at], exists);
}

fn dy_quarter(goal: u32, channel: u32, first: u32, order: u32) -> vec4f {
    return vec4f(
        dy_at(goal, channel, first, order),
        dy_at(goal, channel, first + 1u, order),
        dy_at(goal, channel, first + 2u, order),
        dy_at(goal, channel, first + 3u, order),
    );
}

fn dy_values(goal: u32, channel: u32) -> Values {
    return Values(dy_quarter(goal, channel, 0u, 8u), dy_quarter(goal, channel, 4u, 8u));
}

// ---- Partial sums ----

// Partial sums lie as [chunk, row, term], terms as [run, channel of the run].
fn term_count() -> u32 {
    return (run_count() + 1u) * DEPTH;
}

fn partial_place(chunk: u32, rows: u32, row: u32, term: u32) -> u32 {
    return (chunk * rows + row) * term_count() + term;
}
