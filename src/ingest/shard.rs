//! A shard: one thread that owns the engine of its applications.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Message, Messages, RejectedReport, ShardInput, check_time, excerpt, shard_of};
use crate::contract::Webhook;
use crate::engine::{Engine, Output, Outputs, Program, Snapshot};
use crate::metrics::{Metrics, ShardLabel};
use crate::report::{self, Reason, Rejection, Report, Spare, application_digest};
use crate::store::{Checkpoint, Commit};
use crate::time::{Span, Timestamp};

/// Messages that are decoded at once: few, so that they are at hand still when they are judged...
const PART_MESSAGES: usize = 128;
/// ...or more, where another core decodes them ahead.
const PART_AHEAD: usize = 4_096;
/// Where so few messages come together, those that make windows end are taken in after the others.
const FEW_MESSAGES: usize = 1_000;
/// Changes wait this long for more before they are saved.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// Rows that are saved at once, give or take an application: no event waits long behind them.
const ROWS_MAX: usize = 100;
/// After a save, the database is left alone for so many times as long as it took.
const REST: u32 = 5;
/// Applications are silent when no report came for this long.
const SILENCE: Span = Span::from_micros(500_000);

/// What a shard is told at its start.
pub struct ShardSettings {
    /// Which shard...
    pub number: usize,
    /// ...of how many.
    pub shards: usize,
    /// Name of the source.
    pub source: String,
    /// The last message that its state holds.
    pub position: i64,
    /// The last message that each application has taken in.
    pub positions: BTreeMap<(String, String), i64>,
    /// Whether events and actions leave by NATS.
    pub nats: bool,
}

/// The clock of an application when it last changed, the wall clock then, and when reports last came.
struct Anchor {
    clock: Timestamp,
    at: Timestamp,
    heard: Timestamp,
}

/// How far the engine's state is saved: in rounds, a few applications at a time.
struct Saving {
    /// A save that is being written: since when, and who tells when it is done.
    under_way: Option<(Instant, oneshot::Receiver<()>)>,
    rest_until: Instant,
    round_started: Instant,
    /// Applications that changed before the round and are not saved yet.
    rest_of_round: usize,
    /// The position that was handed over last.
    position: i64,
}

/// One thread's part of the service.
pub struct Shard {
    settings: ShardSettings,
    engine: Engine,
    out: Outputs,
    commits: mpsc::Sender<Commit>,
    rejected: mpsc::Sender<RejectedReport>,
    metrics: Arc<Metrics>,
    webhooks: HashMap<String, Vec<Webhook>>,
    anchors: HashMap<(Arc<str>, Arc<str>), Anchor>,
    saving: Saving,
    /// Messages behind this one are new to every application.
    read_before: i64,
    /// The last message that each application (by digest) had taken in at the start.
    taken_in: FxHashMap<u128, i64>,
    spare: Spare,
}

impl Shard {
    /// A shard with a restored engine.
    pub fn new(
        settings: ShardSettings,
        engine: Engine,
        commits: mpsc::Sender<Commit>,
        rejected: mpsc::Sender<RejectedReport>,
        metrics: Arc<Metrics>,
    ) -> Shard {
        let out = Outputs { keep_evaluations: false, stopwatch, ..Outputs::default() };
        let webhooks = engine.programs().map(|program| (program.name().to_owned(), webhooks_of(program))).collect();
        let read_before = settings.positions.values().copied().max().unwrap_or(0);
        let digest = |(tenant, name): &(String, String)| application_digest(tenant, name);
        let taken_in = settings.positions.iter().map(|(key, position)| (digest(key), *position)).collect();
        Shard {
            read_before,
            taken_in,
            spare: Spare::default(),
            engine,
            out,
            commits,
            rejected,
            metrics,
            webhooks,
            anchors: HashMap::new(),
            saving: Saving {
                under_way: None,
                rest_until: Instant::now(),
                round_started: Instant::now(),
                rest_of_round: 0,
                position: settings.position,
            },
            settings,
        }
    }

    /// Works until told to stop, and saves at the end. Blocks: give it a thread.
    pub fn run(mut self, mut inputs: mpsc::Receiver<ShardInput>) {
        while let Some(input) = inputs.blocking_recv() {
            match input {
                ShardInput::Batch(Batch { messages, upto, room, spare }) => {
                    // Others may wait while these are taken in.
                    drop(room);
                    self.take_in(&messages, upto);
                    spare.put(messages);
                }
                ShardInput::Tick { now, caught_up } => self.tick(now, caught_up),
                ShardInput::Set(program) => self.set(program),
                ShardInput::Remove(name) => {
                    self.engine.remove_contract(&name, &mut self.out);
                    self.save();
                    self.webhooks.remove(&name);
                }
                ShardInput::Stop => break,
            }
        }
        self.save();
    }

