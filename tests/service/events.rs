//! ListEvents: by mailbox, mail service and organization, also of what is deleted, within a time
//! range.

use latchkey::proto::{self, Role, event::Type, list_events_request::Scope};
use tonic::{Code, Status};

use crate::{
    server::StoreKind,
    world::{ADDRESS, ORGANIZATION, SERVICE, World, acting_as, attempt, field_of, on_each_store, reason_of},
};

on_each_store!(
    events_are_listed_by_every_scope,
    events_are_shown_to_who_may_manage_what_they_are_of,
    a_page_token_is_of_one_list_and_its_times,
    logins_carry_the_devices_name,
    wrong_guesses_are_counted_by_address_and_within_bounds,
    the_log_names_each_change_by_ids_alone,
);

fn list(scope: Scope) -> proto::ListEventsRequest {
    proto::ListEventsRequest { scope: Some(scope), page_size: 100, ..Default::default() }
}

async fn listed(world: &World, request: proto::ListEventsRequest) -> Vec<proto::Event> {
    world.devices.clone().list_events(request).await.expect("events").into_inner().events
}

fn types(events: &[proto::Event]) -> Vec<Type> {
    events.iter().map(proto::Event::r#type).collect()
}

async fn mailbox_id(world: &World) -> String {
    let request = proto::GetMailboxRequest { address: ADDRESS.into() };
    let got = world.server.directory().await.get_mailbox(request).await.expect("it is there").into_inner();
    got.mailbox.expect("a mailbox").mailbox_id
}

async fn delete_mailbox(world: &World) {
    let request = proto::DeleteMailboxRequest { address: ADDRESS.into(), max_wait: None };
    world.server.directory().await.delete_mailbox(request).await.expect("deleted");
}

async fn events_are_listed_by_every_scope(store: StoreKind) {
    let mut world = World::new(store).await;
    world.put_member("ada", Role::Administrator).await;
    world.add("Phone").await;
    let id = mailbox_id(&world).await;
    let of_mailbox = [Type::DeviceCreated, Type::MailboxCreated];
    assert_eq!(types(&listed(&world, list(Scope::Address(ADDRESS.into()))).await), of_mailbox);
    delete_mailbox(&world).await;
    let off = proto::SetGenericLoginRequest {
        scope: Some(proto::set_generic_login_request::Scope::MailServiceId(SERVICE.into())),
        ..Default::default()
    };
    world.devices.set_generic_login(off).await.expect("off");

    let deleted = [Type::MailboxDeleted, Type::DeviceCreated, Type::MailboxCreated];
    assert_eq!(types(&listed(&world, list(Scope::MailboxId(id))).await), deleted, "its trail stays");
    let of_service = listed(&world, list(Scope::MailServiceId(SERVICE.into()))).await;
    assert_eq!(types(&of_service)[0], Type::GenericLoginSwitchedOff);
    assert_eq!(types(&of_service)[1..], deleted);
    let of_organization = listed(&world, list(Scope::OrganizationId(ORGANIZATION.into()))).await;
    assert!(types(&of_organization).contains(&Type::MemberAdded));
    assert_eq!(of_organization.len(), of_service.len() + 1);

    // Everything from the deletion on, and everything before it.
    let time = of_service[1].time;
    let since = proto::ListEventsRequest { start_time: time, ..list(Scope::MailServiceId(SERVICE.into())) };
    let until = proto::ListEventsRequest { end_time: time, ..list(Scope::MailServiceId(SERVICE.into())) };
    assert_eq!(types(&listed(&world, since).await), types(&of_service[..2]));
    assert_eq!(types(&listed(&world, until).await), types(&of_service[2..]));
}

async fn events_are_shown_to_who_may_manage_what_they_are_of(store: StoreKind) {
    let world = World::new(store).await;
    for (user, role) in [("ada", Role::Administrator), ("maya", Role::Collaborator), ("cole", Role::Collaborator)] {
        world.put_member(user, role).await;
    }
    let right = proto::PutRightRequest { mail_service_id: SERVICE.into(), user_id: "maya".into() };
    world.server.directory().await.put_right(right).await.expect("granted");
    let id = mailbox_id(&world).await;
    let ask = async |actor: &str, scope: &Scope| {
        let answer = world.devices.clone().list_events(acting_as(actor, list(scope.clone()))).await;
        answer.map_or_else(|status: Status| reason_of(&status), |_| "OK".to_owned())
    };
    let (service, organization) = (Scope::MailServiceId(SERVICE.into()), Scope::OrganizationId(ORGANIZATION.into()));
    let (address, mailbox) = (Scope::Address(ADDRESS.into()), Scope::MailboxId(id));
    let refused = "ACTOR_NOT_PERMITTED";
    for (scope, ada, maya) in
        [(&address, "OK", "OK"), (&mailbox, "OK", "OK"), (&service, "OK", "OK"), (&organization, "OK", refused)]
    {
        assert_eq!([ask("ada", scope).await, ask("maya", scope).await], [ada, maya], "{scope:?}");
        assert_eq!([ask("cole", scope).await, ask("stranger", scope).await], [refused; 2], "{scope:?}");
    }
    delete_mailbox(&world).await;
    assert_eq!([ask("maya", &mailbox).await, ask("cole", &mailbox).await], ["OK", refused], "by the service it was on");
    let never = Scope::MailboxId("0192f0c0-0000-7000-8000-000000000000".into());
    assert_eq!(ask("ada", &never).await, refused, "nothing tells whether it was there");
    let status = world.devices.clone().list_events(list(never)).await.expect_err("no such mailbox");
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::NotFound, "MAILBOX_NOT_FOUND"));
}

