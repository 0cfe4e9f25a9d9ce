//! `latchkey serve`: a replica, put together and run.

mod demo;
pub mod replica;
mod settings;
mod waiting;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use futures_util::FutureExt;
use tokio::{net::TcpListener, sync::oneshot};
use tracing::{debug, error, info, warn};

use self::replica::Replica;
pub(super) use self::settings::open_store_as_it_is;
pub use self::settings::{Args, StoreSettings};
use crate::{
    clock::SystemClock,
    grpc::{
        caller::CallerPolicy,
        server::{self, Health, Services},
    },
    hashing::HashingPool,
    lifecycle::{Drain, notify_service_manager, run_for_ever, stop_on_signals},
    passwords::{
        hash::Hasher,
        pepper::{Pepper, PepperError},
    },
    replication::{Feed, Left},
    store::{Retention, Store, StoreError},
    telemetry::Telemetry,
};
use crate::{exit::Exit, tls};
use latchkey_core::model::clock::SharedClock;

/// How often something past its time is forgotten.
/// Longer than any lease is surely over: see [`Feed::remove_dead`].
const TRIM_INTERVAL: Duration = Duration::from_secs(75);
const LOG_KEPT: Duration = Duration::from_secs(3_600);
const PASSWORDS_KEPT: Duration = Duration::from_secs(90 * 86_400);
const PASSWORDS_PER_MAILBOX: usize = 20;
const REQUESTS_KEPT: Duration = Duration::from_secs(86_400);
const LOGINS_KEPT: Duration = Duration::from_secs(90 * 86_400);
/// For leaving. If it fails, revocations elsewhere wait for this process's lease.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// For writing the latest logins to the login log, after leaving.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// `latchkey serve`: a replica that runs until a signal stops it.
pub(super) fn command(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("the runtime can't be started").and_then(|runtime| {
        let outcome = runtime.block_on(async {
            let listener = bind(args.listen).await?;
            let (signaled, shutdown) = oneshot::channel();
            run_for_ever("signals", stop_on_signals(signaled));
            run(args, listener, shutdown.map(drop)).await
        });
        // What still runs is a call that outlived the drain.
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

/// Takes the place to listen on: before anything else, so that a place that is taken leaves nothing
/// behind.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}: is another process there? Choose another address with --listen"))
}

/// Runs a replica on a listener. When `shutdown` completes, the replica drains: it answers what is
/// under way, leaves, and this returns.
pub async fn run(args: &Args, listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let telemetry = Telemetry::start(&args.telemetry(), Arc::clone(&clock))?;
    log_panics_without_their_words();
    let policy = caller_policy(args)?;
    let settings = args.server()?;
    let mut server = server::builder(&settings, telemetry.rpc_layer()).map_err(|error| tls_problem(&error))?;
    let mut shutdown = Box::pin(shutdown);
    let Some(store) = waiting::open_store(&args.store, &settings, &listener, &mut shutdown).await? else {
        return Ok(());
    };
    let store = telemetry.observe(store);
    if args.demo {
        demo::refuse_real_data(&*store).await?;
    }
    let pepper = pepper(&args.store, &*store).await?;
    let hasher = Hasher::new(&pepper, args.hash_cost()).context("--argon2-…")?;
    let hashing = Arc::new(HashingPool::new(hasher, Arc::clone(&clock), args.hashing()));
    let replica = Replica::assemble(Arc::clone(&store), &pepper, hashing, Arc::clone(&clock), args.replica());
    let address = listener.local_addr()?;
    let drain = Drain::new();
    let to_drain = drain.clone();
    tokio::spawn(async move {
        shutdown.await;
        to_drain.start();
    });
    run_for_ever("feed", Arc::clone(&replica.feed).run());
    run_for_ever("sessions", Arc::clone(&replica.feed).run_sessions());
    run_for_ever("observation", Arc::clone(&replica.feed).run_observation());
    run_for_ever("history", Arc::clone(&replica.login_log).run(Arc::clone(&store)));
    run_for_ever("trim", trim(Arc::clone(&store), Arc::clone(&replica.feed), Arc::clone(&clock)));
    telemetry.gauges(replica.readings());

    let services = Services {
        authorization: replica.authorization(&drain),
        device_credentials: replica.device_credentials(),
        directory: replica.directory(&drain),
    };
    let (routes, health) = server::routes(services, &policy).context("the contract can't be reflected")?;
    health.set_ready(false).await;
    run_for_ever("readiness", report_readiness(health.clone(), replica.feed.health(), drain.clone()));
    let server = server.add_routes(routes).serve_with_incoming_shutdown(server::incoming(listener), drained(drain.clone()));
    tokio::select! {
        served = server => served.context("the server failed")?,
        Err(problem) = announce(args, &replica, address) => return Err(problem),
        () = overdue(drain, args.drain_timeout) => warn!("some calls took longer than the drain's time and are cut off"),
    }
    stop(&replica).await;
    telemetry.shutdown().await;
    Ok(())
}

/// Says that logins are served, once they are.
async fn announce(args: &Args, replica: &Replica, address: SocketAddr) -> anyhow::Result<()> {
    replica.feed.health().wait_for(|synced| *synced).await.context("the change feed has ended")?;
    if args.demo {
        let program = std::env::args().next().unwrap_or_else(|| "latchkey".to_owned());
        print!("{}", demo::prepare(&replica.directory, &replica.devices, &program, &address.to_string()).await?);
    }
    println!("Latchkey is ready on {address}");
    info!(%address, store = replica.store.system(), "serving");
    notify_service_manager("READY=1");
    Ok(())
}

/// Why the TLS files can't be used, by the flag that names the one.
fn tls_problem(error: &tonic::transport::Error) -> anyhow::Error {
    if tls::is_key_of_another(error) {
        return anyhow::anyhow!("the key in --tls-key does not fit the certificate in --tls-certificate");
    }
    anyhow::anyhow!(
        "--tls-certificate, --tls-key or --tls-client-ca can't be used: they must be PEM, a certificate (its own one first) \
         and its private key: {}",
        tls::root(error)
    )
}

/// A panic's words may hold what was being handled: its place is enough.
fn log_panics_without_their_words() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        error!(place, "a panic");
    }));
}

