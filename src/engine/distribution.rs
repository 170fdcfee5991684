//! How values are distributed: numbers as a sample, other values by category.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::aggregate::Moments;
use crate::report::Value;

/// Values that a [`Sample`] keeps one by one; a level of it never holds more.
const LEVEL_MAX: usize = 16_384;
/// Different categories that are counted; more make an `error` evaluation.
const CATEGORIES_MAX: usize = 10_000;

/// Values of one attribute.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// Numbers.
    pub numbers: Sample,
    /// Texts and bools, with their counts.
    pub categories: BTreeMap<Box<str>, u64>,
    /// Texts and bools in all.
    pub others: u64,
    overflow: bool,
}

impl Distribution {
    /// Values counted.
    pub fn samples(&self) -> u64 {
        self.numbers.moments.n + self.others
    }

    /// Why it cannot be compared with another, if it cannot.
    pub fn fault(&self) -> Option<String> {
        if self.overflow {
            return Some(format!("more than {CATEGORIES_MAX} different categories"));
        }
        (self.numbers.moments.n > 0 && self.others > 0).then(|| "both numbers and categories".to_owned())
    }

    /// Counts a value.
    pub fn add(&mut self, value: &Value<'_>) {
        match value {
            Value::Number(number) => self.numbers.add(*number),
            Value::Text(text) => self.add_category(text, 1),
            Value::Bool(flag) => self.add_category(if *flag { "true" } else { "false" }, 1),
        }
    }

    fn add_category(&mut self, category: &str, count: u64) {
        self.others += count;
        if self.overflow {
            return;
        }
        match self.categories.get_mut(category) {
            Some(known) => *known += count,
            None => {
                self.categories.insert(category.into(), count);
                if self.categories.len() > CATEGORIES_MAX {
                    self.overflow = true;
                    self.categories.clear();
                }
            }
        }
    }

    /// Adds the values of another.
    pub fn merge(&mut self, other: &Distribution) {
        self.numbers.merge(&other.numbers);
        if other.overflow {
            self.overflow = true;
            self.categories.clear();
            self.others += other.others;
        } else {
            other.categories.iter().for_each(|(category, count)| self.add_category(category, *count));
        }
    }
}

/// Numbers: each one up to 16,383 of them, beyond that a sample.
///
/// A full level is sorted, every second value goes up a level, where it stands for twice as
/// many (Manku, Rajagopalan, Lindsay 1998; the compactor of Karnin, Lang, Liberty, "Optimal
/// quantile approximation in streams", 2016, with alternating instead of random choice). A rank
/// is then off by about one part in ten thousand. Mean and deviation are exact at any size.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Of all numbers.
    pub moments: Moments,
    /// Values of level i stand for 2^i each.
    levels: Vec<Vec<f64>>,
    /// How often a level was thinned; says which of two values goes up.
    thinned: u64,
}

impl Sample {
    /// Counts a number.
    pub fn add(&mut self, number: f64) {
        self.moments.add(number);
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        self.levels[0].push(number);
        if self.levels[0].len() >= LEVEL_MAX {
            self.thin();
        }
    }

    /// Adds the numbers of another.
    pub fn merge(&mut self, other: &Sample) {
        self.moments.merge(&other.moments);
        if self.levels.len() < other.levels.len() {
            self.levels.resize(other.levels.len(), Vec::new());
        }
        for (ours, theirs) in self.levels.iter_mut().zip(&other.levels) {
            ours.extend_from_slice(theirs);
        }
        self.thin();
    }

    fn thin(&mut self) {
        let mut level = 0;
        while level < self.levels.len() {
            if self.levels[level].len() >= LEVEL_MAX {
                let mut full = std::mem::take(&mut self.levels[level]);
                full.sort_unstable_by(f64::total_cmp);
                let odd = if full.len() % 2 == 1 { full.pop() } else { None };
                let first = (self.thinned % 2) as usize;
                self.thinned += 1;
                if level + 1 == self.levels.len() {
                    self.levels.push(Vec::new());
                }
                self.levels[level + 1].extend(full.into_iter().skip(first).step_by(2));
                self.levels[level].extend(odd);
            }
            level += 1;
        }
    }

