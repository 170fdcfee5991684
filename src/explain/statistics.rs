//! Tests and intervals: is it chance, and how sure is a number?

use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal, StudentsT};
use statrs::function::gamma::ln_gamma;

/// Beyond this many observations Fisher's exact test gives way to its normal approximation.
const EXACT_MAX: u64 = 20_000;

/// The chance that a standard normal value is greater.
pub fn normal_tail(z: f64) -> f64 {
    Normal::standard().sf(z)
}

fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// Wilson's interval of a share (E. B. Wilson 1927), as `scipy.stats.binomtest(...).proportion_ci(method='wilson')`.
pub fn wilson(good: f64, n: f64, confidence: f64) -> (f64, f64) {
    if n <= 0.0 {
        return (0.0, 1.0);
    }
    let z = normal_quantile(0.5 + confidence / 2.0);
    let (p, z2) = (good / n, z * z);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // Nothing good, or all: the bound is exact, which rounding need not be.
    let low = if good <= 0.0 { 0.0 } else { (centre - half).max(0.0) };
    (low, if good >= n { 1.0 } else { (centre + half).min(1.0) })
}

/// Newcombe's interval of the difference of two shares, first less second (R. G. Newcombe 1998,
/// method 10: from two Wilson intervals).
pub fn share_difference(good: (f64, f64), n: (f64, f64), confidence: f64) -> (f64, f64) {
    let (p1, p2) = (good.0 / n.0, good.1 / n.1);
    let ((l1, u1), (l2, u2)) = (wilson(good.0, n.0, confidence), wilson(good.1, n.1, confidence));
    let down = ((p1 - l1).powi(2) + (u2 - p2).powi(2)).sqrt();
    let up = ((u1 - p1).powi(2) + (p2 - l2).powi(2)).sqrt();
    (p1 - p2 - down, p1 - p2 + up)
}

/// Fisher's exact test, one-sided: the chance of at least `bad.0` of `n.0` being bad if they are no
/// worse than `bad.1` of `n.1`. As `scipy.stats.fisher_exact(..., alternative='greater')`.
pub fn fisher_greater(bad: (u64, u64), n: (u64, u64)) -> f64 {
    let (all_bad, all) = (bad.0 + bad.1, n.0 + n.1);
    if n.0 == 0 || n.1 == 0 || all_bad == 0 {
        return 1.0;
    }
    if all > EXACT_MAX {
        let (p1, p2) = (bad.0 as f64 / n.0 as f64, bad.1 as f64 / n.1 as f64);
        let pooled = all_bad as f64 / all as f64;
        let spread = (pooled * (1.0 - pooled) * (1.0 / n.0 as f64 + 1.0 / n.1 as f64)).sqrt();
        return if spread > 0.0 { normal_tail((p1 - p2) / spread) } else { 1.0 };
    }
    let choose = |n: u64, k: u64| ln_gamma(n as f64 + 1.0) - ln_gamma(k as f64 + 1.0) - ln_gamma((n - k) as f64 + 1.0);
    let whole = choose(all, n.0);
    let chance = |k: u64| (choose(all_bad, k) + choose(all - all_bad, n.0 - k) - whole).exp();
    let least = bad.0.max((n.0 + all_bad).saturating_sub(all));
    (least..=all_bad.min(n.0)).map(chance).sum::<f64>().min(1.0)
}

/// Two-sided: twice the smaller of both sides, as a conservative version of Fisher's test.
pub fn fisher_either(bad: (u64, u64), n: (u64, u64)) -> f64 {
    let swapped = fisher_greater((bad.1, bad.0), (n.1, n.0));
    (2.0 * fisher_greater(bad, n).min(swapped)).min(1.0)
}

/// A sample's number, mean and variance (n − 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// How many values.
    pub n: f64,
    /// Their mean.
    pub mean: f64,
    /// Their variance.
    pub variance: f64,
}

impl Moments {
    /// From number, sum and sum of squares.
    pub fn of(n: f64, total: f64, squares: f64) -> Moments {
        let mean = if n > 0.0 { total / n } else { 0.0 };
        let variance = if n > 1.0 { ((squares - n * mean * mean) / (n - 1.0)).max(0.0) } else { 0.0 };
        Moments { n, mean, variance }
    }

    /// Of values.
    pub fn of_values(values: &[f64]) -> Moments {
        let n = values.len() as f64;
        let mean = if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / n };
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        Moments { n, mean, variance: if n > 1.0 { squares / (n - 1.0) } else { 0.0 } }
    }
}

/// Welch's test of two means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Welch {
    /// First mean less second, by its standard error.
    pub t: f64,
    /// Degrees of freedom (Welch, Satterthwaite).
    pub freedom: f64,
    /// The chance of a difference as great either way if there were none.
    pub p: f64,
    /// The interval of the difference.
    pub interval: (f64, f64),
}

