//! Grids of runs (network × input size × training × seed) that survive whatever happens to the program.
//!
//! A run is a key, which names it for ever, and a specification. An [`Experiment`] computes it: it gets the specification
//! and a [`Context`] and returns a result. The folder of a grid holds
//!
//! | file | content |
//! |---|---|
//! | `settings.json` | what all its runs have in common; a start with other settings is refused |
//! | `results.jsonl` | one line per finished run, flushed to the disk the moment it ends |
//! | `runs/<key>.safetensors` | the network of a finished run |
//! | `runs/<key>.training.safetensors`, `runs/<key>.<name>.json` | how far a run in progress is |
//! | `lock` | held by the process at work |
//!
//! The same command goes on where the last one was stopped, killed or switched off: a finished run is not repeated,
//! one in progress is taken up from its last checkpoint. What is written in the end does not depend on how often that
//! happened: results are put in the order of the plan, and a run goes on with the same bits.
//!
//! Whatever is read back is judged first: the line of a result here and in the folder of a shard, by
//! [`Experiment::check`]; a network of a shard, by [`Experiment::network`]. Other files than these are never touched, and
//! no link is followed.

mod args;
mod context;
mod interrupt;
mod journal;
pub(crate) mod json;
mod lock;
mod merge;
mod origin;
mod run_files;
mod settings;

pub use args::{RunnerArgs, Shard};
pub use context::Context;
pub use origin::Origin;
pub use settings::Settings;

use super::{
    files,
    progress::{Progress, duration},
    say::{self, counted},
};
use journal::{Journal, Line};
use lock::Lock;
use quarterturn::{
    core::{Device, Error, Result},
    models::Network,
};
use run_files::{RunFiles, remove_unfinished};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    time::Instant,
};

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// The note with a run's key in the file of its network.
pub const RUN: &str = "run";

/// What computes the runs of a grid.
pub trait Experiment {
    /// What a run computes.
    type Spec: Display;
    /// What it finds.
    type Found: Serialize + DeserializeOwned;
    /// The names of what its runs keep with [`Context::keep`].
    const STATES: &'static [&'static str];

    /// How many seconds a run will take, for the plan and the time left.
    ///
    /// # Errors
    /// If that cannot be found out; the run is tried all the same.
    fn estimate(&self, spec: &Self::Spec) -> Result<f64>;

    /// Computes a run, from wherever the last start of the program got to; `None` when [`Context::stopping`] told it to
    /// stop.
    ///
    /// # Errors
    /// Whatever keeps it from a result. The other runs go on.
    fn run(&self, spec: &Self::Spec, context: &mut Context) -> Result<Option<Self::Found>>;

    /// Refuses what the run cannot have found, for it contradicts the settings or itself.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn check(&self, spec: &Self::Spec, found: &Self::Found) -> std::result::Result<(), String>;

    /// A network like the run's on the CPU, with any values: what its file must fit.
    ///
    /// # Errors
    /// If there can be none.
    fn network(&self, spec: &Self::Spec) -> Result<Box<dyn Network>>;
}

/// A member of a grid.
pub struct Run<S> {
    /// Its name in files, of `a`–`z`, digits, `-` and `_`, and the same whatever else the grid holds.
    pub key: String,
    /// What to compute.
    pub spec: S,
}

/// Runs and where their results are kept.
pub struct Grid<'a, E: Experiment> {
    /// The example; its other files begin with this.
    pub name: &'a str,
    /// The folder.
    pub folder: &'a Path,
    /// What the runs have in common.
    pub settings: Settings,
    /// What computes.
    pub device: &'a Device,
    /// All runs, in the order of the results.
    pub runs: Vec<Run<E::Spec>>,
    /// The user's options.
    pub args: &'a RunnerArgs,
}

/// The result of a run.
pub struct Finished<R> {
    /// What it found.
    pub found: R,
    /// What made it.
    pub origin: Origin,
}

/// How a grid stands when the program ends.
pub struct Report<R> {
    /// The result of each run, if it has one.
    pub results: Vec<Option<Finished<R>>>,
    failed: Vec<String>,
    stopped: bool,
    shard: Option<Shard>,
}

