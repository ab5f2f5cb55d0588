//! Samples, and the table made of them.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets::ASCII_MARKDOWN};

/// One line of the table.
pub(crate) struct Row {
    what: String,
    budget: String,
    measured: String,
    peer: String,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, budget: &str, measured: String) -> Self {
        Self { what: what.into(), budget: budget.to_owned(), measured, peer: String::new() }
    }

    /// The last column: how a peer did in the same run.
    #[must_use]
    pub(crate) fn against(mut self, peer: String) -> Self {
        self.peer = peer;
        self
    }

    /// A budget that could not be measured, and why.
    pub(crate) fn missing(what: &str, why: &str) -> Self {
        Self::new(what, "", format!("not measured: {why}"))
    }
}

/// Measurements of one thing, in one unit.
#[derive(Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, as milliseconds.
    pub(crate) fn took(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1000.0);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The value that this share of all is at or below (nearest rank).
    pub(crate) fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// `12.3 ms (11.0–15.1 of 7)`
    pub(crate) fn spread(&self, unit: &str) -> String {
        format!(
            "{} {unit} ({}–{} of {})",
            number(self.median()),
            number(self.at(0.0)),
            number(self.at(1.0)),
            self.0.len()
        )
    }

    /// `p50 1.2 ms, p99 3.4 ms (of 200)`
    pub(crate) fn percentiles(&self, unit: &str) -> String {
        format!("p50 {} {unit}, p99 {} {unit} (of {})", number(self.median()), number(self.at(0.99)), self.0.len())
    }

    /// `0.8× virsh (310 ms)`: our median as a multiple of the peer's.
    pub(crate) fn ratio(&self, peer: &Self, name: &str, unit: &str) -> String {
        format!("{:.2}× {name} ({} {unit})", self.median() / peer.median(), number(peer.median()))
    }
}

/// Three digits that matter.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

pub(crate) fn render(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["what", "budget", "measured: median (min–max of runs)", "against a peer, same run"]);
    for row in rows {
        table.add_row([&row.what, &row.budget, &row.measured, &row.peer]);
    }
    table.to_string()
}
