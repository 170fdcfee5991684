//! Messages on their way from a source to a shard.

use std::sync::{Arc, Mutex, PoisonError};

/// Lists that are kept for their room.
const SPARE_MAX: usize = 8;
/// Bytes that a list may have room for, however few it held.
const ROOM_MAX: usize = 1 << 20;

/// One message of a source: one or more reports.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its place in the source; grows.
    pub position: i64,
    /// The digest of the tenant and the application in its subject; reports must agree.
    pub application: Option<u128>,
    /// Where it came from.
    pub subject: &'a [u8],
    /// Reports.
    pub body: &'a [u8],
}

/// Messages in the order of their source. Their bytes stand in one piece that is used again and
/// again: none has memory of its own, none keeps the buffer that it was received in.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    heads: Vec<Head>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    position: i64,
    application: Option<u128>,
    /// Where its subject begins among the bytes, its body, and the next.
    subject: usize,
    body: usize,
    end: usize,
}

impl Messages {
    /// Adds a message.
    pub fn push(&mut self, message: Message<'_>) {
        let Message { position, application, subject, body } = message;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(subject);
        self.bytes.extend_from_slice(body);
        self.heads.push(Head {
            position,
            application,
            subject: start,
            body: start + subject.len(),
            end: self.bytes.len(),
        });
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The messages.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        self.heads.iter().map(|head| Message {
            position: head.position,
            application: head.application,
            subject: &self.bytes[head.subject..head.body],
            body: &self.bytes[head.body..head.end],
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.heads.clear();
    }
}

/// Lists that were taken in, for their room.
#[derive(Debug, Clone, Default)]
pub struct Spare(Arc<Mutex<Vec<Messages>>>);

impl Spare {
    /// An empty list.
    pub fn take(&self) -> Messages {
        // A list is sound at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes a list back, unless it is much too large for what it held.
    pub fn put(&self, mut messages: Messages) {
        if messages.bytes.capacity() > ROOM_MAX.max(4 * messages.bytes.len()) {
            return;
        }
        messages.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(messages);
        }
    }
}
