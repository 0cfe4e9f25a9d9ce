//! The directory.

use latchkey::proto::{self, Role};
use tonic::Code;

use crate::{
    server::StoreKind,
    world::{ADDRESS, ORGANIZATION, SERVICE, World, acting_as, on_each_store, reason_of},
};

on_each_store!(
    what_is_put_is_listed_and_can_be_deleted,
    what_holds_others_is_not_deleted,
    an_administrator_provisions_their_own_organization_only,
);

async fn what_is_put_is_listed_and_can_be_deleted(store: StoreKind) {
    let world = World::new(store).await;
    let mut directory = world.server.directory().await;
    for user in ["ada", "leo", "maya"] {
        world.put_member(user, Role::Collaborator).await;
    }
    let list = |page_token| proto::ListMembersRequest { organization_id: ORGANIZATION.into(), page_size: 2, page_token };
    let page = directory.list_members(list(String::new())).await.expect("a page").into_inner();
    assert_eq!(page.members.iter().map(|member| member.user_id.as_str()).collect::<Vec<_>>(), ["ada", "leo"]);
    let page = directory.list_members(list(page.next_page_token)).await.expect("a page").into_inner();
    assert_eq!((page.members[0].user_id.as_str(), page.next_page_token.as_str()), ("maya", ""));

    let mailbox = proto::GetMailboxRequest { address: ADDRESS.to_uppercase() };
    let got = directory.get_mailbox(mailbox.clone()).await.expect("it is there").into_inner().mailbox.expect("a mailbox");
    assert_eq!((got.address.as_str(), got.mail_service_id.as_str()), (ADDRESS, SERVICE));
    let delete = proto::DeleteMailboxRequest { address: ADDRESS.into(), max_wait: None };
    directory.delete_mailbox(delete.clone()).await.expect("deleted");
    for status in
        [directory.get_mailbox(mailbox).await.expect_err("gone"), directory.delete_mailbox(delete).await.expect_err("gone")]
    {
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::NotFound, "MAILBOX_NOT_FOUND"));
    }
    let again = world.put_mailbox(ADDRESS, "").await.mailbox.expect("a mailbox");
    assert_ne!(again.mailbox_id, got.mailbox_id, "made again it is another mailbox");
}

async fn what_holds_others_is_not_deleted(store: StoreKind) {
    let world = World::new(store).await;
    let mut directory = world.server.directory().await;
    let organization = proto::DeleteOrganizationRequest { organization_id: ORGANIZATION.into() };
    let service = proto::DeleteMailServiceRequest { mail_service_id: SERVICE.into() };
    for status in [
        directory.delete_organization(organization.clone()).await.expect_err("it has a mail service"),
        directory.delete_mail_service(service.clone()).await.expect_err("it has a mailbox"),
    ] {
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::FailedPrecondition, "NOT_EMPTY"));
    }
    directory.delete_mailbox(proto::DeleteMailboxRequest { address: ADDRESS.into(), max_wait: None }).await.expect("deleted");
    directory.delete_mail_service(service).await.expect("empty now");
    directory.delete_organization(organization).await.expect("empty now");
}

async fn an_administrator_provisions_their_own_organization_only(store: StoreKind) {
    let world = World::new(store).await;
    world.put_member("ada", Role::Administrator).await;
    world.put_member("cole", Role::Collaborator).await;
    let mut directory = world.server.directory().await;
    let mailbox = |service: &str| proto::PutMailboxRequest {
        address: "new@example.com".into(),
        mail_service_id: service.into(),
        ..Default::default()
    };
    directory.put_mailbox(acting_as("ada", mailbox(SERVICE))).await.expect("hers");
    for (actor, service) in [("cole", SERVICE), ("ada", "not-there")] {
        let status = directory.put_mailbox(acting_as(actor, mailbox(service))).await.expect_err("not theirs");
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::PermissionDenied, "ACTOR_NOT_PERMITTED"));
    }
    let organization = proto::PutOrganizationRequest { organization_id: "another".into(), ..Default::default() };
    let status = directory.put_organization(acting_as("ada", organization)).await.expect_err("not hers");
    assert_eq!(status.code(), Code::PermissionDenied);
}
