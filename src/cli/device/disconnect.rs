//! `latchkey device disconnect`, `disconnect-all` and `disconnect-user`.

use std::io::{self, Write};

use super::{args::Scope, find};
use crate::{
    cli::{
        client::{Session, request_id},
        failure::Failure,
        list::Page,
        prompt, render,
        revocation::WaitArgs,
        table::Table,
    },
    exit::Exit,
    proto,
};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct DisconnectAll {
    /// The mailbox
    address: String,
    /// The etag of the list that was confirmed, from `device list --json`; then it does not ask
    #[arg(long)]
    etag: Option<String>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Show what would be disconnected, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

impl DisconnectAll {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let etag = match &self.etag {
            Some(etag) => etag.clone(),
            None if self.dry_run => String::new(),
            None => match self.agreed_etag(session).await? {
                Some(etag) => etag,
                None => return Err(Failure::refused("nothing was disconnected")),
            },
        };
        let request = proto::DisconnectAllDevicesRequest {
            address: self.address.clone(),
            etag,
            validate_only: self.dry_run,
            request_id: request_id(),
            max_wait: self.wait.max_wait(),
        };
        let answer = session
            .devices()
            .disconnect_all_devices(session.request_that_waits(request, self.wait.longest()))
            .await?
            .into_inner();
        session.output.show(&answer, |out| {
            if self.dry_run {
                write_devices(out, &answer.devices)?;
                return writeln!(out, "{} of {} would be disconnected.", count(answer.devices.len()), self.address);
            }
            writeln!(out, "{} of {} disconnected.", count(answer.devices.len()), self.address)?;
            writeln!(out, "{}", render::revocation(answer.revocation.as_ref()))
        })?;
        Ok(Exit::Done)
    }

    /// Shows what would go and asks. The etag of the list that the person agreed to; `None` if they
    /// did not.
    async fn agreed_etag(&self, session: &Session) -> Result<Option<String>, Failure> {
        let list = find::all(session, &self.address, false).await?;
        if !session.output.is_json() {
            write_devices(&mut io::stderr().lock(), &list.devices)?;
        }
        let question = format!("Disconnect {} of {}?", count(list.devices.len()), self.address);
        let agreed = self.yes
            || prompt::confirm(
                &question,
                "Look at the list, then say it again with --yes, or with --etag from `device list --json`.",
            )?;
        Ok(agreed.then_some(list.etag))
    }
}

/// Disconnects one device.
pub(super) async fn one(session: &Session, address: String, device: &str, wait: &WaitArgs) -> Result<(), Failure> {
    let device_id = find::device_id(session, &address, device, false).await?;
    let request = proto::DisconnectDeviceRequest { address, device_id, request_id: request_id(), max_wait: wait.max_wait() };
    let answer = session.devices().disconnect_device(session.request_that_waits(request, wait.longest())).await?.into_inner();
    session.output.show(&answer, |out| writeln!(out, "Disconnected. {}", render::revocation(answer.revocation.as_ref())))
}

/// Disconnects all devices of one person.
pub(super) async fn user(session: &Session, user: String, scope: Scope, wait: &WaitArgs) -> Result<(), Failure> {
    use proto::disconnect_user_devices_request::Scope::{Address, MailServiceId};
    let scope = scope.address.map(Address).or(scope.service.map(MailServiceId));
    let request =
        proto::DisconnectUserDevicesRequest { user_id: user.clone(), scope, request_id: request_id(), max_wait: wait.max_wait() };
    let answer =
        session.devices().disconnect_user_devices(session.request_that_waits(request, wait.longest())).await?.into_inner();
    session.output.show(&answer, |out| {
        writeln!(out, "{} of {user} disconnected.", count(answer.revocation.as_ref().map_or(0, |it| it.ended_devices as usize)))?;
        writeln!(out, "{}", render::revocation(answer.revocation.as_ref()))
    })
}

fn write_devices(out: &mut dyn Write, devices: &[proto::Device]) -> io::Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let rows = devices.iter().map(|device| Vec::from(render::device_row(device))).collect();
    Table::new(proto::ListDevicesResponse::HEADS).write(out, rows)
}

fn count(devices: usize) -> String {
    match devices {
        0 => "no devices".to_owned(),
        1 => "1 device".to_owned(),
        n => format!("{n} devices"),
    }
}