impl<E: Experiment> Grid<'_, E> {
    /// Computes what has no result yet. `finished` sees all results after each run.
    ///
    /// A run that fails is reported, and the others go on; so is one that panics, which would be a bug.
    ///
    /// # Errors
    /// If the folder is in use, holds runs with other settings or results that cannot be, or cannot be read or written.
    pub fn execute(
        &self,
        experiment: &E,
        mut finished: impl FnMut(&[Option<Finished<E::Found>>]) -> Result<()>,
    ) -> Result<Report<E::Found>> {
        let shard = self.args.shard;
        let places = self.places()?;
        let _lock = Lock::take(self.folder, shard, || self.settings.establish(self.folder))?;
        let former = self.settings.expect(self.folder)?;
        let runs_folder = self.folder.join("runs");
        files::create_own_folder(&runs_folder)?;
        let files_of = |key| RunFiles { folder: &runs_folder, key, states: E::STATES };
        if shard.is_none() {
            remove_unfinished(self.folder, |name| self.owns(name));
            let of_a_run = |name: &str| places.keys().any(|&key| files_of(key).owns(name));
            remove_unfinished(&runs_folder, |name| name == files::PROBE || of_a_run(name));
        }
        let judge = |line: &Line| self.judge(experiment, &places, line);
        let mut journal = Journal::open(self.folder, shard, former.as_deref(), &judge)?;
        if !self.args.merge.is_empty() {
            let network = |run: &str| experiment.network(&self.runs[places[run]].spec);
            let files_of = |run: &str| files_of(&self.runs[places[run]].key);
            merge::merge(&self.args.merge, &self.settings, &mut journal, &judge, files_of, network)?;
        }
        // A process that was killed may have had no time for this.
        let ended = self.runs.iter().filter(|run| journal.has(&run.key));
        ended.for_each(|run| files_of(&run.key).forget_progress());
        let result = |run: &Run<E::Spec>| journal.line(&run.key).map(Finished::of).transpose();
        let results = self.runs.iter().map(result).collect::<Result<Vec<_>>>()?;
        let mut report = Report { results, failed: Vec::new(), stopped: false, shard };
        let mine = |i: usize| shard.is_none_or(|shard| shard.takes(i));
        let open: Vec<usize> = (0..self.runs.len()).filter(|&i| mine(i) && report.results[i].is_none()).collect();
        finished(&report.results)?;
        if !self.args.merge.is_empty() || open.is_empty() {
            return Ok(report);
        }

        interrupt::listen()?;
        let estimate = |&i: &usize| match interrupt::asked() {
            true => Err(Error::Invalid("stopped".into())),
            false => caught(|| experiment.estimate(&self.runs[i].spec)),
        };
        let seconds: Vec<Result<f64>> = open.iter().map(estimate).collect();
        let there = report.results.iter().flatten().count();
        self.announce(there, &open, &seconds, files_of);
        let seconds: Vec<f64> = seconds.into_iter().map(Result::unwrap_or_default).collect();
        let mut progress = Progress::seconds(seconds.iter().sum());
        let (here, former) = (Origin::here(self.device), Origin { device: former, commit: None });
        for (place, (&i, &seconds)) in open.iter().zip(&seconds).enumerate() {
            if interrupt::asked() {
                report.stopped = true;
                break;
            }
            let Run { key, spec } = &self.runs[i];
            let begun = Instant::now();
            progress.begin(&format!("run {} of {}: {spec}", place + 1, open.len()), seconds);
            let outcome = caught(|| {
                let interval = self.args.interval();
                let mut context = Context::new(files_of(key), interval, &here, former.clone(), &mut progress)?;
                let Some(found) = experiment.run(spec, &mut context)? else { return Ok(None) };
                experiment.check(spec, &found).map_err(Error::Invalid)?;
                let origin = context.origin();
                let result = serde_json::to_value(&found).map_err(|e| Error::Invalid(format!("its result: {e}")))?;
                let (run, seconds) = (key.clone(), begun.elapsed().as_secs_f64());
                journal.append(Line { run, seconds, origin: origin.clone(), result })?;
                Ok(Some(Finished { found, origin }))
            });
            progress.end();
            match outcome {
                Ok(Some(result)) => {
                    report.results[i] = Some(result);
                    files_of(key).forget_progress();
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
            if report.stopped {
                break;
            }
        }
        progress.done();
        Ok(report)
    }

    /// The place of each key in the plan.
    fn places(&self) -> Result<BTreeMap<&str, usize>> {
        let mut places = BTreeMap::new();
        for (i, Run { key, spec }) in self.runs.iter().enumerate() {
            assert!(is_key(key), "Grid: a key of a–z, 0–9, - and _, got {key}");
            if places.insert(key.as_str(), i).is_some() {
                return Err(Error::Invalid(format!("{spec} is named twice")));
            }
        }
        Ok(places)
    }

    /// Whether a file of this name in the folder is the program's, and no run's.
    fn owns(&self, name: &str) -> bool {
        let of_this_example = name.strip_prefix(self.name).is_some_and(|rest| rest.starts_with(['.', '-']));
        let of_the_runner = name.strip_prefix("results").is_some_and(|rest| rest.ends_with(".jsonl"));
        of_this_example || of_the_runner || ["settings.json", files::PROBE].contains(&name)
    }

    /// Whether a line is of a run of this plan, or why it is no result.
    fn judge(&self, experiment: &E, places: &BTreeMap<&str, usize>, line: &Line) -> std::result::Result<bool, String> {
        if !is_key(&line.run) {
            return Err(format!("{:?} is no name of a run", line.run));
        }
        let Some(&place) = places.get(line.run.as_str()) else { return Ok(false) };
        let of_it = |message| format!("{}: {message}", line.run);
        if line.seconds.is_nan() || line.seconds < 0.0 {
            return Err(of_it(format!("a run does not take {} seconds", line.seconds)));
        }
        line.origin.check().map_err(of_it)?;
        let found = E::Found::deserialize(&line.result).map_err(|e| of_it(e.to_string()))?;
        experiment.check(&self.runs[place].spec, &found).map_err(of_it)?;
        Ok(true)
    }

    /// The plan and its cost.
    fn announce<'f>(
        &'f self,
        there: usize,
        open: &[usize],
        seconds: &[Result<f64>],
        files_of: impl Fn(&'f str) -> RunFiles<'f>,
    ) {
        let number = |count: usize| if count == 0 { "none".into() } else { count.to_string() };
        let others = match self.args.shard {
            Some(shard) => format!(", this is shard {shard}"),
            None => String::new(),
        };
        // What cannot be read is the run's trouble, not the plan's.
        let begun = open.iter().filter(|&&i| files_of(&self.runs[i].key).begun().unwrap_or(true)).count();
        say::note(format_args!(
            "plan: {} in {}{others}; finished before: {}; to do: {}, of which begun before: {}; estimate: {}",
            counted(self.runs.len() as u64, "run"),
            self.folder.display(),
            number(there),
            open.len(),
            number(begun),
            duration(seconds.iter().flatten().sum()),
        ));
        for (&i, seconds) in open.iter().zip(seconds).take(PLANNED) {
            match seconds {
                Ok(seconds) => say::note(format_args!("  {}: {}", self.runs[i].spec, duration(*seconds))),
                Err(error) => say::note(format_args!("  {}: no estimate: {error}", self.runs[i].spec)),
            }
        }
        if open.len() > PLANNED {
            say::note(format_args!("  and {} more", open.len() - PLANNED));
        }
    }
}

impl<R: DeserializeOwned> Finished<R> {
    fn of(line: &Line) -> Result<Self> {
        let found = R::deserialize(&line.result).map_err(|e| Error::Invalid(format!("{}: {e}", line.run)))?;
        Ok(Finished { found, origin: line.origin.clone() })
    }
}

/// Whether `text` is a run's name, with which no path can be made.
fn is_key(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=200).contains(&text.len()) && text.bytes().all(plain)
}

