//! Who calls, and for whom.

use super::id::UserId;

/// What a caller may do. A bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Roles(pub u8);

impl Roles {
    /// May ask about logins.
    pub const FRONTEND: Self = Self(1);
    /// May manage devices, always for an actor.
    pub const MANAGER: Self = Self(2);
    /// May do everything.
    pub const OPERATOR: Self = Self(4);
    /// May manage the directory.
    pub const PROVISIONER: Self = Self(8);

    pub fn contains(self, role: Self) -> bool {
        self.0 & role.0 == role.0
    }

    pub fn with(self, role: Self) -> Self {
        Self(self.0 | role.0)
    }
}

/// Who makes a change: goes into the audit trail with it.
#[derive(Clone, Debug)]
pub struct Requester {
    /// The program: its name from its certificate or token.
    pub caller: String,
    /// Where the call came from.
    pub peer: String,
    /// The person it acts for. `None` only for a caller that needs nobody's rights.
    pub actor: Option<UserId>,
}
