//! Reports of the QoA4ML client: `MLReport` and `RoheReport`, recognised by their shape.
//!
//! A report carries the metrics of its own instance and again those of the stages before it,
//! by instance id. Its own become the report's metrics, the others [`Relayed`] ones. Times of
//! metrics are in seconds there as here; percentages become ratios, milliseconds seconds.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value as Json;
use xxhash_rust::xxh3::xxh3_128;

use super::native::Refusal;
use super::{Inference, Labels, Metrics, Pairs, Prediction, Reason, Relayed, Report, Text, Value};
use crate::time::Timestamp;

/// Quality attributes of models, which clients report as metrics of the service.
const OF_MODELS: [&str; 9] = ["accuracy", "auc", "confidence", "f1", "f1_score", "mse", "precision", "recall", "loss"];

/// Whether a message is meant to be of this format: a cheap look before it is parsed.
pub(super) fn is_meant(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"\"client_config\"").is_some()
}

/// Decodes one report.
pub(super) fn decode(bytes: &[u8]) -> Result<Report<'_>, Refusal> {
    let wire: Wire<'_> = serde_json::from_slice(bytes)
        .map_err(|error| Refusal { reason: Reason::Shape, message: format!("not a QoA4ML report: {error}") })?;
    wire.into_report(bytes)
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, flatten)]
    own: Stages<'a>,
    /// Of a `RoheReport`: the stages stand in it.
    #[serde(borrow, default)]
    inference_report: Option<Stages<'a>>,
    #[serde(borrow, default)]
    execution_graph: Option<ExecutionGraph<'a>>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    client_config: ClientConfig<'a>,
    timestamp: Timestamp,
}

#[derive(Deserialize)]
struct ClientConfig<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    instance_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    instance_name: Option<Text<'a>>,
    #[serde(borrow)]
    stage_id: Text<'a>,
    #[serde(borrow)]
    application_name: Text<'a>,
    #[serde(borrow, default)]
    functionality: Option<Text<'a>>,
    #[serde(borrow, default)]
    role: Option<Text<'a>>,
    #[serde(borrow, default)]
    run_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    environment: Option<Text<'a>>,
}

#[derive(Deserialize, Default)]
struct Stages<'a> {
    #[serde(borrow, default)]
    service: Pairs<'a, Stage<'a>>,
    #[serde(borrow, default)]
    data: Pairs<'a, Stage<'a>>,
    /// Of an `MLReport`: by instance id.
    #[serde(borrow, default)]
    ml_inference: Option<Pairs<'a, MlInference<'a>>>,
    /// Of a `RoheReport`.
    #[serde(borrow, default)]
    ml_specific: Option<InferenceGraph<'a>>,
}

#[derive(Deserialize)]
struct Stage<'a> {
    /// By name, then by instance id.
    #[serde(borrow, default)]
    metrics: Pairs<'a, Pairs<'a, Metric>>,
}

#[derive(Deserialize)]
struct Metric {
    #[serde(default)]
    metric_name: String,
    #[serde(default)]
    records: Vec<Json>,
    #[serde(default)]
    unit: Option<String>,
}

#[derive(Deserialize)]
struct MlInference<'a> {
    #[serde(borrow)]
    inference_id: Text<'a>,
    #[serde(borrow)]
    instance_id: Text<'a>,
    #[serde(default)]
    metrics: Vec<Metric>,
    #[serde(default)]
    prediction: Json,
}

#[derive(Deserialize)]
struct InferenceGraph<'a> {
    #[serde(borrow)]
    linked_list: Pairs<'a, Link<MlInference<'a>>>,
}

#[derive(Deserialize)]
struct ExecutionGraph<'a> {
    #[serde(borrow)]
    linked_list: Pairs<'a, Link<Instance<'a>>>,
}

#[derive(Deserialize)]
struct Link<T> {
    #[serde(default = "Vec::new")]
    previous: Vec<T>,
    instance: T,
}

#[derive(Deserialize)]
struct Instance<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default)]
    stage: Option<Text<'a>>,
}

/// What is gathered of one instance.
struct Part<'a> {
    id: Text<'a>,
    stage: Option<Text<'a>>,
    start: Option<Timestamp>,
    metrics: Metrics<'a>,
}

/// Parts by instance, in the order in which the report names them: along the pipeline.
struct Parts<'a>(Vec<Part<'a>>);

