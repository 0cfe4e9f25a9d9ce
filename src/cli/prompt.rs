//! What is asked of the person, or read from standard input: passwords (never arguments, which `ps`
//! shows to everybody) and a yes.

use std::io::{self, BufRead, Read, Write};

use clap::Args;

use super::{failure::Failure, terminal::is_interactive};
use latchkey_core::model::secret::Secret;

/// A secret on standard input is at most this many bytes; the server's own bounds are narrower.
const MAX_SECRET_BYTES: u64 = 4096;

/// Where a device's password comes from.
#[derive(Args, Debug, Clone, Copy)]
pub(super) struct ChosenPassword {
    /// Choose the password: prompts for it twice, without echo
    #[arg(long, conflicts_with = "password_stdin")]
    choose: bool,
    /// Choose the password: reads the first line of standard input
    #[arg(long)]
    password_stdin: bool,
}

impl ChosenPassword {
    /// The chosen password; `None` if one is to be generated.
    pub(super) fn read(self) -> Result<Option<Secret>, Failure> {
        if self.password_stdin {
            return secret_from_stdin("--password-stdin").map(Some);
        }
        if !self.choose {
            return Ok(None);
        }
        let password = ask_secret("New password (16 to 128 characters): ")?;
        if ask_secret("Once more: ")? != password {
            return Err(Failure::refused("the two passwords differ; nothing was done"));
        }
        Ok(Some(password))
    }
}

/// Asks on the terminal, without echo.
pub(super) fn ask_secret(question: &str) -> Result<Secret, Failure> {
    rpassword::prompt_password(question).map(Secret::from).map_err(|error| {
        Failure::usage(format!("no terminal to ask on: {error}"))
            .with_advice("Give the password on standard input with --password-stdin.")
    })
}

/// The first line of standard input, without its end.
pub(super) fn secret_from_stdin(flag: &str) -> Result<Secret, Failure> {
    let mut line = Vec::with_capacity(MAX_SECRET_BYTES as usize + 1);
    io::stdin().lock().take(MAX_SECRET_BYTES + 1).read_until(b'\n', &mut line)?;
    if line.len() as u64 > MAX_SECRET_BYTES {
        return Err(Failure::usage(format!("{flag}: more than {MAX_SECRET_BYTES} bytes in the first line of standard input")));
    }
    for end in [b'\n', b'\r'] {
        line.pop_if(|byte| *byte == end);
    }
    if line.is_empty() {
        return Err(Failure::usage(format!("{flag}: the first line of standard input is empty")));
    }
    Ok(Secret::new(line))
}

/// Asks for a yes; only `y` or `yes` is one. Where nobody can be asked, `otherwise` names the flag
/// that says yes beforehand.
pub(super) fn confirm(question: &str, otherwise: &str) -> Result<bool, Failure> {
    if !is_interactive() {
        return Err(Failure::usage(format!("{question} There is no terminal to ask on")).with_advice(otherwise));
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(MAX_SECRET_BYTES).read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// A secret as the contract's text fields want it.
pub(super) fn text(secret: Option<Secret>) -> Result<String, Failure> {
    let Some(secret) = secret else { return Ok(String::new()) };
    secret.expose_text().map(str::to_owned).ok_or_else(|| Failure::usage("the password is not UTF-8"))
}
