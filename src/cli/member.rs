//! `latchkey member`.

use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    client::{ClientArgs, Session},
    failure::Failure,
    list::ListArgs,
    render::{self, Ended},
    revocation::{ConfirmArgs, WaitArgs},
    table,
};
use crate::{exit::Exit, proto};

const ROLES: [&str; 3] = ["legal-representative", "administrator", "collaborator"];

/// Say who belongs to an organization, and in which role.
///
/// Legal representatives and administrators may manage all its mailboxes; collaborators those of
/// the mail services that they were given the right to (`latchkey service grant`).
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  latchkey member put bob administrator --organization example")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: MemberCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum MemberCommand {
    /// Make somebody a member, or change their role
    ///
    /// A role that gives less access disconnects the person's devices where they lose it.
    #[command(after_help = "\
Examples:
  latchkey member put bob administrator --organization example
  latchkey member put bob collaborator --organization example --suspended")]
    Put {
        /// The organization's id
        #[arg(long, value_name = "ID")]
        organization: String,
        /// Your id for the person
        user: String,
        /// What they are there
        #[arg(value_parser = role(), ignore_case = true)]
        role: proto::Role,
        /// Deny the person's devices, until --resumed (default: as it is)
        #[arg(long)]
        suspended: bool,
        /// Allow the person's devices again
        #[arg(long, conflicts_with = "suspended")]
        resumed: bool,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// One member
    #[command(after_help = "Example:\n  latchkey member get bob --organization example")]
    Get {
        /// The organization's id
        #[arg(long, value_name = "ID")]
        organization: String,
        /// The person's id
        user: String,
    },
    /// The members of an organization, by id
    #[command(after_help = "Example:\n  latchkey member list --organization example")]
    List {
        /// The organization's id
        #[arg(long, value_name = "ID")]
        organization: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Take a person's rights and role, and disconnect their devices
    #[command(after_help = "Example:\n  latchkey member delete bob --organization example")]
    Delete {
        /// The organization's id
        #[arg(long, value_name = "ID")]
        organization: String,
        /// The person's id
        user: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

impl MemberCommand {
    pub(super) fn only_reads(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::List { .. })
    }

    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let mut directory = session.directory();
        match self {
            Self::Put { organization, user, role, suspended, resumed, wait } => {
                let request = proto::PutMemberRequest {
                    organization_id: organization,
                    user_id: user,
                    role: role.into(),
                    suspended: suspended.then_some(true).or(resumed.then_some(false)),
                    max_wait: wait.max_wait(),
                };
                let answer = directory.put_member(session.request_that_waits(request, wait.longest())).await?.into_inner();
                session.output.show(&answer, |out| {
                    table::pairs(out, &pairs(answer.member.as_ref()))?;
                    render::write_revocation(out, answer.revocation.as_ref(), Ended::LostAccess)
                })?;
            }
            Self::Get { organization, user } => {
                let request = proto::GetMemberRequest { organization_id: organization, user_id: user };
                let answer = directory.get_member(session.request(request)).await?.into_inner();
                session.output.show(&answer, |out| table::pairs(out, &pairs(answer.member.as_ref())))?;
            }
            Self::List { organization, list } => {
                return session
                    .list(list.limit, async |page| {
                        let request = proto::ListMembersRequest {
                            organization_id: organization.clone(),
                            page_size: page.size,
                            page_token: page.token,
                        };
                        Ok(session.directory().list_members(session.request(request)).await?.into_inner())
                    })
                    .await;
            }
            Self::Delete { organization, user, confirm, wait } => {
                confirm.ask(&format!("Delete the member {user} of {organization}, and disconnect their devices there?"))?;
                let max_wait = wait.max_wait();
                let request = proto::DeleteMemberRequest { organization_id: organization, user_id: user, max_wait };
                let answer = directory.delete_member(session.request_that_waits(request, wait.longest())).await?.into_inner();
                session.output.show(&answer, |out| {
                    writeln!(out, "Deleted.")?;
                    render::write_revocation(out, answer.revocation.as_ref(), Ended::Disconnected)
                })?;
            }
        }
        Ok(Exit::Done)
    }
}

fn role() -> impl TypedValueParser<Value = proto::Role> {
    PossibleValuesParser::new(ROLES).try_map(|name| {
        proto::Role::from_str_name(&format!("ROLE_{}", name.to_uppercase().replace('-', "_"))).ok_or("not a role")
    })
}

fn pairs(member: Option<&proto::Member>) -> Vec<(&'static str, String)> {
    let it = member.cloned().unwrap_or_default();
    let role = render::name_of(it.role().as_str_name());
    vec![("Organization", it.organization_id), ("User", it.user_id), ("Role", role), ("State", render::suspended(it.suspended))]
}
