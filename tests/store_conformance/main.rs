//! The rules of the `Store` and `Transaction` traits, written once and held by each store. Where
//! one may differ, the trait's own words say so, and the rule is run on the other alone.

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]
#![expect(unreachable_pub, reason = "a test program exports nothing")]

mod changes;
mod crashes;
mod devices;
mod directory;
mod events;
mod import;
mod mailboxes;
mod nodes;
mod pooler;
mod postgres_faults;
mod reads;
mod sqlite_files;
mod stores;
#[path = "../support/mod.rs"]
mod support;
mod transactions;
mod upkeep;
mod use_case;
mod world;
