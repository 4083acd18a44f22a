//! What a run in progress has at hand: its files, the clock of its checkpoints, its share of the progress bar.

use super::{super::files, interrupt};
use crate::support::progress::Progress;
use quarterturn::core::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A run in progress.
pub struct Context<'a> {
    key: &'a str,
    folder: &'a Path,
    interval: Duration,
    saved: Instant,
    progress: &'a mut Progress,
}

impl<'a> Context<'a> {
    pub(super) fn new(key: &'a str, folder: &'a Path, interval: Duration, progress: &'a mut Progress) -> Self {
        Context { key, folder, interval, saved: Instant::now(), progress }
    }

    /// Where the network of this run is kept for good.
    pub fn network_file(&self) -> PathBuf {
        self.folder.join(format!("{}.safetensors", self.key))
    }

    /// Where the state of its training is kept.
    pub fn training_file(&self) -> PathBuf {
        self.folder.join(format!("{}.training.safetensors", self.key))
    }

    fn state_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.{name}.json", self.key))
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
    pub fn save(&mut self, save: impl FnOnce() -> Result<()>) -> Result<()> {
        match save() {
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
        let path = self.state_file(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Corrupt {
                path,
                offset: 0,
                message: format!("{e}; without this file the run's part begins anew"),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path, &e)),
        }
    }

    /// Keeps a state until the run ends.
    ///
    /// # Errors
    /// As [`Context::save`].
    pub fn keep<T: Serialize>(&mut self, name: &str, state: &T) -> Result<()> {
        let path = self.state_file(name);
        self.save(|| {
            let json = serde_json::to_vec(state).map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
            files::write(&path, &json)
        })
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
