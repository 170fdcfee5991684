//! ROHE: service contracts with performance targets, built-in metrics, and consumer-defined metrics
//! as expression trees.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::{Document, Imported, Objective, plain};

/// The window where ROHE states none; its checker looks at the newest thousand records.
const WINDOW: &str = "5m";
/// Expressions nest at most so deep.
const DEPTH_MAX: usize = 32;

/// Makes a contract of a ROHE service contract: the contract itself, or `{contract, cdms}` with the
/// consumer-defined metrics that it names.
pub fn import(source: &Json, name: &str) -> Result<Imported, String> {
    let contract = source.get("contract").unwrap_or(source);
    let text = |field: &str| contract[field].as_str();
    let Some(pipeline) = text("pipeline_id") else {
        return Err("no ROHE service contract: it has no `pipeline_id`".to_owned());
    };
    let name = text("contract_id").unwrap_or(name);
    let mut document = Document::new(name, "Imported from ROHE".to_owned(), pipeline);
    if let Some(tenant) = text("tenant_id") {
        document.spec.scope.insert("tenant".to_owned(), super::token(tenant).into());
    }
    let mut draft = Draft { document, notes: Vec::new(), metrics: BTreeMap::new(), actions: BTreeMap::new() };
    for (ours, theirs) in [("from", "effective_from"), ("until", "effective_until")] {
        if let Some(time) = text(theirs) {
            draft.effective(ours, time);
        }
    }
    for metric in source["cdms"].as_array().into_iter().flatten() {
        if let Some(name) = metric["name"].as_str() {
            draft.metrics.insert(name.to_owned(), metric.clone());
        }
    }
    draft.performance(&contract["performance_slo"]);
    for (name, threshold) in contract["quality_slo"]["builtin_metrics"].as_object().into_iter().flatten() {
        draft.builtin(name, threshold);
    }
    for (name, threshold) in contract["quality_slo"]["cdm_thresholds"].as_object().into_iter().flatten() {
        draft.consumer_defined(name, threshold);
    }
    for (kind, objectives) in std::mem::take(&mut draft.actions) {
        let action = json!({"name": kind, "on": {"objectives": objectives}, "do": {"kind": kind}});
        draft.document.spec.actions.push(action);
    }
    if draft.document.spec.objectives.is_empty() {
        return Err(format!("nothing of the contract has an equivalent:\n{}", draft.notes.join("\n")));
    }
    Ok(Imported { contract: draft.document, notes: draft.notes })
}

struct Draft {
    document: Document,
    notes: Vec<String>,
    /// Consumer-defined metrics by name.
    metrics: BTreeMap<String, Json>,
    /// Objectives by the action that their violation causes.
    actions: BTreeMap<String, Vec<String>>,
}

/// Where Qualm expects a metric of ROHE.
fn attribute(name: &str) -> (String, f64) {
    let (name, scale) = match name.strip_suffix("_ms") {
        Some(stem) => (stem, 0.001),
        None => match name.strip_suffix("_percent") {
            Some(stem) => (stem, 0.01),
            None => (name, 1.0),
        },
    };
    let name = plain(name);
    let category = match name.as_str() {
        "response_time" | "latency" | "inference_time" | "throughput" | "availability" | "error" | "error_rate" => {
            "service"
        }
        "completeness" | "validity" | "freshness" | "timeliness" => "data",
        "cost" => "cost",
        _ => "ml",
    };
    let name = if name == "latency" { "response_time".to_owned() } else { name };
    (format!("{category}.{name}"), scale)
}

impl Draft {
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn effective(&mut self, field: &str, time: &str) {
        // ROHE's times may lack a zone; they are taken as UTC.
        let zoned = [time.to_owned(), format!("{time}Z")].into_iter().find_map(|text| text.parse().ok());
        match zoned {
            Some(time) => {
                let time: crate::time::Timestamp = time;
                self.document.spec.effective.insert(field.to_owned(), time.to_string().into());
            }
            None => self.note(format!("effective_{field} {time:?} is not a time and is left out")),
        }
    }

