//! The world that the tests act in: one organization with a mail service and a mailbox, and short
//! words for the calls.

use latchkey::proto::{self, authorization_client::AuthorizationClient, device_credentials_client::DeviceCredentialsClient};
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::server::{Ground, Server, StoreKind};

pub const ADDRESS: &str = "alice@example.com";
pub const SERVICE: &str = "mail";
pub const ORGANIZATION: &str = "acme";

/// Runs a test on each store.
macro_rules! on_each_store {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::server::StoreKind::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::server::StoreKind::Postgres).await;
            })*
        }
    };
}
pub(crate) use on_each_store;

pub struct World {
    pub server: Server,
    pub ground: Ground,
    pub devices: DeviceCredentialsClient<Channel>,
    pub logins: AuthorizationClient<Channel>,
}

impl World {
    /// A server with the organization `acme`, its mail service `mail`, and alice's mailbox in it.
    pub async fn new(kind: StoreKind) -> Self {
        Self::with(kind, &[]).await
    }

    pub async fn with(kind: StoreKind, more: &[&str]) -> Self {
        let ground = Ground::new(kind).await;
        let server = ground.start_with(more);
        Self::on(ground, server).await
    }

    pub async fn on(ground: Ground, server: Server) -> Self {
        let mut directory = server.directory().await;
        directory
            .put_organization(proto::PutOrganizationRequest { organization_id: ORGANIZATION.into(), display_name: "Acme".into() })
            .await
            .expect("an organization is put");
        directory
            .put_mail_service(proto::PutMailServiceRequest {
                mail_service_id: SERVICE.into(),
                organization_id: ORGANIZATION.into(),
                display_name: "Mail".into(),
            })
            .await
            .expect("a mail service is put");
        let world = Self { devices: server.devices().await, logins: server.authorization().await, server, ground };
        world.put_mailbox(ADDRESS, "").await;
        world
    }

    pub async fn put_mailbox(&self, address: &str, generic_password_hash: &str) -> proto::PutMailboxResponse {
        let request = proto::PutMailboxRequest {
            address: address.into(),
            mail_service_id: SERVICE.into(),
            generic_password_hash: generic_password_hash.into(),
            max_wait: None,
        };
        self.server.directory().await.put_mailbox(request).await.expect("a mailbox is put").into_inner()
    }

    pub async fn put_member(&self, user: &str, role: proto::Role) -> proto::PutMemberResponse {
        let request = proto::PutMemberRequest {
            organization_id: ORGANIZATION.into(),
            user_id: user.into(),
            role: role.into(),
            ..Default::default()
        };
        self.server.directory().await.put_member(request).await.expect("a member is put").into_inner()
    }

    /// A device with a generated password: the device and its password.
    pub async fn add(&mut self, name: &str) -> (proto::Device, String) {
        self.add_with(proto::CreateDeviceRequest { address: ADDRESS.into(), display_name: name.into(), ..Default::default() })
            .await
    }

    pub async fn add_with(&mut self, request: proto::CreateDeviceRequest) -> (proto::Device, String) {
        let created = self.devices.create_device(request).await.expect("a device is created").into_inner();
        (created.device.expect("a device"), created.password)
    }

    pub async fn list(&mut self) -> proto::ListDevicesResponse {
        let request = proto::ListDevicesRequest { address: ADDRESS.into(), ..Default::default() };
        self.devices.list_devices(request).await.expect("devices are listed").into_inner()
    }

    /// The names of the devices in the list.
    pub async fn names(&mut self) -> Vec<String> {
        self.list().await.devices.into_iter().map(|device| device.display_name).collect()
    }

    pub async fn login(&mut self, password: &str) -> proto::AuthenticateResponse {
        self.login_with(attempt(ADDRESS, password)).await
    }

    pub async fn login_with(&mut self, request: proto::AuthenticateRequest) -> proto::AuthenticateResponse {
        self.logins.authenticate(request).await.expect("a login is answered").into_inner()
    }

    /// The reason that a login with this password is answered with.
    pub async fn reason(&mut self, password: &str) -> proto::Reason {
        self.login(password).await.reason()
    }

    pub async fn disconnect(&mut self, device: &proto::Device) -> proto::Revocation {
        let request = proto::DisconnectDeviceRequest {
            address: device.address.clone(),
            device_id: device.device_id.clone(),
            ..Default::default()
        };
        let answer = self.devices.disconnect_device(request).await.expect("a device is disconnected");
        answer.into_inner().revocation.expect("a revocation")
    }
}

pub fn attempt(address: &str, password: &str) -> proto::AuthenticateRequest {
    proto::AuthenticateRequest {
        address: address.into(),
        password: password.into(),
        protocol: proto::Protocol::Imap.into(),
        client_ip: "192.0.2.1".into(),
        frontend: "imap1".into(),
        ..Default::default()
    }
}

/// A request that acts for somebody.
pub fn acting_as<T>(actor: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("latchkey-actor", actor.parse().expect("ASCII"));
    request
}

/// ErrorInfo's reason.
pub fn reason_of(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The field that a refusal names.
pub fn field_of(status: &Status) -> String {
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>().join(",")
}
