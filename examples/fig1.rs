//! Figure 1: subsampling breaks equivariance. A 2×2 max pool with stride 2, before and after a quarter turn, on a
//! size where the two orders differ and on one where they agree.

use clap::Parser;
use plotters::prelude::*;
use quarterturn::{
    core::{Device, Result, Shape, Stream, Tensor, window_extent, window_residual},
    kernels::{Window, avg_pool_vjp, max_pool, transform_plane},
};
use quarterturn_examples::{
    args,
    csv::Csv,
    device,
    figure::{self, Area, Drawn, at, bold, centred, font, stroke, write},
    palette, say, table,
};
use std::process::ExitCode;

/// The pooling layer of the figure.
const POOL: Window = Window { kernel_size: 2, stride: 2, padding: 0 };
/// `T`: a quarter turn clockwise, that is three counter-clockwise.
const TURN: usize = 3;
/// Points per cell.
const CELL: f64 = 24.0;
/// Points around the drawing and between its halves.
const MARGIN: f64 = 16.0;
/// See [`MARGIN`].
const BETWEEN: f64 = 64.0;
/// Points between `x` and `T(x)`, from there down to the results, and between the two results.
const TURN_GAP: f64 = 58.0;
/// See [`TURN_GAP`].
const POOL_GAP: f64 = 64.0;
/// See [`TURN_GAP`].
const RESULT_GAP: f64 = 34.0;

/// Figure 1: a 2×2 max pool with stride 2 before and after a quarter turn
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    out: args::OutArgs,
    #[command(flatten)]
    device: args::DeviceArgs,
    /// Size of the input on the left
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=7))]
    size: u64,
    /// Size of the input on the right [default: the next size where (N − 2) mod 2 = 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=7))]
    exact_size: Option<u64>,
    /// Seed of the numbers in the cells
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let device = device::open(args.device.device)?;
    let left = args.size as usize;
    let next_exact = (left + 1..).find(|&i| residual(i) == 0).unwrap_or(left);
    let right = args.exact_size.map_or(next_exact, |size| size as usize);
    let squares = [Square::compute(left, args.seed, &device)?, Square::compute(right, args.seed, &device)?];

    let folder = args.out.folder("fig1")?;
    let mut csv = Csv::new(folder.join("fig1.csv"), "input_size,map,row,col,value,window");
    for square in &squares {
        for (name, map) in square.maps() {
            for (i, (value, window)) in map.values.iter().zip(&map.windows).enumerate() {
                let window = window.map_or(String::new(), |w| w.to_string());
                csv.row(&[&square.size, &name, &(i / map.size), &(i % map.size), value, &window]);
            }
        }
    }
    csv.save()?;
    let subtitle = format!("Integers 1 to i² in random order, seed {}  ·  computed on {device}", args.seed);
    let [(left_width, left_height), (right_width, right_height)] = [squares[0].extent(), squares[1].extent()];
    let extent = (MARGIN + left_width + BETWEEN + right_width + MARGIN, 64.0 + left_height.max(right_height) + MARGIN);
    figure::save(&folder.join("fig1"), extent, |area| {
        figure::heading(area, "Max pooling (k = 2, s = 2) against a quarter turn T", &subtitle)?;
        squares[0].draw(area, (MARGIN, 68.0))?;
        squares[1].draw(area, (MARGIN + left_width + BETWEEN, 68.0))
    })?;

    let rows: Vec<Vec<String>> = squares
        .iter()
        .map(|square| {
            let different = square.difference().iter().filter(|&&d| d).count();
            vec![
                format!("{0}×{0}", square.size),
                residual(square.size).to_string(),
                format!("{different} of {}", square.pooled_turned.values.len()),
                if different == 0 { "f(T(x)) = T′(f(x))" } else { "f(T(x)) ≠ T′(f(x))" }.to_string(),
            ]
        })
        .collect();
    table::print(&["input", "(i − k) mod s", "outputs that differ", "equivariance"], &rows);
    say::result(format_args!("wrote fig1.csv, fig1.svg and fig1.png to {}", folder.display()));
    Ok(())
}

/// `(i − k) mod s` of the pooling layer.
fn residual(size: usize) -> usize {
    window_residual(size, POOL.kernel_size, POOL.stride, POOL.padding).expect("--size is at least the kernel size")
}

/// A square map of numbers, each with the pooling window that it belongs to, if any.
struct Map {
    size: usize,
    values: Vec<f32>,
    windows: Vec<Option<usize>>,
}

