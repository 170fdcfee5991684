//! What a series remembers beyond its panes: a baseline, a change detector, earlier windows.
//!
//! Each closed pane is taken in once, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::aggregate::{Accumulator, VALUES_MAX};
use super::chance::{Effort, p_value};
use super::chart::Chart;
use super::detail::{Detail, Drift};
use super::detector::Detector;
use super::distribution::Distribution;
use super::drift::Comparison;
use super::gauge::Summary;
use super::program::Input;
use super::verdict::Window;
use crate::contract::Baseline;
use crate::time::{Span, Timestamp};

/// A sliding baseline moves on in steps of this part of its length.
const BLOCKS: i64 = 24;
/// Values that a baseline must hold before it is compared with.
const BASELINE_MIN: u64 = 30;

/// What a series remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// A baseline that is learned from the first panes.
    First {
        /// Start of the first pane.
        from: Timestamp,
        /// Panes that start by here are part of it; windows that start before are not judged.
        until: Timestamp,
        /// What they held.
        baseline: Distribution,
    },
    /// A baseline that slides.
    Sliding {
        /// Starts of blocks, and what the panes in them held.
        blocks: VecDeque<(Timestamp, Distribution)>,
    },
    /// For `adwin` and `page_hinkley`.
    Changes {
        /// The detector.
        detector: Detector,
        /// Times of changes that windows still look at.
        changes: VecDeque<Timestamp>,
        /// The newest pane that held more observations than are kept.
        cut: Option<Timestamp>,
    },
    /// For `zscore` and `ewma`.
    Chart(Chart),
    /// For `data.freshness`: the newest report.
    Newest(Timestamp),
}

impl Memory {
    /// What a new series of an input remembers; `start` is that of its first pane.
    pub fn new(input: &Input, start: Timestamp) -> Option<Memory> {
        let indicator = &input.indicator;
        match (indicator.aggregate, &indicator.baseline) {
            (aggregate, _) if aggregate.is_detector() => {
                Some(Memory::Changes { detector: Detector::new(indicator), changes: VecDeque::new(), cut: None })
            }
            (aggregate, _) if aggregate.is_chart() => Some(Memory::Chart(Chart::new(start + input.every))),
            (_, Some(Baseline::First(span))) => {
                Some(Memory::First { from: start, until: start + *span, baseline: Distribution::default() })
            }
            (_, Some(Baseline::Window(_))) => Some(Memory::Sliding { blocks: VecDeque::new() }),
            _ if input.is_freshness() => Some(Memory::Newest(start)),
            _ => None,
        }
    }

    /// Takes in the pane that has just closed, before its window is judged. Whether that changed
    /// anything.
    pub fn close(&mut self, pane: &Accumulator, start: Timestamp, window: Window) -> bool {
        match (self, pane) {
            (Memory::First { until, baseline, .. }, Accumulator::Distribution(distribution)) if start < *until => {
                baseline.merge(distribution);
                true
            }
            (Memory::Changes { detector, changes, cut }, Accumulator::Values { n, values }) => {
                if *n > values.len() as u64 {
                    *cut = Some(start);
                }
                changes.retain(|at| *at >= window.start);
                changes.extend(in_order(values).filter(|(_, value)| detector.update(*value)).map(|(at, _)| at));
                true
            }
            (Memory::Newest(newest), Accumulator::Last { last: Some((at, _)), .. }) => {
                *newest = (*newest).max(Timestamp::from_micros(*at));
                true
            }
            _ => false,
        }
    }

