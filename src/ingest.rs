//! From bytes to judgements: a source hands messages to shards, each shard owns an engine, a
//! writer commits what follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::Program;
use crate::metrics::Metrics;
use crate::report::{Reason, Rejection, Report};
use crate::store::{Commit, Store};
use crate::time::{Span, Timestamp};

pub mod journal;
mod messages;
pub mod nats;
mod shard;

use messages::{Message, Messages, Spare};
pub use shard::{Shard, ShardSettings};

/// Bytes of messages that wait for a shard, at most; then the source waits, and further ones come together.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Bytes of messages that are handed to shards at once; the more are ready, the more travel together: the
/// state of an application is then fetched once for all that came of it.
const FORWARD_BYTES: usize = 24 << 20;
/// Batches and other things that wait for a shard, at most.
const INPUTS_MAX: usize = 1_000;
/// Commits that wait for the writer, at most; then shards wait.
const COMMITS_MAX: usize = 64;
/// Bytes of a refused report that are passed on.
const REJECTED_BYTES_MAX: usize = 64 << 10;
/// Event times further ahead of the clock than this are refused.
const AHEAD_MAX: Span = Span::seconds(300);

/// What a shard is told, in order.
pub enum ShardInput {
    /// Messages come.
    Batch(Batch),
    /// Time goes on. `caught_up`: the source has nothing pending.
    Tick {
        /// The wall clock.
        now: Timestamp,
        /// Whether silence means that nothing was sent.
        caught_up: bool,
    },
    /// A contract comes into force.
    Set(Arc<Program>),
    /// A contract is withdrawn.
    Remove(String),
    /// Save everything and end.
    Stop,
}

/// Messages for a shard.
pub struct Batch {
    messages: Messages,
    /// The position up to which there are no others for it.
    upto: i64,
    /// The room that they take up among those that wait.
    room: OwnedSemaphorePermit,
    /// Where they go when they were taken in.
    spare: Spare,
}

/// A report that was refused, for `qoa.rejected`.
pub struct RejectedReport {
    /// Where it came from.
    pub position: i64,
    /// Position within its message.
    pub index: usize,
    /// A word.
    pub reason: Reason,
    /// A sentence.
    pub message: String,
    /// The message's bytes, cut at 64 KiB.
    pub original: String,
}

/// The way to the shards.
#[derive(Clone)]
pub struct Shards {
    inputs: Arc<[mpsc::Sender<ShardInput>]>,
    /// For each, how many more bytes may wait.
    room: Arc<[Arc<Semaphore>]>,
    spare: Spare,
    caught_up: Arc<AtomicBool>,
}

/// Which shard an application belongs to, by its digest.
pub fn shard_of(application: u128, shards: usize) -> usize {
    (application % shards as u128) as usize
}

/// Messages by shard.
struct Parts {
    lists: Vec<Messages>,
    /// Of all of them: this is asked after each message.
    bytes: usize,
}

impl Parts {
    fn push(&mut self, message: Message<'_>) {
        self.bytes += message.subject.len() + message.body.len();
        let shard = message.application.map_or(0, |application| shard_of(application, self.lists.len()));
        self.lists[shard].push(message);
    }

    /// Whether these are as many as travel together.
    fn is_full(&self) -> bool {
        self.bytes >= FORWARD_BYTES
    }
}

