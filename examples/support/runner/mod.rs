//! Grids of runs (network × input size × training × seed) that survive whatever happens to the program.
//!
//! A run is a key, which names it for ever, and a specification; what computes it is a function that gets the
//! specification and a [`Context`] and returns a result. The folder of a grid holds
//!
//! | file | content |
//! |---|---|
//! | `settings.json` | what all its runs have in common; a start with other settings is refused |
//! | `results.jsonl` | one line per finished run, appended and flushed to the disk the moment it ends |
//! | `runs/<key>.safetensors` | the network of a finished run |
//! | `runs/<key>.training.safetensors`, `runs/<key>.<name>.json` | how far a run in progress is |
//! | `lock` | held by the process at work |
//!
//! The same command goes on where the last one was stopped, killed or switched off: a finished run is not repeated,
//! one in progress is taken up from its last checkpoint. What is written in the end does not depend on how often that
//! happened: results are put in the order of the plan, and a run goes on with the same bits.

mod args;
mod context;
mod interrupt;
mod journal;
mod lock;
mod merge;
mod settings;

pub use args::{RunnerArgs, Shard};
pub use context::Context;
pub use settings::Settings;

use super::{
    files,
    progress::{Progress, duration},
    say::{self, counted},
};
use journal::Journal;
use lock::Lock;
use quarterturn::core::Result;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeSet,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// A member of a grid.
pub struct Run<S> {
    /// Its name in files, in lower case, and the same whatever else the grid holds.
    pub key: String,
    /// What to compute.
    pub spec: S,
}

/// Runs and where their results are kept.
pub struct Grid<'a, S> {
    /// The folder.
    pub folder: &'a Path,
    /// What the runs have in common.
    pub settings: Settings,
    /// All runs, in the order of the results.
    pub runs: Vec<Run<S>>,
    /// The user's options.
    pub args: &'a RunnerArgs,
}

/// How a grid stands when the program ends.
pub struct Report<R> {
    /// The result of each run, if it has one.
    pub results: Vec<Option<R>>,
    failed: Vec<String>,
    stopped: bool,
    shard: Option<Shard>,
}

