//! The native format: one JSON report, a JSON array of them, or one a line (NDJSON).

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use xxhash_rust::xxh3::xxh3_128;

use super::{Feedback, Inference, Labels, Metrics, Pairs, Prediction, Reason, Rejection, Report, Text, Value, qoa4ml};
use crate::time::Timestamp;

/// The longest message that is looked into, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
const REPORT_BYTES_MAX: usize = 1 << 20;
const LABELS_MAX: usize = 64;
const METRICS_MAX: usize = 256;
const LINKS_MAX: usize = 4_096;
const CLASSES_MAX: usize = 4_096;
const NAME_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 1_024;

/// Decodes every report of a message, in order, each with its own bytes. A bad report is handed over as its
/// [`Rejection`] and does not touch its neighbours.
pub fn decode<'a>(bytes: &'a [u8], mut each: impl FnMut(&'a [u8], Result<Report<'a>, Rejection>)) {
    if bytes.len() > MESSAGE_BYTES_MAX {
        let message = format!("a message of {} bytes; the limit is {MESSAGE_BYTES_MAX}", bytes.len());
        return each(bytes, Err(Rejection { index: 0, reason: Reason::Size, message }));
    }
    decode_all(bytes, each);
}

/// Like [`decode`], for files: without a limit on the whole.
pub fn decode_all<'a>(bytes: &'a [u8], mut each: impl FnMut(&'a [u8], Result<Report<'a>, Rejection>)) {
    let trimmed = bytes.trim_ascii();
    match trimmed.first() {
        None => {
            let message = "an empty message".to_owned();
            each(bytes, Err(Rejection { index: 0, reason: Reason::Syntax, message }));
        }
        Some(b'[') => decode_array(trimmed, each),
        Some(_) => decode_sequence(trimmed, each),
    }
}

fn decode_array<'a>(bytes: &'a [u8], mut each: impl FnMut(&'a [u8], Result<Report<'a>, Rejection>)) {
    match serde_json::from_slice::<Vec<&RawValue>>(bytes) {
        Ok(items) => {
            for (index, item) in items.into_iter().enumerate() {
                let item = item.get().as_bytes();
                each(item, decode_one(item).map_err(|refusal| refusal.at(index, item)));
            }
        }
        Err(error) => each(bytes, Err(Refusal::from(error).at(0, bytes))),
    }
}

/// Values one after the other: a single report (over any number of lines), or NDJSON.
/// After a syntax error, reading goes on at the next line.
fn decode_sequence<'a>(bytes: &'a [u8], mut each: impl FnMut(&'a [u8], Result<Report<'a>, Rejection>)) {
    let mut rest = bytes;
    let mut index = 0;
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Wire<'a>>();
        let (result, length) = match values.next() {
            Some(Ok(wire)) => {
                let length = values.byte_offset();
                (wire.into_report(&rest[..length]), length)
            }
            Some(Err(error)) => {
                let length = value_length(rest);
                (of_another_format(&rest[..length], error), length)
            }
            None => break,
        };
        let item = &rest[..length];
        each(item, result.map_err(|refusal| refusal.at(index, item)));
        index += 1;
        rest = rest[length..].trim_ascii_start();
    }
}

/// The length of the JSON value at the start, or of the line where it is none.
fn value_length(bytes: &[u8]) -> usize {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => values.byte_offset(),
        _ => bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()),
    }
}

fn decode_one(bytes: &[u8]) -> Result<Report<'_>, Refusal> {
    match serde_json::from_slice::<Wire<'_>>(bytes) {
        Ok(wire) => wire.into_report(bytes),
        Err(error) => of_another_format(bytes, error),
    }
}

/// What is no native report may be one of the formats that are recognised by their shape.
fn of_another_format(bytes: &[u8], error: serde_json::Error) -> Result<Report<'_>, Refusal> {
    if bytes.len() <= REPORT_BYTES_MAX && qoa4ml::is_meant(bytes) {
        let report = qoa4ml::decode(bytes)?;
        return check_all(&report).map(|()| report);
    }
    Err(Refusal::from(error))
}

