//! Every question: the numbers in its answer come back when the query that it names is run by
//! another program (Python's sqlite3), and are those of a brute-force count over the reports.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::{qualm, run, stderr, stdout};
use serde_json::{Value as Json, json};

const CONTRACT: &str = "
apiVersion: qualm/v1
kind: Contract
metadata: {name: vision, version: 1.0.0}
spec:
  parties:
    - {id: ml-team, role: provider}
    - {id: city, role: consumer}
  scope: {application: vision}
  visibility: {keep_back: [instance, model]}
  excluded: [{from: 2026-09-21T12:00:00Z, until: 2026-09-21T12:01:00Z, reason: warm-up}]
  objectives:
    - {name: quick, indicator: {attribute: request.response_time, aggregate: p95, window: 1m}, target: {max: 0.2}, responsible: ml-team}
    - {name: on-time, indicator: {attribute: service.late, aggregate: ratio, good: {equals: false}, window: 1m, where: {stage: final}}, target: {min: 0.9}}
    - {name: right, indicator: {attribute: prediction, aggregate: accuracy, window: 1m, where: {stage: final}}, target: {min: 0.5}, attainment: 0.5}
  actions:
    - {name: scale, on: {objectives: [quick]}, do: {kind: scale, params: {stage: model}}}
";

/// 2026-09-21T12:00:00Z.
const START: f64 = 1_789_992_000.0;

/// Twenty minutes of an ensemble of three, a request a second; from minute 10 on, member m-2 is slow and costs more.
fn reports() -> Vec<Json> {
    let mut all = Vec::new();
    let classes = ["cat", "dog", "fox"];
    for n in 0..1_200_usize {
        let (at, slow) = (START + n as f64, n >= 600);
        let truth = classes[n % 3];
        let mut sources = Vec::new();
        let mut slowest: f64 = 0.0;
        let mut votes: BTreeMap<&str, f64> = BTreeMap::new();
        for member in 0..3_usize {
            // Member m is right except where a fixed pattern says no.
            let right = (n * 7 + member * 5) % [4, 5, 3][member] != 0;
            let said = if right { truth } else { classes[(n + 1) % 3] };
            let seconds = 0.02 + 0.001 * ((n + member) % 7) as f64 + if slow && member == 2 { 0.3 } else { 0.0 };
            let cost = if slow && member == 2 { 0.004 } else { 0.001 };
            slowest = slowest.max(seconds);
            let other = classes[(classes.iter().position(|c| *c == said).unwrap() + 1) % 3];
            let scores = json!({said: 0.7, other: 0.3});
            for (class, score) in [(said, 0.7), (other, 0.3)] {
                *votes.entry(class).or_default() += score;
            }
            let id = format!("m{member}-{n}");
            all.push(json!({
                "id": id, "time": at + seconds, "application": "vision", "stage": "model", "instance": format!("mod-{member}"),
                "labels": {"model": format!("net-{member}"), "light": if n % 2 == 0 { "day" } else { "night" }},
                "metrics": {"service.response_time": seconds, "cost.usd": cost, "ml.confidence": 0.7},
                "inference": {"id": id, "request": format!("q-{n}"), "prediction": scores},
            }));
            sources.push(id);
        }
        let best = votes
            .iter()
            .fold(("", 0.0), |best, (class, score)| if *score > best.1 { (*class, *score) } else { best })
            .0;
        let end = at + slowest + 0.01;
        all.push(json!({
            "id": format!("f-{n}"), "time": end, "application": "vision", "stage": "final", "instance": "fin-0",
            "metrics": {"service.response_time": 0.01, "service.late": slowest > 0.2},
            "inference": {"id": format!("f-{n}"), "request": format!("q-{n}"), "prediction": best, "sources": sources},
            "upstream": ["mod-0", "mod-1", "mod-2"],
        }));
        if n % 2 == 0 {
            all.push(json!({
                "id": format!("t-{n}"), "time": end + 1.0, "application": "vision", "stage": "user", "instance": "u-0",
                "feedback": [{"inference": format!("f-{n}"), "label": truth}],
            }));
        }
    }
    all.sort_by(|a, b| a["time"].as_f64().unwrap().total_cmp(&b["time"].as_f64().unwrap()));
    all
}

fn json_lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

