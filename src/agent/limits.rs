//! What the system lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Each session of Dovecot holds one descriptor, and each mail process that asks two.
const ENOUGH_OPEN_FILES: u64 = 65_536;

/// Takes as many open files as the system allows, and says so if those are few.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(cause) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%cause, "the limit of open files can't be raised");
    }
    if let Some(files) = limit.maximum.filter(|files| *files < ENOUGH_OPEN_FILES) {
        warn!(files, "few open files are allowed: a session of Dovecot takes one (LimitNOFILE= in the unit)");
    }
}
