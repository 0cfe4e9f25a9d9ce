//! Floor 2: passwords: how they are made, chosen, found by their tag, and hashed at rest (DESIGN.md §4). No I/O but the pepper's file.

pub mod chosen;
pub mod generated;
pub mod hash;
pub mod imported;
mod memory;
pub mod pepper;
mod schemes;
pub mod tag;
