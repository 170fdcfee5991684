//! Report ids that were seen: a report counts once within ten minutes of event time.

use std::collections::VecDeque;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::time::{Span, Timestamp};

/// How long an id is remembered, in event time.
pub const MEMORY: Span = Span::seconds(600);

/// Later than any time: what was noted before does not matter.
const UNBOUNDED: Timestamp = Timestamp::from_micros(i64::MAX);

/// The ids of one application.
#[derive(Debug, Default)]
pub struct Seen {
    /// In the order in which they came.
    order: VecDeque<Noted>,
    /// The number of the first in `order`; numbers wrap around.
    first: u32,
    /// By id, the number of the newest note of it.
    numbers: HashTable<u32>,
    /// Whether fresh ids are kept for snapshots.
    pub keep: bool,
    fresh: Vec<Noted>,
}

/// An id and its time; there are many, so they are small.
#[derive(Debug, Clone, Copy)]
struct Noted {
    /// Both halves of the id: aligned to 8 bytes, not to 16.
    id: [u64; 2],
    time: Timestamp,
}

impl Noted {
    fn new(id: u128, time: Timestamp) -> Noted {
        Noted { id: [id as u64, (id >> 64) as u64], time }
    }

    /// Ids are digests, so that a half of one is well mixed.
    fn hash(&self) -> u64 {
        self.id[0]
    }
}

impl Seen {
    /// Notes an id; false if it was seen within the memory of the greatest event time so far.
    pub fn insert(&mut self, id: u128, time: Timestamp, clock: Timestamp) -> bool {
        let horizon = clock - MEMORY;
        let noted = Noted::new(id, time);
        if !self.note(noted, horizon) {
            return false;
        }
        if self.keep {
            self.fresh.push(noted);
        }
        while self.order.front().is_some_and(|oldest| oldest.time < horizon) {
            self.forget_oldest();
        }
        true
    }

    /// Notes an id, unless it was noted with a time since the horizon.
    fn note(&mut self, noted: Noted, horizon: Timestamp) -> bool {
        let Seen { order, first, numbers, .. } = self;
        let number = first.wrapping_add(order.len() as u32);
        let of = |number: &u32| &order[number.wrapping_sub(*first) as usize];
        match numbers.entry(noted.hash(), |known| of(known).id == noted.id, |known| of(known).hash()) {
            Entry::Occupied(known) if of(known.get()).time >= horizon => return false,
            Entry::Occupied(mut known) => *known.get_mut() = number,
            Entry::Vacant(empty) => drop(empty.insert(number)),
        }
        order.push_back(noted);
        true
    }

    /// Forgets the id that was noted first; false if there is none.
    pub fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.order.pop_front() else { return false };
        let number = self.first;
        self.first = number.wrapping_add(1);
        // It may have been noted again since.
        if let Ok(entry) = self.numbers.find_entry(oldest.hash(), |known| *known == number) {
            entry.remove();
        }
        true
    }

    /// How many ids are remembered.
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// The ids noted since the last call, for the store.
    pub fn take_fresh(&mut self) -> Vec<(u128, Timestamp)> {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        fresh.map(|noted| (u128::from(noted.id[0]) | u128::from(noted.id[1]) << 64, noted.time)).collect()
    }

    /// Takes back ids that the store kept.
    pub fn restore(&mut self, id: u128, time: Timestamp) {
        self.note(Noted::new(id, time), UNBOUNDED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// As a plain map would do it, over numbers that wrap around, with ids that come again in and after their time.
    #[test]
    fn ids_count_once_within_their_memory() {
        let mut seen = Seen { first: u32::MAX - 500, ..Seen::default() };
        let mut known: BTreeMap<u128, i64> = BTreeMap::new();
        let (mut fresh, mut random) = (0, 7_u64);
        for n in 0..5_000_i64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = u128::from(random >> 40) % 700 * 0x1_0000_0001_0000_0001_0000_0001;
            let at = Timestamp::from_micros(n * 1_000_000);
            let is_new = known.get(&id).is_none_or(|before| *before < n - 600);
            assert_eq!(seen.insert(id, at, at), is_new, "{n}");
            if is_new {
                known.insert(id, n);
                fresh += 1;
            }
        }
        assert!(fresh > 2_000 && seen.count() <= 601, "{fresh} {}", seen.count());
        while seen.forget_oldest() {}
        assert!(seen.numbers.is_empty());
    }
}
