//! `latchkey organization`.

use clap::Subcommand;

use super::{
    client::{ClientArgs, Session},
    failure::Failure,
    list::ListArgs,
    render,
    revocation::ConfirmArgs,
    table,
};
use crate::{exit::Exit, proto};

/// Make, look up and delete organizations: the customers.
///
/// Ids are your own: 1 to 128 visible ASCII characters.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  latchkey organization put example --name \"Example GmbH\"")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: OrganizationCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum OrganizationCommand {
    /// Make an organization, or give it another name
    #[command(after_help = "Example:\n  latchkey organization put example --name \"Example GmbH\"")]
    Put {
        /// Your id for it
        organization: String,
        /// What people call it, at most 128 characters
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// One organization
    #[command(after_help = "Example:\n  latchkey organization get example")]
    Get {
        /// Its id
        organization: String,
    },
    /// All organizations, by id
    #[command(after_help = "Example:\n  latchkey organization list")]
    List(ListArgs),
    /// Delete an organization that has no mail services any more
    #[command(after_help = "Example:\n  latchkey organization delete example")]
    Delete {
        /// Its id
        organization: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

impl OrganizationCommand {
    pub(super) fn only_reads(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::List(_))
    }

    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let mut directory = session.directory();
        match self {
            Self::Put { organization, name } => {
                let request = proto::PutOrganizationRequest { organization_id: organization, display_name: name };
                let answer = directory.put_organization(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| table::pairs(out, &pairs(answer.organization.as_ref())))?;
            }
            Self::Get { organization } => {
                let request = proto::GetOrganizationRequest { organization_id: organization };
                let answer = directory.get_organization(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| table::pairs(out, &pairs(answer.organization.as_ref())))?;
            }
            Self::List(list) => {
                return session
                    .list(list.limit, async |page| {
                        let request = proto::ListOrganizationsRequest { page_size: page.size, page_token: page.token };
                        Ok(session.directory().list_organizations(session.request(request)).await?.into_inner())
                    })
                    .await;
            }
            Self::Delete { organization, confirm } => {
                confirm.ask(&format!("Delete the organization {organization} with its members?"))?;
                let request = proto::DeleteOrganizationRequest { organization_id: organization };
                let answer = directory.delete_organization(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| writeln!(out, "Deleted."))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn pairs(organization: Option<&proto::Organization>) -> Vec<(&'static str, String)> {
    let it = organization.cloned().unwrap_or_default();
    vec![("Id", it.organization_id), ("Name", it.display_name), ("Created", render::exact_time(it.create_time.as_ref()))]
}
