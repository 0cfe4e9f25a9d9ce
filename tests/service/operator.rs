//! What an operator meets: starting, settings, signals, and the commands that need no actor.

use std::{net::TcpListener, process::Command};

use prost::Message;
use rustix::process::Signal;

use crate::{
    server::{Ground, Server, StoreKind},
    world::World,
};

/// Runs a command of the binary, with nothing added: exit code, standard output, standard error.
fn latchkey(arguments: &[&str]) -> (i32, Vec<u8>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_latchkey")).args(arguments).output().expect("the binary runs");
    (output.status.code().expect("it ended by itself"), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused_before_anything_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let ground = Ground::new(StoreKind::Sqlite).await;
    let Err(problem) = Server::start(ground.command(&["--listen", &address])) else { panic!("it is taken") };
    assert!(problem.contains(&address) && problem.contains("--listen"), "{problem}");
    assert!(!ground.data_dir().exists(), "no database and no pepper");
}

#[tokio::test]
async fn sighup_ends_nothing_and_sigterm_drains() {
    let world = World::new(StoreKind::Sqlite).await;
    world.server.signal(Signal::HUP);
    while !world.server.log().contains("SIGHUP") {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.server.health().await, "SERVING");
    world.server.signal(Signal::TERM);
    assert!(world.server.wait().success());
}

#[tokio::test]
async fn tls_settings_are_checked_as_merged_from_file_and_flags() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let at = |name: &str| ground.folder.path().join(name).display().to_string();
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed").pem();
    let (certificate_file, key_file, settings) = (at("server.pem"), at("server.key"), at("latchkey.toml"));
    std::fs::write(&certificate_file, certificate).expect("written");
    std::fs::write(&key_file, key.serialize_pem()).expect("written");

    std::fs::write(&settings, format!("tls-certificate = '{certificate_file}'")).expect("written");
    let Err(problem) = Server::start(ground.command(&["--config", &settings])) else { panic!("plaintext by mistake") };
    assert!(problem.contains("tls-certificate is set and tls-key is not"), "{problem}");

    let server = Server::start(ground.command(&["--config", &settings, "--tls-key", &key_file])).expect("both are there");
    let port = server.address.rsplit(':').next().expect("a port").to_owned();
    let url = format!("https://localhost:{port}");
    let (exit, out, problem) = latchkey(&["health", "--server", &url, "--ca", &certificate_file]);
    assert_eq!((exit, String::from_utf8_lossy(&out).as_ref()), (0, "Ready.\n"), "{problem}");
    drop(server);

    for (flag, file) in [("--tls-key", &key_file), ("--tls-client-ca", &certificate_file)] {
        let Err(problem) = Server::start(ground.command(&[flag, file])) else { panic!("half of it") };
        assert!(problem.contains("is set") && problem.contains("TLS needs both") || problem.contains("need TLS"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_with_tls_has_a_sentence_of_its_own() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let at = |name: &str| ground.folder.path().join(name).display().to_string();
    let (key, another) = (rcgen::KeyPair::generate().expect("a key"), rcgen::KeyPair::generate().expect("a key"));
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let (certificate_file, key_file, another_file) = (at("server.pem"), at("server.key"), at("another.key"));
    std::fs::write(&certificate_file, params.self_signed(&key).expect("signed").pem()).expect("written");
    std::fs::write(&key_file, key.serialize_pem()).expect("written");
    std::fs::write(&another_file, another.serialize_pem()).expect("written");

    let flags = ["--tls-certificate", &certificate_file, "--tls-key", &another_file];
    let Err(problem) = Server::start(ground.command(&flags)) else { panic!("the key is another's") };
    assert!(problem.contains("--tls-key does not fit the certificate in --tls-certificate"), "{problem}");
    assert!(!ground.data_dir().exists(), "nothing was made");

    let asked = |url: &str, more: &[&str]| {
        let (exit, _, problem) = latchkey(&[&["organization", "list", "--server", url][..], more].concat());
        (exit, problem)
    };
    let plaintext = ground.start();
    let https = format!("https://localhost:{}", plaintext.address.rsplit(':').next().expect("a port"));
    let (exit, problem) = asked(&https, &["--ca", &certificate_file]);
    assert!(exit == 3 && problem.contains("does not speak TLS") && problem.contains("http://"), "{exit} {problem}");
    let identity = ["--ca", &certificate_file, "--certificate", &certificate_file, "--key", &another_file];
    let (exit, problem) = asked(&https, &identity);
    assert!(exit == 2 && problem.contains("--key does not fit the certificate in --certificate"), "{exit} {problem}");
    drop(plaintext);

    let tls = ground.start_with(&["--tls-certificate", &certificate_file, "--tls-key", &key_file]);
    let (exit, problem) = asked(&tls.url(), &[]);
    assert!(exit == 3 && problem.contains("TLS") && !problem.contains("transport error"), "{exit} {problem}");
    assert!(problem.contains("https://"), "{exit} {problem}");
    let https = format!("https://localhost:{}", tls.address.rsplit(':').next().expect("a port"));
    let (exit, problem) = asked(&https, &[]);
    assert!(exit == 3 && problem.contains("--ca"), "{exit} {problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_does_not_mix_with_real_data() {
    let World { server, ground, .. } = World::new(StoreKind::Sqlite).await;
    drop(server);
    std::fs::rename(ground.data_dir().join("pepper"), ground.folder.path().join("kept")).expect("moved");
    let Err(problem) = Server::start(ground.command(&["--demo"])) else { panic!("it mixed") };
    assert!(problem.contains("acme") && problem.contains("--data-dir"), "refused before the pepper is looked for: {problem}");
    std::fs::rename(ground.folder.path().join("kept"), ground.data_dir().join("pepper")).expect("moved back");
    let server = ground.start();
    let (exit, out, _) = server.latchkey(&["organization", "list", "--json"], "");
    assert_eq!(exit, 0);
    assert!(!out.contains("\"example\""), "nothing was put in: {out}");

    let ground = Ground::new(StoreKind::Sqlite).await;
    drop(ground.start_with(&["--demo"]));
    drop(ground.start_with(&["--demo"]));
}

#[tokio::test]
async fn health_says_ready_not_ready_and_no_answer_apart() {
    let ground = Ground::new(StoreKind::Sqlite).await;
    let server = ground.start_with(&["--drain-timeout", "1h", "--denial-delay", "10s"]);
    let (exit, out, _) = server.latchkey(&["health", "--json"], "");
    assert_eq!((exit, out.as_str()), (0, "{\"status\":\"SERVING\"}\n"));
    let url = server.url();
    server.kill();
    let (exit, _, problem) = latchkey(&["health", "--server", &url, "--timeout", "2s"]);
    assert_eq!(exit, 3, "{problem}");
}

#[test]
fn the_descriptor_set_holds_the_whole_contract() {
    let (exit, bytes, problem) = latchkey(&["descriptor-set", "-"]);
    assert_eq!(exit, 0, "{problem}");
    let set = prost_types::FileDescriptorSet::decode(bytes.as_slice()).expect("a descriptor set");
    let services: Vec<_> = set.file.iter().flat_map(|file| &file.service).filter_map(|service| service.name.clone()).collect();
    assert_eq!(services, ["Authorization", "DeviceCredentials", "Directory"]);
    let files: Vec<_> = set.file.iter().filter_map(|file| file.name.as_deref()).collect();
    for import in set.file.iter().flat_map(|file| &file.dependency) {
        assert!(files.contains(&import.as_str()), "{import} is missing");
    }
    let (exit, _, problem) = latchkey(&["descriptor-set", "/no/such/folder/file"]);
    assert!(exit == 1 && problem.contains("/no/such/folder/file"), "{problem}");
}

#[test]
fn completions_are_written_for_each_shell() {
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef latchkey"), ("fish", "complete -c latchkey")] {
        let (exit, script, problem) = latchkey(&["completions", shell]);
        let script = String::from_utf8(script).expect("UTF-8");
        assert!(exit == 0 && script.contains(sign) && script.contains("disconnect"), "{shell}: {problem}");
    }
    assert_eq!(latchkey(&["completions", "tcsh"]).0, 2);
}
