//! Lines for people: on standard error while working, on standard output at the end. That nobody reads them any longer (a
//! closed pipe, a full disk behind a log) is no reason to lose hours of work, as the panic of `println!` would.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// A line on standard error.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line on standard output.
pub fn result(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// `1 epoch`, `2 epochs`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
