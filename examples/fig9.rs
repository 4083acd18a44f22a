//! Figure 9, of a question that the paper leaves open (section 4.1): at which depth a broken equivariance helps on upright digits,
//! and at which it costs on turned ones. P4CNN with three poolings at 31×31, each of which would leave a row and a column over. One
//! alone samples as everybody does, the others the grid that the map chooses, and are exact; beside them none, and all three.

use quarterturn::core::Result;
use quarterturn_examples::{
    angle_chart,
    dot_chart::{self, Dots},
    figure, files,
    rotations::{
        self, BUILT_IN_AND_RESUMED, Findings, Measure, Measured, Outcome, PerSeed, Plan, RotationArgs, Sample, Turns,
        equivariance_errors,
    },
    say, table,
};
use std::process::ExitCode;

/// What is measured besides accuracies: behind each of these layers.
const ERROR: &str = "relative equivariance error by depth, percent";
const DEPTHS: [&str; 4] = ["pool2", "pool4", "pool6", "linear"];
const MEASURE: Measure = Measure { digits: 500, of: measure };
const NETWORKS: [&str; 5] = ["p4:31:break-0", "p4:31:break-1", "p4:31:break-2", "p4:31:break-3", "p4:31:break-123"];

fn main() -> ExitCode {
    let args = RotationArgs::read("Figure 9: equivariance broken at one depth alone", BUILT_IN_AND_RESUMED);
    let plan = Plan::upright("fig9", &args, &NETWORKS, 3).measuring(&MEASURE);
    rotations::main(&plan, |findings| draw(findings, &args))
}

fn measure(sample: &Sample) -> Result<Measured> {
    Ok([(ERROR.into(), equivariance_errors(sample, &DEPTHS)?)].into())
}

fn draw(findings: &Findings, args: &RotationArgs) -> Result<()> {
    let outcomes = rotations::outcomes(findings, Turns::UPRIGHT.into());
    let label = |outcome: &Outcome| outcome.subject.design.title();
    let mut series: Vec<_> = outcomes.iter().map(|outcome| outcome.series(&findings.settings)).collect();
    series.iter_mut().zip(&outcomes).for_each(|(series, outcome)| series.label = label(outcome));
    let subtitle = findings.subtitle(args.seed, "upright");
    let panels: [(&str, &str, PerSeed); 3] = [
        ("Upright digits", "Accuracy at 0° (%)", |outcome| outcome.each(|seed| seed[0])),
        ("All angles", "Mean accuracy (%)", Outcome::means),
        ("Equivariance error after training", "Of the logits (% of their size)", |outcome| {
            outcome.measured(ERROR, DEPTHS.len() - 1)
        }),
    ];
    let (chart, side) = (560.0, 380.0);
    let height = 70.0 + panels.len() as f64 * dot_chart::height(outcomes.len());
    figure::save(&findings.folder.join("fig9"), (chart + side, height), |area| {
        figure::heading(area, "Equivariance broken by one of three poolings alone", &subtitle)?;
        angle_chart::draw(area, (10.0, 54.0), (chart - 6.0, height - 8.0), &series)?;
        for (i, (title, axis, values)) in panels.iter().enumerate() {
            let dots =
                |(style, outcome): (usize, &Outcome)| Dots { label: label(outcome), values: values(outcome), style };
            let lines: Vec<Dots> = outcomes.iter().enumerate().map(dots).collect();
            let y = 58.0 + i as f64 * dot_chart::height(outcomes.len());
            dot_chart::panel(area, (chart + 14.0, y), (side - 20.0, 130.0), title, axis, &lines)?;
        }
        Ok(())
    })?;

    let mut columns = Outcome::COLUMNS.to_vec();
    columns.extend(DEPTHS);
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let errors = (0..DEPTHS.len()).map(|depth| rotations::percent(&outcome.measured(ERROR, depth)));
            outcome.row(&findings.settings).into_iter().chain(errors).collect()
        })
        .collect();
    say::result(format_args!("\n{subtitle}"));
    table::print(&columns, &rows);
    let notes =
        ["pool2 to linear: relative equivariance error behind that layer, in percent; 0.00 of an exact one is 0"];
    let markdown = table::markdown(&subtitle, &columns, &rows, notes);
    files::write(&findings.folder.join("fig9.md"), markdown.as_bytes())?;
    notes.iter().for_each(say::result);
    outcomes.iter().filter_map(Outcome::warning).for_each(say::result);
    say::result(format_args!("wrote fig9.csv, fig9.md, fig9.svg and fig9.png to {}", findings.folder.display()));
    Ok(())
}
