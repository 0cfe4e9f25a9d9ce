//! Mail protocols, and sets of them.

use super::Invalid;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Protocol {
    Imap = 1,
    Pop3 = 2,
    Smtp = 3,
    Sieve = 4,
}

impl Protocol {
    pub const ALL: [Self; 4] = [Self::Imap, Self::Pop3, Self::Smtp, Self::Sieve];

    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|p| *p as i64 == number)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Imap => "IMAP",
            Self::Pop3 => "POP3",
            Self::Smtp => "SMTP",
            Self::Sieve => "SIEVE",
        }
    }

    pub fn parse(field: &'static str, name: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|p| p.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| Invalid::new(field, "must be one of IMAP, POP3, SMTP, SIEVE"))
    }
}

/// Where a device may log in, as a bit for each protocol. Empty means everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Protocols(pub u8);

impl Protocols {
    pub fn allows(self, protocol: Protocol) -> bool {
        self.0 == 0 || self.0 & (1 << protocol as u8) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        Protocol::ALL.into_iter().filter(move |p| self.0 & (1 << *p as u8) != 0)
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<T: IntoIterator<Item = Protocol>>(protocols: T) -> Self {
        Self(protocols.into_iter().fold(0, |bits, p| bits | 1 << p as u8))
    }
}
