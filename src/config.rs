//! Settings. Each is a flag, an environment variable `LATCHKEY_…` and a key of one TOML file, in
//! that order of precedence.
//!
//! A setting is every argument that has an environment variable; its key is the flag's name, with
//! dashes or underscores. The file's values become the arguments' defaults, so clap alone decides
//! what wins and what is valid. Keys stand at the top, for every command that knows them, or in a
//! table named after one command (`[serve]`) or one group of settings (`[client]`: all operator
//! commands), which goes before the top.

use std::{collections::BTreeMap, ffi::OsString, fs, io::Read, ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, Command};
use jiff::SignedDuration;
use toml::{Table, Value};

/// The flag and the variable that name the file.
pub const FLAG: &str = "--config";
pub const VARIABLE: &str = "LATCHKEY_CONFIG";

/// A settings file may be this long, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// What is wrong with a settings file. Each names the file, and the key if there is one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: can't be read: {cause}", file.display())]
    Unreadable { file: PathBuf, cause: std::io::Error },
    #[error("{}: longer than {MAX_FILE_BYTES} bytes", file.display())]
    TooLong { file: PathBuf },
    #[error("{}: not TOML: {cause}", file.display())]
    NotToml { file: PathBuf, cause: Box<toml::de::Error> },
    #[error("{}: no setting is called `{key}`; `latchkey help COMMAND` lists a command's settings", file.display())]
    Unknown { file: PathBuf, key: String },
    #[error("{}: key `{key}`: {problem}", file.display())]
    Invalid { file: PathBuf, key: String, problem: String },
}

/// The command with the settings file's values as its defaults, if `arguments` (the program's name
/// first) or the environment name a file; else as it was.
pub fn with_file(command: Command, arguments: &[OsString]) -> Result<Command, ConfigError> {
    match file_named(arguments) {
        Some(file) => {
            let text = read(&file)?;
            with_text(command, file, &text)
        }
        None => Ok(command),
    }
}

/// As [`with_file`], with the file's text at hand.
pub fn with_text(command: Command, file: PathBuf, text: &str) -> Result<Command, ConfigError> {
    let table: Table = text.parse().map_err(|cause| ConfigError::NotToml { file: file.clone(), cause: Box::new(cause) })?;
    let settings = Settings::check(file, table, &command)?;
    Ok(settings.apply(command, None))
}

/// A parser for durations as people write them (`500ms`, `10s`, `2m`, `1h 30m`), within bounds that
/// its error names.
pub fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let duration = text
            .parse::<SignedDuration>()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .ok_or_else(|| "must be a duration like 500ms, 10s, 2m or 1h".to_owned())?;
        if bounds.contains(&duration) {
            return Ok(duration);
        }
        Err(format!("must be from {} to {}", human(*bounds.start()), human(*bounds.end())))
    }
}

/// A duration as people write it, the way [`duration`] reads it.
pub fn human(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| "for ever".to_owned(), |duration| format!("{duration:#}"))
}

/// The file that `--config FILE`, `--config=FILE` or the environment names.
fn file_named(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == FLAG {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(file) = argument.to_str().and_then(|text| text.strip_prefix(FLAG)?.strip_prefix('=')) {
            return Some(file.into());
        }
    }
    std::env::var_os(VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from)
}

fn read(file: &PathBuf) -> Result<String, ConfigError> {
    let mut text = String::new();
    fs::File::open(file)
        .and_then(|opened| opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|cause| ConfigError::Unreadable { file: file.clone(), cause })?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong { file: file.clone() });
    }
    Ok(text)
}

/// A file's settings, each known and valid: table (`None`: the top) and flag to values.
struct Settings {
    file: PathBuf,
    values: BTreeMap<(Option<String>, String), Vec<String>>,
}

impl Settings {
    fn check(file: PathBuf, table: Table, command: &Command) -> Result<Self, ConfigError> {
        let mut settings = Self { file, values: BTreeMap::new() };
        for (key, value) in table {
            match value {
                Value::Table(inner) => {
                    for (key_inside, value) in inner {
                        settings.check_key(command, Some(key.clone()), &key_inside, value)?;
                    }
                }
                value => settings.check_key(command, None, &key, value)?,
            }
        }
        Ok(settings)
    }

