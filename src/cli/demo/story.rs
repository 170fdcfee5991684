//! What the demo tells its audience.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Instant;

use futures::StreamExt;
use serde_json::Value as Json;

use crate::explain::Why;

static START: OnceLock<Instant> = OnceLock::new();

/// Counts the demo's seconds.
pub(super) struct Clock;

impl Clock {
    pub(super) fn start() -> Clock {
        START.get_or_init(Instant::now);
        Clock
    }
}

fn line(mark: &str, code: &str, text: &str) {
    let seconds = START.get().map_or(0.0, |start| start.elapsed().as_secs_f64());
    let mark = if super::super::colours() { format!("\x1b[1;{code}m{mark:9}\x1b[0m") } else { format!("{mark:9}") };
    // Whoever stopped listening will hear no more.
    let _ = writeln!(std::io::stdout(), "{seconds:5.1} s  {mark}  {text}");
}

pub(super) fn introduce(nats: &str, address: SocketAddr) {
    let text = format!(
        "An object-detection pipeline (gateway, preprocessing, two detectors, aggregation) reports to Qualm.\n\
         Its contract promises speed, confidence, cost and complete data. Now things break.\n\n  \
         violations   http://{address}/v1/violations\n  \
         contract     http://{address}/v1/contracts/object-detection/status\n  \
         metrics      http://{address}/metrics\n  \
         NATS         {nats}, subjects qoa.>\n\n"
    );
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub(super) fn fault(words: &str) {
    line("fault", "35", words);
}

pub(super) fn mended(kind: &str, words: &str) {
    line("done", "36", &format!("{kind}: {words}"));
}

/// Tells of violations and actions as they leave the service.
pub(super) async fn tell(client: async_nats::Client, _clock: Clock) -> anyhow::Result<()> {
    let violations = client.subscribe("qoa.violations.>").await?;
    let actions = client.subscribe("qoa.actions.>").await?;
    let mut events = futures::stream::select(violations, actions);
    while let Some(message) = events.next().await {
        let event: Json = serde_json::from_slice(&message.payload)?;
        let data = &event["data"];
        let text = |name: &str| data[name].as_str().unwrap_or_default();
        let about = format!("{}: {}", text("objective"), text("message"));
        match event["type"].as_str() {
            Some("qualm.violation.opened") => line("violation", "31", &about),
            Some("qualm.violation.resolved") => line("resolved", "32", &about),
            Some("qualm.action.requested") => {
                line("action", "33", &format!("{} {} because of {}", text("kind"), data["params"], text("objective")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The sum of it, and one explanation.
pub(super) async fn conclude(address: SocketAddr, forever: bool) {
    let server = format!("http://{address}");
    let Ok(bytes) = super::super::get(&format!("{server}/v1/violations?limit=500"), None).await else { return };
    let list: Json = serde_json::from_slice(&bytes).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let resolved = items.iter().filter(|item| item["state"] == "resolved").count();
    let _ = writeln!(std::io::stdout(), "\n{} violations opened, {resolved} of them resolved.", items.len());
    let first = items.iter().rev().find(|item| item["objective"] == "fast-detection").or(items.last());
    if let Some(id) = first.and_then(|item| item["id"].as_str())
        && let Ok(bytes) = super::super::get(&format!("{server}/v1/explain/why?violation={id}"), None).await
        && let Ok(why) = serde_json::from_slice::<Why>(&bytes)
    {
        let _ = writeln!(std::io::stdout(), "\n$ qualm explain why {id}\n{}", why.text());
    }
    if !forever {
        let _ = writeln!(std::io::stdout(), "To look around while it runs: qualm demo --forever");
    }
}
