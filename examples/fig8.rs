//! Figure 8, of a question that the paper leaves open: what padding does to a network that is exact for quarter turns, at angles
//! between them. P4CNN at 28 with zeros, no padding, circular padding and reflection, and with zeros in some layers only; and where
//! in its last padded map it responds, by distance from the border.

use plotters::prelude::PathElement;
use quarterturn::core::{Error, Result, Tensor};
use quarterturn_examples::{
    angle_chart, args,
    dot_chart::{self, Dots},
    figure::{self, Area, Drawn, at, bold, centred, font, from_left, stroke, write},
    files, palette,
    rotations::{
        self, BUILT_IN_AND_RESUMED, CONVS, Design, Findings, Measure, Measured, Outcome, Plan, RotationArgs, Sample,
        Settings, Turns, relative_change, rings, statistics,
    },
    say, table,
};
use std::process::ExitCode;

/// What is measured besides accuracies.
const CHANGE: &str = "change of the logits under 45 degrees, percent";
const CONSTANT: &str = "response by distance from the border, constant image";
const UPRIGHT: &str = "response by distance from the border, upright digits";
const TURNED: &str = "response by distance from the border, digits turned by 45 degrees";
const RESPONSES: [(&str, &str); 3] =
    [("An image without a digit", CONSTANT), ("Upright digits", UPRIGHT), ("Digits turned by 45°", TURNED)];
const MEASURE: Measure = Measure { digits: 500, of: measure };
const NETWORKS: [&str; 6] =
    ["p4:28", "p4:28:zero-4", "p4:28:zero-2", "p4:28:zero-0", "p4:28:circular-6", "p4:28:reflection-6"];

fn main() -> ExitCode {
    let args = RotationArgs::read("Figure 8: padding, on rotated digits", BUILT_IN_AND_RESUMED);
    if let Some(angles @ (1 | 2 | 4)) = args.angles {
        let message =
            format!("--angles {angles}: all of them are quarter turns, and the figure is about angles between");
        return args::exit(Err(Error::Invalid(message)));
    }
    let plan = Plan::upright("fig8", &args, &NETWORKS, 3).measuring(&MEASURE);
    rotations::main(&plan, |findings| draw(findings, &args))
}

fn measure(sample: &Sample) -> Result<Measured> {
    let dims = sample.images.dims();
    let turned = |degrees: f32| sample.protocol.turned(&sample.images, &vec![degrees; dims[0]]);
    // Without a circle: what is left of a response's dependence on the place is the padding's.
    let [channels, size] = [dims[1], dims[2]];
    let background = Tensor::full([1, channels, 1, size, size], sample.protocol.fill(), &sample.images.device())?;
    let layer = format!("conv{CONVS}");
    let responses = |images: &Tensor| rings(sample.network, images, &layer);
    Ok([
        (CHANGE.into(), vec![relative_change(sample, 45.0)?]),
        (CONSTANT.into(), responses(&background)?),
        (UPRIGHT.into(), responses(&turned(0.0))?),
        (TURNED.into(), responses(&turned(45.0))?),
    ]
    .into())
}

/// In legends and tables.
fn label(outcome: &Outcome) -> String {
    match outcome.subject.design {
        Design::Plain => "zero padding (the paper's)".into(),
        design => design.title(),
    }
}

/// The mean accuracy at angles that are no quarter turns, by seed.
fn between(outcome: &Outcome, settings: &Settings) -> Vec<f64> {
    let degrees = settings.degrees();
    outcome.each(|seed| {
        let others: Vec<f64> =
            seed.iter().zip(&degrees).filter(|(_, degrees)| *degrees % 90.0 != 0.0).map(|(&v, _)| v).collect();
        statistics(&others).0
    })
}

/// Points of a chart of responses.
const RESPONSE: (f64, f64) = (300.0, 220.0);

