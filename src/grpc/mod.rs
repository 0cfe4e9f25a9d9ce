//! Floor 4: the gRPC services. They parse requests, call a use case, and turn its answer into a
//! message. They hold no rules.

pub mod authorization;
pub mod caller;
pub mod connection;
mod convert;
pub mod device_credentials;
pub mod directory;
mod page;
mod redacted;
mod refusals;
pub mod server;
mod status;
mod streaming;
mod watch;