/// What `work` yields; a panic is an error like another.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // What a panic may leave half done is the run's own, and its files are replaced whole.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::Invalid(format!("panic: {}", words(&*panic)))))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("of unknown cause")
}

/// Runs that the plan names one by one.
const PLANNED: usize = 16;

impl<R> Report<R> {
    /// Whether there is a result of every run, so that figures and tables are whole.
    pub fn complete(&self) -> bool {
        self.results.iter().all(Option::is_some)
    }

    /// Whether this process is to draw: it is no shard, and was not stopped.
    fn draws(&self) -> bool {
        self.shard.is_none() && !self.stopped && self.results.iter().any(Option::is_some)
    }

    /// What went wrong, one by one.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// What made the results, each once, for captions.
    pub fn devices(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for finished in self.results.iter().flatten() {
            let name = finished.origin.device.as_deref().unwrap_or("unknown device");
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(" and ")
    }

    /// Draws figures and tables, unless another start of the program is to do that, and tells what is missing and why; the
    /// program's exit code.
    pub fn finish(&self, draw: impl FnOnce() -> Result<()>) -> ExitCode {
        let drawn = if self.draws() { draw() } else { Ok(()) };
        if let Err(error) = &drawn {
            say::note(format_args!("error: {error}"));
        }
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
        if drawn.is_err() {
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