fn draw(findings: &Findings, args: &RotationArgs) -> Result<()> {
    let outcomes = rotations::outcomes(findings, Turns::UPRIGHT.into());
    let mut series: Vec<_> = outcomes.iter().map(|outcome| outcome.series(&findings.settings)).collect();
    series.iter_mut().zip(&outcomes).for_each(|(series, outcome)| series.label = label(outcome));
    let subtitle = findings.subtitle(args.seed, "upright");
    let measures: [(&str, &str, Vec<Vec<f64>>); 3] = [
        ("Upright digits", "Accuracy at 0° (%)", outcomes.iter().map(|o| o.each(|seed| seed[0])).collect()),
        (
            "Between the quarter turns",
            "Mean accuracy (%)",
            outcomes.iter().map(|o| between(o, &findings.settings)).collect(),
        ),
        ("Turned by 45°", "Change of the logits (%)", outcomes.iter().map(|o| o.measured(CHANGE, 0)).collect()),
    ];
    let (chart, side) = (560.0, 400.0);
    let upper = 70.0 + measures.len() as f64 * dot_chart::height(outcomes.len());
    figure::save(&findings.folder.join("fig8"), (chart + side, upper + RESPONSE.1 + 16.0), |area| {
        figure::heading(area, "Padding of a network that is exact for quarter turns", &subtitle)?;
        angle_chart::draw(area, (10.0, 54.0), (chart - 6.0, upper - 8.0), &series)?;
        for (i, (title, axis, values)) in measures.iter().enumerate() {
            let lines = outcomes.iter().zip(values).enumerate();
            let lines: Vec<Dots> = lines
                .map(|(style, (outcome, values))| Dots { label: label(outcome), values: values.clone(), style })
                .collect();
            let y = 58.0 + i as f64 * dot_chart::height(outcomes.len());
            dot_chart::panel(area, (chart + 14.0, y), (side - 20.0, 180.0), title, axis, &lines)?;
        }
        for (i, (title, name)) in RESPONSES.iter().enumerate() {
            responses(area, (16.0 + 315.0 * i as f64, upper), title, name, &outcomes)?;
        }
        Ok(())
    })?;

    let mut columns = Outcome::COLUMNS.to_vec();
    columns.extend(["between", "logits move", "border / centre"]);
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let centre = |seed: &Measured| seed.get(CONSTANT).and_then(|r| Some(r.first()? / r.last()?));
            let ratios: Vec<f64> = outcome.measured.iter().filter_map(centre).collect();
            let more = [between(outcome, &findings.settings), outcome.measured(CHANGE, 0), ratios];
            let more = more.map(|values| rotations::percent(&values));
            outcome.row(&findings.settings).into_iter().chain(more).collect()
        })
        .collect();
    say::result(format_args!("\n{subtitle}"));
    table::print(&columns, &rows);
    let notes = [
        "between: mean accuracy at the angles that are no quarter turns; logits move: by a turn of 45°, in percent",
        "border / centre: mean response of the last 3×3 layer on an image without a digit, outermost ring by innermost",
    ];
    let markdown = table::markdown(&subtitle, &columns, &rows, notes);
    files::write(&findings.folder.join("fig8.md"), markdown.as_bytes())?;
    notes.iter().for_each(say::result);
    outcomes.iter().filter_map(Outcome::warning).for_each(say::result);
    say::result(format_args!("wrote fig8.csv, fig8.md, fig8.svg and fig8.png to {}", findings.folder.display()));
    Ok(())
}

/// How strongly the last 3×3 layer responds, by distance from the border: means over seeds.
fn responses(area: &Area, (x0, y0): (f64, f64), title: &str, name: &str, outcomes: &[Outcome]) -> Drawn {
    let curve = |outcome: &Outcome| -> Vec<f64> {
        let rings = outcome.measured.iter().filter_map(|seed| Some(seed.get(name)?.len())).max().unwrap_or(0);
        (0..rings).map(|ring| statistics(&outcome.measured(name, ring)).0).collect()
    };
    let curves: Vec<Vec<f64>> = outcomes.iter().map(curve).collect();
    let last = curves.iter().map(Vec::len).max().unwrap_or(1).max(2) - 1;
    let (lowest, highest) =
        curves.iter().flatten().fold((1.0, 1.0), |(low, high): (f64, f64), &v| (low.min(v), high.max(v)));
    let step = [0.1, 0.2, 0.5, 1.0, 2.0].into_iter().find(|step| highest - lowest <= 5.0 * step).unwrap_or(5.0);
    let (bottom, top) = ((lowest / step).floor() * step, ((highest / step).ceil() * step).max(1.0 + step));
    let (left, right, ceiling, floor) = (x0 + 30.0, x0 + RESPONSE.0 - 10.0, y0 + 26.0, y0 + RESPONSE.1 - 34.0);
    let x = |ring: usize| left + (right - left) * ring as f64 / last as f64;
    let y = |value: f64| floor - (floor - ceiling) * (value - bottom) / (top - bottom);
    write(area, title, (x0, y0 + 8.0), from_left(bold(10.0)))?;
    write(area, "response, relative to its mean", (right - 140.0, y0 + 8.0), from_left(font(8.5)))?;
    for tick in 0..=((top - bottom) / step).round() as i32 {
        let value = bottom + step * f64::from(tick);
        area.draw(&PathElement::new([at(left, y(value)), at(right, y(value))], stroke(palette::GRID, 0.6)))?;
        write(area, &format!("{value:.1}"), (left - 26.0, y(value)), from_left(font(8.5)))?;
    }
    for ring in 0..=last {
        write(area, &ring.to_string(), (x(ring), floor + 9.0), centred(font(8.5)))?;
    }
    write(area, "Pixels from the border", ((left + right) / 2.0, floor + 24.0), centred(font(9.0)))?;
    for (n, curve) in curves.iter().enumerate() {
        let (color, marker) = angle_chart::style(n);
        let points: Vec<_> = curve.iter().enumerate().map(|(ring, &value)| at(x(ring), y(value))).collect();
        area.draw(&PathElement::new(points.clone(), stroke(color, 1.4)))?;
        for point in points {
            angle_chart::draw_marker(area, point, color, marker)?;
        }
    }
    Ok(())
}
