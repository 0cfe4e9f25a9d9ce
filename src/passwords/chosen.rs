//! Chosen passwords: long enough, not easy to guess, and nothing of the address.

use zxcvbn::{Score, zxcvbn};

use latchkey_core::model::{Invalid, address::Address, secret::Secret};

pub const MIN_CHARACTERS: usize = 16;
pub const MAX_CHARACTERS: usize = 128;
/// "Safely unguessable: moderate protection from offline slow-hash scenario", in zxcvbn's words.
const MIN_SCORE: Score = Score::Three;
/// zxcvbn's time grows faster than the length: it judges so many characters, and a password that is
/// strong so far stays so.
const JUDGED_CHARACTERS: usize = 72;
/// Shorter parts of an address stand in many words.
const MIN_ADDRESS_PART: usize = 4;

/// Checks what somebody chose. It counts as typed: no normalisation, so mail programs that send
/// other bytes for the same letters do not match.
pub fn check(field: &'static str, password: &Secret, address: &Address) -> Result<(), Invalid> {
    let refuse = |reason, problem: String| Err(Invalid::because(reason, field, problem));
    let Some(password) = password.expose_text() else {
        return refuse("INVALID_FIELD", "must be UTF-8".to_owned());
    };
    let characters = password.chars().count();
    if characters < MIN_CHARACTERS {
        return refuse("PASSWORD_TOO_SHORT", format!("must be at least {MIN_CHARACTERS} characters"));
    }
    if characters > MAX_CHARACTERS {
        return refuse("PASSWORD_TOO_LONG", format!("must be at most {MAX_CHARACTERS} characters"));
    }
    if password.chars().any(char::is_control) {
        return refuse("INVALID_FIELD", "must not hold control characters".to_owned());
    }
    let lower = password.to_lowercase();
    let parts: Vec<&str> = address_parts(address).collect();
    if parts.iter().any(|part| lower.contains(part)) || address.as_str().contains(&lower) {
        return refuse("PASSWORD_CONTAINS_ADDRESS", "must not hold a part of the address".to_owned());
    }
    let judged: String = password.chars().take(JUDGED_CHARACTERS).collect();
    let estimate = zxcvbn(&judged, &parts);
    if estimate.score() < MIN_SCORE {
        let advice = estimate.feedback().map(|feedback| {
            let warning = feedback.warning().map(|warning| warning.to_string());
            warning.into_iter().chain(feedback.suggestions().iter().map(ToString::to_string)).collect::<Vec<_>>().join(" ")
        });
        let advice = advice.filter(|advice| !advice.is_empty()).map_or_else(String::new, |advice| format!(": {advice}"));
        return refuse("PASSWORD_TOO_WEAK", format!("must not be easy to guess{advice}"));
    }
    Ok(())
}

/// The whole address, and those parts of it that say something.
fn address_parts(address: &Address) -> impl Iterator<Item = &str> {
    let whole = address.as_str();
    let parts = whole.split(['@', '.', '-', '_', '+']).chain([address.local_part()]);
    std::iter::once(whole).chain(parts.filter(|part| part.len() >= MIN_ADDRESS_PART))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(password: &str) -> Result<(), &'static str> {
        let address = Address::parse("address", "alice@example.com").unwrap();
        check("password", &Secret::from(password.to_owned()), &address).map_err(|why| why.reason)
    }

    #[test]
    fn a_chosen_password_has_bounds() {
        assert_eq!(reason("violet-anchor-breeze-47"), Ok(()));
        assert_eq!(reason("zürich-öffnet-früh-47"), Ok(()));
        assert_eq!(reason("9f-Kq2-xWm-4tZ-"), Err("PASSWORD_TOO_SHORT"), "15 characters");
        assert_eq!(reason("9f-Kq2-xWm-4tZ-p"), Ok(()), "16 characters");
        assert_eq!(reason(&"violet-anchor-breeze-47".repeat(6)), Err("PASSWORD_TOO_LONG"));
        assert_eq!(reason("violet-anchor\u{7}breeze-47"), Err("INVALID_FIELD"));
        for weak in ["aaaaaaaaaaaaaaaaaaaa", "passwordpassword", "qwertyuiopasdfgh", "1234567890123456"] {
            assert_eq!(reason(weak), Err("PASSWORD_TOO_WEAK"), "{weak}");
        }
        for part in ["violet-Alice-breeze-47", "my-EXAMPLE-breeze-4711", "x alice@example.com y"] {
            assert_eq!(reason(part), Err("PASSWORD_CONTAINS_ADDRESS"), "{part}");
        }
    }
}
