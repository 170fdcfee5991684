//! A replay's contracts, panes and violations in a database, so that questions can be asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;

use crate::contract::Loaded;
use crate::engine::{Engine, Output, Outputs, Program};
use crate::store::{Checkpoint, Commit, ContractVersion, Store};
use crate::time::Timestamp;

/// What the positions table names as the source of a replay's state.
const SOURCE: &str = "replay";

pub(super) struct Record {
    runtime: tokio::runtime::Runtime,
    store: Store,
    blocks: i64,
}

impl Record {
    pub(super) fn open(url: &str, programs: &[(Arc<Program>, Loaded)]) -> anyhow::Result<Record> {
        let runtime = super::super::runtime()?;
        let store = runtime.block_on(async {
            let store = Store::open(url).await?;
            let sources = store.sources().await?;
            anyhow::ensure!(
                sources.iter().all(|source| source == SOURCE),
                "it holds the state of a service; give the replay a database of its own"
            );
            store.forget_state().await?;
            let version = |(program, loaded): &(Arc<Program>, Loaded)| {
                ContractVersion::of(program, loaded.file.clone(), loaded.source.clone())
            };
            let mut fresh = Vec::new();
            for version in programs.iter().map(version) {
                let before = store.contract(&version.name).await?;
                fresh.extend(before.is_none_or(|before| before.digest != version.digest).then_some(version));
            }
            store.accept_contracts(&fresh).await?;
            Ok(store)
        });
        Ok(Record { runtime, store: store.with_context(|| format!("cannot use {url}"))?, blocks: 0 })
    }

    /// Adds up what long periods are answered from.
    pub(super) fn end(&self) -> anyhow::Result<()> {
        self.runtime.block_on(self.store.roll_up()).context("cannot write to the database")
    }

    /// Writes what came out since the last call, and what changed in the engine.
    pub(super) fn write(&mut self, engine: &mut Engine, out: &Outputs) -> anyhow::Result<()> {
        let mut commit = Commit { now: Timestamp::now(), ..Commit::default() };
        for output in &out.list {
            match output {
                Output::Evaluation(_) => {}
                Output::Transition(transition) => commit.transitions.push(((**transition).clone(), Vec::new())),
                Output::Action(action) => commit.actions.push((**action).clone()),
            }
        }
        self.blocks += 1;
        commit.checkpoint = Some(Checkpoint {
            source: SOURCE.to_owned(),
            shard: 0,
            shards: 1,
            position: self.blocks,
            taken_in: self.blocks,
            ahead: BTreeMap::new(),
            snapshot: engine.snapshot(usize::MAX),
        });
        self.runtime.block_on(self.store.commit(&[commit])).context("cannot write to the database")
    }
}
