//! No circles: if a file imports from another, directly or by way of others, that one does not
//! import from it. A `mod.rs` that declares its children and re-exports from them imports nothing;
//! one that uses them itself does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{root, visit};

/// Folders in which files may still import from each other. The list only ever gets shorter.
const STILL_IN_CIRCLES: &[&str] = &["src/http"];

#[test]
fn no_files_import_from_each_other() {
    let house = House::read();
    assert!(house.files.len() > 100, "the search finds them: {}", house.files.len());
    let imports: BTreeMap<&Path, BTreeSet<&Path>> =
        house.files.keys().map(|file| (file.as_path(), house.imports(file))).collect();
    let reached: BTreeMap<&Path, BTreeSet<&Path>> = imports.keys().map(|file| (*file, reach(&imports, file))).collect();
    let circles: BTreeMap<&Path, Vec<&Path>> = imports
        .iter()
        .map(|(file, used)| (*file, used.iter().copied().filter(|used| reached[used].contains(file)).collect::<Vec<_>>()))
        .filter(|(_, used)| !used.is_empty())
        .collect();
    let new: Vec<_> = circles
        .iter()
        .filter(|(file, _)| !STILL_IN_CIRCLES.iter().any(|folder| file.starts_with(folder)))
        .map(|(file, used)| format!("{} and {used:?}", file.display()))
        .collect();
    assert!(new.is_empty(), "these import from each other:\n{}", new.join("\n"));
}

/// What a file imports from, and what those import from, and so on.
fn reach<'a>(imports: &BTreeMap<&'a Path, BTreeSet<&'a Path>>, from: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Path> = imports[from].iter().copied().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(&imports[file]);
        }
    }
    reached
}

/// A module's path: its package, then the names.
type Module = Vec<String>;

struct House {
    files: BTreeMap<PathBuf, File>,
    modules: BTreeMap<Module, PathBuf>,
}

struct File {
    module: Module,
    /// Names that a `use` brings in, and what they are.
    names: BTreeMap<String, Module>,
    /// All that is named here of other modules.
    used: Vec<Module>,
}

impl House {
    fn read() -> Self {
        let mut house = Self { files: BTreeMap::new(), modules: BTreeMap::new() };
        let mut texts = vec![];
        for (folder, package) in [("src", "latchkey"), ("core/src", "latchkey_core")] {
            let folder = root().join(folder);
            visit(&folder, &mut |path, text| {
                let mut module = vec![package.to_owned()];
                let inside = path.strip_prefix(&folder).expect("a file of the folder").with_extension("");
                module.extend(inside.iter().map(|part| part.to_string_lossy().into_owned()));
                module.retain(|name| !matches!(name.as_str(), "mod" | "lib"));
                let path = path.strip_prefix(root()).expect("a file of ours").to_owned();
                house.modules.insert(module.clone(), path.clone());
                texts.push((path, module, without_tests(&tokens(text))));
            });
        }
        // Files that only tests have are no part of the house.
        let mut of_tests = BTreeSet::new();
        for (_, module, (_, test_modules)) in &texts {
            of_tests.extend(test_modules.iter().map(|name| [module.as_slice(), std::slice::from_ref(name)].concat()));
        }
        for (path, module, (tokens, _)) in texts {
            if of_tests.contains(&module) {
                house.modules.remove(&module);
            } else {
                let file = File::read(module, &tokens);
                house.files.insert(path, file);
            }
        }
        house
    }

    fn imports(&self, path: &Path) -> BTreeSet<&Path> {
        let used = self.files[path].used.iter().filter_map(|used| self.file_of(used, 8));
        used.filter(|used| *used != path).collect()
    }

    /// The file that defines what is named, through what others re-export.
    fn file_of(&self, name: &[String], depth: usize) -> Option<&Path> {
        let module = (1..=name.len()).rev().map(|length| &name[..length]).find(|part| self.modules.contains_key(*part))?;
        let path = self.modules[module].as_path();
        let item = name.get(module.len());
        match item.and_then(|item| self.files.get(path)?.names.get(item)) {
            Some(elsewhere) if depth > 0 && elsewhere.as_slice() != name => {
                let rest = &name[module.len() + 1..];
                self.file_of(&[elsewhere, rest].concat(), depth - 1)
            }
            _ => Some(path),
        }
    }
}

