//! The running service: what it judges equals what `replay` judges, on both databases, through
//! crashes; events reach webhooks; contracts change while it runs.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{
    Nats, Postgres, Service, Violation, qualm, recordings, replayed, root, run, script, stderr, stdout, wait_for,
};
use serde_json::{Value as Json, json};

const LIMIT: Duration = Duration::from_secs(60);

/// Reports to publish: a recording if there is one, else generated ones, in order of time; and
/// one report at the end that moves time on until all windows have closed.
fn reports(folder: &Path) -> PathBuf {
    let text = match recordings().first() {
        Some(file) => std::fs::read_to_string(file).unwrap(),
        None => common::generated(5, 2_000),
    };
    let time = |line: &str| serde_json::from_str::<Json>(line).unwrap()["time"].as_str().unwrap().to_owned();
    let last = text.lines().map(time).max().unwrap();
    let last: qualm::time::Timestamp = last.parse().unwrap();
    let end = json!({
        "id": "end", "time": last + qualm::time::Span::seconds(600), "application": "smart_building",
        "stage": "end", "instance": "end", "metrics": {"test.end": 1},
    });
    let file = folder.join("reports.ndjson");
    std::fs::write(&file, format!("{}\n{end}\n", text.trim_end())).unwrap();
    file
}

fn contracts(folder: &Path) -> PathBuf {
    let files = [
        ("contracts", "smart-building.yaml"),
        ("contracts", "smart-building-ml.yaml"),
        ("policies", "smart-building.rhai"),
    ];
    for (below, file) in files {
        std::fs::create_dir_all(folder.join(below)).unwrap();
        std::fs::copy(root().join(below).join(file), folder.join(below).join(file)).unwrap();
    }
    folder.join("contracts")
}

