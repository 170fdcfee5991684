//! Panes: the smallest slices of event time that are aggregated.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::aggregate::Accumulator;
use super::gauge::{Gauge, Observed};
use crate::time::Timestamp;

/// The most instances that a pane counts one by one; further ones share an entry.
const SHARES_MAX: usize = 32;

/// Index of an instance among those of its application.
pub type SourceId = u32;
/// Stands for all instances beyond [`SHARES_MAX`].
pub const OTHERS: SourceId = 0;

/// One slice of event time of one series.
#[derive(Debug, Clone)]
pub struct Pane {
    /// Its start; its end is the start of the next.
    pub start: Timestamp,
    /// What was observed.
    pub accumulator: Accumulator,
    /// Who reported it.
    pub shares: Vec<Share>,
    /// Whether it changed since the last snapshot.
    pub dirty: bool,
}

/// What one instance brought into a pane. There are many, so they are small: counts stop at four
/// thousand million.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Which instance.
    pub source: SourceId,
    /// Observations.
    pub samples: u32,
    /// Those that miss the target by themselves.
    pub misses: u32,
    /// Sum of the values, where they are numbers; of predictions, how many are right, or how far off.
    pub sum: f64,
}

impl Pane {
    /// An empty pane.
    pub fn new(start: Timestamp, gauge: &Gauge) -> Pane {
        Pane { start, accumulator: gauge.empty(), shares: Vec::new(), dirty: false }
    }

    /// An empty pane with room for as much as another holds.
    fn like(other: &Pane, start: Timestamp, gauge: &Gauge) -> Pane {
        let mut pane = Pane::new(start, gauge);
        pane.shares.reserve_exact(other.shares.len());
        pane.accumulator.reserve_like(&other.accumulator);
        pane
    }

    /// Adds an observation; `part` is the group it belongs to, and `at` where its instance stood
    /// among the shares last time.
    pub fn add(
        &mut self,
        gauge: &Gauge,
        source: SourceId,
        time: Timestamp,
        observed: &Observed<'_>,
        part: &str,
        at: &mut u16,
    ) {
        gauge.add(&mut self.accumulator, time, observed, part);
        if self.shares.get(usize::from(*at)).is_none_or(|share| share.source != source) {
            *at = place_of(&mut self.shares, source) as u16;
        }
        let share = &mut self.shares[usize::from(*at)];
        // An answer belongs to an inference that was counted already.
        share.samples = share.samples.saturating_add(u32::from(!matches!(observed, Observed::Answer(_))));
        share.misses = share.misses.saturating_add(u32::from(gauge.misses(observed)));
        share.sum += Gauge::number(observed);
    }
}

/// Where an instance's entry stands, or that of all others when there are too many.
fn place_of(shares: &mut Vec<Share>, source: SourceId) -> usize {
    let found = shares.iter().position(|known| known.source == source);
    match found {
        Some(at) => at,
        None if shares.len() < SHARES_MAX => {
            // Most panes are of one or two instances.
            shares.reserve_exact(if shares.is_empty() { 1 } else { shares.len() });
            shares.push(Share { source, samples: 0, misses: 0, sum: 0.0 });
            shares.len() - 1
        }
        None => {
            let others = shares.iter().position(|known| known.source == OTHERS).unwrap_or(shares.len() - 1);
            shares[others].source = OTHERS;
            others
        }
    }
}

/// Adds to the instance's entry.
pub fn add_share(shares: &mut Vec<Share>, share: Share) {
    let at = place_of(shares, share.source);
    let known = &mut shares[at];
    known.samples = known.samples.saturating_add(share.samples);
    known.misses = known.misses.saturating_add(share.misses);
    known.sum += share.sum;
}

/// The panes of a series, by start.
#[derive(Debug, Clone, Default)]
pub struct Panes(pub VecDeque<Pane>);

impl Panes {
    /// The pane of a start, made if missing.
    pub fn at(&mut self, start: Timestamp, gauge: &Gauge) -> &mut Pane {
        // The newest pane is nearly always the one.
        let place = match self.0.back() {
            Some(pane) if pane.start == start => Ok(self.0.len() - 1),
            Some(pane) if pane.start < start => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&start, |pane| pane.start),
        };
        let index = match place {
            Ok(index) => index,
            Err(index) => {
                // It will most likely hold what the one before holds.
                let pane = match index.checked_sub(1).and_then(|before| self.0.get(before)) {
                    Some(before) => Pane::like(before, start, gauge),
                    None => Pane::new(start, gauge),
                };
                self.0.insert(index, pane);
                index
            }
        };
        &mut self.0[index]
    }

    /// The merge of all panes that start in `from..until`.
    pub fn merged(&self, from: Timestamp, until: Timestamp, gauge: &Gauge) -> Accumulator {
        let mut inside = self.inside(from, until);
        let Some(first) = inside.next() else { return gauge.empty() };
        let mut merged = first.accumulator.clone();
        inside.for_each(|pane| merged.merge(&pane.accumulator));
        merged
    }

    /// The pane of a start, if there is one.
    pub fn get(&self, start: Timestamp) -> Option<&Accumulator> {
        let place = self.0.binary_search_by_key(&start, |pane| pane.start).ok()?;
        Some(&self.0[place].accumulator)
    }

    /// Observations of all panes that start in `from..until`.
    pub fn samples(&self, from: Timestamp, until: Timestamp) -> u64 {
        self.inside(from, until).map(|pane| pane.accumulator.samples()).sum()
    }

    /// Who reported what in `from..until`.
    pub fn shares(&self, from: Timestamp, until: Timestamp) -> Vec<Share> {
        let mut shares = Vec::new();
        self.inside(from, until).flat_map(|pane| &pane.shares).for_each(|share| add_share(&mut shares, *share));
        shares
    }

    fn inside(&self, from: Timestamp, until: Timestamp) -> impl Iterator<Item = &Pane> {
        self.0.iter().filter(move |pane| from <= pane.start && pane.start < until)
    }

    /// Forgets panes that start before `start`.
    pub fn forget_before(&mut self, start: Timestamp) {
        while self.0.front().is_some_and(|pane| pane.start < start && !pane.dirty) {
            self.0.pop_front();
        }
    }
}
