//! Arguments that several of the device's commands take.

/// A mailbox or a mail service.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(in crate::cli) struct Scope {
    /// On this mailbox
    #[arg(long, value_name = "ADDRESS")]
    pub(super) address: Option<String>,
    /// On all mailboxes of this mail service
    #[arg(long, value_name = "ID")]
    pub(super) service: Option<String>,
}
