//! Explanations against faults whose cause is known: over 200 seeded runs of a simulated pipeline.
//! `which` and `root-cause` must name the cause, and name none where there is only noise. Two
//! baselines answer the same cases: the largest raw value, and a random walk on the graph in the
//! manner of MicroRCA (Wu et al., NOMS 2020).

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "faults/simulator.rs"]
mod simulator;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qualm::contract;
use qualm::engine::{Engine, Limits, Output, Outputs, Program, State, Transition};
use qualm::explain::{self, Answered, Subject};
use qualm::report;
use qualm::store::{Checkpoint, Commit, ContractVersion, Store};
use qualm::time::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value as Json;
use simulator::{FAULT_AT, Fault, STAGES, START, instance, model, reports};

const OF_EACH: u64 = 26;

/// A component: stage and instance; without an instance, the whole stage.
type Component = (String, String);

struct Case {
    kind: &'static str,
    seed: u64,
    faults: Vec<Fault>,
    /// What `root-cause` is asked about, and what it is to name.
    objective: &'static str,
    components: Vec<Vec<Component>>,
    /// The same of `which`: label and value.
    slice: Option<(&'static str, (&'static str, String))>,
}

fn whole(stage: &str) -> Component {
    (stage.to_owned(), String::new())
}

/// Names of a stage that mean all of it.
fn of_stage(stage: &str) -> Vec<Component> {
    let (_, instances, _) = STAGES.iter().find(|(name, ..)| *name == stage).unwrap();
    let mut names = vec![whole(stage)];
    if *instances == 1 {
        names.push((stage.to_owned(), instance(stage, 0)));
    }
    names
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for number in 0..OF_EACH {
        for (index, kind) in [
            "slow stage",
            "slow instance",
            "bad version",
            "bad slice",
            "cost jump",
            "data fault",
            "two faults",
            "noise",
        ]
        .into_iter()
        .enumerate()
        {
            let seed = number * 100 + index as u64;
            let mut random = StdRng::seed_from_u64(seed ^ 0xFA17);
            let factor = 2.0 + 2.5 * random.random::<f64>();
            let slow = random.random_range(0..4_usize);
            let inference = |n: usize| ("inference".to_owned(), instance("inference", n));
            let (faults, objective, components, slice) = match kind {
                "slow stage" => {
                    let (stage, _, usual) = STAGES[random.random_range(0..STAGES.len())];
                    // A fault that nobody sees breaks no promise: short stages must become much slower.
                    let factor = if usual < 0.02 { 3.0 * factor } else { factor };
                    (vec![Fault::SlowStage(stage, factor)], "quick", vec![of_stage(stage)], None)
                }
                "slow instance" => {
                    let name = instance("inference", slow);
                    let fault = Fault::SlowInstance("inference", name.clone(), factor);
                    (vec![fault], "quick", vec![vec![inference(slow)]], Some(("quick-models", ("instance", name))))
                }
                "bad version" => {
                    let version = ["v1", "v2"][random.random_range(0..2)];
                    let worse = 0.3 + 0.25 * random.random::<f64>();
                    let those = (0..4).filter(|n| model(*n).1 == version).map(inference).collect();
                    (
                        vec![Fault::BadVersion(version, worse)],
                        "right",
                        vec![those],
                        Some(("right", ("version", version.to_owned()))),
                    )
                }
                "bad slice" => {
                    let modality = ["day", "night", "rain"][random.random_range(0..3)];
                    let worse = 0.2 + 0.2 * random.random::<f64>();
                    let slice = Some(("right", ("modality", modality.to_owned())));
                    (vec![Fault::BadSlice(modality, worse)], "right", vec![of_stage("inference")], slice)
                }
                "cost jump" => {
                    let those = (2..4).map(inference).collect();
                    let slice = Some(("cheap-models", ("model", "large".to_owned())));
                    (vec![Fault::DearModel("large", factor)], "cheap", vec![those], slice)
                }
                "data fault" => {
                    let one = random.random::<bool>();
                    let name = instance("preprocessing", random.random_range(0..2));
                    let (of, those) = match one {
                        true => (name.clone(), vec![("preprocessing".to_owned(), name)]),
                        false => ("preprocessing".to_owned(), of_stage("preprocessing")),
                    };
                    (vec![Fault::BadData(of, 0.6)], "right", vec![those], None)
                }
                "two faults" => {
                    let name = instance("inference", slow);
                    let faults =
                        vec![Fault::SlowStage("gateway", 3.0 * factor), Fault::SlowInstance("inference", name, factor)];
                    (faults, "quick", vec![of_stage("gateway"), vec![inference(slow)]], None)
                }
                _ => (Vec::new(), "noisy", Vec::new(), None),
            };
            all.push(Case { kind, seed, faults, objective, components, slice });
        }
    }
    all
}

