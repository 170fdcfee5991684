//! What a value rests on, for those who look closer.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What stands as `detail` in evaluations, statuses and explanations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Of predicted classes.
    Confusion {
        /// Names, in order.
        classes: Vec<String>,
        /// Rows by truth, columns by prediction.
        matrix: Vec<Vec<u64>>,
    },
    /// Of a disparity.
    Groups {
        /// In the order of names.
        groups: Vec<Part>,
    },
    /// Of drift.
    Drift(Drift),
    /// Of a change detector.
    Changes {
        /// The observations at which a change was found, in the window.
        at: Vec<Timestamp>,
        /// The mean since the newest change.
        mean: f64,
    },
    /// Of `zscore` and `ewma`.
    Limits {
        /// What is compared: the window's mean, or the weighted mean of windows.
        seen: f64,
        /// Where it is expected.
        centre: f64,
        /// Its standard deviation (for `zscore` 1.4826 times the median absolute deviation).
        spread: f64,
        /// Windows that these rest on.
        windows: u64,
    },
}

/// One group of a disparity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The value of the label.
    pub group: String,
    /// Observations.
    pub samples: u64,
    /// The aggregated value.
    pub value: Option<f64>,
    /// Whether it has enough observations to be compared.
    pub compared: bool,
}

/// A distance beside what chance would make it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The distance to expect if nothing had changed.
    pub expected: f64,
    /// The chance of a distance as great if nothing had changed; only where the target is a rate of
    /// false alarms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
    /// Values in the baseline.
    pub baseline_samples: u64,
    /// Where the baseline is from: a file, or a span of time.
    pub baseline: String,
}
