//! Saved networks, also of other programs, whose tensors have other names.

use clap::Args;
use quarterturn::{
    core::{Error, Result},
    models::{Checkpoint, Config},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// Bytes that a file of names has at most.
const LONGEST: u64 = 1 << 24;

/// How PyTorch's batch norms count what they have seen; of no use here.
const COUNTER: &str = ".num_batches_tracked";

/// What the help of an example says of `--names`.
pub const NAMES_HELP: &str = "A file for --names is JSON such as {\"settings\": {\"model\": \"mnist_cnn\", \"group\": \"p4\", \
     \"width\": \"10\", \"in_channels\": \"3\", \"classes\": \"10\", \"dropout\": \"0.3\"}, \
     \"names\": {\"bn1\": \"norm1\", \"fc.weight\": \"linear.weight\"}}: a tensor's name, or all before one of its points, and \
     what it is here. With \"leave_out\": [\"aux\"] beside them, tensors called so, or whose names begin so, are left out.";

/// What a file of another program leaves open, on the command line.
#[derive(Args)]
pub struct NameArgs {
    /// JSON file with the names that the tensors have here, and settings that the checkpoint lacks: `evaluate --help` shows one
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    names: Option<PathBuf>,
    /// One more name, such as bn1=norm1, or module= to take a prefix away; may be repeated
    #[arg(long, value_name = "FROM=TO", value_parser = pair, requires = "checkpoint")]
    rename: Vec<(String, String)>,
    /// Leave out a tensor that the network does not have, or all whose names begin so before a point; may be repeated. (Counters
    /// of batches and the prefixes of PyTorch's wrappers, module and _orig_mod, go by themselves)
    #[arg(long, value_name = "NAME", requires = "checkpoint")]
    leave_out: Vec<String>,
}

/// The same in a file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    #[serde(default)]
    settings: Config,
    #[serde(default)]
    names: BTreeMap<String, String>,
    #[serde(default)]
    leave_out: Vec<String>,
}

impl NameArgs {
    /// The checkpoint at `path`, with the names and settings that the user gave.
    ///
    /// # Errors
    /// If a file cannot be read, or a name that is to be replaced or left out is not there.
    pub fn read(&self, path: &Path) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::read(path)?;
        let mut given = match &self.names {
            None => Names::default(),
            Some(path) => {
                let mut json = Vec::new();
                let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut json));
                read.map_err(|e| Error::io(path, &e))?;
                if json.len() as u64 > LONGEST {
                    return Err(Error::Io { path: path.clone(), message: format!("longer than {LONGEST} bytes") });
                }
                serde_json::from_slice(&json).map_err(|e| Error::Corrupt {
                    path: path.clone(),
                    offset: 0,
                    message: e.to_string(),
                })?
            }
        };
        given.names.extend(self.rename.iter().cloned());
        given.leave_out.extend(self.leave_out.iter().cloned());
        let checkpoint = checkpoint.with_settings(given.settings);
        let without_counters = checkpoint.renamed(|name| (!name.ends_with(COUNTER)).then(|| name.into()))?;
        let checkpoint = without_counters.without(&given.leave_out)?;
        // Who takes some prefix away names all that go.
        let takes_away = given.names.values().any(String::is_empty);
        let checkpoint = if takes_away { checkpoint } else { checkpoint.unwrapped()? };
        // Weights that are named as here, or whose names nobody gave, stay as they are.
        checkpoint.renamed_parts(&given.names)
    }
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (from, to) = text.split_once('=').ok_or("expected FROM=TO, such as bn1=norm1")?;
    Ok((from.into(), to.into()))
}
