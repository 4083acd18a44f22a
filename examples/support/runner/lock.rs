//! One process, or one set of shards, at a time in a folder. Locks are the system's: they go with the process, however
//! it ends.

use super::Shard;
use quarterturn::core::{Error, Result};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long shards that start together wait for the first of them to set up the folder.
const PATIENCE: Duration = Duration::from_secs(5);

/// Held as long as it lives. A whole grid holds the file `lock` alone; shards share it, and each holds its own besides.
pub struct Lock(#[allow(dead_code, reason = "held")] Vec<File>);

impl Lock {
    /// Takes the folder, and calls `establish` while no other process can be doing the same.
    pub fn take(folder: &Path, shard: Option<Shard>, mut establish: impl FnMut() -> Result<()>) -> Result<Self> {
        let path = folder.join("lock");
        let file = open(&path)?;
        let Some(shard) = shard else {
            if !locked(&path, file.try_lock())? {
                return Err(in_use(folder, &path));
            }
            establish()?;
            note(&path, &file, &this_process())?;
            return Ok(Lock(vec![file]));
        };
        let shards = format!("shards of {}", shard.count);
        let begun = Instant::now();
        loop {
            // The first shard is alone for a moment, and sets up.
            if locked(&path, file.try_lock())? {
                establish()?;
                note(&path, &file, &shards)?;
                file.unlock().map_err(|e| Error::io(&path, &e))?;
            }
            if locked(&path, file.try_lock_shared())? {
                break;
            }
            if begun.elapsed() > PATIENCE {
                return Err(in_use(folder, &path));
            }
            thread::sleep(Duration::from_millis(20));
        }
        if holder(&path) != shards {
            return Err(in_use(folder, &path));
        }
        establish()?;
        let own_path = folder.join(format!("lock{}", shard.suffix()));
        let own = open(&own_path)?;
        if !locked(&own_path, own.try_lock())? {
            return Err(in_use(folder, &own_path));
        }
        note(&own_path, &own, &this_process())?;
        Ok(Lock(vec![own, file]))
    }
}

fn open(path: &Path) -> Result<File> {
    let options = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path);
    options.map_err(|e| Error::io(path, &e))
}

fn locked(path: &Path, outcome: std::result::Result<(), TryLockError>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(Error::io(path, &e)),
    }
}

/// Says in a lock's file who holds it.
fn note(path: &Path, mut file: &File, holder: &str) -> Result<()> {
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{holder}"));
    written.map_err(|e| Error::io(path, &e))
}

fn this_process() -> String {
    format!("process {} on {}", std::process::id(), gethostname::gethostname().to_string_lossy())
}

/// What a lock's file says; not every system lets it be read.
fn holder(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn in_use(folder: &Path, lock: &Path) -> Error {
    let holder = match holder(lock) {
        unknown if unknown.is_empty() => "another process".into(),
        holder => holder,
    };
    let message = format!("in use by {holder}; wait for the end, or choose another --out");
    Error::Io { path: PathBuf::from(folder), message }
}
