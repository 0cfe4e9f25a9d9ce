//! Floor 2: what makes a warm login cheap. Two things, kept apart (docs/design.md, "A login"):
//! mailboxes' records, whose authority can end at any moment, and memos, which are true for ever.

mod generations;
pub mod mailboxes;
pub mod memos;
