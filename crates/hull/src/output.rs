//! What the command prints: tables for people, JSON and YAML for programs; errors to standard error.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use hull_types::{Timestamp, error::Error};
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
    /// YAML.
    Yaml,
}

/// A document that can be a row of a table and a page of fields.
pub(crate) trait Show: Serialize {
    /// The columns' headings.
    const COLUMNS: &'static [&'static str];
    /// The row, one cell a column.
    fn row(&self) -> Vec<String>;
    /// The page: label and value.
    fn page(&self) -> Vec<(&'static str, String)> {
        Self::COLUMNS.iter().copied().zip(self.row()).collect()
    }
}

/// Prints a line to standard output. A closed pipe (`hull vm list | head -1`) ends the process quietly.
pub(crate) fn line(text: impl AsRef<str>) {
    bytes(format!("{}\n", text.as_ref()).as_bytes());
}

/// Prints bytes to standard output.
pub(crate) fn bytes(data: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(data).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Tells people what is going on, on standard error.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nobody listens on standard error: nothing to tell.
    let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
}

/// Prints an error as people see it.
pub(crate) fn error(error: &Error) {
    let place = error.field.as_deref().map(|field| format!(" (at {field})")).unwrap_or_default();
    let label = if std::io::stderr().is_terminal() { "\u{1b}[31;1merror:\u{1b}[0m" } else { "error:" };
    note(format!("{label} {error}{place}"));
}

/// Prints many.
pub(crate) fn list<T: Show>(items: &[T], format: Format) {
    match format {
        Format::Table => rows(T::COLUMNS, items.iter().map(Show::row).collect()),
        Format::Json | Format::Yaml => document(&items, format),
    }
}

/// Prints one.
pub(crate) fn one<T: Show>(item: &T, format: Format) {
    match format {
        Format::Table => page(item.page()),
        Format::Json | Format::Yaml => document(item, format),
    }
}

/// Prints rows under headings.
pub(crate) fn rows(columns: &[&str], rows: Vec<Vec<String>>) {
    let mut table = table();
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    table.add_rows(rows);
    line(trimmed(&table));
}

/// Prints labels and values.
pub(crate) fn page(page: Vec<(&'static str, String)>) {
    let mut table = table();
    table.add_rows(page.into_iter().map(|(label, value)| [label.to_owned(), value]));
    line(trimmed(&table));
}

/// Prints anything for programs; as YAML where a table is asked and there is none.
pub(crate) fn document<T: Serialize>(value: &T, format: Format) {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(value).unwrap_or_default(),
        Format::Table | Format::Yaml => serde_norway::to_string(value).unwrap_or_default(),
    };
    line(text.trim_end());
}

/// How long ago, in the largest unit that fits: `5s`, `3m`, `2h`, `4d`.
pub(crate) fn ago(then: Timestamp) -> String {
    let seconds = Timestamp::now().as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A kebab-case enum as it is on the wire.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Columns apart by two spaces, no lines.
fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn trimmed(table: &Table) -> String {
    let lines: Vec<_> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}
