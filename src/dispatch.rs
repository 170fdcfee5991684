//! The outbox drained: events and actions to NATS, events to webhooks; outcomes taken back.
//!
//! At least once, with the event's id as idempotency key. Which attempts are under way is known
//! here alone: after a crash, they are made again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::store::{Attempt, DeliveryState, Due, Store, StoreError};
use crate::time::{Span, Timestamp};

pub mod event;
pub mod outcome;
pub mod webhook;

/// Attempts under way at once...
const ATTEMPTS_MAX: usize = 64;
/// ...and at one destination, so that a slow one does not hold up the others.
const ATTEMPTS_PER_DESTINATION_MAX: usize = 16;
/// Deliveries are given up after this long.
const GIVE_UP_AFTER: Span = Span::seconds(30 * 3_600);
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// Ends of attempts wait this long for others.
const NOTE_AFTER: Duration = Duration::from_millis(20);
/// A database that does not take them is tried again after this long.
const NOTE_AGAIN: Duration = Duration::from_secs(1);

/// Where deliveries of a kind go.
#[derive(Clone)]
pub enum Carrier {
    /// HTTP endpoints.
    Webhooks(webhook::Sender),
    /// NATS subjects.
    Nats(async_nats::Client),
}

/// Why an attempt failed.
pub struct Failure {
    /// For the operator.
    pub message: String,
    /// Whether trying again is of no use.
    pub is_final: bool,
}

impl Carrier {
    fn kind(&self) -> &'static str {
        match self {
            Carrier::Webhooks(_) => "webhook",
            Carrier::Nats(_) => "nats",
        }
    }

    async fn send(&self, due: &Due) -> Result<(), Failure> {
        match self {
            Carrier::Webhooks(sender) => sender.send(due).await,
            Carrier::Nats(client) => event::send(client, due).await,
        }
    }
}

/// Sends what is due until stopped, then lets the attempts under way end.
pub async fn run(
    store: Store,
    carrier: Carrier,
    mut outbox: watch::Receiver<()>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let attempts = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(ATTEMPTS_MAX));
    let under_way = Arc::new(Mutex::new(UnderWay::default()));
    let (ended, endings) = mpsc::channel(ATTEMPTS_MAX);
    let noting = tokio::spawn(note_all(store.clone(), endings, under_way.clone()));
    while !stop.is_cancelled() {
        let free = permits.available_permits();
        let due = match due(&store, carrier.kind(), free, &under_way).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "cannot read the outbox; trying again");
                Vec::new()
            }
        };
        let more = free > 0 && due.len() == free;
        for due in due {
            if !lock(&under_way).begin(&due) {
                let later = Timestamp::now() + Span::from_micros(500_000);
                let _ = store.postpone(&due.id, later).await;
                continue;
            }
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let (carrier, metrics) = (carrier.clone(), metrics.clone());
            let (under_way, ended) = (under_way.clone(), ended.clone());
            attempts.spawn(async move {
                let attempt = attempt_of(&metrics, &due, carrier.send(&due).await);
                lock(&under_way).leave(&due);
                drop(permit);
                // Whoever notes it ends after all attempts.
                let _ = ended.send(attempt).await;
            });
        }
        if !more {
            let wait = tokio::time::timeout(Duration::from_millis(200), outbox.changed());
            let _ = stop.run_until_cancelled(wait).await;
        } else if permits.available_permits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    attempts.close();
    attempts.wait().await;
    drop(ended);
    let _ = noting.await;
}

/// Notes the ends of attempts, those of a moment together: the database has other things to write.
async fn note_all(store: Store, mut endings: mpsc::Receiver<Attempt>, under_way: Arc<Mutex<UnderWay>>) {
    let mut ended = Vec::new();
    while endings.recv_many(&mut ended, ATTEMPTS_MAX).await > 0 {
        tokio::time::sleep(NOTE_AFTER).await;
        while let Ok(attempt) = endings.try_recv() {
            ended.push(attempt);
        }
        // Until then they stand there as due, and would be made again.
        while let Err(error) = store.attempted(&ended).await {
            tracing::error!(%error, "cannot note the ends of {} deliveries; trying again", ended.len());
            if endings.is_closed() {
                break;
            }
            tokio::time::sleep(NOTE_AGAIN).await;
        }
        let mut under_way = lock(&under_way);
        for attempt in ended.drain(..) {
            under_way.ids.remove(&attempt.id);
        }
    }
}

/// The attempts that are being made.
#[derive(Default)]
struct UnderWay {
    /// Until their end is noted.
    ids: HashSet<String>,
    destinations: HashMap<String, usize>,
}

fn lock(under_way: &Mutex<UnderWay>) -> std::sync::MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl UnderWay {
    /// False if its destination has enough to do.
    fn begin(&mut self, due: &Due) -> bool {
        let count = self.destinations.entry(due.destination.clone()).or_default();
        if *count >= ATTEMPTS_PER_DESTINATION_MAX {
            return false;
        }
        *count += 1;
        self.ids.insert(due.id.clone());
        true
    }

    fn leave(&mut self, due: &Due) {
        if let Some(count) = self.destinations.get_mut(&due.destination) {
            *count -= 1;
            if *count == 0 {
                self.destinations.remove(&due.destination);
            }
        }
    }
}

/// What is due and not under way, at most so many.
async fn due(store: &Store, kind: &str, limit: usize, under_way: &Mutex<UnderWay>) -> Result<Vec<Due>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let known = lock(under_way).ids.clone();
    let mut due = store.due(kind, Timestamp::now(), (limit + known.len()) as i64).await?;
    // An attempt that ended meanwhile may still stand there as due.
    due.retain(|due| !known.contains(&due.id));
    due.truncate(limit);
    Ok(due)
}

/// What the end of an attempt means for its delivery.
fn attempt_of(metrics: &Metrics, due: &Due, result: Result<(), Failure>) -> Attempt {
    let at = Timestamp::now();
    let (state, error) = match result {
        Ok(()) => (DeliveryState::Sent, None),
        Err(failure) if failure.is_final || at.since(due.created_at) > GIVE_UP_AFTER => {
            (DeliveryState::Dead, Some(failure.message))
        }
        Err(failure) => (DeliveryState::Pending, Some(failure.message)),
    };
    let outcome = match state {
        DeliveryState::Sent => "sent",
        DeliveryState::Pending => "failed",
        DeliveryState::Dead => "dead",
    };
    metrics.delivery(&due.kind, outcome);
    if let Some(error) = &error {
        tracing::warn!(destination = due.destination, attempt = due.attempts + 1, "delivery {outcome}: {error}");
    }
    let next = at + Span::from_micros(pause(due.attempts).as_micros() as i64);
    Attempt { id: due.id.clone(), state, at, next, error }
}

/// The time before the next attempt: 1 s, doubling to an hour, give or take a fifth.
fn pause(attempts: i64) -> Duration {
    let seconds = 2f64.powi(attempts.clamp(0, 30) as i32);
    let seconds = seconds.min(PAUSE_MAX.as_secs_f64()) * rand::rng().random_range(0.8..1.2);
    Duration::from_secs_f64(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_go_on_for_a_day() {
        let mut total = Duration::ZERO;
        let mut attempts = 0;
        while total < GIVE_UP_AFTER.to_std() {
            total += pause(attempts);
            attempts += 1;
        }
        assert!(total >= Duration::from_secs(24 * 3_600));
        assert!((25..60).contains(&attempts), "{attempts} attempts");
        let first: Duration = (0..4).map(pause).sum();
        assert!(first < Duration::from_secs(20), "the first attempts come soon: {first:?}");
    }
}
