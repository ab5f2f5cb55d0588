//! Progress bars for long work; silent where standard error is no terminal.

use std::time::Duration;

use hull_types::units::Bytes;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes; a spinner where the total is not known.
pub(crate) fn bytes(what: &str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    let template = match total {
        Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{spinner} {msg} {bytes} {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// A spinner with a changing sentence.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// An amount, for sentences.
pub(crate) fn amount(bytes: u64) -> String {
    Bytes(bytes).to_string()
}
