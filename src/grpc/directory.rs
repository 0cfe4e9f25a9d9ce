//! The service `Directory`.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller::provisioner,
    convert,
    page::{self, List},
    status::{draining, in_a_stream, invalid, refused},
    streaming::{self, answered_by},
};
use crate::{
    lifecycle::Drain,
    manage::{
        Refusal,
        directory::{Directory, ImportLine, Imported, NewMember},
    },
    passwords::imported,
    proto::{self, directory_server},
};
use latchkey_core::model::{
    address::Address,
    caller::Requester,
    directory::{Right, parse_display_name},
    id::{MailServiceId, OrganizationId, UserId},
};

/// Answers of an import that wait to be sent.
const ANSWERS: usize = 4;

/// See the proto.
#[derive(Clone, Debug)]
pub struct DirectoryService {
    pub directory: Arc<Directory>,
    pub drain: Drain,
}

type Answer<T> = Result<Response<T>, Status>;
type ImportAnswers = Pin<Box<dyn Stream<Item = Result<proto::ImportResponse, Status>> + Send>>;

#[tonic::async_trait]
impl directory_server::Directory for DirectoryService {
    async fn put_organization(&self, request: Request<proto::PutOrganizationRequest>) -> Answer<proto::PutOrganizationResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let id = organization_id(&request.organization_id)?;
            let display_name = parse_display_name("display_name", &request.display_name)?;
            let organization = self.directory.put_organization(&who, &id, &display_name).await?;
            Ok(proto::PutOrganizationResponse { organization: Some(convert::organization(organization)) })
        };
        answer(run.await)
    }

    async fn get_organization(&self, request: Request<proto::GetOrganizationRequest>) -> Answer<proto::GetOrganizationResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let organization = self.directory.organization(&who, &organization_id(&request.organization_id)?).await?;
            Ok(proto::GetOrganizationResponse { organization: Some(convert::organization(organization)) })
        };
        answer(run.await)
    }

    async fn list_organizations(
        &self,
        request: Request<proto::ListOrganizationsRequest>,
    ) -> Answer<proto::ListOrganizationsResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let size = page::size(request.page_size)?;
            let pages = List::of("ListOrganizations", "");
            let after = pages.after(&request.page_token)?.map(OrganizationId::from_store);
            let mut found = self.directory.organizations(&who, after.as_ref(), size + 1).await?;
            let next_page_token = pages.cut(&mut found, size, |row| row.organization_id.to_string());
            let organizations = found.into_iter().map(convert::organization).collect();
            Ok(proto::ListOrganizationsResponse { organizations, next_page_token })
        };
        answer(run.await)
    }

    async fn delete_organization(
        &self,
        request: Request<proto::DeleteOrganizationRequest>,
    ) -> Answer<proto::DeleteOrganizationResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            self.directory.delete_organization(&who, &organization_id(&request.organization_id)?).await?;
            Ok(proto::DeleteOrganizationResponse {})
        };
        answer(run.await)
    }

    async fn put_member(&self, request: Request<proto::PutMemberRequest>) -> Answer<proto::PutMemberResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let member = NewMember {
                organization_id: organization_id(&request.organization_id)?,
                user: user(&request.user_id)?,
                role: convert::role(request.role)?,
                suspended: request.suspended,
            };
            let wait = convert::wait(request.max_wait)?;
            let (member, revocation) = self.directory.put_member(&who, &member, wait).await?;
            Ok(proto::PutMemberResponse {
                member: Some(convert::member(&member)),
                revocation: Some(convert::revocation(&revocation)),
            })
        };
        answer(run.await)
    }

    async fn get_member(&self, request: Request<proto::GetMemberRequest>) -> Answer<proto::GetMemberResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let organization = organization_id(&request.organization_id)?;
            let member = self.directory.member(&who, &organization, &user(&request.user_id)?).await?;
            Ok(proto::GetMemberResponse { member: Some(convert::member(&member)) })
        };
        answer(run.await)
    }

    async fn list_members(&self, request: Request<proto::ListMembersRequest>) -> Answer<proto::ListMembersResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let organization = organization_id(&request.organization_id)?;
            let size = page::size(request.page_size)?;
            let pages = List::of("ListMembers", organization.as_str());
            let after = pages.after(&request.page_token)?.map(UserId::from_store);
            let mut found = self.directory.members(&who, &organization, after.as_ref(), size + 1).await?;
            let next_page_token = pages.cut(&mut found, size, |row| row.user.to_string());
            Ok(proto::ListMembersResponse { members: found.iter().map(convert::member).collect(), next_page_token })
        };
        answer(run.await)
    }

    async fn delete_member(&self, request: Request<proto::DeleteMemberRequest>) -> Answer<proto::DeleteMemberResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let organization = organization_id(&request.organization_id)?;
            let wait = convert::wait(request.max_wait)?;
            let revocation = self.directory.delete_member(&who, &organization, &user(&request.user_id)?, wait).await?;
            Ok(proto::DeleteMemberResponse { revocation: Some(convert::revocation(&revocation)) })
        };
        answer(run.await)
    }

    async fn put_mail_service(&self, request: Request<proto::PutMailServiceRequest>) -> Answer<proto::PutMailServiceResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let id = mail_service_id(&request.mail_service_id)?;
            let organization = organization_id(&request.organization_id)?;
            let display_name = parse_display_name("display_name", &request.display_name)?;
            let service = self.directory.put_mail_service(&who, &id, &organization, &display_name).await?;
            Ok(proto::PutMailServiceResponse { mail_service: Some(convert::mail_service(service)) })
        };
        answer(run.await)
    }

    async fn get_mail_service(&self, request: Request<proto::GetMailServiceRequest>) -> Answer<proto::GetMailServiceResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let service = self.directory.mail_service(&who, &mail_service_id(&request.mail_service_id)?).await?;
            Ok(proto::GetMailServiceResponse { mail_service: Some(convert::mail_service(service)) })
        };
        answer(run.await)
    }

    async fn list_mail_services(
        &self,
        request: Request<proto::ListMailServicesRequest>,
    ) -> Answer<proto::ListMailServicesResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let organization = organization_id(&request.organization_id)?;
            let size = page::size(request.page_size)?;
            let pages = List::of("ListMailServices", organization.as_str());
            let after = pages.after(&request.page_token)?.map(MailServiceId::from_store);
            let mut found = self.directory.mail_services(&who, &organization, after.as_ref(), size + 1).await?;
            let next_page_token = pages.cut(&mut found, size, |row| row.mail_service_id.to_string());
            let mail_services = found.into_iter().map(convert::mail_service).collect();
            Ok(proto::ListMailServicesResponse { mail_services, next_page_token })
        };
        answer(run.await)
    }

    async fn delete_mail_service(
        &self,
        request: Request<proto::DeleteMailServiceRequest>,
    ) -> Answer<proto::DeleteMailServiceResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            self.directory.delete_mail_service(&who, &mail_service_id(&request.mail_service_id)?).await?;
            Ok(proto::DeleteMailServiceResponse {})
        };
        answer(run.await)
    }

    async fn put_right(&self, request: Request<proto::PutRightRequest>) -> Answer<proto::PutRightResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let right = right(&request.mail_service_id, &request.user_id)?;
            self.directory.put_right(&who, &right).await?;
            Ok(proto::PutRightResponse { right: Some(convert::right(&right)) })
        };
        answer(run.await)
    }

    async fn get_right(&self, request: Request<proto::GetRightRequest>) -> Answer<proto::GetRightResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let right = self.directory.right(&who, &right(&request.mail_service_id, &request.user_id)?).await?;
            Ok(proto::GetRightResponse { right: Some(convert::right(&right)) })
        };
        answer(run.await)
    }

    async fn list_rights(&self, request: Request<proto::ListRightsRequest>) -> Answer<proto::ListRightsResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let service = mail_service_id(&request.mail_service_id)?;
            let size = page::size(request.page_size)?;
            let pages = List::of("ListRights", service.as_str());
            let after = pages.after(&request.page_token)?.map(UserId::from_store);
            let mut found = self.directory.rights(&who, &service, after.as_ref(), size + 1).await?;
            let next_page_token = pages.cut(&mut found, size, |row| row.user.to_string());
            Ok(proto::ListRightsResponse { rights: found.iter().map(convert::right).collect(), next_page_token })
        };
        answer(run.await)
    }

    async fn delete_right(&self, request: Request<proto::DeleteRightRequest>) -> Answer<proto::DeleteRightResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let wait = convert::wait(request.max_wait)?;
            let right = right(&request.mail_service_id, &request.user_id)?;
            let revocation = self.directory.delete_right(&who, &right, wait).await?;
            Ok(proto::DeleteRightResponse { revocation: Some(convert::revocation(&revocation)) })
        };
        answer(run.await)
    }

    async fn put_mailbox(&self, request: Request<proto::PutMailboxRequest>) -> Answer<proto::PutMailboxResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let address = convert::address(&request.address)?;
            let service = mail_service_id(&request.mail_service_id)?;
            let generic = match request.generic_password_hash.as_str() {
                "" => None,
                hash => Some(imported::parse("generic_password_hash", hash)?),
            };
            let wait = convert::wait(request.max_wait)?;
            let (mailbox, revocation) = self.directory.put_mailbox(&who, &address, &service, generic.as_ref(), wait).await?;
            Ok(proto::PutMailboxResponse {
                mailbox: Some(convert::mailbox(&mailbox)),
                revocation: Some(convert::revocation(&revocation)),
            })
        };
        answer(run.await)
    }

    async fn get_mailbox(&self, request: Request<proto::GetMailboxRequest>) -> Answer<proto::GetMailboxResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let mailbox = self.directory.mailbox(&who, &convert::address(&request.address)?).await?;
            Ok(proto::GetMailboxResponse { mailbox: Some(convert::mailbox(&mailbox)) })
        };
        answer(run.await)
    }

    async fn list_mailboxes(&self, request: Request<proto::ListMailboxesRequest>) -> Answer<proto::ListMailboxesResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let service = mail_service_id(&request.mail_service_id)?;
            let size = page::size(request.page_size)?;
            let pages = List::of("ListMailboxes", service.as_str());
            let after = pages.after(&request.page_token)?.map(Address::from_store);
            let mut found = self.directory.mailboxes(&who, &service, after.as_ref(), size + 1).await?;
            let next_page_token = pages.cut(&mut found, size, |row| row.address.to_string());
            Ok(proto::ListMailboxesResponse { mailboxes: found.iter().map(convert::mailbox).collect(), next_page_token })
        };
        answer(run.await)
    }

    async fn suspend_mailbox(&self, request: Request<proto::SuspendMailboxRequest>) -> Answer<proto::SuspendMailboxResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let address = convert::address(&request.address)?;
            let wait = convert::wait(request.max_wait)?;
            let (mailbox, revocation) = self.directory.suspend_mailbox(&who, &address, wait).await?;
            Ok(proto::SuspendMailboxResponse {
                mailbox: Some(convert::mailbox(&mailbox)),
                revocation: Some(convert::revocation(&revocation)),
            })
        };
        answer(run.await)
    }

    async fn resume_mailbox(&self, request: Request<proto::ResumeMailboxRequest>) -> Answer<proto::ResumeMailboxResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let address = convert::address(&request.address)?;
            let mailbox = self.directory.resume_mailbox(&who, &address).await?;
            Ok(proto::ResumeMailboxResponse { mailbox: Some(convert::mailbox(&mailbox)) })
        };
        answer(run.await)
    }

    async fn delete_mailbox(&self, request: Request<proto::DeleteMailboxRequest>) -> Answer<proto::DeleteMailboxResponse> {
        let (who, request) = asked(request)?;
        let run = async {
            let wait = convert::wait(request.max_wait)?;
            let revocation = self.directory.delete_mailbox(&who, &convert::address(&request.address)?, wait).await?;
            Ok(proto::DeleteMailboxResponse { revocation: Some(convert::revocation(&revocation)) })
        };
        answer(run.await)
    }

    type ImportStream = ImportAnswers;

    async fn import(&self, request: Request<Streaming<proto::ImportRequest>>) -> Answer<ImportAnswers> {
        let (who, batches) = asked(request)?;
        let (directory, drain) = (Arc::clone(&self.directory), self.drain.clone());
        Ok(Response::new(Box::pin(answered_by(ANSWERS, |answers| import_batches(directory, drain, who, batches, answers)))))
    }
}

