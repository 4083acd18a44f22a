//! Lines for people: on standard error while working, on standard output at the end. That nobody reads them any longer (a
//! closed pipe, a full disk behind a log) is no reason to lose hours of work, as the panic of `println!` would.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

static ONLY_ERRORS: AtomicBool = AtomicBool::new(false);

/// From now on this process says errors alone: one of several that do the same says the rest.
pub fn only_errors() {
    ONLY_ERRORS.store(true, Relaxed);
}

/// A line on standard error.
pub fn note(line: impl Display) {
    if !ONLY_ERRORS.load(Relaxed) {
        error(line);
    }
}

/// A line on standard error that is said in any case.
pub fn error(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line on standard output.
pub fn result(line: impl Display) {
    if !ONLY_ERRORS.load(Relaxed) {
        let _ = writeln!(io::stdout(), "{line}");
    }
}

/// Has the warnings of the library said on standard error. Those of others, such as drivers, are for developers.
pub fn warnings() {
    struct Warnings;
    impl log::Log for Warnings {
        fn enabled(&self, metadata: &log::Metadata) -> bool {
            metadata.level() <= log::Level::Warn && metadata.target().starts_with("quarterturn")
        }

        fn log(&self, record: &log::Record) {
            if self.enabled(record.metadata()) {
                note(format_args!("warning: {}", record.args()));
            }
        }

        fn flush(&self) {}
    }
    // Only the first call has anything to do.
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// `1 epoch`, `2 epochs`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
