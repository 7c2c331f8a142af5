//! Colours where a person reads, plain text elsewhere.

use std::io::IsTerminal;
use std::sync::LazyLock;

static COLOURS: LazyLock<bool> =
    LazyLock::new(|| std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());

fn paint(code: &str, text: &str) -> String {
    if *COLOURS { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// For what is good.
pub(crate) fn good(text: &str) -> String {
    paint("32", text)
}

/// For what is wrong.
pub(crate) fn wrong(text: &str) -> String {
    paint("31;1", text)
}

/// For what may be passed over.
pub(crate) fn faint(text: &str) -> String {
    paint("2", text)
}

/// A heading with its explanation.
pub(crate) fn heading(text: &str, explanation: &str) {
    println!("\n{}  {}", paint("1", text), faint(explanation));
}

/// Rows in aligned columns.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (n, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let line = format!("  {}", cells.join("  ").trim_end());
        println!("{}", if n == 0 { faint(&line) } else { line });
    }
}
