//! QoA4ML: contracts of version 0.3, and the older form whose constraints are keyed by name.

use serde_json::{Map, Value as Json, json};

use super::{Document, Imported, Objective, plain};
use crate::report::qoa4ml::{category_of, scale};

/// The window of aggregates; QoA4ML states none.
const WINDOW: &str = "1m";

/// Makes a contract of a QoA4ML one. `application` is the one that its reports name.
pub fn import(source: &Json, name: &str, application: &str) -> Result<Imported, String> {
    let Some(quality) = source.get("quality").and_then(Json::as_object) else {
        return Err("no QoA4ML contract: it has no `quality`".to_owned());
    };
    let contract = Document::new(name, "Imported from QoA4ML".to_owned(), application);
    let mut draft = Draft { contract, notes: Vec::new(), windows: false };
    draft.notes.push(format!(
        "QoA4ML names no application; `{}` is assumed",
        draft.contract.spec.scope["application"].as_str().unwrap_or_default()
    ));
    for stakeholder in source["stakeholders"].as_array().into_iter().flatten() {
        draft.party(stakeholder);
    }
    let older = ["cost", "fairness", "interpretability", "privacy", "security"]
        .into_iter()
        .filter_map(|section| Some((section, source.get(section)?)));
    for (section, constraints) in quality.iter().map(|(name, value)| (name.as_str(), value)).chain(older) {
        draft.section(section, constraints);
    }
    if source.get("resources").is_some() {
        draft.notes.push("`resources` describe what is used, not what is promised: they have no equivalent".to_owned());
    }
    if draft.windows {
        draft.notes.push(format!("QoA4ML aggregates state no window; {WINDOW} is assumed"));
    }
    if draft.contract.spec.objectives.is_empty() {
        return Err(format!("nothing of the contract has an equivalent:\n{}", draft.notes.join("\n")));
    }
    Ok(Imported { contract: draft.contract, notes: draft.notes })
}

struct Draft {
    contract: Document,
    notes: Vec<String>,
    /// Whether a window was assumed.
    windows: bool,
}

