//! Floor 4: the Dovecot authentication protocol, from the server's side. Postfix, Exim, chasquid,
//! Radicale and Dovecot itself ask by it whether a login may proceed.

pub mod command;
pub mod handshake;
pub mod line;
pub mod master;
pub mod mechanism;
pub mod sasl;
#[cfg(test)]
mod sasl_tests;
pub mod services;
mod timeouts;

/// Who asks at a SASL socket. They say "try later" to their own clients on different words of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientKind {
    /// Takes any FAIL for a wrong password; a closed connection means "try later".
    Postfix,
    /// As Postfix.
    Exim,
    /// As Postfix; nothing asks about its sessions.
    Chasquid,
    /// As Postfix; it has no sessions.
    Radicale,
    /// Asks for many clients on one connection; `code=temp_fail` means "try later".
    Dovecot,
}

impl ClientKind {
    pub const ALL: [Self; 5] = [Self::Postfix, Self::Exim, Self::Chasquid, Self::Radicale, Self::Dovecot];

    /// As the setting has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Exim => "exim",
            Self::Chasquid => "chasquid",
            Self::Radicale => "radicale",
            Self::Dovecot => "dovecot",
        }
    }
}
