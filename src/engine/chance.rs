//! How likely chance alone takes a window as far from its baseline as it is: p-values of drift.
//!
//! Where samples are large, from the asymptotic null distributions (see [`super::drift`]); where
//! they are few, by simulation. Simulations draw from a generator that is seeded by what is
//! judged, so the same input gives the same output.

use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64Mcg;
use statrs::function::gamma::gamma_ur;

use super::drift::{Comparison, of_bins, of_steps};
use crate::contract::Aggregate;

/// From this count in each bin on, the asymptotic distribution of bins is good.
const BIN_GOOD: f64 = 100.0;
/// From this many values in the smaller sample on, that of steps is.
const STEPS_GOOD: u64 = 1_000;
/// Steps that the simulations of one window end of an objective may take, all series together:
/// some 5 s, and of one series: some 20 ms.
const WORK_MAX: u64 = 1_000_000_000;
const WORK_SERIES_MAX: u64 = 4_000_000;
/// A simulation ends once this many draws were at least as far (Besag and Clifford 1991).
const ENOUGH: u64 = 40;
/// Points at which a Brownian bridge is simulated.
const BRIDGE_POINTS: usize = 256;

/// How thoroughly the chance of one of several series is looked into.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// The least p-value that must be told from greater ones.
    level: f64,
    /// Steps that simulations may take.
    work: u64,
    /// What simulations are seeded by.
    seed: u64,
}

impl Effort {
    /// For one of so many series of an objective with a rate of false alarms.
    pub fn new(rate: f64, series: usize, seed: u64) -> Effort {
        let series = series.max(1);
        Effort { level: rate / series as f64, work: (WORK_MAX / series as u64).min(WORK_SERIES_MAX), seed }
    }
}

/// The chance of a value at least as great if window and baseline came from the same
/// distribution.
pub fn p_value(comparison: &Comparison, effort: Effort) -> f64 {
    let value = comparison.value();
    let (m, n) = comparison.sizes();
    let s = 1.0 / m as f64 + 1.0 / n as f64;
    let mut draws = Draws { random: Pcg64Mcg::seed_from_u64(effort.seed), effort, value };
    match comparison {
        Comparison::Bins { kind, counts, cut } => {
            let freedom = comparison.freedom(counts);
            if freedom == 0.0 {
                return 1.0;
            }
            let least = counts.iter().map(|(b, w)| (b + w) as f64 * m.min(n) as f64 / (m + n) as f64);
            if least.fold(f64::INFINITY, f64::min) >= BIN_GOOD {
                let chi2 = match kind {
                    Aggregate::Psi => value / s,
                    Aggregate::Js => value * value * 8.0 * std::f64::consts::LN_2 / s,
                    _ => value,
                };
                return gamma_ur(freedom / 2.0, (chi2 / 2.0).max(0.0));
            }
            if *cut { draws.urn(*kind, counts, n) } else { draws.relabelled_bins(*kind, counts) }
        }
        Comparison::Steps { kind, points, exact, .. } => {
            if *exact && m.min(n) < STEPS_GOOD {
                draws.value = of_steps(*kind, points.iter().copied(), m, n);
                return draws.relabelled_steps(*kind, points);
            }
            if *kind == Aggregate::Ks {
                // With the correction of Stephens (1970) for finite samples.
                let root = (1.0 / s).sqrt();
                return kolmogorov((root + 0.12 + 0.11 / root) * value);
            }
            draws.value = of_steps(*kind, points.iter().copied(), m, n);
            draws.bridges(points, s.sqrt())
        }
    }
}

/// Which of several p-values to reject so that the share of false ones among them stays below
/// `rate` (Benjamini and Hochberg 1995).
pub fn rejected(p_values: &[f64], rate: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let last = (1..=order.len()).rev().find(|i| p_values[order[i - 1]] <= rate * *i as f64 / order.len() as f64);
    let mut reject = vec![false; p_values.len()];
    order[..last.unwrap_or(0)].iter().for_each(|at| reject[*at] = true);
    reject
}

/// P(K > x) of the Kolmogorov distribution.
fn kolmogorov(x: f64) -> f64 {
    if x < 0.2 {
        return 1.0;
    }
    let term = |k: i32| (-2.0 * f64::from(k * k) * x * x).exp();
    let sum: f64 = (1..=100).map(|k| if k % 2 == 1 { term(k) } else { -term(k) }).sum();
    (2.0 * sum).clamp(0.0, 1.0)
}

struct Draws {
    random: Pcg64Mcg,
    effort: Effort,
    /// What draws are compared with.
    value: f64,
}

