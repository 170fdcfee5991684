//! What decoding, observing and judging cost, a report or a series at a time.

#![allow(missing_docs)]

mod scenario;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qualm::load::{self, Load};
use qualm::report;
use qualm::time::Span;

const COUNT: u64 = 10_000;

fn decode(c: &mut Criterion) {
    let text = Load::default().reports(0..COUNT);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(COUNT)).sample_size(20);
    group.bench_function("reports of 417 bytes", |b| {
        b.iter(|| {
            report::decode_all(text.as_bytes(), |_, decoded| {
                black_box(&decoded);
            })
        })
    });
    group.finish();
}

/// Takes in the reports of a text with an engine of these contracts.
fn observing(c: &mut Criterion, group: &str, name: &str, text: &str, contracts: Vec<String>) {
    let reports = scenario::decoded(text);
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Elements(reports.len() as u64)).sample_size(20);
    let mut engine = scenario::engine(contracts);
    // Time goes on from round to round; ids do not repeat within it.
    let mut round = 0;
    group.bench_function(name, |b| {
        b.iter_batched(
            || {
                round += 1;
                let mut shifted = reports.clone();
                let length = reports[reports.len() - 1].time.since(reports[0].time);
                for report in &mut shifted {
                    report.digest ^= round;
                    report.time = report.time + Span::from_micros(length.as_micros() * round as i64);
                }
                shifted
            },
            |shifted| {
                let mut out = scenario::outputs();
                engine.observe_all(&shifted, &mut out);
                assert_eq!(out.counts.reports, shifted.len() as u64);
                shifted
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn observe(c: &mut Criterion) {
    for applications in [1, 1_000] {
        let text = Load { applications, ..Load::default() }.reports(0..COUNT);
        let contracts = (0..applications).map(load::contract).collect();
        observing(
            c,
            "observe",
            &format!("reports of {applications} applications, 20 objectives each"),
            &text,
            contracts,
        );
    }
}

/// What contracts cost that are not about a report: 10 are about it.
fn matching(c: &mut Criterion) {
    let text = Load::default().reports(0..COUNT);
    let objective = "    - {name: slow, indicator: {attribute: service.response_time, aggregate: mean, window: 1m}, target: {max: 1}}\n";
    let contract = |number: u64, application: u64| {
        format!(
            "apiVersion: qualm/v1\nkind: Contract\nmetadata: {{name: c-{number}, version: 1.0.0}}\n\
             spec:\n  scope: {{application: app-{application}}}\n  objectives:\n{objective}"
        )
    };
    for count in [10, 1_000, 10_000] {
        let contracts = (0..count).map(|number| contract(number, if number < 10 { 0 } else { number })).collect();
        observing(c, "matching", &format!("10 of {count} contracts"), &text, contracts);
    }
}

/// What an objective on predictions and one on drift add to the twenty others.
fn quality(c: &mut Criterion) {
    let load = Load { predictions: true, bytes: 600, ..Load::default() };
    let text = load.reports(0..COUNT);
    observing(c, "quality", "20 objectives without accuracy and psi", &text, vec![load::contract(0)]);
    observing(c, "quality", "20 objectives with accuracy and psi", &text, vec![load::contract(0) + scenario::QUALITY]);
}

fn advance(c: &mut Criterion) {
    let load = Load { step: Span::from_micros(1_000), ..Load::default() };
    let text = load.reports(0..COUNT);
    let reports = scenario::decoded(&text);
    let mut group = c.benchmark_group("advance");
    // 10 grouped objectives with 8 series each, and 10 others.
    group.throughput(Throughput::Elements(90)).sample_size(20);
    group.bench_function("series of a window end", |b| {
        let prepared = || {
            let mut engine = scenario::engine([load::contract(0)]);
            reports.iter().for_each(|one| engine.observe(one, &mut scenario::outputs()));
            engine
        };
        b.iter_batched(
            prepared,
            |mut engine| {
                let (clock, _) = engine.due("default", "app-0").expect("it is watched");
                let mut out = scenario::outputs();
                engine.advance("default", "app-0", clock + Span::seconds(10), &mut out);
                assert_eq!(out.counts.evaluations.iter().sum::<u64>(), 90);
                engine
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, decode, observe, matching, quality, advance);
criterion_main!(benches);