impl Map {
    fn new(tensor: &Tensor, windows: Vec<Option<usize>>) -> Result<Self> {
        Ok(Map { size: tensor.dims()[3], values: tensor.to_vec()?, windows })
    }
}

/// Both ways around the square of Eq. 1, for one input.
struct Square {
    size: usize,
    x: Map,
    turned: Map,
    pooled: Map,
    pooled_turned: Map,
    turned_pooled: Map,
}

impl Square {
    fn compute(size: usize, seed: u64, device: &Device) -> Result<Self> {
        let order = Stream::new(seed, size as u32, 0).permutation(size * size);
        let x = Tensor::from_vec([1, 1, size, size], order.iter().map(|&i| (i + 1) as f32).collect(), device)?;
        let turned = transform_plane(&x, TURN);
        let pooled = max_pool(&x, POOL);
        let out = pooled.dims()[3];

        // A window keeps its colour under the turn, so that equal colours mark cells that should hold equal numbers.
        let identity: Vec<f32> = (0..out * out).map(|i| i as f32).collect();
        let colors = Tensor::from_vec([1, 1, out, out], identity, device)?;
        let ids = |colors: &Tensor| Ok(colors.to_vec()?.into_iter().map(|v| v as usize).collect::<Vec<usize>>());
        let (plain, rotated) = (ids(&colors)?, ids(&transform_plane(&colors, TURN))?);
        let sampled = sampled(size, device)?;
        let named = |names: &[usize]| sampled.iter().map(|w| w.map(|w| names[w])).collect();
        let all = |names: &[usize]| names.iter().copied().map(Some).collect();
        Ok(Square {
            size,
            x: Map::new(&x, named(&plain))?,
            turned: Map::new(&turned, named(&rotated))?,
            pooled: Map::new(&pooled, all(&plain))?,
            pooled_turned: Map::new(&transform_plane(&pooled, TURN), all(&rotated))?,
            turned_pooled: Map::new(&max_pool(&turned, POOL), all(&rotated))?,
        })
    }