    fn check_key(&mut self, command: &Command, table: Option<String>, key: &str, value: Value) -> Result<(), ConfigError> {
        let shown = table.as_ref().map_or_else(|| key.to_owned(), |table| format!("{table}.{key}"));
        let flag = key.replace('_', "-");
        let mut found = Vec::new();
        find(command, None, table.as_deref(), &flag, &mut found);
        if found.is_empty() {
            return Err(ConfigError::Unknown { file: self.file.clone(), key: shown });
        }
        let invalid = |problem| ConfigError::Invalid { file: self.file.clone(), key: shown.clone(), problem };
        let many = found.iter().all(|argument| matches!(argument.get_action(), ArgAction::Append));
        let values = texts(value, many).map_err(invalid)?;
        for argument in found {
            values.iter().try_for_each(|value| check_value(argument, value)).map_err(invalid)?;
        }
        self.values.insert((table, flag), values);
        Ok(())
    }

    /// Gives a command, and those below it, the values as defaults. `top` is the name of the
    /// command of the first level.
    fn apply(&self, mut command: Command, top: Option<&str>) -> Command {
        let defaults: Vec<(clap::Id, Vec<String>)> = command
            .get_arguments()
            .filter_map(|argument| {
                let flag = flag_of(argument)?;
                let best = self
                    .values
                    .iter()
                    .filter(|((table, key), _)| key == flag && in_table(&command, top, table.as_deref(), argument))
                    .max_by_key(|((table, _), _)| (table.is_some(), table.as_deref() == top))?;
                Some((argument.get_id().clone(), best.1.clone()))
            })
            .collect();
        for (id, values) in defaults {
            command = command.mut_arg(id, |argument| argument.default_values(values));
        }
        let below: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
        for name in below {
            command = command.mut_subcommand(&name, |below| self.apply(below, Some(top.unwrap_or(&name))));
        }
        command
    }
}

/// A setting's flag; `None` for an argument that is no setting.
fn flag_of(argument: &Arg) -> Option<&str> {
    argument.get_env().and(argument.get_long())
}

fn in_table(command: &Command, top: Option<&str>, table: Option<&str>, argument: &Arg) -> bool {
    let Some(table) = table else { return true };
    top == Some(table)
        || command.get_groups().any(|group| group.get_id() == table && group.get_args().any(|id| id == argument.get_id()))
}

/// The arguments, anywhere in the tree, that a key stands for.
fn find<'c>(command: &'c Command, top: Option<&str>, table: Option<&str>, flag: &str, found: &mut Vec<&'c Arg>) {
    found.extend(
        command.get_arguments().filter(|argument| flag_of(argument) == Some(flag) && in_table(command, top, table, argument)),
    );
    for below in command.get_subcommands() {
        find(below, Some(top.unwrap_or(below.get_name())), table, flag, found);
    }
}

fn texts(value: Value, many: bool) -> Result<Vec<String>, String> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => Ok(vec![value.to_string()]),
        Value::Array(values) if many => {
            values.into_iter().map(|value| texts(value, false)).collect::<Result<Vec<_>, _>>().map(|texts| texts.concat())
        }
        Value::Array(_) => Err("takes one value, not a list".to_owned()),
        Value::Table(_) => Err("takes a value, not a table".to_owned()),
    }
}

/// Lets clap's own parser for the argument judge a value. (A default that doesn't parse would be
/// clap's panic, not an error.)
fn check_value(argument: &Arg, value: &str) -> Result<(), String> {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return value.parse::<bool>().map(drop).map_err(|_| format!("`{value}` is not true or false"));
    }
    let alone = Arg::new("value").required(true).allow_hyphen_values(true).value_parser(argument.get_value_parser().clone());
    Command::new("value").no_binary_name(true).disable_help_flag(true).arg(alone).try_get_matches_from([value]).map(drop).map_err(
        |error| {
            let possible = argument.get_possible_values();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let allowed = || {
                let names: Vec<_> = possible.iter().map(|value| value.get_name()).collect();
                format!("must be one of {}", names.join(", "))
            };
            format!("`{value}`: {}", cause.unwrap_or_else(allowed))
        },
    )
}

#[cfg(test)]
mod tests {
    use clap::{ArgGroup, ArgMatches, value_parser};

    use super::*;

