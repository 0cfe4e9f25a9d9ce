//! `latchkey doctor`: what is wrong with this installation, and what to do.

use std::{
    ffi::OsString,
    fs,
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
        let unwell = findings.iter().filter(|finding| finding.advice.is_some()).count();
        if !self.client.json {
            println!("{}", if unwell == 0 { "No problems found.".to_owned() } else { format!("Problems found: {unwell}.") });
        }
        if unwell == 0 { Exit::Done } else { Exit::Refused }.into()
    }

    async fn examine(&self, command: Command) -> Vec<Finding> {
        let mut findings = vec![clock()];
        if let Some(file) = &self.agent {
            findings.extend(match agent_settings(command, file) {
                Ok(settings) => agent::examine(&settings).await,
                Err(problem) => vec![unwell("agent", problem, "Fix the setting named above.")],
            });
            return findings;
        }
        let pepper = Pepper::load(&self.store.pepper_file());
        findings.push(match &pepper {
            Ok(pepper) => well("pepper", format!("{} key(s), mode 0600", pepper.keys().count())),
            Err(PepperError::Missing(_)) if self.store.is_new() => unwell(
                "pepper",
                "not there yet".to_owned(),
                "`latchkey serve` creates it. If you expected it to exist, check --data-dir.",
            ),
            Err(problem) => unwell(
                "pepper",
                problem.to_string(),
                "Without the pepper, no password can be verified. Fix the problem named above.",
            ),
        });
        let is_running = self.server(&mut findings).await;
        match open_store_as_it_is(&self.store).await {
            Ok(store) => self.database(&*store, pepper.ok(), &mut findings).await,
            Err(problem) => match problem.downcast_ref::<OpenError>() {
                Some(OpenError::Locked { .. }) if is_running => {
                    findings.push(well("database", "in use by the running server, which is ready".to_owned()));
                }
                Some(OpenError::NotThere | OpenError::OlderSchema { .. }) => {
                    findings.push(unwell("database", problem.to_string(), "Start the server of this version."));
                }
                _ => findings.push(unwell(
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
            Err(problem) => findings.push(unwell("database", problem.to_string(), "The database's log has the details.")),
        }
        if let (Some(pepper), Ok(known)) = (pepper, store.pepper_checks().await) {
            findings.push(match pepper.verify_against(&self.store.pepper_file(), &known) {
                Ok(_) => well("pepper and database", "belong together".to_owned()),
                Err(problem) => {
                    unwell("pepper and database", problem.to_string(), "Restore the pepper file that belongs to this database.")
                }
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
            findings.push(if differ { unwell("replicas", found, advice) } else { well("replicas", found) });
        }
    }

    /// Whether a server answers that it is ready.
    async fn server(&self, findings: &mut Vec<Finding>) -> bool {
        let server = &self.client.server;
        let session = match self.client.clone().connect() {
            Ok(session) => session,
            Err(failure) => {
                findings.push(unwell("server", failure.to_string(), "Fix the flag named above."));
                return false;
            }
        };
        let asked = session.health().check(session.request(HealthCheckRequest::default())).await;
        match asked.map(|answer| answer.into_inner().status()) {
            Ok(ServingStatus::Serving) => {
                findings.push(well("server", format!("{server} is ready")));
                true
            }
            Ok(_) => {
                let advice = "It runs but cannot reach its database. Its log has the details.";
                findings.push(unwell("server", format!("{server} is not ready"), advice));
                false
            }
            Err(status) => {
                let found = format!("{server} does not answer: {}", message(&status));
                findings.push(unwell(
                    "server",
                    found,
                    "Start it, or name it with --server (and --ca, if its certificate is your own).",
                ));
                false
            }
        }
    }

    fn show(&self, finding: &Finding) {
        let Finding { what, found, advice } = finding;
        if self.client.json {
            println!("{}", json!({ "what": what, "found": found, "advice": advice }));
            return;
        }
        println!("{} {what}: {found}", if advice.is_none() { "ok  " } else { "LOOK" });
        if let Some(advice) = advice {
            println!("     {advice}");
        }
    }
}

/// The settings that `latchkey agent --config FILE` would run with here, variables of the
/// environment included.
/// included.
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
        Ok(name) if GOOD_CLOCKS.contains(&name) => well("clock source", name.to_owned()),
        Ok(name) => unwell(
            "clock source",
            name.to_owned(),
            "A slow clock source slows every login down. Check whether the kernel or the hypervisor has switched tsc off.",
        ),
        Err(_) => well("clock source", "unknown on this system".to_owned()),
    }
}

fn well(what: &'static str, found: String) -> Finding {
    Finding { what, found, advice: None }
}

fn unwell(what: &'static str, found: String, advice: &str) -> Finding {
    Finding { what, found, advice: Some(advice.to_owned()) }
}
