//! The service `DeviceCredentials`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    caller::{acting_manager, awaiting},
    convert,
    page::{self, List},
    status::refused,
};
use crate::{
    manage::{
        Refusal,
        devices::{Devices, Etag, GenericPlace, NewDevice, Permissions, UserDevicesPlace},
    },
    proto::{self, device_credentials_server::DeviceCredentials},
};
use latchkey_core::model::{
    Invalid,
    change::RevocationId,
    clock::Timestamp,
    device::DeviceName,
    id::{DeviceId, EventId, MailServiceId, UserId},
    secret::Secret,
};

/// See the proto.
#[derive(Clone, Debug)]
pub struct DeviceCredentialsService(pub Arc<Devices>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl DeviceCredentials for DeviceCredentialsService {
    async fn list_devices(&self, request: Request<proto::ListDevicesRequest>) -> Answer<proto::ListDevicesResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let address = convert::address(&request.address)?;
            let size = page::size(request.page_size)?;
            let pages = List::of("ListDevices", address.as_str());
            let after = pages.after(&request.page_token)?.map(|id| DeviceId::parse("page_token", &id)).transpose()?;
            let mut list = self.0.list(&who, &address, after, size + 1, request.show_disconnected).await?;
            let next_page_token = pages.cut(&mut list.devices, size, |device| device.device_id.to_string());
            let devices = list.devices.iter().map(|device| convert::device(device, &list.mailbox, &list.sessions)).collect();
            Ok(proto::ListDevicesResponse { devices, next_page_token, etag: list.etag.to_string() })
        };
        answer(run.await)
    }

    async fn get_device(&self, request: Request<proto::GetDeviceRequest>) -> Answer<proto::GetDeviceResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let address = convert::address(&request.address)?;
            let device_id = convert::device_id(&request.device_id)?;
            let (mailbox, device, sessions) = self.0.get(&who, &address, device_id).await?;
            Ok(proto::GetDeviceResponse { device: Some(convert::device(&device, &mailbox, &sessions)) })
        };
        answer(run.await)
    }

    async fn create_device(&self, request: Request<proto::CreateDeviceRequest>) -> Answer<proto::CreateDeviceResponse> {
        let who = acting_manager(&request)?;
        let mut request = request.into_inner();
        let password = chosen(std::mem::take(&mut request.password));
        let run = async {
            let address = convert::address(&request.address)?;
            let asked = proto::CreateDeviceRequest { request_id: String::new(), ..request.clone() };
            let new = NewDevice {
                name: DeviceName::parse("display_name", &request.display_name)?,
                password,
                user: convert::optional_user(&request.user_id)?,
                limits: convert::limits(&request.allowed_protocols, &request.allowed_networks, request.expire_time)?,
            };
            let key = convert::request_key(&request.request_id, &["CreateDevice", &in_full(&asked)])?;
            let created = self.0.create(&who, &address, &new, key.as_ref()).await?;
            Ok(proto::CreateDeviceResponse {
                device: Some(convert::device(&created.device, &created.mailbox, &[])),
                password: created.shown.map_or_else(String::new, |shown| shown.to_string()),
            })
        };
        answer(run.await)
    }

    async fn update_device(&self, request: Request<proto::UpdateDeviceRequest>) -> Answer<proto::UpdateDeviceResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let address = convert::address(&request.address)?;
            let device_id = convert::device_id(&request.device_id)?;
            let update = convert::device_update(&request)?;
            let wait = convert::wait(request.max_wait)?;
            let asked = proto::UpdateDeviceRequest { request_id: String::new(), max_wait: None, ..request.clone() };
            let key = convert::request_key(&request.request_id, &["UpdateDevice", &in_full(&asked)])?;
            let (mailbox, device, revocation) = self.0.update(&who, &address, device_id, &update, key.as_ref(), wait).await?;
            Ok(proto::UpdateDeviceResponse {
                device: Some(convert::device(&device, &mailbox, &[])),
                revocation: Some(convert::revocation(&revocation)),
            })
        };
        answer(run.await)
    }

    async fn change_password(&self, request: Request<proto::ChangePasswordRequest>) -> Answer<proto::ChangePasswordResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let password = chosen(request.password);
        let run = async {
            let address = convert::address(&request.address)?;
            let device_id = convert::device_id(&request.device_id)?;
            let wait = convert::wait(request.max_wait)?;
            let key = convert::request_key(&request.request_id, &["ChangePassword", address.as_str(), &device_id.to_string()])?;
            let changed = self.0.change_password(&who, &address, device_id, password.as_ref(), key.as_ref(), wait).await?;
            Ok(proto::ChangePasswordResponse {
                device: Some(convert::device(&changed.device, &changed.mailbox, &[])),
                password: changed.shown.map_or_else(String::new, |shown| shown.to_string()),
                revocation: Some(convert::revocation(&changed.revocation)),
            })
        };
        answer(run.await)
    }

    async fn disconnect_device(
        &self,
        request: Request<proto::DisconnectDeviceRequest>,
    ) -> Answer<proto::DisconnectDeviceResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let address = convert::address(&request.address)?;
            let device_id = convert::device_id(&request.device_id)?;
            let wait = convert::wait(request.max_wait)?;
            let key = convert::request_key(&request.request_id, &["DisconnectDevice", address.as_str(), &device_id.to_string()])?;
            let revocation = self.0.disconnect(&who, &address, device_id, key.as_ref(), wait).await?;
            Ok(proto::DisconnectDeviceResponse { revocation: Some(convert::revocation(&revocation)) })
        };
        answer(run.await)
    }

    async fn disconnect_all_devices(
        &self,
        request: Request<proto::DisconnectAllDevicesRequest>,
    ) -> Answer<proto::DisconnectAllDevicesResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let address = convert::address(&request.address)?;
            let wait = convert::wait(request.max_wait)?;
            let (gone, revocation) = if request.validate_only {
                let etag = match request.etag.as_str() {
                    "" => None,
                    etag => Some(Etag::parse("etag", etag)?),
                };
                (self.0.what_would_go(&who, &address, etag).await?, None)
            } else {
                let etag = Etag::parse("etag", &request.etag)?;
                let key = convert::request_key(&request.request_id, &["DisconnectAllDevices", address.as_str(), &request.etag])?;
                let (gone, revocation) = self.0.disconnect_all(&who, &address, etag, key.as_ref(), wait).await?;
                (gone, Some(convert::revocation(&revocation)))
            };
            let devices = gone.devices.iter().map(|device| convert::device(device, &gone.mailbox, &[])).collect();
            Ok(proto::DisconnectAllDevicesResponse { devices, revocation })
        };
        answer(run.await)
    }

    async fn disconnect_user_devices(
        &self,
        request: Request<proto::DisconnectUserDevicesRequest>,
    ) -> Answer<proto::DisconnectUserDevicesResponse> {
        use proto::disconnect_user_devices_request::Scope;
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let user = UserId::parse("user_id", &request.user_id)?;
            let wait = convert::wait(request.max_wait)?;
            let (place, target) = match &request.scope {
                None => return Err(no_scope()),
                Some(Scope::Address(address)) => (UserDevicesPlace::Mailbox(convert::address(address)?), format!("@{address}")),
                Some(Scope::MailServiceId(id)) => {
                    (UserDevicesPlace::Service(MailServiceId::parse("mail_service_id", id)?), id.clone())
                }
            };
            let key = convert::request_key(&request.request_id, &["DisconnectUserDevices", user.as_str(), &target])?;
            let revocation = self.0.disconnect_user(&who, &user, &place, key.as_ref(), wait).await?;
            Ok(proto::DisconnectUserDevicesResponse { revocation: Some(convert::revocation(&revocation)) })
        };
        answer(run.await)
    }

    async fn set_generic_login(&self, request: Request<proto::SetGenericLoginRequest>) -> Answer<proto::SetGenericLoginResponse> {
        use proto::set_generic_login_request::Scope;
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let wait = convert::wait(request.max_wait)?;
            let (place, target) = match &request.scope {
                None => return Err(no_scope()),
                Some(Scope::Address(address)) => (GenericPlace::Mailbox(convert::address(address)?), format!("@{address}")),
                Some(Scope::MailServiceId(id)) => {
                    (GenericPlace::Service(MailServiceId::parse("mail_service_id", id)?), id.clone())
                }
            };
            let enabled = if request.enabled { "on" } else { "off" };
            let key = convert::request_key(&request.request_id, &["SetGenericLogin", &target, enabled])?;
            let revocation = self.0.set_generic_login(&who, &place, request.enabled, key.as_ref(), wait).await?;
            Ok(proto::SetGenericLoginResponse { revocation: Some(convert::revocation(&revocation)) })
        };
        answer(run.await)
    }

    async fn await_revocation(&self, request: Request<proto::AwaitRevocationRequest>) -> Answer<proto::AwaitRevocationResponse> {
        let (who, may) = awaiting(&request)?;
        let request = request.into_inner();
        let run = async {
            let wait = convert::wait(request.max_wait)?;
            let id = RevocationId::parse("revocation_id", &request.revocation_id)?;
            let revocation = self.0.await_revocation(&who, may, id, wait).await?;
            Ok(proto::AwaitRevocationResponse { revocation: Some(convert::revocation(&revocation)) })
        };
        answer(run.await)
    }

    async fn list_events(&self, request: Request<proto::ListEventsRequest>) -> Answer<proto::ListEventsResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let of = convert::events_of(request.scope.as_ref())?;
            let device_id = optional_device_id(&request.device_id)?;
            let range = convert::time_range(request.start_time, request.end_time)?;
            let size = page::size(request.page_size)?;
            let pages = List::of("ListEvents", &format!("{of:?} {device_id:?} {range:?}"));
            let after = pages.after(&request.page_token)?.map(|key| event_position(&key)).transpose()?;
            let mut events = self.0.events(&who, &of, range, device_id, after, size + 1).await?;
            let next_page_token = pages.cut(&mut events, size, |event| format!("{} {}", event.time.0, event.event_id));
            Ok(proto::ListEventsResponse { events: events.iter().map(convert::event).collect(), next_page_token })
        };
        answer(run.await)
    }

    async fn test_permissions(&self, request: Request<proto::TestPermissionsRequest>) -> Answer<proto::TestPermissionsResponse> {
        let who = acting_manager(&request)?;
        let request = request.into_inner();
        let run = async {
            let address = convert::address(&request.address)?;
            let device_id = optional_device_id(&request.device_id)?;
            let permissions = permissions(self.0.permissions(&who, &address, device_id).await?);
            Ok(proto::TestPermissionsResponse { permissions: permissions.into_iter().map(Into::into).collect() })
        };
        answer(run.await)
    }
}

