//! A pipeline whose faults are known: gateway → preprocessing (2) → inference (4) → aggregation,
//! three requests a second for 15 minutes, the fault from minute 10 on.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, LogNormal};

/// Event time of the first request, in seconds since the epoch.
pub const START: f64 = 1_790_000_000.0;
const MINUTES: f64 = 15.0;
pub const FAULT_AT: f64 = 600.0;
const A_SECOND: f64 = 3.0;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    SlowStage(&'static str, f64),
    SlowInstance(&'static str, String, f64),
    BadVersion(&'static str, f64),
    BadSlice(&'static str, f64),
    DearModel(&'static str, f64),
    BadData(String, f64),
}

/// Stages, their instances and usual seconds.
pub const STAGES: [(&str, usize, f64); 4] =
    [("gateway", 1, 0.004), ("preprocessing", 2, 0.010), ("inference", 4, 0.030), ("aggregation", 1, 0.003)];
const MODALITIES: [&str; 3] = ["day", "night", "rain"];
const CLASSES: [&str; 3] = ["car", "bus", "bike"];

pub fn instance(stage: &str, number: usize) -> String {
    format!("{}-{number}", &stage[..3])
}

/// Models by instance: small on 0 and 1, large on 2 and 3; versions change with the instance.
pub fn model(instance: usize) -> (&'static str, &'static str) {
    (if instance < 2 { "small" } else { "large" }, if instance.is_multiple_of(2) { "v1" } else { "v2" })
}

/// All reports of a run, as NDJSON in the order of their times.
pub fn reports(seed: u64, faults: &[Fault]) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let noise = LogNormal::new(0.0, 0.25).unwrap();
    let mut lines: Vec<(f64, String)> = Vec::new();
    let requests = (MINUTES * 60.0 * A_SECOND) as u64;
    for request in 0..requests {
        let at = request as f64 / A_SECOND + random.random::<f64>() / A_SECOND;
        let on = |fault: &Fault| at >= FAULT_AT && faults.contains(fault);
        // Load comes in waves that all stages feel.
        let wave = 1.0 + 0.08 * (at / 37.0 * std::f64::consts::TAU).sin();
        let modality = MODALITIES[random.random_range(0..MODALITIES.len())];
        let truth = CLASSES[random.random_range(0..CLASSES.len())];
        let mut time = START + at;
        let mut before = String::new();
        let mut complete = 0.0;
        for (stage, instances, usual) in STAGES {
            let number = random.random_range(0..instances);
            let name = instance(stage, number);
            let mut seconds = usual * wave * noise.sample(&mut random);
            let mut accuracy: f64 = 0.92;
            let (model, version) = model(number);
            let mut cost = if model == "large" { 0.0009 } else { 0.0003 } * noise.sample(&mut random);
            let mut fresh = (0.97 + 0.02 * (random.random::<f64>() - 0.5)).min(1.0);
            for fault in faults.iter().filter(|fault| on(fault)) {
                match fault {
                    Fault::SlowStage(of, factor) if *of == stage => seconds *= factor,
                    Fault::SlowInstance(of, which, factor) if *of == stage && *which == name => seconds *= factor,
                    Fault::BadVersion(of, worse) if *of == version => accuracy = accuracy.min(*worse),
                    Fault::BadSlice(of, worse) if *of == modality => accuracy = accuracy.min(*worse),
                    Fault::DearModel(of, factor) if *of == model => cost *= factor,
                    Fault::BadData(of, worse) if *of == name || *of == stage => fresh *= worse,
                    _ => {}
                }
            }
            if stage == "preprocessing" {
                complete = fresh;
            }
            // Models that get incomplete data guess.
            if complete < 0.9 {
                accuracy = accuracy.min(0.5);
            }
            time += seconds;
            let mut line = format!(
                "{{\"id\":\"{name}-{request}\",\"time\":{time:.6},\"application\":\"shop\",\"stage\":\"{stage}\",\"instance\":\"{name}\""
            );
            let (mut labels, mut metrics) =
                (format!("\"modality\":\"{modality}\""), format!("\"service.response_time\":{seconds:.6}"));
            let mut inference = format!("\"id\":\"{stage}-{request}\",\"request\":\"q-{request}\"");
            match stage {
                "preprocessing" => {
                    let _ = write!(metrics, ",\"data.completeness\":{fresh:.4}");
                }
                "inference" => {
                    let right = random.random::<f64>() < accuracy;
                    let other = CLASSES[(CLASSES.iter().position(|c| *c == truth).unwrap() + 1) % CLASSES.len()];
                    let _ = write!(labels, ",\"model\":\"{model}\",\"version\":\"{version}\"");
                    let sure = (accuracy * (0.95 + 0.1 * (random.random::<f64>() - 0.5))).min(1.0);
                    let _ = write!(metrics, ",\"ml.confidence\":{sure:.4},\"cost.usd\":{cost:.8}");
                    let _ = write!(inference, ",\"prediction\":\"{}\"", if right { truth } else { other });
                }
                _ => {}
            }
            let _ = write!(line, ",\"labels\":{{{labels}}},\"metrics\":{{{metrics}}},\"inference\":{{{inference}}}");
            if !before.is_empty() {
                let _ = write!(line, ",\"upstream\":[\"{before}\"]");
            }
            line.push_str("}\n");
            lines.push((time, line));
            before = name;
        }
        let told = time + 2.0;
        let line = format!(
            "{{\"id\":\"fb-{request}\",\"time\":{told:.6},\"application\":\"shop\",\"stage\":\"consumer\",\"instance\":\"con-0\",\"feedback\":[{{\"inference\":\"inference-{request}\",\"label\":\"{truth}\"}}]}}\n"
        );
        lines.push((told, line));
    }
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    lines.into_iter().map(|(_, line)| line).collect()
}
