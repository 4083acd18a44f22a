//! Figure 7, of a question that the paper leaves open: P4CNN at 27, 28 and 29 with adaptive subsampling against without. Trained on
//! upright digits, tested on rotated ones, and on digits shifted by one pixel.
//!
//! At 28 nothing is left over, and the adaptive network is the plain one, bit for bit: it is trained once.

use quarterturn::core::Result;
use quarterturn_examples::{
    angle_chart,
    dot_chart::{self, Dots},
    figure, files,
    rotations::{
        self, BUILT_IN_AND_RESUMED, Findings, Measure, Measured, Outcome, PerSeed, Plan, RotationArgs, Sample, Turns,
        shift_consistency,
    },
    say, table,
};
use std::process::ExitCode;

/// What is measured besides accuracies.
const CONSISTENCY: &str = "same answer after a shift by one pixel, percent";
const MEASURE: Measure = Measure { digits: 1000, of: measure };
const NETWORKS: [&str; 5] = ["p4:27", "p4:27:adaptive", "p4:28", "p4:29", "p4:29:adaptive"];

fn main() -> ExitCode {
    let args =
        RotationArgs::read("Figure 7: adaptive subsampling, on rotated and on shifted digits", BUILT_IN_AND_RESUMED);
    let plan = Plan::upright("fig7", &args, &NETWORKS, 3).measuring(&MEASURE);
    rotations::main(&plan, |findings| draw(findings, &args))
}

fn measure(sample: &Sample) -> Result<Measured> {
    Ok([(CONSISTENCY.into(), vec![shift_consistency(sample)?])].into())
}

fn draw(findings: &Findings, args: &RotationArgs) -> Result<()> {
    let outcomes = rotations::outcomes(findings, Turns::UPRIGHT.into());
    let series: Vec<_> = outcomes.iter().map(|outcome| outcome.series(&findings.settings)).collect();
    let subtitle = findings.subtitle(args.seed, "upright");
    let panels: [(&str, &str, PerSeed); 3] = [
        ("Upright digits", "Accuracy at 0° (%)", |outcome| outcome.each(|seed| seed[0])),
        ("All angles", "Mean accuracy (%)", Outcome::means),
        ("Shifts by one pixel", "Same answer after the shift (%)", |outcome| outcome.measured(CONSISTENCY, 0)),
    ];
    let (chart, side) = (560.0, 400.0);
    let height = (70.0 + panels.len() as f64 * dot_chart::height(outcomes.len())).max(440.0);
    figure::save(&findings.folder.join("fig7"), (chart + side, height), |area| {
        figure::heading(area, "P4CNN with ordinary and with adaptive subsampling", &subtitle)?;
        angle_chart::draw(area, (10.0, 54.0), (chart - 6.0, height - 8.0), &series)?;
        for (i, (title, axis, values)) in panels.iter().enumerate() {
            let dots =
                |(style, outcome): (usize, &Outcome)| Dots { label: outcome.label(), values: values(outcome), style };
            let lines: Vec<Dots> = outcomes.iter().enumerate().map(dots).collect();
            let y = 58.0 + i as f64 * dot_chart::height(outcomes.len());
            dot_chart::panel(area, (chart + 14.0, y), (side - 20.0, 170.0), title, axis, &lines)?;
        }
        Ok(())
    })?;

    let mut columns = Outcome::COLUMNS.to_vec();
    columns.push("same answer after a shift");
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let consistency = rotations::percent(&outcome.measured(CONSISTENCY, 0));
            outcome.row(&findings.settings).into_iter().chain([consistency]).collect()
        })
        .collect();
    say::result(format_args!("\n{subtitle}"));
    table::print(&columns, &rows);
    let markdown = table::markdown(&subtitle, &columns, &rows, [""; 0]);
    files::write(&findings.folder.join("fig7.md"), markdown.as_bytes())?;
    outcomes.iter().filter_map(Outcome::warning).for_each(say::result);
    say::result(format_args!("wrote fig7.csv, fig7.md, fig7.svg and fig7.png to {}", findings.folder.display()));
    Ok(())
}
