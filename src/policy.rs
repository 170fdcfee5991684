//! Rhai policies: compiled once a contract version, called with data only.
//!
//! Scripts run in a sandbox: no files, network, clock, modules or `eval`; operations, call
//! depth and sizes are bounded. The same inputs give the same result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rhai::serde::{from_dynamic, to_dynamic};
use rhai::{AST, Array, Dynamic, Engine, EvalAltResult, FLOAT, INT, Map, Position, Scope};
use serde::Serialize;
use serde_json::Value as Json;

use crate::contract::{Command, Contract, Decide, Level, Loaded, Promise, Rule};

/// The script API as `qualm schema policy` prints it.
pub const SCHEMA: &str = include_str!("policy/schema.json");

/// Operations that one call may take; some 20 ms.
const OPERATIONS_MAX: u64 = 500_000;
const COMMANDS_MAX: usize = 16;

static SANDBOX: LazyLock<Engine> = LazyLock::new(sandbox);

fn sandbox() -> Engine {
    let mut engine = Engine::new();
    engine.set_max_operations(OPERATIONS_MAX);
    engine.set_max_call_levels(32);
    engine.set_max_expr_depths(64, 64);
    engine.set_max_string_size(64 << 10);
    engine.set_max_array_size(20_000);
    engine.set_max_map_size(20_000);
    engine.set_max_variables(256);
    engine.set_max_functions(256);
    engine.disable_symbol("eval");
    engine.on_print(|_| {});
    engine.on_debug(|_, _, _| {});
    engine.register_fn("series_min", |series: Array| fold(&series, FLOAT::min));
    engine.register_fn("series_max", |series: Array| fold(&series, FLOAT::max));
    engine.register_fn("series_mean", |series: Array| {
        let values = values(&series);
        if values.is_empty() { Dynamic::UNIT } else { (values.iter().sum::<FLOAT>() / values.len() as FLOAT).into() }
    });
    engine.register_fn("series_gap", |series: Array| {
        let values = values(&series);
        let (least, greatest) = values.iter().fold((FLOAT::MAX, FLOAT::MIN), |(l, g), v| (l.min(*v), g.max(*v)));
        if values.is_empty() { Dynamic::UNIT } else { (greatest - least).into() }
    });
    engine.register_fn("series_samples", |series: Array| {
        series.iter().filter_map(|item| item.read_lock::<Map>()?.get("count")?.as_int().ok()).sum::<INT>()
    });
    engine
}

fn values(series: &Array) -> Vec<FLOAT> {
    series.iter().filter_map(|item| item.read_lock::<Map>()?.get("value")?.as_float().ok()).collect()
}

fn fold(series: &Array, pick: fn(FLOAT, FLOAT) -> FLOAT) -> Dynamic {
    values(series).into_iter().reduce(pick).map_or(Dynamic::UNIT, Dynamic::from)
}

/// The compiled scripts of one contract version.
#[derive(Clone, Default)]
pub struct Policies {
    scripts: BTreeMap<String, AST>,
}

/// What one input of a rule is.
#[derive(Debug, Clone, Serialize)]
pub struct Input {
    /// The aggregated value, or nothing for an empty window (and with `group_by`).
    pub value: Option<Json>,
    /// Observations in the window.
    pub count: u64,
    /// With `group_by`: a value for each series that has data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<Vec<InputSeries>>,
}

