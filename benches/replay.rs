//! A million reports of 1,000 applications through `qualm replay`, beside decoding them only, and
//! beside serde_json into a plain struct, in the same run.

#![allow(missing_docs)]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use qualm::load::{self, Load};
use qualm::report;

const COUNT: u64 = 1_000_000;
const ROUNDS: usize = 5;

/// A report as plain as serde_json can read it: nothing checked, nothing kept.
#[derive(serde::Deserialize)]
#[allow(dead_code)]
struct Plain<'a> {
    id: &'a str,
    time: f64,
    tenant: &'a str,
    application: &'a str,
    stage: &'a str,
    instance: &'a str,
    #[serde(borrow)]
    labels: Labels<'a>,
    #[serde(borrow)]
    metrics: std::collections::HashMap<&'a str, f64>,
    #[serde(borrow)]
    upstream: Vec<&'a str>,
}

#[derive(serde::Deserialize)]
#[allow(dead_code)]
struct Labels<'a> {
    model: &'a str,
    device: &'a str,
    zone: &'a str,
    modality: &'a str,
    version: &'a str,
}

fn main() {
    // `cargo test` runs benches too, only to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("qualm-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    for applications in [1, 1_000] {
        measure(&folder, applications);
    }
    std::fs::remove_dir_all(&folder).expect("the temporary folder goes");
}

fn measure(folder: &Path, applications: u64) {
    let (file, contracts) = (folder.join("reports.ndjson"), folder.join("contracts"));
    let load = Load { applications, ..Load::default() };
    let text = load.reports(0..COUNT);
    assert_eq!(text.len(), COUNT as usize * load.bytes);
    std::fs::write(&file, &text).expect("room for the reports");
    std::fs::create_dir_all(&contracts).expect("a folder");
    for application in 0..applications {
        std::fs::write(contracts.join(format!("{application}.yaml")), load::contract(application)).expect("room");
    }
    let (mut plain, mut parse, mut one, mut both) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let good = text.lines().filter(|line| serde_json::from_str::<Plain<'_>>(line).is_ok()).count();
        assert_eq!(good as u64, COUNT);
        plain.push(COUNT as f64 / started.elapsed().as_secs_f64());
        let started = Instant::now();
        let mut good = 0;
        report::decode_all(text.as_bytes(), |_, decoded| good += u64::from(decoded.is_ok()));
        assert_eq!(good, COUNT);
        parse.push(COUNT as f64 / started.elapsed().as_secs_f64());
        one.push(COUNT as f64 / seconds(&file, &contracts, "0"));
        both.push(COUNT as f64 / seconds(&file, &contracts, "0,1"));
    }
    let (plain, parse, one, both) = (median(plain), median(parse), median(one), median(both));
    println!("applications: {applications}");
    println!("  serde_json into a plain struct: {plain:>9.0} reports/s");
    println!("  decode only:                    {parse:>9.0} reports/s");
    println!("  replay, one core:               {one:>9.0} reports/s, {:.2} of the plain struct", one / plain);
    println!("  replay, two cores:              {both:>9.0} reports/s");
}

/// Seconds from the first byte read to the last window closed, as `qualm replay` measures them.
fn seconds(file: &Path, contracts: &Path, cores: &str) -> f64 {
    let mut command = Command::new("taskset");
    command.args(["-c", cores, env!("CARGO_BIN_EXE_qualm"), "replay", "--reports"]).arg(file);
    let output = command.arg("--contract").arg(contracts).output().expect("taskset and qualm run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with(&format!("{COUNT} reports")), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut seconds = text.lines().filter_map(|line| line.strip_suffix(" s")?.parse().ok());
    seconds.next_back().expect("replay says how long it took")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
