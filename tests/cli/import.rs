//! `latchkey import`.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Status;

use super::server::Server;

struct Import {
    server: Server,
    folder: TempDir,
    file: PathBuf,
    /// The numbers of the lines that the server has committed.
    committed: Arc<Mutex<BTreeSet<u64>>>,
}

/// An import of a file to a server that commits all lines, but refuses those whose address has no
/// @, and is cut off at the batch of this number, if there is one.
fn import(name: &str, content: &str, cut_at: Option<usize>) -> Import {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, content).unwrap();
    let server = Server::start();
    let committed = Arc::new(Mutex::new(BTreeSet::new()));
    let (batches, store) = (AtomicUsize::new(0), committed.clone());
    server.answer_with("Import", move |request| {
        if Some(batches.fetch_add(1, Ordering::SeqCst)) == cut_at {
            return Err(Status::unavailable("draining"));
        }
        let lines = request["lines"].as_array().unwrap();
        let number = |line: &Value| line["number"].as_str().unwrap().parse::<u64>().unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["address"].as_str().unwrap().contains('@'));
        let mut store = store.lock().unwrap();
        let created = good.iter().filter(|line| store.insert(number(line))).count();
        Ok(json!({
            "last_line": number(lines.last().unwrap()),
            "created": created,
            "existing": good.len() - created,
            "refusals": bad.iter().map(|line| json!({
                "number": number(line),
                "error": {
                    "code": 3,
                    "message": "address: must hold one @",
                    "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "INVALID_FIELD"}],
                },
            })).collect::<Vec<_>>(),
        }))
    });
    Import { server, folder, file, committed }
}

impl Import {
    fn run(&self, arguments: &[&str]) -> super::Ran {
        let file = self.file.to_str().unwrap();
        self.server.run(&[&["import", file, "--service", "mail", "--batch-lines", "10"], arguments].concat())
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join(format!("{}.latchkey-import", self.file.file_name().unwrap().to_str().unwrap()))
    }
}

fn lines(count: u64) -> String {
    (1..=count).map(|n| format!("{{\"address\":\"user{n}@example.com\"}}\n")).collect()
}

#[test]
fn an_import_sends_every_line_in_batches_and_sums_up() {
    let content =
        format!("{}{}", lines(30), "{\"address\":\"last@x\",\"mail_service_id\":\"own\",\"generic_password_hash\":\"{SSHA}x\"}");
    let import = import("m.jsonl", &content, None);
    let ran = import.run(&[]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "31 lines: 31 created, 0 there already, 0 refused.\n"), "{ran:?}");
    let asked = import.server.asked();
    assert_eq!(asked.iter().map(|asked| asked.message["lines"].as_array().unwrap().len()).collect::<Vec<_>>(), [10, 10, 10, 1]);
    assert_eq!(asked[0].message["lines"][0]["mail_service_id"], "mail");
    let last = json!({"number": "31", "address": "last@x", "mail_service_id": "own", "generic_password_hash": "{SSHA}x"});
    assert_eq!(asked[3].message["lines"][0], last);
    assert!(!import.state().exists(), "the state is gone when the import is done");

    let ran = import.run(&["--json"]);
    assert_eq!(ran.json(), json!({"lines": 31, "created": 0, "existing": 31, "refused": 0, "dry_run": false}));
}

#[test]
fn an_import_that_was_cut_off_goes_on_where_it_stopped() {
    let import = import("m.jsonl", &lines(95), Some(5));
    let ran = import.run(&["--batches-in-flight", "2"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("Done up to line 50"), "{ran:?}");
    assert!(import.state().exists());
    import.server.asked();

    let ran = import.run(&[]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "95 lines: 95 created, 0 there already, 0 refused.\n"), "{ran:?}");
    assert!(ran.err.contains("after line 50"), "{ran:?}");
    assert_eq!(import.server.asked()[0].message["lines"][0]["number"], "51", "acknowledged lines are not sent again");
    assert_eq!(*import.committed.lock().unwrap(), (1..=95).collect());
    assert!(!import.state().exists());
}

