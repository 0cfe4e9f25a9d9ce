//! `latchkey doctor`: what is wrong with this installation, and what to do.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Command, FromArgMatches};
use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{client::ClientArgs, failure::message};
use crate::serve::{StoreSettings, open_store_as_it_is};
use crate::{
    agent, config,
    exit::Exit,
    passwords::pepper::{Pepper, PepperError},
    store::{Finding, OpenError, Store},
};

/// Clock sources that go on while other virtual machines run, and are read without a system call.
const GOOD_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];

/// Look what is wrong with this installation, and say what to do
///
/// Looks at the pepper file, the database, the clock, and the server if one runs; with --agent at a
/// mail host: its replicas, the agent's sockets, and settings of Dovecot that would undo a
/// revocation. Ends 0 if all is well, 1 if something is to be done.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey doctor --data-dir /var/lib/latchkey
  latchkey doctor --agent /etc/latchkey/agent.toml
  latchkey doctor --database-url postgres://latchkey@db/latchkey --pepper-file /etc/latchkey/pepper")]
pub(super) struct Args {
    /// Look at a mail host instead: FILE has the settings of its agent
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// `command` is the whole of latchkey's, by which an agent's settings are read.
    pub(super) fn run(&self, command: Command) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(problem) => {
                eprintln!("error: {problem}");
                return Exit::NoAnswer.into();
            }
        };
        let findings = runtime.block_on(self.examine(command));
        for finding in &findings {
            self.show(finding);
        }
        let problems = findings.iter().filter(|finding| finding.is_problem).count();
        if !self.client.json {
            println!("{}", if problems == 0 { "No problems found.".to_owned() } else { format!("Problems found: {problems}.") });
        }
        if problems == 0 { Exit::Done } else { Exit::Refused }.into()
    }

    async fn examine(&self, command: Command) -> Vec<Finding> {
        let mut findings = vec![clock()];
        if let Some(file) = &self.agent {
            findings.extend(match agent_settings(command, file) {
                Ok(settings) => agent::examine(&settings).await,
                Err(problem) => vec![Finding::problem("agent", problem, "Fix the setting named above.")],
            });
            return findings;
        }
        let pepper = Pepper::load(&self.store.pepper_file());
        findings.push(match &pepper {
            Ok(pepper) => Finding::good("pepper", format!("{} key(s), mode 0600", pepper.keys().count())),
            Err(PepperError::Missing(_)) if self.store.is_new() => Finding::problem(
                "pepper",
                "not there yet".to_owned(),
                "`latchkey serve` creates it. If you expected it to exist, check --data-dir.",
            ),
            Err(problem) => Finding::problem(
                "pepper",
                problem.to_string(),
                "Without the pepper, no password can be verified. Fix the problem named above.",
            ),
        });
        let is_running = self.server(&mut findings).await;
        match open_store_as_it_is(&self.store).await {
            Ok(store) => self.database(&*store, pepper.ok(), &mut findings).await,
            Err(problem) => match problem.downcast_ref::<OpenError>() {
                Some(OpenError::Locked { server, .. }) if is_running => findings.push(self.in_use(*server).await),
                Some(OpenError::NotThere | OpenError::OlderSchema { .. }) => {
                    findings.push(Finding::problem("database", problem.to_string(), "Start the server of this version."));
                }
                _ => findings.push(Finding::problem(
                    "database",
                    problem.to_string(),
                    "Without the database, no login can be answered. Fix the problem named above.",
                )),
            },
        }
        findings
    }

    async fn database(&self, store: &dyn Store, pepper: Option<Pepper>, findings: &mut Vec<Finding>) {
        match store.examine().await {
            Ok(found) => findings.extend(found),
            Err(problem) => {
                findings.push(Finding::problem("database", problem.to_string(), "The database's log has the details."))
            }
        }
        if let (Some(pepper), Ok(known)) = (pepper, store.pepper_checks().await) {
            findings.push(match pepper.verify_against(&self.store.pepper_file(), &known) {
                Ok(_) => Finding::good("pepper and database", "belong together".to_owned()),
                Err(problem) => Finding::problem(
                    "pepper and database",
                    problem.to_string(),
                    "Restore the pepper file that belongs to this database.",
                ),
            });
        }
        if let Ok(nodes) = store.nodes().await
            && !self.store.is_sqlite()
        {
            let names: Vec<_> = nodes.iter().map(|node| format!("{} (lease {:?})", node.name, node.lease)).collect();
            let differ = nodes.windows(2).any(|pair| pair[0].lease != pair[1].lease);
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let advice =
                "The replicas have different --lease settings, and a revocation waits for the longest. Use the same everywhere.";
            findings.push(if differ { Finding::problem("replicas", found, advice) } else { Finding::good("replicas", found) });
        }
    }

    /// Of an embedded database that is locked, while the server that was asked is ready: is that
    /// the one that holds it?
    async fn in_use(&self, holder: Option<SocketAddr>) -> Finding {
        let Some(holder) = holder else {
            return Finding::note(
                "database",
                "in use by a process that does not say where it listens",
                "Is it the server above? Stop it to have the database looked at.",
            );
        };
        if self.is_at(holder).await {
            return Finding::good("database", "in use by the running server, which is ready");
        }
        Finding::problem(
            "database",
            format!("in use by a server that listens on {holder}; the one above is another"),
            "Name the one that holds it with --server.",
        )
    }

    /// Whether `--server` leads to a socket that listens there.
    async fn is_at(&self, holder: SocketAddr) -> bool {
        let Ok(url) = self.client.server.parse::<http::Uri>() else {
            return false;
        };
        let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let Ok(addresses) = tokio::net::lookup_host((host, url.port_u16().unwrap_or(default))).await else {
            return false;
        };
        // One that listens on all addresses of this host answers on any of them.
        let is_there = |address: SocketAddr| {
            address.port() == holder.port()
                && (address.ip() == holder.ip()
                    || holder.ip().is_unspecified() && std::net::UdpSocket::bind((address.ip(), 0)).is_ok())
        };
        addresses.into_iter().any(is_there)
    }

    /// Whether a server answers that it is ready.
    async fn server(&self, findings: &mut Vec<Finding>) -> bool {
        let server = &self.client.server;
        let session = match self.client.clone().connect() {
            Ok(session) => session,
            Err(failure) => {
                findings.push(Finding::problem("server", failure.to_string(), "Fix the flag named above."));
                return false;
            }
        };
        let asked = session.health().check(session.request(HealthCheckRequest::default())).await;
        match asked.map(|answer| answer.into_inner().status()) {
            Ok(ServingStatus::Serving) => {
                findings.push(Finding::good("server", format!("{server} is ready")));
                true
            }
            Ok(_) => {
                let advice = "It runs but cannot reach its database. Its log has the details.";
                findings.push(Finding::problem("server", format!("{server} is not ready"), advice));
                false
            }
            Err(status) => {
                let found = format!("{server} does not answer: {}", message(&status));
                findings.push(Finding::problem(
                    "server",
                    found,
                    "Start it, or name it with --server (and --ca, if its certificate is your own).",
                ));
                false
            }
        }
    }

    fn show(&self, finding: &Finding) {
        let Finding { what, found, advice, is_problem } = finding;
        if self.client.json {
            println!("{}", json!({ "what": what, "found": found, "advice": advice, "problem": is_problem }));
            return;
        }
        let sign = match (advice, is_problem) {
            (_, true) => "LOOK",
            (Some(_), false) => "note",
            (None, false) => "ok  ",
        };
        println!("{sign} {what}: {found}");
        if let Some(advice) = advice {
            println!("     {advice}");
        }
    }
}

/// The settings that `latchkey agent --config FILE` would run with here, variables of the
/// environment included.
fn agent_settings(command: Command, file: &Path) -> Result<agent::Args, String> {
    let arguments: [OsString; 4] = ["latchkey".into(), "agent".into(), config::FLAG.into(), file.into()];
    let command = config::with_file(command, &arguments).map_err(|problem| problem.to_string())?;
    let matches = command.try_get_matches_from(arguments).map_err(|problem| problem.to_string())?;
    let matches = matches.subcommand_matches("agent").ok_or("the settings are not the agent's")?;
    agent::Args::from_arg_matches(matches).map_err(|problem| problem.to_string())
}

/// Leases count on a clock that runs evenly.
fn clock() -> Finding {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    match source.as_deref().map(str::trim) {
        Ok(name) if GOOD_CLOCKS.contains(&name) => Finding::good("clock source", name.to_owned()),
        Ok(name) => Finding::note(
            "clock source",
            name.to_owned(),
            "A slow clock source slows every login down. Check whether the kernel or the hypervisor has switched tsc off.",
        ),
        Err(_) => Finding::good("clock source", "unknown on this system".to_owned()),
    }
}
