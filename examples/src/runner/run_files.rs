//! The files of one run. Each has a name that follows from the run's key, and nothing else is ever touched: whatever
//! else lies in the folder is the user's.

use crate::files;
use quarterturn::core::{Result, unfinished_name};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the files of a run are.
#[derive(Clone, Copy)]
pub struct RunFiles<'a> {
    /// The folder of all runs.
    pub folder: &'a Path,
    /// The run's key.
    pub key: &'a str,
    /// The names of what the experiment keeps with [`super::Context::keep`].
    pub states: &'a [&'a str],
}

impl RunFiles<'_> {
    /// The network, for good.
    pub fn network(&self) -> PathBuf {
        self.folder.join(format!("{}.safetensors", self.key))
    }

    /// The state of its training.
    pub fn training(&self) -> PathBuf {
        self.folder.join(format!("{}.training.safetensors", self.key))
    }

    /// The state of its training after the best epoch so far.
    pub fn best(&self) -> PathBuf {
        self.folder.join(format!("{}.training.best.safetensors", self.key))
    }

    /// Any other state.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.{name}.json", self.key))
    }

    /// What made the run so far.
    pub fn origins(&self) -> PathBuf {
        self.state("origins")
    }

    /// All that is of use only while the run is in progress.
    fn of_progress(&self) -> Vec<PathBuf> {
        let states = self.states.iter().map(|name| self.state(name));
        [self.training(), self.best(), self.origins()].into_iter().chain(states).collect()
    }

    /// Whether the run was begun.
    ///
    /// # Errors
    /// If a link or a folder has the name of one of its files.
    pub fn begun(&self) -> Result<bool> {
        for path in self.of_progress().iter().chain([&self.network()]) {
            if files::exists(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes what is of use only while the run is in progress.
    pub fn forget_progress(&self) {
        self.of_progress().iter().for_each(|path| files::remove(path));
    }

    /// Whether a file of this name is the run's.
    pub fn owns(&self, name: &str) -> bool {
        let is_it = |path: &PathBuf| path.file_name().is_some_and(|own| own == name);
        self.of_progress().iter().chain([&self.network()]).any(is_it)
    }
}

/// Removes from a folder what killed processes left unfinished of files whose final names are `ours`.
pub fn remove_unfinished(folder: &Path, ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(unfinished_name).is_some_and(&ours) {
            files::remove(&entry.path());
        }
    }
}
