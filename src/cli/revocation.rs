//! `latchkey revocation`, and how the commands that revoke wait and ask.

use std::time::Duration;

use clap::Subcommand;

use super::{
    client::{ClientArgs, Session},
    failure::Failure,
    prompt,
    render::{self, Ended},
};
use crate::{config, exit::Exit, proto};

/// The server's own bound.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Wait for a revocation that was final, and not effective everywhere yet.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  latchkey revocation await 00000000000000071b2c3d4e5f607182")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: RevocationCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum RevocationCommand {
    /// Wait until a revocation is effective everywhere, and say what became of the sessions
    ///
    /// Needs the same rights as the command that made it, for an hour after that.
    #[command(after_help = "\
Examples:
  latchkey revocation await 00000000000000071b2c3d4e5f607182
  latchkey revocation await 00000000000000071b2c3d4e5f607182 --max-wait 30s")]
    Await {
        /// The revocation's id, as the command that made it printed it
        id: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// How long a command waits for its revocation.
#[derive(clap::Args, Debug)]
pub(super) struct WaitArgs {
    /// Return once the change is committed, without waiting until it is effective everywhere
    #[arg(long)]
    no_wait: bool,
    /// Wait at most so long, up to 10m (default: until it is effective everywhere)
    #[arg(long, value_name = "TIME", value_parser = config::duration(Duration::ZERO..=LONGEST_WAIT), conflicts_with = "no_wait")]
    max_wait: Option<Duration>,
}

impl WaitArgs {
    pub(super) fn max_wait(&self) -> Option<prost_types::Duration> {
        // Within its bounds it always fits.
        self.longest().and_then(|wait| prost_types::Duration::try_from(wait).ok())
    }

    /// How long the server waits, if it was told.
    pub(super) fn longest(&self) -> Option<Duration> {
        if self.no_wait { Some(Duration::ZERO) } else { self.max_wait }
    }
}

/// Whether a command that deletes something asks before.
#[derive(clap::Args, Debug)]
pub(super) struct ConfirmArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl ConfirmArgs {
    /// Refuses unless the person says yes, or has said so beforehand.
    pub(super) fn ask(&self, question: &str) -> Result<(), Failure> {
        if self.yes || prompt::confirm(question, "If you mean it, repeat the command with --yes.")? {
            Ok(())
        } else {
            Err(Failure::refused("nothing was deleted"))
        }
    }
}

impl RevocationCommand {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let Self::Await { id, wait } = self;
        let request = proto::AwaitRevocationRequest { revocation_id: id, max_wait: wait.max_wait() };
        let answer = session.devices().await_revocation(session.request_that_waits(request, wait.longest())).await?.into_inner();
        session.output.show(&answer, |out| render::write_revocation(out, answer.revocation.as_ref(), Ended::Concerned))?;
        Ok(Exit::Done)
    }
}
