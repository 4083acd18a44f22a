//! Progress bars with the time left. Where standard error is no terminal, a line every few seconds instead.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Seconds between lines when standard error is a file or a pipe.
const QUIET: Duration = Duration::from_secs(10);

/// Progress of a known amount of work.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    terminal: bool,
    begun: Instant,
    spoken: Instant,
    message: String,
}

impl Progress {
    /// Work of `total` steps, of any unit.
    pub fn new(total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{wide_msg} [{bar:30}] {percent:>3}%  {elapsed} gone, {eta} to go")
        {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        Progress { bar, total, terminal, begun: Instant::now(), spoken: Instant::now(), message: String::new() }
    }

    /// What is being done now.
    pub fn say(&mut self, message: impl Into<String>) {
        self.message = message.into();
        self.bar.set_message(self.message.clone());
    }

    /// `steps` more are done.
    pub fn advance(&mut self, steps: u64) {
        self.bar.inc(steps);
        if !self.terminal && self.spoken.elapsed() >= QUIET {
            self.spoken = Instant::now();
            let share = self.bar.position() as f64 / self.total.max(1) as f64;
            let gone = self.begun.elapsed().as_secs_f64();
            let left = gone * (1.0 - share) / share.max(1e-9);
            super::say::note(format_args!(
                "{:3.0}%  {gone:.0} s gone, {left:.0} s to go  {}",
                100.0 * share,
                self.message
            ));
        }
    }

    /// `steps` in all are done.
    pub fn reach(&mut self, steps: u64) {
        self.advance(steps.saturating_sub(self.bar.position()));
    }

    /// A line that stays above the bar.
    pub fn note(&self, line: &str) {
        if self.terminal { self.bar.println(line) } else { super::say::note(format_args!("{line}")) }
    }

    /// Removes the bar.
    pub fn done(self) -> Duration {
        self.bar.finish_and_clear();
        self.begun.elapsed()
    }
}