#[test]
fn a_cut_import_begins_anew_when_told_and_never_goes_on_in_another_file() {
    let import = import("m.jsonl", &lines(45), Some(2));
    assert_eq!(import.run(&[]).code, 3);
    import.server.asked();
    let ran = import.run(&["--dry-run"]);
    assert_eq!(import.server.asked()[0].message["lines"][0]["number"], "1", "a dry run looks at all: {ran:?}");

    fs::write(&import.file, lines(46)).unwrap();
    let ran = import.run(&[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("has changed") && ran.err.contains("--restart"), "{ran:?}");
    assert!(import.server.asked().is_empty());
    let ran = import.run(&["--restart"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(import.server.asked()[0].message["lines"][0]["number"], "1");
}

#[test]
fn refused_lines_are_reported_with_number_and_reason_wherever_they_were_refused() {
    let mut content: Vec<String> = lines(40).lines().map(str::to_owned).collect();
    content[3] = "nonsense".to_owned();
    content[7] = "{\"address\":\"nobody\"}".to_owned();
    content[39] = "{\"address\":".to_owned();
    let import = import("m.jsonl", &content.join("\n"), None);
    let refused = import.folder.path().join("refused.jsonl");
    let ran = import.run(&["--refused", refused.to_str().unwrap(), "--show-refused", "2"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "40 lines: 37 created, 0 there already, 3 refused.\n"));
    let expected =
        "line 4: not a JSON object (UNREADABLE_LINE)\nline 8: address: must hold one @ (INVALID_FIELD)\n… 1 more refused lines\n";
    assert_eq!(ran.err, expected);
    let kept: Vec<Value> =
        fs::read_to_string(&refused).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(kept[1], json!({"line": 8, "reason": "INVALID_FIELD", "message": "address: must hold one @"}));
    assert_eq!(kept.iter().map(|line| line["line"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 8, 40]);
}

#[test]
fn a_file_of_which_no_line_can_be_read_is_reported_whole() {
    let import = import("m.jsonl", &"nonsense\n".repeat(25), None);
    let ran = import.run(&[]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "25 lines: 0 created, 0 there already, 25 refused.\n"), "{ran:?}");
    assert!(import.server.asked().is_empty());
}

#[test]
fn stretches_that_cannot_be_read_are_counted_between_those_on_their_way() {
    let content: Vec<String> =
        (0..20).map(|stretch| if stretch % 2 == 0 { lines(10) } else { "nonsense\n".repeat(10) }).collect();
    let import = import("m.jsonl", &content.concat(), None);
    let ran = import.run(&[]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "200 lines: 100 created, 0 there already, 100 refused.\n"), "{ran:?}");
}

#[test]
fn csv_and_standard_input_are_read_too() {
    let import = import("m.csv", "address,generic_password_hash\na@x,{SSHA}x\nb@x,\n", None);
    let ran = import.run(&[]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "2 lines: 2 created, 0 there already, 0 refused.\n"), "{ran:?}");
    let line = json!({"number": "2", "address": "a@x", "mail_service_id": "mail", "generic_password_hash": "{SSHA}x"});
    assert_eq!(import.server.asked()[0].message["lines"][0], line);

    let ran = import.server.run_with_input(&["import", "-", "--format", "csv"], "address,mail_service_id\nc@x,own\n");
    assert_eq!((ran.code, import.server.asked()[0].message["lines"][0]["mail_service_id"].as_str()), (0, Some("own")), "{ran:?}");
    let ran = import.server.run_with_input(&["import", "-", "--format", "csv"], "address,pasword\nc@x,own\n");
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("`pasword`"), "{ran:?}");
}

#[test]
fn a_dry_run_writes_nothing_anywhere() {
    let import = import("m.jsonl", &lines(3), None);
    let ran = import.run(&["--dry-run"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "3 lines: 3 would be created, 0 there already, 0 refused.\n"), "{ran:?}");
    assert_eq!(import.server.asked()[0].message["validate_only"], true);
    assert_eq!(fs::read_dir(import.folder.path()).unwrap().count(), 1, "only the file itself is there");
}

#[test]
fn a_file_that_is_not_there_or_of_no_known_kind_is_a_matter_of_usage() {
    let server = Server::start();
    for (file, words) in [("/nowhere.jsonl", "/nowhere.jsonl: can't be read"), ("mailboxes.xml", "--format")] {
        let ran = server.run(&["import", file]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(words), "{ran:?}");
    }
}

#[test]
fn an_interrupted_import_says_that_the_same_command_resumes() {
    let import = import("m.jsonl", &lines(95), None);
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let (reached, has_reached) = std::sync::mpsc::channel();
    let (held, batches) = (Mutex::new(held), AtomicUsize::new(0));
    import.server.answer_with("Import", move |request| {
        if batches.fetch_add(1, Ordering::SeqCst) == 3 {
            reached.send(()).unwrap();
            // Until the test is done with the command.
            let _ = held.lock().unwrap().recv();
        }
        Ok(json!({"last_line": request["lines"].as_array().unwrap().last().unwrap()["number"], "created": 10}))
    });
    let file = import.file.to_str().unwrap();
    let arguments = ["import", file, "--service", "mail", "--batch-lines", "10", "--batches-in-flight", "1"];
    let mut command = super::latchkey(&[&arguments[..], &["--server", &import.server.url]].concat());
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    has_reached.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(hold);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("line 30") && said.contains("The same command again goes on from there"), "{said}");
}
