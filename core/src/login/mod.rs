//! What a replica and a mail host share when they judge a login.

pub mod policy;
pub mod proof;
