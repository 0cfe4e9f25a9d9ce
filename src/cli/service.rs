//! `latchkey service`: mail services, and the rights to manage them.

use clap::Subcommand;

use super::{
    client::{ClientArgs, Session},
    failure::Failure,
    list::ListArgs,
    render::{self, Ended},
    revocation::{ConfirmArgs, WaitArgs},
    table,
};
use crate::{exit::Exit, proto};

/// Make, look up and delete mail services, and say who may manage them.
///
/// A mail service is a product of an organization, holding mailboxes. Ids are your own: 1 to 128
/// visible ASCII characters.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey service put example-mail --organization example
  latchkey service grant example-mail bob")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: ServiceCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum ServiceCommand {
    /// Make a mail service, or give it another name
    #[command(after_help = "Example:\n  latchkey service put example-mail --organization example --name \"Example mail\"")]
    Put {
        /// Your id for it
        service: String,
        /// The organization that it belongs to; cannot be changed later
        #[arg(long, value_name = "ID")]
        organization: String,
        /// What people call it, at most 128 characters
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// One mail service
    #[command(after_help = "Example:\n  latchkey service get example-mail")]
    Get {
        /// Its id
        service: String,
    },
    /// The mail services of an organization, by id
    #[command(after_help = "Example:\n  latchkey service list --organization example")]
    List {
        /// The organization's id
        #[arg(long, value_name = "ID")]
        organization: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Delete a mail service that has no mailboxes any more
    #[command(after_help = "Example:\n  latchkey service delete example-mail")]
    Delete {
        /// Its id
        service: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Give a person the right to manage a mail service
    #[command(after_help = "Example:\n  latchkey service grant example-mail bob")]
    Grant {
        /// The mail service's id
        service: String,
        /// The person's id
        user: String,
    },
    /// Take that right, and disconnect the person's devices there, unless their role still gives
    /// access
    #[command(after_help = "Example:\n  latchkey service revoke example-mail bob")]
    Revoke {
        /// The mail service's id
        service: String,
        /// The person's id
        user: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Who has the right to manage a mail service
    #[command(after_help = "Example:\n  latchkey service rights example-mail")]
    Rights {
        /// The mail service's id
        service: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

impl ServiceCommand {
    pub(super) fn only_reads(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::List { .. } | Self::Rights { .. })
    }

    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let mut directory = session.directory();
        match self {
            Self::Put { service, organization, name } => {
                let request =
                    proto::PutMailServiceRequest { mail_service_id: service, organization_id: organization, display_name: name };
                let answer = directory.put_mail_service(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| table::pairs(out, &pairs(answer.mail_service.as_ref())))?;
            }
            Self::Get { service } => {
                let request = proto::GetMailServiceRequest { mail_service_id: service };
                let answer = directory.get_mail_service(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| table::pairs(out, &pairs(answer.mail_service.as_ref())))?;
            }
            Self::List { organization, list } => return self::list(session, organization, list).await,
            Self::Delete { service, confirm } => {
                confirm.ask(&format!("Delete the mail service {service}?"))?;
                let request = proto::DeleteMailServiceRequest { mail_service_id: service };
                let answer = directory.delete_mail_service(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| writeln!(out, "Deleted."))?;
            }
            Self::Grant { service, user } => {
                let request = proto::PutRightRequest { mail_service_id: service, user_id: user };
                let answer = directory.put_right(session.request(request)).await?.into_inner();
                let right = answer.right.clone().unwrap_or_default();
                session.output.show(&answer, |out| writeln!(out, "{} may manage {}.", right.user_id, right.mail_service_id))?;
            }
            Self::Revoke { service, user, wait } => {
                let request = proto::DeleteRightRequest { mail_service_id: service, user_id: user, max_wait: wait.max_wait() };
                let answer = directory.delete_right(session.request_that_waits(request, wait.longest())).await?.into_inner();
                session.output.show(&answer, |out| {
                    writeln!(out, "The right is taken.")?;
                    render::write_revocation(out, answer.revocation.as_ref(), Ended::Disconnected)
                })?;
            }
            Self::Rights { service, list } => return rights(session, service, list).await,
        }
        Ok(Exit::Done)
    }
}

async fn list(session: &Session, organization_id: String, list: ListArgs) -> Result<Exit, Failure> {
    session
        .list(list.limit, async |page| {
            let request = proto::ListMailServicesRequest {
                organization_id: organization_id.clone(),
                page_size: page.size,
                page_token: page.token,
            };
            Ok(session.directory().list_mail_services(session.request(request)).await?.into_inner())
        })
        .await
}

async fn rights(session: &Session, mail_service_id: String, list: ListArgs) -> Result<Exit, Failure> {
    session
        .list(list.limit, async |page| {
            let request = proto::ListRightsRequest {
                mail_service_id: mail_service_id.clone(),
                page_size: page.size,
                page_token: page.token,
            };
            Ok(session.directory().list_rights(session.request(request)).await?.into_inner())
        })
        .await
}

fn pairs(service: Option<&proto::MailService>) -> Vec<(&'static str, String)> {
    let it = service.cloned().unwrap_or_default();
    vec![
        ("Id", it.mail_service_id),
        ("Organization", it.organization_id),
        ("Name", it.display_name),
        ("Generic login", render::on_off(it.generic_login_enabled)),
        ("Created", render::exact_time(it.create_time.as_ref())),
    ]
}