    fn performance(&mut self, targets: &Json) {
        let response = "service.response_time";
        let known = [
            ("response_time_p50_ms", response, "p50", "max", 0.001),
            ("response_time_p99_ms", response, "p99", "max", 0.001),
            ("throughput_rps", response, "rate", "min", 1.0),
            ("availability_percent", "service.availability", "mean", "min", 0.01),
        ];
        for (field, target) in targets.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let Some((_, attribute, aggregate, side, scale)) = known.iter().find(|(name, ..)| name == field) else {
                self.note(format!("performance_slo.{field} has no equivalent"));
                continue;
            };
            let Some(number) = target.as_f64() else {
                self.note(format!("performance_slo.{field}: {target} is not a number"));
                continue;
            };
            let number = (number * scale * 1e12).round() / 1e12;
            let indicator = json!({"attribute": attribute, "aggregate": aggregate, "window": WINDOW});
            let mut bound = Map::new();
            bound.insert((*side).to_owned(), number.into());
            let name = field.trim_end_matches("_ms").trim_end_matches("_percent").to_owned();
            self.document.add(Objective { name, indicator: Some(indicator), target: Some(bound.into()), rule: None });
            if field == "throughput_rps" {
                self.note(format!("{field} is counted as response times a second"));
            }
        }
    }

    fn builtin(&mut self, name: &str, threshold: &Json) {
        let (attribute, scale) = attribute(name);
        let window = threshold["window"].as_str().unwrap_or(WINDOW);
        let indicator = json!({"attribute": attribute, "aggregate": "mean", "window": window});
        self.note(format!("{name} is expected as the attribute {attribute}"));
        let Some(target) = self.target(name, threshold, scale) else { return };
        let objective =
            Objective { name: name.to_owned(), indicator: Some(indicator), target: Some(target), rule: None };
        let objective = self.document.add(objective);
        self.acts(&objective, threshold);
    }

    fn target(&mut self, what: &str, threshold: &Json, scale: f64) -> Option<Json> {
        let operator = threshold["operator"].as_str().unwrap_or_default();
        let Some(value) = threshold["value"].as_f64() else {
            self.note(format!("{what}: threshold {} is not a number", threshold["value"]));
            return None;
        };
        let value = (value * scale * 1e12).round() / 1e12;
        if matches!(operator, "<" | ">") {
            self.note(format!("{what}: the bound itself is allowed too, since targets include it"));
        }
        match operator {
            "<" | "<=" => Some(json!({"max": value})),
            ">" | ">=" => Some(json!({"min": value})),
            "==" => Some(json!({"equals": value})),
            "!=" => Some(json!({"not_in": [value]})),
            _ => {
                self.note(format!("{what}: operator {operator:?} has no equivalent"));
                None
            }
        }
    }

    /// `alert` is what every violation does; the other actions become actions.
    fn acts(&mut self, objective: &str, threshold: &Json) {
        if let Some(kind) = threshold["action_on_violation"].as_str().filter(|kind| *kind != "alert") {
            self.actions.entry(super::identifier(kind)).or_default().push(objective.to_owned());
        }
    }

    fn consumer_defined(&mut self, name: &str, threshold: &Json) {
        let Some(metric) = self.metrics.get(name).cloned() else {
            return self.note(format!("the consumer-defined metric {name} is not in the file; put it into `cdms`"));
        };
        if metric["metric_type"] == "per_request" {
            self.note(format!("{name} is meant for each request; it is judged over windows"));
        }
        let window = threshold["window"].as_str().or(metric["window"].as_str()).unwrap_or(WINDOW).to_owned();
        let mut inputs = Map::new();
        let expression = match self.expression(&metric["expression"], &window, &mut inputs, &mut vec![name.to_owned()])
        {
            Ok(expression) => expression,
            Err(fault) => return self.note(format!("{name}: {fault}")),
        };
        let added = match (&expression, inputs.len()) {
            // A leaf by itself needs no script.
            (Json::String(only), 1) => {
                let Some(target) = self.target(name, threshold, 1.0) else { return };
                let indicator = inputs.remove(only);
                self.document.add(Objective { name: name.to_owned(), indicator, target: Some(target), rule: None })
            }
            _ => {
                let (operator, value) = (&threshold["operator"], &threshold["value"]);
                let rule = json!({
                    "policy": "expression.rhai", "function": "threshold", "inputs": inputs,
                    "params": {"expression": expression, "operator": operator, "value": value},
                });
                self.document.add(Objective { name: name.to_owned(), rule: Some(rule), ..Objective::default() })
            }
        };
        self.acts(&added, threshold);
    }

    /// An expression as the script takes it: the name of an input, or `{ratio: [a, b]}`.
    fn expression(
        &mut self,
        node: &Json,
        window: &str,
        inputs: &mut Map<String, Json>,
        within: &mut Vec<String>,
    ) -> Result<Json, String> {
        if within.len() > DEPTH_MAX {
            return Err("the expression nests too deeply".to_owned());
        }
        let kind = node["type"].as_str().unwrap_or_default();
        match kind {
            "cdm_ref" => {
                let name = node["cdm_ref"].as_str().unwrap_or_default().to_owned();
                if within.contains(&name) {
                    return Err(format!("it refers to itself by way of {name}"));
                }
                let metric = self
                    .metrics
                    .get(&name)
                    .cloned()
                    .ok_or_else(|| format!("it refers to {name}, which is not in the file"))?;
                within.push(name);
                let found = self.expression(&metric["expression"], window, inputs, within);
                within.pop();
                found
            }
            "ratio" => {
                let operands = node["operands"].as_array().map(Vec::as_slice).unwrap_or_default();
                let [above, below] = operands else { return Err("a ratio has two operands".to_owned()) };
                within.push(String::new());
                let parts =
                    [self.expression(above, window, inputs, within)?, self.expression(below, window, inputs, within)?];
                within.pop();
                Ok(json!({"ratio": parts}))
            }
            "count" | "sum" | "avg" | "min" | "max" | "percentile" => {
                let indicator = self.leaf(kind, node, window)?;
                let known = inputs.iter().find(|(_, known)| **known == indicator).map(|(name, _)| name.clone());
                let name = known.unwrap_or_else(|| format!("{kind}_{}", inputs.len() + 1));
                inputs.insert(name.clone(), indicator);
                Ok(name.into())
            }
            other => Err(format!("expression type {other:?} has no equivalent")),
        }
    }

    fn leaf(&mut self, kind: &str, node: &Json, window: &str) -> Result<Json, String> {
        let filters = node["filters"].as_object().cloned().unwrap_or_default();
        let named = ["name", "metric_name"].into_iter().find_map(|field| filters.get(field)?.as_str());
        let Some(metric) = named else {
            return Err(format!(
                "`{kind}` without a filter on `name` mixes all metrics; Qualm aggregates one attribute"
            ));
        };
        let (attribute, scale) = attribute(metric);
        if scale != 1.0 {
            return Err(format!("`{metric}` is in other units than the attribute {attribute}; restate the threshold"));
        }
        self.note(format!("{metric} is expected as the attribute {attribute}"));
        let aggregate = match kind {
            "avg" => "mean".to_owned(),
            "percentile" => {
                let share = node["percentile_value"].as_f64().filter(|share| *share > 0.0 && *share < 1.0);
                let share = share.ok_or("a percentile has a percentile_value between 0 and 1")?;
                self.note("percentiles are the nearest rank, not interpolated".to_owned());
                format!("p{}", (share * 1e8).round() / 1e6)
            }
            other => other.to_owned(),
        };
        let mut indicator = json!({"attribute": attribute, "aggregate": aggregate, "window": window});
        let conditions =
            filters.iter().filter(|(field, _)| !matches!(field.as_str(), "name" | "metric_name" | "pipeline_id"));
        let conditions: Map<String, Json> = conditions.map(|(field, value)| (field.clone(), value.clone())).collect();
        if !conditions.is_empty() {
            indicator["where"] = conditions.into();
        }
        Ok(indicator)
    }
}
