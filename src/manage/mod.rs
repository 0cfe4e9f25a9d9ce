//! Floor 3: what the use cases of devices and of the directory share: who may, why not, and how a
//! change ends.

pub mod authorize;
pub mod changes_logged;
pub mod devices;
pub mod directory;
pub mod mutation;
pub mod revocation;
pub mod transact;

use self::revocation::Revocation;
use crate::{
    hashing::HashingError,
    replication::confirmation::ChangeLost,
    store::{Api, StoreError, transact::MayConflict},
};
use latchkey_core::model::{Invalid, id::DeviceId};

/// Why a use case did not do what it was asked. Nothing was changed, unless the store says that it
/// is not known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Also when there is no such thing, for who might not know.
    #[error("the actor may not do this")]
    ActorNotPermitted,
    #[error("there is no such {0}")]
    NotFound(Thing),
    /// An earlier delete may have removed it. With how far that has come.
    #[error("there is no such {0}")]
    AlreadyGone(Thing, Box<Revocation>),
    #[error("the call that made it needs another role")]
    RoleMissing(Api),
    #[error("a generic password can't be changed; disconnect it, and add a device instead")]
    GenericPasswordNotChangeable,
    #[error("the device is disconnected")]
    DeviceIsDisconnected,
    #[error("the mailbox has {0} devices already, as many as it may")]
    TooManyDevices(usize),
    #[error("the list of devices has changed; list them again, and ask again with the new etag")]
    EtagMismatch,
    #[error("it still has {0}")]
    NotEmpty(&'static str),
    #[error("it belongs to another organization")]
    OtherOrganization,
    #[error("this request_id has done this already; the password was answered then")]
    RequestAlreadyDone(Option<DeviceId>),
    #[error("this request_id was used for another call")]
    RequestIdReused,
    #[error("too many passwords wait to be hashed")]
    HashingOverloaded,
    #[error("the password could not be hashed")]
    HashingFailed,
    #[error(transparent)]
    ChangeLost(#[from] ChangeLost),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Thing {
    Organization,
    Member,
    MailService,
    Right,
    Mailbox,
    Device,
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Organization => "organization",
            Self::Member => "member",
            Self::MailService => "mail service",
            Self::Right => "right",
            Self::Mailbox => "mailbox",
            Self::Device => "device",
        })
    }
}

impl MayConflict for Refusal {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_conflict())
    }
}

impl From<HashingError> for Refusal {
    fn from(error: HashingError) -> Self {
        match error {
            HashingError::Overloaded => Self::HashingOverloaded,
            error => {
                tracing::error!(%error, "a password could not be hashed");
                Self::HashingFailed
            }
        }
    }
}
