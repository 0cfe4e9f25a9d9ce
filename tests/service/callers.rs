//! Who may call: roles by token, and who may act for whom.

use latchkey::proto;
use sha2::{Digest, Sha256};
use tonic::{Code, Request};

use crate::{
    server::{Ground, StoreKind},
    world::{ADDRESS, attempt, reason_of},
};

fn as_caller<T>(token: Option<&str>, actor: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in
        [("authorization", token.map(|token| format!("Bearer {token}"))), ("latchkey-actor", actor.map(str::to_owned))]
    {
        if let Some(value) = value {
            request.metadata_mut().insert(name, value.parse().expect("ASCII"));
        }
    }
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_cannot_manage_and_a_manager_cannot_authenticate() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let entry = |name: &str, role: &str| {
        let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[caller]]\nname = '{name}'\nroles = ['{role}']\ntoken_sha256 = '{digest}'\n")
    };
    let file = ground.folder.path().join("callers.toml");
    let callers = [entry("imap", "frontend"), entry("panel", "manager"), entry("root", "operator")].concat();
    std::fs::write(&file, callers).expect("written");
    let server = ground.start_with(&["--callers-file", file.to_str().expect("UTF-8")]);
    let (mut logins, mut devices) = (server.authorization().await, server.devices().await);
    let login = || attempt(ADDRESS, "x");
    let list = || proto::ListDevicesRequest { address: ADDRESS.into(), ..Default::default() };
    let refused = |status: tonic::Status| (status.code(), reason_of(&status));

    for token in [None, Some("imaP")] {
        let status = logins.authenticate(as_caller(token, None, login())).await.expect_err("nobody we know");
        assert_eq!(refused(status), (Code::Unauthenticated, "CALLER_UNKNOWN".to_owned()));
    }
    for token in ["imap", "root"] {
        logins.authenticate(as_caller(Some(token), None, login())).await.expect("a denial is an answer");
    }
    let status = logins.authenticate(as_caller(Some("panel"), None, login())).await.expect_err("a manager");
    assert_eq!(refused(status), (Code::PermissionDenied, "ROLE_MISSING".to_owned()));
    let status = devices.list_devices(as_caller(Some("imap"), None, list())).await.expect_err("a frontend");
    assert_eq!(refused(status), (Code::PermissionDenied, "ROLE_MISSING".to_owned()));
    let status = logins.authenticate(as_caller(Some("imap"), Some("ada"), login())).await.expect_err("acts for nobody");
    assert_eq!(refused(status), (Code::PermissionDenied, "ACTOR_NOT_ALLOWED".to_owned()));
    let status = devices.list_devices(as_caller(Some("panel"), None, list())).await.expect_err("for whom?");
    assert_eq!(refused(status), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    let status = devices.list_devices(as_caller(Some("panel"), Some("ada"), list())).await.expect_err("no right");
    assert_eq!(refused(status), (Code::PermissionDenied, "ACTOR_NOT_PERMITTED".to_owned()));
    let status = devices.list_devices(as_caller(Some("root"), None, list())).await.expect_err("no such mailbox");
    assert_eq!(refused(status), (Code::NotFound, "MAILBOX_NOT_FOUND".to_owned()));
    // Longer than any login.
    let status = logins.authenticate(as_caller(Some("imap"), None, attempt(ADDRESS, &"x".repeat(1 << 20)))).await;
    assert_eq!(status.expect_err("too long").code(), Code::OutOfRange);
}
