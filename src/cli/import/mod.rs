//! `latchkey import`: many mailboxes from a file, in batches with several on their way, resumable.

mod batch;
mod lines;
mod progress;
mod report;
mod state;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Status};

use self::{
    batch::{Batch, Format},
    progress::Progress,
    report::Report,
    state::State,
};
use super::{
    client::{ClientArgs, Session},
    failure::Failure,
};
use crate::exit::Exit;
use crate::proto::{ImportRequest, ImportResponse};

/// What the contract takes in one request.
const LARGEST_BATCH: i64 = 10_000;
const MOST_IN_FLIGHT: i64 = 64;

/// Import mailboxes from a file, with the hashes of their generic passwords.
///
/// The file is JSON Lines (one object on each line) or CSV (with a header line). Fields: address,
/// mail_service_id (or --service for all lines), and generic_password_hash ({SCHEME}… or $mcf$…;
/// optional). Mailboxes that exist stay unchanged.
///
/// Refused lines are reported with their number and reason; all others are imported. If the import
/// is interrupted, the same command resumes it: FILE.latchkey-import records how far it has come,
/// until it is complete.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey import mailboxes.jsonl
  latchkey import mailboxes.csv --service example-mail --refused refused.jsonl
  latchkey import mailboxes.jsonl --dry-run
  zcat mailboxes.jsonl.gz | latchkey import -")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct Options {
    /// The file to read; `-` is standard input, which cannot be resumed
    file: PathBuf,
    /// The file's format (default: by its suffix; JSON Lines for standard input)
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The mail service for lines that name none
    #[arg(long, value_name = "ID")]
    service: Option<String>,
    /// Check everything on the server, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Start from the beginning, even if an interrupted import could be resumed
    #[arg(long)]
    restart: bool,
    /// Write refused lines to FILE, one JSON object on each line
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,
    /// Show at most N refused lines
    #[arg(long, value_name = "N", env = "LATCHKEY_SHOW_REFUSED", hide_env_values = true, default_value_t = 20)]
    show_refused: u64,
    /// Lines in one batch, which is one transaction: 1 to 10,000
    #[arg(long, value_name = "N", env = "LATCHKEY_BATCH_LINES", hide_env_values = true, default_value_t = 5_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=LARGEST_BATCH))]
    batch_lines: u32,
    /// Batches sent at once: 1 to 64
    #[arg(long, value_name = "N", env = "LATCHKEY_BATCHES_IN_FLIGHT", hide_env_values = true, default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MOST_IN_FLIGHT))]
    batches_in_flight: u32,
}

impl Options {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let is_stdin = self.file == Path::new("-");
        let format = self.format(is_stdin)?;
        let state = if is_stdin || self.dry_run { None } else { Some(State::open(&self.file, self.restart)?) };
        let resumed = state.as_ref().map(|state| state.counts).unwrap_or_default();
        let skip_through = state.as_ref().map_or(0, |state| state.last_line);
        let report =
            Report::new(resumed, self.refused.as_deref(), self.show_refused, session.output.is_json(), skip_through > 0)?;
        if skip_through > 0 {
            eprintln!("Going on after line {skip_through}, where it was cut off.");
        }

        let reader = batch::Reader { format, service: self.service, lines: self.batch_lines as usize, skip_through };
        // With what waits in the channels, no more than this many batches are in memory.
        let (read, batches) = mpsc::channel(self.batches_in_flight as usize);
        let progress = Progress::new(if is_stdin { None } else { Some(std::fs::metadata(&self.file)?.len()) }, skip_through);
        let reading = tokio::task::spawn_blocking(move || reader.read(&self.file, is_stdin, &read));
        let mut import = Import { report, state, progress, in_flight: VecDeque::new(), dry_run: self.dry_run };
        let is_resumable = import.state.is_some();
        let outcome = tokio::select! {
            outcome = import.run(session, batches, self.batches_in_flight as usize) => outcome,
            // Where nothing is kept, the signal ends the process as usual.
            _ = tokio::signal::ctrl_c(), if is_resumable => Err(Failure::no_answer("interrupted")
                .with_advice("The same command again begins anew: nothing was acknowledged yet.")),
        };
        let last_line = import.report.counts.last_line;
        outcome.map_err(|failure| match import.state.is_some() && last_line > 0 {
            true => failure.with_advice(format!("Done up to line {last_line}. The same command again goes on from there.")),
            false => failure,
        })?;
        reading.await.map_err(|error| Failure::refused(error.to_string()))??;
        import.finish(session.output.is_json())
    }

    fn format(&self, is_stdin: bool) -> Result<Format, Failure> {
        let suffix = self.file.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_lowercase();
        match (self.format, suffix.as_str()) {
            (Some(format), _) => Ok(format),
            (None, "csv") => Ok(Format::Csv),
            (None, "jsonl" | "ndjson" | "json") => Ok(Format::Jsonl),
            (None, _) if is_stdin => Ok(Format::Jsonl),
            _ => Err(Failure::usage(format!("{}: neither .jsonl nor .csv", self.file.display()))
                .with_advice("Say --format jsonl or --format csv.")),
        }
    }
}