impl<'a> Parts<'a> {
    fn of(&mut self, id: &Text<'a>, stage: Option<&Text<'a>>) -> &mut Part<'a> {
        let at = self.0.iter().position(|part| part.id == *id).unwrap_or_else(|| {
            self.0.push(Part { id: id.clone(), stage: None, start: None, metrics: Vec::new() });
            self.0.len() - 1
        });
        let part = &mut self.0[at];
        if part.stage.is_none() {
            part.stage = stage.cloned();
        }
        part
    }
}

impl<'a> Wire<'a> {
    fn into_report(self, bytes: &[u8]) -> Result<Report<'a>, Refusal> {
        let Wire { metadata: Metadata { client_config: client, timestamp }, own, inference_report, execution_graph } =
            self;
        let stages = inference_report.unwrap_or(own);
        let name = client.instance_name.filter(|name| !name.is_empty()).or(client.name);
        let id = client.instance_id.filter(|id| !id.is_empty()).or_else(|| name.clone());
        let (Some(id), Some(name)) = (id.clone(), name.or(id)) else {
            let message = "not a QoA4ML report: client_config has neither instance_id nor name".to_owned();
            return Err(Refusal { reason: Reason::Shape, message });
        };
        let mut parts = Parts(Vec::new());
        let mut stage_order: Vec<Text<'a>> = Vec::new();
        for (category, of_category) in [("service", &stages.service), ("data", &stages.data)] {
            for (stage, Stage { metrics }) in &of_category.0 {
                if !stage_order.contains(stage) {
                    stage_order.push(stage.clone());
                }
                for (metric, by_instance) in &metrics.0 {
                    for (instance, values) in &by_instance.0 {
                        add(parts.of(instance, Some(stage)), category, metric, values)?;
                    }
                }
            }
        }
        let mut inference = None;
        let mut others = Vec::new();
        let links = stages.ml_specific.map(|graph| graph.linked_list.0).unwrap_or_default();
        let linked = links.into_iter().map(|(_, link)| (link.instance, Some(link.previous)));
        let listed = stages.ml_inference.map(|by_instance| by_instance.0).unwrap_or_default();
        for (of, previous) in linked.chain(listed.into_iter().map(|(_, of)| (of, None))) {
            for metric in &of.metrics {
                add(parts.of(&of.instance_id, None), "ml", &metric.metric_name, metric)?;
            }
            if of.instance_id == id {
                let sources = previous.map(|all| all.into_iter().map(|source| source.inference_id));
                inference = Some((of.inference_id, prediction(of.prediction), sources.map(Vec::from_iter)));
            } else {
                others.push(of.inference_id);
            }
        }
        let inference = inference.map(|(own, prediction, sources)| {
            // A RoheReport lists the inference itself among its sources.
            let sources = sources.unwrap_or(others).into_iter().filter(|source| *source != own).collect();
            Inference { id: own, request: None, prediction, sources }
        });
        let graph = execution_graph.map(|graph| graph.linked_list.0).unwrap_or_default();
        let upstream_of = |instance: &Text<'a>, stage: Option<&Text<'a>>| -> Vec<Text<'a>> {
            if !graph.is_empty() {
                let link = graph.iter().find(|(_, link)| link.instance.id == *instance);
                return link
                    .map(|(_, link)| link.previous.iter().map(|p| p.name.clone()).collect())
                    .unwrap_or_default();
            }
            // An MLReport has no graph: the stage before is upstream.
            let place = stage.and_then(|stage| stage_order.iter().position(|known| known == stage)).unwrap_or(0);
            let before = place.checked_sub(1).map(|before| &stage_order[before]);
            parts
                .0
                .iter()
                .filter(|part| before.is_some() && part.stage.as_ref() == before)
                .map(|part| part.id.clone())
                .collect()
        };
        let named = |id: &Text<'a>| graph.iter().map(|(_, link)| &link.instance).find(|instance| instance.id == *id);
        let upstream = upstream_of(&id, Some(&client.stage_id));
        let relayed = parts.0.iter().filter(|part| part.id != id);
        let relayed: Vec<Relayed<'a>> = relayed
            .map(|part| {
                let instance = named(&part.id);
                let of_graph = instance.and_then(|instance| instance.stage.clone());
                Relayed {
                    stage: part.stage.clone().or(of_graph).unwrap_or_else(|| client.stage_id.clone()),
                    instance: instance.map_or_else(|| part.id.clone(), |instance| instance.name.clone()),
                    id: part.id.clone(),
                    start: part.start.unwrap_or(timestamp),
                    metrics: part.metrics.clone(),
                    upstream: upstream_of(&part.id, part.stage.as_ref()),
                }
            })
            .collect();
        let own = parts.0.iter().position(|part| part.id == id).map(|at| parts.0.swap_remove(at));
        let labels = [
            ("functionality", client.functionality),
            ("role", client.role),
            ("run", client.run_id),
            ("environment", client.environment),
            ("instance_id", Some(id)),
        ];
        let labels =
            labels.into_iter().filter_map(|(name, value)| Some((name.into(), value.filter(|v| !v.is_empty())?)));
        Ok(Report {
            digest: xxh3_128(bytes),
            digests: super::Digests::default(),
            time: timestamp,
            tenant: "default".into(),
            application: client.application_name,
            stage: client.stage_id,
            instance: name,
            labels: labels.collect::<Labels<'a>>(),
            start: Some(own.as_ref().and_then(|own| own.start).unwrap_or(timestamp)),
            metrics: own.map(|own| own.metrics).unwrap_or_default(),
            inference,
            feedback: Vec::new(),
            upstream,
            payload: None,
            relayed,
        })
    }
}

