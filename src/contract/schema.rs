//! The JSON Schema of contracts, and its faults in words.

use std::sync::LazyLock;

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{ValidationError, Validator};
use serde_json::Value as Json;

use super::aggregate_names;

/// The JSON Schema of contracts, as `qualm schema contract` prints it.
pub const SCHEMA: &str = include_str!("schema.json");

static ROOT: LazyLock<Json> =
    LazyLock::new(|| serde_json::from_str(SCHEMA).expect("the schema is JSON: a test parses it"));
static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&ROOT).expect("the schema is valid: a test builds it"));

/// A fault that the schema finds.
pub(super) struct Fault {
    /// JSON pointer to the value (or, for an unknown field, to the field).
    pub(super) pointer: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

pub(super) fn check(document: &Json) -> Vec<Fault> {
    let mut faults: Vec<Fault> = VALIDATOR.iter_errors(document).flat_map(|error| in_words(&error)).collect();
    faults.sort_by(|a, b| (&a.pointer, &a.message).cmp(&(&b.pointer, &b.message)));
    faults.dedup_by(|a, b| a.pointer == b.pointer);
    faults
}

fn in_words(error: &ValidationError<'_>) -> Vec<Fault> {
    let pointer = error.instance_path().to_string();
    let fault = |pointer: String, message: String, hint: Option<String>| Fault { pointer, message, hint };
    let field = field_of(&pointer);
    match error.kind() {
        Kind::Type { .. } if pointer.is_empty() => {
            let hint = "write apiVersion, kind, metadata and spec; see `qualm schema contract`".to_owned();
            vec![fault(pointer, "a contract is a mapping of fields".to_owned(), Some(hint))]
        }
        Kind::Constant { expected_value } => {
            vec![fault(pointer, format!("`{field}` must be {expected_value}"), None)]
        }
        Kind::AdditionalProperties { unexpected } => {
            let known = known_fields(error);
            unexpected
                .iter()
                .map(|name| {
                    let hint = match nearest(name, known.iter().map(String::as_str)) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("known fields here: {}", known.join(", ")),
                    };
                    let at = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                    fault(at, format!("unknown field `{name}`"), Some(hint))
                })
                .collect()
        }
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let place = if field.is_empty() { "the contract".to_owned() } else { format!("`{field}`") };
            vec![fault(pointer, format!("missing field `{name}`"), Some(format!("{place} needs it")))]
        }
        _ if field == "aggregate" && error.instance().is_string() => {
            let name = error.instance().as_str().unwrap_or_default();
            let common = ["p99", "p95", "p90", "p50", "p99.9"];
            let hint = match nearest(name, aggregate_names().chain(common)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("known aggregates: {}", aggregate_names().collect::<Vec<_>>().join(", ")),
            };
            vec![fault(pointer, format!("unknown aggregate \"{name}\""), Some(hint))]
        }
        Kind::Enum { options } => {
            let texts: Vec<&str> = options.as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            let near = error.instance().as_str().and_then(|name| nearest(name, texts.iter().copied()));
            let hint = match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("one of: {}", texts.join(", ")),
            };
            vec![fault(pointer, format!("`{field}` cannot be {}", error.instance()), Some(hint))]
        }
        Kind::Type { .. } => {
            let hint = error.instance().is_number().then(|| "quote it if text is meant".to_owned());
            vec![fault(pointer, format!("`{field}`: {error}"), hint)]
        }
        _ => {
            let hint = written_hint(error);
            let message = match (&hint, error.instance().as_ref()) {
                (Some(_), Json::Object(_)) => format!("`{field}` is not complete"),
                (Some(_), value) => format!("`{field}` cannot be {value}"),
                (None, _) => format!("`{field}`: {error}"),
            };
            vec![fault(pointer, message, hint)]
        }
    }
}

/// The schema node that holds the failing keyword.
fn schema_node(error: &ValidationError<'_>) -> Option<&'static Json> {
    let keyword = error.schema_path().to_string();
    let (parent, _) = keyword.rsplit_once('/')?;
    ROOT.pointer(parent)
}

fn known_fields(error: &ValidationError<'_>) -> Vec<String> {
    schema_node(error)
        .and_then(|node| node.get("properties")?.as_object())
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

fn written_hint(error: &ValidationError<'_>) -> Option<String> {
    Some(schema_node(error)?.get("errorMessage")?.as_str()?.to_owned())
}

/// The candidate that a misspelling most likely means: at most two edits away, and fewer
/// than half of its letters.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= 2 && edits * 2 < candidate.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// The last part of a pointer; for an item of a list, with the list's name.
fn field_of(pointer: &str) -> String {
    let mut parts = pointer.rsplit('/');
    let last = parts.next().unwrap_or_default();
    match (last.parse::<usize>(), parts.next()) {
        (Ok(index), Some(list)) => format!("{list}[{index}]"),
        _ => last.to_owned(),
    }
}
