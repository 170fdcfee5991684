//! Reports decoded ahead of their use, on another core.

use std::hint::black_box;
use std::sync::mpsc;

use super::{Rejection, Report, native};

/// Decoded reports and refused ones, in their order; `C` tells where a refused one came from.
/// Used again and again, so that lists keep their room.
pub struct Batch<'a, C> {
    reports: Vec<Report<'a>>,
    kept: usize,
    /// What the next report is decoded into.
    next: Report<'a>,
    /// What was refused: how many good reports stand before it, where it came from, and why.
    pub refused: Vec<(usize, C, Rejection)>,
}

impl<C> Default for Batch<'_, C> {
    fn default() -> Self {
        Batch { reports: Vec::new(), kept: 0, next: Report::default(), refused: Vec::new() }
    }
}

impl<'a, C: Copy> Batch<'a, C> {
    /// The good reports.
    pub fn reports(&self) -> &[Report<'a>] {
        &self.reports[..self.kept]
    }

    /// Decodes a message or file of at most `bytes_max` bytes; good reports must also be admitted,
    /// by themselves and their place in the message.
    pub fn decode(
        &mut self,
        bytes: &'a [u8],
        bytes_max: usize,
        from: C,
        admit: impl Fn(&Report<'a>, usize) -> Result<(), Rejection>,
    ) {
        let mut index = 0;
        let mut report = std::mem::take(&mut self.next);
        native::decode_into(&mut report, bytes, bytes_max, |_, decoded| {
            match decoded.and_then(|report| admit(report, index).map(|()| report)) {
                Ok(report) => {
                    if self.kept == self.reports.len() {
                        self.reports.push(Report::default());
                    }
                    std::mem::swap(&mut self.reports[self.kept], report);
                    self.kept += 1;
                }
                Err(rejection) => self.refused.push((self.kept, from, rejection)),
            }
            index += 1;
        });
        self.next = report;
    }

    fn clear(&mut self) {
        self.kept = 0;
        self.refused.clear();
    }

    /// The same room for reports of other bytes.
    fn renewed<'b, D>(self) -> Batch<'b, D> {
        let reports = self.reports.into_iter().map(Report::renewed).collect();
        Batch { reports, kept: 0, next: self.next.renewed(), refused: Vec::new() }
    }
}

/// Batches that were used, for their room.
#[derive(Default)]
pub struct Spare(Vec<Batch<'static, ()>>);

impl Spare {
    fn take<'a, C: Copy>(&mut self) -> Batch<'a, C> {
        self.0.pop().map(Batch::renewed).unwrap_or_default()
    }

    fn put<C: Copy>(&mut self, batch: Batch<'_, C>) {
        self.0.push(batch.renewed());
    }
}

const CACHE_LINE_BYTES: usize = 64;

/// Brings texts near that lie far from each other, before they are decoded: memory answers many
/// questions at once, but decoding would wait for each answer.
pub fn read_ahead<'a>(texts: impl Iterator<Item = &'a [u8]>) {
    let bytes = texts.flat_map(|text| text.iter().step_by(CACHE_LINE_BYTES));
    black_box(bytes.fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
}

/// Whether there is no other core to decode ahead on.
pub fn is_one_core() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1)
}

/// Fills a batch from each part and hands it to `then`, in the order of the parts. With `ahead`, and
/// where there are several parts, and cores, batches are filled by a thread of its own, a part ahead.
pub fn decode_in_parts<'a, P: Send, C: Copy + Send>(
    spare: &mut Spare,
    ahead: bool,
    parts: impl Iterator<Item = P> + Send,
    fill: impl Fn(P, &mut Batch<'a, C>) + Send,
    mut then: impl FnMut(&Batch<'a, C>),
) {
    let mut parts = parts.peekable();
    let Some(first) = parts.next() else { return };
    if !ahead || parts.peek().is_none() || is_one_core() {
        let mut batch = spare.take();
        for part in std::iter::once(first).chain(parts) {
            batch.clear();
            fill(part, &mut batch);
            then(&batch);
        }
        return spare.put(batch);
    }
    let (full, filled) = mpsc::sync_channel(1);
    let (spent, again) = mpsc::channel::<Batch<'a, C>>();
    while let Some(batch) = spare.0.pop() {
        let _ = spent.send(batch.renewed());
    }
    std::thread::scope(|scope| {
        let filling = scope.spawn(move || {
            for part in std::iter::once(first).chain(parts) {
                let mut batch = again.try_recv().unwrap_or_default();
                batch.clear();
                fill(part, &mut batch);
                if full.send(batch).is_err() {
                    break;
                }
            }
            again
        });
        for batch in filled {
            then(&batch);
            // The other thread may have ended already.
            if let Err(mpsc::SendError(batch)) = spent.send(batch) {
                spare.put(batch);
            }
        }
        drop(spent);
        let again = filling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        again.into_iter().for_each(|batch| spare.put(batch));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;
    use crate::report;

    #[test]
    fn batches_come_in_order_with_what_was_refused() {
        let text = Load { disorder: 0.1, ..Load::default() }.reports(0..1_000);
        let lines: Vec<&str> = text.lines().collect();
        let parts = lines.chunks(90).map(|part| [part, &["{oops"]].concat().join("\n")).collect::<Vec<_>>();
        let (mut times, mut refused) = (Vec::new(), Vec::new());
        decode_in_parts(
            &mut Spare::default(),
            true,
            parts.iter().enumerate(),
            |(number, part), batch| batch.decode(part.as_bytes(), usize::MAX, number, |_, _| Ok(())),
            |batch| {
                times.extend(batch.reports().iter().map(|report| report.time));
                refused.extend(batch.refused.iter().map(|(before, number, _)| (*before, *number)));
            },
        );
        let mut expected = Vec::new();
        report::decode_all(text.as_bytes(), |_, decoded| expected.push(decoded.expect("sound").time));
        assert_eq!(times, expected);
        let sizes = (0..parts.len()).map(|number| (if number == 11 { 10 } else { 90 }, number));
        assert_eq!(refused, sizes.collect::<Vec<_>>());
    }
}
