//! Carries out the actions that Qualm asks for: mends the fault, and answers the outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value as Json, json};

use super::simulator::Faults;

pub(super) async fn run(client: async_nats::Client, faults: Arc<Faults>) -> anyhow::Result<()> {
    let mut actions = client.subscribe("qoa.actions.>").await?;
    while let Some(message) = actions.next().await {
        let event: Json = serde_json::from_slice(&message.payload)?;
        tokio::spawn(carry_out(client.clone(), faults.clone(), event));
    }
    Ok(())
}

async fn carry_out(client: async_nats::Client, faults: Arc<Faults>, event: Json) {
    let action = &event["data"];
    let text = |name: &str| action[name].as_str().unwrap_or_default().to_owned();
    let (kind, subject) = (text("kind"), text("outcome_subject"));
    let (fault, done) = match kind.as_str() {
        "scale" => (&faults.slow_detector, "two replicas share the load of yolo-1"),
        "retrain" => (&faults.low_confidence, "yolov8n was trained on last week's images"),
        "reroute" => (&faults.high_cost, "requests go to the cheapest device"),
        "restart" => (&faults.missing_data, "preprocessing runs again"),
        _ => {
            let outcome = json!({"state": "failed", "message": format!("nobody here can {kind}")});
            let _ = client.publish(subject, outcome.to_string().into()).await;
            return;
        }
    };
    for (state, message, pause) in [
        ("accepted", None, Duration::from_millis(300)),
        ("running", None, Duration::from_millis(1_700)),
        ("succeeded", Some(done), Duration::ZERO),
    ] {
        let outcome = json!({"state": state, "message": message});
        let _ = client.publish(subject.clone(), outcome.to_string().into()).await;
        tokio::time::sleep(pause).await;
    }
    fault.store(false, Ordering::Relaxed);
    super::story::mended(&kind, done);
}