/// Puts batch after batch in, until the stream ends, its reader is gone, or the server drains. A
/// batch under way is finished.
async fn import_batches(
    directory: Arc<Directory>,
    drain: Drain,
    who: Requester,
    mut batches: Streaming<proto::ImportRequest>,
    answers: streaming::Answers<proto::ImportResponse>,
) {
    loop {
        let batch = tokio::select! {
            biased;
            () = drain.started() => {
                let _ = answers.send(Err(draining())).await;
                return;
            }
            batch = batches.next() => batch,
        };
        let batch = match batch {
            None => return,
            Some(Ok(batch)) => batch,
            Some(Err(unreadable)) => {
                let _ = answers.send(Err(unreadable)).await;
                return;
            }
        };
        let lines: Vec<_> = batch.lines.into_iter().map(line).collect();
        let outcome = directory.import(&who, &lines, batch.validate_only).await;
        let goes_on = outcome.is_ok();
        let sent = answers.send(outcome.map(imported_batch).map_err(|refusal| refused(&refusal))).await;
        if !goes_on || sent.is_err() {
            return;
        }
    }
}

fn line(line: proto::import_request::Line) -> ImportLine {
    let proto::import_request::Line { number, address, mail_service_id, generic_password_hash } = line;
    ImportLine { number, address, mail_service_id, generic_password_hash }
}

