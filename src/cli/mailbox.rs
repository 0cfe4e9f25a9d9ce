//! `latchkey mailbox`.

use clap::Subcommand;

use super::{
    client::{ClientArgs, Session},
    failure::Failure,
    list::ListArgs,
    prompt,
    render::{self, Ended},
    revocation::{ConfirmArgs, WaitArgs},
    table,
};
use crate::{exit::Exit, proto};

/// Make, look up, suspend and delete mailboxes.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey mailbox put alice@example.com --service example-mail
  latchkey mailbox suspend alice@example.com")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: MailboxCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum MailboxCommand {
    /// Make a mailbox, move it to another mail service of the organization, or replace its generic
    /// password
    #[command(after_help = "\
Examples:
  latchkey mailbox put alice@example.com --service example-mail
  doveadm pw -s SHA512-CRYPT | latchkey mailbox put alice@example.com --service example-mail --generic-hash-stdin")]
    Put {
        /// The mailbox
        address: String,
        /// The mail service that holds it
        #[arg(long, value_name = "ID")]
        service: String,
        /// Its generic password's hash, `{SCHEME}…` or `$mcf$…` (others on this machine can see
        /// arguments: see the next)
        #[arg(long, value_name = "HASH", conflicts_with = "generic_hash_stdin")]
        generic_hash: Option<String>,
        /// Reads that hash from standard input, up to the end of the first line
        #[arg(long)]
        generic_hash_stdin: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// One mailbox
    #[command(after_help = "Example:\n  latchkey mailbox get alice@example.com")]
    Get {
        /// The mailbox
        address: String,
    },
    /// The mailboxes of a mail service, by address
    #[command(after_help = "Example:\n  latchkey mailbox list --service example-mail --limit 100")]
    List {
        /// The mail service's id
        #[arg(long, value_name = "ID")]
        service: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Delete a mailbox; its devices go with it, its audit trail stays
    #[command(after_help = "Example:\n  latchkey mailbox delete alice@example.com")]
    Delete {
        /// The mailbox
        address: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Deny all logins to a mailbox, and close its sessions, until it is resumed
    #[command(after_help = "Example:\n  latchkey mailbox suspend alice@example.com")]
    Suspend {
        /// The mailbox
        address: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Allow a suspended mailbox's logins again
    #[command(after_help = "Example:\n  latchkey mailbox resume alice@example.com")]
    Resume {
        /// The mailbox
        address: String,
    },
}

impl MailboxCommand {
    pub(super) fn only_reads(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::List { .. })
    }

    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let mut directory = session.directory();
        match self {
            Self::Put { address, service, generic_hash, generic_hash_stdin, wait } => {
                let generic_password_hash = if generic_hash_stdin {
                    prompt::text(Some(prompt::secret_from_stdin("--generic-hash-stdin")?))?
                } else {
                    generic_hash.unwrap_or_default()
                };
                let max_wait = wait.max_wait();
                let request = proto::PutMailboxRequest { address, mail_service_id: service, generic_password_hash, max_wait };
                let answer = directory.put_mailbox(session.request_that_waits(request, wait.longest())).await?.into_inner();
                session.output.show(&answer, |out| {
                    table::pairs(out, &pairs(answer.mailbox.as_ref()))?;
                    render::write_revocation(out, answer.revocation.as_ref(), Ended::Passwords)
                })?;
            }
            Self::Get { address } => {
                let request = proto::GetMailboxRequest { address };
                let answer = directory.get_mailbox(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| table::pairs(out, &pairs(answer.mailbox.as_ref())))?;
            }
            Self::List { service, list } => {
                return session
                    .list(list.limit, async |page| {
                        let request = proto::ListMailboxesRequest {
                            mail_service_id: service.clone(),
                            page_size: page.size,
                            page_token: page.token,
                        };
                        Ok(session.directory().list_mailboxes(session.request(request)).await?.into_inner())
                    })
                    .await;
            }
            Self::Delete { address, confirm, wait } => {
                confirm.ask(&format!("Delete the mailbox {address} with all its devices?"))?;
                let request = proto::DeleteMailboxRequest { address, max_wait: wait.max_wait() };
                let answer = directory.delete_mailbox(session.request_that_waits(request, wait.longest())).await?.into_inner();
                session.output.show(&answer, |out| {
                    writeln!(out, "Deleted.")?;
                    render::write_revocation(out, answer.revocation.as_ref(), Ended::Disconnected)
                })?;
            }
            Self::Suspend { address, wait } => {
                let request = proto::SuspendMailboxRequest { address, max_wait: wait.max_wait() };
                let answer = directory.suspend_mailbox(session.request_that_waits(request, wait.longest())).await?.into_inner();
                session.output.show(&answer, |out| {
                    writeln!(out, "Suspended.")?;
                    render::write_revocation(out, answer.revocation.as_ref(), Ended::Barred)
                })?;
            }
            Self::Resume { address } => {
                let request = proto::ResumeMailboxRequest { address };
                let answer = directory.resume_mailbox(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| writeln!(out, "Resumed."))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn pairs(mailbox: Option<&proto::Mailbox>) -> Vec<(&'static str, String)> {
    let it = mailbox.cloned().unwrap_or_default();
    vec![
        ("Address", it.address),
        ("Mail service", it.mail_service_id),
        ("Id", it.mailbox_id),
        ("State", render::suspended(it.suspended)),
        ("Generic login", render::on_off(it.generic_login_enabled)),
        ("Created", render::exact_time(it.create_time.as_ref())),
    ]
}
