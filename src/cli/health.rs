//! `latchkey health`: a probe, for Kubernetes, Docker and load balancers.

use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{
    client::{ClientArgs, Session},
    failure::Failure,
};
use crate::exit::Exit;

/// Ask whether a server is ready for logins.
///
/// Uses the gRPC health protocol, over TLS if --server begins with https://. Needs no token. Exits
/// with 0 if the server is ready, 1 if it is not (it is starting, draining, or cut off from its
/// database), and 3 if there is no answer.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey health
  latchkey health --timeout 2s
  latchkey health --server https://latchkey.example:50051 --ca /etc/latchkey/ca.pem")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

pub(super) async fn run(session: &Session) -> Result<Exit, Failure> {
    let request = session.request(HealthCheckRequest::default());
    let status = session.health().check(request).await?.into_inner().status();
    let is_ready = status == ServingStatus::Serving;
    if session.output.is_json() {
        println!("{}", json!({ "status": status.as_str_name() }));
    } else {
        println!("{}", if is_ready { "Ready." } else { "Not ready." });
    }
    Ok(if is_ready { Exit::Done } else { Exit::Refused })
}