fn permissions(found: Permissions) -> Vec<proto::Permission> {
    use proto::Permission;
    if !found.manage {
        return vec![];
    }
    let mut permissions = vec![Permission::ListDevices, Permission::CreateDevice];
    // Without a device named: whether such a call would be let in at all.
    let device = found.device.unwrap_or(crate::manage::devices::DevicePermissions {
        exists: true,
        can_change_password: true,
        can_disconnect: true,
    });
    let of_device = [
        (device.exists && device.can_disconnect, Permission::UpdateDevice),
        (device.can_change_password, Permission::ChangePassword),
        (device.can_disconnect, Permission::DisconnectDevice),
    ];
    permissions.extend(of_device.into_iter().filter_map(|(can, permission)| can.then_some(permission)));
    permissions.extend([
        Permission::DisconnectAllDevices,
        Permission::DisconnectUserDevices,
        Permission::SetGenericLogin,
        Permission::ListEvents,
    ]);
    permissions
}

fn chosen(password: String) -> Option<Secret> {
    (!password.is_empty()).then(|| Secret::from(password))
}

/// A message as it stands in a request's fingerprint. Without its password and its request id.
fn in_full(message: &impl prost::Message) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(message.encode_to_vec())
}

fn optional_device_id(text: &str) -> Result<Option<DeviceId>, Invalid> {
    if text.is_empty() { Ok(None) } else { convert::device_id(text).map(Some) }
}

fn event_position(key: &str) -> Result<(Timestamp, EventId), Invalid> {
    key.split_once(' ')
        .and_then(|(time, id)| Some((Timestamp(time.parse().ok()?), EventId(Uuid::try_parse(id).ok()?))))
        .ok_or_else(|| Invalid::new("page_token", "must be a next_page_token of the same list"))
}

fn no_scope() -> Refusal {
    Invalid::new("scope", "must be an address or a mail_service_id").into()
}

fn answer<T>(outcome: Result<T, Refusal>) -> Answer<T> {
    outcome.map(Response::new).map_err(|refusal| refused(&refusal))
}
