//! How far an import has come: a small file beside the imported one, so that a cut import goes on
//! where it stopped.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::report::Counts;
use crate::cli::failure::Failure;

const SUFFIX: &str = ".latchkey-import";
/// So many bytes of the file's beginning are part of what tells it from another.
const BEGINNING_BYTES: u64 = 64 << 10;
/// The state is a few hundred bytes.
const MAX_STATE_BYTES: u64 = 64 << 10;
const VERSION: u32 = 1;

/// How far an import has come, and where that is kept.
#[derive(Debug)]
pub(super) struct State {
    file: PathBuf,
    identity: Identity,
    pub(super) counts: Counts,
    pub(super) last_line: u64,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    identity: Identity,
    counts: Counts,
}

/// What tells whether it is still the same file.
#[derive(Serialize, Deserialize, PartialEq, Clone, Debug)]
struct Identity {
    bytes: u64,
    modified_seconds: i64,
    modified_nanos: i64,
    beginning_sha256: String,
}

impl State {
    /// What is known of an import of `imported`; all at zero if nothing is, or with `restart`.
    pub(super) fn open(imported: &Path, restart: bool) -> Result<Self, Failure> {
        let identity =
            Identity::of(imported).map_err(|error| Failure::usage(format!("{}: can't be read: {error}", imported.display())))?;
        let mut name = OsString::from(imported);
        name.push(SUFFIX);
        let file = PathBuf::from(name);
        let counts = match (restart, read(&file)?) {
            (true, _) | (_, None) => Counts::default(),
            (false, Some(text)) => Self::resume(&text, &identity).map_err(|why| {
                Failure::usage(format!("{}: {why}", file.display())).with_advice("With --restart it begins anew.")
            })?,
        };
        Ok(Self { file, identity, counts, last_line: counts.last_line })
    }

    /// Keeps how far it has come. Written beside and put in place: at any moment one whole state is
    /// there.
    pub(super) fn save(&mut self, counts: Counts) -> Result<(), Failure> {
        self.counts = counts;
        self.last_line = counts.last_line;
        let saved = Saved { version: VERSION, identity: self.identity.clone(), counts };
        let mut beside = self.file.clone().into_os_string();
        beside.push(".new");
        let write = || {
            let mut new = File::create(&beside)?;
            new.write_all(serde_json::to_string(&saved)?.as_bytes())?;
            new.sync_data()?;
            fs::rename(&beside, &self.file)
        };
        write().map_err(|error: std::io::Error| {
            Failure::usage(format!("{}: can't be written: {error}", self.file.display())).with_advice(
                "Where the import has come to is kept beside the file. Make room there, or import from standard input.",
            )
        })
    }

    /// The import is done.
    pub(super) fn remove(self) -> Result<(), Failure> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn resume(text: &str, identity: &Identity) -> Result<Counts, String> {
        let saved: Saved = serde_json::from_str(text).map_err(|error| format!("can't be understood: {error}"))?;
        if saved.version != VERSION {
            return Err(format!("of version {}, not {VERSION}", saved.version));
        }
        if saved.identity != *identity {
            return Err("the file has changed since its import was cut off".to_owned());
        }
        Ok(saved.counts)
    }
}

impl Identity {
    fn of(file: &Path) -> std::io::Result<Self> {
        let opened = File::open(file)?;
        let metadata = opened.metadata()?;
        let mut beginning = Vec::new();
        opened.take(BEGINNING_BYTES).read_to_end(&mut beginning)?;
        let digest: String = Sha256::digest(&beginning).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            bytes: metadata.len(),
            modified_seconds: metadata.mtime(),
            modified_nanos: metadata.mtime_nsec(),
            beginning_sha256: digest,
        })
    }
}

fn read(file: &Path) -> Result<Option<String>, Failure> {
    let opened = match File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = String::new();
    opened.take(MAX_STATE_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}
