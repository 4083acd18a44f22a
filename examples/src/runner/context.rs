//! What a run in progress has at hand: its files, the clock of its checkpoints, its share of the progress bar.

use super::{super::files, Origin, RunFiles, interrupt, json};
use crate::progress::Progress;
use quarterturn::core::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Bytes that a state kept as JSON has at most.
const LONGEST: u64 = 1 << 28;

/// A run in progress.
pub struct Context<'a> {
    files: RunFiles<'a>,
    interval: Duration,
    saved: Instant,
    /// What made the run so far; the last of them is this process.
    origins: Vec<Origin>,
    progress: &'a mut Progress,
}

impl<'a> Context<'a> {
    /// A run that this process goes on with, as `here`. Where its files do not say who began it, it was `former`.
    ///
    /// # Errors
    /// If a file of the run cannot be read, or none can be written.
    pub(super) fn new(
        files: RunFiles<'a>,
        interval: Duration,
        here: &Origin,
        former: Origin,
        progress: &'a mut Progress,
    ) -> Result<Self> {
        let mut origins = match kept(&files.origins())? {
            Some(origins) => origins,
            None if files.begun()? => vec![former],
            None => Vec::new(),
        };
        if origins.last() != Some(here) {
            origins.push(here.clone());
            keep(&files.origins(), &origins)?;
        }
        Ok(Context { files, interval, saved: Instant::now(), origins, progress })
    }

    /// Where the network of this run is kept for good.
    pub fn network_file(&self) -> PathBuf {
        self.files.network()
    }

    /// Where the state of its training is kept.
    pub fn training_file(&self) -> PathBuf {
        self.files.training()
    }

    /// Where the state of its training after the best epoch so far is kept.
    pub fn best_file(&self) -> PathBuf {
        self.files.best()
    }

    /// What made the run.
    pub(super) fn origin(&self) -> Origin {
        Origin::chain(&self.origins)
    }

    /// Whether the user asked the program to stop: save, and return `None` from the run.
    pub fn stopping(&self) -> bool {
        interrupt::asked()
    }

    /// Whether it is time to save.
    pub fn due(&self) -> bool {
        self.stopping() || self.saved.elapsed() >= self.interval
    }

    /// Saves the state of the run. That it cannot (a full disk) is told, and no reason to give up what has been
    /// computed, as long as there may be another try.
    ///
    /// # Errors
    /// What `save` reports, when the program is about to stop; what is no trouble with files, at once.
    pub fn save(&mut self, save: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        match save(self) {
            Err(Error::Io { path, message }) if !self.stopping() => {
                let path = path.display();
                self.progress.note(&format!("no checkpoint: {path}: {message}; the run goes on without"));
            }
            outcome => outcome?,
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// The state `name` that [`Context::keep`] kept, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn kept<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        kept(&self.files.state(name))
    }

    /// Keeps a state until the run ends.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Panics
    /// If the experiment does not list the state.
    #[track_caller]
    pub fn keep<T: Serialize>(&self, name: &str, state: &T) -> Result<()> {
        assert!(self.files.states.contains(&name), "keep: one of {:?}, got {name}", self.files.states);
        keep(&self.files.state(name), state)
    }

    /// That the state `name` contradicts the run.
    pub fn unfit(&self, name: &str, message: impl Into<String>) -> Error {
        Error::Corrupt { path: self.files.state(name), offset: 0, message: anew(&message.into()) }
    }

    /// What is being done now.
    pub fn say(&mut self, message: impl Into<String>) {
        self.progress.say(message);
    }

    /// Work of so many estimated seconds is done.
    pub fn advance(&mut self, seconds: f64) {
        self.progress.advance_seconds(seconds);
    }

    /// Work of so many estimated seconds was done before.
    pub fn skip(&mut self, seconds: f64) {
        self.progress.skip_seconds(seconds);
    }
}

fn kept<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match files::read(path, LONGEST) {
        Ok(bytes) => json::parse(&bytes).map(Some).map_err(|e| Error::Corrupt {
            path: path.into(),
            offset: 0,
            message: anew(&e.to_string()),
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, &e)),
    }
}

fn keep<T: Serialize>(path: &Path, state: &T) -> Result<()> {
    let json = serde_json::to_vec(state).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    files::write(path, &json)
}

/// What to do about a state that is of no use.
fn anew(message: &str) -> String {
    format!("{message}; without this file the run's part begins anew")
}