/// One text or several.
fn texts(json: &Json) -> Vec<String> {
    match json {
        Json::String(text) => vec![text.clone()],
        Json::Array(items) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

impl Draft {
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn party(&mut self, stakeholder: &Json) {
        let Some(id) = stakeholder["id"].as_str() else {
            return self.note("a stakeholder has no id and is left out".to_owned());
        };
        let roles = texts(&stakeholder["roles"]);
        let role = match roles.first().map(String::as_str) {
            Some("ml_provider") => "provider",
            Some("ml_infrastructure" | "inf_provider") => "infrastructure",
            Some("ml_user" | "ml_consumer" | "ml_customer") => "consumer",
            _ => "other",
        };
        if roles.len() > 1 {
            self.note(format!("stakeholder {id} has several roles ({}); the first counts", roles.join(", ")));
        }
        let mut party = json!({"id": super::identifier(id), "role": role});
        let provides = texts(&stakeholder["provisioning"]);
        if !provides.is_empty() {
            party["provides"] = json!(provides);
        }
        self.contract.spec.parties.push(party);
    }

    fn section(&mut self, section: &str, constraints: &Json) {
        let category = match section {
            "service" | "services" => "service",
            "data" => "data",
            "ml_specific" | "mlmodels" => "ml",
            "cost" => "cost",
            "fairness" => "fairness",
            _ => return self.note(format!("`{section}` states no measured quality: it has no equivalent")),
        };
        match constraints {
            Json::Array(items) => items.iter().for_each(|item| match item["constraint_list"].as_array() {
                Some(list) => list.iter().for_each(|constraint| self.constraint(category, constraint)),
                None => self.named(section, category, item),
            }),
            Json::Object(_) => self.named(section, category, constraints),
            _ => {}
        }
    }

    /// A `MetricConstraint` of version 0.3.
    fn constraint(&mut self, category: &str, constraint: &Json) {
        let metric = &constraint["metrics"];
        let Some(name) = metric["metric_name"].as_str() else {
            return self.note(format!("a constraint of {category} names no metric and is left out"));
        };
        let what = format!("{category} {name}");
        if category == "fairness" {
            let way = "write an objective with `aggregate: disparity`, `of` and `across`";
            return self
                .note(format!("{what}: fairness is compared between groups, which QoA4ML does not name; {way}"));
        }
        let aggregate = match constraint["aggregate_function"].as_str().unwrap_or_default() {
            "MIN" | "AND" => "min",
            "MAX" | "OR" => "max",
            "AVERAGE" => "mean",
            "SUM" => "sum",
            "COUNT" => "count",
            other => return self.note(format!("{what}: aggregate function {other:?} has no equivalent")),
        };
        let scale = if aggregate == "count" { 1.0 } else { scale(metric["unit"].as_str()) };
        let operator = constraint["condition"]["operator"].as_str().unwrap_or_default();
        let Some(target) = self.target(&what, operator, &constraint["condition"]["value"], scale) else { return };
        self.windows = true;
        let attribute = format!("{}.{}", category_of(category, name), plain(name));
        let indicator = json!({"attribute": attribute, "aggregate": aggregate, "window": WINDOW});
        let name = format!("{category}-{name}");
        self.contract.add(Objective { name, indicator: Some(indicator), target: Some(target), rule: None });
    }

    /// Constraints of the older form, keyed by name. QoA4ML's policy checks each report by them.
    fn named(&mut self, section: &str, category: &str, constraints: &Json) {
        for (name, constraint) in constraints.as_object().into_iter().flatten() {
            let what = format!("{section} {name}");
            if category == "fairness" {
                let way = "write an objective with `aggregate: disparity`, `of` and `across`";
                self.note(format!("{what}: fairness is compared between groups, which QoA4ML does not name; {way}"));
                continue;
            }
            if constraint["value"].as_f64().is_none() {
                self.note(format!("{what}: it holds no number to keep, and has no equivalent"));
                continue;
            }
            let operators = texts(&constraint["operators"]);
            let [operator] = operators.as_slice() else {
                self.note(format!("{what}: it has not one operator but {}", operators.len()));
                continue;
            };
            let scale = scale(constraint["unit"].as_str());
            let Some(target) = self.target(&what, operator, &constraint["value"], scale) else { continue };
            let machines = texts(&constraint["machinetypes"]);
            let mut indicator = Map::new();
            indicator.insert("attribute".to_owned(), format!("{category}.{}", plain(name)).into());
            indicator.insert("aggregate".to_owned(), "each".into());
            if !machines.is_empty() {
                indicator.insert("where".to_owned(), json!({"machinetype": machines}));
                self.note(format!("{what}: reports must carry the label `machinetype` ({})", machines.join(", ")));
            }
            let name =
                std::iter::once(format!("{category}-{}", plain(name))).chain(machines).collect::<Vec<_>>().join("-");
            self.contract.add(Objective { name, indicator: Some(indicator.into()), target: Some(target), rule: None });
        }
    }

    fn target(&mut self, what: &str, operator: &str, value: &Json, scale: f64) -> Option<Json> {
        // To 12 digits, so that 80 % is 0.8.
        let scaled = |value: &Json| value.as_f64().map(|number| (number * scale * 1e12).round() / 1e12);
        if matches!(operator, "less_than" | "greater_than") {
            self.note(format!("{what}: the bound itself is allowed too, since targets include it"));
        }
        let found = match operator {
            "less_equal" | "less_than" | "max" => scaled(value).map(|number| json!({"max": number})),
            "greater_equal" | "greater_than" | "min" => scaled(value).map(|number| json!({"min": number})),
            "equal" => scaled(value).map(|number| json!({"equals": number})),
            "range" => {
                let end = |names: [&str; 4], at: usize| {
                    names.iter().find_map(|name| scaled(value.get(name)?)).or_else(|| scaled(value.get(at)?))
                };
                let (low, high) = (end(["min", "lower", "low", "from"], 0), end(["max", "upper", "high", "to"], 1));
                low.zip(high).map(|(low, high)| json!({"range": [low, high]}))
            }
            _ => None,
        };
        if found.is_none() {
            self.note(format!("{what}: condition {operator:?} {value} has no equivalent"));
        }
        found
    }
}
