//! Contract files into contracts, or into findings that say where the fault stands.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::document::{self, Document};
use super::{Contract, Indicator, Objective, lint, schema};

/// What is wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Whether the contract can run all the same.
    pub level: Level,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Whether a contract with the finding can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It cannot.
    Error,
    /// It can, but is likely not what was meant.
    Warning,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.level == Level::Error { "error" } else { "warning" };
        write!(f, "{}:{}:{}: {level}: {}", self.file, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// A contract file that was read: its findings, and the contract if it can run.
pub struct Loaded {
    /// The file's name, for findings.
    pub file: String,
    /// The text of the file.
    pub source: String,
    /// The contract, unless a finding is an error.
    pub contract: Option<Contract>,
    /// What is wrong, in the order of the file.
    pub findings: Vec<Finding>,
    document: Option<Document>,
}

impl Loaded {
    /// Adds a finding at the part of the file that a JSON pointer leads to.
    pub fn find(&mut self, level: Level, pointer: &str, message: String, hint: Option<String>) {
        let (line, column) = self.document.as_ref().map_or((1, 1), |document| document.place(pointer));
        self.findings.push(Finding { file: self.file.clone(), line, column, level, message, hint });
        self.findings.sort_by_key(|finding| (finding.line, finding.column));
        if level == Level::Error {
            self.contract = None;
        }
    }

    /// The errors in one text, a line each.
    pub fn errors(&self) -> String {
        let errors = self.findings.iter().filter(|finding| finding.level == Level::Error);
        errors.map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

/// Reads a contract from text: syntax, schema, meaning. Scripts are checked by
/// [`crate::policy`], which adds to the findings.
pub fn load(file: &str, source: &str) -> Loaded {
    let mut loaded = Loaded {
        file: file.to_owned(),
        source: source.to_owned(),
        contract: None,
        findings: Vec::new(),
        document: None,
    };
    let unreadable = |(line, column), message, hint: &str| {
        let hint = Some(hint.to_owned());
        Finding { file: file.to_owned(), line, column, level: Level::Error, message, hint }
    };
    // JSON is YAML, but YAML forgives what is a slip in JSON.
    if file.ends_with(".json")
        && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(source)
    {
        let place = (error.line().max(1), error.column().max(1));
        loaded.findings.push(unreadable(
            place,
            format!("not JSON: {error}"),
            "check commas, quotes and braces before this place",
        ));
        return loaded;
    }
    match document::parse(source) {
        Ok(document) => loaded.document = Some(document),
        Err(error) => {
            let hint = match source.trim() {
                "" => "a contract has apiVersion, kind, metadata and spec; see `qualm schema contract`",
                _ => "check brackets, quotes and indentation at this place and before it",
            };
            loaded.findings.push(unreadable(error.place, error.message, hint));
            return loaded;
        }
    }
    let value = loaded.document.as_ref().map(|document| document.value.clone()).unwrap_or_default();
    let faults = schema::check(&value);
    for fault in lint::secrets(&value) {
        loaded.find(Level::Error, &fault.pointer, fault.message, fault.hint);
    }
    let unsound = !faults.is_empty() || !loaded.findings.is_empty();
    for fault in faults {
        loaded.find(Level::Error, &fault.pointer, fault.message, fault.hint);
    }
    if unsound {
        return loaded;
    }
    match serde_json::from_value::<Contract>(value) {
        Ok(mut contract) => {
            let objectives = contract.spec.objectives.iter_mut();
            objectives.flat_map(Objective::indicators_mut).for_each(Indicator::resolve);
            let remarks = lint::check(&contract);
            loaded.contract = Some(contract);
            for remark in remarks {
                loaded.find(remark.level, &remark.pointer, remark.message, remark.hint);
            }
        }
        Err(error) => loaded.find(Level::Error, "", error.to_string(), None),
    }
    loaded
}

/// Reads YAML (and so JSON) that need not be a contract; a fault comes as line, column and message.
pub fn parse(source: &str) -> Result<serde_json::Value, (usize, usize, String)> {
    let fault = |error: document::SyntaxError| (error.place.0, error.place.1, error.message);
    document::parse(source).map(|document| document.value).map_err(fault)
}

/// Folders for what contracts name; their files are no contracts.
pub const ASSETS: [&str; 3] = ["policies", "baselines", "schemas"];

/// The contract files below the given paths: files as they are, folders searched for
/// `*.yaml`, `*.yml` and `*.json`, in name order. Hidden entries and [`ASSETS`] are passed over.
pub fn files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if std::fs::metadata(path)?.is_dir() {
            search(path, &mut found)?;
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn search(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if !ASSETS.contains(&name.as_str()) {
                search(&path, found)?;
            }
        } else if name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json") {
            found.push(path);
        }
    }
    Ok(())
}
