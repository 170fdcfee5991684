//! Files of recorded reports, for the commands that read them.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::report::{self, Rejection};

/// Bytes that are read at once...
const BLOCK_BYTES: usize = 64 << 20;
/// ...and decoded at once: for each application enough to pay for bringing its state to mind, but
/// no more in all than caches hold, if there are few.
const PART_BYTES_EACH: usize = 16 << 10;
const PART_BYTES_MIN: usize = 256 << 10;
const PART_BYTES_MAX: usize = 16 << 20;
/// From so many applications on, their state does not fit into caches.
const MANY: usize = 16;
/// Where a report ends and the next begins, even where reports stretch over lines.
const BETWEEN: &[u8] = b"\n{";
/// Lines are rarely shorter.
const LINE_BYTES_MIN: usize = 200;
const REJECTIONS_SHOWN: usize = 10;

/// A file in blocks of whole reports. An array is one block.
pub(super) struct Blocks {
    source: Box<dyn Read>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were handed out already.
    used: usize,
    ended: bool,
}

impl Blocks {
    pub(super) fn open(reports: &Path) -> anyhow::Result<Blocks> {
        let source: Box<dyn Read> = if reports.as_os_str() == "-" {
            Box::new(std::io::stdin())
        } else {
            let name = reports.display();
            Box::new(std::fs::File::open(reports).with_context(|| format!("cannot read {name}"))?)
        };
        Ok(Blocks { source, buffer: Vec::new(), used: 0, ended: false })
    }

    pub(super) fn next(&mut self) -> anyhow::Result<Option<&[u8]>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        while !self.ended {
            if self.buffer.len() == self.buffer.capacity() {
                self.buffer.reserve(BLOCK_BYTES);
            }
            let wanted = (self.buffer.capacity() - self.buffer.len()) as u64;
            let read =
                self.source.by_ref().take(wanted).read_to_end(&mut self.buffer).context("cannot read reports")?;
            self.ended = (read as u64) < wanted;
            let is_array = self.buffer.trim_ascii_start().starts_with(b"[");
            if !is_array && let Some(end) = memchr::memmem::rfind(&self.buffer, BETWEEN) {
                self.used = end + 1;
                return Ok(Some(&self.buffer[..self.used]));
            }
        }
        self.used = self.buffer.len();
        Ok((self.used > 0).then_some(&self.buffer[..]))
    }
}

/// The parts of a block, of whole reports of a number of applications. An array is one part.
pub(super) fn parts(block: &[u8], applications: usize) -> impl Iterator<Item = &[u8]> {
    let bytes = (PART_BYTES_EACH * applications).clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    let mut rest = block;
    let is_array = block.trim_ascii_start().starts_with(b"[");
    std::iter::from_fn(move || {
        let end = rest.get(bytes..).filter(|_| !is_array).and_then(|tail| memchr::memmem::find(tail, BETWEEN));
        let (part, others) = rest.split_at(end.map_or(rest.len(), |at| bytes + at + 1));
        rest = others;
        (!part.is_empty()).then_some(part)
    })
}

/// A line of a block.
pub(super) struct Line<'a> {
    application: u64,
    /// How many stand before it in the block.
    pub place: u32,
    pub bytes: &'a [u8],
}

/// The lines of a block, those of one application together, each application's in their order: then its
/// state is at hand for all of them, and they are when it takes them in. None where there are few
/// applications, or some line does not hold one whole report that says of which application it is.
pub(super) fn by_application(block: &[u8], applications: usize) -> Option<Vec<Line<'_>>> {
    if applications < MANY {
        return None;
    }
    let mut lines = Vec::with_capacity(block.len() / LINE_BYTES_MIN);
    let mut rest = block;
    while !rest.is_empty() {
        let (line, others) = rest.split_at(memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1));
        let bytes = line.trim_ascii();
        if !bytes.is_empty() {
            lines.push(Line { application: report::application_in(bytes)?, place: lines.len() as u32, bytes });
        }
        rest = others;
    }
    lines.sort_unstable_by_key(|line| (line.application, line.place));
    Some(lines)
}

/// How many lines are decoded at once: few, so that they are at hand when they are judged, or more, to be
/// decoded ahead on another core.
pub(super) fn lines_at_once() -> usize {
    if report::is_one_core() { 128 } else { 1_024 }
}

/// Says what was refused, the first ones in full.
#[derive(Default)]
pub(super) struct Rejected {
    pub(super) count: u64,
}

impl Rejected {
    pub(super) fn note(&mut self, before: u64, rejection: &Rejection) {
        self.count += 1;
        if self.count as usize <= REJECTIONS_SHOWN {
            let _ = writeln!(std::io::stderr(), "rejected, after {before} good reports: {rejection}");
        }
    }

    /// Notes lines of a block that began after so many good reports; they come in any order.
    pub(super) fn note_lines(&mut self, before: u64, mut refused: Vec<(u32, Rejection)>) {
        refused.sort_unstable_by_key(|(place, _)| *place);
        for (bad, (place, rejection)) in refused.iter().enumerate() {
            self.note(before + u64::from(*place) - bad as u64, rejection);
        }
    }

    pub(super) fn end(&self) {
        if self.count as usize > REJECTIONS_SHOWN {
            let _ = writeln!(std::io::stderr(), "rejected: {} more", self.count as usize - REJECTIONS_SHOWN);
        }
    }
}

/// A line on the terminal that grows, for runs of more than two seconds.
pub(super) struct Progress {
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { shown: None, on: std::io::stderr().is_terminal() }
    }

    pub(super) fn show(&mut self, reports: u64) {
        let now = Instant::now();
        match self.shown {
            _ if !self.on => {}
            None => self.shown = Some(now + std::time::Duration::from_secs(1)),
            Some(next) if now >= next => {
                let _ = write!(std::io::stderr(), "\r{reports} reports");
                self.shown = Some(now + std::time::Duration::from_millis(200));
            }
            Some(_) => {}
        }
    }

    pub(super) fn end(&self) {
        if self.on && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
