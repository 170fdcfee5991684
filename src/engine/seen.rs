//! Report ids that were seen: a report counts once within ten minutes of event time.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::time::{Span, Timestamp};

/// How long an id is remembered, in event time.
pub const MEMORY: Span = Span::seconds(600);

/// The ids of one application.
#[derive(Debug, Default)]
pub struct Seen {
    ids: FxHashMap<u128, Timestamp>,
    order: VecDeque<(Timestamp, u128)>,
    /// Whether fresh ids are kept for snapshots.
    pub keep: bool,
    fresh: Vec<(u128, Timestamp)>,
}

impl Seen {
    /// Notes an id; false if it was seen within the memory of the greatest event time so far.
    pub fn insert(&mut self, id: u128, time: Timestamp, clock: Timestamp) -> bool {
        let horizon = clock - MEMORY;
        if self.ids.get(&id).is_some_and(|at| *at >= horizon) {
            return false;
        }
        self.ids.insert(id, time);
        self.order.push_back((time, id));
        if self.keep {
            self.fresh.push((id, time));
        }
        while self.order.front().is_some_and(|(at, _)| *at < horizon) {
            self.forget_oldest();
        }
        true
    }

    /// Forgets the id that was noted first; false if there is none.
    pub fn forget_oldest(&mut self) -> bool {
        let Some((time, id)) = self.order.pop_front() else { return false };
        if self.ids.get(&id) == Some(&time) {
            self.ids.remove(&id);
        }
        true
    }

    /// How many ids are remembered.
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// The ids noted since the last call, for the store.
    pub fn take_fresh(&mut self) -> Vec<(u128, Timestamp)> {
        std::mem::take(&mut self.fresh)
    }

    /// Takes back ids that the store kept.
    pub fn restore(&mut self, id: u128, time: Timestamp) {
        self.ids.insert(id, time);
        self.order.push_back((time, id));
    }
}
