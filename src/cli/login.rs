//! `latchkey login`: for the operator at the phone.

use std::net::IpAddr;

use super::{
    client::{ClientArgs, Session},
    device::protocol,
    failure::Failure,
    prompt, render,
    terminal::printable,
};
use crate::{exit::Exit, proto};

/// Our name in the history of logins.
const FRONTEND: &str = "latchkey login";

/// Ask whether a login would be let in, and why.
///
/// Asks for the password without showing it. It is a login like any other: it stands in the audit
/// trail, and counts for the throttle. Ends 0 for ALLOW, 1 for DENY and 3 when there is no answer.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey login alice@example.com
  latchkey login alice@example.com --protocol smtp --ip 192.0.2.7 --password-stdin < password")]
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
    /// What the mail program speaks
    #[arg(long, value_parser = protocol(), ignore_case = true, default_value = "imap")]
    protocol: proto::Protocol,
    /// Where the mail program is (default: not known)
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// Read the password from standard input, up to the end of the first line
    #[arg(long)]
    password_stdin: bool,
}

impl Options {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let password = if self.password_stdin {
            prompt::secret_from_stdin("--password-stdin")?
        } else {
            prompt::ask_secret(&format!("Password of {}: ", printable(&self.address)))?
        };
        let request = proto::AuthenticateRequest {
            address: self.address,
            password: password.expose().to_vec(),
            protocol: self.protocol.into(),
            client_ip: self.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            frontend: FRONTEND.to_owned(),
            stream_key: vec![],
        };
        let answer = session
            .authorization()
            .authenticate(session.request(request))
            .await
            .map_err(|status| Failure::from(status).of_login())?
            .into_inner();
        session.output.show(&answer, |out| {
            let device = if answer.device_id.is_empty() { String::new() } else { format!(" (device {})", answer.device_id) };
            let decision = match answer.decision() {
                proto::Decision::Allow => "ALLOW",
                proto::Decision::Deny => "DENY",
                proto::Decision::Unspecified => "NO ANSWER",
            };
            writeln!(out, "{decision}: {}{device}", render::reason(answer.reason()))
        })?;
        match answer.decision() {
            proto::Decision::Allow => Ok(Exit::Done),
            proto::Decision::Deny => Ok(Exit::Refused),
            proto::Decision::Unspecified => Err(Failure::no_answer("the server answered neither ALLOW nor DENY")),
        }
    }
}
