//! Percent-encoding, and forms: `name=value` pairs of a request's body. What is not encoded rightly
//! is refused, never guessed.

use std::fmt;

use latchkey_core::model::secret::Secret;

/// Pairs in a form; more are refused.
pub const MAX_FIELDS: usize = 64;

/// Why a body, or a header's value, is not a form, or not percent-encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormError {
    #[error("more than {MAX_FIELDS} fields")]
    TooManyFields,
    #[error("a % is not followed by two hexadecimal digits")]
    BadEscape,
    #[error("a field is given twice")]
    FieldTwice,
}

/// A form's fields. Any of them may be a password, so none is printed.
#[derive(Default)]
pub struct Form(Vec<(Vec<u8>, Secret)>);

impl Form {
    /// Parses a body of application/x-www-form-urlencoded: `+` is a space there.
    pub fn parse(body: &[u8]) -> Result<Self, FormError> {
        let mut fields: Vec<(Vec<u8>, Secret)> = Vec::new();
        for pair in body.trim_ascii_end().split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            if fields.len() == MAX_FIELDS {
                return Err(FormError::TooManyFields);
            }
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let name = decode(&pair[..at], true)?;
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(FormError::FieldTwice);
            }
            fields.push((name, Secret::new(decode(pair.get(at + 1..).unwrap_or_default(), true)?)));
        }
        Ok(Self(fields))
    }

    /// A field's value; `None` if it is not there or is empty.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        let found = self.0.iter().find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value).filter(|value| !value.expose().is_empty())
    }

    /// Whether a field is there, empty or not.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name.as_bytes())
    }

    /// A field's value, if it is there, is not empty and is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.expose_text()
    }
}

/// Undoes percent-encoding (RFC 3986 §2.1). A form has `+` for a space; a header of nginx has not.
pub fn decode(encoded: &[u8], plus_is_space: bool) -> Result<Vec<u8>, FormError> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(FormError::BadEscape) };
                (high * 16 + low) as u8
            }
            b'+' if plus_is_space => b' ',
            byte => *byte,
        });
    }
    Ok(decoded)
}

/// Names are not printed either: where a `=` or a `&` went wrong, a name is a piece of a password.
impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form").field("fields", &self.0.len()).finish_non_exhaustive()
    }
}
