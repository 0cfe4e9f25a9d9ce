//! A login: what is asked, and what is answered.

use std::{net::IpAddr, time::Duration};

use super::{
    Invalid,
    address::{Address, MAX_ADDRESS_BYTES},
    device::Generation,
    id::{DeviceId, MailboxId},
    protocol::Protocol,
    revision::Revision,
    secret::Secret,
};

use uuid::Uuid;

/// One login to judge. Its parts are within their bounds.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub address: Address,
    pub password: Secret,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub frontend: Box<str>,
}

/// Why a login was allowed or denied. The numbers are the proto's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Reason {
    Ok = 1,
    UnknownAddress = 2,
    WrongPassword = 3,
    DeviceDisconnected = 4,
    PasswordChanged = 5,
    MailboxSuspended = 6,
    ProtocolNotAllowed = 7,
    NetworkNotAllowed = 8,
    DeviceExpired = 9,
    GenericLoginOff = 10,
    UserSuspended = 11,
    Throttled = 12,
    MailboxDeleted = 13,
}

impl Reason {
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::UnknownAddress,
        Self::WrongPassword,
        Self::DeviceDisconnected,
        Self::PasswordChanged,
        Self::MailboxSuspended,
        Self::ProtocolNotAllowed,
        Self::NetworkNotAllowed,
        Self::DeviceExpired,
        Self::GenericLoginOff,
        Self::UserSuspended,
        Self::Throttled,
        Self::MailboxDeleted,
    ];

    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as i64 == number)
    }

    /// As a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::UnknownAddress => "unknown_address",
            Self::WrongPassword => "wrong_password",
            Self::DeviceDisconnected => "device_disconnected",
            Self::PasswordChanged => "password_changed",
            Self::MailboxSuspended => "mailbox_suspended",
            Self::ProtocolNotAllowed => "protocol_not_allowed",
            Self::NetworkNotAllowed => "network_not_allowed",
            Self::DeviceExpired => "device_expired",
            Self::GenericLoginOff => "generic_login_off",
            Self::UserSuspended => "user_suspended",
            Self::Throttled => "throttled",
            Self::MailboxDeleted => "mailbox_deleted",
        }
    }
}

/// The answer to a login: allowed if, and only if, the reason is [`Reason::Ok`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub reason: Reason,
    /// As of which this was judged.
    pub revision: Revision,
    /// Whose password it is or was.
    pub password: Option<ProvenPassword>,
    /// With [`Reason::Throttled`].
    pub retry_after: Option<Duration>,
}

impl Verdict {
    pub fn is_allowed(&self) -> bool {
        self.reason == Reason::Ok
    }
}

/// The password that a login proved to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProvenPassword {
    pub mailbox_id: MailboxId,
    pub device_id: DeviceId,
    pub generation: Generation,
}

/// What a frontend keeps of an allowed login, to ask later whether it is still good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub password: ProvenPassword,
    pub revision: Revision,
    pub address: Address,
}

impl Session {
    /// Ours, and the form's version: nothing else begins like this.
    const MAGIC: [u8; 2] = *b"L1";
    const HEAD_BYTES: usize = 2 + 16 + 16 + 4 + 8;

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::HEAD_BYTES + self.address.as_str().len());
        bytes.extend(Self::MAGIC);
        bytes.extend(self.password.mailbox_id.0.as_bytes());
        bytes.extend(self.password.device_id.0.as_bytes());
        bytes.extend(self.password.generation.to_be_bytes());
        bytes.extend(self.revision.0.to_be_bytes());
        bytes.extend(self.address.as_str().as_bytes());
        bytes
    }

    pub fn decode(field: &'static str, bytes: &[u8]) -> Result<Self, Invalid> {
        Self::try_decode(bytes).ok_or_else(|| Invalid::new(field, "must be a session as Authenticate answered it, unchanged"))
    }

    fn try_decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > Self::HEAD_BYTES + MAX_ADDRESS_BYTES {
            return None;
        }
        let rest = bytes.strip_prefix(&Self::MAGIC)?;
        let (mailbox, rest) = rest.split_first_chunk::<16>()?;
        let (device, rest) = rest.split_first_chunk::<16>()?;
        let (generation, rest) = rest.split_first_chunk::<4>()?;
        let (revision, address) = rest.split_first_chunk::<8>()?;
        let address = Address::parse("session", std::str::from_utf8(address).ok()?).ok()?;
        Some(Self {
            password: ProvenPassword {
                mailbox_id: MailboxId(Uuid::from_bytes(*mailbox)),
                device_id: DeviceId(Uuid::from_bytes(*device)),
                generation: u32::from_be_bytes(*generation),
            },
            revision: Revision(u64::from_be_bytes(*revision)),
            address,
        })
    }
}