struct World {
    folder: tempfile::TempDir,
    reports: Vec<Json>,
    violations: Vec<Json>,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let reports = reports();
        let lines: String = reports.iter().map(|report| format!("{report}\n")).collect();
        std::fs::write(folder.path().join("reports.ndjson"), lines).unwrap();
        std::fs::write(folder.path().join("vision.yaml"), CONTRACT).unwrap();
        let database = format!("sqlite:{}", folder.path().join("vision.db").display());
        let output = run(qualm()
            .args(["replay", "--format", "json", "--database", &database, "--contract"])
            .arg(folder.path().join("vision.yaml"))
            .arg("--reports")
            .arg(folder.path().join("reports.ndjson")));
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let lines = json_lines(&stdout(&output));
        let violations =
            lines.into_iter().filter(|line| line["type"] == "violation" && line["state"] == "open").collect();
        World { folder, reports, violations }
    }

    fn database(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("vision.db").display())
    }

    fn violation(&self, objective: &str) -> &str {
        let of = self.violations.iter().find(|violation| violation["objective"] == objective).unwrap();
        of["id"].as_str().unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> Json {
        let answer = self.explain(arguments);
        assert!(!answer["sentences"].as_array().unwrap().is_empty());
        answer
    }

    fn explain(&self, arguments: &[&str]) -> Json {
        let output =
            run(qualm().arg("explain").args(arguments).args(["--format", "json", "--database", &self.database()]));
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The rows of a query that an answer names, by Python.
    fn rows(&self, answer: &Json, name: &str) -> Vec<Json> {
        let queries = answer["queries"].as_array().unwrap();
        let query = queries.iter().find(|query| query["name"].as_str().unwrap().starts_with(name));
        let query = query.unwrap_or_else(|| panic!("the answer names a query {name:?}: {queries:?}"));
        rows(&self.folder.path().join("vision.db"), query)
    }

    fn of_stage(&self, stage: &str) -> impl Iterator<Item = &Json> {
        self.reports.iter().filter(move |report| report["stage"] == stage)
    }
}

fn rows(database: &Path, query: &Json) -> Vec<Json> {
    let script = "import json, re, sqlite3, sys
database, query = sys.argv[1], json.loads(sys.argv[2])
rows = sqlite3.connect(database)
rows.row_factory = sqlite3.Row
sql = re.sub(r'\\$(\\d+)', r'?\\1', query['sql'])
print(json.dumps([dict(row) for row in rows.execute(sql, query['arguments'])]))";
    let output = run(Command::new("python3").args(["-c", script]).arg(database).arg(query.to_string()));
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sum(rows: &[Json], column: &str, keep: impl Fn(&Json) -> bool) -> f64 {
    rows.iter().filter(|row| keep(row)).map(|row| row[column].as_f64().unwrap()).sum()
}

fn near(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-9), "{a} {b}");
}

fn number(value: &Json) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// Each question about the violations of the world, or about its contract and application.
fn all_questions(world: &World) -> Vec<Vec<&str>> {
    let quick = world.violation("quick");
    vec![
        vec!["why", quick],
        vec!["which", world.violation("on-time")],
        vec!["root-cause", quick],
        vec!["who", quick],
        vec!["where", "f-700"],
        vec!["ensemble", "vision"],
        vec!["cost", "vision", "--from", "2026-09-21T12:10:00Z"],
        vec!["quality", "vision"],
        vec!["when", "vision"],
        vec!["how", quick],
        vec!["how", "--contract", "vision", "--objective", "quick"],
        vec!["compliance", "vision"],
    ]
}

#[test]
fn postgres_answers_alike() {
    let world = World::new();
    let postgres = common::Postgres::start();
    let output = run(qualm()
        .args(["replay", "--database", &postgres.url, "--contract"])
        .arg(world.folder.path().join("vision.yaml"))
        .arg("--reports")
        .arg(world.folder.path().join("reports.ndjson")));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    for arguments in all_questions(&world) {
        let ask = |database: &str| {
            let output = run(qualm().arg("explain").args(&arguments).args(["--database", database]));
            assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
            stdout(&output)
        };
        assert_eq!(ask(&world.database()), ask(&postgres.url), "{arguments:?}");
    }
}

#[test]
fn answers_rest_on_the_queries_that_they_name_and_on_the_reports() {
    let world = World::new();
    why(&world);
    which(&world);
    root_cause(&world);
    path(&world);
    ensemble(&world);
    cost(&world);
    quality(&world);
    who(&world);
    when(&world);
    how(&world);
    compliance(&world);
    consumers_see_what_they_may(&world);
}