impl<S: Display> Grid<'_, S> {
    /// Computes what has no result yet. `estimate` says how many seconds a run will take, for the plan and the time
    /// left; `run` computes one, or returns `None` when [`Context::stopping`] told it to stop; `finished` sees all
    /// results after each one.
    ///
    /// A run that fails is reported, and the others go on.
    ///
    /// # Errors
    /// If the folder is in use, holds runs with other settings, or cannot be read or written.
    pub fn execute<R: Serialize + DeserializeOwned>(
        &self,
        mut estimate: impl FnMut(&S) -> Result<f64>,
        mut run: impl FnMut(&S, &mut Context) -> Result<Option<R>>,
        mut finished: impl FnMut(&[Option<R>]) -> Result<()>,
    ) -> Result<Report<R>> {
        let shard = self.args.shard;
        let _lock = Lock::take(self.folder, shard, || self.settings.establish(self.folder))?;
        let runs_folder = self.folder.join("runs");
        files::create_folder(&runs_folder)?;
        if shard.is_none() {
            files::remove_unfinished(self.folder);
        }
        let mut journal = Journal::open(self.folder, shard)?;
        let mut report = Report { results: Vec::new(), failed: Vec::new(), stopped: false, shard };
        if !self.args.merge.is_empty() {
            merge::merge(&self.args.merge, self.folder, &self.settings, &mut journal)?;
        }
        // A process that was killed may have had no time for this.
        forget_states(&runs_folder, |run| journal.has(run));
        report.results = self.runs.iter().map(|run| journal.result(&run.key)).collect::<Result<_>>()?;
        let mine = |i: usize| shard.is_none_or(|shard| shard.takes(i));
        let open: Vec<usize> = (0..self.runs.len()).filter(|&i| mine(i) && report.results[i].is_none()).collect();
        finished(&report.results)?;
        if !self.args.merge.is_empty() || open.is_empty() {
            return Ok(report);
        }

        interrupt::listen()?;
        let seconds = open.iter().map(|&i| estimate(&self.runs[i].spec)).collect::<Result<Vec<f64>>>()?;
        self.announce(&open, &seconds, &runs_folder)?;
        let mut progress = Progress::seconds(seconds.iter().sum());
        for (place, (&i, &seconds)) in open.iter().zip(&seconds).enumerate() {
            let Run { key, spec } = &self.runs[i];
            let begun = Instant::now();
            progress.begin(&format!("run {} of {}: {spec}", place + 1, open.len()), seconds);
            let mut context = Context::new(key, &runs_folder, self.args.interval(), &mut progress);
            let outcome = run(spec, &mut context).and_then(|result| {
                let Some(result) = result else { return Ok(None) };
                journal.append(key, begun.elapsed().as_secs_f64(), &result)?;
                Ok(Some(result))
            });
            progress.end();
            match outcome {
                Ok(Some(result)) => {
                    report.results[i] = Some(result);
                    forget_states(&runs_folder, |run| run == key);
                }
                Ok(None) => report.stopped = true,
                Err(error) => {
                    progress.note(&format!("failed: {spec}: {error}"));
                    report.failed.push(format!("{spec}: {error}"));
                }
            }
            if let Err(error) = finished(&report.results) {
                progress.note(&format!("error: {error}; what has been found is safe in results.jsonl"));
                report.failed.push(error.to_string());
            }
            if report.stopped || interrupt::asked() {
                report.stopped = report.results.iter().enumerate().any(|(i, result)| mine(i) && result.is_none());
                break;
            }
        }
        progress.done();
        Ok(report)
    }

    /// The plan and its cost.
    fn announce(&self, open: &[usize], seconds: &[f64], runs_folder: &Path) -> Result<()> {
        let begun: BTreeSet<String> = files_by_run(runs_folder).map(|(run, _)| run).collect();
        let number = |count: usize| if count == 0 { "none".into() } else { count.to_string() };
        let others = match self.args.shard {
            Some(shard) => format!(", this is shard {shard}"),
            None => String::new(),
        };
        say::note(format_args!(
            "plan: {} in {}{others}; to do: {}, of which begun before: {}; estimate: {}",
            counted(self.runs.len() as u64, "run"),
            self.folder.display(),
            open.len(),
            number(open.iter().filter(|&&i| begun.contains(&self.runs[i].key)).count()),
            duration(seconds.iter().sum()),
        ));
        for (&i, &seconds) in open.iter().zip(seconds).take(PLANNED) {
            say::note(format_args!("  {}: {}", self.runs[i].spec, duration(seconds)));
        }
        if open.len() > PLANNED {
            say::note(format_args!("  and {} more", open.len() - PLANNED));
        }
        Ok(())
    }
}

/// The files in the folder of runs, with the key of the run that each belongs to.
fn files_by_run(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.split_once('.')?.0.to_string(), entry.path())))
}

/// Removes what is of use only to runs in progress, and what a killed process left half-written, of the runs that have
/// ended: their networks alone stay.
fn forget_states(folder: &Path, ended: impl Fn(&str) -> bool) {
    for (run, path) in files_by_run(folder) {
        if ended(&run) && path.file_name() != Some(format!("{run}.safetensors").as_ref()) {
            // A leftover does no harm.
            let _ = fs::remove_file(path);
        }
    }
}

/// Runs that the plan names one by one.
const PLANNED: usize = 16;

impl<R> Report<R> {
    /// Whether there is a result of every run, so that figures and tables are whole.
    pub fn complete(&self) -> bool {
        self.results.iter().all(Option::is_some)
    }

    /// Whether this process is to draw: it is no shard, and was not stopped.
    pub fn draws(&self) -> bool {
        self.shard.is_none() && !self.stopped && self.results.iter().any(Option::is_some)
    }

    /// Tells what is missing and why; the program's exit code.
    pub fn finish(&self) -> ExitCode {
        for failed in &self.failed {
            say::note(format_args!("failed: {failed}"));
        }
        let there = self.results.iter().filter(|result| result.is_some()).count();
        let standing = format!("{there} of {} runs are finished", self.results.len());
        if self.stopped {
            say::note(format_args!("stopped; {standing}. The same command goes on from here"));
            return ExitCode::from(INTERRUPTED);
        }
        if !self.failed.is_empty() {
            say::note(format_args!("{standing}. The same command tries the others again"));
            return ExitCode::FAILURE;
        }
        match self.shard {
            Some(shard) => say::note(format_args!(
                "shard {shard} is done; {standing} here. Joined and drawn are they by the same command with --merge \
                 and the shards' folders in place of --shard"
            )),
            None if !self.complete() => {
                say::note(format_args!("{standing}. The same command without --merge computes the others"));
            }
            None => {}
        }
        ExitCode::SUCCESS
    }
}
