//! Contracts of other tools made into Qualm's, and what of them has no equivalent.
//!
//! One file a format. An import is a draft for people: it says what it assumed, and what it left out.

use serde::Serialize;
use serde_json::{Map, Value as Json};

mod qoa4ml;
mod rohe;

pub use qoa4ml::import as qoa4ml;
pub use rohe::import as rohe;

/// The script that judges imported expressions, as it stands in `policies/`.
pub const EXPRESSION_SCRIPT: &str = include_str!("../policies/expression.rhai");

/// What an import gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The contract, ready to be written out.
    pub contract: Document,
    /// What was assumed or has no equivalent, a sentence each.
    pub notes: Vec<String>,
}

impl Imported {
    /// Whether it needs [`EXPRESSION_SCRIPT`].
    pub fn needs_script(&self) -> bool {
        self.contract.spec.objectives.iter().any(|objective| objective.rule.is_some())
    }

    /// As a YAML file, the notes as comments at its head.
    pub fn yaml(&self) -> String {
        let text = serde_json::to_string(&self.contract).expect("it has text keys only and serializes without errors");
        let mut yaml = String::new();
        self.notes.iter().for_each(|note| yaml.push_str(&format!("# - {note}\n")));
        // JSON is YAML, so the parser takes it; fields keep their order.
        if let Ok(documents) = saphyr::LoadableYamlNode::load_from_str(&text) {
            let documents: Vec<saphyr::Yaml<'_>> = documents;
            for document in &documents {
                let mut body = String::new();
                let written = saphyr::YamlEmitter::new(&mut body).dump(document);
                debug_assert!(written.is_ok(), "writing into a string does not fail");
                yaml.push_str(body.trim_start_matches("---\n"));
                yaml.push('\n');
            }
        }
        yaml
    }
}

/// A contract with only what was imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Metadata {
    name: String,
    version: &'static str,
    description: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Spec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parties: Vec<Json>,
    scope: Map<String, Json>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    effective: Map<String, Json>,
    objectives: Vec<Objective>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actions: Vec<Json>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Objective {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    indicator: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Json>,
}

impl Document {
    fn new(name: &str, description: String, application: &str) -> Document {
        let mut spec = Spec::default();
        spec.scope.insert("application".to_owned(), token(application).into());
        let metadata = Metadata { name: identifier(name), version: "1.0.0", description };
        Document { api_version: "qualm/v1", kind: "Contract", metadata, spec }
    }

    /// Adds an objective, under a name that no other has.
    fn add(&mut self, mut objective: Objective) -> String {
        let wanted = identifier(&objective.name);
        let taken = |name: &str, all: &[Objective]| all.iter().any(|other| other.name == name);
        let mut name = wanted.clone();
        let mut number = 2;
        while taken(&name, &self.spec.objectives) {
            name = format!("{wanted}-{number}");
            number += 1;
        }
        objective.name.clone_from(&name);
        self.spec.objectives.push(objective);
        name
    }
}

/// A text as the name of something in a contract.
fn identifier(text: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' };
    let mut name: String = text.chars().map(letter).collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    let name: String = name.trim_matches('-').chars().take(60).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// A text as a token of a NATS subject.
fn token(text: &str) -> String {
    let letter = |c: char| if c.is_whitespace() || matches!(c, '.' | '*' | '>') { '_' } else { c };
    let token: String = text.chars().map(letter).take(100).collect();
    if token.is_empty() { "unnamed".to_owned() } else { token }
}

/// A text as part of an attribute's name.
fn plain(text: &str) -> String {
    let mut name = String::new();
    for (index, c) in text.chars().enumerate() {
        // CamelCase becomes snake_case.
        if c.is_ascii_uppercase() && index > 0 && !name.ends_with('_') {
            name.push('_');
        }
        name.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    }
    name
}
