//! `latchkey agent`: the process of a mail host, put together and run.
//!
//! A door is a task that owns its listener, started in [`run`] by `run_for_ever` with a [`Host`];
//! it must not end. When the drain starts it takes no new connection, and answers what is under
//! way.

mod counts;
mod examine;
mod limits;
mod settings;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::FutureExt;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::counts::Counts;
pub(crate) use self::examine::examine;
pub use self::settings::{Args, SaslListen};
use crate::{
    authority::Host,
    clock::SystemClock,
    closing::Closers,
    dovecot::{
        ClientKind, master,
        sasl::{self, Sasl, Timeouts},
        services::Services,
    },
    exit::Exit,
    http,
    lifecycle::{Drain, notify_service_manager, run_for_ever, stop_on_signals},
    policy,
    sessions::{self, Sessions},
    smtp_logins::SmtpLogins,
    sockets::{DEFAULT_MODE, Listener, Place},
    telemetry::Telemetry,
    upstream::{Settings, Upstream},
};
use latchkey_core::model::secret::Secret;

/// The sockets, bound. A test may make its own.
#[derive(Debug, Default)]
pub struct Listeners {
    pub sasl: Vec<(Listener, ClientKind)>,
    pub dovecot_master: Option<Listener>,
    pub http: Option<TcpListener>,
    pub policy: Vec<Listener>,
}

