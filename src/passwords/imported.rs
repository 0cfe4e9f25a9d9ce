//! Imported hashes: read at the door, so that what can't be verified is refused by its scheme's
//! name.

use super::schemes::{Scheme, Unreadable};
use latchkey_core::model::{Invalid, device::PasswordHash};

/// The schemes that can be imported, for people.
const SCHEMES: &str = "ARGON2ID, BLF-CRYPT, SHA512-CRYPT, SHA256-CRYPT, SSHA512, SSHA256, SSHA, PBKDF2";

/// A hash in one of the known schemes, `{SCHEME}…` or `$mcf$…`. One that names a pepper key is
/// refused: only our own do.
pub fn parse(field: &'static str, text: &str) -> Result<PasswordHash, Invalid> {
    match Scheme::parse(text) {
        Ok(Scheme::Argon2(hash)) if hash.key.is_some() => {
            Err(Invalid::because("UNREADABLE_HASH", field, "must not be an ARGON2 hash with a keyid"))
        }
        Ok(_) => Ok(PasswordHash(text.to_owned())),
        Err(Unreadable::Unknown(scheme)) if scheme.is_empty() => {
            Err(Invalid::because("UNSUPPORTED_SCHEME", field, format!("must name its scheme, one of {SCHEMES}")))
        }
        Err(Unreadable::Unknown(scheme)) => {
            Err(Invalid::because("UNSUPPORTED_SCHEME", field, format!("must be of one of {SCHEMES}; `{scheme}` is not known")))
        }
        Err(Unreadable::Broken { scheme, problem }) => {
            Err(Invalid::because("UNREADABLE_HASH", field, format!("must be readable; it is a {scheme} {problem}")))
        }
    }
}
