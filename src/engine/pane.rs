//! Panes: the smallest slices of event time that are aggregated.

use std::collections::VecDeque;

use super::aggregate::Accumulator;
use super::gauge::{Gauge, Observed};
use super::program::{Bundle, slots};
use crate::report::Value;
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
    /// What was observed, by slot.
    pub accumulators: Box<[Accumulator]>,
    /// Who reported it.
    pub brought: Vec<Brought>,
    /// For each entry of `brought` and each slot, observations that miss the target by themselves;
    /// empty where none does.
    pub misses: Vec<u32>,
    /// Whether it changed since the last snapshot.
    pub dirty: bool,
}

/// What one instance brought into a pane. There are many, so they are small: counts stop at four
/// thousand million.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Brought {
    /// Which instance.
    pub source: SourceId,
    /// The slots that took it; an instance has an entry for each set of them.
    pub taken: u32,
    /// Observations.
    pub samples: u32,
    /// Sum of the values, where they are numbers; of predictions, how many are right, or how far off.
    pub sum: f64,
}

/// What one instance brought into a window of one objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Which instance.
    pub source: SourceId,
    /// Observations.
    pub samples: u32,
    /// Those that miss the target by themselves.
    pub misses: u32,
    /// Sum of the values, as in [`Brought::sum`].
    pub sum: f64,
}

impl Pane {
    /// An empty pane.
    pub fn new(start: Timestamp, bundle: &Bundle) -> Pane {
        let accumulators = bundle.inputs.iter().map(|input| input.gauge.empty()).collect();
        Pane { start, accumulators, brought: Vec::new(), misses: Vec::new(), dirty: false }
    }

    /// An empty pane with room for as much as another holds.
    fn like(other: &Pane, start: Timestamp, bundle: &Bundle) -> Pane {
        let mut pane = Pane::new(start, bundle);
        pane.brought.reserve_exact(other.brought.len());
        for (ours, theirs) in pane.accumulators.iter_mut().zip(&other.accumulators) {
            ours.reserve_like(theirs);
        }
        pane
    }

    /// Adds an observation to the slots that take it; `part` is the group it belongs to, and `at`
    /// where its instance stood last time.
    #[allow(clippy::too_many_arguments)]
    pub fn add(
        &mut self,
        bundle: &Bundle,
        taken: u32,
        source: SourceId,
        time: Timestamp,
        observed: &Observed<'_>,
        part: &str,
        at: &mut u16,
    ) {
        let mut missed = 0;
        match observed {
            Observed::Value(Value::Number(number)) if taken == bundle.all => {
                for (slot, (accumulator, fence)) in self.accumulators.iter_mut().zip(&bundle.fences).enumerate() {
                    let misses = if fence.is_all {
                        accumulator.add_number(*number, fence);
                        fence.is_beyond(*number)
                    } else {
                        let gauge = &bundle.inputs[slot].gauge;
                        gauge.add(accumulator, time, observed, part);
                        gauge.misses(observed)
                    };
                    missed |= u32::from(misses) << slot;
                }
            }
            _ => {
                for slot in slots(taken) {
                    let gauge = &bundle.inputs[slot].gauge;
                    gauge.add(&mut self.accumulators[slot], time, observed, part);
                    missed |= u32::from(gauge.misses(observed)) << slot;
                }
            }
        }
        let is_here = |brought: &Brought| brought.source == source && brought.taken == taken;
        if !self.brought.get(usize::from(*at)).is_some_and(is_here) {
            *at = self.place_of(source, taken) as u16;
        }
        let brought = &mut self.brought[usize::from(*at)];
        // An answer belongs to an inference that was counted already.
        brought.samples = brought.samples.saturating_add(u32::from(!matches!(observed, Observed::Answer(_))));
        brought.sum += Gauge::number(observed);
        if missed != 0 {
            self.miss(usize::from(*at), missed);
        }
    }

    /// Where an instance's entry stands, or that of all others when there are too many.
    fn place_of(&mut self, source: SourceId, taken: u32) -> usize {
        let brought = &mut self.brought;
        let find = |brought: &[Brought], source| {
            brought.iter().position(|known| known.source == source && known.taken == taken)
        };
        let source = match find(brought, source) {
            Some(at) => return at,
            None if brought.len() < SHARES_MAX => source,
            None => match find(brought, OTHERS) {
                Some(at) => return at,
                // As many sets of slots as there may be: a handful of kinds of values.
                None => OTHERS,
            },
        };
        // Most panes are of one or two instances.
        brought.reserve_exact(if brought.is_empty() { 1 } else { brought.len() });
        brought.push(Brought { source, taken, samples: 0, sum: 0.0 });
        if !self.misses.is_empty() {
            self.misses.resize(self.brought.len() * self.accumulators.len(), 0);
        }
        self.brought.len() - 1
    }

    fn miss(&mut self, at: usize, missed: u32) {
        let slots_all = self.accumulators.len();
        self.misses.resize(self.brought.len() * slots_all, 0);
        for slot in slots(missed) {
            let misses = &mut self.misses[at * slots_all + slot];
            *misses = misses.saturating_add(1);
        }
    }

    /// Forgets what one slot took.
    pub fn forget(&mut self, slot: usize, gauge: &Gauge) {
        self.accumulators[slot] = gauge.empty();
        for brought in &mut self.brought {
            brought.taken &= !(1 << slot);
        }
    }

