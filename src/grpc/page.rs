//! Pages of a list: sizes within bounds, and tokens that are good for the one list that they came
//! from.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use latchkey_core::model::Invalid;

const DEFAULT_SIZE: usize = 50;
const MAX_SIZE: usize = 1_000;
/// Longer than any token of ours.
const MAX_TOKEN_BYTES: usize = 1_024;
const LIST_BYTES: usize = 8;

/// 1 to 1,000; 0 means 50.
pub(super) fn size(page_size: i32) -> Result<usize, Invalid> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) if size <= MAX_SIZE => Ok(size),
        _ => Err(Invalid::new("page_size", "must be 0 to 1,000")),
    }
}

/// Names a list: its method, and what it is a list of.
pub(super) struct List([u8; LIST_BYTES]);

impl List {
    pub(super) fn of(method: &str, parent: &str) -> Self {
        let digest = Sha256::new().chain_update(method).chain_update([0]).chain_update(parent).finalize();
        let mut list = [0; LIST_BYTES];
        list.copy_from_slice(&digest[..LIST_BYTES]);
        Self(list)
    }

    /// The key that the next page comes after; `None`: this is the first.
    pub(super) fn after(&self, page_token: &str) -> Result<Option<String>, Invalid> {
        if page_token.is_empty() {
            return Ok(None);
        }
        let refuse = || Invalid::new("page_token", "must be a next_page_token of the same list");
        if page_token.len() > MAX_TOKEN_BYTES {
            return Err(refuse());
        }
        let bytes = URL_SAFE_NO_PAD.decode(page_token).map_err(|_| refuse())?;
        let key = bytes.strip_prefix(&self.0).ok_or_else(refuse)?;
        String::from_utf8(key.to_vec()).map(Some).map_err(|_| refuse())
    }

    /// Cuts what was asked for with one more than the page holds, and answers the token of the next
    /// page; empty on the last.
    pub(super) fn cut<T>(&self, rows: &mut Vec<T>, size: usize, key: impl Fn(&T) -> String) -> String {
        if rows.len() <= size {
            return String::new();
        }
        rows.truncate(size);
        let key = rows.last().map(key).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([self.0.as_slice(), key.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_on_in_its_own_list_only() {
        let list = List::of("ListDevices", "alice@example.com");
        let mut rows = vec!["a", "b", "c"];
        let token = list.cut(&mut rows, 2, |row| (*row).to_owned());
        assert_eq!(rows, ["a", "b"]);
        assert_eq!(list.after(&token).expect("ours"), Some("b".to_owned()));
        assert!(List::of("ListDevices", "bob@example.com").after(&token).is_err());
        for broken in ["x", "!!", &"a".repeat(2_000), &token[1..]] {
            assert_eq!(list.after(broken).expect_err("broken").field, "page_token");
        }
        assert_eq!(list.cut(&mut vec!["a", "b"], 2, |row| (*row).to_owned()), "", "the last page");
    }

    #[test]
    fn a_page_has_bounds() {
        assert_eq!(size(0), Ok(50));
        assert_eq!(size(1_000), Ok(1_000));
        assert!(size(1_001).is_err() && size(-1).is_err());
    }
}
