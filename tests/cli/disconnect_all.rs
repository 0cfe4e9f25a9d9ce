//! `device disconnect-all`: what the person saw is what goes.

use std::process::Command;

use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Ran, run, server::Server};

const ALL: [&str; 3] = ["device", "disconnect-all", "a@example.com"];

fn server() -> Server {
    let server = Server::start();
    let devices = json!([{"device_id": "one", "display_name": "Phone"}, {"device_id": "two", "display_name": "Pad"}]);
    server.answer("ListDevices", json!({"devices": devices, "etag": "seen"}));
    server.answer("DisconnectAllDevices", json!({"devices": devices, "revocation": {"revision": 7, "state": "STATE_EFFECTIVE"}}));
    server
}

/// The calls that were to disconnect, as the etag and whether it was only for show.
fn disconnects(server: &Server) -> Vec<(String, bool)> {
    let asked = server.asked();
    let calls = asked.iter().filter(|asked| asked.method == "DisconnectAllDevices");
    calls
        .map(|asked| {
            (asked.message["etag"].as_str().unwrap_or_default().to_owned(), asked.message.get("validate_only").is_some())
        })
        .collect()
}

/// Runs it on a terminal (made by `script`, of util-linux), where a person types `answer`.
fn on_a_terminal(server: &Server, answer: &str) -> Ran {
    let line = format!("{} {} --server {}", env!("CARGO_BIN_EXE_latchkey"), ALL.join(" "), server.url);
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    run(command, answer)
}

#[test]
fn without_a_yes_nothing_goes() {
    let server = server();
    let ran = server.run(&ALL);
    assert_eq!(ran.code, 2, "nobody can be asked");
    assert!(ran.err.contains("Phone") && ran.err.contains("--yes"), "{ran:?}");
    for answer in ["n\n", "\n", "maybe\n"] {
        let ran = on_a_terminal(&server, answer);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.out.contains("Disconnect 2 devices of a@example.com? [y/N]"), "{ran:?}");
        assert!(ran.out.contains("nothing was disconnected"), "{ran:?}");
    }
    assert_eq!(disconnects(&server), []);
}

#[test]
fn with_a_yes_the_list_that_was_shown_goes() {
    let server = server();
    let ran = on_a_terminal(&server, "y\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("Phone") && ran.out.contains("2 devices of a@example.com disconnected."), "{ran:?}");
    assert_eq!(disconnects(&server), [("seen".to_owned(), false)]);
    assert_eq!(server.run(&[&ALL[..], &["--yes"]].concat()).code, 0);
    assert_eq!(disconnects(&server), [("seen".to_owned(), false)]);
}

#[test]
fn an_etag_is_the_confirmation_and_no_other_list_is_read() {
    let server = server();
    let ran = server.run(&[&ALL[..], &["--etag", "mine", "--json"]].concat());
    assert_eq!((ran.code, &ran.json()["revocation"]["state"]), (0, &json!("STATE_EFFECTIVE")));
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].message["etag"], "mine");

    let details = ErrorDetails::with_error_info("ETAG_MISMATCH", "latchkey", []);
    server.refuse("DisconnectAllDevices", Status::with_error_details(Code::Aborted, "the list has changed", details));
    let ran = server.run(&[&ALL[..], &["--etag", "mine"]].concat());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("Check it again"), "{ran:?}");
}

#[test]
fn a_dry_run_only_shows_what_would_go() {
    let server = server();
    let ran = server.run(&[&ALL[..], &["--dry-run"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("Pad") && ran.out.contains("2 devices of a@example.com would be disconnected."), "{ran:?}");
    assert_eq!(disconnects(&server), [(String::new(), true)]);
}

#[test]
fn a_list_that_changes_while_it_is_read_is_not_taken_for_what_was_seen() {
    let server = server();
    server.answer_with("ListDevices", |request| {
        let second = request.get("page_token").is_some();
        Ok(json!({"devices": [{"display_name": "Phone"}], "etag": second.to_string(), "next_page_token": if second { "" } else { "2" }}))
    });
    let ran = server.run(&[&ALL[..], &["--yes"]].concat());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(disconnects(&server), []);
}
