//! The file's lines, one by one: JSON Lines or CSV.

use std::io::{BufRead, Read};

use serde::Deserialize;

/// A line may be this long, in bytes; the longest one that makes sense is well under a thousand.
pub(super) const MAX_LINE_BYTES: usize = 16 << 10;

/// A mailbox to put in, as the file says it.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Mailbox {
    pub(super) address: String,
    #[serde(default)]
    pub(super) mail_service_id: Option<String>,
    #[serde(default)]
    pub(super) generic_password_hash: Option<String>,
}

/// A line, where it ends, and what it says or why it can't be read.
#[derive(PartialEq, Debug)]
pub(super) struct Line {
    /// From 1; of a CSV record of several lines, or after blank lines, the first of them.
    pub(super) number: u64,
    /// Bytes from the file's beginning.
    pub(super) end: u64,
    pub(super) mailbox: Result<Mailbox, String>,
}

/// Why the rest of a file can't be read either.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("can't be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("its head line: {0}")]
    Head(String),
    #[error("line {line}: longer than {MAX_LINE_BYTES} bytes")]
    LongRecord { line: u64 },
}

/// The lines of a JSON Lines file. Blank lines are passed over.
pub(super) fn jsonl(mut file: impl BufRead) -> impl Iterator<Item = Result<Line, Broken>> {
    let (mut number, mut end) = (0, 0);
    let mut buffer = Vec::new();
    std::iter::from_fn(move || {
        loop {
            match read_line(&mut file, &mut buffer) {
                Ok(0) => return None,
                Ok(length) => end += length,
                Err(error) => return Some(Err(error.into())),
            }
            number += 1;
            let text = if number == 1 { buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&buffer) } else { &buffer };
            if text.trim_ascii().is_empty() {
                continue;
            }
            let mailbox = if text.len() > MAX_LINE_BYTES {
                Err(format!("longer than {MAX_LINE_BYTES} bytes"))
            } else if text.trim_ascii_start().starts_with(b"[") {
                Err("an array; each line must be one JSON object".to_owned())
            } else if !text.trim_ascii_start().starts_with(b"{") {
                Err("not a JSON object".to_owned())
            } else {
                // The parser's own position would say "line 1", which is not the file's.
                serde_json::from_slice(text).map_err(|error| {
                    let words = error.to_string();
                    words.split(" at line ").next().unwrap_or_default().to_owned()
                })
            };
            return Some(Ok(Line { number, end, mailbox }));
        }
    })
}

/// The records of a CSV file with a head line.
pub(super) fn csv(file: impl Read) -> Result<impl Iterator<Item = Result<Line, Broken>>, Broken> {
    // The reader counts a CRLF too late, as part of the next record. So a record ends with LF
    // alone, and the CR is trimmed; what the reader would know of blank lines and of the number of
    // fields is looked at below.
    let mut reader = ::csv::ReaderBuilder::new()
        .terminator(::csv::Terminator::Any(b'\n'))
        .trim(::csv::Trim::All)
        .flexible(true)
        .from_reader(file);
    let head = reader.headers().map_err(|error| Broken::Head(error.to_string()))?.clone();
    let known = ["address", "mail_service_id", "generic_password_hash"];
    if let Some(unknown) = head.iter().find(|name| !known.contains(name)) {
        return Err(Broken::Head(format!("no field is called `{unknown}`, only {}", known.join(", "))));
    }
    if !head.iter().any(|name| name == "address") {
        return Err(Broken::Head("there is no field `address`".to_owned()));
    }
    let mut record = ::csv::StringRecord::new();
    Ok(std::iter::from_fn(move || {
        loop {
            let number_before = reader.position().line();
            let read = reader.read_record(&mut record);
            let number = record.position().map_or(number_before, ::csv::Position::line);
            let end = reader.position().byte();
            let mailbox = match read {
                Ok(false) => return None,
                Ok(true) if record.as_slice().len() > MAX_LINE_BYTES => return Some(Err(Broken::LongRecord { line: number })),
                Ok(true) if record.as_slice().is_empty() && record.len() == 1 => continue,
                Ok(true) if record.len() != head.len() => {
                    Err(format!("{} fields, where the head line has {}", record.len(), head.len()))
                }
                Ok(true) => record.deserialize(Some(&head)).map_err(|error| error.to_string()),
                Err(error) => match error.into_kind() {
                    ::csv::ErrorKind::Io(error) => return Some(Err(error.into())),
                    ::csv::ErrorKind::Utf8 { .. } => Err("not UTF-8".to_owned()),
                    other => Err(format!("{other:?}")),
                },
            };
            return Some(Ok(Line { number, end, mailbox }));
        }
    }))
}