    /// The same observations for other slots: of each, where it is to be, in a bundle of so many.
    pub fn moved(self, homes: &[Option<usize>], bundle: &Bundle) -> Pane {
        let Pane { start, accumulators, brought, misses, dirty } = self;
        let mut pane = Pane { dirty, ..Pane::new(start, bundle) };
        let old = accumulators.len();
        for (accumulator, home) in accumulators.into_iter().zip(homes) {
            if let Some(home) = home {
                pane.accumulators[*home] = accumulator;
            }
        }
        for (at, entry) in brought.into_iter().enumerate() {
            let kept = || slots(entry.taken).filter_map(|slot| Some((slot, (*homes.get(slot)?)?)));
            let taken = kept().fold(0, |taken, (_, home)| taken | 1 << home);
            if taken == 0 {
                continue;
            }
            pane.brought.push(Brought { taken, ..entry });
            for (slot, home) in kept().filter(|_| !misses.is_empty()) {
                pane.misses.resize(pane.brought.len() * bundle.inputs.len(), 0);
                pane.misses[(pane.brought.len() - 1) * bundle.inputs.len() + home] = misses[at * old + slot];
            }
        }
        pane.misses.resize(if pane.misses.is_empty() { 0 } else { pane.brought.len() * bundle.inputs.len() }, 0);
        pane
    }

    /// Takes in what other slots of the same pane took.
    pub fn take_in(&mut self, other: Pane) {
        for (ours, theirs) in self.accumulators.iter_mut().zip(&other.accumulators) {
            ours.merge(theirs);
        }
        let slots_all = self.accumulators.len();
        for (at, entry) in other.brought.iter().enumerate() {
            self.brought.push(*entry);
            if !other.misses.is_empty() {
                self.misses.resize(self.brought.len() * slots_all, 0);
                let end = self.misses.len();
                self.misses[end - slots_all..].copy_from_slice(&other.misses[at * slots_all..(at + 1) * slots_all]);
            }
        }
        self.misses.resize(if self.misses.is_empty() { 0 } else { self.brought.len() * slots_all }, 0);
        self.dirty |= other.dirty;
    }

    /// What instances brought to a slot.
    fn shares(&self, slot: usize) -> impl Iterator<Item = Share> {
        let of_slot = self.brought.iter().enumerate().filter(move |(_, brought)| brought.taken & (1 << slot) != 0);
        of_slot.map(move |(at, Brought { source, samples, sum, .. })| {
            let misses = self.misses.get(at * self.accumulators.len() + slot).copied().unwrap_or(0);
            Share { source: *source, samples: *samples, misses, sum: *sum }
        })
    }
}

/// Adds to the instance's entry, or to that of all others when there are too many.
pub fn add_share(shares: &mut Vec<Share>, share: Share) {
    let find = |shares: &[Share], source| shares.iter().position(|known| known.source == source);
    let at = match find(shares, share.source) {
        Some(at) => at,
        None if shares.len() < SHARES_MAX => {
            shares.push(Share { samples: 0, misses: 0, sum: 0.0, ..share });
            shares.len() - 1
        }
        None => find(shares, OTHERS).unwrap_or(shares.len() - 1),
    };
    let known = &mut shares[at];
    if known.source != share.source {
        known.source = OTHERS;
    }
    known.samples = known.samples.saturating_add(share.samples);
    known.misses = known.misses.saturating_add(share.misses);
    known.sum += share.sum;
}

/// The panes of a series, by start.
#[derive(Debug, Clone, Default)]
pub struct Panes(pub VecDeque<Pane>);

impl Panes {
    /// The pane of a start, made if missing.
    pub fn at(&mut self, start: Timestamp, bundle: &Bundle) -> &mut Pane {
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
                    Some(before) => Pane::like(before, start, bundle),
                    None => Pane::new(start, bundle),
                };
                self.0.insert(index, pane);
                index
            }
        };
        &mut self.0[index]
    }

    /// The merge of all panes that start in `from..until`.
    pub fn merged(&self, slot: usize, from: Timestamp, until: Timestamp, gauge: &Gauge) -> Accumulator {
        let mut inside = self.inside(from, until).map(|pane| &pane.accumulators[slot]);
        let Some(first) = inside.next() else { return gauge.empty() };
        let mut merged = first.clone();
        inside.for_each(|accumulator| merged.merge(accumulator));
        merged
    }

    /// The pane of a start, if there is one.
    pub fn get(&self, slot: usize, start: Timestamp) -> Option<&Accumulator> {
        let place = self.0.binary_search_by_key(&start, |pane| pane.start).ok()?;
        Some(&self.0[place].accumulators[slot])
    }

    /// Observations of all panes that start in `from..until`.
    pub fn samples(&self, slot: usize, from: Timestamp, until: Timestamp) -> u64 {
        self.inside(from, until).map(|pane| pane.accumulators[slot].samples()).sum()
    }

    /// Who reported what in `from..until`.
    pub fn shares(&self, slot: usize, from: Timestamp, until: Timestamp) -> Vec<Share> {
        let mut shares = Vec::new();
        self.inside(from, until).flat_map(|pane| pane.shares(slot)).for_each(|share| add_share(&mut shares, share));
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
