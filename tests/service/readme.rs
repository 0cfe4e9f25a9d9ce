//! The README's lines, as they stand: in a POSIX shell, with the real grpcurl, against `serve
//! --demo` on its own port.

use std::{fs, path::Path, process::Command};

use crate::server::{Ground, Server, StoreKind};

/// The code blocks that a reader pastes: those marked `sh`.
fn blocks() -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a README");
    readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// Starts the demo on the port that the README names, as a newcomer does.
fn demo(ground: &Ground) -> Server {
    Server::start(ground.command(&["--demo", "--listen", "127.0.0.1:50051"])).expect("the demo starts")
}

fn sh(script: &str) -> String {
    let latchkey = Path::new(env!("CARGO_BIN_EXE_latchkey"));
    let folder = latchkey.parent().expect("a folder").display();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh").args(["-uc", script]).env("PATH", path).output().expect("a shell runs");
    // A denied login ends with 1.
    let is_fine = matches!(output.status.code(), Some(0 | 1));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(is_fine && !text.contains("error:"), "{script}\n{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_that_the_demo_prints_work_and_so_does_the_readmes_session_after_them() {
    for store in [StoreKind::Sqlite, StoreKind::Postgres] {
        let ground = Ground::new(store).await;
        let server = demo(&ground);
        let lines = |tool: &str| {
            let is_ours = |line: &&str| line.starts_with("  ") && line.contains(tool);
            server.printed.lines().filter(is_ours).collect::<Vec<_>>().join("\n")
        };
        let said = sh(&lines("grpcurl"));
        assert!(said.contains("ALLOW") && said.contains("EFFECTIVE") && said.contains("DEVICE_DISCONNECTED"), "{said}");
        let said = sh(&lines("latchkey"));
        assert!(said.contains("ALLOW") && said.contains("DENY") && said.contains("Phone of Alice"), "{said}");

        let session = blocks();
        let [with_grpcurl, with_latchkey] = session.as_slice() else { panic!("two sessions: {session:?}") };
        // A newcomer may paste it twice.
        for _ in 0..2 {
            let said = sh(with_grpcurl);
            assert_eq!(said.matches(r#""decision": "DECISION_ALLOW""#).count(), 1, "{said}");
            assert!(said.contains(r#""state": "STATE_EFFECTIVE""#), "{said}");
            assert_eq!(said.matches(r#""reason": "REASON_DEVICE_DISCONNECTED""#).count(), 1, "{said}");
            let said = sh(with_latchkey);
            let (allowed, denied) = (said.find("ALLOW").expect("allowed"), said.rfind("DENY").expect("denied"));
            assert!(allowed < denied && said.contains("Bob's phone"), "{said}");
        }
    }
}

#[test]
fn every_setting_that_the_documentation_names_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commands = ["serve", "agent", "login", "import", "keys generate"].map(|it| format!("latchkey {it} --help"));
    let help = sh(&commands.join("; "));
    let mut files = vec![root.join("README.md")];
    files.extend(fs::read_dir(root.join("deploy")).expect("deploy/").flatten().map(|entry| entry.path()));
    let mut named = 0;
    for file in files.iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(file).expect("readable");
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
        for word in words.filter(|word| word.starts_with("LATCHKEY_") || word.starts_with("--") && word.len() > 3) {
            // Flags of other programs: cargo's, docker's, apt's, PostgreSQL's, MariaDB's,
            // install's.
            let is_foreign = [
                "--release",
                "--profile",
                "--interval",
                "--start-period",
                "--retries",
                "--locked",
                "--bin",
                "--build",
                "--now",
                "--from",
                "--no-install-recommends",
                "--system",
                "--uid",
                "--home-dir",
                "--create-home",
                "--host",
                "--username",
                "--pgdata",
                "--write-recovery-conf",
                "--wal-method",
                "--create",
                "--batch",
                "--skip-column-names",
            ];
            if is_foreign.contains(&word) {
                continue;
            }
            named += 1;
            assert!(help.contains(word), "{}: {word} is no setting", file.display());
        }
    }
    assert!(named > 15, "the search finds them: {named}");
}
