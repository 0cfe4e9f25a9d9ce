//! Who may call: roles by token, and who may act for whom.

use latchkey::proto::{self, authorization_client::AuthorizationClient};
use sha2::{Digest, Sha256};
use tonic::{
    Code, Request,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    server::{Ground, Server, StoreKind},
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
    while !server.log().contains("CALLER_UNKNOWN") {
        tokio::task::yield_now().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_its_caller() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let file = |name: &str, content: &str| {
        let path = ground.folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let callers =
        file("callers.toml", "[[caller]]\nname = 'imap'\nroles = ['frontend']\ncertificate_name = 'imap.example.com'\n");
    let (certificate, key) = (file("server.pem", &certificate), file("server.key", &key));
    let settings = ["--callers-file", &callers, "--tls-certificate", &certificate, "--tls-key", &key];
    let Err(problem) = Server::start(ground.command(&settings)) else { panic!("nobody could show a certificate") };
    assert!(problem.contains("--tls-client-ca"), "{problem}");

    let ca = file("ca.pem", &authority.pem());
    let server = ground.start_with(&[&settings[..], &["--tls-client-ca", &ca]].concat());
    let login = async |tls: ClientTlsConfig| {
        let tls = tls.ca_certificate(Certificate::from_pem(authority.pem())).domain_name("localhost");
        let address = format!("https://{}", server.address);
        let channel = Endpoint::from_shared(address).and_then(|to| to.tls_config(tls)).expect("an endpoint").connect().await;
        AuthorizationClient::new(channel?).authenticate(attempt(ADDRESS, "x")).await.map_err(Box::<dyn std::error::Error>::from)
    };
    let shown = |authority: &Authority, name: &str| {
        let (certificate, key) = authority.sign(name);
        ClientTlsConfig::new().identity(Identity::from_pem(certificate, key))
    };
    login(shown(&authority, "imap.example.com")).await.expect("a denial is an answer");
    for tls in [shown(&authority, "pop.example.com"), ClientTlsConfig::new()] {
        let problem = login(tls).await.expect_err("nobody we know");
        let status = problem.downcast_ref::<tonic::Status>().expect("the server says so");
        assert_eq!((status.code(), reason_of(status).as_str()), (Code::Unauthenticated, "CALLER_UNKNOWN"));
    }
    login(shown(&Authority::new(), "imap.example.com")).await.expect_err("another authority's word is worth nothing");
}

/// A CA of the test's own.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        Self(rcgen::CertifiedIssuer::self_signed(params, key).expect("a CA"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.0).expect("signed").pem(), key.serialize_pem())
    }
}
