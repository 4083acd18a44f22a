//! The experiments of Figures 5 and 6 and Table 1: networks trained on digits, upright or turned in some way, and
//! tested on the digits turned by every angle.
//!
//! Trained on 8,000 of MNIST's 10,000 t10k digits (drawn by the seed), tested on the 60,000 training digits; Adam,
//! learning rate 0.01 halved every 10 epochs, weight decay 1e-5, batches of 256, cross-entropy; the weights after the
//! last epoch are tested, or those of the best one. That is `--full`. Shorter runs take smaller batches and halve the rate every fifth of the
//! epochs.

mod args;
mod bench;
mod classes;
mod design;
mod measures;
mod protocol;
mod settings;
mod subject;
mod summary;
mod testing;
mod trial;
mod turns;

pub use args::{BUILT_IN_AND_RESUMED, RotationArgs};
pub use bench::{Bench, Measure, Sample};
pub use classes::Classes;
pub use design::{CONVS, Design, POOLS};
pub use measures::{equivariance_errors, relative_change, rings, shift_consistency};
pub use protocol::{Protocol, TestedEpoch};
pub use settings::{Settings, Sizes};
pub use subject::Subject;
pub use summary::{Outcome, PerSeed, outcomes, percent, statistics};
pub use trial::{Measured, Task, Tested, Trial};
pub use turns::{Angles, Drawn, Turns};

use super::{
    csv::Csv,
    device,
    digits::Digits,
    runner::{Finished, Grid, Report, Run},
};
use quarterturn::core::{Error, Result};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What an experiment has found.
pub struct Findings {
    /// The folder of the results.
    pub folder: PathBuf,
    /// What was trained and tested on.
    pub digits: Digits,
    /// How.
    pub settings: Settings,
    /// The runs, by seed, training and network.
    pub trials: Vec<Trial>,
    /// Their results.
    pub report: Report<Tested>,
}

/// The networks of the paper's figures.
pub const PAPERS: [&str; 4] = ["z2:28", "p4:27", "p4:28", "p4:29"];

/// An experiment: every network of the options is trained on every task with every seed, and tested.
pub struct Plan<'a> {
    /// The example, by which its files are called.
    pub name: &'a str,
    pub args: &'a RotationArgs,
    /// What is trained unless the user says otherwise.
    pub networks: &'a [&'a str],
    pub tasks: &'a [Task],
    pub sizes: Sizes,
    /// What is measured besides accuracies.
    pub measure: Option<&'a Measure>,
}

impl<'a> Plan<'a> {
    /// Of networks that are trained on upright digits, over so many seeds unless the user says otherwise; ten in the paper.
    pub fn upright(name: &'a str, args: &'a RotationArgs, networks: &'a [&'a str], seeds: u64) -> Self {
        const TASKS: [Task; 1] = [Task { turns: Turns::UPRIGHT, classes: Classes::ALL }];
        Plan { name, args, networks, tasks: &TASKS, sizes: Sizes { seeds, full_seeds: 10 }, measure: None }
    }

    /// The same, and this is measured besides accuracies.
    #[must_use]
    pub fn measuring(self, measure: &'a Measure) -> Self {
        Plan { measure: Some(measure), ..self }
    }
}

/// Trains and tests; writes a CSV after each run.
///
/// # Errors
/// If data or device cannot be opened, or the folder is of no use.
pub fn run(plan: &Plan) -> Result<Findings> {
    let &Plan { name, args, networks, tasks, ref sizes, measure } = plan;
    let device = device::open(args.device.device)?;
    let digits = Digits::open(&args.data)?;
    let settings = Settings::new(args, sizes, &digits);
    let folder = args.out.folder(name)?;
    let named =
        || networks.iter().map(|name| name.parse::<Subject>().map_err(Error::Invalid)).collect::<Result<Vec<_>>>();
    let subjects = if args.networks.is_empty() { named()? } else { args.networks.clone() };
    let mut trials = Vec::new();
    for seed in super::args::seeds(args.seed, settings.seeds)? {
        for &task in tasks {
            trials.extend(subjects.iter().map(|&subject| Trial { subject, task, seed }));
        }
    }
    let bench = Bench::new(&digits, &settings, &device, measure)?;
    let grid = Grid {
        name,
        folder: &folder,
        settings: settings.in_common(&digits),
        device: &device,
        runs: trials.iter().map(|&trial| Run { key: trial.key(), spec: trial }).collect(),
        args: &args.runner,
    };
    let report = grid.execute(&bench, |results| {
        if measure.is_some() {
            write_measured(&folder.join(format!("{name}-measured.csv")), &trials, results)?;
        }
        write_csv(&folder.join(format!("{name}.csv")), &digits, &settings, &trials, results)
    })?;
    Ok(Findings { folder, digits, settings, trials, report })
}

/// The `main` of an experiment: carries out the plan and, if no run is missing, draws; the exit code.
pub fn main(plan: &Plan, draw: impl FnOnce(&Findings) -> Result<()>) -> ExitCode {
    super::args::exit(run(plan).map(|findings| findings.report.finish(|| draw(&findings))))
}

/// Rows of all finished runs, in the order of the plan.
fn write_csv(
    path: &Path,
    digits: &Digits,
    settings: &Settings,
    trials: &[Trial],
    results: &[Option<Finished<Tested>>],
) -> Result<()> {
    let header = "data,protocol,training,model,group,input_size,seed,angle_deg,correct,total,unanswered,angles_drawn,\
                  tested,tested_epoch,derived,device,commit";
    let mut csv = Csv::new(path.into(), header);
    for (Trial { subject, task, seed }, result) in trials.iter().zip(results) {
        let Some(Finished { found, origin }) = result else { continue };
        let unanswered = found.unanswered.iter().copied().chain(std::iter::repeat(0));
        let first_quarter = found.correct.len() / 4;
        let angles = settings.degrees().into_iter().zip(&found.correct).zip(unanswered).enumerate();
        for (i, ((degrees, correct), none)) in angles {
            csv.row(&[
                &digits.name(),
                &settings.protocol,
                &task,
                &subject.model(),
                &subject.group,
                &subject.size,
                seed,
                &degrees,
                correct,
                &found.digits.unwrap_or(settings.test),
                &none,
                &task.turns.drawn(settings.protocol).name(),
                &settings.tested,
                &found.epoch.unwrap_or(settings.epochs),
                &(found.derived && i >= first_quarter),
                &origin.device(),
                &origin.commit(),
            ]);
        }
    }
    csv.save()
}

/// What was measured besides accuracies.
fn write_measured(path: &Path, trials: &[Trial], results: &[Option<Finished<Tested>>]) -> Result<()> {
    let mut csv = Csv::new(path.into(), "training,model,group,input_size,seed,exact,measure,place,value,device,commit");
    for (Trial { subject, task, seed }, result) in trials.iter().zip(results) {
        let Some(Finished { found, origin }) = result else { continue };
        for (measure, values) in &found.measured {
            for (place, value) in values.iter().enumerate() {
                csv.row(&[
                    task,
                    &subject.model(),
                    &subject.group,
                    &subject.size,
                    seed,
                    &found.exact,
                    measure,
                    &place,
                    value,
                    &origin.device(),
                    &origin.commit(),
                ]);
            }
        }
    }
    csv.save()
}
