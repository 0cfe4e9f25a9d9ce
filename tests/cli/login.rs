//! `latchkey login`.

use serde_json::json;
use tonic::Status;

use super::{latchkey, run, server::Server};

const LOGIN: [&str; 3] = ["login", "a@example.com", "--password-stdin"];

#[test]
fn a_login_says_allow_or_deny_with_the_reason_and_never_the_password() {
    let server = Server::start();
    server.answer("Authenticate", json!({"decision": "DECISION_ALLOW", "reason": "REASON_OK", "device_id": "the-device"}));
    let ran = server.run_with_input(&[&LOGIN[..], &["--protocol", "smtp", "--ip", "192.0.2.7"]].concat(), "secret\n");
    assert_eq!((ran.code, ran.out.as_str()), (0, "ALLOW: the password is a current one (device the-device)\n"));
    let asked = server.asked().pop().unwrap();
    let message = json!({
        "address": "a@example.com", "password": "secret", "protocol": "PROTOCOL_SMTP", "client_ip": "192.0.2.7", "frontend": "latchkey login",
    });
    assert_eq!((asked.method.as_str(), asked.message), ("Authenticate", message));

    server.answer("Authenticate", json!({"decision": "DECISION_DENY", "reason": "REASON_WRONG_PASSWORD"}));
    let ran = server.run_with_input(&LOGIN, "secret");
    assert_eq!(ran.code, 1);
    assert!(ran.out.starts_with("DENY: no device of this mailbox"), "{}", ran.out);
    let ran = server.run_with_input(&[&LOGIN[..], &["--json"]].concat(), "secret");
    assert_eq!((ran.code, &ran.json()["reason"]), (1, &json!("REASON_WRONG_PASSWORD")));
    assert!(!ran.out.contains("secret") && !ran.err.contains("secret"));
}

#[test]
fn an_error_is_no_answer_and_never_looks_like_a_denial() {
    let server = Server::start();
    for (status, exit) in [
        (Status::unavailable("no database"), 3),
        (Status::permission_denied("not a frontend"), 3),
        (Status::resource_exhausted("too many wrong guesses"), 3),
        (Status::invalid_argument("address: must hold one @"), 2),
    ] {
        server.refuse("Authenticate", status.clone());
        assert_eq!(server.run_with_input(&LOGIN, "secret").code, exit, "{status:?}");
    }
}

#[test]
fn a_login_takes_no_password_as_an_argument_and_asks_only_on_a_terminal() {
    let ran = run(latchkey(&["login", "a@example.com", "secret"]), "");
    assert_eq!(ran.code, 2);
    // Without a controlling terminal there is nobody to ask. (`setsid` is of util-linux, as is
    // `script`.)
    let mut command = std::process::Command::new("setsid");
    command.args(["--wait", env!("CARGO_BIN_EXE_latchkey"), "login", "a@example.com"]);
    let ran = run(command, "");
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--password-stdin"), "{ran:?}");
}
