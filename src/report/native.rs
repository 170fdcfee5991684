//! The native format: one JSON report, a JSON array of them, or one a line (NDJSON).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::{Inference, Metrics, PairsInto, Prediction, Reason, Rejection, Report, Text, Value, qoa4ml};

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
pub fn decode<'a>(bytes: &'a [u8], each: impl FnMut(&'a [u8], Result<&mut Report<'a>, Rejection>)) {
    decode_into(&mut Report::default(), bytes, MESSAGE_BYTES_MAX, each);
}

/// Like [`decode`], for files: without a limit on the whole.
pub fn decode_all<'a>(bytes: &'a [u8], each: impl FnMut(&'a [u8], Result<&mut Report<'a>, Rejection>)) {
    decode_into(&mut Report::default(), bytes, usize::MAX, each);
}

/// Like both, by way of one report, which may be taken away if another is left in its place.
pub(super) fn decode_into<'a>(
    report: &mut Report<'a>,
    bytes: &'a [u8],
    bytes_max: usize,
    mut each: impl FnMut(&'a [u8], Result<&mut Report<'a>, Rejection>),
) {
    if bytes.len() > bytes_max {
        let message = format!("a message of {} bytes; the limit is {bytes_max}", bytes.len());
        return each(bytes, Err(Rejection { index: 0, reason: Reason::Size, message }));
    }
    let trimmed = bytes.trim_ascii();
    match trimmed.first() {
        None => {
            let message = "an empty message".to_owned();
            each(bytes, Err(Rejection { index: 0, reason: Reason::Syntax, message }));
        }
        Some(b'[') => decode_array(report, trimmed, each),
        Some(_) => decode_sequence(report, trimmed, each),
    }
}

fn decode_array<'a>(
    report: &mut Report<'a>,
    bytes: &'a [u8],
    mut each: impl FnMut(&'a [u8], Result<&mut Report<'a>, Rejection>),
) {
    match serde_json::from_slice::<Vec<&RawValue>>(bytes) {
        Ok(items) => {
            for (index, item) in items.into_iter().enumerate() {
                let item = item.get().as_bytes();
                match decode_one(report, item) {
                    Ok(()) => each(item, Ok(report)),
                    Err(refusal) => each(item, Err(refusal.at(index, item))),
                }
            }
        }
        Err(error) => each(bytes, Err(Refusal::from(error).at(0, bytes))),
    }
}

/// Values one after the other: a single report (over any number of lines), or NDJSON.
/// After a syntax error, reading goes on at the next line.
fn decode_sequence<'a>(
    report: &mut Report<'a>,
    bytes: &'a [u8],
    mut each: impl FnMut(&'a [u8], Result<&mut Report<'a>, Rejection>),
) {
    let mut rest = bytes;
    let mut index = 0;
    while !rest.is_empty() {
        // Nearly always, a report is a line.
        let mut item = rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())].trim_ascii_end();
        let mut result = decode_one(report, item);
        if result.is_err() {
            let value = &rest[..value_length(rest)];
            if value.len() != item.len() {
                item = value;
                result = decode_one(report, item);
            }
        }
        match result {
            Ok(()) => each(item, Ok(report)),
            Err(refusal) => each(item, Err(refusal.at(index, item))),
        }
        index += 1;
        rest = rest[item.len()..].trim_ascii_start();
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

