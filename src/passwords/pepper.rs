//! The pepper: keys in a file, never in the database. Whoever has only one of the two learns no
//! password from it.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::random;
use latchkey_core::model::device::KeyId;

const KEY_BYTES: usize = 32;
const MAX_FILE_BYTES: u64 = 64 * 1024;
const HEADER: &str = "\
# Latchkey's pepper: the keys that passwords at rest are bound to. Without this file no password can be verified, so keep a copy of it
# apart from the database's backups, and never in the database. Every replica needs the same file. Mode 0600.
#
# One key a line: id, then 32 bytes in base64. New passwords use the last one; the others stay for the passwords made with them.
";

/// The keys.
#[derive(Clone)]
pub struct Pepper {
    /// In the file's order: the last is active. Never empty.
    keys: Vec<(KeyId, Zeroizing<[u8; KEY_BYTES]>)>,
}

/// What is wrong with a pepper file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    #[error("the pepper file {} is missing. The database has passwords that were made with it: put the file back from its backup (a new one would make all passwords useless)", .0.display())]
    Missing(PathBuf),
    #[error("the pepper file {} can be read by others than its owner (mode {mode:o}): chmod 600 {}", .file.display(), .file.display())]
    Exposed { file: PathBuf, mode: u32 },
    #[error("the pepper file {} is there already; it is never overwritten", .0.display())]
    Exists(PathBuf),
    #[error("the pepper file {} can't be {doing}: {cause}", .file.display())]
    Io { file: PathBuf, doing: &'static str, cause: io::Error },
    #[error("the pepper file {}, line {line}: {problem}", .file.display())]
    Broken { file: PathBuf, line: usize, problem: &'static str },
    #[error("the pepper file {} has no key {}, which the database has passwords under: is it the file that the database was made with? Put that one back", .file.display(), .key.0)]
    KeyMissing { file: PathBuf, key: KeyId },
    #[error("the pepper file {} has another key {} than the one that the database was made with: put that file back", .file.display(), .key.0)]
    KeyDiffers { file: PathBuf, key: KeyId },
}

impl Pepper {
    /// One new key.
    pub fn random() -> Self {
        Self { keys: vec![(KeyId(1), Zeroizing::new(random::bytes()))] }
    }

    pub fn load(file: &Path) -> Result<Self, PepperError> {
        let failed = |doing| move |cause| PepperError::Io { file: file.to_owned(), doing, cause };
        let metadata = match fs::metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(PepperError::Missing(file.to_owned())),
            metadata => metadata.map_err(failed("read"))?,
        };
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            let cause = io::Error::other("it is not a file of at most 64 KiB");
            return Err(failed("read")(cause));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(PepperError::Exposed { file: file.to_owned(), mode: metadata.mode() & 0o777 });
        }
        let text = Zeroizing::new(fs::read_to_string(file).map_err(failed("read"))?);
        Self::parse(&text).map_err(|(line, problem)| PepperError::Broken { file: file.to_owned(), line, problem })
    }

    /// Writes a new file, with mode 0600; it is on the disk when this returns. Never overwrites
    /// one.
    pub fn create(&self, file: &Path) -> Result<(), PepperError> {
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(file);
        let mut opened = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(PepperError::Exists(file.to_owned())),
            opened => opened.map_err(|cause| PepperError::Io { file: file.to_owned(), doing: "made", cause })?,
        };
        let failed = |cause| PepperError::Io { file: file.to_owned(), doing: "written", cause };
        // Whatever the umask took away or left.
        opened.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
        opened.write_all(self.to_text().as_bytes()).and_then(|()| opened.sync_all()).map_err(failed)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// The key of new passwords.
    pub fn active(&self) -> KeyId {
        self.keys[self.keys.len() - 1].0
    }

    pub fn keys(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|(id, _)| *id)
    }

    /// What a database remembers of a key, to know it again: tells nothing of it.
    pub fn check(&self, key: KeyId) -> [u8; 32] {
        *self.derive(key, "latchkey pepper check v1")
    }

    /// Compares with what a database remembers. Answers the keys that it does not know yet.
    pub fn verify_against(&self, file: &Path, known: &[(KeyId, [u8; 32])]) -> Result<Vec<KeyId>, PepperError> {
        for (key, check) in known {
            if !self.keys().any(|id| id == *key) {
                return Err(PepperError::KeyMissing { file: file.to_owned(), key: *key });
            }
            if self.check(*key) != *check {
                return Err(PepperError::KeyDiffers { file: file.to_owned(), key: *key });
            }
        }
        Ok(self.keys().filter(|id| !known.iter().any(|(key, _)| key == id)).collect())
    }

    /// A key for one purpose: HMAC-SHA256 of its label. All zeros for a key that is not in the
    /// file, which no caller asks for.
    pub(super) fn derive(&self, key: KeyId, label: &str) -> Zeroizing<[u8; 32]> {
        let Some((_, secret)) = self.keys.iter().find(|(id, _)| *id == key) else {
            return Zeroizing::new([0; 32]);
        };
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104 §3)")]
        let mac = <Hmac<Sha256>>::new_from_slice(secret.as_slice()).expect("any key is good");
        Zeroizing::new(mac.chain_update(label).finalize().into_bytes().into())
    }

    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut keys: Vec<(KeyId, Zeroizing<[u8; KEY_BYTES]>)> = Vec::new();
        for (line, content) in (1..).zip(text.lines().map(str::trim)) {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let (id, key) = content.split_once(' ').ok_or((line, "must be an id and a key, separated by a space"))?;
            let id = KeyId(id.parse().map_err(|_| (line, "must begin with an id, 0 to 65535"))?);
            if keys.iter().any(|(other, _)| *other == id) {
                return Err((line, "has an id that an earlier line has"));
            }
            let key = STANDARD.decode(key.trim()).map(Zeroizing::new).ok().and_then(|key| key.as_slice().try_into().ok());
            keys.push((id, Zeroizing::new(key.ok_or((line, "must have a key of 32 bytes in base64"))?)));
        }
        if keys.is_empty() { Err((1, "there is no key in it")) } else { Ok(Self { keys }) }
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(HEADER.to_owned());
        for (id, key) in &self.keys {
            let key = Zeroizing::new(STANDARD.encode(key.as_slice()));
            text.push_str(&format!("{} {}\n", id.0, *key));
        }
        text
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_as_it_was_made_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pepper");
        let pepper = Pepper::random();
        pepper.create(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Pepper::load(&file).unwrap().check(KeyId(1)), pepper.check(KeyId(1)));
        assert!(matches!(Pepper::random().create(&file), Err(PepperError::Exists(_))));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Pepper::load(&file).unwrap_err().to_string().contains("chmod 600"));
        assert!(matches!(Pepper::load(&folder.path().join("none")), Err(PepperError::Missing(_))));
        assert!(matches!(Pepper::load(folder.path()), Err(PepperError::Io { .. })));
    }

    #[test]
    fn a_broken_file_names_its_line() {
        let key = STANDARD.encode([7; 32]);
        for (text, line) in [
            (String::new(), 1),
            (format!("# comment\nx {key}"), 2),
            (format!("1 {key}\n1 {key}"), 2),
            ("1 c2hvcnQ=".to_owned(), 1),
            ("1".to_owned(), 1),
        ] {
            assert_eq!(Pepper::parse(&text).unwrap_err().0, line, "{text}");
        }
        let two = Pepper::parse(&format!("1 {key}\n\n2 {}", STANDARD.encode([8; 32]))).unwrap();
        assert_eq!(two.active(), KeyId(2));
    }

    #[test]
    fn a_database_knows_its_pepper_again() {
        let (pepper, file) = (Pepper::random(), Path::new("pepper"));
        assert_eq!(pepper.verify_against(file, &[]).unwrap(), [KeyId(1)]);
        let known = [(KeyId(1), pepper.check(KeyId(1)))];
        assert_eq!(pepper.verify_against(file, &known).unwrap(), []);
        assert!(matches!(Pepper::random().verify_against(file, &known), Err(PepperError::KeyDiffers { .. })));
        let known = [(KeyId(2), [0; 32])];
        assert!(matches!(pepper.verify_against(file, &known), Err(PepperError::KeyMissing { .. })));
    }
}
