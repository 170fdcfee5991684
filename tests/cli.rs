//! The commands as a person types them: messages, exit codes, formats.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{qualm, root, run, stderr, stdout};
use qualm::load::{self, Load};
use qualm::time::Span;
use serde_json::Value as Json;

fn check(arguments: &[&str]) -> Output {
    run(qualm().arg("check").args(arguments))
}

fn with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A child that ends early does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn json_lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The good contract with one thing broken, and what `qualm check` says of it.
const BROKEN: [(&str, &str, &str, &str); 19] = [
    ("parties:\n", "parties: [\n", "9:5: error: \"-\" is only valid inside a block", "check brackets"),
    ("aggregate: p99", "aggregate: p9x", "15:53: error: unknown aggregate \"p9x\"", "did you mean \"p99\"?"),
    (
        "p99, window: 30s",
        "p99, window: 30 sec",
        "15:69: error: `window` cannot be \"30 sec\"",
        "a span of time is a number and a unit",
    ),
    (
        "p99, window: 30s, every: 10s",
        "p99, window: 30s, every: 7s",
        "15:69: error: window 30s is not a multiple of every 7s",
        "for example window: 35s",
    ),
    (
        "responsible: edge-cloud",
        "responsible: edge-clod",
        "19:7: error: unknown party `edge-clod`",
        "did you mean `edge-cloud`?",
    ),
    (
        "name: on-time",
        "name: fast-inference",
        "20:7: error: two objectives are named `fast-inference`",
        "rename one of them",
    ),
    (
        "objectives: [fast-inference]",
        "objectives: [fast]",
        "53:25: error: action `scale-devices` is on an unknown objective `fast`",
        "known objectives: fast-inference, on-time",
    ),
    (
        "policy: smart-building.rhai\n        function: sure",
        "policy: smart-bilding.rhai\n        function: sure",
        "33:9: error: policy smart-bilding.rhai is missing in",
        "policies folder",
    ),
    (
        "function: sure_or_quick",
        "function: sure",
        "34:9: error: policy smart-building.rhai has no function `sure` with 2 parameter(s)",
        "it has: adapt(violation), sure_or_quick(inputs, params)",
    ),
    (
        "target: {min: 0.95}",
        "target: {min: 95}",
        "22:7: error: the target cannot be met: ratio of service.late lies between 0 and 1",
        "95 % is 0.95",
    ),
    ("severity: critical", "severty: critical", "24:7: error: unknown field `severty`", "did you mean `severity`?"),
    (
        "severity: critical",
        "severity: fatal",
        "24:7: error: `severity` cannot be \"fatal\"",
        "one of: info, minor, major, critical",
    ),
    (
        "ml.confidence, aggregate: mean, window: 20s",
        "ml.confidense, aggregate: mean, window: 20s",
        "27:19: warning: attribute `ml.confidense` is not a known one",
        "did you mean `ml.confidence`?",
    ),
    (
        "ml.confidence, aggregate: mean, window: 20s",
        "ml.confidence, scope: request, aggregate: mean, window: 20s",
        "27:19: error: whole requests have no `ml.confidence`",
        "use attribute: service.response_time, service.success or request.cost",
    ),
    (
        "      target: {max: 0.3}\n",
        "",
        "14:7: error: `objectives[0]` is not complete",
        "either `indicator` and `target`, or `rule`",
    ),
    ("version: 1.0.0", "version: 1", "5:3: error: `version`: 1 is not of type \"string\"", "quote it if text is meant"),
    ("  version: 1.0.0\n", "  version: 1.0.0\n  version: 1.0.1\n", "6:3: error: the key `version` stands twice", ""),
    (
        "actions:\n",
        "notify:\n    - webhook: {url: \"https://ops.example\", secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw}\n  actions:\n",
        "52:45: error: `secret` holds a secret in plain text",
        "put it into an environment variable",
    ),
    ("kind: Contract", "kind: Contact", "2:1: error: `kind` must be \"Contract\"", ""),
];

