//! Importing many mailboxes with their generic passwords.

use latchkey::proto::{self, Reason};

use crate::{
    server::StoreKind,
    world::{SERVICE, World, attempt, on_each_store},
};

on_each_store!(an_import_reports_what_it_refuses_and_can_be_said_again, an_import_ends_that_nobody_was_known,);

const PASSWORD: &str = "testpassword";
/// `doveadm pw -s SSHA512 -p testpassword`, with a fixed salt.
const SSHA512: &str = "{SSHA512}g9R0tbGZWwWqqzzVx+a488uKwxqOkdTr2yTYiQdnMytFjxxsYLlcYVOy5VE7b4qG1P5+/aTjsnHlzOmThHZIsmxhdGNoa2V5";

fn file(world: &World, lines: &str) -> String {
    let path = world.ground.folder.path().join("mailboxes.jsonl");
    std::fs::write(&path, lines).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

async fn an_import_reports_what_it_refuses_and_can_be_said_again(store: StoreKind) {
    let mut world = World::new(store).await;
    let good = |n: u32| {
        format!(r#"{{"address":"user{n}@example.com","mail_service_id":"{SERVICE}","generic_password_hash":"{SSHA512}"}}"#)
    };
    let lines = [
        good(1),
        r#"{"address":"broken","mail_service_id":"mail"}"#.to_owned(),
        good(2),
        r#"{"address":"user3@example.com","mail_service_id":"mail","generic_password_hash":"{MD5}x"}"#.to_owned(),
        r#"{"address":"user4@example.com","mail_service_id":"nowhere"}"#.to_owned(),
        good(5),
        String::new(),
    ];
    let path = file(&world, &lines.join("\n"));
    let (code, out, err) = world.server.latchkey(&["import", &path], "");
    assert_eq!(code, 1, "some were refused: {out}{err}");
    for (line, reason) in [("2", "address"), ("4", "MD5"), ("5", "mail_service_id")] {
        let told = err.lines().any(|told| told.contains(line) && told.contains(reason));
        assert!(told, "line {line} is not reported with {reason}: {err}");
    }
    for n in [1, 2, 5] {
        let login = world.login_with(attempt(&format!("user{n}@example.com"), PASSWORD)).await;
        assert_eq!(login.reason(), Reason::Ok, "user{n}");
    }
    assert_eq!(world.login_with(attempt("user3@example.com", "x")).await.reason(), Reason::UnknownAddress);
    let list = proto::ListEventsRequest {
        scope: Some(proto::list_events_request::Scope::Address("user1@example.com".into())),
        ..Default::default()
    };
    let events = world.devices.list_events(list).await.expect("events").into_inner().events;
    assert!(events.iter().any(|event| event.r#type() == proto::event::Type::MailboxImported && event.caller == "local"));

    let path = file(&world, &[good(1), good(2), good(6)].join("\n"));
    let (code, out, err) = world.server.latchkey(&["import", &path], "");
    assert_eq!(code, 0, "what is there is left alone: {out}{err}");
    assert_eq!(world.login_with(attempt("user6@example.com", PASSWORD)).await.reason(), Reason::Ok);
}

async fn an_import_ends_that_nobody_was_known(store: StoreKind) {
    let mut world = World::new(store).await;
    let address = "late@example.com";
    assert_eq!(world.login_with(attempt(address, PASSWORD)).await.reason(), Reason::UnknownAddress);
    let line = format!(r#"{{"address":"{address}","mail_service_id":"{SERVICE}","generic_password_hash":"{SSHA512}"}}"#);
    let path = file(&world, &line);
    assert_eq!(world.server.latchkey(&["import", &path], "").0, 0);
    // The feed tells the cache; an import is not waited for.
    while world.login_with(attempt(address, PASSWORD)).await.reason() == Reason::UnknownAddress {}
    assert_eq!(world.login_with(attempt(address, PASSWORD)).await.reason(), Reason::Ok);
}
