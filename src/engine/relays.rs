//! Metrics that a report passes on from instances before its own (QoA4ML): they count only
//! while the instance has not been heard from itself, and once.

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::time::{Span, Timestamp};

const INSTANCES_MAX: usize = 4_096;
const COUNTED_MAX: usize = 200_000;

/// Who was heard from, and what was counted for others.
#[derive(Debug, Default)]
pub struct Relays {
    /// When each instance (by id) last reported itself.
    pub heard: BTreeMap<Box<str>, Timestamp>,
    counted: FxHashMap<u128, Timestamp>,
    order: VecDeque<(Timestamp, u128)>,
    /// Whether changes are logged.
    pub keep: bool,
    log: Vec<Relay>,
}

/// A logged observation that was counted for another instance: digest and time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relay(pub String, pub Timestamp);

fn key(id: &str, attribute: &str, start: Timestamp, index: usize) -> u128 {
    let mut hasher = Xxh3Default::new();
    for part in [id, attribute] {
        hasher.update(&(part.len() as u32).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&start.as_micros().to_le_bytes());
    hasher.update(&(index as u64).to_le_bytes());
    hasher.digest128()
}

impl Relays {
    /// An instance reported itself.
    pub fn hear(&mut self, id: &str, at: Timestamp) {
        match self.heard.get_mut(id) {
            Some(known) => *known = (*known).max(at),
            None => {
                if self.heard.len() >= INSTANCES_MAX {
                    let oldest = self.heard.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone());
                    oldest.map(|id| self.heard.remove(&id));
                }
                self.heard.insert(id.into(), at);
            }
        }
    }

    /// Whether an instance spoke for itself within the horizon before `at`.
    pub fn is_heard(&self, id: &str, at: Timestamp, horizon: Span) -> bool {
        self.heard.get(id).is_some_and(|heard| *heard + horizon >= at)
    }

    /// Notes the `index`th observation of an attribute by an instance; false if it was counted before.
    pub fn count(&mut self, id: &str, attribute: &str, start: Timestamp, index: usize) -> bool {
        let key = key(id, attribute, start, index);
        if self.counted.contains_key(&key) {
            return false;
        }
        if self.keep {
            self.log.push(Relay(format!("{key:032x}"), start));
        }
        self.put(key, start);
        true
    }

    fn put(&mut self, key: u128, start: Timestamp) {
        self.counted.insert(key, start);
        self.order.push_back((start, key));
        if self.order.len() > COUNTED_MAX {
            self.forget_oldest();
        }
    }

    /// Whether an observation was counted for its instance before it was heard itself.
    pub fn is_counted(&self, id: &str, attribute: &str, start: Timestamp, index: usize) -> bool {
        !self.counted.is_empty() && self.counted.contains_key(&key(id, attribute, start, index))
    }

    /// Forgets what is older than `before`.
    pub fn forget_before(&mut self, before: Timestamp) {
        while self.order.front().is_some_and(|(at, _)| *at < before) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.counted.remove(&key);
        }
    }

    /// What was counted since the last call, for the store.
    pub fn take_log(&mut self) -> Vec<Relay> {
        std::mem::take(&mut self.log)
    }

    /// Takes back a logged observation.
    pub fn restore(&mut self, Relay(digest, start): Relay) {
        if let Ok(key) = u128::from_str_radix(&digest, 16) {
            self.put(key, start);
        }
    }
}