    /// Whether every number is still there.
    pub fn is_exact(&self) -> bool {
        self.levels.len() <= 1
    }

    /// Numbers and how many each stands for, sorted.
    pub fn weighted(&self) -> Vec<(f64, u64)> {
        let mut all: Vec<(f64, u64)> = Vec::with_capacity(self.levels.iter().map(Vec::len).sum());
        for (level, values) in self.levels.iter().enumerate() {
            all.extend(values.iter().map(|value| (*value, 1u64 << level)));
        }
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        all
    }
}

/// The quantile of a sorted sample, interpolated between its order statistics: the default of
/// numpy (method 7 of Hyndman and Fan 1996).
pub fn quantile(sorted: &[(f64, u64)], share: f64) -> f64 {
    let count: u64 = sorted.iter().map(|(_, weight)| weight).sum();
    let place = share * count.saturating_sub(1) as f64;
    let (below, part) = (place.floor() as u64, place - place.floor());
    let mut seen = 0;
    for (index, (value, weight)) in sorted.iter().enumerate() {
        seen += weight;
        if below < seen {
            let next = if below + 1 < seen { *value } else { sorted.get(index + 1).map_or(*value, |(next, _)| *next) };
            return value + (next - value) * part;
        }
    }
    f64::NAN
}

/// The deciles of a sorted sample, from the first to the ninth.
pub fn deciles(sorted: &[(f64, u64)]) -> Vec<f64> {
    (1..10).map(|tenth| quantile(sorted, f64::from(tenth) / 10.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u64) -> f64 {
        (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn every_number_is_kept_up_to_the_limit_and_ranks_are_close_beyond() {
        let mut sample = Sample::default();
        (0..16_383).for_each(|n| sample.add(number(n)));
        assert!(sample.is_exact());
        (16_383..1_000_000).for_each(|n| sample.add(number(n)));
        assert!(!sample.is_exact());
        let sorted = sample.weighted();
        assert!(sorted.len() < 8 * LEVEL_MAX);
        let total: u64 = sorted.iter().map(|(_, weight)| weight).sum();
        assert_eq!(total, 1_000_000);
        for share in [0.01, 0.1, 0.5, 0.9, 0.99] {
            // The numbers are uniform on 0..1, so a quantile is its own rank.
            assert!((quantile(&sorted, share) - share).abs() < 1e-3, "{share}");
        }
    }

    #[test]
    fn merging_equals_adding_up_to_the_limit_and_keeps_ranks_beyond() {
        let of = |range: std::ops::Range<u64>| {
            let mut sample = Sample::default();
            range.for_each(|n| sample.add(number(n)));
            sample
        };
        let mut merged = of(0..6_500);
        merged.merge(&of(6_500..16_000));
        assert_eq!(merged.weighted(), of(0..16_000).weighted());
        let mut merged = Sample::default();
        (0..100).for_each(|part| merged.merge(&of(part * 3_000..(part + 1) * 3_000)));
        assert_eq!(merged.moments.n, 300_000);
        let sorted = merged.weighted();
        assert_eq!(sorted.iter().map(|(_, weight)| weight).sum::<u64>(), 300_000);
        for share in [0.01, 0.5, 0.99] {
            assert!((quantile(&sorted, share) - share).abs() < 2e-3, "{share}");
        }
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let sorted = [(1.0, 1), (2.0, 1), (4.0, 1), (8.0, 1)];
        // np.quantile([1, 2, 4, 8], [0, .1, .5, .9, 1])
        for (share, expected) in [(0.0, 1.0), (0.1, 1.3), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            assert!((quantile(&sorted, share) - expected).abs() < 1e-12, "{share}");
        }
        assert_eq!(quantile(&[(3.0, 4)], 0.7), 3.0);
    }
}
