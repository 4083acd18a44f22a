//! Figure 6: networks trained on digits whose angles are biased (normal around 45°), tested on all angles. The exactly
//! equivariant network carries over what it learns to the other three quarters; the others do as far as their
//! equivariance holds.
//!
//! What is trained and tested, and how an image is prepared: `src/rotations`.

use clap::Parser;
use quarterturn::core::Result;
use quarterturn_examples::{
    angle_chart, args,
    digits::Digits,
    figure::{self, bold, from_left, write},
    files,
    rotations::{self, BUILT_IN_AND_RESUMED, Findings, Outcome, PAPERS, Plan, RotationArgs, Sizes, Task, Turns},
    say, table,
};
use std::process::ExitCode;

/// Points of a panel.
const PANEL: (f64, f64) = (470.0, 350.0);
/// Points between a row's axis labels and the titles of the next.
const GAP: f64 = 34.0;
/// Panels beside each other.
const COLUMNS: usize = 2;
/// Points above the panels.
const HEAD: f64 = 94.0;

/// Figure 6: Z2CNN and P4CNN, trained on digits turned by angles around 45°, tested on all angles
#[derive(Parser)]
#[command(after_help = BUILT_IN_AND_RESUMED)]
struct Args {
    /// How the training digits are turned, one panel each: upright, uniform, rotmnist (uniform, each digit by one angle
    /// throughout), normal:MEAN:STD in degrees; separated by commas. The protocol says how often an angle is drawn, unless
    /// :digit (per digit and epoch), :batch (one for a whole batch) or :once (per digit for good) stands behind
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ["normal:45:20", "normal:45:40"])]
    training: Vec<Turns>,
    #[command(flatten)]
    rotations: RotationArgs,
}

fn main() -> ExitCode {
    args::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let tasks: Vec<Task> = args.training.iter().map(|&turns| turns.into()).collect();
    let (args_of_runs, sizes) = (&args.rotations, Sizes { seeds: 1, full_seeds: 10 });
    let findings = rotations::run(&Plan {
        name: "fig6",
        args: args_of_runs,
        networks: &PAPERS,
        tasks: &tasks,
        sizes,
        measure: None,
    })?;
    Ok(findings.report.finish(|| draw(&findings, args)))
}

fn draw(findings: &Findings, args: &Args) -> Result<()> {
    let trained: Vec<(Turns, Vec<Outcome>)> = args
        .training
        .iter()
        .map(|&turns| (turns, rotations::outcomes(findings, turns.into())))
        .filter(|(_, outcomes)| !outcomes.is_empty())
        .collect();
    let panels: Vec<_> = trained
        .iter()
        .map(|(turns, outcomes)| {
            (turns, outcomes.iter().map(|outcome| outcome.series(&findings.settings)).collect::<Vec<_>>())
        })
        .collect();
    let upright = panels.iter().filter(|(turns, _)| **turns == Turns::UPRIGHT).count();
    let digits = match upright {
        0 => "turned",
        n if n == panels.len() => "upright",
        _ => "upright or turned",
    };
    let subtitle = findings.subtitle(args.rotations.seed, digits);
    let bottom = angle_chart::bottom(panels.iter().flat_map(|(_, series)| series));
    let width = PANEL.0 * panels.len().min(COLUMNS) as f64;
    let rows = panels.len().div_ceil(COLUMNS) as f64;
    let height = HEAD + (PANEL.1 + GAP) * rows - GAP + 8.0;
    figure::save(&findings.folder.join("fig6"), (width, height), |area| {
        figure::heading(area, "Accuracy on rotated digits, by the angles of the training digits", &subtitle)?;
        if let Some((_, series)) = panels.first() {
            angle_chart::legend(area, (16.0, 67.0), width, series)?;
        }
        for (place, (turns, series)) in panels.iter().enumerate() {
            let x = 10.0 + PANEL.0 * (place % COLUMNS) as f64;
            let y = HEAD + (PANEL.1 + GAP) * (place / COLUMNS) as f64;
            let title = format!("Trained on {}", turns.title());
            write(area, &title, (x + 46.0, y + 8.0), from_left(bold(10.5)))?;
            let corner = (x + PANEL.0 - 16.0, y + PANEL.1);
            angle_chart::panel(area, (x, y + 20.0), corner, series, bottom, &|angle| turns.density(angle))?;
        }
        Ok(())
    })?;

    say::result(format_args!("\n{subtitle}"));
    let mut markdown = format!("{subtitle}\n");
    for (turns, outcomes) in &trained {
        let title = format!("trained on {}", turns.title());
        say::result(format_args!("\n{title}"));
        let rows: Vec<_> = outcomes.iter().map(|outcome| outcome.row(&findings.settings)).collect();
        table::print(&Outcome::COLUMNS, &rows);
        markdown += &format!("\n{}", table::markdown(&title, &Outcome::COLUMNS, &rows, [""; 0]));
    }
    files::write(&findings.folder.join("fig6.md"), markdown.as_bytes())?;
    trained.iter().flat_map(|(_, outcomes)| outcomes).filter_map(Outcome::warning).for_each(say::result);
    say::result("turns: whether a quarter turn of the input leaves every bit of the logits as it was");
    say::result(format_args!("wrote fig6.csv, fig6.md, fig6.svg and fig6.png to {}", findings.folder.display()));
    if matches!(findings.digits, Digits::BuiltIn) {
        say::result(
            "These are built-in digits. The paper's are MNIST: add --data DIR, or (feature `download`, 11 MB) --download.",
        );
    }
    Ok(())
}
