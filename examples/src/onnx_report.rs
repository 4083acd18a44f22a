//! What the layers of an ONNX model do to quarter turns, printed.

use crate::{say, table};
use quarterturn::{
    core::{Error, Result},
    models::{JudgedLayer, Judgement, OnnxExactness, OnnxModel},
};
use serde::Serialize;
use std::path::Path;

/// What must be known of every verdict.
const NOTE: &str = "Sizes are judged, not weights: a window that is exact samples a turned map at the turned places. Whether the \
                    filters turn with it, only a network that is equivariant by construction guarantees.";

/// Judges the model at `path` at this size of images, or the one that it declares.
///
/// # Errors
/// If the file is no ONNX model, or images of this size do not fit.
pub fn run(path: &Path, input: Option<[usize; 2]>, json: bool) -> Result<()> {
    let model = OnnxModel::read(path)?;
    let Some(input) = input.or(model.declared_size()?) else {
        return Err(Error::Invalid(format!(
            "{}: the model takes images of any size; --input says at which it is judged",
            path.display()
        )));
    };
    let exactness = model.exactness(input)?;
    if json {
        let name = path.display().to_string();
        let report = Report::new(&name, &exactness);
        say::result(serde_json::to_string_pretty(&report).map_err(|error| Error::Invalid(error.to_string()))?);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = exactness.layers.iter().map(row).collect();
    table::print(&["layer", "operator", "input", "what", ""], &rows);
    say::result(format_args!("{}: {exactness}", path.display()));
    say::result(NOTE);
    Ok(())
}

fn row(layer: &JudgedLayer) -> Vec<String> {
    let input = layer.input.map_or(String::new(), |[height, width]| format!("{height}×{width}"));
    let judgement = match &layer.judgement {
        Judgement::Exact => "exact".into(),
        Judgement::Inexact(why) => format!("inexact: {why}"),
        Judgement::Never(why) => format!("inexact at every size: {why}"),
        Judgement::Unknown(why) => format!("not known: {why}"),
    };
    vec![layer.name.clone(), layer.op.clone(), input, layer.what.clone(), judgement]
}

/// The report as JSON.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    input: [usize; 2],
    exact: bool,
    judges: &'static str,
    layers: Vec<Layer<'a>>,
    nearest_exact: Nearest,
}

#[derive(Serialize)]
struct Layer<'a> {
    name: &'a str,
    operator: &'a str,
    input: Option<[usize; 2]>,
    what: &'a str,
    judgement: &'static str,
    reason: Option<&'a str>,
}

/// Sizes at which no window breaks quarter turns.
#[derive(Serialize)]
struct Nearest {
    below: Option<[usize; 2]>,
    above: Option<[usize; 2]>,
}

impl<'a> Report<'a> {
    fn new(model: &'a str, exactness: &'a OnnxExactness) -> Self {
        let layer = |layer: &'a JudgedLayer| {
            let (judgement, reason) = match &layer.judgement {
                Judgement::Exact => ("exact", None),
                Judgement::Inexact(why) => ("inexact", Some(why.as_str())),
                Judgement::Never(why) => ("inexact at every size", Some(why.as_str())),
                Judgement::Unknown(why) => ("unknown", Some(why.as_str())),
            };
            let JudgedLayer { name, op, input, what, .. } = layer;
            Layer { name, operator: op, input: *input, what, judgement, reason }
        };
        Report {
            model,
            input: exactness.input,
            exact: exactness.is_exact(),
            judges: "sizes, not weights",
            layers: exactness.layers.iter().map(layer).collect(),
            nearest_exact: Nearest { below: exactness.below, above: exactness.above },
        }
    }
}
