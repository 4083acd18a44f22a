// Sums over a plane or window that no turn or reflection changes by a bit. `sample(row, column)` is the shader's own.

// The sum of `sample` over `height` × `width` positions, taken over the orbits of their symmetries: opposite points
// first, then their images under the quarter turn or, on a rectangle, the mirror, then the mirrored half. A symmetry
// keeps the operands of each addition or exchanges them.
fn orbit_sum(height: u32, width: u32) -> f32 {
    var total = 0.0;
    if (height == width) {
        for (var y = 0u; 2u * y < height; y++) {
            for (var x = y; 2u * x < height; x++) {
                total += square_orbit(y, x, height - 1u);
            }
        }
    } else {
        // The longer axis outside, so that a turned rectangle meets its orbits in the same order.
        let long = max(height, width);
        let short = min(height, width);
        for (var i = 0u; 2u * i < long; i++) {
            for (var j = 0u; 2u * j < short; j++) {
                let here = select(vec2u(j, i), vec2u(i, j), height > width);
                total += rectangle_orbit(here, vec2u(height, width) - 1u);
            }
        }
    }
    return total;
}

// Four positions, a quarter turn apart.
fn square_half(y: u32, x: u32, last: u32) -> f32 {
    return (sample(y, x) + sample(last - y, last - x)) + (sample(x, last - y) + sample(last - x, y));
}

fn square_orbit(y: u32, x: u32, last: u32) -> f32 {
    if (2u * y == last && 2u * x == last) {
        return sample(y, x);
    }
    let half = square_half(y, x, last);
    if (y == x || 2u * x == last) {
        return half;
    }
    return half + square_half(y, last - x, last);
}

fn rectangle_orbit(here: vec2u, last: vec2u) -> f32 {
    let there = last - here;
    let same = here == there;
    if (all(same)) {
        return sample(here.x, here.y);
    }
    let opposite = sample(here.x, here.y) + sample(there.x, there.y);
    if (any(same)) {
        return opposite;
    }
    return opposite + (sample(here.x, there.y) + sample(there.x, here.y));
}

