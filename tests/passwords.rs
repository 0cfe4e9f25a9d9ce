//! Imported hashes, as the real tools make them (`scripts/make-password-vectors`).

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]

use latchkey::passwords::{
    hash::{HashCost, Hasher, Memory},
    imported,
    pepper::Pepper,
};
use latchkey_core::model::device::PasswordHash;

const VECTORS: &str = include_str!("vectors/passwords.tsv");

fn hasher() -> Hasher {
    Hasher::new(&Pepper::random(), HashCost::default()).expect("a good cost")
}

#[test]
fn every_scheme_verifies_its_password_and_no_other() {
    let (hasher, mut memory) = (hasher(), Memory::new());
    let mut schemes = std::collections::BTreeSet::new();
    for line in VECTORS.lines() {
        let [scheme, password, hash, command] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("four columns: {line}") };
        let parsed = imported::parse("generic_password_hash", hash).expect(line);
        assert_eq!(hasher.verify(password.as_bytes(), &parsed, &mut memory), Ok(true), "{command}: {line}");
        let other = password.replacen(['t', 'w', 'g', 's'], "x", 1);
        assert_ne!(other, password);
        assert_eq!(hasher.verify(other.as_bytes(), &parsed, &mut memory), Ok(false), "{command}: {line}");
        assert!(hasher.needs_upgrade(&parsed), "an imported one has no pepper: {line}");
        schemes.insert(scheme);
    }
    assert!(schemes.len() >= 13, "{schemes:?}");
}

#[test]
fn what_cannot_be_verified_is_refused_by_its_schemes_name() {
    for (hash, reason, names) in [
        ("", "UNSUPPORTED_SCHEME", "SHA512-CRYPT"),
        ("plaintext", "UNSUPPORTED_SCHEME", "SHA512-CRYPT"),
        ("{PLAIN}secret", "UNSUPPORTED_SCHEME", "PLAIN"),
        ("{MD5-CRYPT}$1$salt$hash", "UNSUPPORTED_SCHEME", "MD5-CRYPT"),
        ("$1$salt$hash", "UNSUPPORTED_SCHEME", "$1$"),
        ("{SSHA}not base64!", "UNREADABLE_HASH", "SSHA"),
        ("{SSHA512}c2hvcnQ=", "UNREADABLE_HASH", "SSHA512"),
        ("{SSHA.HEX}abc", "UNREADABLE_HASH", "SSHA"),
        ("$6$salt$tooshort", "UNREADABLE_HASH", "SHA512-CRYPT"),
        ("$5$rounds=1$salt$hash", "UNREADABLE_HASH", "SHA256-CRYPT"),
        ("$2y$06$short", "UNREADABLE_HASH", "BLF-CRYPT"),
        ("$argon2id$v=19$m=64,t=1$c2FsdHNhbHQ$aGFzaA", "UNREADABLE_HASH", "ARGON2"),
        ("$argon2id$v=19$m=64,t=1,p=1,keyid=AAE$c2FsdHNhbHQ$aGFzaGhhc2g", "UNREADABLE_HASH", "keyid"),
        ("{PBKDF2}$1$salt$x$00", "UNREADABLE_HASH", "PBKDF2"),
        ("$pbkdf2-sha256$1$salt", "UNREADABLE_HASH", "PBKDF2"),
    ] {
        let refused = imported::parse("generic_password_hash", hash).expect_err(hash);
        assert_eq!((refused.field, refused.reason), ("generic_password_hash", reason), "{hash}");
        assert!(refused.problem.contains(names), "{hash}: {}", refused.problem);
    }
}

#[test]
fn a_hash_that_costs_too_much_is_refused_before_it_is_ever_run() {
    let sha_crypt = format!("$6$rounds=99999999$salt${}", "a".repeat(86));
    let bcrypt = "$2y$17$abcdefghijklmnopqrstuuHZqAJsRCNrD5dLBBsiPIBTJ7iY3mCXa";
    for hash in [
        "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        "$argon2id$v=19$m=64,t=1000,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
        &sha_crypt,
        bcrypt,
        "$pbkdf2-sha256$99999999$c2FsdA$aGFzaA",
        &"x".repeat(513),
    ] {
        imported::parse("generic_password_hash", hash).expect_err(hash);
    }
}

#[test]
fn no_hash_shows_itself() {
    assert_eq!(format!("{:?}", PasswordHash("{SSHA}abc".to_owned())), "[redacted]");
}
