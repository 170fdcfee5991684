//! A million reports through `qualm replay`, beside decoding them only, in the same run.

#![allow(missing_docs)]

mod scenario;

use std::process::Command;
use std::time::Instant;

use qualm::report;

const COUNT: u64 = 1_000_000;
const ROUNDS: usize = 5;

fn main() {
    // `cargo test` runs benches too, only to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("qualm-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let (file, contract) = (folder.join("reports.ndjson"), folder.join("contract.yaml"));
    let text = scenario::reports(0, COUNT);
    assert_eq!(text.len(), COUNT as usize * scenario::REPORT_BYTES);
    std::fs::write(&file, &text).expect("room for the reports");
    std::fs::write(&contract, scenario::contract_text()).expect("room for the contract");
    let (mut parse, mut replay) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut good = 0;
        report::decode_all(&text, |_, decoded| good += u64::from(decoded.is_ok()));
        assert_eq!(good, COUNT);
        parse.push(COUNT as f64 / started.elapsed().as_secs_f64());
        replay.push(COUNT as f64 / seconds(&file, &contract));
    }
    let (parse, replay) = (median(parse), median(replay));
    println!("parse only: {:>9.0} reports/s", parse);
    println!("replay:     {:>9.0} reports/s, {:.2} of parse only", replay, replay / parse);
    std::fs::remove_dir_all(&folder).expect("the temporary folder goes");
}

/// Seconds from the first byte read to the last window closed, as `qualm replay` measures them.
fn seconds(file: &std::path::Path, contract: &std::path::Path) -> f64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qualm"));
    command.arg("replay").arg("--reports").arg(file).arg("--contract").arg(contract);
    let output = command.output().expect("qualm runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with(&format!("{COUNT} reports")), "{text}");
    let mut seconds = text.lines().filter_map(|line| line.strip_suffix(" s")?.parse().ok());
    seconds.next_back().expect("replay says how long it took")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