#[test]
fn broken_contracts_get_a_place_a_reason_and_a_hint() {
    let good = std::fs::read_to_string(root().join("contracts/smart-building.yaml")).unwrap();
    for (from, to, message, hint) in BROKEN {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::copy(root().join("policies/smart-building.rhai"), folder.path().join("policies/smart-building.rhai"))
            .unwrap();
        let file = folder.path().join("contract.yaml");
        assert!(good.contains(from), "{from}");
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        // A sound contract beside it is not held up.
        std::fs::write(folder.path().join("sound.yaml"), good.replace("name: smart-building\n", "name: sound\n"))
            .unwrap();
        let output = check(&[folder.path().to_str().unwrap()]);
        let text = stdout(&output);
        assert!(text.contains(&format!("{}:{message}", file.display())), "{message}\n{text}");
        assert!(text.contains(hint), "{hint}\n{text}");
        let errors = !message.contains("warning");
        assert_eq!(output.status.code(), Some(i32::from(errors)), "{text}");
        assert!(text.contains(if errors { "2 contracts: 1 sound" } else { "2 contracts: 2 sound" }), "{text}");
        assert!(!text.contains('\u{1b}'), "colours are for terminals");
    }
}

#[test]
fn files_that_are_no_contracts_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("a.yaml", "", "1:1: error: the file holds no document"),
        ("b.yaml", "- a\n", "1:1: error: a contract is a mapping of fields"),
        ("c.json", "{\"apiVersion\": \"qualm/v1\",\n \"kind\": }", "2:10: error: not JSON: expected value"),
        ("d.yaml", "a: &x 1\nb: *x\n", "error: "),
    ];
    for (name, text, message) in cases {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let output = check(&[file.to_str().unwrap()]);
        assert!(stdout(&output).contains(message), "{}", stdout(&output));
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn broken_scripts_get_the_place_in_the_script() {
    let scripts = [
        ("fn sure_or_quick(inputs, params) {\n  if inputs.a > 3 {\n", "broken.rhai:3:1: "),
        ("fn sure_or_quick(inputs, params) {\n  eval(\"40 + 2\")\n}", "broken.rhai:2:3: "),
        ("fn sure_or_quick(inputs) { true }", "no function `sure_or_quick` with 2 parameter(s)"),
        ("let x = 3 +;", "broken.rhai:1:12: "),
    ];
    let good = std::fs::read_to_string(root().join("contracts/smart-building.yaml")).unwrap();
    for (script, message) in scripts {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("policies")).unwrap();
        std::fs::write(folder.path().join("policies/broken.rhai"), script).unwrap();
        let file = folder.path().join("contract.yaml");
        std::fs::write(&file, good.replace("smart-building.rhai", "broken.rhai")).unwrap();
        let output = check(&[file.to_str().unwrap()]);
        assert!(stdout(&output).contains(message), "{script}\n{}", stdout(&output));
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn broken_reports_are_refused_with_the_reason_and_the_others_count() {
    let good = r#"{"time":1,"application":"smart_building","stage":"inference","instance":"i","metrics":{"service.response_time":0.1}}"#;
    let cases: [(&str, &str); 14] = [
        ("{", "EOF"),
        ("[1]", "expected"),
        (r#"{"application":"a"}"#, "missing field"),
        (&good.replace("0.1", "NaN"), "expected value"),
        (&good.replace("0.1", "1e999"), "number out of range"),
        (&good.replace("0.1", "null"), "invalid type: null"),
        (&good.replace("\"time\":1", "\"time\":\"yesterday\""), "time \"yesterday\" is not a time; write RFC 3339"),
        (&good.replace("\"time\":1", "\"time\":1764000000000"), "in seconds, not milliseconds"),
        (&good.replace("\"inference\"", "\"a.b\""), "stage"),
        (&good.replace("\"inference\"", "\"\""), "stage"),
        (&good.replace("\"metrics\"", "\"metric\""), "unknown field `metric`"),
        (&good.replace("service.response_time", "speed"), "speed"),
        (
            r#"{"time":1,"application":"a","stage":"b","instance":"c"}"#,
            "needs at least one of `metrics`, `inference`, `feedback`",
        ),
        (&good.replace("\"i\"", &format!("\"{}\"", "i".repeat(2_000))), "instance"),
    ];
    for (bad, reason) in cases {
        let input = format!("{good}\n{bad}\n{}\n", good.replace("\"time\":1", "\"time\":2"));
        let arguments = ["replay", "--contract", "contracts/smart-building.yaml", "--reports", "-", "--format", "json"];
        let output = with_input(qualm().args(arguments), input.as_bytes());
        let said = stderr(&output);
        assert!(said.contains("rejected, after 1 good reports: ") && said.contains(reason), "{bad}\n{said}");
        let summary = json_lines(&stdout(&output)).pop().unwrap();
        assert_eq!((&summary["reports"], &summary["rejected"]), (&2.into(), &1.into()), "{bad}");
    }
}

#[test]
fn a_line_tells_its_application_without_being_decoded() {
    let of = |line: &str| qualm::report::application_in(line.as_bytes());
    let known = of(r#"{"id":"r","time":1,"application":"a","stage":"b""}"#);
    assert!(known.is_some());
    assert_eq!(known, of(r#"{"application": "a","payload":{"text":"of \"application\":"}}"#));
    assert_ne!(known, of(r#"{"application":"b"}"#));
    for not_plain in [
        r#"{"application":"a","#,
        r#"{"application":"a"} {"application":"b"}"#,
        r#"{"application":"a","labels":{"application":"b"}}"#,
        r#"{"application":"\u0061"}"#,
        r#"{"a\"application":1}"#,
        r#"[{"application":"a"}]"#,
        r#"{"labels":{"application":"a"},"metrics":{}}"#,
        r#"{"metadata":{},"application":"a"}"#,
        r#"{"time":1,"application":7}"#,
        "}",
    ] {
        assert_eq!(of(not_plain), None, "{not_plain}");
    }
}

/// Lines of many applications are taken in application by application, unless one of them is no whole report.
#[test]
fn the_order_in_which_applications_are_taken_in_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for application in 0..20 {
        std::fs::write(folder.path().join(format!("{application}.yaml")), load::contract(application)).unwrap();
    }
    let step = Span::from_micros(20_000);
    let load = Load { applications: 20, disorder: 0.2, duplicates: 0.1, step, ..Load::default() };
    let text = load.reports(0..3_000);
    let mut lines: Vec<&str> = text.lines().collect();
    let unsound = lines[700].replace("ml.confidence", "speed");
    lines.insert(500, &unsound);
    lines.insert(900, &unsound);
    let replay = |lines: &[&str]| {
        let mut command = qualm();
        command.args(["replay", "--reports", "-", "--format", "json", "--contract"]).arg(folder.path());
        let output = with_input(&mut command, lines.join("\n").as_bytes());
        let (mut found, said) = (json_lines(&stdout(&output)), stderr(&output));
        let summary = found.pop().unwrap();
        let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
        found.sort();
        assert!(said.contains("after 500 good reports: ") && said.contains("after 899 good reports: "), "{said}");
        (found, summary["reports"].clone(), summary["duplicates"].clone(), summary["late"].clone())
    };
    let together = replay(&lines);
    lines.push("{oops");
    assert_eq!(together, replay(&lines));
    assert!(together.0.len() > 5_000 && together.1 == 3_000, "{} of {}", together.0.len(), together.1);
}

#[test]
fn exit_codes_tell_fine_from_findings_from_failure() {
    let code = |arguments: &[&str]| run(qualm().args(arguments)).status.code().unwrap();
    assert_eq!(code(&["check", "contracts"]), 0);
    assert_eq!(code(&["check", "nowhere"]), 2);
    assert_eq!(code(&["check"]), 2);
    assert_eq!(code(&["replay", "--contract", "contracts/smart-building.yaml", "--reports", "nowhere"]), 2);
    assert_eq!(code(&["explain", "why", "x", "--server", "http://127.0.0.1:1"]), 2);
    assert_eq!(code(&["explain", "whether", "x"]), 2);
    assert_eq!(code(&["--help"]), 0);
    let none =
        with_input(qualm().args(["replay", "--contract", "contracts/smart-building.yaml", "--reports", "-"]), b"");
    assert_eq!(none.status.code(), Some(0));
}

#[test]
fn findings_are_json_for_machines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, "- a\n").unwrap();
    let output = check(&["--format", "json", file.to_str().unwrap()]);
    let finding = json_lines(&stdout(&output)).remove(0);
    assert_eq!((&finding["line"], &finding["column"], &finding["level"]), (&1.into(), &1.into(), &"error".into()));
    assert_eq!(finding["file"], file.to_str().unwrap());
}

#[test]
fn schemas_are_json_schemas_and_examples_keep_them() {
    let schema = |of: &str| -> Json { serde_json::from_str(&stdout(&run(qualm().args(["schema", of])))).unwrap() };
    let report = jsonschema::validator_for(&schema("report")).unwrap();
    let lines = common::generated(1, 50);
    for line in json_lines(&lines) {
        assert!(report.is_valid(&line), "{line}");
    }
    assert!(!report.is_valid(&serde_json::json!({"application": "a"})));
    jsonschema::validator_for(&schema("contract")).unwrap();
    assert!(schema("policy").to_string().contains("series_max"));
}

#[test]
fn a_replay_is_the_same_bytes_every_time_and_can_be_asked_why() {
    let folder = tempfile::tempdir().unwrap();
    let reports = folder.path().join("reports.ndjson");
    std::fs::write(&reports, common::generated(7, 3_000)).unwrap();
    let replay = |more: &[&str]| {
        let arguments = ["replay", "--contract", "contracts/smart-building.yaml", "--format", "json", "--reports"];
        let output = run(qualm().args(arguments).arg(&reports).args(more));
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stdout(&output)
    };
    let database = format!("sqlite:{}", folder.path().join("replay.db").display());
    let without_seconds = |text: String| text.split("\"seconds\"").next().unwrap().to_owned();
    let first = without_seconds(replay(&[]));
    assert_eq!(first, without_seconds(replay(&["--database", &database])));
    assert_eq!(first, without_seconds(replay(&["--database", &database])), "again, into the same database");

    let outputs = json_lines(&replay(&[]));
    let opened: Vec<&Json> =
        outputs.iter().filter(|line| line["type"] == "violation" && line["state"] == "open").collect();
    assert!(opened.len() > 3);
    for violation in opened {
        let id = violation["id"].as_str().unwrap();
        let output = run(qualm().args(["explain", "why", id, "--database", &database, "--format", "json"]));
        let why: Json = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(why["found"]["value"], violation["value"]);
        assert_eq!(why["promise"]["objective"], violation["objective"]);
        assert!(why["sentence"].as_str().unwrap().contains(violation["objective"].as_str().unwrap()));
    }
    let output = run(qualm().args(["explain", "why", "nothing", "--database", &database]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("nothing"), "{}", stderr(&output));
}

#[test]
fn a_replay_leaves_the_database_of_a_service_alone() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("service.db").display());
    let contracts = root().join("contracts");
    let service = common::Service::start(&["--database", &database, "--contracts", contracts.to_str().unwrap()]);
    drop(service);
    let arguments =
        ["replay", "--contract", "contracts/smart-building.yaml", "--reports", "-", "--database", &database];
    let output = with_input(qualm().args(arguments), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("state of a service"), "{}", stderr(&output));
}

#[test]
fn the_http_api_is_as_documented() {
    let document = qualm::http::openapi().to_pretty_json().unwrap();
    insta::assert_snapshot!("openapi", document);
}

/// Every command of the documentation that needs no service, in blocks that begin with "```sh", runs.
#[test]
fn documented_commands_run() {
    let mut files = vec![root().join("README.md")];
    files.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    let mut commands = 0;
    for file in files {
        for block in blocks(&file) {
            commands += 1;
            let output = shell(&block);
            // 1 means findings, which some examples show on purpose.
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 1)), "{}: {block}\n{}", file.display(), stderr(&output));
            if let Some(shown) = answer(&file, &block) {
                let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                let said = words(&stdout(&output));
                assert!(
                    said.ends_with(&words(&shown)),
                    "{} shows another answer than\n{}",
                    file.display(),
                    stdout(&output)
                );
            }
        }
    }
    assert!(commands >= 7, "only {commands} commands found");
}

fn blocks(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let parts = text.split("```sh\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// The output that a file shows right below a block.
fn answer(file: &Path, block: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let (_, rest) = text.split_once(&format!("```sh\n{block}```\n\n"))?;
    let shown = rest.strip_prefix("```\n")?;
    Some(shown.split("```").next()?.to_owned())
}

/// Runs a block in a copy of what a reader has, with `qualm` on the path.
fn shell(block: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for name in ["contracts", "policies", "examples"] {
        std::os::unix::fs::symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_qualm")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-euc", block]).env("PATH", path).current_dir(folder.path());
    run(&mut command)
}
