//! One transaction for all that followed from reports: transitions, actions, outbox, and with a
//! checkpoint the engine's state and its position in the stream.

use std::collections::BTreeMap;

use super::{
    Arg, Delivery, Result, Store, action_event, insert_many, json_text, query, violation_event, webhook_event, word,
};
use crate::contract::Webhook;
use crate::engine::{Action, ActionState, Snapshot, State, Transition};
use crate::time::{Span, Timestamp};

/// What is to be written at once.
#[derive(Default)]
pub struct Commit {
    /// Violations that opened or resolved, each with the webhooks of its contract.
    pub transitions: Vec<(Transition, Vec<Webhook>)>,
    /// Actions that were caused.
    pub actions: Vec<Action>,
    /// Engine state and position.
    pub checkpoint: Option<Checkpoint>,
    /// Whether events and actions leave by NATS.
    pub nats: bool,
    /// The wall clock.
    pub now: Timestamp,
    /// Told when it is written.
    pub written: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Commit {
    /// Whether anything is told to others.
    pub fn has_effects(&self) -> bool {
        !self.transitions.is_empty() || !self.actions.is_empty()
    }
}

/// Engine state, and up to where in the stream it holds.
pub struct Checkpoint {
    /// Name of the stream, with what tells it from another of that name.
    pub source: String,
    /// Which shard...
    pub shard: i64,
    /// ...of how many.
    pub shards: i64,
    /// Where reading goes on after a restart: all up to here is part of the state that is stored.
    pub position: i64,
    /// The last message that the applications of the snapshot have taken in.
    pub taken_in: i64,
    /// Applications (tenant, name) whose state holds more than that: up to here.
    pub ahead: BTreeMap<(String, String), i64>,
    /// What changed since the checkpoint before.
    pub snapshot: Snapshot,
}

impl Store {
    /// Writes commits, all or nothing.
    pub async fn commit(&self, commits: &[Commit]) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for commit in commits {
            write_outputs(&mut transaction, commit).await?;
            if let Some(checkpoint) = &commit.checkpoint {
                write_checkpoint(&mut transaction, checkpoint).await?;
            }
        }
        transaction.commit().await?;
        Ok(())
    }
}

async fn write_outputs(connection: &mut sqlx::AnyConnection, commit: &Commit) -> Result<()> {
    let now = commit.now;
    let mut deliveries: Vec<Delivery> = Vec::new();
    for (transition, webhooks) in &commit.transitions {
        write_transition(connection, transition, now).await?;
        deliveries.extend(commit.nats.then(|| violation_event(transition)));
        deliveries.extend(webhooks.iter().filter_map(|webhook| webhook_event(transition, webhook)));
    }
    let actions = commit.actions.iter().map(|action| {
        [
            Arg::from(action.id.to_string()),
            action.violation.to_string().into(),
            (&*action.tenant).into(),
            (&*action.application).into(),
            action.contract.as_str().into(),
            action.objective.as_str().into(),
            action.name.as_str().into(),
            action.kind.as_str().into(),
            json_text(&action.params).into(),
            word(&action.state).into(),
            action.reason.clone().into(),
            action.at.into(),
        ]
    });
    let head =
        "actions (id, violation, tenant, application, contract, objective, name, kind, params, state, reason, at)";
    insert_many(connection, head, "ON CONFLICT (id) DO NOTHING", actions.collect()).await?;
    if commit.nats {
        let leaving = commit.actions.iter().filter(|action| action.state == ActionState::Requested);
        deliveries.extend(leaving.map(Action::event));
    }
    write_deliveries(connection, &deliveries, now).await
}

