//! Organizations, members, mail services and rights.

use std::sync::Arc;

use latchkey::store::{Store, StoreError};
use latchkey_core::model::directory::{MailService, Member, Organization, Right, Role, Standing};

use crate::{
    stores::rules,
    world::{ALL, alice, at, mail_service, organization, organization_id, read, service_id, user, write},
};

rules!(
    what_was_put_is_read_and_put_again_keeps_its_first_create_time,
    lists_are_in_the_order_of_their_keys_and_in_pages,
    what_depends_on_another_needs_it,
    what_belongs_to_another_goes_with_it,
    a_standing_is_ones_role_and_right_in_that_place,
    all_rights_of_a_person_go_in_their_organization_alone,
);

fn member(organization: &str, name: &str, role: Role) -> Member {
    Member { organization_id: organization_id(organization), user: user(name), role, suspended: false }
}

fn right(service: &str, name: &str) -> Right {
    Right { mail_service_id: service_id(service), user: user(name) }
}

async fn what_was_put_is_read_and_put_again_keeps_its_first_create_time(store: Arc<dyn Store>) {
    let odd = "O'Brien & \"Söhne\" 🐦; --".to_owned();
    let first = Organization { display_name: odd.clone(), ..organization("acme") };
    let service = MailService { display_name: odd, ..mail_service("mail", "acme") };
    let mut tx = write(&store).await;
    assert_eq!(tx.organization(&organization_id("acme")).await.expect("read"), None);
    tx.put_organization(&first).await.expect("put");
    tx.put_mail_service(&service).await.expect("put");
    tx.put_member(&member("acme", "u1", Role::Collaborator)).await.expect("put");
    assert_eq!(tx.organization(&organization_id("acme")).await.expect("read"), Some(first.clone()));
    assert_eq!(tx.mail_service(&service_id("mail")).await.expect("read"), Some(service.clone()));
    tx.put_organization(&Organization { display_name: String::new(), create_time: at(9), ..first.clone() }).await.expect("put");
    tx.set_generic_login(&service_id("mail"), false).await.expect("switched");
    tx.put_mail_service(&MailService { generic_login: true, create_time: at(9), ..service.clone() }).await.expect("put");
    let promoted = Member { suspended: true, ..member("acme", "u1", Role::LegalRepresentative) };
    tx.put_member(&promoted).await.expect("put");
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    let renamed = Organization { display_name: String::new(), ..first };
    assert_eq!(tx.organization(&organization_id("acme")).await.expect("read"), Some(renamed));
    assert_eq!(tx.mail_service(&service_id("mail")).await.expect("read"), Some(MailService { generic_login: false, ..service }));
    assert_eq!(tx.member(&organization_id("acme"), &user("u1")).await.expect("read"), Some(promoted));
    assert_eq!(tx.member(&organization_id("acme"), &user("u2")).await.expect("read"), None);
}

async fn lists_are_in_the_order_of_their_keys_and_in_pages(store: Arc<dyn Store>) {
    // By their bytes, whatever the database's language.
    let keys = ["A-b", "AB", "Z", "a", "a.b", "ab"];
    let mut tx = write(&store).await;
    for key in ["ab", "Z", "a", "A-b", "AB", "a.b"] {
        tx.put_organization(&organization(key)).await.expect("put");
        tx.put_mail_service(&mail_service(key, "ab")).await.expect("put");
        tx.put_member(&member("ab", key, Role::Collaborator)).await.expect("put");
        tx.put_right(&right("ab", key)).await.expect("put");
    }
    tx.put_mail_service(&mail_service("other", "Z")).await.expect("put");
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    let ab = organization_id("ab");
    let organizations = tx.organizations(None, ALL).await.expect("listed");
    assert_eq!(organizations.iter().map(|found| found.organization_id.as_str()).collect::<Vec<_>>(), keys);
    for start in 0..keys.len() {
        let (after, page) = (keys[start], &keys[start + 1..keys.len().min(start + 3)]);
        let organizations = tx.organizations(Some(&organization_id(after)), 2).await.expect("listed");
        assert_eq!(organizations.iter().map(|found| found.organization_id.as_str()).collect::<Vec<_>>(), page);
        let services = tx.mail_services(&ab, Some(&service_id(after)), 2).await.expect("listed");
        assert_eq!(services.iter().map(|found| found.mail_service_id.as_str()).collect::<Vec<_>>(), page);
        let members = tx.members(&ab, Some(&user(after)), 2).await.expect("listed");
        assert_eq!(members.iter().map(|found| found.user.as_str()).collect::<Vec<_>>(), page);
        let rights = tx.rights(&service_id("ab"), Some(&user(after)), 2).await.expect("listed");
        assert_eq!(rights.iter().map(|found| found.user.as_str()).collect::<Vec<_>>(), page);
    }
}

