//! The experiments of Figures 5 and 6 and Table 1: networks trained on digits, upright or turned in some way, and
//! tested on the digits turned by every angle.
//!
//! Trained on 8,000 of MNIST's 10,000 t10k digits (drawn by the seed), tested on the 60,000 training digits; Adam,
//! learning rate 0.01 halved every 10 epochs, weight decay 1e-5, batches of 256, cross-entropy; the weights after the
//! last epoch are tested. That is `--full`. Shorter runs take smaller batches and halve the rate every fifth of the
//! epochs.

mod args;
mod protocol;
mod settings;
mod subject;
mod summary;
mod trial;
mod turns;

pub use args::RotationArgs;
pub use protocol::Protocol;
pub use settings::{Settings, Sizes};
pub use subject::Subject;
pub use summary::{Outcome, outcomes, statistics};
pub use trial::{Tested, Trial};
pub use turns::Turns;

use super::{
    csv::Csv,
    device,
    digits::Digits,
    runner::{Finished, Grid, Report, Run},
};
use quarterturn::core::Result;
use std::path::{Path, PathBuf};
use trial::Bench;

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

/// Trains and tests every network on every training distribution with every seed; writes the CSV `name` after each
/// run.
///
/// # Errors
/// If data or device cannot be opened, or the folder is of no use.
pub fn run(name: &str, args: &RotationArgs, trainings: &[Turns], sizes: &Sizes) -> Result<Findings> {
    let device = device::open(args.device.device)?;
    let digits = Digits::open(&args.data)?;
    let settings = Settings::new(args, sizes, &digits);
    let folder = args.out.folder(name)?;
    let mut trials = Vec::new();
    for seed in super::args::seeds(args.seed, settings.seeds)? {
        for &turns in trainings {
            trials.extend(args.networks.iter().map(|&subject| Trial { subject, turns, seed }));
        }
    }
    let bench = Bench::new(&digits, &settings, &device)?;
    let grid = Grid {
        name,
        folder: &folder,
        settings: settings.in_common(&digits),
        device: &device,
        runs: trials.iter().map(|&trial| Run { key: trial.key(), spec: trial }).collect(),
        args: &args.runner,
    };
    let report = grid.execute(&bench, |results| {
        write_csv(&folder.join(format!("{name}.csv")), &digits, &settings, &trials, results)
    })?;
    Ok(Findings { folder, digits, settings, trials, report })
}

/// Rows of all finished runs, in the order of the plan.
fn write_csv(
    path: &Path,
    digits: &Digits,
    settings: &Settings,
    trials: &[Trial],
    results: &[Option<Finished<Tested>>],
) -> Result<()> {
    let header = "data,protocol,training,model,group,input_size,seed,angle_deg,correct,total,unanswered,device,commit";
    let mut csv = Csv::new(path.into(), header);
    for (Trial { subject, turns, seed }, result) in trials.iter().zip(results) {
        let Some(Finished { found, origin }) = result else { continue };
        let unanswered = found.unanswered.iter().copied().chain(std::iter::repeat(0));
        for ((degrees, correct), none) in settings.degrees().iter().zip(&found.correct).zip(unanswered) {
            csv.row(&[
                &digits.name(),
                &settings.protocol,
                turns,
                &subject.model(),
                &subject.group,
                &subject.size,
                seed,
                degrees,
                correct,
                &settings.test,
                &none,
                &origin.device(),
                &origin.commit(),
            ]);
        }
    }
    csv.save()
}
