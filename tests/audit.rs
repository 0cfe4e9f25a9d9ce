//! The audit trail of what concerns no mailbox: members, roles, rights and switches of a mail
//! service.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]

#[path = "../benches/common/mod.rs"]
mod common;

use common::{address, mailbox, service, who};
use latchkey::{
    manage::{devices::GenericPlace, directory::NewMember},
    passwords::{hash::HashCost, pepper::Pepper},
    replication::confirmation::Wait,
    serve::replica::Replica,
    store::Mode,
};
use latchkey_core::model::{
    directory::{Right, Role},
    event::{EventKind, EventScope, TimeRange},
    id::{OrganizationId, UserId},
};

const CHEAP: HashCost = HashCost { memory_kib: 64, passes: 1, lanes: 1 };

async fn kinds(replica: &Replica, scope: EventScope) -> Vec<(EventKind, Option<String>)> {
    let mut tx = replica.store.begin("test", Mode::Read).await.expect("a transaction");
    let events = tx.events(&scope, TimeRange::default(), None, None, 100).await.expect("read");
    let mut found: Vec<_> = events.into_iter().map(|event| (event.event_id, event.kind, event.user)).collect();
    found.sort_by_key(|(id, _, _)| *id);
    found.into_iter().map(|(_, kind, user)| (kind, user.map(|user| user.to_string()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_rights_suspensions_and_switches_are_in_the_audit_trail() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = common::replica(common::sqlite(folder.path()), &Pepper::random(), CHEAP, common::settings()).await;
    let acme = OrganizationId::parse("organization_id", "acme").expect("good");
    let user = UserId::parse("user", "u1").expect("good");
    let put = async |role, suspended| {
        let member = NewMember { organization_id: acme.clone(), user: user.clone(), role, suspended };
        replica.directory.put_member(&who(), &member, Wait::UntilEffective).await.expect("put");
    };
    put(Role::Collaborator, None).await;
    put(Role::Administrator, Some(false)).await;
    put(Role::Administrator, Some(true)).await;
    put(Role::Administrator, None).await;
    put(Role::Administrator, Some(false)).await;
    let right = Right { mail_service_id: service(), user: user.clone() };
    replica.directory.put_right(&who(), &right).await.expect("granted");
    replica.directory.put_right(&who(), &right).await.expect("nothing new");
    replica.directory.delete_right(&who(), &right, Wait::UntilEffective).await.expect("revoked");
    replica.directory.delete_member(&who(), &acme, &user, Wait::UntilEffective).await.expect("removed");
    let everywhere = GenericPlace::Service(service());
    replica.devices.set_generic_login(&who(), &everywhere, false, None, Wait::UntilEffective).await.expect("switched off");

    let of_user = |kind| (kind, Some("u1".to_owned()));
    let of_service =
        [of_user(EventKind::RightGranted), of_user(EventKind::RightRevoked), (EventKind::GenericLoginSwitchedOff, None)];
    assert_eq!(kinds(&replica, EventScope::Service(service())).await, of_service);
    let of_organization = [
        of_user(EventKind::MemberAdded),
        of_user(EventKind::RoleChanged),
        of_user(EventKind::MemberSuspended),
        of_user(EventKind::MemberResumed),
        of_user(EventKind::RightGranted),
        of_user(EventKind::RightRevoked),
        of_user(EventKind::MemberRemoved),
        (EventKind::GenericLoginSwitchedOff, None),
    ];
    assert_eq!(kinds(&replica, EventScope::Organization(acme)).await, of_organization);

    mailbox(&replica, &address("alice@example.com")).await;
    replica.directory.delete_mailbox(&who(), &address("alice@example.com"), Wait::UntilEffective).await.expect("deleted");
    let last = kinds(&replica, EventScope::Service(service())).await.split_off(of_service.len());
    assert_eq!(last, [(EventKind::MailboxCreated, None), (EventKind::MailboxDeleted, None)]);
}
