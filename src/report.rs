//! What a service sends: [`Report`]s, and the observations in them.
//!
//! Decoding borrows from the message's bytes. Formats are recognised by shape; each has a
//! decoder in `report/`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{self, DeserializeSeed, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::time::Timestamp;

mod batch;
mod native;
pub(crate) mod qoa4ml;

pub use batch::{Batch, Spare, decode_in_parts, is_one_core, read_ahead};
pub use native::{MESSAGE_BYTES_MAX, application_in, decode, decode_all};

/// The JSON Schema of the native report, as `qualm schema report` prints it.
pub const SCHEMA: &str = include_str!("report/schema.json");

/// One message from one instance of one stage of one application, at one event time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report<'a> {
    /// 128-bit digest of the report's id, or of its bytes when it has none.
    pub digest: u128,
    /// Digests of what the engine looks up, made while the texts are at hand.
    pub digests: Digests,
    /// When it happened, by the sender's clock.
    pub time: Timestamp,
    /// Whose application it is; `default` unless stated.
    pub tenant: Text<'a>,
    /// The application.
    pub application: Text<'a>,
    /// The stage of the application's pipeline.
    pub stage: Text<'a>,
    /// The instance of the stage.
    pub instance: Text<'a>,
    /// Further dimensions, in the order sent.
    pub labels: Labels<'a>,
    /// Observations by attribute name, in the order sent.
    pub metrics: Metrics<'a>,
    /// The inference that this report tells of.
    pub inference: Option<Inference<'a>>,
    /// Ground truth for earlier (or later) inferences.
    pub feedback: Vec<Feedback<'a>>,
    /// Instances whose output this instance worked on.
    pub upstream: Vec<Text<'a>>,
    /// What the application works on, as JSON text; contracts may name its schema.
    pub payload: Option<&'a str>,
    /// When the work began that the report tells of, where the sender says so.
    pub start: Option<Timestamp>,
    /// What the sender passes on from instances before it (QoA4ML).
    pub relayed: Vec<Relayed<'a>>,
}

/// Metrics of another instance that a report passes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Relayed<'a> {
    /// The stage of the instance that measured them.
    pub stage: Text<'a>,
    /// Its name, or its id where the name is not said.
    pub instance: Text<'a>,
    /// Its id, as in its own reports' label `instance_id`.
    pub id: Text<'a>,
    /// When the work began that they tell of.
    pub start: Timestamp,
    /// The observations.
    pub metrics: Metrics<'a>,
    /// Instances whose output it worked on.
    pub upstream: Vec<Text<'a>>,
}

/// The room of a list, for other items of the same size: collecting takes it over.
fn emptied<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    list.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

/// Digests of parts of a report. At 128 bits, collisions do not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    /// Of tenant and application.
    pub application: u128,
    /// Of stage, instance and labels.
    pub dimensions: u128,
    /// Of the upstream instances; 0 without any.
    pub upstream: u64,
}

/// A digest of texts, each with its length. Hashed in one go, which is faster than piece by piece.
fn digest_of<'t>(texts: impl Iterator<Item = &'t str>) -> u128 {
    let mut bytes = Vec::with_capacity(256);
    for text in texts {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    xxh3_128(&bytes)
}

/// The digest by which an application is known.
pub(crate) fn application_digest(tenant: &str, application: &str) -> u128 {
    digest_of([tenant, application].into_iter())
}

/// Labels of a report: (name, value).
pub type Labels<'a> = Vec<(Text<'a>, Text<'a>)>;
/// Observations of a report: (attribute, value).
pub type Metrics<'a> = Vec<(Text<'a>, Value<'a>)>;

impl Report<'_> {
    /// Takes the digests.
    fn digest(&mut self) {
        let upstream =
            self.upstream.iter().fold(0, |digest: u64, name| digest.rotate_left(5) ^ xxh3_64(name.as_bytes()));
        self.digests = Digests {
            application: application_digest(&self.tenant, &self.application),
            dimensions: self.dimensions().digest(),
            upstream,
        };
    }

    /// The room of its lists, for a report of other bytes.
    fn renewed<'b>(self) -> Report<'b> {
        Report {
            labels: emptied(self.labels),
            metrics: emptied(self.metrics),
            upstream: emptied(self.upstream),
            ..Report::default()
        }
    }

    /// Stage, instance and labels.
    pub fn dimensions(&self) -> Dimensions<'_> {
        Dimensions { stage: &self.stage, instance: &self.instance, labels: &self.labels }
    }

    /// The value of a dimension.
    pub fn dimension(&self, name: &str) -> Option<&str> {
        self.dimensions().get(name)
    }
}

/// What observations are filtered and grouped by.
#[derive(Debug, Clone, Copy)]
pub struct Dimensions<'a> {
    /// The stage.
    pub stage: &'a str,
    /// The instance.
    pub instance: &'a str,
    /// Further dimensions.
    pub labels: &'a [(Text<'a>, Text<'a>)],
}

impl<'a> Dimensions<'a> {
    /// A digest of all of them.
    pub fn digest(&self) -> u128 {
        let labels = self.labels.iter().flat_map(|(name, value)| [&**name, &**value]);
        digest_of([self.stage, self.instance].into_iter().chain(labels))
    }

    /// The value of a dimension: `stage` and `instance` stand beside the labels.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        match name {
            "stage" => Some(self.stage),
            "instance" => Some(self.instance),
            _ => self.labels.iter().find(|(label, _)| &**label == name).map(|(_, value)| &**value),
        }
    }
}