    fn maps(&self) -> [(&'static str, &Map); 5] {
        [
            ("x", &self.x),
            ("T(x)", &self.turned),
            ("f(x)", &self.pooled),
            ("T'(f(x))", &self.pooled_turned),
            ("f(T(x))", &self.turned_pooled),
        ]
    }

    /// Which outputs differ between the two orders.
    fn difference(&self) -> Vec<bool> {
        self.pooled_turned.values.iter().zip(&self.turned_pooled.values).map(|(a, b)| a != b).collect()
    }

    /// Points of the input's and of the output's side.
    fn sides(&self) -> (f64, f64) {
        (self.size as f64 * CELL, self.pooled.size as f64 * CELL)
    }

    /// Width and height of the drawing in points.
    fn extent(&self) -> (f64, f64) {
        let (wide, small) = self.sides();
        let right = (wide / 2.0).max(RESULT_GAP / 2.0 + small);
        (wide + TURN_GAP + wide / 2.0 + right, 34.0 + wide + POOL_GAP + small + 22.0)
    }

    /// Draws the square with its top left corner at a position in points.
    fn draw(&self, area: &Area, (x, y): (f64, f64)) -> Drawn {
        let (wide, small) = self.sides();
        let different = self.difference();
        let equal = !different.contains(&true);
        let (i, k, s) = (self.size, POOL.kernel_size, POOL.stride);
        let verdict = format!(
            "{i}×{i}:  ({i} − {k}) mod {s} = {}, {}",
            residual(i),
            if equal { "exactly equivariant" } else { "equivariance broken" }
        );
        write(area, &verdict, (x, y), figure::from_left(bold(11.0)))?;

        let top = y + 34.0;
        let second = x + wide + TURN_GAP;
        let bottom = top + wide + POOL_GAP;
        // The results stand around the axis of T(x).
        let axis = second + wide / 2.0;
        let (from_pooled, from_turned) = (axis - RESULT_GAP / 2.0 - small, axis + RESULT_GAP / 2.0);
        let left_axis = x + wide / 2.0;

        let caption = |text: &str, x: f64, y: f64| write(area, text, (x, y - 10.0), centred(font(10.5)));
        caption("x", left_axis, top)?;
        caption("T(x)", axis, top)?;
        self.x.draw(area, (x, top), &[])?;
        self.turned.draw(area, (second, top), &[])?;
        let pooled_x = left_axis - small / 2.0;
        self.pooled.draw(area, (pooled_x, bottom), &[])?;
        self.pooled_turned.draw(area, (from_pooled, bottom), &different)?;
        self.turned_pooled.draw(area, (from_turned, bottom), &different)?;
        let under = bottom + small + 22.0;
        caption("f(x)", left_axis, under)?;
        caption("T′(f(x))", from_pooled + small / 2.0, under)?;
        caption("f(T(x))", from_turned + small / 2.0, under)?;
        let (sign, color) = if equal { ("=", palette::GREEN) } else { ("≠", palette::VERMILLION) };
        write(area, sign, (axis, bottom + small / 2.0), centred(bold(18.0)).color(&color))?;

        let label =
            |text: &str, x: f64, y: f64| write(area, text, (x, y), centred(font(9.0)).color(&palette::FAINT_INK));
        let middle = top + wide / 2.0;
        arrow(area, (x + wide + 8.0, middle), (second - 8.0, middle))?;
        label("turn", (x + wide + second) / 2.0, middle - 9.0)?;
        let (from, to) = (top + wide + 8.0, bottom - 8.0);
        arrow(area, (left_axis, from), (left_axis, to))?;
        label("max pool", left_axis + 28.0, (from + to) / 2.0)?;
        let pooled_axis = from_turned + small / 2.0;
        arrow(area, (pooled_axis, from), (pooled_axis, to))?;
        label("max pool", pooled_axis - 28.0, (from + to) / 2.0)?;
        let level = bottom + small / 2.0;
        arrow(area, (pooled_x + small + 8.0, level), (from_pooled - 8.0, level))?;
        label("turn", (pooled_x + small + from_pooled) / 2.0, level - 9.0)
    }
}

/// The window that samples each cell of a map of `size`, found by asking the pooling layer itself: the gradient of
/// average pooling at output w is non-zero exactly on the cells of window w.
fn sampled(size: usize, device: &Device) -> Result<Vec<Option<usize>>> {
    let out = window_extent(size, POOL.kernel_size, POOL.stride, POOL.padding).unwrap_or(0);
    let mut windows = vec![None; size * size];
    for w in 0..out * out {
        let mut dy = vec![0.0; out * out];
        dy[w] = 1.0;
        let dy = Tensor::from_vec([1, 1, out, out], dy, device)?;
        let dx = avg_pool_vjp(&dy, Shape::new(&[1, 1, size, size]), POOL).to_vec()?;
        for (window, _) in windows.iter_mut().zip(dx).filter(|(_, dx)| *dx != 0.0) {
            *window = Some(w);
        }
    }
    Ok(windows)
}

impl Map {
    /// Draws the cells; the marked ones in bold red.
    fn draw(&self, area: &Area, (x, y): (f64, f64), marked: &[bool]) -> Drawn {
        for (i, (value, window)) in self.values.iter().zip(&self.windows).enumerate() {
            let left = x + (i % self.size) as f64 * CELL;
            let top = y + (i / self.size) as f64 * CELL;
            let corners = [at(left, top), at(left + CELL, top + CELL)];
            let fill = window.map_or(WHITE, |w| palette::FILLS[w % palette::FILLS.len()]);
            area.draw(&Rectangle::new(corners, fill.filled()))?;
            figure::frame(area, (left, top), (left + CELL, top + CELL), WHITE, 1.0)?;
            let style = match (window, marked.get(i)) {
                (None, _) => font(9.5).color(&palette::FAINT_INK),
                (_, Some(true)) => bold(9.5),
                _ => font(9.5),
            };
            write(area, &value.to_string(), (left + CELL / 2.0, top + CELL / 2.0), centred(style))?;
        }
        let end = self.size as f64 * CELL;
        figure::frame(area, (x, y), (x + end, y + end), palette::INK, 0.75)
    }
}

/// A straight arrow along an axis, positions in points.
fn arrow(area: &Area, from: (f64, f64), to: (f64, f64)) -> Drawn {
    let length = (to.0 - from.0).hypot(to.1 - from.1);
    let (dx, dy) = ((to.0 - from.0) / length, (to.1 - from.1) / length);
    let neck = (to.0 - 5.0 * dx, to.1 - 5.0 * dy);
    let side = |sign: f64| at(neck.0 - sign * 3.0 * dy, neck.1 + sign * 3.0 * dx);
    area.draw(&PathElement::new([at(from.0, from.1), at(neck.0, neck.1)], stroke(palette::FAINT_INK, 1.0)))?;
    area.draw(&Polygon::new([at(to.0, to.1), side(1.0), side(-1.0)], palette::FAINT_INK.filled()))?;
    Ok(())
}
