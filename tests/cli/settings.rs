//! Where a setting comes from: flag, environment, file, built in; and who calls for whom.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::{Ran, latchkey, run, server::Server};

/// Runs `organization list` with a settings file and the environment, and further arguments.
fn list(file: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latchkey.toml");
    fs::write(&path, file).unwrap();
    let mut command = latchkey(&[&["organization", "list"], arguments].concat());
    command.env("LATCHKEY_CONFIG", &path).envs(environment.iter().copied());
    run(command, "")
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let server = Server::start();
    let actor = |ran: Ran| {
        assert_eq!(ran.code, 0, "{ran:?}");
        server.asked().pop().unwrap().actor
    };
    let url = &server.url;
    let file = format!("server = '{url}'\nactor = 'top'\n[client]\nactor = 'file'");
    assert_eq!(actor(list(&file, &[], &[])).as_deref(), Some("file"));
    assert_eq!(actor(list(&file, &[("LATCHKEY_ACTOR", "environment")], &[])).as_deref(), Some("environment"));
    assert_eq!(actor(list(&file, &[("LATCHKEY_ACTOR", "environment")], &["--actor", "flag"])).as_deref(), Some("flag"));
    assert_eq!(actor(list("", &[("LATCHKEY_SERVER", url)], &[])), None);
    // The flag may also stand right behind the group.
    let ran = run(latchkey(&["organization", "--server", url, "--actor", "early", "list"]), "");
    assert_eq!(actor(ran).as_deref(), Some("early"));
}

#[test]
fn json_can_be_a_setting() {
    let server = Server::start();
    let file = format!("server = '{}'\njson = true", server.url);
    assert_eq!(list(&file, &[], &[]).json()["next_page_token"], "");
    assert_eq!(list(&file, &[("LATCHKEY_JSON", "no")], &[]).out, "");
}

#[test]
fn a_wrong_key_or_value_in_the_file_is_named_with_the_file() {
    for (file, words) in [
        ("srever = 'http://x'", "no setting is called `srever`"),
        ("[client]\nbatch-lines = 7", "`client.batch-lines`"),
        ("timeout = '1ms'", "key `timeout`: `1ms`: must be from 100ms to 1h"),
        ("server = 'x:1'", "key `server`: `x:1`: must be like http://"),
        ("batch_lines = 0", "key `batch_lines`"),
        ("not toml", "not TOML"),
    ] {
        let ran = list(file, &[], &[]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("latchkey.toml: ") && ran.err.contains(words), "{ran:?}");
    }
    let ran = run(latchkey(&["--config", "/nowhere/latchkey.toml", "organization", "list"]), "");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("/nowhere/latchkey.toml: can't be read"), "{ran:?}");
}

#[test]
fn a_lease_of_nothing_or_of_a_day_is_refused() {
    for lease in ["0s", "499ms", "61s", "24h", "soon"] {
        let ran = run(latchkey(&["serve", "--lease", lease]), "");
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("--lease") && ran.err.contains(lease), "{ran:?}");
        assert!(lease == "soon" || ran.err.contains("must be from 500ms to 1m"), "{ran:?}");
    }
}

#[test]
fn a_token_comes_from_a_file_and_is_sent_with_every_call() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s3cr3t\n").unwrap();
    let ran = server.run(&["organization", "list", "--token-file", token.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.asked()[0].authorization.as_deref(), Some("Bearer s3cr3t"));
    let ran = server.run(&["organization", "list", "--token-file", "/nowhere"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--token-file /nowhere: can't be read"), "{ran:?}");
}

#[test]
fn certificates_want_https_and_come_in_pairs() {
    let server = Server::start();
    assert_eq!(server.run(&["organization", "list", "--ca", "ca.pem"]).code, 2);
    let half = ["organization", "list", "--server", "https://127.0.0.1:1", "--certificate", "c.pem"];
    let ran = run(latchkey(&half), "");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("go together"), "{ran:?}");
}

#[test]
fn a_certificate_names_us_to_a_server_that_asks_for_one() {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: &str| {
        let file = folder.path().join(name);
        fs::write(&file, pem).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (certificate, key) = signed("127.0.0.1");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let server = Server::start_tls(tls);

    let (certificate, key) = signed("client");
    let ca = write("ca.pem", &authority.pem());
    let (certificate, key) = (write("certificate.pem", &certificate), write("key.pem", &key));
    let list = ["organization", "list", "--ca", &ca];
    let ran = server.run(&[&list[..], &["--certificate", &certificate, "--key", &key]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.run(&list).code, 3, "without a certificate the server does not speak to us");
    let ran = server.run(&["organization", "list"]);
    assert_eq!(ran.code, 3, "a server whom nobody vouches for is not spoken to: {ran:?}");
    assert_eq!(server.asked().len(), 1);
}
