//! What people read: documents, and comments.

use std::{fs, path::Path};

use crate::root;

/// Folders of ours with files that people read.
const FOLDERS: [&str; 8] = ["benches", "core", "deploy", "docs", "proto/latchkey", "scripts", "src", "tests"];

/// Each line of the documents, and each comment of the code: the file, the line's number and the
/// line.
fn read_by_people(see: &mut dyn FnMut(&Path, usize, &str)) {
    let mut files = vec![];
    for entry in fs::read_dir(root()).expect("the repository").flatten() {
        if entry.path().is_file() {
            files.push(entry.path());
        }
    }
    let mut folders: Vec<_> = FOLDERS.iter().map(|folder| root().join(folder)).filter(|folder| folder.is_dir()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable").flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    for file in files {
        let ending = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        if !matches!(ending.as_str(), "md" | "rs" | "proto") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("text");
        let mut is_code = false;
        for (at, line) in text.lines().enumerate() {
            is_code ^= ending == "md" && line.trim_start().starts_with("```");
            if (ending == "md" && !is_code) || line.trim_start().starts_with("//") {
                see(file.strip_prefix(root()).expect("a file of ours"), at + 1, line);
            }
        }
    }
}

#[test]
fn documents_and_comments_name_only_files_that_are_there() {
    const TOPS: [&str; 8] = ["benches/", "core/", "deploy/", "docs/", "proto/", "scripts/", "src/", "tests/"];
    let (mut named, mut missing) = (0, vec![]);
    read_by_people(&mut |file, number, line| {
        for word in line.split(|c: char| !(c.is_ascii_alphanumeric() || "./_-".contains(c))) {
            let word = word.trim_start_matches("../").trim_end_matches(['.', '-']);
            if TOPS.iter().any(|top| word.starts_with(top)) {
                named += 1;
                if !root().join(word).exists() {
                    missing.push(format!("{}:{number}: {word}", file.display()));
                }
            }
        }
    });
    assert!(named > 50, "the search finds them: {named}");
    assert!(missing.is_empty(), "there is no such file:\n{}", missing.join("\n"));
}

#[test]
fn documents_and_comments_have_at_most_a_hundred_columns() {
    const MOST_COLUMNS: usize = 100;
    let mut long = vec![];
    read_by_people(&mut |file, number, line| {
        // A table's row is one line; a link cannot be broken, nor can anything without a space.
        let is_table = line.trim_start_matches(['/', '!', ' ']).starts_with('|');
        let is_whole = line.contains("](") || line.contains("://") || line.split_whitespace().count() < 3;
        if line.chars().count() > MOST_COLUMNS && !is_table && !is_whole {
            long.push(format!("{}:{number}", file.display()));
        }
    });
    assert!(long.is_empty(), "more than {MOST_COLUMNS} columns:\n{}", long.join("\n"));
}
