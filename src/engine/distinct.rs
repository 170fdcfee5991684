//! Counting different values: exact up to 10,000, then a HyperLogLog with the estimator of
//! Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), section 4.
//!
//! The state depends on the set of values only, not on their order, so merging is exact in
//! the same sense.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

use crate::report::Value;

const EXACT_MAX: usize = 10_000;
/// 2^16 registers: a standard error of 1.04 / 2^8 = 0.41 %, so 2 % is five of them.
const PRECISION: u32 = 16;
const REGISTERS: usize = 1 << PRECISION;

/// The set of values seen, or a summary of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distinct {
    /// Hashes of all values.
    Exact(BTreeSet<u64>),
    /// For each group of hashes, the longest run of leading zeros plus one.
    Estimate(Registers),
}

/// HyperLogLog registers; base64 in JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Registers(Vec<u8>);

impl Default for Distinct {
    fn default() -> Distinct {
        Distinct::Exact(BTreeSet::new())
    }
}

fn hash(value: &Value<'_>) -> u64 {
    match value {
        Value::Text(text) => xxh3_64(text.as_bytes()),
        // Adding zero makes one zero of the two.
        Value::Number(number) => xxh3_64(&(number + 0.0).to_be_bytes()),
        Value::Bool(flag) => xxh3_64(&[u8::from(*flag)]),
    }
}

impl Distinct {
    /// Notes a value.
    pub fn add(&mut self, value: &Value<'_>) {
        self.add_hash(hash(value));
    }

    fn add_hash(&mut self, hash: u64) {
        match self {
            Distinct::Estimate(registers) => registers.add(hash),
            Distinct::Exact(hashes) => {
                hashes.insert(hash);
                if hashes.len() > EXACT_MAX {
                    let mut registers = Registers(vec![0; REGISTERS]);
                    hashes.iter().for_each(|hash| registers.add(*hash));
                    *self = Distinct::Estimate(registers);
                }
            }
        }
    }

    /// Notes all that another has seen.
    pub fn merge(&mut self, other: &Distinct) {
        match other {
            Distinct::Exact(hashes) => hashes.iter().for_each(|hash| self.add_hash(*hash)),
            Distinct::Estimate(theirs) => {
                let mut merged = theirs.clone();
                match self {
                    Distinct::Exact(hashes) => hashes.iter().for_each(|hash| merged.add(*hash)),
                    Distinct::Estimate(ours) => {
                        for (register, ours) in merged.0.iter_mut().zip(&ours.0) {
                            *register = (*register).max(*ours);
                        }
                    }
                }
                *self = Distinct::Estimate(merged);
            }
        }
    }

    /// How many different values.
    pub fn count(&self) -> f64 {
        match self {
            Distinct::Exact(hashes) => hashes.len() as f64,
            Distinct::Estimate(registers) => registers.estimate().round(),
        }
    }
}

impl Registers {
    fn add(&mut self, hash: u64) {
        let group = (hash >> (64 - PRECISION)) as usize;
        let run = (hash << PRECISION | 1 << (PRECISION - 1)).leading_zeros() as u8 + 1;
        self.0[group] = self.0[group].max(run);
    }

    fn estimate(&self) -> f64 {
        let longest = (64 - PRECISION + 1) as usize;
        let mut counts = vec![0.0; longest + 1];
        self.0.iter().for_each(|run| counts[usize::from(*run).min(longest)] += 1.0);
        let registers = REGISTERS as f64;
        let mut z = registers * tau(1.0 - counts[longest] / registers);
        for count in counts[1..longest].iter().rev() {
            z = 0.5 * (z + count);
        }
        z += registers * sigma(counts[0] / registers);
        registers * registers / (2.0 * std::f64::consts::LN_2 * z)
    }
}

fn sigma(x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut x, mut y, mut z) = (x, 1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut x, mut y, mut z) = (x, 1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

impl Serialize for Registers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Registers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Registers, D::Error> {
        let text = String::deserialize(deserializer)?;
        let registers = STANDARD_NO_PAD.decode(text).map_err(serde::de::Error::custom)?;
        if registers.len() != REGISTERS {
            return Err(serde::de::Error::custom("wrong number of registers"));
        }
        Ok(Registers(registers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_to_ten_thousand_then_within_two_percent() {
        let mut distinct = Distinct::default();
        for n in 0..2_000_000u64 {
            distinct.add(&Value::Number(n as f64));
            distinct.add(&Value::Number((n / 2) as f64));
            let seen = (n + 1) as f64;
            if n < 10_000 {
                assert_eq!(distinct.count(), seen);
            } else if n % 7_919 == 0 {
                assert!((distinct.count() - seen).abs() <= 0.02 * seen, "{} for {seen}", distinct.count());
            }
        }
    }

    #[test]
    fn merging_equals_adding() {
        let of = |range: std::ops::Range<u32>| {
            let mut distinct = Distinct::default();
            range.for_each(|n| distinct.add(&Value::Number(f64::from(n))));
            distinct
        };
        for (split, end) in [(3, 7), (4_000, 9_000), (6_000, 12_000), (11_000, 12_000), (500, 15_000), (12_000, 30_000)]
        {
            let mut merged = of(0..split);
            merged.merge(&of(split / 2..end));
            assert_eq!(merged, of(0..end), "{split} {end}");
        }
        assert_eq!(hash(&Value::Number(0.0)), hash(&Value::Number(-0.0)));
    }
}
