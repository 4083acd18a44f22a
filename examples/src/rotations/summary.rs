//! What was found of each network, over its seeds.

use super::{Findings, Measured, Settings, Subject, Task, TestedEpoch, Turns};
use crate::{
    angle_chart::{Point, Series},
    runner::Finished,
    say::counted,
};

/// One network, trained in one way.
pub struct Outcome {
    pub subject: Subject,
    pub task: Task,
    pub parameters: u64,
    /// In percent, by seed and angle.
    pub accuracies: Vec<Vec<f64>>,
    /// What was measured besides, by seed.
    pub measured: Vec<Measured>,
    /// Answers that were none, over seeds and angles.
    pub unanswered: u64,
    /// Whether quarter turns left every bit of the logits, for all seeds.
    pub exact: bool,
}

/// The outcomes of one way of training, in the order of the networks.
pub fn outcomes(findings: &Findings, task: Task) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (trial, result) in findings.trials.iter().zip(&findings.report.results) {
        let Some(Finished { found, .. }) = result.as_ref().filter(|_| trial.task == task) else { continue };
        let subject = trial.subject;
        let at = outcomes.iter().position(|outcome| outcome.subject == subject).unwrap_or_else(|| {
            let parameters = found.parameters;
            outcomes.push(Outcome {
                subject,
                task,
                parameters,
                accuracies: Vec::new(),
                measured: Vec::new(),
                unanswered: 0,
                exact: true,
            });
            outcomes.len() - 1
        });
        let total = found.digits.unwrap_or(findings.settings.test) as f64;
        outcomes[at].measured.push(found.measured.clone());
        outcomes[at].exact &= found.exact;
        outcomes[at].unanswered += found.unanswered.iter().sum::<u64>();
        outcomes[at].accuracies.push(found.correct.iter().map(|&correct| 100.0 * correct as f64 / total).collect());
    }
    outcomes
}

/// Mean and standard deviation; of one value, the deviation is 0.
pub fn statistics(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// What is drawn of an outcome: one number for each seed.
pub type PerSeed = fn(&Outcome) -> Vec<f64>;

/// Mean and standard deviation for a table, of one value that alone.
pub fn percent(values: &[f64]) -> String {
    match (statistics(values), values.len()) {
        (_, 0) => "–".into(),
        ((mean, _), 1) => format!("{mean:.2}"),
        ((mean, std), _) => format!("{mean:.2} ± {std:.2}"),
    }
}

impl Outcome {
    /// What `pick` takes from the accuracies of each seed.
    pub fn each(&self, pick: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        self.accuracies.iter().map(|seed| pick(seed)).collect()
    }

    /// The mean accuracy over all angles, by seed.
    pub fn means(&self) -> Vec<f64> {
        self.each(|seed| seed.iter().sum::<f64>() / seed.len() as f64)
    }

    /// The `i`-th number of what was measured under this name, by seed; seeds without it are left out.
    pub fn measured(&self, name: &str, i: usize) -> Vec<f64> {
        self.measured.iter().filter_map(|seed| seed.get(name)?.get(i).copied()).collect()
    }

    /// For legends.
    pub fn label(&self) -> String {
        format!("{}{}", self.subject, if self.exact { ", exact" } else { "" })
    }

    /// For the chart.
    pub fn series(&self, settings: &Settings) -> Series {
        let degrees = settings.degrees();
        // 360° is 0° again.
        let angles = degrees.iter().copied().chain([360.0]).zip((0..degrees.len()).chain([0]));
        let points = angles.map(|(angle, i)| {
            let (mean, std) = statistics(&self.each(|seed| seed[i]));
            Point { angle, mean, std }
        });
        Series { label: self.label(), points: points.collect() }
    }

    /// Said where logits were not numbers.
    pub fn warning(&self) -> Option<String> {
        let Outcome { subject, unanswered, task, .. } = self;
        let tested = self.accuracies.iter().map(Vec::len).sum::<usize>();
        let of_all = format!("{unanswered} answers, at {tested} angles and seeds");
        let training = task.title();
        let message = format!(
            "{subject}, trained on {training}: no answer, as logits are not numbers: {of_all}; they count as wrong"
        );
        (*unanswered > 0).then_some(message)
    }

    /// The columns of [`Outcome::row`].
    pub const COLUMNS: [&str; 10] =
        ["network", "input", "parameters", "seeds", "0°", "90°", "180°", "270°", "all angles", "turns"];

    /// For the table.
    pub fn row(&self, settings: &Settings) -> Vec<String> {
        let degrees = settings.degrees();
        let at = |angle: f64| {
            let found = degrees.iter().position(|&d| d == angle);
            found.map_or("–".into(), |i| percent(&self.each(|seed| seed[i])))
        };
        vec![
            self.subject.model(),
            format!("{0}×{0}", self.subject.size),
            self.parameters.to_string(),
            self.accuracies.len().to_string(),
            at(0.0),
            at(90.0),
            at(180.0),
            at(270.0),
            percent(&self.means()),
            if self.exact { "exact" } else { "not exact" }.to_string(),
        ]
    }
}

impl Findings {
    /// The fewest and the most seeds that a network has results of, over all ways of training that have one.
    fn seeds_finished(&self) -> (u64, u64) {
        let mut trained: Vec<Task> = Vec::new();
        for trial in &self.trials {
            if !trained.contains(&trial.task) {
                trained.push(trial.task);
            }
        }
        let outcomes = trained.iter().flat_map(|&task| outcomes(self, task));
        let seeds: Vec<u64> = outcomes.map(|outcome| outcome.accuracies.len() as u64).collect();
        (seeds.iter().copied().min().unwrap_or(0), seeds.into_iter().max().unwrap_or(0))
    }

    /// The line under a figure's title that says what was done.
    pub fn subtitle(&self, first_seed: u64, digits: &str) -> String {
        let Settings { train, test, epochs, seeds, .. } = self.settings;
        let seeds = match self.seeds_finished() {
            _ if seeds == 1 => format!("seed {first_seed}"),
            (least, most) if (least, most) == (seeds, seeds) => format!("{seeds} seeds, mean ± 1 std"),
            (least, most) if least == most => format!("{most} of {seeds} seeds, mean ± 1 std"),
            (least, most) => format!("{least} to {most} of {seeds} seeds, mean ± 1 std"),
        };
        let protocol = match self.settings.protocol {
            super::Protocol::Paper => "",
            super::Protocol::Published => "  ·  published protocol",
        };
        let tested = match self.settings.tested {
            TestedEpoch::Last => "the last tested",
            TestedEpoch::Best => "the best tested",
        };
        let turned =
            self.trials.iter().any(|trial| trial.task.turns != Turns::UPRIGHT && trial.task.turns.drawn.is_none());
        let drawn = match turned {
            true => format!("  ·  angles {}", self.settings.protocol.drawn().title()),
            false => String::new(),
        };
        format!(
            "{}: {train} {digits} to train on, {test} rotated to test on  ·  {}, {tested}, {seeds}{protocol}{drawn}  ·  {}",
            self.digits.name(),
            counted(epochs, "epoch"),
            self.report.devices()
        )
    }
}