impl File {
    fn read(module: Module, tokens: &[String]) -> Self {
        let word = |at: usize| tokens.get(at).map_or("", String::as_str);
        let children: BTreeSet<&str> =
            (0..tokens.len()).filter(|at| word(*at) == "mod" && word(at + 2) == ";").map(|at| word(at + 1)).collect();
        let mut file = Self { module, names: BTreeMap::new(), used: vec![] };
        let mut at = 0;
        while at < tokens.len() {
            if word(at) == "use" {
                let end = (at..tokens.len()).find(|end| word(*end) == ";").unwrap_or(tokens.len());
                let is_public = at > 0 && (word(at - 1) == "pub" || word(at - 1) == ")");
                let mut named = vec![];
                tree(&tokens[at + 1..end], &mut vec![], &mut named);
                for (name, path) in named {
                    let Some(path) = file.absolute(&path, &children) else {
                        continue;
                    };
                    // What is below it, a module only hands on.
                    let hands_on = is_public && path.starts_with(&file.module);
                    if !hands_on {
                        file.used.push(path.clone());
                    }
                    file.names.insert(name, path);
                }
                at = end;
            } else if word(at) == "pub" && word(at + 2) == "in" {
                // Who may see something, is no import.
                at = (at..tokens.len()).find(|end| word(*end) == ")").unwrap_or(tokens.len());
            } else if word(at + 1) == "::" && (at == 0 || word(at - 1) != "::") {
                let mut path = vec![tokens[at].clone()];
                while word(at + 1) == "::" {
                    path.push(word(at + 2).to_owned());
                    at += 2;
                }
                file.used.extend(file.absolute(&path, &children));
            }
            at += 1;
        }
        file
    }

    /// A path from its package on, if it is one of ours.
    fn absolute(&self, path: &[String], children: &BTreeSet<&str>) -> Option<Module> {
        let (mut start, mut rest) = match path.first()?.as_str() {
            "crate" => (vec![self.module[0].clone()], &path[1..]),
            "latchkey_core" => (vec!["latchkey_core".to_owned()], &path[1..]),
            "self" => (self.module.clone(), &path[1..]),
            "super" => (self.module.clone(), path),
            child if children.contains(child) => (self.module.clone(), path),
            _ => return None,
        };
        while rest.first().is_some_and(|part| part == "super") {
            start.pop();
            rest = &rest[1..];
        }
        start.extend(rest.iter().cloned());
        Some(start)
    }
}

/// What a `use` names: each name that it brings in, with its whole path.
fn tree(tokens: &[String], before: &mut Vec<String>, named: &mut Vec<(String, Vec<String>)>) {
    let (mut depth, mut start) = (0_usize, 0);
    for at in 0..=tokens.len() {
        let token = tokens.get(at).map_or(",", String::as_str);
        match token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => {
                branch(&tokens[start..at], before, named);
                start = at + 1;
            }
            _ => (),
        }
    }
}

fn branch(tokens: &[String], before: &mut Vec<String>, named: &mut Vec<(String, Vec<String>)>) {
    let own = before.len();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "::" => (),
            "{" => tree(&tokens[at + 1..tokens.len() - 1], before, named),
            "as" => {
                named.push((tokens[at + 1].clone(), before.clone()));
                break;
            }
            // What a glob brings in is not known by name.
            "*" => named.push(("*".to_owned(), before.clone())),
            part => {
                if part != "self" || before.is_empty() {
                    before.push(part.to_owned());
                }
                if at + 1 == tokens.len() {
                    named.push((before.last().cloned().unwrap_or_default(), before.clone()));
                }
            }
        }
        if tokens[at] == "{" {
            break;
        }
        at += 1;
    }
    before.truncate(own);
}

/// Without what `#[cfg(test)]` marks; and the modules in files of their own among that.
fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    let marker = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut modules, mut at) = (vec![], vec![], 0);
    while at < tokens.len() {
        if !tokens[at..].iter().map(String::as_str).take(marker.len()).eq(marker) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += marker.len();
        let begin = at;
        let mut depth = 0_usize;
        while at < tokens.len() {
            match tokens[at].as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => (),
            }
            at += 1;
        }
        let item = &tokens[begin..at];
        if let Some(place) = item.iter().position(|token| token == "mod").filter(|_| tokens.get(at).is_some_and(|it| it == ";")) {
            modules.push(item[place + 1].clone());
        }
        at += 1;
    }
    (kept, modules)
}

/// Words, `::`, and single other characters; without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let next = |at: usize| characters.get(at).copied().unwrap_or(' ');
    let (mut tokens, mut at) = (vec![], 0);
    while at < characters.len() {
        let c = characters[at];
        if c == '/' && next(at + 1) == '/' {
            while at < characters.len() && characters[at] != '\n' {
                at += 1;
            }
        } else if c == '"' {
            at += 1;
            while at < characters.len() && characters[at] != '"' {
                at += if characters[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == 'r' && next(at + 1) == '#' && next(at + 2) == '"' {
            at += 3;
            while at < characters.len() && !(characters[at] == '"' && next(at + 1) == '#') {
                at += 1;
            }
            at += 2;
        } else if c == '\'' && (next(at + 1) == '\\' || next(at + 2) == '\'') {
            at += if next(at + 1) == '\\' { 3 } else { 2 };
            while at < characters.len() && characters[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if c.is_alphanumeric() || c == '_' {
            let begin = at;
            while next(at).is_alphanumeric() || next(at) == '_' {
                at += 1;
            }
            tokens.push(characters[begin..at].iter().collect());
        } else if c == ':' && next(at + 1) == ':' {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            at += 1;
        }
    }
    tokens
}
