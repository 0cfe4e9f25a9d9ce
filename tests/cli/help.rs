//! The help texts stand beside this file, so that a change of a flag is seen in review. `UPDATE=1`
//! writes them anew.

use std::{fs, path::Path};

use super::{latchkey, run};

/// The commands with a help of their own: those listed under "Commands:" in a help text, and
/// theirs.
fn commands(above: &[String], help: &str) -> Vec<Vec<String>> {
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    names.map(|name| [above, &[name]].concat()).collect()
}

fn help_of(command: &[String]) -> String {
    let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
    let mut command = latchkey(&arguments);
    command.env("COLUMNS", "100");
    let ran = run(command, "");
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.out
}

#[test]
fn the_help_of_every_command_is_the_one_that_was_reviewed_and_has_an_example() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/help");
    let update = std::env::var_os("UPDATE").is_some();
    let mut waiting = vec![Vec::new()];
    let mut seen = 0;
    while let Some(command) = waiting.pop() {
        let help = help_of(&command);
        waiting.extend(commands(&command, &help));
        seen += 1;
        let name = if command.is_empty() { "latchkey".to_owned() } else { command.join("-") };
        assert!(help.contains("Example:\n") || help.contains("Examples:\n"), "{name} has no example");
        let file = folder.join(format!("{name}.txt"));
        if update {
            fs::write(&file, &help).unwrap();
        }
        let reviewed = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(help, reviewed, "the help of {name} has changed; if it is meant so: UPDATE=1 cargo test --test cli help");
    }
    assert!(seen > 35, "only {seen} commands were found");
}