const CONTRACT: &str = "
apiVersion: qualm/v1
kind: Contract
metadata: {name: shop, version: 1.0.0}
spec:
  scope: {application: shop}
  objectives:
    - {name: quick, indicator: {attribute: request.response_time, aggregate: p95, window: 1m}, target: {max: 0.0800}}
    - {name: quick-models, indicator: {attribute: service.response_time, aggregate: p95, window: 1m, where: {stage: inference}}, target: {max: 0.0600}}
    - {name: right, indicator: {attribute: prediction, aggregate: accuracy, window: 1m, where: {stage: inference}}, target: {min: 0.84}}
    - {name: cheap, indicator: {attribute: request.cost, aggregate: mean, window: 1m}, target: {max: 0.00085}}
    - {name: cheap-models, indicator: {attribute: cost.usd, aggregate: mean, window: 1m, where: {stage: inference}}, target: {max: 0.00085}}
    - {name: noisy, indicator: {attribute: request.response_time, aggregate: p95, window: 1m}, target: {max: 0.0650}}
    - {name: noisy-models, indicator: {attribute: service.response_time, aggregate: p95, window: 1m, where: {stage: inference}}, target: {max: 0.0465}}
    - {name: noisy-right, indicator: {attribute: prediction, aggregate: accuracy, window: 1m, where: {stage: inference}}, target: {min: 0.92}}
    - {name: noisy-cost, indicator: {attribute: request.cost, aggregate: mean, window: 1m}, target: {max: 0.00062}}
";

/// Judges reports and stores what comes of them; gives the violations that opened.
async fn judged(text: &str, store: &Store) -> Vec<Transition> {
    let mut loaded = contract::load("shop.yaml", CONTRACT);
    let program = Program::compile(&mut loaded, |name| Err(name.to_owned())).expect("the contract is sound");
    store
        .accept_contracts(&[ContractVersion::of(&program, "shop.yaml".to_owned(), CONTRACT.to_owned())])
        .await
        .unwrap();
    let mut engine = Engine::new(Limits { snapshots: true, ..Limits::default() });
    let mut out = Outputs { keep_evaluations: false, ..Outputs::default() };
    engine.set_contract(Arc::new(program), &mut out);
    report::decode_all(text.as_bytes(), |_, one| engine.observe(one.expect("sound reports"), &mut out));
    engine.finish(&mut out);
    let transitions: Vec<Transition> = out
        .list
        .iter()
        .filter_map(|output| match output {
            Output::Transition(transition) => Some((**transition).clone()),
            _ => None,
        })
        .collect();
    let commit = Commit {
        transitions: transitions.iter().map(|transition| (transition.clone(), Vec::new())).collect(),
        checkpoint: Some(Checkpoint {
            source: "faults".to_owned(),
            shard: 0,
            shards: 1,
            position: 1,
            taken_in: 1,
            ahead: BTreeMap::new(),
            snapshot: engine.snapshot(usize::MAX),
        }),
        now: Timestamp::EPOCH,
        ..Commit::default()
    };
    store.commit(&[commit]).await.unwrap();
    transitions.into_iter().filter(|transition| transition.state == State::Open).collect()
}

async fn evidence(store: &Store, question: &str, violation: &Transition) -> Json {
    let subject = Subject { violation: Some(violation.id.to_string()), ..Subject::default() };
    match explain::answer(store, question, &subject).await.unwrap() {
        Answered::Answer(answer) => answer.evidence,
        Answered::Why(_) => unreachable!("only `why` is answered so"),
    }
}