/// An import under way.
struct Import {
    report: Report,
    state: Option<State>,
    progress: Progress,
    /// What was sent and not answered yet, oldest first, without its lines.
    in_flight: VecDeque<Batch>,
    dry_run: bool,
}

impl Import {
    /// Sends the batches, never more than `window` unanswered, and takes in the answers, until all
    /// are answered.
    async fn run(&mut self, session: &Session, mut batches: mpsc::Receiver<Batch>, window: usize) -> Result<(), Failure> {
        let (requests, outgoing) = mpsc::channel::<ImportRequest>(window);
        let mut directory = session.directory();
        // The server may answer the call itself only after the first batch, so the call is made
        // beside the sending.
        let call = directory.import(Request::new(ReceiverStream::new(outgoing)));
        let mut requests = Some(requests);
        let mut call = std::pin::pin!(call);
        let mut answers = None;
        loop {
            if requests.is_none() && self.in_flight.is_empty() {
                return Ok(());
            }
            tokio::select! {
                batch = batches.recv(), if requests.is_some() && self.in_flight.len() < window => match (batch, &requests) {
                    (Some(mut batch), Some(open)) => {
                        let lines = std::mem::take(&mut batch.lines);
                        if lines.is_empty() {
                            self.take_unsent(batch)?;
                            continue;
                        }
                        self.in_flight.push_back(batch);
                        // The window is the channel's capacity: there is room, or the stream has
                        // ended, which its answer tells best.
                        let _ = open.try_send(ImportRequest { lines, validate_only: self.dry_run });
                    }
                    _ => requests = None,
                },
                stream = &mut call, if answers.is_none() => answers = Some(stream?.into_inner()),
                answer = next(&mut answers), if answers.is_some() => self.take(answer?)?,
                () = tokio::time::sleep(session.timeout), if !self.in_flight.is_empty() => return Err(Status::deadline_exceeded("").into()),
            }
        }
    }

    /// A batch of which no line was fit to be sent.
    fn take_unsent(&mut self, batch: Batch) -> Result<(), Failure> {
        match self.in_flight.back_mut() {
            // Its turn is after those on their way: what is acknowledged is always a beginning of
            // the file.
            Some(last) => last.merge(batch),
            None => self.acknowledge(batch, ImportResponse::default())?,
        }
        Ok(())
    }

    fn take(&mut self, answer: ImportResponse) -> Result<(), Failure> {
        let batch = self.in_flight.pop_front().filter(|batch| batch.last_sent == answer.last_line);
        let batch = batch
            .ok_or_else(|| Failure::no_answer(format!("the server answered for line {}, out of order", answer.last_line)))?;
        self.acknowledge(batch, answer)
    }

    fn acknowledge(&mut self, batch: Batch, answer: ImportResponse) -> Result<(), Failure> {
        let end = batch.end;
        self.report.add(batch, answer, &self.progress)?;
        if let Some(state) = &mut self.state {
            state.save(self.report.counts)?;
        }
        self.progress.advance(end, self.report.counts.last_line);
        Ok(())
    }

    fn finish(self, as_json: bool) -> Result<Exit, Failure> {
        self.progress.finish();
        if let Some(state) = self.state {
            state.remove()?;
        }
        self.report.finish(as_json, self.dry_run)
    }
}

/// The next answer. A stream that ends while answers are due, was cut.
async fn next(answers: &mut Option<tonic::Streaming<ImportResponse>>) -> Result<ImportResponse, Failure> {
    match answers {
        Some(answers) => Ok(answers.next().await.ok_or_else(|| Status::unavailable("the server ended the import"))??),
        None => std::future::pending().await,
    }
}
