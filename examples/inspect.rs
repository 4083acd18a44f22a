//! Looks inside of a saved network: the feature maps of an image and of the turned image side by side, the equivariance error of every
//! layer beneath, and the filters of the first layer with their orbit under the group.

use clap::Parser;
use plotters::style::RGBColor;
use quarterturn::{
    core::{Error, Result, Tensor},
    kernels::{Group, Subgroup, transform_plane},
    models::{DepthError, EquivarianceError, Exactness, Network},
};
use quarterturn_examples::{
    args,
    csv::Csv,
    figure,
    inspection::{self, ErrorChart, Filters, MapChart, Picture},
    palette,
    reader::{Reader, ReaderArgs},
    say,
    weights::NAMES_HELP,
};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Layers that are drawn unless others are asked for.
const SHOWN: usize = 8;
/// Points around a figure, and above what stands below its heading.
const MARGIN: f64 = 16.0;
const HEADING: f64 = 70.0;
/// Points that a figure is wide at least, for its heading.
const LEAST: f64 = 560.0;

/// Looks inside of a saved network: its feature maps of an image and of the turned image, its error, its filters
#[derive(Parser)]
#[command(after_help = NAMES_HELP)]
struct Args {
    #[command(flatten)]
    network: ReaderArgs,
    /// An image: JPEG, PNG or (feature `tiff`) TIFF
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Degrees, counter-clockwise, that the image is turned by for its other maps: 0, 90, 180 or 270
    #[arg(long, value_name = "DEGREES", default_value_t = 90, value_parser = quarter_turns)]
    turn: usize,
    /// And then flipped from top to bottom
    #[arg(long)]
    flip: bool,
    /// Names of the layers and blocks that are drawn, with commas between, or "all" [default: eight, evenly spaced]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    layers: Vec<String>,
    /// Rows of maps for each layer: those channels first that vary most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    rows: u64,
    #[command(flatten)]
    out: args::OutArgs,
}

fn quarter_turns(text: &str) -> std::result::Result<usize, String> {
    let degrees = [0, 90, 180, 270].into_iter().find(|degrees: &usize| degrees.to_string() == text);
    degrees.ok_or("expected 0, 90, 180 or 270".into())
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let (network, _, reader) = args.network.open()?;
    let image = reader.read(&args.image, &network.device())?;
    let names: Vec<String> = inspection::layers(&*network, image.shape())?.into_iter().map(|(name, _)| name).collect();
    let shown = chosen(&args.layers, &names)?;
    let symmetry = Exactness::of(&*network, [image.dims()[3], image.dims()[4]])?.symmetry;
    let mut errors = EquivarianceError::at(|_| true);
    // z2 promises nothing that could be measured.
    if symmetry != Subgroup::Z2 {
        errors.add(&*network, &image)?;
    }
    let depths = errors.depths();

    let folder = args.out.folder("inspect")?;
    draw_maps(args, &folder, &*network, &reader, &image, &shown, (&depths, symmetry))?;
    let mut csv = Csv::new(folder.join("inspect.csv"), "layer,relative,eq14,l1,largest,rms");
    for DepthError { name, relative, eq14, l1, largest, rms } in &depths {
        csv.row(&[name, relative, eq14, l1, largest, rms]);
    }
    csv.save()?;
    let mut written = vec!["inspect.png", "inspect.svg", "inspect.csv"];
    match Filters::of(&*network)? {
        Some(filters) => {
            draw_filters(&folder, &*network, &filters)?;
            written.extend(["filters.png", "filters.svg"]);
        }
        None => say::note("no layer reads images by filters, so that none are drawn"),
    }
    say::result(match errors.first_break() {
        _ if symmetry == Subgroup::Z2 => "the network is on z2, which promises no symmetry".into(),
        None => format!("exact: the error of every layer is 0, over all elements of {symmetry}"),
        Some(first) => format!("not exact: the first layer with an error is {}, of {:.2e}", first.name, first.relative),
    });
    say::result(format_args!("wrote {} to {}", written.join(", "), folder.display()));
    Ok(())
}

