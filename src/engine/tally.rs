//! How often an objective was judged how: verdicts by minute, for those who settle accounts.

use super::verdict::Verdict;
use crate::time::{Span, Timestamp};

const MINUTE: Span = Span::seconds(60);

/// The verdicts of one minute of event time on all series of an objective.
#[derive(Debug, Clone, PartialEq)]
pub struct TallyRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// Which contract.
    pub contract: String,
    /// Which objective.
    pub objective: String,
    /// Start of the minute that the window ends fall into.
    pub start: Timestamp,
    /// How many, in the order of [`Verdict::ALL`].
    pub counts: [u64; 5],
}

/// The minutes of an objective that may still grow.
#[derive(Debug, Default)]
pub(super) struct Tally(Vec<(Timestamp, [u64; 5], bool)>);

impl Tally {
    /// Counts a verdict on a window end, or on an observation.
    pub fn count(&mut self, verdict: Verdict, at: Timestamp, watermark: Timestamp) {
        let start = at.max(watermark).floor(MINUTE);
        let place = self.0.iter().rposition(|(minute, ..)| *minute == start).unwrap_or_else(|| {
            self.0.push((start, [0; 5], true));
            self.0.len() - 1
        });
        self.0[place].1[verdict as usize] += 1;
        self.0[place].2 = true;
    }

    /// The minutes that changed since the last call; lets go of those that are over.
    pub fn take_changed(&mut self, watermark: Timestamp) -> Vec<(Timestamp, [u64; 5])> {
        let changed = self.0.iter_mut().filter_map(|(start, counts, dirty)| {
            let changed = std::mem::take(dirty);
            changed.then_some((*start, *counts))
        });
        let changed = changed.collect();
        self.0.retain(|(start, ..)| *start + MINUTE > watermark);
        changed
    }

    /// Takes back a minute.
    pub fn restore(&mut self, start: Timestamp, counts: [u64; 5], watermark: Timestamp) {
        if start + MINUTE > watermark {
            self.0.push((start, counts, false));
        }
    }
}
