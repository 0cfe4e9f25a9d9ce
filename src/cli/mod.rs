//! Floor 5: the command line. One file a command; those of operators are gRPC clients and hold no
//! rules.

pub(crate) mod client;
mod completions;
mod descriptor_set;
mod device;
mod doctor;
mod events;
pub(crate) mod failure;
mod health;
mod import;
mod keys;
mod list;
mod login;
mod mailbox;
mod member;
mod organization;
mod output;
mod probe;
mod prompt;
mod render;
mod revocation;
mod service;
mod table;
mod terminal;
mod watch;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{
    client::{ClientArgs, Session},
    failure::Failure,
};
use crate::{agent, config, exit::Exit, serve};

/// Mail passwords, one for each device, whose revocation holds everywhere at once.
#[derive(Parser, Debug)]
#[command(name = "latchkey", version, arg_required_else_help = true, subcommand_required = true)]
#[command(after_help = "\
Every setting is a flag, an environment variable LATCHKEY_… and a key of the TOML file that --config names, in that order. Keys \
are named like the flags, and stand at the top of the file, or in a table of one command ([serve], [import]) or of all operator \
commands ([client]).

Operator commands end 0 (done), 1 (refused), 2 (usage) or 3 (no answer).

Examples:
  latchkey serve --demo
  latchkey device list alice@example.com
  latchkey device add alice@example.com \"Alice's phone\"
  latchkey device disconnect alice@example.com \"Alice's phone\"
  latchkey login alice@example.com --protocol imap")]
pub struct Cli {
    /// A TOML file with settings
    // Read by `config::with_file` before clap sees it; it stands here for the help and so that clap
    // knows it.
    #[arg(long, value_name = "FILE", env = "LATCHKEY_CONFIG", global = true, hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(Box<serve::Args>),
    Agent(Box<agent::Args>),
    // A variant's help is the documentation of its arguments' type.
    Device(device::Args),
    Organization(organization::Args),
    Member(member::Args),
    Service(service::Args),
    Mailbox(mailbox::Args),
    Import(import::Args),
    Revocation(revocation::Args),
    Login(login::Args),
    Events(events::Args),
    Watch(watch::Args),
    Keys(keys::Args),
    Doctor(Box<doctor::Args>),
    Health(health::Args),
    Probe(Box<probe::Args>),
    DescriptorSet(descriptor_set::Args),
    Completions(completions::Args),
}

/// Runs the command that the arguments (the program's name first) name, and says how it ended.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let command = match config::with_file(Cli::command(), &arguments) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage.into();
        }
    };
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => cli.command.run(),
        Err(error) => {
            // Help and usage go to a terminal or a pipe; if it is closed there is nobody to tell.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
        }
    }
}

impl Command {
    /// Whether it may be repeated without a second thought, because it changes nothing.
    fn only_reads(&self) -> bool {
        match self {
            Self::Device(args) => args.command.only_reads(),
            Self::Organization(args) => args.command.only_reads(),
            Self::Member(args) => args.command.only_reads(),
            Self::Service(args) => args.command.only_reads(),
            Self::Mailbox(args) => args.command.only_reads(),
            Self::Import(_) | Self::Serve(_) | Self::Agent(_) | Self::Keys(_) => false,
            Self::Revocation(_) | Self::Login(_) | Self::Events(_) | Self::Watch(_) | Self::Health(_) | Self::Doctor(_) => true,
            Self::Probe(_) | Self::DescriptorSet(_) | Self::Completions(_) => true,
        }
    }

    fn run(self) -> ExitCode {
        let only_reads = self.only_reads();
        match self {
            Self::Serve(args) => serve::command(&args),
            Self::Agent(args) => agent::command(&args),
            Self::Keys(args) => args.run(),
            Self::Doctor(args) => args.run(Cli::command()),
            Self::Probe(args) => args.run(),
            Self::DescriptorSet(args) => args.run(),
            Self::Completions(args) => args.run(Cli::command()),
            Self::Health(health::Args { client }) => ask(client, only_reads, health::run),
            Self::Device(device::Args { client, command }) => ask(client, only_reads, async |session| command.run(session).await),
            Self::Organization(organization::Args { client, command }) => {
                ask(client, only_reads, async |session| command.run(session).await)
            }
            Self::Member(member::Args { client, command }) => ask(client, only_reads, async |session| command.run(session).await),
            Self::Service(service::Args { client, command }) => {
                ask(client, only_reads, async |session| command.run(session).await)
            }
            Self::Mailbox(mailbox::Args { client, command }) => {
                ask(client, only_reads, async |session| command.run(session).await)
            }
            Self::Import(import::Args { client, options }) => ask(client, only_reads, async |session| options.run(session).await),
            Self::Revocation(revocation::Args { client, command }) => {
                ask(client, only_reads, async |session| command.run(session).await)
            }
            Self::Login(login::Args { client, options }) => ask(client, only_reads, async |session| options.run(session).await),
            Self::Events(events::Args { client, options }) => ask(client, only_reads, async |session| options.run(session).await),
            Self::Watch(watch::Args { client, options }) => ask(client, only_reads, async |session| options.run(session).await),
        }
    }
}

/// Runs an operator's command: a client of the server that `client` names.
fn ask(client: ClientArgs, only_reads: bool, command: impl AsyncFnOnce(&Session) -> Result<Exit, Failure>) -> ExitCode {
    let json = client.json;
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from).and_then(|runtime| {
        let outcome = runtime.block_on(async { command(&client.connect()?).await });
        // A thread that waits for standard input must not hold up the end.
        runtime.shutdown_background();
        outcome
    });
    let outcome = outcome.map_err(|failure| if only_reads { failure.of_read() } else { failure });
    outcome.unwrap_or_else(|failure| failure.report(json)).into()
}
