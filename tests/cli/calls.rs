//! Which call a command makes, and what it shows of the answer.

use serde_json::{Value, json};

use super::server::Server;

const ID: &str = "0193b5a0-0000-7000-8000-000000000001";
const OTHER_ID: &str = "0193b5a0-0000-7000-8000-000000000002";

/// Runs a command and returns the last message that the server was sent, without its random
/// request_id, and its method.
fn call(server: &Server, arguments: &[&str]) -> (String, Value) {
    let ran = server.run(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    let mut asked = server.asked().pop().unwrap();
    if let Some(id) = asked.message.as_object_mut().unwrap().remove("request_id") {
        assert_eq!(id.as_str().unwrap().len(), 36);
    }
    (asked.method, asked.message)
}

#[test]
fn every_command_makes_the_call_that_it_is_named_for() {
    let server = Server::start();
    let a = "a@example.com";
    let cases: &[(&[&str], &str, Value)] = &[
        (&["device", "list", a], "ListDevices", json!({"address": a, "page_size": 1000})),
        (
            &["device", "list", a, "--disconnected", "--limit", "3"],
            "ListDevices",
            json!({"address": a, "page_size": 3, "show_disconnected": true}),
        ),
        (&["device", "show", a, ID], "GetDevice", json!({"address": a, "device_id": ID})),
        (
            &[
                "device",
                "add",
                a,
                "Phone",
                "--user",
                "bob",
                "--protocol",
                "imap",
                "--protocol",
                "SMTP",
                "--network",
                "10.0.0.0/8",
            ],
            "CreateDevice",
            json!({"address": a, "display_name": "Phone", "user_id": "bob", "allowed_protocols": ["PROTOCOL_IMAP", "PROTOCOL_SMTP"], "allowed_networks": ["10.0.0.0/8"]}),
        ),
        (
            &["device", "add", a, "Phone", "--expires", "2100-01-01"],
            "CreateDevice",
            json!({"address": a, "display_name": "Phone", "expire_time": "2100-01-01T00:00:00Z"}),
        ),
        (
            &["device", "rename", a, ID, "Pad"],
            "UpdateDevice",
            json!({"address": a, "device_id": ID, "display_name": "Pad", "update_mask": "displayName"}),
        ),
        (&["device", "change-password", a, ID], "ChangePassword", json!({"address": a, "device_id": ID})),
        (
            &["device", "disconnect", a, ID, "--no-wait"],
            "DisconnectDevice",
            json!({"address": a, "device_id": ID, "max_wait": "0s"}),
        ),
        (
            &["device", "disconnect-user", "bob", "--service", "mail"],
            "DisconnectUserDevices",
            json!({"user_id": "bob", "mail_service_id": "mail"}),
        ),
        (&["device", "disconnect-user", "bob", "--address", a], "DisconnectUserDevices", json!({"user_id": "bob", "address": a})),
        (&["device", "generic", "off", a], "SetGenericLogin", json!({"address": a})),
        (
            &["device", "generic", "on", "--service", "mail"],
            "SetGenericLogin",
            json!({"mail_service_id": "mail", "enabled": true}),
        ),
        (&["device", "permissions", a], "TestPermissions", json!({"address": a})),
        (&["events", a, "--device", ID, "--limit", "5"], "ListEvents", json!({"address": a, "page_size": 5, "device_id": ID})),
        (&["organization", "put", "o", "--name", "O"], "PutOrganization", json!({"organization_id": "o", "display_name": "O"})),
        (&["organization", "get", "o"], "GetOrganization", json!({"organization_id": "o"})),
        (&["organization", "list"], "ListOrganizations", json!({"page_size": 1000})),
        (&["organization", "delete", "o", "--yes"], "DeleteOrganization", json!({"organization_id": "o"})),
        (
            &["member", "put", "bob", "legal-representative", "--organization", "o", "--suspended"],
            "PutMember",
            json!({"organization_id": "o", "user_id": "bob", "role": "ROLE_LEGAL_REPRESENTATIVE", "suspended": true}),
        ),
        (&["member", "get", "bob", "--organization", "o"], "GetMember", json!({"organization_id": "o", "user_id": "bob"})),
        (&["member", "list", "--organization", "o"], "ListMembers", json!({"organization_id": "o", "page_size": 1000})),
        (
            &["member", "delete", "bob", "--organization", "o", "-y", "--no-wait"],
            "DeleteMember",
            json!({"organization_id": "o", "user_id": "bob", "max_wait": "0s"}),
        ),
        (
            &["service", "put", "mail", "--organization", "o"],
            "PutMailService",
            json!({"mail_service_id": "mail", "organization_id": "o"}),
        ),
        (&["service", "get", "mail"], "GetMailService", json!({"mail_service_id": "mail"})),
        (&["service", "list", "--organization", "o"], "ListMailServices", json!({"organization_id": "o", "page_size": 1000})),
        (&["service", "delete", "mail", "--yes"], "DeleteMailService", json!({"mail_service_id": "mail"})),
        (&["service", "grant", "mail", "bob"], "PutRight", json!({"mail_service_id": "mail", "user_id": "bob"})),
        (
            &["service", "revoke", "mail", "bob", "--max-wait", "30s"],
            "DeleteRight",
            json!({"mail_service_id": "mail", "user_id": "bob", "max_wait": "30s"}),
        ),
        (&["service", "rights", "mail"], "ListRights", json!({"mail_service_id": "mail", "page_size": 1000})),
        (
            &["mailbox", "put", a, "--service", "mail", "--generic-hash", "{SSHA}x"],
            "PutMailbox",
            json!({"address": a, "mail_service_id": "mail", "generic_password_hash": "{SSHA}x"}),
        ),
        (&["mailbox", "get", a], "GetMailbox", json!({"address": a})),
        (&["mailbox", "list", "--service", "mail"], "ListMailboxes", json!({"mail_service_id": "mail", "page_size": 1000})),
        (&["mailbox", "suspend", a, "--no-wait"], "SuspendMailbox", json!({"address": a, "max_wait": "0s"})),
        (&["mailbox", "resume", a], "ResumeMailbox", json!({"address": a})),
        (&["mailbox", "delete", a, "--yes"], "DeleteMailbox", json!({"address": a})),
        (
            &["revocation", "await", "0a", "--max-wait", "1min"],
            "AwaitRevocation",
            json!({"revocation_id": "0a", "max_wait": "60s"}),
        ),
        (&["device", "limits", a, ID], "GetDevice", json!({"address": a, "device_id": ID})),
        (
            &["device", "limits", a, ID, "--protocol", "smtp", "--any-network", "--never-expires"],
            "UpdateDevice",
            json!({
                "address": a, "device_id": ID, "allowed_protocols": ["PROTOCOL_SMTP"],
                "update_mask": "allowedProtocols,allowedNetworks,expireTime",
            }),
        ),
        (
            &["events", "--organization", "o", "--since", "2026-11-01", "--until", "2026-11-01T12:00:00Z"],
            "ListEvents",
            json!({
                "organization_id": "o", "page_size": 50,
                "start_time": "2026-11-01T00:00:00Z", "end_time": "2026-11-01T12:00:00Z",
            }),
        ),
        (&["events", "--service", "mail"], "ListEvents", json!({"mail_service_id": "mail", "page_size": 50})),
        (&["events", "--mailbox-id", ID], "ListEvents", json!({"mailbox_id": ID, "page_size": 50})),
    ];
    for (arguments, method, message) in cases {
        assert_eq!(call(&server, arguments), ((*method).to_owned(), message.clone()), "{arguments:?}");
    }
}

#[test]
fn a_list_shows_all_pages_as_one_table() {
    let server = Server::start();
    server.answer_with("ListDevices", |request| {
        Ok(if request.get("page_token").is_none() {
            json!({"devices": [{
                "device_id": ID, "display_name": "Alice's phone", "kind": "DEVICE_KIND_GENERATED", "login_enabled": true,
                "last_use": {"time": "2026-11-23T09:30:00Z", "protocol": "PROTOCOL_IMAP"},
            }], "next_page_token": "2", "etag": "e"})
        } else {
            json!({"devices": [{
                "device_id": OTHER_ID, "display_name": "Old\u{1b}[2J", "kind": "DEVICE_KIND_GENERIC", "allowed_protocols": ["PROTOCOL_SMTP"], "user_id": "bob",
            }], "etag": "e"})
        })
    });
    let ran = server.run(&["device", "list", "a@example.com"]);
    let expected = "\
NAME           KIND       ID                                    USER  LAST USED               LIMITS
Alice's phone  generated  0193b5a0-0000-7000-8000-000000000001  -     2026-11-23 09:30Z imap  -
Old\u{fffd}[2J        generic    0193b5a0-0000-7000-8000-000000000002  bob   never                   login off, smtp
";
    assert_eq!(ran.out, expected);

    let json = server.run(&["device", "list", "a@example.com", "--json"]).out;
    let pages: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(pages.len(), 2, "a page is a line");
    assert_eq!(pages[0]["devices"][0]["last_use"]["time"], "2026-11-23T09:30:00Z");
    assert_eq!(pages[1]["devices"][0]["kind"], "DEVICE_KIND_GENERIC");
    assert_eq!(pages[1]["devices"][0]["live_sessions"], 0, "fields stand there with their defaults too");
    assert_eq!(pages[1]["etag"], "e");
}

#[test]
fn an_empty_list_says_so_beside_the_output() {
    let ran = Server::start().run(&["mailbox", "list", "--service", "mail"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "No mailboxes.\n"));
}

#[test]
fn a_device_can_be_named_as_far_as_only_one_has_the_name() {
    let server = Server::start();
    server.answer(
        "ListDevices",
        json!({"devices": [
            {"device_id": ID, "display_name": "Phone"}, {"device_id": OTHER_ID, "display_name": "Pad"}, {"device_id": "third", "display_name": "Pad"},
        ]}),
    );
    let (method, message) = call(&server, &["device", "disconnect", "a@example.com", "phone"]);
    assert_eq!((method.as_str(), &message["device_id"]), ("DisconnectDevice", &json!(ID)));

    let ran = server.run(&["device", "disconnect", "a@example.com", "Pad"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("2 devices") && ran.err.contains(OTHER_ID) && ran.err.contains("third"), "{ran:?}");
    let ran = server.run(&["device", "disconnect", "a@example.com", "Watch"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no device called \"Watch\"") && ran.err.contains("\"Phone\""), "{ran:?}");
    assert!(server.asked().iter().all(|asked| asked.method == "ListDevices"), "nothing is disconnected on a guess");
}

#[test]
fn a_generated_password_is_shown_and_a_chosen_one_never_is() {
    let server = Server::start();
    server.answer(
        "CreateDevice",
        json!({"device": {"device_id": ID, "display_name": "Phone", "address": "a@example.com"}, "password": "aaaa-bbbb"}),
    );
    let ran = server.run(&["device", "add", "a@example.com", "Phone"]);
    assert!(ran.out.contains("\n    aaaa-bbbb\n") && ran.out.contains("shown this once"), "{ran:?}");
    assert_eq!(server.run(&["device", "add", "a@example.com", "Phone", "--json"]).json()["password"], "aaaa-bbbb");
    server.asked();

    server.answer("CreateDevice", json!({"device": {"device_id": ID, "display_name": "Phone"}}));
    let chosen = "correct horse battery";
    for json in [&[][..], &["--json"]] {
        let arguments = [&["device", "add", "a@example.com", "Phone", "--password-stdin"], json].concat();
        let ran = server.run_with_input(&arguments, &format!("{chosen}\r\nnot this"));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(server.asked()[0].message["password"], chosen);
        assert!(!ran.out.contains(chosen) && !ran.err.contains(chosen), "{ran:?}");
    }
    let ran = server.run(&["device", "add", "a@example.com", "Phone", "--password-stdin"]);
    assert_eq!(ran.code, 2, "no password is no wish for a generated one");
    assert!(server.asked().is_empty());
}

#[test]
fn a_generic_hash_can_come_from_standard_input() {
    let server = Server::start();
    let ran = server.run_with_input(&["mailbox", "put", "a@x", "--service", "mail", "--generic-hash-stdin"], "{SSHA}abc\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.asked()[0].message["generic_password_hash"], "{SSHA}abc");
}

#[test]
fn a_revocation_says_how_far_it_has_come() {
    let server = Server::start();
    let disconnect = ["device", "disconnect", "a@example.com", ID];
    server.answer("DisconnectDevice", json!({"revocation": {"revision": 7, "state": "STATE_EFFECTIVE", "closed_sessions": 2}}));
    assert_eq!(server.run(&disconnect).out, "Disconnected. Effective everywhere. 2 sessions were closed.\n");
    server.answer(
        "DisconnectDevice",
        json!({"revocation": {
            "revocation_id": "07a1", "revision": 7, "state": "STATE_PENDING", "effective_by": "2026-11-23T09:30:10Z",
            "unconfirmed": [{"process_id": "n", "display_name": "mx1"}],
        }}),
    );
    let pending = "Disconnected. Committed. Effective everywhere by 2026-11-23 09:30:10 +00:00 at the latest. \
                   Not yet confirmed by mx1.\nTo wait for it: latchkey revocation await 07a1\n";
    assert_eq!(server.run(&disconnect).out, pending);
    let json = server.run(&[&disconnect[..], &["--json"]].concat()).json();
    assert_eq!(json["revocation"]["state"], "STATE_PENDING");
    assert_eq!(json["revocation"]["revision"], "7", "64-bit numbers are strings in proto3's JSON");
}

#[test]
fn what_a_revocation_did_is_said_in_the_words_of_its_command() {
    let server = Server::start();
    let revocation = json!({"revocation": {"revision": 7, "state": "STATE_EFFECTIVE", "ended_devices": 2}});
    for (method, arguments, words) in [
        ("SuspendMailbox", &["mailbox", "suspend", "a@x"][..], "Suspended.\n2 devices cannot log in. Effective everywhere.\n"),
        (
            "DeleteMailbox",
            &["mailbox", "delete", "a@x", "--yes"],
            "Deleted.\n2 devices were disconnected. Effective everywhere.\n",
        ),
        ("AwaitRevocation", &["revocation", "await", "07a1"], "2 devices are concerned. Effective everywhere.\n"),
    ] {
        server.answer(method, revocation.clone());
        assert_eq!(server.run(arguments).out, words);
    }
}

#[test]
fn what_cannot_be_undone_is_asked_for_first() {
    let server = Server::start();
    for arguments in [
        &["mailbox", "delete", "a@x"][..],
        &["member", "delete", "bob", "--organization", "o"],
        &["service", "delete", "mail"],
        &["organization", "delete", "o"],
    ] {
        let ran = server.run(arguments);
        assert_eq!(ran.code, 2, "nobody can be asked");
        assert!(ran.err.contains("--yes"), "{ran:?}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn events_and_logins_read_as_a_history() {
    let server = Server::start();
    server.answer(
        "ListEvents",
        json!({"events": [
            {"time": "2026-11-23T09:30:00Z", "type": "TYPE_LOGIN", "device_display_name": "Phone", "logins": {
                "decision": "DECISION_DENY", "reason": "REASON_DEVICE_DISCONNECTED", "protocol": "PROTOCOL_IMAP", "client_ip": "192.0.2.7", "frontend": "mx1",
                "count": 12}},
            {"time": "2026-11-23T09:10:00Z", "type": "TYPE_LOGIN", "logins": {
                "decision": "DECISION_DENY", "reason": "REASON_WRONG_PASSWORD", "protocol": "PROTOCOL_IMAP", "client_ip": "192.0.2.9", "frontend": "mx1",
                "count": 40, "from_several_addresses": true}},
            {"time": "2026-11-23T09:00:00Z", "type": "TYPE_DEVICE_DISCONNECTED", "device_display_name": "Phone", "actor_user_id": "bob", "caller": "manager",
             "peer": "10.0.0.1", "revision": 7},
        ]}),
    );
    let expected = "\
TIME               EVENT                ABOUT  BY             FROM             DETAIL
2026-11-23 09:30Z  login denied         Phone  mx1            192.0.2.7        imap, 12 times: device disconnected
2026-11-23 09:10Z  login denied         -      mx1            other addresses  imap, 40 times: wrong password
2026-11-23 09:00Z  device disconnected  Phone  bob (manager)  10.0.0.1         -
";
    assert_eq!(server.run(&["events", "a@example.com"]).out, expected);
}

#[test]
fn a_device_in_full_says_what_it_may_and_how_old_its_password_is() {
    let server = Server::start();
    server.answer("GetDevice", json!({"device": {
        "device_id": ID, "address": "a@example.com", "display_name": "Phone", "kind": "DEVICE_KIND_CHOSEN", "generation": 3, "can_change_password": true,
        "login_enabled": true, "allowed_protocols": ["PROTOCOL_IMAP", "PROTOCOL_SMTP"], "create_time": "2026-11-20T09:30:00Z",
        "last_use": {"time": "2026-11-23T09:30:00Z", "protocol": "PROTOCOL_IMAP", "client_ip": "192.0.2.7"},
    }}));
    let expected = "\
Name          Phone
Address       a@example.com
Id            0193b5a0-0000-7000-8000-000000000001
Kind          chosen
Protocols     imap, smtp
Networks      all
Created       2026-11-20 09:30:00 +00:00
Last used     2026-11-23 09:30:00 +00:00, imap from 192.0.2.7
Password      changed 2 times
";
    assert_eq!(server.run(&["device", "show", "a@example.com", ID]).out, expected);
}
