//! `serve --demo`: an example to try things on, put in if it is not there, and lines to paste.

use std::{fmt::Write as _, time::Duration};

use zeroize::Zeroizing;

use crate::{
    manage::{
        Refusal,
        devices::{Devices, NewDevice},
        directory::{Directory, NewMember},
    },
    passwords::imported,
    replication::confirmation::Wait,
    store::{Mode, Store},
};
use latchkey_core::model::{
    Invalid,
    address::Address,
    caller::Requester,
    device::{Device, DeviceKind, DeviceName, Limits},
    directory::{Right, Role},
    id::{MailServiceId, OrganizationId, UserId},
};

/// What the demo changes need not hold everywhere before it goes on.
const NOT: Wait = Wait::AtMost(Duration::ZERO);
const ORGANIZATION: &str = "example";
const SERVICE: &str = "example-mail";
/// Each with a device or two.
const DEVICES: [(&str, &[&str]); 2] =
    [("alice@example.com", &["Phone of Alice", "Laptop of Alice"]), ("bob@example.com", &["Scanner on the second floor"])];
/// With a generic password, as addresses from before 2026 have one. It is an example, printed on
/// the screen, and no secret.
const GENERIC_ADDRESS: &str = "carol@example.com";
const GENERIC_PASSWORD: &str = "carol-2019-summer";
/// `openssl passwd -6 -salt latchkeydemo carol-2019-summer`
const GENERIC_HASH: &str =
    "$6$latchkeydemo$c88KvUvYh6lmmpYS.tpi2KQ3EIOXUZ57XP/Vca1jH/KYl4MoNRf/zqW.01mkXgG8gUTzwO1Swm1JZc9srOBit.";
/// Every device of a mailbox of the demo.
const ALL: usize = 1_000;

/// A password that the demo shows.
struct Shown {
    address: Address,
    device: String,
    device_id: String,
    password: Zeroizing<String>,
}

/// The example has passwords that everybody knows, so it is kept apart from what is real.
pub(super) async fn refuse_real_data(store: &dyn Store) -> anyhow::Result<()> {
    let organizations = store.begin("refuse_real_data", Mode::Read).await?.organizations(None, 2).await?;
    if let Some(real) = organizations.iter().find(|organization| organization.organization_id.as_str() != ORGANIZATION) {
        anyhow::bail!(
            "--demo adds mailboxes with passwords that everybody knows, and this database holds the organization {}. \
             Choose an empty database, for example with --data-dir ./latchkey-demo",
            real.organization_id
        );
    }
    Ok(())
}

fn who() -> Requester {
    Requester { caller: "demo".to_owned(), peer: "local".to_owned(), actor: None }
}

/// Puts the example in, and answers the lines to print. `program` and `server` are what to call in
/// them.
pub(super) async fn prepare(directory: &Directory, devices: &Devices, program: &str, server: &str) -> Result<String, Refusal> {
    let who = who();
    let service = put_example(directory, &who).await?;
    let mut shown = Vec::new();
    for (address, names) in DEVICES {
        let address = Address::parse("address", address)?;
        directory.put_mailbox(&who, &address, &service, None, NOT).await?;
        for name in names {
            shown.push(device_with_password(devices, &who, &address, name).await?);
        }
    }
    let carol = Address::parse("address", GENERIC_ADDRESS)?;
    directory.put_mailbox(&who, &carol, &service, None, NOT).await?;
    let of_carol = devices.list(&who, &carol, None, ALL, false).await?.devices;
    let generic = match of_carol.into_iter().find(|device| device.kind == DeviceKind::Generic) {
        Some(generic) => generic,
        None => {
            directory
                .put_mailbox(&who, &carol, &service, Some(&imported::parse("generic_password_hash", GENERIC_HASH)?), NOT)
                .await?;
            let of_carol = devices.list(&who, &carol, None, ALL, false).await?.devices;
            of_carol
                .into_iter()
                .find(|device| device.kind == DeviceKind::Generic)
                .ok_or_else(|| Invalid::new("generic_password_hash", "did not make a generic device, which it always does"))?
        }
    };
    shown.push(Shown {
        address: carol,
        device: generic.name.as_str().to_owned(),
        device_id: generic.device_id.to_string(),
        password: Zeroizing::new(GENERIC_PASSWORD.to_owned()),
    });
    Ok(screen(&shown, program, server))
}