    fn command() -> Command {
        let limit = Duration::from_millis(100)..=Duration::from_secs(60);
        let setting = |name: &'static str| Arg::new(name).long(name).env("LATCHKEY_NOT_SET_IN_TESTS");
        Command::new("latchkey")
            .subcommand(
                Command::new("serve")
                    .arg(setting("lease-time").value_parser(duration(limit)).default_value("10s"))
                    .arg(setting("listen").action(ArgAction::Append))
                    .arg(setting("demo").action(ArgAction::SetTrue))
                    .arg(setting("certificate"))
                    .arg(Arg::new("once").long("once")),
            )
            .subcommand(
                Command::new("device")
                    .arg(setting("certificate").global(true))
                    .arg(setting("port").value_parser(value_parser!(u16)))
                    .group(ArgGroup::new("client").args(["certificate"]).multiple(true))
                    .subcommand(Command::new("list")),
            )
    }

    fn parse(text: &str, arguments: &[&str]) -> ArgMatches {
        let command = with_text(command(), "latchkey.toml".into(), text).unwrap();
        command.get_matches_from([&["latchkey"], arguments].concat()).subcommand().unwrap().1.clone()
    }

    fn refusal(text: &str) -> String {
        with_text(command(), "latchkey.toml".into(), text).unwrap_err().to_string()
    }

    #[test]
    fn a_key_is_a_default_that_a_flag_overrides() {
        let file = "lease_time = '20s'\nlisten = ['a', 'b']\ndemo = true\nport = 7";
        let matches = parse(file, &["serve"]);
        assert_eq!(matches.get_one::<Duration>("lease-time"), Some(&Duration::from_secs(20)));
        assert_eq!(matches.get_many::<String>("listen").unwrap().collect::<Vec<_>>(), ["a", "b"]);
        assert!(matches.get_flag("demo"));
        let matches = parse(file, &["serve", "--lease-time", "5s", "--listen", "c"]);
        assert_eq!(matches.get_one::<Duration>("lease-time"), Some(&Duration::from_secs(5)));
        assert_eq!(matches.get_many::<String>("listen").unwrap().collect::<Vec<_>>(), ["c"]);
        assert_eq!(parse(file, &["device", "list"]).get_one::<u16>("port"), Some(&7));
    }

    #[test]
    fn a_table_goes_before_the_top_and_stays_with_its_command_or_group() {
        let file = "certificate = 'top'\n[client]\ncertificate = 'client'";
        assert_eq!(parse(file, &["serve"]).get_one::<String>("certificate").unwrap(), "top");
        assert_eq!(parse(file, &["device", "list"]).get_one::<String>("certificate").unwrap(), "client");
        let file = "[serve]\ncertificate = 'server'";
        assert_eq!(parse(file, &["serve"]).get_one::<String>("certificate").unwrap(), "server");
        assert_eq!(parse(file, &["device", "list"]).get_one::<String>("certificate"), None);
    }

    #[test]
    fn a_key_that_is_no_setting_is_refused_by_name() {
        assert!(refusal("leese = '10s'").contains("latchkey.toml: no setting is called `leese`"));
        assert!(refusal("once = 'x'").contains("`once`"), "an argument without a variable is no setting");
        assert!(refusal("[client]\nport = 1").contains("`client.port`"), "not in this group");
        assert!(refusal("[serve]\nport = 1").contains("`serve.port`"), "another command's");
    }

    #[test]
    fn a_bad_value_is_refused_with_file_key_and_bound() {
        let refusals = [
            ("lease-time = '2m'", "key `lease-time`: `2m`: must be from 100ms to 1m"),
            ("lease-time = 10", "must be a duration like 500ms"),
            ("port = 99999", "key `port`: `99999`: 99999 is not in 0..=65535"),
            ("demo = 'maybe'", "`maybe` is not true or false"),
            ("port = [1, 2]", "takes one value, not a list"),
            ("port = ", "not TOML"),
        ];
        for (file, words) in refusals {
            let refusal = refusal(file);
            assert!(refusal.starts_with("latchkey.toml: ") && refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn durations_read_as_they_print() {
        let parse = duration(Duration::ZERO..=Duration::MAX);
        for text in ["500ms", "10s", "2m", "1h 30m"] {
            assert_eq!(human(parse(text).unwrap()), text);
        }
        assert!(parse("-1s").is_err() && parse("ten").is_err() && parse("10").is_err());
    }
}
