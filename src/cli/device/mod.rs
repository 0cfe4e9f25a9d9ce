//! `latchkey device`: the control panel's calls, by hand.

mod add;
mod args;
mod disconnect;
mod find;
mod limits;

use self::args::Scope;
pub(super) use self::{add::protocol, find::device_id};

use clap::{
    ArgAction, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use prost_types::FieldMask;

use super::{
    client::{ClientArgs, Session, request_id},
    failure::Failure,
    list::ListArgs,
    prompt::{self, ChosenPassword},
    render::{self, Ended},
    revocation::WaitArgs,
    table,
};
use crate::{exit::Exit, proto};

/// List, add, change and disconnect the devices of a mailbox.
///
/// A device is one named password, for one mail program. DEVICE is the device's id, or its name if
/// only one device has it.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey device list alice@example.com
  latchkey device add alice@example.com \"Alice's phone\"
  latchkey device disconnect alice@example.com \"Alice's phone\"")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    pub(in crate::cli) client: ClientArgs,
    #[command(subcommand)]
    pub(in crate::cli) command: DeviceCommand,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum DeviceCommand {
    /// List the devices of a mailbox, oldest first
    #[command(after_help = "Example:\n  latchkey device list alice@example.com")]
    List {
        /// The mailbox
        address: String,
        /// Include disconnected devices
        #[arg(long)]
        disconnected: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show one device in full
    #[command(after_help = "Example:\n  latchkey device show alice@example.com \"Alice's phone\"")]
    Show {
        /// The mailbox
        address: String,
        /// Its id, or its name
        device: String,
    },
    /// Add a device, and show its password, once
    #[command(after_help = "\
Examples:
  latchkey device add alice@example.com \"Alice's phone\"
  latchkey device add alice@example.com Scanner --protocol smtp --network 192.0.2.0/24 --expires 90d
  latchkey device add alice@example.com Desktop --choose")]
    Add(add::Add),
    /// Rename a device; its password stays the same
    #[command(after_help = "Example:\n  latchkey device rename alice@example.com \"Alice's phone\" \"Old phone\"")]
    Rename {
        /// The mailbox
        address: String,
        /// Its id, or its name
        device: String,
        /// 1 to 64 characters
        new_name: String,
    },
    /// Show where, from where and until when a device may log in, or change what is named
    #[command(after_help = "\
Examples:
  latchkey device limits alice@example.com Scanner
  latchkey device limits alice@example.com Scanner --protocol smtp --network 192.0.2.0/24
  latchkey device limits alice@example.com Scanner --any-protocol --never-expires")]
    Limits(limits::Limits),
    /// Give a device a new password; the old one ends at once
    #[command(after_help = "Example:\n  latchkey device change-password alice@example.com \"Alice's phone\"")]
    ChangePassword {
        /// The mailbox
        address: String,
        /// Its id, or its name
        device: String,
        #[command(flatten)]
        password: ChosenPassword,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// End a device's password for good
    #[command(after_help = "Example:\n  latchkey device disconnect alice@example.com \"Alice's phone\"")]
    Disconnect {
        /// The mailbox
        address: String,
        /// Its id, or its name
        device: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// End all passwords of a mailbox in one step, including the generic one
    ///
    /// Shows the devices and asks for confirmation. If the list changes before the answer, nothing
    /// is disconnected. With --etag (from `device list --json`), it does not ask: that list is the
    /// confirmed one.
    #[command(after_help = "\
Examples:
  latchkey device disconnect-all alice@example.com
  latchkey device disconnect-all alice@example.com --dry-run")]
    DisconnectAll(disconnect::DisconnectAll),
    /// End all passwords of one person, on a mailbox or a whole mail service
    #[command(after_help = "Example:\n  latchkey device disconnect-user bob --service example-mail")]
    DisconnectUser {
        /// The person's user id
        user: String,
        #[command(flatten)]
        scope: Scope,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Allow or refuse logins with the generic password, for a mailbox or a whole mail service
    #[command(after_help = "\
Examples:
  latchkey device generic off alice@example.com
  latchkey device generic off --service example-mail")]
    Generic {
        /// Whether generic passwords may log in
        #[arg(action = ArgAction::Set, value_parser = PossibleValuesParser::new(["on", "off"]).map(|switch| switch == "on"))]
        switch: bool,
        /// Of this mailbox
        #[arg(required_unless_present = "service")]
        address: Option<String>,
        /// Of all mailboxes of this mail service
        #[arg(long, value_name = "ID", conflicts_with = "address")]
        service: Option<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Show what the actor may do with a mailbox's devices
    #[command(after_help = "Example:\n  latchkey device permissions alice@example.com --actor bob")]
    Permissions {
        /// The mailbox
        address: String,
    },
}

impl DeviceCommand {
    pub(in crate::cli) fn only_reads(&self) -> bool {
        match self {
            Self::List { .. } | Self::Show { .. } | Self::Permissions { .. } => true,
            Self::Limits(limits) => limits.only_reads(),
            _ => false,
        }
    }

    pub(in crate::cli) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self {
            Self::List { address, disconnected, list } => return self::list(session, address, disconnected, list).await,
            Self::Show { address, device } => show(session, address, &device).await?,
            Self::Add(add) => add.run(session).await?,
            Self::Rename { address, device, new_name } => rename(session, address, &device, new_name).await?,
            Self::Limits(limits) => limits.run(session).await?,
            Self::ChangePassword { address, device, password, wait } => {
                change_password(session, address, &device, password, &wait).await?;
            }
            Self::Disconnect { address, device, wait } => disconnect::one(session, address, &device, &wait).await?,
            Self::DisconnectAll(all) => return all.run(session).await,
            Self::DisconnectUser { user, scope, wait } => disconnect::user(session, user, scope, &wait).await?,
            Self::Generic { switch, address, service, wait } => generic(session, switch, address, service, &wait).await?,
            Self::Permissions { address } => permissions(session, address).await?,
        }
        Ok(Exit::Done)
    }
}

async fn list(session: &Session, address: String, show_disconnected: bool, list: ListArgs) -> Result<Exit, Failure> {
    session
        .list(list.limit, async |page| {
            let request = proto::ListDevicesRequest {
                address: address.clone(),
                page_size: page.size,
                page_token: page.token,
                show_disconnected,
            };
            Ok(session.devices().list_devices(session.request(request)).await?.into_inner())
        })
        .await
}

async fn show(session: &Session, address: String, device: &str) -> Result<(), Failure> {
    let device_id = device_id(session, &address, device, true).await?;
    let request = proto::GetDeviceRequest { address, device_id };
    let answer = session.devices().get_device(session.request(request)).await?.into_inner();
    session.output.show(&answer, |out| table::pairs(out, &render::device_pairs(&answer.device.clone().unwrap_or_default())))
}

async fn rename(session: &Session, address: String, device: &str, name: String) -> Result<(), Failure> {
    let device_id = device_id(session, &address, device, false).await?;
    let request = proto::UpdateDeviceRequest {
        address,
        device_id,
        display_name: name,
        update_mask: Some(FieldMask { paths: vec!["display_name".to_owned()] }),
        request_id: request_id(),
        ..Default::default()
    };
    let answer = session.devices().update_device(session.request(request)).await?.into_inner();
    session.output.show(&answer, |out| {
        let name = answer.device.as_ref().map_or("", |device| &device.display_name);
        writeln!(out, "The device is called \"{}\" now. Its password stays.", super::terminal::printable(name))
    })
}

async fn change_password(
    session: &Session,
    address: String,
    device: &str,
    password: ChosenPassword,
    wait: &WaitArgs,
) -> Result<(), Failure> {
    let device_id = device_id(session, &address, device, false).await?;
    let password = prompt::text(password.read()?)?;
    let request =
        proto::ChangePasswordRequest { address, device_id, password, request_id: request_id(), max_wait: wait.max_wait() };
    let answer = session.devices().change_password(session.request_that_waits(request, wait.longest())).await?.into_inner();
    session.output.show(&answer, |out| {
        let name = answer.device.as_ref().map_or("", |device| &device.display_name);
        writeln!(out, "\"{}\" has a new password.", super::terminal::printable(name))?;
        add::write_password(out, &answer.password)?;
        writeln!(out, "The old one has ended. {}", render::revocation(answer.revocation.as_ref()))
    })
}

async fn generic(
    session: &Session,
    enabled: bool,
    address: Option<String>,
    service: Option<String>,
    wait: &WaitArgs,
) -> Result<(), Failure> {
    use proto::set_generic_login_request::Scope::{Address, MailServiceId};
    let scope = address.map(Address).or(service.map(MailServiceId));
    let request = proto::SetGenericLoginRequest { scope, enabled, request_id: request_id(), max_wait: wait.max_wait() };
    let answer = session.devices().set_generic_login(session.request_that_waits(request, wait.longest())).await?.into_inner();
    session.output.show(&answer, |out| {
        if enabled {
            writeln!(out, "Generic passwords may log in there.")
        } else {
            writeln!(out, "Generic passwords may not log in there.")?;
            render::write_revocation(out, answer.revocation.as_ref(), Ended::Barred)
        }
    })
}

async fn permissions(session: &Session, address: String) -> Result<(), Failure> {
    let request = proto::TestPermissionsRequest { address, device_id: String::new() };
    let answer = session.devices().test_permissions(session.request(request)).await?.into_inner();
    session.output.show(&answer, |out| {
        if answer.permissions.is_empty() {
            return writeln!(out, "Nothing.");
        }
        answer.permissions().try_for_each(|permission| writeln!(out, "{}", render::name_of(permission.as_str_name())))
    })
}
