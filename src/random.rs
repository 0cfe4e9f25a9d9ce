//! The one source of random bytes: the operating system's. Nothing else makes them (`clippy.toml`
//! holds that).

use latchkey_core::model::{
    clock::Timestamp,
    id::{DeviceId, EventId, MailboxId, NodeId},
};

/// `N` random bytes, fit for keys.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(
        clippy::expect_used,
        clippy::disallowed_methods,
        reason = "this is the one source; Linux's getrandom fails only before the kernel has entropy; nothing safe can be done without it"
    )]
    getrandom::fill(&mut bytes).expect("the operating system gives no random bytes");
    bytes
}

/// A random number, never 0.
pub fn nonce() -> i64 {
    (i64::from_be_bytes(bytes()) & i64::MAX).max(1)
}

/// A new identifier, in the order of time.
pub trait NewId {
    /// A UUIDv7 (RFC 9562 §5.7), never made twice.
    fn new(now: Timestamp) -> Self;
}

macro_rules! new_id {
    ($($id:ident),*) => {
        $(impl NewId for $id {
            fn new(now: Timestamp) -> Self {
                Self::from_parts(now, bytes())
            }
        })*
    };
}

new_id!(DeviceId, MailboxId, EventId, NodeId);
