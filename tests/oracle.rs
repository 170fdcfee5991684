//! `replay` against a brute-force computation in Python, value by value and verdict by verdict:
//! over generated reports with disorder, duplicates and gaps, and over recordings where there
//! are some.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{generated, qualm, recordings, root, run, stderr, stdout};

const CONTRACT: &str = "contracts/smart-building.yaml";

fn agree(reports: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    // The oracle has no YAML reader; it gets the contract as JSON.
    let source = std::fs::read_to_string(root().join(CONTRACT)).unwrap();
    let contract = qualm::contract::load(CONTRACT, &source).contract.unwrap();
    std::fs::write(file("contract.json"), serde_json::to_string(&contract).unwrap()).unwrap();

    let ours = run(qualm().args(["replay", "--format", "json", "--contract", CONTRACT, "--reports"]).arg(reports));
    assert!(ours.status.code().is_some_and(|code| code < 2), "{}", stderr(&ours));
    std::fs::write(file("ours"), &ours.stdout).unwrap();
    let judge = root().join("tests/oracle/judge.py");
    let theirs = run(Command::new("python3").arg(judge).arg(file("contract.json")).arg(reports));
    assert!(theirs.status.success(), "{}", stderr(&theirs));
    std::fs::write(file("theirs"), &theirs.stdout).unwrap();
    let compare = root().join("tests/oracle/compare.py");
    let compared = run(Command::new("python3").arg(compare).arg(file("ours")).arg(file("theirs")));
    assert!(compared.status.success(), "{}: {}{}", reports.display(), stdout(&compared), stderr(&compared));
    stdout(&compared)
}

#[test]
fn generated_reports_agree_with_brute_force() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 1..=8 {
        let file = folder.path().join(format!("{seed}.ndjson"));
        std::fs::write(&file, generated(seed, 3_000)).unwrap();
        let words = agree(&file);
        assert!(!words.contains(" 0 late"), "the reports must hold late ones to be a test: {words}");
    }
}

#[test]
fn recordings_agree_with_brute_force() {
    for file in recordings() {
        println!("{}: {}", file.display(), agree(&file));
    }
}

#[test]
fn replay_prints_the_same_bytes_on_every_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reports.ndjson");
    std::fs::write(&file, generated(11, 2_000)).unwrap();
    let once = || {
        let output = run(qualm().args(["replay", "--format", "json", "--contract", CONTRACT, "--reports"]).arg(&file));
        let text = stdout(&output);
        let (body, seconds) = text.rsplit_once("\"seconds\":").unwrap();
        assert!(seconds.trim().ends_with('}'));
        body.to_owned()
    };
    assert_eq!(once(), once());
}