fn why(world: &World) {
    let id = world.violation("on-time");
    let why = world.explain(&["why", id]);
    let found = &why["found"];
    // By the query that it names.
    let rows = world.rows(&why, "how it went on");
    let open = rows.iter().find(|row| row["state"] == "open").unwrap();
    let detail: Json = serde_json::from_str(open["detail"].as_str().unwrap()).unwrap();
    assert_eq!(found["value"], detail["value"]);
    assert_eq!(why["contributors"], detail["evidence"]["contributors"]);
    // By brute force, over the window that it names.
    let (from, until) = (seconds(&found["window"]["start"]), seconds(&found["window"]["end"]));
    let seen: Vec<&Json> =
        world.of_stage("final").filter(|report| (from..until).contains(&report["time"].as_f64().unwrap())).collect();
    let late = seen.iter().filter(|report| report["metrics"]["service.late"] == true).count() as f64;
    near(number(&found["samples"]), seen.len() as f64);
    near(number(&found["value"]), 1.0 - late / seen.len() as f64);
    near(number(&found["off_by"]), 0.9 - number(&found["value"]));
    near(number(&why["contributors"][0]["bad"]), late);
    near(number(&why["counterfactual"]["bad"]), late);
    // What other questions find stands in it as they say it, with their queries.
    let further = why["further"].as_array().unwrap();
    assert_eq!(further.len(), 1, "all late results have one label set: {further:#?}");
    let cause = world.ask(&["root-cause", id]);
    assert_eq!((&further[0]["question"], &further[0]["sentences"]), (&json!("root-cause"), &cause["sentences"]));
    for query in cause["queries"].as_array().unwrap() {
        assert!(why["queries"].as_array().unwrap().contains(query), "{query}");
    }
}

/// A time in seconds.
fn seconds(time: &Json) -> f64 {
    time.as_str().unwrap().parse::<qualm::time::Timestamp>().unwrap().as_micros() as f64 / 1e6
}

fn which(world: &World) {
    let answer = world.ask(&["which", world.violation("on-time")]);
    let evidence = &answer["evidence"];
    let all = world.rows(&answer, "the slices while it lasted");
    let bad = |row: &Json| row["test"] == "equal to false" && row["slice"].as_str().unwrap().contains("final");
    let whole = |row: &Json| row["test"] == "" && row["slice"].as_str().unwrap().contains("final");
    near(number(&evidence["samples"]), sum(&all, "samples", whole));
    near(number(&evidence["bad"]), sum(&all, "samples", bad));
    // By brute force, over the period that the answer names.
    let (from, until) = (seconds(&evidence["period"]["from"]), seconds(&evidence["period"]["until"]));
    let late = world.of_stage("final").filter(|report| {
        let at = report["time"].as_f64().unwrap();
        from <= at && at < until && report["metrics"]["service.late"] == true
    });
    near(number(&evidence["bad"]), late.count() as f64);
}

fn root_cause(world: &World) {
    let answer = world.ask(&["root-cause", world.violation("quick")]);
    let cause = &answer["evidence"]["causes"][0];
    assert_eq!((&cause["stage"], &cause["instance"]), (&json!("model"), &json!("mod-2")), "{answer:#}");
    // Own times are of the steps that the query brings: before the fault, some 20 ms.
    let steps = world.rows(&answer, "steps of requests");
    let start = answer["evidence"]["period"]["from"].as_str().unwrap().parse::<qualm::time::Timestamp>().unwrap();
    let ends: BTreeMap<&str, i64> = steps.iter().fold(BTreeMap::new(), |mut ends, step| {
        let end = ends.entry(step["request"].as_str().unwrap()).or_insert(i64::MIN);
        *end = (*end).max(step["end_at"].as_i64().unwrap());
        ends
    });
    let now = ends
        .values()
        .filter(|end| qualm::time::Timestamp::from_micros(**end).floor(qualm::time::Span::seconds(60)) >= start);
    near(number(&cause["samples"]), now.count() as f64);
    let compared = world.rows(&answer, "what each component observed");
    assert!(compared.iter().any(|row| row["stage"] == "model" && row["attribute"] == "service.response_time"));
}