async fn put_example(directory: &Directory, who: &Requester) -> Result<MailServiceId, Refusal> {
    let organization = OrganizationId::parse("organization_id", ORGANIZATION)?;
    let service = MailServiceId::parse("mail_service_id", SERVICE)?;
    directory.put_organization(who, &organization, "Example Ltd").await?;
    directory.put_mail_service(who, &service, &organization, "Mail of example.com").await?;
    for (user, role) in [
        ("ada", Role::Administrator),
        ("leo", Role::LegalRepresentative),
        ("maya", Role::Collaborator),
        ("cole", Role::Collaborator),
    ] {
        let user = UserId::parse("user", user)?;
        directory.put_member(who, &NewMember { organization_id: organization.clone(), user, role, suspended: None }, NOT).await?;
    }
    directory.put_right(who, &Right { mail_service_id: service.clone(), user: UserId::parse("user", "maya")? }).await?;
    Ok(service)
}

/// The device by that name: a new one, or a new password for the one that is there, since none can
/// be shown again.
async fn device_with_password(devices: &Devices, who: &Requester, address: &Address, name: &str) -> Result<Shown, Refusal> {
    let existing = devices.list(who, address, None, ALL, false).await?.devices;
    let is_ours = |device: &&Device| device.name.as_str() == name && device.kind != DeviceKind::Generic;
    let (device, password) = match existing.iter().find(is_ours) {
        Some(device) => {
            let changed = devices.change_password(who, address, device.device_id, None, None, NOT).await?;
            (changed.device, changed.shown)
        }
        None => {
            let name = DeviceName::parse("name", name)?;
            let new = NewDevice { name, password: None, user: None, limits: Limits::default() };
            let created = devices.create(who, address, &new, None).await?;
            (created.device, created.shown)
        }
    };
    Ok(Shown {
        address: address.clone(),
        device: device.name.as_str().to_owned(),
        device_id: device.device_id.to_string(),
        password: password.unwrap_or_default(),
    })
}

fn screen(shown: &[Shown], program: &str, server: &str) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "{text}");
    };
    line(format!("Latchkey's demo: organization `{ORGANIZATION}`, mail service `{SERVICE}`, and these passwords:\n"));
    for Shown { address, device, password, .. } in shown {
        line(format!("  {:<20} {:<30} {}", address.as_str(), device, password.as_str()));
    }
    line(
        "\nMay act on them: ada (administrator), leo (legal representative), maya (has the right). May not: cole (collaborator)."
            .to_owned(),
    );
    let Some(first) = shown.first() else {
        return out;
    };
    let Shown { address, device_id, password, .. } = first;
    let login = format!(r#"{{"address":"{address}","password":"{}","protocol":"PROTOCOL_IMAP"}}"#, password.as_str());
    let disconnect = format!(r#"{{"address":"{address}","device_id":"{device_id}"}}"#);
    let call = |json: &str, method: &str| format!("  grpcurl -plaintext -d '{json}' {server} latchkey.v1.{method}");
    line("\nWith grpcurl: log in, list, disconnect as ada, and see the login refused:\n".to_owned());
    line(call(&login, "Authorization/Authenticate"));
    line(call(&format!(r#"{{"address":"{address}"}}"#), "DeviceCredentials/ListDevices"));
    line(call(&disconnect, "DeviceCredentials/DisconnectDevice").replacen(
        "-plaintext",
        "-plaintext -H 'latchkey-actor: ada'",
        1,
    ));
    line(call(&login, "Authorization/Authenticate"));
    let Some(second) = shown.get(1) else {
        return out;
    };
    let at = if server == "127.0.0.1:50051" { String::new() } else { format!(" --server http://{server}") };
    line("\nThe same by hand, with another device:\n".to_owned());
    line(format!(
        "  echo '{}' | {program} login {}{at} --protocol imap --password-stdin",
        second.password.as_str(),
        second.address
    ));
    line(format!("  {program} device list {}{at}", second.address));
    line(format!("  {program} device disconnect {}{at} '{}'", second.address, second.device));
    line(format!(
        "  echo '{}' | {program} login {}{at} --protocol imap --password-stdin",
        second.password.as_str(),
        second.address
    ));
    line(format!("  {program} events {}{at}", second.address));
    out
}
