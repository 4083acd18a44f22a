//! CSV files: a header, then rows. Rewritten in whole after each finished part, so that a stopped run leaves a valid file.

use super::files;
use quarterturn::core::Result;
use std::{fmt::Display, path::PathBuf};

/// A CSV file that exists in memory and, after [`Csv::save`], on disk.
pub struct Csv {
    path: PathBuf,
    text: String,
    columns: usize,
}

impl Csv {
    /// An empty table with these column names, to be saved at `path`.
    pub fn new(path: PathBuf, header: &str) -> Self {
        Csv { path, text: format!("{header}\n"), columns: header.split(',').count() }
    }

    /// Appends a row.
    ///
    /// # Panics
    /// If the number of fields is not that of the header.
    #[track_caller]
    pub fn row(&mut self, fields: &[&dyn Display]) {
        assert_eq!(fields.len(), self.columns, "Csv: fields in a row");
        let fields: Vec<String> = fields.iter().map(|field| quoted(&field.to_string())).collect();
        self.text.push_str(&fields.join(","));
        self.text.push('\n');
    }

    /// Writes what there is so far.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> Result<()> {
        files::write(&self.path, self.text.as_bytes())
    }
}

/// RFC 4180: fields with a comma, a quote or a line break stand in quotes.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_string()
    }
}
