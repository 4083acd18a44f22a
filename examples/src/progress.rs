//! Progress bars with the time left: one for all the work and, in a grid of runs, one for the run under way. Where
//! standard error is no terminal, a line now and then instead.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Between lines when standard error is a file or a pipe: at first, and at most. In between, a fiftieth of the time gone.
const QUIET: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(300)];
/// Steps of a second of estimated work.
const PER_SECOND: f64 = 1000.0;

/// Progress of a known amount of work.
pub struct Progress {
    bars: MultiProgress,
    all: Meter,
    run: Option<Meter>,
    /// What the run under way is, in front of every message.
    label: String,
    terminal: bool,
    spoken: Instant,
    message: String,
}

impl Progress {
    /// Work of `total` steps, of any unit.
    pub fn new(total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars = MultiProgress::new();
        let all = Meter::new(&bars, terminal, total, "{elapsed} gone, {eta} to go");
        Progress {
            bars,
            all,
            run: None,
            label: String::new(),
            terminal,
            spoken: Instant::now(),
            message: String::new(),
        }
    }

    /// Work of an estimated `total` seconds.
    pub fn seconds(total: f64) -> Self {
        Self::new((total * PER_SECOND) as u64)
    }

    /// A run of an estimated `seconds` begins.
    pub fn begin(&mut self, label: &str, seconds: f64) {
        self.label = label.to_string();
        self.run = Some(Meter::new(&self.bars, self.terminal, (seconds * PER_SECOND) as u64, "{eta} to go"));
        self.say("");
    }

    /// The run has ended, for good or not; its share counts as done.
    pub fn end(&mut self) {
        if let Some(run) = self.run.take() {
            self.all.bar.inc(run.total.saturating_sub(run.bar.position()));
            run.bar.finish_and_clear();
        }
        self.label.clear();
    }

    /// What is being done now.
    pub fn say(&mut self, message: impl Into<String>) {
        let message = message.into();
        let separator = if self.label.is_empty() || message.is_empty() { "" } else { ", " };
        self.message = format!("{}{separator}{message}", self.label);
        self.run.as_ref().unwrap_or(&self.all).bar.set_message(self.message.clone());
    }

    /// `steps` more are done.
    pub fn advance(&mut self, steps: u64) {
        self.all.bar.inc(steps);
        if let Some(run) = &self.run {
            run.bar.inc(steps);
        }
        let pause = (self.all.begun.elapsed() / 50).clamp(QUIET[0], QUIET[1]);
        if !self.terminal && self.spoken.elapsed() >= pause {
            self.spoken = Instant::now();
            let run = self.run.as_ref().map_or(String::new(), |run| {
                format!("; this run {:.0}%, {} to go", 100.0 * run.share(), duration(run.left()))
            });
            super::say::note(format_args!(
                "{:3.0}%  {} gone, {} to go{run}  {}",
                100.0 * self.all.share(),
                duration(self.all.begun.elapsed().as_secs_f64()),
                duration(self.all.left()),
                self.message
            ));
        }
    }

    /// Work of an estimated `seconds` is done.
    pub fn advance_seconds(&mut self, seconds: f64) {
        // Steps are whole numbers: what is rounded away here is made good by the next call.
        let meter = self.run.as_mut().unwrap_or(&mut self.all);
        meter.fraction += seconds * PER_SECOND;
        let steps = meter.fraction as u64;
        meter.fraction -= steps as f64;
        self.advance(steps);
    }

    /// Work of an estimated `seconds` had been done before; it says nothing about speed.
    pub fn skip_seconds(&mut self, seconds: f64) {
        let steps = (seconds * PER_SECOND) as u64;
        for meter in [Some(&mut self.all), self.run.as_mut()].into_iter().flatten() {
            meter.skipped += steps;
            meter.bar.inc(steps);
            meter.bar.reset_eta();
        }
    }

    /// `steps` in all are done.
    pub fn reach(&mut self, steps: u64) {
        self.advance(steps.saturating_sub(self.all.bar.position()));
    }

    /// A line that stays above the bars.
    pub fn note(&self, line: &str) {
        if !self.terminal || self.bars.println(line).is_err() {
            super::say::note(format_args!("{line}"));
        }
    }

    /// Removes the bars.
    pub fn done(mut self) -> Duration {
        self.end();
        self.all.bar.finish_and_clear();
        self.all.begun.elapsed()
    }
}

/// One bar.
struct Meter {
    bar: ProgressBar,
    total: u64,
    /// Steps that were there from the start.
    skipped: u64,
    /// Part of a step.
    fraction: f64,
    begun: Instant,
}

impl Meter {
    fn new(bars: &MultiProgress, terminal: bool, total: u64, times: &str) -> Self {
        let bar = if terminal { bars.insert(0, ProgressBar::new(total)) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template(&format!("{{wide_msg}} [{{bar:30}}] {{percent:>3}}%  {times}"))
        {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        Meter { bar, total, skipped: 0, fraction: 0.0, begun: Instant::now() }
    }

    fn share(&self) -> f64 {
        self.bar.position() as f64 / self.total.max(1) as f64
    }

    /// Seconds to go, at the speed so far.
    fn left(&self) -> f64 {
        let here = self.bar.position().saturating_sub(self.skipped).max(1) as f64;
        self.begun.elapsed().as_secs_f64() * self.total.saturating_sub(self.bar.position()) as f64 / here
    }
}

/// Seconds in words: `40 s`, `12 min`, `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        _ if seconds < 99.5 => format!("{seconds:.0} s"),
        0..100 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}
