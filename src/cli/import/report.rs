//! What became of the lines: counted, and the refused ones named with their reasons.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    batch::{Batch, Refusal},
    progress::{Progress, grouped},
};
use crate::{
    cli::{failure::Failure, terminal::printable},
    exit::Exit,
    proto::ImportResponse,
};

/// How many lines became what, up to and with `last_line`.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    pub(super) last_line: u64,
    lines: u64,
    created: u64,
    existing: u64,
    refused: u64,
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) counts: Counts,
    refused: Option<BufWriter<File>>,
    shown: u64,
    show_at_most: u64,
    as_json: bool,
}

impl Report {
    /// A report that goes on from `counts`. `file` takes refused lines; it is written on where an
    /// import is `resumed`, else anew.
    pub(super) fn new(
        counts: Counts,
        file: Option<&Path>,
        show_at_most: u64,
        as_json: bool,
        resumed: bool,
    ) -> Result<Self, Failure> {
        let open = |file: &Path| {
            OpenOptions::new().create(true).write(true).append(resumed).truncate(!resumed).open(file).map(BufWriter::new)
        };
        let refused = match file {
            Some(file) => Some(
                open(file).map_err(|error| Failure::usage(format!("--refused {}: can't be written: {error}", file.display())))?,
            ),
            None => None,
        };
        Ok(Self { counts, refused, shown: 0, show_at_most, as_json })
    }

    /// Takes in an acknowledged batch: its refused lines in the order of the file.
    pub(super) fn add(&mut self, batch: Batch, answer: ImportResponse, progress: &Progress) -> Result<(), Failure> {
        let mut refusals = batch.refusals;
        refusals.extend(answer.refusals.into_iter().map(Refusal::from));
        refusals.sort_by_key(|refusal| refusal.line);
        self.counts.last_line = batch.last_line;
        self.counts.lines += batch.count;
        self.counts.created += u64::from(answer.created);
        self.counts.existing += u64::from(answer.existing);
        self.counts.refused += refusals.len() as u64;
        for refusal in &refusals {
            let line = || json!({ "line": refusal.line, "reason": refusal.reason, "message": refusal.message });
            if let Some(file) = &mut self.refused {
                writeln!(file, "{}", line())?;
            }
            if self.shown < self.show_at_most {
                self.shown += 1;
                progress.print(&if self.as_json { line().to_string() } else { words(refusal) });
            }
        }
        // Before the state says that these lines are done.
        self.refused.as_mut().map_or(Ok(()), Write::flush)?;
        Ok(())
    }

    /// The summary, and how the import ended.
    pub(super) fn finish(self, as_json: bool, dry_run: bool) -> Result<Exit, Failure> {
        let Counts { lines, created, existing, refused, .. } = self.counts;
        let mut out = std::io::stdout().lock();
        if as_json {
            let summary =
                json!({ "lines": lines, "created": created, "existing": existing, "refused": refused, "dry_run": dry_run });
            writeln!(out, "{summary}")?;
        } else {
            if refused > self.shown {
                eprintln!(
                    "… {} more refused lines{}",
                    refused - self.shown,
                    if self.refused.is_some() { "" } else { "; --refused FILE keeps them all" }
                );
            }
            let made = if dry_run { "would be created" } else { "created" };
            writeln!(
                out,
                "{} lines: {} {made}, {} there already, {} refused.",
                grouped(lines),
                grouped(created),
                grouped(existing),
                grouped(refused)
            )?;
        }
        Ok(if refused == 0 { Exit::Done } else { Exit::Refused })
    }
}

fn words(refusal: &Refusal) -> String {
    format!("line {}: {} ({})", refusal.line, printable(&refusal.message), printable(&refusal.reason))
}
