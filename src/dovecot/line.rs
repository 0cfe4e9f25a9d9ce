//! Lines of the Dovecot authentication protocol: LF ends a line, TAB separates its fields, and a
//! field escapes what would be mistaken for either. Pure: bytes come in by [`Lines::push`], lines
//! go out by [`Lines::next_line`].
//!
//! | input | outcome |
//! | --- | --- |
//! | half a line | nothing, until the rest has come; the caller bounds the wait |
//! | a line of more than [`MAX_LINE_BYTES`] | [`LineTooLong`], however it was cut into reads |
//! | a CR before the LF | part of the last field, as in Dovecot |
//! | NUL, or any other byte | part of its field |
//! | an escape that is not in the table, or that ends the field | [`BadEscape`] |

use std::borrow::Cow;

use zeroize::{Zeroize, Zeroizing};

/// A line without its LF may have this many bytes, as in Dovecot (`AUTH_CLIENT_MAX_LINE_LENGTH`).
pub const MAX_LINE_BYTES: usize = 16_384;

/// Begins an escape.
const ESCAPE: u8 = 1;
/// What stands after [`ESCAPE`], and for which byte.
const ESCAPES: [(u8, u8); 5] = [(b'0', 0), (b'1', ESCAPE), (b't', b'\t'), (b'r', b'\r'), (b'n', b'\n')];

/// A line of more than [`MAX_LINE_BYTES`]. What follows cannot be read: the connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a line has more than {MAX_LINE_BYTES} bytes")]
pub struct LineTooLong;

/// A field that was not escaped as the protocol says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a field holds an unknown escape")]
pub struct BadEscape;

/// Cuts what arrives into lines. It wipes what it held: lines carry passwords.
#[derive(Default)]
pub struct Lines {
    bytes: Zeroizing<Vec<u8>>,
    /// Where the first line that was not given out begins.
    start: usize,
    /// No LF stands between `start` and here.
    searched: usize,
}

impl Lines {
    /// Takes what arrived. The caller takes all lines out before the next push, so that the buffer
    /// stays small.
    pub fn push(&mut self, bytes: &[u8]) {
        let held = self.bytes.len() - self.start;
        if self.start > 0 {
            self.bytes.copy_within(self.start.., 0);
            self.bytes[held..].zeroize();
            self.bytes.truncate(held);
            self.searched -= self.start;
            self.start = 0;
        }
        if held + bytes.len() > self.bytes.capacity() {
            // Growing in place would leave a copy behind that nobody wipes.
            let mut larger = Zeroizing::new(Vec::with_capacity((held + bytes.len()).next_power_of_two()));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line, without its LF.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        let found = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n').map(|at| self.searched + at);
        let end = found.unwrap_or(self.bytes.len());
        if end - self.start > MAX_LINE_BYTES {
            return Err(LineTooLong);
        }
        let Some(end) = found else {
            self.searched = end;
            return Ok(None);
        };
        let line = &self.bytes[self.start..end];
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(line))
    }

    /// Whether part of a line waits for its rest.
    pub fn has_half_a_line(&self) -> bool {
        self.start < self.bytes.len()
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("bytes_held", &(self.bytes.len() - self.start)).finish_non_exhaustive()
    }
}

/// The fields of a line, still escaped. There is always a first one, maybe empty.
pub fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b'\t')
}

/// A field as it was before it was escaped.
pub fn unescape(field: &[u8]) -> Result<Cow<'_, [u8]>, BadEscape> {
    if !field.contains(&ESCAPE) {
        return Ok(Cow::Borrowed(field));
    }
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(byte) = rest.next() {
        plain.push(match byte {
            &ESCAPE => {
                let code = rest.next().ok_or(BadEscape)?;
                ESCAPES.iter().find(|(written, _)| written == code).ok_or(BadEscape)?.1
            }
            byte => *byte,
        });
    }
    Ok(Cow::Owned(plain))
}

