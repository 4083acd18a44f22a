//! Says what a saved network sees in images.

use clap::Parser;
use quarterturn::{
    core::{Error, Result, Tensor},
    kernels::{softmax, transform_plane},
    models::Network,
};
use quarterturn_examples::{args, reader::ReaderArgs, say, weights::NAMES_HELP};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What the names of images in a folder end in, in small letters.
const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "tif", "tiff"];

/// Says what a saved network sees in images: the most probable classes.
#[derive(Parser)]
#[command(after_help = NAMES_HELP)]
struct Args {
    #[command(flatten)]
    network: ReaderArgs,
    /// Images (JPEG, PNG or, with the feature `tiff`, TIFF), or folders of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How many classes are named
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    top: u64,
    /// Also show the images turned by 90°, 180° and 270°, side by side
    #[arg(long)]
    turned: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the network sees in one image.
#[derive(Serialize)]
struct Seen {
    image: String,
    /// Of the upright image, and of its quarter turns if they were asked for.
    turns: Vec<Turn>,
    /// Whether every quarter turn has the logits of the upright image, to the last bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_bits: Option<bool>,
}

#[derive(Serialize)]
struct Turn {
    degrees: usize,
    classes: Vec<Class>,
}

/// A class and its probability.
#[derive(Serialize)]
struct Class {
    class: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    probability: f32,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let (network, checkpoint, reader) = args.network.open()?;
    // Of the classes, if the file says them.
    let names = checkpoint.notes().get("classes").map(|names| names.lines().map(String::from).collect());
    let names: Vec<String> = names.unwrap_or_default();
    let mut seen = Vec::new();
    for path in image_paths(&args.images)? {
        let image = reader.read(&path, &network.device())?;
        let one = look(&*network, &image, &path, args, &names)?;
        if args.json { seen.push(one) } else { print(&one) }
    }
    if args.json {
        say::result(serde_json::to_string_pretty(&seen).map_err(|error| Error::Invalid(error.to_string()))?);
    }
    Ok(())
}

/// Image files: those that were named, and those in the folders that were, by name.
fn image_paths(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for path in given {
        if !path.is_dir() {
            paths.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).map_err(|error| Error::io(path, &error))?;
        let mut inside = Vec::new();
        for entry in entries {
            let file = entry.map_err(|error| Error::io(path, &error))?.path();
            let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase());
            if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
                inside.push(file);
            }
        }
        if inside.is_empty() {
            return Err(Error::Invalid(format!("{}: the folder has no image: {}", path.display(), ENDINGS.join(", "))));
        }
        inside.sort();
        paths.extend(inside);
    }
    Ok(paths)
}

fn look(network: &dyn Network, image: &Tensor, path: &Path, args: &Args, names: &[String]) -> Result<Seen> {
    let turns = if args.turned { 4 } else { 1 };
    let (mut seen, mut upright, mut same) = (Vec::new(), Vec::new(), true);
    for turn in 0..turns {
        let logits = network.predict(&transform_plane(image, turn))?;
        let &[1, classes] = logits.dims() else {
            return Err(Error::Invalid(format!("the network makes {:?} of an image, and no classes", logits.dims())));
        };
        let bits: Vec<u32> = logits.to_vec()?.iter().map(|logit| logit.to_bits()).collect();
        same &= upright.is_empty() || bits == upright;
        if upright.is_empty() {
            upright = bits;
        }
        let probabilities = softmax(&logits, 1).to_vec()?;
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let class = |class: usize| Class { class, name: names.get(class).cloned(), probability: probabilities[class] };
        let classes = order.into_iter().take(args.top as usize).map(class).collect();
        seen.push(Turn { degrees: 90 * turn, classes });
    }
    let image = path.display().to_string();
    Ok(Seen { image, turns: seen, same_bits: args.turned.then_some(same) })
}

fn print(seen: &Seen) {
    say::result(&seen.image);
    let name = |class: &Class| class.name.clone().unwrap_or_else(|| class.class.to_string());
    let widest = seen.turns.iter().flat_map(|turn| &turn.classes).map(|class| name(class).chars().count()).max();
    let width = widest.unwrap_or(0);
    if seen.turns.len() > 1 {
        let heads = seen.turns.iter().map(|turn| format!("{:<1$}", format!("{}°", turn.degrees), width + 9));
        say::result(format_args!("  {}", heads.collect::<String>().trim_end()));
    }
    for row in 0..seen.turns[0].classes.len() {
        let cells = seen.turns.iter().map(|turn| {
            let class = &turn.classes[row];
            format!("{:<width$} {:>5.1}%  ", name(class), 100.0 * class.probability)
        });
        say::result(format_args!("  {}", cells.collect::<String>().trim_end()));
    }
    match seen.same_bits {
        Some(true) => say::result("  the logits of all four turns are the same bits"),
        Some(false) => say::result("  the logits of the four turns differ"),
        None => {}
    }
}