/// Adds the records of a metric. Numbers, bools and texts count as they are; of objects, what is
/// a number, `responseTime` as `response_time`; all else is not a quality and is passed over.
fn add<'a>(part: &mut Part<'a>, category: &str, name: &str, metric: &Metric) -> Result<(), Refusal> {
    let plain = plain(name);
    let (category, scale) = (category_of(category, &plain), scale(metric.unit.as_deref()));
    let mut push = |attribute: String, value: Value<'a>| part.metrics.push((Text(Cow::Owned(attribute)), value));
    for record in &metric.records {
        match record {
            Json::Number(number) => {
                let number = number.as_f64().unwrap_or_default() * scale;
                push(format!("{category}.{plain}"), Value::Number(number));
            }
            Json::Bool(flag) => push(format!("{category}.{plain}"), Value::Bool(*flag)),
            Json::String(text) => push(format!("{category}.{plain}"), Value::Text(Text(Cow::Owned(text.clone())))),
            Json::Object(fields) => {
                if let Some(start) = fields.get("startTime").and_then(Json::as_f64) {
                    let start = Timestamp::from_epoch_seconds(start).map_err(|error| Refusal {
                        reason: Reason::Shape,
                        message: format!("startTime of {name}: {start} {error}"),
                    })?;
                    part.start = Some(part.start.map_or(start, |known: Timestamp| known.min(start)));
                }
                for (field, value) in fields.iter().filter(|(field, _)| *field != "startTime") {
                    let attribute = match field.as_str() {
                        "responseTime" => format!("{category}.response_time"),
                        field => format!("{category}.{plain}.{}", self::plain(field)),
                    };
                    if let Some(number) = value.as_f64() {
                        push(attribute, Value::Number(number * scale));
                    }
                }
            }
            Json::Null | Json::Array(_) => {}
        }
    }
    Ok(())
}

/// The category of a metric: clients report qualities of models as metrics of the service.
pub(crate) fn category_of<'a>(category: &'a str, metric: &str) -> &'a str {
    if category == "service" && OF_MODELS.contains(&metric) { "ml" } else { category }
}

/// What a value in this unit is multiplied by: milliseconds become seconds, percentages ratios.
pub(crate) fn scale(unit: Option<&str>) -> f64 {
    match unit.map(str::to_ascii_lowercase).as_deref() {
        Some("ms" | "millisecond" | "milliseconds") => 1e-3,
        Some("%" | "percent" | "percentage") => 1e-2,
        _ => 1.0,
    }
}

/// A name as part of an attribute's name.
fn plain(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(letter).collect()
}

fn prediction<'a>(json: Json) -> Option<Prediction<'a>> {
    match json {
        Json::Number(number) => number.as_f64().map(Prediction::Number),
        Json::String(text) => Some(Prediction::Class(Text(Cow::Owned(text)))),
        Json::Bool(flag) => Some(Prediction::Class(if flag { "true" } else { "false" }.into())),
        Json::Object(scores) => {
            let scores = scores.into_iter().map(|(class, score)| Some((Text(Cow::Owned(class)), score.as_f64()?)));
            scores.collect::<Option<Vec<_>>>().map(Prediction::Scores)
        }
        Json::Null | Json::Array(_) => None,
    }
}
