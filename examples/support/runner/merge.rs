//! Joining the results of shards.

use super::{
    Settings,
    journal::{self, Journal},
};
use crate::support::{files, say};
use quarterturn::core::{Error, Result};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Takes over results and networks from `sources`, which must have been made with the same settings.
pub fn merge(sources: &[PathBuf], folder: &Path, settings: &Settings, journal: &mut Journal) -> Result<()> {
    for source in sources {
        settings.expect(source)?;
        let lines = journal::read(source)?;
        say::note(format_args!("{}: {} results", source.display(), lines.len()));
        for (run, line) in lines {
            let network = format!("runs/{run}.safetensors");
            let (from, to) = (source.join(&network), folder.join(&network));
            if !to.exists() {
                match fs::read(&from) {
                    Ok(bytes) => files::write(&to, &bytes)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        say::note(format_args!("{}: missing; only the result is taken over", from.display()));
                    }
                    Err(e) => return Err(Error::io(from, &e)),
                }
            }
            journal.append_line(line)?;
        }
    }
    Ok(())
}