/// Why a report is refused, before its place in the message is known.
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Refusal {
    fn at(self, index: usize, item: &[u8]) -> Rejection {
        // A fault inside `labels` or `metrics` comes with its field's name but without its kind.
        if let Err(error) = serde_json::from_slice::<IgnoredAny>(item) {
            let start = String::from_utf8_lossy(&item[..item.len().min(60)]);
            let message = format!("not JSON: {error}; it starts with {start:?}");
            return Rejection { index, reason: Reason::Syntax, message };
        }
        Rejection { index, reason: self.reason, message: self.message }
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Refusal {
        Refusal { reason: Reason::Shape, message: format!("not a report: {error}") }
    }
}

fn refuse<T>(reason: Reason, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, message: message.into() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    time: Timestamp,
    #[serde(borrow, default)]
    tenant: Option<Text<'a>>,
    #[serde(borrow)]
    application: Text<'a>,
    #[serde(borrow)]
    stage: Text<'a>,
    #[serde(borrow)]
    instance: Text<'a>,
    #[serde(borrow, default, deserialize_with = "labels")]
    labels: Labels<'a>,
    #[serde(borrow, default)]
    metrics: Pairs<'a, Value<'a>>,
    #[serde(borrow, default)]
    inference: Option<Inference<'a>>,
    #[serde(borrow, default)]
    feedback: Vec<Feedback<'a>>,
    #[serde(borrow, default)]
    upstream: Vec<Text<'a>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

impl<'a> Wire<'a> {
    fn into_report(self, bytes: &[u8]) -> Result<Report<'a>, Refusal> {
        if bytes.len() > REPORT_BYTES_MAX {
            return refuse(Reason::Size, format!("a report of {} bytes; the limit is {REPORT_BYTES_MAX}", bytes.len()));
        }
        if let Some((name, _)) = twice(&self.metrics.0) {
            return refuse(Reason::Shape, format!("not a report: metric {name:?} stands twice"));
        }
        let tenant = self.tenant.unwrap_or(Text(Cow::Borrowed("default")));
        let report = Report {
            digest: xxh3_128(self.id.as_deref().map_or(bytes, str::as_bytes)),
            time: self.time,
            tenant,
            application: self.application,
            stage: self.stage,
            instance: self.instance,
            labels: self.labels,
            metrics: self.metrics.0,
            inference: self.inference,
            feedback: self.feedback,
            upstream: self.upstream,
            payload: self.payload.map(RawValue::get),
            start: None,
            relayed: Vec::new(),
        };
        check_all(&report).map(|()| report)
    }
}

/// What must hold of reports in any format.
fn check_all(report: &Report<'_>) -> Result<(), Refusal> {
    for (what, name) in [("tenant", &report.tenant), ("application", &report.application), ("stage", &report.stage)] {
        check_token(what, name)?;
    }
    if report.instance.is_empty() || report.instance.len() > VALUE_BYTES_MAX {
        return refuse(Reason::Name, format!("instance must have 1 to {VALUE_BYTES_MAX} bytes"));
    }
    check_labels(&report.labels)?;
    check_metrics(&report.metrics)?;
    report.relayed.iter().try_for_each(|relayed| check_metrics(&relayed.metrics))?;
    let links = report.inference.as_ref().map_or(0, |i| i.sources.len()).max(report.relayed.len());
    if links.max(report.feedback.len()).max(report.upstream.len()) > LINKS_MAX {
        return refuse(Reason::Size, format!("more than {LINKS_MAX} feedback, sources or upstream entries"));
    }
    if let Some(inference) = &report.inference {
        check_inference(inference)?;
    }
    let empty = report.metrics.is_empty() && report.inference.is_none() && report.feedback.is_empty();
    if empty && report.relayed.is_empty() {
        return refuse(Reason::Shape, "not a report: it needs at least one of `metrics`, `inference`, `feedback`");
    }
    Ok(())
}

fn check_inference(inference: &Inference<'_>) -> Result<(), Refusal> {
    let too_long = |text: &str| text.len() > VALUE_BYTES_MAX;
    let classes = match &inference.prediction {
        Some(Prediction::Class(class)) => usize::from(too_long(class)) * (CLASSES_MAX + 1),
        Some(Prediction::Scores(scores)) if scores.iter().any(|(class, _)| too_long(class)) => CLASSES_MAX + 1,
        Some(Prediction::Scores(scores)) => scores.len(),
        _ => 0,
    };
    if too_long(&inference.id) || classes > CLASSES_MAX {
        let message = format!(
            "an inference's id and classes have at most {VALUE_BYTES_MAX} bytes, and classes are at most {CLASSES_MAX}"
        );
        return refuse(Reason::Size, message);
    }
    Ok(())
}

/// A metric that stands twice.
fn twice<'m, 'a>(metrics: &'m Metrics<'a>) -> Option<&'m (Text<'a>, Value<'a>)> {
    metrics
        .iter()
        .enumerate()
        .find(|(at, (name, _))| metrics[..*at].iter().any(|(other, _)| other == name))
        .map(|(_, m)| m)
}