pub(super) async fn write_deliveries(
    connection: &mut sqlx::AnyConnection,
    deliveries: &[Delivery],
    now: Timestamp,
) -> Result<()> {
    let rows = deliveries.iter().enumerate().map(|(index, delivery)| {
        // Times grow with the place in the list, so that events leave before the actions they cause.
        let due = now + Span::from_micros(index as i64);
        [
            Arg::from(delivery.id.to_string()),
            delivery.event.to_string().into(),
            delivery.violation.to_string().into(),
            delivery.kind.into(),
            delivery.destination.as_str().into(),
            delivery.secret_env.clone().into(),
            delivery.body.as_str().into(),
            "pending".into(),
            0.into(),
            due.into(),
            due.into(),
        ]
    });
    let head =
        "deliveries (id, event, violation, kind, destination, secret_env, body, state, attempts, created_at, next_at)";
    insert_many(connection, head, "ON CONFLICT (id) DO NOTHING", rows.collect()).await
}

async fn write_transition(connection: &mut sqlx::AnyConnection, transition: &Transition, now: Timestamp) -> Result<()> {
    let id = transition.id.to_string();
    match transition.state {
        State::Open => {
            let row = [
                Arg::from(id.as_str()),
                (&*transition.tenant).into(),
                (&*transition.application).into(),
                transition.contract.as_str().into(),
                transition.version.as_str().into(),
                transition.objective.as_str().into(),
                transition.series.to_string().into(),
                word(&transition.severity).into(),
                transition.responsible.clone().into(),
                "open".into(),
                transition.at.into(),
            ];
            let head = "violations (id, tenant, application, contract, version, objective, series, severity, responsible, state, opened_at)";
            insert_many(connection, head, "ON CONFLICT (id) DO NOTHING", vec![row]).await?;
        }
        State::Resolved => {
            let sql = "UPDATE violations SET state = 'resolved', resolved_at = $1 WHERE id = $2 AND state = 'open'";
            query(sql, [transition.at.into(), id.as_str().into()]).execute(&mut *connection).await?;
        }
    }
    let row =
        [Arg::from(id), word(&transition.state).into(), transition.at.into(), now.into(), json_text(transition).into()];
    let head = "transitions (violation, state, at, recorded_at, detail)";
    insert_many(connection, head, "ON CONFLICT (violation, state) DO NOTHING", vec![row]).await
}

