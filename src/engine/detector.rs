//! Changes of the mean, found an observation at a time.

use serde::{Deserialize, Serialize};

use crate::contract::{Aggregate, Indicator};

/// The detector of an indicator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Of `adwin`.
    Adwin(Adwin),
    /// Of `page_hinkley`.
    PageHinkley(PageHinkley),
}

impl Detector {
    /// With the indicator's settings, river's where it states none.
    pub fn new(indicator: &Indicator) -> Detector {
        let (delta, lambda, alpha) = (indicator.delta, indicator.lambda, indicator.alpha);
        match indicator.aggregate {
            Aggregate::Adwin => Detector::Adwin(Adwin::new(delta.unwrap_or(0.002))),
            _ => Detector::PageHinkley(PageHinkley::new(
                delta.unwrap_or(0.005),
                lambda.unwrap_or(50.0),
                alpha.unwrap_or(1.0 - 0.0001),
            )),
        }
    }

    /// Takes in an observation; whether it shows a change.
    pub fn update(&mut self, value: f64) -> bool {
        match self {
            Detector::Adwin(adwin) => adwin.update(value),
            Detector::PageHinkley(test) => test.update(value),
        }
    }

    /// The mean since the newest change.
    pub fn mean(&self) -> f64 {
        match self {
            Detector::Adwin(adwin) => adwin.mean(),
            Detector::PageHinkley(test) => test.mean(),
        }
    }
}

/// ADWIN: Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing" (2007),
/// section 3: ADWIN2 with exponential histograms. Settings and the order of operations are those of
/// river's `drift.ADWIN`, so that both give the same results: clock 32, 5 buckets a row, parts of at
/// least 5, no test before 10 observations. It starts afresh after each change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    delta: f64,
    total: f64,
    variance: f64,
    width: f64,
    ticks: u64,
    /// Row i holds buckets of 2^i observations, the oldest first: (total, variance).
    rows: Vec<Vec<(f64, f64)>>,
    detected: bool,
}

const CLOCK: u64 = 32;
const BUCKETS_MAX: usize = 5;
const PART_MIN: f64 = 5.0;
const GRACE: f64 = 10.0;

impl Adwin {
    /// With a significance.
    pub fn new(delta: f64) -> Adwin {
        Adwin { delta, total: 0.0, variance: 0.0, width: 0.0, ticks: 0, rows: vec![Vec::new()], detected: false }
    }

    /// The mean of the window.
    pub fn mean(&self) -> f64 {
        if self.width == 0.0 { 0.0 } else { self.total / self.width }
    }

    /// Takes in an observation; whether it shows a change.
    pub fn update(&mut self, value: f64) -> bool {
        if self.detected {
            *self = Adwin::new(self.delta);
        }
        self.insert(value);
        self.ticks += 1;
        self.detected = self.ticks.is_multiple_of(CLOCK) && self.width > GRACE && self.shrink();
        self.detected
    }

    fn insert(&mut self, value: f64) {
        self.rows[0].push((value, 0.0));
        self.width += 1.0;
        if self.width > 1.0 {
            let delta = value - self.total / (self.width - 1.0);
            self.variance += (self.width - 1.0) * delta * delta / self.width;
        }
        self.total += value;
        let mut row = 0;
        while self.rows[row].len() > BUCKETS_MAX {
            let size = (1u64 << row) as f64;
            let ((first, first_variance), (second, second_variance)) = (self.rows[row][0], self.rows[row][1]);
            let gap = first / size - second / size;
            let merged = (first + second, first_variance + second_variance + size * 0.5 * gap * gap);
            self.rows[row].drain(..2);
            if row + 1 == self.rows.len() {
                self.rows.push(Vec::new());
            }
            row += 1;
            self.rows[row].push(merged);
        }
    }

    /// Drops the oldest bucket for as long as some cut of the window has different means.
    fn shrink(&mut self) -> bool {
        let mut changed = false;
        while self.has_cut() {
            changed = true;
            self.drop_oldest();
        }
        changed
    }

    fn has_cut(&self) -> bool {
        let (mut n0, mut n1) = (0.0, self.width);
        let (mut u0, mut u1) = (0.0, self.total);
        for (row, buckets) in self.rows.iter().enumerate().rev() {
            let size = (1u64 << row) as f64;
            for (index, (total, _)) in buckets.iter().enumerate() {
                n0 += size;
                n1 -= size;
                u0 += total;
                u1 -= total;
                if row == 0 && index + 1 == buckets.len() {
                    return false;
                }
                if n1 >= PART_MIN && n0 >= PART_MIN && self.differ(n0, n1, u0 / n0 - u1 / n1) {
                    return true;
                }
            }
        }
        false
    }

    fn differ(&self, n0: f64, n1: f64, gap: f64) -> bool {
        let level = (2.0 * self.width.ln() / self.delta).ln();
        let parts = 1.0 / (n0 - PART_MIN + 1.0) + 1.0 / (n1 - PART_MIN + 1.0);
        let epsilon = (2.0 * parts * (self.variance / self.width) * level).sqrt() + 2.0 / 3.0 * level * parts;
        gap.abs() > epsilon
    }

    fn drop_oldest(&mut self) {
        let row = self.rows.len() - 1;
        let size = (1u64 << row) as f64;
        let (total, variance) = self.rows[row].remove(0);
        let mean = total / size;
        self.width -= size;
        self.total -= total;
        let rest = self.total / self.width;
        self.variance -= variance + size * self.width * (mean - rest) * (mean - rest) / (size + self.width);
        if self.rows[row].is_empty() && row > 0 {
            self.rows.pop();
        }
    }
}

/// The Page-Hinkley test in both directions: Page, "Continuous inspection schemes" (1954), with a
/// forgetting factor. Settings and the order of operations are those of river's
/// `drift.PageHinkley`, so that both give the same results; no test before 30 observations. It
/// starts afresh after each change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    delta: f64,
    lambda: f64,
    alpha: f64,
    n: u64,
    mean: f64,
    rise: f64,
    fall: f64,
    rise_min: f64,
    fall_max: f64,
    detected: bool,
}

const INSTANCES_MIN: u64 = 30;

impl PageHinkley {
    /// With the change that is forgiven, a threshold, and a forgetting factor.
    pub fn new(delta: f64, lambda: f64, alpha: f64) -> PageHinkley {
        PageHinkley {
            delta,
            lambda,
            alpha,
            n: 0,
            mean: 0.0,
            rise: 0.0,
            fall: 0.0,
            // River starts at infinity, which JSON cannot hold; no sum is greater than this.
            rise_min: f64::MAX,
            fall_max: -1.0,
            detected: false,
        }
    }

    /// The mean since the newest change.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Takes in an observation; whether it shows a change.
    pub fn update(&mut self, value: f64) -> bool {
        if self.detected {
            *self = PageHinkley::new(self.delta, self.lambda, self.alpha);
        }
        self.n += 1;
        self.mean += (1.0 / self.n as f64) * (value - self.mean);
        let deviation = value - self.mean;
        self.rise = self.alpha * self.rise + deviation - self.delta;
        self.fall = self.alpha * self.fall + deviation + self.delta;
        self.rise_min = self.rise_min.min(self.rise);
        self.fall_max = self.fall_max.max(self.fall);
        self.detected = self.n >= INSTANCES_MIN
            && (self.rise - self.rise_min > self.lambda || self.fall_max - self.fall > self.lambda);
        self.detected
    }
}