async fn a_page_token_is_of_one_list_and_its_times(store: StoreKind) {
    let mut world = World::new(store).await;
    for name in ["A", "B", "C"] {
        world.add(name).await;
    }
    let service = || proto::ListEventsRequest { page_size: 2, ..list(Scope::MailServiceId(SERVICE.into())) };
    let first = world.devices.list_events(service()).await.expect("a page").into_inner();
    let page_token = first.next_page_token;
    let second = proto::ListEventsRequest { page_token: page_token.clone(), ..service() };
    let second = world.devices.list_events(second).await.expect("a page").into_inner();
    assert_eq!((first.events.len(), second.events.len(), second.next_page_token.as_str()), (2, 2, ""));
    let time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    for other in [
        proto::ListEventsRequest { start_time: time, ..service() },
        proto::ListEventsRequest { scope: Some(Scope::OrganizationId(ORGANIZATION.into())), ..service() },
    ] {
        let request = proto::ListEventsRequest { page_token: page_token.clone(), ..other };
        let status = world.devices.list_events(request).await.expect_err("another list's");
        assert_eq!((reason_of(&status).as_str(), field_of(&status).as_str()), ("INVALID_FIELD", "page_token"));
    }
    let never = proto::ListEventsRequest { start_time: time, end_time: time, ..service() };
    assert_eq!(field_of(&world.devices.list_events(never).await.expect_err("empty")), "end_time");
    let nothing = proto::ListEventsRequest { scope: None, ..service() };
    assert_eq!(field_of(&world.devices.list_events(nothing).await.expect_err("whose?")), "scope");
}

/// The logins of the mailbox, asked for until they are so many: they are written behind.
async fn logins(world: &World, enough: impl Fn(&[proto::Event]) -> bool) -> Vec<proto::Event> {
    loop {
        let mut events = listed(world, list(Scope::Address(ADDRESS.into()))).await;
        events.retain(|event| event.r#type() == Type::Login);
        if enough(&events) {
            return events;
        }
        tokio::task::yield_now().await;
    }
}

async fn logins_carry_the_devices_name(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, password) = world.add("Phone").await;
    world.login(&password).await;
    let events = logins(&world, |events| !events.is_empty()).await;
    assert_eq!((events[0].device_id.as_str(), events[0].device_display_name.as_str()), (phone.device_id.as_str(), "Phone"));
}

async fn wrong_guesses_are_counted_by_address_and_within_bounds(store: StoreKind) {
    let mut world = World::with(store, &["--denial-delay", "1ms"]).await;
    let guess = async |world: &mut World, client_ip: &str| {
        let request = proto::AuthenticateRequest { client_ip: client_ip.into(), ..attempt(ADDRESS, "wrong") };
        // A throttled one is counted, too.
        let _ = world.logins.authenticate(request).await;
    };
    for _ in 0..3 {
        guess(&mut world, "192.0.2.1").await;
    }
    guess(&mut world, "192.0.2.2").await;
    let count = |events: &[proto::Event]| events.iter().filter_map(|it| it.logins.as_ref()).map(|it| it.count).sum::<u64>();
    let events = logins(&world, |events| count(events) == 4).await;
    let mut addresses: Vec<_> = events.iter().filter_map(|it| it.logins.as_ref()).map(|it| it.client_ip.clone()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2"]);

    // From everywhere: so many addresses are kept apart, and the others are counted as one.
    for host in 0..40 {
        guess(&mut world, &format!("198.51.100.{host}")).await;
    }
    let events = logins(&world, |events| count(events) == 44).await;
    let (others, apart): (Vec<_>, Vec<_>) =
        events.iter().filter_map(|it| it.logins.as_ref()).partition(|it| it.from_several_addresses);
    let mut apart: Vec<_> = apart.into_iter().map(|it| it.client_ip.clone()).collect();
    apart.sort();
    apart.dedup();
    assert_eq!(apart.len(), 16, "{apart:?}");
    assert_eq!(others.iter().map(|it| it.count).sum::<u64>(), 26);
}

async fn the_log_names_each_change_by_ids_alone(store: StoreKind) {
    let mut world = World::new(store).await;
    let (phone, password) = world.add("Phone of somebody").await;
    let revocation = world.disconnect(&phone).await;
    delete_mailbox(&world).await;
    // It is written by another thread than ours.
    while !world.server.log().contains("MailboxDeleted") {
        tokio::task::yield_now().await;
    }
    let log = world.server.log();
    let line = log.lines().find(|line| line.contains("DeviceDisconnected")).expect("it is in the log");
    for id in [&phone.device_id, &format!("{}", revocation.revision), SERVICE, ORGANIZATION] {
        assert!(line.contains(id), "{id}: {line}");
    }
    for kind in ["OrganizationPut", "MailServicePut", "MailboxCreated", "DeviceCreated"] {
        assert!(log.contains(kind), "{kind}: {log}");
    }
    assert!(![ADDRESS, &password, "Phone of somebody"].iter().any(|private| log.contains(private)), "{log}");
}
