//! Lines gathered into batches, on a thread of their own, while others are on their way.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use clap::ValueEnum;
use tokio::sync::mpsc;
use tonic_types::RpcStatusExt;

use super::lines::{self, Broken, Line};
use crate::{
    cli::failure::Failure,
    proto::{self, import_request},
};

/// The reason of lines that are refused here, before they are sent.
const UNREADABLE_LINE: &str = "UNREADABLE_LINE";

/// How a file is written.
#[derive(Clone, Copy, ValueEnum, Debug)]
pub(super) enum Format {
    Jsonl,
    Csv,
}

/// A line that was not put in, and why.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) line: u64,
    /// Stable; the server's are ErrorInfo's.
    pub(super) reason: String,
    pub(super) message: String,
}

impl From<proto::import_response::Refusal> for Refusal {
    fn from(refusal: proto::import_response::Refusal) -> Self {
        let error = refusal.error.unwrap_or_default();
        let reason = error.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Self { line: refusal.number, reason, message: error.message }
    }
}

/// A stretch of the file: the lines to send, and those that can't be.
#[derive(Default, Debug)]
pub(super) struct Batch {
    pub(super) lines: Vec<import_request::Line>,
    pub(super) refusals: Vec<Refusal>,
    /// The last of `lines`; what the server's answer names.
    pub(super) last_sent: u64,
    /// The last line of the stretch.
    pub(super) last_line: u64,
    /// How many lines are in it, sent or not.
    pub(super) count: u64,
    /// Where it ends, in bytes from the file's beginning.
    pub(super) end: u64,
}

#[derive(Debug)]
pub(super) struct Reader {
    pub(super) format: Format,
    pub(super) service: Option<String>,
    /// Lines in a batch.
    pub(super) lines: usize,
    /// The last line that was acknowledged before.
    pub(super) skip_through: u64,
}

impl Batch {
    /// Takes in what follows it in the file.
    pub(super) fn merge(&mut self, next: Self) {
        self.refusals.extend(next.refusals);
        self.last_line = next.last_line;
        self.count += next.count;
        self.end = next.end;
    }

    fn is_full(&self, lines: usize) -> bool {
        self.lines.len() == lines || self.refusals.len() == lines
    }
}

impl Reader {
    /// Reads the whole file; ends early, without complaint, when nobody takes the batches any more.
    pub(super) fn read(self, file: &Path, is_stdin: bool, batches: &mpsc::Sender<Batch>) -> Result<(), Failure> {
        let broken = |broken: Broken| Failure::usage(format!("{}: {broken}", file.display()));
        let source: Box<dyn BufRead> =
            if is_stdin { Box::new(io::stdin().lock()) } else { Box::new(BufReader::with_capacity(1 << 18, File::open(file)?)) };
        let lines: Box<dyn Iterator<Item = Result<Line, Broken>>> = match self.format {
            Format::Jsonl => Box::new(lines::jsonl(source)),
            Format::Csv => Box::new(lines::csv(source).map_err(broken)?),
        };
        let mut batch = Batch::default();
        for line in lines {
            let line = line.map_err(broken)?;
            if line.number <= self.skip_through {
                continue;
            }
            self.add(&mut batch, line);
            if batch.is_full(self.lines) && batches.blocking_send(std::mem::take(&mut batch)).is_err() {
                return Ok(());
            }
        }
        if batch.count > 0 {
            // Nobody there: the import has ended, and says why itself.
            let _ = batches.blocking_send(batch);
        }
        Ok(())
    }

    fn add(&self, batch: &mut Batch, line: Line) {
        batch.count += 1;
        batch.last_line = line.number;
        batch.end = line.end;
        match line.mailbox {
            Ok(mailbox) => {
                batch.last_sent = line.number;
                batch.lines.push(import_request::Line {
                    number: line.number,
                    address: mailbox.address,
                    mail_service_id: mailbox
                        .mail_service_id
                        .filter(|service| !service.is_empty())
                        .or_else(|| self.service.clone())
                        .unwrap_or_default(),
                    generic_password_hash: mailbox.generic_password_hash.unwrap_or_default(),
                });
            }
            Err(message) => {
                batch.refusals.push(Refusal { line: line.number, reason: UNREADABLE_LINE.to_owned(), message });
            }
        }
    }
}