async fn write_checkpoint(connection: &mut sqlx::AnyConnection, checkpoint: &Checkpoint) -> Result<()> {
    let Checkpoint { source, shard, shards, position, taken_in, ahead, snapshot } = checkpoint;
    for key in &snapshot.rewritten {
        for table in ["series", "panes", "memories"] {
            let sql = format!("DELETE FROM {table} WHERE tenant = $1 AND application = $2 AND contract = $3");
            query(&sql, key.each_ref().map(|arg| Arg::from(arg.as_str()))).execute(&mut *connection).await?;
        }
    }
    for key in &snapshot.forgotten {
        let sql = "DELETE FROM memories WHERE tenant = $1 AND application = $2 AND contract = $3 AND objective = $4 AND input = $5 AND series = $6";
        query(sql, key.each_ref().map(|arg| Arg::from(arg.as_str()))).execute(&mut *connection).await?;
    }
    let rows = snapshot.applications.iter().map(|row| {
        let key = (row.tenant.clone(), row.application.clone());
        let position = ahead.get(&key).map_or(*taken_in, |ahead| *taken_in.max(ahead));
        [
            Arg::from(row.tenant.as_str()),
            row.application.as_str().into(),
            source.as_str().into(),
            position.into(),
            row.clock.into(),
            row.needed_from.into(),
            row.state.as_str().into(),
        ]
    });
    let head = "applications (tenant, application, source, position, clock_at, needed_at, state)";
    let tail = "ON CONFLICT (tenant, application) DO UPDATE SET source = excluded.source, position = excluded.position, \
                clock_at = excluded.clock_at, needed_at = excluded.needed_at, state = excluded.state";
    insert_many(connection, head, tail, rows.collect()).await?;
    let rows = snapshot.series.iter().map(|row| {
        let [tenant, application, contract, bundle, state] =
            [&row.tenant, &row.application, &row.contract, &row.bundle, &row.state]
                .map(|text| Arg::from(text.as_str()));
        [tenant, application, contract, bundle, i64::from(row.chunk).into(), state]
    });
    let head = "series (tenant, application, contract, bundle, chunk, state)";
    let tail = "ON CONFLICT (contract, tenant, application, bundle, chunk) DO UPDATE SET state = excluded.state";
    insert_many(connection, head, tail, rows.collect()).await?;
    let rows = snapshot.panes.iter().map(|row| {
        let [tenant, application, contract, bundle] =
            [&row.tenant, &row.application, &row.contract, &row.bundle].map(|text| Arg::from(text.as_str()));
        let state = Arg::Bytes(row.state.clone());
        [tenant, application, contract, bundle, i64::from(row.chunk).into(), row.start.into(), state]
    });
    let head = "panes (tenant, application, contract, bundle, chunk, start_at, state)";
    let tail =
        "ON CONFLICT (contract, tenant, application, bundle, chunk, start_at) DO UPDATE SET state = excluded.state";
    insert_many(connection, head, tail, rows.collect()).await?;
    let rows = snapshot.memories.iter().map(|row| {
        [&row.tenant, &row.application, &row.contract, &row.objective, &row.input, &row.key, &row.labels, &row.memory]
            .map(|text| Arg::from(text.as_str()))
    });
    let head = "memories (tenant, application, contract, objective, input, series, labels, memory)";
    let tail = "ON CONFLICT (contract, objective, input, series, tenant, application) DO UPDATE SET labels = excluded.labels, \
                memory = excluded.memory";
    insert_many(connection, head, tail, rows.collect()).await?;
    let rows = snapshot.ids.iter().map(|row| {
        [
            Arg::from(row.tenant.as_str()),
            row.application.as_str().into(),
            (*taken_in).into(),
            row.newest.into(),
            Arg::Bytes(row.ids.clone()),
        ]
    });
    let head = "seen_ids (tenant, application, position, newest_at, ids)";
    let tail = "ON CONFLICT (tenant, application, position) DO NOTHING";
    insert_many(connection, head, tail, rows.collect()).await?;
    for row in &snapshot.ids {
        let sql = "DELETE FROM seen_ids WHERE tenant = $1 AND application = $2 AND newest_at < $3";
        let horizon = row.newest - crate::engine::ID_MEMORY;
        query(sql, [row.tenant.as_str().into(), row.application.as_str().into(), horizon.into()])
            .execute(&mut *connection)
            .await?;
    }
    let rows = snapshot.joins.iter().map(|row| {
        [
            Arg::from(row.tenant.as_str()),
            row.application.as_str().into(),
            (*taken_in).into(),
            row.newest.into(),
            row.entries.as_str().into(),
        ]
    });
    let head = "joins (tenant, application, position, newest_at, entries)";
    insert_many(connection, head, tail, rows.collect()).await?;
    for row in &snapshot.joins {
        let sql = "DELETE FROM joins WHERE tenant = $1 AND application = $2 AND newest_at < $3";
        query(sql, [row.tenant.as_str().into(), row.application.as_str().into(), row.needed_from.into()])
            .execute(&mut *connection)
            .await?;
    }
    super::slices::write(connection, &snapshot.slices).await?;
    super::slices::write_tallies(connection, &snapshot.tallies).await?;
    super::steps::write(connection, &snapshot.steps, &snapshot.truths).await?;
    let row = [source.as_str().into(), (*shard).into(), (*shards).into(), (*position).into()];
    let tail = "ON CONFLICT (source, shard) DO UPDATE SET shards = excluded.shards, position = excluded.position";
    insert_many(connection, "positions (source, shard, shards, position)", tail, vec![row]).await
}

/// The event of an action that an operator approved.
pub(super) fn approved_event(action: &super::ActionRecord) -> Delivery {
    let mut json = serde_json::to_value(action).unwrap_or_default();
    if let Some(object) = json.as_object_mut() {
        object.remove("state");
        object.remove("outcomes");
    }
    action_event(action.id, action.violation, action.at, &json)
}
