//! The contracts in force: from a watched folder and from the API into the store and the
//! engines. A faulty change leaves the last good version running.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::contract::{self, Finding, Level};
use crate::engine::Program;
use crate::ingest::Shards;
use crate::metrics::Metrics;
use crate::policy;
use crate::store::{ContractVersion, Store, StoreError};

/// Contracts that a service may have.
const CONTRACTS_MAX: usize = 100_000;
/// The folder is looked at this often.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// The origin of contracts that did not come from a file.
const API: &str = "api";

/// The contracts in force.
pub struct Catalog {
    store: Store,
    shards: Shards,
    metrics: Arc<Metrics>,
    folder: Option<PathBuf>,
    policies: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By name.
    contracts: BTreeMap<String, Entry>,
    /// Findings of files (or, for the API, names) whose newest version was refused.
    faults: BTreeMap<String, Vec<Finding>>,
    /// What the folders looked like when they were read.
    seen: HashMap<PathBuf, (SystemTime, u64)>,
    folder_missing: bool,
}

struct Entry {
    digest: String,
    origin: String,
}

/// Why a contract was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It has errors.
    #[error("the contract has errors")]
    Faulty(Vec<Finding>),
    /// A file of the contracts folder governs this name.
    #[error("contract {name} comes from {origin}; change that file instead")]
    Governed {
        /// The contract.
        name: String,
        /// The file.
        origin: String,
    },
    /// The name in the document is not the one in the address.
    #[error("the document is named {found}, the address {wanted}")]
    OtherName {
        /// In the document.
        found: String,
        /// In the address.
        wanted: String,
    },
    /// There are too many.
    #[error("there are {CONTRACTS_MAX} contracts already")]
    TooMany,
    /// There is none of this name.
    #[error("there is no contract {0}")]
    NotFound(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a stored version ready to run. `None` if this version of Qualm no longer accepts it.
pub fn ready(version: &ContractVersion) -> Option<Program> {
    let mut loaded = contract::load(&version.origin, &version.source);
    let missing = |name: &str| format!("file {name} was not stored");
    let program = Program::compile(&mut loaded, |name| version.files.get(name).cloned().ok_or_else(|| missing(name)));
    if program.is_none() {
        tracing::error!("stored contract {} is no longer accepted:\n{}", version.name, loaded.errors());
    }
    program
}

impl Catalog {
    /// A catalog of what the store says is in force.
    pub fn new(
        store: Store,
        shards: Shards,
        metrics: Arc<Metrics>,
        folder: Option<PathBuf>,
        policies: Option<PathBuf>,
        in_force: &[ContractVersion],
    ) -> Catalog {
        let entry =
            |v: &ContractVersion| (v.name.clone(), Entry { digest: v.digest.clone(), origin: v.origin.clone() });
        let known = Known { contracts: in_force.iter().map(entry).collect(), ..Known::default() };
        metrics.contracts.set(in_force.len() as i64);
        Catalog { store, shards, metrics, folder, policies, known: Mutex::new(known) }
    }

    /// Follows the folder until stopped.
    pub async fn watch(self: Arc<Catalog>, stop: CancellationToken) {
        if self.folder.is_none() {
            return;
        }
        while stop.run_until_cancelled(tokio::time::sleep(WATCH_EVERY)).await.is_some() {
            if let Err(error) = self.read_folder().await {
                tracing::error!("reading the contracts folder: {error}");
            }
        }
    }

    /// Takes over what changed in the folder.
    pub async fn read_folder(&self) -> Result<(), CatalogError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut known = self.known.lock().await;
        let missing = !folder.is_dir();
        if missing && !std::mem::replace(&mut known.folder_missing, missing) {
            tracing::error!("the contracts folder {} is missing; its contracts stay in force", folder.display());
        }
        known.folder_missing = missing;
        if missing {
            return Ok(());
        }
        let seen = look(folder, self.policies.as_deref());
        if seen == known.seen {
            return Ok(());
        }
        let (loaded, faults) = self.load_files(folder);
        for (file, findings) in &faults {
            if known.faults.get(file) != Some(findings) {
                let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
                tracing::error!("contract refused, its last good version stays in force:\n{}", lines.join("\n"));
            }
        }
        let mut accepted = Vec::new();
        let mut programs = Vec::new();
        let mut names = HashMap::new();
        for (file, source, program) in loaded {
            names.insert(file.clone(), program.name().to_owned());
            let digest = ContractVersion::digest_of(&source, &program.files);
            let name = program.name().to_owned();
            if known.contracts.get(&name).is_none_or(|entry| entry.digest != digest || entry.origin != file) {
                accepted.push(ContractVersion::of(&program, file, source));
                programs.push(Arc::new(program));
            }
        }
        self.put_in_force(&mut known, accepted, programs).await?;
        // A faulty file leaves its contract as it is; one that is gone or has another name does not.
        let gone = |name: &String, entry: &Entry| {
            let origin = Path::new(&entry.origin);
            entry.origin != API && (!origin.exists() || names.get(&entry.origin).is_some_and(|now| now != name))
        };
        let gone: Vec<String> = known.contracts.iter().filter(|(n, e)| gone(n, e)).map(|(n, _)| n.clone()).collect();
        for name in gone {
            tracing::info!("contract {name} is withdrawn: no file has it any more");
            self.withdraw(&mut known, &name).await?;
        }
        let api = known
            .faults
            .extract_if(.., |key, _| !seen.contains_key(Path::new(key)) && !key.contains('/'))
            .collect::<Vec<_>>();
        known.faults = faults;
        known.faults.extend(api);
        self.count_faults(&known);
        known.seen = seen;
        Ok(())
    }

    /// Every sound contract of the folder, and the findings of the others by file.
    #[allow(clippy::type_complexity)]
    fn load_files(&self, folder: &Path) -> (Vec<(String, String, Program)>, BTreeMap<String, Vec<Finding>>) {
        let mut sound = Vec::new();
        let mut faults = BTreeMap::new();
        let mut names: HashMap<String, String> = HashMap::new();
        for file in contract::files(&[folder.to_owned()]).unwrap_or_default() {
            let name = file.display().to_string();
            let mut loaded = match std::fs::read_to_string(&file) {
                Ok(source) => contract::load(&name, &source),
                // It may have been taken away since it was listed; if not, the next look tells.
                Err(_) => continue,
            };
            let folders = policy::folders(&file, self.policies.as_deref());
            let program = Program::compile(&mut loaded, |name| policy::read(name, &folders));
            if let Some(program) = &program
                && let Some(first) = names.insert(program.name().to_owned(), name.clone())
            {
                let message = format!("the contract name `{}` is taken by {first}", program.name());
                loaded.find(Level::Error, "/metadata/name", message, None);
            }
            match program.filter(|_| loaded.contract.is_some()) {
                Some(program) => sound.push((name, loaded.source, program)),
                None => {
                    faults.insert(name, loaded.findings);
                }
            }
        }
        (sound, faults)
    }

    /// Accepts a contract that came over the API.
    pub async fn put(&self, name: &str, source: &str) -> Result<ContractVersion, CatalogError> {
        let mut known = self.known.lock().await;
        if let Some(entry) = known.contracts.get(name).filter(|entry| entry.origin != API) {
            return Err(CatalogError::Governed { name: name.to_owned(), origin: entry.origin.clone() });
        }
        let mut loaded = contract::load(name, source);
        let beside = self.folder.as_deref().unwrap_or(Path::new("contracts")).join(name);
        let folders = policy::folders(&beside, self.policies.as_deref());
        let Some(program) = Program::compile(&mut loaded, |name| policy::read(name, &folders)) else {
            if known.contracts.contains_key(name) {
                known.faults.insert(name.to_owned(), loaded.findings.clone());
            }
            self.count_faults(&known);
            return Err(CatalogError::Faulty(loaded.findings));
        };
        if program.name() != name {
            return Err(CatalogError::OtherName { found: program.name().to_owned(), wanted: name.to_owned() });
        }
        if known.contracts.len() >= CONTRACTS_MAX {
            return Err(CatalogError::TooMany);
        }
        let digest = ContractVersion::digest_of(source, &program.files);
        if known.contracts.get(name).is_none_or(|entry| entry.digest != digest) {
            let version = ContractVersion::of(&program, API.to_owned(), source.to_owned());
            self.put_in_force(&mut known, vec![version], vec![Arc::new(program)]).await?;
        }
        known.faults.remove(name);
        self.count_faults(&known);
        drop(known);
        self.store.contract(name).await?.ok_or_else(|| CatalogError::NotFound(name.to_owned()))
    }

    /// Withdraws a contract that came over the API.
    pub async fn delete(&self, name: &str) -> Result<(), CatalogError> {
        let mut known = self.known.lock().await;
        match known.contracts.get(name) {
            None => Err(CatalogError::NotFound(name.to_owned())),
            Some(entry) if entry.origin != API => {
                Err(CatalogError::Governed { name: name.to_owned(), origin: entry.origin.clone() })
            }
            Some(_) => self.withdraw(&mut known, name).await,
        }
    }

    /// What is wrong with the newest version of a contract that was offered.
    pub async fn faults(&self, name: &str) -> Vec<Finding> {
        let known = self.known.lock().await;
        let Some(entry) = known.contracts.get(name) else { return Vec::new() };
        let key = if entry.origin == API { name } else { entry.origin.as_str() };
        known.faults.get(key).cloned().unwrap_or_default()
    }

    async fn put_in_force(
        &self,
        known: &mut Known,
        versions: Vec<ContractVersion>,
        programs: Vec<Arc<Program>>,
    ) -> Result<(), CatalogError> {
        if versions.is_empty() {
            return Ok(());
        }
        self.store.accept_contracts(&versions).await?;
        for (version, program) in versions.into_iter().zip(&programs) {
            tracing::info!("contract {} {} is in force, from {}", version.name, version.version, version.origin);
            self.shards.set_contract(program).await;
            known.contracts.insert(version.name, Entry { digest: version.digest, origin: version.origin });
        }
        self.metrics.contracts.set(known.contracts.len() as i64);
        Ok(())
    }

    async fn withdraw(&self, known: &mut Known, name: &str) -> Result<(), CatalogError> {
        self.store.withdraw_contract(name).await?;
        self.shards.remove_contract(name).await;
        known.contracts.remove(name);
        known.faults.remove(name);
        self.metrics.contracts.set(known.contracts.len() as i64);
        Ok(())
    }

    fn count_faults(&self, known: &Known) {
        self.metrics.set_faulty(known.faults.keys().map(|key| {
            let of_file = known.contracts.iter().find(|(_, entry)| entry.origin == *key);
            of_file.map_or(key.as_str(), |(name, _)| name.as_str())
        }));
    }
}

/// Times and sizes of all contracts, scripts, baselines and schemas.
fn look(folder: &Path, policies: Option<&Path>) -> HashMap<PathBuf, (SystemTime, u64)> {
    let mut files = contract::files(&[folder.to_owned()]).unwrap_or_default();
    let with = |folder: &Path, extension: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
    };
    for folder in policy::folders(&folder.join("any"), policies) {
        files.extend(with(&folder, "rhai"));
        contract::ASSETS.iter().for_each(|name| files.extend(with(&folder.join(name), "json")));
    }
    let stamp = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok()?;
        Some((path, (metadata.modified().ok()?, metadata.len())))
    };
    files.into_iter().filter_map(stamp).collect()
}
