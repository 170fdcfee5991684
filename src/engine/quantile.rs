//! A quantile sketch with a bounded relative error: DDSketch (Masson, Rim, Lee: "DDSketch:
//! a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019).
//!
//! Values fall into bins whose bounds grow by γ; counts of bins add up, so the sketch of a
//! union is the union of sketches, whatever the order. Bins are a sorted list: a series of
//! latencies fills a few dozen of them, at 12 bytes each.

use serde::{Deserialize, Serialize};

/// Guaranteed relative error of a quantile, with room for rounding below the promised 1 %.
const ALPHA: f64 = 0.0099;
/// Bin indices lie within ±36,000 for all finite numbers; the offset keeps the signs apart.
const OFFSET: i32 = 50_000;
/// Smaller magnitudes count as zero.
const ZERO_BELOW: f64 = 1e-300;

/// Counts of values by bin, sorted by bin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sketch(Vec<Bin>);

/// A bin and how many values fell into it. There are many, so they are packed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "(i32, u64)", into = "(i32, u64)")]
#[repr(Rust, packed(4))]
struct Bin {
    at: i32,
    count: u64,
}

impl From<(i32, u64)> for Bin {
    fn from((at, count): (i32, u64)) -> Bin {
        Bin { at, count }
    }
}

impl From<Bin> for (i32, u64) {
    fn from(bin: Bin) -> (i32, u64) {
        (bin.at, bin.count)
    }
}

/// The bin of a value. Greater values have greater bins.
fn bin(value: f64) -> i32 {
    let magnitude = value.abs();
    if magnitude < ZERO_BELOW {
        return 0;
    }
    let log_gamma = ((1.0 + ALPHA) / (1.0 - ALPHA)).ln();
    let index = (magnitude.ln() / log_gamma).ceil() as i32 + OFFSET;
    if value < 0.0 { -index } else { index }
}

/// The value that stands for a bin: within ALPHA of everything in it.
fn middle(bin: i32) -> f64 {
    if bin == 0 {
        return 0.0;
    }
    let log_gamma = ((1.0 + ALPHA) / (1.0 - ALPHA)).ln();
    let upper = ((bin.abs() - OFFSET) as f64 * log_gamma).exp();
    let magnitude = (upper * (1.0 - ALPHA)).min(f64::MAX);
    if bin < 0 { -magnitude } else { magnitude }
}

impl Sketch {
    /// Makes room for as many bins as another has.
    pub fn reserve_like(&mut self, other: &Sketch) {
        self.0.reserve_exact(other.0.len());
    }

    /// Reads the ends of the list of bins.
    pub fn read(&self) -> u64 {
        self.0.first().map_or(0, |bin| bin.count) + self.0.last().map_or(0, |bin| bin.count)
    }

    /// Counts a finite value.
    pub fn add(&mut self, value: f64) {
        let bin = bin(value);
        match self.0.binary_search_by_key(&bin, |known| known.at) {
            Ok(place) => self.0[place].count += 1,
            Err(place) => self.0.insert(place, Bin { at: bin, count: 1 }),
        }
    }

    /// Adds the counts of another sketch.
    pub fn merge(&mut self, other: &Sketch) {
        let bins = &mut self.0;
        // From the back, within the list: all bins of ours that are not theirs move up.
        let (mut ours, mut missing) = (0, 0);
        for theirs in &other.0 {
            while bins.get(ours).is_some_and(|known| known.at < theirs.at) {
                ours += 1;
            }
            missing += usize::from(bins.get(ours).is_none_or(|known| known.at != theirs.at));
        }
        let mut left = bins.len();
        bins.resize(left + missing, Bin::default());
        let mut place = bins.len();
        for theirs in other.0.iter().rev() {
            while left > 0 && bins[left - 1].at > theirs.at {
                (place, left) = (place - 1, left - 1);
                bins[place] = bins[left];
            }
            place -= 1;
            let mut both = *theirs;
            if left > 0 && bins[left - 1].at == theirs.at {
                left -= 1;
                both.count += bins[left].count;
            }
            bins[place] = both;
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|bin| bin.count).sum()
    }

    /// The value of the given rank (from 1), within 1 %.
    pub fn at_rank(&self, rank: u64) -> Option<f64> {
        let mut seen = 0;
        self.0.iter().find_map(|bin| {
            seen += bin.count;
            (seen >= rank).then(|| middle(bin.at))
        })
    }
}

/// The nearest rank of a quantile: the least rank that is at least `share` of `count`, from 1.
pub fn nearest_rank(share: f64, count: u64) -> u64 {
    // The product of a decimal share and a whole count may miss a whole number by rounding.
    let exact = share * count as f64;
    let rank = (exact - exact * 1e-12).ceil() as u64;
    rank.clamp(1, count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_within_one_percent(
            mut values in prop::collection::vec(prop_oneof![-1e9..1e9f64, -1.0..1.0f64, Just(0.0), 1e-12..1e-6f64, 1e200..1e300f64], 1..400),
            share in 0.001..0.999f64,
        ) {
            let mut sketch = Sketch::default();
            values.iter().for_each(|v| sketch.add(*v));
            values.sort_by(f64::total_cmp);
            let rank = nearest_rank(share, values.len() as u64);
            let exact = values[rank as usize - 1];
            let seen = sketch.at_rank(rank).expect("not empty");
            prop_assert!((seen - exact).abs() <= 0.01 * exact.abs(), "{seen} for {exact}");
        }
    }

    proptest! {
        #[test]
        fn a_merge_counts_what_both_count(a in prop::collection::vec(-5..5i32, 0..20), b in prop::collection::vec(-5..5i32, 0..20)) {
            let sketch_of = |values: &[i32]| {
                let mut sketch = Sketch::default();
                values.iter().for_each(|value| sketch.add(f64::from(*value)));
                sketch
            };
            let mut merged = sketch_of(&a);
            merged.merge(&sketch_of(&b));
            prop_assert_eq!(merged, sketch_of(&[a, b].concat()));
        }
    }

    #[test]
    fn nearest_rank_is_exact_for_decimal_shares() {
        for (share, count, rank) in [
            (0.99, 100, 99),
            (0.95, 20, 19),
            (0.5, 1, 1),
            (0.5, 4, 2),
            (0.999, 1000, 999),
            (0.07, 100, 7),
            (0.99, 101, 100),
        ] {
            assert_eq!(nearest_rank(share, count), rank, "{share} of {count}");
        }
    }

    #[test]
    fn extremes_have_bins() {
        for value in [f64::MAX, f64::MIN, f64::MIN_POSITIVE, -f64::MIN_POSITIVE, 0.0] {
            assert!(middle(bin(value)).is_finite(), "{value}");
        }
        assert!(bin(-1.0) < bin(-0.5) && bin(-0.5) < bin(0.0) && bin(0.0) < bin(1e-9) && bin(1e-9) < bin(1.0));
    }
}