/// The value of one observation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value<'a> {
    /// True or false; counts as 1 or 0 where a number is needed.
    Bool(bool),
    /// A finite number.
    Number(f64),
    /// A category.
    Text(Text<'a>),
}

impl Value<'_> {
    /// As a number, if it is one (bools are 1 and 0).
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
            Value::Text(_) => None,
        }
    }

    /// The same value, owning its text.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Bool(flag) => Value::Bool(flag),
            Value::Number(number) => Value::Number(number),
            Value::Text(text) => Value::Text(text.into_owned()),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(flag) => flag.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Text(text) => text.fmt(f),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value<'a>, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a bool or text")
            }
            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value<'de>, E> {
                Ok(Value::Bool(flag))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value<'de>, E> {
                if !number.is_finite() {
                    return Err(E::custom("a number that is not finite"));
                }
                Ok(Value::Number(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value<'de>, E> {
                Ok(Value::Number(number as f64))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value<'de>, E> {
                Ok(Value::Number(number as f64))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Text(Cow::Borrowed(text))))
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// An inference and what was predicted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inference<'a> {
    /// The inference's id; feedback refers to it.
    #[serde(borrow)]
    pub id: Text<'a>,
    /// The user request that this inference serves.
    #[serde(borrow, default)]
    pub request: Option<Text<'a>>,
    /// What was predicted.
    #[serde(borrow, default)]
    pub prediction: Option<Prediction<'a>>,
    /// Inferences that fed this one (ensembles).
    #[serde(borrow, default)]
    pub sources: Vec<Text<'a>>,
}

/// A predicted class, a predicted value, or a score for each class.
#[derive(Debug, Clone, PartialEq)]
pub enum Prediction<'a> {
    /// A class.
    Class(Text<'a>),
    /// A value (regression).
    Number(f64),
    /// Class and score, in the order sent.
    Scores(Vec<(Text<'a>, f64)>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Prediction<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prediction<'a>, D::Error> {
        struct PredictionVisitor;
        impl<'de> Visitor<'de> for PredictionVisitor {
            type Value = Prediction<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a class, a number, or a map of class to score")
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Prediction<'de>, E> {
                Ok(Prediction::Number(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Prediction<'de>, E> {
                Ok(Prediction::Number(number as f64))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Prediction<'de>, E> {
                Ok(Prediction::Number(number as f64))
            }
            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Prediction<'de>, E> {
                Ok(Prediction::Class(Text(Cow::Borrowed(if flag { "true" } else { "false" }))))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prediction<'de>, E> {
                Ok(Prediction::Class(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Prediction<'de>, E> {
                Ok(Prediction::Class(Text(Cow::Borrowed(text))))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Prediction<'de>, A::Error> {
                let mut scores = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    scores.push(entry);
                }
                Ok(Prediction::Scores(scores))
            }
        }
        deserializer.deserialize_any(PredictionVisitor)
    }
}

/// Ground truth for an inference.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feedback<'a> {
    /// The id of the inference it belongs to.
    #[serde(borrow)]
    pub inference: Text<'a>,
    /// The true class or value.
    #[serde(borrow)]
    pub label: Value<'a>,
}

/// Text that borrows from the message where it can (where it holds no escapes).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Text<'_> {
    /// The same text, owned.
    pub fn into_owned(self) -> Text<'static> {
        Text(Cow::Owned(self.0.into_owned()))
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Text<'a> {
        Text(Cow::Borrowed(text))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A JSON object as pairs in the order sent.
pub(crate) struct Pairs<'a, V>(pub Vec<(Text<'a>, V)>);

impl<V> Default for Pairs<'_, V> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Pairs<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut pairs = Vec::new();
        PairsInto::<V, V>(&mut pairs, PhantomData).deserialize(deserializer)?;
        Ok(Pairs(pairs))
    }
}

/// Adds the pairs of a JSON object to a list; values are read as `W` and kept as `V`.
struct PairsInto<'v, 'a, V, W>(&'v mut Vec<(Text<'a>, V)>, PhantomData<W>);

impl<'de: 'a, 'a, V: From<W>, W: Deserialize<'de>> DeserializeSeed<'de> for PairsInto<'_, 'a, V, W> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de: 'a, 'a, V: From<W>, W: Deserialize<'de>> Visitor<'de> for PairsInto<'_, 'a, V, W> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text<'a>>()? {
            match map.next_value::<W>() {
                Ok(value) => self.0.push((name, value.into())),
                Err(error) => return Err(de::Error::custom(format_args!("{name:?}: {error}"))),
            }
        }
        Ok(())
    }
}

/// Why a report was refused. The message names the thing and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Position of the report in its message, from 0.
    pub index: usize,
    /// A word for metrics and machines.
    pub reason: Reason,
    /// A sentence for people.
    pub message: String,
}

/// The kinds of [`Rejection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not JSON.
    Syntax,
    /// JSON, but not a report: a field is missing, unknown or of the wrong type.
    Shape,
    /// A name holds characters that names may not hold, or is too long.
    Name,
    /// A report, label set or message beyond its limit.
    Size,
    /// An event time more than five minutes ahead of the clock.
    Future,
    /// Tenant or application differ from those of the subject it came on.
    Subject,
}

impl Reason {
    /// The word itself, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Syntax => "syntax",
            Reason::Shape => "shape",
            Reason::Name => "name",
            Reason::Size => "size",
            Reason::Future => "future",
            Reason::Subject => "subject",
        }
    }
}
