//! Floor 2: passwords: how they are made, chosen, found by their tag, and hashed at rest
//! (docs/design.md, "Passwords"). No I/O but the pepper's file.

pub mod chosen;
pub mod generated;
pub mod hash;
pub mod imported;
mod memory;
pub mod pepper;
mod schemes;
pub mod tag;
