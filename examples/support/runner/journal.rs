//! The results, one line of JSON for each finished run: `{"run": key, "seconds": …, "result": …}`.
//!
//! A line is appended in one write and flushed to the disk before anybody hears of it. So only the last line can be
//! torn, by a crash during the write; it has no line end, is recognised by that, and dropped.

use super::Shard;
use crate::support::say;
use quarterturn::core::{Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// A line.
#[derive(Clone, Serialize, Deserialize)]
pub struct Line {
    /// The run's key.
    pub run: String,
    /// How long it took, since it was last taken up.
    pub seconds: f64,
    /// What it found.
    pub result: Value,
}

/// The results of a folder, and the file that takes those of this process.
pub struct Journal {
    lines: BTreeMap<String, Line>,
    path: PathBuf,
    file: File,
    length: u64,
}

impl Journal {
    /// Reads all results in the folder, whoever wrote them, and makes ready to write those of `shard`.
    pub fn open(folder: &Path, shard: Option<Shard>) -> Result<Self> {
        let path = folder.join(format!("results{}.jsonl", shard.map_or(String::new(), Shard::suffix)));
        let io = |e| Error::io(&path, &e);
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        let (_, sound) = read_file(&path)?;
        let length = file.metadata().map_err(io)?.len();
        if sound < length {
            say::note(format_args!(
                "{}: the last {} bytes are of a line that was never finished; dropped",
                path.display(),
                length - sound
            ));
            file.set_len(sound).map_err(io)?;
        }
        file.sync_all().map_err(io)?;
        Ok(Journal { lines: read(folder)?, path, file, length: sound })
    }

    /// Whether a run is finished.
    pub fn has(&self, run: &str) -> bool {
        self.lines.contains_key(run)
    }

    /// The result of a run, if it is finished.
    pub fn result<R: DeserializeOwned>(&self, run: &str) -> Result<Option<R>> {
        let Some(line) = self.lines.get(run) else { return Ok(None) };
        R::deserialize(&line.result).map(Some).map_err(|e| Error::Corrupt {
            path: self.path.clone(),
            offset: 0,
            message: format!("the result of {run}: {e}"),
        })
    }

    /// Makes a result durable.
    pub fn append<R: Serialize>(&mut self, run: &str, seconds: f64, result: &R) -> Result<()> {
        let invalid = |e| Error::Invalid(format!("the result of {run}: {e}"));
        let result = serde_json::to_value(result).map_err(invalid)?;
        self.append_line(Line { run: run.into(), seconds, result })
    }

    /// Makes a result durable, unless it is there already.
    pub fn append_line(&mut self, line: Line) -> Result<()> {
        if let Some(known) = self.lines.get(&line.run) {
            if known.result == line.result {
                return Ok(());
            }
            return Err(Error::Invalid(format!(
                "{}: there are two different results of {}",
                self.path.display(),
                line.run
            )));
        }
        let mut text = serde_json::to_string(&line).map_err(|e| Error::Invalid(format!("{}: {e}", line.run)))?;
        text.push('\n');
        if let Err(error) = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            // Part of a line may have been written, which the next would otherwise continue.
            let _ = self.file.set_len(self.length);
            return Err(Error::io(&self.path, &error));
        }
        self.length += text.len() as u64;
        self.lines.insert(line.run.clone(), line);
        Ok(())
    }
}

/// All results in a folder: of the whole grid and of shards.
pub fn read(folder: &Path) -> Result<BTreeMap<String, Line>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let path = entry.map_err(|e| Error::io(folder, &e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("results") && name.ends_with(".jsonl") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut lines = BTreeMap::new();
    for path in paths {
        for line in read_file(&path)?.0 {
            lines.entry(line.run.clone()).or_insert(line);
        }
    }
    Ok(lines)
}

/// The lines of a file, and how many bytes they take; what follows has no line end.
fn read_file(path: &Path) -> Result<(Vec<Line>, u64)> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, &e))?;
    let mut lines = Vec::new();
    let mut sound = 0;
    for line in bytes.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n")) {
        lines.push(serde_json::from_slice(line).map_err(|e| Error::Corrupt {
            path: path.into(),
            offset: sound,
            message: format!("this line is no result: {e}"),
        })?);
        sound += line.len() as u64;
    }
    Ok((lines, sound))
}
