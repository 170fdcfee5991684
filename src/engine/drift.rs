//! How far a window's distribution is from a baseline's, and how far chance alone would take it.
//!
//! - `psi`: Σ (a−b)·ln(a/b) over the shares of bins, each at least 1e-4 (Siddiqi 2006). Bins of
//!   numbers are cut at the baseline's deciles; of categories each is one.
//! - `js`: the Jensen-Shannon distance of the same shares, base 2: √((KL(a‖m)+KL(b‖m))/2).
//! - `ks`: sup |F−G|, the two-sample Kolmogorov-Smirnov statistic.
//! - `wasserstein`: ∫|F−G| dx (the first Wasserstein distance) by the baseline's standard deviation.
//! - `chi2`: Pearson's statistic of the table of 2 samples by categories, without correction.

use statrs::function::gamma::ln_gamma;

use super::distribution::{Distribution, deciles};
use crate::contract::Aggregate;

/// Shares of bins are at least this, so that PSI stays finite.
const SHARE_MIN: f64 = 1e-4;

/// A window beside a baseline, made ready to be compared.
#[derive(Debug, Clone)]
pub enum Comparison {
    /// Counts by bin: (baseline, window).
    Bins {
        /// Which statistic.
        kind: Aggregate,
        /// In the order of values or names.
        counts: Vec<(u64, u64)>,
        /// Whether the bins were cut by the baseline's own values.
        cut: bool,
    },
    /// Distinct numbers in order, with the weights (baseline, window).
    Steps {
        /// Which statistic.
        kind: Aggregate,
        /// In the order of numbers.
        points: Vec<(f64, u64, u64)>,
        /// The baseline's standard deviation.
        deviation: f64,
        /// Whether each number of both samples is there.
        exact: bool,
    },
}

impl Comparison {
    /// Puts a window beside a baseline. None where one is empty, or the baseline has no spread that
    /// a distance could be measured by; an error where they cannot be compared.
    pub fn new(kind: Aggregate, baseline: &Distribution, window: &Distribution) -> Result<Option<Comparison>, String> {
        for (which, distribution) in [("the baseline", baseline), ("the window", window)] {
            if let Some(fault) = distribution.fault() {
                return Err(format!("{which} holds {fault}"));
            }
        }
        if baseline.samples() == 0 || window.samples() == 0 {
            return Ok(None);
        }
        if (baseline.others > 0) != (window.others > 0) {
            return Err("one of baseline and window holds numbers, the other categories".to_owned());
        }
        if matches!(kind, Aggregate::Ks | Aggregate::Wasserstein) {
            let deviation = baseline.numbers.moments.deviation().unwrap_or(0.0);
            if kind == Aggregate::Wasserstein && deviation <= 0.0 {
                return Ok(None);
            }
            let exact = baseline.numbers.is_exact() && window.numbers.is_exact();
            let points = together(&baseline.numbers.weighted(), &window.numbers.weighted());
            return Ok(Some(Comparison::Steps { kind, points, deviation, exact }));
        }
        let cut = baseline.others == 0;
        let counts = if cut { binned(baseline, window) } else { by_category(baseline, window) };
        Ok(Some(Comparison::Bins { kind, counts, cut }))
    }

    /// Values of the baseline and of the window.
    pub fn sizes(&self) -> (u64, u64) {
        match self {
            Comparison::Bins { counts, .. } => counts.iter().fold((0, 0), |(m, n), (b, w)| (m + b, n + w)),
            Comparison::Steps { points, .. } => points.iter().fold((0, 0), |(m, n), (_, b, w)| (m + b, n + w)),
        }
    }

    /// The distance.
    pub fn value(&self) -> f64 {
        match self {
            Comparison::Bins { kind, counts, .. } => of_bins(*kind, counts),
            Comparison::Steps { kind, points, deviation, .. } => {
                let (m, n) = self.sizes();
                of_steps(*kind, points.iter().copied(), m, n) / if *kind == Aggregate::Ks { 1.0 } else { *deviation }
            }
        }
    }

    /// The value to expect if window and baseline came from the same distribution, from the
    /// asymptotic null distributions. With s = 1/n + 1/m and k bins:
    /// PSI ~ s·χ²(k−1) (Yurdakul and Naranjo 2020); JS² ~ s·χ²(k−1) / (8 ln 2);
    /// KS ~ √s·K, whose mean is √(π/2)·ln 2; Wasserstein ~ √s·∫|B(F)|dx, whose mean is
    /// √(2s/π)·∫√(F(1−F))dx; χ² has mean k−1.
    pub fn expected(&self) -> f64 {
        let (m, n) = self.sizes();
        let s = 1.0 / m as f64 + 1.0 / n as f64;
        match self {
            Comparison::Bins { kind, counts, .. } => {
                let freedom = self.freedom(counts);
                match kind {
                    Aggregate::Psi => s * freedom,
                    Aggregate::Js if freedom > 0.0 => {
                        let mean_chi = (ln_gamma((freedom + 1.0) / 2.0) - ln_gamma(freedom / 2.0)).exp() * 2f64.sqrt();
                        (s / (8.0 * std::f64::consts::LN_2)).sqrt() * mean_chi
                    }
                    Aggregate::Js => 0.0,
                    _ => freedom,
                }
            }
            Comparison::Steps { kind: Aggregate::Ks, .. } => {
                s.sqrt() * (std::f64::consts::PI / 2.0).sqrt() * std::f64::consts::LN_2
            }
            Comparison::Steps { points, deviation, .. } => {
                let total = (m + n) as f64;
                let mut below = 0;
                let spread: f64 = points
                    .windows(2)
                    .map(|pair| {
                        below += pair[0].1 + pair[0].2;
                        let share = below as f64 / total;
                        (share * (1.0 - share)).sqrt() * (pair[1].0 - pair[0].0)
                    })
                    .sum();
                (2.0 * s / std::f64::consts::PI).sqrt() * spread / deviation
            }
        }
    }

