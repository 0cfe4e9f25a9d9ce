//! Mail addresses, normalised so that one mailbox has one spelling.

use std::fmt;

use sha2::{Digest, Sha256};

use super::Invalid;

/// RFC 5321 §4.5.3.1.3: a path is at most 256 octets with its angle brackets.
pub const MAX_ADDRESS_BYTES: usize = 254;
/// RFC 5321 §4.5.3.1.1.
pub const MAX_LOCAL_PART_BYTES: usize = 64;

/// A normalised address: lower case, the domain in its ASCII form (UTS 46), at most
/// [`MAX_ADDRESS_BYTES`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Box<str>);

impl Address {
    /// Parses what someone typed. `field` names it in the error.
    pub fn parse(field: &'static str, typed: &str) -> Result<Self, Invalid> {
        let refuse = |problem: &str| Err(Invalid::new(field, problem));
        if typed.is_empty() {
            return refuse("must not be empty");
        }
        if typed.len() > MAX_ADDRESS_BYTES {
            return refuse("must be at most 254 bytes");
        }
        if typed.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("must not hold control characters or spaces");
        }
        let Some((local, domain)) = typed.split_once('@') else {
            return refuse("must have an @");
        };
        if domain.contains('@') {
            return refuse("must have only one @");
        }
        if local.is_empty() || domain.is_empty() {
            return refuse("must have something on both sides of the @");
        }
        if local.len() > MAX_LOCAL_PART_BYTES {
            return refuse("must have at most 64 bytes before the @");
        }
        let normal = if typed.is_ascii() && is_plain_domain(domain) {
            typed.to_ascii_lowercase()
        } else {
            let Ok(domain) = idna::domain_to_ascii_strict(domain) else {
                return refuse("must have a valid domain after the @ (RFC 1035, RFC 5890)");
            };
            format!("{}@{domain}", local.to_lowercase())
        };
        if normal.len() > MAX_ADDRESS_BYTES {
            return refuse("must be at most 254 bytes, with its domain in ASCII");
        }
        Ok(Self(normal.into()))
    }

    /// An address that a store gives back: normalised when it went in.
    pub fn from_store(stored: String) -> Self {
        Self(stored.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn local_part(&self) -> &str {
        self.0.split_once('@').map_or(&self.0, |(local, _)| local)
    }

    pub fn key(&self) -> MailboxKey {
        let digest = Sha256::digest(self.0.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        MailboxKey(key)
    }
}

/// Whether an ASCII domain needs no IDNA: labels of 1 to 63 letters, digits and inner hyphens, and
/// none in Punycode.
fn is_plain_domain(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
            && bytes.get(2..4) != Some(b"--")
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What caches and the change log know a mailbox by: the first 16 bytes of SHA-256 over its
/// normalised address. It exists for addresses that have no mailbox too, so "no such mailbox" can
/// be cached, and ended when one is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MailboxKey(pub [u8; 16]);

impl fmt::Debug for MailboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(typed: &str) -> Result<String, String> {
        Address::parse("address", typed).map(|a| a.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn one_mailbox_has_one_spelling() {
        for typed in ["alice@example.com", "Alice@EXAMPLE.com", "ALICE@Example.Com"] {
            assert_eq!(parsed(typed).unwrap(), "alice@example.com");
        }
        for typed in ["zoë@bücher.example", "ZOË@xn--bcher-kva.example", "zoë@BÜCHER.example"] {
            assert_eq!(parsed(typed).unwrap(), "zoë@xn--bcher-kva.example");
        }
    }

    #[test]
    fn a_broken_address_is_refused_with_its_bound() {
        let long = format!("a@{}.example", "b".repeat(250));
        let long_local = format!("{}@example.com", "a".repeat(65));
        for (typed, bound) in [
            ("", "empty"),
            ("alice", "an @"),
            ("a@b@c", "only one @"),
            ("@example.com", "both sides"),
            ("alice@", "both sides"),
            ("a lice@example.com", "spaces"),
            ("alice\n@example.com", "control"),
            ("alice@exa\0mple.com", "control"),
            ("alice@example..com", "domain"),
            ("alice@-example.com", "domain"),
            (&long, "254"),
            (&long_local, "64"),
        ] {
            let error = parsed(typed).unwrap_err();
            assert!(error.starts_with("address: ") && error.contains(bound), "{typed:?}: {error}");
        }
    }

    /// RFC 5891 to 5893 and UTS 46, whatever Unicode tables stand under `idna`.
    #[test]
    fn an_internationalized_domain_follows_the_idna_rules() {
        for (typed, normal) in [
            ("a@faß.example", "a@xn--fa-hia.example"),
            ("a@bu\u{308}cher.example", "a@xn--bcher-kva.example"),
            ("a@ｂücher．example", "a@xn--bcher-kva.example"),
            ("a@ΣΊΣΥΦΟΣ.example", "a@xn--kxa6akbbkh.example"),
            ("a@мойдомен.рф", "a@xn--d1acklchcc.xn--p1ai"),
            ("a@例え.テスト", "a@xn--r8jz45g.xn--zckzah"),
            ("a@אבג1.example", "a@xn--1-zhcde.example"),
            ("a@नी\u{94d}\u{200d}.example", "a@xn--l2b2cwb267n.example"),
        ] {
            assert_eq!(parsed(typed).as_deref(), Ok(normal), "{typed}");
        }
        for (wrong, rule) in [
            ("a@אבגa.example", "a right-to-left label with a Latin letter (RFC 5893, rule 2)"),
            ("a@אב1١.example", "European and Arabic digits in one label (RFC 5893, rule 4)"),
            ("a@aב.example", "a left-to-right label with a Hebrew letter (RFC 5893, rule 5)"),
            ("a@a\u{200d}b.example", "a zero width joiner without a virama (CONTEXTJ)"),
            ("a@a\u{200c}b.example", "a zero width non-joiner between letters that do not join (CONTEXTJ)"),
            ("a@\u{308}u.example", "a combining mark first"),
            ("a@xn--bcher-kvb-.example", "bad Punycode"),
            ("a@bü_cher.example", "an underscore"),
            ("a@-bücher.example", "a hyphen first"),
        ] {
            assert!(parsed(wrong).is_err(), "{rule}: {wrong}");
        }
    }
}