    /// What a window comes to. `effort` is given where drift is judged by its p-value.
    pub fn summary(&self, input: &Input, merged: &Accumulator, window: Window, effort: Option<Effort>) -> Summary {
        let samples = merged.samples();
        match (self, merged) {
            (Memory::Newest(newest), _) => Summary::of(samples, Some(window.end.since(*newest).as_seconds())),
            (Memory::First { from, until, baseline }, Accumulator::Distribution(distribution)) => {
                if window.start < *until {
                    return Summary::of(samples, None);
                }
                drifted(input, baseline, distribution, format!("{from} to {until}"), effort)
            }
            (Memory::Sliding { blocks }, Accumulator::Distribution(distribution)) => {
                let span = match input.indicator.baseline {
                    Some(Baseline::Window(span)) => span,
                    _ => Span::ZERO,
                };
                let mut baseline = Distribution::default();
                let from = window.start - span;
                let inside = blocks.iter().filter(|(start, _)| *start + block_of(span) > from);
                inside.for_each(|(_, block)| baseline.merge(block));
                drifted(input, &baseline, distribution, format!("{from} to {}", window.start), effort)
            }
            (Memory::Changes { .. }, _) if samples == 0 => Summary::of(0, None),
            (Memory::Changes { detector, changes, cut }, _) => {
                let inside = |at: &Timestamp| window.start <= *at && *at < window.end;
                let at: Vec<Timestamp> = changes.iter().copied().filter(inside).collect();
                let fault = cut
                    .filter(|start| inside(start))
                    .map(|_| format!("more than {VALUES_MAX} observations between two judgements; judge more often"));
                let found = Summary::of(samples, Some(at.len() as f64));
                Summary { fault, detail: Some(Box::new(Detail::Changes { at, mean: detector.mean() })), ..found }
            }
            (Memory::Chart(chart), Accumulator::Sum { n, total }) if *n > 0 => {
                chart.summary(&input.indicator, samples, total.value() / *n as f64, window)
            }
            _ => Summary::of(samples, None),
        }
    }

    /// Takes in what leaves the window after it was judged: the pane that it started with, and the
    /// window's own mean. Whether that changed anything.
    pub fn leave(&mut self, input: &Input, first: Option<&Accumulator>, merged: &Accumulator, window: Window) -> bool {
        match (self, &input.indicator.baseline) {
            (Memory::Sliding { blocks }, Some(Baseline::Window(span))) => {
                let span = *span;
                blocks.retain(|(start, _)| *start + block_of(span) > window.start - span);
                let Some(Accumulator::Distribution(distribution)) = first else { return false };
                let start = window.start.floor(block_of(span));
                match blocks.back_mut() {
                    Some((at, block)) if *at == start => block.merge(distribution),
                    _ => blocks.push_back((start, (**distribution).clone())),
                }
                true
            }
            (Memory::Chart(chart), _) => match merged {
                Accumulator::Sum { n, total } if *n > 0 => {
                    chart.leave(&input.indicator, total.value() / *n as f64, window);
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }
}

fn block_of(span: Span) -> Span {
    Span::from_micros((span.as_micros() / BLOCKS).max(1))
}

/// Values in the order of their times; those of equal times in the order of arrival.
fn in_order(values: &[(i64, f64)]) -> impl Iterator<Item = (Timestamp, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by_key(|(at, _)| *at);
    sorted.into_iter().map(|(at, value)| (Timestamp::from_micros(at), value))
}

/// A window beside a baseline.
pub fn drifted(
    input: &Input,
    baseline: &Distribution,
    window: &Distribution,
    from: String,
    effort: Option<Effort>,
) -> Summary {
    let samples = window.samples();
    if baseline.samples() < BASELINE_MIN {
        return Summary { fault: baseline.fault(), ..Summary::of(samples, None) };
    }
    let comparison = match Comparison::new(input.indicator.aggregate, baseline, window) {
        Ok(Some(comparison)) => comparison,
        Ok(None) => return Summary::of(samples, None),
        Err(fault) => return Summary { fault: Some(fault), ..Summary::of(samples, None) },
    };
    let p_value = effort.map(|effort| p_value(&comparison, effort));
    let drift =
        Drift { expected: comparison.expected(), p_value, baseline_samples: baseline.samples(), baseline: from };
    Summary { p_value, detail: Some(Box::new(Detail::Drift(drift))), ..Summary::of(samples, Some(comparison.value())) }
}

/// The baseline of a file, ready to be compared with.
#[derive(Debug, Clone)]
pub struct FileBaseline {
    /// The file.
    pub file: String,
    /// What it holds of the indicator's attribute.
    pub distribution: Arc<Distribution>,
}