fn components(evidence: &Json) -> Vec<Component> {
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    evidence["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (text(&cause["stage"]), text(&cause["instance"])))
        .collect()
}

fn slices(evidence: &Json) -> Vec<Vec<(String, String)>> {
    let pairs = |slice: &Json| -> Vec<(String, String)> {
        slice
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect()
    };
    let significant = evidence["slices"].as_array().unwrap().iter().filter(|slice| slice["significant"] == true);
    significant.map(|slice| pairs(&slice["slice"])).collect()
}

/// What the baselines look at: by component and by label, per pane of 10 s, number and sum of badness.
type Panes = BTreeMap<i64, (f64, f64)>;

#[derive(Default)]
struct Raw {
    components: BTreeMap<Component, Panes>,
    slices: BTreeMap<(String, String), Panes>,
    end_to_end: Panes,
    edges: BTreeMap<Component, Vec<Component>>,
}

/// Reads the badness that an objective is about: seconds, cost, or wrong predictions.
fn raw(text: &str, objective: &str) -> Raw {
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let truths: BTreeMap<String, String> = lines
        .iter()
        .flat_map(|line| line["feedback"].as_array().cloned().unwrap_or_default())
        .map(|feedback| {
            (feedback["inference"].as_str().unwrap().to_owned(), feedback["label"].as_str().unwrap().to_owned())
        })
        .collect();
    let stage_of: BTreeMap<&str, &str> =
        lines.iter().map(|line| (line["instance"].as_str().unwrap(), line["stage"].as_str().unwrap())).collect();
    let mut raw = Raw::default();
    let mut whole: BTreeMap<String, (i64, f64)> = BTreeMap::new();
    for line in &lines {
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        let component = (text("stage"), text("instance"));
        for from in line["upstream"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            let edges = raw.edges.entry(component.clone()).or_default();
            let edge = (stage_of[from].to_owned(), from.to_owned());
            if !edges.contains(&edge) {
                edges.push(edge);
            }
        }
        let bad = if objective.contains("cheap") || objective == "noisy-cost" {
            line["metrics"]["cost.usd"].as_f64()
        } else if objective.contains("right") {
            line["inference"]["prediction"]
                .as_str()
                .map(|predicted| f64::from(u8::from(truths[line["inference"]["id"].as_str().unwrap()] != predicted)))
        } else {
            line["metrics"]["service.response_time"].as_f64()
        };
        let Some(bad) = bad else { continue };
        let pane = ((line["time"].as_f64().unwrap() - START) / 10.0) as i64;
        let add = |panes: &mut Panes| {
            let cell = panes.entry(pane).or_default();
            *cell = (cell.0 + 1.0, cell.1 + bad);
        };
        add(raw.components.entry(component.clone()).or_default());
        if component.0 == "inference" {
            add(raw.slices.entry(("instance".to_owned(), component.1.clone())).or_default());
            for (name, value) in line["labels"].as_object().unwrap() {
                add(raw.slices.entry((name.clone(), value.as_str().unwrap().to_owned())).or_default());
            }
        }
        let request = whole.entry(line["inference"]["request"].as_str().unwrap().to_owned()).or_default();
        *request = (pane, request.1 + bad);
    }
    for (pane, bad) in whole.into_values() {
        let cell = raw.end_to_end.entry(pane).or_default();
        *cell = (cell.0 + 1.0, cell.1 + bad);
    }
    raw
}

fn while_it_lasted(panes: &Panes) -> f64 {
    let those = panes.iter().filter(|(pane, _)| **pane >= (FAULT_AT / 10.0) as i64).map(|(_, cell)| *cell);
    let (n, sum) = those.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    if n > 0.0 { sum / n } else { 0.0 }
}

/// Baseline: the greatest raw value while it lasted.
fn greatest<K: Clone>(panes: &BTreeMap<K, Panes>) -> Vec<K> {
    let mut ranked: Vec<(f64, K)> = panes.iter().map(|(key, panes)| (while_it_lasted(panes), key.clone())).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().map(|(_, key)| key).collect()
}

/// Baseline: a random walk from downstream to upstream, weighted by how a component's course goes
/// with that of whole requests, as MicroRCA does.
fn random_walk(raw: &Raw) -> Vec<Component> {
    let all: Vec<&Component> =
        raw.components.keys().chain(raw.edges.keys()).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let weight: Vec<f64> = all
        .iter()
        .map(|component| {
            raw.components.get(*component).map_or(0.01, |panes| correlation(panes, &raw.end_to_end).abs().max(0.01))
        })
        .collect();
    let sum: f64 = weight.iter().sum();
    let mut rank: Vec<f64> = weight.iter().map(|weight| weight / sum).collect();
    let place = |component: &Component| all.iter().position(|other| *other == component);
    for _ in 0..100 {
        let mut next: Vec<f64> = weight.iter().map(|weight| 0.15 * weight / sum).collect();
        for (from, component) in all.iter().enumerate() {
            // To those before it, to itself, and a little back.
            let mut to: Vec<(usize, f64)> = vec![(from, weight[from])];
            let before = raw.edges.get(*component).into_iter().flatten().filter_map(place);
            to.extend(before.map(|place| (place, weight[place])));
            let after =
                raw.edges.iter().filter(|(_, those)| those.contains(component)).filter_map(|(later, _)| place(later));
            to.extend(after.map(|place| (place, 0.2 * weight[place])));
            let all_weights: f64 = to.iter().map(|(_, weight)| weight).sum();
            for (place, weight) in to {
                next[place] += 0.85 * rank[from] * weight / all_weights;
            }
        }
        rank = next;
    }
    let mut ranked: Vec<(f64, Component)> = rank.into_iter().zip(all.into_iter().cloned()).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().map(|(_, component)| component).collect()
}

fn correlation(a: &Panes, b: &Panes) -> f64 {
    let both: Vec<(f64, f64)> = a.iter().filter_map(|(pane, x)| b.get(pane).map(|y| (x.1 / x.0, y.1 / y.0))).collect();
    let n = both.len() as f64;
    let (mx, my) = (both.iter().map(|v| v.0).sum::<f64>() / n, both.iter().map(|v| v.1).sum::<f64>() / n);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in both {
        (xy, xx, yy) = (xy + (x - mx) * (y - my), xx + (x - mx) * (x - mx), yy + (y - my) * (y - my));
    }
    if xx > 0.0 && yy > 0.0 { xy / (xx * yy).sqrt() } else { 0.0 }
}

/// Cases, hits at 1 and at 3.
#[derive(Default, Clone, Copy)]
struct Score {
    cases: usize,
    at_1: usize,
    at_3: usize,
}

impl Score {
    /// All that is to be named must be among the first three; any of it may be first.
    fn count<T: PartialEq>(&mut self, found: &[T], wanted: &[Vec<T>], a_stage_will_do: impl Fn(&T, &T) -> bool) {
        self.cases += 1;
        let is = |found: &T, those: &Vec<T>| those.iter().any(|one| one == found || a_stage_will_do(found, one));
        self.at_1 += usize::from(found.first().is_some_and(|first| wanted.iter().any(|those| is(first, those))));
        self.at_3 += usize::from(wanted.iter().all(|those| found.iter().take(3).any(|found| is(found, those))));
    }

    fn plus(self, other: Score) -> Score {
        Score { cases: self.cases + other.cases, at_1: self.at_1 + other.at_1, at_3: self.at_3 + other.at_3 }
    }

    fn shares(self) -> (f64, f64) {
        (self.at_1 as f64 / self.cases as f64, self.at_3 as f64 / self.cases as f64)
    }
}

/// By question and kind, then by who answers: ours, greatest raw value, random walk.
type Scores = BTreeMap<(&'static str, &'static str), [Score; 3]>;

struct Result {
    scores: Scores,
    noise: [usize; 2],
    noise_cases: [usize; 2],
    missed: Vec<String>,
}

async fn run(case: &Case, result: &mut Result) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("sqlite:{}", folder.path().join("case.db").display())).await.unwrap();
    let text = reports(case.seed, &case.faults);
    let opened = judged(&text, &store).await;
    let since = Timestamp::from_micros(((START + if case.kind == "noise" { 480.0 } else { FAULT_AT }) * 1e6) as i64);
    let violation = |objective: &str| opened.iter().find(|v| v.objective == objective && v.at > since);
    if case.kind == "noise" {
        for objective in ["noisy", "noisy-models", "noisy-right", "noisy-cost"] {
            let Some(violation) = violation(objective) else { continue };
            let named = components(&evidence(&store, "root-cause", violation).await);
            result.noise_cases[0] += 1;
            result.noise[0] += usize::from(!named.is_empty());
            let which = slices(&evidence(&store, "which", violation).await);
            result.noise_cases[1] += 1;
            result.noise[1] += usize::from(!which.is_empty());
            if !named.is_empty() || !which.is_empty() {
                result.missed.push(format!("noise {} {objective}: {named:?} {which:?}", case.seed));
            }
        }
    } else {
        let (key, found) = (("root-cause", case.kind), violation(case.objective));
        let violation_found =
            found.unwrap_or_else(|| panic!("{} {} breaks {}: {:?}", case.kind, case.seed, case.objective, case.faults));
        let named = components(&evidence(&store, "root-cause", violation_found).await);
        let raw_values = raw(&text, case.objective);
        let scores = result.scores.entry(key).or_default();
        let exact = |_: &Component, _: &Component| false;
        // Baselines know instances only; naming any instance of the stage counts for them.
        let stage = |found: &Component, wanted: &Component| wanted.1.is_empty() && found.0 == wanted.0;
        scores[0].count(&named, &case.components, exact);
        scores[1].count(&greatest(&raw_values.components), &case.components, stage);
        scores[2].count(&random_walk(&raw_values), &case.components, stage);
        let hit = |named: &Component| case.components.iter().any(|those| those.contains(named));
        if !named.first().is_some_and(hit) {
            result.missed.push(format!("root-cause {} {}: {named:?}, not {:?}", case.kind, case.seed, case.components));
        }
    }
    if let Some((objective, (label, value))) = &case.slice {
        let violation =
            violation(objective).unwrap_or_else(|| panic!("{} {} breaks {objective}", case.kind, case.seed));
        let named = slices(&evidence(&store, "which", violation).await);
        let wanted = vec![((*label).to_owned(), value.clone())];
        let scores = result.scores.entry(("which", case.kind)).or_default();
        scores[0].count(&named, &[vec![wanted.clone()]], |_, _| false);
        let raw_slices: Vec<Vec<(String, String)>> =
            greatest(&raw(&text, objective).slices).into_iter().map(|one| vec![one]).collect();
        scores[1].count(&raw_slices, &[vec![wanted.clone()]], |_, _| false);
        if named.first() != Some(&wanted) {
            result.missed.push(format!("which {} {}: {named:?}, not {wanted:?}", case.kind, case.seed));
        }
    }
    store.close().await;
}

