//! Identifiers, each a type of its own.

use std::fmt;

use uuid::Uuid;

use super::{Invalid, clock::Timestamp};

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A UUIDv7 (RFC 9562 §5.7) from a time and random bytes: in the order of time, never
            /// made twice.
            pub fn from_parts(now: Timestamp, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(now.unix_millis(), &random).into_uuid())
            }

            pub fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
                if text.is_empty() {
                    return Err(Invalid::new(field, "must not be empty"));
                }
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| Invalid::new(field, "must be a UUID, as Latchkey answered it (36 characters)"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A device; keeps it through password changes.
    DeviceId
);
uuid_id!(
    /// A mailbox; one made again under the same address gets a new one.
    MailboxId
);
uuid_id!(
    /// An entry of the audit trail.
    EventId
);
uuid_id!(
    /// A process that caches; fresh at each start.
    NodeId
);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(Box<str>);

        impl $name {
            pub const MAX_BYTES: usize = $max;

            /// 1 to `MAX_BYTES` visible ASCII characters.
            pub fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
                if text.is_empty() {
                    return Err(Invalid::new(field, "must not be empty"));
                }
                if text.len() > Self::MAX_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(Invalid::new(
                        field,
                        concat!("must be 1 to ", stringify!($max), " visible ASCII characters"),
                    ));
                }
                Ok(Self(text.into()))
            }

            pub fn from_store(stored: String) -> Self {
                Self(stored.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// An organization, in the caller's own words.
    OrganizationId, 128
);
text_id!(
    /// A mail service, in the caller's own words.
    MailServiceId, 128
);
text_id!(
    /// A person, in the caller's own words.
    UserId, 128
);
text_id!(
    /// A caller's name for one changing call, so that saying it again has no second effect.
    RequestId, 64
);
