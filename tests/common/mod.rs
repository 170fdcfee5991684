//! Real servers for tests, each on a free port and in a temporary folder, stopped when dropped.

#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tempfile::TempDir;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The program under test.
pub fn qualm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qualm"));
    command.current_dir(root());
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a script of `scripts/` prints.
pub fn script(name: &str) -> String {
    let output = Command::new(root().join("scripts").join(name)).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/{name} failed");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Recorded reports of the smart building, where they exist beside the project.
pub fn recordings() -> Vec<PathBuf> {
    let folder = root().join("../shared/data/smart-building");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "ndjson"));
    files.sort();
    files
}

/// Generated reports of the smart building.
pub fn generated(seed: u32, count: u32) -> String {
    let generate = root().join("tests/oracle/generate.py");
    let output = run(Command::new("python3").arg(generate).args([seed.to_string(), count.to_string()]));
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `done` gives something.
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn accepts(port: u16) -> Option<()> {
    std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
}

pub struct Nats {
    pub url: String,
    pub mqtt_port: u16,
    program: String,
    port: u16,
    child: Child,
    folder: TempDir,
}

impl Nats {
    pub fn start() -> Nats {
        Nats::start_program(&script("find-nats-server"))
    }

    pub fn start_program(program: &str) -> Nats {
        Nats::start_with(program, "")
    }

    /// With further settings.
    pub fn start_with(program: &str, settings: &str) -> Nats {
        let folder = tempfile::tempdir().unwrap();
        let (port, mqtt_port) = (free_port(), free_port());
        let store = folder.path().join("js");
        let config = format!(
            "server_name: test\nhost: 127.0.0.1\nport: {port}\njetstream {{ store_dir: {:?} }}\nmqtt {{ host: 127.0.0.1, port: {mqtt_port} }}\n{settings}\n",
            store
        );
        std::fs::write(folder.path().join("nats.conf"), config).unwrap();
        let child = Nats::run(program, folder.path(), port);
        let (url, program) = (format!("nats://127.0.0.1:{port}"), program.to_owned());
        Nats { url, mqtt_port, program, port, child, folder }
    }

    fn run(program: &str, folder: &Path, port: u16) -> Child {
        let mut command = Command::new(program);
        command.arg("-c").arg(folder.join("nats.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for("nats-server", Duration::from_secs(20), || accepts(port));
        child
    }

    /// SIGKILL, and a new one in its place with the same streams.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Nats::run(&self.program, self.folder.path(), self.port);
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Postgres {
    pub url: String,
    child: Child,
    _folder: TempDir,
}

impl Postgres {
    pub fn start() -> Postgres {
        let folder = tempfile::tempdir().unwrap();
        // Root becomes nobody for PostgreSQL, who must be able to pass through.
        #[cfg(unix)]
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let port = free_port();
        let script = root().join("scripts/start-postgres");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(script)
            .arg(folder.path().join("cluster"))
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("postgres://qualm@127.0.0.1:{port}/postgres");
        wait_for("PostgreSQL", Duration::from_secs(60), || accepts(port));
        Postgres { url, child, _folder: folder }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT is PostgreSQL's fast shutdown; it takes its children along.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// A running `qualm serve`.
pub struct Service {
    pub url: String,
    child: Child,
    log: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Service {
    pub fn start(arguments: &[&str]) -> Service {
        Service::start_with(arguments, &[])
    }

    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Service {
        let mut command = qualm();
        command.args(["serve", "--http", "127.0.0.1:0"]).args(arguments);
        command.envs(environment.iter().copied()).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let url = wait_for("the service", Duration::from_secs(60), || {
            let log = log.lock().unwrap();
            let (_, rest) = log.split_once("ready: ")?;
            Some(rest.split_whitespace().next()?.to_owned())
        });
        Service { url, child, log }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGKILL: no time for anything.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: saves and ends by itself.
    pub fn stop(mut self) -> bool {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        self.child.wait().unwrap().success()
    }

    pub fn get(&self, path: &str) -> (u16, Json) {
        http("GET", &format!("{}{path}", self.url), None, None)
    }

    pub fn send(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        http(method, &format!("{}{path}", self.url), Some(body), None)
    }

    /// The value of a metric, all labels together.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let text = text.as_str().unwrap_or_default().to_owned();
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// KiB of memory that the service has in use.
    pub fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// All violations, as (id, objective, opened, resolved, values of the transitions).
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = self.get(&format!("/v1/violations?limit=100{cursor}"));
            assert_eq!(status, 200, "{page}");
            for item in page["items"].as_array().unwrap() {
                let (_, whole) = self.get(&format!("/v1/violations/{}", item["id"].as_str().unwrap()));
                for transition in whole["transitions"].as_array().unwrap() {
                    found.push(Violation::of(&transition["detail"]));
                }
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        found.sort();
        found
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A transition of a violation, to compare runs by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub id: String,
    pub state: String,
    pub at: String,
    pub objective: String,
    pub value: String,
}

impl Violation {
    pub fn of(json: &Json) -> Violation {
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        Violation {
            id: text("id"),
            state: text("state"),
            at: text("at"),
            objective: text("objective"),
            value: json["value"].to_string(),
        }
    }
}

/// What `replay` finds in a file of reports.
pub fn replayed(contract: &Path, reports: &Path) -> Vec<Violation> {
    let output =
        run(qualm().args(["replay", "--format", "json", "--contract"]).arg(contract).arg("--reports").arg(reports));
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", stderr(&output));
    let rows = stdout(&output).lines().map(|line| serde_json::from_str::<Json>(line).unwrap()).collect::<Vec<_>>();
    let mut found: Vec<Violation> = rows.iter().filter(|row| row["type"] == "violation").map(Violation::of).collect();
    found.sort();
    found
}

/// One request; the body as JSON, or as a JSON text.
pub fn http(method: &str, url: &str, body: Option<&str>, token: Option<&str>) -> (u16, Json) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = reqwest::Client::new().request(method, url);
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Json::String(text)))
    })
}