/// Everyone on this machine, or those whom the callers file names.
fn caller_policy(args: &Args) -> anyhow::Result<CallerPolicy> {
    if let Some(file) = &args.callers_file {
        let policy = CallerPolicy::load(file)?;
        if policy.names_certificates() && args.tls_client_ca.is_none() {
            bail!("the callers file {} names certificates, which nobody can show without --tls-client-ca", file.display());
        }
        if args.tls_certificate.is_none() && !is_local(args.listen) {
            warn!("without --tls-certificate, passwords and tokens cross the network unencrypted");
        }
        return Ok(policy);
    }
    if !is_local(args.listen) {
        bail!(
            "--listen {} can be reached from other machines, and without --callers-file everyone who reaches it may do everything. \
             Name the callers in a file (see the README, \"Who may call\"), or listen on 127.0.0.1",
            args.listen
        );
    }
    warn!("no --callers-file: everyone on this machine may do everything");
    Ok(CallerPolicy::local())
}

fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The pepper that the database was made with; a new one only for a database that has none.
async fn pepper(settings: &StoreSettings, store: &dyn Store) -> anyhow::Result<Pepper> {
    let file = settings.pepper_file();
    let known = store.pepper_checks().await?;
    let pepper = match Pepper::load(&file) {
        Err(PepperError::Missing(_)) if known.is_empty() => {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
            }
            let pepper = Pepper::random();
            pepper.create(&file)?;
            info!(file = %file.display(), "made a new pepper: keep a copy of it apart from the database's backups");
            pepper
        }
        loaded => loaded?,
    };
    for key in pepper.verify_against(&file, &known)? {
        match store.add_pepper_check(key, pepper.check(key)).await {
            Ok(()) => (),
            // Another replica was faster: it has the same pepper, or this one has a wrong one.
            Err(StoreError::Conflict(_)) => {
                pepper.verify_against(&file, &store.pepper_checks().await?)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(pepper)
}

async fn report_readiness(health: Health, mut synced: tokio::sync::watch::Receiver<bool>, drain: Drain) {
    loop {
        let is_ready = *synced.borrow_and_update() && !drain.has_started();
        health.set_ready(is_ready).await;
        if drain.has_started() {
            return std::future::pending().await;
        }
        tokio::select! {
            _ = synced.changed() => (),
            () = drain.started() => (),
        }
    }
}

async fn trim(store: Arc<dyn Store>, feed: Arc<Feed>, clock: SharedClock) {
    let mut nodes = vec![];
    loop {
        tokio::time::sleep(TRIM_INTERVAL).await;
        if let Err(error) = feed.remove_dead(&mut nodes).await {
            debug!(%error, "dead processes' rows were not looked for; it is tried again");
        }
        let limits = Retention::before(clock.wall(), LOG_KEPT, PASSWORDS_KEPT, PASSWORDS_PER_MAILBOX, REQUESTS_KEPT, LOGINS_KEPT);
        if let Err(error) = store.trim(&limits).await {
            warn!(%error, "what is past its time was not forgotten; it is tried again");
        }
    }
}

async fn drained(drain: Drain) {
    drain.started().await;
}

async fn overdue(drain: Drain, timeout: Duration) {
    drain.started().await;
    tokio::time::sleep(timeout).await;
}

async fn stop(replica: &Replica) {
    // Leaving comes first: a row that stays delays every revocation elsewhere by a whole lease. The
    // login log is only for people to read.
    match tokio::time::timeout(LEAVE_TIMEOUT, replica.feed.leave()).await {
        Ok(Ok(Left::Gone)) => info!("stopped"),
        Ok(Ok(Left::WatchersRemain)) => {
            warn!(
                "stopped, while watchers may still answer from their caches: revocations elsewhere wait out this process's lease once"
            );
        }
        Ok(Err(error)) => warn!(%error, "stopped, without leaving: revocations elsewhere wait out this process's lease once"),
        Err(_) => warn!("stopped, without leaving: revocations elsewhere wait out this process's lease once"),
    }
    if tokio::time::timeout(FLUSH_TIMEOUT, replica.login_log.flush(&*replica.store)).await.is_err() {
        warn!("the latest logins were not written to the login log: the database did not answer in time");
    }
}