/// The layers to be drawn, of all that have these names.
fn chosen(wanted: &[String], names: &[String]) -> Result<Vec<String>> {
    if wanted == ["all"] {
        return Ok(names.to_vec());
    }
    if let Some(unknown) = wanted.iter().find(|wanted| !names.contains(wanted)) {
        return Err(Error::Invalid(format!("--layers: no layer '{unknown}'; there are {}", names.join(", "))));
    }
    if !wanted.is_empty() {
        return Ok(wanted.to_vec());
    }
    // Stages, if there are some: names within them have a point.
    let outer: Vec<&String> = names.iter().filter(|name| !name.contains('.')).collect();
    let all = if outer.len() >= SHOWN / 2 { outer } else { names.iter().collect() };
    let n = all.len().min(SHOWN);
    Ok((0..n).map(|i| all[i * (all.len() - 1) / (n - 1).max(1)].clone()).collect())
}

/// The maps, and the error of every layer beneath.
fn draw_maps(
    args: &Args,
    folder: &Path,
    network: &dyn Network,
    reader: &Reader,
    image: &Tensor,
    shown: &[String],
    (depths, symmetry): (&[DepthError], Subgroup),
) -> Result<()> {
    let g = args.turn / 90 + if args.flip { 4 } else { 0 };
    let turned = transform_plane(image, g);
    let back = transform_plane(&turned, Group::D4.inverse(g));
    let pictures = [picture(reader, image)?, picture(reader, &turned)?, picture(reader, &back)?];
    let layers = inspection::watch(network, image, g, shown)?;
    let chart = MapChart::new(network.group(), pictures, &layers, args.rows as usize);
    let (width, height) = chart.extent();
    let errors = ErrorChart::new(depths, width);

    let file = args.image.file_name().unwrap_or_default().to_string_lossy();
    let (model, group) = (network.description().name, network.group());
    let title = format!("{model} on {group}: feature maps of {file}, upright and {}", inspection::describe(g));
    let subtitle = format!(
        "The channels that vary most. Orange is above 0, blue below, white is 0; each row has its own scale. On the right, where what is \
         turned back differs, and by how much.  {}",
        network.device()
    );
    let extent = (width + 2.0 * MARGIN, HEADING + height + errors.height() + MARGIN);
    figure::save(&folder.join("inspect"), extent, |area| {
        figure::heading(area, &title, &subtitle)?;
        chart.draw(area, (MARGIN, HEADING - 12.0))?;
        let title = match symmetry {
            Subgroup::Z2 => "The network is on z2, which promises no symmetry: there is no error to measure".into(),
            _ => format!("Equivariance error of every layer, on this image, over all elements of {symmetry}"),
        };
        errors.draw(area, (MARGIN, HEADING + height), &title)
    })
}

/// The image that a network reads, as people see it: in colour, or the first channel in grey.
fn picture(reader: &Reader, image: &Tensor) -> Result<Picture> {
    let (values, width) = (reader.brightness(image)?, image.dims()[4]);
    let (channels, plane) = (image.dims()[1], values.len() / image.dims()[1]);
    let level = |channel: usize, at: usize| palette::grey(f64::from(values[channel * plane + at])).0;
    let color = |at: usize| match channels {
        3 => RGBColor(level(0, at), level(1, at), level(2, at)),
        _ => RGBColor(level(0, at), level(0, at), level(0, at)),
    };
    Ok(Picture { width, colors: (0..plane).map(color).collect() })
}

/// The filters of the first layer.
fn draw_filters(folder: &Path, network: &dyn Network, filters: &Filters) -> Result<()> {
    let (model, group) = (network.description().name, network.group());
    let (width, height) = filters.extent();
    let extent = (width.max(LEAST) + 2.0 * MARGIN, HEADING + height + MARGIN);
    figure::save(&folder.join("filters"), extent, |area| {
        let title = format!("{model} on {group}: {}, and its orbit under the group", filters.name);
        figure::heading(area, &title, &filters.describe())?;
        filters.draw(area, (MARGIN, HEADING - 12.0))
    })
}