/// Tenants, applications and stages are tokens of NATS subjects.
fn check_token(what: &str, name: &str) -> Result<(), Refusal> {
    let fits = |b: u8| b > b' ' && !matches!(b, b'.' | b'*' | b'>' | 0x7f);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        return refuse(
            Reason::Name,
            format!("{what} {name:?} must have 1 to {NAME_BYTES_MAX} bytes without spaces, '.', '*' and '>'"),
        );
    }
    Ok(())
}

fn check_labels(labels: &[(Text<'_>, Text<'_>)]) -> Result<(), Refusal> {
    if labels.len() > LABELS_MAX {
        return refuse(Reason::Size, format!("{} labels; the limit is {LABELS_MAX}", labels.len()));
    }
    for (index, (name, value)) in labels.iter().enumerate() {
        if matches!(&**name, "stage" | "instance") {
            return refuse(Reason::Name, format!("label {name:?} is taken by the report's own field; rename it"));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return refuse(
                Reason::Size,
                format!("label {name:?}: names have 1 to {NAME_BYTES_MAX} bytes, values at most {VALUE_BYTES_MAX}"),
            );
        }
        if labels[..index].iter().any(|(other, _)| other == name) {
            return refuse(Reason::Shape, format!("not a report: label {name:?} stands twice"));
        }
    }
    Ok(())
}

