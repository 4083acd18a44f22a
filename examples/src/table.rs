//! Tables: plain text for the terminal, Markdown for files.

use std::fmt::Write;

/// Prints rows under a header, columns aligned: text to the left, numbers to the right.
pub fn print(header: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|row| row[c].chars().count()).chain([header[c].chars().count()]).max().unwrap_or(0))
        .collect();
    let numeric: Vec<bool> = (0..header.len())
        .map(|c| rows.iter().all(|row| row[c].starts_with(|ch: char| ch.is_ascii_digit() || "+-−".contains(ch))))
        .collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .zip(&numeric)
            .map(|((cell, &width), &right)| if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        super::say::result(format_args!("{}", padded.join("  ").trim_end()));
    };
    super::say::result("");
    line(header.to_vec());
    super::say::result(format_args!("{}", widths.iter().map(|&w| "─".repeat(w)).collect::<Vec<_>>().join("  ")));
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
    super::say::result("");
}

/// The same table in Markdown, under a line that says what it is of, and notes below it.
pub fn markdown(
    subtitle: &str,
    header: &[&str],
    rows: &[Vec<String>],
    notes: impl IntoIterator<Item = impl AsRef<str>>,
) -> String {
    let mut text = format!("{subtitle}\n\n| {} |\n|{}\n", header.join(" | "), "---|".repeat(header.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push('\n');
    for note in notes {
        let _ = writeln!(text, "- {}", note.as_ref());
    }
    text
}