fn imported_batch(imported: Imported) -> proto::ImportResponse {
    let refusals = imported.refused.into_iter().map(|refused| proto::import_response::Refusal {
        number: refused.number,
        error: Some(in_a_stream(&invalid(&refused.why))),
    });
    proto::ImportResponse {
        last_line: imported.last_line,
        created: u32::try_from(imported.created).unwrap_or(u32::MAX),
        existing: u32::try_from(imported.existing).unwrap_or(u32::MAX),
        refusals: refusals.collect(),
    }
}

fn organization_id(text: &str) -> Result<OrganizationId, Refusal> {
    Ok(OrganizationId::parse("organization_id", text)?)
}

fn mail_service_id(text: &str) -> Result<MailServiceId, Refusal> {
    Ok(MailServiceId::parse("mail_service_id", text)?)
}

fn user(text: &str) -> Result<UserId, Refusal> {
    Ok(UserId::parse("user_id", text)?)
}

fn right(service: &str, person: &str) -> Result<Right, Refusal> {
    Ok(Right { mail_service_id: mail_service_id(service)?, user: user(person)? })
}

fn asked<T>(request: Request<T>) -> Result<(Requester, T), Status> {
    let who = provisioner(&request)?;
    Ok((who, request.into_inner()))
}

fn answer<T>(outcome: Result<T, Refusal>) -> Answer<T> {
    outcome.map(Response::new).map_err(|refusal| refused(&refusal))
}