impl Shards {
    /// Channels to a number of shards, and their other ends.
    pub fn new(shards: usize) -> (Shards, Vec<mpsc::Receiver<ShardInput>>) {
        let (inputs, outputs): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(INPUTS_MAX)).unzip();
        let room = inputs.iter().map(|_| Arc::new(Semaphore::new(WAITING_BYTES_MAX))).collect();
        (Shards { inputs: inputs.into(), room, spare: Spare::default(), caught_up: Arc::default() }, outputs)
    }

    /// Hands messages to their shards, and tells all how far the source was read.
    async fn forward(&self, parts: Parts, upto: i64) {
        for ((input, room), messages) in self.inputs.iter().zip(self.room.iter()).zip(parts.lists) {
            let wanted = messages.bytes().min(WAITING_BYTES_MAX) as u32;
            // Nobody closes the semaphore; a shard that has ended takes no more.
            let Ok(room) = room.clone().acquire_many_owned(wanted).await else { return };
            let batch = Batch { messages, upto, room, spare: self.spare.clone() };
            let _ = input.send(ShardInput::Batch(batch)).await;
        }
    }

    /// Lists to be filled for the shards.
    fn parts(&self) -> Parts {
        Parts { lists: self.inputs.iter().map(|_| self.spare.take()).collect(), bytes: 0 }
    }

    fn set_caught_up(&self, caught_up: bool) {
        self.caught_up.store(caught_up, Ordering::Release);
    }

    /// Puts a contract into force.
    pub async fn set_contract(&self, program: &Arc<Program>) {
        for input in self.inputs.iter() {
            let _ = input.send(ShardInput::Set(program.clone())).await;
        }
    }

    /// Withdraws a contract.
    pub async fn remove_contract(&self, name: &str) {
        for input in self.inputs.iter() {
            let _ = input.send(ShardInput::Remove(name.to_owned())).await;
        }
    }

    /// Lets time go on for all shards until stopped, then tells them to end.
    pub async fn tick(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(Duration::from_millis(200));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            for input in self.inputs.iter() {
                let tick =
                    ShardInput::Tick { now: Timestamp::now(), caught_up: self.caught_up.load(Ordering::Acquire) };
                // A shard with a full channel has work to do and no need to be told the time.
                let _ = input.try_send(tick);
            }
        }
        for input in self.inputs.iter() {
            let _ = input.send(ShardInput::Stop).await;
        }
    }
}

/// The channel to the writer.
pub fn commits() -> (mpsc::Sender<Commit>, mpsc::Receiver<Commit>) {
    mpsc::channel(COMMITS_MAX)
}

/// Writes commits until all shards have ended. A database that fails is tried again for as
/// long as it takes: the shards wait meanwhile, and the source keeps what comes.
pub async fn write(
    store: Store,
    mut commits: mpsc::Receiver<Commit>,
    outbox: watch::Sender<()>,
    metrics: Arc<Metrics>,
) {
    let mut waiting = Vec::new();
    loop {
        while let Ok(commit) = commits.try_recv() {
            waiting.push(commit);
        }
        if waiting.is_empty() && commits.recv_many(&mut waiting, COMMITS_MAX).await == 0 {
            break;
        }
        let next = next_of(&mut waiting);
        let mut pause = Duration::from_millis(50);
        let started = Instant::now();
        while let Err(error) = store.commit(&next).await {
            metrics.commit_failures.inc();
            tracing::error!(%error, "cannot write to the database; trying again in {pause:?}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        metrics.committed(next.iter().any(|commit| commit.checkpoint.is_some()), started.elapsed());
        if next.iter().any(Commit::has_effects) {
            outbox.send_replace(());
        }
        for written in next.into_iter().filter_map(|commit| commit.written) {
            // The shard may have ended.
            let _ = written.send(());
        }
    }
}

/// What is written next: effects, which do not wait behind state that is saved. State that is older
/// than what followed from it brings it about again, as the same. Only what must be written
/// together keeps its place.
fn next_of(waiting: &mut Vec<Commit>) -> Vec<Commit> {
    let together = |commit: &Commit| commit.checkpoint.is_some() && commit.has_effects();
    let until = waiting.iter().position(together).unwrap_or(waiting.len());
    let effects: Vec<Commit> = waiting.extract_if(..until, |commit| commit.has_effects()).collect();
    if effects.is_empty() { vec![waiting.remove(0)] } else { effects }
}

/// Refuses a report whose event time is too far ahead of the clock.
pub fn check_time(report: &Report<'_>, index: usize, now: Timestamp) -> Result<(), Rejection> {
    let ahead = report.time.since(now);
    if ahead <= AHEAD_MAX {
        return Ok(());
    }
    let message = format!("time {} is {ahead} ahead of the clock; the limit is {AHEAD_MAX}", report.time);
    Err(Rejection { index, reason: Reason::Future, message })
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(REJECTED_BYTES_MAX)]).into_owned()
}
