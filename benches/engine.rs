//! What decoding, observing and judging cost, a report or a series at a time.

#![allow(missing_docs)]

mod scenario;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qualm::engine::Outputs;
use qualm::report::{self, Report};
use qualm::time::Span;

const COUNT: u64 = 10_000;

fn outputs() -> Outputs {
    Outputs { keep_evaluations: false, ..Outputs::default() }
}

fn decode(c: &mut Criterion) {
    let text = scenario::reports(0, COUNT);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(COUNT)).sample_size(20);
    group.bench_function("reports of 417 bytes", |b| {
        b.iter(|| {
            report::decode_all(&text, |_, decoded| {
                black_box(&decoded);
            })
        })
    });
    group.finish();
}

fn observe(c: &mut Criterion) {
    let text = scenario::reports(0, COUNT);
    let mut decoded: Vec<Report<'_>> = Vec::new();
    report::decode_all(&text, |_, one| decoded.extend(one.ok()));
    let mut group = c.benchmark_group("observe");
    group.throughput(Throughput::Elements(COUNT)).sample_size(20);
    group.bench_function("reports that feed 20 objectives", |b| {
        let observed = |mut engine: qualm::engine::Engine| {
            let mut out = outputs();
            decoded.iter().for_each(|report| engine.observe(report, &mut out));
            engine
        };
        b.iter_batched(scenario::engine, observed, BatchSize::LargeInput);
    });
    group.finish();
}

/// What an objective on predictions and one on drift add to the twenty others.
fn quality(c: &mut Criterion) {
    let text = scenario::predictions(0, COUNT);
    let mut decoded: Vec<Report<'_>> = Vec::new();
    report::decode_all(&text, |_, one| decoded.extend(one.ok()));
    assert_eq!(decoded.len() as u64, COUNT);
    let mut group = c.benchmark_group("quality");
    group.throughput(Throughput::Elements(COUNT)).sample_size(20);
    let contracts = [("without", scenario::contract_text()), ("with", scenario::contract_text() + scenario::QUALITY)];
    for (name, contract) in contracts {
        group.bench_function(format!("20 objectives {name} accuracy and psi"), |b| {
            let observed = |mut engine: qualm::engine::Engine| {
                let mut out = outputs();
                decoded.iter().for_each(|report| engine.observe(report, &mut out));
                engine
            };
            b.iter_batched(|| scenario::engine_of(&contract), observed, BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn advance(c: &mut Criterion) {
    let text = scenario::reports(0, COUNT);
    let mut group = c.benchmark_group("advance");
    // 10 grouped objectives with 8 series each, and 10 others.
    group.throughput(Throughput::Elements(90)).sample_size(20);
    group.bench_function("series of a window end", |b| {
        let prepared = || {
            let mut engine = scenario::engine();
            report::decode_all(&text, |_, one| engine.observe(&one.expect("sound"), &mut outputs()));
            engine
        };
        b.iter_batched(
            prepared,
            |mut engine| {
                let (clock, _) = engine.due("default", "object-detection").expect("it is watched");
                let mut out = outputs();
                engine.advance("default", "object-detection", clock + Span::seconds(10), &mut out);
                assert_eq!(out.counts.evaluations.iter().sum::<u64>(), 90);
                engine
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, decode, observe, quality, advance);
criterion_main!(benches);