    /// Degrees of freedom: bins that hold anything, less one.
    pub(super) fn freedom(&self, counts: &[(u64, u64)]) -> f64 {
        counts.iter().filter(|(b, w)| b + w > 0).count().saturating_sub(1) as f64
    }
}

/// The bins' statistic.
pub(super) fn of_bins(kind: Aggregate, counts: &[(u64, u64)]) -> f64 {
    let (m, n) = counts.iter().fold((0, 0), |(m, n), (b, w)| (m + b, n + w));
    let (m, n) = (m as f64, n as f64);
    let shares = counts.iter().map(|(b, w)| (*b as f64 / m, *w as f64 / n));
    match kind {
        Aggregate::Psi => {
            shares.map(|(b, w)| (b.max(SHARE_MIN), w.max(SHARE_MIN))).map(|(b, w)| (w - b) * (w / b).ln()).sum()
        }
        Aggregate::Js => {
            let part = |p: f64, mid: f64| if p > 0.0 { p * (p / mid).log2() } else { 0.0 };
            let divergence: f64 = shares.map(|(b, w)| part(b, (b + w) / 2.0) + part(w, (b + w) / 2.0)).sum();
            (divergence / 2.0).max(0.0).sqrt()
        }
        _ => counts
            .iter()
            .filter(|(b, w)| b + w > 0)
            .map(|(b, w)| {
                let all = (b + w) as f64 / (m + n);
                (*b as f64 - all * m).powi(2) / (all * m) + (*w as f64 - all * n).powi(2) / (all * n)
            })
            .sum(),
    }
}

/// The steps' statistic, before it is divided by a deviation.
pub(super) fn of_steps(kind: Aggregate, points: impl Iterator<Item = (f64, u64, u64)>, m: u64, n: u64) -> f64 {
    let (m, n) = (m as f64, n as f64);
    let (mut below, mut within) = (0, 0);
    let mut before: Option<f64> = None;
    let (mut gap, mut greatest, mut area) = (0.0f64, 0.0f64, 0.0);
    for (at, of_baseline, of_window) in points {
        area += gap * before.map_or(0.0, |before| at - before);
        below += of_baseline;
        within += of_window;
        gap = (below as f64 / m - within as f64 / n).abs();
        greatest = greatest.max(gap);
        before = Some(at);
    }
    if kind == Aggregate::Ks { greatest } else { area }
}

/// Merges two sorted samples, equal numbers into one point.
fn together(baseline: &[(f64, u64)], window: &[(f64, u64)]) -> Vec<(f64, u64, u64)> {
    let mut points: Vec<(f64, u64, u64)> = Vec::with_capacity(baseline.len() + window.len());
    let (mut left, mut right) = (baseline.iter().peekable(), window.iter().peekable());
    loop {
        let ours = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => a.0 <= b.0,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return points,
        };
        let next = if ours { left.next().map(|(v, w)| (*v, *w, 0)) } else { right.next().map(|(v, w)| (*v, 0, *w)) };
        let Some(next) = next else { return points };
        match points.last_mut() {
            Some(last) if last.0 == next.0 => {
                last.1 += next.1;
                last.2 += next.2;
            }
            _ => points.push(next),
        }
    }
}

fn binned(baseline: &Distribution, window: &Distribution) -> Vec<(u64, u64)> {
    let sorted = baseline.numbers.weighted();
    let mut cuts = deciles(&sorted);
    cuts.dedup();
    let mut counts = vec![(0, 0); cuts.len() + 1];
    let bin = |value: f64| cuts.partition_point(|cut| *cut <= value);
    sorted.iter().for_each(|(value, weight)| counts[bin(*value)].0 += weight);
    window.numbers.weighted().iter().for_each(|(value, weight)| counts[bin(*value)].1 += weight);
    counts
}

fn by_category(baseline: &Distribution, window: &Distribution) -> Vec<(u64, u64)> {
    let mut counts: Vec<(u64, u64)> =
        baseline.categories.iter().map(|(name, b)| (*b, window.categories.get(name).copied().unwrap_or(0))).collect();
    let new = window.categories.iter().filter(|(name, _)| !baseline.categories.contains_key(*name));
    counts.extend(new.map(|(_, w)| (0, *w)));
    counts
}
