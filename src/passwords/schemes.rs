//! The hash schemes that mail servers really use, in both their forms: `{SCHEME}…` (Dovecot, RFC
//! 2307) and `$mcf$…` (crypt(3), PHC).

use argon2::{Algorithm, Argon2, Block, ParamsBuilder, Version};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use password_hash::PasswordVerifier;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

/// What one login may cost at most: a hash that takes more is refused at import, so that none can
/// take the pool down.
const MAX_BCRYPT_COST: u32 = 16;
const MAX_SHA_CRYPT_ROUNDS: u32 = 5_000_000;
const MAX_PBKDF2_ROUNDS: u32 = 5_000_000;
const MAX_ARGON2_KIB: u32 = 256 << 10;
const MAX_ARGON2_PASSES: u32 = 32;
const MAX_ARGON2_LANES: u32 = 64;
/// Memory times passes: about a second.
const MAX_ARGON2_WORK_KIB: u32 = 1 << 20;
/// A hash, as text, in bytes.
const MAX_HASH_BYTES: usize = 512;

/// With or without padding: tools differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether an argon2 of this cost is one that a login may take.
pub(super) fn is_affordable(memory_kib: u32, passes: u32, lanes: u32) -> bool {
    memory_kib <= MAX_ARGON2_KIB
        && passes <= MAX_ARGON2_PASSES
        && lanes <= MAX_ARGON2_LANES
        && memory_kib.saturating_mul(passes) <= MAX_ARGON2_WORK_KIB
}

/// A hash that can be verified.
#[derive(Debug)]
pub(super) enum Scheme<'a> {
    Argon2(Argon2Hash),
    Bcrypt(&'a str),
    ShaCrypt(&'a str),
    /// The digest of password and salt: SSHA and its wider kin.
    Salted {
        digest: Algo,
        hash: Vec<u8>,
        salt: Vec<u8>,
    },
    Pbkdf2 {
        digest: Algo,
        rounds: u32,
        hash: Vec<u8>,
        salt: Vec<u8>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Algo {
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Debug)]
pub(super) struct Argon2Hash {
    pub algorithm: Algorithm,
    version: Version,
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
    /// The pepper key that it was made with; `None`: without a pepper.
    pub key: Option<u16>,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// Why a hash can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unreadable {
    /// No scheme of ours: its name, as far as it has one.
    Unknown(String),
    Broken {
        scheme: &'static str,
        problem: &'static str,
    },
}

impl<'a> Scheme<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Unreadable> {
        if text.len() > MAX_HASH_BYTES {
            return Err(Unreadable::Broken { scheme: "hash", problem: "longer than 512 bytes" });
        }
        if let Some((name, rest)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            return Self::parse_named(name, rest);
        }
        Self::parse_crypt(text)
    }

    fn parse_named(name: &str, rest: &'a str) -> Result<Self, Unreadable> {
        let upper = name.to_ascii_uppercase();
        let (scheme, encoding) = upper.split_once('.').unwrap_or((&upper, "B64"));
        let salted = |digest, scheme, width| {
            let bytes = match encoding {
                "HEX" => from_hex(rest),
                _ => BASE64.decode(rest).ok(),
            };
            let problem = "not base64 (or hex, with .HEX) of a digest and its salt";
            let mut hash = bytes.filter(|bytes| bytes.len() > width).ok_or(Unreadable::Broken { scheme, problem })?;
            let salt = hash.split_off(width);
            Ok(Self::Salted { digest, hash, salt })
        };
        match scheme {
            "SSHA" => salted(Algo::Sha1, "SSHA", 20),
            "SSHA256" => salted(Algo::Sha256, "SSHA256", 32),
            "SSHA512" => salted(Algo::Sha512, "SSHA512", 64),
            "PBKDF2" => parse_dovecot_pbkdf2(rest),
            "PBKDF2-SHA1" | "PBKDF2-SHA256" | "PBKDF2-SHA512" | "PBKDF2_SHA256" | "PBKDF2_SHA512" if rest.starts_with('$') => {
                Self::parse_crypt(rest)
            }
            "CRYPT" | "BLF-CRYPT" | "BCRYPT" | "SHA256-CRYPT" | "SHA512-CRYPT" | "ARGON2ID" | "ARGON2I" | "ARGON2" => {
                Self::parse_crypt(rest)
            }
            _ => Err(Unreadable::Unknown(name.chars().take(32).collect())),
        }
    }

    fn parse_crypt(text: &'a str) -> Result<Self, Unreadable> {
        let id = text.strip_prefix('$').and_then(|rest| rest.split('$').next()).unwrap_or_default();
        match id {
            "argon2id" | "argon2i" => Argon2Hash::parse(text).map(Self::Argon2),
            "2a" | "2b" | "2x" | "2y" => parse_bcrypt(text),
            "5" => parse_sha_crypt(text, "SHA256-CRYPT"),
            "6" => parse_sha_crypt(text, "SHA512-CRYPT"),
            "pbkdf2" => parse_passlib_pbkdf2(text, Algo::Sha1),
            "pbkdf2-sha256" => parse_passlib_pbkdf2(text, Algo::Sha256),
            "pbkdf2-sha512" => parse_passlib_pbkdf2(text, Algo::Sha512),
            _ => Err(Unreadable::Unknown(if id.is_empty() {
                String::new()
            } else {
                format!("${}$", id.chars().take(32).collect::<String>())
            })),
        }
    }

    /// Whether it is the password's. `pepper` is argon2's secret input, if the hash names a key.
    pub(super) fn verify(&self, password: &[u8], pepper: &[u8], memory: &mut Vec<Block>) -> bool {
        match self {
            Self::Argon2(argon2) => argon2.verify(password, pepper, memory),
            Self::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
            Self::ShaCrypt(text) => sha_crypt::PasswordHashRef::new(text)
                .is_ok_and(|hash| sha_crypt::ShaCrypt::default().verify_password(password, hash).is_ok()),
            Self::Salted { digest, hash, salt } => {
                let computed = match digest {
                    Algo::Sha1 => Sha1::new().chain_update(password).chain_update(salt).finalize().to_vec(),
                    Algo::Sha256 => Sha256::new().chain_update(password).chain_update(salt).finalize().to_vec(),
                    Algo::Sha512 => Sha512::new().chain_update(password).chain_update(salt).finalize().to_vec(),
                };
                computed.ct_eq(hash).into()
            }
            Self::Pbkdf2 { digest, rounds, hash, salt } => {
                let mut computed = vec![0; hash.len()];
                match digest {
                    Algo::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, *rounds, &mut computed),
                    Algo::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, *rounds, &mut computed),
                    Algo::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, *rounds, &mut computed),
                }
                computed.ct_eq(hash).into()
            }
        }
    }
}

