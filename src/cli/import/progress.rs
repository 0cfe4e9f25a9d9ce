//! The progress bar, on a terminal only: how far, how fast, how much longer.

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::SystemClock;
use latchkey_core::model::clock::{BootTime, Clock};

#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    started: BootTime,
    /// Lines that an earlier run has done.
    lines_before: u64,
}

impl Progress {
    /// Of a file of `bytes`, or of a stream of unknown length. It hides itself where stderr is no
    /// terminal.
    pub(super) fn new(bytes: Option<u64>, lines_before: u64) -> Self {
        let bar = match bytes {
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::new_spinner(),
        };
        let template = if bytes.is_some() { "{wide_bar} {percent:>3}%  {msg}  {eta} left" } else { "{spinner} {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, started: SystemClock.boot(), lines_before }
    }

    /// All up to and with byte `end` and line `line` is acknowledged.
    pub(super) fn advance(&self, end: u64, line: u64) {
        let seconds = (SystemClock.boot() - self.started).as_secs_f64().max(0.001);
        let rate = line.saturating_sub(self.lines_before) as f64 / seconds;
        self.bar.set_position(end);
        self.bar.set_message(format!("{} lines, {}/s", grouped(line), grouped(rate as u64)));
    }

    /// Prints a line on stderr, above the bar if there is one.
    pub(super) fn print(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}
