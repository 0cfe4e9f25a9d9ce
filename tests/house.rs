//! The floors of the house: a file imports only from floors below its own (ARCHITECTURE.md).

#![expect(clippy::expect_used, reason = "a test that can't go on has failed")]

#[path = "house/circles.rs"]
mod circles;
#[path = "house/prose.rs"]
mod prose;

use std::{collections::BTreeSet, fs, path::Path};

/// Each module of `src/`, and its floor. A module that is not here has no place in the house.
const FLOORS: &[(&str, u8)] = &[
    ("main", 5),
    ("cli", 5),
    ("serve", 5),
    ("agent", 5),
    ("grpc", 4),
    ("http", 4),
    ("dovecot", 4),
    ("policy", 4),
    ("login", 3),
    ("manage", 3),
    ("upstream", 3),
    ("authority", 3),
    ("smtp_logins", 3),
    ("sessions", 3),
    ("replication", 2),
    ("hashing", 2),
    ("passwords", 2),
    ("throttle", 2),
    ("login_log", 2),
    ("closing", 2),
    ("store", 1),
    ("sockets", 1),
    // Beside the stairs: these import from any floor that the entry's does, and only the entry
    // floor imports them.
    ("config", 5),
    ("telemetry", 5),
    // Everybody may use these, and they use nothing of ours above `core/`.
    ("exit", 0),
    ("lifecycle", 0),
    ("clock", 0),
    ("random", 0),
    ("tls", 0),
    // The contract, generated: plain types.
    ("proto", 0),
    // The package below all of them.
    ("latchkey_core", 0),
    ("lib", 5),
];

/// On one floor, who may use whom.
const WITHIN_A_FLOOR: &[(&str, &str)] = &[
    ("main", "cli"),
    ("cli", "config"),
    ("cli", "serve"),
    ("cli", "agent"),
    ("agent", "cli"),
    ("agent", "config"),
    ("agent", "telemetry"),
    ("authority", "upstream"),
    ("smtp_logins", "authority"),
    ("policy", "dovecot"),
    ("serve", "config"),
    ("serve", "telemetry"),
    ("hashing", "passwords"),
    ("sessions", "authority"),
];

#[test]
fn a_file_imports_only_from_floors_below_its_own() {
    let mut wrong = Vec::new();
    visit(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path(), &mut |path, text| {
        let module = module_of(path);
        if module == "lib" {
            return;
        }
        let Some(own) = floor(&module) else {
            wrong.push(format!("{}: has no floor", path.display()));
            return;
        };
        for used in used_modules(text) {
            let Some(other) = floor(&used) else {
                // `crate::something` that is no module of ours: a macro, or a type of the root.
                continue;
            };
            let beside = WITHIN_A_FLOOR.contains(&(module.as_str(), used.as_str()));
            if used != module && !beside && other >= own {
                wrong.push(format!("{}: floor {own} imports {used} of floor {other}", path.display()));
            }
        }
    });
    assert!(wrong.is_empty(), "the stairs go down only:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_two() {
    const MOST_LINES: usize = 500;
    let mut long = Vec::new();
    visit(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path(), &mut |path, text| {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    });
    assert!(long.is_empty(), "more than {MOST_LINES} lines are two files:\n{}", long.join("\n"));
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The first folder or file under `src/`.
fn module_of(path: &Path) -> String {
    let relative = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("a file of ours");
    let first = relative.components().next().expect("a file").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// What follows `crate::`, in `use crate::{a::b, c}` too; comments and tests count as well.
fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => used.push(name(rest)),
            Some(group) => {
                let mut depth = 0_usize;
                let mut start = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            used.push(name(&group[i..]));
                            start = false;
                        }
                        _ => (),
                    }
                }
            }
        }
    }
    used
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn visit(folder: &Path, see: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).expect("src/ is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            visit(&path, see);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            see(&path, &fs::read_to_string(&path).expect("readable"));
        }
    }
}

#[test]
fn every_reason_that_the_code_answers_is_documented_and_no_other() {
    let text = fs::read_to_string(root().join("docs/errors.md")).expect("docs/errors.md");
    let table = text.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1));
    let documented: BTreeSet<&str> = table.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let mut answered = BTreeSet::new();
    visit(&root().join("src"), &mut |path, text| {
        // A reason is a literal of capitals and underscores, in what refuses or chooses a status.
        // Elsewhere than in status.rs, one word of capitals can be anything.
        let chooses = path.ends_with("status.rs");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        if !code.contains("Invalid::") && !chooses && !path.ends_with("chosen.rs") {
            return;
        }
        let literals = code.split('"').skip(1).step_by(2).filter(|literal| !literal.is_empty());
        let reasons = literals
            .filter(|literal| chooses || literal.contains('_'))
            .filter(|literal| literal.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
        answered.extend(reasons.map(ToOwned::to_owned));
    });
    let answered: BTreeSet<&str> = answered.iter().map(String::as_str).collect();
    assert!(answered.contains("THROTTLED") && answered.len() > 20, "the search finds them: {answered:?}");
    let missing: Vec<_> = answered.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/errors.md lacks {missing:?}");
    let unused: Vec<_> = documented.difference(&answered).collect();
    assert!(unused.is_empty(), "docs/errors.md has what no code answers: {unused:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