/// A field as it may stand in a line.
pub fn escape(plain: &[u8]) -> Cow<'_, [u8]> {
    if !needs_escape(plain) {
        return Cow::Borrowed(plain);
    }
    let mut field = Vec::with_capacity(plain.len() + 8);
    for byte in plain {
        match ESCAPES.iter().find(|(_, meant)| meant == byte) {
            Some((written, _)) => field.extend([ESCAPE, *written]),
            None => field.push(*byte),
        }
    }
    Cow::Owned(field)
}

/// Whether [`escape`] changes it. Postfix and Exim do not unescape what they read.
pub fn needs_escape(plain: &[u8]) -> bool {
    plain.iter().any(|byte| matches!(byte, 0 | &ESCAPE | b'\t' | b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.next_line()? {
                out.push(line.to_vec());
            }
        }
        Ok(out)
    }

    #[test]
    fn a_line_is_given_out_once_it_is_whole() {
        let mut lines = Lines::default();
        lines.push(b"VERSION\t1");
        assert_eq!(lines.next_line(), Ok(None));
        assert!(lines.has_half_a_line());
        lines.push(b"\t2\nCPID\t7\n\nhalf");
        assert_eq!(lines.next_line(), Ok(Some(&b"VERSION\t1\t2"[..])));
        assert_eq!(lines.next_line(), Ok(Some(&b"CPID\t7"[..])));
        assert_eq!(lines.next_line(), Ok(Some(&b""[..])));
        assert_eq!(lines.next_line(), Ok(None));
        assert!(lines.has_half_a_line());
        lines.push(b"\n");
        assert_eq!(lines.next_line(), Ok(Some(&b"half"[..])));
        assert!(!lines.has_half_a_line());
    }

    #[test]
    fn a_line_of_one_byte_too_many_is_refused_with_or_without_its_end() {
        let longest = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(lines_of(&[&longest, b"\n"]).map(|lines| lines[0].len()), Ok(MAX_LINE_BYTES));
        assert_eq!(lines_of(&[&longest, b"x"]), Err(LineTooLong));
        assert_eq!(lines_of(&[&longest, b"x\n"]), Err(LineTooLong));
        assert_eq!(lines_of(&[b"short\n", &longest, b"x"]), Err(LineTooLong));
    }

    #[test]
    fn each_escape_stands_for_its_byte_and_no_other_is_taken() {
        assert_eq!(escape(b"\0\x01\t\r\n").as_ref(), b"\x010\x011\x01t\x01r\x01n");
        assert_eq!(unescape(b"a\x01tb").as_deref(), Ok(&b"a\tb"[..]));
        assert_eq!(unescape(b"a\x01x"), Err(BadEscape));
        assert_eq!(unescape(b"a\x01"), Err(BadEscape));
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_one_field_of_one_line_and_comes_back(plain in vec(any::<u8>(), 0..64)) {
            let field = escape(&plain);
            prop_assert_eq!(fields(&field).count(), 1);
            prop_assert!(!field.contains(&b'\n') && !field.contains(&0));
            let back = unescape(&field);
            prop_assert_eq!(back.as_deref(), Ok(&plain[..]));
            prop_assert_eq!(needs_escape(&plain), field.as_ref() != &plain[..]);
        }

        #[test]
        fn any_bytes_are_unescaped_or_refused(field in vec(any::<u8>(), 0..64)) {
            if let Ok(plain) = unescape(&field) {
                prop_assert!(plain.len() <= field.len());
            }
        }

        #[test]
        fn lines_do_not_depend_on_how_the_bytes_were_cut(
            bytes in vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\t')], 0..512),
            cuts in vec(0_usize..512, 0..16),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let mut expected: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            expected.pop();
            prop_assert_eq!(lines_of(&pieces), Ok(expected));
        }

        #[test]
        fn a_line_too_long_is_refused_however_it_is_cut(excess in 1_usize..64, piece in 1_usize..5_000) {
            let bytes = vec![b'x'; MAX_LINE_BYTES + excess];
            let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
            prop_assert_eq!(lines_of(&pieces), Err(LineTooLong));
        }
    }
}