    fn take_in(&mut self, messages: &Messages, upto: i64) {
        let now = Timestamp::now();
        self.engine.set_mark(self.settings.position);
        let mut order: Vec<Message<'_>> = messages.iter().filter(|message| self.is_new(message)).collect();
        // The state of an application is at hand for all that came of it.
        order.sort_by_cached_key(|message| message.application.map(|application| application as u64));
        if order.len() <= FEW_MESSAGES {
            // A breach need not wait until others' windows are judged.
            let engine = &self.engine;
            let later =
                |message: &Message<'_>| message.application.is_some_and(|one| engine.is_about_to_judge(one, now));
            let (last, first) = order.into_iter().partition(later);
            self.take_in_order(first, now);
            self.send_outputs(None);
            order = last;
        }
        self.take_in_order(order, now);
        self.settings.position = self.settings.position.max(upto);
        self.engine.set_mark(self.settings.position);
        self.send_outputs(None);
        self.save_in_time();
    }

    fn take_in_order(&mut self, order: Vec<Message<'_>>, now: Timestamp) {
        let alone = order.first().map(|message| message.application) == order.last().map(|message| message.application);
        let (engine, out) = (&mut self.engine, &mut self.out);
        let mut refused = Vec::new();
        report::decode_in_parts(
            &mut self.spare,
            // Other applications keep the other cores busy.
            alone,
            order.chunks(if alone { PART_AHEAD } else { PART_MESSAGES }),
            |part, batch| {
                report::read_ahead(part.iter().map(|message| message.body));
                for message in part {
                    let admit = |report: &Report<'_>, index| {
                        check_address(report, index, message).and_then(|()| check_time(report, index, now))
                    };
                    batch.decode(message.body, report::MESSAGE_BYTES_MAX, *message, admit);
                }
            },
            |batch| {
                engine.observe_all(batch.reports(), out);
                refused.extend(batch.refused.iter().map(|(_, message, rejection)| (*message, rejection.clone())));
            },
        );
        for (message, rejection) in refused {
            self.refuse(message, rejection);
        }
    }

    /// Whether its application has not taken in the message yet.
    fn is_new(&self, message: &Message<'_>) -> bool {
        if message.position > self.read_before {
            return true;
        }
        let known = message.application.and_then(|application| self.taken_in.get(&application));
        known.is_none_or(|position| message.position > *position)
    }

    fn refuse(&mut self, message: Message<'_>, rejection: Rejection) {
        self.metrics.rejected(rejection.reason);
        tracing::debug!(position = message.position, reason = rejection.reason.as_str(), "{rejection}");
        let report = RejectedReport {
            position: message.position,
            index: rejection.index,
            reason: rejection.reason,
            message: rejection.message,
            original: excerpt(message.body),
        };
        if self.rejected.try_send(report).is_err() {
            self.metrics.rejected_unpublished();
        }
    }

    fn tick(&mut self, now: Timestamp, caught_up: bool) {
        if caught_up {
            self.go_on_by_the_wall_clock(now);
        }
        self.save_in_time();
    }

    /// Silent applications: event time goes on from where it was as the wall clock does. What
    /// is judged then is saved at once with the clock it was judged by, because reading the
    /// stream again would not bring it about again. What has no consequence can wait.
    fn go_on_by_the_wall_clock(&mut self, now: Timestamp) {
        for (tenant, application) in self.engine.names() {
            let Some((clock, due)) = self.engine.due(&tenant, &application) else { continue };
            let key = (tenant.clone(), application.clone());
            let anchor = self.anchors.entry(key).or_insert(Anchor { clock, at: now, heard: now });
            if anchor.clock != clock {
                *anchor = Anchor { clock, at: now, heard: now };
            }
            let event_time = anchor.clock + now.since(anchor.at);
            if now.since(anchor.heard) >= SILENCE && due.is_some_and(|due| due <= event_time) {
                self.engine.advance(&tenant, &application, event_time, &mut self.out);
                *anchor = Anchor { clock: event_time, at: now, heard: anchor.heard };
                if !self.out.list.is_empty() {
                    let snapshot = self.engine.snapshot_of(&tenant, &application);
                    self.send_outputs(Some(snapshot));
                }
            }
        }
    }

    fn set(&mut self, program: Arc<Program>) {
        let scope = &program.contract.spec.scope;
        let application = application_digest(&scope.tenant, &scope.application);
        if shard_of(application, self.settings.shards) == self.settings.number {
            let new = webhooks_of(&program);
            let name = program.name().to_owned();
            self.engine.set_contract(program, &mut self.out);
            // Withdrawn violations are told to those who heard of them.
            self.save();
            self.webhooks.insert(name, new);
        } else {
            self.engine.remove_contract(program.name(), &mut self.out);
            self.save();
            self.webhooks.remove(program.name());
        }
    }

    /// Saves a part of what changed, if changes waited for long enough and the database had its rest.
    fn save_in_time(&mut self) {
        let now = Instant::now();
        if let Some((started, written)) = &mut self.saving.under_way {
            if matches!(written.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                return;
            }
            self.saving.rest_until = now + (now - *started) * REST;
            self.saving.under_way = None;
        }
        if now < self.saving.rest_until {
            return;
        }
        if self.saving.rest_of_round == 0 {
            let nothing_new = self.engine.unsaved() == 0 && self.settings.position == self.saving.position;
            if nothing_new || now < self.saving.round_started + SAVE_AFTER {
                return;
            }
            self.saving.round_started = now;
            self.saving.rest_of_round = self.engine.unsaved();
        }
        let snapshot = self.engine.snapshot(ROWS_MAX);
        self.saving.rest_of_round = self.saving.rest_of_round.saturating_sub(snapshot.applications.len());
        self.send_outputs(Some(snapshot));
    }

    /// Saves everything.
    fn save(&mut self) {
        let snapshot = self.engine.snapshot(usize::MAX);
        self.send_outputs(Some(snapshot));
    }

    /// Hands over what came out; with a snapshot, the position that it brings about too.
    fn send_outputs(&mut self, snapshot: Option<Snapshot>) {
        self.metrics.count(&std::mem::take(&mut self.out.counts));
        if self.out.list.is_empty() && snapshot.is_none() {
            return;
        }
        let mut commit = Commit { nats: self.settings.nats, now: Timestamp::now(), ..Commit::default() };
        for output in self.out.list.drain(..) {
            match output {
                Output::Evaluation(_) => {}
                Output::Transition(transition) => {
                    let webhooks = self.webhooks.get(&transition.contract).cloned().unwrap_or_default();
                    commit.transitions.push((*transition, webhooks));
                }
                Output::Action(action) => commit.actions.push(*action),
            }
        }
        if let Some(snapshot) = snapshot {
            let taken_in = self.settings.position;
            let ahead = if taken_in <= self.read_before { self.settings.positions.clone() } else { BTreeMap::new() };
            let position = self.engine.unsaved_since().unwrap_or(taken_in);
            let (source, shard) = (self.settings.source.clone(), self.settings.number as i64);
            let shards = self.settings.shards as i64;
            commit.checkpoint = Some(Checkpoint { source, shard, shards, position, taken_in, ahead, snapshot });
            let (written, wait) = oneshot::channel();
            commit.written = Some(written);
            self.saving.under_way = Some((Instant::now(), wait));
            self.saving.position = position;
            let label = ShardLabel { shard: self.settings.number as u64 };
            self.metrics.series.get_or_create(&label).set(self.engine.series() as i64);
        }
        // The writer ends only after all shards.
        let _ = self.commits.blocking_send(commit);
    }
}

fn webhooks_of(program: &Program) -> Vec<Webhook> {
    program.contract.spec.notify.iter().map(|notify| notify.webhook.clone()).collect()
}

fn stopwatch() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

/// Refuses reports that come on another's subject.
fn check_address(report: &Report<'_>, index: usize, message: &Message<'_>) -> Result<(), Rejection> {
    let message = match message.application {
        None => "reports come on qoa.reports.<tenant>.<application>.<stage>".to_owned(),
        Some(application) if application != report.digests.application => format!(
            "tenant {} and application {} are not those of its subject, {}",
            report.tenant,
            report.application,
            String::from_utf8_lossy(message.subject)
        ),
        Some(_) => return Ok(()),
    };
    Err(Rejection { index, reason: Reason::Subject, message })
}
