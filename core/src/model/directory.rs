//! Organizations, their members, mail services, rights and mailboxes.

use super::{
    Invalid,
    address::Address,
    clock::Timestamp,
    id::{MailServiceId, MailboxId, OrganizationId, UserId},
};

/// A name for people: at most 128 characters, no control characters; may be empty.
pub fn parse_display_name(field: &'static str, typed: &str) -> Result<String, Invalid> {
    if typed.chars().count() > 128 {
        return Err(Invalid::new(field, "must be at most 128 characters"));
    }
    if typed.chars().any(char::is_control) {
        return Err(Invalid::new(field, "must not hold control characters"));
    }
    Ok(typed.to_owned())
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Organization {
    pub organization_id: OrganizationId,
    pub display_name: String,
    pub create_time: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Role {
    LegalRepresentative = 1,
    Administrator = 2,
    Collaborator = 3,
}

impl Role {
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::LegalRepresentative, Self::Administrator, Self::Collaborator].into_iter().find(|role| *role as i64 == number)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub organization_id: OrganizationId,
    pub user: UserId,
    pub role: Role,
    pub suspended: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailService {
    pub mail_service_id: MailServiceId,
    pub organization_id: OrganizationId,
    pub display_name: String,
    pub generic_login: bool,
    pub create_time: Timestamp,
}

/// The right to manage a mail service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Right {
    pub mail_service_id: MailServiceId,
    pub user: UserId,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mailbox {
    pub mailbox_id: MailboxId,
    pub address: Address,
    pub mail_service_id: MailServiceId,
    pub organization_id: OrganizationId,
    pub suspended: bool,
    /// The mailbox's own switch.
    pub generic_login: bool,
    /// The switch of its mail service.
    pub service_generic_login: bool,
    /// Counts up with each change to its list of devices: the list's etag.
    pub device_version: i64,
    pub create_time: Timestamp,
}

/// What a person is to an organization and to one of its mail services.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    pub role: Option<Role>,
    pub suspended: bool,
    /// Has the right to manage the mail service.
    pub right: bool,
}

impl Standing {
    /// Whether they may act for the whole organization.
    pub fn administers(self) -> bool {
        !self.suspended && self.has_administrating_role()
    }

    /// The same, once a suspension is lifted.
    pub fn has_administrating_role(self) -> bool {
        matches!(self.role, Some(Role::Administrator | Role::LegalRepresentative))
    }

    /// Whether they may act on the mail service's mailboxes.
    pub fn manages(self) -> bool {
        self.administers() || (!self.suspended && self.right)
    }
}