/// Reads a line with its end; of one that is too long only the beginning is kept. The number of
/// bytes passed over.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<u64> {
    line.clear();
    let mut length = 0;
    loop {
        let ready = file.fill_buf()?;
        let part = ready.iter().position(|byte| *byte == b'\n').map_or(ready, |end| &ready[..=end]);
        let room = (MAX_LINE_BYTES + 2).saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let (is_last, count) = (part.is_empty() || part.ends_with(b"\n"), part.len());
        file.consume(count);
        length += count as u64;
        if is_last {
            if line.ends_with(b"\n") {
                line.pop();
            }
            return Ok(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(lines: impl Iterator<Item = Result<Line, Broken>>) -> Vec<(u64, String)> {
        lines
            .map(|line| {
                let line = line.unwrap();
                (line.number, line.mailbox.map_or_else(|why| format!("! {why}"), |mailbox| mailbox.address))
            })
            .collect()
    }

    #[test]
    fn every_json_line_has_its_number_and_a_bad_one_its_reason() {
        let long = format!("{{\"address\":\"{}\"}}\n", "x".repeat(MAX_LINE_BYTES));
        let file = [
            "\u{feff}{\"address\":\"a@x\"}\r\n\n",
            "nonsense\n{\"address\":\"b@x\",\"generic_password\":\"oops\"}\n",
            &long,
            "{\"address\":\"c@x\",\"mail_service_id\":null}",
        ]
        .concat();
        let read = words(jsonl(file.as_bytes()));
        assert_eq!(read.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
        assert_eq!((read[0].1.as_str(), read[4].1.as_str()), ("a@x", "c@x"));
        assert_eq!(read[1].1, "! not a JSON object");
        assert!(read[2].1.starts_with("! unknown field `generic_password`"));
        assert!(read[3].1.starts_with("! longer than"));
        assert_eq!(jsonl(file.as_bytes()).last().unwrap().unwrap().end, file.len() as u64);
    }

    #[test]
    fn every_csv_record_has_its_line_and_a_bad_one_its_reason() {
        let file = "address,generic_password_hash\na@x, {SSHA}abc\n\"b\n@x\",\nc@x\n\nd@x,\n";
        let read = words(csv(file.as_bytes()).unwrap());
        assert_eq!(read.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 5, 6]);
        assert_eq!(read[2].1, "! 1 fields, where the head line has 2");
        let first = csv(file.as_bytes()).unwrap().next().unwrap().unwrap().mailbox.unwrap();
        assert_eq!(first.generic_password_hash.as_deref(), Some("{SSHA}abc"));
    }

    #[test]
    fn a_json_line_that_is_an_array_is_refused_as_one() {
        let read = words(jsonl("[\"a@x\"]\n[{\"address\":\"b@x\"}]\n\"c@x\"\n".as_bytes()));
        let array = "! an array; each line must be one JSON object";
        assert_eq!(read.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>(), [array, array, "! not a JSON object"]);
    }

    #[test]
    fn a_csv_record_has_its_line_whether_lines_end_with_lf_or_crlf() {
        for text in ["address,mail_service_id\na@x,m\n\"b@x\",\"n\"\nc@x\nd@x,o\n", "address\na@x\nb@x\nc@x\n"] {
            for file in [text.to_owned(), text.replace('\n', "\r\n")] {
                let numbers: Vec<_> = words(csv(file.as_bytes()).unwrap());
                let addresses = text.lines().enumerate().skip(1);
                let expected: Vec<_> = addresses.map(|(index, _)| index as u64 + 1).collect();
                assert_eq!(numbers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), expected, "{file:?}");
                assert_eq!(numbers[0].1, "a@x");
            }
        }
        let read = words(csv("address\r\n\r\na@x\r\n".as_bytes()).unwrap());
        assert_eq!(read, [(3, "a@x".to_owned())], "a blank line is no record");
    }

    #[test]
    fn a_csv_head_with_an_unknown_field_ends_the_import_before_it_begins() {
        let Err(broken) = csv("address,password\n".as_bytes()).map(drop) else { panic!("taken") };
        assert!(broken.to_string().contains("`password`"));
        assert!(csv("mail_service_id\n".as_bytes()).is_err());
    }
}
