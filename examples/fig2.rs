//! Figure 2: a rotated digit betrays the rotation by its corners; CircleCrop hides them.

use clap::Parser;
use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::{Dataset, mnist},
    kernels::{circle_crop, resize, rotate},
};
use quarterturn_examples::{
    args,
    csv::Csv,
    device,
    digits::Digits,
    figure::{self, Area, Drawn, bold, centred, font, from_left, write},
    palette, raster, say, table,
};
use std::process::ExitCode;

/// Points per pixel.
const CELL: f64 = 2.0;
/// The values drawn black and white: the background is at −3.0, what a rotation fills in at 0.
const RANGE: f64 = 3.0;
/// Digits searched for one of each class.
const SEARCHED: usize = 500;

/// Figure 2: rotated digits with and without CircleCrop
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    out: args::OutArgs,
    #[command(flatten)]
    data: args::DataArgs,
    #[command(flatten)]
    device: args::DeviceArgs,
    /// Degrees to rotate by, counter-clockwise
    #[arg(long, value_name = "DEGREES", default_value_t = 30.0, allow_negative_numbers = true)]
    angle: f32,
    /// Width and height that the digits are resized to
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u64).range(4..=128))]
    size: u64,
    /// How many digits to draw: 0, 1, 2 and so on
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10))]
    digits: u64,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    if !args.angle.is_finite() {
        return Err(Error::Invalid(format!("--angle: {} is no angle", args.angle)));
    }
    let device = device::open(args.device.device)?;
    let digits = Digits::open(&args.data)?;
    let size = args.size as usize;
    let upright = first_of_each_class(&digits.test(SEARCHED)?, args.digits as usize, &device)?;
    let upright = resize(&upright, size, size);
    let rotated = rotate(&upright, &vec![args.angle; args.digits as usize], 0.0);
    let strips = [
        Strip::new(0.0, false, &upright)?,
        Strip::new(args.angle, false, &rotated)?,
        Strip::new(0.0, true, &circle_crop(&upright))?,
        Strip::new(args.angle, true, &circle_crop(&rotated))?,
    ];

    let folder = args.out.folder("fig2")?;
    let mut csv = Csv::new(folder.join("fig2.csv"), "data,digit,angle_deg,circle_crop,row,col,value");
    for strip in &strips {
        for (i, value) in strip.values.iter().enumerate() {
            let (digit, row, col) = (i / (size * size), i / size % size, i % size);
            csv.row(&[&digits.name(), &digit, &strip.angle, &strip.cropped, &row, &col, value]);
        }
    }
    csv.save()?;

    let side = size as f64 * CELL;
    let pitch = side + 4.0;
    let block = args.digits as f64 * pitch - 4.0;
    let (left, top, between) = (86.0, 86.0, 36.0);
    let extent = ((left + 2.0 * block + between + 16.0).max(560.0), top + 2.0 * pitch + 30.0);
    let subtitle = format!("{}, {size}×{size}, normalised  ·  computed on {device}", digits.name());
    figure::save(&folder.join("fig2"), extent, |area| {
        figure::heading(area, "What a rotation leaves behind, and CircleCrop removes", &subtitle)?;
        for (strips, x, name) in
            [(&strips[..2], left, "without CircleCrop"), (&strips[2..], left + block + between, "with CircleCrop")]
        {
            write(area, name, (x + block / 2.0, top - 16.0), centred(bold(10.5)))?;
            for (strip, y) in strips.iter().zip([top, top + pitch]) {
                strip.draw(area, (x, y), size, pitch)?;
            }
        }
        for (strip, y) in strips.iter().zip([top, top + pitch]) {
            write(area, &strip.caption(), (16.0, y + side / 2.0), from_left(font(10.0)))?;
        }
        let scale = format!(
            "Black: −{RANGE}, the background. Grey: 0, what rotation and CircleCrop fill in. White: {RANGE} and above."
        );
        write(area, &scale, (left, extent.1 - 16.0), from_left(font(9.0)).color(&palette::FAINT_INK))
    })?;

    let rows: Vec<Vec<String>> = strips.iter().map(|strip| strip.summary(size)).collect();
    table::print(&["digits", "CircleCrop", "mean at the corners", "mean"], &rows);
    say::result(format_args!("wrote fig2.csv, fig2.svg and fig2.png to {}", folder.display()));
    Ok(())
}

/// The first image of each of the classes 0 to `count` − 1, `[count, 1, H, W]`, normalised.
fn first_of_each_class(dataset: &Dataset, count: usize, device: &Device) -> Result<Tensor> {
    let indices = (0..count)
        .map(|class| {
            let found = dataset.labels().iter().position(|&label| usize::from(label) == class);
            found.ok_or_else(|| Error::Invalid(format!("no {class} among the first {SEARCHED} digits")))
        })
        .collect::<Result<Vec<usize>>>()?;
    let chosen = dataset.subset(&indices);
    let batch = chosen.batches(count).normalized(&mnist::papers_normalization()).on(device).next();
    let images = batch.expect("at least one digit")?.images;
    let [channels, height, width] = dataset.extents();
    Ok(images.reshape([count, channels, height, width]))
}

/// Digits that were treated alike.
struct Strip {
    angle: f32,
    cropped: bool,
    values: Vec<f32>,
}

impl Strip {
    fn new(angle: f32, cropped: bool, images: &Tensor) -> Result<Self> {
        Ok(Strip { angle, cropped, values: images.to_vec()? })
    }

    fn caption(&self) -> String {
        if self.angle == 0.0 { "upright".into() } else { format!("rotated {}°", self.angle) }
    }

    fn draw(&self, area: &Area, (x, y): (f64, f64), size: usize, pitch: f64) -> Drawn {
        for (i, image) in self.values.chunks_exact(size * size).enumerate() {
            let grey = |value: f64| palette::grey((value + RANGE) / (2.0 * RANGE));
            raster::image(area, (x + i as f64 * pitch, y), CELL, size, image, grey)?;
        }
        Ok(())
    }

    fn summary(&self, size: usize) -> Vec<String> {
        let mean = |values: Vec<f32>| values.iter().sum::<f32>() / values.len() as f32;
        let corners = |i: usize| [i / size % size, i % size].iter().all(|&at| at == 0 || at == size - 1);
        let at_corners = self.values.iter().enumerate().filter(|(i, _)| corners(*i)).map(|(_, v)| *v).collect();
        vec![
            self.caption(),
            if self.cropped { "yes" } else { "no" }.into(),
            format!("{:.3}", mean(at_corners)),
            format!("{:.3}", mean(self.values.clone())),
        ]
    }
}