impl Draws {
    /// The share of draws that are at least as far, the value itself counted as one of them.
    fn share(&mut self, work: u64, mut draw: impl FnMut(&mut Pcg64Mcg) -> f64) -> f64 {
        let wanted = (20.0 / self.effort.level).ceil().min(1e9) as u64;
        let most = wanted.min(self.effort.work / work.max(1)).max(199);
        // Equal values must not differ by rounding.
        let bar = self.value - self.value.abs() * 1e-12;
        let mut reached = 0;
        for drawn in 1..most {
            reached += u64::from(draw(&mut self.random) >= bar);
            if reached == ENOUGH {
                return reached as f64 / drawn as f64;
            }
        }
        (reached + 1) as f64 / most as f64
    }

    /// Bins that the baseline's own values cut: what share of the distribution lies in each is
    /// itself left to chance, as Pólya's urn says (exact for continuous distributions).
    fn urn(&mut self, kind: Aggregate, counts: &[(u64, u64)], n: u64) -> f64 {
        let mut ends = Vec::with_capacity(counts.len());
        let m = counts.iter().fold(0, |sum, (b, _)| {
            ends.push(sum + b);
            sum + b
        });
        let mut drawn: Vec<u32> = Vec::with_capacity(n as usize);
        let mut table: Vec<(u64, u64)> = counts.to_vec();
        self.share(n, |random| {
            drawn.clear();
            table.iter_mut().for_each(|row| row.1 = 0);
            for taken in 0..n {
                let ball = random.random_range(0..m + taken);
                let bin = match ball.checked_sub(m) {
                    Some(earlier) => drawn[earlier as usize] as usize,
                    None => ends.partition_point(|end| *end <= ball),
                };
                drawn.push(bin as u32);
                table[bin].1 += 1;
            }
            of_bins(kind, &table)
        })
    }

    /// Categories: whose value is whose is shuffled (a permutation test).
    fn relabelled_bins(&mut self, kind: Aggregate, counts: &[(u64, u64)]) -> f64 {
        let mut all: Vec<u32> = Vec::new();
        for (bin, (b, w)) in counts.iter().enumerate() {
            all.extend(std::iter::repeat_n(bin as u32, (b + w) as usize));
        }
        let (m, n) = counts.iter().fold((0, 0), |(m, n), (b, w)| (m + b, n + w));
        let few = m.min(n) as usize;
        let mut table = counts.to_vec();
        self.share(few as u64, |random| {
            let picked =
                |table: &mut [(u64, u64)], bin: usize| if n <= m { table[bin].1 += 1 } else { table[bin].0 += 1 };
            for (row, (b, w)) in table.iter_mut().zip(counts) {
                *row = if n <= m { (b + w, 0) } else { (0, b + w) };
            }
            for at in 0..few {
                let other = random.random_range(at..all.len());
                all.swap(at, other);
                let bin = all[at] as usize;
                picked(&mut table, bin);
                if n <= m { table[bin].0 -= 1 } else { table[bin].1 -= 1 }
            }
            of_bins(kind, &table)
        })
    }

    /// Numbers: whose value is whose is shuffled (a permutation test).
    fn relabelled_steps(&mut self, kind: Aggregate, points: &[(f64, u64, u64)]) -> f64 {
        let (m, n) = points.iter().fold((0, 0), |(m, n), (_, b, w)| (m + b, n + w));
        self.share(m + n, |random| {
            let (mut left, mut of_window) = (m + n, n);
            let relabelled = points.iter().map(|(at, b, w)| {
                let mut taken = 0;
                for _ in 0..b + w {
                    let window = random.random_range(0..left) < of_window;
                    taken += u64::from(window);
                    of_window -= u64::from(window);
                    left -= 1;
                }
                (*at, b + w - taken, taken)
            });
            of_steps(kind, relabelled, m, n)
        })
    }

