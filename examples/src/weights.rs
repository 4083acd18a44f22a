//! Saved networks, also of other programs, whose tensors have other names.

use clap::Args;
use quarterturn::{
    core::{Error, Result},
    models::{Checkpoint, Config},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// How PyTorch's batch norms count what they have seen; of no use here.
const COUNTER: &str = ".num_batches_tracked";

/// What the help of an example says of [`NameArgs::names`].
pub const NAMES_HELP: &str = "A file for --names is JSON such as {\"settings\": {\"model\": \"mnist_cnn\", \"group\": \"p4\", \
     \"width\": \"10\", \"in_channels\": \"3\", \"classes\": \"10\", \"dropout\": \"0.3\"}, \
     \"names\": {\"bn1\": \"norm1\", \"fc.weight\": \"linear.weight\"}}: a tensor's name, or all before one of its points, and \
     what it is here.";

/// What a file of another program leaves open, on the command line.
#[derive(Args)]
pub struct NameArgs {
    /// JSON file with the names that the tensors have here, and settings that the checkpoint lacks: `evaluate --help` shows one
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    names: Option<PathBuf>,
    /// One more name, such as bn1=norm1, or module= to take a prefix away; may be repeated
    #[arg(long, value_name = "FROM=TO", value_parser = pair, requires = "checkpoint")]
    rename: Vec<(String, String)>,
}

/// The same in a file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    #[serde(default)]
    settings: Config,
    #[serde(default)]
    names: BTreeMap<String, String>,
}

impl NameArgs {
    /// The checkpoint at `path`, with the names and settings that the user gave.
    ///
    /// # Errors
    /// If a file cannot be read, or a name that is to be replaced is not there.
    pub fn read(&self, path: &Path) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::read(path)?;
        let mut given = match &self.names {
            None => Names::default(),
            Some(path) => {
                let json = fs::read(path).map_err(|e| Error::io(path, &e))?;
                serde_json::from_slice(&json).map_err(|e| Error::Corrupt {
                    path: path.clone(),
                    offset: 0,
                    message: e.to_string(),
                })?
            }
        };
        given.names.extend(self.rename.iter().cloned());
        let checkpoint = checkpoint.with_settings(given.settings);
        let without_counters = checkpoint.renamed(|name| (!name.ends_with(COUNTER)).then(|| name.into()))?;
        // Weights that are named as here, or whose names nobody gave, stay as they are.
        without_counters.renamed_parts(&given.names)
    }
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (from, to) = text.split_once('=').ok_or("expected FROM=TO, such as bn1=norm1")?;
    Ok((from.into(), to.into()))
}
