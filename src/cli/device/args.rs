//! Arguments that several of the device's commands take.

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct WaitArgs {
    /// Return once the change is committed, without waiting until it is effective everywhere
    #[arg(long)]
    no_wait: bool,
}

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

impl WaitArgs {
    pub(in crate::cli) fn max_wait(&self) -> Option<prost_types::Duration> {
        self.no_wait.then(prost_types::Duration::default)
    }
}
