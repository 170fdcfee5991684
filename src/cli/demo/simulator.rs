//! The pipeline: gateway → preprocessing → two detectors → aggregation, with waves of load and
//! one fault after the other. A fault stays until the executor has mended it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::time::Timestamp;

/// What is broken right now.
#[derive(Default)]
pub(super) struct Faults {
    pub slow_detector: AtomicBool,
    pub low_confidence: AtomicBool,
    pub high_cost: AtomicBool,
    pub missing_data: AtomicBool,
}

impl Faults {
    /// The fault that begins at a second of the round.
    fn beginning_at(&self, second: u64) -> Option<(&AtomicBool, &'static str)> {
        match second {
            8 => Some((&self.slow_detector, "detector yolo-1 becomes eight times slower")),
            22 => Some((&self.low_confidence, "the confidence of model yolov8n falls")),
            34 => Some((&self.high_cost, "an inference on yolo-0 costs five times more")),
            45 => Some((&self.missing_data, "preprocessing sends nothing more")),
            _ => None,
        }
    }
}

const STEP: Duration = Duration::from_millis(100);

/// Publishes reports until `round` is over, or for ever.
pub(super) async fn run(
    client: async_nats::Client,
    faults: Arc<Faults>,
    seed: u64,
    round: Option<Duration>,
) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut interval = tokio::time::interval(STEP);
    let started = Instant::now();
    let mut last_second = None;
    let mut request = 0;
    while round.is_none_or(|round| started.elapsed() < round) {
        interval.tick().await;
        let seconds = started.elapsed().as_secs_f64();
        let second = started.elapsed().as_secs() % 60;
        if last_second.replace(second) != Some(second)
            && let Some((fault, words)) = faults.beginning_at(second)
        {
            fault.store(true, Ordering::Relaxed);
            super::story::fault(words);
        }
        // Load comes in waves of 20 s.
        let load = 3.0 + 2.0 * (seconds * std::f64::consts::TAU / 20.0).sin();
        for _ in 0..load.round() as usize {
            request += 1;
            for (stage, report) in one_request(request, &faults, &mut random) {
                let subject = format!("qoa.reports.default.object-detection.{stage}");
                client.publish(subject, report.to_string().into()).await?;
            }
        }
    }
    Ok(())
}

fn one_request(request: u64, faults: &Faults, random: &mut StdRng) -> Vec<(&'static str, Json)> {
    let on = |fault: &AtomicBool| fault.load(Ordering::Relaxed);
    let mut around = |middle: f64, spread: f64| middle * (1.0 + spread * (random.random::<f64>() - 0.5));
    let time = Timestamp::now();
    let report = |stage: &'static str, instance: &str, labels: Json, metrics: Json, inference: Json, upstream: Json| {
        let mut report = json!({
            "id": format!("{instance}-{request}"), "time": time, "application": "object-detection",
            "stage": stage, "instance": instance, "labels": labels, "metrics": metrics, "upstream": upstream,
        });
        if inference.is_object() {
            report["inference"] = inference;
        }
        (stage, report)
    };
    let gateway = around(0.003, 0.4);
    let preparation = around(0.006, 0.4);
    let mut reports =
        vec![report("gateway", "gw-0", json!({}), json!({"service.response_time": gateway}), Json::Null, json!([]))];
    if !on(&faults.missing_data) {
        let completeness = around(0.96, 0.05);
        let metrics = json!({"service.response_time": preparation, "data.completeness": completeness});
        reports.push(report("preprocessing", "pre-0", json!({}), metrics, Json::Null, json!(["gw-0"])));
    }
    let mut slowest: f64 = 0.0;
    let mut best: f64 = 0.0;
    for (instance, model, speed) in [("yolo-0", "yolov8n", 0.021), ("yolo-1", "yolov8s", 0.034)] {
        let slow = if instance == "yolo-1" && on(&faults.slow_detector) { 8.0 } else { 1.0 };
        let unsure = if instance == "yolo-0" && on(&faults.low_confidence) { 0.62 } else { 1.0 };
        let dear = if instance == "yolo-0" && on(&faults.high_cost) { 5.0 } else { 1.0 };
        let (duration, confidence) = (around(speed * slow, 0.5), around(0.86 * unsure, 0.2));
        slowest = slowest.max(duration);
        best = best.max(confidence);
        let metrics = json!({"service.response_time": duration, "ml.confidence": confidence, "cost.usd": around(0.0004 * dear, 0.2)});
        let inference =
            json!({"id": format!("i-{instance}-{request}"), "request": format!("q-{request}"), "prediction": "car"});
        let labels = json!({"model": model, "device": "edge-gpu"});
        reports.push(report("inference", instance, labels, metrics, inference, json!(["pre-0"])));
    }
    let total = gateway + preparation + slowest;
    let metrics = json!({"service.response_time": total, "service.late": total > 0.25, "ml.confidence": best});
    let inference = json!({
        "id": format!("i-{request}"), "request": format!("q-{request}"), "prediction": "car",
        "sources": [format!("i-yolo-0-{request}"), format!("i-yolo-1-{request}")],
    });
    reports.push(report("aggregation", "agg-0", json!({}), metrics, inference, json!(["yolo-0", "yolo-1"])));
    reports
}
