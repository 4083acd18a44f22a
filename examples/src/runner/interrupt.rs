//! Ctrl-C, and the signal with which schedulers announce the end of a job: the first asks for a checkpoint and a stop,
//! the second ends the program at once.

use super::INTERRUPTED;
use crate::say;
use quarterturn::core::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
pub fn listen() -> Result<()> {
    let outcome = ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        say::note("stopping after a checkpoint; once more ends the program at once");
    });
    match outcome {
        // A second grid of the same process.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(e) => Err(Error::Invalid(format!("cannot listen for Ctrl-C: {e}"))),
    }
}

/// Whether the program is to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
