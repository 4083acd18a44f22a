//! One process, or one set of shards, at a time in a folder. Locks are the system's: they go with the process, however
//! it ends. A file called `lock` that says anything else than what is written here is somebody else's, and stays.

use super::Shard;
use crate::files;
use quarterturn::core::{Error, Result};
use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long shards that start together wait for the first of them to set up the folder.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that a holder's name has at most.
const LONGEST: u64 = 512;

/// Held as long as it lives. A whole grid holds the file `lock` alone; shards share it, and each holds its own besides.
pub struct Lock(#[allow(dead_code, reason = "held")] Vec<File>);

impl Lock {
    /// Takes the folder, and calls `establish` while no other process can be doing the same.
    ///
    /// # Errors
    /// If another process has it, or what has a lock's name is no lock.
    pub fn take(folder: &Path, shard: Option<Shard>, mut establish: impl FnMut() -> Result<()>) -> Result<Self> {
        let lock = Noted::open(folder.join("lock"))?;
        let Some(shard) = shard else {
            if !lock.taken(lock.file.try_lock())? {
                return Err(lock.in_use(folder));
            }
            lock.expect_ours()?;
            establish()?;
            lock.note(&this_process())?;
            return Ok(Lock(vec![lock.file]));
        };
        let shards = format!("shards of {}", shard.count);
        let begun = Instant::now();
        loop {
            // The first shard is alone for a moment, and sets up.
            if lock.taken(lock.file.try_lock())? {
                lock.expect_ours()?;
                establish()?;
                lock.note(&shards)?;
                lock.file.unlock().map_err(|e| Error::io(&lock.path, &e))?;
            }
            if lock.taken(lock.file.try_lock_shared())? {
                break;
            }
            if begun.elapsed() > PATIENCE {
                return Err(lock.in_use(folder));
            }
            thread::sleep(Duration::from_millis(20));
        }
        if lock.holder() != shards {
            return Err(lock.in_use(folder));
        }
        establish()?;
        let own = Noted::open(folder.join(format!("lock{}", shard.suffix())))?;
        if !own.taken(own.file.try_lock())? {
            return Err(own.in_use(folder));
        }
        own.expect_ours()?;
        own.note(&this_process())?;
        Ok(Lock(vec![own.file, lock.file]))
    }
}

/// A lock's file, whose content says who holds it.
struct Noted {
    path: PathBuf,
    file: File,
}

impl Noted {
    fn open(path: PathBuf) -> Result<Self> {
        let file = files::open_or_create(&path).map_err(|e| Error::io(&path, &e))?;
        Ok(Noted { path, file })
    }

    fn taken(&self, outcome: std::result::Result<(), TryLockError>) -> Result<bool> {
        match outcome {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(Error::io(&self.path, &e)),
        }
    }

    /// Refuses a file that no process of this program has written.
    fn expect_ours(&self) -> Result<()> {
        let mut text = String::new();
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| file.take(LONGEST + 1).read_to_string(&mut text));
        // An empty one is of a process that ended before it said who it is.
        if read.is_ok() && (text.is_empty() || is_note(&text)) {
            return Ok(());
        }
        let message = "not the lock of this program, and so left alone; choose another --out".into();
        Err(Error::Io { path: self.path.clone(), message })
    }

    /// Says who holds it.
    fn note(&self, holder: &str) -> Result<()> {
        let mut file = &self.file;
        let line = format!("{holder}\n");
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(line.as_bytes()));
        written.map_err(|e| Error::io(&self.path, &e))
    }

    /// Who holds it; empty if that is not known, as not every system lets it be read.
    fn holder(&self) -> String {
        let mut text = String::new();
        let mut file = &self.file;
        let read = file.rewind().and_then(|()| file.take(LONGEST).read_to_string(&mut text));
        if read.is_ok() && is_note(&text) { text.trim_end().into() } else { String::new() }
    }

    fn in_use(&self, folder: &Path) -> Error {
        let holder = match self.holder() {
            unknown if unknown.is_empty() => "another process".into(),
            holder => holder,
        };
        let message = format!("in use by {holder}; wait for the end, or choose another --out");
        Error::Io { path: folder.into(), message }
    }
}

fn this_process() -> String {
    let host: String = gethostname::gethostname().to_string_lossy().chars().filter(|c| !c.is_control()).collect();
    format!("process {} on {host}", std::process::id())
}

/// Whether a file's content is one line that [`Noted::note`] writes.
fn is_note(text: &str) -> bool {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let process = line.strip_prefix("process ").and_then(|rest| rest.split_once(" on "));
    let shards = line.strip_prefix("shards of ");
    !line.contains('\n') && (process.is_some_and(|(id, _)| is_number(id)) || shards.is_some_and(is_number))
}
