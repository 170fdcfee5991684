//! Generated load: reports of any number of applications, and contracts for them. The same
//! numbers give the same reports, so that runs can be compared.
//!
//! A report has 5 labels and 2 metrics; a contract has 20 objectives that each report of its
//! application feeds, half of them grouped by device, quantiles among them, with windows of a
//! minute every ten seconds.

use std::fmt::Write;

use crate::time::{Span, Timestamp};

/// What is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Applications, named `app-0`, `app-1`...
    pub applications: u64,
    /// Stages of each.
    pub stages: u64,
    /// Instances of each stage.
    pub instances: u64,
    /// Values of the label `device`.
    pub devices: u64,
    /// Bytes of a report with its line end; at least some 300.
    pub bytes: usize,
    /// Event time of the first report.
    pub start: Timestamp,
    /// Event time between two reports, of all applications together.
    pub step: Span,
    /// Share of the reports that tell of up to three seconds earlier.
    pub disorder: f64,
    /// Share of the reports that repeat the one before.
    pub duplicates: f64,
    /// Whether each report holds an inference, and feedback for the one a hundred reports before.
    pub predictions: bool,
}

impl Default for Load {
    /// One application of one stage with four instances on eight devices; reports of 417 bytes,
    /// 20,000 a second of event time, in order.
    fn default() -> Load {
        Load {
            applications: 1,
            stages: 1,
            instances: 4,
            devices: 8,
            bytes: 417,
            start: Timestamp::from_micros(1_790_000_000_000_000),
            step: Span::from_micros(50),
            disorder: 0.0,
            duplicates: 0.0,
            predictions: false,
        }
    }
}

/// A well-mixed number of a number (splitmix64).
fn mix(n: u64) -> u64 {
    let mut mixed = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// In 0..1.
fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

impl Load {
    /// Writes a report and its line end, and says which application and stage it is of.
    pub fn write(&self, n: u64, out: &mut String) -> (u64, u64) {
        let mut n = n;
        while n > 0 && share(mix(n ^ 0xD0B1)) < self.duplicates {
            n -= 1;
        }
        let random = mix(n);
        let (application, stage) = (random % self.applications, (random >> 16) % self.stages);
        let (instance, device) = ((random >> 24) % self.instances, (random >> 32) % self.devices);
        let mut time = self.start + Span::from_micros(self.step.as_micros() * n as i64);
        let late = mix(random ^ 1);
        if share(late) < self.disorder {
            time = time - Span::from_micros((mix(late) % 3_000_000) as i64);
        }
        // A long tail: most answers take some 20 ms, one of a hundred much longer.
        let slow = if mix(random ^ 2).is_multiple_of(101) { 0.2 } else { 0.0 };
        let seconds = 0.015 + share(mix(random ^ 3)) * 0.01 + slow;
        let confidence = 0.5 + share(mix(random ^ 4)) / 2.0;
        let line = out.len();
        let (whole, micros) = (time.as_micros() / 1_000_000, time.as_micros() % 1_000_000);
        let _ = write!(
            out,
            "{{\"id\":\"r-{n:09}\",\"time\":{whole}.{micros:06},\"tenant\":\"default\",\"application\":\"app-{application}\",\
             \"stage\":\"stage-{stage}\",\"instance\":\"yolo-{instance}\",\
             \"labels\":{{\"model\":\"yolov8n\",\"device\":\"jetson-{device}\",\"zone\":\"north\",\"modality\":\"video\",\"version\":\"1.4.2\"}},\
             \"metrics\":{{\"service.response_time\":{seconds:.6},\"ml.confidence\":{confidence:.6}}}"
        );
        if self.predictions {
            let class = |n: u64| ["cat", "dog", "bird"][(mix(n) >> 40) as usize % 3];
            let (before, truth) = (n.saturating_sub(100), class(n / 2));
            let _ = write!(
                out,
                ",\"inference\":{{\"id\":\"i-{n}\",\"prediction\":\"{}\"}},\
                 \"feedback\":[{{\"inference\":\"i-{before}\",\"label\":\"{truth}\"}}]",
                class(n)
            );
        }
        out.push_str(",\"upstream\":[\"");
        let rest = self.bytes.saturating_sub(out.len() - line + "\"]}\n".len()).max(1);
        out.extend(std::iter::repeat_n('p', rest));
        out.push_str("\"]}\n");
        (application, stage)
    }

    /// Lines of NDJSON.
    pub fn reports(&self, numbers: std::ops::Range<u64>) -> String {
        let mut text = String::with_capacity((numbers.end - numbers.start) as usize * self.bytes);
        for n in numbers {
            self.write(n, &mut text);
        }
        text
    }
}

/// The contract of an application, as a file would hold it.
pub fn contract(application: u64) -> String {
    let mut text = format!(
        "apiVersion: qualm/v1\nkind: Contract\nmetadata: {{name: load-{application}, version: 1.0.0}}\n\
         spec:\n  scope: {{application: app-{application}}}\n  objectives:\n"
    );
    let aggregates = ["p99", "p50", "mean", "max", "min", "sum", "count", "rate", "stddev", "ratio"];
    for (number, aggregate) in aggregates.iter().chain(&aggregates).enumerate() {
        let attribute = if number % 2 == 0 { "service.response_time" } else { "ml.confidence" };
        let group = if number < 10 { ", group_by: [device]" } else { "" };
        let good = if *aggregate == "ratio" { ", good: {max: 0.9}" } else { "" };
        let _ = writeln!(
            text,
            "    - {{name: o-{number}, indicator: {{attribute: {attribute}, aggregate: {aggregate}, window: 1m, \
             every: 10s{group}{good}}}, target: {{max: 1e9}}}}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{self, Report};

    #[test]
    fn reports_are_sound_have_their_size_and_repeat() {
        let load = Load { applications: 7, disorder: 0.2, duplicates: 0.1, ..Load::default() };
        let text = load.reports(0..2_000);
        assert_eq!(text, load.reports(0..2_000));
        assert!(text.lines().all(|line| line.len() + 1 == load.bytes));
        let (mut times, mut ids) = (Vec::new(), std::collections::BTreeSet::new());
        report::decode_all(text.as_bytes(), |_, decoded| {
            let report: &Report<'_> = decoded.expect("sound");
            times.push(report.time);
            ids.insert(report.digest);
        });
        assert_eq!(times.len(), 2_000);
        assert!((1_750..1_850).contains(&ids.len()), "{} different reports", ids.len());
        let displaced = times.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((300..450).contains(&displaced), "{displaced} out of order");
    }

    #[test]
    fn contracts_are_sound() {
        let loaded = crate::contract::load("load.yaml", &contract(3));
        assert!(loaded.errors().is_empty(), "{}", loaded.errors());
    }
}
