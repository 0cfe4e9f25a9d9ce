//! Which device a person means: by its id, or by a name that only one device has.

use uuid::Uuid;

use crate::{
    cli::{client::Session, failure::Failure},
    proto,
};

/// The contract's largest page. A mailbox has 50 active devices by default.
const PAGE_SIZE: i32 = 1_000;
/// A mailbox's list is read up to this many pages; the server remembers far fewer devices.
const MAX_PAGES: usize = 100;

/// A mailbox's devices, all of them, and what stands for the whole list.
pub(super) struct Devices {
    pub(super) devices: Vec<proto::Device>,
    pub(super) etag: String,
}

/// The id of the device that `named` stands for. With `also_disconnected`, one that is gone can be
/// meant if no living one is.
pub(in crate::cli) async fn device_id(
    session: &Session,
    address: &str,
    named: &str,
    also_disconnected: bool,
) -> Result<String, Failure> {
    if let Ok(id) = Uuid::try_parse(named) {
        return Ok(id.to_string());
    }
    let devices = all(session, address, also_disconnected).await?.devices;
    choose(&devices, named).map(|device| device.device_id.clone()).map_err(|why| why.failure(address, named, &devices))
}

/// All devices of a mailbox. If the list changes between two pages, its last etag stands for what
/// nobody saw, and is not given.
pub(super) async fn all(session: &Session, address: &str, show_disconnected: bool) -> Result<Devices, Failure> {
    let mut all = Devices { devices: Vec::new(), etag: String::new() };
    let mut page_token = String::new();
    for page in 0..MAX_PAGES {
        let request =
            proto::ListDevicesRequest { address: address.to_owned(), page_size: PAGE_SIZE, page_token, show_disconnected };
        let answer = session.devices().list_devices(session.request(request)).await?.into_inner();
        if page > 0 && all.etag != answer.etag {
            return Err(Failure::refused("the list changed while it was read").with_advice("Say it once more."));
        }
        all.devices.extend(answer.devices);
        all.etag = answer.etag;
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
    Err(Failure::refused(format!("{address} has more than {} devices", all.devices.len())))
}

#[derive(Debug, PartialEq)]
enum NotFound {
    Nobody,
    /// So many have this name.
    Several(usize),
}

fn choose<'d>(devices: &'d [proto::Device], named: &str) -> Result<&'d proto::Device, NotFound> {
    let lower = named.to_lowercase();
    let living = |device: &proto::Device| device.disconnect_time.is_none();
    let exact = |device: &proto::Device| device.display_name == named;
    let alike = |device: &proto::Device| device.display_name.to_lowercase() == lower;
    let circles: [&dyn Fn(&proto::Device) -> bool; 3] = [&|d| living(d) && exact(d), &|d| living(d) && alike(d), &alike];
    for circle in circles {
        let mut within = devices.iter().filter(|device| circle(device));
        match (within.next(), within.count()) {
            (Some(device), 0) => return Ok(device),
            (Some(_), others) => return Err(NotFound::Several(others + 1)),
            (None, _) => {}
        }
    }
    Err(NotFound::Nobody)
}

impl NotFound {
    fn failure(self, address: &str, named: &str, devices: &[proto::Device]) -> Failure {
        match self {
            Self::Several(count) => {
                let lower = named.to_lowercase();
                let ids: Vec<_> =
                    devices.iter().filter(|d| d.display_name.to_lowercase() == lower).map(|d| d.device_id.as_str()).collect();
                Failure::refused(format!("{count} devices of {address} are called \"{named}\""))
                    .with_advice(format!("Say which by its id: {}.", ids.join(", ")))
            }
            Self::Nobody => {
                let names: Vec<_> =
                    devices.iter().filter(|d| d.disconnect_time.is_none()).map(|d| format!("\"{}\"", d.display_name)).collect();
                let there = if names.is_empty() { "It has none.".to_owned() } else { format!("It has {}.", names.join(", ")) };
                Failure::refused(format!("{address} has no device called \"{named}\"")).with_advice(there)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, gone: bool) -> proto::Device {
        let disconnect_time = gone.then(prost_types::Timestamp::default);
        proto::Device { display_name: name.to_owned(), disconnect_time, ..Default::default() }
    }

    #[test]
    fn a_name_means_a_device_as_far_as_only_one_has_it() {
        let devices =
            [device("Phone", false), device("phone", false), device("Pad", true), device("Pad", false), device("Mac", true)];
        assert_eq!(choose(&devices, "Phone"), Ok(&devices[0]), "the very name goes before one in another case");
        assert_eq!(choose(&devices, "PHONE"), Err(NotFound::Several(2)));
        assert_eq!(choose(&devices, "pad"), Ok(&devices[3]), "a living one goes before one that is gone");
        assert_eq!(choose(&devices, "mac"), Ok(&devices[4]));
        assert_eq!(choose(&devices, "Watch"), Err(NotFound::Nobody));
    }
}
