//! `latchkey watch`: changes and revocations as they happen.

use std::io::Write;

use tokio_stream::{StreamExt, once};

use super::{
    client::{ClientArgs, Session},
    failure::Failure,
    render,
    terminal::printable,
};
use crate::{
    clock::SystemClock,
    exit::Exit,
    proto::{
        self,
        watch_request::{Acknowledge, Hello, Message as Request},
        watch_response::{Acknowledged, Change, Message as Response, SessionsEnded},
    },
    random,
};
use latchkey_core::model::clock::{Clock, Timestamp};

/// Our own, among the watchers.
const NAME: &str = "latchkey watch";

/// Show changes and revocations as they happen, and who acknowledged them after how long.
///
/// Prints a line for each change: how many mailboxes it concerns, and which passwords it ended.
/// Lines below it show who acknowledged it, and after how long: first the mail hosts, with the
/// sessions that they closed, then the replicas. Times count from when the replica that is asked
/// applied the change. Runs until it is interrupted. Exits with 3 when the server stops.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey watch
  latchkey watch --revocations
  latchkey watch --json | jq .acknowledged")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct Options {
    /// Show only changes that end passwords
    #[arg(long)]
    revocations: bool,
    /// Stop after N changes, when a replica has acknowledged the last one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Options {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let watcher_id = uuid::Builder::from_random_bytes(random::bytes()).into_uuid().to_string();
        let hello = Hello { protocol_version: 1, name: NAME.to_owned(), watcher_id, resume: None, observe: true };
        // It caches nothing and holds no lease, so no revocation waits for it. It acknowledges only
        // so that observers see it.
        let (acknowledge, acknowledgements) = tokio::sync::mpsc::unbounded_channel();
        let acknowledgements = tokio_stream::wrappers::UnboundedReceiverStream::new(acknowledgements);
        let requests = once(proto::WatchRequest { message: Some(Request::Hello(hello)) }).chain(acknowledgements);
        let mut responses = session.authorization().watch(requests).await?.into_inner();
        let mut shown = None;
        let mut left = self.count;
        while let Some(message) = responses.next().await {
            let message = message?;
            if let Some(Response::Draining(_)) = &message.message {
                // The server waits for its watchers to leave: returning closes the stream.
                return Err(
                    Failure::no_answer("the server is stopping").with_advice("Run `latchkey watch` again once it is back.")
                );
            }
            let is_shown = match &message.message {
                Some(Response::Change(change)) => {
                    let revision = change.position.map_or(0, |position| position.revision);
                    // A reader that is gone ends us by itself.
                    let _ =
                        acknowledge.send(proto::WatchRequest { message: Some(Request::Acknowledge(Acknowledge { revision })) });
                    let is_shown = !self.revocations || !change.ended.is_empty();
                    if is_shown {
                        shown = Some(revision);
                    }
                    is_shown
                }
                Some(Response::Acknowledged(it)) => it.name != NAME && (!self.revocations || shown == Some(it.revision)),
                Some(Response::SessionsEnded(it)) => !self.revocations || shown == Some(it.revision),
                Some(Response::StartEmpty(_)) => true,
                _ => false,
            };
            if !is_shown {
                continue;
            }
            session.output.show(&message, |out| describe(out, &message, SystemClock.wall()))?;
            match &message.message {
                Some(Response::Change(_)) => left = left.map(|left| left.saturating_sub(1)),
                Some(Response::Acknowledged(it)) if left == Some(0) && it.is_replica && Some(it.revision) == shown => break,
                _ => (),
            }
        }
        Ok(Exit::Done)
    }
}

fn describe(out: &mut dyn Write, message: &proto::WatchResponse, now: Timestamp) -> std::io::Result<()> {
    match &message.message {
        Some(Response::Change(change)) => words_of_change(out, change, now),
        Some(Response::Acknowledged(it)) => words_of_acknowledgement(out, it),
        Some(Response::SessionsEnded(it)) => words_of_sessions(out, it),
        Some(Response::StartEmpty(it)) => {
            let revision = it.position.map_or(0, |position| position.revision);
            writeln!(out, "{now}  changes were missed, or lost in a failover: caches start empty, at revision {revision}")
        }
        _ => Ok(()),
    }
}

fn words_of_change(out: &mut dyn Write, change: &Change, now: Timestamp) -> std::io::Result<()> {
    let revision = change.position.map_or(0, |position| position.revision);
    let scope = match (change.mailboxes.len(), change.mail_service.is_empty()) {
        (_, false) => "all mailboxes of a mail service".to_owned(),
        (1, true) => "1 mailbox".to_owned(),
        (count, true) => format!("{count} mailboxes"),
    };
    writeln!(out, "{now}  change {revision}: {scope}")?;
    for ended in &change.ended {
        let reason = render::name_of(ended.reason().as_str_name());
        writeln!(out, "    ended: device {}, generation {} ({reason})", ended.device_id, ended.generation)?;
    }
    Ok(())
}

fn words_of_acknowledgement(out: &mut dyn Write, it: &Acknowledged) -> std::io::Result<()> {
    let took = it.took.and_then(|took| std::time::Duration::try_from(took).ok()).unwrap_or_default();
    let who = if it.is_replica { "replica" } else { "watcher" };
    let (revision, name) = (it.revision, printable(&it.name));
    writeln!(out, "    {revision} acknowledged by {who} {name} after {:.1} ms", took.as_secs_f64() * 1_000.0)
}

fn words_of_sessions(out: &mut dyn Write, it: &SessionsEnded) -> std::io::Result<()> {
    let took = it.took.and_then(|took| std::time::Duration::try_from(took).ok()).unwrap_or_default();
    let sessions = |count| if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") };
    let (revision, name, millis) = (it.revision, printable(&it.name), took.as_secs_f64() * 1_000.0);
    if it.closed_sessions > 0 {
        writeln!(out, "    {revision} {} closed by {name} after {millis:.1} ms", sessions(it.closed_sessions))?;
    }
    if it.refused_sessions > 0 {
        writeln!(out, "    {revision} {} refused by {name} after {millis:.1} ms", sessions(it.refused_sessions))?;
    }
    Ok(())
}
