//! chasquid behind the agent, configured by `deploy/chasquid` as it stands. It asks about its users
//! at another socket, which stays Dovecot's.

use std::{fs, process::Command};

use rustix::process::Signal;

use crate::{
    host::{ALICE, Agent, Process, certificate, deployed, free_port, public_folder, sockets_folder, wait_until, world},
    smtp::{Client, all, logins},
};

#[tokio::test(flavor = "multi_thread")]
async fn chasquid_logs_in_and_says_try_later_while_nobody_answers() {
    let (mut world, folder, port) = (world().await, public_folder(), free_port());
    let (path, sockets) = (folder.path(), folder.path().join("latchkey"));
    sockets_folder(&sockets, "chasquid");
    let listen = [("LATCHKEY_SASL_LISTEN", format!("unix:{},client=chasquid", sockets.join("sasl").display()))];
    let mut agent = Agent::start("chasquid/agent.toml", &world.server.url(), &listen);

    // Dovecot answers which users there are.
    let userdb = path.join("userdb");
    let dovecot = format!(
        "base_dir = {path}/dovecot\nlog_path = /dev/stderr\nprotocols =\nssl = no\n\
         passdb {{\n driver = static\n args = nopassword=y\n}}\n\
         userdb {{\n driver = static\n args = uid=65534 gid=65534 home=/nonexistent allow_all_users=yes\n}}\n\
         service auth {{\n unix_listener {userdb} {{\n  mode = 0666\n }}\n}}\n",
        path = path.display(),
        userdb = userdb.display(),
    );
    fs::write(path.join("dovecot.conf"), dovecot).expect("it is written");
    let _dovecot = Process::start("Dovecot", Command::new("dovecot").arg("-F").arg("-c").arg(path.join("dovecot.conf")));
    wait_until("Dovecot listens", || userdb.exists());

    let ours = fs::read_to_string(deployed("chasquid/chasquid.conf")).expect("it is there");
    let ours = ours
        .replace("/run/latchkey-chasquid/sasl", &sockets.join("sasl").display().to_string())
        .replace("/run/dovecot/auth-chasquid-userdb", &userdb.display().to_string());
    let theirs = format!(
        "hostname: \"mail.example\"\nsmtp_address: \"127.0.0.1:{}\"\nsubmission_address: \"127.0.0.1:{port}\"\n\
         submission_over_tls_address: \"127.0.0.1:{}\"\ndata_dir: \"{path}/data\"\nmail_log_path: \"<stderr>\"\n\
         mail_delivery_agent_bin: \"/bin/true\"\n",
        free_port(),
        free_port(),
        path = path.display(),
    );
    let certificates = path.join("certs/mail.example");
    for made in [&certificates, &path.join("domains/example.com")] {
        fs::create_dir_all(made).expect("it is made");
    }
    let (certificate, key) = certificate(path);
    fs::rename(certificate, certificates.join("fullchain.pem")).expect("the same folder");
    fs::rename(key, certificates.join("privkey.pem")).expect("the same folder");
    fs::write(path.join("chasquid.conf"), theirs + &ours).expect("it is written");
    let _chasquid = Process::start("chasquid", Command::new("chasquid").arg("--config_dir").arg(path));
    wait_until("chasquid listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());

    let (phone, password) = world.add("Phone").await;
    assert!(Client::connect_tls(port).auth("PLAIN", ALICE, "wrong").is(535, "5.7.8"));
    let mut client = Client::connect_tls(port);
    let good = client.auth("PLAIN", ALICE, &password);
    assert!(good.is(235, ""), "{good:?}");
    assert!(client.command("MAIL FROM:<alice@example.com>").is(250, ""));
    let recipient = client.command("RCPT TO:<bob@example.com>");
    assert!(recipient.is(250, ""), "{recipient:?}");
    world.disconnect(&phone).await;
    assert!(Client::connect_tls(port).auth("PLAIN", ALICE, &password).is(535, "5.7.8"));

    world.server.signal(Signal::KILL);
    assert_eq!(logins(port, ALICE, "cold", 50), all("454", 50));
    agent.kill();
    assert_eq!(logins(port, ALICE, "cold", 50), all("454", 50));
}
