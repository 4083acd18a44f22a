//! Joining the results of shards. Their folders may come from anywhere: results are judged as those of one's own, and a
//! network is taken over only if it is one of the run's, and a file at its place.

use super::{
    RUN, RunFiles, Settings,
    journal::{self, Journal, Judge},
};
use crate::{files, say};
use quarterturn::{
    core::{Error, Result},
    models::{Checkpoint, Network},
};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Bytes of a value in the widest format, and of all that is no value in a network's file.
const VALUE: u64 = 8;
const HEADER: u64 = 1 << 22;

/// Takes over results and networks from `sources`, which must have been made with the same settings. `files` are those of
/// a run here, `network` is one like it.
pub fn merge<'f>(
    sources: &[PathBuf],
    settings: &Settings,
    journal: &mut Journal,
    judge: Judge,
    files: impl Fn(&str) -> RunFiles<'f>,
    network: impl Fn(&str) -> Result<Box<dyn Network>>,
) -> Result<()> {
    for source in sources {
        let device = settings.expect(source)?;
        let lines = journal::read(source, device.as_deref(), judge)?;
        say::note(format_args!("{}: {} results", source.display(), lines.len()));
        let there = source.join("runs");
        let has_networks = files::expect_own_folder(&there)?;
        let mut missing = Vec::new();
        for (run, line) in lines {
            journal.expect_agreement(&line)?;
            let to = files(&run).network();
            // What is here without a result is of a run in progress, which has ended with this.
            if !(files::exists(&to)? && journal.has(&run)) {
                let from = there.join(format!("{run}.safetensors"));
                match has_networks.then(|| sound(&from, &run, network(&run)?)).transpose()?.flatten() {
                    Some(bytes) => files::write(&to, &bytes)?,
                    None => missing.push(run.clone()),
                }
            }
            journal.append(line)?;
        }
        // Committed runs come without their networks.
        if let Some(first) = missing.first() {
            let networks = if missing.len() == 1 { "network is" } else { "networks are" };
            let there = there.display();
            say::note(format_args!(
                "{there}: {} {networks} missing ({first}.safetensors…); only the results are taken over",
                missing.len(),
            ));
        }
    }
    Ok(())
}

/// The bytes of the file of a run's network, which is one like `network`, if there is such a file.
fn sound(path: &Path, run: &str, mut network: Box<dyn Network>) -> Result<Option<Vec<u8>>> {
    let mut values = 0;
    network.visit(&mut |_, param| values += param.value().len() as u64);
    let bytes = match files::read(path, VALUE * values + HEADER) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, &e)),
    };
    let checkpoint = Checkpoint::from_bytes(bytes.clone(), path)?;
    let unfit = |why: String| Error::Invalid(format!("{}: not the network of this run: {why}", path.display()));
    checkpoint.restore(&mut *network).map_err(|e| unfit(e.to_string()))?;
    // Former versions did not say it.
    match checkpoint.notes().get(RUN) {
        Some(other) if other != run => Err(unfit(format!("it is that of {other:?}"))),
        _ => Ok(Some(bytes)),
    }
}
