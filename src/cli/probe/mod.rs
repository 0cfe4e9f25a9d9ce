//! `latchkey probe`: measures from outside how fast a mail server stops accepting a revoked
//! password. It asks nothing of Latchkey.

mod conversation;
mod dialog;
mod hold;
mod imap;
mod measure;
mod pop3;
mod protocol;
mod report;
mod smtp;
mod target;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::builder::BoolishValueParser;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use self::{
    dialog::PASSWORD_VARIABLE,
    measure::{Plan, measure},
    protocol::Credentials,
    report::Report,
    target::{Server, Target},
};
use super::{failure::Failure, prompt, terminal::printable};
use crate::{config::duration, exit::Exit};
use latchkey_core::model::secret::Secret;

const MAX_PASSWORD_BYTES: u64 = 4_096;
const MAX_USER_BYTES: usize = 1_024;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);

/// Measure how fast a mail server stops accepting a password that was revoked
///
/// Logs in at any IMAP, POP3 or SMTP server, holds a session open, runs the command that revokes
/// the password, and keeps trying to log in. Prints when the last login was accepted and when the
/// session ended, in seconds from the command's end. No mail is read or sent. Works with any mail
/// server, with Latchkey or without.
///
/// The password comes from the terminal, from --password-file or --password-stdin, or from the
/// variable LATCHKEY_PROBE_PASSWORD. Over imap://, pop3:// and smtp:// it is sent once the server
/// has switched to TLS (STARTTLS); without TLS only to a loopback address.
///
/// Ends 0 (revoked: logins are denied and the session has ended), 1 (still accepted or still open
/// at the end), 2 (usage) or 3 (no answer).
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey probe imaps://mail.example.com --user alice@example.com -- \\
    latchkey device disconnect alice@example.com \"Alice's phone\"
  latchkey probe smtp://127.0.0.1:587 --user alice --password-file pw --for 2m --json -- ./revoke.sh alice")]
pub(super) struct Args {
    /// The server: imap://, imaps://, pop3://, pop3s://, smtp:// or smtps://, with a port if it is
    /// not the usual one
    #[arg(value_name = "URL", value_parser = Server::parse)]
    server: Server,
    /// The user name to log in with
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "password_stdin")]
    password_file: Option<PathBuf>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// From one login's beginning to the next one's, 1ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration(MILLISECOND..=HOUR))]
    every: Duration,
    /// How long to go on after the command has ended, at most, up to 6h
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = duration(MILLISECOND..=HOUR * 6))]
    limit: Duration,
    /// End earlier, once the session has ended and no login was accepted for so long
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration(MILLISECOND..=HOUR * 6))]
    settle: Duration,
    /// How long one login may take, 100ms to 5m
    #[arg(long, value_name = "DURATION", default_value = "30s",
        value_parser = duration(MILLISECOND * 100..=Duration::from_mins(5)))]
    timeout: Duration,
    /// How long the revoking command may take, 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration(MILLISECOND * 100..=HOUR))]
    command_timeout: Duration,
    /// Logins to try, at most
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    max_logins: u32,
    /// Whom to trust for TLS: certificates in PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that the server's certificate must have [default: the host of the URL]
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// Send the password without TLS, where the server offers none, over the network too
    #[arg(long)]
    allow_cleartext: bool,
    /// Print the figures as JSON
    #[arg(long, env = "LATCHKEY_JSON", hide_env_values = true, value_parser = BoolishValueParser::new())]
    json: bool,
    /// The command that revokes the password, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let json = self.json;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from);
        let outcome = runtime.and_then(|runtime| {
            let outcome = runtime.block_on(self.probe());
            runtime.shutdown_background();
            outcome
        });
        outcome.unwrap_or_else(|failure| failure.report(json)).into()
    }

    async fn probe(self) -> Result<Exit, Failure> {
        if self.user.is_empty() || self.user.len() > MAX_USER_BYTES || self.user.chars().any(char::is_control) {
            return Err(Failure::usage("--user: must be 1 to 1,024 bytes, without control characters"));
        }
        let target = self.target()?;
        let credentials = Credentials { password: self.password()?, user: self.user };
        let plan = Plan {
            every: self.every,
            limit: self.limit,
            settle: self.settle,
            timeout: self.timeout,
            max_logins: self.max_logins as usize,
            command: self.command,
            command_timeout: self.command_timeout,
        };
        let measured = measure(&target, &credentials, &plan).await?;
        let report = Report::of(&measured);
        let mut out = io::stdout().lock();
        if self.json {
            report.write_json(&mut out, &target.server, &credentials.user)?;
        } else {
            report.write_words(&mut out, &target.server, &credentials.user)?;
        }
        out.flush()?;
        Ok(report.exit())
    }

    fn target(&self) -> Result<Target, Failure> {
        let name = self.tls_name.as_ref().unwrap_or(&self.server.host);
        let tls_name = ServerName::try_from(name.clone()).map_err(|error| {
            Failure::usage(format!("{name}: can't be a certificate's name: {error}. Give one with --tls-name"))
        })?;
        Ok(Target {
            tls: Arc::new(tls(self.ca.as_deref())?),
            tls_name,
            may_be_clear: self.allow_cleartext || self.server.is_loopback(),
            server: self.server.clone(),
        })
    }

    fn password(&self) -> Result<Secret, Failure> {
        let password = if let Some(file) = &self.password_file {
            first_line(file)?
        } else if self.password_stdin {
            prompt::secret_from_stdin("--password-stdin")?
        } else if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
            Secret::from(password)
        } else {
            prompt::ask_secret(&format!("Password of {}: ", printable(&self.user)))?
        };
        if password.expose().is_empty() || password.expose().iter().any(|byte| b"\0\r\n".contains(byte)) {
            return Err(Failure::usage("the password: must not be empty, and must not hold NUL, CR or LF"));
        }
        Ok(password)
    }
}

fn first_line(file: &Path) -> Result<Secret, Failure> {
    let named = file.display();
    let mut line = Vec::with_capacity(MAX_PASSWORD_BYTES as usize + 1);
    File::open(file)
        .and_then(|opened| BufReader::new(opened.take(MAX_PASSWORD_BYTES + 1)).read_until(b'\n', &mut line))
        .map_err(|error| Failure::usage(format!("--password-file {named}: {error}")))?;
    if line.len() as u64 > MAX_PASSWORD_BYTES {
        return Err(Failure::usage(format!("--password-file {named}: the first line is longer than {MAX_PASSWORD_BYTES} bytes")));
    }
    for end in [b'\n', b'\r'] {
        line.pop_if(|byte| *byte == end);
    }
    Ok(Secret::new(line))
}

/// Verifies certificates, always: a probe gives a password away.
fn tls(ca: Option<&Path>) -> Result<ClientConfig, Failure> {
    let certificates: Vec<CertificateDer<'static>> = match ca {
        Some(file) => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|error| Failure::usage(format!("--ca {}: {error}", file.display())))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if ca.is_some() && added == 0 {
        return Err(Failure::usage("--ca: the file holds no certificate"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Failure::usage(format!("TLS: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