/// As `scipy.stats.ttest_ind(a, b, equal_var=False)`; none with fewer than two values on a side.
pub fn welch(a: Moments, b: Moments, confidence: f64) -> Option<Welch> {
    if a.n < 2.0 || b.n < 2.0 {
        return None;
    }
    let (va, vb) = (a.variance / a.n, b.variance / b.n);
    let (difference, error) = (a.mean - b.mean, (va + vb).sqrt());
    if error <= 0.0 {
        let p = if difference == 0.0 { 1.0 } else { 0.0 };
        let t = if difference == 0.0 { 0.0 } else { f64::MAX.copysign(difference) };
        return Some(Welch { t, freedom: a.n + b.n - 2.0, p, interval: (difference, difference) });
    }
    let freedom = (va + vb).powi(2) / (va * va / (a.n - 1.0) + vb * vb / (b.n - 1.0));
    let students = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let t = difference / error;
    let half = students.inverse_cdf(0.5 + confidence / 2.0) * error;
    Some(Welch { t, freedom, p: 2.0 * students.sf(t.abs()), interval: (difference - half, difference + half) })
}

/// Student's interval of a mean; none of fewer than two values.
pub fn mean_interval(of: Moments, confidence: f64) -> Option<(f64, f64)> {
    let students = StudentsT::new(0.0, 1.0, of.n - 1.0).ok().filter(|_| of.n >= 2.0)?;
    let half = students.inverse_cdf(0.5 + confidence / 2.0) * (of.variance / of.n).sqrt();
    Some((of.mean - half, of.mean + half))
}

/// The chance that a value of Student's distribution is greater.
pub fn student_tail(t: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).map_or(0.5, |students| students.sf(t))
}

/// The Mann-Whitney test, two-sided, with correction for ties and continuity: as
/// `scipy.stats.mannwhitneyu(a, b, method='asymptotic')`. The chance, and the share of pairs in
/// which the first is greater (ties count half).
pub fn mann_whitney(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (na, nb) = (a.len() as f64, b.len() as f64);
    if a.is_empty() || b.is_empty() {
        return (1.0, 0.5);
    }
    let mut all: Vec<(f64, bool)> = a.iter().map(|v| (*v, true)).chain(b.iter().map(|v| (*v, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (mut ranks, mut ties, mut start) = (0.0, 0.0, 0);
    while start < all.len() {
        let end = start + all[start..].iter().take_while(|other| other.0 == all[start].0).count();
        let (same, rank) = ((end - start) as f64, (start + 1 + end) as f64 / 2.0);
        ranks += rank * all[start..end].iter().filter(|(_, first)| *first).count() as f64;
        ties += same * same * same - same;
        start = end;
    }
    let u = ranks - na * (na + 1.0) / 2.0;
    let (n, greater) = (na + nb, u.max(na * nb - u));
    let spread = (na * nb / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)))).sqrt();
    let p = if spread > 0.0 { 2.0 * normal_tail((greater - na * nb / 2.0 - 0.5) / spread) } else { 1.0 };
    (p.min(1.0), u / (na * nb))
}

/// A quantile's interval from order statistics: as `scipy.stats.quantile_test(x, p=share).confidence_interval`.
/// Infinite where there are too few values. `sorted` rises.
pub fn quantile_interval(sorted: &[f64], share: f64, confidence: f64) -> (f64, f64) {
    let n = sorted.len() as u64;
    let Ok(below) = Binomial::new(share, n) else { return (f64::NEG_INFINITY, f64::INFINITY) };
    let tail = (1.0 - confidence) / 2.0;
    // The least number of values below the quantile that is not too unlikely, and the greatest.
    let low = smallest(n, |k| below.cdf(k) >= tail);
    let high = smallest(n, |k| below.cdf(k) >= 1.0 - tail);
    let low =
        low.checked_sub(1).map_or(f64::NEG_INFINITY, |at| sorted.get(at as usize).copied().unwrap_or(f64::INFINITY));
    let high = sorted.get(high as usize).copied().unwrap_or(f64::INFINITY);
    (low, high)
}

/// The smallest number up to `n` for which it is true; it stays true.
fn smallest(n: u64, is: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = (low + high) / 2;
        if is(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// How surprising it is that a part's share went from `expected` to `actual` (a term of the
/// Jensen-Shannon divergence, natural logarithm; Bhagwan et al., *Adtributor*, NSDI 2014).
pub fn surprise(expected: f64, actual: f64) -> f64 {
    let term = |x: f64, y: f64| if x > 0.0 { x * (2.0 * x / (x + y)).ln() } else { 0.0 };
    0.5 * (term(expected, actual) + term(actual, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} {b}");
    }

    // The figures are SciPy's; `tests/interop` compares many more with the SciPy at hand.
    #[test]
    fn figures_are_those_of_scipy() {
        let (low, high) = wilson(45.0, 50.0, 0.95);
        near(low, 0.7863976856252034);
        near(high, 0.9565242350681095);
        near(fisher_greater((8, 2), (10, 10)), 0.011507068782610578);
        let hundred: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(quantile_interval(&hundred, 0.9, 0.95), (83.0, 95.0));
    }

    #[test]
    fn a_share_that_stays_surprises_nobody() {
        near(surprise(0.3, 0.3), 0.0);
        assert!(surprise(0.1, 0.9) > surprise(0.1, 0.2));
    }

    #[test]
    fn no_values_prove_nothing() {
        assert_eq!(fisher_greater((0, 0), (0, 5)), 1.0);
        assert_eq!(mann_whitney(&[], &[1.0]).0, 1.0);
        assert!(welch(Moments::of_values(&[1.0]), Moments::of_values(&[2.0, 3.0]), 0.95).is_none());
        assert_eq!(quantile_interval(&[1.0], 0.5, 0.95), (f64::NEG_INFINITY, f64::INFINITY));
    }
}
