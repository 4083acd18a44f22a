//! Table 1: accuracies on MNIST and on RotMNIST. By the paper's words the training digits of RotMNIST are turned once, each by a
//! uniform angle; the published runs turned each batch by a fresh one, and so does `--protocol published`. With intervals and
//! tests, and besides the accuracy at 0°, which the paper gives, the mean over all angles.
//!
//! What is trained and tested, and how an image is prepared: `src/rotations`.

use quarterturn::{core::Result, kernels::Group};
use quarterturn_examples::{
    csv::Csv,
    digits::Digits,
    files,
    rotations::{
        self, Angles, BUILT_IN_AND_RESUMED, Drawn, Findings, Outcome, PAPERS, Plan, Protocol, RotationArgs, Sizes,
        Subject, Turns, statistics,
    },
    say,
    significance::{TTest, interval95, welch},
    table,
};
use std::process::ExitCode;

/// What the networks are trained on: the columns MNIST and RotMNIST of the paper's table.
fn trainings(protocol: Protocol) -> [(Turns, &'static str); 2] {
    let turned = match protocol {
        Protocol::Paper => (Turns::ROTMNIST, "turned once"),
        Protocol::Published => (Turns { angles: Angles::Uniform, drawn: Some(Drawn::Batch) }, "turned batch by batch"),
    };
    [(Turns::UPRIGHT, "upright"), turned]
}

/// What is measured on each.
const MEASURES: [&str; 2] = ["accuracy at 0°", "mean over all angles"];
/// The paper's accuracies at 0° (mean and standard deviation over 100 runs), on MNIST and on RotMNIST.
const PAPER: [Published; 4] = [
    (Group::C1, 28, [(98.47, 0.17), (91.60, 1.25)]),
    (Group::C4, 27, [(98.52, 0.26), (96.92, 0.27)]),
    (Group::C4, 28, [(97.69, 0.17), (96.89, 0.21)]),
    (Group::C4, 29, [(98.42, 0.25), (96.87, 0.25)]),
];

/// Group, input size, and the accuracies.
type Published = (Group, usize, [(f64, f64); 2]);

fn main() -> ExitCode {
    let about = "Table 1: Z2CNN and P4CNN on MNIST and RotMNIST, over many seeds";
    let args = RotationArgs::read(about, BUILT_IN_AND_RESUMED);
    let plan = Plan {
        name: "table1",
        args: &args,
        networks: &PAPERS,
        tasks: &trainings(args.protocol).map(|(turns, _)| turns.into()),
        sizes: Sizes { seeds: 3, full_seeds: 100 },
        measure: None,
    };
    rotations::main(&plan, |findings| draw(findings, &args))
}

fn draw(findings: &Findings, args: &RotationArgs) -> Result<()> {
    let cells = cells(findings);
    write_summary(&cells, findings)?;
    let subtitle = findings.subtitle(args.seed, "upright or turned");
    let columns = columns(&cells);
    let rows: Vec<Vec<String>> =
        cells.iter().map(|cell| columns.iter().map(|(_, text)| text(cell)).collect()).collect();
    let header: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let markdown = table::markdown(&subtitle, &header, &rows, notes(&cells));
    files::write(&findings.folder.join("table1.md"), markdown.as_bytes())?;

    say::result(format_args!("\n{subtitle}"));
    table::print(&header, &rows);
    notes(&cells).for_each(say::result);
    say::result(format_args!("wrote table1.csv, table1-summary.csv and table1.md to {}", findings.folder.display()));
    if matches!(findings.digits, Digits::BuiltIn) {
        say::result("These are built-in digits, so the paper's numbers, which are of MNIST, are left out.");
    }
    Ok(())
}

/// Said under the table.
const NOTES: [&str; 3] = [
    "ours: mean ± standard deviation over seeds, in percent; 95%: half the width of the mean's interval (Student's t)",
    "exact minus this: difference of the means in percent points; p: two-sided, Welch's t-test",
    "paper: its Table 1, whose columns MNIST and RotMNIST are upright and turned; mean ± standard deviation over \
     100 runs, accuracy at 0° only; not measured by us",
];

/// The last is of the paper's column, if there is one.
fn notes(cells: &[Cell]) -> impl Iterator<Item = &'static str> {
    let shown = if cells.iter().any(|cell| cell.paper.is_some()) { NOTES.len() } else { NOTES.len() - 1 };
    NOTES.into_iter().take(shown)
}