fn decode_one<'a>(report: &mut Report<'a>, bytes: &'a [u8]) -> Result<(), Refusal> {
    if bytes.len() > REPORT_BYTES_MAX {
        return refuse(Reason::Size, format!("a report of {} bytes; the limit is {REPORT_BYTES_MAX}", bytes.len()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return refuse(Reason::Syntax, "not JSON: it is not UTF-8");
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let id = ReportInto(report).deserialize(&mut deserializer).and_then(|id| deserializer.end().map(|()| id));
    match id {
        Ok(id) => {
            if let Some((name, _)) = twice(&report.metrics) {
                return refuse(Reason::Shape, format!("not a report: metric {name:?} stands twice"));
            }
            report.digest = xxh3_128(id.as_deref().map_or(bytes, str::as_bytes));
        }
        // What is no native report may be one of the formats that are recognised by their shape.
        Err(_) if qoa4ml::is_meant(bytes) => *report = qoa4ml::decode(bytes)?,
        Err(error) => return Err(Refusal::from(error)),
    }
    check_all(report)?;
    report.digest();
    Ok(())
}

/// Which application a line tells of, as a number of its name, where it plainly holds one whole report of
/// this format: the field stands there once, before any other object and any escape. What else is wrong
/// with the line does not matter here.
pub fn application_in(line: &[u8]) -> Option<u64> {
    static FIELD: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"application\":"));
    let mut fields = FIELD.find_iter(line);
    let at = fields.next()?;
    let before = line[..at].strip_prefix(b"{").filter(|_| line.ends_with(b"}"))?;
    let name = line[at + FIELD.needle().len()..].trim_ascii_start().strip_prefix(b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', name).filter(|end| name[*end] == b'"')?;
    let plain = fields.next().is_none() && memchr::memchr2(b'{', b'\\', before).is_none();
    plain.then(|| xxh3_64(&name[..end]))
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

/// Reads a report into one that is used again and again: nothing moves, and lists keep their room.
/// Gives its id.
struct ReportInto<'v, 'a>(&'v mut Report<'a>);

#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Id,
    Time,
    Tenant,
    Application,
    Stage,
    Instance,
    Labels,
    Metrics,
    Inference,
    Feedback,
    Upstream,
    Payload,
}

/// By [`Field`]; the second half of the truth is whether a report needs it.
const FIELDS: [(&str, bool); 12] = [
    ("id", false),
    ("time", true),
    ("tenant", false),
    ("application", true),
    ("stage", true),
    ("instance", true),
    ("labels", false),
    ("metrics", false),
    ("inference", false),
    ("feedback", false),
    ("upstream", false),
    ("payload", false),
];

impl<'a> DeserializeSeed<'a> for ReportInto<'_, 'a> {
    type Value = Option<Text<'a>>;
    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for ReportInto<'_, 'a> {
    type Value = Option<Text<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a report")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let report = self.0;
        report.clear();
        let mut id = None;
        let mut seen = [false; FIELDS.len()];
        while let Some(field) = map.next_key::<Field>()? {
            if std::mem::replace(&mut seen[field as usize], true) {
                return Err(A::Error::duplicate_field(FIELDS[field as usize].0));
            }
            match field {
                Field::Id => id = map.next_value()?,
                Field::Time => report.time = map.next_value()?,
                Field::Tenant => report.tenant = map.next_value::<Option<Text<'a>>>()?.unwrap_or(DEFAULT_TENANT),
                Field::Application => report.application = map.next_value()?,
                Field::Stage => report.stage = map.next_value()?,
                Field::Instance => report.instance = map.next_value()?,
                Field::Labels => {
                    map.next_value_seed(PairsInto::<_, LabelText<'a>>(&mut report.labels, PhantomData))?;
                }
                Field::Metrics => map.next_value_seed(PairsInto::<_, Value<'a>>(&mut report.metrics, PhantomData))?,
                Field::Inference => report.inference = map.next_value()?,
                Field::Feedback => map.next_value_seed(ItemsInto(&mut report.feedback))?,
                Field::Upstream => map.next_value_seed(ItemsInto(&mut report.upstream))?,
                Field::Payload => report.payload = map.next_value::<Option<&'a RawValue>>()?.map(RawValue::get),
            }
        }
        let missing = FIELDS.iter().zip(seen).find(|((_, needed), seen)| *needed && !seen);
        missing.map_or(Ok(id), |((name, _), _)| Err(A::Error::missing_field(name)))
    }
}

const DEFAULT_TENANT: Text<'static> = Text(Cow::Borrowed("default"));

impl<'a> Report<'a> {
    /// Empties it, but for the room of its lists.
    fn clear(&mut self) {
        self.tenant = DEFAULT_TENANT;
        self.labels.clear();
        self.metrics.clear();
        self.inference = None;
        self.feedback.clear();
        self.upstream.clear();
        self.payload = None;
        self.start = None;
        self.relayed.clear();
    }
}

/// Adds the items of a JSON array to a list.
struct ItemsInto<'v, T>(&'v mut Vec<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for ItemsInto<'_, T> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ItemsInto<'_, T> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            self.0.push(item);
        }
        Ok(())
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
    // All bytes, without leaving early: names are good, and that is faster.
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().fold(true, |good, b| good & fits(b)) {
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

/// A label's value; numbers and bools become their spelling.
struct LabelText<'a>(Text<'a>);

impl<'a> From<LabelText<'a>> for Text<'a> {
    fn from(label: LabelText<'a>) -> Text<'a> {
        label.0
    }
}

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
        decode(text.as_bytes(), |_, report| all.push(report.map(|report| report.clone())));
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
