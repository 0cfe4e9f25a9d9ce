//! How commands end, and what they say when they fail.

use std::{net::TcpListener, time::Duration};

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{latchkey, run, server::Server};

const GET: [&str; 3] = ["mailbox", "get", "a@example.com"];

#[test]
fn the_exit_code_tells_done_refused_usage_and_no_answer_apart() {
    let server = Server::start();
    assert_eq!(server.run(&GET).code, 0);
    let refused = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::ResourceExhausted,
        Code::OutOfRange,
        Code::Unimplemented,
    ];
    let no_answer = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Internal, Code::Unknown, Code::DataLoss];
    for (codes, exit) in [(&refused[..], 1), (&no_answer[..], 3)] {
        for code in codes {
            server.refuse("GetMailbox", Status::new(*code, "no"));
            assert_eq!(server.run(&GET).code, exit, "{code:?}");
        }
    }
    for wrong in [&["mailbox", "get"][..], &["mailbox", "got"], &["mailbox", "get", "a@x", "--actor", ""], &[]] {
        assert_eq!(server.run(wrong).code, 2, "{wrong:?}");
    }
    assert_eq!(run(latchkey(&["--version"]), "").code, 0);
}

#[test]
fn a_server_that_is_not_there_or_says_nothing_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // It takes the connection and never says a word.
    let ran = run(latchkey(&["mailbox", "get", "a@x", "--server", &url, "--timeout", "200ms"]), "");
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("no answer in time") && ran.err.contains("--timeout"), "{ran:?}");
    drop(listener);
    let ran = run(latchkey(&["mailbox", "get", "a@x", "--server", &url]), "");
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("onnection refused") && ran.err.contains("--server"), "{ran:?}");
}

#[test]
fn a_refusal_says_what_happened_and_what_to_do() {
    let server = Server::start();
    let mut details = ErrorDetails::with_error_info("TOO_MANY_DEVICES", "latchkey", [("limit".to_owned(), "50".to_owned())]);
    details.add_bad_request_violation("name", "must be at most 64 characters").set_retry_info(Some(Duration::from_secs(2)));
    server.refuse("CreateDevice", Status::with_error_details(Code::FailedPrecondition, "50 devices are the most", details));

    let ran = server.run(&["device", "add", "a@example.com", "Phone"]);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 2, "one line of what, one of what to do: {ran:?}");
    assert_eq!(lines[0], "error: 50 devices are the most; name: must be at most 64 characters");
    assert!(lines[1].contains("Disconnect a device") && lines[1].ends_with("Try again in 2s."), "{ran:?}");
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));

    let ran = server.run(&["device", "add", "a@example.com", "Phone", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let error = serde_json::from_str::<Value>(&ran.err).unwrap()["error"].take();
    assert_eq!(error["code"], "FAILED_PRECONDITION");
    assert_eq!(error["reason"], "TOO_MANY_DEVICES");
    assert_eq!(error["fields"], json!([{"field": "name", "problem": "must be at most 64 characters"}]));
    assert_eq!(error["metadata"], json!({"limit": "50"}));
    assert_eq!(error["retry_after_seconds"], 2.0);
}

#[test]
fn a_device_that_was_made_before_under_this_request_is_named() {
    let server = Server::start();
    let details =
        ErrorDetails::with_error_info("REQUEST_ALREADY_DONE", "latchkey", [("device_id".to_owned(), "the-id".to_owned())]);
    server.refuse("CreateDevice", Status::with_error_details(Code::AlreadyExists, "done before", details));
    let ran = server.run(&["device", "add", "a@example.com", "Phone"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the-id"), "{ran:?}");
}

#[test]
fn only_a_command_that_changes_something_warns_that_it_may_have_been_done() {
    let server = Server::start();
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Internal, Code::Unknown, Code::DataLoss] {
        for method in ["GetMailbox", "ListMailboxes", "ListDevices", "SuspendMailbox"] {
            server.refuse(method, Status::new(code, "no"));
        }
        for read in [&GET[..], &["mailbox", "list", "--service", "mail"], &["device", "list", "a@example.com"]] {
            let ran = server.run(read);
            assert!(ran.code == 3 && !ran.err.contains("change"), "{code:?}: {ran:?}");
        }
        let ran = server.run(&["mailbox", "suspend", "a@example.com"]);
        assert!(ran.code == 3 && ran.err.contains("change") && ran.err.contains("before you repeat it"), "{code:?}: {ran:?}");
    }
}

#[test]
fn doctor_says_of_a_directory_that_is_not_there_that_nothing_is_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let ran = run(latchkey(&["doctor", "--data-dir", missing.to_str().unwrap()]), "");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("pepper: not there yet") && !ran.out.contains("made with it"), "{ran:?}");
    assert!(!missing.exists(), "doctor makes nothing");
}

#[test]
fn doctor_says_of_a_mail_host_what_would_undo_a_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sasl");
    let settings = folder.path().join("agent.toml");
    // A socket that everybody may use and nobody answers on, and a Dovecot that caches.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let text = format!("[agent]\nserver = ['http://127.0.0.1:9']\nsasl-listen = ['unix:{},client=postfix']\n", socket.display());
    std::fs::write(&settings, text).unwrap();
    let doveconf = folder.path().join("doveconf");
    std::fs::write(&doveconf, "#!/bin/sh\n[ \"$2\" = auth_cache_size ] && echo 10 M || echo 0\n").unwrap();
    std::fs::set_permissions(&doveconf, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = latchkey(&["doctor", "--agent", settings.to_str().unwrap()]);
    command.env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
    let ran = run(command, "");
    assert_eq!(ran.code, 1, "{ran:?}");
    for found in [
        "LOOK replica: http://127.0.0.1:9 does not answer",
        "LOOK sasl socket: ",
        "nobody listens",
        "LOOK dovecot: auth_cache_size = 10 M",
        "ok   dovecot: imap_hibernate_timeout = 0",
    ] {
        assert!(ran.out.contains(found), "{found}: {ran:?}");
    }
}

#[test]
fn an_agent_that_is_to_replace_dovecots_authentication_server_says_what_to_do_instead() {
    let arguments = ["agent", "--server", "http://127.0.0.1:9", "--dovecot-login-listen", "/nowhere/login"];
    let ran = run(latchkey(&arguments), "");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("--dovecot-login-listen: ") && ran.err.contains("--dovecot-master-listen"), "{ran:?}");
}
