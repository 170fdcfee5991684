//! What is measured: reports of 417 bytes with 5 labels and 2 metrics, and a contract of 20
//! objectives that all of them feed, half grouped, quantiles among them.

use std::fmt::Write;
use std::sync::Arc;

use qualm::contract;
use qualm::engine::{Engine, Limits, Outputs, Program};

/// Bytes of a report with its line end.
pub const REPORT_BYTES: usize = 417;

/// Lines of NDJSON, 1 ms of event time apart.
pub fn reports(from: u64, count: u64) -> Vec<u8> {
    let mut text = String::with_capacity(count as usize * REPORT_BYTES);
    for n in from..from + count {
        let mut random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        random ^= random >> 29;
        let time = 1_790_000_000 + n / 1_000;
        let line = text.len();
        // A long tail: most answers take some 20 ms, one of a hundred much longer.
        let seconds = 0.015 + (random % 1_000) as f64 * 1e-5 + if random % 101 == 0 { 0.2 } else { 0.0 };
        let confidence = 0.5 + (random >> 20) as u32 as f64 / u32::MAX as f64 / 2.0;
        let _ = write!(
            text,
            "{{\"id\":\"r-{n:09}\",\"time\":{time}.{:03},\"tenant\":\"default\",\"application\":\"object-detection\",\
             \"stage\":\"inference\",\"instance\":\"yolo-{}\",\
             \"labels\":{{\"model\":\"yolov8n\",\"device\":\"jetson-{}\",\"zone\":\"north\",\"modality\":\"video\",\"version\":\"1.4.2\"}},\
             \"metrics\":{{\"service.response_time\":{seconds:.6},\"ml.confidence\":{confidence:.6}}},\"upstream\":[",
            n % 1_000,
            n % 4,
            random % 8,
        );
        let rest = REPORT_BYTES - 3 - (text.len() - line) - 2;
        let _ = writeln!(text, "\"{}\"]}}", "p".repeat(rest));
    }
    text.into_bytes()
}

/// The same reports, each with an inference and the feedback for the one a hundred before it.
#[allow(dead_code)]
pub fn predictions(from: u64, count: u64) -> Vec<u8> {
    let plain = String::from_utf8(reports(from, count)).expect("reports are text");
    let mut text = String::with_capacity(plain.len() * 5 / 4);
    for (line, n) in plain.lines().zip(from..) {
        let class = |n: u64| ["cat", "dog", "bird"][(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % 3];
        let (truth, before) = (class(n / 2), n.saturating_sub(100));
        let body = line.strip_suffix('}').expect("a report is an object");
        let _ = writeln!(
            text,
            "{body},\"inference\":{{\"id\":\"i-{n}\",\"prediction\":\"{}\"}},\"feedback\":[{{\"inference\":\"i-{before}\",\"label\":\"{truth}\"}}]}}",
            class(n)
        );
    }
    text.into_bytes()
}

/// An objective on predictions joined with feedback, and one on drift.
#[allow(dead_code)]
pub const QUALITY: &str = "    - {name: accurate, indicator: {attribute: prediction, aggregate: accuracy, window: 1m, every: 10s}, target: {min: 0}}
    - {name: usual, indicator: {attribute: ml.confidence, aggregate: psi, window: 1m, every: 10s, baseline: {first: 1m}}, target: {max: 9}}
";

/// The contract, as a file would hold it.
pub fn contract_text() -> String {
    let mut text = "apiVersion: qualm/v1\nkind: Contract\nmetadata: {name: bench, version: 1.0.0}\n\
                    spec:\n  scope: {application: object-detection}\n  objectives:\n"
        .to_owned();
    let aggregates = ["p99", "p50", "mean", "max", "min", "sum", "count", "rate", "stddev", "ratio"];
    for (number, aggregate) in aggregates.iter().chain(&aggregates).enumerate() {
        let attribute = if number % 2 == 0 { "service.response_time" } else { "ml.confidence" };
        let group = if number < 10 { ", group_by: [device]" } else { "" };
        let good = if *aggregate == "ratio" { ", good: {max: 0.9}" } else { "" };
        let _ = writeln!(
            text,
            "    - {{name: o-{number}, indicator: {{attribute: {attribute}, aggregate: {aggregate}, window: 1m, every: 10s{group}{good}}}, target: {{max: 1e9}}}}"
        );
    }
    text
}

/// An engine with the contract.
#[allow(dead_code)]
pub fn engine() -> Engine {
    engine_of(&contract_text())
}

/// An engine with a contract.
#[allow(dead_code)]
pub fn engine_of(text: &str) -> Engine {
    let mut loaded = contract::load("bench.yaml", text);
    let program = Program::compile(&mut loaded, |name| Err(name.to_owned())).expect("the contract is sound");
    let mut engine = Engine::new(Limits::default());
    engine.set_contract(Arc::new(program), &mut Outputs::default());
    engine
}
