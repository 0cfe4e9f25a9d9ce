//! What a call that revokes answers.

use crate::replication::confirmation::Confirmation;
use latchkey_core::model::change::RevocationId;

/// A change that was made, and how far it has come.
#[derive(Clone, Debug)]
pub struct Revocation {
    pub id: RevocationId,
    pub ended_devices: u32,
    pub confirmation: Confirmation,
}