#[test]
fn causes_are_named_and_noise_has_none() {
    let cases = cases();
    assert!(cases.len() >= 200);
    let next = AtomicUsize::new(0);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut result = Result { scores: Scores::new(), noise: [0; 2], noise_cases: [0; 2], missed: Vec::new() };
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            runtime.block_on(run(case, &mut result));
        }
        result
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let (mut scores, mut noise, mut noise_cases) = (Scores::new(), [0; 2], [0; 2]);
    for result in results {
        for (key, those) in result.scores {
            let all = scores.entry(key).or_default();
            *all = std::array::from_fn(|who| all[who].plus(those[who]));
        }
        for question in 0..2 {
            noise[question] += result.noise[question];
            noise_cases[question] += result.noise_cases[question];
        }
        result.missed.iter().for_each(|missed| println!("{missed}"));
    }
    println!("question    kind           cases  @1     @3     largest value @1 @3   random walk @1 @3");
    let mut totals: BTreeMap<&str, [Score; 3]> = BTreeMap::new();
    for ((question, kind), those) in &scores {
        let all = totals.entry(question).or_default();
        *all = std::array::from_fn(|who| all[who].plus(those[who]));
        print_line(question, kind, those);
    }
    for (question, all) in &totals {
        print_line(question, "all", all);
    }
    println!(
        "noise only: root-cause named one in {} of {}, which in {} of {}",
        noise[0], noise_cases[0], noise[1], noise_cases[1]
    );
    for (question, [ours, ..]) in &totals {
        let (at_1, at_3) = ours.shares();
        assert!(at_1 >= 0.9 && at_3 >= 0.97, "{question}: {at_1} {at_3}");
    }
    for question in 0..2 {
        assert!(noise_cases[question] >= 26, "noise must break promises to be a test");
        assert!(noise[question] as f64 <= 0.05 * noise_cases[question] as f64);
    }
}

fn print_line(question: &str, kind: &str, [ours, largest, walk]: &[Score; 3]) {
    let shares = |score: &Score| {
        if score.cases > 0 {
            format!("{:.3}  {:.3}", score.shares().0, score.shares().1)
        } else {
            "-      -".to_owned()
        }
    };
    println!(
        "{question:11} {kind:14} {:5}  {}  {}         {}",
        ours.cases,
        shares(ours),
        shares(largest),
        shares(walk)
    );
}