    /// ∫|B(F(x))|dx of simulated Brownian bridges, F being that of both samples together.
    fn bridges(&mut self, points: &[(f64, u64, u64)], scale: f64) -> f64 {
        let total: u64 = points.iter().map(|(_, b, w)| b + w).sum();
        // Cells at even steps of rank: the share where each begins, and a width that gives |B| there
        // the weight that it has in the whole cell, √(F(1−F)) being its scale.
        let mut grid: Vec<(f64, f64)> = Vec::new();
        let (mut below, mut next_rank) = (0, 0.0);
        for pair in points.windows(2) {
            below += pair[0].1 + pair[0].2;
            let share = below as f64 / total as f64;
            if below as f64 >= next_rank {
                grid.push((share, 0.0));
                next_rank = below as f64 + total as f64 / BRIDGE_POINTS as f64;
            }
            if let Some((start, width)) = grid.last_mut() {
                *width += (share * (1.0 - share) / (*start * (1.0 - *start))).sqrt() * (pair[1].0 - pair[0].0);
            }
        }
        let mut path = vec![0.0; grid.len()];
        self.share(grid.len() as u64 * 4, |random| {
            let (mut position, mut time): (f64, f64) = (0.0, 0.0);
            for (place, (share, _)) in path.iter_mut().zip(&grid) {
                let step: f64 = random.sample(StandardNormal);
                position += step * (share - time).sqrt();
                time = *share;
                *place = position;
            }
            let step: f64 = random.sample(StandardNormal);
            let end = position + step * (1.0 - time).sqrt();
            let area = path.iter().zip(&grid).map(|(place, (share, width))| (place - share * end).abs() * width);
            area.sum::<f64>() * scale
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::distribution::Distribution;
    use crate::report::Value;

    /// Of `n` values: numbers of a skewed distribution, or categories of unequal sizes.
    fn sample(random: &mut Pcg64Mcg, n: u64, categories: bool) -> Distribution {
        let mut distribution = Distribution::default();
        for _ in 0..n {
            let normal: f64 = random.sample(StandardNormal);
            if categories {
                let names = ["a", "b", "c", "d", "e"];
                let index = (normal.abs() * 1.7) as usize;
                distribution.add(&Value::Text(names[index.min(4)].into()));
            } else {
                distribution.add(&Value::Number(normal.exp()));
            }
        }
        distribution
    }

    /// The share of p-values at most `level` when nothing has changed, against `level`.
    fn check(categories: bool, kinds: &[Aggregate], m: u64, n: u64, trials: u32) {
        let mut random = Pcg64Mcg::seed_from_u64(n + u64::from(categories));
        let levels = [0.01, 0.05];
        let mut alarms = vec![[0u32; 2]; kinds.len()];
        let mut ratio = vec![0.0; kinds.len()];
        for trial in 0..trials {
            let baseline = sample(&mut random, m, categories);
            let window = sample(&mut random, n, categories);
            for (kind, (alarms, ratio)) in kinds.iter().zip(alarms.iter_mut().zip(&mut ratio)) {
                let comparison = Comparison::new(*kind, &baseline, &window).expect("of one kind").expect("not empty");
                let p = p_value(&comparison, Effort::new(0.01, 1, u64::from(trial)));
                levels.iter().zip(alarms).for_each(|(level, alarms)| *alarms += u32::from(p <= *level));
                *ratio += comparison.value() / comparison.expected() / f64::from(trials);
            }
        }
        for (kind, (alarms, ratio)) in kinds.iter().zip(alarms.iter().zip(&ratio)) {
            for (level, alarms) in levels.iter().zip(alarms) {
                let rate = f64::from(*alarms) / f64::from(trials);
                let error = (level * (1.0 - level) / f64::from(trials)).sqrt();
                println!("{kind} {m}/{n}: {rate} for {level}, sampling error {error:.4}; value by expected {ratio:.3}");
                assert!((rate - level).abs() <= 4.0 * error, "{kind} of {n}: {rate} for {level} ± {error}");
            }
            // The expected value is asymptotic; few values in a bin make it larger.
            assert!((0.85..if n < 100 { 1.6 } else { 1.1 }).contains(ratio), "{kind} of {n}: {ratio}");
        }
    }

    const NUMBERS: [Aggregate; 4] = [Aggregate::Psi, Aggregate::Js, Aggregate::Ks, Aggregate::Wasserstein];
    const CATEGORIES: [Aggregate; 3] = [Aggregate::Psi, Aggregate::Js, Aggregate::Chi2];

    #[test]
    fn false_alarms_of_50_numbers_are_as_asked_for() {
        check(false, &NUMBERS, 1_000, 50, 2_000);
    }

    #[test]
    fn false_alarms_of_500_numbers_are_as_asked_for() {
        check(false, &NUMBERS, 2_000, 500, 1_500);
    }

    #[test]
    fn false_alarms_of_50_000_numbers_are_as_asked_for() {
        check(false, &NUMBERS, 50_000, 50_000, 600);
    }

    #[test]
    fn false_alarms_of_categories_are_as_asked_for() {
        check(true, &CATEGORIES, 1_000, 50, 2_000);
        check(true, &CATEGORIES, 2_000, 500, 1_500);
        check(true, &CATEGORIES, 50_000, 50_000, 400);
    }

    #[test]
    fn a_change_is_seen_and_the_first_of_equals_is_not_preferred() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let (baseline, mut window) = (sample(&mut random, 1_000, false), Distribution::default());
        (0..200).for_each(|_| window.add(&Value::Number(random.sample::<f64, _>(StandardNormal).exp() * 1.6)));
        for kind in NUMBERS {
            let comparison = Comparison::new(kind, &baseline, &window).expect("numbers").expect("not empty");
            assert!(p_value(&comparison, Effort::new(0.01, 1, 7)) < 0.01, "{kind}");
            assert_eq!(
                p_value(&comparison, Effort::new(0.01, 1, 7)),
                p_value(&comparison, Effort::new(0.01, 1, 7)),
                "the same again"
            );
        }
        // Benjamini and Hochberg 1995, section 3: the example of 15 comparisons at 0.05.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
            0.7590, 1.0,
        ];
        let expected: Vec<bool> = (0..15).map(|i| i < 4).collect();
        assert_eq!(rejected(&p, 0.05), expected);
        assert!(rejected(&[], 0.05).is_empty());
    }
}