fn publish(nats: &str, text: &str) {
    let mut child =
        qualm().args(["report", "--nats", nats]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn judged_live(nats: &Nats, database: &str, reports: &Path, expected: &[Violation]) -> Service {
    let folder = tempfile::tempdir().unwrap();
    let contracts = contracts(folder.path());
    let service =
        Service::start(&["--nats", &nats.url, "--database", database, "--contracts", contracts.to_str().unwrap()]);
    publish(&nats.url, &std::fs::read_to_string(reports).unwrap());
    wait_for("the violations", LIMIT, || (service.violations().len() >= expected.len()).then_some(()));
    assert_eq!(service.violations(), expected);
    service
}

#[test]
fn live_on_sqlite_equals_replay() {
    let folder = tempfile::tempdir().unwrap();
    let reports = reports(folder.path());
    let expected = replayed(&contracts(folder.path()), &reports);
    assert!(expected.len() > 5, "a test needs violations");
    let nats = Nats::start();
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = judged_live(&nats, &database, &reports, &expected);
    assert_eq!(service.metric("qualm_rejected_total"), 0.0);
    assert!(service.stop(), "SIGTERM ends the service in order");
}

#[test]
fn live_on_postgres_equals_replay() {
    let folder = tempfile::tempdir().unwrap();
    let reports = reports(folder.path());
    let expected = replayed(&contracts(folder.path()), &reports);
    let (nats, postgres) = (Nats::start(), Postgres::start());
    judged_live(&nats, &postgres.url, &reports, &expected);
}

/// The distribution's nats-server, if it has one.
fn oldest_nats_server() -> Option<String> {
    let program = Some(script("find-oldest-nats-server")).filter(|program| !program.is_empty());
    if program.is_none() {
        println!("the distribution has no package nats-server; not tested");
    }
    program
}

#[test]
fn live_on_the_oldest_nats_server_equals_replay() {
    let Some(program) = oldest_nats_server() else { return };
    let folder = tempfile::tempdir().unwrap();
    let reports = reports(folder.path());
    let expected = replayed(&contracts(folder.path()), &reports);
    let nats = Nats::start_program(&program);
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    judged_live(&nats, &database, &reports, &expected);
}

/// A backlog that is larger than what the server sends ahead of an answer is drained; in the middle
/// the server is killed, and another takes its place.
fn survives_a_restart_of_nats(program: &str) {
    const COUNT: u32 = 200_000;
    let folder = tempfile::tempdir().unwrap();
    let contracts = folder.path().join("contracts");
    let contracts = contracts.to_str().unwrap();
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let mut nats = Nats::start_program(program);
    let bench = ["bench", "--nats", &nats.url, "--applications", "20", "--contracts", contracts];
    assert!(run(qualm().args(bench).args(["--count", &COUNT.to_string()])).status.success());
    let service = Service::start(&["--nats", &nats.url, "--database", &database, "--contracts", contracts]);
    let taken_in = || service.metric("qualm_reports_total") as u32;
    wait_for("reports", LIMIT, || (taken_in() > 0).then_some(()));
    nats.restart();
    assert!(taken_in() < COUNT, "a test must restart in the middle");
    wait_for("all reports", LIMIT, || (taken_in() >= COUNT).then_some(()));
    // Whatever was sent again after that would be counted too.
    wait_for("the end", LIMIT, || (service.metric("qualm_lag_messages") == 0.0).then_some(()));
    assert_eq!(taken_in(), COUNT);
    assert_eq!(service.metric("qualm_reports_duplicate_total"), 0.0);
    wait_for("the lost connection to be noticed", LIMIT, || service.log().contains("trying again").then_some(()));
    assert_eq!(taken_in(), COUNT);
    assert!(service.stop());
}

#[test]
fn a_backlog_outlives_the_nats_server() {
    survives_a_restart_of_nats(&script("find-nats-server"));
    if let Some(program) = oldest_nats_server() {
        survives_a_restart_of_nats(&program);
    }
}

#[test]
fn a_nats_user_needs_the_documented_rights_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let contracts = folder.path().join("contracts");
    let contracts = contracts.to_str().unwrap();
    let publish = r#"publish: ["$JS.API.>", "qoa.>", "_INBOX.>"#;
    let subscribe = r#"subscribe: ["qoa.>", "$SRV.>", "_INBOX.>"]"#;
    let nats = Nats::start_with(
        &script("find-nats-server"),
        &format!(
            r#"authorization {{ users: [
            {{ user: "qualm", password: "s:cret", permissions: {{ {publish}", "$JS.FC.QOA_REPORTS.>"], {subscribe} }} }},
            {{ user: "less", password: "less", permissions: {{ {publish}"], {subscribe} }} }} ] }}"#
        ),
    );
    let url = nats.url.replace("//", "//qualm:s%3Acret@");
    let less = nats.url.replace("//", "//less:less@");
    let stranger = run(qualm().args(["bench", "--nats", &url.replace("s%3A", "S"), "--count", "1"]));
    assert_eq!(stranger.status.code(), Some(2));
    assert!(stderr(&stranger).contains("authorization violation") && !stderr(&stranger).contains("Scret"));
    // More than is sent without flow control.
    let bench = ["bench", "--nats", &url, "--count", "100000", "--contracts", contracts];
    let published = run(qualm().args(bench));
    assert!(published.status.success(), "{}", stderr(&published));
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = Service::start(&["--nats", &url, "--database", &database, "--contracts", contracts]);
    wait_for("all reports", LIMIT, || (service.metric("qualm_reports_total") == 100_000.0).then_some(()));
    let asked = ["explain", "compliance", "load-0", "--nats", &url];
    let answer = run(qualm().args(asked));
    assert!(answer.status.success(), "{}", stderr(&answer));
    assert!(!service.log().contains("WARN"), "{}", service.log());
    let database = format!("sqlite:{}", folder.path().join("less.db").display());
    let stalled = Service::start(&["--nats", &less, "--database", &database, "--contracts", contracts]);
    wait_for("the hint", LIMIT, || stalled.log().contains("publish on $JS.FC.QOA_REPORTS.>").then_some(()));
}

/// Kills the service again and again while reports come; nothing is lost, nothing comes twice.
fn survives_kills(database: &str) {
    let folder = tempfile::tempdir().unwrap();
    let reports = reports(folder.path());
    let expected = replayed(&contracts(folder.path()), &reports);
    let nats = Nats::start();
    let contracts = contracts(folder.path());
    let start =
        || Service::start(&["--nats", &nats.url, "--database", database, "--contracts", contracts.to_str().unwrap()]);
    let text = std::fs::read_to_string(reports).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut seen_before_a_kill = 0;
    for (round, chunk) in lines.chunks(lines.len().div_ceil(6)).enumerate() {
        let service = start();
        publish(&nats.url, &chunk.join("\n"));
        // From before the first checkpoint to after it, which comes after a second.
        std::thread::sleep(Duration::from_millis([10, 120, 400, 900, 1_300, 60][round % 6]));
        seen_before_a_kill += service.violations().len();
        service.kill();
    }
    assert!(seen_before_a_kill > 0, "a test must kill in the middle");
    let service = start();
    wait_for("the violations", LIMIT, || (service.violations().len() >= expected.len()).then_some(()));
    assert_eq!(service.violations(), expected);
}

#[test]
fn kill_9_loses_nothing_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    survives_kills(&format!("sqlite:{}", folder.path().join("q.db").display()));
}

#[test]
fn kill_9_loses_nothing_on_postgres() {
    let postgres = Postgres::start();
    survives_kills(&postgres.url);
}

#[test]
fn without_nats_the_journal_plays_its_part() {
    let folder = tempfile::tempdir().unwrap();
    let reports = reports(folder.path());
    let expected = replayed(&contracts(folder.path()), &reports);
    let contracts = contracts(folder.path());
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let start = || Service::start(&["--database", &database, "--contracts", contracts.to_str().unwrap()]);
    let text = std::fs::read_to_string(reports).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for chunk in lines.chunks(lines.len().div_ceil(4)) {
        let service = start();
        let (status, answer) = service.send("POST", "/v1/reports", &chunk.join("\n"));
        assert_eq!((status, &answer["accepted"]), (202, &json!(chunk.len())), "{answer}");
        service.kill();
    }
    let service = start();
    wait_for("the violations", LIMIT, || (service.violations().len() >= expected.len()).then_some(()));
    assert_eq!(service.violations(), expected);
}

/// A receiver of webhooks in Python, which checks signatures with an independent library.
struct Receiver {
    port: u16,
    log: PathBuf,
    child: Option<std::process::Child>,
}

const SECRET: &str = "whsec_c2VjcmV0LWZvci10ZXN0cy1vbmx5LTEyMzQ1Njc4";

impl Receiver {
    fn start(&mut self) {
        let mut command = Command::new(script("python-env"));
        command.arg(root().join("tests/webhook_receiver.py")).arg(self.port.to_string()).arg(&self.log).arg(SECRET);
        self.child = Some(command.spawn().unwrap());
        let port = self.port;
        wait_for("the receiver", LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn received(&self) -> Vec<Json> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn webhooks_are_signed_and_survive_an_outage_of_the_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let reports = reports(folder.path());
    let contracts = contracts(folder.path());
    std::fs::remove_file(contracts.join("smart-building-ml.yaml")).unwrap();
    let expected = replayed(&contracts, &reports);
    let mut receiver = Receiver { port: common::free_port(), log: folder.path().join("received"), child: None };
    let file = contracts.join("smart-building.yaml");
    let url = format!("http://127.0.0.1:{}/hook", receiver.port);
    let notify = format!("  notify:\n    - webhook: {{url: \"{url}\", secret_env: TEST_HOOK_SECRET}}\n");
    let source = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{source}{notify}")).unwrap();
    let nats = Nats::start();
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let arguments = ["--nats", &nats.url, "--database", &database, "--contracts", contracts.to_str().unwrap()];
    let service = Service::start_with(&arguments, &[("TEST_HOOK_SECRET", SECRET)]);
    let text = std::fs::read_to_string(reports).unwrap();
    let lines: Vec<&str> = text.lines().collect();

    receiver.start();
    publish(&nats.url, &lines[..lines.len() / 2].join("\n"));
    wait_for("the first webhooks", LIMIT, || (!receiver.received().is_empty()).then_some(()));
    receiver.stop();
    publish(&nats.url, &lines[lines.len() / 2..].join("\n"));
    std::thread::sleep(Duration::from_secs(10));
    receiver.start();

    let unique = |received: &[Json]| {
        let mut events: Vec<(String, String)> = received
            .iter()
            .map(|r| (r["violation"].as_str().unwrap().to_owned(), r["state"].as_str().unwrap().to_owned()))
            .collect();
        events.sort();
        events.dedup();
        events
    };
    let wanted: Vec<(String, String)> = expected.iter().map(|v| (v.id.clone(), v.state.clone())).collect();
    wait_for("all webhooks", LIMIT, || (unique(&receiver.received()).len() >= wanted.len()).then_some(()));
    let received = receiver.received();
    assert_eq!(unique(&received), wanted, "each opened and each resolved event arrives");
    assert!(received.iter().all(|r| r["verified"] == true), "every signature is good");
    let mut bodies = std::collections::HashMap::new();
    for delivery in &received {
        let before = bodies.insert(delivery["id"].clone(), delivery["body"].clone());
        assert!(before.is_none_or(|body| body == delivery["body"]), "one id, one body");
    }
    assert!(service.metric("qualm_deliveries_total{kind=\"webhook\",outcome=\"failed\"}") > 0.0, "there was an outage");
}

#[test]
fn contracts_change_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let contracts = contracts(folder.path());
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = Service::start(&["--database", &database, "--contracts", contracts.to_str().unwrap()]);
    let file = contracts.join("smart-building.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let status = || service.get("/v1/contracts/smart-building/status").1;
    assert_eq!((&status()["version"], &status()["healthy"]), (&json!("1.0.0"), &json!(true)));

    std::fs::write(&file, good.replace("version: 1.0.0", "version: 1.1.0")).unwrap();
    wait_for("the new version", LIMIT, || (status()["version"] == "1.1.0").then_some(()));

    std::fs::write(&file, good.replace("aggregate: p99", "aggregate: p9x").replace("1.0.0", "1.2.0")).unwrap();
    wait_for("the refusal", LIMIT, || (status()["healthy"] == false).then_some(()));
    assert_eq!(status()["version"], "1.1.0", "the last good version stays");
    let fault = status()["faults"][0].clone();
    assert_eq!((&fault["line"], fault["message"].as_str().unwrap()), (&json!(15), "unknown aggregate \"p9x\""));
    assert!(service.log().contains("unknown aggregate \"p9x\"; did you mean \"p99\"?"), "{}", service.log());
    assert_eq!(service.metric("qualm_contract_faulty"), 1.0);

    std::fs::write(&file, good.replace("1.0.0", "1.2.0")).unwrap();
    wait_for("the mended version", LIMIT, || (status()["version"] == "1.2.0").then_some(()));
    assert_eq!(status()["healthy"], true);
    assert_eq!(service.metric("qualm_contract_faulty"), 0.0);
    let versions = service.get("/v1/contracts/smart-building/versions").1;
    let kept: Vec<&str> = versions.as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap()).collect();
    assert_eq!(kept, ["1.2.0", "1.1.0", "1.0.0"], "every accepted version is kept");

    std::fs::remove_file(&file).unwrap();
    wait_for("the withdrawal", LIMIT, || (service.get("/v1/contracts/smart-building").0 == 404).then_some(()));
}

/// A contract on the application `shop` with one `each` objective.
fn shop(guard: &str) -> String {
    format!(
        "apiVersion: qualm/v1\nkind: Contract\nmetadata: {{name: shop, version: 1.0.0}}\nspec:\n  scope: {{application: shop}}\n  \
         objectives:\n    - {{name: quick, indicator: {{attribute: service.response_time, aggregate: each}}, target: {{max: 1}}}}\n  \
         actions:\n    - {{name: scale, do: {{kind: scale, params: {{n: 2}}}}, guard: {guard}}}\n"
    )
}

fn shop_report(id: &str, seconds: f64) -> String {
    let now = qualm::time::Timestamp::now();
    let report = json!({"id": id, "time": now, "application": "shop", "stage": "web", "instance": "w-0", "metrics": {"service.response_time": seconds}});
    report.to_string()
}

#[test]
fn actions_await_approval_and_take_outcomes() {
    let folder = tempfile::tempdir().unwrap();
    let nats = Nats::start();
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = Service::start(&["--nats", &nats.url, "--database", &database]);
    assert_eq!(service.send("PUT", "/v1/contracts/shop", &shop("{approval: required}")).0, 200);
    assert_eq!(service.send("POST", "/v1/reports", &shop_report("r-1", 2.0)).0, 202);
    let action = wait_for("the action", LIMIT, || {
        let (_, list) = service.get("/v1/actions");
        list["items"].as_array()?.first().cloned()
    });
    assert_eq!(action["state"], "awaiting_approval");
    let path = format!("/v1/actions/{}", action["id"].as_str().unwrap());
    assert_eq!(service.send("POST", &format!("{path}/outcome"), "{\"state\":\"running\"}").0, 404, "it has not left");
    let (status, approved) = service.send("POST", &format!("{path}/approve"), "{\"by\":\"ops\"}");
    assert_eq!((status, &approved["state"]), (200, &json!("requested")));
    assert_eq!(service.send("POST", &format!("{path}/approve"), "{\"by\":\"ops\"}").0, 409);
    assert_eq!(
        service.send("POST", &format!("{path}/outcome"), "{\"state\":\"succeeded\",\"message\":\"done\"}").0,
        200
    );
    assert_eq!(service.send("POST", &format!("{path}/outcome"), "{\"state\":\"running\"}").0, 200);
    let (_, action) = service.get(&path);
    assert_eq!((&action["state"], action["outcomes"].as_array().unwrap().len()), (&json!("succeeded"), 2), "{action}");
    assert_eq!(service.send("POST", &format!("{path}/outcome"), "{\"state\":\"dancing\"}").0, 422);

    let violation = action["violation"].as_str().unwrap();
    let (_, why) = service.get(&format!("/v1/violations/{violation}/explanation"));
    assert!(why["sentence"].as_str().unwrap().contains("shop/quick was broken: service.response_time was 2"), "{why}");
    let outcomes = why["actions"][0]["outcomes"].as_array().unwrap();
    assert!(outcomes.iter().any(|outcome| outcome["message"] == "done"), "{outcomes:?}");
    let (status, seen) = service.send("POST", &format!("/v1/violations/{violation}/acknowledge"), "{\"by\":\"ops\"}");
    assert_eq!((status, &seen["acknowledged_by"]), (200, &json!("ops")));
    let over_nats = run(qualm().args(["explain", "why", violation, "--nats", &nats.url]));
    let over_http = run(qualm().args(["explain", "why", violation, "--server", &service.url]));
    assert!(stdout(&over_http).contains("acknowledged by ops"), "{}", stdout(&over_http));
    assert_eq!(stdout(&over_nats), stdout(&over_http), "{}", stderr(&over_nats));
    let over_nats = run(qualm().args(["explain", "who", violation, "--nats", &nats.url]));
    let over_http = run(qualm().args(["explain", "who", violation, "--server", &service.url]));
    assert!(stdout(&over_http).contains("ops acknowledged it"), "{}{}", stdout(&over_http), stderr(&over_http));
    assert_eq!(stdout(&over_nats), stdout(&over_http), "{}", stderr(&over_nats));

    assert_eq!(service.send("POST", "/v1/reports", &shop_report("r-2", 0.5)).0, 202);
    wait_for("the resolution", LIMIT, || {
        let (_, whole) = service.get(&format!("/v1/violations/{violation}"));
        (whole["state"] == "resolved").then_some(())
    });
}

#[test]
fn bad_reports_are_refused_with_reasons_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let nats = Nats::start();
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = Service::start(&["--nats", &nats.url, "--database", &database]);
    assert_eq!(service.send("PUT", "/v1/contracts/shop", &shop("{}")).0, 200);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(async {
        use futures::StreamExt;
        let client = async_nats::connect(&nats.url).await.unwrap();
        let mut rejected = client.subscribe("qoa.rejected").await.unwrap();
        client.flush().await.unwrap();
        let good = shop_report("r-1", 3.0);
        let ahead = good.replace("\"2", "\"3").replace("r-1", "r-2");
        for (subject, body) in [
            ("qoa.reports.default.shop.web", "not json".to_owned()),
            ("qoa.reports.default.other.web", good.clone()),
            ("qoa.reports.default.shop", good.clone()),
            ("qoa.reports.default.shop.web", ahead),
            ("qoa.reports.default.shop.web", good.clone()),
        ] {
            client.publish(subject, body.into()).await.unwrap();
        }
        let mut reasons = Vec::new();
        for _ in 0..4 {
            let message = tokio::time::timeout(LIMIT, rejected.next()).await.unwrap().unwrap();
            let body: Json = serde_json::from_slice(&message.payload).unwrap();
            assert!(!body["original"].as_str().unwrap().is_empty());
            reasons.push(body["reason"].as_str().unwrap().to_owned());
        }
        reasons.sort();
        reasons
    });
    assert_eq!(refused, ["shape", "subject", "subject", "syntax"]);
    wait_for("the good one", LIMIT, || (service.violations().len() == 1).then_some(()));
    assert_eq!(service.metric("qualm_rejected_total"), 4.0);
}

#[test]
fn mqtt_clients_report_through_nats() {
    let folder = tempfile::tempdir().unwrap();
    let nats = Nats::start();
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = Service::start(&["--nats", &nats.url, "--database", &database]);
    assert_eq!(service.send("PUT", "/v1/contracts/shop", &shop("{}")).0, 200);
    let client = root().join("examples/mqtt_client.py");
    let output = run(Command::new(script("python-env")).arg(client).args([
        "127.0.0.1",
        &nats.mqtt_port.to_string(),
        &shop_report("m-1", 4.0),
    ]));
    assert!(output.status.success(), "{}", stderr(&output));
    wait_for("the violation", LIMIT, || (service.violations().len() == 1).then_some(()));
}

#[test]
fn tokens_give_roles_and_strangers_stay_out() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("qualm.toml");
    std::fs::write(
        &config,
        "[[tokens]]\nrole = \"reporter\"\nenv = \"T_REPORTER\"\n[[tokens]]\nrole = \"reader\"\nenv = \"T_READER\"\n[[tokens]]\nrole = \"consumer\"\nenv = \"T_CONSUMER\"\n",
    )
    .unwrap();
    let (reporter, reader, consumer) = ("reporter-0123456789", "reader-0123456789", "consumer-0123456789");
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = Service::start_with(
        &["--config", config.to_str().unwrap(), "--database", &database],
        &[("T_REPORTER", reporter), ("T_READER", reader), ("T_CONSUMER", consumer)],
    );
    let ask =
        |method: &str, path: &str, token| common::http(method, &format!("{}{path}", service.url), Some(""), token).0;
    assert_eq!(ask("GET", "/v1/violations", None), 401);
    assert_eq!(ask("GET", "/v1/violations", Some("wrong-0123456789")), 401);
    assert_eq!(ask("GET", "/v1/violations", Some(reader)), 200);
    assert_eq!(ask("GET", "/v1/violations", Some(reporter)), 403);
    assert_eq!(ask("POST", "/v1/reports", Some(reader)), 403);
    assert_eq!(ask("POST", "/v1/reports", Some(reporter)), 422);
    assert_eq!(ask("PUT", "/v1/contracts/x", Some(reader)), 403);
    assert_eq!(ask("GET", "/v1/explain/which?violation=x", Some(consumer)), 404, "may ask, but there is none");
    assert_eq!(ask("GET", "/v1/violations", Some(consumer)), 403);
    assert_eq!(ask("GET", "/readyz", None), 200);
    let open = run(qualm().args(["serve", "--http", "0.0.0.0:0", "--database", &database]));
    assert_eq!(open.status.code(), Some(2));
    assert!(stderr(&open).contains("open to others"), "{}", stderr(&open));
}

#[test]
fn http_errors_are_problems() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("q.db").display());
    let service = Service::start(&["--database", &database]);
    for (method, path, body, status) in [
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/v1/violations/none", "", 404),
        ("GET", "/v1/violations?limit=9999", "", 400),
        ("GET", "/v1/violations?limit=ten", "", 400),
        ("GET", "/v1/violations?cursor=x", "", 400),
        ("GET", "/v1/violations?objectiv=x", "", 400),
        ("GET", "/v1/explain/who?violation=x", "", 404),
        ("GET", "/v1/explain/which", "", 400),
        ("GET", "/v1/explain/whence", "", 404),
        ("GET", "/v1/explain/quality?application=nothing", "", 404),
        ("GET", "/v1/explain/quality?application=nothing&from=yesterday", "", 400),
        ("PATCH", "/v1/violations", "", 405),
        ("POST", "/v1/reports", "{}", 422),
        ("POST", "/v1/violations/x/acknowledge", "{\"who\":1}", 422),
        ("PUT", "/v1/contracts/x", "kind: Contract", 422),
        ("DELETE", "/v1/contracts/x", "", 404),
    ] {
        let (code, problem) = service.send(method, path, body);
        assert_eq!(code, status, "{method} {path}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{method} {path}: {problem}");
    }
    let large = "x".repeat(9 << 20);
    assert_eq!(service.send("POST", "/v1/reports", &large).0, 413);
}

/// The commands of the documentation that need the service, in blocks "```sh service"; the one
/// that starts it, "```sh serve", is what this test starts.
#[test]
fn documented_commands_run_beside_the_service() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("```sh serve\nqualm serve --nats nats://127.0.0.1:4222 --contracts contracts/\n```"));
    let folder = tempfile::tempdir().unwrap();
    let nats = Nats::start();
    let database = format!("sqlite:{}", folder.path().join("qualm.db").display());
    let service = Service::start(&["--nats", &nats.url, "--contracts", "contracts/", "--database", &database]);
    let binary = Path::new(env!("CARGO_BIN_EXE_qualm")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let shell = |block: &str| {
        let block = block.replace("nats://127.0.0.1:4222", &nats.url).replace("sqlite:qualm.db", &database);
        let mut command = Command::new("sh");
        command.args(["-euc", &block]).envs([("PATH", path.as_str()), ("QUALM_SERVER", &service.url)]);
        let output = run(command.current_dir(root()));
        assert!(output.status.success(), "{block}\n{}", stderr(&output));
        stdout(&output)
    };
    let blocks = |text: &str| {
        let parts: Vec<String> =
            text.split("```sh service\n").skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect();
        assert!(!parts.is_empty());
        parts
    };
    for block in blocks(&readme) {
        assert!(shell(&block).contains("reports sent, 0 refused"), "{block}");
    }
    let id = wait_for("a violation", LIMIT, || {
        let (_, page) = service.get("/v1/violations?objective=fast-inference");
        Some(page["items"][0]["id"].as_str()?.to_owned())
    });
    let operations = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    for block in blocks(&operations) {
        let said = shell(&block.replace("VIOLATION", &id));
        assert_eq!(
            said.matches("smart-building/fast-inference").count(),
            block.matches("qualm explain").count(),
            "{said}"
        );
    }
}
