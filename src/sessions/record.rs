//! What is remembered of an open session while the agent restarts: one small file for each process,
//! on a file system that does not outlive the machine's boot.

use std::{fmt::Write, fs, io, net::IpAddr, path::Path};

use super::process::ProcessId;
use latchkey_core::model::{clock::Timestamp, protocol::Protocol};

/// A file of more bytes is none of ours.
const MAX_BYTES: u64 = 4_096;
const HEADER: &str = "latchkey session 1";
/// Ends a file: one without it was cut off.
const END: &str = "end";

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub boot_id: String,
    pub process: ProcessId,
    /// As the login was answered: the text of an admission.
    pub admission: String,
    pub protocol: Protocol,
    pub client_ip: Option<IpAddr>,
    pub open_time: Timestamp,
}

/// Why a file is not a record.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRecord {
    #[error("it is not a record of a session, or damaged")]
    Malformed,
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Record {
    /// Writes the record in one step: whoever reads finds the old file, the new one or none.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(self.process.pid.to_string());
        let new = path.with_extension("new");
        fs::write(&new, self.to_text()).and_then(|()| fs::rename(&new, &path)).inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self, BadRecord> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.is_file() {
            return Err(BadRecord::Malformed);
        }
        if metadata.len() > MAX_BYTES {
            return Err(BadRecord::TooLong);
        }
        let bytes = fs::read(path)?;
        std::str::from_utf8(&bytes).ok().and_then(Self::parse).ok_or(BadRecord::Malformed)
    }

    pub(super) fn remove(folder: &Path, pid: i32) -> io::Result<()> {
        match fs::remove_file(folder.join(pid.to_string())) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => Ok(()),
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        let client_ip = self.client_ip.map_or_else(String::new, |ip| ip.to_string());
        let (process, protocol) = (self.process, self.protocol.name());
        let fields: [(&str, &dyn std::fmt::Display); 7] = [
            ("boot_id", &self.boot_id),
            ("pid", &process.pid),
            ("start_time", &process.start_time),
            ("admission", &self.admission),
            ("protocol", &protocol),
            ("client_ip", &client_ip),
            ("open_time", &self.open_time.0),
        ];
        for (name, value) in fields {
            let _ = writeln!(text, "{name}={value}");
        }
        text.push_str(END);
        text.push('\n');
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(HEADER)?.strip_prefix('\n')?.strip_suffix('\n')?.strip_suffix(END)?;
        let mut lines = body.strip_suffix('\n')?.split('\n');
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
        let record = Self {
            boot_id: field("boot_id")?.to_owned(),
            process: ProcessId {
                pid: field("pid")?.parse().ok().filter(|pid| *pid > 0)?,
                start_time: field("start_time")?.parse().ok()?,
            },
            admission: field("admission")?.to_owned(),
            protocol: Protocol::parse("protocol", field("protocol")?).ok()?,
            client_ip: match field("client_ip")? {
                "" => None,
                ip => Some(ip.parse().ok()?),
            },
            open_time: Timestamp(field("open_time")?.parse().ok()?),
        };
        lines.next().is_none().then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record {
            boot_id: "6fd2".to_owned(),
            process: ProcessId { pid: 42, start_time: 987_654 },
            admission: "00.1.4c31".to_owned(),
            protocol: Protocol::Imap,
            client_ip: Some("2001:db8::1".parse().unwrap()),
            open_time: Timestamp(1_795_564_494_000_000),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for record in [record(), Record { client_ip: None, protocol: Protocol::Sieve, ..record() }] {
            record.write(folder.path()).unwrap();
            assert_eq!(Record::read(&folder.path().join("42")).unwrap(), record);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        Record::remove(folder.path(), 42).unwrap();
        Record::remove(folder.path(), 42).unwrap();
    }

    #[test]
    fn a_file_too_long_or_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("42");
        fs::write(&path, vec![b'x'; 5_000]).unwrap();
        assert!(matches!(Record::read(&path), Err(BadRecord::TooLong)));
        fs::write(&path, [0xff, 0]).unwrap();
        assert!(matches!(Record::read(&path), Err(BadRecord::Malformed)));
        assert!(matches!(Record::read(folder.path()), Err(BadRecord::Malformed)));
    }

    proptest! {
        #[test]
        fn a_record_cut_off_anywhere_is_refused(end in 0_usize..200) {
            let text = record().to_text();
            prop_assume!(end < text.len());
            prop_assert_eq!(Record::parse(&text[..end]), None);
        }

        #[test]
        fn any_text_is_a_record_or_refused(text in ".{0,300}", at in 0_usize..200, byte in any::<char>()) {
            let _ = Record::parse(&text);
            let mut damaged: Vec<char> = record().to_text().chars().collect();
            let at = at.min(damaged.len() - 1);
            damaged[at] = byte;
            let _ = Record::parse(&damaged.into_iter().collect::<String>());
        }
    }
}
