//! What is wrong with a mail host, and what to do: `latchkey doctor --agent`.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::settings::{Args, SaslListen};
use crate::{sockets::Place, store::Finding};

/// For a replica, a socket or a command to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Dovecot's settings that would undo a revocation, what each must be, and why.
const DOVECOT: [(&str, &str, &str); 2] = [
    (
        "auth_cache_size",
        "0",
        "Dovecot would go on accepting a revoked password until its cache forgets it. Set auth_cache_size = 0.",
    ),
    (
        "imap_hibernate_timeout",
        "0",
        "Hibernated sessions share one process, so closing one would close them all. Set imap_hibernate_timeout = 0.",
    ),
];

/// Looks at the replicas, the sockets, and the mail servers' settings that matter.
pub(crate) async fn examine(args: &Args) -> Vec<Finding> {
    let mut findings = replicas(args).await;
    for SaslListen { place, client } in &args.sasl_listen {
        if let Place::Unix { path, .. } = place {
            findings.push(socket("sasl socket", path, Some(client.name())).await);
        }
    }
    for place in &args.policy_listen {
        if let Place::Unix { path, .. } = place {
            findings.push(socket("policy socket", path, None).await);
        }
    }
    if let Some(path) = &args.dovecot_master_listen {
        findings.push(socket("dovecot socket", path, None).await);
    }
    for (name, wanted, advice) in DOVECOT {
        findings.extend(dovecot_setting(name, wanted, advice));
    }
    findings
}

async fn replicas(args: &Args) -> Vec<Finding> {
    let (channels, _) = match args.replicas() {
        Ok(replicas) => replicas,
        Err(problem) => return vec![unwell("replicas", format!("{problem:#}"), "Fix the setting named above.")],
    };
    let mut findings = Vec::new();
    for (server, channel) in args.server.iter().zip(channels) {
        let asked = timeout(ANSWER_TIMEOUT, HealthClient::new(channel).check(HealthCheckRequest::default())).await;
        findings.push(match asked.map(|answer| answer.map(|answer| answer.into_inner().status())) {
            Ok(Ok(ServingStatus::Serving)) => well("replica", format!("{server} is ready")),
            Ok(Ok(_)) => unwell(
                "replica",
                format!("{server} is not ready"),
                "It runs but cannot reach its database. Its log has the details.",
            ),
            Ok(Err(status)) => unwell(
                "replica",
                format!("{server} does not answer: {}", status.message()),
                "Start it, or take it out of `server`. Check `ca`, if its certificate is your own.",
            ),
            Err(_) => unwell("replica", format!("{server} does not answer"), "Start it, or take it out of `server`."),
        });
    }
    findings
}

/// Whether somebody listens there, and who may connect. `client`: who is to find the handshake of
/// the Dovecot protocol there.
async fn socket(what: &'static str, path: &Path, client: Option<&str>) -> Finding {
    let shown = path.display();
    let mode = match std::fs::metadata(path) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(cause) => return unwell(what, format!("{shown}: {cause}"), "Start the agent; its log says what it listens on."),
    };
    let Ok(Ok(mut stream)) = timeout(ANSWER_TIMEOUT, UnixStream::connect(path)).await else {
        return unwell(
            what,
            format!("{shown}: nobody listens"),
            "Start the agent. Until then, mail clients are told to try later.",
        );
    };
    if client.is_some() {
        let mut greeting = [0; 8];
        let read = timeout(ANSWER_TIMEOUT, stream.read_exact(&mut greeting)).await;
        if !matches!(read, Ok(Ok(_))) || &greeting != b"VERSION\t" {
            return unwell(what, format!("{shown}: no agent listens there"), "Another program has taken the socket: stop it.");
        }
    }
    let found = format!("{shown} answers{}, mode {mode:04o}", client.map_or_else(String::new, |client| format!(" for {client}")));
    if mode & 0o007 == 0 {
        well(what, found)
    } else {
        let advice = "Every user of this host may try passwords there. Use mode=0660 and a folder of the mail server's group.";
        unwell(what, found, advice)
    }
}

/// A setting of Dovecot as it runs here; nothing where there is no Dovecot, or none with this
/// setting.
fn dovecot_setting(name: &'static str, wanted: &str, advice: &'static str) -> Option<Finding> {
    let asked = Command::new("doveconf").args(["-h", name]).output().ok().filter(|asked| asked.status.success())?;
    let value = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    // Dovecot writes sizes and times with their unit: "0", "0 secs".
    let is_right = value.split(' ').next() == Some(wanted);
    let found = format!("{name} = {value}");
    Some(if is_right { well("dovecot", found) } else { unwell("dovecot", found, advice) })
}

fn well(what: &'static str, found: String) -> Finding {
    Finding::good(what, found)
}

fn unwell(what: &'static str, found: String, advice: &'static str) -> Finding {
    Finding::problem(what, found, advice)
}
