//! The results, one line of JSON for each finished run:
//! `{"run": key, "seconds": …, "device": …, "commit": …, "result": …}`.
//!
//! With each new line the file is replaced by one that has it, whole and flushed to the disk before anybody hears of it.
//! (Former versions appended: the last line of theirs may be torn. It has no line end, is recognised by that, and dropped.)
//! Nothing is believed for standing in such a file: every line is checked when it is read.

use super::{Origin, Shard, json};
use crate::{files, say};
use quarterturn::core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Bytes that a file of results has at most.
const LONGEST: u64 = 1 << 28;
/// How each line begins.
const BEGINNING: &[u8] = b"{\"run\":\"";

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The run's key.
    pub run: String,
    /// How long it took, since it was last taken up.
    pub seconds: f64,
    /// What made it.
    #[serde(flatten)]
    pub origin: Origin,
    /// What it found.
    pub result: Value,
}

/// Judges a line: whether it is of a run that is asked for, or why it cannot be sound.
pub type Judge<'a> = &'a dyn Fn(&Line) -> std::result::Result<bool, String>;

/// The results of a folder, and the file that takes those of this process.
pub struct Journal {
    lines: BTreeMap<String, Line>,
    path: PathBuf,
    /// What is in the file.
    content: Vec<u8>,
}

impl Journal {
    /// Reads all results in the folder, whoever wrote them, and makes ready to write those of `shard`. Lines that do not
    /// say it were made by `device`.
    pub fn open(folder: &Path, shard: Option<Shard>, device: Option<&str>, judge: Judge) -> Result<Self> {
        let path = folder.join(format!("results{}.jsonl", shard.map_or(String::new(), Shard::suffix)));
        let mut content = if files::exists(&path)? { bytes(&path)? } else { Vec::new() };
        let lines = read(folder, device, judge)?;
        let torn = tail(&path, &content)?;
        if torn > 0 {
            say::note(format_args!(
                "{}: the last {torn} bytes are of a line that was never finished; dropped",
                path.display(),
            ));
            content.truncate(content.len() - torn);
        }
        Ok(Journal { lines, path, content })
    }

    /// Whether a run is finished.
    pub fn has(&self, run: &str) -> bool {
        self.lines.contains_key(run)
    }

    /// The line of a run, if it is finished.
    pub fn line(&self, run: &str) -> Option<&Line> {
        self.lines.get(run)
    }

    /// Refuses a line with another result of a run than the one that is known.
    pub fn expect_agreement(&self, line: &Line) -> Result<()> {
        match self.lines.get(&line.run) {
            Some(known) if known.result != line.result => {
                let file = self.path.display();
                Err(Error::Invalid(format!("{file}: there are two different results of {}", line.run)))
            }
            _ => Ok(()),
        }
    }

    /// Makes a result durable, unless it is there already.
    pub fn append(&mut self, line: Line) -> Result<()> {
        self.expect_agreement(&line)?;
        let Entry::Vacant(place) = self.lines.entry(line.run.clone()) else { return Ok(()) };
        let text = serde_json::to_string(&line).map_err(|e| Error::Invalid(format!("{}: {e}", line.run)))?;
        let content = [&self.content, text.as_bytes(), b"\n"].concat();
        if content.len() as u64 > LONGEST {
            let message = format!("longer than {LONGEST} bytes with the result of {}", line.run);
            return Err(Error::Io { path: self.path.clone(), message });
        }
        files::write(&self.path, &content)?;
        self.content = content;
        place.insert(line);
        Ok(())
    }
}

/// All results in a folder that are asked for: of the whole grid and of shards.
pub fn read(folder: &Path, device: Option<&str>, judge: Judge) -> Result<BTreeMap<String, Line>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let name = entry.map_err(|e| Error::io(folder, &e))?.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix("results")?.strip_suffix(".jsonl"));
        if of.is_some_and(|suffix| suffix.is_empty() || Shard::has_suffix(suffix)) {
            paths.push(folder.join(name));
        }
    }
    paths.sort();
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for path in paths {
        let (content, mut offset) = (bytes(&path)?, 0);
        tail(&path, &content)?;
        for text in content.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n")) {
            let corrupt = |message| Error::Corrupt { path: path.clone(), offset, message };
            let parsed = json::parse(text);
            let mut line: Line = parsed.map_err(|e| corrupt(format!("this line is no result: {e}")))?;
            line.origin.device = line.origin.device.or(device.map(Into::into));
            if judge(&line).map_err(|message| corrupt(format!("this line is no result: {message}")))? {
                if lines.get(&line.run).is_some_and(|known| known.result != line.result) {
                    return Err(corrupt(format!("there are two different results of {}", line.run)));
                }
                lines.entry(line.run.clone()).or_insert(line);
            }
            offset += text.len() as u64;
        }
    }
    Ok(lines)
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    files::read(path, LONGEST).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::Io { path: path.into(), message: "was removed just now".into() },
        _ => Error::io(path, &e),
    })
}

/// How many bytes behind the last line end are of a torn line.
fn tail(path: &Path, content: &[u8]) -> Result<usize> {
    let sound = content.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
    let torn = &content[sound..];
    // Zeros stand where the system lengthened the file, and the power went before it wrote.
    let begins = torn.starts_with(BEGINNING) || BEGINNING.starts_with(torn) || torn.iter().all(|&b| b == 0);
    match begins {
        true => Ok(torn.len()),
        false => Err(Error::Corrupt {
            path: path.into(),
            offset: sound as u64,
            message: "this is neither a result nor the beginning of one".into(),
        }),
    }
}
