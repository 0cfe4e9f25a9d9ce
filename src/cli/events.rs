//! `latchkey events`: the audit trail.

use super::{
    client::{ClientArgs, Session},
    device::device_id,
    failure::Failure,
};
use crate::exit::Exit;
use crate::proto::{self, list_events_request::Scope};

/// Show the audit trail of a mailbox, newest first.
///
/// It shows who changed what, when and from where. Logins are counted by device, protocol, outcome and hour.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey events alice@example.com
  latchkey events alice@example.com --device \"Alice's phone\" --limit 10")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct Options {
    /// The mailbox
    address: String,
    /// Only events of this device: its id, or its name
    #[arg(long)]
    device: Option<String>,
    /// Show at most N
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl Options {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let device_id = match &self.device {
            Some(device) => device_id(session, &self.address, device, true).await?,
            None => String::new(),
        };
        session
            .list(Some(self.limit), async |page| {
                let request = proto::ListEventsRequest {
                    scope: Some(Scope::Address(self.address.clone())),
                    start_time: None,
                    end_time: None,
                    page_size: page.size,
                    page_token: page.token,
                    device_id: device_id.clone(),
                };
                Ok(session.devices().list_events(session.request(request)).await?.into_inner())
            })
            .await
    }
}
