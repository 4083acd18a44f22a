//! Figure 5: networks trained on upright digits, tested on rotated ones. P4CNN on 28×28 is exactly equivariant to
//! quarter turns; on 27×27 and 29×29 its pooling leaves a row and a column over, and it learns to use that.
//!
//! What is trained and tested, and how an image is prepared: `src/rotations`.

use quarterturn::core::Result;
use quarterturn_examples::{
    angle_chart,
    digits::Digits,
    figure,
    rotations::{self, BUILT_IN_AND_RESUMED, Findings, Outcome, PAPERS, Plan, RotationArgs, Turns},
    say, table,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = RotationArgs::read(
        "Figure 5: Z2CNN and P4CNN, trained on upright digits, tested on rotated ones",
        BUILT_IN_AND_RESUMED,
    );
    let plan = Plan::upright("fig5", &args, &PAPERS, 1);
    rotations::main(&plan, |findings| draw(findings, &args))
}

fn draw(findings: &Findings, args: &RotationArgs) -> Result<()> {
    let outcomes = rotations::outcomes(findings, Turns::UPRIGHT.into());
    let series: Vec<_> = outcomes.iter().map(|outcome| outcome.series(&findings.settings)).collect();
    let subtitle = findings.subtitle(args.seed, "upright");
    let (width, height) = (720.0, 430.0);
    figure::save(&findings.folder.join("fig5"), (width, height), |area| {
        figure::heading(area, "Accuracy on rotated digits of networks trained on upright ones", &subtitle)?;
        angle_chart::draw(area, (10.0, 54.0), (width - 6.0, height - 8.0), &series)
    })?;

    say::result(format_args!("\n{subtitle}"));
    let rows: Vec<_> = outcomes.iter().map(|outcome| outcome.row(&findings.settings)).collect();
    table::print(&Outcome::COLUMNS, &rows);
    outcomes.iter().filter_map(Outcome::warning).for_each(say::result);
    say::result("turns: whether a quarter turn of the input leaves every bit of the logits as it was");
    say::result(format_args!("wrote fig5.csv, fig5.svg and fig5.png to {}", findings.folder.display()));
    if matches!(findings.digits, Digits::BuiltIn) {
        say::result(
            "These are built-in digits. The paper's are MNIST: add --data DIR, or (feature `download`, 11 MB) --download.",
        );
    }
    Ok(())
}
