//! Scores of classes against the truth: the area under the ROC curve.
//!
//! It is the chance that a random member of a class has a greater score for it than a random
//! non-member, ties counting half (Hanley and McNeil 1982).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Different scores, of all classes together, up to which the area is exact.
const EXACT_MAX: usize = 10_000;
/// Beyond that, scores are rounded to this part of one. Pairs that fall together count half, so
/// the error is at most half the share of such pairs.
const STEPS: f64 = 4_096.0;
const CLASSES_MAX: usize = 1_000;

/// For each class, how often each score was given to members and to others.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ranking {
    n: u64,
    coarse: bool,
    overflow: bool,
    classes: BTreeMap<Box<str>, Vec<Score>>,
}

/// A score with its counts of members and others; sorted by score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Score(f64, u64, u64);

impl Ranking {
    /// Predictions counted.
    pub fn samples(&self) -> u64 {
        self.n
    }

    /// Whether there were too many classes to count.
    pub fn overflow(&self) -> Option<String> {
        self.overflow.then(|| format!("scores of more than {CLASSES_MAX} classes"))
    }

    /// Counts the scores of one prediction, of one class alone if so wanted.
    pub fn add<'a>(&mut self, truth: &str, scores: impl Iterator<Item = (&'a str, f64)>, only: Option<&str>) {
        self.n += 1;
        for (class, score) in scores.filter(|(class, _)| only.is_none_or(|only| only == *class)) {
            let member = class == truth;
            self.insert(class, Score(score, u64::from(member), u64::from(!member)));
        }
        self.keep_bounds();
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Ranking) {
        self.n += other.n;
        self.overflow |= other.overflow;
        if other.coarse && !self.coarse {
            self.coarsen();
        }
        for (class, scores) in &other.classes {
            scores.iter().for_each(|score| self.insert(class, *score));
        }
        self.keep_bounds();
    }

    fn insert(&mut self, class: &str, mut score: Score) {
        if self.overflow {
            return;
        }
        if self.coarse {
            score.0 = (score.0 * STEPS).round() / STEPS;
        }
        if !self.classes.contains_key(class) {
            self.classes.insert(class.into(), Vec::new());
        }
        let scores = self.classes.get_mut(class).expect("it was put in where it was missing");
        match scores.binary_search_by(|known| known.0.total_cmp(&score.0)) {
            Ok(at) => {
                scores[at].1 += score.1;
                scores[at].2 += score.2;
            }
            Err(at) => scores.insert(at, score),
        }
    }

    fn keep_bounds(&mut self) {
        if self.overflow || self.classes.len() > CLASSES_MAX {
            self.overflow = true;
            self.classes.clear();
        } else if !self.coarse && self.classes.values().map(Vec::len).sum::<usize>() > EXACT_MAX {
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        self.coarse = true;
        for (class, scores) in std::mem::take(&mut self.classes) {
            scores.into_iter().for_each(|score| self.insert(&class, score));
        }
    }

    /// The area for a class, or the mean over the classes that have members and others. None
    /// where there are none.
    pub fn area(&self, class: Option<&str>) -> Option<f64> {
        if let Some(class) = class {
            return area(self.classes.get(class)?);
        }
        let areas: Vec<f64> = self.classes.values().filter_map(|scores| area(scores)).collect();
        (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
    }
}

fn area(scores: &[Score]) -> Option<f64> {
    let (mut members, mut others, mut won) = (0.0, 0.0, 0.0);
    for Score(_, of_members, of_others) in scores {
        let (of_members, of_others) = (*of_members as f64, *of_others as f64);
        won += of_members * (others + of_others / 2.0);
        members += of_members;
        others += of_others;
    }
    (members > 0.0 && others > 0.0).then(|| won / (members * others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_scores_become_coarse_in_any_order() {
        let of = |range: std::ops::Range<u64>| {
            let mut ranking = Ranking::default();
            for n in range {
                let score = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1u64 << 53) as f64;
                let truth = if (n * 7919) % 1000 < (score * 1000.0) as u64 { "a" } else { "b" };
                ranking.add(truth, [("a", score)].into_iter(), None);
            }
            ranking
        };
        let mut merged = of(0..6_000);
        let exact = of(0..10_000);
        assert!(!merged.coarse && !exact.coarse);
        merged.merge(&of(6_000..14_000));
        assert_eq!(merged, of(0..14_000));
        assert!(merged.coarse);
        let mut whole = Ranking { coarse: false, ..of(0..10_000) };
        let exact = whole.area(Some("a")).expect("both kinds");
        whole.coarsen();
        let coarse = whole.area(Some("a")).expect("both kinds");
        assert!((coarse - exact).abs() < 1.0 / STEPS, "{coarse} {exact}");
    }
}
