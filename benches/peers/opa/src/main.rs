//! Evaluates the policy on each report of a file: prints reports, violations, seconds.

use std::time::Instant;

use regorus::{Engine, Value};

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).expect("usage: opa REPORTS");
    let mut engine = Engine::new();
    engine.set_rego_v0(true);
    engine.add_policy("policy.rego".to_owned(), include_str!("../policy.rego").to_owned())?;
    let contract = r#"{"contract": {"response_time": {"max": 0.2}, "confidence": {"min": 0.5},
        "devices": ["jetson-0", "jetson-1", "jetson-2", "jetson-3", "jetson-4", "jetson-5", "jetson-6", "jetson-7"]}}"#;
    engine.add_data(Value::from_json_str(contract)?)?;
    let text = std::fs::read_to_string(file)?;
    let (mut reports, mut violations) = (0, 0);
    let started = Instant::now();
    for line in text.lines() {
        engine.set_input(Value::from_json_str(line)?);
        let violated = engine.eval_rule("data.qualm.peer.contract_violation".to_owned())?;
        violations += u64::from(violated == Value::Bool(true));
        reports += 1;
    }
    println!("{reports} {violations} {}", started.elapsed().as_secs_f64());
    Ok(())
}
