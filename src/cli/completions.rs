//! `latchkey completions`: what a shell needs to complete our commands.

use std::{io, process::ExitCode};

use clap_complete::Shell;

use crate::exit::Exit;

/// Print a script that completes latchkey's commands and flags in a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey completions bash > /etc/bash_completion.d/latchkey
  latchkey completions zsh > \"${fpath[1]}/_latchkey\"
  latchkey completions fish > ~/.config/fish/completions/latchkey.fish")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    pub(super) fn run(&self, mut command: clap::Command) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "latchkey", &mut script);
        super::output::write_all(&mut io::stdout().lock(), &script)
            .map_or_else(|failure| failure.report(false), |()| Exit::Done)
            .into()
    }
}