impl Argon2Hash {
    /// `$argon2id$v=19$m=19456,t=2,p=1[,keyid=…]$salt$hash` (the PHC string format).
    fn parse(text: &str) -> Result<Self, Unreadable> {
        let broken = |problem| Unreadable::Broken { scheme: "ARGON2", problem };
        let mut parts = text.split('$').skip(1).peekable();
        let algorithm = match parts.next() {
            Some("argon2id") => Algorithm::Argon2id,
            _ => Algorithm::Argon2i,
        };
        let version = match parts.next_if(|part| part.starts_with("v=")) {
            Some("v=19") => Version::V0x13,
            Some("v=16") | None => Version::V0x10,
            Some(_) => return Err(broken("of an unknown version")),
        };
        let (mut memory_kib, mut passes, mut lanes, mut key) = (0, 0, 0, None);
        for parameter in parts.next().unwrap_or_default().split(',') {
            let (name, value) = parameter.split_once('=').ok_or(broken("without its parameters"))?;
            let number = || value.parse::<u32>().map_err(|_| broken("with a parameter that is no number"));
            match name {
                "m" => memory_kib = number()?,
                "t" => passes = number()?,
                "p" => lanes = number()?,
                "keyid" => {
                    let id = BASE64.decode(value).ok().and_then(|id| <[u8; 2]>::try_from(id).ok());
                    key = Some(u16::from_be_bytes(id.ok_or(broken("with a keyid that is none of ours"))?));
                }
                _ => return Err(broken("with an unknown parameter")),
            }
        }
        if !is_affordable(memory_kib, passes, lanes) {
            return Err(broken("that costs too much (over 256 MiB, 32 passes, 64 lanes, or 1 GiB in all passes)"));
        }
        let mut bytes = || parts.next().and_then(|part| BASE64.decode(part).ok());
        let (Some(salt), Some(hash)) = (bytes(), bytes()) else {
            return Err(broken("whose salt or hash is not base64"));
        };
        let parsed = Self { algorithm, version, memory_kib, passes, lanes, key, salt, hash };
        if parts.next().is_some() || parsed.salt.len() < 8 || parsed.hash.len() < 4 || parsed.context(b"").is_none() {
            return Err(broken("that argon2 does not take"));
        }
        Ok(parsed)
    }