/// One measure of one network on one training set.
struct Cell {
    turns: Turns,
    training: &'static str,
    measure: &'static str,
    subject: Subject,
    exact: bool,
    /// By seed, in percent.
    values: Vec<f64>,
    /// Of the exactly equivariant network and this one, if this is another.
    against_exact: Option<(f64, Option<TTest>)>,
    paper: Option<(f64, f64)>,
}

fn cells(findings: &Findings) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (column, (turns, training)) in trainings(findings.settings.protocol).into_iter().enumerate() {
        let outcomes = rotations::outcomes(findings, turns.into());
        for measure in MEASURES {
            let values = |outcome: &Outcome| match measure {
                "accuracy at 0°" => outcome.each(|seed| seed[0]),
                _ => outcome.each(|seed| seed.iter().sum::<f64>() / seed.len() as f64),
            };
            let exact = outcomes.iter().find(|outcome| outcome.exact).map(values);
            cells.extend(outcomes.iter().map(|outcome| {
                let subject = outcome.subject;
                let values = values(outcome);
                let against_exact = exact
                    .as_ref()
                    .filter(|_| !outcome.exact)
                    .map(|exact| (statistics(exact).0 - statistics(&values).0, welch(exact, &values)));
                let comparable = matches!(findings.digits, Digits::Mnist(_)) && measure == MEASURES[0];
                let of_paper =
                    |&&(group, size, _): &&Published| comparable && group == subject.group && size == subject.size;
                let paper = PAPER.iter().find(of_paper).map(|(_, _, values)| values[column]);
                Cell { turns, training, measure, subject, exact: outcome.exact, values, against_exact, paper }
            }));
        }
    }
    cells
}

type Column = (&'static str, fn(&Cell) -> String);

/// The table's columns; the paper's only where it has numbers.
fn columns(cells: &[Cell]) -> Vec<Column> {
    let mut columns: Vec<Column> = vec![
        ("trained on", |cell| cell.training.into()),
        ("measure", |cell| cell.measure.into()),
        ("network", |cell| cell.subject.to_string()),
        ("turns", |cell| if cell.exact { "exact" } else { "not exact" }.into()),
        ("seeds", |cell| cell.values.len().to_string()),
        ("ours", |cell| {
            let (mean, std) = statistics(&cell.values);
            if cell.values.len() > 1 { format!("{mean:.2} ± {std:.2}") } else { format!("{mean:.2}") }
        }),
        ("95%", |cell| interval95(&cell.values).map_or("–".into(), |half| format!("±{half:.2}"))),
        ("exact minus this", |cell| {
            cell.against_exact.map_or("–".into(), |(difference, _)| format!("{difference:+.2}"))
        }),
        ("p", |cell| {
            let welch = cell.against_exact.and_then(|(_, welch)| welch);
            welch.map_or("–".into(), |welch| {
                if welch.p < 1e-4 { format!("{:.0e}", welch.p) } else { format!("{:.4}", welch.p) }
            })
        }),
    ];
    if cells.iter().any(|cell| cell.paper.is_some()) {
        columns.push(("paper", |cell| cell.paper.map_or("–".into(), |(mean, std)| format!("{mean:.2} ± {std:.2}"))));
    }
    columns
}

fn write_summary(cells: &[Cell], findings: &Findings) -> Result<()> {
    let header = "data,protocol,training,measure,model,group,input_size,exact,seeds,mean,std,ci95_half_width,\
                  exact_minus_this,welch_t,welch_df,welch_p,paper_mean,paper_std";
    let mut csv = Csv::new(findings.folder.join("table1-summary.csv"), header);
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for cell in cells {
        let (mean, std) = statistics(&cell.values);
        let welch = cell.against_exact.and_then(|(_, welch)| welch);
        let protocol: Protocol = findings.settings.protocol;
        csv.row(&[
            &findings.digits.name(),
            &protocol,
            &cell.turns,
            &cell.measure,
            &cell.subject.model(),
            &cell.subject.group,
            &cell.subject.size,
            &cell.exact,
            &cell.values.len(),
            &mean,
            &number((cell.values.len() > 1).then_some(std)),
            &number(interval95(&cell.values)),
            &number(cell.against_exact.map(|(difference, _)| difference)),
            &number(welch.map(|welch| welch.t)),
            &number(welch.map(|welch| welch.freedom)),
            &number(welch.map(|welch| welch.p)),
            &number(cell.paper.map(|(mean, _)| mean)),
            &number(cell.paper.map(|(_, std)| std)),
        ]);
    }
    csv.save()
}
