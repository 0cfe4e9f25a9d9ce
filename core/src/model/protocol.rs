//! Mail protocols, and sets of them.

use super::Invalid;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Protocol {
    Imap = 1,
    Pop3 = 2,
    Smtp = 3,
    Sieve = 4,
    CalDav = 5,
    CardDav = 6,
    Jmap = 7,
    ActiveSync = 8,
    /// Other than CalDAV and CardDAV.
    WebDav = 9,
}

impl Protocol {
    pub const ALL: [Self; 9] = [
        Self::Imap,
        Self::Pop3,
        Self::Smtp,
        Self::Sieve,
        Self::CalDav,
        Self::CardDav,
        Self::Jmap,
        Self::ActiveSync,
        Self::WebDav,
    ];
    /// For errors.
    pub const ONE_OF: &'static str = "must be one of imap, pop3, smtp, sieve, caldav, carddav, jmap, activesync, webdav";

    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|p| *p as i64 == number)
    }

    /// As people write it; [`Self::parse`] takes it in any case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
            Self::Sieve => "sieve",
            Self::CalDav => "caldav",
            Self::CardDav => "carddav",
            Self::Jmap => "jmap",
            Self::ActiveSync => "activesync",
            Self::WebDav => "webdav",
        }
    }

    pub fn parse(field: &'static str, name: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name)).ok_or_else(|| Invalid::new(field, Self::ONE_OF))
    }
}

/// Where a device may log in, as a bit for each protocol. Empty means everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Protocols(pub u16);

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