fn check_metrics(metrics: &Metrics<'_>) -> Result<(), Refusal> {
    if metrics.len() > METRICS_MAX {
        return refuse(Reason::Size, format!("{} metrics; the limit is {METRICS_MAX}", metrics.len()));
    }
    for (name, value) in metrics {
        if !is_attribute(name) {
            return refuse(
                Reason::Name,
                format!("metric {name:?} is not an attribute name; write category.name, such as service.response_time"),
            );
        }
        if matches!(value, Value::Text(text) if text.len() > VALUE_BYTES_MAX) {
            return refuse(Reason::Size, format!("metric {name:?}: text has at most {VALUE_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}

/// Whether a name reads `category.name`: two or more parts of letters, digits, `_` and `-`.
fn is_attribute(name: &str) -> bool {
    let mut dots = 0;
    let mut previous = b'.';
    for byte in name.bytes() {
        match byte {
            b'.' if previous == b'.' => return false,
            b'.' => dots += 1,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => {}
            _ => return false,
        }
        previous = byte;
    }
    dots > 0 && previous != b'.' && name.len() <= NAME_BYTES_MAX
}

/// Labels as they are sent; values that are numbers and bools become their spelling.
fn labels<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Labels<'a>, D::Error> {
    let mut pairs: Pairs<'a, LabelText<'a>, Spelled<'a>> = Pairs::deserialize(deserializer)?;
    Ok(std::mem::take(&mut pairs.0.0))
}

#[derive(Default)]
struct Spelled<'a>(Labels<'a>);

impl<'a> Extend<(Text<'a>, LabelText<'a>)> for Spelled<'a> {
    fn extend<I: IntoIterator<Item = (Text<'a>, LabelText<'a>)>>(&mut self, pairs: I) {
        pairs.into_iter().for_each(|(name, value)| self.0.push((name, value.0)));
    }
}

/// A label's value.
struct LabelText<'a>(Text<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for LabelText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(LabelText(match Value::deserialize(deserializer)? {
            Value::Text(text) => text,
            other => Text(Cow::Owned(other.to_string())),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"id":"r-1","time":"2026-11-23T22:15:00.123Z","application":"object-detection","stage":"inference","instance":"yolo-0","labels":{"model":"yolov8n","batch":32},"metrics":{"service.response_time":0.021,"service.late":false},"inference":{"id":"i-7","request":"q-3","prediction":"cat","sources":["i-5"]},"feedback":[{"inference":"i-2","label":"dog"}],"upstream":["pre-0"]}"#;

    fn decoded(text: &str) -> Vec<Result<Report<'_>, Rejection>> {
        let mut all = Vec::new();
        decode(text.as_bytes(), |_, report| all.push(report));
        all
    }

    #[test]
    fn one_report_and_its_parts() {
        let all = decoded(GOOD);
        let report = all[0].as_ref().expect("good");
        assert_eq!((all.len(), &*report.tenant), (1, "default"));
        assert_eq!(report.dimension("batch"), Some("32"));
        assert_eq!(report.dimension("stage"), Some("inference"));
        assert_eq!(report.dimension("device"), None);
        assert_eq!(report.metrics[1].1, Value::Bool(false));
        assert_eq!(report.digest, xxh3_128(b"r-1"));
        assert!(matches!(report.labels[0].1.0, Cow::Borrowed(_)), "text borrows from the message");
    }

    #[test]
    fn arrays_and_lines_keep_good_neighbours() {
        let array = format!("[{GOOD}, 3, {GOOD}]");
        let lines = format!("{GOOD}\n{{\"time\": oops}}\n{GOOD}\n");
        let pretty = format!("{}\n{GOOD}", GOOD.replace(",\"", ",\n\""));
        assert_eq!(decoded(&array).iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(decoded(&lines).iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(decoded(&pretty).iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true]);
    }

    #[test]
    fn refusals_name_the_thing() {
        let cases = [
            (GOOD.replace("0.021", "NaN"), Reason::Syntax, "not JSON"),
            (GOOD.replace("0.021", "1e999"), Reason::Shape, "number out of range"),
            (GOOD.replace("0.021", "null"), Reason::Shape, "\"service.response_time\": invalid type: null"),
            (GOOD.replace("\"stage\":\"inference\",", ""), Reason::Shape, "missing field `stage`"),
            (GOOD.replace("\"metrics\"", "\"metric\""), Reason::Shape, "unknown field `metric`"),
            (GOOD.replace("object-detection", "a.b"), Reason::Name, "application \"a.b\""),
            (GOOD.replace("service.late", "late"), Reason::Name, "category.name"),
            (GOOD.replace("service.late", "service.response_time"), Reason::Shape, "stands twice"),
            (GOOD.replace("\"model\"", "\"stage\""), Reason::Name, "rename it"),
            (GOOD.replace("2026-11-23T22:15:00.123Z", "now"), Reason::Shape, "RFC 3339"),
            ("".to_owned(), Reason::Syntax, "empty"),
            (
                "{\"time\":1,\"application\":\"a\",\"stage\":\"s\",\"instance\":\"i\"}".to_owned(),
                Reason::Shape,
                "at least one of",
            ),
        ];
        for (text, reason, words) in cases {
            let all = decoded(&text);
            let rejection = all[0].as_ref().expect_err(&text);
            assert_eq!(rejection.reason, reason, "{rejection}");
            assert!(rejection.message.contains(words), "{rejection} lacks {words}");
        }
    }
}
