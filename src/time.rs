//! Event time: [`Timestamp`], [`Span`], and the window arithmetic on them.
//!
//! Both count whole microseconds, so sums and comparisons are exact.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A point in time: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Timestamp = Timestamp(0);
    /// The latest time accepted anywhere: 2200-01-01. Sums with any [`Span`] cannot overflow.
    pub const MAX: Timestamp = Timestamp(7_258_118_400 * MICROS_PER_SECOND);

    /// From microseconds since the epoch, as the store keeps them.
    pub const fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From seconds since the epoch. Fails outside 1970..2200, where a number is most
    /// likely milliseconds sent as seconds.
    pub fn from_epoch_seconds(seconds: f64) -> Result<Timestamp, TimeError> {
        let micros = seconds * MICROS_PER_SECOND as f64;
        if !(0.0..=Timestamp::MAX.0 as f64).contains(&micros) {
            return Err(TimeError::Range);
        }
        Ok(Timestamp(micros.round() as i64))
    }

    /// The system's clock. Only the service's edges call this; the engine never does.
    pub fn now() -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_microsecond())
    }

    /// The latest multiple of `step` (since the epoch) that is not after this time.
    pub fn floor(self, step: Span) -> Timestamp {
        Timestamp(self.0.div_euclid(step.0) * step.0)
    }

    /// The time since `earlier`; negative if this is before it.
    pub fn since(self, earlier: Timestamp) -> Span {
        Span(self.0 - earlier.0)
    }
}

impl Add<Span> for Timestamp {
    type Output = Timestamp;
    fn add(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Timestamp {
    type Output = Timestamp;
    fn sub(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_sub(span.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with as many fraction digits as needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{} us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a time or a span was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not RFC 3339.
    #[error("is not a time; write RFC 3339, such as 2026-11-23T22:15:00.123Z, or epoch seconds")]
    Syntax,
    /// Outside the accepted years.
    #[error("is outside the years 1970 to 2200; epoch times are in seconds, not milliseconds")]
    Range,
    /// Not a span.
    #[error("is not a span of time; write a number and a unit of us, ms, s, m, h or d, such as 90s, 5m, 1h30m")]
    Span,
}

impl FromStr for Timestamp {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Timestamp, TimeError> {
        let time: jiff::Timestamp = text.parse().map_err(|_| TimeError::Syntax)?;
        let micros = time.as_microsecond();
        if !(0..=Timestamp::MAX.0).contains(&micros) {
            return Err(TimeError::Range);
        }
        Ok(Timestamp(micros))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time in RFC 3339 or epoch seconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(|e: TimeError| E::custom(format_args!("time {text:?} {e}")))
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Timestamp, E> {
                Timestamp::from_epoch_seconds(seconds).map_err(|e| E::custom(format_args!("time {seconds} {e}")))
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Timestamp, E> {
                self.visit_f64(seconds as f64)
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Timestamp, E> {
                self.visit_f64(seconds as f64)
            }
        }
        deserializer.deserialize_any(TimeVisitor)
    }
}

/// A length of time in microseconds, written as `90s`, `5m`, `1h30m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// From whole seconds.
    pub const fn seconds(seconds: i64) -> Span {
        Span(seconds * MICROS_PER_SECOND)
    }

    /// From microseconds.
    pub const fn from_micros(micros: i64) -> Span {
        Span(micros)
    }

    /// Microseconds.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Seconds, with fraction.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / MICROS_PER_SECOND as f64
    }

    /// For timers of the runtime; a negative span becomes zero.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.max(0) as u64)
    }
}

const UNITS: [(&str, i64); 6] = [
    ("d", 86_400 * MICROS_PER_SECOND),
    ("h", 3_600 * MICROS_PER_SECOND),
    ("m", 60 * MICROS_PER_SECOND),
    ("s", MICROS_PER_SECOND),
    ("ms", 1_000),
    ("us", 1),
];

/// Spans end at a hundred years, so that no sum with a [`Timestamp`] overflows.
const SPAN_MICROS_MAX: i64 = 100 * 365 * 86_400 * MICROS_PER_SECOND;

impl FromStr for Span {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Span, TimeError> {
        let mut rest = text.trim();
        let mut total = 0.0;
        if rest.is_empty() {
            return Err(TimeError::Span);
        }
        while !rest.is_empty() {
            let unit_at = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or(TimeError::Span)?;
            let number: f64 = rest[..unit_at].parse().map_err(|_| TimeError::Span)?;
            rest = &rest[unit_at..];
            let unit_end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let (_, micros) = UNITS.iter().find(|(name, _)| *name == &rest[..unit_end]).ok_or(TimeError::Span)?;
            total += number * *micros as f64;
            rest = &rest[unit_end..];
        }
        if !(0.0..=SPAN_MICROS_MAX as f64).contains(&total) {
            return Err(TimeError::Span);
        }
        Ok(Span(total.round() as i64))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, micros) in UNITS {
            if rest / micros != 0 {
                write!(f, "{}{name}", rest / micros)?;
                rest %= micros;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|e: TimeError| de::Error::custom(format_args!("{text:?} {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print() {
        for (text, micros, printed) in [
            ("90s", 90_000_000, "1m30s"),
            ("5m", 300_000_000, "5m"),
            ("1h30m", 5_400_000_000, "1h30m"),
            ("0.5s", 500_000, "500ms"),
            ("0s", 0, "0s"),
        ] {
            let span: Span = text.parse().expect(text);
            assert_eq!((span.as_micros(), span.to_string().as_str()), (micros, printed));
        }
        for bad in ["", "5", "m", "5 parsecs", "-5s", "5mm", "1e300d"] {
            assert_eq!(bad.parse::<Span>(), Err(TimeError::Span), "{bad}");
        }
    }

    #[test]
    fn times_read_and_print() {
        let time: Timestamp = serde_json::from_str("\"2026-11-23T23:15:00.123+01:00\"").expect("time");
        assert_eq!(time.to_string(), "2026-11-23T22:15:00.123Z");
        let same: Timestamp = serde_json::from_str("1795472100.123").expect("time");
        assert_eq!(time, same);
        let milliseconds = serde_json::from_str::<Timestamp>("1795472100123").expect_err("too far");
        assert!(milliseconds.to_string().contains("not milliseconds"));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn floor_is_a_multiple_since_the_epoch() {
        let time = Timestamp::from_micros(25_000_001);
        assert_eq!(time.floor(Span::seconds(10)), Timestamp::from_micros(20_000_000));
    }
}