fn path(world: &World) {
    let answer = world.ask(&["where", "f-700"]);
    let evidence = &answer["evidence"];
    assert_eq!(evidence["steps"].as_array().unwrap().len(), 4, "three members and the result");
    let steps = world.rows(&answer, "its request");
    let (first, last) = (
        steps.iter().map(|step| step["start_at"].as_i64().unwrap()).min().unwrap(),
        steps.iter().map(|step| step["end_at"].as_i64().unwrap()).max().unwrap(),
    );
    near(number(&evidence["seconds"]), (last - first) as f64 / 1e6);
    let path: f64 =
        evidence["critical_path"].as_array().unwrap().iter().map(|stretch| number(&stretch["seconds"])).sum();
    near(path, number(&evidence["seconds"]));
    assert_eq!(evidence["truth"], world.rows(&answer, "what was true")[0]["truth"]);
    let output = run(qualm().args(["explain", "where", "nothing", "--database", &world.database()]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there is no kept step of inference nothing"), "{}", stderr(&output));
}

fn ensemble(world: &World) {
    let answer = world.ask(&["ensemble", "vision"]);
    let evidence = &answer["evidence"];
    let steps = world.rows(&answer, "steps of the period");
    let results = steps.iter().filter(|step| step["sources"] != "[]").count();
    near(number(&evidence["results"]), results as f64);
    assert_eq!(results, 1_200);
    let truths = world.rows(&answer, "what turned out to be true");
    near(number(&evidence["answered"]), truths.len() as f64);
    // By brute force: how often each member was right, of the results with feedback.
    for member in 0..3_usize {
        let right = (0..1_200_usize).step_by(2).filter(|n| (n * 7 + member * 5) % [4, 5, 3][member] != 0).count();
        let found = evidence["members"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["member"] == format!("net-{member}"))
            .unwrap();
        near(number(&found["right"]), right as f64);
        near(number(&found["answered"]), 600.0);
    }
    let shares: f64 =
        evidence["members"].as_array().unwrap().iter().map(|member| number(&member["share_of_seconds"])).sum();
    near(shares, 1.0);
}

fn cost(world: &World) {
    let period = ["--from", "2026-09-21T12:10:00Z", "--until", "2026-09-21T12:20:00Z"];
    let answer = world.ask(&[&["cost", "vision"], &period[..]].concat());
    let cost = &answer["evidence"]["costs"][0];
    let rows = world.rows(&answer, "cost.usd by slice");
    near(number(&cost["total"]), sum(&rows, "total", |_| true));
    let spent = |from: f64, until: f64| -> f64 {
        let in_period = |report: &&Json| (from..until).contains(&(report["time"].as_f64().unwrap() - START));
        world.of_stage("model").filter(in_period).map(|report| report["metrics"]["cost.usd"].as_f64().unwrap()).sum()
    };
    assert!((number(&cost["total"]) - spent(600.0, 1_200.0)).abs() < 1e-9);
    assert!((number(&cost["total_before"]) - spent(0.0, 600.0)).abs() < 1e-9);
    let effects: f64 = ["volume", "mix", "price"].iter().map(|effect| number(&cost["effects"][effect])).sum();
    assert!((effects - number(&cost["change"])).abs() < 1e-9, "{cost:#}");
    assert!(number(&cost["effects"]["price"]) > 0.9 * number(&cost["change"]), "one member got dearer: {cost:#}");
    near(number(&answer["evidence"]["requests"]), 600.0);
}

fn quality(world: &World) {
    let answer = world.ask(&["quality", "vision"]);
    let evidence = &answer["evidence"];
    let pairs = world.rows(&answer, "predictions with feedback");
    near(number(&evidence["pairs"]), sum(&pairs, "samples", |row| row["test"] == ""));
    near(number(&evidence["right"]), sum(&pairs, "total", |row| row["test"] == ""));
    near(number(&evidence["pairs"]), 600.0);
    let truth = |report: &Json| {
        ["cat", "dog", "fox"][report["id"].as_str().unwrap()[2..].parse::<usize>().unwrap() % 3].to_owned()
    };
    let even = |report: &&Json| report["id"].as_str().unwrap()[2..].parse::<usize>().unwrap().is_multiple_of(2);
    let right =
        world.of_stage("final").filter(even).filter(|report| report["inference"]["prediction"] == truth(report));
    near(number(&evidence["right"]), right.count() as f64);
    near(number(&evidence["coverage"]), 0.5);
    let matrix: f64 = evidence["confusion"]["matrix"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(number)
        .sum();
    near(matrix, 600.0);
}

fn who(world: &World) {
    let answer = world.ask(&["who", world.violation("quick")]);
    assert_eq!(answer["evidence"]["responsible"], "ml-team");
    let actions = world.rows(&answer, "who acted");
    assert_eq!(answer["evidence"]["actions"].as_array().unwrap().len(), actions.len());
    assert_eq!(answer["evidence"]["actions"][0]["id"], actions[0]["id"]);
    assert_eq!(answer["evidence"]["notified"].as_array().unwrap().len(), world.rows(&answer, "who was told").len());
    world.ask(&["who", "--contract", "vision", "--objective", "quick"]);
}

fn when(world: &World) {
    let answer = world.ask(&["when", "vision"]);
    let events = answer["evidence"]["events"].as_array().unwrap();
    let transitions = world.rows(&answer, "transitions of violations");
    let told = events.iter().filter(|event| event["kind"] == "opened" || event["kind"] == "resolved").count();
    assert_eq!(told, transitions.len());
    let change =
        events.iter().find(|event| event["kind"] == "change" && event["id"]["attribute"] == "service.response_time");
    let change = change.unwrap_or_else(|| panic!("members got slower: {events:#?}"));
    assert_eq!(change["at"], "2026-09-21T12:10:00Z");
    let panes = world.rows(&answer, "what each component observed");
    let of = |row: &Json| row["attribute"] == "service.response_time" && row["stage"] == "model";
    let after = |row: &Json| of(row) && row["start_at"].as_i64().unwrap() >= ((START + 600.0) * 1e6) as i64;
    // The mean of the panes' means, as the answer takes it.
    let mut by_pane: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    for row in panes.iter().filter(|row| after(row)) {
        let cell = by_pane.entry(row["start_at"].as_i64().unwrap()).or_default();
        *cell = (cell.0 + number(&row["samples"]), cell.1 + number(&row["total"]));
    }
    let mean = by_pane.values().map(|(n, total)| total / n).sum::<f64>() / by_pane.len() as f64;
    near(number(&change["id"]["after"]), mean);
}

fn how(world: &World) {
    let answer = world.ask(&["how", world.violation("on-time")]);
    let detail = world.rows(&answer, "what was found when it opened");
    let detail: Json = serde_json::from_str(detail[0]["detail"].as_str().unwrap()).unwrap();
    assert_eq!(answer["evidence"]["counterfactual"], detail["evidence"]["counterfactual"]);
    let quick = world.ask(&["how", "--contract", "vision", "--objective", "quick"]);
    let actions = world.rows(&quick, "what followed actions");
    assert_eq!(quick["evidence"]["actions"][0]["n"], actions[0]["n"]);
}

fn compliance(world: &World) {
    let answer = world.ask(&["compliance", "vision"]);
    let evidence = &answer["evidence"];
    assert_eq!(evidence["met"], false);
    for objective in evidence["objectives"].as_array().unwrap() {
        let rows = world.rows(&answer, &format!("verdicts on {}", objective["objective"].as_str().unwrap()));
        for verdict in ["met", "breached", "no_data", "insufficient", "error"] {
            assert_eq!(objective["judgements"][verdict].as_f64(), Some(rows[0][verdict].as_f64().unwrap_or(0.0)));
        }
    }
    // By brute force: late results outside the excluded first minute; 0.1 of them may be.
    let counted = |report: &&Json| report["time"].as_f64().unwrap() >= START + 60.0;
    let (all, late) = (
        world.of_stage("final").filter(counted).count() as f64,
        world.of_stage("final").filter(counted).filter(|report| report["metrics"]["service.late"] == true).count()
            as f64,
    );
    let budget = &evidence["objectives"][1]["budget"];
    near(number(&budget["all"]), all);
    near(number(&budget["bad"]), late);
    near(number(&budget["spent"]), late / all / 0.1);
    let output =
        run(qualm().args(["explain", "compliance", "vision", "--format", "html", "--database", &world.database()]));
    let page = stdout(&output);
    assert!(page.starts_with("<!doctype html>") && page.contains("not met") && page.contains("warm-up"), "{page}");
    let output =
        run(qualm().args(["explain", "compliance", "vision", "--format", "md", "--database", &world.database()]));
    assert!(stdout(&output).contains("| objective |"), "{}", stdout(&output));
}

fn consumers_see_what_they_may(world: &World) {
    for arguments in all_questions(world) {
        let output = run(qualm().arg("explain").args(&arguments).args([
            "--as",
            "consumer",
            "--format",
            "json",
            "--database",
            &world.database(),
        ]));
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        let answer = stdout(&output);
        for kept in ["mod-0", "mod-1", "mod-2", "fin-0", "net-0", "net-1", "net-2"] {
            assert!(!answer.contains(kept), "{arguments:?} names {kept}: {answer}");
        }
    }
}
