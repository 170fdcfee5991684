//! A window's mean against those of windows before it, for attributes without an agreed target:
//! robust z-scores and the control chart of exponentially weighted means.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::aggregate::Moments;
use super::detail::Detail;
use super::gauge::Summary;
use super::verdict::Window;
use crate::contract::{Aggregate, Baseline, Indicator};
use crate::time::{Span, Timestamp};

/// Windows that must be known before one is judged.
const WINDOWS_MIN: usize = 8;
/// Windows that are remembered at most.
const WINDOWS_MAX: usize = 10_000;
/// The weight of the newest window in `ewma`, unless stated.
const LAMBDA: f64 = 0.2;

/// Earlier windows of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// The end of the first window.
    from: Timestamp,
    /// Ends and means of the windows that the next is compared with.
    means: VecDeque<(Timestamp, f64)>,
    /// For `ewma`: the weighted mean so far, and of how many windows.
    weighted: Option<(f64, u64)>,
}

impl Chart {
    /// Of a series whose first window ends at `from`.
    pub fn new(from: Timestamp) -> Chart {
        Chart { from, means: VecDeque::new(), weighted: None }
    }

    /// A window with this mean against those before it. `zscore`: (mean − median) / (1.4826·MAD),
    /// the median absolute deviation times 1.4826 being the standard deviation of normal values
    /// (Rousseeuw and Croux 1993). `ewma` (Roberts 1959): (z − μ) / (σ·√(λ/(2−λ)·(1−(1−λ)^2t))), z
    /// being the exponentially weighted mean of t windows, μ and σ mean and sample standard deviation
    /// of the baseline's windows.
    pub fn summary(&self, indicator: &Indicator, samples: u64, mean: f64, window: Window) -> Summary {
        if self.learns(indicator, window) {
            return Summary::of(samples, None);
        }
        let (seen, centre, spread) = if indicator.aggregate == Aggregate::Zscore {
            let (centre, spread) = self.median_and_deviation();
            (mean, centre, spread)
        } else {
            let moments = self.moments();
            let (seen, windows) = self.weigh(indicator, mean);
            let lambda = indicator.lambda.unwrap_or(LAMBDA);
            let share = lambda / (2.0 - lambda) * (1.0 - (1.0 - lambda).powf(2.0 * windows as f64));
            (seen, moments.mean, moments.deviation().unwrap_or(0.0) * share.sqrt())
        };
        // Without any spread, nothing can be said of a deviation unless there is none.
        let score = if spread > 0.0 { Some((seen - centre) / spread) } else { (seen == centre).then_some(0.0) };
        let detail = Detail::Limits { seen, centre, spread, windows: self.means.len() as u64 };
        Summary { detail: Some(Box::new(detail)), ..Summary::of(samples, score) }
    }

    /// Takes in the mean of a window that was judged.
    pub fn leave(&mut self, indicator: &Indicator, mean: f64, window: Window) {
        let learns = self.learns(indicator, window);
        if !learns && indicator.aggregate == Aggregate::Ewma {
            self.weighted = Some(self.weigh(indicator, mean));
        }
        match indicator.baseline {
            Some(Baseline::Window(span)) => {
                self.means.push_back((window.end, mean));
                // By what the next window looks back to.
                let oldest = window.end + indicator.every() - span;
                while self.means.len() > WINDOWS_MAX || self.means.front().is_some_and(|(end, _)| *end < oldest) {
                    self.means.pop_front();
                }
            }
            _ if learns && self.means.len() < WINDOWS_MAX => self.means.push_back((window.end, mean)),
            _ => {}
        }
    }

    /// Whether there is no baseline yet to judge by.
    fn learns(&self, indicator: &Indicator, window: Window) -> bool {
        let first = match indicator.baseline {
            Some(Baseline::First(span)) => span,
            _ => Span::ZERO,
        };
        window.end < self.from + first || self.means.len() < WINDOWS_MIN
    }

    /// The weighted mean with a further window; it starts at the baseline's mean.
    fn weigh(&self, indicator: &Indicator, mean: f64) -> (f64, u64) {
        let lambda = indicator.lambda.unwrap_or(LAMBDA);
        let (weighted, windows) = self.weighted.unwrap_or((self.moments().mean, 0));
        (lambda * mean + (1.0 - lambda) * weighted, windows + 1)
    }

    fn moments(&self) -> Moments {
        let mut moments = Moments::default();
        self.means.iter().for_each(|(_, mean)| moments.add(*mean));
        moments
    }

    fn median_and_deviation(&self) -> (f64, f64) {
        let centre = median(self.means.iter().map(|(_, mean)| *mean).collect());
        (centre, 1.4826 * median(self.means.iter().map(|(_, mean)| (mean - centre).abs()).collect()))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}
