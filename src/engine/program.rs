//! A contract made ready to run.

use std::sync::Arc;

use serde_json::Value as Json;
use uuid::Uuid;

use super::aggregate::Gauge;
use super::verdict::{SeriesKey, SeriesLabels};
use crate::contract::{Aggregate, Contract, Indicator, Objective, Promise};
use crate::policy::Policies;
use crate::time::{Span, Timestamp};

/// Namespace of all derived ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x5155_414c_4d00_5000_8000_7175_616c_6d31);

/// One version of a contract with its compiled policies.
pub struct Program {
    /// The contract.
    pub contract: Contract,
    /// Its scripts.
    pub policies: Policies,
    /// Its objectives.
    pub promises: Vec<Arc<Promised>>,
}

/// One objective, made ready to run.
#[derive(Debug)]
pub struct Promised {
    /// The contract's name.
    pub contract: String,
    /// The contract's version.
    pub version: String,
    /// The objective.
    pub objective: Objective,
    /// What is measured for it.
    pub inputs: Vec<Input>,
    /// Labels that split it into judged series.
    pub group_by: Vec<String>,
    /// Digest of what is promised: indicators, target or rule.
    pub measure: String,
}

/// One indicator, made ready to run.
#[derive(Debug)]
pub struct Input {
    /// Its name in a rule; empty for a plain indicator.
    pub name: String,
    /// What it is.
    pub indicator: Indicator,
    /// How it is aggregated.
    pub gauge: Gauge,
    /// Width of its panes; zero for `each`.
    pub every: Span,
    /// Its window; zero for `each`.
    pub window: Span,
}

impl Program {
    /// Prepares a contract.
    pub fn new(contract: Contract, policies: Policies) -> Program {
        let promises = contract.spec.objectives.iter().map(|objective| Arc::new(Promised::new(&contract, objective)));
        let promises = promises.collect();
        Program { contract, policies, promises }
    }

    /// The contract's name.
    pub fn name(&self) -> &str {
        &self.contract.metadata.name
    }
}

impl Promised {
    fn new(contract: &Contract, objective: &Objective) -> Promised {
        let inputs = objective.indicators().into_iter().map(|(name, indicator)| Input {
            name: name.to_owned(),
            indicator: indicator.clone(),
            gauge: Gauge::new(indicator, objective.target()),
            every: indicator.every(),
            window: indicator.window(),
        });
        let group_by = match &objective.promise {
            Promise::Target { indicator, .. } => indicator.group_by.clone(),
            Promise::Rule { .. } => Vec::new(),
        };
        Promised {
            contract: contract.metadata.name.clone(),
            version: contract.metadata.version.clone(),
            objective: objective.clone(),
            inputs: inputs.collect(),
            group_by,
            measure: measure(&objective.promise),
        }
    }

    /// Whether every observation is judged by itself.
    pub fn is_each(&self) -> bool {
        self.inputs.iter().any(|input| input.indicator.aggregate == Aggregate::Each)
    }

    /// The time between two judgements.
    pub fn every(&self) -> Span {
        self.objective.every()
    }

    /// What stands as `aggregate` in evaluations.
    pub fn aggregate(&self) -> String {
        match &self.objective.promise {
            Promise::Target { indicator, .. } => indicator.aggregate.to_string(),
            Promise::Rule { .. } => "rule".to_owned(),
        }
    }

    /// What is measured, in words.
    pub fn indicator_words(&self) -> String {
        match &self.objective.promise {
            Promise::Target { indicator, .. } if indicator.aggregate == Aggregate::Each => indicator.attribute.clone(),
            Promise::Target { indicator, .. } if indicator.aggregate == Aggregate::Ratio => match &indicator.good {
                Some(good) => format!("share of {} {good}", indicator.attribute),
                None => format!("share of {}", indicator.attribute),
            },
            Promise::Target { indicator, .. } => format!("{} of {}", indicator.aggregate, indicator.attribute),
            Promise::Rule { rule } => format!("rule {} of {}", rule.function, rule.policy),
        }
    }

    /// The id of a violation: the same on every run over the same reports.
    pub fn violation_id(&self, series: &SeriesKey, end: Timestamp) -> Uuid {
        let labels = serde_json::to_string(&SeriesLabels(&self.group_by, series)).unwrap_or_default();
        let name = [&self.contract, &self.objective.name, labels.as_str(), &end.to_string()].join("\u{1f}");
        Uuid::new_v5(&NAMESPACE, name.as_bytes())
    }

    /// A series key as a JSON object.
    pub fn labels(&self, series: &SeriesKey) -> Json {
        serde_json::to_value(SeriesLabels(&self.group_by, series)).unwrap_or_default()
    }
}

/// An id derived from another and a name.
pub fn derived_id(parent: Uuid, name: &str) -> Uuid {
    Uuid::new_v5(&parent, name.as_bytes())
}

fn measure(promise: &Promise) -> String {
    let text = serde_json::to_string(promise).unwrap_or_default();
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}
