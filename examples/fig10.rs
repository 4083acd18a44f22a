//! Figure 10: whether a network that may break its equivariance does so because of the data. P4CNN at 27×27, whose pooling leaves a
//! row and a column over, on digits whose classes need to know which way is up (6 and 9 are each other's half turn), on digits that
//! do not (3 and 4), and on digits that are turned by any angle, where no way is up.

use quarterturn::core::Result;
use quarterturn_examples::{
    dot_chart::{self, Dots},
    figure, files,
    rotations::{
        self, Angles, Classes, Findings, Measure, Measured, Outcome, Plan, RotationArgs, Sample, Settings, Sizes, Task,
        Turns, equivariance_errors,
    },
    say, table,
};
use std::process::ExitCode;

/// What is measured besides accuracies: behind each of these layers.
const ERROR: &str = "relative equivariance error by depth, percent";
const DEPTHS: [&str; 4] = ["pool2", "conv4", "conv6", "linear"];
const MEASURE: Measure = Measure { digits: 500, of: measure };
const NETWORKS: [&str; 2] = ["p4:27", "p4:28"];
const UNIFORM: Turns = Turns { angles: Angles::Uniform, drawn: None };
/// What is trained on, and what figure and table call it.
const TASKS: [(Task, &str); 6] = [
    (Task { turns: Turns::UPRIGHT, classes: Classes::of(&[6, 9]) }, "6 or 9, upright"),
    (Task { turns: Turns::UPRIGHT, classes: Classes::of(&[3, 4]) }, "3 or 4, upright"),
    (Task { turns: Turns::UPRIGHT, classes: Classes::ALL }, "0 to 9, upright"),
    (Task { turns: Turns::UPRIGHT, classes: Classes::of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]) }, "0 to 8, upright"),
    (Task { turns: UNIFORM, classes: Classes::ALL }, "0 to 9, any angle"),
    (Task { turns: UNIFORM, classes: Classes::of(&[3, 4]) }, "3 or 4, any angle"),
];

/// What the help ends with.
const AFTER_HELP: &str = "Made for the built-in digits; of MNIST there are too few of two classes for --train 2000 and above. \
                          The same command goes on where the last one was stopped.";

fn main() -> ExitCode {
    let args = RotationArgs::read("Figure 10: equivariance that training breaks, by what the data ask for", AFTER_HELP);
    let plan = Plan {
        name: "fig10",
        args: &args,
        networks: &NETWORKS,
        tasks: &TASKS.map(|(task, _)| task),
        sizes: Sizes { seeds: 3, full_seeds: 10 },
        measure: Some(&MEASURE),
    };
    rotations::main(&plan, |findings| draw(findings, &args))
}

fn measure(sample: &Sample) -> Result<Measured> {
    Ok([(ERROR.into(), equivariance_errors(sample, &DEPTHS)?)].into())
}

/// The mean accuracy after one, two and three quarter turns, by seed.
fn turned(outcome: &Outcome, settings: &Settings) -> Vec<f64> {
    let degrees = settings.degrees();
    outcome.each(|seed| {
        let at = |turns: f64| degrees.iter().position(|&d| d == 90.0 * turns).map_or(f64::NAN, |i| seed[i]);
        (at(1.0) + at(2.0) + at(3.0)) / 3.0
    })
}

fn draw(findings: &Findings, args: &RotationArgs) -> Result<()> {
    let subtitle = findings.subtitle(args.seed, "of the classes in question");
    // Each network on each task.
    let outcomes: Vec<(&str, Outcome)> = TASKS
        .iter()
        .flat_map(|&(task, name)| rotations::outcomes(findings, task).into_iter().map(move |outcome| (name, outcome)))
        .collect();
    let inexact: Vec<&(&str, Outcome)> = outcomes.iter().filter(|(_, outcome)| !outcome.exact).collect();
    let exact: Vec<&(&str, Outcome)> = outcomes.iter().filter(|(_, outcome)| outcome.exact).collect();
    let settings = &findings.settings;
    let upright = |outcome: &Outcome| outcome.each(|seed| seed[0]);
    let behind = |outcome: &Outcome, layer: &str| {
        let depth = DEPTHS.iter().position(|&name| name == layer).unwrap_or(0);
        outcome.measured(ERROR, depth)
    };
    type Values<'a> = &'a dyn Fn(&Outcome) -> Vec<f64>;
    type Panel<'a> = (&'a str, &'a str, &'a [&'a (&'a str, Outcome)], Values<'a>);
    let panels: [Panel; 5] = [
        ("Error after the pooling, at 27×27", "% of the map", &inexact, &|outcome| behind(outcome, "pool2")),
        ("Error of the logits, at 27×27", "% of their size", &inexact, &|outcome| behind(outcome, "linear")),
        ("Upright, at 27×27", "Accuracy (%)", &inexact, &upright),
        ("After quarter turns, at 27×27", "Accuracy (%)", &inexact, &|outcome| turned(outcome, settings)),
        ("Upright, at 28×28 (exact)", "Accuracy (%)", &exact, &upright),
    ];
    let (column, rows) = (330.0, panels.len().div_ceil(2));
    let line = dot_chart::height(TASKS.len()) + 8.0;
    figure::save(&findings.folder.join("fig10"), (20.0 + 2.0 * column, 60.0 + line * rows as f64), |area| {
        figure::heading(
            area,
            "Equivariance error after training, by whether the classes need the orientation",
            &subtitle,
        )?;
        for (i, (title, axis, outcomes, values)) in panels.iter().enumerate() {
            let dots = |(style, (name, outcome)): (usize, &&(&str, Outcome))| Dots {
                label: (*name).into(),
                values: values(outcome),
                style,
            };
            let lines: Vec<Dots> = outcomes.iter().enumerate().map(dots).collect();
            let corner = (16.0 + column * (i % 2) as f64, 56.0 + line * (i / 2) as f64);
            dot_chart::panel(area, corner, (column - 16.0, 100.0), title, axis, &lines)?;
        }
        Ok(())
    })?;

    let mut columns = vec!["trained on"];
    columns.extend(Outcome::COLUMNS);
    columns.extend(DEPTHS);
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|(name, outcome)| {
            let errors = (0..DEPTHS.len()).map(|depth| rotations::percent(&outcome.measured(ERROR, depth)));
            [(*name).to_string()].into_iter().chain(outcome.row(settings)).chain(errors).collect()
        })
        .collect();
    say::result(format_args!("\n{subtitle}"));
    table::print(&columns, &rows);
    let notes =
        ["pool2 to linear: relative equivariance error behind that layer, in percent; 0.00 of an exact one is 0"];
    let markdown = table::markdown(&subtitle, &columns, &rows, notes);
    files::write(&findings.folder.join("fig10.md"), markdown.as_bytes())?;
    notes.iter().for_each(say::result);
    outcomes.iter().filter_map(|(_, outcome)| outcome.warning()).for_each(say::result);
    say::result(format_args!("wrote fig10.csv, fig10.md, fig10.svg and fig10.png to {}", findings.folder.display()));
    Ok(())
}