    fn context<'key>(&self, pepper: &'key [u8]) -> Option<Argon2<'key>> {
        let mut params = ParamsBuilder::new();
        params.m_cost(self.memory_kib).t_cost(self.passes).p_cost(self.lanes).output_len(self.hash.len());
        let params = params.build().ok()?;
        if self.key.is_some() {
            Argon2::new_with_secret(pepper, self.algorithm, self.version, params).ok()
        } else {
            Some(Argon2::new(self.algorithm, self.version, params))
        }
    }

    fn verify(&self, password: &[u8], pepper: &[u8], memory: &mut Vec<Block>) -> bool {
        let mut computed = vec![0; self.hash.len()];
        let Some(context) = self.context(pepper) else {
            return false;
        };
        let blocks = super::memory::blocks(memory, context.params().block_count());
        context.hash_password_into_with_memory(password, &self.salt, &mut computed, blocks).is_ok()
            && computed.ct_eq(&self.hash).into()
    }
}

fn parse_bcrypt(text: &str) -> Result<Scheme<'_>, Unreadable> {
    let broken = |problem| Unreadable::Broken { scheme: "BLF-CRYPT", problem };
    let cost = text.get(4..6).and_then(|cost| cost.parse::<u32>().ok()).ok_or(broken("without its cost"))?;
    if !(4..=MAX_BCRYPT_COST).contains(&cost) {
        return Err(broken("with a cost that is not 4 to 16"));
    }
    text.parse::<bcrypt::HashParts>().map_err(|_| broken("that is not 60 characters of bcrypt"))?;
    Ok(Scheme::Bcrypt(text))
}

fn parse_sha_crypt<'a>(text: &'a str, scheme: &'static str) -> Result<Scheme<'a>, Unreadable> {
    let broken = |problem| Unreadable::Broken { scheme, problem };
    let mut fields = text.split('$').skip(2).peekable();
    if let Some(rounds) = fields.next_if(|field| field.starts_with("rounds=")) {
        let rounds = rounds["rounds=".len()..].parse::<u32>().map_err(|_| broken("with rounds that are no number"))?;
        if !(1_000..=MAX_SHA_CRYPT_ROUNDS).contains(&rounds) {
            return Err(broken("with rounds that are not 1,000 to 5,000,000"));
        }
    }
    let (salt, hash) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let width = if scheme == "SHA512-CRYPT" { 86 } else { 43 };
    let is_crypt64 = hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    if salt.is_empty() || salt.len() > 16 || hash.len() != width || !is_crypt64 || fields.next().is_some() {
        return Err(broken("that is not rounds, salt and hash as crypt(3) writes them"));
    }
    sha_crypt::PasswordHashRef::new(text).map_err(|_| broken("that can't be read"))?;
    Ok(Scheme::ShaCrypt(text))
}

/// `$1$salt$rounds$hex`: PBKDF2 with HMAC-SHA1, as Dovecot writes it; the salt is taken as it
/// stands.
fn parse_dovecot_pbkdf2(rest: &str) -> Result<Scheme<'_>, Unreadable> {
    let parts: Vec<&str> = rest.split('$').collect();
    let problem = "that is not $1$salt$rounds$hash in hex";
    let ["", "1", salt, rounds, hash] = parts[..] else {
        return Err(Unreadable::Broken { scheme: "PBKDF2", problem });
    };
    let hash = from_hex(hash).filter(|hash| !hash.is_empty()).ok_or(Unreadable::Broken { scheme: "PBKDF2", problem })?;
    Ok(Scheme::Pbkdf2 { digest: Algo::Sha1, rounds: pbkdf2_rounds(rounds)?, hash, salt: salt.as_bytes().to_vec() })
}

/// `$pbkdf2-sha256$rounds$salt$hash`, as passlib writes it: base64 with `.` for `+`, without
/// padding.
fn parse_passlib_pbkdf2(text: &str, digest: Algo) -> Result<Scheme<'_>, Unreadable> {
    let parts: Vec<&str> = text.split('$').collect();
    let broken = Unreadable::Broken { scheme: "PBKDF2", problem: "that is not rounds, salt and hash as passlib writes them" };
    let ["", _, rounds, salt, hash] = parts[..] else {
        return Err(broken);
    };
    let decode = |text: &str| BASE64.decode(text.replace('.', "+")).ok();
    let (Some(salt), Some(hash)) = (decode(salt), decode(hash).filter(|hash| !hash.is_empty())) else {
        return Err(broken);
    };
    Ok(Scheme::Pbkdf2 { digest, rounds: pbkdf2_rounds(rounds)?, hash, salt })
}

fn pbkdf2_rounds(text: &str) -> Result<u32, Unreadable> {
    let rounds = text.parse::<u32>().ok().filter(|rounds| (1..=MAX_PBKDF2_ROUNDS).contains(rounds));
    rounds.ok_or(Unreadable::Broken { scheme: "PBKDF2", problem: "with rounds that are not 1 to 5,000,000" })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    text.len().is_multiple_of(2).then(|| pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect())?
}
