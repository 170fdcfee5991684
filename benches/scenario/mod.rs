//! What is measured: the reports and contracts of [`qualm::load`], and engines that hold them.

#![allow(dead_code)]

use std::sync::Arc;

use qualm::contract;
use qualm::engine::{Engine, Limits, Outputs, Program};
use qualm::report::{self, Report};

/// Two further objectives: on predictions joined with feedback, and on drift.
pub const QUALITY: &str = "    - {name: accurate, indicator: {attribute: prediction, aggregate: accuracy, window: 1m, every: 10s}, target: {min: 0}}
    - {name: usual, indicator: {attribute: ml.confidence, aggregate: psi, window: 1m, every: 10s, baseline: {first: 1m}}, target: {max: 9}}
";

/// An engine with contracts.
pub fn engine(contracts: impl IntoIterator<Item = String>) -> Engine {
    let mut engine = Engine::new(Limits::default());
    for text in contracts {
        let mut loaded = contract::load("bench.yaml", &text);
        let program = Program::compile(&mut loaded, |name| Err(name.to_owned())).expect("the contract is sound");
        engine.set_contract(Arc::new(program), &mut Outputs::default());
    }
    engine
}

/// Outputs that only count.
pub fn outputs() -> Outputs {
    Outputs { keep_evaluations: false, ..Outputs::default() }
}

/// Reports out of their text.
pub fn decoded(text: &str) -> Vec<Report<'_>> {
    let mut all = Vec::new();
    report::decode_all(text.as_bytes(), |_, one| all.push(one.expect("generated reports are sound").clone()));
    all
}
