//! Which protocol a mail server's service stands for.

use latchkey_core::model::protocol::Protocol;

/// What mail servers call their services without being told otherwise.
const USUAL: [(&str, Protocol); 7] = [
    ("imap", Protocol::Imap),
    ("pop3", Protocol::Pop3),
    ("smtp", Protocol::Smtp),
    ("submission", Protocol::Smtp),
    ("sieve", Protocol::Sieve),
    ("managesieve", Protocol::Sieve),
    ("radicale", Protocol::CalDav),
];

/// The table: what the settings say, then what is usual.
#[derive(Clone, Debug, Default)]
pub struct Services(Vec<(String, Protocol)>);

impl Services {
    pub fn new(settings: Vec<(String, Protocol)>) -> Self {
        Self(settings)
    }

    pub fn protocol(&self, service: &str) -> Option<Protocol> {
        let set = self.0.iter().find(|(name, _)| name == service).map(|(_, protocol)| *protocol);
        set.or_else(|| USUAL.iter().find(|(name, _)| *name == service).map(|(_, protocol)| *protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_before_what_is_usual() {
        let services = Services::new(vec![("radicale".to_owned(), Protocol::CardDav), ("web".to_owned(), Protocol::Jmap)]);
        assert_eq!(services.protocol("radicale"), Some(Protocol::CardDav));
        assert_eq!(services.protocol("web"), Some(Protocol::Jmap));
        assert_eq!(services.protocol("submission"), Some(Protocol::Smtp));
        assert_eq!(services.protocol("ftp"), None);
        assert_eq!(Services::default().protocol("radicale"), Some(Protocol::CalDav));
    }
}
