//! Generated passwords: 24 characters of a 32-letter alphabet, 120 bits, more than the 112 that
//! NIST SP 800-63B §3.1.2.2 asks of a secret that may be kept under a plain approved hash.

use zeroize::Zeroizing;

use crate::random;

pub const CHARACTERS: usize = 24;
/// Lower-case letters and digits without those that look like another: no `l` and `1`, no `o` and
/// `0`.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const GROUP: usize = 4;
/// As typed, with separators; what is longer is none of ours.
const MAX_TYPED: usize = 64;

/// The one form of a password, however it was typed.
pub type Canonical = Zeroizing<[u8; CHARACTERS]>;

/// For each byte the canonical one, or 0 if it is not in the alphabet.
const CANONICAL: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        table[ALPHABET[i] as usize] = ALPHABET[i];
        table[ALPHABET[i].to_ascii_uppercase() as usize] = ALPHABET[i];
        i += 1;
    }
    table
};

/// A new password.
pub fn generate() -> Canonical {
    let random = Zeroizing::new(random::bytes::<CHARACTERS>());
    let mut password = Zeroizing::new([0; CHARACTERS]);
    for (character, byte) in password.iter_mut().zip(random.iter()) {
        // 256 is a multiple of 32, so each letter is as likely as any.
        *character = ALPHABET[usize::from(byte % 32)];
    }
    password
}

/// As people are shown it: six groups of four, with hyphens.
pub fn display(password: &Canonical) -> Zeroizing<String> {
    let mut shown = Zeroizing::new(String::with_capacity(CHARACTERS + CHARACTERS / GROUP));
    for (i, character) in password.iter().enumerate() {
        if i > 0 && i % GROUP == 0 {
            shown.push('-');
        }
        shown.push(char::from(*character));
    }
    shown
}

/// The one form of what was typed, with or without hyphens or spaces, in any case; `None` if it
/// can't be a generated password.
pub fn canonical(typed: &[u8]) -> Option<Canonical> {
    if typed.len() > MAX_TYPED {
        return None;
    }
    let mut password = Zeroizing::new([0; CHARACTERS]);
    let mut length = 0;
    for byte in typed {
        if matches!(byte, b'-' | b' ' | b'\t') {
            continue;
        }
        let character = CANONICAL[usize::from(*byte)];
        if character == 0 || length == CHARACTERS {
            return None;
        }
        password[length] = character;
        length += 1;
    }
    (length == CHARACTERS).then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_password_however_it_is_typed() {
        let password = generate();
        let shown = display(&password);
        assert_eq!(shown.len(), 29);
        for typed in
            [shown.to_string(), shown.replace('-', ""), shown.replace('-', " "), shown.to_uppercase(), format!(" {} ", *shown)]
        {
            assert_eq!(canonical(typed.as_bytes()).as_deref(), Some(&*password), "{typed:?}");
        }
    }

    #[test]
    fn what_cannot_be_one_is_none() {
        let shown = display(&generate());
        for typed in ["", "abcd", &shown[1..], &format!("{}a", *shown), &shown.replace('-', "_"), &"-".repeat(65)] {
            assert!(canonical(typed.as_bytes()).is_none(), "{typed:?}");
        }
        assert!(canonical(b"lloo1100lloo1100lloo1100").is_none(), "look-alikes are in no password");
        assert!(canonical(&[0xff; CHARACTERS]).is_none());
    }

    #[test]
    fn every_letter_comes_up() {
        let seen: std::collections::BTreeSet<u8> = (0..200).flat_map(|_| *generate()).collect();
        assert_eq!(seen.len(), 32);
    }
}
