//! `latchkey keys`: the pepper's file.

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use crate::serve::StoreSettings;
use crate::{
    exit::Exit,
    passwords::pepper::{Pepper, PepperError},
};

/// The pepper: the keys that passwords at rest are bound to
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey keys generate --pepper-file /etc/latchkey/pepper
  latchkey keys list --data-dir /var/lib/latchkey")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Make a new pepper file, with one key
    ///
    /// `serve` does this by itself at its first start; several replicas need the same file, so make
    /// it once and take it to each. Never overwrites one.
    #[command(after_help = "\
Example:
  latchkey keys generate --pepper-file /etc/latchkey/pepper")]
    Generate(Place),
    /// List the keys of a pepper file, never the keys themselves
    #[command(after_help = "\
Example:
  latchkey keys list --data-dir /var/lib/latchkey")]
    List(Place),
}

#[derive(clap::Args, Debug)]
struct Place {
    /// The folder that the pepper is in, as of `serve`
    #[arg(long, value_name = "FOLDER", env = "LATCHKEY_DATA_DIR", default_value = "./latchkey-data")]
    data_dir: PathBuf,
    /// The pepper's file [default: `pepper` in the data directory]
    #[arg(long, value_name = "FILE", env = "LATCHKEY_PEPPER_FILE")]
    pepper_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, env = "LATCHKEY_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let (place, made) = match self.command {
            Command::Generate(place) => (place, true),
            Command::List(place) => (place, false),
        };
        let file = place.pepper_file.clone().unwrap_or_else(|| place.data_dir.join("pepper"));
        match if made { generate(&file) } else { Pepper::load(&file) } {
            Ok(pepper) => {
                show(&pepper, &place, &file, made);
                Exit::Done.into()
            }
            Err(problem) => {
                eprintln!("error: {problem}");
                Exit::Refused.into()
            }
        }
    }
}

fn generate(file: &std::path::Path) -> Result<Pepper, PepperError> {
    if let Some(folder) = file.parent() {
        // If this fails, so does what follows, which says why.
        let _ = std::fs::create_dir_all(folder);
    }
    let pepper = Pepper::random();
    pepper.create(file)?;
    Ok(pepper)
}

fn show(pepper: &Pepper, place: &Place, file: &std::path::Path, made: bool) {
    let keys = pepper.keys().map(|id| {
        let fingerprint: String = pepper.check(id)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        (id, id == pepper.active(), fingerprint)
    });
    if place.json {
        let keys: Vec<_> =
            keys.map(|(id, active, fingerprint)| json!({ "id": id.0, "active": active, "fingerprint": fingerprint })).collect();
        println!("{}", json!({ "file": file.display().to_string(), "keys": keys }));
        return;
    }
    if made {
        println!("Made {}. Keep a copy of it, apart from the database's backups.", file.display());
    }
    for (id, active, fingerprint) in keys {
        println!("key {}  {fingerprint}{}", id.0, if active { "  active" } else { "" });
    }
}

impl StoreSettings {
    /// Whether SQLite is what they name.
    pub(super) fn is_sqlite(&self) -> bool {
        self.database_url.is_none()
    }
}