/// One series of an input with `group_by`.
#[derive(Debug, Clone, Serialize)]
pub struct InputSeries {
    /// Label values by name.
    pub key: BTreeMap<String, String>,
    /// The aggregated value.
    pub value: Json,
    /// Observations in the window.
    pub count: u64,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ruling {
    /// Whether the promise holds.
    pub ok: bool,
    /// A number to show for it.
    #[serde(default)]
    pub value: Option<f64>,
    /// A sentence to show for it.
    #[serde(default)]
    pub message: Option<String>,
}

/// A script that failed or ran over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policies/{policy}:{line}:{column}: {message}")]
pub struct ScriptError {
    policy: String,
    line: usize,
    column: usize,
    message: String,
}

impl Policies {
    /// Asks a rule. Errors carry the script's position.
    pub fn rule(&self, rule: &Rule, inputs: &BTreeMap<&str, Input>) -> Result<Ruling, ScriptError> {
        let result = self.call(&rule.policy, &rule.function, (as_dynamic(inputs), as_dynamic(&rule.params)))?;
        let ruling = match result.as_bool() {
            Ok(ok) => Ok(Ruling { ok, value: None, message: None }),
            Err(_) if result.is_map() => ruling_from(result),
            Err(kind) => Err(format!("it returned {kind}")),
        };
        ruling.map_err(|fault| {
            let message = format!("`{}` must return a bool or #{{ok, value, message}}, but {fault}", rule.function);
            ScriptError { policy: rule.policy.clone(), line: 1, column: 1, message }
        })
    }

    /// Asks what to do about a violation. Errors carry the script's position.
    pub fn decide(&self, decide: &Decide, violation: &Json) -> Result<Vec<Command>, ScriptError> {
        let result = self.call(&decide.policy, &decide.function, (as_dynamic(violation),))?;
        let kind = result.type_name();
        let fault = match from_dynamic::<Vec<Command>>(&result) {
            Ok(commands) if commands.len() > COMMANDS_MAX => {
                format!("{} of them; the limit is {COMMANDS_MAX}", commands.len())
            }
            Ok(commands) => match commands.iter().find(|command| !is_token(&command.kind)) {
                None => return Ok(commands),
                Some(command) => format!("kind {:?} is not a name of letters, digits, '-' and '_'", command.kind),
            },
            Err(error) => format!("it returned {kind}: {error}"),
        };
        let message = format!("`{}` must return an array of #{{kind, params}}, but {fault}", decide.function);
        Err(ScriptError { policy: decide.policy.clone(), line: 1, column: 1, message })
    }