/// `latchkey agent`: runs until a signal stops it.
pub(super) fn command(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("the runtime can't be started").and_then(|runtime| {
        let outcome = runtime.block_on(async {
            let listeners = Listeners::bind(args).await?;
            let (signaled, shutdown) = oneshot::channel();
            run_for_ever("signals", stop_on_signals(signaled));
            run(args, listeners, shutdown.map(drop)).await
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    });
    match outcome {
        Ok(()) => Exit::Done.into(),
        Err(problem) => {
            eprintln!("error: {problem:#}");
            Exit::Refused.into()
        }
    }
}

impl Listeners {
    /// Binds what the settings name.
    pub async fn bind(args: &Args) -> anyhow::Result<Self> {
        let mut listeners = Self::default();
        anyhow::ensure!(
            args.dovecot_login_listen.is_none(),
            "--dovecot-login-listen: the agent does not take the place of Dovecot's authentication server. Have its Lua passdb ask \
             --http-listen, and its mail processes --dovecot-master-listen: see deploy/dovecot"
        );
        for SaslListen { place, client } in &args.sasl_listen {
            listeners.sasl.push((bind("--sasl-listen", place).await?, *client));
        }
        let unix = |path: &PathBuf| Place::Unix { path: path.clone(), mode: DEFAULT_MODE };
        if let Some(path) = &args.dovecot_master_listen {
            listeners.dovecot_master = Some(bind("--dovecot-master-listen", &unix(path)).await?);
        }
        if let Some(address) = args.http_listen {
            let bound = TcpListener::bind(address).await;
            listeners.http = Some(bound.with_context(|| format!("--http-listen: can't listen on {address}"))?);
        }
        for place in &args.policy_listen {
            listeners.policy.push(bind("--policy-listen", place).await?);
        }
        Ok(listeners)
    }
}

impl Listeners {
    /// Where it listens over TCP, a line for each.
    fn addresses(&self) -> Vec<String> {
        let sasl = self.sasl.iter().filter_map(|(listener, kind)| Some(("sasl", kind.name(), listener.tcp_address()?)));
        let http = self.http.iter().filter_map(|listener| Some(("http", "http", listener.local_addr().ok()?)));
        sasl.chain(http).map(|(what, client, address)| format!("Listening for {what} ({client}) on {address}")).collect()
    }
}

async fn bind(flag: &str, place: &Place) -> anyhow::Result<Listener> {
    Listener::bind(place).await.with_context(|| format!("{flag}: can't listen on {place}"))
}

/// Runs an agent on its listeners. When `shutdown` completes, the agent drains: it answers what is
/// under way, and this returns.
pub async fn run(
    args: &Args,
    mut listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let telemetry = Telemetry::start(&args.telemetry(), Arc::clone(&clock))?;
    let name = args.host_name();
    let (replicas, credentials) = args.replicas()?;
    let http_secret = args.http_secret()?;
    let settings = Settings {
        replicas,
        name: name.clone(),
        credentials,
        cache_mailboxes: args.cache_mailboxes,
        close_when_cut_off_for: args.close_when_cut_off_for,
    };
    let closers = Arc::new(Closers::default());
    let closer = Arc::clone(&closers);
    let upstream = Upstream::new(settings, Arc::clone(&clock), Arc::new(move |number, reason| closer.close(number, reason)));
    let upstream = Arc::new(upstream);
    let drain = Drain::new();
    let to_drain = drain.clone();
    tokio::spawn(async move {
        shutdown.await;
        to_drain.start();
    });
    run_for_ever("upstream", Arc::clone(&upstream).run());
    let host = Host {
        authority: Arc::clone(&upstream) as _,
        closers,
        clock,
        drain: drain.clone(),
        connections: TaskTracker::new(),
        name: name.as_str().into(),
    };
    if let Some(listener) = listeners.dovecot_master.take() {
        start_dovecot_master(args, &host, listener)?;
    }
    let addresses = listeners.addresses();
    if let Some(listener) = listeners.http.take() {
        run_for_ever("http", http::run(listener, http_settings(args, http_secret, &upstream), host.clone()));
    }
    let counts = start_doors(args, &host, listeners);
    telemetry.gauges(counts.readings(Arc::clone(&upstream)));
    for address in addresses {
        println!("{address}");
    }
    // Mail servers may start: until a replica is followed, they are told to try later.
    notify_service_manager("READY=1");

    let mut connected = upstream.connected();
    tokio::select! {
        followed = connected.wait_for(|connected| *connected) => {
            followed.context("no replica is followed any more")?;
            println!("Latchkey's agent is ready");
            info!(name, "serving");
            drain.started().await;
        }
        () = drain.started() => (),
    }
    host.connections.close();
    if tokio::time::timeout(args.drain_timeout, host.connections.wait()).await.is_err() {
        warn!(connections = host.connections.len(), "some answers took longer than the drain's time and are cut off");
    }
    // Last, so that no answer from the cache is given after nobody waits for this host any more.
    upstream.stop().await;
    info!("stopped");
    telemetry.shutdown().await;
    Ok(())
}

fn http_settings(args: &Args, secret: Option<Secret>, upstream: &Arc<Upstream>) -> http::Settings {
    let (upstream, connected) = (Arc::clone(upstream), upstream.connected());
    let services = Services::new(args.service_protocol.clone());
    http::Settings {
        secret,
        backends: args.nginx_backend.iter().map(|(protocol, address)| (protocol.name(), *address)).collect(),
        frontend: args.host_name(),
        service: Box::new(move |name| services.protocol(name)),
        is_ready: Box::new(move || *connected.borrow() || upstream.has_lease()),
    }
}

/// Starts each door as a task that never ends.
fn start_doors(args: &Args, host: &Host, listeners: Listeners) -> Counts {
    let Listeners { sasl, dovecot_master: _, http: _, policy } = listeners;
    let counts = Counts::default();
    let (logins, report) = SmtpLogins::new(Arc::clone(&host.authority), Arc::clone(&host.closers), Arc::clone(&host.clock));
    run_for_ever("refusals", report);
    // Without a policy socket nobody asks about sessions, and to report them would let revocations
    // wait for them.
    let asked_about = (!policy.is_empty()).then(|| Arc::clone(&logins));
    for (listener, kind) in sasl {
        let sasl = Sasl {
            kind,
            services: Services::new(args.service_protocol.clone()),
            logins: asked_about.clone(),
            counts: Arc::clone(&counts.sasl),
            timeouts: Timeouts::default(),
        };
        run_for_ever("sasl", sasl::run(listener, sasl, host.clone()));
    }
    for listener in policy {
        run_for_ever("policy", policy::run(listener, Arc::clone(&logins), Arc::clone(&counts.policy), host.clone()));
    }
    Counts { smtp_logins: Some(logins), ..counts }
}

/// Starts what Dovecot's mail processes ask, after it has taken up the sessions that the last agent
/// left open.
fn start_dovecot_master(args: &Args, host: &Host, listener: Listener) -> anyhow::Result<()> {
    limits::raise_open_files();
    let folder = args.runtime_dir.join("sessions");
    let settings = sessions::Settings { folder: folder.clone(), kill_after: args.kill_after };
    let sessions = Sessions::new(host.clone(), settings)
        .with_context(|| format!("--runtime-dir: sessions can't be remembered in {}", folder.display()))?;
    let resumed = sessions.resume().with_context(|| format!("--runtime-dir: {} can't be read", folder.display()))?;
    if resumed > 0 {
        info!(sessions = resumed, "sessions that were open before this start are watched again");
    }
    let settings = master::Settings {
        auth_master: args.dovecot_auth_master.clone(),
        services: Services::new(args.service_protocol.clone()),
    };
    run_for_ever("dovecot-master", master::run(listener, settings, host.clone(), sessions));
    Ok(())
}
