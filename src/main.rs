//! `latchkey`, the one binary.

use std::process::ExitCode;

/// Logins allocate small things on many threads; this allocator is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    latchkey::cli::run(std::env::args_os().collect())
}