    fn call(&self, policy: &str, function: &str, args: impl rhai::FuncArgs) -> Result<Dynamic, ScriptError> {
        let failed = |line: Option<usize>, column: Option<usize>, message: String| ScriptError {
            policy: policy.to_owned(),
            line: line.unwrap_or(1),
            column: column.unwrap_or(1),
            message,
        };
        let Some(script) = self.scripts.get(policy) else {
            return Err(failed(None, None, "the script is missing".to_owned()));
        };
        SANDBOX.call_fn::<Dynamic>(&mut Scope::new(), script, function, args).map_err(|error| {
            let (position, message) = innermost(&error);
            failed(position.line(), position.position(), message)
        })
    }
}

fn is_token(kind: &str) -> bool {
    (1..=63).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn ruling_from(result: Dynamic) -> Result<Ruling, String> {
    let mut map: Map = result.try_cast().unwrap_or_default();
    if let Some(value) = map.get_mut("value")
        && let Ok(whole) = value.as_int()
    {
        *value = Dynamic::from(whole as FLOAT);
    }
    for optional in ["value", "message"] {
        if map.get(optional).is_some_and(Dynamic::is_unit) {
            map.remove(optional);
        }
    }
    let ruling: Ruling = from_dynamic(&Dynamic::from(map)).map_err(|error| error.to_string())?;
    match ruling.value {
        Some(value) if !value.is_finite() => Err("its value is not finite".to_owned()),
        _ => Ok(ruling),
    }
}

/// Where a fault inside nested calls really stands.
fn innermost(error: &EvalAltResult) -> (Position, String) {
    match error {
        EvalAltResult::ErrorInFunctionCall(_, _, inner, position) => match innermost(inner) {
            (at, message) if at.is_none() => (*position, message),
            found => found,
        },
        EvalAltResult::ErrorTooManyOperations(position) => {
            (*position, format!("ran over the limit of {OPERATIONS_MAX} operations"))
        }
        _ => {
            let message = error.to_string();
            let position = error.position();
            let bare = message.strip_suffix(&format!(" ({position})")).unwrap_or(&message);
            (position, bare.to_owned())
        }
    }
}

fn as_dynamic(value: &impl Serialize) -> Dynamic {
    to_dynamic(value).unwrap_or(Dynamic::UNIT)
}

/// Compiles the scripts that a contract names and adds what is wrong to its findings.
/// Returns the policies if the contract can still run. `read` brings a script's text, or says
/// why it cannot; the texts are put into `files` by name.
pub fn compile(
    loaded: &mut Loaded,
    read: impl Fn(&str) -> Result<String, String>,
    files: &mut BTreeMap<String, String>,
) -> Option<Policies> {
    let contract = loaded.contract.clone()?;
    let mut policies = Policies::default();
    for (pointer, policy, function, arguments) in references(&contract) {
        if !policies.scripts.contains_key(policy) {
            match read(policy) {
                Ok(source) => match SANDBOX.compile(&source) {
                    Ok(script) => {
                        policies.scripts.insert(policy.to_owned(), script);
                        files.insert(policy.to_owned(), source);
                    }
                    Err(error) => {
                        let position = error.position();
                        let (line, column) = (position.line().unwrap_or(1), position.position().unwrap_or(1));
                        let message = format!("policies/{policy}:{line}:{column}: {}", error.err_type());
                        loaded.find(Level::Error, &format!("{pointer}/policy"), message, None);
                        continue;
                    }
                },
                Err(message) => {
                    let hint = Some("policies are looked for in the policies folder".to_owned());
                    loaded.find(Level::Error, &format!("{pointer}/policy"), message, hint);
                    continue;
                }
            }
        }
        let functions: Vec<_> = policies.scripts[policy].iter_functions().collect();
        if !functions.iter().any(|f| f.name == function && f.params.len() == arguments) {
            let message = format!("policy {policy} has no function `{function}` with {arguments} parameter(s)");
            let mut known: Vec<String> =
                functions.iter().map(|f| format!("{}({})", f.name, f.params.join(", "))).collect();
            known.sort();
            let hint = Some(format!("it has: {}", known.join(", ")));
            loaded.find(Level::Error, &format!("{pointer}/function"), message, hint);
        }
    }
    loaded.contract.is_some().then_some(policies)
}

/// (pointer, script, function, number of parameters) of everything a contract calls.
fn references(contract: &Contract) -> Vec<(String, &str, &str, usize)> {
    let mut found = Vec::new();
    for (index, objective) in contract.spec.objectives.iter().enumerate() {
        if let Promise::Rule { rule } = &objective.promise {
            found.push((format!("/spec/objectives/{index}/rule"), rule.policy.as_str(), rule.function.as_str(), 2));
        }
    }
    for (index, action) in contract.spec.actions.iter().enumerate() {
        if let Some(decide) = &action.decide {
            found.push((format!("/spec/actions/{index}/decide"), decide.policy.as_str(), decide.function.as_str(), 1));
        }
    }
    found
}

/// Reads a script (or a baseline or schema) from the first of several folders that has it.
pub fn read(name: &str, folders: &[PathBuf]) -> Result<String, String> {
    let what = if name.ends_with(".rhai") { "policy" } else { "file" };
    for folder in folders {
        match std::fs::read_to_string(folder.join(name)) {
            Ok(source) => return Ok(source),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{what} {}: {error}", folder.join(name).display())),
        }
    }
    let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(format!("{what} {name} is missing in {}", looked.join(", ")))
}

/// Where what a contract file names is looked for: scripts in `policies` if that is stated, else in
/// the folder `policies` beside the file's folder or in it; then, and all else, in the file's
/// folder and the one above it.
pub fn folders(file: &Path, policies: Option<&Path>) -> Vec<PathBuf> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Some(parent.to_owned()),
        _ if folder != Path::new(".") => Some(PathBuf::from(".")),
        _ => folder.canonicalize().ok().and_then(|full| full.parent().map(Path::to_owned)),
    };
    let scripts = match policies {
        Some(policies) => vec![policies.to_owned()],
        None => above.iter().map(|above| above.join("policies")).chain([folder.join("policies")]).collect(),
    };
    scripts.into_iter().chain([folder.to_owned()]).chain(above).collect()
}