async fn what_depends_on_another_needs_it(store: Arc<dyn Store>) {
    alice(&store).await;
    let conflict = |outcome| assert!(matches!(outcome, Err(StoreError::Conflict(_))), "{outcome:?}");
    conflict(write(&store).await.put_mail_service(&mail_service("new", "none")).await);
    conflict(write(&store).await.put_member(&member("none", "u1", Role::Collaborator)).await);
    conflict(write(&store).await.put_right(&right("none", "u1")).await);
    conflict(write(&store).await.delete_organization(&organization_id("acme")).await.map(drop));
    assert!(read(&store).await.organization(&organization_id("acme")).await.expect("read").is_some());
}

async fn what_belongs_to_another_goes_with_it(store: Arc<dyn Store>) {
    let mut tx = write(&store).await;
    tx.put_organization(&organization("acme")).await.expect("put");
    tx.put_mail_service(&mail_service("mail", "acme")).await.expect("put");
    tx.put_member(&member("acme", "u1", Role::Administrator)).await.expect("put");
    tx.put_right(&right("mail", "u1")).await.expect("put");
    tx.put_right(&right("mail", "u1")).await.expect("put again is no error");
    assert!(tx.right(&service_id("mail"), &user("u1")).await.expect("read").is_some());
    assert!(tx.delete_mail_service(&service_id("mail")).await.expect("deleted"));
    assert_eq!(tx.rights(&service_id("mail"), None, ALL).await.expect("listed"), []);
    assert!(tx.delete_organization(&organization_id("acme")).await.expect("deleted"));
    assert_eq!(tx.members(&organization_id("acme"), None, ALL).await.expect("listed"), []);
    assert!(!tx.delete_organization(&organization_id("acme")).await.expect("asked"));
    assert!(!tx.delete_mail_service(&service_id("mail")).await.expect("asked"));
    assert!(!tx.delete_member(&organization_id("acme"), &user("u1")).await.expect("asked"));
    assert!(!tx.delete_right(&right("mail", "u1")).await.expect("asked"));
    tx.commit().await.expect("committed");
}

async fn a_standing_is_ones_role_and_right_in_that_place(store: Arc<dyn Store>) {
    alice(&store).await;
    let mut tx = write(&store).await;
    tx.put_mail_service(&mail_service("second", "acme")).await.expect("put");
    tx.put_member(&Member { suspended: true, ..member("acme", "u1", Role::Administrator) }).await.expect("put");
    tx.put_right(&right("mail", "u1")).await.expect("put");
    tx.put_right(&right("mail", "guest")).await.expect("put");
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    let mut standing = async |name, organization, service: Option<&str>| {
        let service = service.map(service_id);
        tx.standing(&user(name), &organization_id(organization), service.as_ref()).await.expect("read")
    };
    let suspended = Standing { role: Some(Role::Administrator), suspended: true, right: false };
    assert_eq!(standing("u1", "acme", Some("mail")).await, Standing { right: true, ..suspended });
    assert_eq!(standing("u1", "acme", Some("second")).await, suspended);
    assert_eq!(standing("u1", "acme", None).await, suspended);
    assert_eq!(standing("guest", "acme", Some("mail")).await, Standing { right: true, ..Standing::default() });
    assert_eq!(standing("u1", "rival", None).await, Standing::default());
}

async fn all_rights_of_a_person_go_in_their_organization_alone(store: Arc<dyn Store>) {
    alice(&store).await;
    let mut tx = write(&store).await;
    tx.put_organization(&organization("rival")).await.expect("put");
    tx.put_mail_service(&mail_service("second", "acme")).await.expect("put");
    tx.put_mail_service(&mail_service("foreign", "rival")).await.expect("put");
    for service in ["mail", "second", "foreign"] {
        tx.put_right(&right(service, "u1")).await.expect("put");
    }
    tx.put_right(&right("mail", "u2")).await.expect("put");
    assert_eq!(tx.delete_rights(&organization_id("acme"), &user("u1")).await.expect("deleted"), 2);
    tx.commit().await.expect("committed");
    let mut tx = read(&store).await;
    assert_eq!(tx.rights(&service_id("mail"), None, ALL).await.expect("listed"), [right("mail", "u2")]);
    assert_eq!(tx.rights(&service_id("second"), None, ALL).await.expect("listed"), []);
    assert_eq!(tx.rights(&service_id("foreign"), None, ALL).await.expect("listed"), [right("foreign", "u1")]);
}
